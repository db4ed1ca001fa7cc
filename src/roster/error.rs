//! Why a roster is not loaded, a record not written, an op not taken in.

use thiserror::Error;

use super::record::RecordError;
use super::role::Role;
use crate::model::{Blame, DeviceId, KeyId, RecordHash, ScopeError, SpaceId};

/// Why a roster was not loaded, or a record not written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RosterError {
    /// Among the records is none whose hash is the space's id.
    #[error("the first record of space {space:?} is not among its records")]
    GenesisMissing {
        /// The space.
        space: SpaceId,
    },
    /// One of the records is refused.
    #[error("roster record {hash:?} does not hold")]
    Record {
        /// The hash of its bytes.
        hash: RecordHash,
        /// The rule it breaks.
        #[source]
        source: RecordError,
    },
    /// The scope of a new space is no scope.
    #[error("a space cannot be founded for this scope")]
    Scope(#[from] ScopeError),
    /// This device is no admin of the space.
    #[error("{device:?} is no admin of this space; ask one of its admins to add the device")]
    NotAdmin {
        /// This device.
        device: DeviceId,
    },
    /// A device cannot add itself.
    #[error("{device:?} is this device, which belongs to the space already")]
    IsSelf {
        /// This device.
        device: DeviceId,
    },
    /// The device belongs to the space already.
    #[error("{device:?} belongs to this space already, as {role}")]
    AlreadyMember {
        /// The device.
        device: DeviceId,
        /// Its role.
        role: Role,
    },
    /// An empty name, or one of more than [`NAME_BYTES_MAX`](crate::model::limits::NAME_BYTES_MAX) bytes.
    #[error("a device name has 1 to {limit} bytes, this one has {found}")]
    NameLength {
        /// Bytes found.
        found: usize,
        /// [`NAME_BYTES_MAX`](crate::model::limits::NAME_BYTES_MAX).
        limit: usize,
    },
    /// A name is shown on terminals, so it must not steer them.
    #[error("a device name has no control characters, this one has {found:?}")]
    NameCharacter {
        /// The character.
        found: char,
    },
    /// The key is not one of this space's.
    #[error("key {key_id:?} is none this space's records name; the name would stay unreadable")]
    UnknownKey {
        /// The key given.
        key_id: KeyId,
    },
    /// The space already has [`DEVICES_MAX`](crate::model::limits::DEVICES_MAX) devices.
    #[error("the space already has {limit} devices, the most it may have")]
    TooManyDevices {
        /// [`DEVICES_MAX`](crate::model::limits::DEVICES_MAX).
        limit: usize,
    },
    /// The space already has [`RECORDS_MAX`](crate::model::limits::RECORDS_MAX) records.
    #[error("the roster already holds {limit} records, the most one space may have")]
    TooManyRecords {
        /// [`RECORDS_MAX`](crate::model::limits::RECORDS_MAX).
        limit: usize,
    },
}

impl RosterError {
    /// Whose fault it is: this device asked for what may not be, or its store is damaged.
    pub const fn blame(&self) -> Blame {
        Blame::Local
    }
}

/// A device whose ops are not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NotAuthor {
    /// No record makes it a device of the space; one may still arrive.
    #[error("{device:?} is no device of this space")]
    Stranger {
        /// The device.
        device: DeviceId,
    },
    /// A blind device stores and forwards, and writes nothing.
    #[error("{device:?} is a blind device of this space, and those write nothing")]
    Blind {
        /// The device.
        device: DeviceId,
    },
}
