//! Announcing this device on the local network and hearing others.
//!
//! The responder is a thread of `mdns-sd`. It does not come back by itself from an interface that
//! went down and up, and it drops a subscriber that lags; both are answered here by starting over.
//! Nothing heard is believed: recognised announcements become dials, the rest is forgotten.

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mdns_sd::{
    IfKind, IfPredicate, Receiver, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo,
};
use thiserror::Error;
use tokio::sync::mpsc;
use tracing::{debug, info, trace};

use super::beacon::{BeaconSpace, Beacons};
use super::dial::Report;
use super::interfaces::{InterfaceRules, Loopback, is_local};
use super::{Mdns, NetEvent, Shared};
use crate::crypto::beacon::Quarter;
use crate::model::{Blame, DeviceId};

/// Discovery does not work; everything else does.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// The responder could not be started.
    #[error("multicast DNS cannot be used; name the peers in `peers` instead")]
    Responder(#[source] mdns_sd::Error),
    /// No interface is left to speak on.
    #[error("no network interface may be used for discovery; check the allow and deny lists")]
    NoInterface,
}

impl DiscoveryError {
    /// Who is at fault.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Responder(_) => Blame::Environment,
            Self::NoInterface => Blame::Local,
        }
    }
}

/// What the discovery task is told.
#[derive(Debug)]
pub(super) enum Word {
    /// Announce and look for these from now on.
    Spaces(Vec<BeaconSpace>),
    /// A dial of this device failed: what was heard of it may be stale.
    Unreachable(DeviceId),
    /// The machine woke or its interfaces changed.
    StartOver,
}

/// Runs until cancelled.
pub(super) async fn run(shared: Arc<Shared>, mut words: mpsc::Receiver<Word>) {
    let Mdns::On { loopback } = shared.config.mdns else { return };
    let mut discovery = Discovery {
        instance: instance_name(),
        loopback,
        spaces: Vec::new(),
        quarter: now(),
        beacons: Beacons::default(),
        session: None,
        heard: BTreeMap::new(),
        is_down_told: false,
        shared: Arc::clone(&shared),
    };
    loop {
        tokio::select! {
            // Losing the race loses nothing: words and events stay in their channels.
            word = words.recv() => match word {
                Some(word) => discovery.take(word).await,
                None => break,
            },
            event = next_event(discovery.session.as_ref()) => discovery.hear(event).await,
            () = tokio::time::sleep(LOOK_AT_CLOCK) => discovery.tick().await,
            () = shared.cancel.cancelled() => break,
        }
    }
    discovery.close().await;
}

struct Discovery {
    instance: String,
    loopback: Loopback,
    spaces: Vec<BeaconSpace>,
    quarter: Quarter,
    beacons: Beacons,
    session: Option<Session>,
    /// Who was behind which instance, to have stale ones checked. At most [`CANDIDATES_MAX`].
    heard: BTreeMap<String, DeviceId>,
    is_down_told: bool,
    shared: Arc<Shared>,
}

struct Session {
    daemon: ServiceDaemon,
    events: Receiver<ServiceEvent>,
}

impl Discovery {
    async fn take(&mut self, word: Word) {
        match word {
            Word::Spaces(spaces) => {
                self.spaces = spaces;
                self.refresh().await;
            }
            Word::Unreachable(device) => self.check(device),
            Word::StartOver => {
                self.close().await;
                self.refresh().await;
            }
        }
    }

    /// Announces the tags of now and looks at everything heard once more.
    async fn refresh(&mut self) {
        self.quarter = now();
        self.beacons = Beacons::new(&self.spaces, self.shared.credentials.device, self.quarter);
        if self.spaces.is_empty() {
            return self.close().await;
        }
        let opened = match self.session.take() {
            Some(session) => self.browse(session.daemon),
            None => self.open().and_then(|daemon| self.browse(daemon)),
        };
        match opened {
            Ok(session) => self.session = Some(session),
            Err(error) => self.tell_down(error).await,
        }
        if !is_any_usable(&self.shared.config.interfaces, self.loopback) {
            self.tell_down(DiscoveryError::NoInterface).await;
        }
    }

    fn open(&self) -> Result<ServiceDaemon, DiscoveryError> {
        responder(self.shared.config.mdns_port, self.shared.config.interfaces.clone(), self.loopback)
    }

    fn browse(&self, daemon: ServiceDaemon) -> Result<Session, DiscoveryError> {
        announce(&daemon, SERVICE, &self.instance, self.shared.local, &self.beacons.properties())?;
        // Browsing anew repeats what is known, so that new tags meet old announcements.
        let _ = daemon.stop_browse(SERVICE);
        let events = daemon.browse(SERVICE).map_err(DiscoveryError::Responder)?;
        Ok(Session { daemon, events })
    }

    async fn hear(&mut self, event: Option<ServiceEvent>) {
        match event {
            Some(ServiceEvent::ServiceResolved(service)) => self.resolved(&service),
            Some(ServiceEvent::ServiceRemoved(_, instance)) => {
                self.heard.remove(&instance);
            }
            Some(_) => {}
            // The subscription ends when its channel is full, or with the responder's thread.
            None => {
                debug!("the discovery subscription ended, starting over");
                self.close().await;
                self.refresh().await;
            }
        }
    }

