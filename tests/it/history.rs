//! Real histories: dealt to devices, delivered in any order, and compared with what is known of them otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use kinfold::crypto::{EpochKey, Identity, Opener, Sealer};
use kinfold::fold::{RowFilter, State};
use kinfold::model::{Dot, Incarnation, LogId, Now, Op, Payload, Root, SpaceId, Surface, Tier, Tip, Wall};
use kinfold::node::{NewOp, Node};
use kinfold::oplog::{Author, LogChain, Seen};
use kinfold::roster::Role;
use kinfold::wire::{BodyReader, FrameView};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::kin::{Home, command, run};
use crate::pair::{PATIENCE, device, introduce, invite};
use crate::peers::until_status;

#[test]
fn a_history_dealt_to_devices_gives_one_root_in_every_order() {
    let (seed, shuffles) = (seed(), if is_long() { 1_000 } else { 50 });
    for lines in histories() {
        let mut fleet = Fleet::new(5, seed);

        for line in &lines {
            fleet.write(line);
            fleet.deliver_something();
        }
        fleet.deliver_everything();

        let root = fleet.agreed_root();
        fleet.logs_hold();
        for shuffle in 0..shuffles {
            assert_eq!(fleet.folded_in_any_order(seed + shuffle), root, "seed {seed}, shuffle {shuffle}");
        }
        let facts: BTreeSet<&str> = fact_ids(&lines);
        assert_eq!(fleet.devices[0].live(&"knowledge".parse().unwrap()).len(), facts.len());
    }
}

#[test]
fn a_history_written_in_turns_ends_with_the_last_writer_of_each_path() {
    for lines in histories() {
        let mut fleet = Fleet::new(3, seed());

        for line in &lines {
            fleet.write(line);
            fleet.deliver_everything();
        }

        fleet.agreed_root();
        let device = &fleet.devices[0];
        assert_eq!(device.state.counts().conflicts, 0);
        let shown: BTreeMap<String, &str> = device
            .live(&"registry:file".parse().unwrap())
            .into_iter()
            .map(|(path, dot)| (path, lines[fleet.written[&dot]].payload.as_str()))
            .collect();
        assert_eq!(shown, last_writers(&lines));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_that_deal_out_a_history_end_with_one_root() {
    let mut lines = histories().pop().expect("one is always there");
    if !is_long() {
        lines.truncate(2_000);
    }
    let devices = [device("a").await, device("b").await, device("c").await];
    let nodes: Vec<&Node> = devices.iter().map(|device| &device.node).collect();
    introduce(nodes[0], nodes[1]).await;
    until_status(nodes[1], |status| status.devices.iter().any(|device| device.root.is_some())).await;
    invite(nodes[0], nodes[2], "c", Role::Admin).await;
    nodes[2].start().await.unwrap();
    for node in [nodes[0], nodes[1]] {
        nodes[2].add_peer(node.local_addr().unwrap().to_string()).await.unwrap();
    }

    let dealt = |index: usize| {
        let own = lines.iter().filter(move |line| deal(&line.device, 3) == index);
        own.map(Line::new_op).collect::<Vec<_>>()
    };
    let write = async |index: usize| {
        for group in dealt(index).chunks(32) {
            nodes[index].personal().append(group.to_vec()).await.unwrap();
        }
    };
    let writing = async { tokio::join!(write(0), write(1), write(2)) };
    tokio::time::timeout(PATIENCE, writing).await.expect("in time");

    let total = lines.len() as u64;
    for node in &nodes {
        until_status(node, |status| status.op_count == total).await;
    }
    let root = nodes[0].personal().root();
    assert!(nodes.iter().all(|node| node.personal().root() == root));
    let status = nodes[0].status().await.unwrap();
    assert_eq!((status.health.as_slice(), status.devices.len()), (&[][..], 3));
    let facts = nodes[1].personal().list(&"knowledge".parse().unwrap(), None, usize::MAX).unwrap();
    let found: BTreeSet<&str> = facts.iter().map(|row| row.key.as_str()).collect();
    assert_eq!(found, fact_ids(&lines));
    let written: BTreeSet<&str> = lines.iter().map(|line| line.payload.as_str()).collect();
    for row in nodes[2].personal().list(&"registry:file".parse().unwrap(), None, usize::MAX).unwrap() {
        assert!(written.contains(row.shown.payload.expect("a live row").as_str()));
    }
    for node in nodes {
        node.stop().await.unwrap();
    }
}

#[test]
fn the_folded_rows_of_a_repository_are_its_tree() {
    let directory = tempfile::tempdir().unwrap();
    let repository = directory.path().join("repository");
    std::fs::create_dir(&repository).unwrap();
    if !make_repository(&repository) {
        println!("skipped: git is not installed");
        return;
    }
    let mut demo = command(&directory.path().join("unused"));
    demo.args(["--json", "demo", "--keep", "--git"]).arg(&repository).env("TMPDIR", directory.path());

    let ended = run(&mut demo, b"").expect_code(0);

    let shown: Value = serde_json::from_str(&ended.stdout).unwrap();
    let homes = Path::new(shown["homes"].as_str().expect("the homes are kept"));
    for home in ["alpha", "beta"] {
        let exported = run(command(&homes.join(home)).args(["export", "registry:file"]), b"").expect_code(0);
        let rows: BTreeMap<String, String> = exported
            .stdout
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["payload"].clone())
            .map(|payload| (text(&payload, "id"), text(&payload, "blob")))
            .collect();
        assert_eq!(rows, git_tree(&repository), "{home}");
    }
}

#[test]
fn an_import_of_a_whole_history_keeps_the_last_writer_of_each_path() {
    let lines = histories().pop().expect("one is always there");
    let home = Home::init("a");
    let input: String = lines.iter().map(Line::to_json).collect();

    home.run_with(&["import", "-"], input.as_bytes()).expect_code(0);

    let exported = home.run(&["export", "registry:file"]).expect_code(0);
    let rows: BTreeMap<String, Value> = exported
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["payload"].clone())
        .map(|payload| (text(&payload, "id"), payload))
        .collect();
    let expected: BTreeMap<String, Value> = last_writers(&lines)
        .into_iter()
        .map(|(path, payload)| (path, serde_json::from_str(payload).unwrap()))
        .collect();
    assert_eq!(rows, expected);
}

