//! A durable store in memory: what is applied survives every crash, what is not is gone.
//!
//! It checks what the real store checks, so an engine that asks for the impossible is found here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::crypto::{EpochKey, Opener, SealedBatch};
use crate::lease::{DesignationState, HostState};
use crate::model::{DeviceId, Dot, Frontier, Hlc, KeyId, LogId, RecordHash, Scope, Seq, SpaceId, Tip};
use crate::sync::{Base, BaseKind, DraftGroup, Loaded, LoadedLease, LoadedSpace, Silence, Txn, Write};
use crate::wire::checkpoint::CheckpointHash;
use crate::wire::{BodyReader, BodyWriter};

/// A write that does not fit what is stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// A space nobody has written.
    #[error("a write to space {space:?}, which does not exist")]
    UnknownSpace {
        /// The space.
        space: SpaceId,
    },
    /// Batches or drafts that do not continue their log.
    #[error("positions from {found} written to {log:?}, which ends at {end}")]
    NotContiguous {
        /// The log.
        log: LogId,
        /// Where it ends.
        end: Seq,
        /// What was written.
        found: Seq,
    },
    /// A base with another cut than what is stored allows.
    #[error("a base with place {floor} of {log:?}, which has no batch that ends there")]
    NoSuchEnd {
        /// The log.
        log: LogId,
        /// The place.
        floor: Seq,
    },
    /// Drafts forgotten that are in no batch.
    #[error("drafts up to {through} forgotten, but the log {log:?} is sealed up to {tip}")]
    DraftsUnsealed {
        /// The log.
        log: LogId,
        /// What was to be forgotten.
        through: Seq,
        /// What is sealed.
        tip: Seq,
    },
}

/// A checkpoint as it is kept.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Its cut.
    pub cut: Frontier,
    /// The state there.
    pub chunks: Vec<Vec<u8>>,
    /// The batches it has taken the place of, for checkers only.
    pub archive: BTreeMap<LogId, Vec<SealedBatch>>,
    /// And the keys that open them.
    pub archive_keys: BTreeMap<KeyId, EpochKey>,
}

/// Everything one device has made durable.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    spaces: BTreeMap<SpaceId, DiskSpace>,
    checkpoints: BTreeMap<CheckpointHash, Arc<Kept>>,
}

#[derive(Clone, Debug)]
struct DiskSpace {
    scope: Scope,
    own_log: LogId,
    is_active: bool,
    carried: Seq,
    dropped: u64,
    base: Option<Base>,
    logs: BTreeMap<LogId, DiskLog>,
    records: BTreeMap<RecordHash, Bytes>,
    acks: BTreeMap<DeviceId, Bytes>,
    keys: BTreeMap<KeyId, EpochKey>,
    archive_keys: BTreeMap<KeyId, EpochKey>,
    proofs: BTreeMap<LogId, Bytes>,
    silence: Silence,
    met: Option<BTreeSet<DeviceId>>,
    lease: LoadedLease,
}

#[derive(Clone, Debug)]
struct DiskLog {
    floor: Tip,
    /// What the base has taken the place of; nobody but a checker sees it.
    archive: Vec<SealedBatch>,
    batches: Vec<SealedBatch>,
    drafts: Vec<DraftGroup>,
}

/// One stored op.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredOp {
    /// Its place.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: Hlc,
    /// Its kind number.
    pub kind: u16,
    /// Its flags.
    pub flags: u8,
    /// Its bytes.
    pub body: Vec<u8>,
}

impl Disk {
    /// Applies a commit: all of its transactions.
    ///
    /// # Errors
    /// Every variant of [`DiskError`]; the disk is of no use then.
    pub fn commit(&mut self, txns: &[Txn]) -> Result<(), DiskError> {
        txns.iter().flat_map(|txn| &txn.writes).try_for_each(|write| self.apply(write))
    }

