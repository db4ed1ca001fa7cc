//! Who runs an agent now: the parties that can be asked for a lease, behind one trait.
//!
//! Owns [`LeaseCoordinator`] and the coordinators that are not a device: [`store`] for a bucket or a
//! shared directory, [`MemoryRegister`] for tests. Must never decide whether an effect may be dispatched: a lease is for liveness,
//! only the fence is for safety. The pure machines are in [`lease`](crate::lease).

mod error;
mod held;
mod memory;
pub mod store;
mod types;

use std::fmt;

use futures_core::future::BoxFuture;

pub use error::CoordinatorError;
pub use held::{HeldLease, LeaseLost};
pub use memory::{MemoryCoordinator, MemoryRegister};
pub use store::StoreCoordinator;
pub use types::{Grant, Uptime};

use crate::lease::{Holder, Local, Standing, Ttl};
use crate::model::{AgentId, LeaseEpoch};

/// What a request to a coordinator comes to.
pub type LeaseFuture<'a, T> = BoxFuture<'a, Result<T, CoordinatorError>>;

/// A party that gives each lease to one holder at a time, with a token that is never given twice.
///
/// A coordinator speaks for one [`Holder`]: one device in one life of its
/// daemon. None of the calls waits until a lease is free; whoever wants to wait asks again, at random
/// times.
///
/// **Dropping a future** before it is ready loses nothing: what was asked may have happened or not,
/// no token was handed out, and the next [`acquire`](Self::acquire) of the same holder settles it.
/// A holder whose renewal or release was dropped has what it had before, by its own clock.
pub trait LeaseCoordinator: Send + Sync + fmt::Debug {
    /// For whom it speaks.
    fn holder(&self) -> Holder;

    /// Takes the lease of an agent, where nobody holds it.
    ///
    /// # Errors
    /// [`Held`](crate::lease::LeaseRefused::Held) by another holder,
    /// [`AlreadyHeld`](crate::lease::LeaseRefused::AlreadyHeld) by this one, and what keeps the
    /// coordinator from answering.
    fn acquire<'a>(&'a self, agent: &'a AgentId, ttl: Ttl) -> LeaseFuture<'a, Grant>;

    /// Holds on to a lease for a further `ttl` from now; the token stays the same.
    ///
    /// # Errors
    /// One that [`is_loss`](CoordinatorError::is_loss): the lease is lost and must be acquired anew.
    /// Any other leaves the holder with what it had: it may act until its last grant's
    /// [`valid_until`](Grant::valid_until).
    fn renew<'a>(&'a self, agent: &'a AgentId, epoch: LeaseEpoch, ttl: Ttl) -> LeaseFuture<'a, Grant>;

    /// Gives a lease back. The holder has stopped acting before it calls this.
    ///
    /// # Errors
    /// As [`renew`](Self::renew). A lease whose release did not arrive ends by itself.
    fn release<'a>(&'a self, agent: &'a AgentId, epoch: LeaseEpoch) -> LeaseFuture<'a, ()>;

    /// Who holds the lease of an agent: a linearizable read, never answered from a copy.
    ///
    /// # Errors
    /// What keeps the coordinator from answering.
    fn current<'a>(&'a self, agent: &'a AgentId) -> LeaseFuture<'a, Option<Standing>>;

    /// What the own clock, which counts sleep, says of the own lease at this moment: the last of what
    /// the fence asks, right before acting.
    fn local(&self, agent: &AgentId) -> Local;
}
