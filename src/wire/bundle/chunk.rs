//! The parts of a bundle: what their entries say, and what they hold.

use bytes::{BufMut, Bytes, BytesMut};

use super::super::checkpoint::{Attestation, CHUNK_SEALED_BYTES_MAX};
use super::{BundleError, take};
use crate::crypto::BatchHeader;
use crate::model::limits::{FRAME_BYTES_MAX, RECORD_BYTES_MAX};
use crate::model::{LogId, Seq};

/// What a chunk holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChunkKind {
    /// Roster records, parents first.
    Records,
    /// Consecutive sealed batches of one log.
    Batches(LogRange),
    /// Acks.
    Acks,
    /// Manifests of checkpoints.
    Manifests,
    /// Attestations of checkpoints.
    Attestations,
    /// Sealed chunks of checkpoints.
    Chunks,
    /// Something of a later version, by its number.
    Unknown(u16),
}

/// Positions of one log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogRange {
    /// The log.
    pub log: LogId,
    /// The position of the first op.
    pub first: Seq,
    /// The position of the last op.
    pub last: Seq,
}

/// What the head of a bundle says of one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkEntry {
    /// What it holds.
    pub kind: ChunkKind,
    /// How many records, batches or acks.
    pub items: u32,
    /// Its length, at most [`CHUNK_BYTES_MAX`].
    pub bytes: u32,
    /// The hash of its bytes.
    pub hash: [u8; 32],
}

/// What a chunk turned out to hold, as received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Chunk {
    /// Roster records.
    Records(Vec<Bytes>),
    /// Sealed batches of one log, each whole by its header and no more than that.
    Batches(Vec<Bytes>),
    /// Message frames of kind 5.
    Acks(Vec<Bytes>),
    /// Manifests, `KFM2`.
    Manifests(Vec<Bytes>),
    /// Attestations, `KFT1`.
    Attestations(Vec<Bytes>),
    /// Sealed chunks of checkpoints.
    Chunks(Vec<Bytes>),
    /// Something of a later version.
    Unknown(u16),
}

impl ChunkEntry {
    /// Bytes of the byte form.
    pub const BYTES: usize = 98;

    pub(super) fn parse(bytes: &[u8], index: u32) -> Result<Self, BundleError> {
        let malformed = || BundleError::Entry { index };
        let (first, last) = (u64::from_be_bytes(take(bytes, 50)), u64::from_be_bytes(take(bytes, 58)));
        let kind = match u16::from_be_bytes(take(bytes, 0)) {
            RECORDS => ChunkKind::Records,
            BATCHES if 1 <= first && first <= last => ChunkKind::Batches(LogRange {
                log: LogId::from_bytes(&take(bytes, 10)),
                first: Seq::new(first),
                last: Seq::new(last),
            }),
            BATCHES | 0 => return Err(malformed()),
            ACKS => ChunkKind::Acks,
            MANIFESTS => ChunkKind::Manifests,
            ATTESTATIONS => ChunkKind::Attestations,
            CHUNKS => ChunkKind::Chunks,
            other => ChunkKind::Unknown(other),
        };
        let byte_count = u32::from_be_bytes(take(bytes, 6));
        if usize::try_from(byte_count).is_ok_and(|bytes| bytes <= CHUNK_BYTES_MAX) {
            let items = u32::from_be_bytes(take(bytes, 2));
            Ok(Self { kind, items, bytes: byte_count, hash: take(bytes, 66) })
        } else {
            Err(malformed())
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let kind = match self.kind {
            ChunkKind::Records => RECORDS,
            ChunkKind::Batches(_) => BATCHES,
            ChunkKind::Acks => ACKS,
            ChunkKind::Manifests => MANIFESTS,
            ChunkKind::Attestations => ATTESTATIONS,
            ChunkKind::Chunks => CHUNKS,
            ChunkKind::Unknown(kind) => kind,
        };
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&self.items.to_be_bytes());
        out.extend_from_slice(&self.bytes.to_be_bytes());
        match self.kind {
            ChunkKind::Batches(range) => {
                out.extend_from_slice(&range.log.to_bytes());
                out.extend_from_slice(&range.first.get().to_be_bytes());
                out.extend_from_slice(&range.last.get().to_be_bytes());
            }
            ChunkKind::Records
            | ChunkKind::Acks
            | ChunkKind::Manifests
            | ChunkKind::Attestations
            | ChunkKind::Chunks
            | ChunkKind::Unknown(_) => {
                out.extend_from_slice(&[0; 56]);
            }
        }
        out.extend_from_slice(&self.hash);
    }

