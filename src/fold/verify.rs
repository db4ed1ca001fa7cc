//! Finding the first row in which two states differ, in as many questions as its tree is deep.
//!
//! The leaves of a state are spread evenly, so the sixteen sums under a path say which of sixteen parts
//! differs, and a part of a sixteenth is looked at next; where few leaves are left they are compared
//! themselves. A state of n leaves takes about log16(n / 64) questions and one for the row that is
//! found: see [`questions_max`]. Everything is counted from the rows, never from sums that were kept,
//! so a row that was spoiled under the tree is found as well.

use std::cmp::Ordering;

use super::logs::Entry;
use super::root::{RowHash, Sum, leaf_of, row_bytes};
use super::state::State;
use super::tables::{Rows, Table};
use crate::model::{LogId, Seq, Surface};
use crate::wire::verify::{HEADS_MAX, LEAVES_MAX};
use crate::wire::{LeafPath, RowHead, RowName, VerifyAbout, VerifyQuestion, VerifySaid, VerifyUnable};

/// A row that is not the same in two states.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DifferingRow {
    /// Which.
    pub name: RowName,
    /// What it consists of here; empty where there is no such row.
    pub ours: Vec<RowHead>,
    /// What it consists of there.
    pub theirs: Vec<RowHead>,
}

/// What a [`Walk`] came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Every row is the same.
    Equal,
    /// The first row, in the order of leaf hashes, that is not.
    Differs(DifferingRow),
    /// The other device says nothing of its state.
    Unable(VerifyUnable),
    /// The other device contradicts itself.
    Inconsistent,
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Ask this.
    Ask(VerifyQuestion),
    /// That was all.
    Done(Verdict),
}

/// One side of a comparison: asks until it knows.
#[derive(Debug)]
pub struct Walk {
    basis: [u8; 32],
    about: VerifyAbout,
    asked: u32,
}

/// What a state is a function of, as far as two devices must agree on it before their rows are compared.
///
/// `BLAKE3("kinfold basis v1" ‖ frontier digest ‖ roster digest ‖ fold version u32 BE)`.
pub fn basis_of(frontier_digest: &[u8; 32], roster_digest: &[u8; 32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"kinfold basis v1");
    hasher.update(frontier_digest);
    hasher.update(roster_digest);
    hasher.update(&super::FOLD_VERSION.to_be_bytes());
    *hasher.finalize().as_bytes()
}

/// Questions that are enough to find a row among so many leaves: a level for each sixteenth until half
/// of [`LEAVES_MAX`] are left (a part may hold twice its share), the leaves, and the row.
pub const fn questions_max(leaf_count: u64) -> u32 {
    let (mut left, mut count) = (leaf_count, 2);
    while left > LEAVES_MAX as u64 / 2 {
        left /= 16;
        count += 1;
    }
    count
}

impl Walk {
    /// Begins with every row.
    pub fn begin(basis: [u8; 32]) -> (Self, VerifyQuestion) {
        let about = VerifyAbout::Under(LeafPath::root());
        let question = VerifyQuestion { basis, about: about.clone() };
        (Self { basis, about, asked: 1 }, question)
    }

    /// How many questions it has asked.
    pub const fn asked(&self) -> u32 {
        self.asked
    }

    /// Takes an answer to the last question and says what is next.
    pub fn answered(&mut self, state: &State, said: &VerifySaid) -> Step {
        match (&self.about, said) {
            (_, VerifySaid::Unable(why)) => Step::Done(Verdict::Unable(*why)),
            (VerifyAbout::Under(path), VerifySaid::Sums(theirs)) => {
                let path = path.clone();
                self.narrow(&path, &state.sums_under(&path), theirs)
            }
            (VerifyAbout::Under(path), VerifySaid::Leaves(theirs)) => {
                let path = path.clone();
                self.pick(state, &path, theirs)
            }
            (VerifyAbout::Leaf(leaf), VerifySaid::Row(name, theirs)) => {
                let is_of_it =
                    theirs.len() == HEADS_MAX || theirs.iter().any(|head| head_leaf(name, head) == *leaf);
                Step::Done(if is_of_it {
                    differs(state, name.clone(), theirs.clone())
                } else {
                    Verdict::Inconsistent
                })
            }
            (VerifyAbout::Row(name), VerifySaid::Row(named, theirs)) if name == named => {
                Step::Done(differs(state, name.clone(), theirs.clone()))
            }
            (VerifyAbout::Row(name), VerifySaid::Nothing) => {
                Step::Done(differs(state, name.clone(), Vec::new()))
            }
            (
                VerifyAbout::Under(_) | VerifyAbout::Leaf(_) | VerifyAbout::Row(_),
                VerifySaid::Sums(_) | VerifySaid::Leaves(_) | VerifySaid::Row(..) | VerifySaid::Nothing,
            ) => Step::Done(Verdict::Inconsistent),
        }
    }

