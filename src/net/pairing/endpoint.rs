//! The endpoints of a pairing: small windows, one stream, and an address that is always proven.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, EndpointConfig, IdleTimeout, TransportConfig, ValidationTokenConfig, VarInt};
use tokio_util::task::TaskTracker;

use super::super::NetError;
use super::super::endpoint::{TrackedRuntime, socket};
use super::super::tls::{self, Credentials, PAIR_ALPN, Trust, Verdict};
use super::PairConfig;
use crate::crypto::pairing::InviteId;
use crate::model::DeviceId;

/// Listens for joiners.
pub(super) fn listen(
    credentials: &Credentials,
    config: &PairConfig,
    drivers: TaskTracker,
) -> Result<quinn::Endpoint, NetError> {
    let crypto = tls::server(credentials, Trust::Anyone).map_err(NetError::Tls)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0);
    let mut transport = transport();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .receive_window(VarInt::from_u32(REQUEST_WINDOW_BYTES))
        .stream_receive_window(VarInt::from_u32(REQUEST_WINDOW_BYTES));
    server
        .transport_config(Arc::new(transport))
        .validation_token_config(tokens)
        .max_incoming(INCOMING_MAX)
        .migration(false);
    bind(config, Some(server), drivers)
}

/// Binds the joiner's socket.
pub(super) fn dialer(config: &PairConfig, drivers: TaskTracker) -> Result<quinn::Endpoint, NetError> {
    bind(config, None, drivers)
}

/// What one dial is made with; the verdict tells why the other side was refused.
pub(super) fn client(
    credentials: &Credentials,
    expect: Option<DeviceId>,
) -> Result<(quinn::ClientConfig, Verdict), NetError> {
    let (crypto, verdict) = tls::client(credentials, Trust::Anyone, expect).map_err(NetError::Tls)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    let mut transport = transport();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    config.transport_config(Arc::new(transport));
    config.token_store(Arc::new(quinn::NoneTokenStore));
    Ok((config, verdict))
}

/// The device at the other end, if TLS left nothing open.
pub(super) fn authenticated(connection: &Connection) -> Option<DeviceId> {
    tls::authenticated(connection, PAIR_ALPN)
}

/// `E`: equal at both ends of this connection, and nowhere else (RFC 8446 section 7.5).
pub(super) fn exported(connection: &Connection, invite: InviteId) -> [u8; 32] {
    let mut exported = [0; 32];
    connection
        .export_keying_material(&mut exported, EXPORTER, invite.as_bytes())
        .expect("32 bytes are within the bounds of the exporter");
    exported
}

fn bind(
    config: &PairConfig,
    server: Option<quinn::ServerConfig>,
    drivers: TaskTracker,
) -> Result<quinn::Endpoint, NetError> {
    let socket = socket(config.listen)?;
    let runtime = Arc::new(TrackedRuntime(drivers));
    quinn::Endpoint::new(EndpointConfig::default(), server, socket, runtime)
        .map_err(|source| NetError::Bind { address: config.listen, source })
}

/// The endpoint's own address; where it listens everywhere, only the port says something.
pub(super) fn local_addr(endpoint: &quinn::Endpoint, config: &PairConfig) -> Result<SocketAddr, NetError> {
    endpoint.local_addr().map_err(|source| NetError::Bind { address: config.listen, source })
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MS))));
    transport
}

const EXPORTER: &[u8] = b"EXPORTER-kinfold-pair-v1";

/// A joiner sends three frames.
const REQUEST_WINDOW_BYTES: u32 = 16 * 1024;

/// First packets that wait to be looked at.
const INCOMING_MAX: usize = 32;

const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// A person waits: a peer that is gone is to be noticed while they still do.
const IDLE_MS: u32 = 10_000;