    fn resolved(&mut self, service: &ResolvedService) {
        let Some(device) = self.beacons.recognise(|name| service.get_property_val_str(name)) else {
            return trace!("an unknown instance was heard");
        };
        if !self.shared.pins.contains(&device) {
            return;
        }
        let instance = service.get_fullname();
        if self.heard.len() >= CANDIDATES_MAX && !self.heard.contains_key(instance) {
            return debug!(peer = ?device, "too many candidates, announcement ignored");
        }
        self.heard.insert(instance.to_owned(), device);
        let addresses = dialable(service, self.loopback);
        if addresses.is_empty() {
            return;
        }
        debug!(peer = ?device, ?addresses, "heard a member");
        // Where the queue is full, hundreds of dials are under way; announcements come again.
        let _ = self.shared.reports.try_send(Report::Dial { addresses, expect: Some(device) });
    }

    /// Asks whether what was heard of `device` still holds; without this, a peer that lost power is
    /// believed for two minutes.
    fn check(&self, device: DeviceId) {
        let Some(session) = &self.session else { return };
        for (instance, _) in self.heard.iter().filter(|(_, heard)| **heard == device) {
            let _ = session.daemon.verify(instance.clone(), VERIFY_WITHIN);
        }
    }

    async fn tick(&mut self) {
        let is_closed = self.session.is_none() && !self.spaces.is_empty();
        if self.quarter != now() || is_closed {
            self.refresh().await;
        }
    }

    async fn tell_down(&mut self, error: DiscoveryError) {
        if !self.is_down_told {
            self.is_down_told = true;
            info!(%error, "discovery is down");
            self.shared.around.emit(NetEvent::DiscoveryDown { error }).await;
        }
    }

    async fn close(&mut self) {
        self.heard.clear();
        if let Some(session) = self.session.take() {
            goodbye(session.daemon).await;
        }
    }
}

/// Starts a responder on the interfaces that may be used.
pub(super) fn responder(
    port: u16,
    rules: InterfaceRules,
    loopback: Loopback,
) -> Result<ServiceDaemon, DiscoveryError> {
    let daemon = ServiceDaemon::new_with_port(port).map_err(DiscoveryError::Responder)?;
    let is_skipped = IfPredicate::new(move |interface| {
        interface.is_loopback() && loopback == Loopback::Skip || !rules.permit(&interface.name)
    });
    daemon.disable_interface(IfKind::Predicate(is_skipped)).map_err(DiscoveryError::Responder)?;
    Ok(daemon)
}

/// Announces `service` at `local` under a random instance name.
pub(super) fn announce(
    daemon: &ServiceDaemon,
    service: &str,
    instance: &str,
    local: SocketAddr,
    properties: &[(String, String)],
) -> Result<(), DiscoveryError> {
    let host = format!("{instance}.local.");
    let addresses = if local.ip().is_unspecified() { String::new() } else { local.ip().to_string() };
    let info = ServiceInfo::new(service, instance, &host, addresses, local.port(), properties);
    let mut info = info.map_err(DiscoveryError::Responder)?;
    if local.ip().is_unspecified() {
        info = info.enable_addr_auto();
    }
    // The name is random: nobody else has it.
    info.set_requires_probe(false);
    daemon.register(info).map_err(DiscoveryError::Responder)
}

/// Says goodbye to the network; a thread that does not answer is left behind.
pub(super) async fn goodbye(daemon: ServiceDaemon) {
    if let Ok(ended) = daemon.shutdown() {
        let _ = tokio::time::timeout(GOODBYE_WITHIN, ended.recv_async()).await;
    }
}

/// The addresses of an announcement that may be dialled.
pub(super) fn dialable(service: &ResolvedService, loopback: Loopback) -> Vec<SocketAddr> {
    service
        .get_addresses()
        .iter()
        .filter(|ip| is_local(&ip.to_ip_addr(), loopback))
        .filter_map(|ip| socket_address(ip, service.get_port()))
        .take(ADDRESSES_MAX)
        .collect()
}

/// The next event; waits for ever where there is no session.
async fn next_event(session: Option<&Session>) -> Option<ServiceEvent> {
    match session {
        Some(session) => session.events.recv_async().await.ok(),
        None => std::future::pending().await,
    }
}

fn socket_address(ip: &ScopedIp, port: u16) -> Option<SocketAddr> {
    match ip {
        ScopedIp::V4(v4) => Some(SocketAddr::from((*v4.addr(), port))),
        ScopedIp::V6(v6) => {
            let zone = if v6.addr().is_unicast_link_local() { v6.scope_id().index } else { 0 };
            Some(SocketAddrV6::new(*v6.addr(), port, 0, zone).into())
        }
        // Families this version cannot dial.
        _ => None,
    }
}

fn is_any_usable(rules: &InterfaceRules, loopback: Loopback) -> bool {
    let Ok(interfaces) = if_addrs::get_if_addrs() else { return false };
    interfaces.iter().any(|interface| {
        rules.permit(&interface.name) && (!interface.is_loopback() || loopback == Loopback::Use)
    })
}

/// Random per start: a name that stays would let an observer follow the device.
pub(super) fn instance_name() -> String {
    let mut bytes = [0; 8];
    // The endpoint has drawn entropy before; without it the name would merely be shared.
    let _ = getrandom::fill(&mut bytes);
    format!("{:016x}", u64::from_be_bytes(bytes))
}

fn now() -> Quarter {
    Quarter::of_unix_seconds(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

pub(super) const SERVICE: &str = "_kinfold._udp.local.";

/// Members heard at once; a flood of instances that replay a member's tags stops here.
const CANDIDATES_MAX: usize = 128;

/// Addresses taken from one announcement.
const ADDRESSES_MAX: usize = 16;

/// How often the quarter is compared with the clock, which sleep may have moved.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(15);

const VERIFY_WITHIN: Duration = Duration::from_secs(3);

const GOODBYE_WITHIN: Duration = Duration::from_millis(500);

/// Where multicast DNS is spoken (RFC 6762).
pub(super) const MDNS_PORT: u16 = 5353;
