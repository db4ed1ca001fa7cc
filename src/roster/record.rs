//! The byte form of a roster record, final for ever: records are never dropped and never rewritten.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `KFR1` |
//! | 4 | 32 | space; zero in a genesis, whose hash *is* the space |
//! | 36 | 32 | author |
//! | 68 | 8 | hlc |
//! | 76 | 2 | kind |
//! | 78 | 1 | parent count p: 0 in a genesis, else 1–64 |
//! | 79 | 32 p | parents: hashes of the heads its author saw, strictly rising |
//! | 79 + 32 p | 4 | body length n |
//! | 83 + 32 p | n | body |
//! | 83 + 32 p + n | 64 | signature |
//!
//! Integers are big-endian. The author signs `BLAKE3("kinfold record v1" ‖ bytes before the
//! signature)`; `record hash = BLAKE3("kinfold record hash v1" ‖ all bytes)`.
//!
//! The forms of the bodies are in `manual/formats.md` §5.

use std::fmt;

use bytes::Bytes;
use thiserror::Error;

use super::content::{Content, Cursor, GENESIS};
use crate::crypto::{Identity, SignatureError, verify};
use crate::model::limits::{RECORD_BYTES_MAX, RECORD_PARENTS_MAX};
use crate::model::{Blame, DeviceId, Hlc, RecordHash, SpaceId};

/// A record that is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The bytes end before the fields do.
    #[error("{found} bytes are too few for a roster record with the fields it announces")]
    TooShort {
        /// Bytes found.
        found: usize,
    },
    /// More bytes than [`RECORD_BYTES_MAX`].
    #[error("a roster record of {found} bytes exceeds the limit of {limit}")]
    TooLong {
        /// Bytes found.
        found: usize,
        /// [`RECORD_BYTES_MAX`].
        limit: usize,
    },
    /// Does not begin with `KFR1`.
    #[error("not a roster record this kinfold reads: the first four bytes are {found:02x?}")]
    Magic {
        /// The bytes found.
        found: [u8; 4],
    },
    /// Fewer or more bytes than the fields take.
    #[error("the fields of the roster record take {announced} bytes, {found} are there")]
    Length {
        /// Bytes the fields take.
        announced: usize,
        /// Bytes found.
        found: usize,
    },
    /// A genesis with parents or a space, or another record without parents, or too many of them.
    #[error("a record of kind {kind} with {found} parents: a genesis has none and no space, others 1 to 64")]
    Parents {
        /// Its kind number.
        kind: u16,
        /// How many parents it names.
        found: usize,
    },
    /// Parents that are repeated or out of order.
    #[error("the parents of the roster record are not in strictly rising order")]
    ParentOrder,
    /// A body of a known kind that breaks its rules.
    #[error("the body of the roster record of kind {kind} breaks the rules of its kind")]
    Malformed {
        /// Its kind number.
        kind: u16,
    },
    /// The author did not sign these bytes.
    #[error("the roster record is not signed by its author {author:?}")]
    Signature {
        /// Who it says wrote it.
        author: DeviceId,
        /// What is wrong with the signature.
        #[source]
        source: SignatureError,
    },
    /// It belongs to another space.
    #[error("the roster record belongs to space {found:?}, this is space {expected:?}")]
    OtherSpace {
        /// The roster's space.
        expected: SpaceId,
        /// The record's.
        found: SpaceId,
    },
    /// Nothing its author had seen makes that author an admin.
    #[error("{author:?} is no admin by anything it had seen, so it cannot add devices; ask an admin to")]
    NotAdmin {
        /// Who signed it.
        author: DeviceId,
    },
    /// Nothing its author had seen makes that author a device of the space.
    #[error("{author:?} is no device of the space by anything it had seen")]
    NotMember {
        /// Who signed it.
        author: DeviceId,
    },
    /// The roster is full.
    #[error("the roster already holds {limit} records, the most one space may have")]
    TooManyRecords {
        /// [`RECORDS_MAX`](crate::model::limits::RECORDS_MAX).
        limit: usize,
    },
    /// Too many records wait for parents; send the parents first.
    #[error("{limit} records already wait for records they name; those have to come first")]
    TooManyParked {
        /// [`RECORDS_PARKED_MAX`](crate::model::limits::RECORDS_PARKED_MAX).
        limit: usize,
    },
}

impl RecordError {
    /// Whose fault it is.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::TooShort { .. }
            | Self::TooLong { .. }
            | Self::Magic { .. }
            | Self::Length { .. }
            | Self::Parents { .. }
            | Self::ParentOrder
            | Self::Malformed { .. }
            | Self::Signature { .. }
            | Self::OtherSpace { .. }
            | Self::NotAdmin { .. }
            | Self::NotMember { .. } => Blame::Peer,
            // A space that outgrew its limit is no fault of whoever sends its next record.
            Self::TooManyRecords { .. } => Blame::Local,
            Self::TooManyParked { .. } => Blame::Environment,
        }
    }
}

