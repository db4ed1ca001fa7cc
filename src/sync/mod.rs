//! The engine: sessions, gossip, pushes, acks. One pure entry point, `step(now, input) → effects`.
//!
//! Owns the decisions. Must never do I/O: shells perform the effects and report back. Durability
//! is data: the engine emits a [`Txn`] and acknowledges, sends or answers only what
//! [`Input::Persisted`] has named. Read `manual/sync.md` beside it.

mod ack;
mod append;
mod base;
mod deliver;
pub mod effect;
mod engine;
mod fallen;
mod fork;
pub mod gc;
mod heal;
mod hold;
mod ingest;
mod join;
mod keys;
mod lease;
mod members;
mod session;
mod silence;
mod space;
mod stable;
mod strays;
pub mod txn;
mod unmet;
mod view;

pub use base::BaseRefused;
pub use effect::{
    Authored, Deadline, DeadlineReason, Delivered, Delivery, Effect, FoldRun, GivenBack, Input, JoinError,
    NotTaken, Notice, PeerId, Placed, Refusal, RequestError, RosterChange, Stored, Stray, Token, WhyNotTaken,
};
pub use engine::{Engine, EngineError};
pub use gc::{GcHold, GcStanding};
pub use lease::{Driving, LeaseView};
pub use silence::{Silence, SilentDays};
pub use stable::Divergence;
pub use strays::StraySearch;
pub use txn::{Base, BaseKind, DraftGroup, Loaded, LoadedLease, LoadedSpace, Txn, TxnId, Write};
pub use view::{AckView, Carry, Counters, PeerView, SpaceView};
