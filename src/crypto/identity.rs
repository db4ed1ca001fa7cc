//! A device's identity: one Ed25519 key, and the one way signatures are made and checked.

use std::fmt;

use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::model::DeviceId;

/// A signature that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The device id is no point of the curve, so nothing it signs can be checked.
    #[error("the device id is no valid Ed25519 public key")]
    DeviceNotAKey,
    /// The signature was not made by this device over these bytes.
    #[error("the signature does not fit the device and the bytes")]
    Mismatch,
}

/// The secret half of a device.
pub struct Identity {
    key: SigningKey,
    device: DeviceId,
}

impl Identity {
    /// Makes the identity of 32 secret bytes.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(secret);
        let device = DeviceId::from_bytes(key.verifying_key().to_bytes());
        Self { key, device }
    }

    /// Reads an unencrypted PKCS #8 document (RFC 5958); `None` where it holds no Ed25519 key.
    pub fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let key = SigningKey::from_pkcs8_der(der).ok()?;
        let device = DeviceId::from_bytes(key.verifying_key().to_bytes());
        Some(Self { key, device })
    }

    /// The identity as an unencrypted PKCS #8 document.
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        let document = self.key.to_pkcs8_der().expect("an Ed25519 key always encodes");
        Zeroizing::new(document.as_bytes().to_vec())
    }

    /// The public half.
    pub const fn device(&self) -> DeviceId {
        self.device
    }

    /// Signs `message`. The caller puts a domain tag in front of what it hashes.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }

    /// A key that only this device can derive, for the purpose that `context` names.
    pub fn derive(&self, context: &'static str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(context, self.key.as_bytes()))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.device)
    }
}

/// Checks that `device` signed `message`, by the strict rules (RFC 8032 with cofactorless
/// equation, canonical encodings, no small-order keys): what one device accepts, all accept.
///
/// # Errors
/// [`SignatureError::DeviceNotAKey`], [`SignatureError::Mismatch`].
pub fn verify(device: &DeviceId, message: &[u8], signature: &[u8; 64]) -> Result<(), SignatureError> {
    let key = VerifyingKey::from_bytes(device.as_bytes()).map_err(|_| SignatureError::DeviceNotAKey)?;
    key.verify_strict(message, &Signature::from_bytes(signature)).map_err(|_| SignatureError::Mismatch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_device_and_bytes_only() {
        let (a, b) = (Identity::from_secret(&[1; 32]), Identity::from_secret(&[2; 32]));
        let signature = a.sign(b"hello");

        assert_eq!(verify(&a.device(), b"hello", &signature), Ok(()));
        assert_eq!(verify(&a.device(), b"hellp", &signature), Err(SignatureError::Mismatch));
        assert_eq!(verify(&b.device(), b"hello", &signature), Err(SignatureError::Mismatch));
        let not_a_point = (0..=255u8)
            .map(|byte| DeviceId::from_bytes([byte; 32]))
            .find(|id| VerifyingKey::from_bytes(id.as_bytes()).is_err())
            .expect("half of all strings are no points");
        assert_eq!(verify(&not_a_point, b"hello", &signature), Err(SignatureError::DeviceNotAKey));
    }

    #[test]
    fn pkcs8_reads_back_and_garbage_does_not() {
        let identity = Identity::from_secret(&[3; 32]);

        assert_eq!(Identity::from_pkcs8(&identity.to_pkcs8()).map(|i| i.device()), Some(identity.device()));
        assert!(Identity::from_pkcs8(b"not a key").is_none());
    }

    #[test]
    fn a_small_order_key_signs_nothing() {
        let identity_point = {
            let mut bytes = [0; 32];
            bytes[0] = 1;
            DeviceId::from_bytes(bytes)
        };

        assert!(verify(&identity_point, b"any", &[0; 64]).is_err());
    }
}
