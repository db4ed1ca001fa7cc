//! The fence: may this run act, right now? A pure decision over three answers.

use std::fmt;

use super::client::Local;
use super::refused::LeaseRefused;
use super::request::{Holder, Standing};
use crate::model::{DeviceId, LeaseEpoch, OpId};

/// What the fence decides. Only [`FenceDecision::Proceed`] may act.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum FenceDecision {
    /// The run holds its agent's lease, by the host's word and by the local clock.
    Proceed,
    /// The run was committed already, by whomever: there is nothing to do.
    AlreadyCommitted {
        /// The op that says so.
        op_id: OpId,
    },
    /// Another token was given since.
    StaleEpoch {
        /// What the run claims.
        claimed: LeaseEpoch,
        /// What the register says.
        current: LeaseEpoch,
        /// Who holds that.
        holder: Holder,
    },
    /// Nobody holds the lease, or this daemon does not.
    NotHeld,
    /// This daemon holds the lease, but slept or lost touch: renew, then ask again.
    RenewFirst {
        /// Its token.
        epoch: LeaseEpoch,
    },
    /// The host did not answer. That is no leave to act.
    HostUnreachable {
        /// The host.
        host: DeviceId,
    },
    /// The host answered, but not the question.
    Refused(LeaseRefused),
}

impl FenceDecision {
    /// Whether the run may act.
    pub const fn may_dispatch(&self) -> bool {
        match self {
            Self::Proceed => true,
            Self::AlreadyCommitted { .. }
            | Self::StaleEpoch { .. }
            | Self::NotHeld
            | Self::RenewFirst { .. }
            | Self::HostUnreachable { .. }
            | Self::Refused(_) => false,
        }
    }
}

impl fmt::Display for FenceDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proceed => f.write_str("the run may act"),
            Self::AlreadyCommitted { .. } => {
                f.write_str("the run has happened already; there is nothing to do")
            }
            Self::StaleEpoch { claimed, current, holder } => write!(
                f,
                "epoch {claimed} is not the one that holds: {} has {current}; stop what runs under {claimed}",
                holder.device.short()
            ),
            Self::NotHeld => f.write_str("this device does not hold the lease; acquire it first"),
            Self::RenewFirst { .. } => {
                f.write_str("this machine slept or lost touch; renew the lease, then ask again")
            }
            Self::HostUnreachable { host } => LeaseRefused::HostUnreachable { host: *host }.fmt(f),
            Self::Refused(refused) => refused.fmt(f),
        }
    }
}

/// Decides whether a run of this daemon that claims `epoch` may act.
///
/// `committed` is the local fold's answer, and settles the matter whatever the epoch. `read` is a
/// linearizable read made for this decision ([`ClientEffect::Read`](super::ClientEffect::Read));
/// `local` is [`Client::local`](super::Client::local) asked **after** the read came back, right
/// before acting: a read may have taken longer than the lease lasted.
pub fn fence(
    claimed: LeaseEpoch,
    own: Holder,
    committed: Option<OpId>,
    read: &Result<Option<Standing>, LeaseRefused>,
    local: &Local,
) -> FenceDecision {
    if let Some(op_id) = committed {
        return FenceDecision::AlreadyCommitted { op_id };
    }
    let standing = match read {
        Ok(standing) => standing,
        Err(LeaseRefused::HostUnreachable { host }) => {
            return FenceDecision::HostUnreachable { host: *host };
        }
        Err(refused) => return FenceDecision::Refused(refused.clone()),
    };
    match standing {
        None => FenceDecision::NotHeld,
        Some(standing) if standing.epoch != claimed => {
            FenceDecision::StaleEpoch { claimed, current: standing.epoch, holder: standing.holder }
        }
        Some(standing) if standing.holder != own => FenceDecision::NotHeld,
        Some(_) => match local {
            Local::Valid { epoch, .. } if *epoch == claimed => FenceDecision::Proceed,
            Local::RenewFirst { epoch } if *epoch == claimed => FenceDecision::RenewFirst { epoch: *epoch },
            Local::Valid { .. } | Local::RenewFirst { .. } | Local::NotHeld => FenceDecision::NotHeld,
        },
    }
}
