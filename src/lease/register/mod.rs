//! The register of one host, as a state machine.
//!
//! Whatever a request changes is staged, written as one [`HostWrite`] and applied only when the
//! shell reports it durable; then the replies that show it leave. One write is under way at a
//! time; what arrives meanwhile waits and shares the next. See `manual/lease.md`.

mod answer;
mod stage;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use self::answer::Bucket;
pub use self::answer::REQUESTS_PER_SECOND;
use self::stage::{Remembered, Stage};
use super::cert::{CertKind, Head, ProposalHash, TableDigest};
use super::refused::LeaseRefused;
use super::request::{Answer, HostInstance, Reply, Request, Standing};
use super::rules::{Rule, Rules};
use super::table::{HostHead, HostState, HostWrite, Mode};
use super::time::{SETTLING, Ttl};
use crate::model::{AgentId, CertHash, DeviceId, LeaseEpoch, Now};

/// What a device's register is doing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Phase {
    /// This device hosts no register.
    Absent,
    /// It was designated, and writes what it was handed.
    Installing,
    /// It serves; leases from before its restart are held a full time longer.
    Recovering,
    /// It serves.
    Serving,
    /// It replaced a lost host, and waits until that one's leases have run out.
    Settling,
    /// It gives its register away, and writes that down.
    Sealing,
    /// It has given its register away.
    Sealed,
    /// Another host was designated since.
    Deposed,
    /// It is not the home that was designated, or is behind what others saw.
    Quarantined,
    /// A write failed; nothing leaves it until it is opened again.
    StorageFailed,
}

/// Names one write of a register; rises.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WriteId(u64);

impl WriteId {
    /// The raw number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// What a register is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RegisterInput {
    /// A request of a device, whose identity the connection proves.
    Request {
        /// Who asks.
        from: DeviceId,
        /// What.
        request: Request,
    },
    /// This host's designation confirms a planned move: give the register away, for good.
    Seal {
        /// The proposal confirmed.
        proposal: ProposalHash,
        /// Its host.
        to: DeviceId,
    },
    /// A certificate that names this home was adopted: take the register over.
    Install {
        /// The certificate.
        head: Head,
        /// What the old host handed over; `None` but for a planned move.
        table: Option<HostState>,
    },
    /// A certificate was adopted.
    Head(Head),
    /// These devices may ask.
    Members(BTreeSet<DeviceId>),
    /// A device says what the greatest token is that it has seen on this chain.
    Observe {
        /// That token.
        seen: LeaseEpoch,
    },
    /// A write is durable.
    Persisted(WriteId),
    /// A write failed, or nobody knows whether it did.
    PersistFailed(WriteId),
    /// A deadline passed.
    Tick,
}

/// What a register wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RegisterEffect {
    /// Write this, sync, then say [`RegisterInput::Persisted`].
    Persist {
        /// Its name.
        id: WriteId,
        /// What to write, as a whole or not at all.
        write: HostWrite,
    },
    /// Send this to a device.
    Reply {
        /// Whom to.
        to: DeviceId,
        /// What.
        reply: Reply,
    },
    /// The register is sealed, durably: its confirmation of the proposal may leave, with this table.
    Sealed {
        /// The proposal.
        proposal: ProposalHash,
        /// What the confirmation names.
        digest: TableDigest,
        /// What the new host installs.
        table: HostState,
    },
    /// Say [`RegisterInput::Tick`] at this uptime; replaces the one before.
    Deadline(Option<Duration>),
}

/// Most requests that wait while a write is under way: what the rate of a few hundred devices brings.
pub const REQUESTS_QUEUED_MAX: usize = 1_024;

/// The register of this device, whether it hosts or not.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Register {
    device: DeviceId,
    instance: HostInstance,
    rules: Rules,
    adopted: Head,
    members: BTreeSet<DeviceId>,
    phase: Phase,
    /// As it is durable.
    state: Option<HostState>,
    /// When each held key runs out.
    until: BTreeMap<AgentId, Duration>,
    /// When a register that was opened or installed has no more leases from before.
    quiet_at: Option<Duration>,
    /// What each device was answered last for each key; what the state remembers of it outlives a restart.
    recent: BTreeMap<(AgentId, DeviceId), Remembered>,
    buckets: BTreeMap<DeviceId, Bucket>,
    queue: VecDeque<Ask>,
    /// Only with [`Rule::HeldRefused`] left out.
    waiting: Vec<(DeviceId, Request)>,
    pending: Option<(WriteId, Stage)>,
    next_write: u64,
    uptime: Duration,
}

