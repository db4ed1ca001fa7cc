//! Devices that are silent: on how many days nothing was heard of them, and when nothing waits for them any more.
//!
//! A device in a drawer holds history back for ever, so an admin's device says after some days of silence that
//! nothing waits for it. What counts are *days on which this device could have heard of it*, and not time:
//! clocks jump, and whoever slept for months has heard nothing of anybody. A day is counted once a day by both
//! clocks, by a device that was awake for the hour before. Whoever counts must itself be in touch with most of
//! the devices that are waited for: the others may be together, and this device may be the one that is away.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use super::effect::Notice;
use super::engine::Engine;
use super::space::SpaceState;
use super::txn::Write;
use crate::model::{DeviceId, Now, SpaceId, Wall};
use crate::roster::Change;

/// What this device has counted of the silence of others.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Silence {
    /// When a day was counted last, by the wall clock.
    pub counted: Option<Wall>,
    /// Devices that nothing was heard of on that day.
    pub devices: BTreeMap<DeviceId, SilentDays>,
}

/// Days that have followed each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SilentDays {
    /// On which nothing was heard of the device.
    pub unheard: u16,
    /// And on which it lacked something of what is here, by its last word: whoever lacks nothing may be silent
    /// because there is nothing to be said.
    pub behind: u16,
}

impl Engine {
    /// Has this device, where it is an admin, say by itself that nothing waits for a device any more that was
    /// silent on so many days; `None`: it never does.
    pub const fn call_dormant_after(&mut self, days: Option<NonZeroU16>) {
        self.dormant_after = days;
    }

    /// On how many days in a row a device has been silent and behind, as far as this one has counted.
    pub fn silent_days(&self, space: SpaceId, device: &DeviceId) -> u16 {
        let devices = self.spaces.get(&space).map(|state| &state.silence.devices);
        devices.and_then(|devices| devices.get(device)).map_or(0, |days| days.behind)
    }

    /// Makes it so that a day has passed, at the next tick. For tests of shells, whose clocks are real.
    #[cfg(feature = "sim")]
    #[doc(hidden)]
    pub fn pass_day(&mut self, now: &Now, space: SpaceId) {
        if let Some(state) = self.spaces.get_mut(&space) {
            let before = now.wall.as_millis().saturating_sub(DAY.as_millis() as u64);
            state.silence.counted = Some(Wall::from_millis(before));
            state.look_at = Some(now.uptime);
        }
    }

