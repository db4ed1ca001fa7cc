//! The fold state of one space, shared between the engine's thread and readers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::broadcast;
use tracing::{debug, warn};

use super::based::is_onto;
use super::core::OPS_WORTH_A_SNAPSHOT;
use super::error::NodeError;
use super::ledger::Chain;
use super::types::Change;
use crate::crypto::{Opener, SealedBatch};
use crate::fold::{Policy, State, StateBuilder};
use crate::model::{Dot, Frontier, LogId, Payload, Seq, SpaceId, Surface};
use crate::store::{KeyRing, Store, StoreError, Truncations};
use crate::sync::FoldRun;
use crate::wire::BodyReader;
use crate::wire::checkpoint::CheckpointHash;

/// The index over one space's logs.
pub(super) struct Index {
    pub space: SpaceId,
    state: RwLock<Folded>,
    stage: Mutex<Stage>,
    staged: Condvar,
    pub changes: broadcast::Sender<Change>,
    pub frontier: RwLock<Frontier>,
    chain: RwLock<Arc<Chain>>,
    /// Rises with every change of the state.
    revision: AtomicU64,
    /// Rises before the end of a log is dropped.
    cuts: AtomicU64,
    dropped: Mutex<BTreeMap<Surface, Dropped>>,
}

/// What a policy drops of a surface, as of a revision of the state.
struct Dropped {
    revision: u64,
    policy: Policy,
    keys: Arc<BTreeSet<String>>,
}

