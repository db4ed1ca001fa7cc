//! The loop that owns the engine: what happens goes in, effects come out and are performed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, error, info, warn};

use super::addresses::Addresses;
use super::checkpoint::Serving;
use super::error::NodeError;
use super::fallen::Questions;
use super::index::{self, Folded, Index};
use super::ledger::{Guard, IntentRecorded, guard};
use super::metrics::Tally;
use super::settings::Rounds;
use super::types::{Appended, Intent, NewOp};
use super::upkeep::PeerMemory;
use crate::clock;
use crate::crypto::EpochKey;
use crate::fold::{Objection, State};
use crate::lease;
use crate::model::{Blame, DeviceId, Dot, Frontier, LogId, Op, OpId, Scope, ScopeTag, Seq, SpaceId, TipHash};
use crate::net::{self, CloseCode, Link, Net, NetEvent, Pins, PushOrder};
use crate::oplog::Seen;
use crate::store::{Blocks, KeyRing, Store, StoreError};
use crate::sync::{
    Authored, BaseKind, Delivered, Delivery, Effect, Engine, Input, Notice, PeerId, Refusal, RequestError,
    Stored, Token, Txn, TxnId, Write,
};
use crate::wire::checkpoint::CheckpointHash;

/// What other tasks ask of the loop.
pub(super) enum Job {
    /// Record ops.
    Append { space: SpaceId, ops: Vec<NewOp>, reply: Reply },
    /// A request to the engine that has no result but its end.
    Request { request: Box<dyn FnOnce(Token) -> Input + Send>, reply: oneshot::Sender<Result<(), NodeError>> },
    /// Take in what a carrier brought.
    Deliver { space: SpaceId, delivery: Delivery, reply: oneshot::Sender<Result<Delivered, NodeError>> },
    /// Ask the register of leases of this device, as another device would.
    Lease { space: SpaceId, request: lease::Request, reply: oneshot::Sender<lease::Reply> },
    /// Look at the loop's state.
    Ask(Box<dyn FnOnce(&mut Core) + Send>),
    /// The index of a space has been built beside.
    Loaded {
        space: SpaceId,
        folded: Box<Folded>,
        /// What it was built from.
        from: index::From,
        /// How many ops were folded from the log because no snapshot had them.
        replayed: u64,
    },
    /// The index of a space cannot be built.
    LoadFailed { space: SpaceId, why: StoreError },
    /// End: nothing is lost, what is queued is refused.
    Stop { reply: oneshot::Sender<()> },
}

/// Who waits for ops to be durable.
pub(super) enum Reply {
    /// Whoever recorded them as they are.
    Ops(oneshot::Sender<Result<Vec<Appended>, NodeError>>),
    /// Whoever has one intent recorded, if nothing stands against it.
    Intent(oneshot::Sender<Result<IntentRecorded, NodeError>>),
}

impl Reply {
    // The caller may have gone in each of these; what is durable is durable all the same.
    fn appended(self, placed: Vec<Appended>) {
        match self {
            Self::Ops(reply) => drop(reply.send(Ok(placed))),
            Self::Intent(reply) => {
                let intent = placed.first().expect("one op was given, one was placed");
                drop(reply.send(Ok(IntentRecorded::Recorded(*intent))));
            }
        }
    }

    fn refused(self, why: NodeError) {
        match self {
            Self::Ops(reply) => drop(reply.send(Err(why))),
            Self::Intent(reply) => drop(reply.send(Err(why))),
        }
    }
}

/// How many ops of a joint append are whose.
type Share = (usize, Reply);

/// The appends of one turn to one space.
#[derive(Default)]
struct Group {
    ops: Vec<Authored>,
    shares: Vec<Share>,
    intents: Vec<Intent>,
}

/// Ops of an own log to be written again.
struct Reissue {
    space: SpaceId,
    log: LogId,
    after: Seq,
    through: Seq,
}

/// Who waits for a token.
enum Waiting {
    Append(Vec<Share>),
    Unit(oneshot::Sender<Result<(), NodeError>>),
    Delivery(oneshot::Sender<Result<Delivered, NodeError>>),
    /// A caller of this device, for the register's reply.
    Lease(oneshot::Sender<lease::Reply>),
    /// Another device, for the register's reply.
    Asked(net::Answer),
    /// Nobody: the loop asked by itself.
    Nobody,
    Carry {
        from: SpaceId,
        to: SpaceId,
        /// What the ops were called in the space that was left, in order.
        ids: Vec<OpId>,
    },
}

/// The indexes, shared with readers.
pub(super) type Indexes = Arc<RwLock<BTreeMap<SpaceId, Arc<Index>>>>;

/// The engine with everything its effects touch.
pub(super) struct Core {
    pub engine: Engine,
    pub store: Store,
    pub blocks: Arc<Blocks>,
    pub keys: KeyRing,
    pub indexes: Indexes,
    pub personal: Arc<RwLock<SpaceId>>,
    pub links: BTreeMap<PeerId, Link>,
    pub memory: PeerMemory,
    pub home: PathBuf,
    pub net: Arc<RwLock<Option<Net>>>,
    pub pins: Pins,
    pub addresses: Addresses,
    pub rounds_every: Option<Duration>,
    /// How long history stays once every device has attested a checkpoint.
    pub gc_grace: Duration,
    rounds: Rounds,
    pub tally: Tally,
    pub version: watch::Sender<u64>,
    pub recent: RecentOps,
    pub discovery_down: Option<String>,
    pub storage_failed: Option<String>,
    jobs: mpsc::Receiver<Job>,
    pub(super) loopback: mpsc::WeakSender<Job>,
    events: mpsc::Receiver<NetEvent>,
    waiting: BTreeMap<Token, Waiting>,
    postponed: Vec<Job>,
    /// Intents that wait until those before them are folded.
    deferred: Vec<Job>,
    inputs: VecDeque<Input>,
    txns: Vec<Txn>,
    lookups: Vec<(SpaceId, LogId, Vec<Seq>, Token)>,
    reissues: VecDeque<Reissue>,
    /// Ops that have come back, to be held against the state.
    recalls: VecDeque<(SpaceId, Vec<Stored>)>,
    /// Questions about histories of logs that have fallen, one of which is being answered.
    pub(super) fallen: Questions,
    folded: BTreeSet<SpaceId>,
    carries: VecDeque<(SpaceId, SpaceId)>,
    /// Spaces whose index is being built beside.
    reading: BTreeSet<SpaceId>,
    /// The threads that do so.
    pub loaders: Vec<JoinHandle<()>>,
    /// Set when the loop has ended: what goes on beside it stops.
    pub is_over: Arc<AtomicBool>,
    /// Set when everything of a space that was left has arrived.
    is_carried: bool,
    /// Questions about states that are being answered beside the loop.
    pub answering: Arc<AtomicU32>,
    pub serving: Serving,
    /// Spaces that were folded anew from their log alone, and how often.
    refolds: BTreeMap<SpaceId, u64>,
    /// Spaces to be folded from their log alone.
    anew: BTreeSet<SpaceId>,
    /// States of checkpoints that spaces are about to begin with, read when they were examined.
    pub examined: BTreeMap<SpaceId, (CheckpointHash, State)>,
    token_last: u64,
    ops_since_snapshot: u64,
    acks_stored: Duration,
    /// When this node last tidied up.
    pub tidied: Duration,
}

