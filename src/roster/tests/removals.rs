//! Removals: honest ones, crossing ones, and what a stolen device makes of them.

use super::*;

const ADMIN: Role = Role::Admin;
const MEMBER: Role = Role::Member;

#[test]
fn a_removed_device_is_gone_and_its_logs_count_up_to_the_cut() {
    let roster = space_of(&[(2, MEMBER)]);
    let cut = BTreeMap::from([(log(2, 1), tip(7, 1)), (log(2, 2), Tip::NONE)]);
    let removal = write(&roster, 1, &Change::Remove { device: device(2), cut: &cut }).unwrap();
    assert_eq!(roster.allowance(&log(2, 1)), Allowance::All);

    let roster = after(&roster, &[&removal]);

    assert_eq!(members(&roster), [1]);
    let removed = roster.removal_of(&device(2)).unwrap();
    assert_eq!((removed.by, removed.role), (device(1), MEMBER));
    assert_eq!(removed.cut, BTreeMap::from([(log(2, 1), tip(7, 1))]));
    assert!(roster.removed().eq([removed]));
    let refused = NotAuthor::Removed { device: device(2) };
    assert_eq!(roster.may_author(&device(2)), Err(refused));
    assert_eq!(roster.allowance(&log(2, 1)), Allowance::UpTo(tip(7, 1)));
    assert_eq!(roster.allowance(&log(2, 2)), Allowance::Nothing(refused));
    let stranger = NotAuthor::Stranger { device: device(9) };
    assert_eq!(roster.allowance(&log(9, 1)), Allowance::Nothing(stranger));
    assert_eq!(roster.name_of(&device(2), |_| Some(key())).as_deref(), Some("laptop"));
}

#[test]
fn a_removed_key_never_comes_back_by_a_new_record_or_by_old_ones() {
    let before = space_of(&[(2, MEMBER), (3, ADMIN)]);
    let roster = after(&before, &[&remove(&before, 1, 2)]);
    let refused = RosterError::Removed { device: device(2) };
    assert_eq!(add(&roster, 1, 2, ADMIN), Err(refused));

    let unaware = forged(&before, 3, addition_of(2, ADMIN));
    let aware = forged(&roster, 3, addition_of(2, ADMIN));
    let mut roster = after(&roster, &[&unaware, &aware]);
    for gossip in before.missing_from(&[]) {
        assert_eq!(roster.admit(gossip), Ok(Admit::Duplicate));
    }

    assert_eq!(members(&roster), [1, 3]);
    // Nor does a device that was removed before anything had added it.
    let early = forged(&roster, 1, removal_of(5, BTreeMap::new()));
    let roster = after(&roster, &[&early]);
    assert_eq!(roster.removal_of(&device(5)), None);
    assert_eq!(roster.may_author(&device(5)), Err(NotAuthor::Removed { device: device(5) }));
    let added = forged(&roster, 3, addition_of(5, MEMBER));
    assert_eq!(members(&after(&roster, &[&added])), [1, 3]);
}

#[test]
fn two_admins_who_remove_each_other_both_go() {
    let roster = space_of(&[(2, ADMIN), (3, ADMIN), (4, ADMIN)]);

    let settled = after(&roster, &[&remove(&roster, 2, 3), &remove(&roster, 3, 2)]);

    assert_eq!(members(&settled), [1, 4]);
    assert_eq!(settled.admin_rank(&device(4)), Some(1));
    assert_eq!(settled.admin_rank(&device(2)), None);
}

#[test]
fn the_earlier_enrolled_of_the_last_two_admins_stays() {
    let roster = space_of(&[(2, ADMIN), (3, MEMBER)]);

    let settled = after(&roster, &[&remove(&roster, 1, 2), &remove(&roster, 2, 1)]);

    assert_eq!(members(&settled), [1, 3]);
    assert_eq!(settled.removal_of(&device(1)), None);
    assert_eq!(settled.admin_rank(&device(1)), Some(0));
}

