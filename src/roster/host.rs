//! Who hosts the register of leases: which certificates of a set of records count, and writing one.
//!
//! A `DesignateHost` record bears a certificate of the lease core. The roster says what that core
//! cannot know: that an admin wrote it, and that its voters are the active devices there were by what
//! the record had seen, blind ones too. The founder hosts by the first certificate, which follows from
//! the genesis. Which chain is adopted is a function of the certificates: see [`Chain`].

use std::collections::BTreeSet;

use bytes::Bytes;

use super::content::{Content, DesignateHost};
use super::dag::Dag;
use super::nodes::NodeSet;
use super::removal::{Verdict, target};
use super::{Author, Roster, RosterError};
use crate::lease::{Certificate, Chain, Head, Rules, Signatures};
use crate::model::{DeviceId, RecordHash};

/// The chain that the records come to.
///
/// It checks the signatures of every certificate, each time: a space has a handful of them.
pub(super) fn chain(dag: &Dag, verdict: &Verdict) -> Chain {
    let genesis = dag.index_of(&RecordHash::from_bytes(*dag.space().as_bytes()));
    let founder = dag.node(genesis.expect("a roster is loaded with its genesis")).record.author();
    let mut chain = Chain::new(dag.space(), founder);
    for at in dag.ranked() {
        let node = dag.node(at);
        let Content::DesignateHost(designated) = node.record.content() else { continue };
        let author = node.record.author();
        let is_entitled = !verdict.void.contains(at)
            && verdict.grants.admin_in(&author, &node.past).is_some()
            && designated.cert.proposal.driver == author
            && names(&designated.cert, &voters_in(dag, verdict, &node.past));
        if is_entitled && let Ok(cert) = read(&chain, &designated.bytes) {
            // What does not hold is nobody's certificate; the record stays, like any other.
            let _ = chain.admit(&cert, Rules::ALL, Signatures::Ed25519);
        }
    }
    chain
}

fn read(chain: &Chain, bytes: &[u8]) -> Result<Certificate, crate::lease::CertError> {
    Certificate::from_bytes(bytes, &|prev| chain.known(prev).map(|head| head.host))
}

/// Whether these devices, and no other, are asked.
fn names(cert: &Certificate, voters: &BTreeSet<DeviceId>) -> bool {
    cert.proposal.voters.iter().map(|voter| voter.device).eq(voters.iter().copied())
}

/// The active devices of the space by what `past` holds, blind ones too.
fn voters_in(dag: &Dag, verdict: &Verdict, past: &NodeSet) -> BTreeSet<DeviceId> {
    let mut gone: BTreeSet<DeviceId> =
        verdict.effective.iter().filter(|at| past.contains(**at)).map(|at| target(dag, *at)).collect();
    let mut dormant = BTreeSet::new();
    for at in dag.ranked().filter(|at| past.contains(*at)) {
        match dag.node(at).record.content() {
            Content::Dormant(said) if super::fold::may_speak_for(dag, verdict, at, &said.device) => {
                dormant.insert(said.device);
            }
            Content::Active(device) if super::fold::may_speak_for(dag, verdict, at, device) => {
                dormant.remove(device);
            }
            Content::Genesis(_)
            | Content::AddDevice(_)
            | Content::RemoveDevice(_)
            | Content::Rename(_)
            | Content::Dormant(_)
            | Content::Active(_)
            | Content::RotateKey(_)
            | Content::DesignateHost(_)
            | Content::SelectBranch(_)
            | Content::Unknown { .. } => {}
        }
    }
    gone.append(&mut dormant);
    let granted = |device: &&DeviceId| verdict.grants.role_in(device, past).is_some();
    verdict.grants.devices().filter(|device| !gone.contains(device)).filter(granted).copied().collect()
}

impl Roster {
    /// The certificates of the hosts of the register of leases. The host in force may have been
    /// removed since; then the register has none until another is designated.
    pub fn lease_chain(&self) -> &Chain {
        &self.facts.hosts
    }

    /// The certificate in force.
    pub fn lease_head(&self) -> Head {
        self.facts.hosts.head()
    }

    /// The devices that are asked for another host: every active one, also blind ones.
    pub fn lease_voters(&self) -> Vec<DeviceId> {
        let active = self.facts.members.values().filter(|member| !member.is_dormant());
        active.map(|member| member.device).collect()
    }

    /// Writes the record that makes a certificate count; [`Roster::admit`] it.
    ///
    /// # Errors
    /// [`RosterError::NotCoordinator`], [`RosterError::NotAdmin`], [`RosterError::HostVoters`],
    /// [`RosterError::HostCertificate`], [`RosterError::TooManyRecords`].
    pub fn designate(&self, author: &Author<'_>, cert: &Certificate) -> Result<Bytes, RosterError> {
        let own = author.identity.device();
        let driver = cert.proposal.driver;
        if own != driver {
            return Err(RosterError::NotCoordinator { device: own, coordinator: driver });
        }
        self.check_admin(&own)?;
        if !names(cert, &self.lease_voters().into_iter().collect()) {
            return Err(RosterError::HostVoters);
        }
        let content = DesignateHost::of(cert);
        let mut chain = self.facts.hosts.clone();
        let admitted =
            read(&chain, &content.bytes).and_then(|cert| chain.admit(&cert, Rules::ALL, Signatures::Ed25519));
        admitted.map_err(RosterError::HostCertificate)?;
        self.sign(author, self.parents_for(&own), Content::DesignateHost(Box::new(content)))
    }
}
