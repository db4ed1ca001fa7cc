//! Sealing the chunks of a checkpoint, so that the same chunk is the same bytes on every device.
//!
//! A chunk is a vault blob ([`super::vault`]) under the epoch key, with `kinfold chunk v1 ‖ space 32` as its
//! context, over `flag u8 ‖ content`: flag 0 = as it is, 1 = a zstd frame. The salt is
//! `BLAKE3.keyed(epoch key)("kinfold chunk salt v1" ‖ space ‖ flag ‖ content)`: a function of just what is
//! encrypted, so that two contents never share a cipher key, and a device that has computed a checkpoint by
//! itself need not fetch it. What shows is which chunks of two checkpoints are the same.

use thiserror::Error;

use super::key::EpochKey;
use super::vault::{self, VaultError};
use crate::model::SpaceId;

/// A chunk that does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// Sealed under another key or for another space, or damaged.
    #[error("the chunk does not open")]
    Sealed(#[source] VaultError),
    /// Neither as it is nor a zstd frame of at most that many bytes.
    #[error("the chunk holds no content of at most {limit} bytes")]
    Content {
        /// [`PLAIN_BYTES_MAX`].
        limit: usize,
    },
}

/// Seals a chunk.
pub fn seal(key: &EpochKey, space: &SpaceId, plain: &[u8]) -> Vec<u8> {
    let compressed = zstd::bulk::compress(plain, COMPRESSION_LEVEL).unwrap_or_default();
    let is_smaller = !compressed.is_empty() && compressed.len() < plain.len();
    let (flag, content) = if is_smaller { (COMPRESSED, &compressed[..]) } else { (AS_IT_IS, plain) };
    let content = [&[flag][..], content].concat();
    let mut salt = blake3::Hasher::new_keyed(key.expose());
    salt.update(b"kinfold chunk salt v1");
    salt.update(space.as_bytes());
    salt.update(&content);
    vault::seal(key.expose(), &context(space), salt.finalize().as_bytes(), &content)
}

/// Opens a chunk.
///
/// # Errors
/// Every variant of [`ChunkError`].
pub fn open(key: &EpochKey, space: &SpaceId, sealed: &[u8]) -> Result<Vec<u8>, ChunkError> {
    let content = vault::open(key.expose(), &context(space), sealed).map_err(ChunkError::Sealed)?;
    let none = ChunkError::Content { limit: PLAIN_BYTES_MAX };
    match content.split_first() {
        Some((&AS_IT_IS, plain)) if plain.len() <= PLAIN_BYTES_MAX => Ok(plain.to_vec()),
        Some((&COMPRESSED, frame)) => zstd::bulk::decompress(frame, PLAIN_BYTES_MAX).map_err(|_| none),
        Some(_) | None => Err(none),
    }
}

fn context(space: &SpaceId) -> Vec<u8> {
    [&b"kinfold chunk v1"[..], space.as_bytes()].concat()
}

/// Greatest plain chunk: one op of the greatest payload with all its predecessors.
pub const PLAIN_BYTES_MAX: usize = 160 * 1024;

const AS_IT_IS: u8 = 0;
const COMPRESSED: u8 = 1;

/// Higher ones save little, and every device that attests a checkpoint seals it to know its chunks.
const COMPRESSION_LEVEL: i32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    const SPACE: SpaceId = SpaceId::from_bytes([2; 32]);

    fn key(n: u8) -> EpochKey {
        EpochKey::from_bytes([n; 32])
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new_derive_key("noise").finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn a_chunk_opens_and_is_the_same_whoever_seals_it() {
        for plain in
            [Vec::new(), b"short".to_vec(), vec![7; 64 * 1024], noise(64 * 1024), noise(PLAIN_BYTES_MAX)]
        {
            let sealed = seal(&key(1), &SPACE, &plain);

            assert_eq!(open(&key(1), &SPACE, &sealed), Ok(plain.clone()));
            assert_eq!(sealed, seal(&key(1), &SPACE, &plain));
            assert!(sealed.len() <= plain.len() + 82);
            assert_ne!(
                sealed[..33],
                seal(&key(1), &SPACE, &[&plain[..], b"x"].concat())[..33],
                "another salt"
            );
        }
        assert!(seal(&key(1), &SPACE, &[7; 64 * 1024]).len() < 1_000);
    }

    #[test]
    fn a_chunk_of_another_key_or_space_or_a_spoiled_one_does_not_open() {
        let sealed = seal(&key(1), &SPACE, b"content");
        let refused = |result: Result<Vec<u8>, ChunkError>| matches!(result, Err(ChunkError::Sealed(_)));

        assert!(refused(open(&key(2), &SPACE, &sealed)));
        assert!(refused(open(&key(1), &SpaceId::from_bytes([3; 32]), &sealed)));
        for at in 0..sealed.len() {
            let mut spoiled = sealed.clone();
            spoiled[at] ^= 1;
            assert!(refused(open(&key(1), &SPACE, &spoiled)), "byte {at}");
        }
    }

    #[test]
    fn content_that_breaks_the_form_or_is_too_long_is_refused() {
        let sealed = |content: &[u8]| vault::seal(key(1).expose(), &context(&SPACE), &[9; 32], content);
        let bomb = zstd::bulk::compress(&vec![0; PLAIN_BYTES_MAX + 1], 1).unwrap();
        for content in [&b""[..], b"\x02x", b"\x01no frame", &[&[COMPRESSED][..], &bomb].concat()] {
            let none = Err(ChunkError::Content { limit: PLAIN_BYTES_MAX });
            assert_eq!(open(&key(1), &SPACE, &sealed(content)), none);
        }
    }
}
