//! Reads sealed batches back.

use bytes::{Bytes, BytesMut};
use redb::ReadableDatabase;

use super::disk::guarded;
use super::error::{Part, StoreError};
use super::tables::{BATCHES, DRAFTS, LogIx};
use super::{Store, Truncations, lock_mutex, read_lock};
use crate::crypto::{BatchHeader, SealedBatch};
use crate::model::{LogId, Seq, SpaceId, Tip, TipHash};
use crate::sync::DraftGroup;
use crate::wire::checkpoint::CheckpointHash;

/// Consecutive sealed batches of one log, ready to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// Whole batches, concatenated.
    pub bytes: Bytes,
    /// The position of the last op within.
    pub last: Seq,
}

impl Store {
    /// Reads whole batches of a log from position `after + 1` on, none that ends beyond `through`,
    /// and not more than `bytes_max` bytes, though at least one batch where there is one.
    ///
    /// `None` where no batch begins at `after + 1` or the first ends beyond `through`. The bytes
    /// were checked against the log's chain, so a peer will not be sent what this disk has spoiled.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] names the batch that is not what was written; [`StoreError::Io`]
    /// and its like from the disk.
    pub fn run(
        &self,
        space: &SpaceId,
        log: &LogId,
        after: Seq,
        through: Seq,
        bytes_max: usize,
    ) -> Result<Option<Run>, StoreError> {
        self.steadily(space, || self.run_now(space, log, after, through, bytes_max))
    }

    fn run_now(
        &self,
        space: &SpaceId,
        log: &LogId,
        after: Seq,
        through: Seq,
        bytes_max: usize,
    ) -> Result<Option<Run>, StoreError> {
        let Some((log_ix, tip)) = self.log_end(space, log) else {
            return Ok(None);
        };
        if after >= tip.seq.min(through) || after < self.floor_of(log_ix).seq {
            return Ok(None);
        }
        let mut walk = RunWalk {
            log,
            tip,
            through,
            bytes_max,
            next: after.next(),
            bytes: BytesMut::new(),
            link: None,
            is_stopped: false,
        };
        self.values(log_ix, after.next(), |first, value| {
            let walked = walk.value(first, value)?;
            walk.is_stopped = walked == Walk::Stop;
            Ok(walked)
        })?;
        walk.finish()
    }

    /// The batch that contains a position; `None` where the log does not reach it.
    ///
    /// Whether the bytes are what was written shows when the batch is opened.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Io`] and its like.
    pub fn batch_at(
        &self,
        space: &SpaceId,
        log: &LogId,
        seq: Seq,
    ) -> Result<Option<SealedBatch>, StoreError> {
        self.steadily(space, || self.batch_at_now(space, log, seq))
    }

    fn batch_at_now(
        &self,
        space: &SpaceId,
        log: &LogId,
        seq: Seq,
    ) -> Result<Option<SealedBatch>, StoreError> {
        let Some((log_ix, tip)) = self.log_end(space, log) else {
            return Ok(None);
        };
        if seq <= self.floor_of(log_ix).seq || seq > tip.seq {
            return Ok(None);
        }
        let damaged = || StoreError::damaged(Part::Batch { log: *log, seq });
        let mut found = None;
        self.values(log_ix, seq, |_, value| {
            let mut rest = value;
            while !rest.is_empty() {
                let header = BatchHeader::parse(rest).map_err(|_| damaged())?;
                let (batch, after) = rest.split_at_checked(header.sealed_bytes()).ok_or_else(damaged)?;
                if header.first <= seq && seq <= header.last() && header.log == *log {
                    found = Some(Bytes::copy_from_slice(batch));
                    break;
                }
                rest = after;
            }
            Ok(Walk::Stop)
        })?;
        let batch = SealedBatch::parse(found.ok_or_else(damaged)?).map_err(|_| damaged())?;
        Ok(Some(batch))
    }

    /// The group of drafts that contains a position, if it is not sealed yet.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Io`] and its like.
    pub fn drafts_at(
        &self,
        space: &SpaceId,
        log: &LogId,
        seq: Seq,
    ) -> Result<Option<DraftGroup>, StoreError> {
        let Some((space_ix, log_ix)) = read_lock(&self.0.index).log_ix(space, log) else {
            return Ok(None);
        };
        let group = self.reading(|db| {
            let table = db.begin_read()?.open_table(DRAFTS)?;
            let mut range = table.range((space_ix, log_ix, 0)..=(space_ix, log_ix, seq.get()))?;
            let Some(row) = range.next_back() else {
                return Ok(None);
            };
            let (place, sealed) = row?;
            let first = Seq::new(place.value().2);
            self.0.vaults.open_drafts(space, log, first, sealed.value()).map(Some)
        })?;
        Ok(group.filter(|group| seq <= group.last()))
    }

