//! The byte form of an op: what its author wrote, kept for ever.
//!
//! A frame is `kind u16 | flags u8 | body`. The body is bincode (see [`super::codec`]):
//!
//! | kind | body |
//! |---|---|
//! | 1 `Put` | surface str, key str, preds, payload bytes |
//! | 2 `Delete` | surface str, key str, preds |
//! | 3 `Fact` | surface str, key str, payload bytes |
//! | 4 `Event` | surface str, stream str, payload bytes |
//! | 5 `Intent` | agent str, run str, epoch u64, cert 32, status u8, payload bytes |
//! | 6 `Reissue` | log 40, seq u64, hlc u64, kind u16, flags u8, body bytes: an op of another log |
//!
//! `preds` is a count and, for each, an option of the 40-byte log (absent: the op's own log) and
//! the seq. In a reissue they are relative to the log it names: the body is the op's own, to the byte.

use bincode::{BorrowDecode, Encode};

use super::codec;
use crate::model::lease::is_lease_name;
use crate::model::limits::{KEY_BYTES_MAX, PAYLOAD_BYTES_MAX, PREDS_MAX, SURFACE_BYTES_MAX};
use crate::model::{CertHash, Dot, Hlc, IntentStatus, LeaseEpoch, LogId, Op, OpKind, Payload, Seq};

/// Why an op is kept but not folded. Deterministic: every device says the same of the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum OpProblem {
    /// A kind, a flag of it, or a status of an intent, that a later version defines.
    Unknown,
    /// A known kind whose body breaks its rules.
    Malformed,
}

/// A predecessor as written: no log means the op's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, BorrowDecode)]
pub struct Pred {
    log: Option<[u8; 40]>,
    seq: u64,
}

impl Pred {
    /// Resolves against the log that holds the op.
    pub fn dot(&self, own: &LogId) -> Dot {
        let log = self.log.as_ref().map_or(*own, LogId::from_bytes);
        Dot { log, seq: Seq::new(self.seq) }
    }

    /// One as it is written: without a log where that is the op's own.
    pub fn new(log: Option<LogId>, seq: u64) -> Self {
        Self { log: log.map(LogId::to_bytes), seq }
    }

    /// The log, where one is written.
    pub fn log(&self) -> Option<LogId> {
        self.log.as_ref().map(LogId::from_bytes)
    }

    /// The position.
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    fn of(dot: &Dot, own: &LogId) -> Self {
        Self::new((dot.log != *own).then_some(dot.log), dot.seq.get())
    }
}

/// The parts of the body of a put, delete, fact or event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BodyParts<'a> {
    /// Surface text.
    pub surface: &'a str,
    /// Row, entity or stream.
    pub key: &'a str,
    /// Of a put or delete: heads the author saw.
    pub preds: Vec<Pred>,
    /// Canonical JSON; of all but a delete.
    pub payload: Option<&'a str>,
}

impl<'a> BodyParts<'a> {
    /// Takes a body apart; `None` for other kinds, and where its parts put together are not its bytes.
    pub fn of(kind: u16, flags: u8, body: &'a [u8]) -> Option<Self> {
        let parts = match OpView::decode(kind, flags, body).ok()? {
            OpView::Put { surface, key, preds, payload } => {
                Self { surface, key, preds, payload: Some(payload) }
            }
            OpView::Delete { surface, key, preds } => Self { surface, key, preds, payload: None },
            OpView::Fact { surface, key, payload } | OpView::Event { surface, stream: key, payload } => {
                Self { surface, key, preds: Vec::new(), payload: Some(payload) }
            }
            OpView::Intent { .. } | OpView::Reissue(_) => return None,
        };
        let mut again = Vec::with_capacity(body.len());
        parts.write(OpKind::from_number(kind)?, &mut again);
        (again == body).then_some(parts)
    }

    /// Appends the body of an op of this kind; without a payload it is a delete's.
    pub fn write(&self, kind: OpKind, out: &mut Vec<u8>) {
        let Self { surface, key, preds, payload } = self;
        let payload = payload.unwrap_or_default();
        match kind {
            OpKind::Put => codec::encode_into((surface, key, preds, payload), out),
            OpKind::Delete => codec::encode_into((surface, key, preds), out),
            OpKind::Fact | OpKind::Event | OpKind::Intent => codec::encode_into((surface, key, payload), out),
        }
    }
}

