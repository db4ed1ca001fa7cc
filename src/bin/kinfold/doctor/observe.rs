//! Looking: at the home, at the node, at the network.

use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use kinfold::config::{ConfigFile, Settings};
use kinfold::control::forms::{PeerForm, StatusForm};
use kinfold::control::params::ScopeParams;
use kinfold::control::{Client, ControlError, Method, RpcError};
use kinfold::net::InterfaceRules;
use kinfold::net::probe::{self, Answer};
use kinfold::node::{Node, remembered_addresses};
use serde_json::value::to_raw_value;
use tokio::task::JoinSet;

use super::checks::{HomeSeen, InterfaceSeen, MulticastSeen, NodeSeen, Observed, PeerSeen, Tried};
use crate::failure::Failure;
use crate::output::short_device;

/// Looks at everything; takes a few seconds.
pub async fn observe(home: &Path) -> Observed {
    let read = ConfigFile::of(home).read();
    let settings = read.as_ref().cloned().unwrap_or_default();
    let status = status(home).await;
    let rules = InterfaceRules {
        allow: settings.interfaces_allowed().to_vec(),
        deny: settings.interfaces_denied().to_vec(),
    };
    let (multicast, peers, loopback) = tokio::join!(
        multicast(&settings, rules.clone()),
        peers(home, &settings, status.as_ref().ok().and_then(Option::as_ref), &rules),
        loopback(),
    );
    Observed {
        is_mac: cfg!(target_os = "macos"),
        home: home_seen(home),
        settings: read.map(drop).map_err(|error| {
            let error = RpcError::from(ControlError::from(error));
            let why = std::iter::once(error.message).chain(error.data.causes);
            (why.collect::<Vec<_>>().join(": "), error.data.hint)
        }),
        port: matches!(status, Ok(None)).then(|| port(&settings)).flatten(),
        node: node_seen(status),
        interfaces: interfaces(&rules),
        loopback,
        multicast,
        peers,
        wall_ms: kinfold::clock::wall().as_millis(),
    }
}

fn home_seen(home: &Path) -> HomeSeen {
    let missing = Node::device_in(home).err().map(|error| Failure::from(error).one_line());
    HomeSeen {
        missing,
        is_open: is_open(&home.join("identity.key")),
        writable: write_something(home).map_err(|error| error.kind()),
        free_bytes: free_bytes(home),
        network_kind: kinfold::store::network_file_system(home).unwrap_or_default(),
    }
}

