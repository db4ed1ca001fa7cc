//! What goes wrong, and what people write meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::check::{Answer, CANARY, MARKER, Violation};
use super::host::{Host, Request};
use super::network::{Conn, Parcel};
use super::rng::Rng;
use super::world::{Event, LOOK_EVERY, World};
use crate::model::{CertHash, Dot, Hlc, IntentStatus, LeaseEpoch, Op, Payload, SpaceId};

impl World {
    pub(super) fn chaos(&mut self) -> Result<(), Violation> {
        if !self.is_chaos {
            return Ok(());
        }
        let host = self.rng.index(self.hosts.len());
        let (low, high) = if self.rng.happens(300) { (0, 10) } else { (10, 600) };
        self.soon(low, high, Event::Chaos);
        if self.is_asleep(host) {
            return Ok(());
        }
        if self.knobs.months > 0 && self.hosts[0].dormant_after.is_none() && self.rng.happens(60) {
            self.call_dormant();
        }
        if self.knobs.trust_permille > 0 && self.rng.happens(self.knobs.trust_permille) {
            self.shake_trust(host)?;
        }
        if self.knobs.gc_permille > 0 && self.rng.happens(self.knobs.gc_permille) {
            self.tend_history(host)?;
        }
        match self.rng.below(1_000) {
            0..600 if self.hosts[host].is_blind => {}
            0..600 => self.write(host),
            600..660 => {
                self.crash(host)?;
                self.soon(10, 8_000, Event::Boot { host });
            }
            660..700 => {
                for host in 0..self.hosts.len() {
                    self.network.groups[host] = u8::from(self.rng.happens(500));
                }
                let reaches = |conn: &Conn| self.network.is_reachable(conn.ends[0].host, conn.ends[1].host);
                let cut: Vec<u64> =
                    self.network.conns.iter().filter(|(_, conn)| !reaches(conn)).map(|(id, _)| *id).collect();
                cut.into_iter().for_each(|conn| self.close(conn, None));
            }
            700..760 => self.network.groups.fill(0),
            760..800 => self.hosts[host].jump(&mut self.rng),
            800..880 => {
                let ids: Vec<u64> = self.network.conns.keys().copied().collect();
                if !ids.is_empty() {
                    let id = ids[self.rng.index(ids.len())];
                    self.close(id, None);
                }
            }
            880..910 => {
                let mut conns: Vec<_> = self.network.conns.values_mut().collect();
                if !conns.is_empty() {
                    let index = self.rng.index(conns.len());
                    conns[index].delay_ms = (self.rng.below(300), 300 + self.rng.below(3_000));
                }
            }
            910..940 => {
                self.hosts[host].commit_fails = self.knobs.commit_fail_permille;
                self.soon(20, 2_000, Event::StoreHeals { host });
            }
            _ => {
                self.hosts[host].request(Request::Round);
                self.wake(host);
            }
        }
        Ok(())
    }

    pub(super) fn crash(&mut self, host: usize) -> Result<(), Violation> {
        if self.hosts[host].life.is_none() {
            return Ok(());
        }
        self.hang_up(host);
        self.with_host(host, None, Host::crash)?;
        self.note(format!("{host} ! crashes"));
        Ok(())
    }

    /// Its connections break.
    pub(super) fn hang_up(&mut self, host: usize) {
        let ended = |conn: &Conn| conn.ends.iter().any(|end| end.host == host);
        let ended: Vec<u64> =
            self.network.conns.iter().filter(|(_, conn)| ended(conn)).map(|(id, _)| *id).collect();
        ended.into_iter().for_each(|conn| self.close(conn, None));
    }

