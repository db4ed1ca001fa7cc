//! What the state hashes to, and the formulas behind it. Fold version 1.
//!
//! **Row name bytes**, the canonical name of a row, entity or stream ([`row_bytes`]):
//!
//! | offset | length | meaning |
//! |---|---|---|
//! | 0 | 14 | `kinfold row v1` |
//! | 14 | 1 | bytes in the surface name |
//! | 15 | n | the surface name |
//! | 15 + n | rest | the key |
//!
//! **Head bytes**, one op a row consists of ([`head_bytes`]); numbers big-endian:
//!
//! | offset | length | meaning |
//! |---|---|---|
//! | 0 | 1 | flags: bit 0 = tombstone |
//! | 1 | 8 | hlc |
//! | 9 | 40 | log: device 32, incarnation 8 |
//! | 49 | 8 | seq |
//!
//! A row contributes one leaf per head (registry), per distinct content (facts) or per event:
//! `leaf = BLAKE3.keyed(BLAKE3(row bytes))(head bytes)`. With the row as key and 57 bytes of head,
//! both hashes of a usual row are one compression each, and a row with many heads costs no more to
//! change than one with a single head.
//!
//! Bucket `b` (the first 12 bits of the leaf) is the sum of its leaves modulo 2^256, read as
//! big-endian numbers. A sum guards the fold and the disk, not against forgers: the op set is
//! authenticated by the logs. Over the 4,096 buckets stands a tree of width 16,
//! `node = BLAKE3("kinfold node v1" ‖ level u8 ‖ 16 children of 32 bytes)`, where level 2 has 256
//! nodes over the buckets, level 1 has 16, level 0 one; and
//! `root = BLAKE3("kinfold root v1" ‖ FOLD_VERSION u32 BE ‖ space 32 ‖ node of level 0)`.
//!
//! Ops that are kept but not folded are in no leaf; roots are compared only where none is unknown.

use std::num::NonZeroU64;

use super::logs::{Entry, Logs, Mark};
use crate::model::{Dot, Hlc, Root, SpaceId};

/// Which rules fold ops into a state; part of every root.
pub const FOLD_VERSION: u32 = 1;

/// How many buckets the leaves are spread over.
pub const BUCKET_COUNT: u16 = 4096;

/// The canonical name of a row, entity or stream.
///
/// # Panics
/// If the surface name is longer than 255 bytes: surfaces are at most 64.
pub fn row_bytes(surface: &str, key: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ROW_TAG.len() + 1 + surface.len() + key.len());
    row_bytes_into(surface, key, &mut bytes);
    bytes
}

/// The canonical form of one op that a row consists of.
pub fn head_bytes(dot: &Dot, hlc: Hlc, is_tombstone: bool) -> [u8; HEAD_BYTES] {
    let mut bytes = [0; HEAD_BYTES];
    bytes[0] = u8::from(is_tombstone);
    bytes[1..9].copy_from_slice(&hlc.get().to_be_bytes());
    bytes[9..49].copy_from_slice(&dot.log.to_bytes());
    bytes[49..].copy_from_slice(&dot.seq.get().to_be_bytes());
    bytes
}

/// The leaf of one head of the row with these row bytes.
pub fn leaf(row_bytes: &[u8], head_bytes: &[u8; HEAD_BYTES]) -> [u8; 32] {
    leaf_under(&RowHash::of(row_bytes), head_bytes)
}

/// The bucket a leaf counts in.
pub const fn bucket_of(leaf: &[u8; 32]) -> u16 {
    u16::from_be_bytes([leaf[0], leaf[1]]) >> 4
}

/// BLAKE3 of row bytes: the key under which the row's heads are hashed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct RowHash([u8; 32]);

impl RowHash {
    pub(super) fn of(row_bytes: &[u8]) -> Self {
        Self(*blake3::hash(row_bytes).as_bytes())
    }

    /// The first 8 bytes of the hash, the last bit set: a short name of the row inside a state.
    pub(super) fn tag(&self) -> RowTag {
        let first = self.0.first_chunk().expect("a hash has 32 bytes");
        RowTag(NonZeroU64::MIN | u64::from_be_bytes(*first))
    }
}

/// A short name of a row, entity or stream; never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct RowTag(NonZeroU64);

impl RowTag {
    pub(super) const MIN: Self = Self(NonZeroU64::MIN);
    pub(super) const MAX: Self = Self(NonZeroU64::MAX);

    pub(super) fn from_raw(raw: u64) -> Option<Self> {
        NonZeroU64::new(raw).map(Self)
    }
    pub(super) const fn get(self) -> u64 {
        self.0.get()
    }
}

/// The bucket sums and the tree over them, brought up to date when it is read.
pub(super) struct Tree {
    buckets: Vec<Sum>,
    /// Levels 0, 1 and 2: 1, 16 and 256 nodes.
    levels: [Vec<[u8; 32]>; 3],
    /// Which nodes of level 2 stand over a bucket that has changed.
    dirty: [bool; 256],
    scratch: Vec<u8>,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self {
            buckets: vec![Sum::ZERO; usize::from(BUCKET_COUNT)],
            levels: [vec![[0; 32]; 1], vec![[0; 32]; 16], vec![[0; 32]; 256]],
            dirty: [true; 256],
            scratch: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, surface: &str, key: &str) -> RowHash {
        self.scratch.clear();
        row_bytes_into(surface, key, &mut self.scratch);
        RowHash::of(&self.scratch)
    }

