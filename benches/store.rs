//! What the store costs: commits, bytes on disk, reads, snapshots. Prints a table.
//!
//! `cargo bench --bench store [-- DIR]`; the store lies in `DIR` or the system's temporary folder.
//! Ops are registry-like: a 16-byte id and about 150 bytes of JSON made of words and numbers.

use std::hint::black_box;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use kinfold::crypto::{EpochKey, Identity, SealInput, SealedBatch, Sealer};
use kinfold::model::{Dot, Hlc, Incarnation, LogId, Scope, Seq, SpaceId, Tip};
use kinfold::store::{Blocks, KeyRing, Store};
use kinfold::sync::{Txn, TxnId, Write};
use kinfold::wire::body::BodyWriter;

fn main() {
    let parent = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let home = if parent.is_empty() { tempfile::tempdir() } else { tempfile::tempdir_in(parent) }.unwrap();
    println!("{:<44}{:>12}{:>12}{:>14}", "", "p50", "p99", "");
    bare_sync(home.path());
    for (name, batch_count, op_count, op_bytes, rounds) in [
        ("commit of one small batch", 1, 1, 120, 300),
        ("commit of one batch of 10 KB", 1, 1, 10_000, 300),
        ("commit of 16 batches of 10 KB", 16, 1, 10_000, 100),
        ("commit of 32 batches of 32 KB", 32, 1, 32_000, 50),
    ] {
        commits(home.path(), name, Shape { batch_count, op_count, op_bytes }, rounds);
    }
    small_live(home.path());
    bulk(home.path(), 100_000);
    reads(home.path(), 1_000_000);
    snapshots(home.path());
}

struct Shape {
    batch_count: usize,
    op_count: u32,
    op_bytes: usize,
}

/// What the disk costs without any store.
fn bare_sync(home: &Path) {
    let mut file = std::fs::File::create(home.join("bare")).unwrap();
    file.write_all(&[1; 65_536]).unwrap();
    file.sync_all().unwrap();
    let times = (0..300).map(|_| {
        let started = Instant::now();
        std::os::unix::fs::FileExt::write_all_at(&file, &[2; 4096], 4096).unwrap();
        file.sync_data().unwrap();
        started.elapsed()
    });
    print_times("limit: write 4 KiB and sync", times.collect(), "");
}

fn commits(home: &Path, name: &str, shape: Shape, rounds: usize) {
    let mut author = Author::new();
    let store = open(&home.join(format!("commit-{}-{}", shape.batch_count, shape.op_bytes)), &author);
    let mut bytes = 0;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let batches: Vec<_> = (0..shape.batch_count)
            .map(|_| author.batch(shape.op_count, Content::Random(shape.op_bytes)))
            .collect();
        bytes += batches.iter().map(|batch| batch.bytes().len()).sum::<usize>();
        times.push(author.commit(&store, batches));
    }
    let total: Duration = times.iter().sum();
    let rate = format!("{:.0} MB/s", bytes as f64 / 1e6 / total.as_secs_f64());
    print_times(name, times, &rate);
}

/// Batches of one op, each its own commit: what a live session leaves on disk.
fn small_live(home: &Path) {
    let mut author = Author::new();
    let dir = home.join("live");
    let store = open(&dir, &author);
    let before = disk_bytes(&dir);
    let count = 3_000;
    let mut sealed = 0;
    for _ in 0..count {
        let batch = author.batch(1, Content::Row);
        sealed += batch.bytes().len();
        author.commit(&store, vec![batch]);
    }
    drop(store);
    print_bytes("live batches of one op", disk_bytes(&dir) - before, sealed, count);
}

