//! Peer-to-peer sync: the devices of one person or organisation arrive at one state, without a server.

pub mod crypto;
pub mod fold;
pub mod manual;
pub mod model;
pub mod oplog;
pub mod roster;
#[cfg(any(feature = "sim", test))]
pub mod sim;
pub mod sync;
pub mod wire;

#[cfg(feature = "node")]
pub mod clock;
#[cfg(feature = "node")]
pub mod control;
#[cfg(feature = "node")]
pub mod net;
#[cfg(feature = "node")]
pub mod node;
#[cfg(feature = "node")]
pub mod store;

#[cfg(feature = "node")]
pub use node::{Custody, Node};