#[test]
fn an_admin_who_left_before_does_not_come_back_as_the_last_one() {
    let roster = space_of(&[(2, ADMIN), (3, ADMIN)]);
    let roster = after(&roster, &[&remove(&roster, 2, 1)]);

    let settled = after(&roster, &[&remove(&roster, 2, 3), &remove(&roster, 3, 2)]);

    assert_eq!(members(&settled), [2]);
    let alone = forged(&settled, 2, removal_of(2, BTreeMap::new()));
    assert_eq!(members(&after(&settled, &[&alone])), [2]);
}

#[test]
fn nothing_a_stolen_admin_dates_back_takes_effect() {
    let stolen_at = space_of(&[(2, ADMIN), (3, ADMIN), (4, MEMBER)]);
    let loot = stolen_at.clone();
    let later = after(&stolen_at, &[&add(&stolen_at, 1, 5, MEMBER).unwrap()]);
    let roster = after(&later, &[&remove(&later, 1, 3)]);
    let honest = members(&roster);
    assert_eq!(honest, [1, 2, 4, 5]);

    // 3 is stolen: it adds 6, 6 adds 7, and all of them remove, promote and rename whom they like.
    let accomplice = forged(&loot, 3, addition_of(6, ADMIN));
    let with_6 = after(&loot, &[&accomplice]);
    let second = forged(&with_6, 6, addition_of(7, ADMIN));
    let with_7 = after(&with_6, &[&second]);
    let crossed = forged(&with_7, 7, addition_of(6, ADMIN));
    let mut loot = vec![accomplice, second, crossed];
    for (by, removed) in [(3, 2), (3, 4), (6, 2), (6, 5), (7, 4), (7, 2)] {
        loot.push(forged(&with_7, by, removal_of(removed, BTreeMap::new())));
    }
    for by in [3, 6, 7] {
        loot.push(forged(&with_7, by, addition_of(4, ADMIN)));
        loot.push(forged(
            &with_7,
            by,
            Content::Dormant(content::Dormant { device: device(2), after_days: None }),
        ));
    }
    let settled = after(&roster, &loot.iter().collect::<Vec<_>>());

    assert_eq!(members(&settled), honest);
    assert_eq!(settled.role_of(&device(4)), Some(MEMBER));
    assert!(settled.members().eq(roster.members()) && settled.removed().eq(roster.removed()));
    for seed in [6, 7] {
        let refused = NotAuthor::Stranger { device: device(seed) };
        assert_eq!(settled.allowance(&log(seed, 1)), Allowance::Nothing(refused));
    }
    // Nor does what it signs now, with its own removal in its past.
    let late = forged(&settled, 3, removal_of(1, BTreeMap::new()));
    let by_accomplice = forged(&settled, 7, removal_of(2, BTreeMap::new()));
    assert_eq!(members(&after(&settled, &[&late, &by_accomplice])), honest);
}

#[test]
fn a_stolen_admin_cannot_fell_its_remover_through_the_one_who_enrolled_it() {
    // 2 is stolen and 3, which 1 added later, removes it. 2 strikes at 1, as if it had not seen 3.
    let before = space_of(&[(2, ADMIN)]);
    let roster = after(&before, &[&add(&before, 1, 3, ADMIN).unwrap()]);
    let roster = after(&roster, &[&remove(&roster, 3, 2)]);

    let settled = after(&roster, &[&forged(&before, 2, removal_of(1, BTreeMap::new()))]);

    assert_eq!(members(&settled), [1, 3]);
}

