//! The register of leases of a space: what devices ask it, and who hosts it.
//!
//! The rules are the lease core's: a [`Register`] and a [`Designation`] per space. This module gives
//! them what the engine knows (the roster, who is connected), writes what they want durable in the
//! step's transaction, and lets nothing out before that is reported back. A space of which nobody asks
//! anything has neither, so it writes and sends nothing. See `manual/lease.md`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::effect::{Effect, Notice, PeerId, Refusal, RequestError, Token};
use super::engine::Engine;
use super::space::Then;
use super::txn::{LoadedLease, Write};
use crate::crypto::EpochKey;
use crate::lease::form::TABLE_BYTES_MAX;
use crate::lease::{
    CertKind, Certificate, DaemonInstance, DesignateRefused, Designation, DesignationEffect,
    DesignationInput, DesignationMessage, DesignationState, Head, Home, HostInstance, HostState,
    LeaseRefused, Phase, Post, Proposal, ProposalHash, Register, RegisterEffect, RegisterInput, Reply, ReqNo,
    Request, Rules, Signatures, Standing, TableDigest, Unable, Vote, Voter,
};
use crate::model::{AgentId, CertHash, DeviceId, Hlc, LeaseEpoch, Now, ScopeTag, SpaceId};
use crate::roster::{Author as RosterAuthor, RosterError};
use crate::wire::message::TABLE_PIECE_BYTES_MAX;
use crate::wire::{HostMessage, Message};

/// A request that was not answered yet: who asked, in which life of its daemon, for what, and its number.
type Asked = (DeviceId, DaemonInstance, AgentId, ReqNo);

/// The machines of one space, and who waits for them.
pub(super) struct Leases {
    register: Register,
    designation: Designation,
    register_at: Option<Duration>,
    designation_at: Option<Duration>,
    /// Who waits for which reply.
    asked: BTreeMap<Asked, Vec<Token>>,
    /// What came while the register was being installed.
    early: Vec<(DeviceId, Request)>,
    /// The certificate the register is known to run under.
    installed: CertHash,
    /// Tables that are arriving, by sender.
    tables: BTreeMap<DeviceId, Vec<u8>>,
    /// Who waits for the register to move where.
    moves: Vec<(DeviceId, Token)>,
}

/// The register of a space, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseView {
    /// The certificate in force.
    pub head: Head,
    /// Whether its host is still a device of the space.
    pub has_host: bool,
    /// What the register of this device is doing.
    pub phase: Phase,
    /// Whether this home may neither host nor vote: it was restored or copied.
    pub is_in_doubt: bool,
    /// Whether this device ever had to do with leases of the space: asked, answered, voted or saw a token.
    pub is_used: bool,
    /// The leases held, where this device hosts.
    pub leases: Vec<(AgentId, Standing)>,
    /// The move this device drives: where to, who has confirmed, and how many have to.
    pub driving: Option<Driving>,
}

/// A move of the register that is under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Driving {
    /// The host to be.
    pub to: DeviceId,
    /// Who has confirmed.
    pub confirmed: Vec<DeviceId>,
    /// Who is asked.
    pub voters: Vec<DeviceId>,
    /// How many have to confirm.
    pub needed: usize,
}

/// What one of the two machines is told.
enum Part {
    Register(RegisterInput),
    Designation(DesignationInput),
}

impl Engine {
    /// A device asks the register, this one or another: both take this way.
    pub(super) fn lease_asked(
        &mut self,
        now: &Now,
        space: SpaceId,
        from: DeviceId,
        request: Request,
        token: Token,
    ) {
        if self.open_leases(now, space).is_none() {
            return self.emit(Effect::Failed { token, why: RequestError::NoSuchSpace });
        }
        let Some(leases) = self.leases_mut(space) else { return };
        let waits = (from, request.instance, request.key.clone(), request.req_no);
        leases.asked.entry(waits).or_default().push(token);
        if leases.register.phase() == Phase::Installing && leases.early.len() < EARLY_MAX {
            return leases.early.push((from, request));
        }
        self.lease_steps(now, space, [Part::Register(RegisterInput::Request { from, request })]);
    }

    /// A token was given by another host, or another device tells of one.
    pub(super) fn lease_seen(&mut self, now: &Now, space: SpaceId, epoch: LeaseEpoch) {
        let is_known = self.greatest_epoch(space).is_some_and(|greatest| epoch <= greatest);
        if is_known || self.open_leases(now, space).is_none() {
            return;
        }
        let seen = [
            Part::Designation(DesignationInput::Seen(epoch)),
            Part::Register(RegisterInput::Observe { seen: epoch }),
        ];
        self.lease_steps(now, space, seen);
    }

