//! What devices promise, say and refuse when another host is designated.

use thiserror::Error;

use super::bytes::Reader;
use super::cert::{Proposal, ProposalHash, TableDigest, Vote};
use super::form::FormError;
use super::request::HostInstance;
use super::table::HostState;
use crate::model::{Blame, CertHash, DeviceId, LeaseEpoch};

/// What every device keeps for designation, durably.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DesignationState {
    /// The home whose promises these are; another home of this device does not vote.
    pub instance: HostInstance,
    /// The last promise.
    pub promise: Option<Proposal>,
    /// The greatest token seen.
    pub seen: Option<LeaseEpoch>,
}

/// Why a host is not designated now.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DesignateRefused {
    /// This home is not sure of what it promised.
    #[error("this device was restored from a copy: it votes again once a host was designated without it")]
    InDoubt,
    /// The device is not one that can host.
    #[error("{} is no active device of this space", device.short())]
    NoVoter {
        /// The device.
        device: DeviceId,
    },
    /// More devices than a certificate can name.
    #[error("{found} devices, a certificate names at most {limit}: retire some")]
    TooManyVoters {
        /// Active devices.
        found: usize,
        /// [`VOTERS_MAX`](super::cert::VOTERS_MAX).
        limit: usize,
    },
    /// Another move is under way.
    #[error("{} is moving the register to {} already: wait, or ask there", driver.short(), host.short())]
    Moving {
        /// Who drives it.
        driver: DeviceId,
        /// Where to.
        host: DeviceId,
    },
    /// Another certificate came first.
    #[error("another host was designated meanwhile (certificate {by:?}): look at it, then try again")]
    Superseded {
        /// The newest certificate.
        by: CertHash,
    },
    /// This device hosts the register, so it is not lost.
    #[error("the host is not lost, it is this device: move the register as planned")]
    NotLost,
    /// The terms are used up.
    #[error("no term is left: begin a new space")]
    NoTerm,
    /// This device could not write.
    #[error("this device could not write its promise: look at its disk, then restart it")]
    StorageFailed,
}

impl DesignateRefused {
    /// Whose fault it is.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::InDoubt | Self::NoVoter { .. } | Self::TooManyVoters { .. } | Self::NotLost => Blame::Local,
            Self::NoTerm | Self::StorageFailed => Blame::Local,
            Self::Moving { .. } | Self::Superseded { .. } => Blame::Environment,
        }
    }
}

/// What devices say to each other about a move.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DesignationMessage {
    /// The driver asks for a vote.
    Propose(Proposal),
    /// A voter confirms, durably promised.
    Confirm {
        /// What.
        hash: ProposalHash,
        /// Signed.
        vote: Vote,
    },
    /// A voter promised another proposal of this term.
    Promised(Proposal),
    /// A voter cannot vote, or cannot vote yet.
    Unable {
        /// For what.
        hash: ProposalHash,
        /// Why.
        why: Unable,
    },
    /// A driver gives its proposal up, for good.
    Withdraw {
        /// Which.
        hash: ProposalHash,
        /// Over [`Proposal::withdrawn_hash`].
        signature: [u8; 64],
    },
    /// The new host asks the old one for the table it sealed.
    Fetch(TableDigest),
    /// What the old host sealed.
    Table(HostState),
}

/// Why a voter does not confirm.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Unable {
    /// Its home was restored from a copy.
    InDoubt,
    /// Its newest certificate is another one; synchronise the roster.
    OtherHead(CertHash),
    /// Its roster has other devices; synchronise the roster.
    OtherRoster,
    /// It is the host that is said to be lost.
    NotLost,
}

impl DesignationState {
    /// Of a home that `init` or a pairing has just made: it has promised nothing.
    pub const fn fresh(instance: HostInstance) -> Self {
        Self { instance, promise: None, seen: None }
    }

    /// Magic `KFLD` 4 ‖ instance u64 ‖ seen u64, 0 for none ‖ promise u8 (0, or 1 ‖ proposal).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.instance.get().to_be_bytes());
        out.extend_from_slice(&self.seen.map_or(0, LeaseEpoch::get).to_be_bytes());
        match &self.promise {
            None => out.push(0),
            Some(promise) => {
                out.push(1);
                out.extend_from_slice(&promise.to_bytes());
            }
        }
        out
    }

    /// Reads what was written.
    ///
    /// # Errors
    /// Every variant of [`FormError`] but `Key`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormError> {
        let mut from = Reader::new(bytes);
        let found = from.array::<4>()?;
        if found != *MAGIC {
            return Err(FormError::Magic { expected: *MAGIC, found });
        }
        let instance = HostInstance::new(from.u64()?);
        let seen = match from.u64()? {
            0 => None,
            raw => Some(LeaseEpoch::new(raw).map_err(|_| FormError::Number { field: "epoch", found: raw })?),
        };
        let promise = match from.u8()? {
            0 => {
                from.end()?;
                None
            }
            1 => Some(Proposal::from_bytes(from.rest())?),
            found => return Err(FormError::Number { field: "presence of a promise", found: found.into() }),
        };
        Ok(Self { instance, promise, seen })
    }
}

const MAGIC: &[u8; 4] = b"KFLD";
