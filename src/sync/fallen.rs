//! Histories that have fallen, of logs of others, and what only this device has of them.
//!
//! Whoever signs which history of its log stands has written the other one again: the one that was on its disk. A
//! home that was put back twice may have written the same places three times, and has at most two of the three when
//! it meets the others. So a device that reads looks first whether another log of that author holds what it is about
//! to drop. If not, it keeps its history, gives it back to the author, and looks again whenever something new of the
//! author arrives. The author, who gets batches of a log of its own that contradict the history that stands, writes
//! those ops again that no other log of its own holds, and says so: who cannot read them there believes that. A blind
//! device cannot look; it drops what has fallen at once. Batches from below the floor of the author are taken alike:
//! there, too, the two must ask the same question, or the one waits for what the other takes for known.

use std::collections::BTreeMap;
use std::time::Duration;

use super::effect::{Effect, FoldRun, GivenBack, PeerId, Stray};
use super::engine::Engine;
use super::heal::end_of;
use super::ingest::on_branches;
use super::space::SpaceState;
use crate::crypto::SealedBatch;
use crate::model::{DeviceId, LogId, Now, Seq, SpaceId, Tip};
use crate::roster::Branch;
use crate::wire::{BodyReader, Message, OpView};

/// A history of a log of another device that has fallen from a place on.
pub(super) struct Fallen {
    /// The last place that stands.
    to: Tip,
    /// What the other logs of its device are searched for, until that ends: from where on, and how far.
    searched: Option<(Seq, Seq)>,
    /// More of its device has arrived since that began, or it failed.
    is_stale: bool,
    /// What has arrived since says that it was written again, or makes more readable.
    is_urgent: bool,
    /// As far as this there are so many ops after the place that are known to be in no other log.
    lost: Option<(Seq, u64)>,
    /// Its author has said that nothing of it is lost, as far as this.
    confirmed: Tip,
}

impl Engine {
    /// Another history of a log of another device stands after `to`: what is held is dropped, once nothing would be
    /// lost with it.
    pub(super) fn fall(&mut self, space: SpaceId, log: LogId, to: Tip) {
        let is_blind = self.is_blind(space);
        let Some(state) = self.spaces.get_mut(&space) else { return };
        if is_blind || !state.may_write_again(&log) {
            return self.truncate(space, log, to);
        }
        let entry = state.log(log);
        if entry.fallen.as_ref().is_none_or(|fallen| to.seq < fallen.to.seq) {
            entry.fallen = Some(Fallen {
                to,
                searched: None,
                is_stale: false,
                is_urgent: false,
                lost: None,
                confirmed: Tip::NONE,
            });
            self.search_elsewhere(space, log);
        }
    }