/// What waits for its turn.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Ask {
    Request(DeviceId, Request),
    Seal(ProposalHash, DeviceId),
}

impl Register {
    /// Opens the register with what is durable.
    ///
    /// `instance` is this home's, `adopted` the newest certificate of the adopted chain. Every held
    /// key is held a full time longer, counted from now: no deadline is ever stored.
    pub fn open(now: &Now, home: Home, adopted: Head, state: Option<HostState>) -> Self {
        let mut register = Self {
            device: home.device,
            instance: home.instance,
            rules: home.rules,
            adopted,
            members: home.members,
            phase: Phase::Absent,
            state,
            until: BTreeMap::new(),
            quiet_at: None,
            recent: BTreeMap::new(),
            buckets: BTreeMap::new(),
            queue: VecDeque::new(),
            waiting: Vec::new(),
            pending: None,
            next_write: 0,
            uptime: now.uptime,
        };
        register.phase = register.phase_of_state();
        if matches!(register.phase, Phase::Recovering | Phase::Settling) {
            register.hold_all(now.uptime, register.rules.keeps(Rule::RestartHolds));
        }
        register
    }

    /// Takes one input and says what is to be done, in order.
    pub fn step(&mut self, now: &Now, input: RegisterInput) -> Vec<RegisterEffect> {
        let mut effects = Vec::new();
        let is_clock_sound = self.uptime <= now.uptime;
        self.uptime = self.uptime.max(now.uptime);
        match input {
            RegisterInput::Request { from, request } if !is_clock_sound => {
                effects.push(self.refuse(from, &request, LeaseRefused::ClockUnsafe));
            }
            RegisterInput::Request { from, request } => self.take(from, request, &mut effects),
            RegisterInput::Seal { proposal, to } => self.queue.push_back(Ask::Seal(proposal, to)),
            RegisterInput::Install { head, table } => self.install(head, table, &mut effects),
            RegisterInput::Head(head) => self.adopt(head),
            RegisterInput::Members(members) => self.members = members,
            RegisterInput::Observe { seen } => self.observe(seen, &mut effects),
            RegisterInput::Persisted(id) => self.persisted(id, &mut effects),
            RegisterInput::PersistFailed(id) => self.persist_failed(id, &mut effects),
            RegisterInput::Tick => {}
        }
        self.pump(&mut effects);
        effects.push(RegisterEffect::Deadline(self.next_deadline()));
        effects
    }

    /// What the register is doing.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// What is durable of it.
    pub const fn state(&self) -> Option<&HostState> {
        self.state.as_ref()
    }

    /// The certificate it serves under; [`CertHash::NONE`] where it hosts nothing.
    pub fn cert(&self) -> CertHash {
        self.state.as_ref().map_or(CertHash::NONE, |state| state.head.cert)
    }

    /// The greatest token it has given.
    pub fn greatest(&self) -> Option<LeaseEpoch> {
        let head = &self.state.as_ref()?.head;
        LeaseEpoch::of(head.term, head.next_n.map_or(u32::MAX, |next| next - 1))
    }

    /// Every lease that is held, as this device has it now: for people, not for the fence.
    pub fn leases(&self) -> impl Iterator<Item = (&AgentId, Standing)> {
        self.state.iter().flat_map(|state| &state.entries).filter_map(|(key, entry)| {
            let (holder, _) = entry.held()?;
            let until = self.until.get(key).copied().unwrap_or(self.uptime);
            Some((key, Standing { epoch: entry.epoch, holder, remaining_ms: self.remaining_ms(until) }))
        })
    }

    /// The phase that follows from what is durable.
    fn phase_of_state(&self) -> Phase {
        let is_named = self.adopted.host == self.device;
        let Some(state) = &self.state else {
            let is_other = is_named && self.adopted.instance != self.instance;
            return if is_other && self.rules.keeps(Rule::RestoredDoesNotHost) {
                Phase::Quarantined
            } else {
                Phase::Absent
            };
        };
        if state.head.instance != self.instance && self.rules.keeps(Rule::RestoredDoesNotHost) {
            return Phase::Quarantined;
        }
        if state.head.cert != self.adopted.cert {
            return Phase::Deposed;
        }
        match state.head.mode {
            Mode::Serving => Phase::Recovering,
            Mode::Settling => Phase::Settling,
            Mode::Sealed { .. } => Phase::Sealed,
            Mode::Quarantined => Phase::Quarantined,
        }
    }