    fn apply(&mut self, write: &Write) -> Result<(), DiskError> {
        match write {
            Write::Space { space, scope, own_log, is_active, carried, dropped } => {
                let row = self.spaces.entry(*space).or_insert_with(|| DiskSpace {
                    scope: scope.clone(),
                    own_log: *own_log,
                    is_active: *is_active,
                    carried: *carried,
                    dropped: *dropped,
                    base: None,
                    logs: BTreeMap::new(),
                    records: BTreeMap::new(),
                    acks: BTreeMap::new(),
                    keys: BTreeMap::new(),
                    archive_keys: BTreeMap::new(),
                    proofs: BTreeMap::new(),
                    silence: Silence::default(),
                    met: None,
                    lease: LoadedLease::default(),
                });
                (row.own_log, row.is_active, row.carried) = (*own_log, *is_active, *carried);
                row.dropped = *dropped;
            }
            Write::Truncate { space, log: id, to } => {
                let log = self.space(space)?.logs.entry(*id).or_default();
                let end = log.tip().seq;
                log.batches.retain(|batch| batch.header().last() <= to.seq);
                log.drafts.clear();
                if log.tip() != *to {
                    return Err(DiskError::NotContiguous { log: *id, end, found: to.seq });
                }
            }
            Write::Base { space, checkpoint, cut, kind } => {
                let kept = self.checkpoints.get(checkpoint).cloned().unwrap_or_default();
                let row = self.space(space)?;
                for (log, floor) in cut.iter() {
                    let disk_log = row.logs.entry(*log).or_default();
                    disk_log.lay_floor(*log, *floor, *kind)?;
                    disk_log.archive = kept.archive.get(log).cloned().unwrap_or_default();
                }
                row.archive_keys.extend(kept.archive_keys.clone());
                row.base = Some(Base { checkpoint: *checkpoint, floor: cut.clone() });
            }
            Write::Batches { space, log, batches } => self.batches(space, log, batches)?,
            Write::Drafts { space, group } => {
                let log = self.space(space)?.logs.entry(group.log).or_default();
                let end = log.drafts.last().map_or(log.tip().seq, DraftGroup::last);
                if group.first != end.next() {
                    return Err(DiskError::NotContiguous { log: group.log, end, found: group.first });
                }
                log.drafts.push(group.clone());
            }
            Write::DraftsSealed { space, through } => {
                let row = self.space(space)?;
                let id = row.own_log;
                let log = row.logs.entry(id).or_default();
                let tip = log.tip().seq;
                if *through > tip {
                    return Err(DiskError::DraftsUnsealed { log: id, through: *through, tip });
                }
                let drafts = std::mem::take(&mut log.drafts);
                log.drafts = drafts.into_iter().filter_map(|group| beyond(group, *through)).collect();
            }
            Write::Record { space, hash, bytes } => {
                self.space(space)?.records.insert(*hash, bytes.clone());
            }
            Write::Ack { space, device, bytes } => {
                self.space(space)?.acks.insert(*device, bytes.clone());
            }
            Write::Key { space, key } => {
                self.space(space)?.keys.insert(key.id(), key.clone());
            }
            Write::LeaseHome { space, instance } => self.space(space)?.lease.home = *instance,
            Write::LeaseVote { space, state } => {
                self.space(space)?.lease.vote = Some(DesignationState::clone(state));
            }
            Write::LeaseHost { space, write } => {
                let lease = &mut self.space(space)?.lease;
                lease.host = Some(HostState::apply(lease.host.take(), write));
            }
            Write::Silence { space, silence } => self.space(space)?.silence = silence.clone(),
            Write::Met { space, met } => self.space(space)?.met = Some(met.clone()),
            Write::ForkProof { space, log, bytes } => {
                self.space(space)?.proofs.insert(*log, bytes.clone());
            }
        }
        Ok(())
    }

    fn batches(&mut self, space: &SpaceId, id: &LogId, batches: &[SealedBatch]) -> Result<(), DiskError> {
        let log = self.space(space)?.logs.entry(*id).or_default();
        for batch in batches {
            let (header, tip) = (batch.header(), log.tip());
            if header.log != *id || header.first != tip.seq.next() || header.prev != tip.hash {
                return Err(DiskError::NotContiguous { log: *id, end: tip.seq, found: header.first });
            }
            log.batches.push(batch.clone());
        }
        Ok(())
    }

