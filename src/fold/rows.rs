//! Registry rows: multi-value registers.
//!
//! The heads of a row are the ops on it that no other op on it names as a predecessor. A
//! predecessor that has not arrived is remembered as covered; whether one has arrived is known
//! from how far its log is applied, so nothing is remembered for those that have. The shown head is
//! the greatest by total order. A row is in conflict while it has two heads or more and not all of
//! them are tombstones: two devices that both deleted agree.

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
    Many(Box<Heads>),
}

/// A row with several heads, or with predecessors that have not arrived.
#[derive(Default)]
pub(super) struct Heads {
    /// In total order, the shown one last.
    heads: Vec<Entry>,
    /// Named as predecessors before they arrived; sorted.
    covered: Vec<LocalDot>,
}

/// An op on a row, its predecessors resolved; it is not among them itself.
pub(super) struct Write<'a> {
    pub(super) entry: Entry,
    /// Predecessors that have been applied.
    pub(super) arrived: &'a [LocalDot],
    /// Predecessors that have not.
    pub(super) pending: &'a [LocalDot],
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
                match row {
                    Some(row) => *slot.get_mut() = row,
                    None => drop(slot.remove()),
                }
                applied
            }
        }
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
    /// A row of these heads (in total order) and covered predecessors (sorted); `None` if it has neither.
    pub(super) fn of(heads: Vec<Entry>, covered: Vec<LocalDot>) -> Option<Self> {
        match (&heads[..], &covered[..]) {
            ([], []) => None,
            ([head], []) => Some(Self::One(*head)),
            _ => Some(Self::Many(Box::new(Heads { heads, covered }))),
        }
    }

    /// The heads in total order; the last is shown. Empty where every op names another in a circle.
    pub(super) fn heads(&self) -> &[Entry] {
        match self {
            Self::One(head) => std::slice::from_ref(head),
            Self::Many(many) => &many.heads,
        }
    }

    /// Predecessors that had not arrived when they were named; some may have since, on other rows.
    pub(super) fn covered(&self) -> &[LocalDot] {
        match self {
            Self::One(_) => &[],
            Self::Many(many) => &many.covered,
        }
    }

    pub(super) fn is_conflict(&self) -> bool {
        self.standing().is_conflict
    }

    fn standing(&self) -> Standing {
        let heads = self.heads();
        Standing {
            shown: heads.last().map(|head| head.mark),
            is_conflict: heads.len() > 1 && heads.iter().any(|head| head.mark == Mark::Live),
        }
    }

    fn into_heads(self) -> Heads {
        match self {
            Self::One(head) => Heads { heads: vec![head], covered: Vec::new() },
            Self::Many(many) => *many,
        }
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
        None if write.pending.is_empty() => {
            leaves.add(&write.entry);
            (Some(Row::One(write.entry)), Applied::Shown)
        }
        Some(Row::One(head)) if write.pending.is_empty() && write.arrived.contains(&head.dot()) => {
            leaves.remove(&head);
            leaves.add(&write.entry);
            (Some(Row::One(write.entry)), Applied::Shown)
        }
        row => fold_many(row.map_or_else(Heads::default, Row::into_heads), write, logs, leaves),
    }
}

fn fold_many(
    Heads { mut heads, mut covered }: Heads,
    write: &Write<'_>,
    logs: &Logs,
    leaves: &mut Leaves<'_>,
) -> (Option<Row>, Applied) {
    let mut arrived = write.arrived.to_vec();
    arrived.sort_unstable();
    heads.retain(|head| {
        let is_named = arrived.binary_search(&head.dot()).is_ok();
        if is_named {
            leaves.remove(head);
        }
        !is_named
    });
    let covered_at = covered.binary_search(&write.entry.dot());
    if let Ok(at) = covered_at {
        covered.remove(at);
    }
    if !write.pending.is_empty() {
        covered.extend_from_slice(write.pending);
        covered.sort_unstable();
        covered.dedup();
    }
    let applied = if covered_at.is_ok() {
        Applied::Covered
    } else {
        leaves.add(&write.entry);
        let at = heads.partition_point(|head| logs.order(head, &write.entry).is_lt());
        heads.reserve_exact(1);
        heads.insert(at, write.entry);
        if at + 1 == heads.len() { Applied::Shown } else { Applied::Listed }
    };
    (Row::of(heads, covered), applied)
}

const _: () = assert!(size_of::<Row>() == 24);
