//! Checkpoints: the manifest, the word of a device that has computed it, and how both are asked for.
//!
//! **Manifest, KFM2**
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `KFM2` |
//! | 4 | 32 | space |
//! | 36 | 4 | fold version |
//! | 40 | 32 | hash of the manifest before, zero for none |
//! | 72 | 32 | root of the state at the cut |
//! | 104 | 32 | content: hash of the plain pieces, see below |
//! | 136 | 16 | id of the epoch key the chunks are sealed under |
//! | 152 | 32 | author |
//! | 184 | 4 | logs in the cut |
//! | 188 | 4 | chunks of the state |
//! | 192 | 4 | chunks in all |
//! | 196 | 80 each | cut: log 40, seq u64, link 32, rising by log |
//! | | 32 each | chunks: BLAKE3 of each sealed chunk, the state's first |
//! | | 64 | signature over `BLAKE3("kinfold checkpoint v1" ‖ bytes before it)` |
//!
//! Its hash is `BLAKE3("kinfold manifest v1" ‖ all bytes)`. The content is `BLAKE3("kinfold content v1" ‖
//! [piece length u32 ‖ piece])` over the chunks as they are before sealing.
//!
//! **Attestation, KFT1**, 217 bytes: magic 4, basis u8 (0 = the whole log, 1 = a checkpoint that was adopted),
//! scope tag 16, device 32, fold version u32, digest of the cut 32 ([`Frontier::digest`]), root 32, content 32,
//! signature 64 over `BLAKE3("kinfold attestation v1" ‖ bytes before it)`. It names no manifest: whoever seals
//! the same state is attested by it too.
//!
//! **Asking.** A question is `kind u8 ‖ …`: 1 `Newest` (hash of the asker's newest manifest or zero, then its
//! own attestation or nothing), 2 `Manifest` (hash 32, offset u32), 3 `Chunk` (hash 32). Answers: 1 `Newest`
//! (hash or zero, hash of the one its history begins with or zero, count u16, attestations), 2 `Piece` (total u32, offset u32, bytes), 3 `Chunk` (bytes), 4
//! `Nothing`. Integers are big-endian.

use std::fmt;

use bytes::Bytes;
use thiserror::Error;

use crate::crypto::{Identity, SignatureError, verify};
use crate::model::limits::{BATCH_SEALED_BYTES_MAX, DEVICES_MAX, LOGS_MAX};
use crate::model::{Blame, DeviceId, Frontier, KeyId, LogId, Root, ScopeTag, Seq, SpaceId, Tip, TipHash};

/// Bytes that are no manifest, no attestation, or no question about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Fewer bytes than the form needs, or more.
    #[error("{found} bytes where the form has {expected}")]
    Length {
        /// Bytes the form has.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// Another magic, or a kind that is not known.
    #[error("not a form of checkpoints this kinfold reads: it begins with {found:02x?}")]
    Magic {
        /// The first bytes.
        found: [u8; 4],
    },
    /// A count beyond its limit.
    #[error("a checkpoint counts {found} where at most {limit} are allowed")]
    TooMany {
        /// What it says.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A cut whose logs do not rise, or with a place without a link.
    #[error("the cut of a checkpoint is not in order")]
    Cut,
    /// An attestation on a basis that is not known.
    #[error("an attestation rests on basis {found}, which this kinfold does not know")]
    Basis {
        /// Its number.
        found: u8,
    },
}

impl CheckpointError {
    /// Whose fault it is: the sender's, always.
    pub const fn blame(&self) -> Blame {
        Blame::Peer
    }
}

/// The hash of a manifest: the name of a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointHash([u8; 32]);

impl CheckpointHash {
    /// Takes the raw hash.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// The raw hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for CheckpointHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CheckpointHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckpointHash({:02x}{:02x}{:02x}{:02x})", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

/// What a checkpoint is of, and what it consists of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManifestFields {
    /// The space.
    pub space: SpaceId,
    /// The rules that folded it.
    pub fold_version: u32,
    /// The checkpoint before, as its author knew it.
    pub parent: Option<CheckpointHash>,
    /// The root of the state at the cut.
    pub root: Root,
    /// See the module.
    pub content: [u8; 32],
    /// The epoch key its chunks are sealed under.
    pub key_id: KeyId,
    /// Who made it.
    pub author: DeviceId,
    /// How far each log is within it.
    pub cut: Frontier,
    /// How many of the chunks are the state; those behind are what it points at.
    pub state_chunks: u32,
    /// The hashes of the sealed chunks.
    pub chunks: Vec<[u8; 32]>,
}

/// A well-formed manifest, as received: not yet believed, see [`Manifest::verify`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    bytes: Bytes,
    fields: ManifestFields,
}

