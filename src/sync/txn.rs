//! What the engine asks a store to make durable, and what a store gives back when it is opened.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::silence::Silence;
use crate::crypto::{EpochKey, SealedBatch};
use crate::lease::{DesignationState, HostInstance, HostState, HostWrite};
use crate::model::{DeviceId, Frontier, LogId, RecordHash, Scope, Seq, SpaceId, Tip};
use crate::wire::checkpoint::CheckpointHash;

/// Names one [`Txn`] of one run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TxnId(u64);

impl TxnId {
    /// Takes the raw number.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }
    /// The raw number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Writes that become durable together or not at all, in order.
#[derive(Clone, Debug)]
pub struct Txn {
    /// Its name, reported back once it is durable.
    pub id: TxnId,
    /// The writes, applied in order.
    pub writes: Vec<Write>,
}

/// One durable change.
#[derive(Clone, Debug)]
pub enum Write {
    /// A space exists here, with its own log; also rewrites what is known of it.
    Space {
        /// The space.
        space: SpaceId,
        /// Its scope.
        scope: Scope,
        /// The log this device writes in it.
        own_log: LogId,
        /// Whether it still takes part: a space this device has left is kept but no longer synced.
        is_active: bool,
        /// How many ops of this device in a space that was left have been carried over into the one
        /// that took its place.
        carried: Seq,
        /// How many ops were ever dropped here by [`Write::Truncate`]: it rises with every one.
        dropped: u64,
    },
    /// Drops the batches of a log after the end of one, or all of them ([`Tip::NONE`]): another
    /// history of it stands. Drafts of the log go too. Later writes of the same transaction may
    /// continue it from there.
    Truncate {
        /// The space. No index that was stored before is used again: it has folded what is dropped.
        space: SpaceId,
        /// The log.
        log: LogId,
        /// Where it ends from now on.
        to: Tip,
    },
    /// The space begins at a checkpoint from here on. Batches within its cut are not visible any more,
    /// and go from the disk later; whatever comes after the cut stays and chains onto it.
    Base {
        /// The space.
        space: SpaceId,
        /// The checkpoint, which is whole here. It and the base before stay.
        checkpoint: CheckpointHash,
        /// Its cut. No log of it lies before its place in the base until now.
        cut: Frontier,
        /// What becomes of logs that end before the cut.
        kind: BaseKind,
    },
    /// Batches of one log that continue it: chain-checked, in order, without a gap.
    ///
    /// The tip of the log becomes the end of the last one.
    Batches {
        /// The space.
        space: SpaceId,
        /// The log.
        log: LogId,
        /// At least one batch.
        batches: Vec<SealedBatch>,
    },
    /// Ops of the own log that are not sealed yet.
    Drafts {
        /// The space.
        space: SpaceId,
        /// The drafts.
        group: DraftGroup,
    },
    /// Forgets drafts up to and including this position: they are in a batch of the same transaction.
    DraftsSealed {
        /// The space.
        space: SpaceId,
        /// The last position that was sealed.
        through: Seq,
    },
    /// A roster record, as received.
    Record {
        /// The space.
        space: SpaceId,
        /// The hash of its bytes.
        hash: RecordHash,
        /// Its bytes.
        bytes: Bytes,
    },
    /// The newest ack of a device, as received; replaces the one before.
    Ack {
        /// The space.
        space: SpaceId,
        /// Who signed it.
        device: DeviceId,
        /// Its bytes.
        bytes: Bytes,
    },
    /// An epoch key, which the store seals under this device's own key.
    Key {
        /// The space.
        space: SpaceId,
        /// The key.
        key: EpochKey,
    },
    /// Which life of its home this device is in: another one neither hosts leases nor votes.
    LeaseHome {
        /// The space.
        space: SpaceId,
        /// The life.
        instance: HostInstance,
    },
    /// What this device has promised about the host of the register, and the greatest token it saw.
    LeaseVote {
        /// The space.
        space: SpaceId,
        /// All of it.
        state: Box<DesignationState>,
    },
    /// A change of the register that this device hosts.
    LeaseHost {
        /// The space.
        space: SpaceId,
        /// The change.
        write: Box<HostWrite>,
    },
    /// What this device has counted of the silence of others; replaces what was counted before.
    Silence {
        /// The space.
        space: SpaceId,
        /// All of it.
        silence: Silence,
    },
    /// Which devices were met since the past of this home was in doubt; replaces those before.
    Met {
        /// The space.
        space: SpaceId,
        /// All of them.
        met: BTreeSet<DeviceId>,
    },
    /// Two signed headers for one place in a log: proof of a fork. One per log is kept.
    ForkProof {
        /// The space.
        space: SpaceId,
        /// The log.
        log: LogId,
        /// Two witnesses.
        bytes: Bytes,
    },
}

/// What becomes of logs that end before the cut of a base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BaseKind {
    /// There are none: this device holds everything that is dropped.
    Trim,
    /// They end at the cut from now on. No index that was stored before is used again: it lacks what the
    /// checkpoint holds.
    Rebase,
}

