//! Reading a bundle.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{BundleFailure, BundleProgress};
use crate::model::{DeviceId, Scope, SpaceId, Wall};
use crate::node::checkpoint::{Brought, Consent, Left, Waiting, WhyWaiting};
use crate::node::error::NodeError;
use crate::node::handle::Node;
use crate::node::space::{Place, Space};
use crate::sync::{Delivery, NotTaken};
use crate::wire::bundle::{Chunk, ChunkEntry, ChunkKind, LogRange};
use crate::wire::checkpoint::{Attestation, CheckpointHash, Manifest};
use crate::wire::{BundleError, BundleHead};

/// What became of a bundle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BundleImported {
    /// The space it is of.
    pub scope: Scope,
    /// Who exported it.
    pub exporter: DeviceId,
    /// When, by the exporter's clock.
    pub exported: Wall,
    /// Records that are new here.
    pub records: u64,
    /// Ops that are new here.
    pub ops: u64,
    /// Ops that were held already.
    pub held_ops: u64,
    /// Acks that say more than what was known.
    pub acks: u64,
    /// Parts that the file does not hold, or holds damaged.
    pub missing: Vec<Missing>,
    /// Batches it holds that were not taken, and why.
    pub not_taken: Vec<NotTaken>,
    /// The checkpoint that the history here begins with now, where this file has brought it.
    pub began_with: Option<CheckpointHash>,
    /// The checkpoint that it brings and the history here cannot begin with yet.
    pub waiting: Option<Waiting>,
    /// Parts of a later version, which were left out.
    pub unknown_parts: u64,
}

impl BundleImported {
    /// Whether everything it was exported with is here.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty() && self.not_taken.is_empty() && self.waiting.is_none()
    }
}

/// What a file lacks of its bundle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// Roster records.
    Records,
    /// Ops of a log.
    Ops(LogRange),
    /// A part of the checkpoint.
    Checkpoint,
    /// Acks.
    Acks,
    /// Something of a later version.
    Unknown,
}

impl Node {
    /// Takes in what a bundle holds; it is durable when this returns.
    ///
    /// A file that was cut off or damaged gives what is whole; the rest comes with another import. Where it
    /// brings a checkpoint for what its exporter has dropped, and that is not to be had in what is held here, the
    /// history here begins with it as it does with one of a connected device: with [`Consent::Given`] also where
    /// one device alone attests it.
    ///
    /// # Errors
    /// [`BundleFailure::File`], [`BundleFailure::Head`], [`BundleFailure::ForeignSpace`],
    /// [`BundleFailure::ExporterUnknown`], [`BundleFailure::ExporterRemoved`], [`BundleFailure::Node`].
    pub async fn import_bundle(
        &self,
        path: &Path,
        consent: Consent,
        progress: impl Fn(BundleProgress),
    ) -> Result<BundleImported, BundleFailure> {
        let path = path.to_owned();
        let (parts, mut arriving) = mpsc::channel(CHUNKS_AHEAD);
        let opened = tokio::task::spawn_blocking(move || Opened::open(path)).await;
        let opened = opened.expect("reading does not panic and is not aborted")?;
        let head = opened.head.clone();
        let (space, scope) = self.space_of(&head).await?;
        let total = head.chunks.iter().map(|entry| u64::from(entry.bytes)).sum();
        tokio::task::spawn_blocking(move || opened.read(&parts));
        let mut importing = Importing {
            node: self,
            space,
            consent,
            is_exporter_known: false,
            brought: None,
            imported: begin(&head, scope),
        };
        let mut done = 0;
        while let Some(part) = arriving.recv().await {
            let (entry, chunk) = part?;
            importing.take(&entry, chunk).await?;
            done += u64::from(entry.bytes);
            progress(BundleProgress { done, total });
        }
        importing.know_exporter().await?;
        importing.begin_with_brought().await?;
        Ok(importing.imported)
    }

    /// The space a bundle is of, where its exporter was not removed from it.
    async fn space_of(&self, head: &BundleHead) -> Result<(SpaceId, Scope), BundleFailure> {
        let (tag, exporter) = (head.scope, head.exporter);
        let found = self.ask(move |core| {
            let spaces = core.engine.active_spaces();
            let space = spaces.into_iter().find(|space| space.tag() == tag)?;
            let view = core.engine.space(space)?;
            Some((space, view.scope.clone(), view.roster.removal_of(&exporter).is_some()))
        });
        match found.await? {
            None => Err(BundleFailure::ForeignSpace { scope: tag }),
            Some((_, _, true)) => Err(BundleFailure::ExporterRemoved { exporter }),
            Some((space, scope, false)) => Ok((space, scope)),
        }
    }
}

