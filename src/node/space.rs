//! One space of a node: what applications read and write.

use std::sync::{Arc, PoisonError};

use tokio::sync::{broadcast, oneshot};

use super::checkpoint::Waiting;
use super::core::{Job, Reply};
use super::error::NodeError;
use super::follow::{Bookmark, Follower};
use super::handle::Node;
use super::index::Index;
use super::lifecycle::Lifecycle;
use super::policy::check_policy;
use super::read::Reader;
use super::types::{Appended, Change, Custody, HealthReason, NewOp, Row, SafeToSleep, Status, StreamEvent};
use crate::fold::RowFilter;
use crate::model::limits::KEY_BYTES_MAX;
use crate::model::{DeviceId, Dot, Frontier, Hlc, Payload, Root, SpaceId, Surface, Tier};

/// One space of a node.
#[derive(Clone)]
pub struct Space {
    pub(super) node: Node,
    pub(super) place: Place,
}

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Space({:?})", self.id())
    }
}

/// Which space a handle means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// The personal space, also after it gave way to that of another device.
    Personal,
    /// This one.
    Fixed(SpaceId),
}

impl Space {
    /// The space.
    pub fn id(&self) -> SpaceId {
        match self.place {
            Place::Personal => self.node.personal_id(),
            Place::Fixed(id) => id,
        }
    }

    /// What it is and has, with the node.
    ///
    /// # Errors
    /// [`NodeError::Stopped`].
    pub async fn status(&self) -> Result<Status, NodeError> {
        let space = self.id();
        let asked = self.node.ask(move |core| Some((core.status(space)?, core.begins_anew(space))));
        let (mut status, begins_anew) = asked.await?.ok_or(NodeError::Stopped)?;
        // Where the history is to be had as well, it comes, and nobody has to do anything.
        status.waiting = self.waiting().filter(|_| begins_anew);
        if let Some(waiting) = status.waiting.clone().filter(Waiting::is_stuck) {
            status.health.push(HealthReason::BaseWaiting { waiting });
        }
        if status.base.is_some() {
            let this = self.clone();
            status.adopted = self.node.blocking(move || this.adopted()).await?;
        }
        status.dropboxes = self.dropboxes(&status.scope);
        status.health.extend(super::dropbox::reasons(&status.dropboxes));
        status.lifecycle = self.node.lifecycle().borrow().clone();
        if let Lifecycle::Failed { why, failures, .. } = &status.lifecycle {
            status.health.push(HealthReason::NetworkFailed { why: why.clone(), failures: *failures });
        }
        Ok(status)
    }

    /// Waits until everything this device holds of it is held durably by that many other devices.
    ///
    /// # Errors
    /// [`NodeError::Stopped`].
    pub async fn wait_all(&self, custody: Custody) -> Result<Vec<DeviceId>, NodeError> {
        let this = self.clone();
        self.node.wait_for(custody, move |core| core.engine.holders_of_all(this.id())).await
    }

    /// Whether another device holds everything of it.
    ///
    /// # Errors
    /// [`NodeError::Stopped`].
    pub async fn safe_to_sleep(&self) -> Result<SafeToSleep, NodeError> {
        let space = self.id();
        self.node.ask(move |core| core.safe_to_sleep(space)).await
    }

    /// Sets a row of a registry surface, or states a fact; returns once it is durable.
    ///
    /// # Errors
    /// [`NodeError::Surface`], [`NodeError::Payload`], and as [`Space::append`].
    pub async fn put(
        &self,
        surface: &str,
        key: &str,
        value: impl serde::Serialize,
    ) -> Result<Appended, NodeError> {
        let surface: Surface = surface.parse()?;
        let payload = Payload::from_value(&value)?;
        let key = key.to_owned();
        let op = match surface.tier() {
            Tier::Facts => NewOp::Fact { surface, key, payload },
            _ => NewOp::Put { surface, key, payload },
        };
        let placed = self.append(vec![op]).await?;
        Ok(*placed.first().expect("one op was given, one was placed"))
    }

    /// Records ops, in order; all of them are durable when this returns, or none is recorded.
    ///
    /// # Errors
    /// [`NodeError::KeyLength`], [`NodeError::WrongTier`], [`NodeError::Refused`],
    /// [`NodeError::Stopped`].
    pub async fn append(&self, ops: Vec<NewOp>) -> Result<Vec<Appended>, NodeError> {
        for op in &ops {
            check(op)?;
        }
        if ops.is_empty() {
            return Ok(Vec::new());
        }
        let (reply, placed) = oneshot::channel();
        let job = Job::Append { space: self.id(), ops, reply: Reply::Ops(reply) };
        self.node.jobs().send(job).await.map_err(|_| NodeError::Stopped)?;
        let placed = placed.await.map_err(|_| NodeError::Stopped)??;
        self.remember(placed.iter());
        Ok(placed)
    }

