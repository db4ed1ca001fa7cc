//! The checkpoint that the history of a space begins with, and the batches that go for it.
//!
//! One row says it: from the commit of [`Write::Base`](crate::sync::Write::Base) on no batch within the cut is
//! visible, and the next batch of each log chains onto the cut. What lies below goes from the file afterwards,
//! some at a time ([`Store::sweep`]), so that dropping a million ops holds no commit up; whatever a crash
//! leaves of it is swept after the next start.

use std::sync::Arc;

use redb::{ReadableDatabase, ReadableTable};

use super::commit::Writer;
use super::error::{Part, StoreError};
use super::index::HeldBase;
use super::pack;
use super::tables::{BASES, BATCHES, CHECKPOINTS, LogIx, PlaceIx, SpaceIx, SpaceRow, TIPS, tip_bytes};
use super::{Store, read_lock};
use crate::crypto::BatchHeader;
use crate::model::{Frontier, LogId, Seq, SpaceId, Tip};
use crate::sync::{Base, BaseKind};
use crate::wire::checkpoint::{CheckpointError, CheckpointHash, Manifest};

impl Store {
    /// Where the history of a space begins, if not with the first op of every log.
    pub fn base(&self, space: &SpaceId) -> Option<Base> {
        let index = read_lock(&self.0.index);
        index.base(index.space_ix(space)?).map(|held| held.base.clone())
    }

    /// Drops some of the batches that the base of a space has taken the place of, in a transaction of its own.
    /// Whether more of them are left: then it is to be called again.
    ///
    /// # Errors
    /// [`StoreError::UnknownSpace`], [`StoreError::Damaged`], and those of the disk.
    pub fn sweep(&self, space: &SpaceId) -> Result<bool, StoreError> {
        let space_ix = self.space_number(space)?;
        let floors: Vec<(LogIx, Tip)> = read_lock(&self.0.index).floors(space_ix).collect();
        let below = self.reading(|db| {
            let table = db.begin_read()?.open_table(BATCHES)?;
            values_below(&table, &floors)
        })?;
        if below.is_empty() {
            return Ok(false);
        }
        self.change(|txn| {
            let mut table = txn.open_table(BATCHES)?;
            for (place, floor) in values_below(&table, &floors)? {
                let is_whole = table.range(after(place)..=at(place, floor))?.next().transpose()?.is_some();
                let rest = match is_whole {
                    true => None,
                    false => {
                        table.get(place)?.map(|value| beyond(value.value(), place, floor)).transpose()?
                    }
                };
                table.remove(place)?;
                if let Some((first, bytes)) = rest.flatten() {
                    table.insert((place.0, place.1, first.get()), &bytes[..])?;
                }
            }
            Ok(())
        })?;
        Ok(true)
    }
}

/// Values that begin at or below the floors of their logs, as many as one transaction drops.
fn values_below(
    table: &impl ReadableTable<PlaceIx, &'static [u8]>,
    floors: &[(LogIx, Tip)],
) -> Result<Vec<(PlaceIx, Seq)>, StoreError> {
    let mut below = Vec::new();
    for ((space_ix, log_ix), floor) in floors {
        for row in table.range((*space_ix, *log_ix, 0)..=(*space_ix, *log_ix, floor.seq.get()))? {
            if below.len() == SWEPT_VALUES {
                return Ok(below);
            }
            below.push((row?.0.value(), floor.seq));
        }
    }
    Ok(below)
}

const fn after((space_ix, log_ix, first): PlaceIx) -> PlaceIx {
    (space_ix, log_ix, first.saturating_add(1))
}

const fn at((space_ix, log_ix, _): PlaceIx, seq: Seq) -> PlaceIx {
    (space_ix, log_ix, seq.get())
}

/// The batches of a value that lie beyond a place, with the first position of them.
fn beyond(value: &[u8], place: PlaceIx, floor: Seq) -> Result<Option<(Seq, Vec<u8>)>, StoreError> {
    let damaged = || StoreError::damaged(Part::Row { table: "batches" });
    let mut rest = value;
    while !rest.is_empty() {
        let header = BatchHeader::parse(rest).map_err(|_| damaged())?;
        if header.first > floor {
            return Ok(Some((header.first, rest.to_vec())));
        }
        let is_cut = header.last() > floor || header.first.get() < place.2;
        rest = rest.get(header.sealed_bytes()..).filter(|_| !is_cut).ok_or_else(damaged)?;
    }
    Ok(None)
}

