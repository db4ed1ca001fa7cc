//! Reads single ops back, through a bounded cache of opened batches and drafts.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, RwLock};

use bytes::Bytes;
use thiserror::Error;

use super::error::StoreError;
use super::pieces::Pieces;
use super::tables::LogIx;
use super::{Store, lock_mutex, read_lock, write_lock};
use crate::crypto::{BatchHeader, EpochKey, OpenError, Opener};
use crate::model::{Dot, Hlc, KeyId, LogId, Seq, SpaceId};
use crate::wire::body::{BodyError, BodyReader};
use crate::wire::checkpoint::CheckpointHash;
use crate::wire::{OpView, Original, REISSUE};

/// Why an op cannot be read back.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The batch on disk is not what its author sealed.
    #[error("the batch with op {seq} of log {log} is damaged on this disk; another device still has it")]
    Damaged {
        /// The log.
        log: LogId,
        /// The op that was wanted.
        seq: Seq,
        /// How it shows.
        #[source]
        source: OpenError,
    },
    /// The batch opens, but its content is not a body this kinfold reads.
    #[error("op {seq} of log {log} is in a batch whose content is not readable here")]
    Body {
        /// The log.
        log: LogId,
        /// The op that was wanted.
        seq: Seq,
        /// What is wrong with it.
        #[source]
        source: BodyError,
    },
    /// The batch is sealed under a key that this device does not hold.
    #[error("op {seq} of log {log} is sealed under key {key_id}, which is not here")]
    NoKey {
        /// The log.
        log: LogId,
        /// The op that was wanted.
        seq: Seq,
        /// The key.
        key_id: KeyId,
    },
    /// The op is in the checkpoint that the history begins with, and a chunk of that is not what was
    /// written, or not here.
    #[error(
        "a chunk of checkpoint {checkpoint}, which the history here begins with, is damaged or gone; another device still has it"
    )]
    Piece {
        /// The checkpoint.
        checkpoint: CheckpointHash,
    },
    /// The op is in the checkpoint that the history begins with, and its key is not here.
    #[error(
        "checkpoint {checkpoint}, which the history here begins with, is sealed under key {key_id}, which is not here"
    )]
    PieceKey {
        /// The checkpoint.
        checkpoint: CheckpointHash,
        /// The key.
        key_id: KeyId,
    },
    /// The store itself.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The epoch keys at hand, shared with whoever learns new ones.
#[derive(Clone, Default)]
pub struct KeyRing(Arc<RwLock<BTreeMap<KeyId, EpochKey>>>);

impl KeyRing {
    /// Adds a key.
    pub fn insert(&self, key: EpochKey) {
        write_lock(&self.0).insert(key.id(), key);
    }

    /// Finds a key by its name.
    pub fn key(&self, id: &KeyId) -> Option<EpochKey> {
        read_lock(&self.0).get(id).cloned()
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(read_lock(&self.0).keys()).finish()
    }
}

/// One op as its author framed it. Where a reissue stands, it is the op within.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpAt {
    /// What it is known by, and what its predecessors are relative to: its first place.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: Hlc,
    /// Its kind number, known here or not.
    pub kind: u16,
    /// Its flags.
    pub flags: u8,
    /// Its bytes: a view into the opened block, which it keeps alive.
    pub body: Bytes,
}

/// Reads ops by their place, keeping the blocks they lie in opened.
pub struct Blocks {
    store: Store,
    keys: KeyRing,
    bytes_max: usize,
    cache: Mutex<Cache>,
    pieces: Pieces,
    openers: Mutex<Vec<Opener>>,
}

impl Blocks {
    /// Reads from `store` with a cache of [`BLOCK_CACHE_BYTES`].
    pub fn new(store: Store, keys: KeyRing) -> Self {
        Self::with_cache(store, keys, BLOCK_CACHE_BYTES)
    }

    /// Reads from `store` with a cache of `bytes_max` bytes of opened blocks.
    pub fn with_cache(store: Store, keys: KeyRing, bytes_max: usize) -> Self {
        // Old values are read less often than new ones.
        let pieces = Pieces::new(bytes_max / 4);
        Self { store, keys, bytes_max, cache: Mutex::default(), pieces, openers: Mutex::default() }
    }