    /// Moves the register, with its host or, where that is lost, without it.
    pub(super) fn move_host(
        &mut self,
        now: &Now,
        space: SpaceId,
        to: DeviceId,
        kind: CertKind,
        token: Token,
    ) {
        let own = self.identity.device();
        if self.open_leases(now, space).is_none() {
            return self.emit(Effect::Failed { token, why: RequestError::NoSuchSpace });
        }
        let Some(state) = self.spaces.get(&space) else { return };
        if state.roster.admin_rank(&own).is_none() {
            let why = RequestError::Roster(Arc::new(RosterError::NotAdmin { device: own }));
            return self.emit(Effect::Failed { token, why });
        }
        let head = state.roster.lease_head();
        // Another home of the host, as after a restore, hosts nothing yet.
        let home = if to == own { state.lease_home } else { state.home_of(&to) };
        if head.host == to && kind == CertKind::Planned && home == head.instance {
            return self.emit(Effect::Done { token });
        }
        if let Some(leases) = self.leases_mut(space) {
            leases.moves.push((to, token));
        }
        self.lease_steps(now, space, [Part::Designation(DesignationInput::Move { to, kind })]);
    }

    pub(super) fn lease_tick(&mut self, now: &Now, space: SpaceId) {
        let Some(leases) = self.leases_mut(space) else { return };
        let is_due = |at: Option<Duration>| at.is_some_and(|at| at <= now.uptime);
        // Told always: what it says of the time that is left is as of when it was told last.
        let mut due = vec![Part::Register(RegisterInput::Tick)];
        if is_due(leases.designation_at) {
            due.push(Part::Designation(DesignationInput::Tick));
        }
        self.lease_steps(now, space, due);
    }

    /// When the machines want to be woken.
    pub(super) fn lease_deadline(&self) -> Option<Duration> {
        let leases = self.spaces.values().filter_map(|space| space.leases.as_ref());
        leases.flat_map(|leases| [leases.register_at, leases.designation_at]).flatten().min()
    }

    pub(super) fn lease_persisted(&mut self, now: &Now, then: LeaseThen, is_durable: bool) {
        let (space, part) = match (then, is_durable) {
            (LeaseThen::Register { space, id }, true) => {
                (space, Part::Register(RegisterInput::Persisted(id)))
            }
            (LeaseThen::Register { space, id }, false) => {
                (space, Part::Register(RegisterInput::PersistFailed(id)))
            }
            (LeaseThen::Designation { space, id }, true) => {
                (space, Part::Designation(DesignationInput::Persisted(id)))
            }
            (LeaseThen::Designation { space, id }, false) => {
                (space, Part::Designation(DesignationInput::PersistFailed(id)))
            }
        };
        self.lease_steps(now, space, [part]);
    }

    /// What a device says about the host.
    pub(super) fn host_message(&mut self, now: &Now, peer: PeerId, scope: ScopeTag, message: HostMessage) {
        let Some(space) = self.shared_space(peer, &scope) else {
            return self.not_shared(peer, &scope);
        };
        let Some(from) = self.peers.get(&peer).map(|peer| peer.device) else { return };
        if let HostMessage::Home { instance } = message {
            if let Some(state) = self.spaces.get_mut(&space) {
                state.homes.insert(from, HostInstance::new(instance));
            }
            return self.tell_voters(now, space);
        }
        if self.open_leases(now, space).is_none() {
            return;
        }
        let message = match self.read_host_message(space, from, message) {
            Ok(message) => message,
            Err(why) => return self.close(peer, why),
        };
        match message {
            Some(DesignationMessage::Fetch(digest)) => self.send_table(space, peer, digest),
            Some(DesignationMessage::Propose(proposal)) if !self.may_drive(space, &proposal) => {
                let (hash, why) = (proposal.hash(), Unable::OtherRoster);
                self.send_host(space, from, &DesignationMessage::Unable { hash, why });
            }
            Some(DesignationMessage::Promised(proposal)) if !self.may_drive(space, &proposal) => {}
            Some(message) => {
                let heard = DesignationInput::Message { from, message };
                self.lease_steps(now, space, [Part::Designation(heard)]);
            }
            None => {}
        }
    }

