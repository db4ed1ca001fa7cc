//! What two devices that accept each other can do.

use super::*;

#[tokio::test]
async fn frames_arrive_both_ways_in_order() {
    let (mut a, at_a, mut b, at_b) = pair().await;

    for n in 0..300u32 {
        at_a.send(Bytes::copy_from_slice(&n.to_be_bytes())).expect("room");
        at_b.send(Bytes::copy_from_slice(&n.to_le_bytes())).expect("room");
    }

    assert_eq!(at_a.device(), b.device);
    assert_eq!(at_b.device(), a.device);
    for node in [&mut a, &mut b] {
        assert_eq!(frame(node).await[..], *b"hello");
    }
    for n in 0..300u32 {
        assert_eq!(frame(&mut b).await[..], n.to_be_bytes());
        assert_eq!(frame(&mut a).await[..], n.to_le_bytes());
    }
    at_a.send(Bytes::from(vec![7; crate::model::limits::FRAME_BYTES_MAX])).expect("the longest frame");
    assert_eq!(frame(&mut b).await.len(), crate::model::limits::FRAME_BYTES_MAX);
    a.net.stop().await;
    assert_eq!(b.closed().await, CloseReason::ByPeer(CloseCode::Goodbye));
    b.net.stop().await;
}

#[tokio::test]
async fn ten_thousand_batches_arrive_in_order_in_both_directions() {
    let (mut a, at_a, mut b, at_b) = pair().await;
    let through = Seq::new(10_000);

    at_a.push(PushOrder { space: SPACE, log: log(1), after: Seq::ZERO, through }).expect("room");
    at_b.push(PushOrder { space: SPACE, log: log(2), after: Seq::ZERO, through }).expect("room");

    tokio::join!(expect_run(&mut a, 1, 10_000), expect_run(&mut b, 1, 10_000));
}

#[tokio::test]
async fn a_live_batch_overtakes_a_backlog() {
    let (a, at_a, mut b, _) = pair().await;
    let through = Seq::new(200_000);
    at_a.push(PushOrder { space: SPACE, log: log(1), after: Seq::ZERO, through }).expect("room");
    let live = batch(5, 255);

    let mut seen = 0;
    let mut sent = false;
    while seen < 200_000 {
        let NetEvent::Batches { batches, .. } = b.next().await else { continue };
        if !sent {
            at_a.send_live(Bytes::from(live.clone())).expect("room");
            sent = true;
        }
        if batches.iter().any(|batch| *batch == live) {
            break;
        }
        seen += batches.len();
    }

    assert!(seen < 200_000, "the live batch came after the whole backlog");
    drop(a);
}

#[tokio::test]
async fn push_orders_are_answered() {
    let (mut a, at_a, b, _) = pair().await;
    let unknown = SpaceId::from_bytes([9; 32]);
    let order =
        |space, through| PushOrder { space, log: log(1), after: Seq::new(3), through: Seq::new(through) };

    for order in [order(SPACE, 9), order(unknown, 9), order(SPACE, 2)] {
        at_a.push(order).expect("room");
    }

    let answer = |event| match event {
        NetEvent::PushDone { through, .. } => Some(Ok(through.get())),
        NetEvent::PushFailed { error, .. } => Some(Err(error)),
        _ => None,
    };
    assert!(matches!(a.until(answer).await, Ok(9)));
    assert!(matches!(a.until(answer).await, Err(PushError::Source(_))));
    assert!(matches!(a.until(answer).await, Ok(3)), "nothing was left to send");
    drop(b);
}

