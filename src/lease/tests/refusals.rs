//! Every refusal that no other test provokes, and the fence.

use std::time::Duration;

use super::bench::*;
use super::client::{client, sent};
use crate::lease::chain::CERTS_MAX;
use crate::lease::*;
use crate::model::{Blame, CertHash, OpId, SpaceId};

const ACQUIRE: Verb = Verb::Acquire { ttl: Ttl::DEFAULT };

#[test]
fn who_does_not_host_says_who_does() {
    let mut bench = Bench::absent(3, Rules::ALL, first());
    assert_eq!(bench.acquire(0, holder(2), 1), Err(LeaseRefused::NotHost { host: Some(device(1)) }));

    let mut bench = Bench::new();
    let head = moved(CertKind::Lost, None);
    bench.step(1, RegisterInput::Head(head));
    assert_eq!(bench.register.phase(), Phase::Deposed);
    assert_eq!(bench.acquire(2, holder(2), 1), Err(LeaseRefused::Deposed { by: head.cert }));
}

#[test]
fn a_stranger_and_a_foreign_certificate_are_refused() {
    let mut bench = Bench::new();
    assert_eq!(bench.acquire(0, holder(77), 1), Err(LeaseRefused::NotAuthorized { device: device(77) }));
    let foreign = CertHash::from_bytes([8; 32]);
    let request = Request { cert: foreign, ..bench.request(holder(2), 1, ACQUIRE) };
    bench.step(0, RegisterInput::Request { from: device(2), request });
    let adopted = first().cert;
    assert_eq!(
        bench.replies.pop().unwrap().1.answer,
        Err(LeaseRefused::ForkedLineage { found: foreign, adopted })
    );
}

#[test]
fn a_clock_that_goes_back_serves_nobody() {
    let mut bench = Bench::new();
    assert!(bench.acquire(1_000, holder(2), 1).is_ok());

    assert_eq!(bench.acquire(999, holder(3), 1), Err(LeaseRefused::ClockUnsafe));

    let mut client = client(2, Rules::ALL);
    client.step(&at(1_000), ClientInput::Acquire { ttl: Ttl::DEFAULT, patience: Patience::Wait });
    let effects = client.step(&at(999), ClientInput::Tick);
    assert!(effects.contains(&ClientEffect::Refused(LeaseRefused::ClockUnsafe)));
}

#[test]
fn the_last_number_of_a_term_is_given_and_no_other_after_it() {
    let mut bench = Bench::new();
    let mut state = bench.disk.clone().unwrap();
    state.head.next_n = Some(u32::MAX);
    bench.disk = Some(state);
    bench.restart(0);

    assert_eq!(bench.acquire(0, holder(2), 1), Ok(Answer::Granted { epoch: epoch(u64::from(u32::MAX)) }));
    assert!(bench.call(1, holder(2), 2, Verb::Release { epoch: epoch(u64::from(u32::MAX)) }).is_ok());
    assert_eq!(bench.acquire(2, holder(3), 1), Err(LeaseRefused::EpochExhausted));
}

#[test]
fn who_does_not_hold_neither_renews_nor_gives_back() {
    let mut bench = Bench::new();
    let renew = |raw| Verb::Renew { epoch: epoch(raw), ttl: Ttl::DEFAULT };
    assert_eq!(bench.call(0, holder(2), 1, renew(1)), Err(LeaseRefused::NotHolder));
    assert!(bench.acquire(1, holder(2), 2).is_ok());
    assert_eq!(bench.call(2, holder(3), 1, renew(1)), Err(LeaseRefused::NotHolder));
    assert_eq!(bench.call(33_000, holder(2), 3, renew(1)), Err(LeaseRefused::Expired { epoch: epoch(1) }));
    assert!(bench.acquire(33_001, holder(3), 2).is_ok());
    assert_eq!(
        bench.call(33_002, holder(2), 4, Verb::Release { epoch: epoch(1) }),
        Err(LeaseRefused::Stale { claimed: epoch(1), current: epoch(2) })
    );
}