impl Writer<'_> {
    /// Lets the history of a space begin with a checkpoint.
    pub(super) fn base(
        &mut self,
        space: &SpaceId,
        checkpoint: CheckpointHash,
        cut: &Frontier,
        kind: BaseKind,
    ) -> Result<(), StoreError> {
        let Some((space_ix, row)) = self.changes.space(space) else {
            return Err(StoreError::UnknownSpace { space: *space });
        };
        let (space_ix, mut row) = (*space_ix, row.clone());
        let manifest = self.whole(space_ix, checkpoint, cut)?;
        let held = self.changes.base(space_ix).cloned();
        let before = match held {
            Some(held) if held.base.checkpoint == checkpoint => held.before,
            Some(held) => {
                let is_within = |(log, floor): (&LogId, &Tip)| {
                    let tip = cut.tip(log);
                    tip.seq > floor.seq || tip == *floor
                };
                if !held.base.floor.iter().all(is_within) {
                    return Err(StoreError::BaseBehind { checkpoint });
                }
                Some(held.base.checkpoint)
            }
            None => None,
        };
        for (log, floor) in cut.iter() {
            self.lay_floor(&row, log, *floor, kind)?;
        }
        let before_bytes = before.map_or([0; 32], |before| *before.as_bytes());
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(checkpoint.as_bytes());
        bytes[32..].copy_from_slice(&before_bytes);
        self.txn.open_table(BASES)?.insert(space_ix, bytes)?;
        let base = Base { checkpoint, floor: cut.clone() };
        self.changes.changed().set_base(space_ix, HeldBase { base, manifest, before });
        match kind {
            BaseKind::Trim => Ok(()),
            BaseKind::Rebase => {
                row.truncations += 1;
                self.space(row)
            }
        }
    }

    /// The manifest of a checkpoint of that cut that is whole.
    fn whole(
        &self,
        space_ix: SpaceIx,
        checkpoint: CheckpointHash,
        cut: &Frontier,
    ) -> Result<Arc<Manifest>, StoreError> {
        let table = self.txn.open_table(CHECKPOINTS)?;
        let row = table.get((space_ix, *checkpoint.as_bytes()))?;
        let manifest = match row.as_ref().and_then(|row| row.value().split_first()) {
            Some((&WHOLE, bytes)) => Manifest::parse(bytes::Bytes::copy_from_slice(bytes)).ok(),
            Some(_) | None => None,
        };
        let is_it = |manifest: &Manifest| manifest.hash() == checkpoint && manifest.fields().cut == *cut;
        manifest.filter(is_it).map(Arc::new).ok_or(StoreError::NoBase { checkpoint })
    }

    /// Sets the floor of one log, and its end where that lies before the floor.
    fn lay_floor(
        &mut self,
        row: &SpaceRow,
        log: &LogId,
        floor: Tip,
        kind: BaseKind,
    ) -> Result<(), StoreError> {
        let log_ix = self.log_ix(&row.space, log)?;
        let (tip, end) = (self.changes.tip(log_ix), self.changes.end(log_ix));
        let no_such_end = || StoreError::NoSuchEnd { log: *log, to: floor.seq };
        if tip.seq < floor.seq {
            if kind == BaseKind::Trim {
                return Err(no_such_end());
            }
            // The one check between a mistake above and lost drafts.
            if row.own_log == *log && end > tip.seq {
                return Err(StoreError::DraftsUnsealed { device: log.device, through: end, tip: tip.seq });
            }
            self.txn.open_table(TIPS)?.insert(log_ix, tip_bytes(floor))?;
            self.changes.changed().set_tip(log_ix, floor);
        } else if tip.seq == floor.seq {
            if tip != floor {
                return Err(no_such_end());
            }
        } else if floor != self.changes.floor(log_ix) {
            self.check_end(log_ix, log, floor)?;
        }
        self.changes.changed().set_floor(log_ix, floor);
        Ok(())
    }

    /// Checks that a batch of the log ends just there.
    fn check_end(&self, (space_ix, log_ix): LogIx, log: &LogId, end: Tip) -> Result<(), StoreError> {
        let table = self.txn.open_table(BATCHES)?;
        let held = table.range((space_ix, log_ix, 0)..=(space_ix, log_ix, end.seq.get()))?.next_back();
        let found = match held.transpose()? {
            Some((_, value)) => pack::bytes_through(value.value(), log, end)?,
            None => None,
        };
        found.map(drop).ok_or(StoreError::NoSuchEnd { log: *log, to: end.seq })
    }
}

