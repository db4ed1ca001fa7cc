//! The integration tests, one binary.

mod cli;
mod corpus;
mod kin;
#[cfg(target_os = "linux")]
mod lan;
mod layers;
mod pair;
mod socket;
