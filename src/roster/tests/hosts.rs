//! Hosts of the register of leases: proposed, confirmed, contested.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const TABLE: [u8; 32] = [7; 32];
const INSTANCE: u64 = 6;

fn propose(seen: &Roster, by: u8, handover: Handover, host: u8) -> HostProposal {
    seen.propose_host(&device(by), handover, (device(host), INSTANCE), 0).unwrap()
}

fn confirmed(seen: &Roster, proposal: &HostProposal, by: &[u8]) -> Vec<Confirmation> {
    let confirm = |seed: &u8| {
        let is_seal = device(*seed) == proposal.from && proposal.handover == Handover::Planned;
        let signature = proposal.confirm(seen.space(), &identity(*seed), is_seal.then_some(TABLE));
        Confirmation { device: device(*seed), signature }
    };
    by.iter().map(confirm).collect()
}

fn designate(seen: &Roster, proposal: &HostProposal, by: &[u8]) -> Result<Bytes, RosterError> {
    let coordinator = (1..=20).find(|seed| device(*seed) == proposal.coordinator).unwrap();
    let (identity, key) = (identity(coordinator), key());
    let author = Author { identity: &identity, key: &key, hlc: Hlc::new(4 << 16), entropy: [8; 32] };
    let table = (proposal.handover == Handover::Planned).then_some(TABLE);
    seen.designate(&author, proposal, table, &confirmed(seen, proposal, by))
}

fn host_of(roster: &Roster) -> (u32, DeviceId) {
    (roster.lease_host().term, roster.lease_host().host)
}

/// A record as an admin could sign it, whatever the rules say.
fn forged_designation(seen: &Roster, by: u8, proposal: &HostProposal, confirming: &[u8]) -> Bytes {
    let mut confirmations = confirmed(seen, proposal, confirming);
    confirmations.sort_by_key(|confirmation| confirmation.device);
    let is_planned = proposal.handover == Handover::Planned;
    let content = content::DesignateHost {
        term: proposal.term,
        handover: proposal.handover,
        prev: proposal.prev,
        from: proposal.from,
        host: proposal.host,
        instance: proposal.instance,
        table: if is_planned { TABLE } else { [0; 32] },
        confirmations,
    };
    forged(seen, by, Content::DesignateHost(Box::new(content)))
}

pub(super) fn golden_designations() -> (Roster, Vec<Bytes>) {
    let roster = space_of(&[(2, Role::Admin), (3, Role::Blind)]);
    let planned = designate(&roster, &propose(&roster, 1, Handover::Planned, 2), &[1, 3]).unwrap();
    let moved = after(&roster, &[&planned]);
    let lost = designate(&moved, &propose(&moved, 1, Handover::Lost, 3), &[1, 3]).unwrap();
    let lost_after = after(&moved, &[&lost]);
    (lost_after, vec![planned, lost])
}

#[test]
fn a_founder_hosts_until_another_device_is_designated() {
    let roster = space_of(&[(2, Role::Member)]);
    let first = roster.lease_host().clone();
    assert_eq!((first.term, first.host, first.prev), (0, device(1), CertHash::NONE));
    assert_eq!((first.instance, first.handover, first.record), (0, None, None));

    let proposal = propose(&roster, 1, Handover::Planned, 2);
    assert_eq!(roster.check_host_proposal(&proposal), Ok(()));
    let record = designate(&roster, &proposal, &[1, 2]).unwrap();
    let moved = after(&roster, &[&record]);

    let second = moved.lease_host();
    assert_eq!((second.term, second.host, second.prev), (1, device(2), first.hash));
    assert_eq!((second.instance, second.table), (INSTANCE, Some(TABLE)));
    assert_eq!(second.hash, proposal.hash(roster.space()));
    assert_eq!((moved.lease_chain().len(), second.record), (2, Some(record_hash(&record))));
}

