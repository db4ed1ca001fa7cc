//! Two personal spaces of one person become one.
//!
//! Each device begins with a personal space of its own. When two that name each other meet, one of
//! the two spaces gives way, by an order both compute alike from what both said. The device that
//! gives way fetches roster and key first, then changes over in one transaction; what it had
//! written is carried over, under its old stamps, as new ops.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::effect::{Effect, Notice, PeerId};
use super::engine::Engine;
use super::space::{Candidate, SpaceState, Then};
use super::txn::Write;
use crate::crypto::EpochKey;
use crate::model::{Frontier, Hlc, Incarnation, KeyId, LogId, Now, Scope, ScopeTag, Seq, SpaceId, Tip};
use crate::oplog::Author;
use crate::roster::{Author as RosterAuthor, NewDevice, Role, Roster};
use crate::wire::{Message, SpaceHello, Standing};

impl Engine {
    /// Weighs every personal space a peer has announced that this device does not take part in.
    pub(super) fn weigh_spaces(&mut self, peer: PeerId) {
        let Some(connection) = self.peers.get(&peer) else { return };
        let announced: Vec<SpaceHello> = connection.hello.values().cloned().collect();
        for hello in announced {
            if hello.kind == Scope::Personal && !self.takes_part(hello.space) {
                self.weigh_space(peer, &hello);
            }
        }
    }

    /// Compares a peer's personal space with the own one and asks for it if it takes precedence.
    fn weigh_space(&mut self, peer: PeerId, theirs: &SpaceHello) {
        let Some(own) = self.personal() else { return };
        // What this device said on this connection counts, so that both sides compare the same.
        let Some(ours) = self.peers.get(&peer).and_then(|peer| peer.said.get(&own)).copied() else { return };
        if precedence(&theirs.standing, &theirs.space) < precedence(&ours, &own) {
            self.send(peer, &Message::RosterHave { scope: theirs.scope, hashes: Vec::new() });
        }
    }

    /// Whether this device takes part in a space.
    pub(super) fn takes_part(&self, space: SpaceId) -> bool {
        self.spaces.get(&space).is_some_and(|space| space.is_active)
    }

    /// The active personal space.
    pub fn personal(&self) -> Option<SpaceId> {
        self.spaces.values().find(|space| space.is_active && space.scope == Scope::Personal).map(|s| s.id)
    }

    /// Records of a space this device is not in yet: if they make a roster that holds both this
    /// device and the peer, the key is asked for.
    pub(super) fn candidate_records(&mut self, peer: PeerId, scope: ScopeTag, records: Vec<Bytes>) {
        if records.is_empty() {
            return;
        }
        let own = self.identity.device();
        let Some(connection) = self.peers.get(&peer) else { return };
        let device = connection.device;
        // Not announced any more: the peer has left that space since it was asked.
        let Some(hello) = connection.hello.values().find(|hello| hello.scope == scope) else { return };
        let (space, kind) = (hello.space, hello.kind.clone());
        if self.takes_part(space) {
            return;
        }
        // What does not make a roster was meant for this device as a member, before it left.
        let Ok(roster) = Roster::load(space, records) else { return };
        let holds_keys = roster.role_of(&own).is_some_and(Role::holds_keys);
        if *roster.scope() != kind
            || kind != Scope::Personal
            || !holds_keys
            || roster.role_of(&device).is_none()
        {
            return;
        }
        let key_id = roster.genesis_key_id();
        self.candidates.insert(space, Candidate { roster, scope: kind });
        self.send(peer, &Message::KeyRequest { scope, key_id });
    }

    /// Hands a key to a member that may hold it, over this authenticated connection only.
    pub(super) fn key_request(&mut self, peer: PeerId, scope: ScopeTag, key_id: KeyId) {
        let Some(space) = self.shared_space(peer, &scope) else {
            return self.not_shared(peer, &scope);
        };
        let (Some(state), Some(connection)) = (self.spaces.get(&space), self.peers.get(&peer)) else {
            return;
        };
        let may_hold = state.roster.role_of(&connection.device).is_some_and(Role::holds_keys);
        let answer = match state.keys.get(&key_id) {
            Some(key) if may_hold => Message::KeyGrant { scope, key: key.clone() },
            _ => Message::KeyRefused { scope, key_id },
        };
        self.send(peer, &answer);
    }

