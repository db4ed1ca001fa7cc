//! What is lost on the way, and what each end makes of it.

use super::*;
use crate::crypto::pairing::PairingError;
use crate::wire::PairFrameError;

#[tokio::test]
async fn a_joiner_that_lost_the_reply_asks_again_and_gets_the_same() {
    let mut inviter = Inviting::open(config()).await;
    let mut cut_off = Raw::connect(JOINER, inviter.address()).await.unwrap();
    let (joiner, answer) = cut_off.hello(&inviter).await.unwrap();
    let (_, confirm) = joiner.answered(&answer).unwrap();
    cut_off.frames.write(&PairFrame::Confirm(confirm)).await.unwrap();
    let Some(InviteEvent::Enrolled { .. }) = inviter.open.next().await else { panic!() };
    drop(cut_off);

    let joined = inviter.join(JOINER).await.unwrap();

    assert_eq!(&joined.welcome[..], WELCOME);
    let phrase = joined.phrase;
    joined.receipt.send().await;
    let Some(InviteEvent::Paired { phrase: shown, delivery, .. }) = inviter.open.next().await else {
        panic!()
    };
    assert_eq!((shown, delivery), (phrase, Delivery::Receipted), "the phrase of the run that arrived");
    assert_eq!(inviter.host.enrolled().len(), 1);
}

#[tokio::test]
async fn a_joiner_retries_by_itself() {
    let fake = Fake::listen(INVITER);
    let serve = async {
        // Once it is gone after the confirm, then it is there.
        let (connection, mut frames, hello) = fake.accept().await;
        let (_, answer) = fake.answer(&connection, &hello, terms());
        frames.write(&PairFrame::Answer(answer)).await.unwrap();
        frames.read().await.unwrap();
        connection.close(close::DONE, b"");
        grant(&fake, |sealed| sealed).await
    };

    let (joined, _open) = tokio::join!(join_as(JOINER, config(), fake.options()), serve);

    assert_eq!(&joined.unwrap().welcome[..], WELCOME);
}

#[tokio::test]
async fn a_device_that_could_not_be_recorded_may_try_again() {
    let mut inviter = Inviting::open(config()).await;
    inviter.host.refuses.store(true, Ordering::SeqCst);

    let refused = inviter.join(JOINER).await.unwrap_err();
    assert!(matches!(refused, JoinError::TurnedAway(TurnedAway::NotRecorded)), "{refused:?}");
    let Some(InviteEvent::EnrolFailed { device: failed, error }) = inviter.open.next().await else {
        panic!()
    };
    assert_eq!(failed, device(JOINER));
    assert_eq!(error.to_string(), "the device could not be recorded");

    inviter.host.refuses.store(false, Ordering::SeqCst);
    inviter.join(JOINER).await.unwrap().receipt.send().await;
    let Some(InviteEvent::Enrolled { .. }) = inviter.open.next().await else { panic!() };
}

#[tokio::test]
async fn a_joiner_without_a_receipt_is_paired_all_the_same_when_the_time_is_over() {
    let seconds = Arc::new(AtomicU64::new(0));
    let mut inviter = Inviting::open(at(&seconds)).await;
    let joined = inviter.join(JOINER).await.unwrap();
    let Some(InviteEvent::Enrolled { .. }) = inviter.open.next().await else { panic!() };

    drop(joined);
    seconds.store(600, Ordering::SeqCst);

    let Some(InviteEvent::Paired { delivery, .. }) = inviter.open.next().await else { panic!() };
    assert_eq!(delivery, Delivery::Unconfirmed);
}

#[tokio::test]
async fn an_invite_expires_although_the_machine_slept() {
    let seconds = Arc::new(AtomicU64::new(0));
    let mut inviter = Inviting::open(at(&seconds)).await;
    let mut raw = Raw::connect(JOINER, inviter.address()).await.unwrap();
    let (joiner, answer) = raw.hello(&inviter).await.unwrap();
    let (_, confirm) = joiner.answered(&answer).unwrap();

    // No timer ran meanwhile.
    seconds.store(600, Ordering::SeqCst);
    // The endpoint may be faster in closing.
    let _ = raw.frames.write(&PairFrame::Confirm(confirm)).await;

    assert_eq!(raw.closed().await, TurnedAway::Expired);
    assert_eq!(inviter.ended().await, Refusal::Expired);
    assert_eq!(inviter.host.enrolled(), []);
}

#[tokio::test]
async fn a_link_that_nobody_answers_has_expired_or_is_not_found() {
    let inviter = Inviting::open(config()).await;
    let mut link = inviter.open.link().clone();
    inviter.open.end().await;
    let brief = limited(|limits| limits.search = HASTE);
    let options = |link: &Link| JoinOptions {
        name: name("desk"),
        target: Target::Link(link.clone()),
        addresses: Vec::new(),
    };

    let error = join_as(JOINER, brief.clone(), options(&link)).await.unwrap_err();
    assert!(matches!(error, JoinError::NotFound { .. }), "{error:?}");

    link.expires_at = 1;
    let error = join_as(JOINER, brief, options(&link)).await.unwrap_err();
    assert!(matches!(error, JoinError::Expired), "{error:?}");
}

