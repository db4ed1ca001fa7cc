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
    fn of(row_bytes: &[u8]) -> Self {
        Self(*blake3::hash(row_bytes).as_bytes())
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
            let children = self.buckets[first..first + usize::from(WIDTH)].iter().map(Sum::to_bytes);
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
        let is_tombstone = entry.mark == Mark::Tombstone;
        leaf_under(&self.row, &head_bytes(&self.logs.dot(entry), entry.hlc, is_tombstone))
    }
}

/// A number modulo 2^256, least word first.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sum([u64; 4]);

impl Sum {
    const ZERO: Self = Self([0; 4]);

    fn from_bytes(bytes: &[u8; 32]) -> Self {
        let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        Self([word(24), word(16), word(8), word(0)])
    }

    fn to_bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(self.0.iter().rev()) {
            chunk.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    fn add(&mut self, other: &Self) {
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
