//! The durable log: sealed batches and small tables in one file, one engine transaction per commit.
//!
//! Owns the store file, its format and its recovery; the cache of opened blocks; index snapshots;
//! the lock of a home. Must never decide anything: it writes what the engine (`sync`) asks for,
//! after checking that it continues what is held, and says when that is durable. Nothing but
//! ciphertext and public bytes reaches the disk.
//!
//! [`Store::commit`] is one redb transaction with one sync: when it returns, the writes survive
//! power loss; when it fails, none of them happened. Read `tables` for the layout, `pack` for how
//! batches share pages, [`fault`] for the disk that the tests break.

mod base;
mod blocks;
mod checkpoints;
mod commit;
mod disk;
mod error;
pub mod fault;
mod index;
mod load;
mod lock;
mod mark;
mod pack;
mod pieces;
mod read;
mod snapshot;
mod tables;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod vaults;

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use redb::StorageBackend;
use redb::backends::FileBackend;

pub(crate) use blocks::Block;
pub use blocks::{BLOCK_CACHE_BYTES, Blocks, KeyRing, OpAt, ReadError};
pub use checkpoints::{HeldCheckpoint, Moments, Wholeness};
pub use disk::panic_becomes_error;
pub use error::{Part, StoreError};
pub use lock::{HomeLock, LockError, network_file_system};
pub use mark::StoreMark;
pub use read::Run;
pub use snapshot::{NoSnapshot, SNAPSHOT_CHUNK_BYTES_MAX, SnapshotError, Truncations};

use crate::sync::{Loaded, Txn, TxnId};
use commit::Writer;
use disk::{Disk, OpenDatabase, guarded};
use index::Index;
use tables::FORMAT;
use vaults::Vaults;

/// A handle to one open store; clones share it.
///
/// Commits are serial, reads run beside them and see whole commits only.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    disk: Disk,
    vaults: Vaults,
    store_id: [u8; 16],
    snapshots: Option<PathBuf>,
    /// Absent after a failure, until the next call opens it anew.
    db: RwLock<Option<OpenDatabase>>,
    index: RwLock<Index>,
    /// Held for the length of a commit.
    doubt: Mutex<Option<Doubt>>,
}

/// A commit that failed while the disk could not be asked whether it happened.
struct Doubt {
    first: TxnId,
    number: u64,
}

impl Store {
    /// Opens the store in `dir`, making folder and store where there is none.
    ///
    /// `local_key` is this device's own; drafts, epoch keys and snapshots are sealed under it.
    ///
    /// # Errors
    /// [`StoreError::NewerFormat`] (nothing was touched), [`StoreError::Damaged`],
    /// [`StoreError::OtherKey`], [`StoreError::InUse`], [`StoreError::NetworkFileSystem`],
    /// [`StoreError::DiskFull`], [`StoreError::ReadOnly`], [`StoreError::Io`].
    pub fn open(dir: &Path, local_key: &[u8; 32]) -> Result<(Self, Loaded), StoreError> {
        make_private_dir(dir)?;
        lock::refuse_network_file_system(dir)?;
        check_format_file(dir)?;
        let path = dir.join(STORE_FILE);
        if !path.try_exists()? {
            // Made under another name: a crash halfway must not leave a store that is damaged.
            let unfinished = dir.join(UNFINISHED_FILE);
            let file = store_file(OpenOptions::new().truncate(true), &unfinished)?;
            drop(Self::open_with(FileBackend::new(file)?, None, local_key)?);
            fs::rename(&unfinished, &path)?;
            sync_dir(dir)?;
        }
        let file = store_file(&mut OpenOptions::new(), &path)?;
        // Made whole before it got its name; the engine would take an empty file for a new one.
        if file.metadata()?.len() == 0 {
            return Err(StoreError::damaged(Part::File));
        }
        Self::open_with(FileBackend::new(file)?, Some(dir), local_key)
    }

