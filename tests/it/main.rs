//! The integration tests, one binary.

mod cli;
mod corpus;
mod golden;
mod history;
mod kin;
mod layers;
mod pair;
mod peers;
mod socket;