    /// Notes where own ops are, for whoever waits for a receipt.
    pub(super) fn remember<'a>(
        &self,
        placed: impl DoubleEndedIterator<Item = &'a Appended> + ExactSizeIterator,
    ) {
        let mut recent = self.node.recent().lock().unwrap_or_else(PoisonError::into_inner);
        // A caller that waits for a receipt does so soon; older ids are searched for.
        if recent.len() + placed.len() > RECENT_IDS {
            recent.clear();
        }
        let space = self.id();
        recent.extend(placed.rev().take(RECENT_IDS).map(|placed| (placed.id, (space, placed.dot))));
    }

    /// One row or fact; `None` where there is none or it was removed. A fact that the policy of its
    /// surface drops is a stub: [`Row::is_dropped`].
    ///
    /// # Errors
    /// [`NodeError::Index`], [`NodeError::Read`], [`NodeError::OpMissing`].
    pub fn get(&self, surface: &Surface, key: &str) -> Result<Option<Row>, NodeError> {
        self.reader().row(surface, key)
    }

    /// Live rows or facts in key order, beginning after `after`, at most `limit`.
    ///
    /// # Errors
    /// As [`Space::get`].
    pub fn list(&self, surface: &Surface, after: Option<&str>, limit: usize) -> Result<Vec<Row>, NodeError> {
        self.reader().rows(surface, after, limit, RowFilter::Live)
    }

    /// As [`Space::list`], with facts that another one supersedes; each says which do.
    ///
    /// # Errors
    /// As [`Space::get`].
    pub fn list_all(
        &self,
        surface: &Surface,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Row>, NodeError> {
        self.reader().rows(surface, after, limit, RowFilter::WithSuperseded)
    }

    /// The streams of an event surface, in order.
    ///
    /// # Errors
    /// [`NodeError::Index`].
    pub fn streams(&self, surface: &Surface) -> Result<Vec<String>, NodeError> {
        self.reader().streams(surface)
    }

    /// Events of a stream in total order, beginning after a place, at most `limit`.
    ///
    /// # Errors
    /// As [`Space::get`].
    pub fn events(
        &self,
        surface: &Surface,
        stream: &str,
        after: Option<(Hlc, Dot)>,
        limit: usize,
    ) -> Result<Vec<StreamEvent>, NodeError> {
        self.reader().events(surface, stream, after, limit)
    }

    /// Rows and facts with more than one value, in (surface, key) order after a place.
    ///
    /// # Errors
    /// As [`Space::get`].
    pub fn conflicts(&self, after: Option<(&Surface, &str)>, limit: usize) -> Result<Vec<Row>, NodeError> {
        self.reader().conflicts(after, limit)
    }

    /// The surfaces that hold something, with the number of their live rows or events.
    ///
    /// # Errors
    /// [`NodeError::Index`].
    pub fn surfaces(&self) -> Result<Vec<(Surface, u64)>, NodeError> {
        self.reader().surfaces()
    }

    /// The hash of the folded state; all zeros where the store does not give one
    /// ([`NodeError::Index`] elsewhere).
    pub fn root(&self) -> Root {
        let index = self.index();
        match index.read().map(drop) {
            Ok(()) => index.report().1,
            Err(_) => Root::from_bytes([0; 32]),
        }
    }

    /// What is sealed and durable here.
    pub fn frontier(&self) -> Frontier {
        self.index().frontier.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the fold changes from now on, own and remote. A subscriber that lags 4,096 changes
    /// behind is told how many it missed.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.index().changes.subscribe()
    }

    pub(super) fn reader(&self) -> Reader {
        Reader::of(self.index(), Arc::clone(self.node.blocks()))
    }

    /// Changes without a gap: from `after` on, or from now on where there is none.
    ///
    /// Unlike [`Space::changes`] it goes on where an earlier run of the program was, and a follower that
    /// falls behind reads what it missed from the log.
    ///
    /// # Errors
    /// [`NodeError::BookmarkStale`] where the history is not the one the bookmark was taken in,
    /// [`NodeError::Index`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let home = directory.path().join("home");
    /// # kinfold::Node::init(&home, "laptop")?;
    /// # let node = kinfold::Node::builder(&home).open().await?;
    /// let space = node.personal();
    /// let mut changes = space.follow(None).await?;
    /// space.put("registry:note", "a", 1).await?;
    /// space.put("registry:note", "b", 2).await?;
    /// assert_eq!(changes.next().await?.key, "a");
    /// let bookmark = changes.bookmark().clone(); // kept beside what was made of the changes
    ///
    /// // Later, also in another run of the program:
    /// let mut changes = space.follow(Some(bookmark)).await?;
    /// assert_eq!(changes.next().await?.key, "b");
    /// # node.stop().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn follow(&self, after: Option<Bookmark>) -> Result<Follower, NodeError> {
        Follower::new(self.clone(), after).await
    }

    pub(super) fn index(&self) -> Arc<Index> {
        let indexes = self.node.indexes().read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(indexes.get(&self.id()).expect("a space has an index from before its first handle"))
    }
}

/// What an op must be before it is worth a transaction.
fn check(op: &NewOp) -> Result<(), NodeError> {
    check_policy(op)?;
    let (surface, key, tier) = match op {
        NewOp::Put { surface, key, .. }
        | NewOp::Delete { surface, key }
        | NewOp::Resolve { surface, key, .. } => (surface, key, Tier::Registry),
        NewOp::Fact { surface, key, .. } => (surface, key, Tier::Facts),
        NewOp::Event { surface, stream, .. } => (surface, stream, Tier::Events),
        // Its names are checked by their types.
        NewOp::Intent(_) => return Ok(()),
    };
    if surface.tier() != tier {
        return Err(NodeError::WrongTier { surface: surface.clone(), tier: surface.tier() });
    }
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(NodeError::KeyLength { found: key.len(), limit: KEY_BYTES_MAX });
    }
    Ok(())
}

/// Ids of own ops remembered for receipts.
const RECENT_IDS: usize = 65_536;
