//! Batches of others: bounds, space, author, chain, signature, key, opening; then durable, then folded.

use bytes::Bytes;

use super::effect::{Effect, FoldRun, Notice, PeerId, Refusal};
use super::engine::Engine;
use super::fallen::has_reissued;
use super::fork::LookUpReason;
use super::heal::end_of;
use super::space::{BlockedBy, Ingested, Then};
use super::txn::Write;
use crate::crypto::{SealedBatch, SignatureError};
use crate::model::{Hlc, LogId, Now, Seq, SpaceId, Tip};
use crate::oplog::{AdmitError, VerifiedBatch};
use crate::roster::{Allowance, Branch, NotAuthor};
use crate::wire::BodyReader;

impl Engine {
    pub(super) fn batches(&mut self, now: &Now, peer: PeerId, batches: Vec<Bytes>) {
        let mut run: Vec<SealedBatch> = Vec::new();
        for bytes in batches {
            let batch = match SealedBatch::parse(bytes) {
                Ok(batch) => batch,
                Err(source) => {
                    self.run(now, peer, run);
                    return self.close(peer, Refusal::Batch(source));
                }
            };
            let is_same_log = run.last().is_none_or(|last| {
                last.header().log == batch.header().log && last.header().scope == batch.header().scope
            });
            if !is_same_log {
                self.run(now, peer, std::mem::take(&mut run));
            }
            run.push(batch);
        }
        self.run(now, peer, run);
    }

    /// Takes a run of batches of one log from a peer.
    fn run(&mut self, now: &Now, peer: PeerId, run: Vec<SealedBatch>) {
        let Some(head) = run.first().map(|batch| batch.header().clone()) else { return };
        let log = head.log;
        let Some(space) = self.shared_space(peer, &head.scope) else {
            return self.not_shared(peer, &head.scope);
        };
        let Err(NotAdmitted { first, why }) = self.admit_run(now, space, run, Some(peer)) else { return };
        match why {
            WhyNotAdmitted::Author(_) => self.ask_roster(peer, space),
            WhyNotAdmitted::Signature(source) => {
                self.close(peer, Refusal::Signature { author: log.device, first, source });
            }
            WhyNotAdmitted::Gap { expected } => self.ask_again(peer, space, log, expected, first),
            WhyNotAdmitted::OtherHistory { shared: Some(shared) } => {
                self.ask_fork(peer, space, log, shared);
            }
            // The peer does not know yet which history stands, or where it ends.
            WhyNotAdmitted::OtherHistory { shared: None } | WhyNotAdmitted::BeyondCut => {}
            WhyNotAdmitted::Blocked => {}
        }
    }

    /// Takes what it can of a run of batches of one log, from a peer or from a carrier; an error says
    /// from where on and why the rest was not taken.
    pub(super) fn admit_run(
        &mut self,
        now: &Now,
        space: SpaceId,
        run: Vec<SealedBatch>,
        from: Option<PeerId>,
    ) -> Result<(), NotAdmitted> {
        let Some(head) = run.first().map(|batch| batch.header().clone()) else { return Ok(()) };
        let log = head.log;
        let not_admitted = |first, why| Err(NotAdmitted { first, why });
        let fallen = self.given_back(space, &run, from);
        self.recall(space, &run, fallen);
        if fallen.is_some() {
            return not_admitted(head.first, WhyNotAdmitted::OtherHistory { shared: None });
        }
        let Some(state) = self.spaces.get_mut(&space) else { return Ok(()) };
        if log == state.author.log() {
            // Only this device writes its log, so a batch beyond its end is from a past that this
            // disk has forgotten (a restored backup): never write there again.
            let tip = state.author.tip().seq;
            if run.iter().all(|batch| batch.header().last() <= tip) {
                return Ok(());
            }
            // Its own signature is what makes this device believe that it wrote there.
            if let Some((first, source)) =
                run.iter().find_map(|batch| Some((batch.header().first, batch.verify().err()?)))
            {
                return not_admitted(first, WhyNotAdmitted::Signature(source));
            }
            self.begin_new_log(space);
        }
        let Some(state) = self.spaces.get_mut(&space) else { return Ok(()) };
        let mut rest = Ok(());
        let mut run = run;
        match state.roster.allowance(&log) {
            Allowance::All => {}
            Allowance::UpTo(cut) => {
                let standing = up_to(&run, cut);
                keep(&mut run, standing, WhyNotAdmitted::BeyondCut, &mut rest);
            }
            Allowance::Nothing(why) => return not_admitted(head.first, WhyNotAdmitted::Author(why)),
        }
        let standing = on_branches(&run, &state.roster.branches_of(&log).collect::<Vec<_>>());
        keep(&mut run, standing, WhyNotAdmitted::OtherHistory { shared: None }, &mut rest);
        if run.is_empty() {
            return rest;
        }
        let is_given_up = state.given_up.get(&log).is_some_and(|until| now.uptime < *until);
        if is_given_up || state.log(log).blocked.is_some() {
            return not_admitted(head.first, WhyNotAdmitted::Blocked);
        }
        let below = state.below_base(&log, &run);
        let known: u64 = run.drain(..below.count).map(|batch| u64::from(batch.header().op_count)).sum();
        self.duplicate_ops += known;
        if let Some(first) = below.other {
            return not_admitted(first, WhyNotAdmitted::OtherHistory { shared: None });
        }
        let Some(state) = self.spaces.get_mut(&space) else { return Ok(()) };
        let admitted = state.log(log).chain.admit(run);
        self.duplicate_ops += admitted.duplicate_count;
        if let Some(batch) = admitted.to_compare.into_iter().next() {
            let (log, seq) = (batch.header().log, batch.header().first);
            self.look_up(space, log, vec![seq], LookUpReason::Compare { from, batch: Box::new(batch) });
        }
        self.take(now, from, space, log, admitted.batches);
        match admitted.refused {
            None => rest,
            Some(AdmitError::Gap { expected, found }) => {
                not_admitted(found, WhyNotAdmitted::Gap { expected })
            }
            Some(AdmitError::OtherBranch { first, shared }) => {
                not_admitted(first, WhyNotAdmitted::OtherHistory { shared: Some(shared) })
            }
            Some(AdmitError::Signature { first, source }) => {
                not_admitted(first, WhyNotAdmitted::Signature(source))
            }
        }
    }

