//! Who is dialled, when, and when again.
//!
//! One task owns the table of targets. It never waits for a peer or for the node: dials and
//! connections run in their own tasks and report here. Static peers, addresses the node remembers
//! and addresses heard by discovery are all retried until the device is connected or unpinned.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Shared;
use super::close::{CloseCode, CloseReason, DialError};
use super::connection::Outcome;
use super::{NetEvent, tls};
use crate::model::limits::PEERS_MAX;
use crate::model::{Blame, DeviceId};

/// What the dialling task is told.
#[derive(Debug)]
pub(super) enum Report {
    /// Addresses to try: for a device, kept and retried; for nobody in particular, tried once.
    Dial { addresses: Vec<SocketAddr>, expect: Option<DeviceId> },
    /// A peer, as `host:port`, to be dialled whenever it is not connected.
    Name { peer: String },
    /// A peer that is not to be dialled by that name any more.
    Unname { peer: String },
    /// Who answers at a configured peer's address.
    Known { origin: TargetId, device: DeviceId },
    /// A device's first frame arrived.
    Up { device: DeviceId, remote: SocketAddr },
    /// A connection to the device, of this age since its first frame, ended.
    Down { device: DeviceId, lasted: Duration, reason: CloseReason },
    /// A dial brought nothing.
    Failed { origin: TargetId, blame: Blame },
    /// The machine woke or its addresses changed: everything is tried at once.
    Wake,
}

/// Whom a dial is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum TargetId {
    /// A configured peer.
    Static(u64),
    /// A device.
    Device(DeviceId),
    /// Addresses without a name, tried once.
    Once(u64),
}

/// Runs until cancelled.
pub(super) async fn run(shared: Arc<Shared>, mut reports: mpsc::Receiver<Report>) {
    let mut table = Table::new(&shared.config.peers, Instant::now());
    loop {
        for start in table.due(Instant::now()) {
            let shared = Arc::clone(&shared);
            shared.clone().tasks.spawn(dial(shared, start));
        }
        let wait = table.next_due();
        tokio::select! {
            // Losing the race loses nothing: a report stays in the channel, time does not go back.
            report = reports.recv() => match report {
                Some(report) => table.take(report, Instant::now(), jitter()),
                None => return,
            },
            () = tokio::time::sleep_until(wait.unwrap_or_else(far)), if wait.is_some() => {}
            () = shared.cancel.cancelled() => return,
        }
    }
}

/// One dial to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Start {
    target: TargetId,
    /// What a configured peer is called; it is resolved anew each time.
    peer: Option<String>,
    addresses: Vec<SocketAddr>,
    /// Whether a configured peer is dialled for the first time, or since it was connected.
    is_first: bool,
}

/// Targets, what is known of them, and when each is due. Pure: time and chance are passed in.
#[derive(Debug, Default)]
struct Table {
    targets: BTreeMap<TargetId, Target>,
    live: BTreeMap<DeviceId, usize>,
    /// Numbers given to targets without a device.
    count: u64,
}

#[derive(Debug)]
struct Target {
    peer: Option<String>,
    device: Option<DeviceId>,
    addresses: VecDeque<SocketAddr>,
    state: State,
    failures: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Waiting(Instant),
    Dialling,
    Resting,
}

impl Table {
    fn new(peers: &[String], now: Instant) -> Self {
        let mut table = Self::default();
        peers.iter().for_each(|peer| table.name(peer.clone(), now));
        table
    }

    fn take(&mut self, report: Report, now: Instant, jitter: Jitter) {
        match report {
            Report::Dial { addresses, expect: Some(device) } => self.learn(device, &addresses, now),
            Report::Dial { addresses, expect: None } => self.once(addresses, now),
            Report::Name { peer } => self.name(peer, now),
            Report::Unname { peer } => {
                self.targets.retain(|_, target| target.peer.as_ref() != Some(&peer));
            }
            Report::Known { origin, device } => self.known(origin, device),
            Report::Up { device, remote } => self.up(device, remote, now),
            Report::Down { device, lasted, reason } => self.down(device, lasted, &reason, now, jitter),
            Report::Failed { origin, blame } => self.failed(origin, blame, now, jitter),
            Report::Wake => self.wake(now),
        }
    }

