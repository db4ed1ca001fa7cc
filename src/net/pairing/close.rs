//! Why a pairing connection is closed, as the QUIC application error code.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | the proof did not hold |
//! | 2 | no such invite is open |
//! | 3 | the invite has expired |
//! | 4 | its attempts are used up |
//! | 5 | another device has joined with it |
//! | 6 | pairing is locked |
//! | 7 | too many connections |
//! | 8 | a rule of the frames was broken |
//! | 9 | another version of the exchange |
//! | 10 | the proof held, but the device could not be recorded |
//! | 11 | the invite was withdrawn, or the device stops |
//! | 12 | too slow |

use quinn::VarInt;
use thiserror::Error;

use crate::crypto::pairing::Refusal;
use crate::model::Blame;
use crate::wire::PairFrameError;

/// Done: both sides have what they need.
pub(super) const DONE: VarInt = VarInt::from_u32(0);

/// Why the other device ended a pairing.
///
/// Until the proof holds, nobody vouches for these words but whoever answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum TurnedAway {
    /// The proof did not hold.
    #[error("the other device does not accept the code: it was mistyped, or somebody is in between")]
    Unproven,
    /// No such invite is open.
    #[error("the other device has no such invite open; check the first two characters of the code")]
    Unknown,
    /// The invite has expired.
    #[error("the invite has expired; make a new one on the other device")]
    Expired,
    /// The invite's attempts are used up.
    #[error("the invite's attempts are used up; make a new one on the other device")]
    Burnt,
    /// Another device has joined with the invite.
    #[error("another device has joined with this invite; make a new one on the other device")]
    Taken,
    /// Too many attempts failed over there.
    #[error("the other device has locked pairing after too many failed attempts; try again in an hour")]
    Locked,
    /// Too many connections at once.
    #[error("the other device is busy with other attempts; try again in a minute")]
    Busy,
    /// A rule of the frames was broken.
    #[error("the other device could not read what this one sent; update the older one")]
    Violation,
    /// Another version of the exchange.
    #[error("the other device pairs in another version; update the older one")]
    Version,
    /// The device could not be recorded.
    #[error("the other device accepted the code but could not record this device; see its screen")]
    NotRecorded,
    /// The invite was withdrawn.
    #[error("the invite was withdrawn on the other device")]
    Withdrawn,
    /// This device was too slow.
    #[error("the other device waited too long for this one; try again")]
    TooSlow,
    /// A code this version does not know.
    #[error("the other device ended the pairing for a reason this version does not know ({code})")]
    Other {
        /// The code.
        code: u64,
    },
}

impl TurnedAway {
    /// Who is at fault.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Unproven
            | Self::Unknown
            | Self::Expired
            | Self::Burnt
            | Self::Taken
            | Self::Locked
            | Self::Violation
            | Self::Version => Blame::Local,
            Self::Busy | Self::Withdrawn | Self::TooSlow => Blame::Environment,
            Self::NotRecorded | Self::Other { .. } => Blame::Peer,
        }
    }

    /// The reason behind a code; `None` for [`DONE`].
    pub(super) fn from_code(code: VarInt) -> Option<Self> {
        Some(match code.into_inner() {
            0 => return None,
            1 => Self::Unproven,
            2 => Self::Unknown,
            3 => Self::Expired,
            4 => Self::Burnt,
            5 => Self::Taken,
            6 => Self::Locked,
            7 => Self::Busy,
            8 => Self::Violation,
            9 => Self::Version,
            10 => Self::NotRecorded,
            11 => Self::Withdrawn,
            12 => Self::TooSlow,
            code => Self::Other { code },
        })
    }

    pub(super) fn code(self) -> VarInt {
        VarInt::from_u32(match self {
            Self::Unproven => 1,
            Self::Unknown => 2,
            Self::Expired => 3,
            Self::Burnt => 4,
            Self::Taken => 5,
            Self::Locked => 6,
            Self::Busy => 7,
            Self::Violation => 8,
            Self::Version => 9,
            Self::NotRecorded => 10,
            Self::Withdrawn => 11,
            Self::TooSlow => 12,
            Self::Other { code } => u32::try_from(code).unwrap_or(u32::MAX),
        })
    }
}

impl From<Refusal> for TurnedAway {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unknown { .. } => Self::Unknown,
            Refusal::Expired => Self::Expired,
            Refusal::Burnt => Self::Burnt,
            Refusal::Taken => Self::Taken,
            Refusal::Locked { .. } => Self::Locked,
        }
    }
}

impl From<&PairFrameError> for TurnedAway {
    fn from(error: &PairFrameError) -> Self {
        match error {
            PairFrameError::Version { .. } => Self::Version,
            PairFrameError::Length { .. }
            | PairFrameError::Malformed { .. }
            | PairFrameError::Name(_)
            | PairFrameError::WelcomeLength { .. } => Self::Violation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back() {
        for code in 1..20 {
            let reason = TurnedAway::from_code(VarInt::from_u32(code)).unwrap();

            assert_eq!(reason.code(), VarInt::from_u32(code), "{reason}");
            assert_eq!(matches!(reason, TurnedAway::Other { .. }), code > 12);
        }
        assert_eq!(TurnedAway::from_code(DONE), None);
    }
}
