//! Who hosts the register of leases: certificates, how one is proposed, and which of them count.
//!
//! The founder hosts by the first certificate, which follows from the genesis. Every later one is a
//! record that an admin commits once a majority of the roster has promised its term: each device
//! promises a term once, durably, with its own signature over the hash of the proposal, and that hash
//! is the certificate's name. In a planned handover the confirmation of the host before is its seal
//! and covers the table it hands over; in the other kind it counts for nothing.
//!
//! A certificate names the one before, so they form a chain, and tokens compare on one chain only.
//! Where several follow the same one, the greatest term counts, then the least hash: a function of the
//! set of records, like everything else here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::content::{Confirmation, Content, DesignateHost};
use super::dag::Dag;
use super::nodes::NodeSet;
use super::removal::{Verdict, target};
use crate::crypto::{Identity, verify};
use crate::model::{CertHash, DeviceId, LeaseEpoch, RecordHash, SpaceId};

/// Which host of a register, counted from 0; one that a record names, so never 0 itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HostTerm(u32);

impl HostTerm {
    /// The last term that tokens have room for.
    pub const MAX: Self = Self(LeaseEpoch::MAX.term());

    /// The term of this number; `None` for 0 and beyond [`HostTerm::MAX`].
    pub const fn new(raw: u32) -> Option<Self> {
        if 0 < raw && raw <= Self::MAX.0 { Some(Self(raw)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// How a register gets another host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Handover {
    /// The host before has sealed its register for good and hands its table over: nobody waits.
    Planned,
    /// The host before is lost: the new one waits until whatever it granted has run out.
    Lost,
}

impl Handover {
    pub(crate) const fn to_byte(self) -> u8 {
        match self {
            Self::Planned => 1,
            Self::Lost => 2,
        }
    }

    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Planned),
            2 => Some(Self::Lost),
            _ => None,
        }
    }
}

/// A certificate that counts: who hosts the register from here on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostCertificate {
    /// Its name: the hash of the proposal.
    pub hash: CertHash,
    /// The certificate before; [`CertHash::NONE`] in the first.
    pub prev: CertHash,
    /// Which host; 0 in the first.
    pub term: u32,
    /// The device.
    pub host: DeviceId,
    /// The life of its home; 0 in the first: the home as it was made.
    pub instance: u64,
    /// How it came to host; `None` in the first.
    pub handover: Option<Handover>,
    /// The hash of the table it was handed, where that was planned.
    pub table: Option<[u8; 32]>,
    /// The roster record; `None` in the first.
    pub record: Option<RecordHash>,
}

/// A host that an admin proposes.
///
/// The admin fixes the record's parents now, so that all confirm the same thing and the quorum is
/// counted among the devices that all of them know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostProposal {
    /// The term.
    pub term: HostTerm,
    /// How.
    pub handover: Handover,
    /// The certificate before.
    pub prev: CertHash,
    /// The host by that.
    pub from: DeviceId,
    /// The host to be.
    pub host: DeviceId,
    /// The life of its home.
    pub instance: u64,
    /// The admin that will write the record.
    pub coordinator: DeviceId,
    /// What the record will name as its parents, strictly rising.
    pub parents: Vec<RecordHash>,
}

impl HostProposal {
    /// The name of the certificate it becomes: `BLAKE3("kinfold lease certificate v1" ‖ space 32 ‖ term
    /// u32 ‖ handover u8 ‖ certificate before 32 ‖ host before 32 ‖ host 32 ‖ instance u64 ‖ coordinator 32 ‖
    /// [parent 32])`.
    pub fn hash(&self, space: SpaceId) -> CertHash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"kinfold lease certificate v1");
        hasher.update(space.as_bytes());
        hasher.update(&self.term.get().to_be_bytes());
        hasher.update(&[self.handover.to_byte()]);
        hasher.update(self.prev.as_bytes());
        hasher.update(self.from.as_bytes());
        hasher.update(self.host.as_bytes());
        hasher.update(&self.instance.to_be_bytes());
        hasher.update(self.coordinator.as_bytes());
        for parent in &self.parents {
            hasher.update(parent.as_bytes());
        }
        CertHash::from_bytes(*hasher.finalize().as_bytes())
    }

    /// Signs that this device has promised the term to this proposal:
    /// Ed25519 over `BLAKE3("kinfold lease confirm v1" ‖ proposal hash ‖ table digest)`.
    ///
    /// `table` is the digest of what the host before hands over; any other device gives `None`, which
    /// is signed as zeros. Make the promise durable first, and ask
    /// [`Roster::check_host_proposal`](super::Roster::check_host_proposal) before that.
    pub fn confirm(&self, space: SpaceId, identity: &Identity, table: Option<[u8; 32]>) -> [u8; 64] {
        identity.sign(&confirmed_hash(&self.hash(space), &table.unwrap_or(NO_TABLE)))
    }

    /// Whether this is the device's confirmation of this proposal; the one of the host before is
    /// checked with the table it hands over.
    pub fn is_confirmed_by(&self, space: SpaceId, confirmation: &Confirmation, table: [u8; 32]) -> bool {
        let table = if confirmation.device == self.from { table } else { NO_TABLE };
        let signed = confirmed_hash(&self.hash(space), &table);
        verify(&confirmation.device, &signed, &confirmation.signature).is_ok()
    }
}

