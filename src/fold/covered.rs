//! Which places are covered on which rows: named as predecessors there.
//!
//! An op may arrive after one that names it, and it may arrive again, under its own place or written
//! again into another log. So what has been named is remembered for good, as the row's tag by place.
//! Logs are dense, so the tags of a log lie in pages by position; a place that has not arrived when
//! it is named, or is named on several rows, is kept aside: nobody can claim whole pages by naming
//! positions that no log reaches.

use std::collections::{BTreeMap, BTreeSet};

use super::logs::{LocalDot, LogIndex, Logs};
use super::root::RowTag;
use crate::model::Seq;

#[derive(Default)]
pub(super) struct Covered {
    /// By log and position; zero where nothing is.
    pages: BTreeMap<(LogIndex, u64), Box<[u64; PAGE]>>,
    aside: BTreeSet<(LocalDot, RowTag)>,
}

/// A page that is being filled, with its place.
type OpenPage = ((LogIndex, u64), Box<[u64; PAGE]>);

impl Covered {
    /// Remembers that an op on the row names `dot`; `false` if that was known.
    pub(super) fn insert(&mut self, dot: LocalDot, row: RowTag, logs: &Logs) -> bool {
        if self.contains(dot, row) {
            return false;
        }
        if !(logs.has(dot) && self.place(dot, row)) {
            self.aside.insert((dot, row));
        }
        true
    }

    /// Remembers many places, in rising order of theirs.
    pub(super) fn extend(&mut self, rising: impl Iterator<Item = (LocalDot, RowTag)>, logs: &Logs) {
        // The page that is being filled is taken out: most places lie in that of the one before.
        let mut open: Option<OpenPage> = None;
        for (dot, row) in rising {
            let (page, at) = page_of(dot);
            if !logs.has(dot) {
                self.aside.insert((dot, row));
                continue;
            }
            if open.as_ref().is_none_or(|(open, _)| *open != page) {
                self.pages.extend(open.take());
            }
            let (_, tags) = open.get_or_insert_with(|| {
                (page, self.pages.remove(&page).unwrap_or_else(|| Box::new([0; PAGE])))
            });
            match tags[at] {
                0 => tags[at] = row.get(),
                tag if tag == row.get() => {}
                _ => drop(self.aside.insert((dot, row))),
            }
        }
        self.pages.extend(open);
    }

    pub(super) fn contains(&self, dot: LocalDot, row: RowTag) -> bool {
        let (page, at) = page_of(dot);
        let tag = self.pages.get(&page).map_or(0, |page| page[at]);
        tag == row.get() || (!self.aside.is_empty() && self.aside.contains(&(dot, row)))
    }

    /// Whether `dot` is covered on any row: asked first where the row's tag would have to be computed.
    pub(super) fn contains_any(&self, dot: LocalDot) -> bool {
        let (page, at) = page_of(dot);
        self.pages.get(&page).is_some_and(|page| page[at] != 0)
            || self.aside.range((dot, RowTag::MIN)..=(dot, RowTag::MAX)).next().is_some()
    }

    /// Whether the op that is the next of its log is covered on the row it touches.
    pub(super) fn arrive(&mut self, dot: LocalDot, row: RowTag) -> bool {
        if self.aside.is_empty() || !self.aside.remove(&(dot, row)) {
            return self.contains(dot, row);
        }
        if !self.place(dot, row) {
            self.aside.insert((dot, row));
        }
        true
    }

    /// What is covered in a log, in rising order.
    pub(super) fn of_log(&self, log: LogIndex) -> Vec<(Seq, RowTag)> {
        let in_pages = self.pages.range((log, 0)..=(log, u64::MAX)).flat_map(|((_, page), tags)| {
            let seqs = page * PAGE as u64..;
            seqs.zip(&tags[..]).filter_map(|(seq, tag)| Some((Seq::new(seq), RowTag::from_raw(*tag)?)))
        });
        let dot = |seq| LocalDot { log, seq: Seq::new(seq) };
        let aside = self.aside.range((dot(0), RowTag::MIN)..=(dot(u64::MAX), RowTag::MAX));
        let mut all: Vec<_> = in_pages.chain(aside.map(|(dot, row)| (dot.seq, *row))).collect();
        all.sort_unstable();
        all
    }

