//! One space as the engine holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::effect::{Delivered, GivenBack, PeerId, Stray, Token};
use super::fallen::Fallen;
use super::keys::Rotation;
use super::lease::{LeaseThen, Leases};
use super::silence::Silence;
use super::stable::Parted;
use super::txn::{Base, LoadedLease};
use crate::crypto::EpochKey;
use crate::lease::HostInstance;
use crate::model::{
    DeviceId, Dot, Frontier, KeyId, LogId, RecordHash, Root, Scope, ScopeTag, Seq, SpaceId, Tip, TipHash,
};
use crate::oplog::{Author, ForkProof, LogChain};
use crate::roster::{Epoch, Proposal, Roster};
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
    /// Where the history here begins, if not with the first op of every log.
    pub base: Option<Base>,
    /// Whether another one is on its way to the store.
    pub is_base_arriving: bool,
    /// What a checkpoint that this device wants to begin with leaves out of what it holds.
    pub strays: Vec<Stray>,
    /// Logs that are given up for the checkpoint which this device is about to begin with, and until when nothing
    /// of them is taken.
    pub given_up: BTreeMap<LogId, Duration>,
    /// The own log in which ops that had been forgotten are written again, in this run.
    pub recalled_into: Option<LogId>,
    /// Whether this device tells what it holds although that is nothing, see [`Engine::hold_back`].
    ///
    /// [`Engine::hold_back`]: super::engine::Engine::hold_back
    pub is_released: bool,
    /// What the fold has reported, with the root there.
    pub folded: Option<Folded>,
    pub acks: BTreeMap<DeviceId, HeldAck>,
    pub ack_number: u64,
    /// What was counted of the silence of others.
    pub silence: Silence,
    /// Devices that were met since the past of this home was in doubt; `None` where it never was.
    pub met: Option<BTreeSet<DeviceId>>,
    /// Devices that something was heard of since a day was counted last.
    pub heard: BTreeSet<DeviceId>,
    /// When it is seen next whether a day has passed.
    pub look_at: Option<Duration>,
    /// Devices that have signed another root for the same history.
    pub parted: Parted,
    pub proofs: BTreeMap<LogId, ForkProof>,
    /// When to try again what the store refused.
    pub store_again_at: Option<Duration>,
    /// When the logs of devices are searched again for what has fallen of others of them.
    pub search_again_at: Option<Duration>,
    pub skewed_count: u64,
    pub parked_count: u64,
    /// Ops ever dropped here: acks are numbered by what was ever held.
    pub dropped: u64,
    /// Own logs of which the history after a place is written again, and then dropped.
    pub reissues: BTreeMap<LogId, Tip>,
    /// The key of a checkpoint that this device wants to begin with, where it lacks that.
    pub key_of_base: Option<KeyId>,
    /// Keys that are on their way to the store.
    pub keys_arriving: BTreeSet<KeyId>,
    /// Peers that have asked for a key this device does not hold yet.
    pub wanted: BTreeMap<KeyId, BTreeSet<PeerId>>,
    /// Keys that were proposed here, to be confirmed once they are durable.
    pub proposed: BTreeMap<KeyId, (PeerId, Proposal)>,
    pub rotation: Option<Rotation>,
    /// When this device is to rotate by itself.
    pub rotate_at: Option<Duration>,
    /// How many keys in a row this device has begun for want of the current one.
    pub keyless_count: u32,
    /// Whether this device has been told that it is no member any more.
    pub is_removal_told: bool,
    /// The epoch that was spoken of last.
    pub epoch_told: Epoch,
    /// Which life of its home this device is in.
    pub lease_home: HostInstance,
    /// Those of other devices, where they are not in their first.
    pub homes: BTreeMap<DeviceId, HostInstance>,
    /// What was stored about leases, until it is opened.
    pub lease_stored: Option<LoadedLease>,
    pub leases: Option<Box<Leases>>,
}

/// One log of another device (or of an earlier life of this one).
pub(super) struct LogState {
    pub chain: LogChain,
    /// What its author did wrong at the place after the tip; nothing is taken from there on.
    pub blocked: Option<BlockedBy>,
    /// Keys that batches held here wait for; the fold has stopped at the first of them.
    pub parked: BTreeSet<KeyId>,
    /// Batches that wait.
    pub parked_count: u64,
    /// The histories that stand with which what is held has been compared.
    pub branches: BTreeSet<TipHash>,
    /// What is held has fallen from a place on, and is kept until nothing of it would be lost.
    pub fallen: Option<Fallen>,
}

