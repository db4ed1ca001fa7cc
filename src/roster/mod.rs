//! The roster of a space: signed records → its devices and what each may do.
//!
//! Owns the record format ([`record`]), who may write which record, and the members. Records are
//! exchanged before anything else and in clear inside TLS, because a blind device needs them; the
//! bytes received are what is stored, hashed and verified, and nothing is encoded again. Must
//! never ask who sent a record: only who signed it, and what that author had seen.
//!
//! Members follow from the set of records alone. Where several records add one device, the
//! greatest role holds, then the record that counts first (causal depth, hlc, hash): rights that a
//! record's past gave its author never shrink by records that arrive later.

pub mod author;
mod dag;
pub mod error;
pub mod record;
pub mod role;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use self::author::{check_name, open_name};
use self::dag::{Dag, Offer, grant};
use self::record::{AddDevice, Content, Draft, Genesis, NO_SPACE, Record, record_hash};
use crate::crypto::EpochKey;
use crate::model::limits::{DEVICES_MAX, RECORDS_MAX, RECORDS_PARKED_MAX};
use crate::model::{DeviceId, Hlc, KeyId, RecordHash, Scope, SpaceId};

pub use self::author::{Author, NewDevice};
pub use self::error::{NotAuthor, RosterError};
pub use self::record::{RecordError, SealedName};
pub use self::role::{Role, RoleError};

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
    /// Who added it; the founder added itself.
    pub added_by: DeviceId,
    /// When.
    pub hlc: Hlc,
}

