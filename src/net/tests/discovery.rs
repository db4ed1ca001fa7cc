//! Two nodes that find each other by multicast on the loopback interface.

use super::*;
use crate::crypto::beacon::BeaconKey;
use crate::model::ScopeTag;

#[tokio::test]
async fn members_find_each_other_on_the_local_network() {
    if !multicast_is_available() {
        eprintln!("skipped: this machine has no multicast on loopback");
        return;
    }
    let (mut a, mut b) = (Node::start_with(1, &[2], heard()).await, Node::start_with(2, &[1], heard()).await);

    a.net.beacons(vec![space(7)]);
    b.net.beacons(vec![space(8), space(7)]);

    tokio::join!(a.connected(), b.connected());
    tokio::join!(a.net.stop(), b.net.stop());
}

#[tokio::test]
async fn without_an_interface_discovery_says_so_once_and_the_rest_works() {
    let interfaces = InterfaceRules { allow: Vec::new(), deny: vec!["*".into()] };
    let mut a = Node::start_with(1, &[2], NetConfig { interfaces, ..heard() }).await;
    let mut b = Node::start(2, &[1]).await;

    a.net.beacons(vec![space(7)]);
    a.net.beacons(vec![space(7)]);

    let down = |event| match event {
        NetEvent::DiscoveryDown { error } => Some(error),
        _ => None,
    };
    let error = a.until(down).await;
    assert_eq!(error, DiscoveryError::NoInterface);
    assert_eq!(error.blame(), Blame::Local);
    a.dial(&b);
    tokio::join!(a.connected(), b.connected());
    a.net.stop().await;
    while let Some(event) = a.events.recv().await {
        assert!(down(event).is_none(), "told twice");
    }
}

fn heard() -> NetConfig {
    NetConfig { mdns: Mdns::On { loopback: Loopback::Use }, mdns_port: PORT, ..loopback() }
}

fn space(n: u8) -> BeaconSpace {
    BeaconSpace {
        scope: ScopeTag::from_bytes([n; 16]),
        key: BeaconKey::from_bytes([n; 32]),
        earlier: Vec::new(),
        members: vec![device(1), device(2)],
    }
}

/// Whether a datagram to the group comes back on loopback.
pub(in crate::net) fn multicast_is_available() -> bool {
    let group = std::net::Ipv4Addr::new(224, 0, 0, 251);
    let here = std::net::Ipv4Addr::LOCALHOST;
    let probe = || -> std::io::Result<usize> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
        socket.set_multicast_if_v4(&here)?;
        socket.join_multicast_v4(&group, &here)?;
        socket.bind(&SocketAddr::from(([0, 0, 0, 0], 0)).into())?;
        let socket = std::net::UdpSocket::from(socket);
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.send_to(b"anyone", (group, socket.local_addr()?.port()))?;
        socket.recv(&mut [0; 16])
    };
    probe().is_ok()
}

/// Not 5353: other responders on this machine stay out of the test.
const PORT: u16 = 45_353;
