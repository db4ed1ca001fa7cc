//! A new device that takes over a space: by replaying its history, and by beginning with a checkpoint of it;
//! and what the stores of devices that drop the history take beside its store.
//!
//! `cargo bench --bench bootstrap -- [OPS [ROWS]]` (1,000,000 ops on 100,000 rows by default). Nodes in this
//! process on loopback, each with its store on disk.

#[allow(dead_code)]
#[path = "shared/pair.rs"]
mod pair;
#[path = "shared/work.rs"]
mod work;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kinfold::node::{Custody, Grace, NewOp, Node, NodeError};
use kinfold::roster::Role;
use pair::{loopback, open, until};
use work::{key, note, payload};

fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<u64>().ok());
    let (ops, rows) = (numbers.next().unwrap_or(1_000_000), numbers.next().unwrap_or(100_000));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(ops, rows));
}

async fn measure(ops: u64, rows: u64) {
    let directory = tempfile::tempdir().expect("a directory");
    let a = made(&directory.path().join("a")).await;
    fill(&a, 0..ops, rows).await;
    a.start().await.expect("starts");

    println!("{ops} ops on {rows} rows, to a new device on loopback");
    let b = made(&directory.path().join("b")).await;
    let replay = take_over(&a, &b, "b").await;
    print("replayed", &replay);

    b.wait_all(Custody::on(1)).await.expect("acknowledged");
    a.wait_all(Custody::on(1)).await.expect("acknowledged");
    let begun = Instant::now();
    let made_in = publish(&a, ops).await;
    println!(
        "  {:<24}{:>9.2} s, {:.2} s until the other one attests it",
        "a checkpoint made",
        made_in.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    );

    let c = made(&directory.path().join("c")).await;
    let checkpoint = take_over(&a, &c, "c").await;
    print("begun with a checkpoint", &checkpoint);
    assert_eq!(c.personal().root(), a.personal().root());
    assert!(c.status().await.expect("a status").base.is_some(), "it has replayed");
    println!(
        "  {:<24}{:>9.1}× faster, {:.1}× less on the wire",
        "that is",
        replay.time.as_secs_f64() / checkpoint.time.as_secs_f64(),
        replay.wire_bytes as f64 / checkpoint.wire_bytes as f64
    );
    println!("what the stores take then, and a new device's of the same");
    drop_history(&a, &[&b, &c]).await;
    drop_history(&b, &[&a, &c]).await;
    let homes = ["a", "b", "c"].map(|name| directory.path().join(name));
    for node in [a, b, c] {
        node.stop().await.expect("stops");
    }
    let [of_a, of_b, of_c] = homes.each_ref().map(|home| store_bytes(home));
    print_store("wrote, and dropped", of_a, of_c);
    print_store("replayed, and dropped", of_b, of_c);
    print_store("begun with a checkpoint", of_c, of_c);
    again(&homes, ops, rows).await;
}

/// Every row is written once more, and what was before is dropped once more.
async fn again(homes: &[PathBuf; 3], ops: u64, rows: u64) {
    let [a, b, c] = [&homes[0], &homes[1], &homes[2]].map(|home| open(home, loopback()));
    let (a, b, c) = (a.await, b.await, c.await);
    fill(&a, ops..ops + rows, rows).await;
    for node in [&a, &b, &c] {
        node.start().await.expect("starts");
    }
    for node in [&b, &c] {
        node.add_peer(a.local_addr().expect("started").to_string()).await.expect("an address");
    }
    a.wait_all(Custody::on(2)).await.expect("acknowledged");
    publish(&a, ops + rows).await;
    drop_history(&a, &[&b, &c]).await;
    let d = made(&homes[0].with_file_name("d")).await;
    take_over(&a, &d, "d").await;
    assert!(d.status().await.expect("a status").base.is_some(), "it has replayed");
    for node in [a, b, c, d] {
        node.stop().await.expect("stops");
    }
    println!("the same after every row was written once more");
    let of_d = store_bytes(&homes[0].with_file_name("d"));
    print_store("wrote, and dropped twice", store_bytes(&homes[0]), of_d);
    print_store("begun with a checkpoint", of_d, of_d);
}

