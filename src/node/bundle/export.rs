//! Writing a bundle.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{BundleFailure, BundleProgress};
use crate::clock;
use crate::crypto::Identity;
use crate::model::limits::FRAME_BYTES_MAX;
use crate::model::{DeviceId, Frontier, LogId, Seq, SpaceId, Tip};
use crate::node::core::Holdings;
use crate::node::error::NodeError;
use crate::node::space::Space;
use crate::store::Store;
use crate::wire::bundle::{self, CHUNK_BYTES_WANTED, ChunkEntry};
use crate::wire::checkpoint::{CheckpointHash, Manifest};
use crate::wire::{BundleError, BundleHead};

/// What a bundle holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BundleExported {
    /// Ops.
    pub ops: u64,
    /// Logs they are in.
    pub logs: u64,
    /// Roster records.
    pub records: u64,
    /// Acks.
    pub acks: u64,
    /// The checkpoint that is in it in place of what was dropped here; `None` where every op is.
    pub checkpoint: Option<CheckpointHash>,
    /// Ops that the checkpoint holds the state of.
    pub checkpoint_ops: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// When the device it is for has last said what it holds, in Unix milliseconds by its own clock;
    /// `None` where it never did, or the bundle is for anybody: then it holds everything.
    pub beyond_ack_of: Option<u64>,
}

impl Space {
    /// Writes what `peer` lacks, as far as its acks tell, into a new file; for nobody in particular,
    /// everything this device holds.
    ///
    /// It holds sealed batches as they are, roster records and acks; no keys. Where the history here begins
    /// with a checkpoint and the receiver lacks what came before, the checkpoint goes in, with who attests it.
    ///
    /// # Errors
    /// [`BundleFailure::Exists`], [`BundleFailure::File`], [`BundleFailure::NoSuchDevice`],
    /// [`BundleFailure::Changed`], [`BundleFailure::TooMuch`], [`BundleFailure::Node`].
    pub async fn export_bundle(
        &self,
        path: &Path,
        peer: Option<DeviceId>,
        progress: impl Fn(BundleProgress) + Send + 'static,
    ) -> Result<BundleExported, BundleFailure> {
        let space = self.id();
        // Not before the state is there: what this device acknowledges is said once it is folded.
        let this = self.clone();
        let folded = tokio::task::spawn_blocking(move || this.positions().map(drop)).await;
        folded.expect("a look at the state does not panic and is not aborted")?;
        let asked = self.node.ask(move |core| {
            let holdings = core.holdings(space)?;
            let view = core.engine.space(space)?;
            let is_member = peer.is_none_or(|peer| view.roster.role_of(&peer).is_some());
            let ack = peer.and_then(|peer| core.engine.ack_of(space, &peer));
            let ack = ack.map(|ack| (ack.frontier.clone(), ack.wall.as_millis()));
            Some((holdings, is_member, ack))
        });
        let (holdings, is_member, ack) = asked.await?.ok_or(NodeError::Stopped)?;
        if let (false, Some(device)) = (is_member, peer) {
            return Err(BundleFailure::NoSuchDevice { device });
        }
        let (from, beyond_ack_of) = match ack {
            Some((frontier, at)) => (frontier, Some(at)),
            None => (Frontier::new(), None),
        };
        let export = Export {
            store: self.node.store().clone(),
            identity: Arc::clone(self.node.identity()),
            space,
            holdings,
            from,
            path: path.to_owned(),
        };
        let written = tokio::task::spawn_blocking(move || export.write(&progress)).await;
        let exported = written.expect("an export does not panic and is not aborted")?;
        Ok(BundleExported { beyond_ack_of, ..exported })
    }
}

struct Export {
    store: Store,
    identity: Arc<Identity>,
    space: SpaceId,
    holdings: Holdings,
    from: Frontier,
    path: PathBuf,
}