/// The last connection to a device that one side ended for what the other did.
pub(super) struct Refused {
    pub why: String,
    pub blame: Blame,
    /// On the uptime clock.
    pub at: Duration,
}

/// Where recent own ops are, by the id their caller was told.
pub(super) type RecentOps = Arc<Mutex<BTreeMap<OpId, (SpaceId, Dot)>>>;

/// What a device can give away of a space.
pub(super) struct Holdings {
    pub frontier: Frontier,
    pub roster_digest: [u8; 32],
    pub records: Vec<Bytes>,
    /// The newest ack of every device: whose, its number, its frame.
    pub acks: Vec<(DeviceId, u64, Bytes)>,
}

/// What a [`Core`] begins with.
pub(super) struct Parts {
    pub home: PathBuf,
    pub engine: Engine,
    pub store: Store,
    pub blocks: Arc<Blocks>,
    pub keys: KeyRing,
    pub indexes: Indexes,
    pub personal: Arc<RwLock<SpaceId>>,
    pub net: Arc<RwLock<Option<Net>>>,
    pub pins: Pins,
    pub addresses: Addresses,
    pub rounds_every: Option<Duration>,
    pub gc_grace: Duration,
    pub version: watch::Sender<u64>,
    pub recent: RecentOps,
    pub serving: Serving,
    pub jobs: mpsc::Receiver<Job>,
    pub loopback: mpsc::WeakSender<Job>,
    pub events: mpsc::Receiver<NetEvent>,
}

impl Core {
    pub fn new(parts: Parts) -> Self {
        Self {
            engine: parts.engine,
            store: parts.store,
            blocks: parts.blocks,
            keys: parts.keys,
            indexes: parts.indexes,
            personal: parts.personal,
            links: BTreeMap::new(),
            memory: PeerMemory::default(),
            home: parts.home,
            net: parts.net,
            pins: parts.pins,
            addresses: parts.addresses,
            rounds_every: parts.rounds_every,
            gc_grace: parts.gc_grace,
            rounds: Rounds::default(),
            tally: Tally::default(),
            version: parts.version,
            recent: parts.recent,
            discovery_down: None,
            storage_failed: None,
            jobs: parts.jobs,
            loopback: parts.loopback,
            events: parts.events,
            waiting: BTreeMap::new(),
            postponed: Vec::new(),
            deferred: Vec::new(),
            inputs: VecDeque::new(),
            txns: Vec::new(),
            lookups: Vec::new(),
            reissues: VecDeque::new(),
            recalls: VecDeque::new(),
            fallen: Questions::default(),
            folded: BTreeSet::new(),
            carries: VecDeque::new(),
            reading: BTreeSet::new(),
            loaders: Vec::new(),
            is_over: Arc::default(),
            is_carried: false,
            answering: Arc::default(),
            serving: parts.serving,
            refolds: BTreeMap::new(),
            anew: BTreeSet::new(),
            examined: BTreeMap::new(),
            token_last: 0,
            ops_since_snapshot: 0,
            acks_stored: Duration::ZERO,
            tidied: clock::uptime(),
        }
    }

    /// Runs until a [`Job::Stop`] or until every handle is gone.
    pub fn run(mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime without I/O needs nothing that can be missing");
        self.begin();
        let reply = runtime.block_on(async {
            loop {
                let deadline = self.next_deadline();
                // Losing a branch loses nothing: both channels keep what was not received, and the
                // deadline is computed anew each time.
                let reply = tokio::select! {
                    biased;
                    job = self.jobs.recv() => match job {
                        Some(job) => self.turn(Some(job), None),
                        None => Some(None),
                    },
                    event = self.events.recv() => self.turn(None, event),
                    () = tokio::time::sleep(deadline) => {
                        self.inputs.push_back(Input::Tick);
                        self.round_if_due();
                        self.tidy_if_due();
                        self.turn(None, None)
                    }
                };
                if let Some(reply) = reply {
                    break reply;
                }
            }
        });
        self.end();
        self.is_over.store(true, Ordering::Release);
        // Whoever still reads has the store open, and nobody takes what it brings any more.
        self.jobs.close();
        for loader in self.loaders.drain(..) {
            // A panic in it has been reported by its thread.
            let _ = loader.join();
        }
        if let Some(reply) = reply {
            // The caller may have given up waiting.
            let _ = reply.send(());
        }
    }

    /// One turn: takes what is queued, steps the engine, commits once, and performs what follows.
    /// `Some` ends the loop.
    fn turn(&mut self, job: Option<Job>, event: Option<NetEvent>) -> Option<Option<oneshot::Sender<()>>> {
        let mut stop = None;
        let mut credits = Vec::new();
        let mut jobs: VecDeque<Job> = job.into_iter().collect();
        while jobs.len() < JOBS_PER_TURN
            && let Ok(job) = self.jobs.try_recv()
        {
            jobs.push_back(job);
        }
        if let Some(event) = event {
            self.event(event, &mut credits);
        }
        for _ in 0..EVENTS_PER_TURN {
            if credits.len() >= CREDITS_PER_TURN {
                break;
            }
            let Ok(event) = self.events.try_recv() else { break };
            self.event(event, &mut credits);
        }
        self.settle();
        self.appends(&mut jobs);
        for job in jobs {
            match job {
                Job::Append { .. } => self.postponed.push(job),
                Job::Request { request, reply } => {
                    let token = self.token(Waiting::Unit(reply));
                    self.inputs.push_back(request(token));
                }
                Job::Deliver { space, delivery, reply } => {
                    let token = self.token(Waiting::Delivery(reply));
                    self.inputs.push_back(Input::Deliver { space, delivery, token });
                }
                Job::Lease { space, request, reply } => {
                    let (from, token) = (self.engine.device(), self.token(Waiting::Lease(reply)));
                    self.inputs.push_back(Input::Lease { space, from, request, token });
                }
                Job::Ask(question) => {
                    self.settle();
                    question(self);
                }
                Job::Loaded { space, folded, from, replayed } => {
                    self.ops_since_snapshot += replayed;
                    self.loaded(space, *folded, from);
                }
                Job::LoadFailed { space, why } => {
                    error!(why = %chain_of(&why), "the state cannot be read from the store");
                    self.reading.remove(&space);
                    if let Some(index) = self.index(&space) {
                        index.fail(why);
                    }
                    // Whoever wrote meanwhile is told.
                    let mut none = VecDeque::new();
                    self.appends(&mut none);
                }
                Job::Stop { reply } => stop = Some(Some(reply)),
            }
        }
        self.settle();
        while !self.deferred.is_empty() {
            let mut again = std::mem::take(&mut self.deferred).into();
            self.appends(&mut again);
            self.settle();
        }
        self.snapshot_if_due();
        stop
    }

