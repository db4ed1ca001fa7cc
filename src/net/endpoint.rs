//! The UDP socket, the QUIC endpoint and its limits, and the door: who may begin a handshake.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn::congestion::{BbrConfig, CubicConfig};
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{
    AckFrequencyConfig, AsyncTimer, AsyncUdpSocket, ConnectionId, ConnectionIdGenerator, EndpointConfig,
    IdleTimeout, MtuDiscoveryConfig, Runtime, TokioRuntime, TransportConfig, ValidationTokenConfig, VarInt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::tls::{self, Credentials, Pins, Trust};
use super::{Congestion, NetConfig, NetError};
use crate::crypto::identity::Identity;

/// The endpoint, and what it accepts connections of this machine with.
pub(super) struct Bound {
    pub(super) endpoint: quinn::Endpoint,
    pub(super) loopback: Arc<quinn::ServerConfig>,
}

/// The limits of connections, by where they lead.
#[derive(Clone, Debug)]
pub(super) struct Transports {
    network: Arc<TransportConfig>,
    loopback: Arc<TransportConfig>,
}

impl Transports {
    pub(super) fn new(config: &NetConfig) -> Self {
        let mtu = config.max_mtu.clamp(MTU_MIN, MTU_MAX);
        // Twice the throughput and more, measured with `benches/net.rs`.
        let loopback_mtu = if mtu < MTU_DEFAULT { mtu } else { MTU_MAX };
        Self {
            network: Arc::new(transport(config, mtu)),
            loopback: Arc::new(transport(config, loopback_mtu)),
        }
    }

    pub(super) fn to(&self, address: SocketAddr) -> Arc<TransportConfig> {
        Arc::clone(if address.ip().to_canonical().is_loopback() { &self.loopback } else { &self.network })
    }
}

/// Binds the socket and starts the endpoint.
pub(super) fn bind(
    identity: &Identity,
    credentials: &Credentials,
    pins: Pins,
    config: &NetConfig,
    transports: &Transports,
    drivers: TaskTracker,
) -> Result<Bound, NetError> {
    let crypto = tls::server(credentials, Trust::Pinned(pins)).map_err(NetError::Tls)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let mut tokens = ValidationTokenConfig::default();
    // A token outlives the connection and would let an observer link two places.
    tokens.sent(0);
    server
        .transport_config(Arc::clone(&transports.network))
        .validation_token_config(tokens)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BUFFER_BYTES)
        .incoming_buffer_size_total(INCOMING_BUFFER_BYTES_TOTAL)
        .migration(true);

    let mut loopback = server.clone();
    loopback.transport_config(Arc::clone(&transports.loopback));

    let socket = socket(config.listen)?;
    let runtime = Arc::new(TrackedRuntime(drivers));
    let endpoint = quinn::Endpoint::new(endpoint_config(identity)?, Some(server), socket, runtime)
        .map_err(|source| NetError::Bind { address: config.listen, source })?;
    Ok(Bound { endpoint, loopback: Arc::new(loopback) })
}

fn transport(config: &NetConfig, max_mtu: u16) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(max_mtu);
    let window = |bytes: u32| VarInt::from_u32(bytes);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(16))
        .max_concurrent_uni_streams(VarInt::from_u32(8))
        .stream_receive_window(window(config.stream_window_bytes))
        .receive_window(window(config.receive_window_bytes))
        .send_window(u64::from(config.send_window_bytes))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MS))))
        .mtu_discovery_config(Some(mtu))
        .enable_segmentation_offload(config.segmentation_offload);
    // With a window of a few packets the last one of a burst waits for a delayed ack (25 ms): at
    // 14 KB, the default, a greeting took 32 ms on loopback instead of 7.
    match config.congestion {
        Congestion::Cubic => {
            let mut cubic = CubicConfig::default();
            cubic.initial_window(INITIAL_WINDOW_BYTES);
            transport.congestion_controller_factory(Arc::new(cubic))
        }
        Congestion::Bbr => {
            let mut bbr = BbrConfig::default();
            bbr.initial_window(INITIAL_WINDOW_BYTES);
            transport.congestion_controller_factory(Arc::new(bbr))
        }
    };
    let mut acks = AckFrequencyConfig::default();
    acks.max_ack_delay(Some(ACK_DELAY_MAX));
    transport.ack_frequency_config(Some(acks));
    transport
}