/// One line of a history.
struct Line {
    device: String,
    time: u64,
    surface: Surface,
    key: String,
    payload: Payload,
    is_removal: bool,
}

impl Line {
    fn parse(text: &str) -> Self {
        #[derive(Deserialize)]
        struct Form<'a> {
            t: u64,
            device: String,
            surface: String,
            #[serde(borrow)]
            payload: &'a RawValue,
        }
        let form: Form<'_> = serde_json::from_str(text).expect("a line of the history");
        let payload = Payload::parse(form.payload.get()).expect("a payload");
        let key = payload.string_member("id").expect("an id");
        let is_removal = payload.is_flagged("deleted");
        let surface = form.surface.parse().expect("a surface");
        Self { device: form.device, time: form.t, surface, key, payload, is_removal }
    }

    fn to_json(&self) -> String {
        format!("{{\"surface\":\"{}\",\"payload\":{}}}\n", self.surface, self.payload.as_str())
    }

    fn op(&self) -> Op {
        let (surface, key, payload) = (self.surface.clone(), self.key.as_str().into(), self.payload.clone());
        match self.surface.tier() {
            Tier::Registry if self.is_removal => Op::Delete { surface, key, preds: Vec::new() },
            Tier::Registry => Op::Put { surface, key, preds: Vec::new(), payload },
            _ => Op::Fact { surface, key, payload },
        }
    }

    fn new_op(&self) -> NewOp {
        let (surface, key, payload) = (self.surface.clone(), self.key.clone(), self.payload.clone());
        match self.surface.tier() {
            Tier::Registry if self.is_removal => NewOp::Delete { surface, key },
            Tier::Registry => NewOp::Put { surface, key, payload },
            _ => NewOp::Fact { surface, key, payload },
        }
    }
}

/// The made-up history, and the recorded one where it is at hand.
fn histories() -> Vec<Vec<Line>> {
    let mut histories = vec![made_up()];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/quinn-history.jsonl");
    match std::fs::read_to_string(&path) {
        Ok(text) => histories.push(text.lines().map(Line::parse).collect()),
        Err(error) => println!("the recorded history is skipped: {}: {error}", path.display()),
    }
    histories
}

