//! Epoch keys: asked for, granted, and rotated.
//!
//! A rotation is proposed, confirmed and committed. The coordinator, an admin, hands a fresh key to
//! every member it reaches, over the authenticated connection; each makes it durable before it
//! confirms, with its own signature over the hash of the proposal; the record that commits names
//! who has confirmed. Whoever was away gets the record with the roster and asks for the key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::effect::{Effect, Notice, PeerId, RequestError, Token};
use super::engine::Engine;
use super::session::Peer;
use super::space::Then;
use super::txn::Write;
use crate::crypto::{EpochKey, verify};
use crate::model::{DeviceId, Hlc, KeyId, Now, RecordHash, ScopeTag, SpaceId};
use crate::roster::{Author as RosterAuthor, Confirmation, Proposal, Role};
use crate::wire::Message;

/// A rotation this device coordinates.
pub(super) struct Rotation {
    proposal: Proposal,
    key: EpochKey,
    /// Who has been handed the key and has not confirmed.
    asked: BTreeSet<DeviceId>,
    confirmations: BTreeMap<DeviceId, [u8; 64]>,
    /// When it is committed with the confirmations there are.
    pub commit_at: Duration,
    /// Who waits for it.
    tokens: Vec<Token>,
}

impl Engine {
    /// Hands a key to a member that may hold it, over this authenticated connection only.
    pub(super) fn key_request(&mut self, peer: PeerId, scope: ScopeTag, key_id: KeyId) {
        let Some(space) = self.shared_space(peer, &scope) else {
            return self.not_shared(peer, &scope);
        };
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let Some(connection) = self.peers.get(&peer) else { return };
        let may_hold = state.roster.role_of(&connection.device).is_some_and(Role::holds_keys);
        let is_known = state.roster.knows_key(&key_id);
        let answer = match state.keys.get(&key_id) {
            // Also one of which the record was lost: whoever has batches under it may read them.
            Some(key) if may_hold => Message::KeyGrant { scope, key: key.clone() },
            _ => {
                if may_hold && is_known {
                    // It is handed on when it arrives.
                    state.wanted.entry(key_id).or_default().insert(peer);
                }
                Message::KeyRefused { scope, key_id }
            }
        };
        self.send(peer, &answer);
    }

    pub(super) fn key_grant(&mut self, peer: PeerId, scope: ScopeTag, key: EpochKey) {
        let Some(space) = self.shared_space(peer, &scope) else {
            return self.not_shared(peer, &scope);
        };
        let own = self.identity.device();
        let Some(state) = self.spaces.get(&space) else { return };
        let may_hold = state.roster.role_of(&own).is_some_and(Role::holds_keys);
        let is_named = state.roster.knows_key(&key.id()) || state.unnamed_keys().contains(&key.id());
        if may_hold && is_named {
            self.take_given_key(space, key);
        }
    }

    /// Takes a key that another reader has handed over: keys can be had from others again.
    fn take_given_key(&mut self, space: SpaceId, key: EpochKey) {
        if let Some(state) = self.spaces.get_mut(&space) {
            state.keyless_count = 0;
        }
        self.take_key(space, key);
    }

