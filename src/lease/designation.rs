//! How another host is designated: propose, confirm, commit, as a state machine of every device.
//!
//! A driver proposes, voters promise durably and confirm, the driver commits with a majority. One
//! promise per term; only the driver of a proposal can commit it, and only while its own promise
//! is that proposal. Of two proposals for one term the one with the lower hash goes on: the other
//! driver withdraws, which frees those who promised it. See `manual/lease.md`.

use std::time::Duration;

use super::cert::{
    CertKind, Certificate, Head, Proposal, ProposalHash, Signatures, TableDigest, VOTERS_MAX, Vote, Voter,
};
use super::chain::{Adopted, Chain};
use super::request::HostInstance;
use super::rules::{Rule, Rules};
use super::table::HostState;
use super::vote::{DesignateRefused, DesignationMessage, DesignationState, Unable};
use crate::model::{CertHash, DeviceId, LeaseEpoch, Now, SpaceId};

/// What designation is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DesignationInput {
    /// The operator moves the register.
    Move {
        /// The new host.
        to: DeviceId,
        /// With the old host, or without it.
        kind: CertKind,
    },
    /// The active devices of the roster and their homes, as far as they are known.
    Voters(Vec<Voter>),
    /// A message arrived, from whom the connection proves.
    Message {
        /// From whom.
        from: DeviceId,
        /// What.
        message: DesignationMessage,
    },
    /// The register is sealed, durably.
    Sealed {
        /// For what.
        proposal: ProposalHash,
        /// What it hands over.
        digest: TableDigest,
    },
    /// A certificate is durable in the roster.
    Certificate(Certificate),
    /// The register runs under this certificate now.
    Installed(CertHash),
    /// A token was seen.
    Seen(LeaseEpoch),
    /// A write is durable.
    Persisted(u64),
    /// A write failed.
    PersistFailed(u64),
    /// A deadline passed.
    Tick,
}

/// What designation wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DesignationEffect {
    /// Write this, sync, then say [`DesignationInput::Persisted`].
    Persist {
        /// Its name; rises.
        id: u64,
        /// What to write.
        state: DesignationState,
    },
    /// Send this, if there is a connection; it is sent again. `to` may be this device.
    Send {
        /// Whom to.
        to: DeviceId,
        /// What.
        message: DesignationMessage,
    },
    /// Sign a vote with [`Proposal::confirm`] and send it as [`DesignationMessage::Confirm`].
    Vote {
        /// Whom to; may be this device.
        to: DeviceId,
        /// What.
        hash: ProposalHash,
        /// The table this vote bears.
        table: Option<TableDigest>,
    },
    /// Sign [`Proposal::withdrawn_hash`] and send it as [`DesignationMessage::Withdraw`].
    Withdraw {
        /// Whom to.
        to: DeviceId,
        /// What.
        hash: ProposalHash,
    },
    /// Seal the register of this device.
    Seal {
        /// For what.
        proposal: ProposalHash,
        /// Whom it goes to.
        to: DeviceId,
    },
    /// Write this certificate into the roster, then say [`DesignationInput::Certificate`].
    Commit(Certificate),
    /// The newest certificate is another one: tell the register and the clients.
    Head(Head),
    /// This home was designated: tell the register.
    Install {
        /// By which certificate.
        head: Head,
        /// What the old host handed over.
        table: Option<HostState>,
    },
    /// The operator's move does not come about.
    Refused(DesignateRefused),
    /// Say [`DesignationInput::Tick`] at this uptime; replaces the one before.
    Deadline(Option<Duration>),
}

/// The designation machine of one device.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Designation {
    device: DeviceId,
    instance: HostInstance,
    space: SpaceId,
    rules: Rules,
    signatures: Signatures,
    chain: Chain,
    voters: Vec<Voter>,
    state: DesignationState,
    is_in_doubt: bool,
    has_failed: bool,
    pending: Option<(u64, DesignationState, Vec<Then>)>,
    next_write: u64,
    drive: Option<Drive>,
    /// The certificate whose table is to be fetched.
    fetch: Option<Head>,
    installed: Option<CertHash>,
    tick_at: Option<Duration>,
}