    /// Reads a log up to where it ends; once more where the tables have lost what lay before that
    /// end because it was dropped meanwhile.
    fn steadily<T>(
        &self,
        space: &SpaceId,
        read: impl Fn() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        loop {
            let before = self.cuts(space);
            let result = read();
            if !matches!(&result, Err(StoreError::Damaged { what: Part::Batch { .. }, .. })) {
                return result;
            }
            // Tables change before the index that readers ask first: both are of one commit after this.
            drop(lock_mutex(&self.0.doubt));
            if self.cuts(space) == before {
                return result;
            }
        }
    }

    /// What changes with every write that drops batches of a space.
    fn cuts(&self, space: &SpaceId) -> (Truncations, Option<CheckpointHash>) {
        (self.truncations(space), self.base(space).map(|base| base.checkpoint))
    }

    /// The number of a log and where its sealed part ends.
    pub(super) fn log_end(&self, space: &SpaceId, log: &LogId) -> Option<(LogIx, Tip)> {
        let index = read_lock(&self.0.index);
        let log_ix = index.log_ix(space, log)?;
        Some((log_ix, index.tip(log_ix)))
    }

    /// The last place of a log that is in the base and in no batch.
    pub(super) fn floor_of(&self, log_ix: LogIx) -> Tip {
        read_lock(&self.0.index).floor(log_ix)
    }

    /// Visits the values of a log in order, from the one that may contain `from`.
    fn values(
        &self,
        (space_ix, log_ix): LogIx,
        from: Seq,
        mut visit: impl FnMut(Seq, &[u8]) -> Result<Walk, StoreError>,
    ) -> Result<(), StoreError> {
        self.reading(|db| {
            let table = db.begin_read()?.open_table(BATCHES)?;
            let mut before = table.range((space_ix, log_ix, 0)..=(space_ix, log_ix, from.get()))?;
            let Some(row) = before.next_back() else {
                return Ok(());
            };
            let (place, value) = row?;
            let first = place.value();
            if visit(Seq::new(first.2), value.value())? == Walk::Stop {
                return Ok(());
            }
            drop(value);
            for row in
                table.range((space_ix, log_ix, first.2.saturating_add(1))..=(space_ix, log_ix, u64::MAX))?
            {
                let (place, value) = row?;
                if visit(Seq::new(place.value().2), value.value())? == Walk::Stop {
                    break;
                }
            }
            Ok(())
        })
    }

    pub(super) fn reading<T>(
        &self,
        read: impl FnOnce(&redb::Database) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let db = self.engine()?;
        let result = guarded(|| read(db.get()));
        drop(db);
        if result.as_ref().is_err_and(StoreError::spoils_engine) {
            self.close_engine();
        }
        result
    }
}

#[derive(PartialEq, Eq)]
enum Walk {
    Continue,
    Stop,
}

/// Collects the batches of a run, checking the chain.
struct RunWalk<'a> {
    log: &'a LogId,
    tip: Tip,
    through: Seq,
    bytes_max: usize,
    /// The position the next batch must begin with.
    next: Seq,
    bytes: BytesMut,
    /// The link of the batch before, once there is one.
    link: Option<TipHash>,
    /// Whether it ended at a limit or the tip: values that run out before are missing.
    is_stopped: bool,
}