    /// The dials to begin now; they count as begun.
    fn due(&mut self, now: Instant) -> Vec<Start> {
        let mut starts = Vec::new();
        for (id, target) in &mut self.targets {
            let State::Waiting(at) = target.state else { continue };
            if now < at {
                continue;
            }
            if target.device.is_some_and(|device| self.live.contains_key(&device)) {
                target.state = State::Resting;
                continue;
            }
            target.state = State::Dialling;
            let addresses = target.addresses.iter().copied().collect();
            let is_first = target.peer.is_some() && target.failures == 0;
            starts.push(Start { target: *id, peer: target.peer.clone(), addresses, is_first });
        }
        starts
    }

    fn next_due(&self) -> Option<Instant> {
        let due = |target: &Target| match target.state {
            State::Waiting(at) => Some(at),
            State::Dialling | State::Resting => None,
        };
        self.targets.values().filter_map(due).min()
    }

    /// Keeps addresses of a device, the newest in front, and dials unless that is under way.
    fn learn(&mut self, device: DeviceId, addresses: &[SocketAddr], now: Instant) {
        let id = TargetId::Device(device);
        if !self.targets.contains_key(&id) && self.targets.len() >= TARGETS_MAX {
            return;
        }
        let is_live = self.live.contains_key(&device);
        let target =
            self.targets.entry(id).or_insert_with(|| Target { device: Some(device), ..Target::new(now) });
        let is_news = addresses.iter().any(|address| !target.addresses.contains(address));
        for address in addresses.iter().rev() {
            target.remember(*address);
        }
        if is_live {
            return;
        }
        match target.state {
            // What was known has failed; what is new has not.
            State::Waiting(_) if is_news => target.state = State::Waiting(now),
            State::Resting => target.state = State::Waiting(now),
            State::Waiting(_) | State::Dialling => {}
        }
    }

    fn once(&mut self, addresses: Vec<SocketAddr>, now: Instant) {
        if self.targets.len() >= TARGETS_MAX {
            return;
        }
        self.count += 1;
        let target = Target { addresses: addresses.into(), ..Target::new(now) };
        self.targets.insert(TargetId::Once(self.count), target);
    }

    fn name(&mut self, peer: String, now: Instant) {
        let is_known = self.targets.values().any(|target| target.peer.as_ref() == Some(&peer));
        if is_known || self.targets.len() >= TARGETS_MAX {
            return;
        }
        self.count += 1;
        let target = Target { peer: Some(peer), ..Target::new(now) };
        self.targets.insert(TargetId::Static(self.count), target);
    }

    fn known(&mut self, origin: TargetId, device: DeviceId) {
        match origin {
            TargetId::Once(_) => {
                self.targets.remove(&origin);
            }
            TargetId::Static(_) => {
                if let Some(target) = self.targets.get_mut(&origin) {
                    target.device = Some(device);
                }
            }
            TargetId::Device(_) => {}
        }
    }

    fn up(&mut self, device: DeviceId, remote: SocketAddr, now: Instant) {
        *self.live.entry(device).or_default() += 1;
        self.learn(device, &[remote], now);
        for target in self.targets.values_mut().filter(|target| target.device == Some(device)) {
            target.state = State::Resting;
        }
    }

    fn down(
        &mut self,
        device: DeviceId,
        lasted: Duration,
        reason: &CloseReason,
        now: Instant,
        jitter: Jitter,
    ) {
        let left = self.live.get(&device).map_or(0, |count| count.saturating_sub(1));
        if left > 0 {
            self.live.insert(device, left);
            return;
        }
        self.live.remove(&device);
        for target in self.targets.values_mut().filter(|target| target.device == Some(device)) {
            if lasted >= LASTING {
                target.failures = 0;
            }
            target.retry(reason.blame(), now, jitter);
        }
    }

    fn failed(&mut self, origin: TargetId, blame: Blame, now: Instant, jitter: Jitter) {
        if let TargetId::Once(_) = origin {
            self.targets.remove(&origin);
        } else if let Some(target) = self.targets.get_mut(&origin)
            && target.state == State::Dialling
        {
            target.retry(blame, now, jitter);
        }
    }

    fn wake(&mut self, now: Instant) {
        for target in self.targets.values_mut() {
            target.failures = 0;
            if let State::Waiting(_) = target.state {
                target.state = State::Waiting(now);
            }
        }
    }
}

impl Target {
    fn new(now: Instant) -> Self {
        Self { peer: None, device: None, addresses: VecDeque::new(), state: State::Waiting(now), failures: 0 }
    }

