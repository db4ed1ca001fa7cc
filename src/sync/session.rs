//! The conversation with one peer: greeting, rosters, frontiers, and what is pushed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::effect::{Deadline, DeadlineReason, Effect, GivenBack, Notice, PeerId, Refusal, Token};
use super::engine::{Engine, PROTOCOL_VERSION, START};
use super::heal::Locating;
use super::space::{HeldAck, SealedTip, Then};
use super::txn::Write;
use crate::model::limits::FORWARD_DELAY;
use crate::model::{
    DeviceId, Frontier, LeaseEpoch, LogId, Now, RecordHash, ScopeTag, Seq, SpaceId, Tip, TipHash,
};
use crate::wire::checkpoint::CheckpointHash;
use crate::wire::{Hello, Message, SpaceHello};

/// One connection.
pub(super) struct Peer {
    pub device: DeviceId,
    pub is_greeted: bool,
    /// Tells a copied home from the original.
    pub store_instance: [u8; 16],
    /// What each side said of its spaces last.
    pub hello: BTreeMap<SpaceId, SpaceHello>,
    pub said: BTreeSet<SpaceId>,
    pub spaces: BTreeMap<SpaceId, Session>,
    /// How far this device's wall clock is ahead of the peer's, in milliseconds.
    pub clock_ahead_ms: i64,
    pub last_heard: Duration,
}

/// One space on one connection.
#[derive(Default)]
pub(super) struct Session {
    /// Set once the peer has said what it holds (or that it holds the same).
    pub known: Option<Frontier>,
    /// What has been handed to the network.
    sent: BTreeMap<LogId, Sent>,
    /// Logs with an order under way on the backlog lane.
    backlog: BTreeSet<LogId>,
    /// Logs to pass on, and when.
    forward: BTreeMap<LogId, Duration>,
    /// What this device has told of its own frontier, in so many words.
    pub told: Option<Frontier>,
    /// The acks passed on, by device: number and frontier.
    pub acks_sent: BTreeMap<DeviceId, (u64, Frontier)>,
    /// The acks received on this connection: what deltas refer to.
    pub acks_received: BTreeMap<DeviceId, (u64, Frontier)>,
    /// Acks of devices that are not in the roster here yet.
    pub acks_early: BTreeMap<DeviceId, HeldAck>,
    pub ack_gossip_at: Option<Duration>,
    /// The checkpoint that the peer was told to begin with.
    pub floor_told: Option<CheckpointHash>,
    /// Runs of logs of the peer, after one place and through another, that it was given though it has dropped what
    /// was there.
    pub given_back: BTreeSet<(LogId, Seq, Seq)>,
    /// The last piece that the peer has given back of a history of an own log that has fallen.
    pub fallen_from_peer: BTreeMap<LogId, GivenBack>,
    /// Where the first of the histories began that the peer has given back.
    pub fallen_begins: BTreeMap<LogId, Seq>,
    /// Logs of which such a piece was not dealt with: they are to be given back anew.
    pub missed: BTreeSet<LogId>,
    /// How many such pieces are being dealt with.
    pub recall_count: usize,
    /// Logs of which something did not continue what this device holds, and how often since it said
    /// what that is.
    gaps: BTreeMap<LogId, u32>,
    /// Whether roster records are awaited before this device tells its frontier.
    pub is_roster_awaited: bool,
    /// Own logs of which it is being found out where the peer's history parts from this device's.
    pub locating: BTreeMap<LogId, Locating>,
}

impl Session {
    /// Forgets what was sent and told of a log whose end was dropped here.
    pub(super) fn forget_log(&mut self, log: &LogId) {
        self.sent.remove(log);
        self.forward.remove(log);
        self.gaps.remove(log);
        self.told = None;
    }
}

