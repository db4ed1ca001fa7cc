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
    /// The origin of an op with this stamp.
    pub fn of(hlc: Hlc, op: &OpView<'_>) -> Self {
        let kind: u8 = match op {
            OpView::Put { .. } => 1,
            OpView::Delete { .. } => 2,
            OpView::Fact { .. } => 3,
            OpView::Event { .. } => 4,
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"kinfold origin v1").update(&hlc.get().to_be_bytes()).update(&[kind]);
        for part in [op.surface(), op.key(), op.payload().unwrap_or_default()] {
            hasher.update(&(part.len() as u64).to_be_bytes()).update(part.as_bytes());
        }
        let mut short = [0; 16];
        short.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(short)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeviceId, Dot, Incarnation, LogId, Op, Payload, Seq};
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

    const LOG: LogId = LogId { device: DeviceId::from_bytes([1; 32]), incarnation: Incarnation::new(1) };
}