    /// Gives every held key its full time from `start`, or none (a mutant).
    fn hold_all(&mut self, start: Duration, is_kept: bool) {
        let state = self.state.as_ref().expect("a register that serves has a state");
        let held_for = |ttl: Ttl| if is_kept { self.held_for(ttl) } else { Duration::ZERO };
        self.until = state
            .entries
            .iter()
            .filter_map(|(key, entry)| {
                entry.held().map(|(_, ttl_max)| (key.clone(), start + held_for(ttl_max)))
            })
            .collect();
        self.quiet_at = match state.head.mode {
            Mode::Settling => Some(start + SETTLING),
            Mode::Serving | Mode::Sealed { .. } | Mode::Quarantined => {
                Some(self.until.values().max().copied().unwrap_or(start))
            }
        };
    }

    fn held_for(&self, ttl: Ttl) -> Duration {
        if self.rules.keeps(Rule::HostWaitsLonger) { ttl.held_for() } else { ttl.valid_for() }
    }

    fn remaining_ms(&self, until: Duration) -> u64 {
        u64::try_from(until.saturating_sub(self.uptime).as_millis()).unwrap_or(u64::MAX)
    }

    fn take(&mut self, from: DeviceId, request: Request, effects: &mut Vec<RegisterEffect>) {
        if let Err(refused) = self.admit(from, &request) {
            effects.push(self.refuse(from, &request, refused));
            return;
        }
        if let Some(seen) = request.seen {
            self.observe(seen, effects);
        }
        self.queue.push_back(Ask::Request(from, request));
    }

    fn refuse(&self, to: DeviceId, request: &Request, refused: LeaseRefused) -> RegisterEffect {
        RegisterEffect::Reply { to, reply: self.reply(request, Err(refused)) }
    }

    fn reply(&self, request: &Request, answer: Result<Answer, LeaseRefused>) -> Reply {
        Reply {
            instance: request.instance,
            key: request.key.clone(),
            req_no: request.req_no,
            cert: self.cert(),
            answer,
        }
    }

    /// What a device that does not serve says to everything.
    fn phase_refusal(&self) -> Option<LeaseRefused> {
        match self.phase {
            Phase::Recovering | Phase::Serving | Phase::Settling => None,
            Phase::Absent => Some(LeaseRefused::NotHost { host: Some(self.adopted.host) }),
            Phase::Installing => Some(LeaseRefused::Moving { to: Some(self.device) }),
            Phase::Sealing | Phase::Sealed if !self.rules.keeps(Rule::SealIsFinal) => None,
            Phase::Sealing | Phase::Sealed => {
                let to = match self.state.as_ref().map(|state| state.head.mode) {
                    Some(Mode::Sealed { to, .. }) => Some(to),
                    Some(Mode::Serving | Mode::Settling | Mode::Quarantined) | None => None,
                };
                Some(LeaseRefused::Moving { to })
            }
            Phase::Deposed => Some(LeaseRefused::Deposed { by: self.adopted.cert }),
            Phase::Quarantined => Some(LeaseRefused::Quarantined),
            Phase::StorageFailed => Some(LeaseRefused::StorageFailed),
        }
    }

    /// A certificate was adopted. One that names this home is followed by an install.
    fn adopt(&mut self, head: Head) {
        self.adopted = head;
        if self.phase != Phase::StorageFailed && self.cert() != head.cert {
            self.phase = self.phase_of_state();
        }
    }

    /// A greater token than this host gave means that it forgot some, or that its certificate is old.
    fn observe(&mut self, seen: LeaseEpoch, effects: &mut Vec<RegisterEffect>) {
        let serves = matches!(
            self.phase,
            Phase::Recovering | Phase::Serving | Phase::Settling | Phase::Sealing | Phase::Sealed
        );
        let (Some(state), true) = (&self.state, serves) else { return };
        if self.greatest_under_way().is_some_and(|greatest| seen <= greatest)
            || seen.term() < state.head.term
            || !self.rules.keeps(Rule::GreaterSeenStops)
        {
            return;
        }
        self.phase = Phase::Quarantined;
        let mut stage = Stage::of(state.head);
        stage.head.mode = Mode::Quarantined;
        self.drop_pending(LeaseRefused::Quarantined, effects);
        self.persist(stage, effects);
    }

