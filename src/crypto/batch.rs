//! The sealed batch, format KFB1: its fixed header, its hash and its signature.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `KFB1` |
//! | 4 | 1 | suite, 1 = BLAKE3 key derivation, ChaCha20-Poly1305, Ed25519 |
//! | 5 | 1 | flags, bit 0: the plaintext is a zstd frame |
//! | 6 | 16 | scope tag |
//! | 22 | 32 | device |
//! | 54 | 8 | incarnation |
//! | 62 | 8 | seq of the first op |
//! | 70 | 4 | op count, 1–128 |
//! | 74 | 8 | roster generation its author knew |
//! | 82 | 16 | key id |
//! | 98 | 32 | prev: link hash of the batch before, zero for the first |
//! | 130 | 4 | ciphertext length |
//! | 134 | 32 | salt |
//! | 166 | 32 | key commitment |
//! | 198 | n | ciphertext, then tag 16, then signature 64 |
//!
//! Integers are big-endian. `batch hash = BLAKE3("kinfold sig v1" ‖ header ‖ BLAKE3(ct ‖ tag))` is
//! what the author signs; `link = BLAKE3("kinfold link v1" ‖ batch hash ‖ signature)` is what the
//! next batch names as `prev`. The link covers the signature, so checking the last signature of a
//! contiguous run vouches for every byte of the run: without it a relay could spoil an inner
//! signature unnoticed and make the next receiver blame the wrong peer.

use std::fmt;

use bytes::Bytes;
use thiserror::Error;

use super::identity::{Identity, SignatureError, verify};
use crate::model::limits::{BATCH_OPS_MAX, BATCH_SEALED_BYTES_MAX};
use crate::model::{DeviceId, Incarnation, KeyId, LogId, ScopeTag, Seq, TipHash};

/// Bytes that are no batch.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BatchError {
    /// Fewer bytes than a header, tag and signature.
    #[error("{found} bytes are too few for a batch")]
    TooShort {
        /// Bytes found.
        found: usize,
    },
    /// More bytes than [`BATCH_SEALED_BYTES_MAX`].
    #[error("a batch of {found} bytes exceeds the limit of {limit}")]
    TooLong {
        /// Bytes found or announced.
        found: u64,
        /// [`BATCH_SEALED_BYTES_MAX`].
        limit: usize,
    },
    /// Does not begin with `KFB1`.
    #[error("not a sealed batch: the first four bytes are {found:02x?}")]
    Magic {
        /// The bytes found.
        found: [u8; 4],
    },
    /// Written by a later version.
    #[error("cipher suite {found} is not known here; a newer kinfold wrote this batch")]
    Suite {
        /// The suite found.
        found: u8,
    },
    /// Flags of a later version.
    #[error("flags {found:#04x} are not known here; a newer kinfold wrote this batch")]
    Flags {
        /// The flags found.
        found: u8,
    },
    /// An op count of 0 or beyond [`BATCH_OPS_MAX`], or positions beyond the last number.
    #[error("a batch of {count} ops from position {first} is out of range")]
    Range {
        /// The first position.
        first: u64,
        /// The op count.
        count: u32,
    },
    /// The length in the header is not the length of the bytes.
    #[error("the header announces {announced} bytes, {found} are there")]
    Length {
        /// The whole batch as announced.
        announced: u64,
        /// Bytes found.
        found: usize,
    },
}

/// The fields of a batch header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// Whether the plaintext is a zstd frame.
    pub is_compressed: bool,
    /// The space.
    pub scope: ScopeTag,
    /// The log.
    pub log: LogId,
    /// The position of the first op.
    pub first: Seq,
    /// How many ops, 1 to [`BATCH_OPS_MAX`].
    pub op_count: u32,
    /// The roster generation the author knew.
    pub roster_gen: u64,
    /// The epoch key it is sealed under.
    pub key_id: KeyId,
    /// The link of the batch before.
    pub prev: TipHash,
    /// Bytes of ciphertext.
    pub ct_len: u32,
    /// What makes this batch's key its own.
    pub salt: [u8; 32],
    /// Commitment to that key, because the cipher does not commit to its key.
    pub commit: [u8; 32],
}

impl BatchHeader {
    /// The position of the last op.
    pub const fn last(&self) -> Seq {
        self.first.plus(self.op_count as u64 - 1)
    }

