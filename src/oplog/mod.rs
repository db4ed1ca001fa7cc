//! Chain rules of logs and the writer of the own log.
//!
//! Owns what a log is: numbered ops, sealed into batches that name their predecessor. Must never
//! decide who may write (that is `roster`) or whom to tell (that is `sync`). See `manual/formats.md`.

pub mod author;
pub mod chain;
pub mod fork;

pub use author::{Author, AuthorError, DraftOp, Seen};
pub use chain::{AdmitError, Admitted, LogChain, VerifiedBatch};
pub use fork::{ForkError, ForkProof};
