//! What an op keeps when it is carried from one space into another.

use crate::model::Hlc;
use crate::wire::OpView;

/// Tells an op of this device from every other of its ops, wherever it is carried: its stamp and what
/// it says, without its place and without what it saw.
///
/// A device that comes back to a space it has left has some of its ops there already. Whoever
/// carries ops over skips those.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Origin([u8; 16]);

impl Origin {
    /// The origin of an op with this stamp. A re-issued op has that of the op within.
    pub fn of(hlc: Hlc, op: &OpView<'_>) -> Self {
        if let OpView::Reissue(original) = op
            && let Ok(inner) = original.op()
        {
            return Self::of(original.hlc, &inner);
        }
        let kind: u8 = match op {
            OpView::Put { .. } => 1,
            OpView::Delete { .. } => 2,
            OpView::Fact { .. } => 3,
            OpView::Event { .. } => 4,
            OpView::Reissue(_) => 6,
        };
        let unread = if let OpView::Reissue(original) = op { original.body } else { &[] };
        let texts = [op.surface(), op.key(), op.payload()].map(|text| text.unwrap_or_default().as_bytes());
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"kinfold origin v1").update(&hlc.get().to_be_bytes()).update(&[kind]);
        for part in texts {
            hasher.update(&(part.len() as u64).to_be_bytes()).update(part);
        }
        hasher.update(unread);
        let mut short = [0; 16];
        short.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(short)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeviceId, Dot, Incarnation, LogId, Op, Payload, Seq};
    use crate::wire::Original;
    use crate::wire::op::encode_op;

    fn origin(hlc: u64, payload: &str, preds: Vec<Dot>) -> Origin {
        let payload = Payload::parse(payload).unwrap();
        let put = Op::Put { surface: "declagent".parse().unwrap(), key: "k".into(), preds, payload };
        let body = encode_op(&put, &LOG);
        Origin::of(Hlc::new(hlc), &OpView::decode(put.kind().number(), 0, &body).unwrap())
    }

    #[test]
    fn stamp_and_content_make_the_origin_and_predecessors_do_not() {
        let first = origin(1, "1", Vec::new());

        assert_eq!(first, origin(1, "1", vec![Dot { log: LOG, seq: Seq::new(4) }]));
        assert_ne!(first, origin(2, "1", Vec::new()));
        assert_ne!(first, origin(1, "2", Vec::new()));
    }

    #[test]
    fn a_reissued_op_has_the_origin_of_the_op_within() {
        let other = LogId { device: LOG.device, incarnation: Incarnation::new(2) };
        let payload = Payload::parse("1").unwrap();
        let put =
            Op::Put { surface: "declagent".parse().unwrap(), key: "k".into(), preds: Vec::new(), payload };
        let inner = encode_op(&put, &other);
        let original =
            |kind, body| Original { log: other, seq: Seq::new(3), hlc: Hlc::new(1), kind, flags: 0, body };
        let origin_of = |original: Original<'_>| Origin::of(Hlc::new(8), &OpView::Reissue(original));

        assert_eq!(origin_of(original(1, &inner)), origin(1, "1", Vec::new()));
        assert_ne!(origin_of(original(999, b"a")), origin_of(original(999, b"b")), "of a later version");
    }

    const LOG: LogId = LogId { device: DeviceId::from_bytes([1; 32]), incarnation: Incarnation::new(1) };
}
