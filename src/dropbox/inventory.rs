//! What lies in a drop box, and what may be concluded from that.

use std::collections::BTreeMap;

use super::name::{Kind, LogTag, ObjectName, WriterTag};
use crate::model::Seq;

/// A file that may hold an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object {
    /// What it is called there.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Changes when its content does, as far as the place tells.
    pub stamp: String,
}

/// One look at a drop box.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    objects: BTreeMap<ObjectName, Vec<Object>>,
    /// Files that are no objects; they are left alone.
    pub foreign_count: u64,
    /// Objects of which no file has its full length.
    pub partial: Vec<ObjectName>,
    /// Bytes of all objects.
    pub byte_count: u64,
}

impl Inventory {
    /// Sorts what was found.
    pub fn of(files: impl IntoIterator<Item = Object>) -> Self {
        let mut inventory = Self::default();
        let mut all: BTreeMap<ObjectName, Vec<Object>> = BTreeMap::new();
        for file in files {
            match ObjectName::parse(&file.file) {
                Some(name) => all.entry(name).or_default().push(file),
                None => inventory.foreign_count += u64::from(file.file != README),
            }
        }
        for (name, mut files) in all {
            files.retain(|file| file.bytes == name.bytes);
            // The one under its own name first.
            files.sort_by_key(|file| (file.file != name.to_string(), file.file.clone()));
            if files.is_empty() {
                inventory.partial.push(name);
            } else {
                inventory.byte_count += name.bytes;
                inventory.objects.insert(name, files);
            }
        }
        inventory
    }

    /// Its objects that have their full length, with the files they may be read from.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectName, &[Object])> {
        self.objects.iter().map(|(name, files)| (name, &files[..]))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The files of an object.
    pub fn files(&self, name: &ObjectName) -> &[Object] {
        self.objects.get(name).map_or(&[], Vec::as_slice)
    }

    /// Forgets an object that turned out to be none.
    pub fn remove(&mut self, name: &ObjectName) {
        self.objects.remove(name);
    }

    /// Notes an object that was put there since.
    pub fn add(&mut self, name: ObjectName) {
        let (file, bytes) = (name.to_string(), name.bytes);
        self.byte_count += bytes;
        self.objects.insert(name, vec![Object { file, bytes, stamp: String::new() }]);
    }

    /// Every log of which there are batches.
    pub fn logs(&self) -> Vec<LogTag> {
        let mut logs: Vec<LogTag> = self
            .objects
            .keys()
            .filter_map(|name| match name.kind {
                Kind::Batches { log, .. } => Some(log),
                Kind::Roster { .. } | Kind::Acks | Kind::Checkpoint { .. } => None,
            })
            .collect();
        logs.dedup();
        logs
    }

    /// The objects that continue a log from `tip` on, one after the other, each as far as possible;
    /// those that `is_useful` says no to are passed over.
    pub fn chain(&self, log: LogTag, tip: Seq, is_useful: impl Fn(&ObjectName) -> bool) -> Vec<ObjectName> {
        let mut chain = Vec::new();
        let mut end = tip;
        let candidates: Vec<&ObjectName> = self.of_log(log).filter(|name| is_useful(name)).collect();
        loop {
            let next = candidates
                .iter()
                .filter_map(|name| name.continues(log, end.next()).map(|(last, _)| (last, **name)))
                .max();
            let Some((last, name)) = next else { return chain };
            chain.push(name);
            end = last;
        }
    }

    /// How far a log is covered from a place on by objects that `is_ours` says yes to: those of the history
    /// held here.
    pub fn covered(&self, log: LogTag, from: Seq, mut is_ours: impl FnMut(Seq, [u8; 8]) -> bool) -> Seq {
        let mut end = from;
        loop {
            let mut next: Vec<(Seq, [u8; 8])> =
                self.of_log(log).filter_map(|name| name.continues(log, end.next())).collect();
            next.sort_unstable_by(|a, b| b.cmp(a));
            next.dedup();
            match next.into_iter().find(|(last, link)| is_ours(*last, *link)) {
                Some((last, _)) => end = last,
                None => return end,
            }
        }
    }

