//! Key epochs: proposed, confirmed, contested, due.

use super::*;

fn key_id(byte: u8) -> KeyId {
    KeyId::from_bytes([byte; 16])
}

fn confirmed(roster: &Roster, proposal: &Proposal, by: &[u8]) -> Vec<Confirmation> {
    by.iter()
        .map(|seed| Confirmation {
            device: device(*seed),
            signature: proposal.confirm(roster.space(), &identity(*seed)),
        })
        .collect()
}

fn rotate_as(
    roster: &Roster,
    by: u8,
    proposal: &Proposal,
    confirmations: &[Confirmation],
) -> Result<Bytes, RosterError> {
    let (identity, key) = (identity(by), key());
    let hlc = Hlc::new((3 << 16) + u64::from(by));
    let author = Author { identity: &identity, key: &key, hlc, entropy: [5; 32] };
    roster.rotate(&author, proposal, confirmations)
}

fn rotation(roster: &Roster, by: u8, key: u8) -> Bytes {
    confirmed_rotation(roster, by, key, &[])
}

/// A rotation to a made-up key that these devices confirmed.
pub(super) fn confirmed_rotation(roster: &Roster, by: u8, key: u8, confirming: &[u8]) -> Bytes {
    let proposal = roster.propose(&device(by), key_id(key)).unwrap();
    rotate_as(roster, by, &proposal, &confirmed(roster, &proposal, confirming)).unwrap()
}

#[test]
fn a_rotation_counts_the_members_that_confirmed_it_and_no_one_else() {
    let roster = space_of(&[(2, Role::Member), (3, Role::Blind), (4, Role::Member), (5, Role::Member)]);
    let roster = after(&roster, &[&remove(&roster, 1, 4)]);
    let proposal = roster.propose(&device(1), key_id(7)).unwrap();
    assert_eq!(roster.check_proposal(&proposal), Ok(()));
    assert_eq!((proposal.n, proposal.coordinator), (1, device(1)));

    let other = Proposal { n: 2, ..proposal.clone() };
    let mut given = confirmed(&roster, &proposal, &[2, 1, 2, 3, 4, 9]);
    given.extend(confirmed(&roster, &other, &[5]));
    let record = rotate_as(&roster, 1, &proposal, &given).unwrap();
    let rotated = after(&roster, &[&record]);

    let mut expect = vec![device(1), device(2)];
    expect.sort_unstable();
    assert_eq!(rotated.confirmations_of(&key_id(7)), expect);
    assert_eq!(rotated.epoch(), Epoch::Current { n: 1, key_id: key_id(7) });
    assert_eq!(rotated.rotated_at(), Hlc::new((3 << 16) + 1));
    assert!(rotated.confirmations_of(&key().id()).is_empty());
    assert!(rotated.confirmations_of(&key_id(8)).is_empty());
}

#[test]
fn confirmations_that_a_coordinator_makes_up_do_not_count() {
    let roster = space_of(&[(2, Role::Member), (3, Role::Member)]);
    let proposal = roster.propose(&device(1), key_id(7)).unwrap();
    let mut confirmations = confirmed(&roster, &proposal, &[2]);
    confirmations.push(Confirmation { device: device(3), signature: confirmations[0].signature });
    confirmations.extend(confirmed(&roster, &proposal, &[9]));
    confirmations.sort_by_key(|confirmation| confirmation.device);
    let content = content::RotateKey { n: 1, key_id: key_id(7), confirmations };

    let rotated = after(&roster, &[&forged(&roster, 1, Content::RotateKey(content))]);

    assert_eq!(rotated.confirmations_of(&key_id(7)), [device(2)]);
}

#[test]
fn a_founding_key_counts_until_the_first_rotation() {
    let roster = space_of(&[(2, Role::Member)]);

    assert_eq!(roster.epoch(), Epoch::Current { n: 0, key_id: key().id() });
    assert_eq!(roster.rotated_at(), roster.founded());
    assert!(!roster.is_rotation_due() && roster.knows_key(&key().id()));
    assert!(roster.key_ids().eq([key().id()]));
    let content = content::RotateKey { n: 1, key_id: key_id(7), confirmations: Vec::new() };
    let by_member = after(&roster, &[&forged(&roster, 2, Content::RotateKey(content))]);
    assert_eq!(by_member.epoch(), roster.epoch());
    assert!(!by_member.knows_key(&key_id(7)));
}

