//! A checkpoint that goes by hand, in a bundle, to a device that lacks what was dropped.

use std::fs;

use kinfold::model::Scope;
use kinfold::node::{Consent, Missing, WhyWaiting};
use kinfold::roster::Role;
use kinfold::wire::BundleHead;
use kinfold::wire::bundle::ChunkKind;
use serde_json::json;

use crate::kin::Home;
use crate::members::enrol;
use crate::rebase::{LONG, connect, publish, settle, two_and_a_newcomer, two_and_one_away, until, write};

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_missed_what_was_dropped_gets_it_in_a_file_and_gives_back_what_it_wrote() {
    let (a, b, c) = two_and_one_away().await;
    write(&c.node, "c", 20..70).await;
    write(&a.node, "a", 50..500).await;
    settle(&a.node, 1).await;
    let made = publish(&a.node, 50 + 20 + 450, 2).await;
    a.node.personal().trim().await.unwrap();
    write(&a.node, "after", 0..10).await;
    let folder = tempfile::tempdir().unwrap();
    let (there, back) = (folder.path().join("there"), folder.path().join("back"));

    let exported = a.node.personal().export_bundle(&there, Some(c.node.device()), |_| {}).await.unwrap();
    assert_eq!((exported.checkpoint, exported.checkpoint_ops), (Some(made.hash), 520));
    assert_eq!(exported.ops, 10, "the rest is in the checkpoint");
    let taken = c.node.import_bundle(&there, Consent::Attested, |_| {}).await.unwrap();

    assert!(taken.is_whole(), "{taken:?}");
    assert_eq!((taken.began_with, taken.ops), (Some(made.hash), 10));
    let status = c.node.status().await.unwrap();
    assert_eq!((status.base, status.op_count), (Some(made.hash), 520 + 50 + 10));
    assert!(status.adopted.is_some_and(|adopted| adopted.attested_by.len() == 2));
    let read = |key: &str| c.node.personal().get(&crate::pair::note(), key).unwrap().is_some();
    assert!(read("c 69") && read("a 199") && read("after 9"));
    c.node.personal().export_bundle(&back, Some(a.node.device()), |_| {}).await.unwrap();
    a.node.import_bundle(&back, Consent::Attested, |_| {}).await.unwrap();
    assert_eq!(a.node.status().await.unwrap().state_hash, c.node.status().await.unwrap().state_hash);

    let again = c.node.import_bundle(&there, Consent::Attested, |_| {}).await.unwrap();
    assert_eq!((again.is_whole(), again.began_with, again.ops, again.held_ops), (true, None, 0, 10));
    // One that has said that it holds all this needs no checkpoint any more.
    let rest = folder.path().join("rest");
    let rest = a.node.personal().export_bundle(&rest, Some(c.node.device()), |_| {}).await.unwrap();
    assert_eq!((rest.checkpoint, rest.ops), (None, 0));
    for device in [a, b, c] {
        device.node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_cut_off_within_a_checkpoint_begins_nothing_and_the_whole_one_does() {
    let (a, b, c, made) = two_and_a_newcomer().await;
    let folder = tempfile::tempdir().unwrap();
    let (whole, cut) = (folder.path().join("whole"), folder.path().join("cut"));
    a.node.personal().export_bundle(&whole, None, |_| {}).await.unwrap();
    let bytes = fs::read(&whole).unwrap();
    let head = BundleHead::parse(&bytes).unwrap();
    let before_state = head.chunks.iter().take_while(|entry| entry.kind != ChunkKind::Chunks);
    let begin = BundleHead::bytes_of(&bytes).unwrap() + before_state.map(|it| it.byte_count()).sum::<usize>();
    let mut spoiled = bytes.clone();
    spoiled[begin + 99] ^= 1;

    for found in [&bytes[..begin], &bytes[..begin + 99], &spoiled[..]] {
        fs::write(&cut, found).unwrap();
        let partly = c.node.import_bundle(&cut, Consent::Given, |_| {}).await.unwrap();
        assert!(partly.missing.contains(&Missing::Checkpoint), "{partly:?}");
        let waiting = partly.waiting.expect("it is not begun with");
        assert!(matches!(waiting.why, WhyWaiting::Fetching { missing } if missing > 0), "{waiting:?}");
        let status = c.node.status().await.unwrap();
        assert_eq!((status.row_count, status.base), (0, None), "nothing of it is shown");
    }
    let taken = c.node.import_bundle(&whole, Consent::Attested, |_| {}).await.unwrap();

    assert!(taken.is_whole(), "{taken:?}");
    assert_eq!(taken.began_with, Some(made.hash));
    assert_eq!(c.node.status().await.unwrap().state_hash, a.node.status().await.unwrap().state_hash);
    for device in [a, b, c] {
        device.node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_brought_is_not_waited_for_any_more_once_the_ops_came_by_a_connection() {
    let (a, b, c) = two_and_one_away().await;
    write(&a.node, "a", 50..500).await;
    settle(&a.node, 1).await;
    b.node.stop().await.unwrap();
    publish(&a.node, 50 + 20 + 450, 1).await;
    a.node.personal().trim().await.unwrap();
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("bundle");
    a.node.personal().export_bundle(&path, None, |_| {}).await.unwrap();
    a.node.stop().await.unwrap();

    let taken = c.node.import_bundle(&path, Consent::Attested, |_| {}).await.unwrap();
    let why = taken.waiting.expect("one device alone attests it").why;
    assert_eq!(why, WhyWaiting::Unattested { attested: 1, needed: 2 });
    let b = b.again().await;
    b.node.start().await.unwrap();
    connect(&c.node, &[&b.node]).await;
    until(&c.node, async || (c.node.status().await.unwrap().op_count == 520).then_some(())).await;
    c.node.personal().exchange_checkpoints().await.unwrap();

    assert_eq!(c.node.personal().waiting(), None);
    let rebased = c.node.personal().rebase(Consent::Attested).await.unwrap();
    assert_eq!(
        (rebased.base, rebased.waiting),
        (None, None),
        "it has replayed, and there is nothing to be asked"
    );
    for device in [b, c] {
        device.node.stop().await.unwrap();
    }
}

#[test]
fn a_person_says_whether_the_word_of_one_device_will_do_for_what_a_file_brings() {
    let (one, two) = (Home::init("one"), Home::init("two"));
    let alone = one.up(&[]);
    for row in 0..5 {
        one.run(&["put", "registry:note", &format!("n {row}"), "1"]).expect_code(0);
    }
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
    enrol(&one, &two, &Scope::Personal, "two", Role::Member);
    one.run(&["put", "registry:note", "later", "1"]).expect_code(0);
    let file = one.path().with_file_name("bundle");
    let file = file.to_str().unwrap();

    let exported = one.run(&["bundle", "export", file]).expect_code(0);
    assert!(
        exported.stderr.contains("of 5 ops before, which were dropped here, it holds checkpoint"),
        "{exported:?}"
    );
    let waits = two.run(&["bundle", "import", file]).expect_code(75);
    assert!(waits.stdout.contains("attested by one; 2 devices are asked for"), "{waits:?}");
    assert!(waits.stderr.contains("this one with `--yes` if the one will do"), "{waits:?}");
    assert_eq!(two.json(&["status"])["rows"], json!(0));

    let taken = two.run(&["bundle", "import", "--yes", file]).expect_code(0);

    assert!(taken.stdout.contains("the history here begins with checkpoint"), "{taken:?}");
    assert_eq!(two.json(&["status"])["rows"], json!(6));
    let again = two.run(&["bundle", "import", file]).expect_code(0);
    assert!(again.stdout.starts_with("nothing new; here already: 1 op"), "{again:?}");
}
