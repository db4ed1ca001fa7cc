//! Checkpoints in a drop box.
//!
//! The first part of one is its manifest with the attestations that its writer knows; the others are its chunks,
//! [`CHUNKS_PER_PART`] in each, which is the same whoever leaves them. Manifest and attestations are left of the
//! newest and of the one that the history here begins with; chunks only of the latter: whoever is behind it needs
//! them, and everybody else has come by them in another way.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::round::{Memory, Round, RoundError, Tried};
use crate::dropbox::{Kind, ObjectName};
use crate::model::{DeviceId, Frontier};
use crate::node::checkpoint::{Brought, Left};
use crate::node::space::{Place, Space};
use crate::store::{HeldCheckpoint, Wholeness};
use crate::wire::BundleHead;
use crate::wire::bundle::{self, CHUNK_BYTES_WANTED, Chunk};
use crate::wire::checkpoint::{Attestation, CheckpointHash, Manifest};

impl Round<'_> {
    /// Takes what others say of checkpoints, and begins with one where the batches there do not lead to it.
    pub(super) async fn pull_checkpoints(&mut self, memory: &mut Memory) -> Result<(), RoundError> {
        let space = Space { node: self.node.clone(), place: Place::Fixed(self.space) };
        for name in self.of_checkpoints(|_, part| part == 0) {
            let is_spent = matches!(memory.tried.get(&name), Some(Tried::ForGood));
            if is_spent && memory.words.contains_key(&name) {
                continue;
            }
            let Some((manifest, words)) = self.first_part(&name).await? else {
                memory.note(name, Tried::ForGood);
                memory.words.insert(name, BTreeSet::new());
                continue;
            };
            memory.words.insert(name, words.iter().map(word_key).collect());
            let is_base = !self.of_checkpoints(|of, part| of == tag(&manifest.hash()) && part > 0).is_empty();
            let left = Left { manifest, words, is_base };
            let mut brought = space.take_left(&left).await?;
            if let Brought::Wants(chunks) = brought {
                let wanted: BTreeSet<[u8; 32]> = chunks.into_iter().collect();
                self.chunk_parts(&left.manifest, &wanted).await?;
                brought = space.take_left(&left).await?;
            }
            if matches!(brought, Brought::Done) {
                memory.note(name, Tried::ForGood);
            }
        }
        Ok(())
    }

    /// Leaves what others may lack of the newest checkpoint and of the base, and tidies up behind the latter.
    pub(super) async fn push_checkpoints(&mut self, memory: &mut Memory) -> Result<(), RoundError> {
        let store = self.node.store();
        let (held, words) = (store.checkpoints(&self.space)?, store.attestations(&self.space)?);
        let base = store.base(&self.space).map(|base| base.checkpoint);
        let whole = held.iter().filter(|held| held.wholeness == Wholeness::Whole).map(|held| &held.manifest);
        let newest = whole.clone().max_by_key(|manifest| manifest.fields().cut.op_count());
        let based = whole.clone().find(|manifest| Some(manifest.hash()) == base);
        let mut wanted: Vec<&Manifest> = newest.into_iter().chain(based).collect();
        wanted.dedup();
        for manifest in &wanted {
            self.push_first_part(memory, manifest, &words).await?;
        }
        if let Some(based) = based {
            let was_whole = self.is_whole_there(based);
            self.push_chunks(based).await?;
            if was_whole {
                self.tidy_behind(&wanted, &based.fields().cut).await?;
            }
        }
        Ok(())
    }

    /// How far logs need not be left as batches, because a checkpoint that is whole here lies there whole.
    pub(super) fn left_cut(&self, held: &[HeldCheckpoint]) -> Frontier {
        let whole = held.iter().filter(|held| held.wholeness == Wholeness::Whole).map(|held| &held.manifest);
        let there = whole.filter(|manifest| self.is_whole_there(manifest));
        let furthest = there.max_by_key(|manifest| manifest.fields().cut.op_count());
        furthest.map(|manifest| manifest.fields().cut.clone()).unwrap_or_default()
    }

    async fn push_first_part(
        &mut self,
        memory: &mut Memory,
        manifest: &Manifest,
        words: &[Attestation],
    ) -> Result<(), RoundError> {
        if manifest.bytes().len() > CHUNK_BYTES_WANTED {
            return Ok(());
        }
        let checkpoint = tag(&manifest.hash());
        let words: Vec<&Attestation> = words.iter().filter(|word| word.is_of(manifest.fields())).collect();
        let here: BTreeSet<WordKey> = words.iter().map(|word| word_key(word)).collect();
        let there = self.of_checkpoints(|of, part| of == checkpoint && part == 0);
        let known: BTreeSet<WordKey> =
            there.iter().filter_map(|name| memory.words.get(name)).flatten().copied().collect();
        if there.is_empty() || !here.is_subset(&known) {
            let mut chunks = bundle::manifests([manifest.bytes().clone()]);
            let words = words.iter().map(|word| Bytes::copy_from_slice(word.bytes()));
            chunks.extend(bundle::attestations(words));
            let name = self.put(Kind::Checkpoint { checkpoint, part: 0 }, &chunks).await?;
            memory.note(name, Tried::ForGood);
            memory.words.insert(name, here);
            return Ok(());
        }
        // An earlier one of this device goes once one that says all of it is seen there.
        let own: Vec<ObjectName> = there.into_iter().filter(|name| name.writer == self.writer).collect();
        let said = |name: &ObjectName| memory.words.get(name).map_or(0, BTreeSet::len);
        let fullest = own.iter().copied().max_by_key(said);
        for name in own.into_iter().filter(|name| Some(*name) != fullest) {
            self.shelf.delete(&name).await?;
            self.inventory.remove(&name);
        }
        Ok(())
    }

    async fn push_chunks(&mut self, manifest: &Manifest) -> Result<(), RoundError> {
        let checkpoint = tag(&manifest.hash());
        for (part, hashes) in (1u32..).zip(manifest.fields().chunks.chunks(CHUNKS_PER_PART)) {
            if !self.of_checkpoints(|of, found| of == checkpoint && found == part).is_empty() {
                continue;
            }
            let chunks: Option<Vec<Bytes>> = {
                let store = self.node.store();
                hashes.iter().map(|hash| store.chunk(&self.space, hash)).collect::<Result<_, _>>()?
            };
            // One is spoiled here: another device leaves it.
            let Some(chunks) = chunks else { return Ok(()) };
            self.put(Kind::Checkpoint { checkpoint, part }, &bundle::chunks(chunks)).await?;
        }
        Ok(())
    }

    /// Removes what this device has left and nobody needs any more: batches below the base, and checkpoints
    /// before it.
    async fn tidy_behind(&mut self, wanted: &[&Manifest], cut: &Frontier) -> Result<(), RoundError> {
        let tags: BTreeSet<[u8; 8]> = wanted.iter().map(|manifest| tag(&manifest.hash())).collect();
        let logs = self.tags(cut);
        let is_over = |name: &ObjectName| match name.kind {
            Kind::Batches { log, last, .. } => logs.get(&log).is_some_and(|log| last <= cut.tip(log).seq),
            Kind::Checkpoint { checkpoint, .. } => !tags.contains(&checkpoint),
            Kind::Roster { .. } | Kind::Acks => false,
        };
        let own = self.inventory.objects().map(|(name, _)| *name).filter(|name| name.writer == self.writer);
        let over: Vec<ObjectName> = own.filter(is_over).collect();
        for name in over {
            self.shelf.delete(&name).await?;
            self.inventory.remove(&name);
        }
        Ok(())
    }

    /// Whether every part of a checkpoint was there at the look.
    fn is_whole_there(&self, manifest: &Manifest) -> bool {
        let checkpoint = tag(&manifest.hash());
        let last = manifest.fields().chunks.len().div_ceil(CHUNKS_PER_PART);
        let is_seen =
            |name: &ObjectName| self.inventory.files(name).iter().any(|file| !file.stamp.is_empty());
        let seen = self.of_checkpoints(|of, _| of == checkpoint).into_iter().filter(is_seen);
        let parts: BTreeSet<u32> = seen.filter_map(|name| part_of(&name).map(|(_, part)| part)).collect();
        (0..=last).all(|part| u32::try_from(part).is_ok_and(|part| parts.contains(&part)))
    }

    fn of_checkpoints(&self, is_wanted: impl Fn([u8; 8], u32) -> bool) -> Vec<ObjectName> {
        let names = self.inventory.objects().map(|(name, _)| *name);
        names.filter(|name| part_of(name).is_some_and(|(of, part)| is_wanted(of, part))).collect()
    }

    /// Reads a manifest and what is said of it; `None` where the object is not that.
    async fn first_part(
        &self,
        name: &ObjectName,
    ) -> Result<Option<(Manifest, Vec<Attestation>)>, RoundError> {
        let (mut manifest, mut words) = (None, Vec::new());
        for chunk in self.open(name).await? {
            match chunk {
                Chunk::Manifests(read) => {
                    manifest = read.into_iter().find_map(|bytes| Manifest::parse(bytes).ok());
                }
                Chunk::Attestations(read) => {
                    words.extend(read.iter().filter_map(|bytes| Attestation::parse(bytes).ok()));
                }
                Chunk::Records(_)
                | Chunk::Batches(_)
                | Chunk::Acks(_)
                | Chunk::Chunks(_)
                | Chunk::Unknown(_) => {}
            }
        }
        let is_named = |manifest: &Manifest| part_of(name).is_some_and(|(of, _)| of == tag(&manifest.hash()));
        Ok(manifest.filter(is_named).map(|manifest| (manifest, words)))
    }

    /// Keeps the chunks of a checkpoint that are wanted, from wherever they lie.
    async fn chunk_parts(&self, manifest: &Manifest, wanted: &BTreeSet<[u8; 32]>) -> Result<(), RoundError> {
        let checkpoint = tag(&manifest.hash());
        for name in self.of_checkpoints(|of, part| of == checkpoint && part > 0) {
            let mut kept = Vec::new();
            for chunk in self.open(&name).await? {
                if let Chunk::Chunks(chunks) = chunk {
                    let is_wanted = |chunk: &Bytes| wanted.contains(blake3::hash(chunk).as_bytes());
                    kept.extend(chunks.into_iter().filter(is_wanted));
                }
            }
            self.node.store().put_chunks(&self.space, &kept)?;
        }
        Ok(())
    }

    /// What an object holds; nothing where it is not whole or not of this space.
    async fn open(&self, name: &ObjectName) -> Result<Vec<Chunk>, RoundError> {
        let Some(bytes) = self.shelf.get(name, self.inventory.files(name)).await? else {
            return Ok(Vec::new());
        };
        let (Ok(head), Ok(mut at)) = (BundleHead::parse(&bytes), BundleHead::bytes_of(&bytes)) else {
            return Ok(Vec::new());
        };
        let mut chunks = Vec::new();
        for entry in head.chunks.iter().filter(|_| head.scope == self.space.tag()) {
            let end = at.saturating_add(entry.byte_count());
            if bytes.len() < end {
                break;
            }
            chunks.extend(entry.open(&bytes.slice(at..end)));
            at = end;
        }
        Ok(chunks)
    }
}

/// Whose word, and on what basis.
pub(super) type WordKey = (DeviceId, crate::wire::checkpoint::Basis);

const fn word_key(word: &Attestation) -> WordKey {
    (word.fields().device, word.fields().basis)
}

fn tag(hash: &CheckpointHash) -> [u8; 8] {
    *hash.as_bytes().first_chunk().expect("32 bytes hold 8")
}

const fn part_of(name: &ObjectName) -> Option<([u8; 8], u32)> {
    match name.kind {
        Kind::Checkpoint { checkpoint, part } => Some((checkpoint, part)),
        Kind::Batches { .. } | Kind::Roster { .. } | Kind::Acks => None,
    }
}

/// Chunks in one object: at most 12 MiB, and some two as a rule.
const CHUNKS_PER_PART: usize = 64;
