//! The bundle, format KFX1: records, sealed batches and acks for a carrier that nobody has to trust.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `KFX1` |
//! | 4 | 16 | scope tag |
//! | 20 | 32 | device that exported it |
//! | 52 | 8 | its wall clock, Unix milliseconds |
//! | 60 | 4 | logs in the frontier it begins at, f, at most 10,000 |
//! | 64 | 4 | logs in the frontier it ends at, t, at most 10,000 |
//! | 68 | 4 | chunks, c, at most 65,536 |
//! | 72 | 80 f | begins at: log 40 ‖ seq 8 ‖ link 32, strictly rising by log |
//! | 72 + 80 f | 80 t | ends at: the same form |
//! | 72 + 80 (f + t) | 98 c | chunk entries |
//! | 72 + 80 (f + t) + 98 c | 64 | signature over `BLAKE3("kinfold bundle v1" ‖ bytes before it)` |
//! | … | … | the chunks, one after the other |
//!
//! A chunk entry:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 2 | kind: 1 records, 2 batches, 3 acks, 5 manifests, 6 attestations, 7 chunks of checkpoints; others are skipped |
//! | 2 | 4 | items |
//! | 6 | 4 | bytes, at most 2 MiB |
//! | 10 | 40 | batches: the log; else zero |
//! | 50 | 8 | batches: the position of the first op; else zero |
//! | 58 | 8 | batches: the position of the last op; else zero |
//! | 66 | 32 | `BLAKE3` of the chunk |
//!
//! Integers are big-endian. The signature covers the hash of every chunk, so it covers the whole;
//! and the head comes first, so a file that was cut off says what is missing. Chunks hold what they
//! hold exactly as it was received: batches one after the other, all else (acks are whole frames of kind
//! 5, with the full frontier) each item after its length u32.

mod chunk;
#[cfg(test)]
mod tests;

use thiserror::Error;

pub use chunk::{
    CHUNK_BYTES_MAX, CHUNK_BYTES_WANTED, Chunk, ChunkEntry, ChunkKind, LogRange, acks, attestations, batches,
    chunks, manifests, records,
};

use crate::crypto::{Identity, SignatureError, verify};
use crate::model::limits::LOGS_MAX;
use crate::model::{Blame, DeviceId, LogId, ScopeTag, Seq, Tip, TipHash, Wall};

/// Bytes that are no bundle, or not the one that was signed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Fewer bytes than the head has.
    #[error("the head of the bundle has {needed} bytes, {found} are there; copy the file again")]
    TooShort {
        /// Bytes the head has, as far as it can be told.
        needed: usize,
        /// Bytes found.
        found: usize,
    },
    /// Does not begin with `KFX`.
    #[error("not a bundle: the first four bytes are {found:02x?}")]
    Magic {
        /// The bytes found.
        found: [u8; 4],
    },
    /// Written in a later form.
    #[error("a bundle of form {}, this kinfold reads form 1; update this program", char::from(*found))]
    Newer {
        /// The last byte of the magic.
        found: u8,
    },
    /// More logs or chunks than a bundle has.
    #[error("{found} {what} exceed the limit of {limit}")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many.
        found: u32,
        /// The most.
        limit: u32,
    },
    /// A frontier whose logs do not rise, or with an impossible place.
    #[error("the frontiers in the head of the bundle are malformed")]
    Frontier,
    /// An entry says what no chunk can be.
    #[error("entry {index} of the head of the bundle is malformed")]
    Entry {
        /// Which, from 0.
        index: u32,
    },
    /// The head is not what the exporting device signed.
    #[error("the head of the bundle is not what its device signed; copy the file again")]
    Signature(#[source] SignatureError),
    /// A chunk is not the one whose hash was signed.
    #[error("a part of the bundle is not what its device signed")]
    ChunkHash,
    /// A chunk has the hash that was signed, but does not hold what its entry says.
    #[error("a part of the bundle does not hold what its head says")]
    ChunkForm,
}

impl BundleError {
    /// Whose fault it is: the carrier's or the exporter's, never this device's.
    pub const fn blame(&self) -> Blame {
        Blame::Peer
    }
}

/// What a bundle says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BundleHead {
    /// The space.
    pub scope: ScopeTag,
    /// Who exported it.
    pub exporter: DeviceId,
    /// When, by the exporter's clock.
    pub wall: Wall,
    /// What its receiver is taken to hold.
    pub from: Vec<(LogId, Tip)>,
    /// What its receiver holds with it.
    pub to: Vec<(LogId, Tip)>,
    /// Its chunks, in order.
    pub chunks: Vec<ChunkEntry>,
}

impl BundleHead {
    /// Bytes that tell how long the head is.
    pub const FIXED_BYTES: usize = 72;

    /// Bytes of the longest head.
    pub const BYTES_MAX: usize =
        Self::FIXED_BYTES + 2 * LOGS_MAX * TIP_BYTES + CHUNKS_MAX * ChunkEntry::BYTES + SIGNATURE_BYTES;

