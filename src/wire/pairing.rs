//! The frames of a pairing exchange: one stream, strictly in turn.
//!
//! A frame is `length u16 big-endian ‖ kind u8 ‖ body`, the length counting kind and body, at most
//! [`PAIR_FRAME_BYTES_MAX`].
//!
//! | kind | frame | body |
//! |---|---|---|
//! | 1 | `Hello` | version u8, invite id 2, kind of secret u8 (1 code, 2 link), nonce 32, `pA` 33, name |
//! | 2 | `Answer` | nonce 32, `pB` 33, role u8, name length u8, name, scope |
//! | 3 | `Confirm` | 32 |
//! | 4 | `Grant` | confirm 32, port u16, bytes of the sealed welcome u32; the welcome follows outside of frames |
//! | 5 | `Done` | nothing |
//!
//! The last text of a body fills it. What the parts mean is in [`crate::crypto::pairing`].

use std::str::FromStr as _;

use thiserror::Error;

use super::welcome::WELCOME_SEALED_BYTES_MAX;
use crate::crypto::pairing::{
    Answer, Confirm, Hello, InviteId, NameError, PairingName, SHARE_BYTES, SecretKind, Terms, VERSION,
};
use crate::model::Blame;

/// Greatest frame: names and keys, nothing that grows.
pub const PAIR_FRAME_BYTES_MAX: usize = 4096;