    /// A backup comes back, a home is copied, a device is removed, a key is renewed.
    fn shake_trust(&mut self, host: usize) -> Result<(), Violation> {
        match self.rng.below(100) {
            0..40 => self.hosts[host].backup = Some(self.hosts[host].disk.clone()),
            40..60 => {
                let Some(backup) = self.hosts[host].backup.clone() else { return Ok(()) };
                self.crash(host)?;
                self.lose_disk(host, &backup);
                self.hosts[host].disk = backup;
                self.checks.restored(host);
                let device = self.hosts[host].device();
                self.checks.forkable.insert(device);
                // The store's mark gives it away, unless the whole machine went back in time.
                self.hosts[host].is_doubtful = self.rng.happens(500);
                self.hosts[host].is_unaware = !self.hosts[host].is_doubtful;
                self.soon(10, 4_000, Event::Boot { host });
            }
            60..68 if self.knobs.copies => self.copy_home(host),
            60..68 => {}
            68..76 => {
                let other = self.rng.index(self.hosts.len());
                let devices: BTreeSet<_> = self.hosts.iter().map(Host::device).collect();
                let (own, device) = (self.hosts[host].device(), self.hosts[other].device());
                if own == device || self.removed.len() + 2 >= devices.len() || self.hosts[host].is_blind {
                    return Ok(());
                }
                if self.hosts[host].is_member() && self.hosts[host].knows(&device) {
                    self.removed.insert(device);
                    self.note(format!("{host} ! removes {other}"));
                    // What the remover does not have by then is gone with it.
                    let gone =
                        self.checks.answers.iter().filter(|answer| answer.placed.dot.log.device == device);
                    let gone: Vec<u64> = gone.filter_map(|answer| answer.marker).collect();
                    self.checks.may_be_gone.extend(gone);
                    self.hosts[host].request(Request::Remove(device));
                    self.wake(host);
                }
            }
            _ => {
                if !self.hosts[host].is_blind {
                    self.hosts[host].request(Request::Rotate);
                    self.wake(host);
                }
            }
        }
        Ok(())
    }

    /// Notes what nobody else has of a disk that is about to be lost.
    fn lose_disk(&mut self, host: usize, backup: &super::disk::Disk) {
        self.note(format!("{host} ! comes back from a backup"));
        // Its own, and what others have lost before and only it still had.
        let answers = self.checks.answers.clone();
        let mut held: BTreeMap<SpaceId, BTreeSet<(Dot, Hlc)>> = BTreeMap::new();
        for answer in answers {
            let Some(marker) = answer.marker else { continue };
            let held = held.entry(answer.space).or_insert_with(|| {
                let others = self.hosts.iter().filter(|other| other.index != host);
                let disks = others.map(|other| &other.disk).chain([backup]);
                disks.flat_map(|disk| super::check::identities(disk, &answer.space)).collect()
            });
            if !held.contains(&(answer.placed.dot, answer.placed.hlc)) {
                self.checks.may_be_gone.insert(marker);
            }
        }
        // Nobody asks the device itself for what its disk does not have any more.
        self.checks.answers.retain_mut(|answer| {
            if answer.device == host && !held_by(backup, answer) {
                answer.device = usize::MAX;
            }
            true
        });
    }

    /// The home is copied, and both copies run from now on.
    fn copy_home(&mut self, host: usize) {
        if self.hosts.len() >= self.first_count + 2 || self.hosts[host].life.is_none() {
            return;
        }
        // Two copies never meet: they learn a new key only from a third device that holds it.
        let device = self.hosts[host].device();
        let others = self.hosts.iter().filter(|other| other.device() != device && !other.is_blind);
        if others.count() < 2 {
            return;
        }
        let index = self.hosts.len();
        let copy = self.hosts[host].copy(index);
        self.note(format!("{host} ! is copied to {index}"));
        self.checks.forkable.insert(copy.device());
        self.hosts.push(copy);
        self.hosts[index].is_doubtful = self.rng.happens(500);
        self.network.groups.push(0);
        self.soon(10, 3_000, Event::Boot { host: index });
        self.soon(400, 4_000, Event::Pair { joiner: index });
    }

    pub(super) fn note(&mut self, line: String) {
        if self.is_traced {
            self.trace.push_back(format!("{:>12.6} {line}", self.time().as_secs_f64()));
        }
    }

    /// Somebody writes something, mostly where others write too.
    fn write(&mut self, host: usize) {
        let count = match self.rng.below(20) {
            0 => self.rng.between(60, 300),
            1..5 => self.rng.between(2, 20),
            _ => 1,
        };
        let ops = (0..count).map(|_| self.some_op()).collect();
        self.hosts[host].request(Request::Append(ops));
        self.wake(host);
    }

