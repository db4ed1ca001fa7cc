//! The integration tests, one binary.

mod agents;
mod agreement;
mod blind;
mod bundles;
mod canary;
mod cli;
mod clients;
mod clones;
mod conversation;
mod corpus;
mod crash;
mod dropbox;
mod epochs;
mod floors;
mod follow;
mod golden;
mod history;
mod kin;
#[cfg(target_os = "linux")]
mod lan;
mod layers;
mod ledger;
mod living;
mod members;
mod pair;
mod pairing;
mod past;
mod peers;
mod revoked;
mod rpc;
mod schema;
mod settling;
mod socket;
mod talk;
mod typed;
mod websocket;
