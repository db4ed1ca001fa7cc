//! Control messages between two engines: one frame each on the control stream of a connection.
//!
//! A frame body is `kind u16 BE ‖ bincode body` ([`super::codec`]), at most [`FRAME_BYTES_MAX`]
//! bytes; the stream puts a length before it.
//!
//! | kind | message | body |
//! |---|---|---|
//! | 1 | `Hello` | version u16, features u64, store instance 16, wall ms u64, spaces\[scope 16, space 32, roster digest 32, frontier digest 32, echo tips, max epoch u64\] |
//! | 2 | `RosterHave` | scope 16, record hashes\[32\], rising |
//! | 3 | `Records` | scope 16, records\[bytes\] |
//! | 4 | `Frontier` | scope 16, tips, is full bool |
//! | 5 | `Ack` | scope 16, ack bytes ([`super::ack`]), tips, is full bool |
//! | 6 | `KeyRequest` | scope 16, key id 16 |
//! | 7 | `KeyGrant` | scope 16, key 32 |
//! | 8 | `KeyRefused` | scope 16, key id 16 |
//! | 9 | `Fork` | scope 16, log 40, witness 294 |
//! | 10 | `ForkProof` | scope 16, log 40, two witnesses 588 |
//! | 11 | `Locate` | scope 16, log 40, points\[seq u64, link 32\], rising |
//! | 12 | `Ping` | nonce u64 |
//! | 13 | `Pong` | nonce u64 |
//! | 14 | `Parting` | scope 16, log 40, common seq u64, common link 32, witnesses\[294\]: none, or the first batch after it and the last |
//! | 15 | `RotatePropose` | scope 16, n u64, key 32, record hashes\[32\], rising |
//! | 16 | `RotateConfirm` | scope 16, key id 16, signature 64 |
//! | 17 | `Delegate` | scope 16, roster digest 32 |
//! | 18 | `Receipt` | scope 16, roster digest 32, signature 64 |
//! | 19 | `HostHome` | scope 16, instance u64 |
//! | 20 | `HostPropose` | scope 16, proposal bytes |
//! | 21 | `HostConfirm` | scope 16, proposal hash 32, table digest 32, signature 64 |
//! | 22 | `HostPromised` | scope 16, proposal bytes |
//! | 23 | `HostUnable` | scope 16, proposal hash 32, why u8, certificate 32 |
//! | 24 | `HostWithdraw` | scope 16, proposal hash 32, signature 64 |
//! | 25 | `HostFetch` | scope 16, table digest 32 |
//! | 26 | `HostTable` | scope 16, total u32, offset u32, piece bytes |
//! | 27 | `Floor` | scope 16, manifest hash 32 |
//!
//! `tips` is a list of `log 40, seq u64, link 32`, strictly rising by log; seq 0 goes with a zero
//! link. `[…]` is a count and the items; integers inside a body are bincode's little-endian
//! varints, fixed-size byte fields are raw. A kind that is not in the table decodes to
//! [`Message::Unknown`] and is ignored, so a later version can add kinds; it never adds fields.

mod check;
mod form;
mod host;

use bytes::Bytes;
use thiserror::Error;

pub use self::host::{HostMessage, PROPOSAL_BYTES_MAX, TABLE_PIECE_BYTES_MAX};
use super::checkpoint::CheckpointHash;
use super::codec::DecodeError;
use crate::crypto::{EpochKey, ForkWitness};
use crate::model::limits::{FRAME_BYTES_MAX, LOGS_MAX, RECORD_BYTES_MAX, RECORDS_MAX};
use crate::model::{Blame, KeyId, LogId, RecordHash, ScopeTag, SpaceId, Tip, Wall};

