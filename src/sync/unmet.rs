//! Devices that were not met since the past of this home was in doubt.
//!
//! A home that is put back from a backup has forgotten what it vouched for, and whom it was together with; on its word
//! the others may have dropped history since. Were it to vouch again before it has seen what they hold, or to
//! say that nothing waits for them, two histories could begin with checkpoints of which neither contains the
//! other, and nobody could put them together any more. So it vouches for none until every other device was
//! met: dormant ones as well, unless a person has said that nothing waits for them.

use std::collections::BTreeSet;

use super::engine::Engine;
use super::space::SpaceState;
use super::txn::Write;
use crate::model::{DeviceId, Seq, SpaceId};

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
        let met = state.met.clone();
        self.write(Write::Met { space, met });
    }

    /// Notes whom this device has met.
    pub(super) fn note_met(&mut self) {
        let in_doubt = self.spaces.values().filter(|state| state.met.is_some());
        let in_doubt: Vec<SpaceId> = in_doubt.map(|state| state.id).collect();
        for space in in_doubt {
            let Some(state) = self.spaces.get(&space) else { continue };
            let known = |device: &DeviceId| {
                let peers = self.peers.values().filter(|peer| peer.device == *device && peer.is_greeted);
                peers.filter_map(|peer| peer.spaces.get(&space)?.known.as_ref()).collect::<Vec<_>>()
            };
            let is_met = |device: &DeviceId| {
                state.has_acked_new_log(device)
                    || known(device).iter().any(|known| state.durable.covers_all(known))
            };
            let before = state.met.clone().unwrap_or_default();
            let new = state.others().filter(|device| !before.contains(device) && is_met(device));
            let met: BTreeSet<DeviceId> = before.iter().copied().chain(new).collect();
            if met == before {
                continue;
            }
            let are_all = state.others().all(|device| met.contains(&device));
            let met = (!are_all).then_some(met);
            if let Some(state) = self.spaces.get_mut(&space) {
                state.met.clone_from(&met);
            }
            self.write(Write::Met { space, met });
        }
    }
}

impl SpaceState {
    /// See [`Engine::unmet`].
    pub fn unmet(&self) -> impl Iterator<Item = DeviceId> {
        let own = self.author.log().device;
        let is_said = |device: &DeviceId| {
            let member = self.roster.members().find(|member| member.device == *device);
            let dormancy = member.and_then(|member| member.dormancy);
            dormancy.is_some_and(|dormancy| dormancy.after_days.is_none())
        };
        let met = self.met.iter();
        met.flat_map(move |met| {
            let others = self.roster.members().map(|member| member.device);
            others.filter(move |device| *device != own && !met.contains(device) && !is_said(device))
        })
    }

    fn others(&self) -> impl Iterator<Item = DeviceId> {
        let own = self.author.log().device;
        self.roster.members().map(|member| member.device).filter(move |device| *device != own)
    }

    /// Whether a device has said that it holds something of the log that this one writes since, and nothing that
    /// is not here: it need never have been connected.
    fn has_acked_new_log(&self, device: &DeviceId) -> bool {
        let own = self.author.log();
        self.acks.get(device).is_some_and(|held| {
            held.frontier.tip(&own).seq > Seq::ZERO && self.durable.covers_all(&held.frontier)
        })
    }
}
