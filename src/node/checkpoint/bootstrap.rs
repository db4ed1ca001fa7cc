//! Beginning with a checkpoint that others have made: a device that has nothing of a space yet, or one that
//! was away while the others dropped what it lacks.
//!
//! Nothing is believed for who sends it. The author and those who attest are devices of the space that read;
//! two of them have folded every op, or one has and a person says that this is enough; the history it was made
//! of is the one held here, as far as that reaches; and what the chunks hold, opened, is what was attested, with
//! its root counted anew. Only then does the history begin there, in one transaction: until then the state is
//! as it was, and what was fetched is kept for the next try.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use thiserror::Error;
use tracing::{info, warn};

use super::exchange::Taken;
use super::strays::LeftOut;
use super::{Checkpoints, Standing, complete, to_keep};
use crate::crypto::{EpochKey, chunk};
use crate::fold::checkpoint::{ContentHasher, StatePieces, ops_of};
use crate::fold::{FOLD_VERSION, State};
use crate::model::{DeviceId, Frontier, LogId, SpaceId, Tip};
use crate::net::Link;
use crate::node::core::Core;
use crate::node::error::NodeError;
use crate::node::space::Space;
use crate::store::{HeldCheckpoint, Store, StoreError, Wholeness};
use crate::sync::{BaseRefused, Input, RequestError, RosterChange};
use crate::wire::checkpoint::{Attestation, Basis, CheckpointHash, Manifest, ManifestFields};

/// A checkpoint of others that this device is to begin with.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Waiting {
    /// Its name.
    pub checkpoint: CheckpointHash,
    /// Who made it.
    pub author: DeviceId,
    /// Ops within its cut.
    pub op_count: u64,
    /// Its chunks.
    pub chunk_count: u64,
    /// The devices that have folded every op of it and attest what came out.
    pub attested_by: Vec<DeviceId>,
    /// The devices that attest it and began with another one's checkpoint themselves.
    pub repeated_by: Vec<DeviceId>,
    /// What keeps this device from it.
    pub why: WhyWaiting,
}

/// What keeps a device from beginning with a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum WhyWaiting {
    /// Fewer than two devices have folded every op to it, and nobody has said that one will do.
    #[error("{attested} of the {needed} devices that are asked for attest it")]
    Unattested {
        /// How many have.
        attested: usize,
        /// How many are asked for.
        needed: usize,
    },
    /// Chunks are still missing; they are fetched from whoever has them.
    #[error("{missing} of its chunks are not here yet")]
    Fetching {
        /// How many.
        missing: usize,
    },
    /// The key it is sealed under is not here.
    #[error("the key it is sealed under is not here")]
    KeyMissing,
    /// It was folded by other rules than this version has.
    #[error("it was folded by version {found} of the rules, and this program has {known}")]
    Version {
        /// Its version.
        found: u32,
        /// The one of this program.
        known: u32,
    },
    /// It holds another history of a log than this device.
    #[error("it holds another history of a log of {} than this device", .device.short())]
    OtherHistory {
        /// Whose log.
        device: DeviceId,
    },
    /// It leaves out ops of another device that this one holds: a backup was put back there, and the history that
    /// went on is another one. They are given to that device, which writes them again, before this one begins.
    #[error("it leaves out {op_count} ops of {} that this device holds", .device.short())]
    LeavesOut {
        /// Whose.
        device: DeviceId,
        /// How many.
        op_count: u64,
    },
    /// What its chunks hold is not what was attested.
    #[error("what its chunks hold is not what was attested")]
    Content,
    /// The engine does not begin with it.
    #[error(transparent)]
    Refused(BaseRefused),
}

impl WhyWaiting {
    /// Whether it is over once more devices, chunks or keys have come: nothing is wrong with it.
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Unattested { .. } | Self::Fetching { .. } | Self::KeyMissing | Self::LeavesOut { .. } => {
                true
            }
            Self::Version { .. } | Self::OtherHistory { .. } | Self::Content | Self::Refused(_) => false,
        }
    }
}

impl Waiting {
    /// Whether somebody has to do something.
    pub const fn is_stuck(&self) -> bool {
        !matches!(self.why, WhyWaiting::Fetching { .. })
    }
}

/// What a person has said to a checkpoint that one device alone attests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consent {
    /// Nothing: two devices attest it, or it waits.
    Attested,
    /// One will do, for the checkpoint that is waiting now.
    Given,
}

