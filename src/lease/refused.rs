//! Why a lease is not given, kept or believed, and what to do then.

use thiserror::Error;

use super::request::{Holder, ReqNo};
use crate::model::{Blame, CertHash, DeviceId, LeaseEpoch};

/// A refusal of the register, or of the client on its behalf.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Error)]
#[non_exhaustive]
pub enum LeaseRefused {
    /// Another daemon holds the key.
    #[error("{} holds it with epoch {epoch} for up to {remaining_ms} ms more: ask again then", holder.device.short())]
    Held {
        /// Who.
        holder: Holder,
        /// Its token.
        epoch: LeaseEpoch,
        /// How long at most, in the host's milliseconds, if it does not renew.
        remaining_ms: u64,
    },
    /// This daemon holds the key already.
    #[error("this daemon holds it already, with epoch {epoch}: renew that lease, or release it first")]
    AlreadyHeld {
        /// The token it holds.
        epoch: LeaseEpoch,
    },
    /// This daemon does not hold the key.
    #[error("this daemon does not hold it: acquire it first")]
    NotHolder,
    /// The lease ran out, and nobody has it.
    #[error("the lease with epoch {epoch} has run out: stop what runs under it, and acquire again")]
    Expired {
        /// The token that ran out.
        epoch: LeaseEpoch,
    },
    /// A greater token of this key was given since.
    #[error("epoch {claimed} is stale, epoch {current} was given since: stop what runs under it")]
    Stale {
        /// The token shown.
        claimed: LeaseEpoch,
        /// The greatest given for the key.
        current: LeaseEpoch,
    },
    /// A later request of this device for this key was answered already.
    #[error("a later request ({last}) was answered already: this one ({found}) is too old to count")]
    RequestTooOld {
        /// The number of the last request answered.
        last: ReqNo,
        /// The number of this one.
        found: ReqNo,
    },
    /// This device hosts no register.
    #[error("this device does not host the register{}", host.map_or_else(|| ": designate a host".to_owned(), |host| format!(": ask {}", host.short())))]
    NotHost {
        /// Who does, as far as it knows.
        host: Option<DeviceId>,
    },
    /// No answer from the host.
    #[error("the host {} does not answer: check that it is awake and on the network, or move the register", host.short())]
    HostUnreachable {
        /// The host.
        host: DeviceId,
    },
    /// The register is being moved.
    #[error("the register is moving{}: ask again in a moment", to.map_or_else(String::new, |to| format!(" to {}", to.short())))]
    Moving {
        /// Where to, if it is known.
        to: Option<DeviceId>,
    },
    /// The host replaced one that was lost, and waits until that one's leases have run out.
    #[error(
        "the host was replaced without its table: nothing is granted for {remaining_ms} ms more; holders may reclaim"
    )]
    Settling {
        /// How long it will still wait, in the host's milliseconds.
        remaining_ms: u64,
    },
    /// The certificate named was superseded.
    #[error("another host was designated since (certificate {by:?}): synchronise, then ask it")]
    Deposed {
        /// The newest certificate known.
        by: CertHash,
    },
    /// The certificate is on no chain known here.
    #[error(
        "certificate {found:?} is not on the adopted chain (now at {adopted:?}): synchronise; if that does not help, one of the devices was restored from a copy"
    )]
    ForkedLineage {
        /// The certificate shown.
        found: CertHash,
        /// The one adopted here.
        adopted: CertHash,
    },
    /// The host is not sure of its own past.
    #[error(
        "the host's register was restored from a copy or is behind what others saw: designate a host anew"
    )]
    Quarantined,
    /// The host could not write.
    #[error("the host could not write its register: look at its disk, then restart it")]
    StorageFailed,
    /// A clock went back or does not count sleep.
    #[error("a clock that must never go back did: restart the daemon")]
    ClockUnsafe,
    /// A time to live out of bounds.
    #[error("a lease lasts {min_ms} to {max_ms} ms, not {found_ms}")]
    TtlOutOfRange {
        /// What was asked for.
        found_ms: u64,
        /// The least.
        min_ms: u64,
        /// The greatest.
        max_ms: u64,
    },
    /// The host has given every number it may.
    #[error("this host has given all its tokens: designate a host anew, which begins a new term")]
    EpochExhausted,
    /// The device or the register holds as many leases as it may.
    #[error("{limit} leases are held already, the most there may be: release some")]
    TooManyLeases {
        /// The limit.
        limit: usize,
    },
    /// The device asks faster than it may.
    #[error("more than {limit} requests a second: ask again in {retry_ms} ms")]
    TooManyRequests {
        /// Requests a second.
        limit: u32,
        /// When another will be taken.
        retry_ms: u64,
    },
    /// The key is no name of an agent.
    #[error("a key of a lease is 1 to 128 bytes of text without control characters")]
    KeyInvalid,
    /// The device is not, or no longer, part of the space.
    #[error("{} is no device of this space: pair it first", device.short())]
    NotAuthorized {
        /// Who asked.
        device: DeviceId,
    },
}

