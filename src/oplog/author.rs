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

    /// Gives an op its place and stamp.
    ///
    /// The stamp is the greater of the clock's tick and one more than the greatest stamp on the
    /// row or in the stream; the second does not move the clock, so a row written in 2099 is
    /// answered with later stamps without dragging other rows along.
    pub fn draft(&mut self, mut op: Op, seen: Seen, now: &Now) -> DraftOp {
        let place = (op.surface().clone(), op.key());
        let unfolded = self.unfolded.get(&place).copied();
        let mut heads = unfolded.map_or(seen.heads, |(dot, _)| vec![dot]);
        // More heads than an op can name: the greatest stay for the next write.
        heads.truncate(PREDS_MAX);
        match &mut op {
            Op::Put { preds, .. } | Op::Delete { preds, .. } => *preds = heads,
            Op::Fact { .. } | Op::Event { .. } | Op::Intent { .. } => {}
        }
        let greatest = unfolded.map_or(seen.greatest, |(_, hlc)| hlc.max(seen.greatest));
        self.clock = self.clock.next().max(Hlc::at(now.wall));
        let hlc = self.clock.max(greatest.next());
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

    /// Gives an op of another log of this device its place in this one, under its original identity:
    /// it goes on counting as what it was, stamp included, so neither the clock moves nor does a
    /// later op take it for what it saw.
    pub fn reissue(&mut self, original: &Original<'_>) -> DraftOp {
        let body = encode_reissue(original).into();
        let draft = DraftOp { seq: self.next_seq(), hlc: original.hlc, kind: REISSUE, flags: 0, body };
        self.drafts.push(draft.clone());
        draft
    }

    /// Takes over the drafts of a log that is given up, each under its original identity: an earlier
    /// life of this device may have sealed and sent them already. Those that are reissues move as
    /// they are. Tells for each what its place was and how it stands here.
    pub fn take_drafts_of(&mut self, old: &Self) -> Vec<(Dot, DraftOp)> {
        self.clock = self.clock.max(old.clock);
        let log = old.log;
        let moved = old.drafts.iter().map(|draft| {
            let DraftOp { seq, hlc, kind, flags, body } = draft;
            let taken = if *kind == REISSUE {
                let taken = DraftOp { seq: self.next_seq(), ..draft.clone() };
                self.drafts.push(taken.clone());
                taken
            } else {
                self.reissue(&Original { log, seq: *seq, hlc: *hlc, kind: *kind, flags: *flags, body })
            };
            (Dot { log, seq: *seq }, taken)
        });
        moved.collect()
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
    use crate::model::limits::{BATCH_SEALED_BYTES_MAX, KEY_BYTES_MAX};
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

        let answer = author.draft(put("a"), seen, &now(1_000));
        let elsewhere = author.draft(put("b"), Seen::default(), &now(1_000));

        assert!(answer.hlc > future);
        assert!(elsewhere.hlc.millis() <= 61_000, "at most 60 s ahead of the wall");
    }

    #[test]
    fn stamps_rise_when_the_wall_goes_back() {
        let mut author = author();

        let first = author.draft(put("a"), Seen::default(), &now(5_000));
        let second = author.draft(put("b"), Seen::default(), &now(1));

        assert!(second.hlc > first.hlc);
    }

    #[test]
    fn a_second_write_of_a_row_replaces_the_first_before_either_is_folded() {
        let mut author = author();
        author.draft(put("a"), Seen::default(), &now(1));

        let second = author.draft(put("a"), Seen::default(), &now(1));

        let OpView::Put { preds, .. } = view(&second) else { panic!("a put was drafted") };
        assert_eq!(preds[0].dot(&author.log()), Dot { log: author.log(), seq: Seq::new(1) });
    }

    #[test]
    fn drafts_are_sealed_in_batches_that_chain() {
        let mut author = author();
        for index in 0..300 {
            author.draft(put(&format!("row {index}")), Seen::default(), &now(1));
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
    fn drafts_move_to_a_new_log_under_their_original_identity() {
        let mut old = author();
        old.draft(put("sealed"), Seen::default(), &now(1));
        seal(&mut old);
        let sealed = Dot { log: old.log(), seq: Seq::new(1) };
        let seen = Seen { heads: vec![sealed], greatest: Hlc::ZERO };
        let drafted = old.draft(put("sealed"), seen, &now(1));
        old.reissue(&original(&log(7), b"an op of an even older log"));
        let mut new = Author::new(log(2), Tip::NONE);
        new.draft(put("own"), Seen::default(), &now(1));

        let moved = new.take_drafts_of(&old);

        let places: Vec<_> = moved.iter().map(|(from, to)| (from.seq.get(), to.seq.get())).collect();
        assert_eq!(places, [(2, 2), (3, 3)]);
        assert!(moved.iter().all(|(from, _)| from.log == old.log()));
        let OpView::Reissue(first) = view(&moved[0].1) else { panic!("written again") };
        assert_eq!((first.dot(), first.hlc), (moved[0].0, drafted.hlc));
        assert_eq!((moved[0].1.hlc, first.body), (drafted.hlc, &drafted.body[..]));
        let Some(Op::Put { preds, .. }) = view(&moved[0].1).to_op(&log(2)) else { panic!("a put") };
        assert_eq!(preds, [sealed], "relative to the log it was written to");
        assert_eq!(view(&moved[1].1), OpView::Reissue(original(&log(7), b"an op of an even older log")));
        assert_eq!(new.next_seq(), Seq::new(4));
    }

    #[test]
    fn a_reissue_keeps_its_stamp_and_moves_no_clock() {
        let mut author = author();
        let body = encode_op(&put("a"), &log(7));

        let again = author.reissue(&original(&log(7), &body));
        let next = author.draft(put("a"), Seen::default(), &now(1));

        assert_eq!((again.seq, again.hlc), (Seq::new(1), FUTURE));
        assert!(next.hlc < FUTURE);
        let OpView::Put { preds, .. } = view(&next) else { panic!("a put was drafted") };
        assert_eq!(preds, [], "what an op saw is what its caller says");
    }

    #[test]
    fn the_largest_op_can_be_written_again() {
        let mut author = author();
        // Does not compress, and names as many others as an op may.
        let text: String =
            (0..).map(|n| blake3::hash(&u64::to_be_bytes(n)).to_hex().to_string()).take(1_023).collect();
        let preds = (0..PREDS_MAX as u64).map(|seq| Dot { log: log(9), seq: Seq::new(u64::MAX - seq) });
        let op = Op::Put {
            surface: "registry:note".parse().unwrap(),
            key: "k".repeat(KEY_BYTES_MAX).into(),
            preds: preds.collect(),
            payload: Payload::parse(&format!("\"{text}\"")).unwrap(),
        };
        let body = encode_op(&op, &log(7));
        author.draft(put("before"), Seen::default(), &now(1));

        author.reissue(&original(&log(7), &body));
        let batches = seal(&mut author);

        assert_eq!(batches.iter().map(|batch| batch.sealed().header().op_count).collect::<Vec<_>>(), [1, 1]);
        assert!(batches.iter().all(|batch| batch.sealed().bytes().len() <= BATCH_SEALED_BYTES_MAX));
    }

    const FUTURE: Hlc = Hlc::new(u64::MAX / 2);

    fn log(incarnation: u64) -> LogId {
        LogId { incarnation: Incarnation::new(incarnation), ..author().log() }
    }

    fn original<'a>(log: &LogId, body: &'a [u8]) -> Original<'a> {
        Original { log: *log, seq: Seq::new(4), hlc: FUTURE, kind: 1, flags: 0, body }
    }

    fn view(draft: &DraftOp) -> OpView<'_> {
        OpView::decode(draft.kind, draft.flags, &draft.body).unwrap()
    }

    #[test]
    fn what_could_not_be_stored_is_numbered_again() {
        let mut author = author();
        author.draft(put("a"), Seen::default(), &now(1));
        author.draft(put("b"), Seen::default(), &now(1));

        author.retract(Seq::new(2), Tip::NONE);
        assert_eq!(author.next_seq(), Seq::new(2));

        author.draft(put("c"), Seen::default(), &now(1));
        seal(&mut author);
        author.retract(Seq::new(2), Tip::NONE);
        assert_eq!(
            (author.next_seq(), author.drafts().len()),
            (Seq::new(2), 1),
            "the first is still a draft"
        );
    }
}
