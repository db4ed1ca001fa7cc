//! The integration tests, one binary.

mod canary;
mod cli;
mod corpus;
mod crash;
mod floors;
mod golden;
mod history;
mod kin;
#[cfg(target_os = "linux")]
mod lan;
mod layers;
mod members;
mod pair;
mod peers;
mod socket;