/// A frame that is no message, or a message that is no frame.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Not even a kind.
    #[error("a frame of {found} bytes is too short for a message")]
    TooShort {
        /// Bytes found.
        found: usize,
    },
    /// More bytes than [`FRAME_BYTES_MAX`].
    #[error("a message of {found} bytes exceeds the frame limit of {limit}")]
    TooLong {
        /// Bytes found.
        found: usize,
        /// [`FRAME_BYTES_MAX`].
        limit: usize,
    },
    /// A body that is not of its kind's shape.
    #[error("the body of a message of kind {kind} does not decode")]
    Body {
        /// The kind number.
        kind: u16,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
    /// A list with more items than its limit.
    #[error("a list of {found} items in a message exceeds the limit of {limit}")]
    TooMany {
        /// Items found.
        found: usize,
        /// The limit of that list.
        limit: usize,
    },
    /// A list that must rise strictly and does not.
    #[error("a list in a message of kind {kind} is not in strictly rising order")]
    Order {
        /// The kind number.
        kind: u16,
    },
    /// A tip that names a link for an empty log, or none for one that is not.
    #[error("the tip of log {log:?} has a link exactly where it is empty")]
    Tip {
        /// The log.
        log: LogId,
    },
    /// A byte field of another length than its kind allows.
    #[error("a byte field of {found} bytes in a message of kind {kind} must have {expected}")]
    FieldLength {
        /// The kind number.
        kind: u16,
        /// Bytes it must have, or may have at most where it varies.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// A space announced under a tag that is not its own.
    #[error("space {space:?} was announced under the tag {found:?}, its own is {expected:?}")]
    ScopeTag {
        /// The space.
        space: SpaceId,
        /// Its tag.
        expected: ScopeTag,
        /// The tag announced.
        found: ScopeTag,
    },
}

impl MessageError {
    /// Whose fault it is where a frame was received: its sender's, always. A message that does not
    /// encode is this device's own fault.
    pub const fn blame(&self) -> Blame {
        Blame::Peer
    }
}

/// One control message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// The first message each way: who I am and what I hold, in digests.
    Hello(Hello),
    /// The roster records I hold; answered with [`Message::Records`] for those I lack.
    RosterHave {
        /// The space.
        scope: ScopeTag,
        /// Strictly rising.
        hashes: Vec<RecordHash>,
    },
    /// Roster records as received, parents first.
    Records {
        /// The space.
        scope: ScopeTag,
        /// Their bytes.
        records: Vec<Bytes>,
    },
    /// What I hold durably.
    Frontier {
        /// The space.
        scope: ScopeTag,
        /// Strictly rising by log.
        entries: Vec<(LogId, Tip)>,
        /// Whether this is everything, or what changed since this connection last said.
        is_full: bool,
    },
    /// A device's signed ack, the sender's own or one passed on.
    Ack(AckFrame),
    /// I hold batches under this key and not the key.
    KeyRequest {
        /// The space.
        scope: ScopeTag,
        /// The key.
        key_id: KeyId,
    },
    /// An epoch key, for a member that asked.
    KeyGrant {
        /// The space.
        scope: ScopeTag,
        /// The key; prints as its id.
        key: EpochKey,
    },
    /// I do not hold this key, or you may not.
    KeyRefused {
        /// The space.
        scope: ScopeTag,
        /// The key.
        key_id: KeyId,
    },
    /// My signed header at the place where our copies of a log part.
    Fork {
        /// The space.
        scope: ScopeTag,
        /// The log.
        log: LogId,
        /// [`ForkWitness::to_bytes`].
        witness: Box<[u8; ForkWitness::BYTES]>,
    },
    /// Two signed headers for one place in a log.
    ForkProof {
        /// The space.
        scope: ScopeTag,
        /// The log.
        log: LogId,
        /// Two witnesses, one after the other.
        bytes: Bytes,
    },
    /// Ends of my batches of a log of yours or mine: which of them are on your history of it?
    /// Answered with [`Message::Parting`].
    Locate {
        /// The space.
        scope: ScopeTag,
        /// The log.
        log: LogId,
        /// Strictly rising by position, at most [`POINTS_MAX`].
        points: Vec<Tip>,
    },
    /// Answer with a [`Message::Pong`] of the same nonce.
    Ping {
        /// Any number.
        nonce: u64,
    },
    /// The answer to a [`Message::Ping`].
    Pong {
        /// The number asked with.
        nonce: u64,
    },
    /// The answer to [`Message::Locate`].
    Parting {
        /// The space.
        scope: ScopeTag,
        /// The log.
        log: LogId,
        /// The greatest of the points that is on my history; [`Tip::NONE`] where none is.
        common: Tip,
        /// The signed headers of my first batch after it and of my last one; `None` where I hold
        /// nothing beyond it.
        ends: Option<Box<[[u8; ForkWitness::BYTES]; 2]>>,
    },
    /// A new key for an epoch, to be confirmed once it is durable.
    RotatePropose {
        /// The space.
        scope: ScopeTag,
        /// The number of the epoch.
        n: u64,
        /// Its key; prints as its id.
        key: EpochKey,
        /// The roster heads the proposal is made over, strictly rising.
        parents: Vec<RecordHash>,
    },
    /// I hold the proposed key durably.
    RotateConfirm {
        /// The space.
        scope: ScopeTag,
        /// The key proposed.
        key_id: KeyId,
        /// Over the hash of the proposal.
        signature: Box<[u8; 64]>,
    },
    /// Take over the rotation that is due in this space.
    Delegate {
        /// The space.
        scope: ScopeTag,
        /// The roster it is due for.
        digest: [u8; 32],
    },
    /// I have taken it over.
    Receipt {
        /// The space.
        scope: ScopeTag,
        /// The roster it is due for.
        digest: [u8; 32],
        /// Over both and the device that asked.
        signature: Box<[u8; 64]>,
    },
    /// About the host of the register of leases.
    Host {
        /// The space.
        scope: ScopeTag,
        /// What is said.
        message: HostMessage,
    },
    /// Some of what you lack I do not hold any more: my history begins at this checkpoint. Begin there
    /// too; the rest follows.
    Floor {
        /// The space.
        scope: ScopeTag,
        /// The checkpoint.
        base: CheckpointHash,
    },
    /// A kind that a later version defines; to be ignored.
    Unknown(u16),
}

