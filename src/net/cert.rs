//! The certificate that carries a device's key into TLS, and the way back from one to the device.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ED25519};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::ParsedCertificate;
use thiserror::Error;

use crate::crypto::identity::Identity;
use crate::model::{Blame, DeviceId};

/// A certificate that names no acceptable device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PeerRefused {
    /// The bytes are no X.509 certificate.
    #[error("the certificate cannot be read")]
    NotACertificate,
    /// The certificate carries a key that is not Ed25519.
    #[error("the certificate's key is not an Ed25519 key")]
    NotEd25519,
    /// A chain was sent; a device's certificate stands alone.
    #[error("{found} certificates were sent beside the device's own, none is expected")]
    Intermediates {
        /// How many.
        found: usize,
    },
    /// The certificate is this device's own: the address leads back here.
    #[error("the other side is this very device")]
    Itself,
    /// The device is no member of any space here.
    #[error("device {device:?} is not in the roster of any space here; invite it first")]
    NotPinned {
        /// Who it is.
        device: DeviceId,
    },
    /// A pinned device, but not the one this address was dialled for.
    #[error("device {found:?} answered where {expected:?} was dialled")]
    AnotherDevice {
        /// Whom the dial was for.
        expected: DeviceId,
        /// Who answered.
        found: DeviceId,
    },
    /// The handshake was not signed by the certificate's key: somebody copied the certificate.
    #[error("device {device:?} did not sign the handshake with its key")]
    NotSigned {
        /// Whose certificate was shown.
        device: DeviceId,
    },
}

impl PeerRefused {
    /// Who is at fault.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Itself | Self::NotPinned { .. } | Self::AnotherDevice { .. } => Blame::Environment,
            Self::NotACertificate
            | Self::NotEd25519
            | Self::Intermediates { .. }
            | Self::NotSigned { .. } => Blame::Peer,
        }
    }
}

/// Makes the self-signed certificate of `identity`. Its names and dates mean nothing to anyone.
///
/// # Errors
/// Whatever rcgen reports; none is known for an Ed25519 key.
pub fn certificate(identity: &Identity) -> Result<CertificateDer<'static>, rcgen::Error> {
    let pkcs8 = identity.to_pkcs8();
    let key =
        KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()), &PKCS_ED25519)?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.self_signed(&key)?.der().clone())
}

/// The device whose key `certificate` carries. Nothing about the certificate is trusted by this.
///
/// # Errors
/// [`PeerRefused::NotACertificate`], [`PeerRefused::NotEd25519`].
pub fn device(certificate: &CertificateDer<'_>) -> Result<DeviceId, PeerRefused> {
    let parsed = ParsedCertificate::try_from(certificate).map_err(|_| PeerRefused::NotACertificate)?;
    let spki = parsed.subject_public_key_info();
    let Some(key) = spki.strip_prefix(&ED25519_SPKI_PREFIX) else {
        return Err(PeerRefused::NotEd25519);
    };
    let key: [u8; 32] = key.try_into().map_err(|_| PeerRefused::NotEd25519)?;
    Ok(DeviceId::from_bytes(key))
}

/// SubjectPublicKeyInfo of every Ed25519 key up to the key itself (RFC 8410 section 4).
const ED25519_SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_leads_back_to_its_device() {
        let identity = Identity::from_secret(&[5; 32]);

        let certificate = certificate(&identity).expect("an Ed25519 key signs");

        assert_eq!(device(&certificate), Ok(identity.device()));
    }

    #[test]
    fn other_keys_and_other_bytes_name_no_device() {
        let key = KeyPair::generate().expect("entropy");
        let params = CertificateParams::new(Vec::new()).expect("no names to refuse");
        let ecdsa = params.self_signed(&key).expect("signs").der().clone();

        assert_eq!(device(&ecdsa), Err(PeerRefused::NotEd25519));
        assert_eq!(device(&CertificateDer::from(vec![0; 80])), Err(PeerRefused::NotACertificate));
    }
}
