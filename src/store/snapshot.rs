//! Index snapshots: one file per space that spares a start from folding every log again.
//!
//! | part | bytes | meaning |
//! |---|---|---|
//! | magic | 4 | `KFS2` |
//! | snapshot id | 16 | random, bound into every block |
//! | blocks | | length u32 BE ‖ vault(kind 0 ‖ zstd frame of chunks, each length u32 BE ‖ bytes) |
//! | footer | | length u32 BE ‖ vault(kind 1 ‖ chunk count u64 BE ‖ BLAKE3 of all chunks 32) |
//!
//! Blocks are bound to store, space, the number of truncations there, snapshot and position, so none can
//! be left out, moved or brought over, and none opens once a log it was folded from has been
//! truncated; a file without its footer was cut short. A snapshot is only ever a shortcut: any
//! defect means that there is none.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use thiserror::Error;
use zeroize::Zeroizing;

use super::vaults::fresh;
use super::{Store, read_lock, sync_dir};
use crate::crypto::vault;
use crate::model::SpaceId;

/// Why a snapshot was not written; the one before is still there.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The store has no folder for snapshots.
    #[error("this store has no folder for snapshots")]
    NoFolder,
    /// A chunk beyond the limit.
    #[error("a chunk of {found} bytes exceeds the limit of {limit}")]
    ChunkTooLong {
        /// Its length.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// The operating system refused.
    #[error("the snapshot was not written, the next start takes longer")]
    Io(#[from] io::Error),
}

/// Why there is no snapshot to start from; folding the logs gives the same state.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NoSnapshot {
    /// None was written.
    #[error("there is no snapshot")]
    Absent,
    /// Another format, or no snapshot at all.
    #[error("the snapshot begins with {found:02x?}, which is not known here")]
    Magic {
        /// The first bytes.
        found: [u8; 4],
    },
    /// The file ends early.
    #[error("the snapshot is cut short")]
    Truncated,
    /// A block does not open in its place: spoiled, or of another store.
    #[error("block {index} of the snapshot is damaged or belongs to another store")]
    Block {
        /// Which, from 0.
        index: u64,
    },
    /// The footer does not fit what came before, or something follows it.
    #[error("the footer of the snapshot does not fit its content")]
    Footer,
    /// The reader did not want the content.
    #[error("the content of the snapshot was refused")]
    Refused,
    /// The operating system refused.
    #[error("the snapshot cannot be read")]
    Io(#[source] io::Error),
}

/// How often logs of a space have been truncated: what was folded under another number has folded ops
/// that are gone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Truncations(u64);

impl Truncations {
    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl Store {
    /// How often logs of a space have been truncated, as committed.
    pub fn truncations(&self, space: &SpaceId) -> Truncations {
        Truncations(read_lock(&self.0.index).truncations(space))
    }

    /// Removes the snapshot of a space, where there is one: the next start folds its log.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn discard_snapshot(&self, space: &SpaceId) -> io::Result<()> {
        let (Some(dir), Ok(path)) = (self.0.snapshots.as_deref(), self.snapshot_path(space)) else {
            return Ok(());
        };
        match fs::remove_file(path) {
            Ok(()) => sync_dir(dir),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes a snapshot of a space as it was folded since `truncations`: `produce` passes it chunk by chunk, each up to
    /// [`SNAPSHOT_CHUNK_BYTES_MAX`]. It replaces the one before once it is whole and durable.
    ///
    /// # Errors
    /// Every variant of [`SnapshotError`].
    pub fn save_snapshot(
        &self,
        space: &SpaceId,
        truncations: Truncations,
        produce: impl FnOnce(&mut dyn FnMut(&[u8])),
    ) -> Result<(), SnapshotError> {
        let dir = self.0.snapshots.as_deref().ok_or(SnapshotError::NoFolder)?;
        let path = self.snapshot_path(space)?;
        let temporary = path.with_extension("kfs.new");
        let result = self.write_snapshot(space, truncations, &temporary, produce).and_then(|()| {
            fs::rename(&temporary, &path)?;
            Ok(sync_dir(dir)?)
        });
        if result.is_err() {
            // Half a snapshot is of no use; leaving it behind would only cost space.
            let _ = fs::remove_file(&temporary);
        }
        result
    }

    /// Reads the snapshot of a space, passing the chunks to `accept` as they were saved.
    ///
    /// Whatever was accepted must be dropped if this fails: the last block tells that all are there.
    /// None opens that was saved before a log of the space was truncated. Beyond that, nothing here
    /// says how old the content is; compare its frontier with the store's.
    ///
    /// # Errors
    /// Every variant of [`NoSnapshot`].
    pub fn load_snapshot(
        &self,
        space: &SpaceId,
        mut accept: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), NoSnapshot> {
        let path = self.snapshot_path(space).map_err(|_| NoSnapshot::Absent)?;
        let mut file = match File::open(&path) {
            Ok(file) => BufReader::with_capacity(FILE_BUFFER_BYTES, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(NoSnapshot::Absent),
            Err(error) => return Err(NoSnapshot::Io(error)),
        };
        let magic: [u8; 4] = read_array(&mut file)?;
        if &magic != MAGIC {
            return Err(NoSnapshot::Magic { found: magic });
        }
        let context = self.snapshot_context(space, self.truncations(space), read_array(&mut file)?);
        let mut decompressor = zstd::bulk::Decompressor::new().map_err(NoSnapshot::Io)?;
        let mut hasher = blake3::Hasher::new();
        let mut chunk_count = 0u64;
        for index in 0.. {
            let damaged = || NoSnapshot::Block { index };
            let plain = self.read_block(&mut file, &context, index)?;
            let (kind, rest) = plain.split_first().ok_or_else(damaged)?;
            match *kind {
                KIND_CHUNKS => {
                    let chunks = decompressor.decompress(rest, BLOCK_BYTES_MAX).map_err(|_| damaged())?;
                    let mut rest = &chunks[..];
                    while !rest.is_empty() {
                        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
                        let length = u32::from_be_bytes(*length) as usize;
                        let (chunk, after) = after.split_at_checked(length).ok_or_else(damaged)?;
                        hasher.update(chunk);
                        chunk_count += 1;
                        if accept(chunk).is_break() {
                            return Err(NoSnapshot::Refused);
                        }
                        rest = after;
                    }
                }
                KIND_FOOTER => {
                    let is_end = file.read(&mut [0]).map_err(NoSnapshot::Io)? == 0;
                    let expected = footer(chunk_count, &hasher);
                    return if is_end && rest == &expected[1..] { Ok(()) } else { Err(NoSnapshot::Footer) };
                }
                _ => return Err(damaged()),
            }
        }
        Err(NoSnapshot::Truncated)
    }

    fn write_snapshot(
        &self,
        space: &SpaceId,
        truncations: Truncations,
        path: &std::path::Path,
        produce: impl FnOnce(&mut dyn FnMut(&[u8])),
    ) -> Result<(), SnapshotError> {
        let id: [u8; 16] = fresh()?;
        let mut file = BufWriter::with_capacity(FILE_BUFFER_BYTES, File::create(path)?);
        file.write_all(MAGIC)?;
        file.write_all(&id)?;
        let mut writer = BlockWriter {
            store: self,
            file,
            context: self.snapshot_context(space, truncations, id),
            compressor: zstd::bulk::Compressor::new(COMPRESSION_LEVEL)?,
            chunks: Zeroizing::new(Vec::with_capacity(BLOCK_BYTES)),
            hasher: blake3::Hasher::new(),
            chunk_count: 0,
            block_count: 0,
        };
        let mut result = Ok(());
        produce(&mut |chunk| {
            if result.is_ok() {
                result = writer.chunk(chunk);
            }
        });
        result?;
        Ok(writer.finish()?.sync_all()?)
    }

    fn read_block(
        &self,
        file: &mut impl Read,
        context: &[u8],
        index: u64,
    ) -> Result<Zeroizing<Vec<u8>>, NoSnapshot> {
        let length = u32::from_be_bytes(read_array(file)?) as usize;
        if length > SEALED_BYTES_MAX {
            return Err(NoSnapshot::Block { index });
        }
        let mut sealed = vec![0; length];
        read_exact(file, &mut sealed)?;
        self.0.vaults.open(&block_context(context, index), &sealed).ok_or(NoSnapshot::Block { index })
    }

    fn snapshot_path(&self, space: &SpaceId) -> Result<PathBuf, SnapshotError> {
        let dir = self.0.snapshots.as_deref().ok_or(SnapshotError::NoFolder)?;
        let mut name = "index-".to_owned();
        for byte in &space.as_bytes()[..8] {
            write!(name, "{byte:02x}").expect("writing to a string does not fail");
        }
        name.push_str(".kfs");
        Ok(dir.join(name))
    }

    fn snapshot_context(&self, space: &SpaceId, truncations: Truncations, id: [u8; 16]) -> Vec<u8> {
        let truncations = truncations.0.to_be_bytes();
        [&b"snapshot"[..], &self.0.store_id, space.as_bytes(), &truncations, &id].concat()
    }
}

/// Gathers chunks into blocks and seals them.
struct BlockWriter<'a> {
    store: &'a Store,
    file: BufWriter<File>,
    context: Vec<u8>,
    compressor: zstd::bulk::Compressor<'static>,
    chunks: Zeroizing<Vec<u8>>,
    hasher: blake3::Hasher,
    chunk_count: u64,
    block_count: u64,
}

impl BlockWriter<'_> {
    fn chunk(&mut self, chunk: &[u8]) -> Result<(), SnapshotError> {
        if chunk.len() > SNAPSHOT_CHUNK_BYTES_MAX {
            return Err(SnapshotError::ChunkTooLong { found: chunk.len(), limit: SNAPSHOT_CHUNK_BYTES_MAX });
        }
        let length = u32::try_from(chunk.len()).expect("the limit fits 32 bits");
        self.chunks.extend_from_slice(&length.to_be_bytes());
        self.chunks.extend_from_slice(chunk);
        self.hasher.update(chunk);
        self.chunk_count += 1;
        if self.chunks.len() >= BLOCK_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunks.is_empty() {
            return Ok(());
        }
        let mut plain = Zeroizing::new(vec![KIND_CHUNKS]);
        plain.extend_from_slice(&self.compressor.compress(&self.chunks)?);
        self.chunks.clear();
        self.block(&plain)
    }

    fn block(&mut self, plain: &[u8]) -> io::Result<()> {
        let sealed = self.store.0.vaults.seal(&block_context(&self.context, self.block_count), plain)?;
        let length = u32::try_from(sealed.len()).expect("blocks are bounded");
        self.file.write_all(&length.to_be_bytes())?;
        self.file.write_all(&sealed)?;
        self.block_count += 1;
        Ok(())
    }

    fn finish(mut self) -> io::Result<File> {
        self.flush()?;
        let footer = footer(self.chunk_count, &self.hasher);
        self.block(&footer)?;
        Ok(self.file.into_inner()?)
    }
}

fn footer(chunk_count: u64, hasher: &blake3::Hasher) -> Vec<u8> {
    [&[KIND_FOOTER][..], &chunk_count.to_be_bytes(), hasher.finalize().as_bytes()].concat()
}

fn block_context(context: &[u8], index: u64) -> Vec<u8> {
    [context, &index.to_be_bytes()].concat()
}

fn read_array<const N: usize>(file: &mut impl Read) -> Result<[u8; N], NoSnapshot> {
    let mut bytes = [0; N];
    read_exact(file, &mut bytes)?;
    Ok(bytes)
}

fn read_exact(file: &mut impl Read, bytes: &mut [u8]) -> Result<(), NoSnapshot> {
    file.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => NoSnapshot::Truncated,
        _ => NoSnapshot::Io(error),
    })
}

