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
//!
//! `preds` is a count and, for each, an option of the 40-byte log (absent: the op's own log) and
//! the seq. Naming the log in full keeps an op's bytes the same wherever it is written again.

use bincode::{BorrowDecode, Encode};

use super::codec;
use crate::model::limits::{KEY_BYTES_MAX, PAYLOAD_BYTES_MAX, PREDS_MAX, SURFACE_BYTES_MAX};
use crate::model::{Dot, LogId, Op, OpKind, Payload, Seq};

/// Why an op is kept but not folded. Deterministic: every device says the same of the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum OpProblem {
    /// A kind, or a flag of it, that a later version defines.
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

    fn of(dot: &Dot, own: &LogId) -> Self {
        Self { log: (dot.log != *own).then(|| dot.log.to_bytes()), seq: dot.seq.get() }
    }
}

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
}

impl<'a> OpView<'a> {
    /// Reads the body of an op of this kind.
    ///
    /// # Errors
    /// Every variant of [`OpProblem`].
    pub fn decode(kind: u16, flags: u8, body: &'a [u8]) -> Result<Self, OpProblem> {
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
        };
        if view.keeps_limits() { Ok(view) } else { Err(OpProblem::Malformed) }
    }

    /// The surface text.
    pub const fn surface(&self) -> &'a str {
        match self {
            Self::Put { surface, .. }
            | Self::Delete { surface, .. }
            | Self::Fact { surface, .. }
            | Self::Event { surface, .. } => surface,
        }
    }

    /// The row, entity or stream.
    pub const fn key(&self) -> &'a str {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Fact { key, .. } => key,
            Self::Event { stream, .. } => stream,
        }
    }

    /// The payload; `None` for a delete.
    pub const fn payload(&self) -> Option<&'a str> {
        match self {
            Self::Put { payload, .. } | Self::Fact { payload, .. } | Self::Event { payload, .. } => {
                Some(payload)
            }
            Self::Delete { .. } => None,
        }
    }

    /// The op as a value of its own, its predecessors resolved; `None` where its surface or
    /// payload is not one this version would write.
    pub fn to_op(&self, own: &LogId) -> Option<Op> {
        let surface = self.surface().parse().ok()?;
        let key = self.key().into();
        let resolve = |preds: &[Pred]| preds.iter().map(|pred| pred.dot(own)).collect();
        Some(match self {
            Self::Put { preds, payload, .. } => {
                Op::Put { surface, key, preds: resolve(preds), payload: Payload::parse(payload).ok()? }
            }
            Self::Delete { preds, .. } => Op::Delete { surface, key, preds: resolve(preds) },
            Self::Fact { payload, .. } => Op::Fact { surface, key, payload: Payload::parse(payload).ok()? },
            Self::Event { payload, .. } => {
                Op::Event { surface, stream: key, payload: Payload::parse(payload).ok()? }
            }
        })
    }

    fn keeps_limits(&self) -> bool {
        let preds_ok = match self {
            Self::Put { preds, .. } | Self::Delete { preds, .. } => {
                preds.len() <= PREDS_MAX && preds.iter().all(|pred| pred.seq > 0)
            }
            Self::Fact { .. } | Self::Event { .. } => true,
        };
        let payload_ok = self.payload().is_none_or(|payload| payload.len() <= PAYLOAD_BYTES_MAX);
        preds_ok
            && payload_ok
            && self.surface().len() <= SURFACE_BYTES_MAX
            && (1..=KEY_BYTES_MAX).contains(&self.key().len())
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
    }
}

fn read<'a, T: BorrowDecode<'a, ()>>(body: &'a [u8]) -> Result<T, OpProblem> {
    codec::decode(body).map_err(|_| OpProblem::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeviceId, Incarnation};
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

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(kind in 0u16..8, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = OpView::decode(kind, 0, &body);
        }
    }
}
