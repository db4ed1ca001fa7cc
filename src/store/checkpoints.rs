//! Checkpoints as they are kept: manifests, sealed chunks, and the words of devices that attest them.
//!
//! A chunk is durable before anything names it as held, and a manifest counts as whole only once all its
//! chunks are here. What is given back is checked against its hash, so a spoiled chunk reads as damage and
//! is fetched again.

use bytes::Bytes;
use redb::{ReadableDatabase, WriteTransaction};

use super::disk::guarded;
use super::error::{Part, StoreError};
use super::tables::{ATTESTATIONS, BATCHES, CHECKPOINTS, CHUNKS, CONSENTS, MOMENTS, SpaceIx};
use super::{Store, read_lock};
use crate::model::{Frontier, SpaceId, Wall};
use crate::wire::checkpoint::{Attestation, CheckpointError, CheckpointHash, Manifest};

/// How much of a checkpoint is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wholeness {
    /// Chunks may be missing.
    Partial,
    /// Every chunk is here.
    Whole,
}

/// When something of a checkpoint came to be, by the wall clock of this device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moments {
    /// All of its chunks were here.
    pub whole: Option<Wall>,
    /// Every device that is waited for had vouched for it.
    pub vouched: Option<Wall>,
}

impl Moments {
    fn to_bytes(self) -> [u8; 16] {
        let millis = |at: Option<Wall>| at.map_or(0, Wall::as_millis).to_be_bytes();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&millis(self.whole));
        bytes[8..].copy_from_slice(&millis(self.vouched));
        bytes
    }

    fn from_bytes(bytes: &[u8; 16]) -> Self {
        let wall = |bytes: &[u8]| match u64::from_be_bytes(bytes.try_into().expect("8 of 16")) {
            0 => None,
            millis => Some(Wall::from_millis(millis)),
        };
        Self { whole: wall(&bytes[..8]), vouched: wall(&bytes[8..]) }
    }
}

/// A checkpoint that is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldCheckpoint {
    /// What it is.
    pub manifest: Manifest,
    /// How much of it is here.
    pub wholeness: Wholeness,
}

impl Store {
    /// Writes sealed chunks, all or none; they are durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::UnknownSpace`], and those of the disk as in [`Store::commit`].
    pub fn put_chunks(&self, space: &SpaceId, chunks: &[Bytes]) -> Result<(), StoreError> {
        let ix = self.space_number(space)?;
        self.change(|txn| {
            let mut table = txn.open_table(CHUNKS)?;
            for chunk in chunks {
                table.insert((ix, *blake3::hash(chunk).as_bytes()), &chunk[..])?;
            }
            Ok(())
        })
    }

    /// A sealed chunk; `None` where it is not here.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where it is not what was written, [`StoreError::UnknownSpace`], and those of
    /// the disk.
    pub fn chunk(&self, space: &SpaceId, hash: &[u8; 32]) -> Result<Option<Bytes>, StoreError> {
        let ix = self.space_number(space)?;
        let db = self.engine()?;
        guarded(|| {
            let table = db.get().begin_read()?.open_table(CHUNKS)?;
            let Some(found) = table.get((ix, *hash))? else { return Ok(None) };
            let bytes = Bytes::copy_from_slice(found.value());
            if blake3::hash(&bytes).as_bytes() != hash {
                return Err(StoreError::damaged(Part::Row { table: "chunks" }));
            }
            Ok(Some(bytes))
        })
    }

    /// Those of these chunks that are not here, or are spoiled.
    ///
    /// # Errors
    /// [`StoreError::UnknownSpace`], and those of the disk.
    pub fn missing_chunks(&self, space: &SpaceId, wanted: &[[u8; 32]]) -> Result<Vec<[u8; 32]>, StoreError> {
        let mut missing = Vec::new();
        for hash in wanted {
            match self.chunk(space, hash) {
                Ok(Some(_)) => {}
                Ok(None) | Err(StoreError::Damaged { what: Part::Row { .. }, .. }) => missing.push(*hash),
                Err(error) => return Err(error),
            }
        }
        Ok(missing)
    }

