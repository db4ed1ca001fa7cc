//! The small numbers of spaces and logs, and where each log ends: in memory, as committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::tables::{LogIx, SpaceIx, SpaceRow};
use crate::model::{LogId, Seq, SpaceId, Tip};
use crate::sync::Base;
use crate::wire::checkpoint::{CheckpointHash, Manifest};

/// What every commit and every read needs to know of the tables.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// How many transactions were committed.
    pub(super) commits: u64,
    spaces: BTreeMap<SpaceId, (SpaceIx, SpaceRow)>,
    logs: BTreeMap<(SpaceIx, LogId), u32>,
    log_counts: BTreeMap<SpaceIx, u32>,
    tips: BTreeMap<LogIx, Tip>,
    draft_ends: BTreeMap<LogIx, Seq>,
    bases: BTreeMap<SpaceIx, HeldBase>,
    floors: BTreeMap<LogIx, Tip>,
}

/// Where the history of a space begins, and where it began before.
#[derive(Clone, Debug)]
pub(super) struct HeldBase {
    pub(super) base: Base,
    pub(super) manifest: Arc<Manifest>,
    pub(super) before: Option<CheckpointHash>,
}

impl Index {
    pub(super) fn space_ix(&self, space: &SpaceId) -> Option<SpaceIx> {
        self.spaces.get(space).map(|(ix, _)| *ix)
    }

    pub(super) fn log_ix(&self, space: &SpaceId, log: &LogId) -> Option<LogIx> {
        self.log_ix_in(self.space_ix(space)?, log)
    }

    pub(super) fn log_ix_in(&self, space_ix: SpaceIx, log: &LogId) -> Option<LogIx> {
        self.logs.get(&(space_ix, *log)).map(|log_ix| (space_ix, *log_ix))
    }

    pub(super) fn truncations(&self, space: &SpaceId) -> u64 {
        self.spaces.get(space).map_or(0, |(_, row)| row.truncations)
    }

    pub(super) fn tip(&self, log: LogIx) -> Tip {
        self.tips.get(&log).copied().unwrap_or(Tip::NONE)
    }

    pub(super) fn draft_end(&self, log: LogIx) -> Seq {
        self.draft_ends.get(&log).copied().unwrap_or(Seq::ZERO)
    }

    pub(super) fn base(&self, space_ix: SpaceIx) -> Option<&HeldBase> {
        self.bases.get(&space_ix)
    }

    /// The last place of a log that no batch holds any more: everything up to it is in the base.
    pub(super) fn floor(&self, log: LogIx) -> Tip {
        self.floors.get(&log).copied().unwrap_or(Tip::NONE)
    }

    pub(super) fn floors(&self, space_ix: SpaceIx) -> impl Iterator<Item = (LogIx, Tip)> {
        self.floors.range((space_ix, 0)..=(space_ix, u32::MAX)).map(|(log_ix, tip)| (*log_ix, *tip))
    }

    /// Sets a base; the floor of each of its logs is set apart, because it goes by another number.
    pub(super) fn set_base(&mut self, space_ix: SpaceIx, base: HeldBase) {
        self.bases.insert(space_ix, base);
    }

    pub(super) fn set_floor(&mut self, log: LogIx, floor: Tip) {
        self.floors.insert(log, floor);
    }

    pub(super) fn set_space(&mut self, ix: SpaceIx, row: SpaceRow) {
        self.spaces.insert(row.space, (ix, row));
    }

    pub(super) fn set_log(&mut self, (space_ix, log_ix): LogIx, log: LogId) {
        self.logs.insert((space_ix, log), log_ix);
        let count = self.log_counts.entry(space_ix).or_default();
        *count = (*count).max(log_ix + 1);
    }

    pub(super) fn set_tip(&mut self, log: LogIx, tip: Tip) {
        self.tips.insert(log, tip);
    }

    pub(super) fn set_draft_end(&mut self, log: LogIx, end: Seq) {
        self.draft_ends.insert(log, end);
    }

    /// Takes over what a committed transaction changed.
    pub(super) fn merge(&mut self, changes: Self) {
        let Self { commits, spaces, logs, log_counts, tips, draft_ends, bases, floors } = changes;
        self.commits = commits;
        self.spaces.extend(spaces);
        self.logs.extend(logs);
        self.log_counts.extend(log_counts);
        self.tips.extend(tips);
        self.draft_ends.extend(draft_ends);
        self.bases.extend(bases);
        self.floors.extend(floors);
    }
}

/// An [`Index`] with the changes of a transaction that is not committed yet.
pub(super) struct Changes<'a> {
    base: &'a Index,
    changed: Index,
}

impl<'a> Changes<'a> {
    pub(super) fn on(base: &'a Index) -> Self {
        Self { base, changed: Index { commits: base.commits + 1, ..Index::default() } }
    }

    pub(super) fn finish(self) -> Index {
        self.changed
    }

    pub(super) fn space(&self, space: &SpaceId) -> Option<&(SpaceIx, SpaceRow)> {
        self.changed.spaces.get(space).or_else(|| self.base.spaces.get(space))
    }

    /// The number the next new space gets: they are never removed.
    pub(super) fn next_space_ix(&self) -> SpaceIx {
        let greatest = |index: &Index| index.spaces.values().map(|(ix, _)| *ix + 1).max().unwrap_or(0);
        greatest(self.base).max(greatest(&self.changed))
    }

    pub(super) fn log_ix(&self, space_ix: SpaceIx, log: &LogId) -> Option<LogIx> {
        let key = (space_ix, *log);
        self.changed.logs.get(&key).or_else(|| self.base.logs.get(&key)).map(|log_ix| (space_ix, *log_ix))
    }

    pub(super) fn next_log_ix(&self, space_ix: SpaceIx) -> LogIx {
        let count = |index: &Index| index.log_counts.get(&space_ix).copied().unwrap_or(0);
        (space_ix, count(self.base).max(count(&self.changed)))
    }

    pub(super) fn tip(&self, log: LogIx) -> Tip {
        self.changed.tips.get(&log).copied().unwrap_or_else(|| self.base.tip(log))
    }

    /// The last position held, sealed or drafted.
    pub(super) fn end(&self, log: LogIx) -> Seq {
        let drafted = self.changed.draft_ends.get(&log).copied();
        self.tip(log).seq.max(drafted.unwrap_or_else(|| self.base.draft_end(log)))
    }

    pub(super) fn base(&self, space_ix: SpaceIx) -> Option<&HeldBase> {
        self.changed.base(space_ix).or_else(|| self.base.base(space_ix))
    }

    /// The floor of a log as the transaction leaves it.
    pub(super) fn floor(&self, log: LogIx) -> Tip {
        self.changed.floors.get(&log).copied().unwrap_or_else(|| self.base.floor(log))
    }

    pub(super) fn changed(&mut self) -> &mut Index {
        &mut self.changed
    }
}
