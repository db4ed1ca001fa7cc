//! Registry rows: multi-value registers.
//!
//! The heads of a row are the ops on it that no other op on it names as a predecessor; what has been
//! named is in [`Covered`](super::covered::Covered). The shown head is the greatest by total order. A
//! row is in conflict while it has two heads or more and not all of them are tombstones: two devices
//! that both deleted agree.
//!
//! A value that comes to a removal which a checkpoint has laid down is *late*: whoever wrote it was away
//! when the row was removed, and was not waited for. It is listed, and does not show beside the removal.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use super::key::Key;
use super::logs::{Entry, LocalDot, Logs, Mark};
use super::root::Leaves;
use super::state::Applied;

/// The rows of one surface of the registry tier.
#[derive(Default)]
pub(super) struct Registers {
    rows: BTreeMap<Key, Row>,
    conflicts: BTreeSet<Key>,
    live_count: u64,
    tombstone_count: u64,
}

/// One row. Nearly all have a single head, which is kept in place.
pub(super) enum Row {
    One(Entry),
    /// In total order, the shown one last.
    Many(Box<[Entry]>),
}

/// An op on a row, and what it says of the others there.
pub(super) struct Write<'a> {
    pub(super) entry: Entry,
    /// Places that it is the first on the row to name.
    pub(super) replaces: &'a [LocalDot],
    /// Whether another op on the row names its place.
    pub(super) is_covered: bool,
}

impl Registers {
    pub(super) fn fold(
        &mut self,
        key: &str,
        write: &Write<'_>,
        logs: &Logs,
        leaves: &mut Leaves<'_>,
    ) -> Applied {
        match self.rows.entry(Key::new(key)) {
            Slot::Vacant(slot) => {
                let (row, applied) = fold_row(None, write, logs, leaves);
                let Some(row) = row else { return applied };
                let after = row.standing();
                self.live_count += u64::from(after.is_live());
                self.tombstone_count += u64::from(after.is_removed());
                slot.insert(row);
                applied
            }
            Slot::Occupied(mut slot) => {
                let before = slot.get().standing();
                let row = mem::replace(slot.get_mut(), Row::One(write.entry));
                let (row, applied) = fold_row(Some(row), write, logs, leaves);
                let after = row.as_ref().map_or(Standing::ABSENT, Row::standing);
                self.live_count = self.live_count + u64::from(after.is_live()) - u64::from(before.is_live());
                self.tombstone_count =
                    self.tombstone_count + u64::from(after.is_removed()) - u64::from(before.is_removed());
                match (before.is_conflict, after.is_conflict) {
                    (false, true) => drop(self.conflicts.insert(slot.key().clone())),
                    (true, false) => drop(self.conflicts.remove(slot.key())),
                    (false, false) | (true, true) => {}
                }
                let is_listed = applied == Applied::Shown
                    && row.as_ref().is_some_and(|row| row.heads()[row.shown()] != write.entry);
                match row {
                    Some(row) => *slot.get_mut() = row,
                    None => drop(slot.remove()),
                }
                if is_listed { Applied::Listed } else { applied }
            }
        }
    }

    /// Gives the shown head of a row another stamp; false where there is no such row.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn spoil(&mut self, key: &str, leaves: &mut Leaves<'_>) -> bool {
        let Some(row) = self.rows.get_mut(&Key::new(key)) else { return false };
        let mut heads = row.heads().to_vec();
        let Some(head) = heads.last_mut() else { return false };
        leaves.remove(head);
        head.hlc = crate::model::Hlc::new(head.hlc.get() ^ 1);
        leaves.add(head);
        *row = Row::of(heads).expect("it has as many heads as before");
        true
    }

    /// Marks what a checkpoint holds, and what is late now for good; how many heads were not before.
    pub(super) fn lay_down(&mut self) -> u64 {
        self.rows.values_mut().map(Row::lay_down).sum()
    }

    pub(super) const fn rows(&self) -> &BTreeMap<Key, Row> {
        &self.rows
    }
    pub(super) const fn conflicts(&self) -> &BTreeSet<Key> {
        &self.conflicts
    }
    pub(super) const fn live_count(&self) -> u64 {
        self.live_count
    }
    pub(super) const fn tombstone_count(&self) -> u64 {
        self.tombstone_count
    }

    /// Builds a surface from rows in strictly rising key order.
    pub(super) fn from_sorted(rows: Vec<(Key, Row)>) -> Self {
        let mut registers = Self::default();
        for (key, row) in &rows {
            let standing = row.standing();
            registers.live_count += u64::from(standing.is_live());
            registers.tombstone_count += u64::from(standing.is_removed());
            if standing.is_conflict {
                registers.conflicts.insert(key.clone());
            }
        }
        registers.rows = rows.into_iter().collect();
        registers
    }
}