    /// Its length as a size in memory.
    pub fn byte_count(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }

    /// Checks a chunk against what was signed of it, and takes it apart.
    ///
    /// # Errors
    /// [`BundleError::ChunkHash`] for other bytes than were signed, [`BundleError::ChunkForm`] where
    /// the exporter has signed what makes no sense.
    pub fn open(&self, bytes: &Bytes) -> Result<Chunk, BundleError> {
        if bytes.len() != self.byte_count() || *blake3::hash(bytes).as_bytes() != self.hash {
            return Err(BundleError::ChunkHash);
        }
        let (chunk, found) = match self.kind {
            ChunkKind::Records => {
                let records = framed(bytes.clone(), RECORD_BYTES_MAX)?;
                let found = records.len();
                (Chunk::Records(records), found)
            }
            ChunkKind::Batches(range) => {
                let batches = split_batches(bytes.clone(), &range)?;
                let found = batches.len();
                (Chunk::Batches(batches), found)
            }
            ChunkKind::Acks => {
                let acks = framed(bytes.clone(), FRAME_BYTES_MAX)?;
                let found = acks.len();
                (Chunk::Acks(acks), found)
            }
            ChunkKind::Manifests => {
                let manifests = framed(bytes.clone(), FRAME_BYTES_MAX)?;
                let found = manifests.len();
                (Chunk::Manifests(manifests), found)
            }
            ChunkKind::Attestations => {
                let words = framed(bytes.clone(), Attestation::BYTES)?;
                let found = words.len();
                (Chunk::Attestations(words), found)
            }
            ChunkKind::Chunks => {
                let chunks = framed(bytes.clone(), CHUNK_SEALED_BYTES_MAX)?;
                let found = chunks.len();
                (Chunk::Chunks(chunks), found)
            }
            ChunkKind::Unknown(kind) => return Ok(Chunk::Unknown(kind)),
        };
        if u32::try_from(found) == Ok(self.items) { Ok(chunk) } else { Err(BundleError::ChunkForm) }
    }
}

/// Chunks of roster records, in order.
pub fn records(records: impl IntoIterator<Item = Bytes>) -> Vec<(ChunkEntry, Bytes)> {
    frames(ChunkKind::Records, records)
}

/// Chunks of acks; each is a whole message frame.
pub fn acks(acks: impl IntoIterator<Item = Bytes>) -> Vec<(ChunkEntry, Bytes)> {
    frames(ChunkKind::Acks, acks)
}

/// Chunks of manifests of checkpoints, each of at most [`FRAME_BYTES_MAX`].
pub fn manifests(manifests: impl IntoIterator<Item = Bytes>) -> Vec<(ChunkEntry, Bytes)> {
    frames(ChunkKind::Manifests, manifests)
}

/// Chunks of attestations.
pub fn attestations(words: impl IntoIterator<Item = Bytes>) -> Vec<(ChunkEntry, Bytes)> {
    frames(ChunkKind::Attestations, words)
}

/// Chunks of sealed chunks of checkpoints.
pub fn chunks(chunks: impl IntoIterator<Item = Bytes>) -> Vec<(ChunkEntry, Bytes)> {
    frames(ChunkKind::Chunks, chunks)
}