    fn narrow(&mut self, path: &LeafPath, ours: &[[u8; 32]; 16], theirs: &[[u8; 32]; 16]) -> Step {
        match (0..16u8).find(|part| ours[usize::from(*part)] != theirs[usize::from(*part)]) {
            None if path.depth() == 0 => Step::Done(Verdict::Equal),
            // The part differed when it was summed up one level above.
            None => Step::Done(Verdict::Inconsistent),
            Some(part) => match path.child(part) {
                Some(child) => self.ask(VerifyAbout::Under(child)),
                None => Step::Done(Verdict::Inconsistent),
            },
        }
    }

    fn pick(&mut self, state: &State, path: &LeafPath, theirs: &[[u8; 32]]) -> Step {
        if theirs.iter().any(|leaf| path.next_nibble(leaf).is_none()) {
            return Step::Done(Verdict::Inconsistent);
        }
        match first_difference(&state.leaves_under(path), theirs) {
            None if path.depth() == 0 => Step::Done(Verdict::Equal),
            None => Step::Done(Verdict::Inconsistent),
            Some(Side::Theirs(leaf)) => self.ask(VerifyAbout::Leaf(leaf)),
            Some(Side::Ours(leaf)) => {
                let name = state.row_of_leaf(&leaf).expect("the leaf was counted from a row of this state");
                self.ask(VerifyAbout::Row(name))
            }
        }
    }

    fn ask(&mut self, about: VerifyAbout) -> Step {
        self.asked += 1;
        self.about = about.clone();
        Step::Ask(VerifyQuestion { basis: self.basis, about })
    }
}

impl State {
    /// What this state says to a question of another device.
    pub fn verify_answer(&self, about: &VerifyAbout) -> VerifySaid {
        match about {
            VerifyAbout::Under(path) => {
                let leaves = self.leaves_under(path);
                if leaves.len() <= LEAVES_MAX {
                    VerifySaid::Leaves(leaves)
                } else {
                    VerifySaid::Sums(Box::new(sums(path, leaves.iter())))
                }
            }
            VerifyAbout::Leaf(leaf) => match self.row_of_leaf(leaf) {
                Some(name) => self.said_row(name),
                None => VerifySaid::Nothing,
            },
            VerifyAbout::Row(name) => self.said_row(name.clone()),
        }
    }