/// Bytes that are no frame of a pairing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PairFrameError {
    /// Longer than [`PAIR_FRAME_BYTES_MAX`], or without a kind.
    #[error("a pairing frame has 1 to {limit} bytes, this one has {found}")]
    Length {
        /// Bytes announced.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// The body is not of its kind's shape.
    #[error("a pairing frame of kind {kind} is malformed")]
    Malformed {
        /// The kind number.
        kind: u8,
    },
    /// A hello of another version.
    #[error("the other device speaks pairing version {found}, this one {expected}; update the older one")]
    Version {
        /// The version this device speaks.
        expected: u8,
        /// The version found.
        found: u8,
    },
    /// A name that must not be shown.
    #[error("the other device's name is refused")]
    Name(#[from] NameError),
    /// A sealed welcome that is announced as longer than any.
    #[error("a welcome of {found} bytes exceeds the limit of {limit}")]
    WelcomeLength {
        /// Bytes announced.
        found: u32,
        /// [`WELCOME_SEALED_BYTES_MAX`].
        limit: usize,
    },
}

impl PairFrameError {
    /// Who is at fault.
    pub const fn blame(&self) -> Blame {
        Blame::Peer
    }
}

/// One frame.
#[derive(Clone, Debug)]
pub enum PairFrame {
    /// The joiner begins.
    Hello(Hello),
    /// The inviter answers.
    Answer(Answer),
    /// The joiner proves that it has the key.
    Confirm(Confirm),
    /// The inviter proves the same; the sealed welcome follows.
    Grant {
        /// Its proof.
        confirm: Confirm,
        /// The UDP port at which it listens for members, on the address of this connection; 0 where
        /// it does not. A hint: whoever is there must prove to be the inviter.
        port: u16,
        /// How long the sealed welcome is.
        sealed_bytes: u32,
    },
    /// The joiner has stored the welcome.
    Done,
}

impl PairFrame {
    /// The whole frame, with its length in front.
    pub fn encode(&self) -> Vec<u8> {
        let mut frame = vec![0; LENGTH_BYTES];
        match self {
            Self::Hello(hello) => {
                frame.extend([HELLO, VERSION]);
                frame.extend(hello.invite.as_bytes());
                frame.push(hello.kind.to_byte());
                frame.extend(hello.nonce);
                frame.extend(hello.share);
                frame.extend(hello.name.as_str().bytes());
            }
            Self::Answer(answer) => {
                frame.push(ANSWER);
                frame.extend(answer.nonce);
                frame.extend(answer.share);
                frame.push(answer.terms.role);
                frame.push(u8::try_from(answer.name.as_str().len()).expect("a name has at most 128 bytes"));
                frame.extend(answer.name.as_str().bytes());
                frame.extend(answer.terms.scope.bytes());
            }
            Self::Confirm(confirm) => {
                frame.push(CONFIRM);
                frame.extend(confirm.as_bytes());
            }
            Self::Grant { confirm, port, sealed_bytes } => {
                frame.push(GRANT);
                frame.extend(confirm.as_bytes());
                frame.extend(port.to_be_bytes());
                frame.extend(sealed_bytes.to_be_bytes());
            }
            Self::Done => frame.push(DONE),
        }
        let length = u16::try_from(frame.len() - LENGTH_BYTES).expect("names and scopes are short");
        frame[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
        frame
    }

    /// How many bytes follow a frame's first two.
    ///
    /// # Errors
    /// [`PairFrameError::Length`].
    pub fn length(prefix: [u8; LENGTH_BYTES]) -> Result<usize, PairFrameError> {
        let found = usize::from(u16::from_be_bytes(prefix));
        if (1..=PAIR_FRAME_BYTES_MAX).contains(&found) {
            Ok(found)
        } else {
            Err(PairFrameError::Length { found, limit: PAIR_FRAME_BYTES_MAX })
        }
    }

    /// Reads what follows a frame's length.
    ///
    /// # Errors
    /// Every variant of [`PairFrameError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, PairFrameError> {
        let no_kind = PairFrameError::Length { found: bytes.len(), limit: PAIR_FRAME_BYTES_MAX };
        if bytes.len() > PAIR_FRAME_BYTES_MAX {
            return Err(no_kind);
        }
        let (&kind, body) = bytes.split_first().ok_or(no_kind)?;
        let malformed = PairFrameError::Malformed { kind };
        match kind {
            HELLO => read_hello(body, malformed),
            ANSWER => read_answer(body, malformed),
            CONFIRM => {
                let confirm = body.try_into().map_err(|_| malformed)?;
                Ok(Self::Confirm(Confirm::from_bytes(confirm)))
            }
            GRANT => read_grant(body, malformed),
            DONE if body.is_empty() => Ok(Self::Done),
            _ => Err(malformed),
        }
    }
}

fn read_hello(body: &[u8], malformed: PairFrameError) -> Result<PairFrame, PairFrameError> {
    let mut body = Body { bytes: body, malformed };
    let [version] = body.take()?;
    if version != VERSION {
        return Err(PairFrameError::Version { expected: VERSION, found: version });
    }
    let invite = InviteId::from_bytes(body.take()?);
    let [kind] = body.take()?;
    let hello = Hello {
        invite: invite.ok_or_else(|| body.malformed.clone())?,
        kind: SecretKind::from_byte(kind).ok_or_else(|| body.malformed.clone())?,
        nonce: body.take()?,
        share: body.take::<SHARE_BYTES>()?,
        name: PairingName::from_str(body.text()?)?,
    };
    Ok(PairFrame::Hello(hello))
}

fn read_answer(body: &[u8], malformed: PairFrameError) -> Result<PairFrame, PairFrameError> {
    let mut body = Body { bytes: body, malformed };
    let (nonce, share) = (body.take()?, body.take::<SHARE_BYTES>()?);
    let [role, name_bytes] = body.take()?;
    let name = body.front(usize::from(name_bytes))?.parse::<PairingName>()?;
    let terms = Terms { role, scope: body.text()?.to_owned() };
    Ok(PairFrame::Answer(Answer { nonce, name, terms, share }))
}

fn read_grant(body: &[u8], malformed: PairFrameError) -> Result<PairFrame, PairFrameError> {
    let mut body = Body { bytes: body, malformed };
    let confirm = Confirm::from_bytes(body.take()?);
    let port = u16::from_be_bytes(body.take()?);
    let sealed_bytes = u32::from_be_bytes(body.take()?);
    if !body.bytes.is_empty() {
        return Err(body.malformed);
    }
    if usize::try_from(sealed_bytes).map_or(true, |bytes| bytes > WELCOME_SEALED_BYTES_MAX) {
        return Err(PairFrameError::WelcomeLength { found: sealed_bytes, limit: WELCOME_SEALED_BYTES_MAX });
    }
    Ok(PairFrame::Grant { confirm, port, sealed_bytes })
}

/// What is left of a body.
struct Body<'a> {
    bytes: &'a [u8],
    malformed: PairFrameError,
}

impl<'a> Body<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], PairFrameError> {
        let (front, rest) = self.bytes.split_first_chunk().ok_or_else(|| self.malformed.clone())?;
        self.bytes = rest;
        Ok(*front)
    }

    fn front(&mut self, bytes: usize) -> Result<&'a str, PairFrameError> {
        let (front, rest) = self.bytes.split_at_checked(bytes).ok_or_else(|| self.malformed.clone())?;
        self.bytes = rest;
        std::str::from_utf8(front).map_err(|_| self.malformed.clone())
    }

    fn text(&mut self) -> Result<&'a str, PairFrameError> {
        self.front(self.bytes.len())
    }
}

/// Bytes of the length in front of a frame.
pub const LENGTH_BYTES: usize = 2;