impl Manifest {
    /// Signs a manifest; its author is the identity's device, whatever `fields` says.
    ///
    /// # Panics
    /// If there are more logs or chunks than the limits allow: whoever makes one checks before.
    pub fn sign(identity: &Identity, fields: ManifestFields) -> Self {
        let fields = ManifestFields { author: identity.device(), ..fields };
        let count = |found: usize| u32::try_from(found).expect("counted before").to_be_bytes();
        let mut bytes = Vec::with_capacity(HEAD_BYTES + CUT_BYTES * fields.cut.log_count() + 64);
        bytes.extend_from_slice(MANIFEST);
        bytes.extend_from_slice(fields.space.as_bytes());
        bytes.extend_from_slice(&fields.fold_version.to_be_bytes());
        bytes.extend_from_slice(&fields.parent.map_or([0; 32], |parent| parent.0));
        bytes.extend_from_slice(fields.root.as_bytes());
        bytes.extend_from_slice(&fields.content);
        bytes.extend_from_slice(fields.key_id.as_bytes());
        bytes.extend_from_slice(fields.author.as_bytes());
        bytes.extend_from_slice(&count(fields.cut.log_count()));
        bytes.extend_from_slice(&fields.state_chunks.to_be_bytes());
        bytes.extend_from_slice(&count(fields.chunks.len()));
        for (log, tip) in fields.cut.iter() {
            bytes.extend_from_slice(&log.to_bytes());
            bytes.extend_from_slice(&tip.seq.get().to_be_bytes());
            bytes.extend_from_slice(tip.hash.as_bytes());
        }
        fields.chunks.iter().for_each(|chunk| bytes.extend_from_slice(chunk));
        let signature = identity.sign(&hash(b"kinfold checkpoint v1", &bytes));
        bytes.extend_from_slice(&signature);
        Self { bytes: bytes.into(), fields }
    }

    /// Reads a manifest and checks its form, not its signature.
    ///
    /// # Errors
    /// Every variant of [`CheckpointError`].
    pub fn parse(bytes: Bytes) -> Result<Self, CheckpointError> {
        let mut reader = Reader::of(&bytes);
        reader.magic(MANIFEST)?;
        let space = SpaceId::from_bytes(reader.array()?);
        let fold_version = u32::from_be_bytes(reader.array()?);
        let parent = Some(reader.array()?).filter(|hash| *hash != [0; 32]).map(CheckpointHash);
        let root = Root::from_bytes(reader.array()?);
        let content = reader.array()?;
        let key_id = KeyId::from_bytes(reader.array()?);
        let author = DeviceId::from_bytes(reader.array()?);
        let log_count = reader.count(LOGS_MAX)?;
        let state_chunks = reader.count(CHUNKS_MAX)?;
        let chunk_count = reader.count(CHUNKS_MAX)?;
        if state_chunks > chunk_count {
            return Err(CheckpointError::TooMany { found: state_chunks, limit: chunk_count });
        }
        let expected = HEAD_BYTES + CUT_BYTES * log_count + 32 * chunk_count + 64;
        if bytes.len() != expected {
            return Err(CheckpointError::Length { expected, found: bytes.len() });
        }
        let mut logs: Vec<(LogId, Tip)> = Vec::with_capacity(log_count);
        for _ in 0..log_count {
            let log = LogId::from_bytes(&reader.array()?);
            let seq = Seq::new(u64::from_be_bytes(reader.array()?));
            let tip = Tip { seq, hash: TipHash::from_bytes(reader.array()?) };
            let rises = logs.last().is_none_or(|(before, _)| *before < log);
            if !rises || tip.seq == Seq::ZERO || tip.hash == TipHash::NONE {
                return Err(CheckpointError::Cut);
            }
            logs.push((log, tip));
        }
        let chunks = (0..chunk_count).map(|_| reader.array()).collect::<Result<_, _>>()?;
        let fields = ManifestFields {
            space,
            fold_version,
            parent,
            root,
            content,
            key_id,
            author,
            cut: logs.into_iter().collect(),
            state_chunks: u32::try_from(state_chunks).expect("counted from a u32"),
            chunks,
        };
        Ok(Self { bytes, fields })
    }