    fn remember(&mut self, address: SocketAddr) {
        self.addresses.retain(|known| *known != address);
        self.addresses.push_front(address);
        self.addresses.truncate(ADDRESSES_MAX);
    }

    fn retry(&mut self, blame: Blame, now: Instant, jitter: Jitter) {
        // Who breaks rules now will break them in a quarter second too.
        let delay = match blame {
            Blame::Peer => BACKOFF_MAX,
            Blame::Local | Blame::Environment => backoff(self.failures),
        };
        self.failures = self.failures.saturating_add(1);
        self.state = State::Waiting(now + jitter.apply(delay));
    }
}

/// A quarter second, doubling to half a minute.
fn backoff(failures: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX)).min(BACKOFF_MAX)
}

/// A factor between 3/4 and 5/4, so that devices that lost each other together do not return together.
#[derive(Clone, Copy, Debug)]
struct Jitter(u8);

impl Jitter {
    fn apply(self, delay: Duration) -> Duration {
        delay.saturating_mul(384 + u32::from(self.0)) / 512
    }
}

fn jitter() -> Jitter {
    let mut byte = [128];
    // Without entropy the delay is merely regular.
    let _ = getrandom::fill(&mut byte);
    Jitter(byte[0])
}

fn far() -> Instant {
    Instant::now() + BACKOFF_MAX
}

/// Dials one target once and, when that brings a connection, runs it to its end.
async fn dial(shared: Arc<Shared>, start: Start) {
    let expect = match start.target {
        TargetId::Device(device) => Some(device),
        TargetId::Static(_) | TargetId::Once(_) => None,
    };
    let mut wakes = shared.wakes.subscribe();
    let dialled = loop {
        tokio::select! {
            // Losing the race drops half-made connections: of a node that stops, or of a network that
            // is no longer there.
            dialled = connect(&shared, &start, expect) => break dialled,
            Ok(()) = wakes.changed() => {}
            () = shared.cancel.cancelled() => return,
        }
    };
    let error = match dialled {
        Ok((connection, device)) => match serve(&shared, start.target, connection, device).await {
            // Another connection serves the pair, or this side ended it and knows.
            Outcome::Served(_) => return,
            Outcome::NeverConnected(CloseReason::ByUs(_) | CloseReason::ByPeer(CloseCode::Duplicate)) => {
                shared.report(Report::Failed { origin: start.target, blame: Blame::Environment }).await;
                return;
            }
            Outcome::NeverConnected(reason) => DialError::RefusedByPeer(reason),
        },
        Err(error) => error,
    };
    debug!(target = ?start.target, %error, "dial failed");
    if let (Some(peer), true, DialError::Unresolvable(why)) = (&start.peer, start.is_first, &error) {
        warn!(%peer, %why, "the name of a peer leads nowhere; it is tried again");
    }
    shared.report(Report::Failed { origin: start.target, blame: retry_blame(&error) }).await;
    shared.doubt(expect);
    shared.around.emit(NetEvent::DialFailed { addresses: start.addresses, device: expect, error }).await;
}

async fn serve(
    shared: &Shared,
    origin: TargetId,
    connection: quinn::Connection,
    device: DeviceId,
) -> Outcome {
    shared.report(Report::Known { origin, device }).await;
    shared.enter(connection, device).await
}

/// A refusal today is an invitation tomorrow, and nobody answers for what listens at an address: only
/// addresses that lead back here are not worth hurrying for.
fn retry_blame(error: &DialError) -> Blame {
    match error {
        DialError::PeerRefused(refused) => refused.blame(),
        DialError::RefusedByPeer(reason) => match reason.blame() {
            Blame::Peer => Blame::Peer,
            Blame::Local | Blame::Environment => Blame::Environment,
        },
        _ => Blame::Environment,
    }
}

async fn connect(
    shared: &Arc<Shared>,
    start: &Start,
    expect: Option<DeviceId>,
) -> Result<(quinn::Connection, DeviceId), DialError> {
    let addresses = match &start.peer {
        Some(peer) => resolve(peer).await?,
        None => start.addresses.clone(),
    };
    if expect.is_some_and(|device| !shared.pins.contains(&device)) {
        return Err(DialError::NotPinned);
    }
    race(shared, addresses, expect).await
}

