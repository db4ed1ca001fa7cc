//! Noticing that the machine slept or that its addresses changed, and what follows from it.
//!
//! Connections look alive for their idle timeout, and a probe of theirs may be seconds away. So every
//! connection is made to send something, once what was in flight before has been read; those that then
//! hear nothing are closed, and everybody who is not connected is dialled at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use tracing::info;

use super::close::{CloseCode, CloseReason};
use super::dial::Report;
use super::ending::NetFailure;
use super::link::{ConnId, Link};
use super::mdns::Word;
use super::{NetEvent, Shared};

/// Runs until cancelled.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut watch = Watch::new(moment(&shared));
    let mut wakes = shared.wakes.subscribe();
    let mut suspects = Suspects::default();
    let mut look_at = Instant::now() + LOOK_EVERY;
    loop {
        let next = suspects.next_due().map_or(look_at, |due| due.min(look_at));
        tokio::select! {
            // Losing the race loses nothing: the count of wakes stays, time does not go back.
            Ok(()) = wakes.changed() => {
                let _ = shared.reports.try_send(Report::Wake);
                let _ = shared.words.try_send(Word::StartOver);
                shared.around.emit(NetEvent::Woke).await;
                for link in shared.peers.links() {
                    suspects.add(link, Instant::now());
                }
            }
            () = tokio::time::sleep_until(next) => {}
            () = shared.cancel.cancelled() => return,
        }
        suspects.look(Instant::now(), shared.config.receive_window_bytes);
        if look_at <= Instant::now() {
            look_at = Instant::now() + LOOK_EVERY;
            // A socket that was taken away tells nobody who only reads, and what is sent from then on
            // leaves by another port, which others take for a stranger's.
            if shared.endpoint.local_addr().ok() != Some(shared.local) {
                shared.endings.tell(NetFailure::SocketLost);
                return shared.cancel.cancelled().await;
            }
            if let Some(why) = watch.look(moment(&shared)) {
                info!(?why, "looking for everybody anew");
                shared.wakes.send_modify(|count| *count += 1);
            }
        }
    }
}

/// Connections that are to answer, or else are taken to be dead.
#[derive(Default)]
struct Suspects(BTreeMap<ConnId, Suspect>);

struct Suspect {
    link: Link,
    /// What it had received when it was asked; `None` before it is asked.
    asked_at_bytes: Option<u64>,
    due: Instant,
}

impl Suspects {
    fn add(&mut self, link: Link, now: Instant) {
        let suspect = Suspect { link, asked_at_bytes: None, due: now + STALE_FOR };
        self.0.entry(suspect.link.conn()).or_insert(suspect);
    }

    fn next_due(&self) -> Option<Instant> {
        self.0.values().map(|suspect| suspect.due).min()
    }

    /// Asks those that are to be asked, and closes those that have not answered.
    fn look(&mut self, now: Instant, receive_window_bytes: u32) {
        self.0.retain(|_, suspect| {
            if now < suspect.due {
                return true;
            }
            let received_bytes = suspect.link.stats().received_bytes;
            let Some(asked_at_bytes) = suspect.asked_at_bytes else {
                suspect.link.nudge(receive_window_bytes);
                (suspect.asked_at_bytes, suspect.due) = (Some(received_bytes), now + ANSWER_WITHIN);
                return true;
            };
            if received_bytes == asked_at_bytes {
                // Nothing is wrong with the peer: another connection follows.
                suspect.link.end(CloseReason::TimedOut, CloseCode::Duplicate, "");
            }
            false
        });
    }
}

/// Why peers are looked for anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    Slept,
    AddressesChanged,
}

/// What the machine looks like at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Moment {
    /// The wall clock, which goes on while the machine sleeps.
    wall: Duration,
    /// The clock that stands still while the machine sleeps.
    steady: Instant,
    /// Where this device can be reached, by interface; `None` where the system does not tell.
    addresses: Option<BTreeSet<(String, IpAddr)>>,
}

/// Compares each moment with the one before. Pure: the moments are passed in.
#[derive(Debug)]
struct Watch {
    last: Moment,
}

impl Watch {
    const fn new(first: Moment) -> Self {
        Self { last: first }
    }

