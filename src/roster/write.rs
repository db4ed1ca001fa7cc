//! What a device writes: records that would count for nothing are refused by name instead.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use bytes::Bytes;

use super::Roster;
use super::author::{Author, NewDevice, check_name};
use super::content::{
    AddDevice, Branch, Confirmation, Content, Dormant, Genesis, RemoveDevice, Rename, RotateKey,
};
use super::epoch::{Proposal, holds_keys};
use super::error::RosterError;
use super::record::{Draft, NO_SPACE, Record, record_hash};
use super::role::Role;
use crate::model::limits::{CONFIRMATIONS_MAX, CUT_LOGS_MAX, DEVICES_MAX, RECORD_PARENTS_MAX, RECORDS_MAX};
use crate::model::{DeviceId, KeyId, LogId, RecordHash, Scope, Seq, SpaceId, Tip};

/// A change of the roster that one record makes.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// Removes a device for ever. An admin removes any device, every device removes itself.
    Remove {
        /// The device.
        device: DeviceId,
        /// How far each of its logs still counts; logs that are not named do not count at all.
        cut: &'a BTreeMap<LogId, Tip>,
    },
    /// Gives a device another name. An admin renames any device, every device renames itself.
    Rename {
        /// The device.
        device: DeviceId,
        /// What people call it, as in [`NewDevice`].
        name: &'a str,
    },
    /// Says that nothing waits for a device any more. By an admin or the device.
    Dormant {
        /// The device.
        device: DeviceId,
    },
    /// Says the same of a device that was silent for so many days, and that no person said it. By an admin.
    Silent {
        /// The device.
        device: DeviceId,
        /// The days.
        days: NonZeroU16,
    },
    /// Says that a dormant device is back. By an admin or the device.
    Active {
        /// The device.
        device: DeviceId,
    },
    /// Selects among the histories of a log. By the log's own device.
    SelectBranch(Branch),
}

impl Roster {
    /// Founds a space with the author as its first admin; returns the genesis record with it.
    ///
    /// The author's key becomes epoch 0.
    ///
    /// # Errors
    /// [`RosterError::Scope`], [`RosterError::NameLength`], [`RosterError::NameCharacter`].
    pub fn found(author: &Author<'_>, scope: &Scope, name: &str) -> Result<(Self, Bytes), RosterError> {
        check_name(name)?;
        // `Scope::Shared` takes any text; only what parses can be read back.
        let scope: Scope = scope.to_string().parse()?;
        let device = author.identity.device();
        let draft = Draft {
            space: NO_SPACE,
            author: device,
            hlc: author.hlc,
            parents: Vec::new(),
            content: Content::Genesis(Genesis {
                scope,
                nonce: author.fresh(b"nonce", &device, name),
                name: author.seal_name(&device, name),
            }),
        };
        let bytes = Record::sign(author.identity, &draft);
        let space = SpaceId::from_bytes(*record_hash(&bytes).as_bytes());
        let roster = Self::load(space, [bytes.clone()]).expect("what was just written holds");
        Ok((roster, bytes))
    }

    /// Writes the record that adds a device, or gives a member a greater role;
    /// [`Roster::admit`] it to make it count.
    ///
    /// # Errors
    /// [`RosterError::NotAdmin`], [`RosterError::IsSelf`], [`RosterError::Removed`],
    /// [`RosterError::AlreadyMember`], [`RosterError::NameLength`], [`RosterError::NameCharacter`],
    /// [`RosterError::UnknownKey`], [`RosterError::TooManyDevices`], [`RosterError::TooManyRecords`].
    pub fn add_device(&self, author: &Author<'_>, added: &NewDevice<'_>) -> Result<Bytes, RosterError> {
        let own = author.identity.device();
        self.check_admin(&own)?;
        if added.device == own {
            return Err(RosterError::IsSelf { device: own });
        }
        if self.facts.is_removed(&added.device) {
            return Err(RosterError::Removed { device: added.device });
        }
        match self.role_of(&added.device) {
            Some(role) if added.role <= role => {
                return Err(RosterError::AlreadyMember { device: added.device, role });
            }
            None if self.member_count() >= DEVICES_MAX => {
                return Err(RosterError::TooManyDevices { limit: DEVICES_MAX });
            }
            Some(_) | None => {}
        }
        self.check_sealed(author, added.name)?;
        let content = Content::AddDevice(AddDevice {
            device: added.device,
            role: added.role,
            name: author.seal_name(&added.device, added.name),
        });
        self.sign(author, self.parents_for(&own), content)
    }

