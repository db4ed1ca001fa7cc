//! Names, dormancy, branches, promotions, and records that arrive many at once.

use super::*;

#[test]
fn the_last_name_given_by_the_device_or_an_admin_is_shown() {
    let roster = space_of(&[(2, Role::Member), (3, Role::Member)]);
    let name = |roster: &Roster| roster.name_of(&device(2), |_| Some(key()));
    let rename = |roster: &Roster, by, name| write(roster, by, &Change::Rename { device: device(2), name });

    let own = after(&roster, &[&rename(&roster, 2, "mine").unwrap()]);
    assert_eq!(name(&own).as_deref(), Some("mine"));
    let by_admin = after(&own, &[&rename(&own, 1, "yours").unwrap()]);
    assert_eq!(name(&by_admin).as_deref(), Some("yours"));

    assert_eq!(rename(&own, 3, "x"), Err(RosterError::NotAdmin { device: device(3) }));
    assert!(matches!(rename(&own, 2, ""), Err(RosterError::NameLength { found: 0, .. })));
    assert_eq!(rename(&own, 2, "a\tb"), Err(RosterError::NameCharacter { found: '\t' }));
    let unknown = Change::Rename { device: device(9), name: "x" };
    assert_eq!(write(&own, 1, &unknown), Err(RosterError::NotADevice { device: device(9) }));
    let (identity, other) = (identity(2), EpochKey::from_bytes([1; 32]));
    let author = Author { identity: &identity, key: &other, hlc: Hlc::ZERO, entropy: [0; 32] };
    let change = Change::Rename { device: device(2), name: "x" };
    assert_eq!(own.write(&author, &change), Err(RosterError::UnknownKey { key_id: other.id() }));
    let content = addition_of(2, Role::Member);
    let Content::AddDevice(added) = content else { unreachable!("an addition was built") };
    let rename = content::Rename { device: device(2), name: added.name };
    let forgery = forged(&by_admin, 3, Content::Rename(rename));
    assert_eq!(name(&after(&by_admin, &[&forgery])).as_deref(), Some("yours"));
}

#[test]
fn a_device_is_dormant_until_it_or_an_admin_says_otherwise() {
    let roster = space_of(&[(2, Role::Member), (3, Role::Member)]);
    let is_dormant = |roster: &Roster| roster.facts.members[&device(2)].is_dormant();
    assert!(!is_dormant(&roster));

    let dormant = after(&roster, &[&write(&roster, 1, &Change::Dormant { device: device(2) }).unwrap()]);
    assert!(is_dormant(&dormant));
    let forgery = forged(&dormant, 3, Content::Active(device(2)));
    assert!(is_dormant(&after(&dormant, &[&forgery])));
    let back = after(&dormant, &[&write(&dormant, 2, &Change::Active { device: device(2) }).unwrap()]);
    assert!(!is_dormant(&back));
    let days = NonZeroU16::new(30).unwrap();
    let silent = after(&back, &[&write(&back, 1, &Change::Silent { device: device(2), days }).unwrap()]);
    let said =
        |roster: &Roster| roster.dormancy_of(&device(2)).map(|dormancy| (dormancy.by, dormancy.after_days));
    assert_eq!(said(&dormant), Some((device(1), None)), "a person's word");
    assert_eq!(said(&silent), Some((device(1), Some(days))), "nobody's word");
    let back = after(&silent, &[&write(&silent, 2, &Change::Active { device: device(2) }).unwrap()]);
    assert_eq!(said(&back), None);

    let refused = write(&roster, 3, &Change::Dormant { device: device(2) });
    assert_eq!(refused, Err(RosterError::NotAdmin { device: device(3) }));
    let refused = write(&roster, 3, &Change::Silent { device: device(2), days });
    assert_eq!(refused, Err(RosterError::NotAdmin { device: device(3) }));
    let refused = write(&roster, 3, &Change::Active { device: device(2) });
    assert_eq!(refused, Err(RosterError::NotAdmin { device: device(3) }));
}

#[test]
fn a_member_is_promoted_and_never_demoted() {
    let roster = space_of(&[(2, Role::Blind)]);

    let promoted = after(&roster, &[&add_named(&roster, 1, 2, Role::Admin, "desk").unwrap()]);

    assert_eq!(promoted.role_of(&device(2)), Some(Role::Admin));
    assert_eq!(promoted.admin_rank(&device(2)), Some(1));
    assert_eq!(promoted.name_of(&device(2), |_| Some(key())).as_deref(), Some("desk"));
    let refused = RosterError::AlreadyMember { device: device(2), role: Role::Admin };
    assert_eq!(add(&promoted, 1, 2, Role::Member), Err(refused.clone()));
    assert_eq!(add(&promoted, 1, 2, Role::Admin), Err(refused));
}

