//! Two nodes, two processes, and a bad network between them: which congestion controller serves.
//!
//! `cargo bench --bench link -- [COUNT]` (100,000 by default) syncs a cold device over loopback and
//! through a relay with delay, a rate and loss, with each controller, three times, in turn. Rows are
//! medians; figures of one run compare, absolute ones are the machine's.

#[path = "shared/pair.rs"]
mod pair;
#[path = "shared/relay.rs"]
mod relay;
#[path = "shared/work.rs"]
mod work;

use std::path::Path;
use std::time::{Duration, Instant};

use kinfold::net::{Congestion, NetConfig};
use kinfold::node::Custody;
use pair::{Server, acquaint, fill, loopback, open, serve, until};
use relay::Relay;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    match arguments.first().map(String::as_str) {
        Some("serve") => {
            let config = config(controller(&arguments[2]), arguments[3] == "relay");
            runtime.block_on(serve(Path::new(&arguments[1]), config));
        }
        _ => {
            let count = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(100_000);
            runtime.block_on(compare(count));
        }
    }
}

/// Every network with every controller, in turn, so that a busy moment of the machine meets all.
async fn compare(count: u64) {
    let dir = tempfile::tempdir().expect("a directory");
    let (home_a, home_b) = (dir.path().join("a"), dir.path().join("b"));
    acquaint(&home_a, &home_b).await;
    let a = open(&home_a, loopback()).await;
    fill(&a, 0, count).await;
    a.stop().await.expect("stops");
    drop(a);

    println!(
        "{:>30} | {:>10} {:>10} {:>6} | {:>9} {:>9} {:>6}",
        "ops/s, sent B/op", "cubic", "bbr", "ratio", "cubic", "bbr", "ratio"
    );
    for (name, path) in NETWORKS {
        let mut runs = [Vec::new(), Vec::new()];
        for round in 0..RUNS {
            for (controller, runs) in ["cubic", "bbr"].iter().zip(&mut runs) {
                let homes = dir.path().join(format!("{controller} {round} {name}"));
                copy(&home_a, &homes.join("a"));
                copy(&home_b, &homes.join("b"));
                runs.push(cold(&homes, controller, *path, round).await);
                std::fs::remove_dir_all(&homes).expect("ours");
            }
        }
        let [cubic, bbr] = runs.map(|mut runs| {
            runs.sort_by_key(|run| run.0);
            let (took, sent) = runs[RUNS as usize / 2];
            (count as f64 / took.as_secs_f64(), sent as f64 / count as f64)
        });
        println!(
            "{name:>30} | {:>10.0} {:>10.0} {:>6.2} | {:>9.1} {:>9.1} {:>6.2}",
            cubic.0,
            bbr.0,
            bbr.0 / cubic.0,
            cubic.1,
            bbr.1,
            bbr.1 / cubic.1
        );
    }
}

/// From the dial until everything is durable on the receiving side; the bytes its peer sent.
async fn cold(homes: &Path, controller_name: &str, path: Option<relay::Path>, round: u64) -> (Duration, u64) {
    let way = if path.is_some() { "relay" } else { "loopback" };
    let mut server = Server::start(&homes.join("a"), &[controller_name, way]);
    let b = open(&homes.join("b"), config(controller(controller_name), path.is_some())).await;
    let direct = server.address.parse().expect("an address");
    let relay = path.map(|path| Relay::start(direct, path, 0x9e37_79b9 + round));
    let address = relay.as_ref().map_or(direct, Relay::address);
    b.start().await.expect("starts");
    let begun = Instant::now();
    b.add_peer(address.to_string()).await.expect("an address");
    let want = server.op_count;
    until(&b, || b.personal().frontier().op_count() >= want).await;
    let took = begun.elapsed();
    b.wait_all(Custody::on(1)).await.expect("acknowledged");
    assert_eq!(b.personal().root().to_string(), server.ask("root"));
    let sent = server.ask("sent").parse().expect("a number");
    b.stop().await.expect("stops");
    server.stop();
    (took, sent)
}

fn config(congestion: Congestion, is_relayed: bool) -> NetConfig {
    let plain = loopback();
    // Below the default, so that the relay is not taken for loopback with its long packets.
    let max_mtu = if is_relayed { plain.max_mtu - 1 } else { plain.max_mtu };
    NetConfig { congestion, max_mtu, ..plain }
}

fn controller(name: &str) -> Congestion {
    if name == "bbr" { Congestion::Bbr } else { Congestion::Cubic }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let kind = entry.file_type().expect("readable");
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), target).expect("room");
        }
    }
}

const fn path(delay_ms: u64, rate_mbit: u32, loss_ppm: u32) -> Option<relay::Path> {
    Some(relay::Path { delay: Duration::from_millis(delay_ms), rate_mbit, loss_ppm })
}

/// Delay each way, rate, loss.
const NETWORKS: &[(&str, Option<relay::Path>)] = &[
    ("loopback", None),
    ("3 ms, 200 Mbit/s", path(3, 200, 0)),
    ("3 ms, 200 Mbit/s, 0.1 %", path(3, 200, 1_000)),
    ("3 ms, 200 Mbit/s, 1 %", path(3, 200, 10_000)),
    ("20 ms, 50 Mbit/s, 0.1 %", path(20, 50, 1_000)),
];

const RUNS: u64 = 3;