    /// Writes a manifest, or how much of its checkpoint is here now.
    ///
    /// # Errors
    /// [`StoreError::UnknownSpace`], and those of the disk.
    pub fn put_checkpoint(&self, held: &HeldCheckpoint) -> Result<(), StoreError> {
        let ix = self.space_number(&held.manifest.fields().space)?;
        let flag = u8::from(held.wholeness == Wholeness::Whole);
        let row = [&[flag][..], held.manifest.bytes()].concat();
        self.change(|txn| {
            txn.open_table(CHECKPOINTS)?.insert((ix, *held.manifest.hash().as_bytes()), &row[..])?;
            Ok(())
        })
    }

    /// The checkpoints of a space that are kept, in order of their hashes. One in the form of another version
    /// is passed over; it goes when the next one is kept.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] for a row that is no manifest, [`StoreError::UnknownSpace`], and those of the
    /// disk.
    pub fn checkpoints(&self, space: &SpaceId) -> Result<Vec<HeldCheckpoint>, StoreError> {
        let ix = self.space_number(space)?;
        let db = self.engine()?;
        guarded(|| {
            let damaged = || StoreError::damaged(Part::Row { table: "checkpoints" });
            let table = db.get().begin_read()?.open_table(CHECKPOINTS)?;
            let mut held = Vec::new();
            for row in table.range((ix, [0; 32])..=(ix, [0xff; 32]))? {
                let (key, value) = row?;
                let (flag, bytes) = value.value().split_first().ok_or_else(damaged)?;
                let wholeness = match flag {
                    0 => Wholeness::Partial,
                    1 => Wholeness::Whole,
                    _ => return Err(damaged()),
                };
                let manifest = match Manifest::parse(Bytes::copy_from_slice(bytes)) {
                    Ok(manifest) => manifest,
                    Err(CheckpointError::Magic { found }) if found.starts_with(FORMS) => continue,
                    Err(_) => return Err(damaged()),
                };
                if *manifest.hash().as_bytes() != key.value().1 || manifest.fields().space != *space {
                    return Err(damaged());
                }
                held.push(HeldCheckpoint { manifest, wholeness });
            }
            Ok(held)
        })
    }

    /// Writes the word of a device.
    ///
    /// # Errors
    /// [`StoreError::UnknownSpace`], and those of the disk.
    pub fn put_attestation(&self, space: &SpaceId, word: &Attestation) -> Result<(), StoreError> {
        let ix = self.space_number(space)?;
        let key = (ix, *word.fields().device.as_bytes(), word.fields().content);
        self.change(|txn| {
            txn.open_table(ATTESTATIONS)?.insert(key, &word.bytes()[..])?;
            Ok(())
        })
    }

    /// Every attestation that is kept, in order of device and content.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::UnknownSpace`], and those of the disk.
    pub fn attestations(&self, space: &SpaceId) -> Result<Vec<Attestation>, StoreError> {
        let ix = self.space_number(space)?;
        let db = self.engine()?;
        guarded(|| {
            let table = db.get().begin_read()?.open_table(ATTESTATIONS)?;
            let mut words = Vec::new();
            for row in table.range((ix, [0; 32], [0; 32])..=(ix, [0xff; 32], [0xff; 32]))? {
                let word = Attestation::parse(row?.1.value());
                words.push(word.map_err(|_| StoreError::damaged(Part::Row { table: "attestations" }))?);
            }
            Ok(words)
        })
    }

    /// Keeps that a person takes one attestation of this content for enough.
    ///
    /// # Errors
    /// [`StoreError::UnknownSpace`], and those of the disk.
    pub fn put_consent(&self, space: &SpaceId, content: &[u8; 32]) -> Result<(), StoreError> {
        let ix = self.space_number(space)?;
        self.change(|txn| {
            txn.open_table(CONSENTS)?.insert(ix, content)?;
            Ok(())
        })
    }

    /// The content of which a person takes one attestation for enough.
    ///
    /// # Errors
    /// [`StoreError::UnknownSpace`], and those of the disk.
    pub fn consent(&self, space: &SpaceId) -> Result<Option<[u8; 32]>, StoreError> {
        let ix = self.space_number(space)?;
        let db = self.engine()?;
        guarded(|| {
            // Made with the first one.
            let table = match db.get().begin_read()?.open_table(CONSENTS) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            Ok(table.get(ix)?.map(|content| content.value()))
        })
    }

