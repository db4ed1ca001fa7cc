//! Pieces of states by the reference's ops, and everything that is none.

use proptest::prelude::*;
use serde_json::Value;

use super::super::reference::{SPACE, Written, any_ops, apply_interleaved, log, reissued, written};
use super::super::root::{RowHash, row_bytes};
use super::super::{FOLD_VERSION, State};
use super::*;
use crate::model::{Hlc, LogId, Op, Payload, Seq};
use crate::wire::checkpoint::CHUNK_BYTES;
use crate::wire::{OpView, REISSUE};

/// The pieces of a checkpoint: those of the state itself, and those of its ops.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::fold) struct Made {
    state: Vec<Vec<u8>>,
    ops: Vec<Vec<u8>>,
}

/// What a checkpoint of a state that was laid down consists of.
pub(in crate::fold) fn made(state: &State, ops: &[Written]) -> Made {
    let (mut of_state, mut of_ops) = (Vec::new(), Vec::new());
    state.pieces(&mut |piece| of_state.push(piece.to_vec()));
    let mut pieces = OpPieces::default();
    for Pointed { place, is_late, is_told } in state.pointed() {
        let op = ops.iter().find(|op| op.dot == place).expect("the state points at ops that were applied");
        pieces.push(&OpRecord { is_told, ..record(op, is_late) }, &mut |piece| of_ops.push(piece.to_vec()));
    }
    pieces.finish(&mut |piece| of_ops.push(piece.to_vec()));
    Made { state: of_state, ops: of_ops }
}

/// The state in the pieces of a checkpoint.
pub(in crate::fold) fn restored(made: &Made) -> Result<State, PieceError> {
    let mut pieces = StatePieces::default();
    made.state.iter().for_each(|piece| pieces.push(piece));
    let mut ops = pieces.ops()?;
    for piece in &made.ops {
        ops.push(&ops_of(piece).ok_or(PieceError::Form)?)?;
    }
    ops.finish()
}

/// A state as its index chunks, in which everything of it stands.
pub(in crate::fold) fn index(state: &State) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    state.encode(&mut |chunk| chunks.push(chunk.to_vec()));
    chunks
}

fn record(op: &Written, is_late: bool) -> OpRecord<'_> {
    let Written { dot: place, hlc, kind, flags, body, .. } = op;
    match OpView::decode(*kind, *flags, body) {
        Ok(OpView::Reissue(original)) => {
            let (name, hlc) = (original.dot(), original.hlc);
            OpRecord {
                place: *place,
                name,
                hlc,
                kind: original.kind,
                flags: original.flags,
                is_late,
                is_told: false,
                body: original.body,
            }
        }
        _ => OpRecord {
            place: *place,
            name: *place,
            hlc: *hlc,
            kind: *kind,
            flags: *flags,
            is_late,
            is_told: false,
            body,
        },
    }
}

fn laid_down(ops: &[Written], picks: &[u8]) -> State {
    let mut state = State::new(SPACE);
    apply_interleaved(&mut state, ops, picks);
    let laid = state.lay_down(&mut |_| Ok::<_, std::convert::Infallible>(None));
    let Ok(_) = laid;
    state
}

fn dot(log_index: usize, seq: u64) -> Dot {
    Dot { log: log(log_index), seq: Seq::new(seq) }
}

fn put(at: Dot, hlc: u64, key: &str, preds: &[Dot]) -> Written {
    let payload = Payload::parse("1").unwrap();
    let surface = "registry:a".parse().unwrap();
    written(at, hlc, Op::Put { surface, key: key.into(), preds: preds.to_vec(), payload })
}

fn delete(at: Dot, hlc: u64, key: &str, preds: &[Dot]) -> Written {
    let surface = "registry:a".parse().unwrap();
    written(at, hlc, Op::Delete { surface, key: key.into(), preds: preds.to_vec() })
}

fn fact(at: Dot, hlc: u64, payload: &str) -> Written {
    let (surface, payload) = ("skill".parse().unwrap(), Payload::parse(payload).unwrap());
    written(at, hlc, Op::Fact { surface, key: "k".into(), payload })
}