    /// Has the other logs of its device searched for what is in a history that has fallen.
    fn search_elsewhere(&mut self, space: SpaceId, log: LogId) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let through = state.durable.tip(&log).seq;
        let Some(fallen) = state.logs.get_mut(&log).and_then(|log| log.fallen.as_mut()) else { return };
        if fallen.searched.is_some() {
            fallen.is_urgent = true;
            return;
        }
        (fallen.is_stale, fallen.is_urgent) = (false, false);
        let after = fallen.to.seq;
        fallen.searched = Some((after, through));
        self.emit(Effect::SearchElsewhere { space, log, after, through });
    }

    /// More can be read of some devices: what of them has fallen may be in there.
    pub(super) fn search_fallen(&mut self, space: SpaceId, is_one: impl Fn(&DeviceId) -> bool) {
        let Some(state) = self.spaces.get(&space) else { return };
        let fallen = state.logs.iter().filter(|(log, held)| held.fallen.is_some() && is_one(&log.device));
        for log in fallen.map(|(log, _)| *log).collect::<Vec<_>>() {
            self.search_elsewhere(space, log);
        }
    }

    /// More of a log is here: what of its device has fallen may be in there. Where it says so it is looked for at
    /// once, otherwise after a while, because all its logs are read for that.
    pub(super) fn search_fallen_in(&mut self, now: &Now, space: SpaceId, log: LogId, is_written_again: bool) {
        if is_written_again {
            return self.search_fallen(space, |device| *device == log.device);
        }
        let Some(state) = self.spaces.get_mut(&space) else { return };
        if !state.has_fallen(log.device) {
            return;
        }
        state.look_again_at(now.uptime + SEARCH_AGAIN_AFTER);
        let fallen = state.logs.iter_mut().filter(|(other, _)| other.device == log.device);
        for fallen in fallen.filter_map(|(_, held)| held.fallen.as_mut()) {
            fallen.is_stale = true;
        }
    }

    /// Looks again where more has arrived since, or a search failed.
    pub(super) fn search_again(&mut self, now: &Now, space: SpaceId) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        if state.search_again_at.take_if(|at| *at <= now.uptime).is_none() {
            return;
        }
        self.ask_back(now, space);
        self.take_up(now, space);
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let stale = state.logs.iter().filter(|(_, held)| {
            held.fallen.as_ref().is_some_and(|fallen| fallen.is_stale && fallen.searched.is_none())
        });
        for log in stale.map(|(log, _)| *log).collect::<Vec<_>>() {
            self.search_elsewhere(space, log);
        }
    }

    /// Knows now whether the other logs of its device hold everything in a history that has fallen.
    pub(super) fn searched_elsewhere(
        &mut self,
        now: &Now,
        space: SpaceId,
        log: LogId,
        searched: (Seq, Seq),
        lost_count: Option<u64>,
    ) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let held = state.durable.tip(&log).seq;
        let Some(fallen) = state.logs.get_mut(&log).and_then(|log| log.fallen.as_mut()) else { return };
        // The answer to another search comes by itself.
        if fallen.searched != Some(searched) {
            return;
        }
        fallen.searched = None;
        let (to, through) = (fallen.to, searched.1);
        let Some(lost_count) = lost_count else {
            fallen.is_stale = true;
            state.look_again_at(now.uptime + FAILED_AGAIN_AFTER);
            return;
        };
        fallen.lost = (lost_count > 0).then_some((through, lost_count));
        if held != through {
            return self.search_elsewhere(space, log);
        }
        // More of the other logs could only add to what is known.
        if lost_count == 0 {
            return self.truncate(space, log, to);
        }
        if fallen.is_urgent {
            self.search_elsewhere(space, log);
        } else if fallen.is_stale {
            state.look_again_at(now.uptime + SEARCH_AGAIN_AFTER);
        }
        self.believe_author(space, log);
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.give_back(peer, space);
        }
    }

    /// Histories of logs that have fallen and are kept until their author has had them back, with how many ops of
    /// them are held nowhere else.
    pub fn forgotten(&self, space: SpaceId) -> Vec<(LogId, u64)> {
        let logs = self.spaces.get(&space).into_iter().flat_map(|state| &state.logs);
        logs.filter_map(|(log, held)| Some((*log, held.fallen.as_ref()?.lost?.1))).collect()
    }

    /// Where histories of logs of others have fallen that are still held.
    pub fn fallen(&self, space: SpaceId) -> BTreeMap<LogId, Seq> {
        let logs = self.spaces.get(&space).into_iter().flat_map(|state| &state.logs);
        logs.filter_map(|(log, held)| Some((*log, held.fallen.as_ref()?.to.seq))).collect()
    }

    /// Drops histories that have fallen of devices that cannot write them again any more.
    pub(super) fn drop_fallen(&mut self, space: SpaceId) {
        let Some(state) = self.spaces.get(&space) else { return };
        let held = state.logs.iter().filter_map(|(log, held)| Some((*log, held.fallen.as_ref()?.to)));
        let orphans: Vec<(LogId, Tip)> = held.filter(|(log, _)| !state.may_write_again(log)).collect();
        for (log, to) in orphans {
            self.truncate(space, log, to);
        }
    }

    /// Drops what has fallen of a log where its author has said that nothing of that is lost, and other logs of it
    /// cannot be read here.
    fn believe_author(&mut self, space: SpaceId, log: LogId) {
        let Some(state) = self.spaces.get(&space) else { return };
        let Some(fallen) = state.logs.get(&log).and_then(|log| log.fallen.as_ref()) else { return };
        let mut others = state.logs.iter().filter(|(other, _)| other.device == log.device);
        let is_unreadable = others.any(|(_, held)| !held.parked.is_empty());
        let to = fallen.to;
        if is_unreadable && fallen.confirmed == state.durable.tip(&log) {
            self.truncate(space, log, to);
        }
    }

    /// A device says that nothing is lost of a history of its log that ends here.
    pub(super) fn nothing_is_lost(&mut self, peer: PeerId, space: SpaceId, log: LogId, end: Tip) {
        let is_author = self.peers.get(&peer).is_some_and(|peer| peer.device == log.device);
        let Some(state) = self.spaces.get_mut(&space).filter(|_| is_author) else { return };
        if let Some(fallen) = state.logs.get_mut(&log).and_then(|log| log.fallen.as_mut()) {
            fallen.confirmed = end;
            self.believe_author(space, log);
        }
    }

    /// Whether a run is a piece, given back by a peer, of a history of an own log that has fallen: the first piece of
    /// one, or what continues the last.
    pub(super) fn given_back(
        &mut self,
        space: SpaceId,
        run: &[SealedBatch],
        from: Option<PeerId>,
    ) -> Option<GivenBack> {
        let own = self.identity.device();
        let state = self.spaces.get(&space)?;
        let (head, last) = (run.first()?.header(), run.last()?);
        let (log, before) = (head.log, Tip { seq: Seq::new(head.first.get() - 1), hash: head.prev });
        if log.device != own {
            return None;
        }
        let branches: Vec<Branch> = state.roster.branches_of(&log).collect();
        let floor = state.floor(&log);
        if floor != Tip::NONE && run.iter().any(|batch| end_of(batch) == floor) {
            // The history of the base, by somebody who is behind.
            if let Some(session) = from.and_then(|peer| self.session(peer, space)) {
                session.fallen_from_peer.remove(&log);
            }
            return None;
        }
        let is_over = log != state.author.log();
        let parts = head.first <= floor.seq || is_over && on_branches(run, &branches) == 0;
        let end = Tip { seq: last.header().last(), hash: last.link() };
        let piece = GivenBack { log, end, by: from, is_whole: true };
        let Some(session) = from.and_then(|peer| self.session(peer, space)) else {
            return parts.then_some(piece);
        };
        let continued = session.fallen_from_peer.get(&log).filter(|last| last.end == before);
        match continued {
            Some(last) => Some(GivenBack { is_whole: last.is_whole, ..piece }),
            None => parts.then(|| {
                // Pieces may have been missed before one that begins further on than the first of all.
                let begin = session.fallen_begins.entry(log).or_insert(head.first);
                let is_whole = head.first <= *begin;
                *begin = head.first.min(*begin);
                GivenBack { is_whole, ..piece }
            }),
        }
    }

    /// A piece that was given back is not dealt with: what its giver holds of that history is not known to be safe
    /// before it gives it back anew, which it is asked for after a while.
    pub(super) fn miss_given_back(&mut self, now: &Now, space: SpaceId, piece: GivenBack) {
        let Some(session) = piece.by.and_then(|peer| self.session(peer, space)) else { return };
        session.missed.insert(piece.log);
        if let Some(state) = self.spaces.get_mut(&space) {
            state.look_again_at(now.uptime + FAILED_AGAIN_AFTER);
        }
    }

    /// What of pieces that were given back could not be read may be readable with another key.
    pub(super) fn miss_unread(&mut self, now: &Now, space: SpaceId) {
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            let Some(session) = self.session(peer, space) else { continue };
            let unread = session.fallen_from_peer.values().filter(|piece| !piece.is_whole).copied();
            for piece in unread.collect::<Vec<_>>() {
                self.miss_given_back(now, space, piece);
            }
        }
    }

    /// Asks for what was given back and not dealt with: whoever is told everything that is held gives back anew.
    fn ask_back(&mut self, now: &Now, space: SpaceId) {
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            let Some(session) = self.session(peer, space).filter(|session| !session.missed.is_empty()) else {
                continue;
            };
            if session.recall_count == 0 {
                session.missed.clear();
                session.fallen_from_peer.clear();
                session.told = None;
                self.tell_frontier(peer, space);
            } else if let Some(state) = self.spaces.get_mut(&space) {
                state.look_again_at(now.uptime + SEARCH_AGAIN_AFTER);
            }
        }
    }

    /// Says to whoever has given it back that nothing of a history that has fallen is lost.
    pub(super) fn confirm_given_back(&mut self, space: SpaceId, given_back: GivenBack) {
        let GivenBack { log, end: common, by, is_whole } = given_back;
        let Some(peer) = by.filter(|_| is_whole) else { return };
        if self.session(peer, space).is_none_or(|session| session.missed.contains(&log)) {
            return;
        }
        let Some(scope) = self.spaces.get(&space).map(|state| state.tag) else { return };
        self.send(peer, &Message::Parting { scope, log, common, ends: None });
    }
}