impl RunWalk<'_> {
    fn damaged(&self) -> StoreError {
        StoreError::damaged(Part::Batch { log: *self.log, seq: self.next })
    }

    fn value(&mut self, first: Seq, value: &[u8]) -> Result<Walk, StoreError> {
        if self.link.is_some() && first != self.next {
            return Err(self.damaged());
        }
        let mut rest = Bytes::copy_from_slice(value);
        while !rest.is_empty() {
            let header = BatchHeader::parse(&rest).map_err(|_| self.damaged())?;
            if header.sealed_bytes() > rest.len() {
                return Err(self.damaged());
            }
            let batch = rest.split_to(header.sealed_bytes());
            if header.last() < self.next && self.link.is_none() {
                continue;
            }
            if self.batch(&header, batch)? == Walk::Stop {
                return Ok(Walk::Stop);
            }
        }
        Ok(Walk::Continue)
    }

    fn batch(&mut self, header: &BatchHeader, bytes: Bytes) -> Result<Walk, StoreError> {
        let Some(link) = self.link else {
            if header.first != self.next {
                return Ok(Walk::Stop);
            }
            return self.take(header, bytes);
        };
        // The batch before is proven by what this one, or the tip, says of it.
        if header.prev != link || header.first != self.next {
            return Err(StoreError::damaged(Part::Batch { log: *self.log, seq: self.next }));
        }
        self.take(header, bytes)
    }

    fn take(&mut self, header: &BatchHeader, bytes: Bytes) -> Result<Walk, StoreError> {
        let is_full = self.link.is_some() && self.bytes.len() + bytes.len() > self.bytes_max;
        if header.last() > self.through || is_full {
            return Ok(Walk::Stop);
        }
        let batch = SealedBatch::parse(bytes).map_err(|_| self.damaged())?;
        let is_beyond_tip = header.last() > self.tip.seq;
        if is_beyond_tip || (header.last() == self.tip.seq && batch.link() != self.tip.hash) {
            return Err(self.damaged());
        }
        self.link = Some(batch.link());
        self.bytes.extend_from_slice(batch.bytes());
        self.next = header.last().next();
        Ok(if header.last() == self.tip.seq { Walk::Stop } else { Walk::Continue })
    }

    fn finish(self) -> Result<Option<Run>, StoreError> {
        if !self.is_stopped {
            return Err(self.damaged());
        }
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let last = Seq::new(self.next.get() - 1);
        Ok(Some(Run { bytes: self.bytes.freeze(), last }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;
    use crate::store::testing::{Author, reopen, store, whole_run};
    use crate::sync::Write;

    #[test]
    fn what_was_committed_reads_back_after_opening_again() {
        let mut author = Author::new(1);
        let (store, disk) = store(&mut author);
        let mut bytes = Vec::new();
        for round in 0..40 {
            let batches = author.batches(1 + round % 5, 1 + round as u32 * 3);
            bytes.extend(batches.iter().flat_map(|batch| batch.bytes().to_vec()));
            let write = author.write(batches);
            author.commit(&store, vec![write]);
        }

        assert_eq!(whole_run(&store, &author), bytes);
        drop(store);
        let (store, loaded) = reopen(&disk);
        assert_eq!(whole_run(&store, &author), bytes);
        assert_eq!(loaded.spaces[0].frontier.tip(&author.log), author.tip());
        for seq in 1..=author.tip().seq.get() {
            let batch = store.batch_at(&author.space, &author.log, Seq::new(seq)).unwrap().unwrap();
            assert!(batch.header().first.get() <= seq && seq <= batch.header().last().get());
        }
    }

    #[test]
    fn a_run_keeps_to_batch_ends_and_to_its_limits() {
        let mut author = Author::new(1);
        let (store, _) = store(&mut author);
        let batches = author.batches(10, 4);
        let length = batches[0].bytes().len();
        let write = author.write(batches);
        author.commit(&store, vec![write]);
        let run = |after, through, bytes_max| {
            let run = store.run(&author.space, &author.log, Seq::new(after), Seq::new(through), bytes_max);
            run.unwrap().map(|run| (run.bytes.len() / length, run.last.get()))
        };

        assert_eq!(run(0, 40, usize::MAX), Some((10, 40)));
        assert_eq!(run(0, 99, usize::MAX), Some((10, 40)));
        assert_eq!(run(8, 40, 3 * length), Some((3, 20)));
        assert_eq!(run(8, 40, 3 * length + length / 2), Some((3, 20)));
        assert_eq!(run(8, 40, 0), Some((1, 12)), "at least one");
        assert_eq!(run(8, 19, usize::MAX), Some((2, 16)), "none that ends beyond");
        assert_eq!(run(8, 11, usize::MAX), None, "the first ends beyond");
        assert_eq!(run(7, 40, usize::MAX), None, "no batch begins there");
        assert_eq!(run(40, 99, usize::MAX), None, "nothing is there");
        assert_eq!(run(36, 40, usize::MAX), Some((1, 40)));
    }

    #[test]
    fn what_is_not_here_is_none() {
        let mut author = Author::new(1);
        let (store, _) = store(&mut author);
        let elsewhere = Author::new(2);
        let other_space = SpaceId::from_bytes([0; 32]);
        let write = author.write(author_batches(&mut Author::new(1)));
        author.commit(&store, vec![write]);

        for (space, log, seq) in [
            (&author.space, &author.log, 0),
            (&author.space, &author.log, 5),
            (&author.space, &elsewhere.log, 1),
            (&other_space, &author.log, 1),
        ] {
            assert!(store.batch_at(space, log, Seq::new(seq)).unwrap().is_none());
        }
    }

    fn author_batches(author: &mut Author) -> Vec<SealedBatch> {
        author.batches(1, 4)
    }

    #[test]
    fn whoever_reads_while_ends_are_dropped_hears_of_no_damage() {
        let mut author = Author::new(1);
        let (store, _) = store(&mut author);
        let batches = author.batches(4, 4);
        let (space, log, last) = (author.space, author.log, author.tip().seq);
        let write = author.write(batches);
        let drop_all = Write::Truncate { space, log, to: Tip::NONE };
        let is_over = AtomicBool::new(false);
        let found = [AtomicU64::new(0), AtomicU64::new(0)];

        std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                while !is_over.load(Ordering::Acquire) {
                    let run = store.run(&space, &log, Seq::ZERO, last, usize::MAX).unwrap();
                    let batch = store.batch_at(&space, &log, last).unwrap();
                    for (found, count) in [run.is_some(), batch.is_some()].into_iter().zip(&found) {
                        count.fetch_add(u64::from(found), Ordering::AcqRel);
                    }
                }
            });
            for _ in 0..500 {
                author.commit(&store, vec![write.clone()]);
                author.commit(&store, vec![drop_all.clone()]);
            }
            // It has read nothing until it has found what is there once.
            author.commit(&store, vec![write]);
            let has_read = || found.iter().all(|count| count.load(Ordering::Acquire) > 0);
            while !has_read() && !reading.is_finished() {
                std::thread::yield_now();
            }
            is_over.store(true, Ordering::Release);
            reading.join().unwrap();
        });
    }
}
