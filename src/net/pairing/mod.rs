//! Pairing over the network: a second endpoint that exists only while an invite is open.
//!
//! Owns its socket, its discovery, the deadlines and the order of what is sent. What is proven by
//! the frames is in [`crate::crypto::pairing`]. Must never enrol a device that has not proven the
//! secret, and must never answer a wrong proof with anything but silence. The main endpoint is not
//! touched: it stays closed to everyone who is not in a roster.
//!
//! [`open_invite`] is the side with the code on its screen, [`join`] the one that types it.

mod close;
mod discovery;
mod endpoint;
mod frames;
mod invite;
mod join;
mod link;
#[cfg(test)]
mod tests;

use std::error::Error as StdError;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

pub use close::TurnedAway;
pub use invite::{Delivery, InviteError, InviteEvent, InviteOptions, OpenInvite, Withdrawal, open_invite};
pub use join::{JoinError, JoinOptions, JoinStep, Joined, Receipt, Target, join};
pub use link::{Link, LinkProblem};

use super::{InterfaceRules, Loopback, Mdns, NetConfig};
use crate::crypto::pairing::FailureLock;
use crate::model::DeviceId;

/// What an invite does with a device that has proven its code. Implemented by the node.
pub trait PairHost: Send + Sync + 'static {
    /// Records the device durably and answers with its welcome. Asked again for the same device, it
    /// answers again.
    fn enrol(&self, joiner: DeviceId, name: String) -> Enrolling<'_>;

    /// The port at which members reach this device, where it listens for them.
    fn port(&self) -> Option<u16>;
}

/// A device being enrolled.
pub type Enrolling<'a> = Pin<Box<dyn Future<Output = Result<Bytes, EnrolError>> + Send + 'a>>;

/// A device that proved its code could not be recorded.
#[derive(Debug, Error)]
#[error("the device could not be recorded")]
pub struct EnrolError(#[source] pub Box<dyn StdError + Send + Sync>);

/// How pairing uses the network.
#[derive(Clone)]
pub struct PairConfig {
    /// Where to listen while an invite is open, and from where to dial.
    pub listen: SocketAddr,
    /// Whether the other device is looked for on the local network.
    pub mdns: Mdns,
    /// The port of multicast DNS.
    pub mdns_port: u16,
    /// Which interfaces discovery uses.
    pub interfaces: InterfaceRules,
    /// The clock that counts sleep: an invite must not outlive its minutes behind a closed lid.
    pub uptime: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// How long things may take.
    pub limits: PairLimits,
    #[cfg(test)]
    binding: tests::Binding,
}

impl PairConfig {
    /// Uses the network as a node does that has this configuration, at a port of its own.
    pub fn new(config: &NetConfig, uptime: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self {
            listen: SocketAddr::new(config.listen.ip(), 0),
            mdns: config.mdns,
            mdns_port: config.mdns_port,
            interfaces: config.interfaces.clone(),
            uptime: Arc::new(uptime),
            limits: PairLimits::default(),
            #[cfg(test)]
            binding: tests::Binding::default(),
        }
    }

    const fn loopback(&self) -> Loopback {
        match self.mdns {
            Mdns::On { loopback } => loopback,
            Mdns::Off => Loopback::Skip,
        }
    }
}

impl fmt::Debug for PairConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PairConfig").field("listen", &self.listen).field("mdns", &self.mdns).finish()
    }
}

/// How long the steps of a pairing may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PairLimits {
    /// A TLS handshake.
    pub handshake: Duration,
    /// From a handshake to the hello: until then a connection has cost nobody an attempt.
    pub hello: Duration,
    /// From a handshake to the proof.
    pub attempt: Duration,
    /// From the proof to the receipt, over whatever link there is.
    pub delivery: Duration,
    /// How long a joiner looks for the inviter.
    pub search: Duration,
    /// How long a joiner that was turned away goes on looking for another device under the same id.
    pub rivals: Duration,
}

impl Default for PairLimits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            hello: Duration::from_secs(10),
            attempt: Duration::from_secs(60),
            delivery: Duration::from_secs(60),
            search: Duration::from_secs(30),
            rivals: Duration::from_secs(2),
        }
    }
}

/// Counts failed attempts over all invites of a node's life. Clones share one count.
#[derive(Clone, Debug, Default)]
pub struct PairingLock(Arc<Mutex<FailureLock>>);

impl PairingLock {
    fn with<T>(&self, look: impl FnOnce(&mut FailureLock) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// 32 fresh bytes.
fn entropy() -> Result<[u8; 32], super::NetError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(super::NetError::Entropy)?;
    Ok(bytes)
}