    /// Opens verified batches and hands them on to be stored. A batch that does not open stops its
    /// log here: its author made it wrongly, whoever passed it on.
    fn take(
        &mut self,
        now: &Now,
        from: Option<PeerId>,
        space: SpaceId,
        log: LogId,
        batches: Vec<VerifiedBatch>,
    ) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let mut tip = Tip::NONE;
        let mut kept = Vec::with_capacity(batches.len());
        let mut runs = Vec::with_capacity(batches.len());
        let mut blocked = None;
        // The fold takes a log in order: it stops at the first batch that waits for a key.
        let mut is_parked = !state.log(log).parked.is_empty();
        let mut unnamed = Vec::new();
        for batch in batches {
            let sealed = batch.sealed();
            let header = sealed.header();
            match state.keys.get(&header.key_id) {
                // No key yet: stored and passed on, folded once the key is here.
                None => {
                    is_parked = true;
                    let entry = state.log(log);
                    let is_news = entry.parked.insert(header.key_id);
                    entry.parked_count += 1;
                    state.parked_count += 1;
                    if is_news && !state.roster.knows_key(&header.key_id) {
                        unnamed.push(header.key_id);
                    }
                }
                Some(key) => match open(&mut self.opener, key, sealed) {
                    Err(by) => {
                        blocked = Some(by);
                        break;
                    }
                    Ok((body, greatest)) => {
                        if state.author.observe(greatest, now.wall) {
                            state.skewed_count += 1;
                        }
                        if !is_parked {
                            let (first, op_count) = (header.first, header.op_count);
                            runs.push(FoldRun { log, first, op_count, body });
                        }
                    }
                },
            }
            tip = Tip { seq: header.last(), hash: sealed.link() };
            self.received_ops += u64::from(header.op_count);
            kept.push(sealed.clone());
        }
        if let Some(by) = blocked {
            let end = if tip.seq.get() > 0 { tip } else { state.durable.tip(&log) };
            let entry = state.log(log);
            entry.chain = crate::oplog::LogChain::at(end);
            entry.blocked = Some(by);
            self.notice(Notice::LogBlocked { space, log });
        }
        if !kept.is_empty() {
            self.write(Write::Batches { space, log, batches: kept });
            self.then(Then::Ingested(Ingested { space, log, tip, runs, from }));
        }
        unnamed.into_iter().for_each(|key_id| self.ask_unnamed_key(space, key_id));
    }

    /// Finds out why the fold has stopped within a log: after a start, what waits for a key is not
    /// known yet.
    pub(super) fn look_for_parked(&mut self, space: SpaceId) {
        if self.is_blind(space) {
            return;
        }
        let Some(state) = self.spaces.get(&space) else { return };
        let Some(folded) = &state.folded else { return };
        let stopped: Vec<(LogId, Seq)> = state
            .durable
            .iter()
            .filter(|(log, _)| state.logs.get(log).is_none_or(|log| log.parked.is_empty()))
            .filter_map(|(log, tip)| {
                let applied = folded.applied.get(log).copied().unwrap_or(Seq::ZERO);
                (applied < tip.seq).then_some((*log, applied.next()))
            })
            .collect();
        for (log, seq) in stopped {
            self.look_up(space, log, vec![seq], LookUpReason::Parked);
        }
    }

    /// Knows now what the fold has stopped at.
    pub(super) fn parked_found(&mut self, now: &Now, space: SpaceId, log: LogId, batch: &SealedBatch) {
        let key_id = batch.header().key_id;
        let Some(state) = self.spaces.get_mut(&space) else { return };
        if state.keys.contains_key(&key_id) || !state.log(log).parked.insert(key_id) {
            return;
        }
        state.log(log).parked_count += 1;
        state.recount_parked();
        self.ask_unnamed_key(space, key_id);
        self.acknowledge(now, space);
    }

    /// Batches of another log are durable.
    pub(super) fn ingested(&mut self, now: &Now, ingested: Ingested) {
        let Ingested { space, log, tip, runs, from } = ingested;
        let Some(state) = self.spaces.get_mut(&space) else { return };
        assert!(tip.seq > state.durable.tip(&log).seq, "a frontier never retreats");
        state.durable.set(log, tip);
        let is_bounded = !matches!(state.roster.allowance(&log), Allowance::All);
        let is_parked = state.logs.get(&log).is_some_and(|log| !log.parked.is_empty());
        let is_written_again = state.has_fallen(log.device) && runs.iter().any(has_reissued);
        let folded = runs.last().map_or(Seq::ZERO, |run| run.first.plus(u64::from(run.op_count) - 1));
        if !runs.is_empty() {
            self.emit(Effect::Fold { space, runs });
        }
        if folded < tip.seq && !is_parked {
            // Its key came while it was on its way to the store.
            self.emit(Effect::CatchUp { space });
        }
        if is_bounded {
            // It was on its way to the store when the roster drew the line.
            self.enforce(space);
        }
        self.search_fallen_in(now, space, log, is_written_again);
        self.forward_later(now, space, log, from);
        // A blind device has stored it, and that is all it does; others say so once it is folded.
        if self.is_blind(space) {
            self.acknowledge(now, space);
        }
        self.check_rounds();
    }
}

