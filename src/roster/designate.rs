//! Writing the record that names a host of the register of leases.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::content::{Confirmation, Content, DesignateHost};
use super::host::{self, Handover, HostProposal, HostTerm, NO_TABLE};
use super::{Author, Roster, RosterError};
use crate::model::DeviceId;
use crate::model::limits::{CONFIRMATIONS_MAX, RECORD_PARENTS_MAX};

impl Roster {
    /// Proposes a host, with `coordinator` as the admin that will write the record.
    ///
    /// `instance` is the life of the host's home; `promised` the greatest term that the coordinator
    /// knows to be promised, here or elsewhere.
    ///
    /// # Errors
    /// [`RosterError::NotAdmin`], [`RosterError::NotADevice`], [`RosterError::HostTerm`] where no term
    /// is left.
    pub fn propose_host(
        &self,
        coordinator: &DeviceId,
        handover: Handover,
        (host, instance): (DeviceId, u64),
        promised: u32,
    ) -> Result<HostProposal, RosterError> {
        self.check_admin(coordinator)?;
        if self.role_of(&host).is_none() {
            return Err(RosterError::NotADevice { device: host });
        }
        let last = self.lease_host();
        let found = last.term.max(promised).saturating_add(1);
        let term = HostTerm::new(found).ok_or(RosterError::HostTerm { last: last.term, found })?;
        Ok(HostProposal {
            term,
            handover,
            prev: last.hash,
            from: last.host,
            host,
            instance,
            coordinator: *coordinator,
            parents: self.parents_for(coordinator),
        })
    }

    /// Checks that a proposal is one this device would make in the coordinator's place, before it is
    /// confirmed: the same records seen, the same certificate in force, a later term.
    ///
    /// # Errors
    /// [`RosterError::NotAdmin`], [`RosterError::NotADevice`], [`RosterError::ProposalParents`],
    /// [`RosterError::HostChain`], [`RosterError::HostTerm`].
    pub fn check_host_proposal(&self, proposal: &HostProposal) -> Result<(), RosterError> {
        self.check_admin(&proposal.coordinator)?;
        if self.role_of(&proposal.host).is_none() {
            return Err(RosterError::NotADevice { device: proposal.host });
        }
        if self.parents_for(&proposal.coordinator) != proposal.parents {
            return Err(RosterError::ProposalParents);
        }
        let last = self.lease_host();
        if (last.hash, last.host) != (proposal.prev, proposal.from) {
            return Err(RosterError::HostChain { expected: last.hash, found: proposal.prev });
        }
        if proposal.term.get() <= last.term {
            return Err(RosterError::HostTerm { last: last.term, found: proposal.term.get() });
        }
        Ok(())
    }

    /// Whether the confirmations there are make a proposal a certificate; the devices that count.
    ///
    /// # Errors
    /// [`RosterError::ProposalParents`], [`RosterError::HostUnsealed`], [`RosterError::HostQuorum`].
    pub fn host_confirmed(
        &self,
        proposal: &HostProposal,
        table: Option<[u8; 32]>,
        confirmations: &[Confirmation],
    ) -> Result<Vec<Confirmation>, RosterError> {
        let is_form = proposal.parents.is_sorted_by(|a, b| a < b)
            && (1..=RECORD_PARENTS_MAX).contains(&proposal.parents.len());
        let past = self.dag.seen_by(&proposal.parents).filter(|_| is_form);
        let past = past.ok_or(RosterError::ProposalParents)?;
        let members = host::members_in(&self.dag, &self.facts.verdict, &past);
        let digest = table.unwrap_or(NO_TABLE);
        let counting: BTreeMap<DeviceId, Confirmation> = confirmations
            .iter()
            .filter(|confirmation| members.contains(&confirmation.device))
            .filter(|confirmation| proposal.is_confirmed_by(self.space, confirmation, digest))
            .map(|confirmation| (confirmation.device, *confirmation))
            .collect();
        if proposal.handover == Handover::Planned
            && (table.is_none() || !counting.contains_key(&proposal.from))
        {
            return Err(RosterError::HostUnsealed { host: proposal.from });
        }
        let voters = host::voters(proposal.handover, &proposal.from, &members);
        let found = voters.filter(|device| counting.contains_key(*device)).count();
        let needed = host::majority(members.len());
        if found < needed {
            return Err(RosterError::HostQuorum { needed, found });
        }
        Ok(counting.into_values().take(CONFIRMATIONS_MAX).collect())
    }

    /// Writes the record that makes a proposed device the host; [`Roster::admit`] it to make it count.
    ///
    /// `table` is the digest of what the host before has sealed. Of the confirmations it takes those
    /// that count, each device's once.
    ///
    /// # Errors
    /// [`RosterError::NotCoordinator`], [`RosterError::NotAdmin`], [`RosterError::ProposalParents`],
    /// [`RosterError::HostUnsealed`], [`RosterError::HostQuorum`], [`RosterError::TooManyRecords`].
    pub fn designate(
        &self,
        author: &Author<'_>,
        proposal: &HostProposal,
        table: Option<[u8; 32]>,
        confirmations: &[Confirmation],
    ) -> Result<Bytes, RosterError> {
        let own = author.identity.device();
        if own != proposal.coordinator {
            return Err(RosterError::NotCoordinator { device: own, coordinator: proposal.coordinator });
        }
        self.check_admin(&own)?;
        let table = table.filter(|_| proposal.handover == Handover::Planned);
        let content = Content::DesignateHost(Box::new(DesignateHost {
            term: proposal.term,
            handover: proposal.handover,
            prev: proposal.prev,
            from: proposal.from,
            host: proposal.host,
            instance: proposal.instance,
            table: table.unwrap_or(NO_TABLE),
            confirmations: self.host_confirmed(proposal, table, confirmations)?,
        }));
        self.sign(author, proposal.parents.clone(), content)
    }
}