    /// The greatest token given, or about to be.
    fn greatest_under_way(&self) -> Option<LeaseEpoch> {
        let head = self.pending.as_ref().map(|(_, stage)| stage.head);
        let head = head.or_else(|| self.state.as_ref().map(|state| state.head))?;
        LeaseEpoch::of(head.term, head.next_n.map_or(u32::MAX, |next| next - 1))
    }

    /// Takes the register over under a certificate that names this home.
    fn install(&mut self, head: Head, table: Option<HostState>, effects: &mut Vec<RegisterEffect>) {
        let is_named = head.host == self.device && head.instance == self.instance;
        let is_older = self.state.as_ref().is_some_and(|state| head.term <= state.head.term);
        let is_complete = (head.kind == CertKind::Planned) == table.is_some();
        if !is_named || is_older || !is_complete || self.phase == Phase::StorageFailed {
            return;
        }
        self.adopted = head;
        let mode = match head.kind {
            CertKind::Lost if self.rules.keeps(Rule::SettleFirst) => Mode::Settling,
            CertKind::First | CertKind::Planned | CertKind::Lost => Mode::Serving,
        };
        let mut stage = Stage::of(HostHead {
            cert: head.cert,
            term: head.term,
            instance: head.instance,
            next_n: Some(1),
            mode,
        });
        stage.is_whole = true;
        if let Some(table) = table.filter(|_| self.rules.keeps(Rule::TableCarried)) {
            stage.entries = table.entries.into_iter().map(|(key, entry)| (key, Some(entry))).collect();
        }
        self.drop_pending(LeaseRefused::Moving { to: Some(self.device) }, effects);
        self.phase = Phase::Installing;
        self.persist(stage, effects);
    }

    /// Answers whom a staged change was for: it will not come about.
    fn drop_pending(&mut self, refused: LeaseRefused, effects: &mut Vec<RegisterEffect>) {
        let Some((_, stage)) = self.pending.take() else { return };
        for (to, mut reply) in stage.replies {
            reply.answer = Err(refused.clone());
            effects.push(RegisterEffect::Reply { to, reply });
        }
    }

    fn persist(&mut self, stage: Stage, effects: &mut Vec<RegisterEffect>) {
        let id = WriteId(self.next_write);
        self.next_write += 1;
        effects.push(RegisterEffect::Persist { id, write: stage.write() });
        if stage.is_whole && !self.rules.keeps(Rule::InstallFirst)
            || !stage.is_whole && !self.rules.keeps(Rule::PersistFirst)
        {
            self.commit(stage, effects);
        } else {
            self.pending = Some((id, stage));
        }
    }

    fn persisted(&mut self, id: WriteId, effects: &mut Vec<RegisterEffect>) {
        // A write that was given up on the way may still become durable: the next one writes the head anew.
        if let Some((_, stage)) = self.pending.take_if(|(pending, _)| *pending == id) {
            self.commit(stage, effects);
        }
    }

    fn persist_failed(&mut self, id: WriteId, effects: &mut Vec<RegisterEffect>) {
        if !self.rules.keeps(Rule::FailForGood) {
            return self.persisted(id, effects);
        }
        self.phase = Phase::StorageFailed;
        self.drop_pending(LeaseRefused::StorageFailed, effects);
    }

    /// What was staged is durable: it applies, and what shows it leaves.
    fn commit(&mut self, stage: Stage, effects: &mut Vec<RegisterEffect>) {
        let is_quarantine = stage.head.mode == Mode::Quarantined;
        let was_sealing = self.phase == Phase::Sealing;
        self.state = Some(HostState::apply(self.state.take(), &stage.write()));
        if stage.is_whole {
            self.installed();
        }
        self.apply_volatile(&stage);
        if let Some(proposal) = stage.sealed {
            if was_sealing {
                self.phase = Phase::Sealed;
            }
            effects.push(self.sealed(proposal));
        }
        if stage.head.mode == Mode::Serving && self.phase == Phase::Settling {
            self.phase = Phase::Serving;
        }
        debug_assert!(!is_quarantine || self.phase != Phase::Serving);
        effects.extend(stage.replies.into_iter().map(|(to, reply)| RegisterEffect::Reply { to, reply }));
    }

    fn installed(&mut self) {
        self.recent.clear();
        self.until.clear();
        self.phase = self.phase_of_state();
        if matches!(self.phase, Phase::Recovering | Phase::Settling) {
            self.hold_all(self.uptime, true);
        }
        if self.phase == Phase::Recovering {
            self.phase = Phase::Serving;
        }
    }

