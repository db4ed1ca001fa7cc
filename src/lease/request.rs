//! What a daemon asks the register, and what the register answers.

use std::fmt;

use super::refused::LeaseRefused;
use super::time::Ttl;
use crate::model::{AgentId, CertHash, DeviceId, LeaseEpoch};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(u64);

        impl $name {
            /// Takes the raw number.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The raw number.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number!(
    /// One life of a daemon: random, new with every start.
    DaemonInstance
);
number!(
    /// One life of a home: kept with the store, renewed on any doubt about the home's past.
    ///
    /// A certificate names it, so that a restored or copied home is not taken for the one that
    /// was designated. A home is [`HostInstance::FIRST`] from its `init` until the first doubt.
    HostInstance
);
number!(
    /// The number of a request of one device for one key; rises.
    ///
    /// It need not be kept over a restart: [`LeaseRefused::RequestTooOld`] says where to go on.
    ReqNo
);

impl HostInstance {
    /// What certificate 0 names: the home as `init` made it.
    pub const FIRST: Self = Self(0);
}

impl ReqNo {
    /// The number after this one; stays at the greatest.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Who holds a lease: one life of the daemon of one device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Holder {
    /// The device.
    pub device: DeviceId,
    /// Which life of its daemon.
    pub instance: DaemonInstance,
}

/// A lease's full token: the epoch, and the certificate of the host that gave it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token {
    /// The epoch.
    pub epoch: LeaseEpoch,
    /// The certificate it was given under.
    pub cert: CertHash,
}

/// One request of a daemon. Which device asks is known from the connection, never from the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Request {
    /// Which life of the daemon asks.
    pub instance: DaemonInstance,
    /// What the lease is for.
    pub key: AgentId,
    /// Rises per (device, key); a resend keeps it.
    pub req_no: ReqNo,
    /// The certificate the daemon has adopted.
    pub cert: CertHash,
    /// The greatest token it has seen.
    pub seen: Option<LeaseEpoch>,
    /// What it asks.
    pub verb: Verb,
}

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Verb {
    /// Give me the key.
    Acquire {
        /// For how long.
        ttl: Ttl,
    },
    /// I hold it; hold it longer for me.
    Renew {
        /// The token held.
        epoch: LeaseEpoch,
        /// For how long from now.
        ttl: Ttl,
    },
    /// I have stopped; it is free.
    Release {
        /// The token held.
        epoch: LeaseEpoch,
    },
    /// Who holds it now? Linearizable.
    Current,
    /// I hold it from a host that was lost; give me a token of yours for it.
    Reclaim {
        /// The token held.
        token: Token,
        /// For how long from now.
        ttl: Ttl,
    },
}

/// What the register answers one request.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Reply {
    /// Which life of a daemon asked: each counts its requests anew.
    pub instance: DaemonInstance,
    /// The key of the request.
    pub key: AgentId,
    /// The number of the request.
    pub req_no: ReqNo,
    /// The host's certificate; [`CertHash::NONE`] from a device that has none.
    pub cert: CertHash,
    /// The answer.
    pub answer: Result<Answer, LeaseRefused>,
}

/// What the register says yes to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Answer {
    /// The key is the daemon's, with this new token (for `Acquire` and `Reclaim`).
    Granted {
        /// The token.
        epoch: LeaseEpoch,
    },
    /// The key is held longer.
    Renewed {
        /// The token, as before.
        epoch: LeaseEpoch,
    },
    /// The key is free.
    Released {
        /// The token that ended.
        epoch: LeaseEpoch,
    },
    /// Who holds the key; nobody where it is `None`.
    Current {
        /// The lease.
        standing: Option<Standing>,
    },
}

/// A lease as the register has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Standing {
    /// Its token.
    pub epoch: LeaseEpoch,
    /// Who holds it.
    pub holder: Holder,
    /// How long the host will hold it, in the host's milliseconds.
    pub remaining_ms: u64,
}