    pub(super) fn leaves<'a>(&'a mut self, row: RowHash, logs: &'a Logs) -> Leaves<'a> {
        Leaves { tree: self, row, logs }
    }

    pub(super) fn bucket(&self, index: u16) -> Option<[u8; 32]> {
        self.buckets.get(usize::from(index)).map(|sum| sum.to_bytes())
    }

    pub(super) fn set_bucket(&mut self, index: u16, bytes: &[u8; 32]) {
        self.buckets[usize::from(index)] = Sum::from_bytes(bytes);
        self.dirty[usize::from(index / WIDTH)] = true;
    }

    /// The node of a level; level 3 are the buckets.
    pub(super) fn node(&mut self, level: u8, index: u16) -> Option<[u8; 32]> {
        if level == 3 {
            return self.bucket(index);
        }
        self.refresh();
        self.levels.get(usize::from(level))?.get(usize::from(index)).copied()
    }

    pub(super) fn root(&mut self, space: &SpaceId) -> Root {
        self.refresh();
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"kinfold root v1");
        hasher.update(&FOLD_VERSION.to_be_bytes());
        hasher.update(space.as_bytes());
        hasher.update(&self.levels[0][0]);
        Root::from_bytes(*hasher.finalize().as_bytes())
    }

    fn refresh(&mut self) {
        if !self.dirty.contains(&true) {
            return;
        }
        let mut parents = [false; 16];
        for (index, dirty) in self.dirty.iter_mut().enumerate().filter(|(_, dirty)| **dirty) {
            let first = index * usize::from(WIDTH);
            let children = self.buckets[first..first + usize::from(WIDTH)].iter().map(|sum| sum.to_bytes());
            self.levels[2][index] = node_hash(2, children);
            parents[index / usize::from(WIDTH)] = true;
            *dirty = false;
        }
        for (index, _) in parents.iter().enumerate().filter(|(_, dirty)| **dirty) {
            let first = index * usize::from(WIDTH);
            let children = self.levels[2][first..first + usize::from(WIDTH)].iter().copied();
            self.levels[1][index] = node_hash(1, children);
        }
        self.levels[0][0] = node_hash(0, self.levels[1].iter().copied());
    }

    fn change(&mut self, leaf: &[u8; 32], apply: impl Fn(&mut Sum, &Sum)) {
        let bucket = bucket_of(leaf);
        apply(&mut self.buckets[usize::from(bucket)], &Sum::from_bytes(leaf));
        self.dirty[usize::from(bucket / WIDTH)] = true;
    }
}

/// Adds and removes the leaves of one row.
pub(super) struct Leaves<'a> {
    tree: &'a mut Tree,
    row: RowHash,
    logs: &'a Logs,
}

impl Leaves<'_> {
    pub(super) fn add(&mut self, entry: &Entry) {
        let leaf = self.leaf(entry);
        self.tree.change(&leaf, Sum::add);
    }

    pub(super) fn remove(&mut self, entry: &Entry) {
        let leaf = self.leaf(entry);
        self.tree.change(&leaf, Sum::subtract);
    }

    fn leaf(&self, entry: &Entry) -> [u8; 32] {
        leaf_of(&self.row, entry, self.logs)
    }
}

/// The leaf of one op of a row.
pub(super) fn leaf_of(row: &RowHash, entry: &Entry, logs: &Logs) -> [u8; 32] {
    let is_tombstone = entry.mark == Mark::Tombstone;
    leaf_under(row, &head_bytes(&logs.dot(entry), entry.hlc, is_tombstone))
}

/// A number modulo 2^256, least word first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Sum([u64; 4]);

impl Sum {
    pub(super) const ZERO: Self = Self([0; 4]);

    pub(super) fn from_bytes(bytes: &[u8; 32]) -> Self {
        let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        Self([word(24), word(16), word(8), word(0)])
    }

    pub(super) fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(self.0.iter().rev()) {
            chunk.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    pub(super) fn add(&mut self, other: &Self) {
        let mut carry = false;
        for (word, other) in self.0.iter_mut().zip(other.0) {
            let (sum, first) = word.overflowing_add(other);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            (*word, carry) = (sum, first | second);
        }
    }

    fn subtract(&mut self, other: &Self) {
        let mut borrow = false;
        for (word, other) in self.0.iter_mut().zip(other.0) {
            let (rest, first) = word.overflowing_sub(other);
            let (rest, second) = rest.overflowing_sub(u64::from(borrow));
            (*word, borrow) = (rest, first | second);
        }
    }
}

fn row_bytes_into(surface: &str, key: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(ROW_TAG);
    out.push(u8::try_from(surface.len()).expect("a surface name has at most 64 bytes"));
    out.extend_from_slice(surface.as_bytes());
    out.extend_from_slice(key.as_bytes());
}

fn leaf_under(row: &RowHash, head_bytes: &[u8; HEAD_BYTES]) -> [u8; 32] {
    *blake3::keyed_hash(&row.0, head_bytes).as_bytes()
}

fn node_hash(level: u8, children: impl Iterator<Item = [u8; 32]>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"kinfold node v1");
    hasher.update(&[level]);
    for child in children {
        hasher.update(&child);
    }
    *hasher.finalize().as_bytes()
}

