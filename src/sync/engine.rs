//! The engine's value and its entry point.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::effect::{Deadline, DeadlineReason, Effect, Input, Notice, PeerId, Refusal, RequestError, Token};
use super::fork::LookUp;
use super::session::Peer;
use super::space::{Folded, HeldAck, SpaceState, Then};
use super::txn::{Loaded, LoadedSpace, Txn, TxnId, Write};
use crate::crypto::{Identity, Opener, Sealer};
use crate::model::{DeviceId, LogId, Now, RecordHash, ScopeTag, Seq, SpaceId};
use crate::oplog::{Author, AuthorError, ForkProof};
use crate::roster::{Roster, RosterError};
use crate::wire::{Ack, Message};

/// A store whose content contradicts itself.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The roster of a space cannot be read.
    #[error("the stored roster of space {space} cannot be read")]
    Roster {
        /// The space.
        space: SpaceId,
        /// Why.
        #[source]
        source: Box<RosterError>,
    },
    /// Drafts cannot be read.
    #[error("the stored drafts of space {space} cannot be read")]
    Drafts {
        /// The space.
        space: SpaceId,
        /// Why.
        #[source]
        source: AuthorError,
    },
}

/// The sync engine of one device: every decision, no I/O.
///
/// Call [`Engine::step`] with each thing that happens and perform the effects it returns, in
/// order. [`Input::Persisted`] must follow each [`Effect::Persist`]; until then nothing of that
/// transaction is acknowledged, sent or answered.
pub struct Engine {
    pub(super) identity: Arc<Identity>,
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
    pub(super) store_instance: [u8; 16],
    pub(super) spaces: BTreeMap<SpaceId, SpaceState>,
    pub(super) tags: BTreeMap<ScopeTag, SpaceId>,
    pub(super) peers: BTreeMap<PeerId, Peer>,
    pub(super) lookups: BTreeMap<Token, LookUp>,
    pub(super) rounds: Vec<(Token, BTreeMap<PeerId, u64>)>,
    pub(super) pushed_ops: u64,
    pub(super) received_ops: u64,
    pub(super) duplicate_ops: u64,
    pub(super) ack_count: u64,
    in_flight: BTreeMap<TxnId, Vec<Then>>,
    next_number: u64,
    writes: Vec<Write>,
    thens: Vec<Then>,
    effects: Vec<Effect>,
    entropy: blake3::Hasher,
    entropy_drawn: u64,
    /// Whether anything has happened yet.
    is_begun: bool,
    /// See [`Engine::hold_back`].
    pub(super) holds_back: bool,
    /// See [`Engine::call_dormant_after`].
    pub(super) dormant_after: Option<NonZeroU16>,
}

impl Engine {
    /// Continues from what a store holds.
    ///
    /// # Errors
    /// Every variant of [`EngineError`].
    pub fn new(
        identity: Arc<Identity>,
        store_instance: [u8; 16],
        loaded: Loaded,
    ) -> Result<Self, EngineError> {
        let sealer = Sealer::new(&identity);
        let mut engine = Self {
            identity,
            sealer,
            opener: Opener::new(),
            store_instance,
            spaces: BTreeMap::new(),
            tags: BTreeMap::new(),
            peers: BTreeMap::new(),
            lookups: BTreeMap::new(),
            rounds: Vec::new(),
            pushed_ops: 0,
            received_ops: 0,
            duplicate_ops: 0,
            ack_count: 0,
            in_flight: BTreeMap::new(),
            next_number: 1,
            writes: Vec::new(),
            thens: Vec::new(),
            effects: Vec::new(),
            entropy: blake3::Hasher::new(),
            entropy_drawn: 0,
            is_begun: false,
            holds_back: false,
            dormant_after: None,
        };
        for space in loaded.spaces {
            let state = load_space(space)?;
            engine.tags.insert(state.tag, state.id);
            engine.spaces.insert(state.id, state);
        }
        Ok(engine)
    }

