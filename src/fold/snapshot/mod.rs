//! The stored form of a state: a run of chunks, so that opening a home need not replay every op.
//!
//! Equal sets of ops give equal bytes. Chunks are sealed by whoever stores them; still, nothing in
//! one is trusted to be well-formed. A chunk is `KFI5` ‖ its number from 0, u32 BE ‖ records, and is
//! at most [`CHUNK_BYTES_MAX`] long. No record crosses a chunk.
//!
//! | record | fields |
//! |---|---|
//! | 1 start | fold version u32 BE ‖ space 32 ‖ unknown count ‖ malformed count |
//! | 2 log | id 40 ‖ applied position ‖ position up to which a checkpoint holds it; numbered from 0 in rising order of ids |
//! | 3 buckets | number of the first u16 BE ‖ 512 sums of 32 bytes |
//! | 4 covered | log number ‖ count, 1–1,024 ‖ [seq less the one before ‖ row tag u64 BE]: places named as predecessors |
//! | 5 relocated | head ‖ row tag u64 BE ‖ log number ‖ seq: an op that was written again, and where |
//! | 6 surface | name |
//! | 7 row | key ‖ head: a registry row that consists of one head |
//! | 8 open | key: a row, entity, stream or run whose heads follow |
//! | 9 head | head; of a stream: an event |
//! | 10 statement | head ‖ content hash 16 |
//! | 11 intent | head ‖ status u8 ‖ epoch u64 BE ‖ certificate 32: what a run said of itself |
//! | 12 supersedes | key: a fact that the statement before supersedes |
//! | 13 end | BLAKE3 of everything before this record's first byte, from the first chunk on |
//!
//! Counts, positions and log numbers are LEB128. Texts are their length (LEB128) and UTF-8. A head is
//! `log number · 8 + is laid down · 4 + is late · 2 + is tombstone` (LEB128) ‖ seq (LEB128) ‖ hlc u64 BE. A row tag is the first 8
//! bytes of the hash of the row's name bytes, the last bit set. Records come in the order of their
//! numbers, rows with what they consist of; what is covered rises strictly by (log, seq, tag), what
//! is relocated by (log, seq, hlc, tombstone, tag), and surfaces, keys and heads rise strictly.

mod read;
mod write;

use thiserror::Error;

use super::root::BUCKET_COUNT;
use crate::model::Blame;
use crate::model::limits::KEY_BYTES_MAX;

pub use read::StateBuilder;

/// Greatest chunk of a snapshot: a few hundred records' worth of buckets, far below any store's limit.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// Chunks that are no snapshot: drop them and fold the logs again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// A chunk longer than [`CHUNK_BYTES_MAX`].
    #[error("an index chunk of {found} bytes exceeds the limit of {limit}")]
    ChunkTooLong {
        /// Bytes found.
        found: usize,
        /// [`CHUNK_BYTES_MAX`].
        limit: usize,
    },
    /// A chunk that is none, or not the next one.
    #[error("index chunk {expected} is missing or does not begin like one")]
    ChunkHead {
        /// The number it should have.
        expected: u32,
    },
    /// Written under other rules: the state means something else.
    #[error("the index is of fold version {found}, this kinfold folds version {expected}")]
    FoldVersion {
        /// [`FOLD_VERSION`](super::FOLD_VERSION).
        expected: u32,
        /// The version found.
        found: u32,
    },
    /// A chunk that ends within a record.
    #[error("index chunk {chunk} ends within a record")]
    Truncated {
        /// Its number.
        chunk: u32,
    },
    /// A record of a kind that is not known.
    #[error("index chunk {chunk} holds a record of unknown kind {found}")]
    Kind {
        /// The chunk's number.
        chunk: u32,
        /// The kind.
        found: u8,
    },
    /// A record where it must not stand: out of order, twice, or in a surface of another tier.
    #[error("index chunk {chunk} holds a record of kind {kind} out of place")]
    Misplaced {
        /// The chunk's number.
        chunk: u32,
        /// The kind.
        kind: u8,
    },
    /// A record with a value that no state has.
    #[error("index chunk {chunk} holds a record of kind {kind} with an impossible value")]
    Value {
        /// The chunk's number.
        chunk: u32,
        /// The kind.
        kind: u8,
    },
    /// The hash at the end is not that of the chunks.
    #[error("the index does not match its hash: it is damaged")]
    Damaged,
    /// The chunks end before the end record, or an error came before it.
    #[error("the index ends early, after {chunks} chunks")]
    Unfinished {
        /// Whole chunks read.
        chunks: u32,
    },
}