    /// The 198 bytes of the header.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(MAGIC);
        out[4] = SUITE;
        out[5] = u8::from(self.is_compressed);
        out[6..22].copy_from_slice(self.scope.as_bytes());
        out[22..62].copy_from_slice(&self.log.to_bytes());
        out[62..70].copy_from_slice(&self.first.get().to_be_bytes());
        out[70..74].copy_from_slice(&self.op_count.to_be_bytes());
        out[74..82].copy_from_slice(&self.roster_gen.to_be_bytes());
        out[82..98].copy_from_slice(self.key_id.as_bytes());
        out[98..130].copy_from_slice(self.prev.as_bytes());
        out[130..134].copy_from_slice(&self.ct_len.to_be_bytes());
        out[134..166].copy_from_slice(&self.salt);
        out[166..198].copy_from_slice(&self.commit);
        out
    }

    /// Reads a header.
    ///
    /// # Errors
    /// Every variant of [`BatchError`] but [`BatchError::Length`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(BatchError::TooShort { found: bytes.len() });
        };
        let magic = take::<4>(header, 0);
        if &magic != MAGIC {
            return Err(BatchError::Magic { found: magic });
        }
        if header[4] != SUITE {
            return Err(BatchError::Suite { found: header[4] });
        }
        if header[5] & !FLAG_ZSTD != 0 {
            return Err(BatchError::Flags { found: header[5] });
        }
        let first = u64::from_be_bytes(take(header, 62));
        let op_count = u32::from_be_bytes(take(header, 70));
        let count_in_range = (1..=BATCH_OPS_MAX as u64).contains(&u64::from(op_count));
        if !count_in_range || first == 0 || first.checked_add(u64::from(op_count)).is_none() {
            return Err(BatchError::Range { first, count: op_count });
        }
        let ct_len = u32::from_be_bytes(take(header, 130));
        let announced = OVERHEAD_BYTES as u64 + u64::from(ct_len);
        if announced > BATCH_SEALED_BYTES_MAX as u64 {
            return Err(BatchError::TooLong { found: announced, limit: BATCH_SEALED_BYTES_MAX });
        }
        Ok(Self {
            is_compressed: header[5] & FLAG_ZSTD != 0,
            scope: ScopeTag::from_bytes(take(header, 6)),
            log: LogId {
                device: DeviceId::from_bytes(take(header, 22)),
                incarnation: Incarnation::new(u64::from_be_bytes(take(header, 54))),
            },
            first: Seq::new(first),
            op_count,
            roster_gen: u64::from_be_bytes(take(header, 74)),
            key_id: KeyId::from_bytes(take(header, 82)),
            prev: TipHash::from_bytes(take(header, 98)),
            ct_len,
            salt: take(header, 134),
            commit: take(header, 166),
        })
    }

    /// The length of the whole batch this header begins.
    pub const fn sealed_bytes(&self) -> usize {
        OVERHEAD_BYTES + self.ct_len as usize
    }
}

/// A batch as it lies in a store or travels: well formed, not yet believed.
#[derive(Clone)]
pub struct SealedBatch {
    bytes: Bytes,
    header: BatchHeader,
    hash: [u8; 32],
    link: TipHash,
}

impl SealedBatch {
    /// Reads exactly one batch and computes its hashes.
    ///
    /// # Errors
    /// Every variant of [`BatchError`].
    pub fn parse(bytes: Bytes) -> Result<Self, BatchError> {
        if bytes.len() > BATCH_SEALED_BYTES_MAX {
            return Err(BatchError::TooLong { found: bytes.len() as u64, limit: BATCH_SEALED_BYTES_MAX });
        }
        let header = BatchHeader::parse(&bytes)?;
        if header.sealed_bytes() != bytes.len() {
            return Err(BatchError::Length { announced: header.sealed_bytes() as u64, found: bytes.len() });
        }
        let signature_at = bytes.len() - SIGNATURE_BYTES;
        let ciphertext_hash = blake3::hash(&bytes[HEADER_BYTES..signature_at]);
        let hash = batch_hash(&bytes[..HEADER_BYTES], ciphertext_hash.as_bytes());
        let link = link_hash(&hash, &bytes[signature_at..]);
        Ok(Self { bytes, header, hash, link })
    }

    /// Splits a concatenation of batches, as stores and streams hold them.
    ///
    /// # Errors
    /// As [`SealedBatch::parse`], for the first bad one.
    pub fn parse_run(mut bytes: Bytes) -> Result<Vec<Self>, BatchError> {
        let mut batches = Vec::new();
        while !bytes.is_empty() {
            let header = BatchHeader::parse(&bytes)?;
            if header.sealed_bytes() > bytes.len() {
                return Err(BatchError::Length {
                    announced: header.sealed_bytes() as u64,
                    found: bytes.len(),
                });
            }
            batches.push(Self::parse(bytes.split_to(header.sealed_bytes()))?);
        }
        Ok(batches)
    }

