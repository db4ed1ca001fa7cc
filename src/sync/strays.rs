//! Ops of others that a checkpoint leaves out, and how their author gets them back.
//!
//! A disk came back from a backup and went on in the same log, and nobody who was there remembered what it had
//! written before: so the base holds the second history. A device that was away may hold the first one. Below the
//! base nobody can prove that any more, and only the author may write such ops again. So whoever is about to begin
//! with that base looks for *strays* first, ops of others that the state in it does not know, and keeps its own
//! history until the author has had them. The author, who gets batches of a log of its own from below its floor,
//! writes those again that its state does not know, in a new log: that reaches the other device, which can be
//! given a log from its beginning only.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::effect::{Effect, GivenBack, Notice, PeerId, Stored, Stray};
use super::engine::Engine;
use super::space::Then;
use crate::crypto::SealedBatch;
use crate::fold::State;
use crate::model::{Dot, Hlc, LogId, Now, Seq, SpaceId, Tip, TipHash};
use crate::wire::{BodyReader, FrameView, OpView};

impl Engine {
    /// Knows now what the checkpoint that this device wants to begin with leaves out of what it holds.
    pub(super) fn strays_found(&mut self, space: SpaceId, strays: Vec<Stray>) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        state.strays = strays;
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.give_back(peer, space);
        }
    }

    /// Pushes strays to their author, each run once in a session.
    pub(super) fn give_back(&mut self, peer: PeerId, space: SpaceId) {
        let Some(device) = self.peers.get(&peer).map(|peer| peer.device) else { return };
        let Some(state) = self.spaces.get(&space) else { return };
        let of_peer = state.strays.iter().filter(|stray| stray.log.device == device).copied();
        let of_peer: Vec<Stray> = of_peer.chain(state.fallen_of(device)).collect();
        for Stray { log, after, through } in of_peer {
            let Some(session) = self.session(peer, space).filter(|session| session.known.is_some()) else {
                return;
            };
            if session.given_back.insert((log, after, through)) {
                self.emit(Effect::Push { peer, space, log, after, after_link: TipHash::NONE, through });
            }
        }
    }

    /// Drops a history of a log of another device that is not the one which a checkpoint is of: everything in it is
    /// known there, or held elsewhere.
    pub(super) fn give_way(&mut self, now: &Now, space: SpaceId, log: LogId) {
        if log.device != self.identity.device() {
            self.give_up(now, space, log);
            self.truncate(space, log, Tip::NONE);
        }
    }

    /// Takes nothing of a log for a while: whoever holds the history that is given up would bring it again before
    /// the one of the checkpoint stands here.
    pub(super) fn give_up(&mut self, now: &Now, space: SpaceId, log: LogId) {
        if let Some(state) = self.spaces.get_mut(&space) {
            let until = now.uptime + GIVEN_UP_FOR;
            state.given_up.insert(log, until);
            state.look_again_at(until);
        }
    }

    /// Takes batches of logs again of which nothing was taken, where no checkpoint came in their place.
    pub(super) fn take_up(&mut self, now: &Now, space: SpaceId) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let before = state.given_up.len();
        state.given_up.retain(|_, until| *until > now.uptime);
        if let Some(next) = state.given_up.values().min().copied() {
            state.look_again_at(next);
        }
        if state.given_up.len() < before {
            for peer in self.peers.keys().copied().collect::<Vec<_>>() {
                if let Some(session) = self.session(peer, space) {
                    session.told = None;
                    self.tell_frontier(peer, space);
                }
            }
        }
    }

    /// Looks at batches of an own log from below its floor, where this disk holds nothing to compare them with, and
    /// at those of a history that has fallen.
    pub(super) fn recall(&mut self, space: SpaceId, run: &[SealedBatch], fallen: Option<GivenBack>) {
        let own = self.identity.device();
        let Some(state) = self.spaces.get(&space) else { return };
        let is_below = |batch: &SealedBatch| {
            let header = batch.header();
            header.log.device == own && header.first <= state.floor(&header.log).seq
        };
        if fallen.is_none() && !run.first().is_some_and(is_below) {
            return;
        }
        // What continues it may be of the same history, and lie beyond the floor.
        let (mut ops, mut is_whole) = (Vec::new(), true);
        for batch in run.iter().filter(|batch| batch.verify().is_ok()) {
            let header = batch.header();
            let key = state.keys.get(&header.key_id);
            let Some(Ok(body)) = key.map(|key| self.opener.open(key, batch).map(Bytes::from)) else {
                is_whole = false;
                continue;
            };
            ops.extend(self::ops(&header.log, header.first, header.op_count, &body));
        }
        let Some(mut piece) = fallen else {
            if !ops.is_empty() {
                self.emit(Effect::Recall { space, fallen: None, ops });
            }
            return;
        };
        if let Some(session) = piece.by.and_then(|peer| self.session(peer, space)) {
            // Whoever is faster than the search gives the rest back another time.
            let has_room = session.recall_count < RECALLS_MAX;
            session.recall_count += usize::from(has_room);
            piece.is_whole &= is_whole && has_room;
            session.fallen_from_peer.insert(piece.log, piece);
            if !has_room {
                return;
            }
        }
        self.emit(Effect::Recall { space, fallen: Some(piece), ops });
    }

    /// Writes again what is not known of them.
    pub(super) fn recalled(
        &mut self,
        now: &Now,
        space: SpaceId,
        ops: Option<&[Stored]>,
        fallen: Option<GivenBack>,
    ) {
        let own = self.identity.device();
        if let Some(session) = fallen.and_then(|piece| self.session(piece.by?, space)) {
            session.recall_count = session.recall_count.saturating_sub(1);
        }
        let may_write = |space: &SpaceId| {
            let state = self.spaces.get(space);
            state.is_some_and(|state| state.is_active && state.roster.may_author(&own).is_ok())
        };
        let Some(ops) = ops.filter(|_| may_write(&space)) else {
            return fallen.into_iter().for_each(|piece| self.miss_given_back(now, space, piece));
        };
        if ops.is_empty() {
            // What other pieces are written again with comes first.
            return fallen.into_iter().for_each(|piece| self.then(Then::GivenBack { space, piece }));
        }
        // One log will do, as long as it can be given from its beginning.
        let is_fit = self.spaces.get(&space).is_some_and(|state| {
            let log = state.author.log();
            state.recalled_into == Some(log) && state.floor(&log) == Tip::NONE
        });
        if !is_fit {
            // That this device has forgotten something is no news where its past is in doubt already.
            if self.spaces.get(&space).is_some_and(|state| state.met.is_none()) {
                self.forget_met(space);
            }
            self.go_on_in_new_log(space);
        }
        if let Some(state) = self.spaces.get_mut(&space) {
            state.recalled_into = Some(state.author.log());
        }
        if let Some(mut appended) = self.write_again(space, ops) {
            appended.given_back = fallen;
            self.notice(Notice::Recalled { space, op_count: ops.len() as u64 });
            self.then(Then::Appended(appended));
        }
    }
}

