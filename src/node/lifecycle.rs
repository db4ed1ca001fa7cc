//! What the network of a node goes through: started, lost and started again, stopped.
//!
//! The store, the engine and what callers wrote do not depend on it: a network that has failed costs
//! company and nothing else, and everything goes on where it was once it is back. Whoever starts a
//! node is told why that fails and decides; what fails later is started again by the node itself,
//! after pauses that grow.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::core::{Core, chain_of};
use super::error::NodeError;
use super::handle::{Held, Inner, Node};
use crate::net::{BatchSource, Net, NetConfig, NetError, NetFailure};

/// What a node is doing with its network.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Lifecycle {
    /// It has none: it was opened, or has been stopped.
    #[default]
    Stopped,
    /// It binds its socket.
    Starting,
    /// It listens, dials and looks for devices.
    Running,
    /// It has lost its network, or did not get one.
    Failed {
        /// Why, for people.
        why: String,
        /// How often in a row.
        failures: u32,
        /// When it is tried again, on the uptime clock; `None` where nobody does by itself.
        again_at: Option<Duration>,
    },
    /// It says goodbye.
    Stopping,
}

impl Lifecycle {
    /// The state in one word.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Failed { .. } => "failed",
            Self::Stopping => "stopping",
        }
    }
}

/// What a stop did not wait for any longer. Everything that was acknowledged is on disk all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stopped {
    /// Tasks of the network and of drop boxes that had not ended. They end with their next step, or
    /// with the last handle of the node.
    pub tasks_left: usize,
    /// Whether the engine had not ended. It is left to finish what it writes, and the home stays locked
    /// until it has.
    pub engine_left: bool,
}

impl Stopped {
    /// How much was left in all.
    pub fn left(&self) -> usize {
        self.tasks_left + usize::from(self.engine_left)
    }
}

/// Tells that the engine has ended without having been asked to, which only a panic does.
pub(super) struct EngineGuard(pub watch::Sender<Lifecycle>);

impl Drop for EngineGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let why = "the engine ended by a mistake of the program; the log says more".to_owned();
            self.0.send_replace(Lifecycle::Failed { why, failures: 1, again_at: None });
        }
    }
}

impl Node {
    /// What the node is doing with its network; whoever keeps it is told of changes.
    pub fn lifecycle(&self) -> watch::Receiver<Lifecycle> {
        self.inner().lifecycle.subscribe()
    }

    /// Starts the network for a caller, who decides what follows where that fails.
    pub(super) async fn start_now(&self, held: &mut Held) -> Result<(), NodeError> {
        let before = self.inner().lifecycle.borrow().clone();
        // It may be waiting to try again, which is done now.
        let attendant = held.attendant.take().filter(|attendant| !attendant.is_finished());
        match self.bring_up(held, 0).await {
            Ok(()) => {
                if let Some(attendant) = attendant {
                    attendant.abort();
                }
                Ok(())
            }
            Err(error) => {
                let failed = || Lifecycle::Failed { why: chain_of(&error), failures: 1, again_at: None };
                let is_before = attendant.is_some() || matches!(error, NodeError::Stopped);
                self.enter(if is_before { before } else { failed() }).await;
                held.attendant = attendant;
                Err(error)
            }
        }
    }

    /// Starts the network, with its lifecycle held. What follows a failure is the caller's.
    async fn bring_up(&self, held: &mut Held, failures: u32) -> Result<(), NodeError> {
        self.enter(Lifecycle::Starting).await;
        self.bind(held).await?;
        if let Err(error) = self.ask(Core::announce).await {
            // Without an engine it would only listen.
            drop(self.inner().net.write().unwrap_or_else(PoisonError::into_inner).take());
            return Err(error);
        }
        self.watch(held);
        self.watch_checkpoints(held);
        self.look_after(held, failures);
        self.enter(Lifecycle::Running).await;
        Ok(())
    }

    /// Binds where it listened before, where any port will do: others remember that one.
    async fn bind(&self, held: &mut Held) -> Result<(), NodeError> {
        let config = self.net_config();
        let again = held.port.filter(|_| config.listen.port() == 0).map(|port| {
            let listen = SocketAddr::new(config.listen.ip(), port);
            NetConfig { listen, ..config.clone() }
        });
        let net = match again {
            Some(again) => match self.open_net(again).await {
                // Somebody else has it by now.
                Err(NodeError::Net(NetError::Bind { .. })) => self.open_net(config).await?,
                opened => opened?,
            },
            None => self.open_net(config).await?,
        };
        held.port = Some(net.local_addr().port());
        *self.inner().net.write().unwrap_or_else(PoisonError::into_inner) = Some(net);
        Ok(())
    }

    async fn open_net(&self, config: NetConfig) -> Result<Net, NodeError> {
        let inner = self.inner();
        let source: Arc<dyn BatchSource> = Arc::new(self.batch_source());
        let (identity, pins) = (Arc::clone(self.identity()), inner.pins.clone());
        let starting = Net::start(identity, config, pins, source, inner.events.clone());
        let started = inner.runtime.spawn(starting).ok_or(NodeError::Stopped)?;
        Ok(started.await.map_err(|_| NodeError::Stopped)??)
    }

