//! Streams of events: sets by place and stamp, read in total order.
//!
//! Events mostly arrive in order, but a log that comes late may put all of its events before those
//! that are here. A stream is therefore a few sorted runs: an event goes to the end of the first run
//! that it continues, or starts a run; a run that has grown to half of the one before is merged into
//! it. So there are at most log2(n) runs, an event moves O(log n) times, and reading needs no `&mut`.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::key::Key;
use super::logs::{Entry, Logs};
use super::root::{RowHash, Tree};
use super::state::Applied;
use crate::model::{Dot, Hlc};

/// The streams of one surface of the event tier.
#[derive(Default)]
pub(super) struct Streams {
    streams: BTreeMap<Key, Stream>,
    event_count: u64,
}

/// One stream.
pub(super) struct Stream {
    /// Each sorted in total order and more than twice as long as the next.
    runs: Vec<Vec<Entry>>,
    /// Kept because every event of the stream needs it.
    row: RowHash,
}

impl Streams {
    /// Adds an event. `is_maybe_known` says that it may be here already.
    pub(super) fn fold(
        &mut self,
        (surface, key): (&str, &str),
        event: Entry,
        is_maybe_known: bool,
        logs: &Logs,
        tree: &mut Tree,
    ) -> Applied {
        let stream = self
            .streams
            .entry(Key::new(key))
            .or_insert_with(|| Stream { runs: Vec::new(), row: tree.row(surface, key) });
        if is_maybe_known && stream.contains(&event, logs) {
            return Applied::Again;
        }
        tree.leaves(stream.row, logs).add(&event);
        stream.push(event, logs);
        self.event_count += 1;
        Applied::Shown
    }

    pub(super) const fn streams(&self) -> &BTreeMap<Key, Stream> {
        &self.streams
    }
    pub(super) const fn event_count(&self) -> u64 {
        self.event_count
    }

    /// Drops the first events of a stream, and the stream where none is left.
    pub(super) fn drop_first(&mut self, key: &Key, count: usize, logs: &Logs, tree: &mut Tree) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let events: Vec<Entry> = stream.iter(None, logs).copied().collect();
        let (dropped, kept) = events.split_at(count.min(events.len()));
        dropped.iter().for_each(|event| tree.leaves(stream.row, logs).remove(event));
        self.event_count -= dropped.len() as u64;
        if kept.is_empty() {
            self.streams.remove(key);
        } else {
            stream.runs = vec![kept.to_vec()];
        }
    }

    /// Builds a surface from streams in strictly rising key order.
    pub(super) fn from_sorted(streams: Vec<(Key, Stream)>) -> Self {
        let event_count = streams.iter().map(|(_, stream)| stream.event_count()).sum();
        Self { event_count, streams: streams.into_iter().collect() }
    }
}

impl Stream {
    /// A stream of these events, in total order.
    pub(super) fn from_sorted(events: Vec<Entry>, row: RowHash) -> Self {
        Self { runs: vec![events], row }
    }

    pub(super) fn event_count(&self) -> u64 {
        self.runs.iter().map(|run| run.len() as u64).sum()
    }

    /// The greatest stamp in the stream.
    pub(super) fn greatest(&self) -> Hlc {
        self.runs.iter().filter_map(|run| run.last()).map(|event| event.hlc).max().unwrap_or_default()
    }

    /// The events after a place in the total order, or all, in order.
    pub(super) fn iter<'a>(
        &'a self,
        after: Option<(Hlc, Dot)>,
        logs: &'a Logs,
    ) -> impl Iterator<Item = &'a Entry> {
        let mut rests: Vec<&[Entry]> = self
            .runs
            .iter()
            .map(|run| {
                let from = after.map_or(0, |(hlc, dot)| {
                    run.partition_point(|event| logs.order_against(event, hlc, &dot) != Ordering::Greater)
                });
                &run[from..]
            })
            .filter(|rest| !rest.is_empty())
            .collect();
        std::iter::from_fn(move || {
            let least = (0..rests.len()).min_by(|a, b| logs.order(&rests[*a][0], &rests[*b][0]))?;
            let (event, rest) = rests[least].split_first().expect("empty rests are dropped");
            if rest.is_empty() {
                rests.remove(least);
            } else {
                rests[least] = rest;
            }
            Some(event)
        })
    }

    pub(super) fn contains(&self, event: &Entry, logs: &Logs) -> bool {
        self.runs.iter().any(|run| run.binary_search_by(|held| logs.order(held, event)).is_ok())
    }

    fn push(&mut self, event: Entry, logs: &Logs) {
        let continues = |run: &Vec<Entry>| run.last().is_some_and(|last| logs.order(last, &event).is_lt());
        match self.runs.iter().position(continues) {
            Some(at) => self.runs[at].push(event),
            None => self.runs.push(vec![event]),
        }
        // From the end: merging may make a run long enough for the one before it.
        for at in (1..self.runs.len()).rev() {
            if self.runs[at].len() * 2 > self.runs[at - 1].len() {
                let late = self.runs.remove(at);
                let early = std::mem::take(&mut self.runs[at - 1]);
                self.runs[at - 1] = merge(early, late, logs);
            }
        }
    }
}

fn merge(early: Vec<Entry>, late: Vec<Entry>, logs: &Logs) -> Vec<Entry> {
    let mut merged = Vec::with_capacity(early.len() + late.len());
    let mut rest = &late[..];
    for event in early {
        while let Some((first, others)) = rest.split_first()
            && logs.order(first, &event).is_lt()
        {
            merged.push(*first);
            rest = others;
        }
        merged.push(event);
    }
    merged.extend_from_slice(rest);
    merged
}

#[cfg(test)]
mod tests {
    use super::super::logs::{LocalDot, Mark};
    use super::super::reference;
    use super::*;
    use crate::model::Seq;

    fn check(hlcs: impl Iterator<Item = u64>) {
        let mut logs = Logs::default();
        let log = logs.intern(&reference::log(0));
        let mut stream = Stream { runs: Vec::new(), row: Tree::new().row("routing", "s") };
        let mut count = 0u64;

        for hlc in hlcs {
            count += 1;
            let event = Entry::new(LocalDot { log, seq: Seq::new(count) }, Hlc::new(hlc), Mark::Live);
            stream.push(event, &logs);
        }

        let read: Vec<Entry> = stream.iter(None, &logs).copied().collect();
        assert!(read.windows(2).all(|pair| logs.order(&pair[0], &pair[1]).is_lt()));
        assert_eq!((read.len() as u64, stream.event_count()), (count, count));
        assert_eq!(Some(stream.greatest()), read.last().map(|event| event.hlc));
        assert!(stream.runs.windows(2).all(|pair| pair[1].len() * 2 <= pair[0].len()));
    }

    #[test]
    fn any_arrival_order_keeps_few_sorted_runs() {
        check(0..5_000);
        check((0..5_000).rev());
        check((0..5_000).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50));
        check((0..2_500).map(|n| n * 2).chain((0..2_500).map(|n| n * 2 + 1)));
        check(std::iter::repeat_n(7, 100));
    }
}
