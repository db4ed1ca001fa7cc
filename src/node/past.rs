//! States of the past, folded anew from the logs, for reading only.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::based::{first_state, greatest_stamp, state_of};
use super::conversation::{Resumed, TranscriptTurn};
use super::error::NodeError;
use super::read::Reader;
use super::space::Space;
use super::types::{Row, StreamEvent};
use crate::crypto::{Opener, SealedBatch};
use crate::fold::{Counts, RowFilter, State};
use crate::model::{Dot, Hlc, LogId, Positions, Root, Seq, SpaceId, Surface, Tip};
use crate::store::{KeyRing, Store};
use crate::sync::Base;
use crate::wire::checkpoint::Manifest;
use crate::wire::{BodyReader, FrameView};

/// A space as its logs told it up to some positions. It holds where things are, not what they say,
/// and never changes.
pub struct StateAt {
    reader: Reader,
    positions: Positions,
    root: Root,
    counts: Counts,
    conflict_count: u64,
}

impl StateAt {
    /// How far each log was folded.
    pub const fn positions(&self) -> &Positions {
        &self.positions
    }

    /// The hash of the state: what every device had that held just this.
    pub const fn root(&self) -> Root {
        self.root
    }

    /// What it holds.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How many conflicts were open.
    pub const fn conflict_count(&self) -> u64 {
        self.conflict_count
    }

    /// As [`Space::get`].
    ///
    /// # Errors
    /// [`NodeError::Read`], [`NodeError::OpMissing`].
    pub fn get(&self, surface: &Surface, key: &str) -> Result<Option<Row>, NodeError> {
        self.reader.row(surface, key)
    }

    /// As [`Space::list`].
    ///
    /// # Errors
    /// As [`StateAt::get`].
    pub fn list(&self, surface: &Surface, after: Option<&str>, limit: usize) -> Result<Vec<Row>, NodeError> {
        self.reader.rows(surface, after, limit, RowFilter::Live)
    }

    /// As [`Space::list_all`].
    ///
    /// # Errors
    /// As [`StateAt::get`].
    pub fn list_all(
        &self,
        surface: &Surface,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Row>, NodeError> {
        self.reader.rows(surface, after, limit, RowFilter::WithSuperseded)
    }

    /// As [`Space::streams`].
    ///
    /// # Errors
    /// As [`StateAt::get`].
    pub fn streams(&self, surface: &Surface) -> Result<Vec<String>, NodeError> {
        self.reader.streams(surface)
    }

    /// As [`Space::events`].
    ///
    /// # Errors
    /// As [`StateAt::get`].
    pub fn events(
        &self,
        surface: &Surface,
        stream: &str,
        after: Option<(Hlc, Dot)>,
        limit: usize,
    ) -> Result<Vec<StreamEvent>, NodeError> {
        self.reader.events(surface, stream, after, limit)
    }

    /// As [`Space::transcript`].
    ///
    /// # Errors
    /// As [`StateAt::get`].
    pub fn transcript(
        &self,
        conversation: &str,
        after: Option<(Hlc, Dot)>,
        limit: usize,
    ) -> Result<Vec<TranscriptTurn>, NodeError> {
        self.reader.transcript(conversation, after, limit)
    }

    /// As [`Space::resume`].
    ///
    /// # Errors
    /// As [`StateAt::get`].
    pub fn resume(&self, conversation: &str, turns: usize) -> Result<Resumed, NodeError> {
        self.reader.resume(conversation, turns)
    }

    /// As [`Space::conflicts`].
    ///
    /// # Errors
    /// As [`StateAt::get`].
    pub fn conflicts(&self, after: Option<(&Surface, &str)>, limit: usize) -> Result<Vec<Row>, NodeError> {
        self.reader.conflicts(after, limit)
    }

    /// As [`Space::surfaces`].
    ///
    /// # Errors
    /// As [`StateAt::get`].
    pub fn surfaces(&self) -> Result<Vec<(Surface, u64)>, NodeError> {
        self.reader.surfaces()
    }
}

impl Space {
    /// How far each log is folded here, own ops that are not sealed included: what
    /// [`Space::state_at`] takes to come back to the state of this moment.
    ///
    /// # Errors
    /// [`NodeError::Index`].
    pub fn positions(&self) -> Result<Positions, NodeError> {
        self.reader().look(|state| state.applied_all().into_iter().collect())
    }

