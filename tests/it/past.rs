//! States of the past.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use kinfold::model::{DeviceId, Incarnation, LogId, Payload, Positions, Root, Seq};
use kinfold::node::{Custody, NewOp, NewTurn, Node, NodeError};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kin::{Caller, Home};
use crate::pair::{PATIENCE, introduce, note};

async fn open(home: &Path) -> Node {
    let builder = Node::builder(home).listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).without_mdns();
    builder.open().await.unwrap()
}

/// A device that is opened again later.
async fn made(home: &TempDir, name: &str) -> Node {
    let path = home.path().join(name);
    Node::init(&path, name).unwrap();
    open(&path).await
}

/// Some op of a random history.
fn any_op(dice: u64) -> NewOp {
    let key = ["k", "l", "m"][(dice % 3) as usize].to_owned();
    let payload = Payload::from_value(&json!(dice % 5)).unwrap();
    match (dice >> 8) % 6 {
        0 | 1 => NewOp::Put { surface: note(), key, payload },
        2 => NewOp::Delete { surface: note(), key },
        3 => NewOp::Fact { surface: "skill".parse().unwrap(), key, payload },
        4 => NewOp::Event { surface: "routing".parse().unwrap(), stream: key, payload },
        _ => {
            let payload = Payload::from_value(&json!({"role": "user", "content": key})).unwrap();
            NewOp::Event { surface: "conversation".parse().unwrap(), stream: "c".to_owned(), payload }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_of_a_history_comes_back_with_its_root_also_after_a_restart() {
    let home = TempDir::new().unwrap();
    let (a, b) = (made(&home, "a").await, made(&home, "b").await);
    a.personal().append((0..70).map(|number| any_op(number * 77)).collect()).await.unwrap();
    introduce(&a, &b).await;
    let mut moments: Vec<(Positions, Root)> = Vec::new();
    let mut dice: u64 = 7;
    for _ in 0..60 {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let writer = if dice >> 63 == 0 { &a } else { &b };
        writer.personal().append(vec![any_op(dice >> 20)]).await.unwrap();
        // Whatever of the other device has arrived by now.
        let status = a.status().await.unwrap();
        moments.push((status.positions.expect("the index is there"), status.state_hash));
    }
    for node in [&a, &b] {
        tokio::time::timeout(PATIENCE, node.wait_all(Custody::on(1))).await.unwrap().unwrap();
    }

    let check = async |node: &Node| {
        for (positions, root) in &moments {
            let state = node.personal().state_at(positions.clone()).await.unwrap();
            assert_eq!(state.root(), *root, "{positions}");
            assert_eq!((state.counts().ops, state.positions()), (positions.op_count(), positions));
        }
    };
    check(&a).await;
    check(&b).await;
    a.stop().await.unwrap();
    b.stop().await.unwrap();
    drop((a, b));
    let a = open(&home.path().join("a")).await;
    check(&a).await;
    let now = a.personal().positions().unwrap();
    assert_eq!(a.personal().state_at(now).await.unwrap().root(), a.personal().root());
    a.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_of_the_past_shows_what_was_shown_then() {
    let home = TempDir::new().unwrap();
    let node = made(&home, "a").await;
    let space = node.personal();
    let before = space.positions().unwrap();
    space.put("registry:note", "n", json!(1)).await.unwrap();
    space.record_turn(NewTurn::user("c", "hello").unwrap()).await.unwrap();
    let then = space.positions().unwrap();
    space.put("registry:note", "n", json!(2)).await.unwrap();
    space.record_turn(NewTurn::assistant("c", "hi").unwrap()).await.unwrap();

    let (nothing, state) =
        (space.state_at(before.clone()).await.unwrap(), space.state_at(then.clone()).await.unwrap());

    assert!(nothing.get(&note(), "n").unwrap().is_none() && nothing.surfaces().unwrap().is_empty());
    assert_eq!(state.get(&note(), "n").unwrap().unwrap().shown.payload.unwrap().as_str(), "1");
    assert_eq!(state.list(&note(), None, 9).unwrap().len(), 1);
    assert_eq!(state.transcript("c", None, 9).unwrap().len(), 1);
    assert_eq!(state.resume("c", 9).unwrap().resume.messages.len(), 1);
    assert!(state.conflicts(None, 9).unwrap().is_empty());
    assert_eq!((state.counts().ops, then.op_count()), (2, 2));
    assert_eq!(state.streams(&"conversation".parse().unwrap()).unwrap(), ["c"]);
    assert_eq!(space.positions_at(0).await.unwrap(), before);
    assert_eq!(space.positions_at(u64::MAX).await.unwrap(), space.positions().unwrap());
    let unknown = LogId { device: DeviceId::from_bytes([7; 32]), incarnation: Incarnation::new(1) };
    let refused = space.state_at([(unknown, Seq::new(1))].into_iter().collect()).await;
    assert!(matches!(refused, Err(NodeError::UnknownLog { log }) if log == unknown));
    let (log, _) = then.iter().next().expect("it wrote");
    let refused = space.state_at([(*log, Seq::new(5))].into_iter().collect()).await;
    assert!(
        matches!(refused, Err(NodeError::BeyondLog { asked, held, .. }) if (asked.get(), held.get()) == (5, 4))
    );
    node.stop().await.unwrap();
}

#[test]
fn people_and_programs_look_back() {
    let home = Home::init("a");
    let frontier = || home.run(&["frontier"]).expect_code(0).stdout.trim().to_owned();
    assert_eq!(frontier(), "none");
    home.run(&["put", "registry:note", "n", "1"]).expect_code(0);
    let then = frontier();
    let root = home.json(&["status"])["state_hash"].clone();
    home.run(&["put", "registry:note", "n", "2"]).expect_code(0);
    home.run(&["rm", "registry:note", "n"]).expect_code(0);
    home.run(&["event", "routing", "s", "1"]).expect_code(0);

    assert_eq!(home.run(&["get", "registry:note", "n", "--at", &then]).expect_code(0).stdout, "1\n");
    home.run(&["get", "registry:note", "n"]).expect_code(1);
    home.run(&["get", "registry:note", "n", "--at", "none"]).expect_code(1).says("no row");
    let listed = home.json(&["list", "registry:note", "--at", &then]);
    assert_eq!((&listed["page"]["rows"][0]["payload"], &listed["state_hash"]), (&json!(1), &root));
    home.run(&["list", "--at", "0s"]).expect_code(0).says("4 ops");
    assert_eq!(
        home.json(&["list", "routing", "--stream", "s", "--at", "0s"])["page"]["events"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(home.json(&["list", "--at", "2001-01-01T00:00:00Z"])["ops"], 0);
    home.run(&["get", "registry:note", "n", "--at", "noon"]).expect_code(1).says("is no moment");
    home.run(&["get", "registry:note", "n", "--at", "a/b:1"]).expect_code(1).says("is no position");
    home.run(&["list", "--at", &format!("{}9", then)]).expect_code(1).says("`kinfold frontier` shows");

    let _node = home.up(&[]);
    let mut caller = Caller::connect(&home);
    let journal: Value = caller.call("sync.status", json!({}))["result"]["frontier"].clone();
    let (log, _) = then.rsplit_once(':').unwrap();
    let as_object = caller.call("sync.state_at", json!({"frontier": {log: 1}}));
    assert_eq!((&as_object["result"]["state_hash"], &as_object["result"]["rows"]), (&root, &json!(1)));
    assert_eq!(caller.call("sync.state_at", json!({"frontier": journal}))["result"]["ops"], 4);
    for (params, kind) in [
        (json!({}), "MomentNotNamed"),
        (json!({"frontier": "none", "time_ms": 1}), "MomentNotNamed"),
        (json!({"frontier": 7}), "InvalidParams"),
        (json!({"frontier": ""}), "BadFrontier"),
        (json!({"frontier": {"x": 1}}), "BadFrontier"),
        (json!({"frontier": {log: 9}}), "BeyondLog"),
        (json!({"frontier": format!("{log}:1,{log}:1")}), "BadFrontier"),
        (json!({"time_ms": -1}), "InvalidParams"),
        (json!({"frontier": "none", "id": "n"}), "SurfaceMissing"),
        (json!({"frontier": "none", "after": "n"}), "SurfaceMissing"),
        (json!({"frontier": "none", "surface": "notes"}), "UnknownSurface"),
        (json!({"frontier": "none", "surface": "routing", "id": "n"}), "MisplacedMember"),
        (json!({"frontier": "none", "surface": "skill", "stream": "n"}), "MisplacedMember"),
        (json!({"frontier": "none", "surface": "routing", "after": "x"}), "BadCursor"),
        (json!({"frontier": "none", "limit": 0}), "PageLimit"),
    ] {
        let answer = caller.call("sync.state_at", params.clone());
        assert_eq!(answer["error"]["data"]["kind"], kind, "{params}: {answer}");
    }
}