/// A state, and what it was folded from.
pub(super) struct Folded {
    pub state: State,
    /// As the store had it before the first op was folded.
    pub truncations: Truncations,
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
            state: RwLock::new(Folded { state: State::new(space), truncations: Truncations::default() }),
            stage: Mutex::new(Stage::Loading),
            staged: Condvar::new(),
            changes: broadcast::Sender::new(CHANGES_QUEUED),
            frontier: RwLock::new(frontier),
            chain: RwLock::default(),
            revision: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            dropped: Mutex::default(),
        }
    }

    /// The state, once it shows what the store held when it was opened.
    ///
    /// # Errors
    /// [`NodeError::Index`] where the store does not give it.
    pub fn read(&self) -> Result<StateGuard<'_>, NodeError> {
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
    pub fn peek(&self) -> StateGuard<'_> {
        StateGuard(self.state.read().unwrap_or_else(PoisonError::into_inner))
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

    /// The certificates of hosts that count.
    pub fn chain(&self) -> Arc<Chain> {
        Arc::clone(&self.chain.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn set_chain(&self, chain: Chain) {
        let mut held = self.chain.write().unwrap_or_else(PoisonError::into_inner);
        if **held != chain {
            *held = Arc::new(chain);
        }
    }

    /// What a policy drops of a surface: as it was planned before, where nothing has changed.
    pub fn dropped(
        &self,
        surface: &Surface,
        policy: &Policy,
        plan: impl FnOnce() -> Result<BTreeSet<String>, NodeError>,
    ) -> Result<Arc<BTreeSet<String>>, NodeError> {
        // Before the plan: a change while it is made has it made again.
        let revision = self.revision.load(Ordering::Acquire);
        let known = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(surface)
            && (known.revision, known.policy) == (revision, *policy)
        {
            return Ok(Arc::clone(&known.keys));
        }
        drop(known);
        let keys = Arc::new(plan()?);
        let known = Dropped { revision, policy: *policy, keys: Arc::clone(&keys) };
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner).insert(surface.clone(), known);
        Ok(keys)
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a state in place that was built beside.
    pub fn install(&self, folded: Folded) {
        *self.write() = folded;
    }

    fn write(&self) -> RwLockWriteGuard<'_, Folded> {
        // Under the lock: whoever reads this revision reads this state, or a later one.
        let state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        self.revision.fetch_add(1, Ordering::Release);
        state
    }

    /// Lets readers in: the state shows everything that was durable when the home was opened.
    pub fn open_to_readers(&self) {
        *self.stage() = Stage::Ready;
        self.staged.notify_all();
    }

    /// Keeps readers out: the end of a log is dropped, and other ops may stand where the state points.
    /// They wait until it is folded anew.
    pub fn close_to_readers(&self) {
        let mut stage = self.stage();
        self.cuts.fetch_add(1, Ordering::AcqRel);
        if matches!(*stage, Stage::Ready) {
            *stage = Stage::Loading;
        }
    }

    /// What the logs held up to some places is about to be read from a checkpoint instead: whoever is between
    /// looking at the state and reading what it points at does both again.
    pub fn note_base(&self) {
        self.cuts.fetch_add(1, Ordering::AcqRel);
    }

    /// Reads the state and then what it points at; once more where the end of a log was dropped
    /// meanwhile, so that other ops, or none, may stand there.
    pub fn steadily<T>(&self, read: impl Fn() -> Result<T, NodeError>) -> Result<T, NodeError> {
        loop {
            let cuts = self.cuts.load(Ordering::Acquire);
            let result = read();
            if self.cuts.load(Ordering::Acquire) == cuts {
                return result;
            }
        }
    }

    /// Tells readers that there will be no state.
    pub fn fail(&self, why: StoreError) {
        *self.stage() = Stage::Failed(Arc::new(why));
        self.staged.notify_all();
    }

    /// Folds runs and tells subscribers. What is folded already is skipped, and so is what does not
    /// follow yet: it is left for [`Index::catch_up`], never folded with a hole before it.
    pub fn fold(&self, runs: &[FoldRun]) {
        let state = &mut self.write().state;
        // Asked while nobody can read the state: who begins to listen has seen it before or after this.
        let has_listeners = self.changes.receiver_count() > 0;
        for run in runs {
            fold_run(state, run, &mut |change| {
                if has_listeners {
                    // Nobody is listening any more: nothing is lost.
                    let _ = self.changes.send(change);
                }
            });
        }
    }

    /// Asks the state for its root and how far it has come, refreshing what was changed.
    pub fn report(&self) -> (Vec<(LogId, Seq)>, crate::model::Root, u64) {
        // No change of the state: the tree over it is brought up to date.
        let state = &mut self.state.write().unwrap_or_else(PoisonError::into_inner).state;
        let root = state.root();
        (state.applied_all().into_iter().collect(), root, state.counts().unknown)
    }

    /// See [`State::spoil`].
    #[cfg(feature = "sim")]
    pub fn spoil(&self, surface: &Surface, key: &str) -> bool {
        self.write().state.spoil(surface, key)
    }

    /// Folds what lies in the store beyond what is folded: each log up to its end or to a batch whose
    /// key is not held, where the next call goes on. Subscribers are told.
    pub fn catch_up(&self, store: &Store, keys: &KeyRing, through: &Frontier) -> Result<(), StoreError> {
        let state = &mut self.write().state;
        let has_listeners = self.changes.receiver_count() > 0;
        catch_up(state, &self.space, store, keys, through, &mut |change| {
            if has_listeners {
                let _ = self.changes.send(change);
            }
        })
    }
}

impl Folded {
    /// Nothing yet, of what the store has now.
    pub fn nothing(space: SpaceId, store: &Store) -> Self {
        Self { state: State::new(space), truncations: store.truncations(&space) }
    }
}

/// What a state is built from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum From {
    /// The snapshot, where there is one, and the log behind it.
    Snapshot,
    /// The log alone, on what its history begins with.
    Log,
}

/// The state, held for reading.
pub(super) struct StateGuard<'a>(RwLockReadGuard<'a, Folded>);

impl StateGuard<'_> {
    /// What the store had truncated before the first op was folded.
    pub fn truncations(&self) -> Truncations {
        self.0.truncations
    }
}

impl std::ops::Deref for StateGuard<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0.state
    }
}

