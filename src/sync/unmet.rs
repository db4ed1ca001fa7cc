//! Devices that were not met since the past of this home was in doubt.
//!
//! A home that is put back from a backup has forgotten what it vouched for, and whom it was together with; on its word
//! the others may have dropped history since. Were it to vouch again before it has seen what they hold, or to
//! say that nothing waits for them, two histories could begin with checkpoints of which neither contains the
//! other, and nobody could put them together any more. So it vouches for none until every other device was
//! met: dormant ones as well, unless a person has said that nothing waits for them.

use std::collections::BTreeSet;

use super::engine::Engine;
use super::session::Session;
use super::space::SpaceState;
use super::txn::Write;
use crate::model::{DeviceId, Frontier, Now, Seq, SpaceId};

impl Engine {
    /// Devices that this one must have met before it vouches for a checkpoint or drops history, because its home
    /// came back from a backup or is a copy; none in a home of which every life is known.
    pub fn unmet(&self, space: SpaceId) -> Vec<DeviceId> {
        self.spaces.get(&space).map(|state| state.unmet().collect()).unwrap_or_default()
    }

    /// Nothing is known any more of what this device has vouched for.
    pub(super) fn forget_met(&mut self, space: SpaceId) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        state.met = Some(BTreeSet::new());
        self.write(Write::Met { space, met: BTreeSet::new() });
    }

    /// Notes whom this device has met. A write that fails is not repeated: after a restart they are to be met again.
    pub(super) fn note_met(&mut self, now: &Now) {
        let in_doubt = self.spaces.values().filter(|state| state.is_active && state.met.is_some());
        let in_doubt: Vec<SpaceId> = in_doubt.map(|state| state.id).collect();
        for space in in_doubt {
            let Some(state) = self.spaces.get(&space) else { continue };
            let sessions = |device: &DeviceId| {
                let peers = self.peers.values().filter(|peer| peer.device == *device && peer.is_greeted);
                peers.filter_map(|peer| peer.spaces.get(&space)).collect::<Vec<_>>()
            };
            // Whom else there is, it says before what it holds.
            let is_told = |session: &Session| {
                let is_settled = !session.is_roster_awaited && session.locating.is_empty();
                is_settled && session.known.as_ref().is_some_and(|known| state.holds(known))
            };
            let before = state.met.clone().unwrap_or_default();
            let is_new = |device: &DeviceId| {
                let is_met = || state.has_acked_new_log(device) || sessions(device).into_iter().any(is_told);
                !before.contains(device) && is_met()
            };
            let new: BTreeSet<DeviceId> = state.others().filter(is_new).collect();
            if new.is_empty() {
                continue;
            }
            let met: BTreeSet<DeviceId> = before.union(&new).copied().collect();
            if let Some(state) = self.spaces.get_mut(&space) {
                state.met = Some(met.clone());
            }
            self.write(Write::Met { space, met });
            if self.is_blind(space) {
                self.acknowledge(now, space);
            }
        }
    }
}

impl SpaceState {
    /// See [`Engine::unmet`].
    pub fn unmet(&self) -> impl Iterator<Item = DeviceId> {
        let is_excused = |device: &DeviceId| {
            self.roster.dormancy_of(device).is_some_and(|dormancy| dormancy.is_of_person())
        };
        let met = self.met.iter();
        met.flat_map(move |met| {
            self.others().filter(move |device| !met.contains(device) && !is_excused(device))
        })
    }

    /// Whether some device is yet to be met.
    pub fn is_in_doubt(&self) -> bool {
        self.unmet().next().is_some()
    }

    fn others(&self) -> impl Iterator<Item = DeviceId> {
        let own = self.author.log().device;
        self.roster.members().map(|member| member.device).filter(move |device| *device != own)
    }

    /// Whether everything in a frontier is here. How far a log goes tells that only where there is one history of
    /// it, which of the logs of a past in doubt nobody knows.
    fn holds(&self, theirs: &Frontier) -> bool {
        let own = self.author.log();
        theirs.iter().all(|(log, tip)| {
            let held = self.durable.tip(log);
            let is_plain = *log == own || log.device != own.device && !self.proofs.contains_key(log);
            held == *tip || is_plain && held.seq > tip.seq
        })
    }

    /// Whether a device has said that it holds something of the log that this one writes since, and nothing that
    /// is not here: it need never have been connected.
    fn has_acked_new_log(&self, device: &DeviceId) -> bool {
        let own = self.author.log();
        self.acks.get(device).is_some_and(|held| {
            held.frontier.tip(&own).seq > Seq::ZERO
                && held.ack.fields().roster_digest == self.roster.digest()
                && self.holds(&held.frontier)
        })
    }
}
