//! Who tries to get in without the code, or to get between those who have it.

use super::*;

#[tokio::test]
async fn a_relay_in_the_middle_is_refused_by_both_ends() {
    let (mut inviter, joined) = relayed(Binding::Full).await;

    assert!(matches!(joined, Err(JoinError::TurnedAway(TurnedAway::Unproven))), "{joined:?}");
    assert_eq!(inviter.attempts_left().await, 2);
    assert_eq!(inviter.host.enrolled(), []);
}

#[tokio::test]
async fn without_the_binding_the_same_relay_would_win() {
    // Shows that the test above fails by the binding and by nothing else.
    let (inviter, joined) = relayed(Binding::Nothing).await;

    let joined = joined.expect("the relay is believed");
    assert_eq!(joined.inviter, device(RELAY));
    assert_eq!(&joined.welcome[..], WELCOME);
    assert_eq!(inviter.host.enrolled(), [(device(RELAY), "desk".to_owned())]);
}

/// Puts a relay with a key of its own between a joiner and an inviter. It forwards everything.
async fn relayed(binding: Binding) -> (Inviting, Result<Joined, JoinError>) {
    let bound = PairConfig { binding, ..config() };
    let inviter = Inviting::open(bound.clone()).await;
    let relay = Fake::listen(RELAY);
    let options = JoinOptions { addresses: vec![relay.endpoint.local_addr().unwrap()], ..inviter.options() };
    let forward = async {
        let (to_joiner, mut at_joiner, hello) = relay.accept().await;
        let mut at_inviter = Raw::connect(RELAY, inviter.address()).await.unwrap();
        let forwarded = forward(&mut at_joiner, &mut at_inviter.frames, hello).await;
        if let Err(Broken::TurnedAway(reason)) = forwarded {
            to_joiner.close(reason.code(), b"");
        }
        (to_joiner, at_inviter)
    };
    let (joined, _open) = tokio::join!(join_as(JOINER, bound, options), forward);
    (inviter, joined)
}

async fn forward(joiner: &mut Frames, inviter: &mut Frames, hello: Hello) -> Result<(), Broken> {
    inviter.write(&PairFrame::Hello(hello)).await?;
    joiner.write(&inviter.read().await?).await?;
    inviter.write(&joiner.read().await?).await?;
    let grant = inviter.read().await?;
    let PairFrame::Grant { sealed_bytes, .. } = grant else { panic!("{grant:?}") };
    joiner.write(&grant).await?;
    let sealed = inviter.read_welcome(sealed_bytes as usize).await?;
    joiner.write_welcome(&sealed).await
}

#[tokio::test]
async fn a_guesser_has_three_guesses() {
    let mut inviter = Inviting::open(config()).await;

    for left in [2, 1, 0] {
        let refused = join_as(OTHER, config(), inviter.mistyped()).await.unwrap_err();
        assert!(matches!(refused, JoinError::TurnedAway(TurnedAway::Unproven)), "{refused:?}");
        assert_eq!(inviter.attempts_left().await, left);
    }

    assert_eq!(inviter.ended().await, Refusal::Burnt);
    let brief = limited(|limits| limits.search = HASTE);
    let fourth = join_as(OTHER, brief, inviter.options()).await.unwrap_err();
    assert!(matches!(fourth, JoinError::NotFound { .. }), "the endpoint is gone: {fourth:?}");
    assert_eq!(inviter.host.enrolled(), []);
}

#[tokio::test]
async fn the_fourth_of_four_at_once_is_refused() {
    let mut inviter = Inviting::open(config()).await;
    let mut guessing = Vec::new();
    for _ in 0..3 {
        let mut raw = Raw::connect(OTHER, inviter.address()).await.unwrap();
        raw.hello(&inviter).await.unwrap();
        guessing.push(raw);
    }

    let fourth = inviter.join(JOINER).await.unwrap_err();

    assert!(matches!(fourth, JoinError::TurnedAway(TurnedAway::Burnt)), "{fourth:?}");
    guessing.clear();
    for _ in 0..3 {
        assert_eq!(inviter.attempts_left().await, 0);
    }
    assert_eq!(inviter.ended().await, Refusal::Burnt);
}

#[tokio::test]
async fn who_hangs_up_after_the_share_has_spent_an_attempt() {
    let mut inviter = Inviting::open(config()).await;

    for left in [2, 1, 0] {
        let mut raw = Raw::connect(OTHER, inviter.address()).await.unwrap();
        raw.hello(&inviter).await.unwrap();
        raw.connection.close(quinn::VarInt::from_u32(0), b"");
        assert_eq!(inviter.attempts_left().await, left);
    }

    assert_eq!(inviter.ended().await, Refusal::Burnt);
}

