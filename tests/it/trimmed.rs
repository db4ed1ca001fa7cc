//! What policies hide goes with the history below a checkpoint, on every device alike.

use kinfold::model::{Payload, Surface};
use kinfold::node::{Against, CheckpointInfo, Custody, NewOp, Node, NodeError};
use serde_json::{Value, json};

use crate::pair::{Device, PATIENCE, device, introduce};

fn policy(value: Value) -> Option<Payload> {
    Some(Payload::from_value(&value).unwrap())
}

fn turn(n: u32) -> NewOp {
    let payload = Payload::from_value(&json!({"role": "user", "content": n.to_string()})).unwrap();
    NewOp::Event { surface: Surface::Conversation, stream: "talk".into(), payload }
}

async fn settle(nodes: &[&Node]) {
    for node in nodes {
        let held = node.wait_all(Custody::on(1));
        tokio::time::timeout(PATIENCE, held).await.expect("in time").unwrap();
    }
}

/// Makes a checkpoint of everything, which both attest, and drops what it holds on both.
async fn drop_below(a: &Node, b: &Node) -> CheckpointInfo {
    settle(&[a, b]).await;
    let op_count = a.status().await.unwrap().op_count;
    let wait = async {
        loop {
            match a.personal().checkpoint().await {
                Ok(made) if made.checkpoint.op_count >= op_count => {}
                Ok(_) | Err(NodeError::NoCheckpoint { .. }) => {
                    a.sync().await.unwrap();
                    continue;
                }
                Err(error) => panic!("{error}"),
            }
            b.personal().exchange_checkpoints().await.unwrap();
            a.personal().exchange_checkpoints().await.unwrap();
            let newest = a.personal().checkpoints().unwrap().swap_remove(0);
            let theirs = b.personal().checkpoints().unwrap().into_iter().next();
            if newest.attested_by.len() == 2
                && theirs.is_some_and(|held| held.hash == newest.hash && held.is_whole)
            {
                return newest;
            }
        }
    };
    let made = tokio::time::timeout(PATIENCE, wait).await.expect("in time");
    for node in [a, b] {
        node.personal().trim().await.unwrap();
    }
    made
}

fn said(node: &Node) -> Vec<String> {
    let events = node.personal().events(&Surface::Conversation, "talk", None, 99).unwrap();
    events.iter().map(|event| event.payload.string_member("content").unwrap()).collect()
}

/// Both show the same, and neither finds that the other shows another state for the same history.
async fn agree(a: &Node, b: &Node) {
    let wait = async {
        loop {
            a.sync().await.unwrap();
            b.sync().await.unwrap();
            let (ours, theirs) = (a.status().await.unwrap(), b.status().await.unwrap());
            if ours.state_hash == theirs.state_hash && ours.op_count == theirs.op_count {
                return (ours.health, theirs.health);
            }
        }
    };
    let (ours, theirs) = tokio::time::timeout(PATIENCE, wait).await.expect("in time");
    assert!(ours.is_empty() && theirs.is_empty(), "{ours:?} {theirs:?}");
}

async fn two() -> (Device, Device) {
    let (a, b) = (device("a").await, device("b").await);
    introduce(&a.node, &b.node).await;
    (a, b)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_policy_hides_is_gone_for_good_below_a_checkpoint_and_nothing_else_is() {
    let (a, b) = two().await;
    let space = a.node.personal();
    space.append((0..40).map(turn).collect()).await.unwrap();
    for n in 0..6 {
        let run = json!({"agent_id": if n % 2 == 0 { "x" } else { "y" }, "n": n});
        space.put("run", &format!("run {n}"), run).await.unwrap();
    }
    space.put("registry:note", "kept", json!("a value")).await.unwrap();
    settle(&[&a.node]).await;
    let before = drop_below(&a.node, &b.node).await;
    assert_eq!(said(&b.node).len(), 40, "without a policy nothing is left out");

    space.set_policy(&Surface::Conversation, policy(json!({"last_n": 10}))).await.unwrap();
    b.node.personal().set_policy(&Surface::Run, policy(json!({"per_agent": 1}))).await.unwrap();
    b.node.personal().append((40..45).map(turn).collect()).await.unwrap();
    let made = drop_below(&a.node, &b.node).await;
    assert!(made.hash != before.hash && made.attested_by.len() == 2);
    agree(&a.node, &b.node).await;

    // Cleared, a policy shows again what is there.
    space.set_policy(&Surface::Conversation, None).await.unwrap();
    b.node.personal().set_policy(&Surface::Run, None).await.unwrap();
    settle(&[&a.node, &b.node]).await;
    agree(&a.node, &b.node).await;
    for node in [&a.node, &b.node] {
        let last: Vec<String> = (35..45).map(|n: u32| n.to_string()).collect();
        assert_eq!(said(node), last);
        let runs = node.personal().list(&Surface::Run, None, 99).unwrap();
        assert_eq!(runs.iter().map(|row| row.key.as_str()).collect::<Vec<_>>(), ["run 4", "run 5"]);
        let kept = node.personal().get(&"registry:note".parse().unwrap(), "kept").unwrap().unwrap();
        assert_eq!(kept.shown.payload.unwrap().as_str(), r#""a value""#);
        let audit = node.personal().audit(Against::Log).await.unwrap();
        assert_eq!(audit.from_log, Some(node.personal().root()), "the log folds to the same");
    }

    // After a restart it is so, and what comes next is one state again.
    let root = a.node.personal().root();
    drop(space);
    a.node.stop().await.unwrap();
    let a = a.again().await;
    assert_eq!((a.node.personal().root(), said(&a.node).len()), (root, 10));
    a.node.start().await.unwrap();
    a.node.add_peer(b.node.local_addr().unwrap().to_string()).await.unwrap();
    b.node.personal().append((45..50).map(turn).collect()).await.unwrap();
    settle(&[&b.node]).await;
    agree(&a.node, &b.node).await;
    assert_eq!(said(&a.node).len(), 15);
    for device in [a, b] {
        device.node.stop().await.unwrap();
    }
}