impl LeaseRefused {
    /// Whose fault it is.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::AlreadyHeld { .. }
            | Self::NotHolder
            | Self::Expired { .. }
            | Self::Stale { .. }
            | Self::RequestTooOld { .. }
            | Self::ClockUnsafe
            | Self::TtlOutOfRange { .. }
            | Self::TooManyLeases { .. }
            | Self::TooManyRequests { .. }
            | Self::KeyInvalid
            | Self::NotAuthorized { .. } => Blame::Local,
            Self::Quarantined | Self::StorageFailed | Self::EpochExhausted | Self::ForkedLineage { .. } => {
                Blame::Peer
            }
            Self::Held { .. }
            | Self::NotHost { .. }
            | Self::HostUnreachable { .. }
            | Self::Moving { .. }
            | Self::Settling { .. }
            | Self::Deposed { .. } => Blame::Environment,
        }
    }

    /// Whether the same request may succeed later without anybody doing anything.
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Held { .. }
            | Self::HostUnreachable { .. }
            | Self::Moving { .. }
            | Self::Settling { .. }
            | Self::Deposed { .. }
            | Self::NotHost { .. }
            | Self::ForkedLineage { .. }
            | Self::TooManyRequests { .. } => true,
            Self::AlreadyHeld { .. }
            | Self::NotHolder
            | Self::Expired { .. }
            | Self::Stale { .. }
            | Self::RequestTooOld { .. }
            | Self::Quarantined
            | Self::StorageFailed
            | Self::ClockUnsafe
            | Self::TtlOutOfRange { .. }
            | Self::EpochExhausted
            | Self::TooManyLeases { .. }
            | Self::KeyInvalid
            | Self::NotAuthorized { .. } => false,
        }
    }

    /// When to ask again, in milliseconds, where the refusal says so.
    pub const fn retry_ms(&self) -> Option<u64> {
        match self {
            Self::Held { remaining_ms, .. } | Self::Settling { remaining_ms } => Some(*remaining_ms),
            Self::TooManyRequests { retry_ms, .. } => Some(*retry_ms),
            Self::AlreadyHeld { .. }
            | Self::NotHolder
            | Self::Expired { .. }
            | Self::Stale { .. }
            | Self::RequestTooOld { .. }
            | Self::NotHost { .. }
            | Self::HostUnreachable { .. }
            | Self::Moving { .. }
            | Self::Deposed { .. }
            | Self::ForkedLineage { .. }
            | Self::Quarantined
            | Self::StorageFailed
            | Self::ClockUnsafe
            | Self::TtlOutOfRange { .. }
            | Self::EpochExhausted
            | Self::TooManyLeases { .. }
            | Self::KeyInvalid
            | Self::NotAuthorized { .. } => None,
        }
    }
}
