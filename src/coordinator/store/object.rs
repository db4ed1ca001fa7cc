//! Cells as objects of a bucket.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error as StoreError, GetOptions, ObjectStore, PutMode, PutOptions, UpdateVersion};
use thiserror::Error;

use super::cells::{CELL_BYTES_MAX, Cell, CellAnswer, CellError, Cells, Version};

/// Cells as objects below a path of a bucket, replaced by conditional writes: `If-None-Match` and
/// `If-Match` of S3 and Azure, generations of GCS.
#[derive(Clone, Debug)]
pub struct ObjectCells {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
}

/// A store that cannot say which state of an object it gave.
#[derive(Debug, Error)]
#[error("the store names no version of what it holds, so writes cannot be conditional")]
struct NoVersion;

impl ObjectCells {
    /// Cells below `prefix`.
    ///
    /// The store must read its own writes at once and honour conditions of writes, as S3, GCS and
    /// Azure do; retries of its client do no harm, and its request timeouts should be seconds.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        Self { store, prefix }
    }
}

impl Cells for ObjectCells {
    fn read<'a>(&'a self, name: &'a str) -> CellAnswer<'a, Option<Cell>> {
        Box::pin(async move {
            let got = match self.store.get_opts(&self.prefix.clone().join(name), GetOptions::default()).await
            {
                Ok(got) => got,
                Err(StoreError::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(read_error(error)),
            };
            let limit = u64::try_from(CELL_BYTES_MAX).expect("a small number");
            if got.meta.size > limit {
                return Err(CellError::TooLong { found: got.meta.size, limit: CELL_BYTES_MAX });
            }
            let version = Version { e_tag: got.meta.e_tag.clone(), number: got.meta.version.clone() };
            if version.e_tag.is_none() && version.number.is_none() {
                return Err(CellError::Refused(NoVersion.into()));
            }
            Ok(Some(Cell { bytes: got.bytes().await.map_err(read_error)?, version }))
        })
    }

    fn write<'a>(&'a self, name: &'a str, bytes: Bytes, expected: Option<&'a Version>) -> CellAnswer<'a, ()> {
        Box::pin(async move {
            let mode = match expected {
                None => PutMode::Create,
                Some(version) => PutMode::Update(UpdateVersion {
                    e_tag: version.e_tag.clone(),
                    version: version.number.clone(),
                }),
            };
            let options = PutOptions { mode, ..PutOptions::default() };
            match self.store.put_opts(&self.prefix.clone().join(name), bytes.into(), options).await {
                Ok(_) => Ok(()),
                Err(error) => Err(write_error(error)),
            }
        })
    }
}

fn read_error(error: StoreError) -> CellError {
    match write_error(error) {
        CellError::Changed => CellError::Refused(NoVersion.into()),
        other => other,
    }
}

/// Whatever is not known to have been refused may have happened.
fn write_error(error: StoreError) -> CellError {
    match error {
        StoreError::AlreadyExists { .. }
        | StoreError::Precondition { .. }
        | StoreError::NotModified { .. } => CellError::Changed,
        StoreError::NotSupported { .. }
        | StoreError::NotImplemented { .. }
        | StoreError::InvalidPath { .. }
        | StoreError::PermissionDenied { .. }
        | StoreError::Unauthenticated { .. }
        | StoreError::UnknownConfigurationKey { .. } => CellError::Refused(error.into()),
        _ => CellError::Unanswered(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use object_store::local::LocalFileSystem;
    use object_store::memory::InMemory;

    use super::*;

    fn cells(store: impl ObjectStore) -> ObjectCells {
        ObjectCells::new(Arc::new(store), Path::from("fleet"))
    }

    #[tokio::test]
    async fn an_object_is_replaced_only_in_the_state_that_was_seen() {
        let cells = cells(InMemory::new());
        assert!(cells.read("a").await.unwrap().is_none());

        cells.write("a", "one".into(), None).await.unwrap();
        let one = cells.read("a").await.unwrap().unwrap();
        assert!(matches!(cells.write("a", "two".into(), None).await, Err(CellError::Changed)));
        cells.write("a", "three".into(), Some(&one.version)).await.unwrap();
        let late = cells.write("a", "four".into(), Some(&one.version)).await;

        assert!(matches!(late, Err(CellError::Changed)), "{late:?}");
        assert_eq!(cells.read("a").await.unwrap().unwrap().bytes, "three");
    }

    #[tokio::test]
    async fn an_object_that_is_no_lease_is_not_read() {
        let cells = cells(InMemory::new());
        cells.write("a", vec![0; CELL_BYTES_MAX + 1].into(), None).await.unwrap();

        let read = cells.read("a").await;

        assert!(matches!(read, Err(CellError::TooLong { found: 4_097, .. })), "{read:?}");
    }

    #[tokio::test]
    async fn a_store_without_conditional_writes_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let cells = cells(LocalFileSystem::new_with_prefix(directory.path()).unwrap());
        cells.write("a", "one".into(), None).await.unwrap();
        let one = cells.read("a").await.unwrap().unwrap();

        let refused = cells.write("a", "two".into(), Some(&one.version)).await;

        assert!(matches!(refused, Err(CellError::Refused(_))), "{refused:?}");
    }
}