/// What a driver has collected.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Drive {
    hash: ProposalHash,
    proposal: Proposal,
    votes: Vec<Vote>,
    is_committed: bool,
}

/// What happens once a write is durable.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Then {
    Vote,
    Drive,
    Withdraw(Proposal),
}

/// What designation is opened for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Post {
    /// This device.
    pub device: DeviceId,
    /// This home of it.
    pub instance: HostInstance,
    /// The space.
    pub space: SpaceId,
    /// How votes are signed: [`Signatures::Ed25519`].
    pub signatures: Signatures,
    /// Which rules are kept: [`Rules::ALL`].
    pub rules: Rules,
}

impl Designation {
    /// Opens designation with what is durable. `state` is `None` where a home lost it: in doubt.
    pub fn open(now: &Now, post: Post, chain: Chain, state: Option<DesignationState>) -> Self {
        let is_whole = state.as_ref().is_some_and(|state| state.instance == post.instance);
        let is_in_doubt = !is_whole
            && !chain.vouches_for(&post.device, post.instance)
            && post.rules.keeps(Rule::RestoredDoesNotVote);
        let state = match state {
            Some(state) if is_whole => state,
            Some(DesignationState { seen, .. }) => {
                DesignationState { seen, ..DesignationState::fresh(post.instance) }
            }
            None => DesignationState::fresh(post.instance),
        };
        Self {
            device: post.device,
            instance: post.instance,
            space: post.space,
            rules: post.rules,
            signatures: post.signatures,
            chain,
            voters: Vec::new(),
            state,
            is_in_doubt,
            has_failed: false,
            pending: None,
            next_write: 0,
            drive: None,
            fetch: None,
            installed: None,
            // What was under way goes on.
            tick_at: Some(now.uptime),
        }
    }

    /// Takes one input and says what is to be done, in order.
    pub fn step(&mut self, now: &Now, input: DesignationInput) -> Vec<DesignationEffect> {
        let mut effects = Vec::new();
        match input {
            DesignationInput::Move { to, kind } => {
                if let Err(refused) = self.start(to, kind, &mut effects) {
                    effects.push(DesignationEffect::Refused(refused));
                }
            }
            DesignationInput::Voters(voters) => self.voters = voters,
            DesignationInput::Message { from, message } => self.hear(from, message, &mut effects),
            DesignationInput::Sealed { proposal, digest } => self.sealed(proposal, digest, &mut effects),
            DesignationInput::Certificate(cert) => self.admit(&cert, &mut effects),
            DesignationInput::Installed(cert) => self.installed(cert),
            DesignationInput::Seen(seen) => {
                if self.is_in_doubt {
                    // A state that is written says that the promises in it are this home's.
                    self.state.seen = self.state.seen.max(Some(seen));
                } else if self.newest_state().seen < Some(seen) {
                    let state = DesignationState { seen: Some(seen), ..self.newest_state().clone() };
                    self.persist(state, None, &mut effects);
                }
            }
            DesignationInput::Persisted(id) => self.persisted(id, &mut effects),
            DesignationInput::PersistFailed(_) => self.persist_failed(&mut effects),
            DesignationInput::Tick => {}
        }
        if self.tick_at.is_some_and(|at| at <= now.uptime) {
            self.go_on(&mut effects);
            self.tick_at = None;
        }
        let has_work = self.drive.is_some() || self.fetch.is_some() || self.open_vote().is_some();
        if has_work && self.tick_at.is_none() {
            self.tick_at = Some(now.uptime + ASK_AGAIN);
        }
        effects.push(DesignationEffect::Deadline(self.tick_at.filter(|_| has_work)));
        effects
    }

    /// The adopted chain.
    pub const fn chain(&self) -> &Chain {
        &self.chain
    }

    /// What is durable.
    pub const fn state(&self) -> &DesignationState {
        &self.state
    }

    /// Whether this home neither votes nor hosts, because its past is in doubt.
    pub const fn is_in_doubt(&self) -> bool {
        self.is_in_doubt
    }