    /// Forgets it, once it was made use of.
    ///
    /// # Errors
    /// As [`Store::put_consent`].
    pub fn forget_consent(&self, space: &SpaceId) -> Result<(), StoreError> {
        let ix = self.space_number(space)?;
        self.change(|txn| {
            txn.open_table(CONSENTS)?.remove(ix)?;
            Ok(())
        })
    }

    /// When what is told of a checkpoint with this content came to be.
    ///
    /// # Errors
    /// [`StoreError::UnknownSpace`], and those of the disk.
    pub fn moments(&self, space: &SpaceId, content: &[u8; 32]) -> Result<Moments, StoreError> {
        let ix = self.space_number(space)?;
        self.reading(|db| {
            let table = db.begin_read()?.open_table(MOMENTS)?;
            let found = table.get((ix, *content))?;
            Ok(found.map(|row| Moments::from_bytes(&row.value())).unwrap_or_default())
        })
    }

    /// Notes when what is told of a checkpoint with this content came to be.
    ///
    /// # Errors
    /// [`StoreError::UnknownSpace`], and those of the disk.
    pub fn note_moments(
        &self,
        space: &SpaceId,
        content: &[u8; 32],
        moments: Moments,
    ) -> Result<(), StoreError> {
        let ix = self.space_number(space)?;
        self.change(|txn| {
            txn.open_table(MOMENTS)?.insert((ix, *content), moments.to_bytes())?;
            Ok(())
        })
    }

    /// How many bytes of batches there are up to some places of their logs.
    ///
    /// # Errors
    /// [`StoreError::UnknownSpace`], and those of the disk.
    pub fn batch_bytes(&self, space: &SpaceId, through: &Frontier) -> Result<u64, StoreError> {
        self.space_number(space)?;
        let mut bytes = 0;
        for (log, tip) in through.iter() {
            let Some((log_ix, _)) = self.log_end(space, log) else { continue };
            let ends = (self.floor_of(log_ix).seq.next().get(), tip.seq.get());
            bytes += self.reading(|db| {
                let table = db.begin_read()?.open_table(BATCHES)?;
                let mut bytes = 0;
                for row in table.range((log_ix.0, log_ix.1, ends.0)..=(log_ix.0, log_ix.1, ends.1))? {
                    bytes += row?.1.value().len() as u64;
                }
                Ok(bytes)
            })?;
        }
        Ok(bytes)
    }

    /// Forgets every checkpoint of a space but these and those they were folded onto, with the chunks and words
    /// that only others had. The one
    /// that its history begins with stays whatever is asked for, and so does the base before that.
    ///
    /// # Errors
    /// As [`Store::checkpoints`].
    pub fn keep_checkpoints(&self, space: &SpaceId, kept: &[CheckpointHash]) -> Result<(), StoreError> {
        let ix = self.space_number(space)?;
        let held = self.checkpoints(space)?;
        let bases: Vec<CheckpointHash> = read_lock(&self.0.index)
            .base(ix)
            .map(|held| held.before.into_iter().chain([held.base.checkpoint]).collect())
            .unwrap_or_default();
        let is_kept = |held: &&HeldCheckpoint| {
            let hash = held.manifest.hash();
            kept.contains(&hash) || bases.contains(&hash)
        };
        // Whoever is to fold what a checkpoint holds begins where its author began.
        let parents: Vec<CheckpointHash> =
            held.iter().filter(is_kept).filter_map(|held| held.manifest.fields().parent).collect();
        let is_kept = |held: &&HeldCheckpoint| is_kept(held) || parents.contains(&held.manifest.hash());
        let kept: Vec<&Manifest> = held.iter().filter(is_kept).map(|held| &held.manifest).collect();
        let chunks: std::collections::BTreeSet<[u8; 32]> =
            kept.iter().flat_map(|manifest| manifest.fields().chunks.iter().copied()).collect();
        self.change(|txn| {
            let all = (ix, [0; 32])..=(ix, [0xff; 32]);
            let names: Vec<[u8; 32]> = kept.iter().map(|manifest| *manifest.hash().as_bytes()).collect();
            txn.open_table(CHECKPOINTS)?.retain_in(all.clone(), |(_, hash), _| names.contains(&hash))?;
            let contents: Vec<[u8; 32]> = kept.iter().map(|manifest| manifest.fields().content).collect();
            txn.open_table(MOMENTS)?.retain_in(all.clone(), |(_, content), _| contents.contains(&content))?;
            txn.open_table(CHUNKS)?.retain_in(all, |(_, hash), _| chunks.contains(&hash))?;
            let all = (ix, [0; 32], [0; 32])..=(ix, [0xff; 32], [0xff; 32]);
            txn.open_table(ATTESTATIONS)?.retain_in(all, |_, word| {
                let word = Attestation::parse(word);
                word.is_ok_and(|word| kept.iter().any(|manifest| word.is_of(manifest.fields())))
            })?;
            Ok(())
        })
    }