    /// The bytes, exactly as received.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The header.
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// What the next batch of the log names as `prev`.
    pub const fn link(&self) -> TipHash {
        self.link
    }

    /// The ciphertext with its tag.
    pub(super) fn ciphertext_and_tag(&self) -> &[u8] {
        &self.bytes[HEADER_BYTES..self.bytes.len() - SIGNATURE_BYTES]
    }

    /// Checks the author's signature: 30 µs, so a run is checked at its end only.
    ///
    /// # Errors
    /// Every variant of [`SignatureError`].
    pub fn verify(&self) -> Result<(), SignatureError> {
        verify(&self.header.log.device, &self.hash, self.signature())
    }

    /// The part that proves what the author signed, without the content.
    pub fn witness(&self) -> ForkWitness {
        let signature_at = self.bytes.len() - SIGNATURE_BYTES;
        ForkWitness {
            header: take(&self.bytes, 0),
            ciphertext_hash: *blake3::hash(&self.bytes[HEADER_BYTES..signature_at]).as_bytes(),
            signature: *self.signature(),
        }
    }

    fn signature(&self) -> &[u8; 64] {
        self.bytes.last_chunk().expect("parse demands at least header, tag and signature")
    }
}

impl fmt::Debug for SealedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = &self.header;
        write!(f, "SealedBatch({:?} {}..={})", header.log.device, header.first, header.last())
    }
}

/// A signed header with the hash of its ciphertext: half of a fork proof, 294 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct ForkWitness {
    header: [u8; HEADER_BYTES],
    ciphertext_hash: [u8; 32],
    signature: [u8; 64],
}

impl ForkWitness {
    /// Bytes of the byte form.
    pub const BYTES: usize = HEADER_BYTES + 32 + SIGNATURE_BYTES;

    /// Header 198 ‖ ciphertext hash 32 ‖ signature 64.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..HEADER_BYTES].copy_from_slice(&self.header);
        out[HEADER_BYTES..HEADER_BYTES + 32].copy_from_slice(&self.ciphertext_hash);
        out[HEADER_BYTES + 32..].copy_from_slice(&self.signature);
        out
    }

    /// Reads the byte form and checks the header's shape.
    ///
    /// # Errors
    /// As [`BatchHeader::parse`].
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Result<(Self, BatchHeader), BatchError> {
        let header = BatchHeader::parse(bytes)?;
        let witness = Self {
            header: take(bytes, 0),
            ciphertext_hash: take(bytes, HEADER_BYTES),
            signature: take(bytes, HEADER_BYTES + 32),
        };
        Ok((witness, header))
    }

    /// Checks the author's signature.
    ///
    /// # Errors
    /// Every variant of [`SignatureError`].
    pub fn verify(&self) -> Result<(), SignatureError> {
        let device = DeviceId::from_bytes(take(&self.header, 22));
        verify(&device, &batch_hash(&self.header, &self.ciphertext_hash), &self.signature)
    }

    /// The link hash of the batch this stands for.
    pub fn link(&self) -> TipHash {
        link_hash(&batch_hash(&self.header, &self.ciphertext_hash), &self.signature)
    }
}

impl fmt::Debug for ForkWitness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ForkWitness({:?})", self.link())
    }
}

/// Puts a header, ciphertext with tag and the author's signature together.
pub(super) fn assemble(identity: &Identity, header: BatchHeader, ciphertext_and_tag: &[u8]) -> SealedBatch {
    let head = header.to_bytes();
    let hash = batch_hash(&head, blake3::hash(ciphertext_and_tag).as_bytes());
    let signature = identity.sign(&hash);
    let mut bytes = Vec::with_capacity(header.sealed_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(ciphertext_and_tag);
    bytes.extend_from_slice(&signature);
    SealedBatch { bytes: bytes.into(), header, link: link_hash(&hash, &signature), hash }
}

fn batch_hash(header: &[u8], ciphertext_hash: &[u8; 32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"kinfold sig v1");
    hasher.update(header);
    hasher.update(ciphertext_hash);
    *hasher.finalize().as_bytes()
}

fn link_hash(batch_hash: &[u8; 32], signature: &[u8]) -> TipHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"kinfold link v1");
    hasher.update(batch_hash);
    hasher.update(signature);
    TipHash::from_bytes(*hasher.finalize().as_bytes())
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}

/// Bytes of the fixed header.
pub const HEADER_BYTES: usize = 198;
/// Header bytes before the salt.
pub(super) const SALT_AT: usize = 134;
/// Header bytes the key is derived from: everything but the commitment.
pub(super) const COMMIT_AT: usize = 166;
/// Bytes of the authentication tag.
pub(super) const TAG_BYTES: usize = 16;
/// Bytes of the signature.
pub(super) const SIGNATURE_BYTES: usize = 64;
/// What a batch costs beside its ciphertext.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES + SIGNATURE_BYTES;