/// The devices of one space, as its admitted records tell.
#[derive(Clone, Debug)]
pub struct Roster {
    space: SpaceId,
    scope: Scope,
    genesis_key_id: KeyId,
    founded: Hlc,
    dag: Dag,
    members: BTreeMap<DeviceId, Member>,
    unknown_count: u64,
    digest: [u8; 32],
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
        let founded = genesis.hlc();
        let mut roster = Self {
            space,
            scope,
            genesis_key_id,
            founded,
            dag,
            members: BTreeMap::new(),
            unknown_count: 0,
            digest: [0; 32],
        };
        roster.fold();
        Ok(roster)
    }

    /// Takes in a record, whoever sent it. The same set of records is admitted in any order.
    ///
    /// A record that was parked and turns out to be refused once its parents are here is dropped
    /// without a word.
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

    /// Writes the record that adds a device; [`Roster::admit`] it to make it count.
    ///
    /// # Errors
    /// [`RosterError::NotAdmin`], [`RosterError::IsSelf`], [`RosterError::AlreadyMember`],
    /// [`RosterError::NameLength`], [`RosterError::NameCharacter`], [`RosterError::UnknownKey`],
    /// [`RosterError::TooManyDevices`], [`RosterError::TooManyRecords`].
    pub fn add_device(&self, author: &Author<'_>, added: &NewDevice<'_>) -> Result<Bytes, RosterError> {
        let own = author.identity.device();
        if self.role_of(&own) != Some(Role::Admin) {
            return Err(RosterError::NotAdmin { device: own });
        }
        if added.device == own {
            return Err(RosterError::IsSelf { device: own });
        }
        if let Some(role) = self.role_of(&added.device) {
            return Err(RosterError::AlreadyMember { device: added.device, role });
        }
        check_name(added.name)?;
        if !self.knows_key(&author.key.id()) {
            return Err(RosterError::UnknownKey { key_id: author.key.id() });
        }
        if self.members.len() >= DEVICES_MAX {
            return Err(RosterError::TooManyDevices { limit: DEVICES_MAX });
        }
        if self.dag.len() >= RECORDS_MAX {
            return Err(RosterError::TooManyRecords { limit: RECORDS_MAX });
        }
        let draft = Draft {
            space: self.space,
            author: own,
            hlc: author.hlc,
            parents: self.dag.parents_for(&own),
            content: Content::AddDevice(AddDevice {
                device: added.device,
                role: added.role,
                name: author.seal_name(&added.device, added.name),
            }),
        };
        Ok(Record::sign(author.identity, &draft))
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
        self.unknown_count
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
        self.members.values()
    }

    /// How many devices the space has.
    pub fn member_count(&self) -> usize {
        self.members.len()
    }

    /// What a device may do here; `None` for a stranger.
    pub fn role_of(&self, device: &DeviceId) -> Option<Role> {
        self.members.get(device).map(|member| member.role)
    }

    /// Whether ops signed by this device are taken in.
    ///
    /// # Errors
    /// Every variant of [`NotAuthor`].
    pub fn may_author(&self, device: &DeviceId) -> Result<(), NotAuthor> {
        match self.role_of(device) {
            Some(Role::Admin | Role::Member) => Ok(()),
            Some(Role::Blind) => Err(NotAuthor::Blind { device: *device }),
            None => Err(NotAuthor::Stranger { device: *device }),
        }
    }

    /// What people call a device. `key_of` looks an epoch key up; without it, or where the name
    /// breaks the rules for names, there is none.
    pub fn name_of(
        &self,
        device: &DeviceId,
        key_of: impl FnOnce(&KeyId) -> Option<EpochKey>,
    ) -> Option<String> {
        let sealed = &self.members.get(device)?.name_sealed;
        open_name(&key_of(&sealed.key_id)?, device, sealed)
    }

    /// The key of epoch 0.
    pub const fn genesis_key_id(&self) -> KeyId {
        self.genesis_key_id
    }

    /// Whether a record commits to this key, so that a key of this name may be accepted from a peer.
    pub fn knows_key(&self, key_id: &KeyId) -> bool {
        self.genesis_key_id == *key_id
    }

    /// Derives everything that follows from the set of records. Rosters are small and change
    /// seldom, so it starts afresh every time and cannot drift.
    fn fold(&mut self) {
        let mut members: BTreeMap<DeviceId, Member> = BTreeMap::new();
        let mut unknown_count = 0;
        for record in self.dag.in_order() {
            let name_sealed = match record.content() {
                Content::Genesis(genesis) => &genesis.name,
                Content::AddDevice(added) => &added.name,
                Content::Unknown { .. } => {
                    unknown_count += 1;
                    continue;
                }
            };
            let (device, role) = grant(record).expect("both known kinds grant a role");
            if members.get(&device).is_none_or(|member| member.role < role) {
                let member = Member {
                    device,
                    role,
                    name_sealed: name_sealed.clone(),
                    added_by: record.author(),
                    hlc: record.hlc(),
                };
                members.insert(device, member);
            }
        }
        self.members = members;
        self.unknown_count = unknown_count;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Identity;

    fn key() -> EpochKey {
        EpochKey::from_bytes([0x5a; 32])
    }

    fn identity(seed: u8) -> Identity {
        Identity::from_secret(&[seed; 32])
    }

    fn device(seed: u8) -> DeviceId {
        identity(seed).device()
    }

    /// A space founded by device 1.
    fn founded() -> (Roster, Bytes) {
        let (identity, key) = (identity(1), key());
        let author = Author { identity: &identity, key: &key, hlc: Hlc::new(1 << 16), entropy: [1; 32] };
        Roster::found(&author, &Scope::Personal, "desk").unwrap()
    }

    fn add(roster: &Roster, by: u8, added: u8, role: Role) -> Result<Bytes, RosterError> {
        add_named(roster, by, added, role, "laptop")
    }

    fn add_named(roster: &Roster, by: u8, added: u8, role: Role, name: &str) -> Result<Bytes, RosterError> {
        let (identity, key) = (identity(by), key());
        let hlc = Hlc::new((2 << 16) + roster.generation());
        let author = Author { identity: &identity, key: &key, hlc, entropy: [2; 32] };
        roster.add_device(&author, &NewDevice { device: device(added), role, name })
    }

    fn admitted(roster: &mut Roster, bytes: &Bytes) {
        let expect = Admit::New { admitted: vec![record_hash(bytes)] };
        assert_eq!(roster.admit(bytes.clone()), Ok(expect));
    }

    /// A record of a kind no version defines yet.
    fn unknown(roster: &Roster, by: u8) -> Bytes {
        let identity = identity(by);
        let draft = Draft {
            space: roster.space(),
            author: identity.device(),
            hlc: Hlc::new(3 << 16),
            parents: roster.dag.parents_for(&identity.device()),
            content: Content::Unknown { kind: 4_000, body: Bytes::from_static(b"later") },
        };
        Record::sign(&identity, &draft)
    }

    #[test]
    fn a_founder_is_the_first_admin_and_adds_devices() {
        let (mut roster, genesis) = founded();
        let (before, space) = (roster.digest(), roster.space());
        assert_eq!(roster.record(&RecordHash::from_bytes(*space.as_bytes())), Some(&genesis));

        let record = add_named(&roster, 1, 2, Role::Member, "Küche").unwrap();
        admitted(&mut roster, &record);

        assert_eq!(roster.role_of(&device(1)), Some(Role::Admin));
        assert_eq!(roster.role_of(&device(2)), Some(Role::Member));
        assert_eq!((roster.generation(), roster.member_count()), (2, 2));
        assert_ne!(roster.digest(), before);
        assert_eq!(roster.scope(), &Scope::Personal);
        assert_eq!(roster.founded(), Hlc::new(1 << 16));
        let added = roster.members().find(|member| member.device == device(2)).unwrap();
        assert_eq!((added.added_by, added.name_sealed.key_id()), (device(1), key().id()));
        assert_eq!(roster.name_of(&device(2), |_| Some(key())).as_deref(), Some("Küche"));
        assert_eq!(roster.name_of(&device(2), |_| None), None);
        assert_eq!(roster.admit(record), Ok(Admit::Duplicate));
    }

    #[test]
    fn only_members_and_admins_author_ops() {
        let (mut roster, _) = founded();
        let blind = add(&roster, 1, 3, Role::Blind).unwrap();
        admitted(&mut roster, &blind);

        assert_eq!(roster.may_author(&device(1)), Ok(()));
        assert_eq!(roster.may_author(&device(3)), Err(NotAuthor::Blind { device: device(3) }));
        assert_eq!(roster.may_author(&device(4)), Err(NotAuthor::Stranger { device: device(4) }));
    }

    #[test]
    fn a_record_that_may_not_be_written_is_refused_by_name() {
        let (mut roster, _) = founded();
        let member = add(&roster, 1, 2, Role::Member).unwrap();
        admitted(&mut roster, &member);
        let refused = |by, added, name: &str| add_named(&roster, by, added, Role::Member, name).unwrap_err();

        assert_eq!(refused(2, 3, "x"), RosterError::NotAdmin { device: device(2) });
        assert_eq!(refused(9, 3, "x"), RosterError::NotAdmin { device: device(9) });
        assert_eq!(refused(1, 1, "x"), RosterError::IsSelf { device: device(1) });
        assert_eq!(refused(1, 2, "x"), RosterError::AlreadyMember { device: device(2), role: Role::Member });
        assert!(matches!(refused(1, 3, ""), RosterError::NameLength { found: 0, .. }));
        assert_eq!(refused(1, 3, "a\nb"), RosterError::NameCharacter { found: '\n' });
        let (identity, other) = (identity(1), EpochKey::from_bytes([1; 32]));
        let author = Author { identity: &identity, key: &other, hlc: Hlc::ZERO, entropy: [0; 32] };
        let added = NewDevice { device: device(3), role: Role::Member, name: "x" };
        assert_eq!(roster.add_device(&author, &added), Err(RosterError::UnknownKey { key_id: other.id() }));
        assert!(roster.knows_key(&key().id()) && !roster.knows_key(&other.id()));
    }

    #[test]
    fn a_space_is_founded_only_for_a_scope_that_reads_back() {
        let (identity, key) = (identity(1), key());
        let author = Author { identity: &identity, key: &key, hlc: Hlc::ZERO, entropy: [0; 32] };

        let shared = Roster::found(&author, &"shared:acme".parse().unwrap(), "desk").unwrap().0;
        assert_eq!(shared.scope().to_string(), "shared:acme");
        let long = Scope::Shared("x".repeat(300).into());
        assert!(matches!(Roster::found(&author, &long, "desk"), Err(RosterError::Scope(_))));
        assert!(matches!(
            Roster::found(&author, &Scope::Personal, ""),
            Err(RosterError::NameLength { found: 0, .. })
        ));
    }

    #[test]
    fn a_full_space_takes_no_more_devices() {
        let (mut roster, _) = founded();
        let template = roster.members[&device(1)].clone();
        for index in 1..DEVICES_MAX as u64 {
            let device = DeviceId::from_bytes(*blake3::hash(&index.to_be_bytes()).as_bytes());
            roster.members.insert(device, Member { device, ..template.clone() });
        }

        assert_eq!(add(&roster, 1, 2, Role::Member), Err(RosterError::TooManyDevices { limit: DEVICES_MAX }));
    }

    #[test]
    fn a_full_roster_takes_no_more_records() {
        let (mut roster, _) = founded();
        let record = add(&roster, 1, 2, Role::Member).unwrap();
        roster.dag.fill();

        assert_eq!(add(&roster, 1, 2, Role::Member), Err(RosterError::TooManyRecords { limit: RECORDS_MAX }));
        assert_eq!(roster.admit(record), Err(RecordError::TooManyRecords { limit: RECORDS_MAX }));
    }

    #[test]
    fn a_roster_loads_from_its_records_in_any_order_and_not_without_its_genesis() {
        let (mut roster, genesis) = founded();
        for added in 2..6 {
            let record = add(&roster, 1, added, Role::Admin).unwrap();
            admitted(&mut roster, &record);
        }
        let mut records = roster.missing_from(&[]);
        assert_eq!(records[0], genesis);
        records.reverse();

        let loaded = Roster::load(roster.space(), records.clone()).unwrap();

        assert_eq!(loaded.digest(), roster.digest());
        assert!(loaded.members().eq(roster.members()));
        records.pop();
        assert_eq!(
            Roster::load(roster.space(), records).unwrap_err(),
            RosterError::GenesisMissing { space: roster.space() }
        );
        let cut = genesis.slice(..60);
        assert_eq!(
            Roster::load(roster.space(), [genesis, cut.clone()]).unwrap_err(),
            RosterError::Record { hash: record_hash(&cut), source: RecordError::TooShort { found: 60 } }
        );
    }

    #[test]
    fn what_the_other_lacks_is_sent_parents_first() {
        let (mut roster, genesis) = founded();
        let first = add(&roster, 1, 2, Role::Admin).unwrap();
        admitted(&mut roster, &first);
        let second = add(&roster, 2, 3, Role::Member).unwrap();
        admitted(&mut roster, &second);

        assert_eq!(roster.missing_from(&[]), [genesis.clone(), first.clone(), second.clone()]);
        assert_eq!(roster.missing_from(&[record_hash(&genesis)]), [first, second]);
        let all: Vec<_> = roster.record_hashes().collect();
        assert!(roster.missing_from(&all).is_empty());
    }

    #[test]
    fn a_record_waits_for_the_records_it_names() {
        let (mut roster, genesis) = founded();
        let mut other = Roster::load(roster.space(), [genesis]).unwrap();
        let first = add(&roster, 1, 2, Role::Admin).unwrap();
        admitted(&mut roster, &first);
        let second = add(&roster, 2, 3, Role::Member).unwrap();

        assert_eq!(other.admit(second.clone()), Ok(Admit::Parked));
        assert_eq!(other.admit(second.clone()), Ok(Admit::Parked));
        assert_eq!((other.parked_count(), other.generation()), (1, 1));
        let expect = Admit::New { admitted: vec![record_hash(&first), record_hash(&second)] };
        assert_eq!(other.admit(first), Ok(expect));
        assert_eq!((other.parked_count(), other.member_count()), (0, 3));
    }

    #[test]
    fn a_parked_record_without_right_is_dropped_once_its_past_is_here() {
        let (mut roster, genesis) = founded();
        let member = add(&roster, 1, 2, Role::Member).unwrap();
        admitted(&mut roster, &member);
        let forged = forged_add(&roster, 2, 3);
        let mut other = Roster::load(roster.space(), [genesis]).unwrap();

        assert_eq!(other.admit(forged.clone()), Ok(Admit::Parked));
        admitted(&mut other, &member);

        assert_eq!((other.parked_count(), other.role_of(&device(3))), (0, None));
        assert_eq!(other.admit(forged), Err(RecordError::NotAdmin { author: device(2) }));
    }

    /// An `AddDevice` by a device that [`Roster::add_device`] would have refused.
    fn forged_add(roster: &Roster, by: u8, added: u8) -> Bytes {
        let (identity, key) = (identity(by), key());
        let author = Author { identity: &identity, key: &key, hlc: Hlc::new(9), entropy: [3; 32] };
        let draft = Draft {
            space: roster.space(),
            author: identity.device(),
            hlc: author.hlc,
            parents: roster.dag.parents_for(&identity.device()),
            content: Content::AddDevice(AddDevice {
                device: device(added),
                role: Role::Admin,
                name: author.seal_name(&device(added), "forged"),
            }),
        };
        Record::sign(&identity, &draft)
    }

    #[test]
    fn rights_come_from_what_the_author_had_seen() {
        let (mut roster, genesis) = founded();
        let founder_only = Roster::load(roster.space(), [genesis]).unwrap();
        let admin = add(&roster, 1, 2, Role::Admin).unwrap();
        admitted(&mut roster, &admin);

        // Device 2 is an admin by now, but not by anything this record names.
        let early = forged_add(&founder_only, 2, 3);

        assert_eq!(roster.admit(early), Err(RecordError::NotAdmin { author: device(2) }));
        let late = forged_add(&roster, 2, 3);
        admitted(&mut roster, &late);
        let stranger = unknown(&roster, 9);
        assert_eq!(roster.admit(stranger), Err(RecordError::NotMember { author: device(9) }));
    }

    #[test]
    fn an_unknown_kind_is_kept_passed_on_and_counted() {
        let (mut roster, _) = founded();
        let blind = add(&roster, 1, 2, Role::Blind).unwrap();
        admitted(&mut roster, &blind);
        let later = unknown(&roster, 2);

        admitted(&mut roster, &later);

        assert_eq!((roster.unknown_count(), roster.member_count()), (1, 2));
        assert_eq!(roster.missing_from(&[]).last(), Some(&later));
    }

    #[test]
    fn the_greatest_role_of_concurrent_additions_holds() {
        let (mut roster, genesis) = founded();
        let other = Roster::load(roster.space(), [genesis]).unwrap();
        let blind = add_named(&roster, 1, 2, Role::Blind, "one").unwrap();
        let admin = add_named(&other, 1, 2, Role::Admin, "two").unwrap();

        admitted(&mut roster, &admin);
        admitted(&mut roster, &blind);

        assert_eq!(roster.role_of(&device(2)), Some(Role::Admin));
        assert_eq!(roster.name_of(&device(2), |_| Some(key())).as_deref(), Some("two"));
        assert_eq!(roster.member_count(), 2);
    }

    #[test]
    fn records_of_another_space_are_refused() {
        let (mut roster, _) = founded();
        let (identity, key) = (identity(1), key());
        let author = Author { identity: &identity, key: &key, hlc: Hlc::ZERO, entropy: [9; 32] };
        let (other, other_genesis) = Roster::found(&author, &Scope::Personal, "desk").unwrap();
        let expect = RecordError::OtherSpace { expected: roster.space(), found: other.space() };

        assert_eq!(roster.admit(other_genesis), Err(expect.clone()));
        assert_eq!(roster.admit(add(&other, 1, 2, Role::Member).unwrap()), Err(expect));
    }

    #[test]
    fn a_writer_names_at_most_64_heads_and_keeps_its_own_right_among_them() {
        let (mut roster, genesis) = founded();
        let founder_only = Roster::load(roster.space(), [genesis]).unwrap();
        // 80 heads that do not show device 200 its right, and the one least in order that does.
        for added in 10..90 {
            let record = add(&founder_only, 1, added, Role::Member).unwrap();
            admitted(&mut roster, &record);
        }
        let mut early = founder_only.clone();
        let grant = forged_add(&early, 1, 200);
        admitted(&mut early, &grant);
        admitted(&mut roster, &grant);

        let record = add(&roster, 200, 201, Role::Member).unwrap();

        admitted(&mut roster, &record);
        let parents = roster.dag.record(&record_hash(&record)).unwrap().parents();
        assert_eq!(parents.len(), 64);
        assert!(parents.contains(&record_hash(&grant)));
    }

    /// Fixed secrets in, every byte pinned: a change here is a new format version.
    #[test]
    fn the_golden_records_are_written_and_read_as_ever() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/data/records-v1.json")).unwrap();
        let (mut roster, genesis) = founded();
        let added = add_named(&roster, 1, 2, Role::Member, "Küche").unwrap();
        let founded_digest = hex(&roster.digest());
        admitted(&mut roster, &added);
        let added_digest = hex(&roster.digest());
        let written = serde_json::json!({
            "space": roster.space().to_string(),
            "epoch_key": hex(key().expose()),
            "records": [
                {"kind": "Genesis", "author_secret": hex(&[1; 32]), "bytes": hex(&genesis),
                 "hash": record_hash(&genesis).to_string(), "roster_digest": founded_digest},
                {"kind": "AddDevice", "author_secret": hex(&[1; 32]), "bytes": hex(&added),
                 "hash": record_hash(&added).to_string(),
                 "roster_digest": added_digest},
            ],
        });
        assert_eq!(vectors, written, "written now:\n{written:#}");

        let bytes_of = |index: usize| unhex(vectors["records"][index]["bytes"].as_str().unwrap());
        let space = vectors["space"].as_str().unwrap().parse().unwrap();
        let read = Roster::load(space, [bytes_of(1), bytes_of(0)]).unwrap();
        assert_eq!(hex(&read.digest()), vectors["records"][1]["roster_digest"].as_str().unwrap());
        assert_eq!(read.name_of(&device(1), |_| Some(key())).as_deref(), Some("desk"));
        assert_eq!(read.name_of(&device(2), |_| Some(key())).as_deref(), Some("Küche"));
        assert_eq!(read.genesis_key_id(), key().id());
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn unhex(text: &str) -> Bytes {
        let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16).unwrap()).collect();
        digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
    }

    #[test]
    fn a_hundred_added_devices_make_a_chain_that_a_newcomer_takes_in() {
        let (mut roster, genesis) = founded();
        for added in 2..102 {
            let record = add(&roster, 1, added, Role::Member).unwrap();
            admitted(&mut roster, &record);
        }

        let mut newcomer = Roster::load(roster.space(), [genesis]).unwrap();
        for record in roster.missing_from(&newcomer.record_hashes().collect::<Vec<_>>()) {
            admitted(&mut newcomer, &record);
        }

        assert_eq!(newcomer.digest(), roster.digest());
        assert_eq!(newcomer.member_count(), 101);
    }
}
