//! A register with a disk that the test holds, and a client.

use std::time::Duration;

use crate::lease::*;
use crate::model::{AgentId, DeviceId, LeaseEpoch, Now, SpaceId, Wall};

pub fn at(millis: u64) -> Now {
    Now { uptime: Duration::from_millis(millis), wall: Wall::from_millis(0), entropy: [0; 32] }
}

pub fn device(number: u8) -> DeviceId {
    DeviceId::from_bytes([number; 32])
}

pub fn holder(number: u8) -> Holder {
    Holder { device: device(number), instance: DaemonInstance::new(u64::from(number)) }
}

pub fn space() -> SpaceId {
    SpaceId::from_bytes([9; 32])
}

/// Device 1 hosts.
pub fn first() -> Head {
    Head::first(space(), device(1))
}

pub fn home(number: u8, rules: Rules) -> Home {
    Home {
        device: device(number),
        instance: HostInstance::FIRST,
        members: (1..=9).map(device).collect(),
        rules,
    }
}

pub fn key(name: &str) -> AgentId {
    name.parse().expect("a name")
}

pub fn epoch(raw: u64) -> LeaseEpoch {
    LeaseEpoch::new(raw).expect("an epoch")
}

/// A register and what is durable of it.
pub struct Bench {
    pub register: Register,
    pub disk: Option<HostState>,
    pub rules: Rules,
    /// Writes that were asked for and not yet done.
    pub writes: Vec<(WriteId, HostWrite)>,
    pub replies: Vec<(DeviceId, Reply)>,
    pub sealed: Vec<(TableDigest, HostState)>,
    pub deadline: Option<Duration>,
}

impl Bench {
    /// Serves from time 0.
    pub fn new() -> Self {
        Self::with(Rules::ALL)
    }

    pub fn with(rules: Rules) -> Self {
        let mut bench = Self::absent(1, rules, first());
        bench.step(0, RegisterInput::Install { head: first(), table: None });
        bench.sync(0);
        bench
    }

    pub fn absent(number: u8, rules: Rules, adopted: Head) -> Self {
        Self {
            register: Register::open(&at(0), home(number, rules), adopted, None),
            disk: None,
            rules,
            writes: Vec::new(),
            replies: Vec::new(),
            sealed: Vec::new(),
            deadline: None,
        }
    }

    pub fn step(&mut self, millis: u64, input: RegisterInput) {
        for effect in self.register.step(&at(millis), input) {
            match effect {
                RegisterEffect::Persist { id, write } => self.writes.push((id, write)),
                RegisterEffect::Reply { to, reply } => self.replies.push((to, reply)),
                RegisterEffect::Sealed { digest, table, .. } => self.sealed.push((digest, table)),
                RegisterEffect::Deadline(at) => self.deadline = at,
            }
        }
    }

    /// Makes everything durable that waits.
    pub fn sync(&mut self, millis: u64) {
        while !self.writes.is_empty() {
            let (id, write) = self.writes.remove(0);
            self.disk = Some(HostState::apply(self.disk.take(), &write));
            self.step(millis, RegisterInput::Persisted(id));
        }
    }

    /// The power goes; the register is opened again from the disk.
    pub fn restart(&mut self, millis: u64) {
        self.writes.clear();
        self.replies.clear();
        self.register = Register::open(&at(millis), home(1, self.rules), first(), self.disk.clone());
    }

    /// Asks without waiting for the disk.
    pub fn ask(&mut self, millis: u64, by: Holder, req_no: u64, verb: Verb) {
        let request = self.request(by, req_no, verb);
        self.step(millis, RegisterInput::Request { from: by.device, request });
    }

    pub fn request(&self, by: Holder, req_no: u64, verb: Verb) -> Request {
        let cert = self.register.cert();
        Request {
            instance: by.instance,
            key: key("backup"),
            req_no: ReqNo::new(req_no),
            cert,
            seen: None,
            verb,
        }
    }

    /// Asks, syncs, and gives the answer.
    pub fn call(&mut self, millis: u64, by: Holder, req_no: u64, verb: Verb) -> Result<Answer, LeaseRefused> {
        self.replies.clear();
        self.ask(millis, by, req_no, verb);
        self.sync(millis);
        let (to, reply) = self.replies.pop().expect("every request is answered");
        assert_eq!((to, reply.req_no), (by.device, ReqNo::new(req_no)));
        reply.answer
    }

    pub fn acquire(&mut self, millis: u64, by: Holder, req_no: u64) -> Result<Answer, LeaseRefused> {
        self.call(millis, by, req_no, Verb::Acquire { ttl: Ttl::DEFAULT })
    }

    /// Who holds the key.
    pub fn current(&mut self, millis: u64) -> Option<(LeaseEpoch, Holder)> {
        match self.call(millis, holder(9), 0, Verb::Current) {
            Ok(Answer::Current { standing }) => standing.map(|standing| (standing.epoch, standing.holder)),
            other => panic!("{other:?}"),
        }
    }
}
