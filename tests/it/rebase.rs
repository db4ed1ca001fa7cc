//! Devices that begin with a checkpoint: new ones, and those that were away while the others dropped what they
//! lack.

use kinfold::node::{Activity, CheckpointInfo, Consent, Custody, HealthReason, Node, NodeError, WhyWaiting};
use kinfold::roster::Role;
use serde_json::json;

use crate::kin::{Home, pair};
use crate::pair::{Device, device, introduce, invite, note};

/// Only a hang takes longer: rounds in which a device waits for a checkpoint take seconds each.
pub const LONG: std::time::Duration = std::time::Duration::from_secs(240);

pub async fn write(node: &Node, name: &str, rows: std::ops::Range<u32>) {
    for row in rows {
        let key = format!("{name} {}", row % 200);
        let text = format!("value {row} of a row by {name}");
        node.personal().put("registry:note", &key, json!({ "text": text })).await.unwrap();
    }
}

pub async fn settle(node: &Node, devices: u32) {
    let held = node.wait_all(Custody::on(devices));
    tokio::time::timeout(LONG, held).await.expect("in time").unwrap();
}

/// Tries until something is so, which takes rounds and no time.
pub async fn until<T>(node: &Node, check: impl AsyncFn() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            node.sync().await.unwrap();
        }
    };
    tokio::time::timeout(LONG, wait).await.expect("in time")
}

pub async fn until_equal(one: &Node, other: &Node) {
    until(one, async || {
        let (ours, theirs) = (one.status().await.unwrap(), other.status().await.unwrap());
        (ours.op_count == theirs.op_count && ours.state_hash == theirs.state_hash).then_some(())
    })
    .await;
}

/// Makes a checkpoint of everything that was written, and waits until so many attest it here.
pub async fn publish(node: &Node, op_count: u64, attested: usize) -> CheckpointInfo {
    until(node, async || {
        match node.personal().checkpoint().await {
            Ok(published) if published.checkpoint.op_count >= op_count => {}
            Ok(_) | Err(NodeError::NoCheckpoint { .. }) => return None,
            Err(error) => panic!("{error}"),
        }
        node.personal().exchange_checkpoints().await.unwrap();
        let newest = node.personal().checkpoints().unwrap().swap_remove(0);
        (newest.attested_by.len() >= attested).then_some(newest)
    })
    .await
}

/// Has a node drop what a checkpoint holds, once that is whole there.
pub async fn drop_history(node: &Node, made: &CheckpointInfo) {
    until(node, async || {
        node.personal().exchange_checkpoints().await.unwrap();
        let newest = node.personal().checkpoints().unwrap().swap_remove(0);
        (newest.hash == made.hash && newest.is_whole).then_some(())
    })
    .await;
    node.personal().trim().await.unwrap();
}

pub async fn connect(node: &Node, to: &[&Node]) {
    node.start().await.unwrap();
    for other in to {
        node.add_peer(other.local_addr().unwrap().to_string()).await.unwrap();
    }
}

/// Two devices, and one that was with them for a while and then went away.
pub async fn two_and_one_away() -> (Device, Device, Device) {
    let (a, b, c) = (device("a").await, device("b").await, device("c").await);
    introduce(&a.node, &b.node).await;
    invite(&a.node, &c.node, "c", Role::Member).await;
    connect(&c.node, &[&a.node]).await;
    write(&a.node, "a", 0..50).await;
    settle(&a.node, 2).await;
    write(&c.node, "c", 0..20).await;
    settle(&c.node, 2).await;
    c.node.stop().await.unwrap();
    let c = c.again().await;
    a.node.personal().set_activity(c.node.device(), Activity::Dormant).await.unwrap();
    (a, b, c)
}

