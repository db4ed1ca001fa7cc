//! Reading and writing a drop box.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_core::Stream;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

use super::error::DropboxError;
use super::inventory::{Inventory, OBJECTS_MAX, Object, README};
use super::name::ObjectName;
use super::place::Place;
use crate::crypto::Identity;
use crate::model::{ScopeTag, SpaceId, Wall};
use crate::wire::bundle::ChunkEntry;
use crate::wire::{BundleError, BundleHead};

/// The objects of one space at one place.
#[derive(Clone, Debug)]
pub struct Shelf {
    store: Arc<dyn ObjectStore>,
    /// Where they are in a bucket; in a folder the store is theirs alone.
    within: ObjectPath,
    folder: Option<PathBuf>,
}

impl Shelf {
    /// Opens a place that was made with [`Shelf::make`].
    ///
    /// # Errors
    /// [`DropboxError::Gone`] where the folder is not there: it is not made anew, because what is not
    /// mounted would then fill another disk. [`DropboxError::Place`], [`DropboxError::Store`].
    pub fn open(place: &Place, space: &SpaceId) -> Result<Self, DropboxError> {
        match place {
            Place::Folder(folder) => {
                let folder = folder.join(name_of(space));
                if !folder.is_dir() {
                    return Err(DropboxError::Gone);
                }
                // What is put there is on the disk when it is said to be there: then the stick may go.
                let store = LocalFileSystem::new_with_prefix(&folder)?.with_fsync(true);
                Ok(Self { store: Arc::new(store), within: ObjectPath::default(), folder: Some(folder) })
            }
            Place::Bucket(_) => {
                let (store, path) = place.bucket()?;
                Ok(Self { store, within: path.join(name_of(space).as_str()), folder: None })
            }
        }
    }