/// Four devices that write, rewrite and remove forty files.
fn made_up() -> Vec<Line> {
    let mut chance = Chance(17);
    let line = |number: u64, chance: &mut Chance| {
        let device = chance.below(4);
        let text = if chance.below(5) == 0 {
            format!(r#""surface":"knowledge","payload":{{"id":"{number}","body":"change {number}"}}"#)
        } else {
            let (file, is_removal) = (chance.below(40), chance.below(4) == 0);
            format!(
                r#""surface":"registry:file","payload":{{"id":"src/{file} ü","blob":"{number:x}","deleted":{is_removal}}}"#
            )
        };
        Line::parse(&format!(r#"{{"t":{},"device":"dev-{device}",{text}}}"#, 1_600_000_000_000 + number))
    };
    (0..600).map(|number| line(number, &mut chance)).collect()
}

fn last_writers(lines: &[Line]) -> BTreeMap<String, &str> {
    let mut last = BTreeMap::new();
    for line in lines.iter().filter(|line| line.surface.tier() == Tier::Registry) {
        if line.is_removal {
            last.remove(&line.key);
        } else {
            last.insert(line.key.clone(), line.payload.as_str());
        }
    }
    last
}

fn fact_ids(lines: &[Line]) -> BTreeSet<&str> {
    lines.iter().filter(|line| line.surface.tier() == Tier::Facts).map(|line| line.key.as_str()).collect()
}

/// Devices without engines or networks: authors, folds, and a test that carries batches.
struct Fleet {
    devices: Vec<Device>,
    /// What each device has sealed, opened again.
    sealed: Vec<Vec<Batch>>,
    /// Which line an op came from.
    written: BTreeMap<Dot, usize>,
    space: SpaceId,
    key: EpochKey,
    opener: Opener,
    chance: Chance,
}

struct Device {
    identity: Identity,
    author: Author,
    sealer: Sealer,
    state: State,
    /// How many batches of each device it has folded.
    has: Vec<usize>,
}

struct Batch {
    sealed: kinfold::crypto::SealedBatch,
    body: Bytes,
}

impl Device {
    fn new(number: u8, space: SpaceId, count: usize) -> Self {
        let identity = Identity::from_secret(&[number + 1; 32]);
        let log = LogId { device: identity.device(), incarnation: Incarnation::new(1) };
        let sealer = Sealer::new(&identity);
        let (author, state) = (Author::new(log, Tip::NONE), State::new(space));
        Self { identity, author, sealer, state, has: vec![0; count] }
    }

    fn live(&self, surface: &Surface) -> Vec<(String, Dot)> {
        let rows = self.state.rows(surface, None, usize::MAX, RowFilter::Live);
        rows.into_iter().map(|listed| (listed.key, listed.row.shown().dot)).collect()
    }
}

impl Fleet {
    fn new(count: usize, seed: u64) -> Self {
        let space = SpaceId::from_bytes([8; 32]);
        let devices = (0..count).map(|n| Device::new(u8::try_from(n).unwrap(), space, count)).collect();
        Self {
            devices,
            sealed: (0..count).map(|_| Vec::new()).collect(),
            written: BTreeMap::new(),
            space,
            key: EpochKey::from_bytes([9; 32]),
            opener: Opener::new(),
            chance: Chance(seed),
        }
    }

    fn write(&mut self, line: &Line) {
        let device = deal(&line.device, self.devices.len());
        let Device { author, state, .. } = &mut self.devices[device];
        let seen = state.seen(&line.surface, &line.key);
        let seen = Seen { heads: seen.heads, greatest: seen.greatest };
        let now = Now { uptime: Duration::ZERO, wall: Wall::from_millis(line.time), entropy: [0; 32] };
        let draft = author.draft(line.op(), seen, &now);
        let (seq, hlc, kind, flags) = (draft.seq, draft.hlc, draft.kind, draft.flags);
        state.apply(&author.log(), &FrameView { seq, hlc, kind, flags, body: &draft.body });
        author.folded();
        let index = self.written.len();
        self.written.insert(Dot { log: author.log(), seq }, index);
    }

    /// Every few lines, one device gets some of what another has.
    fn deliver_something(&mut self) {
        if self.chance.below(4) == 0 {
            let (from, to) = (self.any_device(), self.any_device());
            self.seal(from);
            let missing = self.sealed[from].len() - self.devices[to].has[from];
            let count = self.chance.below(missing as u64 + 1);
            self.deliver(from, to, usize::try_from(count).unwrap());
        }
    }

    fn deliver_everything(&mut self) {
        for from in 0..self.devices.len() {
            self.seal(from);
            for to in 0..self.devices.len() {
                self.deliver(from, to, usize::MAX);
            }
        }
    }

    fn any_device(&mut self) -> usize {
        usize::try_from(self.chance.below(self.devices.len() as u64)).unwrap()
    }

    fn seal(&mut self, device: usize) {
        let mut number = self.sealed[device].len() as u64;
        let Device { identity, author, sealer, .. } = &mut self.devices[device];
        let mut entropy = || {
            number += 1;
            *blake3::hash(&number.to_be_bytes()).as_bytes()
        };
        let batches = author.seal(identity, sealer, &self.key, self.space.tag(), 1, &mut entropy);
        author.settle(author.tip().seq);
        for batch in batches {
            let sealed = batch.sealed().clone();
            let body = self.opener.open(&self.key, &sealed).expect("it was sealed under this key").into();
            self.sealed[device].push(Batch { sealed, body });
        }
    }

    fn deliver(&mut self, from: usize, to: usize, count: usize) {
        let receiver = &mut self.devices[to];
        let batches = self.sealed[from].iter().skip(receiver.has[from]).take(count);
        for batch in batches {
            receiver.has[from] += 1;
            if from != to {
                receiver.author.observe(fold(&mut receiver.state, batch), Wall::from_millis(0));
            }
        }
    }

    fn agreed_root(&mut self) -> Root {
        let roots: Vec<Root> = self.devices.iter_mut().map(|device| device.state.root()).collect();
        assert!(roots.iter().all(|root| *root == roots[0]), "{roots:?}");
        assert_eq!(self.devices[0].state.recomputed_root(), roots[0]);
        roots[0]
    }

    /// Whether each log passes the checks of whoever receives it.
    fn logs_hold(&self) {
        for log in &self.sealed {
            let run: Vec<_> = log.iter().map(|batch| batch.sealed.clone()).collect();
            let count = run.len();
            let admitted = LogChain::at(Tip::NONE).admit(run);
            assert_eq!((admitted.batches.len(), admitted.refused), (count, None));
        }
    }

    /// The root of all batches, folded in the order of their logs but of nothing else.
    fn folded_in_any_order(&self, seed: u64) -> Root {
        let mut chance = Chance(seed);
        let mut state = State::new(self.space);
        let mut left: Vec<&[Batch]> = self.sealed.iter().map(Vec::as_slice).collect();
        left.retain(|log| !log.is_empty());
        while !left.is_empty() {
            let pick = usize::try_from(chance.below(left.len() as u64)).unwrap();
            let (next, rest) = left[pick].split_first().expect("empty ones are dropped");
            fold(&mut state, next);
            left[pick] = rest;
            left.retain(|log| !log.is_empty());
        }
        state.root()
    }
}

/// Folds a batch; the greatest stamp in it.
fn fold(state: &mut State, batch: &Batch) -> kinfold::model::Hlc {
    let header = batch.sealed.header();
    let reader = BodyReader::new(&batch.body, header.first, header.op_count).expect("it was written here");
    let greatest = reader.clone().flatten().map(|frame| frame.hlc).max().expect("no batch is empty");
    state.apply_body(&header.log, reader, &mut |_| {}).expect("it was written here");
    greatest
}

/// Which device a name is dealt to.
fn deal(name: &str, count: usize) -> usize {
    usize::from(blake3::hash(name.as_bytes()).as_bytes()[0]) % count
}

/// A repository whose linear history adds, changes, renames and removes.
fn make_repository(path: &Path) -> bool {
    let git = |author: &str, arguments: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(path).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        for (name, value) in [("NAME", author), ("EMAIL", "a@example.org")] {
            git.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
        }
        git.status().is_ok_and(|status| status.success())
    };
    if !git("a", &["init"]) {
        return false;
    }
    let write = |name: &str, content: &str| {
        let file = path.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
    };
    let commit = |author: &str| {
        assert!(git(author, &["add", "--all"]));
        assert!(git(author, &["commit", "--message", "a change"]));
    };
    for number in 0..6 {
        write(&format!("dir/file {number}"), &"line\n".repeat(number + 1));
        write("same", "one content");
        commit("first");
    }
    assert!(git("a", &["mv", "dir/file 1", "moved \"quoted\" ü"]));
    commit("second");
    std::fs::remove_file(path.join("dir/file 2")).unwrap();
    write("dir/file 3", "changed");
    commit("third");
    // Removed and back again, and a directory where a file was.
    std::fs::remove_file(path.join("same")).unwrap();
    commit("first");
    write("same/nested", "one content");
    write("dir/file 2", "back");
    commit("second");
    true
}

fn git_tree(repository: &Path) -> BTreeMap<String, String> {
    let listed = Command::new("git").arg("-C").arg(repository).args(["ls-tree", "-r", "-z", "HEAD"]).output();
    let listed = String::from_utf8(listed.expect("git has run before").stdout).unwrap();
    let entries = listed.split('\0').filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let (about, path) = entry.split_once('\t').expect("git's own form");
            (path.to_owned(), about.split(' ').nth(2).expect("git's own form").to_owned())
        })
        .collect()
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("{name} of {value}")).to_owned()
}

pub fn is_long() -> bool {
    std::env::var_os("KINFOLD_LONG").is_some()
}

/// `KINFOLD_SEED`, or one that is always the same; printed, so that a failure can be repeated.
pub fn seed() -> u64 {
    let seed = std::env::var("KINFOLD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("KINFOLD_SEED={seed}");
    seed
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
