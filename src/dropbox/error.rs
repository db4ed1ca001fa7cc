//! Why a drop box cannot be used.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A place that names no drop box.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// A folder by a name that depends on the working directory.
    #[error("{path:?} is no absolute name of a folder")]
    Relative {
        /// The name.
        path: PathBuf,
    },
    /// A URL of another kind.
    #[error(
        "{scheme}: is no drop box; it is a folder, s3://BUCKET/PATH, gs://BUCKET/PATH or az://CONTAINER/PATH"
    )]
    Scheme {
        /// What stands before the colon.
        scheme: String,
    },
    /// A bucket of a kind this program was built without.
    #[error("this kinfold was built without {feature}; build it with `--features {feature}`")]
    Feature {
        /// The feature.
        feature: &'static str,
    },
    /// A URL without a bucket, or that the environment does not complete.
    #[error("the bucket cannot be used")]
    Bucket(#[source] Box<object_store::Error>),
}

/// A drop box that cannot be read or written now; nothing is lost, it is tried again.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DropboxError {
    /// The folder is not there: a stick that is out, a share that is not mounted.
    #[error("the folder is not there")]
    Gone,
    /// It may be read, not written.
    #[error("it cannot be written")]
    ReadOnly(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is no room.
    #[error("there is no room left")]
    Full(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// More files than are looked at.
    #[error("it holds more than {limit} files; is it a folder of its own?")]
    TooManyObjects {
        /// The most.
        limit: usize,
    },
    /// The place itself.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// What the system or the service said.
    #[error("it cannot be used")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl DropboxError {
    /// What to do.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Gone => "plug it in or mount it; it goes on by itself. `kinfold dropbox rm` ends it",
            Self::ReadOnly(_) => "make it writable for this user; it goes on by itself",
            Self::Full(_) => "make room there; it goes on by itself",
            Self::TooManyObjects { .. } => "give the drop box a folder that nothing else is put into",
            Self::Place(_) => "`kinfold dropbox rm` ends it, `kinfold dropbox add` names another place",
            Self::Store(_) => "it is tried again by itself; `kinfold dropbox rm` ends it",
        }
    }

    pub(super) fn of_io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::ReadOnly(error.into())
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(error.into()),
            _ => Self::Store(error.into()),
        }
    }
}

impl From<object_store::Error> for DropboxError {
    fn from(error: object_store::Error) -> Self {
        // What a file system has said lies somewhere below.
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(source) = cause {
            match source.downcast_ref::<io::Error>().map(io::Error::kind) {
                Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
                    return Self::ReadOnly(error.into());
                }
                Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                    return Self::Full(error.into());
                }
                _ => cause = source.source(),
            }
        }
        match error {
            object_store::Error::PermissionDenied { .. } => Self::ReadOnly(error.into()),
            error => Self::Store(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_system_says_is_heard_through_the_store() {
        let said = |kind: io::ErrorKind| {
            DropboxError::from(object_store::Error::Generic {
                store: "LocalFileSystem",
                source: io::Error::from(kind).into(),
            })
        };

        assert!(matches!(said(io::ErrorKind::StorageFull), DropboxError::Full(_)));
        assert!(matches!(said(io::ErrorKind::ReadOnlyFilesystem), DropboxError::ReadOnly(_)));
        assert!(matches!(said(io::ErrorKind::PermissionDenied), DropboxError::ReadOnly(_)));
        assert!(matches!(said(io::ErrorKind::TimedOut), DropboxError::Store(_)));
        assert!(matches!(DropboxError::of_io(io::ErrorKind::StorageFull.into()), DropboxError::Full(_)));
        assert!(matches!(
            DropboxError::of_io(io::ErrorKind::PermissionDenied.into()),
            DropboxError::ReadOnly(_)
        ));
        assert!(matches!(DropboxError::of_io(io::ErrorKind::TimedOut.into()), DropboxError::Store(_)));
    }
}
