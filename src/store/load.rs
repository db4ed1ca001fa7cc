//! Makes a new store, and reads what a store holds when it is opened.

use bytes::Bytes;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};

use super::base::base_of_row;
use super::disk::guarded;
use super::error::{Part, StoreError};
use super::index::Index;
use super::tables::{
    ACKS, ATTESTATIONS, BASES, BATCHES, CHECKPOINTS, CHUNKS, DRAFTS, FORKS, FORMAT, KEYS, LEASE_HOMES,
    LEASE_HOSTS, LEASE_KEYS, LEASE_VOTES, LOGS, MET, META, META_COMMITS, META_FORMAT, META_KEY_CHECK,
    META_STORE_ID, MOMENTS, RECORDS, SILENCES, SPACES, SpaceIx, SpaceRow, TIPS, key_check_context,
    key_context, parse_met, parse_silence, parse_tip,
};
use super::vaults::{Vaults, fresh};
use crate::crypto::EpochKey;
use crate::lease::{DesignationState, Entry, HostHead, HostInstance, HostState};
use crate::model::{DeviceId, LogId, RecordHash, Seq};
use crate::sync::{Loaded, LoadedLease, LoadedSpace};

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
            Some(FORMAT) => make_later_tables(db)?,
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
        open_later_tables(&txn)?;
    }
    txn.commit()?;
    Ok(())
}

