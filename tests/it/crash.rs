//! Processes that are killed, disks that are full or cut off, stores that are damaged, homes that are copied.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::BufRead;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use kinfold::model::Payload;
use kinfold::node::{Custody, HealthReason, NewOp, Node, NodeError};
use kinfold::store::fault::{FaultDisk, Loss};
use kinfold::sync::RequestError;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::history::{Chance, is_long, seed};
use crate::kin::{Caller, Daemon, Home, pair};
use crate::pair::{PATIENCE, device, introduce, note, until};
use crate::peers::until_status;

#[test]
fn what_was_answered_survives_the_kill_of_either_side() {
    let homes = [Home::init("one"), Home::init("two")];
    let mut chance = Chance(seed());
    let mut daemons = [Some(homes[0].up(&[])), None];
    daemons[1] = Some(homes[1].up(&["--peer", &listening(&daemons[0])]));
    pair(&homes[0], &homes[1]);
    let mut answered = BTreeSet::new();

    for cycle in 0..if is_long() { 500 } else { 10 } {
        let writer = usize::from(chance.below(2) == 1);
        let mut import = Import::begin(&homes[writer], cycle);
        import.read_answers(chance.below(REQUESTS));
        let killed: &[usize] = [&[0][..], &[1], &[0, 1]][usize::try_from(chance.below(3)).unwrap()];
        killed.iter().for_each(|side| daemons[*side].take().unwrap().kill());
        import.read_answers(REQUESTS);
        answered.extend(import.answered);
        for side in killed {
            let arguments = match &daemons[1 - side] {
                Some(_) => vec!["--peer".to_owned(), listening(&daemons[1 - side])],
                None => Vec::new(),
            };
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            daemons[*side] = Some(homes[*side].up(&arguments));
        }
    }

    for home in &homes {
        home.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
        // Answered once the node has read its index, unlike its status.
        let held = rows(home);
        let lost: Vec<&String> = answered.difference(&held).collect();
        assert!(lost.is_empty(), "{lost:?}");
    }
    let states = homes.each_ref().map(|home| home.json(&["status"]));
    assert_eq!(states[0]["state_hash"], states[1]["state_hash"]);
    assert_eq!(states[0]["health"]["reasons"], json!([]));
    assert!(answered.len() > 500, "the kills came too early to show anything: {}", answered.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_refuses_costs_only_the_op_it_refused() {
    let home = TestHome::new("a");
    let disk = home.disk();
    let node = home.open(&disk).await;
    put(&node, "before").await.unwrap();
    let faults: [(&str, Fault); 3] = [
        ("disk is full", |disk| disk.limit_free_bytes(0)),
        ("cannot be written", |disk| disk.fail_writes(Some(std::io::ErrorKind::PermissionDenied))),
        ("refused a read or a write", |disk| disk.fail_writes(Some(std::io::ErrorKind::Other))),
    ];

    for (why, fault) in faults {
        let root = node.personal().root();
        fault(&disk);
        let mut taken = 0;
        // A full disk still takes what fits into the pages the file has.
        let refused = loop {
            let op = large(&format!("{why} {taken}"));
            match node.personal().append(vec![op]).await {
                Ok(_) => taken += 1,
                Err(refused) => break refused,
            }
        };

        assert!(matches!(refused, NodeError::Refused(RequestError::Storage)), "{refused:?}");
        assert!(refused.to_string().contains("nothing was recorded"));
        assert!(node.personal().get(&note(), &format!("{why} {taken}")).unwrap().is_none());
        assert!(node.personal().get(&note(), "before").unwrap().is_some());
        assert!(taken > 0 || node.personal().root() == root);
        let health = node.status().await.unwrap().health;
        assert!(
            matches!(&health[..], [HealthReason::StorageFailed { why: told }] if told.contains(why)),
            "{health:?}"
        );
        disk.unlimit();
        disk.fail_writes(None);
        put(&node, &format!("after: {why}")).await.unwrap();
        assert_eq!(node.status().await.unwrap().health, []);
    }

    let root = node.personal().root();
    node.stop().await.unwrap();
    let again = home.open(&FaultDisk::with_bytes(disk.bytes())).await;
    assert_eq!(again.personal().root(), root);
    again.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_disk_could_not_take_comes_again_once_there_is_room() {
    let (home, other) = (TestHome::new("a"), device("b").await);
    let disk = home.disk();
    let node = home.open(&disk).await;
    introduce(&node, &other.node).await;
    timeout(PATIENCE, other.node.wait_all(Custody::on(1))).await.unwrap().unwrap();

    disk.limit_free_bytes(0);
    let ops = (0..200).map(|n| large(&format!("row {n}"))).collect();
    other.node.personal().append(ops).await.unwrap();
    let is_full = |status: &kinfold::node::Status| {
        status.health.iter().any(|reason| matches!(reason, HealthReason::StorageFailed { .. }))
    };
    until_status(&node, is_full).await;
    put(&other.node, "meanwhile").await.unwrap();
    disk.unlimit();

    let at = node.personal();
    until(&node, || at.get(&note(), "meanwhile").unwrap()).await;
    timeout(PATIENCE, other.node.wait_all(Custody::on(1))).await.unwrap().unwrap();
    assert_eq!(node.personal().root(), other.node.personal().root());
    assert_eq!(node.personal().list(&note(), None, usize::MAX).unwrap().len(), 201);
    node.stop().await.unwrap();
    other.node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_survives_a_power_cut_at_any_sync() {
    let home = TestHome::new("a");
    for cut in 0..if is_long() { 200 } else { 16 } {
        let disk = home.disk();
        disk.cut_power_at_sync(cut);
        let mut answered = Vec::new();
        // Where the power fails while the store is being opened, nothing was answered.
        if let Ok(node) = home.try_open(&disk).await {
            for n in 0..100 {
                let key = format!("row {n}");
                if put(&node, &key).await.is_err() {
                    break;
                }
                answered.push(key);
            }
            node.stop().await.unwrap();
        }

        for (loss, seed) in
            [(Loss::All, 0), (Loss::Subset, cut), (Loss::Torn, cut), (Loss::Torn, cut + 1_000)]
        {
            let node = home.open(&disk.after_power_cut(loss, seed)).await;
            for key in &answered {
                let row = node.personal().get(&note(), key).unwrap();
                assert!(row.is_some(), "{key} is lost after cut {cut} with {loss:?} {seed}");
            }
            put(&node, "goes on").await.unwrap();
            node.stop().await.unwrap();
        }
    }
}

#[test]
fn a_damaged_store_is_a_clear_error_and_never_a_panic() {
    let home = Home::init("a");
    let rows: String = (0..400)
        .map(|n| {
            format!("{{\"surface\":\"registry:note\",\"payload\":{{\"id\":\"{n:03}\",\"x\":\"{n:064}\"}}}}\n")
        })
        .collect();
    home.run_with(&["import", "-"], rows.as_bytes()).expect_code(0);
    let store = home.path().join("store/log.redb");
    let whole = fs::read(&store).unwrap();
    let exported = home.run(&["export"]).expect_code(0).stdout;
    let damaged = |bytes: &[u8]| {
        fs::write(&store, bytes).unwrap();
        let ended = home.run(&["export"]);
        assert!(!ended.stderr.contains("panicked") && !ended.stderr.contains("RUST_BACKTRACE"), "{ended:?}");
        ended
    };

    for length in [0, 1, 4_096, whole.len() / 2, whole.len() - 1] {
        let ended = damaged(&whole[..length]).expect_code(1);
        ended.says("is damaged; move this home aside");
    }
    let mut chance = Chance(seed());
    for _ in 0..if is_long() { 1_000 } else { 12 } {
        let at = usize::try_from(chance.below(whole.len() as u64)).unwrap();
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << chance.below(8);
        let ended = damaged(&bytes);
        // A bit that nothing rests on changes nothing; any other is found.
        if ended.code == 0 {
            assert_eq!(ended.stdout, exported, "byte {at}");
        } else {
            let is_named = ["damaged", "contradicts itself", "another device's identity"]
                .iter()
                .any(|words| ended.stderr.contains(words));
            assert!(ended.code == 1 && is_named, "byte {at}: {ended:?}");
        }
    }

    fs::write(&store, &whole).unwrap();
    assert_eq!(home.run(&["export"]).expect_code(0).stdout, exported);
}

#[test]
fn a_store_of_a_later_format_is_left_alone() {
    let home = Home::init("a");
    let (format, store) = (home.path().join("store/format"), home.path().join("store/log.redb"));
    let (known, bytes) = (fs::read_to_string(&format).unwrap(), fs::read(&store).unwrap());
    let later = known.trim().parse::<u32>().unwrap() + 1;

    fs::write(&format, later.to_string()).unwrap();
    home.run(&["status"]).expect_code(1).says("install the newer kinfold");
    home.run(&["up", "--no-mdns"]).expect_code(1).says("install the newer kinfold");
    assert_eq!(fs::read(&store).unwrap(), bytes);
    fs::write(&format, "nonsense").unwrap();
    home.run(&["status"]).expect_code(1).says("format file is damaged");
    fs::write(&format, known).unwrap();

    home.run(&["status"]).expect_code(0);
}

#[test]
fn a_home_without_its_store_or_identity_says_what_is_missing() {
    let home = Home::init("a");
    let (store, aside) = (home.path().join("store/log.redb"), home.path().join("aside"));
    fs::rename(&store, &aside).unwrap();
    home.run(&["status"]).expect_code(1).says("hint: put the store folder back");
    fs::remove_file(&store).unwrap();
    fs::rename(&aside, &store).unwrap();

    let (key, foreign) = (home.path().join("identity.key"), Home::init("b"));
    let own = fs::read(&key).unwrap();
    fs::copy(foreign.path().join("identity.key"), &key).unwrap();
    home.run(&["status"]).expect_code(1).says("another device's identity");
    fs::write(&key, b"nonsense").unwrap();
    home.run(&["status"]).expect_code(1).says("no Ed25519 key");
    fs::write(&key, own).unwrap();

    home.run(&["status"]).expect_code(0);
}

/// Appends over the control socket whose answers are counted.
struct Import {
    caller: Caller,
    waiting: BTreeMap<u64, Vec<String>>,
    answered: BTreeSet<String>,
}

impl Import {
    fn begin(home: &Home, cycle: u64) -> Self {
        let mut import =
            Self { caller: Caller::connect(home), waiting: BTreeMap::new(), answered: BTreeSet::new() };
        for id in 0..REQUESTS {
            let keys: Vec<String> = (0..8).map(|n| format!("{cycle} {id} {n}")).collect();
            let op = |key: &String| json!({"surface": "registry:note", "key": key, "payload": {"text": key}});
            let ops: Vec<Value> = keys.iter().map(op).collect();
            let request = json!({"id": id, "method": "sync.append_many", "params": {"ops": ops}});
            import.caller.send(request.to_string().as_bytes());
            import.waiting.insert(id, keys);
        }
        import
    }

    /// Reads at most this many answers, fewer where the node has gone.
    fn read_answers(&mut self, count: u64) {
        for _ in 0..count.min(self.waiting.len() as u64) {
            let mut line = String::new();
            // A line that was cut off by the kill is no answer.
            let Ok(answer) =
                self.caller.read.read_line(&mut line).map(|_| serde_json::from_str::<Value>(&line))
            else {
                return;
            };
            let Ok(answer) = answer else { return };
            let keys = self.waiting.remove(&answer["id"].as_u64().expect("the id of a request"));
            assert_eq!(answer["result"]["appended"].as_array().map(Vec::len), Some(8), "{answer}");
            self.answered.extend(keys.expect("each is answered once"));
        }
    }
}

/// Makes a disk fail.
type Fault = fn(&FaultDisk);

/// A home whose store is opened on disks that fail.
struct TestHome(TempDir);

impl TestHome {
    fn new(name: &str) -> Self {
        let directory = TempDir::new().unwrap();
        Node::init(&directory.path().join("home"), name).unwrap();
        Self(directory)
    }

    fn disk(&self) -> FaultDisk {
        FaultDisk::with_bytes(fs::read(self.0.path().join("home/store/log.redb")).unwrap())
    }

    async fn open(&self, disk: &FaultDisk) -> Node {
        self.try_open(disk).await.unwrap()
    }

    async fn try_open(&self, disk: &FaultDisk) -> Result<Node, NodeError> {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let builder = Node::builder(self.0.path().join("home")).listen(listen).without_mdns();
        builder.store_backend(disk.clone()).open().await
    }
}

async fn put(node: &Node, key: &str) -> Result<(), NodeError> {
    node.personal().put("registry:note", key, json!(key)).await.map(|_| ())
}

/// Sixteen kibibytes that do not compress.
fn large(key: &str) -> NewOp {
    let mut noise = vec![0; 8 * 1024];
    blake3::Hasher::new().update(key.as_bytes()).finalize_xof().fill(&mut noise);
    let text: String = noise.iter().map(|byte| format!("{byte:02x}")).collect();
    let payload = Payload::from_value(&text).unwrap();
    NewOp::Put { surface: note(), key: key.to_owned(), payload }
}

fn listening(daemon: &Option<Daemon>) -> String {
    daemon.as_ref().expect("the other side runs").listening.clone()
}

/// The keys of all notes.
fn rows(home: &Home) -> BTreeSet<String> {
    let exported = home.run(&["export", "registry:note"]).expect_code(0);
    let key = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let key = line.get("key").unwrap_or(&line["payload"]["id"]).clone();
        key.as_str().expect("a key").to_owned()
    };
    exported.stdout.lines().map(key).collect()
}

/// Requests of one import.
const REQUESTS: u64 = 50;

/// Every byte below a directory.
pub fn bytes_below(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(bytes_below(&path));
        } else if path.is_file() {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    found
}
