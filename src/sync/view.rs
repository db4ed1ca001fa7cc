//! What the engine tells of itself, for status and receipts.

use std::collections::BTreeSet;
use std::time::Duration;

use super::append::fold_runs;
use super::effect::{FoldRun, PeerId};
use super::engine::Engine;
use super::txn::Base;
use crate::crypto::EpochKey;
use crate::model::{DeviceId, Dot, Frontier, KeyId, LogId, Root, Scope, Seq, SpaceId, Wall};
use crate::roster::Roster;

/// One space, as of now.
#[derive(Clone, Copy)]
pub struct SpaceView<'a> {
    /// The space.
    pub space: SpaceId,
    /// Its scope.
    pub scope: &'a Scope,
    /// Whether this device takes part in it.
    pub is_active: bool,
    /// Its devices.
    pub roster: &'a Roster,
    /// What is sealed and durable.
    pub frontier: &'a Frontier,
    /// Where its history begins, if not with the first op of every log.
    pub base: Option<&'a Base>,
    /// The log this device writes.
    pub own_log: LogId,
    /// Own ops that are durable and not sealed.
    pub draft_count: u64,
    /// Ops that arrived with a stamp more than a minute ahead of this clock, counted per batch.
    pub skewed_count: u64,
    /// Batches that wait for a key.
    pub parked_count: u64,
}

/// The newest ack of a device.
#[derive(Clone, Copy)]
pub struct AckView<'a> {
    /// What it holds durably and has folded.
    pub frontier: &'a Frontier,
    /// The hash of its state.
    pub root: Root,
    /// When it said so, by its own clock.
    pub wall: Wall,
}

/// One connection.
#[derive(Clone, Copy, Debug)]
pub struct PeerView {
    /// The connection.
    pub peer: PeerId,
    /// The device at its other end.
    pub device: DeviceId,
    /// Whether its Hello has arrived.
    pub is_greeted: bool,
    /// Whether both hold the same of every space they share, as far as both said.
    pub is_settled: bool,
    /// Uptime when it was last heard of.
    pub last_heard: Duration,
    /// How far this device's wall clock is ahead of the peer's, in milliseconds.
    pub clock_ahead_ms: i64,
}

/// Own ops of a space that was left, to be written into the one that took its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Carry {
    /// The log: this device's own logs come one after the other.
    pub log: LogId,
    /// How many ops the logs before this one have.
    pub before: u64,
    /// The first op that is not carried over.
    pub next: Seq,
    /// The last op of the log.
    pub last: Seq,
}

/// Counters of this run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Ops handed to the network.
    pub pushed_ops: u64,
    /// Ops received and taken.
    pub received_ops: u64,
    /// Ops that arrived again or were not sent because the peer had them by then.
    pub duplicate_ops: u64,
    /// Acks received.
    pub ack_count: u64,
}