const MAGIC: &[u8; 4] = b"KFS2";
const KIND_CHUNKS: u8 = 0;
const KIND_FOOTER: u8 = 1;

/// Greatest chunk: sixteen times what the fold writes.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Chunks are gathered up to this length before they are compressed and sealed.
const BLOCK_BYTES: usize = 256 * 1024;

/// A block that was just short of its length, and one greatest chunk.
const BLOCK_BYTES_MAX: usize = BLOCK_BYTES + 4 + SNAPSHOT_CHUNK_BYTES_MAX;

/// The same, sealed, where it did not compress.
const SEALED_BYTES_MAX: usize = BLOCK_BYTES_MAX + BLOCK_BYTES_MAX / 128 + 1024 + vault::OVERHEAD_BYTES;

/// Measured: level 1 reads and writes faster than the disk; higher levels gain little.
const COMPRESSION_LEVEL: i32 = 1;

const FILE_BUFFER_BYTES: usize = 512 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fault::FaultDisk;
    use crate::store::testing::LOCAL_KEY;

    const SPACE: SpaceId = SpaceId::from_bytes([7; 32]);

    fn store(dir: &std::path::Path) -> Store {
        Store::open_with(FaultDisk::new(), Some(dir), &LOCAL_KEY).unwrap().0
    }

    fn chunks() -> Vec<Vec<u8>> {
        let mut chunks: Vec<Vec<u8>> =
            (0..300u32).map(|index| index.to_be_bytes().repeat(1 + index as usize * 3)).collect();
        chunks.push(Vec::new());
        chunks.push(vec![1; SNAPSHOT_CHUNK_BYTES_MAX]);
        chunks
    }

    fn save(store: &Store) {
        store
            .save_snapshot(&SPACE, Truncations::default(), |sink| {
                chunks().iter().for_each(|chunk| sink(chunk))
            })
            .unwrap();
    }

    fn load(store: &Store) -> Result<Vec<Vec<u8>>, NoSnapshot> {
        let mut chunks = Vec::new();
        store.load_snapshot(&SPACE, |chunk| {
            chunks.push(chunk.to_vec());
            ControlFlow::Continue(())
        })?;
        Ok(chunks)
    }

    #[test]
    fn chunks_load_as_they_were_saved() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        assert!(matches!(load(&store), Err(NoSnapshot::Absent)));

        save(&store);

        assert_eq!(load(&store).unwrap(), chunks());
        store.save_snapshot(&SPACE, Truncations::default(), |_| ()).unwrap();
        assert_eq!(load(&store).unwrap(), Vec::<Vec<u8>>::new());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing temporary is left");
    }

    #[test]
    fn every_defect_means_that_there_is_no_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        save(&store);
        let path = store.snapshot_path(&SPACE).unwrap();
        let good = fs::read(&path).unwrap();
        let with = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            load(&store)
        };

        for length in (0..good.len()).step_by(97) {
            assert!(matches!(with(&good[..length]), Err(NoSnapshot::Truncated)), "{length} bytes");
        }
        for at in (0..good.len()).step_by(89) {
            let mut spoiled = good.clone();
            spoiled[at] ^= 4;
            let result = with(&spoiled);
            assert!(
                matches!(
                    result,
                    Err(NoSnapshot::Magic { .. } | NoSnapshot::Block { .. } | NoSnapshot::Truncated)
                ),
                "byte {at}: {result:?}"
            );
        }
        assert!(matches!(with(&[&good[..], b"x"].concat()), Err(NoSnapshot::Footer)));
        assert!(with(&good).is_ok());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(load(&store), Err(NoSnapshot::Io(_))));
    }

    #[test]
    fn a_snapshot_belongs_to_its_store_and_its_reader_may_refuse_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = store(dir.path());
        save(&first);

        assert!(matches!(load(&store(dir.path())), Err(NoSnapshot::Block { index: 0 })));
        let refused = first.load_snapshot(&SPACE, |_| ControlFlow::Break(()));
        assert!(matches!(refused, Err(NoSnapshot::Refused)));
    }

    #[test]
    fn a_snapshot_that_cannot_be_written_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let first = store(dir.path());
        save(&first);

        let long = first.save_snapshot(&SPACE, Truncations::default(), |sink| {
            sink(&[0]);
            sink(&vec![0; SNAPSHOT_CHUNK_BYTES_MAX + 1]);
            sink(&[0]);
        });
        assert!(matches!(long, Err(SnapshotError::ChunkTooLong { .. })));
        assert_eq!(load(&first).unwrap(), chunks());
        let gone = store(&dir.path().join("gone")).save_snapshot(&SPACE, Truncations::default(), |_| ());
        assert!(matches!(gone, Err(SnapshotError::Io(_))));
        let nowhere = Store::open_with(FaultDisk::new(), None, &LOCAL_KEY).unwrap().0;
        assert!(matches!(
            nowhere.save_snapshot(&SPACE, Truncations::default(), |_| ()),
            Err(SnapshotError::NoFolder)
        ));
    }
}
