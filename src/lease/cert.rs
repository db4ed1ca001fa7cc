//! Certificates: who hosts the register, as a hash chain that every device can check.
//!
//! A device drives a [`Proposal`]; voters confirm it, each once per term, signed over the proposal's
//! hash; with a majority of them it becomes a [`Certificate`], the body of a `DesignateHost` record.
//! Certificate 0 follows from the space. The layouts are at [`Proposal::to_bytes`] and
//! [`Certificate::to_bytes`].

use std::fmt;

use thiserror::Error;

use super::bytes::{Reader, tagged};
use super::form::FormError;
use super::request::HostInstance;
use super::rules::{Rule, Rules};
use crate::crypto::{Identity, verify};
use crate::model::{Blame, CertHash, DeviceId, LeaseEpoch, SpaceId};

macro_rules! hash {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Takes the raw bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    };
}

hash!(
    /// The hash of a proposal: what voters sign.
    ProposalHash
);
hash!(
    /// The hash of what a sealed host hands over.
    TableDigest
);

impl TableDigest {
    /// `BLAKE3("kinfold lease table v1" ‖ table bytes)`.
    pub fn of(table: &[u8]) -> Self {
        Self(tagged(b"kinfold lease table v1", &[table]))
    }
}

/// How a host came to be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CertKind {
    /// By the space's beginning: its first admin.
    First,
    /// The old host gave its register away.
    Planned,
    /// The old host is gone; its register is lost.
    Lost,
}

/// What a certificate says to those who follow it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Head {
    /// Its hash.
    pub cert: CertHash,
    /// Its place in the chain, from 0.
    pub term: u32,
    /// The host.
    pub host: DeviceId,
    /// The home of that host.
    pub instance: HostInstance,
    /// How it came to be.
    pub kind: CertKind,
    /// What the host was handed; `None` but for a planned move.
    pub table: Option<TableDigest>,
}

/// A device that may vote, and the home it votes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Voter {
    /// The device.
    pub device: DeviceId,
    /// Its home.
    pub instance: HostInstance,
}

/// Another host, put to the vote.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Proposal {
    /// The space.
    pub space: SpaceId,
    /// The place in the chain: one more than the predecessor's.
    pub term: u32,
    /// The certificate before.
    pub prev: CertHash,
    /// Planned or lost.
    pub kind: CertKind,
    /// The new host, one of the voters.
    pub host: DeviceId,
    /// The device that collects the votes and commits; one of the voters.
    pub driver: DeviceId,
    /// Every active device of the roster, strictly rising by device; at most [`VOTERS_MAX`].
    pub voters: Vec<Voter>,
}

/// One device's confirmation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Vote {
    /// Who confirms.
    pub device: DeviceId,
    /// What the old host hands over; `None` from every other device.
    pub table: Option<TableDigest>,
    /// Over [`Proposal::confirmed_hash`].
    pub signature: [u8; 64],
}

/// A proposal with the votes that make it so.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Certificate {
    /// What was proposed.
    pub proposal: Proposal,
    /// What the old host hands over, where the move was planned.
    pub table: Option<TableDigest>,
    /// The votes, strictly rising by device.
    pub votes: Vec<Vote>,
}

/// How votes are signed and checked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Signatures {
    /// Ed25519 by the strict rules: what devices do.
    Ed25519,
    /// A hash that anybody could make, a thousand times faster: what the simulator does.
    #[cfg(any(test, feature = "sim"))]
    Simulated,
}

impl Signatures {
    /// Whether `device` signed `message`.
    pub fn hold(self, device: &DeviceId, message: &[u8; 32], signature: &[u8; 64]) -> bool {
        match self {
            Self::Ed25519 => verify(device, message, signature).is_ok(),
            #[cfg(any(test, feature = "sim"))]
            Self::Simulated => *signature == Self::simulated(device, message),
        }
    }

    /// The simulator's signature.
    #[cfg(any(test, feature = "sim"))]
    pub fn simulated(device: &DeviceId, message: &[u8; 32]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature[..32]
            .copy_from_slice(&tagged(b"kinfold simulated signature", &[device.as_bytes(), message]));
        signature
    }
}

