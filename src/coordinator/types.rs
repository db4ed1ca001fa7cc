//! What a coordinator answers, and the clock it counts by.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::lease::{Token, Ttl};
use crate::model::{AgentId, CertHash, LeaseEpoch};

/// A lease as its holder has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// For which agent.
    pub agent: AgentId,
    /// The fencing token.
    pub epoch: LeaseEpoch,
    /// The certificate of the register that gave it; [`CertHash::NONE`] where there is none.
    pub cert: CertHash,
    /// How long it was asked for.
    pub ttl: Ttl,
    /// Until when the holder may act, by the coordinator's [`Uptime`].
    pub valid_until: Duration,
}

impl Grant {
    /// The token with its certificate.
    pub const fn token(&self) -> Token {
        Token { epoch: self.epoch, cert: self.cert }
    }

    /// Whether the holder may act at this time.
    pub fn is_valid_at(&self, now: Duration) -> bool {
        now < self.valid_until
    }
}

/// The clock by which leases are counted: it counts sleep and never goes back.
#[derive(Clone)]
pub struct Uptime(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Uptime {
    /// The machine's.
    pub fn system() -> Self {
        Self::of(clock::uptime)
    }

    /// Another: for tests under virtual time.
    pub fn of(read: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// What it shows.
    pub fn now(&self) -> Duration {
        (self.0)()
    }
}

impl fmt::Debug for Uptime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uptime({:?})", self.now())
    }
}
