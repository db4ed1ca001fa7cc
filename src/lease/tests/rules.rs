//! Every rule of the core by itself: it holds, and without it the same claim fails.
//!
//! Each claim is a small story with a yes or a no. A rule whose lack changes no answer would be a
//! rule that no test holds, so that is what fails here. `sim::lease` finds most of them in random
//! histories as well.

use super::bench::*;
use super::client::{client, sent};
use crate::lease::*;
use crate::model::LeaseEpoch;

#[test]
fn every_rule_holds_and_is_missed_when_it_is_left_out() {
    for rule in Rule::EVERY {
        let claim = claim(*rule);

        assert!(claim(Rules::ALL), "{rule:?} does not hold");
        assert!(!claim(Rules::without(*rule)), "nothing notices that {rule:?} is left out");
    }
}

fn claim(rule: Rule) -> fn(Rules) -> bool {
    match rule {
        Rule::PersistFirst => |rules| {
            let mut bench = Bench::with(rules);
            bench.ask(0, holder(2), 1, ACQUIRE);
            bench.replies.is_empty() && !bench.writes.is_empty()
        },
        Rule::FailForGood => |rules| {
            let mut bench = Bench::with(rules);
            bench.ask(0, holder(2), 1, ACQUIRE);
            let (id, _) = bench.writes.remove(0);
            bench.step(1, RegisterInput::PersistFailed(id));
            let first = bench.replies.pop().map(|(_, reply)| reply.answer);
            bench.step(2, RegisterInput::Persisted(id));
            first == Some(Err(LeaseRefused::StorageFailed))
                && bench.acquire(3, holder(3), 1) == Err(LeaseRefused::StorageFailed)
                && bench.register.phase() == Phase::StorageFailed
        },
        Rule::RestartHolds => |rules| {
            let mut bench = Bench::with(rules);
            let first = bench.acquire(0, holder(2), 1);
            bench.restart(40_000);
            first.is_ok() && is_held(&bench.acquire(72_000, holder(3), 1))
        },
        Rule::RaiseFirst => |rules| {
            let mut bench = Bench::with(rules);
            let first = bench.call(0, holder(2), 1, Verb::Acquire { ttl: Ttl::MIN });
            let raised = bench.call(100, holder(2), 2, Verb::Renew { epoch: epoch(1), ttl: Ttl::MAX });
            bench.restart(200);
            first.is_ok() && raised.is_ok() && is_held(&bench.acquire(60_000, holder(3), 1))
        },
        Rule::FromFirstSend => |rules| {
            let mut client = granted(rules, &[(0, 5_000)]);
            client.step(&at(5_100), ClientInput::Tick);
            client.grant().is_some_and(|grant| grant.valid_until() == at(29_700).uptime)
        },
        Rule::HostWaitsLonger => |rules| {
            let mut bench = Bench::with(rules);
            bench.acquire(0, holder(2), 1).is_ok() && is_held(&bench.acquire(32_000, holder(3), 1))
        },
        Rule::ReplayMovesNothing => |rules| {
            // Sent at 0, again at 2 s, answered at 3 s, answered once more at 4 s.
            let mut client = client(2, rules);
            let request = sent(&client.step(&at(0), acquire_input())).remove(0);
            client.step(&at(2_000), ClientInput::Tick);
            for millis in [3_000, 4_000] {
                let reply = reply_to(&request, Ok(Answer::Granted { epoch: epoch(1) }));
                client.step(&at(millis), ClientInput::Reply { from: device(1), reply });
            }
            client.grant().is_some_and(|grant| grant.valid_until() == at(29_700).uptime)
        },
        Rule::StoredReply => |rules| {
            let mut bench = Bench::with(rules);
            let first = bench.acquire(0, holder(2), 1);
            bench.restart(100);
            first.is_ok() && bench.acquire(200, holder(2), 1) == first
        },
        Rule::OldRequestRefused => |rules| {
            let mut bench = Bench::with(rules);
            let first = bench.acquire(0, holder(2), 1);
            let second = bench.call(1, holder(2), 2, Verb::Release { epoch: epoch(1) });
            let old = LeaseRefused::RequestTooOld { last: ReqNo::new(2), found: ReqNo::new(1) };
            // Nor may the request of another life count as a copy of the last one.
            let other = Holder { device: device(2), instance: DaemonInstance::new(99) };
            let same_number = LeaseRefused::RequestTooOld { last: ReqNo::new(2), found: ReqNo::new(2) };
            first.is_ok()
                && second.is_ok()
                && bench.acquire(2, holder(2), 1) == Err(old)
                && bench.acquire(3, other, 2) == Err(same_number)
        },
        Rule::ExpiryFirst => |rules| {
            let mut bench = Bench::with(rules);
            let first = bench.acquire(0, holder(2), 1);
            bench.replies.clear();
            bench.ask(33_000, holder(3), 1, Verb::Current);
            let is_silent = bench.replies.is_empty() && !bench.writes.is_empty();
            bench.sync(33_001);
            first.is_ok() && is_silent && bench.current(33_002).is_none()
        },
        Rule::HeldRefused => |rules| {
            let mut bench = Bench::with(rules);
            let first = bench.acquire(0, holder(2), 1);
            bench.replies.clear();
            bench.ask(1, holder(3), 1, ACQUIRE);
            bench.sync(1);
            first.is_ok() && bench.replies.len() == 1
        },
        Rule::AlreadyHeldTold => |rules| {
            let mut bench = Bench::with(rules);
            bench.acquire(0, holder(2), 1).is_ok()
                && bench.acquire(1, holder(2), 2) == Err(LeaseRefused::AlreadyHeld { epoch: epoch(1) })
        },
        Rule::NewInstanceNewEpoch => |rules| {
            let mut bench = Bench::with(rules);
            let restarted = Holder { device: device(2), instance: DaemonInstance::new(99) };
            bench.acquire(0, holder(2), 1).is_ok()
                && bench.acquire(1, restarted, 2) == Ok(Answer::Granted { epoch: epoch(2) })
        },
        Rule::StopBeforeRelease => |rules| {
            let mut client = granted(rules, &[(0, 100)]);
            let effects = client.step(&at(200), ClientInput::Release);
            let stop = effects.iter().position(|effect| matches!(effect, ClientEffect::Stop { .. }));
            let send = effects.iter().position(|effect| matches!(effect, ClientEffect::Send { .. }));
            stop.is_some() && stop < send && client.local(&at(200)) == Local::NotHeld
        },
        Rule::AskTheClock => |rules| {
            let client = granted(rules, &[(0, 100)]);
            matches!(client.local(&at(200)), Local::Valid { .. })
                && client.local(&at(29_700)) == Local::NotHeld
        },
        Rule::RenewAfterSleep => |rules| {
            let mut client = granted(rules, &[(0, 100)]);
            let overslept = client.local(&at(20_000));
            client.step(&at(5_000), ClientInput::Woke);
            overslept == Local::RenewFirst { epoch: epoch(1) }
                && client.local(&at(5_001)) == Local::RenewFirst { epoch: epoch(1) }
        },
        Rule::OlderCertRefused => |rules| {
            let mut client = client(2, rules);
            let request = sent(&client.step(&at(0), acquire_input())).remove(0);
            client.step(&at(1), ClientInput::Head(moved(CertKind::Lost, None)));
            let reply = reply_to(&request, Ok(Answer::Granted { epoch: epoch(1) }));
            client.step(&at(2), ClientInput::Reply { from: device(1), reply });
            client.grant().is_none()
        },
        Rule::RestoredDoesNotHost => |rules| {
            let mut bench = Bench::with(rules);
            bench.sync(0);
            let other = Home { instance: HostInstance::new(5), ..home(1, rules) };
            let opened = Register::open(&at(0), other, first(), bench.disk.clone());
            opened.phase() == Phase::Quarantined
        },
        Rule::RestoredDoesNotVote => |rules| {
            let mut voter = Member::restored(3, rules);
            voter.hear(2, DesignationMessage::Propose(proposal(2, 2, CertKind::Lost)));
            voter.sync();
            voter.votes.is_empty() && voter.designation.is_in_doubt()
        },
        Rule::GreaterSeenStops => |rules| {
            let mut bench = Bench::with(rules);
            bench.step(0, RegisterInput::Observe { seen: epoch(1) });
            bench.sync(0);
            bench.acquire(1, holder(2), 1) == Err(LeaseRefused::Quarantined)
        },
        Rule::TtlBounds => |rules| {
            let mut bench = Bench::with(rules);
            let long = Verb::Acquire { ttl: Ttl::from_raw(3_600_001) };
            matches!(bench.call(0, holder(2), 1, long), Err(LeaseRefused::TtlOutOfRange { .. }))
        },
        Rule::KeysBound => |rules| {
            let mut bench = Bench::with(rules);
            for number in 0..1_024_u64 {
                let by = holder(u8::try_from(1 + number % 16).expect("small"));
                assert!(hold(&mut bench, number, by).is_ok());
            }
            hold(&mut bench, 1_024, holder(17)) == Err(LeaseRefused::TooManyLeases { limit: 1_024 })
        },
        Rule::HeldBound => |rules| {
            let mut bench = Bench::with(rules);
            let first = (0..64).all(|number| hold(&mut bench, number, holder(2)).is_ok());
            first && hold(&mut bench, 64, holder(2)) == Err(LeaseRefused::TooManyLeases { limit: 64 })
        },
        Rule::RateBound => |rules| {
            let mut bench = Bench::with(rules);
            let first = (0..20).all(|number| bench.call(0, holder(2), number, Verb::Current).is_ok());
            let refused = bench.call(0, holder(2), 20, Verb::Current);
            first
                && refused == Err(LeaseRefused::TooManyRequests { limit: 20, retry_ms: 50 })
                && bench.call(50, holder(2), 21, Verb::Current).is_ok()
        },
        Rule::OnePromise => |rules| {
            let mut voter = Member::new(3, rules);
            for driver in [1, 2] {
                let proposal = proposal(driver, driver, CertKind::Planned);
                voter.hear(driver, DesignationMessage::Propose(proposal));
                voter.sync();
            }
            voter.votes.len() == 1
                && voter
                    .sent
                    .contains(&(device(2), DesignationMessage::Promised(proposal(1, 1, CertKind::Planned))))
        },
        Rule::PromiseFirst => |rules| {
            let mut voter = Member::new(3, rules);
            voter.hear(2, DesignationMessage::Propose(proposal(2, 2, CertKind::Lost)));
            let is_silent = voter.votes.is_empty();
            voter.sync();
            is_silent && voter.votes.len() == 1
        },
        Rule::DistinctDevices => |rules| {
            let mut driver = Member::driving(rules);
            for _ in 0..3 {
                driver.hear(2, confirm(2, &proposal(2, 2, CertKind::Lost)));
            }
            let is_open = driver.commits.is_empty();
            driver.hear(3, confirm(3, &proposal(2, 2, CertKind::Lost)));
            driver.hear(4, confirm(4, &proposal(2, 2, CertKind::Lost)));
            is_open && driver.commits.len() == 1
        },
        Rule::Majority => |rules| {
            let mut driver = Member::driving(rules);
            driver.hear(2, confirm(2, &proposal(2, 2, CertKind::Lost)));
            driver.commits.is_empty()
        },
        Rule::SealIsFinal => |rules| {
            let mut bench = Bench::with(rules);
            let seal = RegisterInput::Seal { proposal: ProposalHash::from_bytes([1; 32]), to: device(2) };
            bench.step(0, seal);
            bench.sync(0);
            bench.sealed.len() == 1
                && bench.acquire(1, holder(3), 1) == Err(LeaseRefused::Moving { to: Some(device(2)) })
        },
        Rule::TableCarried => |rules| {
            let mut bench = handed_over(rules);
            bench.sync(0);
            is_held(&bench.acquire(1, holder(3), 1))
        },
        Rule::SettleFirst => |rules| {
            let mut bench = Bench::absent(2, rules, first());
            bench.step(0, RegisterInput::Install { head: moved(CertKind::Lost, None), table: None });
            bench.sync(0);
            matches!(bench.acquire(1, holder(3), 1), Err(LeaseRefused::Settling { .. }))
        },
        Rule::InstallFirst => |rules| {
            let mut bench = handed_over(rules);
            bench.ask(0, holder(3), 1, Verb::Current);
            bench
                .replies
                .pop()
                .is_some_and(|(_, reply)| reply.answer == Err(LeaseRefused::Moving { to: Some(device(2)) }))
        },
        Rule::DriverCommits => |rules| {
            // Whichever of the two has the lower hash goes on.
            let (one, other) = (proposal(2, 2, CertKind::Lost), proposal(3, 3, CertKind::Lost));
            let (own, rival) = if one.hash() > other.hash() { (one, other) } else { (other, one) };
            let number = if own.driver == device(2) { 2 } else { 3 };
            let mut driver = Member::new(number, rules);
            driver.start(own.host, CertKind::Lost);
            driver.sync();
            driver.hear(4, DesignationMessage::Promised(rival));
            driver.sync();
            driver.hear(number, confirm(number, &own));
            driver.hear(4, confirm(4, &own));
            driver.hear(5, confirm(5, &own));
            driver.commits.is_empty() && !driver.withdrawn.is_empty()
        },
        Rule::NextNumber => |rules| {
            let mut bench = Bench::with(rules);
            let first = bench.acquire(0, holder(2), 1);
            let freed = bench.call(1, holder(2), 2, Verb::Release { epoch: epoch(1) });
            first.is_ok()
                && freed.is_ok()
                && bench.acquire(2, holder(3), 1) == Ok(Answer::Granted { epoch: epoch(2) })
        },
    }
}

