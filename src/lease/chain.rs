//! The adopted chain: which certificates follow one another, and which of two chains counts.

use std::collections::BTreeMap;

use super::cert::{CertError, Certificate, Head, Signatures, TERM_MAX};
use super::request::HostInstance;
use super::rules::Rules;
use crate::model::{CertHash, DeviceId, SpaceId};

/// Every certificate of a space that holds, and the chain of them that is adopted.
///
/// Of two chains the longer one is adopted, of two as long the one whose certificate has the lower
/// hash where they part: whatever the order of arrival, the same set gives the same chain. With
/// one promise per term and a majority behind each certificate, chains part only where people
/// asserted something wrong (a host that was not lost) or a home was copied.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Chain {
    space: SpaceId,
    first: Head,
    certs: BTreeMap<CertHash, Link>,
    /// The adopted chain by term, certificate 0 first.
    path: Vec<CertHash>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Link {
    head: Head,
    cert: Certificate,
}

/// What a certificate did to the chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Adopted {
    /// It was known.
    Known,
    /// It is the newest now.
    Newest,
    /// It is kept, but another chain is adopted.
    Aside,
}

impl Chain {
    /// The chain of a space whose first admin is `admin`: certificate 0.
    pub fn new(space: SpaceId, admin: DeviceId) -> Self {
        let first = Head::first(space, admin);
        Self { space, first, certs: BTreeMap::new(), path: vec![first.cert] }
    }

    /// Takes a certificate, whose predecessor has to be known.
    ///
    /// Whether its voters are the devices of the roster, and its driver an admin, is for the
    /// roster to check before.
    ///
    /// # Errors
    /// Every variant of [`CertError`] but `Form`.
    pub fn admit(
        &mut self,
        cert: &Certificate,
        rules: Rules,
        signatures: Signatures,
    ) -> Result<Adopted, CertError> {
        if cert.proposal.space != self.space {
            return Err(CertError::OtherSpace { expected: self.space, found: cert.proposal.space });
        }
        let hash = cert.hash();
        if self.certs.contains_key(&hash) {
            return Ok(Adopted::Known);
        }
        if !self.has_room() {
            return Err(CertError::TooMany { limit: CERTS_MAX });
        }
        let prev = cert.proposal.prev;
        let before = self.known(&prev).ok_or(CertError::PrevUnknown { prev })?;
        let head = cert.check(&before, rules, signatures)?;
        self.certs.insert(hash, Link { head, cert: cert.clone() });
        let path = self.path_to(hash);
        let is_better = path.len() > self.path.len() || path.len() == self.path.len() && path < self.path;
        if !is_better {
            return Ok(Adopted::Aside);
        }
        self.path = path;
        Ok(Adopted::Newest)
    }

    /// Whether there may be another certificate.
    pub(super) fn has_room(&self) -> bool {
        self.certs.len() < CERTS_MAX
    }

    /// The newest certificate of the adopted chain.
    pub fn head(&self) -> Head {
        let newest = self.path.last().expect("a chain begins with certificate 0");
        self.known(newest).expect("the adopted chain is known")
    }

    /// The place of a certificate on the adopted chain; `None` is a forked lineage, or not known yet.
    ///
    /// Tokens order by this place, then by epoch.
    pub fn position(&self, cert: &CertHash) -> Option<u32> {
        let term = self.known(cert)?.term;
        (self.at(term) == Some(*cert)).then_some(term)
    }

    /// The certificate at a place of the adopted chain.
    pub fn at(&self, term: u32) -> Option<CertHash> {
        self.path.get(usize::try_from(term).ok()?).copied()
    }

    /// What a certificate says, on the adopted chain or aside.
    pub fn known(&self, cert: &CertHash) -> Option<Head> {
        if *cert == self.first.cert {
            return Some(self.first);
        }
        self.certs.get(cert).map(|link| link.head)
    }

    /// Whether a certificate of the adopted chain names this home, and was made without its device's vote,
    /// or by the only device there is.
    ///
    /// Such a home may vote: whatever an earlier one of that device promised is settled.
    pub fn vouches_for(&self, device: &DeviceId, instance: HostInstance) -> bool {
        self.path.iter().filter_map(|hash| self.certs.get(hash)).any(|link| {
            link.cert.proposal.voter(device) == Some(instance)
                && (link.cert.votes.iter().all(|vote| vote.device != *device) || link.cert.proposal.is_sole())
        })
    }

    /// The certificates of the adopted chain after certificate 0, in order.
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.path.iter().filter_map(|hash| self.certs.get(hash)).map(|link| &link.cert)
    }

    fn path_to(&self, newest: CertHash) -> Vec<CertHash> {
        let mut path = vec![newest];
        while let Some(link) = path.last().and_then(|hash| self.certs.get(hash)) {
            path.push(link.cert.proposal.prev);
        }
        path.reverse();
        path
    }
}

/// Most certificates of one space: hosts change a few times a year.
pub const CERTS_MAX: usize = 1_024;
const _: () = assert!(CERTS_MAX < TERM_MAX as usize, "every certificate has a term");
