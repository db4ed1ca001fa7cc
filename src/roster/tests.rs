//! What a roster answers, from records as devices write them.

use super::content::AddDevice;
use super::record::Draft;
use super::*;
use crate::crypto::Identity;
use crate::model::limits::DEVICES_MAX;
use crate::model::{Incarnation, Seq, TipHash};

mod changes;
mod epochs;
mod hosts;
mod model;
mod removals;

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

/// A space of device 1, which added these one after the other.
fn space_of(devices: &[(u8, Role)]) -> Roster {
    let (mut roster, _) = founded();
    for (added, role) in devices {
        let record = add(&roster, 1, *added, *role).unwrap();
        admitted(&mut roster, &record);
    }
    roster
}

fn write(seen: &Roster, by: u8, change: &Change<'_>) -> Result<Bytes, RosterError> {
    let (identity, key) = (identity(by), key());
    let hlc = Hlc::new((2 << 16) + seen.generation());
    seen.write(&Author { identity: &identity, key: &key, hlc, entropy: [4; 32] }, change)
}

fn remove(seen: &Roster, by: u8, removed: u8) -> Bytes {
    write(seen, by, &Change::Remove { device: device(removed), cut: &BTreeMap::new() }).unwrap()
}

/// What a device signs over the records of `seen`, whether it may or not, dated as far back as it can.
fn forged(seen: &Roster, by: u8, content: Content) -> Bytes {
    let identity = identity(by);
    let draft = Draft {
        space: seen.space(),
        author: identity.device(),
        hlc: Hlc::ZERO,
        parents: seen.dag.parents_for(None),
        content,
    };
    Record::sign(&identity, &draft)
}

fn removal_of(removed: u8, cut: BTreeMap<LogId, Tip>) -> Content {
    Content::RemoveDevice(content::RemoveDevice { device: device(removed), cut })
}

fn addition_of(added: u8, role: Role) -> Content {
    let (identity, key) = (identity(added), key());
    let author = Author { identity: &identity, key: &key, hlc: Hlc::new(9), entropy: [3; 32] };
    let name = author.seal_name(&device(added), "forged");
    Content::AddDevice(AddDevice { device: device(added), role, name })
}

/// `seen` with these records too, all of which are admitted; in whatever order they arrive.
fn after(seen: &Roster, records: &[&Bytes]) -> Roster {
    let mut roster = seen.clone();
    let admitted = roster.admit_all(records.iter().copied().cloned());
    assert_eq!(admitted.len(), records.len());

    let mut all = roster.missing_from(&[]);
    all.reverse();
    let reversed = Roster::load(roster.space(), all).unwrap();
    assert!(reversed.members().eq(roster.members()) && reversed.removed().eq(roster.removed()));
    assert_eq!((reversed.digest(), reversed.epoch()), (roster.digest(), roster.epoch()));
    assert_eq!(reversed.lease_head(), roster.lease_head());
    roster
}

/// The devices of the space by their seeds, of those up to 20.
fn members(roster: &Roster) -> Vec<u8> {
    (1..=20).filter(|seed| roster.role_of(&device(*seed)).is_some()).collect()
}

fn log(seed: u8, incarnation: u64) -> LogId {
    LogId { device: device(seed), incarnation: Incarnation::new(incarnation) }
}

fn tip(seq: u64, link: u8) -> Tip {
    Tip { seq: Seq::new(seq), hash: TipHash::from_bytes([link; 32]) }
}