/// An op under its original identity, written again into another log of its device.
///
/// It counts as the op it holds: where both are present, or two copies, they count once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Original<'a> {
    /// The log it was first written to, which its predecessors are relative to.
    pub log: LogId,
    /// Its position there.
    pub seq: Seq,
    /// Its stamp.
    pub hlc: Hlc,
    /// Its kind number, known here or not.
    pub kind: u16,
    /// Its flags.
    pub flags: u8,
    /// Its bytes, as its author wrote them.
    pub body: &'a [u8],
}

impl<'a> Original<'a> {
    /// The place that is its name.
    pub const fn dot(&self) -> Dot {
        Dot { log: self.log, seq: self.seq }
    }

    /// The op itself.
    ///
    /// # Errors
    /// Every variant of [`OpProblem`].
    pub fn op(&self) -> Result<OpView<'a>, OpProblem> {
        // Never nested: what is written again once more is written under its first identity.
        if self.kind == REISSUE {
            return Err(OpProblem::Malformed);
        }
        OpView::decode(self.kind, self.flags, self.body)
    }
}

/// The kind number of a re-issued op.
pub const REISSUE: u16 = 6;

/// An op read in place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpView<'a> {
    /// [`Op::Put`].
    Put {
        /// Surface text.
        surface: &'a str,
        /// Row.
        key: &'a str,
        /// Heads the author saw.
        preds: Vec<Pred>,
        /// Canonical JSON.
        payload: &'a str,
    },
    /// [`Op::Delete`].
    Delete {
        /// Surface text.
        surface: &'a str,
        /// Row.
        key: &'a str,
        /// Heads the author saw.
        preds: Vec<Pred>,
    },
    /// [`Op::Fact`].
    Fact {
        /// Surface text.
        surface: &'a str,
        /// Entity.
        key: &'a str,
        /// Canonical JSON.
        payload: &'a str,
    },
    /// [`Op::Event`].
    Event {
        /// Surface text.
        surface: &'a str,
        /// Stream.
        stream: &'a str,
        /// Canonical JSON.
        payload: &'a str,
    },
    /// [`Op::Intent`].
    Intent {
        /// The agent.
        agent: &'a str,
        /// The run.
        run: &'a str,
        /// The token.
        epoch: LeaseEpoch,
        /// The certificate of the host that gave it.
        cert: CertHash,
        /// What is said of the run.
        status: IntentStatus,
        /// Canonical JSON.
        payload: &'a str,
    },
    /// An op of another log. Its own bytes are read by [`Original::op`].
    Reissue(Original<'a>),
}

impl<'a> OpView<'a> {
    /// Reads the body of an op of this kind.
    ///
    /// # Errors
    /// Every variant of [`OpProblem`].
    pub fn decode(kind: u16, flags: u8, body: &'a [u8]) -> Result<Self, OpProblem> {
        if kind == REISSUE && flags == 0 {
            return read_original(body).map(Self::Reissue);
        }
        let Some(kind) = OpKind::from_number(kind) else { return Err(OpProblem::Unknown) };
        if flags != 0 {
            return Err(OpProblem::Unknown);
        }
        let view = match kind {
            OpKind::Put => {
                let (surface, key, preds, payload): (&str, &str, Vec<Pred>, &str) = read(body)?;
                Self::Put { surface, key, preds, payload }
            }
            OpKind::Delete => {
                let (surface, key, preds): (&str, &str, Vec<Pred>) = read(body)?;
                Self::Delete { surface, key, preds }
            }
            OpKind::Fact => {
                let (surface, key, payload): (&str, &str, &str) = read(body)?;
                Self::Fact { surface, key, payload }
            }
            OpKind::Event => {
                let (surface, stream, payload): (&str, &str, &str) = read(body)?;
                Self::Event { surface, stream, payload }
            }
            OpKind::Intent => read_intent(body)?,
        };
        if view.keeps_limits() { Ok(view) } else { Err(OpProblem::Malformed) }
    }

