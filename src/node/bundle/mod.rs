//! Bundles: what a device lacks, in a file that anybody may carry.
//!
//! A file is one bundle (`wire::bundle`): its signed head, then its chunks. Exporting reads the store
//! twice, because the head comes first and names the hash of every chunk; what is in memory is one
//! chunk and the head.

mod export;
mod import;

use std::path::PathBuf;

use thiserror::Error;

pub use export::BundleExported;
pub use import::{BundleImported, Missing};

use super::error::NodeError;
use crate::model::{Blame, DeviceId, ScopeTag};
use crate::wire::BundleError;

/// Why a bundle is not exported or imported.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BundleFailure {
    /// The file to be written is there.
    #[error("{path:?} exists already and is left as it is; choose another name")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("{path:?} cannot be used")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file does not begin with a bundle's head.
    #[error("{path:?} cannot be imported")]
    Head {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: BundleError,
    },
    /// The bundle is of a space this device is not in.
    #[error("the bundle is of a space this device is not in ({scope})")]
    ForeignSpace {
        /// The tag of its space.
        scope: ScopeTag,
    },
    /// No record makes its exporter a device of the space.
    #[error("the bundle was exported by {}, which is no device of this space", .exporter.short())]
    ExporterUnknown {
        /// The exporter.
        exporter: DeviceId,
    },
    /// Its exporter was removed from the space.
    #[error("the bundle was exported by {}, which was removed from this space", .exporter.short())]
    ExporterRemoved {
        /// The exporter.
        exporter: DeviceId,
    },
    /// The device it is to be for is in no roster.
    #[error("{} is no device of this space", .device.short())]
    NoSuchDevice {
        /// The device.
        device: DeviceId,
    },
    /// The end of a log was dropped while it was exported.
    #[error("the history of a log changed while it was exported; export it again")]
    Changed,
    /// More than one bundle holds.
    #[error("this is more than one bundle holds")]
    TooMuch(#[source] BundleError),
    /// The node refused.
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl BundleFailure {
    /// Who is to change something.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Head { source, .. } => source.blame(),
            Self::ExporterUnknown { .. } | Self::ExporterRemoved { .. } => Blame::Peer,
            Self::File { .. } | Self::Changed => Blame::Environment,
            Self::Exists { .. }
            | Self::ForeignSpace { .. }
            | Self::NoSuchDevice { .. }
            | Self::TooMuch(_) => Blame::Local,
            Self::Node(error) => error.blame(),
        }
    }
}

/// How far a bundle is written or read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BundleProgress {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}
