//! Who must not get in, and what those who are in must not do.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionStore, ResolvesClientCert, Resumption, Tls13ClientSessionValue};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, NamedGroup, SignatureScheme};

use super::*;
use crate::model::limits::{BATCH_SEALED_BYTES_MAX, FRAME_BYTES_MAX};

#[tokio::test]
async fn a_certificate_thief_is_refused_as_client() {
    let mut b = Node::start(2, &[1]).await;

    let end = Impostor::thief(1, 66).knock(b.address()).await;

    assert_eq!(alert(&end), Some(ACCESS_OR_DECRYPT), "{end}");
    nobody_opened(&mut b);
}

#[tokio::test]
async fn a_certificate_thief_is_refused_as_server() {
    let mut a = Node::start(1, &[2]).await;
    let (endpoint, address) = Impostor::thief(2, 66).listen();

    a.net.dial(vec![address], Some(device(2)));

    let error = a.dial_failed().await;
    let expect = PeerRefused::NotSigned { device: device(2) };
    assert!(matches!(error, DialError::PeerRefused(found) if found == expect), "{error:?}");
    drop(endpoint);
}

#[tokio::test]
async fn the_rightful_owner_of_the_same_certificate_gets_in() {
    // Shows that the thieves above fail by their key and by nothing else.
    let mut b = Node::start(2, &[1]).await;

    let peer = let_in(&mut b).await;

    drop(peer);
}

#[tokio::test]
async fn a_stranger_is_refused_by_either_side() {
    let (mut a, mut b) = (Node::start(1, &[2]).await, Node::start(2, &[3]).await);
    a.dial(&b);
    let error = a.dial_failed().await;
    assert!(matches!(error, DialError::RefusedByPeer(CloseReason::Rejected)), "{error:?}");
    assert_eq!(error.blame(), Blame::Local);
    nobody_opened(&mut b);

    b.net.dial(vec![a.address()], None);
    let error = b.dial_failed().await;
    let expect = PeerRefused::NotPinned { device: device(1) };
    assert!(matches!(error, DialError::PeerRefused(found) if found == expect), "{error:?}");

    b.net.dial(vec![a.address()], Some(device(1)));
    assert!(matches!(b.dial_failed().await, DialError::NotPinned));
}

#[tokio::test]
async fn a_device_does_not_connect_to_itself() {
    let mut a = Node::start(1, &[1, 2]).await;

    a.net.dial(vec![a.address()], None);

    let error = a.dial_failed().await;
    assert!(matches!(error, DialError::PeerRefused(PeerRefused::Itself)), "{error:?}");
    nobody_opened(&mut a);
}

#[tokio::test]
async fn another_member_does_not_answer_for_a_device() {
    let (mut a, b) = (Node::start(1, &[2, 3]).await, Node::start(2, &[1]).await);

    a.net.dial(vec![b.address()], Some(device(3)));

    let error = a.dial_failed().await;
    let expect = PeerRefused::AnotherDevice { expected: device(3), found: device(2) };
    assert!(matches!(error, DialError::PeerRefused(found) if found == expect), "{error:?}");
}

#[tokio::test]
async fn another_kind_of_key_is_refused_on_both_sides() {
    let (mut a, mut b) = (Node::start(1, &[2]).await, Node::start(2, &[1]).await);

    let end = Impostor::ecdsa().knock(b.address()).await;
    assert!(alert(&end).is_some(), "{end}");
    nobody_opened(&mut b);

    let (endpoint, address) = Impostor::ecdsa().listen();
    a.net.dial(vec![address], Some(device(2)));
    let error = a.dial_failed().await;
    assert!(matches!(error, DialError::Handshake(_) | DialError::PeerRefused(_)), "{error:?}");
    drop(endpoint);
}

#[tokio::test]
async fn a_chain_is_refused() {
    let mut b = Node::start(2, &[1]).await;
    let mut impostor = Impostor::honest(1);
    impostor.chain.push(Impostor::honest(3).chain.remove(0));

    let end = impostor.knock(b.address()).await;

    assert!(alert(&end).is_some(), "{end}");
    nobody_opened(&mut b);
}

