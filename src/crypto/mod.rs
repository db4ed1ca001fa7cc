//! Batch sealing and opening, keys and signatures.
//!
//! Owns every cryptographic construction and its byte layout (golden vectors in `tests/data`).
//! Must never draw entropy itself: callers pass it in. Read `manual/formats.md` beside it.

pub mod batch;
pub mod beacon;
pub mod chunk;
pub mod identity;
pub mod key;
pub mod pairing;
pub mod seal;
pub mod vault;

pub use batch::{BatchError, BatchHeader, ForkWitness, SealedBatch};
pub use identity::{Identity, SignatureError, verify};
pub use key::EpochKey;
pub use seal::{OpenError, Opener, SealInput, Sealer};