#[tokio::test]
async fn every_way_an_inviter_can_go_wrong_has_its_name() {
    let unknown = Terms { role: 9, scope: "personal".to_owned() };
    let error = answered(PairFrame::Done, |_| unknown).await;
    assert!(matches!(error, JoinError::Terms { role: 9, .. }), "{error:?}");

    let error = answered(PairFrame::Done, |_| terms()).await;
    assert!(matches!(error, JoinError::OutOfTurn), "{error:?}");

    let unproven = PairFrame::Grant { confirm: Confirm::from_bytes([0; 32]), port: 0, sealed_bytes: 1 };
    let error = answered(unproven, |_| terms()).await;
    assert!(matches!(error, JoinError::Unproven(PairingError::Unproven)), "{error:?}");

    let huge = PairFrame::Grant { confirm: Confirm::from_bytes([0; 32]), port: 0, sealed_bytes: u32::MAX };
    let error = answered(huge, |_| terms()).await;
    assert!(matches!(error, JoinError::Frame(PairFrameError::WelcomeLength { .. })), "{error:?}");

    let fake = Fake::listen(INVITER);
    let spoil = |mut sealed: Vec<u8>| {
        sealed[40] ^= 1;
        sealed
    };
    let (joined, _open) = tokio::join!(join_as(JOINER, config(), fake.options()), grant(&fake, spoil));
    assert!(matches!(joined, Err(JoinError::Welcome(_))), "{joined:?}");
}

#[tokio::test]
async fn an_inviter_that_stays_silent_or_hangs_up_is_given_up() {
    let brief = limited(|limits| {
        limits.attempt = HASTE;
        limits.rivals = HASTE;
    });
    let fake = Fake::listen(INVITER);
    let silent = async {
        loop {
            let (connection, _frames, _) = fake.accept().await;
            connection.closed().await;
        }
    };
    let error = tokio::select! {
        joined = join_as(JOINER, brief.clone(), fake.options()) => joined.unwrap_err(),
        () = silent => unreachable!(),
    };
    assert!(matches!(error, JoinError::TimedOut), "{error:?}");

    let hangs_up = async {
        loop {
            fake.accept().await.0.close(close::DONE, b"");
        }
    };
    let error = tokio::select! {
        joined = join_as(JOINER, brief, fake.options()) => joined.unwrap_err(),
        () = hangs_up => unreachable!(),
    };
    assert!(matches!(error, JoinError::Lost(_)), "{error:?}");
}

/// What a joiner makes of an inviter that grants `terms` and then sends `next`.
async fn answered(next: PairFrame, terms: impl FnOnce(&Hello) -> Terms) -> JoinError {
    let fake = Fake::listen(INVITER);
    let serve = async {
        let (connection, mut frames, hello) = fake.accept().await;
        let (_, answer) = fake.answer(&connection, &hello, terms(&hello));
        frames.write(&PairFrame::Answer(answer)).await.unwrap();
        // A joiner that refuses the terms confirms nothing.
        if frames.read().await.is_ok() {
            frames.write(&next).await.unwrap();
        }
        connection.closed().await;
    };
    let brief = limited(|limits| limits.rivals = HASTE);
    tokio::join!(join_as(JOINER, brief, fake.options()), serve).0.unwrap_err()
}

/// Serves one joiner to the end, with the sealed welcome as `change` leaves it.
async fn grant(fake: &Fake, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> (Connection, Frames) {
    let (connection, mut frames, hello) = fake.accept().await;
    let (inviter, answer) = fake.answer(&connection, &hello, terms());
    frames.write(&PairFrame::Answer(answer)).await.unwrap();
    let PairFrame::Confirm(theirs) = frames.read().await.unwrap() else { panic!() };
    let (paired, confirm) = inviter.check(&theirs).unwrap();
    let sealed = change(paired.seal(WELCOME, &[8; 32]));
    let sealed_bytes = u32::try_from(sealed.len()).unwrap();
    frames.write(&PairFrame::Grant { confirm, port: 0, sealed_bytes }).await.unwrap();
    frames.write_welcome(&sealed).await.unwrap();
    (connection, frames)
}

/// A machine whose clock the test moves.
fn at(seconds: &Arc<AtomicU64>) -> PairConfig {
    let seconds = Arc::clone(seconds);
    PairConfig { uptime: Arc::new(move || Duration::from_secs(seconds.load(Ordering::SeqCst))), ..config() }
}