    /// The space as it was at some positions of its logs, folded anew from where its history begins: about a
    /// second per million ops, and as much memory as the present state takes. Its conversations,
    /// conflicts and root are those of that moment.
    ///
    /// Positions name places, not contents: where a log has been given up for another branch of it
    /// since, the state is that of the branch that stands.
    ///
    /// # Errors
    /// [`NodeError::UnknownLog`], [`NodeError::BeyondLog`], [`NodeError::BeforeBase`], [`NodeError::PastKeyMissing`],
    /// [`NodeError::Store`], [`NodeError::Index`].
    pub async fn state_at(&self, positions: Positions) -> Result<StateAt, NodeError> {
        let (space, held) = (self.clone(), self.positions()?);
        let chain = self.reader().chain();
        let fold = move || {
            let logs = Logs {
                space: space.id(),
                store: space.node.store().clone(),
                keys: space.node.keys().clone(),
            };
            let mut state = logs.fold_to(&positions, &held)?;
            let root = state.root();
            let (counts, conflict_count) = (state.counts(), state.open_conflict_count(&*chain));
            let reader = Reader::of_past(state, chain, Arc::clone(space.node.blocks()));
            Ok(StateAt { reader, positions, root, counts, conflict_count })
        };
        tokio::task::spawn_blocking(fold).await.expect("folding does not panic and is not aborted")
    }

    /// What the log folds to at some positions, folded onto a checkpoint that is whole here, and not
    /// necessarily the base.
    pub(super) async fn fold_onto(
        &self,
        manifest: Manifest,
        positions: Positions,
    ) -> Result<State, NodeError> {
        let space = self.clone();
        let fold = move || {
            let (store, keys) = (space.node.store().clone(), space.node.keys().clone());
            let mut state = state_of(&manifest, &store, &keys)?;
            let logs = Logs { space: space.id(), store, keys };
            for (log, through) in positions.iter() {
                let floor = state.laid_down(log);
                logs.visit(log, floor, through, &mut |frame| {
                    state.apply(log, frame);
                })?;
            }
            Ok(state)
        };
        self.node.blocking(fold).await
    }

    /// What the log folds to at some positions, without anything that was kept.
    pub(super) async fn fold_anew(&self, positions: Positions) -> Result<State, NodeError> {
        let (space, held) = (self.clone(), self.positions()?);
        let fold = move || {
            let logs = Logs {
                space: space.id(),
                store: space.node.store().clone(),
                keys: space.node.keys().clone(),
            };
            logs.fold_to(&positions, &held)
        };
        self.node.blocking(fold).await
    }

    /// As [`Space::fold_anew`], but for the last op of each log, as a program does that folds wrongly.
    #[cfg(feature = "sim")]
    pub(super) async fn fold_wrongly(&self, positions: Positions) -> Result<State, NodeError> {
        let space = self.clone();
        let fold = move || {
            let (store, keys) = (space.node.store().clone(), space.node.keys().clone());
            let (logs, mut state) = (Logs { space: space.id(), store, keys }, State::new(space.id()));
            for (log, through) in positions.iter() {
                logs.visit(log, Seq::ZERO, through, &mut |frame| {
                    // Without its body an op is counted and means nothing.
                    let body = if frame.seq == through { &[] } else { frame.body };
                    state.apply(log, &FrameView { body, ..*frame });
                })?;
            }
            Ok(state)
        };
        self.node.blocking(fold).await
    }

    /// The positions that stand for a moment: of each log the last op that is stamped at or before
    /// it, in Unix milliseconds.
    ///
    /// Stamps are what the writers' clocks said, pushed up where an op answers one of a clock that
    /// was ahead; so an op with a later stamp is within these positions if one with an earlier stamp
    /// follows it in its log.
    ///
    /// # Errors
    /// [`NodeError::BeforeBase`], [`NodeError::PastKeyMissing`], [`NodeError::Store`], [`NodeError::Index`].
    pub async fn positions_at(&self, unix_millis: u64) -> Result<Positions, NodeError> {
        let (space, held) = (self.clone(), self.positions()?);
        let scan = move || {
            let logs = Logs {
                space: space.id(),
                store: space.node.store().clone(),
                keys: space.node.keys().clone(),
            };
            logs.positions_at(unix_millis, &held)
        };
        tokio::task::spawn_blocking(scan).await.expect("a scan does not panic and is not aborted")
    }
}

/// The logs of a space, read op by op.
struct Logs {
    space: SpaceId,
    store: Store,
    keys: KeyRing,
}

impl Logs {
    fn fold_to(&self, positions: &Positions, held: &Positions) -> Result<State, NodeError> {
        for (log, asked) in positions.iter() {
            match held.get(log) {
                Seq::ZERO => return Err(NodeError::UnknownLog { log: *log }),
                held if asked > held => return Err(NodeError::BeyondLog { log: *log, asked, held }),
                _ => {}
            }
        }
        self.steadily(|base| self.fold_from(base, positions))
    }

    fn fold_from(&self, base: Option<&Base>, positions: &Positions) -> Result<State, NodeError> {
        let mut state = State::new(self.space);
        if let Some(base) = base {
            let is_before = |(log, floor): (&LogId, &Tip)| positions.get(log) < floor.seq;
            if base.floor.iter().any(is_before) {
                return Err(NodeError::BeforeBase { checkpoint: base.checkpoint });
            }
            state = first_state(&self.space, &self.store, &self.keys)?;
            let is_missing = |(log, floor): &(&LogId, &Tip)| state.applied(log) < floor.seq;
            if let Some((log, floor)) = base.floor.iter().find(is_missing) {
                return Err(NodeError::PastKeyMissing { log: *log, seq: floor.seq });
            }
        }
        for (log, through) in positions.iter() {
            let floor = base.map_or(Seq::ZERO, |base| base.floor.tip(log).seq);
            self.visit(log, floor, through, &mut |frame| {
                state.apply(log, frame);
            })?;
        }
        Ok(state)
    }