/// Two logs, rows that were written twice and removed, and one op that was written again.
fn sample() -> Vec<Written> {
    let event = |at: Dot, hlc| {
        let (surface, payload) = ("conversation".parse().unwrap(), Payload::parse("2").unwrap());
        written(at, hlc, Op::Event { surface, stream: "s".into(), payload })
    };
    let lost = put(dot(3, 9), 7, "c", &[]);
    vec![
        put(dot(0, 1), 10, "a", &[]),
        put(dot(0, 2), 20, "b", &[]),
        put(dot(0, 3), 30, "a", &[dot(0, 1)]),
        delete(dot(1, 1), 40, "b", &[dot(0, 2)]),
        put(dot(1, 2), 50, "a", &[dot(0, 3)]),
        fact(dot(1, 3), 60, "3"),
        event(dot(1, 4), 70),
        reissued(dot(4, 1), &lost),
        // Nothing is left of a row whose ops name each other.
        put(dot(2, 1), 80, "gone", &[dot(2, 2)]),
        put(dot(2, 2), 90, "gone", &[dot(2, 1)]),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Ops, and whether each is late.
type Flagged = Vec<(Written, bool)>;

#[test]
fn pieces_have_the_golden_bytes() {
    let vectors: Value = serde_json::from_str(include_str!("../../../tests/data/pieces-v1.json")).unwrap();
    let (ops, state) = (sample(), laid_down(&sample(), &[]));
    let made = made(&state, &ops);

    let hex_of = |pieces: &[Vec<u8>]| pieces.iter().map(|piece| hex(piece)).collect::<Vec<_>>();
    assert_eq!(serde_json::json!(hex_of(&made.state)), vectors["state_pieces"]);
    assert_eq!(serde_json::json!(hex_of(&made.ops)), vectors["op_pieces"]);
    assert_eq!(index(&restored(&made).unwrap()), index(&state));
}

#[test]
fn what_is_late_stays_late() {
    let mut ops = vec![put(dot(0, 1), 1, "a", &[]), delete(dot(0, 2), 2, "a", &[dot(0, 1)])];
    let mut state = laid_down(&ops, &[]);
    ops.push(put(dot(1, 1), 3, "a", &[dot(0, 1)]));
    state.apply(&log(1), &ops[2].frame());
    let Ok(laid) = state.lay_down(&mut |_| Ok::<_, std::convert::Infallible>(None));

    assert_eq!(laid.late, 1);
    let read = restored(&made(&state, &ops)).unwrap();
    assert_eq!((index(&read), read.counts()), (index(&state), state.counts()));
    assert_eq!(read.counts().live_rows, 0);
}

#[test]
fn many_writes_of_the_same_rows_take_a_byte_or_two_each() {
    let mut state = State::new(SPACE);
    let mut ops = Vec::new();
    for seq in 1..=20_000u64 {
        let before = seq.checked_sub(500).filter(|before| *before > 0).map(|before| dot(0, before));
        ops.push(put(dot(0, seq), seq, &format!("row {}", seq % 500), before.as_slice()));
        state.apply(&log(0), &ops[ops.len() - 1].frame());
    }
    let Ok(_) = state.lay_down(&mut |_| Ok::<_, std::convert::Infallible>(None));
    let last = ops.split_off(ops.len() - 500);

    let made = made(&state, &last);
    assert_eq!(made.state.iter().map(Vec::len).sum::<usize>(), 19_500 * 3 + 93);
    let packed = zstd::bulk::compress(&made.state.concat(), 3).unwrap();
    assert!(packed.len() < 500, "{}", packed.len());
    assert_eq!(index(&restored(&made).unwrap()), index(&state));
}

#[test]
fn pieces_are_cut_and_an_op_never_is() {
    let long = vec![5; CHUNK_BYTES + 100];
    for (body, count) in [(&b"a body"[..], 9_000), (b"", 1), (&long[..], 3)] {
        let ops: Vec<OpRecord<'_>> = (1..=count)
            .map(|n| OpRecord {
                place: dot(0, n),
                name: dot(3, n / 2),
                hlc: Hlc::new(n << 9),
                kind: 3,
                flags: 1,
                is_late: n % 3 == 0,
                is_told: n % 5 == 0,
                body,
            })
            .collect();
        let mut pieces: Vec<Vec<u8>> = Vec::new();
        let mut writer = OpPieces::default();
        let mut sink = |piece: &[u8]| pieces.push(piece.to_vec());
        ops.iter().for_each(|op| writer.push(op, &mut sink));
        writer.finish(&mut sink);
        writer.finish(&mut sink);

        let read: Vec<OpPiece> = pieces.iter().map(|piece| ops_of(piece).unwrap()).collect();
        assert_eq!(read.iter().flat_map(OpPiece::records).collect::<Vec<_>>(), ops);
        assert!(pieces.iter().all(|piece| piece.len() <= CHUNK_BYTES.max(200 + body.len())));
        assert!(count < 5_000 || pieces.len() > 3);
    }
}

#[test]
fn every_other_way_to_write_an_op_is_refused() {
    let ops = [put(dot(0, 1), 5, "a", &[dot(1, 7), dot(0, 3)])];
    let record = record(&ops[0], false);
    let mut piece = OpPiece::default();
    piece.push(&record);
    let bytes = piece.to_bytes();
    assert_eq!(ops_of(&bytes), Some(piece.clone()));
    // One op; two logs, one surface; place; shape; stamp.
    let at = 2 + 80 + 1 + 11;
    assert_eq!(bytes[at..at + 4], [1, 0, 1, 10]);
    let none = |change: &dyn Fn(&mut Vec<u8>), why: &str| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        assert_eq!(ops_of(&bytes), None, "{why}");
    };

    for end in 0..bytes.len() {
        none(&|bytes| bytes.truncate(end), "cut short");
    }
    none(&|bytes| bytes.push(0), "more than the columns");
    none(&|bytes| bytes[0] = 0, "no op");
    none(&|bytes| bytes[0] = 100, "more ops than bytes");
    none(&|bytes| bytes[2..82].rotate_left(40), "logs that fall");
    none(&|bytes| bytes[at] = 0, "a log that nothing is of");
    none(&|bytes| bytes[at] = 2, "a log that is not there");
    none(&|bytes| bytes[at + 2] = 5, "no kind that lies in parts");
    none(&|bytes| bytes[at + 2] = 65, "a bit of no meaning");
    none(
        &|bytes| {
            bytes[at + 2] |= 16;
            bytes.splice(at + 3..at + 3, [1, 1]);
        },
        "a name that is the place",
    );
    none(
        &|bytes| {
            bytes[at + 3] = 0x8a;
            bytes.insert(at + 4, 0);
        },
        "a number with a byte too many",
    );
    none(&|bytes| bytes[at + 4] = 1, "a surface that is not there");
    none(
        &|bytes| {
            let key = bytes.len() - 2;
            bytes[key] = 0xff;
        },
        "a key that is no text",
    );
    // The same body whole, where it could lie in parts.
    let mut whole = vec![1, 1];
    whole.extend_from_slice(&log(0).to_bytes());
    whole.extend_from_slice(&[0, 0, 0, 0, 10, 1, 0, record.body.len() as u8]);
    assert_eq!(ops_of(&[&whole[..], record.body].concat()), None, "whole");
    *whole.last_mut().unwrap() -= 1;
    let cut = &record.body[..record.body.len() - 1];
    assert_eq!(ops_of(&[&whole[..], cut].concat()).unwrap().ops.len(), 1, "one that breaks its rules is");
}

#[test]
fn texts_that_ops_share_do_not_grow_beyond_a_piece() {
    let surface = format!("registry:{}", "a".repeat(55));
    let mut writer = OpPiece::default();
    let payload = Payload::parse("1").unwrap();
    for seq in 1..=2_000 {
        let (surface, key) = (surface.parse().unwrap(), "k".into());
        let op = Op::Put { surface, key, preds: Vec::new(), payload: payload.clone() };
        writer.push(&record(&written(dot(0, seq), seq, op), false));
    }
    assert!(writer.to_bytes().len() < 30_000 && writer.bodies.len() > CHUNK_BYTES);

    assert_eq!(ops_of(&writer.to_bytes()), None);
}

#[test]
fn every_broken_rule_is_refused_by_name() {
    let (ops, state) = (sample(), laid_down(&sample(), &[]));
    let whole = made(&state, &ops);
    let [head] = &whole.state[..] else { panic!("a small state is one piece") };
    let found = |state: Vec<u8>, ops: Vec<Vec<u8>>| restored(&Made { state: vec![state], ops }).err();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut head = head.clone();
        change(&mut head);
        found(head, whole.ops.clone())
    };
    let of = |ops: &[(Written, bool)]| {
        let mut piece = OpPiece::default();
        ops.iter().for_each(|(op, is_late)| piece.push(&record(op, *is_late)));
        vec![piece.to_bytes()]
    };
    let op_at = |log_index, seq| Some(PieceError::Op { place: dot(log_index, seq) });

    assert_eq!(found(head.clone(), whole.ops.clone()), None);
    assert_eq!(changed(&|head| head[3] = b'0'), Some(PieceError::Magic { found: *b"KFC0" }));
    let version = PieceError::FoldVersion { expected: FOLD_VERSION, found: 9 };
    assert_eq!(changed(&|head| head[7] = 9), Some(version));
    for end in 0..head.len() {
        assert_eq!(changed(&|head| head.truncate(end)), Some(PieceError::Form), "{end}");
    }
    assert_eq!(changed(&|head| head.push(0)), Some(PieceError::Form));
    let pointed: Vec<Written> =
        state.pointed().iter().map(|at| ops.iter().find(|op| op.dot == at.place).unwrap().clone()).collect();
    let with = |change: &dyn Fn(&mut Flagged)| {
        let mut ops: Flagged = pointed.iter().map(|op| (op.clone(), false)).collect();
        change(&mut ops);
        found(head.clone(), of(&ops))
    };
    assert_eq!(with(&|_| {}), None);
    let order: Vec<Dot> = pointed.iter().map(|op| op.dot).collect();
    assert_eq!(order, [dot(1, 1), dot(1, 2), dot(1, 3), dot(1, 4), dot(4, 1)]);
    assert_eq!(with(&|ops| drop(ops.pop())), Some(PieceError::OpsMissing { missing: 1 }));
    let twice = [whole.ops.clone(), whole.ops.clone()].concat();
    assert_eq!(found(head.clone(), twice), op_at(1, 1), "again");
    let (more, beyond) = (put(dot(0, 1), 10, "a", &[]), put(dot(1, 5), 80, "d", &[]));
    assert_eq!(with(&|ops| ops.push((more.clone(), false))), op_at(0, 1), "one too many");
    assert_eq!(with(&|ops| ops[4].0 = beyond.clone()), op_at(1, 5), "one that is not applied");
    assert_eq!(with(&|ops| ops[0].1 = true), op_at(1, 1), "a removal is never late");
    assert_eq!(with(&|ops| ops[2].1 = true), op_at(1, 3), "nor is a fact");
    let stranger = put(dot(1, 2), 50, "a", &[Dot { log: LogId::from_bytes(&[1; 40]), seq: Seq::new(1) }]);
    assert_eq!(
        with(&|ops| ops[1].0 = stranger.clone()),
        op_at(1, 2),
        "of a log that the state has not heard of"
    );
    let elsewhere = put(dot(4, 1), 7, "c", &[]);
    assert_eq!(with(&|ops| ops[4].0 = elsewhere.clone()), None, "another op of the row: that its root tells");
    let of_no_kind = Written { kind: 9, ..pointed[3].clone() };
    assert_eq!(with(&|ops| ops[3].0 = of_no_kind.clone()), op_at(1, 4));
    let same = fact(dot(1, 4), 61, "3");
    assert_eq!(with(&|ops| ops[3].0 = same.clone()), op_at(1, 4), "said before");
    let other_row = put(dot(1, 2), 50, "b", &[dot(0, 3)]);
    assert_eq!(with(&|ops| ops[1].0 = other_row.clone()), Some(PieceError::Covered));
    let names_more = put(dot(1, 2), 50, "a", &[dot(0, 3), dot(1, 4)]);
    assert_eq!(with(&|ops| ops[1].0 = names_more.clone()), Some(PieceError::Covered));
}