/// Two devices, one of which has dropped what both attest, and one that it has invited and that has met nobody.
pub async fn two_and_a_newcomer() -> (Device, Device, Device, CheckpointInfo) {
    let (a, b, c) = (device("a").await, device("b").await, device("c").await);
    introduce(&a.node, &b.node).await;
    write(&a.node, "a", 0..300).await;
    settle(&a.node, 1).await;
    let made = publish(&a.node, 300, 2).await;
    a.node.personal().trim().await.unwrap();
    invite(&a.node, &c.node, "c", Role::Member).await;
    (a, b, c, made)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_missed_what_the_others_dropped_comes_back_with_what_it_wrote_meanwhile() {
    let (a, b, c) = two_and_one_away().await;
    write(&c.node, "c", 20..70).await;
    c.node.personal().put("registry:note", "a 7", json!("seen and changed while away")).await.unwrap();
    c.node.personal().put("registry:note", "c 3", json!("written where it was removed")).await.unwrap();
    a.node.personal().remove(&note(), "c 3").await.unwrap();
    write(&a.node, "a", 50..500).await;
    write(&b.node, "b", 0..100).await;
    settle(&a.node, 1).await;
    settle(&b.node, 1).await;
    let made = publish(&a.node, 50 + 20 + 1 + 450 + 100, 2).await;
    for node in [&a.node, &b.node] {
        drop_history(node, &made).await;
    }
    assert!(a.node.personal().adopted().unwrap().is_none(), "it was folded here");

    connect(&c.node, &[&a.node, &b.node]).await;
    until_equal(&c.node, &a.node).await;
    until_equal(&b.node, &c.node).await;

    let status = c.node.status().await.unwrap();
    assert_eq!(status.op_count, 50 + 20 + 1 + 450 + 100 + 52);
    assert_eq!((status.base, status.waiting, status.health.as_slice()), (Some(made.hash), None, &[][..]));
    let adopted = status.adopted.expect("not folded here");
    assert_eq!((adopted.checkpoint, adopted.attested_by.len()), (made.hash, 2));
    assert!(a.node.personal().get(&note(), "c 69").unwrap().is_some(), "what c wrote while it was away");
    for node in [&a.node, &b.node, &c.node] {
        assert!(node.personal().get(&note(), "c 3").unwrap().is_none(), "what was deleted stays deleted");
        let open = node.personal().conflicts(None, 9).unwrap();
        let open: Vec<_> = open.iter().filter(|row| row.key == "c 3").collect();
        assert!(matches!(&open[..], [row] if row.others.len() == 1 && row.others[0].is_late), "{open:?}");
    }
    assert!(c.node.personal().get(&note(), "b 99").unwrap().is_some());
    // It is waited for again, by its own word.
    until(&a.node, async || {
        let devices = a.node.status().await.unwrap().devices;
        devices.iter().any(|device| device.device == c.node.device() && !device.is_dormant).then_some(())
    })
    .await;
    // What was begun with is there after a restart, and what comes next is folded onto it.
    let root = c.node.personal().root();
    c.node.stop().await.unwrap();
    let c = c.again().await;
    assert_eq!(c.node.personal().root(), root);
    connect(&c.node, &[&a.node]).await;
    write(&a.node, "a", 500..510).await;
    until_equal(&c.node, &a.node).await;
    for device in [a, b, c] {
        device.node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_device_begins_with_a_checkpoint_that_two_attest_and_does_not_ask_for_what_it_holds() {
    let (a, b, c) = (device("a").await, device("b").await, device("c").await);
    introduce(&a.node, &b.node).await;
    write(&a.node, "a", 0..1_000).await;
    settle(&a.node, 1).await;
    let made = publish(&a.node, 1_000, 2).await;
    write(&a.node, "a", 1_000..1_010).await;
    settle(&a.node, 1).await;
    c.node.personal().put("registry:note", "own", json!("before it joined")).await.unwrap();

    invite(&a.node, &c.node, "c", Role::Member).await;
    connect(&c.node, &[&a.node]).await;
    until_equal(&c.node, &a.node).await;

    let status = c.node.status().await.unwrap();
    assert_eq!((status.base, status.op_count), (Some(made.hash), 1_011));
    assert_eq!(c.node.personal().chunks_fetched(), made.chunk_count);
    let received = c.node.personal().ops_received().await.unwrap();
    assert_eq!(received, 10, "only what came after it");
    assert_eq!(c.node.personal().root(), a.node.personal().root());
    for device in [a, b, c] {
        device.node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_only_stores_begins_with_a_checkpoint_that_two_attest() {
    let (a, b, blind) = (device("a").await, device("b").await, device("blind").await);
    introduce(&a.node, &b.node).await;
    write(&a.node, "a", 0..600).await;
    settle(&a.node, 1).await;
    let made = publish(&a.node, 600, 2).await;
    for node in [&a.node, &b.node] {
        until(node, async || {
            node.personal().exchange_checkpoints().await.unwrap();
            let held = node.personal().checkpoints().unwrap();
            held.first().is_some_and(|held| held.hash == made.hash && held.is_whole).then_some(())
        })
        .await;
        node.personal().trim().await.unwrap();
    }

    invite(&a.node, &blind.node, "blind", Role::Blind).await;
    connect(&blind.node, &[&a.node]).await;
    settle(&a.node, 2).await;

    let status = blind.node.status().await.unwrap();
    assert_eq!((status.base, status.op_count), (Some(made.hash), 600));
    for device in [a, b, blind] {
        device.node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_device_alone_attests_waits_for_a_second_one_or_for_a_person() {
    let (a, c) = (device("a").await, device("c").await);
    write(&a.node, "a", 0..300).await;
    a.node.start().await.unwrap();
    let made = publish(&a.node, 300, 1).await;
    a.node.personal().trim().await.unwrap();

    invite(&a.node, &c.node, "c", Role::Member).await;
    connect(&c.node, &[&a.node]).await;
    let waiting = until(&c.node, async || c.node.status().await.unwrap().waiting).await;

    assert_eq!(
        (waiting.checkpoint, waiting.why),
        (made.hash, WhyWaiting::Unattested { attested: 1, needed: 2 })
    );
    assert_eq!(waiting.attested_by, [a.node.device()]);
    let status = c.node.status().await.unwrap();
    assert_eq!((status.row_count, status.base), (0, None), "no part of it is shown");
    let is_told = |reason: &HealthReason| matches!(reason, HealthReason::BaseWaiting { .. });
    assert!(status.health.iter().any(is_told), "{:?}", status.health);
    assert!(c.node.personal().rebase(Consent::Attested).await.unwrap().waiting.is_some());

    let rebased = c.node.personal().rebase(Consent::Given).await.unwrap();
    assert_eq!((rebased.is_new, rebased.base, rebased.waiting), (true, Some(made.hash), None));
    until_equal(&c.node, &a.node).await;
    assert_eq!(c.node.status().await.unwrap().health, []);
    for device in [a, c] {
        device.node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_is_not_what_it_says_is_not_begun_with_even_where_a_person_says_so() {
    let (a, c) = (device("a").await, device("c").await);
    write(&a.node, "a", 0..300).await;
    a.node.start().await.unwrap();
    publish(&a.node, 300, 1).await;
    write(&a.node, "a", 300..310).await;
    let forged = until(&a.node, async || {
        let forged = a.node.personal().forge_checkpoint().await.unwrap();
        let newest = a.node.personal().checkpoints().unwrap().swap_remove(0);
        (newest.hash == forged && newest.op_count == 310).then_some(forged)
    })
    .await;
    a.node.personal().trim().await.unwrap();

    invite(&a.node, &c.node, "c", Role::Member).await;
    connect(&c.node, &[&a.node]).await;
    until(&c.node, async || {
        let waiting = c.node.status().await.unwrap().waiting;
        waiting.filter(|waiting| waiting.checkpoint == forged)
    })
    .await;
    let rebased = c.node.personal().rebase(Consent::Given).await.unwrap();

    assert_eq!((rebased.is_new, rebased.base), (false, None));
    assert_eq!(rebased.waiting.map(|waiting| waiting.why), Some(WhyWaiting::Content));
    let status = c.node.status().await.unwrap();
    assert_eq!((status.row_count, status.op_count), (0, 0));
    assert!(c.node.personal().checkpoints().unwrap().is_empty(), "nothing of it is kept");
    for device in [a, c] {
        device.node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_that_is_cut_off_shows_nothing_and_goes_on_with_another_device() {
    let (a, b, c) = two_and_one_away().await;
    write(&a.node, "a", 50..1_500).await;
    write(&b.node, "b", 0..50).await;
    settle(&a.node, 1).await;
    settle(&b.node, 1).await;
    let made = publish(&a.node, 50 + 20 + 1_450 + 50, 2).await;
    for node in [&a.node, &b.node] {
        until(node, async || {
            node.personal().exchange_checkpoints().await.unwrap();
            let held = node.personal().checkpoints().unwrap();
            held.first().is_some_and(|held| held.hash == made.hash && held.is_whole).then_some(())
        })
        .await;
        node.personal().trim().await.unwrap();
    }
    let before = c.node.personal().root();
    assert!(made.chunk_count > 1);
    c.node.personal().cut_off_after(Some(1));

    connect(&c.node, &[&a.node]).await;
    let why = until(&c.node, async || {
        let waiting = c.node.status().await.unwrap().waiting?;
        (c.node.personal().chunks_fetched() == 1).then_some(waiting.why)
    })
    .await;
    assert!(
        matches!(why, WhyWaiting::Fetching { missing } if missing as u64 == made.chunk_count - 1),
        "{why:?}"
    );
    assert_eq!(c.node.personal().root(), before, "no half of it is shown");

    // The node ends in the middle, and the one that gave the chunks is gone.
    c.node.stop().await.unwrap();
    a.node.stop().await.unwrap();
    let c = c.again().await;
    assert_eq!(c.node.personal().root(), before);
    connect(&c.node, &[&b.node]).await;
    until_equal(&c.node, &b.node).await;

    assert_eq!(
        c.node.personal().chunks_fetched(),
        made.chunk_count - 1,
        "what was here is not fetched again"
    );
    assert_eq!(c.node.status().await.unwrap().base, Some(made.hash));
    for device in [b, c] {
        device.node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_removed_meanwhile_is_given_no_checkpoint() {
    let (a, b, c) = two_and_one_away().await;
    write(&a.node, "a", 50..300).await;
    settle(&a.node, 1).await;
    let made = publish(&a.node, 50 + 20 + 250, 2).await;
    a.node.personal().trim().await.unwrap();
    let before = c.node.personal().root();
    a.node.personal().revoke(c.node.device()).await.unwrap();

    connect(&c.node, &[&a.node]).await;
    let round = c.node.sync_with(&[a.node.device()]).await.unwrap();
    let rebased = c.node.personal().rebase(Consent::Given).await.unwrap();

    assert_eq!((round.absent, made.attested_by.len()), (vec![a.node.device()], 2));
    assert_eq!((rebased.is_new, rebased.base, rebased.waiting), (false, None, None));
    assert_eq!((c.node.personal().root(), c.node.personal().checkpoints().unwrap()), (before, Vec::new()));
    for device in [a, b, c] {
        device.node.stop().await.unwrap();
    }
}

/// A device wakes, has a round with its drop box, does something, leaves what is new, and sleeps again.
async fn awake<T>(device: Device, deed: impl AsyncFnOnce(&Node) -> T) -> (Device, T) {
    device.node.start().await.unwrap();
    device.node.sync().await.unwrap();
    let done = deed(&device.node).await;
    device.node.sync().await.unwrap();
    device.node.stop().await.unwrap();
    (device.again().await, done)
}

/// The objects in a drop box that hold the beginning of a log.
fn beginnings(folder: &std::path::Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let within = entry.unwrap().path();
        if within.is_dir() {
            let files = std::fs::read_dir(within).unwrap();
            names.extend(files.map(|file| file.unwrap().file_name().into_string().unwrap()));
        }
    }
    names.retain(|name| {
        let kind = kinfold::dropbox::ObjectName::parse(name).map(|name| name.kind);
        matches!(kind, Some(kinfold::dropbox::Kind::Batches { first, .. }) if first.get() == 1)
    });
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_are_never_awake_together_drop_history_and_one_that_was_away_begins_behind_it() {
    let folder = tempfile::TempDir::new().unwrap();
    let (a, b, c) = (device("a").await, device("b").await, device("c").await);
    invite(&a.node, &b.node, "b", Role::Admin).await;
    invite(&a.node, &c.node, "c", Role::Member).await;
    for node in [&a.node, &b.node, &c.node] {
        node.add_dropbox(folder.path().to_str().unwrap(), kinfold::model::Scope::Personal).await.unwrap();
    }
    let away = c.node.device();
    let (a, ()) = awake(a, async |node| write(node, "a", 0..100).await).await;
    let (b, ()) = awake(b, async |node| write(node, "b", 0..100).await).await;
    let (c, ()) = awake(c, async |node| write(node, "c", 0..20).await).await;
    let (a, ()) = awake(a, async |node| {
        node.personal().set_activity(away, Activity::Dormant).await.unwrap();
        write(node, "a", 100..300).await;
    })
    .await;
    let (b, ()) = awake(b, async |node| write(node, "b", 100..150).await).await;
    write(&c.node, "c", 20..60).await;
    assert!(beginnings(folder.path()).len() >= 3);

    // One makes a checkpoint, the other attests it when it wakes, and both drop what it holds.
    let (a, made) = awake(a, async |node| node.personal().checkpoint().await.unwrap().checkpoint).await;
    let (b, ()) = awake(b, async |_| ()).await;
    let (a, ()) = awake(a, async |node| {
        let newest = node.personal().checkpoints().unwrap().swap_remove(0);
        assert_eq!((newest.hash, newest.attested_by.len()), (made.hash, 2));
        node.personal().trim().await.unwrap();
    })
    .await;
    let (b, _) = awake(b, async |node| node.personal().trim().await.unwrap()).await;
    let (a, ()) = awake(a, async |_| ()).await;

    let (c, status) = awake(c, async |node| node.status().await.unwrap()).await;
    assert_eq!((status.base, status.waiting), (Some(made.hash), None));
    let (a, at_a) = awake(a, async |node| node.status().await.unwrap()).await;
    let (b, at_b) = awake(b, async |node| node.status().await.unwrap()).await;
    let (c, at_c) = awake(c, async |node| node.status().await.unwrap()).await;

    assert_eq!((at_a.op_count, at_b.op_count, at_c.op_count), (510, 510, 510));
    assert_eq!((at_a.state_hash, at_b.state_hash), (at_c.state_hash, at_c.state_hash));
    assert!(at_b.devices.iter().all(|device| !device.is_dormant), "by its own word");
    assert_eq!(beginnings(folder.path()), Vec::<String>::new(), "what the checkpoint holds has gone");
    drop((a, b, c));
}

#[test]
fn a_person_is_told_what_is_waited_for_and_may_say_that_one_will_do() {
    let (one, two) = (Home::init("one"), Home::init("two"));
    let alone = one.up(&[]);
    for row in 0..5 {
        one.run(&["put", "registry:note", &format!("n {row}"), "1"]).expect_code(0);
    }
    let nothing = one.run(&["rebase"]).expect_code(0).stdout;
    assert!(nothing.contains("nothing to do"), "{nothing}");
    let begun = std::time::Instant::now();
    let made = loop {
        let made = one.run(&["--json", "checkpoint"]);
        if made.code == 0 {
            break serde_json::from_str::<serde_json::Value>(&made.stdout).unwrap();
        }
        assert!(begun.elapsed() < LONG, "{made:?}");
    };
    let name: String = made["checkpoint_hash"].as_str().unwrap().chars().take(12).collect();
    one.run(&["gc", "run", "--now", "--yes", &name]).expect_code(0);
    assert_eq!(alone.terminate(), 0);
    pair(&one, &two);
    let nobody = two.run(&["rebase", "--timeout", "1s"]).expect_code(75);
    assert!(nobody.stderr.contains("no other device was reached"), "{nobody:?}");

    let first = one.up(&[]);
    let second = two.up(&["--peer", &first.listening]);
    let waiting = loop {
        let waiting = two.run(&["rebase"]);
        if waiting.stdout.contains("waiting") {
            break waiting.expect_code(75);
        }
        assert!(begun.elapsed() < LONG, "{waiting:?}");
    };
    assert!(waiting.stdout.contains("attested by one; 2 devices are asked for"), "{waiting:?}");
    assert!(waiting.stderr.contains("kinfold rebase --yes"), "{waiting:?}");
    let status = two.run(&["status"]).expect_code(0).stdout;
    assert!(status.contains("waiting") && status.contains("kinfold rebase --yes"), "{status}");
    let listed = two.json(&["status"]);
    assert_eq!((&listed["rows"], &listed["waiting"]["kind"]), (&json!(0), &json!("Unattested")), "{listed}");

    let rebased = two.run(&["rebase", "--yes"]).expect_code(0).stdout;

    assert!(rebased.contains("rebased"), "{rebased}");
    let status = two.run(&["status"]).expect_code(0).stdout;
    assert!(status.contains("adopted, not computed here; computed by one"), "{status}");
    assert_eq!(two.json(&["status"])["rows"], json!(5));
    let again = two.run(&["rebase"]).expect_code(0).stdout;
    assert!(again.contains("nothing to do: the history here begins with checkpoint"), "{again}");
    assert_eq!((first.terminate(), second.terminate()), (0, 0));
}
