//! Applies the writes of a transaction to the tables, checking each against what is held.

use redb::{ReadableTable, WriteTransaction};

use super::error::{Part, StoreError};
use super::index::{Changes, Index};
use super::pack;
use super::tables::{
    ACKS, BATCHES, DRAFTS, FORKS, KEYS, LOGS, LogIx, META, META_COMMITS, PlaceIx, RECORDS, SPACES, SpaceIx,
    SpaceRow, TIPS, draft_context, key_context, tip_bytes,
};
use super::vaults::Vaults;
use crate::crypto::SealedBatch;
use crate::model::{LogId, Seq, SpaceId, Tip};
use crate::sync::{DraftGroup, Write};
use crate::wire::body::{BodyReader, BodyWriter};

/// One engine transaction in the making.
pub(super) struct Writer<'a> {
    txn: &'a WriteTransaction,
    vaults: &'a Vaults,
    changes: Changes<'a>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(txn: &'a WriteTransaction, vaults: &'a Vaults, base: &'a Index) -> Self {
        Self { txn, vaults, changes: Changes::on(base) }
    }

    /// Applies one write. After an error the transaction must be dropped.
    pub(super) fn apply(&mut self, write: &Write) -> Result<(), StoreError> {
        match write {
            Write::Space { space, scope, own_log, is_active, carried, dropped } => self.space(SpaceRow {
                space: *space,
                is_active: *is_active,
                carried: *carried,
                dropped: *dropped,
                own_log: *own_log,
                scope: scope.clone(),
            }),
            Write::Batches { space, log, batches } => self.batches(space, log, batches),
            Write::Truncate { space, log, to } => self.truncate(space, log, *to),
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

    fn space(&mut self, row: SpaceRow) -> Result<(), StoreError> {
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
        let log_ix = self.log_ix(space, log)?;
        let (space_ix, ix) = log_ix;
        let tip = self.changes.tip(log_ix);
        let refuse = || StoreError::NotContiguous { log: *log, tip: tip.seq, found: to.seq };
        if to.seq > tip.seq {
            return Err(refuse());
        }
        let mut table = self.txn.open_table(BATCHES)?;
        let mut places = Vec::new();
        let mut straddling = None;
        // Backwards: what stays is not looked at, but for the value that holds the new end.
        for value in table.range(log_range(log_ix))?.rev() {
            let (key, value) = value?;
            let (place, bytes) = (key.value(), value.value());
            if place.2 > to.seq.get() {
                places.push(place);
                continue;
            }
            let damaged = || StoreError::damaged(Part::Batch { log: *log, seq: to.seq });
            let run = SealedBatch::parse_run(bytes::Bytes::copy_from_slice(bytes)).map_err(|_| damaged())?;
            let kept: Vec<SealedBatch> =
                run.into_iter().take_while(|batch| batch.header().last() <= to.seq).collect();
            let end = kept.last().map(|batch| Tip { seq: batch.header().last(), hash: batch.link() });
            if end != Some(to) {
                return Err(refuse());
            }
            straddling = Some((place, kept));
            break;
        }
        for place in places {
            table.remove(place)?;
        }
        match straddling {
            Some((place, kept)) => {
                let value: Vec<u8> = kept.iter().flat_map(|batch| batch.bytes().iter().copied()).collect();
                table.insert(place, &value[..])?;
            }
            None if to.seq > Seq::ZERO => return Err(refuse()),
            None => {}
        }
        let mut drafts = self.txn.open_table(DRAFTS)?;
        drafts.retain_in((space_ix, ix, 0)..=(space_ix, ix, u64::MAX), |_, _| false)?;
        self.txn.open_table(TIPS)?.insert(log_ix, tip_bytes(to))?;
        self.changes.changed().set_tip(log_ix, to);
        self.changes.changed().set_draft_end(log_ix, Seq::ZERO);
        Ok(())
    }

    fn insert_packed(&self, (space_ix, log_ix): LogIx, batches: &[SealedBatch]) -> Result<(), StoreError> {
        let mut table = self.txn.open_table(BATCHES)?;
        // A short value at the end of the log is the first piece to pack: its page is rewritten anyway.
        let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
        if let Some(last) = table.range(log_range((space_ix, log_ix)))?.next_back() {
            let (key, value) = last?;
            if pack::is_short(value.value().len()) {
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
    fn log_ix(&mut self, space: &SpaceId, log: &LogId) -> Result<LogIx, StoreError> {
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
