//! Ops → state, as pure data: rows, facts and streams, their heads and conflicts, the root, the
//! index snapshot.
//!
//! Owns the meaning of ops. The state is a pure function of the *set* of ops applied, whatever the
//! order in which logs interleave; it holds no payloads, only where they are (log, position, stamp).
//! Must never read a clock, draw entropy, do I/O, or let an internal log number reach a result.
//!
//! | op | folds into |
//! |---|---|
//! | `Put`, `Delete` on a registry surface | rows: the ops of a row that no other op of it names |
//! | `Fact` on a fact surface | facts: per distinct content its least op, the least of all wins |
//! | `Event` on an event surface | events: a set by place and stamp, read in total order |
//! | `Intent` | runs of agents: every intent, judged by tokens when it is read ([`RunView`]) |
//! | `Reissue` | the op within, as if it stood at its first place; at whatever number of places, once |
//! | a kind, flag or surface of a later version | kept and counted as unknown |
//! | a body that breaks its rules, a kind on a surface of another tier | kept and counted as malformed |
//!
//! The total order over ops is (hlc, device, incarnation, seq), everywhere. Read [`State`] next,
//! then [`root`] for what is hashed, [`snapshot`] for the stored form and [`conversation`] for turns.

pub mod checkpoint;
pub mod conversation;
mod covered;
mod events;
mod facts;
mod key;
mod known;
mod ledger;
mod logs;
mod query;
#[cfg(test)]
mod reference;
mod relocated;
pub mod retention;
pub mod root;
mod rows;
mod runs;
mod settled;
pub mod snapshot;
mod state;
mod tables;
mod trim;
pub mod verify;

pub use query::{Conflict, Counts, Event, Head, ListedRow, RowFilter, RowView, Seen, SurfaceCounts};
pub use retention::{Policy, PolicyError};
pub use root::FOLD_VERSION;
pub use runs::{IntentView, Lineage, NoChain, Objection, PlacedToken, RunStatus, RunView, Standing};
pub use settled::{OpName, RESOLUTIONS, resolution_key, resolutions};
pub use snapshot::{SnapshotError, StateBuilder};
pub use state::{Applied, Change, State};
pub use trim::{LaidDown, PayloadAt};