/// A checkpoint that was left somewhere.
pub(in crate::node) struct Left {
    /// What it is.
    pub manifest: Manifest,
    /// What is said of it there.
    pub words: Vec<Attestation>,
    /// Whether its chunks lie there too: whoever has left them begins with it.
    pub is_base: bool,
}

/// What became of a [`Left`] checkpoint.
pub(in crate::node) enum Brought {
    /// It is whole here, or of no use.
    Done,
    /// These chunks are to be brought.
    Wants(Vec<[u8; 32]>),
    /// It may be of use later.
    Later,
}

/// What beginning with a checkpoint came to.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Rebased {
    /// Whether the history begins with another checkpoint than before.
    pub is_new: bool,
    /// The checkpoint that it begins with, if not with the first op of every log.
    pub base: Option<CheckpointHash>,
    /// The one that it is to begin with, and does not yet.
    pub waiting: Option<Waiting>,
}

/// A history that begins with a checkpoint which this device did not fold itself.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Adopted {
    /// The checkpoint.
    pub checkpoint: CheckpointHash,
    /// Ops within its cut.
    pub op_count: u64,
    /// The devices that have folded every op of it and attest what came out.
    pub attested_by: Vec<DeviceId>,
}

impl Space {
    /// Begins the history with a checkpoint of the connected devices, where some of it is missing here; says
    /// what it waits for where it does not. With [`Consent::Given`] the checkpoint that waits for a second
    /// attestation need not wait for it; the word is kept over a restart.
    ///
    /// # Errors
    /// [`NodeError::NotStarted`], [`NodeError::Store`], [`NodeError::Stopped`].
    pub async fn rebase(&self, consent: Consent) -> Result<Rebased, NodeError> {
        self.node.must_be_started()?;
        let (space, store) = (self.id(), self.node.store());
        let before = store.base(&space).map(|base| base.checkpoint);
        self.node.checkpoints().is_wished(space, true);
        let mut outcome = self.exchange_checkpoints().await;
        if consent == Consent::Given
            && outcome.is_ok()
            && let Some(waiting) = self.waiting()
        {
            self.consent_to(&waiting)?;
            outcome = self.exchange_checkpoints().await;
        }
        self.node.checkpoints().is_wished(space, false);
        outcome?;
        let base = store.base(&space).map(|base| base.checkpoint);
        Ok(Rebased { is_new: base != before, base, waiting: self.waiting() })
    }

    /// The checkpoint that this device is to begin with, and what keeps it from that.
    pub fn waiting(&self) -> Option<Waiting> {
        self.node.checkpoints().waiting(self.id())
    }

    /// The checkpoint that the history begins with, where this device has taken it from others and has not
    /// folded it itself.
    ///
    /// # Errors
    /// [`NodeError::Store`].
    pub fn adopted(&self) -> Result<Option<Adopted>, NodeError> {
        let (space, store) = (self.id(), self.node.store());
        let Some(base) = store.base(&space) else { return Ok(None) };
        let held = store.checkpoints(&space)?;
        let words = store.attestations(&space)?;
        let manifest = held.iter().map(|held| &held.manifest).find(|found| found.hash() == base.checkpoint);
        let Some(fields) = manifest.map(Manifest::fields) else { return Ok(None) };
        let (full, _) = witnesses(&words, fields);
        if full.contains(&self.node.device()) {
            return Ok(None);
        }
        Ok(Some(Adopted {
            checkpoint: base.checkpoint,
            op_count: fields.cut.op_count(),
            attested_by: full.into_iter().collect(),
        }))
    }

    /// What this device vouches for when it attests: a blind one never does.
    pub(super) fn basis(&self) -> Result<Basis, NodeError> {
        Ok(if self.adopted()?.is_some() { Basis::Adopted } else { Basis::Log })
    }

    /// Keeps the word of a person that one attestation of a checkpoint is enough.
    pub(in crate::node) fn consent_to(&self, waiting: &Waiting) -> Result<(), NodeError> {
        let (space, store) = (self.id(), self.node.store());
        let held = store.checkpoints(&space)?;
        let found = held.iter().find(|held| held.manifest.hash() == waiting.checkpoint);
        if let Some(held) = found {
            info!(checkpoint = %waiting.checkpoint, "a person takes one attestation for enough");
            store.put_consent(&space, &held.manifest.fields().content)?;
        }
        Ok(())
    }