/// A record whose form and signature hold. Whether its author had the right is the DAG's to say.
#[derive(Clone)]
pub(super) struct Record {
    bytes: Bytes,
    hash: RecordHash,
    draft: Draft,
}

/// What a record says, before it is signed or after it is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Draft {
    /// The space; zero in a genesis.
    pub space: SpaceId,
    pub author: DeviceId,
    pub hlc: Hlc,
    /// Strictly rising.
    pub parents: Vec<RecordHash>,
    pub content: Content,
}

impl Record {
    /// Writes and signs a record.
    ///
    /// # Panics
    /// If the draft breaks the limits: a caller that writes records checks names and heads first.
    pub fn sign(identity: &Identity, draft: &Draft) -> Bytes {
        let body = draft.content.body();
        let mut bytes = Vec::with_capacity(overhead(draft.parents.len()) + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(draft.space.as_bytes());
        bytes.extend_from_slice(draft.author.as_bytes());
        bytes.extend_from_slice(&draft.hlc.get().to_be_bytes());
        bytes.extend_from_slice(&draft.content.kind().to_be_bytes());
        bytes.push(u8::try_from(draft.parents.len()).expect("a writer names at most 64 heads"));
        for parent in &draft.parents {
            bytes.extend_from_slice(parent.as_bytes());
        }
        bytes.extend_from_slice(&u32::try_from(body.len()).expect("bodies are small").to_be_bytes());
        bytes.extend_from_slice(&body);
        let signature = identity.sign(&signed_hash(&bytes));
        bytes.extend_from_slice(&signature);
        assert!(bytes.len() <= RECORD_BYTES_MAX, "a writer keeps the limit it will be held to");
        bytes.into()
    }

    /// Reads a record and checks its form and its signature.
    ///
    /// # Errors
    /// Every variant of [`RecordError`] that does not depend on other records.
    pub fn read(bytes: Bytes) -> Result<Self, RecordError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(RecordError::TooLong { found: bytes.len(), limit: RECORD_BYTES_MAX });
        }
        let draft = read_fields(&bytes)?;
        let (signed, signature) = bytes
            .split_last_chunk::<SIGNATURE_BYTES>()
            .expect("the fields were found to end with a signature");
        verify(&draft.author, &signed_hash(signed), signature)
            .map_err(|source| RecordError::Signature { author: draft.author, source })?;
        let hash = record_hash(&bytes);
        Ok(Self { bytes, hash, draft })
    }

    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub const fn hash(&self) -> RecordHash {
        self.hash
    }

    pub const fn author(&self) -> DeviceId {
        self.draft.author
    }

    pub const fn hlc(&self) -> Hlc {
        self.draft.hlc
    }

    pub fn parents(&self) -> &[RecordHash] {
        &self.draft.parents
    }

    pub const fn content(&self) -> &Content {
        &self.draft.content
    }

    /// The space it belongs to; for a genesis, the one it founds.
    pub const fn space(&self) -> SpaceId {
        match self.draft.content {
            Content::Genesis(_) => SpaceId::from_bytes(*self.hash.as_bytes()),
            Content::AddDevice(_)
            | Content::RemoveDevice(_)
            | Content::Rename(_)
            | Content::Dormant(_)
            | Content::Active(_)
            | Content::RotateKey(_)
            | Content::DesignateHost(_)
            | Content::SelectBranch(_)
            | Content::Unknown { .. } => self.draft.space,
        }
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({:?} kind {} by {:?})", self.hash, self.draft.content.kind(), self.draft.author)
    }
}

/// The name of a record: the hash of its bytes as received.
pub(super) fn record_hash(bytes: &[u8]) -> RecordHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"kinfold record hash v1");
    hasher.update(bytes);
    RecordHash::from_bytes(*hasher.finalize().as_bytes())
}

fn signed_hash(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"kinfold record v1");
    hasher.update(bytes);
    *hasher.finalize().as_bytes()
}