#[tokio::test]
async fn a_replayed_hello_proves_nothing() {
    let mut inviter = Inviting::open(config()).await;
    let mut honest = Raw::connect(JOINER, inviter.address()).await.unwrap();
    let (joiner, hello) = honest.start(&inviter);
    honest.frames.write(&PairFrame::Hello(hello.clone())).await.unwrap();
    let PairFrame::Answer(answer) = honest.frames.read().await.unwrap() else { panic!() };
    let (_, confirm) = joiner.answered(&answer).unwrap();

    let mut replayer = Raw::connect(OTHER, inviter.address()).await.unwrap();
    replayer.frames.write(&PairFrame::Hello(hello)).await.unwrap();
    replayer.frames.read().await.unwrap();
    replayer.frames.write(&PairFrame::Confirm(confirm)).await.unwrap();

    assert_eq!(replayer.closed().await, TurnedAway::Unproven);
    assert_eq!(inviter.attempts_left().await, 1, "one is under way, one has failed");
    assert_eq!(inviter.host.enrolled(), []);
}

#[tokio::test]
async fn ten_failures_lock_pairing_on_the_whole_device() {
    let lock = PairingLock::default();
    for round in 0..4 {
        let mut inviter = Inviting::open_with(config(), Arc::new(Recorder::default()), lock.clone()).await;
        for _ in 0..if round < 3 { 3 } else { 1 } {
            let mut raw = Raw::connect(OTHER, inviter.address()).await.unwrap();
            raw.hello(&inviter).await.unwrap();
            drop(raw);
            inviter.attempts_left().await;
        }
        let reason = inviter.ended().await;
        assert_eq!(matches!(reason, Refusal::Locked { .. }), round == 3, "{reason:?}");
        inviter.open.end().await;
    }

    let host = Arc::new(Recorder::default());
    let refused = open_invite(&identity(INVITER), config(), lock, invite_options(), host).await;

    let Err(InviteError::Refused(Refusal::Locked { remaining })) = refused else { panic!("{refused:?}") };
    assert_eq!(remaining, Duration::from_secs(3_600));
}

#[tokio::test]
async fn of_two_with_the_code_one_joins() {
    let inviter = Inviting::open(config()).await;
    let mut first = Raw::connect(OTHER, inviter.address()).await.unwrap();
    let mut second = Raw::connect(JOINER, inviter.address()).await.unwrap();
    let (other, answer_to_other) = first.hello(&inviter).await.unwrap();
    let (joiner, answer) = second.hello(&inviter).await.unwrap();

    let (waiting, confirm) = joiner.answered(&answer).unwrap();
    second.frames.write(&PairFrame::Confirm(confirm)).await.unwrap();
    let PairFrame::Grant { confirm, .. } = second.frames.read().await.unwrap() else { panic!() };
    waiting.check(&confirm).unwrap();
    let (_, confirm) = other.answered(&answer_to_other).unwrap();
    first.frames.write(&PairFrame::Confirm(confirm)).await.unwrap();

    assert_eq!(first.closed().await, TurnedAway::Taken);
    let late = inviter.join(RELAY).await.unwrap_err();
    assert!(matches!(late, JoinError::TurnedAway(TurnedAway::Taken)), "{late:?}");
    assert_eq!(inviter.host.enrolled(), [(device(JOINER), "desk".to_owned())]);
}

#[tokio::test]
async fn a_rival_that_answers_first_does_not_keep_the_joiner_from_the_inviter() {
    let inviter = Inviting::open(config()).await;
    let rival = Fake::listen(RELAY);
    let addresses = vec![rival.endpoint.local_addr().unwrap(), inviter.address()];
    let options = JoinOptions { addresses, ..inviter.options() };

    let guess = async {
        let (connection, mut frames, hello) = rival.accept().await;
        let (_, answer) = rival.answer(&connection, &hello, terms());
        frames.write(&PairFrame::Answer(answer)).await.unwrap();
        frames.read().await.unwrap();
        let confirm = Confirm::from_bytes([0; 32]);
        frames.write(&PairFrame::Grant { confirm, port: 0, sealed_bytes: 1 }).await.unwrap();
        connection.closed().await;
        // Refuses whatever comes after.
        rival.endpoint.close(quinn::VarInt::from_u32(0), b"");
    };
    let (joined, ()) = tokio::join!(join_as(JOINER, config(), options), guess);

    assert_eq!(joined.unwrap().inviter, device(INVITER));
}