    /// Begins with a checkpoint, as far as everything that is asked for is here.
    pub(super) async fn begin_with(
        &self,
        link: Option<&Link>,
        standing: &Standing,
        manifest: &Manifest,
        words: &[Attestation],
    ) -> Result<Taken, NodeError> {
        let (space, store, fields) = (self.id(), self.node.store(), manifest.fields());
        let checkpoints = self.node.checkpoints();
        // Kept from here on, so that what is said of it is kept too.
        let held = store.checkpoints(&space)?;
        if !held.iter().any(|held| held.manifest.hash() == manifest.hash()) {
            let held = HeldCheckpoint { manifest: manifest.clone(), wholeness: Wholeness::Partial };
            store.put_checkpoint(&held)?;
        }
        if held.len() >= HELD_MAX {
            self.keep_with(Some(manifest.hash()), None)?;
        }
        super::exchange::keep_words(store, &space, standing, &store.checkpoints(&space)?, words)?;
        let words = believed(store.attestations(&space)?, standing);
        let waits = |why| checkpoints.waits(space, waiting(manifest, &words, why));
        if standing.reads && fields.fold_version != FOLD_VERSION {
            waits(WhyWaiting::Version { found: fields.fold_version, known: FOLD_VERSION });
            return Ok(Taken::Later);
        }
        let consented = store.consent(&space)?;
        if let Err(why) = is_vouched_for(&words, fields, consented) {
            waits(why);
            return Ok(Taken::Later);
        }
        self.keep_with(Some(manifest.hash()), None)?;
        let missing = store.missing_chunks(&space, &fields.chunks)?.len();
        waits(WhyWaiting::Fetching { missing });
        if !self.fetch_chunks(link, manifest).await? {
            let missing = store.missing_chunks(&space, &fields.chunks)?.len();
            waits(WhyWaiting::Fetching { missing });
            return Ok(Taken::Later);
        }
        let state = match self.examine(standing, manifest).await? {
            Ok(state) => state,
            Err(why) => {
                warn!(checkpoint = %manifest.hash(), %why, "a checkpoint is not what to begin with");
                waits(why);
                if why == WhyWaiting::Content {
                    checkpoints.refuse(manifest.hash());
                    self.keep_with(None, Some(manifest.hash()))?;
                }
                return Ok(Taken::Refused);
            }
        };
        self.write_own_again(&fields.cut).await?;
        let state = match state {
            Some(state) => {
                let (state, left_out) = self.look_for_strays(standing, state, fields).await?;
                if let Some(LeftOut { device, op_count }) = left_out {
                    waits(WhyWaiting::LeavesOut { device, op_count });
                    return Ok(Taken::Later);
                }
                self.give_way(fields).await?;
                Some(state)
            }
            None => None,
        };
        if let Some(log) = self.parted(fields).await?.first() {
            waits(WhyWaiting::OtherHistory { device: log.device });
            return Ok(Taken::Later);
        }
        complete(store, manifest)?;
        let (checkpoint, cut) = (manifest.hash(), fields.cut.clone());
        if let Some(state) = state {
            self.node.ask(move |core| core.examined.insert(space, (checkpoint, state))).await?;
        }
        let begun = self.node.request(move |token| Input::Base { space, checkpoint, cut, token }).await;
        self.node.ask(move |core| drop(core.examined.remove(&space))).await?;
        match begun {
            Ok(()) => {}
            Err(NodeError::Refused(RequestError::Base(why))) => {
                waits(WhyWaiting::Refused(why));
                return Ok(Taken::Later);
            }
            Err(error) => return Err(error),
        }
        checkpoints.begun(space);
        checkpoints.revise();
        store.forget_consent(&space)?;
        if standing.reads && standing.vouches {
            // For those that wait for every device before they drop what is within.
            self.attest(manifest)?;
        }
        info!(%checkpoint, ops = fields.cut.op_count(), "the history begins with a checkpoint of others");
        Ok(Taken::Whole)
    }

