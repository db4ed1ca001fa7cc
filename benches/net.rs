//! How fast the backlog lane moves sealed batches between two nodes on the loopback interface.
//!
//! `cargo bench --bench net [-- MEGABYTES]` prints one line per setting: megabits per second and the
//! resident memory of both nodes together. Below 1,452 the larger packets of the loopback are off.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use kinfold::crypto::identity::Identity;
use kinfold::model::{DeviceId, Incarnation, LogId, Seq, SpaceId};
use kinfold::net::{
    BatchSource, Congestion, Link, Mdns, Net, NetConfig, NetEvent, Pins, PushOrder, Run, SourceError,
};
use tokio::sync::mpsc;

fn main() {
    let megabytes = std::env::args().filter_map(|text| text.parse().ok()).next().unwrap_or(512);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("threads");
    for (congestion, max_mtu) in [
        (Congestion::Cubic, 1451),
        (Congestion::Cubic, 6500),
        (Congestion::Bbr, 1451),
        (Congestion::Bbr, 6500),
    ] {
        let megabits = runtime.block_on(measure(congestion, max_mtu, megabytes));
        println!("{congestion:?} mtu {max_mtu}: {megabits:.0} Mbit/s, {} KiB resident", resident());
    }
}

async fn measure(congestion: Congestion, max_mtu: u16, megabytes: u64) -> f64 {
    let config = NetConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        mdns: Mdns::Off,
        congestion,
        max_mtu,
        ..NetConfig::default()
    };
    let (a, mut at_a) = start(1, 2, config.clone()).await;
    let (b, mut at_b) = start(2, 1, config).await;
    a.dial(vec![b.local_addr()], Some(device(2)));
    let greeting = tokio::spawn(async move { (connected(&mut at_b).await, at_b) });
    let link = connected(&mut at_a).await;
    let (_, mut at_b) = greeting.await.expect("no panic");
    let drain = tokio::spawn(async move { while at_a.recv().await.is_some() {} });

    let count = megabytes * 1024 * 1024 / BATCH_BYTES as u64;
    let log = LogId { device: device(1), incarnation: Incarnation::new(1) };
    let started = Instant::now();
    link.push(PushOrder {
        space: SpaceId::from_bytes([0; 32]),
        log,
        after: Seq::ZERO,
        through: Seq::new(count),
    })
    .expect("room");
    let mut received = 0;
    while received < count {
        if let Some(NetEvent::Batches { batches, .. }) = at_b.recv().await {
            received += batches.len() as u64;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    eprintln!("  {:?}", link.stats());

    drop(link);
    a.stop().await;
    b.stop().await;
    drain.await.expect("no panic");
    (count * BATCH_BYTES as u64) as f64 * 8.0 / seconds / 1e6
}

async fn start(own: u8, other: u8, config: NetConfig) -> (Net, mpsc::Receiver<NetEvent>) {
    let (sender, events) = mpsc::channel(256);
    let identity = Arc::new(Identity::from_secret(&[own; 32]));
    let pins = Pins::new(BTreeSet::from([device(other)]));
    let source = Arc::new(OneBatch(Bytes::from(batch().repeat(16))));
    (Net::start(identity, config, pins, source, sender).await.expect("loopback"), events)
}

async fn connected(events: &mut mpsc::Receiver<NetEvent>) -> Link {
    loop {
        match events.recv().await.expect("the net runs") {
            NetEvent::Opened { link, .. } => link.send(Bytes::from_static(b"hello")).expect("room"),
            NetEvent::Connected { link, .. } => return link,
            _ => {}
        }
    }
}

fn device(seed: u8) -> DeviceId {
    Identity::from_secret(&[seed; 32]).device()
}

/// Sixteen batches at a time, always the same.
struct OneBatch(Bytes);

impl BatchSource for OneBatch {
    fn run(
        &self,
        _space: &SpaceId,
        _log: &LogId,
        after: Seq,
        through: Seq,
        _bytes_max: usize,
    ) -> Result<Option<Run>, SourceError> {
        let count = usize::try_from(through.get() - after.get()).unwrap_or(usize::MAX).min(16);
        let bytes = self.0.slice(..count * BATCH_BYTES);
        Ok((count > 0).then(|| Run { bytes, last: after.plus(count as u64) }))
    }
}

fn batch() -> Vec<u8> {
    let mut bytes = vec![7; BATCH_BYTES];
    bytes[..4].copy_from_slice(b"KFB1");
    let ciphertext = u32::try_from(BATCH_BYTES - 278).expect("small");
    bytes[130..134].copy_from_slice(&ciphertext.to_be_bytes());
    bytes
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

const BATCH_BYTES: usize = 16 * 1024;