/// What may be under way before the first ack: a backlog of a few thousand ops.
const INITIAL_WINDOW_BYTES: u64 = 256 * 1024;

/// The longest a device withholds an ack from another.
const ACK_DELAY_MAX: Duration = Duration::from_millis(2);

/// Tells whether a handshake may begin, must first prove its address, or is refused.
///
/// Anyone can send first packets with any sender address, so an unproven address counts against
/// nobody but the total, and above [`RETRY_AT`] it must be proven before any state is kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Door(Arc<Mutex<Handshakes>>);

#[derive(Debug, Default)]
struct Handshakes {
    count: usize,
    proven: BTreeMap<IpAddr, usize>,
}

/// What to do with a first packet.
#[derive(Debug)]
pub(super) enum Entry {
    /// Let the handshake begin; dropping the pass ends its count.
    Admit(Pass),
    /// Ask for proof of the address.
    Prove,
    /// Turn it away.
    Refuse,
}

/// One handshake in flight.
#[derive(Debug)]
pub(super) struct Pass {
    door: Door,
    proven: Option<IpAddr>,
}

impl Door {
    pub(super) fn knock(&self, address: IpAddr, is_proven: bool) -> Entry {
        let mut handshakes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if handshakes.count >= HANDSHAKES_MAX {
            return Entry::Refuse;
        }
        let proven = is_proven.then_some(address);
        if let Some(address) = proven {
            let count = handshakes.proven.entry(address).or_default();
            if *count >= HANDSHAKES_PER_ADDRESS_MAX {
                return Entry::Refuse;
            }
            *count += 1;
        } else if handshakes.count >= RETRY_AT {
            return Entry::Prove;
        }
        handshakes.count += 1;
        Entry::Admit(Pass { door: self.clone(), proven })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut handshakes = self.door.0.lock().unwrap_or_else(PoisonError::into_inner);
        handshakes.count = handshakes.count.saturating_sub(1);
        if let Some(address) = self.proven
            && let Some(count) = handshakes.proven.get_mut(&address)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                handshakes.proven.remove(&address);
            }
        }
    }
}

fn endpoint_config(identity: &Identity) -> Result<EndpointConfig, NetError> {
    // The key survives a restart, so a peer of the former life hears a reset at once instead of
    // waiting for its idle timeout.
    let reset = Arc::new(ResetKey(identity.derive("kinfold quic reset v1")));
    let mut life = [0; 32];
    getrandom::fill(&mut life).map_err(NetError::Entropy)?;
    let mut endpoint = EndpointConfig::new(reset);
    endpoint.cid_generator(move || Box::new(ConnectionIds { life, count: 0 }));
    // What may arrive; what is sent is each sender's own choice.
    endpoint.max_udp_payload_size(MTU_MAX).expect("within the bounds of the standard");
    Ok(endpoint)
}

pub(super) fn socket(address: SocketAddr) -> Result<UdpSocket, NetError> {
    match open(address) {
        Ok(socket) => Ok(socket),
        // A machine without IPv6 still listens where "everywhere" was asked for.
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() => {
            debug!(%error, "no IPv6 socket, listening on IPv4 only");
            let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            open(v4).map_err(|source| NetError::Bind { address: v4, source })
        }
        Err(source) => Err(NetError::Bind { address, source }),
    }
}

fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Default buffers overflow between two wake-ups at a gigabit; the system may grant less.
    if let Err(error) =
        socket.set_recv_buffer_size(SOCKET_BYTES).and_then(|()| socket.set_send_buffer_size(SOCKET_BYTES))
    {
        warn!(%error, "socket buffers stay at the system's default, throughput will suffer");
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Tokio, with quinn's own tasks counted: the socket is free only once they have ended.
#[derive(Debug)]
pub(super) struct TrackedRuntime(pub(super) TaskTracker);

impl Runtime for TrackedRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

/// Stateless reset tokens, BLAKE3 keyed.
struct ResetKey(Zeroizing<[u8; 32]>);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let expected = blake3::keyed_hash(&self.0, data);
        let signature: [u8; 32] = signature.try_into().map_err(|_| CryptoError)?;
        // `blake3::Hash` compares in constant time.
        if expected == signature { Ok(()) } else { Err(CryptoError) }
    }
}