    fn apply_volatile(&mut self, stage: &Stage) {
        let state = self.state.as_ref().expect("what is served has a state");
        for (key, ttl) in &stage.holds {
            let until = self.uptime + self.held_for(*ttl);
            let slot = self.until.entry(key.clone()).or_insert(until);
            *slot = (*slot).max(until);
        }
        for key in stage.entries.keys() {
            if state.entries.get(key).is_none_or(|entry| entry.held().is_none()) {
                self.until.remove(key);
            }
        }
        self.recent.extend(stage.recent.iter().map(|(at, answer)| (at.clone(), answer.clone())));
        self.forget();
    }

    /// Keeps what is remembered beside the state within its bound: only of keys that the state has.
    fn forget(&mut self) {
        if self.recent.len() > RECENT_MAX {
            let state = self.state.as_ref().expect("what is served has a state");
            let held: BTreeSet<(AgentId, DeviceId)> = state
                .entries
                .iter()
                .filter_map(|(key, entry)| Some((key.clone(), entry.held()?.0.device)))
                .collect();
            self.recent.retain(|at, _| held.contains(at));
        }
    }

    fn sealed(&self, proposal: ProposalHash) -> RegisterEffect {
        let table = self.state.clone().expect("a sealed register has a state");
        RegisterEffect::Sealed { proposal, digest: table.digest(), table }
    }

    /// Answers what waits, unless a write is under way.
    fn pump(&mut self, effects: &mut Vec<RegisterEffect>) {
        self.settle();
        while self.pending.is_none() {
            let Some(state) = &self.state else {
                return self.refuse_all(effects);
            };
            let mut stage = Stage::of(state.head);
            if self.phase_refusal().is_none() {
                self.expire(&mut stage);
                self.retry_waiting();
            }
            while let Some(ask) = self.queue.pop_front() {
                match ask {
                    Ask::Request(from, request) => self.answer_one(&mut stage, from, request),
                    Ask::Seal(proposal, to) => self.seal(&mut stage, proposal, to, effects),
                }
            }
            if stage.is_write() {
                self.persist(stage, effects);
            } else if stage.is_empty() {
                return;
            } else {
                self.apply_volatile(&stage);
                effects
                    .extend(stage.replies.into_iter().map(|(to, reply)| RegisterEffect::Reply { to, reply }));
            }
        }
    }

    fn refuse_all(&mut self, effects: &mut Vec<RegisterEffect>) {
        let refused = self.phase_refusal().unwrap_or(LeaseRefused::NotHost { host: None });
        for ask in std::mem::take(&mut self.queue) {
            if let Ask::Request(from, request) = ask {
                effects.push(self.refuse(from, &request, refused.clone()));
            }
        }
    }

    /// Once nothing from before can be held any more, the register simply serves.
    fn settle(&mut self) {
        let is_quiet = self.quiet_at.is_none_or(|at| at <= self.uptime);
        if is_quiet && matches!(self.phase, Phase::Recovering | Phase::Serving) {
            self.phase = Phase::Serving;
            self.quiet_at = None;
        }
    }

    fn seal(
        &mut self,
        stage: &mut Stage,
        proposal: ProposalHash,
        to: DeviceId,
        effects: &mut Vec<RegisterEffect>,
    ) {
        match (self.phase, stage.head.mode) {
            (Phase::Sealed, Mode::Sealed { proposal: other, .. }) if other == proposal => {
                effects.push(self.sealed(proposal));
            }
            // The move it was sealed for was withdrawn: another may have the same table.
            (Phase::Recovering | Phase::Serving | Phase::Sealing | Phase::Sealed, _) => {
                stage.head.mode = Mode::Sealed { proposal, to };
                stage.sealed = Some(proposal);
                self.phase = Phase::Sealing;
            }
            // Designation does not ask these; a host that settles has no table to give.
            (
                Phase::Absent
                | Phase::Installing
                | Phase::Settling
                | Phase::Deposed
                | Phase::Quarantined
                | Phase::StorageFailed,
                _,
            ) => {}
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        if self.phase_refusal().is_some() || self.pending.is_some() {
            return None;
        }
        self.until.values().copied().chain(self.quiet_at).min()
    }
}

/// What a register is opened for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Home {
    /// This device.
    pub device: DeviceId,
    /// This home of it.
    pub instance: HostInstance,
    /// Who may ask.
    pub members: BTreeSet<DeviceId>,
    /// Which rules are kept: [`Rules::ALL`].
    pub rules: Rules,
}

/// Most answers remembered in memory: each key with a few devices that want it.
const RECENT_MAX: usize = 8_192;
