//! One space as the engine holds it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::effect::Token;
use crate::crypto::EpochKey;
use crate::model::{DeviceId, Frontier, KeyId, LogId, RecordHash, Root, Scope, ScopeTag, Seq, SpaceId, Tip};
use crate::oplog::{Author, ForkProof, LogChain};
use crate::roster::Roster;
use crate::wire::Ack;

/// A space: its roster, its keys, the ends of its logs, what others acknowledged.
pub(super) struct SpaceState {
    pub id: SpaceId,
    pub tag: ScopeTag,
    pub scope: Scope,
    pub is_active: bool,
    pub carried: Seq,
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

impl SpaceState {
    /// A space this device has nothing of yet but the roster.
    pub fn new(scope: Scope, roster: Roster, own_log: LogId) -> Self {
        let id = roster.space();
        Self {
            id,
            tag: id.tag(),
            scope,
            is_active: true,
            carried: Seq::ZERO,
            roster,
            keys: BTreeMap::new(),
            author: Author::new(own_log, Tip::NONE),
            logs: BTreeMap::new(),
            durable: Frontier::new(),
            folded: None,
            acks: BTreeMap::new(),
            ack_number: 0,
            proofs: BTreeMap::new(),
            store_again_at: None,
            skewed_count: 0,
            parked_count: 0,
        }
    }

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

    /// How much an ack of now speaks of: ops and roster records. Both only grow, also over a crash
    /// that takes the last ack away, so an ack numbered by it is newer than every one before.
    pub fn acknowledged_count(&self) -> u64 {
        self.durable.op_count().saturating_add(self.roster.generation())
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
    /// A space was founded or joined, perhaps in the place of another.
    Begun { space: SpaceId, left: Option<SpaceId>, token: Token },
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