fn bulk(home: &Path, op_count: usize) {
    for per_commit in [16, 64, 256] {
        let mut author = Author::new();
        let dir = home.join(format!("bulk-{per_commit}"));
        let store = open(&dir, &author);
        let before = disk_bytes(&dir);
        let (mut sealed, mut elapsed, mut left) = (0, Duration::ZERO, op_count / 128);
        while left > 0 {
            let batches: Vec<_> =
                (0..per_commit.min(left)).map(|_| author.batch(128, Content::Row)).collect();
            left -= batches.len();
            sealed += batches.iter().map(|batch| batch.bytes().len()).sum::<usize>();
            elapsed += author.commit(&store, batches);
        }
        let ops = author.tip.seq.get() as usize;
        let name = format!("bulk, {per_commit} batches of 128 ops per commit");
        print_bytes(&name, disk_bytes(&dir) - before, sealed, ops);
        println!("{:<44}{:>12.0} ops/s", "", ops as f64 / elapsed.as_secs_f64());
        let (mut after, started) = (Seq::ZERO, Instant::now());
        while let Some(run) = store.run(&author.space, &author.log, after, author.tip.seq, 1 << 20).unwrap() {
            after = run.last;
            black_box(run.bytes);
        }
        println!("{:<44}{:>12.0} ops/s", "  read back as runs", ops as f64 / started.elapsed().as_secs_f64());
        drop(store);
        print_bytes("  after closing", disk_bytes(&dir) - before, sealed, ops);
    }
}

fn reads(home: &Path, op_count: usize) {
    let mut author = Author::new();
    let dir = home.join("reads");
    let store = open(&dir, &author);
    for _ in 0..op_count / 128 / 64 {
        let batches = (0..64).map(|_| author.batch(128, Content::Row)).collect();
        author.commit(&store, batches);
    }
    let keys = KeyRing::default();
    keys.insert(author.key.clone());
    let uncached = Blocks::with_cache(store.clone(), keys.clone(), 0);
    let most = author.tip.seq.get();
    let mut chance = Chance(1);
    let mut read = |blocks: &Blocks, most: u64| {
        let dot = Dot { log: author.log, seq: Seq::new(1 + chance.next() % most) };
        let started = Instant::now();
        black_box(blocks.op(&author.space, &dot).unwrap().unwrap());
        started.elapsed()
    };
    print_times("cold read of one op of 1M", (0..5_000).map(|_| read(&uncached, most)).collect(), "");
    let blocks = Blocks::new(store.clone(), keys);
    let warm = 40_000;
    for _ in 0..4 {
        (0..5_000).for_each(|_| {
            read(&blocks, warm);
        });
    }
    print_times("warm read of one op", (0..100_000).map(|_| read(&blocks, warm)).collect(), "");
    // A copy of the file while it is open is what a killed process leaves.
    let killed = home.join("killed");
    std::fs::create_dir(&killed).unwrap();
    std::fs::copy(dir.join("log.redb"), killed.join("log.redb")).unwrap();
    drop((store, blocks, uncached));
    for (name, dir) in [("open a store of 1M ops", dir), ("open it after a kill", killed)] {
        let started = Instant::now();
        let store = Store::open(&dir, &LOCAL_KEY).unwrap();
        print_times(name, vec![started.elapsed()], "");
        drop(store);
    }
}

fn snapshots(home: &Path) {
    let author = Author::new();
    let store = open(&home.join("snapshots"), &author);
    let mut chance = Chance(2);
    // Rows of an index: names that resemble each other, positions, flags.
    let chunks: Vec<Vec<u8>> = (0..160)
        .map(|_| {
            let mut chunk = Vec::new();
            while chunk.len() < 256 * 1024 {
                let _ = write!(chunk, "registry:file/{:016x}", chance.next());
                chunk.extend_from_slice(&(chance.next() % 1_000_000).to_be_bytes());
                chunk.extend_from_slice(&[0; 16]);
            }
            chunk
        })
        .collect();
    let bytes: usize = chunks.iter().map(Vec::len).sum();
    let started = Instant::now();
    store.save_snapshot(&author.space, |sink| chunks.iter().for_each(|chunk| sink(chunk))).unwrap();
    let saved = started.elapsed();
    let started = Instant::now();
    let mut read = 0;
    store
        .load_snapshot(&author.space, |chunk| {
            read += chunk.len();
            ControlFlow::Continue(())
        })
        .unwrap();
    let loaded = started.elapsed();
    assert_eq!(read, bytes);
    print_times(&format!("save a snapshot of {} MB", bytes / 1_000_000), vec![saved], "");
    print_times(&format!("load a snapshot of {} MB", bytes / 1_000_000), vec![loaded], "");
}

enum Content {
    Random(usize),
    Row,
}

struct Author {
    space: SpaceId,
    log: LogId,
    key: EpochKey,
    identity: Identity,
    sealer: Sealer,
    tip: Tip,
    chance: Chance,
    txn_count: u64,
}

