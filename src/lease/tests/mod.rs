//! The machines, rule by rule.

mod bench;
mod client;
mod designation;
mod form;
mod refusals;
mod register;
mod rules;
