//! What the observations mean. Pure: what was seen is passed in.

use std::io;
use std::net::{IpAddr, SocketAddr};

use kinfold::net::probe::Answer;
use serde::Serialize;

/// What was looked at, and what came of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Check {
    /// What was looked at, stable for programs.
    pub name: &'static str,
    pub state: State,
    /// A plain sentence.
    pub says: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// How it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// Works, but not as well as it could.
    Warn,
    /// Keeps devices apart, or this one from working.
    Fail,
}

/// Everything that was seen.
#[derive(Clone, Debug)]
pub struct Observed {
    pub is_mac: bool,
    pub home: HomeSeen,
    /// What is wrong with the settings, and what to do.
    pub settings: Result<(), (String, Option<String>)>,
    pub node: NodeSeen,
    /// Whether the port of the settings can be had; `None` where the node has it, or it is any port.
    pub port: Option<(SocketAddr, Result<(), io::ErrorKind>)>,
    pub interfaces: Vec<InterfaceSeen>,
    pub loopback: Answer,
    pub multicast: MulticastSeen,
    pub peers: Vec<PeerSeen>,
    pub wall_ms: u64,
}

#[derive(Clone, Debug)]
pub struct HomeSeen {
    /// Why no device lives there.
    pub missing: Option<String>,
    /// Whether other users may read the key.
    pub is_open: bool,
    pub writable: Result<(), io::ErrorKind>,
    pub free_bytes: Option<u64>,
    /// The kind of a network file system.
    pub network_kind: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub enum NodeSeen {
    Running {
        pid: u32,
        /// Reasons of its health: kind, message, hint.
        health: Vec<(String, String, String)>,
        is_unhealthy: bool,
    },
    NotRunning,
    NotAnswering(String),
}

#[derive(Clone, Debug)]
pub struct InterfaceSeen {
    pub name: String,
    pub address: IpAddr,
    /// Whether kinfold uses it.
    pub is_used: bool,
    pub mtu: Option<u32>,
}

#[derive(Clone, Debug)]
pub enum MulticastSeen {
    /// Switched off in the settings.
    Off,
    /// A packet to everybody cannot be sent.
    CannotSend(io::ErrorKind),
    /// Nobody can be listened to.
    CannotListen(String),
    /// Devices that announce themselves, with whether they answer when called directly.
    Heard(Vec<(SocketAddr, Answer)>),
}

#[derive(Clone, Debug)]
pub struct PeerSeen {
    pub name: String,
    pub connected: Option<String>,
    /// Why the last connection was ended, and whether by the other side.
    pub refusal: Option<(String, bool)>,
    /// The place where it was last comes first.
    pub tried: Vec<Tried>,
    /// It is a name of the settings that leads to no address.
    pub is_unknown: bool,
}

/// An address of a peer, and what came back.
#[derive(Clone, Debug)]
pub struct Tried {
    pub address: SocketAddr,
    pub answer: Answer,
    /// The interface packets leave by, where it is one that kinfold does not use.
    pub detour: Option<String>,
}

/// Every check, the ones nearest to this machine first.
pub fn checks(seen: &Observed) -> Vec<Check> {
    let mut all = vec![home(&seen.home)];
    if seen.home.missing.is_some() {
        return all;
    }
    all.push(disk(&seen.home));
    all.push(settings(seen));
    all.push(node(&seen.node));
    all.extend(seen.port.as_ref().map(|(address, free)| port(*address, free)));
    all.push(interfaces(&seen.interfaces));
    all.extend(mtu(&seen.interfaces));
    let privacy = local_network(seen);
    let is_private = privacy.is_some();
    all.extend(privacy);
    if !is_private {
        all.push(multicast(seen));
        all.extend(isolation(seen));
    }
    let heard = heard(&seen.multicast);
    let is_running = matches!(seen.node, NodeSeen::Running { .. });
    all.extend(seen.peers.iter().map(|peer| self::peer(peer, &heard, is_running)));
    all.push(clock(seen));
    all.extend(health(&seen.node));
    all
}

fn home(home: &HomeSeen) -> Check {
    match &home.missing {
        Some(why) => {
            fail("home", why.clone(), "make a device with `kinfold init`, or name another with --home")
        }
        None if home.is_open => {
            let says = "other users of this machine may read identity.key, which is this device";
            warn("home", says, "chmod 600 identity.key in the home")
        }
        None => ok("home", "a device lives here, and nobody else may read its key"),
    }
}

fn disk(home: &HomeSeen) -> Check {
    if let Some(kind) = home.network_kind {
        let says =
            format!("the home is on a network file system ({kind}), which may lose what it said was written");
        return fail("disk", says, "move the home to a disk of this machine");
    }
    match home.writable {
        Err(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            fail("disk", "the disk is full", "make room; what was acknowledged is safe")
        }
        Err(io::ErrorKind::ReadOnlyFilesystem) => {
            fail("disk", "the home is on a disk that is read-only", "mount it writable, or check the disk")
        }
        Err(io::ErrorKind::PermissionDenied) => fail(
            "disk",
            "this user may not write in the home",
            "give the home to this user, or run as its owner",
        ),
        Err(kind) => fail("disk", format!("the home cannot be written: {kind}"), "check the disk"),
        Ok(()) => match home.free_bytes {
            Some(free) if free < FREE_BYTES_LEAST => {
                let says = format!("only {} MB are free on the disk of the home", free / 1_000_000);
                warn("disk", says, "make room before it is full")
            }
            _ => ok("disk", "the home can be written"),
        },
    }
}

fn settings(seen: &Observed) -> Check {
    match &seen.settings {
        Ok(()) => ok("settings", "config.toml is right"),
        Err((why, hint)) => Check {
            name: "settings",
            state: State::Fail,
            says: why.clone(),
            hint: hint.clone().or_else(|| Some("mend config.toml in an editor".to_owned())),
        },
    }
}

fn node(node: &NodeSeen) -> Check {
    match node {
        NodeSeen::Running { pid, .. } => ok("node", format!("a node runs (process {pid})")),
        NodeSeen::NotRunning => fail(
            "node",
            "no node runs here, so nothing is exchanged",
            "run `kinfold up`, or `kinfold service install` to have it always run",
        ),
        NodeSeen::NotAnswering(why) => {
            fail("node", format!("a node runs and does not answer: {why}"), "stop it and start it again")
        }
    }
}

fn port(address: SocketAddr, free: &Result<(), io::ErrorKind>) -> Check {
    match free {
        Ok(()) => ok("port", format!("{address} is free to listen at")),
        Err(io::ErrorKind::AddrInUse) => fail(
            "port",
            format!("another program listens at {address} already"),
            "stop that program, or choose another port: `kinfold config set network.listen PORT`",
        ),
        Err(io::ErrorKind::AddrNotAvailable) => fail(
            "port",
            format!("{} is no address of this machine", address.ip()),
            "`kinfold config unset network.listen` listens everywhere",
        ),
        Err(kind) => fail(
            "port",
            format!("{address} cannot be listened at: {kind}"),
            "choose another with `kinfold config set network.listen PORT`",
        ),
    }
}

fn interfaces(interfaces: &[InterfaceSeen]) -> Check {
    let names = |is_used: bool| {
        let mut names: Vec<&str> = interfaces
            .iter()
            .filter(|interface| interface.is_used == is_used)
            .map(|interface| interface.name.as_str())
            .collect();
        names.dedup();
        names.join(", ")
    };
    let (used, skipped) = (names(true), names(false));
    if !used.is_empty() {
        return ok("interfaces", format!("looks for devices on {used}"));
    }
    if skipped.is_empty() {
        return fail("interfaces", "no network is up", "connect to a network");
    }
    fail(
        "interfaces",
        format!("only {skipped} is up, which is taken for a tunnel or a virtual network and not used"),
        format!(
            "if devices are to be found there: `kinfold config set network.interfaces_allow {}`",
            skipped.replace(", ", ",")
        ),
    )
}

fn mtu(interfaces: &[InterfaceSeen]) -> Option<Check> {
    let narrow = interfaces.iter().find(|interface| {
        interface.is_used && interface.mtu.is_some_and(|mtu| mtu < mtu_least(&interface.address))
    })?;
    Some(fail(
        "mtu",
        format!(
            "{} carries packets of {} bytes at most, and QUIC needs {}",
            narrow.name,
            narrow.mtu.unwrap_or_default(),
            mtu_least(&narrow.address)
        ),
        "raise its MTU to 1280 or more",
    ))
}

/// 1,200 bytes of UDP payload with their headers.
const fn mtu_least(address: &IpAddr) -> u32 {
    match address {
        IpAddr::V4(_) => 1_200 + 28,
        IpAddr::V6(_) => 1_200 + 48,
    }
}

/// The pattern of macOS: no way to anything of the local network, while this machine reaches itself.
fn local_network(seen: &Observed) -> Option<Check> {
    let is_refused = match &seen.multicast {
        MulticastSeen::CannotSend(kind) => {
            matches!(kind, io::ErrorKind::HostUnreachable | io::ErrorKind::PermissionDenied)
        }
        MulticastSeen::Off | MulticastSeen::CannotListen(_) | MulticastSeen::Heard(_) => {
            let mut tried = seen.peers.iter().flat_map(|peer| &peer.tried);
            tried.any(|tried| tried.answer == Answer::NoRoute && is_private(&tried.address.ip()))
        }
    };
    // Something listened at this machine's own address: closed or answered, but not refused.
    let reaches_itself = matches!(seen.loopback, Answer::Answered | Answer::Closed | Answer::Silent);
    (seen.is_mac && is_refused && reaches_itself).then(|| {
        fail(
            "local network",
            "macOS keeps kinfold from the local network",
            "System Settings → Privacy & Security → Local Network: switch kinfold (or the terminal it runs in) on; \
             after an update of the program, off and on again",
        )
    })
}

fn multicast(seen: &Observed) -> Check {
    match &seen.multicast {
        MulticastSeen::Off => ok("multicast", "devices are not looked for (network.mdns is off)"),
        MulticastSeen::CannotSend(kind) => warn(
            "multicast",
            format!("nothing can be sent to the local network at large: {kind}"),
            "allow UDP port 5353 in the firewall of this machine; devices named with `kinfold up --peer` are reached all the same",
        ),
        MulticastSeen::CannotListen(why) => warn(
            "multicast",
            format!("devices cannot be looked for: {why}"),
            "name them with `kinfold up --peer HOST:PORT`",
        ),
        MulticastSeen::Heard(heard) if heard.is_empty() => {
            if is_anybody_near(seen) {
                return warn(
                    "multicast",
                    "a device is near and answers, but nobody is heard by multicast: it is blocked here, there or in between",
                    "allow UDP port 5353 in both firewalls and multicast in the access point; \
                     until then `kinfold config set network.peers HOST:PORT`",
                );
            }
            ok("multicast", "works from here; no other device announces itself")
        }
        MulticastSeen::Heard(heard) => {
            let count = heard.len();
            ok("multicast", format!("other devices announce themselves at {count} addresses"))
        }
    }
}

/// Multicast passes and unicast does not.
fn isolation(seen: &Observed) -> Option<Check> {
    let MulticastSeen::Heard(heard) = &seen.multicast else { return None };
    let is_cut = |answer: &Answer| matches!(answer, Answer::Silent | Answer::Forbidden | Answer::NoRoute);
    let is_all_cut = !heard.is_empty() && heard.iter().all(|(_, answer)| is_cut(answer));
    is_all_cut.then(|| {
        fail(
            "isolation",
            "other devices are heard by multicast, but none answers when it is called",
            "a firewall on one of the machines blocks UDP, or the access point keeps its clients apart \
             (\"client isolation\", usual in guest networks): allow kinfold, or use another network",
        )
    })
}

fn is_anybody_near(seen: &Observed) -> bool {
    seen.peers.iter().any(|peer| {
        let at = peer.connected.as_ref().and_then(|address| address.parse::<SocketAddr>().ok());
        at.is_some_and(|at| is_private(&at.ip()))
            || peer
                .tried
                .iter()
                .any(|tried| tried.answer == Answer::Answered && is_private(&tried.address.ip()))
    })
}

fn heard(multicast: &MulticastSeen) -> Vec<SocketAddr> {
    match multicast {
        MulticastSeen::Heard(heard) => heard.iter().map(|(address, _)| *address).collect(),
        MulticastSeen::Off | MulticastSeen::CannotSend(_) | MulticastSeen::CannotListen(_) => Vec::new(),
    }
}

fn peer(peer: &PeerSeen, heard: &[SocketAddr], is_running: bool) -> Check {
    const NAME: &str = "device";
    let who = &peer.name;
    if let Some(address) = &peer.connected {
        return ok(NAME, format!("{who} is connected at {address}"));
    }
    let with = |is_it: &dyn Fn(&Tried) -> bool| peer.tried.iter().find(|tried| is_it(tried));
    let anywhere = |answer: Answer| with(&move |tried: &Tried| tried.answer == answer);
    // An answer counts wherever it comes from; what is amiss at an older place is of no interest.
    let last = peer.tried.first();
    let answers = |answer: Answer| last.filter(|tried| tried.answer == answer);
    if let Some((why, is_by_peer)) = &peer.refusal {
        let hint = match is_by_peer {
            true => {
                "is this device still in the space? compare `kinfold devices` on both; a removed one pairs anew"
            }
            false => "compare `kinfold devices` on both, and run the same version there",
        };
        return fail(NAME, format!("{who} was reached, and the connection ended: {why}"), hint);
    }
    if let Some(tried) = anywhere(Answer::Answered) {
        if !is_running {
            return ok(NAME, format!("{who} answers at {}", tried.address));
        }
        let says = format!(
            "something answers at {} where {who} was last, but {who} is not connected",
            tried.address
        );
        return warn(
            NAME,
            says,
            "it may be another device, or belong to another space: compare `kinfold devices` on both",
        );
    }
    if let Some(tried) = anywhere(Answer::OnlySmall).or_else(|| answers(Answer::TooBig)) {
        return fail(
            NAME,
            format!("small packets reach {who} at {}, those of 1200 bytes do not", tried.address),
            "a tunnel or switch on the way has too small an MTU: raise it to 1280 or more",
        );
    }
    let is_detour = |tried: &&Tried| tried.detour.is_some() && is_private(&tried.address.ip());
    if let Some(tried) = last.filter(is_detour) {
        let detour = tried.detour.as_deref().unwrap_or_default();
        return fail(
            NAME,
            format!(
                "packets to {who} at {} leave by {detour}, a tunnel, and not by the local network",
                tried.address
            ),
            "a VPN has taken the route: allow access to the local network in it, or disconnect it",
        );
    }
    if let Some(tried) = answers(Answer::Closed) {
        return fail(
            NAME,
            format!("the machine at {} is up, but no kinfold listens there", tried.address),
            format!("run `kinfold up` on {who}"),
        );
    }
    if let Some(tried) = answers(Answer::Forbidden) {
        return fail(
            NAME,
            format!("this machine may not send to {who} at {}", tried.address),
            "its own firewall forbids it: allow kinfold to send UDP",
        );
    }
    // A machine that sleeps looks like this too: nobody answers for its address any more.
    if let Some(tried) = answers(Answer::NoRoute) {
        let says = format!(
            "there is no way to {who} at {}: it sleeps, is off, is on another network, or a firewall refuses",
            tried.address
        );
        return warn(NAME, says, "wake it, and bring both onto one network; it is dialled again by itself");
    }
    if let Some(tried) = with(&|tried| heard.iter().any(|heard| heard.ip() == tried.address.ip())) {
        return fail(
            NAME,
            format!("{who} announces itself at {}, and does not answer when it is called", tried.address),
            "a firewall there blocks UDP, or the access point keeps its clients apart: allow kinfold there",
        );
    }
    match last {
        Some(tried) => warn(
            NAME,
            format!("{who} does not answer at {}: it sleeps, is off, or is elsewhere", tried.address),
            "wake it; it is dialled again by itself",
        ),
        None if peer.is_unknown => fail(
            NAME,
            format!("the name in {who} leads to no address"),
            "see whether `kinfold config get network.peers` is spelled right; a name of a VPN is known while it is up",
        ),
        None => warn(
            NAME,
            format!("it is not known where {who} is"),
            "have both on one network, or name it once with `kinfold up --peer HOST:PORT`",
        ),
    }
}

fn clock(seen: &Observed) -> Check {
    if seen.wall_ms < YEAR_2026_MS {
        let says = "the clock of this machine is years behind";
        return fail("clock", says, "set it; writes made meanwhile lose against others");
    }
    let NodeSeen::Running { health, .. } = &seen.node else {
        return ok("clock", "the clock is not obviously wrong");
    };
    match health.iter().find(|(kind, ..)| kind == "ClockSkew") {
        Some((_, message, hint)) => fail("clock", message.clone(), hint.clone()),
        None => ok("clock", "the clock agrees with those of the connected devices"),
    }
}

/// What the running node says of itself.
fn health(node: &NodeSeen) -> Vec<Check> {
    let NodeSeen::Running { health, is_unhealthy, .. } = node else { return Vec::new() };
    let state = if *is_unhealthy { State::Fail } else { State::Warn };
    let own = health.iter().filter(|(kind, ..)| kind != "ClockSkew");
    own.map(|(_, message, hint)| Check {
        name: "health",
        state,
        says: message.clone(),
        hint: Some(hint.clone()),
    })
    .collect()
}

fn is_private(ip: &IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_unique_local(),
    }
}

