//! The stages of sealing and ingesting, each alone and all together, without a network.
//!
//! `cargo bench --bench ingest -- [OPS]` (100,000 by default). The pipeline is to be read against
//! its slowest stage.

#[path = "shared/work.rs"]
mod work;

use std::time::{Duration, Instant};

use kinfold::crypto::{EpochKey, Identity, Opener, SealedBatch, Sealer};
use kinfold::fold::State;
use kinfold::model::{Incarnation, LogId, Now, Op, Scope, Seq, SpaceId, Tip, Wall};
use kinfold::node::NewOp;
use kinfold::oplog::{Author, LogChain, Seen};
use kinfold::store::Store;
use kinfold::sync::{Txn, TxnId, Write};
use kinfold::wire::BodyReader;

fn main() {
    let count: u64 = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(100_000);
    let bench = Bench::new(count);
    println!("{count} ops of about 165 bytes, one thread, median of {RUNS}");
    let rows = [
        ("seal (encode, zstd, AEAD, sign)", bench.median(|bench| drop(bench.seal()))),
        ("verify a run (chain, one signature)", bench.median(|bench| drop(bench.verify()))),
        ("open (AEAD, zstd, frames)", bench.median(|bench| drop(bench.open()))),
        ("fold (rows and root)", bench.median(Bench::fold)),
        ("commit, 1 MiB a transaction", bench.median(Bench::commit)),
    ];
    let slowest = rows[1..].iter().map(|(_, took)| *took).max().expect("there are stages");
    for (name, took) in rows {
        print(name, count, took);
    }
    let whole = bench.median(Bench::whole);
    print("ingest: verify, open, commit, fold", count, whole);
    println!("ingest at {:.0} % of its slowest stage", 100.0 * slowest.as_secs_f64() / whole.as_secs_f64());
}

struct Bench {
    identity: Identity,
    key: EpochKey,
    space: SpaceId,
    log: LogId,
    ops: Vec<Op>,
    sealed: Vec<SealedBatch>,
    bodies: Vec<Vec<u8>>,
}

impl Bench {
    fn new(count: u64) -> Self {
        let identity = Identity::from_secret(&[7; 32]);
        let log = LogId { device: identity.device(), incarnation: Incarnation::new(1) };
        let ops = (0..count)
            .map(|index| match work::put(index) {
                NewOp::Put { surface, key, payload } => {
                    Op::Put { surface, key: key.into(), preds: Vec::new(), payload }
                }
                _ => unreachable!("the workload puts rows"),
            })
            .collect();
        let mut bench = Self {
            identity,
            key: EpochKey::from_bytes([9; 32]),
            space: SpaceId::from_bytes([3; 32]),
            log,
            ops,
            sealed: Vec::new(),
            bodies: Vec::new(),
        };
        bench.sealed = bench.seal();
        bench.bodies = bench.open();
        bench
    }

    fn median(&self, mut run: impl FnMut(&Self)) -> Duration {
        let mut times: Vec<Duration> = (0..RUNS)
            .map(|_| {
                let begun = Instant::now();
                run(self);
                begun.elapsed()
            })
            .collect();
        times.sort();
        times[RUNS / 2]
    }

    fn seal(&self) -> Vec<SealedBatch> {
        let mut sealer = Sealer::new(&self.identity);
        let mut author = Author::new(self.log, Tip::NONE);
        let now = Now { uptime: Duration::ZERO, wall: Wall::from_millis(1), entropy: [0; 32] };
        let mut drawn = 0u64;
        let mut sealed = Vec::new();
        for group in self.ops.chunks(2_048) {
            for op in group {
                author.draft(op.clone(), Seen::default(), &now);
            }
            let batches =
                author.seal(&self.identity, &mut sealer, &self.key, self.space.tag(), 1, &mut || {
                    drawn += 1;
                    *blake3::hash(&drawn.to_be_bytes()).as_bytes()
                });
            author.folded();
            author.settle(author.tip().seq);
            sealed.extend(batches.into_iter().map(|batch| batch.sealed().clone()));
        }
        sealed
    }

    fn verify(&self) -> LogChain {
        let mut chain = LogChain::at(Tip::NONE);
        for run in self.sealed.chunks(64) {
            let parsed =
                run.iter().map(|batch| SealedBatch::parse(batch.bytes().clone()).expect("sealed here"));
            assert_eq!(chain.admit(parsed.collect()).batches.len(), run.len());
        }
        chain
    }

    fn open(&self) -> Vec<Vec<u8>> {
        let mut opener = Opener::new();
        let open = |batch: &SealedBatch| {
            let body = opener.open(&self.key, batch).expect("sealed here");
            BodyReader::check(&body, batch.header().first, batch.header().op_count).expect("sealed here");
            body
        };
        self.sealed.iter().map(open).collect()
    }

    fn fold(&self) {
        let mut state = State::new(self.space);
        for (batch, body) in self.sealed.iter().zip(&self.bodies) {
            let reader = BodyReader::new(body, batch.header().first, batch.header().op_count);
            state.apply_body(&self.log, reader.expect("readable"), &mut |_| {}).expect("readable");
        }
        state.root();
    }

    fn commit(&self) {
        let (_dir, store) = self.store();
        for (index, run) in self.sealed.chunks(160).enumerate() {
            self.commit_run(&store, index as u64, run.to_vec());
        }
    }

    fn whole(&self) {
        let (_dir, store) = self.store();
        let (mut chain, mut opener) = (LogChain::at(Tip::NONE), Opener::new());
        let mut state = State::new(self.space);
        for (index, run) in self.sealed.chunks(160).enumerate() {
            let parsed =
                run.iter().map(|batch| SealedBatch::parse(batch.bytes().clone()).expect("sealed here"));
            let admitted = chain.admit(parsed.collect());
            let bodies: Vec<_> = admitted
                .batches
                .iter()
                .map(|batch| opener.open(&self.key, batch.sealed()).expect("sealed here"))
                .collect();
            self.commit_run(&store, index as u64, run.to_vec());
            for (batch, body) in run.iter().zip(&bodies) {
                let reader = BodyReader::new(body, batch.header().first, batch.header().op_count);
                state.apply_body(&self.log, reader.expect("readable"), &mut |_| {}).expect("readable");
            }
            state.root();
        }
    }

    fn store(&self) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, _) = Store::open(dir.path(), &[1; 32]).expect("a fresh store");
        let begin = Write::Space {
            space: self.space,
            scope: Scope::Personal,
            own_log: self.log,
            is_active: true,
            carried: Seq::ZERO,
            dropped: 0,
        };
        store.commit(&[Txn { id: TxnId::new(1), writes: vec![begin] }]).expect("durable");
        (dir, store)
    }

    fn commit_run(&self, store: &Store, index: u64, batches: Vec<SealedBatch>) {
        let writes = vec![Write::Batches { space: self.space, log: self.log, batches }];
        store.commit(&[Txn { id: TxnId::new(index + 2), writes }]).expect("durable");
    }
}

fn print(name: &str, count: u64, took: Duration) {
    println!(
        "  {name:<38} {:>10.0} ops/s  {:>6.2} µs",
        count as f64 / took.as_secs_f64(),
        took.as_secs_f64() * 1e6 / count as f64
    );
}

const RUNS: usize = 5;
