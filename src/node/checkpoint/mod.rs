//! Checkpoints of a space: made, attested, kept, passed on.
//!
//! A checkpoint is made of the state at the stable frontier, folded anew from the log of this device
//! (`build`). Whoever else reads the space folds its own log to the same place and attests what came out, or
//! says nothing. Chunks are the same bytes on every device that holds the key, so a device that has computed a
//! checkpoint fetches next to nothing; one that cannot (a blind one) fetches all of it, and goes on where it
//! was cut off (`exchange`). A device that lacks what the others have dropped, or has nothing yet, begins with one
//! (`bootstrap`), and may fold later what that stands for
//! (`audit`).

mod audit;
mod bootstrap;
mod build;
mod exchange;
mod serve;
pub(super) mod strays;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex};

use thiserror::Error;
use tokio::sync::{Notify, RwLock};

pub use self::audit::{BaseAudit, WhyNotComputed};
pub use self::bootstrap::{ATTESTATIONS_NEEDED, Adopted, Consent, Rebased, Waiting, WhyWaiting};
pub(super) use self::bootstrap::{Brought, Left};
use self::build::Built;
pub(super) use self::exchange::watch;
use super::core::Core;
use super::error::NodeError;
use super::space::Space;
use crate::crypto::EpochKey;
use crate::model::{DeviceId, Frontier, Root, SpaceId};
use crate::roster::Role;
use crate::store::{HeldCheckpoint, Store, StoreError, Wholeness};
use crate::sync::Input;
use crate::wire::checkpoint::{
    Attestation, AttestationFields, Basis, CheckpointHash, Manifest, ManifestFields,
};

/// What the checkpoints of a node share.
#[derive(Default)]
pub(super) struct Checkpoints {
    /// One is made, attested or fetched at a time.
    turn: tokio::sync::Mutex<()>,
    /// Told when another device has, or says, something new.
    pub news: Arc<Notify>,
    /// Held for reading by whatever works beside the loop with the store open; a stop waits for all of it.
    pub busy: Arc<RwLock<()>>,
    /// Chunks that came from other devices.
    fetched: AtomicU64,
    /// Rises with what others may be told of checkpoints.
    revised: AtomicU64,
    /// For tests: how many may come in this run.
    #[cfg(feature = "sim")]
    fetched_max: Mutex<Option<u64>>,
    /// For tests: whether chunks are given with a byte changed.
    #[cfg(feature = "sim")]
    spoils: Arc<std::sync::atomic::AtomicBool>,
    /// What spaces are to begin with, and do not yet.
    waiting: Mutex<BTreeMap<SpaceId, Waiting>>,
    /// Checkpoints that turned out to be false.
    refused: Mutex<BTreeSet<CheckpointHash>>,
    /// Spaces that a person has asked to begin with a checkpoint.
    wished: Mutex<BTreeSet<SpaceId>>,
}

/// What answering others needs.
#[derive(Default)]
pub(super) struct Serving {
    pub news: Arc<Notify>,
    busy: Arc<RwLock<()>>,
    answering: Arc<AtomicU32>,
    /// For tests: whether chunks are given with a byte changed.
    #[cfg(feature = "sim")]
    spoils: Arc<std::sync::atomic::AtomicBool>,
    /// Spaces of which a device has said that it does not hold any more what is missing here, and which have.
    pub below: BTreeMap<SpaceId, BTreeSet<DeviceId>>,
    /// Spaces of which a checkpoint leaves out what is here, and how many logs were here then: what its author
    /// writes again comes in a new one.
    pub strays: BTreeMap<SpaceId, usize>,
    /// Since when some device is connected without a break, by the wall clock in Unix milliseconds.
    pub connected_since: u64,
    /// When this device last had a round with a drop box, on the uptime clock.
    box_seen: Option<std::time::Duration>,
}

impl Checkpoints {
    /// Waits until nothing is made, attested, fetched or dropped.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}

impl Serving {
    /// A space has been folded so far: what a checkpoint left out may be here again.
    pub fn folded(&mut self, space: SpaceId, log_count: usize) {
        if let Some(before) = self.strays.get_mut(&space).filter(|before| **before < log_count) {
            *before = log_count;
            self.news.notify_one();
        }
    }