    /// Whether this state has applied just what a frontier holds: nothing that is not sealed, nothing
    /// less.
    pub fn is_at<'a>(&self, mut frontier: impl Iterator<Item = (&'a LogId, Seq)>) -> bool {
        let applied = self.applied_all();
        let mut count = 0;
        let is_each = frontier.all(|(log, seq)| {
            count += 1;
            applied.get(log) == Some(&seq)
        });
        is_each && count == applied.len()
    }

    fn said_row(&self, name: RowName) -> VerifySaid {
        let heads = self.heads_of(&name);
        if heads.is_empty() { VerifySaid::Nothing } else { VerifySaid::Row(name, heads) }
    }

    /// What a row consists of, in the order it is kept: at most [`HEADS_MAX`].
    pub fn heads_of(&self, name: &RowName) -> Vec<RowHead> {
        let table = name.surface.parse::<Surface>().ok().and_then(|surface| self.tables.find(&surface));
        let mut heads = Vec::new();
        if let Some(table) = table {
            self.each_entry(table, Some(&name.key), &mut |_, entry| heads.push(self.row_head(entry)));
        }
        heads.truncate(HEADS_MAX);
        heads
    }

    fn row_head(&self, entry: &Entry) -> RowHead {
        let is_tombstone = entry.mark == super::logs::Mark::Tombstone;
        RowHead { dot: self.logs.dot(entry), hlc: entry.hlc, is_tombstone }
    }

    fn sums_under(&self, path: &LeafPath) -> [[u8; 32]; 16] {
        sums(path, self.leaves_under(path).iter())
    }

    /// The leaves under a path, rising, counted from the rows.
    fn leaves_under(&self, path: &LeafPath) -> Vec<[u8; 32]> {
        let mut leaves = Vec::new();
        self.each_leaf(&mut |_, _, leaf| {
            if path.next_nibble(leaf).is_some() {
                leaves.push(*leaf);
            }
        });
        leaves.sort_unstable();
        leaves
    }

    fn row_of_leaf(&self, wanted: &[u8; 32]) -> Option<RowName> {
        let mut found = None;
        self.each_leaf(&mut |table, key, leaf| {
            if leaf == wanted {
                found = Some(RowName { surface: table.name.to_string(), key: key.to_owned() });
            }
        });
        found
    }

    fn each_leaf(&self, visit: &mut dyn FnMut(&Table, &str, &[u8; 32])) {
        for table in self.tables.by_name() {
            // Rows come one after the other, each with all that it consists of.
            let mut row: Option<(String, RowHash)> = None;
            self.each_entry(table, None, &mut |key, entry| {
                let hash = match &row {
                    Some((known, hash)) if known == key => *hash,
                    _ => {
                        let hash = RowHash::of(&row_bytes(&table.name, key));
                        row = Some((key.to_owned(), hash));
                        hash
                    }
                };
                visit(table, key, &leaf_of(&hash, entry, &self.logs));
            });
        }
    }

    /// Everything the rows of a surface consist of, or one of its rows.
    pub(super) fn each_entry(&self, table: &Table, only: Option<&str>, visit: &mut dyn FnMut(&str, &Entry)) {
        let is_wanted = |key: &str| only.is_none_or(|only| only == key);
        match &table.rows {
            Rows::Registers(registers) => {
                for (key, row) in registers.rows().iter().filter(|(key, _)| is_wanted(key.as_str())) {
                    row.heads().iter().for_each(|head| visit(key.as_str(), head));
                }
            }
            Rows::Facts(facts) => {
                for (key, entity) in facts.entities().iter().filter(|(key, _)| is_wanted(key.as_str())) {
                    entity.statements().iter().for_each(|statement| visit(key.as_str(), &statement.entry));
                }
            }
            Rows::Streams(streams) => {
                for (key, stream) in streams.streams().iter().filter(|(key, _)| is_wanted(key.as_str())) {
                    stream.iter(None, &self.logs).for_each(|event| visit(key.as_str(), event));
                }
            }
            Rows::Ledger(ledger) => {
                for (key, run) in ledger.runs().iter().filter(|(key, _)| is_wanted(key.as_str())) {
                    run.intents().iter().for_each(|intent| visit(key.as_str(), &intent.entry));
                }
            }
        }
    }
}

enum Side {
    Ours([u8; 32]),
    Theirs([u8; 32]),
}

/// The least leaf that only one of two rising lists has.
fn first_difference(ours: &[[u8; 32]], theirs: &[[u8; 32]]) -> Option<Side> {
    let at = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
    match (ours.get(at), theirs.get(at)) {
        (None, None) => None,
        (Some(leaf), None) => Some(Side::Ours(*leaf)),
        (None, Some(leaf)) => Some(Side::Theirs(*leaf)),
        (Some(a), Some(b)) => {
            Some(if a.cmp(b) == Ordering::Less { Side::Ours(*a) } else { Side::Theirs(*b) })
        }
    }
}

fn sums<'a>(path: &LeafPath, leaves: impl Iterator<Item = &'a [u8; 32]>) -> [[u8; 32]; 16] {
    let mut sums = [Sum::ZERO; 16];
    for leaf in leaves {
        if let Some(nibble) = path.next_nibble(leaf) {
            sums[usize::from(nibble)].add(&Sum::from_bytes(leaf));
        }
    }
    sums.map(Sum::to_bytes)
}