#[test]
fn an_accomplice_gains_no_more_than_its_principal_could() {
    let before = space_of(&[(2, ADMIN), (3, ADMIN)]);
    let roster = after(&before, &[&remove(&before, 2, 3)]);
    let with_6 = after(&before, &[&forged(&before, 3, addition_of(6, ADMIN))]);
    let records = [
        forged(&before, 3, addition_of(6, ADMIN)),
        forged(&with_6, 6, removal_of(2, BTreeMap::new())),
        forged(&with_6, 6, removal_of(1, BTreeMap::new())),
    ];

    let settled = after(&roster, &[&records[0], &records[1], &records[2]]);

    // As if 3 itself had struck back at 2; at 1, who did not remove it, it cannot.
    assert_eq!(members(&settled), [1]);
    assert!(settled.removal_of(&device(2)).is_some_and(|removed| removed.by == device(6)));
}

#[test]
fn what_the_remover_had_seen_and_what_others_vouch_for_stays() {
    let before = space_of(&[(2, ADMIN)]);
    let seen = after(&before, &[&add(&before, 2, 3, MEMBER).unwrap()]);
    let removal = remove(&seen, 1, 2);

    let unseen = forged(&seen, 2, addition_of(4, MEMBER));
    let vouched = forged(&seen, 2, addition_of(5, ADMIN));
    let voucher = forged(&seen, 1, addition_of(5, MEMBER));
    let promotion = forged(&seen, 2, addition_of(3, ADMIN));
    let settled = after(&seen, &[&removal, &unseen, &vouched, &voucher, &promotion]);

    assert_eq!(members(&settled), [1, 3, 5]);
    assert_eq!(settled.role_of(&device(3)), Some(MEMBER));
    assert_eq!(settled.role_of(&device(5)), Some(MEMBER));
}

#[test]
fn a_removal_by_who_holds_only_void_rights_falls_and_what_it_struck_counts_again() {
    // 2 and 3 are stolen, both add 6, so 6 is nobody's accomplice alone; still nothing valid adds it.
    let before = space_of(&[(2, ADMIN), (3, ADMIN), (4, MEMBER)]);
    let one = forged(&before, 2, addition_of(6, ADMIN));
    let other = forged(&before, 3, addition_of(6, ADMIN));
    let with_6 = after(&before, &[&one, &other]);
    let strike = forged(&with_6, 6, removal_of(4, BTreeMap::new()));
    let struck = after(&with_6, &[&strike]);
    assert_eq!(members(&struck), [1, 2, 3, 6]);
    let renamed = write(&before, 4, &Change::Rename { device: device(4), name: "mine" }).unwrap();

    let settled = after(&struck, &[&remove(&before, 1, 2), &remove(&before, 1, 3), &renamed]);

    assert_eq!(members(&settled), [1, 4]);
    assert_eq!(settled.name_of(&device(4), |_| Some(key())).as_deref(), Some("mine"));
}

#[test]
fn a_member_removes_itself_and_nobody_else() {
    let roster = space_of(&[(2, MEMBER), (3, Role::Blind), (4, MEMBER)]);
    let refused = |by, removed| {
        let cut = BTreeMap::new();
        write(&roster, by, &Change::Remove { device: device(removed), cut: &cut }).unwrap_err()
    };
    assert_eq!(refused(2, 4), RosterError::NotAdmin { device: device(2) });

    let forgery = forged(&roster, 2, removal_of(4, BTreeMap::new()));
    let settled = after(&roster, &[&forgery, &remove(&roster, 2, 2), &remove(&roster, 3, 3)]);

    assert_eq!(members(&settled), [1, 4]);
    assert_eq!(settled.removal_of(&device(3)).map(|removed| removed.role), Some(Role::Blind));
}

#[test]
fn a_ring_of_removals_breaks_at_the_admin_enrolled_earliest() {
    let roster = space_of(&[(2, ADMIN), (3, ADMIN), (4, ADMIN)]);
    let ring = [remove(&roster, 2, 3), remove(&roster, 3, 4), remove(&roster, 4, 2)];

    let settled = after(&roster, &[&ring[0], &ring[1], &ring[2]]);

    // 2 stands, so 3 goes and strikes nobody; nothing then strikes what 4 did.
    assert_eq!(members(&settled), [1, 4]);
}

