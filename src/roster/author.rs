//! What a device brings to write a record, and names: sealed, opened, checked.

use super::content::SealedName;
use super::error::RosterError;
use super::role::Role;
use crate::crypto::{EpochKey, Identity, vault};
use crate::model::limits::NAME_BYTES_MAX;
use crate::model::{DeviceId, Hlc};

/// What every new record needs of the device that writes it.
pub struct Author<'a> {
    /// Signs the record.
    pub identity: &'a Identity,
    /// The space's current epoch key, which names are sealed under.
    pub key: &'a EpochKey,
    /// The stamp of the record.
    pub hlc: Hlc,
    /// 32 fresh bytes.
    pub entropy: [u8; 32],
}

/// A device to be added.
#[derive(Clone, Copy, Debug)]
pub struct NewDevice<'a> {
    /// The device.
    pub device: DeviceId,
    /// What it may do.
    pub role: Role,
    /// What people call it: 1 to [`NAME_BYTES_MAX`] bytes, no control characters.
    pub name: &'a str,
}

impl Author<'_> {
    pub(super) fn seal_name(&self, device: &DeviceId, name: &str) -> SealedName {
        let salt = self.fresh(b"name", device, name);
        let blob = vault::seal(self.key.expose(), &name_context(device), &salt, name.as_bytes());
        SealedName { key_id: self.key.id(), blob: blob.into() }
    }

    /// 32 bytes that are new also where the random generator repeats itself.
    pub(super) fn fresh(&self, purpose: &[u8], device: &DeviceId, name: &str) -> [u8; 32] {
        let secret = self.identity.derive("kinfold record salt v1");
        let mut hasher = blake3::Hasher::new_keyed(&secret);
        hasher.update(&self.entropy);
        hasher.update(&(purpose.len() as u64).to_be_bytes());
        hasher.update(purpose);
        hasher.update(&self.hlc.get().to_be_bytes());
        hasher.update(device.as_bytes());
        hasher.update(name.as_bytes());
        *hasher.finalize().as_bytes()
    }
}

/// Reads a sealed name; `None` where it does not open or breaks the rules for names.
pub(super) fn open_name(key: &EpochKey, device: &DeviceId, sealed: &SealedName) -> Option<String> {
    let plain = vault::open(key.expose(), &name_context(device), &sealed.blob).ok()?;
    String::from_utf8(plain).ok().filter(|name| check_name(name).is_ok())
}

fn name_context(device: &DeviceId) -> Vec<u8> {
    [b"kinfold name v1", &device.as_bytes()[..]].concat()
}

/// Checks what a writer may call a device, and again what a reader is shown.
pub(super) fn check_name(name: &str) -> Result<(), RosterError> {
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) {
        return Err(RosterError::NameLength { found: name.len(), limit: NAME_BYTES_MAX });
    }
    match name.chars().find(|character| character.is_control()) {
        Some(found) => Err(RosterError::NameCharacter { found }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn author<'a>(identity: &'a Identity, key: &'a EpochKey, entropy: u8) -> Author<'a> {
        Author { identity, key, hlc: Hlc::new(1), entropy: [entropy; 32] }
    }

    #[test]
    fn a_name_opens_for_its_device_and_key_only() {
        let (identity, key) = (Identity::from_secret(&[1; 32]), EpochKey::from_bytes([2; 32]));
        let (device, other) = (DeviceId::from_bytes([3; 32]), DeviceId::from_bytes([4; 32]));

        let sealed = author(&identity, &key, 5).seal_name(&device, "kitchen");

        assert_eq!(open_name(&key, &device, &sealed).as_deref(), Some("kitchen"));
        assert_eq!(open_name(&key, &other, &sealed), None);
        assert_eq!(open_name(&EpochKey::from_bytes([6; 32]), &device, &sealed), None);
        assert!(!sealed.blob.windows(7).any(|window| window == b"kitchen"));
    }

    #[test]
    fn a_name_that_breaks_the_rules_is_neither_written_nor_shown() {
        let (identity, key) = (Identity::from_secret(&[1; 32]), EpochKey::from_bytes([2; 32]));
        let device = DeviceId::from_bytes([3; 32]);
        let limit = NAME_BYTES_MAX;

        let long = "n".repeat(limit + 1);
        for (name, expect) in [
            ("", RosterError::NameLength { found: 0, limit }),
            (long.as_str(), RosterError::NameLength { found: limit + 1, limit }),
            ("a\x1b[2J", RosterError::NameCharacter { found: '\x1b' }),
        ] {
            assert_eq!(check_name(name), Err(expect));
            let sealed = author(&identity, &key, 5).seal_name(&device, name);
            assert_eq!(open_name(&key, &device, &sealed), None);
        }
        assert_eq!(check_name("Küche"), Ok(()));
    }

    #[test]
    fn a_repeated_random_generator_still_gives_other_salts() {
        let (identity, key) = (Identity::from_secret(&[1; 32]), EpochKey::from_bytes([2; 32]));
        let device = DeviceId::from_bytes([3; 32]);
        let author = author(&identity, &key, 5);

        let salt = author.fresh(b"name", &device, "a");

        assert_ne!(author.fresh(b"name", &device, "b"), salt);
        assert_ne!(author.fresh(b"nonce", &device, "a"), salt);
    }
}