#[test]
fn two_concurrent_rotations_wait_for_a_third() {
    let roster = space_of(&[(2, Role::Admin)]);

    let contested = after(&roster, &[&rotation(&roster, 1, 7), &rotation(&roster, 2, 8)]);
    assert_eq!(contested.epoch(), Epoch::Contested { n: 1 });
    assert!(contested.is_rotation_due());
    assert_eq!(contested.rotated_at(), Hlc::new((3 << 16) + 2));
    let settled = after(&contested, &[&rotation(&contested, 2, 9)]);

    assert_eq!(settled.epoch(), Epoch::Current { n: 2, key_id: key_id(9) });
    assert!(!settled.is_rotation_due());
    assert!([7, 8, 9].iter().all(|key| settled.knows_key(&key_id(*key))));
}

#[test]
fn a_rotation_is_due_once_a_device_that_may_hold_the_key_is_gone() {
    let roster = space_of(&[(2, Role::Member), (3, Role::Blind)]);
    let without_blind = after(&roster, &[&remove(&roster, 1, 3)]);
    assert!(!without_blind.is_rotation_due());

    let removal = remove(&without_blind, 1, 2);
    let removed = after(&without_blind, &[&removal]);
    assert!(removed.is_rotation_due());
    // One that had not seen the removal gave the key to the removed device.
    let unaware = after(&removed, &[&rotation(&without_blind, 1, 7)]);
    assert!(unaware.is_rotation_due());
    let rotated = after(&unaware, &[&rotation(&unaware, 1, 8)]);

    assert!(!rotated.is_rotation_due());
}

#[test]
fn a_rotation_of_a_removed_admin_does_not_count_and_its_key_stays_readable() {
    let before = space_of(&[(2, Role::Admin)]);
    let stolen = rotation(&before, 2, 7);

    let settled = after(&before, &[&remove(&before, 1, 2), &stolen]);

    assert_eq!(settled.epoch(), Epoch::Current { n: 0, key_id: key().id() });
    assert!(settled.is_rotation_due() && settled.knows_key(&key_id(7)));
    let refused = settled.propose(&device(1), key_id(7));
    assert_eq!(refused, Err(RosterError::KeyReused { key_id: key_id(7) }));
}

#[test]
fn a_proposal_that_is_not_ones_own_choice_is_refused_by_name() {
    let roster = space_of(&[(2, Role::Admin), (3, Role::Member)]);
    let proposal = roster.propose(&device(1), key_id(7)).unwrap();
    let later = after(&roster, &[&remove(&roster, 1, 3)]);
    let refused = |proposal: &Proposal| roster.check_proposal(proposal).unwrap_err();

    assert_eq!(later.check_proposal(&proposal), Err(RosterError::ProposalParents));
    let expect = RosterError::ProposalNumber { expected: 1, found: 4 };
    assert_eq!(refused(&Proposal { n: 4, ..proposal.clone() }), expect);
    let expect = RosterError::NotAdmin { device: device(3) };
    assert_eq!(refused(&Proposal { coordinator: device(3), ..proposal.clone() }), expect);
    assert_eq!(roster.propose(&device(3), key_id(7)), Err(expect));
    let used = key().id();
    assert_eq!(refused(&Proposal { key_id: used, ..proposal }), RosterError::KeyReused { key_id: used });
}

#[test]
fn a_rotation_that_may_not_be_written_is_refused_by_name() {
    let (founder_only, genesis) = founded();
    let roster = space_of(&[(2, Role::Admin), (3, Role::Member)]);
    let proposal = roster.propose(&device(2), key_id(7)).unwrap();
    let refused = |by, proposal: &Proposal| rotate_as(&roster, by, proposal, &[]).unwrap_err();

    let expect = RosterError::NotCoordinator { device: device(1), coordinator: device(2) };
    assert_eq!(refused(1, &proposal), expect);
    let by_member = Proposal { coordinator: device(3), ..proposal.clone() };
    assert_eq!(refused(3, &by_member), RosterError::NotAdmin { device: device(3) });
    let used = Proposal { key_id: key().id(), ..proposal.clone() };
    assert_eq!(refused(2, &used), RosterError::KeyReused { key_id: key().id() });
    let zero = Proposal { n: 0, ..proposal.clone() };
    assert_eq!(refused(2, &zero), RosterError::ProposalNumber { expected: 1, found: 0 });
    let elsewhere = |parents| Proposal { parents, ..proposal.clone() };
    // Not here, repeated, none, and without the coordinator's right.
    let here = proposal.parents[0];
    let unknown = RecordHash::from_bytes([1; 32]);
    for parents in [vec![unknown], vec![here, here], Vec::new(), vec![record_hash(&genesis)]] {
        assert_eq!(refused(2, &elsewhere(parents)), RosterError::ProposalParents);
    }
    assert_eq!(founder_only.space(), roster.space());
    // What arrived since the proposal does not stand in its way.
    let later = after(&roster, &[&remove(&roster, 1, 3)]);
    let late = rotate_as(&later, 2, &proposal, &[]).unwrap();
    assert!(after(&later, &[&late]).is_rotation_due());
}