    /// Checks the author's signature.
    ///
    /// # Errors
    /// Every variant of [`SignatureError`].
    pub fn verify(&self) -> Result<(), SignatureError> {
        let (signed, signature) = self.bytes.split_last_chunk::<64>().expect("parsed with its signature");
        verify(&self.fields.author, &hash(b"kinfold checkpoint v1", signed), signature)
    }

    /// What it says.
    pub const fn fields(&self) -> &ManifestFields {
        &self.fields
    }

    /// Its bytes, as received or signed.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its name.
    pub fn hash(&self) -> CheckpointHash {
        CheckpointHash(hash(b"kinfold manifest v1", &self.bytes))
    }
}

/// What a device that attests has folded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Basis {
    /// Every op, from the first on: it vouches for the whole.
    Log,
    /// What followed a checkpoint that it adopted from others: it vouches for that part.
    Adopted,
}

/// What an attestation says: this device has folded its own log up to the cut, and that is what came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AttestationFields {
    /// The space.
    pub scope: ScopeTag,
    /// Who has computed it.
    pub device: DeviceId,
    /// By which rules.
    pub fold_version: u32,
    /// [`Frontier::digest`] of the cut.
    pub cut_digest: [u8; 32],
    /// The root.
    pub root: Root,
    /// The hash of the content.
    pub content: [u8; 32],
    /// What it was folded from.
    pub basis: Basis,
}

/// A well-formed attestation, as received: not yet believed, see [`Attestation::verify`].
#[derive(Clone, PartialEq, Eq)]
pub struct Attestation {
    bytes: [u8; Self::BYTES],
    fields: AttestationFields,
}

impl Attestation {
    /// Bytes of the byte form.
    pub const BYTES: usize = 217;

    /// Signs an attestation; its device is the identity's, whatever `fields` says.
    pub fn sign(identity: &Identity, fields: AttestationFields) -> Self {
        let fields = AttestationFields { device: identity.device(), ..fields };
        let mut bytes = Vec::with_capacity(Self::BYTES);
        bytes.extend_from_slice(ATTESTATION);
        bytes.push(match fields.basis {
            Basis::Log => 0,
            Basis::Adopted => 1,
        });
        bytes.extend_from_slice(fields.scope.as_bytes());
        bytes.extend_from_slice(fields.device.as_bytes());
        bytes.extend_from_slice(&fields.fold_version.to_be_bytes());
        bytes.extend_from_slice(&fields.cut_digest);
        bytes.extend_from_slice(fields.root.as_bytes());
        bytes.extend_from_slice(&fields.content);
        let signature = identity.sign(&hash(b"kinfold attestation v1", &bytes));
        bytes.extend_from_slice(&signature);
        Self { bytes: bytes.try_into().expect("the fields and a signature"), fields }
    }

    /// Reads an attestation and checks its form, not its signature.
    ///
    /// # Errors
    /// [`CheckpointError::Length`], [`CheckpointError::Magic`], [`CheckpointError::Basis`].
    pub fn parse(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let found = bytes.len();
        let bytes: [u8; Self::BYTES] =
            bytes.try_into().map_err(|_| CheckpointError::Length { expected: Self::BYTES, found })?;
        let mut reader = Reader::of(&bytes);
        reader.magic(ATTESTATION)?;
        let basis = match reader.array()? {
            [0] => Basis::Log,
            [1] => Basis::Adopted,
            [found] => return Err(CheckpointError::Basis { found }),
        };
        let fields = AttestationFields {
            scope: ScopeTag::from_bytes(reader.array()?),
            device: DeviceId::from_bytes(reader.array()?),
            fold_version: u32::from_be_bytes(reader.array()?),
            cut_digest: reader.array()?,
            root: Root::from_bytes(reader.array()?),
            content: reader.array()?,
            basis,
        };
        Ok(Self { bytes, fields })
    }