/// The content of [`Message::Hello`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The protocol version spoken.
    pub version: u16,
    /// One bit per optional behaviour.
    pub features: u64,
    /// Random per store: tells a copied home from the original.
    pub store_instance: [u8; 16],
    /// The sender's wall clock, so that a wrong one can be named.
    pub wall: Wall,
    /// The spaces both may share.
    pub spaces: Vec<SpaceHello>,
}

/// One space in a [`Hello`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpaceHello {
    /// The tag of `space`.
    pub scope: ScopeTag,
    /// The space.
    pub space: SpaceId,
    /// Digest of the roster held.
    pub roster_digest: [u8; 32],
    /// Digest of the frontier held durably.
    pub frontier_digest: [u8; 32],
    /// The receiver's own logs as the sender holds them, strictly rising by log.
    pub echo: Vec<(LogId, Tip)>,
    /// The greatest lease epoch seen.
    pub max_epoch: u64,
}

/// The content of [`Message::Ack`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AckFrame {
    /// The space.
    pub scope: ScopeTag,
    /// The signed ack ([`super::Ack`]), unread here: it may be of a later version and is then
    /// only ignored. At most [`ACK_BYTES_MAX`].
    pub bytes: Bytes,
    /// The frontier acknowledged, strictly rising by log.
    pub entries: Vec<(LogId, Tip)>,
    /// Whether the entries are the whole frontier, or what changed since this device's last ack.
    pub is_full: bool,
}

impl Message {
    /// Its kind number.
    pub const fn kind(&self) -> u16 {
        match self {
            Self::Hello(_) => form::HELLO,
            Self::RosterHave { .. } => form::ROSTER_HAVE,
            Self::Records { .. } => form::RECORDS,
            Self::Frontier { .. } => form::FRONTIER,
            Self::Ack(_) => form::ACK,
            Self::KeyRequest { .. } => form::KEY_REQUEST,
            Self::KeyGrant { .. } => form::KEY_GRANT,
            Self::KeyRefused { .. } => form::KEY_REFUSED,
            Self::Fork { .. } => form::FORK,
            Self::ForkProof { .. } => form::FORK_PROOF,
            Self::Locate { .. } => form::LOCATE,
            Self::Ping { .. } => form::PING,
            Self::Pong { .. } => form::PONG,
            Self::Parting { .. } => form::PARTING,
            Self::RotatePropose { .. } => form::ROTATE_PROPOSE,
            Self::RotateConfirm { .. } => form::ROTATE_CONFIRM,
            Self::Delegate { .. } => form::DELEGATE,
            Self::Receipt { .. } => form::RECEIPT,
            Self::Host { message, .. } => message.kind(),
            Self::Floor { .. } => form::FLOOR,
            Self::Unknown(kind) => *kind,
        }
    }

