//! A history that begins with a checkpoint: the state that everything else is folded onto, and sweeping up
//! what the checkpoint has taken the place of.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{debug, error, warn};

use super::core::{Core, chain_of};
use super::error::NodeError;
use super::index::Folded;
use super::space::Space;
use crate::fold::State;
use crate::fold::checkpoint::{PieceError, StatePieces, ops_of};
use crate::model::{Frontier, Hlc, SpaceId};
use crate::store::{KeyRing, Part, ReadError, Store, StoreError};
use crate::sync::Input;
use crate::wire::checkpoint::Manifest;

/// What the log of a space is folded onto: nothing, or the state in the checkpoint that its history begins
/// with. Nothing also where the key of that is not here yet.
pub(super) fn first_state(space: &SpaceId, store: &Store, keys: &KeyRing) -> Result<State, StoreError> {
    let Some(manifest) = store.base_manifest(space) else { return Ok(State::new(*space)) };
    if keys.key(&manifest.fields().key_id).is_none() {
        return Ok(State::new(*space));
    }
    state_of(&manifest, store, keys)
}

/// The state in a checkpoint that is whole and whose key is here.
pub(super) fn state_of(manifest: &Manifest, store: &Store, keys: &KeyRing) -> Result<State, StoreError> {
    let of = manifest.fields();
    let broken = |error: PieceError| damaged_base(Some(Box::new(error)));
    let begin = usize::try_from(of.state_chunks).unwrap_or(usize::MAX).min(of.chunks.len());
    let piece = |index| store.piece(keys, manifest, index).map_err(of_base);
    let mut pieces = StatePieces::default();
    for index in 0..begin {
        pieces.push(&piece(index)?);
    }
    let mut ops = pieces.ops().map_err(broken)?;
    for index in begin..of.chunks.len() {
        ops.push(&ops_of(&piece(index)?).ok_or_else(|| damaged_base(None))?).map_err(broken)?;
    }
    let mut state = ops.finish().map_err(broken)?;
    let is_it = *state.space() == of.space && is_onto(&state, &of.cut) && state.root() == of.root;
    if is_it { Ok(state) } else { Err(damaged_base(None)) }
}

/// Whether a state was folded onto a checkpoint with this cut.
pub(super) fn is_onto(state: &State, cut: &Frontier) -> bool {
    cut.iter().all(|(log, tip)| state.laid_down(log) == tip.seq)
}

fn of_base(error: ReadError) -> StoreError {
    match error {
        ReadError::Store(error) => error,
        other => damaged_base(Some(Box::new(other))),
    }
}

fn damaged_base(source: Option<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Damaged { what: Part::Base, source }
}

impl Core {
    /// Whether a state was folded onto something else than the base of its space although that can be read:
    /// it is to be built anew.
    pub(super) fn lacks_base(&self, space: &SpaceId, state: &State) -> bool {
        self.store.base_manifest(space).is_some_and(|manifest| {
            let of = manifest.fields();
            self.keys.key(&of.key_id).is_some() && !is_onto(state, &of.cut)
        })
    }

    /// Sweeps up beside what the base of a space has taken the place of.
    pub(super) fn sweep_beside(&mut self, space: SpaceId) {
        let (store, is_over) = (self.store.clone(), Arc::clone(&self.is_over));
        let work = move || match sweep(&store, &space, &is_over) {
            Ok(0) => {}
            Ok(steps) => debug!(steps, "what lies below the base was swept up"),
            // It is not seen by anybody, and swept up after the next start.
            Err(error) => {
                warn!(error = %chain_of(&error), "what lies below the base stays in the file for now")
            }
        };
        match std::thread::Builder::new().name("kinfold-sweep".into()).spawn(work) {
            Ok(sweeper) => self.loaders.push(sweeper),
            Err(error) => error!(%error, "nothing can be swept up"),
        }
    }
}

fn sweep(store: &Store, space: &SpaceId, is_over: &AtomicBool) -> Result<u64, StoreError> {
    let mut steps = 0;
    while !is_over.load(Ordering::Acquire) && store.sweep(space)? {
        steps += 1;
    }
    Ok(steps)
}

impl Folded {
    /// What the log is folded onto, of what the store has now.
    pub(super) fn first(space: SpaceId, store: &Store, keys: &KeyRing) -> Result<Self, StoreError> {
        let truncations = store.truncations(&space);
        Ok(Self { state: first_state(&space, store, keys)?, truncations })
    }
}

impl Space {
    /// Begins the history here with a checkpoint that is whole; durable when this returns.
    ///
    /// # Errors
    /// [`NodeError::Refused`], [`NodeError::Stopped`].
    pub(super) async fn begin_at(&self, manifest: &Manifest) -> Result<(), NodeError> {
        let (space, checkpoint, cut) = (self.id(), manifest.hash(), manifest.fields().cut.clone());
        self.node.request(move |token| Input::Base { space, checkpoint, cut, token }).await
    }

    /// Refuses what needs more of the past than the history here begins with.
    ///
    /// # Errors
    /// [`NodeError::BeforeBase`].
    pub(super) fn within_base(
        &self,
        at: impl Fn(&crate::model::LogId) -> crate::model::Seq,
    ) -> Result<(), NodeError> {
        let Some(base) = self.node.store().base(&self.id()) else { return Ok(()) };
        match base.floor.iter().all(|(log, floor)| at(log) >= floor.seq) {
            true => Ok(()),
            false => Err(NodeError::BeforeBase { checkpoint: base.checkpoint }),
        }
    }
}

/// The greatest stamp of what a base holds: what it showed before that moment is gone.
pub(super) fn greatest_stamp(space: &SpaceId, store: &Store, keys: &KeyRing) -> Result<Hlc, NodeError> {
    let Some(manifest) = store.base_manifest(space) else { return Ok(Hlc::ZERO) };
    let begin = usize::try_from(manifest.fields().state_chunks).unwrap_or(usize::MAX);
    let mut greatest = Hlc::ZERO;
    for index in begin..manifest.fields().chunks.len() {
        let piece = store.piece(keys, &manifest, index)?;
        let ops = ops_of(&piece).ok_or(ReadError::Piece { checkpoint: manifest.hash() })?;
        greatest = ops.ops.iter().map(|op| op.hlc).fold(greatest, Hlc::max);
    }
    Ok(greatest)
}
