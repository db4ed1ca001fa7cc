//! The network shell: pinned QUIC connections between devices, and finding each other.
//!
//! Owns sockets, TLS, streams, dialling and discovery. Moves opaque control frames and sealed
//! batches; must never look into either. Everything that came from the network is bounded before it
//! is kept, and the node is told by [`NetEvent`]s on one channel. Read [`NetEvent`] for their order,
//! then `tls` for who is let in and `dial` for who is called.

mod ask;
mod beacon;
mod cert;
mod close;
mod connection;
mod dial;
mod ending;
mod endpoint;
mod frame;
mod interfaces;
mod link;
mod mdns;
pub mod pairing;
mod peers;
pub mod probe;
#[cfg(test)]
mod tests;
mod tls;
mod wake;

use std::error::Error as StdError;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::debug;

pub use ask::{ASK_BYTES_MAX, Answer, AskError, Topic};
pub use beacon::BeaconSpace;
pub use cert::{PeerRefused, certificate, device};
pub use close::{CloseCode, CloseReason, DialError};
pub use ending::NetFailure;
pub use frame::Violation;
pub use interfaces::{InterfaceRules, Loopback, SKIPPED};
pub use link::{ConnId, Link, LinkError, LinkStats, ORDERS_MAX, PushOrder};
pub use mdns::DiscoveryError;
pub use tls::{ALPN, Pins, warm_up};

use crate::crypto::identity::Identity;
use crate::model::{Blame, DeviceId, LogId, Seq, SpaceId};
use connection::{Outcome, Surroundings};
use dial::Report;
use ending::Endings;
use endpoint::{Bound, Door, Entry, Transports};
use mdns::Word;
use peers::Peers;
use tls::{Credentials, Trust, Verdict};

/// How the network is used. The default suits a desk and a laptop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// Where to listen, and from where to dial: one socket does both. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Peers to dial always, as `host:port`.
    pub peers: Vec<String>,
    /// Whether devices are looked for on the local network.
    pub mdns: Mdns,
    /// The port of multicast DNS: 5353 wherever others are to be heard.
    pub mdns_port: u16,
    /// Which interfaces discovery uses.
    pub interfaces: InterfaceRules,
    /// Which congestion controller.
    pub congestion: Congestion,
    /// Greatest UDP payload that path discovery may arrive at, in bytes; 1,200 to 6,500. Within one
    /// machine 6,500 is used unless this is below 1,452.
    pub max_mtu: u16,
    /// Whether the system may cut large sends into packets. Off where a driver gets it wrong.
    pub segmentation_offload: bool,
    /// How long an incoming handshake may take, and then a peer to its first control frame.
    pub handshake_timeout: Duration,
    /// Bytes one stream may have in flight towards this device.
    pub stream_window_bytes: u32,
    /// Bytes all streams of a connection may have in flight towards this device.
    pub receive_window_bytes: u32,
    /// Bytes of a connection that may be unacknowledged by the other side.
    pub send_window_bytes: u32,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
            peers: Vec::new(),
            mdns: Mdns::On { loopback: Loopback::Skip },
            mdns_port: mdns::MDNS_PORT,
            interfaces: InterfaceRules::default(),
            congestion: Congestion::default(),
            max_mtu: endpoint::MTU_DEFAULT,
            segmentation_offload: true,
            handshake_timeout: Duration::from_secs(5),
            stream_window_bytes: 8 * 1024 * 1024,
            receive_window_bytes: 12 * 1024 * 1024,
            send_window_bytes: 8 * 1024 * 1024,
        }
    }
}

/// Discovery by multicast DNS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mdns {
    /// Peers are found by configuration and memory alone.
    Off,
    /// Announce and listen, once the node has named its spaces.
    On {
        /// Whether over the loopback interface too.
        loopback: Loopback,
    },
}

/// The congestion controller.
///
/// Measured with `benches/link.rs` on a busy machine: a cold sync of 100,000 ops, 3 ms each way,
/// 200 Mbit/s, thousands of ops a second, Cubic / BBR, middle of four runs: without loss 170 / 190,
/// 0.1 % 257 / 169, 1 % 75 / 252, loopback 243 / 236. One run of 400,000 ops: 0.1 % 172 / 281 with
/// 51 / 79 bytes sent per op, 1 % 57 / 302 with 52 / 94. So Cubic is the default: it is ahead at the loss
/// a local network has, for a backlog of usual length, and never sends much twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Congestion {
    /// RFC 9438: the fair one, slow where packets are lost for other reasons than congestion.
    #[default]
    Cubic,
    /// Keeps its pace where one packet of a hundred is lost, and where much is to be sent over a long
    /// way; may send twice the bytes. Experimental in quinn.
    Bbr,
}

