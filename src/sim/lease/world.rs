//! The world: devices with real machines, on disks, clocks and a network that are none of the best.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use super::Kind;
use super::history::{Act, Belief, CastVote, History, HostReply, Op, Table};
use crate::lease::{
    CertKind, Certificate, Chain, Client, ClientEffect, ClientInput, DaemonInstance, Designation,
    DesignationEffect, DesignationInput, DesignationMessage, DesignationState, Holder, Home, HostInstance,
    HostState, HostWrite, LeaseRefused, Local, Own, Patience, Phase, Post, Proposal, ProposalHash, Register,
    RegisterEffect, RegisterInput, Reply, ReqNo, Request, Rules, Signatures, Standing, Ttl, Vote, Voter,
    WriteId, fence,
};
use crate::model::{AgentId, DeviceId, LeaseEpoch, Now, SpaceId, Wall};
use crate::sim::rng::Rng;

/// Runs one world to its end.
pub(super) fn run(seed: u64, kind: Kind, rules: Rules) -> History {
    let mut world = World::new(seed, kind, rules);
    while let Some(Reverse(next)) = world.queue.pop() {
        if next.at > world.end {
            break;
        }
        world.now = next.at;
        world.happen(next.event);
    }
    world.close_all();
    world.history
}

struct World {
    rng: Rng,
    rules: Rules,
    now: u64,
    end: u64,
    order: u64,
    queue: BinaryHeap<Reverse<Due>>,
    devices: Vec<Device>,
    cut: BTreeSet<(usize, usize)>,
    key_count: usize,
    history: History,
    /// Which op a request is: device, life, key, number.
    asked: BTreeMap<(usize, u64, usize, ReqNo), usize>,
}

