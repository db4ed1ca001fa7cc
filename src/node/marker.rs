//! Tells a home from a restored or copied one before anything is written in it.
//!
//! A backup that is put back, or a copy that is started, would write its log a second time, over
//! places its peers hold already. So the store and a small file beside it, `store.mark`, say the same
//! of each other, and part when only one of them is brought back or both are brought elsewhere:
//!
//! | line | says |
//! |---|---|
//! | `kinfold store mark 1` | what this is |
//! | `instance <32 hexadecimal digits>` | which life of the store; also in its `meta` table |
//! | `file <device> <inode>` | which file `store/log.redb` is; `-` where the system has no such names |
//! | `opens <20 digits>` | how often it was opened; also in its `meta` table |
//!
//! Each opening counts in the store first and then here, both durably, so the store may be one ahead
//! after a crash and never behind. What cannot be noticed here: a whole disk put back with both
//! files in their places. Then peers notice, by what they hold of this device's logs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::error::NodeError;
use crate::store::{Store, StoreMark};

/// What the mark of a home says of its past.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Past {
    /// The store is the one that was last in use here.
    Known,
    /// It may be an older copy, or another device may go on with the original. Nothing may be
    /// written into the own logs: begin new ones, and then [`renew`] the mark.
    InDoubt(Doubt),
}

/// Why the past of a home is in doubt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Doubt {
    /// Backups leave the mark out.
    #[error("the home has no readable store.mark, as after putting back a backup")]
    NoMark,
    /// The store is of another life than the mark.
    #[error("the store is not the one that store.mark was made for")]
    OtherInstance,
    /// The store is another file: a copy, or it was put back.
    #[error("store/log.redb is not the file it was, as after copying a home or putting back a backup")]
    OtherFile,
    /// The store was opened less often than the mark says: it is from before.
    #[error("the store is older than store.mark says, as after putting back a backup")]
    OpenCount,
}

/// Compares a home with its store and counts this opening, if they fit.
///
/// In doubt nothing is changed, so that a crash before the new logs are durable leaves the doubt.
/// A store from before there were marks is given one; a store that is not in a folder needs none.
pub(super) fn check(home: &Path, store: &Store) -> Result<Past, NodeError> {
    let Some(file) = store_file(store).map_err(in_home(home))? else { return Ok(Past::Known) };
    let Some(held) = store.mark()? else {
        // A store that had no mark when it was backed up does not fit a home that has one.
        return match read(home).map_err(in_home(home))? {
            Some(_) => Ok(Past::InDoubt(Doubt::OtherInstance)),
            None => renew(home, store).map(|()| Past::Known),
        };
    };
    let Some(found) = read(home).map_err(in_home(home))? else {
        return Ok(Past::InDoubt(Doubt::NoMark));
    };
    let is_ahead = held.open_count.checked_sub(1) == Some(found.store.open_count);
    let doubt = if found.store.instance != held.instance {
        Some(Doubt::OtherInstance)
    } else if found.file != file {
        Some(Doubt::OtherFile)
    } else if found.store.open_count != held.open_count && !is_ahead {
        Some(Doubt::OpenCount)
    } else {
        None
    };
    if let Some(doubt) = doubt {
        return Ok(Past::InDoubt(doubt));
    }
    let write = |store: StoreMark| overwrite(home, &Mark { store, file }).map_err(in_home(home));
    if is_ahead {
        // Before the store counts on: it must never be two ahead.
        write(held)?;
    }
    let opened = held.opened();
    store.set_mark(&opened)?;
    write(opened)?;
    Ok(Past::Known)
}

/// Begins a new life of the store, with a mark that fits it.
pub(super) fn renew(home: &Path, store: &Store) -> Result<(), NodeError> {
    let Some(file) = store_file(store).map_err(in_home(home))? else { return Ok(()) };
    let mark = Mark { store: StoreMark::fresh()?, file };
    // A crash in between leaves a mark that does not fit: doubt, never a mark that fits wrongly.
    store.set_mark(&mark.store)?;
    create(home, &mark).map_err(in_home(home))
}

/// Asks the system to leave a file out of its backups, where it has a way to be asked.
pub(super) fn exclude_from_backups(path: &Path) {
    #[cfg(target_os = "macos")]
    {
        // Sets the attribute `com.apple.metadata:com_apple_backup_excludeItem`, which moves with the
        // file. A file that is backed up all the same is told by its inode.
        let asked = std::process::Command::new("/usr/bin/tmutil").arg("addexclusion").arg(path).output();
        if !asked.as_ref().is_ok_and(|output| output.status.success()) {
            tracing::warn!(?path, "the file cannot be excluded from backups");
        }
    }
    #[cfg(not(target_os = "macos"))]
    let _ = path;
}

/// The content of the mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mark {
    store: StoreMark,
    file: FileName,
}

/// Which file a store is, whatever its path: device and inode, where there are such.
type FileName = Option<(u64, u64)>;