    /// Has somebody notice when the network ends by itself. Whoever did so until now does no longer.
    fn look_after(&self, held: &mut Held, failures: u32) {
        let inner = self.inner();
        let failure = inner.net.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(Net::failure);
        let Some(failure) = failure else { return };
        let looking = look_after(self.downgrade(), failure, failures);
        held.attendant = inner.runtime.spawn(looking).map(|task| task.abort_handle());
    }

    /// Looks after checkpoints from now on; once is enough, however often the network begins.
    fn watch_checkpoints(&self, held: &mut Held) {
        if held.checkpoints.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
            let news = Arc::clone(&self.checkpoints().news);
            held.checkpoints = self.inner().runtime.spawn(super::checkpoint::watch(self.downgrade(), news));
            held.gc = self.inner().runtime.spawn(super::gc::watch(self.downgrade()));
        }
    }

    /// Takes a network down that has ended, and says when another one is tried.
    async fn lost(&self, failure: NetFailure, failures: u32) -> Duration {
        let pause = pause_before(failures);
        warn!(why = %failure, failures, pause_ms = pause.as_millis(), "the network was lost");
        let net = self.inner().net.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(net) = net {
            net.stop().await;
        }
        self.await_again(failure.to_string(), failures, pause).await;
        pause
    }

    async fn await_again(&self, why: String, failures: u32, pause: Duration) {
        let again_at = Some(crate::clock::uptime() + pause);
        self.enter(Lifecycle::Failed { why, failures, again_at }).await;
    }

    /// Changes the state, and tells whoever waits for a change of the node.
    pub(super) async fn enter(&self, state: Lifecycle) {
        self.inner().lifecycle.send_replace(state);
        // Without an engine nobody waits any more.
        let _ = self.ask(Core::touch).await;
    }
}

/// Waits for the end of a network, and brings up another one; whoever does that looks after it.
async fn look_after(node: Weak<Inner>, mut failure: watch::Receiver<Option<NetFailure>>, before: u32) {
    let began = Instant::now();
    let ended = match failure.wait_for(Option::is_some).await {
        Ok(ended) => *ended,
        // It was stopped.
        Err(_) => None,
    };
    let Some(ended) = ended else { return };
    let mut failures = if began.elapsed() >= LASTING { 1 } else { before + 1 };
    let Some(live) = Node::upgrade(&node) else { return };
    let mut pause = {
        // Whoever stops the node ends this task while it holds this, so never in between.
        let _held = live.inner().held.lock().await;
        live.lost(ended, failures).await
    };
    drop(live);
    loop {
        tokio::time::sleep(pause).await;
        let Some(node) = Node::upgrade(&node) else { return };
        let mut held = node.inner().held.lock().await;
        if held.core.is_none() || node.local_addr().is_some() {
            return;
        }
        match node.bring_up(&mut held, failures).await {
            Ok(()) => return info!(failures, "the network is back"),
            Err(NodeError::Stopped) => return,
            Err(error) => {
                failures += 1;
                pause = pause_before(failures);
                warn!(why = %chain_of(&error), failures, "no network yet");
                node.await_again(chain_of(&error), failures, pause).await;
            }
        }
    }
}

/// How long to wait before another network is tried: after the first failure hardly, then longer and
/// longer.
fn pause_before(failures: u32) -> Duration {
    (AGAIN_AFTER * 2u32.saturating_pow(failures.saturating_sub(1).min(16))).min(AGAIN_AFTER_MAX)
}

/// The first pause: a socket that a sleeping machine lost is there again at once.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// The longest pause: somebody who takes the other program away waits no longer than this.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(60);