/// The entry of a chunk of whole, consecutive batches of one log; `None` where it is not that.
pub fn batches(bytes: &Bytes) -> Option<ChunkEntry> {
    let mut rest = &bytes[..];
    let (mut range, mut items) = (None::<LogRange>, 0);
    while !rest.is_empty() {
        let header = BatchHeader::parse(rest).ok()?;
        let first = range.map_or(header.first, |range| range.first);
        range = Some(LogRange { log: header.log, first, last: header.last() });
        items += 1;
        rest = rest.get(header.sealed_bytes()..)?;
    }
    let (kind, byte_count) = (ChunkKind::Batches(range?), u32::try_from(bytes.len()).ok()?);
    Some(ChunkEntry { kind, items, bytes: byte_count, hash: *blake3::hash(bytes).as_bytes() })
}

fn frames(kind: ChunkKind, items: impl IntoIterator<Item = Bytes>) -> Vec<(ChunkEntry, Bytes)> {
    let mut chunks = Vec::new();
    let (mut body, mut count) = (BytesMut::new(), 0);
    let mut close = |body: &mut BytesMut, count: &mut u32| {
        let bytes = body.split().freeze();
        let byte_count = u32::try_from(bytes.len()).expect("a chunk is closed before its limit");
        let hash = *blake3::hash(&bytes).as_bytes();
        chunks.push((ChunkEntry { kind, items: std::mem::take(count), bytes: byte_count, hash }, bytes));
    };
    for item in items {
        if !body.is_empty() && body.len() + LENGTH_BYTES + item.len() > CHUNK_BYTES_WANTED {
            close(&mut body, &mut count);
        }
        body.put_u32(u32::try_from(item.len()).expect("records and frames have limits"));
        body.put(item);
        count += 1;
    }
    if !body.is_empty() {
        close(&mut body, &mut count);
    }
    chunks
}

fn framed(mut bytes: Bytes, limit: usize) -> Result<Vec<Bytes>, BundleError> {
    let mut items = Vec::new();
    while !bytes.is_empty() {
        if bytes.len() < LENGTH_BYTES {
            return Err(BundleError::ChunkForm);
        }
        let length = u32::from_be_bytes(take(&bytes.split_to(LENGTH_BYTES), 0));
        match usize::try_from(length) {
            Ok(length) if length <= limit.min(bytes.len()) => items.push(bytes.split_to(length)),
            _ => return Err(BundleError::ChunkForm),
        }
    }
    Ok(items)
}

/// Batches of one log without a gap between them, from `range.first` to `range.last`.
fn split_batches(mut bytes: Bytes, range: &LogRange) -> Result<Vec<Bytes>, BundleError> {
    let mut batches = Vec::new();
    let mut next = range.first;
    while !bytes.is_empty() {
        let header = BatchHeader::parse(&bytes).map_err(|_| BundleError::ChunkForm)?;
        let is_next = header.log == range.log && header.first == next;
        if !is_next || header.sealed_bytes() > bytes.len() {
            return Err(BundleError::ChunkForm);
        }
        next = header.last().next();
        batches.push(bytes.split_to(header.sealed_bytes()));
    }
    if next == range.last.next() { Ok(batches) } else { Err(BundleError::ChunkForm) }
}

/// Greatest chunk: the greatest ack frame fits, and one is held in memory at a time.
pub const CHUNK_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What a chunk is filled up to.
pub const CHUNK_BYTES_WANTED: usize = 1024 * 1024;

const RECORDS: u16 = 1;
const BATCHES: u16 = 2;
const ACKS: u16 = 3;
const MANIFESTS: u16 = 5;
const ATTESTATIONS: u16 = 6;
const CHUNKS: u16 = 7;
const LENGTH_BYTES: usize = 4;

const _: () = assert!(CHUNK_BYTES_WANTED + FRAME_BYTES_MAX <= CHUNK_BYTES_MAX);
