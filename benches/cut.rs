//! The root of a space at a cut, folded anew from the log: how long it takes, and how much memory.
//!
//! `cargo bench --bench cut -- [OPS [ROWS]]`, by default for 100,000 ops on as many rows, a million ops on 100,000
//! rows, and a million ops on a million rows. Each is measured in a process of its own, which has the node and its
//! state before; what is printed comes on top of that.

#[path = "shared/work.rs"]
#[allow(dead_code)]
mod work;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use kinfold::net::{Mdns, NetConfig};
use kinfold::node::{NewOp, Node};
use work::{key, note, payload};

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<u64>().ok());
    if let Some(home) = std::env::var_os(HOME) {
        return runtime.block_on(measure(Path::new(&home), numbers.next().expect("the rows")));
    }
    let cases = match numbers.next() {
        Some(ops) => vec![(ops, numbers.next().unwrap_or(ops))],
        None => vec![(100_000, 100_000), (1_000_000, 100_000), (1_000_000, 1_000_000)],
    };
    println!(
        "{:>10}{:>11}{:>11}{:>13}{:>12}{:>12}",
        "ops", "rows", "the root", "at the peak", "the state", "a row"
    );
    for (ops, rows) in cases {
        let directory = tempfile::tempdir().expect("a directory");
        let home = directory.path().join("home");
        runtime.block_on(fill(&home, ops, rows));
        print!("{ops:>10}{rows:>11}");
        std::io::Write::flush(&mut std::io::stdout()).expect("it can be written to");
        let program = std::env::current_exe().expect("it runs");
        let status = Command::new(program).arg(rows.to_string()).env(HOME, &home).status().expect("starts");
        assert!(status.success());
    }
}

async fn fill(home: &Path, ops: u64, rows: u64) {
    Node::init(home, "cut").expect("an empty directory");
    let node = open(home).await;
    let mut next = 0;
    while next < ops {
        let end = (next + 2_048).min(ops);
        let put =
            |index: u64| NewOp::Put { surface: note(), key: key(index % rows), payload: payload(index) };
        node.personal().append((next..end).map(put).collect()).await.expect("durable");
        next = end;
    }
    node.stop().await.expect("stops");
}

async fn measure(home: &Path, rows: u64) {
    let node = open(home).await;
    let space = node.personal();
    let positions = space.positions().expect("loads");
    let before = memory("VmRSS:");
    // From here on the peak counts anew.
    std::fs::write("/proc/self/clear_refs", "5").expect("it is this process");
    let begun = Instant::now();

    let at = space.state_at(positions).await.expect("folds");

    let time = begun.elapsed();
    assert_eq!(at.root(), space.root());
    let (peak, held) = (memory("VmHWM:") - before, memory("VmRSS:") - before);
    println!(
        "{:>9.2} s{peak:>9.1} MiB{held:>8.1} MiB{:>10.0} B",
        time.as_secs_f64(),
        held * 1024.0 * 1024.0 / rows as f64
    );
    drop(at);
    node.stop().await.expect("stops");
}

async fn open(home: &Path) -> Node {
    let config = NetConfig { mdns: Mdns::Off, ..NetConfig::default() };
    Node::builder(home).net_config(config).open().await.expect("opens")
}

/// A figure of this process, in MiB; 0 where the system does not tell.
fn memory(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    let kib: Option<f64> = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok());
    kib.unwrap_or(0.0) / 1024.0
}

const HOME: &str = "KINFOLD_BENCH_HOME";
