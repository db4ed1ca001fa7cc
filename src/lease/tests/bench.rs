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
        members: (1..=20).map(device).collect(),
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

/// The certificate after [`first`]: device 2 hosts.
pub fn moved(kind: CertKind, table: Option<TableDigest>) -> Head {
    let cert = crate::model::CertHash::from_bytes([2; 32]);
    Head { cert, term: 1, host: device(2), instance: HostInstance::FIRST, kind, table }
}

/// Devices 1 to 5 vote.
pub fn voters() -> Vec<Voter> {
    (1..=5).map(|number| Voter { device: device(number), instance: HostInstance::FIRST }).collect()
}

pub fn proposal(driver: u8, host: u8, kind: CertKind) -> Proposal {
    Proposal {
        space: space(),
        term: 1,
        prev: first().cert,
        kind,
        host: device(host),
        driver: device(driver),
        voters: voters(),
    }
}

pub fn vote(number: u8, proposal: &Proposal) -> Vote {
    let signed = Proposal::confirmed_hash(proposal.hash(), None);
    Vote { device: device(number), table: None, signature: Signatures::simulated(&device(number), &signed) }
}

pub fn confirm(number: u8, proposal: &Proposal) -> DesignationMessage {
    DesignationMessage::Confirm { hash: proposal.hash(), vote: vote(number, proposal) }
}

/// One device's designation, with a disk that the test holds.
pub struct Member {
    pub designation: Designation,
    pub writes: Vec<u64>,
    pub votes: Vec<(DeviceId, ProposalHash)>,
    pub sent: Vec<(DeviceId, DesignationMessage)>,
    pub withdrawn: Vec<(DeviceId, ProposalHash)>,
    pub commits: Vec<Certificate>,
    pub refused: Vec<DesignateRefused>,
}

impl Member {
    pub fn new(number: u8, rules: Rules) -> Self {
        Self::open(number, HostInstance::FIRST, rules)
    }

    /// Its home is another one than its state says.
    pub fn restored(number: u8, rules: Rules) -> Self {
        Self::open(number, HostInstance::new(5), rules)
    }

    /// Device 2 proposes itself, for a host that is lost, and has written that down.
    pub fn driving(rules: Rules) -> Self {
        let mut driver = Self::new(2, rules);
        driver.start(device(2), CertKind::Lost);
        driver.sync();
        driver
    }

    pub fn following(number: u8, chain: Chain) -> Self {
        Self::with(number, HostInstance::FIRST, Rules::ALL, chain)
    }

    fn open(number: u8, instance: HostInstance, rules: Rules) -> Self {
        Self::with(number, instance, rules, Chain::new(space(), device(1)))
    }

    fn with(number: u8, instance: HostInstance, rules: Rules, chain: Chain) -> Self {
        let post = Post {
            device: device(number),
            instance,
            space: space(),
            signatures: Signatures::Simulated,
            rules,
        };
        let state = Some(DesignationState::fresh(HostInstance::FIRST));
        let mut member = Self {
            designation: Designation::open(&at(0), post, chain, state),
            writes: Vec::new(),
            votes: Vec::new(),
            sent: Vec::new(),
            withdrawn: Vec::new(),
            commits: Vec::new(),
            refused: Vec::new(),
        };
        member.step(DesignationInput::Voters(voters()));
        member
    }

    pub fn step(&mut self, input: DesignationInput) {
        for effect in self.designation.step(&at(0), input) {
            match effect {
                DesignationEffect::Persist { id, .. } => self.writes.push(id),
                DesignationEffect::Vote { to, hash, .. } => self.votes.push((to, hash)),
                DesignationEffect::Send { to, message } => self.sent.push((to, message)),
                DesignationEffect::Withdraw { to, hash } => self.withdrawn.push((to, hash)),
                DesignationEffect::Commit(cert) => self.commits.push(cert),
                DesignationEffect::Refused(refused) => self.refused.push(refused),
                _ => {}
            }
        }
    }

    pub fn start(&mut self, to: DeviceId, kind: CertKind) {
        self.step(DesignationInput::Move { to, kind });
    }

    pub fn hear(&mut self, from: u8, message: DesignationMessage) {
        self.step(DesignationInput::Message { from: device(from), message });
    }

    pub fn sync(&mut self) {
        while !self.writes.is_empty() {
            let id = self.writes.remove(0);
            self.step(DesignationInput::Persisted(id));
        }
    }
}