impl SpaceState {
    /// Whether the device of a log may still write what is lost of it again.
    fn may_write_again(&self, log: &LogId) -> bool {
        self.roster.may_author(&log.device).is_ok()
    }

    /// What of logs of a device has fallen and is held nowhere else, as far as is known here.
    pub(super) fn fallen_of(&self, device: DeviceId) -> impl Iterator<Item = Stray> {
        let of_device = self.logs.iter().filter(move |(log, _)| log.device == device);
        of_device.filter_map(|(log, held)| {
            let fallen = held.fallen.as_ref()?;
            // From the place where they part on: the author knows them by that.
            Some(Stray { log: *log, after: fallen.to.seq, through: fallen.lost?.0 })
        })
    }

    /// Has it looked again at a time or before.
    pub(super) fn look_again_at(&mut self, at: Duration) {
        self.search_again_at = Some(self.search_again_at.map_or(at, |before| before.min(at)));
    }

    /// Whether a history of a log of this device has fallen.
    pub(super) fn has_fallen(&self, device: DeviceId) -> bool {
        self.logs.iter().any(|(log, held)| log.device == device && held.fallen.is_some())
    }

    /// Whether a cut reaches into a history of a log that has fallen.
    pub(super) fn is_forgotten(&self, log: &LogId, cut: Tip) -> bool {
        let fallen = self.logs.get(log).and_then(|held| held.fallen.as_ref());
        fallen.is_some_and(|fallen| cut.seq > fallen.to.seq)
    }