#[test]
fn the_farthest_cut_counts_and_of_equal_ones_the_smaller_link() {
    let roster = space_of(&[(2, ADMIN), (3, MEMBER)]);
    let cuts = [
        BTreeMap::from([(log(3, 1), tip(5, 9)), (log(3, 2), tip(4, 8))]),
        BTreeMap::from([(log(3, 1), tip(6, 1)), (log(3, 2), tip(4, 7)), (log(3, 3), tip(1, 1))]),
    ];
    let removals = [1, 2].map(|by| forged(&roster, by, removal_of(3, cuts[usize::from(by) - 1].clone())));

    let settled = after(&roster, &[&removals[0], &removals[1]]);

    let expect = BTreeMap::from([(log(3, 1), tip(6, 1)), (log(3, 2), tip(4, 7)), (log(3, 3), tip(1, 1))]);
    assert_eq!(settled.removal_of(&device(3)).unwrap().cut, expect);
}

#[test]
fn no_cut_keeps_anything_of_a_device_that_only_void_records_added() {
    let before = space_of(&[(2, ADMIN), (3, ADMIN)]);
    let with_6 = after(&before, &[&forged(&before, 3, addition_of(6, MEMBER))]);
    let cut = BTreeMap::from([(log(6, 1), tip(5, 1))]);
    let banned = write(&with_6, 2, &Change::Remove { device: device(6), cut: &cut }).unwrap();
    let with_6_gone = after(&with_6, &[&banned]);
    assert_eq!(with_6_gone.allowance(&log(6, 1)), Allowance::UpTo(tip(5, 1)));

    let settled = after(&with_6_gone, &[&remove(&before, 1, 3)]);

    let refused = NotAuthor::Removed { device: device(6) };
    assert_eq!(settled.allowance(&log(6, 1)), Allowance::Nothing(refused));
    assert!(settled.removal_of(&device(6)).is_some());
}

#[test]
fn a_removal_that_may_not_be_written_is_refused_by_name() {
    let roster = space_of(&[(2, ADMIN), (3, MEMBER), (4, MEMBER)]);
    let roster = after(&roster, &[&remove(&roster, 1, 4)]);
    let refused = |roster: &Roster, by, removed, cut: &BTreeMap<LogId, Tip>| {
        write(roster, by, &Change::Remove { device: device(removed), cut }).unwrap_err()
    };
    let none = BTreeMap::new();

    assert_eq!(refused(&roster, 9, 3, &none), RosterError::NotADevice { device: device(9) });
    assert_eq!(refused(&roster, 1, 9, &none), RosterError::NotADevice { device: device(9) });
    assert_eq!(refused(&roster, 4, 4, &none), RosterError::Removed { device: device(4) });
    assert_eq!(refused(&roster, 1, 4, &none), RosterError::AlreadyRemoved { device: device(4) });
    let other = BTreeMap::from([(log(3, 1), tip(1, 1)), (log(2, 1), tip(1, 1))]);
    let expect = RosterError::CutOfOther { device: device(3), log: log(2, 1) };
    assert_eq!(refused(&roster, 1, 3, &other), expect);
    let long: BTreeMap<_, _> = (0..513).map(|incarnation| (log(3, incarnation), tip(1, 1))).collect();
    assert_eq!(refused(&roster, 1, 3, &long), RosterError::CutTooLong { found: 513, limit: 512 });
    let longest: BTreeMap<_, _> = long.into_iter().skip(1).collect();
    let change = Change::Remove { device: device(3), cut: &longest };
    assert!(write(&roster, 1, &change).is_ok_and(|record| record.len() < 64 * 1024));
    let alone = after(&roster, &[&remove(&roster, 1, 2)]);
    assert_eq!(refused(&alone, 1, 1, &none), RosterError::LastAdmin { device: device(1) });
}
