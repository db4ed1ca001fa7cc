//! Two nodes, two processes, loopback, both stores on disk: what syncing costs.
//!
//! `cargo bench --bench sync -- [COUNT…]` prints one table per count (100,000 by default). The
//! machine decides the absolute figures; the growth with the count and the ratios are what counts.

#[path = "shared/pair.rs"]
mod pair;
#[path = "shared/work.rs"]
mod work;

use std::path::Path;
use std::time::{Duration, Instant};

use kinfold::node::Custody;
use pair::{Server, acquaint, fill, loopback, open, rss, serve, until};
use work::note;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    match arguments.first().map(String::as_str) {
        Some("serve") => runtime.block_on(serve(Path::new(&arguments[1]), loopback())),
        _ => {
            let counts: Vec<u64> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
            let counts = if counts.is_empty() { vec![100_000] } else { counts };
            println!(
                "{:>9} | {:>10} {:>9} {:>7} {:>7} | {:>8} {:>8} {:>8} | {:>7} {:>7} | {:>9} {:>8}",
                "ops",
                "cold op/s",
                "durable",
                "B/op",
                "disk/op",
                "no-op ms",
                "1 op ms",
                "div. ms",
                "p50 ms",
                "p99 ms",
                "rss A MB",
                "rss B MB"
            );
            for count in counts {
                runtime.block_on(measure(count));
            }
        }
    }
}

/// One run over `count` ops.
async fn measure(count: u64) {
    let dir = tempfile::tempdir().expect("a directory");
    let (home_a, home_b) = (dir.path().join("a"), dir.path().join("b"));
    acquaint(&home_a, &home_b).await;

    let a = open(&home_a, loopback()).await;
    fill(&a, 0, count).await;
    a.stop().await.expect("stops");
    drop(a);

    let mut server = Server::start(&home_a, NOTHING);
    let b = open(&home_b, loopback()).await;
    let want = server.ask("frontier").parse::<u64>().expect("a number");
    b.start().await.expect("starts");
    let begun = Instant::now();
    b.add_peer(server.address.clone()).await.expect("an address");
    until(&b, || b.personal().frontier().op_count() >= want).await;
    let cold = begun.elapsed();
    b.wait_all(Custody::on(1)).await.expect("acknowledged");
    let durable = begun.elapsed();
    assert_eq!(b.personal().root().to_string(), server.ask("root"));
    let status = b.status().await.expect("a status");
    let wire = status.received_bytes as f64 / count as f64;
    let disk = allocated(&home_b.join("store")) as f64 / count as f64;

    // Nothing to do: reconnect with equal frontiers, then a round.
    let noop = median(9, || async {
        let begun = Instant::now();
        b.sync().await.expect("a round");
        begun.elapsed()
    })
    .await;

    // Live: durable append on A until readable on B.
    let surface = note();
    let mut live = Vec::new();
    for index in 0..300 {
        let key = format!("live {index:011}");
        let begun = Instant::now();
        server.ask(&format!("put {key}"));
        until(&b, || b.personal().get(&surface, &key).expect("readable").is_some()).await;
        live.push(begun.elapsed());
    }
    live.sort();
    let (rss_a, rss_b) = (server.ask("rss"), rss());
    server.stop();
    b.stop().await.expect("stops");
    drop(b);

    // One op's difference, and a thousand each way, over a fresh connection.
    let mut one = Vec::new();
    for round in 0..5 {
        one.push(diverged(&home_a, &home_b, 10_000_000 + round * 10, 1, 0).await);
    }
    one.sort();
    let mut both = Vec::new();
    for round in 0..3 {
        both.push(diverged(&home_a, &home_b, 20_000_000 + round * 10_000, 1_000, 1_000).await);
    }
    both.sort();
    println!(
        "{count:>9} | {:>10.0} {:>9.0} {wire:>7.1} {disk:>7.1} | {:>8.2} {:>8.2} {:>8.2} | {:>7.2} {:>7.2} | {rss_a:>9} {rss_b:>8}",
        count as f64 / cold.as_secs_f64(),
        count as f64 / durable.as_secs_f64(),
        millis(noop),
        millis(one[one.len() / 2]),
        millis(both[both.len() / 2]),
        millis(live[live.len() / 2]),
        millis(live[live.len() * 99 / 100]),
    );
}

/// Writes on both sides while apart, then measures from the dial until both hold everything.
async fn diverged(home_a: &Path, home_b: &Path, from: u64, on_a: u64, on_b: u64) -> Duration {
    let a = open(home_a, loopback()).await;
    fill(&a, from, on_a).await;
    a.stop().await.expect("stops");
    drop(a);
    let b = open(home_b, loopback()).await;
    fill(&b, from + 5_000, on_b).await;
    b.personal().root();
    let server = Server::start(home_a, NOTHING);
    b.start().await.expect("starts");
    let begun = Instant::now();
    b.add_peer(server.address.clone()).await.expect("an address");
    let want = server.op_count + on_b;
    let mut version = b.version();
    loop {
        version.mark_unchanged();
        let is_received = b.status().await.expect("a status").op_count >= want;
        if is_received && b.safe_to_sleep().await.expect("running").is_safe() {
            break;
        }
        version.changed().await.expect("running");
    }
    let took = begun.elapsed();
    server.stop();
    b.stop().await.expect("stops");
    took
}

async fn median<F: Future<Output = Duration>>(runs: usize, mut run: impl FnMut() -> F) -> Duration {
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        times.push(run().await);
    }
    times.sort();
    times[runs / 2]
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// Bytes of disk the files of a directory take.
fn allocated(dir: &Path) -> u64 {
    #[cfg(unix)]
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir(dir).expect("readable");
    entries.map(|entry| entry.expect("readable").metadata().expect("readable").blocks() * 512).sum()
}

/// Both sides run with the defaults.
const NOTHING: &[&str] = &[];