    /// What has fallen and is within the base now stands there: nobody can select below it.
    pub(super) fn forgive_below_base(&mut self) {
        let base = self.base.as_ref();
        for (log, held) in &mut self.logs {
            let floor = base.map_or(Tip::NONE, |base| base.floor.tip(log));
            held.fallen.take_if(|fallen| fallen.to.seq < floor.seq);
        }
    }

    /// A selection says that what is held stands after all; whether it had fallen.
    pub(super) fn stands_after(&mut self, log: LogId, to: Tip) -> bool {
        let held = self.log(log);
        let had_fallen = held.fallen.take_if(|fallen| fallen.to == to).is_some();
        if had_fallen {
            // Another one may say that it does not.
            held.branches.clear();
        }
        had_fallen
    }

    /// A base could not be taken up: what was found out meanwhile about what has fallen is found out again.
    pub(super) fn search_anew(&mut self, now: &Now, log: LogId) {
        if let Some(fallen) = self.logs.get_mut(&log).and_then(|log| log.fallen.as_mut()) {
            (fallen.searched, fallen.is_stale) = (None, true);
            self.look_again_at(now.uptime + SEARCH_AGAIN_AFTER);
        }
    }
}

/// Whether a run holds ops that were written before, elsewhere.
pub(super) fn has_reissued(run: &FoldRun) -> bool {
    let Ok(frames) = BodyReader::new(&run.body, run.first, run.op_count) else { return false };
    let is_reissue = |op: OpView<'_>| matches!(op, OpView::Reissue(_));
    frames
        .map_while(Result::ok)
        .any(|frame| OpView::decode(frame.kind, frame.flags, frame.body).is_ok_and(is_reissue))
}

/// How long what failed is left alone: a disk that cannot be read, a write that was refused.
const FAILED_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How long the logs of a device are left alone before they are searched for more of what is kept of it.
pub(super) const SEARCH_AGAIN_AFTER: Duration = Duration::from_secs(10);
