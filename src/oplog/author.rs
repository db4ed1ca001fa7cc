//! The writer of the own log: numbers, stamps, drafts, and sealing them into batches.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;

use super::chain::{LogChain, VerifiedBatch};
use crate::crypto::{EpochKey, Identity, SealInput, Sealer};
use crate::model::limits::{DRAFT_OPS_MAX, HLC_AHEAD_MAX, PREDS_MAX};
use crate::model::{Dot, Hlc, LogId, Now, Op, ScopeTag, Seq, Surface, Tip, Wall};
use crate::wire::op::{encode_op, encode_reissue};
use crate::wire::{BodyReader, BodyWriter, Original, REISSUE};

/// Drafts that cannot be read back.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AuthorError {
    /// A stored draft does not decode, or does not follow the one before.
    #[error("stored drafts from position {first} do not follow the log's end {expected}")]
    Drafts {
        /// First position of the group.
        first: Seq,
        /// The position expected.
        expected: Seq,
    },
}

/// What the author sees on the row or stream an op touches.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// The heads of the row.
    pub heads: Vec<Dot>,
    /// The greatest stamp there.
    pub greatest: Hlc,
}

/// An op with its place, not sealed yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DraftOp {
    /// Its position.
    pub seq: Seq,
    /// Its stamp.
    pub hlc: Hlc,
    /// Its kind number.
    pub kind: u16,
    /// Its flags.
    pub flags: u8,
    /// Its bytes.
    pub body: Arc<[u8]>,
}

/// The writer of one log.
#[derive(Debug)]
pub struct Author {
    log: LogId,
    chain: LogChain,
    drafts: Vec<DraftOp>,
    /// Sealed into batches that are not durable yet.
    unsettled: Vec<DraftOp>,
    clock: Hlc,
    /// Own ops the fold does not show yet, by row or stream: what a later op of the same row saw.
    unfolded: BTreeMap<(Surface, Arc<str>), (Dot, Hlc)>,
}

impl Author {
    /// Continues a log that ends at `tip`.
    pub fn new(log: LogId, tip: Tip) -> Self {
        Self {
            log,
            chain: LogChain::at(tip),
            drafts: Vec::new(),
            unsettled: Vec::new(),
            clock: Hlc::ZERO,
            unfolded: BTreeMap::new(),
        }
    }

    /// Takes stored drafts back; they follow the tip without a gap.
    ///
    /// # Errors
    /// [`AuthorError::Drafts`].
    pub fn restore(&mut self, first: Seq, op_count: u32, body: &[u8]) -> Result<(), AuthorError> {
        let expected = self.next_seq();
        let refuse = || AuthorError::Drafts { first, expected };
        if first != expected {
            return Err(refuse());
        }
        for frame in BodyReader::new(body, first, op_count).map_err(|_| refuse())? {
            let frame = frame.map_err(|_| refuse())?;
            self.clock = self.clock.max(frame.hlc);
            self.drafts.push(DraftOp {
                seq: frame.seq,
                hlc: frame.hlc,
                kind: frame.kind,
                flags: frame.flags,
                body: frame.body.into(),
            });
        }
        Ok(())
    }

    /// The log.
    pub const fn log(&self) -> LogId {
        self.log
    }

    /// The end of what is sealed.
    pub const fn tip(&self) -> Tip {
        self.chain.tip()
    }

    /// The position the next op takes.
    pub fn next_seq(&self) -> Seq {
        self.chain.tip().seq.plus(self.drafts.len() as u64 + 1)
    }

    /// Ops that are not sealed, in order.
    pub fn drafts(&self) -> &[DraftOp] {
        &self.drafts
    }

    /// Whether enough has come together to seal without a peer that waits for it.
    pub fn is_full(&self) -> bool {
        self.drafts.len() >= DRAFT_OPS_MAX
    }

    /// Learns a remote stamp: the clock follows at most [`HLC_AHEAD_MAX`] ahead of the wall, so no
    /// remote clock can drag this one away. Says whether the stamp was further ahead than that.
    pub fn observe(&mut self, remote: Hlc, wall: Wall) -> bool {
        let ceiling = Hlc::at(wall.plus(HLC_AHEAD_MAX));
        self.clock = self.clock.max(remote.min(ceiling));
        remote > ceiling
    }

