//! Histories of one log that part: where they do, which one stands, what becomes of the other.
//!
//! A device whose disk came back from a backup, or of which two copies run, writes places of its log
//! a second time. When it meets a peer that holds the other history, it asks where the two part
//! ([`Message::Locate`]), and what it gets is signed by itself, so a peer cannot make it up. It
//! writes in a new log from then on, signs which history stands (the one it cannot write again,
//! [`Branch`]), writes its own one again as reissued ops, and drops it. Whoever else holds another
//! history cuts it off when the record arrives, once nothing is lost with it (see [`super::fallen`]).
//! A removed device's logs are cut the same way.

use super::effect::{Effect, Notice, PeerId, Placed, RequestError, Stored, Token};
use super::engine::{Engine, STORE_AGAIN_AFTER};
use super::fork::LookUpReason;
use super::join::space_write;
use super::space::{Appended, LogState, SpaceState, Then};
use super::txn::Write;
use crate::crypto::{BatchHeader, ForkWitness, SealedBatch};
use crate::model::{Dot, LogId, Now, OpId, ScopeTag, Seq, SpaceId, Tip, TipHash};
use crate::oplog::LogChain;
use crate::roster::{Allowance, Branch, Change};
use crate::wire::message::POINTS_MAX;
use crate::wire::op::Original;
use crate::wire::{Message, SpaceHello};

/// A search for the place where two histories of an own log part.
pub(super) struct Locating {
    /// The greatest place known to be on both.
    low: Tip,
    /// What was asked last.
    points: Vec<Tip>,
    /// Questions left: a peer that answers in circles is not asked for ever.
    rounds_left: u32,
    /// An answer is under way that is to a search given up for this one.
    is_answer_stale: bool,
}

impl Engine {
    /// Compares what a peer says it holds of this device's logs with what is here.
    pub(super) fn doubt_own_logs(&mut self, peer: PeerId, hello: &SpaceHello) {
        let own = self.identity.device();
        let Some(state) = self.spaces.get(&hello.space) else { return };
        let current = state.author.log();
        let echo: Vec<(LogId, Tip, Tip, Tip)> = hello
            .echo
            .iter()
            .filter(|(log, _)| log.device == own)
            .map(|(log, theirs)| {
                let ours = if *log == current { state.author.tip() } else { state.durable.tip(log) };
                (*log, *theirs, ours, state.floor(log))
            })
            .collect();
        for (log, theirs, ours, floor) in echo {
            if theirs.seq < floor.seq || (theirs == floor && theirs.seq < ours.seq) {
                // Within what every device that is waited for has had.
            } else if theirs.seq > ours.seq {
                // An old log of this device is fetched like any other.
                if log == current {
                    self.locate(peer, hello.space, log);
                } else if ours == Tip::NONE {
                    // A life that is forgotten altogether: this home joined anew, or is from before it.
                    self.forget_met(hello.space);
                }
            } else if theirs.seq == ours.seq {
                if theirs.hash != ours.hash {
                    self.locate(peer, hello.space, log);
                }
            } else if theirs.seq > Seq::ZERO {
                let why = LookUpReason::Echo { peer, theirs };
                self.look_up(hello.space, log, vec![theirs.seq], why);
            }
        }
    }

    /// Asks a peer where its history of an own log parts from the one here.
    pub(super) fn locate(&mut self, peer: PeerId, space: SpaceId, log: LogId) {
        if log.device != self.identity.device() {
            return;
        }
        // Histories do not part below the base: what is there every device that is waited for has had.
        let Some(low) = self.spaces.get(&space).map(|state| state.floor(&log)) else { return };
        let Some(session) = self.session(peer, space) else { return };
        if session.locating.contains_key(&log) {
            return;
        }
        let (points, rounds_left) = (Vec::new(), ROUNDS_MAX);
        session.locating.insert(log, Locating { low, points, rounds_left, is_answer_stale: false });
        self.look_for_points(peer, space, log, low.seq, None);
    }