/// The network could not be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetError {
    /// The address to listen at cannot be had.
    #[error("cannot listen at {address}; another node may be running, or choose port 0")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The identity makes no certificate.
    #[error("no certificate can be made of this identity")]
    Certificate(#[source] rcgen::Error),
    /// TLS refuses its configuration.
    #[error("the TLS profile is not available")]
    Tls(#[source] rustls::Error),
    /// A configured peer is not written as `host:port`.
    #[error("the configured peer {found:?} is not of the form host:port")]
    PeerForm {
        /// The text found.
        found: String,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Entropy(#[source] getrandom::Error),
}

impl NetError {
    /// Who is at fault.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Bind { .. } | Self::Entropy(_) => Blame::Environment,
            Self::Certificate(_) | Self::Tls(_) | Self::PeerForm { .. } => Blame::Local,
        }
    }
}

/// Where sealed batches are read from. Called from the network's tasks; must answer quickly.
pub trait BatchSource: Send + Sync + 'static {
    /// The next whole sealed batches of `log` after `after`, concatenated, at most about `bytes_max`
    /// bytes but at least one batch, none past `through`. `None` when nothing is left.
    ///
    /// # Errors
    /// [`SourceError`] where the log cannot be read.
    fn run(
        &self,
        space: &SpaceId,
        log: &LogId,
        after: Seq,
        through: Seq,
        bytes_max: usize,
    ) -> Result<Option<Run>, SourceError>;
}

/// Some batches of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Whole sealed batches, one after the other.
    pub bytes: Bytes,
    /// The last position they hold.
    pub last: Seq,
}

