//! A device that has nothing of a space yet, and may begin with a checkpoint.
//!
//! To tell a frontier is to ask for all that lies beyond it, and the whole history is on its way then. So a
//! device that was added by another and holds nothing but its own ops holds its frontier back, for as long as
//! its shell looks for a checkpoint to begin with. It hears what the others hold meanwhile, and sends its own.

use super::effect::PeerId;
use super::engine::Engine;
use super::space::SpaceState;
use crate::model::{DeviceId, SpaceId};

impl Engine {
    /// Has this device hold its frontier back where it has nothing yet, until [`Input::Release`]: for a shell
    /// that looks for checkpoints.
    ///
    /// [`Input::Release`]: super::Input::Release
    pub const fn hold_back(&mut self) {
        self.holds_back = true;
    }

    /// Whether this device has not told yet what it holds of a space, because it may begin with a checkpoint.
    pub fn is_held_back(&self, space: SpaceId) -> bool {
        let own = self.identity.device();
        let is_fresh = |state: &SpaceState| !state.is_released && state.is_fresh(&own);
        self.holds_back && self.spaces.get(&space).is_some_and(is_fresh)
    }

    /// Tells every peer what was held back.
    pub(super) fn release(&mut self, space: SpaceId) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        if !self.holds_back || std::mem::replace(&mut state.is_released, true) {
            return;
        }
        for peer in self.peers.keys().copied().collect::<Vec<PeerId>>() {
            // Whoever waits for a roster tells it after that.
            let is_due = |session: &mut super::session::Session| {
                session.told.is_none() && !session.is_roster_awaited && session.known.is_some()
            };
            if self.session(peer, space).is_some_and(is_due) {
                self.tell_frontier(peer, space);
            }
        }
        self.check_rounds();
    }
}

impl SpaceState {
    /// Whether a device was added to the space by another one and holds nothing of the others.
    fn is_fresh(&self, own: &DeviceId) -> bool {
        let is_added = |member: &crate::roster::Member| member.device == *own && member.added_by != *own;
        self.durable.iter().all(|(log, _)| log.device == *own) && self.roster.members().any(is_added)
    }
}