    /// Reads the op that stands there, sealed or draft; `None` where the log does not reach it, and where
    /// the history begins behind it with a checkpoint in which nothing points at it any more.
    ///
    /// # Errors
    /// Every variant of [`ReadError`].
    pub fn op(&self, space: &SpaceId, dot: &Dot) -> Result<Option<OpAt>, ReadError> {
        let Some((log_ix, tip)) = self.store.log_end(space, &dot.log) else {
            return Ok(None);
        };
        if dot.seq <= self.store.floor_of(log_ix).seq {
            return self.pieces.op(&self.store, &self.keys, space, dot);
        }
        if let Some(op) = lock_mutex(&self.cache).op(log_ix, dot, tip.seq) {
            return Ok(Some(op));
        }
        let truncations = self.store.truncations(space);
        let Some(block) = self.open(space, dot)? else {
            return Ok(None);
        };
        let op = block.op(dot);
        let mut cache = lock_mutex(&self.cache);
        // Whoever truncates a log forgets its blocks next: one that was read before must not stay.
        if self.store.truncations(space) == truncations {
            cache.insert(log_ix, block, self.bytes_max);
        }
        Ok(op)
    }

    /// Forgets the opened blocks of a log: its end was dropped, and other ops may take their places.
    pub fn forget_log(&self, space: &SpaceId, log: &LogId) {
        if let Some((log_ix, _)) = self.store.log_end(space, log) {
            lock_mutex(&self.cache).forget(log_ix);
        }
    }

    fn open(&self, space: &SpaceId, dot: &Dot) -> Result<Option<Block>, ReadError> {
        if let Some(block) = self.open_batch(space, dot)? {
            return Ok(Some(block));
        }
        if let Some(group) = self.store.drafts_at(space, &dot.log, dot.seq)? {
            let place = BlockPlace { first: group.first, op_count: group.op_count, is_draft: true };
            return Block::new(group.body, place, dot).map(Some);
        }
        // The drafts may have been sealed between the two looks.
        self.open_batch(space, dot)
    }

    fn open_batch(&self, space: &SpaceId, dot: &Dot) -> Result<Option<Block>, ReadError> {
        let Some(batch) = self.store.batch_at(space, &dot.log, dot.seq)? else {
            return Ok(None);
        };
        let (log, seq, header) = (dot.log, dot.seq, batch.header());
        let key_id = header.key_id;
        let key = self.keys.key(&key_id).ok_or(ReadError::NoKey { log, seq, key_id })?;
        let mut opener = lock_mutex(&self.openers).pop().unwrap_or_default();
        let opened = opener.open(&key, &batch);
        lock_mutex(&self.openers).push(opener);
        let body = opened.map_err(|source| ReadError::Damaged { log, seq, source })?;
        Block::of_batch(body, header, dot).map(Some)
    }
}

#[derive(Clone, Copy)]
struct BlockPlace {
    first: Seq,
    op_count: u32,
    is_draft: bool,
}

/// An opened batch or draft group, with the place of every op in it.
pub(crate) struct Block {
    place: BlockPlace,
    body: Bytes,
    frames: Vec<Frame>,
    /// Read since the hand of the clock last passed.
    is_used: bool,
}

/// Where in the body an op lies.
struct Frame {
    hlc: Hlc,
    start: u32,
    len: u32,
    kind: u16,
    flags: u8,
}

impl Block {
    /// What was opened of a batch; `dot` is named where it cannot be read.
    pub(crate) fn of_batch(body: Vec<u8>, header: &BatchHeader, dot: &Dot) -> Result<Self, ReadError> {
        let place = BlockPlace { first: header.first, op_count: header.op_count, is_draft: false };
        Self::new(body, place, dot)
    }

