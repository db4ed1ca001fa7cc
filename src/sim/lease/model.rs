//! Every state of a small world: breadth first, over the real machines.
//!
//! A few devices with one key, a network that is a set of parcels in any order, and budgets for
//! what may go wrong. States are hashed with everything the machines know, the clock and the
//! budgets, so two ways to one state are one state. In each of them the promises are looked at.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use crate::lease::{
    CertKind, Certificate, Chain, Client, ClientEffect, ClientInput, DaemonInstance, Designation,
    DesignationEffect, DesignationInput, DesignationMessage, DesignationState, Grant, Holder, Home,
    HostInstance, HostState, HostWrite, Local, Own, Patience, Post, Proposal, Register, RegisterEffect,
    RegisterInput, Reply, ReqNo, Request, Rules, Signatures, Ttl, Vote, Voter, WriteId,
};
use crate::model::{CertHash, DeviceId, LeaseEpoch, Now, SpaceId, Wall};

/// How small the world is.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Devices, each a voter, a client and a possible host.
    pub devices: u8,
    /// What may happen, how often.
    pub budget: Budget,
    /// How many states to look at before it is enough.
    pub states_max: usize,
    /// Which rules are kept.
    pub rules: Rules,
}

/// How often each thing may still happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Budget {
    /// Acquires.
    pub acquires: u8,
    /// Releases.
    pub releases: u8,
    /// Crashes.
    pub crashes: u8,
    /// Parcels lost.
    pub losses: u8,
    /// Parcels delivered that stay to be delivered again.
    pub copies: u8,
    /// Jumps of the clock to the next deadline.
    pub ticks: u8,
    /// Moves of the register.
    pub moves: u8,
}

impl Scope {
    /// Two daemons and a host that is one of them: requests, copies, crashes, expiries.
    pub const fn lease(states_max: usize) -> Self {
        let budget =
            Budget { acquires: 3, releases: 1, crashes: 1, losses: 1, copies: 2, ticks: 5, moves: 0 };
        Self { devices: 2, budget, states_max, rules: Rules::ALL }
    }

    /// Three devices and two moves at once, with a crash.
    pub const fn moves(states_max: usize) -> Self {
        let budget =
            Budget { acquires: 1, releases: 0, crashes: 1, losses: 1, copies: 1, ticks: 2, moves: 2 };
        Self { devices: 3, budget, states_max, rules: Rules::ALL }
    }
}

/// What a walk found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Distinct states.
    pub states: usize,
    /// Steps taken between them.
    pub steps: usize,
    /// The longest path.
    pub depth: usize,
    /// Whether every state within the budget was looked at.
    pub is_complete: bool,
    /// The first broken promise, if one is.
    pub broken: Option<String>,
}

