//! Seeded worlds of registers, clients and designation, and checkers of what came of them.
//!
//! One number decides everything: devices, drifting clocks, a network that loses, copies and delays,
//! disks that fail or stop between any two writes, sleep, restored homes, moves of the register,
//! two admins at once. Every history goes through [`order`] (tokens and beliefs), through [`conduct`]
//! (what was durable when it was said, bounds) and through
//! [`linear`] (is there one order of all requests that explains every answer?). [`model`] walks
//! every state of a small world instead.
//!
//! `cargo run --release --example lease_sim -- --histories 5000` runs many.

pub mod conduct;
mod crowd;
mod history;
pub mod linear;
pub mod model;

pub mod order;
#[cfg(test)]
mod tests;
mod world;

pub use conduct::Breach;
pub use history::{Act, Asked, Belief, CastVote, History, HostReply, Op, Said, Table};

use thiserror::Error;

use crate::lease::Rules;
use crate::model::{CertHash, LeaseEpoch};

/// What happens in a world beside crashes, sleep, partitions and a bad network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nothing more.
    Plain,
    /// Old copies of homes come back, and their marks tell.
    Restored,
    /// Old copies of homes come back, and nothing tells but what others saw.
    RestoredUnseen,
    /// The register is moved: as planned, away from a dead host, twice at once.
    Moved,
    /// The register is moved away from a host that is alive behind a partition.
    WronglyLost,
    /// More daemons ask more than one register serves.
    Crowded,
}

impl Kind {
    const COMMON: [Self; 5] =
        [Self::Plain, Self::Restored, Self::RestoredUnseen, Self::Moved, Self::WronglyLost];

    /// Whether one order of all requests is looked for: not where two hosts serve at once, nor where one
    /// was set back without a trace, nor in a crowd, whose requests all come one after the other.
    pub const fn is_linear(self) -> bool {
        match self {
            Self::Plain | Self::Restored | Self::Moved => true,
            Self::RestoredUnseen | Self::WronglyLost | Self::Crowded => false,
        }
    }

    /// The kind that a seed has: one in fifty is a crowd, of the others each is as often.
    pub fn of(seed: u64) -> Self {
        if seed % 50 == 49 {
            return Self::Crowded;
        }
        Self::COMMON[usize::try_from(seed % 5).expect("less than 5")]
    }
}

/// A promise that a history breaks.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// Two leases have one token, be it of one daemon.
    #[error("token {epoch} was given twice, to {one} and to {other}")]
    GivenTwice {
        /// The token.
        epoch: LeaseEpoch,
        /// Device and key.
        one: String,
        /// Device and key.
        other: String,
    },
    /// A lease that was granted later has a lower token.
    #[error("token {later} was asked for after {before} had been granted")]
    Fell {
        /// The greater token.
        before: LeaseEpoch,
        /// The lower one.
        later: LeaseEpoch,
    },
    /// Two holders believed at once.
    #[error("at {at} us the holders of {one} and {other} both believed")]
    BothBelieved {
        /// One token.
        one: LeaseEpoch,
        /// The other.
        other: LeaseEpoch,
        /// When, in true microseconds.
        at: u64,
    },
    /// Something was done under a token after a greater one was believed in.
    #[error("at {at} us somebody acted under {epoch}, though {greater} was held already")]
    ActedLate {
        /// The token acted under.
        epoch: LeaseEpoch,
        /// The greater one.
        greater: LeaseEpoch,
        /// When.
        at: u64,
    },
    /// A grant under another certificate than the one its holder had adopted.
    #[error("token {epoch} was believed in under an older certificate")]
    OlderCert {
        /// The token.
        epoch: LeaseEpoch,
    },
    /// Two certificates of one term were committed.
    #[error("two certificates of term {term} were committed: {one:?} and {other:?}")]
    TwoCertificates {
        /// The term.
        term: u32,
        /// One.
        one: CertHash,
        /// The other.
        other: CertHash,
    },
    /// A rule was broken, whether harm came of it or not.
    #[error("at {at} us: {breach}")]
    Conduct {
        /// Which.
        breach: Breach,
        /// When, in true microseconds.
        at: u64,
    },
    /// No order of the requests explains the answers.
    #[error("no order of the {ops} requests for key {key} explains their answers, the first being {near:?}")]
    NotLinearizable {
        /// Which key.
        key: usize,
        /// How many requests.
        ops: usize,
        /// The first whose answer is not explained by those before it.
        near: Box<Op>,
    },
    /// The search for an order was given up.
    #[error("after {states} states it is not known whether the answers for key {key} are explained")]
    Inconclusive {
        /// Which key.
        key: usize,
        /// States looked at.
        states: usize,
    },
}

/// A seed that breaks a promise.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("seed {seed}: {violation}")]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What is broken.
    pub violation: Violation,
}

/// What histories were like.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Histories.
    pub histories: u64,
    /// Requests.
    pub ops: u64,
    /// Leases believed in.
    pub beliefs: u64,
    /// Times somebody acted.
    pub acts: u64,
    /// Times the fence let somebody act.
    pub fenced_acts: u64,
    /// Certificates.
    pub certificates: u64,
    /// Starts of devices.
    pub lives: u64,
    /// States of the search for an order.
    pub states: u64,
    /// The most of one history.
    pub states_max: u64,
}

impl Summary {
    /// Adds another.
    pub fn add(&mut self, other: &Self) {
        self.histories += other.histories;
        self.ops += other.ops;
        self.beliefs += other.beliefs;
        self.acts += other.acts;
        self.fenced_acts += other.fenced_acts;
        self.certificates += other.certificates;
        self.lives += other.lives;
        self.states += other.states;
        self.states_max = self.states_max.max(other.states_max);
    }
}

/// The history of one seed.
pub fn history(seed: u64, kind: Kind, rules: Rules) -> History {
    match kind {
        Kind::Crowded => crowd::run(seed, rules),
        _ => world::run(seed, kind, rules),
    }
}

/// Runs one seed through the order check and, if asked and promised, through the search for an order.
///
/// # Errors
/// What is broken, with the seed.
pub fn run(seed: u64, kind: Kind, rules: Rules, depth: Depth) -> Result<Summary, Failure> {
    let history = history(seed, kind, rules);
    let fail = |violation| Failure { seed, violation };
    order::check(&history).map_err(fail)?;
    conduct::check(&history).map_err(fail)?;
    let mut summary = history.summary();
    if depth == Depth::Linear && kind.is_linear() {
        let states = linear::check(&history, linear::STATES_MAX).map_err(fail)?;
        summary.states = states as u64;
        summary.states_max = states as u64;
    }
    Ok(summary)
}

/// How thoroughly a history is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// Tokens, beliefs and conduct.
    Order,
    /// And whether one order of all requests explains every answer.
    Linear,
}
