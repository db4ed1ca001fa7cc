//! What is read out of the checkpoint that a history begins with: the state at its cut, and single ops.
//!
//! Op records lie in rising order of the places where they stood, so an op is found by halving: the first
//! place of a chunk is remembered once it was seen, and opened chunks stay in a bounded cache.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::blocks::{KeyRing, OpAt, ReadError};
use super::{Store, lock_mutex, read_lock};
use crate::crypto::chunk;
use crate::fold::checkpoint::{HeldOp, ops_of};
use crate::model::{Dot, SpaceId};
use crate::wire::checkpoint::{CheckpointHash, Manifest};

impl Store {
    /// The manifest of the checkpoint that the history of a space begins with.
    pub fn base_manifest(&self, space: &SpaceId) -> Option<Arc<Manifest>> {
        let index = read_lock(&self.0.index);
        index.base(index.space_ix(space)?).map(|held| Arc::clone(&held.manifest))
    }

    /// A chunk of a checkpoint, opened.
    ///
    /// # Errors
    /// [`ReadError::PieceKey`], [`ReadError::Piece`], and those of the store.
    pub fn piece(&self, keys: &KeyRing, manifest: &Manifest, index: usize) -> Result<Vec<u8>, ReadError> {
        let (of, checkpoint) = (manifest.fields(), manifest.hash());
        let gone = || ReadError::Piece { checkpoint };
        let key = keys.key(&of.key_id).ok_or(ReadError::PieceKey { checkpoint, key_id: of.key_id })?;
        let hash = of.chunks.get(index).ok_or_else(gone)?;
        let sealed = match self.chunk(&of.space, hash) {
            Ok(sealed) => sealed.ok_or_else(gone)?,
            Err(super::StoreError::Damaged { what: super::Part::Row { .. }, .. }) => return Err(gone()),
            Err(error) => return Err(error.into()),
        };
        chunk::open(&key, &of.space, &sealed).map_err(|_| gone())
    }
}

/// Opened chunks with op records.
pub(super) struct Pieces {
    bytes_max: usize,
    cache: Mutex<Cache>,
}

