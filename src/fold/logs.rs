//! The logs a state has heard of, how far each is applied, and the total order over their ops.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::model::{Dot, Hlc, LogId, Seq};

/// A log's number inside one state. Numbers follow arrival, so no order and no hash may use them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct LogIndex(u32);

impl LogIndex {
    pub(super) const fn new(raw: u32) -> Self {
        Self(raw)
    }
    pub(super) const fn get(self) -> u32 {
        self.0
    }
    fn at(self) -> usize {
        self.0 as usize
    }
}

/// An op's place, with the log as its number. Its order is for searching only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct LocalDot {
    pub(super) log: LogIndex,
    pub(super) seq: Seq,
}

/// What an op does to its row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Mark {
    /// It sets a value.
    Live,
    /// It removes the row.
    Tombstone,
}

/// An op as the state keeps it: the place that is its name, and its stamp.
///
/// Two lives of a device may give one place to two ops; only with the stamp is it one op. Its
/// derived order is for searching only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Entry {
    pub(super) hlc: Hlc,
    pub(super) seq: Seq,
    pub(super) log: LogIndex,
    pub(super) mark: Mark,
    /// Whether it came to a row whose removal a checkpoint had laid down already: it never shows while a
    /// removal stands beside it. Neither this nor the next is part of what it is known by.
    pub(super) is_late: bool,
    /// Whether the checkpoint holds it that the state was folded onto; told of registry rows only.
    pub(super) is_laid_down: bool,
}

impl Entry {
    /// An op as it was written.
    pub(super) const fn new(dot: LocalDot, hlc: Hlc, mark: Mark) -> Self {
        Self { hlc, seq: dot.seq, log: dot.log, mark, is_late: false, is_laid_down: false }
    }

    /// The op as it was written.
    pub(super) const fn written(&self) -> Self {
        Self::new(self.dot(), self.hlc, self.mark)
    }

    pub(super) const fn dot(&self) -> LocalDot {
        LocalDot { log: self.log, seq: self.seq }
    }
}

#[derive(Debug, Default)]
pub(super) struct Logs {
    slots: Vec<Slot>,
    index: BTreeMap<LogId, LogIndex>,
    /// The log interned last: ops come in runs of one log.
    last: Option<LogIndex>,
}

#[derive(Debug)]
struct Slot {
    id: LogId,
    applied: Seq,
    /// How far the checkpoint reaches that the state was folded onto.
    floor: Seq,
}

impl Logs {
    /// The number of the log whose ops are being applied, given to it now if it has none.
    pub(super) fn intern(&mut self, id: &LogId) -> LogIndex {
        if let Some(last) = self.last.filter(|last| self.slots[last.at()].id == *id) {
            return last;
        }
        let index = self.find_or_add(id);
        self.last = Some(index);
        index
    }

    /// The number of any log, given to it now if it has none.
    pub(super) fn find_or_add(&mut self, id: &LogId) -> LogIndex {
        let slots = &mut self.slots;
        *self.index.entry(*id).or_insert_with(|| {
            slots.push(Slot { id: *id, applied: Seq::ZERO, floor: Seq::ZERO });
            LogIndex(u32::try_from(slots.len() - 1).expect("memory ends before 2^32 logs of 56 bytes"))
        })
    }

    pub(super) fn find(&self, id: &LogId) -> Option<LogIndex> {
        self.index.get(id).copied()
    }

    pub(super) fn id(&self, log: LogIndex) -> &LogId {
        &self.slots[log.at()].id
    }

    pub(super) fn applied(&self, log: LogIndex) -> Seq {
        self.slots[log.at()].applied
    }

    pub(super) fn floor(&self, log: LogIndex) -> Seq {
        self.slots[log.at()].floor
    }

    pub(super) fn set_floor(&mut self, log: LogIndex, floor: Seq) {
        self.slots[log.at()].floor = floor;
    }

    /// Everything applied so far is what a checkpoint holds.
    pub(super) fn lay_down(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.floor = slot.applied);
    }

    pub(super) fn set_applied(&mut self, log: LogIndex, seq: Seq) {
        assert!(seq > self.slots[log.at()].applied, "a log is never applied backwards");
        self.slots[log.at()].applied = seq;
    }

    /// Whether the op at `dot` has been applied.
    pub(super) fn has(&self, dot: LocalDot) -> bool {
        self.applied(dot.log) >= dot.seq
    }

    pub(super) fn dot(&self, entry: &Entry) -> Dot {
        Dot { log: *self.id(entry.log), seq: entry.seq }
    }

    /// The total order: (hlc, device, incarnation, seq). Equal only for equal entries.
    pub(super) fn order(&self, a: &Entry, b: &Entry) -> Ordering {
        a.hlc
            .cmp(&b.hlc)
            .then_with(|| if a.log == b.log { Ordering::Equal } else { self.id(a.log).cmp(self.id(b.log)) })
            .then_with(|| a.seq.cmp(&b.seq))
            .then_with(|| a.mark.cmp(&b.mark))
    }

    /// The total order against an op that this state may never have seen.
    pub(super) fn order_against(&self, entry: &Entry, hlc: Hlc, dot: &Dot) -> Ordering {
        entry
            .hlc
            .cmp(&hlc)
            .then_with(|| self.id(entry.log).cmp(&dot.log))
            .then_with(|| entry.seq.cmp(&dot.seq))
    }

    /// Every log heard of, in the order of their ids, with the number it has here.
    pub(super) fn by_id(&self) -> impl DoubleEndedIterator<Item = (&LogId, LogIndex)> {
        self.index.iter().map(|(id, index)| (id, *index))
    }

    pub(super) fn log_count(&self) -> usize {
        self.slots.len()
    }
}
