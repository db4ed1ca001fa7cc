//! Beacon tags: how members recognise each other's announcements and nobody else does.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::model::DeviceId;

/// The key of one space's beacons in one key epoch.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct BeaconKey([u8; 32]);

impl BeaconKey {
    /// Takes the 32 secret bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// What `device` announces in `quarter`:
    /// `BLAKE3-keyed(key, device 32 ‖ quarter 8 big-endian)[..8]`.
    pub fn tag(&self, device: &DeviceId, quarter: Quarter) -> BeaconTag {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(device.as_bytes());
        hasher.update(&quarter.0.to_be_bytes());
        let mut tag = [0; 8];
        tag.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        BeaconTag(tag)
    }
}

impl fmt::Debug for BeaconKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeaconKey(..)")
    }
}

/// A quarter of an hour, counted from the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Quarter(u64);

impl Quarter {
    /// The quarter that `seconds` after the Unix epoch lies in.
    pub const fn of_unix_seconds(seconds: u64) -> Self {
        Self(seconds / QUARTER_SECONDS)
    }

    /// Before, now, after: what a receiver accepts, so that clocks may differ by a quarter.
    pub const fn around(self) -> [Self; 3] {
        [Self(self.0.saturating_sub(1)), self, Self(self.0.saturating_add(1))]
    }

    /// Unix seconds at which the next quarter begins.
    pub const fn end_unix_seconds(self) -> u64 {
        self.0.saturating_add(1).saturating_mul(QUARTER_SECONDS)
    }
}

/// What is announced: eight bytes that mean nothing without the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BeaconTag([u8; 8]);

impl BeaconTag {
    /// Takes the raw bytes.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

/// Long enough that announcements are rare, short enough that nobody is followed for a day.
const QUARTER_SECONDS: u64 = 900;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_pinned_to_its_layout() {
        let (device, quarter) = (DeviceId::from_bytes([7; 32]), Quarter::of_unix_seconds(1_800_000_000));

        let tag = BeaconKey::from_bytes([9; 32]).tag(&device, quarter);

        let mut bytes = vec![7; 32];
        bytes.extend_from_slice(&2_000_000u64.to_be_bytes());
        assert_eq!(tag.as_bytes()[..], blake3::keyed_hash(&[9; 32], &bytes).as_bytes()[..8]);
    }

    #[test]
    fn a_tag_differs_by_key_device_and_quarter() {
        let (key, other) = (BeaconKey::from_bytes([1; 32]), BeaconKey::from_bytes([2; 32]));
        let (a, b) = (DeviceId::from_bytes([3; 32]), DeviceId::from_bytes([4; 32]));
        let [before, now, _] = Quarter::of_unix_seconds(900_000).around();

        let tag = key.tag(&a, now);

        assert_ne!(tag, other.tag(&a, now));
        assert_ne!(tag, key.tag(&b, now));
        assert_ne!(tag, key.tag(&a, before));
        assert_eq!(format!("{key:?}"), "BeaconKey(..)");
    }

    #[test]
    fn a_quarter_ends_where_the_next_begins() {
        let quarter = Quarter::of_unix_seconds(1_234_567);

        assert!(quarter.end_unix_seconds() > 1_234_567);
        assert_eq!(Quarter::of_unix_seconds(quarter.end_unix_seconds()), quarter.around()[2]);
    }
}
