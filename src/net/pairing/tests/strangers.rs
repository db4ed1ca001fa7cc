//! What costs no attempt, because nobody said hello: wrong frames, silence, floods and oneself.

use super::*;

#[tokio::test]
async fn a_device_does_not_pair_with_itself() {
    let inviter = Inviting::open(config()).await;
    let brief = limited(|limits| limits.search = HASTE);

    let by_code = join_as(INVITER, brief.clone(), inviter.options()).await.unwrap_err();
    assert!(matches!(by_code, JoinError::NotFound { .. }), "{by_code:?}");

    let link = Target::Link(inviter.open.link().clone());
    let by_link = join_as(INVITER, brief, JoinOptions { target: link, ..inviter.options() }).await;
    assert!(matches!(by_link, Err(JoinError::Itself)), "{by_link:?}");
    untouched(inviter).await;
}

#[tokio::test]
async fn another_device_does_not_answer_for_the_one_in_the_link() {
    let (inviter, fake) = (Inviting::open(config()).await, Fake::listen(RELAY));
    let link = Target::Link(inviter.open.link().clone());
    let addresses = vec![fake.endpoint.local_addr().unwrap()];
    let options = JoinOptions { target: link, addresses, ..inviter.options() };

    let joining = join_as(JOINER, config(), options);
    let refused = async {
        fake.endpoint.accept().await.unwrap().await.map(drop).unwrap_err();
    };
    let (joined, ()) = tokio::join!(joining, refused);

    assert_eq!(joined.unwrap().inviter, device(INVITER), "it went on to the link's own address");
}

#[tokio::test]
async fn frames_that_are_none_are_refused_before_they_cost_an_attempt() {
    let inviter = Inviting::open(config()).await;
    let hello = {
        let raw = Raw::connect(OTHER, inviter.address()).await.unwrap();
        PairFrame::Hello(raw.start(&inviter).1).encode()
    };
    let spoiled = |at: usize, byte: u8| {
        let mut hello = hello.clone();
        hello[at] = byte;
        hello
    };
    for (bytes, expect) in [
        (vec![0x10, 0x01], TurnedAway::Violation),
        (vec![0xff, 0xff, 1], TurnedAway::Violation),
        (vec![0, 0], TurnedAway::Violation),
        (PairFrame::Done.encode(), TurnedAway::Violation),
        (spoiled(hello.len() - 1, 0x1b), TurnedAway::Violation),
        (spoiled(3, 9), TurnedAway::Version),
        (spoiled(4, b'U'), TurnedAway::Violation),
    ] {
        let mut raw = Raw::connect(OTHER, inviter.address()).await.unwrap();
        raw.frames.send.write_all(&bytes).await.unwrap();
        assert_eq!(raw.closed().await, expect, "{bytes:?}");
    }

    let texts = ["ZZZ-000-000", "YYZ-000-000"].map(|text| text.parse::<Code>().unwrap());
    let other = texts.into_iter().find(|code| code.invite() != inviter.open.code().invite()).unwrap();
    let options = JoinOptions { target: Target::Code(other), ..inviter.options() };
    let brief = limited(|limits| limits.rivals = HASTE);
    let refused = join_as(OTHER, brief, options).await.unwrap_err();
    assert!(matches!(refused, JoinError::TurnedAway(TurnedAway::Unknown)), "{refused:?}");
    untouched(inviter).await;
}

#[tokio::test]
async fn a_share_that_is_no_point_costs_an_attempt_and_is_refused() {
    let mut inviter = Inviting::open(config()).await;
    let mut raw = Raw::connect(OTHER, inviter.address()).await.unwrap();
    let (_, mut hello) = raw.start(&inviter);
    hello.share[0] = b'B';

    raw.frames.write(&PairFrame::Hello(hello)).await.unwrap();

    assert_eq!(raw.closed().await, TurnedAway::Unproven);
    assert_eq!(inviter.attempts_left().await, 2);
}

#[tokio::test]
async fn who_says_nothing_is_shown_out() {
    let inviter = Inviting::open(limited(|limits| limits.hello = HASTE)).await;
    let raw = Raw::connect(OTHER, inviter.address()).await.unwrap();

    assert_eq!(raw.closed().await, TurnedAway::TooSlow);

    // One byte at a time is no hello either.
    let mut raw = Raw::connect(OTHER, inviter.address()).await.unwrap();
    raw.frames.send.write_all(&[0]).await.unwrap();
    assert_eq!(raw.closed().await, TurnedAway::TooSlow);
    untouched(inviter).await;
}

#[tokio::test]
async fn who_is_silent_after_the_answer_has_spent_an_attempt() {
    let mut inviter = Inviting::open(limited(|limits| limits.attempt = HASTE)).await;
    let mut raw = Raw::connect(OTHER, inviter.address()).await.unwrap();
    raw.hello(&inviter).await.unwrap();

    assert_eq!(raw.closed().await, TurnedAway::TooSlow);
    assert_eq!(inviter.attempts_left().await, 2);
}

#[tokio::test]
async fn a_fifth_connection_is_refused() {
    let inviter = Inviting::open(config()).await;
    let mut open = Vec::new();
    for _ in 0..invite::CONNECTIONS_MAX {
        open.push(Raw::connect(OTHER, inviter.address()).await.unwrap());
    }

    assert!(matches!(Raw::connect(OTHER, inviter.address()).await, Err(Broken::Lost(_))));

    // The place of one that leaves is free again.
    drop(open);
    untouched(inviter).await;
}

#[tokio::test]
async fn a_second_stream_is_not_granted() {
    let inviter = Inviting::open(config()).await;
    let raw = Raw::connect(OTHER, inviter.address()).await.unwrap();

    assert!(tokio::time::timeout(HASTE, raw.connection.open_bi()).await.is_err());
    assert!(tokio::time::timeout(HASTE, raw.connection.open_uni()).await.is_err());
    drop(raw.endpoint);
}

#[tokio::test]
async fn the_two_endpoints_do_not_speak_each_other_s_protocol() {
    use super::super::super::tests::Node;
    let (inviter, mut node) = (Inviting::open(config()).await, Node::start(JOINER, &[INVITER]).await);

    node.net.dial(vec![inviter.address()], Some(device(INVITER)));
    node.dial_failed().await;

    assert!(matches!(Raw::connect(INVITER, node.address()).await, Err(Broken::Lost(_))));
    untouched(inviter).await;
}

/// All attempts are left: an honest joiner still gets in, and nothing was told before.
async fn untouched(mut inviter: Inviting) {
    let joined = inviter.join(JOINER).await.unwrap();
    let event = inviter.open.next().await;
    assert!(matches!(event, Some(InviteEvent::Enrolled { .. })), "{event:?}");
    joined.receipt.send().await;
}