    /// Asks everybody anew where histories of own logs part, from the base on: whoever had begun with it before
    /// could say of a place below it only that it is below.
    pub(super) fn locate_anew(&mut self, space: SpaceId) {
        let own = self.identity.device();
        let Some(state) = self.spaces.get(&space) else { return };
        let is_beyond = |(log, tip): &(&LogId, &Tip)| log.device == own && tip.seq > state.floor(log).seq;
        let logs: Vec<LogId> = state.durable.iter().filter(is_beyond).map(|(log, _)| *log).collect();
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            let Some(session) = self.session(peer, space) else { continue };
            let given_up = std::mem::take(&mut session.locating);
            for log in &logs {
                self.locate(peer, space, *log);
                let search = self.session(peer, space).and_then(|session| session.locating.get_mut(log));
                if let Some(search) = search {
                    search.is_answer_stale = given_up.get(log).is_some_and(|old| !old.points.is_empty());
                }
            }
        }
    }

    /// Gathers the next points to ask about: spread evenly over what is after `low` and before `high`.
    fn look_for_points(&mut self, peer: PeerId, space: SpaceId, log: LogId, low: Seq, high: Option<Seq>) {
        let Some(state) = self.spaces.get(&space) else { return };
        let end = high.map_or(state.durable.tip(&log).seq, |high| Seq::new(high.get().saturating_sub(1)));
        let span = end.get().saturating_sub(low.get());
        let count = span.min(POINTS_MAX as u64 - 1);
        let seqs = (1..=count).map(|index| Seq::new(low.get() + span * index / count)).collect();
        self.look_up(space, log, seqs, LookUpReason::Points { peer, low });
    }

    pub(super) fn points_found(
        &mut self,
        peer: PeerId,
        space: SpaceId,
        log: LogId,
        low: Seq,
        batches: &[Option<SealedBatch>],
    ) {
        let Some(scope) = self.spaces.get(&space).map(|state| state.tag) else { return };
        let Some(locating) = self.session(peer, space).and_then(|session| session.locating.get_mut(&log))
        else {
            return;
        };
        // What is known to be shared is asked about too, so that the answer goes on from there.
        let shared = (locating.low != Tip::NONE).then_some(locating.low);
        let ends = batches.iter().flatten().map(end_of).filter(|tip| tip.seq > low);
        let mut points: Vec<Tip> = shared.into_iter().chain(ends).collect();
        points.dedup();
        points.truncate(POINTS_MAX);
        locating.points.clone_from(&points);
        self.send(peer, &Message::Locate { scope, log, points });
    }

    /// A peer asks which of these ends of its own log are on the history here.
    pub(super) fn located(&mut self, peer: PeerId, scope: ScopeTag, log: LogId, points: Vec<Tip>) {
        let Some(space) = self.shared_space(peer, &scope) else {
            return self.not_shared(peer, &scope);
        };
        let seqs = points.iter().map(|tip| tip.seq).collect();
        self.look_up(space, log, seqs, LookUpReason::Common { peer, points });
    }

    pub(super) fn common_found(
        &mut self,
        peer: PeerId,
        space: SpaceId,
        log: LogId,
        points: &[Tip],
        batches: &[Option<SealedBatch>],
    ) {
        let Some(state) = self.spaces.get(&space) else { return };
        let floor = state.floor(&log);
        let is_shared = |(point, batch): &(&Tip, &Option<SealedBatch>)| {
            **point == floor || batch.as_ref().is_some_and(|batch| end_of(batch) == **point)
        };
        let shared = points.iter().zip(batches).filter(is_shared);
        let common = shared.map(|(point, _)| *point).last().unwrap_or(Tip::NONE);
        let end = state.durable.tip(&log).seq;
        // Where the histories go on after a place below the base is not known here any more.
        if end > common.seq && common.seq >= floor.seq {
            let seqs = vec![common.seq.next(), end];
            self.look_up(space, log, seqs, LookUpReason::Ends { peer, common });
        } else {
            let (scope, is_below) = (state.tag, common.seq < floor.seq);
            self.send(peer, &Message::Parting { scope, log, common, ends: None });
            if is_below {
                // What stands is in the checkpoint: whoever holds another history begins with that.
                self.tell_floor(peer, space);
            }
        }
    }

    pub(super) fn ends_found(
        &mut self,
        peer: PeerId,
        space: SpaceId,
        log: LogId,
        common: Tip,
        batches: &[Option<SealedBatch>],
    ) {
        let Some(scope) = self.spaces.get(&space).map(|state| state.tag) else { return };
        let [Some(first), Some(last)] = batches else { return };
        let ends = Some(Box::new([first.witness().to_bytes(), last.witness().to_bytes()]));
        self.send(peer, &Message::Parting { scope, log, common, ends });
    }

    /// A peer says where its history of an own log goes on.
    pub(super) fn parting(
        &mut self,
        peer: PeerId,
        scope: ScopeTag,
        log: LogId,
        common: Tip,
        ends: Option<&[[u8; ForkWitness::BYTES]; 2]>,
    ) {
        let Some(space) = self.shared_space(peer, &scope) else {
            return self.not_shared(peer, &scope);
        };
        if ends.is_none() {
            self.nothing_is_lost(peer, space, log, common);
        }
        let Some(session) = self.session(peer, space) else { return };
        let Some(locating) = session.locating.get_mut(&log) else { return };
        if std::mem::take(&mut locating.is_answer_stale) {
            return;
        }
        let is_asked = common == Tip::NONE || locating.points.contains(&common);
        let common = if common == Tip::NONE { locating.low } else { common };
        let (true, Some(ends)) = (is_asked, ends) else {
            // Nothing beyond what is shared: the peer is behind, and that is all.
            session.locating.remove(&log);
            return;
        };
        let low = std::mem::replace(&mut locating.low, common);
        let high = locating.points.iter().map(|tip| tip.seq).find(|seq| *seq > common.seq);
        let Some([first, last]) = own_witnesses(ends, log, scope) else {
            session.locating.remove(&log);
            return;
        };
        if first.0.first != common.seq.next() || first.0.prev != common.hash {
            session.locating.remove(&log);
            return self.parted_below(peer, space, log, low, Tip { seq: last.0.last(), hash: last.1 });
        }
        let their_end = Tip { seq: last.0.last(), hash: last.1 };
        let why = LookUpReason::Judge { peer, common, first: first.1, their_end, high };
        self.look_up(space, log, vec![common.seq.next()], why);
    }

    /// A peer has a history of an own log that parts from this one below the floor. Nobody can select there any
    /// more; so the one of the base stands, and the peer is to begin with the base, once it has given back what
    /// that leaves out (see [`super::strays`]).
    fn parted_below(&mut self, peer: PeerId, space: SpaceId, log: LogId, low: Tip, their_end: Tip) {
        let Some(state) = self.spaces.get(&space) else { return };
        let floor = state.floor(&log);
        // One that ends before the floor may just be behind, and another one was asked before this device began
        // with its base.
        if floor == Tip::NONE || low != floor || their_end.seq < floor.seq || their_end == floor {
            return;
        }
        if state.author.log() == log {
            // Signed by this device, and not in its memory.
            self.begin_new_log(space);
        }
        self.look_up(space, log, vec![floor.seq.next()], LookUpReason::Keep { floor });
        self.tell_floor(peer, space);
    }

    /// Selects the history here against one that parts from it below the floor, where it goes on beyond.
    pub(super) fn keep_found(
        &mut self,
        now: &Now,
        space: SpaceId,
        log: LogId,
        floor: Tip,
        held: &SealedBatch,
    ) {
        let Some(state) = self.spaces.get(&space) else { return };
        let tip = state.durable.tip(&log);
        if held.header().prev == floor.hash && tip.seq >= held.header().last() {
            self.select(now, space, Branch { log, base: floor, first: held.link(), tip });
        }
    }

    /// Knows now what is here at the place where the peer's history goes on.
    #[expect(clippy::too_many_arguments, reason = "one answer with everything it was asked for")]
    pub(super) fn judge(
        &mut self,
        now: &Now,
        peer: PeerId,
        space: SpaceId,
        log: LogId,
        common: Tip,
        first: TipHash,
        their_end: Tip,
        high: Option<Seq>,
        held: Option<&SealedBatch>,
    ) {
        let held = held.filter(|batch| batch.header().first == common.seq.next());
        if let Some(held) = held.filter(|batch| batch.link() == first) {
            // The same here: they part further on.
            let low = end_of(held);
            let Some(locating) = self.session(peer, space).and_then(|session| session.locating.get_mut(&log))
            else {
                return;
            };
            locating.low = low;
            locating.rounds_left = locating.rounds_left.saturating_sub(1);
            if locating.rounds_left > 0 {
                return self.look_for_points(peer, space, log, low.seq, high);
            }
            // It grows as fast as it is asked about, and nothing of it is another so far.
            if let Some(session) = self.session(peer, space) {
                session.locating.remove(&log);
            }
            return;
        }
        if let Some(session) = self.session(peer, space) {
            session.locating.remove(&log);
        }
        if self.spaces.get(&space).is_some_and(|state| state.author.log() == log) {
            // Signed by this device, and not in its memory.
            self.begin_new_log(space);
        }
        if held.is_some_and(|batch| batch.link() != first) {
            self.select(now, space, Branch { log, base: common, first, tip: their_end });
        } else if held.is_none() {
            // What is to come is fetched like any other log.
            self.tell_frontier(peer, space);
        }
    }

    /// Signs which history of an own log stands, unless that is decided already.
    fn select(&mut self, now: &Now, space: SpaceId, branch: Branch) {
        let Some(state) = self.spaces.get(&space) else { return };
        if state.roster.branches_of(&branch.log).any(|decided| decided.base == branch.base) {
            return self.enforce(space);
        }
        if let Err(why) = self.write_record(now, space, &Change::SelectBranch(branch)) {
            self.notice(Notice::RecordRefused { space, why: std::sync::Arc::new(why) });
        }
    }

    /// Holds every log to what the roster lets stand of it.
    pub(super) fn enforce(&mut self, space: SpaceId) {
        let own = self.identity.device();
        let Some(state) = self.spaces.get(&space).filter(|state| state.is_active) else { return };
        let mut drops = Vec::new();
        let mut looks = Vec::new();
        for (log, tip) in state.durable.iter().map(|(log, tip)| (*log, *tip)) {
            let allowance = state.roster.allowance(&log);
            match allowance {
                // What a removed device wrote stays on its own disk.
                _ if log.device == own => {}
                Allowance::All => {}
                Allowance::UpTo(cut) if tip.seq < cut.seq || tip == cut => {}
                // No cut reaches below the base.
                Allowance::UpTo(cut) if cut.seq <= state.floor(&log).seq => drops.push(log),
                Allowance::UpTo(cut) if tip.seq == cut.seq => drops.push(log),
                Allowance::UpTo(cut) => looks.push((log, vec![cut.seq], LookUpReason::Cut { cut })),
                Allowance::Nothing(_) => drops.push(log),
            }
            if drops.contains(&log) || state.reissues.contains_key(&log) {
                continue;
            }
            let seen = state.logs.get(&log).map(|log| &log.branches);
            let is_open = |branch: &Branch| {
                let is_in_reach = branch.base.seq >= state.floor(&log).seq;
                is_in_reach
                    && tip.seq > branch.base.seq
                    && seen.is_none_or(|seen| !seen.contains(&branch.first))
            };
            for branch in state.roster.branches_of(&log).filter(is_open) {
                let seqs = vec![branch.base.seq, branch.base.seq.next()];
                looks.push((log, seqs, LookUpReason::OnBranch { branch }));
            }
        }
        for log in drops {
            self.truncate(space, log, Tip::NONE);
        }
        for (log, seqs, why) in looks {
            self.look_up(space, log, seqs, why);
        }
        self.drop_fallen(space);
    }

    /// Knows now what is here at the end of a removed device's log.
    pub(super) fn cut_found(&mut self, space: SpaceId, log: LogId, cut: Tip, batch: Option<&SealedBatch>) {
        let Some(batch) = batch else { return };
        let (header, end) = (batch.header(), end_of(batch));
        let to = if end == cut {
            cut
        } else if end.seq == cut.seq {
            // Another history: the right one is fetched.
            Tip::NONE
        } else {
            // An admin's cut is where a batch ends; in the middle of one, all of it goes.
            Tip { seq: Seq::new(header.first.get() - 1), hash: header.prev }
        };
        self.truncate(space, log, to);
    }

    /// Knows now whether what is here is on the history that stands.
    pub(super) fn on_branch_found(
        &mut self,
        space: SpaceId,
        branch: Branch,
        batches: &[Option<SealedBatch>],
    ) {
        let own = self.identity.device();
        let [at_base, after_base] = batches else { return };
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let log = branch.log;
        let held = state.durable.tip(&log);
        let is_in_force = state.roster.branches_of(&log).any(|other| other == branch);
        if !is_in_force || held.seq <= branch.base.seq || state.reissues.contains_key(&log) {
            return;
        }
        state.log(log).branches.insert(branch.first);
        let is_base_here = branch.base == state.floor(&log)
            || at_base.as_ref().is_some_and(|batch| end_of(batch) == branch.base);
        let is_on_it = |batch: &SealedBatch| {
            batch.header().first == branch.base.seq.next() && batch.link() == branch.first
        };
        if after_base.as_ref().is_some_and(is_on_it) {
            let is_news = state.stands_after(log, branch.base);
            state.log(log).branches.insert(branch.first);
            if is_news {
                self.enforce(space);
            }
            return;
        }
        // Where not even the base is here, the histories part earlier, and another selection speaks
        // of that.
        if !is_base_here {
            return;
        }
        let to = branch.base;
        if log.device == own && log != state.author.log() {
            state.reissues.insert(log, to);
            self.emit(Effect::Reissue { space, log, after: to.seq, through: held.seq });
        } else if log.device != own {
            self.fall(space, log, to);
        }
    }

    /// Has what an own log holds after a place written again and then dropped. Where that is the log being
    /// written, a new one is begun.
    pub(super) fn write_again_after(&mut self, now: &Now, space: SpaceId, log: LogId, to: Tip) {
        let own = self.identity.device();
        let Some(state) = self.spaces.get(&space) else { return };
        let held = state.durable.tip(&log);
        if log.device != own || held.seq <= to.seq || state.reissues.contains_key(&log) {
            return;
        }
        if log == state.author.log() {
            self.begin_new_log(space);
        }
        self.give_up(now, space, log);
        if let Some(state) = self.spaces.get_mut(&space) {
            state.reissues.insert(log, to);
            self.emit(Effect::Reissue { space, log, after: to.seq, through: held.seq });
        }
    }

    /// Own logs of which a history is dropped that has to be written again first: what a shell asks
    /// for once it has the state of the space.
    pub fn to_reissue(&self, space: SpaceId) -> Vec<(LogId, Seq, Seq)> {
        let Some(state) = self.spaces.get(&space) else { return Vec::new() };
        state.reissues.iter().map(|(log, to)| (*log, to.seq, state.durable.tip(log).seq)).collect()
    }

    /// Writes ops of a history that is dropped again, under their original identities.
    pub(super) fn reissue(&mut self, space: SpaceId, log: LogId, ops: &[Stored], through: Seq) {
        if self.spaces.get(&space).is_none_or(|state| !state.reissues.contains_key(&log)) {
            return;
        }
        if let Some(mut appended) = self.write_again(space, ops) {
            appended.reissued = Some((log, through));
            self.then(Then::Appended(appended));
        }
    }

    /// Writes ops of a space that was left into the one that took its place.
    pub(super) fn carry_in(
        &mut self,
        from: SpaceId,
        to: SpaceId,
        ops: &[Stored],
        through: Seq,
        token: Token,
    ) {
        let own = self.identity.device();
        let may_write = |state: &SpaceState| state.is_active && state.roster.may_author(&own).is_ok();
        if !self.spaces.get(&to).is_some_and(may_write) {
            return self.emit(Effect::Failed { token, why: RequestError::NotAuthor });
        }
        let Some(mut row) = self.spaces.get(&from).map(space_write) else { return };
        if let Write::Space { carried, .. } = &mut row {
            *carried = through;
        }
        if let Some(mut appended) = self.write_again(to, ops) {
            self.write(row);
            (appended.token, appended.carried) = (Some(token), Some((from, through)));
            self.then(Then::Appended(appended));
        }
    }

    /// Drafts ops under their original identities.
    pub(super) fn write_again(&mut self, space: SpaceId, ops: &[Stored]) -> Option<Appended> {
        let state = self.spaces.get_mut(&space)?;
        let (first, log) = (state.author.next_seq(), state.author.log());
        let mut placed = Vec::with_capacity(ops.len());
        let mut drafts = Vec::with_capacity(ops.len());
        for op in ops {
            let Stored { dot, hlc, kind, flags, ref body } = *op;
            let draft =
                state.author.reissue(&Original { log: dot.log, seq: dot.seq, hlc, kind, flags, body });
            let id = OpId::of(&space, dot, hlc, kind, flags, body);
            placed.push(Placed { id, dot: Dot { log, seq: draft.seq }, hlc });
            drafts.push(draft);
        }
        let (tips, runs) = self.store_drafts(space, &drafts);
        let (token, carried, reissued, given_back) = (None, None, None, None);
        Some(Appended { space, token, placed, first, runs, tips, carried, reissued, given_back })
    }

    /// Ops were written again as far as `through`; the rest follows, then the old history is dropped.
    pub(super) fn reissued(&mut self, space: SpaceId, log: LogId, through: Seq) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let end = state.durable.tip(&log).seq;
        if through < end {
            return self.emit(Effect::Reissue { space, log, after: through, through: end });
        }
        if let Some(to) = state.reissues.remove(&log) {
            self.truncate(space, log, to);
        }
    }

    /// Drops what is held of a log after a batch end, but nothing that the base holds.
    pub(super) fn truncate(&mut self, space: SpaceId, log: LogId, to: Tip) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let (held, floor) = (state.durable.tip(&log), state.floor(&log));
        let to = if to.seq < floor.seq { floor } else { to };
        if held.seq <= to.seq || log == state.author.log() {
            return;
        }
        // Nothing that was found out about what is dropped holds of what comes in its place.
        *state.log(log) = LogState::at(to);
        state.recount_parked();
        state.dropped += held.seq.get() - to.seq.get();
        let row = space_write(state);
        // Acks are numbered by what is held, which falls now: the greatest number so far is kept.
        let acks = self.unstored_acks();
        acks.into_iter().for_each(|ack| self.write(ack));
        self.write(row);
        self.write(Write::Truncate { space, log, to });
        self.then(Then::Truncated { space, log, to, held });
    }

    /// The end of the log is gone for good: the state is folded anew and everybody is told.
    pub(super) fn truncated(&mut self, space: SpaceId, log: LogId, to: Tip) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        if state.durable.tip(&log).seq > to.seq {
            state.durable.set(log, to);
        }
        state.folded = None;
        self.notice(Notice::Truncated { space, log });
        self.emit(Effect::Refold { space });
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            let Some(session) = self.session(peer, space) else { continue };
            session.forget_log(&log);
            self.tell_frontier(peer, space);
        }
    }

    /// The truncation did not become durable: the log is held to its end, and it is tried again.
    pub(super) fn untruncated(&mut self, now: &Now, space: SpaceId, log: LogId, to: Tip, held: Tip) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let entry = state.log(log);
        entry.chain = LogChain::at(held);
        entry.branches.clear();
        state.dropped -= held.seq.get() - to.seq.get();
        state.store_again_at = Some(now.uptime + STORE_AGAIN_AFTER);
        // Whoever gave it back to hear that nothing of it is lost hears that again.
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            if let Some(session) = self.session(peer, space) {
                session.given_back.retain(|(given, _, _)| *given != log);
            }
        }
    }
}

/// The end of a batch.
pub(super) fn end_of(batch: &SealedBatch) -> Tip {
    Tip { seq: batch.header().last(), hash: batch.link() }
}

/// The two signed headers of a history of an own log, where they are what they have to be.
fn own_witnesses(
    ends: &[[u8; ForkWitness::BYTES]; 2],
    log: LogId,
    scope: ScopeTag,
) -> Option<[(BatchHeader, TipHash); 2]> {
    let read = |bytes: &[u8; ForkWitness::BYTES]| {
        let (witness, header) = ForkWitness::parse(bytes).ok()?;
        let is_good = header.log == log && header.scope == scope && witness.verify().is_ok();
        is_good.then(|| (header, witness.link()))
    };
    let (first, last) = (read(&ends[0])?, read(&ends[1])?);
    (last.0.last() >= first.0.last()).then_some([first, last])
}

/// Questions until the place is found: each divides what is left by [`POINTS_MAX`].
const ROUNDS_MAX: u32 = 16;
