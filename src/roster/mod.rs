//! The roster of a space: signed records → its devices and what each may do.
//!
//! Owns the record format ([`record`]), who may write which record, the members, the key epochs and
//! what of a removed device's logs still counts. Records are exchanged before anything else and in
//! clear inside TLS, because a blind device needs them; the bytes received are what is stored,
//! hashed and verified, and nothing is encoded again. Must never ask who sent a record: only who
//! signed it, and what that author had seen.
//!
//! Everything follows from the set of records alone. Where several records add one device, the
//! greatest role holds, then the record that counts first (causal depth, hlc, hash): rights that a
//! record's past gave its author never shrink by records that arrive later, except by a removal,
//! which wins over everything that the removed device did behind its author's back.

pub mod author;
mod content;
mod dag;
mod epoch;
pub mod error;
mod fold;
mod grants;
mod host;
mod nodes;
pub mod record;
mod removal;
pub mod role;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use bytes::Bytes;

use self::author::open_name;
use self::content::Content;
use self::dag::{Dag, Offer};
use self::fold::Facts;
use self::record::{Record, record_hash};
use crate::crypto::EpochKey;
use crate::model::limits::{RECORDS_MAX, RECORDS_PARKED_MAX};
use crate::model::{DeviceId, Hlc, KeyId, LogId, RecordHash, Scope, Seq, SpaceId, Tip, TipHash};

pub use self::author::{Author, NewDevice};
pub use self::content::{Branch, Confirmation, SealedName};
pub use self::epoch::{Epoch, Proposal};
pub use self::error::{NotAuthor, RosterError};
pub use self::record::RecordError;
pub use self::role::{Role, RoleError};
pub use self::write::Change;

/// What became of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Admit {
    /// It is part of the roster now: make these durable, in this order.
    New {
        /// The record, then those that had waited for it, parents first.
        admitted: Vec<RecordHash>,
    },
    /// It was here before.
    Duplicate,
    /// It names records that are not here. It is kept in memory until they come; nothing is to be
    /// made durable, and ask its sender for what is missing.
    Parked,
}

/// A device of the space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The device.
    pub device: DeviceId,
    /// What it may do.
    pub role: Role,
    /// Its name, readable with the epoch key it was sealed under.
    pub name_sealed: SealedName,
    /// Who gave it its role; the founder added itself.
    pub added_by: DeviceId,
    /// When.
    pub hlc: Hlc,
    /// Whether nothing waits for it, because it has been away for long.
    pub dormancy: Option<Dormancy>,
}

impl Dormancy {
    /// Whether a person said so, and no device by itself.
    pub const fn is_of_person(&self) -> bool {
        self.after_days.is_none()
    }
}

impl Member {
    /// Whether it has been away for so long that nothing waits for it.
    pub const fn is_dormant(&self) -> bool {
        self.dormancy.is_some()
    }
}

/// That nothing waits for a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dormancy {
    /// When that was said, by the clock of whoever said it.
    pub since: Hlc,
    /// Who said it: the device itself or an admin.
    pub by: DeviceId,
    /// The days of silence after which an admin's device said so by itself; a person did where there are none.
    pub after_days: Option<NonZeroU16>,
}

/// A device that was removed from the space, which is for ever.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Removed {
    /// The device.
    pub device: DeviceId,
    /// Who removed it; of several, whose record counts first.
    pub by: DeviceId,
    /// When.
    pub hlc: Hlc,
    /// What it could do before.
    pub role: Role,
    /// Its name, readable with the epoch key it was sealed under.
    pub name_sealed: SealedName,
    /// How far each of its logs still counts; a log that is not named counts for nothing.
    pub cut: BTreeMap<LogId, Tip>,
}

/// How much of a log is taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allowance {
    /// Whatever its device writes.
    All,
    /// Up to this place of the history that has this link there.
    UpTo(Tip),
    /// Nothing of it.
    Nothing(NotAuthor),
}

/// The devices of one space, as its admitted records tell.
#[derive(Clone, Debug)]
pub struct Roster {
    space: SpaceId,
    scope: Scope,
    genesis_key_id: KeyId,
    founded: Hlc,
    dag: Dag,
    facts: Box<Facts>,
    digest: [u8; 32],
}

