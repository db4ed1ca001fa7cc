//! Why a roster is not loaded, a record not written, an op not taken in.

use thiserror::Error;

use super::record::RecordError;
use super::role::Role;
use crate::lease::CertError;
use crate::model::{Blame, DeviceId, KeyId, LogId, RecordHash, ScopeError, Seq, SpaceId};

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
    #[error("{device:?} is no admin of this space; ask one of its admins to do it")]
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
    /// The device was removed, which is for ever.
    #[error(
        "{device:?} was removed from this space; a removed key never comes back: run `kinfold init` in a \
         fresh home and pair again"
    )]
    Removed {
        /// The device.
        device: DeviceId,
    },
    /// The device was removed before.
    #[error("{device:?} was removed from this space already, and stays so; there is nothing to do")]
    AlreadyRemoved {
        /// The device.
        device: DeviceId,
    },
    /// No record makes it a device of the space.
    #[error("{device:?} is no device of this space; `kinfold devices` lists those that are")]
    NotADevice {
        /// The device.
        device: DeviceId,
    },
    /// Without this device nobody could add or remove devices any more.
    #[error("{device:?} is the last admin of this space; make another device an admin first")]
    LastAdmin {
        /// The device.
        device: DeviceId,
    },
    /// A device selects among the histories of its own logs only.
    #[error("log {log} is not one of {device:?}, and only a log's own device says which branch counts")]
    NotOwnLog {
        /// This device.
        device: DeviceId,
        /// The log.
        log: LogId,
    },
    /// A branch that ends where it parts from the other, or before, or a base without its link.
    #[error("a branch that parts after {base} and ends at {tip} is none")]
    BranchOrder {
        /// The last shared place.
        base: Seq,
        /// The place selected.
        tip: Seq,
    },
    /// A removal cuts the logs of the device removed.
    #[error("log {log} is not one of {device:?}, so its removal cannot cut it")]
    CutOfOther {
        /// The device to be removed.
        device: DeviceId,
        /// The log.
        log: LogId,
    },
    /// More logs than [`CUT_LOGS_MAX`](crate::model::limits::CUT_LOGS_MAX).
    #[error("a removal cuts at most {limit} logs, this device has {found}")]
    CutTooLong {
        /// Logs found.
        found: usize,
        /// [`CUT_LOGS_MAX`](crate::model::limits::CUT_LOGS_MAX).
        limit: usize,
    },
    /// Another device coordinates this rotation.
    #[error("{coordinator:?} coordinates this rotation and writes its record, not {device:?}")]
    NotCoordinator {
        /// This device.
        device: DeviceId,
        /// The coordinator.
        coordinator: DeviceId,
    },
    /// The coordinator has seen other records than this device.
    #[error(
        "the rotation was proposed over other roster records than are here; exchange them and propose again"
    )]
    ProposalParents,
    /// The proposed epoch has another number than the next one.
    #[error(
        "the rotation is numbered {found}, the next one here is {expected}; exchange records and propose again"
    )]
    ProposalNumber {
        /// The next number.
        expected: u64,
        /// The number proposed.
        found: u64,
    },
    /// The devices have changed since the host was proposed.
    #[error("devices were added, removed or went dormant since the new host was proposed; propose it again")]
    HostVoters,
    /// The certificate of a host does not hold.
    #[error("the certificate of the new host does not hold")]
    HostCertificate(#[source] CertError),
    /// The proposed key was an epoch's before, so those removed since may hold it.
    #[error("key {key_id:?} was in use before; propose a fresh one")]
    KeyReused {
        /// The key proposed.
        key_id: KeyId,
    },
    /// The device belongs to the space already, with this role or a greater one.
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
    /// It was removed from the space; what its removal does not keep is not taken in.
    #[error("{device:?} was removed from this space")]
    Removed {
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
