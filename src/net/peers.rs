//! The live connections, and which of two to one device stays.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::close::{CloseCode, CloseReason};
use super::link::{ConnId, Link};
use super::tls::Pins;
use crate::model::DeviceId;
use crate::model::limits::PEERS_MAX;

/// Every connection past its handshake. Clones share one table.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers(Arc<Mutex<BTreeMap<ConnId, Entry>>>);

#[derive(Debug)]
struct Entry {
    link: Link,
    since: Instant,
}

impl Peers {
    /// Takes in a connection and closes whatever it makes superfluous, itself perhaps.
    ///
    /// Two devices that dial each other at once have two connections for a moment. Both ends must
    /// close the same one without asking, so the choice uses only what both see.
    pub(super) fn enter(&self, own: DeviceId, link: &Link) {
        let now = Instant::now();
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rivals: Vec<&Entry> =
            entries.values().filter(|entry| entry.link.device() == link.device()).collect();
        let loser = match rivals.last() {
            None if entries.len() >= PEERS_MAX => Some(link.clone()),
            None => None,
            Some(rival) => {
                let pair = Pair {
                    own,
                    other: link.device(),
                    rival_age: now.saturating_duration_since(rival.since),
                    rival_dialled_here: rival.link.is_dialled_here(),
                    fresh_dialled_here: link.is_dialled_here(),
                };
                match pair.keep() {
                    Keep::Rival => Some(link.clone()),
                    Keep::Fresh => Some(rival.link.clone()),
                    // The dialling side decides, but a third connection is nobody's decision.
                    Keep::Both => rivals.get(1).map(|_| rivals[0].link.clone()),
                }
            }
        };
        entries.insert(link.conn(), Entry { link: link.clone(), since: now });
        drop(entries);
        if let Some(loser) = loser {
            loser.end(CloseReason::ByUs(CloseCode::Duplicate), CloseCode::Duplicate, "");
        }
    }

    pub(super) fn leave(&self, conn: ConnId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&conn);
    }

    /// Closes the connections of devices that `pins` does not name.
    pub(super) fn drop_unpinned(&self, pins: &Pins) {
        for link in self.links() {
            if !pins.contains(&link.device()) {
                link.part(CloseCode::Unpinned, "no longer in the roster");
            }
        }
    }

    pub(super) fn links(&self) -> Vec<Link> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.values().map(|entry| entry.link.clone()).collect()
    }
}

/// What both ends know of two connections between them.
#[derive(Clone, Copy, Debug)]
struct Pair {
    own: DeviceId,
    other: DeviceId,
    rival_age: Duration,
    rival_dialled_here: bool,
    fresh_dialled_here: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Keep {
    Rival,
    Fresh,
    Both,
}

impl Pair {
    fn keep(&self) -> Keep {
        // Nobody dials a device it is connected to: the other side has lost the old connection, by a
        // restart or by sleep, and this side has not noticed yet.
        if self.rival_age >= SIMULTANEOUS {
            return Keep::Fresh;
        }
        if self.rival_dialled_here == self.fresh_dialled_here {
            return if self.fresh_dialled_here { Keep::Rival } else { Keep::Both };
        }
        if self.fresh_dialled_here == (self.own < self.other) { Keep::Fresh } else { Keep::Rival }
    }
}

/// Dials that cross each other finish within this time of each other: no handshake takes longer.
const SIMULTANEOUS: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_crossed_dials_keep_what_the_smaller_device_dialled() {
        let (small, great) = (DeviceId::from_bytes([1; 32]), DeviceId::from_bytes([2; 32]));
        let young = Duration::from_millis(3);
        let pair = |own, other, fresh_dialled_here: bool| Pair {
            own,
            other,
            rival_age: young,
            rival_dialled_here: !fresh_dialled_here,
            fresh_dialled_here,
        };

        assert_eq!(pair(small, great, true).keep(), Keep::Fresh);
        assert_eq!(pair(small, great, false).keep(), Keep::Rival);
        assert_eq!(pair(great, small, true).keep(), Keep::Rival);
        assert_eq!(pair(great, small, false).keep(), Keep::Fresh);
    }

    #[test]
    fn of_two_dials_by_one_side_that_side_decides() {
        let pair = |dialled_here| Pair {
            own: DeviceId::from_bytes([1; 32]),
            other: DeviceId::from_bytes([2; 32]),
            rival_age: Duration::ZERO,
            rival_dialled_here: dialled_here,
            fresh_dialled_here: dialled_here,
        };

        assert_eq!(pair(true).keep(), Keep::Rival);
        assert_eq!(pair(false).keep(), Keep::Both);
    }

    #[test]
    fn an_old_connection_gives_way() {
        let pair = Pair {
            own: DeviceId::from_bytes([1; 32]),
            other: DeviceId::from_bytes([2; 32]),
            rival_age: SIMULTANEOUS,
            rival_dialled_here: true,
            fresh_dialled_here: false,
        };

        assert_eq!(pair.keep(), Keep::Fresh);
    }
}