    fn new(body: Vec<u8>, place: BlockPlace, dot: &Dot) -> Result<Self, ReadError> {
        let unreadable = |source| ReadError::Body { log: dot.log, seq: dot.seq, source };
        let mut frames = Vec::with_capacity(place.op_count as usize);
        for frame in BodyReader::new(&body, place.first, place.op_count).map_err(unreadable)? {
            let frame = frame.map_err(unreadable)?;
            let start = frame.body.as_ptr().addr() - body.as_ptr().addr();
            frames.push(Frame {
                hlc: frame.hlc,
                start: u32::try_from(start).expect("bodies are bounded"),
                len: u32::try_from(frame.body.len()).expect("bodies are bounded"),
                kind: frame.kind,
                flags: frame.flags,
            });
        }
        Ok(Self { place, body: body.into(), frames, is_used: false })
    }

    /// The op that stands there.
    pub(crate) fn op(&self, dot: &Dot) -> Option<OpAt> {
        let index = usize::try_from(dot.seq.get().checked_sub(self.place.first.get())?).ok()?;
        let Frame { hlc, start, len, kind, flags } = *self.frames.get(index)?;
        let body = self.body.slice(start as usize..start as usize + len as usize);
        if kind == REISSUE
            && let Ok(OpView::Reissue(original)) = OpView::decode(kind, flags, &body)
        {
            let Original { hlc, kind, flags, .. } = original;
            return Some(OpAt { dot: original.dot(), hlc, kind, flags, body: body.slice_ref(original.body) });
        }
        Some(OpAt { dot: *dot, hlc, kind, flags, body })
    }

    fn cost(&self) -> usize {
        size_of::<Self>() + self.body.len() + self.frames.len() * size_of::<Frame>()
    }
}

type BlockKey = (LogIx, Seq);

/// Opened blocks by their first position, evicted by the clock algorithm.
#[derive(Default)]
struct Cache {
    blocks: BTreeMap<BlockKey, Block>,
    /// Names every block once; the hand is at the front.
    clock: VecDeque<BlockKey>,
    bytes: usize,
}

impl Cache {
    fn op(&mut self, log_ix: LogIx, dot: &Dot, tip: Seq) -> Option<OpAt> {
        loop {
            let (key, block) = self.blocks.range_mut((log_ix, Seq::ZERO)..=(log_ix, dot.seq)).next_back()?;
            // A draft that is sealed by now hides the batch that took its place.
            if block.place.is_draft && tip >= block.place.first {
                let key = *key;
                self.remove(&key);
                continue;
            }
            block.is_used = true;
            return block.op(dot);
        }
    }

    fn insert(&mut self, log_ix: LogIx, block: Block, bytes_max: usize) {
        let key = (log_ix, block.place.first);
        self.remove(&key);
        self.bytes += block.cost();
        self.blocks.insert(key, block);
        self.clock.push_back(key);
        // The newest stays even if it alone is beyond the limit: it is about to be read again.
        while self.bytes > bytes_max && self.blocks.len() > 1 {
            self.evict();
        }
    }

    fn evict(&mut self) {
        let key = self.clock.pop_front().expect("the clock names every block");
        let block = self.blocks.get_mut(&key).expect("the clock names only blocks that are here");
        if block.is_used {
            block.is_used = false;
            self.clock.push_back(key);
        } else {
            let block = self.blocks.remove(&key).expect("it was just there");
            self.bytes -= block.cost();
        }
    }

    fn remove(&mut self, key: &BlockKey) {
        if let Some(block) = self.blocks.remove(key) {
            self.bytes -= block.cost();
            // Rare: only a draft that was sealed, or a log that is forgotten.
            self.clock.retain(|other| other != key);
        }
    }

    fn forget(&mut self, log_ix: LogIx) {
        let keys: Vec<BlockKey> = self
            .blocks
            .range((log_ix, Seq::ZERO)..=(log_ix, Seq::new(u64::MAX)))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            self.remove(&key);
        }
    }
}