    /// Writes the record that makes a change; [`Roster::admit`] it to make it count.
    ///
    /// # Errors
    /// [`RosterError::NotAdmin`], [`RosterError::NotADevice`], [`RosterError::Removed`] where the
    /// author was; for removals [`RosterError::AlreadyRemoved`], [`RosterError::LastAdmin`],
    /// [`RosterError::CutOfOther`], [`RosterError::CutTooLong`]; for names
    /// [`RosterError::NameLength`], [`RosterError::NameCharacter`], [`RosterError::UnknownKey`]; for
    /// branches [`RosterError::NotOwnLog`], [`RosterError::BranchOrder`]; for all
    /// [`RosterError::TooManyRecords`].
    pub fn write(&self, author: &Author<'_>, change: &Change<'_>) -> Result<Bytes, RosterError> {
        let own = author.identity.device();
        if self.facts.is_removed(&own) {
            return Err(RosterError::Removed { device: own });
        }
        if self.role_of(&own).is_none() {
            return Err(RosterError::NotADevice { device: own });
        }
        let content = match *change {
            Change::Remove { device, cut } => self.removal(&own, device, cut)?,
            Change::Rename { device, name } => {
                self.check_speaks_for(&own, &device)?;
                self.check_sealed(author, name)?;
                Content::Rename(Rename { device, name: author.seal_name(&device, name) })
            }
            Change::Dormant { device } => {
                self.check_speaks_for(&own, &device)?;
                Content::Dormant(Dormant { device, after_days: None })
            }
            Change::Silent { device, days } => {
                self.check_speaks_for(&own, &device)?;
                Content::Dormant(Dormant { device, after_days: Some(days) })
            }
            Change::Active { device } => {
                self.check_speaks_for(&own, &device)?;
                Content::Active(device)
            }
            Change::SelectBranch(branch) if branch.log.device != own => {
                return Err(RosterError::NotOwnLog { device: own, log: branch.log });
            }
            Change::SelectBranch(branch) if !branch.is_sound() => {
                return Err(RosterError::BranchOrder { base: branch.base.seq, tip: branch.tip.seq });
            }
            Change::SelectBranch(branch) => Content::SelectBranch(branch),
        };
        self.sign(author, self.parents_for(&own), content)
    }

    /// Proposes a key for the next epoch, with `device` as its coordinator.
    ///
    /// # Errors
    /// [`RosterError::NotAdmin`], [`RosterError::KeyReused`].
    pub fn propose(&self, device: &DeviceId, key_id: KeyId) -> Result<Proposal, RosterError> {
        self.check_admin(device)?;
        if self.knows_key(&key_id) {
            return Err(RosterError::KeyReused { key_id });
        }
        Ok(Proposal { n: self.next_epoch(), key_id, coordinator: *device, parents: self.parents_for(device) })
    }

    /// Checks that a proposal is the one this device would make in the coordinator's place, before
    /// it is confirmed: the same records seen, a fresh key, the next number.
    ///
    /// # Errors
    /// [`RosterError::NotAdmin`], [`RosterError::KeyReused`], [`RosterError::ProposalParents`],
    /// [`RosterError::ProposalNumber`].
    pub fn check_proposal(&self, proposal: &Proposal) -> Result<(), RosterError> {
        let own = self.propose(&proposal.coordinator, proposal.key_id)?;
        if own.parents != proposal.parents {
            return Err(RosterError::ProposalParents);
        }
        if own.n != proposal.n {
            return Err(RosterError::ProposalNumber { expected: own.n, found: proposal.n });
        }
        Ok(())
    }