    /// Small objects of one writer that follow each other, enough of them to be made one: the oldest
    /// such run of a log.
    pub fn to_merge(&self, log: LogTag, writer: WriterTag) -> Option<Vec<ObjectName>> {
        MERGED_BELOW.iter().find_map(|limit| {
            let mut run: Vec<ObjectName> = Vec::new();
            for name in self.of_log(log).filter(|name| name.writer == writer) {
                let Kind::Batches { first, .. } = name.kind else { continue };
                let end = run.last().and_then(|last| match last.kind {
                    Kind::Batches { last, .. } => Some(last),
                    Kind::Roster { .. } | Kind::Acks | Kind::Checkpoint { .. } => None,
                });
                if name.bytes >= *limit || end.is_some_and(|end| end.next() != first) {
                    run.clear();
                }
                if name.bytes < *limit {
                    run.push(*name);
                }
                if run.len() == MERGED_AT_ONCE {
                    return Some(run);
                }
            }
            None
        })
    }

    /// Objects of a writer whose batches are all in another one of its, among those that `is_ours`
    /// says yes to.
    pub fn covered_by_others(
        &self,
        log: LogTag,
        writer: WriterTag,
        is_ours: impl Fn(Seq, [u8; 8]) -> bool,
    ) -> Vec<ObjectName> {
        let place = |name: &ObjectName| match name.kind {
            Kind::Batches { first, last, link, .. } if is_ours(last, link) => Some((first, last, *name)),
            Kind::Batches { .. } | Kind::Roster { .. } | Kind::Acks | Kind::Checkpoint { .. } => None,
        };
        let mut own: Vec<(Seq, Seq, ObjectName)> =
            self.of_log(log).filter(|name| name.writer == writer).filter_map(place).collect();
        // The one that begins first and reaches farthest comes first.
        own.sort_by_key(|(first, last, _)| (*first, std::cmp::Reverse(*last)));
        let mut end = Seq::ZERO;
        let mut covered = Vec::new();
        for (_, last, name) in own {
            if last <= end {
                covered.push(name);
            }
            end = end.max(last);
        }
        covered
    }

    fn of_log(&self, wanted: LogTag) -> impl Iterator<Item = &ObjectName> {
        self.objects
            .keys()
            .filter(move |name| matches!(name.kind, Kind::Batches { log, .. } if log == wanted))
    }
}

/// Most files looked at; a drop box of years holds some thousands.
pub const OBJECTS_MAX: usize = 100_000;

/// What a drop box says of itself to people.
pub(super) const README: &str = "README.txt";

/// So many small objects become one.
const MERGED_AT_ONCE: usize = 16;