/// What goes into a bundle: ends of logs, and the checkpoint that they are folded onto where it is needed.
struct Contents {
    parts: Vec<Part>,
    base: Option<Manifest>,
}

/// One log as it goes into the bundle.
struct Part {
    log: LogId,
    after: Tip,
    tip: Tip,
}

impl Export {
    fn write(self, progress: &dyn Fn(BundleProgress)) -> Result<BundleExported, BundleFailure> {
        if self.path.try_exists().map_err(|source| self.file_error(source))? {
            return Err(BundleFailure::Exists { path: self.path });
        }
        let Contents { parts, base } = self.contents()?;
        let records = bundle::records(self.holdings.records.iter().cloned());
        let acks = bundle::acks(self.holdings.acks.iter().map(|(_, _, frame)| frame.clone()));
        let said = base.as_ref().map_or(Ok(Vec::new()), |base| self.said_of(base))?;
        let mut state = Vec::new();
        self.state(base.as_ref(), &mut |entry, _| {
            state.push(entry);
            Ok(())
        })?;
        let mut batches = Vec::new();
        parts.iter().try_for_each(|part| {
            self.runs(part, &mut |bytes| {
                batches.push(bundle::batches(bytes).ok_or(BundleFailure::Changed)?);
                Ok(())
            })
        })?;
        let entries = records.iter().chain(&said).map(|(entry, _)| *entry);
        let entries = entries.chain(state.iter().copied()).chain(batches.iter().copied());
        let chunks: Vec<ChunkEntry> = entries.chain(acks.iter().map(|(entry, _)| *entry)).collect();
        let body_bytes: u64 = chunks.iter().map(|entry| u64::from(entry.bytes)).sum();
        let head = BundleHead {
            scope: self.space.tag(),
            exporter: self.identity.device(),
            wall: clock::wall(),
            from: self.from.delta(&Frontier::new()),
            to: self.holdings.frontier.delta(&Frontier::new()),
            chunks,
        };
        let head = head.sign(&self.identity).map_err(BundleFailure::TooMuch)?;
        let total = head.len() as u64 + body_bytes;
        let mut file = NewFile::create(&self.path, total, progress)?;
        file.put(&head)?;
        records.iter().chain(&said).try_for_each(|(_, bytes)| file.put(bytes))?;
        let mut expected = state.into_iter();
        self.state(base.as_ref(), &mut |entry, bytes| {
            if expected.next() != Some(entry) {
                return Err(BundleFailure::Changed);
            }
            file.put(bytes)
        })?;
        let mut expected = batches.iter();
        parts.iter().try_for_each(|part| {
            self.runs(part, &mut |bytes| {
                // Read again: it is what the head says, or the log was cut meanwhile.
                if bundle::batches(bytes).as_ref() != expected.next() {
                    return Err(BundleFailure::Changed);
                }
                file.put(bytes)
            })
        })?;
        acks.iter().try_for_each(|(_, bytes)| file.put(bytes))?;
        file.finish()?;
        Ok(BundleExported {
            ops: parts.iter().map(|part| part.tip.seq.get() - part.after.seq.get()).sum(),
            logs: parts.len() as u64,
            records: self.holdings.records.len() as u64,
            acks: self.holdings.acks.len() as u64,
            checkpoint: base.as_ref().map(Manifest::hash),
            checkpoint_ops: base.as_ref().map_or(0, |base| base.fields().cut.op_count()),
            bytes: total,
            beyond_ack_of: None,
        })
    }

