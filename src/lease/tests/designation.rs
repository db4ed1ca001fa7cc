use super::bench::*;
use crate::lease::*;
use crate::model::CertHash;

#[test]
fn a_planned_move_needs_the_old_hosts_seal_and_a_lost_host_gives_none() {
    let mut driver = Member::new(2, Rules::ALL);
    driver.start(device(2), CertKind::Planned);
    driver.sync();
    let proposal = proposal(2, 2, CertKind::Planned);
    for number in [2, 3, 4] {
        driver.hear(number, confirm(number, &proposal));
    }
    assert!(driver.commits.is_empty(), "a majority without the seal is not enough");

    let digest = TableDigest::of(b"a table");
    let signed = Proposal::confirmed_hash(proposal.hash(), Some(digest));
    let vote = Vote {
        device: device(1),
        table: Some(digest),
        signature: Signatures::simulated(&device(1), &signed),
    };
    driver.hear(1, DesignationMessage::Confirm { hash: proposal.hash(), vote });

    let cert = driver.commits.remove(0);
    assert_eq!(cert.table, Some(digest));
    let head = cert.check(&first(), Rules::ALL, Signatures::Simulated).unwrap();
    assert_eq!((head.term, head.host, head.kind), (1, device(2), CertKind::Planned));
    let bytes = cert.to_bytes();
    assert_eq!(Certificate::from_bytes(&bytes, &|_| Some(device(1))), Ok(cert.clone()));

    let mut unsealed = cert;
    unsealed.table = None;
    assert!(matches!(
        unsealed.check(&first(), Rules::ALL, Signatures::Simulated),
        Err(CertError::Seal { .. } | CertError::Signature { .. })
    ));
}

#[test]
fn a_driver_that_gives_way_frees_those_who_promised_it() {
    let (one, other) = (proposal(2, 2, CertKind::Lost), proposal(3, 3, CertKind::Lost));
    let (weak, strong) = if one.hash() > other.hash() { (one, other) } else { (other, one) };
    let number = |proposal: &Proposal| if proposal.driver == device(2) { 2 } else { 3 };
    let mut voter = Member::new(4, Rules::ALL);
    voter.hear(number(&weak), DesignationMessage::Propose(weak.clone()));
    voter.sync();
    voter.hear(number(&strong), DesignationMessage::Propose(strong.clone()));
    voter.sync();
    assert_eq!(voter.votes.len(), 1);

    let signature = Signatures::simulated(&weak.driver, &Proposal::withdrawn_hash(weak.hash()));
    let forged = DesignationMessage::Withdraw { hash: weak.hash(), signature: [0; 64] };
    voter.hear(number(&weak), forged);
    voter.sync();
    assert_eq!(voter.designation.state().promise.as_ref(), Some(&weak));
    voter.hear(number(&weak), DesignationMessage::Withdraw { hash: weak.hash(), signature });
    voter.sync();
    voter.hear(number(&strong), DesignationMessage::Propose(strong.clone()));
    voter.sync();

    assert_eq!(voter.votes.last(), Some(&(strong.driver, strong.hash())));
}

#[test]
fn of_two_chains_the_longer_counts_and_of_two_as_long_the_lower_hash_whatever_came_first() {
    let cert = |driver: u8, prev: &Head| {
        let proposal =
            Proposal { prev: prev.cert, term: prev.term + 1, ..proposal(driver, driver, CertKind::Lost) };
        let votes = [2, 3, 4].into_iter().filter(|number| device(*number) != prev.host);
        let votes = votes.chain([5]).map(|number| vote(number, &proposal)).collect();
        Certificate { proposal, table: None, votes }
    };
    let head = |cert: &Certificate, prev: &Head| cert.check(prev, Rules::ALL, Signatures::Simulated).unwrap();
    let (two, three) = (cert(2, &first()), cert(3, &first()));
    let beyond = cert(4, &head(&two, &first()));
    let chain = |certs: &[&Certificate]| {
        let mut chain = Chain::new(space(), device(1));
        for cert in certs {
            chain.admit(cert, Rules::ALL, Signatures::Simulated).unwrap();
        }
        chain
    };

    let lower = two.hash().min(three.hash());
    assert_eq!(chain(&[&two, &three]).head().cert, lower);
    assert_eq!(chain(&[&three, &two]).head().cert, lower);
    for order in [[&two, &beyond, &three], [&three, &two, &beyond], [&two, &three, &beyond]] {
        let chain = chain(&order);

        assert_eq!(chain.head().cert, beyond.hash());
        assert_eq!(chain.position(&two.hash()), Some(1));
        assert_eq!(chain.position(&three.hash()), None, "a forked lineage has no place");
        assert_eq!(chain.position(&first().cert), Some(0));
        assert_eq!(chain.position(&CertHash::NONE), None);
    }
    let mut early = Chain::new(space(), device(1));
    assert_eq!(
        early.admit(&beyond, Rules::ALL, Signatures::Simulated),
        Err(CertError::PrevUnknown { prev: two.hash() })
    );
}

#[test]
fn a_restored_home_votes_again_once_a_certificate_without_its_vote_names_it() {
    let mut member = Member::restored(5, Rules::ALL);
    let mut proposal = proposal(2, 2, CertKind::Lost);
    proposal.voters.iter_mut().filter(|voter| voter.device == device(5)).for_each(|voter| {
        voter.instance = HostInstance::new(5);
    });
    let with = |numbers: &[u8]| Certificate {
        proposal: proposal.clone(),
        table: None,
        votes: numbers.iter().map(|number| vote(*number, &proposal)).collect(),
    };

    let mut other = Member::restored(5, Rules::ALL);
    other.step(DesignationInput::Certificate(with(&[2, 3, 5])));
    assert!(other.designation.is_in_doubt(), "its own vote is no proof of anything");
    // What it hears meanwhile is no promise of its own, and not written as if it were.
    member.step(DesignationInput::Seen(epoch(7)));
    assert!(member.writes.is_empty());
    assert_eq!(member.designation.state().seen, Some(epoch(7)));
    member.step(DesignationInput::Certificate(with(&[2, 3, 4])));
    member.sync();
    assert!(!member.designation.is_in_doubt());
    assert_eq!(member.designation.state().instance, HostInstance::new(5));
}

/// There is nobody to ask: a person says that no other copy of it runs.
#[test]
fn a_restored_home_that_is_alone_hosts_again_by_its_persons_word() {
    let mut member = Member::restored(1, Rules::ALL);
    member.start(device(1), CertKind::Lost);
    assert_eq!(member.refused.pop(), Some(DesignateRefused::InDoubt), "there are others");
    let own = Voter { device: device(1), instance: HostInstance::new(5) };
    member.step(DesignationInput::Voters(vec![own]));
    member.start(device(1), CertKind::Planned);
    assert_eq!(member.refused.pop(), Some(DesignateRefused::InDoubt), "nobody seals what it may have given");

    member.start(device(1), CertKind::Lost);
    member.sync();
    let (to, hash) = member.votes.remove(0);
    assert_eq!(to, device(1));
    let signature = Signatures::simulated(&device(1), &Proposal::confirmed_hash(hash, None));
    let vote = Vote { device: device(1), table: None, signature };
    member.hear(1, DesignationMessage::Confirm { hash, vote });
    let cert = member.commits.remove(0);
    let head = cert.check(&first(), Rules::ALL, Signatures::Simulated).unwrap();
    member.step(DesignationInput::Certificate(cert));

    assert_eq!((head.host, head.instance, head.term), (device(1), HostInstance::new(5), 1));
    assert!(!member.designation.is_in_doubt());
}
