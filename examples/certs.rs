//! Writes the test vectors for device certificates: what a peer may show, and what is said to it.
//!
//! `cargo run --example certs -- certs` writes `certs/*.der` and `certs/vectors.json` anew. The
//! identities are made from fixed bytes and belong to nobody. Ed25519 signs the same way every time,
//! so these files come out as they were; certificates of other kinds of keys are only made where
//! they are missing.

use std::fs;
use std::path::Path;

use kinfold::crypto::Identity;
use kinfold::net;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
    PKCS_RSA_SHA256, SignatureAlgorithm, date_time_ymd,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "certs".to_owned());
    let mut vectors = Vectors { dir: dir.as_ref(), list: Vec::new() };
    vectors.profile()?;
    vectors.beside_the_key()?;
    vectors.chains()?;
    vectors.other_keys()?;
    vectors.broken()?;
    let manifest = json!({
        "about": "written by examples/certs.rs; `chain` is what a peer shows, in order",
        "own": Identity::from_secret(&OWN).device().to_string(),
        "pinned": [Identity::from_secret(&OWN).device().to_string(), device().to_string()],
        "vectors": vectors.list,
    });
    fs::write(Path::new(&dir).join("vectors.json"), format!("{manifest:#}\n"))?;
    Ok(())
}

struct Vectors<'a> {
    dir: &'a Path,
    list: Vec<Value>,
}

