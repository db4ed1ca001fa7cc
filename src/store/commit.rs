//! Applies the writes of a transaction to the tables, checking each against what is held.

use redb::{ReadableTable, WriteTransaction};

use super::error::{Part, StoreError};
use super::index::{Changes, Index};
use super::pack;
use super::tables::{
    ACKS, BATCHES, DRAFTS, FORKS, KEYS, LEASE_HOMES, LEASE_HOSTS, LEASE_KEYS, LEASE_VOTES, LOGS, LogIx, MET,
    META, META_COMMITS, PlaceIx, RECORDS, SILENCES, SPACES, SpaceIx, SpaceRow, TIPS, draft_context,
    key_context, met_bytes, silence_bytes, tip_bytes,
};
use super::vaults::Vaults;
use crate::crypto::SealedBatch;
use crate::lease::HostWrite;
use crate::model::{LogId, Seq, SpaceId, Tip};
use crate::sync::{DraftGroup, Write};
use crate::wire::body::{BodyReader, BodyWriter};

/// One engine transaction in the making.
pub(super) struct Writer<'a> {
    pub(super) txn: &'a WriteTransaction,
    vaults: &'a Vaults,
    pub(super) changes: Changes<'a>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(txn: &'a WriteTransaction, vaults: &'a Vaults, base: &'a Index) -> Self {
        Self { txn, vaults, changes: Changes::on(base) }
    }

    /// Applies one write. After an error the transaction must be dropped.
    pub(super) fn apply(&mut self, write: &Write) -> Result<(), StoreError> {
        match write {
            Write::Space { space, scope, own_log, is_active, carried, dropped } => {
                let truncations = self.changes.space(space).map_or(0, |(_, row)| row.truncations);
                self.space(SpaceRow {
                    space: *space,
                    is_active: *is_active,
                    carried: *carried,
                    dropped: *dropped,
                    truncations,
                    own_log: *own_log,
                    scope: scope.clone(),
                })
            }
            Write::Batches { space, log, batches } => self.batches(space, log, batches),
            Write::Truncate { space, log, to } => self.truncate(space, log, *to),
            Write::Base { space, checkpoint, cut, kind } => self.base(space, *checkpoint, cut, *kind),
            Write::Drafts { space, group } => self.drafts(space, group),
            Write::DraftsSealed { space, through } => self.drafts_sealed(space, *through),
            Write::Record { space, hash, bytes } => {
                let key = (self.space_ix(space)?, *hash.as_bytes());
                self.txn.open_table(RECORDS)?.insert(key, &bytes[..])?;
                Ok(())
            }
            Write::Ack { space, device, bytes } => {
                let key = (self.space_ix(space)?, *device.as_bytes());
                self.txn.open_table(ACKS)?.insert(key, &bytes[..])?;
                Ok(())
            }
            Write::Key { space, key } => {
                let space_ix = self.space_ix(space)?;
                let key_id = *key.id().as_bytes();
                let sealed = self.vaults.seal(&key_context(space, &key_id), key.expose())?;
                self.txn.open_table(KEYS)?.insert((space_ix, key_id), &sealed[..])?;
                Ok(())
            }
            Write::LeaseHome { space, instance } => {
                let space_ix = self.space_ix(space)?;
                self.txn.open_table(LEASE_HOMES)?.insert(space_ix, instance.get())?;
                Ok(())
            }
            Write::LeaseVote { space, state } => {
                let space_ix = self.space_ix(space)?;
                self.txn.open_table(LEASE_VOTES)?.insert(space_ix, &state.to_bytes()[..])?;
                Ok(())
            }
            Write::LeaseHost { space, write } => self.lease_host(space, write),
            Write::Silence { space, silence } => {
                let space_ix = self.space_ix(space)?;
                if let Some(bytes) = silence_bytes(silence) {
                    self.txn.open_table(SILENCES)?.insert(space_ix, &bytes[..])?;
                }
                Ok(())
            }
            Write::Met { space, met } => {
                let space_ix = self.space_ix(space)?;
                self.txn.open_table(MET)?.insert(space_ix, &met_bytes(met)[..])?;
                Ok(())
            }
            Write::ForkProof { space, log, bytes } => {
                let log_ix = self.log_ix(space, log)?;
                self.txn.open_table(FORKS)?.insert(log_ix, &bytes[..])?;
                Ok(())
            }
        }
    }

    /// Counts the commit and gives back what it changes in the index.
    pub(super) fn finish(mut self) -> Result<Index, StoreError> {
        let commits = self.changes.changed().commits.to_be_bytes();
        self.txn.open_table(META)?.insert(META_COMMITS, &commits[..])?;
        Ok(self.changes.finish())
    }

    fn lease_host(&self, space: &SpaceId, write: &HostWrite) -> Result<(), StoreError> {
        let space_ix = self.space_ix(space)?;
        self.txn.open_table(LEASE_HOSTS)?.insert(space_ix, &write.head.to_bytes()[..])?;
        let mut keys = self.txn.open_table(LEASE_KEYS)?;
        if write.is_whole {
            keys.retain(|(of, _), _| of != space_ix)?;
        }
        for (key, entry) in &write.entries {
            match entry {
                Some(entry) => {
                    keys.insert((space_ix, key.as_str()), &entry.to_bytes(key)[..])?;
                }
                None => {
                    keys.remove((space_ix, key.as_str()))?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn space(&mut self, row: SpaceRow) -> Result<(), StoreError> {
        let ix = match self.changes.space(&row.space) {
            Some((ix, _)) => *ix,
            None => self.changes.next_space_ix(),
        };
        self.txn.open_table(SPACES)?.insert(ix, &row.to_bytes()[..])?;
        self.changes.changed().set_space(ix, row);
        Ok(())
    }

    fn batches(&mut self, space: &SpaceId, log: &LogId, batches: &[SealedBatch]) -> Result<(), StoreError> {
        let log_ix = self.log_ix(space, log)?;
        let mut tip = self.changes.tip(log_ix);
        for batch in batches {
            let header = batch.header();
            if header.log != *log || header.first != tip.seq.next() || header.prev != tip.hash {
                return Err(StoreError::NotContiguous { log: *log, tip: tip.seq, found: header.first });
            }
            tip = Tip { seq: header.last(), hash: batch.link() };
        }
        self.insert_packed(log_ix, batches)?;
        self.txn.open_table(TIPS)?.insert(log_ix, tip_bytes(tip))?;
        self.changes.changed().set_tip(log_ix, tip);
        Ok(())
    }

    fn truncate(&mut self, space: &SpaceId, log: &LogId, to: Tip) -> Result<(), StoreError> {
        let Some((_, row)) = self.changes.space(space) else {
            return Err(StoreError::UnknownSpace { space: *space });
        };
        let mut row = row.clone();
        let log_ix = self.log_ix(space, log)?;
        let (tip, end) = (self.changes.tip(log_ix), self.changes.end(log_ix));
        let floor = self.changes.floor(log_ix);
        if to.seq < floor.seq {
            return Err(StoreError::BelowBase { log: *log, to: to.seq, floor: floor.seq });
        }
        // The one check between a mistake above and lost drafts.
        if row.own_log == *log && end > tip.seq {
            return Err(StoreError::DraftsUnsealed { device: log.device, through: end, tip: tip.seq });
        }
        if to != tip {
            self.cut_batches(log_ix, log, tip, to)?;
        }
        self.txn.open_table(DRAFTS)?.retain_in(log_range(log_ix), |_, _| false)?;
        let mut tips = self.txn.open_table(TIPS)?;
        if to == Tip::NONE {
            tips.remove(log_ix)?;
        } else {
            tips.insert(log_ix, tip_bytes(to))?;
        }
        drop(tips);
        self.changes.changed().set_tip(log_ix, to);
        self.changes.changed().set_draft_end(log_ix, Seq::ZERO);
        row.truncations += 1;
        self.space(row)
    }

    /// Removes the batches beyond `to`, after checking that one ends there.
    fn cut_batches(
        &self,
        (space_ix, log_ix): LogIx,
        log: &LogId,
        tip: Tip,
        to: Tip,
    ) -> Result<(), StoreError> {
        let no_such_end = || StoreError::NoSuchEnd { log: *log, to: to.seq };
        if to.seq > tip.seq || (to.seq == Seq::ZERO && to != Tip::NONE) {
            return Err(no_such_end());
        }
        let mut table = self.txn.open_table(BATCHES)?;
        if to != Tip::NONE {
            let up_to = (space_ix, log_ix, 0)..=(space_ix, log_ix, to.seq.get());
            let held = table.range(up_to)?.next_back().transpose()?;
            let held = held.map(|(place, bytes)| (place.value(), bytes.value().to_vec()));
            let kept = match &held {
                Some((_, bytes)) => pack::bytes_through(bytes, log, to)?,
                None => None,
            };
            match (held, kept) {
                (Some((first, bytes)), Some(kept)) if kept < bytes.len() => {
                    table.insert(first, &bytes[..kept])?;
                }
                (Some(_), Some(_)) => {}
                // What ends there may have gone from the disk: the base vouches for it.
                (_, None) if to == self.changes.floor((space_ix, log_ix)) => {}
                (_, None) | (None, Some(_)) => return Err(no_such_end()),
            }
        }
        let beyond = (space_ix, log_ix, to.seq.get().saturating_add(1))..=(space_ix, log_ix, u64::MAX);
        table.retain_in(beyond, |_, _| false)?;
        Ok(())
    }

    fn insert_packed(&self, (space_ix, log_ix): LogIx, batches: &[SealedBatch]) -> Result<(), StoreError> {
        let mut table = self.txn.open_table(BATCHES)?;
        // A short value at the end of the log is the first piece to pack: its page is rewritten anyway.
        let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
        if let Some(last) = table.range(log_range((space_ix, log_ix)))?.next_back() {
            let (key, value) = last?;
            // What begins below the floor is about to go.
            let is_visible = Seq::new(key.value().2) > self.changes.floor((space_ix, log_ix)).seq;
            if is_visible && pack::is_short(value.value().len()) {
                pieces.push((key.value().2, value.value().to_vec()));
            }
        }
        let tail_count = pieces.len();
        let lengths: Vec<usize> = pieces
            .iter()
            .map(|(_, bytes)| bytes.len())
            .chain(batches.iter().map(|batch| batch.bytes().len()))
            .collect();
        let mut at = 0;
        for count in pack::groups(&lengths) {
            let end = at + count;
            let (mut first, mut value) = (None, Vec::with_capacity(lengths[at..end].iter().sum()));
            for piece in at..end {
                let (seq, bytes) = match pieces.get(piece) {
                    Some((seq, bytes)) => (*seq, &bytes[..]),
                    None => {
                        let batch = &batches[piece - tail_count];
                        (batch.header().first.get(), &batch.bytes()[..])
                    }
                };
                first.get_or_insert(seq);
                value.extend_from_slice(bytes);
            }
            let is_tail_alone = tail_count == 1 && end == 1;
            if let Some(first) = first
                && !is_tail_alone
            {
                table.insert((space_ix, log_ix, first), &value[..])?;
            }
            at = end;
        }
        Ok(())
    }

    fn drafts(&mut self, space: &SpaceId, group: &DraftGroup) -> Result<(), StoreError> {
        let log_ix = self.log_ix(space, &group.log)?;
        BodyReader::check(&group.body, group.first, group.op_count)
            .ok()
            .filter(|()| group.op_count > 0)
            .ok_or(StoreError::NoBody { log: group.log, found: group.first })?;
        let end = self.changes.end(log_ix);
        if group.first != end.next() {
            return Err(StoreError::NotContiguous { log: group.log, tip: end, found: group.first });
        }
        self.insert_drafts(space, log_ix, group)?;
        self.changes.changed().set_draft_end(log_ix, group.last());
        Ok(())
    }

    fn insert_drafts(
        &self,
        space: &SpaceId,
        (space_ix, log_ix): LogIx,
        group: &DraftGroup,
    ) -> Result<(), StoreError> {
        let mut plain = zeroize::Zeroizing::new(Vec::with_capacity(4 + group.body.len()));
        plain.extend_from_slice(&group.op_count.to_be_bytes());
        plain.extend_from_slice(&group.body);
        let sealed = self.vaults.seal(&draft_context(space, &group.log, group.first), &plain)?;
        let place = (space_ix, log_ix, group.first.get());
        self.txn.open_table(DRAFTS)?.insert(place, &sealed[..])?;
        Ok(())
    }

    fn drafts_sealed(&mut self, space: &SpaceId, through: Seq) -> Result<(), StoreError> {
        let Some((space_ix, row)) = self.changes.space(space) else {
            return Err(StoreError::UnknownSpace { space: *space });
        };
        let (space_ix, log) = (*space_ix, row.own_log);
        let log_ix = self.log_ix(space, &log)?;
        let tip = self.changes.tip(log_ix).seq;
        // The one check between a mistake above and a lost op.
        if through > tip {
            return Err(StoreError::DraftsUnsealed { device: log.device, through, tip });
        }
        let mut remainder = None;
        {
            let mut table = self.txn.open_table(DRAFTS)?;
            let mut places = Vec::new();
            for row in table.range((space_ix, log_ix.1, 0)..=(space_ix, log_ix.1, through.get()))? {
                let (key, value) = row?;
                let first = Seq::new(key.value().2);
                let group = self.vaults.open_drafts(space, &log, first, value.value())?;
                places.push(key.value());
                if group.last() > through {
                    remainder = Some(drafts_beyond(&group, through)?);
                }
            }
            for place in places {
                table.remove(place)?;
            }
        }
        match remainder {
            Some(group) => self.insert_drafts(space, log_ix, &group),
            None => Ok(()),
        }
    }

    fn space_ix(&self, space: &SpaceId) -> Result<SpaceIx, StoreError> {
        match self.changes.space(space) {
            Some((ix, _)) => Ok(*ix),
            None => Err(StoreError::UnknownSpace { space: *space }),
        }
    }

    /// The number of a log, which it gets at its first write.
    pub(super) fn log_ix(&mut self, space: &SpaceId, log: &LogId) -> Result<LogIx, StoreError> {
        let space_ix = self.space_ix(space)?;
        if let Some(log_ix) = self.changes.log_ix(space_ix, log) {
            return Ok(log_ix);
        }
        let log_ix = self.changes.next_log_ix(space_ix);
        self.txn.open_table(LOGS)?.insert(log_ix, log.to_bytes())?;
        self.changes.changed().set_log(log_ix, *log);
        Ok(log_ix)
    }
}

/// Every place of one log.
pub(super) fn log_range((space_ix, log_ix): LogIx) -> std::ops::RangeInclusive<PlaceIx> {
    (space_ix, log_ix, 0)..=(space_ix, log_ix, u64::MAX)
}

/// The drafts of a group that are not in a batch yet: a batch ended within it.
fn drafts_beyond(group: &DraftGroup, through: Seq) -> Result<DraftGroup, StoreError> {
    let damaged = || StoreError::damaged(Part::Drafts { log: group.log, first: group.first });
    let mut writer = BodyWriter::new();
    for frame in BodyReader::new(&group.body, group.first, group.op_count).map_err(|_| damaged())? {
        let frame = frame.map_err(|_| damaged())?;
        if frame.seq > through {
            writer.push(frame.hlc, frame.kind, frame.flags, frame.body);
        }
    }
    let (body, op_count) = writer.finish();
    Ok(DraftGroup { log: group.log, first: through.next(), op_count, body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Scope;
    use crate::store::fault::{FaultDisk, Loss};
    use crate::store::testing::{Author, LOCAL_KEY, payload, reopen, store, whole_run};
    use crate::store::{Blocks, KeyRing, NoSnapshot, Store, Truncations};

    /// Batches of one log, alike up to a point, and what they are after it.
    struct Branch {
        author: Author,
        batches: Vec<SealedBatch>,
    }

    impl Branch {
        fn new(shared: usize, own: usize, op_bytes: usize) -> Self {
            let mut author = Author::new(1);
            let mut batches = author.batches(shared, 2);
            batches.extend((0..own).map(|_| author.batch(2, op_bytes)));
            Self { author, batches }
        }

        fn tip(&self, count: usize) -> Tip {
            count.checked_sub(1).map_or(Tip::NONE, |last| {
                let batch = &self.batches[last];
                Tip { seq: batch.header().last(), hash: batch.link() }
            })
        }

        fn bytes(&self, count: usize) -> Vec<u8> {
            self.batches[..count].iter().flat_map(|batch| batch.bytes().to_vec()).collect()
        }

        fn truncate(&self, count: usize) -> Write {
            Write::Truncate { space: self.author.space, log: self.author.log, to: self.tip(count) }
        }

        fn write(&self, from: usize) -> Write {
            self.author.write(self.batches[from..].to_vec())
        }
    }

    /// A store that holds a branch, whose log is not the own one.
    fn store_with(branch: &mut Branch) -> (Store, FaultDisk) {
        let (store, disk) = store(&mut Author::new(9));
        let writes = [branch.write(0)];
        branch.author.commit(&store, writes.into());
        (store, disk)
    }

    fn frontier_tip(disk: &FaultDisk, branch: &Branch) -> Tip {
        reopen(disk).1.spaces[0].frontier.tip(&branch.author.log)
    }

    #[test]
    fn a_log_can_be_cut_at_the_end_of_any_batch() {
        // Short batches share a value, long ones have their own.
        for (shared, own, op_bytes) in [(12, 0, 0), (3, 6, 6_000), (0, 4, 30_000)] {
            for kept in 0..=shared + own {
                let mut branch = Branch::new(shared, own, op_bytes);
                let (store, disk) = store_with(&mut branch);

                let write = branch.truncate(kept);
                branch.author.commit(&store, vec![write]);

                assert_eq!(whole_run(&store, &branch.author), branch.bytes(kept));
                let (space, log) = (&branch.author.space, &branch.author.log);
                let beyond = branch.tip(kept).seq.next();
                assert!(store.batch_at(space, log, beyond).unwrap().is_none());
                drop(store);
                assert_eq!(frontier_tip(&disk, &branch), branch.tip(kept));
                let (store, _) = reopen(&disk);
                let write = branch.author.write(branch.batches[kept..].to_vec());
                branch.author.commit(&store, vec![write]);
                assert_eq!(whole_run(&store, &branch.author), branch.bytes(shared + own), "continued");
            }
        }
    }

    #[test]
    fn another_branch_takes_the_place_of_what_is_dropped_in_one_transaction() {
        let mut given_up = Branch::new(3, 4, 40);
        let selected = Branch::new(3, 2, 50);
        let (store, disk) = store_with(&mut given_up);
        let keys = KeyRing::default();
        keys.insert(given_up.author.key.clone());
        let blocks = Blocks::new(store.clone(), keys);
        let (space, log) = (given_up.author.space, given_up.author.log);
        let read = |seq| {
            let dot = crate::model::Dot { log, seq: Seq::new(seq) };
            blocks.op(&space, &dot).unwrap().map(|op| op.body.to_vec())
        };
        assert_eq!((read(7), read(14)), (Some(payload(7, 40)), Some(payload(14, 40))));

        given_up.author.commit(&store, vec![selected.truncate(3), selected.write(3)]);
        blocks.forget_log(&space, &log);

        assert_eq!((read(6), read(7), read(14)), (Some(payload(6, 40)), Some(payload(7, 50)), None));
        assert_eq!(whole_run(&store, &selected.author), selected.bytes(5));
        drop((store, blocks));
        assert_eq!(frontier_tip(&disk, &selected), selected.tip(5));
    }

    #[test]
    fn one_transaction_cuts_several_logs_and_one_of_them_twice() {
        let mut branch = Branch::new(6, 0, 0);
        let (store, disk) = store_with(&mut branch);
        let mut second = Author::new(2);
        let batches = second.batches(2, 3);
        let write = second.write(batches);
        second.commit(&store, vec![write]);
        let drop_log = |log| Write::Truncate { space: second.space, log, to: Tip::NONE };

        let writes =
            vec![branch.truncate(5), drop_log(second.log), drop_log(Author::new(3).log), branch.truncate(2)];
        branch.author.commit(&store, writes);

        assert_eq!(whole_run(&store, &branch.author), branch.bytes(2));
        assert!(whole_run(&store, &second).is_empty());
        drop(store);
        let (_, loaded) = reopen(&disk);
        assert_eq!(loaded.spaces[0].frontier.log_count(), 1);
        assert_eq!(loaded.spaces[0].frontier.tip(&branch.author.log), branch.tip(2));
    }

    #[test]
    fn a_cut_that_does_not_fit_is_refused_and_nothing_dropped() {
        let mut branch = Branch::new(3, 2, 40);
        let (store, _) = store_with(&mut branch);
        let (space, log) = (branch.author.space, branch.author.log);
        let elsewhere = Branch::new(2, 3, 50);
        let mut refused = |writes: Vec<Write>| {
            let txn = branch.author.txn(writes);
            let error = store.commit(&[txn]).unwrap_err();
            assert_eq!(whole_run(&store, &branch.author).len(), branch.bytes(5).len());
            assert_eq!(store.truncations(&space), Truncations::default());
            error
        };
        let to = |seq, tip: Tip| vec![Write::Truncate { space, log, to: Tip { seq: Seq::new(seq), ..tip } }];
        let tip = elsewhere.tip(2);

        let within_a_batch = refused(to(3, tip));
        assert!(matches!(within_a_batch, StoreError::NoSuchEnd { to, .. } if to == Seq::new(3)));
        assert!(matches!(refused(to(6, elsewhere.tip(3))), StoreError::NoSuchEnd { .. }), "another branch");
        assert!(matches!(refused(to(12, tip)), StoreError::NoSuchEnd { .. }), "beyond the end");
        assert!(matches!(refused(to(0, tip)), StoreError::NoSuchEnd { .. }));
        let nowhere = Write::Truncate { space: SpaceId::from_bytes([0; 32]), log, to: Tip::NONE };
        assert!(matches!(refused(vec![nowhere]), StoreError::UnknownSpace { .. }));
        let own = Author::new(9);
        let truncate_own = Write::Truncate { space, log: own.log, to: Tip::NONE };
        let loses_drafts = refused(vec![own.drafts(1, 2), truncate_own]);
        assert!(matches!(loses_drafts, StoreError::DraftsUnsealed { through, .. } if through == Seq::new(2)));
    }

    #[test]
    fn drafts_left_behind_in_a_log_go_with_its_end() {
        let mut old = Author::new(1);
        let (store, disk) = store(&mut old);
        let batches = old.batches(2, 2);
        let write = old.write(batches);
        let drafts = old.drafts(5, 3);
        old.commit(&store, vec![write, drafts]);
        let (space, own_log) = (old.space, Author::new(2).log);
        let scope = Scope::Personal;
        let carried = Seq::ZERO;

        old.commit(
            &store,
            vec![
                Write::Space { space, scope, own_log, is_active: true, carried, dropped: 4 },
                Author::new(2).drafts(1, 3),
                Write::Truncate { space, log: old.log, to: Tip::NONE },
            ],
        );

        drop(store);
        let (store, loaded) = reopen(&disk);
        assert_eq!((loaded.spaces[0].dropped, loaded.spaces[0].drafts.len()), (4, 1));
        assert_eq!(loaded.spaces[0].drafts[0].log, own_log);
        assert!(store.drafts_at(&space, &old.log, Seq::new(6)).unwrap().is_none());
    }

    #[test]
    fn a_power_cut_leaves_the_old_branch_or_the_new_one() {
        let selected = Branch::new(3, 2, 50);
        let run = |disk: &FaultDisk| {
            let mut given_up = Branch::new(3, 4, 40);
            let Ok((store, _)) = Store::open_with(disk.clone(), None, &LOCAL_KEY) else { return 0 };
            let space = Author::new(9).space_write();
            let txns = [
                given_up.author.txn(vec![space, given_up.write(0)]),
                given_up.author.txn(vec![selected.truncate(3), selected.write(3)]),
            ];
            txns.iter().take_while(|txn| store.commit(std::slice::from_ref(txn)).is_ok()).count()
        };
        let whole = FaultDisk::new();
        drop(reopen(&whole));
        let made = whole.sync_count();
        assert_eq!(run(&whole), 2);

        for cut in made..whole.sync_count() {
            let disk = FaultDisk::new();
            drop(reopen(&disk));
            disk.cut_power_at_sync(cut);
            let acked = run(&disk);
            for (loss, seed_count) in [(Loss::All, 1), (Loss::Subset, 12), (Loss::Torn, 12)] {
                for seed in 0..seed_count {
                    let name = format!("cut at sync {cut}, {loss:?}, seed {seed}");
                    let (store, loaded) = reopen(&disk.after_power_cut(loss, seed));
                    let Some(space) = loaded.spaces.first() else {
                        assert_eq!(acked, 0, "{name}");
                        continue;
                    };
                    let log = selected.author.log;
                    let held = whole_run(&store, &selected.author);
                    let truncations = store.truncations(&selected.author.space);
                    let is_new = held == selected.bytes(5);
                    assert_eq!(truncations != Truncations::default(), is_new, "{name}");
                    let old = Branch::new(3, 4, 40);
                    assert!(is_new || held == old.bytes(7), "{name}");
                    let tip = if is_new { selected.tip(5) } else { old.tip(7) };
                    assert_eq!(space.frontier.tip(&log), tip, "{name}");
                    assert!(is_new || acked < 2, "{name}");
                }
            }
        }
    }

    #[test]
    fn an_index_from_before_a_cut_is_never_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut branch = Branch::new(6, 0, 0);
        let space = branch.author.space;
        let open = || Store::open(dir.path(), &LOCAL_KEY).unwrap().0;
        let load = |store: &Store| {
            let mut found = Vec::new();
            let loaded = store.load_snapshot(&space, |chunk| {
                found.extend_from_slice(chunk);
                std::ops::ControlFlow::Continue(())
            });
            loaded.map(|()| found)
        };
        let store = open();
        let writes = vec![Author::new(9).space_write(), branch.write(0)];
        branch.author.commit(&store, writes);
        let before = store.truncations(&space);
        store.save_snapshot(&space, before, |sink| sink(b"old")).unwrap();
        assert_eq!(load(&store).unwrap(), b"old");

        let writes = vec![branch.truncate(2), branch.write(2)];
        branch.author.commit(&store, writes);

        assert!(matches!(load(&store), Err(NoSnapshot::Block { index: 0 })), "also where the log is as long");
        store.save_snapshot(&space, before, |sink| sink(b"folded before")).unwrap();
        assert!(matches!(load(&store), Err(NoSnapshot::Block { index: 0 })));
        drop(store);
        let store = open();
        assert!(matches!(load(&store), Err(NoSnapshot::Block { index: 0 })));
        store.save_snapshot(&space, store.truncations(&space), |sink| sink(b"new")).unwrap();
        assert_eq!(load(&store).unwrap(), b"new");
        let writes = vec![Author::new(9).space_write()];
        branch.author.commit(&store, writes);
        assert_eq!(load(&store).unwrap(), b"new", "the row of the space keeps the number");
    }
}