#[tokio::test]
async fn no_certificate_no_entry() {
    let mut b = Node::start(2, &[1]).await;
    let mut impostor = Impostor::honest(1);
    impostor.chain.clear();

    let end = impostor.knock(b.address()).await;

    assert_eq!(alert(&end), Some(CERTIFICATE_REQUIRED), "{end}");
    nobody_opened(&mut b);
}

#[tokio::test]
async fn a_classical_key_exchange_is_refused_on_both_sides() {
    let (mut a, mut b) = (Node::start(1, &[2]).await, Node::start(2, &[1]).await);
    let classical = |seed| Impostor { groups: vec![aws_lc_rs::kx_group::X25519], ..Impostor::honest(seed) };

    let end = classical(1).knock(b.address()).await;
    assert_eq!(alert(&end), Some(HANDSHAKE_FAILURE), "{end}");
    nobody_opened(&mut b);

    let (endpoint, address) = classical(2).listen();
    a.net.dial(vec![address], Some(device(2)));
    let error = a.dial_failed().await;
    assert!(matches!(error, DialError::Handshake(_)), "{error:?}");
    assert_eq!(error.blame(), Blame::Peer);
    drop(endpoint);
}

#[tokio::test]
async fn no_name_is_sent() {
    let a = Node::start(1, &[2]).await;
    let endpoint = Impostor::honest(2).server();

    a.net.dial(vec![endpoint.local_addr().expect("bound")], None);

    let incoming = tokio::time::timeout(PATIENCE, endpoint.accept()).await.expect("a dial").expect("open");
    let handshake = incoming.await.expect("let in").handshake_data().expect("done");
    let handshake = handshake.downcast::<quinn::crypto::rustls::HandshakeData>().expect("rustls");
    assert_eq!(handshake.server_name, None);
    assert_eq!(handshake.protocol.as_deref(), Some(ALPN));
}

#[tokio::test]
async fn another_protocol_or_none_is_refused_on_both_sides() {
    let (mut a, mut b) = (Node::start(1, &[2]).await, Node::start(2, &[1]).await);

    for protocols in [vec![b"h3".to_vec()], Vec::new()] {
        let speaks = |seed| Impostor { protocols: protocols.clone(), ..Impostor::honest(seed) };
        let end = speaks(1).knock(b.address()).await;
        assert!(alert(&end).is_some(), "{end}");
        nobody_opened(&mut b);

        let (endpoint, address) = speaks(2).listen();
        a.net.dial(vec![address], None);
        let error = a.dial_failed().await;
        assert!(matches!(error, DialError::Handshake(_)), "{error:?}");
        drop(endpoint);
    }
}

#[tokio::test]
async fn nothing_is_resumed_so_a_removed_device_stays_out() {
    let mut b = Node::start(2, &[1]).await;
    let impostor = Impostor::honest(1);
    let (peer, link) = tokio::join!(impostor.enter(b.address()), b.connected());
    link.send(Bytes::from_static(b"tickets would have come before this")).expect("room");
    let mut control = peer.control.1;
    let mut first = [0; 9];
    control.read_exact(&mut first).await.expect("hello");
    control.read_exact(&mut [0; 30]).await.expect("the frame after");

    b.pins.set(BTreeSet::new());
    b.net.drop_unpinned();

    assert_eq!(b.closed().await, CloseReason::ByUs(CloseCode::Unpinned));
    let end = peer.connection.closed().await;
    assert_eq!(CloseReason::of(&end), CloseReason::ByPeer(CloseCode::Unpinned));
    assert_eq!(impostor.tickets.count.load(Ordering::SeqCst), 0, "a ticket was issued");
    let end = impostor.knock(b.address()).await;
    assert!(alert(&end).is_some(), "{end}");
    nobody_opened(&mut b);
}

