//! Cells in a directory that several processes share.
//!
//! A cell is a file, replaced by renaming another over it, under a lock of the operating system that
//! ends with its process. A process that dies at any point leaves the old value or the new one, and no
//! lock. For machines that share a disk or a mounted folder whose server keeps locks; a folder that a
//! program copies from machine to machine keeps none and must not be used.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::cells::{CELL_BYTES_MAX, Cell, CellAnswer, CellError, Cells, Version};
use super::record::hex;

/// Cells as files of one directory.
#[derive(Clone, Debug)]
pub struct DirectoryCells {
    directory: PathBuf,
}

impl DirectoryCells {
    /// Cells in this directory, which is made where it is absent.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Cells for DirectoryCells {
    fn read<'a>(&'a self, name: &'a str) -> CellAnswer<'a, Option<Cell>> {
        let path = self.path(name);
        Box::pin(async move { beside(move || read(&path)).await })
    }

    fn write<'a>(&'a self, name: &'a str, bytes: Bytes, expected: Option<&'a Version>) -> CellAnswer<'a, ()> {
        let (path, expected) = (self.path(name), expected.cloned());
        // Once begun it runs to its end, also where nobody waits for it.
        Box::pin(async move { beside(move || write(&path, &bytes, expected.as_ref())).await })
    }
}

async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CellError> + Send + 'static,
) -> Result<T, CellError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // The program is ending; whether the work began is not known.
        Err(error) => Err(CellError::Unanswered(Box::new(error))),
    }
}

fn read(path: &Path) -> Result<Option<Cell>, CellError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CellError::Unanswered(error.into())),
    };
    let mut bytes = Vec::new();
    let limit = u64::try_from(CELL_BYTES_MAX).expect("a small number");
    (&mut file)
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| CellError::Unanswered(error.into()))?;
    if bytes.len() > CELL_BYTES_MAX {
        let found = file.metadata().map_or(limit + 1, |about| about.len());
        return Err(CellError::TooLong { found, limit: CELL_BYTES_MAX });
    }
    let version = Version { e_tag: Some(hex(blake3::hash(&bytes).as_bytes())), number: None };
    Ok(Some(Cell { bytes: bytes.into(), version }))
}

fn write(path: &Path, bytes: &[u8], expected: Option<&Version>) -> Result<(), CellError> {
    let refused = |error: io::Error| CellError::Refused(error.into());
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.with_extension("lock"))
        .map_err(refused)?;
    lock.lock().map_err(refused)?;
    let written = replace(path, bytes, expected);
    // Closing alone is not enough: a program that is just being started holds a copy of the file.
    let _ = lock.unlock();
    written
}

/// Replaces the file, under the lock.
fn replace(path: &Path, bytes: &[u8], expected: Option<&Version>) -> Result<(), CellError> {
    let refused = |error: io::Error| CellError::Refused(error.into());
    let found = read(path)?;
    if found.as_ref().map(|cell| &cell.version) != expected {
        return Err(CellError::Changed);
    }
    let beside = path.with_extension("new");
    let mut file = File::create(&beside).map_err(refused)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(refused)?;
    fs::rename(&beside, path).map_err(refused)?;
    // From here on others see it; until the directory is on the disk, a loss of power may undo it.
    sync_directory(path).map_err(|error| CellError::Unanswered(error.into()))
}

#[cfg(unix)]
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn written(
        cells: &DirectoryCells,
        bytes: &'static str,
        expected: Option<&Version>,
    ) -> Result<(), CellError> {
        cells.write("a.lease", Bytes::from_static(bytes.as_bytes()), expected).await
    }

    #[tokio::test]
    async fn a_cell_is_replaced_only_in_the_state_that_was_seen() {
        let directory = tempfile::tempdir().unwrap();
        let cells = DirectoryCells::open(directory.path().join("new")).unwrap();
        assert!(cells.read("a.lease").await.unwrap().is_none());

        written(&cells, "one", None).await.unwrap();
        let one = cells.read("a.lease").await.unwrap().unwrap();
        assert_eq!(one.bytes, "one");
        assert!(matches!(written(&cells, "two", None).await, Err(CellError::Changed)));
        written(&cells, "three", Some(&one.version)).await.unwrap();
        assert!(matches!(written(&cells, "four", Some(&one.version)).await, Err(CellError::Changed)));

        assert_eq!(cells.read("a.lease").await.unwrap().unwrap().bytes, "three");
    }

    #[tokio::test]
    async fn what_a_dead_process_left_behind_is_in_nobody_s_way() {
        let directory = tempfile::tempdir().unwrap();
        let cells = DirectoryCells::open(directory.path()).unwrap();
        fs::write(directory.path().join("a.new"), "half a rec").unwrap();
        fs::write(directory.path().join("a.lock"), "").unwrap();

        written(&cells, "one", None).await.unwrap();

        assert_eq!(cells.read("a.lease").await.unwrap().unwrap().bytes, "one");
    }

    #[tokio::test]
    async fn a_file_that_is_no_lease_is_not_read_to_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let cells = DirectoryCells::open(directory.path()).unwrap();
        fs::write(directory.path().join("a.lease"), vec![b'x'; CELL_BYTES_MAX + 9]).unwrap();

        let read = cells.read("a.lease").await;

        assert!(matches!(read, Err(CellError::TooLong { found, .. }) if found == 4_105), "{read:?}");
    }

    #[tokio::test]
    async fn a_directory_that_may_not_be_written_refuses() {
        let directory = tempfile::tempdir().unwrap();
        let cells = DirectoryCells::open(directory.path().join("gone")).unwrap();
        fs::remove_dir(directory.path().join("gone")).unwrap();

        let refused = written(&cells, "one", None).await;

        assert!(matches!(refused, Err(CellError::Refused(_))), "{refused:?}");
    }
}