/// A log could not be read.
#[derive(Debug, Error)]
#[error("the log cannot be read")]
pub struct SourceError(#[source] pub Box<dyn StdError + Send + Sync>);

/// A push order was given up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PushError {
    /// The source failed.
    #[error("the batches to push cannot be read")]
    Source(#[source] SourceError),
    /// The source did not move on, or moved past the order's end.
    #[error("the source went from {after} to {last}, outside the order")]
    Astray {
        /// Where it was asked to go on.
        after: Seq,
        /// Where it arrived.
        last: Seq,
    },
}

impl PushError {
    /// Who is at fault.
    pub const fn blame(&self) -> Blame {
        Blame::Local
    }
}

/// Received bytes that count against their connection until this is dropped.
#[derive(Debug)]
pub struct Credit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Credit {
    pub(self) const fn new(permit: OwnedSemaphorePermit) -> Self {
        Self(permit)
    }
}

/// What the node hears from the network.
///
/// Per connection: `Opened`, then `Connected` with the first `Frame`, then anything, then `Closed`
/// exactly once. A connection that is refused goes from `Opened` to `Closed`.
#[derive(Debug)]
#[non_exhaustive]
pub enum NetEvent {
    /// A handshake is done. The node sends its first frame now; the other side may still refuse.
    Opened {
        /// The connection.
        link: Link,
        /// The authenticated device.
        device: DeviceId,
    },
    /// The other side's first frame arrived: each side has accepted the other.
    Connected {
        /// The connection.
        link: Link,
        /// The authenticated device.
        device: DeviceId,
        /// Where it is: worth remembering.
        remote: SocketAddr,
    },
    /// A control frame. Its memory counts against the connection until the last clone is dropped.
    Frame {
        /// The connection.
        conn: ConnId,
        /// The frame without its length.
        frame: Bytes,
    },
    /// Batches, each whole and sealed, in the order of their lane. They share memory: copy what is kept.
    Batches {
        /// The connection.
        conn: ConnId,
        /// The batches.
        batches: Vec<Bytes>,
        /// To be dropped once they are dealt with: 4 MiB may be outstanding per connection.
        credit: Credit,
    },
    /// The other side asks something and waits.
    Asked {
        /// The connection.
        conn: ConnId,
        /// Who asks, as the connection authenticated it.
        device: DeviceId,
        /// What about.
        topic: Topic,
        /// The question, at most [`ASK_BYTES_MAX`].
        question: Bytes,
        /// Where the answer goes.
        answer: Answer,
    },
    /// The last byte of a push order is with the transport, which is not yet with the peer.
    PushDone {
        /// The connection.
        conn: ConnId,
        /// The order's space.
        space: SpaceId,
        /// The order's log.
        log: LogId,
        /// How far it went: short of the order where the source had no more.
        through: Seq,
    },
    /// A push order was given up; the connection goes on.
    PushFailed {
        /// The connection.
        conn: ConnId,
        /// The order's space.
        space: SpaceId,
        /// The order's log.
        log: LogId,
        /// Why.
        error: PushError,
    },
    /// The connection's last event.
    Closed {
        /// The connection.
        conn: ConnId,
        /// Its device.
        device: DeviceId,
        /// Why; it answers `blame()`.
        reason: CloseReason,
    },
    /// A dial brought no connection. It is repeated later where its device is known or configured.
    DialFailed {
        /// What was dialled; empty for a configured peer, which is resolved anew each time.
        addresses: Vec<SocketAddr>,
        /// For whom, where that was known.
        device: Option<DeviceId>,
        /// Why; it answers `blame()`.
        error: DialError,
    },
    /// The machine woke or its addresses changed. The node asks every peer something now, so that
    /// what was lost on the way is noticed at once; connections that stay silent are closed.
    Woke,
    /// Discovery does not work. Told once; everything else goes on.
    DiscoveryDown {
        /// Why; it answers `blame()`.
        error: DiscoveryError,
    },
}

/// The running network. Dropping it stops everything without waiting; [`Net::stop`] waits.
#[derive(Debug)]
pub struct Net {
    shared: Arc<Shared>,
    _cancel_on_drop: DropGuard,
}

impl Net {
    /// Binds the socket and starts listening, dialling and discovery.
    ///
    /// `events` wants a receiver that is always served: while it is full, connections wait.
    ///
    /// # Errors
    /// Every variant of [`NetError`].
    pub async fn start(
        identity: Arc<Identity>,
        config: NetConfig,
        pins: Pins,
        source: Arc<dyn BatchSource>,
        events: mpsc::Sender<NetEvent>,
    ) -> Result<Self, NetError> {
        if let Some(peer) = config.peers.iter().find(|peer| !is_host_port(peer)) {
            return Err(NetError::PeerForm { found: peer.clone() });
        }
        let credentials = Credentials::new(&identity).map_err(NetError::Certificate)?;
        let transports = Transports::new(&config);
        let drivers = TaskTracker::new();
        let Bound { endpoint, loopback } =
            endpoint::bind(&identity, &credentials, pins.clone(), &config, &transports, drivers.clone())?;
        let local =
            endpoint.local_addr().map_err(|source| NetError::Bind { address: config.listen, source })?;
        let (reports, report_reader) = mpsc::channel(REPORTS_MAX);
        let (words, word_reader) = mpsc::channel(WORDS_MAX);
        let cancel = CancellationToken::new();
        let around =
            Surroundings { source, events, cancel: cancel.clone(), first_frame: config.handshake_timeout };
        let shared = Arc::new(Shared {
            credentials,
            config,
            pins,
            endpoint,
            local,
            transports,
            loopback,
            peers: Peers::default(),
            around,
            reports,
            words,
            wakes: watch::Sender::new(0),
            endings: Endings::new(cancel.clone()),
            tasks: TaskTracker::new(),
            drivers,
            cancel: cancel.clone(),
            conn_next: AtomicU64::new(1),
        });
        shared.keep(ending::ENDPOINT, accept(Arc::clone(&shared)));
        shared.keep("dialling", dial::run(Arc::clone(&shared), report_reader));
        if shared.config.mdns != Mdns::Off {
            shared.keep("discovery", mdns::run(Arc::clone(&shared), word_reader));
        }
        shared.keep("watch", wake::run(Arc::clone(&shared)));
        Ok(Self { shared, _cancel_on_drop: cancel.drop_guard() })
    }

    /// Where this node listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local
    }

    /// Tells why the network has ended by itself, once it has. It is to be stopped then, and may be
    /// started anew.
    pub fn failure(&self) -> watch::Receiver<Option<NetFailure>> {
        self.shared.endings.told()
    }

    /// Dials: all addresses in a staggered race, the first finished handshake wins.
    ///
    /// With a device to expect, the addresses are kept and retried while it is pinned and not
    /// connected, and nobody else is accepted there. Without one they are tried once.
    pub fn dial(&self, addresses: Vec<SocketAddr>, expect: Option<DeviceId>) {
        // Where the queue is full, hundreds of dials are under way; discovery will come again.
        let _ = self.shared.reports.try_send(Report::Dial { addresses, expect });
    }

    /// Dials this `host:port` whenever it is not connected, from now on.
    ///
    /// # Errors
    /// [`NetError::PeerForm`].
    pub fn add_peer(&self, peer: String) -> Result<(), NetError> {
        if !is_host_port(&peer) {
            return Err(NetError::PeerForm { found: peer });
        }
        // As for `dial`: a full queue is full of dials.
        let _ = self.shared.reports.try_send(Report::Name { peer });
        Ok(())
    }

    /// Dials this `host:port` no longer. A connection to whoever answers there stays.
    pub fn remove_peer(&self, peer: String) {
        let _ = self.shared.reports.try_send(Report::Unname { peer });
    }

    /// Tells that the machine woke or its addresses changed, for callers that know it before this
    /// does: every known peer is dialled at once, and connections that are silent are given up.
    pub fn wake(&self) {
        self.shared.wakes.send_modify(|count| *count += 1);
    }

    /// Dials every peer that is not connected at once: who may connect has changed.
    pub fn redial(&self) {
        // A full queue is one with a reason to dial already.
        let _ = self.shared.reports.try_send(Report::Wake);
    }

    /// What to announce and whom to recognise from now on. Without a space nothing is announced.
    ///
    /// At most 22 spaces are announced, the first ones.
    pub fn beacons(&self, spaces: Vec<BeaconSpace>) {
        // The queue is only full while discovery says goodbye; the caller repeats this every rotation.
        if self.shared.words.try_send(Word::Spaces(spaces)).is_err() {
            debug!("discovery is off or busy, beacons not taken");
        }
    }

    /// Closes the connections of devices that are no longer pinned.
    pub fn drop_unpinned(&self) {
        self.shared.peers.drop_unpinned(&self.shared.pins);
    }

    /// Closes every connection with [`CloseCode::Goodbye`] and ends every task, within two seconds.
    /// How many tasks had not ended by then: they are told to, and end with their next step. Connections
    /// that drain are none of them: they send nothing, and keep the port until they have ended.
    ///
    /// The port is free afterwards, provided that no [`Link`] is left.
    pub async fn stop(self) -> usize {
        for link in self.shared.peers.links() {
            link.close(CloseCode::Goodbye, "");
        }
        self.shared.cancel.cancel();
        self.shared.endpoint.close(CloseCode::Goodbye.into(), b"");
        let (tasks, drivers) = (self.shared.tasks.clone(), self.shared.drivers.clone());
        tasks.close();
        drivers.close();
        let stopped = async {
            self.shared.tasks.wait().await;
            self.shared.endpoint.wait_idle().await;
            // The endpoint's own task ends with the last handle to it, and the socket with that task.
            drop(self);
            drivers.wait().await;
        };
        if tokio::time::timeout(STOP_TIMEOUT, stopped).await.is_ok() {
            return 0;
        }
        // A connection that was young when it was closed may drain for longer; it says nothing any more.
        debug!(tasks = tasks.len(), draining = drivers.len(), "not everything ended with the network");
        tasks.len()
    }

    /// Ends the endpoint as the system does when it takes the socket away.
    #[cfg(test)]
    pub(crate) fn lose_socket(&self) {
        self.shared.endpoint.close(CloseCode::Goodbye.into(), b"");
    }
}

