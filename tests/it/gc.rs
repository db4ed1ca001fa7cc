//! History that is dropped once everybody has attested what it came to, between real devices.

use kinfold::model::{DeviceId, Payload};
use kinfold::node::{Activity, CheckpointInfo, Custody, Grace, NewOp, Node, NodeError};
use kinfold::roster::Role;
use kinfold::sync::GcHold;
use serde_json::json;

use crate::kin::Home;
use crate::pair::{Device, PATIENCE, device, introduce, invite, note};

/// Two devices that read and one that does not, each connected to the first, with some history: rows that
/// are written over and over, one that is removed, facts, events and a run.
async fn three() -> (Device, Device, Device) {
    let (a, b, blind) = (device("a").await, device("b").await, device("blind").await);
    introduce(&a.node, &b.node).await;
    invite(&a.node, &blind.node, "blind", Role::Blind).await;
    blind.node.start().await.unwrap();
    blind.node.add_peer(a.node.local_addr().unwrap().to_string()).await.unwrap();
    write(&a.node, 0..400).await;
    let space = a.node.personal();
    let mut ops = vec![NewOp::Delete { surface: note(), key: "row 7".to_owned() }];
    ops.extend((0..20).map(|n| {
        let payload = Payload::parse(&json!({ "n": n }).to_string()).unwrap();
        NewOp::Event { surface: "routing".parse().unwrap(), stream: "one".to_owned(), payload }
    }));
    space.append(ops).await.unwrap();
    settled(&[&a.node, &b.node, &blind.node]).await;
    (a, b, blind)
}

async fn write(node: &Node, rows: std::ops::Range<u32>) {
    for row in rows {
        let key = format!("row {}", row % 50);
        let text = format!("value {row} of a row, {}", "which is long ".repeat(40));
        node.personal().put("registry:note", &key, json!({ "text": text })).await.unwrap();
    }
}

/// Waits until each has what the others have, durably.
async fn settled(nodes: &[&Node]) {
    for node in nodes {
        let held = node.wait_all(Custody::on(u32::try_from(nodes.len() - 1).unwrap()));
        tokio::time::timeout(PATIENCE, held).await.expect("in time").unwrap();
    }
}