    /// The surface text, also of a re-issued op; `None` where that is not readable here.
    pub fn surface(&self) -> Option<&'a str> {
        match self {
            Self::Put { surface, .. }
            | Self::Delete { surface, .. }
            | Self::Fact { surface, .. }
            | Self::Event { surface, .. } => Some(surface),
            Self::Intent { .. } => Some(INTENT_SURFACE),
            Self::Reissue(original) => original.op().ok()?.surface(),
        }
    }

    /// The row, entity, stream or agent, also of a re-issued op; `None` where that is not readable here.
    pub fn key(&self) -> Option<&'a str> {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Fact { key, .. } => Some(key),
            Self::Event { stream, .. } => Some(stream),
            Self::Intent { agent, .. } => Some(agent),
            Self::Reissue(original) => original.op().ok()?.key(),
        }
    }

    /// The payload, also of a re-issued op; `None` for a delete.
    pub fn payload(&self) -> Option<&'a str> {
        match self {
            Self::Put { payload, .. }
            | Self::Fact { payload, .. }
            | Self::Event { payload, .. }
            | Self::Intent { payload, .. } => Some(payload),
            Self::Delete { .. } => None,
            Self::Reissue(original) => original.op().ok()?.payload(),
        }
    }

    /// The op as a value of its own, its predecessors resolved; `None` where its surface or
    /// payload is not one this version would write. Of a re-issued op it is the op within.
    pub fn to_op(&self, own: &LogId) -> Option<Op> {
        if let Self::Reissue(original) = self {
            return original.op().ok()?.to_op(&original.log);
        }
        let surface = self.surface()?.parse().ok()?;
        let key = self.key()?.into();
        let resolve = |preds: &[Pred]| preds.iter().map(|pred| pred.dot(own)).collect();
        match self {
            Self::Put { preds, payload, .. } => {
                let payload = Payload::parse(payload).ok()?;
                Some(Op::Put { surface, key, preds: resolve(preds), payload })
            }
            Self::Delete { preds, .. } => Some(Op::Delete { surface, key, preds: resolve(preds) }),
            Self::Fact { payload, .. } => {
                Some(Op::Fact { surface, key, payload: Payload::parse(payload).ok()? })
            }
            Self::Event { payload, .. } => {
                Some(Op::Event { surface, stream: key, payload: Payload::parse(payload).ok()? })
            }
            Self::Intent { agent, run, epoch, cert, status, payload } => Some(Op::Intent {
                agent: agent.parse().ok()?,
                run: run.parse().ok()?,
                epoch: *epoch,
                cert: *cert,
                status: *status,
                payload: Payload::parse(payload).ok()?,
            }),
            Self::Reissue(_) => None,
        }
    }

    fn keeps_limits(&self) -> bool {
        let preds_ok = match self {
            Self::Put { preds, .. } | Self::Delete { preds, .. } => {
                preds.len() <= PREDS_MAX && preds.iter().all(|pred| pred.seq > 0)
            }
            Self::Fact { .. } | Self::Event { .. } | Self::Intent { .. } | Self::Reissue(_) => true,
        };
        let payload_ok = self.payload().is_none_or(|payload| payload.len() <= PAYLOAD_BYTES_MAX);
        preds_ok
            && payload_ok
            && self.surface().is_some_and(|surface| surface.len() <= SURFACE_BYTES_MAX)
            && self.key().is_some_and(|key| (1..=KEY_BYTES_MAX).contains(&key.len()))
    }
}

/// Encodes the body of an op that is written to `own`.
pub fn encode_op(op: &Op, own: &LogId) -> Vec<u8> {
    let preds_of = |preds: &[Dot]| -> Vec<Pred> { preds.iter().map(|dot| Pred::of(dot, own)).collect() };
    let surface = op.surface().to_string();
    match op {
        Op::Put { key, preds, payload, .. } => {
            codec::encode((surface.as_str(), &**key, preds_of(preds), payload.as_str()))
        }
        Op::Delete { key, preds, .. } => codec::encode((surface.as_str(), &**key, preds_of(preds))),
        Op::Fact { key, payload, .. } => codec::encode((surface.as_str(), &**key, payload.as_str())),
        Op::Event { stream, payload, .. } => codec::encode((surface.as_str(), &**stream, payload.as_str())),
        Op::Intent { agent, run, epoch, cert, status, payload } => codec::encode((
            agent.as_str(),
            run.as_str(),
            epoch.get(),
            *cert.as_bytes(),
            status.number(),
            payload.as_str(),
        )),
    }
}

