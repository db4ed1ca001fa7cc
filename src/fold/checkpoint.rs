//! A state and everything it points at, as the plain pieces of a checkpoint.
//!
//! Equal sets of ops give equal pieces on every device: the index chunks of the state
//! ([`snapshot`](super::snapshot)), each behind its length u32 BE, joined and cut into pieces of
//! [`CHUNK_BYTES`]; then pieces of whole op records, in rising order of the places where the ops stand:
//! place log 40 ‖ place seq u64 ‖ name log 40 ‖ name seq u64 ‖ hlc u64 ‖ kind u16 ‖ flags u8 ‖ body length u32
//! ‖ body, numbers big-endian. Place and name differ for an op that was written again. What no row, fact,
//! stream or run points at any more is left behind: values that were replaced.

use std::collections::BTreeSet;

use super::root::RowHash;
use super::root::row_bytes;
use super::snapshot::{SnapshotError, StateBuilder};
use super::state::State;
use crate::model::{Dot, Hlc, LogId, Seq};
use crate::wire::checkpoint::CHUNK_BYTES;

/// An op as a checkpoint keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpRecord<'a> {
    /// Where it stands.
    pub place: Dot,
    /// The place that is its name.
    pub name: Dot,
    /// Its stamp.
    pub hlc: Hlc,
    /// Its kind number.
    pub kind: u16,
    /// Its flags.
    pub flags: u8,
    /// Its bytes.
    pub body: &'a [u8],
}

/// Hashes the pieces of a checkpoint as they are made: `BLAKE3("kinfold content v1" ‖ [piece length u32 BE ‖
/// piece])`.
#[derive(Clone)]
pub struct ContentHasher(blake3::Hasher);

impl Default for ContentHasher {
    fn default() -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"kinfold content v1");
        Self(hasher)
    }
}

impl ContentHasher {
    /// Takes the next piece.
    pub fn piece(&mut self, piece: &[u8]) {
        self.0.update(&length(piece));
        self.0.update(piece);
    }

    /// The hash of all of them.
    pub fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

impl State {
    /// The pieces of the state itself, in order.
    pub fn pieces(&self, sink: &mut dyn FnMut(&[u8])) {
        let mut piece = Vec::with_capacity(CHUNK_BYTES);
        self.encode(&mut |chunk| {
            for mut rest in [&length(chunk)[..], chunk] {
                while !rest.is_empty() {
                    let (front, back) = rest.split_at(rest.len().min(CHUNK_BYTES - piece.len()));
                    piece.extend_from_slice(front);
                    rest = back;
                    if piece.len() == CHUNK_BYTES {
                        sink(&piece);
                        piece.clear();
                    }
                }
            }
        });
        if !piece.is_empty() {
            sink(&piece);
        }
    }

    /// Where every op stands that the state points at.
    pub fn places(&self) -> BTreeSet<Dot> {
        let mut places = BTreeSet::new();
        for table in self.tables.by_name() {
            self.each_entry(table, None, &mut |key, entry| {
                let place = match self.relocated.is_empty() {
                    true => None,
                    false => self.relocated.place(entry, RowHash::of(&row_bytes(&table.name, key)).tag()),
                };
                let place = place.unwrap_or(entry.dot());
                places.insert(Dot { log: *self.logs.id(place.log), seq: place.seq });
            });
        }
        places
    }

    /// Reads the pieces of a state back.
    ///
    /// # Errors
    /// Every variant of [`SnapshotError`].
    pub fn from_pieces(pieces: impl Iterator<Item = impl AsRef<[u8]>>) -> Result<Self, SnapshotError> {
        let mut reader = StatePieces::new();
        for piece in pieces {
            reader.push(piece.as_ref())?;
        }
        reader.finish()
    }
}

/// Reads a state back, piece by piece.
pub struct StatePieces {
    builder: StateBuilder,
    held: Vec<u8>,
    chunks: u32,
}

impl StatePieces {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { builder: StateBuilder::new(), held: Vec::new(), chunks: 0 }
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// Every variant of [`SnapshotError`] but [`SnapshotError::Unfinished`].
    pub fn push(&mut self, piece: &[u8]) -> Result<(), SnapshotError> {
        self.held.extend_from_slice(piece);
        while let Some((chunk_bytes, rest)) = self.held.split_first_chunk::<4>() {
            let chunk_bytes = usize::try_from(u32::from_be_bytes(*chunk_bytes)).unwrap_or(usize::MAX);
            let limit = super::snapshot::CHUNK_BYTES_MAX;
            if chunk_bytes > limit {
                return Err(SnapshotError::ChunkTooLong { found: chunk_bytes, limit });
            }
            let Some((chunk, _)) = rest.split_at_checked(chunk_bytes) else { break };
            self.builder.push(chunk)?;
            self.chunks += 1;
            self.held.drain(..4 + chunk_bytes);
        }
        Ok(())
    }

