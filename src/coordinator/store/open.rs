//! From a URL to the place where leases are kept.

use std::io;
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;

use super::cells::Cells;
use super::directory::DirectoryCells;

/// A place that cannot be used for leases.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenCellsError {
    /// Neither a directory nor a URL of a known kind.
    #[error(
        "{url:?} is no place for leases; name a directory, or s3://, gs:// or az:// with a bucket and a path"
    )]
    Unknown {
        /// What was given.
        url: String,
    },
    /// A kind of store that this program was built without.
    #[error("this kinfold was built without {scheme}://; build it with `--features {feature}`")]
    NotBuilt {
        /// The kind.
        scheme: String,
        /// What it takes.
        feature: &'static str,
    },
    /// The directory cannot be made or opened.
    #[error("the directory for leases cannot be used")]
    Directory(#[source] io::Error),
    /// The settings for the store do not fit.
    #[error("the store for leases cannot be used with these settings")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The cells at a place: a directory, `file://`, or where built with it `s3://bucket/path`,
/// `gs://bucket/path`, `az://container/path` with keys and endpoint from the environment, as the
/// tools of these stores take them.
///
/// Every device of the fleet names the same place, and no other fleet does.
///
/// # Errors
/// [`OpenCellsError`].
pub fn open_cells(url: &str) -> Result<Arc<dyn Cells>, OpenCellsError> {
    let Some((scheme, rest)) = url.split_once("://") else {
        if Path::new(url).is_absolute() {
            return directory(url);
        }
        return Err(OpenCellsError::Unknown { url: url.to_owned() });
    };
    match scheme {
        "file" if rest.starts_with('/') => directory(rest),
        "s3" => s3(url),
        "gs" => gcs(url),
        "az" => azure(url),
        _ => Err(OpenCellsError::Unknown { url: url.to_owned() }),
    }
}

fn directory(path: &str) -> Result<Arc<dyn Cells>, OpenCellsError> {
    Ok(Arc::new(DirectoryCells::open(path).map_err(OpenCellsError::Directory)?))
}

macro_rules! bucket {
    ($name:ident, $feature:literal, $builder:path) => {
        #[cfg(feature = $feature)]
        fn $name(url: &str) -> Result<Arc<dyn Cells>, OpenCellsError> {
            let store = <$builder>::from_env().with_url(url).with_retry(short_retries());
            let store = store.build().map_err(|error| OpenCellsError::Store(error.into()))?;
            Ok(Arc::new(super::ObjectCells::new(Arc::new(store), path_of(url)?)))
        }

        #[cfg(not(feature = $feature))]
        fn $name(url: &str) -> Result<Arc<dyn Cells>, OpenCellsError> {
            let scheme = url.split("://").next().unwrap_or_default().to_owned();
            Err(OpenCellsError::NotBuilt { scheme, feature: $feature })
        }
    };
}

bucket!(s3, "s3", object_store::aws::AmazonS3Builder);
bucket!(gcs, "gcs", object_store::gcp::GoogleCloudStorageBuilder);
bucket!(azure, "azure", object_store::azure::MicrosoftAzureBuilder);

/// The path behind the bucket.
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
fn path_of(url: &str) -> Result<object_store::path::Path, OpenCellsError> {
    let behind = url.splitn(4, '/').nth(3).unwrap_or_default();
    object_store::path::Path::parse(behind).map_err(|error| OpenCellsError::Store(error.into()))
}

/// A lease that took longer than this to be written is asked about, not written again and again.
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
fn short_retries() -> object_store::RetryConfig {
    let retry_timeout = std::time::Duration::from_secs(4);
    object_store::RetryConfig { max_retries: 2, retry_timeout, ..object_store::RetryConfig::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_directory_or_a_url_of_a_known_kind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases").display().to_string();

        assert!(open_cells(&path).is_ok() && open_cells(&format!("file://{path}")).is_ok());
        for url in ["leases", "file://leases", "ftp://x/y", ""] {
            assert!(
                matches!(open_cells(url), Err(OpenCellsError::Unknown { url: same }) if same == url),
                "{url}"
            );
        }
    }

    #[test]
    fn a_file_in_the_place_of_the_directory_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();

        assert!(matches!(open_cells(&path), Err(OpenCellsError::Directory(_))));
    }

    #[cfg(not(feature = "s3"))]
    #[test]
    fn a_store_that_was_not_built_in_says_how_to_build_it() {
        let refused = open_cells("s3://bucket/leases").unwrap_err();

        assert!(refused.to_string().ends_with("`--features s3`"), "{refused}");
    }

    #[cfg(feature = "s3")]
    #[test]
    fn a_bucket_without_a_name_is_refused() {
        assert!(matches!(open_cells("s3:///leases"), Err(OpenCellsError::Store(_))));
    }
}
