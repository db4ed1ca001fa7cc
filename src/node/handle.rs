//! Handles to a node: cheap to clone, usable from any task.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tracing::warn;

use super::addresses::Addresses;
use super::checkpoint::{Checkpoints, Serving};
use super::core::{Core, Indexes, Job, Parts, RecentOps};
use super::dropbox::{DROPBOXES_FILE, Records, Watchers};
use super::error::NodeError;
use super::home;
use super::hosted::LeaseDesk;
use super::index::Index;
use super::lifecycle::{EngineGuard, Lifecycle, Stopped};
use super::marker::{self, Past};
use super::pairing::Pairing;
use super::settings::{InForce, net_config};
use super::space::{Place, Space};
use super::types::{Custody, Round, SafeToSleep, Status};
use crate::clock;
use crate::config::Settings;
use crate::coordinator::store::Cells;
use crate::coordinator::{LeaseCoordinator, StoreCoordinator};
use crate::crypto::Identity;
use crate::lease::DaemonInstance;
use crate::model::{DeviceId, Dot, LogId, OpId, Scope, Seq, SpaceId};
use crate::net::{BatchSource, Loopback, Mdns, Net, NetConfig, NetEvent, Pins, SourceError};
use crate::store::{Blocks, HomeLock, KeyRing, Store, StoreError};
use crate::sync::{Counters, Delivered, Delivery, Effect, Engine, Input, Loaded, Token};

/// A node: one device, its store, and (once started) its network.
///
/// The home is open until [`Node::stop`], or until the last clone is dropped.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

pub(super) struct Inner {
    pub(super) runtime: NetRuntime,
    home: PathBuf,
    device: DeviceId,
    identity: Arc<Identity>,
    config: Mutex<NetConfig>,
    settings: InForce,
    store: Store,
    blocks: Arc<Blocks>,
    keys: KeyRing,
    indexes: Indexes,
    personal: Arc<RwLock<SpaceId>>,
    jobs: mpsc::Sender<Job>,
    pub(super) events: mpsc::Sender<NetEvent>,
    pub(super) net: Arc<RwLock<Option<Net>>>,
    pub(super) lifecycle: watch::Sender<Lifecycle>,
    pub(super) held: tokio::sync::Mutex<Held>,
    pub(super) pins: Pins,
    version: watch::Receiver<u64>,
    recent: RecentOps,
    pairing: Pairing,
    drop_boxes: Records,
    checkpoints: Checkpoints,
    desk: Arc<LeaseDesk>,
    store_leases: Option<Arc<dyn LeaseCoordinator>>,
}

/// The network's own threads: an application's blocking task does not stall a handshake, and each
/// thread is ready before its first one.
pub(super) struct NetRuntime(Option<Runtime>);

impl NetRuntime {
    fn new() -> std::io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(NET_THREADS).thread_name("kinfold-net").on_thread_start(crate::net::warm_up);
        builder.enable_all().build().map(|runtime| Self(Some(runtime)))
    }

    /// Runs a task there; `None` only while it is dropped.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Option<tokio::task::JoinHandle<T>> {
        self.0.as_ref().map(|runtime| runtime.spawn(task))
    }
}

impl Drop for NetRuntime {
    fn drop(&mut self) {
        // Dropping a runtime inside another one panics, and a node may be dropped anywhere.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// What starting and stopping go through one at a time.
pub(super) struct Held {
    pub(super) core: Option<JoinHandle<()>>,
    lock: Option<HomeLock>,
    pub(super) watchers: Watchers,
    /// Where it listened last.
    pub(super) port: Option<u16>,
    /// Who notices that the network has ended.
    pub(super) attendant: Option<AbortHandle>,
    /// Looks after checkpoints while the network runs.
    pub(super) checkpoints: Option<tokio::task::JoinHandle<()>>,
    /// Looks after the length of the history meanwhile.
    pub(super) gc: Option<tokio::task::JoinHandle<()>>,
}

/// How a node is to be opened.
#[must_use = "a builder does nothing until it is opened"]
pub struct NodeBuilder {
    home: PathBuf,
    settings: Settings,
    config: NetConfig,
    store: Option<OpenStore>,
    cells: Option<Arc<dyn Cells>>,
}

/// Opens a store somewhere else than in the home.
type OpenStore = Box<dyn FnOnce(&[u8; 32]) -> Result<(Store, Loaded), StoreError> + Send>;

impl NodeBuilder {
    /// Takes everything from these settings, as `kinfold up` takes it from `HOME/config.toml`:
    /// `.settings(ConfigFile::of(home).read()?)`. Call it first: what follows goes before it.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.config = net_config(&settings);
        self.settings = settings;
        self
    }

    /// Listens here once started; `[::]:0` by default. Port 0 takes a free one.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.config.listen = address;
        self
    }

