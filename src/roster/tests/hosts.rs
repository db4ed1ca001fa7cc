//! Hosts of the register of leases: which certificates count.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::content::DesignateHost;
use super::*;
use crate::lease::{self, CertError, CertKind, Certificate, Head, HostInstance, TableDigest, Vote, Voter};

fn propose(seen: &Roster, by: u8, kind: CertKind, host: u8) -> lease::Proposal {
    let head = seen.lease_head();
    lease::Proposal {
        space: seen.space(),
        term: head.term + 1,
        prev: head.cert,
        kind,
        host: device(host),
        driver: device(by),
        voters: seen
            .lease_voters()
            .into_iter()
            .map(|device| Voter { device, instance: HostInstance::FIRST })
            .collect(),
    }
}

/// The certificate with the votes of these devices, the host before sealing where that is planned.
fn certificate(seen: &Roster, proposal: lease::Proposal, by: &[u8]) -> Certificate {
    let table = (proposal.kind == CertKind::Planned).then(|| TableDigest::of(b"table"));
    let from = seen.lease_head().host;
    let vote = |seed: &u8| {
        let table = table.filter(|_| device(*seed) == from);
        lease::Proposal::confirm(proposal.hash(), table, &identity(*seed))
    };
    let mut votes: Vec<Vote> = by.iter().map(vote).collect();
    votes.sort_by_key(|vote| vote.device);
    Certificate { proposal, table, votes }
}

fn designate(seen: &Roster, by: u8, cert: &Certificate) -> Result<Bytes, RosterError> {
    let (identity, key) = (identity(by), key());
    let author = Author { identity: &identity, key: &key, hlc: Hlc::new(4 << 16), entropy: [8; 32] };
    seen.designate(&author, cert)
}

fn designated(seen: &Roster, by: u8, kind: CertKind, host: u8, voting: &[u8]) -> Bytes {
    designate(seen, by, &certificate(seen, propose(seen, by, kind, host), voting)).unwrap()
}

/// A record as its author could sign it, whatever the rules say.
fn forged_designation(seen: &Roster, by: u8, cert: &Certificate) -> Bytes {
    forged(seen, by, Content::DesignateHost(Box::new(DesignateHost::of(cert))))
}

fn host_of(roster: &Roster) -> (u32, DeviceId) {
    (roster.lease_head().term, roster.lease_head().host)
}

pub(super) fn golden_designations() -> (Roster, Vec<Bytes>) {
    let roster = space_of(&[(2, Role::Admin), (3, Role::Blind)]);
    let planned = designated(&roster, 1, CertKind::Planned, 2, &[1, 3]);
    let moved = after(&roster, &[&planned]);
    let lost = designated(&moved, 1, CertKind::Lost, 3, &[1, 3]);
    let lost_after = after(&moved, &[&lost]);
    (lost_after, vec![planned, lost])
}

#[test]
fn a_founder_hosts_until_another_device_is_designated() {
    let roster = space_of(&[(2, Role::Member)]);
    assert_eq!(roster.lease_head(), Head::first(roster.space(), device(1)));

    let record = designated(&roster, 1, CertKind::Planned, 2, &[1, 2]);
    let moved = after(&roster, &[&record]);

    let head = moved.lease_head();
    assert_eq!((head.term, head.host, head.kind), (1, device(2), CertKind::Planned));
    assert_eq!(moved.lease_chain().position(&roster.lease_head().cert), Some(0));
    assert_eq!(moved.lease_chain().position(&head.cert), Some(1));
}

#[test]
fn a_host_takes_a_majority_and_the_seal_of_the_one_before_or_its_loss() {
    let roster = space_of(&[(2, Role::Member), (3, Role::Blind), (4, Role::Member), (5, Role::Member)]);
    let refused = |kind, by: &[u8]| {
        let cert = certificate(&roster, propose(&roster, 1, kind, 3), by);
        let forged = after(&roster, &[&forged_designation(&roster, 1, &cert)]);
        assert_eq!(host_of(&forged), (0, device(1)), "{by:?}");
        designate(&roster, 1, &cert).unwrap_err()
    };

    let quorum = CertError::Quorum { found: 2, needed: 3, voters: 5 };
    assert_eq!(refused(CertKind::Planned, &[1, 2]), RosterError::HostCertificate(quorum));
    let seal = RosterError::HostCertificate(CertError::Seal { host: device(1) });
    assert_eq!(refused(CertKind::Planned, &[2, 3, 4, 5]), seal);
    assert_eq!(refused(CertKind::Lost, &[1, 2, 3, 4]), seal);

    let planned = after(&roster, &[&designated(&roster, 1, CertKind::Planned, 3, &[1, 2, 3])]);
    assert_eq!(host_of(&planned), (1, device(3)), "blind devices vote and host");
    let lost = after(&roster, &[&designated(&roster, 1, CertKind::Lost, 2, &[2, 3, 4])]);
    assert_eq!(host_of(&lost), (1, device(2)));
}