#[test]
fn a_holder_of_a_lost_host_reclaims_while_the_new_one_settles() {
    let head = moved(CertKind::Lost, None);
    let mut bench = Bench::absent(2, Rules::ALL, first());
    bench.step(0, RegisterInput::Install { head, table: None });
    bench.sync(0);
    let token = Token { epoch: epoch(7), cert: first().cert };
    let reclaim = Verb::Reclaim { token, ttl: Ttl::DEFAULT };

    assert!(matches!(bench.call(1, holder(3), 1, Verb::Current), Err(LeaseRefused::Settling { .. })));
    assert_eq!(bench.call(2, holder(3), 2, reclaim), Ok(Answer::Granted { epoch: epoch((1 << 32) | 1) }));
    assert!(matches!(bench.call(3, holder(4), 1, reclaim), Err(LeaseRefused::Held { .. })));

    let settled = u64::try_from(crate::lease::time::SETTLING.as_millis()).unwrap();
    assert!(matches!(bench.acquire(settled - 1, holder(4), 2), Err(LeaseRefused::Settling { .. })));
    assert_eq!(bench.acquire(settled, holder(4), 3), Ok(Answer::Granted { epoch: epoch((1 << 32) | 2) }));
    assert_eq!(bench.register.phase(), Phase::Serving);
}

#[test]
fn an_impatient_client_gives_up_and_a_read_ends() {
    let mut client = client(2, Rules::ALL);
    let start = client.req_no().get();
    client.step(&at(0), ClientInput::Read);
    client.step(&at(0), ClientInput::Acquire { ttl: Ttl::DEFAULT, patience: Patience::Refuse });
    let mut said = Vec::new();
    for second in 1..20 {
        said.extend(client.step(&at(second * 1_000), ClientInput::Tick));
    }

    let unreachable = LeaseRefused::HostUnreachable { host: device(1) };
    assert!(said.contains(&ClientEffect::Read(Err(unreachable.clone()))));
    assert!(said.contains(&ClientEffect::Refused(unreachable)));
    assert!(client.is_idle());
    let numbers: Vec<u64> = sent(&said).iter().map(|request| request.req_no.get()).collect();
    assert!(
        numbers.iter().all(|number| (start + 1..=start + 2).contains(number)),
        "a resend keeps its number"
    );
}

#[test]
fn a_client_goes_on_above_the_number_it_is_told() {
    let mut client = client(2, Rules::ALL);
    let request =
        sent(&client.step(&at(0), ClientInput::Acquire { ttl: Ttl::DEFAULT, patience: Patience::Refuse }))
            .remove(0);
    let last = ReqNo::new(request.req_no.get() + 40);
    let refused = LeaseRefused::RequestTooOld { last, found: request.req_no };
    let reply = Reply {
        instance: request.instance,
        key: key("backup"),
        req_no: request.req_no,
        cert: first().cert,
        answer: Err(refused),
    };

    let again = sent(&client.step(&at(1), ClientInput::Reply { from: device(1), reply })).remove(0);

    assert_eq!(again.req_no, last.next());
}