    /// Something was heard of a device, from itself or through others.
    pub(super) fn heard(&mut self, space: SpaceId, device: DeviceId) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        state.heard.insert(device);
        if state.silence.devices.remove(&device).is_some() {
            let silence = state.silence.clone();
            self.write(Write::Silence { space, silence });
        }
    }

    /// Sees to it that days are counted.
    pub(super) fn plan_looks(&mut self, now: &Now) {
        for state in self.spaces.values_mut() {
            if self.dormant_after.is_none() || !state.is_active {
                state.look_at = None;
            } else if state.look_at.is_none() {
                let rest = state.silence.counted.map(|counted| rest_of_day(counted, now.wall));
                state.look_at = Some(now.uptime + rest.unwrap_or_default().max(LISTENED));
            }
        }
    }

    /// Counts a day if one has passed, and says of whom nothing waits any more.
    pub(super) fn look_for_silence(&mut self, now: &Now, space: SpaceId) {
        let own = self.identity.device();
        let Some(limit) = self.dormant_after else { return };
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let Some(due) = state.look_at.filter(|at| *at <= now.uptime) else { return };
        if now.uptime - due > LATE_MAX {
            // It slept, and has heard nobody since.
            state.look_at = Some(now.uptime + LISTENED);
            return;
        }
        let rest = state.silence.counted.map(|counted| rest_of_day(counted, now.wall));
        if let Some(rest) = rest.filter(|rest| *rest > SHORT_OF_A_DAY) {
            state.look_at = Some(now.uptime + rest);
            return;
        }
        state.look_at = Some(now.uptime + DAY);
        let before = state.silence.counted.replace(now.wall);
        if state.roster.admin_rank(&own).is_none() {
            state.silence.devices.clear();
        } else if before.is_some_and(|before| before <= now.wall) {
            self.count_day(space);
            self.call_silent_dormant(now, space, limit);
        }
        let Some(state) = self.spaces.get(&space) else { return };
        let silence = state.silence.clone();
        self.write(Write::Silence { space, silence });
    }

    fn count_day(&mut self, space: SpaceId) {
        let is_here = |device: &DeviceId| {
            let mut peers = self.peers.values().filter(|peer| peer.device == *device);
            peers.any(|peer| peer.is_greeted && peer.spaces.contains_key(&space))
        };
        let own = self.identity.device();
        let Some(state) = self.spaces.get(&space) else { return };
        let is_silent =
            |device: &DeviceId| *device != own && !state.heard.contains(device) && !is_here(device);
        let count = |device: DeviceId| {
            let days = state.silence.devices.get(&device).copied().unwrap_or_default();
            let behind = if state.is_behind(&device) { days.behind.saturating_add(1) } else { 0 };
            (device, SilentDays { unheard: days.unheard.saturating_add(1), behind })
        };
        let devices = state.active().filter(is_silent).map(count).collect();
        let Some(state) = self.spaces.get_mut(&space) else { return };
        state.silence.devices = devices;
        state.heard.clear();
    }

    fn call_silent_dormant(&mut self, now: &Now, space: SpaceId, limit: NonZeroU16) {
        let own = self.identity.device();
        let Some(state) = self.spaces.get(&space) else { return };
        // Each further admin waits a day longer, so that one says it, and not all at once; if all do, no harm is done.
        let rank =
            state.roster.admin_rank(&own).and_then(|rank| u16::try_from(rank).ok()).unwrap_or(u16::MAX);
        let due = limit.get().saturating_add(rank);
        let silent = state.silence.devices.iter().filter(|(_, days)| days.behind >= due);
        let silent: Vec<(DeviceId, NonZeroU16)> =
            silent.filter_map(|(device, days)| Some((*device, NonZeroU16::new(days.behind)?))).collect();
        // Whom else there is, and who is with them, this device may have forgotten.
        if silent.is_empty() || state.is_in_doubt() || !state.is_in_touch_with_most(&own, limit) {
            return;
        }
        for (device, days) in silent {
            match self.write_record(now, space, &Change::Silent { device, days }) {
                Ok(()) => self.notice(Notice::CalledDormant { space, device, days }),
                Err(why) => self.notice(Notice::RecordRefused { space, why: Arc::new(why) }),
            }
        }
    }
}

impl SpaceState {
    /// Whether a device lacks something of what is here, by its last word.
    fn is_behind(&self, device: &DeviceId) -> bool {
        self.acks.get(device).is_none_or(|held| {
            self.durable.ops_beyond(&held.frontier) > 0
                || held.ack.fields().roster_digest != self.roster.digest()
        })
    }

    /// Whether something was heard lately of more than half of all devices, this one among them; of two halves the
    /// one counts that has the admin who was enrolled first. So of two groups that do not hear of each other, one
    /// at most says that nothing waits for the other, and drops history without it. Dormant devices are among
    /// all: a group could leave out one device after the other, and so could the other group.
    fn is_in_touch_with_most(&self, own: &DeviceId, limit: NonZeroU16) -> bool {
        let lately = limit.get() / LATELY_PART;
        let is_near = |device: &DeviceId| {
            let days = self.silence.devices.get(device).map_or(0, |days| days.unheard);
            device == own || days <= lately
        };
        let (all, near) = (self.roster.member_count(), self.active().filter(is_near).count());
        let has_first =
            || self.active().any(|device| self.roster.admin_rank(&device) == Some(0) && is_near(&device));
        near * 2 > all || near * 2 == all && has_first()
    }
}

/// How much of a day is left that began at `counted`. A clock that was put back begins it anew.
fn rest_of_day(counted: Wall, now: Wall) -> Duration {
    let passed = now.as_millis().checked_sub(counted.as_millis());
    passed.map_or(Duration::ZERO, |passed| DAY.saturating_sub(Duration::from_millis(passed)))
}

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// How long this device must have been awake before a day counts: long enough to find whoever is there.
const LISTENED: Duration = Duration::from_secs(3_600);

/// A look that comes later than this was slept through.
const LATE_MAX: Duration = Duration::from_secs(60);

/// Clocks drift apart within a day; a look that is this much early is on time.
const SHORT_OF_A_DAY: Duration = Duration::from_secs(2 * 3_600);

/// Whoever was heard of within this part of the days that make a device dormant is near.
const LATELY_PART: u16 = 4;