#[test]
fn a_planned_handover_takes_the_seal_of_the_host_and_a_majority() {
    let roster = space_of(&[(2, Role::Member), (3, Role::Blind), (4, Role::Member), (5, Role::Member)]);
    let proposal = propose(&roster, 1, Handover::Planned, 3);
    assert_eq!(roster.host_quorum(), (3, 5));

    let refused = |by: &[u8]| designate(&roster, &proposal, by).unwrap_err();
    assert_eq!(refused(&[1, 2]), RosterError::HostQuorum { needed: 3, found: 2 });
    assert_eq!(refused(&[1, 2, 2, 2, 9]), RosterError::HostQuorum { needed: 3, found: 2 });
    assert_eq!(refused(&[2, 3, 4, 5]), RosterError::HostUnsealed { host: device(1) });
    for by in [&[1, 2][..], &[2, 3, 4, 5]] {
        let forged = after(&roster, &[&forged_designation(&roster, 1, &proposal, by)]);
        assert_eq!(host_of(&forged), (0, device(1)), "{by:?}");
    }

    let blind_votes_and_hosts = after(&roster, &[&designate(&roster, &proposal, &[1, 2, 3]).unwrap()]);
    assert_eq!(host_of(&blind_votes_and_hosts), (1, device(3)));
}

#[test]
fn a_seal_covers_the_table_it_hands_over() {
    let roster = space_of(&[(2, Role::Member)]);
    let proposal = propose(&roster, 1, Handover::Planned, 2);
    let (identity, key) = (identity(1), key());
    let author = Author { identity: &identity, key: &key, hlc: Hlc::new(4 << 16), entropy: [8; 32] };
    let confirmations = confirmed(&roster, &proposal, &[1, 2]);

    let another = roster.designate(&author, &proposal, Some([8; 32]), &confirmations);
    let none = roster.designate(&author, &proposal, None, &confirmations);

    assert_eq!(another, Err(RosterError::HostUnsealed { host: device(1) }));
    assert_eq!(none, Err(RosterError::HostUnsealed { host: device(1) }));
}

#[test]
fn a_lost_host_has_no_say_and_two_devices_have_no_majority_without_it() {
    let three = space_of(&[(2, Role::Admin), (3, Role::Member)]);
    let proposal = propose(&three, 2, Handover::Lost, 2);
    let with_the_lost = designate(&three, &proposal, &[1, 2]).unwrap_err();
    assert_eq!(with_the_lost, RosterError::HostQuorum { needed: 2, found: 1 });
    let forged = after(&three, &[&forged_designation(&three, 2, &proposal, &[1, 2])]);
    assert_eq!(host_of(&forged), (0, device(1)));
    let moved = after(&three, &[&designate(&three, &proposal, &[2, 3]).unwrap()]);
    assert_eq!(host_of(&moved), (1, device(2)));
    assert_eq!((moved.lease_host().table, moved.lease_host().handover), (None, Some(Handover::Lost)));

    let two = space_of(&[(2, Role::Admin)]);
    let proposal = propose(&two, 2, Handover::Lost, 2);
    assert_eq!(
        designate(&two, &proposal, &[1, 2]).unwrap_err(),
        RosterError::HostQuorum { needed: 2, found: 1 }
    );
    let alone = after(&two, &[&remove(&two, 2, 1)]);
    assert_eq!(host_of(&alone), (0, device(1)), "a removed host stays named until another is");
    let moved = after(&alone, &[&designate(&alone, &propose(&alone, 2, Handover::Lost, 2), &[2]).unwrap()]);
    assert_eq!(host_of(&moved), (1, device(2)));
}

#[test]
fn a_device_that_is_alone_may_take_its_own_register_up_again() {
    let (roster, _) = founded();
    let proposal = propose(&roster, 1, Handover::Lost, 1);

    let renewed = after(&roster, &[&designate(&roster, &proposal, &[1]).unwrap()]);

    assert_eq!(host_of(&renewed), (1, device(1)));
    let with_others = space_of(&[(2, Role::Member)]);
    let proposal = propose(&with_others, 1, Handover::Lost, 1);
    assert_eq!(
        designate(&with_others, &proposal, &[1, 2]).unwrap_err(),
        RosterError::HostQuorum { needed: 2, found: 1 }
    );
}