/// Opened blocks kept by [`Blocks::new`]: 700 full ones, the working set of an interactive use.
pub const BLOCK_CACHE_BYTES: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use redb::ReadableTable;

    use super::*;
    use crate::store::tables::BATCHES;
    use crate::store::testing::{Author, payload, reopen, store};
    use crate::sync::Write;

    fn blocks(store: &Store, author: &Author, bytes_max: usize) -> Blocks {
        let keys = KeyRing::default();
        keys.insert(author.key.clone());
        Blocks::with_cache(store.clone(), keys, bytes_max)
    }

    fn dot(author: &Author, seq: u64) -> Dot {
        Dot { log: author.log, seq: Seq::new(seq) }
    }

    #[test]
    fn every_op_reads_back_through_a_cache_of_any_size() {
        let mut author = Author::new(1);
        let (store, _) = store(&mut author);
        let batches = author.batches(20, 30);
        let writes = vec![author.write(batches), author.drafts(601, 5)];
        author.commit(&store, writes);

        for bytes_max in [0, 10_000, BLOCK_CACHE_BYTES] {
            let blocks = blocks(&store, &author, bytes_max);
            for seq in (1..=605).chain((1..=605).rev()).chain((1..=605).map(|seq| 1 + seq * 277 % 605)) {
                let op = blocks.op(&author.space, &dot(&author, seq)).unwrap().unwrap();

                assert_eq!((op.hlc, op.kind, op.flags), (Hlc::new(seq * 10), 1, 0));
                assert_eq!(op.body, payload(seq, 40));
            }
            let cache = lock_mutex(&blocks.cache);
            assert!(cache.bytes <= bytes_max || cache.blocks.len() == 1);
            assert_eq!(cache.bytes, cache.blocks.values().map(Block::cost).sum::<usize>());
            assert_eq!(cache.clock.len(), cache.blocks.len());
        }
    }

    #[test]
    fn a_sealed_batch_takes_the_place_of_opened_drafts() {
        let mut author = Author::new(1);
        let (store, _) = store(&mut author);
        let drafts = vec![author.drafts(1, 2), author.drafts(3, 2), author.drafts(5, 2)];
        author.commit(&store, drafts);
        let blocks = blocks(&store, &author, BLOCK_CACHE_BYTES);
        let read =
            |author: &Author, seq| blocks.op(&author.space, &dot(author, seq)).unwrap().map(|op| op.body);
        (1..=6).for_each(|seq| assert_eq!(read(&author, seq).unwrap(), payload(seq, 40)));
        assert_eq!(lock_mutex(&blocks.cache).blocks.len(), 3);

        let batch = author.batch(5, 40);
        let through = Seq::new(5);
        let writes = vec![author.write(vec![batch]), Write::DraftsSealed { space: author.space, through }];
        author.commit(&store, writes);

        (1..=6).rev().for_each(|seq| assert_eq!(read(&author, seq).unwrap(), payload(seq, 40)));
        assert_eq!(read(&author, 7), None);
        let places: Vec<_> = lock_mutex(&blocks.cache)
            .blocks
            .values()
            .map(|block| (block.place.first.get(), block.place.is_draft))
            .collect();
        assert_eq!(places, [(1, false), (6, true)]);
    }

    #[test]
    fn a_log_can_be_forgotten_and_is_read_anew() {
        let mut author = Author::new(1);
        let (store, _) = store(&mut author);
        let batches = author.batches(3, 3);
        let write = author.write(batches);
        author.commit(&store, vec![write]);
        let blocks = blocks(&store, &author, BLOCK_CACHE_BYTES);
        let read = |seq| blocks.op(&author.space, &dot(&author, seq)).unwrap().unwrap();
        (1..=9).for_each(|seq| drop(read(seq)));

        blocks.forget_log(&author.space, &author.log);

        assert_eq!(lock_mutex(&blocks.cache).bytes, 0);
        assert_eq!(read(5).body, payload(5, 40));
        let elsewhere = Author::new(2);
        assert_eq!(blocks.op(&author.space, &dot(&elsewhere, 1)).unwrap(), None);
    }

    #[test]
    fn where_an_op_was_written_again_the_op_itself_is_read() {
        let mut author = Author::new(1);
        let (store, _) = store(&mut author);
        let first = Dot { log: Author::new(2).log, seq: Seq::new(7) };
        let (hlc, body) = (Hlc::new(70), payload(7, 40));
        let original = Original { log: first.log, seq: first.seq, hlc, kind: 3, flags: 2, body: &body };
        let mut writer = crate::wire::BodyWriter::new();
        writer.push(hlc, REISSUE, 0, &crate::wire::op::encode_reissue(&original));
        writer.push(Hlc::new(80), REISSUE, 0, b"no reissue");
        let (bytes, count) = writer.finish();
        let batch = author.seal(&bytes, count);
        let write = author.write(vec![batch]);
        author.commit(&store, vec![write]);
        let blocks = blocks(&store, &author, BLOCK_CACHE_BYTES);

        for _ in 0..2 {
            let op = blocks.op(&author.space, &dot(&author, 1)).unwrap().unwrap();
            assert_eq!((op.dot, op.hlc, op.kind, op.flags), (first, hlc, 3, 2));
            assert_eq!(op.body, body);
            let unreadable = blocks.op(&author.space, &dot(&author, 2)).unwrap().unwrap();
            assert_eq!((unreadable.dot, unreadable.kind), (dot(&author, 2), REISSUE));
        }
    }

    #[test]
    fn what_cannot_be_read_says_which_op_and_why() {
        let mut author = Author::new(1);
        let (first, disk) = store(&mut author);
        let batches = author.batches(2, 3);
        let length = batches[0].bytes().len();
        let write = author.write(batches);
        author.commit(&first, vec![write]);
        let without_key = Blocks::new(first.clone(), KeyRing::default());
        let refused = without_key.op(&author.space, &dot(&author, 2));
        assert!(matches!(refused, Err(ReadError::NoKey { seq, .. }) if seq == Seq::new(2)));
        drop((first, without_key));

        let db = redb::Builder::new().create_with_backend(disk.clone()).unwrap();
        let txn = db.begin_write().unwrap();
        {
            let mut table = txn.open_table(BATCHES).unwrap();
            let mut value = table.get((0, 0, 1)).unwrap().unwrap().value().to_vec();
            value[length - 70] ^= 1;
            table.insert((0, 0, 1), &value[..]).unwrap();
        }
        txn.commit().unwrap();
        drop(db);
        let (spoiled, _) = reopen(&disk);
        let blocks = blocks(&spoiled, &author, BLOCK_CACHE_BYTES);
        let refused = blocks.op(&author.space, &dot(&author, 2)).unwrap_err();
        assert!(matches!(&refused, ReadError::Damaged { source: OpenError::Tag, .. }), "{refused:?}");
        assert!(refused.to_string().contains("another device still has it"));
        assert!(blocks.op(&author.space, &dot(&author, 5)).unwrap().is_some());
        let run = spoiled.run(&author.space, &author.log, Seq::ZERO, Seq::new(6), usize::MAX);
        assert!(matches!(run, Err(StoreError::Damaged { .. })), "a spoiled batch is not sent");
    }

    #[test]
    fn a_body_of_another_version_is_named_as_such() {
        let mut author = Author::new(1);
        let (store, _) = store(&mut author);
        let batch = author.seal(b"\x09 another version", 1);
        let write = author.write(vec![batch]);
        author.commit(&store, vec![write]);

        let refused = blocks(&store, &author, 0).op(&author.space, &dot(&author, 1));

        assert!(matches!(refused, Err(ReadError::Body { source: BodyError::Version { found: 9 }, .. })));
    }

    #[test]
    fn a_store_that_fails_fails_the_read() {
        let mut author = Author::new(1);
        let (store, disk) = store(&mut author);
        let batches = author.batches(400, 2);
        let write = author.write(batches);
        author.commit(&store, vec![write]);
        disk.cut_power_at_sync(disk.sync_count());
        let batch = author.batch(1, 40);
        let write = author.write(vec![batch]);
        let txn = author.txn(vec![write]);
        assert!(store.commit(&[txn]).is_err());

        let refused = blocks(&store, &author, 0).op(&author.space, &dot(&author, 1));

        assert!(matches!(refused, Err(ReadError::Store(StoreError::Io(_)))));
    }
}
