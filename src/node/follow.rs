//! Changes followed without a gap: from a bookmark on out of the log, then as they happen.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::error::NodeError;
use super::index::Index;
use super::space::Space;
use super::types::Change;
use crate::model::{Dot, Hlc, LogId, Payload, Seq, SpaceId};
use crate::store::{Blocks, OpAt};
use crate::wire::OpView;

/// How far a follower of changes has come, log by log. It outlives the process: kept beside what was
/// made of the changes, it tells where to go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bookmark {
    /// The space whose changes are followed.
    pub space: SpaceId,
    /// How often the end of a log of this copy had been dropped by then.
    pub truncations: u64,
    /// Per log the last op that was told.
    pub frontier: BTreeMap<LogId, Seq>,
}

/// Why there is no next change.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FollowError {
    /// More happened than is kept for a follower that does not ask. Nothing is lost: the next call
    /// goes on with the first change that was missed, out of the log.
    #[error("{missed} changes happened that were not asked for in time")]
    Lagged {
        /// How many, of any surface.
        missed: u64,
    },
    /// The node does not give it.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Changes of a space in the order they were folded here; those out of the log in total order.
///
/// Each is told at least once. An op that a device wrote again after its home was restored may be
/// told a second time after a bookmark.
pub struct Follower {
    space: Space,
    live: broadcast::Receiver<Change>,
    bookmark: Bookmark,
    /// Up to where changes are read from the log; what follows is in `live`.
    through: Option<BTreeMap<LogId, Seq>>,
    page: VecDeque<(Dot, Option<Change>)>,
    /// Nothing of `live` was told since it was listened to.
    is_catching_up: bool,
    /// What `live` dropped; it is to be listened to anew.
    missed: Option<u64>,
}

/// One place in time: what is folded, and what is told from then on.
struct Cut {
    live: broadcast::Receiver<Change>,
    folded: Bookmark,
}

impl Follower {
    /// Follows from now on, or from a bookmark on.
    ///
    /// # Errors
    /// [`NodeError::BookmarkStale`], [`NodeError::BeforeBase`], [`NodeError::Index`].
    pub(super) async fn new(space: Space, after: Option<Bookmark>) -> Result<Self, NodeError> {
        let Cut { live, folded } = cut(&space).await?;
        let Some(after) = after else {
            return Ok(Self {
                space,
                live,
                bookmark: folded,
                through: None,
                page: VecDeque::new(),
                is_catching_up: false,
                missed: None,
            });
        };
        let is_ahead =
            |(log, seq): (&LogId, &Seq)| folded.frontier.get(log).is_some_and(|folded| folded < seq);
        if after.space != folded.space
            || after.truncations != folded.truncations
            || after.frontier.iter().any(is_ahead)
        {
            return Err(NodeError::BookmarkStale);
        }
        space.within_base(|log| after.frontier.get(log).copied().unwrap_or(Seq::ZERO))?;
        Ok(Self {
            space,
            live,
            bookmark: after,
            through: Some(folded.frontier),
            page: VecDeque::new(),
            is_catching_up: true,
            missed: None,
        })
    }

    /// How far it has come: what [`Space::follow`] goes on from.
    pub const fn bookmark(&self) -> &Bookmark {
        &self.bookmark
    }

    /// The next change; waits for one. Cut off, it loses nothing.
    ///
    /// # Errors
    /// [`FollowError::Lagged`], after which the next call goes on; [`FollowError::Node`].
    pub async fn next(&mut self) -> Result<Change, FollowError> {
        loop {
            if let Some((place, change)) = self.page.pop_front() {
                self.told(place);
                match change {
                    Some(change) => return Ok(change),
                    None => continue,
                }
            }
            if self.through.is_some() {
                self.turn_page().await?;
                continue;
            }
            if let Some(missed) = self.missed {
                self.listen_anew().await?;
                // Whoever reads a long past is behind by no fault of its own.
                if !std::mem::replace(&mut self.is_catching_up, true) {
                    return Err(FollowError::Lagged { missed });
                }
                continue;
            }
            match self.live.recv().await {
                Ok(change) => {
                    self.is_catching_up = false;
                    self.told(change.dot);
                    return Ok(change);
                }
                Err(RecvError::Lagged(missed)) => self.missed = Some(missed),
                Err(RecvError::Closed) => return Err(NodeError::Stopped.into()),
            }
        }
    }