#[cfg(unix)]
fn is_open(key: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(key).is_ok_and(|found| found.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_open(_key: &Path) -> bool {
    false
}

/// Writes as much as a batch has, durably, and takes it away.
fn write_something(home: &Path) -> io::Result<()> {
    let path = home.join(format!("doctor-{}.tmp", std::process::id()));
    let write = || {
        let mut file = std::fs::File::create(&path)?;
        file.write_all(&[0; 64 * 1024])?;
        file.sync_all()
    };
    let written = write();
    // One that could not be made cannot be removed.
    let _ = std::fs::remove_file(&path);
    written
}

// The width of these numbers differs by platform.
#[cfg(unix)]
#[allow(clippy::useless_conversion)]
fn free_bytes(home: &Path) -> Option<u64> {
    let found = nix::sys::statvfs::statvfs(home).ok()?;
    Some(u64::from(found.blocks_available()).saturating_mul(u64::from(found.fragment_size())))
}

#[cfg(not(unix))]
fn free_bytes(_home: &Path) -> Option<u64> {
    None
}

/// What the running node says; `None` where none runs.
async fn status(home: &Path) -> Result<Option<StatusForm>, Failure> {
    let Some((client, _notices)) = Client::connect(home).await? else { return Ok(None) };
    let params = to_raw_value(&ScopeParams::default()).map_err(Failure::Answer)?;
    let asked = tokio::time::timeout(ANSWER_WITHIN, client.call(Method::Status.name(), &params)).await;
    let answer = asked.map_err(|_| Failure::NobodyReached { seconds: ANSWER_WITHIN.as_secs() })??;
    serde_json::from_str(answer.get()).map(Some).map_err(Failure::Answer)
}

fn node_seen(status: Result<Option<StatusForm>, Failure>) -> NodeSeen {
    match status {
        Err(failure) => NodeSeen::NotAnswering(failure.one_line()),
        Ok(None) => NodeSeen::NotRunning,
        Ok(Some(status)) => NodeSeen::Running {
            pid: status.pid,
            is_unhealthy: status.health.state == "unhealthy",
            health: status
                .health
                .reasons
                .into_iter()
                .map(|reason| (reason.kind, reason.message, reason.hint))
                .collect(),
        },
    }
}

/// Whether the port of the settings can be had; `None` for any port.
fn port(settings: &Settings) -> Option<(SocketAddr, Result<(), io::ErrorKind>)> {
    let address = settings.listen();
    (address.port() != 0).then(|| (address, UdpSocket::bind(address).map(drop).map_err(|error| error.kind())))
}

fn interfaces(rules: &InterfaceRules) -> Vec<InterfaceSeen> {
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    let up = all.into_iter().filter(|interface| interface.is_oper_up() && !interface.is_loopback());
    up.map(|interface| InterfaceSeen {
        is_used: rules.permit(&interface.name),
        address: interface.ip(),
        mtu: mtu(&interface.name),
        name: interface.name,
    })
    .collect()
}

/// Where the system tells it as a file; elsewhere a packet that is too long is told when it is sent.
fn mtu(interface: &str) -> Option<u32> {
    std::fs::read_to_string(format!("/sys/class/net/{interface}/mtu")).ok()?.trim().parse().ok()
}

/// Whether this machine reaches itself: at a port that was free a moment ago.
async fn loopback() -> Answer {
    let free = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    match free {
        Ok(address) => probe::probe(address).await,
        Err(error) => probe::answer_of(&error),
    }
}

async fn multicast(settings: &Settings, rules: InterfaceRules) -> MulticastSeen {
    if !settings.has_mdns() {
        return MulticastSeen::Off;
    }
    if let Err(kind) = probe::may_multicast(&rules) {
        return MulticastSeen::CannotSend(kind);
    }
    match probe::announced(rules, LISTEN_FOR).await {
        Err(error) => MulticastSeen::CannotListen(error.to_string()),
        Ok(addresses) => {
            let mut calls = JoinSet::new();
            for address in addresses {
                calls.spawn(async move { (address, probe::probe(address).await) });
            }
            let mut heard = calls.join_all().await;
            heard.sort_by_key(|(address, _)| *address);
            MulticastSeen::Heard(heard)
        }
    }
}

/// The other devices: those of the roster where a node tells it, else those that are remembered.
async fn peers(
    home: &Path,
    settings: &Settings,
    status: Option<&StatusForm>,
    rules: &InterfaceRules,
) -> Vec<PeerSeen> {
    let remembered = remembered_addresses(home);
    let mut wanted: Vec<(PeerSeen, Vec<SocketAddr>)> = match status {
        Some(status) => status
            .peers
            .iter()
            .map(|form| {
                let known = remembered.iter().find(|(device, _)| device.to_string() == form.device_id);
                (of_roster(form), known.map(|(_, addresses)| addresses.clone()).unwrap_or_default())
            })
            .collect(),
        None => {
            remembered.into_iter().map(|(device, addresses)| (named(device.short()), addresses)).collect()
        }
    };
    let connected: Vec<String> = wanted.iter().filter_map(|(peer, _)| peer.connected.clone()).collect();
    for peer in settings.peers() {
        let found: Vec<SocketAddr> =
            tokio::net::lookup_host(peer).await.map(Iterator::collect).unwrap_or_default();
        if !found.iter().any(|address| connected.contains(&address.to_string())) {
            wanted.push((PeerSeen { is_unknown: found.is_empty(), ..named(peer.clone()) }, found));
        }
    }
    let mut seen = Vec::new();
    for (mut peer, addresses) in wanted {
        if peer.connected.is_none() {
            peer.tried = try_all(addresses, rules).await;
        }
        seen.push(peer);
    }
    seen
}

async fn try_all(addresses: Vec<SocketAddr>, rules: &InterfaceRules) -> Vec<Tried> {
    let mut calls = JoinSet::new();
    for (place, address) in addresses.into_iter().enumerate() {
        let detour = detour(address, rules);
        calls.spawn(async move { (place, Tried { address, answer: probe::probe(address).await, detour }) });
    }
    let mut tried = calls.join_all().await;
    tried.sort_by_key(|(place, _)| *place);
    tried.into_iter().map(|(_, tried)| tried).collect()
}

/// The interface packets leave by, where it is one that kinfold does not use.
fn detour(address: SocketAddr, rules: &InterfaceRules) -> Option<String> {
    let own: IpAddr = probe::way_to(address)?;
    let interfaces = if_addrs::get_if_addrs().ok()?;
    let by = interfaces.into_iter().find(|interface| interface.ip() == own)?;
    (!by.is_loopback() && !rules.permit(&by.name)).then_some(by.name)
}

fn of_roster(form: &PeerForm) -> PeerSeen {
    PeerSeen {
        name: form.name.clone().unwrap_or_else(|| short_device(&form.device_id)),
        connected: form.connected.then(|| form.address.clone().unwrap_or_default()),
        refusal: form.last_refusal.as_ref().map(|refusal| (refusal.why.clone(), refusal.blame == "local")),
        tried: Vec::new(),
        is_unknown: false,
    }
}

fn named(name: String) -> PeerSeen {
    PeerSeen { name, connected: None, refusal: None, tried: Vec::new(), is_unknown: false }
}

/// How long announcements are listened for: devices answer within a second.
const LISTEN_FOR: Duration = Duration::from_millis(2_500);

/// A node that is well answers at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
