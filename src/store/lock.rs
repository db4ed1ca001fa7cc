//! One process per home, and never on a network file system.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::Path;

use thiserror::Error;

use super::error::StoreError;

/// Why a home was not locked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process works on this home.
    #[error("another kinfold works on this home{}; stop it first", .pid.map_or(String::new(), |pid| format!(" (process {pid})")))]
    Held {
        /// Its process id, where it wrote one.
        pid: Option<u32>,
    },
    /// The home may not be written.
    #[error("the home cannot be written; check the owner and permissions of the folder")]
    ReadOnly(#[source] io::Error),
    /// The operating system refused.
    #[error("the home cannot be locked")]
    Io(#[source] io::Error),
}

/// Holds a home for this process until dropped, or until the process ends however it ends.
#[derive(Debug)]
pub struct HomeLock(File);

impl Drop for HomeLock {
    fn drop(&mut self) {
        // Closing alone is not enough: a program this process is just starting holds a copy of the
        // file until it runs, and the lock with it. What fails here ends with the file anyway.
        let _ = self.0.unlock();
    }
}

impl HomeLock {
    /// Locks `home/lock` and writes this process's id into it, for people and [`LockError::Held`].
    ///
    /// # Errors
    /// Every variant of [`LockError`].
    pub fn acquire(home: &Path) -> Result<Self, LockError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(home.join(LOCK_FILE))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held { pid: holder(&mut file) }),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self(file))
    }
}

impl From<io::Error> for LockError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly(error),
            _ => Self::Io(error),
        }
    }
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Refuses folders whose syncs may return before the bytes are safe.
pub(super) fn refuse_network_file_system(dir: &Path) -> Result<(), StoreError> {
    refused(network_file_system(dir)?)
}

const fn refused(network_kind: Option<&'static str>) -> Result<(), StoreError> {
    match network_kind {
        Some(kind) => Err(StoreError::NetworkFileSystem { kind }),
        None => Ok(()),
    }
}

/// The kind of network file system that holds `dir`; `None` on a disk of this machine.
///
/// # Errors
/// What the system says where it cannot be asked.
#[cfg(target_os = "linux")]
pub fn network_file_system(dir: &Path) -> io::Result<Option<&'static str>> {
    let stat = nix::sys::statfs::statfs(dir)?;
    // The kernel's magic numbers fit 32 bits; some targets sign-extend them.
    Ok(network_magic(stat.filesystem_type().0 as u32))
}

/// The kind of network file system that holds `dir`; `None` on a disk of this machine.
///
/// # Errors
/// What the system says where it cannot be asked.
#[cfg(target_os = "macos")]
pub fn network_file_system(dir: &Path) -> io::Result<Option<&'static str>> {
    let stat = nix::sys::statfs::statfs(dir)?;
    Ok(["nfs", "smbfs", "afpfs", "webdav", "ftp"]
        .into_iter()
        .find(|kind| *kind == stat.filesystem_type_name()))
}

/// Not known here.
///
/// # Errors
/// None on this platform.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
pub fn network_file_system(_dir: &Path) -> io::Result<Option<&'static str>> {
    Ok(None)
}

/// Names the network file systems of statfs(2).
#[cfg(target_os = "linux")]
const fn network_magic(magic: u32) -> Option<&'static str> {
    match magic {
        0x6969 => Some("nfs"),
        0x517b => Some("smb"),
        0xff53_4d42 => Some("cifs"),
        0xfe53_4d42 => Some("smb2"),
        0x0102_1997 => Some("9p"),
        0x00c3_6400 => Some("ceph"),
        0x5346_414f => Some("afs"),
        0x7375_7245 => Some("coda"),
        _ => None,
    }
}

const LOCK_FILE: &str = "lock";

/// A process id in decimal and a line end, with room.
const PID_BYTES_MAX: u64 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_who_holds_the_home() {
        let home = tempfile::tempdir().unwrap();
        let lock = HomeLock::acquire(home.path()).unwrap();

        let refused = HomeLock::acquire(home.path());

        let own_pid = std::process::id();
        assert!(matches!(refused, Err(LockError::Held { pid: Some(pid) }) if pid == own_pid));
        drop(lock);
        HomeLock::acquire(home.path()).unwrap();
    }

    #[test]
    fn a_lock_that_is_given_up_is_free_though_a_child_still_holds_the_file() {
        let home = tempfile::tempdir().unwrap();
        let lock = HomeLock::acquire(home.path()).unwrap();
        let inherited = lock.0.try_clone().unwrap();

        drop(lock);

        HomeLock::acquire(home.path()).unwrap();
        drop(inherited);
    }

    #[test]
    fn a_lock_that_names_nobody_is_still_held() {
        let home = tempfile::tempdir().unwrap();
        let lock = HomeLock::acquire(home.path()).unwrap();
        std::fs::write(home.path().join(LOCK_FILE), "nobody").unwrap();

        assert!(matches!(HomeLock::acquire(home.path()), Err(LockError::Held { pid: None })));
        drop(lock);
    }

    #[test]
    fn a_home_that_is_not_there_or_not_ours_is_an_error_with_its_cause() {
        let home = tempfile::tempdir().unwrap();

        assert!(matches!(HomeLock::acquire(&home.path().join("absent")), Err(LockError::Io(_))));
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem] {
            assert!(matches!(LockError::from(io::Error::from(kind)), LockError::ReadOnly(_)));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn network_file_systems_are_known_by_their_magic() {
        const EXT4: u32 = 0xef53;

        let nfs = refused(network_magic(0x6969));

        assert!(matches!(nfs, Err(StoreError::NetworkFileSystem { kind: "nfs" })));
        assert!(refused(network_magic(EXT4)).is_ok());
        let home = tempfile::tempdir().unwrap();
        refuse_network_file_system(home.path()).unwrap();
    }
}
