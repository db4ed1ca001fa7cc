//! Connections between simulated devices: three lanes each way, in order within a lane, in any
//! order between lanes; whole connections break, bytes of a living one do not get lost.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::host::Order;
use super::rng::Rng;
use crate::sync::PeerId;

/// What travels.
#[derive(Clone, Debug)]
pub(super) enum Parcel {
    Frame(Bytes),
    Batches(Vec<Bytes>),
}

/// Which stream a parcel takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lane {
    Control,
    Live,
    Backlog,
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct End {
    pub host: usize,
    /// The life of the host that opened it.
    pub life: u64,
    /// Orders to read from the host's disk, one after the other.
    pub orders: VecDeque<Order>,
    /// When the last parcel of each lane reaches this end.
    arrivals: [Duration; 3],
    /// Parcels on their way to this end.
    pub on_the_way: usize,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub ends: [End; 2],
    /// How long a parcel takes at least and at most, in milliseconds.
    pub delay_ms: (u64, u64),
}

/// Every connection that is open.
#[derive(Debug, Default)]
pub(super) struct Network {
    pub conns: BTreeMap<u64, Conn>,
    next: u64,
    /// Hosts in different groups do not reach each other.
    pub groups: Vec<u8>,
}

impl Network {
    pub fn new(host_count: usize) -> Self {
        Self { conns: BTreeMap::new(), next: 1, groups: vec![0; host_count] }
    }

    /// Opens a connection between two lives of two hosts.
    pub fn open(&mut self, ends: [(usize, u64); 2], now: Duration, rng: &mut Rng) -> u64 {
        let id = self.next;
        self.next += 1;
        let end =
            |(host, life)| End { host, life, orders: VecDeque::new(), arrivals: [now; 3], on_the_way: 0 };
        let slowest = [2, 10, 60, 400][rng.index(4)];
        let conn = Conn { ends: ends.map(end), delay_ms: (0, slowest) };
        self.conns.insert(id, conn);
        id
    }

    pub fn count_between(&self, a: usize, b: usize) -> usize {
        let is_pair = |conn: &&Conn| {
            let [one, other] = &conn.ends;
            (one.host, other.host) == (a, b) || (one.host, other.host) == (b, a)
        };
        self.conns.values().filter(is_pair).count()
    }

    /// Whether anything is on its way.
    pub fn is_busy(&self) -> bool {
        self.conns
            .values()
            .flat_map(|conn| &conn.ends)
            .any(|end| end.on_the_way > 0 || !end.orders.is_empty())
    }

    pub fn is_reachable(&self, a: usize, b: usize) -> bool {
        self.groups[a] == self.groups[b]
    }
}

impl Conn {
    /// When a parcel sent now to `end` arrives: never before one of its lane that was sent before.
    pub fn arrival(&mut self, end: usize, lane: Lane, now: Duration, rng: &mut Rng) -> Duration {
        let delay =
            Duration::from_micros(rng.between(self.delay_ms.0 * 1_000 + 50, self.delay_ms.1 * 1_000 + 100));
        let last = &mut self.ends[end].arrivals[lane as usize];
        *last = (*last).max(now + delay);
        *last
    }
}

/// The number an end knows its connection by.
pub(super) fn peer_id(conn: u64, end: usize) -> PeerId {
    PeerId::new(conn * 2 + end as u64)
}

/// The connection and the end behind such a number.
pub(super) fn end_of(peer: PeerId) -> (u64, usize) {
    (peer.get() / 2, usize::try_from(peer.get() % 2).expect("a bit"))
}