    /// Joins the appends of one turn into one request per space: one transaction, one batch.
    fn appends(&mut self, jobs: &mut VecDeque<Job>) {
        let mut groups: BTreeMap<SpaceId, Group> = BTreeMap::new();
        let mut others = VecDeque::new();
        for job in std::mem::take(&mut self.postponed).into_iter().chain(jobs.drain(..)) {
            let Job::Append { space, ops, reply } = job else {
                others.push_back(job);
                continue;
            };
            // A caller that asked just before the personal space changed over means the one that took
            // its place.
            let is_left = self
                .engine
                .space(space)
                .is_some_and(|view| !view.is_active && *view.scope == Scope::Personal);
            let personal = *self.personal.read().unwrap_or_else(PoisonError::into_inner);
            let space = if is_left { personal } else { space };
            let index = self.index(&space);
            if let Some(source) = index.as_ref().and_then(|index| index.failure()) {
                reply.refused(NodeError::Index { source });
                continue;
            }
            match index {
                // What an author sees is not known before the index is there.
                // Nor while what was written before is still on its way here.
                Some(index) if !index.is_ready() || self.is_carried_into(space) => {
                    self.postponed.push(Job::Append { space, ops, reply });
                }
                Some(index) => {
                    let group = groups.entry(space).or_default();
                    let state = index.peek();
                    if let (Reply::Intent(_), [NewOp::Intent(intent)]) = (&reply, &ops[..]) {
                        match guard(&state, &self.chain(space), &group.intents, intent) {
                            Guard::Clear => {}
                            Guard::Wait => {
                                self.deferred.push(Job::Append { space, ops, reply });
                                continue;
                            }
                            Guard::Objection(objection) => {
                                drop(state);
                                self.object(space, objection, reply);
                                continue;
                            }
                        }
                    }
                    group.shares.push((ops.len(), reply));
                    for op in ops {
                        if let NewOp::Intent(intent) = &op {
                            group.intents.push(intent.clone());
                        }
                        group.ops.push(authored(&state, op));
                    }
                }
                None => reply.refused(RequestError::NoSuchSpace.into()),
            }
        }
        *jobs = others;
        for (space, Group { ops, shares, intents: _ }) in groups {
            if ops.is_empty() {
                continue;
            }
            let token = self.token(Waiting::Append(shares));
            self.inputs.push_back(Input::Append { space, ops, token });
        }
    }

    /// Tells whoever wanted an intent recorded what stands against it.
    fn object(&self, space: SpaceId, objection: Objection, reply: Reply) {
        match (reply, self.objected(space, objection)) {
            (Reply::Intent(reply), answer) => drop(reply.send(answer)),
            (Reply::Ops(_), _) => unreachable!("only a guarded intent is looked at"),
        }
    }

    /// Whether ops of a space that was left are still to come.
    fn is_carried_into(&self, space: SpaceId) -> bool {
        self.engine.personal() == Some(space) && !self.engine.to_carry_over().is_empty()
    }

    /// Tells readers which certificates of hosts count.
    fn adopt_chains(&self) {
        for index in self.indexes.read().unwrap_or_else(PoisonError::into_inner).values() {
            index.set_chain(self.chain(index.space));
        }
    }

    /// Turns a network event into what the engine is told.
    fn event(&mut self, event: NetEvent, credits: &mut Vec<net::Credit>) {
        match event {
            NetEvent::Opened { link, device } => {
                let peer = peer_id(link.conn());
                self.links.insert(peer, link);
                self.inputs.push_back(Input::Connected { peer, device });
            }
            NetEvent::Connected { device, remote, .. } => {
                info!(peer = %device.short(), %remote, "connected");
                self.tally.connections += 1;
                self.addresses.learn(device, remote, clock::wall());
            }
            NetEvent::Frame { conn, frame } => {
                self.tally.frames += 1;
                self.inputs.push_back(Input::Frame { peer: peer_id(conn), bytes: frame });
            }
            NetEvent::Batches { conn, batches, credit } => {
                credits.push(credit);
                self.tally.batches += batches.len() as u64;
                let peer = peer_id(conn);
                match self.inputs.back_mut() {
                    Some(Input::Batches { peer: last, batches: queued }) if *last == peer => {
                        queued.extend(batches);
                    }
                    _ => self.inputs.push_back(Input::Batches { peer, batches }),
                }
            }
            NetEvent::PushDone { conn, space, log, through } => {
                self.inputs.push_back(Input::PushDone { peer: peer_id(conn), space, log, through });
            }
            NetEvent::PushFailed { conn, space, log, error } => {
                warn!(%error, "a log cannot be read for a peer");
                let peer = peer_id(conn);
                self.inputs.push_back(Input::PushDone { peer, space, log, through: Seq::ZERO });
            }
            NetEvent::Closed { conn, device, reason } => {
                info!(peer = %device.short(), %reason, "disconnected");
                match reason {
                    // Noted with its reason when it was closed.
                    net::CloseReason::ByUs(_) => {}
                    _ if reason.blame() == Blame::Environment => {}
                    _ => self.refused(device, chain_of(&reason), reason.blame()),
                }
                if let Some(link) = self.links.remove(&peer_id(conn)) {
                    let stats = link.stats();
                    self.tally.ended(device, stats.sent_bytes, stats.received_bytes);
                }
                self.memory.heard.insert(device, clock::uptime());
                self.inputs.push_back(Input::Closed { peer: peer_id(conn) });
            }
            NetEvent::Asked { device, topic: net::Topic::Lease, question, answer, .. } => {
                self.asked(device, &question, answer);
            }
            NetEvent::Asked { device, topic: net::Topic::Verify, question, answer, .. } => {
                self.verify_asked(device, &question, answer);
            }
            NetEvent::Asked { device, topic: net::Topic::Checkpoint, question, answer, .. } => {
                self.checkpoint_asked(device, &question, answer);
            }
            NetEvent::Woke => {
                // Both ways are tried at once, and what was on its way is found lost at once.
                let token = self.token(Waiting::Nobody);
                self.inputs.push_back(Input::Round { with: Vec::new(), token });
            }
            NetEvent::DialFailed { error, .. } => {
                self.tally.dial_failed(error.blame());
                debug!(%error, "no connection");
            }
            NetEvent::DiscoveryDown { error } => {
                let why = chain_of(&error);
                warn!(%why, "no discovery on this network; known addresses are dialled");
                self.discovery_down = Some(why);
            }
        }
    }