    pub fn of(checkpoints: &Checkpoints) -> Self {
        Self {
            news: Arc::clone(&checkpoints.news),
            busy: Arc::clone(&checkpoints.busy),
            answering: Arc::default(),
            #[cfg(feature = "sim")]
            spoils: Arc::clone(&checkpoints.spoils),
            below: BTreeMap::new(),
            strays: BTreeMap::new(),
            connected_since: 0,
            box_seen: None,
        }
    }
}

/// A checkpoint that this device keeps.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct CheckpointInfo {
    /// Its name.
    pub hash: CheckpointHash,
    /// Who made it.
    pub author: DeviceId,
    /// Ops within its cut.
    pub op_count: u64,
    /// The root of the state there.
    pub root: Root,
    /// Its chunks.
    pub chunk_count: u64,
    /// Whether every chunk is here.
    pub is_whole: bool,
    /// The devices that have folded their own logs to the same.
    pub attested_by: Vec<DeviceId>,
}

/// What making a checkpoint came to.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Published {
    /// The newest checkpoint.
    pub checkpoint: CheckpointInfo,
    /// Whether it was made just now; there is none to make where nothing became stable since the last one.
    pub is_new: bool,
}

/// Why no checkpoint is made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WhyNoCheckpoint {
    /// Devices that are waited for have never said what they hold.
    #[error("nothing is stable before every active device has said what it holds; {} have not", .silent.len())]
    Silent {
        /// Which.
        silent: Vec<DeviceId>,
    },
    /// Every active device has spoken, and nothing is held by all of them; or what they have said is of a history
    /// that has fallen here since, until this device says what it holds now.
    #[error("nothing is held by every active device yet")]
    NothingStable,
    /// Two devices have another state for the same ops.
    #[error("the state of {} differs from the one here for the same ops", .device.short())]
    Diverged {
        /// With whom.
        device: DeviceId,
    },
    /// This home came back from a backup or is a copy, and vouches for nothing before it has met the others.
    #[error(
        "this home came back from a backup or is a copy and has not met {} of the others since, who may have dropped \
         history on its word", .unmet.len()
    )]
    Unmet {
        /// Whom.
        unmet: Vec<DeviceId>,
    },
    /// Ops of a later version are within it, which another version may fold otherwise.
    #[error("{count} ops of a later version are within it")]
    UnknownOps {
        /// How many.
        count: u64,
    },
    /// This device stores and does not read.
    #[error("this device is blind and has no state")]
    Blind,
    /// No key is in force to seal it under.
    #[error("the space has no key in force")]
    NoKey,
    /// More chunks than a checkpoint may have.
    #[error("it would have more than {limit} chunks")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// An op that the state shows is not in the store.
    #[error("an op that the state shows cannot be read")]
    OpMissing,
}

/// Of two whole checkpoints the greater one is the newer; of two as far on, the one with the smaller hash.
fn rank(manifest: &Manifest) -> (u64, Reverse<CheckpointHash>) {
    (manifest.fields().cut.op_count(), Reverse(manifest.hash()))
}

/// The whole checkpoints of a space, the newest first.
fn whole(held: &[HeldCheckpoint]) -> Vec<&Manifest> {
    let whole = held.iter().filter(|held| held.wholeness == Wholeness::Whole);
    let mut whole: Vec<&Manifest> = whole.map(|held| &held.manifest).collect();
    whole.sort_by_key(|manifest| Reverse(rank(manifest)));
    whole
}

/// Which checkpoints of a space stay: see [`newest`], and the one that history will begin with next, which waits
/// for its days to pass.
fn to_keep(store: &Store, space: &SpaceId) -> Result<Vec<CheckpointHash>, StoreError> {
    let held = store.checkpoints(space)?;
    let floor = store.base(space).map_or(0, |base| base.floor.op_count());
    let mut kept = newest(&held);
    for manifest in whole(&held).into_iter().rev().filter(|manifest| rank(manifest).0 > floor) {
        if store.moments(space, &manifest.fields().content)?.vouched.is_some() {
            kept.push(manifest.hash());
            break;
        }
    }
    Ok(kept)
}