impl SnapshotError {
    /// Whose fault it is: always this device's, whose disk or earlier version wrote the snapshot.
    pub const fn blame(&self) -> Blame {
        Blame::Local
    }
}

const MAGIC: &[u8; 4] = b"KFI5";

const START: u8 = 1;
const LOG: u8 = 2;
const BUCKETS: u8 = 3;
const COVERED: u8 = 4;
const RELOCATED: u8 = 5;
const SURFACE: u8 = 6;
const ROW: u8 = 7;
const OPEN: u8 = 8;
const HEAD: u8 = 9;
const STATEMENT: u8 = 10;
const INTENT: u8 = 11;
const SUPERSEDES: u8 = 12;
const END: u8 = 13;

/// Most places in one covered record: at up to 18 bytes each, it stays far below a chunk.
const COVERED_PER_RECORD: usize = 1024;

/// Eight records hold all buckets, so that they pack well into chunks.
const BUCKETS_PER_RECORD: u16 = 512;
const _: () = assert!(BUCKET_COUNT.is_multiple_of(BUCKETS_PER_RECORD));

/// The longest record: covered, or buckets with 16,387 bytes.
const RECORD_BYTES_MAX: usize = 1 + 10 + 10 + (10 + 8) * COVERED_PER_RECORD;
const _: () = assert!(RECORD_BYTES_MAX > 1 + 2 + 32 * BUCKETS_PER_RECORD as usize);
const _: () = assert!(RECORD_BYTES_MAX > 64 + KEY_BYTES_MAX && 8 + RECORD_BYTES_MAX < CHUNK_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::super::facts::SUPERSEDES_MAX;
    use super::super::reference::{SPACE, any_ops, apply_interleaved, log, written};
    use super::super::root::{RowHash, row_bytes};
    use super::super::{FOLD_VERSION, NoChain, State};
    use super::write::ChunkWriter;
    use super::*;
    use crate::model::{Dot, Op, Payload, Seq};
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    fn chunks(state: &State) -> Vec<Vec<u8>> {
        let mut chunks = Vec::new();
        state.encode(&mut |chunk| chunks.push(chunk.to_vec()));
        chunks
    }

    fn build(chunks: &[Vec<u8>]) -> Result<State, SnapshotError> {
        let mut builder = StateBuilder::new();
        chunks.iter().try_for_each(|chunk| builder.push(chunk))?;
        builder.finish()
    }

    fn sample() -> State {
        let mut state = State::new(SPACE);
        let ops = prop::collection::vec(any_ops(), 3..4)
            .prop_map(|sets| sets.into_iter().max_by_key(Vec::len).unwrap())
            .new_tree(&mut TestRunner::deterministic())
            .unwrap()
            .current();
        apply_interleaved(&mut state, &ops, &[3, 1, 4, 1, 5]);
        state
    }

    /// A snapshot whose records after the buckets are these.
    fn crafted(records: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut sink = |chunk: &[u8]| out = chunk.to_vec();
        let mut writer = ChunkWriter::new(&mut sink);
        let mut state = State::new(SPACE);
        let log = state.logs.intern(&log(0));
        state.logs.set_applied(log, Seq::new(3));
        state.encode_head(&mut writer);
        writer.chunk.extend_from_slice(records);
        writer.finish();
        out
    }

    fn registry(records: &[&[u8]]) -> Result<State, SnapshotError> {
        surface(b"\x06\x0aregistry:a", records)
    }

    fn surface(surface: &[u8], records: &[&[u8]]) -> Result<State, SnapshotError> {
        build(&[crafted(&[surface, &records.concat()].concat())])
    }

    #[test]
    fn a_surface_of_which_no_row_is_left_leaves_no_trace() {
        let put = |log_index: usize, names: usize| {
            let dot = |log_index| Dot { log: log(log_index), seq: Seq::new(1) };
            let (surface, payload) = ("registry:gone".parse().unwrap(), Payload::parse("1").unwrap());
            written(dot(log_index), 1, Op::Put { surface, key: "k".into(), preds: vec![dot(names)], payload })
        };
        let mut state = State::new(SPACE);
        apply_interleaved(&mut state, &[put(0, 1), put(1, 0)], &[]);

        let chunks = chunks(&state);
        assert!(!chunks.concat().windows(4).any(|bytes| bytes == b"gone"));
        assert_eq!(self::chunks(&build(&chunks).unwrap()), chunks);
    }

    #[test]
    fn a_snapshot_of_many_rows_takes_several_bounded_chunks() {
        let mut state = State::new(SPACE);
        let log = log(0);
        for seq in 1..=20_000u64 {
            let op = Op::Put {
                surface: "registry:a".parse().unwrap(),
                key: format!("{:016x}", seq.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into(),
                preds: Vec::new(),
                payload: Payload::parse("1").unwrap(),
            };
            let dot = Dot { log, seq: Seq::new(seq) };
            state.apply(&log, &written(dot, seq, op).frame());
        }

        let chunks = chunks(&state);
        assert!(chunks.len() > 2 && chunks.iter().all(|chunk| chunk.len() <= CHUNK_BYTES_MAX));
        let mut read = build(&chunks).unwrap();
        assert_eq!(read.root(), state.root());
        assert_eq!(read.recomputed_root(), state.root());
        assert_eq!(read.counts(), state.counts());
        assert!(matches!(
            build(&chunks[..chunks.len() - 1]),
            Err(SnapshotError::Unfinished { chunks: found }) if found as usize == chunks.len() - 1
        ));
        assert!(matches!(build(&chunks[1..]), Err(SnapshotError::ChunkHead { expected: 0 })));
        let swapped = [chunks[0].clone(), chunks[2].clone()];
        assert!(matches!(build(&swapped), Err(SnapshotError::ChunkHead { expected: 1 })));
    }

    #[test]
    fn every_spoiled_byte_and_every_truncation_is_refused() {
        let [chunk] = &chunks(&sample())[..] else { panic!("a small state is one chunk") };
        assert!(build(std::slice::from_ref(chunk)).is_ok());
        // The sums take most of the bytes and are covered by the hash like all others.
        let interesting = |at: &usize| *at < 600 || chunk.len() - 600 < *at || at.is_multiple_of(997);

        for at in (0..chunk.len()).filter(interesting) {
            let mut spoiled = chunk.clone();
            spoiled[at] ^= 1;
            assert!(build(&[spoiled]).is_err(), "byte {at}");
            assert!(build(&[chunk[..at].to_vec()]).is_err(), "length {at}");
        }
    }

    #[test]
    fn every_broken_rule_is_refused_by_name() {
        use SnapshotError::{Damaged, FoldVersion, Kind, Misplaced, Truncated, Value};
        let row = |kind: u8, key: &str| [&[kind, key.len() as u8], key.as_bytes()].concat();
        let head = |log: u8, seq: u8, hlc: u8| vec![log * 8, seq, 0, 0, 0, 0, 0, 0, 0, hlc];
        let one = |key: &str| [row(ROW, key), head(0, 1, 1)].concat();
        let part = |kind: u8, head: Vec<u8>| [&[kind], &head[..]].concat();
        let found = |result: Result<State, SnapshotError>| result.err();
        let misplaced = |kind| Some(Misplaced { chunk: 0, kind });
        let value = |kind| Some(Value { chunk: 0, kind });

        assert_eq!(found(registry(&[&one("a"), &one("b")])), None);
        assert_eq!(found(registry(&[&one("b"), &one("a")])), misplaced(ROW));
        assert_eq!(found(registry(&[&one("")])), value(ROW));
        assert_eq!(found(registry(&[&row(ROW, "a"), &head(1, 1, 1)])), value(ROW));
        assert_eq!(found(registry(&[&row(ROW, "a"), &head(0, 4, 1)])), value(ROW));
        assert_eq!(found(registry(&[&row(ROW, "a"), &head(0, 0, 1)])), value(ROW));
        assert_eq!(found(registry(&[&[ROW, 1, 0xff]])), value(ROW));
        assert_eq!(found(registry(&[&[ROW], &[0xff; 10]])), value(ROW));
        assert_eq!(found(registry(&[&row(OPEN, "a")])), value(END));
        assert_eq!(found(registry(&[&part(HEAD, head(0, 1, 1))])), misplaced(HEAD));
        let twice = part(HEAD, head(0, 1, 1));
        assert_eq!(found(registry(&[&row(OPEN, "a"), &twice, &twice])), misplaced(HEAD));
        assert_eq!(found(registry(&[&part(STATEMENT, head(0, 1, 1))])), misplaced(STATEMENT));
        assert_eq!(found(registry(&[&[99]])), Some(Kind { chunk: 0, found: 99 }));
        assert_eq!(found(registry(&[&[END, 0]])), Some(Damaged));
        assert_eq!(found(registry(&[&[START]])), misplaced(START));
        assert_eq!(
            found(registry(b"\x06\x0aregistry:a".chunks(20).collect::<Vec<_>>().as_slice())),
            misplaced(SURFACE)
        );
        assert_eq!(found(surface(b"\x06\x06dreams", &[])), value(SURFACE));
        assert_eq!(found(surface(b"\x06\x07routing", &[&row(OPEN, "a")])), value(END));
        let tombstone = [vec![HEAD, 1, 1], vec![0; 8]].concat();
        assert_eq!(found(surface(b"\x06\x07routing", &[&row(OPEN, "a"), &tombstone])), value(HEAD));
        assert_eq!(found(surface(b"\x06\x07routing", &[&one("a")])), misplaced(ROW));
        let ledger = |records: &[&[u8]]| found(surface(b"\x06\x06intent", records));
        let says = |seq: u8, status: u8, epoch: u64| {
            let rest = [&[status][..], &epoch.to_be_bytes(), &[0; 32]].concat();
            [part(INTENT, head(0, seq, seq)), rest].concat()
        };
        let run = row(OPEN, "a\u{1f}r");
        assert_eq!(ledger(&[&run, &says(1, 1, 1), &says(2, 2, 1)]), None);
        assert_eq!(ledger(&[&run]), value(END));
        assert_eq!(ledger(&[&row(OPEN, "a"), &says(1, 1, 1)]), value(OPEN));
        assert_eq!(ledger(&[&run, &says(1, 4, 1)]), value(INTENT));
        assert_eq!(ledger(&[&run, &says(1, 1, 0)]), value(INTENT));
        assert_eq!(ledger(&[&run, &says(4, 1, 1)]), value(INTENT), "not applied");
        assert_eq!(ledger(&[&run, &says(2, 1, 1), &says(1, 1, 1)]), misplaced(INTENT));
        assert_eq!(ledger(&[&run, &says(1, 1, 1), &run]), misplaced(OPEN));
        assert_eq!(ledger(&[&run, &part(HEAD, head(0, 1, 1))]), misplaced(HEAD));
        assert_eq!(found(registry(&[&row(OPEN, "a"), &says(1, 1, 1)])), misplaced(INTENT));
        let says_content = |seq| [part(STATEMENT, head(0, seq, seq)), vec![7; 16]].concat();
        assert_eq!(found(surface(b"\x06\x05skill", &[&row(OPEN, "a"), &says_content(1)])), None);
        assert_eq!(
            found(surface(b"\x06\x05skill", &[&row(OPEN, "a"), &says_content(1), &says_content(2)])),
            value(END)
        );
        let skill = |records: &[&[u8]]| found(surface(b"\x06\x05skill", records));
        let names = |key: &str| row(SUPERSEDES, key);
        assert_eq!(skill(&[&row(OPEN, "a"), &says_content(1), &names("b"), &names("c")]), None);
        assert_eq!(skill(&[&row(OPEN, "a"), &names("b")]), misplaced(SUPERSEDES));
        assert_eq!(
            skill(&[&row(OPEN, "a"), &says_content(1), &names("c"), &names("b")]),
            misplaced(SUPERSEDES)
        );
        assert_eq!(skill(&[&row(OPEN, "a"), &says_content(1), &names("")]), value(SUPERSEDES));
        let many: Vec<Vec<u8>> = (0..=SUPERSEDES_MAX).map(|n| names(&format!("{n:03}"))).collect();
        assert_eq!(skill(&[&row(OPEN, "a"), &says_content(1), &many[1..].concat()]), None);
        assert_eq!(skill(&[&row(OPEN, "a"), &says_content(1), &many.concat()]), value(SUPERSEDES));
        assert_eq!(ledger(&[&run, &says(1, 1, 1), &names("b")]), misplaced(SUPERSEDES));
        let good = crafted(&[]);
        assert_eq!(found(build(&[good[..100].to_vec()])), Some(Truncated { chunk: 0 }));
        let mut version = good.clone();
        version[12] = 9;
        assert_eq!(found(build(&[version])), Some(FoldVersion { expected: FOLD_VERSION, found: 9 }));
        let mut sum = good.clone();
        sum[5_000] ^= 1;
        assert_eq!(found(build(&[sum])), Some(Damaged));
        assert_eq!(found(build(&[[&good[..], &[1]].concat()])), misplaced(1));
        let limit = CHUNK_BYTES_MAX;
        assert_eq!(
            found(build(&[vec![0; limit + 1]])),
            Some(SnapshotError::ChunkTooLong { found: limit + 1, limit })
        );
        assert_eq!(found(build(&[good.clone(), good])), Some(SnapshotError::ChunkHead { expected: 0 }));
        assert_eq!(found(build(&[])), Some(SnapshotError::Unfinished { chunks: 0 }));
    }

    #[test]
    fn every_broken_rule_of_places_is_refused_by_name() {
        use SnapshotError::{Misplaced, Value};
        let found = |records: &[&[u8]]| build(&[crafted(&records.concat())]).err();
        let misplaced = |kind| Some(Misplaced { chunk: 0, kind });
        let value = |kind| Some(Value { chunk: 0, kind });
        let covered = |places: &[(u8, [u8; 8])]| {
            let places: Vec<u8> =
                places.iter().flat_map(|(step, row)| [&[*step], &row[..]].concat()).collect();
            [vec![COVERED, 0, places.len() as u8 / 9], places].concat()
        };
        let relocated = |seq: u8, row: [u8; 8], at: u8| {
            [&[RELOCATED, 0, seq, 0, 0, 0, 0, 0, 0, 0, 5][..], &row, &[0, at]].concat()
        };
        let (row, other, even) = ([1; 8], [3; 8], [2; 8]);

        let surface = b"\x06\x0aregistry:a".to_vec();
        assert_eq!(
            found(&[&covered(&[(1, row), (0, other), (9, row)]), &relocated(9, row, 3), &surface]),
            None
        );
        assert_eq!(found(&[&covered(&[(1, other), (0, row)])]), misplaced(COVERED));
        assert_eq!(found(&[&covered(&[(2, row)]), &covered(&[(1, row)])]), misplaced(COVERED));
        assert_eq!(found(&[&covered(&[(0, row)])]), value(COVERED));
        assert_eq!(found(&[&covered(&[(1, even)])]), value(COVERED));
        assert_eq!(found(&[&[COVERED, 0, 0]]), value(COVERED));
        assert_eq!(found(&[&[COVERED, 0, 0x81, 0x08]]), value(COVERED));
        assert_eq!(found(&[&[COVERED, 1, 1, 1], &row]), value(COVERED));
        assert_eq!(found(&[&relocated(9, row, 3), &covered(&[(1, row)])]), misplaced(COVERED));
        assert_eq!(found(&[&surface, &covered(&[(1, row)])]), misplaced(COVERED));
        assert_eq!(found(&[&relocated(9, row, 3), &relocated(9, row, 3)]), misplaced(RELOCATED));
        assert_eq!(found(&[&relocated(9, row, 4)]), value(RELOCATED), "nothing is applied there");
        assert_eq!(found(&[&relocated(9, even, 3)]), value(RELOCATED));
        assert_eq!(found(&[&surface, &relocated(9, row, 3)]), misplaced(RELOCATED));

        let tag = RowHash::of(&row_bytes("registry:a", "a")).tag().get().to_be_bytes();
        let one = |seq: u8| [&b"\x07\x01a\x00"[..], &[seq, 0, 0, 0, 0, 0, 0, 0, 5]].concat();
        assert_eq!(found(&[&relocated(9, tag, 3), &surface, &one(9)]), None);
        assert_eq!(found(&[&relocated(9, row, 3), &surface, &one(9)]), value(ROW), "of another row");
        assert_eq!(found(&[&covered(&[(2, tag)]), &surface, &one(1)]), None);
        assert_eq!(found(&[&covered(&[(1, tag)]), &surface, &one(1)]), value(ROW), "covered");
        let open = [&b"\x08\x01a\x09\x00"[..], &[1, 0, 0, 0, 0, 0, 0, 0, 5]].concat();
        assert_eq!(found(&[&covered(&[(2, tag)]), &surface, &open]), None);
        assert_eq!(found(&[&covered(&[(1, tag)]), &surface, &open]), value(END), "covered");
    }

    #[test]
    fn an_index_of_the_version_before_is_refused() {
        let mut old = crafted(&[]);
        old[..4].copy_from_slice(b"KFI2");

        assert!(matches!(build(&[old]), Err(SnapshotError::ChunkHead { expected: 0 })));
    }

    proptest! {
        #[test]
        fn a_state_split_by_a_snapshot_ends_the_same_and_equal_ops_give_equal_bytes(
            ops in any_ops(),
            picks in prop::collection::vec(any::<u8>(), 1..40),
            cut in 0usize..40,
        ) {
            let mut whole = State::new(SPACE);
            apply_interleaved(&mut whole, &ops, &picks);
            let cut = cut.min(ops.len());
            let mut first = State::new(SPACE);
            apply_interleaved(&mut first, &ops[..cut], &picks);

            let mut resumed = build(&chunks(&first)).unwrap();
            prop_assert_eq!(chunks(&resumed), chunks(&first));
            prop_assert_eq!(resumed.counts(), first.counts());
            apply_interleaved(&mut resumed, &ops[cut..], &picks);

            prop_assert_eq!(chunks(&resumed), chunks(&whole));
            prop_assert_eq!(resumed.root(), whole.root());
            prop_assert_eq!(resumed.recomputed_root(), whole.root());
            prop_assert_eq!(resumed.conflicts(None, 99, &NoChain), whole.conflicts(None, 99, &NoChain));
            prop_assert_eq!(resumed.surfaces(), whole.surfaces());
        }

        #[test]
        fn any_records_are_read_or_refused(
            records in prop::collection::vec((0u8..15, prop::collection::vec(0u8..8, 0..20)), 0..20),
        ) {
            let records: Vec<u8> =
                records.into_iter().flat_map(|(kind, rest)| std::iter::once(kind).chain(rest)).collect();

            let _ = build(&[crafted(&records)]);
            let _ = registry(&[&records]);
        }
    }
}
