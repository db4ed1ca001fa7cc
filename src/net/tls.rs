//! The TLS profile: TLS 1.3, one post-quantum key exchange, both sides pinned, nothing resumed.
//!
//! Pairing uses the same profile with one difference: no device is pinned yet, so every other one is
//! let in, under another protocol name, and must then prove the code. Everything here is stricter than the defaults of rustls and quinn, each by a line of its own.
//! Must never accept a certificate without the signature over the handshake: a certificate is
//! public, and a verifier that skips the signature lets in whoever copied one. See manual/threats.md.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use super::cert::{self, PeerRefused};
use crate::crypto::identity::{self, Identity};
use crate::model::DeviceId;

/// The application protocol both sides must name.
pub const ALPN: &[u8] = b"kinfold/1";

/// The application protocol of a pairing.
pub const PAIR_ALPN: &[u8] = b"kinfold-pair/1";

/// Which devices may connect right now. Clones share one set.
#[derive(Clone, Debug, Default)]
pub struct Pins(Arc<RwLock<BTreeSet<DeviceId>>>);

impl Pins {
    /// Pins exactly these devices.
    pub fn new(devices: BTreeSet<DeviceId>) -> Self {
        Self(Arc::new(RwLock::new(devices)))
    }

    /// Replaces the set. Handshakes see it at once; for live connections call
    /// [`Net::drop_unpinned`](super::Net::drop_unpinned) next.
    pub fn set(&self, devices: BTreeSet<DeviceId>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = devices;
    }

    /// Whether `device` may connect.
    pub fn contains(&self, device: &DeviceId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(device)
    }
}

/// Whom a side of a handshake lets in, and by that for which protocol.
#[derive(Clone, Debug)]
pub(super) enum Trust {
    /// Devices of a roster: [`ALPN`].
    Pinned(Pins),
    /// Every device but this one: [`PAIR_ALPN`], and nothing is granted for having connected.
    Anyone,
}

impl Trust {
    const fn alpn(&self) -> &'static [u8] {
        match self {
            Self::Pinned(_) => ALPN,
            Self::Anyone => PAIR_ALPN,
        }
    }
}

/// A device's key and certificate in the form TLS takes them.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) device: DeviceId,
}

impl Credentials {
    pub(super) fn new(identity: &Identity) -> Result<Self, rcgen::Error> {
        let key = PrivatePkcs8KeyDer::from(identity.to_pkcs8().to_vec()).into();
        Ok(Self { certificate: cert::certificate(identity)?, key, device: identity.device() })
    }
}

/// The listening side: client certificates mandatory, no tickets, no stored sessions, no early data.
pub(super) fn server(credentials: &Credentials, trust: Trust) -> Result<QuicServerConfig, Error> {
    let alpn = trust.alpn();
    let verifier = Arc::new(Verifier::new(credentials.device, trust, None));
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![credentials.certificate.clone()], credentials.key.clone_key())?;
    config.alpn_protocols = vec![alpn.to_vec()];
    // Resumption skips the verifiers, so a device removed meanwhile would be let in again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(QuicServerConfig::try_from(config).expect("the provider has TLS13_AES_128_GCM_SHA256"))
}

/// The dialling side, for one dial: `verdict` tells afterwards why the other side was refused.
pub(super) fn client(
    credentials: &Credentials,
    trust: Trust,
    expect: Option<DeviceId>,
) -> Result<(QuicClientConfig, Verdict), Error> {
    let alpn = trust.alpn();
    let verifier = Verifier::new(credentials.device, trust, expect);
    let verdict = verifier.verdict.clone();
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(vec![credentials.certificate.clone()], credentials.key.clone_key())?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    let config = QuicClientConfig::try_from(config).expect("the provider has TLS13_AES_128_GCM_SHA256");
    Ok((config, verdict))
}