/// A record of a kind no version defines yet.
fn unknown(roster: &Roster, by: u8) -> Bytes {
    let identity = identity(by);
    let draft = Draft {
        space: roster.space(),
        author: identity.device(),
        hlc: Hlc::new(3 << 16),
        parents: roster.dag.parents_for(roster.facts.right_of(&identity.device())),
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
    let template = roster.facts.members[&device(1)].clone();
    for index in 1..DEVICES_MAX as u64 {
        let device = DeviceId::from_bytes(*blake3::hash(&index.to_be_bytes()).as_bytes());
        roster.facts.members.insert(device, Member { device, ..template.clone() });
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
    let forged = forged(&roster, 2, addition_of(3, Role::Admin));
    let mut other = Roster::load(roster.space(), [genesis]).unwrap();

    assert_eq!(other.admit(forged.clone()), Ok(Admit::Parked));
    admitted(&mut other, &member);

    assert_eq!((other.parked_count(), other.role_of(&device(3))), (0, None));
    assert_eq!(other.admit(forged), Err(RecordError::NotAdmin { author: device(2) }));
}

#[test]
fn rights_come_from_what_the_author_had_seen() {
    let (mut roster, genesis) = founded();
    let founder_only = Roster::load(roster.space(), [genesis]).unwrap();
    let admin = add(&roster, 1, 2, Role::Admin).unwrap();
    admitted(&mut roster, &admin);

    // Device 2 is an admin by now, but not by anything this record names.
    let early = forged(&founder_only, 2, addition_of(3, Role::Admin));

    assert_eq!(roster.admit(early), Err(RecordError::NotAdmin { author: device(2) }));
    let late = forged(&roster, 2, addition_of(3, Role::Admin));
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
    let grant = forged(&early, 1, addition_of(200, Role::Admin));
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
    let mut records = vec![golden("Genesis", 1, &genesis, &roster)];
    let mut take = |roster: &mut Roster, kind: &str, by: u8, bytes: Bytes| {
        admitted(roster, &bytes);
        records.push(golden(kind, by, &bytes, roster));
    };
    let added = add_named(&roster, 1, 2, Role::Member, "Küche").unwrap();
    take(&mut roster, "AddDevice", 1, added);
    let branch = Branch { log: log(2, 1), base: tip(4, 1), first: tip(4, 7).hash, tip: tip(9, 2) };
    let cut = BTreeMap::from([(log(2, 1), tip(9, 2)), (log(2, 2), tip(3, 3))]);
    for (kind, by, change) in [
        ("Rename", 2, Change::Rename { device: device(2), name: "Flur" }),
        ("Dormant", 1, Change::Dormant { device: device(2) }),
        ("Active", 2, Change::Active { device: device(2) }),
        ("SelectBranch", 2, Change::SelectBranch(branch)),
        ("RemoveDevice", 1, Change::Remove { device: device(2), cut: &cut }),
        ("Silent", 1, Change::Silent { device: device(1), days: NonZeroU16::new(30).unwrap() }),
    ] {
        if kind == "RemoveDevice" {
            let rotated = epochs::confirmed_rotation(&roster, 1, 7, &[1, 2]);
            take(&mut roster, "RotateKey", 1, rotated);
        }
        let bytes = write(&roster, by, &change).unwrap();
        take(&mut roster, kind, by, bytes);
    }
    let written = serde_json::json!({
        "space": roster.space().to_string(),
        "epoch_key": hex(key().expose()),
        "records": records,
    });
    assert_eq!(vectors, written, "written now:\n{written:#}");

    let bytes_of = |index: usize| unhex(vectors["records"][index]["bytes"].as_str().unwrap());
    let space = vectors["space"].as_str().unwrap().parse().unwrap();
    let read = Roster::load(space, (0..9).rev().map(bytes_of)).unwrap();
    assert_eq!(hex(&read.digest()), vectors["records"][8]["roster_digest"].as_str().unwrap());
    assert_eq!(read.name_of(&device(1), |_| Some(key())).as_deref(), Some("desk"));
    assert_eq!(read.name_of(&device(2), |_| Some(key())).as_deref(), Some("Flur"));
    assert_eq!(read.genesis_key_id(), key().id());
    assert_eq!(read.epoch(), Epoch::Current { n: 1, key_id: KeyId::from_bytes([7; 16]) });
    assert_eq!(read.confirmations_of(&KeyId::from_bytes([7; 16])).len(), 2);
    assert!(read.branches().eq([branch]) && read.removal_of(&device(2)).is_some_and(|r| r.cut == cut));
}

/// The records that name hosts, pinned like the others.
#[test]
fn the_golden_designations_are_written_and_read_as_ever() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/data/hosts-v1.json")).unwrap();
    let (roster, records) = hosts::golden_designations();
    let certificates: Vec<_> = std::iter::once(crate::lease::Head::first(roster.space(), device(1)))
        .chain(
            roster.lease_chain().certificates().filter_map(|cert| roster.lease_chain().known(&cert.hash())),
        )
        .map(|head| {
            serde_json::json!({
                "term": head.term, "host": hex(head.host.as_bytes()), "hash": head.cert.to_string(),
            })
        })
        .collect();
    let written = serde_json::json!({
        "space": roster.space().to_string(),
        "records": records.iter().map(|bytes| hex(bytes)).collect::<Vec<_>>(),
        "certificates": certificates,
    });
    assert_eq!(vectors, written, "written now:\n{written:#}");

    for (vector, bytes) in vectors["records"].as_array().unwrap().iter().zip(&records) {
        assert_eq!(roster.record(&record_hash(bytes)), Some(&unhex(vector.as_str().unwrap())));
    }
}

fn golden(kind: &str, by: u8, bytes: &Bytes, after: &Roster) -> serde_json::Value {
    serde_json::json!({
        "kind": kind, "author_secret": hex(&[by; 32]), "bytes": hex(bytes),
        "hash": record_hash(bytes).to_string(), "roster_digest": hex(&after.digest()),
    })
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
