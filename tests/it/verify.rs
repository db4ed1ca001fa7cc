//! Two devices whose folds part: the alarm, the row that is found, and the way back.

use kinfold::fold::verify::questions_max;
use kinfold::node::{Against, Custody, HealthReason, NewOp, Node, NodeError, Right, Status, WhyNotCompared};
use kinfold::roster::Role;
use serde_json::{Value, json};

use crate::kin::{Caller, Home, PATIENCE as LONG, pair, pair_as};
use crate::pair::{Device, PATIENCE, device, introduce, invite, note};

/// Two devices with as many rows, at rest.
async fn two_with(rows: usize) -> (Device, Device) {
    let (a, b) = (device("a").await, device("b").await);
    let put = |index| NewOp::Put {
        surface: note(),
        key: format!("row {index:05}"),
        payload: kinfold::model::Payload::from_value(&json!(index)).unwrap(),
    };
    a.node.personal().append((0..rows).map(put).collect()).await.unwrap();
    introduce(&a.node, &b.node).await;
    settle(&a.node, &b.node).await;
    (a, b)
}

async fn settle(a: &Node, b: &Node) {
    for node in [a, b] {
        tokio::time::timeout(PATIENCE, node.wait_all(Custody::on(1))).await.unwrap().unwrap();
    }
}

