use std::time::Duration;

use super::bench::*;
use super::rules::{acquire_input, reply_to};
use crate::lease::*;

pub fn client(number: u8, rules: Rules) -> Client {
    Client::new(
        &at(0),
        Own { holder: holder(number), key: key("backup"), req_no: ReqNo::new(0), rules },
        first(),
    )
}

/// The requests among effects.
pub fn sent(effects: &[ClientEffect]) -> Vec<Request> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            ClientEffect::Send { request, .. } => Some(request.clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_lease_is_acquired_renewed_at_a_third_and_given_back() {
    let (mut bench, mut client) = (Bench::new(), client(2, Rules::ALL));
    let ask = |bench: &mut Bench, client: &mut Client, millis: u64, input: ClientInput| {
        let effects = client.step(&at(millis), input);
        let mut said = effects.clone();
        for request in sent(&effects) {
            bench.step(millis, RegisterInput::Request { from: device(2), request });
            bench.sync(millis);
            let (_, reply) = bench.replies.pop().unwrap();
            said.extend(client.step(&at(millis + 100), ClientInput::Reply { from: device(1), reply }));
        }
        said
    };

    let said = ask(
        &mut bench,
        &mut client,
        0,
        ClientInput::Acquire { ttl: Ttl::DEFAULT, patience: Patience::Refuse },
    );
    let granted =
        said.iter().any(|effect| matches!(effect, ClientEffect::Granted(grant) if grant.epoch() == epoch(1)));
    assert!(granted, "{said:?}");
    // From the first send, not from the reply.
    assert_eq!(client.grant().unwrap().valid_until(), Duration::from_millis(29_700));
    assert!(matches!(client.local(&at(29_000 - 19_100)), Local::Valid { .. }));

    let said = ask(&mut bench, &mut client, 10_000, ClientInput::Tick);
    assert!(said.iter().any(|effect| matches!(effect, ClientEffect::Renewed(_))), "{said:?}");
    assert_eq!(client.grant().unwrap().valid_until(), Duration::from_millis(39_700));

    let said = ask(&mut bench, &mut client, 11_000, ClientInput::Release);
    assert_eq!(said[0], ClientEffect::Stop { epoch: epoch(1) });
    assert!(said.contains(&ClientEffect::Released { epoch: epoch(1) }));
    assert_eq!(client.local(&at(11_200)), Local::NotHeld);
    assert_eq!(bench.current(11_200), None);
}

/// A command that was frozen past its lease still bears the old token.
#[test]
fn a_lease_that_was_given_up_comes_back_under_a_token_of_its_own() {
    let (mut bench, mut client) = (Bench::new(), client(2, Rules::ALL));
    let mut answered = |client: &mut Client, millis: u64, input: ClientInput| {
        let mut said = client.step(&at(millis), input);
        let mut verbs = Vec::new();
        // Each answer may be followed by the next request.
        while let Some(request) = sent(&said).pop() {
            verbs.push(request.verb);
            bench.step(millis, RegisterInput::Request { from: device(2), request });
            bench.sync(millis);
            let (_, reply) = bench.replies.pop().expect("the register answers");
            said = client.step(&at(millis + 1), ClientInput::Reply { from: device(1), reply });
        }
        (verbs, said)
    };
    let (_, said) = answered(&mut client, 0, acquire_input());
    assert!(matches!(&said[0], ClientEffect::Granted(grant) if grant.epoch() == epoch(1)), "{said:?}");
    let lost = client.step(&at(29_700), ClientInput::Tick);
    assert!(lost.iter().any(|effect| matches!(effect, ClientEffect::Lost { .. })), "{lost:?}");

    // The host counts longer, so it is still held there.
    let (verbs, said) = answered(&mut client, 30_000, acquire_input());

    let ttl = Ttl::DEFAULT;
    assert_eq!(verbs, [Verb::Acquire { ttl }, Verb::Release { epoch: epoch(1) }, Verb::Acquire { ttl }]);
    assert!(matches!(&said[0], ClientEffect::Granted(grant) if grant.epoch() == epoch(2)), "{said:?}");
}

/// Whoever asks without patience is told that giving it back was not answered, and what it is waiting for.
#[test]
fn a_lease_that_cannot_be_given_back_first_is_refused_in_time() {
    let asks_again = |client: &mut Client| {
        let request = sent(&client.step(&at(0), acquire_input())).remove(0);
        let reply = reply_to(&request, Err(LeaseRefused::AlreadyHeld { epoch: epoch(1) }));
        let release = sent(&client.step(&at(1), ClientInput::Reply { from: device(1), reply })).remove(0);
        assert_eq!(release.verb, Verb::Release { epoch: epoch(1) });
        release
    };
    let mut unanswered = client(2, Rules::ALL);
    asks_again(&mut unanswered);
    let said = unanswered.step(&at(60_000), ClientInput::Tick);
    let unreachable = LeaseRefused::HostUnreachable { host: device(1) };
    assert!(said.contains(&ClientEffect::Refused(unreachable)), "{said:?}");
    assert!(unanswered.is_idle());

    let mut moving = client(2, Rules::ALL);
    let release = asks_again(&mut moving);
    let reply = reply_to(&release, Err(LeaseRefused::Moving { to: None }));
    let said = moving.step(&at(2), ClientInput::Reply { from: device(1), reply });
    assert!(said.contains(&ClientEffect::Refused(LeaseRefused::Moving { to: None })), "{said:?}");

    // What ran out meanwhile is asked for at once.
    let mut gone = client(2, Rules::ALL);
    let release = asks_again(&mut gone);
    let reply = reply_to(&release, Err(LeaseRefused::Expired { epoch: epoch(1) }));
    let said = gone.step(&at(2), ClientInput::Reply { from: device(1), reply });
    assert_eq!(sent(&said).remove(0).verb, Verb::Acquire { ttl: Ttl::DEFAULT });
}