struct Due {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

#[derive(Clone)]
enum Event {
    /// Nothing outlives the connection it was sent on, which ends with either side's life.
    Arrive {
        to: usize,
        from: usize,
        lives: (u64, u64),
        parcel: Parcel,
    },
    Written {
        device: usize,
        life: u64,
    },
    Timer {
        device: usize,
        life: u64,
        of: Timer,
    },
    /// A user of this device does something.
    Want {
        device: usize,
    },
    Wake {
        device: usize,
        life: u64,
    },
    Start {
        device: usize,
    },
    Meet,
    Trouble,
    Heal {
        one: usize,
        other: usize,
    },
    Move {
        device: usize,
        to: usize,
        kind: CertKind,
        tries: u32,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Timer {
    Register,
    Designation,
    Client(usize),
}

#[derive(Clone)]
enum Parcel {
    Request(Request),
    Reply(Reply),
    Designation(DesignationMessage),
}

#[derive(Clone)]
enum Write {
    Host(WriteId, HostWrite),
    Designation(u64, DesignationState),
    Certificate(Certificate),
}

#[derive(Clone)]
struct Disk {
    host: Option<HostState>,
    designation: Option<DesignationState>,
    certificates: Vec<Certificate>,
}

struct Device {
    id: DeviceId,
    instance: HostInstance,
    /// Parts in a million that its clock runs fast.
    rate: i64,
    booted: u64,
    life: u64,
    is_up: bool,
    is_gone: bool,
    asleep_until: u64,
    disk: Disk,
    copy: Option<Disk>,
    writes: VecDeque<Write>,
    written_at: u64,
    fails_permille: u64,
    register: Register,
    designation: Designation,
    clients: Vec<Client>,
    open: BTreeMap<usize, (Belief, u64)>,
    /// Keys whose leases it has not renewed since it noticed that it slept.
    woken: BTreeSet<usize>,
    /// Whether its home was put back, and its mark told.
    is_restored: bool,
    read_sent: BTreeMap<usize, u64>,
}

const SECOND: u64 = 1_000_000;

impl World {
    fn new(seed: u64, kind: Kind, rules: Rules) -> Self {
        let mut rng = Rng::new(seed ^ 0x6c65_6173_6500);
        let count = if kind == Kind::Plain { rng.between(2, 4) } else { rng.between(3, 4) };
        let length = match kind {
            Kind::Plain | Kind::Crowded => 90,
            Kind::Restored | Kind::RestoredUnseen => 240,
            Kind::Moved | Kind::WronglyLost => 300,
        };
        let key_count = usize::try_from(rng.between(1, 2)).expect("two");
        let mut world = Self {
            rng,
            rules,
            now: 0,
            end: length * SECOND,
            order: 0,
            queue: BinaryHeap::new(),
            devices: Vec::new(),
            cut: BTreeSet::new(),
            key_count,
            history: History::new(kind),
            asked: BTreeMap::new(),
        };
        for number in 0..count {
            let device = world.make(u8::try_from(number).expect("few"));
            world.devices.push(device);
        }
        for device in 0..world.devices.len() {
            world.start(device);
            world.later(SECOND / 10, 3 * SECOND, Event::Want { device });
        }
        world.later(SECOND, 2 * SECOND, Event::Meet);
        world.later(3 * SECOND, 10 * SECOND, Event::Trouble);
        world
    }

    fn make(&mut self, number: u8) -> Device {
        let id = device_id(number);
        let rate = match self.rng.below(3) {
            0 => -10_000,
            1 => 10_000,
            _ => i64::try_from(self.rng.below(20_001)).expect("small") - 10_000,
        };
        let now = Now { uptime: Duration::ZERO, wall: Wall::from_millis(0), entropy: [0; 32] };
        let chain = Chain::new(SPACE, device_id(0));
        let disk = Disk {
            host: None,
            designation: Some(DesignationState::fresh(HostInstance::FIRST)),
            certificates: Vec::new(),
        };
        let head = chain.head();
        let home =
            Home { device: id, instance: HostInstance::FIRST, members: BTreeSet::new(), rules: self.rules };
        let post = self.post(id, HostInstance::FIRST);
        Device {
            id,
            instance: HostInstance::FIRST,
            rate,
            booted: 0,
            life: 0,
            is_up: false,
            is_gone: false,
            asleep_until: 0,
            disk: disk.clone(),
            copy: None,
            writes: VecDeque::new(),
            written_at: 0,
            fails_permille: 0,
            register: Register::open(&now, home, head, None),
            designation: Designation::open(&now, post, chain, disk.designation),
            clients: Vec::new(),
            open: BTreeMap::new(),
            woken: BTreeSet::new(),
            is_restored: false,
            read_sent: BTreeMap::new(),
        }
    }

    const fn post(&self, device: DeviceId, instance: HostInstance) -> Post {
        Post { device, instance, space: SPACE, signatures: Signatures::Simulated, rules: self.rules }
    }

    // Time.

    fn push(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse(Due { at, order: self.order, event }));
    }

    fn later(&mut self, low: u64, high: u64, event: Event) {
        let at = self.now + self.rng.between(low, high);
        self.push(at, event);
    }

    /// What a device's clocks say. The wall clock jumps all the time; nothing may depend on it.
    fn clock(&mut self, device: usize) -> Now {
        let own = &self.devices[device];
        let uptime = uptime(own, self.now);
        Now {
            uptime: Duration::from_micros(uptime),
            wall: Wall::from_millis(self.rng.next() >> 20),
            entropy: self.rng.bytes(),
        }
    }

    /// When a device's clock will say so.
    fn when(&self, device: usize, at: Duration) -> u64 {
        let own = &self.devices[device];
        let micros = i128::try_from(at.as_micros()).unwrap_or(i128::MAX) - i128::from(UPTIME_START);
        let rate = 1_000_000 + i128::from(own.rate);
        let since = (micros.max(0) * 1_000_000 + rate - 1) / rate;
        own.booted.saturating_add(u64::try_from(since).unwrap_or(u64::MAX / 2))
    }

    // What happens.

    fn happen(&mut self, event: Event) {
        if let Some(device) = self.sleeper(&event) {
            let wakes = self.devices[device].asleep_until;
            let is_message = matches!(event, Event::Arrive { .. });
            if !is_message || self.rng.happens(500) {
                let late = self.rng.between(0, SECOND / 2);
                self.push(wakes + late, event);
            }
            return;
        }
        match event {
            Event::Arrive { to, from, lives, parcel }
                if self.is_life(to, lives.1) && self.devices[from].life == lives.0 =>
            {
                self.arrive(to, from, parcel)
            }
            Event::Written { device, life } if self.is_life(device, life) => self.written(device),
            Event::Timer { device, life, of } if self.is_life(device, life) => self.timer(device, of),
            Event::Arrive { .. } | Event::Written { .. } | Event::Timer { .. } => {}
            Event::Want { device } => self.want(device),
            Event::Wake { device, life } => {
                if self.is_life(device, life) && self.rng.happens(500) {
                    for key in 0..self.key_count {
                        self.devices[device].woken.insert(key);
                        self.client(device, key, ClientInput::Woke);
                    }
                }
            }
            Event::Start { device } => self.start(device),
            Event::Meet => self.meet(),
            Event::Trouble => self.trouble(),
            Event::Heal { one, other } => {
                self.cut.remove(&(one, other));
                self.cut.remove(&(other, one));
            }
            Event::Move { device, to, kind, tries } => self.move_to(device, to, kind, tries),
        }
    }

    fn sleeper(&self, event: &Event) -> Option<usize> {
        let device = match event {
            Event::Arrive { to, .. } => *to,
            Event::Written { device, .. } | Event::Timer { device, .. } | Event::Want { device } => *device,
            Event::Wake { .. }
            | Event::Start { .. }
            | Event::Meet
            | Event::Trouble
            | Event::Heal { .. }
            | Event::Move { .. } => return None,
        };
        let own = &self.devices[device];
        (own.is_up && self.now < own.asleep_until).then_some(device)
    }

    fn is_life(&self, device: usize, life: u64) -> bool {
        self.devices[device].is_up && self.devices[device].life == life
    }

    fn is_awake(&self, device: usize) -> bool {
        self.devices[device].is_up && self.devices[device].asleep_until <= self.now
    }

    fn arrive(&mut self, to: usize, from: usize, parcel: Parcel) {
        if !self.devices[to].is_up || self.cut.contains(&(from, to)) {
            return;
        }
        let peer = self.devices[from].id;
        match parcel {
            Parcel::Request(request) => self.register(to, RegisterInput::Request { from: peer, request }),
            Parcel::Reply(reply) => self.reply(to, peer, reply),
            Parcel::Designation(DesignationMessage::Fetch(digest)) => {
                let table = self.devices[to].register.state().cloned();
                if let Some(table) = table.filter(|table| table.digest() == digest) {
                    self.send(to, from, Parcel::Designation(DesignationMessage::Table(table)));
                }
            }
            Parcel::Designation(message) => {
                self.designation(to, DesignationInput::Message { from: peer, message });
            }
        }
    }

    fn reply(&mut self, to: usize, from: DeviceId, reply: Reply) {
        let Some(key) = (0..self.key_count).find(|key| key_name(*key) == reply.key) else { return };
        let own = &self.devices[to];
        let client = &own.clients[key];
        let is_taken = client.awaits(from, &reply);
        if let Some(op) = self.asked.get(&(to, own.life, key, reply.req_no)).copied()
            && is_taken
            && self.history.ops[op].said.is_none()
        {
            self.history.ops[op].said = Some((self.now, reply.answer.clone()));
        }
        self.client(to, key, ClientInput::Reply { from, reply });
    }

    fn timer(&mut self, device: usize, of: Timer) {
        match of {
            Timer::Register => self.register(device, RegisterInput::Tick),
            Timer::Designation => self.designation(device, DesignationInput::Tick),
            Timer::Client(key) => self.client(device, key, ClientInput::Tick),
        }
    }

    /// The user acquires, acts, gives back, looks.
    fn want(&mut self, device: usize) {
        self.later(SECOND / 20, 2 * SECOND, Event::Want { device });
        if !self.devices[device].is_up {
            return;
        }
        let key = self.rng.index(self.key_count);
        self.act(device, key);
        let is_held = self.devices[device].clients[key].grant().is_some();
        match self.rng.below(10) {
            0..5 if !is_held && self.devices[device].clients[key].is_idle() => {
                let ttl = Ttl::from_millis(self.rng.between(1_000, 4_000)).expect("within the bounds");
                let patience = if self.rng.happens(500) { Patience::Wait } else { Patience::Refuse };
                self.client(device, key, ClientInput::Acquire { ttl, patience });
            }
            5..7 if is_held => self.client(device, key, ClientInput::Release),
            7 if is_held => {
                let ttl = Ttl::from_millis(self.rng.between(1_000, 20_000)).expect("within the bounds");
                let ttl = self.rng.happens(200).then_some(ttl);
                self.client(device, key, ClientInput::Renew { ttl });
            }
            8..10 => self.client(device, key, ClientInput::Read),
            _ => {}
        }
    }

    /// Does something by the local clock alone.
    fn act(&mut self, device: usize, key: usize) {
        let now = self.clock(device);
        if let Local::Valid { epoch, .. } = self.devices[device].clients[key].local(&now) {
            let is_unrenewed = self.devices[device].woken.contains(&key);
            self.history.acts.push(Act { key, epoch, at: self.now, is_fenced: false, is_unrenewed });
        }
    }

    fn fenced_act(&mut self, device: usize, key: usize, read: &Result<Option<Standing>, LeaseRefused>) {
        let now = self.clock(device);
        let client = &self.devices[device].clients[key];
        let Some(claimed) = client.grant().map(crate::lease::Grant::epoch) else { return };
        let own = Holder { device: self.devices[device].id, instance: instance(self.devices[device].life) };
        if fence(claimed, own, None, read, &client.local(&now)).may_dispatch() {
            let is_unrenewed = self.devices[device].woken.contains(&key);
            self.history.acts.push(Act { key, epoch: claimed, at: self.now, is_fenced: true, is_unrenewed });
        }
    }

    /// Devices that reach each other exchange certificates and the greatest token they have seen.
    fn meet(&mut self) {
        self.later(SECOND / 2, 3 * SECOND, Event::Meet);
        let pairs: Vec<(usize, usize)> = (0..self.devices.len())
            .flat_map(|one| (0..self.devices.len()).map(move |other| (one, other)))
            .filter(|(one, other)| one != other)
            .collect();
        for (one, other) in pairs {
            if self.is_awake(one) && self.is_awake(other) && !self.cut.contains(&(one, other)) {
                self.tell(one, other);
            }
        }
    }

    /// `to` learns what `from` has.
    fn tell(&mut self, from: usize, to: usize) {
        let seen = self.devices[from].designation.state().seen;
        let seen = seen.max(self.devices[from].clients.iter().filter_map(Client::seen).max());
        for cert in self.devices[from].disk.certificates.clone() {
            if self.devices[to].disk.certificates.iter().all(|known| known.hash() != cert.hash()) {
                self.devices[to].disk.certificates.push(cert.clone());
                self.designation(to, DesignationInput::Certificate(cert));
            }
        }
        if let Some(seen) = seen {
            self.register(to, RegisterInput::Observe { seen });
            self.designation(to, DesignationInput::Seen(seen));
        }
        let voters = self.voters();
        self.designation(to, DesignationInput::Voters(voters));
    }

    fn voters(&self) -> Vec<Voter> {
        let mut voters: Vec<Voter> =
            self.devices.iter().map(|own| Voter { device: own.id, instance: own.instance }).collect();
        voters.sort();
        voters
    }

    fn trouble(&mut self) {
        self.later(3 * SECOND, 15 * SECOND, Event::Trouble);
        let device = self.rng.index(self.devices.len());
        match self.rng.below(10) {
            0..3 => self.crash(device, 3 * SECOND),
            3..5 => self.sleep(device),
            5 => self.devices[device].fails_permille = self.rng.below(2) * 200,
            6..8 => self.part(device),
            _ => self.special(device),
        }
    }

    fn special(&mut self, device: usize) {
        match self.history.kind {
            Kind::Plain | Kind::Crowded => self.crash(device, SECOND),
            Kind::Restored | Kind::RestoredUnseen => self.restore(device),
            Kind::Moved => self.moves(),
            Kind::WronglyLost => self.lose_wrongly(),
        }
    }

    fn sleep(&mut self, device: usize) {
        if !self.is_awake(device) {
            return;
        }
        let (wakes, life) = (self.now + self.rng.between(SECOND, 20 * SECOND), self.devices[device].life);
        self.devices[device].asleep_until = wakes;
        // The user's program wakes first, and acts at once if it is let.
        self.push(wakes, Event::Wake { device, life });
        self.push(wakes, Event::Want { device });
    }

    fn part(&mut self, one: usize) {
        let other = self.rng.index(self.devices.len());
        if one != other {
            self.cut.extend([(one, other), (other, one)]);
            self.later(SECOND, 15 * SECOND, Event::Heal { one, other });
        }
    }

    /// The power goes at some point between two writes.
    fn crash(&mut self, device: usize, down_max: u64) {
        if !self.devices[device].is_up {
            return;
        }
        let count = self.devices[device].writes.len() as u64;
        let durable = self.rng.between(0, count);
        for _ in 0..durable {
            if let Some(write) = self.devices[device].writes.pop_front() {
                self.make_durable(device, &write);
            }
        }
        self.stop(device);
        self.later(SECOND / 10, down_max, Event::Start { device });
    }

    fn stop(&mut self, device: usize) {
        let now = self.now;
        let own = &mut self.devices[device];
        own.is_up = false;
        own.writes.clear();
        own.asleep_until = 0;
        own.woken.clear();
        for (_, (mut belief, until)) in std::mem::take(&mut own.open) {
            belief.end = until.min(now);
            self.history.beliefs.push(belief);
        }
    }

    /// An old copy of a home comes back, long after.
    fn restore(&mut self, device: usize) {
        if !self.devices[device].is_up {
            return;
        }
        let Some(copy) = self.devices[device].copy.clone() else {
            self.devices[device].copy = Some(self.devices[device].disk.clone());
            return;
        };
        self.stop(device);
        self.devices[device].disk = copy;
        if self.history.kind == Kind::Restored {
            self.devices[device].instance = HostInstance::new(self.rng.next() | 1);
            self.devices[device].is_restored = true;
            // Somebody notices, and moves the register without that home.
            let other = (device + 1) % self.devices.len();
            let kind = CertKind::Lost;
            if self.devices[other].designation.chain().head().host == self.devices[device].id {
                self.later(
                    50 * SECOND,
                    60 * SECOND,
                    Event::Move { device: other, to: other, kind, tries: 5 },
                );
            }
        }
        self.later(40 * SECOND, 45 * SECOND, Event::Start { device });
    }

    fn moves(&mut self) {
        let (one, other) = (self.rng.index(self.devices.len()), self.rng.index(self.devices.len()));
        let host = self.devices[one].designation.chain().head().host;
        let host =
            self.devices.iter().position(|own| own.id == host).expect("the host is one of the devices");
        if self.rng.happens(250) && self.devices.iter().filter(|own| own.is_gone).count() == 0 && one != host
        {
            // The host's home is gone for good.
            if self.devices[host].is_up {
                self.stop(host);
            }
            self.devices[host].is_gone = true;
            let kind = CertKind::Lost;
            self.later(SECOND, 5 * SECOND, Event::Move { device: one, to: one, kind, tries: 20 });
            return;
        }
        let kind = CertKind::Planned;
        self.push(self.now, Event::Move { device: one, to: other, kind, tries: 3 });
        if self.rng.happens(500) {
            // Another admin names another host at the same moment.
            let to = self.rng.index(self.devices.len());
            self.later(0, SECOND / 5, Event::Move { device: other, to, kind, tries: 3 });
        }
    }

    fn lose_wrongly(&mut self) {
        let one = self.rng.index(self.devices.len());
        let host = self.devices[one].designation.chain().head().host;
        let host =
            self.devices.iter().position(|own| own.id == host).expect("the host is one of the devices");
        if one == host {
            return;
        }
        let client = self.rng.index(self.devices.len());
        for other in (0..self.devices.len()).filter(|other| *other != host && *other != client) {
            self.cut.extend([(host, other), (other, host)]);
            self.later(20 * SECOND, 60 * SECOND, Event::Heal { one: host, other });
        }
        let kind = CertKind::Lost;
        self.later(0, SECOND, Event::Move { device: one, to: one, kind, tries: 5 });
    }

    fn move_to(&mut self, device: usize, to: usize, kind: CertKind, tries: u32) {
        if tries == 0 {
            return;
        }
        let head = self.devices[device].designation.chain().head();
        // A home that was restored is another one than the certificate names: that host is lost too.
        let is_lost = self
            .devices
            .iter()
            .any(|own| own.id == head.host && (own.is_gone || own.instance != head.instance));
        let is_wanted = kind == CertKind::Planned || is_lost || self.history.kind == Kind::WronglyLost;
        if self.is_awake(device) && !self.devices[to].is_gone && is_wanted {
            let voters = self.voters();
            self.designation(device, DesignationInput::Voters(voters));
            let to = self.devices[to].id;
            self.designation(device, DesignationInput::Move { to, kind });
        } else if is_wanted {
            self.later(SECOND, 5 * SECOND, Event::Move { device, to, kind, tries: tries - 1 });
        }
    }

    // Life and death.

    fn start(&mut self, device: usize) {
        if self.devices[device].is_up || self.devices[device].is_gone {
            return;
        }
        self.history.lives += 1;
        let members: BTreeSet<DeviceId> = self.devices.iter().map(|own| own.id).collect();
        let (id, home_instance) = (self.devices[device].id, self.devices[device].instance);
        let (home, post) = (
            Home { device: id, instance: home_instance, members, rules: self.rules },
            self.post(id, home_instance),
        );
        let now = self.now;
        let own = &mut self.devices[device];
        (own.booted, own.is_up, own.asleep_until, own.written_at) = (now, true, 0, 0);
        own.life += 1;
        let life = own.life;
        let mut chain = Chain::new(SPACE, device_id(0));
        for cert in &own.disk.certificates {
            chain.admit(cert, self.rules, Signatures::Simulated).expect("what was written held before");
        }
        let clock = self.clock(device);
        let own = &mut self.devices[device];
        let head = chain.head();
        own.register = Register::open(&clock, home, head, own.disk.host.clone());
        own.designation = Designation::open(&clock, post, chain, own.disk.designation.clone());
        let holder = Holder { device: id, instance: instance(life) };
        own.clients = (0..self.key_count)
            .map(|key| {
                let own = Own { holder, key: key_name(key), req_no: ReqNo::new(0), rules: self.rules };
                Client::new(&clock, own, head)
            })
            .collect();
        own.read_sent.clear();
        if let Some(host) = &own.disk.host {
            let cert = host.head.cert;
            self.designation(device, DesignationInput::Installed(cert));
        }
        let voters = self.voters();
        self.designation(device, DesignationInput::Voters(voters));
        if self.history.kind == Kind::RestoredUnseen {
            // A session begins with what both have seen; nobody asks before that.
            for other in (0..self.devices.len()).filter(|other| *other != device) {
                if self.devices[other].life > 0 {
                    self.tell(other, device);
                }
            }
        }
        self.register(device, RegisterInput::Tick);
        self.designation(device, DesignationInput::Tick);
    }

    fn close_all(&mut self) {
        for device in 0..self.devices.len() {
            if self.devices[device].is_up {
                self.stop(device);
            }
        }
    }

    // The network and the disks.

    fn send(&mut self, from: usize, to: usize, parcel: Parcel) {
        let lives = (self.devices[from].life, self.devices[to].life);
        if from == to {
            let at = self.now + 100;
            return self.push(at, Event::Arrive { to, from, lives, parcel });
        }
        if self.cut.contains(&(from, to)) || self.rng.happens(80) {
            return;
        }
        if self.rng.happens(80) {
            self.later(1_000, 8 * SECOND, Event::Arrive { to, from, lives, parcel: parcel.clone() });
        }
        let slowest = if self.rng.happens(60) { 5 * SECOND } else { SECOND / 10 };
        self.later(500, slowest, Event::Arrive { to, from, lives, parcel });
    }

    fn send_to(&mut self, from: usize, to: DeviceId, parcel: Parcel) {
        let to = self.devices.iter().position(|own| own.id == to).expect("only devices are written to");
        self.send(from, to, parcel);
    }

    fn write(&mut self, device: usize, write: Write) {
        let slow = if self.rng.happens(50) { 3 * SECOND } else { SECOND / 50 };
        let at = (self.now + self.rng.between(100, slow)).max(self.devices[device].written_at + 1);
        let own = &mut self.devices[device];
        own.written_at = at;
        own.writes.push_back(write);
        let life = own.life;
        self.push(at, Event::Written { device, life });
    }

    fn written(&mut self, device: usize) {
        let Some(write) = self.devices[device].writes.pop_front() else { return };
        let fails = self.rng.happens(self.devices[device].fails_permille);
        let is_certificate = matches!(write, Write::Certificate(_));
        if !fails || is_certificate || self.rng.happens(300) {
            self.make_durable(device, &write);
        }
        match write {
            Write::Host(id, _) if fails => self.register(device, RegisterInput::PersistFailed(id)),
            Write::Host(id, _) => self.register(device, RegisterInput::Persisted(id)),
            Write::Designation(id, _) if fails => {
                self.designation(device, DesignationInput::PersistFailed(id));
            }
            Write::Designation(id, _) => self.designation(device, DesignationInput::Persisted(id)),
            Write::Certificate(cert) => self.designation(device, DesignationInput::Certificate(cert)),
        }
        if fails {
            // A daemon whose disk fails is restarted before long.
            self.crash(device, 2 * SECOND);
        }
    }

    fn make_durable(&mut self, device: usize, write: &Write) {
        let disk = &mut self.devices[device].disk;
        match write {
            Write::Host(_, write) => {
                let state = HostState::apply(disk.host.take(), write);
                self.history.tables.push(Table::of(self.now, &state));
                disk.host = Some(state);
            }
            Write::Designation(_, state) => disk.designation = Some(state.clone()),
            Write::Certificate(cert) => {
                if disk.certificates.iter().all(|known| known.hash() != cert.hash()) {
                    disk.certificates.push(cert.clone());
                }
                self.history.certificates.entry(cert.proposal.term).or_default().push(cert.hash());
            }
        }
    }

    // The machines.

    fn register(&mut self, device: usize, input: RegisterInput) {
        let now = self.clock(device);
        let before = self.devices[device].register.cert();
        for effect in self.devices[device].register.step(&now, input) {
            match effect {
                RegisterEffect::Persist { id, write } => self.write(device, Write::Host(id, write)),
                RegisterEffect::Reply { to, reply } => {
                    self.note_reply(device, to, &reply);
                    self.send_to(device, to, Parcel::Reply(reply));
                }
                RegisterEffect::Sealed { proposal, digest, .. } => {
                    self.designation(device, DesignationInput::Sealed { proposal, digest });
                }
                RegisterEffect::Deadline(at) => self.set_timer(device, Timer::Register, at),
            }
        }
        let after = self.devices[device].register.cert();
        if before != after && self.devices[device].register.phase() != Phase::Installing {
            self.designation(device, DesignationInput::Installed(after));
        }
    }

    fn designation(&mut self, device: usize, input: DesignationInput) {
        let now = self.clock(device);
        for effect in self.devices[device].designation.step(&now, input) {
            match effect {
                DesignationEffect::Persist { id, state } => {
                    self.write(device, Write::Designation(id, state));
                }
                DesignationEffect::Send { to, message } => {
                    self.send_to(device, to, Parcel::Designation(message));
                }
                DesignationEffect::Vote { to, hash, table } => {
                    self.note_vote(device, hash);
                    let voter = self.devices[device].id;
                    let signed = Proposal::confirmed_hash(hash, table);
                    let signature = Signatures::simulated(&voter, &signed);
                    let vote = Vote { device: voter, table, signature };
                    self.send_to(device, to, Parcel::Designation(DesignationMessage::Confirm { hash, vote }));
                }
                DesignationEffect::Withdraw { to, hash } => {
                    let signature =
                        Signatures::simulated(&self.devices[device].id, &Proposal::withdrawn_hash(hash));
                    let message = DesignationMessage::Withdraw { hash, signature };
                    self.send_to(device, to, Parcel::Designation(message));
                }
                DesignationEffect::Seal { proposal, to } => {
                    self.register(device, RegisterInput::Seal { proposal, to });
                }
                DesignationEffect::Commit(cert) => self.write(device, Write::Certificate(cert)),
                DesignationEffect::Head(head) => {
                    self.register(device, RegisterInput::Head(head));
                    for key in 0..self.key_count {
                        self.client(device, key, ClientInput::Head(head));
                    }
                }
                DesignationEffect::Install { head, table } => {
                    self.register(device, RegisterInput::Install { head, table });
                }
                DesignationEffect::Refused(_) => {}
                DesignationEffect::Deadline(at) => self.set_timer(device, Timer::Designation, at),
            }
        }
    }

    fn client(&mut self, device: usize, key: usize, input: ClientInput) {
        let now = self.clock(device);
        let before = self.devices[device].clients[key].first_sent();
        for effect in self.devices[device].clients[key].step(&now, input) {
            match effect {
                ClientEffect::Send { to, request } => {
                    self.note(device, key, &request);
                    self.send_to(device, to, Parcel::Request(request));
                }
                ClientEffect::Granted(grant) => {
                    self.devices[device].woken.remove(&key);
                    let sent = before.map_or(self.now, |at| self.when(device, at));
                    self.believe(device, key, grant.epoch(), sent, grant.valid_until());
                    self.designation(device, DesignationInput::Seen(grant.epoch()));
                }
                ClientEffect::Renewed(grant) => {
                    self.devices[device].woken.remove(&key);
                    let until = self.when(device, grant.valid_until());
                    if let Some((_, end)) = self.devices[device].open.get_mut(&key) {
                        *end = (*end).max(until);
                    }
                }
                ClientEffect::Lost { .. } | ClientEffect::Stop { .. } | ClientEffect::Released { .. } => {
                    self.unbelieve(device, key);
                }
                ClientEffect::Read(read) => self.fenced_act(device, key, &read),
                ClientEffect::Refused(_) => {}
                ClientEffect::Deadline(at) => self.set_timer(device, Timer::Client(key), at),
            }
        }
    }

    fn set_timer(&mut self, device: usize, of: Timer, at: Option<Duration>) {
        let Some(at) = at else { return };
        let (at, life) = (self.when(device, at).max(self.now + SECOND / 100), self.devices[device].life);
        self.push(at, Event::Timer { device, life, of });
    }

    fn note(&mut self, device: usize, key: usize, request: &Request) {
        let own = &self.devices[device];
        let at = (device, own.life, key, request.req_no);
        let by = Holder { device: own.id, instance: request.instance };
        if !self.asked.contains_key(&at) {
            self.asked.insert(at, self.history.ops.len());
            self.history.ops.push(Op { key, by, asked: request.verb, sent: self.now, said: None });
        }
    }

    fn note_reply(&mut self, host: usize, to: DeviceId, reply: &Reply) {
        let by = Holder { device: to, instance: reply.instance };
        let own = &self.devices[host];
        let key = (0..self.key_count).find(|key| key_name(*key) == reply.key);
        let Some(key) = key.filter(|_| reply.answer.is_ok()) else { return };
        let asker = self.devices.iter().position(|own| own.id == to).expect("only devices ask");
        let Some(op) = self.asked.get(&(asker, reply.instance.get(), key, reply.req_no)) else { return };
        let Op { sent, asked, .. } = self.history.ops[*op];
        let said =
            HostReply::of((sent, self.now), (own.id, own.life), (key, by, asked), reply, &own.disk.host);
        self.history.replies.push(said);
    }

    fn note_vote(&mut self, device: usize, hash: ProposalHash) {
        let own = &self.devices[device];
        let promise = own.disk.designation.as_ref().and_then(|state| state.promise.as_ref());
        let is_durable = promise.is_some_and(|promise| promise.hash() == hash);
        let is_named = own.designation.chain().vouches_for(&own.id, own.instance);
        let is_in_doubt = own.is_restored && !is_named;
        self.history.votes.push(CastVote { at: self.now, is_durable, is_in_doubt });
    }

    fn believe(&mut self, device: usize, key: usize, epoch: LeaseEpoch, sent: u64, valid_until: Duration) {
        self.unbelieve(device, key);
        let own = &self.devices[device];
        let belief = Belief {
            key,
            epoch,
            by: Holder { device: own.id, instance: instance(own.life) },
            sent,
            begin: self.now,
            end: self.now,
            adopted_term: own.designation.chain().head().term,
        };
        let until = self.when(device, valid_until);
        self.devices[device].open.insert(key, (belief, until));
    }

    fn unbelieve(&mut self, device: usize, key: usize) {
        if let Some((mut belief, until)) = self.devices[device].open.remove(&key) {
            belief.end = until.min(self.now);
            self.history.beliefs.push(belief);
        }
    }
}

/// What a device's clock says; it begins anew with every start.
fn uptime(own: &Device, now: u64) -> u64 {
    let since = i128::from(now.saturating_sub(own.booted));
    let scaled = since * (1_000_000 + i128::from(own.rate)) / 1_000_000;
    UPTIME_START + u64::try_from(scaled).expect("time goes on")
}

fn device_id(number: u8) -> DeviceId {
    DeviceId::from_bytes([number + 1; 32])
}

const fn instance(life: u64) -> DaemonInstance {
    DaemonInstance::new(life)
}

fn key_name(key: usize) -> AgentId {
    format!("agent-{key}").parse().expect("a short name")
}

/// A start takes a while.
const UPTIME_START: u64 = 5 * SECOND;

const SPACE: SpaceId = SpaceId::from_bytes([7; 32]);
