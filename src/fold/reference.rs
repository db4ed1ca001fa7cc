//! The state by definition, from the whole set of ops at once: what [`State`] is tested against.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::root::{bucket_of, head_bytes, leaf, row_bytes};
use super::state::State;
use crate::model::{DeviceId, Dot, Hlc, Incarnation, LogId, Op, Payload, Root, Seq, SpaceId};
use crate::wire::FrameView;
use crate::wire::op::encode_op;

pub(super) const SPACE: SpaceId = SpaceId::from_bytes([0x5a; 32]);

/// One op as it stands in its log.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) dot: Dot,
    pub(super) hlc: Hlc,
    pub(super) kind: u16,
    pub(super) flags: u8,
    pub(super) body: Vec<u8>,
    /// The op in the body; `None` for one that is merely kept.
    pub(super) op: Option<Op>,
}

impl Written {
    pub(super) fn frame(&self) -> FrameView<'_> {
        let Self { dot, hlc, kind, flags, body, .. } = self;
        FrameView { seq: dot.seq, hlc: *hlc, kind: *kind, flags: *flags, body }
    }
}

pub(super) fn log(index: usize) -> LogId {
    // Ids whose order is not that of their numbers, two of them lives of one device.
    let (device, incarnation) = [(9, 1), (2, 7), (5, 1), (5, 0)][index];
    LogId { device: DeviceId::from_bytes([device; 32]), incarnation: Incarnation::new(incarnation) }
}

pub(super) fn written(dot: Dot, hlc: u64, op: Op) -> Written {
    let body = encode_op(&op, &dot.log);
    Written { dot, hlc: Hlc::new(hlc), kind: op.kind().number(), flags: 0, body, op: Some(op) }
}

/// Ops of four logs, with few rows, stamps and contents, so that everything collides.
pub(super) fn any_ops() -> impl Strategy<Value = Vec<Written>> {
    let pred = (0usize..4, 1u64..14);
    let op = (0u8..12, 0usize..4, 0usize..3, 1u64..6, prop::collection::vec(pred, 0..4), 0u8..3);
    prop::collection::vec(op, 0..40).prop_map(|ops| {
        let mut next = [1u64; 4];
        ops.into_iter()
            .map(|(kind, log_index, key, hlc, preds, content)| {
                let dot = Dot { log: log(log_index), seq: Seq::new(next[log_index]) };
                next[log_index] += 1;
                any_op(kind, dot, key, hlc, &preds, content)
            })
            .collect()
    })
}

fn any_op(kind: u8, dot: Dot, key: usize, hlc: u64, preds: &[(usize, u64)], content: u8) -> Written {
    let key = ["k", "a rather long key that does not fit in place", "l"][key];
    let payload = Payload::parse(&content.to_string()).unwrap();
    let preds: Vec<Dot> =
        preds.iter().map(|(index, seq)| Dot { log: log(*index), seq: Seq::new(*seq) }).collect();
    let surface = |names: [&str; 2]| names[usize::from(content % 2)].parse().unwrap();
    let op = match kind {
        0..=3 => Op::Put { surface: surface(["registry:a", "declagent"]), key: key.into(), preds, payload },
        4 | 5 => Op::Delete { surface: surface(["registry:a", "declagent"]), key: key.into(), preds },
        6 | 7 => Op::Fact { surface: "skill".parse().unwrap(), key: key.into(), payload },
        8 | 9 => Op::Event { surface: "conversation".parse().unwrap(), stream: key.into(), payload },
        // A kind that does not fit the surface's tier, and then kinds of a later version.
        10 => Op::Put { surface: surface(["skill", "intent"]), key: key.into(), preds, payload },
        _ => Op::Put { surface: surface(["registry:a", "skill"]), key: key.into(), preds, payload },
    };
    let mut op = written(dot, hlc, op);
    if kind == 10 {
        op.op = None;
    }
    if kind == 11 {
        (op.op, op.kind) = (None, 5);
    }
    op
}

/// Applies `ops`, each log in order, the logs interleaved as `picks` says.
pub(super) fn apply_interleaved(state: &mut State, ops: &[Written], picks: &[u8]) {
    let mut queues: BTreeMap<LogId, Vec<&Written>> = BTreeMap::new();
    for op in ops.iter().rev() {
        queues.entry(op.dot.log).or_default().push(op);
    }
    let mut picks = picks.iter().cycle();
    while !queues.is_empty() {
        let pick = usize::from(*picks.next().unwrap_or(&0)) % queues.len();
        let log = *queues.keys().nth(pick).unwrap();
        let queue = queues.get_mut(&log).unwrap();
        let op = queue.pop().unwrap();
        if queue.is_empty() {
            queues.remove(&log);
        }
        state.apply(&log, &op.frame());
    }
}

/// The heads of every row, entity and stream: those of a row in total order.
pub(super) type Folded<'a> = BTreeMap<(String, String), Vec<&'a Written>>;

/// Folds by definition.
pub(super) fn fold(ops: &[Written]) -> Folded<'_> {
    let mut rows: Folded<'_> = BTreeMap::new();
    for written in ops {
        let Some(op) = &written.op else { continue };
        rows.entry((op.surface().to_string(), op.key().to_string())).or_default().push(written);
    }
    for row in rows.values_mut() {
        row.sort_by_key(|written| (written.hlc, written.dot.log, written.dot.seq));
        let all = row.clone();
        let mut contents = BTreeSet::new();
        row.retain(|written| match written.op.as_ref().unwrap() {
            Op::Put { .. } | Op::Delete { .. } => {
                !all.iter().any(|other| other.dot != written.dot && preds(other).contains(&written.dot))
            }
            Op::Fact { payload, .. } => contents.insert(payload),
            Op::Event { .. } => true,
        });
    }
    rows.retain(|_, heads| !heads.is_empty());
    rows
}

/// The root by definition.
pub(super) fn root(folded: &Folded<'_>) -> Root {
    let mut level = vec![[0u8; 32]; 4096];
    for ((surface, key), heads) in folded {
        for head in heads {
            let bytes = head_bytes(&head.dot, head.hlc, is_tombstone(head));
            let leaf = leaf(&row_bytes(surface, key), &bytes);
            let sum = &mut level[usize::from(bucket_of(&leaf))];
            let mut carry = 0;
            for at in (0..32).rev() {
                carry += u16::from(sum[at]) + u16::from(leaf[at]);
                sum[at] = (carry & 0xff) as u8;
                carry >>= 8;
            }
        }
    }
    for depth in [2u8, 1, 0] {
        let node = |children: &[[u8; 32]]| {
            *blake3::hash(&[&b"kinfold node v1"[..], &[depth], &children.concat()].concat()).as_bytes()
        };
        level = level.chunks(16).map(node).collect();
    }
    let bytes = [&b"kinfold root v1"[..], &[0, 0, 0, 1], SPACE.as_bytes(), &level[0]].concat();
    Root::from_bytes(*blake3::hash(&bytes).as_bytes())
}

pub(super) fn is_tombstone(written: &Written) -> bool {
    matches!(written.op, Some(Op::Delete { .. }))
}

fn preds(written: &Written) -> &[Dot] {
    match written.op.as_ref().unwrap() {
        Op::Put { preds, .. } | Op::Delete { preds, .. } => preds,
        Op::Fact { .. } | Op::Event { .. } => &[],
    }
}