/// Reads the row of a base, with the cut that its manifest says.
pub(super) fn base_of_row(
    checkpoints: &impl ReadableTable<(SpaceIx, [u8; 32]), &'static [u8]>,
    space_ix: SpaceIx,
    row: &[u8; 64],
) -> Result<HeldBase, StoreError> {
    let damaged = || StoreError::damaged(Part::Row { table: "bases" });
    let (checkpoint, before) = row.split_first_chunk::<32>().expect("32 < 64");
    let before: [u8; 32] = before.try_into().expect("64 - 32 is 32");
    let held = checkpoints.get((space_ix, *checkpoint))?.ok_or_else(damaged)?;
    let (_, bytes) = held.value().split_first().ok_or_else(damaged)?;
    // Also a manifest of an earlier form: what it took the place of is gone, so the error has to say it.
    let broken = |error: CheckpointError| StoreError::Damaged {
        what: Part::Row { table: "bases" },
        source: Some(Box::new(error)),
    };
    let manifest = Manifest::parse(bytes::Bytes::copy_from_slice(bytes)).map_err(broken)?;
    let checkpoint = CheckpointHash::from_bytes(*checkpoint);
    if manifest.hash() != checkpoint {
        return Err(damaged());
    }
    let base = Base { checkpoint, floor: manifest.fields().cut.clone() };
    let before = (before != [0; 32]).then(|| CheckpointHash::from_bytes(before));
    Ok(HeldBase { base, manifest: Arc::new(manifest), before })
}

/// Values dropped in one transaction: at most 16 MiB, and mostly far less.
const SWEPT_VALUES: usize = 256;

