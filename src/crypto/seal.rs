//! Sealing a body into a batch and opening it again.
//!
//! `okm = BLAKE3.keyed(epoch key)("kinfold batch v1" ‖ header[..166]).xof(64)` gives the cipher key
//! and the 32-byte commitment. Every batch has a key of its own, so the nonce is zero and a disk
//! restored from a backup cannot repeat one. `salt = BLAKE3.keyed(device secret)(entropy ‖
//! header[..134] ‖ BLAKE3(plaintext))`: a random generator that repeats itself still gives another
//! salt to another content.

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Key, Tag};
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use super::batch::{BatchHeader, COMMIT_AT, OVERHEAD_BYTES, SALT_AT, SealedBatch, TAG_BYTES, assemble};
use super::identity::Identity;
use super::key::EpochKey;
use crate::model::limits::{BATCH_SEALED_BYTES_MAX, BODY_BYTES_MAX};
use crate::model::{KeyId, LogId, ScopeTag, Seq, TipHash};

/// A batch that does not open: its author sealed it wrongly, or the key is another.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The batch is sealed under another key.
    #[error("sealed under key {expected}, opened with key {found}")]
    OtherKey {
        /// The key the header names.
        expected: KeyId,
        /// The key given.
        found: KeyId,
    },
    /// The commitment does not fit the key.
    #[error("the key commitment does not fit: the author sealed this batch wrongly")]
    Commitment,
    /// The tag does not fit key, header and ciphertext.
    #[error("the authentication tag does not fit: the author sealed this batch wrongly")]
    Tag,
    /// The plaintext claims to be a zstd frame and is none, or is larger than [`BODY_BYTES_MAX`].
    #[error("the content is no zstd frame of at most {limit} bytes")]
    Compression {
        /// [`BODY_BYTES_MAX`].
        limit: usize,
    },
}

/// Everything a batch is made of, before sealing.
pub struct SealInput<'a> {
    /// The space.
    pub scope: ScopeTag,
    /// The log.
    pub log: LogId,
    /// The position of the first op.
    pub first: Seq,
    /// How many ops `body` holds.
    pub op_count: u32,
    /// The roster generation known here.
    pub roster_gen: u64,
    /// The link of the batch before.
    pub prev: TipHash,
    /// The encoded ops (`wire::body`), at most [`BODY_BYTES_MAX`] bytes.
    pub body: &'a [u8],
    /// 32 fresh bytes, never used for another batch.
    pub entropy: [u8; 32],
}

/// Seals batches for one device; keeps its compression state between batches.
pub struct Sealer {
    compressor: zstd::bulk::Compressor<'static>,
    secret: Zeroizing<[u8; 32]>,
}

impl Sealer {
    /// Prepares sealing for this identity.
    pub fn new(identity: &Identity) -> Self {
        let compressor = zstd::bulk::Compressor::new(COMPRESSION_LEVEL).expect("level 1 is a zstd level");
        Self { compressor, secret: identity.derive("kinfold batch salt v1") }
    }

    /// Seals and signs one batch.
    ///
    /// # Panics
    /// If the body would not fit a batch: the writer keeps to the limits.
    pub fn seal(&mut self, identity: &Identity, key: &EpochKey, input: &SealInput<'_>) -> SealedBatch {
        let compressed = self.compressor.compress(input.body).expect("the destination is large enough");
        let is_compressed = compressed.len() < input.body.len();
        let plaintext = if is_compressed { &compressed[..] } else { input.body };
        assert!(plaintext.len() + OVERHEAD_BYTES <= BATCH_SEALED_BYTES_MAX, "the writer keeps to the limits");

        let mut header = BatchHeader {
            is_compressed,
            scope: input.scope,
            log: input.log,
            first: input.first,
            op_count: input.op_count,
            roster_gen: input.roster_gen,
            key_id: key.id(),
            prev: input.prev,
            ct_len: u32::try_from(plaintext.len()).expect("bounded just above"),
            salt: [0; 32],
            commit: [0; 32],
        };
        header.salt = self.salt(&input.entropy, &header, plaintext);
        let (cipher, commit) = batch_key(key, &header);
        header.commit = commit;

        let mut buffer = Vec::with_capacity(plaintext.len() + TAG_BYTES);
        buffer.extend_from_slice(plaintext);
        let tag = cipher
            .encrypt_inout_detached(&ZERO_NONCE.into(), &header.to_bytes(), InOutBuf::from(&mut buffer[..]))
            .expect("a batch is far below the cipher's limit");
        buffer.extend_from_slice(&tag);
        assemble(identity, header, &buffer)
    }