impl Vectors<'_> {
    fn profile(&mut self) -> Result<(), Failure> {
        let good = net::certificate(&Identity::from_secret(&PEER))?;
        self.add("good", &[("good", &good)], "accepted", "as kinfold makes it")?;
        let own = net::certificate(&Identity::from_secret(&OWN))?;
        self.add("own", &[("own", &own)], "Itself", "this device's own certificate")?;
        let stranger = net::certificate(&Identity::from_secret(&OTHER))?;
        self.add("stranger", &[("stranger", &stranger)], "NotPinned", "of a device that is in no roster")
    }

    /// Everything but the key is ignored.
    fn beside_the_key(&mut self) -> Result<(), Failure> {
        let mut expired = params()?;
        (expired.not_before, expired.not_after) = (date_time_ymd(1990, 1, 1), date_time_ymd(1991, 1, 1));
        self.add_signed("expired", &expired, "dates are ignored")?;
        let mut early = params()?;
        (early.not_before, early.not_after) = (date_time_ymd(4000, 1, 1), date_time_ymd(4001, 1, 1));
        self.add_signed("not-yet-valid", &early, "dates are ignored")?;
        let mut authority = params()?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self.add_signed("ca-flag", &authority, "extensions are ignored: there are no authorities")?;
        let mut named = CertificateParams::new(vec!["example.org".to_owned()])?;
        named.distinguished_name.push(DnType::CommonName, "somebody else");
        self.add_signed("named", &named, "names are ignored")?;
        let good = der(&params()?)?;
        let mut signature = good.clone();
        *signature.last_mut().ok_or("a certificate has bytes")? ^= 1;
        let about = "the certificate's own signature is not read: that over the handshake counts";
        self.add("wrong-signature", &[("wrong-signature", &signature)], "accepted", about)?;
        let by_other = params()?.signed_by(&key(&PEER)?, &Issuer::new(params()?, key(&OTHER)?))?;
        self.add("signed-by-another", &[("signed-by-another", by_other.der())], "accepted", about)
    }

    fn chains(&mut self) -> Result<(), Failure> {
        let good = der(&params()?)?;
        let other = net::certificate(&Identity::from_secret(&OTHER))?;
        let about = "a certificate stands alone";
        self.add("two", &[("good", &good), ("stranger", &other)], "Intermediates", about)?;
        self.add("twice", &[("good", &good), ("good", &good)], "Intermediates", about)?;
        let mut authority = params()?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = authority.self_signed(&key(&OTHER)?)?;
        let leaf = params()?.signed_by(&key(&PEER)?, &Issuer::new(authority, key(&OTHER)?))?;
        let chain = [("leaf", &leaf.der()[..]), ("authority", &root.der()[..])];
        self.add("chain", &chain, "Intermediates", about)
    }

    fn other_keys(&mut self) -> Result<(), Failure> {
        for (name, algorithm) in [("p256", &PKCS_ECDSA_P256_SHA256), ("rsa", &PKCS_RSA_SHA256)] {
            let made = self.made_once(name, algorithm)?;
            self.add(name, &[(name, &made)], "NotEd25519", "another kind of key")?;
        }
        let key = device();
        let key = key.as_bytes();
        let spki = |head: &[u8], key: &[u8]| [head, key].concat();
        let x25519 = spki(&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e, 0x03, 0x21, 0x00], key);
        self.add_spki("x25519", &x25519, "a key for another purpose")?;
        let head = [0x30, 0x2c, 0x30, 0x07, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x05, 0x00, 0x03, 0x21, 0x00];
        self.add_spki("parameters", &spki(&head, key), "RFC 8410 has no parameters")?;
        let head = [0x30, 0x29, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x20, 0x00];
        self.add_spki("short-key", &spki(&head, &key[1..]), "31 bytes are no Ed25519 key")
    }

    fn broken(&mut self) -> Result<(), Failure> {
        let good = der(&params()?)?;
        let longer = [&good[..], &[0]].concat();
        self.add("trailing", &[("trailing", &longer)], "NotACertificate", "a byte follows")?;
        let cut = &good[..good.len() - 1];
        self.add("cut", &[("cut", cut)], "NotACertificate", "the last byte is missing")?;
        self.add("empty", &[("empty", &[])], "NotACertificate", "no bytes")?;
        let (body, _) = content(&good);
        let (_, tbs_rest) = content(body);
        let tbs = &body[..body.len() - tbs_rest.len()];
        let unsigned = wrap(0x30, tbs);
        let about = "signature and its algorithm are left out";
        self.add("unsigned", &[("unsigned", &unsigned)], "NotACertificate", about)
    }

    fn add_signed(&mut self, name: &str, params: &CertificateParams, about: &str) -> Result<(), Failure> {
        self.add(name, &[(name, &der(params)?)], "accepted", about)
    }

    /// The good certificate with another SubjectPublicKeyInfo.
    fn add_spki(&mut self, name: &str, spki: &[u8], about: &str) -> Result<(), Failure> {
        let good = der(&params()?)?;
        let (body, _) = content(&good);
        let (tbs, rest) = content(body);
        let device = device();
        let key_at =
            tbs.windows(32).position(|bytes| bytes == device.as_bytes()).ok_or("the key is there")?;
        let tbs = [&tbs[..key_at - 12], spki, &tbs[key_at + 32..]].concat();
        let changed = wrap(0x30, &[&wrap(0x30, &tbs), rest].concat());
        self.add(name, &[(name, &changed)], "NotEd25519", about)
    }

    fn add(
        &mut self,
        name: &str,
        chain: &[(&str, &[u8])],
        verdict: &str,
        about: &str,
    ) -> Result<(), Failure> {
        for (file, der) in chain {
            fs::write(self.dir.join(format!("{file}.der")), der)?;
        }
        let files: Vec<String> = chain.iter().map(|(file, _)| format!("{file}.der")).collect();
        self.list.push(json!({ "name": name, "chain": files, "verdict": verdict, "about": about }));
        Ok(())
    }

    /// These keys, or their signatures, come out differently every time.
    fn made_once(&self, name: &str, algorithm: &'static SignatureAlgorithm) -> Result<Vec<u8>, Failure> {
        match fs::read(self.dir.join(format!("{name}.der"))) {
            Ok(made) => Ok(made),
            Err(_) => Ok(params()?.self_signed(&KeyPair::generate_for(algorithm)?)?.der().to_vec()),
        }
    }
}

fn device() -> kinfold::model::DeviceId {
    Identity::from_secret(&PEER).device()
}

fn key(secret: &[u8; 32]) -> Result<KeyPair, rcgen::Error> {
    let pkcs8 = Identity::from_secret(secret).to_pkcs8();
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()), &PKCS_ED25519)
}

/// As kinfold has them.
fn params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params)
}

fn der(params: &CertificateParams) -> Result<Vec<u8>, rcgen::Error> {
    Ok(params.self_signed(&key(&PEER)?)?.der().to_vec())
}

/// The content of the first DER value, and what follows it.
fn content(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, at) = match der[1] {
        length @ 0..=0x7f => (usize::from(length), 2),
        long => {
            let count = usize::from(long & 0x7f);
            (der[2..2 + count].iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), 2 + count)
        }
    };
    der[at..].split_at(length)
}

fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("a certificate is short");
    let [high, low] = length.to_be_bytes();
    let head = match length {
        0..=0x7f => vec![tag, low],
        0x80..=0xff => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [&head, content].concat()
}

const OWN: [u8; 32] = [0x11; 32];
const PEER: [u8; 32] = [0x22; 32];
const OTHER: [u8; 32] = [0x33; 32];