    /// Takes one thing that happened and says what is to be done about it.
    pub fn step(&mut self, now: &Now, input: Input) -> Vec<Effect> {
        self.entropy = blake3::Hasher::new_keyed(&now.entropy);
        self.entropy_drawn = 0;
        // What is done about a past in doubt comes first.
        let is_about_past = matches!(input, Input::Doubt | Input::Persisted(_) | Input::PersistFailed(_));
        if !is_about_past && !std::mem::replace(&mut self.is_begun, true) {
            self.open_stored_leases(now);
            // What was cut short is gone about anew.
            self.active_spaces().into_iter().for_each(|space| self.enforce(space));
        }
        match input {
            Input::Connected { peer, device } => self.connected(now, peer, device),
            Input::Frame { peer, bytes } => self.frame(now, peer, bytes),
            Input::Batches { peer, batches } => self.batches(now, peer, batches),
            Input::PushDone { peer, space, log, through } => self.push_done(peer, space, log, through),
            Input::PushForked { peer, space, log, at } => self.push_forked(peer, space, log, at),
            Input::Closed { peer } => self.closed(peer),
            Input::Append { space, ops, token } => self.append(now, space, ops, token),
            Input::Carry { from, to, ops, through, token } => self.carry_in(from, to, &ops, through, token),
            Input::Change { space, change, token } => self.change(now, space, &change, token),
            Input::Rotate { space, token } => self.rotate(now, space, vec![token]),
            Input::Reissue { space, log, ops, through } => self.reissue(space, log, &ops, through),
            Input::Enrol { space, device, role, name, token } => {
                self.enrol(now, space, device, role, &name, token);
            }
            Input::Found { scope, name, token } => self.found(now, scope, &name, token),
            Input::Join { space, records, keys, token } => self.join(space, records, keys, token),
            Input::Persisted(txn) => self.persisted(now, txn),
            Input::PersistFailed(txn) => self.persist_failed(now, txn),
            Input::Folded { space, applied, root, unknown_count } => {
                if let Some(state) = self.spaces.get_mut(&space) {
                    let applied = applied.into_iter().collect();
                    state.folded = Some(Folded { applied, root, unknown_count });
                    self.look_for_parked(space);
                    self.acknowledge(now, space);
                }
            }
            Input::Deliver { space, delivery, token } => self.deliver(now, space, delivery, token),
            Input::LookedUp { token, batches } => self.looked_up(now, token, &batches),
            Input::Lease { space, from, request, token } => {
                self.lease_asked(now, space, from, request, token);
            }
            Input::LeaseSeen { space, epoch } => self.lease_seen(now, space, epoch),
            Input::MoveLeaseHost { space, to, kind, token } => self.move_host(now, space, to, kind, token),
            Input::Round { with, token } => self.round(&with, token),
            Input::Seal { space } => self.seal_drafts(space),
            Input::Base { space, checkpoint, cut, token } => self.begin_at(space, checkpoint, cut, token),
            Input::WriteAgain { space, log, to } => self.write_again_after(now, space, log, to),
            Input::Strays { space, strays } => self.strays_found(space, strays),
            Input::GiveWay { space, log } => self.give_way(now, space, log),
            Input::WantKey { space, key_id } => self.want_key(space, key_id),
            Input::SearchedElsewhere { space, log, after, through, lost_count } => {
                self.searched_elsewhere(now, space, log, (after, through), lost_count);
            }
            Input::Recalled { space, fallen, ops } => self.recalled(now, space, ops.as_deref(), fallen),
            Input::Release { space } => self.release(space),
            Input::Doubt => self.doubt(),
            Input::Tick => self.tick(now),
        }
        self.plan_looks(now);
        self.note_met(now);
        self.finish_step()
    }