const ACQUIRE: Verb = Verb::Acquire { ttl: Ttl::DEFAULT };

fn is_held(answer: &Result<Answer, LeaseRefused>) -> bool {
    matches!(answer, Err(LeaseRefused::Held { epoch, .. }) if *epoch == LeaseEpoch::MIN)
}

pub const fn acquire_input() -> ClientInput {
    ClientInput::Acquire { ttl: Ttl::DEFAULT, patience: Patience::Refuse }
}

pub fn reply_to(request: &Request, answer: Result<Answer, LeaseRefused>) -> Reply {
    Reply {
        instance: request.instance,
        key: request.key.clone(),
        req_no: request.req_no,
        cert: first().cert,
        answer,
    }
}

/// A client that asked at the first time and was granted at the second.
fn granted(rules: Rules, times: &[(u64, u64)]) -> Client {
    let mut client = client(2, rules);
    for (asked, answered) in times {
        let request = sent(&client.step(&at(*asked), acquire_input())).remove(0);
        let reply = reply_to(&request, Ok(Answer::Granted { epoch: epoch(1) }));
        client.step(&at(*answered), ClientInput::Reply { from: device(1), reply });
    }
    client
}

/// Holds a key of its own for an hour, at a pace that the rate allows.
fn hold(bench: &mut Bench, number: u64, by: Holder) -> Result<Answer, LeaseRefused> {
    let mut request = bench.request(by, 1, Verb::Acquire { ttl: Ttl::MAX });
    request.key = key(&format!("agent-{number}"));
    bench.replies.clear();
    bench.step(number * 60, RegisterInput::Request { from: by.device, request });
    bench.sync(number * 60);
    bench.replies.pop().expect("every request is answered").1.answer
}

/// Device 2 installs what device 1 sealed while device 2's daemon held the key.
fn handed_over(rules: Rules) -> Bench {
    let mut old = Bench::new();
    assert!(old.acquire(0, holder(2), 1).is_ok());
    old.step(1, RegisterInput::Seal { proposal: ProposalHash::from_bytes([1; 32]), to: device(2) });
    old.sync(1);
    let (digest, table) = old.sealed.remove(0);
    let mut new = Bench::absent(2, rules, first());
    let head = moved(CertKind::Planned, Some(digest));
    new.step(0, RegisterInput::Install { head, table: Some(table) });
    new
}