#[derive(Clone, Copy)]
struct Sent {
    through: Seq,
    lane: Lane,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lane {
    Live,
    Backlog,
}

impl Peer {
    pub(super) fn deadline(&self) -> Option<Deadline> {
        let forward = self.spaces.values().flat_map(|session| session.forward.values().copied());
        let gossip = self.spaces.values().filter_map(|session| session.ack_gossip_at);
        forward
            .map(|at| Deadline { at, why: DeadlineReason::Forward })
            .chain(gossip.map(|at| Deadline { at, why: DeadlineReason::AckGossip }))
            .min_by_key(|deadline| deadline.at)
    }
}

impl Engine {
    pub(super) fn connected(&mut self, now: &Now, peer: PeerId, device: DeviceId) {
        self.peers.insert(
            peer,
            Peer {
                device,
                is_greeted: false,
                store_instance: [0; 16],
                hello: BTreeMap::new(),
                said: BTreeSet::new(),
                spaces: BTreeMap::new(),
                clock_ahead_ms: 0,
                last_heard: now.uptime,
            },
        );
        self.greet(now, peer);
    }

    pub(super) fn closed(&mut self, peer: PeerId) {
        let Some(gone) = self.peers.remove(&peer) else { return };
        for space in gone.spaces.keys() {
            self.heard(*space, gone.device);
        }
        self.notice(Notice::PeerDown { peer, device: gone.device });
        self.pong(peer, u64::MAX);
    }

    /// Says which spaces this device shares with the peer and how they stand; again whenever that
    /// changes.
    pub(super) fn greet(&mut self, now: &Now, peer: PeerId) {
        let Some(device) = self.peers.get(&peer).map(|peer| peer.device) else { return };
        let shared: Vec<SpaceId> = self
            .spaces
            .values()
            .filter(|space| space.is_active && space.roster.role_of(&device).is_some())
            .map(|space| space.id)
            .collect();
        for space in &shared {
            self.seal_drafts(*space);
        }
        let spaces: Vec<SpaceHello> = shared
            .iter()
            .filter_map(|id| self.spaces.get(id))
            .map(|space| SpaceHello {
                scope: space.tag,
                space: space.id,
                roster_digest: space.roster.digest(),
                frontier_digest: space.durable.digest(),
                echo: space
                    .durable
                    .iter()
                    .filter(|(log, _)| log.device == device)
                    .map(|(log, tip)| (*log, *tip))
                    .collect(),
                max_epoch: self.greatest_epoch(space.id).map_or(0, LeaseEpoch::get),
            })
            .collect();
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.said = shared.into_iter().collect();
        }
        let hello = Hello {
            version: PROTOCOL_VERSION,
            features: 0,
            store_instance: self.store_instance,
            wall: now.wall,
            spaces,
        };
        self.send(peer, &Message::Hello(hello));
    }

    pub(super) fn frame(&mut self, now: &Now, peer: PeerId, bytes: Bytes) {
        let message = match Message::decode(&bytes) {
            Ok(message) => message,
            Err(source) => return self.close(peer, Refusal::Message(source)),
        };
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.last_heard = now.uptime;
        if !state.is_greeted && !matches!(message, Message::Hello(_)) {
            return self.close(peer, Refusal::NoHello);
        }
        match message {
            Message::Hello(hello) => self.hello(now, peer, hello),
            Message::RosterHave { scope, hashes } => self.roster_have(peer, scope, &hashes),
            Message::Records { scope, records } => self.records(now, peer, scope, records),
            Message::Frontier { scope, entries, is_full } => {
                self.frontier(now, peer, scope, &entries, is_full);
            }
            Message::Ack(frame) => self.ack_received(now, peer, frame),
            Message::KeyRequest { scope, key_id } => self.key_request(peer, scope, key_id),
            Message::KeyGrant { scope, key } => self.key_grant(peer, scope, key),
            // The peer holds no such key, or will not give it: another member may.
            Message::KeyRefused { .. } => {}
            Message::Fork { scope, log, witness } => self.fork_asked(peer, scope, log, &witness),
            Message::ForkProof { scope, bytes, .. } => self.fork_proof(peer, scope, &bytes),
            Message::Ping { nonce } => self.send(peer, &Message::Pong { nonce }),
            Message::Pong { nonce } => self.pong(peer, nonce),
            Message::Locate { scope, log, points } => self.located(peer, scope, log, points),
            Message::Parting { scope, log, common, ends } => {
                self.parting(peer, scope, log, common, ends.as_deref());
            }
            Message::RotatePropose { scope, n, key, parents } => {
                self.rotation_proposed(peer, scope, n, key, parents);
            }
            Message::RotateConfirm { scope, key_id, signature } => {
                self.rotation_confirmed(now, peer, scope, key_id, *signature);
            }
            Message::Delegate { scope, digest } => self.delegated(now, peer, scope, digest),
            Message::Receipt { scope, digest, signature } => self.receipt(peer, scope, digest, &signature),
            Message::Host { scope, message } => self.host_message(now, peer, scope, message),
            Message::Floor { scope, base } => self.floor_told(peer, scope, base),
            // A later version says something this one does not know.
            Message::Unknown(_) => {}
        }
    }