fn head_leaf(name: &RowName, head: &RowHead) -> [u8; 32] {
    let bytes = super::root::head_bytes(&head.dot, head.hlc, head.is_tombstone);
    super::root::leaf(&row_bytes(&name.surface, &name.key), &bytes)
}

fn differs(state: &State, name: RowName, theirs: Vec<RowHead>) -> Verdict {
    let ours = state.heads_of(&name);
    Verdict::Differs(DifferingRow { name, ours, theirs })
}

#[cfg(any(test, feature = "sim"))]
impl State {
    /// Spoils a row as a fold that goes wrong would: for tests of what finds it. False where there is no
    /// such row of the registry tier.
    #[doc(hidden)]
    pub fn spoil(&mut self, surface: &Surface, key: &str) -> bool {
        let Some(table) = self.tables.find_mut(surface) else { return false };
        let row = self.tree.row(&table.name, key);
        match &mut table.rows {
            Rows::Registers(registers) => registers.spoil(key, &mut self.tree.leaves(row, &self.logs)),
            Rows::Facts(_) | Rows::Streams(_) | Rows::Ledger(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::reference::{SPACE, any_ops, apply_interleaved, log, written};
    use super::*;
    use crate::model::{Dot, Op, Payload};
    use crate::wire::{VerifyAnswer, VerifySaid};

    fn note() -> Surface {
        "registry:note".parse().unwrap()
    }

    fn notes(count: u64) -> State {
        let mut state = State::new(SPACE);
        for seq in 1..=count {
            let payload = Payload::parse("1").unwrap();
            let op =
                Op::Put { surface: note(), key: format!("row {seq}").into(), preds: Vec::new(), payload };
            let op = written(Dot { log: log(0), seq: Seq::new(seq) }, seq, op);
            state.apply(&op.dot.log, &op.frame());
        }
        state
    }

    /// Compares as two devices do, over the byte forms; also how many questions it took.
    fn compare(ours: &State, theirs: &State) -> (Verdict, u32) {
        let (mut walk, mut question) = Walk::begin([1; 32]);
        loop {
            let asked = VerifyQuestion::from_bytes(&question.to_bytes()).unwrap();
            let answer = VerifyAnswer { basis: asked.basis, said: theirs.verify_answer(&asked.about) };
            let answer = VerifyAnswer::from_bytes(&answer.to_bytes()).unwrap();
            match walk.answered(ours, &answer.said) {
                Step::Ask(next) => question = next,
                Step::Done(verdict) => return (verdict, walk.asked()),
            }
        }
    }

    #[test]
    fn one_spoiled_row_is_found_in_as_many_questions_as_its_tree_is_deep() {
        for (count, most) in [(1, 2), (30, 2), (500, 3), (8_000, 4), (40_000, 5)] {
            assert_eq!(questions_max(count), most);
            let (ours, mut theirs) = (notes(count), notes(count));
            assert_eq!(compare(&ours, &theirs), (Verdict::Equal, 1));
            let key = format!("row {}", count / 2 + 1);
            assert!(theirs.spoil(&note(), &key));
            assert_ne!(theirs.root(), State::root(&mut notes(count)));

            for (ours, theirs) in [(&ours, &theirs), (&theirs, &ours)] {
                let (Verdict::Differs(row), asked) = compare(ours, theirs) else {
                    panic!("{count}: it is not found")
                };
                assert_eq!((&*row.name.key, &*row.name.surface), (&*key, "registry:note"));
                assert_eq!((row.ours.len(), row.theirs.len()), (1, 1));
                assert_ne!(row.ours, row.theirs);
                assert!(asked <= most, "{count} leaves took {asked} questions");
            }
        }
    }

    #[test]
    fn a_row_that_only_one_has_is_found_from_both_sides() {
        let (more, less) = (notes(3_001), notes(3_000));

        for (ours, theirs) in [(&more, &less), (&less, &more)] {
            let (Verdict::Differs(row), _) = compare(ours, theirs) else { panic!("it is not found") };
            assert_eq!(row.name.key, "row 3001");
            assert_eq!(row.ours.len() + row.theirs.len(), 1);
        }
    }

    #[test]
    fn the_first_of_many_differing_rows_is_the_least_leaf() {
        let (ours, mut theirs) = (notes(2_000), notes(2_000));
        for seq in (1..=2_000).step_by(7) {
            assert!(theirs.spoil(&note(), &format!("row {seq}")));
        }
        let root = LeafPath::root();
        let expected = match first_difference(&ours.leaves_under(&root), &theirs.leaves_under(&root)) {
            Some(Side::Ours(leaf)) => ours.row_of_leaf(&leaf),
            Some(Side::Theirs(leaf)) => theirs.row_of_leaf(&leaf),
            None => None,
        };

        let (Verdict::Differs(row), _) = compare(&ours, &theirs) else { panic!("it is not found") };

        assert_eq!(Some(row.name), expected);
    }

    #[test]
    fn whoever_contradicts_itself_is_told_apart_from_a_difference() {
        let state = notes(500);
        let answered = |about: &[VerifySaid]| {
            let (mut walk, _) = Walk::begin([1; 32]);
            let mut last = None;
            for said in about {
                last = Some(walk.answered(&state, said));
            }
            last.unwrap()
        };
        let all = || state.verify_answer(&VerifyAbout::Under(LeafPath::root()));
        let VerifySaid::Sums(mut sums) = all() else { panic!("500 leaves are many") };
        sums[3][31] ^= 1;
        let part = LeafPath::root().child(3).unwrap();
        let other = state.verify_answer(&VerifyAbout::Under(LeafPath::root().child(4).unwrap()));
        let same = state.verify_answer(&VerifyAbout::Under(part));
        let inconsistent = Step::Done(Verdict::Inconsistent);

        assert_eq!(answered(&[VerifySaid::Nothing]), inconsistent);
        assert_eq!(
            answered(&[VerifySaid::Sums(sums.clone()), same]),
            inconsistent,
            "the part is the same after all"
        );
        assert_eq!(
            answered(&[VerifySaid::Sums(sums.clone()), other]),
            inconsistent,
            "leaves of another part"
        );
        let name = RowName { surface: "skill".into(), key: "x".into() };
        let leaf = VerifySaid::Leaves(vec![[0x30; 32]]);
        let row = VerifySaid::Row(
            name,
            state.heads_of(&RowName { surface: note().to_string(), key: "row 1".into() }),
        );
        assert_eq!(
            answered(&[VerifySaid::Sums(sums), leaf, row]),
            inconsistent,
            "a row that is not of the leaf"
        );
        let busy = VerifySaid::Unable(VerifyUnable::Busy);
        assert_eq!(answered(&[busy]), Step::Done(Verdict::Unable(VerifyUnable::Busy)));
    }

    #[test]
    fn a_state_is_at_a_frontier_only_if_it_has_applied_just_that() {
        let state = notes(3);
        let at = |seqs: &[(usize, u64)]| {
            let logs: Vec<(LogId, Seq)> = seqs.iter().map(|(n, seq)| (log(*n), Seq::new(*seq))).collect();
            state.is_at(logs.iter().map(|(log, seq)| (log, *seq)))
        };

        assert!(at(&[(0, 3)]));
        assert!(!at(&[(0, 2)]) && !at(&[(0, 4)]) && !at(&[]) && !at(&[(0, 3), (1, 1)]));
    }

    proptest! {
        /// Rows, facts, streams, runs and ops written again: equal states compare equal, and the leaves
        /// counted from the rows add up to the tree that was kept.
        #[test]
        fn any_two_arrivals_of_the_same_ops_compare_equal(
            ops in any_ops(),
            picks in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let (mut one, mut other) = (State::new(SPACE), State::new(SPACE));
            apply_interleaved(&mut one, &ops, &picks);
            apply_interleaved(&mut other, &ops, &[]);

            prop_assert_eq!(compare(&one, &other).0, Verdict::Equal);
            let mut buckets = vec![Sum::ZERO; usize::from(super::super::root::BUCKET_COUNT)];
            for leaf in one.leaves_under(&LeafPath::root()) {
                buckets[usize::from(super::super::root::bucket_of(&leaf))].add(&Sum::from_bytes(&leaf));
            }
            for (index, sum) in (0u16..).zip(buckets) {
                prop_assert_eq!(one.bucket(index), Some(sum.to_bytes()));
            }
        }
    }
}
