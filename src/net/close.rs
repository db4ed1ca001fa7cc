//! Why connections end and why dials do not become connections.

use std::io;

use quinn::{ConnectionError, TransportErrorCode, VarInt};
use thiserror::Error;

use super::cert::PeerRefused;
use super::frame::Violation;
use crate::model::Blame;

/// What the closing side tells the other, as the QUIC application error code.
///
/// | code | meaning |
/// |---|---|
/// | 0 | another connection serves this pair |
/// | 1 | this device stops |
/// | 2 | you are no longer in a roster of mine |
/// | 3 | you broke a rule of the streams |
/// | 4 | you sent what I refuse |
/// | 5 | you do not keep up |
/// | 6 | I am at fault |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseCode {
    /// Another connection serves this pair of devices. Nothing is wrong.
    Duplicate,
    /// The closing device stops.
    Goodbye,
    /// The closed device is no longer pinned.
    Unpinned,
    /// A rule of the streams was broken.
    Violation,
    /// Something that was sent is refused by its content.
    Refused,
    /// The closed device does not keep up with what is sent to it.
    TooSlow,
    /// The closing device failed.
    Fault,
    /// A code this version does not know.
    Unknown(u32),
}

impl From<CloseCode> for VarInt {
    fn from(code: CloseCode) -> Self {
        Self::from_u32(match code {
            CloseCode::Duplicate => 0,
            CloseCode::Goodbye => 1,
            CloseCode::Unpinned => 2,
            CloseCode::Violation => 3,
            CloseCode::Refused => 4,
            CloseCode::TooSlow => 5,
            CloseCode::Fault => 6,
            CloseCode::Unknown(code) => code,
        })
    }
}

impl From<VarInt> for CloseCode {
    fn from(code: VarInt) -> Self {
        match code.into_inner() {
            0 => Self::Duplicate,
            1 => Self::Goodbye,
            2 => Self::Unpinned,
            3 => Self::Violation,
            4 => Self::Refused,
            5 => Self::TooSlow,
            6 => Self::Fault,
            other => Self::Unknown(u32::try_from(other).unwrap_or(u32::MAX)),
        }
    }
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// This side closed it.
    #[error("closed by this device ({0:?})")]
    ByUs(CloseCode),
    /// The other side closed it.
    #[error("closed by the peer ({0:?})")]
    ByPeer(CloseCode),
    /// The other side broke a rule of the streams.
    #[error("the peer broke a rule of the protocol")]
    Violation(#[source] Violation),
    /// Nothing was heard for the idle timeout.
    #[error("the peer was not heard from; it may be asleep or out of reach")]
    TimedOut,
    /// The other side no longer knows the connection: its node was restarted.
    #[error("the peer was restarted")]
    Reset,
    /// The other side's TLS refused this device after this side took the handshake for done.
    #[error("the peer does not accept this device; it may have been removed there")]
    Rejected,
    /// The QUIC layers disagree.
    #[error("the transport failed with code {code:#x}")]
    Transport {
        /// The transport error code (RFC 9000 section 20.1).
        code: u64,
    },
}

impl CloseReason {
    /// Who is at fault.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::ByUs(code) => match code {
                CloseCode::Duplicate | CloseCode::Goodbye => Blame::Environment,
                CloseCode::Unpinned | CloseCode::Violation | CloseCode::Refused | CloseCode::TooSlow => {
                    Blame::Peer
                }
                CloseCode::Fault | CloseCode::Unknown(_) => Blame::Local,
            },
            Self::ByPeer(code) => match code {
                CloseCode::Duplicate | CloseCode::Goodbye => Blame::Environment,
                CloseCode::Unpinned | CloseCode::Violation | CloseCode::Refused | CloseCode::TooSlow => {
                    Blame::Local
                }
                CloseCode::Fault | CloseCode::Unknown(_) => Blame::Peer,
            },
            Self::Violation(_) | Self::Transport { .. } => Blame::Peer,
            Self::TimedOut | Self::Reset => Blame::Environment,
            Self::Rejected => Blame::Local,
        }
    }

    pub(super) fn of(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self::ByPeer(close.error_code.into()),
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::Reset => Self::Reset,
            // Only dropping every handle closes without a recorded reason.
            ConnectionError::LocallyClosed => Self::ByUs(CloseCode::Goodbye),
            ConnectionError::ConnectionClosed(close) if is_tls_alert(close.error_code) => Self::Rejected,
            ConnectionError::ConnectionClosed(close) => Self::Transport { code: close.error_code.into() },
            ConnectionError::TransportError(error) => Self::Transport { code: error.code.into() },
            ConnectionError::VersionMismatch | ConnectionError::CidsExhausted => {
                Self::Transport { code: TransportErrorCode::PROTOCOL_VIOLATION.into() }
            }
        }
    }
}

