//! The world: devices, a network, virtual time, and what goes wrong; all of it from one seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;
use std::time::Duration;

use bytes::Bytes;

use super::check::{Checks, Violation};
use super::host::{Env, Host, Out, Request};
use super::leap::Leap;
use super::network::{Lane, Network, Parcel, end_of, peer_id};
use super::rng::Rng;
use super::{Knobs, Summary};
use crate::model::{DeviceId, SpaceId};
use crate::sync::Input;
use crate::wire::Welcome;

#[derive(Debug)]
pub(super) enum Event {
    Turn { host: usize, life: u64 },
    Tick { host: usize, life: u64 },
    Committed { host: usize, life: u64 },
    Loaded { host: usize, life: u64, space: SpaceId },
    Boot { host: usize },
    Deliver { conn: u64, end: usize, parcel: Parcel },
    Read { conn: u64, end: usize },
    TellClosed { host: usize, life: u64, conn: u64, end: usize },
    Break { conn: u64 },
    Dial,
    Chaos,
    Leap,
    Pass,
    Heal,
    StoreHeals { host: usize },
    Pair { joiner: usize },
    Welcome { joiner: usize, welcome: Box<Welcome> },
    Look,
}

/// A world in the middle of its run.
pub(super) struct World {
    pub(super) knobs: Knobs,
    pub(super) rng: Rng,
    pub(super) now: Duration,
    pub(super) leap: Leap,
    queue: BTreeMap<(Duration, u64), Event>,
    pub(super) event_count: u64,
    pub(super) hosts: Vec<Host>,
    pub(super) lives: u64,
    pub(super) network: Network,
    pub(super) checks: Checks,
    pub trace: VecDeque<String>,
    pub(super) is_traced: bool,
    pub(super) is_chaos: bool,
    pub(super) healed_at: Duration,
    pub(super) marker: u64,
    pub(super) byte_count: u64,
    /// Devices that somebody has set out to remove.
    pub(super) removed: BTreeSet<DeviceId>,
    /// Hosts at the beginning, before any home was copied.
    pub(super) first_count: usize,
}