    /// Checks the device's signature.
    ///
    /// # Errors
    /// Every variant of [`SignatureError`].
    pub fn verify(&self) -> Result<(), SignatureError> {
        let (signed, signature) = self.bytes.split_last_chunk::<64>().expect("it has its bytes");
        verify(&self.fields.device, &hash(b"kinfold attestation v1", signed), signature)
    }

    /// What it says.
    pub const fn fields(&self) -> &AttestationFields {
        &self.fields
    }

    /// Its bytes, as received or signed.
    pub const fn bytes(&self) -> &[u8; Self::BYTES] {
        &self.bytes
    }

    /// Whether it is about what a manifest is about.
    pub fn is_of(&self, manifest: &ManifestFields) -> bool {
        self.fields.scope == manifest.space.tag()
            && self.fields.fold_version == manifest.fold_version
            && self.fields.cut_digest == manifest.cut.digest()
            && self.fields.root == manifest.root
            && self.fields.content == manifest.content
    }
}

impl fmt::Debug for Attestation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attestation({:?} root {:?})", self.fields.device, self.fields.root)
    }
}

/// What one device asks another about checkpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CheckpointQuestion {
    /// Which is your newest, and who attests it? This is mine.
    Newest {
        /// The asker's newest.
        held: Option<CheckpointHash>,
        /// The asker's own word about it.
        attestation: Option<Box<Attestation>>,
    },
    /// A piece of a manifest.
    Manifest {
        /// Which.
        hash: CheckpointHash,
        /// From where on.
        offset: u32,
    },
    /// A sealed chunk.
    Chunk {
        /// Its hash.
        hash: [u8; 32],
    },
    /// Whole batches of a log, for whoever folds again what a checkpoint stands for.
    Run {
        /// The log.
        log: LogId,
        /// The place they are to follow.
        after: Seq,
        /// None that ends beyond this.
        through: Seq,
    },
}

/// What the other says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CheckpointAnswer {
    /// This is my newest, with what I have heard of it.
    Newest {
        /// The newest.
        held: Option<CheckpointHash>,
        /// The one that its history begins with, where it does not hold every op from the first on.
        base: Option<CheckpointHash>,
        /// At most [`DEVICES_MAX`], one of a device.
        attestations: Vec<Attestation>,
    },
    /// A piece of a manifest.
    Piece {
        /// Bytes of the whole.
        total: u32,
        /// Where the piece begins.
        offset: u32,
        /// The piece, at most [`PIECE_BYTES_MAX`].
        bytes: Bytes,
    },
    /// A sealed chunk, at most [`CHUNK_SEALED_BYTES_MAX`].
    Chunk {
        /// Its bytes.
        bytes: Bytes,
    },
    /// Consecutive sealed batches, at most [`RUN_BYTES_MAX`].
    Run {
        /// Their bytes.
        bytes: Bytes,
    },
    /// I do not hold it.
    Nothing,
}

impl CheckpointQuestion {
    /// The byte form.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Newest { held, attestation } => {
                let mut bytes = vec![NEWEST];
                bytes.extend_from_slice(&held.map_or([0; 32], |held| held.0));
                attestation.iter().for_each(|attestation| bytes.extend_from_slice(attestation.bytes()));
                bytes
            }
            Self::Manifest { hash, offset } => {
                [&[PIECE][..], hash.as_bytes(), &offset.to_be_bytes()].concat()
            }
            Self::Chunk { hash } => [&[CHUNK][..], hash].concat(),
            Self::Run { log, after, through } => {
                let (after, through) = (after.get().to_be_bytes(), through.get().to_be_bytes());
                [&[RUN][..], &log.to_bytes(), &after, &through].concat()
            }
        }
    }

    /// Reads the byte form.
    ///
    /// # Errors
    /// [`CheckpointError::Length`], [`CheckpointError::Magic`], [`CheckpointError::Basis`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let mut reader = Reader::of(bytes);
        let [kind] = reader.array()?;
        let question = match kind {
            NEWEST => {
                let held = Some(reader.array()?).filter(|hash| *hash != [0; 32]).map(CheckpointHash);
                let attestation = match reader.rest.is_empty() {
                    true => None,
                    false => Some(Box::new(Attestation::parse(std::mem::take(&mut reader.rest))?)),
                };
                Self::Newest { held, attestation }
            }
            PIECE => Self::Manifest {
                hash: CheckpointHash(reader.array()?),
                offset: u32::from_be_bytes(reader.array()?),
            },
            CHUNK => Self::Chunk { hash: reader.array()? },
            RUN => Self::Run {
                log: LogId::from_bytes(&reader.array()?),
                after: Seq::new(u64::from_be_bytes(reader.array()?)),
                through: Seq::new(u64::from_be_bytes(reader.array()?)),
            },
            _ => return Err(CheckpointError::Magic { found: [kind, 0, 0, 0] }),
        };
        reader.end()?;
        Ok(question)
    }
}