    /// A question of another device, `scope tag 16 ‖ request`. What does not read is not answered.
    fn asked(&mut self, from: DeviceId, question: &[u8], answer: net::Answer) {
        let read = question.split_first_chunk::<16>().and_then(|(tag, request)| {
            let space = self.engine.space_of(&ScopeTag::from_bytes(*tag))?;
            Some((space, lease::Request::from_bytes(request).ok()?))
        });
        let Some((space, request)) = read else {
            return debug!(device = %from.short(), "a question that does not read");
        };
        let token = self.token(Waiting::Asked(answer));
        self.inputs.push_back(Input::Lease { space, from, request, token });
    }

    /// The connection to a device over which questions go.
    pub fn route_to(&self, device: &DeviceId) -> Option<Link> {
        let peers = self.engine.peers();
        // The newest one: of two, the older is about to end.
        let greeted = peers.iter().rfind(|peer| peer.is_greeted && peer.device == *device);
        greeted.and_then(|peer| self.links.get(&peer.peer)).cloned()
    }

    /// Whether the network runs.
    pub fn is_started(&self) -> bool {
        self.net.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Has the engine told something in this turn.
    pub fn tell(&mut self, input: Input) {
        self.inputs.push_back(input);
    }

    /// Tells the engine what time it is. Nothing counts as changed where nothing is due, so whoever
    /// asks whenever something has changed comes to an end.
    pub fn tick(&mut self) {
        if self.next_deadline().is_zero() {
            self.inputs.push_back(Input::Tick);
            self.settle();
        } else {
            self.step(Input::Tick);
        }
    }

    /// Steps the engine through everything queued until nothing is left to do.
    pub(super) fn settle(&mut self) {
        let mut is_changed = false;
        loop {
            while let Some(input) = self.inputs.pop_front() {
                is_changed = true;
                self.step(input);
            }
            if !self.txns.is_empty() {
                self.commit();
            } else if let Some((space, log, seqs, token)) = self.lookups.pop() {
                // Not before what it may ask for is in the store.
                self.look_up(&space, &log, &seqs, token);
            } else if let Some(space) = self.folded.pop_first() {
                self.report(space);
            } else if let Some((from, to)) = self.carries.pop_front() {
                self.carry_over(from, to);
            } else if let Some(reissue) = self.reissues.pop_front() {
                self.reissue(&reissue);
            } else if let Some((space, ops)) = self.next_recall() {
                self.inputs.push_back(Input::Recalled { space, fallen: None, ops: Some(ops) });
            } else if std::mem::take(&mut self.is_carried) {
                self.appends(&mut VecDeque::new());
            } else {
                break;
            }
        }
        if is_changed {
            self.version.send_modify(|version| *version += 1);
        }
    }

    fn step(&mut self, input: Input) {
        self.tally.rounds += u64::from(matches!(input, Input::Round { .. }));
        let effects = self.engine.step(&clock::now(), input);
        for effect in effects {
            self.perform(effect);
        }
    }

    /// One transaction of the store for everything that came together.
    fn commit(&mut self) {
        let mut txns = std::mem::take(&mut self.txns);
        let now = clock::uptime();
        if now.saturating_sub(self.acks_stored) > ACKS_STORED_EVERY {
            self.acks_stored = now;
            txns.push(Txn { id: TxnId::new(0), writes: self.engine.unstored_acks() });
        }
        let cut: BTreeSet<SpaceId> = txns.iter().flat_map(|txn| &txn.writes).filter_map(space_cut).collect();
        let ready: Vec<Arc<Index>> =
            cut.iter().filter_map(|space| self.index(space)).filter(|index| index.is_ready()).collect();
        ready.iter().for_each(|index| index.close_to_readers());
        let based = txns.iter().flat_map(|txn| &txn.writes).filter_map(space_based);
        based.filter_map(|space| self.index(&space)).for_each(|index| index.note_base());
        let began = std::time::Instant::now();
        let outcome = self.store.commit(&txns);
        self.tally.committed(began.elapsed(), outcome.is_ok());
        if outcome.is_err() {
            ready.iter().for_each(|index| index.open_to_readers());
        }
        self.storage_failed = outcome.as_ref().err().map(|error| chain_of(error));
        if let Some(why) = &self.storage_failed {
            error!(%why, "the store refused a write");
        }
        if outcome.is_ok() {
            txns.iter().for_each(|txn| self.step(Input::Persisted(txn.id)));
        } else {
            txns.iter().rev().for_each(|txn| self.step(Input::PersistFailed(txn.id)));
        }
    }

    fn report(&mut self, space: SpaceId) {
        let Some(index) = self.index(&space) else { return };
        index.set_chain(self.chain(space));
        if !index.is_ready() {
            return;
        }
        let (applied, root, unknown_count) = index.report();
        self.inputs.push_back(Input::Folded { space, applied, root, unknown_count });
        if let Some(view) = self.engine.space(space) {
            self.serving.folded(space, view.frontier.log_count());
            *index.frontier.write().unwrap_or_else(PoisonError::into_inner) = view.frontier.clone();
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(txn) => self.txns.push(txn),
            Effect::Fold { space, runs } => {
                if let Some(index) = self.index(&space)
                    && index.is_ready()
                {
                    let ops = runs.iter().map(|run| u64::from(run.op_count)).sum::<u64>();
                    self.ops_since_snapshot += ops;
                    self.tally.folded_ops += ops;
                    index.fold(&runs);
                    self.folded.insert(space);
                }
            }
            Effect::CatchUp { space } => self.catch_up(space),
            Effect::Refold { space } => self.refold(space),
            Effect::Send { peer, frame } => self.with_link(peer, |link| link.send(frame)),
            Effect::SendLive { peer, batch } => self.with_link(peer, |link| link.send_live(batch)),
            Effect::Push { peer, space, log, after, after_link, through } => {
                if self.continues(&space, &log, after, after_link) {
                    self.with_link(peer, |link| link.push(PushOrder { space, log, after, through }));
                } else {
                    self.inputs.push_back(Input::PushForked { peer, space, log, at: after });
                }
            }
            Effect::LookUp { space, log, seqs, token } => self.lookups.push((space, log, seqs, token)),
            // What is dropped comes again with the next connection.
            Effect::Recall { space, fallen: None, ops } if self.recalls.len() < RECALLS_MAX => {
                self.recalls.push_back((space, ops));
            }
            Effect::Recall { space, fallen: Some(given_back), ops } => self.sift(space, given_back, ops),
            Effect::Recall { .. } => {}
            Effect::SearchElsewhere { space, log, after, through } => {
                self.search_elsewhere(space, log, after, through);
            }
            Effect::Reissue { space, log, after, through } => {
                self.reissues.push_back(Reissue { space, log, after, through });
            }
            Effect::Close { peer, why } => {
                self.tally.refuse(&why);
                if let Some(link) = self.links.get(&peer) {
                    let (device, why_text) = (link.device(), chain_of(&why));
                    warn!(peer = %link.device().short(), why = %why_text, blame = ?why.blame(), "closing");
                    let code = match why {
                        Refusal::Storage => CloseCode::Fault,
                        _ => CloseCode::Refused,
                    };
                    match why {
                        Refusal::NotInRoster => link.part(code, &why_text),
                        _ => link.close(code, &why_text),
                    }
                    self.refused(device, why_text, why.blame());
                }
            }
            Effect::Appended { token, placed } => match self.waiting.remove(&token) {
                Some(Waiting::Append(replies)) => {
                    let mut placed = placed.into_iter();
                    for (count, reply) in replies {
                        let own = placed.by_ref().take(count);
                        reply.appended(own.map(|p| Appended { id: p.id, dot: p.dot, hlc: p.hlc }).collect());
                    }
                }
                Some(Waiting::Carry { from, to, ids }) => {
                    // Whoever waits for a receipt of an op waits for it under its new place.
                    let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
                    recent.extend(ids.into_iter().zip(placed.iter().map(|placed| (to, placed.dot))));
                    drop(recent);
                    self.carries.push_back((from, to));
                    if self.engine.to_carry_over().is_empty() {
                        // Whoever has waited to write does so now.
                        self.is_carried = true;
                    }
                }
                Some(
                    Waiting::Unit(_)
                    | Waiting::Delivery(_)
                    | Waiting::Lease(_)
                    | Waiting::Asked(_)
                    | Waiting::Nobody,
                )
                | None => {}
            },
            Effect::Leased { token, reply } => match self.waiting.remove(&token) {
                // Whoever asked may have gone; the register remembers what it answered.
                Some(Waiting::Lease(waiting)) => drop(waiting.send(reply)),
                Some(Waiting::Asked(answer)) => answer.send(reply.to_bytes().into()),
                Some(
                    Waiting::Append(_)
                    | Waiting::Unit(_)
                    | Waiting::Delivery(_)
                    | Waiting::Carry { .. }
                    | Waiting::Nobody,
                )
                | None => {}
            },
            Effect::Failed { token, why } => match self.waiting.remove(&token) {
                Some(Waiting::Append(replies)) => {
                    replies.into_iter().for_each(|(_, reply)| reply.refused(why.clone().into()));
                }
                Some(Waiting::Unit(reply)) => drop(reply.send(Err(why.into()))),
                Some(Waiting::Delivery(reply)) => drop(reply.send(Err(why.into()))),
                // Dropped: whoever asked is told that there is no answer.
                Some(Waiting::Carry { .. } | Waiting::Lease(_) | Waiting::Asked(_) | Waiting::Nobody)
                | None => {}
            },
            Effect::Done { token } => {
                if let Some(Waiting::Unit(reply)) = self.waiting.remove(&token) {
                    let _ = reply.send(Ok(()));
                }
            }
            Effect::Delivered { token, outcome } => {
                if let Some(Waiting::Delivery(reply)) = self.waiting.remove(&token) {
                    let _ = reply.send(Ok(outcome));
                }
            }
            Effect::CarryOver { from, to } => self.carries.push_back((from, to)),
            Effect::Notice(notice) => self.notice(notice),
        }
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Roster { .. } => {
                self.repin();
                self.adopt_chains();
            }
            Notice::Key { key, .. } => {
                self.keys.insert(key);
                self.repin();
            }
            Notice::Begun { space, left } => self.begun(space, left),
            Notice::PeerUp { device, .. } => {
                self.memory.heard.insert(device, clock::uptime());
                if self.engine.peers().iter().filter(|peer| peer.is_greeted).count() == 1 {
                    self.serving.connected_since = clock::wall().as_millis();
                }
                // It may have a checkpoint that this device waits for.
                self.serving.news.notify_one();
            }
            Notice::Ack { device, .. } => drop(self.memory.heard.insert(device, clock::uptime())),
            Notice::PeerDown { .. } => {}
            Notice::Diverged { device, .. } => {
                error!(device = %device.short(), "the same ops, and another state on that device; `kinfold verify` finds the row");
            }
            Notice::Fork { log, .. } => {
                warn!(device = %log.device.short(), "two histories of one log exist; the proof is kept");
            }
            Notice::LogBlocked { log, .. } => {
                warn!(device = %log.device.short(), "a log cannot be continued: its author made a batch wrongly");
            }
            Notice::NewIncarnation { space, moved, .. } => {
                warn!(
                    "this device has written more than this disk remembers; writing a new log from here on"
                );
                // Whoever waits for a receipt of an op waits for it under its new place.
                let moved: BTreeMap<Dot, Dot> = moved.into_iter().collect();
                let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
                for (_, dot) in recent.values_mut().filter(|(of, _)| *of == space) {
                    *dot = moved.get(dot).copied().unwrap_or(*dot);
                }
            }
            Notice::Recalled { op_count, .. } => {
                warn!(
                    op_count,
                    "another device had ops of this one that it had forgotten; they are written again"
                );
            }
            Notice::Truncated { space, log } => {
                info!(device = %log.device.short(), "the end of a log was dropped: another history stands");
                self.blocks.forget_log(&space, &log);
            }
            Notice::Based { space, checkpoint } => {
                self.serving.below.remove(&space);
                info!(%checkpoint, "the history begins with a checkpoint; what it holds is dropped from the log");
                self.sweep_beside(space);
            }
            Notice::BelowFloor { space, device, checkpoint, .. } => {
                info!(device = %device.short(), %checkpoint, "that device does not hold any more what is missing here");
                self.serving.below.entry(space).or_default().insert(device);
                self.serving.news.notify_one();
            }
            Notice::Removed { .. } => {
                warn!("this device was removed from a space; what it holds stays readable here");
                self.repin();
            }
            Notice::CalledDormant { device, days, .. } => {
                info!(device = %device.short(), days, "a device was silent for long; nothing waits for it any more");
            }
            Notice::Rotated { .. } => {
                info!("a space is written under a new key");
                self.repin();
            }
            Notice::RotationTaken { by, .. } => {
                info!(device = %by.short(), "another admin renews the key");
            }
            Notice::LeaseHost { host, term, .. } => {
                info!(device = %host.short(), term, "another device hosts the leases");
            }
            Notice::CloneSeen { device } => {
                warn!(device = %device.short(), "a device runs twice: its home was copied");
                self.memory.twins.insert(device, clock::uptime());
            }
            Notice::RecordRefused { why, .. } => {
                error!(why = %chain_of(&*why), "a roster record of this device was refused");
            }
        }
    }