/// How long nothing is taken of a log that is given up for a checkpoint.
const GIVEN_UP_FOR: Duration = Duration::from_secs(60);

/// How many pieces of a history that has fallen are taken from a peer before the first is dealt with.
const RECALLS_MAX: usize = 64;

/// Looks for strays: what is held of others that the state in a checkpoint does not know.
pub struct StraySearch<'a> {
    based: &'a State,
    /// Ops that a log above the cut holds, too: nothing of them is lost.
    above: BTreeSet<(Dot, Hlc)>,
    /// By log, the runs, and how many strays are in each.
    found: BTreeMap<LogId, (Stray, u64)>,
}

impl<'a> StraySearch<'a> {
    /// A search for what a checkpoint with this state in it leaves out.
    pub const fn new(based: &'a State) -> Self {
        Self { based, above: BTreeSet::new(), found: BTreeMap::new() }
    }

    /// Takes note of a batch that lies above the cut: all of these come first.
    pub fn above(&mut self, log: &LogId, first: Seq, op_count: u32, body: &Bytes) {
        let ops = ops(log, first, op_count, body);
        self.above.extend(ops.iter().map(|op| (op.dot, op.hlc)));
    }

    /// Whether an op is in none of what was looked at.
    pub fn is_stray(&self, op: &Stored) -> bool {
        let is_known = self.based.knows(&op.dot, op.hlc, op.kind, op.flags, &op.body);
        !is_known && !self.above.contains(&(op.dot, op.hlc))
    }

    /// Whether an op is in none of what was looked at; from now on it is.
    pub fn take_stray(&mut self, op: &Stored) -> bool {
        let is_stray = self.is_stray(op);
        self.above.insert((op.dot, op.hlc));
        is_stray
    }

    /// Looks at a batch of another device within the cut; those of one log come in order.
    pub fn within(&mut self, log: &LogId, first: Seq, op_count: u32, body: &Bytes) {
        let count = ops(log, first, op_count, body).iter().filter(|op| self.is_stray(op)).count() as u64;
        if count > 0 {
            self.find(log, first, op_count, count);
        }
    }

    /// Takes note of a batch of another device that cannot be read, of a history of which nobody would keep that.
    pub fn unreadable(&mut self, log: &LogId, first: Seq, op_count: u32) {
        self.find(log, first, op_count, u64::from(op_count));
    }

    fn find(&mut self, log: &LogId, first: Seq, op_count: u32, strays: u64) {
        let after = Seq::new(first.get() - 1);
        let through = after.plus(u64::from(op_count));
        let found = self.found.entry(*log).or_insert((Stray { log: *log, after, through }, 0));
        found.0.through = through;
        found.1 += strays;
    }

    /// What was found, each with how many ops of it the checkpoint leaves out.
    pub fn finish(self) -> Vec<(Stray, u64)> {
        self.found.into_values().collect()
    }
}

/// The ops of a body under the identity they were first written with. One that puts words into the mouth of another
/// device means nothing, here as in the fold.
fn ops(log: &LogId, first: Seq, op_count: u32, body: &Bytes) -> Vec<Stored> {
    let Ok(frames) = BodyReader::new(body, first, op_count) else { return Vec::new() };
    frames.map_while(Result::ok).filter_map(|frame| stored(log, &frame, body)).collect()
}

fn stored(log: &LogId, frame: &FrameView<'_>, body: &Bytes) -> Option<Stored> {
    let stored = match OpView::decode(frame.kind, frame.flags, frame.body) {
        Ok(OpView::Reissue(original)) => Stored {
            dot: original.dot(),
            hlc: original.hlc,
            kind: original.kind,
            flags: original.flags,
            body: body.slice_ref(original.body),
        },
        _ => Stored {
            dot: Dot { log: *log, seq: frame.seq },
            hlc: frame.hlc,
            kind: frame.kind,
            flags: frame.flags,
            body: body.slice_ref(frame.body),
        },
    };
    (stored.dot.log.device == log.device).then_some(stored)
}
