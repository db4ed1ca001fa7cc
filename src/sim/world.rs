//! The world: devices, a network, virtual time, and what goes wrong; all of it from one seed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::check::{Checks, MARKER, Violation};
use super::host::{Env, Host, Out, Request};
use super::network::{Lane, Network, Parcel, end_of, peer_id};
use super::rng::Rng;
use super::{Knobs, Naming, Summary};
use crate::fold::State;
use crate::model::{Op, Payload, SpaceId};
use crate::sync::Input;
use crate::wire::Message;

#[derive(Debug)]
enum Event {
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
    Heal,
    StoreHeals { host: usize },
    Name { a: usize, b: usize },
    Look,
}

/// A world in the middle of its run.
pub(super) struct World {
    knobs: Knobs,
    rng: Rng,
    now: Duration,
    queue: BTreeMap<(Duration, u64), Event>,
    event_count: u64,
    hosts: Vec<Host>,
    lives: u64,
    network: Network,
    checks: Checks,
    pub trace: VecDeque<String>,
    is_traced: bool,
    is_chaos: bool,
    healed_at: Duration,
    marker: u64,
    byte_count: u64,
}

impl World {
    pub fn new(seed: u64, knobs: &Knobs, is_traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let host_count = match knobs.devices {
            Some(count) => count,
            None if rng.happens(30) => rng.between(7, 12) as usize,
            None => rng.between(2, 6) as usize,
        };
        let hosts = (0..host_count).map(|index| Host::new(index, &mut rng)).collect();
        let mut world = Self {
            knobs: knobs.clone(),
            now: Duration::from_secs(1),
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
        for (a, b) in self.pairs() {
            let at = self.some_time(end);
            self.at(at, Event::Name { a, b });
        }
        self.at(Duration::ZERO, Event::Dial);
        self.at(Duration::ZERO, Event::Chaos);
        self.at(end, Event::Heal);
    }

    /// Who names whom: everybody everybody, or only so many that all hang together.
    fn pairs(&mut self) -> Vec<(usize, usize)> {
        let count = self.hosts.len();
        let naming = match self.knobs.naming {
            Naming::Mesh => Naming::Mesh,
            Naming::Tree => Naming::Tree,
            Naming::Either if self.rng.happens(500) => Naming::Tree,
            Naming::Either => Naming::Mesh,
        };
        match naming {
            Naming::Tree => (1..count).map(|b| (self.rng.index(b), b)).collect(),
            Naming::Mesh | Naming::Either => (1..count).flat_map(|b| (0..b).map(move |a| (a, b))).collect(),
        }
    }

    fn some_time(&mut self, within: Duration) -> Duration {
        Duration::from_micros(
            self.rng.below(u64::try_from(within.as_micros()).expect("runs are short").max(1)),
        )
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.event_count += 1;
        self.queue.insert((self.now + after, self.event_count), event);
    }

    fn soon(&mut self, low_ms: u64, high_ms: u64, event: Event) {
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
            Event::Turn { host, life } => self.with_host(host, Some(life), Host::turn),
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
            Event::Heal => self.heal(),
            Event::StoreHeals { host } => {
                self.hosts[host].commit_fails = 0;
                Ok(())
            }
            Event::Name { a, b } => {
                let (one, other) = (self.hosts[a].device(), self.hosts[b].device());
                self.hosts[a].to_name.insert(other);
                self.hosts[b].to_name.insert(one);
                Ok(())
            }
            Event::Look => Ok(()),
        }
    }

    fn is_alive(&self, host: usize, life: u64) -> bool {
        self.hosts[host].life.as_ref().is_some_and(|alive| alive.number == life)
    }