    fn hello(&mut self, now: &Now, peer: PeerId, hello: Hello) {
        if hello.version != PROTOCOL_VERSION {
            return self.close(peer, Refusal::Version { found: hello.version, known: PROTOCOL_VERSION });
        }
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let device = state.device;
        let is_first = !state.is_greeted;
        state.is_greeted = true;
        state.store_instance = hello.store_instance;
        state.clock_ahead_ms =
            now.wall.as_millis().cast_signed().saturating_sub_unsigned(hello.wall.as_millis());
        state.hello = hello.spaces.into_iter().map(|hello| (hello.space, hello)).collect();
        if is_first {
            self.notice(Notice::PeerUp { peer, device });
        }
        let is_twin = |other: &Peer| {
            other.device == device && other.is_greeted && other.store_instance != hello.store_instance
        };
        if is_first && self.peers.values().any(is_twin) {
            self.notice(Notice::CloneSeen { device });
        }
        let heard: Vec<SpaceHello> =
            self.peers.get(&peer).map(|peer| peer.hello.values().cloned().collect()).unwrap_or_default();
        for hello in &heard {
            if self.shared_space(peer, &hello.scope) == Some(hello.space) {
                self.open_session(now, peer, hello);
            }
        }
    }

    /// Begins (or begins again) the exchange about one shared space: rosters first, then frontiers.
    pub(super) fn open_session(&mut self, now: &Now, peer: PeerId, hello: &SpaceHello) {
        // Whoever takes part from here on waits for what nobody waited for before.
        self.seal_drafts(hello.space);
        if let Some(device) = self.peers.get(&peer).map(|peer| peer.device) {
            self.heard(hello.space, device);
        }
        let Some(space) = self.spaces.get_mut(&hello.space) else { return };
        let is_roster_equal = space.roster.digest() == hello.roster_digest;
        let is_frontier_equal = space.durable.digest() == hello.frontier_digest;
        let durable = space.durable.clone();
        let (tag, hashes) = (space.tag, space.roster.record_hashes().collect());
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let session = state.spaces.entry(hello.space).or_default();
        session.gaps.clear();
        session.locating.clear();
        // The peer may have been away from the space and have forgotten what it was told.
        session.acks_sent.clear();
        session.is_roster_awaited = !is_roster_equal;
        (session.told, session.floor_told) = (None, None);
        if is_frontier_equal {
            session.known = Some(durable);
        }
        if !is_roster_equal {
            self.send(peer, &Message::RosterHave { scope: tag, hashes });
        } else if !is_frontier_equal {
            self.tell_frontier(peer, hello.space);
        }
        self.gossip_acks(now, peer, hello.space);
        self.echo_ack(peer, hello.space);
        self.tell_proofs(peer, hello.space);
        self.doubt_own_logs(peer, hello);
        self.ask_keys(peer, hello.space);
        self.tell_home(peer, hello.space);
        if let Ok(epoch) = LeaseEpoch::new(hello.max_epoch) {
            self.lease_seen(now, hello.space, epoch);
        }
        self.plan_rotation(now, hello.space);
    }

