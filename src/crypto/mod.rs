//! Batch sealing and opening, keys and signatures.
//!
//! Owns every cryptographic construction and its byte layout (golden vectors in `tests/data`).
//! Must never draw entropy itself: callers pass it in. Read `manual/formats.md` beside it.

pub mod beacon;
pub mod identity;