    /// The move this device drives, if any, and who has confirmed it.
    pub fn driving(&self) -> Option<(&Proposal, impl Iterator<Item = DeviceId>)> {
        let drive = self.drive.as_ref()?;
        Some((&drive.proposal, drive.votes.iter().map(|vote| vote.device)))
    }

    fn start(
        &mut self,
        to: DeviceId,
        kind: CertKind,
        effects: &mut Vec<DesignationEffect>,
    ) -> Result<(), DesignateRefused> {
        let head = self.chain.head();
        self.check_start(&head, to, kind)?;
        if !self.chain.has_room() {
            return Err(DesignateRefused::NoTerm);
        }
        let proposal = Proposal {
            space: self.space,
            term: head.term + 1,
            prev: head.cert,
            kind,
            host: to,
            driver: self.device,
            voters: self.voters.clone(),
        };
        match self.newest_promise().cloned() {
            Some(other) if other == proposal => self.drive_on(proposal, effects),
            Some(other) if other.driver != self.device => {
                return Err(DesignateRefused::Moving { driver: other.driver, host: other.host });
            }
            Some(_) if self.drive.as_ref().is_some_and(|drive| drive.is_committed) => {
                return Err(DesignateRefused::Moving { driver: self.device, host: to });
            }
            Some(own) => self.promise(proposal, vec![Then::Withdraw(own), Then::Drive], effects),
            None => self.promise(proposal, vec![Then::Drive], effects),
        }
        Ok(())
    }

    fn check_start(&self, head: &Head, to: DeviceId, kind: CertKind) -> Result<(), DesignateRefused> {
        if self.has_failed {
            return Err(DesignateRefused::StorageFailed);
        }
        let is_sole = kind == CertKind::Lost && self.voters.iter().all(|voter| voter.device == self.device);
        if self.is_in_doubt && !is_sole {
            return Err(DesignateRefused::InDoubt);
        }
        if self.voters.len() > VOTERS_MAX {
            return Err(DesignateRefused::TooManyVoters { found: self.voters.len(), limit: VOTERS_MAX });
        }
        for device in [to, self.device] {
            if self.voters.iter().all(|voter| voter.device != device) {
                return Err(DesignateRefused::NoVoter { device });
            }
        }
        if kind == CertKind::Lost && head.host == self.device && head.instance == self.instance {
            return Err(DesignateRefused::NotLost);
        }
        Ok(())
    }

    fn hear(&mut self, from: DeviceId, message: DesignationMessage, effects: &mut Vec<DesignationEffect>) {
        match message {
            DesignationMessage::Propose(proposal) if proposal.driver == from => {
                self.proposed(proposal, effects);
            }
            DesignationMessage::Confirm { hash, vote } if vote.device == from => {
                self.confirmed(hash, vote, effects);
            }
            DesignationMessage::Promised(other) => self.yield_to(other, effects),
            DesignationMessage::Withdraw { hash, signature } => {
                self.withdrawn(from, hash, &signature, effects)
            }
            DesignationMessage::Table(table) => self.fetched(table, effects),
            // The shell answers a fetch: the register has the table.
            DesignationMessage::Fetch(_)
            | DesignationMessage::Unable { .. }
            | DesignationMessage::Propose(_)
            | DesignationMessage::Confirm { .. } => {}
        }
    }

    /// A driver asks for this device's promise.
    fn proposed(&mut self, proposal: Proposal, effects: &mut Vec<DesignationEffect>) {
        let (to, hash) = (proposal.driver, proposal.hash());
        if let Err(why) = self.may_vote(&proposal) {
            effects.push(DesignationEffect::Send { to, message: DesignationMessage::Unable { hash, why } });
            return;
        }
        let promise = self.newest_promise().cloned();
        match promise {
            Some(promise) if promise == proposal => {
                if self.pending.is_none() {
                    self.vote(effects);
                }
            }
            Some(other) if self.rules.keeps(Rule::OnePromise) => {
                if other.driver == self.device && hash < other.hash() {
                    self.yield_to(proposal, effects);
                } else {
                    effects
                        .push(DesignationEffect::Send { to, message: DesignationMessage::Promised(other) });
                }
            }
            Some(_) | None => self.promise(proposal, vec![Then::Vote], effects),
        }
    }

