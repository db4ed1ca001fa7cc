//! Secret keys that redact themselves and are wiped when dropped.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::beacon::BeaconKey;
use crate::model::KeyId;

/// The key of one epoch of a space: 32 random bytes every full member holds.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct EpochKey([u8; 32]);

impl EpochKey {
    /// Takes the raw key.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw key, for sealing it under another or sending it to a member.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its public name: the first 16 bytes of `BLAKE3.derive_key("kinfold key id v1", key)`.
    pub fn id(&self) -> KeyId {
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::derive_key("kinfold key id v1", &self.0)[..16]);
        KeyId::from_bytes(id)
    }

    /// The key of the mDNS beacons of this epoch.
    pub fn beacon(&self) -> BeaconKey {
        BeaconKey::from_bytes(blake3::derive_key("kinfold beacon v1", &self.0))
    }
}

impl PartialEq for EpochKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for EpochKey {}

impl fmt::Debug for EpochKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EpochKey({:?})", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_prints_itself() {
        let key = EpochKey::from_bytes([0x5a; 32]);

        assert!(!format!("{key:?}").contains("5a5a5a5a"));
    }

    #[test]
    fn keys_and_their_names_differ_together() {
        let (a, b) = (EpochKey::from_bytes([1; 32]), EpochKey::from_bytes([2; 32]));

        assert_ne!(a, b);
        assert_ne!(a.id(), b.id());
    }
}