    /// Lets a host do something and does what it asks for.
    fn with_host(
        &mut self,
        host: usize,
        life: Option<u64>,
        act: impl FnOnce(&mut Host, &mut Env<'_>) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        if life.is_some_and(|life| !self.is_alive(host, life)) {
            return Ok(());
        }
        let mut out = Vec::new();
        let (now, is_traced) = (self.now, self.is_traced);
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
            self.out(host, out);
        }
        self.watch(host);
        Ok(())
    }

    fn out(&mut self, host: usize, out: Out) {
        let Some(life) = self.hosts[host].life.as_ref().map(|life| life.number) else { return };
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
                let Some(open) = self.network.conns.get_mut(&conn) else { return };
                open.ends[end].orders.push_back(order);
                if open.ends[end].orders.len() == 1 {
                    self.soon(0, 20, Event::Read { conn, end });
                }
            }
            Out::Close(peer) => {
                let (conn, end) = end_of(peer);
                self.close(conn, Some(end));
            }
            Out::Commit => {
                let slowest = if self.rng.happens(100) { 200 } else { 12 };
                self.soon(0, slowest, Event::Committed { host, life });
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
    }

    /// Sees to it that a host gets its next turn and its next tick.
    fn watch(&mut self, host: usize) {
        let now = self.now;
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

    fn wake(&mut self, host: usize) {
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

    fn boot(&mut self, host: usize) -> Result<(), Violation> {
        if self.hosts[host].life.is_some() {
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
            return self.close(conn, Some(1 - to));
        }
        open.ends[to].on_the_way += 1;
        let at = open.arrival(to, lane, now, &mut self.rng);
        let parcel = if self.is_chaos && self.rng.happens(self.knobs.hostile_permille) {
            spoil(parcel, &mut self.rng)
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
    fn close(&mut self, conn: u64, by: Option<usize>) {
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
        for host in 0..count {
            let names: Vec<_> = self.hosts[host].to_name.iter().copied().collect();
            if self.hosts[host].life.as_ref().is_some_and(|life| life.is_idle() && life.waiting_count() == 0)
            {
                names.into_iter().for_each(|name| self.hosts[host].request(Request::Name(name)));
                self.wake(host);
            }
        }
        self.at(DIAL_EVERY, Event::Dial);
    }

    fn chaos(&mut self) -> Result<(), Violation> {
        if !self.is_chaos {
            return Ok(());
        }
        let host = self.rng.index(self.hosts.len());
        match self.rng.below(1_000) {
            0..600 => self.write(host),
            600..660 => {
                self.crash(host)?;
                self.soon(10, 8_000, Event::Boot { host });
            }
            660..700 => {
                for host in 0..self.hosts.len() {
                    self.network.groups[host] = u8::from(self.rng.happens(500));
                }
                let reaches = |conn: &super::network::Conn| {
                    self.network.is_reachable(conn.ends[0].host, conn.ends[1].host)
                };
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
        let (low, high) = if self.rng.happens(300) { (0, 10) } else { (10, 600) };
        self.soon(low, high, Event::Chaos);
        Ok(())
    }

    fn crash(&mut self, host: usize) -> Result<(), Violation> {
        let Some(life) = self.hosts[host].life.as_ref().map(|life| life.number) else { return Ok(()) };
        self.with_host(host, None, Host::crash)?;
        if self.is_traced {
            self.trace.push_back(format!("{:>12.6} {host} ! crashes", self.now.as_secs_f64()));
        }
        let ended =
            |conn: &super::network::Conn| conn.ends.iter().any(|end| end.host == host && end.life == life);
        let ended: Vec<u64> =
            self.network.conns.iter().filter(|(_, conn)| ended(conn)).map(|(id, _)| *id).collect();
        ended.into_iter().for_each(|conn| self.close(conn, None));
        Ok(())
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
        let key = format!("{} row {}", super::check::CANARY, self.rng.below(6)).into();
        let surface = |name: &str| name.parse().expect("a known surface");
        let op = match self.rng.below(10) {
            0..5 => Op::Put { surface: surface("registry:note"), key, preds: Vec::new(), payload },
            5 => return (Op::Delete { surface: surface("registry:note"), key, preds: Vec::new() }, None),
            6 | 7 => Op::Fact { surface: surface("skill"), key, payload },
            _ => Op::Event { surface: surface("conversation"), stream: key, payload },
        };
        (op, Some(marker))
    }

    /// From here on nothing goes wrong any more.
    fn heal(&mut self) -> Result<(), Violation> {
        self.is_chaos = false;
        self.healed_at = self.now;
        self.network.groups.fill(0);
        for host in 0..self.hosts.len() {
            self.hosts[host].commit_fails = 0;
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

    /// What is still missing.
    fn unsettled(&mut self) -> Option<String> {
        let mut first = None;
        for index in 0..self.hosts.len() {
            let all = self.hosts.len();
            let host = &mut self.hosts[index];
            if !host.to_name.is_empty() {
                return Some(format!("device {index} has not recorded whom it names"));
            }
            let Some(life) = &host.life else { return Some(format!("device {index} is down")) };
            if !life.is_idle() || life.waiting_count() > 0 {
                return Some(format!("device {index} is busy"));
            }
            let engine = &life.engine;
            if !engine.to_carry_over().is_empty() {
                return Some(format!("device {index} has not carried over what it wrote"));
            }
            let Some(space) = engine.personal() else { return Some(format!("device {index} has no space")) };
            let Some(view) = engine.space(space) else { return Some(format!("device {index} has no space")) };
            if view.draft_count > 0 {
                return Some(format!("device {index} has drafts"));
            }
            let holders = engine.holders_of_all(space).len();
            let members = view.roster.member_count();
            let standing = (space, view.frontier.digest(), view.roster.digest());
            let root = host.state(&space).map(|state| state.root());
            let own = (standing, root);
            let expected = *first.get_or_insert(own);
            if expected.0.0 != own.0.0 {
                return Some(format!("device {index} is in another space than device 0"));
            }
            if members != all {
                return Some(format!("device {index} knows {members} of {all} devices"));
            }
            if expected != own {
                return Some(format!("device {index} holds something else than device 0"));
            }
            if holders + 1 != all {
                return Some(format!("device {index} has receipts of {holders} of {} others", all - 1));
            }
        }
        None
    }

    /// Says where every device stands, for whoever reads the trace.
    fn tell_standings(&mut self) {
        for host in &self.hosts {
            let Some(engine) = host.life.as_ref().map(|life| &life.engine) else { continue };
            for space in engine.active_spaces() {
                let Some(view) = engine.space(space) else { continue };
                let tips = |frontier: &crate::model::Frontier| -> Vec<String> {
                    let tips = frontier.iter();
                    tips.map(|(log, tip)| format!("{}:{}", log.device.short(), tip.seq)).collect()
                };
                let members: Vec<String> =
                    view.roster.members().map(|member| member.device.short()).collect();
                self.trace.push_back(format!(
                    "{} {} in {space:?}: holds {} members {}",
                    host.index,
                    host.device().short(),
                    tips(view.frontier).join(" "),
                    members.join(" ")
                ));
                for device in view.roster.members().map(|member| member.device) {
                    if let Some(ack) = engine.ack_of(space, &device) {
                        let line = format!("    ack of {}: {}", device.short(), tips(ack.frontier).join(" "));
                        self.trace.push_back(line);
                    }
                }
                for peer in engine.peers() {
                    let line = format!(
                        "    {} is {}, greeted {}, settled {}",
                        peer.peer.get(),
                        peer.device.short(),
                        peer.is_greeted,
                        peer.is_settled
                    );
                    self.trace.push_back(line);
                }
            }
        }
    }

    /// The last checks, once everything has settled.
    fn end(&mut self) -> Result<Summary, Violation> {
        let settled_after = self.now - self.healed_at;
        for index in 0..self.hosts.len() {
            let host = &mut self.hosts[index];
            self.checks.answered(index, &host.disk)?;
            let space = host.life.as_ref().and_then(|life| life.engine.personal());
            let space = space.expect("what settled has a space");
            self.checks.end(&host.disk, &space)?;
            if let Some(state) = host.state(&space) {
                self.checks.root(index, state, true)?;
            }
        }
        let host = self.rng.index(self.hosts.len());
        let (op_count, conflict_count) = self.shuffled(host)?;
        Ok(Summary {
            device_count: self.hosts.len(),
            op_count,
            conflict_count,
            answered_count: self.checks.answers.len() as u64,
            root_count: self.checks.compared_count,
            event_count: self.event_count,
            byte_count: self.byte_count,
            life_count: self.lives,
            virtual_time: self.now,
            settled_after,
        })
    }

    /// Folds what one device holds in other orders of arrival.
    fn shuffled(&mut self, host: usize) -> Result<(u64, u64), Violation> {
        let space = self.hosts[host].life.as_ref().and_then(|life| life.engine.personal());
        let space = space.expect("what settled has a space");
        let state = self.hosts[host].state(&space).expect("what settled is folded");
        let (expected, counts) = (state.root(), state.counts());
        let disk = &self.hosts[host].disk;
        for _ in 0..2 {
            let mut state = State::new(space);
            let mut logs: Vec<VecDeque<_>> = disk
                .logs(&space)
                .iter()
                .map(|log| disk.ops_from(&space, log, crate::model::Seq::new(1)).collect())
                .collect();
            logs.retain(|log| !log.is_empty());
            while !logs.is_empty() {
                let log = self.rng.index(logs.len());
                for _ in 0..self.rng.between(1, 30) {
                    let Some(op) = logs[log].pop_front() else { break };
                    let frame = crate::wire::FrameView {
                        seq: op.dot.seq,
                        hlc: op.hlc,
                        kind: op.kind,
                        flags: op.flags,
                        body: &op.body,
                    };
                    state.apply(&op.dot.log, &frame);
                }
                logs.retain(|log| !log.is_empty());
            }
            let found = state.root();
            if found != expected {
                return Err(Violation::OrderMatters { expected, found });
            }
        }
        Ok((counts.ops, counts.conflicts))
    }
}

/// What a liar sends instead.
fn spoil(parcel: Parcel, rng: &mut Rng) -> Parcel {
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
        // Greetings stay whole: what they say of the other's own log is taken at its word, so a liar
        // can make a device begin a new one, and ops of logs begun anew are not carried over yet.
        Parcel::Frame(bytes) if matches!(Message::decode(&bytes), Ok(Message::Hello(_))) => {
            Parcel::Frame(bytes)
        }
        Parcel::Frame(bytes) => Parcel::Frame(flip(&bytes, rng)),
        Parcel::Batches(batches) => Parcel::Batches(batches.iter().map(|bytes| flip(bytes, rng)).collect()),
    }
}

/// How often it is seen whether everything has settled.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often devices look for each other.
const DIAL_EVERY: Duration = Duration::from_millis(100);

/// Parcels on their way to one end before it counts as too slow.
const ON_THE_WAY_MAX: usize = 150;

/// How much of a log is read at once: little, so that reads and live batches interleave.
const READ_BYTES: usize = 8 * 1024;

/// Lines of a trace that are kept.
const TRACE_LINES: usize = 4_000;