#[test]
fn only_a_held_lease_with_the_registers_word_may_act() {
    let own = holder(2);
    let standing = |raw, holder| Ok(Some(Standing { epoch: epoch(raw), holder, remaining_ms: 1 }));
    let mut client = client(2, Rules::ALL);
    let request =
        sent(&client.step(&at(0), ClientInput::Acquire { ttl: Ttl::DEFAULT, patience: Patience::Refuse }))
            .remove(0);
    let answer = Ok(Answer::Granted { epoch: epoch(5) });
    let reply = Reply {
        instance: request.instance,
        key: key("backup"),
        req_no: request.req_no,
        cert: first().cert,
        answer,
    };
    client.step(&at(1), ClientInput::Reply { from: device(1), reply });
    let (valid, over) = (client.local(&at(2)), client.local(&at(40_000)));
    let op_id = OpId::from_bytes([1; 32]);
    let unreachable = LeaseRefused::HostUnreachable { host: device(1) };
    let cases = [
        (None, standing(5, own), &valid, FenceDecision::Proceed),
        (Some(op_id), standing(5, own), &valid, FenceDecision::AlreadyCommitted { op_id }),
        (Some(op_id), Err(unreachable.clone()), &over, FenceDecision::AlreadyCommitted { op_id }),
        (
            None,
            standing(6, holder(3)),
            &valid,
            FenceDecision::StaleEpoch { claimed: epoch(5), current: epoch(6), holder: holder(3) },
        ),
        (None, Ok(None), &valid, FenceDecision::NotHeld),
        (None, standing(5, holder(3)), &valid, FenceDecision::NotHeld),
        (None, standing(5, own), &over, FenceDecision::NotHeld),
        (None, standing(5, own), &Local::NotHeld, FenceDecision::NotHeld),
        (
            None,
            standing(5, own),
            &Local::RenewFirst { epoch: epoch(5) },
            FenceDecision::RenewFirst { epoch: epoch(5) },
        ),
        (None, Err(unreachable), &valid, FenceDecision::HostUnreachable { host: device(1) }),
        (None, Err(LeaseRefused::Quarantined), &valid, FenceDecision::Refused(LeaseRefused::Quarantined)),
    ];
    for (committed, read, local, expected) in cases {
        let decision = fence(epoch(5), own, committed, &read, local);

        assert_eq!(decision, expected);
        assert_eq!(decision.may_dispatch(), expected == FenceDecision::Proceed);
    }
}

#[test]
fn every_certificate_that_does_not_hold_is_refused_by_name() {
    let good = |change: &dyn Fn(&mut Proposal)| {
        let mut proposal = proposal(2, 3, CertKind::Lost);
        change(&mut proposal);
        let votes = [2, 3, 4].map(|number| vote(number, &proposal)).to_vec();
        Certificate { proposal, table: None, votes }
    };
    let check = |cert: &Certificate| {
        Chain::new(space(), device(1)).admit(cert, Rules::ALL, Signatures::Simulated).map(drop)
    };
    assert_eq!(check(&good(&|_| {})), Ok(()));

    let other = SpaceId::from_bytes([1; 32]);
    assert_eq!(
        check(&good(&|proposal| proposal.space = other)),
        Err(CertError::OtherSpace { expected: space(), found: other })
    );
    assert_eq!(check(&good(&|proposal| proposal.term = 2)), Err(CertError::Term { prev: 0, found: 2 }));
    assert_eq!(check(&good(&|proposal| proposal.kind = CertKind::First)), Err(CertError::NotFirst));
    assert_eq!(
        check(&good(&|proposal| proposal.host = device(9))),
        Err(CertError::NoVoter { device: device(9) })
    );
    assert_eq!(check(&good(&|proposal| proposal.voters.reverse())), Err(CertError::Order));
    let mut few = good(&|_| {});
    few.votes.pop();
    assert_eq!(check(&few), Err(CertError::Quorum { found: 2, needed: 3, voters: 5 }));
    let mut twice = good(&|_| {});
    twice.votes[1] = twice.votes[0];
    assert_eq!(check(&twice), Err(CertError::Order));
    let mut by_the_lost = good(&|_| {});
    by_the_lost.votes.insert(0, vote(1, &by_the_lost.proposal));
    assert_eq!(check(&by_the_lost), Err(CertError::Seal { host: device(1) }));
    assert_eq!(CertError::NotFirst.blame(), Blame::Peer);
    let bytes = few.to_bytes();
    assert_eq!(
        Certificate::from_bytes(&bytes, &|_| None),
        Err(CertError::PrevUnknown { prev: first().cert })
    );
    assert_eq!(Certificate::from_bytes(&bytes[..9], &|_| None), Err(CertError::Form(FormError::TooShort)));
}

