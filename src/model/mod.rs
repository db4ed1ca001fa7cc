//! The vocabulary: identifiers, time, ops, surfaces, frontiers and the named limits.
//!
//! Owns no behaviour beyond parsing, ordering and text forms. Must never do I/O, read a clock or
//! draw entropy. Read [`op`] next, then `oplog`.

pub mod blame;
pub mod frontier;
pub mod id;
pub mod json;
pub mod lease;
pub mod limits;
pub mod nearest;
pub mod op;
mod positions;
pub mod surface;
pub mod time;

pub use blame::Blame;
pub use frontier::{Frontier, Tip};
pub use id::{
    CertHash, DeviceId, Dot, IdError, Incarnation, KeyId, LogId, OpId, RecordHash, Root, ScopeTag, Seq,
    SpaceId, TipHash,
};
pub use json::{Payload, PayloadError};
pub use lease::{AgentId, IntentStatus, LeaseEpoch, LeaseNameError, RunId, intent_key, split_intent_key};
pub use op::{Op, OpKind};
pub use positions::{Positions, PositionsError};
pub use surface::{Scope, ScopeError, Surface, SurfaceError, Tier};
pub use time::{Hlc, Now, Wall};