    /// Records arrived: another host may be in force, other devices may ask and vote.
    pub(super) fn host_records(&mut self, now: &Now, space: SpaceId) {
        let own = self.identity.device();
        let Some(state) = self.spaces.get(&space) else { return };
        let head = state.roster.lease_head();
        if state.leases.is_none() && (head.kind == CertKind::First || head.host != own) {
            return;
        }
        if self.open_leases(now, space).is_none() {
            return;
        }
        let Some(state) = self.spaces.get(&space) else { return };
        let Some(leases) = &state.leases else { return };
        let known = leases.designation.chain();
        let new: Vec<Certificate> = state
            .roster
            .lease_chain()
            .certificates()
            .filter(|cert| known.known(&cert.hash()).is_none())
            .cloned()
            .collect();
        let members = RegisterInput::Members(members_of(&state.roster));
        let mut parts = vec![Part::Register(members)];
        parts.extend(new.into_iter().map(|cert| Part::Designation(DesignationInput::Certificate(cert))));
        self.lease_steps(now, space, parts);
        self.tell_voters(now, space);
        let is_other = self.leases_mut(space).is_some_and(|leases| leases.designation.chain().head() != head);
        if is_other {
            // A removal has made certificates void that were in force here.
            self.reopen_designation(now, space);
            self.lease_steps(now, space, [Part::Register(RegisterInput::Head(head))]);
        }
    }

    /// Takes designation up again from what is durable: what it was driving is forgotten.
    pub(super) fn reopen_designation(&mut self, now: &Now, space: SpaceId) {
        let post = self.post(space);
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let chain = state.roster.lease_chain().clone();
        let Some(leases) = &mut state.leases else { return };
        let durable = leases.designation.state().clone();
        leases.designation = Designation::open(now, post, chain, Some(durable));
        leases.installed = CertHash::NONE;
        let waiting = std::mem::take(&mut leases.moves);
        let tokens: Vec<Token> = waiting.into_iter().map(|(_, token)| token).collect();
        let by = state.roster.lease_head().cert;
        self.fail(&tokens, &RequestError::Host(DesignateRefused::Superseded { by }));
        self.tell_voters(now, space);
    }

    /// Another life of this home begins: it neither hosts nor votes until it is designated.
    pub(super) fn doubt_lease(&mut self, space: SpaceId) {
        let entropy = self.entropy();
        // The first life is 0.
        let raw = u64::from_be_bytes(*entropy.first_chunk().expect("32 bytes hold 8")).max(1);
        let instance = HostInstance::new(raw);
        let Some(state) = self.spaces.get_mut(&space) else { return };
        state.lease_home = instance;
        self.write(Write::LeaseHome { space, instance });
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let Some(leases) = state.leases.take() else { return };
        let stored = LoadedLease {
            home: instance,
            vote: Some(leases.designation.state().clone()),
            host: leases.register.state().cloned(),
        };
        state.lease_stored = Some(stored);
        for ((_, instance, key, req_no), tokens) in leases.asked {
            for token in tokens {
                let reply = Reply {
                    instance,
                    key: key.clone(),
                    req_no,
                    cert: CertHash::NONE,
                    answer: Err(LeaseRefused::Quarantined),
                };
                self.emit(Effect::Leased { token, reply });
            }
        }
        let tokens: Vec<Token> = leases.moves.into_iter().map(|(_, token)| token).collect();
        self.fail(&tokens, &RequestError::Host(DesignateRefused::InDoubt));
    }

    /// Opens what is stored, once, when the first thing happens that is not about the past.
    pub(super) fn open_stored_leases(&mut self, now: &Now) {
        let own = self.identity.device();
        let wanted: Vec<SpaceId> = self
            .spaces
            .values()
            .filter(|state| {
                let head = state.roster.lease_head();
                let hosts = head.host == own && head.kind != CertKind::First;
                state.is_active && (hosts || state.lease_stored.as_ref().is_some_and(LoadedLease::is_used))
            })
            .map(|state| state.id)
            .collect();
        for space in wanted {
            self.open_leases(now, space);
        }
    }

    /// Says which life of its home this device is in, where that is not the first.
    pub(super) fn tell_home(&mut self, peer: PeerId, space: SpaceId) {
        let Some(state) = self.spaces.get(&space) else { return };
        let (scope, instance) = (state.tag, state.lease_home.get());
        if state.lease_home != HostInstance::FIRST {
            self.send(peer, &Message::Host { scope, message: HostMessage::Home { instance } });
        }
    }