impl LogState {
    /// A log held up to `tip`.
    pub const fn at(tip: Tip) -> Self {
        Self {
            chain: LogChain::at(tip),
            blocked: None,
            parked: BTreeSet::new(),
            parked_count: 0,
            branches: BTreeSet::new(),
            fallen: None,
        }
    }
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
        let (id, epoch_told) = (roster.space(), roster.epoch());
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
            base: None,
            is_base_arriving: false,
            strays: Vec::new(),
            given_up: BTreeMap::new(),
            recalled_into: None,
            is_released: false,
            folded: None,
            acks: BTreeMap::new(),
            ack_number: 0,
            silence: Silence::default(),
            met: None,
            heard: BTreeSet::new(),
            look_at: None,
            parted: Parted::new(),
            proofs: BTreeMap::new(),
            store_again_at: None,
            search_again_at: None,
            skewed_count: 0,
            parked_count: 0,
            dropped: 0,
            reissues: BTreeMap::new(),
            key_of_base: None,
            keys_arriving: BTreeSet::new(),
            wanted: BTreeMap::new(),
            proposed: BTreeMap::new(),
            rotation: None,
            rotate_at: None,
            keyless_count: 0,
            is_removal_told: false,
            epoch_told,
            lease_home: HostInstance::FIRST,
            homes: BTreeMap::new(),
            lease_stored: None,
            leases: None,
        }
    }

    /// Which life of its home a device was in when it last said so.
    pub fn home_of(&self, device: &DeviceId) -> HostInstance {
        self.homes.get(device).copied().unwrap_or(HostInstance::FIRST)
    }

    /// The chain of a log, created where this device has nothing of it.
    pub fn log(&mut self, log: LogId) -> &mut LogState {
        let durable = &self.durable;
        self.logs.entry(log).or_insert_with(|| LogState::at(durable.tip(&log)))
    }

    /// The key new batches are sealed under.
    pub fn sealing_key(&self) -> Option<&EpochKey> {
        match self.roster.epoch() {
            Epoch::Current { key_id, .. } => self.keys.get(&key_id),
            // A device that was removed holds one of the keys, whichever it is.
            Epoch::Contested { .. } => None,
        }
    }

    /// Whether the current key is one that this device does not have.
    pub fn is_keyless(&self) -> bool {
        matches!(self.roster.epoch(), Epoch::Current { key_id, .. } if !self.keys.contains_key(&key_id))
    }

    /// Whether a device stores this space without reading it.
    pub fn is_blind(&self, device: &DeviceId) -> bool {
        self.roster.role_of(device).is_some_and(|role| !role.holds_keys())
    }

    /// Keys that batches or a checkpoint wait for and no record here names, as far as anybody is asked for them.
    pub fn unnamed_keys(&self) -> BTreeSet<KeyId> {
        let is_unnamed = |id: &KeyId| !self.roster.knows_key(id);
        let of_base = self.key_of_base.filter(|id| !self.keys.contains_key(id) && is_unnamed(id));
        let mut of_authors: BTreeMap<DeviceId, BTreeSet<KeyId>> = BTreeMap::new();
        for (log, held) in self.logs.iter().filter(|(_, held)| !held.parked.is_empty()) {
            let of_author = of_authors.entry(log.device).or_default();
            let room = UNNAMED_KEYS_MAX.saturating_sub(of_author.len());
            of_author.extend(held.parked.iter().copied().filter(is_unnamed).take(room));
        }
        of_base.into_iter().chain(of_authors.into_values().flatten()).collect()
    }

    /// How many batches wait for a key.
    pub fn recount_parked(&mut self) {
        for log in self.logs.values_mut().filter(|log| log.parked.is_empty()) {
            log.parked_count = 0;
        }
        self.parked_count = self.logs.values().map(|log| log.parked_count).sum();
    }

    /// Whether the fold shows exactly what is sealed and durable, but for logs that wait for a key:
    /// those are held, and that is what a receipt says.
    pub fn is_folded(&self) -> bool {
        let Some(folded) = &self.folded else { return false };
        self.author.drafts().is_empty()
            && folded.applied.iter().all(|(log, seq)| *seq <= self.durable.tip(log).seq)
            && self.durable.iter().all(|(log, tip)| {
                let is_parked = self.logs.get(log).is_some_and(|log| !log.parked.is_empty());
                folded.applied.get(log) == Some(&tip.seq) || is_parked
            })
    }

    /// How much an ack of now speaks of: ops and roster records. Both only grow, also over a crash
    /// that takes the last ack away, so an ack numbered by it is newer than every one before.
    pub fn acknowledged_count(&self) -> u64 {
        self.durable.op_count().saturating_add(self.dropped).saturating_add(self.roster.generation())
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

/// How many keys that no record names are asked for, by author: one can name any number.
const UNNAMED_KEYS_MAX: usize = 64;

/// What happens once a transaction is durable.
pub(super) enum Then {
    /// Batches of one log arrived and were stored.
    Ingested(Ingested),
    /// Own ops were stored, as drafts or sealed.
    Appended(Appended),
    /// Drafts were sealed.
    Sealed { space: SpaceId, tips: Vec<SealedTip>, runs: Vec<super::effect::FoldRun> },
    /// Roster records were stored.
    Records { space: SpaceId, records: Vec<RecordHash>, tokens: Vec<Token> },
    /// A key was stored.
    Key { space: SpaceId, key: EpochKey },
    /// A space was founded or joined, perhaps in the place of another.
    Begun { space: SpaceId, left: Option<SpaceId>, token: Token },
    /// This device takes part in a space no more.
    Left { space: SpaceId, token: Option<Token> },
    /// The own log was begun anew.
    NewLog { space: SpaceId, log: LogId, old: Author, moved: Vec<(Dot, Dot)> },
    /// A machine of the leases wrote something.
    Lease(LeaseThen),
    /// The end of a log was dropped.
    Truncated { space: SpaceId, log: LogId, to: Tip, held: Tip },
    /// The history begins with a checkpoint; these logs ended before its cut.
    Based { space: SpaceId, base: Base, raised: Vec<Raised>, token: Token },
    /// All of a piece of a fallen history that was given back is held, once what came before is durable.
    GivenBack { space: SpaceId, piece: GivenBack },
    /// What a carrier brought was stored, as far as it was taken.
    Delivered { token: Token, outcome: Delivered },
}

/// A log that ends at the cut of a checkpoint now, and what was known of it before, in case that fails.
pub(super) struct Raised {
    pub log: LogId,
    pub before: Option<LogState>,
}

/// See [`Then::Ingested`].
pub(super) struct Ingested {
    pub space: SpaceId,
    pub log: LogId,
    pub tip: Tip,
    pub runs: Vec<super::effect::FoldRun>,
    /// `None`: from a carrier.
    pub from: Option<super::effect::PeerId>,
}

/// See [`Then::Appended`].
pub(super) struct Appended {
    pub space: SpaceId,
    pub token: Option<Token>,
    pub placed: Vec<super::effect::Placed>,
    pub first: Seq,
    pub runs: Vec<super::effect::FoldRun>,
    pub tips: Vec<SealedTip>,
    /// How far a space that was left is carried over with this.
    pub carried: Option<(SpaceId, Seq)>,
    /// How far a log whose history is dropped is written again with this.
    pub reissued: Option<(LogId, Seq)>,
    /// Which piece of a history that has fallen nothing is lost of with this.
    pub given_back: Option<GivenBack>,
}

/// A batch this device sealed and what goes out of it.
pub(super) struct SealedTip {
    pub log: LogId,
    pub before: Seq,
    pub tip: Tip,
    pub bytes: bytes::Bytes,
}

#[cfg(test)]
mod tests {
    use super::super::stable::tests::{log, space};
    use super::*;

    #[test]
    fn an_author_that_names_any_number_of_keys_is_not_in_the_way_of_another() {
        let mut space = space();
        let key_id = |n: u8| KeyId::from_bytes([n; 16]);
        space.log(log(1)).parked = (1..=100).map(key_id).collect();
        space.log(log(2)).parked = BTreeSet::from([key_id(200)]);
        space.key_of_base = Some(key_id(201));

        let asked = space.unnamed_keys();

        assert_eq!(asked.len(), UNNAMED_KEYS_MAX + 2);
        assert!(asked.contains(&key_id(200)) && asked.contains(&key_id(201)));
    }
}
