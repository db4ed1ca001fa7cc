//! Pairing: two devices that share a short code prove it to each other and get a key nobody between
//! them has.
//!
//! Owns the code, the book-keeping of an invite and the exchange as values without I/O. Must never
//! draw entropy, and must never answer differently for a wrong code than for a relay in between.
//!
//! SPAKE2 over Ed25519 (crate `spake2`; Abdalla and Pointcheval, RSA 2005) lets each side test one
//! guess per run. The transcript binds the run to both device keys and to the TLS connection it
//! travels over, so whoever forwards the frames between two connections of its own fails on both.
//!
//! ```text
//! joiner  → inviter   hello   invite, kind of secret, nonce, name, pA
//! inviter → joiner    answer  nonce, name, terms, pB          (the attempt is counted before)
//! joiner  → inviter   confirm
//! inviter → joiner    confirm, sealed welcome                 (the device is enrolled before)
//! joiner  → inviter   done
//! ```
//!
//! `TR` is these parts in this order, each behind its length as u32 big-endian: version u8, invite
//! id (2 characters), kind of secret u8, inviter's key 32, joiner's key 32, `E` 32 (the TLS
//! exporter), joiner's nonce 32, inviter's nonce 32, joiner's name, inviter's name, `pA` 33, `pB`
//! 33, role u8, scope.
//!
//! | value | is |
//! |---|---|
//! | password | `BLAKE3.derive_key("kinfold pair secret v1", kind u8 ‖ invite id 2 ‖ secret)` |
//! | SPAKE2 identities | joiner's key as A, inviter's key as B |
//! | `K` | `BLAKE3.derive_key("kinfold pair v1", SPAKE2 key 32 ‖ TR)` |
//! | joiner's confirm | `BLAKE3.keyed(K)("joiner confirms")` |
//! | inviter's confirm | `BLAKE3.keyed(K)("inviter confirms")` |
//! | welcome | a [`vault`](super::vault) blob under `BLAKE3.keyed(K)("welcome")`, context `"kinfold welcome v1"` |
//! | phrase | four words, one per byte of `BLAKE3.keyed(K)("phrase")[..4]` |
//!
//! Frames are in [`crate::wire`]'s module `pairing`; threats in manual/threats.md.

pub mod code;
pub mod exchange;
pub mod invite;
pub mod phrase;

pub use code::{Code, CodeError, InviteId, Secret, SecretKind};
pub use exchange::{
    Answer, Confirm, Hello, Inviter, Joiner, NameError, Paired, PairingError, PairingName, Parties,
    SHARE_BYTES, Session, Terms, VERSION, Waiting,
};
pub use invite::{ATTEMPTS, FAILURES_MAX, FailureLock, Invite, Refusal, Standing, TTL};
pub use phrase::Phrase;