async fn until_status(node: &Node, is_it: impl Fn(&Status) -> bool) -> Status {
    let mut version = node.version();
    let wait = async {
        loop {
            version.mark_unchanged();
            let status = node.personal().status().await.unwrap();
            if is_it(&status) {
                return status;
            }
            version.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("in time")
}

fn is_diverged(status: &Status) -> bool {
    status.health.iter().any(|reason| matches!(reason, HealthReason::Diverged { .. }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_row_raises_the_alarm_is_found_and_mended() {
    const ROWS: usize = 5_000;
    let (a, b) = two_with(ROWS).await;
    let sound = a.node.personal().root();
    let equal = a.node.personal().verify(b.node.device()).await.unwrap();
    assert_eq!((equal.difference, equal.questions), (None, 1));

    assert!(b.node.personal().spoil(note(), "row 03141".into()).await.unwrap());
    let spoiled = b.node.personal().root();

    // Both are told, with both roots.
    for (node, other, ours, theirs) in [(&a, &b, sound, spoiled), (&b, &a, spoiled, sound)] {
        let status = until_status(&node.node, is_diverged).await;
        let alarm = HealthReason::Diverged { device: other.node.device(), ours, theirs };
        assert!(status.health.contains(&alarm), "{:?}", status.health);
    }
    // Whoever looks finds the row, and whose it is, within the bound.
    for (node, other, right) in [(&a, &b, Right::Here), (&b, &a, Right::There)] {
        let compared = node.node.personal().verify(other.node.device()).await.unwrap();
        let difference = compared.difference.expect("a row differs");
        assert_eq!(difference.row.name.key, "row 03141");
        assert_eq!(difference.row.name.surface, "registry:note");
        assert_eq!(difference.right, right);
        assert!(compared.questions <= questions_max(ROWS as u64), "{} questions", compared.questions);
        assert!(questions_max(ROWS as u64) <= 4);
    }
    // The rows add up to the wrong root; the log does not.
    assert!(b.node.personal().audit(Against::Rows).await.unwrap().is_sound());
    let audit = b.node.personal().audit(Against::Log).await.unwrap();
    assert_eq!((audit.is_sound(), audit.from_log), (false, Some(sound)));

    assert_eq!(b.node.personal().refold().await.unwrap(), sound);
    for node in [&a.node, &b.node] {
        until_status(node, |status| !is_diverged(status)).await;
    }
    assert!(b.node.personal().audit(Against::Log).await.unwrap().is_sound());
    assert_eq!(a.node.personal().verify(b.node.device()).await.unwrap().difference, None);
    a.node.stop().await.unwrap();
    b.node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_a_spoiled_state_does_not_outlive_folding_anew() {
    // Enough for a snapshot to be written when the node stops.
    let (a, b) = two_with(3_000).await;
    let sound = a.node.personal().root();
    assert!(b.node.personal().spoil(note(), "row 00007".into()).await.unwrap());
    b.node.stop().await.unwrap();
    let b = b.again().await;

    let read = |node: &Node| node.personal().root();
    b.node.personal().get(&note(), "row 00000").unwrap();
    assert_ne!(read(&b.node), sound, "the snapshot has it");
    assert_eq!(b.node.personal().refold().await.unwrap(), sound);
    b.node.stop().await.unwrap();
    let b = b.again().await;
    b.node.personal().get(&note(), "row 00000").unwrap();
    assert_eq!(read(&b.node), sound);
    a.node.stop().await.unwrap();
    b.node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn states_are_compared_while_both_devices_write() {
    let (a, b) = two_with(200).await;
    let writing = |node: Node| {
        tokio::spawn(async move {
            for index in 0..40 {
                node.personal().put("registry:note", "busy", json!(index)).await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    };
    let (one, other) = (writing(a.node.clone()), writing(b.node.clone()));

    let compared = a.node.personal().verify(b.node.device()).await;

    one.await.unwrap();
    other.await.unwrap();
    let is_fair = match &compared {
        Ok(compared) => compared.difference.is_none(),
        Err(NodeError::NotCompared { why: WhyNotCompared::Unsettled, .. }) => true,
        Err(_) => false,
    };
    assert!(is_fair, "{compared:?}");
    settle(&a.node, &b.node).await;
    assert_eq!(a.node.personal().verify(b.node.device()).await.unwrap().difference, None);
    a.node.stop().await.unwrap();
    b.node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_state_or_is_not_there_is_told_as_that() {
    let (a, b, blind) = (device("a").await, device("b").await, device("blind").await);
    introduce(&a.node, &b.node).await;
    invite(&a.node, &blind.node, "blind", Role::Blind).await;
    blind.node.start().await.unwrap();
    blind.node.add_peer(a.node.local_addr().unwrap().to_string()).await.unwrap();
    tokio::time::timeout(PATIENCE, a.node.wait_all(Custody::on(2))).await.unwrap().unwrap();
    let why = |result: Result<_, NodeError>| match result {
        Err(NodeError::NotCompared { why, .. }) => why,
        other => panic!("{:?}", other.map(|_: kinfold::node::Comparison| ())),
    };

    assert_eq!(why(a.node.personal().verify(blind.node.device()).await), WhyNotCompared::Blind);
    assert_eq!(why(blind.node.personal().verify(a.node.device()).await), WhyNotCompared::BlindHere);
    let itself = a.node.personal().verify(a.node.device()).await;
    assert_eq!(why(itself), WhyNotCompared::NotConnected);
    b.node.stop().await.unwrap();
    let gone = b.node.device();
    until_status(&a.node, |status| {
        status.devices.iter().any(|device| device.device == gone && device.connected.is_none())
    })
    .await;
    assert_eq!(why(a.node.personal().verify(gone).await), WhyNotCompared::NotConnected);
    a.node.stop().await.unwrap();
    blind.node.stop().await.unwrap();
}

#[test]
fn the_stable_frontier_waits_for_a_blind_device_and_not_for_a_dormant_one() {
    let (one, two, store) = (Home::init("one"), Home::init("two"), Home::init("store"));
    pair(&one, &two);
    pair_as(&one, &store, "blind");
    let stable = |caller: &mut Caller| -> Option<u64> {
        let status = caller.call("sync.status", json!({}))["result"].clone();
        let logs = status["stable_frontier"].as_object()?;
        Some(logs.values().map(|seq| seq.as_u64().unwrap()).sum())
    };
    let until = |caller: &mut Caller, expected: Option<u64>| {
        let begun = std::time::Instant::now();
        while stable(caller) != expected {
            assert!(begun.elapsed() < LONG, "{expected:?}: {}", caller.call("sync.status", json!({})));
            caller.call("sync.pump", json!({}));
        }
    };
    let first = one.up(&[]);
    let second = two.up(&["--peer", &first.listening]);
    let third = store.up(&["--peer", &first.listening]);
    one.run(&["put", "registry:note", "n", "1"]).expect_code(0);
    one.run(&["wait", "--on", "2", "--timeout", "100s"]).expect_code(0);
    let mut caller = Caller::connect(&one);
    until(&mut caller, Some(1));

    // The blind one is away: what is written now is not stable.
    assert_eq!(third.terminate(), 0);
    one.run(&["put", "registry:note", "n", "2"]).expect_code(0);
    one.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    assert_eq!(stable(&mut caller), Some(1));
    let said = one.run(&["devices", "dormant", "store"]).expect_code(0).stdout;
    assert!(said.starts_with("store (") && said.contains("is now dormant: nothing waits for it"), "{said}");
    until(&mut caller, Some(2));
    assert!(one.run(&["devices"]).expect_code(0).stdout.contains("dormant"));
    one.run(&["devices", "dormant", "store"]).expect_code(0);
    assert_eq!(one.json(&["devices", "dormant", "store"])["changed"], false);

    // It comes back, and is waited for again.
    let again = one.json(&["devices", "active", "store"]);
    assert_eq!((&again["dormant"], &again["changed"]), (&json!(false), &json!(true)));
    assert_eq!(stable(&mut caller), Some(1));
    let third = store.up(&["--peer", &first.listening]);
    until(&mut caller, Some(2));

    two.run(&["devices", "dormant", "nobody"]).expect_code(1).says("\"nobody\"");
    let refused: Value = one.json(&["verify", "two"]);
    assert_eq!(refused["devices"][0]["outcome"], "equal", "{refused}");
    let equal = one.run(&["verify"]).expect_code(0).stdout;
    assert!(equal.contains("two: every row is the same (1 question)"), "{equal}");
    one.run(&["verify", "store"]).expect_code(1).says("it is blind and has no state");
    assert_eq!((second.terminate(), third.terminate()), (0, 0));
    one.run(&["verify", "two"]).expect_code(75).says("it is not connected");
    one.run(&["verify"]).expect_code(75).says("no other device was reached");
    assert_eq!(first.terminate(), 0);
    let offline = one.run(&["verify", "--refold", "--timeout", "1s"]).expect_code(75);
    assert!(offline.stdout.contains("its rows and its log add up to"), "{offline:?}");
    let alone = Home::init("alone");
    alone.run(&["verify", "--refold"]).expect_code(0).says("no other device is in this space yet");
}