/// Connection ids that mean nothing to anyone.
///
/// The crate's own generator recognises its ids by a key that a restart loses; packets of a former
/// life would then be dropped where they should be answered with a reset. This one recognises all.
struct ConnectionIds {
    life: [u8; 32],
    count: u64,
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        self.count += 1;
        let mut hasher = blake3::Hasher::new_keyed(&self.life);
        hasher.update(&self.count.to_be_bytes());
        ConnectionId::new(&hasher.finalize().as_bytes()[..ID_BYTES])
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Two ids of one device do not meet by chance.
const ID_BYTES: usize = 8;

/// First packets that wait to be looked at.
const INCOMING_MAX: usize = 256;

/// What a client may send before it is looked at: the two packets of a post-quantum hello, twice.
const INCOMING_BUFFER_BYTES: u64 = 8 * 1024;

const INCOMING_BUFFER_BYTES_TOTAL: u64 = 1024 * 1024;

/// Handshakes in flight from which on an address must be proven.
const RETRY_AT: usize = 16;

/// Handshakes in flight in all.
const HANDSHAKES_MAX: usize = 64;

/// Handshakes in flight from one proven address.
const HANDSHAKES_PER_ADDRESS_MAX: usize = 4;

/// Keeps middle boxes awake and notices a dead peer within the idle timeout.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Four keep-alives.
const IDLE_MS: u32 = 20_000;

/// Removes loss on loopback and on fast networks.
const SOCKET_BYTES: usize = 4 * 1024 * 1024;

/// What every path carries (RFC 9000 section 14).
const MTU_MIN: u16 = 1200;

/// Ethernet, with IPv6 and room for a tunnel.
pub(super) const MTU_DEFAULT: u16 = 1452;

/// Above this, ten segments of one send exceed 64 KiB and nothing arrives.
const MTU_MAX: u16 = 6500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_asks_for_proof_then_refuses() {
        let door = Door::default();
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        let mut passes = Vec::new();

        for _ in 0..RETRY_AT {
            let Entry::Admit(pass) = door.knock(address(1), false) else { panic!("room for {RETRY_AT}") };
            passes.push(pass);
        }
        assert!(matches!(door.knock(address(1), false), Entry::Prove));
        for n in 0..12 {
            for _ in 0..HANDSHAKES_PER_ADDRESS_MAX {
                let Entry::Admit(pass) = door.knock(address(n), true) else { panic!("room for four each") };
                passes.push(pass);
            }
            assert!(matches!(door.knock(address(n), true), Entry::Refuse));
        }
        assert!(matches!(door.knock(address(99), true), Entry::Refuse), "64 in all");

        passes.clear();
        assert!(matches!(door.knock(address(1), false), Entry::Admit(_)));
        assert!(door.0.lock().expect("not poisoned").proven.is_empty());
    }

    #[test]
    fn connection_ids_repeat_neither_within_a_life_nor_across_two() {
        let (mut former, mut later) =
            (ConnectionIds { life: [1; 32], count: 0 }, ConnectionIds { life: [2; 32], count: 0 });

        let a = former.generate_cid();

        assert_ne!(a, former.generate_cid());
        assert_ne!(a, later.generate_cid());
    }

    #[test]
    fn a_reset_key_verifies_its_own_only() {
        let key = ResetKey(Zeroizing::new([1; 32]));
        let mut signature = [0; 32];
        key.sign(b"id", &mut signature);

        assert!(key.verify(b"id", &signature).is_ok());
        assert!(key.verify(b"ie", &signature).is_err());
        assert!(key.verify(b"id", &signature[..16]).is_err());
    }
}