#[tokio::test]
async fn a_source_that_does_not_move_on_is_reported() {
    struct Stuck;
    impl BatchSource for Stuck {
        fn run(
            &self,
            _: &SpaceId,
            _: &LogId,
            after: Seq,
            _: Seq,
            _: usize,
        ) -> Result<Option<Run>, SourceError> {
            Ok(Some(Run { bytes: Bytes::from_static(b"x"), last: after }))
        }
    }
    let (sender, events) = mpsc::channel(64);
    let identity = Arc::new(Identity::from_secret(&[1; 32]));
    let pins = Pins::new(BTreeSet::from([device(2)]));
    let net = Net::start(identity, loopback(), pins.clone(), Arc::new(Stuck), sender).await.expect("starts");
    let mut a = Node { net, device: device(1), pins, events };
    let mut b = Node::start(2, &[1]).await;
    a.dial(&b);
    let (link, _) = tokio::join!(a.connected(), b.connected());

    link.push(PushOrder { space: SPACE, log: log(1), after: Seq::ZERO, through: Seq::new(1) }).expect("room");

    let error = a.until(|event| match event {
        NetEvent::PushFailed { error, .. } => Some(error),
        _ => None,
    });
    assert!(matches!(error.await, PushError::Astray { .. }));
}

#[tokio::test]
async fn credit_that_is_kept_stops_the_stream_and_returning_it_resumes() {
    let (a, at_a, mut b, _) = pair().await;
    let total = 60_000;
    at_a.push(PushOrder { space: SPACE, log: log(1), after: Seq::ZERO, through: Seq::new(total) })
        .expect("room");
    let (mut held, mut held_bytes, mut count) = (Vec::new(), 0usize, 0u64);

    // 60,000 batches are 24 MB. Kept credits let no more than the budget through, less one chunk.
    while held_bytes < 3 * 1024 * 1024 {
        if let NetEvent::Batches { batches, credit, .. } = b.next().await {
            held_bytes += batches.iter().map(Bytes::len).sum::<usize>();
            count += batches.len() as u64;
            held.push(credit);
            assert!(held_bytes <= 4 * 1024 * 1024, "{held_bytes} bytes were handed up");
        }
    }
    assert!(count < total);
    held.clear();

    while count < total {
        if let NetEvent::Batches { batches, .. } = b.next().await {
            count += batches.len() as u64;
        }
    }
    drop(a);
}

#[tokio::test]
async fn a_slow_reader_fills_the_queue_and_the_sender_is_told() {
    let (_a, at_a, b, _) = pair().await;
    let frame = Bytes::from(vec![0; crate::model::limits::FRAME_BYTES_MAX]);

    // Nobody reads b's events, so windows and queues fill.
    let refused = (0..100_000).find_map(|_| at_a.send(frame.clone()).err());

    assert_eq!(refused, Some(LinkError::Full));
    drop(b);
}

#[tokio::test]
async fn crossed_dials_leave_one_connection() {
    for _ in 0..8 {
        let (mut a, mut b) = (Node::start(1, &[2]).await, Node::start(2, &[1]).await);
        a.dial(&b);
        b.dial(&a);

        tokio::join!(settle(&mut a), settle(&mut b));
    }
}

#[tokio::test]
async fn a_peer_that_restarts_at_its_port_is_found_again() {
    let (mut a, _, b, _) = pair().await;
    let config = NetConfig { listen: b.address(), ..loopback() };
    b.net.stop().await;
    assert_eq!(a.closed().await, CloseReason::ByPeer(CloseCode::Goodbye));

    let mut b = Node::start_with(2, &[1], config).await;

    let (at_a, at_b) = tokio::join!(a.connected(), b.connected());
    assert_eq!((at_a.device(), at_b.device()), (b.device, a.device));
}

#[tokio::test]
async fn a_static_peer_is_dialled_by_its_name() {
    let mut b = Node::start(2, &[1]).await;
    let peers = vec![format!("localhost:{}", b.address().port())];
    let config = NetConfig { peers, listen: SocketAddr::from(([0; 8], 0)), ..loopback() };

    let mut a = Node::start_with(1, &[2], config).await;

    let (at_a, _) = tokio::join!(a.connected(), b.connected());
    assert_eq!(at_a.remote(), b.address(), "IPv4 is written as IPv4");
}

