//! Looking at the network from outside a node: who answers where, and who announces itself.
//!
//! What `kinfold doctor` sees. Nothing here authenticates anybody or tells anything of this device:
//! an answer says that something speaks QUIC there, not who it is.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use mdns_sd::ServiceEvent;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::interfaces::{InterfaceRules, Loopback};
use super::mdns::{self, DiscoveryError};

/// What came back from an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// A QUIC endpoint, to a packet of full size.
    Answered,
    /// A QUIC endpoint, but only to a small packet: full ones are lost on the way.
    OnlySmall,
    /// Nothing.
    Silent,
    /// The machine is there, and nothing listens at the port.
    Closed,
    /// The system knows no way there, or something on the way refuses.
    NoRoute,
    /// The interface does not take a packet of 1,200 bytes.
    TooBig,
    /// The system refuses to send: a filter on this machine, most often.
    Forbidden,
    /// Something else.
    Failed(io::ErrorKind),
}

/// Asks an address whether a QUIC endpoint is there. Takes at most about a second and a half.
pub async fn probe(address: SocketAddr) -> Answer {
    match attempt(address).await {
        Ok(answer) => answer,
        Err(error) => answer_of(&error),
    }
}

/// The address of this device that packets to `address` leave from; `None` where there is no way.
pub fn way_to(address: SocketAddr) -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind(any(&address)).ok()?;
    // Of UDP, this sends nothing.
    socket.connect(address).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Whether a packet may be sent to everybody on the local network: tried on each interface that
/// discovery uses, as it does, and one that takes it is enough. On a Mac this is what Local Network
/// privacy forbids.
///
/// The interface is named, so that no route to everybody is needed: a network without a gateway has none,
/// and a firewall is not even asked where there is no route.
///
/// # Errors
/// What the first interface answers, where none takes it.
pub fn may_multicast(rules: &InterfaceRules) -> Result<(), io::ErrorKind> {
    let interfaces = if_addrs::get_if_addrs().map_err(|error| error.kind())?;
    let used = |found: &&if_addrs::Interface| {
        found.is_oper_up() && !found.is_loopback() && rules.permit(&found.name)
    };
    let mut refused = Ok(());
    for interface in interfaces.iter().filter(used) {
        match ask_everybody(interface.ip(), interface.index.unwrap_or_default()) {
            Ok(_) => return Ok(()),
            Err(error) => refused = refused.and(Err(error.kind())),
        }
    }
    refused
}

/// Asks for a name of kinfold's that nobody has; those who hear it do not answer.
fn ask_everybody(from: IpAddr, interface: u32) -> io::Result<usize> {
    let socket = std::net::UdpSocket::bind(any(&(from, 0).into()))?;
    let options = socket2::SockRef::from(&socket);
    let group = match from {
        IpAddr::V4(v4) => {
            options.set_multicast_if_v4(&v4)?;
            SocketAddr::from((MDNS_V4, mdns::MDNS_PORT))
        }
        IpAddr::V6(_) => {
            options.set_multicast_if_v6(interface)?;
            SocketAddrV6::new(MDNS_V6, mdns::MDNS_PORT, 0, interface).into()
        }
    };
    socket.send_to(&NOBODYS_NAME, group)
}

/// Where devices of others announce themselves, listened for during `span`.
///
/// # Errors
/// [`DiscoveryError::Responder`] where multicast DNS cannot be used.
pub async fn announced(rules: InterfaceRules, span: Duration) -> Result<Vec<SocketAddr>, DiscoveryError> {
    let daemon = mdns::responder(mdns::MDNS_PORT, rules, Loopback::Skip)?;
    let events = daemon.browse(mdns::SERVICE).map_err(DiscoveryError::Responder)?;
    let own: Vec<IpAddr> = if_addrs::get_if_addrs()
        .map(|interfaces| interfaces.iter().map(if_addrs::Interface::ip).collect())
        .unwrap_or_default();
    let until = Instant::now() + span;
    let mut found: Vec<SocketAddr> = Vec::new();
    while let Ok(Ok(event)) = tokio::time::timeout_at(until, events.recv_async()).await {
        let ServiceEvent::ServiceResolved(service) = event else { continue };
        let addresses = mdns::dialable(&service, Loopback::Skip);
        // What this device announces itself is not news.
        if addresses.iter().any(|address| own.contains(&address.ip())) {
            continue;
        }
        for address in addresses {
            if found.len() < ANNOUNCED_MAX && !found.contains(&address) {
                found.push(address);
            }
        }
    }
    mdns::goodbye(daemon).await;
    Ok(found)
}