/// The device on the other side of a finished handshake; `None` where TLS left anything open or
/// agreed on another protocol than `alpn`.
pub(super) fn authenticated(connection: &quinn::Connection, alpn: &[u8]) -> Option<DeviceId> {
    let handshake = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    // Two sides that both name no protocol would connect.
    if handshake.protocol.as_deref() != Some(alpn) {
        return None;
    }
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    match chain.as_slice() {
        [certificate] => cert::device(certificate).ok(),
        _ => None,
    }
}

/// Why a dial's verifier refused, if it did.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdict(Arc<Mutex<Option<PeerRefused>>>);

impl Verdict {
    pub(super) fn get(&self) -> Option<PeerRefused> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&self, why: PeerRefused) -> Error {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
    }
}

#[derive(Debug)]
struct Verifier {
    own: DeviceId,
    trust: Trust,
    expect: Option<DeviceId>,
    verdict: Verdict,
}

impl Verifier {
    fn new(own: DeviceId, trust: Trust, expect: Option<DeviceId>) -> Self {
        Self { own, trust, expect, verdict: Verdict::default() }
    }

    fn trusted(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), PeerRefused> {
        if !intermediates.is_empty() {
            return Err(PeerRefused::Intermediates { found: intermediates.len() });
        }
        let found = cert::device(certificate)?;
        if found == self.own {
            return Err(PeerRefused::Itself);
        }
        match &self.trust {
            Trust::Pinned(pins) if !pins.contains(&found) => {
                return Err(PeerRefused::NotPinned { device: found });
            }
            Trust::Pinned(_) | Trust::Anyone => {}
        }
        match self.expect {
            Some(expected) if expected != found => Err(PeerRefused::AnotherDevice { expected, found }),
            Some(_) | None => Ok(()),
        }
    }

    fn signed(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<(), PeerRefused> {
        let device = cert::device(certificate)?;
        let refused = PeerRefused::NotSigned { device };
        if signed.scheme != SignatureScheme::ED25519 {
            return Err(refused);
        }
        let signature: &[u8; 64] = signed.signature().try_into().map_err(|_| refused)?;
        identity::verify(&device, message, signature).map_err(|_| refused)
    }

    fn handshake_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signed(message, certificate, signed).map_err(|why| self.verdict.refuse(why))?;
        Ok(HandshakeSignatureValid::assertion())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.trusted(end_entity, intermediates).map_err(|why| self.verdict.refuse(why))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.handshake_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.trusted(end_entity, intermediates).map_err(|why| self.verdict.refuse(why))?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.handshake_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// Makes the provider seed this thread's random generator, which takes 30 ms once: better at the
/// start of a thread than inside the first handshake that runs on it.
pub fn warm_up() {
    // A generator that fails here fails at the handshake, which reports it.
    let _ = aws_lc_rs::default_provider().secure_random.fill(&mut [0; 32]);
}

/// One key exchange only: with a second one on offer, an attacker chooses the weaker.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        ..aws_lc_rs::default_provider()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lone_certificate_of_the_expected_pinned_device_passes() {
        let certificate = |seed| cert::certificate(&Identity::from_secret(&[seed; 32])).expect("signs");
        let device = |seed| Identity::from_secret(&[seed; 32]).device();
        let pins = Pins::new(BTreeSet::from([device(1), device(2), device(3)]));
        let verifier = Verifier::new(device(1), Trust::Pinned(pins.clone()), Some(device(2)));

        assert_eq!(verifier.trusted(&certificate(2), &[]), Ok(()));
        let chain = [certificate(3), certificate(4)];
        assert_eq!(verifier.trusted(&certificate(2), &chain), Err(PeerRefused::Intermediates { found: 2 }));
        assert_eq!(verifier.trusted(&certificate(1), &[]), Err(PeerRefused::Itself));
        let another = PeerRefused::AnotherDevice { expected: device(2), found: device(3) };
        assert_eq!(verifier.trusted(&certificate(3), &[]), Err(another));
        assert_eq!(verifier.trusted(&certificate(4), &[]), Err(PeerRefused::NotPinned { device: device(4) }));
        pins.set(BTreeSet::new());
        assert_eq!(
            verifier.trusted(&certificate(2), &[]),
            Err(PeerRefused::NotPinned { device: device(2) }),
            "clones share one set"
        );
    }