    /// Takes a checkpoint that was left somewhere, as far as its chunks are here.
    pub(in crate::node) async fn take_left(&self, left: &Left) -> Result<Brought, NodeError> {
        let (space, store, checkpoints) = (self.id(), self.node.store(), self.node.checkpoints());
        let _turn = checkpoints.turn.lock().await;
        let hash = left.manifest.hash();
        let asked = self.node.ask(move |core| core.checkpoint_standing(space));
        let Some(mut standing) = asked.await?.filter(|_| !checkpoints.is_refused(&hash)) else {
            return Ok(Brought::Done);
        };
        // Everything that continues a log here was taken before: the rest is not to be had there.
        standing.begins_anew |= left.is_base || checkpoints.wishes(space);
        super::exchange::keep_words(store, &space, &standing, &store.checkpoints(&space)?, &left.words)?;
        if self.take(None, &standing, &left.manifest, &left.words).await? != Taken::Later {
            return Ok(Brought::Done);
        }
        let is_it = |waiting: &Waiting| waiting.checkpoint == hash;
        match self.waiting().filter(is_it).map(|waiting| waiting.why) {
            Some(WhyWaiting::Fetching { .. }) => {}
            Some(_) => return Ok(Brought::Later),
            None if store.checkpoints(&space)?.iter().all(|held| held.manifest.hash() != hash) => {
                return Ok(Brought::Later);
            }
            None => {}
        }
        let missing = store.missing_chunks(&space, &left.manifest.fields().chunks)?;
        Ok(if missing.is_empty() { Brought::Later } else { Brought::Wants(missing) })
    }

    /// Says that this device is back, where nothing waits for it any more and it holds what a connected device
    /// does.
    pub(super) async fn come_back(&self) -> Result<(), NodeError> {
        let space = self.id();
        if !self.node.ask(move |core| core.is_back(space)).await? {
            return Ok(());
        }
        self.say_active().await
    }

    /// As [`Space::come_back`], after a round with a drop box, from which everything that is there was taken.
    pub(in crate::node) async fn come_back_by_box(&self) -> Result<(), NodeError> {
        let space = self.id();
        let is_back = self.node.ask(move |core| {
            let now = crate::clock::uptime();
            let before = core.serving.box_seen.replace(now);
            let was_away = before.is_none_or(|before| now.saturating_sub(before) > AWAY_AFTER);
            if was_away && core.engine.peers().is_empty() {
                core.serving.connected_since = crate::clock::wall().as_millis();
            }
            core.was_called_dormant(space)
        });
        if is_back.await? { self.say_active().await } else { Ok(()) }
    }

    async fn say_active(&self) -> Result<(), NodeError> {
        let space = self.id();
        info!("this device was away for long; it is waited for again");
        let device = self.node.device();
        let change = RosterChange::Active { device };
        self.node.request(move |token| Input::Change { space, change, token }).await
    }

    /// Has ops of this device written again that no other device is known to hold, in own logs that end before
    /// a cut or part from it: the checkpoint is of another history of them, of a life that this disk has
    /// forgotten. What is in both counts once.
    async fn write_own_again(&self, cut: &Frontier) -> Result<(), NodeError> {
        let (space, cut, store) = (self.id(), cut.clone(), self.node.store().clone());
        let own = self.node.ask(move |core| core.own_logs_within(space, &cut)).await?;
        let floor = store.base(&space).map(|base| base.floor).unwrap_or_default();
        let is_end = |log: &LogId, tip: &Tip| -> Result<bool, StoreError> {
            let batch = store.batch_at(&space, log, tip.seq)?;
            Ok(batch.is_some_and(|batch| batch.header().last() == tip.seq && batch.link() == tip.hash))
        };
        for OwnLog { log, held, end, said } in own {
            // Of a cut that ends before the floor nothing is here to be held against it.
            let is_behind = floor.tip(&log) == end || end.seq < floor.tip(&log).seq;
            if is_behind || held.seq >= end.seq && is_end(&log, &end)? {
                continue;
            }
            let mut to = floor.tip(&log);
            // Where it parts from the cut everybody gives it up for the checkpoint: that others hold it is of no use.
            let is_parted = held.seq >= end.seq;
            for tip in said.into_iter().filter(|tip| !is_parted && tip.seq <= held.seq) {
                if tip.seq > to.seq && is_end(&log, &tip)? {
                    to = tip;
                }
            }
            self.node.ask(move |core| core.tell(Input::WriteAgain { space, log, to })).await?;
        }
        let mut version = self.node.version();
        loop {
            version.mark_unchanged();
            if self.node.ask(move |core| core.engine.to_reissue(space).is_empty()).await? {
                return Ok(());
            }
            version.changed().await.map_err(|_| NodeError::Stopped)?;
        }
    }