fn ok(name: &'static str, says: impl Into<String>) -> Check {
    Check { name, state: State::Ok, says: says.into(), hint: None }
}

fn warn(name: &'static str, says: impl Into<String>, hint: impl Into<String>) -> Check {
    Check { name, state: State::Warn, says: says.into(), hint: Some(hint.into()) }
}

fn fail(name: &'static str, says: impl Into<String>, hint: impl Into<String>) -> Check {
    Check { name, state: State::Fail, says: says.into(), hint: Some(hint.into()) }
}

/// Below this a burst of ops from another device may fill the disk.
const FREE_BYTES_LEAST: u64 = 100_000_000;

/// This program did not exist before.
const YEAR_2026_MS: u64 = 1_767_225_600_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_is_wrong_everything_is_ok() {
        let all = checks(&well());

        assert!(all.iter().all(|check| check.state == State::Ok && check.hint.is_none()), "{all:#?}");
        let names: Vec<&str> = all.iter().map(|check| check.name).collect();
        assert_eq!(names, ["home", "disk", "settings", "node", "interfaces", "multicast", "device", "clock"]);
    }

    #[test]
    fn a_home_without_a_device_is_all_there_is_to_say() {
        let mut seen = well();
        seen.home.missing = Some("no kinfold device in \"/h\"".into());

        let all = checks(&seen);

        assert_eq!(all.len(), 1);
        assert_eq!(all[0].state, State::Fail);
    }

    #[test]
    fn this_machine_is_looked_at_first() {
        check("home", State::Warn, "may read identity.key", |seen| seen.home.is_open = true);
        let writable = |kind: io::ErrorKind| move |seen: &mut Observed| seen.home.writable = Err(kind);
        check("disk", State::Fail, "the disk is full", writable(io::ErrorKind::StorageFull));
        check("disk", State::Fail, "read-only", writable(io::ErrorKind::ReadOnlyFilesystem));
        check("disk", State::Fail, "may not write", writable(io::ErrorKind::PermissionDenied));
        check("disk", State::Fail, "cannot be written", writable(io::ErrorKind::Other));
        check("disk", State::Warn, "only 5 MB", |seen| seen.home.free_bytes = Some(5_000_000));
        check("disk", State::Fail, "network file system (nfs)", |seen| seen.home.network_kind = Some("nfs"));
        check("settings", State::Fail, "line 3", |seen| seen.settings = Err(("line 3: no".into(), None)));
        check("node", State::Fail, "no node runs", |seen| seen.node = NodeSeen::NotRunning);
        check("node", State::Fail, "does not answer", |seen| seen.node = NodeSeen::NotAnswering("x".into()));
        let port = |free: Result<(), io::ErrorKind>| {
            move |seen: &mut Observed| seen.port = Some((address("0.0.0.0:4433"), free))
        };
        check("port", State::Ok, "is free", port(Ok(())));
        check("port", State::Fail, "another program listens", port(Err(io::ErrorKind::AddrInUse)));
        check("port", State::Fail, "no address of this machine", port(Err(io::ErrorKind::AddrNotAvailable)));
        check("port", State::Fail, "cannot be listened at", port(Err(io::ErrorKind::PermissionDenied)));
    }

    #[test]
    fn a_network_that_cannot_carry_is_named() {
        check("interfaces", State::Fail, "no network is up", |seen| seen.interfaces.clear());
        check("interfaces", State::Fail, "only wg0 is up", |seen| {
            seen.interfaces[0] =
                InterfaceSeen { name: "wg0".into(), is_used: false, ..seen.interfaces[0].clone() };
        });
        check("mtu", State::Fail, "en0 carries packets of 1200 bytes", |seen| {
            seen.interfaces[0].mtu = Some(1_200)
        });
        check("multicast", State::Ok, "is off", |seen| seen.multicast = MulticastSeen::Off);
        check("multicast", State::Warn, "nothing can be sent", |seen| {
            seen.multicast = MulticastSeen::CannotSend(io::ErrorKind::NetworkUnreachable);
        });
        check("multicast", State::Warn, "cannot be looked for", |seen| {
            seen.multicast = MulticastSeen::CannotListen("x".into());
        });
        check("multicast", State::Warn, "it is blocked", |seen| {
            seen.multicast = MulticastSeen::Heard(Vec::new())
        });
        check("isolation", State::Fail, "none answers", |seen| {
            seen.peers[0].connected = None;
            seen.multicast = MulticastSeen::Heard(vec![(address("192.168.1.9:1"), Answer::Silent)]);
        });
    }

    #[test]
    fn the_pattern_of_the_mac_is_known_and_elsewhere_it_is_none() {
        let refused = |seen: &mut Observed| {
            seen.is_mac = true;
            seen.multicast = MulticastSeen::CannotSend(io::ErrorKind::HostUnreachable);
        };
        check("local network", State::Fail, "macOS keeps kinfold", refused);
        check("local network", State::Fail, "macOS keeps kinfold", |seen| {
            seen.is_mac = true;
            away(seen, Answer::NoRoute);
        });
        let mut seen = well();
        refused(&mut seen);
        seen.loopback = Answer::NoRoute;
        assert!(checks(&seen).iter().all(|check| check.name != "local network"), "nothing works at all");
        seen.loopback = Answer::Closed;
        seen.is_mac = false;
        assert!(checks(&seen).iter().all(|check| check.name != "local network"));
    }

    #[test]
    fn why_a_device_is_not_connected_is_told_apart() {
        for (answer, state, words) in [
            (Answer::Answered, State::Warn, "something answers"),
            (Answer::OnlySmall, State::Fail, "those of 1200 bytes do not"),
            (Answer::TooBig, State::Fail, "those of 1200 bytes do not"),
            (Answer::Closed, State::Fail, "no kinfold listens there"),
            (Answer::Forbidden, State::Fail, "may not send"),
            (Answer::NoRoute, State::Warn, "there is no way"),
            (Answer::Silent, State::Warn, "it sleeps, is off, or is elsewhere"),
            (Answer::Failed(io::ErrorKind::Other), State::Warn, "it sleeps, is off, or is elsewhere"),
        ] {
            check("device", state, words, |seen| away(seen, answer));
        }
        check("device", State::Fail, "leave by utun4, a tunnel", |seen| {
            away(seen, Answer::Silent);
            seen.peers[0].tried[0].detour = Some("utun4".into());
        });
        check("device", State::Fail, "announces itself", |seen| {
            away(seen, Answer::Silent);
            seen.multicast = MulticastSeen::Heard(vec![(address("192.168.1.9:5"), Answer::Answered)]);
        });
        check("device", State::Warn, "not known where", |seen| {
            away(seen, Answer::Silent);
            seen.peers[0].tried.clear();
        });
        check("device", State::Fail, "the name in desk leads to no address", |seen| {
            away(seen, Answer::Silent);
            seen.peers[0].tried.clear();
            seen.peers[0].is_unknown = true;
        });
        check("device", State::Ok, "desk answers at", |seen| {
            away(seen, Answer::Answered);
            seen.node = NodeSeen::NotRunning;
        });
        for is_by_peer in [true, false] {
            check("device", State::Fail, "the connection ended: not in the roster", |seen| {
                away(seen, Answer::Answered);
                seen.peers[0].refusal = Some(("not in the roster".into(), is_by_peer));
            });
        }
    }

    #[test]
    fn a_wrong_clock_and_what_the_node_says_are_passed_on() {
        check("clock", State::Fail, "years behind", |seen| seen.wall_ms = 0);
        let running = |kind: &str, is_unhealthy| {
            let health = vec![(kind.to_owned(), "message".to_owned(), "hint".to_owned())];
            move |seen: &mut Observed| seen.node = NodeSeen::Running { pid: 7, health, is_unhealthy }
        };
        check("clock", State::Fail, "message", running("ClockSkew", false));
        check("health", State::Warn, "message", running("UnknownOps", false));
        check("health", State::Fail, "message", running("StorageFailed", true));
        check("clock", State::Ok, "not obviously wrong", |seen| seen.node = NodeSeen::NotRunning);
    }

    /// Provokes one observation, and looks for one check about it.
    #[track_caller]
    fn check(name: &str, state: State, words: &str, provoke: impl FnOnce(&mut Observed)) {
        let mut seen = well();
        provoke(&mut seen);
        let all = checks(&seen);
        let found = all.iter().find(|check| check.name == name && check.says.contains(words));
        let found = found.unwrap_or_else(|| panic!("{name}: {words:?} is missing: {all:#?}"));
        assert_eq!(found.state, state, "{found:?}");
        assert_eq!(found.hint.is_some(), state != State::Ok, "{found:?}");
    }

    fn away(seen: &mut Observed, answer: Answer) {
        seen.peers[0].connected = None;
        seen.peers[0].tried = vec![Tried { address: address("192.168.1.9:4433"), answer, detour: None }];
    }

    fn well() -> Observed {
        Observed {
            is_mac: false,
            home: HomeSeen {
                missing: None,
                is_open: false,
                writable: Ok(()),
                free_bytes: Some(50_000_000_000),
                network_kind: None,
            },
            settings: Ok(()),
            node: NodeSeen::Running { pid: 7, health: Vec::new(), is_unhealthy: false },
            port: None,
            interfaces: vec![InterfaceSeen {
                name: "en0".into(),
                address: "192.168.1.4".parse().expect("literal"),
                is_used: true,
                mtu: Some(1_500),
            }],
            loopback: Answer::Closed,
            multicast: MulticastSeen::Heard(vec![(address("192.168.1.8:4433"), Answer::Answered)]),
            peers: vec![PeerSeen {
                name: "desk".into(),
                connected: Some("192.168.1.8:4433".into()),
                refusal: None,
                tried: Vec::new(),
                is_unknown: false,
            }],
            wall_ms: YEAR_2026_MS,
        }
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("literal")
    }
}
