//! What can go wrong with a store.

use std::error::Error;
use std::fmt;
use std::io;

use thiserror::Error;

use crate::model::{DeviceId, LogId, Seq, SpaceId};
use crate::wire::checkpoint::CheckpointHash;

/// Why a store does not open, or did not take a transaction.
///
/// Whatever the error, nothing of the transaction was written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Bytes on disk are not what was written.
    #[error(
        "{what} is damaged; move this home aside, begin a new one and add it on another device, which has the data"
    )]
    Damaged {
        /// Which part.
        what: Part,
        /// What the engine said, where it said something.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// A later kinfold wrote this store; nothing in it was touched.
    #[error("the store has format {found}, this kinfold knows {known}; install the newer kinfold again")]
    NewerFormat {
        /// The version found.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The store was written under another device's key.
    #[error("the store belongs to another device's identity; put back the identity it was made with")]
    OtherKey,
    /// No space left on the disk. Commits succeed again once there is.
    #[error("the disk is full; free some space and try again, nothing was lost")]
    DiskFull(#[source] io::Error),
    /// The store may not be written.
    #[error("the store cannot be written; check the owner and permissions of its folder")]
    ReadOnly(#[source] io::Error),
    /// Another handle has the store file open.
    #[error("the store is open in another process; stop that one first")]
    InUse,
    /// The folder lies on a network file system, which may claim that bytes are safe when they are not.
    #[error("the store lies on a network file system ({kind}); choose a folder on a local disk")]
    NetworkFileSystem {
        /// Its name.
        kind: &'static str,
    },
    /// Batches or drafts that do not continue what is held: refused as the caller's bug.
    #[error("ops from {found} of log {log} do not continue what is held, which ends at {tip}")]
    NotContiguous {
        /// The log.
        log: LogId,
        /// Where the held part ends.
        tip: Seq,
        /// Where the refused part begins.
        found: Seq,
    },
    /// A batch without ops, or drafts that are no body: refused as the caller's bug.
    #[error("ops from {found} of log {log} are not a whole body")]
    NoBody {
        /// The log.
        log: LogId,
        /// Where they begin.
        found: Seq,
    },
    /// A write for a space that does not exist here: refused as the caller's bug.
    #[error("space {space} does not exist in this store")]
    UnknownSpace {
        /// The space.
        space: SpaceId,
    },
    /// Drafts were to be forgotten that no batch holds: refused as the caller's bug.
    #[error("drafts of {device:?} through {through} are sealed only through {tip}")]
    DraftsUnsealed {
        /// Whose drafts.
        device: DeviceId,
        /// The last position to be forgotten.
        through: Seq,
        /// The end of the sealed part.
        tip: Seq,
    },
    /// A log was to be cut where none of its batches ends like that: refused as the caller's bug.
    #[error("no batch of log {log} ends at {to} as it was to")]
    NoSuchEnd {
        /// The log.
        log: LogId,
        /// Where it was to end.
        to: Seq,
    },
    /// A log was to end within what its base holds: refused as the caller's bug.
    #[error("log {log} cannot end at {to}: the checkpoint that its history begins with reaches to {floor}")]
    BelowBase {
        /// The log.
        log: LogId,
        /// Where it was to end.
        to: Seq,
        /// The last place within the base.
        floor: Seq,
    },
    /// A space was to begin with a checkpoint that is not whole here, or has another cut: refused as the
    /// caller's bug.
    #[error("no checkpoint {checkpoint} of that cut is whole in this store")]
    NoBase {
        /// The checkpoint.
        checkpoint: CheckpointHash,
    },
    /// A space was to begin with a checkpoint that some log of it reaches beyond already: refused as the
    /// caller's bug.
    #[error("checkpoint {checkpoint} is of an earlier cut than the one this history begins with")]
    BaseBehind {
        /// The checkpoint.
        checkpoint: CheckpointHash,
    },
    /// The operating system refused; the store was opened anew or will be at the next call.
    #[error("the disk refused a read or a write")]
    Io(#[source] io::Error),
}

/// A part of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The store file as a whole.
    File,
    /// The file that names the format.
    Format,
    /// A row of one of the small tables.
    Row {
        /// The table.
        table: &'static str,
    },
    /// A group of drafts.
    Drafts {
        /// The log.
        log: LogId,
        /// The first of them.
        first: Seq,
    },
    /// The checkpoint that the history of a space begins with.
    Base,
    /// A sealed batch.
    Batch {
        /// The log.
        log: LogId,
        /// The position looked for.
        seq: Seq,
    },
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("the store file"),
            Self::Format => f.write_str("the store's format file"),
            Self::Row { table } => write!(f, "a row of the store's table {table}"),
            Self::Drafts { log, first } => write!(f, "the drafts from {first} of log {log}"),
            Self::Base => f.write_str("the checkpoint that the history of a space begins with"),
            Self::Batch { log, seq } => write!(f, "the batch with op {seq} of log {log}"),
        }
    }
}

impl StoreError {
    /// Whether the engine below must be opened anew before it is used again.
    pub(super) const fn spoils_engine(&self) -> bool {
        match self {
            Self::Damaged { what: Part::File, .. } | Self::DiskFull(_) | Self::ReadOnly(_) | Self::Io(_) => {
                true
            }
            Self::Damaged { .. }
            | Self::NewerFormat { .. }
            | Self::OtherKey
            | Self::InUse
            | Self::NetworkFileSystem { .. }
            | Self::NotContiguous { .. }
            | Self::NoBody { .. }
            | Self::UnknownSpace { .. }
            | Self::DraftsUnsealed { .. }
            | Self::NoSuchEnd { .. }
            | Self::BelowBase { .. }
            | Self::NoBase { .. }
            | Self::BaseBehind { .. } => false,
        }
    }

    pub(super) const fn damaged(what: Part) -> Self {
        Self::Damaged { what, source: None }
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull(error),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly(error),
            // The file ends before a place it names itself, or does not begin as one of the engine's.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                Self::Damaged { what: Part::File, source: Some(error.into()) }
            }
            _ => Self::Io(error),
        }
    }
}

/// Sorts what the engine says into what a person can act on.
impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(error) => error.into(),
            redb::Error::DatabaseAlreadyOpen => Self::InUse,
            redb::Error::Corrupted(_)
            | redb::Error::UpgradeRequired(_)
            | redb::Error::RepairAborted
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TableIsNotMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::TableDoesNotExist(_) => {
                Self::Damaged { what: Part::File, source: Some(Box::new(error)) }
            }
            // Everything else says that an earlier failure closed the engine.
            other => Self::Io(io::Error::other(other)),
        }
    }
}

macro_rules! from_engine {
    ($($error:ty),*) => {$(
        impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                redb::Error::from(error).into()
            }
        }
    )*};
}

from_engine!(
    redb::CompactionError,
    redb::DatabaseError,
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError
);
