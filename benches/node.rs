//! One node without a network: appending, reading back, opening a home, and what it costs in memory.
//!
//! `cargo bench --bench node -- [ROWS]` (1,000,000 by default). Read it against the limits above it.

#[path = "shared/limits.rs"]
mod limits;
#[path = "shared/work.rs"]
mod work;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kinfold::node::{NewOp, Node};
use work::{key, note, payload, put};

fn main() {
    let rows = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    limits::print();
    println!("\none node, no network");
    runtime.block_on(async {
        append_alone().await;
        append_together().await;
        bulk_and_open(rows).await;
    });
}

/// One caller, one op per call, against one commit of the bare store.
async fn append_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = fresh(dir.path()).await;
    let mut times = Vec::new();
    for index in 0..1_000 {
        let begun = Instant::now();
        node.personal().append(vec![put(index)]).await.expect("durable");
        times.push(begun.elapsed());
    }
    node.stop().await.expect("stops");
    times.sort();
    let bare = limits::store_commit(430);
    let median = times[times.len() / 2];
    println!(
        "  append, one op per call     {:>9.0} µs p50, {:.0} µs p99 ({:.2} × a bare commit of {:.0} µs)",
        micros(median),
        micros(times[times.len() * 99 / 100]),
        median.as_secs_f64() / bare.as_secs_f64(),
        micros(bare)
    );
}

/// A thousand callers at once.
async fn append_together() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Arc::new(fresh(dir.path()).await);
    let mut rates = Vec::new();
    for round in 0..3u64 {
        let begun = Instant::now();
        let callers: Vec<_> = (0..1_000u64)
            .map(|caller| {
                let node = Arc::clone(&node);
                tokio::spawn(async move {
                    for index in 0..50 {
                        let op = put(round * 1_000_000 + caller * 1_000 + index);
                        node.personal().append(vec![op]).await.expect("durable");
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.expect("a caller");
        }
        rates.push(50_000.0 / begun.elapsed().as_secs_f64());
    }
    node.stop().await.expect("stops");
    rates.sort_by(f64::total_cmp);
    println!("  append, 1,000 callers       {:>9.0} ops/s", rates[1]);
}

/// Many rows: writing them, reading one, stopping, opening again.
async fn bulk_and_open(rows: u64) {
    let dir = tempfile::tempdir().expect("a directory");
    let node = fresh(dir.path()).await;
    let before = resident();
    let begun = Instant::now();
    let mut next = 0;
    while next < rows {
        let end = (next + 4_096).min(rows);
        node.personal().append((next..end).map(put).collect()).await.expect("durable");
        next = end;
    }
    println!("  append in groups of 4,096   {:>9.0} ops/s", rows as f64 / begun.elapsed().as_secs_f64());
    println!(
        "  memory at {rows} rows     {:>9.0} MB, {:.0} B a row beyond the start",
        resident() as f64 / 1e6,
        (resident().saturating_sub(before)) as f64 / rows as f64
    );
    let begun = Instant::now();
    node.stop().await.expect("stops");
    println!("  stop, with an index snapshot{:>9.0} ms", millis(begun.elapsed()));
    drop(node);

    let begun = Instant::now();
    let node = Node::builder(dir.path().join("home")).open().await.expect("opens");
    let frontiers = begun.elapsed();
    node.personal().root();
    println!(
        "  open                        {:>9.1} ms to frontiers, {:.0} ms to everything",
        millis(frontiers),
        millis(begun.elapsed())
    );
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for index in 0..2_000u64 {
        let wanted = key(index.wrapping_mul(0x9e37_79b9_7f4a_7c15) % rows);
        for times in [&mut cold, &mut warm] {
            let begun = Instant::now();
            let row = node.personal().get(&note(), &wanted).expect("readable");
            times.push(begun.elapsed());
            assert!(row.is_some());
        }
    }
    cold.sort();
    warm.sort();
    println!(
        "  read one row of them        {:>9.1} µs cold (block cache), {:.1} µs warm",
        micros(cold[cold.len() / 2]),
        micros(warm[warm.len() / 2])
    );
    node.stop().await.expect("stops");
}

async fn fresh(dir: &Path) -> Node {
    Node::init(&dir.join("home"), "bench").expect("an empty directory");
    let node = Node::builder(dir.join("home")).open().await.expect("opens");
    node.personal()
        .append(vec![NewOp::Put { surface: note(), key: "first".into(), payload: payload(0) }])
        .await
        .expect("durable");
    node
}

/// Resident memory in bytes, where the system tells.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("VmRSS: 0 kB");
    line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0) * 1_024
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