    fn roster_have(&mut self, peer: PeerId, scope: ScopeTag, held: &[RecordHash]) {
        let Some(id) = self.shared_space(peer, &scope) else {
            return self.not_shared(peer, &scope);
        };
        let missing = self.spaces[&id].roster.missing_from(held);
        for message in Message::records(scope, missing) {
            self.send(peer, &message);
        }
        // The empty one says: that was all.
        self.send(peer, &Message::Records { scope, records: Vec::new() });
        // A record written after the peer's greeting was sent is named by no greeting.
        if held.iter().any(|hash| self.spaces[&id].roster.record(hash).is_none()) {
            self.ask_roster(peer, id);
        }
        if self.is_leaving(id) {
            // The others pass it on.
            self.leave(id, None);
        }
    }

    fn records(&mut self, now: &Now, peer: PeerId, scope: ScopeTag, records: Vec<Bytes>) {
        let Some(id) = self.shared_space(peer, &scope) else {
            return self.not_shared(peer, &scope);
        };
        let is_last = records.is_empty();
        self.admit_records(id, records);
        let is_awaited = self.session(peer, id).is_some_and(|session| session.is_roster_awaited);
        if is_last && is_awaited {
            if let Some(session) = self.session(peer, id) {
                session.is_roster_awaited = false;
            }
            self.tell_frontier(peer, id);
            self.gossip_acks(now, peer, id);
        }
    }

    /// Takes records of others in; how many are new.
    pub(super) fn admit_records(&mut self, id: SpaceId, records: Vec<Bytes>) -> u64 {
        let Some(space) = self.spaces.get_mut(&id) else { return 0 };
        // A record that is refused stays out alone; the others are taken.
        let admitted = space.roster.admit_all(records);
        let writes: Vec<Write> = admitted
            .iter()
            .filter_map(|hash| space.roster.record(hash).map(|bytes| (*hash, bytes.clone())))
            .map(|(hash, bytes)| Write::Record { space: id, hash, bytes })
            .collect();
        let count = admitted.len() as u64;
        if !writes.is_empty() {
            writes.into_iter().for_each(|write| self.write(write));
            self.then(Then::Records { space: id, records: admitted, tokens: Vec::new() });
        }
        count
    }

