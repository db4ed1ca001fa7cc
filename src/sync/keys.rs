//! Epoch keys: asked for, granted, and rotated.

use super::effect::PeerId;
use super::engine::Engine;
use super::space::Then;
use super::txn::Write;
use crate::crypto::EpochKey;
use crate::model::{KeyId, ScopeTag};
use crate::roster::Role;
use crate::wire::Message;

impl Engine {
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

    pub(super) fn key_grant(&mut self, peer: PeerId, scope: ScopeTag, key: EpochKey) {
        let Some(space) = self.shared_space(peer, &scope) else {
            return self.not_shared(peer, &scope);
        };
        let Some(state) = self.spaces.get_mut(&space) else { return };
        if state.roster.knows_key(&key.id()) && !state.keys.contains_key(&key.id()) {
            state.keys.insert(key.id(), key.clone());
            state.parked_count = 0;
            state.logs.values_mut().for_each(|log| log.is_parked = false);
            self.write(Write::Key { space, key: key.clone() });
            self.then(Then::Key { space, key });
        }
    }
}
