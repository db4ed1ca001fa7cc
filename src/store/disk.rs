//! The file or memory below the engine, kept across the engine's restarts.

use std::cell::Cell;
use std::io;
use std::ops::{Bound, Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use redb::{BackendError, Builder, Database, StorageBackend};

use super::error::{Part, StoreError};

/// A storage backend that outlives the engine on it.
///
/// After any failed read or write redb refuses everything until it is opened anew, so a disk that
/// was full for a moment would end the process. The store opens a new engine on the same disk.
#[derive(Clone, Debug)]
pub(super) struct Disk(Arc<dyn StorageBackend>);

impl Disk {
    pub(super) fn new(backend: impl StorageBackend) -> Self {
        Self(Arc::new(backend))
    }

    /// Opens the engine, recovering from a crash where there was one.
    pub(super) fn open(&self) -> Result<OpenDatabase, StoreError> {
        // Measured: reads mostly hit the cache of opened blocks above, and the operating system
        // caches the file below; 16 MiB keep the tree's branches and the pages being written.
        guarded(|| {
            let mut builder = Builder::new();
            builder.set_cache_size(CACHE_BYTES);
            Ok(OpenDatabase(Some(builder.create_with_backend(self.clone())?)))
        })
    }
}

/// An open engine, whose closing writes as well and therefore may meet damage.
pub(super) struct OpenDatabase(Option<Database>);

impl Deref for OpenDatabase {
    type Target = Database;

    fn deref(&self) -> &Database {
        self.0.as_ref().expect("only `drop` takes it out")
    }
}

impl DerefMut for OpenDatabase {
    fn deref_mut(&mut self) -> &mut Database {
        self.0.as_mut().expect("only `drop` takes it out")
    }
}

impl Drop for OpenDatabase {
    fn drop(&mut self) {
        let db = self.0.take();
        // What was committed is durable; closing only spares the next start a walk over the file.
        let _ = guarded(|| {
            drop(db);
            Ok(())
        });
    }
}

/// Runs engine code on bytes that may be damaged.
///
/// redb answers damage with errors, but not everywhere: some checks in its tree code are asserts.
/// A damaged file must not take the process down, so a panic becomes the error it stands for.
pub(super) fn guarded<T>(engine: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let outer = IS_GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(engine));
    IS_GUARDED.set(outer);
    outcome.unwrap_or_else(|_| Err(StoreError::damaged(Part::File)))
}

/// Whether a panic on this thread right now becomes a [`StoreError`]: for a panic hook, which should
/// then say nothing, because the caller of the store is told.
pub fn panic_becomes_error() -> bool {
    IS_GUARDED.get()
}

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.query_lock_range(start, end)
    }
}

const CACHE_BYTES: usize = 16 * 1024 * 1024;