    /// The state in what is here of a checkpoint, where that is what it says; none for a device that does not
    /// read.
    async fn examine(
        &self,
        standing: &Standing,
        manifest: &Manifest,
    ) -> Result<Result<Option<State>, WhyWaiting>, NodeError> {
        let store = self.node.store().clone();
        let (fields, reads) = (manifest.fields().clone(), standing.reads);
        let key = standing.keys.iter().find(|key| key.id() == fields.key_id).cloned();
        let Some(key) = key.filter(|_| reads) else {
            if !reads {
                return Ok(Ok(None));
            }
            let (space, key_id) = (self.id(), fields.key_id);
            let want = move |core: &mut Core| {
                if !core.engine.is_key_wanted(space, &key_id) {
                    core.tell(Input::WantKey { space, key_id });
                }
            };
            self.node.ask(want).await?;
            return Ok(Err(WhyWaiting::KeyMissing));
        };
        let state = self.node.blocking(move || content(&store, &key, &fields)).await?;
        Ok(state.map(Some).ok_or(WhyWaiting::Content))
    }

    /// Drops checkpoints that are of no use any more, with what was fetched of them.
    fn keep_with(
        &self,
        with: Option<CheckpointHash>,
        without: Option<CheckpointHash>,
    ) -> Result<(), NodeError> {
        let (space, store) = (self.id(), self.node.store());
        let kept = to_keep(store, &space)?.into_iter().chain(with);
        let kept: Vec<CheckpointHash> = kept.filter(|hash| Some(*hash) != without).collect();
        Ok(store.keep_checkpoints(&space, &kept)?)
    }
}

/// An own log that a checkpoint speaks of.
struct OwnLog {
    log: LogId,
    /// Where it ends here.
    held: Tip,
    /// Where it ends in the cut.
    end: Tip,
    /// Where others have said that it ends.
    said: Vec<Tip>,
}

impl Core {
    /// Own logs of a cut of which something is here.
    fn own_logs_within(&self, space: SpaceId, cut: &Frontier) -> Vec<OwnLog> {
        let Some(view) = self.engine.space(space) else { return Vec::new() };
        let own = self.engine.device();
        let others: Vec<DeviceId> =
            view.roster.members().map(|member| member.device).filter(|device| *device != own).collect();
        let said = |log: &LogId| {
            let acks = others.iter().filter_map(|device| self.engine.ack_of(space, device));
            acks.map(|ack| ack.frontier.tip(log)).filter(|tip| *tip != Tip::NONE).collect()
        };
        let within = cut.iter().filter(|(log, _)| log.device == own);
        let within = within.map(|(log, end)| (*log, view.frontier.tip(log), *end));
        let held = within.filter(|(_, held, _)| *held != Tip::NONE);
        held.map(|(log, held, end)| OwnLog { log, held, end, said: said(&log) }).collect()
    }

    /// Whether the history of a space has no beginning here that peers could continue.
    pub(in crate::node) fn begins_anew(&self, space: SpaceId) -> bool {
        // It may have come another way since; the devices that said so tell, where they hold just the same.
        let is_below = |device: &DeviceId| !self.holds_the_same(space, device);
        let told = self.serving.below.get(&space);
        self.engine.is_held_back(space) || told.is_some_and(|devices| devices.iter().any(is_below))
    }

    /// Whether every log of a connected device ends here where it ends there. Lengths would not do: a log may have
    /// another history here.
    fn holds_the_same(&self, space: SpaceId, device: &DeviceId) -> bool {
        let Some(view) = self.engine.space(space) else { return false };
        let known = self.engine.announced(space, device);
        known.is_some_and(|known| known.iter().all(|(log, tip)| view.frontier.tip(log) == *tip))
    }

    /// Whether this device holds what a connected device does, as far as that has said.
    fn holds_all_of(&self, space: SpaceId, device: &DeviceId) -> bool {
        let Some(view) = self.engine.space(space) else { return false };
        let known = self.engine.announced(space, device);
        known.is_some_and(|known| known.ops_beyond(view.frontier) == 0)
    }

