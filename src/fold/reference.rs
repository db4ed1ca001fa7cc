//! The state by definition, from the whole set of ops at once: what [`State`] is tested against.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::facts::Content;
use super::root::{bucket_of, head_bytes, leaf, row_bytes};
use super::runs::RunStatus;
use super::state::State;
use crate::model::{
    CertHash, DeviceId, Dot, Hlc, Incarnation, IntentStatus, LeaseEpoch, LogId, Op, Payload, Root, Seq,
    SpaceId,
};
use crate::wire::op::{encode_op, encode_reissue};
use crate::wire::{FrameView, Original, REISSUE};

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
    /// What the op is known by: its first place and stamp.
    pub(super) id: (Dot, Hlc),
}

impl Written {
    pub(super) fn frame(&self) -> FrameView<'_> {
        let Self { dot, hlc, kind, flags, body, .. } = self;
        FrameView { seq: dot.seq, hlc: *hlc, kind: *kind, flags: *flags, body }
    }
}

pub(super) fn log(index: usize) -> LogId {
    // Ids whose order is not that of their numbers, three of them lives of one device.
    let (device, incarnation) = [(9, 1), (2, 7), (5, 1), (5, 0), (5, 2)][index];
    LogId { device: DeviceId::from_bytes([device; 32]), incarnation: Incarnation::new(incarnation) }
}

pub(super) fn written(dot: Dot, hlc: u64, op: Op) -> Written {
    let (body, hlc) = (encode_op(&op, &dot.log), Hlc::new(hlc));
    Written { dot, hlc, kind: op.kind().number(), flags: 0, body, op: Some(op), id: (dot, hlc) }
}

/// What writes `op` again at `dot`.
pub(super) fn reissued(dot: Dot, op: &Written) -> Written {
    let Written { dot: Dot { log, seq }, hlc, kind, flags, body, .. } = op;
    let original = Original { log: *log, seq: *seq, hlc: *hlc, kind: *kind, flags: *flags, body };
    let folded = op.op.clone().filter(|_| log.device == dot.log.device);
    Written { dot, kind: REISSUE, flags: 0, body: encode_reissue(&original), op: folded, ..op.clone() }
}