#[tokio::test]
async fn a_broken_rule_closes_with_blame_and_the_node_goes_on() {
    let mut b = Node::start_with(2, &[1], NetConfig { handshake_timeout: HASTE, ..loopback() }).await;
    let mut four_gibibytes = batch(0, 0);
    four_gibibytes[130..134].copy_from_slice(&[0xff; 4]);
    let cases = [
        (
            Rule::Batch(four_gibibytes),
            Violation::BatchTooLong { announced: u64::from(u32::MAX) + 278, limit: BATCH_SEALED_BYTES_MAX },
        ),
        (Rule::Batch(b"GET / HTTP/1.1".to_vec()), Violation::BatchMagic { found: *b"GET " }),
        (Rule::Batch(batch(9, 1)[..100].to_vec()), Violation::BatchCutShort { held: 100 }),
        (Rule::Frame(vec![0xff; 4]), Violation::FrameTooLong { announced: u32::MAX, limit: FRAME_BYTES_MAX }),
        (Rule::Frame(vec![0; 4]), Violation::FrameEmpty),
        (Rule::Frame(vec![0, 0, 1, 0, 7]), Violation::ControlEnded),
    ];

    for (rule, expect) in cases {
        let mut peer = let_in(&mut b).await;
        match rule {
            Rule::Batch(bytes) => {
                let mut stream = peer.connection.open_uni().await.expect("open");
                stream.write_all(&bytes).await.expect("open");
                stream.finish().expect("once");
            }
            Rule::Frame(bytes) => {
                peer.control.0.write_all(&bytes).await.expect("open");
                peer.control.0.finish().expect("once");
            }
        }

        let reason = b.closed().await;
        assert_eq!(reason, CloseReason::Violation(expect));
        assert_eq!(reason.blame(), Blame::Peer);
        let end = peer.connection.closed().await;
        assert_eq!(CloseReason::of(&end), CloseReason::ByPeer(CloseCode::Violation));
    }

    let silent = Impostor::honest(1).connect(b.address()).await.expect("handshake");
    let expect = Violation::Silent { waited_ms: HASTE.as_millis() };
    assert_eq!(b.closed().await, CloseReason::Violation(expect));
    drop(silent);
    let_in(&mut b).await;
}

#[tokio::test]
async fn a_flood_of_connections_by_one_member_leaves_two() {
    let mut b = Node::start(2, &[1]).await;
    let mut peers = Vec::new();

    for _ in 0..6 {
        let peer = let_in(&mut b).await;
        peers.push(peer);
    }
    let (closed, open) = peers.split_at(4);
    for peer in closed {
        let end = tokio::time::timeout(PATIENCE, peer.connection.closed()).await.expect("closed");
        assert_eq!(CloseReason::of(&end), CloseReason::ByPeer(CloseCode::Duplicate));
    }
    assert!(open.iter().all(|peer| peer.connection.close_reason().is_none()));
}

enum Rule {
    Batch(Vec<u8>),
    Frame(Vec<u8>),
}

/// A QUIC peer that chooses each part of its TLS by hand and believes everyone.
struct Impostor {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    groups: Vec<&'static dyn SupportedKxGroup>,
    protocols: Vec<Vec<u8>>,
    tickets: Arc<Tickets>,
}

/// An impostor that got in.
struct Peer {
    connection: quinn::Connection,
    control: (quinn::SendStream, quinn::RecvStream),
    _endpoint: quinn::Endpoint,
}

impl Impostor {
    /// What the device itself would use.
    fn honest(seed: u8) -> Self {
        Self::thief(seed, seed)
    }

    /// The certificate of one device with the key of another.
    fn thief(victim: u8, own: u8) -> Self {
        let certificate = certificate(&Identity::from_secret(&[victim; 32])).expect("signs");
        let key = Identity::from_secret(&[own; 32]).to_pkcs8().to_vec();
        Self::with(certificate, key)
    }

    fn ecdsa() -> Self {
        let key = KeyPair::generate().expect("entropy");
        let params = CertificateParams::new(Vec::new()).expect("no names to refuse");
        Self::with(params.self_signed(&key).expect("signs").der().clone(), key.serialize_der())
    }