    pub(super) fn change(
        &self,
        change: impl Fn(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let db = self.engine()?;
        let written = guarded(|| {
            let txn = db.get().begin_write()?;
            change(&txn)?;
            txn.commit()?;
            Ok(())
        });
        drop(db);
        if written.as_ref().is_err_and(StoreError::spoils_engine) {
            self.close_engine();
        }
        written
    }

    pub(super) fn space_number(&self, space: &SpaceId) -> Result<SpaceIx, StoreError> {
        read_lock(&self.0.index).space_ix(space).ok_or(StoreError::UnknownSpace { space: *space })
    }
}

/// How manifests of every form begin.
const FORMS: &[u8] = b"KFM";

#[cfg(test)]
mod tests {
    use redb::ReadableTableMetadata;

    use super::*;
    use crate::crypto::Identity;
    use crate::fold::FOLD_VERSION;
    use crate::model::{DeviceId, KeyId, Root};
    use crate::store::fault::Loss;
    use crate::store::testing::{Author, reopen, store};
    use crate::wire::checkpoint::{AttestationFields, Basis, ManifestFields};

    fn chunk(n: u8) -> Bytes {
        Bytes::from(vec![n; 5_000])
    }

    fn manifest(space: SpaceId, content: u8, chunks: &[u8]) -> Manifest {
        let fields = ManifestFields {
            space,
            fold_version: FOLD_VERSION,
            parent: None,
            root: Root::from_bytes([content; 32]),
            content: [content; 32],
            key_id: KeyId::from_bytes([1; 16]),
            author: DeviceId::from_bytes([0; 32]),
            cut: Frontier::new(),
            state_chunks: 0,
            chunks: chunks.iter().map(|n| *blake3::hash(&chunk(*n)).as_bytes()).collect(),
        };
        Manifest::sign(&Identity::from_secret(&[3; 32]), fields)
    }

    fn word(of: &Manifest, device: u8) -> Attestation {
        let of = of.fields();
        let fields = AttestationFields {
            scope: of.space.tag(),
            device: DeviceId::from_bytes([0; 32]),
            fold_version: of.fold_version,
            cut_digest: of.cut.digest(),
            root: of.root,
            content: of.content,
            basis: Basis::Log,
        };
        Attestation::sign(&Identity::from_secret(&[device; 32]), fields)
    }

    #[test]
    fn what_is_kept_reads_back_and_the_rest_goes_with_its_chunks() {
        let mut author = Author::new(1);
        let (store, disk) = store(&mut author);
        let space = author.space;
        let (old, new) = (manifest(space, 1, &[1, 2]), manifest(space, 2, &[2, 3]));
        store.put_chunks(&space, &[chunk(1), chunk(2), chunk(3)]).unwrap();
        for (manifest, wholeness) in [(&old, Wholeness::Whole), (&new, Wholeness::Partial)] {
            store.put_checkpoint(&HeldCheckpoint { manifest: manifest.clone(), wholeness }).unwrap();
            store.put_attestation(&space, &word(manifest, 7)).unwrap();
        }
        store.put_attestation(&space, &word(&new, 8)).unwrap();
        drop(store);
        let (store, _) = reopen(&disk);

        let held = store.checkpoints(&space).unwrap();
        assert_eq!(held.len(), 2);
        assert!(held.contains(&HeldCheckpoint { manifest: new.clone(), wholeness: Wholeness::Partial }));
        assert_eq!(store.attestations(&space).unwrap().len(), 3);
        store.put_checkpoint(&HeldCheckpoint { manifest: new.clone(), wholeness: Wholeness::Whole }).unwrap();
        store.keep_checkpoints(&space, &[new.hash()]).unwrap();

        let whole = HeldCheckpoint { manifest: new.clone(), wholeness: Wholeness::Whole };
        assert_eq!(store.checkpoints(&space).unwrap(), [whole]);
        assert_eq!(store.missing_chunks(&space, &old.fields().chunks).unwrap(), old.fields().chunks[..1]);
        assert_eq!(store.missing_chunks(&space, &new.fields().chunks).unwrap(), [[0; 32]; 0]);
        assert_eq!(store.attestations(&space).unwrap().len(), 2);
        let elsewhere = SpaceId::from_bytes([0x77; 32]);
        assert!(matches!(store.put_chunks(&elsewhere, &[chunk(1)]), Err(StoreError::UnknownSpace { .. })));
        assert!(matches!(store.checkpoints(&elsewhere), Err(StoreError::UnknownSpace { .. })));
    }