/// Why a dial brought no connection.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DialError {
    /// There was no address to dial.
    #[error("no address is known for the device; wait for discovery or name one in `peers`")]
    NoAddress,
    /// A static peer's name does not resolve.
    #[error("the host name of a static peer cannot be resolved; check `peers` in the configuration")]
    Unresolvable(#[source] io::Error),
    /// The device to dial is in no roster here.
    #[error("the device to dial is not in the roster of any space here; invite it first")]
    NotPinned,
    /// Nobody answered.
    #[error("nobody answered; the peer may be asleep, or a firewall drops UDP")]
    TimedOut,
    /// This side refused the other's certificate.
    #[error("the answering device was refused")]
    PeerRefused(#[source] PeerRefused),
    /// The other side refused this device, or ended the connection before its first frame.
    #[error("the peer does not accept this device; check that it was invited there and not removed")]
    RefusedByPeer(#[source] CloseReason),
    /// The other side speaks another protocol or version, or another TLS profile.
    #[error("the handshake failed: something else listens there, or another version of kinfold")]
    Handshake(#[source] ConnectionError),
    /// The address cannot be dialled from this socket.
    #[error("the address cannot be dialled")]
    Undialable(#[source] quinn::ConnectError),
}

impl DialError {
    /// Who is at fault.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::NoAddress | Self::TimedOut => Blame::Environment,
            Self::Unresolvable(_) | Self::NotPinned | Self::Undialable(_) | Self::RefusedByPeer(_) => {
                Blame::Local
            }
            Self::PeerRefused(refused) => refused.blame(),
            Self::Handshake(_) => Blame::Peer,
        }
    }

    /// Which of two failures of one dial tells the user more.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::NoAddress => 0,
            Self::Undialable(_) => 1,
            Self::TimedOut => 2,
            Self::Unresolvable(_) | Self::NotPinned => 3,
            Self::Handshake(_) => 4,
            Self::PeerRefused(_) => 5,
            Self::RefusedByPeer(_) => 6,
        }
    }

    pub(super) fn of(error: ConnectionError, verdict: Option<PeerRefused>) -> Self {
        if let Some(refused) = verdict {
            return Self::PeerRefused(refused);
        }
        match &error {
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::ApplicationClosed(_) | ConnectionError::Reset => {
                Self::RefusedByPeer(CloseReason::of(&error))
            }
            ConnectionError::ConnectionClosed(close)
                if is_refusal(close.error_code)
                    || close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
            {
                Self::RefusedByPeer(CloseReason::of(&error))
            }
            _ => Self::Handshake(error),
        }
    }
}

/// Codes 0x100 to 0x1ff carry a TLS alert (RFC 9001 section 4.8).
fn is_tls_alert(code: TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

/// The alerts that speak of this side's certificate, 42 to 49 and 116 (RFC 8446 section 6).
fn is_refusal(code: TransportErrorCode) -> bool {
    matches!(u64::from(code).checked_sub(0x100), Some(42..=49 | 116))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_read_back() {
        for raw in 0..10u32 {
            let code = CloseCode::from(VarInt::from_u32(raw));

            assert_eq!(VarInt::from(code), VarInt::from_u32(raw));
            assert_eq!(matches!(code, CloseCode::Unknown(_)), raw > 6);
        }
    }

    #[test]
    fn each_end_blames_someone() {
        for (error, reason, blame) in [
            (ConnectionError::TimedOut, CloseReason::TimedOut, Blame::Environment),
            (ConnectionError::Reset, CloseReason::Reset, Blame::Environment),
            (ConnectionError::LocallyClosed, CloseReason::ByUs(CloseCode::Goodbye), Blame::Environment),
            (ConnectionError::VersionMismatch, CloseReason::Transport { code: 0xa }, Blame::Peer),
        ] {
            assert_eq!(CloseReason::of(&error), reason);
            assert_eq!(reason.blame(), blame);
        }
        assert_eq!(CloseReason::Violation(Violation::FrameEmpty).blame(), Blame::Peer);
        assert_eq!(CloseReason::ByUs(CloseCode::Refused).blame(), Blame::Peer);
        assert_eq!(CloseReason::ByPeer(CloseCode::Refused).blame(), Blame::Local);
        assert_eq!(CloseReason::Rejected.blame(), Blame::Local);
    }
}
