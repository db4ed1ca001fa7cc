//! Sealing of small things that stay on this device or inside a record: drafts, keys, index
//! snapshots under the device's own key; names under an epoch key.
//!
//! `version u8 = 1 ‖ salt 32 ‖ commitment 32 ‖ ciphertext ‖ tag 16`, with
//! `okm = BLAKE3.keyed(key)("kinfold vault v1" ‖ context length u64 BE ‖ context ‖ salt).xof(64)` as
//! cipher key and commitment. The salt is 32 fresh bytes, so every sealing has its own key and the
//! nonce is zero. The context names what is sealed and where it belongs; it is authenticated, so a
//! blob moved to another place does not open.

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Key, Tag};
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

/// A blob that does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum VaultError {
    /// Shorter than its fixed part.
    #[error("{found} bytes are too few for a sealed blob")]
    TooShort {
        /// Bytes found.
        found: usize,
    },
    /// Written by a later version.
    #[error("sealed blob version {found} is not known here")]
    Version {
        /// The version found.
        found: u8,
    },
    /// Sealed under another key or for another place, or damaged.
    #[error("the sealed blob is damaged, or belongs to another key or place")]
    Refused,
}

/// Seals `plaintext` for `context`. `salt` must be fresh for every call.
pub fn seal(key: &[u8; 32], context: &[u8], salt: &[u8; 32], plaintext: &[u8]) -> Vec<u8> {
    let (cipher, commit) = derive(key, context, salt);
    let mut blob = Vec::with_capacity(OVERHEAD_BYTES + plaintext.len());
    blob.push(VERSION);
    blob.extend_from_slice(salt);
    blob.extend_from_slice(&commit);
    blob.extend_from_slice(plaintext);
    let tag = cipher
        .encrypt_inout_detached(&[0; 12].into(), &[], InOutBuf::from(&mut blob[FIXED_BYTES..]))
        .expect("blobs are far below the cipher's limit");
    blob.extend_from_slice(&tag);
    blob
}

/// Opens what [`seal`] made with the same key and context.
///
/// # Errors
/// Every variant of [`VaultError`].
pub fn open(key: &[u8; 32], context: &[u8], blob: &[u8]) -> Result<Vec<u8>, VaultError> {
    if blob.len() < OVERHEAD_BYTES {
        return Err(VaultError::TooShort { found: blob.len() });
    }
    if blob[0] != VERSION {
        return Err(VaultError::Version { found: blob[0] });
    }
    let salt: &[u8; 32] = blob[1..33].try_into().expect("the range has 32 bytes");
    let (cipher, commit) = derive(key, context, salt);
    if !bool::from(commit.ct_eq(&blob[33..FIXED_BYTES])) {
        return Err(VaultError::Refused);
    }
    let (ciphertext, tag) =
        blob[FIXED_BYTES..].split_last_chunk::<16>().expect("the length was checked above");
    let mut plaintext = ciphertext.to_vec();
    cipher
        .decrypt_inout_detached(&[0; 12].into(), &[], InOutBuf::from(&mut plaintext[..]), &Tag::from(*tag))
        .map_err(|_| VaultError::Refused)?;
    Ok(plaintext)
}

fn derive(key: &[u8; 32], context: &[u8], salt: &[u8; 32]) -> (ChaCha20Poly1305, [u8; 32]) {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(b"kinfold vault v1");
    hasher.update(&(context.len() as u64).to_be_bytes());
    hasher.update(context);
    hasher.update(salt);
    let mut okm = Zeroizing::new([0; 64]);
    hasher.finalize_xof().fill(&mut okm[..]);
    let (cipher_key, commit) = okm.split_at(32);
    let cipher_key: [u8; 32] = cipher_key.try_into().expect("split at 32");
    (ChaCha20Poly1305::new(&Key::from(cipher_key)), commit.try_into().expect("64 - 32 is 32"))
}

const VERSION: u8 = 1;
const FIXED_BYTES: usize = 1 + 32 + 32;

/// What sealing adds to the plaintext.
pub const OVERHEAD_BYTES: usize = FIXED_BYTES + 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_opens_in_its_place_only() {
        let blob = seal(&[1; 32], b"here", &[2; 32], b"content");

        assert_eq!(open(&[1; 32], b"here", &blob).as_deref(), Ok(&b"content"[..]));
        assert_eq!(open(&[1; 32], b"there", &blob), Err(VaultError::Refused));
        assert_eq!(open(&[3; 32], b"here", &blob), Err(VaultError::Refused));
        assert_eq!(open(&[1; 32], b"here", &blob[..40]), Err(VaultError::TooShort { found: 40 }));
        for at in 0..blob.len() {
            let mut spoiled = blob.clone();
            spoiled[at] ^= 1;
            assert!(open(&[1; 32], b"here", &spoiled).is_err(), "byte {at}");
        }
        assert_eq!(
            open(&[1; 32], b"here", &[&[9], &blob[1..]].concat()),
            Err(VaultError::Version { found: 9 })
        );
    }
}