    #[test]
    fn moments_read_back_and_go_with_the_checkpoint_they_are_of() {
        let mut author = Author::new(1);
        let (store, disk) = store(&mut author);
        let space = author.space;
        let (old, new) = (manifest(space, 1, &[1]), manifest(space, 2, &[1]));
        let wall = |millis| Some(Wall::from_millis(millis));
        for manifest in [&old, &new] {
            let held = HeldCheckpoint { manifest: manifest.clone(), wholeness: Wholeness::Partial };
            store.put_checkpoint(&held).unwrap();
        }
        assert_eq!(store.moments(&space, &[1; 32]).unwrap(), Moments::default());

        store.note_moments(&space, &[1; 32], Moments { whole: wall(5), vouched: wall(9) }).unwrap();
        store.note_moments(&space, &[2; 32], Moments { whole: wall(6), vouched: None }).unwrap();
        store.keep_checkpoints(&space, &[new.hash()]).unwrap();
        drop(store);
        let (store, _) = reopen(&disk);

        assert_eq!(store.moments(&space, &[1; 32]).unwrap(), Moments::default());
        assert_eq!(store.moments(&space, &[2; 32]).unwrap(), Moments { whole: wall(6), vouched: None });
        let elsewhere = SpaceId::from_bytes([0x77; 32]);
        assert!(matches!(store.moments(&elsewhere, &[1; 32]), Err(StoreError::UnknownSpace { .. })));
        let noted = store.note_moments(&elsewhere, &[1; 32], Moments::default());
        assert!(matches!(noted, Err(StoreError::UnknownSpace { .. })));
        let counted = store.batch_bytes(&elsewhere, &Frontier::new());
        assert!(matches!(counted, Err(StoreError::UnknownSpace { .. })));
    }

    #[test]
    fn rows_that_do_not_read_are_damage_and_a_spoiled_chunk_counts_as_missing() {
        let mut author = Author::new(1);
        let (store, _) = store(&mut author);
        let space = author.space;
        let hash = *blake3::hash(&chunk(1)).as_bytes();
        let good = manifest(space, 1, &[1]);
        let damaged = |result: Result<(), StoreError>, table: &str| matches!(result, Err(StoreError::Damaged { what: Part::Row { table: found }, .. }) if found == table);
        let spoil = |change: &dyn Fn(&WriteTransaction)| {
            store
                .change(|txn| {
                    change(txn);
                    Ok(())
                })
                .unwrap();
        };

        spoil(&|txn| drop(txn.open_table(CHUNKS).unwrap().insert((0, hash), &b"else"[..]).unwrap()));
        assert!(damaged(store.chunk(&space, &hash).map(drop), "chunks"));
        assert_eq!(store.missing_chunks(&space, &[hash]).unwrap(), [hash]);
        for row in [
            &b""[..],
            b"\x01no manifest",
            &[&[2][..], good.bytes()].concat(),
            &[&[1][..], good.bytes()].concat(),
        ] {
            spoil(&|txn| drop(txn.open_table(CHECKPOINTS).unwrap().insert((0, [9; 32]), row).unwrap()));
            assert!(damaged(store.checkpoints(&space).map(drop), "checkpoints"));
        }
        spoil(&|txn| {
            drop(txn.open_table(ATTESTATIONS).unwrap().insert((0, [9; 32], [9; 32]), &b"x"[..]).unwrap())
        });
        assert!(damaged(store.attestations(&space).map(drop), "attestations"));
    }