/// Walks the states of a scope, breadth first.
pub fn walk(scope: &Scope) -> Walk {
    let start = State::start(scope);
    let mut known = HashSet::from([start.fingerprint()]);
    let mut front = VecDeque::from([(start, 0)]);
    let mut walk = Walk { states: 1, steps: 0, depth: 0, is_complete: true, broken: None };
    while let Some((state, depth)) = front.pop_front() {
        walk.depth = depth;
        for step in state.steps() {
            walk.steps += 1;
            let next = state.after(&step, scope);
            if !known.insert(next.fingerprint()) {
                continue;
            }
            walk.states = known.len();
            if let Some(broken) = next.broken() {
                walk.broken = Some(format!("{broken}, after {} steps ending in {step:?}", depth + 1));
                return walk;
            }
            if known.len() >= scope.states_max {
                walk.is_complete = false;
                return walk;
            }
            front.push_back((next, depth + 1));
        }
    }
    walk
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    millis: u64,
    budget: Budget,
    devices: Vec<Arc<Device>>,
    net: BTreeSet<Parcel>,
    /// Every token that a daemon believed in, and whose it was.
    granted: BTreeMap<LeaseEpoch, Holder>,
    /// Every certificate that became durable somewhere.
    certs: BTreeMap<u32, BTreeSet<CertHash>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Device {
    life: u64,
    is_up: bool,
    is_gone: bool,
    register: Register,
    designation: Designation,
    client: Client,
    host: Option<HostState>,
    promises: DesignationState,
    certificates: Vec<Certificate>,
    writes: VecDeque<Write>,
    deadlines: [Option<Duration>; 3],
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Write {
    Host(WriteId, HostWrite),
    Promises(u64, DesignationState),
    Certificate(Certificate),
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Parcel {
    from: u8,
    to: u8,
    content: Content,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Content {
    Request(Request),
    Reply(Reply),
    Designation(DesignationMessage),
    /// The roster brings it, some time.
    Certificate(Certificate),
}

#[derive(Clone, Debug)]
enum Step {
    Deliver(Parcel),
    DeliverAndKeep(Parcel),
    Lose(Parcel),
    Written(u8),
    Crash { device: u8, durable: usize },
    Start(u8),
    Acquire(u8),
    Release(u8),
    Move { device: u8, to: u8, kind: CertKind },
    Tick(Duration),
}

impl State {
    fn start(scope: &Scope) -> Self {
        let devices = (0..scope.devices).map(|number| Arc::new(Device::new(number, scope))).collect();
        let mut state = Self {
            millis: 1_000,
            budget: scope.budget,
            devices,
            net: BTreeSet::new(),
            granted: BTreeMap::new(),
            certs: BTreeMap::new(),
        };
        for number in 0..scope.devices {
            state.designation(number, DesignationInput::Voters(voters(scope.devices)));
        }
        state.designation(0, DesignationInput::Tick);
        // The first host is installed before anything can go wrong.
        while !state.devices[0].writes.is_empty() {
            state.written(0);
        }
        state
    }

    fn now(&self) -> Now {
        Now { uptime: Duration::from_millis(self.millis), wall: Wall::from_millis(0), entropy: [0; 32] }
    }

    fn fingerprint(&self) -> u128 {
        let mut hasher = Wide { low: 0x9e37_79b9_7f4a_7c15, high: 0xc2b2_ae3d_27d4_eb4f };
        self.hash(&mut hasher);
        u128::from(hasher.high) << 64 | u128::from(hasher.finish())
    }

    /// Everything that may happen next.
    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for parcel in &self.net {
            steps.push(Step::Deliver(parcel.clone()));
            if self.budget.copies > 0 {
                steps.push(Step::DeliverAndKeep(parcel.clone()));
            }
            if self.budget.losses > 0 {
                steps.push(Step::Lose(parcel.clone()));
            }
        }
        for (number, device) in (0_u8..).zip(&self.devices) {
            if device.is_up {
                self.steps_of(number, device, &mut steps);
            } else if !device.is_gone {
                steps.push(Step::Start(number));
            }
        }
        if self.budget.ticks > 0
            && let Some(at) = self.next_deadline()
        {
            steps.push(Step::Tick(at));
        }
        steps
    }

    fn steps_of(&self, number: u8, device: &Device, steps: &mut Vec<Step>) {
        if !device.writes.is_empty() {
            steps.push(Step::Written(number));
        }
        if self.budget.crashes > 0 {
            let durable = 0..=device.writes.len();
            steps.extend(durable.map(|durable| Step::Crash { device: number, durable }));
        }
        if self.budget.acquires > 0 && device.client.is_idle() {
            steps.push(Step::Acquire(number));
        }
        if self.budget.releases > 0 && device.client.grant().is_some() {
            steps.push(Step::Release(number));
        }
        if self.budget.moves > 0 {
            let host = device.designation.chain().head().host;
            let host = self.devices.iter().position(|other| other.register_device() == host);
            let is_host_up = host.is_some_and(|host| self.devices[host].is_up);
            let kind = if is_host_up { CertKind::Planned } else { CertKind::Lost };
            let count = u8::try_from(self.devices.len()).expect("few");
            // Each admin names the next device.
            steps.push(Step::Move { device: number, to: (number + 1) % count, kind });
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        let up = self.devices.iter().filter(|device| device.is_up);
        up.flat_map(|device| device.deadlines).flatten().min()
    }

    fn after(&self, step: &Step, scope: &Scope) -> Self {
        let mut next = self.clone();
        match step {
            Step::Deliver(parcel) => {
                next.net.remove(parcel);
                next.deliver(parcel.clone());
            }
            Step::DeliverAndKeep(parcel) => {
                next.budget.copies -= 1;
                next.deliver(parcel.clone());
            }
            Step::Lose(parcel) => {
                next.budget.losses -= 1;
                next.net.remove(parcel);
            }
            Step::Written(device) => next.written(*device),
            Step::Crash { device, durable } => {
                next.budget.crashes -= 1;
                next.crash(*device, *durable);
            }
            Step::Start(device) => next.restart(*device, scope),
            Step::Acquire(device) => {
                next.budget.acquires -= 1;
                next.client(*device, ClientInput::Acquire { ttl: Ttl::MIN, patience: Patience::Refuse });
            }
            Step::Release(device) => {
                next.budget.releases -= 1;
                next.client(*device, ClientInput::Release);
            }
            Step::Move { device, to, kind } => {
                next.budget.moves -= 1;
                if *kind == CertKind::Lost {
                    next.host_is_gone(*device);
                }
                let to = device_id(*to);
                next.designation(*device, DesignationInput::Move { to, kind: *kind });
            }
            Step::Tick(at) => {
                next.budget.ticks -= 1;
                next.tick(*at);
            }
        }
        next
    }

    fn own(&mut self, number: u8) -> &mut Device {
        Arc::make_mut(&mut self.devices[usize::from(number)])
    }

    fn deliver(&mut self, parcel: Parcel) {
        if !self.devices[usize::from(parcel.to)].is_up {
            return;
        }
        let from = device_id(parcel.from);
        match parcel.content {
            Content::Request(request) => self.register(parcel.to, RegisterInput::Request { from, request }),
            Content::Reply(reply) => self.client(parcel.to, ClientInput::Reply { from, reply }),
            Content::Designation(DesignationMessage::Fetch(digest)) => {
                let table = self.devices[usize::from(parcel.to)].register.state().cloned();
                if let Some(table) = table.filter(|table| table.digest() == digest) {
                    let content = Content::Designation(DesignationMessage::Table(table));
                    self.send(parcel.to, from, content);
                }
            }
            Content::Designation(message) => {
                self.designation(parcel.to, DesignationInput::Message { from, message });
            }
            Content::Certificate(cert) => {
                let own = self.own(parcel.to);
                if own.certificates.iter().all(|known| known.hash() != cert.hash()) {
                    own.certificates.push(cert.clone());
                }
                self.designation(parcel.to, DesignationInput::Certificate(cert));
            }
        }
    }

    fn written(&mut self, number: u8) {
        let Some(write) = self.own(number).writes.pop_front() else { return };
        self.make_durable(number, &write);
        match write {
            Write::Host(id, _) => self.register(number, RegisterInput::Persisted(id)),
            Write::Promises(id, _) => self.designation(number, DesignationInput::Persisted(id)),
            Write::Certificate(cert) => {
                for to in 0..self.devices.len() {
                    let to = u8::try_from(to).expect("few");
                    if to != number {
                        self.send(number, device_id(to), Content::Certificate(cert.clone()));
                    }
                }
                self.designation(number, DesignationInput::Certificate(cert));
            }
        }
    }

    fn make_durable(&mut self, number: u8, write: &Write) {
        match write {
            Write::Host(_, write) => {
                let own = self.own(number);
                own.host = Some(HostState::apply(own.host.take(), write));
            }
            Write::Promises(_, state) => self.own(number).promises = state.clone(),
            Write::Certificate(cert) => {
                self.own(number).certificates.push(cert.clone());
                self.certs.entry(cert.proposal.term).or_default().insert(cert.hash());
            }
        }
    }

    fn crash(&mut self, number: u8, durable: usize) {
        let writes: Vec<Write> = self.own(number).writes.drain(..).collect();
        for write in writes.iter().take(durable) {
            self.make_durable(number, write);
        }
        let own = self.own(number);
        own.is_up = false;
        own.deadlines = [None; 3];
    }

    fn restart(&mut self, number: u8, scope: &Scope) {
        let now = self.now();
        self.own(number).open(&now, number, scope);
        self.designation(number, DesignationInput::Voters(voters(scope.devices)));
        if let Some(cert) = self.devices[usize::from(number)].host.as_ref().map(|host| host.head.cert) {
            self.designation(number, DesignationInput::Installed(cert));
        }
        self.designation(number, DesignationInput::Tick);
        self.register(number, RegisterInput::Tick);
        // The roster that others have reaches it too.
        let known: Vec<Certificate> =
            self.devices.iter().flat_map(|device| device.certificates.clone()).collect();
        for cert in known {
            self.net.insert(Parcel { from: number, to: number, content: Content::Certificate(cert) });
        }
    }

    /// Whoever says that the host is lost is right: it never comes back.
    fn host_is_gone(&mut self, number: u8) {
        let host = self.devices[usize::from(number)].designation.chain().head().host;
        if let Some(at) = self.devices.iter().position(|device| device.register_device() == host) {
            Arc::make_mut(&mut self.devices[at]).is_gone = true;
        }
    }

    fn tick(&mut self, at: Duration) {
        self.millis = self.millis.max(u64::try_from(at.as_micros().div_ceil(1_000)).expect("a short time"));
        let now = self.now().uptime;
        for number in 0..self.devices.len() {
            let device = &self.devices[number];
            let is_due = device.deadlines.map(|due| device.is_up && due.is_some_and(|due| due <= now));
            let number = u8::try_from(number).expect("few");
            if is_due[0] {
                self.register(number, RegisterInput::Tick);
            }
            if is_due[1] {
                self.designation(number, DesignationInput::Tick);
            }
            if is_due[2] {
                self.client(number, ClientInput::Tick);
            }
        }
    }

    fn send(&mut self, from: u8, to: DeviceId, content: Content) {
        let to = self.devices.iter().position(|device| device.register_device() == to);
        let to = u8::try_from(to.expect("only devices are written to")).expect("few");
        self.net.insert(Parcel { from, to, content });
    }

    fn register(&mut self, number: u8, input: RegisterInput) {
        let now = self.now();
        let before = self.devices[usize::from(number)].register.cert();
        for effect in self.own(number).register.step(&now, input) {
            match effect {
                RegisterEffect::Persist { id, write } => {
                    self.own(number).writes.push_back(Write::Host(id, write));
                }
                RegisterEffect::Reply { to, reply } => self.send(number, to, Content::Reply(reply)),
                RegisterEffect::Sealed { proposal, digest, .. } => {
                    self.designation(number, DesignationInput::Sealed { proposal, digest });
                }
                RegisterEffect::Deadline(at) => self.own(number).deadlines[0] = at,
            }
        }
        let after = self.devices[usize::from(number)].register.cert();
        if before != after {
            self.designation(number, DesignationInput::Installed(after));
        }
    }

    fn designation(&mut self, number: u8, input: DesignationInput) {
        let now = self.now();
        let own = device_id(number);
        for effect in self.own(number).designation.step(&now, input) {
            match effect {
                DesignationEffect::Persist { id, state } => {
                    self.own(number).writes.push_back(Write::Promises(id, state));
                }
                DesignationEffect::Send { to, message } => {
                    self.send(number, to, Content::Designation(message));
                }
                DesignationEffect::Vote { to, hash, table } => {
                    let signature = Signatures::simulated(&own, &Proposal::confirmed_hash(hash, table));
                    let vote = Vote { device: own, table, signature };
                    let message = DesignationMessage::Confirm { hash, vote };
                    if to == own {
                        self.designation(number, DesignationInput::Message { from: own, message });
                    } else {
                        self.send(number, to, Content::Designation(message));
                    }
                }
                DesignationEffect::Withdraw { to, hash } => {
                    let signature = Signatures::simulated(&own, &Proposal::withdrawn_hash(hash));
                    let message = DesignationMessage::Withdraw { hash, signature };
                    self.send(number, to, Content::Designation(message));
                }
                DesignationEffect::Seal { proposal, to } => {
                    self.register(number, RegisterInput::Seal { proposal, to });
                }
                DesignationEffect::Commit(cert) => {
                    self.own(number).writes.push_back(Write::Certificate(cert));
                }
                DesignationEffect::Head(head) => {
                    self.register(number, RegisterInput::Head(head));
                    self.client(number, ClientInput::Head(head));
                }
                DesignationEffect::Install { head, table } => {
                    self.register(number, RegisterInput::Install { head, table });
                }
                DesignationEffect::Refused(_) => {}
                DesignationEffect::Deadline(at) => self.own(number).deadlines[1] = at,
            }
        }
    }

    fn client(&mut self, number: u8, input: ClientInput) {
        let now = self.now();
        for effect in self.own(number).client.step(&now, input) {
            match effect {
                ClientEffect::Send { to, request } => self.send(number, to, Content::Request(request)),
                ClientEffect::Granted(grant) => self.believe(number, &grant),
                ClientEffect::Deadline(at) => self.own(number).deadlines[2] = at,
                ClientEffect::Renewed(_)
                | ClientEffect::Lost { .. }
                | ClientEffect::Stop { .. }
                | ClientEffect::Released { .. }
                | ClientEffect::Refused(_)
                | ClientEffect::Read(_) => {}
            }
        }
    }

    fn believe(&mut self, number: u8, grant: &Grant) {
        let life = self.devices[usize::from(number)].life;
        let holder = Holder { device: device_id(number), instance: DaemonInstance::new(life) };
        let first = *self.granted.entry(grant.epoch()).or_insert(holder);
        if first != holder {
            // Remembered as a token of nobody, which `broken` sees.
            self.granted.insert(grant.epoch(), NOBODY);
        }
    }

    /// The promise that this state breaks.
    fn broken(&self) -> Option<String> {
        if let Some((epoch, _)) = self.granted.iter().find(|(_, holder)| **holder == NOBODY) {
            return Some(format!("token {epoch} was given twice"));
        }
        if let Some((term, _)) = self.certs.iter().find(|(_, hashes)| hashes.len() > 1) {
            return Some(format!("two certificates of term {term}"));
        }
        let now = self.now();
        let up = self.devices.iter().filter(|device| device.is_up);
        let believing: Vec<LeaseEpoch> = up
            .filter_map(|device| match device.client.local(&now) {
                Local::Valid { epoch, .. } => Some(epoch),
                Local::RenewFirst { .. } | Local::NotHeld => None,
            })
            .collect();
        if believing.len() > 1 {
            return Some(format!("the holders of {believing:?} both believe"));
        }
        let greatest = self.granted.last_key_value().map(|(epoch, _)| *epoch);
        if let Some(late) = believing.iter().find(|epoch| Some(**epoch) < greatest) {
            return Some(format!("the holder of {late} believes, though {greatest:?} was granted"));
        }
        None
    }
}

impl Device {
    fn new(number: u8, scope: &Scope) -> Self {
        let now = Now { uptime: Duration::from_secs(1), wall: Wall::from_millis(0), entropy: [0; 32] };
        let promises = DesignationState::fresh(HostInstance::FIRST);
        let (register, designation, client) = machines(&now, number, 1, scope, (&[], None, &promises));
        Self {
            life: 1,
            is_up: true,
            is_gone: false,
            register,
            designation,
            client,
            host: None,
            promises,
            certificates: Vec::new(),
            writes: VecDeque::new(),
            deadlines: [None; 3],
        }
    }

    fn open(&mut self, now: &Now, number: u8, scope: &Scope) {
        self.life += 1;
        self.is_up = true;
        let durable = (self.certificates.as_slice(), self.host.clone(), &self.promises);
        (self.register, self.designation, self.client) = machines(now, number, self.life, scope, durable);
    }

    fn register_device(&self) -> DeviceId {
        self.client.holder().device
    }
}

fn machines(
    now: &Now,
    number: u8,
    life: u64,
    scope: &Scope,
    (certificates, host, promises): (&[Certificate], Option<HostState>, &DesignationState),
) -> (Register, Designation, Client) {
    let (device, rules) = (device_id(number), scope.rules);
    let mut chain = Chain::new(SPACE, device_id(0));
    for cert in certificates {
        chain.admit(cert, rules, Signatures::Simulated).expect("what was written held before");
    }
    let head = chain.head();
    let home = Home {
        device,
        instance: HostInstance::FIRST,
        members: (0..scope.devices).map(device_id).collect(),
        rules,
    };
    let post = Post {
        device,
        instance: HostInstance::FIRST,
        space: SPACE,
        signatures: Signatures::Simulated,
        rules,
    };
    let own = Own {
        holder: Holder { device, instance: DaemonInstance::new(life) },
        key: "a".parse().expect("a short name"),
        req_no: ReqNo::new(0),
        rules,
    };
    (
        Register::open(now, home, head, host),
        Designation::open(now, post, chain, Some(promises.clone())),
        Client::new(now, own, head),
    )
}

fn voters(count: u8) -> Vec<Voter> {
    (0..count).map(|number| Voter { device: device_id(number), instance: HostInstance::FIRST }).collect()
}

const fn device_id(number: u8) -> DeviceId {
    DeviceId::from_bytes([number + 1; 32])
}

const NOBODY: Holder = Holder { device: DeviceId::from_bytes([0; 32]), instance: DaemonInstance::new(0) };

const SPACE: SpaceId = SpaceId::from_bytes([7; 32]);

/// Two independent 64-bit hashes at once: among a million states a collision is one in 10^26.
struct Wide {
    low: u64,
    high: u64,
}

impl Wide {
    const fn mix(&mut self, word: u64) {
        self.low = (self.low.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        self.low ^= self.low >> 29;
        self.high =
            (self.high ^ word.wrapping_mul(0x9fb2_1c65_1e98_df25)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        self.high ^= self.high >> 32;
    }
}

impl Hasher for Wide {
    fn finish(&self) -> u64 {
        self.low
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.mix(u64::from_le_bytes(word) ^ (part.len() as u64) << 59);
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.mix(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.mix(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.mix(word as u64);
    }
}