    /// Switches mDNS off.
    pub fn without_mdns(mut self) -> Self {
        self.config.mdns = Mdns::Off;
        self
    }

    /// Also announces and looks on the loopback interface: for tests and demos on one machine.
    pub fn mdns_on_loopback(mut self) -> Self {
        self.config.mdns = Mdns::On { loopback: Loopback::Use };
        self
    }

    /// Dials this `host:port` whenever it is not connected.
    pub fn peer(mut self, address: impl Into<String>) -> Self {
        self.config.peers.push(address.into());
        self
    }

    /// Sets everything about the network at once.
    pub fn net_config(mut self, config: NetConfig) -> Self {
        self.config = config;
        self
    }

    /// Keeps the store on this backend instead of in the home, without index snapshots: for tests on
    /// disks that fail ([`FaultDisk`](crate::store::fault::FaultDisk)).
    ///
    /// It must hold a store of this home's identity: the bytes of its `store/log.redb`.
    pub fn store_backend(mut self, backend: impl redb::StorageBackend) -> Self {
        self.store = Some(Box::new(move |local_key| Store::open_with(backend, None, local_key)));
        self
    }

    /// Keeps the leases in these cells instead of on a device: in a bucket or a shared directory, as
    /// [`open_cells`](crate::coordinator::store::open_cells) finds them. Every device of the fleet
    /// names the same place, and no other fleet does.
    pub fn leases_in(mut self, cells: Arc<dyn Cells>) -> Self {
        self.cells = Some(cells);
        self
    }

    /// Opens the store; no network yet. Frontiers are there at once, the index is read beside.
    ///
    /// # Errors
    /// [`NodeError::NotInitialised`], [`NodeError::Lock`], [`NodeError::IdentityDamaged`],
    /// [`NodeError::HomeFile`], [`NodeError::Store`], [`NodeError::StoreEmpty`], [`NodeError::Engine`].
    pub async fn open(self) -> Result<Node, NodeError> {
        let opened = tokio::task::spawn_blocking(move || open(self)).await;
        opened.expect("opening does not panic and is not aborted")
    }
}

impl Node {
    /// Makes a new device in an empty or absent directory: identity, certificate, personal space.
    ///
    /// # Errors
    /// [`NodeError::HomeInUse`], [`NodeError::HomeFile`], [`NodeError::Lock`], [`NodeError::Store`],
    /// [`NodeError::Roster`] for a name that is empty or too long.
    pub fn init(home: &Path, name: &str) -> Result<DeviceId, NodeError> {
        home::init(home, name)
    }

    /// The device that lives in `home`, without opening it.
    ///
    /// # Errors
    /// [`NodeError::NotInitialised`], [`NodeError::IdentityDamaged`], [`NodeError::HomeFile`].
    pub fn device_in(home: &Path) -> Result<DeviceId, NodeError> {
        Ok(home::identity(home)?.device())
    }

