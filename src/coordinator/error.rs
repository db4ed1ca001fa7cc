//! What a coordinator refuses, and what keeps it from answering.

use std::error::Error;

use thiserror::Error;

use crate::lease::LeaseRefused;
use crate::model::Blame;

/// Why there is no lease, or no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CoordinatorError {
    /// The register refused, or its host did not answer.
    #[error(transparent)]
    Refused(#[from] LeaseRefused),
    /// The bucket or directory with the leases does not answer: what was asked may have happened.
    #[error("the bucket or directory with the leases does not answer: check the network, then try again")]
    StoreUnreachable(#[source] Box<dyn Error + Send + Sync>),
    /// The bucket or directory with the leases refuses, or holds what is no lease.
    #[error("the bucket or directory with the leases cannot be used: mend it, or name another")]
    StoreUnusable(#[source] Box<dyn Error + Send + Sync>),
}

impl CoordinatorError {
    /// The name of what went wrong, stable for programs.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Refused(refused) => refusal_kind(refused),
            Self::StoreUnreachable(_) => "StoreUnreachable",
            Self::StoreUnusable(_) => "StoreUnusable",
        }
    }

    /// Who is to change something.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Refused(refused) => refused.blame(),
            Self::StoreUnreachable(_) => Blame::Environment,
            Self::StoreUnusable(_) => Blame::Local,
        }
    }

    /// Whether the same request may succeed later without anything being changed by the caller.
    pub const fn is_temporary(&self) -> bool {
        match self {
            // The other work on this device ends too.
            Self::Refused(LeaseRefused::AlreadyHeld { .. }) => true,
            Self::Refused(refused) => refused.is_passing(),
            Self::StoreUnreachable(_) => true,
            Self::StoreUnusable(_) => false,
        }
    }

    /// Whether a holder that is told this, to a renewal, holds the lease no longer. After any other
    /// error it has what it had.
    pub const fn is_loss(&self) -> bool {
        matches!(
            self,
            Self::Refused(
                LeaseRefused::NotHolder
                    | LeaseRefused::Expired { .. }
                    | LeaseRefused::Stale { .. }
                    | LeaseRefused::Held { .. }
                    | LeaseRefused::NotAuthorized { .. }
            )
        )
    }
}

const fn refusal_kind(refused: &LeaseRefused) -> &'static str {
    match refused {
        LeaseRefused::Held { .. } => "Held",
        LeaseRefused::AlreadyHeld { .. } => "AlreadyHeld",
        LeaseRefused::NotHolder => "NotHolder",
        LeaseRefused::Expired { .. } => "Expired",
        LeaseRefused::Stale { .. } => "Stale",
        LeaseRefused::RequestTooOld { .. } => "RequestTooOld",
        LeaseRefused::NotHost { .. } => "NotHost",
        LeaseRefused::HostUnreachable { .. } => "HostUnreachable",
        LeaseRefused::Moving { .. } => "Moving",
        LeaseRefused::Settling { .. } => "Settling",
        LeaseRefused::Deposed { .. } => "Deposed",
        LeaseRefused::ForkedLineage { .. } => "ForkedLineage",
        LeaseRefused::Quarantined => "Quarantined",
        LeaseRefused::StorageFailed => "StorageFailed",
        LeaseRefused::ClockUnsafe => "ClockUnsafe",
        LeaseRefused::TtlOutOfRange { .. } => "TtlOutOfRange",
        LeaseRefused::EpochExhausted => "EpochExhausted",
        LeaseRefused::TooManyLeases { .. } => "TooManyLeases",
        LeaseRefused::TooManyRequests { .. } => "TooManyRequests",
        LeaseRefused::KeyInvalid => "KeyInvalid",
        LeaseRefused::NotAuthorized { .. } => "NotAuthorized",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LeaseEpoch;

    #[test]
    fn an_error_names_its_kind_and_whether_the_lease_is_lost() {
        let check = |error: CoordinatorError, kind: &str, is_loss: bool, is_temporary: bool| {
            assert_eq!((error.kind(), error.is_loss(), error.is_temporary()), (kind, is_loss, is_temporary));
        };

        check(LeaseRefused::Expired { epoch: LeaseEpoch::MIN }.into(), "Expired", true, false);
        check(LeaseRefused::AlreadyHeld { epoch: LeaseEpoch::MIN }.into(), "AlreadyHeld", false, true);
        check(LeaseRefused::Moving { to: None }.into(), "Moving", false, true);
        check(CoordinatorError::StoreUnreachable("gone".into()), "StoreUnreachable", false, true);
        check(CoordinatorError::StoreUnusable("odd".into()), "StoreUnusable", false, false);
        assert_eq!(CoordinatorError::StoreUnreachable("gone".into()).blame(), Blame::Environment);
    }
}
