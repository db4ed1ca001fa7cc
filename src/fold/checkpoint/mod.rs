//! A state and everything it points at, as the plain pieces of a checkpoint.
//!
//! Equal sets of ops give equal pieces on every device: first what the state knows beside the ops it points at,
//! cut into pieces of [`CHUNK_BYTES`](crate::wire::checkpoint::CHUNK_BYTES); then those ops, whole, in rising
//! order of the places where they stand, column by column ([`OpPiece`]). The rows, facts, streams and runs are
//! not written: they are what their ops say. What none of them points at any more is left behind: values that
//! were replaced.
//!
//! | of the state itself | |
//! |---|---|
//! | 4 | magic `KFC1` |
//! | 4 | fold version, u32 BE |
//! | 32 | space |
//! | | unknown count, malformed count, log count |
//! | 40 each | logs, strictly rising, numbered from 0 |
//! | | for each log: the position up to which it is applied |
//! | | how many ops there are |
//! | | how many ops were written again; for each: 2 · log number + is tombstone, seq, hlc u64 BE, row tag u64 BE, log number and seq of where it stands; strictly rising by (log, seq, hlc, tombstone, row) |
//! | | how many facts and intents were written again; for each, strictly rising by these bytes: kind u8, lengths and texts of surface and key, log number, seq, hlc u64 BE; of a fact its content hash 16, and how many facts it supersedes, each its length and text, rising; of an intent its status u8, epoch u64 BE and certificate 32 |
//! | | for each log: how many places of it are covered; for each, rising, its seq less the one before |
//! | | for each covered place: how far it is to the next one of its row, in the order of these places and then of the heads of registry rows by where they stand; 0 where none follows |
//! | 8 each | for each 0: the tag of the row, u64 BE |
//!
//! Numbers without a width are LEB128 in their shortest form. A row tag is as in
//! [`snapshot`](super::snapshot).

mod head;
mod numbers;
mod ops;
mod restore;

use thiserror::Error;

pub use self::ops::{HeldOp, OpPiece, OpPieces, OpRecord, ops_of};
pub use self::restore::{StateOps, StatePieces};
use crate::model::{Blame, Dot};

/// An op that a state points at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Pointed {
    /// Where it stands.
    pub place: Dot,
    /// Whether it came to a row whose removal was laid down before.
    pub is_late: bool,
    /// Whether the state itself tells what it says: a fact or an intent that was written again. Two lives of a
    /// device may give one place and stamp to two of them, and then only one can be read where they stand.
    pub is_told: bool,
}

/// Pieces that are not those of a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum PieceError {
    /// They begin otherwise.
    #[error("not the pieces of a state: they begin with {found:02x?}")]
    Magic {
        /// The first bytes.
        found: [u8; 4],
    },
    /// Written under other rules: the state means something else.
    #[error("the pieces are of fold version {found}, this kinfold folds version {expected}")]
    FoldVersion {
        /// [`FOLD_VERSION`](super::FOLD_VERSION).
        expected: u32,
        /// The version found.
        found: u32,
    },
    /// Cut short, or with a value that no state has.
    #[error("the pieces of a state break their form")]
    Form,
    /// An op out of order, or one that the state does not point at.
    #[error("the op at {}:{} does not belong to the state", .place.log, .place.seq.get())]
    Op {
        /// Where it stands.
        place: Dot,
    },
    /// Fewer ops than the state points at.
    #[error("{missing} ops of the state are missing")]
    OpsMissing {
        /// How many.
        missing: u64,
    },
    /// Places that are covered on other rows than the ops say.
    #[error("what the state has replaced does not fit its ops")]
    Covered,
}

impl PieceError {
    /// Whose fault it is: whoever made the checkpoint, always.
    pub const fn blame(&self) -> Blame {
        Blame::Peer
    }
}

/// Hashes the pieces of a checkpoint as they are made: `BLAKE3("kinfold content v1" ‖ [piece length u32 BE ‖
/// piece])`.
#[derive(Clone)]
pub struct ContentHasher(blake3::Hasher);

impl Default for ContentHasher {
    fn default() -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"kinfold content v1");
        Self(hasher)
    }
}

impl ContentHasher {
    /// Takes the next piece.
    pub fn piece(&mut self, piece: &[u8]) {
        let length = u32::try_from(piece.len()).expect("chunks and ops are far smaller");
        self.0.update(&length.to_be_bytes());
        self.0.update(piece);
    }

    /// The hash of all of them.
    pub fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

const MAGIC: &[u8; 4] = b"KFC1";

#[cfg(test)]
pub(in crate::fold) mod tests;
