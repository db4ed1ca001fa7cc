//! Peer-to-peer sync: the devices of one person or organisation arrive at one state, without a server.

pub mod crypto;
pub mod manual;
pub mod model;
pub mod roster;
pub mod sync;
pub mod wire;
