//! Checkpoints between real devices: made, attested, fetched by a device that reads nothing, kept.

use kinfold::node::{CheckpointInfo, Custody, Node, NodeError, WhyNoCheckpoint};
use kinfold::roster::Role;
use serde_json::json;

use crate::kin::{Home, pair};
use crate::pair::{Device, PATIENCE, device, introduce, invite, note};

/// Two devices that read and one that does not, each connected to the first, with some history.
async fn three() -> (Device, Device, Device) {
    let (a, b, blind) = (device("a").await, device("b").await, device("blind").await);
    introduce(&a.node, &b.node).await;
    invite(&a.node, &blind.node, "blind", Role::Blind).await;
    blind.node.start().await.unwrap();
    blind.node.add_peer(a.node.local_addr().unwrap().to_string()).await.unwrap();
    write(&a.node, 0..400).await;
    settle(&a.node, 2).await;
    settle(&b.node, 1).await;
    (a, b, blind)
}

async fn write(node: &Node, rows: std::ops::Range<u32>) {
    for row in rows {
        let key = format!("row {}", row % 300);
        node.personal()
            .put("registry:note", &key, json!({"text": format!("value {row} of a row")}))
            .await
            .unwrap();
    }
}

async fn settle(node: &Node, devices: u32) {
    let held = node.wait_all(Custody::on(devices));
    tokio::time::timeout(PATIENCE, held).await.expect("in time").unwrap();
}