    /// Opens a store on any backend; without `snapshots` there is no place for index snapshots.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(
        backend: impl StorageBackend,
        snapshots: Option<&Path>,
        local_key: &[u8; 32],
    ) -> Result<(Self, Loaded), StoreError> {
        let disk = Disk::new(backend);
        let vaults = Vaults::new(local_key);
        let db = disk.open()?;
        let opened = load::open(&db, &vaults)?;
        let loaded = load::load(&db, &vaults, &opened.index)?;
        let mut index = opened.index;
        note_draft_ends(&mut index, &loaded);
        let store = Self(Arc::new(Inner {
            disk,
            vaults,
            store_id: opened.store_id,
            snapshots: snapshots.map(Path::to_path_buf),
            db: RwLock::new(Some(db)),
            index: RwLock::new(index),
            doubt: Mutex::new(None),
        }));
        Ok((store, loaded))
    }

    /// Its file; `None` on a backend of its own.
    pub fn path(&self) -> Option<PathBuf> {
        self.0.snapshots.as_deref().map(|dir| dir.join(STORE_FILE))
    }

    /// How long its file is, in bytes; 0 on a backend of its own.
    pub fn file_bytes(&self) -> u64 {
        self.path().and_then(|path| fs::metadata(path).ok()).map_or(0, |file| file.len())
    }

    /// Gives back to the disk what of the file nothing lies in any more. Nobody reads or writes meanwhile:
    /// about a second per 100 MiB that are left.
    ///
    /// # Errors
    /// Those of the disk; what is stored stays whole, and the file as long as it was.
    pub fn compact(&self) -> Result<(), StoreError> {
        drop(self.engine()?);
        let mut db = write_lock(&self.0.db);
        let Some(open) = db.as_mut() else { return Ok(()) };
        let done = guarded(|| {
            open.compact()?;
            Ok(())
        });
        if done.is_err() {
            // The next call opens it anew, which puts it in order.
            db.take();
        }
        done
    }

    /// Writes these transactions in order, all or none; they are durable when this returns.
    ///
    /// After an error nothing of them is written, unless [`StoreError::Io`] or
    /// [`StoreError::DiskFull`] also kept the store from being opened anew: then a retry of the
    /// same transactions settles it, and succeeds at once if they were written after all.
    ///
    /// # Errors
    /// [`StoreError::NotContiguous`], [`StoreError::NoBody`], [`StoreError::UnknownSpace`] and
    /// [`StoreError::DraftsUnsealed`] for what does not fit what is held; [`StoreError::DiskFull`],
    /// [`StoreError::ReadOnly`], [`StoreError::Io`] and [`StoreError::Damaged`] from the disk.
    pub fn commit(&self, txns: &[Txn]) -> Result<(), StoreError> {
        let Some(first) = txns.first().map(|txn| txn.id) else {
            return Ok(());
        };
        let mut doubt = lock_mutex(&self.0.doubt);
        let db = self.engine()?;
        let committed = read_lock(&self.0.index).commits;
        if let Some(settled) = doubt.take()
            && settled.first == first
            && committed >= settled.number
        {
            return Ok(());
        }
        let failure = match self.write(&db, txns) {
            Ok(changes) => {
                write_lock(&self.0.index).merge(changes);
                return Ok(());
            }
            Err(error) if !error.spoils_engine() => return Err(error),
            Err(error) => error,
        };
        drop(db);
        self.close_engine();
        // Only the disk knows whether the failed commit reached it.
        match self.engine() {
            Ok(_) if read_lock(&self.0.index).commits > committed => Ok(()),
            Ok(_) => Err(failure),
            Err(_) => {
                *doubt = Some(Doubt { first, number: committed + 1 });
                Err(failure)
            }
        }
    }

    fn write(&self, db: &Engine<'_>, txns: &[Txn]) -> Result<Index, StoreError> {
        guarded(|| {
            let base = read_lock(&self.0.index);
            let mut txn = db.get().begin_write()?;
            txn.set_quick_repair(QUICK_REPAIR);
            let mut writer = Writer::new(&txn, &self.0.vaults, &base);
            for write in txns.iter().flat_map(|txn| &txn.writes) {
                writer.apply(write)?;
            }
            let changes = writer.finish()?;
            txn.commit()?;
            Ok(changes)
        })
    }

    /// The engine, opened anew if a failure closed it.
    fn engine(&self) -> Result<Engine<'_>, StoreError> {
        let db = read_lock(&self.0.db);
        if db.is_some() {
            return Ok(Engine(db));
        }
        drop(db);
        let mut db = write_lock(&self.0.db);
        if db.is_none() {
            let opened = self.0.disk.open()?;
            let mut index = load::open(&opened, &self.0.vaults)?.index;
            let loaded = load::load(&opened, &self.0.vaults, &index)?;
            note_draft_ends(&mut index, &loaded);
            *write_lock(&self.0.index) = index;
            *db = Some(opened);
        }
        drop(db);
        let db = read_lock(&self.0.db);
        // Another thread may have met a failure in between; its caller was told, ours may retry.
        if db.is_none() { Err(StoreError::Io(io::ErrorKind::Interrupted.into())) } else { Ok(Engine(db)) }
    }

    /// Drops an engine that met a failure. No [`Engine`] may be held by this thread.
    fn close_engine(&self) {
        write_lock(&self.0.db).take();
    }
}