    /// Prepares to open the device in `home`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let home = directory.path().join("home");
    /// use kinfold::Node;
    ///
    /// let device = Node::init(&home, "laptop")?; // once
    /// let node = Node::builder(&home).listen("127.0.0.1:0".parse()?).without_mdns().open().await?;
    /// assert_eq!(node.device(), device);
    /// node.start().await?; // the network; what needs none works before
    /// assert!(node.local_addr().is_some());
    /// node.stop().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(home: impl Into<PathBuf>) -> NodeBuilder {
        NodeBuilder {
            home: home.into(),
            settings: Settings::default(),
            config: NetConfig::default(),
            store: None,
            cells: None,
        }
    }

    /// This device.
    pub fn device(&self) -> DeviceId {
        self.0.device
    }

    /// Its directory.
    pub fn home(&self) -> &Path {
        &self.0.home
    }

    /// The personal space.
    pub fn personal(&self) -> Space {
        Space { node: self.clone(), place: Place::Personal }
    }

    /// The space of a scope.
    ///
    /// # Errors
    /// [`NodeError::NoSuchSpace`], [`NodeError::Stopped`].
    pub async fn space(&self, scope: &Scope) -> Result<Space, NodeError> {
        if *scope == Scope::Personal {
            return Ok(self.personal());
        }
        let wanted = scope.clone();
        let found = self.ask(move |core| core.engine.active(&wanted)).await?;
        let id = found.ok_or_else(|| NodeError::NoSuchSpace { scope: scope.clone() })?;
        Ok(Space { node: self.clone(), place: Place::Fixed(id) })
    }

    /// Starts the network. Starting a started node does nothing.
    ///
    /// # Errors
    /// [`NodeError::Net`], [`NodeError::Stopped`].
    pub async fn start(&self) -> Result<(), NodeError> {
        let mut held = self.0.held.lock().await;
        if held.core.is_none() {
            return Err(NodeError::Stopped);
        }
        if self.local_addr().is_some() {
            return Ok(());
        }
        self.start_now(&mut held).await
    }

    /// Stops the network and closes the home, within ten seconds: what has not ended by then is counted
    /// and left. Stopping twice does nothing.
    ///
    /// # Errors
    /// None today; a later version may report what could not be finished.
    pub async fn stop(&self) -> Result<Stopped, NodeError> {
        Ok(self.stop_within(ENGINE_ENDS_WITHIN).await)
    }

    /// Stops, and waits for the engine for so long.
    pub(super) async fn stop_within(&self, engine_ends_within: Duration) -> Stopped {
        let mut held = self.0.held.lock().await;
        if let Some(attendant) = held.attendant.take() {
            attendant.abort();
        }
        if held.core.is_none() {
            return Stopped::default();
        }
        // The engine is not asked for anything more: it may be what does not answer.
        self.0.lifecycle.send_replace(Lifecycle::Stopping);
        let mut stopped = Stopped { tasks_left: held.watchers.stop().await, ..Stopped::default() };
        for watch in [held.checkpoints.take(), held.gc.take()].into_iter().flatten() {
            // What it was fetching goes on from there the next time.
            watch.abort();
            let is_ended = tokio::time::timeout(CHECKPOINTS_END_WITHIN, watch).await.is_ok();
            stopped.tasks_left += usize::from(!is_ended);
        }
        if self.local_addr().is_some() {
            // Whoever wakes up next finds what was written last.
            let _ = tokio::time::timeout(LAST_PUSH_WITHIN, self.leave_what_is_new()).await;
        }
        let net = self.0.net.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(stopping) = net.and_then(|net| self.0.runtime.spawn(net.stop())) {
            // A panic in it has been reported by its thread.
            stopped.tasks_left += stopping.await.unwrap_or_default();
        }
        // What folds or reads chunks beside the loop has the store open.
        let busy = tokio::time::timeout(WORK_ENDS_WITHIN, self.0.checkpoints.busy.write()).await;
        stopped.tasks_left += usize::from(busy.is_err());
        if let Some(core) = held.core.take() {
            stopped.engine_left = !self.end_engine(core, held.lock.take(), engine_ends_within).await;
        }
        if stopped.left() > 0 {
            warn!(
                tasks = stopped.tasks_left,
                engine = stopped.engine_left,
                "not everything has ended in time"
            );
        }
        self.0.lifecycle.send_replace(Lifecycle::Stopped);
        stopped
    }

    /// Has the engine write what it has and end; whether it has in time. The home is given back by
    /// whoever waits to the end, so nobody else opens it before.
    async fn end_engine(&self, core: JoinHandle<()>, lock: Option<HomeLock>, within: Duration) -> bool {
        let (told, ended) = oneshot::channel();
        let jobs = self.0.jobs.clone();
        let end = move || {
            let (reply, stopped) = oneshot::channel();
            if jobs.blocking_send(Job::Stop { reply }).is_ok() {
                // The loop answers last of all; if it is gone already, that is what was asked for.
                let _ = stopped.blocking_recv();
            }
            let _ = core.join();
            drop(lock);
            let _ = told.send(());
        };
        // A thread and no task: the end of a runtime would wait for it without bound.
        match std::thread::Builder::new().name("kinfold-end".into()).spawn(end) {
            Ok(_) => tokio::time::timeout(within, ended).await.is_ok(),
            Err(error) => {
                warn!(%error, "no thread to wait for the engine; it ends with the last handle");
                false
            }
        }
    }

    /// Looks after the drop boxes there are now, where the node is started.
    pub(super) async fn watch_drop_boxes(&self) {
        let mut held = self.0.held.lock().await;
        if self.local_addr().is_some() {
            self.watch(&mut held);
        }
    }

    pub(super) fn watch(&self, held: &mut Held) {
        if let Some(runtime) = &self.0.runtime.0 {
            held.watchers.watch(self, self.0.drop_boxes.list(), runtime.handle());
        }
    }

    /// Where it listens, while started.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.0.net.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(Net::local_addr)
    }

    /// What it is and has, with its personal space.
    ///
    /// # Errors
    /// [`NodeError::Stopped`].
    pub async fn status(&self) -> Result<Status, NodeError> {
        self.personal().status().await
    }

    /// One round with every drop box and every connected peer now; returns once each has answered and holds the same,
    /// or once nothing has moved for two seconds.
    ///
    /// # Errors
    /// [`NodeError::NotStarted`], [`NodeError::Stopped`].
    pub async fn sync(&self) -> Result<Round, NodeError> {
        self.must_be_started()?;
        let before = self.counters().await?;
        let left = self.sync_drop_boxes().await;
        let round = self.round(Vec::new(), before).await?;
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(Round {
            dropboxes: count(left.len()),
            dropboxes_failed: count(left.iter().filter(|moved| moved.is_failed).count()),
            dropbox_pushed: left.iter().map(|moved| moved.pushed_ops).sum(),
            dropbox_pulled: left.iter().map(|moved| moved.pulled_ops).sum(),
            ..round
        })
    }

    /// One round with these devices and nobody else. Those that are not connected are dialled where they
    /// were last, and waited for during five seconds; the answer names who did not come.
    ///
    /// What is counted is what moved meanwhile, with whomever it was.
    ///
    /// # Errors
    /// [`NodeError::NotStarted`], [`NodeError::Stopped`].
    pub async fn sync_with(&self, devices: &[DeviceId]) -> Result<Round, NodeError> {
        self.must_be_started()?;
        let before = self.counters().await?;
        let absent = self.reach(devices).await?;
        let present: Vec<DeviceId> =
            devices.iter().copied().filter(|device| !absent.contains(device)).collect();
        if present.is_empty() {
            // An empty list would mean everybody.
            return Ok(Round { absent, state_hash: Some(self.personal().root()), ..Round::default() });
        }
        Ok(Round { absent, ..self.round(present, before).await? })
    }

    pub(super) fn must_be_started(&self) -> Result<(), NodeError> {
        if self.local_addr().is_none() { Err(NodeError::NotStarted) } else { Ok(()) }
    }

    /// Dials those of these devices that are not connected. Who is not after a while.
    async fn reach(&self, devices: &[DeviceId]) -> Result<Vec<DeviceId>, NodeError> {
        let mut version = self.0.version.clone();
        let until = tokio::time::Instant::now() + REACH_WITHIN;
        let mut is_dialled = false;
        loop {
            version.mark_unchanged();
            let wanted = devices.to_vec();
            let absent = self.ask(move |core| core.not_connected(wanted, is_dialled)).await?;
            is_dialled = true;
            let is_late = tokio::time::timeout_at(until, version.changed());
            if absent.is_empty() || is_late.await.is_err() {
                return Ok(absent);
            }
        }
    }

    async fn round(&self, with: Vec<DeviceId>, before: Counters) -> Result<Round, NodeError> {
        let (reply, mut done) = oneshot::channel();
        let named = with.clone();
        let request = Box::new(|token| Input::Round { with: named, token });
        self.0.jobs.send(Job::Request { request, reply }).await.map_err(|_| NodeError::Stopped)?;
        let mut after = before;
        loop {
            if let Ok(done) = tokio::time::timeout(ROUND_STALLED, &mut done).await {
                done.map_err(|_| NodeError::Stopped)??;
                after = self.counters().await?;
                break;
            }
            // A forked or blocked log keeps two devices apart for good: what moves is waited for.
            let now = self.counters().await?;
            if now == std::mem::replace(&mut after, now) {
                break;
            }
        }
        let took_part = move |core: &mut Core| {
            let peers = core.engine.peers();
            let is_meant = |device: &DeviceId| with.is_empty() || with.contains(device);
            peers.iter().filter(|peer| peer.is_greeted && is_meant(&peer.device)).count()
        };
        let peers = self.ask(took_part).await?;
        Ok(Round {
            pushed: after.pushed_ops - before.pushed_ops,
            push_deduped: after.duplicate_ops - before.duplicate_ops,
            folded: after.received_ops - before.received_ops,
            acked: after.ack_count - before.ack_count,
            peers: u32::try_from(peers).unwrap_or(u32::MAX),
            state_hash: Some(self.personal().root()),
            ..Round::default()
        })
    }

    /// Waits until an op is held durably by that many other devices, and names them.
    ///
    /// There is no time limit: wrap it in `tokio::time::timeout` for one.
    ///
    /// # Errors
    /// [`NodeError::UnknownOp`], [`NodeError::Stopped`].
    pub async fn wait(&self, op: OpId, custody: Custody) -> Result<Vec<DeviceId>, NodeError> {
        let (space, dot) = self.find(op).await?.ok_or(NodeError::UnknownOp)?;
        let recent = Arc::clone(&self.0.recent);
        self.wait_for(custody, move |core| {
            // It gets another place when its space gives way to another, or its log to a new one.
            let moved = recent.lock().unwrap_or_else(PoisonError::into_inner).get(&op).copied();
            let (space, dot) = moved.unwrap_or((space, dot));
            core.engine.holders(space, dot)
        })
        .await
    }

    /// Waits until everything this device holds of its personal space is held durably by that many
    /// other devices.
    ///
    /// # Errors
    /// [`NodeError::Stopped`].
    pub async fn wait_all(&self, custody: Custody) -> Result<Vec<DeviceId>, NodeError> {
        self.personal().wait_all(custody).await
    }

    /// Whether another device holds everything of the personal space.
    ///
    /// # Errors
    /// [`NodeError::Stopped`].
    pub async fn safe_to_sleep(&self) -> Result<SafeToSleep, NodeError> {
        self.personal().safe_to_sleep().await
    }

    /// Dials this `host:port` whenever it is not connected, until [`Node::remove_peer`].
    ///
    /// # Errors
    /// [`NodeError::PeerAddress`] for text that names no address.
    pub async fn add_peer(&self, address: String) -> Result<(), NodeError> {
        // A name that nobody has is most often a typing error.
        let looked_up = tokio::net::lookup_host(&address).await.map(drop);
        looked_up.map_err(|source| NodeError::PeerAddress { address: address.clone(), source })?;
        if let Some(net) = &*self.0.net.read().unwrap_or_else(PoisonError::into_inner) {
            net.add_peer(address.clone())?;
        }
        let mut config = self.0.config.lock().unwrap_or_else(PoisonError::into_inner);
        if !config.peers.contains(&address) {
            config.peers.push(address);
        }
        Ok(())
    }

    /// Dials this `host:port` no longer; false where it was not dialled. A connection to whoever
    /// answers there stays, and that device is still found by other means.
    pub fn remove_peer(&self, address: &str) -> bool {
        let mut config = self.0.config.lock().unwrap_or_else(PoisonError::into_inner);
        let count = config.peers.len();
        config.peers.retain(|peer| peer != address);
        let is_known = config.peers.len() < count;
        drop(config);
        if let Some(net) = &*self.0.net.read().unwrap_or_else(PoisonError::into_inner) {
            net.remove_peer(address.to_owned());
        }
        is_known
    }

    /// A number that changes whenever something did: what to wait on before asking again.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.0.version.clone()
    }

    pub(super) fn personal_id(&self) -> SpaceId {
        *self.0.personal.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn jobs(&self) -> &mpsc::Sender<Job> {
        &self.0.jobs
    }

    pub(super) fn checkpoints(&self) -> &Checkpoints {
        &self.0.checkpoints
    }

    /// Works beside the loop, on a thread that may block; a stop waits for it.
    pub(super) async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let busy = Arc::clone(&self.0.checkpoints.busy).read_owned().await;
        let work = move || {
            let done = work();
            drop(busy);
            done
        };
        tokio::task::spawn_blocking(work).await.expect("it does not panic and is not aborted")
    }

    pub(super) fn drop_boxes(&self) -> &Records {
        &self.0.drop_boxes
    }

    pub(super) fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.0)
    }

    pub(super) fn upgrade(node: &Weak<Inner>) -> Option<Self> {
        node.upgrade().map(Self)
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }

    /// Listens elsewhere from the next start on.
    #[cfg(test)]
    pub(super) fn set_listen(&self, address: SocketAddr) {
        self.0.config.lock().unwrap_or_else(PoisonError::into_inner).listen = address;
    }

    /// Loses the network as the system takes a socket away.
    #[cfg(test)]
    pub(super) fn lose_socket(&self) {
        let net = self.0.net.read().unwrap_or_else(PoisonError::into_inner);
        net.as_ref().expect("the network runs").lose_socket();
    }

    /// What the network reads batches from.
    pub(super) fn batch_source(&self) -> impl BatchSource {
        StoreSource(self.0.store.clone())
    }

    pub(super) fn store(&self) -> &Store {
        &self.0.store
    }

    /// Takes in what a carrier brought; it is durable when this returns.
    pub(super) async fn deliver(&self, space: SpaceId, delivery: Delivery) -> Result<Delivered, NodeError> {
        let (reply, done) = oneshot::channel();
        let job = Job::Deliver { space, delivery, reply };
        self.0.jobs.send(job).await.map_err(|_| NodeError::Stopped)?;
        done.await.map_err(|_| NodeError::Stopped)?
    }

    pub(super) fn recent(&self) -> &RecentOps {
        &self.0.recent
    }

    pub(super) fn blocks(&self) -> &Arc<Blocks> {
        &self.0.blocks
    }

    pub(super) fn keys(&self) -> &KeyRing {
        &self.0.keys
    }

    pub(super) fn indexes(&self) -> &Indexes {
        &self.0.indexes
    }

    pub(super) fn identity(&self) -> &Arc<Identity> {
        &self.0.identity
    }

    pub(super) fn store_leases(&self) -> Option<&Arc<dyn LeaseCoordinator>> {
        self.0.store_leases.as_ref()
    }

    pub(super) fn desk(&self) -> &Arc<LeaseDesk> {
        &self.0.desk
    }

    pub(super) fn pairing(&self) -> &Pairing {
        &self.0.pairing
    }

    pub(super) fn in_force(&self) -> &InForce {
        &self.0.settings
    }

    pub(super) fn net_config(&self) -> NetConfig {
        self.0.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the engine for something that has no result but its end.
    pub(super) async fn request(
        &self,
        request: impl FnOnce(Token) -> Input + Send + 'static,
    ) -> Result<(), NodeError> {
        let (reply, done) = oneshot::channel();
        let job = Job::Request { request: Box::new(request), reply };
        self.0.jobs.send(job).await.map_err(|_| NodeError::Stopped)?;
        done.await.map_err(|_| NodeError::Stopped)?
    }

    async fn counters(&self) -> Result<Counters, NodeError> {
        self.ask(|core| core.engine.counters()).await
    }

    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Core) -> T + Send + 'static,
    ) -> Result<T, NodeError> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Ask(Box::new(move |core| {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(question(core));
        }));
        self.0.jobs.send(job).await.map_err(|_| NodeError::Stopped)?;
        answer.await.map_err(|_| NodeError::Stopped)
    }

    pub(super) async fn wait_for(
        &self,
        custody: Custody,
        holders: impl Fn(&Core) -> Vec<DeviceId> + Clone + Send + 'static,
    ) -> Result<Vec<DeviceId>, NodeError> {
        let mut version = self.0.version.clone();
        loop {
            version.mark_unchanged();
            let holders = holders.clone();
            let found = self.ask(move |core| holders(core)).await?;
            if found.len() >= custody.devices as usize {
                return Ok(found);
            }
            version.changed().await.map_err(|_| NodeError::Stopped)?;
        }
    }

    /// The place of an op: remembered for recent own ones, otherwise searched for, the own logs first.
    pub(super) async fn find(&self, op: OpId) -> Result<Option<(SpaceId, Dot)>, NodeError> {
        if let Some(place) = self.0.recent.lock().unwrap_or_else(PoisonError::into_inner).get(&op) {
            return Ok(Some(*place));
        }
        let logs = self.ask(Core::all_logs).await?;
        let blocks = Arc::clone(&self.0.blocks);
        let search = move || -> Result<Option<(SpaceId, Dot)>, NodeError> {
            for (space, log, last) in logs {
                for seq in (1..=last.get()).rev() {
                    let dot = Dot { log, seq: Seq::new(seq) };
                    let Some(at) = blocks.op(&space, &dot)? else { continue };
                    if OpId::of(&space, at.dot, at.hlc, at.kind, at.flags, &at.body) == op {
                        return Ok(Some((space, dot)));
                    }
                }
            }
            Ok(None)
        };
        tokio::task::spawn_blocking(search).await.expect("a search does not panic and is not aborted")
    }
}