/// What a refusal of the system means for an address.
pub fn answer_of(error: &io::Error) -> Answer {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Answer::Closed,
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::AddrNotAvailable => Answer::NoRoute,
        io::ErrorKind::PermissionDenied => Answer::Forbidden,
        #[cfg(unix)]
        _ if error.raw_os_error() == Some(nix::errno::Errno::EMSGSIZE as i32) => Answer::TooBig,
        kind => Answer::Failed(kind),
    }
}

async fn attempt(address: SocketAddr) -> io::Result<Answer> {
    let socket = UdpSocket::bind(any(&address)).await?;
    socket.connect(address).await?;
    let (full, small) = packets();
    let mut best = Answer::Silent;
    let mut answer = [0; 2_048];
    for _ in 0..TRIES {
        socket.send(&full).await?;
        socket.send(&small).await?;
        let until = Instant::now() + ANSWER_WITHIN;
        while let Ok(received) = tokio::time::timeout_at(until, socket.recv(&mut answer)).await {
            // The long form names the versions it speaks, and answers full packets only.
            if received? > 0 && answer[0] & 0x80 != 0 {
                return Ok(Answer::Answered);
            }
            best = Answer::OnlySmall;
        }
    }
    Ok(best)
}

/// A packet of a version that nobody speaks, which is answered by the versions that are (RFC 9000
/// section 6), and a small one of a connection that nobody has, which is answered by a reset (10.3).
fn packets() -> ([u8; 1_200], [u8; 64]) {
    let (mut full, mut small) = ([0; 1_200], [0; 64]);
    // Without entropy two probes look alike, which harms nobody.
    let _ = getrandom::fill(&mut full[..32]);
    let _ = getrandom::fill(&mut small);
    full[0] = 0xc0;
    full[1..5].copy_from_slice(&UNSPOKEN.to_be_bytes());
    full[5] = 8;
    full[14] = 8;
    small[0] = 0x40 | small[0] & 0x3f;
    (full, small)
}

fn any(address: &SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    (ip, 0).into()
}

/// Reserved so that it is never a version (RFC 9000 section 15).
const UNSPOKEN: u32 = 0x1a2a_3a4a;

/// Where multicast DNS is spoken (RFC 6762 section 3).
const MDNS_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

const MDNS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

const TRIES: usize = 3;

const ANSWER_WITHIN: Duration = Duration::from_millis(450);

/// More devices than this are not told apart by a person anyway.
const ANNOUNCED_MAX: usize = 128;

/// `nobody._kinfold._udp.local`, type TXT, one question.
const NOBODYS_NAME: [u8; 44] =
    *b"\0\0\0\0\0\x01\0\0\0\0\0\0\x06nobody\x08_kinfold\x04_udp\x05local\0\0\x10\0\x01";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_empty_port_is_closed_and_a_silent_one_silent() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
        let address = socket.local_addr().expect("bound");

        let silent = probe(address).await;
        drop(socket);
        let closed = probe(address).await;

        assert_eq!((silent, closed), (Answer::Silent, Answer::Closed));
        assert_eq!(way_to(address), Some(Ipv4Addr::LOCALHOST.into()));
    }

    #[tokio::test]
    async fn who_answers_small_packets_only_is_told_from_who_answers_all() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
        let address = socket.local_addr().expect("bound");
        // A way on which whatever is longer is lost.
        let answering = tokio::spawn(async move {
            let mut packet = [0; 2_048];
            while let Ok((length, from)) = socket.recv_from(&mut packet).await {
                if length < 100 {
                    let _ = socket.send_to(&[0x41; 40], from).await;
                }
            }
        });

        assert_eq!(probe(address).await, Answer::OnlySmall);
        answering.abort();
    }

    #[test]
    fn what_the_system_says_has_a_meaning() {
        let check = |kind: io::ErrorKind, expect| assert_eq!(answer_of(&kind.into()), expect, "{kind:?}");
        check(io::ErrorKind::ConnectionRefused, Answer::Closed);
        check(io::ErrorKind::HostUnreachable, Answer::NoRoute);
        check(io::ErrorKind::NetworkUnreachable, Answer::NoRoute);
        check(io::ErrorKind::PermissionDenied, Answer::Forbidden);
        check(io::ErrorKind::OutOfMemory, Answer::Failed(io::ErrorKind::OutOfMemory));
        #[cfg(unix)]
        assert_eq!(
            answer_of(&io::Error::from_raw_os_error(nix::errno::Errno::EMSGSIZE as i32)),
            Answer::TooBig
        );
    }

    #[test]
    fn the_packets_are_of_their_form() {
        let (full, small) = packets();

        assert_eq!((full[0], &full[1..5], full[5], full[14]), (0xc0, &[0x1a, 0x2a, 0x3a, 0x4a][..], 8, 8));
        assert_eq!(small[0] & 0xc0, 0x40);
    }
}