    /// Reads what the history begins with and the logs after it; once more where it begins with something
    /// else by now, so that batches may have gone meanwhile.
    fn steadily<T>(&self, read: impl Fn(Option<&Base>) -> Result<T, NodeError>) -> Result<T, NodeError> {
        loop {
            let base = self.store.base(&self.space);
            let result = read(base.as_ref());
            if self.store.base(&self.space) == base {
                return result;
            }
        }
    }

    fn positions_at(&self, unix_millis: u64, held: &Positions) -> Result<Positions, NodeError> {
        self.steadily(|base| {
            let mut found = BTreeMap::new();
            if let Some(base) = base {
                let greatest = greatest_stamp(&self.space, &self.store, &self.keys)?;
                if unix_millis < greatest.millis() {
                    return Err(NodeError::BeforeBase { checkpoint: base.checkpoint });
                }
                found.extend(base.floor.iter().map(|(log, floor)| (*log, floor.seq)));
            }
            for (log, through) in held.iter() {
                let floor = base.map_or(Seq::ZERO, |base| base.floor.tip(log).seq);
                self.visit(log, floor, through, &mut |frame| {
                    if frame.hlc.millis() <= unix_millis {
                        found.insert(*log, frame.seq);
                    }
                })?;
            }
            Ok(found.into_iter().collect())
        })
    }

    /// Shows every op of a log after one position and up to another, in order, sealed or not.
    fn visit(
        &self,
        log: &LogId,
        after: Seq,
        through: Seq,
        show: &mut dyn FnMut(&FrameView<'_>),
    ) -> Result<(), NodeError> {
        let mut opener = Opener::new();
        let mut shown = after;
        let mut show_body = |body: &[u8], first: Seq, op_count: u32, shown: &mut Seq| {
            let Ok(reader) = BodyReader::new(body, first, op_count) else { return };
            for frame in reader.flatten().filter(|frame| frame.seq <= through) {
                if frame.seq == shown.next() {
                    show(&frame);
                    *shown = frame.seq;
                }
            }
        };
        while shown < through {
            let before = shown;
            // What was not sealed when a round began may be sealed in the next one.
            if let Some(batch) = self.store.batch_at(&self.space, log, shown.next())? {
                let start = Seq::new(batch.header().first.get() - 1);
                let tip = Seq::new(u64::MAX);
                let run = self.store.run(&self.space, log, start, tip, RUN_BYTES)?;
                let batches = run.and_then(|run| SealedBatch::parse_run(run.bytes).ok()).unwrap_or_default();
                for batch in batches.iter().take_while(|batch| batch.header().first <= through) {
                    let header = batch.header();
                    let missing = NodeError::PastKeyMissing { log: *log, seq: header.first };
                    let key = self.keys.key(&header.key_id).ok_or(missing)?;
                    let damaged =
                        |source| crate::store::ReadError::Damaged { log: *log, seq: header.first, source };
                    let body = opener.open(&key, batch).map_err(damaged)?;
                    show_body(&body, header.first, header.op_count, &mut shown);
                }
            } else if let Some(group) = self.store.drafts_at(&self.space, log, shown.next())? {
                show_body(&group.body, group.first, group.op_count, &mut shown);
            }
            if shown == before {
                return Err(NodeError::BeyondLog { log: *log, asked: through, held: shown });
            }
        }
        Ok(())
    }
}

/// How much of a log is read at once.
const RUN_BYTES: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::EpochKey;
    use crate::store::testing::{Author, store};

    #[test]
    fn a_past_that_is_sealed_under_a_key_that_is_not_here_says_from_which_op_on() {
        let mut author = Author::new(1);
        let (store, _) = store(&mut author);
        let keys = KeyRing::default();
        keys.insert(author.key.clone());
        let mut batches = author.batches(1, 3);
        author.key = EpochKey::from_bytes([0x99; 32]);
        batches.extend(author.batches(1, 2));
        let write = author.write(batches);
        author.commit(&store, vec![write]);
        let logs = Logs { space: author.space, store, keys };
        let held: Positions = [(author.log, Seq::new(5))].into_iter().collect();
        let at = |seq| logs.fold_to(&[(author.log, Seq::new(seq))].into_iter().collect(), &held);

        assert_eq!(at(3).unwrap().applied(&author.log), Seq::new(3));
        for asked in [4, 5] {
            let Err(missing) = at(asked) else { panic!("the second key is not here") };
            assert!(
                matches!(&missing, NodeError::PastKeyMissing { log, seq } if *log == author.log && seq.get() == 4),
                "{missing}"
            );
        }
        logs.keys.insert(author.key.clone());
        assert_eq!(at(5).unwrap().applied(&author.log), Seq::new(5));
    }
}
