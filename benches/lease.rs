//! Leases between two nodes over loopback: what an acquire costs beside what it cannot do without, and
//! what a host with a thousand leases has to do.
//!
//! `cargo bench --bench lease`. Requests are paced: a device may ask 20 times a second.

#[path = "shared/limits.rs"]
mod limits;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use kinfold::Node;
use kinfold::lease::{LeaseRefused, Ttl};
use kinfold::model::{AgentId, LeaseEpoch};
use kinfold::node::Custody;
use kinfold::roster::Role;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    limits::print();
    println!("\nleases, one host and one other device, loopback");
    runtime.block_on(async {
        let (one, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("one"));
        let host = started(one.path(), "host").await;
        let asking = started(other.path(), "asking").await;
        join(&host, &asking).await;
        acquire(&asking).await;
        renew(&asking).await;
        for node in [host, asking] {
            node.stop().await.expect("stops");
        }
    });
}

/// An acquire writes once and goes there and back once: against both, measured in this run.
async fn acquire(asking: &Node) {
    let space = asking.personal();
    let (mut reads, mut grants) = (Vec::new(), Vec::new());
    for n in 0..SAMPLES {
        let agent = agent(&format!("read {n}"));
        let read = paced(|| space.current_lease(&agent)).await;
        read.1.expect("the host answers");
        reads.push(read.0);
    }
    for n in 0..SAMPLES {
        let agent = agent(&format!("acquire {n}"));
        let (took, grant) = paced(|| space.acquire_lease(&agent, Ttl::MIN)).await;
        let epoch = grant.expect("nobody holds it").epoch();
        grants.push(took);
        let (_, released) = paced(|| space.release_lease(&agent, epoch)).await;
        released.expect("it was just granted");
    }
    let (round, granted, commit) = (median(reads), median(grants), limits::store_commit(430));
    let floor = round + commit;
    println!("  read, one round trip          {:>9.0} µs p50", micros(round));
    println!(
        "  acquire                       {:>9.0} µs p50 ({:.2} × a read and a bare commit of {:.0} µs)",
        micros(granted),
        granted.as_secs_f64() / floor.as_secs_f64(),
        micros(commit)
    );
}

/// A thousand leases of 30 s, renewed every 10 s, are a hundred renewals a second.
async fn renew(asking: &Node) {
    let space = asking.personal();
    let mut held: Vec<(AgentId, LeaseEpoch)> = Vec::new();
    for n in 0..32 {
        let agent = agent(&format!("held {n}"));
        let (_, grant) = paced(|| space.acquire_lease(&agent, Ttl::DEFAULT)).await;
        held.push((agent, grant.expect("nobody holds it").epoch()));
    }
    let Some(before) = cpu_time() else { return println!("  renewals are measured on Linux only") };
    let begun = Instant::now();
    let mut times = Vec::new();
    for n in 0..RENEWALS {
        let (agent, epoch) = &held[n % held.len()];
        let (took, renewed) = paced(|| space.renew_lease(agent, *epoch, Ttl::DEFAULT)).await;
        renewed.expect("it is held");
        times.push(took);
    }
    let spent = cpu_time().expect("it was there before").saturating_sub(before);
    let each = spent.as_secs_f64() / RENEWALS as f64;
    println!(
        "  renew                         {:>9.0} µs p50, {:.0} µs of a core on both devices together",
        micros(median(times)),
        each * 1e6
    );
    println!(
        "  1,000 leases of 30 s          {:>9.2} % of a core for 100 renewals/s, both ends counted ({:.0} s measured)",
        each * 100.0 * 100.0,
        begun.elapsed().as_secs_f64()
    );
}

/// Asks within the rate a device may ask at.
async fn paced<T, F>(ask: impl Fn() -> F) -> (Duration, Result<T, LeaseRefused>)
where
    F: Future<Output = Result<T, LeaseRefused>>,
{
    tokio::time::sleep(PACE).await;
    let begun = Instant::now();
    let answer = ask().await;
    (begun.elapsed(), answer)
}

async fn started(dir: &Path, name: &str) -> Node {
    let home = dir.join("home");
    Node::init(&home, name).expect("an empty directory");
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let node = Node::builder(home).listen(listen).without_mdns().open().await.expect("opens");
    node.start().await.expect("starts");
    node
}

async fn join(host: &Node, asking: &Node) {
    let welcome = host.personal().enrol(asking.device(), "asking", Role::Admin).await.expect("an admin");
    asking.adopt(welcome).await.expect("nobody else is in its space");
    asking.add_peer(host.local_addr().expect("it is started").to_string()).await.expect("an address");
    for node in [host, asking] {
        node.wait_all(Custody::on(1)).await.expect("they are connected");
    }
}

fn agent(name: &str) -> AgentId {
    name.parse().expect("a short name")
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// What this process has spent of the processor, in its own and the system's name.
fn cpu_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    // Hundredths of a second on every Linux that is built today.
    Some(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

/// Requests per figure.
const SAMPLES: usize = 100;

/// Renewals measured: ten seconds of what one device may ask.
const RENEWALS: usize = 200;

/// A little more than a device may be asked to wait between requests.
const PACE: Duration = Duration::from_millis(55);