#[test]
fn two_hosts_named_at_once_come_out_the_same_everywhere() {
    let roster = space_of(&[(2, Role::Admin), (3, Role::Member)]);
    let (one, two) = (propose(&roster, 1, Handover::Planned, 2), propose(&roster, 2, Handover::Planned, 3));
    let records = [designate(&roster, &one, &[1, 2]).unwrap(), designate(&roster, &two, &[1, 3]).unwrap()];

    let settled = after(&roster, &[&records[0], &records[1]]);
    let reversed = after(&roster, &[&records[1], &records[0]]);

    let space = roster.space();
    let least = one.hash(space).min(two.hash(space));
    assert_eq!((settled.lease_host().hash, settled.lease_chain().len()), (least, 2));
    assert_eq!(settled.lease_chain(), reversed.lease_chain());

    let later = roster.propose_host(&device(1), Handover::Planned, (device(1), INSTANCE), 5).unwrap();
    let later = after(&settled, &[&designate(&roster, &later, &[1, 2]).unwrap()]);
    assert_eq!(host_of(&later), (6, device(1)), "the greater term counts");
}

#[test]
fn a_certificate_follows_the_one_in_force_when_it_was_proposed() {
    let roster = space_of(&[(2, Role::Admin), (3, Role::Member)]);
    let moved =
        after(&roster, &[&designate(&roster, &propose(&roster, 1, Handover::Planned, 2), &[1, 2]).unwrap()]);

    let again =
        after(&moved, &[&designate(&moved, &propose(&moved, 1, Handover::Planned, 3), &[2, 3]).unwrap()]);
    assert_eq!(host_of(&again), (2, device(3)));
    assert_eq!(again.lease_chain()[1], *moved.lease_host());

    let (mut elsewhere, mut backwards) =
        (propose(&again, 1, Handover::Lost, 1), propose(&again, 1, Handover::Lost, 1));
    elsewhere.prev = roster.lease_host().hash;
    backwards.term = HostTerm::new(2).unwrap();
    for wrong in [elsewhere, backwards] {
        let forged = after(&again, &[&forged_designation(&again, 1, &wrong, &[1, 2])]);
        assert_eq!(host_of(&forged), (2, device(3)));
    }
}

#[test]
fn a_record_of_a_member_or_of_a_removed_admin_names_no_host() {
    let roster = space_of(&[(2, Role::Admin), (3, Role::Member)]);
    let mut proposal = propose(&roster, 1, Handover::Planned, 3);
    proposal.coordinator = device(3);
    let by_member = after(&roster, &[&forged_designation(&roster, 3, &proposal, &[1, 2, 3])]);
    assert_eq!(host_of(&by_member), (0, device(1)));

    let stolen = designate(&roster, &propose(&roster, 2, Handover::Planned, 2), &[1, 2]).unwrap();
    let settled = after(&roster, &[&remove(&roster, 1, 2), &stolen]);
    assert_eq!(host_of(&settled), (0, device(1)));
}