impl CheckpointAnswer {
    /// The byte form.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Self::Newest { held, base, attestations } => {
                let mut bytes = vec![NEWEST];
                bytes.extend_from_slice(&held.map_or([0; 32], |held| held.0));
                bytes.extend_from_slice(&base.map_or([0; 32], |base| base.0));
                let count = u16::try_from(attestations.len()).expect("one of a device at most");
                bytes.extend_from_slice(&count.to_be_bytes());
                attestations.iter().for_each(|attestation| bytes.extend_from_slice(attestation.bytes()));
                bytes.into()
            }
            Self::Piece { total, offset, bytes } => {
                [&[PIECE][..], &total.to_be_bytes(), &offset.to_be_bytes(), bytes].concat().into()
            }
            Self::Chunk { bytes } => [&[CHUNK][..], bytes].concat().into(),
            Self::Run { bytes } => [&[RUN][..], bytes].concat().into(),
            Self::Nothing => Bytes::from_static(&[NOTHING]),
        }
    }

    /// Reads the byte form.
    ///
    /// # Errors
    /// Every variant of [`CheckpointError`] but [`CheckpointError::Cut`].
    pub fn from_bytes(bytes: &Bytes) -> Result<Self, CheckpointError> {
        let mut reader = Reader::of(bytes);
        let [kind] = reader.array()?;
        let answer = match kind {
            NEWEST => {
                let held = Some(reader.array()?).filter(|hash| *hash != [0; 32]).map(CheckpointHash);
                let base = Some(reader.array()?).filter(|hash| *hash != [0; 32]).map(CheckpointHash);
                let count = usize::from(u16::from_be_bytes(reader.array()?));
                if count > DEVICES_MAX {
                    return Err(CheckpointError::TooMany { found: count, limit: DEVICES_MAX });
                }
                let attestations = (0..count)
                    .map(|_| Attestation::parse(reader.slice(Attestation::BYTES)?))
                    .collect::<Result<_, _>>()?;
                Self::Newest { held, base, attestations }
            }
            PIECE => {
                let total = u32::from_be_bytes(reader.array()?);
                let offset = u32::from_be_bytes(reader.array()?);
                let piece = reader.take_rest(PIECE_BYTES_MAX)?;
                let end = offset as usize + piece.len();
                if total as usize > MANIFEST_BYTES_MAX || end > total as usize {
                    return Err(CheckpointError::TooMany { found: end, limit: MANIFEST_BYTES_MAX });
                }
                Self::Piece { total, offset, bytes: Bytes::copy_from_slice(piece) }
            }
            CHUNK => Self::Chunk { bytes: Bytes::copy_from_slice(reader.take_rest(CHUNK_SEALED_BYTES_MAX)?) },
            RUN => Self::Run { bytes: bytes.slice(1..1 + reader.take_rest(RUN_BYTES_MAX)?.len()) },
            NOTHING => Self::Nothing,
            _ => return Err(CheckpointError::Magic { found: [kind, 0, 0, 0] }),
        };
        reader.end()?;
        Ok(answer)
    }
}