/// The newest checkpoint, the one before it, and what is being fetched to be newer.
fn newest(held: &[HeldCheckpoint]) -> Vec<CheckpointHash> {
    let whole = whole(held);
    let newest = whole.first().map(|manifest| rank(manifest));
    let partial = held.iter().filter(|held| held.wholeness == Wholeness::Partial);
    let partial = partial.map(|held| &held.manifest).filter(|manifest| Some(rank(manifest)) > newest);
    // Of those that are as far on as the newest, it alone: the one before is of an earlier cut.
    let is_earlier = |manifest: &&Manifest| Some(rank(manifest).0) < newest.map(|(op_count, _)| op_count);
    let before = whole.iter().copied().find(is_earlier);
    let kept = whole.first().copied().into_iter().chain(before);
    // Several may be on their way; more than one is rare, and only the newest is worth finishing.
    kept.chain(partial.max_by_key(|manifest| rank(manifest))).map(Manifest::hash).collect()
}

/// Puts a whole checkpoint in place; what it replaces goes, after it is durable.
fn complete(store: &Store, manifest: &Manifest) -> Result<(), StoreError> {
    let space = manifest.fields().space;
    store.put_checkpoint(&HeldCheckpoint { manifest: manifest.clone(), wholeness: Wholeness::Whole })?;
    store.keep_checkpoints(&space, &to_keep(store, &space)?)
}

/// What this device is in a space, for its checkpoints.
struct Standing {
    reads: bool,
    /// Whether the history here may begin with a checkpoint of others, because it has no beginning.
    begins_anew: bool,
    frontier: Frontier,
    key: Option<EpochKey>,
    /// Every key that is here.
    keys: Vec<EpochKey>,
    readers: BTreeSet<DeviceId>,
    /// Whether this device may vouch for a checkpoint: every other one was met since its past was in doubt.
    vouches: bool,
}

impl Checkpoints {
    /// Changes whenever there is something new to be told of checkpoints.
    pub fn revision(&self) -> u64 {
        self.revised.load(std::sync::atomic::Ordering::Acquire)
    }

    fn revise(&self) {
        self.revised.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
    }
}

impl Core {
    fn checkpoint_standing(&self, space: SpaceId) -> Option<Standing> {
        let view = self.engine.space(space).filter(|view| view.is_active)?;
        let own = self.engine.device();
        let readers = view.roster.members().filter(|member| member.role.holds_keys());
        Some(Standing {
            begins_anew: self.begins_anew(space),
            reads: view.roster.role_of(&own).is_some_and(Role::holds_keys),
            frontier: view.frontier.clone(),
            key: self.engine.sealing_key(space).cloned(),
            keys: self.engine.keys().into_iter().filter(|(of, _)| *of == space).map(|(_, key)| key).collect(),
            readers: readers.map(|member| member.device).collect(),
            vouches: self.engine.unmet(space).is_empty(),
        })
    }

    /// Where a checkpoint would be cut now.
    fn checkpoint_cut(&self, space: SpaceId) -> Result<Frontier, WhyNoCheckpoint> {
        if let Some(parted) = self.engine.diverged(space).first() {
            return Err(WhyNoCheckpoint::Diverged { device: parted.device });
        }
        let unmet = self.engine.unmet(space);
        if !unmet.is_empty() {
            return Err(WhyNoCheckpoint::Unmet { unmet });
        }
        match self.engine.stable_frontier(space) {
            None => Err(WhyNoCheckpoint::Silent { silent: self.engine.silent(space) }),
            Some(stable) if stable.log_count() == 0 => Err(WhyNoCheckpoint::NothingStable),
            Some(stable) => Ok(stable),
        }
    }
}