impl Row {
    /// A row of these heads, in total order; `None` if there are none.
    pub(super) fn of(heads: Vec<Entry>) -> Option<Self> {
        match &heads[..] {
            [] => None,
            [head] => Some(Self::One(*head)),
            _ => Some(Self::Many(heads.into())),
        }
    }

    /// The heads in total order; see [`Row::shown`] for which one is shown.
    pub(super) fn heads(&self) -> &[Entry] {
        match self {
            Self::One(head) => std::slice::from_ref(head),
            Self::Many(heads) => heads,
        }
    }

    pub(super) fn is_conflict(&self) -> bool {
        let heads = self.heads();
        heads.len() > 1 && heads.iter().any(|head| head.mark == Mark::Live)
    }

    /// Which head is shown: the last one that is not late.
    pub(super) fn shown(&self) -> usize {
        let heads = self.heads();
        heads.iter().rposition(|head| !self.is_late(head)).unwrap_or(heads.len() - 1)
    }

    /// Whether a head is late: it stands beside a removal, and came after that was laid down.
    pub(super) fn is_late(&self, head: &Entry) -> bool {
        let Self::Many(heads) = self else { return false };
        let mut removals = heads.iter().filter(|head| head.mark == Mark::Tombstone);
        head.mark == Mark::Live
            && removals.any(|removal| head.is_late || (removal.is_laid_down && !head.is_laid_down))
    }

    /// Marks every head as one that a checkpoint holds, and those that are late now, so that they stay so;
    /// how many were not marked late before.
    fn lay_down(&mut self) -> u64 {
        let late: Vec<bool> = self.heads().iter().map(|head| self.is_late(head)).collect();
        let heads = match self {
            Self::One(head) => std::slice::from_mut(head),
            Self::Many(heads) => heads,
        };
        let mut count = 0;
        for (head, is_late) in heads.iter_mut().zip(late) {
            count += u64::from(is_late && !head.is_late);
            head.is_late |= is_late;
            head.is_laid_down = true;
        }
        count
    }

    fn standing(&self) -> Standing {
        let shown = &self.heads()[self.shown()];
        Standing { shown: Some(shown.mark), is_conflict: self.is_conflict() }
    }
}

/// What a row counts as.
#[derive(Clone, Copy)]
struct Standing {
    shown: Option<Mark>,
    is_conflict: bool,
}

impl Standing {
    const ABSENT: Self = Self { shown: None, is_conflict: false };

    fn is_live(self) -> bool {
        self.shown == Some(Mark::Live)
    }
    fn is_removed(self) -> bool {
        self.shown == Some(Mark::Tombstone)
    }
}

fn fold_row(
    row: Option<Row>,
    write: &Write<'_>,
    logs: &Logs,
    leaves: &mut Leaves<'_>,
) -> (Option<Row>, Applied) {
    match row {
        None if !write.is_covered => {
            leaves.add(&write.entry);
            (Some(Row::One(write.entry)), Applied::Shown)
        }
        Some(Row::One(head)) if !write.is_covered && write.replaces.contains(&head.dot()) => {
            leaves.remove(&head);
            leaves.add(&write.entry);
            (Some(Row::One(write.entry)), Applied::Shown)
        }
        row => fold_many(row.as_ref().map_or(&[], Row::heads), write, logs, leaves),
    }
}

fn fold_many(
    heads: &[Entry],
    write: &Write<'_>,
    logs: &Logs,
    leaves: &mut Leaves<'_>,
) -> (Option<Row>, Applied) {
    let mut replaces = write.replaces.to_vec();
    replaces.sort_unstable();
    let (replaced, mut heads): (Vec<Entry>, Vec<Entry>) =
        heads.iter().partition(|head| replaces.binary_search(&head.dot()).is_ok());
    replaced.iter().for_each(|head| leaves.remove(head));
    if write.is_covered {
        return (Row::of(heads), Applied::Covered);
    }
    let applied = match heads.binary_search_by(|head| logs.order(head, &write.entry)) {
        Ok(_) => Applied::Again,
        Err(at) => {
            leaves.add(&write.entry);
            heads.insert(at, write.entry);
            if at + 1 == heads.len() { Applied::Shown } else { Applied::Listed }
        }
    };
    (Row::of(heads), applied)
}

const _: () = assert!(size_of::<Row>() == 24);