/// Opens a home and starts the loop.
fn open(builder: NodeBuilder) -> Result<Node, NodeError> {
    let NodeBuilder { home, settings, config, store, cells } = builder;
    let identity = Arc::new(home::identity(&home)?);
    let lock = home::lock(&home)?;
    let local_key = home::local_key(&identity);
    let (store, loaded) = match store {
        Some(open_store) => open_store(&local_key)?,
        None => Store::open(&home.join("store"), &local_key)?,
    };
    let drop_boxes = Records::read(&home)
        .map_err(|source| NodeError::HomeFile { path: home.join(DROPBOXES_FILE), source })?;
    let past = marker::check(&home, &store)?;
    let unmarked = *clock::entropy().first_chunk().expect("32 bytes hold 16");
    let instance = store.mark()?.map_or(unmarked, |mark| mark.instance);
    let mut engine = Engine::new(Arc::clone(&identity), instance, loaded)?;
    engine.hold_back();
    engine.call_dormant_after(settings.dormant_after());
    if let Past::InDoubt(why) = past {
        warn!(%why, "this home was restored or copied; writing new logs from here on");
        begin_anew(&mut engine, &store)?;
        marker::renew(&home, &store)?;
    }
    let personal = engine.personal().ok_or_else(|| NodeError::StoreEmpty { home: home.clone() })?;

    let runtime = NetRuntime::new().map_err(|source| NodeError::HomeFile { path: home.clone(), source })?;
    let keys = KeyRing::default();
    let blocks = Arc::new(Blocks::new(store.clone(), keys.clone()));
    let indexes = engine
        .active_spaces()
        .into_iter()
        .map(|space| {
            let frontier = engine.space(space).map(|view| view.frontier.clone()).unwrap_or_default();
            (space, Arc::new(Index::new(space, frontier)))
        })
        .collect();
    let indexes: Indexes = Arc::new(RwLock::new(indexes));
    let personal = Arc::new(RwLock::new(personal));
    let net = Arc::new(RwLock::new(None));
    let pins = Pins::default();
    let (jobs, job_reader) = mpsc::channel(JOBS_QUEUED);
    let (events, event_reader) = mpsc::channel(EVENTS_QUEUED);
    let (version_writer, version) = watch::channel(0);
    let recent = RecentOps::default();
    let checkpoints = Checkpoints::default();
    let parts = Parts {
        home: home.clone(),
        engine,
        store: store.clone(),
        blocks: Arc::clone(&blocks),
        keys: keys.clone(),
        indexes: Arc::clone(&indexes),
        personal: Arc::clone(&personal),
        net: Arc::clone(&net),
        pins: pins.clone(),
        addresses: if settings.remembers_addresses() {
            Addresses::of(&home, clock::wall())
        } else {
            Addresses::none()
        },
        rounds_every: settings.anti_entropy(),
        gc_grace: settings.gc_grace(),
        version: version_writer,
        recent: Arc::clone(&recent),
        serving: Serving::of(&checkpoints),
        jobs: job_reader,
        loopback: jobs.downgrade(),
        events: event_reader,
    };
    let device = identity.device();
    // A new life of the daemon: it holds nothing of what the one before it held.
    let life = u64::from_be_bytes(*clock::entropy().first_chunk().expect("32 bytes hold 8"));
    let desk = Arc::new(LeaseDesk::new(device, DaemonInstance::new(life), jobs.downgrade()));
    let store_leases = cells
        .map(|cells| -> Arc<dyn LeaseCoordinator> { Arc::new(StoreCoordinator::new(cells, desk.holder())) });
    let lifecycle = watch::Sender::new(Lifecycle::Stopped);
    let guard = EngineGuard(lifecycle.clone());
    let run = move || {
        let _guard = guard;
        Core::new(parts).run();
    };
    let core = std::thread::Builder::new()
        .name("kinfold-core".into())
        .spawn(run)
        .map_err(|source| NodeError::HomeFile { path: home.clone(), source })?;
    Ok(Node(Arc::new(Inner {
        runtime,
        home,
        device,
        identity,
        config: Mutex::new(config),
        settings: InForce::new(settings),
        store,
        blocks,
        keys,
        indexes,
        personal,
        jobs,
        events,
        net,
        lifecycle,
        held: tokio::sync::Mutex::new(Held {
            core: Some(core),
            lock: Some(lock),
            watchers: Watchers::default(),
            port: None,
            attendant: None,
            checkpoints: None,
            gc: None,
        }),
        pins,
        version,
        recent,
        pairing: Pairing::default(),
        drop_boxes,
        checkpoints,
        desk,
        store_leases,
    })))
}