    fn begun(&mut self, space: SpaceId, left: Option<SpaceId>) {
        let mut index = Index::new(space, Frontier::new());
        if let Some(left) = left {
            info!("joined the space of another device; what was written here is carried over");
            // Whoever follows the personal space follows it into its new place.
            if let Some(left) = self.index(&left) {
                index.changes = left.changes.clone();
            }
            *self.personal.write().unwrap_or_else(PoisonError::into_inner) = space;
        }
        let index = Arc::new(index);
        index.install(Folded::nothing(space, &self.store));
        index.open_to_readers();
        self.indexes.write().unwrap_or_else(PoisonError::into_inner).insert(space, index);
        // An empty state is one to acknowledge too: whoever has nothing to send waits for it.
        self.folded.insert(space);
    }

    /// Tells the network who may connect and how members recognise each other.
    fn repin(&mut self) {
        let own = self.engine.device();
        let mut devices = BTreeSet::new();
        let mut beacons = Vec::new();
        for space in self.engine.active_spaces() {
            let Some(view) = self.engine.space(space) else { continue };
            // Whoever was removed is let in by nobody any more; whoever leaves still says so.
            if view.roster.removal_of(&own).is_some_and(|removed| removed.by != own) {
                continue;
            }
            let members: Vec<DeviceId> = view.roster.members().map(|member| member.device).collect();
            devices.extend(members.iter().copied().filter(|device| *device != own));
            let mut keys = self.engine.keys_of(space).into_iter().map(EpochKey::beacon);
            if let Some(key) = keys.next() {
                beacons.push(net::BeaconSpace { scope: space.tag(), key, earlier: keys.collect(), members });
            }
        }
        self.pins.set(devices);
        if let Some(net) = &*self.net.read().unwrap_or_else(PoisonError::into_inner) {
            net.beacons(beacons);
            net.drop_unpinned();
            // A device that was refused until now may be waiting behind a long backoff.
            net.redial();
        }
    }