/// Encodes the body of the op that writes `original` again.
pub fn encode_reissue(original: &Original<'_>) -> Vec<u8> {
    let Original { log, seq, hlc, kind, flags, body } = original;
    codec::encode((log.to_bytes(), seq.get(), hlc.get(), *kind, *flags, *body))
}

fn read_intent(body: &[u8]) -> Result<OpView<'_>, OpProblem> {
    let (agent, run, epoch, cert, status, payload): (&str, &str, u64, [u8; 32], u8, &str) = read(body)?;
    let epoch = LeaseEpoch::new(epoch).map_err(|_| OpProblem::Malformed)?;
    if !is_lease_name(agent) || !is_lease_name(run) {
        return Err(OpProblem::Malformed);
    }
    let status = IntentStatus::from_number(status).ok_or(OpProblem::Unknown)?;
    Ok(OpView::Intent { agent, run, epoch, cert: CertHash::from_bytes(cert), status, payload })
}

fn read_original(body: &[u8]) -> Result<Original<'_>, OpProblem> {
    let (log, seq, hlc, kind, flags, body): ([u8; 40], u64, u64, u16, u8, &[u8]) = read(body)?;
    if seq == 0 || kind == REISSUE {
        return Err(OpProblem::Malformed);
    }
    Ok(Original { log: LogId::from_bytes(&log), seq: Seq::new(seq), hlc: Hlc::new(hlc), kind, flags, body })
}

fn read<'a, T: BorrowDecode<'a, ()>>(body: &'a [u8]) -> Result<T, OpProblem> {
    codec::decode(body).map_err(|_| OpProblem::Malformed)
}