impl Mark {
    fn to_text(self) -> String {
        let mut instance = String::with_capacity(32);
        self.store.instance.iter().for_each(|byte| instance.push_str(&format!("{byte:02x}")));
        let file = self.file.map_or("-".to_owned(), |(device, inode)| format!("{device} {inode}"));
        // Of fixed length, so that it can be overwritten in place.
        format!("{TITLE}\ninstance {instance}\nfile {file}\nopens {:020}\n", self.store.open_count)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        if lines.next()? != TITLE {
            return None;
        }
        let digits = lines.next()?.strip_prefix("instance ")?;
        let instance = u128::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 32)?.to_be_bytes();
        let file = match lines.next()?.strip_prefix("file ")? {
            "-" => None,
            file => {
                let (device, inode) = file.split_once(' ')?;
                Some((device.parse().ok()?, inode.parse().ok()?))
            }
        };
        let open_count = lines.next()?.strip_prefix("opens ")?.parse().ok()?;
        let mark = Self { store: StoreMark { instance, open_count }, file };
        (mark.to_text() == text).then_some(mark)
    }
}

/// `None` where there is none, or no whole one.
fn read(home: &Path) -> io::Result<Option<Mark>> {
    match fs::read(path(home)) {
        Ok(bytes) => Ok(std::str::from_utf8(&bytes).ok().and_then(Mark::parse)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn create(home: &Path, mark: &Mark) -> io::Result<()> {
    let unfinished = home.join("store.mark.new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&unfinished)?;
    file.write_all(mark.to_text().as_bytes())?;
    file.sync_all()?;
    exclude_from_backups(&unfinished);
    fs::rename(&unfinished, path(home))?;
    #[cfg(unix)]
    File::open(home)?.sync_all()?;
    Ok(())
}

/// Keeps the file, and with it what the system was asked about backups. It is one sector: a crash
/// leaves the old text or the new one, and anything else would be doubt.
fn overwrite(home: &Path, mark: &Mark) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path(home))?;
    file.write_all(mark.to_text().as_bytes())?;
    file.sync_all()
}

/// Which file the store is; `None` if it lies in no folder.
fn store_file(store: &Store) -> io::Result<Option<FileName>> {
    let Some(path) = store.path() else { return Ok(None) };
    let about = fs::metadata(path)?;
    #[cfg(unix)]
    let name =
        Some((std::os::unix::fs::MetadataExt::dev(&about), std::os::unix::fs::MetadataExt::ino(&about)));
    #[cfg(not(unix))]
    let name = {
        drop(about);
        None
    };
    Ok(Some(name))
}

fn in_home(home: &Path) -> impl Fn(io::Error) -> NodeError {
    let path = path(home);
    move |source| NodeError::HomeFile { path: path.clone(), source }
}

fn path(home: &Path) -> PathBuf {
    home.join("store.mark")
}

const TITLE: &str = "kinfold store mark 1";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const KEY: [u8; 32] = [6; 32];

    /// A home with nothing in it but a store and its mark.
    struct Home(tempfile::TempDir);

    impl Home {
        fn new() -> Self {
            let home = Self(tempfile::tempdir().unwrap());
            renew(home.path(), &home.store()).unwrap();
            home
        }

        fn path(&self) -> &Path {
            self.0.path()
        }

        fn store(&self) -> Store {
            Store::open(&self.path().join("store"), &KEY).unwrap().0
        }

        fn check(&self) -> Past {
            check_at(self.path())
        }

        fn store_path(&self) -> PathBuf {
            self.path().join("store/log.redb")
        }

        fn mark(&self) -> Mark {
            read(self.path()).unwrap().expect("a whole mark")
        }
    }

    fn check_at(home: &Path) -> Past {
        let (store, _) = Store::open(&home.join("store"), &KEY).unwrap();
        check(home, &store).unwrap()
    }

    /// What `cp -a` does.
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }

    #[test]
    fn a_home_that_is_opened_again_and_again_is_known() {
        let home = Home::new();
        let instance = home.mark().store.instance;

        for opened in 1..=3 {
            assert_eq!(home.check(), Past::Known);
            let mark = home.mark().store;
            assert_eq!(mark, StoreMark { instance, open_count: opened });
            assert_eq!(home.store().mark().unwrap(), Some(mark));
        }

        let mode = fs::metadata(path(home.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!home.path().join("store.mark.new").exists());
    }

    #[test]
    fn a_moved_home_is_known() {
        let home = Home::new();
        let elsewhere = home.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        for name in ["store", "store.mark"] {
            fs::rename(home.path().join(name), elsewhere.join(name)).unwrap();
        }

        assert_eq!(check_at(&elsewhere), Past::Known);
    }

    #[test]
    fn a_copied_home_is_in_doubt_until_it_has_a_mark_of_its_own() {
        let home = Home::new();
        assert_eq!(home.check(), Past::Known);
        let other = tempfile::tempdir().unwrap();
        copy(home.path(), other.path());

        for _ in 0..2 {
            assert_eq!(check_at(other.path()), Past::InDoubt(Doubt::OtherFile), "asking settles nothing");
        }
        assert_eq!(home.check(), Past::Known, "the original is what it was");

        let (store, _) = Store::open(&other.path().join("store"), &KEY).unwrap();
        renew(other.path(), &store).unwrap();
        drop(store);
        assert_eq!(check_at(other.path()), Past::Known);
        let renewed = read(other.path()).unwrap().unwrap().store.instance;
        assert_ne!(renewed, home.mark().store.instance);
    }

    #[test]
    fn a_store_that_was_put_back_is_in_doubt() {
        let home = Home::new();
        assert_eq!(home.check(), Past::Known);
        let backup = fs::read(home.store_path()).unwrap();
        assert_eq!(home.check(), Past::Known);

        // In place, as some tools do: the file is the same, its content older.
        fs::write(home.store_path(), &backup).unwrap();
        assert_eq!(home.check(), Past::InDoubt(Doubt::OpenCount));

        // As another file, as most tools do.
        let aside = home.path().join("aside");
        fs::write(&aside, &backup).unwrap();
        fs::rename(&aside, home.store_path()).unwrap();
        assert_eq!(home.check(), Past::InDoubt(Doubt::OtherFile));
    }

    #[test]
    fn a_backup_without_the_mark_or_with_a_spoiled_one_is_in_doubt() {
        let home = Home::new();
        assert_eq!(home.check(), Past::Known);
        let text = fs::read_to_string(path(home.path())).unwrap();
        let later = text.replace("mark 1", "mark 2");
        let torn = &text[..text.len() - 3];
        for spoiled in
            ["", "nonsense", torn, &later, &text.replace("opens 0", "opens +"), &format!("{text}\n")]
        {
            fs::write(path(home.path()), spoiled).unwrap();
            assert_eq!(home.check(), Past::InDoubt(Doubt::NoMark), "{spoiled:?}");
        }
        fs::remove_file(path(home.path())).unwrap();
        assert_eq!(home.check(), Past::InDoubt(Doubt::NoMark));

        fs::write(path(home.path()), text).unwrap();
        assert_eq!(home.check(), Past::Known, "nothing was changed meanwhile");
    }

    #[test]
    fn the_store_of_another_home_is_in_doubt() {
        let (home, other) = (Home::new(), Home::new());

        fs::copy(other.store_path(), home.store_path()).unwrap();
        assert_eq!(home.check(), Past::InDoubt(Doubt::OtherInstance));

        // One from before there were marks.
        let unmarked = tempfile::tempdir().unwrap();
        drop(Store::open(unmarked.path(), &KEY).unwrap());
        fs::copy(unmarked.path().join("log.redb"), home.store_path()).unwrap();
        assert_eq!(home.check(), Past::InDoubt(Doubt::OtherInstance));
    }

    #[test]
    fn a_crash_between_the_two_writes_leaves_a_home_that_is_known() {
        let home = Home::new();
        for _ in 0..3 {
            let store = home.store();
            let held = store.mark().unwrap().unwrap();
            store.set_mark(&held.opened()).unwrap();
            drop(store);

            assert_eq!(home.check(), Past::Known);
            let mark = home.mark().store;
            assert_eq!((mark.open_count, home.store().mark().unwrap()), (held.open_count + 2, Some(mark)));
        }

        // Two ahead is no crash.
        let store = home.store();
        store.set_mark(&store.mark().unwrap().unwrap().opened().opened()).unwrap();
        drop(store);
        assert_eq!(home.check(), Past::InDoubt(Doubt::OpenCount));
    }

    #[test]
    fn a_crash_while_a_mark_is_renewed_leaves_doubt() {
        let home = Home::new();

        home.store().set_mark(&StoreMark::fresh().unwrap()).unwrap();

        assert_eq!(home.check(), Past::InDoubt(Doubt::OtherInstance));
    }

    #[test]
    fn a_home_from_before_there_were_marks_is_given_one() {
        let home = Home(tempfile::tempdir().unwrap());
        drop(home.store());

        assert_eq!(home.check(), Past::Known);

        assert_eq!(home.check(), Past::Known);
        assert_eq!(home.mark().store.open_count, 1);
    }

    #[test]
    fn a_store_in_no_folder_needs_no_mark() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open_with(crate::store::fault::FaultDisk::new(), None, &KEY).unwrap();

        assert_eq!(check(dir.path(), &store).unwrap(), Past::Known);
        renew(dir.path(), &store).unwrap();

        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_mark_that_cannot_be_written_says_which_file() {
        let home = Home::new();
        let store = home.store();
        fs::remove_file(path(home.path())).unwrap();
        fs::create_dir(path(home.path())).unwrap();

        let refused = check(home.path(), &store).unwrap_err();

        assert!(matches!(refused, NodeError::HomeFile { path: named, .. } if named == path(home.path())));
    }
}