    /// How long the head is that begins like this.
    ///
    /// # Errors
    /// [`BundleError::TooShort`], [`BundleError::Magic`], [`BundleError::Newer`],
    /// [`BundleError::TooMany`].
    pub fn bytes_of(begin: &[u8]) -> Result<usize, BundleError> {
        let magic = begin.first_chunk::<4>();
        match magic {
            Some(magic) if magic == MAGIC => {}
            Some([b'K', b'F', b'X', found @ b'2'..=b'9']) => {
                return Err(BundleError::Newer { found: *found });
            }
            Some(found) => return Err(BundleError::Magic { found: *found }),
            None => return Err(BundleError::TooShort { needed: Self::FIXED_BYTES, found: begin.len() }),
        }
        if begin.len() < Self::FIXED_BYTES {
            return Err(BundleError::TooShort { needed: Self::FIXED_BYTES, found: begin.len() });
        }
        let logs = |at| count(begin, at, "logs", LOGS_MAX);
        let (from, to, chunks) = (logs(60)?, logs(64)?, count(begin, 68, "parts", CHUNKS_MAX)?);
        Ok(Self::FIXED_BYTES + (from + to) * TIP_BYTES + chunks * ChunkEntry::BYTES + SIGNATURE_BYTES)
    }

    /// Reads a head and checks its device's signature.
    ///
    /// # Errors
    /// Every variant of [`BundleError`] but those about chunks.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let needed = Self::bytes_of(bytes)?;
        let bytes = bytes.get(..needed).ok_or(BundleError::TooShort { needed, found: bytes.len() })?;
        let (said, signature) = bytes.split_at(needed - SIGNATURE_BYTES);
        let exporter = DeviceId::from_bytes(take(said, 20));
        verify(&exporter, &signed_hash(said), &take(signature, 0)).map_err(BundleError::Signature)?;
        let (from, to) = (number(said, 60), number(said, 64));
        let (begins, rest) = said[Self::FIXED_BYTES..].split_at(from * TIP_BYTES);
        let (ends, entries) = rest.split_at(to * TIP_BYTES);
        let chunks = entries.chunks_exact(ChunkEntry::BYTES).zip(0..);
        Ok(Self {
            scope: ScopeTag::from_bytes(take(said, 4)),
            exporter,
            wall: Wall::from_millis(u64::from_be_bytes(take(said, 52))),
            from: tips(begins)?,
            to: tips(ends)?,
            chunks: chunks.map(|(entry, index)| ChunkEntry::parse(entry, index)).collect::<Result<_, _>>()?,
        })
    }

    /// Signs a head; its exporter is the identity's device, whatever `self` says.
    ///
    /// # Errors
    /// [`BundleError::TooMany`].
    pub fn sign(&self, identity: &Identity) -> Result<Vec<u8>, BundleError> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(self.scope.as_bytes());
        bytes.extend_from_slice(identity.device().as_bytes());
        bytes.extend_from_slice(&self.wall.as_millis().to_be_bytes());
        for count in [self.from.len(), self.to.len(), self.chunks.len()] {
            bytes.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
        }
        // Refused here as it would be where it is read.
        Self::bytes_of(&bytes)?;
        for (log, tip) in self.from.iter().chain(&self.to) {
            bytes.extend_from_slice(&log.to_bytes());
            bytes.extend_from_slice(&tip.seq.get().to_be_bytes());
            bytes.extend_from_slice(tip.hash.as_bytes());
        }
        self.chunks.iter().for_each(|entry| entry.write(&mut bytes));
        let signature = identity.sign(&signed_hash(&bytes));
        bytes.extend_from_slice(&signature);
        Ok(bytes)
    }
}

fn signed_hash(said: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"kinfold bundle v1");
    hasher.update(said);
    *hasher.finalize().as_bytes()
}

fn count(bytes: &[u8], at: usize, what: &'static str, limit: usize) -> Result<usize, BundleError> {
    let found = number(bytes, at);
    let as_u32 = |number| u32::try_from(number).unwrap_or(u32::MAX);
    if found <= limit {
        Ok(found)
    } else {
        Err(BundleError::TooMany { what, found: as_u32(found), limit: as_u32(limit) })
    }
}

/// A u32 that the caller knows to be there.
fn number(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u32::from_be_bytes(take(bytes, at))).unwrap_or(usize::MAX)
}

fn tips(bytes: &[u8]) -> Result<Vec<(LogId, Tip)>, BundleError> {
    let mut tips: Vec<(LogId, Tip)> = Vec::with_capacity(bytes.len() / TIP_BYTES);
    for entry in bytes.chunks_exact(TIP_BYTES) {
        let log = LogId::from_bytes(&take(entry, 0));
        let seq = Seq::new(u64::from_be_bytes(take(entry, 40)));
        let is_rising = tips.last().is_none_or(|(before, _)| *before < log);
        if !is_rising || seq == Seq::ZERO {
            return Err(BundleError::Frontier);
        }
        tips.push((log, Tip { seq, hash: TipHash::from_bytes(take(entry, 48)) }));
    }
    Ok(tips)
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}

/// Most chunks of one bundle: at a mebibyte each, far beyond what is carried by hand.
pub const CHUNKS_MAX: usize = 65_536;

const MAGIC: &[u8; 4] = b"KFX1";
const TIP_BYTES: usize = 80;
const SIGNATURE_BYTES: usize = 64;
