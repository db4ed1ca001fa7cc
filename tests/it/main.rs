//! The integration tests, one binary.

mod cli;
mod corpus;
mod golden;
mod kin;
mod layers;
mod pair;
mod socket;