    fn may_vote(&self, proposal: &Proposal) -> Result<(), Unable> {
        let head = self.chain.head();
        if self.is_in_doubt && !proposal.is_sole() || self.has_failed {
            return Err(Unable::InDoubt);
        }
        if proposal.space != self.space || proposal.prev != head.cert || proposal.check(&head).is_err() {
            return Err(Unable::OtherHead(head.cert));
        }
        let is_same = proposal.voters.len() == self.voters.len()
            && proposal.voters.iter().zip(&self.voters).all(|(one, other)| one.device == other.device);
        let is_own = proposal.voter(&self.device) == Some(self.instance);
        if !is_same || !is_own && self.rules.keeps(Rule::RestoredDoesNotVote) {
            return Err(Unable::OtherRoster);
        }
        if proposal.kind == CertKind::Lost && self.is_host(&head) {
            return Err(Unable::NotLost);
        }
        Ok(())
    }

    fn is_host(&self, head: &Head) -> bool {
        head.host == self.device && head.instance == self.instance
    }

    /// The driver with the higher hash gives way, unless it has committed.
    fn yield_to(&mut self, other: Proposal, effects: &mut Vec<DesignationEffect>) {
        let Some(own) = self.newest_promise().filter(|own| own.driver == self.device).cloned() else {
            return;
        };
        let is_committed = self.drive.as_ref().is_some_and(|drive| drive.is_committed);
        if is_committed || other.hash() >= own.hash() || self.may_vote(&other).is_err() {
            return;
        }
        effects.push(DesignationEffect::Refused(DesignateRefused::Moving {
            driver: other.driver,
            host: other.host,
        }));
        if self.rules.keeps(Rule::DriverCommits) {
            self.drive = None;
        }
        self.promise(other, vec![Then::Withdraw(own), Then::Vote], effects);
    }

    /// Another driver has given its proposal up: who promised it is free.
    fn withdrawn(
        &mut self,
        from: DeviceId,
        hash: ProposalHash,
        signature: &[u8; 64],
        effects: &mut Vec<DesignationEffect>,
    ) {
        let Some(promise) = self.newest_promise() else { return };
        let is_it = promise.hash() == hash && promise.driver == from && from != self.device;
        if is_it && self.signatures.hold(&from, &Proposal::withdrawn_hash(hash), signature) {
            let state = DesignationState { promise: None, ..self.newest_state().clone() };
            self.persist(state, None, effects);
        }
    }

    fn promise(&mut self, proposal: Proposal, then: Vec<Then>, effects: &mut Vec<DesignationEffect>) {
        let state = DesignationState { promise: Some(proposal), ..self.newest_state().clone() };
        self.persist(state, Some(then), effects);
    }

    /// Writes a state; what waited for an earlier write waits for this one, which has it too.
    fn persist(
        &mut self,
        state: DesignationState,
        then: Option<Vec<Then>>,
        effects: &mut Vec<DesignationEffect>,
    ) {
        let id = self.next_write;
        self.next_write += 1;
        let mut all = self.pending.take().map_or_else(Vec::new, |(_, _, before)| before);
        if let Some(then) = then {
            // A vote or a drive of an earlier promise is void.
            all.retain(|before| matches!(before, Then::Withdraw(_)));
            all.extend(then);
        }
        effects.push(DesignationEffect::Persist { id, state: state.clone() });
        if self.rules.keeps(Rule::PromiseFirst) {
            self.pending = Some((id, state, all));
        } else {
            self.state = state;
            self.carry_on(all, effects);
        }
    }

    fn persisted(&mut self, id: u64, effects: &mut Vec<DesignationEffect>) {
        if let Some((_, state, then)) = self.pending.take_if(|(pending, _, _)| *pending == id) {
            self.state = state;
            self.carry_on(then, effects);
        }
    }

    fn carry_on(&mut self, then: Vec<Then>, effects: &mut Vec<DesignationEffect>) {
        for next in then {
            match next {
                Then::Vote => self.vote(effects),
                Then::Drive => {
                    if let Some(proposal) = self.state.promise.clone() {
                        self.drive_on(proposal, effects);
                    }
                }
                Then::Withdraw(own) => self.withdraw(&own, effects),
            }
        }
    }

