//! Ops that were written again into another log of their device, and where they can be read.
//!
//! An op that is folded from a reissue is known by its original place and stamp, where the log that
//! was given up may hold another op by now, or nothing. Such an op is read where it was written
//! again; of several such places the smallest counts, so that every device reads the same one.

use std::collections::BTreeMap;

use super::logs::{Entry, LocalDot, LogIndex, Logs, Mark};
use super::root::RowTag;
use crate::model::{Hlc, Seq};

#[derive(Default)]
pub(super) struct Relocated {
    /// By the op and the row it touches: two lives of a device may give one place and stamp to ops
    /// on different rows.
    places: BTreeMap<(Entry, RowTag), LocalDot>,
}

impl Relocated {
    /// Remembers where an op was written again; `false` if it was known to be.
    pub(super) fn insert(&mut self, op: Entry, row: RowTag, place: LocalDot, logs: &Logs) -> bool {
        let mut is_new = false;
        let known = self.places.entry((op.written(), row)).or_insert_with(|| {
            is_new = true;
            place
        });
        let by_id = |dot: &LocalDot| (*logs.id(dot.log), dot.seq);
        if by_id(&place) < by_id(known) {
            *known = place;
        }
        is_new
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether the op of this place and stamp was written again, on whichever row.
    pub(super) fn has(&self, log: LogIndex, seq: Seq, hlc: Hlc) -> bool {
        [Mark::Live, Mark::Tombstone].into_iter().any(|mark| {
            let entry = Entry::new(LocalDot { log, seq }, hlc, mark);
            self.places.range((entry, RowTag::MIN)..=(entry, RowTag::MAX)).next().is_some()
        })
    }

    pub(super) fn place(&self, op: &Entry, row: RowTag) -> Option<LocalDot> {
        self.places.get(&(op.written(), row)).copied()
    }

    /// Every op of a log that was written again, its row, and where, in rising order.
    pub(super) fn of_log(&self, log: LogIndex) -> Vec<(Entry, RowTag, LocalDot)> {
        let of_log = self.places.iter().filter(|((op, _), _)| op.log == log);
        let mut all: Vec<_> = of_log.map(|((op, row), place)| (*op, *row, *place)).collect();
        all.sort_unstable_by_key(|(op, row, _)| (op.seq, op.hlc, op.mark, *row));
        all
    }
}
