//! Peer-to-peer sync: the devices of one person or organisation arrive at one state, without a server.

pub mod crypto;
pub mod model;
#[cfg(feature = "node")]
pub mod store;
pub mod sync;
pub mod wire;