/// The engine, held open for one use.
struct Engine<'a>(RwLockReadGuard<'a, Option<OpenDatabase>>);

impl Engine<'_> {
    fn get(&self) -> &redb::Database {
        self.0.as_ref().expect("`Store::engine` hands out an open engine only")
    }
}

fn note_draft_ends(index: &mut Index, loaded: &Loaded) {
    for space in &loaded.spaces {
        for group in &space.drafts {
            if let Some(log_ix) = index.log_ix(&space.space, &group.log) {
                index.set_draft_end(log_ix, group.last());
            }
        }
    }
}

fn make_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

fn store_file(options: &mut OpenOptions, path: &Path) -> io::Result<fs::File> {
    options.read(true).write(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options.open(path)
}

/// Reads the file that names the format, before the engine touches anything; makes it where absent.
fn check_format_file(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(FORMAT_FILE);
    let text = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut file = fs::File::create(&path)?;
            writeln!(file, "{FORMAT}")?;
            file.sync_all()?;
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let found: u32 = match std::str::from_utf8(&text).map(|text| text.trim().parse()) {
        Ok(Ok(found)) => found,
        // A crash while the store was made leaves it empty; the format stands in the store as well.
        _ if text.is_empty() => return Ok(()),
        _ => return Err(StoreError::damaged(Part::Format)),
    };
    match found {
        FORMAT => Ok(()),
        found if found > FORMAT => Err(StoreError::NewerFormat { found, known: FORMAT }),
        _ => Err(StoreError::damaged(Part::Format)),
    }
}

/// Makes the names in a folder durable.
fn sync_dir(dir: &Path) -> io::Result<()> {
    #[cfg(unix)]
    fs::File::open(dir)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}

// A panic below is caught and becomes an error, and every guarded value is whole between statements.
fn read_lock<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write_lock<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

fn lock_mutex<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

const STORE_FILE: &str = "log.redb";
const UNFINISHED_FILE: &str = "log.redb.new";
const FORMAT_FILE: &str = "format";

/// Whether every commit also saves the free list, which spares the walk over the file after a crash.
///
/// Measured at 1M ops (53 MB): with it a small commit takes 0.39 ms instead of 0.20, because it
/// syncs twice, and opening after a kill 19 ms instead of 38. The walk also checks every page, so
/// the slower start is the safer one, and a clean stop never walks.
const QUICK_REPAIR: bool = false;