#[test]
fn a_host_that_was_removed_leaves_a_quorum_of_the_rest() {
    let two = space_of(&[(2, Role::Admin)]);
    let cert = certificate(&two, propose(&two, 2, CertKind::Lost, 2), &[2]);
    let quorum = CertError::Quorum { found: 1, needed: 2, voters: 2 };
    assert_eq!(designate(&two, 2, &cert), Err(RosterError::HostCertificate(quorum)));

    let alone = after(&two, &[&remove(&two, 2, 1)]);
    assert_eq!(host_of(&alone), (0, device(1)), "it stays named until another is");
    assert_eq!(designate(&alone, 2, &cert), Err(RosterError::HostVoters));
    let moved = after(&alone, &[&designated(&alone, 2, CertKind::Lost, 2, &[2])]);

    assert_eq!(host_of(&moved), (1, device(2)));
}

#[test]
fn two_hosts_named_at_once_come_out_the_same_everywhere() {
    let roster = space_of(&[(2, Role::Admin), (3, Role::Member)]);
    let one = designated(&roster, 1, CertKind::Planned, 2, &[1, 2]);
    let two = designated(&roster, 2, CertKind::Planned, 3, &[1, 3]);

    let settled = after(&roster, &[&one, &two]);
    let reversed = after(&roster, &[&two, &one]);

    assert_eq!(settled.lease_head(), reversed.lease_head());
    assert_eq!(settled.lease_head().term, 1);
    let longer = after(
        &settled,
        &[&designated(
            &settled,
            1,
            CertKind::Lost,
            1,
            &[1, if settled.lease_head().host == device(2) { 3 } else { 2 }],
        )],
    );
    assert_eq!(host_of(&longer), (2, device(1)));
}

#[test]
fn a_dormant_device_is_not_asked() {
    let roster = space_of(&[(2, Role::Member), (3, Role::Member)]);
    let slept = write(&roster, 1, &Change::Dormant { device: device(3) }).unwrap();
    let roster = after(&roster, &[&slept]);
    assert_eq!(roster.lease_voters().len(), 2);
    let moved = after(&roster, &[&designated(&roster, 1, CertKind::Planned, 2, &[1, 2])]);
    assert_eq!(host_of(&moved), (1, device(2)));

    let woke = write(&moved, 1, &Change::Active { device: device(3) }).unwrap();
    let awake = after(&moved, &[&woke]);

    assert_eq!(awake.lease_voters().len(), 3);
    assert_eq!(host_of(&awake), (1, device(2)), "what was decided without it stands");
}

#[test]
fn a_certificate_counts_only_from_the_admin_that_drove_it() {
    let roster = space_of(&[(2, Role::Admin), (3, Role::Member)]);
    let by_member = certificate(&roster, propose(&roster, 3, CertKind::Planned, 3), &[1, 2, 3]);
    let by_other = certificate(&roster, propose(&roster, 1, CertKind::Planned, 3), &[1, 2, 3]);
    for (by, cert) in [(3, &by_member), (2, &by_other)] {
        let forged = after(&roster, &[&forged_designation(&roster, by, cert)]);
        assert_eq!(host_of(&forged), (0, device(1)));
    }
    assert_eq!(designate(&roster, 3, &by_member), Err(RosterError::NotAdmin { device: device(3) }));
    let expect = RosterError::NotCoordinator { device: device(2), coordinator: device(1) };
    assert_eq!(designate(&roster, 2, &by_other), Err(expect));

    let stolen = designated(&roster, 2, CertKind::Planned, 2, &[1, 2]);
    let settled = after(&roster, &[&remove(&roster, 1, 2), &stolen]);
    assert_eq!(host_of(&settled), (0, device(1)), "a removal makes it void");
}

proptest! {
    /// Whoever votes, in whatever order records arrive: a host is in force exactly where a majority of
    /// the devices there were has confirmed it, the host before among them exactly where it was planned.
    #[test]
    fn a_host_is_in_force_exactly_with_its_quorum(
        others in proptest::collection::vec(prop_oneof![Just(Role::Admin), Just(Role::Member), Just(Role::Blind)], 0..6),
        voting in proptest::collection::btree_set(1u8..9, 0..9),
        host in 1u8..9,
        is_planned in any::<bool>(),
    ) {
        let devices: Vec<(u8, Role)> = (2..).zip(others).collect();
        let roster = space_of(&devices);
        let kind = if is_planned { CertKind::Planned } else { CertKind::Lost };
        let voting: Vec<u8> = voting.into_iter().collect();
        let cert = certificate(&roster, propose(&roster, 1, kind, host), &voting);

        let forged = after(&roster, &[&forged_designation(&roster, 1, &cert)]);

        let members: BTreeSet<u8> = members(&roster).into_iter().collect();
        let is_sound = members.contains(&host) && voting.iter().all(|seed| members.contains(seed));
        let expect = is_sound && 2 * voting.len() > members.len() && voting.contains(&1) == is_planned;
        prop_assert_eq!(forged.lease_head().term == 1, expect);
        let written = designate(&roster, 1, &cert);
        prop_assert_eq!(written.is_ok(), expect, "{:?}", written);
    }
}