impl Pieces {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, cache: Mutex::default() }
    }

    /// The op that stood at a place within the cut; `None` where nothing pointed at it any more.
    pub(super) fn op(
        &self,
        store: &Store,
        keys: &KeyRing,
        space: &SpaceId,
        dot: &Dot,
    ) -> Result<Option<OpAt>, ReadError> {
        let Some(manifest) = store.base_manifest(space) else { return Ok(None) };
        let of = manifest.fields();
        let begin = usize::try_from(of.state_chunks).unwrap_or(usize::MAX).min(of.chunks.len());
        let (mut low, mut high) = (begin, of.chunks.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.first(store, keys, &manifest, middle)? <= *dot {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        if low == begin {
            return Ok(None);
        }
        Ok(self.piece(store, keys, &manifest, low - 1)?.op(dot))
    }

    fn first(&self, store: &Store, keys: &KeyRing, of: &Manifest, index: usize) -> Result<Dot, ReadError> {
        let known = lock_mutex(&self.cache).firsts_of(of).get(&index).copied();
        match known {
            Some(first) => Ok(first),
            None => Ok(self.piece(store, keys, of, index)?.first),
        }
    }

    fn piece(
        &self,
        store: &Store,
        keys: &KeyRing,
        of: &Manifest,
        index: usize,
    ) -> Result<Arc<Piece>, ReadError> {
        let hash = of.fields().chunks[index];
        if let Some(piece) = lock_mutex(&self.cache).pieces.get(&hash) {
            return Ok(Arc::clone(piece));
        }
        let read = Piece::read(&store.piece(keys, of, index)?);
        let piece = Arc::new(read.ok_or(ReadError::Piece { checkpoint: of.hash() })?);
        let mut cache = lock_mutex(&self.cache);
        cache.firsts_of(of).insert(index, piece.first);
        cache.insert(hash, &piece, self.bytes_max);
        Ok(piece)
    }
}

/// Ops by their places, in order.
struct Piece {
    first: Dot,
    bodies: Bytes,
    ops: Vec<HeldOp>,
}

impl Piece {
    fn read(plain: &[u8]) -> Option<Self> {
        let piece = ops_of(plain)?;
        let first = piece.ops.first()?.place;
        Some(Self { first, bodies: piece.bodies.into(), ops: piece.ops })
    }

    fn op(&self, dot: &Dot) -> Option<OpAt> {
        let index = self.ops.binary_search_by_key(dot, |op| op.place).ok()?;
        let HeldOp { name, hlc, kind, flags, ref body, .. } = self.ops[index];
        Some(OpAt { dot: name, hlc, kind, flags, body: self.bodies.slice(body.clone()) })
    }

    fn cost(&self) -> usize {
        size_of::<Self>() + self.bodies.len() + self.ops.len() * size_of::<HeldOp>()
    }
}

/// Opened chunks by their hashes; the one that was opened first goes first.
#[derive(Default)]
struct Cache {
    pieces: BTreeMap<[u8; 32], Arc<Piece>>,
    order: VecDeque<[u8; 32]>,
    bytes: usize,
    /// Where the chunks of each space's base begin, as far as is known.
    firsts: BTreeMap<SpaceId, (CheckpointHash, BTreeMap<usize, Dot>)>,
}

impl Cache {
    fn firsts_of(&mut self, of: &Manifest) -> &mut BTreeMap<usize, Dot> {
        let fresh = || (of.hash(), BTreeMap::new());
        let (checkpoint, firsts) = self.firsts.entry(of.fields().space).or_insert_with(fresh);
        if *checkpoint != of.hash() {
            (*checkpoint, *firsts) = fresh();
        }
        firsts
    }

    fn insert(&mut self, hash: [u8; 32], piece: &Arc<Piece>, bytes_max: usize) {
        if self.pieces.insert(hash, Arc::clone(piece)).is_some() {
            return;
        }
        self.bytes += piece.cost();
        self.order.push_back(hash);
        // The newest stays even if it alone is beyond the limit: it is about to be read again.
        while self.bytes > bytes_max && self.order.len() > 1 {
            let oldest = self.order.pop_front().and_then(|oldest| self.pieces.remove(&oldest));
            self.bytes -= oldest.map_or(0, |piece| piece.cost());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Identity;
    use crate::fold::FOLD_VERSION;
    use crate::fold::checkpoint::{OpPieces, OpRecord};
    use crate::model::{DeviceId, Hlc, Root, Seq};
    use crate::store::testing::{Author, payload, store};
    use crate::store::{Blocks, HeldCheckpoint, Wholeness};
    use crate::sync::{BaseKind, Write};
    use crate::wire::checkpoint::ManifestFields;

    /// A store whose author's log is in a checkpoint but for its last batch; of the ops within, every third.
    fn based(op_bytes: usize) -> (Store, Author, Manifest) {
        let mut author = Author::new(1);
        let (store, _) = store(&mut author);
        let batches: Vec<_> = (0..30).map(|_| author.batch(10, op_bytes)).collect();
        let cut = crate::model::Tip { seq: batches[28].header().last(), hash: batches[28].link() };
        let all = author.write(batches);
        author.commit(&store, vec![all]);
        let mut plain: Vec<Vec<u8>> = vec![b"a piece of the state".to_vec()];
        let mut pieces = OpPieces::default();
        let mut sink = |piece: &[u8]| plain.push(piece.to_vec());
        for seq in (3..=cut.seq.get()).step_by(3) {
            let place = Dot { log: author.log, seq: Seq::new(seq) };
            let (hlc, body) = (Hlc::new(seq * 10), payload(seq, op_bytes));
            let name = Dot { seq: Seq::new(seq / 2), ..place };
            let (is_late, is_told) = (false, false);
            let op = OpRecord { place, name, hlc, kind: 1, flags: 0, is_late, is_told, body: &body };
            pieces.push(&op, &mut sink);
        }
        pieces.finish(&mut sink);
        let sealed: Vec<Bytes> =
            plain.iter().map(|piece| chunk::seal(&author.key, &author.space, piece).into()).collect();
        let fields = ManifestFields {
            space: author.space,
            fold_version: FOLD_VERSION,
            parent: None,
            root: Root::from_bytes([1; 32]),
            content: [2; 32],
            key_id: author.key.id(),
            author: DeviceId::from_bytes([0; 32]),
            cut: [(author.log, cut)].into_iter().collect(),
            state_chunks: 1,
            chunks: sealed.iter().map(|sealed| *blake3::hash(sealed).as_bytes()).collect(),
        };
        let manifest = Manifest::sign(&Identity::from_secret(&[3; 32]), fields);
        store.put_chunks(&author.space, &sealed).unwrap();
        let held = HeldCheckpoint { manifest: manifest.clone(), wholeness: Wholeness::Whole };
        store.put_checkpoint(&held).unwrap();
        let (checkpoint, cut, kind) = (manifest.hash(), manifest.fields().cut.clone(), BaseKind::Trim);
        author.commit(&store, vec![Write::Base { space: author.space, checkpoint, cut, kind }]);
        while store.sweep(&author.space).unwrap() {}
        (store, author, manifest)
    }

    fn keys(author: &Author) -> KeyRing {
        let keys = KeyRing::default();
        keys.insert(author.key.clone());
        keys
    }

    #[test]
    fn ops_below_the_base_are_read_from_its_chunks_and_those_above_from_the_log() {
        for (op_bytes, bytes_max) in [(40, usize::MAX), (4_000, usize::MAX), (4_000, 1), (4_000, 200_000)] {
            let (store, author, manifest) = based(op_bytes);
            assert!(op_bytes < 100 || manifest.fields().chunks.len() > 3);
            let blocks = Blocks::with_cache(store, keys(&author), bytes_max);
            for seq in (1..=300_u64).chain((1..=300).rev()) {
                let dot = Dot { log: author.log, seq: Seq::new(seq) };

                let op = blocks.op(&author.space, &dot).unwrap();

                match seq {
                    1..=290 if seq % 3 != 0 => assert_eq!(op, None, "{seq}"),
                    _ => {
                        let op = op.unwrap();
                        let name = if seq <= 290 { seq / 2 } else { seq };
                        assert_eq!((op.dot.seq.get(), op.hlc), (name, Hlc::new(seq * 10)));
                        assert_eq!(op.body, payload(seq, op_bytes));
                    }
                }
            }
        }
    }

    #[test]
    fn chunks_that_are_gone_or_spoiled_or_of_a_key_that_is_not_here_are_told_apart() {
        let (store, author, manifest) = based(40);
        let read = |keys: KeyRing| {
            let dot = Dot { log: author.log, seq: Seq::new(3) };
            Blocks::new(store.clone(), keys).op(&author.space, &dot)
        };
        let checkpoint_is = |found: CheckpointHash| found == manifest.hash();

        let no_key = read(KeyRing::default());
        assert!(matches!(no_key, Err(ReadError::PieceKey { checkpoint, .. }) if checkpoint_is(checkpoint)));
        let hash = manifest.fields().chunks[1];
        let spoil = |bytes: Option<&[u8]>| {
            store
                .change(|txn| {
                    let mut table = txn.open_table(super::super::tables::CHUNKS)?;
                    match bytes {
                        Some(bytes) => drop(table.insert((0, hash), bytes)?),
                        None => drop(table.remove((0, hash))?),
                    }
                    Ok(())
                })
                .unwrap();
        };
        for bytes in [Some(&b"else"[..]), None] {
            spoil(bytes);
            let gone = read(keys(&author));
            assert!(matches!(gone, Err(ReadError::Piece { checkpoint }) if checkpoint_is(checkpoint)));
        }
        assert!(matches!(store.piece(&keys(&author), &manifest, 99), Err(ReadError::Piece { .. })));
        assert!(Piece::read(&[1, 2, 3]).is_none() && Piece::read(&[]).is_none());
    }
}
