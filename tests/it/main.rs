//! The integration tests, one binary.

mod agents;
mod agreement;
#[cfg(target_os = "linux")]
mod asleep;
mod audited;
mod beginnings;
mod blind;
mod buckets;
mod bundles;
mod canary;
mod carried;
mod checkpoints;
mod cli;
mod clients;
mod clones;
mod conversation;
mod corpus;
mod crash;
mod doctor;
mod drawer;
mod dropbox;
mod epochs;
#[cfg(target_os = "linux")]
mod fleet;
mod floors;
mod follow;
mod gc;
mod golden;
mod history;
mod keeping;
mod kin;
#[cfg(target_os = "linux")]
mod lan;
mod layers;
mod lease_run;
mod leases;
mod ledger;
mod lifecycle;
mod living;
mod members;
mod migration;
mod pair;
mod pairing;
mod past;
mod peers;
mod rebase;
mod recording;
mod refusals;
mod revoked;
mod rounds;
mod rpc;
mod schema;
mod settling;
mod silent;
mod socket;
mod talk;
mod terminal;
mod trimmed;
mod typed;
mod verify;
#[cfg(target_os = "linux")]
mod weather;
mod websocket;
