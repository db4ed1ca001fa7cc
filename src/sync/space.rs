//! One space as the engine holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::effect::Token;
use crate::crypto::EpochKey;
use crate::model::{DeviceId, Frontier, KeyId, LogId, RecordHash, Root, Scope, ScopeTag, Seq, SpaceId, Tip};
use crate::oplog::{Author, ForkProof, LogChain};
use crate::roster::Roster;
use crate::wire::{Ack, Standing};

/// A space: its roster, its keys, the ends of its logs, what others acknowledged.
pub(super) struct SpaceState {
    pub id: SpaceId,
    pub tag: ScopeTag,
    pub scope: Scope,
    pub is_active: bool,
    pub carried: Seq,
    /// Ops ever dropped from its logs.
    pub dropped: u64,
    pub roster: Roster,
    pub keys: BTreeMap<KeyId, EpochKey>,
    pub author: Author,
    pub logs: BTreeMap<LogId, LogState>,
    /// Sealed and durable here.
    pub durable: Frontier,
    /// What the fold has reported, with the root there.
    pub folded: Option<Folded>,
    pub acks: BTreeMap<DeviceId, HeldAck>,
    pub ack_number: u64,
    pub proofs: BTreeMap<LogId, ForkProof>,
    /// The greatest count of proven devices a peer has said for this space: more than this device
    /// knows of where it has only just joined.
    pub proven_floor: u32,
    /// When to try again what the store refused.
    pub store_again_at: Option<Duration>,
    pub skewed_count: u64,
    pub parked_count: u64,
}

/// One log of another device (or of an earlier life of this one).
pub(super) struct LogState {
    pub chain: LogChain,
    /// What its author did wrong at the place after the tip; nothing is taken from there on.
    pub blocked: Option<BlockedBy>,
    /// A batch is held that cannot be opened yet, so the fold has stopped here.
    pub is_parked: bool,
}

/// What an author did wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BlockedBy {
    /// The batch does not open under the key it names.
    Sealing,
    /// The batch opens, but holds no ops.
    Body,
}

/// What the fold reported.
pub(super) struct Folded {
    pub applied: BTreeMap<LogId, Seq>,
    pub root: Root,
    pub unknown_count: u64,
}

/// The newest ack of a device.
#[derive(Clone)]
pub(super) struct HeldAck {
    pub ack: Ack,
    pub frontier: Frontier,
    pub is_stored: bool,
}

/// A space that is about to take the place of the own personal one.
pub(super) struct Candidate {
    pub roster: Roster,
    pub scope: Scope,
}

impl SpaceState {
    /// The chain of a log, created where this device has nothing of it.
    pub fn log(&mut self, log: LogId) -> &mut LogState {
        let durable = &self.durable;
        self.logs.entry(log).or_insert_with(|| LogState {
            chain: LogChain::at(durable.tip(&log)),
            blocked: None,
            is_parked: false,
        })
    }

    /// The key new batches are sealed under.
    pub fn sealing_key(&self) -> Option<&EpochKey> {
        self.keys.get(&self.roster.genesis_key_id())
    }

    /// Whether the fold shows exactly what is sealed and durable.
    pub fn is_folded(&self) -> bool {
        let Some(folded) = &self.folded else { return false };
        self.author.drafts().is_empty()
            && self.parked_count == 0
            && folded.applied.iter().filter(|(_, seq)| **seq > Seq::ZERO).count() == self.durable.log_count()
            && self.durable.iter().all(|(log, tip)| folded.applied.get(log) == Some(&tip.seq))
    }

    /// How much an ack of now speaks of: ops, held or dropped, and roster records. Both only grow, also
    /// over a crash that takes the last ack away, so an ack numbered by it is newer than every one before.
    pub fn acknowledged_count(&self) -> u64 {
        self.durable.op_count().saturating_add(self.dropped).saturating_add(self.roster.generation())
    }

    /// What is said for this space where two are weighed against each other.
    pub fn standing(&self, own: DeviceId) -> Standing {
        let member_count = u32::try_from(self.roster.member_count()).unwrap_or(u32::MAX);
        Standing {
            proven_count: self.proven_count(own).max(self.proven_floor).min(member_count),
            member_count,
            founded: self.roster.founded(),
        }
    }

    /// Devices that have written or acknowledged something here, this one included.
    fn proven_count(&self, own: DeviceId) -> u32 {
        let mut devices: BTreeSet<DeviceId> = self.durable.iter().map(|(log, _)| log.device).collect();
        devices.extend(self.acks.keys());
        devices.insert(own);
        u32::try_from(devices.len()).unwrap_or(u32::MAX)
    }

    /// Forgets chain ends that did not become durable, and a mistake found beyond them: it will be
    /// found again.
    pub fn rewind(&mut self, log: LogId) {
        let tip = self.durable.tip(&log);
        if let Some(state) = self.logs.get_mut(&log) {
            state.chain = LogChain::at(tip);
            state.blocked = None;
        }
    }
}

/// What happens once a transaction is durable.
pub(super) enum Then {
    /// Batches of one log arrived and were stored.
    Ingested(Ingested),
    /// Own ops were stored, as drafts or sealed.
    Appended(Appended),
    /// Drafts were sealed.
    Sealed { space: SpaceId, tips: Vec<SealedTip>, runs: Vec<super::effect::FoldRun> },
    /// Roster records were stored.
    Records { space: SpaceId, records: Vec<RecordHash> },
    /// A device was added.
    Added { space: SpaceId, token: Token, records: Vec<RecordHash> },
    /// A key was stored.
    Key { space: SpaceId, key: EpochKey },
    /// Another space took the place of the own one.
    Adopted { from: SpaceId, to: SpaceId, before: Option<(Roster, Seq)> },
    /// The own log was begun anew.
    NewLog { space: SpaceId, log: LogId, old: Author },
}

/// See [`Then::Ingested`].
pub(super) struct Ingested {
    pub space: SpaceId,
    pub log: LogId,
    pub tip: Tip,
    pub runs: Vec<super::effect::FoldRun>,
    pub from: super::effect::PeerId,
}

/// See [`Then::Appended`].
pub(super) struct Appended {
    pub space: SpaceId,
    pub token: Token,
    pub placed: Vec<super::effect::Placed>,
    pub first: Seq,
    pub runs: Vec<super::effect::FoldRun>,
    pub tips: Vec<SealedTip>,
    /// How far a space that was left is carried over with this.
    pub carried: Option<(SpaceId, Seq)>,
}

/// A batch this device sealed and what goes out of it.
pub(super) struct SealedTip {
    pub log: LogId,
    pub before: Seq,
    pub tip: Tip,
    pub bytes: bytes::Bytes,
}
