//! The fold state of one space, shared between the engine's thread and readers.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::broadcast;
use tracing::{debug, warn};

use super::error::NodeError;
use super::types::Change;
use crate::crypto::{Opener, SealedBatch};
use crate::fold::{State, StateBuilder};
use crate::model::{Dot, Frontier, LogId, Payload, Seq, SpaceId};
use crate::store::{KeyRing, Store, StoreError};
use crate::sync::FoldRun;
use crate::wire::BodyReader;

/// The index over one space's logs.
pub(super) struct Index {
    pub space: SpaceId,
    state: RwLock<State>,
    stage: Mutex<Stage>,
    staged: Condvar,
    pub changes: broadcast::Sender<Change>,
    pub frontier: RwLock<Frontier>,
}

/// How far an index is.
enum Stage {
    /// Being read from the store; readers wait.
    Loading,
    /// Shows everything that was durable when the home was opened.
    Ready,
    /// The store does not give it; readers are told.
    Failed(Arc<StoreError>),
}

impl Index {
    pub fn new(space: SpaceId, frontier: Frontier) -> Self {
        Self {
            space,
            state: RwLock::new(State::new(space)),
            stage: Mutex::new(Stage::Loading),
            staged: Condvar::new(),
            changes: broadcast::Sender::new(CHANGES_QUEUED),
            frontier: RwLock::new(frontier),
        }
    }