struct Reader<'a> {
    whole: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    const fn of(bytes: &'a [u8]) -> Self {
        Self { whole: bytes.len(), rest: bytes }
    }

    fn slice(&mut self, len: usize) -> Result<&'a [u8], CheckpointError> {
        let short =
            CheckpointError::Length { expected: self.whole - self.rest.len() + len, found: self.whole };
        let (front, rest) = self.rest.split_at_checked(len).ok_or(short)?;
        self.rest = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        Ok(self.slice(N)?.try_into().expect("the slice has N bytes"))
    }

    fn magic(&mut self, expected: &[u8; 4]) -> Result<(), CheckpointError> {
        let found: [u8; 4] = self.array()?;
        if found == *expected { Ok(()) } else { Err(CheckpointError::Magic { found }) }
    }

    fn count(&mut self, limit: usize) -> Result<usize, CheckpointError> {
        let found = usize::try_from(u32::from_be_bytes(self.array()?)).unwrap_or(usize::MAX);
        if found <= limit { Ok(found) } else { Err(CheckpointError::TooMany { found, limit }) }
    }

    fn take_rest(&mut self, limit: usize) -> Result<&'a [u8], CheckpointError> {
        let found = self.rest.len();
        if found <= limit { self.slice(found) } else { Err(CheckpointError::TooMany { found, limit }) }
    }

    fn end(self) -> Result<(), CheckpointError> {
        let expected = self.whole - self.rest.len();
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(CheckpointError::Length { expected, found: self.whole })
        }
    }
}

fn hash(tag: &[u8], bytes: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(tag);
    hasher.update(bytes);
    *hasher.finalize().as_bytes()
}

/// Most chunks of one checkpoint: 4 GiB of content, or the state of some forty million rows.
pub const CHUNKS_MAX: usize = 65_536;

/// Plain bytes of one chunk, unless one op alone is longer.
pub const CHUNK_BYTES: usize = 128 * 1024;

/// Greatest sealed chunk: one op of the greatest payload, key and predecessors, and what sealing adds.
pub const CHUNK_SEALED_BYTES_MAX: usize = 192 * 1024;

/// Bytes of a manifest that travel in one answer.
pub const PIECE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of batches that travel in one answer: the greatest batch fits.
pub const RUN_BYTES_MAX: usize = BATCH_SEALED_BYTES_MAX;

/// Greatest manifest.
pub const MANIFEST_BYTES_MAX: usize = HEAD_BYTES + CUT_BYTES * LOGS_MAX + 32 * CHUNKS_MAX + 64;

/// Bytes of a manifest before its cut.
const HEAD_BYTES: usize = 196;
const CUT_BYTES: usize = 80;
const MANIFEST: &[u8; 4] = b"KFM2";
const ATTESTATION: &[u8; 4] = b"KFT1";
const NEWEST: u8 = 1;
const PIECE: u8 = 2;
const CHUNK: u8 = 3;
const NOTHING: u8 = 4;
const RUN: u8 = 5;