    /// Whether this device was called dormant while it was away, and holds now what the others do.
    fn is_back(&self, space: SpaceId) -> bool {
        let mut peers = self.engine.peers().into_iter();
        self.was_called_dormant(space) && peers.any(|peer| self.holds_all_of(space, &peer.device))
    }

    /// Whether this device was called dormant while it was away, and its history has a beginning.
    fn was_called_dormant(&self, space: SpaceId) -> bool {
        let Some(view) = self.engine.space(space).filter(|view| view.is_active) else { return false };
        let own = self.engine.device();
        let Some(dormancy) = view.roster.dormancy_of(&own) else { return false };
        // Somebody may say it of a device that is here; that stands until it has been away. What no person said
        // does not: whoever counted the days may not have heard yet that it is back.
        let was_away = || {
            let since = view.roster.dormant_since(&own);
            since.is_some_and(|since| since.millis() < self.serving.connected_since)
        };
        (dormancy.after_days.is_some() || was_away()) && !self.begins_anew(space)
    }
}

impl Checkpoints {
    fn waiting(&self, space: SpaceId) -> Option<Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).get(&space).cloned()
    }

    fn waits(&self, space: SpaceId, waiting: Waiting) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(space, waiting);
    }

    /// Nothing is waited for any more.
    pub(super) fn begun(&self, space: SpaceId) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&space);
    }

    fn refuse(&self, checkpoint: CheckpointHash) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() >= REFUSED_MAX {
            refused.clear();
        }
        refused.insert(checkpoint);
    }

    /// Whether a checkpoint was found to be false in this run.
    pub(super) fn is_refused(&self, checkpoint: &CheckpointHash) -> bool {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).contains(checkpoint)
    }

    fn is_wished(&self, space: SpaceId, is_wished: bool) {
        let mut wished = self.wished.lock().unwrap_or_else(PoisonError::into_inner);
        match is_wished {
            true => wished.insert(space),
            false => wished.remove(&space),
        };
    }

    /// Whether a person has asked to begin with a checkpoint just now.
    pub(super) fn wishes(&self, space: SpaceId) -> bool {
        self.wished.lock().unwrap_or_else(PoisonError::into_inner).contains(&space)
    }
}

#[cfg(feature = "sim")]
impl Checkpoints {
    /// How many of so many chunks may still come, see [`Space::cut_off_after`].
    pub(super) fn may_fetch(&self, count: usize) -> usize {
        let fetched = self.fetched.load(std::sync::atomic::Ordering::Relaxed);
        let max = *self.fetched_max.lock().unwrap_or_else(PoisonError::into_inner);
        let left = max.map_or(count as u64, |max| max.saturating_sub(fetched));
        usize::try_from(left).unwrap_or(count).min(count)
    }
}

#[cfg(feature = "sim")]
impl Space {
    /// Drops at once what the newest checkpoint here holds, whoever has attested it. For tests of those that
    /// come back later.
    #[doc(hidden)]
    pub async fn trim(&self) -> Result<CheckpointHash, NodeError> {
        let (space, store) = (self.id(), self.node.store());
        let held = store.checkpoints(&space)?;
        let newest = super::whole(&held).first().copied().cloned().ok_or(NodeError::Stopped)?;
        let (checkpoint, cut) = (newest.hash(), newest.fields().cut.clone());
        self.node.request(move |token| Input::Base { space, checkpoint, cut, token }).await?;
        while store.sweep(&space)? {}
        Ok(checkpoint)
    }

    /// Ops that other devices have sent in this run, of every space.
    #[doc(hidden)]
    pub async fn ops_received(&self) -> Result<u64, NodeError> {
        self.node.ask(|core| core.engine.counters().received_ops).await
    }

    /// Gets no more chunks in this run than so many, as over a connection that fails again and again. For
    /// tests of what goes on from there.
    #[doc(hidden)]
    pub fn cut_off_after(&self, chunks: Option<u64>) {
        *self.node.checkpoints().fetched_max.lock().unwrap_or_else(PoisonError::into_inner) = chunks;
    }
}

/// Words of devices of the space that read. One of this device's own is from before a backup was put back.
fn believed(words: Vec<Attestation>, standing: &Standing) -> Vec<Attestation> {
    words.into_iter().filter(|word| standing.readers.contains(&word.fields().device)).collect()
}