/// What counts as small: first what single writes make, then what those have become.
const MERGED_BELOW: [u64; 2] = [64 * 1024, 1024 * 1024];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeviceId, Incarnation, LogId, SpaceId};

    fn log(n: u64) -> LogTag {
        let log = LogId { device: DeviceId::from_bytes([2; 32]), incarnation: Incarnation::new(n) };
        LogTag::of(&SpaceId::from_bytes([1; 32]), &log)
    }

    fn writer(n: u8) -> WriterTag {
        WriterTag::of(&SpaceId::from_bytes([1; 32]), &DeviceId::from_bytes([n; 32]))
    }

    fn name(first: u64, last: u64, link: u8, bytes: u64) -> ObjectName {
        let kind =
            Kind::Batches { log: log(1), first: Seq::new(first), last: Seq::new(last), link: [link; 8] };
        ObjectName { kind, writer: writer(1), bytes, hash: [link; 16] }
    }

    fn inventory(names: &[ObjectName]) -> Inventory {
        Inventory::of(names.iter().map(whole))
    }

    fn whole(name: &ObjectName) -> Object {
        Object { file: name.to_string(), bytes: name.bytes, stamp: String::new() }
    }

    #[test]
    fn partial_foreign_and_second_files_are_told_apart() {
        let (one, two, three) = (name(1, 4, 1, 10), name(5, 6, 2, 10), name(7, 7, 3, 10));
        let second =
            |name: &ObjectName| Object { file: name.to_string().replace(".kfx", " (1).kfx"), ..whole(name) };
        let half = Object { bytes: 5, ..whole(&two) };
        let foreign = Object { file: "holiday.jpg".into(), ..whole(&one) };
        let readme = Object { file: README.into(), ..whole(&one) };

        let found = Inventory::of([second(&one), whole(&one), half, second(&three), foreign, readme]);

        assert_eq!((found.len(), found.partial.len(), found.foreign_count), (2, 1, 1));
        assert_eq!(
            found.files(&one).iter().map(|file| file.file.clone()).collect::<Vec<_>>()[0],
            one.to_string()
        );
        assert_eq!(found.files(&three).len(), 1);
        assert_eq!((found.byte_count, found.is_empty()), (20, false));
    }

    #[test]
    fn what_continues_a_log_is_taken_in_its_order_and_a_gap_ends_it() {
        let (a, b, c, long) = (name(1, 4, 1, 9), name(5, 6, 2, 9), name(9, 9, 3, 9), name(3, 6, 4, 9));
        let found = inventory(&[c, b, a, long]);

        assert_eq!(found.chain(log(1), Seq::ZERO, |_| true), [a, long.max(b)]);
        assert_eq!(found.chain(log(1), Seq::ZERO, |name| *name != long), [a, b]);
        assert_eq!(found.chain(log(1), Seq::new(6), |_| true), []);
        assert_eq!(found.chain(log(1), Seq::new(7), |_| true), []);
        assert_eq!(found.chain(log(1), Seq::new(8), |_| true), [c]);
        assert_eq!(found.chain(log(2), Seq::ZERO, |_| true), []);
        assert_eq!(found.logs(), [log(1)]);
    }

    #[test]
    fn a_log_is_covered_as_far_as_the_history_held_here_reaches() {
        let found = inventory(&[name(1, 4, 1, 9), name(5, 6, 2, 9), name(5, 9, 7, 9)]);

        assert_eq!(found.covered(log(1), Seq::ZERO, |_, link| link != [7; 8]), Seq::new(6));
        assert_eq!(found.covered(log(1), Seq::ZERO, |_, _| true), Seq::new(9));
        assert_eq!(found.covered(log(1), Seq::new(9), |_, _| true), Seq::new(9));
        assert_eq!(found.covered(log(1), Seq::ZERO, |_, link| link != [1; 8]), Seq::ZERO);
    }

    #[test]
    fn many_small_objects_become_one_and_those_it_covers_are_named() {
        let small: Vec<ObjectName> = (1..=16).map(|n| name(n, n, 1, 100)).collect();
        let mut found = inventory(&small[..15]);
        assert_eq!(found.to_merge(log(1), writer(1)), None);
        found.add(small[15]);
        assert_eq!(found.to_merge(log(1), writer(1)), Some(small.clone()));
        assert_eq!(found.to_merge(log(1), writer(2)), None);
        let mut gap = found.clone();
        gap.remove(&small[7]);
        assert_eq!(gap.to_merge(log(1), writer(1)), None);
        let middle: Vec<ObjectName> = (1..=16).map(|n| name(n, n, 1, 100_000)).collect();
        assert_eq!(inventory(&middle).to_merge(log(1), writer(1)), Some(middle.clone()));
        let large: Vec<ObjectName> = (1..=16).map(|n| name(n, n, 1, 2_000_000)).collect();
        assert_eq!(inventory(&large).to_merge(log(1), writer(1)), None);

        found.add(name(1, 16, 1, 1_600));

        assert_eq!(found.covered_by_others(log(1), writer(1), |_, _| true), small);
        assert_eq!(found.covered_by_others(log(1), writer(1), |last, _| last < Seq::new(16)), []);
        assert_eq!(found.covered_by_others(log(1), writer(2), |_, _| true), []);
    }
}