    fn salt(&self, entropy: &[u8; 32], header: &BatchHeader, plaintext: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(entropy);
        hasher.update(&header.to_bytes()[..SALT_AT]);
        hasher.update(blake3::hash(plaintext).as_bytes());
        *hasher.finalize().as_bytes()
    }
}

/// Opens batches; keeps its decompression state between batches.
pub struct Opener {
    decompressor: zstd::bulk::Decompressor<'static>,
}

impl Opener {
    /// Prepares opening.
    pub fn new() -> Self {
        Self { decompressor: zstd::bulk::Decompressor::new().expect("a context needs no input") }
    }

    /// Opens a batch: commitment first, in constant time, then tag, then bounded decompression.
    ///
    /// # Errors
    /// Every variant of [`OpenError`].
    pub fn open(&mut self, key: &EpochKey, batch: &SealedBatch) -> Result<Vec<u8>, OpenError> {
        let header = batch.header();
        if header.key_id != key.id() {
            return Err(OpenError::OtherKey { expected: header.key_id, found: key.id() });
        }
        let (cipher, commit) = batch_key(key, header);
        if !bool::from(commit.ct_eq(&header.commit)) {
            return Err(OpenError::Commitment);
        }
        let (ciphertext, tag) = batch
            .ciphertext_and_tag()
            .split_last_chunk::<TAG_BYTES>()
            .expect("a sealed batch holds a whole tag");
        let mut plaintext = ciphertext.to_vec();
        cipher
            .decrypt_inout_detached(
                &ZERO_NONCE.into(),
                &header.to_bytes(),
                InOutBuf::from(&mut plaintext[..]),
                &Tag::from(*tag),
            )
            .map_err(|_| OpenError::Tag)?;
        if !header.is_compressed {
            return Ok(plaintext);
        }
        let bound = zstd::zstd_safe::get_frame_content_size(&plaintext)
            .ok()
            .flatten()
            .and_then(|bytes| usize::try_from(bytes).ok())
            .filter(|bytes| *bytes <= BODY_BYTES_MAX)
            .ok_or(OpenError::Compression { limit: BODY_BYTES_MAX })?;
        self.decompressor
            .decompress(&plaintext, bound)
            .map_err(|_| OpenError::Compression { limit: BODY_BYTES_MAX })
    }
}

impl Default for Opener {
    fn default() -> Self {
        Self::new()
    }
}

fn batch_key(key: &EpochKey, header: &BatchHeader) -> (ChaCha20Poly1305, [u8; 32]) {
    let mut hasher = blake3::Hasher::new_keyed(key.expose());
    hasher.update(b"kinfold batch v1");
    hasher.update(&header.to_bytes()[..COMMIT_AT]);
    let mut okm = Zeroizing::new([0; 64]);
    hasher.finalize_xof().fill(&mut okm[..]);
    let (cipher_key, commit) = okm.split_at(32);
    let cipher_key: [u8; 32] = cipher_key.try_into().expect("split at 32");
    let cipher = ChaCha20Poly1305::new(&Key::from(cipher_key));
    (cipher, commit.try_into().expect("64 - 32 is 32"))
}