/// What all tasks of one [`Net`] share.
#[derive(Debug)]
struct Shared {
    credentials: Credentials,
    config: NetConfig,
    pins: Pins,
    endpoint: quinn::Endpoint,
    local: SocketAddr,
    transports: Transports,
    loopback: Arc<quinn::ServerConfig>,
    peers: Peers,
    around: Surroundings,
    reports: mpsc::Sender<Report>,
    words: mpsc::Sender<Word>,
    /// Counts how often the machine woke.
    wakes: watch::Sender<u64>,
    endings: Endings,
    tasks: TaskTracker,
    drivers: TaskTracker,
    cancel: CancellationToken,
    conn_next: AtomicU64,
}

impl Shared {
    /// Runs a task that lives as long as the network: where it ends before, so has the network.
    fn keep(&self, part: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.endings.watch(part, task));
    }

    /// Runs a connection from its handshake to its end.
    async fn enter(&self, connection: quinn::Connection, device: DeviceId) -> Outcome {
        let conn = ConnId::new(self.conn_next.fetch_add(1, Ordering::Relaxed));
        let (link, outgoing) = Link::new(conn, device, connection);
        debug!(%conn, peer = ?device, remote = %link.remote(), "handshake done");
        self.peers.enter(self.credentials.device, &link);
        // Asked again now that `drop_unpinned` can find it: the roster may have changed since the
        // verifier looked.
        if !self.pins.contains(&device) {
            link.close(CloseCode::Unpinned, "no longer in the roster");
        }
        if self.cancel.is_cancelled() {
            link.close(CloseCode::Goodbye, "");
        }
        let remote = link.remote();
        let since = std::sync::OnceLock::new();
        let connected = async {
            let _ = since.set(Instant::now());
            self.report(Report::Up { device, remote }).await;
        };
        let outcome = connection::run(link, outgoing, self.around.clone(), connected).await;
        self.peers.leave(conn);
        if let Outcome::Served(reason) = &outcome {
            let lasted = since.get().map_or(Duration::ZERO, Instant::elapsed);
            self.report(Report::Down { device, lasted, reason: reason.clone() }).await;
        }
        outcome
    }

    fn client_config(&self, address: SocketAddr, expect: Option<DeviceId>) -> (quinn::ClientConfig, Verdict) {
        let (crypto, verdict) = tls::client(&self.credentials, Trust::Pinned(self.pins.clone()), expect)
            .expect("the listening side was made of the same parts");
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(self.transports.to(address));
        config.token_store(Arc::new(quinn::NoneTokenStore));
        (config, verdict)
    }

    async fn report(&self, report: Report) {
        tokio::select! {
            // Losing the race loses a report that nobody reads any more.
            _ = self.reports.send(report) => {}
            () = self.cancel.cancelled() => {}
        }
    }

    /// Lets discovery doubt what it heard of a device.
    fn doubt(&self, device: Option<DeviceId>) {
        if let Some(device) = device {
            let _ = self.words.try_send(Word::Unreachable(device));
        }
    }
}