    pub(super) fn key_grant(&mut self, now: &Now, peer: PeerId, scope: ScopeTag, key: EpochKey) {
        if let Some(space) = self.shared_space(peer, &scope) {
            let Some(state) = self.spaces.get_mut(&space) else { return };
            if state.roster.knows_key(&key.id()) && !state.keys.contains_key(&key.id()) {
                state.keys.insert(key.id(), key.clone());
                state.parked_count = 0;
                state.logs.values_mut().for_each(|log| log.is_parked = false);
                self.write(Write::Key { space, key: key.clone() });
                self.then(Then::Key { space, key });
            }
            return;
        }
        let Some(id) = self.candidates.keys().copied().find(|id| id.tag() == scope) else { return };
        let Some(candidate) = self.candidates.remove(&id) else { return };
        if candidate.roster.knows_key(&key.id()) {
            self.change_over(now, id, candidate, &key);
        }
    }

    /// Leaves the own personal space for another, in one transaction. It may be one that was left
    /// before: standings change while devices meet, and the last word is the same for all.
    fn change_over(&mut self, now: &Now, id: SpaceId, candidate: Candidate, key: &EpochKey) {
        let Some(old) = self.personal().filter(|old| *old != id) else { return };
        let log = self.fresh_log();
        let before = self.spaces.get(&id).map(|space| (space.roster.clone(), space.carried));
        let mut state = self.spaces.remove(&id).unwrap_or_else(|| SpaceState {
            id,
            tag: id.tag(),
            scope: candidate.scope,
            is_active: true,
            carried: Seq::ZERO,
            dropped: 0,
            roster: candidate.roster.clone(),
            keys: BTreeMap::new(),
            author: Author::new(log, Tip::NONE),
            logs: BTreeMap::new(),
            durable: Frontier::new(),
            folded: None,
            acks: BTreeMap::new(),
            ack_number: 0,
            proofs: BTreeMap::new(),
            proven_floor: 0,
            store_again_at: None,
            skewed_count: 0,
            parked_count: 0,
        });
        let said = self.peers.values().filter_map(|peer| peer.hello.get(&id));
        state.proven_floor = said.map(|hello| hello.standing.proven_count).max().unwrap_or(0);
        // Whatever was carried out of it is carried again should it be left again; what is there
        // already by then is recognised.
        (state.is_active, state.carried) = (true, Seq::ZERO);
        for bytes in candidate.roster.missing_from(&[]) {
            // Refused alone, if at all: the roster was read as a whole before.
            let _ = state.roster.admit(bytes);
        }
        state.keys.insert(key.id(), key.clone());
        self.tags.insert(state.tag, id);
        self.name_again(now, &mut state, key);
        let Some(left) = self.spaces.get_mut(&old) else { return };
        left.is_active = false;
        let left = space_write(left);
        self.write(left);
        self.write(space_write(&state));
        for hash in state.roster.record_hashes() {
            if let Some(bytes) = state.roster.record(&hash).cloned() {
                self.write(Write::Record { space: id, hash, bytes });
            }
        }
        self.write(Write::Key { space: id, key: key.clone() });
        self.spaces.insert(id, state);
        self.then(Then::Adopted { from: old, to: id, before });
    }