#[test]
fn what_is_covered_is_told_in_one_way() {
    let row = |key: &str| RowHash::of(&row_bytes("registry:a", key)).tag().get().to_be_bytes();
    let logs = [log(0)];
    // One log with nine ops, none written again; covered places, steps, and tags of rows without a head.
    let head = |places: &[u8], steps: &[u8], tags: &[[u8; 8]]| {
        let mut head = [&b"KFC1"[..], &FOLD_VERSION.to_be_bytes(), SPACE.as_bytes(), &[0, 0, 1]].concat();
        head.extend_from_slice(&logs[0].to_bytes());
        head.extend_from_slice(&[9, 2, 0, 0, places.len() as u8]);
        [head, places.to_vec(), steps.to_vec(), tags.concat()].concat()
    };
    let ops = [put(dot(0, 8), 8, "a", &[]), put(dot(0, 9), 9, "b", &[])];
    let mut piece = OpPiece::default();
    ops.iter().for_each(|op| piece.push(&record(op, false)));
    let found = |places: &[u8], steps: &[u8], tags: &[[u8; 8]]| {
        restored(&Made { state: vec![head(places, steps, tags)], ops: vec![piece.to_bytes()] }).err()
    };

    // 1 a, 2 b, 3 a; 4 and 5 of rows that are gone.
    assert_eq!(found(&[1, 1, 1, 1, 1], &[2, 5, 3, 0, 0], &[row("x"), row("y")]), None);
    assert_eq!(found(&[1, 1], &[2, 2], &[]), None);
    let covered = Some(PieceError::Covered);
    assert_eq!(found(&[1, 1], &[2, 3], &[]), covered, "beyond the heads");
    assert_eq!(found(&[1, 1, 1], &[3, 3, 1], &[]), covered, "not the next of its row");
    assert_eq!(found(&[1], &[0], &[row("a")]), covered, "a row that has a head");
    assert_eq!(found(&[1, 1], &[0, 0], &[row("x"), row("x")]), covered, "a row that something follows in");
    assert_eq!(found(&[8], &[1], &[]), covered, "a head");
    let (low, high) = (row("x").min(row("y")), row("x").max(row("y")));
    assert_eq!(found(&[1, 0], &[0, 0], &[low, high]), None, "on two rows");
    assert_eq!(found(&[1, 0], &[0, 0], &[high, low]), covered, "out of order");
    assert_eq!(found(&[0], &[1], &[]), Some(PieceError::Form), "no place");
    assert_eq!(found(&[1], &[0], &[[2; 8]]), Some(PieceError::Form), "no tag");
}