/// Ops of five logs, with few rows, stamps and contents, so that everything collides: ops written
/// again once or more, with their original or without, and beside another op of the same place.
pub(super) fn any_ops() -> impl Strategy<Value = Vec<Written>> {
    let pred = (0usize..5, 1u64..14);
    let pick = any::<prop::sample::Index>();
    let op = (0u8..22, 0usize..5, 0usize..3, 1u64..6, prop::collection::vec(pred, 0..4), 0u8..3, pick);
    prop::collection::vec(op, 0..50).prop_map(|picked| {
        let mut next = [1u64; 5];
        let mut ops: Vec<Written> = Vec::new();
        for (kind, log_index, key, hlc, preds, content, pick) in picked {
            let dot = Dot { log: log(log_index), seq: Seq::new(next[log_index]) };
            next[log_index] += 1;
            // Lost ops have no original, and so small numbers that other ops have them, too.
            let lost = |kind, index: usize| {
                let seq = Seq::new(1 + u64::from(content) + hlc);
                any_op(kind, Dot { log: log(index), seq }, key, hlc, &preds, content)
            };
            ops.push(match kind {
                0..12 => any_op(kind, dot, key, hlc, &preds, content),
                12..15 => {
                    let own = |op: &&Written| op.dot.log.device == dot.log.device && op.kind != REISSUE;
                    let own: Vec<&Written> = ops.iter().filter(own).collect();
                    let source =
                        if own.is_empty() { &lost(0, log_index) } else { own[pick.index(own.len())] };
                    reissued(dot, source)
                }
                15 => reissued(dot, &lost(content * 4 + key as u8, log_index.clamp(0, 2 + key))),
                16 => reissued(dot, &lost(content * 4 + key as u8, log_index)),
                17 => reissued(dot, &lost(11, log_index)),
                18 => reissued(dot, &lost(12, log_index)),
                _ => any_op(12, dot, key, hlc, &preds, content),
            });
        }
        ops
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
        6 | 7 => Op::Fact {
            surface: "skill".parse().unwrap(),
            key: key.into(),
            payload: any_fact(kind, &preds, content),
        },
        8 | 9 => Op::Event { surface: "conversation".parse().unwrap(), stream: key.into(), payload },
        // A kind that does not fit the surface's tier, and then kinds of a later version.
        10 => Op::Put { surface: surface(["skill", "intent"]), key: key.into(), preds, payload },
        11 => Op::Put { surface: surface(["registry:a", "skill"]), key: key.into(), preds, payload },
        _ => any_intent(key, &preds, content, payload),
    };
    let mut op = written(dot, hlc, op);
    if kind == 10 {
        op.op = None;
    }
    if kind == 11 {
        (op.op, op.kind) = (None, 7);
    }
    op
}

/// A number, or what names up to three facts, itself among them, or one that never comes.
fn any_fact(kind: u8, preds: &[Dot], content: u8) -> Payload {
    let name = |dot: &Dot| FACTS[(dot.seq.get() % 4) as usize];
    let names: Vec<&str> = preds.iter().map(name).collect();
    Payload::parse(&match (kind, &names[..]) {
        (6, _) | (_, []) => content.to_string(),
        (_, [name]) => format!(r#"{{"supersedes":"{name}"}}"#),
        (_, names) => format!(r#"{{"supersedes":{names:?}}}"#),
    })
    .unwrap()
}

const FACTS: [&str; 4] = ["k", "a rather long key that does not fit in place", "l", "it never comes"];

/// By definition: of every fact those that supersede it, and whether one of them is not superseded by
/// it in turn.
pub(super) fn superseded(folded: &Folded<'_>) -> BTreeMap<String, (Vec<String>, bool)> {
    let facts = folded.iter().filter(|((surface, _), _)| surface == "skill");
    let names: BTreeMap<&str, Vec<&str>> = facts
        .map(|((_, key), heads)| {
            let Some(Op::Fact { payload, .. }) = &heads[0].op else { panic!("a fact surface holds facts") };
            let says = |fact: &&&str| payload.as_str().contains(&format!("\"{fact}\""));
            (&**key, FACTS.iter().filter(says).copied().collect())
        })
        .collect();
    let mut reaches = names.clone();
    for _ in 0..FACTS.len() {
        let before = reaches.clone();
        for reached in reaches.values_mut() {
            let further: Vec<&str> =
                reached.iter().filter_map(|name| before.get(name)).flatten().copied().collect();
            reached.extend(further);
            reached.sort_unstable();
            reached.dedup();
        }
    }
    let of = |key: &&str| {
        let by: Vec<&str> = names
            .iter()
            .filter(|(by, names)| **by != *key && names.contains(key))
            .map(|(by, _)| *by)
            .collect();
        let is_hidden = by.iter().any(|by| !reaches[key].contains(by));
        ((*key).to_owned(), (by.into_iter().map(str::to_owned).collect(), is_hidden))
    };
    names.keys().map(of).collect()
}

/// Two agents, one with two runs, few tokens of which some are under certificates on no chain.
fn any_intent(key: &str, preds: &[Dot], content: u8, payload: Payload) -> Op {
    let (agent, run) = match key {
        "k" => ("a", "r"),
        "l" => ("b", "r"),
        _ => ("a", "a rather long run that does not fit in place"),
    };
    let (log_index, n) = preds.first().map_or((0, 1), |dot| (dot.log.incarnation.get(), dot.seq.get()));
    let certs = [CertHash::NONE, CertHash::NONE, ON_CHAIN, OFF_CHAIN];
    Op::Intent {
        agent: agent.parse().unwrap(),
        run: run.parse().unwrap(),
        epoch: LeaseEpoch::of((n % 3 / 2) as u32, 1 + (n / 3 % 3) as u32).unwrap(),
        cert: certs[((n + log_index) % 4) as usize],
        status: [IntentStatus::Pending, IntentStatus::Committed, IntentStatus::Failed]
            [usize::from(content) * usize::from(n % 2 == 0)],
        payload,
    }
}

/// The certificate of the host of term 1 in tests, and one that no chain has.
pub(super) const ON_CHAIN: CertHash = CertHash::from_bytes([1; 32]);
pub(super) const OFF_CHAIN: CertHash = CertHash::from_bytes([2; 32]);

/// The chain of [`ON_CHAIN`].
pub(super) fn chain(cert: &CertHash) -> Option<u64> {
    (*cert == ON_CHAIN).then_some(1)
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
        // A device may say two contents at one place with one stamp: facts stand by their contents then.
        row.sort_by_key(|written| (name_of(written), said(written), stated(written)));
        let all = row.clone();
        let mut contents = BTreeSet::new();
        row.retain(|written| match written.op.as_ref().unwrap() {
            Op::Put { .. } | Op::Delete { .. } => {
                let (dot, _) = written.id;
                !all.iter().any(|other| other.id.0 != dot && preds(other).contains(&dot))
            }
            Op::Fact { payload, .. } => contents.insert(payload),
            Op::Event { .. } | Op::Intent { .. } => true,
        });
        if !matches!(row.first().and_then(|written| written.op.as_ref()), Some(Op::Fact { .. })) {
            row.dedup_by_key(|written| (name_of(written), said(written)));
        }
    }
    rows.retain(|_, heads| !heads.is_empty());
    rows
}

/// The root by definition.
pub(super) fn root(folded: &Folded<'_>) -> Root {
    let mut level = vec![[0u8; 32]; 4096];
    for ((surface, key), heads) in folded {
        for head in heads {
            let bytes = head_bytes(&head.id.0, head.id.1, is_tombstone(head));
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

/// Where an op of a row can be read: the least place it was written again at, or its first.
pub(super) fn place(ops: &[Written], head: &Written) -> Dot {
    let row =
        |written: &Written| written.op.as_ref().map(|op| (op.surface().to_string(), op.key().to_string()));
    let copies = ops
        .iter()
        .filter(|other| other.kind == REISSUE && name_of(other) == name_of(head) && row(other) == row(head));
    copies.map(|copy| copy.dot).min_by_key(|dot| (dot.log, dot.seq)).unwrap_or(head.id.0)
}

/// What an intent says; `None` for other ops.
fn said(written: &Written) -> Option<(IntentStatus, LeaseEpoch, CertHash)> {
    match written.op.as_ref()? {
        Op::Intent { status, epoch, cert, .. } => Some((*status, *epoch, *cert)),
        _ => None,
    }
}

/// What tells the contents of a fact apart; `None` for other ops.
fn stated(written: &Written) -> Option<[u8; 16]> {
    match written.op.as_ref()? {
        Op::Fact { payload, .. } => Some(*Content::of(payload.as_str()).as_bytes()),
        _ => None,
    }
}

/// Where the token of an intent stands under [`chain`].
fn token(written: &Written) -> Option<(u64, LeaseEpoch)> {
    let (_, epoch, cert) = said(written)?;
    let position = if cert == CertHash::NONE { u64::from(epoch.term()) } else { chain(&cert)? };
    Some((position, epoch))
}

/// What became of a run by definition: the status, the op that says so, and those that lost.
pub(super) fn judge<'a>(
    run: &[&'a Written],
    of_agent: &[&'a Written],
) -> (RunStatus, &'a Written, Vec<&'a Written>) {
    let greatest = of_agent.iter().filter_map(|intent| token(intent)).max();
    let is = |intent: &Written, status| said(intent).unwrap().0 == status;
    let least = |status| run.iter().find(|intent| is(intent, status)).copied();
    let is_pending = |intent: &Written| is(intent, IntentStatus::Pending);
    let is_same_token = |a: &Written, b: &Written| {
        let (a, b) = (said(a).unwrap(), said(b).unwrap());
        (a.1, a.2) == (b.1, b.2)
    };
    let ended = least(IntentStatus::Committed).or(least(IntentStatus::Failed));
    let (status, shown) = match ended {
        Some(by) if is(by, IntentStatus::Committed) => (RunStatus::Committed, by),
        Some(by) => (RunStatus::Failed, by),
        None => {
            let best = run.iter().filter_map(|intent| token(intent)).max();
            match best {
                Some(best) => {
                    let holder = run.iter().find(|intent| token(intent) == Some(best)).unwrap();
                    (if Some(best) == greatest { RunStatus::Pending } else { RunStatus::Fenced }, *holder)
                }
                None => (RunStatus::Fenced, *run.last().unwrap()),
            }
        }
    };
    let losers = (0..run.len()).filter(|at| {
        let intent = run[*at];
        let is_void = is_pending(intent) && (token(intent).is_none() || token(intent) < greatest);
        if std::ptr::eq(intent, shown) {
            return ended.is_none() && is_void && !is_overtaken(run, *at);
        }
        if !is_pending(intent) {
            let repeats = is(intent, IntentStatus::Committed) && is_same_token(intent, shown);
            let agrees = status == RunStatus::Failed && is(intent, IntentStatus::Failed);
            return !(repeats || agrees);
        }
        let is_again = status == RunStatus::Pending
            && token(intent) == token(shown)
            && intent.id.0.log.device == shown.id.0.log.device;
        !is_again && !is_overtaken(run, *at)
    });
    let losers = losers.map(|at| run[at]).collect();
    (status, shown, losers)
}

fn is_overtaken(run: &[&Written], at: usize) -> bool {
    let intent = run[at];
    run.iter().enumerate().any(|(other_at, other)| {
        let (own, said_other) = (said(intent).unwrap(), said(other).unwrap());
        let ends_it = said_other.0.is_terminal() && (own.1, own.2) == (said_other.1, said_other.2);
        let is_own = other.id.0.log.device == intent.id.0.log.device;
        ends_it || (at < other_at && is_own && token(intent) <= token(other))
    })
}

/// In total order.
fn name_of(written: &Written) -> (Hlc, LogId, Seq, bool) {
    let (dot, hlc) = written.id;
    (hlc, dot.log, dot.seq, is_tombstone(written))
}

pub(super) fn is_tombstone(written: &Written) -> bool {
    matches!(written.op, Some(Op::Delete { .. }))
}

fn preds(written: &Written) -> &[Dot] {
    match written.op.as_ref().unwrap() {
        Op::Put { preds, .. } | Op::Delete { preds, .. } => preds,
        Op::Fact { .. } | Op::Event { .. } | Op::Intent { .. } => &[],
    }
}
