//! Questions and answers beside everything else.

use super::*;

const WITHIN: Duration = Duration::from_secs(10);

/// Answers everything that is asked of a node with its own bytes turned round, as often as told.
async fn answer_reversed(node: &mut Node, times: usize) {
    for _ in 0..times {
        let (device, question, answer) = asked(node).await;
        assert_eq!(device, super::device(1));
        answer.send(question.iter().rev().copied().collect());
    }
}

async fn asked(node: &mut Node) -> (DeviceId, Bytes, Answer) {
    node.until(|event| match event {
        NetEvent::Asked { device, topic: Topic::Lease, question, answer, .. } => {
            Some((device, question, answer))
        }
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_question_is_answered_on_its_own_stream_whoever_dialled() {
    let (mut a, at_a, mut b, at_b) = pair().await;

    let (answered, ()) =
        tokio::join!(at_a.ask(Topic::Lease, Bytes::from_static(b"abc"), WITHIN), answer_reversed(&mut b, 1));
    assert_eq!(answered, Ok(Bytes::from_static(b"cba")));

    let back = tokio::join!(at_b.ask(Topic::Lease, Bytes::new(), WITHIN), async {
        let (device, question, answer) = asked(&mut a).await;
        assert_eq!((device, question.len()), (super::device(2), 0));
        answer.send(Bytes::from(vec![7; ASK_BYTES_MAX]));
    });
    assert_eq!(back.0.map(|answer| answer.len()), Ok(ASK_BYTES_MAX));
}

#[tokio::test]
async fn more_questions_than_streams_wait_their_turn() {
    let (_a, at_a, mut b, _) = pair().await;
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..100u8 {
        let link = at_a.clone();
        asking.spawn(async move { (n, link.ask(Topic::Lease, Bytes::from(vec![n, 0]), WITHIN).await) });
    }

    answer_reversed(&mut b, 100).await;

    while let Some(done) = asking.join_next().await {
        let (n, answer) = done.expect("no task panics");
        assert_eq!(answer, Ok(Bytes::from(vec![0, n])));
    }
}

#[tokio::test]
async fn a_question_without_an_answer_says_why() {
    let (_a, at_a, mut b, at_b) = pair().await;
    let long = Bytes::from(vec![0; ASK_BYTES_MAX + 1]);
    let too_long = AskError::TooLong { found: ASK_BYTES_MAX + 1, limit: ASK_BYTES_MAX };
    assert_eq!(at_a.ask(Topic::Lease, long, WITHIN).await, Err(too_long));
    assert_eq!(
        at_a.ask(Topic::Lease, Bytes::new(), Duration::ZERO).await,
        Err(AskError::Unanswered { waited_ms: 0 })
    );

    let dropped = tokio::join!(at_a.ask(Topic::Lease, Bytes::from_static(b"?"), WITHIN), async {
        while asked(&mut b).await.1.is_empty() {}
    });
    assert_eq!(dropped.0, Err(AskError::Refused));

    let ended = tokio::join!(at_a.ask(Topic::Lease, Bytes::from_static(b"?"), WITHIN), async {
        let kept = asked(&mut b).await;
        at_b.close(CloseCode::Goodbye, "");
        kept
    });
    assert_eq!(ended.0, Err(AskError::Ended));
}

#[tokio::test]
async fn a_stream_that_asks_in_no_known_form_is_reset_and_the_connection_goes_on() {
    let (_a, at_a, mut b, _) = pair().await;
    let long = [&[1][..], &(ASK_BYTES_MAX as u32 + 1).to_be_bytes()].concat();
    let trailing = [&[1, 0, 0, 0, 1][..], b"ab"].concat();
    for wrong in [&[9, 0, 0, 0, 0][..], &[], &[1, 0, 0], &[1, 0, 0, 0, 4, 1], &long, &trailing] {
        let (mut send, mut receive) = at_a.connection().open_bi().await.expect("a stream");
        let _ = send.write_all(wrong).await;
        let _ = send.finish();

        let answer = receive.read_to_end(16).await;

        assert!(matches!(answer, Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(_)))), "{wrong:?}");
    }

    let (answered, ()) =
        tokio::join!(at_a.ask(Topic::Lease, Bytes::from_static(b"abc"), WITHIN), answer_reversed(&mut b, 1));
    assert_eq!(answered, Ok(Bytes::from_static(b"cba")));
}