/// Reads the snapshot of a space, or begins with its base or with nothing, and folds the rest of the store. Also says
/// how many ops that rest was, and where there was no snapshot at least as many as are worth one.
pub(super) fn load(
    space: &SpaceId,
    store: &Store,
    keys: &KeyRing,
    through: &Frontier,
    from: From,
    examined: Option<(CheckpointHash, State)>,
) -> Result<(Folded, u64), StoreError> {
    let truncations = store.truncations(space);
    let base = store.base(space).map(|base| base.checkpoint);
    let (kept, is_snapshot) = match (examined, from) {
        // The state of the base, as it was read when that was looked into.
        (Some((checkpoint, state)), _) if Some(checkpoint) == base => (Some(state), false),
        (_, From::Snapshot) => {
            let kept = snapshot(space, store, through);
            let is_snapshot = kept.is_some();
            (kept, is_snapshot)
        }
        (_, From::Log) => (None, false),
    };
    let mut folded = match kept {
        Some(state) => Folded { state, truncations },
        None => Folded::first(*space, store, keys)?,
    };
    let before = folded.state.counts().ops;
    catch_up(&mut folded.state, space, store, keys, through, &mut |_| {})?;
    let replayed = folded.state.counts().ops - before;
    // What a checkpoint holds is read quickly, but an index the next time more so.
    let of_base = if is_snapshot { 0 } else { before.min(OPS_WORTH_A_SNAPSHOT) };
    Ok((folded, replayed.max(of_base)))
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
    // What it lacks of the base no log tells any more.
    let base = store.base(space);
    let is_of_use = base.is_none_or(|base| is_onto(&state, &base.floor));
    (fits && is_of_use).then_some(state)
}

/// Folds every log from where the state has it to where the store has it, as far as keys are held.
fn catch_up(
    state: &mut State,
    space: &SpaceId,
    store: &Store,
    keys: &KeyRing,
    through: &Frontier,
    on_change: &mut dyn FnMut(Change),
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
                fold_run(state, &run, on_change);
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
        state.apply_reporting(&run.log, &frame, &mut tell);
    }
}

/// Changes a slow subscriber may lag behind before it is told that it missed some.
const CHANGES_QUEUED: usize = 4_096;

