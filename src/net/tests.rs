//! Two nodes and some impostors over the loopback interface.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::frame::tests::batch;
use super::*;
use crate::crypto::identity::Identity;
use crate::model::{DeviceId, Incarnation, LogId, Seq, SpaceId};

mod asking;
pub(super) mod discovery;
mod links;
mod strangers;
mod waking;

const SPACE: SpaceId = SpaceId::from_bytes([1; 32]);

/// A node as a test sees it: answers every `Opened` with a hello and keeps the rest in order.
pub(super) struct Node {
    pub(super) net: Net,
    pub(super) device: DeviceId,
    pub(super) pins: Pins,
    pub(super) events: mpsc::Receiver<NetEvent>,
}

impl Node {
    pub(super) async fn start(seed: u8, pinned: &[u8]) -> Self {
        Self::start_with(seed, pinned, loopback()).await
    }

    pub(super) async fn start_with(seed: u8, pinned: &[u8], config: NetConfig) -> Self {
        let identity = Arc::new(Identity::from_secret(&[seed; 32]));
        let pins = Pins::new(pinned.iter().map(|seed| device(*seed)).collect());
        let (sender, events) = mpsc::channel(256);
        let net = Net::start(identity, config, pins.clone(), Arc::new(Synthetic), sender).await;
        Self { net: net.expect("loopback is there"), device: device(seed), pins, events }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.net.local_addr()
    }

    pub(super) fn dial(&self, other: &Self) {
        self.net.dial(vec![other.address()], Some(other.device));
    }

    /// The next event. Says hello on its own.
    pub(super) async fn next(&mut self) -> NetEvent {
        let next = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        let event = next.expect("an event within reason").expect("the net runs");
        if let NetEvent::Opened { link, .. } = &event {
            // The peer may have been faster in closing.
            let _ = link.send(Bytes::from_static(b"hello"));
        }
        event
    }

    /// Skips events until `pick` takes one.
    pub(super) async fn until<T>(&mut self, pick: impl Fn(NetEvent) -> Option<T>) -> T {
        loop {
            if let Some(picked) = pick(self.next().await) {
                return picked;
            }
        }
    }

    pub(super) async fn connected(&mut self) -> Link {
        self.until(|event| match event {
            NetEvent::Connected { link, .. } => Some(link),
            _ => None,
        })
        .await
    }

    pub(super) async fn closed(&mut self) -> CloseReason {
        self.until(|event| match event {
            NetEvent::Closed { reason, .. } => Some(reason),
            _ => None,
        })
        .await
    }

    pub(super) async fn dial_failed(&mut self) -> DialError {
        self.until(|event| match event {
            NetEvent::DialFailed { error, .. } => Some(error),
            _ => None,
        })
        .await
    }
}

/// Two nodes that pin each other, connected.
pub(super) async fn pair() -> (Node, Link, Node, Link) {
    let (mut a, mut b) = (Node::start(1, &[2]).await, Node::start(2, &[1]).await);
    a.dial(&b);
    let (at_a, at_b) = tokio::join!(a.connected(), b.connected());
    (a, at_a, b, at_b)
}

pub(super) fn device(seed: u8) -> DeviceId {
    Identity::from_secret(&[seed; 32]).device()
}

pub(super) fn loopback() -> NetConfig {
    NetConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), mdns: Mdns::Off, ..NetConfig::default() }
}

pub(super) fn log(seed: u8) -> LogId {
    LogId { device: device(seed), incarnation: Incarnation::new(1) }
}

/// Every log holds one batch per position; the ciphertext's length and bytes tell which.
pub(super) struct Synthetic;

impl BatchSource for Synthetic {
    fn run(
        &self,
        space: &SpaceId,
        _log: &LogId,
        after: Seq,
        through: Seq,
        bytes_max: usize,
    ) -> Result<Option<Run>, SourceError> {
        if *space != SPACE {
            return Err(SourceError(Box::new(std::io::Error::from(std::io::ErrorKind::NotFound))));
        }
        let (mut bytes, mut last) = (Vec::new(), after);
        while last < through && bytes.len() < bytes_max {
            last = last.next();
            bytes.extend(synthetic_batch(last));
        }
        Ok((last > after).then(|| Run { bytes: bytes.into(), last }))
    }
}

pub(super) fn synthetic_batch(seq: Seq) -> Vec<u8> {
    let fill = u8::try_from(seq.get() % 251).expect("below 251");
    let mut bytes = batch(8 + usize::from(fill), fill);
    bytes[198..206].copy_from_slice(&seq.get().to_be_bytes());
    bytes
}

/// Long enough for a loaded machine; no test that passes waits for it.
const PATIENCE: Duration = Duration::from_secs(20);
