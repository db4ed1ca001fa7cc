//! What lies on disk under this device's own key.

use std::io;

use zeroize::Zeroizing;

use super::error::{Part, StoreError};
use super::tables::draft_context;
use crate::crypto::vault;
use crate::model::{LogId, Seq, SpaceId};
use crate::sync::DraftGroup;
use crate::wire::body::BodyReader;

/// The key under which this device seals what stays on it.
pub(super) struct Vaults(Zeroizing<[u8; 32]>);

impl Vaults {
    pub(super) fn new(local_key: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*local_key))
    }

    pub(super) fn seal(&self, context: &[u8], plaintext: &[u8]) -> io::Result<Vec<u8>> {
        Ok(vault::seal(&self.0, context, &fresh()?, plaintext))
    }

    pub(super) fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        vault::open(&self.0, context, sealed).ok().map(Zeroizing::new)
    }

    /// Opens a row of the drafts table; what comes out is a whole body.
    pub(super) fn open_drafts(
        &self,
        space: &SpaceId,
        log: &LogId,
        first: Seq,
        sealed: &[u8],
    ) -> Result<DraftGroup, StoreError> {
        let damaged = || StoreError::damaged(Part::Drafts { log: *log, first });
        let plain = self.open(&draft_context(space, log, first), sealed).ok_or_else(damaged)?;
        let (op_count, body) = plain.split_first_chunk::<4>().ok_or_else(damaged)?;
        let op_count = u32::from_be_bytes(*op_count);
        BodyReader::check(body, first, op_count).ok().filter(|()| op_count > 0).ok_or_else(damaged)?;
        Ok(DraftGroup { log: *log, first, op_count, body: body.to_vec() })
    }
}

/// Random bytes from the operating system.
pub(super) fn fresh<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}