async fn resolve(peer: &str) -> Result<Vec<SocketAddr>, DialError> {
    let found = tokio::net::lookup_host(peer).await.map_err(DialError::Unresolvable)?;
    Ok(found.take(ADDRESSES_MAX).collect())
}

/// All addresses, each a moment after the one before; the first to finish its handshake wins.
async fn race(
    shared: &Arc<Shared>,
    addresses: Vec<SocketAddr>,
    expect: Option<DeviceId>,
) -> Result<(quinn::Connection, DeviceId), DialError> {
    let mut attempts = JoinSet::new();
    let mut addresses = addresses.into_iter();
    let mut worst = DialError::NoAddress;
    loop {
        if let Some(address) = addresses.next() {
            attempts.spawn(attempt(Arc::clone(shared), address, expect));
        }
        let is_more = addresses.len() > 0;
        tokio::select! {
            // Losing the race loses nothing: a finished attempt stays in the set.
            finished = attempts.join_next() => match finished {
                None => return Err(worst),
                Some(Ok(Ok(won))) => return Ok(won),
                Some(Ok(Err(error))) if error.weight() > worst.weight() => worst = error,
                Some(Ok(Err(_)) | Err(_)) => {}
            },
            () = tokio::time::sleep(STAGGER), if is_more => {}
        }
    }
}

async fn attempt(
    shared: Arc<Shared>,
    address: SocketAddr,
    expect: Option<DeviceId>,
) -> Result<(quinn::Connection, DeviceId), DialError> {
    let (config, verdict) = shared.client_config(address, expect);
    let connecting =
        shared.endpoint.connect_with(config, address, SERVER_NAME).map_err(DialError::Undialable)?;
    match tokio::time::timeout(ATTEMPT_TIMEOUT, connecting).await {
        Err(_) => Err(DialError::TimedOut),
        Ok(Err(error)) => Err(DialError::of(error, verdict.get())),
        Ok(Ok(connection)) => match tls::authenticated(&connection, tls::ALPN) {
            Some(device) => Ok((connection, device)),
            None => Err(DialError::Handshake(quinn::ConnectionError::LocallyClosed)),
        },
    }
}

/// Required by the interface of TLS, never sent and never compared.
const SERVER_NAME: &str = "kinfold.invalid";

/// The next address starts this long after the one before (RFC 8305 section 8).
const STAGGER: Duration = Duration::from_millis(250);

/// How long one address may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A connection that lasted this long was a success; one that ends at once does not reset the backoff.
const LASTING: Duration = Duration::from_secs(2);

/// Addresses kept per device: two families on a few networks.
const ADDRESSES_MAX: usize = 16;

