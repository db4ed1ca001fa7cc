//! A writer of one log, for the tests of this module.

use bytes::Bytes;

use super::Store;
use super::fault::FaultDisk;
use crate::crypto::{EpochKey, Identity, SealInput, SealedBatch, Sealer};
use crate::model::{Hlc, Incarnation, LogId, Scope, Seq, SpaceId, Tip};
use crate::sync::{DraftGroup, Loaded, Txn, TxnId, Write};
use crate::wire::body::BodyWriter;

pub(crate) const LOCAL_KEY: [u8; 32] = [0x4c; 32];

/// Seals ops of one log, one after the other.
pub(crate) struct Author {
    pub(crate) space: SpaceId,
    pub(crate) log: LogId,
    pub(crate) key: EpochKey,
    identity: Identity,
    sealer: Sealer,
    tip: Tip,
    txn_count: u64,
}

impl Author {
    pub(crate) fn new(seed: u8) -> Self {
        let identity = Identity::from_secret(&[seed; 32]);
        let log = LogId { device: identity.device(), incarnation: Incarnation::new(u64::from(seed)) };
        let sealer = Sealer::new(&identity);
        Self {
            space: SpaceId::from_bytes([7; 32]),
            log,
            key: EpochKey::from_bytes([9; 32]),
            identity,
            sealer,
            tip: Tip::NONE,
            txn_count: 0,
        }
    }

    pub(crate) fn tip(&self) -> Tip {
        self.tip
    }

    /// The next batch: ops with [`payload`] of their position.
    pub(crate) fn batch(&mut self, op_count: u32, op_bytes: usize) -> SealedBatch {
        let body = body(self.tip.seq.next(), op_count, op_bytes);
        self.seal(&body, op_count)
    }

    /// The next batch, of any content.
    pub(crate) fn seal(&mut self, body: &[u8], op_count: u32) -> SealedBatch {
        let first = self.tip.seq.next();
        let batch = self.sealer.seal(
            &self.identity,
            &self.key,
            &SealInput {
                scope: self.space.tag(),
                log: self.log,
                first,
                op_count,
                roster_gen: 1,
                prev: self.tip.hash,
                body,
                entropy: [3; 32],
            },
        );
        self.tip = Tip { seq: batch.header().last(), hash: batch.link() };
        batch
    }

    pub(crate) fn batches(&mut self, batch_count: usize, op_count: u32) -> Vec<SealedBatch> {
        (0..batch_count).map(|_| self.batch(op_count, 40)).collect()
    }

    pub(crate) fn write(&self, batches: Vec<SealedBatch>) -> Write {
        Write::Batches { space: self.space, log: self.log, batches }
    }

    pub(crate) fn drafts(&self, first: u64, op_count: u32) -> Write {
        let body = body(Seq::new(first), op_count, 40);
        let group = DraftGroup { log: self.log, first: Seq::new(first), op_count, body };
        Write::Drafts { space: self.space, group }
    }

    pub(crate) fn space_write(&self) -> Write {
        Write::Space {
            space: self.space,
            scope: Scope::Personal,
            own_log: self.log,
            is_active: true,
            carried: Seq::ZERO,
            dropped: 0,
        }
    }

    pub(crate) fn txn(&mut self, writes: Vec<Write>) -> Txn {
        self.txn_count += 1;
        Txn { id: TxnId::new(self.txn_count), writes }
    }

    pub(crate) fn commit(&mut self, store: &Store, writes: Vec<Write>) {
        let txn = self.txn(writes);
        store.commit(&[txn]).unwrap();
    }
}

/// The bytes of the op at a position.
pub(crate) fn payload(seq: u64, op_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0; op_bytes];
    blake3::Hasher::new_derive_key("payload").update(&seq.to_be_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn body(first: Seq, op_count: u32, op_bytes: usize) -> Vec<u8> {
    let mut writer = BodyWriter::new();
    for index in 0..u64::from(op_count) {
        let seq = first.get() + index;
        writer.push(Hlc::new(seq * 10), 1, 0, &payload(seq, op_bytes));
    }
    writer.finish().0
}

/// A store in memory that knows the author's space.
pub(crate) fn store(author: &mut Author) -> (Store, FaultDisk) {
    let disk = FaultDisk::new();
    let (store, _) = reopen(&disk);
    let space = author.space_write();
    author.commit(&store, vec![space]);
    (store, disk)
}

pub(crate) fn reopen(disk: &FaultDisk) -> (Store, Loaded) {
    Store::open_with(disk.clone(), None, &LOCAL_KEY).unwrap()
}

/// Everything a store holds of the author's log, by its own account.
pub(crate) fn whole_run(store: &Store, author: &Author) -> Bytes {
    let run = store.run(&author.space, &author.log, Seq::ZERO, Seq::new(u64::MAX), usize::MAX).unwrap();
    run.map(|run| run.bytes).unwrap_or_default()
}
