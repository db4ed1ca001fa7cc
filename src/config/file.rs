//! The file in a home: read whole, replaced whole, one writer at a time.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::ConfigError;
use super::settings::Settings;
use super::{CONFIG_BYTES_MAX, document};

/// The settings file of a home. Any process of the same user may use it, whether a node runs or not.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
    lock_path: PathBuf,
}

impl ConfigFile {
    /// The file of this home; it need not exist.
    pub fn of(home: &Path) -> Self {
        Self { path: home.join("config.toml"), lock_path: home.join("config.lock") }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says; the defaults where there is none.
    ///
    /// # Errors
    /// [`ConfigError::NotToml`], [`ConfigError::Setting`], [`ConfigError::TooLong`],
    /// [`ConfigError::File`].
    pub fn read(&self) -> Result<Settings, ConfigError> {
        document::read(&self.text()?)
    }

    /// Applies a merge patch (RFC 7396: null takes a key away) and raises the generation. With an
    /// `expected` generation, only if it is that one. Durable when it returns.
    ///
    /// # Errors
    /// Every variant of [`ConfigError`]; nothing was changed then.
    pub fn patch(&self, patch: &Value, expected: Option<u64>) -> Result<Settings, ConfigError> {
        let patch = patch.as_object().ok_or(ConfigError::PatchForm)?;
        self.change(patch, expected)
    }

    /// Sets one key, or takes it away with null. As [`ConfigFile::patch`].
    ///
    /// # Errors
    /// As [`ConfigFile::patch`].
    pub fn set(&self, key: &str, value: Value, expected: Option<u64>) -> Result<Settings, ConfigError> {
        let patch = match key.split_once('.') {
            Some((section, name)) => {
                Map::from_iter([(section.to_owned(), Map::from_iter([(name.to_owned(), value)]).into())])
            }
            None => Map::from_iter([(key.to_owned(), value)]),
        };
        self.change(&patch, expected)
    }

    fn change(&self, patch: &Map<String, Value>, expected: Option<u64>) -> Result<Settings, ConfigError> {
        // Held until dropped; a process that dies gives it up.
        let lock = self.lock()?;
        let text = match self.text()? {
            text if text.is_empty() => NEW_FILE.to_owned(),
            text => text,
        };
        let (text, settings) = document::patched(&text, patch, expected)?;
        if text.len() > CONFIG_BYTES_MAX {
            return Err(ConfigError::TooLong { found: text.len() as u64 });
        }
        self.replace(&text)?;
        drop(lock);
        Ok(settings)
    }

    fn lock(&self) -> Result<File, ConfigError> {
        let refused = |source| ConfigError::File { path: self.lock_path.clone(), source };
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        private(&mut options);
        let file = options.open(&self.lock_path).map_err(refused)?;
        file.lock().map_err(refused)?;
        Ok(file)
    }

    fn text(&self) -> Result<String, ConfigError> {
        let refused = |source| ConfigError::File { path: self.path.clone(), source };
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
            Err(source) => return Err(refused(source)),
        };
        let mut bytes = Vec::new();
        let limit = CONFIG_BYTES_MAX as u64;
        file.take(limit + 1).read_to_end(&mut bytes).map_err(refused)?;
        if bytes.len() as u64 > limit {
            return Err(ConfigError::TooLong { found: bytes.len() as u64 });
        }
        String::from_utf8(bytes).map_err(|error| {
            let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n');
            ConfigError::NotToml { line: Some(line.count() + 1), problem: "not UTF-8 text".to_owned() }
        })
    }

    /// Writes beside and renames: whoever reads sees the old file or the new one.
    fn replace(&self, text: &str) -> Result<(), ConfigError> {
        // A file that is kept elsewhere and linked to stays there.
        let target = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let unfinished = target.with_extension("toml.new");
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true);
            private(&mut options);
            let mut file = options.open(&unfinished)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&unfinished, &target)?;
            sync_dir(target.parent().unwrap_or(Path::new(".")))
        };
        write().map_err(|source| ConfigError::File { path: target.clone(), source })
    }
}

fn private(options: &mut OpenOptions) {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    #[cfg(not(unix))]
    let _ = options;
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(dir)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}

/// What a file begins with that this program makes.
const NEW_FILE: &str =
    "# Settings of this device; `kinfold config get` lists what there is to set.\ngeneration = 0\n";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_is_made_changed_and_read_back() {
        let home = tempfile::tempdir().expect("a writable temporary directory");
        let file = ConfigFile::of(home.path());
        assert_eq!(file.read().expect("no file is no error"), Settings::default());

        file.set("network.mdns", json!(false), Some(0)).expect("fits");
        let settings = file.patch(&json!({"network": {"listen": 4433}}), Some(1)).expect("fits");

        assert_eq!(file.read().expect("what was written"), settings);
        assert_eq!(
            fs::read_to_string(file.path()).expect("it is there"),
            "# Settings of this device; `kinfold config get` lists what there is to set.\ngeneration = 2\n\n\
             [network]\nmdns = false\nlisten = 4433\n"
        );
        let names = fs::read_dir(home.path()).expect("readable").count();
        assert_eq!(names, 2, "the file and its lock, nothing unfinished");
    }

    #[test]
    fn what_is_refused_changes_nothing() {
        let home = tempfile::tempdir().expect("a writable temporary directory");
        let file = ConfigFile::of(home.path());
        file.set("network.mdns", json!(false), None).expect("fits");
        let before = fs::read(file.path()).expect("it is there");

        let conflict = file.set("network.mdns", json!(true), Some(0));
        assert!(matches!(conflict, Err(ConfigError::GenerationConflict { expected: 0, current: 1 })));
        assert!(matches!(file.patch(&json!([]), None), Err(ConfigError::PatchForm)));
        let unknown = file.set("nothing.here", json!(1), None);
        assert!(matches!(unknown, Err(ConfigError::Setting { line: None, .. })));

        assert_eq!(fs::read(file.path()).expect("it is there"), before);
    }

    #[test]
    fn a_file_that_cannot_be_is_an_error_that_says_why() {
        let home = tempfile::tempdir().expect("a writable temporary directory");
        let file = ConfigFile::of(home.path());

        fs::write(file.path(), b"\n\xff").expect("writable");
        assert!(matches!(file.read(), Err(ConfigError::NotToml { line: Some(2), .. })));
        fs::write(file.path(), vec![b'#'; CONFIG_BYTES_MAX + 1]).expect("writable");
        assert!(matches!(file.read(), Err(ConfigError::TooLong { .. })));
        fs::remove_file(file.path()).expect("it is there");
        fs::create_dir(file.path()).expect("writable");
        assert!(matches!(file.read(), Err(ConfigError::File { .. })));
    }

    #[test]
    #[cfg(unix)]
    fn a_linked_file_stays_where_it_is_kept() {
        let (home, kept) = (tempfile::tempdir().expect("writable"), tempfile::tempdir().expect("writable"));
        let target = kept.path().join("laptop.toml");
        fs::write(&target, "# kept\n").expect("writable");
        let file = ConfigFile::of(home.path());
        std::os::unix::fs::symlink(&target, file.path()).expect("writable");

        file.set("profile", json!("test"), None).expect("fits");

        assert!(fs::symlink_metadata(file.path()).expect("it is there").is_symlink());
        assert!(fs::read_to_string(&target).expect("it is there").contains("profile = \"test\""));
    }
}