    /// Writes the record that begins the proposed epoch; [`Roster::admit`] it to make it count.
    ///
    /// Of the confirmations it takes those that count, each device's once, at most
    /// [`CONFIRMATIONS_MAX`]. Records that arrived since the proposal do not stand in its way: where
    /// one of them rotates or removes, the next rotation is due at once.
    ///
    /// # Errors
    /// [`RosterError::NotCoordinator`], [`RosterError::NotAdmin`], [`RosterError::KeyReused`],
    /// [`RosterError::ProposalParents`] where a parent is not here or the coordinator's right is not
    /// among what they had seen, [`RosterError::ProposalNumber`] for 0,
    /// [`RosterError::TooManyRecords`].
    pub fn rotate(
        &self,
        author: &Author<'_>,
        proposal: &Proposal,
        confirmations: &[Confirmation],
    ) -> Result<Bytes, RosterError> {
        let own = author.identity.device();
        if own != proposal.coordinator {
            return Err(RosterError::NotCoordinator { device: own, coordinator: proposal.coordinator });
        }
        self.check_admin(&own)?;
        if self.knows_key(&proposal.key_id) {
            return Err(RosterError::KeyReused { key_id: proposal.key_id });
        }
        if proposal.n == 0 {
            return Err(RosterError::ProposalNumber { expected: self.next_epoch(), found: 0 });
        }
        let is_rising = proposal.parents.windows(2).all(|pair| pair[0] < pair[1]);
        let is_form = is_rising && proposal.parents.len() <= RECORD_PARENTS_MAX;
        let past = self.dag.seen_by(&proposal.parents).filter(|_| is_form);
        let past = past.ok_or(RosterError::ProposalParents)?;
        let verdict = &self.facts.verdict;
        if verdict.grants.admin_in(&own, &past).is_none() {
            return Err(RosterError::ProposalParents);
        }
        let counting: BTreeMap<DeviceId, Confirmation> = confirmations
            .iter()
            .filter(|confirmation| holds_keys(&self.dag, verdict, &confirmation.device, &past))
            .filter(|confirmation| proposal.is_confirmed_by(self.space, confirmation))
            .map(|confirmation| (confirmation.device, *confirmation))
            .collect();
        let content = Content::RotateKey(RotateKey {
            n: proposal.n,
            key_id: proposal.key_id,
            confirmations: counting.into_values().take(CONFIRMATIONS_MAX).collect(),
        });
        self.sign(author, proposal.parents.clone(), content)
    }

    fn removal(
        &self,
        own: &DeviceId,
        device: DeviceId,
        cut: &BTreeMap<LogId, Tip>,
    ) -> Result<Content, RosterError> {
        if self.facts.is_removed(&device) {
            return Err(RosterError::AlreadyRemoved { device });
        }
        self.check_speaks_for(own, &device)?;
        if self.facts.admins == [device] {
            return Err(RosterError::LastAdmin { device });
        }
        if let Some(log) = cut.keys().find(|log| log.device != device) {
            return Err(RosterError::CutOfOther { device, log: *log });
        }
        // An empty log has nothing to keep, and is cut by not being named.
        let cut: BTreeMap<LogId, Tip> =
            cut.iter().filter(|(_, tip)| tip.seq != Seq::ZERO).map(|(log, tip)| (*log, *tip)).collect();
        if cut.len() > CUT_LOGS_MAX {
            return Err(RosterError::CutTooLong { found: cut.len(), limit: CUT_LOGS_MAX });
        }
        Ok(Content::RemoveDevice(RemoveDevice { device, cut }))
    }

    pub(super) fn check_admin(&self, device: &DeviceId) -> Result<(), RosterError> {
        match self.role_of(device) {
            Some(Role::Admin) => Ok(()),
            Some(Role::Member | Role::Blind) | None => Err(RosterError::NotAdmin { device: *device }),
        }
    }

    /// Every device speaks for itself, admins for all.
    fn check_speaks_for(&self, own: &DeviceId, device: &DeviceId) -> Result<(), RosterError> {
        if own != device {
            self.check_admin(own)?;
        }
        self.role_of(device).map(drop).ok_or(RosterError::NotADevice { device: *device })
    }

    fn check_sealed(&self, author: &Author<'_>, name: &str) -> Result<(), RosterError> {
        check_name(name)?;
        let key_id = author.key.id();
        if self.knows_key(&key_id) { Ok(()) } else { Err(RosterError::UnknownKey { key_id }) }
    }

    pub(super) fn parents_for(&self, device: &DeviceId) -> Vec<RecordHash> {
        self.dag.parents_for(self.facts.right_of(device))
    }

    /// One more than the greatest number so far. After `u64::MAX` numbers repeat; which epoch is the
    /// newest is told by what its record had seen, never by its number.
    const fn next_epoch(&self) -> u64 {
        self.facts.epochs.n.saturating_add(1)
    }

    pub(super) fn sign(
        &self,
        author: &Author<'_>,
        parents: Vec<RecordHash>,
        content: Content,
    ) -> Result<Bytes, RosterError> {
        if self.dag.len() >= RECORDS_MAX {
            return Err(RosterError::TooManyRecords { limit: RECORDS_MAX });
        }
        let draft =
            Draft { space: self.space, author: author.identity.device(), hlc: author.hlc, parents, content };
        Ok(Record::sign(author.identity, &draft))
    }
}
