//! The drop boxes of a node: which there are, and how each is doing.

mod checkpoint;
mod pull;
mod push;
mod record;
mod round;
mod watch;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;

pub(super) use record::{FILE as DROPBOXES_FILE, Records};
use round::Memory;
pub(super) use watch::Watchers;

use super::error::NodeError;
use super::handle::Node;
use super::space::Space;
use super::types::HealthReason;
use crate::clock;
use crate::dropbox::{DropboxError, Place, PlaceError, Shelf};
use crate::model::{Blame, Scope};

/// Why a drop box is not added or removed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DropboxFailure {
    /// The text names no place.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The place cannot be used now.
    #[error("{place} cannot be a drop box")]
    Unusable {
        /// The place.
        place: Place,
        /// Why.
        #[source]
        source: DropboxError,
    },
    /// The space has this drop box already.
    #[error("{place} is a drop box of this space already")]
    Exists {
        /// The place.
        place: Place,
    },
    /// There is none at this place.
    #[error("{place} is no drop box of this space")]
    Unknown {
        /// The place.
        place: Place,
    },
    /// As many as one device has.
    #[error("a device has at most {limit} drop boxes")]
    TooMany {
        /// The most.
        limit: usize,
    },
    /// The list of drop boxes cannot be kept or read.
    #[error("the list of drop boxes cannot be kept")]
    List(#[source] std::io::Error),
    /// The node refused.
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl DropboxFailure {
    /// Who is to change something.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Unusable { .. } | Self::List(_) => Blame::Environment,
            Self::Place(_) | Self::Exists { .. } | Self::Unknown { .. } | Self::TooMany { .. } => {
                Blame::Local
            }
            Self::Node(error) => error.blame(),
        }
    }
}

/// How a drop box is doing. That something lies in one is no receipt: a device has to say it has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DropboxStatus {
    /// Where it is.
    pub place: Place,
    /// Of which space.
    pub scope: Scope,
    /// When everything this device has was last there; `None` if not in this run.
    pub last_push: Option<Duration>,
    /// When everything there was last taken; `None` if not in this run.
    pub last_pull: Option<Duration>,
    /// Ops of this device's that are not there yet, as far as the last look tells.
    pub pending_ops: u64,
    /// Objects there, and their bytes.
    pub objects: u64,
    /// Bytes of the objects there.
    pub bytes: u64,
    /// Objects that are not whole yet, or are damaged.
    pub partial: u64,
    /// Ops there that were not taken: what comes before them is missing, or their device may not write.
    pub not_taken_ops: u64,
    /// Files that are none of kinfold's.
    pub foreign: u64,
    /// Why it cannot be used now, and what to do.
    pub trouble: Option<(String, &'static str)>,
}

/// What a round with a drop box came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Moved {
    pub pushed_ops: u64,
    pub pulled_ops: u64,
    pub is_failed: bool,
}

/// One drop box of a running node.
pub(super) struct DropBox {
    pub place: Place,
    pub scope: Scope,
    /// One round at a time.
    pub memory: tokio::sync::Mutex<Memory>,
    shown: Mutex<Shown>,
}

/// What is shown of it.
#[derive(Clone, Default)]
pub(super) struct Shown {
    pub pushed_at: Option<Duration>,
    pub pulled_at: Option<Duration>,
    pub pending_ops: u64,
    pub objects: u64,
    pub bytes: u64,
    pub partial: u64,
    pub not_taken_ops: u64,
    pub foreign: u64,
    pub trouble: Option<(String, &'static str)>,
}

impl DropBox {
    pub fn new(place: Place, scope: Scope) -> Arc<Self> {
        Arc::new(Self { place, scope, memory: tokio::sync::Mutex::default(), shown: Mutex::default() })
    }