const _: () = assert!(CHUNK_SEALED_BYTES_MAX < MANIFEST_BYTES_MAX && MANIFEST_BYTES_MAX < u32::MAX as usize);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn identity() -> Identity {
        Identity::from_secret(&[1; 32])
    }

    fn log(n: u8) -> LogId {
        LogId::from_bytes(&[n; 40])
    }

    fn manifest() -> Manifest {
        let tip = |seq| Tip { seq: Seq::new(seq), hash: TipHash::from_bytes([9; 32]) };
        let fields = ManifestFields {
            space: SpaceId::from_bytes([2; 32]),
            fold_version: 3,
            parent: Some(CheckpointHash([4; 32])),
            root: Root::from_bytes([5; 32]),
            content: [6; 32],
            key_id: KeyId::from_bytes([7; 16]),
            author: DeviceId::from_bytes([0; 32]),
            cut: [(log(1), tip(8)), (log(2), tip(1))].into_iter().collect(),
            state_chunks: 1,
            chunks: vec![[10; 32], [11; 32]],
        };
        Manifest::sign(&identity(), fields)
    }

    fn attestation() -> Attestation {
        let manifest = manifest();
        let of = manifest.fields();
        let fields = AttestationFields {
            scope: of.space.tag(),
            device: DeviceId::from_bytes([0; 32]),
            fold_version: of.fold_version,
            cut_digest: of.cut.digest(),
            root: of.root,
            content: of.content,
            basis: Basis::Log,
        };
        Attestation::sign(&identity(), fields)
    }

    fn questions() -> Vec<CheckpointQuestion> {
        let held = Some(manifest().hash());
        vec![
            CheckpointQuestion::Newest { held: None, attestation: None },
            CheckpointQuestion::Newest { held, attestation: Some(Box::new(attestation())) },
            CheckpointQuestion::Manifest { hash: manifest().hash(), offset: 70_000 },
            CheckpointQuestion::Chunk { hash: [12; 32] },
            CheckpointQuestion::Run { log: log(3), after: Seq::ZERO, through: Seq::new(70_000) },
        ]
    }

    fn answers() -> Vec<CheckpointAnswer> {
        let bytes = Bytes::from_static(b"bytes");
        vec![
            CheckpointAnswer::Newest { held: None, base: None, attestations: Vec::new() },
            CheckpointAnswer::Newest {
                held: Some(manifest().hash()),
                base: Some(CheckpointHash([13; 32])),
                attestations: vec![attestation()],
            },
            CheckpointAnswer::Piece { total: 9, offset: 4, bytes: bytes.clone() },
            CheckpointAnswer::Chunk { bytes: bytes.clone() },
            CheckpointAnswer::Run { bytes },
            CheckpointAnswer::Nothing,
        ]
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn manifests_and_attestations_have_the_golden_bytes_read_back_and_hold() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../tests/data/checkpoint-v2.json")).unwrap();
        let (manifest, attestation) = (manifest(), attestation());

        let written = serde_json::json!({
            "manifest": hex(manifest.bytes()),
            "hash": manifest.hash().to_string(),
            "attestation": hex(attestation.bytes()),
            "questions": questions().iter().map(|question| hex(&question.to_bytes())).collect::<Vec<_>>(),
            "answers": answers().iter().map(|answer| hex(&answer.to_bytes())).collect::<Vec<_>>(),
        });
        assert_eq!(written, vectors, "{written}");
        let read = Manifest::parse(manifest.bytes().clone()).unwrap();
        assert_eq!((&read, read.verify()), (&manifest, Ok(())));
        let read = Attestation::parse(attestation.bytes()).unwrap();
        assert_eq!((&read, read.verify()), (&attestation, Ok(())));
        assert!(read.is_of(manifest.fields()));
        for question in questions() {
            assert_eq!(CheckpointQuestion::from_bytes(&question.to_bytes()), Ok(question));
        }
        for answer in answers() {
            assert_eq!(CheckpointAnswer::from_bytes(&answer.to_bytes()), Ok(answer));
        }
    }

    #[test]
    fn the_signatures_cover_every_byte() {
        let whole = manifest().bytes().to_vec();
        let spoil = |at: usize| {
            let mut spoiled = whole.clone();
            spoiled[at] ^= 1;
            Manifest::parse(spoiled.into()).map(|read| read.verify().is_ok())
        };
        assert!((4..whole.len()).all(|at| spoil(at) != Ok(true)), "a spoiled byte goes unnoticed");
        let word = *attestation().bytes();
        for at in 4..word.len() {
            let mut spoiled = word;
            spoiled[at] ^= 1;
            assert!(Attestation::parse(&spoiled).is_ok_and(|read| read.verify().is_err()), "byte {at}");
        }
    }

    #[test]
    fn an_attestation_is_of_one_state_only() {
        let manifest = manifest();
        let of = manifest.fields();
        let mut longer = of.cut.clone();
        longer.set(log(3), Tip { seq: Seq::new(1), hash: TipHash::from_bytes([1; 32]) });
        let others = [
            ManifestFields { space: SpaceId::from_bytes([3; 32]), ..of.clone() },
            ManifestFields { fold_version: 4, ..of.clone() },
            ManifestFields { root: Root::from_bytes([1; 32]), ..of.clone() },
            ManifestFields { content: [1; 32], ..of.clone() },
            ManifestFields { cut: longer, ..of.clone() },
        ];
        for other in others {
            assert!(!attestation().is_of(&other));
        }
        let again = ManifestFields { parent: None, chunks: Vec::new(), state_chunks: 0, ..of.clone() };
        assert!(attestation().is_of(&again), "whoever sealed it");
    }

    #[test]
    fn what_breaks_the_form_is_refused_by_name() {
        let whole = manifest().bytes().to_vec();
        let parse = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = whole.clone();
            change(&mut bytes);
            Manifest::parse(bytes.into()).unwrap_err()
        };
        let too_many = |found, limit| CheckpointError::TooMany { found, limit };
        let (cut_at, expected) = (HEAD_BYTES, whole.len());

        assert_eq!(parse(&|bytes| bytes[3] = b'1'), CheckpointError::Magic { found: *b"KFM1" });
        assert_eq!(parse(&|bytes| bytes.push(0)), CheckpointError::Length { expected, found: expected + 1 });
        assert_eq!(
            parse(&|bytes| bytes.truncate(190)),
            CheckpointError::Length { expected: 192, found: 190 }
        );
        assert_eq!(
            parse(&|bytes| bytes[187] = 200),
            CheckpointError::Length { expected: expected + 198 * 80, found: expected }
        );
        assert_eq!(parse(&|bytes| bytes[191] = 3), too_many(3, 2));
        assert_eq!(parse(&|bytes| bytes[192] = 1), too_many((1 << 24) + 2, CHUNKS_MAX));
        assert_eq!(parse(&|bytes| bytes[cut_at] = 3), CheckpointError::Cut);
        assert_eq!(parse(&|bytes| bytes[cut_at + 40..cut_at + 48].fill(0)), CheckpointError::Cut);
        assert_eq!(parse(&|bytes| bytes[cut_at + 48..cut_at + 80].fill(0)), CheckpointError::Cut);
        let found = Attestation::BYTES - 1;
        let short = CheckpointError::Length { expected: Attestation::BYTES, found };
        assert_eq!(Attestation::parse(&attestation().bytes()[1..]), Err(short));
        let mut word = *attestation().bytes();
        word[4] = 2;
        assert_eq!(Attestation::parse(&word), Err(CheckpointError::Basis { found: 2 }));
        let answer = |bytes: Vec<u8>| CheckpointAnswer::from_bytes(&bytes.into());
        let many = [&[NEWEST][..], &[0; 64], &[0xff, 0xff]].concat();
        assert_eq!(answer(many), Err(too_many(65_535, DEVICES_MAX)));
        assert_eq!(answer(vec![PIECE, 0, 0, 0, 1, 0, 0, 0, 1, 7]), Err(too_many(2, MANIFEST_BYTES_MAX)));
        let found = CHUNK_SEALED_BYTES_MAX + 1;
        assert_eq!(
            answer([vec![CHUNK], vec![0; found]].concat()),
            Err(too_many(found, CHUNK_SEALED_BYTES_MAX))
        );
        assert_eq!(answer(vec![9]), Err(CheckpointError::Magic { found: [9, 0, 0, 0] }));
        assert_eq!(CheckpointQuestion::from_bytes(&[9]), Err(CheckpointError::Magic { found: [9, 0, 0, 0] }));
        assert_eq!(
            CheckpointQuestion::from_bytes(&[]),
            Err(CheckpointError::Length { expected: 1, found: 0 })
        );
    }

    proptest! {
        #[test]
        fn any_bytes_read_or_are_refused(kind in 0u8..6, rest in proptest::collection::vec(any::<u8>(), 0..400)) {
            let bytes = [&[kind][..], &rest].concat();
            if let Ok(read) = CheckpointQuestion::from_bytes(&bytes) {
                prop_assert_eq!(read.to_bytes(), bytes.clone());
            }
            if let Ok(read) = CheckpointAnswer::from_bytes(&bytes.clone().into()) {
                prop_assert_eq!(read.to_bytes().to_vec(), bytes);
            }
            let _ = Manifest::parse([&MANIFEST[..], &rest].concat().into());
            let _ = Attestation::parse(&rest);
        }

        #[test]
        fn a_spoiled_manifest_reads_by_the_rules_or_is_refused(at in any::<proptest::sample::Index>(), with in any::<u8>()) {
            let mut bytes = manifest().bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = with;
            if let Ok(read) = Manifest::parse(bytes.clone().into()) {
                prop_assert!(read.verify().is_err() || bytes == manifest().bytes().to_vec());
            }
        }
    }
}