    #[test]
    fn pairing_trusts_every_lone_certificate_but_this_device_s_own() {
        let certificate = |seed| cert::certificate(&Identity::from_secret(&[seed; 32])).expect("signs");
        let device = |seed| Identity::from_secret(&[seed; 32]).device();
        let anyone = Verifier::new(device(1), Trust::Anyone, None);
        let named = Verifier::new(device(1), Trust::Anyone, Some(device(2)));

        assert_eq!(anyone.trusted(&certificate(2), &[]), Ok(()));
        assert_eq!(anyone.trusted(&certificate(1), &[]), Err(PeerRefused::Itself));
        assert_eq!(named.trusted(&certificate(2), &[]), Ok(()));
        let another = PeerRefused::AnotherDevice { expected: device(2), found: device(3) };
        assert_eq!(named.trusted(&certificate(3), &[]), Err(another));
    }

    #[derive(serde::Deserialize)]
    struct Vectors {
        own: String,
        pinned: Vec<String>,
        vectors: Vec<Vector>,
    }

    #[derive(serde::Deserialize)]
    struct Vector {
        name: String,
        chain: Vec<String>,
        verdict: String,
    }

    fn name_of(why: PeerRefused) -> &'static str {
        match why {
            PeerRefused::NotACertificate => "NotACertificate",
            PeerRefused::NotEd25519 => "NotEd25519",
            PeerRefused::Intermediates { .. } => "Intermediates",
            PeerRefused::Itself => "Itself",
            PeerRefused::NotPinned { .. } => "NotPinned",
            PeerRefused::AnotherDevice { .. } => "AnotherDevice",
            PeerRefused::NotSigned { .. } => "NotSigned",
        }
    }

    #[test]
    fn every_vector_gets_its_verdict_on_both_sides() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("certs");
        let text = std::fs::read_to_string(dir.join("vectors.json")).expect("part of the source");
        let Vectors { own, pinned, vectors } = serde_json::from_str(&text).expect("a manifest");
        let device = |text: &String| text.parse::<DeviceId>().expect("a device");
        let pins = Pins::new(pinned.iter().map(device).collect());
        let mut unlisted: BTreeSet<_> = std::fs::read_dir(&dir)
            .expect("part of the source")
            .map(|entry| entry.expect("readable").file_name().into_string().expect("ASCII"))
            .filter(|name| name.ends_with(".der"))
            .collect();

        for Vector { name, chain, verdict } in &vectors {
            let chain: Vec<CertificateDer<'_>> = chain
                .iter()
                .map(|file| {
                    unlisted.remove(file);
                    std::fs::read(dir.join(file)).expect("part of the source").into()
                })
                .collect();
            let (leaf, intermediates) = chain.split_first().expect("at least one");
            let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000));
            let found = |verifier: &Verifier, is_accepted: bool| match verifier.verdict.get() {
                Some(why) if !is_accepted => name_of(why),
                None if is_accepted => "accepted",
                Some(_) | None => "undecided",
            };

            let verifier = Verifier::new(device(&own), Trust::Pinned(pins.clone()), None);
            let server = ServerName::try_from("kinfold").expect("a name");
            let dialled = verifier.verify_server_cert(leaf, intermediates, &server, &[], now);
            assert_eq!(found(&verifier, dialled.is_ok()), verdict, "{name}, dialled");
            let verifier = Verifier::new(device(&own), Trust::Pinned(pins.clone()), None);
            let listening = verifier.verify_client_cert(leaf, intermediates, now);
            assert_eq!(found(&verifier, listening.is_ok()), verdict, "{name}, dialling");
        }

        assert!(vectors.len() >= 20 && unlisted.is_empty(), "not in the manifest: {unlisted:?}");
        let good = std::fs::read(dir.join("good.der")).expect("part of the source");
        let made = cert::certificate(&Identity::from_secret(&[0x22; 32])).expect("signs");
        assert_eq!(made.as_ref(), good, "the profile has not changed");
    }
}