fn begin(head: &BundleHead, scope: Scope) -> BundleImported {
    BundleImported {
        scope,
        exporter: head.exporter,
        exported: head.wall,
        records: 0,
        ops: 0,
        held_ops: 0,
        acks: 0,
        missing: Vec::new(),
        not_taken: Vec::new(),
        began_with: None,
        waiting: None,
        unknown_parts: 0,
    }
}

struct Importing<'a> {
    node: &'a Node,
    space: SpaceId,
    consent: Consent,
    is_exporter_known: bool,
    brought: Option<Checkpoint>,
    imported: BundleImported,
}

/// A checkpoint as it comes out of a file: what is said of it, then its chunks.
struct Checkpoint {
    left: Left,
    /// The chunks that are to be kept, once that is known.
    wanted: Option<BTreeSet<[u8; 32]>>,
}

impl Importing<'_> {
    async fn take(&mut self, entry: &ChunkEntry, chunk: Option<Chunk>) -> Result<(), BundleFailure> {
        let mut delivery = Delivery::default();
        match chunk {
            None => {
                self.miss(entry);
                return Ok(());
            }
            Some(Chunk::Manifests(manifests)) => {
                let manifest = manifests.into_iter().find_map(|bytes| Manifest::parse(bytes).ok());
                self.brought = manifest.map(|manifest| Checkpoint {
                    left: Left { manifest, words: Vec::new(), is_base: true },
                    wanted: None,
                });
                return Ok(());
            }
            Some(Chunk::Attestations(words)) => {
                if let Some(brought) = &mut self.brought {
                    brought
                        .left
                        .words
                        .extend(words.iter().filter_map(|bytes| Attestation::parse(bytes).ok()));
                }
                return Ok(());
            }
            Some(Chunk::Chunks(chunks)) => return self.keep_chunks(chunks).await,
            Some(Chunk::Unknown(_)) => {
                self.imported.unknown_parts += 1;
                return Ok(());
            }
            // They come first, and may make the exporter known.
            Some(Chunk::Records(records)) => delivery.records = records,
            Some(Chunk::Batches(batches)) => delivery.batches = batches,
            Some(Chunk::Acks(acks)) => delivery.acks = acks,
        }
        if delivery.records.is_empty() {
            self.know_exporter().await?;
            // What follows goes on from it.
            self.begin_with_brought().await?;
        }
        let delivered = self.node.deliver(self.space, delivery).await?;
        self.imported.records += delivered.records;
        self.imported.ops += delivered.ops;
        self.imported.held_ops += delivered.held_ops;
        self.imported.acks += delivered.acks;
        for not_taken in delivered.not_taken {
            match self.imported.not_taken.last_mut() {
                Some(last) if last.log == not_taken.log && last.last.next() == not_taken.first => {
                    last.last = not_taken.last;
                }
                _ => self.imported.not_taken.push(not_taken),
            }
        }
        Ok(())
    }

    /// Keeps those chunks of the checkpoint that are to be kept.
    async fn keep_chunks(&mut self, chunks: Vec<Bytes>) -> Result<(), BundleFailure> {
        self.know_exporter().await?;
        let Some(mut brought) = self.brought.take() else { return Ok(()) };
        if brought.wanted.is_none() {
            let wants = match self.take_brought(&brought.left).await? {
                Brought::Wants(chunks) => chunks,
                Brought::Done | Brought::Later => Vec::new(),
            };
            brought.wanted = Some(wants.into_iter().collect());
        }
        let is_wanted = |chunk: &Bytes| {
            brought.wanted.as_ref().is_some_and(|wanted| wanted.contains(blake3::hash(chunk).as_bytes()))
        };
        let kept: Vec<Bytes> = chunks.into_iter().filter(is_wanted).collect();
        self.brought = Some(brought);
        if !kept.is_empty() {
            let (store, space) = (self.node.store().clone(), self.space);
            self.node.blocking(move || store.put_chunks(&space, &kept)).await.map_err(NodeError::from)?;
        }
        Ok(())
    }

    /// Begins with the checkpoint that the file has brought, where all of it is here.
    async fn begin_with_brought(&mut self) -> Result<(), BundleFailure> {
        let Some(brought) = self.brought.take() else { return Ok(()) };
        let checkpoint = brought.left.manifest.hash();
        let base = || self.node.store().base(&self.space).map(|base| base.checkpoint);
        let before = base();
        let outcome = self.take_brought(&brought.left).await?;
        let after = base();
        if after == Some(checkpoint) && before != after {
            self.imported.began_with = after;
        } else if !matches!(outcome, Brought::Done) {
            let is_it = |waiting: &Waiting| waiting.checkpoint == checkpoint;
            self.imported.waiting = self.of_space().waiting().filter(is_it);
        }
        Ok(())
    }

    /// Takes the checkpoint as far as it is here; with a person's word where one device alone attests it.
    async fn take_brought(&self, left: &Left) -> Result<Brought, NodeError> {
        let space = self.of_space();
        let brought = space.take_left(left).await?;
        let is_asked = |waiting: &Waiting| {
            waiting.checkpoint == left.manifest.hash() && matches!(waiting.why, WhyWaiting::Unattested { .. })
        };
        match space.waiting().filter(is_asked) {
            Some(waiting) if self.consent == Consent::Given => {
                space.consent_to(&waiting)?;
                space.take_left(left).await
            }
            _ => Ok(brought),
        }
    }

    fn of_space(&self) -> Space {
        Space { node: self.node.clone(), place: Place::Fixed(self.space) }
    }

    /// Refuses a bundle of a device that is not in the space by all records that are here.
    async fn know_exporter(&mut self) -> Result<(), BundleFailure> {
        if self.is_exporter_known {
            return Ok(());
        }
        let (space, exporter) = (self.space, self.imported.exporter);
        let known = self.node.ask(move |core| {
            let view = core.engine.space(space)?;
            Some((view.roster.role_of(&exporter).is_some(), view.roster.removal_of(&exporter).is_some()))
        });
        let (is_member, is_removed) = known.await?.ok_or(NodeError::Stopped)?;
        if is_removed {
            return Err(BundleFailure::ExporterRemoved { exporter });
        }
        if !is_member {
            return Err(BundleFailure::ExporterUnknown { exporter });
        }
        self.is_exporter_known = true;
        Ok(())
    }

    fn miss(&mut self, entry: &ChunkEntry) {
        let missing = &mut self.imported.missing;
        match (entry.kind, missing.last_mut()) {
            (ChunkKind::Batches(range), Some(Missing::Ops(last)))
                if last.log == range.log && last.last.next() == range.first =>
            {
                last.last = range.last;
            }
            (ChunkKind::Batches(range), _) => missing.push(Missing::Ops(range)),
            (ChunkKind::Records, _) => missing.push(Missing::Records),
            (ChunkKind::Acks, _) => missing.push(Missing::Acks),
            (
                ChunkKind::Manifests | ChunkKind::Attestations | ChunkKind::Chunks,
                Some(Missing::Checkpoint),
            ) => {}
            (ChunkKind::Manifests | ChunkKind::Attestations | ChunkKind::Chunks, _) => {
                missing.push(Missing::Checkpoint);
            }
            (ChunkKind::Unknown(_), _) => missing.push(Missing::Unknown),
        }
    }
}