    /// Builds the indexes beside while the network may already run.
    fn begin(&mut self) {
        for (_, key) in self.engine.keys() {
            self.keys.insert(key);
        }
        self.repin();
        self.adopt_chains();
        let spaces: Vec<SpaceId> =
            self.indexes.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        for space in spaces {
            self.read_beside(space);
            if self.store.base(&space).is_some() {
                // A crash may have left something of it.
                self.sweep_beside(space);
            }
        }
    }

    /// Builds the index of a space on a thread of its own; it comes back as a [`Job::Loaded`].
    fn read_beside(&mut self, space: SpaceId) {
        let Some(frontier) = self.engine.space(space).map(|view| view.frontier.clone()) else { return };
        let Some(jobs) = self.loopback.upgrade() else { return };
        if !self.reading.insert(space) {
            return;
        }
        let (store, keys) = (self.store.clone(), self.keys.clone());
        let from = if self.anew.contains(&space) { index::From::Log } else { index::From::Snapshot };
        let examined = self.examined.remove(&space).filter(|_| from == index::From::Snapshot);
        let load = move || match index::load(&space, &store, &keys, &frontier, from, examined) {
            Ok((folded, replayed)) => {
                drop(jobs.blocking_send(Job::Loaded { space, folded: Box::new(folded), from, replayed }));
            }
            Err(why) => drop(jobs.blocking_send(Job::LoadFailed { space, why })),
        };
        match std::thread::Builder::new().name("kinfold-load".into()).spawn(load) {
            Ok(loader) => {
                self.loaders.retain(|loader| !loader.is_finished());
                self.loaders.push(loader);
            }
            Err(error) => {
                self.reading.remove(&space);
                error!(%error, "the index cannot be built");
            }
        }
    }

    fn loaded(&mut self, space: SpaceId, folded: Folded, from: index::From) {
        self.reading.remove(&space);
        let Some(index) = self.index(&space) else { return };
        let is_wanted_anew = self.anew.contains(&space) && from == index::From::Snapshot;
        let is_old = folded.truncations != self.store.truncations(&space);
        if is_old || is_wanted_anew || self.lacks_base(&space, &folded.state) {
            // The end of a log was dropped while this was read, and it has folded ops that are gone; or it
            // lacks what the history begins with by now.
            return self.read_beside(space);
        }
        if self.anew.remove(&space) {
            *self.refolds.entry(space).or_default() += 1;
        }
        index.install(folded);
        self.catch_up(space);
        if index.is_ready() {
            // It was folded anew; readers had the old state until now.
            return self.settle();
        }
        // Not earlier: the drafts are held by the engine, and a reader would miss them.
        index.open_to_readers();
        self.settle();
        self.carries.extend(self.engine.to_carry_over());
        for (log, after, through) in self.engine.to_reissue(space) {
            self.reissues.push_back(Reissue { space, log, after, through });
        }
        let mut none = VecDeque::new();
        self.appends(&mut none);
    }

    fn catch_up(&mut self, space: SpaceId) {
        let Some(index) = self.index(&space) else { return };
        let Some(frontier) = self.engine.space(space).map(|view| view.frontier.clone()) else { return };
        let is_behind = self.lacks_base(&space, &index.peek());
        if is_behind {
            // The key of what the history begins with has come.
            return self.read_beside(space);
        }
        if let Err(error) = index.catch_up(&self.store, &self.keys, &frontier) {
            error!(error = %chain_of(&error), "the log cannot be folded");
        }
        index.fold(&self.engine.draft_runs(space));
        self.folded.insert(space);
    }

    /// Folds a space anew beside. Where only places have changed readers keep the old state until the
    /// new one is whole; where ops were dropped they wait for it. What is taken in meanwhile is
    /// folded when it is there.
    fn refold(&mut self, space: SpaceId) {
        // One that is on its way is compared with what was dropped when it arrives.
        self.read_beside(space);
    }

    /// Folds a space anew from its log alone, whatever a snapshot says.
    pub(super) fn read_anew(&mut self, space: SpaceId) {
        self.anew.insert(space);
        self.read_beside(space);
    }

    /// How often a space was folded anew from its log alone.
    pub(super) fn refold_count(&self, space: SpaceId) -> u64 {
        self.refolds.get(&space).copied().unwrap_or(0)
    }

    /// Tells the engine of the state as it is, although nothing was folded.
    #[cfg(feature = "sim")]
    pub(super) fn report_again(&mut self, space: SpaceId) -> bool {
        self.folded.insert(space);
        self.settle();
        true
    }

    /// Writes the own ops of a space that was left into the one that took its place, under their
    /// original identities. How far it has come is part of each transaction, so a crash repeats
    /// nothing; what is there from an earlier time counts once.
    fn carry_over(&mut self, from: SpaceId, to: SpaceId) {
        let (Some(index), Some(left)) = (self.index(&to), self.engine.carry(from)) else { return };
        if self.engine.personal() != Some(to) || !index.is_ready() {
            return;
        }
        let end = left.last.min(left.next.plus(CARRIED_PER_STEP));
        let Some((ops, ids)) = self.ops_to_write_again(&index, from, left.log, left.next, end) else {
            return;
        };
        let through = Seq::new(left.before + end.get());
        let token = self.token(Waiting::Carry { from, to, ids });
        self.inputs.push_back(Input::Carry { from, to, ops, through, token });
    }