    fn withdraw(&self, own: &Proposal, effects: &mut Vec<DesignationEffect>) {
        let hash = own.hash();
        let others = own.voters.iter().map(|voter| voter.device).filter(|device| *device != self.device);
        effects.extend(others.map(|to| DesignationEffect::Withdraw { to, hash }));
    }

    fn persist_failed(&mut self, effects: &mut Vec<DesignationEffect>) {
        self.has_failed = true;
        self.pending = None;
        if self.drive.take().is_some() {
            effects.push(DesignationEffect::Refused(DesignateRefused::StorageFailed));
        }
    }

    /// Confirms what is durably promised; the old host seals its register first.
    fn vote(&mut self, effects: &mut Vec<DesignationEffect>) {
        let Some(promise) = self.open_vote() else { return };
        let (to, hash, host) = (promise.driver, promise.hash(), promise.host);
        if promise.kind == CertKind::Planned && self.is_host(&self.chain.head()) {
            effects.push(DesignationEffect::Seal { proposal: hash, to: host });
        } else {
            effects.push(DesignationEffect::Vote { to, hash, table: None });
        }
    }

    /// The durable promise that is still open.
    fn open_vote(&self) -> Option<&Proposal> {
        let head = self.chain.head();
        self.state
            .promise
            .as_ref()
            .filter(|promise| promise.prev == head.cert && self.may_vote(promise).is_ok())
    }

    fn sealed(&self, proposal: ProposalHash, digest: TableDigest, effects: &mut Vec<DesignationEffect>) {
        if let Some(promise) = self.open_vote()
            && promise.hash() == proposal
        {
            let to = promise.driver;
            effects.push(DesignationEffect::Vote { to, hash: proposal, table: Some(digest) });
        }
    }

    fn drive_on(&mut self, proposal: Proposal, effects: &mut Vec<DesignationEffect>) {
        let hash = proposal.hash();
        if self.drive.as_ref().is_none_or(|drive| drive.hash != hash) {
            self.drive = Some(Drive { hash, proposal, votes: Vec::new(), is_committed: false });
        }
        self.ask(effects);
    }

    /// Asks every voter that has not confirmed; votes itself.
    fn ask(&mut self, effects: &mut Vec<DesignationEffect>) {
        let Some(drive) = &self.drive else { return };
        if drive.is_committed {
            return;
        }
        let missing = drive.proposal.voters.iter().map(|voter| voter.device);
        let missing = missing.filter(|device| drive.votes.iter().all(|vote| vote.device != *device));
        for to in missing.filter(|device| *device != self.device) {
            let message = DesignationMessage::Propose(drive.proposal.clone());
            effects.push(DesignationEffect::Send { to, message });
        }
        self.vote(effects);
    }

    /// A voter confirmed a proposal of this device.
    fn confirmed(&mut self, hash: ProposalHash, vote: Vote, effects: &mut Vec<DesignationEffect>) {
        let is_promised = self.state.promise.as_ref().is_some_and(|promise| promise.hash() == hash);
        let is_driven = self.drive.as_ref().is_some_and(|drive| drive.hash == hash);
        if !is_driven || !is_promised && self.rules.keeps(Rule::DriverCommits) {
            // Given up long ago, but this voter does not know.
            if !is_promised && vote.device != self.device {
                effects.push(DesignationEffect::Withdraw { to: vote.device, hash });
            }
            return;
        }
        let signed = Proposal::confirmed_hash(hash, vote.table);
        let drive = self.drive.as_mut().expect("it was just found to be there");
        let is_voter = drive.proposal.voter(&vote.device).is_some();
        let is_new = drive.votes.iter().all(|other| other.device != vote.device);
        if !is_voter
            || !is_new && self.rules.keeps(Rule::DistinctDevices)
            || !self.signatures.hold(&vote.device, &signed, &vote.signature)
        {
            return;
        }
        let at = drive.votes.partition_point(|other| other.device < vote.device);
        drive.votes.insert(at, vote);
        self.commit(effects);
    }