    /// What goes in of each log. Where its receiver holds another history of one, all of it; and where that is
    /// not here any more, what the history here begins with.
    fn contents(&self) -> Result<Contents, BundleFailure> {
        let mut parts = Vec::new();
        let base = self.store.base(&self.space);
        let mut is_base_needed = false;
        for (log, tip) in self.holdings.frontier.iter() {
            let mut after = self.from.tip(log);
            let floor = base.as_ref().map_or(Tip::NONE, |base| base.floor.tip(log));
            if after.seq > Seq::ZERO {
                let next =
                    self.store.batch_at(&self.space, log, after.seq.next()).map_err(NodeError::from)?;
                let continues = next.is_some_and(|batch| batch.header().prev == after.hash);
                let is_held = after.seq > tip.seq || after == *tip;
                if !continues && !is_held {
                    after = Tip::NONE;
                }
            }
            if after.seq < floor.seq {
                is_base_needed = true;
                after = floor;
            }
            if after.seq < tip.seq {
                parts.push(Part { log: *log, after, tip: *tip });
            }
        }
        let base = if is_base_needed { self.store.base_manifest(&self.space) } else { None };
        match base {
            None if is_base_needed => Err(BundleFailure::Changed),
            base => Ok(Contents { parts, base: base.map(|base| (*base).clone()) }),
        }
    }

    /// The manifest of a checkpoint, and the words of those who attest it.
    fn said_of(&self, base: &Manifest) -> Result<Vec<(ChunkEntry, Bytes)>, BundleFailure> {
        let found = base.bytes().len();
        if found > FRAME_BYTES_MAX {
            let limit = u32::try_from(FRAME_BYTES_MAX).unwrap_or(u32::MAX);
            let found = u32::try_from(found).unwrap_or(u32::MAX);
            let what = "bytes of a checkpoint's manifest";
            return Err(BundleFailure::TooMuch(BundleError::TooMany { what, found, limit }));
        }
        let words = self.store.attestations(&self.space).map_err(NodeError::from)?;
        let words = words.iter().filter(|word| word.is_of(base.fields()));
        let mut said = bundle::manifests([base.bytes().clone()]);
        said.extend(bundle::attestations(words.map(|word| Bytes::copy_from_slice(word.bytes()))));
        Ok(said)
    }

    /// Reads the chunks of a checkpoint, some at a time.
    fn state(
        &self,
        base: Option<&Manifest>,
        each: &mut dyn FnMut(ChunkEntry, &Bytes) -> Result<(), BundleFailure>,
    ) -> Result<(), BundleFailure> {
        let chunks = base.map_or(&[][..], |base| &base.fields().chunks);
        for hashes in chunks.chunks(STATE_CHUNKS_AT_ONCE) {
            let read = hashes.iter().map(|hash| self.store.chunk(&self.space, hash));
            let read: Option<Vec<Bytes>> = read.collect::<Result<_, _>>().map_err(NodeError::from)?;
            for (entry, bytes) in bundle::chunks(read.ok_or(BundleFailure::Changed)?) {
                each(entry, &bytes)?;
            }
        }
        Ok(())
    }

    /// Reads a log a chunk at a time.
    fn runs(
        &self,
        part: &Part,
        each: &mut dyn FnMut(&Bytes) -> Result<(), BundleFailure>,
    ) -> Result<(), BundleFailure> {
        let mut after = part.after.seq;
        while after < part.tip.seq {
            let run = self
                .store
                .run(&self.space, &part.log, after, part.tip.seq, CHUNK_BYTES_WANTED)
                .map_err(NodeError::from)?
                .ok_or(BundleFailure::Changed)?;
            each(&run.bytes)?;
            after = run.last;
        }
        Ok(())
    }

    fn file_error(&self, source: io::Error) -> BundleFailure {
        BundleFailure::File { path: self.path.clone(), source }
    }
}

/// A file that gets its name once it is whole.
struct NewFile<'a> {
    path: &'a Path,
    unfinished: PathBuf,
    file: Option<BufWriter<File>>,
    done: u64,
    total: u64,
    progress: &'a dyn Fn(BundleProgress),
}