#[tokio::test]
async fn a_dead_address_does_not_hold_up_a_living_one() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let (mut a, mut b) = (Node::start(1, &[2]).await, Node::start(2, &[1]).await);

    a.net.dial(vec![silent.local_addr().expect("bound"), b.address()], Some(b.device));

    tokio::join!(a.connected(), b.connected());
}

#[tokio::test]
async fn waking_dials_at_once_what_waits_in_its_backoff() {
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let address = closed.local_addr().expect("bound");
    let mut a = Node::start(1, &[2]).await;
    a.net.dial(vec![address], Some(device(2)));
    assert!(matches!(a.dial_failed().await, DialError::TimedOut));
    drop(closed);
    let mut b = Node::start_with(2, &[1], NetConfig { listen: address, ..loopback() }).await;

    a.net.wake();

    tokio::join!(a.connected(), b.connected());
}

#[tokio::test]
async fn a_dial_that_cannot_begin_says_why() {
    let mut a = Node::start(1, &[2]).await;

    a.net.dial(Vec::new(), Some(device(2)));
    assert!(matches!(a.dial_failed().await, DialError::NoAddress));
    a.net.dial(vec![SocketAddr::from(([127, 0, 0, 1], 0))], None);
    assert!(matches!(a.dial_failed().await, DialError::Undialable(_)));
    let peers = vec!["no host at all:1".to_owned()];
    let mut b = Node::start_with(2, &[1], NetConfig { peers, ..loopback() }).await;
    assert!(matches!(b.dial_failed().await, DialError::Unresolvable(_)));
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let a = Node::start(1, &[]).await;
    let start = |config| {
        let (sender, _) = mpsc::channel(1);
        Net::start(
            Arc::new(Identity::from_secret(&[2; 32])),
            config,
            Pins::default(),
            Arc::new(Synthetic),
            sender,
        )
    };

    let taken = start(NetConfig { listen: a.address(), ..loopback() }).await.expect_err("taken");
    assert!(matches!(taken, NetError::Bind { .. }), "{taken}");
    for peer in ["somewhere", "somewhere:", ":80", "fe80::1:80", "[fe80::1]", "host:0", "host:99999"] {
        let error = start(NetConfig { peers: vec![peer.into()], ..loopback() }).await.expect_err(peer);
        assert!(matches!(error, NetError::PeerForm { .. }), "{error}");
    }
}

async fn frame(node: &mut Node) -> Bytes {
    node.until(|event| match event {
        NetEvent::Frame { frame, .. } => Some(frame),
        _ => None,
    })
    .await
}

async fn expect_run(node: &mut Node, first: u64, last: u64) {
    let mut next = first;
    while next <= last {
        if let NetEvent::Batches { batches, .. } = node.next().await {
            for batch in batches {
                assert_eq!(batch, synthetic_batch(Seq::new(next)));
                next += 1;
            }
        }
    }
}

/// Until exactly one connection is up that a frame crosses.
async fn settle(node: &mut Node) {
    let mut up: Vec<Link> = Vec::new();
    let mut echoed = false;
    loop {
        match node.next().await {
            NetEvent::Connected { link, .. } => {
                let _ = link.send(Bytes::from_static(b"ping"));
                up.push(link);
            }
            NetEvent::Closed { conn, reason, .. } => {
                let expect =
                    [CloseReason::ByUs(CloseCode::Duplicate), CloseReason::ByPeer(CloseCode::Duplicate)];
                assert!(expect.contains(&reason), "{reason}");
                up.retain(|link| link.conn() != conn);
            }
            NetEvent::Frame { frame, conn } if frame[..] == *b"ping" => {
                let link = up.iter().find(|link| link.conn() == conn).expect("frames follow connected");
                let _ = link.send(Bytes::from_static(b"pong"));
            }
            NetEvent::Frame { frame, .. } if frame[..] == *b"pong" => echoed = true,
            _ => {}
        }
        if echoed && up.len() == 1 {
            return;
        }
    }
}