    fn with(certificate: CertificateDer<'static>, pkcs8: Vec<u8>) -> Self {
        Self {
            chain: vec![certificate],
            key: PrivatePkcs8KeyDer::from(pkcs8).into(),
            groups: vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519],
            protocols: vec![ALPN.to_vec()],
            tickets: Arc::default(),
        }
    }

    fn provider(&self) -> Arc<CryptoProvider> {
        Arc::new(CryptoProvider { kx_groups: self.groups.clone(), ..aws_lc_rs::default_provider() })
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        let key = aws_lc_rs::sign::any_supported_type(&self.key).expect("a key");
        Arc::new(CertifiedKey::new(self.chain.clone(), key))
    }

    fn client(&self) -> quinn::ClientConfig {
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("has TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_client_cert_resolver(Arc::new(Show((!self.chain.is_empty()).then(|| self.certified()))));
        config.alpn_protocols.clone_from(&self.protocols);
        config.resumption = Resumption::store(Arc::clone(&self.tickets) as Arc<dyn ClientSessionStore>);
        config.enable_early_data = true;
        quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).expect("has the first suite")))
    }

    fn server(&self) -> quinn::Endpoint {
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("has TLS 1.3")
            .with_client_cert_verifier(Arc::new(Anyone))
            .with_cert_resolver(Arc::new(Show(Some(self.certified()))));
        config.alpn_protocols.clone_from(&self.protocols);
        let crypto = Arc::new(QuicServerConfig::try_from(config).expect("has the first suite"));
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        quinn::Endpoint::server(quinn::ServerConfig::with_crypto(crypto), address).expect("loopback")
    }

    /// Listens and believes everyone who calls.
    fn listen(&self) -> (quinn::Endpoint, SocketAddr) {
        let endpoint = self.server();
        let address = endpoint.local_addr().expect("bound");
        let accepting = endpoint.clone();
        tokio::spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                let Ok(connection) = incoming.await else { continue };
                connection.closed().await;
            }
        });
        (endpoint, address)
    }

    async fn connect(
        &self,
        address: SocketAddr,
    ) -> Result<(quinn::Connection, quinn::Endpoint), quinn::ConnectionError> {
        let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback");
        let connecting = endpoint.connect_with(self.client(), address, "anything.example").expect("dialable");
        let connection = tokio::time::timeout(PATIENCE, connecting).await.expect("an answer")?;
        Ok((connection, endpoint))
    }

    /// Tries to get in and returns how it ended.
    async fn knock(&self, address: SocketAddr) -> quinn::ConnectionError {
        match self.connect(address).await {
            Err(error) => error,
            Ok((connection, _endpoint)) => {
                tokio::time::timeout(PATIENCE, connection.closed()).await.expect("not let in")
            }
        }
    }

    /// Gets in and says hello.
    async fn enter(&self, address: SocketAddr) -> Peer {
        let (connection, endpoint) = self.connect(address).await.expect("let in");
        let mut control = connection.open_bi().await.expect("open");
        control.0.write_all(b"\0\0\0\x05hello").await.expect("open");
        Peer { connection, control, _endpoint: endpoint }
    }
}

/// Connects device 1 as it should be.
async fn let_in(node: &mut Node) -> Peer {
    let (impostor, address) = (Impostor::honest(1), node.address());
    let (peer, _) = tokio::join!(impostor.enter(address), node.connected());
    peer
}

fn nobody_opened(node: &mut Node) {
    while let Ok(event) = node.events.try_recv() {
        assert!(!matches!(event, NetEvent::Opened { .. } | NetEvent::Connected { .. }), "{event:?}");
    }
}

/// The TLS alert that ended a connection, whoever sent it.
fn alert(error: &quinn::ConnectionError) -> Option<u64> {
    let code = match error {
        quinn::ConnectionError::ConnectionClosed(close) => u64::from(close.error_code),
        quinn::ConnectionError::TransportError(error) => u64::from(error.code),
        _ => return None,
    };
    code.checked_sub(0x100).filter(|alert| *alert < 0x100)
}

/// Shows one certificate, whether its key fits or not.
#[derive(Debug)]
struct Show(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Show {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

impl ResolvesServerCert for Show {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }
}

/// Counts the tickets it is given and gives them back.
#[derive(Debug, Default)]
struct Tickets {
    count: AtomicUsize,
    kept: Mutex<Vec<Tls13ClientSessionValue>>,
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: rustls::client::Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<rustls::client::Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.kept.lock().expect("not poisoned").push(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept.lock().expect("not poisoned").pop()
    }
}

/// Believes every certificate.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl ClientCertVerifier for Anyone {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// TLS alerts (RFC 8446 section 6).
const HANDSHAKE_FAILURE: u64 = 40;
const CERTIFICATE_REQUIRED: u64 = 116;

/// What a verifier's refusal of the handshake signature is told as.
const ACCESS_OR_DECRYPT: u64 = 46;

/// Short, for the one case that has to wait it out.
const HASTE: Duration = Duration::from_millis(500);