async fn fill(node: &Node, indexes: Range<u64>, rows: u64) {
    let mut next = indexes.start;
    while next < indexes.end {
        let end = (next + 2_048).min(indexes.end);
        let put =
            |index: u64| NewOp::Put { surface: note(), key: key(index % rows), payload: payload(index) };
        node.personal().append((next..end).map(put).collect()).await.expect("durable");
        next = end;
    }
}

/// Drops what the newest checkpoint has taken the place of, once the others attest it too.
async fn drop_history(node: &Node, others: &[&Node]) {
    loop {
        match node.personal().gc_run(Grace::Waived).await {
            Ok(_) => return,
            Err(NodeError::GcHeld { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        for node in others.iter().chain([&node]) {
            node.sync().await.expect("a round");
            node.personal().exchange_checkpoints().await.expect("asked");
        }
    }
}

/// Bytes of the files in which a home keeps its spaces.
fn store_bytes(home: &Path) -> [u64; 2] {
    let files = std::fs::read_dir(home.join("store")).expect("a directory").map(|file| file.expect("a file"));
    files.fold([0, 0], |[store, index], file| {
        let bytes = file.metadata().expect("a file").len();
        match file.path().extension().is_some_and(|extension| extension == "kfs") {
            true => [store, index + bytes],
            false => [store + bytes, index],
        }
    })
}

fn print_store(what: &str, [store, index]: [u64; 2], [of_store, of_index]: [u64; 2]) {
    println!(
        "  {what:<24}{:>9.1} MB, and {:.1} MB of index: {:.2}×",
        store as f64 / 1e6,
        index as f64 / 1e6,
        (store + index) as f64 / (of_store + of_index) as f64
    );
}

async fn made(home: &Path) -> Node {
    let name = home.file_name().expect("it was joined").to_str().expect("it is ASCII");
    Node::init(home, name).expect("an empty directory");
    open(home, loopback()).await
}

struct Taken {
    time: Duration,
    wire_bytes: u64,
}

/// Has a device join, and waits until it shows all that the other one does.
async fn take_over(from: &Node, joiner: &Node, name: &str) -> Taken {
    let welcome = from.personal().enrol(joiner.device(), name, Role::Admin).await.expect("added");
    joiner.adopt(welcome).await.expect("joined");
    joiner.start().await.expect("starts");
    let (want, root) = (from.personal().frontier().op_count(), from.personal().root());
    let begun = Instant::now();
    joiner.add_peer(from.local_addr().expect("started").to_string()).await.expect("an address");
    until(joiner, || joiner.personal().frontier().op_count() >= want && joiner.personal().root() == root)
        .await;
    let time = begun.elapsed();
    Taken { time, wire_bytes: joiner.status().await.expect("a status").received_bytes }
}

/// Makes a checkpoint and waits until two devices attest it; how long making it took.
async fn publish(node: &Node, ops: u64) -> Duration {
    loop {
        let begun = Instant::now();
        match node.personal().checkpoint().await {
            Ok(published) if published.is_new && published.checkpoint.op_count >= ops => {
                let took = begun.elapsed();
                while node.personal().checkpoints().expect("readable")[0].attested_by.len() < 2 {
                    node.personal().exchange_checkpoints().await.expect("asked");
                }
                return took;
            }
            Ok(_) | Err(NodeError::NoCheckpoint { .. }) => drop(node.sync().await.expect("a round")),
            Err(error) => panic!("{error}"),
        }
    }
}

fn print(what: &str, taken: &Taken) {
    println!(
        "  {what:<24}{:>9.2} s, {:.1} MB on the wire",
        taken.time.as_secs_f64(),
        taken.wire_bytes as f64 / 1e6
    );
}