impl Roster {
    /// Builds the roster of `space` from records as received, in any order.
    ///
    /// Records that name one that is not among them are parked, and parked ones that turn out to
    /// be refused are dropped, as by [`Roster::admit`].
    ///
    /// # Errors
    /// [`RosterError::GenesisMissing`], [`RosterError::Record`] for the first that is refused.
    pub fn load(space: SpaceId, records: impl IntoIterator<Item = Bytes>) -> Result<Self, RosterError> {
        let mut dag = Dag::new(space);
        for bytes in records {
            let hash = record_hash(&bytes);
            // In order of their hashes, as stores hold them, most come before a parent of theirs.
            dag.offer(bytes, RECORDS_MAX).map_err(|source| RosterError::Record { hash, source })?;
        }
        let Some(genesis) = dag.record(&RecordHash::from_bytes(*space.as_bytes())) else {
            return Err(RosterError::GenesisMissing { space });
        };
        let Content::Genesis(content) = genesis.content() else {
            // A record of another kind names a space that its own hash cannot be.
            return Err(RosterError::GenesisMissing { space });
        };
        let (scope, genesis_key_id) = (content.scope.clone(), content.name.key_id());
        let (founded, facts, digest) = (genesis.hlc(), Box::new(Facts::of(&dag)), digest(dag.hashes()));
        Ok(Self { space, scope, genesis_key_id, founded, dag, facts, digest })
    }

    /// Takes in a record, whoever sent it. The same set of records is admitted in any order.
    ///
    /// A record that was parked and turns out to be refused once its parents are here is dropped
    /// without a word. Many at once are for [`Roster::admit_all`].
    ///
    /// # Errors
    /// Every variant of [`RecordError`]; the roster is unchanged then.
    pub fn admit(&mut self, bytes: Bytes) -> Result<Admit, RecordError> {
        match self.dag.offer(bytes, RECORDS_PARKED_MAX)? {
            Offer::Admitted(admitted) => {
                self.fold();
                Ok(Admit::New { admitted })
            }
            Offer::Duplicate => Ok(Admit::Duplicate),
            Offer::Parked => Ok(Admit::Parked),
        }
    }

    /// Takes in records as [`Roster::admit`] does, and derives what follows from them once.
    ///
    /// Names what is to be made durable, in this order. A record that is refused stays out alone.
    pub fn admit_all(&mut self, records: impl IntoIterator<Item = Bytes>) -> Vec<RecordHash> {
        let mut all = Vec::new();
        for bytes in records {
            if let Ok(Offer::Admitted(admitted)) = self.dag.offer(bytes, RECORDS_PARKED_MAX) {
                all.extend(admitted);
            }
        }
        if !all.is_empty() {
            self.fold();
        }
        all
    }

    /// The space.
    pub const fn space(&self) -> SpaceId {
        self.space
    }

    /// Its scope.
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The stamp of its genesis.
    pub const fn founded(&self) -> Hlc {
        self.founded
    }

    /// `BLAKE3("kinfold roster v1" ‖ record hashes, rising)`: equal exactly for equal sets.
    pub const fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// How many records are admitted; it only grows.
    pub const fn generation(&self) -> u64 {
        self.dag.len() as u64
    }

    /// How many admitted records are of a kind this version does not know.
    pub const fn unknown_count(&self) -> u64 {
        self.facts.unknown_count
    }

    /// How many records wait for one they name.
    pub fn parked_count(&self) -> usize {
        self.dag.parked_count()
    }

    /// The hashes of the admitted records, rising.
    pub fn record_hashes(&self) -> impl Iterator<Item = RecordHash> {
        self.dag.hashes()
    }

    /// The bytes of an admitted record, as received.
    pub fn record(&self, hash: &RecordHash) -> Option<&Bytes> {
        self.dag.record(hash).map(Record::bytes)
    }

    /// The admitted records that are not among `held`, parents first: what to send to whoever
    /// holds those.
    pub fn missing_from(&self, held: &[RecordHash]) -> Vec<Bytes> {
        let held: BTreeSet<&RecordHash> = held.iter().collect();
        self.dag
            .in_order()
            .filter(|record| !held.contains(&record.hash()))
            .map(|record| record.bytes().clone())
            .collect()
    }