/// Batches of a log that were not taken.
pub(super) struct NotAdmitted {
    /// The first position that was not.
    pub first: Seq,
    pub why: WhyNotAdmitted,
}

pub(super) enum WhyNotAdmitted {
    /// Its device may not write, or is not known to.
    Author(NotAuthor),
    /// Its device was removed, and these come after what its removal keeps.
    BeyondCut,
    /// Batches before them are missing.
    Gap { expected: Seq },
    /// They contradict what stands, by a selection or (with the last place in common) by what is held.
    OtherHistory { shared: Option<Seq> },
    /// Not signed by its device.
    Signature(SignatureError),
    /// Its device has made a batch wrongly.
    Blocked,
}

/// Keeps the first `count` batches of a run, and the reason for the others.
fn keep(run: &mut Vec<SealedBatch>, count: usize, why: WhyNotAdmitted, rest: &mut Result<(), NotAdmitted>) {
    if let Some(batch) = run.get(count) {
        *rest = Err(NotAdmitted { first: batch.header().first, why });
        run.truncate(count);
    }
}

/// How much of a run a removed device's cut lets stand.
fn up_to(run: &[SealedBatch], cut: Tip) -> usize {
    let stands = |batch: &SealedBatch| {
        let end = end_of(batch);
        end.seq < cut.seq || end == cut
    };
    run.iter().position(|batch| !stands(batch)).unwrap_or(run.len())
}

/// How much of a run does not contradict the history that stands.
pub(super) fn on_branches(run: &[SealedBatch], branches: &[Branch]) -> usize {
    let contradicts = |batch: &SealedBatch| {
        let header = batch.header();
        branches.iter().any(|branch| {
            let parts_here = header.first == branch.base.seq.next() && header.prev == branch.base.hash;
            parts_here && batch.link() != branch.first
        })
    };
    run.iter().position(contradicts).unwrap_or(run.len())
}

/// Opens a batch and checks that its body holds the announced ops; the greatest stamp of them.
fn open(
    opener: &mut crate::crypto::Opener,
    key: &crate::crypto::EpochKey,
    sealed: &SealedBatch,
) -> Result<(Bytes, Hlc), BlockedBy> {
    let header = sealed.header();
    let body = opener.open(key, sealed).map_err(|_| BlockedBy::Sealing)?;
    let mut greatest = Hlc::ZERO;
    BodyReader::check(&body, header.first, header.op_count).map_err(|_| BlockedBy::Body)?;
    for frame in BodyReader::new(&body, header.first, header.op_count).map_err(|_| BlockedBy::Body)? {
        greatest = greatest.max(frame.map_err(|_| BlockedBy::Body)?.hlc);
    }
    Ok((body.into(), greatest))
}