    /// The state.
    ///
    /// # Errors
    /// Every variant of [`SnapshotError`].
    pub fn finish(self) -> Result<State, SnapshotError> {
        let chunks = self.chunks;
        if self.held.is_empty() { self.builder.finish() } else { Err(SnapshotError::Unfinished { chunks }) }
    }
}

impl Default for StatePieces {
    fn default() -> Self {
        Self::new()
    }
}

/// Collects op records into pieces.
#[derive(Default)]
pub struct OpPieces {
    piece: Vec<u8>,
}

impl OpPieces {
    /// Takes the next op; passes a piece on where the op does not fit into it any more.
    pub fn push(&mut self, op: &OpRecord<'_>, sink: &mut dyn FnMut(&[u8])) {
        if !self.piece.is_empty() && self.piece.len() + RECORD_BYTES + op.body.len() > CHUNK_BYTES {
            self.finish(sink);
        }
        for dot in [op.place, op.name] {
            self.piece.extend_from_slice(&dot.log.to_bytes());
            self.piece.extend_from_slice(&dot.seq.get().to_be_bytes());
        }
        self.piece.extend_from_slice(&op.hlc.get().to_be_bytes());
        self.piece.extend_from_slice(&op.kind.to_be_bytes());
        self.piece.push(op.flags);
        self.piece.extend_from_slice(&length(op.body));
        self.piece.extend_from_slice(op.body);
    }

    /// Passes the last piece on.
    pub fn finish(&mut self, sink: &mut dyn FnMut(&[u8])) {
        if !self.piece.is_empty() {
            sink(&self.piece);
            self.piece.clear();
        }
    }
}

/// The op records of a piece; `None` where it does not consist of whole ones.
pub fn ops_of(mut piece: &[u8]) -> Option<Vec<OpRecord<'_>>> {
    let mut ops = Vec::new();
    while !piece.is_empty() {
        let (head, rest) = piece.split_first_chunk::<RECORD_BYTES>()?;
        let number = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("8 bytes"));
        let dot = |at: usize| Dot {
            log: LogId::from_bytes(head[at..at + 40].try_into().expect("40 bytes")),
            seq: Seq::new(number(at + 40)),
        };
        let body_bytes = u32::from_be_bytes(head[107..].try_into().expect("4 bytes"));
        let (body, rest) = rest.split_at_checked(usize::try_from(body_bytes).ok()?)?;
        let (place, name, hlc) = (dot(0), dot(48), Hlc::new(number(96)));
        ops.push(OpRecord {
            place,
            name,
            hlc,
            kind: u16::from_be_bytes([head[104], head[105]]),
            flags: head[106],
            body,
        });
        piece = rest;
    }
    Some(ops)
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("chunks and ops are far smaller").to_be_bytes()
}

/// Bytes of an op record before its body.
const RECORD_BYTES: usize = 111;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::reference::{SPACE, any_ops, apply_interleaved};
    use super::*;

    fn pieces(state: &State) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        state.pieces(&mut |piece| pieces.push(piece.to_vec()));
        pieces
    }

    fn read(pieces: &[Vec<u8>]) -> Result<State, SnapshotError> {
        State::from_pieces(pieces.iter().map(|piece| &piece[..]))
    }

    fn records(count: u64, body: &[u8]) -> Vec<OpRecord<'_>> {
        let dot = |n: u64| Dot { log: LogId::from_bytes(&[7; 40]), seq: Seq::new(n) };
        let record =
            |n| OpRecord { place: dot(n), name: dot(n / 2), hlc: Hlc::new(n << 9), kind: 3, flags: 1, body };
        (1..=count).map(record).collect()
    }

    #[test]
    fn op_records_read_back_and_an_op_is_never_cut() {
        let long = vec![5; CHUNK_BYTES + 100];
        for (body, count) in [(&b"a body"[..], 3_000), (b"", 1), (&long[..], 3)] {
            let ops = records(count, body);
            let mut pieces: Vec<Vec<u8>> = Vec::new();
            let mut writer = OpPieces::default();
            let mut sink = |piece: &[u8]| pieces.push(piece.to_vec());
            ops.iter().for_each(|op| writer.push(op, &mut sink));
            writer.finish(&mut sink);
            writer.finish(&mut sink);

            let read: Vec<OpRecord<'_>> = pieces.iter().flat_map(|piece| ops_of(piece).unwrap()).collect();
            assert_eq!(read, ops);
            assert!(pieces.iter().all(|piece| piece.len() <= CHUNK_BYTES.max(RECORD_BYTES + body.len())));
        }
        let mut piece = Vec::new();
        let mut writer = OpPieces::default();
        writer.push(&records(1, b"abc")[0], &mut |_| {});
        writer.finish(&mut |whole| piece = whole.to_vec());
        assert_eq!(ops_of(&piece[..piece.len() - 1]), None);
        assert_eq!(ops_of(&piece[..50]), None);
    }

    #[test]
    fn pieces_that_are_cut_short_or_too_long_are_refused() {
        let whole = pieces(&State::new(SPACE));
        assert!(whole.len() > 1 && whole[..whole.len() - 1].iter().all(|piece| piece.len() == CHUNK_BYTES));

        assert!(matches!(read(&whole[..1]), Err(SnapshotError::Unfinished { .. })));
        assert!(matches!(read(&[]), Err(SnapshotError::Unfinished { .. })));
        let long = vec![vec![0xff; 8]];
        assert!(matches!(read(&long), Err(SnapshotError::ChunkTooLong { .. })));
    }

    proptest! {
        #[test]
        fn the_same_ops_give_the_same_pieces_in_any_order_and_the_same_state_back(
            ops in any_ops(),
            picks in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let (mut one, mut other) = (State::new(SPACE), State::new(SPACE));
            apply_interleaved(&mut one, &ops, &picks);
            apply_interleaved(&mut other, &ops, &[]);

            let made = pieces(&one);
            prop_assert_eq!(&made, &pieces(&other));
            prop_assert_eq!(one.places(), other.places());
            let mut back = read(&made).unwrap();
            prop_assert_eq!(back.root(), one.root());
            prop_assert_eq!(back.recomputed_root(), one.root());
            prop_assert_eq!(back.places(), one.places());
        }
    }
}