    /// Makes a key durable; it counts from then on.
    pub(super) fn take_key(&mut self, space: SpaceId, key: EpochKey) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        if state.keys.contains_key(&key.id()) || !state.keys_arriving.insert(key.id()) {
            return;
        }
        self.write(Write::Key { space, key: key.clone() });
        self.then(Then::Key { space, key });
    }

    /// A key is durable: what it opens is opened, who asked for it gets it, and what waited to be
    /// sealed is sealed.
    pub(super) fn key_stored(&mut self, now: &Now, space: SpaceId, key: EpochKey) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let (id, tag) = (key.id(), state.tag);
        state.keys_arriving.remove(&id);
        state.keys.insert(id, key.clone());
        for log in state.logs.values_mut() {
            log.parked.remove(&id);
        }
        state.recount_parked();
        let wanted = state.wanted.remove(&id).unwrap_or_default();
        self.notice(Notice::Key { space, key });
        self.emit(Effect::CatchUp { space });
        self.search_fallen(space, |_| true);
        self.miss_unread(now, space);
        for peer in wanted {
            self.key_request(peer, tag, id);
        }
        self.confirm_held(space, id);
        self.plan_rotation(now, space);
        if self.is_awaited(space) {
            self.seal_drafts(space);
        }
        self.acknowledge(now, space);
    }

    /// Asks a peer for the keys that the roster names and this device lacks, and for those that are waited for here
    /// all the same: the record that named one may have been lost with a disk.
    pub(super) fn ask_keys(&mut self, peer: PeerId, space: SpaceId) {
        let own = self.identity.device();
        let Some(state) = self.spaces.get(&space) else { return };
        let Some(device) = self.peers.get(&peer).map(|peer| peer.device) else { return };
        let holds_keys = |device: &DeviceId| state.roster.role_of(device).is_some_and(Role::holds_keys);
        if !holds_keys(&own) || !holds_keys(&device) {
            return;
        }
        let scope = state.tag;
        let mut missing: Vec<KeyId> =
            state.roster.key_ids().filter(|id| !state.keys.contains_key(id)).collect();
        missing.extend(state.unnamed_keys());
        for key_id in missing {
            self.send(peer, &Message::KeyRequest { scope, key_id });
        }
    }

    /// A checkpoint is to be read with this key.
    pub(super) fn want_key(&mut self, space: SpaceId, key_id: KeyId) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        if !state.keys.contains_key(&key_id) && state.key_of_base.replace(key_id) != Some(key_id) {
            self.ask_unnamed_key(space, key_id);
        }
    }

    /// Asks everybody for a key that something here waits for, where no record names it.
    pub(super) fn ask_unnamed_key(&mut self, space: SpaceId, key_id: KeyId) {
        let own = self.identity.device();
        let Some(state) = self.spaces.get(&space) else { return };
        if !state.unnamed_keys().contains(&key_id) {
            return;
        }
        let (scope, roster) = (state.tag, &state.roster);
        let holds_keys = |device: &DeviceId| roster.role_of(device).is_some_and(Role::holds_keys);
        let may_ask = |peer: &Peer| peer.spaces.contains_key(&space) && holds_keys(&peer.device);
        let peers = self.peers.iter().filter(|(_, peer)| holds_keys(&own) && may_ask(peer));
        for peer in peers.map(|(peer, _)| *peer).collect::<Vec<_>>() {
            self.send(peer, &Message::KeyRequest { scope, key_id });
        }
    }

    /// Begins a rotation with everybody who is connected.
    pub(super) fn rotate(&mut self, now: &Now, space: SpaceId, mut tokens: Vec<Token>) {
        let own = self.identity.device();
        let key = EpochKey::from_bytes(self.entropy());
        let Some(state) = self.spaces.get_mut(&space).filter(|state| state.is_active) else {
            return self.fail(&tokens, &RequestError::NoSuchSpace);
        };
        state.rotate_at = None;
        // One rotation answers everybody who has asked for one meanwhile.
        tokens.extend(state.rotation.take().into_iter().flat_map(|rotation| rotation.tokens));
        let proposal = match state.roster.propose(&own, key.id()) {
            Ok(proposal) => proposal,
            Err(why) => return self.fail(&tokens, &RequestError::Roster(Arc::new(why))),
        };
        let (scope, n, parents) = (state.tag, proposal.n, proposal.parents.clone());
        let holders: BTreeSet<DeviceId> = state
            .roster
            .members()
            .filter(|member| member.role.holds_keys() && member.device != own)
            .map(|member| member.device)
            .collect();
        let mut asked = BTreeSet::new();
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            let Some(connection) = self.peers.get(&peer) else { continue };
            let device = connection.device;
            if connection.spaces.contains_key(&space) && holders.contains(&device) && asked.insert(device) {
                let (key, parents) = (key.clone(), parents.clone());
                self.send(peer, &Message::RotatePropose { scope, n, key, parents });
            }
        }
        let is_alone = asked.is_empty();
        let commit_at = now.uptime + CONFIRM_WITHIN;
        let confirmations = BTreeMap::new();
        if let Some(state) = self.spaces.get_mut(&space) {
            state.rotation = Some(Rotation { proposal, key, asked, confirmations, commit_at, tokens });
        }
        if is_alone {
            self.commit_rotation(now, space);
        }
    }

    /// An admin hands over a key for the next epoch: it is made durable before it is confirmed.
    pub(super) fn rotation_proposed(
        &mut self,
        peer: PeerId,
        scope: ScopeTag,
        n: u64,
        key: EpochKey,
        parents: Vec<RecordHash>,
    ) {
        let Some(space) = self.shared_space(peer, &scope) else {
            return self.not_shared(peer, &scope);
        };
        let own = self.identity.device();
        let Some(coordinator) = self.peers.get(&peer).map(|peer| peer.device) else { return };
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let proposal = Proposal { n, key_id: key.id(), coordinator, parents };
        let may_hold = state.roster.role_of(&own).is_some_and(Role::holds_keys);
        // Another roster there than here: the coordinator goes on without this confirmation.
        if !may_hold || state.roster.check_proposal(&proposal).is_err() {
            return;
        }
        state.proposed.insert(key.id(), (peer, proposal));
        if state.keys.contains_key(&key.id()) {
            return self.confirm_held(space, key.id());
        }
        self.take_given_key(space, key);
    }

    /// Confirms a proposal whose key is durable here.
    fn confirm_held(&mut self, space: SpaceId, key_id: KeyId) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let Some((peer, proposal)) = state.proposed.remove(&key_id) else { return };
        let scope = state.tag;
        let signature = Box::new(proposal.confirm(space, &self.identity));
        self.send(peer, &Message::RotateConfirm { scope, key_id, signature });
    }

    pub(super) fn rotation_confirmed(
        &mut self,
        now: &Now,
        peer: PeerId,
        scope: ScopeTag,
        key_id: KeyId,
        signature: [u8; 64],
    ) {
        let Some(space) = self.shared_space(peer, &scope) else {
            return self.not_shared(peer, &scope);
        };
        let Some(device) = self.peers.get(&peer).map(|peer| peer.device) else { return };
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let Some(rotation) = state.rotation.as_mut().filter(|rotation| rotation.proposal.key_id == key_id)
        else {
            return;
        };
        // Counted once per device, by its own signature over this very proposal.
        if rotation.asked.remove(&device) {
            rotation.confirmations.insert(device, signature);
        }
        if rotation.asked.is_empty() {
            self.commit_rotation(now, space);
        }
    }

    /// Signs the record with the confirmations there are.
    pub(super) fn commit_rotation(&mut self, now: &Now, space: SpaceId) {
        let entropy = self.entropy();
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let Some(rotation) = state.rotation.take() else { return };
        let Rotation { proposal, key, confirmations, tokens, .. } = rotation;
        if state.roster.check_proposal(&proposal).is_err() {
            // The roster has changed meanwhile, perhaps by a removal: the key must not reach whom
            // it was proposed to before.
            return self.rotate(now, space, tokens);
        }
        let confirmations: Vec<Confirmation> =
            confirmations.into_iter().map(|(device, signature)| Confirmation { device, signature }).collect();
        let author = RosterAuthor { identity: &self.identity, key: &key, hlc: Hlc::at(now.wall), entropy };
        match state.roster.rotate(&author, &proposal, &confirmations) {
            Ok(bytes) => {
                self.take_key(space, key);
                self.admit_own(space, bytes, tokens);
            }
            Err(why) => self.fail(&tokens, &RequestError::Roster(Arc::new(why))),
        }
    }

    /// Sees whether a rotation is due that this device is to coordinate, and when: the admin that
    /// was enrolled first goes first, the others wait for it, each a little longer.
    pub(super) fn plan_rotation(&mut self, now: &Now, space: SpaceId) {
        let own = self.identity.device();
        let after = self.rotates_after(now, space);
        let Some(state) = self.spaces.get_mut(&space).filter(|state| state.is_active) else { return };
        state.rotate_at = match (state.roster.admin_rank(&own), after) {
            (Some(rank), Some(after)) if state.rotation.is_none() => {
                let rank = u32::try_from(rank).unwrap_or(u32::MAX).min(RANK_MAX);
                let latest = now.uptime + after + ROTATE_APART * rank;
                Some(state.rotate_at.map_or(latest, |at| at.min(latest)))
            }
            _ => None,
        };
    }

    /// Rotates where it is due and it is this device's turn.
    pub(super) fn rotate_if_due(&mut self, now: &Now, space: SpaceId) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        if state.rotate_at.take_if(|at| *at <= now.uptime).is_none() {
            return;
        }
        if self.rotates_after(now, space).is_some() {
            if let Some(state) = self.spaces.get_mut(&space).filter(|state| state.is_keyless()) {
                state.keyless_count += 1;
            }
            self.rotate(now, space, Vec::new());
        }
    }

    /// How long the first admin waits before it rotates a key by itself, where that is due.
    fn rotates_after(&self, now: &Now, space: SpaceId) -> Option<Duration> {
        let state = self.spaces.get(&space)?;
        let own = self.identity.device();
        let is_here = |device: &DeviceId| {
            let mut peers = self.peers.values().filter(|peer| peer.device == *device);
            *device == own || peers.any(|peer| peer.is_greeted && peer.spaces.contains_key(&space))
        };
        let readers = || state.roster.members().filter(|member| member.role.holds_keys());
        let age = now.wall.as_millis().saturating_sub(state.roster.rotated_at().millis());
        let is_old = age > EPOCH_AGE_MAX.as_millis() as u64;
        // A key travels over connections only: whoever is met through a drop box alone could read nothing any more.
        let has_all =
            || readers().filter(|member| !member.is_dormant()).all(|member| is_here(&member.device));
        let is_large = state.roster.member_count() > ALL_CONNECTED_MAX;
        if state.roster.is_rotation_due() || is_old && (is_large || has_all()) {
            return Some(ROTATE_AFTER);
        }
        if !state.is_keyless() {
            return None;
        }
        // Whoever had the current key may be gone with it: a disk that was lost, a backup put back. But where no
        // reader is connected, whoever has it may only be met through a drop box or a device that reads nothing:
        // two such devices would renew each other's keys at every round.
        let is_other_here = || readers().any(|member| member.device != own && is_here(&member.device));
        let is_only_reader = || readers().all(|member| member.device == own);
        let first = if is_other_here() || is_only_reader() { KEYLESS_AFTER } else { KEYLESS_AFTER_MAX };
        // A second time means that the one before did not help: the only reader runs twice, for one.
        let longer = 2u32.saturating_pow(state.keyless_count.min(16));
        Some(first.saturating_mul(longer).min(KEYLESS_AFTER_MAX))
    }

    /// Asks an admin to coordinate the rotation that is due because this device leaves.
    pub(super) fn delegate(&mut self, space: SpaceId) {
        let Some(state) = self.spaces.get(&space) else { return };
        let (scope, digest) = (state.tag, state.roster.digest());
        let admins: BTreeSet<DeviceId> = state
            .roster
            .members()
            .filter(|member| member.role == Role::Admin)
            .map(|member| member.device)
            .collect();
        let peer = self.peers.iter().find(|(_, peer)| {
            peer.is_greeted && peer.spaces.contains_key(&space) && admins.contains(&peer.device)
        });
        if let Some(peer) = peer.map(|(id, _)| *id) {
            self.send(peer, &Message::Delegate { scope, digest });
        }
    }

    pub(super) fn delegated(&mut self, now: &Now, peer: PeerId, scope: ScopeTag, digest: [u8; 32]) {
        let Some(asker) = self.peers.get(&peer).map(|peer| peer.device) else { return };
        // Whoever asks has just removed itself: it must not know the key that comes.
        let Some(space) = self.tags.get(&scope).copied() else { return self.not_shared(peer, &scope) };
        let own = self.identity.device();
        let Some(state) = self.spaces.get(&space).filter(|state| state.is_active) else { return };
        if state.roster.removal_of(&asker).is_none_or(|removed| removed.by != asker) {
            return;
        }
        let is_ours = state.roster.digest() == digest && state.roster.admin_rank(&own).is_some();
        if !is_ours || !state.roster.is_rotation_due() {
            return;
        }
        let signature = Box::new(self.identity.sign(&receipt_hash(&space, &digest, &asker)));
        self.send(peer, &Message::Receipt { scope, digest, signature });
        self.rotate(now, space, Vec::new());
    }

    pub(super) fn receipt(&mut self, peer: PeerId, scope: ScopeTag, digest: [u8; 32], signature: &[u8; 64]) {
        // This device may have left the space by now.
        let Some(space) = self.tags.get(&scope).copied() else { return self.not_shared(peer, &scope) };
        let own = self.identity.device();
        let Some(device) = self.peers.get(&peer).map(|peer| peer.device) else { return };
        let has_left = self
            .spaces
            .get(&space)
            .is_some_and(|state| state.roster.removal_of(&own).is_some_and(|removed| removed.by == own));
        if has_left && verify(&device, &receipt_hash(&space, &digest, &own), signature).is_ok() {
            // Should it fail, the next admin's turn comes by itself.
            self.notice(Notice::RotationTaken { space, by: device });
        }
    }

    pub(super) fn fail(&mut self, tokens: &[Token], why: &RequestError) {
        for token in tokens {
            self.emit(Effect::Failed { token: *token, why: why.clone() });
        }
    }
}