    /// Gives an op its place and stamp. `stamp` keeps the stamp of an op that is carried over from
    /// a space this device has left.
    ///
    /// The stamp is the greater of the clock's tick and one more than the greatest stamp on the
    /// row or in the stream; the second does not move the clock, so a row written in 2099 is
    /// answered with later stamps without dragging other rows along.
    pub fn draft(&mut self, mut op: Op, seen: Seen, stamp: Option<Hlc>, now: &Now) -> DraftOp {
        let place = (op.surface().clone(), op.key().clone());
        let unfolded = self.unfolded.get(&place).copied();
        // An op carried over from another space is older than what was written here since, and must
        // not cover it.
        let unfolded = unfolded.filter(|(_, hlc)| stamp.is_none_or(|stamp| *hlc < stamp));
        let mut heads = unfolded.map_or(seen.heads, |(dot, _)| vec![dot]);
        // More heads than an op can name: the greatest stay for the next write.
        heads.truncate(PREDS_MAX);
        match &mut op {
            Op::Put { preds, .. } | Op::Delete { preds, .. } => *preds = heads,
            Op::Fact { .. } | Op::Event { .. } => {}
        }
        let greatest = unfolded.map_or(seen.greatest, |(_, hlc)| hlc.max(seen.greatest));
        let hlc = stamp.unwrap_or_else(|| {
            self.clock = self.clock.next().max(Hlc::at(now.wall));
            self.clock.max(greatest.next())
        });
        let seq = self.next_seq();
        let newest = self.unfolded.entry(place).or_insert((Dot { log: self.log, seq }, hlc));
        if newest.1 <= hlc {
            *newest = (Dot { log: self.log, seq }, hlc);
        }
        let draft =
            DraftOp { seq, hlc, kind: op.kind().number(), flags: 0, body: encode_op(&op, &self.log).into() };
        self.drafts.push(draft.clone());
        draft
    }

    /// Batches up to this position are durable.
    pub fn settle(&mut self, through: Seq) {
        self.unsettled.retain(|draft| draft.seq > through);
    }

    /// Forgets which own ops the fold did not show: it shows them all now.
    pub fn folded(&mut self) {
        self.unfolded.clear();
    }

    /// Goes back to what is durable: the log sealed up to `tip`, and drafts before `from`. The
    /// numbers from `from` on have been seen by nobody and are given again.
    pub fn retract(&mut self, from: Seq, tip: Tip) {
        self.chain = LogChain::at(tip);
        let drafts = std::mem::take(&mut self.unsettled).into_iter().chain(std::mem::take(&mut self.drafts));
        self.drafts = drafts.filter(|draft| tip.seq < draft.seq && draft.seq < from).collect();
        self.unfolded.clear();
    }

    /// Writes an op of a log that is given up again, under its original identity.
    pub fn reissue(&mut self, original: &Original<'_>) -> DraftOp {
        // What is a reissue already keeps the first identity.
        let body: Arc<[u8]> =
            if original.kind == REISSUE { original.body.into() } else { encode_reissue(original).into() };
        let seq = self.next_seq();
        let draft = DraftOp { seq, hlc: original.hlc, kind: REISSUE, flags: 0, body };
        self.drafts.push(draft.clone());
        draft
    }

    /// Takes over the drafts of a log that is given up, under their original identities: an earlier
    /// life may have sealed and sent them. Says where each has moved.
    pub fn take_drafts_of(&mut self, old: &Self) -> Vec<(Dot, Dot)> {
        let mut moved = Vec::with_capacity(old.drafts.len());
        for draft in &old.drafts {
            let DraftOp { seq, hlc, kind, flags, ref body } = *draft;
            let new = self.reissue(&Original { log: old.log, seq, hlc, kind, flags, body });
            moved.push((Dot { log: old.log, seq }, Dot { log: self.log, seq: new.seq }));
        }
        self.clock = self.clock.max(old.clock);
        moved
    }