    fn some_op(&mut self) -> (Op, Option<u64>) {
        self.marker += 1;
        let marker = self.marker;
        let filler = if self.rng.happens(8) { "x".repeat(self.rng.index(50_000)) } else { String::new() };
        let text = format!("{{\"text\":\"{MARKER}{marker} {filler}\"}}");
        let payload = Payload::parse(&text).expect("it is JSON");
        // Over months there must be rows that are removed and stay so.
        let row_count = if self.knobs.months > 0 { 150 } else { 6 };
        let key = format!("{} row {}", CANARY, self.rng.below(row_count)).into();
        let surface = |name: &str| name.parse().expect("a known surface");
        let op = match self.rng.below(10) {
            0..5 => Op::Put { surface: surface("registry:note"), key, preds: Vec::new(), payload },
            5 => return (Op::Delete { surface: surface("registry:note"), key, preds: Vec::new() }, None),
            6 | 7 => Op::Fact { surface: surface("skill"), key, payload },
            8 => Op::Event { surface: surface("conversation"), stream: key, payload },
            _ => self.some_intent(payload),
        };
        (op, Some(marker))
    }

    fn some_intent(&mut self, payload: Payload) -> Op {
        const STATUSES: [IntentStatus; 3] =
            [IntentStatus::Pending, IntentStatus::Committed, IntentStatus::Failed];
        let name = |prefix: &str, index: u64| format!("{CANARY} {prefix} {index}");
        Op::Intent {
            agent: name("agent", self.rng.below(2)).parse().expect("it is short"),
            run: name("run", self.rng.below(20)).parse().expect("it is short"),
            epoch: LeaseEpoch::of(0, self.rng.between(1, 9) as u32).expect("it is small"),
            cert: CertHash::NONE,
            status: STATUSES[self.rng.index(STATUSES.len())],
            payload,
        }
    }

    /// From here on nothing goes wrong any more.
    pub(super) fn heal(&mut self) -> Result<(), Violation> {
        self.is_chaos = false;
        self.healed_at = self.now;
        self.network.groups.fill(0);
        for host in 0..self.hosts.len() {
            self.hosts[host].commit_fails = 0;
            self.wake_up(host)?;
            self.boot(host)?;
        }
        if self.knobs.hostile_permille > 0 {
            // A liar's connection may be stuck for ever; its next one is honest.
            let all: Vec<u64> = self.network.conns.keys().copied().collect();
            all.into_iter().for_each(|conn| self.close(conn, None));
        }
        for conn in self.network.conns.values_mut() {
            conn.delay_ms = (0, 40);
        }
        self.at(LOOK_EVERY, Event::Look);
        Ok(())
    }
}

fn held_by(disk: &super::disk::Disk, answer: &Answer) -> bool {
    disk.op(&answer.space, &answer.placed.dot).is_some_and(|op| op.hlc == answer.placed.hlc)
}

/// What a liar sends instead.
pub(super) fn spoil(parcel: Parcel, rng: &mut Rng) -> Parcel {
    let flip = |bytes: &Bytes, rng: &mut Rng| {
        let mut bytes = bytes.to_vec();
        if bytes.is_empty() || rng.happens(200) {
            let garbage: Vec<u8> = (0..rng.below(400)).map(|_| rng.next() as u8).collect();
            return Bytes::from(garbage);
        }
        for _ in 0..rng.between(1, 4) {
            // Half of them near the end, where the signature is.
            let at = if rng.happens(500) {
                rng.index(bytes.len())
            } else {
                bytes.len() - 1 - rng.index(bytes.len().min(64))
            };
            bytes[at] ^= 1 << rng.below(8);
        }
        Bytes::from(bytes)
    };
    match parcel {
        Parcel::Frame(bytes) => Parcel::Frame(flip(&bytes, rng)),
        Parcel::Batches(batches) => Parcel::Batches(batches.iter().map(|bytes| flip(bytes, rng)).collect()),
    }
}