#[test]
fn facts_of_one_place_and_stamp_that_were_written_again_keep_what_each_says() {
    let (one, other) = (fact(dot(3, 9), 7, "1"), fact(dot(3, 9), 7, r#"{"supersedes":["a","b"]}"#));
    let ops = [reissued(dot(4, 1), &one), reissued(dot(4, 2), &other)];
    let state = laid_down(&ops, &[]);
    let whole = made(&state, &ops);

    let read = restored(&whole).unwrap();
    assert_eq!(index(&read), index(&state));
    assert_eq!((read.counts().conflicts, read.pointed().len()), (1, 1), "both are read at the first place");
    let [head] = &whole.state[..] else { panic!("one piece") };
    let found =
        |head: Vec<u8>, ops: &[Vec<u8>]| restored(&Made { state: vec![head], ops: ops.to_vec() }).err();
    assert_eq!(found(head.clone(), &[]), Some(PieceError::OpsMissing { missing: 2 }));
    let mut piece = OpPiece::default();
    piece.push(&record(&ops[0], false));
    let untold = found(head.clone(), &[piece.to_bytes()]);
    assert_eq!(untold, Some(PieceError::Op { place: dot(4, 1) }), "said twice");
    // Kind, lengths and texts, log and seq, stamp, content, what it supersedes.
    let (first, second) = (1 + 6 + 2 + 2 + 8 + 16 + 1, 1 + 6 + 2 + 2 + 8 + 16 + 1 + 4);
    let at = head.len() - 2 - first - second;
    let long = if head[at + first - 1] == 0 { at + first } else { at };
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut head = head.clone();
        change(&mut head);
        found(head, &whole.ops)
    };
    assert_eq!(changed(&|_| {}), None);
    assert_eq!(changed(&|head| head[long] = 4), Some(PieceError::Form), "an event says nothing else");
    assert_eq!(changed(&|head| head[long + 10] ^= 1), Some(PieceError::Form), "it was not written again");
    assert_eq!(changed(&|head| head[long + second - 1] = b'a'), Some(PieceError::Form), "named twice");
    assert_eq!(changed(&|head| head[at..at + first + second].rotate_left(first)), Some(PieceError::Form));
}

#[test]
fn two_ops_are_not_one_head() {
    let again = |n: u64| reissued(dot(4, n), &put(dot(3, 9), 7, "c", &[]));
    let state = laid_down(&[again(1), again(2)], &[]);
    let [head] = &made(&state, &[again(1)]).state[..] else { panic!("one piece") };
    // Behind it: one that was written again, of 20 bytes, no fact, and nothing covered in two logs.
    let count = head.len() - 2 - 1 - 20 - 1 - 1;
    let mut two = head.clone();
    assert_eq!(std::mem::replace(&mut two[count], 2), 1, "one op");
    let mut piece = OpPiece::default();
    [again(1), again(2)].iter().for_each(|op| piece.push(&record(op, false)));

    let found = restored(&Made { state: vec![two], ops: vec![piece.to_bytes()] }).err();
    assert!(matches!(found, Some(PieceError::Op { place }) if place == dot(4, 2)), "{found:?}");
}

proptest! {
    #[test]
    fn the_same_ops_give_the_same_pieces_in_any_order_and_the_same_state_back(
        ops in any_ops(),
        picks in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let (one, other) = (laid_down(&ops, &picks), laid_down(&ops, &[]));

        let whole = made(&one, &ops);
        prop_assert_eq!(&whole, &made(&other, &ops));
        let mut back = restored(&whole).unwrap();
        prop_assert_eq!(index(&back), index(&one));
        prop_assert_eq!(back.root(), one.recomputed_root());
        prop_assert_eq!(back.counts(), one.counts());
        prop_assert_eq!(made(&back, &ops), whole);
    }

    #[test]
    fn any_ops_read_back(
        ops in proptest::collection::vec(
            (0usize..5, 1u64..9, 0usize..5, any::<u64>(), any::<u64>(), 0u16..8, 0u8..3, any::<bool>()),
            1..20,
        ),
        bodies in any_ops(),
        noise in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let (mut piece, mut place) = (OpPiece::default(), dot(1, 1));
        let mut order = [0, 1, 2, 3, 4].map(log);
        order.sort_unstable();
        for (index, (log_index, step, named, seq, hlc, kind, flags, is_late)) in ops.into_iter().enumerate() {
            place = match order[log_index] > place.log {
                true => Dot { log: order[log_index], seq: Seq::new(step) },
                false => Dot { seq: Seq::new(place.seq.get() + step), ..place },
            };
            let name = if flags == 0 { place } else { Dot { seq: Seq::new(seq), ..dot(named, 1) } };
            let body = bodies.get(index).map_or(&noise[..], |op| &op.body[..]);
            let kind = bodies.get(index).filter(|_| kind < 6).map_or(kind, |op| op.kind);
            let (hlc, flags, is_told) = (Hlc::new(hlc), flags / 2, seq % 2 == 0);
            piece.push(&OpRecord { place, name, hlc, kind, flags, is_late, is_told, body });
        }

        let bytes = piece.to_bytes();
        prop_assert_eq!(OpPiece::from_bytes(&bytes), Some(piece));
        for end in 0..bytes.len() {
            prop_assert_eq!(OpPiece::from_bytes(&bytes[..end]), None);
        }
    }

    #[test]
    fn a_spoiled_piece_is_refused_or_is_one_that_is_written_so(
        ops in any_ops(),
        spoils in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut whole = made(&laid_down(&ops, &[]), &ops);
        for (at, byte) in spoils {
            for piece in whole.ops.iter_mut().chain(&mut whole.state) {
                let index = at.index(piece.len());
                piece[index] = byte;
            }
        }

        for piece in &whole.ops {
            if let Some(read) = ops_of(piece) {
                prop_assert_eq!(&read.to_bytes(), piece);
            }
        }
        let _ = restored(&whole);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(0u8..40, 0..200)) {
        let _ = ops_of(&bytes);
        let head = [&b"KFC1"[..], &FOLD_VERSION.to_be_bytes(), SPACE.as_bytes(), &bytes].concat();
        let _ = restored(&Made { state: vec![head], ops: Vec::new() });
    }
}

#[test]
fn a_reissue_is_no_op_of_a_state() {
    let mut state = State::new(SPACE);
    let op = reissued(dot(4, 1), &put(dot(3, 9), 7, "c", &[]));
    state.apply(&log(4), &op.frame());
    let Ok(_) = state.lay_down(&mut |_| Ok::<_, std::convert::Infallible>(None));
    let whole = made(&state, std::slice::from_ref(&op));
    let mut piece = OpPiece::default();
    piece.push(&OpRecord { kind: REISSUE, body: &op.body, ..record(&op, false) });

    let found = restored(&Made { ops: vec![piece.to_bytes()], ..whole }).err();
    assert_eq!(found, Some(PieceError::Op { place: dot(4, 1) }));
}
