//! The machines, rule by rule.

mod bench;
mod client;
mod register;
