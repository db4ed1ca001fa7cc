//! One round with a drop box: look, take what is lacking here, leave what is lacking there, tidy up.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{debug, warn};

use super::checkpoint::WordKey;
use super::{DropBox, Moved};
use crate::clock;
use crate::dropbox::{DropboxError, Inventory, LogTag, ObjectName, Shelf, WriterTag};
use crate::model::{DeviceId, Frontier, LogId, Seq, SpaceId};
use crate::node::core::chain_of;
use crate::node::error::NodeError;
use crate::node::handle::Node;
use crate::node::space::{Place, Space};

/// What a node remembers of a drop box while it runs. Forgetting it costs reading again, nothing else.
#[derive(Default)]
pub(in crate::node) struct Memory {
    /// Objects that were read and brought nothing, with what was held then: read again only after that
    /// has changed.
    pub tried: BTreeMap<ObjectName, Tried>,
    /// Acks that lie there, by device: the number, and in which object.
    pub acks: BTreeMap<DeviceId, (u64, ObjectName)>,
    /// Who attests a checkpoint, by what the object says that lies there.
    pub words: BTreeMap<ObjectName, BTreeSet<WordKey>>,
    /// What was held after the last round that went well.
    pub settled: Option<[u8; 32]>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::node) enum Tried {
    /// Batches that did not continue what was held, under this roster.
    At { tip: Seq, roster: [u8; 32] },
    /// Its content never changes, and is of no use, or all taken.
    ForGood,
    /// Its files did not hold it; they may still be on their way.
    Damaged(Vec<String>),
}

impl Memory {
    pub fn note(&mut self, name: ObjectName, tried: Tried) {
        if self.tried.len() >= TRIED_MAX {
            // Whichever goes is read once more.
            self.tried.pop_first();
        }
        self.tried.insert(name, tried);
    }
}

/// What goes wrong in a round.
#[derive(Debug, thiserror::Error)]
pub(super) enum RoundError {
    #[error(transparent)]
    Dropbox(#[from] DropboxError),
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl From<crate::store::StoreError> for RoundError {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Node(error.into())
    }
}

/// Everything a round needs to know.
pub(super) struct Round<'a> {
    pub node: &'a Node,
    pub dropbox: &'a DropBox,
    pub shelf: Shelf,
    pub space: SpaceId,
    pub writer: WriterTag,
    pub inventory: Inventory,
    pub moved: Moved,
}

/// A round; what stands in its way is shown, not returned.
pub(in crate::node) async fn round(node: &Node, dropbox: &DropBox) -> Moved {
    let mut memory = dropbox.memory.lock().await;
    let mut moved = Moved::default();
    let outcome = go(node, dropbox, &mut memory, &mut moved).await;
    match outcome {
        Ok(()) => dropbox.show(|shown| shown.trouble = None),
        Err(RoundError::Node(NodeError::Stopped)) => {}
        Err(error) => {
            moved.is_failed = true;
            memory.settled = None;
            let hint = match &error {
                RoundError::Dropbox(error) => error.hint(),
                RoundError::Node(_) => "`kinfold status` says what is wrong with this device",
            };
            let why = chain_of(&error);
            dropbox.show(|shown| {
                if shown.trouble.as_ref().is_none_or(|(known, _)| *known != why) {
                    warn!(place = %dropbox.place, %why, "a drop box cannot be used now");
                }
                shown.trouble = Some((why, hint));
            });
        }
    }
    debug!(place = %dropbox.place, pushed = moved.pushed_ops, pulled = moved.pulled_ops, "a round with a drop box");
    moved
}

async fn go(
    node: &Node,
    dropbox: &DropBox,
    memory: &mut Memory,
    moved: &mut Moved,
) -> Result<(), RoundError> {
    let space = node.space(&dropbox.scope).await?;
    let index = space.clone();
    // An ack is over what is folded, and right after a start the index is still being read.
    let waited = tokio::task::spawn_blocking(move || index.surfaces().map(drop)).await;
    waited.expect("waiting does not panic and is not aborted")?;
    let space = space.id();
    let shelf = Shelf::open(&dropbox.place, &space)?;
    let inventory = shelf.look().await?;
    let writer = WriterTag::of(&space, &node.device());
    let mut round = Round { node, dropbox, shelf, space, writer, inventory, moved: Moved::default() };
    let outcome = round.run(memory).await;
    *moved = round.moved;
    let (objects, bytes) = (round.inventory.len() as u64, round.inventory.byte_count);
    let damaged = memory.tried.values().filter(|tried| matches!(tried, Tried::Damaged(_))).count() as u64;
    let (partial, foreign) = (round.inventory.partial.len() as u64 + damaged, round.inventory.foreign_count);
    dropbox.show(|shown| {
        (shown.objects, shown.bytes, shown.partial, shown.foreign) = (objects, bytes, partial, foreign);
    });
    outcome
}

impl Round<'_> {
    /// A place that can only be read is read.
    async fn run(&mut self, memory: &mut Memory) -> Result<(), RoundError> {
        let there: BTreeSet<ObjectName> = self.inventory.objects().map(|(name, _)| *name).collect();
        memory.tried.retain(|name, _| there.contains(name));
        memory.acks.retain(|_, (_, name)| there.contains(name));
        memory.words.retain(|name, _| there.contains(name));
        self.pull(memory).await?;
        self.dropbox.show(|shown| shown.pulled_at = Some(clock::uptime()));
        self.push(memory).await?;
        self.dropbox.show(|shown| shown.pushed_at = Some(clock::uptime()));
        let space = Space { node: self.node.clone(), place: Place::Fixed(self.space) };
        space.come_back_by_box().await?;
        memory.settled = self.node.mark_of(self.space).await?;
        Ok(())
    }

    /// The tags of the logs that are held here.
    pub fn tags(&self, frontier: &Frontier) -> BTreeMap<LogTag, LogId> {
        frontier.iter().map(|(log, _)| (LogTag::of(&self.space, log), *log)).collect()
    }
}

impl Node {
    /// Stands for what this device could leave in a drop box; changes when that does.
    pub(super) async fn mark_of(&self, space: SpaceId) -> Result<Option<[u8; 32]>, NodeError> {
        let revision = self.checkpoints().revision();
        self.ask(move |core| {
            let view = core.engine.space(space)?;
            let mut hasher = blake3::Hasher::new();
            hasher.update(&view.frontier.digest());
            hasher.update(&view.draft_count.to_be_bytes());
            hasher.update(&view.roster.digest());
            hasher.update(&revision.to_be_bytes());
            for (device, number, _) in core.engine.ack_frames(space) {
                hasher.update(device.as_bytes());
                hasher.update(&number.to_be_bytes());
            }
            Some(*hasher.finalize().as_bytes())
        })
        .await
    }
}

/// Objects that are remembered as read.
const TRIED_MAX: usize = 16_384;