const HELLO: u8 = 1;
const ANSWER: u8 = 2;
const CONFIRM: u8 = 3;
const GRANT: u8 = 4;
const DONE: u8 = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_frame_reads_back() {
        for frame in samples() {
            let encoded = frame.encode();
            let (length, body) = encoded.split_first_chunk().unwrap();

            assert_eq!(PairFrame::length(*length), Ok(body.len()));
            let read = PairFrame::decode(body).unwrap();
            assert_eq!(read.encode(), encoded);
            assert_eq!(format!("{read:?}"), format!("{frame:?}"));
        }
    }

    #[test]
    fn every_cut_and_every_surplus_is_refused_or_changes_the_text() {
        for frame in samples() {
            let body = frame.encode()[LENGTH_BYTES..].to_vec();
            let text_bytes = match &frame {
                PairFrame::Hello(hello) => hello.name.as_str().len() - 1,
                PairFrame::Answer(answer) => answer.terms.scope.len(),
                PairFrame::Confirm(_) | PairFrame::Grant { .. } | PairFrame::Done => 0,
            };
            for cut in 0..body.len() - text_bytes {
                assert!(PairFrame::decode(&body[..cut]).is_err(), "{frame:?} cut to {cut}");
            }
            let longer = PairFrame::decode(&[&body[..], b"!"].concat());
            assert_eq!(longer.is_err(), text_bytes == 0, "{frame:?}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_by_name() {
        let malformed = |kind| PairFrameError::Malformed { kind };
        let hello = hello_body();
        let spoiled = |at: usize, byte: u8| {
            let mut body = hello.clone();
            body[at] = byte;
            PairFrame::decode(&body).unwrap_err()
        };

        let too_long = PairFrameError::Length { found: 4097, limit: 4096 };
        assert_eq!(PairFrame::length([0x10, 1]), Err(too_long.clone()));
        assert_eq!(PairFrame::decode(&[1; 4097]).unwrap_err(), too_long);
        assert_eq!(PairFrame::length([0, 0]), Err(PairFrameError::Length { found: 0, limit: 4096 }));
        assert_eq!(PairFrame::decode(&[6]).unwrap_err(), malformed(6));
        assert_eq!(PairFrame::decode(&[5, 0]).unwrap_err(), malformed(5));
        assert_eq!(spoiled(1, 2), PairFrameError::Version { expected: 1, found: 2 });
        assert_eq!(spoiled(2, b'U'), malformed(1));
        assert_eq!(spoiled(2, 0xff), malformed(1));
        assert_eq!(spoiled(4, 3), malformed(1));
        let name = PairFrameError::Name(NameError::Control { found: '\u{1b}' });
        assert_eq!(spoiled(hello.len() - 1, 0x1b), name);
        let grant = [&[GRANT][..], &[0; 34], &[0xff; 4]].concat();
        let limit = WELCOME_SEALED_BYTES_MAX;
        assert_eq!(
            PairFrame::decode(&grant).unwrap_err(),
            PairFrameError::WelcomeLength { found: u32::MAX, limit }
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_back_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(frame) = PairFrame::decode(&bytes) {
                prop_assert_eq!(&frame.encode()[LENGTH_BYTES..], &bytes[..]);
            }
        }

        #[test]
        fn a_spoiled_hello_is_read_back_or_refused(at in 0usize..70, byte: u8) {
            let mut body = hello_body();
            body[at] = byte;
            if let Ok(frame) = PairFrame::decode(&body) {
                prop_assert_eq!(&frame.encode()[LENGTH_BYTES..], &body[..]);
            }
        }
    }

    fn hello_body() -> Vec<u8> {
        samples()[0].encode()[LENGTH_BYTES..].to_vec()
    }

    fn samples() -> [PairFrame; 5] {
        let hello = Hello {
            invite: InviteId::parse("7Q").unwrap(),
            kind: SecretKind::Code,
            nonce: [1; 32],
            name: "desk".parse().unwrap(),
            share: [2; SHARE_BYTES],
        };
        let answer = Answer {
            nonce: [3; 32],
            name: "laptop".parse().unwrap(),
            terms: Terms { role: 1, scope: "personal".to_owned() },
            share: [4; SHARE_BYTES],
        };
        let confirm = Confirm::from_bytes([5; 32]);
        [
            PairFrame::Hello(hello),
            PairFrame::Answer(answer),
            PairFrame::Confirm(confirm),
            PairFrame::Grant { confirm, port: 7, sealed_bytes: 6 },
            PairFrame::Done,
        ]
    }
}