#[test]
fn a_host_proposal_that_is_not_ones_own_choice_is_refused_by_name() {
    let roster = space_of(&[(2, Role::Admin), (3, Role::Member)]);
    let proposal = propose(&roster, 1, Handover::Planned, 3);
    let check = |change: fn(&mut HostProposal)| {
        let mut changed = proposal.clone();
        change(&mut changed);
        roster.check_host_proposal(&changed).unwrap_err()
    };

    assert_eq!(check(|p| p.coordinator = device(3)), RosterError::NotAdmin { device: device(3) });
    assert_eq!(check(|p| p.host = device(9)), RosterError::NotADevice { device: device(9) });
    assert_eq!(check(|p| p.parents.clear()), RosterError::ProposalParents);
    let expected = roster.lease_host().hash;
    assert_eq!(
        check(|p| p.prev = CertHash::NONE),
        RosterError::HostChain { expected, found: CertHash::NONE }
    );
    let moved = after(&roster, &[&designate(&roster, &proposal, &[1, 2]).unwrap()]);
    let mut late = propose(&moved, 1, Handover::Planned, 1);
    late.term = HostTerm::new(1).unwrap();
    assert_eq!(moved.check_host_proposal(&late), Err(RosterError::HostTerm { last: 1, found: 1 }));

    let by = |device: u8, host: u8, promised: u32| {
        let host = (super::device(host), INSTANCE);
        roster.propose_host(&super::device(device), Handover::Planned, host, promised).unwrap_err()
    };
    assert_eq!(by(3, 2, 0), RosterError::NotAdmin { device: device(3) });
    assert_eq!(by(1, 9, 0), RosterError::NotADevice { device: device(9) });
    let last = HostTerm::MAX.get();
    assert_eq!(by(1, 2, last), RosterError::HostTerm { last: 0, found: last + 1 });
    let (identity, key) = (identity(2), key());
    let author = Author { identity: &identity, key: &key, hlc: Hlc::ZERO, entropy: [0; 32] };
    assert_eq!(
        roster.designate(&author, &proposal, Some(TABLE), &[]),
        Err(RosterError::NotCoordinator { device: device(2), coordinator: device(1) })
    );
    let mut nowhere = proposal.clone();
    nowhere.parents = vec![RecordHash::from_bytes([9; 32])];
    assert_eq!(roster.host_confirmed(&nowhere, Some(TABLE), &[]), Err(RosterError::ProposalParents));
}

#[test]
fn terms_are_those_that_tokens_have_room_for() {
    assert_eq!((HostTerm::new(0), HostTerm::new(HostTerm::MAX.get() + 1)), (None, None));
    assert_eq!(HostTerm::new(1).map(HostTerm::get), Some(1));
    assert_eq!(HostTerm::MAX.get(), (1 << 21) - 1);
}

proptest! {
    /// Whoever signs what, in whatever order records arrive: a host is in force exactly where a majority
    /// of the devices there were has confirmed it, the host before among them where that was planned
    /// and not counted where it was lost.
    #[test]
    fn a_host_is_in_force_exactly_with_its_quorum(
        others in proptest::collection::vec(prop_oneof![Just(Role::Admin), Just(Role::Member), Just(Role::Blind)], 0..6),
        signing in proptest::collection::btree_set(1u8..9, 0..9),
        host in 1u8..9,
        is_planned in any::<bool>(),
    ) {
        let devices: Vec<(u8, Role)> = (2..).zip(others).collect();
        let roster = space_of(&devices);
        let handover = if is_planned { Handover::Planned } else { Handover::Lost };
        let host_to_be = (device(host), INSTANCE);
        let Ok(proposal) = roster.propose_host(&device(1), handover, host_to_be, 0) else {
            prop_assert!(members(&roster).iter().all(|member| *member != host));
            return Ok(());
        };

        let signing: Vec<u8> = signing.into_iter().collect();
        let forged = after(&roster, &[&forged_designation(&roster, 1, &proposal, &signing)]);

        let members: BTreeSet<u8> = members(&roster).into_iter().collect();
        let counts = |seed: &&u8| members.contains(*seed) && (is_planned || **seed != 1 || members.len() == 1);
        let votes = signing.iter().filter(counts).count();
        let expect = 2 * votes > members.len() && (!is_planned || signing.contains(&1));
        prop_assert_eq!(forged.lease_host().term == 1, expect);
        let written = designate(&roster, &proposal, &signing);
        prop_assert_eq!(written.is_ok(), expect, "{:?}", written);
    }
}