/// Every batch has its own key, so one nonce serves.
const ZERO_NONCE: [u8; 12] = [0; 12];

/// Measured: level 1 reaches most of the gain at a tenth of the cost of level 3 and up.
const COMPRESSION_LEVEL: i32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Incarnation;
    use bytes::Bytes;

    fn seal(body: &[u8], key: &EpochKey, entropy: u8) -> SealedBatch {
        let identity = Identity::from_secret(&[1; 32]);
        let input = SealInput {
            scope: ScopeTag::from_bytes([1; 16]),
            log: LogId { device: identity.device(), incarnation: Incarnation::new(1) },
            first: Seq::new(1),
            op_count: 1,
            roster_gen: 0,
            prev: TipHash::NONE,
            body,
            entropy: [entropy; 32],
        };
        Sealer::new(&identity).seal(&identity, key, &input)
    }

    #[test]
    fn what_is_sealed_opens_compressed_or_not() {
        let key = EpochKey::from_bytes([9; 32]);
        for body in [&b"short"[..], &[b'a'; 50_000], blake3::hash(b"x").as_bytes()] {
            let batch = seal(body, &key, 1);

            assert_eq!(batch.verify(), Ok(()));
            assert_eq!(Opener::new().open(&key, &batch).as_deref(), Ok(body));
        }
        assert!(seal(&[b'a'; 50_000], &key, 1).bytes().len() < 1_000);
    }

    #[test]
    fn another_key_and_every_spoiled_byte_are_refused() {
        let key = EpochKey::from_bytes([9; 32]);
        let batch = seal(b"the content", &key, 1);
        let other = EpochKey::from_bytes([8; 32]);
        let spoil = |at: usize| {
            let mut bytes = batch.bytes().to_vec();
            bytes[at] ^= 1;
            SealedBatch::parse(Bytes::from(bytes)).unwrap()
        };

        assert!(matches!(Opener::new().open(&other, &batch), Err(OpenError::OtherKey { .. })));
        assert_eq!(Opener::new().open(&key, &spoil(COMMIT_AT)), Err(OpenError::Commitment));
        assert_eq!(Opener::new().open(&key, &spoil(SALT_AT)), Err(OpenError::Commitment));
        assert_eq!(Opener::new().open(&key, &spoil(198)), Err(OpenError::Tag));
        assert_eq!(Opener::new().open(&key, &spoil(198 + 11)), Err(OpenError::Tag));
    }

    #[test]
    fn a_decompression_bomb_is_refused_before_it_is_unpacked() {
        let key = EpochKey::from_bytes([9; 32]);
        let bomb = zstd::bulk::compress(&vec![0; BODY_BYTES_MAX + 1], 1).unwrap();
        for plaintext in [&bomb[..], b"no zstd frame"] {
            let mut header = seal(plaintext, &key, 1).header().clone();
            header.is_compressed = true;
            header.ct_len = plaintext.len() as u32;
            let (cipher, commit) = batch_key(&key, &header);
            header.commit = commit;
            let mut buffer = plaintext.to_vec();
            let tag = cipher
                .encrypt_inout_detached(
                    &ZERO_NONCE.into(),
                    &header.to_bytes(),
                    InOutBuf::from(&mut buffer[..]),
                )
                .unwrap();
            buffer.extend_from_slice(&tag);
            let batch = assemble(&Identity::from_secret(&[1; 32]), header, &buffer);

            assert!(matches!(Opener::new().open(&key, &batch), Err(OpenError::Compression { .. })));
        }
    }

    #[test]
    fn a_repeated_random_generator_still_gives_other_salts() {
        let key = EpochKey::from_bytes([9; 32]);

        assert_ne!(seal(b"one", &key, 7).header().salt, seal(b"two", &key, 7).header().salt);
        assert_ne!(seal(b"one", &key, 7).header().salt, seal(b"one", &key, 8).header().salt);
    }
}
