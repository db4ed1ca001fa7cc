//! The engine: sessions, gossip, pushes, acks. One pure entry point, `step(now, input) → effects`.
//!
//! Owns the decisions. Must never do I/O: shells perform the effects and report back. Durability
//! is data: the engine emits a [`Txn`] and acknowledges, sends or answers only what `Persisted`
//! has named.

pub mod txn;

pub use txn::{DraftGroup, Loaded, LoadedSpace, Txn, TxnId, Write};