    /// The greatest token this device knows of.
    pub(super) fn greatest_epoch(&self, space: SpaceId) -> Option<LeaseEpoch> {
        let state = self.spaces.get(&space)?;
        match (&state.leases, &state.lease_stored) {
            (Some(leases), _) => leases.designation.state().seen.max(leases.register.greatest()),
            (None, Some(stored)) => {
                let seen = stored.vote.as_ref().and_then(|vote| vote.seen);
                seen.max(stored.host.as_ref().and_then(given))
            }
            (None, None) => None,
        }
    }

    /// The register of a space as this device knows it.
    pub fn lease_view(&self, space: SpaceId) -> Option<LeaseView> {
        let state = self.spaces.get(&space).filter(|state| state.is_active)?;
        let head = state.roster.lease_head();
        let has_host = state.roster.role_of(&head.host).is_some();
        let own = self.identity.device();
        let is_other_home = head.host == own && head.instance != state.lease_home;
        let Some(leases) = &state.leases else {
            let phase = if is_other_home { Phase::Quarantined } else { Phase::Absent };
            let is_in_doubt = state.lease_home != HostInstance::FIRST;
            let is_used =
                head.kind != CertKind::First || state.lease_stored.as_ref().is_some_and(LoadedLease::is_used);
            let (leases, driving) = (Vec::new(), None);
            return Some(LeaseView { head, has_host, phase, is_in_doubt, is_used, leases, driving });
        };
        let driving = leases.designation.driving().map(|(proposal, confirmed)| Driving {
            to: proposal.host,
            confirmed: confirmed.collect(),
            voters: proposal.voters.iter().map(|voter| voter.device).collect(),
            needed: proposal.majority(),
        });
        Some(LeaseView {
            head,
            has_host,
            phase: leases.register.phase(),
            is_in_doubt: leases.designation.is_in_doubt(),
            is_used: true,
            leases: leases.register.leases().map(|(key, standing)| (key.clone(), standing)).collect(),
            driving,
        })
    }

    /// The certificate in force.
    pub fn lease_head(&self, space: SpaceId) -> Option<Head> {
        self.spaces.get(&space).filter(|state| state.is_active).map(|state| state.roster.lease_head())
    }

    fn leases_mut(&mut self, space: SpaceId) -> Option<&mut Leases> {
        self.spaces.get_mut(&space)?.leases.as_deref_mut()
    }

    fn post(&self, space: SpaceId) -> Post {
        let home = self.spaces.get(&space).map_or(HostInstance::FIRST, |state| state.lease_home);
        Post {
            device: self.identity.device(),
            instance: home,
            space,
            signatures: Signatures::Ed25519,
            rules: Rules::ALL,
        }
    }

    /// Opens the machines of an active space, if they are not open.
    fn open_leases(&mut self, now: &Now, space: SpaceId) -> Option<()> {
        let post = self.post(space);
        let state = self.spaces.get_mut(&space).filter(|state| state.is_active)?;
        if state.leases.is_some() {
            return Some(());
        }
        let stored = state.lease_stored.take().unwrap_or_default();
        let vote = match stored.vote {
            None if post.instance == HostInstance::FIRST => Some(DesignationState::fresh(post.instance)),
            vote => vote,
        };
        let home = Home {
            device: post.device,
            instance: post.instance,
            members: members_of(&state.roster),
            rules: Rules::ALL,
        };
        let chain = state.roster.lease_chain().clone();
        let register = Register::open(now, home, chain.head(), stored.host);
        let installed = register.cert();
        let designation = Designation::open(now, post, chain, vote);
        state.leases = Some(Box::new(Leases {
            register,
            designation,
            register_at: None,
            designation_at: None,
            asked: BTreeMap::new(),
            early: Vec::new(),
            installed,
            tables: BTreeMap::new(),
            moves: Vec::new(),
        }));
        let voters = self.voters(space);
        let opened = [
            Part::Designation(DesignationInput::Voters(voters)),
            Part::Designation(DesignationInput::Installed(installed)),
            Part::Register(RegisterInput::Tick),
        ];
        self.lease_steps(now, space, opened);
        Some(())
    }

