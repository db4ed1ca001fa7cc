//! Spaces come and go: founded, joined on an invitation, left.
//!
//! A device begins with a personal space of its own. When it is invited into that of another, it
//! gives its own up: roster and keys come with the invitation, the change-over is one transaction,
//! and what it had written is carried over, under its old stamps, as new ops. Only a device that is
//! alone in its personal space can be invited away, so nobody is left behind.

use std::sync::Arc;

use bytes::Bytes;

use super::effect::{Effect, JoinError, Notice, RequestError, Token};
use super::engine::Engine;
use super::space::{SpaceState, Then};
use super::txn::Write;
use crate::crypto::EpochKey;
use crate::model::{DeviceId, Hlc, Incarnation, LogId, Now, Scope, ScopeTag, Seq, SpaceId};
use crate::roster::{Author as RosterAuthor, Role, Roster};

impl Engine {
    /// Whether this device takes part in a space.
    pub(super) fn takes_part(&self, space: SpaceId) -> bool {
        self.spaces.get(&space).is_some_and(|space| space.is_active)
    }

    /// The active personal space.
    pub fn personal(&self) -> Option<SpaceId> {
        self.active(&Scope::Personal)
    }

    /// The active space with this tag.
    pub fn space_of(&self, tag: &ScopeTag) -> Option<SpaceId> {
        self.tags.get(tag).copied().filter(|space| self.takes_part(*space))
    }

    /// The active space of a scope.
    pub fn active(&self, scope: &Scope) -> Option<SpaceId> {
        self.spaces.values().find(|space| space.is_active && space.scope == *scope).map(|space| space.id)
    }

    /// Begins a space with this device as its first admin.
    pub(super) fn found(&mut self, now: &Now, scope: Scope, name: &str, token: Token) {
        if self.active(&scope).is_some() {
            return self.refuse_join(token, JoinError::ScopeTaken { scope });
        }
        let (key, entropy) = (EpochKey::from_bytes(self.entropy()), self.entropy());
        let author = RosterAuthor { identity: &self.identity, key: &key, hlc: Hlc::at(now.wall), entropy };
        let roster = match Roster::found(&author, &scope, name) {
            Ok((roster, _)) => roster,
            Err(why) => return self.emit(Effect::Failed { token, why: RequestError::Roster(Arc::new(why)) }),
        };
        let log = self.fresh_log();
        let mut state = SpaceState::new(scope, roster, log);
        state.keys.insert(key.id(), key);
        self.begin_space(state, None, token);
    }

    /// Takes part in a space this device was invited into.
    pub(super) fn join(&mut self, space: SpaceId, records: Vec<Bytes>, keys: Vec<EpochKey>, token: Token) {
        if self.takes_part(space) {
            return self.refresh(space, records, keys, token);
        }
        match self.invited_state(space, records, keys) {
            Ok((state, left)) => self.begin_space(state, left, token),
            Err(why) => self.refuse_join(token, why),
        }
    }