    fn look(&mut self, moment: Moment) -> Option<Why> {
        let last = std::mem::replace(&mut self.last, moment);
        let wall = self.last.wall.saturating_sub(last.wall);
        let steady = self.last.steady.saturating_duration_since(last.steady);
        if self.last.addresses.is_none() {
            self.last.addresses = last.addresses.clone();
        }
        // A clock that is set forward looks the same, and costs nothing but a few packets.
        if wall.saturating_sub(steady) >= SLEPT {
            Some(Why::Slept)
        } else {
            (self.last.addresses != last.addresses).then_some(Why::AddressesChanged)
        }
    }
}

fn moment(shared: &Shared) -> Moment {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment { wall, steady: Instant::now(), addresses: addresses(shared) }
}

/// The addresses of interfaces that are up and that peers are looked for on.
fn addresses(shared: &Shared) -> Option<BTreeSet<(String, IpAddr)>> {
    let local = shared.local.ip();
    let interfaces = if_addrs::get_if_addrs().ok()?;
    let used = interfaces.into_iter().filter(|interface| {
        interface.is_oper_up()
            && !interface.is_loopback()
            && shared.config.interfaces.permit(&interface.name)
            && (local.is_unspecified() || local == interface.ip())
    });
    Some(used.map(|interface| (interface.name.clone(), interface.ip())).collect())
}

/// Between two looks at the interfaces and the clocks; a look takes some 50 µs.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How far the clocks part before the machine is taken to have slept.
const SLEPT: Duration = Duration::from_secs(3);

/// What lies in the socket from before is read within this; it is no answer to anything.
const STALE_FOR: Duration = Duration::from_millis(100);

/// A connection that hears nothing for this long after it was made to ask is dead: the round trips of
/// satellites are half of it.
const ANSWER_WITHIN: Duration = Duration::from_millis(1_500);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_that_come_and_go_are_noticed_once() {
        let start = at(0, 0, &["10.0.0.1"]);
        let mut watch = Watch::new(start.clone());

        assert_eq!(watch.look(later(&start, 1, 1, &["10.0.0.1"])), None);
        assert_eq!(watch.look(later(&start, 2, 2, &[])), Some(Why::AddressesChanged));
        assert_eq!(watch.look(later(&start, 3, 3, &[])), None);
        assert_eq!(watch.look(later(&start, 4, 4, &["10.0.0.1"])), Some(Why::AddressesChanged));
        assert_eq!(watch.look(later(&start, 5, 5, &["10.0.0.1"])), None);
    }

    #[tokio::test]
    async fn sleep_is_noticed_and_a_slow_look_or_a_clock_set_back_is_not() {
        let start = at(100, 0, &["10.0.0.1"]);
        let mut watch = Watch::new(start.clone());

        assert_eq!(watch.look(later(&start, 101, 1, &["10.0.0.1"])), None);
        assert_eq!(watch.look(later(&start, 131, 31, &["10.0.0.1"])), None, "late");
        assert_eq!(watch.look(later(&start, 3_731, 32, &["10.0.0.1"])), Some(Why::Slept));
        assert_eq!(watch.look(later(&start, 3_732, 33, &["10.0.0.1"])), None);
        assert_eq!(watch.look(later(&start, 10, 34, &["10.0.0.1"])), None, "set back");
    }

    #[tokio::test]
    async fn a_look_that_failed_is_no_change() {
        let start = at(0, 0, &["10.0.0.1"]);
        let mut watch = Watch::new(start.clone());

        let blind = Moment { addresses: None, ..later(&start, 1, 1, &[]) };

        assert_eq!(watch.look(blind), None);
        assert_eq!(watch.look(later(&start, 2, 2, &["10.0.0.1"])), None);
    }

    fn at(wall: u64, steady: u64, addresses: &[&str]) -> Moment {
        let addresses = addresses.iter().map(|ip| ("eth0".to_owned(), ip.parse().expect("literal")));
        Moment {
            wall: Duration::from_secs(wall),
            steady: Instant::now() + Duration::from_secs(steady),
            addresses: Some(addresses.collect()),
        }
    }

    fn later(start: &Moment, wall: u64, steady: u64, addresses: &[&str]) -> Moment {
        Moment { steady: start.steady + Duration::from_secs(steady), ..at(wall, 0, addresses) }
    }
}
