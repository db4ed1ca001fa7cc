//! Peer-to-peer sync: the devices of one person or organisation arrive at one state, without a server.

pub mod crypto;
pub mod fold;
pub mod model;
pub mod oplog;
pub mod sync;
pub mod wire;