    /// Ops of a log that are not written again elsewhere, with their names. `None` where one cannot be
    /// read: then nothing is dropped.
    fn ops_to_write_again(
        &self,
        index: &Index,
        space: SpaceId,
        log: LogId,
        next: Seq,
        end: Seq,
    ) -> Option<(Vec<Stored>, Vec<OpId>)> {
        let (mut ops, mut ids) = (Vec::new(), Vec::new());
        let mut seq = next;
        while seq <= end {
            let place = Dot { log, seq };
            match self.blocks.op(&space, &place) {
                // What was written again before is known from elsewhere, or only from here.
                Ok(Some(at)) if at.dot != place || !index.peek().is_relocated(&place, at.hlc) => {
                    ids.push(OpId::of(&space, at.dot, at.hlc, at.kind, at.flags, &at.body));
                    let crate::store::OpAt { dot, hlc, kind, flags, body } = at;
                    ops.push(Stored { dot, hlc, kind, flags, body });
                }
                Ok(Some(_) | None) => {}
                Err(error) => {
                    error!(error = %chain_of(&error), "an op cannot be read, so it is not written again");
                    return None;
                }
            }
            seq = seq.next();
        }
        Some((ops, ids))
    }

    /// Ops that have come back, without those that the state knows, once that is there to be asked.
    fn next_recall(&mut self) -> Option<(SpaceId, Vec<Stored>)> {
        let is_ready =
            |(space, _): &(SpaceId, Vec<Stored>)| self.index(space).is_some_and(|index| index.is_ready());
        let space = self.recalls.iter().find(|recall| is_ready(recall))?.0;
        let mut ops = Vec::new();
        let rest = std::mem::take(&mut self.recalls);
        for (of, some) in rest {
            if of == space { ops.extend(some) } else { self.recalls.push_back((of, some)) }
        }
        let index = self.index(&space)?;
        let state = index.peek();
        ops.retain(|op| !state.knows(&op.dot, op.hlc, op.kind, op.flags, &op.body));
        drop(state);
        Some((space, ops))
    }

    /// Reads ops of a history that is dropped, so that they are written again. Those the state shows
    /// from another place were written again before.
    fn reissue(&mut self, reissue: &Reissue) {
        let Reissue { space, log, after, through } = *reissue;
        let Some(index) = self.index(&space).filter(|index| index.is_ready()) else { return };
        let end = through.min(after.plus(REISSUED_PER_STEP));
        let Some((ops, _)) = self.ops_to_write_again(&index, space, log, after.next(), end) else { return };
        self.inputs.push_back(Input::Reissue { space, log, ops, through: end });
    }

    /// Whether what follows `after` in the store names `link` as its predecessor.
    fn continues(&self, space: &SpaceId, log: &LogId, after: Seq, link: TipHash) -> bool {
        if after == Seq::ZERO || link == TipHash::NONE {
            return true;
        }
        match self.store.batch_at(space, log, after.next()) {
            Ok(Some(batch)) => batch.header().first == after.next() && batch.header().prev == link,
            Ok(None) => false,
            Err(error) => {
                warn!(%error, "a batch cannot be looked up");
                true
            }
        }
    }

    fn look_up(&mut self, space: &SpaceId, log: &LogId, seqs: &[Seq], token: Token) {
        let batch_at = |seq: &Seq| {
            self.store.batch_at(space, log, *seq).unwrap_or_else(|error| {
                warn!(%error, "a batch cannot be looked up");
                None
            })
        };
        let batches = seqs.iter().map(batch_at).collect();
        self.inputs.push_back(Input::LookedUp { token, batches });
    }

    fn refused(&mut self, device: DeviceId, why: String, blame: Blame) {
        self.memory.refusals.insert(device, Refused { why, blame, at: clock::uptime() });
    }

    fn with_link(&mut self, peer: PeerId, send: impl FnOnce(&Link) -> Result<(), net::LinkError>) {
        let Some(link) = self.links.get(&peer) else { return };
        if let Err(net::LinkError::Full) = send(link) {
            // It resumes from its frontier once it keeps up again.
            link.close(CloseCode::TooSlow, "the queue to this device is full");
        }
    }

    /// Those of these devices that no connection leads to; they are dialled where they were last, unless
    /// that was done before.
    pub fn not_connected(&self, mut devices: Vec<DeviceId>, is_dialled: bool) -> Vec<DeviceId> {
        devices.retain(|device| self.route_to(device).is_none());
        if !is_dialled && let Some(net) = &*self.net.read().unwrap_or_else(PoisonError::into_inner) {
            for (device, addresses) in self.addresses.all() {
                if devices.contains(&device) {
                    net.dial(addresses, Some(device));
                }
            }
            net.redial();
        }
        devices
    }

    /// A device of a space says that it listens there: it is dialled now, where the network runs, and at
    /// every start from here on.
    pub fn meet(&mut self, device: DeviceId, at: SocketAddr) {
        self.addresses.learn(device, at, clock::wall());
        if let Some(net) = &*self.net.read().unwrap_or_else(PoisonError::into_inner) {
            net.dial(vec![at], Some(device));
        }
    }