/// Begins a new log in every space, before anything is written: what was written since the backup
/// may lie with others, in the places that would come next.
fn begin_anew(engine: &mut Engine, store: &Store) -> Result<(), NodeError> {
    let effects = engine.step(&clock::now(), Input::Doubt);
    for effect in effects {
        if let Effect::Persist(txn) = effect {
            let id = txn.id;
            store.commit(&[txn])?;
            // What it asks for beside is done by the loop when it begins.
            drop(engine.step(&clock::now(), Input::Persisted(id)));
        }
    }
    Ok(())
}

/// The store as the network reads from it.
struct StoreSource(Store);

impl BatchSource for StoreSource {
    fn run(
        &self,
        space: &SpaceId,
        log: &LogId,
        after: Seq,
        through: Seq,
        bytes_max: usize,
    ) -> Result<Option<crate::net::Run>, SourceError> {
        match self.0.run(space, log, after, through, bytes_max) {
            Ok(run) => Ok(run.map(|run| crate::net::Run { bytes: run.bytes, last: run.last })),
            Err(error) => Err(SourceError(Box::new(error))),
        }
    }
}

/// How long a stopping node waits for the engine, which writes a snapshot of the index last.
const ENGINE_ENDS_WITHIN: Duration = Duration::from_secs(5);

/// How long a stopping node goes on to leave what is new in its drop boxes.
const LAST_PUSH_WITHIN: Duration = Duration::from_secs(2);

/// One thread receives while the other sends.
const NET_THREADS: usize = 2;

/// How long a device that is named is waited for: as long as a handshake may take.
const REACH_WITHIN: Duration = Duration::from_secs(5);

/// How long nothing must move before a round counts as over.
const ROUND_STALLED: Duration = Duration::from_secs(2);

/// Requests that may wait for the loop; whoever has more waits itself.
const JOBS_QUEUED: usize = 4_096;

/// Network events that may wait for the loop; connections wait beyond that.
const EVENTS_QUEUED: usize = 256;

/// How long a stop waits for what looks after checkpoints.
const CHECKPOINTS_END_WITHIN: Duration = Duration::from_secs(1);

/// How long a stop waits for a state that is being folded anew, and then leaves it: about a million ops.
const WORK_ENDS_WITHIN: Duration = Duration::from_secs(2);