/// A checkpoint of everything that was written, whole on every device and attested by those that read.
async fn attested(nodes: &[&Node], readers: usize) -> CheckpointInfo {
    let op_count = nodes[0].status().await.unwrap().op_count;
    let wait = async {
        let made = loop {
            match nodes[0].personal().checkpoint().await {
                Ok(published) if published.checkpoint.op_count >= op_count => break published.checkpoint,
                Ok(_) | Err(NodeError::NoCheckpoint { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            nodes[0].sync().await.unwrap();
        };
        let is_there = |node: &Node| {
            let newest = node.personal().checkpoints().unwrap().into_iter().next();
            newest.is_some_and(|held| {
                held.hash == made.hash && held.is_whole && held.attested_by.len() == readers
            })
        };
        while !nodes.iter().all(|node| is_there(node)) {
            for node in nodes {
                node.personal().exchange_checkpoints().await.unwrap();
            }
        }
        made
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("in time")
}

/// Every value as it is shown, with its op's name and stamp.
fn values(node: &Node) -> Vec<String> {
    let space = node.personal();
    let rows = space.list(&note(), None, 1_000).unwrap();
    let events = space.events(&"routing".parse().unwrap(), "one", None, 1_000).unwrap();
    let rows = rows.iter().map(|row| format!("{} {:?}", row.key, row.shown));
    rows.chain(events.iter().map(|event| format!("{event:?}"))).collect()
}

async fn equal_roots(a: &Node, b: &Node) {
    crate::pair::until(a, || (a.personal().root() == b.personal().root()).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_goes_once_all_have_attested_it_and_everything_can_still_be_read() {
    let (a, b, blind) = three().await;
    let (before, root) = (values(&a.node), a.node.personal().root());
    assert_eq!(before.len(), 49 + 20);
    let nodes = [&a.node, &b.node, &blind.node];
    let positions = a.node.personal().positions().unwrap();
    let early: kinfold::model::Positions = positions.iter().map(|(log, _)| (*log, seq(3))).collect();
    let made = attested(&nodes, 2).await;

    let held = a.node.personal().gc_run(Grace::Kept).await;
    assert!(
        matches!(&held, Err(NodeError::GcHeld { holds }) if matches!(holds[..], [GcHold::Grace { .. }])),
        "{held:?}"
    );
    for node in nodes {
        let why = node.personal().gc_why().await.unwrap();
        assert!(why.ops >= 420 && why.bytes > 10_000 && why.base.is_none(), "{why:?}");
        let dropped = node.personal().gc_run(Grace::Waived).await.unwrap();
        assert_eq!((dropped.base, dropped.ops), (made.hash, why.ops));
        assert!(dropped.bytes_after < dropped.bytes_before, "{dropped:?}");
        let again = node.personal().gc_why().await.unwrap();
        assert_eq!((again.base, &again.holds[..]), (Some(made.hash), &[GcHold::NothingNew][..]));
    }

    // Everything that was shown is, and on what is gone there is a clear word.
    assert_eq!(values(&a.node), before);
    assert_eq!(values(&b.node), before);
    assert_eq!(b.node.personal().root(), root);
    let past = a.node.personal().state_at(early).await;
    assert!(matches!(past, Err(NodeError::BeforeBase { checkpoint }) if checkpoint == made.hash));
    let moment = a.node.personal().positions_at(1).await;
    assert!(matches!(moment, Err(NodeError::BeforeBase { .. })));
    assert_eq!(a.node.personal().state_at(positions.clone()).await.unwrap().root(), root);
    let file = tempfile::tempdir().unwrap();
    let bundle = a.node.personal().export_bundle(&file.path().join("all"), None, |_| {}).await.unwrap();
    assert_eq!((bundle.checkpoint, bundle.ops), (Some(made.hash), 0));
    let bookmark = kinfold::node::Bookmark {
        space: a.node.personal().id(),
        truncations: 0,
        frontier: Default::default(),
    };
    let follower = a.node.personal().follow(Some(bookmark)).await;
    assert!(matches!(follower.err(), Some(NodeError::BeforeBase { .. })));

    // It goes on: new ops, later batches of the same logs, a restart, folding anew, another round.
    write(&b.node, 400..420).await;
    write(&a.node, 420..430).await;
    settled(&nodes).await;
    equal_roots(&a.node, &b.node).await;
    a.node.personal().refold().await.unwrap();
    let after = values(&b.node);
    assert_eq!(values(&a.node), after);
    for device in [&a, &b, &blind] {
        device.node.stop().await.unwrap();
    }
    let (a, b, blind) = (a.again().await, b.again().await, blind.again().await);
    assert_eq!(values(&a.node), after);
    assert_eq!(a.node.personal().root(), b.node.personal().root());
    for node in [&a.node, &b.node, &blind.node] {
        node.start().await.unwrap();
    }
    for node in [&b.node, &blind.node] {
        node.add_peer(a.node.local_addr().unwrap().to_string()).await.unwrap();
    }
    write(&b.node, 430..500).await;
    let nodes = [&a.node, &b.node, &blind.node];
    settled(&nodes).await;
    let next = attested(&nodes, 2).await;
    for node in nodes {
        assert_eq!(node.personal().gc_run(Grace::Waived).await.unwrap().base, next.hash);
    }
    let kept: Vec<_> = a.node.personal().checkpoints().unwrap().into_iter().map(|held| held.hash).collect();
    assert_eq!(kept, [next.hash, made.hash], "the base and the one before");
    equal_roots(&a.node, &b.node).await;
    assert_eq!(values(&a.node), values(&b.node));
    let status = blind.node.status().await.unwrap();
    assert_eq!((status.base, status.logged_count), (Some(next.hash), 0));
    for device in [a, b, blind] {
        device.node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_makes_checkpoints_and_drops_history_by_itself() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("home");
    Node::init(&path, "one").unwrap();
    std::fs::write(path.join("config.toml"), "gc.grace_days = 0\n").unwrap();
    let settings = kinfold::config::ConfigFile::of(&path).read().unwrap();
    let node = Node::builder(&path).settings(settings).open().await.unwrap();
    let space = node.personal();
    let put = |n: u32| {
        let payload = Payload::parse(&n.to_string()).unwrap();
        NewOp::Put { surface: note(), key: format!("row {}", n % 100), payload }
    };
    space.append((0..9_000).map(put).collect()).await.unwrap();
    space.tend_history().await.unwrap();
    assert_eq!(space.checkpoints().unwrap().len(), 0, "that is not worth a checkpoint yet");

    space.append((9_000..12_000).map(put).collect()).await.unwrap();
    space.tend_history().await.unwrap();

    let status = node.status().await.unwrap();
    assert_eq!((status.logged_count, status.op_count), (0, 12_000));
    assert_eq!(status.base, space.checkpoints().unwrap().first().map(|held| held.hash));
    assert_eq!(space.list(&note(), None, 1_000).unwrap().len(), 100);
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn history_goes_after_its_days_though_there_is_a_newer_checkpoint_every_day() {
    const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3_600);
    let (a, b) = (device("a").await, device("b").await);
    introduce(&a.node, &b.node).await;
    let nodes = [&a.node, &b.node];
    let (mut made, mut dropped) = (Vec::new(), Vec::new());
    for day in 0..17_u32 {
        write(&a.node, day * 10..day * 10 + 3).await;
        settled(&nodes).await;
        made.push(attested(&nodes, 2).await.hash);
        let done = a.node.personal().gc_run(Grace::Kept).await;
        match done {
            Ok(done) => dropped.push((day, done.base)),
            Err(NodeError::GcHeld { holds }) => {
                assert!(matches!(holds[..], [GcHold::Grace { .. }]), "{holds:?}");
                let why = a.node.personal().gc_why().await.unwrap();
                assert_eq!(why.if_waived.map(|info| info.hash), made.last().copied());
            }
            Err(error) => panic!("{error}"),
        }
        let kept = a.node.personal().checkpoints().unwrap().len();
        assert!(kept <= 6, "{kept} checkpoints on day {day}");
        a.node.personal().pass_grace(DAY).unwrap();
    }

    assert_eq!(dropped, [(7, made[0]), (13, made[6])]);
    for device in [a, b] {
        device.node.stop().await.unwrap();
    }
}

const fn seq(n: u64) -> kinfold::model::Seq {
    kinfold::model::Seq::new(n)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_away_holds_history_back_by_name_until_it_is_not_waited_for() {
    let (a, b, blind) = three().await;
    let made = attested(&[&a.node, &b.node, &blind.node], 2).await;
    // What is written now, only a knows.
    b.node.stop().await.unwrap();
    blind.node.stop().await.unwrap();
    write(&a.node, 400..410).await;
    let holders = |holds: &[GcHold]| -> Vec<DeviceId> {
        let of = |hold: &GcHold| match hold {
            GcHold::Unattested { device, .. } | GcHold::NotHeld { device, .. } => Some(*device),
            _ => None,
        };
        holds.iter().filter_map(of).collect()
    };
    let why = a.node.personal().gc_why().await.unwrap();
    assert_eq!(why.checkpoint.as_ref().map(|held| held.hash), Some(made.hash));
    assert!(holders(&why.holds).is_empty(), "both had attested or held it: {why:?}");

    assert_eq!(a.node.personal().gc_run(Grace::Waived).await.unwrap().base, made.hash);

    // Neither is waited for: a goes on alone, and then the next checkpoint is not theirs.
    for device in [b.node.device(), blind.node.device()] {
        a.node.personal().set_activity(device, Activity::Dormant).await.unwrap();
    }
    attested(&[&a.node], 1).await;
    for device in [b.node.device(), blind.node.device()] {
        a.node.personal().set_activity(device, Activity::Active).await.unwrap();
    }
    let why = a.node.personal().gc_why().await.unwrap();
    let mut found = holders(&why.holds);
    let mut expected = vec![b.node.device(), blind.node.device()];
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert!(matches!(
        a.node.personal().gc_run(Grace::Waived).await,
        Err(NodeError::GcHeld { holds }) if holders(&holds).len() == 2
    ));
    a.node.stop().await.unwrap();
}

#[test]
fn a_person_asks_what_holds_history_back_and_drops_it() {
    let home = Home::init("one");
    let none = home.run(&["gc", "why"]).expect_code(0).stdout;
    assert!(none.contains("begins with the first op") && none.contains("`kinfold checkpoint`"), "{none}");
    home.run(&["gc", "run", "--now", "--yes", "x"]).expect_code(1).says("kinfold gc why");
    let rows: String = (0..3_000)
        .map(|n| {
            format!(
                "{}\n",
                json!({"surface": "registry:note", "payload": {"id": format!("k{}", n % 100), "n": n}})
            )
        })
        .collect();
    home.run_with(&["import", "-"], rows.as_bytes()).expect_code(0);
    home.run(&["checkpoint"]).expect_code(0);
    let root = home.json(&["status"])["state_hash"].clone();

    let why = home.run(&["gc", "why"]).expect_code(0).stdout;
    assert!(why.contains("3,000 ops") && why.contains("all have attested it; it goes on 2"), "{why}");
    let told = home.json(&["gc", "why"]);
    assert_eq!((&told["ready"], &told["holds"][0]["reason"]), (&json!(false), &json!("Grace")));
    home.run(&["gc", "run"]).expect_code(1).says("kinfold gc why");
    let hash = told["checkpoint"]["hash"].as_str().unwrap().to_owned();
    home.run(&["gc", "run", "--now"]).expect_code(1).says(&hash[..12]);
    home.run(&["gc", "run", "--now", "--yes", "nothing"]).expect_code(1);
    let dropped = home.run(&["gc", "run", "--now", "--yes", &hash[..12]]).expect_code(0).stdout;
    assert!(dropped.contains("dropped  3,000 ops"), "{dropped}");

    let status = home.json(&["status"]);
    assert_eq!((&status["base_checkpoint"], &status["state_hash"]), (&json!(hash), &root));
    assert_eq!((&status["logged_ops"], &status["ops"]), (&json!(0), &json!(3_000)));
    let shown = home.run(&["status"]).expect_code(0).stdout;
    assert!(shown.contains(&format!("begins with checkpoint {}", &hash[..12])), "{shown}");
    assert_eq!(home.json(&["get", "registry:note", "k7"])["payload"]["n"], 2_907);
    home.run(&["put", "registry:note", "k7", "1"]).expect_code(0);
    assert_eq!(home.json(&["get", "registry:note", "k7"])["payload"], 1);
    home.run(&["verify", "--refold"]).expect_code(0);
    assert!(
        home.run(&["gc", "why"])
            .expect_code(0)
            .stdout
            .contains("nothing to drop: that is the newest checkpoint")
    );
}

#[test]
fn the_days_that_history_stays_are_a_setting() {
    let home = Home::init("one");
    home.run(&["put", "registry:note", "k", "1"]).expect_code(0);
    home.run(&["checkpoint"]).expect_code(0);
    assert_eq!(home.json(&["gc", "why"])["ready"], false);

    home.run(&["config", "set", "gc.grace_days", "0"]).expect_code(0);

    assert_eq!(home.json(&["gc", "why"])["ready"], true);
    assert!(home.run(&["gc", "why"]).expect_code(0).stdout.contains("ready"));
    home.run(&["gc", "run"]).expect_code(0);
}