    /// Learns from an invitation into a space it is in: one of the two had forgotten the other.
    fn refresh(&mut self, space: SpaceId, records: Vec<Bytes>, keys: Vec<EpochKey>, token: Token) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let admitted = state.roster.admit_all(records);
        let may_hold = state.roster.role_of(&self.identity.device()).is_some_and(Role::holds_keys);
        let known: Vec<EpochKey> =
            keys.into_iter().filter(|key| may_hold && state.roster.knows_key(&key.id())).collect();
        let records: Vec<_> = admitted
            .iter()
            .filter_map(|hash| state.roster.record(hash).map(|bytes| (*hash, bytes.clone())))
            .collect();
        for (hash, bytes) in records {
            self.write(Write::Record { space, hash, bytes });
        }
        self.then(Then::Records { space, records: admitted, tokens: vec![token] });
        for key in known {
            self.take_key(space, key);
        }
    }

    /// What the invitation makes, and the space it takes the place of.
    fn invited_state(
        &mut self,
        space: SpaceId,
        records: Vec<Bytes>,
        keys: Vec<EpochKey>,
    ) -> Result<(SpaceState, Option<SpaceId>), JoinError> {
        let own = self.identity.device();
        let roster = Roster::load(space, records).map_err(|why| JoinError::Roster(Arc::new(why)))?;
        let role = roster.role_of(&own).ok_or(JoinError::NotInvited)?;
        if self.spaces.contains_key(&space) {
            return Err(JoinError::Left);
        }
        let scope = roster.scope().clone();
        let left = match self.active(&scope) {
            None => None,
            Some(_) if scope != Scope::Personal => return Err(JoinError::ScopeTaken { scope }),
            Some(left) => {
                self.check_alone(left, role)?;
                Some(left)
            }
        };
        let log = self.fresh_log();
        let mut state = SpaceState::new(scope, roster, log);
        if role.holds_keys() {
            let known = keys.into_iter().filter(|key| state.roster.knows_key(&key.id()));
            state.keys = known.map(|key| (key.id(), key)).collect();
            if state.any_key().is_none() {
                return Err(JoinError::KeyMissing);
            }
        }
        Ok((state, left))
    }

    /// Whether a personal space can be given up: nobody else is in it, and what is in it can be
    /// written again elsewhere.
    fn check_alone(&self, left: SpaceId, role: Role) -> Result<(), JoinError> {
        let Some(state) = self.spaces.get(&left) else { return Ok(()) };
        let others = state.roster.member_count().saturating_sub(1);
        if others > 0 {
            return Err(JoinError::NotAlone { others });
        }
        let op_count = state.own_op_count(&self.identity.device());
        if !role.holds_keys() && op_count > 0 {
            return Err(JoinError::BlindWithOps { op_count });
        }
        Ok(())
    }

    /// Writes a new space and, in the same transaction, that another one was left for it.
    fn begin_space(&mut self, state: SpaceState, left: Option<SpaceId>, token: Token) {
        let id = state.id;
        if let Some(left) = left.and_then(|left| self.spaces.get_mut(&left)) {
            left.is_active = false;
            let write = space_write(left);
            self.write(write);
        }
        self.write(space_write(&state));
        for hash in state.roster.record_hashes() {
            if let Some(bytes) = state.roster.record(&hash).cloned() {
                self.write(Write::Record { space: id, hash, bytes });
            }
        }
        for key in state.keys.values() {
            self.write(Write::Key { space: id, key: key.clone() });
        }
        self.tags.insert(state.tag, id);
        self.spaces.insert(id, state);
        self.then(Then::Begun { space: id, left, token });
    }

    /// The new space did not become durable: everything is as before.
    pub(super) fn unbegun(&mut self, space: SpaceId, left: Option<SpaceId>, token: Token) {
        self.spaces.remove(&space);
        self.tags.remove(&space.tag());
        if let Some(left) = left.and_then(|left| self.spaces.get_mut(&left)) {
            left.is_active = true;
        }
        self.emit(Effect::Failed { token, why: RequestError::Storage });
    }

    /// The new space is durable.
    pub(super) fn begun(&mut self, now: &Now, space: SpaceId, left: Option<SpaceId>, token: Token) {
        let keys: Vec<EpochKey> =
            self.spaces.get(&space).map(|state| state.keys.values().cloned().collect()).unwrap_or_default();
        for key in keys {
            self.notice(Notice::Key { space, key });
        }
        self.notice(Notice::Begun { space, left });
        self.notice(Notice::Roster { space });
        for (from, to) in self.to_carry_over() {
            self.emit(Effect::CarryOver { from, to });
        }
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            if let (Some(left), Some(connection)) = (left, self.peers.get_mut(&peer)) {
                connection.spaces.remove(&left);
            }
            self.greet(now, peer);
            self.reopen(now, peer, space);
        }
        self.emit(Effect::Done { token });
    }

    fn refuse_join(&mut self, token: Token, why: JoinError) {
        self.emit(Effect::Failed { token, why: RequestError::Join(why) });
    }

    /// Spaces that were left with ops that are not carried over yet, each with the one that took
    /// its place: what a shell asks for when it starts.
    pub fn to_carry_over(&self) -> Vec<(SpaceId, SpaceId)> {
        let own = self.identity.device();
        let Some(to) = self.personal() else { return Vec::new() };
        self.spaces
            .values()
            .filter(|space| !space.is_active && space.scope == Scope::Personal)
            .filter(|space| space.carried.get() < space.own_op_count(&own))
            .map(|space| (space.id, to))
            .collect()
    }

    /// A log of this device that nobody has seen.
    pub(super) fn fresh_log(&mut self) -> LogId {
        let entropy = self.entropy();
        let incarnation = u64::from_be_bytes(*entropy.first_chunk().expect("32 bytes hold 8"));
        LogId { device: self.identity.device(), incarnation: Incarnation::new(incarnation) }
    }
}

impl SpaceState {
    /// The logs of a device with their last positions, drafts included, in order.
    pub fn logs_of(&self, device: &DeviceId) -> Vec<(LogId, Seq)> {
        let own = self.author.log();
        let sealed = self.durable.iter().filter(|(log, _)| log.device == *device && **log != own);
        let mut logs: Vec<(LogId, Seq)> = sealed.map(|(log, tip)| (*log, tip.seq)).collect();
        let last = Seq::new(self.author.next_seq().get() - 1);
        if own.device == *device && last > Seq::ZERO {
            logs.push((own, last));
        }
        logs.sort_unstable();
        logs
    }

    /// How many ops a device has written here.
    pub fn own_op_count(&self, device: &DeviceId) -> u64 {
        self.logs_of(device).iter().fold(0, |sum, (_, last)| sum.saturating_add(last.get()))
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