    fn space(&mut self, space: &SpaceId) -> Result<&mut DiskSpace, DiskError> {
        self.spaces.get_mut(space).ok_or(DiskError::UnknownSpace { space: *space })
    }

    /// What an engine begins with.
    pub fn load(&self) -> Loaded {
        let spaces = self.spaces.iter().map(|(space, row)| LoadedSpace {
            space: *space,
            scope: row.scope.clone(),
            own_log: row.own_log,
            is_active: row.is_active,
            carried: row.carried,
            dropped: row.dropped,
            frontier: row.frontier(),
            base: row.base.clone(),
            drafts: row.logs.get(&row.own_log).map(|log| log.drafts.clone()).unwrap_or_default(),
            records: row.records.iter().map(|(hash, bytes)| (*hash, bytes.clone())).collect(),
            acks: row.acks.iter().map(|(device, bytes)| (*device, bytes.clone())).collect(),
            keys: row.keys.values().cloned().collect(),
            fork_proofs: row.proofs.iter().map(|(log, bytes)| (*log, bytes.clone())).collect(),
            silence: row.silence.clone(),
            met: row.met.clone(),
            lease: row.lease.clone(),
        });
        Loaded { spaces: spaces.collect() }
    }

    /// The space of a scope that the device takes part in.
    pub fn active(&self, scope: &Scope) -> Option<SpaceId> {
        self.spaces.iter().find(|(_, row)| row.is_active && row.scope == *scope).map(|(space, _)| *space)
    }

    /// The spaces, and whether the device takes part in each.
    pub fn spaces(&self) -> impl Iterator<Item = (SpaceId, bool)> {
        self.spaces.iter().map(|(space, row)| (*space, row.is_active))
    }

    /// What is sealed and stored of a space.
    pub fn frontier(&self, space: &SpaceId) -> Frontier {
        self.spaces.get(space).map(DiskSpace::frontier).unwrap_or_default()
    }

    /// Whether a position is stored, sealed or not.
    pub fn holds(&self, space: &SpaceId, dot: &Dot) -> bool {
        self.log(space, &dot.log).is_some_and(|log| dot.seq <= log.end())
    }

    /// Keeps a checkpoint, whole.
    pub fn keep(&mut self, hash: CheckpointHash, kept: Arc<Kept>) {
        self.checkpoints.insert(hash, kept);
    }

    /// A checkpoint that is kept.
    pub fn checkpoint(&self, hash: &CheckpointHash) -> Option<&Kept> {
        self.checkpoints.get(hash).map(|kept| &**kept)
    }

    /// Whether batches end just where a cut says, or a log begins there.
    pub fn holds_cut(&self, space: &SpaceId, cut: &Frontier) -> bool {
        cut.iter().all(|(log, tip)| {
            let is_end = |batch: &SealedBatch| batch.header().last() == tip.seq && batch.link() == tip.hash;
            self.log(space, log).is_some_and(|log| log.floor == *tip || log.batches.iter().any(is_end))
        })
    }

    /// Whether a log has a batch that ends at a place.
    pub fn is_end(&self, space: &SpaceId, log: &LogId, tip: &Tip) -> bool {
        self.holds_cut(space, &std::iter::once((*log, *tip)).collect())
    }

    /// Everything that ever lay within a cut here, for checkers.
    pub fn archive_to(&self, space: &SpaceId, cut: &Frontier) -> BTreeMap<LogId, Vec<SealedBatch>> {
        let archive = |(id, tip): (&LogId, &Tip)| {
            let log = self.log(space, id)?;
            let all = log.archive.iter().chain(&log.batches);
            Some((*id, all.filter(|batch| batch.header().last() <= tip.seq).cloned().collect()))
        };
        cut.iter().filter_map(archive).collect()
    }

    /// The keys that open it, for checkers.
    pub fn archive_keys(&self, space: &SpaceId) -> BTreeMap<KeyId, EpochKey> {
        let Some(row) = self.spaces.get(space) else { return BTreeMap::new() };
        row.archive_keys.iter().chain(&row.keys).map(|(id, key)| (*id, key.clone())).collect()
    }