    /// New records are durable: who may connect has changed, and others want to know.
    pub(super) fn records_stored(&mut self, now: &Now, space: SpaceId) {
        self.part_with_removed(space);
        self.notice(Notice::Roster { space });
        self.keep_early_acks(now, space);
        self.host_records(now, space);
        self.enforce(space);
        let Some(state) = self.spaces.get(&space) else { return };
        let (tag, digest) = (state.tag, state.roster.digest());
        let all = state.roster.missing_from(&[]);
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            let Some(connection) = self.peers.get(&peer) else { continue };
            let is_member = self.shared_space(peer, &tag).is_some();
            let was_member = connection.said.contains(&space);
            if is_member && !was_member {
                self.greet(now, peer);
                self.reopen(now, peer, space);
            } else if is_member
                && connection.hello.get(&space).is_some_and(|hello| hello.roster_digest != digest)
            {
                // Few records exist beside batches: whoever lacks one gets what is new to it.
                for message in Message::records(tag, all.clone()) {
                    self.send(peer, &message);
                }
            }
            if is_member {
                self.ask_keys(peer, space);
            }
        }
        if self.is_leaving(space) {
            let is_told = self.peers.values().any(|peer| peer.spaces.contains_key(&space));
            let is_alone = self.spaces.get(&space).is_some_and(|state| state.roster.member_count() == 0);
            if is_told || is_alone {
                self.delegate(space);
                return self.leave(space, None);
            }
        }
        self.plan_rotation(now, space);
        if let Some(state) = self.spaces.get_mut(&space) {
            let epoch = state.roster.epoch();
            if std::mem::replace(&mut state.epoch_told, epoch) != epoch {
                self.notice(Notice::Rotated { space });
            }
        }
        if self.is_awaited(space) {
            // A contested epoch may have found its successor.
            self.seal_drafts(space);
        }
        self.acknowledge(now, space);
    }

    /// Ends what goes on with devices that are no members any more, and tells them why.
    fn part_with_removed(&mut self, space: SpaceId) {
        let own = self.identity.device();
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let roster = &state.roster;
        state.acks.retain(|device, _| roster.role_of(device).is_some());
        let is_removed = roster.removal_of(&own).is_some();
        let is_news = is_removed && !std::mem::replace(&mut state.is_removal_told, is_removed);
        let removed: BTreeSet<DeviceId> = roster.removed().map(|removed| removed.device).collect();
        let gone_by_itself: BTreeSet<DeviceId> = roster
            .removed()
            .filter(|removed| removed.by == removed.device)
            .map(|removed| removed.device)
            .collect();
        let (tag, all) = (state.tag, roster.missing_from(&[]));
        if is_news {
            self.notice(Notice::Removed { space });
        }
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            let Some(connection) = self.peers.get_mut(&peer) else { continue };
            if !removed.contains(&connection.device) || connection.spaces.remove(&space).is_none() {
                continue;
            }
            connection.said.remove(&space);
            let (device, is_idle) = (connection.device, connection.spaces.is_empty());
            for message in Message::records(tag, all.clone()) {
                self.send(peer, &message);
            }
            // Whoever has removed itself still asks for the rotation: it goes when it is no longer pinned.
            if is_idle && !gone_by_itself.contains(&device) {
                self.close(peer, Refusal::NotInRoster);
            }
        }
    }

    /// Whether this device has removed itself from a space and still has to tell the others.
    fn is_leaving(&self, space: SpaceId) -> bool {
        let own = self.identity.device();
        self.spaces.get(&space).is_some_and(|state| {
            state.is_active && state.roster.removal_of(&own).is_some_and(|removed| removed.by == own)
        })
    }

    /// Opens the session of a space from what the peer said of it before this device took part.
    pub(super) fn reopen(&mut self, now: &Now, peer: PeerId, space: SpaceId) {
        let hello = self.peers.get(&peer).and_then(|peer| peer.hello.get(&space)).cloned();
        if let Some(hello) = hello
            && self.shared_space(peer, &hello.scope) == Some(space)
        {
            self.open_session(now, peer, &hello);
        }
    }

    pub(super) fn session(&mut self, peer: PeerId, space: SpaceId) -> Option<&mut Session> {
        self.peers.get_mut(&peer)?.spaces.get_mut(&space)
    }

    /// Says what this device holds: all of it first, then only what changed.
    pub(super) fn tell_frontier(&mut self, peer: PeerId, space: SpaceId) {
        if self.is_held_back(space) {
            return;
        }
        let Some(state) = self.spaces.get(&space) else { return };
        let (scope, durable) = (state.tag, state.durable.clone());
        let Some(session) = self.session(peer, space) else { return };
        let base = session.told.replace(durable.clone());
        let is_full = base.is_none();
        let entries = durable.delta(&base.unwrap_or_default());
        self.send(peer, &Message::Frontier { scope, entries, is_full });
    }

    fn frontier(
        &mut self,
        now: &Now,
        peer: PeerId,
        scope: ScopeTag,
        entries: &[(LogId, Tip)],
        is_full: bool,
    ) {
        let Some(space) = self.shared_space(peer, &scope) else {
            return self.not_shared(peer, &scope);
        };
        let Some(session) = self.session(peer, space) else { return };
        if is_full {
            session.floor_told = None;
            // It may have begun with a base since, and given up there what it was given back.
            session.given_back.clear();
        }
        let mut known = if is_full { Frontier::new() } else { session.known.take().unwrap_or_default() };
        for (log, tip) in entries {
            known.set(*log, *tip);
        }
        session.known = Some(known);
        // What was sent before is known to have arrived or to be missing now.
        session.sent.clear();
        // The digests of a greeting may have crossed with what happened since, so that only one
        // side saw a difference: whoever is told tells.
        if session.told.is_none() {
            self.tell_frontier(peer, space);
        }
        self.push_all(now, peer, space);
        self.check_rounds();
    }

    /// Orders a push of every log the peer lacks.
    pub(super) fn push_all(&mut self, _now: &Now, peer: PeerId, space: SpaceId) {
        self.give_back(peer, space);
        let Some(state) = self.spaces.get(&space) else { return };
        let logs: Vec<LogId> = state.durable.iter().map(|(log, _)| *log).collect();
        for log in logs {
            self.push_log(peer, space, log);
        }
    }

    /// Orders a push of what the peer lacks of one log, unless one is under way.
    fn push_log(&mut self, peer: PeerId, space: SpaceId, log: LogId) {
        let Some(state) = self.spaces.get(&space) else { return };
        let (ours, floor) = (state.durable.tip(&log), state.floor(&log));
        let Some(session) = self.session(peer, space) else { return };
        let Some(known) = &session.known else { return };
        let theirs = known.tip(&log);
        if theirs.seq < floor.seq {
            // No batch here continues what the peer has.
            return self.tell_floor(peer, space);
        }
        if theirs.seq == ours.seq && theirs.hash != ours.hash {
            return self.ask_fork(peer, space, log, ours.seq);
        }
        let sent = session.sent.get(&log).map_or(START, |sent| sent.through);
        if session.backlog.contains(&log) || ours.seq <= theirs.seq.max(sent) {
            return;
        }
        // Beyond what the peer has said it holds, the order continues what was sent; the link to
        // continue from is checked only where the peer named one.
        let (after, after_link) =
            if sent > theirs.seq { (sent, TipHash::NONE) } else { (theirs.seq, theirs.hash) };
        session.backlog.insert(log);
        session.sent.insert(log, Sent { through: ours.seq, lane: Lane::Backlog });
        self.pushed_ops += ours.seq.get() - after.get();
        self.emit(Effect::Push { peer, space, log, after, after_link, through: ours.seq });
    }

    pub(super) fn push_done(&mut self, peer: PeerId, space: SpaceId, log: LogId, _through: Seq) {
        let Some(session) = self.session(peer, space) else { return };
        session.backlog.remove(&log);
        self.push_log(peer, space, log);
        self.check_rounds();
    }

    pub(super) fn push_forked(&mut self, peer: PeerId, space: SpaceId, log: LogId, at: Seq) {
        if let Some(session) = self.session(peer, space) {
            session.backlog.remove(&log);
        }
        self.ask_fork(peer, space, log, at);
    }

    /// Sends a batch this device has just sealed to everyone who waits for exactly that one, and
    /// orders a push for the others.
    pub(super) fn offer(&mut self, space: SpaceId, tips: &[SealedTip]) {
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            for sealed in tips {
                let Some(session) = self.session(peer, space) else { continue };
                let Some(known) = &session.known else { continue };
                let known_seq = known.tip(&sealed.log).seq;
                let sent = session.sent.get(&sealed.log).copied();
                let is_next = sent.map_or(known_seq, |sent| sent.through.max(known_seq)) == sealed.before;
                // On the live lane a batch may overtake the backlog lane, so it only goes there
                // when nothing of its log can still be on its way on the other.
                let is_in_order = sent
                    .is_none_or(|sent| sent.lane == Lane::Live || known_seq >= sent.through)
                    && !session.backlog.contains(&sealed.log);
                if is_next && is_in_order {
                    session.sent.insert(sealed.log, Sent { through: sealed.tip.seq, lane: Lane::Live });
                    self.pushed_ops += sealed.tip.seq.get() - sealed.before.get();
                    self.emit(Effect::SendLive { peer, batch: sealed.bytes.clone() });
                } else {
                    self.push_log(peer, space, sealed.log);
                }
            }
        }
    }

    /// Passes on what arrived, after a moment in which the others may get it from its author.
    pub(super) fn forward_later(&mut self, now: &Now, space: SpaceId, log: LogId, from: Option<PeerId>) {
        let Some(tip) = self.spaces.get(&space).map(|state| state.durable.tip(&log)) else { return };
        let due = now.uptime + FORWARD_DELAY;
        if let Some(session) = from.and_then(|from| self.session(from, space)) {
            session.gaps.remove(&log);
        }
        for (peer, connection) in &mut self.peers {
            let Some(session) = connection.spaces.get_mut(&space) else { continue };
            if Some(*peer) == from {
                // Whoever sent it has it; how far it is beyond that, its frontier will say.
                if let Some(known) = &mut session.known
                    && known.tip(&log).seq < tip.seq
                {
                    known.set(log, tip);
                }
            } else if session.known.as_ref().is_some_and(|known| known.tip(&log).seq < tip.seq) {
                // Its author has it long before that; another copy of the author's home has not.
                let due = if connection.device == log.device { now.uptime + TO_AUTHOR_AFTER } else { due };
                session.forward.entry(log).or_insert(due);
            }
        }
    }

    /// Asks for what is missing in front of a batch by saying, once, what is held. What was on its
    /// way by then is dropped; the peer sends it again from there.
    pub(super) fn ask_again(&mut self, peer: PeerId, space: SpaceId, log: LogId, expected: Seq, found: Seq) {
        let Some(session) = self.session(peer, space) else { return };
        let gap_count = session.gaps.entry(log).or_default();
        *gap_count += 1;
        if *gap_count > GAPS_MAX {
            return self.close(peer, Refusal::GapAgain { expected, found });
        }
        if *gap_count == 1 {
            session.told = None;
            self.tell_frontier(peer, space);
        }
    }

    /// Batches of a device that is not in the roster here: it may have come later, and lanes overtake
    /// each other. The peer's roster is asked for, and with it the batches again.
    pub(super) fn ask_roster(&mut self, peer: PeerId, space: SpaceId) {
        let Some(state) = self.spaces.get(&space) else { return };
        let (scope, hashes) = (state.tag, state.roster.record_hashes().collect());
        let Some(session) = self.session(peer, space) else { return };
        if !std::mem::replace(&mut session.is_roster_awaited, true) {
            session.told = None;
            self.send(peer, &Message::RosterHave { scope, hashes });
        }
    }

    pub(super) fn tick(&mut self, now: &Now) {
        for space in self.spaces.keys().copied().collect::<Vec<_>>() {
            self.rotate_if_due(now, space);
            let Some(state) = self.spaces.get_mut(&space) else { continue };
            if state.rotation.as_ref().is_some_and(|rotation| rotation.commit_at <= now.uptime) {
                self.commit_rotation(now, space);
            }
            self.lease_tick(now, space);
            self.look_for_silence(now, space);
            self.search_again(now, space);
            let Some(state) = self.spaces.get_mut(&space) else { continue };
            if state.store_again_at.take_if(|at| *at <= now.uptime).is_none() {
                continue;
            }
            self.enforce(space);
            for (log, after, through) in self.to_reissue(space) {
                self.emit(Effect::Reissue { space, log, after, through });
            }
            if self.is_awaited(space) {
                self.seal_drafts(space);
            }
            for (from, to) in self.to_carry_over() {
                self.emit(Effect::CarryOver { from, to });
            }
        }
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            let Some(connection) = self.peers.get_mut(&peer) else { continue };
            let mut due = Vec::new();
            let mut gossip = Vec::new();
            for (space, session) in &mut connection.spaces {
                let logs: Vec<LogId> = session
                    .forward
                    .iter()
                    .filter(|(_, at)| **at <= now.uptime)
                    .map(|(log, _)| *log)
                    .collect();
                for log in logs {
                    session.forward.remove(&log);
                    due.push((*space, log));
                }
                if session.ack_gossip_at.is_some_and(|at| at <= now.uptime) {
                    session.ack_gossip_at = None;
                    gossip.push(*space);
                }
            }
            for (space, log) in due {
                let is_held = {
                    let ours = self.spaces.get(&space).map(|state| state.durable.tip(&log).seq);
                    let theirs = self
                        .session(peer, space)
                        .and_then(|session| session.known.as_ref().map(|known| known.tip(&log).seq));
                    ours <= theirs
                };
                if is_held {
                    self.duplicate_ops += 1;
                } else {
                    self.push_log(peer, space, log);
                }
            }
            for space in gossip {
                self.gossip_acks(now, peer, space);
            }
        }
    }

    /// Begins a round: everybody of these is asked, and it ends when everybody has answered and nothing
    /// is under way. No names mean every connected device.
    pub(super) fn round(&mut self, with: &[DeviceId], token: Token) {
        let mut asked = BTreeMap::new();
        let takes_part = |peer: &Peer| peer.is_greeted && (with.is_empty() || with.contains(&peer.device));
        let peers: Vec<PeerId> =
            self.peers.iter().filter(|(_, peer)| takes_part(peer)).map(|(id, _)| *id).collect();
        for peer in peers {
            let nonce = self.number();
            asked.insert(peer, nonce);
            for space in self.sessions_of(peer) {
                let is_settled = self.peers.get(&peer).is_some_and(|peer| self.is_settled(peer));
                if !is_settled {
                    self.tell_frontier(peer, space);
                }
            }
            self.send(peer, &Message::Ping { nonce });
        }
        self.rounds.push((token, asked));
        self.check_rounds();
    }

    /// An answer to a round's question; `u64::MAX` answers all of a peer that is gone.
    pub(super) fn pong(&mut self, peer: PeerId, nonce: u64) {
        for (_, asked) in &mut self.rounds {
            if asked.get(&peer).is_some_and(|asked| *asked == nonce || nonce == u64::MAX) {
                asked.insert(peer, ANSWERED);
            }
        }
        self.check_rounds();
    }

    /// Ends the rounds in which everybody has answered and holds the same.
    pub(super) fn check_rounds(&mut self) {
        if self.rounds.is_empty() {
            return;
        }
        let mut done = Vec::new();
        for (token, asked) in &self.rounds {
            let is_done = asked.iter().all(|(peer, nonce)| {
                *nonce == ANSWERED && self.peers.get(peer).is_none_or(|peer| self.is_settled(peer))
            });
            if is_done {
                done.push(*token);
            }
        }
        self.rounds.retain(|(token, _)| !done.contains(token));
        for token in done {
            self.emit(Effect::Done { token });
        }
    }

    /// Whether a peer and this device hold the same of every space they share, as far as both said.
    pub(super) fn is_settled(&self, peer: &Peer) -> bool {
        peer.spaces.iter().all(|(space, session)| {
            let (Some(known), Some(state)) = (&session.known, self.spaces.get(space)) else { return false };
            // What the peer lacks below the base is not to be had here: it begins there, or asks others.
            let is_told = |(log, tip): (&LogId, &Tip)| {
                let theirs = known.tip(log).seq;
                theirs >= tip.seq || theirs < state.floor(log).seq
            };
            session.backlog.is_empty() && state.durable.iter().all(is_told) && state.durable.covers_all(known)
        })
    }

    pub(super) fn sessions_of(&self, peer: PeerId) -> Vec<SpaceId> {
        self.peers.get(&peer).map(|peer| peer.spaces.keys().copied().collect()).unwrap_or_default()
    }
}

/// Parcels of a log that may be on their way when this device says that it lacks what is before them:
/// as many as a sender's queues hold for one peer, and some more.
const GAPS_MAX: u32 = 2_048;

/// How long what another device passed on of a log is kept from the device that writes it.
const TO_AUTHOR_AFTER: Duration = Duration::from_secs(2);

/// Marks a round's question as answered; numbers never reach it.
const ANSWERED: u64 = u64::MAX;