/// A certificate that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CertError {
    /// The bytes have another shape.
    #[error("the bytes are no certificate of a lease host")]
    Form(#[from] FormError),
    /// Of another space.
    #[error("the certificate belongs to space {found:?}, this is space {expected:?}")]
    OtherSpace {
        /// This space.
        expected: SpaceId,
        /// The certificate's.
        found: SpaceId,
    },
    /// The certificate it names before it is not known; that one has to come first.
    #[error("the certificate {prev:?} before it is not known here: synchronise the roster")]
    PrevUnknown {
        /// What it names.
        prev: CertHash,
    },
    /// Its term does not follow its predecessor's.
    #[error("a certificate of term {found} does not follow one of term {prev}")]
    Term {
        /// The predecessor's.
        prev: u32,
        /// Its own.
        found: u32,
    },
    /// It says it is the first, which only the space makes.
    #[error("only the beginning of a space makes a first certificate")]
    NotFirst,
    /// Its host or its driver is none of its voters.
    #[error("{device:?} is none of the voters that the certificate names")]
    NoVoter {
        /// The host or the driver.
        device: DeviceId,
    },
    /// Voters or votes that are repeated or out of order.
    #[error("voters and votes are listed once each, in rising order of their devices")]
    Order,
    /// Too few votes.
    #[error("{found} of {voters} devices confirmed, a majority takes {needed}")]
    Quorum {
        /// Valid votes.
        found: usize,
        /// What a majority takes.
        needed: usize,
        /// Voters.
        voters: usize,
    },
    /// A vote that its device did not sign.
    #[error("{device:?} did not sign the confirmation that bears its name")]
    Signature {
        /// Whose name it bears.
        device: DeviceId,
    },
    /// A planned move without the old host's seal, or a lost host that voted.
    #[error("a planned move needs the seal of the old host {host:?}, a lost host cannot give one")]
    Seal {
        /// The old host.
        host: DeviceId,
    },
    /// More certificates than one space may have.
    #[error("a chain has at most {limit} certificates")]
    TooMany {
        /// [`CERTS_MAX`](super::chain::CERTS_MAX).
        limit: usize,
    },
}

impl CertError {
    /// Whose fault it is.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Form(_)
            | Self::OtherSpace { .. }
            | Self::Term { .. }
            | Self::NotFirst
            | Self::NoVoter { .. }
            | Self::Order
            | Self::Quorum { .. }
            | Self::Signature { .. }
            | Self::Seal { .. } => Blame::Peer,
            Self::PrevUnknown { .. } => Blame::Environment,
            Self::TooMany { .. } => Blame::Local,
        }
    }
}

impl Head {
    /// Certificate 0: the space's first admin hosts, from the home its `init` made.
    ///
    /// Its hash is `BLAKE3("kinfold lease first v1" ‖ space 32 ‖ host 32)`.
    pub fn first(space: SpaceId, admin: DeviceId) -> Self {
        let cert = tagged(b"kinfold lease first v1", &[space.as_bytes(), admin.as_bytes()]);
        Self {
            cert: CertHash::from_bytes(cert),
            term: 0,
            host: admin,
            instance: HostInstance::FIRST,
            kind: CertKind::First,
            table: None,
        }
    }
}