    /// The devices of the space, by id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.facts.members.values()
    }

    /// When a device that is dormant was last called so.
    pub fn dormant_since(&self, device: &DeviceId) -> Option<Hlc> {
        self.dormancy_of(device)?;
        let says_so =
            |record: &&Record| matches!(record.content(), Content::Dormant(said) if said.device == *device);
        let said = self.dag.ranked().map(|at| &self.dag.node(at).record).filter(says_so);
        said.map(Record::hlc).max()
    }

    /// Who said that nothing waits for a device, and when; `None` for one that is waited for.
    pub fn dormancy_of(&self, device: &DeviceId) -> Option<Dormancy> {
        self.facts.members.get(device)?.dormancy
    }

    /// How many devices the space has.
    pub fn member_count(&self) -> usize {
        self.facts.members.len()
    }

    /// What a device may do here; `None` for a stranger and for one that was removed.
    pub fn role_of(&self, device: &DeviceId) -> Option<Role> {
        self.facts.members.get(device).map(|member| member.role)
    }

    /// The place of an admin among the admins; 0 is the one enrolled earliest.
    pub fn admin_rank(&self, device: &DeviceId) -> Option<usize> {
        self.facts.admins.iter().position(|admin| admin == device)
    }

    /// The devices that were removed, by id.
    pub fn removed(&self) -> impl Iterator<Item = &Removed> {
        self.facts.removed.values()
    }

    /// How a device was removed; `None` where it was not.
    pub fn removal_of(&self, device: &DeviceId) -> Option<&Removed> {
        self.facts.removed.get(device)
    }

    /// Whether this device may write ops.
    ///
    /// # Errors
    /// Every variant of [`NotAuthor`].
    pub fn may_author(&self, device: &DeviceId) -> Result<(), NotAuthor> {
        match self.role_of(device) {
            Some(Role::Admin | Role::Member) => Ok(()),
            Some(Role::Blind) => Err(NotAuthor::Blind { device: *device }),
            None if self.facts.is_removed(device) => Err(NotAuthor::Removed { device: *device }),
            None => Err(NotAuthor::Stranger { device: *device }),
        }
    }

    /// How much of a log is taken in, whoever sends it: all of a member's, of a removed device's
    /// what its cut keeps, whatever the stamps say.
    pub fn allowance(&self, log: &LogId) -> Allowance {
        let Err(refused) = self.may_author(&log.device) else { return Allowance::All };
        let kept = self.facts.kept_cut(&log.device).and_then(|cut| cut.get(log));
        kept.map_or(Allowance::Nothing(refused), |tip| Allowance::UpTo(*tip))
    }

    /// Which of a log's histories its device stands by, at each place where some part, rising.
    pub fn branches_of(&self, log: &LogId) -> impl Iterator<Item = Branch> {
        let (least, greatest) = (TipHash::from_bytes([0; 32]), TipHash::from_bytes([0xff; 32]));
        let places = (*log, Seq::ZERO, least)..=(*log, Seq::new(u64::MAX), greatest);
        self.facts.branches.range(places).map(|(_, branch)| *branch)
    }

    /// The selections in force, by log.
    pub fn branches(&self) -> impl Iterator<Item = Branch> {
        self.facts.branches.values().copied()
    }

    /// What people call a device, also one that was removed. `key_of` looks an epoch key up; without
    /// it, or where the name breaks the rules for names, there is none.
    pub fn name_of(
        &self,
        device: &DeviceId,
        key_of: impl FnOnce(&KeyId) -> Option<EpochKey>,
    ) -> Option<String> {
        let sealed = match self.facts.members.get(device) {
            Some(member) => &member.name_sealed,
            None => &self.facts.removed.get(device)?.name_sealed,
        };
        open_name(&key_of(&sealed.key_id)?, device, sealed)
    }

    /// The key of epoch 0.
    pub const fn genesis_key_id(&self) -> KeyId {
        self.genesis_key_id
    }

    /// Which key batches and names are sealed under now.
    pub const fn epoch(&self) -> Epoch {
        self.facts.epochs.epoch
    }

    /// The stamp of the record that began this epoch; where it is contested, of the one that counts
    /// last.
    pub const fn rotated_at(&self) -> Hlc {
        self.facts.epochs.rotated_at
    }

    /// Whether the key has to be replaced: the epoch is contested, or a device that was removed may
    /// hold its key.
    pub const fn is_rotation_due(&self) -> bool {
        self.facts.epochs.is_due
    }

    /// Whether a record of an admin commits to this key, so that a key of this name may be accepted
    /// from a peer. A rotation that a removal made void commits too: what was sealed under its key
    /// meanwhile has to stay readable.
    pub fn knows_key(&self, key_id: &KeyId) -> bool {
        self.facts.epochs.knows(key_id)
    }

    /// The keys that [`Roster::knows_key`] knows.
    pub fn key_ids(&self) -> impl Iterator<Item = KeyId> {
        self.facts.epochs.key_ids()
    }

    /// The devices that provably confirmed a key before its rotation was written, each once.
    ///
    /// It verifies a signature for each, so ask when someone wants to know.
    pub fn confirmations_of(&self, key_id: &KeyId) -> Vec<DeviceId> {
        let confirmed = self.facts.epochs.confirmed_by(&self.dag, &self.facts.verdict, self.space, key_id);
        confirmed.into_iter().collect()
    }

    /// Derives everything that follows from the set of records. Rosters are small and change
    /// seldom, so it starts afresh every time and cannot drift.
    fn fold(&mut self) {
        *self.facts = Facts::of(&self.dag);
        self.digest = digest(self.dag.hashes());
    }
}

fn digest(rising: impl Iterator<Item = RecordHash>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"kinfold roster v1");
    for hash in rising {
        hasher.update(hash.as_bytes());
    }
    *hasher.finalize().as_bytes()
}