impl World {
    pub fn new(seed: u64, knobs: &Knobs, is_traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let host_count = match knobs.devices {
            Some(count) => count,
            None if rng.happens(30) => rng.between(7, 12) as usize,
            None => rng.between(2, 6) as usize,
        };
        let mut hosts: Vec<Host> = (0..host_count).map(|index| Host::new(index, &mut rng)).collect();
        if knobs.trust_permille > 0 {
            hosts.iter_mut().skip(1).for_each(|host| host.is_blind = rng.happens(150));
        }
        if knobs.months > 0 && rng.happens(600) {
            // Nobody says it by hand then.
            let days = NonZeroU16::new(30);
            hosts.iter_mut().for_each(|host| host.dormant_after = days);
        }
        let mut world = Self {
            knobs: knobs.clone(),
            now: Duration::from_secs(1),
            leap: Leap::default(),
            queue: BTreeMap::new(),
            event_count: 0,
            hosts,
            lives: 0,
            network: Network::new(host_count),
            checks: Checks::default(),
            trace: VecDeque::new(),
            is_traced,
            is_chaos: true,
            healed_at: Duration::ZERO,
            marker: 0,
            byte_count: 0,
            removed: BTreeSet::new(),
            first_count: host_count,
            rng,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let end = Duration::from_millis(self.rng.between(2_000, 30_000));
        for host in 0..self.hosts.len() {
            let at = self.some_time(end / 3);
            self.at(at, Event::Boot { host });
        }
        for joiner in 0..self.hosts.len() {
            let at = self.some_time(end);
            self.at(at, Event::Pair { joiner });
        }
        self.at(Duration::ZERO, Event::Dial);
        self.at(Duration::ZERO, Event::Chaos);
        self.at(end, if self.knobs.months > 0 { Event::Leap } else { Event::Heal });
    }

    /// Two devices are brought together by a person, again and again: until it has worked, and when
    /// one of them has forgotten the other because its disk came back from a backup.
    fn pair(&mut self, joiner: usize) {
        let first = self.hosts[0].personal_on_disk();
        let device = self.hosts[joiner].device();
        self.soon(400, 2_000, Event::Pair { joiner });
        if self.removed.contains(&device) {
            return;
        }
        let is_in = self.hosts[joiner].personal_on_disk() == first;
        let inviters: Vec<usize> = (0..self.hosts.len())
            .filter(|host| self.hosts[*host].personal_on_disk() == first && !self.hosts[*host].is_blind)
            .filter(|host| self.hosts[*host].is_member() && self.hosts[*host].device() != device)
            .filter(|host| !is_in || !self.hosts[*host].knows(&device))
            .filter(|host| !self.is_asleep(*host))
            .collect();
        if !inviters.is_empty() && self.hosts[joiner].life.is_some() && !self.is_asleep(joiner) {
            let inviter = inviters[self.rng.index(inviters.len())];
            if self.hosts[joiner].is_blind
                && let Some(life) = &mut self.hosts[inviter].life
            {
                life.blind_ones.insert(device);
            }
            self.hosts[inviter].request(Request::Invite(device));
            self.wake(inviter);
        }
    }

    fn some_time(&mut self, within: Duration) -> Duration {
        Duration::from_micros(
            self.rng.below(u64::try_from(within.as_micros()).expect("runs are short").max(1)),
        )
    }

    pub(super) fn at(&mut self, after: Duration, event: Event) {
        self.event_count += 1;
        self.queue.insert((self.now + after, self.event_count), event);
    }

    pub(super) fn soon(&mut self, low_ms: u64, high_ms: u64, event: Event) {
        let after = Duration::from_micros(self.rng.between(low_ms * 1_000, high_ms * 1_000));
        self.at(after, event);
    }

    /// Runs to the end: until everything has settled, or a promise is broken.
    pub fn run(&mut self) -> Result<Summary, Violation> {
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            if let Event::Look = event {
                match self.unsettled() {
                    None => return self.end(),
                    Some(why) if self.now - self.healed_at > self.knobs.settle_within => {
                        self.tell_standings();
                        let seconds = self.knobs.settle_within.as_secs();
                        return Err(Violation::NotSettled { seconds, why });
                    }
                    Some(_) => self.at(LOOK_EVERY, Event::Look),
                }
            } else {
                self.happen(event)?;
            }
        }
        unreachable!("a run looks at itself until it ends")
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Turn { host, life } if self.is_asleep(host) => {
                if self.is_alive(host, life)
                    && let Some(alive) = &mut self.hosts[host].life
                {
                    alive.is_turn_due = false;
                }
                Ok(())
            }
            Event::Turn { host, life } => self.with_host(host, Some(life), Host::turn),
            Event::Tick { host, .. } if self.is_asleep(host) => Ok(()),
            Event::Tick { host, life } => {
                if self.is_alive(host, life)
                    && let Some(alive) = &mut self.hosts[host].life
                {
                    alive.tick_at = None;
                    alive.inbox.push_back(Input::Tick);
                    self.wake(host);
                }
                Ok(())
            }
            Event::Committed { host, life } => self.with_host(host, Some(life), Host::committed),
            // The loop is at its commit; the job waits in its queue.
            Event::Loaded { host, life, space } if self.hosts[host].is_committing() => {
                self.soon(1, 1, Event::Loaded { host, life, space });
                Ok(())
            }
            Event::Loaded { host, life, space } => {
                self.with_host(host, Some(life), |host, env| host.loaded(space, env))
            }
            Event::Boot { host } => self.boot(host),
            Event::Deliver { conn, end, parcel } => {
                self.deliver(conn, end, parcel);
                Ok(())
            }
            Event::Read { conn, end } => self.read(conn, end),
            Event::TellClosed { host, life, conn, end } => {
                self.input(host, life, Input::Closed { peer: peer_id(conn, end) });
                Ok(())
            }
            Event::Break { conn } => {
                self.close(conn, None);
                Ok(())
            }
            Event::Dial => {
                self.dial();
                Ok(())
            }
            Event::Chaos => self.chaos(),
            Event::Leap => self.leap(),
            Event::Pass => self.pass(),
            Event::Heal => self.heal(),
            Event::StoreHeals { host } => {
                self.hosts[host].commit_fails = 0;
                Ok(())
            }
            Event::Pair { joiner } => {
                self.pair(joiner);
                Ok(())
            }
            Event::Welcome { joiner, welcome } => {
                self.hosts[joiner].request(Request::Join(*welcome));
                self.wake(joiner);
                Ok(())
            }
            Event::Look => Ok(()),
        }
    }

    pub(super) fn is_asleep(&self, host: usize) -> bool {
        self.hosts[host].sleep.is_some()
    }

    fn is_alive(&self, host: usize, life: u64) -> bool {
        self.hosts[host].life.as_ref().is_some_and(|alive| alive.number == life)
    }

    /// Lets a host do something and does what it asks for.
    pub(super) fn with_host(
        &mut self,
        host: usize,
        life: Option<u64>,
        act: impl FnOnce(&mut Host, &mut Env<'_>) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        if life.is_some_and(|life| !self.is_alive(host, life)) {
            return Ok(());
        }
        let mut out = Vec::new();
        let (now, is_traced) = (self.time(), self.is_traced);
        let trace = &mut self.trace;
        let mut note = |line: String| {
            if trace.len() == TRACE_LINES {
                trace.pop_front();
            }
            trace.push_back(format!("{:>12.6} {line}", now.as_secs_f64()));
        };
        let mut nothing = |_: String| {};
        let mut env = Env {
            now,
            rng: &mut self.rng,
            out: &mut out,
            checks: &mut self.checks,
            is_traced,
            trace: if is_traced { &mut note } else { &mut nothing },
            is_hostile: self.knobs.hostile_permille > 0,
        };
        act(&mut self.hosts[host], &mut env)?;
        for out in out {
            self.out(host, out)?;
        }
        self.watch(host);
        Ok(())
    }

    fn out(&mut self, host: usize, out: Out) -> Result<(), Violation> {
        let Some(life) = self.hosts[host].life.as_ref().map(|life| life.number) else { return Ok(()) };
        match out {
            Out::Frame(peer, frame) => {
                let (conn, end) = end_of(peer);
                self.send(conn, 1 - end, Lane::Control, Parcel::Frame(frame));
            }
            Out::Live(peer, batch) => {
                let (conn, end) = end_of(peer);
                self.send(conn, 1 - end, Lane::Live, Parcel::Batches(vec![batch]));
            }
            Out::Push(peer, order) => {
                let (conn, end) = end_of(peer);
                let Some(open) = self.network.conns.get_mut(&conn) else { return Ok(()) };
                open.ends[end].orders.push_back(order);
                if open.ends[end].orders.len() == 1 {
                    self.soon(0, 20, Event::Read { conn, end });
                }
            }
            Out::Close(peer) => {
                let (conn, end) = end_of(peer);
                self.close(conn, Some(end));
            }
            Out::Welcome(device, welcome) => {
                // It may get lost on its way; pairing is tried again then.
                let of_device = |(index, host): (usize, &Host)| (host.device() == device).then_some(index);
                let joiners: Vec<usize> = self.hosts.iter().enumerate().filter_map(of_device).collect();
                for joiner in joiners {
                    if self.is_chaos && self.rng.happens(200) {
                        continue;
                    }
                    let welcome = welcome.clone();
                    self.soon(1, 400, Event::Welcome { joiner, welcome: Box::new(welcome) });
                }
            }
            Out::Commit => {
                let slowest = if self.rng.happens(100) { 200 } else { 12 };
                self.soon(0, slowest, Event::Committed { host, life });
            }
            Out::Acked(space, device, frontier) => {
                if !self.checks.has_held(device, space, &frontier) {
                    return Err(Violation::AckOverDisk { device, space });
                }
            }
            Out::Repin => {
                let pins = self.hosts[host].pins();
                let unpinned = |(id, conn): (&u64, &super::network::Conn)| {
                    let end = conn.ends.iter().position(|end| end.host == host && end.life == life)?;
                    let other = conn.ends[1 - end].host;
                    (!pins.contains(&self.hosts[other].device())).then_some((*id, end))
                };
                let unpinned: Vec<_> = self.network.conns.iter().filter_map(unpinned).collect();
                for (conn, end) in unpinned {
                    self.close(conn, Some(end));
                }
            }
        }
        Ok(())
    }

    /// Sees to it that a host gets its next turn and its next tick.
    fn watch(&mut self, host: usize) {
        let now = self.time();
        if self.is_asleep(host) {
            return;
        }
        let Some(life) = &mut self.hosts[host].life else { return };
        let number = life.number;
        if let Some(deadline) = life.deadline(now)
            && life.tick_at.is_none_or(|at| deadline < at)
        {
            life.tick_at = Some(deadline);
            self.at(deadline.saturating_sub(now), Event::Tick { host, life: number });
        }
        self.wake(host);
    }

    /// The same where time has leapt, and a tick that was planned comes too late.
    pub(super) fn watch_again(&mut self, host: usize) {
        if let Some(life) = &mut self.hosts[host].life {
            life.tick_at = None;
        }
        self.watch(host);
    }

    pub(super) fn wake(&mut self, host: usize) {
        if self.is_asleep(host) {
            return;
        }
        let Some(life) = &mut self.hosts[host].life else { return };
        if !life.is_turn_due && life.committing.is_none() && life.has_work() {
            life.is_turn_due = true;
            let life = life.number;
            self.soon(0, 3, Event::Turn { host, life });
        }
    }

    fn input(&mut self, host: usize, life: u64, input: Input) {
        if self.is_alive(host, life)
            && let Some(alive) = &mut self.hosts[host].life
        {
            alive.inbox.push_back(input);
            self.wake(host);
        }
    }

    pub(super) fn boot(&mut self, host: usize) -> Result<(), Violation> {
        if self.hosts[host].life.is_some() || self.is_asleep(host) {
            return Ok(());
        }
        self.lives += 1;
        let number = self.lives;
        self.with_host(host, None, |host, env| host.boot(number, env))?;
        for space in self.hosts[host].spaces_to_load() {
            self.soon(0, 150, Event::Loaded { host, life: number, space });
        }
        Ok(())
    }

    fn send(&mut self, conn: u64, to: usize, lane: Lane, parcel: Parcel) {
        let now = self.now;
        let Some(open) = self.network.conns.get_mut(&conn) else { return };
        if open.ends[to].on_the_way >= ON_THE_WAY_MAX {
            // It does not keep up; it resumes from its frontier.
            self.note(format!("- connection {conn} is too slow"));
            return self.close(conn, Some(1 - to));
        }
        open.ends[to].on_the_way += 1;
        let at = open.arrival(to, lane, now, &mut self.rng);
        let parcel = if self.is_chaos && self.rng.happens(self.knobs.hostile_permille) {
            super::chaos::spoil(parcel, &mut self.rng)
        } else {
            parcel
        };
        self.byte_count += match &parcel {
            Parcel::Frame(bytes) => bytes.len() as u64,
            Parcel::Batches(batches) => batches.iter().map(|bytes| bytes.len() as u64).sum(),
        };
        self.at(at.saturating_sub(now), Event::Deliver { conn, end: to, parcel });
    }

    fn deliver(&mut self, conn: u64, end: usize, parcel: Parcel) {
        let Some(open) = self.network.conns.get_mut(&conn) else { return };
        open.ends[end].on_the_way -= 1;
        let (host, life) = (open.ends[end].host, open.ends[end].life);
        let peer = peer_id(conn, end);
        self.input(
            host,
            life,
            match parcel {
                Parcel::Frame(bytes) => Input::Frame { peer, bytes },
                Parcel::Batches(batches) => Input::Batches { peer, batches },
            },
        );
    }

    /// Reads the next piece of an order from the disk and sends it.
    fn read(&mut self, conn: u64, end: usize) -> Result<(), Violation> {
        let Some(open) = self.network.conns.get_mut(&conn) else { return Ok(()) };
        let (host, life) = (open.ends[end].host, open.ends[end].life);
        let Some(order) = open.ends[end].orders.front_mut() else { return Ok(()) };
        let disk = &self.hosts[host].disk;
        let run = disk.run(&order.space, &order.log, order.after, order.through, READ_BYTES);
        let (space, log, through) = (order.space, order.log, order.through);
        match run.last() {
            Some(last) => order.after = last.header().last(),
            None => drop(open.ends[end].orders.pop_front()),
        }
        if !open.ends[end].orders.is_empty() {
            self.soon(0, 8, Event::Read { conn, end });
        }
        if run.is_empty() {
            let peer = peer_id(conn, end);
            self.input(host, life, Input::PushDone { peer, space, log, through });
        } else {
            let batches: Vec<Bytes> = run.iter().map(|batch| batch.bytes().clone()).collect();
            batches.iter().try_for_each(|bytes| super::check::hide(host, bytes))?;
            self.send(conn, 1 - end, Lane::Backlog, Parcel::Batches(batches));
        }
        Ok(())
    }

    /// Ends a connection. `by` is told at once; the other end, or both, after a while.
    pub(super) fn close(&mut self, conn: u64, by: Option<usize>) {
        let Some(closed) = self.network.conns.remove(&conn) else { return };
        for (end, its) in closed.ends.iter().enumerate() {
            let slowest = match by {
                Some(by) if by == end => 0,
                Some(_) => 300,
                None => 4_000,
            };
            self.soon(0, slowest, Event::TellClosed { host: its.host, life: its.life, conn, end });
        }
    }

    fn dial(&mut self) {
        let count = self.hosts.len();
        for (a, b) in (1..count).flat_map(|b| (0..b).map(move |a| (a, b))) {
            let open_count = self.network.count_between(a, b);
            let chance = match open_count {
                0 => 400,
                1 if self.is_chaos => 8,
                _ => 0,
            };
            if !self.network.is_reachable(a, b) || !self.rng.happens(chance) {
                continue;
            }
            if self.is_asleep(a) || self.is_asleep(b) {
                continue;
            }
            let lives = [a, b].map(|host| self.hosts[host].life.as_ref().map(|life| life.number));
            let [Some(life_a), Some(life_b)] = lives else { continue };
            let (device_a, device_b) = (self.hosts[a].device(), self.hosts[b].device());
            if !self.hosts[a].pins().contains(&device_b) || !self.hosts[b].pins().contains(&device_a) {
                continue;
            }
            let conn = self.network.open([(a, life_a), (b, life_b)], self.now, &mut self.rng);
            self.input(a, life_a, Input::Connected { peer: peer_id(conn, 0), device: device_b });
            self.input(b, life_b, Input::Connected { peer: peer_id(conn, 1), device: device_a });
            if open_count > 0 {
                // One of the two gives way sooner or later.
                self.soon(1, 2_000, Event::Break { conn });
            }
        }
        self.at(DIAL_EVERY, Event::Dial);
    }
}

/// How often it is seen whether everything has settled.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often devices look for each other.
const DIAL_EVERY: Duration = Duration::from_millis(100);

/// Parcels on their way to one end before it counts as too slow.
const ON_THE_WAY_MAX: usize = 150;

/// How much of a log is read at once: little, so that reads and live batches interleave.
const READ_BYTES: usize = 8 * 1024;

/// Lines of a trace that are kept.
const TRACE_LINES: usize = 40_000;