/// Exchanges until the newest checkpoint of a device is as expected.
async fn until(node: &Node, is_it: impl Fn(&CheckpointInfo) -> bool) -> CheckpointInfo {
    let wait = async {
        loop {
            node.personal().exchange_checkpoints().await.unwrap();
            if let Some(newest) = node.personal().checkpoints().unwrap().into_iter().next()
                && is_it(&newest)
            {
                return newest;
            }
            node.sync().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("in time")
}

/// Makes one as soon as everything that was written is stable.
async fn publish(node: &Node, op_count: u64) -> CheckpointInfo {
    let wait = async {
        loop {
            match node.personal().checkpoint().await {
                Ok(published) if published.checkpoint.op_count >= op_count => return published.checkpoint,
                Ok(_) | Err(NodeError::NoCheckpoint { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            node.sync().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_attested_by_those_that_read_and_kept_by_the_one_that_does_not() {
    let (a, b, blind) = three().await;

    let made = publish(&a.node, 400).await;

    assert_eq!((made.author, made.root), (a.node.device(), a.node.personal().root()));
    for node in [&a.node, &b.node, &blind.node] {
        let held =
            until(node, |held| held.hash == made.hash && held.is_whole && held.attested_by.len() == 2).await;
        let mut attested = held.attested_by.clone();
        attested.sort_unstable();
        let mut readers = vec![a.node.device(), b.node.device()];
        readers.sort_unstable();
        assert_eq!(attested, readers, "whoever cannot read does not attest");
    }
    let again = a.node.personal().checkpoint().await.unwrap();
    assert_eq!((again.is_new, again.checkpoint.hash), (false, made.hash));

    // The one before stays, and no more than that.
    let mut hashes = vec![made.hash];
    for round in 1..=2u32 {
        write(&b.node, 400 * round..400 * round + 50).await;
        settle(&b.node, 1).await;
        settle(&a.node, 2).await;
        let next = publish(&b.node, 400 + 50 * u64::from(round)).await;
        until(&blind.node, |held| held.hash == next.hash && held.is_whole).await;
        hashes.push(next.hash);
    }
    for node in [&a.node, &blind.node] {
        until(node, |held| held.hash == hashes[2]).await;
        let held: Vec<_> = node.personal().checkpoints().unwrap().into_iter().map(|held| held.hash).collect();
        // What came between may have been made while not everything was stable.
        assert_eq!((held.len(), held[0]), (2, hashes[2]), "{held:?}");
    }

    // It outlives the node.
    blind.node.stop().await.unwrap();
    let blind = blind.again().await;
    assert_eq!(blind.node.personal().checkpoints().unwrap().len(), 2);
    assert!(matches!(
        blind.node.personal().checkpoint().await,
        Err(NodeError::NoCheckpoint { why: WhyNoCheckpoint::Blind })
    ));
    for device in [a, b, blind] {
        device.node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_state_went_wrong_makes_no_checkpoint_and_none_is_made_beside_it() {
    let (a, b, blind) = three().await;
    assert!(b.node.personal().spoil(note(), "row 7".into()).await.unwrap());
    let refused = |node: &Node| {
        let node = node.clone();
        async move {
            loop {
                match node.personal().checkpoint().await {
                    Err(NodeError::NoCheckpoint { why: WhyNoCheckpoint::Diverged { device } }) => {
                        return device;
                    }
                    Ok(_) | Err(NodeError::NoCheckpoint { .. }) => node.sync().await.unwrap(),
                    Err(error) => panic!("{error}"),
                };
            }
        }
    };

    for (node, other) in [(&a.node, &b.node), (&b.node, &a.node)] {
        let device = tokio::time::timeout(PATIENCE, refused(node)).await.expect("in time");
        assert_eq!(device, other.device());
    }
    b.node.personal().refold().await.unwrap();
    publish(&a.node, 400).await;
    for device in [a, b, blind] {
        device.node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_was_cut_off_goes_on_where_it_was() {
    let (a, b, blind) = three().await;
    // Two of them fill a chunk.
    for row in 0..6 {
        let bulk = json!({"text": "long ".repeat(12_000)});
        a.node.personal().put("registry:note", &format!("bulk {row}"), bulk).await.unwrap();
    }
    let made = publish(&a.node, 406).await;
    until(&blind.node, |held| held.hash == made.hash && held.is_whole).await;
    let chunks = made.chunk_count;

    // As a crash in the middle leaves it: some of the chunks, and a manifest that says so.
    assert_eq!(blind.node.personal().forget_chunks(3).await.unwrap(), 3);
    let held = blind.node.personal().checkpoints().unwrap();
    assert!(!held[0].is_whole && chunks > 3, "{chunks}");
    blind.node.stop().await.unwrap();
    let blind = blind.again().await;
    blind.node.start().await.unwrap();
    blind.node.add_peer(a.node.local_addr().unwrap().to_string()).await.unwrap();

    until(&blind.node, |held| held.hash == made.hash && held.is_whole).await;

    assert_eq!(blind.node.personal().chunks_fetched(), 3, "what is here is not fetched again");
    for device in [a, b, blind] {
        device.node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_is_not_what_the_log_folds_to_is_neither_kept_nor_attested() {
    let (a, b, blind) = three().await;
    let good = publish(&a.node, 400).await;
    until(&b.node, |held| held.hash == good.hash && held.is_whole).await;
    write(&a.node, 0..10).await;
    settle(&a.node, 2).await;
    settle(&b.node, 1).await;
    // As far on as b has acknowledged, so that b can judge it.
    let forged = loop {
        let forged = a.node.personal().forge_checkpoint().await.unwrap();
        let held = a.node.personal().checkpoints().unwrap();
        if held[0].hash == forged && held[0].op_count >= 410 {
            break forged;
        }
        a.node.sync().await.unwrap();
    };

    b.node.personal().exchange_checkpoints().await.unwrap();
    a.node.personal().exchange_checkpoints().await.unwrap();

    // By itself b looks at it as well, again and again: in between it holds what it is looking at.
    loop {
        let held = b.node.personal().checkpoints().unwrap();
        assert_eq!(held[0].hash, good.hash, "{held:?}");
        if held.iter().all(|held| held.hash != forged && held.is_whole) {
            break;
        }
        b.node.personal().exchange_checkpoints().await.unwrap();
    }
    let words = &a.node.personal().checkpoints().unwrap()[0].attested_by;
    assert_eq!(*words, [a.node.device()], "only the forger vouches for it");
    for device in [a, b, blind] {
        device.node.stop().await.unwrap();
    }
}

#[test]
fn a_person_makes_and_lists_checkpoints() {
    let (one, two) = (Home::init("one"), Home::init("two"));
    let alone = one.run(&["checkpoint"]).expect_code(1);
    assert!(alone.stderr.contains("no checkpoint was made"), "{alone:?}");
    assert_eq!(
        one.run(&["checkpoint", "--list"]).expect_code(0).stdout,
        "no checkpoint yet; `kinfold checkpoint` makes one\n"
    );
    pair(&one, &two);
    let first = one.up(&[]);
    let second = two.up(&["--peer", &first.listening]);
    one.run(&["put", "registry:note", "n", "1"]).expect_code(0);
    for home in [&one, &two] {
        home.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    }

    let begun = std::time::Instant::now();
    let made = loop {
        let made = one.run(&["checkpoint"]);
        if made.code == 0 && made.stdout.contains("attested by") && made.stdout.contains("two") {
            break made.stdout;
        }
        assert!(begun.elapsed() < crate::kin::PATIENCE, "{made:?}");
    };
    assert!(made.contains("checkpoint") && made.contains("of 1 ops") && made.contains("chunks"), "{made}");
    let listed = one.json(&["checkpoint", "--list"]);
    assert_eq!(listed["checkpoints"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["checkpoints"][0]["attested_by"].as_array().unwrap().len(), 2, "{listed}");
    let shown = two.run(&["checkpoint", "--list"]).expect_code(0).stdout;
    assert!(shown.contains("whole"), "{shown}");
    assert_eq!((first.terminate(), second.terminate()), (0, 0));
}
