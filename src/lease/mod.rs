//! Leases: who runs an agent now, as pure state machines.
//!
//! Owns the register of a host ([`Register`]), a daemon's side of a lease ([`Client`]), the
//! decision before every dispatch ([`fence()`]), and how the host is designated
//! ([`Designation`], [`Chain`]). A lease is for liveness; only the fence is for safety. Must never
//! read a clock, draw entropy, or answer what is not durable. Read `manual/lease.md`.

mod bytes;
pub mod cert;
pub mod chain;
pub mod client;
pub mod designation;
pub mod fence;
pub mod form;
pub mod refused;
pub mod register;
pub mod request;
pub mod rules;
pub mod table;
#[cfg(test)]
mod tests;
pub mod time;
pub mod vote;

pub use cert::{
    CertError, CertKind, Certificate, Head, Proposal, ProposalHash, Signatures, TableDigest, Vote, Voter,
};
pub use chain::Chain;
pub use client::{Client, ClientEffect, ClientInput, Grant, Local, Own, Patience};
pub use designation::{Designation, DesignationEffect, DesignationInput, Post};
pub use fence::{FenceDecision, fence};
pub use form::FormError;
pub use refused::LeaseRefused;
pub use register::{Home, Phase, Register, RegisterEffect, RegisterInput, WriteId};
pub use request::{
    Answer, DaemonInstance, Holder, HostInstance, Reply, ReqNo, Request, Standing, Token, Verb,
};
pub use rules::{Rule, Rules};
pub use table::{Entry, Hold, HostHead, HostState, HostWrite, Last, Mode};
pub use time::Ttl;
pub use vote::{DesignateRefused, DesignationMessage, DesignationState, Unable};