    fn commit(&mut self, effects: &mut Vec<DesignationEffect>) {
        let head = self.chain.head();
        let rules = self.rules;
        let Some(drive) = self.drive.as_mut().filter(|drive| !drive.is_committed) else { return };
        let table = drive.votes.iter().find(|vote| vote.device == head.host).and_then(|vote| vote.table);
        let cert = Certificate { proposal: drive.proposal.clone(), table, votes: drive.votes.clone() };
        // A vote was checked as it came, so nothing but the count and the seal can be missing.
        if cert.check_form(&head, rules).is_ok() {
            drive.is_committed = true;
            effects.push(DesignationEffect::Commit(cert));
        }
    }

    /// A certificate is durable in the roster.
    fn admit(&mut self, cert: &Certificate, effects: &mut Vec<DesignationEffect>) {
        if self.chain.admit(cert, self.rules, self.signatures) != Ok(Adopted::Newest) {
            return;
        }
        let head = self.chain.head();
        if let Some(drive) = self.drive.take_if(|drive| drive.proposal.term <= head.term)
            && cert.proposal != drive.proposal
        {
            effects.push(DesignationEffect::Refused(DesignateRefused::Superseded { by: head.cert }));
        }
        if self.is_in_doubt && self.chain.vouches_for(&self.device, self.instance) {
            self.is_in_doubt = false;
            self.persist(self.newest_state().clone(), None, effects);
        }
        effects.push(DesignationEffect::Head(head));
        self.take_over(head, effects);
    }

    /// If this home was designated: a planned move needs the table first.
    fn take_over(&mut self, head: Head, effects: &mut Vec<DesignationEffect>) {
        self.fetch = None;
        if !self.is_host(&head) || self.installed == Some(head.cert) {
            return;
        }
        match head.kind {
            CertKind::First | CertKind::Lost => {
                effects.push(DesignationEffect::Install { head, table: None });
            }
            CertKind::Planned => {
                self.fetch = Some(head);
                self.fetch_table(effects);
            }
        }
    }

    fn fetch_table(&self, effects: &mut Vec<DesignationEffect>) {
        let Some(head) = &self.fetch else { return };
        let old = head.term.checked_sub(1).and_then(|term| self.chain.at(term));
        let old = old.and_then(|cert| self.chain.known(&cert));
        if let (Some(old), Some(digest)) = (old, head.table) {
            let message = DesignationMessage::Fetch(digest);
            effects.push(DesignationEffect::Send { to: old.host, message });
        }
    }

    fn fetched(&mut self, table: HostState, effects: &mut Vec<DesignationEffect>) {
        if let Some(head) = self.fetch
            && head.table == Some(table.digest())
        {
            effects.push(DesignationEffect::Install { head, table: Some(table) });
        }
    }

    fn installed(&mut self, cert: CertHash) {
        self.installed = Some(cert);
        self.fetch.take_if(|head| head.cert == cert);
    }

    /// Says again what may have been lost, and takes up what a restart interrupted.
    fn go_on(&mut self, effects: &mut Vec<DesignationEffect>) {
        if self.has_failed {
            return;
        }
        let head = self.chain.head();
        if self.is_host(&head) && self.installed != Some(head.cert) && self.fetch.is_none() {
            self.take_over(head, effects);
        } else {
            self.fetch_table(effects);
        }
        if self.pending.is_some() {
            return;
        }
        match self.open_vote().cloned() {
            Some(promise) if promise.driver == self.device => self.drive_on(promise, effects),
            Some(_) => self.vote(effects),
            None => {}
        }
    }

    /// The promise for the term that is next, durable or being made so.
    fn newest_promise(&self) -> Option<&Proposal> {
        let head = self.chain.head();
        self.newest_state().promise.as_ref().filter(|promise| promise.prev == head.cert)
    }

    fn newest_state(&self) -> &DesignationState {
        self.pending.as_ref().map_or(&self.state, |(_, state, _)| state)
    }
}

/// How often a driver asks again and a new host fetches again.
const ASK_AGAIN: Duration = Duration::from_secs(2);