    #[test]
    fn a_checkpoint_of_another_form_is_passed_over_and_goes_with_its_chunks() {
        let mut author = Author::new(1);
        let (store, _) = store(&mut author);
        let space = author.space;
        let old = [&b"\x01KFM1"[..], &[7; 300]].concat();
        store.put_chunks(&space, &[chunk(1), chunk(2)]).unwrap();
        store
            .change(|txn| {
                txn.open_table(CHECKPOINTS)?.insert((0, [9; 32]), &old[..])?;
                Ok(())
            })
            .unwrap();
        let new = manifest(space, 1, &[2]);
        store.put_checkpoint(&HeldCheckpoint { manifest: new.clone(), wholeness: Wholeness::Whole }).unwrap();

        let held: Vec<CheckpointHash> =
            store.checkpoints(&space).unwrap().iter().map(|held| held.manifest.hash()).collect();
        assert_eq!(held, [new.hash()]);
        store.keep_checkpoints(&space, &[new.hash()]).unwrap();
        let of_old = *blake3::hash(&chunk(1)).as_bytes();
        assert_eq!(store.missing_chunks(&space, &[of_old]).unwrap(), [of_old]);
        let kept = store.reading(|db| Ok(db.begin_read()?.open_table(CHECKPOINTS)?.len()?));
        assert_eq!(kept.unwrap(), 1);
    }

    #[test]
    fn a_store_from_before_there_were_checkpoints_opens_and_takes_them() {
        let mut author = Author::new(1);
        let (old, disk) = store(&mut author);
        {
            let db = old.engine().unwrap();
            let txn = db.get().begin_write().unwrap();
            assert!(txn.delete_table(CHECKPOINTS).unwrap() && txn.delete_table(CHUNKS).unwrap());
            assert!(txn.delete_table(ATTESTATIONS).unwrap());
            txn.commit().unwrap();
        }
        drop(old);

        let (store, _) = reopen(&disk);

        assert_eq!(store.checkpoints(&author.space).unwrap(), []);
        store.put_chunks(&author.space, &[chunk(1)]).unwrap();
    }

    /// The power goes at every sync of the disk, and may take what was only written: what was whole before
    /// is whole after, or what has taken its place is.
    #[test]
    fn a_crash_at_any_step_leaves_a_whole_checkpoint() {
        for steps in 0..40 {
            let mut author = Author::new(1);
            let (store, disk) = store(&mut author);
            let space = author.space;
            let (old, new) = (manifest(space, 1, &[1, 2]), manifest(space, 2, &[2, 3]));
            let held =
                |manifest: &Manifest, wholeness| HeldCheckpoint { manifest: manifest.clone(), wholeness };
            store.put_chunks(&space, &[chunk(1), chunk(2)]).unwrap();
            store.put_checkpoint(&held(&old, Wholeness::Whole)).unwrap();

            disk.cut_power_at_sync(disk.sync_count() + steps);
            let replaced = store
                .put_checkpoint(&held(&new, Wholeness::Partial))
                .and_then(|()| store.put_chunks(&space, &[chunk(3)]))
                .and_then(|()| store.put_checkpoint(&held(&new, Wholeness::Whole)))
                .and_then(|()| store.keep_checkpoints(&space, &[new.hash()]));
            drop(store);

            for (loss, seed) in [(Loss::All, 0), (Loss::Subset, 1), (Loss::Subset, 2), (Loss::Torn, 3)] {
                let (store, _) = reopen(&disk.after_power_cut(loss, seed));
                let all = store.checkpoints(&space).unwrap();
                let whole = || all.iter().filter(|held| held.wholeness == Wholeness::Whole);
                assert!(whole().count() > 0, "cut after {steps} syncs, {loss:?} {seed}: none is left");
                for held in whole() {
                    let missing = store.missing_chunks(&space, &held.manifest.fields().chunks).unwrap();
                    assert!(missing.is_empty(), "cut after {steps} syncs, {loss:?} {seed}: chunks are gone");
                }
            }
            if replaced.is_ok() {
                return;
            }
        }
        panic!("forty syncs are more than four transactions take");
    }
}