/// The surface intents are on.
const INTENT_SURFACE: &str = "intent";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeviceId, Incarnation, Surface};
    use proptest::prelude::*;

    fn log(byte: u8) -> LogId {
        LogId { device: DeviceId::from_bytes([byte; 32]), incarnation: Incarnation::new(u64::from(byte)) }
    }

    fn put() -> Op {
        Op::Put {
            surface: "registry:note".parse().unwrap(),
            key: "today".into(),
            preds: vec![Dot { log: log(1), seq: Seq::new(300) }, Dot { log: log(2), seq: Seq::new(7) }],
            payload: Payload::parse(r#"{"text":"x"}"#).unwrap(),
        }
    }

    #[test]
    fn an_op_reads_back_with_its_predecessors_resolved() {
        let body = encode_op(&put(), &log(1));

        let OpView::Put { surface, key, preds, payload } = OpView::decode(1, 0, &body).unwrap() else {
            panic!("a put was written");
        };
        assert_eq!((surface, key, payload), ("registry:note", "today", r#"{"text":"x"}"#));
        assert_eq!(OpView::decode(1, 0, &body).unwrap().to_op(&log(1)), Some(put()));
        let dots: Vec<Dot> = preds.iter().map(|pred| pred.dot(&log(1))).collect();
        assert_eq!(dots, [Dot { log: log(1), seq: Seq::new(300) }, Dot { log: log(2), seq: Seq::new(7) }]);
        assert!(body.len() < 100, "the own log is not spelled out");
    }

    #[test]
    fn unknown_and_malformed_are_told_apart() {
        let body = encode_op(&put(), &log(1));

        assert_eq!(OpView::decode(999, 0, &body), Err(OpProblem::Unknown));
        assert_eq!(OpView::decode(1, 1, &body), Err(OpProblem::Unknown));
        assert_eq!(OpView::decode(1, 0, &body[1..]), Err(OpProblem::Malformed));
        assert_eq!(OpView::decode(1, 0, &[&body[..], &[0]].concat()), Err(OpProblem::Malformed));
        let empty_key = codec::encode(("run", "", "1"));
        assert_eq!(OpView::decode(3, 0, &empty_key), Err(OpProblem::Malformed));
        let long_key = codec::encode(("run", "k".repeat(KEY_BYTES_MAX + 1).as_str(), "1"));
        assert_eq!(OpView::decode(3, 0, &long_key), Err(OpProblem::Malformed));
        let pred_zero = codec::encode(("registry:a", "k", vec![Pred { log: None, seq: 0 }]));
        assert_eq!(OpView::decode(2, 0, &pred_zero), Err(OpProblem::Malformed));
    }

    fn intent() -> Op {
        Op::Intent {
            agent: "backup".parse().unwrap(),
            run: "2026-11-27".parse().unwrap(),
            epoch: LeaseEpoch::of(1, 7).unwrap(),
            cert: CertHash::from_bytes([3; 32]),
            status: IntentStatus::Committed,
            payload: Payload::parse(r#"{"files":12}"#).unwrap(),
        }
    }

    #[test]
    fn an_intent_reads_back_also_from_a_reissue() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/data/intent-v1.json")).unwrap();
        let body = encode_op(&intent(), &log(1));
        let hex: String = body.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, golden["body"].as_str().unwrap());

        let view = OpView::decode(5, 0, &body).unwrap();
        assert_eq!((view.surface(), view.key()), (Some("intent"), Some("backup")));
        assert_eq!(Surface::Intent.to_string(), INTENT_SURFACE);
        assert_eq!((view.payload(), view.to_op(&log(1))), (Some(r#"{"files":12}"#), Some(intent())));
        let again = encode_reissue(&Original { kind: 5, ..reissue(&body) });
        assert_eq!(OpView::decode(REISSUE, 0, &again).unwrap().to_op(&log(7)), Some(intent()));
    }

    #[test]
    fn an_intent_that_breaks_a_rule_is_malformed_and_one_of_a_later_version_is_unknown() {
        let long = "x".repeat(129);
        let found = |agent: &str, run: &str, epoch: u64, status: u8, payload: &str| {
            OpView::decode(5, 0, &codec::encode((agent, run, epoch, [0u8; 32], status, payload))).map(drop)
        };

        assert_eq!(found("a", "r", 1, 1, "null"), Ok(()));
        assert_eq!(found("a", "r", (1 << 53) - 1, 3, "null"), Ok(()));
        for (agent, run) in
            [("", "r"), ("a", ""), (&*long, "r"), ("a", &*long), ("a\u{1f}b", "r"), ("a", "\n")]
        {
            assert_eq!(found(agent, run, 1, 1, "null"), Err(OpProblem::Malformed), "{agent:?} {run:?}");
        }
        for epoch in [0, 1 << 53, u64::MAX] {
            assert_eq!(found("a", "r", epoch, 1, "null"), Err(OpProblem::Malformed));
        }
        let huge = "1".repeat(PAYLOAD_BYTES_MAX + 1);
        assert_eq!(found("a", "r", 1, 1, &huge), Err(OpProblem::Malformed));
        assert_eq!(found("a", "r", 1, 4, "null"), Err(OpProblem::Unknown));
        assert_eq!(found("a", "r", 0, 4, "null"), Err(OpProblem::Malformed), "broken under any version");
        let body = encode_op(&intent(), &log(1));
        assert_eq!(OpView::decode(5, 1, &body), Err(OpProblem::Unknown));
        for end in 0..body.len() {
            assert_eq!(OpView::decode(5, 0, &body[..end]), Err(OpProblem::Malformed));
        }
        assert_eq!(OpView::decode(5, 0, &[&body[..], &[0]].concat()), Err(OpProblem::Malformed));
    }

    fn reissue<'a>(body: &'a [u8]) -> Original<'a> {
        Original { log: log(1), seq: Seq::new(301), hlc: Hlc::new(9_000), kind: 1, flags: 0, body }
    }

    #[test]
    fn a_reissued_op_reads_back_as_it_was_with_the_predecessors_of_its_own_log() {
        let inner = encode_op(&put(), &log(1));
        let original = reissue(&inner);

        let body = encode_reissue(&original);
        let view = OpView::decode(REISSUE, 0, &body).unwrap();

        assert_eq!(view, OpView::Reissue(original));
        assert_eq!(view.to_op(&log(7)), Some(put()), "whatever log carries it");
        assert_eq!((view.surface(), view.key()), (Some("registry:note"), Some("today")));
        assert_eq!(view.payload(), Some(r#"{"text":"x"}"#));
        assert_eq!(original.dot(), Dot { log: log(1), seq: Seq::new(301) });
        assert!(body.len() <= inner.len() + REISSUE_OVERHEAD_MAX);
    }

    #[test]
    fn a_reissue_holds_an_op_of_any_kind_but_no_reissue() {
        let inner = encode_op(&put(), &log(1));
        let decode = |original: &Original<'_>| {
            let body = encode_reissue(original);
            OpView::decode(REISSUE, 0, &body).map(|view| match view {
                OpView::Reissue(original) => original.op().map(drop),
                other => panic!("a reissue was written, not {other:?}"),
            })
        };
        let nested = encode_reissue(&reissue(&inner));

        assert_eq!(decode(&reissue(&inner)), Ok(Ok(())));
        assert_eq!(decode(&Original { kind: 999, ..reissue(&inner) }), Ok(Err(OpProblem::Unknown)));
        assert_eq!(decode(&Original { flags: 1, ..reissue(&inner) }), Ok(Err(OpProblem::Unknown)));
        assert_eq!(decode(&reissue(b"")), Ok(Err(OpProblem::Malformed)));
        assert_eq!(decode(&Original { kind: REISSUE, ..reissue(&nested) }), Err(OpProblem::Malformed));
        assert_eq!(Original { kind: REISSUE, ..reissue(&nested) }.op(), Err(OpProblem::Malformed));
        assert_eq!(decode(&Original { seq: Seq::ZERO, ..reissue(&inner) }), Err(OpProblem::Malformed));
        assert_eq!(OpView::decode(REISSUE, 1, &nested), Err(OpProblem::Unknown));
        assert_eq!(OpView::decode(REISSUE, 0, &nested[1..]), Err(OpProblem::Malformed));
        let unreadable = encode_reissue(&reissue(b""));
        let view = OpView::decode(REISSUE, 0, &unreadable).unwrap();
        assert_eq!(
            (view.surface(), view.key(), view.payload(), view.to_op(&log(1))),
            (None, None, None, None)
        );
    }

    /// Log, seq, hlc, kind, flags and the length of the body at their longest.
    const REISSUE_OVERHEAD_MAX: usize = 40 + 9 + 9 + 3 + 1 + 9;

    proptest! {
        #[test]
        fn any_original_reads_back(
            device in any::<[u8; 32]>(), incarnation in any::<u64>(), seq in 1..=u64::MAX, hlc in any::<u64>(),
            kind in any::<u16>(), flags in any::<u8>(), body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let log = LogId { device: DeviceId::from_bytes(device), incarnation: Incarnation::new(incarnation) };
            let kind = if kind == REISSUE { 1 } else { kind };
            let original = Original { log, seq: Seq::new(seq), hlc: Hlc::new(hlc), kind, flags, body: &body };

            let bytes = encode_reissue(&original);

            prop_assert_eq!(OpView::decode(REISSUE, 0, &bytes), Ok(OpView::Reissue(original)));
            for end in 0..bytes.len() {
                prop_assert_eq!(OpView::decode(REISSUE, 0, &bytes[..end]), Err(OpProblem::Malformed));
            }
        }

        #[test]
        fn any_intent_reads_back(
            agent in "[^\\p{Cc}]{1,32}", run in "[^\\p{Cc}]{1,32}", epoch in 1u64..1 << 53, cert in any::<[u8; 32]>(),
            status in 1u8..4, number in any::<u64>(),
        ) {
            let op = Op::Intent {
                agent: agent.parse().unwrap(),
                run: run.parse().unwrap(),
                epoch: LeaseEpoch::new(epoch).unwrap(),
                cert: CertHash::from_bytes(cert),
                status: IntentStatus::from_number(status).unwrap(),
                payload: Payload::parse(&number.to_string()).unwrap(),
            };

            let body = encode_op(&op, &log(1));

            prop_assert_eq!(OpView::decode(5, 0, &body).unwrap().to_op(&log(1)), Some(op));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(kind in 0u16..8, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = OpView::decode(kind, 0, &body);
        }
    }
}
