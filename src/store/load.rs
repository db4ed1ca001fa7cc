//! Makes a new store, and reads what a store holds when it is opened.

use bytes::Bytes;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};

use super::disk::guarded;
use super::error::{Part, StoreError};
use super::index::Index;
use super::tables::{
    ACKS, BATCHES, DRAFTS, FORKS, FORMAT, KEYS, LOGS, META, META_COMMITS, META_FORMAT, META_KEY_CHECK,
    META_STORE_ID, RECORDS, SPACES, SpaceIx, SpaceRow, TIPS, key_check_context, key_context, parse_tip,
};
use super::vaults::{Vaults, fresh};
use crate::crypto::EpochKey;
use crate::model::{DeviceId, LogId, RecordHash, Seq};
use crate::sync::{Loaded, LoadedSpace};

/// What names a store and where its logs end.
pub(super) struct Opened {
    pub(super) store_id: [u8; 16],
    pub(super) index: Index,
}

/// Checks format and key, making both in an empty file, and reads the index.
pub(super) fn open(db: &Database, vaults: &Vaults) -> Result<Opened, StoreError> {
    guarded(|| {
        match format(db)? {
            None => create(db, vaults)?,
            Some(FORMAT) => {}
            Some(found) if found > FORMAT => return Err(StoreError::NewerFormat { found, known: FORMAT }),
            Some(_) => return Err(StoreError::damaged(Part::Row { table: "meta" })),
        }
        let txn = db.begin_read()?;
        let store_id = check_key(&txn, vaults)?;
        Ok(Opened { store_id, index: index(&txn)? })
    })
}

/// Reads everything but batches.
pub(super) fn load(db: &Database, vaults: &Vaults, index: &Index) -> Result<Loaded, StoreError> {
    guarded(|| {
        let txn = db.begin_read()?;
        let mut spaces = Vec::new();
        for row in txn.open_table(SPACES)?.iter()? {
            let (ix, row) = row?;
            spaces.push(space(&txn, vaults, index, ix.value(), SpaceRow::parse(row.value())?)?);
        }
        spaces.sort_by_key(|loaded| loaded.space);
        Ok(Loaded { spaces })
    })
}

fn format(db: &Database) -> Result<Option<u32>, StoreError> {
    let txn = db.begin_read()?;
    let table = match txn.open_table(META) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Some(row) = table.get(META_FORMAT)? else {
        return Err(StoreError::damaged(Part::Row { table: "meta" }));
    };
    let bytes: [u8; 4] =
        row.value().try_into().map_err(|_| StoreError::damaged(Part::Row { table: "meta" }))?;
    Ok(Some(u32::from_be_bytes(bytes)))
}

fn create(db: &Database, vaults: &Vaults) -> Result<(), StoreError> {
    let store_id: [u8; 16] = fresh()?;
    let key_check = vaults.seal(&key_check_context(&store_id), &[])?;
    let txn = db.begin_write()?;
    {
        let mut meta = txn.open_table(META)?;
        meta.insert(META_FORMAT, &FORMAT.to_be_bytes()[..])?;
        meta.insert(META_STORE_ID, &store_id[..])?;
        meta.insert(META_KEY_CHECK, &key_check[..])?;
        meta.insert(META_COMMITS, &0u64.to_be_bytes()[..])?;
        // Opened once so that no reader meets a table that is not there.
        txn.open_table(SPACES)?;
        txn.open_table(LOGS)?;
        txn.open_table(TIPS)?;
        txn.open_table(BATCHES)?;
        txn.open_table(DRAFTS)?;
        txn.open_table(RECORDS)?;
        txn.open_table(ACKS)?;
        txn.open_table(KEYS)?;
        txn.open_table(FORKS)?;
    }
    txn.commit()?;
    Ok(())
}

fn check_key(txn: &ReadTransaction, vaults: &Vaults) -> Result<[u8; 16], StoreError> {
    let damaged = || StoreError::damaged(Part::Row { table: "meta" });
    let meta = txn.open_table(META)?;
    let store_id: [u8; 16] =
        meta.get(META_STORE_ID)?.ok_or_else(damaged)?.value().try_into().map_err(|_| damaged())?;
    let key_check = meta.get(META_KEY_CHECK)?.ok_or_else(damaged)?;
    match vaults.open(&key_check_context(&store_id), key_check.value()) {
        Some(_) => Ok(store_id),
        None => Err(StoreError::OtherKey),
    }
}