    fn voters(&self, space: SpaceId) -> Vec<Voter> {
        let Some(state) = self.spaces.get(&space) else { return Vec::new() };
        let own = self.identity.device();
        let voter = |device: DeviceId| {
            let instance = if device == own { state.lease_home } else { state.home_of(&device) };
            Voter { device, instance }
        };
        state.roster.lease_voters().into_iter().map(voter).collect()
    }

    fn tell_voters(&mut self, now: &Now, space: SpaceId) {
        let voters = self.voters(space);
        self.lease_steps(now, space, [Part::Designation(DesignationInput::Voters(voters))]);
    }

    /// Steps the machines through what they are told and what they tell each other.
    fn lease_steps(&mut self, now: &Now, space: SpaceId, parts: impl IntoIterator<Item = Part>) {
        let mut queue: VecDeque<Part> = parts.into_iter().collect();
        while let Some(part) = queue.pop_front() {
            match part {
                Part::Register(input) => self.step_register(now, space, input, &mut queue),
                Part::Designation(input) => self.step_designation(now, space, input, &mut queue),
            }
        }
    }

    fn step_register(&mut self, now: &Now, space: SpaceId, input: RegisterInput, queue: &mut VecDeque<Part>) {
        let Some(leases) = self.leases_mut(space) else { return };
        let effects = leases.register.step(now, input);
        for effect in effects {
            match effect {
                RegisterEffect::Persist { id, write } => {
                    self.write(Write::LeaseHost { space, write: Box::new(write) });
                    self.then(Then::Lease(LeaseThen::Register { space, id }));
                }
                RegisterEffect::Reply { to, reply } => self.lease_answered(space, to, &reply),
                RegisterEffect::Sealed { proposal, digest, table: _ } => {
                    queue.push_back(Part::Designation(DesignationInput::Sealed { proposal, digest }));
                }
                RegisterEffect::Deadline(at) => {
                    if let Some(leases) = self.leases_mut(space) {
                        leases.register_at = at;
                    }
                }
            }
        }
        let Some(leases) = self.leases_mut(space) else { return };
        if leases.register.phase() == Phase::Installing {
            return;
        }
        let cert = leases.register.cert();
        if leases.installed != cert {
            leases.installed = cert;
            queue.push_back(Part::Designation(DesignationInput::Installed(cert)));
        }
        for (from, request) in std::mem::take(&mut leases.early) {
            queue.push_back(Part::Register(RegisterInput::Request { from, request }));
        }
    }

    fn lease_answered(&mut self, space: SpaceId, to: DeviceId, reply: &Reply) {
        let Some(leases) = self.leases_mut(space) else { return };
        let tokens = leases.asked.remove(&(to, reply.instance, reply.key.clone(), reply.req_no));
        for token in tokens.into_iter().flatten() {
            self.emit(Effect::Leased { token, reply: reply.clone() });
        }
    }

    fn step_designation(
        &mut self,
        now: &Now,
        space: SpaceId,
        input: DesignationInput,
        queue: &mut VecDeque<Part>,
    ) {
        let own = self.identity.device();
        let Some(leases) = self.leases_mut(space) else { return };
        let effects = leases.designation.step(now, input);
        for effect in effects {
            let sent = match effect {
                DesignationEffect::Persist { id, state } => {
                    self.write(Write::LeaseVote { space, state: Box::new(state) });
                    self.then(Then::Lease(LeaseThen::Designation { space, id }));
                    continue;
                }
                DesignationEffect::Send { to, message } => (to, message),
                DesignationEffect::Vote { to, hash, table } => {
                    let vote = Proposal::confirm(hash, table, &self.identity);
                    (to, DesignationMessage::Confirm { hash, vote })
                }
                DesignationEffect::Withdraw { to, hash } => {
                    let signature = self.identity.sign(&Proposal::withdrawn_hash(hash));
                    (to, DesignationMessage::Withdraw { hash, signature })
                }
                DesignationEffect::Seal { proposal, to } => {
                    queue.push_back(Part::Register(RegisterInput::Seal { proposal, to }));
                    continue;
                }
                DesignationEffect::Commit(cert) => {
                    self.commit_host(now, space, &cert);
                    continue;
                }
                DesignationEffect::Head(head) => {
                    queue.push_back(Part::Register(RegisterInput::Head(head)));
                    self.host_changed(space, head);
                    continue;
                }
                DesignationEffect::Install { head, table } => {
                    queue.push_back(Part::Register(RegisterInput::Install { head, table }));
                    continue;
                }
                DesignationEffect::Refused(why) => {
                    self.move_refused(space, &RequestError::Host(why));
                    continue;
                }
                DesignationEffect::Deadline(at) => {
                    if let Some(leases) = self.leases_mut(space) {
                        leases.designation_at = at;
                    }
                    continue;
                }
            };
            let (to, message) = sent;
            if to == own {
                let heard = DesignationInput::Message { from: own, message };
                queue.push_back(Part::Designation(heard));
            } else {
                self.send_host(space, to, &message);
            }
        }
    }