    /// Puts the tag into its page; `false` where that place is covered on another row.
    fn place(&mut self, dot: LocalDot, row: RowTag) -> bool {
        let (page, at) = page_of(dot);
        let tag = &mut self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE]))[at];
        if *tag == 0 {
            *tag = row.get();
        }
        *tag == row.get()
    }
}

fn page_of(dot: LocalDot) -> ((LogIndex, u64), usize) {
    let seq = dot.seq.get();
    ((dot.log, seq / PAGE as u64), (seq % PAGE as u64) as usize)
}

/// Positions per page: one with a single tag costs little, a full one hardly more than its tags.
const PAGE: usize = 32;

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;
    use proptest::prelude::*;

    fn tag(raw: u64) -> RowTag {
        RowTag::from_raw(raw).unwrap()
    }

    #[test]
    fn a_position_no_log_reaches_takes_no_pages() {
        let mut logs = Logs::default();
        let log = logs.intern(&reference::log(0));
        let mut covered = Covered::default();
        let far = LocalDot { log, seq: Seq::new(u64::MAX) };

        assert!(covered.insert(far, tag(1), &logs));

        assert!(covered.pages.is_empty());
        assert!(covered.contains(far, tag(1)) && !covered.contains(far, tag(2)));
        assert_eq!(covered.of_log(log), [(far.seq, tag(1))]);
    }

    #[test]
    fn what_was_named_early_finds_its_page_when_it_arrives() {
        let mut logs = Logs::default();
        let log = logs.intern(&reference::log(0));
        let mut covered = Covered::default();
        let dot = LocalDot { log, seq: Seq::new(1) };
        covered.insert(dot, tag(1), &logs);

        assert!(covered.arrive(dot, tag(1)));

        assert!(covered.aside.is_empty() && covered.contains(dot, tag(1)));
        assert!(!covered.insert(dot, tag(1), &logs), "known");
    }

    proptest! {
        #[test]
        fn it_holds_what_was_put_in(
            named in prop::collection::vec((0usize..3, 1u64..100, 1u64..4), 0..200),
            reached in 0u64..100,
        ) {
            let mut logs = Logs::default();
            let numbers = [0, 1, 2].map(|index| logs.intern(&reference::log(index)));
            numbers.iter().filter(|_| reached > 0).for_each(|log| logs.set_applied(*log, Seq::new(reached)));
            let mut covered = Covered::default();
            let mut expected = BTreeSet::new();

            for (log, seq, row) in named {
                let dot = LocalDot { log: numbers[log], seq: Seq::new(seq) };
                prop_assert_eq!(covered.insert(dot, tag(row), &logs), expected.insert((dot, tag(row))));
            }
            // All at once, and to half of them.
            let (mut at_once, mut halves) = (Covered::default(), Covered::default());
            at_once.extend(expected.iter().copied(), &logs);
            for (dot, row) in expected.iter().step_by(2) {
                prop_assert!(halves.insert(*dot, *row, &logs));
            }
            halves.extend(expected.iter().copied(), &logs);
            for log in numbers {
                prop_assert_eq!(at_once.of_log(log), covered.of_log(log));
                prop_assert_eq!(halves.of_log(log), covered.of_log(log));
            }

            for log in numbers {
                let held: BTreeSet<_> =
                    covered.of_log(log).into_iter().map(|(seq, row)| (LocalDot { log, seq }, row)).collect();
                let of_log = expected.iter().filter(|(dot, _)| dot.log == log).copied();
                prop_assert_eq!(held, of_log.collect::<BTreeSet<_>>());
            }
            prop_assert!(expected.iter().all(|(dot, row)| covered.contains(*dot, *row)));
            for (log, seq) in numbers.iter().flat_map(|log| (1..100).map(move |seq| (*log, Seq::new(seq)))) {
                let is_expected = expected.iter().any(|(dot, _)| *dot == LocalDot { log, seq });
                prop_assert_eq!(covered.contains_any(LocalDot { log, seq }), is_expected);
            }
        }
    }
}