/// How much of a log is read at once while catching up.
const RUN_BYTES: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{EpochKey, Identity, SealInput, Sealer};
    use crate::fold::RowFilter;
    use crate::model::{Hlc, Incarnation, Op, Scope, Tip};
    use crate::store::fault::FaultDisk;
    use crate::sync::{Txn, TxnId, Write};
    use crate::wire::BodyWriter;
    use crate::wire::op::encode_op;

    const SPACE: SpaceId = SpaceId::from_bytes([7; 32]);

    /// A device that seals batches of two rows each.
    struct Device {
        identity: Identity,
        sealer: Sealer,
        log: LogId,
        tip: Tip,
    }

    impl Device {
        fn new(seed: u8) -> Self {
            let identity = Identity::from_secret(&[seed; 32]);
            let log = LogId { device: identity.device(), incarnation: Incarnation::new(1) };
            Self { sealer: Sealer::new(&identity), identity, log, tip: Tip::NONE }
        }

        fn run(&self, op_count: u64) -> FoldRun {
            let mut writer = BodyWriter::new();
            let first = self.tip.seq.next();
            for index in 0..op_count {
                let seq = first.plus(index);
                let op = Op::Put {
                    surface: "registry:note".parse().unwrap(),
                    key: format!("{} {seq}", self.log.device.short()).into(),
                    preds: Vec::new(),
                    payload: Payload::parse("1").unwrap(),
                };
                writer.push(Hlc::new(seq.get()), op.kind().number(), 0, &encode_op(&op, &self.log));
            }
            let (body, op_count) = writer.finish();
            FoldRun { log: self.log, first, op_count, body: body.into() }
        }

        fn batch(&mut self, key: &EpochKey) -> SealedBatch {
            let run = self.run(2);
            let input = SealInput {
                scope: SPACE.tag(),
                log: self.log,
                first: run.first,
                op_count: run.op_count,
                roster_gen: 1,
                prev: self.tip.hash,
                body: &run.body,
                entropy: [3; 32],
            };
            let batch = self.sealer.seal(&self.identity, key, &input);
            self.tip = Tip { seq: batch.header().last(), hash: batch.link() };
            batch
        }
    }

    #[test]
    fn a_log_waits_for_its_key_while_others_go_on() {
        let (held, late) = (EpochKey::from_bytes([1; 32]), EpochKey::from_bytes([2; 32]));
        let (mut one, mut other) = (Device::new(1), Device::new(2));
        let ones = vec![one.batch(&held), one.batch(&late), one.batch(&held)];
        let others = vec![other.batch(&held), other.batch(&held)];
        let (store, _) = Store::open_with(FaultDisk::new(), None, &[4; 32]).unwrap();
        let scope = Scope::Personal;
        let own_log = Device::new(3).log;
        let writes = vec![
            Write::Space { space: SPACE, scope, own_log, is_active: true, carried: Seq::ZERO, dropped: 0 },
            Write::Batches { space: SPACE, log: one.log, batches: ones },
            Write::Batches { space: SPACE, log: other.log, batches: others },
        ];
        store.commit(&[Txn { id: TxnId::new(1), writes }]).unwrap();
        let through: Frontier = [(one.log, one.tip), (other.log, other.tip)].into_iter().collect();
        let keys = KeyRing::default();
        keys.insert(held);
        let index = Index::new(SPACE, through.clone());
        let applied = || (index.peek().applied(&one.log).get(), index.peek().applied(&other.log).get());

        index.catch_up(&store, &keys, &through).unwrap();
        assert_eq!(applied(), (2, 4));
        index.catch_up(&store, &keys, &through).unwrap();
        assert_eq!(applied(), (2, 4), "asking again changes nothing");

        keys.insert(late);
        index.catch_up(&store, &keys, &through).unwrap();
        assert_eq!(applied(), (6, 4));
        let surface = "registry:note".parse().unwrap();
        assert_eq!(index.peek().rows(&surface, None, 99, RowFilter::Live).len(), 10);
        let (whole, replayed) = load(&SPACE, &store, &keys, &through, From::Snapshot, None).unwrap();
        assert_eq!((whole.state.recomputed_root(), replayed), (index.report().1, 10));
    }

    #[test]
    fn a_run_is_folded_only_where_it_continues_its_log() {
        let mut device = Device::new(1);
        let first = device.run(4);
        device.tip.seq = Seq::new(4);
        let second = device.run(2);
        device.tip.seq = Seq::new(2);
        let overlapping = device.run(4);
        let index = Index::new(SPACE, Frontier::new());
        let applied = || index.peek().applied(&device.log).get();

        index.fold(std::slice::from_ref(&second));
        assert_eq!(applied(), 0, "a hole before it");
        index.fold(&[second, first.clone()]);
        assert_eq!(applied(), 4);
        index.fold(&[first, overlapping]);
        assert_eq!(applied(), 6, "what is folded is skipped");
    }

    #[test]
    fn what_is_read_while_ops_are_dropped_is_read_again() {
        let index = Index::new(SPACE, Frontier::new());
        let reads = std::cell::Cell::new(0);
        let read = index.steadily(|| {
            reads.set(reads.get() + 1);
            if reads.get() == 1 {
                index.close_to_readers();
                return Err(NodeError::UnknownOp);
            }
            Ok(reads.get())
        });
        assert_eq!(read.unwrap(), 2);
        let error = index.steadily(|| Err::<(), _>(NodeError::UnknownOp));
        assert!(matches!(error, Err(NodeError::UnknownOp)), "what fails by itself is told");
    }
}