fn read_fields(bytes: &Bytes) -> Result<Draft, RecordError> {
    let too_short = || RecordError::TooShort { found: bytes.len() };
    let mut cursor = Cursor(bytes);
    let magic = cursor.array::<4>().ok_or_else(too_short)?;
    if &magic != MAGIC {
        return Err(RecordError::Magic { found: magic });
    }
    let space = SpaceId::from_bytes(cursor.array().ok_or_else(too_short)?);
    let author = DeviceId::from_bytes(cursor.array().ok_or_else(too_short)?);
    let hlc = Hlc::new(u64::from_be_bytes(cursor.array().ok_or_else(too_short)?));
    let kind = u16::from_be_bytes(cursor.array().ok_or_else(too_short)?);
    let parents = read_parents(&mut cursor, kind, &space).ok_or_else(too_short)??;
    let body_bytes = u32::from_be_bytes(cursor.array().ok_or_else(too_short)?) as usize;
    let announced = overhead(parents.len()).saturating_add(body_bytes);
    if announced != bytes.len() {
        return Err(RecordError::Length { announced, found: bytes.len() });
    }
    let body = cursor.slice(body_bytes).ok_or_else(too_short)?;
    Ok(Draft { space, author, hlc, parents, content: Content::read(kind, bytes.slice_ref(body))? })
}

/// `None` where the bytes end.
fn read_parents(
    cursor: &mut Cursor<'_>,
    kind: u16,
    space: &SpaceId,
) -> Option<Result<Vec<RecordHash>, RecordError>> {
    let count = usize::from(cursor.array::<1>()?[0]);
    let is_allowed = if kind == GENESIS {
        count == 0 && *space == NO_SPACE
    } else {
        (1..=RECORD_PARENTS_MAX).contains(&count)
    };
    if !is_allowed {
        return Some(Err(RecordError::Parents { kind, found: count }));
    }
    let mut parents = Vec::with_capacity(count);
    for _ in 0..count {
        parents.push(RecordHash::from_bytes(cursor.array()?));
    }
    let is_rising = parents.windows(2).all(|pair| pair[0] < pair[1]);
    Some(if is_rising { Ok(parents) } else { Err(RecordError::ParentOrder) })
}

const fn overhead(parent_count: usize) -> usize {
    4 + 32 + 32 + 8 + 2 + 1 + 32 * parent_count + 4 + SIGNATURE_BYTES
}

/// What a genesis names as its space.
pub(super) const NO_SPACE: SpaceId = SpaceId::from_bytes([0; 32]);