fn index(txn: &ReadTransaction) -> Result<Index, StoreError> {
    let damaged = |table| StoreError::damaged(Part::Row { table });
    let mut index = Index::default();
    let commits = txn.open_table(META)?.get(META_COMMITS)?.ok_or_else(|| damaged("meta"))?;
    index.commits = u64::from_be_bytes(commits.value().try_into().map_err(|_| damaged("meta"))?);
    for row in txn.open_table(SPACES)?.iter()? {
        let (ix, row) = row?;
        index.set_space(ix.value(), SpaceRow::parse(row.value())?);
    }
    for row in txn.open_table(LOGS)?.iter()? {
        let (log_ix, log) = row?;
        index.set_log(log_ix.value(), LogId::from_bytes(&log.value()));
    }
    for row in txn.open_table(TIPS)?.iter()? {
        let (log_ix, tip) = row?;
        index.set_tip(log_ix.value(), parse_tip(&tip.value()));
    }
    Ok(index)
}

fn space(
    txn: &ReadTransaction,
    vaults: &Vaults,
    index: &Index,
    ix: SpaceIx,
    row: SpaceRow,
) -> Result<LoadedSpace, StoreError> {
    let mut loaded = LoadedSpace {
        space: row.space,
        scope: row.scope,
        own_log: row.own_log,
        is_active: row.is_active,
        carried: row.carried,
        dropped: row.dropped,
        frontier: Default::default(),
        drafts: Vec::new(),
        records: Vec::new(),
        acks: Vec::new(),
        keys: Vec::new(),
        fork_proofs: Vec::new(),
    };
    let forks = txn.open_table(FORKS)?;
    let drafts = txn.open_table(DRAFTS)?;
    for entry in txn.open_table(LOGS)?.range((ix, 0)..=(ix, u32::MAX))? {
        let (log_ix, log) = entry?;
        let (log_ix, log) = (log_ix.value(), LogId::from_bytes(&log.value()));
        let tip = index.tip(log_ix);
        loaded.frontier.set(log, tip);
        if let Some(proof) = forks.get(log_ix)? {
            loaded.fork_proofs.push((log, Bytes::copy_from_slice(proof.value())));
        }
        for draft in drafts.range((ix, log_ix.1, 0)..=(ix, log_ix.1, u64::MAX))? {
            let (place, sealed) = draft?;
            let first = Seq::new(place.value().2);
            loaded.drafts.push(vaults.open_drafts(&loaded.space, &log, first, sealed.value())?);
        }
    }
    loaded.fork_proofs.sort_by_key(|(log, _)| *log);
    loaded.drafts.sort_by_key(|group| (group.log, group.first));
    for record in txn.open_table(RECORDS)?.range((ix, [0; 32])..=(ix, [0xff; 32]))? {
        let (key, bytes) = record?;
        loaded.records.push((RecordHash::from_bytes(key.value().1), Bytes::copy_from_slice(bytes.value())));
    }
    for ack in txn.open_table(ACKS)?.range((ix, [0; 32])..=(ix, [0xff; 32]))? {
        let (key, bytes) = ack?;
        loaded.acks.push((DeviceId::from_bytes(key.value().1), Bytes::copy_from_slice(bytes.value())));
    }
    for key in txn.open_table(KEYS)?.range((ix, [0; 16])..=(ix, [0xff; 16]))? {
        let (key_id, sealed) = key?;
        let key_id = key_id.value().1;
        let key = vaults
            .open(&key_context(&loaded.space, &key_id), sealed.value())
            .and_then(|plain| <[u8; 32]>::try_from(&plain[..]).ok())
            .ok_or_else(|| StoreError::damaged(Part::Row { table: "keys" }))?;
        loaded.keys.push(EpochKey::from_bytes(key));
    }
    Ok(loaded)
}