impl<'a> NewFile<'a> {
    fn create(
        path: &'a Path,
        total: u64,
        progress: &'a dyn Fn(BundleProgress),
    ) -> Result<Self, BundleFailure> {
        let mut name = path.file_name().map(std::ffi::OsStr::to_owned).unwrap_or_default();
        name.push(format!(".{}.part", std::process::id()));
        let unfinished = path.with_file_name(name);
        let file = OpenOptions::new().write(true).create_new(true).open(&unfinished);
        let file = file.map_err(|source| BundleFailure::File { path: path.to_owned(), source })?;
        Ok(Self { path, unfinished, file: Some(BufWriter::new(file)), done: 0, total, progress })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), BundleFailure> {
        let file = self.file.as_mut().expect("it is open until it is finished");
        file.write_all(bytes).map_err(|source| BundleFailure::File { path: self.path.to_owned(), source })?;
        self.done += bytes.len() as u64;
        (self.progress)(BundleProgress { done: self.done, total: self.total });
        Ok(())
    }

    fn finish(mut self) -> Result<(), BundleFailure> {
        let finish = |file: BufWriter<File>| -> io::Result<()> {
            file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            fs::rename(&self.unfinished, self.path)
        };
        let file = self.file.take().expect("it is open until it is finished");
        finish(file).map_err(|source| {
            // What is left of it is of no use to anybody.
            let _ = fs::remove_file(&self.unfinished);
            BundleFailure::File { path: self.path.to_owned(), source }
        })
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = fs::remove_file(&self.unfinished);
        }
    }
}

/// Chunks of a checkpoint that are in memory together: at most 3 MiB.
const STATE_CHUNKS_AT_ONCE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Incarnation, TipHash};
    use crate::node::Node;

    async fn export(spoil: impl FnOnce(&mut Export)) -> Result<BundleExported, BundleFailure> {
        let home = tempfile::tempdir().unwrap();
        Node::init(&home.path().join("home"), "a").unwrap();
        let node = Node::builder(home.path().join("home")).open().await.unwrap();
        node.personal().put("registry:note", "x", 1).await.unwrap();
        let space = node.personal().id();
        let holdings = node.ask(move |core| core.holdings(space)).await.unwrap().unwrap();
        let mut export = Export {
            store: node.store().clone(),
            identity: Arc::clone(node.identity()),
            space,
            holdings,
            from: Frontier::new(),
            path: home.path().join("bundle"),
        };
        spoil(&mut export);
        let outcome = export.write(&|_| {});
        let left: Vec<_> =
            fs::read_dir(home.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left.len(), if outcome.is_ok() { 2 } else { 1 }, "{left:?}");
        node.stop().await.unwrap();
        outcome
    }

    fn far(log: LogId, seq: u64) -> (LogId, Tip) {
        (log, Tip { seq: Seq::new(seq), hash: TipHash::from_bytes([1; 32]) })
    }

    #[tokio::test]
    async fn a_log_that_is_shorter_than_it_was_is_not_exported_by_half() {
        let outcome = export(|export| {
            let (log, tip) = far(*export.holdings.frontier.iter().next().unwrap().0, 9);
            export.holdings.frontier.set(log, tip);
        });

        assert!(matches!(outcome.await, Err(BundleFailure::Changed)));
    }

    #[tokio::test]
    async fn more_logs_than_a_bundle_names_are_refused() {
        let outcome = export(|export| {
            let device = DeviceId::from_bytes([1; 32]);
            let logs = (0..10_001).map(|n| far(LogId { device, incarnation: Incarnation::new(n) }, 1));
            export.from = logs.collect();
        });

        assert!(matches!(outcome.await, Err(BundleFailure::TooMuch(_))));
    }

    #[tokio::test]
    async fn where_the_receiver_holds_another_history_all_of_it_goes_in() {
        let outcome = export(|export| {
            let (log, _) = export.holdings.frontier.iter().next().unwrap();
            export.from.set(*log, far(*log, 1).1);
        });

        assert_eq!(outcome.await.unwrap().ops, 1);
    }
}