impl Space {
    /// Makes a checkpoint of what every active device holds, and offers it to those that are connected.
    ///
    /// # Errors
    /// [`NodeError::NoCheckpoint`], [`NodeError::Store`], [`NodeError::Stopped`], and those of
    /// [`Space::state_at`].
    pub async fn checkpoint(&self) -> Result<Published, NodeError> {
        let space = self.id();
        let turn = self.node.checkpoints().turn.lock().await;
        let index = self.index();
        // What is acknowledged is folded; right after a start the index is still being read.
        let read = tokio::task::spawn_blocking(move || index.read().map(drop));
        read.await.expect("waiting does not panic and is not aborted")?;
        let asked = self.node.ask(move |core| {
            core.tell(Input::Seal { space });
            core.settle();
            let standing = core.checkpoint_standing(space)?;
            let cut = core.checkpoint_cut(space);
            Some((standing, cut))
        });
        let (standing, cut) = asked.await?.ok_or(NodeError::Stopped)?;
        let refused = |why| NodeError::NoCheckpoint { why };
        if !standing.reads {
            return Err(refused(WhyNoCheckpoint::Blind));
        }
        let (cut, key) = (cut.map_err(refused)?, standing.key.ok_or(refused(WhyNoCheckpoint::NoKey))?);
        // What was acknowledged may be of a history of some log that has fallen since.
        if !self.covers(&standing.frontier, &cut).await? {
            return Err(refused(WhyNoCheckpoint::NothingStable));
        }
        let held = self.node.store().checkpoints(&space)?;
        let before = whole(&held).first().map(|manifest| manifest.fields().cut.op_count());
        let is_new = before.is_none_or(|before| before < cut.op_count());
        let base = self.node.store().base(&space).map(|base| base.checkpoint);
        if is_new {
            let built = self.build(&cut, base, Some(key.clone()), None).await?;
            let manifest = self.sign(built, &key, cut);
            self.attest(&manifest)?;
            complete(self.node.store(), &manifest)?;
        }
        drop(turn);
        let checkpoints = self.checkpoints()?;
        let checkpoint = checkpoints.into_iter().find(|info| info.is_whole).ok_or(NodeError::Stopped)?;
        if is_new {
            // Whoever is connected hears of it; that nobody is, or one does not answer, is no failure.
            self.exchange_checkpoints().await?;
        }
        Ok(Published { checkpoint, is_new })
    }

    /// The checkpoints that this device keeps: whole ones first, the newest first.
    ///
    /// # Errors
    /// [`NodeError::Store`].
    pub fn checkpoints(&self) -> Result<Vec<CheckpointInfo>, NodeError> {
        let store = self.node.store();
        let held = store.checkpoints(&self.id())?;
        let words = store.attestations(&self.id())?;
        let mut infos: Vec<CheckpointInfo> = held.iter().map(|held| info(held, &words)).collect();
        let order = |info: &CheckpointInfo| (info.is_whole, info.op_count, Reverse(info.hash));
        infos.sort_by_key(|info| Reverse(order(info)));
        Ok(infos)
    }

    /// The manifest of what was built, signed by this device.
    fn sign(&self, built: Built, key: &EpochKey, cut: Frontier) -> Manifest {
        let fields = ManifestFields {
            space: self.id(),
            fold_version: crate::fold::FOLD_VERSION,
            parent: built.parent,
            root: built.root,
            content: built.content,
            key_id: key.id(),
            author: self.node.device(),
            cut,
            state_chunks: built.state_chunks,
            chunks: built.chunks,
        };
        Manifest::sign(self.node.identity(), fields)
    }

    /// Says that this device has folded its own log to what a manifest says; durable when it returns.
    fn attest(&self, manifest: &Manifest) -> Result<(), NodeError> {
        self.attest_as(manifest, self.basis()?)
    }

    fn attest_as(&self, manifest: &Manifest, basis: Basis) -> Result<(), NodeError> {
        let of = manifest.fields();
        let fields = AttestationFields {
            scope: of.space.tag(),
            device: self.node.device(),
            fold_version: of.fold_version,
            cut_digest: of.cut.digest(),
            root: of.root,
            content: of.content,
            basis,
        };
        let word = Attestation::sign(self.node.identity(), fields);
        self.node.store().put_attestation(&of.space, &word)?;
        self.node.checkpoints().revise();
        Ok(())
    }
}

#[cfg(feature = "sim")]
impl crate::node::Node {
    /// Gives others chunks with a byte changed, or no longer. For tests of what they make of it.
    #[doc(hidden)]
    pub fn spoil_chunks(&self, spoils: bool) {
        self.checkpoints().spoils.store(spoils, std::sync::atomic::Ordering::Release);
    }
}