    /// Where the history of a space begins.
    pub fn base(&self, space: &SpaceId) -> Option<&Base> {
        self.spaces.get(space)?.base.as_ref()
    }

    /// The batch that contains a position.
    pub fn batch_at(&self, space: &SpaceId, log: &LogId, seq: Seq) -> Option<SealedBatch> {
        let batches = &self.log(space, log)?.batches;
        let index = batches.partition_point(|batch| batch.header().last() < seq);
        batches.get(index).filter(|batch| batch.header().first <= seq).cloned()
    }

    /// Batches that begin after `after`, up to `through`, of about `bytes_max` together.
    pub fn run(
        &self,
        space: &SpaceId,
        log: &LogId,
        after: Seq,
        through: Seq,
        bytes_max: usize,
    ) -> Vec<SealedBatch> {
        let Some(log) = self.log(space, log) else { return Vec::new() };
        let start = log.batches.partition_point(|batch| batch.header().first <= after);
        let mut bytes = 0;
        log.batches[start..]
            .iter()
            .take_while(|batch| {
                let is_within = bytes < bytes_max && batch.header().first <= through;
                bytes += batch.bytes().len();
                is_within
            })
            .cloned()
            .collect()
    }

    /// One op, sealed or not, where its key is held.
    pub fn op(&self, space: &SpaceId, dot: &Dot) -> Option<StoredOp> {
        self.ops_from(space, &dot.log, dot.seq).next()
    }

    /// Every op of a log that was ever here, with those that the base has taken the place of: for checkers.
    pub fn every_op(&self, space: &SpaceId, log: &LogId) -> impl Iterator<Item = StoredOp> {
        let archive = self.log(space, log).map(|log| &log.archive[..]).unwrap_or_default();
        let row = self.spaces.get(space);
        let mut opener = Opener::new();
        let log = *log;
        let archived = archive.iter().map_while(move |batch| {
            let header = batch.header();
            let key = row?.archive_keys.get(&header.key_id).or_else(|| row?.keys.get(&header.key_id))?;
            let body = opener.open(key, batch).ok()?;
            Some(ops(log, header.first, header.op_count, &body))
        });
        archived.flatten().chain(self.ops_from(space, &log, Seq::new(1)).collect::<Vec<_>>())
    }

    /// Every op of a log from a position on, as far as keys are held.
    pub fn ops_from(&self, space: &SpaceId, log: &LogId, from: Seq) -> impl Iterator<Item = StoredOp> {
        let mut opener = Opener::new();
        let keys = self.spaces.get(space).map(|row| &row.keys);
        let held = self.log(space, log);
        let batches = held.map_or(&[][..], |log| &log.batches);
        // Drafts of a log that is written no more were moved to the one that took its place.
        let is_own = self.spaces.get(space).is_some_and(|row| row.own_log == *log);
        let drafts = held.filter(|_| is_own).map_or(&[][..], |log| &log.drafts);
        let sealed =
            batches.iter().filter(move |batch| batch.header().last() >= from).map_while(move |batch| {
                let header = batch.header();
                let body = opener.open(keys?.get(&header.key_id)?, batch).ok()?;
                Some((header.first, header.op_count, body))
            });
        let drafts = drafts.iter().filter(move |group| group.last() >= from);
        let bodies = sealed.chain(drafts.map(|group| (group.first, group.op_count, group.body.clone())));
        let log = *log;
        bodies
            .flat_map(move |(first, op_count, body)| ops(log, first, op_count, &body))
            .filter(move |op| op.dot.seq >= from)
    }

    /// The key of this name, in whichever space.
    pub fn key(&self, id: &KeyId) -> Option<&EpochKey> {
        self.spaces.values().find_map(|row| row.keys.get(id))
    }

    fn log(&self, space: &SpaceId, log: &LogId) -> Option<&DiskLog> {
        self.spaces.get(space)?.logs.get(log)
    }

    /// Every log of a space with anything in it.
    pub fn logs(&self, space: &SpaceId) -> Vec<LogId> {
        self.spaces.get(space).map(|row| row.logs.keys().copied().collect()).unwrap_or_default()
    }
}