impl Proposal {
    /// Magic `KFLP` 4 ‖ space 32 ‖ term u32 ‖ prev 32 ‖ kind u8 (2 planned, 3 lost) ‖ host 32 ‖ driver 32 ‖
    /// voter count u16 ‖ (device 32 ‖ instance u64)\*, devices strictly rising.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(140 + 40 * self.voters.len());
        out.extend_from_slice(PROPOSAL);
        out.extend_from_slice(self.space.as_bytes());
        out.extend_from_slice(&self.term.to_be_bytes());
        out.extend_from_slice(self.prev.as_bytes());
        out.push(match self.kind {
            CertKind::First => 1,
            CertKind::Planned => 2,
            CertKind::Lost => 3,
        });
        out.extend_from_slice(self.host.as_bytes());
        out.extend_from_slice(self.driver.as_bytes());
        out.extend_from_slice(&count(self.voters.len()));
        for voter in &self.voters {
            out.extend_from_slice(voter.device.as_bytes());
            out.extend_from_slice(&voter.instance.get().to_be_bytes());
        }
        out
    }

    /// Reads a proposal that fills `bytes`.
    ///
    /// # Errors
    /// Every variant of [`FormError`] but `Key`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormError> {
        let mut from = Reader::new(bytes);
        let proposal = Self::take(&mut from)?;
        from.end()?;
        Ok(proposal)
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, FormError> {
        let found = from.array::<4>()?;
        if found != *PROPOSAL {
            return Err(FormError::Magic { expected: *PROPOSAL, found });
        }
        let space = SpaceId::from_bytes(from.array()?);
        let term = from.u32()?;
        let prev = CertHash::from_bytes(from.array()?);
        let kind = match from.u8()? {
            2 => CertKind::Planned,
            3 => CertKind::Lost,
            found => return Err(FormError::Number { field: "kind of certificate", found: found.into() }),
        };
        let host = DeviceId::from_bytes(from.array()?);
        let driver = DeviceId::from_bytes(from.array()?);
        let mut voters: Vec<Voter> = Vec::new();
        for _ in 0..from.count(VOTERS_MAX)? {
            let device = DeviceId::from_bytes(from.array()?);
            if voters.last().is_some_and(|before| before.device >= device) {
                return Err(FormError::Order);
            }
            voters.push(Voter { device, instance: HostInstance::new(from.u64()?) });
        }
        Ok(Self { space, term, prev, kind, host, driver, voters })
    }

    /// `BLAKE3("kinfold lease proposal v1" ‖ bytes)`.
    pub fn hash(&self) -> ProposalHash {
        ProposalHash(tagged(b"kinfold lease proposal v1", &[&self.to_bytes()]))
    }

    /// What a voter signs: `BLAKE3("kinfold lease confirm v1" ‖ proposal hash ‖ table digest, zero for none)`.
    pub fn confirmed_hash(hash: ProposalHash, table: Option<TableDigest>) -> [u8; 32] {
        let table = table.map_or([0; 32], |digest| digest.0);
        tagged(b"kinfold lease confirm v1", &[&hash.0, &table])
    }

    /// Signs a vote. Only what [`Designation`](super::Designation) asks for may be signed.
    pub fn confirm(hash: ProposalHash, table: Option<TableDigest>, identity: &Identity) -> Vote {
        let signature = identity.sign(&Self::confirmed_hash(hash, table));
        Vote { device: identity.device(), table, signature }
    }

    /// What a driver signs who gives its proposal up: `BLAKE3("kinfold lease withdraw v1" ‖ proposal hash)`.
    pub fn withdrawn_hash(hash: ProposalHash) -> [u8; 32] {
        tagged(b"kinfold lease withdraw v1", &[&hash.0])
    }

    /// The home of a device, if it may vote.
    pub fn voter(&self, device: &DeviceId) -> Option<HostInstance> {
        let at = self.voters.binary_search_by(|voter| voter.device.cmp(device)).ok()?;
        Some(self.voters[at].instance)
    }

    /// How many votes it takes: more than half.
    pub const fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// Checks everything that does not depend on votes.
    ///
    /// # Errors
    /// [`CertError::NotFirst`], [`CertError::Term`], [`CertError::Order`], [`CertError::NoVoter`].
    pub fn check(&self, prev: &Head) -> Result<(), CertError> {
        if self.kind == CertKind::First {
            return Err(CertError::NotFirst);
        }
        if self.term > TERM_MAX || Some(self.term) != prev.term.checked_add(1) {
            return Err(CertError::Term { prev: prev.term, found: self.term });
        }
        if self.voters.windows(2).any(|pair| pair[0].device >= pair[1].device) {
            return Err(CertError::Order);
        }
        for device in [self.host, self.driver] {
            if self.voter(&device).is_none() {
                return Err(CertError::NoVoter { device });
            }
        }
        Ok(())
    }
}

impl Proposal {
    /// Whether there is nobody to confirm it but its driver, who has lost a host: a restored home that is
    /// the only device. It holds by the word of the person who says that no other copy of it runs.
    pub fn is_sole(&self) -> bool {
        self.kind == CertKind::Lost && matches!(&self.voters[..], [voter] if voter.device == self.driver)
    }
}

impl Certificate {
    /// The certificate's hash: `BLAKE3("kinfold lease cert v1" ‖ proposal hash ‖ table digest, zero for none)`.
    ///
    /// Votes are left out, so that it does not matter which of them its driver had.
    pub fn hash(&self) -> CertHash {
        let table = self.table.map_or([0; 32], |digest| digest.0);
        CertHash::from_bytes(tagged(b"kinfold lease cert v1", &[&self.proposal.hash().0, &table]))
    }

    /// Magic `KFLC` 4 ‖ proposal length u16 ‖ proposal ‖ table u8 (0, or 1 ‖ digest 32) ‖ vote count u16 ‖
    /// (device 32 ‖ signature 64)\*, devices strictly rising. The digest belongs to the old host's vote.
    pub fn to_bytes(&self) -> Vec<u8> {
        let proposal = self.proposal.to_bytes();
        let mut out = Vec::with_capacity(48 + proposal.len() + 96 * self.votes.len());
        out.extend_from_slice(CERTIFICATE);
        out.extend_from_slice(&count(proposal.len()));
        out.extend_from_slice(&proposal);
        match &self.table {
            None => out.push(0),
            Some(digest) => {
                out.push(1);
                out.extend_from_slice(&digest.0);
            }
        }
        out.extend_from_slice(&count(self.votes.len()));
        for vote in &self.votes {
            out.extend_from_slice(vote.device.as_bytes());
            out.extend_from_slice(&vote.signature);
        }
        out
    }