const ROW_TAG: &[u8; 14] = b"kinfold row v1";

/// The length of [`head_bytes`]: within one BLAKE3 block of 64.
pub const HEAD_BYTES: usize = 57;

/// Children per node of the tree.
const WIDTH: u16 = 16;

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::State;
    use super::*;
    use crate::model::{LogId, Seq};
    use crate::wire::FrameView;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../tests/data/fold-v1.json")).unwrap()
    }

    fn text<'a>(value: &'a Value, name: &str) -> &'a str {
        value[name].as_str().unwrap_or_else(|| panic!("{name} is a text"))
    }

    fn number(value: &Value, name: &str) -> u64 {
        value[name].as_u64().unwrap_or_else(|| panic!("{name} is a number"))
    }

    fn bytes(value: &Value, name: &str) -> Vec<u8> {
        let digits = text(value, name).as_bytes();
        digits.chunks(2).map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn log(value: &Value) -> LogId {
        LogId::from_bytes(&bytes(value, "log").try_into().unwrap())
    }

    #[test]
    fn leaves_have_the_bytes_of_the_golden_vectors() {
        for vector in vectors()["leaves"].as_array().unwrap() {
            let dot = Dot { log: log(vector), seq: Seq::new(number(vector, "seq")) };
            let hlc = Hlc::new(number(vector, "hlc"));
            let is_tombstone = vector["is_tombstone"].as_bool().unwrap();

            let row = row_bytes(text(vector, "surface"), text(vector, "key"));
            let head = head_bytes(&dot, hlc, is_tombstone);
            let leaf = leaf(&row, &head);

            assert_eq!(hex(&row), text(vector, "row_bytes"));
            assert_eq!(hex(&head), text(vector, "head_bytes"));
            assert_eq!(hex(&leaf), text(vector, "leaf"));
            assert_eq!(u64::from(bucket_of(&leaf)), number(vector, "bucket"));
        }
    }

    #[test]
    fn the_golden_ops_fold_to_the_golden_root_and_snapshot() {
        let vectors = vectors();
        let space = SpaceId::from_bytes(bytes(&vectors, "space").try_into().unwrap());
        let mut state = State::new(space);
        assert_eq!(state.root().to_string(), text(&vectors, "empty_root"));

        for op in vectors["ops"].as_array().unwrap() {
            let body = bytes(op, "body");
            let frame = FrameView {
                seq: Seq::new(number(op, "seq")),
                hlc: Hlc::new(number(op, "hlc")),
                kind: u16::try_from(number(op, "kind")).unwrap(),
                flags: 0,
                body: &body,
            };
            state.apply(&log(op), &frame);
        }

        assert_eq!(state.root().to_string(), text(&vectors, "root"));
        let mut chunks = Vec::new();
        state.encode(&mut |chunk| chunks.push(chunk.to_vec()));
        let (head, tail) = (&chunks[0][..SNAPSHOT_HEAD], &chunks[0][SNAPSHOT_HEAD + 8 * (3 + 512 * 32)..]);
        assert_eq!(hex(head), text(&vectors, "snapshot_before_buckets"));
        assert_eq!(hex(tail), text(&vectors, "snapshot_after_buckets"));
    }

    /// Magic and number, the start record with two small counts, two log records with two small positions.
    const SNAPSHOT_HEAD: usize = 8 + (1 + 4 + 32 + 2) + 2 * (1 + 40 + 2);

    #[test]
    fn sums_carry_and_borrow_over_all_words() {
        let mut sum = Sum::from_bytes(&[0xff; 32]);
        let mut one = [0; 32];
        one[31] = 1;

        sum.add(&Sum::from_bytes(&one));
        assert!(sum == Sum::ZERO);
        sum.subtract(&Sum::from_bytes(&one));
        assert_eq!(sum.to_bytes(), [0xff; 32]);
    }

    #[test]
    fn one_changed_row_changes_one_path_of_the_tree() {
        let mut tree = Tree::new();
        let before: Vec<_> = (0..3u8).map(|level| tree.node(level, 0)).collect();
        let mut leaf = [0; 32];
        leaf[1] = 0x1f;

        tree.change(&leaf, Sum::add);

        assert_eq!(bucket_of(&leaf), 1);
        assert_eq!(tree.bucket(1), Some(leaf));
        let after: Vec<_> = (0..3u8).map(|level| tree.node(level, 0)).collect();
        assert!(before.iter().zip(&after).all(|(before, after)| before != after));
        assert_eq!(tree.node(2, 1), tree.node(2, 255));
        assert_eq!((tree.node(3, 1), tree.node(3, 4096), tree.node(4, 0)), (Some(leaf), None, None));
    }
}