    /// Something of the node has changed that the loop does not see.
    pub fn touch(&mut self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// The network has started: it learns who may connect, and where they were last.
    pub fn announce(&mut self) {
        self.discovery_down = None;
        self.repin();
        self.addresses.retain(|device| self.pins.contains(device));
        if let Some(net) = &*self.net.read().unwrap_or_else(PoisonError::into_inner) {
            for (device, addresses) in self.addresses.all() {
                net.dial(addresses, Some(device));
            }
        }
    }

    /// How many requests and network events wait.
    pub fn queued(&self) -> (u64, u64) {
        (self.jobs.len() as u64, self.events.len() as u64)
    }

    /// The logs of a space with their last positions, the own one first.
    pub fn logs(&self, space: SpaceId) -> Vec<(LogId, Seq)> {
        let Some(view) = self.engine.space(space) else { return Vec::new() };
        let own_last = view.frontier.tip(&view.own_log).seq.plus(view.draft_count);
        let others = view.frontier.iter().filter(|(log, _)| **log != view.own_log);
        std::iter::once((view.own_log, own_last)).chain(others.map(|(log, tip)| (*log, tip.seq))).collect()
    }

    /// What this device can give away of a space: everything sealed, drafts included from now on.
    pub fn holdings(&mut self, space: SpaceId) -> Option<Holdings> {
        self.inputs.push_back(Input::Seal { space });
        self.settle();
        let acks = self.engine.ack_frames(space);
        let view = self.engine.space(space).filter(|view| view.is_active)?;
        Some(Holdings {
            frontier: view.frontier.clone(),
            roster_digest: view.roster.digest(),
            records: view.roster.missing_from(&[]),
            acks,
        })
    }

    /// Every log of every space, with its last position; per space the own one first.
    pub fn all_logs(&mut self) -> Vec<(SpaceId, LogId, Seq)> {
        let spaces = self.engine.active_spaces();
        let logs = |space: SpaceId| self.logs(space).into_iter().map(move |(log, last)| (space, log, last));
        spaces.into_iter().flat_map(logs).collect()
    }

    pub fn index(&self, space: &SpaceId) -> Option<Arc<Index>> {
        self.indexes.read().unwrap_or_else(PoisonError::into_inner).get(space).cloned()
    }

    fn token(&mut self, waiting: Waiting) -> Token {
        self.token_last += 1;
        let token = Token(self.token_last);
        self.waiting.insert(token, waiting);
        token
    }

    fn next_deadline(&self) -> Duration {
        let now = clock::uptime();
        let round = self.rounds.wait(now, self.rounds_every).filter(|_| !self.links.is_empty());
        let engine = self.engine.deadline().map(|deadline| deadline.at.saturating_sub(now));
        engine.into_iter().chain(round).fold(IDLE_TICK, Duration::min)
    }

    /// Compares with everybody once in a while: what was lost by a fault that nobody saw is found.
    fn round_if_due(&mut self) {
        if !self.links.is_empty() && self.rounds.is_due(clock::uptime(), self.rounds_every) {
            let token = self.token(Waiting::Nobody);
            self.inputs.push_back(Input::Round { with: Vec::new(), token });
        }
    }

    fn snapshot_if_due(&mut self) {
        if self.ops_since_snapshot < OPS_PER_SNAPSHOT || !self.events.is_empty() {
            return;
        }
        self.ops_since_snapshot = 0;
        self.snapshot();
    }

    fn snapshot(&mut self) {
        // A draft would get another place if its log were begun anew, so only sealed ops go in.
        for space in self.engine.active_spaces() {
            self.inputs.push_back(Input::Seal { space });
        }
        self.settle();
        for index in self.indexes.read().unwrap_or_else(PoisonError::into_inner).values() {
            let has_drafts = self.engine.space(index.space).is_some_and(|view| view.draft_count > 0);
            if has_drafts || !index.is_ready() {
                continue;
            }
            let state = index.peek();
            let saved =
                self.store.save_snapshot(&index.space, state.truncations(), |sink| state.encode(sink));
            if let Err(error) = saved {
                warn!(error = %chain_of(&error), "the index snapshot could not be written");
            }
        }
    }

    /// Leaves the store so that the next start is quick.
    fn end(&mut self) {
        self.settle();
        for link in self.links.values() {
            self.addresses.learn(link.device(), link.remote(), clock::wall());
        }
        if self.ops_since_snapshot >= OPS_WORTH_A_SNAPSHOT {
            self.snapshot();
        }
        let acks = self.engine.unstored_acks();
        if !acks.is_empty()
            && let Err(error) = self.store.commit(&[Txn { id: TxnId::new(0), writes: acks }])
        {
            warn!(error = %chain_of(&error), "the last acks could not be stored; they will be said again");
        }
    }
}

/// The space of which a write has the history begin with a checkpoint.
const fn space_based(write: &Write) -> Option<SpaceId> {
    if let Write::Base { space, .. } = write { Some(*space) } else { None }
}

/// The space of which a write drops the end of a log.
const fn space_cut(write: &Write) -> Option<SpaceId> {
    match write {
        Write::Truncate { space, .. } | Write::Base { space, kind: BaseKind::Rebase, .. } => Some(*space),
        Write::Space { .. }
        | Write::Batches { .. }
        | Write::Drafts { .. }
        | Write::DraftsSealed { .. }
        | Write::Record { .. }
        | Write::Ack { .. }
        | Write::Key { .. }
        | Write::LeaseHome { .. }
        | Write::LeaseVote { .. }
        | Write::LeaseHost { .. }
        | Write::Base { kind: BaseKind::Trim, .. }
        | Write::Silence { .. }
        | Write::Met { .. }
        | Write::ForkProof { .. } => None,
    }
}

/// What the author of an op sees.
fn authored(state: &State, op: NewOp) -> Authored {
    let mut named = None;
    let op = match op {
        NewOp::Put { surface, key, payload } => {
            Op::Put { surface, key: key.into(), preds: Vec::new(), payload }
        }
        NewOp::Delete { surface, key } => Op::Delete { surface, key: key.into(), preds: Vec::new() },
        NewOp::Resolve { surface, key, heads, payload } => {
            named = Some(heads);
            let (key, preds) = (key.into(), Vec::new());
            match payload {
                Some(payload) => Op::Put { surface, key, preds, payload },
                None => Op::Delete { surface, key, preds },
            }
        }
        NewOp::Fact { surface, key, payload } => Op::Fact { surface, key: key.into(), payload },
        NewOp::Event { surface, stream, payload } => Op::Event { surface, stream: stream.into(), payload },
        NewOp::Intent(intent) => {
            let Intent { agent, run, epoch, cert, status, payload } = intent;
            Op::Intent { agent, run, epoch, cert, status, payload }
        }
    };
    let seen = seen(state, &op);
    // What settles a conflict names what its caller has looked at, not what stands there by now.
    Authored { seen: Seen { heads: named.unwrap_or(seen.heads), greatest: seen.greatest }, op }
}

fn seen(state: &State, op: &Op) -> Seen {
    let seen = state.seen(op.surface(), &op.key());
    Seen { heads: seen.heads, greatest: seen.greatest }
}

fn peer_id(conn: net::ConnId) -> PeerId {
    PeerId::new(conn.get())
}

/// An error with its sources, for a log line.
pub(super) fn chain_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Jobs taken in one turn: what they append shares one transaction.
const JOBS_PER_TURN: usize = 4_096;

/// Network events taken in one turn.
const EVENTS_PER_TURN: usize = 256;

/// Batch chunks taken in one turn, about 2 MiB: some 20 ms of work, one transaction.
const CREDITS_PER_TURN: usize = 4;

/// Ops after which a fresh index snapshot is written once the network is quiet.
const OPS_PER_SNAPSHOT: u64 = 100_000;

/// Ops that are quicker to fold again at the next start than a snapshot is to write.
pub(super) const OPS_WORTH_A_SNAPSHOT: u64 = 2_000;

/// Ops carried over in one transaction.
const CARRIED_PER_STEP: u64 = 1_024;

/// Ops of a dropped history written again in one transaction.
const REISSUED_PER_STEP: u64 = 1_024;

/// How often acks are written: losing them costs a repetition, nothing else.
const ACKS_STORED_EVERY: Duration = Duration::from_secs(5);

/// The longest the loop sleeps.
const IDLE_TICK: Duration = Duration::from_secs(60);

/// Runs of batches from below a floor that wait to be held against a state.
const RECALLS_MAX: usize = 64;