/// The flag of a checkpoint of which every chunk is here.
const WHOLE: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Identity;
    use crate::fold::FOLD_VERSION;
    use crate::model::{DeviceId, Root};
    use crate::store::fault::{FaultDisk, Loss};
    use crate::store::testing::{Author, reopen, store};
    use crate::store::{HeldCheckpoint, Wholeness};
    use crate::sync::Write;
    use crate::wire::checkpoint::ManifestFields;

    /// A checkpoint of some places, in its store.
    fn checkpoint(store: &Store, author: &Author, cut: &[(LogId, Tip)], wholeness: Wholeness) -> Manifest {
        let chunk = bytes::Bytes::from(vec![cut.len() as u8; 100]);
        let fields = ManifestFields {
            space: author.space,
            fold_version: FOLD_VERSION,
            parent: None,
            root: Root::from_bytes([1; 32]),
            content: [2; 32],
            key_id: author.key.id(),
            author: DeviceId::from_bytes([0; 32]),
            cut: cut.iter().copied().collect(),
            state_chunks: 1,
            chunks: vec![*blake3::hash(&chunk).as_bytes()],
        };
        let manifest = Manifest::sign(&Identity::from_secret(&[3; 32]), fields);
        store.put_chunks(&author.space, &[chunk]).unwrap();
        store.put_checkpoint(&HeldCheckpoint { manifest: manifest.clone(), wholeness }).unwrap();
        manifest
    }

    fn write(author: &Author, manifest: &Manifest, kind: BaseKind) -> Write {
        let cut = manifest.fields().cut.clone();
        Write::Base { space: author.space, checkpoint: manifest.hash(), cut, kind }
    }

    /// How many batches lie in the file of the author's log, visible or not.
    fn batches_in_file(store: &Store) -> usize {
        let count = |value: &[u8]| {
            let (mut rest, mut count) = (value, 0);
            while !rest.is_empty() {
                rest = &rest[BatchHeader::parse(rest).unwrap().sealed_bytes()..];
                count += 1;
            }
            count
        };
        store
            .reading(|db| {
                let table = db.begin_read()?.open_table(BATCHES)?;
                Ok(table.iter()?.map(|row| count(row.unwrap().1.value())).sum())
            })
            .unwrap()
    }

    fn ends(author: &Author, batches: &[crate::crypto::SealedBatch]) -> Vec<(LogId, Tip)> {
        let last = batches.last().unwrap();
        vec![(author.log, Tip { seq: last.header().last(), hash: last.link() })]
    }

    fn sweep_all(store: &Store, space: &SpaceId) {
        while store.sweep(space).unwrap() {}
    }

    #[test]
    fn what_a_base_covers_is_gone_and_the_rest_chains_on_after_opening_again() {
        for op_bytes in [40, 3_000, 20_000] {
            let mut author = Author::new(1);
            let (store, disk) = store(&mut author);
            let batches: Vec<_> = (0..20).map(|_| author.batch(2, op_bytes)).collect();
            let all = author.write(batches.clone());
            author.commit(&store, vec![all]);
            let manifest = checkpoint(&store, &author, &ends(&author, &batches[..7]), Wholeness::Whole);
            let base = write(&author, &manifest, BaseKind::Trim);
            let next = author.batches(1, 2);
            let later = author.write(next.clone());
            author.commit(&store, vec![base, later]);

            let check = |store: &Store| {
                let (space, log) = (author.space, author.log);
                let run = |after| store.run(&space, &log, Seq::new(after), Seq::new(99), usize::MAX).unwrap();
                let kept = [&batches[7..], &next[..]].concat();
                let bytes: Vec<u8> = kept.iter().flat_map(|batch| batch.bytes().to_vec()).collect();
                assert_eq!(run(14).unwrap().bytes, bytes);
                assert_eq!((run(0), run(12), run(42)), (None, None, None));
                for seq in 1..=14 {
                    assert!(store.batch_at(&space, &log, Seq::new(seq)).unwrap().is_none(), "{seq}");
                }
                for seq in 15..=42 {
                    assert!(store.batch_at(&space, &log, Seq::new(seq)).unwrap().is_some(), "{seq}");
                }
                assert_eq!(store.base(&space).unwrap().checkpoint, manifest.hash());
            };
            check(&store);
            assert!(batches_in_file(&store) >= 21);
            sweep_all(&store, &author.space);
            check(&store);
            assert_eq!(batches_in_file(&store), 14);
            drop(store);
            let (store, loaded) = reopen(&disk);
            check(&store);
            let floor = manifest.fields().cut.clone();
            assert_eq!(loaded.spaces[0].base, Some(Base { checkpoint: manifest.hash(), floor }));
            assert_eq!(loaded.spaces[0].frontier.tip(&author.log), author.tip());
        }
    }

    #[test]
    fn a_rebase_ends_logs_at_the_cut_and_what_comes_next_chains_onto_it() {
        let mut author = Author::new(1);
        let (store, disk) = store(&mut author);
        let mut other = Author::new(2);
        let batches = other.batches(9, 2);
        let held = other.write(batches[..3].to_vec());
        author.commit(&store, vec![held]);
        let cut = ends(&other, &batches[..6]);
        let manifest = checkpoint(&store, &author, &cut, Wholeness::Whole);
        let truncations = store.truncations(&author.space);
        let trim = author.txn(vec![write(&author, &manifest, BaseKind::Trim)]);
        let not_held = store.commit(&[trim]);
        let rebase = write(&author, &manifest, BaseKind::Rebase);
        author.commit(&store, vec![rebase]);
        let gap = author.txn(vec![other.write(batches[7..].to_vec())]);
        let gap = store.commit(&[gap]);
        let next = other.write(batches[6..].to_vec());
        author.commit(&store, vec![next]);
        sweep_all(&store, &author.space);

        assert!(matches!(not_held, Err(StoreError::NoSuchEnd { log, .. }) if log == other.log));
        assert!(matches!(gap, Err(StoreError::NotContiguous { .. })));
        assert!(store.truncations(&author.space) > truncations, "what was folded before lacks the base");
        drop(store);
        let (store, loaded) = reopen(&disk);
        assert_eq!(loaded.spaces[0].frontier.tip(&other.log), other.tip());
        assert_eq!(batches_in_file(&store), 3);
        let run = store.run(&other.space, &other.log, Seq::new(12), Seq::new(99), usize::MAX).unwrap();
        assert_eq!(run.map(|run| run.last), Some(Seq::new(18)));
    }

    #[test]
    fn what_does_not_fit_what_is_held_is_no_base() {
        let mut author = Author::new(1);
        let (store, _) = store(&mut author);
        let batches = author.batches(4, 2);
        let all = author.write(batches.clone());
        author.commit(&store, vec![all]);
        let refused = |author: &mut Author, writes: Vec<Write>| {
            let txn = author.txn(writes);
            store.commit(&[txn]).expect_err("it does not fit")
        };
        let whole = |cut: &[(LogId, Tip)]| checkpoint(&store, &Author::new(1), cut, Wholeness::Whole);
        let early = whole(&ends(&author, &batches[..1]));
        let good = whole(&ends(&author, &batches[..2]));
        let partial = checkpoint(&store, &author, &ends(&author, &batches[..3]), Wholeness::Partial);
        let crooked = whole(&[(author.log, Tip { seq: Seq::new(3), ..author.tip() })]);
        let other_end =
            whole(&[(author.log, Tip { seq: author.tip().seq, ..good.fields().cut.tip(&author.log) })]);
        let trim = |manifest: &Manifest| write(&Author::new(1), manifest, BaseKind::Trim);
        let mut other_cut = trim(&good);
        if let Write::Base { cut, .. } = &mut other_cut {
            *cut = early.fields().cut.clone();
        }

        for (write, is_expected) in [
            (trim(&partial), (|error| matches!(error, StoreError::NoBase { .. })) as fn(StoreError) -> bool),
            (other_cut, |error| matches!(error, StoreError::NoBase { .. })),
            (trim(&crooked), |error| matches!(error, StoreError::NoSuchEnd { .. })),
            (trim(&other_end), |error| matches!(error, StoreError::NoSuchEnd { .. })),
        ] {
            assert!(is_expected(refused(&mut author, vec![write.clone()])), "{write:?}");
        }
        author.commit(&store, vec![trim(&good)]);
        author.commit(&store, vec![trim(&good)]);
        assert!(matches!(refused(&mut author, vec![trim(&early)]), StoreError::BaseBehind { .. }));
        for to in [Tip::NONE, early.fields().cut.tip(&author.log)] {
            let truncate = Write::Truncate { space: author.space, log: author.log, to };
            assert!(matches!(refused(&mut author, vec![truncate]), StoreError::BelowBase { .. }));
        }
        let mut missed = Author::new(3);
        missed.batches(2, 2);
        let ahead = whole(&[(author.log, author.tip()), (missed.log, missed.tip())]);
        let own = write(&author, &ahead, BaseKind::Trim);
        assert!(matches!(refused(&mut author, vec![own]), StoreError::NoSuchEnd { .. }));
        let space = SpaceId::from_bytes([9; 32]);
        let elsewhere =
            Write::Base { space, checkpoint: good.hash(), cut: Frontier::new(), kind: BaseKind::Trim };
        assert!(matches!(refused(&mut author, vec![elsewhere]), StoreError::UnknownSpace { .. }));
        assert!(matches!(store.sweep(&space), Err(StoreError::UnknownSpace { .. })));
    }

    #[test]
    fn drafts_of_the_own_log_are_not_passed_by_a_base() {
        let mut author = Author::new(1);
        let (store, _) = store(&mut author);
        let mut ahead = Author::new(1);
        let batches = ahead.batches(4, 2);
        let held = author.write(batches[..1].to_vec());
        let drafts = author.drafts(3, 2);
        author.commit(&store, vec![held, drafts]);
        let manifest = checkpoint(&store, &author, &ends(&ahead, &batches), Wholeness::Whole);

        let base = author.txn(vec![write(&author, &manifest, BaseKind::Rebase)]);
        let refused = store.commit(&[base]);

        assert!(matches!(refused, Err(StoreError::DraftsUnsealed { .. })));
    }

    #[test]
    fn a_log_is_truncated_to_its_floor_before_and_after_what_lies_below_has_gone() {
        for is_swept in [false, true] {
            let mut author = Author::new(1);
            let (store, disk) = store(&mut author);
            let batches = author.batches(6, 2);
            let all = author.write(batches.clone());
            author.commit(&store, vec![all]);
            let cut = ends(&author, &batches[..3]);
            let manifest = checkpoint(&store, &author, &cut, Wholeness::Whole);
            let base = write(&author, &manifest, BaseKind::Trim);
            author.commit(&store, vec![base]);
            if is_swept {
                sweep_all(&store, &author.space);
            }

            let to = cut[0].1;
            author.commit(&store, vec![Write::Truncate { space: author.space, log: author.log, to }]);
            let again = author.write(batches[3..].to_vec());
            author.commit(&store, vec![again]);
            sweep_all(&store, &author.space);
            drop(store);

            let (store, _) = reopen(&disk);
            let run = store.run(&author.space, &author.log, to.seq, Seq::new(99), usize::MAX).unwrap();
            assert_eq!(run.map(|run| run.last), Some(author.tip().seq), "swept before: {is_swept}");
            assert_eq!(batches_in_file(&store), 3);
        }
    }

    #[test]
    fn the_base_and_the_one_before_are_kept_whatever_is_to_be_kept() {
        let mut author = Author::new(1);
        let (store, disk) = store(&mut author);
        let batches = author.batches(3, 2);
        let all = author.write(batches.clone());
        author.commit(&store, vec![all]);
        let made: Vec<Manifest> = (1..=3)
            .map(|count| checkpoint(&store, &author, &ends(&author, &batches[..count]), Wholeness::Whole))
            .collect();
        for manifest in &made {
            let base = write(&author, manifest, BaseKind::Trim);
            author.commit(&store, vec![base]);
        }
        drop(store);
        let (store, _) = reopen(&disk);

        store.keep_checkpoints(&author.space, &[]).unwrap();

        let mut kept: Vec<CheckpointHash> =
            store.checkpoints(&author.space).unwrap().iter().map(|held| held.manifest.hash()).collect();
        let mut expected = vec![made[1].hash(), made[2].hash()];
        kept.sort();
        expected.sort();
        assert_eq!(kept, expected);
        assert!(store.missing_chunks(&author.space, &made[2].fields().chunks).unwrap().is_empty());
    }

    #[test]
    fn rows_of_bases_that_do_not_read_are_damage() {
        let spoils: [fn(&redb::WriteTransaction, CheckpointHash); 3] = [
            |txn, _| drop(txn.open_table(BASES).unwrap().insert(0, [9; 64]).unwrap()),
            |txn, hash| {
                let key = (0, *hash.as_bytes());
                drop(txn.open_table(CHECKPOINTS).unwrap().insert(key, &b"\x01no manifest"[..]).unwrap());
            },
            |txn, hash| drop(txn.open_table(CHECKPOINTS).unwrap().remove((0, *hash.as_bytes())).unwrap()),
        ];
        for spoil in spoils {
            let mut author = Author::new(1);
            let (store, disk) = store(&mut author);
            let batches = author.batches(2, 2);
            let all = author.write(batches.clone());
            author.commit(&store, vec![all]);
            let manifest = checkpoint(&store, &author, &ends(&author, &batches[..1]), Wholeness::Whole);
            let base = write(&author, &manifest, BaseKind::Trim);
            author.commit(&store, vec![base]);
            store
                .change(|txn| {
                    spoil(txn, manifest.hash());
                    Ok(())
                })
                .unwrap();
            drop(store);

            let opened = Store::open_with(disk, None, &crate::store::testing::LOCAL_KEY).map(drop);

            assert!(
                matches!(opened, Err(StoreError::Damaged { what: Part::Row { table: "bases" }, .. })),
                "{opened:?}"
            );
        }
    }

    #[test]
    fn compacting_gives_space_back_and_a_crash_in_it_loses_nothing() {
        for steps in 0..400 {
            let mut author = Author::new(1);
            let (store, disk) = store(&mut author);
            let batches: Vec<_> = (0..60).map(|_| author.batch(2, 20_000)).collect();
            let all = author.write(batches.clone());
            author.commit(&store, vec![all]);
            let manifest = checkpoint(&store, &author, &ends(&author, &batches[..50]), Wholeness::Whole);
            let base = write(&author, &manifest, BaseKind::Trim);
            author.commit(&store, vec![base]);
            sweep_all(&store, &author.space);
            let before = disk.bytes().len();

            disk.cut_power_at_sync(disk.sync_count() + steps);
            let done = store.compact();
            drop(store);

            for (loss, seed) in [(Loss::All, 0), (Loss::Subset, 1), (Loss::Torn, 2)] {
                let (store, loaded) = reopen(&disk.after_power_cut(loss, seed));
                let run = store.run(&author.space, &author.log, Seq::new(100), Seq::new(999), usize::MAX);
                let case = format!("cut after {steps} syncs, {loss:?} {seed}");
                assert_eq!(run.unwrap().map(|run| run.last), Some(author.tip().seq), "{case}");
                assert!(loaded.spaces[0].base.is_some(), "{case}");
            }
            if done.is_ok() {
                let after = disk.bytes().len();
                assert!(after * 2 < before, "{before} bytes became {after}");
                assert!(steps > 2, "it was cut off at every step before");
                return;
            }
        }
        panic!("four hundred syncs are more than compacting takes");
    }

    /// The power goes at every sync of the disk: either nothing is dropped, or the base stands and all that
    /// comes after it, and what is left below goes after the next start.
    #[test]
    fn a_crash_at_any_step_leaves_the_whole_log_or_a_base_with_all_that_follows() {
        let mut outcomes = [0, 0];
        for steps in 0..60 {
            let mut author = Author::new(1);
            let (store, disk) = store(&mut author);
            let batches: Vec<_> = (0..12).map(|_| author.batch(2, 3_000)).collect();
            for batch in &batches {
                let one = author.write(vec![batch.clone()]);
                author.commit(&store, vec![one]);
            }
            let manifest = checkpoint(&store, &author, &ends(&author, &batches[..8]), Wholeness::Whole);
            let base = author.txn(vec![write(&author, &manifest, BaseKind::Trim)]);
            disk.cut_power_at_sync(disk.sync_count() + steps);
            let done = store.commit(&[base]).and_then(|()| {
                while store.sweep(&author.space)? {}
                Ok(())
            });
            drop(store);

            for (loss, seed) in [(Loss::All, 0), (Loss::Subset, 1), (Loss::Subset, 2), (Loss::Torn, 3)] {
                let after: FaultDisk = disk.after_power_cut(loss, seed);
                let (store, loaded) = reopen(&after);
                let case = format!("cut after {steps} syncs, {loss:?} {seed}");
                let is_based = loaded.spaces[0].base.is_some();
                outcomes[usize::from(is_based)] += 1;
                let from = if is_based { 16 } else { 0 };
                let run = store.run(&author.space, &author.log, Seq::new(from), Seq::new(99), usize::MAX);
                assert_eq!(run.unwrap().map(|run| run.last), Some(author.tip().seq), "{case}");
                assert_eq!(loaded.spaces[0].frontier.tip(&author.log), author.tip(), "{case}");
                sweep_all(&store, &author.space);
                assert_eq!(batches_in_file(&store), if is_based { 4 } else { 12 }, "{case}");
                let whole = store.checkpoints(&author.space).unwrap();
                assert!(whole.iter().any(|held| held.manifest == manifest), "{case}");
            }
            if done.is_ok() {
                assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
                return;
            }
        }
        panic!("sixty syncs are more than a base and its sweep take");
    }
}
