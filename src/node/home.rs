//! The files of a home: the identity, and what must not be in the directory yet.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::error::NodeError;
use super::marker;
use crate::clock;
use crate::crypto::{EpochKey, Identity};
use crate::model::{DeviceId, Hlc, Incarnation, LogId, RecordHash, Scope, Seq};
use crate::net;
use crate::roster::{Author, Roster};
use crate::store::{HomeLock, LockError, Store};
use crate::sync::{Txn, TxnId, Write};

/// Makes a device in an empty or absent directory.
pub(super) fn init(home: &Path, name: &str) -> Result<DeviceId, NodeError> {
    let file_error = |path: &Path| {
        let path = path.to_owned();
        move |source| NodeError::HomeFile { path, source }
    };
    let is_used = match fs::read_dir(home) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(source) => return Err(file_error(home)(source)),
    };
    if is_used {
        return Err(NodeError::HomeInUse { home: home.to_owned() });
    }
    create_private_dir(home).map_err(file_error(home))?;
    let _lock = lock(home)?;

    let identity = Identity::from_secret(&Zeroizing::new(clock::entropy()));
    let store_dir = home.join("store");
    create_private_dir(&store_dir).map_err(file_error(&store_dir))?;
    let (store, _) = Store::open(&store_dir, &local_key(&identity))?;
    store.commit(&[found_personal(&identity, name)?])?;
    marker::renew(home, &store)?;

    // The identity comes last: a home without one is a home that was never finished.
    let certificate = net::certificate(&identity).map_err(net::NetError::Certificate)?;
    write_private(&home.join("identity.cert"), &certificate).map_err(file_error(home))?;
    let key_path = identity_path(home);
    write_private(&key_path, &identity.to_pkcs8()).map_err(file_error(&key_path))?;
    marker::exclude_from_backups(&key_path);
    Ok(identity.device())
}

/// Reads the identity of a home.
pub(super) fn identity(home: &Path) -> Result<Identity, NodeError> {
    let path = identity_path(home);
    let der = match fs::read(&path) {
        Ok(der) => Zeroizing::new(der),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(NodeError::NotInitialised { home: home.to_owned() });
        }
        Err(source) => return Err(NodeError::HomeFile { path, source }),
    };
    Identity::from_pkcs8(&der).ok_or(NodeError::IdentityDamaged { path })
}

/// Takes a home for this process.
pub(super) fn lock(home: &Path) -> Result<HomeLock, NodeError> {
    HomeLock::acquire(home).map_err(|source: LockError| NodeError::Lock { home: home.to_owned(), source })
}

/// The key under which a store seals what only this device may read.
pub(super) fn local_key(identity: &Identity) -> Zeroizing<[u8; 32]> {
    identity.derive("kinfold local store v1")
}

/// The transaction that begins a personal space.
fn found_personal(identity: &Identity, name: &str) -> Result<Txn, NodeError> {
    let key = EpochKey::from_bytes(clock::entropy());
    let author = Author { identity, key: &key, hlc: Hlc::at(clock::wall()), entropy: clock::entropy() };
    let (roster, genesis) = Roster::found(&author, &Scope::Personal, name)?;
    let space = roster.space();
    let incarnation = u64::from_be_bytes(*clock::entropy().first_chunk().expect("32 bytes hold 8"));
    let own_log = LogId { device: identity.device(), incarnation: Incarnation::new(incarnation) };
    Ok(Txn {
        id: TxnId::new(0),
        writes: vec![
            Write::Space {
                space,
                scope: Scope::Personal,
                own_log,
                is_active: true,
                carried: Seq::ZERO,
                dropped: 0,
            },
            Write::Record { space, hash: RecordHash::from_bytes(*space.as_bytes()), bytes: genesis },
            Write::Key { space, key },
        ],
    })
}

fn identity_path(home: &Path) -> PathBuf {
    home.join("identity.key")
}

fn create_private_dir(path: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