impl Author {
    fn new() -> Self {
        let identity = Identity::from_secret(&[1; 32]);
        Self {
            space: SpaceId::from_bytes([2; 32]),
            log: LogId { device: identity.device(), incarnation: Incarnation::new(3) },
            key: EpochKey::from_bytes([4; 32]),
            sealer: Sealer::new(&identity),
            identity,
            tip: Tip::NONE,
            chance: Chance(5),
            txn_count: 0,
        }
    }

    fn batch(&mut self, op_count: u32, content: Content) -> SealedBatch {
        let mut writer = BodyWriter::new();
        for index in 0..op_count {
            let body = match content {
                Content::Random(bytes) => (0..bytes).map(|_| self.chance.next() as u8).collect(),
                Content::Row => self.row(),
            };
            writer.push(Hlc::new((1_700_000_000_000 << 16) + u64::from(index) * 70_000), 1, 0, &body);
        }
        let (body, op_count) = writer.finish();
        let input = SealInput {
            scope: self.space.tag(),
            log: self.log,
            first: self.tip.seq.next(),
            op_count,
            roster_gen: 1,
            prev: self.tip.hash,
            body: &body,
            entropy: [6; 32],
        };
        let batch = self.sealer.seal(&self.identity, &self.key, &input);
        self.tip = Tip { seq: batch.header().last(), hash: batch.link() };
        batch
    }

    /// A registry write: surface, 16 random characters, words and numbers.
    fn row(&mut self) -> Vec<u8> {
        let mut word = || WORDS[self.chance.next() as usize % WORDS.len()];
        let title = [word(), word(), word(), word(), word()].join(" ");
        let (owner, state) = (word(), word());
        let (id, count, at) =
            (self.chance.next(), self.chance.next() % 10_000, self.chance.next() % 100_000_000);
        format!(
            "registry:file{id:016x}{{\"count\":{count},\"owner\":\"{owner}\",\"state\":\"{state}\",\"title\":\"{title}\",\"updated\":17{at:08}}}"
        )
        .into_bytes()
    }

    fn commit(&mut self, store: &Store, batches: Vec<SealedBatch>) -> Duration {
        self.txn_count += 1;
        let write = Write::Batches { space: self.space, log: self.log, batches };
        let txn = Txn { id: TxnId::new(self.txn_count), writes: vec![write] };
        let started = Instant::now();
        store.commit(std::slice::from_ref(&txn)).unwrap();
        started.elapsed()
    }
}

fn open(dir: &Path, author: &Author) -> Store {
    let (store, _) = Store::open(dir, &LOCAL_KEY).unwrap();
    let write = Write::Space {
        space: author.space,
        scope: Scope::Personal,
        own_log: author.log,
        is_active: true,
        carried: Seq::ZERO,
        dropped: 0,
    };
    store.commit(&[Txn { id: TxnId::new(0), writes: vec![write] }]).unwrap();
    store
}

/// Bytes the store file takes on disk, holes not counted.
fn disk_bytes(dir: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(dir.join("log.redb")).unwrap()) * 512
}

fn print_times(name: &str, mut times: Vec<Duration>, note: &str) {
    times.sort_unstable();
    let at = |permille: usize| times[(times.len() - 1) * permille / 1000];
    println!("{name:<44}{:>12}{:>12}{note:>14}", format!("{:.1?}", at(500)), format!("{:.1?}", at(990)));
}

fn print_bytes(name: &str, on_disk: u64, sealed: usize, op_count: usize) {
    let per_op = |bytes: f64| bytes / op_count as f64;
    println!("{name:<44}{:>8.1} B/op on disk, {:.1} sealed", per_op(on_disk as f64), per_op(sealed as f64));
}

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

const LOCAL_KEY: [u8; 32] = [7; 32];

const WORDS: [&str; 32] = [
    "meeting", "draft", "review", "invoice", "garden", "project", "notes", "travel", "budget", "family",
    "report", "design", "release", "kitchen", "photos", "library", "network", "backup", "contract", "school",
    "summer", "weekly", "planning", "receipt", "archive", "client", "server", "letter", "music", "recipe",
    "ticket", "window",
];
