//! The integration tests, one binary.

mod cli;
mod corpus;
mod kin;
mod pair;
mod socket;