    /// Its name, for logs: whole messages do not belong there.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::RosterHave { .. } => "roster-have",
            Self::Records { .. } => "records",
            Self::Frontier { .. } => "frontier",
            Self::Ack(_) => "ack",
            Self::KeyRequest { .. } => "key-request",
            Self::KeyGrant { .. } => "key-grant",
            Self::KeyRefused { .. } => "key-refused",
            Self::Fork { .. } => "fork",
            Self::ForkProof { .. } => "fork-proof",
            Self::Locate { .. } => "locate",
            Self::Ping { .. } => "ping",
            Self::Pong { .. } => "pong",
            Self::Parting { .. } => "parting",
            Self::RotatePropose { .. } => "rotate-propose",
            Self::RotateConfirm { .. } => "rotate-confirm",
            Self::Delegate { .. } => "delegate",
            Self::Receipt { .. } => "receipt",
            Self::Host { message, .. } => message.name(),
            Self::Floor { .. } => "floor",
            Self::Unknown(_) => "unknown",
        }
    }

    /// The frame body; [`Message::Unknown`] gets an empty one.
    ///
    /// # Errors
    /// Every variant of [`MessageError`] but [`MessageError::TooShort`] and [`MessageError::Body`]:
    /// what would be refused on the other side is not sent.
    pub fn encode(&self) -> Result<Bytes, MessageError> {
        self.check()?;
        let bytes = form::write(self);
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(MessageError::TooLong { found: bytes.len(), limit: FRAME_BYTES_MAX });
        }
        Ok(bytes.into())
    }

    /// Reads a frame body. Nothing of the frame is kept alive by the message.
    ///
    /// # Errors
    /// Every variant of [`MessageError`].
    pub fn decode(frame: &[u8]) -> Result<Self, MessageError> {
        if frame.len() > FRAME_BYTES_MAX {
            return Err(MessageError::TooLong { found: frame.len(), limit: FRAME_BYTES_MAX });
        }
        let Some((kind, body)) = frame.split_first_chunk::<2>() else {
            return Err(MessageError::TooShort { found: frame.len() });
        };
        let message = form::read(u16::from_be_bytes(*kind), body)?;
        message.check()?;
        Ok(message)
    }

    /// Spreads records over as many messages as frames need, in order.
    pub fn records(scope: ScopeTag, records: impl IntoIterator<Item = Bytes>) -> Vec<Self> {
        let mut messages = Vec::new();
        let (mut batch, mut byte_count) = (Vec::new(), 0);
        for record in records {
            let takes = record.len() + LENGTH_BYTES_MAX;
            if byte_count + takes > FRAME_BYTES_MAX - RECORDS_FIXED_BYTES {
                messages.push(Self::Records { scope, records: std::mem::take(&mut batch) });
                byte_count = 0;
            }
            byte_count += takes;
            batch.push(record);
        }
        if !batch.is_empty() {
            messages.push(Self::Records { scope, records: batch });
        }
        messages
    }
}

/// Points in one [`Message::Locate`]: a thousand batches part in two questions, a million in four.
pub const POINTS_MAX: usize = 32;

/// Greatest ack in bytes: leaves a later version room to say more.
pub const ACK_BYTES_MAX: usize = 1024;

/// bincode's longest length prefix.
const LENGTH_BYTES_MAX: usize = 9;
/// Kind, scope and count of a `Records` message.
const RECORDS_FIXED_BYTES: usize = 2 + 16 + LENGTH_BYTES_MAX;

// The greatest roster and frontier each fit one frame, so neither needs to be spread.
const _: () = assert!(RECORDS_FIXED_BYTES + RECORDS_MAX * 32 <= FRAME_BYTES_MAX);
const _: () = assert!(64 + ACK_BYTES_MAX + LOGS_MAX * (40 + 9 + 32) <= FRAME_BYTES_MAX);
const _: () = assert!(RECORDS_FIXED_BYTES + RECORD_BYTES_MAX + LENGTH_BYTES_MAX <= FRAME_BYTES_MAX);