const MAGIC: &[u8; 4] = b"KFB1";
const SUITE: u8 = 1;
const FLAG_ZSTD: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BatchHeader {
        BatchHeader {
            is_compressed: true,
            scope: ScopeTag::from_bytes([1; 16]),
            log: LogId { device: DeviceId::from_bytes([2; 32]), incarnation: Incarnation::new(3) },
            first: Seq::new(4),
            op_count: 5,
            roster_gen: 6,
            key_id: KeyId::from_bytes([7; 16]),
            prev: TipHash::from_bytes([8; 32]),
            ct_len: 9,
            salt: [10; 32],
            commit: [11; 32],
        }
    }

    fn sealed() -> Vec<u8> {
        let identity = Identity::from_secret(&[1; 32]);
        let mut header = header();
        header.log.device = identity.device();
        header.ct_len = 3;
        assemble(&identity, header, &[0xcc; 3 + TAG_BYTES]).bytes.to_vec()
    }

    fn spoiled(at: usize, bytes: &[u8]) -> Result<SealedBatch, BatchError> {
        let mut batch = sealed();
        batch[at..at + bytes.len()].copy_from_slice(bytes);
        SealedBatch::parse(batch.into())
    }

    #[test]
    fn a_header_reads_back() {
        assert_eq!(BatchHeader::parse(&header().to_bytes()), Ok(header()));
        assert_eq!(header().last(), Seq::new(8));
    }

    #[test]
    fn every_malformed_batch_is_refused_by_name() {
        assert_eq!(SealedBatch::parse(Bytes::new()).unwrap_err(), BatchError::TooShort { found: 0 });
        assert_eq!(spoiled(0, b"KFB2").unwrap_err(), BatchError::Magic { found: *b"KFB2" });
        assert_eq!(spoiled(4, &[2]).unwrap_err(), BatchError::Suite { found: 2 });
        assert_eq!(spoiled(5, &[3]).unwrap_err(), BatchError::Flags { found: 3 });
        assert!(matches!(spoiled(62, &[0; 8]).unwrap_err(), BatchError::Range { first: 0, .. }));
        assert!(matches!(spoiled(62, &[255; 8]).unwrap_err(), BatchError::Range { .. }));
        assert!(matches!(spoiled(70, &[0; 4]).unwrap_err(), BatchError::Range { count: 0, .. }));
        assert!(matches!(spoiled(70, &[0, 0, 0, 129]).unwrap_err(), BatchError::Range { count: 129, .. }));
        assert!(
            matches!(spoiled(130, &[255; 4]).unwrap_err(), BatchError::TooLong { found, .. } if found > 4_000_000_000)
        );
        assert!(matches!(spoiled(133, &[4]).unwrap_err(), BatchError::Length { .. }));
        let long = vec![0; BATCH_SEALED_BYTES_MAX + 1];
        assert!(matches!(SealedBatch::parse(long.into()).unwrap_err(), BatchError::TooLong { .. }));
    }

    #[test]
    fn the_signature_covers_every_byte_and_the_link_covers_the_signature() {
        let good = SealedBatch::parse(sealed().into()).unwrap();
        assert_eq!(good.verify(), Ok(()));

        for at in [6, 62 + 7, 74, 82, 98, 134, 166, HEADER_BYTES, HEADER_BYTES + 3] {
            let mut batch = sealed();
            batch[at] ^= 1;
            let Ok(batch) = SealedBatch::parse(batch.into()) else { continue };
            assert!(batch.verify().is_err(), "byte {at}");
        }
        let mut resigned = sealed();
        *resigned.last_mut().unwrap() ^= 1;
        assert_ne!(SealedBatch::parse(resigned.into()).unwrap().link(), good.link());
    }

    #[test]
    fn a_witness_proves_what_its_batch_proves() {
        let batch = SealedBatch::parse(sealed().into()).unwrap();

        let (witness, header) = ForkWitness::parse(&batch.witness().to_bytes()).unwrap();

        assert_eq!(witness.verify(), Ok(()));
        assert_eq!((witness.link(), &header), (batch.link(), batch.header()));
    }

    #[test]
    fn a_run_splits_into_its_batches() {
        let run = [sealed(), sealed()].concat();

        assert_eq!(SealedBatch::parse_run(run.clone().into()).unwrap().len(), 2);
        let cut = Bytes::from(run).slice(..sealed().len() * 2 - 1);
        assert!(matches!(SealedBatch::parse_run(cut), Err(BatchError::Length { .. })));
    }
}