    /// Names the devices that this device has ever named also in the space it joins: nobody there
    /// may know them.
    fn name_again(&mut self, now: &Now, state: &mut SpaceState, key: &EpochKey) {
        let own = self.identity.device();
        let personal = self.spaces.values().filter(|space| space.scope == Scope::Personal);
        let named: Vec<_> = personal
            .flat_map(|left| left.roster.members().map(move |member| (left, member)))
            .filter(|(_, member)| member.added_by == own && member.device != own)
            .map(|(left, member)| {
                let name = left.roster.name_of(&member.device, |key| left.keys.get(key).cloned());
                (member.device, member.role, name)
            })
            .collect();
        for (device, role, name) in named {
            let entropy = self.entropy();
            let author = RosterAuthor { identity: &self.identity, key, hlc: Hlc::at(now.wall), entropy };
            let name = name.unwrap_or_else(|| device.short());
            // Refused where it is a member there already, or where this device is no admin.
            if let Ok(bytes) = state.roster.add_device(&author, &NewDevice { device, role, name: &name }) {
                let _ = state.roster.admit(bytes);
            }
        }
    }

    /// The change-over did not become durable: everything is as before.
    pub(super) fn stay(&mut self, from: SpaceId, to: SpaceId, before: Option<(Roster, Seq)>) {
        match (self.spaces.get_mut(&to), before) {
            (Some(space), Some((roster, carried))) => {
                (space.is_active, space.roster, space.carried) = (false, roster, carried);
            }
            _ => {
                self.spaces.remove(&to);
                self.tags.remove(&to.tag());
            }
        }
        if let Some(space) = self.spaces.get_mut(&from) {
            space.is_active = true;
        }
    }

    /// The change-over is durable.
    pub(super) fn adopted(&mut self, now: &Now, from: SpaceId, to: SpaceId) {
        let key = self.spaces.get(&to).and_then(SpaceState::sealing_key).cloned();
        if let Some(key) = key {
            self.notice(Notice::Key { space: to, key });
        }
        self.notice(Notice::Adopted { from, to });
        self.notice(Notice::Roster { space: to });
        // What this device has of it from an earlier stay.
        self.emit(Effect::Refold { space: to });
        for (from, to) in self.to_carry_over() {
            self.emit(Effect::CarryOver { from, to });
        }
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            if let Some(connection) = self.peers.get_mut(&peer) {
                connection.spaces.remove(&from);
            }
            self.greet(now, peer);
            self.reopen(now, peer, to);
            self.weigh_spaces(peer);
        }
    }

    /// Spaces that were left with ops that are not carried over yet, each with the one that took
    /// its place: what a shell asks for when it starts.
    pub fn to_carry_over(&self) -> Vec<(SpaceId, SpaceId)> {
        let Some(to) = self.personal() else { return Vec::new() };
        self.spaces
            .values()
            .filter(|space| !space.is_active && space.scope == Scope::Personal)
            .filter(|space| space.carried.next() < space.author.next_seq())
            .map(|space| (space.id, to))
            .collect()
    }

    /// The write that records how far a space that was left has been carried over. It counts once
    /// the append it goes along with is durable.
    pub fn carried(&self, from: SpaceId, through: Seq) -> Option<Write> {
        let mut write = space_write(self.spaces.get(&from)?);
        if let Write::Space { carried, .. } = &mut write {
            *carried = through;
        }
        Some(write)
    }

    /// A log of this device that nobody has seen.
    pub(super) fn fresh_log(&mut self) -> LogId {
        let entropy = self.entropy();
        let incarnation = u64::from_be_bytes(*entropy.first_chunk().expect("32 bytes hold 8"));
        LogId { device: self.identity.device(), incarnation: Incarnation::new(incarnation) }
    }
}

/// What the store keeps of a space.
pub(super) fn space_write(state: &SpaceState) -> Write {
    Write::Space {
        space: state.id,
        scope: state.scope.clone(),
        own_log: state.author.log(),
        is_active: state.is_active,
        carried: state.carried,
        dropped: state.dropped,
    }
}

/// Smaller gives way to nothing greater: more proven devices, more members, older, smaller id.
fn precedence(standing: &Standing, space: &SpaceId) -> impl Ord + use<> {
    use std::cmp::Reverse;
    (Reverse(standing.proven_count), Reverse(standing.member_count), standing.founded, *space)
}