impl DesignateHost {
    /// What was proposed.
    pub fn proposal(&self, coordinator: DeviceId, parents: &[RecordHash]) -> HostProposal {
        HostProposal {
            term: self.term,
            handover: self.handover,
            prev: self.prev,
            from: self.from,
            host: self.host,
            instance: self.instance,
            coordinator,
            parents: parents.to_vec(),
        }
    }

    /// The devices whose signature holds. It depends on the record alone, so it is asked once.
    pub fn confirmed_by(
        &self,
        space: SpaceId,
        coordinator: DeviceId,
        parents: &[RecordHash],
    ) -> BTreeSet<DeviceId> {
        let proposal = self.proposal(coordinator, parents);
        let holds = |confirmation: &&Confirmation| proposal.is_confirmed_by(space, confirmation, self.table);
        self.confirmations.iter().filter(holds).map(|confirmation| confirmation.device).collect()
    }
}

/// The name of the first certificate: `BLAKE3("kinfold lease certificate 0 v1" ‖ space)`.
pub(super) fn first_hash(space: SpaceId) -> CertHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"kinfold lease certificate 0 v1");
    hasher.update(space.as_bytes());
    CertHash::from_bytes(*hasher.finalize().as_bytes())
}

/// The certificates that count, the first one first.
pub(super) fn chain(dag: &Dag, verdict: &Verdict, founder: DeviceId) -> Vec<HostCertificate> {
    let space = dag.space();
    let mut following: BTreeMap<CertHash, Vec<(DeviceId, HostCertificate)>> = BTreeMap::new();
    for at in dag.ranked() {
        let node = dag.node(at);
        let Content::DesignateHost(designated) = node.record.content() else { continue };
        let author = node.record.author();
        let is_entitled =
            !verdict.void.contains(at) && verdict.grants.admin_in(&author, &node.past).is_some();
        if is_entitled && has_quorum(dag, verdict, designated, &node.confirmed, &node.past) {
            let proposal = designated.proposal(author, node.record.parents());
            let certificate = HostCertificate {
                hash: proposal.hash(space),
                prev: designated.prev,
                term: designated.term.get(),
                host: designated.host,
                instance: designated.instance,
                handover: Some(designated.handover),
                table: (designated.handover == Handover::Planned).then_some(designated.table),
                record: Some(node.record.hash()),
            };
            following.entry(designated.prev).or_default().push((designated.from, certificate));
        }
    }
    let first = HostCertificate {
        hash: first_hash(space),
        prev: CertHash::NONE,
        term: 0,
        host: founder,
        instance: 0,
        handover: None,
        table: None,
        record: None,
    };
    let mut chain = vec![first];
    while let Some(last) = chain.last() {
        let candidates = following.remove(&last.hash).unwrap_or_default().into_iter();
        let next = candidates
            .filter(|(from, next)| *from == last.host && last.term < next.term)
            .map(|(_, next)| next)
            .max_by_key(|next| (next.term, Reverse(next.hash)));
        match next {
            Some(next) => chain.push(next),
            None => break,
        }
    }
    chain
}

/// Whether a majority of the devices that the record knew of has confirmed it, each once.
fn has_quorum(
    dag: &Dag,
    verdict: &Verdict,
    designated: &DesignateHost,
    confirmed: &BTreeSet<DeviceId>,
    past: &NodeSet,
) -> bool {
    let members = members_in(dag, verdict, past);
    let is_sealed = designated.handover == Handover::Lost || confirmed.contains(&designated.from);
    let votes = voters(designated.handover, &designated.from, &members)
        .filter(|device| confirmed.contains(*device))
        .count();
    members.contains(&designated.host) && is_sealed && votes >= majority(members.len())
}

/// Whose confirmations count. A host that is called lost has no say in what becomes of its register,
/// unless nobody else is there to say it.
pub(super) fn voters<'a>(
    handover: Handover,
    from: &'a DeviceId,
    members: &'a BTreeSet<DeviceId>,
) -> impl Iterator<Item = &'a DeviceId> {
    let is_alone = members.len() == 1;
    members.iter().filter(move |device| match handover {
        Handover::Planned => true,
        Handover::Lost => is_alone || *device != from,
    })
}

/// The least number that is more than half.
pub(super) const fn majority(members: usize) -> usize {
    members / 2 + 1
}

/// The devices of the space by what `past` holds, blind ones too.
pub(super) fn members_in(dag: &Dag, verdict: &Verdict, past: &NodeSet) -> BTreeSet<DeviceId> {
    let removed: BTreeSet<DeviceId> =
        verdict.effective.iter().filter(|at| past.contains(**at)).map(|at| target(dag, *at)).collect();
    verdict
        .grants
        .devices()
        .filter(|device| !removed.contains(device) && verdict.grants.role_in(device, past).is_some())
        .copied()
        .collect()
}

fn confirmed_hash(proposal: &CertHash, table: &[u8; 32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"kinfold lease confirm v1");
    hasher.update(proposal.as_bytes());
    hasher.update(table);
    *hasher.finalize().as_bytes()
}

/// What a record says where no table is handed over, and what devices sign that hand none over.
pub(super) const NO_TABLE: [u8; 32] = [0; 32];