#[test]
fn a_log_follows_the_branch_its_device_selected_last() {
    let roster = space_of(&[(2, Role::Member)]);
    let branch = |end| Branch { log: log(2, 1), base: tip(4, 1), first: tip(4, 7).hash, tip: tip(end, 2) };
    let select = |roster: &Roster, end| write(roster, 2, &Change::SelectBranch(branch(end))).unwrap();
    assert_eq!(roster.branches_of(&log(2, 1)).next(), None);

    let (one, other) = (select(&roster, 5), select(&roster, 6));
    let contested = after(&roster, &[&one, &other]);
    let least = if record_hash(&one) < record_hash(&other) { 5 } else { 6 };
    assert_eq!(contested.branches_of(&log(2, 1)).next(), Some(branch(least)));
    let settled = after(&contested, &[&select(&contested, 9)]);

    assert!(settled.branches().eq([branch(9)]));
    let elsewhere = Branch { base: tip(2, 1), ..branch(3) };
    let twice = after(&settled, &[&write(&settled, 2, &Change::SelectBranch(elsewhere)).unwrap()]);
    assert!(twice.branches_of(&log(2, 1)).eq([elsewhere, branch(9)]), "another parting is another matter");
    let forgery = forged(&settled, 1, Content::SelectBranch(branch(12)));
    assert_eq!(after(&settled, &[&forgery]).branches_of(&log(2, 1)).next(), Some(branch(9)));
    let removed = after(&settled, &[&remove(&settled, 1, 2)]);
    let late = forged(&settled, 2, Content::SelectBranch(branch(13)));
    assert_eq!(after(&removed, &[&late]).branches_of(&log(2, 1)).next(), Some(branch(9)));
}

#[test]
fn a_branch_that_may_not_be_selected_is_refused_by_name() {
    let roster = space_of(&[(2, Role::Member)]);
    let refused = |by, base, tip: Tip| {
        write(&roster, by, &Change::SelectBranch(Branch { log: log(2, 1), base, first: tip.hash, tip }))
            .unwrap_err()
    };

    let expect = RosterError::NotOwnLog { device: device(1), log: log(2, 1) };
    assert_eq!(refused(1, tip(4, 1), tip(5, 1)), expect);
    let expect = |base, tip| RosterError::BranchOrder { base: Seq::new(base), tip: Seq::new(tip) };
    assert_eq!(refused(2, tip(4, 1), tip(4, 2)), expect(4, 4));
    assert_eq!(refused(2, tip(0, 1), tip(4, 2)), expect(0, 4));
    assert_eq!(refused(2, tip(3, 0), tip(4, 2)), expect(3, 4));
}

#[test]
fn of_many_records_the_refused_stay_out_alone() {
    let (founder_only, _) = founded();
    let roster = space_of(&[(2, Role::Admin), (3, Role::Member)]);
    let stranger = unknown(&roster, 9);
    let mut records = roster.missing_from(&[]);
    records.reverse();
    records.insert(1, stranger.clone());
    records.push(Bytes::from_static(b"KFR1"));

    let mut taken = founder_only.clone();
    let admitted = taken.admit_all(records.iter().chain(&records).cloned());

    assert_eq!(admitted, roster.missing_from(&[])[1..].iter().map(|b| record_hash(b)).collect::<Vec<_>>());
    assert!(taken.members().eq(roster.members()));
    assert_eq!((taken.digest(), taken.parked_count()), (roster.digest(), 0));
    assert!(taken.admit_all([stranger]).is_empty());
}

#[test]
fn records_of_reserved_kinds_are_kept_and_counted() {
    let roster = space_of(&[(2, Role::Blind)]);
    let later = [10, 12, 99]
        .map(|kind| forged(&roster, 2, Content::Unknown { kind, body: Bytes::from_static(b"any") }));

    let kept = after(&roster, &[&later[0], &later[1], &later[2]]);

    assert_eq!((kept.unknown_count(), kept.generation()), (3, 5));
    assert_eq!(kept.missing_from(&roster.record_hashes().collect::<Vec<_>>()).len(), 3);
}