/// Devices and configured peers together.
const TARGETS_MAX: usize = 2 * PEERS_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_device_is_dialled_once_at_a_time_and_rests_while_connected() {
        let (mut table, now) = (Table::default(), Instant::now());

        table.learn(DEVICE, &[address(1)], now);
        assert_eq!(table.due(now), [start(&[1])]);
        table.learn(DEVICE, &[address(2)], now);
        assert_eq!(table.due(now), [], "under way");
        table.take(up(1), now, EVEN);
        table.learn(DEVICE, &[address(3)], now);
        assert_eq!(table.due(now), [], "connected");
        assert_eq!(table.next_due(), None);

        table.take(down(LASTING), now, EVEN);
        let soon = now + BACKOFF_MIN;
        assert_eq!(table.next_due(), Some(soon));
        assert_eq!(table.due(soon), [start(&[3, 1, 2])]);
    }

    #[tokio::test]
    async fn failures_double_the_delay_and_a_lasting_connection_resets_it() {
        let (mut table, mut now) = (Table::default(), Instant::now());
        table.learn(DEVICE, &[address(1)], now);
        let mut delays = Vec::new();

        for _ in 0..10 {
            assert_eq!(table.due(now).len(), 1);
            table.take(failed(Blame::Environment), now, EVEN);
            let next = table.next_due().expect("waiting");
            delays.push((next - now).as_millis());
            now = next;
        }

        assert_eq!(delays, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        table.take(up(1), now, EVEN);
        table.take(down(Duration::ZERO), now, EVEN);
        assert_eq!(table.next_due(), Some(now + BACKOFF_MAX), "it ended at once");
        table.take(up(1), now, EVEN);
        table.take(down(LASTING), now, EVEN);
        assert_eq!(table.next_due(), Some(now + BACKOFF_MIN));
    }

    #[tokio::test]
    async fn new_addresses_and_waking_cut_the_wait_short() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.learn(DEVICE, &[address(1)], now);
        table.due(now);
        table.take(failed(Blame::Peer), now, EVEN);
        assert_eq!(table.next_due(), Some(now + BACKOFF_MAX));

        table.learn(DEVICE, &[address(1)], now);
        assert_eq!(table.next_due(), Some(now + BACKOFF_MAX), "nothing new");
        table.learn(DEVICE, &[address(2)], now);
        assert_eq!(table.due(now), [start(&[2, 1])]);

        table.take(failed(Blame::Environment), now, EVEN);
        table.take(Report::Wake, now, EVEN);
        assert_eq!(table.next_due(), Some(now));
    }

    #[tokio::test]
    async fn a_static_peer_rests_once_its_device_is_known_and_connected() {
        let now = Instant::now();
        let mut table = Table::new(&["nas:1".to_owned()], now);
        let origin = TargetId::Static(1);
        let peer = Some("nas:1".to_owned());
        assert_eq!(table.due(now), [Start { target: origin, peer, addresses: Vec::new(), is_first: true }]);

        table.take(Report::Known { origin, device: DEVICE }, now, EVEN);
        table.take(up(1), now, EVEN);
        assert_eq!(table.next_due(), None);

        table.take(down(LASTING), now, EVEN);
        assert_eq!(table.due(now + BACKOFF_MIN).len(), 2, "by its name and by its last address");
    }

    #[tokio::test]
    async fn a_peer_is_named_once_and_no_longer_dialled_when_it_is_unnamed() {
        let (mut table, now) = (Table::default(), Instant::now());
        let name = || Report::Name { peer: "nas:1".to_owned() };
        table.take(name(), now, EVEN);
        table.take(name(), now, EVEN);
        let due = table.due(now);
        assert_eq!(due.len(), 1);
        let origin = due[0].target;

        table.take(Report::Unname { peer: "other:1".to_owned() }, now, EVEN);
        table.take(Report::Unname { peer: "nas:1".to_owned() }, now, EVEN);
        // The dial that was under way ends after that.
        table.take(Report::Known { origin, device: DEVICE }, now, EVEN);
        table.take(Report::Failed { origin, blame: Blame::Environment }, now, EVEN);

        assert!(table.targets.is_empty());
    }

    #[tokio::test]
    async fn nameless_addresses_are_tried_once() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.take(Report::Dial { addresses: vec![address(1)], expect: None }, now, EVEN);
        let origin = table.due(now)[0].target;

        table.take(Report::Failed { origin, blame: Blame::Environment }, now, EVEN);

        assert!(table.targets.is_empty());
    }

    #[tokio::test]
    async fn addresses_and_targets_have_a_limit() {
        let (mut table, now) = (Table::default(), Instant::now());

        for n in 0..200u16 {
            table.learn(DEVICE, &[address(n)], now);
            let mut device = [0; 32];
            device[..2].copy_from_slice(&n.to_be_bytes());
            table.learn(DeviceId::from_bytes(device), &[address(n)], now);
        }
        for n in 0..200 {
            table.once(vec![address(n)], now);
        }

        assert_eq!(table.targets.len(), TARGETS_MAX);
        assert_eq!(table.targets[&TargetId::Device(DEVICE)].addresses.len(), ADDRESSES_MAX);
    }

    #[test]
    fn jitter_stays_within_a_quarter() {
        let delay = Duration::from_secs(4);

        assert_eq!(Jitter(0).apply(delay), Duration::from_secs(3));
        assert_eq!(EVEN.apply(delay), delay);
        assert!(Jitter(255).apply(delay) < Duration::from_secs(5));
    }

    const DEVICE: DeviceId = DeviceId::from_bytes([7; 32]);
    const EVEN: Jitter = Jitter(128);

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn start(ports: &[u16]) -> Start {
        let addresses = ports.iter().map(|port| address(*port)).collect();
        Start { target: TargetId::Device(DEVICE), peer: None, addresses, is_first: false }
    }

    fn up(port: u16) -> Report {
        Report::Up { device: DEVICE, remote: address(port) }
    }

    fn down(lasted: Duration) -> Report {
        Report::Down { device: DEVICE, lasted, reason: CloseReason::TimedOut }
    }

    fn failed(blame: Blame) -> Report {
        Report::Failed { origin: TargetId::Device(DEVICE), blame }
    }
}
