//! The tables of the store file and the byte layouts of their rows.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | name | see the constants below |
//! | `spaces` | space index u32 | space 32 ‖ active u8 ‖ own log 40 ‖ carried over u64 BE ‖ dropped u64 BE ‖ scope text |
//! | `logs` | space index u32, log index u32 | log 40 |
//! | `tips` | space index, log index | seq u64 BE ‖ link 32 |
//! | `batches` | space index, log index, seq u64 | one or more consecutive sealed batches; the key is the first op's position |
//! | `drafts` | space index, log index, seq u64 | vault(op count u32 BE ‖ body) |
//! | `records` | space index, record hash 32 | as received |
//! | `acks` | space index, device 32 | as received |
//! | `keys` | space index, key id 16 | vault(key 32) |
//! | `forks` | space index, log index | two witnesses |
//!
//! A row of a space written before ops could be dropped has no count of them: its scope begins at
//! byte 81, with a letter that no such count begins with.
//!
//! Spaces and logs have small numbers of this store's own, given in order of appearance and never
//! reused, so that a key of the large table is 16 bytes instead of 80. The vault's context is the
//! table's name and the full ids, never these numbers.

use redb::TableDefinition;

use super::error::{Part, StoreError};
use crate::model::{LogId, Scope, Seq, SpaceId, Tip, TipHash};

/// A space within its store.
pub(super) type SpaceIx = u32;
/// A log within its store.
pub(super) type LogIx = (SpaceIx, u32);
/// A place in a log within its store.
pub(super) type PlaceIx = (SpaceIx, u32, u64);

pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const SPACES: TableDefinition<'_, SpaceIx, &[u8]> = TableDefinition::new("spaces");
pub(super) const LOGS: TableDefinition<'_, LogIx, [u8; 40]> = TableDefinition::new("logs");
pub(super) const TIPS: TableDefinition<'_, LogIx, [u8; 40]> = TableDefinition::new("tips");
pub(super) const BATCHES: TableDefinition<'_, PlaceIx, &[u8]> = TableDefinition::new("batches");
pub(super) const DRAFTS: TableDefinition<'_, PlaceIx, &[u8]> = TableDefinition::new("drafts");
pub(super) const RECORDS: TableDefinition<'_, (SpaceIx, [u8; 32]), &[u8]> = TableDefinition::new("records");
pub(super) const ACKS: TableDefinition<'_, (SpaceIx, [u8; 32]), &[u8]> = TableDefinition::new("acks");
pub(super) const KEYS: TableDefinition<'_, (SpaceIx, [u8; 16]), &[u8]> = TableDefinition::new("keys");
pub(super) const FORKS: TableDefinition<'_, LogIx, &[u8]> = TableDefinition::new("forks");

/// The format version, u32 BE.
pub(super) const META_FORMAT: &str = "format";
/// 16 random bytes that tell this store from every other.
pub(super) const META_STORE_ID: &str = "store id";
/// vault(nothing): opens under the key this store was made with.
pub(super) const META_KEY_CHECK: &str = "key check";
/// How many transactions were committed, u64 BE: settles whether one in doubt was.
pub(super) const META_COMMITS: &str = "commits";

/// The format written here.
pub(super) const FORMAT: u32 = 1;

/// The row of a space.
#[derive(Clone, Debug)]
pub(super) struct SpaceRow {
    pub(super) space: SpaceId,
    pub(super) is_active: bool,
    pub(super) own_log: LogId,
    pub(super) carried: Seq,
    /// How many ops were ever dropped: snapshots are bound to it.
    pub(super) dropped: u64,
    pub(super) scope: Scope,
}

impl SpaceRow {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let scope = self.scope.to_string();
        let mut bytes = Vec::with_capacity(SPACE_FIXED_BYTES + 8 + scope.len());
        bytes.extend_from_slice(self.space.as_bytes());
        bytes.push(u8::from(self.is_active));
        bytes.extend_from_slice(&self.own_log.to_bytes());
        bytes.extend_from_slice(&self.carried.get().to_be_bytes());
        bytes.extend_from_slice(&self.dropped.to_be_bytes());
        bytes.extend_from_slice(scope.as_bytes());
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::damaged(Part::Row { table: "spaces" });
        let (fixed, rest) = bytes.split_first_chunk::<SPACE_FIXED_BYTES>().ok_or_else(damaged)?;
        let (dropped, scope) = match rest.split_first_chunk::<8>() {
            Some((count, scope)) if !count[0].is_ascii_alphabetic() => (u64::from_be_bytes(*count), scope),
            _ => (0, rest),
        };
        let scope = std::str::from_utf8(scope).ok().and_then(|text| text.parse().ok()).ok_or_else(damaged)?;
        let (space, rest) = fixed.split_first_chunk::<32>().expect("32 < 81");
        let (active, own_log) = rest.split_first_chunk::<1>().expect("1 < 49");
        if active[0] > 1 {
            return Err(damaged());
        }
        let (own_log, carried) = own_log.split_first_chunk::<40>().expect("40 < 48");
        let carried: [u8; 8] = carried.try_into().expect("48 - 40 is 8");
        Ok(Self {
            space: SpaceId::from_bytes(*space),
            is_active: active[0] == 1,
            own_log: LogId::from_bytes(own_log),
            carried: Seq::new(u64::from_be_bytes(carried)),
            dropped,
            scope,
        })
    }
}

pub(super) fn tip_bytes(tip: Tip) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[..8].copy_from_slice(&tip.seq.get().to_be_bytes());
    bytes[8..].copy_from_slice(tip.hash.as_bytes());
    bytes
}

pub(super) fn parse_tip(bytes: &[u8; 40]) -> Tip {
    let (seq, hash) = bytes.split_at(8);
    Tip {
        seq: Seq::new(u64::from_be_bytes(seq.try_into().expect("split at 8"))),
        hash: TipHash::from_bytes(hash.try_into().expect("40 - 8 is 32")),
    }
}

/// What a draft group's vault is bound to.
pub(super) fn draft_context(space: &SpaceId, log: &LogId, first: Seq) -> Vec<u8> {
    [&b"drafts"[..], space.as_bytes(), &log.to_bytes(), &first.get().to_be_bytes()].concat()
}

/// What an epoch key's vault is bound to.
pub(super) fn key_context(space: &SpaceId, key_id: &[u8; 16]) -> Vec<u8> {
    [&b"keys"[..], space.as_bytes(), key_id].concat()
}

/// What the key check's vault is bound to.
pub(super) fn key_check_context(store_id: &[u8; 16]) -> Vec<u8> {
    [&b"key check"[..], store_id].concat()
}

const SPACE_FIXED_BYTES: usize = 32 + 1 + 40 + 8;
