//! Status, as the loop sees it.

use std::sync::PoisonError;

use super::core::Core;
use super::types::{ConnectionRefusal, DeviceStatus, HealthReason, LeaseHostStatus, SafeToSleep, Status};
use crate::clock;
use crate::lease::Phase;
use crate::model::{DeviceId, SpaceId};
use crate::roster::{Epoch, Member, Role};
use crate::sync::{Divergence, PeerView, SpaceView};

impl Core {
    /// What the node is and has.
    pub(super) fn status(&self, space: SpaceId) -> Option<Status> {
        let view = self.engine.space(space)?;
        let own = self.engine.device();
        let index = self.index(&space)?;
        let is_loading = !index.is_ready();
        let (state_hash, positions, counts, open_conflict_count) = if is_loading {
            (crate::model::Root::from_bytes([0; 32]), None, crate::fold::Counts::default(), 0)
        } else {
            let (applied, root, _) = index.report();
            let state = index.peek();
            let positions = applied.into_iter().collect();
            (root, Some(positions), state.counts(), state.open_conflict_count(&self.chain(space)))
        };
        let peers = self.engine.peers();
        let mut devices: Vec<DeviceStatus> =
            view.roster.members().map(|member| self.device_status(&view, &peers, member)).collect();
        devices.sort_by_key(|device| (!device.is_self, device.name.clone(), device.device));
        let lease_host = self.lease_host_status(&view);
        let stats: Vec<_> = self.links.values().map(crate::net::Link::stats).collect();
        Some(Status {
            device: own,
            name: self.name_of(&view, &own).unwrap_or_default(),
            space,
            scope: view.scope.clone(),
            lifecycle: super::lifecycle::Lifecycle::default(),
            listening: self
                .net
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .as_ref()
                .map(|net| net.local_addr()),
            state_hash,
            frontier: view.frontier.iter().map(|(log, tip)| (*log, tip.seq.get())).collect(),
            positions,
            stable: self
                .engine
                .stable_frontier(space)
                .map(|stable| stable.iter().map(|(log, tip)| (*log, tip.seq.get())).collect()),
            logged_count: view
                .frontier
                .ops_beyond(&view.base.map(|base| base.floor.clone()).unwrap_or_default()),
            store_bytes: self.store.file_bytes(),
            op_count: view.frontier.op_count() + view.draft_count,
            row_count: counts.live_rows,
            event_count: counts.events,
            conflict_count: open_conflict_count,
            skewed_count: view.skewed_count,
            malformed_count: counts.malformed,
            sent_bytes: stats.iter().map(|stats| stats.sent_bytes).sum(),
            received_bytes: stats.iter().map(|stats| stats.received_bytes).sum(),
            devices,
            forks_healed: self.engine.healed_forks(space).into_iter().collect(),
            health: self.health(&view, &peers, lease_host.as_ref(), counts.unknown),
            lease_host,
            dropboxes: Vec::new(),
            base: view.base.map(|base| base.checkpoint),
            adopted: None,
            waiting: None,
            is_loading,
        })
    }

    /// Who holds everything this device has.
    pub(super) fn safe_to_sleep(&self, space: SpaceId) -> SafeToSleep {
        let holders = self.engine.holders_of_all(space);
        let Some(view) = self.engine.space(space) else { return SafeToSleep { holders, unheld_ops: 0 } };
        let own = self.engine.device();
        // Held by nobody else: beyond every other device's ack of that log.
        let unheld_sealed: u64 = view
            .frontier
            .iter()
            .map(|(log, tip)| {
                let held = view
                    .roster
                    .members()
                    .filter(|member| member.device != own)
                    .filter_map(|member| self.engine.ack_of(space, &member.device))
                    .map(|ack| ack.frontier.tip(log).seq.get())
                    .max()
                    .unwrap_or(0);
                tip.seq.get().saturating_sub(held)
            })
            .sum();
        SafeToSleep { holders, unheld_ops: unheld_sealed + view.draft_count }
    }

    fn device_status(&self, view: &SpaceView<'_>, peers: &[PeerView], member: &Member) -> DeviceStatus {
        let device = member.device;
        let is_self = device == self.engine.device();
        let peer = peers.iter().find(|peer| peer.device == device && peer.is_greeted);
        let connected = peer.and_then(|peer| self.links.get(&peer.peer)).map(crate::net::Link::remote);
        let heard = peer.map(|peer| peer.last_heard).max(self.memory.heard.get(&device).copied());
        let ack = self.engine.ack_of(view.space, &device);
        let announced = self.engine.announced(view.space, &device);
        let ahead = |frontier: &crate::model::Frontier| frontier.ops_beyond(view.frontier);
        let ahead_by = ack.map_or(0, |ack| ahead(ack.frontier)).max(announced.map_or(0, ahead));
        DeviceStatus {
            device,
            name: self.name_of(view, &device),
            role: member.role,
            is_self,
            is_dormant: member.is_dormant(),
            dormancy: member.dormancy,
            connected,
            last_contact: heard.map(|at| clock::uptime().saturating_sub(at)),
            behind_by: ack.map(|ack| view.frontier.ops_beyond(ack.frontier) + view.draft_count),
            ahead_by: if is_self { 0 } else { ahead_by },
            root: ack.map(|ack| ack.root),
            last_refusal: self.memory.refusals.get(&device).map(|refused| ConnectionRefusal {
                why: refused.why.clone(),
                blame: refused.blame,
                since: clock::uptime().saturating_sub(refused.at),
            }),
        }
    }

