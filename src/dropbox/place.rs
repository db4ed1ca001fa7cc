//! Where a drop box is: a folder, or a bucket by its URL.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;

use super::error::PlaceError;

/// Where a drop box is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// A folder: shared, synced, or on a stick.
    Folder(PathBuf),
    /// A bucket, by a URL that holds no credentials: those come from the environment.
    Bucket(String),
}

impl Place {
    /// Reads what a person or the configuration says.
    ///
    /// # Errors
    /// [`PlaceError::Relative`], [`PlaceError::Scheme`], [`PlaceError::Feature`].
    pub fn parse(text: &str) -> Result<Self, PlaceError> {
        if let Some((scheme, _)) = text.split_once("://") {
            return match scheme {
                "file" => Self::parse(text.trim_start_matches("file://")),
                "s3" | "s3a" => bucket(text, "s3", cfg!(feature = "s3")),
                "gs" => bucket(text, "gcs", cfg!(feature = "gcs")),
                "az" | "azure" | "abfs" | "abfss" => bucket(text, "azure", cfg!(feature = "azure")),
                scheme => Err(PlaceError::Scheme { scheme: scheme.chars().take(40).collect() }),
            };
        }
        let path = Path::new(text);
        if path.is_absolute() {
            // Two ways to write one folder are one drop box.
            Ok(Self::Folder(path.components().collect()))
        } else {
            Err(PlaceError::Relative { path: path.to_owned() })
        }
    }

    /// The client of a bucket, and the path within it.
    pub(super) fn bucket(&self) -> Result<(Arc<dyn ObjectStore>, object_store::path::Path), PlaceError> {
        let Self::Bucket(url) = self else {
            return Err(PlaceError::Scheme { scheme: "folder".into() });
        };
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let within = rest.split_once('/').map_or("", |(_, within)| within);
        let path = object_store::path::Path::parse(within.trim_end_matches('/'))
            .map_err(|error| PlaceError::Bucket(Box::new(error.into())))?;
        Ok((client(scheme, url)?, path))
    }
}

fn bucket(text: &str, feature: &'static str, is_built_in: bool) -> Result<Place, PlaceError> {
    if is_built_in { Ok(Place::Bucket(text.to_owned())) } else { Err(PlaceError::Feature { feature }) }
}

fn client(scheme: &str, url: &str) -> Result<Arc<dyn ObjectStore>, PlaceError> {
    let refused = |error: object_store::Error| PlaceError::Bucket(Box::new(error));
    match scheme {
        #[cfg(feature = "s3")]
        "s3" | "s3a" => {
            let builder = object_store::aws::AmazonS3Builder::from_env().with_url(url);
            Ok(Arc::new(builder.build().map_err(refused)?))
        }
        #[cfg(feature = "gcs")]
        "gs" => {
            let builder = object_store::gcp::GoogleCloudStorageBuilder::from_env().with_url(url);
            Ok(Arc::new(builder.build().map_err(refused)?))
        }
        #[cfg(feature = "azure")]
        "az" | "azure" | "abfs" | "abfss" => {
            let builder = object_store::azure::MicrosoftAzureBuilder::from_env().with_url(url);
            Ok(Arc::new(builder.build().map_err(refused)?))
        }
        scheme => {
            let _ = (url, refused);
            Err(PlaceError::Scheme { scheme: scheme.to_owned() })
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Bucket(url) => f.write_str(url),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_absolute_folder_or_the_url_of_a_bucket() {
        let folder = |text: &str| Place::parse(text).unwrap();

        assert_eq!(folder("/mnt/stick/"), Place::Folder("/mnt/stick".into()));
        assert_eq!(folder("/mnt//stick"), folder("file:///mnt/stick"));
        assert_eq!(folder("/mnt/stick").to_string(), "/mnt/stick");
        assert!(matches!(Place::parse("stick"), Err(PlaceError::Relative { .. })));
        assert!(
            matches!(Place::parse("ftp://host/x"), Err(PlaceError::Scheme { scheme }) if scheme == "ftp")
        );
        assert!(matches!(Place::Folder("/x".into()).bucket(), Err(PlaceError::Scheme { .. })));
    }

    #[test]
    fn a_bucket_needs_what_this_program_was_built_with() {
        for (url, feature, is_built_in) in [
            ("s3://b/p", "s3", cfg!(feature = "s3")),
            ("gs://b/p", "gcs", cfg!(feature = "gcs")),
            ("az://c/p", "azure", cfg!(feature = "azure")),
        ] {
            match Place::parse(url) {
                Ok(place) => assert!(is_built_in && place.to_string() == url),
                Err(PlaceError::Feature { feature: named }) => assert!(!is_built_in && named == feature),
                Err(other) => panic!("{other}"),
            }
        }
        let odd = Place::Bucket("odd://b".into());
        assert!(matches!(odd.bucket(), Err(PlaceError::Scheme { .. })));
        let odd = Place::Bucket("s3://b/a/../b".into());
        assert!(matches!(odd.bucket(), Err(PlaceError::Bucket(_))));
    }
}