    pub fn show(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut self.shown.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn status(&self) -> DropboxStatus {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let since = |at: Option<Duration>| at.map(|at| clock::uptime().saturating_sub(at));
        DropboxStatus {
            place: self.place.clone(),
            scope: self.scope.clone(),
            last_push: since(shown.pushed_at),
            last_pull: since(shown.pulled_at),
            pending_ops: shown.pending_ops,
            objects: shown.objects,
            bytes: shown.bytes,
            partial: shown.partial,
            not_taken_ops: shown.not_taken_ops,
            foreign: shown.foreign,
            trouble: shown.trouble,
        }
    }
}

impl Node {
    /// Leaves what a space has at a place from now on, and takes what others leave there.
    ///
    /// The place is a folder by its absolute name, which must be there, or the URL of a bucket. A device
    /// is let into a space by pairing, never through a drop box.
    ///
    /// # Errors
    /// Every variant of [`DropboxFailure`] but [`DropboxFailure::Unknown`].
    pub async fn add_dropbox(&self, place: &str, scope: Scope) -> Result<DropboxStatus, DropboxFailure> {
        let place = Place::parse(place)?;
        let space = self.space(&scope).await?.id();
        let records = self.drop_boxes();
        if records.find(&place, &scope).is_some() {
            return Err(DropboxFailure::Exists { place });
        }
        if records.list().len() >= DROPBOXES_MAX {
            return Err(DropboxFailure::TooMany { limit: DROPBOXES_MAX });
        }
        let made = Shelf::make(&place, &space).await;
        made.map_err(|source| DropboxFailure::Unusable { place: place.clone(), source })?;
        let added = DropBox::new(place, scope);
        records.add(self.home(), Arc::clone(&added)).map_err(DropboxFailure::List)?;
        self.watch_drop_boxes().await;
        Ok(added.status())
    }

    /// Leaves a place alone from now on; what lies there stays.
    ///
    /// # Errors
    /// [`DropboxFailure::Unknown`], [`DropboxFailure::List`], [`DropboxFailure::Place`].
    pub async fn remove_dropbox(&self, place: &str, scope: Scope) -> Result<DropboxStatus, DropboxFailure> {
        let place = Place::parse(place)?;
        let removed = self.drop_boxes().remove(self.home(), &place, &scope).map_err(DropboxFailure::List)?;
        let Some(removed) = removed else { return Err(DropboxFailure::Unknown { place }) };
        self.watch_drop_boxes().await;
        Ok(removed.status())
    }

    /// The drop boxes of every space.
    pub fn dropboxes(&self) -> Vec<DropboxStatus> {
        self.drop_boxes().list().iter().map(|dropbox| dropbox.status()).collect()
    }

    /// A round with those drop boxes that lack something this device has.
    pub(super) async fn leave_what_is_new(&self) {
        for dropbox in self.drop_boxes().list() {
            if watch::is_due(self, &dropbox).await {
                round::round(self, &dropbox).await;
            }
        }
    }

    /// A round with every drop box now.
    pub(super) async fn sync_drop_boxes(&self) -> Vec<Moved> {
        let mut moved = Vec::new();
        for dropbox in self.drop_boxes().list() {
            moved.push(round::round(self, &dropbox).await);
        }
        // What one has brought the others may lack.
        for (dropbox, moved) in self.drop_boxes().list().iter().zip(&mut moved) {
            if !moved.is_failed && watch::is_due(self, dropbox).await {
                let more = round::round(self, dropbox).await;
                moved.pushed_ops += more.pushed_ops;
                moved.pulled_ops += more.pulled_ops;
                moved.is_failed = more.is_failed;
            }
        }
        moved
    }
}

impl Space {
    /// Its drop boxes.
    pub(super) fn dropboxes(&self, scope: &Scope) -> Vec<DropboxStatus> {
        let all = self.node.dropboxes().into_iter();
        all.filter(|dropbox| dropbox.scope == *scope).collect()
    }
}

/// What stands in the way of drop boxes, as reasons of a node's health.
pub(super) fn reasons(dropboxes: &[DropboxStatus]) -> Vec<HealthReason> {
    let reason = |dropbox: &DropboxStatus| {
        let (why, hint) = dropbox.trouble.clone()?;
        Some(HealthReason::DropboxFailed { place: dropbox.place.to_string(), why, hint })
    };
    dropboxes.iter().filter_map(reason).collect()
}

/// Most drop boxes of one device.
pub(super) const DROPBOXES_MAX: usize = 16;
