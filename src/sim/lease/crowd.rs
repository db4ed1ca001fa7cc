//! A register with more daemons than it can serve: they ask too much, too often, for too long.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::Kind;
use super::history::{History, HostReply, Table};
use crate::lease::{
    Chain, DaemonInstance, Holder, Home, HostInstance, HostState, HostWrite, LeaseRefused, Register,
    RegisterEffect, RegisterInput, Reply, ReqNo, Request, Rules, Ttl, Verb, WriteId,
};
use crate::model::{AgentId, DeviceId, LeaseEpoch, Now, SpaceId, Wall};
use crate::sim::rng::Rng;

/// Runs one crowd to its end.
pub(super) fn run(seed: u64, rules: Rules) -> History {
    let mut crowd = Crowd::new(seed, rules);
    crowd.step(RegisterInput::Tick);
    while crowd.now < END {
        crowd.now += crowd.rng.between(500, 4_000);
        crowd.ask();
        if crowd.rng.happens(700) {
            crowd.sync();
        }
    }
    crowd.history
}

struct Crowd {
    rng: Rng,
    now: u64,
    register: Register,
    cert: crate::model::CertHash,
    disk: Option<HostState>,
    writes: VecDeque<(WriteId, HostWrite)>,
    devices: u8,
    /// The last number of each device for each key.
    numbers: BTreeMap<(u8, usize), u64>,
    asked: BTreeMap<(DeviceId, usize, ReqNo), (u64, Verb)>,
    held: BTreeMap<(u8, usize), LeaseEpoch>,
    history: History,
}

impl Crowd {
    fn new(seed: u64, rules: Rules) -> Self {
        let mut rng = Rng::new(seed ^ 0x6372_6f77_6400);
        let devices = u8::try_from(rng.between(12, 30)).expect("few");
        let members: BTreeSet<DeviceId> = (0..devices).map(device).collect();
        let home = Home { device: device(0), instance: HostInstance::FIRST, members, rules };
        let head = Chain::new(SpaceId::from_bytes([7; 32]), device(0)).head();
        let now = Now { uptime: Duration::ZERO, wall: Wall::from_millis(0), entropy: [0; 32] };
        let register = Register::open(&now, home, head, None);
        let mut crowd = Self {
            rng,
            now: 0,
            register,
            cert: head.cert,
            disk: None,
            writes: VecDeque::new(),
            devices,
            numbers: BTreeMap::new(),
            asked: BTreeMap::new(),
            held: BTreeMap::new(),
            history: History::new(Kind::Crowded),
        };
        crowd.step(RegisterInput::Install { head, table: None });
        crowd.sync();
        crowd
    }

    fn ask(&mut self) {
        // One of them cannot wait.
        let number = if self.rng.happens(200) { 0 } else { self.rng.below(u64::from(self.devices)) };
        let number = u8::try_from(number).expect("few");
        let key = usize::from(number) * KEYS_EACH + self.rng.index(KEYS_EACH);
        let verb = match (self.held.get(&(number, key)).copied(), self.rng.below(20)) {
            (Some(epoch), 0) => Verb::Release { epoch },
            (Some(epoch), 1..6) => Verb::Renew { epoch, ttl: self.ttl() },
            (_, 6..8) => Verb::Current,
            (_, _) => Verb::Acquire { ttl: self.ttl() },
        };
        let last = self.numbers.entry((number, key)).or_default();
        *last += 1;
        let req_no = ReqNo::new(*last);
        let request = Request {
            instance: DaemonInstance::new(1),
            key: key_name(key),
            req_no,
            cert: self.cert,
            seen: None,
            verb,
        };
        self.asked.insert((device(number), key, req_no), (self.now, verb));
        let from = device(number);
        let replies = self.step(RegisterInput::Request { from, request });
        let is_refused = |reply: &Reply| matches!(reply.answer, Err(LeaseRefused::TooManyRequests { .. }));
        if !replies.iter().any(|(to, reply)| *to == from && reply.req_no == req_no && is_refused(reply)) {
            self.history.taken.push((self.now, from));
        }
    }

    /// Mostly long, so that the table fills; now and then what no lease may have.
    fn ttl(&mut self) -> Ttl {
        match self.rng.below(40) {
            0 => Ttl::from_raw(u32::try_from(self.rng.below(1_000)).expect("small")),
            1 => Ttl::from_raw(3_600_001 + u32::try_from(self.rng.below(1_000)).expect("small")),
            _ => Ttl::MAX,
        }
    }

    fn step(&mut self, input: RegisterInput) -> Vec<(DeviceId, Reply)> {
        let now = Now {
            uptime: Duration::from_micros(self.now),
            wall: Wall::from_millis(0),
            entropy: self.rng.bytes(),
        };
        let mut replies = Vec::new();
        for effect in self.register.step(&now, input) {
            match effect {
                RegisterEffect::Persist { id, write } => self.writes.push_back((id, write)),
                RegisterEffect::Reply { to, reply } => replies.push((to, reply)),
                RegisterEffect::Sealed { .. } | RegisterEffect::Deadline(_) => {}
            }
        }
        replies.iter().for_each(|(to, reply)| self.heard(*to, reply));
        replies
    }

    fn heard(&mut self, to: DeviceId, reply: &Reply) {
        let number = to.as_bytes()[0] - 1;
        let key = (0..).find(|key| key_name(*key) == reply.key).expect("it is one of the keys");
        let Ok(answer) = reply.answer else { return };
        let at = (number, key);
        match answer {
            crate::lease::Answer::Granted { epoch } => drop(self.held.insert(at, epoch)),
            crate::lease::Answer::Released { .. } => drop(self.held.remove(&at)),
            crate::lease::Answer::Renewed { .. } | crate::lease::Answer::Current { .. } => {}
        }
        let by = Holder { device: to, instance: reply.instance };
        let (sent, asked) = self.asked[&(to, key, reply.req_no)];
        self.history.replies.push(HostReply::of(
            (sent, self.now),
            (device(0), 1),
            (key, by, asked),
            reply,
            &self.disk,
        ));
    }

    fn sync(&mut self) {
        while let Some((id, write)) = self.writes.pop_front() {
            let state = HostState::apply(self.disk.take(), &write);
            self.history.tables.push(Table::of(self.now, &state));
            self.disk = Some(state);
            self.step(RegisterInput::Persisted(id));
        }
    }
}

fn device(number: u8) -> DeviceId {
    DeviceId::from_bytes([number + 1; 32])
}

fn key_name(key: usize) -> AgentId {
    format!("agent-{key}").parse().expect("a short name")
}

/// Keys that each device asks for: more than it may hold.
const KEYS_EACH: usize = 70;

/// Long enough for the table to fill, in true microseconds.
const END: u64 = 12_000_000;