    /// The state, once it shows what the store held when it was opened.
    ///
    /// # Errors
    /// [`NodeError::Index`] where the store does not give it.
    pub fn read(&self) -> Result<RwLockReadGuard<'_, State>, NodeError> {
        let mut stage = self.stage();
        loop {
            match &*stage {
                Stage::Ready => break,
                Stage::Failed(source) => return Err(NodeError::Index { source: Arc::clone(source) }),
                Stage::Loading => {
                    stage = self.staged.wait(stage).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        drop(stage);
        Ok(self.peek())
    }

    /// The state as it is, whole or not.
    pub fn peek(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_ready(&self) -> bool {
        matches!(*self.stage(), Stage::Ready)
    }

    /// Why there will be no state in this run.
    pub fn failure(&self) -> Option<Arc<StoreError>> {
        match &*self.stage() {
            Stage::Failed(source) => Some(Arc::clone(source)),
            Stage::Loading | Stage::Ready => None,
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a state in place that was built beside.
    pub fn install(&self, state: State) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Lets readers in: the state shows everything that was durable when the home was opened.
    pub fn open_to_readers(&self) {
        *self.stage() = Stage::Ready;
        self.staged.notify_all();
    }

    /// Tells readers that there will be no state.
    pub fn fail(&self, why: StoreError) {
        *self.stage() = Stage::Failed(Arc::new(why));
        self.staged.notify_all();
    }

    /// The state, taken out.
    pub fn into_state(self) -> State {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Folds runs, tells subscribers, and reports how far it came. What is folded already is
    /// skipped; what does not follow yet is left for [`catch_up`].
    pub fn fold(&self, runs: &[FoldRun]) {
        let has_listeners = self.changes.receiver_count() > 0;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for run in runs {
            fold_run(&mut state, run, &mut |change| {
                if has_listeners {
                    // Nobody is listening any more: nothing is lost.
                    let _ = self.changes.send(change);
                }
            });
        }
    }

    /// Asks the state for its root and how far it has come, refreshing what was changed.
    pub fn report(&self) -> (Vec<(LogId, Seq)>, crate::model::Root, u64) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let root = state.root();
        (state.applied_all().into_iter().collect(), root, state.counts().unknown)
    }

    /// Folds what lies in the store beyond what is folded.
    pub fn catch_up(&self, store: &Store, keys: &KeyRing, through: &Frontier) -> Result<(), StoreError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        catch_up(&mut state, &self.space, store, keys, through)
    }
}

/// Reads the snapshot of a space, or begins with nothing, and folds the rest of the store. Also says
/// how many ops that rest was.
pub(super) fn load(
    space: &SpaceId,
    store: &Store,
    keys: &KeyRing,
    through: &Frontier,
) -> Result<(State, u64), StoreError> {
    let mut state = snapshot(space, store, through).unwrap_or_else(|| State::new(*space));
    let before = state.counts().ops;
    catch_up(&mut state, space, store, keys, through)?;
    let replayed = state.counts().ops - before;
    Ok((state, replayed))
}

fn snapshot(space: &SpaceId, store: &Store, through: &Frontier) -> Option<State> {
    let mut builder = StateBuilder::new();
    let mut broken = None;
    let loaded = store.load_snapshot(space, |chunk| match builder.push(chunk) {
        Ok(()) => std::ops::ControlFlow::Continue(()),
        Err(why) => {
            broken = Some(why);
            std::ops::ControlFlow::Break(())
        }
    });
    if let Some(why) = broken {
        warn!(error = %why, "the index snapshot is not used; folding the log instead");
        return None;
    }
    if let Err(why) = loaded {
        debug!(error = %why, "no index snapshot; folding the log");
        return None;
    }
    let state = builder.finish().ok()?;
    // A snapshot of a longer history than the store holds is from another life of this directory.
    let fits =
        *state.space() == *space && state.applied_all().iter().all(|(log, seq)| through.covers(log, *seq));
    fits.then_some(state)
}

/// Folds every log from where the state has it to where the store has it, as far as keys are held.
fn catch_up(
    state: &mut State,
    space: &SpaceId,
    store: &Store,
    keys: &KeyRing,
    through: &Frontier,
) -> Result<(), StoreError> {
    let mut opener = Opener::new();
    for (log, tip) in through.iter() {
        let mut after = state.applied(log);
        // A place inside a batch (folded as a draft) is continued from that batch's start.
        if after > Seq::ZERO
            && let Some(batch) = store.batch_at(space, log, after)?
            && batch.header().last() > after
        {
            after = Seq::new(batch.header().first.get() - 1);
        }
        'log: while let Some(run) = store.run(space, log, after, tip.seq, RUN_BYTES)? {
            let Ok(batches) = SealedBatch::parse_run(run.bytes) else { break };
            for batch in batches {
                let header = batch.header();
                let Some(key) = keys.key(&header.key_id) else { break 'log };
                let Ok(body) = opener.open(&key, &batch) else {
                    warn!(log = ?log.device, first = %header.first, "a stored batch is damaged; its log is folded up to there");
                    break 'log;
                };
                let run =
                    FoldRun { log: *log, first: header.first, op_count: header.op_count, body: body.into() };
                fold_run(state, &run, &mut |_| {});
            }
            after = run.last;
        }
    }
    Ok(())
}

/// Folds the part of a run that follows what is folded.
fn fold_run(state: &mut State, run: &FoldRun, on_change: &mut dyn FnMut(Change)) {
    let applied = state.applied(&run.log);
    if run.first > applied.next() {
        return;
    }
    let mut tell = |change: crate::fold::Change<'_>| {
        let payload = change.payload.and_then(|payload| Payload::parse(payload).ok());
        on_change(Change {
            surface: change.surface.clone(),
            key: change.key.to_owned(),
            dot: Dot { log: change.dot.log, seq: change.dot.seq },
            hlc: change.hlc,
            payload,
        });
    };
    let Ok(reader) = BodyReader::new(&run.body, run.first, run.op_count) else { return };
    if run.first == applied.next() {
        let _ = state.apply_body(&run.log, reader, &mut tell);
        return;
    }
    for frame in reader.flatten().filter(|frame| frame.seq > applied) {
        state.apply(&run.log, &frame);
    }
}

/// Changes a slow subscriber may lag behind before it is told that it missed some.
const CHANGES_QUEUED: usize = 4_096;

/// How much of a log is read at once while catching up.
const RUN_BYTES: usize = 1024 * 1024;