    /// The next moment the engine wants an [`Input::Tick`].
    pub fn deadline(&self) -> Option<Deadline> {
        let store = self.spaces.values().filter_map(|space| space.store_again_at);
        let store = store.map(|at| Deadline { at, why: DeadlineReason::StoreAgain });
        let search = self.spaces.values().filter_map(|space| space.search_again_at);
        let search = search.map(|at| Deadline { at, why: DeadlineReason::SearchAgain });
        let rotate = self.spaces.values().flat_map(|space| {
            space.rotate_at.into_iter().chain(space.rotation.as_ref().map(|rotation| rotation.commit_at))
        });
        let rotate = rotate.map(|at| Deadline { at, why: DeadlineReason::Rotate });
        let looks = self.spaces.values().filter_map(|space| space.look_at);
        let looks = looks.map(|at| Deadline { at, why: DeadlineReason::Silence });
        let lease = self.lease_deadline().map(|at| Deadline { at, why: DeadlineReason::Lease });
        let peers = self.peers.values().filter_map(Peer::deadline);
        peers
            .chain(store)
            .chain(search)
            .chain(rotate)
            .chain(looks)
            .chain(lease)
            .min_by_key(|deadline| deadline.at)
    }

    /// This device.
    pub fn device(&self) -> DeviceId {
        self.identity.device()
    }

    /// 32 bytes that no other call of this run returns.
    pub(super) fn entropy(&mut self) -> [u8; 32] {
        draw(&self.entropy, &mut self.entropy_drawn)
    }

    /// A source of such bytes that does not borrow the engine.
    pub(super) fn entropy_source(&mut self) -> impl FnMut() -> [u8; 32] + use<> {
        let mut fork = blake3::Hasher::new_keyed(&self.entropy());
        fork.update(b"fork");
        let mut drawn = 0;
        move || draw(&fork, &mut drawn)
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(super) fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        self.effects.push(Effect::Notice(notice));
    }

    pub(super) fn write(&mut self, write: Write) {
        self.writes.push(write);
    }

    pub(super) fn then(&mut self, then: Then) {
        self.thens.push(then);
    }

    pub(super) fn send(&mut self, peer: PeerId, message: &Message) {
        match message.encode() {
            Ok(frame) => self.effects.push(Effect::Send { peer, frame }),
            // More than a frame holds: only a roster or frontier beyond its limits gets here.
            Err(source) => self.close(peer, Refusal::Message(source)),
        }
    }

    pub(super) fn close(&mut self, peer: PeerId, why: Refusal) {
        // What was still queued from a peer that is being closed is no second reason.
        if !self.peers.contains_key(&peer) {
            return;
        }
        // What still arrives over a connection that was ended is nobody's fault.
        if self.peers.contains_key(&peer) {
            self.effects.push(Effect::Close { peer, why });
            self.closed(peer);
        }
    }

    /// The active space with this tag, if the peer's device takes part in it.
    pub(super) fn shared_space(&self, peer: PeerId, tag: &ScopeTag) -> Option<SpaceId> {
        let device = self.peers.get(&peer)?.device;
        let space = self.spaces.get(self.tags.get(tag)?)?;
        (space.is_active && space.roster.role_of(&device).is_some()).then_some(space.id)
    }

    /// A message of a space that is not shared with the peer: wrong, unless the two have crossed
    /// with a change of rosters or with this device leaving the space.
    pub(super) fn not_shared(&mut self, peer: PeerId, tag: &ScopeTag) {
        if !self.tags.contains_key(tag) {
            self.close(peer, Refusal::WrongSpace);
        }
    }

    /// Everything written in this step becomes one transaction.
    fn finish_step(&mut self) -> Vec<Effect> {
        if !self.writes.is_empty() || !self.thens.is_empty() {
            let id = TxnId::new(self.number());
            let writes = std::mem::take(&mut self.writes);
            self.in_flight.insert(id, std::mem::take(&mut self.thens));
            self.effects.push(Effect::Persist(Txn { id, writes }));
        }
        std::mem::take(&mut self.effects)
    }

