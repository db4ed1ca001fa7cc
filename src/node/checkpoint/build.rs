//! A state at a cut as sealed chunks, folded anew from the log of this device.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tracing::debug;

use super::{WhyNoCheckpoint, whole};
use crate::crypto::{EpochKey, chunk};
use crate::fold::State;
use crate::fold::checkpoint::{ContentHasher, OpPieces, OpRecord, Pointed};
use crate::model::{Dot, Frontier, Root, SpaceId};
use crate::node::error::NodeError;
use crate::node::read::payload_of;
use crate::node::space::Space;
use crate::store::{Blocks, OpAt, Store, StoreError};
use crate::wire::checkpoint::{CHUNKS_MAX, CheckpointHash, Manifest};

/// What was computed, and written where that was asked for.
pub(super) struct Built {
    /// What it was folded onto.
    pub parent: Option<CheckpointHash>,
    pub root: Root,
    pub content: [u8; 32],
    pub state_chunks: u32,
    /// Hashes of the sealed chunks; empty without a key.
    pub chunks: Vec<[u8; 32]>,
}

impl Space {
    /// Folds the log to a cut and makes the chunks of what a checkpoint keeps of it. They are written where
    /// there is a key: all of them, or those that are wanted.
    ///
    /// What is kept hangs on the checkpoint that it is folded onto: `parent`, where that is whole here, and
    /// else what the history here begins with. [`Built::parent`] tells.
    pub(super) async fn build(
        &self,
        cut: &Frontier,
        parent: Option<CheckpointHash>,
        key: Option<EpochKey>,
        wanted: Option<BTreeSet<[u8; 32]>>,
    ) -> Result<Built, NodeError> {
        let positions = cut.iter().map(|(log, tip)| (*log, tip.seq)).collect();
        let space = self.id();
        let base = self.node.store().base(&space).map(|base| base.checkpoint);
        let held = self.node.store().checkpoints(&space)?;
        let other = parent.filter(|parent| Some(*parent) != base);
        let other = other.and_then(|parent| whole(&held).into_iter().find(|held| held.hash() == parent));
        let onto = other.map(Manifest::hash).or(base);
        let state = match other {
            Some(manifest) => self.fold_onto(manifest.clone(), positions).await?,
            None => self.fold_anew(positions).await?,
        };
        let count = state.counts().unknown;
        if count > 0 {
            return Err(NodeError::NoCheckpoint { why: WhyNoCheckpoint::UnknownOps { count } });
        }
        self.made_of(state, onto, key, wanted).await
    }

    /// What a state comes to as the content of a checkpoint. Chunks are written as for [`Space::build`].
    pub(super) async fn made_of(
        &self,
        mut state: State,
        parent: Option<CheckpointHash>,
        key: Option<EpochKey>,
        wanted: Option<BTreeSet<[u8; 32]>>,
    ) -> Result<Built, NodeError> {
        let writer = ChunkWriter {
            space: self.id(),
            store: self.node.store().clone(),
            key,
            wanted,
            content: ContentHasher::default(),
            chunks: Vec::new(),
            pending: Vec::new(),
            failure: None,
        };
        let blocks = Arc::clone(self.node.blocks());
        self.node.blocking(move || make(&mut state, &blocks, writer, parent)).await
    }
}

fn make(
    state: &mut State,
    blocks: &Blocks,
    mut writer: ChunkWriter,
    parent: Option<CheckpointHash>,
) -> Result<Built, NodeError> {
    let space = writer.space;
    let laid_down = state.lay_down(&mut |place: &Dot| {
        let missing = || NodeError::NoCheckpoint { why: WhyNoCheckpoint::OpMissing };
        let op = blocks.op(&space, place)?.ok_or_else(missing)?;
        Ok::<_, NodeError>(payload_of(&op))
    })?;
    state.pieces(&mut |piece| writer.piece(piece));
    let state_chunks = writer.count()?;
    let mut ops = OpPieces::default();
    for Pointed { place, is_late, is_told } in state.pointed() {
        let missing = || NodeError::NoCheckpoint { why: WhyNoCheckpoint::OpMissing };
        let op = blocks.op(&space, &place)?.ok_or_else(missing)?;
        let OpAt { dot: name, hlc, kind, flags, body } = &op;
        let (name, hlc, kind, flags) = (*name, *hlc, *kind, *flags);
        let record = OpRecord { place, name, hlc, kind, flags, is_late, is_told, body };
        ops.push(&record, &mut |piece| writer.piece(piece));
        writer.check()?;
    }
    ops.finish(&mut |piece| writer.piece(piece));
    writer.count()?;
    writer.flush();
    writer.check()?;
    debug!(?laid_down, "a state was laid down");
    let content = writer.content.finish();
    Ok(Built { parent, root: state.root(), content, state_chunks, chunks: writer.chunks })
}

/// Seals pieces and writes them, some at a time.
struct ChunkWriter {
    space: SpaceId,
    store: Store,
    key: Option<EpochKey>,
    wanted: Option<BTreeSet<[u8; 32]>>,
    content: ContentHasher,
    chunks: Vec<[u8; 32]>,
    pending: Vec<Bytes>,
    failure: Option<StoreError>,
}

impl ChunkWriter {
    fn piece(&mut self, piece: &[u8]) {
        self.content.piece(piece);
        let Some(key) = &self.key else { return };
        let sealed = Bytes::from(chunk::seal(key, &self.space, piece));
        let hash = *blake3::hash(&sealed).as_bytes();
        self.chunks.push(hash);
        if self.wanted.as_ref().is_none_or(|wanted| wanted.contains(&hash)) {
            self.pending.push(sealed);
        }
        if self.pending.len() >= CHUNKS_PER_WRITE {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        if self.failure.is_none() && !pending.is_empty() {
            self.failure = self.store.put_chunks(&self.space, &pending).err();
        }
    }

    /// How many chunks there are by now.
    fn count(&mut self) -> Result<u32, NodeError> {
        self.check()?;
        let too_large = NodeError::NoCheckpoint { why: WhyNoCheckpoint::TooLarge { limit: CHUNKS_MAX } };
        u32::try_from(self.chunks.len()).ok().filter(|count| *count <= CHUNKS_MAX as u32).ok_or(too_large)
    }

    fn check(&mut self) -> Result<(), NodeError> {
        self.failure.take().map_or(Ok(()), |failure| Err(failure.into()))
    }
}

/// Chunks that become durable together: less than a megabyte of most.
const CHUNKS_PER_WRITE: usize = 16;
