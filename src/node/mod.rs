//! The running node: one thread owns the engine, everything else talks to it.
//!
//! Owns the lifecycle, the home directory and the wiring of engine, store, fold state and network.
//! Must never decide anything about replication itself. [`Node`] is where an application begins;
//! `core` is the loop that performs the engine's effects.

mod core;
mod error;
mod handle;
mod home;
mod index;
#[cfg_attr(not(test), expect(dead_code, reason = "asked when opening a home can begin new logs"))]
mod marker;
mod read;
mod status;
mod types;

pub use error::NodeError;
pub use handle::{Node, NodeBuilder, Space};
pub use types::{
    Appended, Change, ConnectionRefusal, Custody, DeviceStatus, HealthReason, NewOp, Round, Row, RowValue,
    SafeToSleep, Status, StreamEvent,
};