    /// Writes the certificate into the roster; it counts once that is durable.
    fn commit_host(&mut self, now: &Now, space: SpaceId, cert: &Certificate) {
        let entropy = self.entropy();
        let Some(state) = self.spaces.get(&space) else { return };
        // Nothing in the record is sealed, so any key will do.
        let none = EpochKey::from_bytes([0; 32]);
        let key = state.any_key().unwrap_or(&none);
        let author = RosterAuthor { identity: &self.identity, key, hlc: Hlc::at(now.wall), entropy };
        match state.roster.designate(&author, cert) {
            Ok(bytes) => self.admit_own(space, bytes, Vec::new()),
            Err(why) => {
                let why = Arc::new(why);
                self.notice(Notice::RecordRefused { space, why: why.clone() });
                self.move_refused(space, &RequestError::Roster(why));
            }
        }
    }

    fn host_changed(&mut self, space: SpaceId, head: Head) {
        self.notice(Notice::LeaseHost { space, host: head.host, term: head.term });
        let Some(leases) = self.leases_mut(space) else { return };
        let (done, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut leases.moves).into_iter().partition(|(to, _)| *to == head.host);
        leases.moves = waiting;
        for (_, token) in done {
            self.emit(Effect::Done { token });
        }
    }

    fn move_refused(&mut self, space: SpaceId, why: &RequestError) {
        let Some(leases) = self.leases_mut(space) else { return };
        let tokens: Vec<Token> = leases.moves.drain(..).map(|(_, token)| token).collect();
        self.fail(&tokens, why);
    }

    /// Whether a proposal's driver may write the record that would make it count.
    fn may_drive(&self, space: SpaceId, proposal: &Proposal) -> bool {
        self.spaces.get(&space).is_some_and(|state| state.roster.admin_rank(&proposal.driver).is_some())
    }

    fn send_host(&mut self, space: SpaceId, to: DeviceId, message: &DesignationMessage) {
        let Some(scope) = self.spaces.get(&space).map(|state| state.tag) else { return };
        let peer = self
            .peers
            .iter()
            .find(|(_, peer)| peer.device == to && peer.is_greeted && peer.spaces.contains_key(&space));
        // Whoever is not connected is asked again later.
        if let (Some(peer), Some(message)) = (peer.map(|(id, _)| *id), host_message(message)) {
            self.send(peer, &Message::Host { scope, message });
        }
    }

    /// Hands the sealed table to whoever knows its digest: the certificate names it.
    fn send_table(&mut self, space: SpaceId, peer: PeerId, digest: TableDigest) {
        let Some(state) = self.spaces.get(&space) else { return };
        let scope = state.tag;
        let sealed = state.leases.as_ref().and_then(|leases| leases.register.state());
        let Some(table) = sealed.filter(|table| table.digest() == digest).map(HostState::to_bytes) else {
            return;
        };
        let total = u32::try_from(table.len()).expect("a table keeps its limit");
        let mut offset = 0;
        for piece in table.chunks(TABLE_PIECE_BYTES_MAX) {
            let message = HostMessage::Table { total, offset, piece: Bytes::copy_from_slice(piece) };
            self.send(peer, &Message::Host { scope, message });
            offset += u32::try_from(piece.len()).expect("a piece is shorter than its table");
        }
    }