fn receipt_hash(space: &SpaceId, digest: &[u8; 32], asker: &DeviceId) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"kinfold rotation receipt v1");
    hasher.update(space.as_bytes()).update(digest).update(asker.as_bytes());
    *hasher.finalize().as_bytes()
}

/// How long members have to make a proposed key durable and say so.
const CONFIRM_WITHIN: Duration = Duration::from_secs(3);

/// How long the first admin waits before it rotates by itself: whoever has just removed a device
/// rotates at once.
const ROTATE_AFTER: Duration = Duration::from_millis(500);

/// How long an admin waits for a current key that nobody hands over, before it makes a new one.
const KEYLESS_AFTER: Duration = Duration::from_secs(20);

/// How long at most, and where no other reader is connected: what it writes meanwhile is durable here, and goes
/// nowhere.
const KEYLESS_AFTER_MAX: Duration = Duration::from_secs(24 * 3_600);

/// How much longer each further admin waits.
const ROTATE_APART: Duration = Duration::from_secs(4);

/// Admins whose turns are told apart.
const RANK_MAX: u32 = 64;

/// Up to this many devices all are connected to each other.
const ALL_CONNECTED_MAX: usize = 8;

/// How long an epoch lasts where nothing else ends it.
const EPOCH_AGE_MAX: Duration = Duration::from_secs(90 * 86_400);