/// Where the history of a space begins on a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Base {
    /// The checkpoint.
    pub checkpoint: CheckpointHash,
    /// Its cut: of each log the last op that is in no batch here any more, and the link that the next
    /// batch names.
    pub floor: Frontier,
}

/// Consecutive ops of the own log, framed as a batch body (`wire::body`) but not sealed as a batch.
#[derive(Clone, Debug)]
pub struct DraftGroup {
    /// The log.
    pub log: LogId,
    /// The position of the first op.
    pub first: Seq,
    /// How many ops.
    pub op_count: u32,
    /// The body; the store seals it under this device's own key before it reaches a disk.
    pub body: Vec<u8>,
}

impl DraftGroup {
    /// The position of the last op.
    pub const fn last(&self) -> Seq {
        self.first.plus(self.op_count as u64 - 1)
    }
}

/// What a store holds when it is opened: small tables only, never batches.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The spaces, in order of their ids.
    pub spaces: Vec<LoadedSpace>,
}

/// One space as a store holds it.
#[derive(Clone, Debug)]
pub struct LoadedSpace {
    /// The space.
    pub space: SpaceId,
    /// Its scope.
    pub scope: Scope,
    /// The log this device writes in it.
    pub own_log: LogId,
    /// Whether it takes part in syncing.
    pub is_active: bool,
    /// How far its own logs have been carried over, where it is not active.
    pub carried: Seq,
    /// How many ops were ever dropped.
    pub dropped: u64,
    /// Sealed batches held, per log.
    pub frontier: Frontier,
    /// Where its history begins, if not with the first op of every log.
    pub base: Option<Base>,
    /// Drafts beyond the own log's tip, in order.
    pub drafts: Vec<DraftGroup>,
    /// Roster records as received, by hash.
    pub records: Vec<(RecordHash, Bytes)>,
    /// Acks as received, by device.
    pub acks: Vec<(DeviceId, Bytes)>,
    /// Epoch keys.
    pub keys: Vec<EpochKey>,
    /// Fork proofs, by log.
    pub fork_proofs: Vec<(LogId, Bytes)>,
    /// What was counted of the silence of others.
    pub silence: Silence,
    /// Devices that were met since the past of this home was in doubt; `None` where it never was.
    pub met: Option<BTreeSet<DeviceId>>,
    /// What is stored about leases.
    pub lease: LoadedLease,
}

/// What a store holds about the leases of a space; nothing in one that never had any.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadedLease {
    /// Which life of its home this device is in.
    pub home: HostInstance,
    /// What it has promised and seen.
    pub vote: Option<DesignationState>,
    /// Its register.
    pub host: Option<HostState>,
}

impl LoadedLease {
    /// Whether anything was ever written.
    pub const fn is_used(&self) -> bool {
        self.vote.is_some() || self.host.is_some()
    }
}

impl Default for LoadedLease {
    fn default() -> Self {
        Self { home: HostInstance::FIRST, vote: None, host: None }
    }
}