    /// Reads a certificate. `old_host` is the host of the certificate before it, whose vote bears the table.
    ///
    /// # Errors
    /// Every variant of [`FormError`] but `Key`.
    pub fn from_bytes(
        bytes: &[u8],
        old_host: &dyn Fn(&CertHash) -> Option<DeviceId>,
    ) -> Result<Self, CertError> {
        let mut from = Reader::new(bytes);
        let found = from.array::<4>()?;
        if found != *CERTIFICATE {
            return Err(FormError::Magic { expected: *CERTIFICATE, found }.into());
        }
        let proposal_bytes = usize::from(from.u16()?);
        let proposal = Proposal::from_bytes(from.slice(proposal_bytes)?)?;
        let table = match from.u8()? {
            0 => None,
            1 => Some(TableDigest(from.array()?)),
            found => {
                return Err(FormError::Number { field: "presence of a table", found: found.into() }.into());
            }
        };
        let old_host = old_host(&proposal.prev).ok_or(CertError::PrevUnknown { prev: proposal.prev })?;
        let mut votes: Vec<Vote> = Vec::new();
        for _ in 0..from.count(VOTERS_MAX)? {
            let device = DeviceId::from_bytes(from.array()?);
            if votes.last().is_some_and(|before| before.device >= device) {
                return Err(FormError::Order.into());
            }
            let table = table.filter(|_| device == old_host);
            votes.push(Vote { device, table, signature: from.array()? });
        }
        from.end()?;
        Ok(Self { proposal, table, votes })
    }

    /// Checks that the certificate follows `prev` and that a majority made it so.
    ///
    /// Whether its voters are the devices of the roster is the roster's to say.
    ///
    /// # Errors
    /// Every variant of [`CertError`] but those of bytes and of the chain.
    pub fn check(&self, prev: &Head, rules: Rules, signatures: Signatures) -> Result<Head, CertError> {
        let head = self.check_form(prev, rules)?;
        let hash = self.proposal.hash();
        for vote in &self.votes {
            let signed = Proposal::confirmed_hash(hash, vote.table);
            if !signatures.hold(&vote.device, &signed, &vote.signature) {
                return Err(CertError::Signature { device: vote.device });
            }
        }
        Ok(head)
    }

    /// Everything but the signatures, which a driver has checked one by one.
    pub(super) fn check_form(&self, prev: &Head, rules: Rules) -> Result<Head, CertError> {
        self.proposal.check(prev)?;
        let is_distinct = self.votes.windows(2).all(|pair| pair[0].device < pair[1].device);
        if !is_distinct && rules.keeps(Rule::DistinctDevices) {
            return Err(CertError::Order);
        }
        for vote in &self.votes {
            if self.proposal.voter(&vote.device).is_none() {
                return Err(CertError::NoVoter { device: vote.device });
            }
        }
        self.check_seal(prev)?;
        let (found, needed, voters) =
            (self.votes.len(), self.proposal.majority(), self.proposal.voters.len());
        if found < needed && rules.keeps(Rule::Majority) {
            return Err(CertError::Quorum { found, needed, voters });
        }
        let instance = self.proposal.voter(&self.proposal.host).expect("it was just found among the voters");
        Ok(Head {
            cert: self.hash(),
            term: self.proposal.term,
            host: self.proposal.host,
            instance,
            kind: self.proposal.kind,
            table: self.table,
        })
    }

    fn check_seal(&self, prev: &Head) -> Result<(), CertError> {
        let sealed = self.votes.iter().find(|vote| vote.device == prev.host);
        let is_sound = match self.proposal.kind {
            CertKind::Planned => {
                self.table.is_some()
                    && sealed.is_some_and(|vote| vote.table == self.table)
                    && self.proposal.voter(&prev.host) == Some(prev.instance)
            }
            CertKind::Lost => {
                let is_other_home = self.proposal.voter(&prev.host) != Some(prev.instance);
                self.table.is_none() && (sealed.is_none() || self.proposal.is_sole() && is_other_home)
            }
            CertKind::First => self.table.is_none() && sealed.is_none(),
        };
        let is_only = self.votes.iter().all(|vote| vote.device == prev.host || vote.table.is_none());
        if is_sound && is_only { Ok(()) } else { Err(CertError::Seal { host: prev.host }) }
    }
}

fn count(len: usize) -> [u8; 2] {
    u16::try_from(len).expect("what is written keeps its limits").to_be_bytes()
}

/// Most voters: with a majority of votes the certificate still fits a roster record.
pub const VOTERS_MAX: usize = 512;

/// The greatest term that a token can name.
pub const TERM_MAX: u32 = LeaseEpoch::MAX.term();

const PROPOSAL: &[u8; 4] = b"KFLP";
const CERTIFICATE: &[u8; 4] = b"KFLC";