/// Stores from before there were leases, checkpoints, days of silence, or devices to be met again have no tables
/// for them.
fn make_later_tables(db: &Database) -> Result<(), StoreError> {
    let read = db.begin_read()?;
    let chunks = read.open_table(LEASE_KEYS).map(drop).and_then(|()| read.open_table(CHUNKS).map(drop));
    let moments = chunks.and_then(|()| read.open_table(MOMENTS).map(drop));
    let silences = moments.and_then(|()| read.open_table(SILENCES).map(drop));
    match silences.and_then(|()| read.open_table(MET).map(drop)) {
        Ok(()) => return Ok(()),
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    drop(read);
    let txn = db.begin_write()?;
    open_later_tables(&txn)?;
    txn.commit()?;
    Ok(())
}

fn open_later_tables(txn: &WriteTransaction) -> Result<(), StoreError> {
    txn.open_table(CHECKPOINTS)?;
    txn.open_table(CHUNKS)?;
    txn.open_table(ATTESTATIONS)?;
    txn.open_table(BASES)?;
    txn.open_table(MOMENTS)?;
    txn.open_table(SILENCES)?;
    txn.open_table(MET)?;
    txn.open_table(LEASE_HOMES)?;
    txn.open_table(LEASE_VOTES)?;
    txn.open_table(LEASE_HOSTS)?;
    txn.open_table(LEASE_KEYS)?;
    Ok(())
}

/// What is stored about the leases of a space.
fn lease(txn: &ReadTransaction, ix: SpaceIx) -> Result<LoadedLease, StoreError> {
    let damaged = |table| StoreError::damaged(Part::Row { table });
    let mut loaded = LoadedLease::default();
    if let Some(instance) = txn.open_table(LEASE_HOMES)?.get(ix)? {
        loaded.home = HostInstance::new(instance.value());
    }
    if let Some(vote) = txn.open_table(LEASE_VOTES)?.get(ix)? {
        let vote = DesignationState::from_bytes(vote.value()).map_err(|_| damaged("lease votes"))?;
        loaded.vote = Some(vote);
    }
    let Some(head) = txn.open_table(LEASE_HOSTS)?.get(ix)? else { return Ok(loaded) };
    let head = HostHead::from_bytes(head.value()).map_err(|_| damaged("lease hosts"))?;
    let mut state = HostState::empty(head);
    for row in txn.open_table(LEASE_KEYS)?.range((ix, "")..)? {
        let (place, bytes) = row?;
        if place.value().0 != ix {
            break;
        }
        let (key, entry) = Entry::from_bytes(bytes.value()).map_err(|_| damaged("lease keys"))?;
        if key.as_str() != place.value().1 {
            return Err(damaged("lease keys"));
        }
        state.entries.insert(key, entry);
    }
    loaded.host = Some(state);
    Ok(loaded)
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
    let checkpoints = txn.open_table(CHECKPOINTS)?;
    for row in txn.open_table(BASES)?.iter()? {
        let (ix, row) = row?;
        let (ix, held) = (ix.value(), base_of_row(&checkpoints, ix.value(), &row.value())?);
        for (log, floor) in held.base.floor.iter() {
            let log_ix = index.log_ix_in(ix, log).ok_or_else(|| damaged("bases"))?;
            index.set_floor(log_ix, *floor);
        }
        index.set_base(ix, held);
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
        base: index.base(ix).map(|held| held.base.clone()),
        drafts: Vec::new(),
        records: Vec::new(),
        acks: Vec::new(),
        keys: Vec::new(),
        fork_proofs: Vec::new(),
        silence: Default::default(),
        met: None,
        lease: lease(txn, ix)?,
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
    if let Some(row) = txn.open_table(SILENCES)?.get(ix)? {
        loaded.silence = parse_silence(row.value())?;
    }
    if let Some(row) = txn.open_table(MET)?.get(ix)? {
        loaded.met = Some(parse_met(row.value())?);
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::lease::{Answer, DaemonInstance, Hold, Holder, HostWrite, Last, Mode, ReqNo, Ttl};
    use crate::model::{AgentId, CertHash, LeaseEpoch, SpaceId};
    use crate::store::Store;
    use crate::store::fault::FaultDisk;
    use crate::store::testing::{Author, reopen, store};
    use crate::sync::Write;

    fn key(name: &str) -> AgentId {
        name.parse().unwrap()
    }

    fn head(next: u32) -> HostHead {
        let cert = CertHash::from_bytes([7; 32]);
        HostHead { cert, term: 0, instance: HostInstance::FIRST, next_n: Some(next), mode: Mode::Serving }
    }

    fn entry(epoch: u32) -> Entry {
        let device = DeviceId::from_bytes([3; 32]);
        let holder = Holder { device, instance: DaemonInstance::new(5) };
        let epoch = LeaseEpoch::of(0, epoch).unwrap();
        let instance = DaemonInstance::new(5);
        let last = Last { instance, req_no: ReqNo::new(1), answer: Answer::Granted { epoch } };
        let hold = Hold::Held { holder, ttl_max: Ttl::DEFAULT };
        Entry { epoch, hold, last: BTreeMap::from([(device, last)]) }
    }

    fn host_write(space: SpaceId, next: u32, entries: &[(&str, Option<Entry>)]) -> Write {
        let entries = entries.iter().map(|(name, entry)| (key(name), entry.clone())).collect();
        let write = HostWrite { head: head(next), is_whole: false, entries };
        Write::LeaseHost { space, write: Box::new(write) }
    }

    fn loaded(disk: &FaultDisk) -> LoadedLease {
        reopen(disk).1.spaces[0].lease.clone()
    }

    #[test]
    fn a_register_and_what_was_promised_read_back_change_by_change() {
        let mut author = Author::new(1);
        let (store, disk) = store(&mut author);
        let space = author.space;
        let vote =
            DesignationState { seen: Some(LeaseEpoch::MIN), ..DesignationState::fresh(HostInstance::FIRST) };
        author.commit(
            &store,
            vec![
                host_write(space, 3, &[("a", Some(entry(1))), ("b", Some(entry(2)))]),
                Write::LeaseVote { space, state: Box::new(vote.clone()) },
            ],
        );
        author.commit(&store, vec![host_write(space, 4, &[("a", None), ("c", Some(entry(3)))])]);
        let instance = HostInstance::new(99);
        author.commit(&store, vec![Write::LeaseHome { space, instance }]);
        drop(store);

        let lease = loaded(&disk);

        let entries = BTreeMap::from([(key("b"), entry(2)), (key("c"), entry(3))]);
        let host = Some(HostState { head: head(4), entries });
        assert_eq!(lease, LoadedLease { home: instance, vote: Some(vote), host });
        assert!(lease.is_used() && !LoadedLease::default().is_used());

        let (store, _) = reopen(&disk);
        let write = HostWrite { head: head(1), is_whole: true, entries: BTreeMap::new() };
        author.commit(&store, vec![Write::LeaseHost { space, write: Box::new(write) }]);
        drop(store);
        assert_eq!(loaded(&disk).host, Some(HostState::empty(head(1))), "what was there before goes first");
    }

    #[test]
    fn a_store_from_before_there_were_leases_opens_and_takes_them() {
        let mut author = Author::new(1);
        let (old, disk) = store(&mut author);
        let batches = author.batches(2, 3);
        let write = author.write(batches);
        author.commit(&old, vec![write]);
        {
            let db = old.engine().unwrap();
            let txn = db.get().begin_write().unwrap();
            assert!(txn.delete_table(LEASE_HOMES).unwrap() && txn.delete_table(LEASE_VOTES).unwrap());
            assert!(txn.delete_table(LEASE_HOSTS).unwrap() && txn.delete_table(LEASE_KEYS).unwrap());
            txn.commit().unwrap();
        }
        drop(old);

        let (store, opened) = reopen(&disk);

        assert_eq!(opened.spaces[0].lease, LoadedLease::default());
        assert_eq!(opened.spaces[0].frontier.log_count(), 1);
        author.commit(&store, vec![host_write(author.space, 2, &[("a", Some(entry(1)))])]);
        drop(store);
        assert_eq!(loaded(&disk).host.map(|host| host.entries.len()), Some(1));
    }

    #[test]
    fn whom_a_home_has_met_reads_back_also_in_a_store_from_before_that_was_noted() {
        let mut author = Author::new(1);
        let (old, disk) = store(&mut author);
        {
            let db = old.engine().unwrap();
            let txn = db.get().begin_write().unwrap();
            assert!(txn.delete_table(MET).unwrap());
            txn.commit().unwrap();
        }
        drop(old);
        let (store, opened) = reopen(&disk);
        assert_eq!(opened.spaces[0].met, None);
        drop(store);

        for devices in [&[][..], &[2, 9][..]] {
            let (store, _) = reopen(&disk);
            let met: std::collections::BTreeSet<DeviceId> =
                devices.iter().map(|byte| DeviceId::from_bytes([*byte; 32])).collect();
            author.commit(&store, vec![Write::Met { space: author.space, met: met.clone() }]);
            drop(store);
            let (store, opened) = reopen(&disk);
            assert_eq!(opened.spaces[0].met, Some(met));
            drop(store);
        }
    }

    #[test]
    fn rows_of_leases_that_do_not_read_are_damage() {
        type Spoil = fn(&redb::WriteTransaction);
        let spoil: [(&str, Spoil); 4] = [
            ("lease votes", |txn| drop(txn.open_table(LEASE_VOTES).unwrap().insert(0, &b"x"[..]).unwrap())),
            ("lease hosts", |txn| drop(txn.open_table(LEASE_HOSTS).unwrap().insert(0, &b"x"[..]).unwrap())),
            ("lease keys", |txn| {
                drop(txn.open_table(LEASE_KEYS).unwrap().insert((0, "a"), &b"x"[..]).unwrap());
            }),
            ("lease keys", |txn| {
                let bytes = entry(1).to_bytes(&key("b"));
                drop(txn.open_table(LEASE_KEYS).unwrap().insert((0, "a"), &bytes[..]).unwrap());
            }),
        ];
        for (table, spoil) in spoil {
            let mut author = Author::new(1);
            let (store, disk) = store(&mut author);
            author.commit(&store, vec![host_write(author.space, 2, &[("c", Some(entry(1)))])]);
            {
                let db = store.engine().unwrap();
                let txn = db.get().begin_write().unwrap();
                spoil(&txn);
                txn.commit().unwrap();
            }
            drop(store);

            let refused = Store::open_with(disk, None, &crate::store::testing::LOCAL_KEY).map(drop);

            assert!(
                matches!(refused, Err(StoreError::Damaged { what: Part::Row { table: found }, .. }) if found == table),
                "{table}: {refused:?}"
            );
        }
    }
}