    /// Makes the place of a space, and says there what it is; where it is made already that is all.
    ///
    /// # Errors
    /// [`DropboxError::Gone`], [`DropboxError::ReadOnly`], [`DropboxError::Full`],
    /// [`DropboxError::Place`], [`DropboxError::Store`].
    pub async fn make(place: &Place, space: &SpaceId) -> Result<Self, DropboxError> {
        if let Place::Folder(folder) = place {
            if !folder.is_dir() {
                return Err(DropboxError::Gone);
            }
            match fs::create_dir(folder.join(name_of(space))) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(DropboxError::of_io(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        let shelf = Self::open(place, space)?;
        shelf.store.put(&shelf.path(README), PutPayload::from_static(README_TEXT.as_bytes())).await?;
        Ok(shelf)
    }

    /// Looks at everything there.
    ///
    /// # Errors
    /// [`DropboxError::Gone`], [`DropboxError::TooManyObjects`], [`DropboxError::Store`].
    pub async fn look(&self) -> Result<Inventory, DropboxError> {
        let files = match self.folder.clone() {
            // By hand, because a file with an odd name ends the listing of the store.
            Some(folder) => {
                let listed = tokio::task::spawn_blocking(move || list_folder(&folder, OBJECTS_MAX)).await;
                listed.expect("listing does not panic and is not aborted")?
            }
            None => self.list_bucket().await?,
        };
        Ok(Inventory::of(files))
    }

    async fn list_bucket(&self) -> Result<Vec<Object>, DropboxError> {
        let mut listing = self.store.list(Some(&self.within));
        let mut files = Vec::new();
        while let Some(meta) = next(&mut listing).await {
            let meta = meta?;
            let Some(file) = meta.location.filename() else { continue };
            let stamp = meta.e_tag.unwrap_or_else(|| meta.last_modified.to_string());
            files.push(Object { file: file.to_owned(), bytes: meta.size, stamp });
            if files.len() > OBJECTS_MAX {
                return Err(DropboxError::TooManyObjects { limit: OBJECTS_MAX });
            }
        }
        Ok(files)
    }

    /// Reads an object; `None` where no file holds what the name says, or none is there any more.
    ///
    /// # Errors
    /// [`DropboxError::Store`] and its like.
    pub async fn get(&self, name: &ObjectName, files: &[Object]) -> Result<Option<Bytes>, DropboxError> {
        if name.bytes > OBJECT_BYTES_MAX {
            return Ok(None);
        }
        for file in files {
            let read = match self.store.get(&self.path(&file.file)).await {
                Ok(found) if found.meta.size == name.bytes => found.bytes().await,
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            match read {
                Ok(bytes) if name.names(&bytes) => return Ok(Some(bytes)),
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Puts an object there; it is whole under its name when this returns, and before that not there.
    ///
    /// # Errors
    /// [`DropboxError::Gone`], [`DropboxError::ReadOnly`], [`DropboxError::Full`],
    /// [`DropboxError::Store`].
    pub async fn put(&self, name: &ObjectName, bytes: Bytes) -> Result<(), DropboxError> {
        // The store would make the folder.
        if self.folder.as_ref().is_some_and(|folder| !folder.is_dir()) {
            return Err(DropboxError::Gone);
        }
        self.store.put(&self.path(&name.to_string()), PutPayload::from_bytes(bytes)).await?;
        Ok(())
    }

    /// Takes an object away, under its own name only.
    ///
    /// # Errors
    /// [`DropboxError::ReadOnly`], [`DropboxError::Store`].
    pub async fn delete(&self, name: &ObjectName) -> Result<(), DropboxError> {
        match self.store.delete(&self.path(&name.to_string())).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn path(&self, file: &str) -> ObjectPath {
        // Blanks, brackets and the like are put into the form that the store takes.
        self.within.clone().join(file)
    }
}

/// The bytes of an object: a bundle whose head names no frontiers, because its name does.
///
/// # Errors
/// [`BundleError::TooMany`].
pub fn object(
    identity: &Identity,
    scope: ScopeTag,
    wall: Wall,
    chunks: &[(ChunkEntry, Bytes)],
) -> Result<Bytes, BundleError> {
    let entries = chunks.iter().map(|(entry, _)| *entry).collect();
    let exporter = identity.device();
    let head = BundleHead { scope, exporter, wall, from: Vec::new(), to: Vec::new(), chunks: entries };
    let mut bytes = head.sign(identity)?;
    chunks.iter().for_each(|(_, chunk)| bytes.extend_from_slice(chunk));
    Ok(bytes.into())
}

/// The folder of a space: different for every space, and nobody who is not in it knows whose.
fn name_of(space: &SpaceId) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"kinfold drop box v1");
    hasher.update(space.as_bytes());
    let tag = hasher.finalize().to_hex();
    format!("kinfold-{}", &tag[..16])
}

fn list_folder(folder: &Path, limit: usize) -> Result<Vec<Object>, DropboxError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(DropboxError::Gone),
        entries => entries.map_err(|error| DropboxError::Store(error.into()))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| DropboxError::Store(error.into()))?;
        // One that has gone in between, or is of a kind that has no length, is none.
        let Ok(meta) = fs::metadata(entry.path()) else { continue };
        if meta.is_file() {
            let stamp = format!("{:?}", meta.modified().ok());
            let file = entry.file_name().to_string_lossy().into_owned();
            files.push(Object { file, bytes: meta.len(), stamp });
        }
        if files.len() > limit {
            return Err(DropboxError::TooManyObjects { limit });
        }
    }
    Ok(files)
}

async fn next<S: Stream + ?Sized>(stream: &mut Pin<Box<S>>) -> Option<S::Item> {
    std::future::poll_fn(|context| stream.as_mut().poll_next(context)).await
}

/// Greatest object: a chunk more than what they are filled up to, and a head.
pub const OBJECT_BYTES_MAX: u64 = 16 * 1024 * 1024;

const README_TEXT: &str = "\
This folder is a drop box of kinfold: devices leave sealed changes here for each other.
It can be read by nobody who is not one of these devices. Nothing in it needs your care.
Do not edit or rename the files. To end it, run `kinfold dropbox rm` on every device,
and delete the folder then.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dropbox::{Kind, WriterTag};
    use crate::model::DeviceId;

    fn space() -> SpaceId {
        SpaceId::from_bytes([1; 32])
    }

    fn named(bytes: &[u8]) -> ObjectName {
        ObjectName::new(Kind::Acks, WriterTag::of(&space(), &DeviceId::from_bytes([2; 32])), bytes)
    }

    #[tokio::test]
    async fn what_was_put_there_is_found_until_it_is_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::parse(folder.path().to_str().unwrap()).unwrap();
        let shelf = Shelf::make(&place, &space()).await.unwrap();
        let name = named(b"held");

        shelf.put(&name, Bytes::from_static(b"held")).await.unwrap();
        let inside = folder.path().join(name_of(&space()));
        fs::write(inside.join("odd # name \u{7} (1).txt"), b"x").unwrap();

        let again = Shelf::make(&place, &space()).await.unwrap();
        let found = again.look().await.unwrap();
        assert_eq!((found.len(), found.foreign_count), (1, 1));
        assert_eq!(shelf.get(&name, found.files(&name)).await.unwrap().as_deref(), Some(&b"held"[..]));
        fs::write(inside.join(name.to_string()), b"helt").unwrap();
        assert_eq!(shelf.get(&name, found.files(&name)).await.unwrap(), None);
        shelf.delete(&name).await.unwrap();
        shelf.delete(&name).await.unwrap();
        assert_eq!(shelf.get(&name, found.files(&name)).await.unwrap(), None);
        assert!(shelf.look().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_not_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::parse(folder.path().to_str().unwrap()).unwrap();
        assert!(matches!(Shelf::open(&place, &space()), Err(DropboxError::Gone)));
        let shelf = Shelf::make(&place, &space()).await.unwrap();
        let name = named(b"held");

        fs::remove_dir_all(folder.path()).unwrap();

        assert!(matches!(shelf.look().await, Err(DropboxError::Gone)));
        assert!(matches!(shelf.put(&name, Bytes::from_static(b"held")).await, Err(DropboxError::Gone)));
        assert!(matches!(Shelf::make(&place, &space()).await, Err(DropboxError::Gone)));
        assert!(!folder.path().exists());
        let odd = Place::Bucket("odd://bucket".into());
        assert!(matches!(Shelf::open(&odd, &space()), Err(DropboxError::Place(_))));
    }

    #[test]
    fn a_folder_full_of_other_files_is_no_drop_box() {
        let folder = tempfile::tempdir().unwrap();
        (0..4).for_each(|n| fs::write(folder.path().join(n.to_string()), b"").unwrap());

        assert_eq!(list_folder(folder.path(), 4).unwrap().len(), 4);
        assert!(matches!(list_folder(folder.path(), 3), Err(DropboxError::TooManyObjects { limit: 3 })));
        assert!(matches!(list_folder(&folder.path().join("0"), 3), Err(DropboxError::Store(_))));
    }
}