impl Engine {
    /// One space.
    pub fn space(&self, space: SpaceId) -> Option<SpaceView<'_>> {
        let state = self.spaces.get(&space)?;
        Some(SpaceView {
            space,
            scope: &state.scope,
            is_active: state.is_active,
            roster: &state.roster,
            frontier: &state.durable,
            base: state.base.as_ref(),
            own_log: state.author.log(),
            draft_count: state.author.drafts().len() as u64,
            skewed_count: state.skewed_count,
            parked_count: state.parked_count,
        })
    }

    /// The spaces this device takes part in.
    pub fn active_spaces(&self) -> Vec<SpaceId> {
        self.spaces.values().filter(|space| space.is_active).map(|space| space.id).collect()
    }

    /// Whether a key is asked for because a checkpoint cannot be read without it.
    pub fn is_key_wanted(&self, space: SpaceId, key_id: &KeyId) -> bool {
        self.spaces.get(&space).is_some_and(|state| state.key_of_base == Some(*key_id))
    }

    /// Every epoch key held, with its space.
    pub fn keys(&self) -> Vec<(SpaceId, EpochKey)> {
        self.spaces
            .values()
            .flat_map(|space| space.keys.values().map(|key| (space.id, key.clone())))
            .collect()
    }

    /// The keys members of a space may recognise each other by: the current one first, or where there
    /// is none the newest that is here, then the earlier ones, newest first.
    pub fn keys_of(&self, space: SpaceId) -> Vec<&EpochKey> {
        let Some(state) = self.spaces.get(&space) else { return Vec::new() };
        let current = state.sealing_key().map(EpochKey::id);
        let mut keys: Vec<&EpochKey> = state.roster.key_ids().filter_map(|id| state.keys.get(&id)).collect();
        keys.reverse();
        keys.sort_by_key(|key| Some(key.id()) != current);
        keys
    }

    /// The key new batches of a space are sealed under.
    pub fn sealing_key(&self, space: SpaceId) -> Option<&EpochKey> {
        self.spaces.get(&space)?.sealing_key()
    }

    /// Own ops that are durable and not sealed, to be folded.
    pub fn draft_runs(&self, space: SpaceId) -> Vec<FoldRun> {
        let author = self.spaces.get(&space).map(|state| &state.author);
        author.map(|author| fold_runs(author.log(), author.drafts())).unwrap_or_default()
    }

    /// What is still to be carried over from a space that was left.
    pub fn carry(&self, from: SpaceId) -> Option<Carry> {
        let state = self.spaces.get(&from).filter(|state| !state.is_active)?;
        let mut before = 0;
        for (log, last) in state.logs_of(&self.identity.device()) {
            let done = state.carried.get().saturating_sub(before);
            if done < last.get() {
                return Some(Carry { log, before, next: Seq::new(done + 1), last });
            }
            before += last.get();
        }
        None
    }

    /// The connections.
    pub fn peers(&self) -> Vec<PeerView> {
        self.peers
            .iter()
            .map(|(id, peer)| PeerView {
                peer: *id,
                device: peer.device,
                is_greeted: peer.is_greeted,
                is_settled: peer.is_greeted && self.is_settled(peer),
                last_heard: peer.last_heard,
                clock_ahead_ms: peer.clock_ahead_ms,
            })
            .collect()
    }

    /// What a connected device has said it holds of a space, by its frontier or its acks.
    pub fn announced(&self, space: SpaceId, device: &DeviceId) -> Option<&Frontier> {
        self.peers
            .values()
            .filter(|peer| peer.device == *device)
            .find_map(|peer| peer.spaces.get(&space)?.known.as_ref())
    }

    /// The newest ack of a device.
    pub fn ack_of(&self, space: SpaceId, device: &DeviceId) -> Option<AckView<'_>> {
        let held = self.spaces.get(&space)?.acks.get(device)?;
        let fields = held.ack.fields();
        Some(AckView { frontier: &held.frontier, root: fields.root, wall: fields.wall })
    }

    /// The other devices that hold an op durably, as they have signed.
    pub fn holders(&self, space: SpaceId, dot: Dot) -> Vec<DeviceId> {
        self.others_whose_ack(space, |frontier| frontier.covers(&dot.log, dot.seq))
    }

    /// The other devices that hold everything this device holds of a space, drafts included.
    pub fn holders_of_all(&self, space: SpaceId) -> Vec<DeviceId> {
        let Some(state) = self.spaces.get(&space) else { return Vec::new() };
        if !state.author.drafts().is_empty() {
            return Vec::new();
        }
        self.others_whose_ack(space, |frontier| frontier.covers_all(&state.durable))
    }

    /// Members that have not said that they know the roster as this device does: what was removed
    /// from it, they may still accept.
    pub fn unaware(&self, space: SpaceId) -> Vec<DeviceId> {
        let own = self.identity.device();
        let Some(state) = self.spaces.get(&space) else { return Vec::new() };
        let digest = state.roster.digest();
        let knows = |device: &DeviceId| {
            state.acks.get(device).is_some_and(|held| held.ack.fields().roster_digest == digest)
        };
        let others = state.roster.members().map(|member| member.device).filter(|device| *device != own);
        others.filter(|device| !knows(device)).collect()
    }

    /// Logs that cannot be continued because their author made a batch wrongly.
    pub fn blocked_logs(&self, space: SpaceId) -> Vec<(LogId, &'static str)> {
        let Some(state) = self.spaces.get(&space) else { return Vec::new() };
        state
            .logs
            .iter()
            .filter_map(|(log, state)| {
                let why = match state.blocked? {
                    super::space::BlockedBy::Sealing => "a batch does not open under the key it names",
                    super::space::BlockedBy::Body => "a batch does not hold readable ops",
                };
                Some((*log, why))
            })
            .collect()
    }

    /// Devices with a log of which two histories are proved.
    pub fn forked_devices(&self, space: SpaceId) -> BTreeSet<DeviceId> {
        let Some(state) = self.spaces.get(&space) else { return BTreeSet::new() };
        state.proofs.keys().map(|log| log.device).collect()
    }

    /// Devices with a log of which two histories are proved, where for each such log the device has
    /// said which one stands, and nothing of the other is still to be written again here.
    pub fn healed_forks(&self, space: SpaceId) -> BTreeSet<DeviceId> {
        let Some(state) = self.spaces.get(&space) else { return BTreeSet::new() };
        let is_open = |log: &&LogId| {
            state.roster.branches_of(log).next().is_none() || state.reissues.contains_key(*log)
        };
        let open: BTreeSet<DeviceId> = state.proofs.keys().filter(is_open).map(|log| log.device).collect();
        state.proofs.keys().map(|log| log.device).filter(|device| !open.contains(device)).collect()
    }

    /// Counters of this run.
    pub const fn counters(&self) -> Counters {
        Counters {
            pushed_ops: self.pushed_ops,
            received_ops: self.received_ops,
            duplicate_ops: self.duplicate_ops,
            ack_count: self.ack_count,
        }
    }

    fn others_whose_ack(&self, space: SpaceId, holds: impl Fn(&Frontier) -> bool) -> Vec<DeviceId> {
        let own = self.identity.device();
        let Some(state) = self.spaces.get(&space) else { return Vec::new() };
        state
            .acks
            .iter()
            .filter(|(device, held)| {
                **device != own && state.roster.role_of(device).is_some() && holds(&held.frontier)
            })
            .map(|(device, _)| *device)
            .collect()
    }
}