    fn persisted(&mut self, now: &Now, txn: TxnId) {
        for then in self.in_flight.remove(&txn).unwrap_or_default() {
            match then {
                Then::Ingested(ingested) => self.ingested(now, ingested),
                Then::Appended(appended) => self.appended(now, appended),
                Then::Sealed { space, tips, runs } => {
                    self.emit(Effect::Fold { space, runs });
                    self.sealed(now, space, tips);
                }
                Then::Records { space, tokens, .. } => {
                    self.records_stored(now, space);
                    tokens.into_iter().for_each(|token| self.emit(Effect::Done { token }));
                }
                Then::Key { space, key } => self.key_stored(now, space, key),
                Then::Left { space, token } => {
                    for peer in self.peers.values_mut() {
                        peer.spaces.remove(&space);
                    }
                    self.notice(Notice::Roster { space });
                    if let Some(token) = token {
                        self.emit(Effect::Done { token });
                    }
                }
                Then::Lease(then) => self.lease_persisted(now, then, true),
                Then::Truncated { space, log, to, .. } => self.truncated(space, log, to),
                Then::Begun { space, left, token } => self.begun(now, space, left, token),
                Then::NewLog { space, log, moved, .. } => self.new_log_begun(space, log, moved),
                Then::Based { space, base, raised, token } => self.based(now, space, base, &raised, token),
                Then::Delivered { token, outcome } => self.emit(Effect::Delivered { token, outcome }),
                Then::GivenBack { space, piece } => self.confirm_given_back(space, piece),
            }
        }
    }

    /// Takes back what the failed transaction was about. Peers are cut off: they come back and
    /// send again from this device's frontier, which never moved.
    fn persist_failed(&mut self, now: &Now, txn: TxnId) {
        let mut is_peer_data_lost = false;
        // What came last goes first: an op may be in a log that was begun for it.
        for then in self.in_flight.remove(&txn).unwrap_or_default().into_iter().rev() {
            match then {
                Then::Ingested(ingested) => {
                    if let Some(space) = self.spaces.get_mut(&ingested.space) {
                        space.rewind(ingested.log);
                    }
                    is_peer_data_lost = true;
                }
                Then::Appended(appended) => {
                    if let Some(space) = self.spaces.get_mut(&appended.space) {
                        let tip = space.durable.tip(&space.author.log());
                        space.author.retract(appended.first, tip);
                        space.store_again_at = Some(now.uptime + STORE_AGAIN_AFTER);
                    }
                    if let Some(token) = appended.token {
                        self.emit(Effect::Failed { token, why: RequestError::Storage });
                    }
                    if let Some(piece) = appended.given_back {
                        self.miss_given_back(now, appended.space, piece);
                    }
                }
                Then::Sealed { space, .. } => {
                    if let Some(space) = self.spaces.get_mut(&space) {
                        let tip = space.durable.tip(&space.author.log());
                        let next = space.author.next_seq();
                        space.author.retract(next, tip);
                        space.store_again_at = Some(now.uptime + STORE_AGAIN_AFTER);
                    }
                }
                Then::Records { space, records, tokens } => {
                    self.forget_records(space, &records);
                    is_peer_data_lost |= tokens.is_empty();
                    self.fail(&tokens, &RequestError::Storage);
                    // A certificate may have been among them.
                    self.reopen_designation(now, space);
                    if let Some(space) = self.spaces.get_mut(&space) {
                        // What this device signed by itself is signed again.
                        space.store_again_at = Some(now.uptime + STORE_AGAIN_AFTER);
                    }
                }
                Then::Key { space, key } => {
                    if let Some(space) = self.spaces.get_mut(&space) {
                        space.keys_arriving.remove(&key.id());
                        space.proposed.remove(&key.id());
                    }
                    is_peer_data_lost = true;
                }
                Then::Left { space, token } => {
                    if let Some(space) = self.spaces.get_mut(&space) {
                        space.is_active = true;
                    }
                    if let Some(token) = token {
                        self.emit(Effect::Failed { token, why: RequestError::Storage });
                    }
                }
                Then::Lease(then) => self.lease_persisted(now, then, false),
                Then::Truncated { space, log, to, held } => self.untruncated(now, space, log, to, held),
                Then::Begun { space, left, token } => {
                    self.unbegun(space, left, token);
                    is_peer_data_lost = true;
                }
                Then::NewLog { space, log: _, old, moved: _ } => {
                    if let Some(space) = self.spaces.get_mut(&space) {
                        space.logs.remove(&old.log());
                        space.author = old;
                    }
                    is_peer_data_lost = true;
                }
                Then::Based { space, raised, token, .. } => self.unbased(now, space, raised, token),
                Then::GivenBack { space, piece } => self.miss_given_back(now, space, piece),
                Then::Delivered { token, .. } => {
                    self.emit(Effect::Failed { token, why: RequestError::Storage });
                }
            }
        }
        if is_peer_data_lost {
            // Whoever is connected believes that this device has what it just lost.
            for peer in self.peers.keys().copied().collect::<Vec<_>>() {
                self.close(peer, Refusal::Storage);
            }
        }
    }