    /// Seals every draft into as few batches as the limits allow.
    pub fn seal(
        &mut self,
        identity: &Identity,
        sealer: &mut Sealer,
        key: &EpochKey,
        scope: ScopeTag,
        roster_gen: u64,
        entropy: &mut impl FnMut() -> [u8; 32],
    ) -> Vec<VerifiedBatch> {
        let drafts = std::mem::take(&mut self.drafts);
        let mut batches = Vec::new();
        let mut writer = BodyWriter::new();
        self.unsettled.extend(drafts.iter().cloned());
        for draft in &drafts {
            if !writer.has_room(draft.body.len()) {
                let full = std::mem::take(&mut writer);
                batches.push(self.seal_one(identity, sealer, key, scope, roster_gen, entropy(), full));
            }
            writer.push(draft.hlc, draft.kind, draft.flags, &draft.body);
        }
        if writer.op_count() > 0 {
            batches.push(self.seal_one(identity, sealer, key, scope, roster_gen, entropy(), writer));
        }
        batches
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one batch header, each of its own type")]
    fn seal_one(
        &mut self,
        identity: &Identity,
        sealer: &mut Sealer,
        key: &EpochKey,
        scope: ScopeTag,
        roster_gen: u64,
        entropy: [u8; 32],
        writer: BodyWriter,
    ) -> VerifiedBatch {
        let (body, op_count) = writer.finish();
        let input = SealInput {
            scope,
            log: self.log,
            first: self.chain.tip().seq.next(),
            op_count,
            roster_gen,
            prev: self.chain.tip().hash,
            body: &body,
            entropy,
        };
        let batch = sealer.seal(identity, key, &input);
        self.chain.extend(&batch);
        VerifiedBatch::own(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Incarnation, Payload};
    use crate::wire::OpView;
    use std::time::Duration;

    fn now(millis: u64) -> Now {
        Now { uptime: Duration::ZERO, wall: Wall::from_millis(millis), entropy: [0; 32] }
    }

    fn author() -> Author {
        let device = Identity::from_secret(&[1; 32]).device();
        Author::new(LogId { device, incarnation: Incarnation::new(1) }, Tip::NONE)
    }

    fn put(key: &str) -> Op {
        Op::Put {
            surface: "registry:note".parse().unwrap(),
            key: key.into(),
            preds: Vec::new(),
            payload: Payload::parse("1").unwrap(),
        }
    }

    fn seal(author: &mut Author) -> Vec<VerifiedBatch> {
        let identity = Identity::from_secret(&[1; 32]);
        let mut sealer = Sealer::new(&identity);
        let key = EpochKey::from_bytes([5; 32]);
        author.seal(&identity, &mut sealer, &key, ScopeTag::from_bytes([1; 16]), 1, &mut || [7; 32])
    }

    #[test]
    fn a_row_from_the_far_future_is_answered_without_moving_the_clock() {
        let mut author = author();
        let future = Hlc::at(Wall::from_millis(4_000_000_000_000));
        assert!(author.observe(future, Wall::from_millis(1_000)));
        let seen = Seen { heads: Vec::new(), greatest: future };

        let answer = author.draft(put("a"), seen, None, &now(1_000));
        let elsewhere = author.draft(put("b"), Seen::default(), None, &now(1_000));

        assert!(answer.hlc > future);
        assert!(elsewhere.hlc.millis() <= 61_000, "at most 60 s ahead of the wall");
    }

    #[test]
    fn stamps_rise_when_the_wall_goes_back() {
        let mut author = author();

        let first = author.draft(put("a"), Seen::default(), None, &now(5_000));
        let second = author.draft(put("b"), Seen::default(), None, &now(1));

        assert!(second.hlc > first.hlc);
    }

    #[test]
    fn a_second_write_of_a_row_replaces_the_first_before_either_is_folded() {
        let mut author = author();
        author.draft(put("a"), Seen::default(), None, &now(1));

        let second = author.draft(put("a"), Seen::default(), None, &now(1));

        let view = crate::wire::OpView::decode(second.kind, 0, &second.body).unwrap();
        let crate::wire::OpView::Put { preds, .. } = view else { panic!("a put was drafted") };
        assert_eq!(preds[0].dot(&author.log()), Dot { log: author.log(), seq: Seq::new(1) });
    }

    #[test]
    fn what_is_carried_over_covers_nothing_newer() {
        let mut author = author();
        author.draft(put("a"), Seen::default(), None, &now(5_000));

        let carried =
            author.draft(put("a"), Seen::default(), Some(Hlc::at(Wall::from_millis(1))), &now(5_000));
        let next = author.draft(put("a"), Seen::default(), None, &now(5_000));

        let preds = |draft: &DraftOp| -> Vec<u64> {
            match OpView::decode(draft.kind, 0, &draft.body).unwrap() {
                OpView::Put { preds, .. } => {
                    preds.iter().map(|pred| pred.dot(&author.log()).seq.get()).collect()
                }
                other => panic!("a put was drafted, not {other:?}"),
            }
        };
        assert_eq!(preds(&carried), Vec::<u64>::new());
        assert_eq!(preds(&next), [1]);
    }

    #[test]
    fn drafts_are_sealed_in_batches_that_chain() {
        let mut author = author();
        for index in 0..300 {
            author.draft(put(&format!("row {index}")), Seen::default(), None, &now(1));
        }
        assert!(author.is_full());

        let batches = seal(&mut author);

        assert_eq!(batches.iter().map(|b| b.sealed().header().op_count).collect::<Vec<_>>(), [128, 128, 44]);
        assert_eq!(author.next_seq(), Seq::new(301));
        let mut reader = LogChain::at(Tip::NONE);
        let admitted = reader.admit(batches.iter().map(|b| b.sealed().clone()).collect());
        assert_eq!((admitted.batches.len(), reader.tip()), (3, author.tip()));
    }

    #[test]
    fn stored_drafts_come_back_only_where_they_belong() {
        let mut writer = BodyWriter::new();
        writer.push(Hlc::new(9), 1, 0, b"x");
        let (body, count) = writer.finish();
        let mut author = author();

        assert!(author.restore(Seq::new(1), count, &body).is_ok());
        assert!(matches!(author.restore(Seq::new(1), count, &body), Err(AuthorError::Drafts { .. })));
        assert!(matches!(author.restore(Seq::new(2), count, b"bad"), Err(AuthorError::Drafts { .. })));
        assert_eq!(author.next_seq(), Seq::new(2));
    }

    #[test]
    fn drafts_move_to_a_new_log_under_their_first_identity() {
        let mut old = author();
        old.draft(put("sealed"), Seen::default(), None, &now(1));
        seal(&mut old);
        let draft = old.draft(put("draft"), Seen::default(), None, &now(1));
        let log = |incarnation| LogId { incarnation: Incarnation::new(incarnation), ..old.log() };
        let original = |draft: &DraftOp| match OpView::decode(draft.kind, draft.flags, &draft.body).unwrap() {
            OpView::Reissue(original) => (original.log, original.seq, original.hlc, original.body.to_vec()),
            other => panic!("a reissue was drafted, not {other:?}"),
        };
        let expected = (old.log(), Seq::new(2), draft.hlc, draft.body.to_vec());

        let mut new = Author::new(log(2), Tip::NONE);
        let moved = new.take_drafts_of(&old);
        let mut newer = Author::new(log(3), Tip::NONE);
        newer.take_drafts_of(&new);

        let dot = |log, seq| Dot { log, seq: Seq::new(seq) };
        assert_eq!(moved, [(dot(old.log(), 2), dot(new.log(), 1))]);
        assert_eq!(original(&new.drafts()[0]), expected);
        assert_eq!(original(&newer.drafts()[0]), expected, "moved twice, it is not nested");
        assert_eq!(new.next_seq(), Seq::new(2));
    }

    #[test]
    fn what_could_not_be_stored_is_numbered_again() {
        let mut author = author();
        author.draft(put("a"), Seen::default(), None, &now(1));
        author.draft(put("b"), Seen::default(), None, &now(1));

        author.retract(Seq::new(2), Tip::NONE);
        assert_eq!(author.next_seq(), Seq::new(2));

        author.draft(put("c"), Seen::default(), None, &now(1));
        seal(&mut author);
        author.retract(Seq::new(2), Tip::NONE);
        assert_eq!(
            (author.next_seq(), author.drafts().len()),
            (Seq::new(2), 1),
            "the first is still a draft"
        );
    }
}
