//! Own ops: placed, made durable, answered, folded, sealed and offered.

use bytes::Bytes;

use super::effect::{Authored, Effect, FoldRun, Placed, RequestError, Token};
use super::engine::Engine;
use super::space::{Appended, SealedTip, Then};
use super::txn::{DraftGroup, Write};
use crate::model::{Dot, LogId, Now, OpId, Seq, SpaceId, Tip};
use crate::oplog::DraftOp;
use crate::wire::BodyWriter;

impl Engine {
    pub(super) fn append(&mut self, now: &Now, space: SpaceId, ops: Vec<Authored>, token: Token) {
        let own = self.identity.device();
        let Some(state) = self.spaces.get_mut(&space).filter(|state| state.is_active) else {
            return self.emit(Effect::Failed { token, why: RequestError::NoSuchSpace });
        };
        if state.roster.may_author(&own).is_err() {
            return self.emit(Effect::Failed { token, why: RequestError::NotAuthor });
        }
        let log = state.author.log();
        let first = state.author.next_seq();
        let drafts: Vec<DraftOp> =
            ops.into_iter().map(|authored| state.author.draft(authored.op, authored.seen, now)).collect();
        let placed = drafts
            .iter()
            .map(|draft| {
                let dot = Dot { log, seq: draft.seq };
                let id = OpId::of(&space, dot, draft.hlc, draft.kind, draft.flags, &draft.body);
                Placed { id, dot, hlc: draft.hlc }
            })
            .collect();
        let (tips, runs) = self.store_drafts(space, &drafts);
        self.then(Then::Appended(Appended {
            space,
            token: Some(token),
            placed,
            first,
            runs,
            tips,
            carried: None,
            reissued: None,
            given_back: None,
        }));
    }

    /// Writes drafts into this step's transaction: sealed, where somebody waits for them or enough
    /// have come together, with all that were there before. Gives what is to be folded then.
    pub(super) fn store_drafts(
        &mut self,
        space: SpaceId,
        drafts: &[DraftOp],
    ) -> (Vec<SealedTip>, Vec<FoldRun>) {
        let is_awaited = self.is_awaited(space);
        let Some(state) = self.spaces.get(&space) else { return (Vec::new(), Vec::new()) };
        // Without a key they stay drafts until it comes.
        if state.sealing_key().is_some() && (is_awaited || state.author.is_full()) {
            return self.seal_to_txn(space);
        }
        let log = state.author.log();
        let runs = fold_runs(log, drafts);
        for run in &runs {
            let group = DraftGroup { log, first: run.first, op_count: run.op_count, body: run.body.to_vec() };
            self.write(Write::Drafts { space, group });
        }
        (Vec::new(), runs)
    }

    /// Own ops are durable.
    pub(super) fn appended(&mut self, now: &Now, appended: Appended) {
        let Appended { space, token, placed, runs, tips, carried, reissued, given_back, first: _ } = appended;
        if let Some((from, through)) = carried
            && let Some(left) = self.spaces.get_mut(&from)
        {
            left.carried = through;
        }
        if let Some(state) = self.spaces.get_mut(&space) {
            // The fold is told right here, before any later append asks what it shows.
            state.author.folded();
        }
        self.emit(Effect::Fold { space, runs });
        if let Some(token) = token {
            self.emit(Effect::Appended { token, placed });
        }
        self.sealed(now, space, tips);
        if let Some((log, through)) = reissued {
            self.reissued(space, log, through);
        }
        if let Some(given_back) = given_back {
            self.confirm_given_back(space, given_back);
        }
    }

    /// Seals what is drafted, because somebody is there to take it.
    pub(super) fn seal_drafts(&mut self, space: SpaceId) {
        let is_needed = self
            .spaces
            .get(&space)
            .is_some_and(|state| !state.author.drafts().is_empty() && state.sealing_key().is_some());
        if is_needed {
            let (tips, runs) = self.seal_to_txn(space);
            self.then(Then::Sealed { space, tips, runs });
        }
    }

    /// Seals all drafts of a space into this step's transaction. Also gives them back as runs to
    /// fold: a fold that was begun anew while they were on their way has not seen them as drafts.
    fn seal_to_txn(&mut self, space: SpaceId) -> (Vec<SealedTip>, Vec<FoldRun>) {
        let mut entropy = self.entropy_source();
        let Some(state) = self.spaces.get_mut(&space) else { return (Vec::new(), Vec::new()) };
        let runs = fold_runs(state.author.log(), state.author.drafts());
        let Some(key) = state.sealing_key().cloned().filter(|_| !runs.is_empty()) else {
            return (Vec::new(), runs);
        };
        let (log, tag, generation) = (state.author.log(), state.tag, state.roster.generation());
        let mut before = state.author.tip().seq;
        let batches: Vec<_> = state
            .author
            .seal(&self.identity, &mut self.sealer, &key, tag, generation, &mut entropy)
            .into_iter()
            .map(|batch| batch.sealed().clone())
            .collect();
        let tips = batches
            .iter()
            .map(|batch| {
                let tip = Tip { seq: batch.header().last(), hash: batch.link() };
                let sealed = SealedTip { log, before, tip, bytes: batch.bytes().clone() };
                before = tip.seq;
                sealed
            })
            .collect();
        self.write(Write::Batches { space, log, batches });
        self.write(Write::DraftsSealed { space, through: before });
        (tips, runs)
    }

    /// Own batches are durable: they are part of the frontier and go out.
    pub(super) fn sealed(&mut self, now: &Now, space: SpaceId, tips: Vec<SealedTip>) {
        let Some(last) = tips.last() else { return };
        let Some(state) = self.spaces.get_mut(&space) else { return };
        if last.log == state.author.log() {
            state.author.settle(last.tip.seq);
        }
        assert!(last.tip.seq > state.durable.tip(&last.log).seq, "a frontier never retreats");
        state.durable.set(last.log, last.tip);
        self.offer(space, &tips);
        self.acknowledge(now, space);
    }

    /// Whether a connected peer waits for what this device writes in a space.
    pub(super) fn is_awaited(&self, space: SpaceId) -> bool {
        self.peers.values().any(|peer| peer.is_greeted && peer.spaces.contains_key(&space))
    }
}

/// The drafts as bodies to fold.
pub(super) fn fold_runs(log: LogId, drafts: &[DraftOp]) -> Vec<FoldRun> {
    let mut runs = Vec::new();
    let mut writer = BodyWriter::new();
    let mut first = Seq::ZERO;
    let mut flush = |writer: BodyWriter, first: Seq| {
        let (body, op_count) = writer.finish();
        if op_count > 0 {
            runs.push(FoldRun { log, first, op_count, body: Bytes::from(body) });
        }
    };
    for draft in drafts {
        if !writer.has_room(draft.body.len()) {
            flush(std::mem::take(&mut writer), first);
        }
        if writer.op_count() == 0 {
            first = draft.seq;
        }
        writer.push(draft.hlc, draft.kind, draft.flags, &draft.body);
    }
    flush(writer, first);
    runs
}