/// Who attests a checkpoint: having folded every op, and having begun with another's checkpoint.
fn witnesses(words: &[Attestation], of: &ManifestFields) -> (BTreeSet<DeviceId>, BTreeSet<DeviceId>) {
    let (mut full, mut repeated) = (BTreeSet::new(), BTreeSet::new());
    for word in words.iter().filter(|word| word.is_of(of)).map(Attestation::fields) {
        match word.basis {
            Basis::Log => full.insert(word.device),
            Basis::Adopted => repeated.insert(word.device),
        };
    }
    (full, repeated)
}

/// Whether enough devices attest a checkpoint, or one does and a person takes that for enough.
fn is_vouched_for(
    words: &[Attestation],
    of: &ManifestFields,
    consented: Option<[u8; 32]>,
) -> Result<(), WhyWaiting> {
    let (full, repeated) = witnesses(words, of);
    let is_consented = consented == Some(of.content) && !(full.is_empty() && repeated.is_empty());
    if full.len() >= ATTESTATIONS_NEEDED || is_consented {
        return Ok(());
    }
    Err(WhyWaiting::Unattested { attested: full.len(), needed: ATTESTATIONS_NEEDED })
}

fn waiting(manifest: &Manifest, words: &[Attestation], why: WhyWaiting) -> Waiting {
    let fields = manifest.fields();
    let (full, repeated) = witnesses(words, fields);
    Waiting {
        checkpoint: manifest.hash(),
        author: fields.author,
        op_count: fields.cut.op_count(),
        chunk_count: fields.chunks.len() as u64,
        attested_by: full.into_iter().collect(),
        repeated_by: repeated.into_iter().collect(),
        why,
    }
}

/// The state in the chunks of a checkpoint; `None` where they do not hold what its manifest says: the content as
/// it was hashed, a state of that cut and root, and every op that it points at.
fn content(store: &Store, key: &EpochKey, fields: &ManifestFields) -> Result<Option<State>, StoreError> {
    let mut hasher = ContentHasher::default();
    let (of_state, of_ops) = fields.chunks.split_at(fields.state_chunks as usize);
    let mut open = |hash: &[u8; 32]| -> Result<Option<Vec<u8>>, StoreError> {
        let sealed = store.chunk(&fields.space, hash)?;
        let piece = sealed.and_then(|sealed| chunk::open(key, &fields.space, &sealed).ok());
        Ok(piece.inspect(|piece| hasher.piece(piece)))
    };
    let mut pieces = StatePieces::default();
    for hash in of_state {
        let Some(piece) = open(hash)? else { return Ok(None) };
        pieces.push(&piece);
    }
    let Ok(mut ops) = pieces.ops() else { return Ok(None) };
    // The next pieces are opened while one is taken in: either costs about as much.
    let is_taken = std::thread::scope(|scope| {
        let (send, opened) = std::sync::mpsc::sync_channel(PIECES_AHEAD);
        scope.spawn(move || {
            for hash in of_ops {
                let piece = open(hash).map(|piece| piece.and_then(|piece| ops_of(&piece)));
                // Nobody waits for more where one was no piece.
                let is_last = !matches!(piece, Ok(Some(_)));
                if send.send(piece).is_err() || is_last {
                    return;
                }
            }
        });
        for piece in opened {
            let is_taken = piece?.is_some_and(|piece| ops.push(&piece).is_ok());
            if !is_taken {
                return Ok::<bool, StoreError>(false);
            }
        }
        Ok(true)
    })?;
    if !is_taken {
        return Ok(None);
    }
    // Its root is counted from the ops as they are taken, and is not written anywhere within.
    let Ok(mut state) = ops.finish() else { return Ok(None) };
    let is_of_cut = state.applied_all().into_iter().eq(fields.cut.iter().map(|(log, tip)| (*log, tip.seq)));
    let is_state = *state.space() == fields.space && state.root() == fields.root;
    let is_it = is_of_cut && is_state && state.counts().unknown == 0 && hasher.finish() == fields.content;
    Ok(is_it.then_some(state))
}

/// Devices that have folded every op to a checkpoint before another one begins with it unasked.
pub const ATTESTATIONS_NEEDED: usize = 2;

/// Opened pieces that wait to be taken in.
const PIECES_AHEAD: usize = 4;