    /// What a message says to designation; `None` where nothing is to be said yet.
    fn read_host_message(
        &mut self,
        space: SpaceId,
        from: DeviceId,
        message: HostMessage,
    ) -> Result<Option<DesignationMessage>, Refusal> {
        let read = |proposal: &Bytes| Proposal::from_bytes(proposal).map_err(Refusal::Lease);
        Ok(Some(match message {
            HostMessage::Home { .. } => return Ok(None),
            HostMessage::Propose { proposal } => DesignationMessage::Propose(read(&proposal)?),
            HostMessage::Promised { proposal } => DesignationMessage::Promised(read(&proposal)?),
            HostMessage::Confirm { hash, table, signature } => {
                let table = (table != NO_TABLE).then(|| TableDigest::from_bytes(table));
                let vote = Vote { device: from, table, signature: *signature };
                DesignationMessage::Confirm { hash: ProposalHash::from_bytes(hash), vote }
            }
            HostMessage::Unable { hash, why, cert } => {
                let why = match why {
                    1 => Unable::InDoubt,
                    2 => Unable::OtherHead(CertHash::from_bytes(cert)),
                    4 => Unable::NotLost,
                    // A reason of a later version is none to act on.
                    _ => Unable::OtherRoster,
                };
                DesignationMessage::Unable { hash: ProposalHash::from_bytes(hash), why }
            }
            HostMessage::Withdraw { hash, signature } => {
                let hash = ProposalHash::from_bytes(hash);
                DesignationMessage::Withdraw { hash, signature: *signature }
            }
            HostMessage::Fetch { digest } => DesignationMessage::Fetch(TableDigest::from_bytes(digest)),
            HostMessage::Table { total, offset, piece } => {
                let Some(table) = self.table_piece(space, from, total, offset, &piece) else {
                    return Ok(None);
                };
                DesignationMessage::Table(HostState::from_bytes(&table).map_err(Refusal::Lease)?)
            }
        }))
    }

    /// Puts a piece where it belongs; the whole table once the last one is there.
    fn table_piece(
        &mut self,
        space: SpaceId,
        from: DeviceId,
        total: u32,
        offset: u32,
        piece: &Bytes,
    ) -> Option<Vec<u8>> {
        let total = usize::try_from(total).ok().filter(|total| *total <= TABLE_BYTES_MAX)?;
        let leases = self.leases_mut(space)?;
        // Only of the host before, which is one device; whoever else sends pieces begins anew with each.
        if offset == 0 {
            leases.tables.clear();
        }
        let held = leases.tables.entry(from).or_default();
        if held.len() != usize::try_from(offset).ok()? {
            return None;
        }
        held.extend_from_slice(piece);
        if held.len() < total { None } else { leases.tables.remove(&from) }
    }
}

/// Which machine waits for a transaction.
#[derive(Clone, Copy)]
pub(super) enum LeaseThen {
    Register { space: SpaceId, id: crate::lease::WriteId },
    Designation { space: SpaceId, id: u64 },
}

/// Every device of the space may ask, blind ones too.
fn members_of(roster: &crate::roster::Roster) -> BTreeSet<DeviceId> {
    roster.members().map(|member| member.device).collect()
}

/// The greatest token of a stored register.
fn given(state: &HostState) -> Option<LeaseEpoch> {
    LeaseEpoch::of(state.head.term, state.head.next_n.map_or(u32::MAX, |next| next - 1))
}

/// How a message travels; a table goes in pieces.
fn host_message(message: &DesignationMessage) -> Option<HostMessage> {
    Some(match message {
        DesignationMessage::Propose(proposal) => {
            HostMessage::Propose { proposal: proposal.to_bytes().into() }
        }
        DesignationMessage::Confirm { hash, vote } => HostMessage::Confirm {
            hash: *hash.as_bytes(),
            table: vote.table.map_or(NO_TABLE, |table| *table.as_bytes()),
            signature: Box::new(vote.signature),
        },
        DesignationMessage::Promised(proposal) => {
            HostMessage::Promised { proposal: proposal.to_bytes().into() }
        }
        DesignationMessage::Unable { hash, why } => {
            let (why, cert) = match why {
                Unable::InDoubt => (1, NO_TABLE),
                Unable::OtherHead(cert) => (2, *cert.as_bytes()),
                Unable::OtherRoster => (3, NO_TABLE),
                Unable::NotLost => (4, NO_TABLE),
            };
            HostMessage::Unable { hash: *hash.as_bytes(), why, cert }
        }
        DesignationMessage::Withdraw { hash, signature } => {
            HostMessage::Withdraw { hash: *hash.as_bytes(), signature: Box::new(*signature) }
        }
        DesignationMessage::Fetch(digest) => HostMessage::Fetch { digest: *digest.as_bytes() },
        DesignationMessage::Table(_) => return None,
    })
}

/// No digest, and no certificate.
const NO_TABLE: [u8; 32] = [0; 32];

/// Requests that wait while a register is being installed: a write's worth.
const EARLY_MAX: usize = 1_024;
