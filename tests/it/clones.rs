//! Homes that live twice: put back from a backup, copied and used on. Real directories, real nodes.
//!
//! Whatever any life of a home wrote and either kept or gave away is there once on every device in
//! the end, and all show the same.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use kinfold::model::{Payload, Root, Surface};
use kinfold::node::{
    Activity, Custody, Grace, HealthReason, NewOp, Node, NodeError, Status, WhyNoCheckpoint, WhyWaiting,
};
use kinfold::roster::Role;
use kinfold::sync::GcHold;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::kin;
use crate::pair::{PATIENCE, invite, note};
use crate::rebase::{drop_history, publish, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_home_put_back_from_a_backup_of_everything_loses_nothing_its_peer_has() {
    a_backup_is_put_back(|home, backup| {
        fs::remove_dir_all(home.path()).unwrap();
        copy(&backup.path(), &home.path());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_put_back_without_its_mark_loses_nothing_its_peer_has() {
    a_backup_is_put_back(|home, backup| {
        fs::remove_dir_all(home.path()).unwrap();
        copy(&backup.path(), &home.path());
        fs::remove_file(home.path().join("store.mark")).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_put_back_beside_the_mark_of_today_loses_nothing_its_peer_has() {
    a_backup_is_put_back(|home, backup| {
        fs::remove_dir_all(home.path().join("store")).unwrap();
        copy(&backup.path().join("store"), &home.path().join("store"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_overwritten_in_place_loses_nothing_its_peer_has() {
    a_backup_is_put_back(|home, backup| {
        // The file stays the same one; only how often it was opened tells.
        overwrite(&backup.path().join("store/log.redb"), &home.path().join("store/log.redb"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_put_back_with_a_mark_that_fits_is_told_by_its_peer_alone() {
    let healed = a_backup_is_put_back(rewind).await;

    // The mark noticed nothing, so both histories were written, and one was written again.
    assert_eq!(healed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_put_back_twice_with_a_mark_that_fits_keeps_all_three_lives() {
    let (a, b) = (Home::init("a"), Home::init("b"));
    let (at_a, at_b) = (a.open().await, b.open().await);
    invite(&at_a, &at_b, "b", Role::Admin).await;
    write(&at_a, "shared").await;
    meet(&at_a, &at_b).await;
    close(at_a).await;
    let backup = a.copy();

    let mut lives = vec!["shared"];
    for life in ["first", "second", "third"] {
        rewind(&a, &backup);
        let at_a = a.open().await;
        write(&at_a, life).await;
        meet(&at_a, &at_b).await;
        lives.push(life);
        agree(&[&at_a, &at_b], &lives).await;
        close(at_a).await;
    }

    close(at_b).await;
    for home in [&a, &b] {
        let again = home.open().await;
        agree(&[&again], &lives).await;
        close(again).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_lives_in_the_same_places_the_one_that_one_device_alone_has_seen_comes_back() {
    let [a, b, c] = ["a", "b", "c"].map(Home::init);
    let [at_a, at_b, at_c] = three_nodes([&a, &b, &c]).await;
    for node in [at_a, at_b, at_c] {
        close(node).await;
    }
    let backup = a.copy();

    for (life, home) in [("first", &b), ("second", &c)] {
        let (at_a, seer) = (a.open().await, home.open().await);
        write(&at_a, life).await;
        meet(&at_a, &seer).await;
        agree(&[&at_a, &seer], &["shared", life]).await;
        for node in [at_a, seer] {
            close(node).await;
        }
        rewind(&a, &backup);
    }
    let (at_a, at_b) = (a.open().await, b.open().await);
    write(&at_a, "third").await;
    meet(&at_a, &at_b).await;
    agree(&[&at_a, &at_b], &["shared", "first", "third"]).await;
    close(at_a).await;

    // From the other it knows that what it holds has fallen, and what was written again.
    let at_c = c.open().await;
    meet(&at_c, &at_b).await;
    let kept = Shown::of(&["shared", "second", "third"]);
    until(&at_c, async || (shown(&at_c) == kept).then_some(())).await;
    let at_a = a.open().await;
    let author = at_a.device();
    let is_told = async || {
        let health = at_c.personal().status().await.unwrap().health;
        health.iter().any(|why| matches!(why, HealthReason::Forgotten { device, .. } if *device == author))
    };
    until(&at_c, async || is_told().await.then_some(())).await;
    meet(&at_c, &at_a).await;

    agree(&[&at_a, &at_b, &at_c], &["shared", "first", "second", "third"]).await;
    until(&at_c, async || (!is_told().await).then_some(())).await;
    for node in [at_a, at_b, at_c] {
        close(node).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_put_back_behind_what_the_others_have_dropped_keeps_what_either_life_wrote() {
    let (a, b) = (Home::init("a"), Home::init("b"));
    let (at_a, at_b) = (a.open().await, b.open().await);
    invite(&at_a, &at_b, "b", Role::Admin).await;
    write(&at_a, "shared").await;
    meet(&at_a, &at_b).await;
    close(at_a).await;
    let backup = a.copy();

    // What it wrote then is in a checkpoint that both have attested, and in no log any more.
    let at_a = a.open().await;
    write(&at_a, "first").await;
    meet(&at_a, &at_b).await;
    let dropped = async {
        loop {
            if at_b
                .personal()
                .checkpoint()
                .await
                .is_ok_and(|made| made.checkpoint.op_count == op_count(&at_a))
            {
                at_b.personal().exchange_checkpoints().await.unwrap();
                if at_b.personal().checkpoints().unwrap()[0].attested_by.len() == 2 {
                    return at_b.personal().trim().await.unwrap();
                }
            }
            at_b.sync().await.unwrap();
        }
    };
    timeout(PATIENCE, dropped).await.expect("in time");
    close(at_a).await;
    rewind(&a, &backup);

    let at_a = a.open().await;
    write(&at_a, "second").await;
    meet(&at_a, &at_b).await;

    agree(&[&at_a, &at_b], &["shared", "first", "second"]).await;
    for node in [at_a, at_b] {
        close(node).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_home_drops_no_history_before_it_has_met_the_others() {
    let [a, b, c] = ["a", "b", "c"].map(Home::init);
    let [at_a, at_b, at_c] = three_nodes([&a, &b, &c]).await;
    // It has heard of the third through the first.
    timeout(PATIENCE, at_b.wait_all(Custody::on(2))).await.expect("in time").unwrap();
    let away = at_c.device();
    close(at_c).await;
    close(at_a).await;

    let restored = a.copy();
    let at_a = restored.open().await;
    write(&at_a, "restored").await;
    meet(&at_a, &at_b).await;
    let refused = at_a.personal().checkpoint().await;
    let why = WhyNoCheckpoint::Unmet { unmet: vec![away] };
    assert!(matches!(&refused, Err(NodeError::NoCheckpoint { why: found }) if *found == why), "{refused:?}");
    // Another one makes a checkpoint, which the home does not vouch for, also after a restart.
    publish(&at_b, 1, 1).await;
    close(at_a).await;
    let at_a = restored.open().await;
    meet(&at_a, &at_b).await;
    let offered = until(&at_a, async || {
        at_a.personal().exchange_checkpoints().await.unwrap();
        at_a.personal().checkpoints().unwrap().pop()
    })
    .await;
    assert!(!offered.is_whole && !offered.attested_by.contains(&at_a.device()), "{offered:?}");
    let held = at_a.personal().gc_run(Grace::Waived).await;
    let holds = [GcHold::NoCheckpoint, GcHold::Unmet { device: away }];
    assert!(matches!(&held, Err(NodeError::GcHeld { holds: found }) if found[..] == holds), "{held:?}");

    let at_c = c.open().await;
    meet(&at_c, &at_a).await;
    meet(&at_c, &at_b).await;
    agree(&[&at_a, &at_b, &at_c], &["shared", "restored"]).await;
    let made = publish(&at_a, at_a.personal().frontier().op_count(), 3).await;
    assert_eq!(at_a.personal().gc_run(Grace::Waived).await.unwrap().base, made.hash);
    for node in [at_a, at_b, at_c] {
        close(node).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_device_from_a_drawer_has_of_a_life_that_was_forgotten_comes_back() {
    a_forgotten_life_comes_back(&["first"], &["second", "third"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_life_that_is_longer_than_the_one_that_went_on_comes_back_too() {
    a_forgotten_life_comes_back(&["first", "second"], &["third"]).await;
}

/// The nodes of three homes that all have what the first one wrote.
async fn three_nodes([a, b, c]: [&Home; 3]) -> [Node; 3] {
    let (at_a, at_b, at_c) = (a.open().await, b.open().await, c.open().await);
    invite(&at_a, &at_b, "b", Role::Admin).await;
    invite(&at_a, &at_c, "c", Role::Member).await;
    write(&at_a, "shared").await;
    meet(&at_a, &at_b).await;
    meet(&at_a, &at_c).await;
    [at_a, at_b, at_c]
}

/// The one life is seen by the device that goes into the drawer, the other by the rest, who drop its history.
async fn a_forgotten_life_comes_back(forgotten: &[&str], goes_on: &[&str]) {
    let [a, b, c] = ["a", "b", "c"].map(Home::init);
    let [at_a, at_b, at_c] = three_nodes([&a, &b, &c]).await;
    close(at_b).await;
    close(at_a).await;
    let backup = a.copy();

    let at_a = a.open().await;
    for life in forgotten {
        write(&at_a, life).await;
    }
    meet(&at_c, &at_a).await;
    let seen = [&["shared"], forgotten].concat();
    agree(&[&at_c], &seen).await;
    let drawer = at_c.device();
    close(at_c).await;
    close(at_a).await;
    rewind(&a, &backup);
    let (at_a, at_b) = (a.open().await, b.open().await);
    meet(&at_a, &at_b).await;
    at_a.personal().set_activity(drawer, Activity::Dormant).await.unwrap();
    for life in goes_on {
        write(&at_a, life).await;
    }
    let made = publish(&at_a, op_count(&at_a), 2).await;
    for node in [&at_a, &at_b] {
        drop_history(node, &made).await;
    }

    let at_c = c.open().await;
    at_c.add_peer(at_b.local_addr().unwrap().to_string()).await.unwrap();
    // Where it holds more of the log than the others do, only its author can tell that it is another history.
    if forgotten.len() < goes_on.len() {
        let op_count = (LIFE_OPS * 2 * forgotten.len()) as u64;
        let left_out = WhyWaiting::LeavesOut { device: at_a.device(), op_count };
        until(&at_c, async || {
            let waiting = at_c.status().await.unwrap().waiting?;
            (waiting.why == left_out).then_some(())
        })
        .await;
    }
    assert!(shown(&at_c) == Shown::of(&seen), "until then it goes on with what it has");
    at_c.add_peer(at_a.local_addr().unwrap().to_string()).await.unwrap();

    agree(&[&at_a, &at_b, &at_c], &[&seen[..], goes_on].concat()).await;
    let status = at_c.status().await.unwrap();
    assert_eq!((status.base, status.waiting), (Some(made.hash), None));
    for node in [at_a, at_b, at_c] {
        close(node).await;
    }
}

fn op_count(node: &Node) -> u64 {
    node.personal().frontier().op_count()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_live_copies_of_one_home_are_two_logs_of_one_device() {
    two_copies_are_used(Home::copy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_live_copies_that_write_one_log_lose_nothing_and_count_nothing_twice() {
    let proved = two_copies_are_used(Home::twin).await;

    assert!(proved, "both wrote the same places of one log, and somebody saw it");
}

#[test]
fn a_copied_home_that_both_use_loses_nothing_in_three_processes() {
    let (one, two) = (kin::Home::init("one"), kin::Home::init("two"));
    kin::pair(&one, &two);
    import(&one, "shared", 3);
    let peer = two.up(&[]);
    sync_once(&one, &peer);
    let copy = kin::Home::empty();
    self::copy(&one.path(), &copy.path());
    // As a disk image put on another machine would look.
    adopt_mark(&copy.path());

    import(&one, "original", 200);
    import(&copy, "copy", 200);
    import(&two, "honest", 3);
    let daemons = [&one, &copy].map(|home| home.up(&["--peer", &peer.listening]));
    for home in [&one, &copy, &two] {
        until_rows(home, 406);
    }
    for daemon in daemons {
        assert_eq!(daemon.terminate(), 0);
    }
    assert_eq!(peer.terminate(), 0);

    let mut expected = BTreeSet::new();
    for (what, count) in [("shared", 3), ("original", 200), ("copy", 200), ("honest", 3)] {
        expected.extend((0..count).map(|n| format!("{what} {n}")));
    }
    for home in [&one, &copy, &two] {
        let rows = exported(home);
        assert_eq!(rows.iter().cloned().collect::<BTreeSet<String>>(), expected);
        assert_eq!(rows.len(), expected.len(), "nothing is there twice");
        let status = home.json(&["status"]);
        assert_eq!(status["state_hash"], two.json(&["status"])["state_hash"]);
        assert_eq!(status["health"]["reasons"], json!([]), "{status}");
        assert_eq!(status["forks_healed"].as_array().map(Vec::len), Some(1), "{status}");
    }
}

/// A home is backed up, goes on, syncs, is put back, and writes before and after it meets its peer.
/// How many forks were healed.
async fn a_backup_is_put_back(put_back: impl FnOnce(&Home, &Home)) -> usize {
    let (a, b) = (Home::init("a"), Home::init("b"));
    let (at_a, at_b) = (a.open().await, b.open().await);
    invite(&at_a, &at_b, "b", Role::Admin).await;
    write(&at_a, "shared").await;
    meet(&at_a, &at_b).await;
    close(at_a).await;
    let backup = a.copy();
    let at_a = a.open().await;
    write(&at_a, "after the backup").await;
    meet(&at_a, &at_b).await;
    close(at_a).await;
    write(&at_b, "meanwhile").await;

    put_back(&a, &backup);
    // Or it dials its peer as soon as it is open, and writes nothing before it has met it.
    fs::remove_file(a.path().join("addresses")).expect("they have met");
    let at_a = a.open().await;
    write(&at_a, "before it met its peer").await;
    meet(&at_a, &at_b).await;
    write(&at_a, "after it met its peer").await;

    let lives =
        ["shared", "after the backup", "meanwhile", "before it met its peer", "after it met its peer"];
    let healed = agree(&[&at_a, &at_b], &lives).await;
    close(at_a).await;
    close(at_b).await;
    // What each shows is what its logs fold to.
    for home in [&a, &b] {
        let again = home.open().await;
        agree(&[&again], &lives).await;
        close(again).await;
    }
    healed
}

/// Two copies of a home are both used, apart and then together, and both meet a third device.
/// Whether a fork was proved.
async fn two_copies_are_used(copied: impl FnOnce(&Home) -> Home) -> bool {
    let (a, c) = (Home::init("a"), Home::init("c"));
    let (at_a, at_c) = (a.open().await, c.open().await);
    invite(&at_a, &at_c, "c", Role::Member).await;
    write(&at_a, "shared").await;
    meet(&at_a, &at_c).await;
    close(at_a).await;
    let copy = copied(&a);
    // Or both dial the third as soon as they are open, and nothing is written apart.
    for home in [&a, &copy] {
        std::fs::remove_file(home.path().join("addresses")).expect("they have met the third");
    }

    let (at_a, at_copy) = (a.open().await, copy.open().await);
    write(&at_a, "original, apart").await;
    write(&at_copy, "copy, apart").await;
    write(&at_c, "third").await;
    meet(&at_a, &at_c).await;
    meet(&at_copy, &at_c).await;
    write(&at_a, "original, together").await;
    write(&at_copy, "copy, together").await;

    let lives = ["shared", "original, apart", "copy, apart", "third", "original, together", "copy, together"];
    let healed = agree(&[&at_a, &at_copy, &at_c], &lives).await;
    for node in [at_a, at_copy, at_c] {
        close(node).await;
    }
    for home in [&a, &copy, &c] {
        let again = home.open().await;
        agree(&[&again], &lives).await;
        close(again).await;
    }
    healed > 0
}

/// Waits until all nodes hold exactly what these lives wrote, once each, and show the same; nothing
/// is left to be done about a fork. How many devices' forks were healed.
async fn agree(nodes: &[&Node], lives: &[&str]) -> usize {
    let expected = Shown::of(lives);
    let waiting = timeout(
        PATIENCE,
        until_all(nodes, async || {
            let mut roots: BTreeSet<Root> = BTreeSet::new();
            for node in nodes {
                if shown(node) != expected || !open_forks(&node.status().await.unwrap()).is_empty() {
                    return false;
                }
                roots.insert(node.personal().root());
            }
            roots.len() == 1
        }),
    );
    if waiting.await.is_err() {
        for node in nodes {
            let (status, shown) = (node.status().await.unwrap(), shown(node));
            let lost = expected.rows.difference(&shown.rows).count();
            let (rows, events) = (shown.rows.len(), shown.events.len());
            eprintln!("{rows} rows, {events} events, {lost} lost, root {:?}", status.state_hash);
            eprintln!("{:?}\n{:?}", status.health, status.frontier);
        }
        panic!("they do not agree on {lives:?}");
    }
    let mut healed = 0;
    for node in nodes {
        let status = node.status().await.unwrap();
        assert_eq!(status.conflict_count, 0);
        assert!(
            status.health.iter().all(|reason| matches!(reason, HealthReason::RunsTwice { .. })),
            "{:?}",
            status.health
        );
        healed = healed.max(status.forks_healed.len());
    }
    healed
}

fn open_forks(status: &Status) -> Vec<&HealthReason> {
    status.health.iter().filter(|reason| matches!(reason, HealthReason::Fork { .. })).collect()
}

/// Waits for something that all of these nodes together come to.
pub async fn until_all(nodes: &[&Node], check: impl AsyncFn() -> bool) {
    let (sender, mut moved) = tokio::sync::mpsc::channel(1);
    for node in nodes {
        let (mut version, sender) = (node.version(), sender.clone());
        tokio::spawn(async move {
            // One notice that is waiting to be read says it already.
            while version.changed().await.is_ok() && !sender.is_closed() {
                let _ = sender.try_send(());
            }
        });
    }
    while !check().await {
        moved.recv().await.expect("this end is held");
    }
}

/// What a life of a home writes: enough for several batches, of rows and of events.
async fn write(node: &Node, life: &str) {
    let payload = Payload::from_value(&json!({"written by": life})).unwrap();
    for part in 0..3 {
        let mut ops = Vec::new();
        for n in 0..LIFE_OPS / 3 {
            let (surface, key) = (note(), format!("{life} {part} {n}"));
            ops.push(NewOp::Put { surface, key: key.clone(), payload: payload.clone() });
            let payload = Payload::from_value(&json!({"n": key})).unwrap();
            ops.push(NewOp::Event { surface: talk(), stream: "talk".to_owned(), payload });
        }
        node.personal().append(ops).await.unwrap();
    }
}

#[derive(PartialEq, Eq, Default)]
struct Shown {
    rows: BTreeSet<String>,
    /// In order of their text, and as often as they are there.
    events: Vec<String>,
}

impl Shown {
    fn of(lives: &[&str]) -> Self {
        let mut shown = Self::default();
        for life in lives {
            for part in 0..3 {
                let keys = (0..LIFE_OPS / 3).map(|n| format!("{life} {part} {n}"));
                shown.rows.extend(keys.clone());
                shown.events.extend(keys.map(|key| json!({ "n": key }).to_string()));
            }
        }
        shown.events.sort();
        shown
    }
}

fn shown(node: &Node) -> Shown {
    let space = node.personal();
    let rows = space.list(&note(), None, usize::MAX).unwrap();
    let events = space.events(&talk(), "talk", None, usize::MAX).unwrap();
    let mut events: Vec<String> = events.iter().map(|event| event.payload.as_str().to_owned()).collect();
    events.sort();
    Shown { rows: rows.into_iter().map(|row| row.key).collect(), events }
}

/// Lets one node dial the other, and waits until each holds what the other has so far.
pub async fn meet(dialer: &Node, listener: &Node) {
    dialer.add_peer(listener.local_addr().unwrap().to_string()).await.unwrap();
    for node in [dialer, listener] {
        timeout(PATIENCE, node.wait_all(Custody::on(1))).await.expect("in time").unwrap();
    }
}

pub struct Home(TempDir);

impl Home {
    pub fn init(name: &str) -> Self {
        let home = Self(TempDir::new().unwrap());
        Node::init(&home.path(), name).unwrap();
        home
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().join("home")
    }

    /// What `cp -a` makes of it.
    pub fn copy(&self) -> Self {
        let home = Self(TempDir::new().unwrap());
        copy(&self.path(), &home.path());
        home
    }

    /// A copy with a mark that fits it, as an image of the whole disk would be.
    fn twin(&self) -> Self {
        let home = self.copy();
        adopt_mark(&home.path());
        home
    }

    /// Its node, on the network.
    pub async fn open(&self) -> Node {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let node = Node::builder(self.path()).listen(listen).without_mdns().open().await.unwrap();
        node.start().await.unwrap();
        node
    }
}

/// Ends a node; its home can be opened again.
pub async fn close(node: Node) {
    node.stop().await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.expect("cp can be run").success());
}

/// Gives the store back the bytes it had, and the mark as well: nothing in the home tells.
fn rewind(home: &Home, backup: &Home) {
    overwrite(&backup.path().join("store/log.redb"), &home.path().join("store/log.redb"));
    fs::copy(backup.path().join("store.mark"), home.path().join("store.mark")).unwrap();
    adopt_mark(&home.path());
}

/// Overwrites a file without making another one of it.
fn overwrite(from: &Path, to: &Path) {
    let inode = fs::metadata(to).unwrap().ino();
    fs::write(to, fs::read(from).unwrap()).unwrap();
    assert_eq!(fs::metadata(to).unwrap().ino(), inode);
}

/// Writes into the mark of a home which file its store is.
fn adopt_mark(home: &Path) {
    let path = home.join("store.mark");
    let about = fs::metadata(home.join("store/log.redb")).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let own = format!("file {} {}", about.dev(), about.ino());
    let lines = text.lines().map(|line| if line.starts_with("file ") { &own } else { line });
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    fs::write(path, text).unwrap();
}

fn talk() -> Surface {
    "conversation".parse().unwrap()
}

fn import(home: &kin::Home, what: &str, count: u64) {
    let lines: String = (0..count)
        .map(|n| format!("{{\"surface\":\"registry:note\",\"payload\":{{\"id\":\"{what} {n}\"}}}}\n"))
        .collect();
    home.run_with(&["import", "-"], lines.as_bytes()).expect_code(0);
}

/// Runs a node until its peer has all it has.
fn sync_once(home: &kin::Home, peer: &kin::Daemon) {
    let daemon = home.up(&["--peer", &peer.listening]);
    home.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    assert_eq!(daemon.terminate(), 0);
}

/// Asks after each round of sync until this many rows are there and no fork is open.
fn until_rows(home: &kin::Home, count: u64) {
    let mut caller = kin::Caller::connect(home);
    let begun = Instant::now();
    loop {
        let status = caller.call("sync.status", json!({}))["result"].clone();
        let reasons = status["health"]["reasons"].as_array().expect("a list").clone();
        if status["rows"] == count && reasons.iter().all(|reason| reason["kind"] != "Fork") {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{status}");
        caller.call("sync.pump", json!({}));
    }
}

fn exported(home: &kin::Home) -> Vec<String> {
    let exported = home.run(&["export", "registry:note"]).expect_code(0);
    let key = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let key = line.get("key").unwrap_or(&line["payload"]["id"]).clone();
        key.as_str().expect("a key").to_owned()
    };
    exported.stdout.lines().map(key).collect()
}

/// Ops of each kind in one life: a batch holds 128.
const LIFE_OPS: usize = 300;