#[cfg(feature = "sim")]
impl Space {
    /// Leaves the newest checkpoint as a crash in the middle of fetching it does: without its last chunks. For
    /// tests of what goes on from there; how many are missing now.
    #[doc(hidden)]
    pub async fn forget_chunks(&self, count: usize) -> Result<usize, NodeError> {
        let _turn = self.node.checkpoints().turn.lock().await;
        let (space, store) = (self.id(), self.node.store());
        let held = store.checkpoints(&space)?;
        let Some(manifest) = whole(&held).first().copied().cloned() else { return Ok(0) };
        let chunks = &manifest.fields().chunks;
        let kept = &chunks[..chunks.len().saturating_sub(count)];
        let bytes: Vec<Option<bytes::Bytes>> =
            kept.iter().map(|hash| store.chunk(&space, hash)).collect::<Result<_, _>>()?;
        store.keep_checkpoints(&space, &[])?;
        store
            .put_checkpoint(&HeldCheckpoint { manifest: manifest.clone(), wholeness: Wholeness::Partial })?;
        store.put_chunks(&space, &bytes.into_iter().flatten().collect::<Vec<_>>())?;
        Ok(store.missing_chunks(&space, chunks)?.len())
    }

    /// Keeps, as its newest, a signed checkpoint of the present that is not what the log folds to. For tests of
    /// what others make of it; its name.
    #[doc(hidden)]
    pub async fn forge_checkpoint(&self) -> Result<CheckpointHash, NodeError> {
        let _turn = self.node.checkpoints().turn.lock().await;
        let (space, store) = (self.id(), self.node.store());
        let asked = self.node.ask(move |core| {
            core.tell(Input::Seal { space });
            core.settle();
            core.checkpoint_cut(space)
        });
        let cut = asked.await?;
        let cut = cut.map_err(|why| NodeError::NoCheckpoint { why })?;
        let held = store.checkpoints(&space)?;
        let before = whole(&held).first().copied().ok_or(NodeError::Stopped)?.fields().clone();
        let fields = ManifestFields { cut, root: Root::from_bytes([7; 32]), content: [7; 32], ..before };
        let forged = Manifest::sign(self.node.identity(), fields);
        self.attest(&forged)?;
        complete(store, &forged)?;
        Ok(forged.hash())
    }

    /// Makes a checkpoint, whole and attested by this device, of a state that is folded wrongly. For tests of who
    /// finds out; its name.
    #[doc(hidden)]
    pub async fn checkpoint_wrongly(&self) -> Result<CheckpointHash, NodeError> {
        let _turn = self.node.checkpoints().turn.lock().await;
        let space = self.id();
        let asked = self.node.ask(move |core| {
            core.tell(Input::Seal { space });
            core.settle();
            (core.checkpoint_cut(space), core.engine.sealing_key(space).cloned())
        });
        let (cut, key) = asked.await?;
        let refused = |why| NodeError::NoCheckpoint { why };
        let (cut, key) = (cut.map_err(refused)?, key.ok_or(refused(WhyNoCheckpoint::NoKey))?);
        let state = self.fold_wrongly(cut.iter().map(|(log, tip)| (*log, tip.seq)).collect()).await?;
        let built = self.made_of(state, None, Some(key.clone()), None).await?;
        let manifest = self.sign(built, &key, cut);
        self.attest_as(&manifest, Basis::Log)?;
        complete(self.node.store(), &manifest)?;
        Ok(manifest.hash())
    }

    /// Chunks fetched from other devices in this run.
    #[doc(hidden)]
    pub fn chunks_fetched(&self) -> u64 {
        self.node.checkpoints().fetched.load(std::sync::atomic::Ordering::Relaxed)
    }
}

fn info(held: &HeldCheckpoint, words: &[Attestation]) -> CheckpointInfo {
    let fields = held.manifest.fields();
    let attested = words.iter().filter(|word| word.is_of(fields)).map(|word| word.fields().device);
    CheckpointInfo {
        hash: held.manifest.hash(),
        author: fields.author,
        op_count: fields.cut.op_count(),
        root: fields.root,
        chunk_count: fields.chunks.len() as u64,
        is_whole: held.wholeness == Wholeness::Whole,
        attested_by: attested.collect(),
    }
}