    async fn listen_anew(&mut self) -> Result<(), NodeError> {
        let Cut { live, folded } = cut(&self.space).await?;
        if folded.space != self.bookmark.space || folded.truncations != self.bookmark.truncations {
            return Err(NodeError::BookmarkStale);
        }
        self.live = live;
        self.through = Some(folded.frontier);
        self.missed = None;
        Ok(())
    }

    /// Reads on in the log, or finds that its end is reached.
    async fn turn_page(&mut self) -> Result<(), NodeError> {
        let Some(through) = self.through.clone() else { return Ok(()) };
        let (index, blocks) = (self.space.index(), Arc::clone(self.space.node.blocks()));
        let bookmark = self.bookmark.clone();
        // One that lagged may have been passed by.
        self.space.within_base(|log| bookmark.frontier.get(log).copied().unwrap_or(Seq::ZERO))?;
        let reading = tokio::task::spawn_blocking(move || read_between(&index, &blocks, &bookmark, &through));
        let page = reading.await.map_err(|_| NodeError::Stopped)??;
        if page.is_empty() {
            self.through = None;
        }
        self.page = page;
        Ok(())
    }

    fn told(&mut self, place: Dot) {
        let seq = self.bookmark.frontier.entry(place.log).or_default();
        *seq = place.seq.max(*seq);
    }
}

/// The state cannot change while it is read, so every change is either in it or in what is told next.
async fn cut(space: &Space) -> Result<Cut, NodeError> {
    let index = space.index();
    let cutting = tokio::task::spawn_blocking(move || {
        let state = index.read()?;
        let live = index.changes.subscribe();
        let truncations = state.truncations().get();
        let folded = Bookmark { space: index.space, truncations, frontier: state.applied_all() };
        Ok(Cut { live, folded })
    });
    cutting.await.map_err(|_| NodeError::Stopped)?
}

/// The next ops between two frontiers in total order; none where all are read.
fn read_between(
    index: &Index,
    blocks: &Arc<Blocks>,
    bookmark: &Bookmark,
    through: &BTreeMap<LogId, Seq>,
) -> Result<VecDeque<(Dot, Option<Change>)>, NodeError> {
    index.steadily(|| {
        if index.read()?.truncations().get() != bookmark.truncations {
            return Err(NodeError::BookmarkStale);
        }
        page_between(index, blocks, &bookmark.frontier, through)
    })
}

fn page_between(
    index: &Index,
    blocks: &Arc<Blocks>,
    from: &BTreeMap<LogId, Seq>,
    through: &BTreeMap<LogId, Seq>,
) -> Result<VecDeque<(Dot, Option<Change>)>, NodeError> {
    let mut heads: BinaryHeap<Reverse<(Hlc, Dot)>> = BinaryHeap::new();
    let mut ops: BTreeMap<LogId, OpAt> = BTreeMap::new();
    let take = |heads: &mut BinaryHeap<Reverse<(Hlc, Dot)>>, ops: &mut BTreeMap<LogId, OpAt>, dot: Dot| {
        if through.get(&dot.log).is_some_and(|last| dot.seq <= *last) {
            let op = blocks.op(&index.space, &dot)?.ok_or(NodeError::OpMissing { dot })?;
            heads.push(Reverse((op.hlc, dot)));
            ops.insert(dot.log, op);
        }
        Ok::<(), NodeError>(())
    };
    for log in through.keys() {
        let told = from.get(log).copied().unwrap_or(Seq::ZERO);
        take(&mut heads, &mut ops, Dot { log: *log, seq: told.next() })?;
    }
    let (mut page, mut bytes) = (VecDeque::new(), 0);
    while page.len() < PAGE_OPS && bytes < PAGE_BYTES {
        let Some(Reverse((_, place))) = heads.pop() else { break };
        let op = ops.remove(&place.log).expect("every head has its op");
        bytes += op.body.len();
        page.push_back((place, change(&op)));
        take(&mut heads, &mut ops, Dot { log: place.log, seq: place.seq.next() })?;
    }
    Ok(page)
}

/// What the fold told of it; `None` of an op that means nothing to this version.
fn change(op: &OpAt) -> Option<Change> {
    let view = OpView::decode(op.kind, op.flags, &op.body).ok()?;
    Some(Change {
        surface: view.surface()?.parse().ok()?,
        key: view.key()?.to_owned(),
        dot: op.dot,
        hlc: op.hlc,
        payload: view.payload().and_then(|payload| Payload::parse(payload).ok()),
    })
}

/// Ops read from the log at once.
const PAGE_OPS: usize = 512;

/// Bytes of ops after which a page ends early.
const PAGE_BYTES: usize = 1024 * 1024;
