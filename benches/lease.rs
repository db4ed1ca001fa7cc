//! Leases between two nodes over loopback: what an acquire costs beside what it cannot do without, and
//! what a host with a thousand leases has to do.
//!
//! `cargo bench --bench lease`. Requests are paced: a device may ask 20 times a second.

#[path = "shared/limits.rs"]
mod limits;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kinfold::Node;
use kinfold::lease::{LeaseRefused, Local, Ttl};
use kinfold::model::{AgentId, RunId};
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
        fence("fence, the host elsewhere", &asking).await;
        fence("fence, at the host", &host).await;
        for node in [host, asking] {
            node.stop().await.expect("stops");
        }
    });
    thousand();
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

/// What comes before every effect: the ledger, a read made for this question, and the own clock.
async fn fence(name: &str, node: &Node) {
    let space = node.personal();
    let (agent, run) = (agent(name), "2026-11-27".parse::<RunId>().expect("a short name"));
    let (_, grant) = paced(|| space.acquire_lease(&agent, Ttl::MAX)).await;
    let epoch = grant.expect("nobody holds it").epoch();
    let mut times = Vec::new();
    for _ in 0..SAMPLES {
        tokio::time::sleep(PACE).await;
        let begun = Instant::now();
        let decision = space.fence_check(&agent, &run, epoch).await.expect("the host answers");
        times.push(begun.elapsed());
        assert!(decision.may_dispatch(), "{decision:?}");
    }
    times.sort();
    let (half, most) = (micros(times[SAMPLES / 2]), micros(times[SAMPLES * 99 / 100]));
    println!("  {name:<29} {half:>9.0} µs p50, {most:.0} µs p99");
}

/// A thousand leases of 30 s of sixteen devices, renewed every 10 s at one host.
fn thousand() {
    let runtime = |name: &str| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).thread_name(name).enable_all().build().expect("a runtime")
    };
    // Apart, so that the host's work can be told from that of the others.
    let others = runtime("others");
    let before = threads();
    let at_host = runtime(HOST_THREADS);
    let directory = tempfile::tempdir().expect("a directory");
    let host = at_host.block_on(at_host.spawn({
        let path = directory.path().join("host");
        async move { started(&path, "host").await }
    }));
    let host = host.expect("it does not panic");
    let own: Vec<PathBuf> = threads().into_iter().filter(|thread| !before.contains(thread)).collect();
    let mut devices = Vec::new();
    for n in 0..DEVICES {
        let path = directory.path().join(format!("device {n}"));
        let device = others.block_on(started(&path, &format!("device {n}")));
        others.block_on(join(&host, &device));
        devices.push(device);
    }
    let held: usize = others.block_on(async {
        let tasks: Vec<_> = devices.iter().cloned().map(|device| tokio::spawn(hold(device))).collect();
        let mut held = 0;
        for task in tasks {
            held += task.await.expect("it does not panic");
        }
        held
    });
    let Some(before) = cpu_time(&own) else {
        return println!("  renewals are measured on Linux only");
    };
    let begun = Instant::now();
    let renewed: usize = others.block_on(async {
        let tasks: Vec<_> = devices.iter().cloned().map(|device| tokio::spawn(renew(device))).collect();
        let mut renewed = 0;
        for task in tasks {
            renewed += task.await.expect("it does not panic");
        }
        renewed
    });
    let spent = cpu_time(&own).expect("it was there before").saturating_sub(before).as_secs_f64();
    let wall = begun.elapsed().as_secs_f64();
    println!(
        "  {held} leases of 30 s of {DEVICES} devices: {renewed} renewals in {wall:.0} s cost the host {:.1} % of a core \
         ({:.0} µs each)",
        100.0 * spent / wall,
        1e6 * spent / renewed as f64
    );
    others.block_on(async {
        for device in devices {
            device.stop().await.expect("stops");
        }
        host.stop().await.expect("stops");
    });
}

async fn hold(device: Node) -> usize {
    let space = device.personal();
    for n in 0..EACH {
        let agent = own_agent(&device, n);
        let (_, grant) = paced(|| space.acquire_lease(&agent, Ttl::DEFAULT)).await;
        grant.expect("nobody holds it");
    }
    EACH
}

/// Renews every lease once in ten seconds, three times over.
async fn renew(device: Node) -> usize {
    let space = device.personal();
    let begun = tokio::time::Instant::now();
    for n in 0..EACH * 3 {
        tokio::time::sleep_until(begun + Duration::from_secs(10) * n as u32 / EACH as u32).await;
        let agent = own_agent(&device, n % EACH);
        let Local::Valid { epoch, .. } = space.local_lease(&agent) else { panic!("{agent} is not held") };
        space.renew_lease(&agent, epoch, Ttl::DEFAULT).await.expect("it is held");
    }
    EACH * 3
}

fn own_agent(device: &Node, n: usize) -> AgentId {
    agent(&format!("{} {n}", device.device().short()))
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

/// The threads of this process, where the system shows them.
fn threads() -> Vec<PathBuf> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    tasks.filter_map(|task| Some(task.ok()?.path())).collect()
}

/// What the threads given, and those of the host's runtime that came later, have spent of the processor,
/// in their own and the system's name.
fn cpu_time(own: &[PathBuf]) -> Option<Duration> {
    let mut spent = None;
    for thread in threads() {
        let text = std::fs::read_to_string(thread.join("stat")).unwrap_or_default();
        let Some((head, fields)) = text.rsplit_once(')') else { continue };
        if !own.contains(&thread) && !head.ends_with(HOST_THREADS) {
            continue;
        }
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
        // Hundredths of a second on every Linux that is built today.
        *spent.get_or_insert(Duration::ZERO) += Duration::from_millis((ticks(11)? + ticks(12)?) * 10);
    }
    spent
}

/// Requests per figure.
const SAMPLES: usize = 100;

/// Devices that hold leases, as many as they may hold nearly.
const DEVICES: usize = 16;

/// Leases of each.
const EACH: usize = 63;

/// Of the runtime of the host.
const HOST_THREADS: &str = "host";

/// A little more than a device may be asked to wait between requests.
const PACE: Duration = Duration::from_millis(55);
