//! Acks: what a device holds durably and has folded, signed, passed on and kept.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::effect::{Notice, PeerId};
use super::engine::{ACK_GOSSIP_DELAY, Engine};
use super::space::HeldAck;
use super::txn::Write;
use crate::model::limits::DEVICES_MAX;
use crate::model::{DeviceId, Frontier, LogId, Now, Root, SpaceId, Tip};
use crate::wire::{Ack, AckFields, AckFrame, Message};

impl Engine {
    /// Signs and sends what this device now holds, if that is more than it last said and the fold
    /// shows exactly that.
    pub(super) fn acknowledge(&mut self, now: &Now, space: SpaceId) {
        let own = self.identity.device();
        let Some(state) = self.spaces.get_mut(&space) else { return };
        // A blind device folds nothing: it says what it has stored.
        let is_blind = state.is_blind(&own);
        if !state.is_active || !is_blind && !state.is_folded() {
            return;
        }
        let (root, unknown_count, fold_version) = match &state.folded {
            // It vouches by this ack, so one whose past is in doubt says that it does not.
            _ if is_blind => (Root::from_bytes([0; 32]), u64::from(state.is_in_doubt()), STORED_ONLY),
            // What waits for a key is in no root: a root is compared only where nothing waits.
            Some(folded) => {
                let unknown_count = folded.unknown_count + state.parked_count;
                (folded.root, unknown_count, crate::fold::FOLD_VERSION)
            }
            None => return,
        };
        let frontier_digest = state.durable.digest();
        let roster_digest = state.roster.digest();
        let checkpoint = state.base.as_ref().map(|base| *base.checkpoint.as_bytes());
        let is_said = state.acks.get(&own).is_some_and(|held| {
            let said = held.ack.fields();
            said.frontier_digest == frontier_digest
                && said.roster_digest == roster_digest
                && (said.root, said.unknown_count) == (root, unknown_count)
                && said.checkpoint == checkpoint
        });
        if !is_said {
            state.ack_number = (state.ack_number + 1).max(state.acknowledged_count());
            let ack = Ack::sign(
                &self.identity,
                AckFields {
                    scope: state.tag,
                    device: own,
                    number: state.ack_number,
                    wall: now.wall,
                    frontier_digest,
                    op_count: state.durable.op_count(),
                    roster_digest,
                    root,
                    unknown_count,
                    fold_version,
                    checkpoint,
                },
            );
            state.acks.insert(own, HeldAck { ack, frontier: state.durable.clone(), is_stored: false });
            self.notice(Notice::Ack { space, device: own });
            self.compare_roots(space);
        }
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.send_ack(peer, space, own);
        }
        self.check_rounds();
    }

    /// Whether this device stores a space without reading it.
    pub(super) fn is_blind(&self, space: SpaceId) -> bool {
        let own = self.identity.device();
        self.spaces.get(&space).is_some_and(|state| state.is_blind(&own))
    }

    /// Sends the newest ack of `device` to a peer that has not got it on this connection.
    fn send_ack(&mut self, peer: PeerId, space: SpaceId, device: DeviceId) {
        let Some(state) = self.spaces.get(&space) else { return };
        let Some(held) = state.acks.get(&device) else { return };
        let number = held.ack.fields().number;
        let frontier = held.frontier.clone();
        let ack = held.ack.clone();
        let Some(connection) = self.peers.get_mut(&peer) else { return };
        if connection.device == device {
            return;
        }
        let Some(session) = connection.spaces.get_mut(&space) else { return };
        let is_held = |acks: &BTreeMap<DeviceId, (u64, Frontier)>| {
            acks.get(&device).is_some_and(|(sent, _)| *sent >= number)
        };
        if is_held(&session.acks_sent) || is_held(&session.acks_received) {
            return;
        }
        let base = session.acks_sent.get(&device).map(|(_, frontier)| frontier);
        let (entries, is_full) = match base {
            Some(base) if frontier.covers_all(base) => (frontier.delta(base), false),
            _ => (frontier.delta(&Frontier::new()), true),
        };
        session.acks_sent.insert(device, (number, frontier));
        self.send(peer, &Message::Ack(ack_frame(&ack, entries, is_full)));
    }

    /// Sends every ack the peer has not got on this connection.
    pub(super) fn gossip_acks(&mut self, _now: &Now, peer: PeerId, space: SpaceId) {
        let devices: Vec<DeviceId> =
            self.spaces.get(&space).map(|state| state.acks.keys().copied().collect()).unwrap_or_default();
        for device in devices {
            self.send_ack(peer, space, device);
        }
    }

    /// Shows a peer the newest ack of its own: one that comes back from a backup has forgotten how
    /// far it had counted, and whoever remembers would not believe its next ones.
    pub(super) fn echo_ack(&mut self, peer: PeerId, space: SpaceId) {
        let Some(device) = self.peers.get(&peer).map(|peer| peer.device) else { return };
        let held = self.spaces.get(&space).and_then(|state| state.acks.get(&device));
        if let Some(ack) = held.map(|held| held.ack.clone()) {
            self.send(peer, &Message::Ack(ack_frame(&ack, Vec::new(), false)));
        }
    }

    /// Goes on counting where an earlier life of this device, or a copy of it, has left off.
    pub(super) fn own_ack_received(&mut self, now: &Now, space: SpaceId, ack: &Ack) {
        let own = self.identity.device();
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let number = ack.fields().number;
        // A crash may have taken back the last one alone: then another of its number was signed, and whoever holds
        // the first takes no second.
        let is_other = state.acks.get(&own).is_none_or(|held| held.ack.fields() != ack.fields());
        let is_ahead = number > state.ack_number || number == state.ack_number && is_other;
        if is_ahead && ack.verify().is_ok() {
            let base = state.base.as_ref().map(|base| *base.checkpoint.as_bytes());
            let is_forgotten = ack.fields().checkpoint.is_some_and(|said| Some(said) != base);
            state.ack_number = number;
            state.acks.remove(&own);
            if is_forgotten {
                // It had begun with a checkpoint that it knows nothing of.
                self.forget_met(space);
            }
            self.acknowledge(now, space);
        }
    }

    pub(super) fn ack_received(&mut self, now: &Now, peer: PeerId, frame: AckFrame) {
        // An ack of a later version: its sender is understood in everything else.
        let Ok(ack) = Ack::parse(&frame.bytes) else { return };
        let said = *ack.fields();
        let Some(space) = self.shared_space(peer, &said.scope) else {
            return self.not_shared(peer, &said.scope);
        };
        let own = self.identity.device();
        if said.device == own {
            return self.own_ack_received(now, space, &ack);
        }
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let is_member = state.roster.role_of(&said.device).is_some();
        let Some(connection) = self.peers.get_mut(&peer) else { return };
        let is_sender = connection.device == said.device;
        let Some(session) = connection.spaces.get_mut(&space) else { return };
        let is_counted = is_member || session.acks_received.len() < DEVICES_MAX;
        if !is_counted || ack.verify().is_err() {
            return;
        }
        let base = session.acks_received.get(&said.device).map(|(_, frontier)| frontier);
        let mut frontier = if frame.is_full { Frontier::new() } else { base.cloned().unwrap_or_default() };
        for (log, tip) in &frame.entries {
            frontier.set(*log, *tip);
        }
        // What is signed is the digest: a list that does not add up to it says nothing.
        if frontier.digest() != said.frontier_digest {
            return;
        }
        let before = session.acks_received.insert(said.device, (said.number, frontier.clone()));
        if is_sender && let Some(known) = &mut session.known {
            // What it said before may be from before it dropped the end of a log.
            for (log, tip) in
                before.iter().filter(|(number, _)| *number < said.number).flat_map(|(_, f)| f.iter())
            {
                if frontier.tip(log).seq < tip.seq && known.tip(log) == *tip {
                    known.set(*log, frontier.tip(log));
                }
            }
            // What a device acknowledges it holds, so nothing up to there need be sent.
            for (log, tip) in frontier.delta(known) {
                if tip.seq > known.tip(&log).seq {
                    known.set(log, tip);
                }
            }
        }
        self.ack_count += 1;
        if is_member {
            self.keep_ack(now, Some(peer), space, HeldAck { ack, frontier, is_stored: false });
        } else {
            // The record that makes it a member may be on its way; it will not be said again.
            session.acks_early.insert(said.device, HeldAck { ack, frontier, is_stored: false });
        }
        self.push_all(now, peer, space);
        self.check_rounds();
    }

    /// Keeps an ack if it is newer than the one held, and passes it on after a moment.
    pub(super) fn keep_ack(&mut self, now: &Now, from: Option<PeerId>, space: SpaceId, held: HeldAck) {
        let (device, number) = (held.ack.fields().device, held.ack.fields().number);
        let Some(state) = self.spaces.get_mut(&space) else { return };
        if state.acks.get(&device).is_some_and(|held| held.ack.fields().number >= number) {
            return;
        }
        state.acks.insert(device, held);
        self.heard(space, device);
        self.notice(Notice::Ack { space, device });
        self.compare_roots(space);
        let at = now.uptime + ACK_GOSSIP_DELAY;
        for (other, connection) in &mut self.peers {
            if Some(*other) != from
                && let Some(session) = connection.spaces.get_mut(&space)
            {
                session.ack_gossip_at.get_or_insert(at);
            }
        }
    }

    /// Takes up acks that came before the record that made their signer a member.
    pub(super) fn keep_early_acks(&mut self, now: &Now, space: SpaceId) {
        let Some(state) = self.spaces.get(&space) else { return };
        let mut kept = Vec::new();
        for (peer, connection) in &mut self.peers {
            let Some(session) = connection.spaces.get_mut(&space) else { continue };
            let is_member = |device: &DeviceId| state.roster.role_of(device).is_some();
            let early = std::mem::take(&mut session.acks_early);
            let (now_members, others) = early.into_iter().partition(|(device, _)| is_member(device));
            session.acks_early = others;
            let now_members: BTreeMap<DeviceId, HeldAck> = now_members;
            kept.extend(now_members.into_values().map(|held| (*peer, held)));
        }
        for (peer, held) in kept {
            self.keep_ack(now, Some(peer), space, held);
        }
    }

    /// Acks that are not in the store yet; they ride with the next transaction of the shell's
    /// choice, because losing one only means that it is said again.
    pub fn unstored_acks(&mut self) -> Vec<Write> {
        let mut writes = Vec::new();
        for state in self.spaces.values_mut() {
            for (device, held) in state.acks.iter_mut().filter(|(_, held)| !held.is_stored) {
                held.is_stored = true;
                let entries = held.frontier.delta(&Frontier::new());
                // A frontier of more logs than a frame holds is not remembered over a restart.
                let Ok(bytes) = Message::Ack(ack_frame(&held.ack, entries, true)).encode() else { continue };
                writes.push(Write::Ack { space: state.id, device: *device, bytes });
            }
        }
        writes
    }

    /// The newest ack of every device, as frames with the full frontier; also its device and number.
    ///
    /// A frontier of more logs than a frame holds is left out.
    pub fn ack_frames(&self, space: SpaceId) -> Vec<(DeviceId, u64, Bytes)> {
        let acks = self.spaces.get(&space).into_iter().flat_map(|state| &state.acks);
        acks.filter_map(|(device, held)| {
            let entries = held.frontier.delta(&Frontier::new());
            let frame = Message::Ack(ack_frame(&held.ack, entries, true)).encode().ok()?;
            Some((*device, held.ack.fields().number, frame))
        })
        .collect()
    }
}

/// The fold version of an ack by a device that stores and does not fold.
pub(super) const STORED_ONLY: u32 = 0;

/// The frontier that a full list names.
pub(super) fn entries_of(entries: &[(LogId, Tip)]) -> Frontier {
    entries.iter().copied().collect()
}

fn ack_frame(ack: &Ack, entries: Vec<(LogId, Tip)>, is_full: bool) -> AckFrame {
    AckFrame { scope: ack.fields().scope, bytes: Bytes::copy_from_slice(ack.bytes()), entries, is_full }
}