/// Takes in what arrives.
async fn accept(shared: Arc<Shared>) {
    let door = Door::default();
    loop {
        let incoming = tokio::select! {
            // Losing the race loses nothing: the endpoint keeps what arrived, or is closed.
            incoming = shared.endpoint.accept() => incoming,
            () = shared.cancel.cancelled() => None,
        };
        let Some(incoming) = incoming else { return };
        let address = link::canonical(incoming.remote_address()).ip();
        match door.knock(address, incoming.remote_address_validated()) {
            Entry::Admit(pass) => {
                shared.tasks.spawn(receive(Arc::clone(&shared), incoming, pass));
            }
            Entry::Prove => {
                // It has just shown no proof, so it may be asked for one.
                let _ = incoming.retry();
            }
            Entry::Refuse => incoming.refuse(),
        }
    }
}

async fn receive(shared: Arc<Shared>, incoming: quinn::Incoming, pass: endpoint::Pass) {
    let remote = incoming.remote_address();
    let accepted = if remote.ip().to_canonical().is_loopback() {
        incoming.accept_with(Arc::clone(&shared.loopback))
    } else {
        incoming.accept()
    };
    let connecting = match accepted {
        Ok(connecting) => connecting,
        Err(error) => return debug!(%remote, %error, "handshake refused"),
    };
    let handshake = tokio::time::timeout(shared.config.handshake_timeout, connecting);
    let connection = tokio::select! {
        // Losing the race drops a half-made connection of a node that stops.
        connection = handshake => match connection {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return debug!(%remote, %error, "handshake refused"),
            Err(_) => return debug!(%remote, "handshake timed out"),
        },
        () = shared.cancel.cancelled() => return,
    };
    drop(pass);
    let Some(device) = tls::authenticated(&connection, ALPN) else {
        return connection.close(CloseCode::Violation.into(), b"no protocol agreed");
    };
    shared.enter(connection, device).await;
}

/// Whether `text` has a host and a port; whether the host exists is asked at each dial.
fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .map_or(!host.contains(':') && !host.is_empty(), |literal| literal.parse::<Ipv6Addr>().is_ok());
        host && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// Reports of dials and connections on their way to the dialling task.
const REPORTS_MAX: usize = 1024;

/// Words to the discovery task on their way.
const WORDS_MAX: usize = 64;

/// How long [`Net::stop`] waits.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