    /// Who hosts the leases, and whether this device can ask it.
    fn lease_host_status(&self, view: &SpaceView<'_>) -> Option<LeaseHostStatus> {
        let leases = self.engine.lease_view(view.space)?;
        let host = leases.head.host;
        Some(LeaseHostStatus {
            host,
            name: self.name_of(view, &host),
            is_member: leases.has_host,
            is_reachable: host == self.engine.device() || self.route_to(&host).is_some(),
            phase: leases.phase,
            is_in_doubt: leases.is_in_doubt,
            is_used: leases.is_used,
        })
    }

    fn name_of(&self, view: &SpaceView<'_>, device: &DeviceId) -> Option<String> {
        view.roster.name_of(device, |key_id| self.keys.key(key_id))
    }

    fn health(
        &self,
        view: &SpaceView<'_>,
        peers: &[PeerView],
        lease_host: Option<&LeaseHostStatus>,
        unknown: u64,
    ) -> Vec<HealthReason> {
        let mut health = Vec::new();
        let own = self.engine.device();
        if let Some(removed) = view.roster.removal_of(&own).filter(|removed| removed.by != own) {
            health.push(HealthReason::RemovedHere {
                scope: view.scope.clone(),
                by: removed.by,
                by_name: self.name_of(view, &removed.by),
                at_millis: removed.hlc.millis(),
            });
        }
        let index_failure = self.index(&view.space).and_then(|index| index.failure());
        if let Some(why) = &index_failure {
            health.push(HealthReason::StorageFailed { why: super::core::chain_of(&**why) });
        }
        if let Some(why) = &self.storage_failed {
            health.push(HealthReason::StorageFailed { why: why.clone() });
        }
        for Divergence { device, ours, theirs } in self.engine.diverged(view.space) {
            health.push(HealthReason::Diverged { device, ours, theirs });
        }
        let healed = self.engine.healed_forks(view.space);
        for device in self.engine.forked_devices(view.space).difference(&healed) {
            health.push(HealthReason::Fork { device: *device });
        }
        health.extend(self.memory.twins.keys().map(|device| HealthReason::RunsTwice { device: *device }));
        for (log, why) in self.engine.blocked_logs(view.space) {
            health.push(HealthReason::LogBlocked { device: log.device, why: why.to_owned() });
        }
        for (log, ops) in self.engine.forgotten(view.space) {
            health.push(HealthReason::Forgotten { device: log.device, ops });
        }
        // A blind device has no use for keys, and nothing is amiss for lack of them.
        let may_hold_keys = view.roster.role_of(&own).is_some_and(Role::holds_keys);
        if may_hold_keys && view.parked_count > 0 {
            health.push(HealthReason::KeyMissing { batches: view.parked_count });
        }
        if matches!(view.roster.epoch(), Epoch::Contested { .. }) {
            health.push(HealthReason::EpochContested);
        }
        if unknown > 0 {
            health.push(HealthReason::UnknownOps { count: unknown });
        }
        // A clock far from one peer's may be the peer's fault; far from everyone's, it is this one.
        let greeted: Vec<&PeerView> = peers.iter().filter(|peer| peer.is_greeted).collect();
        if !greeted.is_empty() && greeted.iter().all(|peer| peer.clock_ahead_ms.abs() > CLOCK_SKEW_MS) {
            let peer = greeted[0];
            let ahead_seconds = peer.clock_ahead_ms / 1_000;
            health.push(HealthReason::ClockSkew { device: peer.device, ahead_seconds });
        }
        if let Some(why) = &self.discovery_down {
            health.push(HealthReason::DiscoveryDown { why: why.clone() });
        }
        health.extend(lease_host.and_then(lease_reason));
        health
    }
}

/// What keeps everybody from a lease. That the host sleeps is no such thing: it comes back by itself.
fn lease_reason(host: &LeaseHostStatus) -> Option<HealthReason> {
    if !host.is_member {
        return Some(HealthReason::LeaseHostRemoved { host: host.host });
    }
    match host.phase {
        Phase::Quarantined if host.is_used => Some(HealthReason::LeasesQuarantined),
        Phase::StorageFailed => Some(HealthReason::LeaseStorageFailed),
        Phase::Quarantined
        | Phase::Absent
        | Phase::Installing
        | Phase::Recovering
        | Phase::Serving
        | Phase::Settling
        | Phase::Sealing
        | Phase::Sealed
        | Phase::Deposed => None,
    }
}

/// How far apart two wall clocks may be before it is worth a word.
const CLOCK_SKEW_MS: i64 = 5 * 60 * 1_000;