impl DiskSpace {
    fn frontier(&self) -> Frontier {
        self.logs.iter().map(|(id, log)| (*id, log.tip())).collect()
    }
}

impl Default for DiskLog {
    fn default() -> Self {
        Self { floor: Tip::NONE, archive: Vec::new(), batches: Vec::new(), drafts: Vec::new() }
    }
}

impl DiskLog {
    fn lay_floor(&mut self, log: LogId, floor: Tip, kind: BaseKind) -> Result<(), DiskError> {
        let is_end = |batch: &SealedBatch| batch.header().last() == floor.seq && batch.link() == floor.hash;
        let is_raised = kind == BaseKind::Rebase && self.tip().seq < floor.seq;
        if !is_raised && self.floor != floor && !self.batches.iter().any(is_end) {
            return Err(DiskError::NoSuchEnd { log, floor: floor.seq });
        }
        self.batches.retain(|batch| batch.header().first > floor.seq);
        self.floor = floor;
        Ok(())
    }

    fn tip(&self) -> Tip {
        self.batches.last().map_or(self.floor, |batch| Tip { seq: batch.header().last(), hash: batch.link() })
    }

    fn end(&self) -> Seq {
        self.drafts.last().map_or(self.tip().seq, DraftGroup::last)
    }
}

/// The ops of a body.
pub fn ops(log: LogId, first: Seq, op_count: u32, body: &[u8]) -> Vec<StoredOp> {
    let frames = BodyReader::new(body, first, op_count).into_iter().flatten().flatten();
    frames
        .map(|frame| StoredOp {
            dot: Dot { log, seq: frame.seq },
            hlc: frame.hlc,
            kind: frame.kind,
            flags: frame.flags,
            body: frame.body.to_vec(),
        })
        .collect()
}

/// What of a group lies beyond a position.
fn beyond(group: DraftGroup, through: Seq) -> Option<DraftGroup> {
    if group.first > through {
        return Some(group);
    }
    if group.last() <= through {
        return None;
    }
    let mut writer = BodyWriter::new();
    for op in ops(group.log, group.first, group.op_count, &group.body) {
        if op.dot.seq > through {
            writer.push(op.hlc, op.kind, op.flags, &op.body);
        }
    }
    let (body, op_count) = writer.finish();
    Some(DraftGroup { log: group.log, first: through.next(), op_count, body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Incarnation;
    use crate::sync::TxnId;

    const SPACE: SpaceId = SpaceId::from_bytes([1; 32]);
    const LOG: LogId = LogId { device: DeviceId::from_bytes([2; 32]), incarnation: Incarnation::new(1) };

    fn commit(disk: &mut Disk, write: Write) -> Result<(), DiskError> {
        disk.commit(&[Txn { id: TxnId::new(1), writes: vec![write] }])
    }

    fn drafts(first: u64) -> Write {
        let mut writer = BodyWriter::new();
        writer.push(Hlc::new(1), 1, 0, b"x");
        let (body, op_count) = writer.finish();
        Write::Drafts { space: SPACE, group: DraftGroup { log: LOG, first: Seq::new(first), op_count, body } }
    }

    #[test]
    fn what_does_not_fit_is_refused_as_by_the_real_store() {
        let mut disk = Disk::default();
        let unknown = commit(&mut disk, drafts(1));
        let scope = Scope::Personal;
        let space = Write::Space {
            space: SPACE,
            scope,
            own_log: LOG,
            is_active: true,
            carried: Seq::ZERO,
            dropped: 0,
        };
        commit(&mut disk, space).unwrap();

        let gap = commit(&mut disk, drafts(2));
        let unsealed = commit(&mut disk, Write::DraftsSealed { space: SPACE, through: Seq::new(1) });

        assert!(matches!(unknown, Err(DiskError::UnknownSpace { .. })));
        assert!(matches!(gap, Err(DiskError::NotContiguous { .. })));
        assert!(matches!(unsealed, Err(DiskError::DraftsUnsealed { .. })));
        assert_eq!(commit(&mut disk, drafts(1)), Ok(()));
    }
}
