use std::time::Duration;

use super::bench::*;
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