const MAGIC: &[u8; 4] = b"KFR1";
const SIGNATURE_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::super::content::{AddDevice, Genesis, SealedName};
    use super::super::role::Role;
    use super::*;
    use crate::crypto::vault;
    use crate::model::limits::NAME_BYTES_MAX;
    use crate::model::{KeyId, Scope};
    use proptest::prelude::*;

    fn identity() -> Identity {
        Identity::from_secret(&[1; 32])
    }

    fn name() -> SealedName {
        SealedName { key_id: KeyId::from_bytes([3; 16]), blob: Bytes::from_static(&[4; 90]) }
    }

    fn genesis() -> Draft {
        Draft {
            space: NO_SPACE,
            author: identity().device(),
            hlc: Hlc::new(77),
            parents: Vec::new(),
            content: Content::Genesis(Genesis { scope: Scope::Personal, nonce: [5; 32], name: name() }),
        }
    }

    fn add() -> Draft {
        Draft {
            space: SpaceId::from_bytes([6; 32]),
            parents: vec![RecordHash::from_bytes([7; 32]), RecordHash::from_bytes([8; 32])],
            content: Content::AddDevice(AddDevice {
                device: DeviceId::from_bytes([9; 32]),
                role: Role::Blind,
                name: name(),
            }),
            ..genesis()
        }
    }

    fn unknown(body: &'static [u8]) -> Draft {
        Draft { content: Content::Unknown { kind: 10, body: Bytes::from_static(body) }, ..add() }
    }

    /// Puts `bytes` at `at` of a good record and signs again, so that only the form is wrong.
    fn resigned(draft: &Draft, at: usize, bytes: &[u8]) -> Result<Record, RecordError> {
        let mut record = Record::sign(&identity(), draft).to_vec();
        record[at..at + bytes.len()].copy_from_slice(bytes);
        record.truncate(record.len() - SIGNATURE_BYTES);
        let signature = identity().sign(&signed_hash(&record));
        record.extend_from_slice(&signature);
        Record::read(record.into())
    }

    #[test]
    fn every_kind_reads_back() {
        for draft in [genesis(), add(), unknown(b""), unknown(b"whatever a later version says")] {
            let record = Record::read(Record::sign(&identity(), &draft)).unwrap();

            assert_eq!(record.draft, draft);
            assert_eq!(record.hash(), record_hash(record.bytes()));
        }
    }

    #[test]
    fn every_malformed_record_is_refused_by_name() {
        let bytes = Record::sign(&identity(), &add());
        let len = bytes.len();

        assert_eq!(Record::read(Bytes::new()).unwrap_err(), RecordError::TooShort { found: 0 });
        assert_eq!(Record::read(bytes.slice(..100)).unwrap_err(), RecordError::TooShort { found: 100 });
        let long = Bytes::from(vec![0; RECORD_BYTES_MAX + 1]);
        assert!(matches!(Record::read(long).unwrap_err(), RecordError::TooLong { .. }));
        assert_eq!(resigned(&add(), 0, b"KFR2").unwrap_err(), RecordError::Magic { found: *b"KFR2" });
        assert_eq!(
            Record::read(bytes.slice(..len - 1)).unwrap_err(),
            RecordError::Length { announced: len, found: len - 1 }
        );
        assert!(matches!(
            resigned(&add(), 79 + 64, &[255; 4]).unwrap_err(),
            RecordError::Length { announced, .. } if announced > 4_000_000_000
        ));
        assert_eq!(resigned(&add(), 79, &[9; 32]).unwrap_err(), RecordError::ParentOrder);
        assert_eq!(resigned(&add(), 79, &[8; 32]).unwrap_err(), RecordError::ParentOrder);
    }

    #[test]
    fn a_sender_is_blamed_for_bad_records_and_not_for_full_rosters() {
        assert_eq!(RecordError::ParentOrder.blame(), Blame::Peer);
        assert_eq!(RecordError::NotAdmin { author: identity().device() }.blame(), Blame::Peer);
        assert_eq!(RecordError::TooManyRecords { limit: 1 }.blame(), Blame::Local);
        assert_eq!(RecordError::TooManyParked { limit: 1 }.blame(), Blame::Environment);
    }

    #[test]
    fn a_genesis_has_no_past_and_every_other_record_has_one() {
        let refused = |draft: &Draft, at, bytes: &[u8]| resigned(draft, at, bytes).unwrap_err();

        assert_eq!(refused(&genesis(), 4, &[1]), RecordError::Parents { kind: 1, found: 0 });
        assert_eq!(refused(&add(), 76, &[0, 1]), RecordError::Parents { kind: 1, found: 2 });
        assert_eq!(refused(&add(), 78, &[0]), RecordError::Parents { kind: 2, found: 0 });
        assert_eq!(refused(&add(), 78, &[65]), RecordError::Parents { kind: 2, found: 65 });
    }

    #[test]
    fn a_known_kind_keeps_its_form_to_the_byte() {
        let body_at = |draft: &Draft| 83 + 32 * draft.parents.len();
        let (genesis, add) = (genesis(), add());
        let refused = |draft, at, bytes: &[u8]| resigned(draft, body_at(draft) + at, bytes).unwrap_err();

        // Another scope length, text that is no scope, a role of a later version, other name lengths.
        assert_eq!(refused(&genesis, 0, &[7]), RecordError::Malformed { kind: 1 });
        assert_eq!(refused(&genesis, 1, b"Q"), RecordError::Malformed { kind: 1 });
        assert_eq!(refused(&genesis, 1 + 8 + 16 + 32, &[0, 89]), RecordError::Malformed { kind: 1 });
        assert_eq!(refused(&add, 32, &[4]), RecordError::Malformed { kind: 2 });
        assert_eq!(refused(&add, 32 + 1 + 16, &[0, 91]), RecordError::Malformed { kind: 2 });
        let mut long = add.clone();
        let Content::AddDevice(added) = &mut long.content else { unreachable!("an add was built") };
        added.name.blob = vec![0; NAME_BYTES_MAX + vault::OVERHEAD_BYTES + 1].into();
        assert_eq!(
            Record::read(Record::sign(&identity(), &long)).unwrap_err(),
            RecordError::Malformed { kind: 2 }
        );
    }

    #[test]
    fn the_signature_covers_every_byte() {
        let bytes = Record::sign(&identity(), &add());

        for at in 0..bytes.len() {
            let mut spoiled = bytes.to_vec();
            spoiled[at] ^= 1;
            assert!(Record::read(spoiled.into()).is_err(), "byte {at}");
        }
        let mut forged = add();
        forged.author = Identity::from_secret(&[2; 32]).device();
        assert!(matches!(
            Record::read(Record::sign(&identity(), &forged)).unwrap_err(),
            RecordError::Signature { author, source: SignatureError::Mismatch } if author == forged.author
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_read_or_are_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), has_magic: bool) {
            if has_magic && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(MAGIC);
            }
            prop_assert!(Record::read(bytes.into()).is_err());
        }

        #[test]
        fn a_changed_and_resigned_record_reads_or_is_refused(at in 0usize..230, with: [u8; 4], is_genesis: bool) {
            let draft = if is_genesis { genesis() } else { add() };
            let _ = resigned(&draft, at.min(180), &with);
        }
    }
}