/// A network that has lasted for so long has not failed at the same thing as the one before.
const LASTING: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn pauses_grow_and_end_at_a_minute() {
        let pauses: Vec<u128> = (0..12).map(|failures| pause_before(failures).as_millis()).collect();

        assert_eq!(
            pauses,
            [250, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]
        );
        assert_eq!(pause_before(u32::MAX), AGAIN_AFTER_MAX);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_network_that_is_lost_is_started_again_once_its_port_is_free() {
        let (_dir, node) = open().await;
        node.start().await.expect("loopback is there");
        let taken = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        let address = taken.local_addr().expect("it is bound");
        node.set_listen(address);
        let mut seen = node.lifecycle();
        node.personal().put("registry:note", "before", serde_json::json!(1)).await.expect("writes");

        node.lose_socket();
        let failed = |state: &Lifecycle| matches!(state, Lifecycle::Failed { failures, why, .. } if *failures > 2 && why.contains("cannot listen"));
        let failed = seen.wait_for(failed).await.expect("the node is there").clone();
        let status = node.status().await.expect("it answers without a network");
        node.personal().put("registry:note", "meanwhile", serde_json::json!(2)).await.expect("it writes");
        drop(taken);
        seen.wait_for(|state| *state == Lifecycle::Running).await.expect("the node is there");

        assert!(matches!(failed, Lifecycle::Failed { again_at: Some(_), .. }), "{failed:?}");
        assert_eq!((status.listening, status.lifecycle.name()), (None, "failed"));
        assert!(
            status
                .health
                .iter()
                .any(|reason| matches!(reason, crate::node::HealthReason::NetworkFailed { .. })),
            "{:?}",
            status.health
        );
        assert_eq!(node.local_addr(), Some(address));
        let status = node.status().await.expect("it answers");
        assert_eq!((status.health.len(), status.row_count), (0, 2));
        assert_eq!(node.stop().await.expect("it stops"), Stopped::default());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_network_of_any_port_comes_back_at_the_same_one_or_at_another_where_that_is_taken() {
        let (_dir, node) = open().await;
        node.start().await.expect("loopback is there");
        let first = node.local_addr().expect("it runs");
        let back = |state: &Lifecycle| *state == Lifecycle::Running;
        let mut seen = node.lifecycle();

        seen.mark_unchanged();
        node.lose_socket();
        seen.changed().await.expect("the node is there");
        seen.wait_for(back).await.expect("the node is there");
        let second = node.local_addr();
        let taken = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        node.inner().held.lock().await.port = Some(taken.local_addr().expect("it is bound").port());
        seen.mark_unchanged();
        node.lose_socket();
        seen.changed().await.expect("the node is there");
        seen.wait_for(back).await.expect("the node is there");

        assert_eq!(second, Some(first));
        assert_ne!(node.local_addr(), taken.local_addr().ok());
        node.stop().await.expect("it stops");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_that_is_stopped_while_it_waits_to_try_again_does_not_come_back() {
        let (_dir, node) = open().await;
        node.start().await.expect("loopback is there");
        let taken = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        node.set_listen(taken.local_addr().expect("it is bound"));
        let mut seen = node.lifecycle();

        node.lose_socket();
        seen.wait_for(|state| matches!(state, Lifecycle::Failed { failures, .. } if *failures > 1))
            .await
            .expect("the node is there");
        node.stop().await.expect("it stops");
        drop(taken);

        assert_eq!(*node.lifecycle().borrow(), Lifecycle::Stopped);
        assert!(node.inner().held.lock().await.attendant.is_none());
        assert!(matches!(node.start().await, Err(NodeError::Stopped)));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_start_that_fails_says_why_and_the_next_one_may_succeed() {
        let (_dir, node) = open().await;
        let taken = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        node.set_listen(taken.local_addr().expect("it is bound"));

        let refused = node.start().await.expect_err("the port is taken");
        let failed = node.lifecycle().borrow().clone();
        drop(taken);
        node.start().await.expect("the port is free");

        assert!(matches!(refused, NodeError::Net(_)), "{refused}");
        assert!(
            matches!(&failed, Lifecycle::Failed { failures: 1, again_at: None, .. }),
            "whoever started it decides: {failed:?}"
        );
        assert_eq!(*node.lifecycle().borrow(), Lifecycle::Running);
        node.stop().await.expect("it stops");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_engine_that_panics_is_a_failure_that_is_told() {
        let (_dir, node) = open().await;
        let mut seen = node.lifecycle();

        let asked = node.ask(|_: &mut Core| panic!("for the test")).await;
        seen.wait_for(|state| state.name() == "failed").await.expect("it is told");

        assert!(matches!(asked, Err::<(), _>(NodeError::Stopped)));
        assert!(matches!(node.start().await, Err(NodeError::Stopped)), "there is nothing left to start");
        assert_eq!(node.stop().await.expect("what is left of it stops"), Stopped::default());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_engine_that_does_not_end_is_counted_and_keeps_its_home() {
        let (dir, node) = open().await;
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let (begun, has_begun) = tokio::sync::oneshot::channel::<()>();
        let busy = tokio::spawn({
            let node = node.clone();
            let until_let_go = move |_: &mut Core| begun.send(()).is_ok() && held.recv().is_err();
            async move { node.ask(until_let_go).await }
        });
        has_begun.await.expect("the engine takes it up");

        let stopped = node.stop_within(Duration::from_millis(1)).await;
        let locked = Node::builder(dir.path().join("home")).open().await.err();

        assert_eq!((stopped.engine_left, stopped.left()), (true, 1));
        assert!(matches!(locked, Some(NodeError::Lock { .. })), "{locked:?}");
        drop(hold);
        let _ = busy.await.expect("it ends");
        drop(node);
        // Given back by the engine's own thread, a moment after its last word.
        let again = loop {
            match Node::builder(dir.path().join("home")).open().await {
                Ok(node) => break node,
                Err(NodeError::Lock { .. } | NodeError::Store(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        again.stop().await.expect("it stops");
    }

    async fn open() -> (tempfile::TempDir, Node) {
        let dir = tempfile::tempdir().expect("a writable temporary directory");
        let home = dir.path().join("home");
        Node::init(&home, "a").expect("an empty directory");
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let node = Node::builder(&home).listen(loopback).without_mdns().open().await;
        (dir, node.expect("it was just made"))
    }
}