/// A file whose head is read and holds.
struct Opened {
    path: PathBuf,
    file: BufReader<File>,
    head: BundleHead,
}

/// One part, as it was read; none where it is damaged or not there.
type ReadPart = Result<(ChunkEntry, Option<Chunk>), BundleFailure>;

impl Opened {
    fn open(path: PathBuf) -> Result<Self, BundleFailure> {
        let read = |path: &Path| -> io::Result<(BufReader<File>, Result<BundleHead, BundleError>)> {
            let mut file = BufReader::new(File::open(path)?);
            let mut bytes = read_up_to(&mut file, BundleHead::FIXED_BYTES)?;
            let head = match BundleHead::bytes_of(&bytes) {
                Err(error) => Err(error),
                Ok(needed) => {
                    let rest = needed - bytes.len();
                    bytes.extend_from_slice(&read_up_to(&mut file, rest)?);
                    BundleHead::parse(&bytes)
                }
            };
            Ok((file, head))
        };
        match read(&path) {
            Err(source) => Err(BundleFailure::File { path, source }),
            Ok((_, Err(source))) => Err(BundleFailure::Head { path, source }),
            Ok((file, Ok(head))) => Ok(Self { path, file, head }),
        }
    }

    /// Reads every part that the head names; whoever takes them may stop.
    fn read(mut self, parts: &mpsc::Sender<ReadPart>) {
        for entry in &self.head.chunks {
            let read = read_up_to(&mut self.file, entry.byte_count()).map(Bytes::from);
            let part = match read {
                Ok(bytes) => Ok((*entry, entry.open(&bytes).ok())),
                Err(source) => Err(BundleFailure::File { path: self.path.clone(), source }),
            };
            if parts.blocking_send(part).is_err() {
                return;
            }
        }
    }
}

/// Reads so many bytes, or as many as there are.
fn read_up_to(file: &mut impl Read, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(count.min(READ_AHEAD));
    file.take(count as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Parts read while one becomes durable.
const CHUNKS_AHEAD: usize = 2;

/// What is set aside before a length in a file is known to be true.
const READ_AHEAD: usize = 64 * 1024;