#[test]
fn a_chain_has_an_end() {
    let mut chain = Chain::new(space(), device(1));
    let next = |chain: &Chain| {
        let head = chain.head();
        let host = if head.host == device(2) { 3 } else { 2 };
        let proposal = Proposal { term: head.term + 1, prev: head.cert, ..proposal(4, host, CertKind::Lost) };
        let voting = if head.host == device(1) { [2, 4, 5] } else { [1, 4, 5] };
        let votes = voting.map(|number| vote(number, &proposal)).to_vec();
        Certificate { proposal, table: None, votes }
    };
    for _ in 0..CERTS_MAX {
        let cert = next(&chain);
        chain.admit(&cert, Rules::ALL, Signatures::Simulated).unwrap();
    }

    let cert = next(&chain);
    assert_eq!(
        chain.admit(&cert, Rules::ALL, Signatures::Simulated),
        Err(CertError::TooMany { limit: CERTS_MAX })
    );
    let mut member = Member::following(3, chain);
    member.start(device(3), CertKind::Planned);
    assert_eq!(member.refused.pop(), Some(DesignateRefused::NoTerm));
}

#[test]
fn every_reason_not_to_designate_is_told() {
    let refused = |member: &mut Member, to: u8, kind| {
        member.refused.clear();
        member.start(device(to), kind);
        member.refused.pop()
    };
    let lost = CertKind::Lost;
    assert_eq!(refused(&mut Member::new(1, Rules::ALL), 2, lost), Some(DesignateRefused::NotLost));
    assert_eq!(refused(&mut Member::restored(2, Rules::ALL), 2, lost), Some(DesignateRefused::InDoubt));
    let mut member = Member::new(2, Rules::ALL);
    assert_eq!(refused(&mut member, 9, lost), Some(DesignateRefused::NoVoter { device: device(9) }));
    member.hear(3, DesignationMessage::Propose(proposal(3, 3, lost)));
    member.sync();
    let moving = DesignateRefused::Moving { driver: device(3), host: device(3) };
    assert_eq!(refused(&mut member, 2, lost), Some(moving));

    let mut driver = Member::driving(Rules::ALL);
    let other = proposal(3, 3, lost);
    let votes = [3, 4, 5].map(|number| vote(number, &other)).to_vec();
    let cert = Certificate { proposal: other, table: None, votes };
    driver.step(DesignationInput::Certificate(cert.clone()));
    assert_eq!(driver.refused.pop(), Some(DesignateRefused::Superseded { by: cert.hash() }));

    let mut failing = Member::new(2, Rules::ALL);
    failing.start(device(2), lost);
    let id = failing.writes.remove(0);
    failing.step(DesignationInput::PersistFailed(id));
    assert_eq!(refused(&mut failing, 2, lost), Some(DesignateRefused::StorageFailed));

    let mut crowd = Member::new(2, Rules::ALL);
    let many = (0..513_u16).map(|number| {
        let mut bytes = [2; 32];
        bytes[30..].copy_from_slice(&number.to_be_bytes());
        Voter { device: crate::model::DeviceId::from_bytes(bytes), instance: HostInstance::FIRST }
    });
    crowd.step(DesignationInput::Voters(many.collect()));
    let too_many = DesignateRefused::TooManyVoters { found: 513, limit: 512 };
    assert_eq!(too_many.blame(), Blame::Local);
    assert_eq!(refused(&mut crowd, 2, lost), Some(too_many));
}

#[test]
fn every_refusal_says_what_to_do_and_whose_fault_it_is() {
    let held = LeaseRefused::Held { holder: holder(2), epoch: epoch(1), remaining_ms: 7 };
    assert_eq!((held.retry_ms(), held.is_passing(), held.blame()), (Some(7), true, Blame::Environment));
    let text = LeaseRefused::AlreadyHeld { epoch: epoch(1) }.to_string();
    assert_eq!(text, "this daemon holds it already, with epoch 1: renew that lease, or release it first");
    assert_eq!(LeaseRefused::KeyInvalid.blame(), Blame::Local);
    assert!(!LeaseRefused::StorageFailed.is_passing());
    assert_eq!(Bench::new().deadline, None::<Duration>);
}
