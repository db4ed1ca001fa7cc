//! A seeded world: real engines and real folds under virtual time, on a network and on disks that
//! fail, with checkers that see everything.
//!
//! Owns how the core is tried out as a whole. Everything follows from one number: the devices, what
//! they write, when they crash, how parcels travel. A broken promise names its seed, and the same
//! seed breaks it again. Must never touch a socket, a file, a clock or entropy.
//!
//! `cargo run --release --example sim -- --seeds 10000` runs many.

#[cfg(test)]
mod based;
mod chaos;
pub mod check;
pub mod disk;
#[cfg(test)]
mod fallen;
mod gc;
mod host;
#[cfg(test)]
mod keyless;
mod leap;
pub mod lease;
mod network;
pub mod rng;
mod settle;
mod shell;
#[cfg(test)]
mod silent;
#[cfg(test)]
mod unmet;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

pub use check::Violation;

/// What kind of world it is.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// How many devices; chosen by the seed where it is not said.
    pub devices: Option<usize>,
    /// How often what happens is about trust (restores, copies, removals, new keys), of a thousand.
    pub trust_permille: u64,
    /// Whether homes are copied, so that devices run twice.
    pub copies: bool,
    /// How often what happens is about dropping history (a checkpoint is made, attested, begun with), of a
    /// thousand.
    pub gc_permille: u64,
    /// How many months pass at least, while devices sleep, are called dormant, and come back.
    pub months: u32,
    /// Commits that fail while a device's store is ill, of a thousand.
    pub commit_fail_permille: u64,
    /// Parcels that are spoiled on their way, as by a liar with a member's key, of a thousand.
    pub hostile_permille: u64,
    /// How long it may take to settle once everything has healed.
    pub settle_within: Duration,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            devices: None,
            trust_permille: 0,
            copies: true,
            gc_permille: 0,
            months: 0,
            commit_fail_permille: 300,
            hostile_permille: 0,
            settle_within: Duration::from_secs(120),
        }
    }
}

/// What a run was like.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// Devices.
    pub device_count: usize,
    /// Ops every device ended with.
    pub op_count: u64,
    /// Rows in conflict at the end.
    pub conflict_count: u64,
    /// Ops answered for.
    pub answered_count: u64,
    /// Roots compared on the way.
    pub root_count: u64,
    /// Things that happened.
    pub event_count: u64,
    /// Bytes sent.
    pub byte_count: u64,
    /// Times that history was dropped.
    pub base_count: u64,
    /// Times that a device was called dormant by itself.
    pub dormant_count: u64,
    /// Starts of devices.
    pub life_count: u64,
    /// Virtual time.
    pub virtual_time: Duration,
    /// How long it took to settle.
    pub settled_after: Duration,
}

/// A seed that breaks a promise.
#[derive(Clone, Debug, thiserror::Error)]
#[error("seed {seed}: {violation}")]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The promise.
    #[source]
    pub violation: Violation,
    /// What happened last, oldest first, where a trace was asked for.
    pub trace: Vec<String>,
}

/// Runs the world of a seed to its end.
///
/// # Errors
/// [`Failure`] with the first promise that is broken.
pub fn run(seed: u64, knobs: &Knobs) -> Result<Summary, Box<Failure>> {
    run_once(seed, knobs, false)
}

/// Runs the world of a seed and keeps what happened last.
///
/// # Errors
/// [`Failure`] with the first promise that is broken, and the trace.
pub fn run_traced(seed: u64, knobs: &Knobs) -> Result<Summary, Box<Failure>> {
    run_once(seed, knobs, true)
}

fn run_once(seed: u64, knobs: &Knobs, is_traced: bool) -> Result<Summary, Box<Failure>> {
    let mut world = world::World::new(seed, knobs, is_traced);
    // The engine holds nothing that outlives the world, so a panic leaves nothing half done behind.
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match outcome {
        Ok(Ok(summary)) => return Ok(summary),
        Ok(Err(violation)) => violation,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Violation::Panic { message: text.unwrap_or_default() }
        }
    };
    Err(Box::new(Failure { seed, violation, trace: world.trace.into_iter().collect() }))
}

#[cfg(test)]
mod tests;