/// A device that has not looked into its drop box for so long was away.
const AWAY_AFTER: std::time::Duration = std::time::Duration::from_secs(3_600);

/// Manifests that are kept while a device waits for one of them, before those that came first go.
const HELD_MAX: usize = 8;

/// Checkpoints that are remembered to be false.
const REFUSED_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Identity;
    use crate::model::{KeyId, Root};
    use crate::wire::checkpoint::AttestationFields;

    fn identity(n: u8) -> Identity {
        Identity::from_secret(&[n; 32])
    }

    fn fields(space: SpaceId, cut: Frontier) -> ManifestFields {
        ManifestFields {
            space,
            fold_version: FOLD_VERSION,
            parent: None,
            root: Root::from_bytes([1; 32]),
            content: [2; 32],
            key_id: KeyId::from_bytes([3; 16]),
            author: identity(1).device(),
            cut,
            state_chunks: 0,
            chunks: Vec::new(),
        }
    }

    fn word(of: &ManifestFields, device: u8, basis: Basis) -> Attestation {
        let fields = AttestationFields {
            scope: of.space.tag(),
            device: DeviceId::from_bytes([0; 32]),
            fold_version: of.fold_version,
            cut_digest: of.cut.digest(),
            root: of.root,
            content: of.content,
            basis,
        };
        Attestation::sign(&identity(device), fields)
    }

    #[test]
    fn two_devices_that_folded_every_op_vouch_and_one_does_only_where_a_person_says_so() {
        let of = fields(SpaceId::from_bytes([9; 32]), Frontier::new());
        let other = ManifestFields { root: Root::from_bytes([7; 32]), ..of.clone() };
        let full = |device| word(&of, device, Basis::Log);
        let missing = |attested| Err(WhyWaiting::Unattested { attested, needed: 2 });
        let check = |words: &[Attestation], consented| is_vouched_for(words, &of, consented);

        assert_eq!(check(&[full(1), full(2)], None), Ok(()));
        assert_eq!(check(&[full(1), full(1)], None), missing(1), "one device twice");
        assert_eq!(check(&[full(1), word(&of, 2, Basis::Adopted)], None), missing(1), "repeated, not folded");
        assert_eq!(check(&[full(1), word(&other, 2, Basis::Log)], None), missing(1), "another root");
        assert_eq!(check(&[], Some(of.content)), missing(0), "nobody attests it");
        assert_eq!(check(&[full(1)], Some([8; 32])), missing(1), "the word was for another one");
        assert_eq!(check(&[full(1)], Some(of.content)), Ok(()));
        assert_eq!(check(&[word(&of, 2, Basis::Adopted)], Some(of.content)), Ok(()));
    }

    #[test]
    fn nobody_is_believed_who_does_not_read_the_space() {
        let of = fields(SpaceId::from_bytes([9; 32]), Frontier::new());
        let standing = Standing {
            vouches: true,
            reads: true,
            begins_anew: true,
            frontier: Frontier::new(),
            key: None,
            keys: Vec::new(),
            readers: [1, 3].map(|n| identity(n).device()).into(),
        };

        let words = believed((1..=4).map(|n| word(&of, n, Basis::Log)).collect(), &standing);

        let devices: Vec<DeviceId> = words.iter().map(|word| word.fields().device).collect();
        assert_eq!(devices, [1, 3].map(|n| identity(n).device()), "this one too, from before a backup");
    }

    #[test]
    fn what_waits_says_what_for_and_whether_it_passes() {
        let device = DeviceId::from_bytes([1; 32]);
        let passing = [
            WhyWaiting::Unattested { attested: 1, needed: 2 },
            WhyWaiting::Fetching { missing: 3 },
            WhyWaiting::KeyMissing,
            WhyWaiting::LeavesOut { device, op_count: 2 },
        ];
        let standing = [
            WhyWaiting::Version { found: 9, known: 3 },
            WhyWaiting::OtherHistory { device },
            WhyWaiting::Content,
            WhyWaiting::Refused(BaseRefused::Behind),
        ];

        assert!(passing.iter().all(WhyWaiting::is_passing));
        assert!(!standing.iter().any(WhyWaiting::is_passing));
        assert_eq!(passing[0].to_string(), "1 of the 2 devices that are asked for attest it");
    }
}