    /// Takes records back that could not be stored; whoever else holds them will send them again.
    fn forget_records(&mut self, space: SpaceId, records: &[RecordHash]) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        if let Ok(roster) = Roster::load(space, state.roster.missing_from(records)) {
            state.roster = roster;
        }
    }
}

fn draw(source: &blake3::Hasher, drawn: &mut u64) -> [u8; 32] {
    *drawn += 1;
    let mut hasher = source.clone();
    hasher.update(&drawn.to_be_bytes());
    *hasher.finalize().as_bytes()
}

fn load_space(loaded: LoadedSpace) -> Result<SpaceState, EngineError> {
    let id = loaded.space;
    let roster = Roster::load(id, loaded.records.into_iter().map(|(_, bytes)| bytes))
        .map_err(|source| EngineError::Roster { space: id, source: Box::new(source) })?;
    let mut author = Author::new(loaded.own_log, loaded.frontier.tip(&loaded.own_log));
    for group in loaded.drafts.into_iter().filter(|group| group.log == loaded.own_log) {
        author
            .restore(group.first, group.op_count, &group.body)
            .map_err(|source| EngineError::Drafts { space: id, source })?;
    }
    let mut acks = BTreeMap::new();
    for (device, bytes) in loaded.acks {
        // What others said is remembered for comfort; if it does not read, they will say it again.
        let Ok(Message::Ack(frame)) = Message::decode(&bytes) else { continue };
        let Ok(ack) = Ack::parse(&frame.bytes) else { continue };
        let frontier = frame.entries.iter().copied().collect();
        acks.insert(device, HeldAck { ack, frontier, is_stored: true });
    }
    let proofs: BTreeMap<LogId, ForkProof> = loaded
        .fork_proofs
        .into_iter()
        .filter_map(|(log, bytes)| Some((log, ForkProof::parse(&bytes).ok()?)))
        .collect();
    let own = author.log().device;
    let ack_number = acks.get(&own).map_or(0, |held| held.ack.fields().number);
    acks.retain(|device, _| roster.role_of(device).is_some());
    let is_removal_told = roster.removal_of(&own).is_some();
    let mut state = SpaceState::new(loaded.scope, roster, loaded.own_log);
    (state.is_active, state.carried, state.dropped) = (loaded.is_active, loaded.carried, loaded.dropped);
    state.keys = loaded.keys.into_iter().map(|key| (key.id(), key)).collect();
    (state.author, state.durable, state.base) = (author, loaded.frontier, loaded.base);
    (state.acks, state.ack_number, state.proofs) = (acks, ack_number, proofs);
    (state.silence, state.met) = (loaded.silence, loaded.met);
    // Whoever is told of it asks for it; there is nobody to tell yet.
    state.compare_roots(&own);
    state.is_removal_told = is_removal_told;
    (state.lease_home, state.lease_stored) = (loaded.lease.home, Some(loaded.lease));
    // What a crash has cut short goes on at the first tick.
    state.store_again_at = Some(Duration::ZERO);
    Ok(state)
}

/// The protocol version of the Hello.
pub(super) const PROTOCOL_VERSION: u16 = 1;

/// How long the store is left alone after it has refused own ops.
pub(super) const STORE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long acks of others are collected before they are passed on.
pub(super) const ACK_GOSSIP_DELAY: Duration = Duration::from_millis(250);

/// The place before the first op.
pub(super) const START: Seq = Seq::ZERO;
