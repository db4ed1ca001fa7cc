//! Dropping history: what holds it back, doing it, and doing it by itself.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::time::Duration;

use tracing::{debug, info};

use super::checkpoint::CheckpointInfo;
use super::error::NodeError;
use super::handle::{Inner, Node};
use super::space::{Place, Space};
use crate::clock;
use crate::model::{DeviceId, Wall};
use crate::store::{Moments, Wholeness};
use crate::sync::gc::{GcHold, GcStanding, Proposal, choose, is_checkpoint_due};
use crate::wire::checkpoint::{CheckpointHash, Manifest};

/// Whether the time in which a mistake can be noticed is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grace {
    /// It is.
    Kept,
    /// It is not; everything else that holds history back still does.
    Waived,
}

/// What is to be said of dropping history.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct GcReport {
    /// The checkpoint that this is about: of those that are whole here the newest that nothing holds back, or else the
    /// one that has waited longest for its days to pass, or else the newest.
    pub checkpoint: Option<CheckpointInfo>,
    /// The one that would be taken if the days were not waited for.
    pub if_waived: Option<CheckpointInfo>,
    /// The checkpoint that the history here begins with.
    pub base: Option<CheckpointHash>,
    /// Ops that would go from the log.
    pub ops: u64,
    /// About how many bytes that is on this disk.
    pub bytes: u64,
    /// What holds it back; nothing does where this is empty.
    pub holds: Vec<GcHold>,
    /// Since when every device that is waited for vouches for the checkpoint, in Unix milliseconds.
    pub vouched_since: Option<u64>,
}

/// What dropping history came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Dropped {
    /// The checkpoint that the history begins with now.
    pub base: CheckpointHash,
    /// Ops that went from the log.
    pub ops: u64,
    /// The store file before, in bytes.
    pub bytes_before: u64,
    /// And after.
    pub bytes_after: u64,
}

impl Space {
    /// What holds the history back that a checkpoint could take the place of, and how much that is.
    ///
    /// # Errors
    /// [`NodeError::Store`], [`NodeError::Stopped`].
    pub async fn gc_why(&self) -> Result<GcReport, NodeError> {
        let _turn = self.node.checkpoints().turn().await;
        let all = self.standings().await?;
        let waived = self.chosen(&all, Grace::Waived).filter(|found| found.standing.is_free(true));
        let if_waived = waived.and_then(|found| found.info.clone());
        self.report(self.chosen(&all, Grace::Kept), if_waived).await
    }

    /// Drops what the newest checkpoint has taken the place of that nothing holds back; the file is smaller when this
    /// returns.
    ///
    /// # Errors
    /// [`NodeError::GcHeld`] with everything that stands against it, [`NodeError::Refused`],
    /// [`NodeError::Store`], [`NodeError::Stopped`].
    pub async fn gc_run(&self, grace: Grace) -> Result<Dropped, NodeError> {
        let turn = self.node.checkpoints().turn().await;
        let all = self.standings().await?;
        let found = self.chosen(&all, grace).ok_or(NodeError::Stopped)?;
        let manifest = match &found.manifest {
            Some(manifest) if found.standing.is_free(grace == Grace::Waived) => manifest,
            _ => return Err(NodeError::GcHeld { holds: found.standing.holds.clone() }),
        };
        let bytes_before = self.node.store().file_bytes();
        self.begin_at(manifest).await?;
        drop(turn);
        let (store, space) = (self.node.store().clone(), self.id());
        let sweep = move || {
            while store.sweep(&space)? {}
            store.compact()?;
            Ok::<u64, NodeError>(store.file_bytes())
        };
        let bytes_after = self.node.blocking(sweep).await?;
        let ops = found.standing.ops;
        info!(ops, bytes_before, bytes_after, "history was dropped");
        Ok(Dropped { base: manifest.hash(), ops, bytes_before, bytes_after })
    }

    /// How it stands with every whole checkpoint that is beyond what the history begins with, the newest first; with
    /// the newest where there is none, and with none where there is none at all.
    async fn standings(&self) -> Result<Vec<Standing>, NodeError> {
        let (space, store) = (self.id(), self.node.store());
        let floor = store.base(&space).map_or(0, |base| base.floor.op_count());
        let held = store.checkpoints(&space)?;
        let manifest_of = |info: &CheckpointInfo| {
            held.iter().map(|held| &held.manifest).find(|manifest| manifest.hash() == info.hash).cloned()
        };
        let whole = self.checkpoints()?.into_iter().filter(|info| info.is_whole);
        let asked = whole.enumerate().filter(|(at, info)| *at == 0 || info.op_count > floor);
        let mut asked: Vec<_> = asked.map(|(_, info)| (manifest_of(&info), Some(info))).collect();
        if asked.is_empty() {
            asked.push((None, None));
        }
        let mut all = Vec::new();
        for (manifest, info) in asked {
            let standing = self.standing(manifest.as_ref(), info.as_ref()).await?;
            all.push(Standing { manifest, info, standing });
        }
        Ok(all)
    }

    fn chosen<'a>(&self, all: &'a [Standing], grace: Grace) -> Option<&'a Standing> {
        let standings: Vec<GcStanding> = all.iter().map(|found| found.standing.clone()).collect();
        choose(&standings, grace == Grace::Waived).map(|at| &all[at])
    }

    async fn standing(
        &self,
        manifest: Option<&Manifest>,
        info: Option<&CheckpointInfo>,
    ) -> Result<GcStanding, NodeError> {
        let (space, store) = (self.id(), self.node.store());
        let moments = match manifest {
            Some(manifest) => store.moments(&space, &manifest.fields().content)?,
            None => Moments::default(),
        };
        let attested_by: BTreeSet<DeviceId> =
            info.iter().flat_map(|info| info.attested_by.iter().copied()).collect();
        let (asked_of, now) = (manifest.cloned(), clock::wall());
        let asked = self.node.ask(move |core| {
            let proposal = asked_of.as_ref().map(|manifest| Proposal {
                checkpoint: manifest.hash(),
                cut: &manifest.fields().cut,
                attested_by: &attested_by,
                whole_since: moments.whole,
                vouched_since: moments.vouched,
            });
            core.engine.gc_standing(space, proposal.as_ref(), now, core.gc_grace)
        });
        let standing = asked.await?.ok_or(NodeError::Stopped)?;
        if let Some(manifest) = manifest {
            self.note(manifest, moments, &standing, now)?;
        }
        Ok(standing)
    }

    async fn report(
        &self,
        found: Option<&Standing>,
        if_waived: Option<CheckpointInfo>,
    ) -> Result<GcReport, NodeError> {
        let Standing { manifest, info, standing } = found.ok_or(NodeError::Stopped)?;
        let (space, store) = (self.id(), self.node.store());
        let bytes = match manifest.as_ref().filter(|_| standing.ops > 0) {
            Some(manifest) => {
                let (store, cut) = (store.clone(), manifest.fields().cut.clone());
                self.node.blocking(move || store.batch_bytes(&space, &cut)).await?
            }
            None => 0,
        };
        Ok(GcReport {
            checkpoint: info.clone(),
            if_waived,
            base: store.base(&space).map(|base| base.checkpoint),
            ops: standing.ops,
            bytes,
            holds: standing.holds.clone(),
            vouched_since: standing.vouched_since.map(Wall::as_millis),
        })
    }

    /// Makes durable since when all vouch for a checkpoint; a restart does not begin the time anew. One that they do
    /// not vouch for any more (a device is waited for again) gives up its place to a newer one.
    fn note(
        &self,
        manifest: &Manifest,
        known: Moments,
        standing: &GcStanding,
        now: Wall,
    ) -> Result<(), NodeError> {
        let is_beyond = standing.ops > 0;
        let vouched = if is_beyond { standing.vouched_since } else { known.vouched };
        let moments = Moments { whole: Some(known.whole.unwrap_or(now)), vouched };
        if moments != known {
            self.node.store().note_moments(&self.id(), &manifest.fields().content, moments)?;
        }
        Ok(())
    }

    /// Makes a checkpoint where enough has become stable since the last one, and drops what may go.
    async fn tend(&self) -> Result<(), NodeError> {
        if self.is_checkpoint_due().await? {
            match self.checkpoint().await {
                Ok(published) if published.is_new => {
                    info!(checkpoint = %published.checkpoint.hash, "a checkpoint was made");
                }
                Ok(_) => {}
                Err(NodeError::NoCheckpoint { why }) => debug!(%why, "no checkpoint is made"),
                Err(error) => return Err(error),
            }
        }
        match self.gc_run(Grace::Kept).await {
            Ok(_) | Err(NodeError::GcHeld { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn is_checkpoint_due(&self) -> Result<bool, NodeError> {
        let (space, store) = (self.id(), self.node.store());
        let held = store.checkpoints(&space)?;
        let newest = held
            .iter()
            .filter(|held| held.wholeness == Wholeness::Whole)
            .max_by_key(|held| held.manifest.fields().cut.op_count());
        let (before, age) = match newest {
            Some(held) => {
                let fields = held.manifest.fields();
                let whole = store.moments(&space, &fields.content)?.whole;
                let age = whole.map_or(0, |at| clock::wall().as_millis().saturating_sub(at.as_millis()));
                (fields.cut.clone(), Duration::from_millis(age))
            }
            // The first one is made once there is enough, however old the space is.
            None => Default::default(),
        };
        let asked = self.node.ask(move |core| {
            let stable = core.engine.stable_frontier(space)?;
            let own = core.engine.device();
            let view = core.engine.space(space)?;
            let mut readers =
                view.roster.members().filter(|member| !member.is_dormant() && member.role.holds_keys());
            let rank = u32::try_from(readers.position(|member| member.device == own)?).ok()?;
            Some((stable.ops_beyond(&before), rank))
        });
        Ok(asked.await?.is_some_and(|(ops, rank)| is_checkpoint_due(ops, age, rank)))
    }
}

#[cfg(feature = "sim")]
impl Space {
    /// Has this device count a day. For tests.
    ///
    /// # Errors
    /// [`NodeError::Stopped`].
    #[doc(hidden)]
    pub async fn pass_day(&self) -> Result<(), NodeError> {
        let space = self.id();
        let pass = move |core: &mut super::core::Core| {
            core.engine.pass_day(&clock::now(), space);
            core.tell(crate::sync::Input::Tick);
        };
        self.node.ask(pass).await
    }

    /// Has days passed since all have vouched for checkpoints. For tests.
    ///
    /// # Errors
    /// [`NodeError::Store`].
    #[doc(hidden)]
    pub fn pass_grace(&self, by: Duration) -> Result<(), NodeError> {
        let (space, store) = (self.id(), self.node.store());
        for held in store.checkpoints(&space)? {
            let content = held.manifest.fields().content;
            let before = store.moments(&space, &content)?;
            let earlier = |at: Wall| Wall::from_millis(at.as_millis().saturating_sub(by.as_millis() as u64));
            let moments = Moments { vouched: before.vouched.map(earlier), ..before };
            store.note_moments(&space, &content, moments)?;
        }
        Ok(())
    }

    /// What a node that runs does by itself every quarter of an hour. For tests of it.
    ///
    /// # Errors
    /// As [`Space::gc_run`].
    #[doc(hidden)]
    pub async fn tend_history(&self) -> Result<(), NodeError> {
        self.tend().await
    }
}

/// How it stands with dropping history for a checkpoint.
struct Standing {
    manifest: Option<Manifest>,
    info: Option<CheckpointInfo>,
    standing: GcStanding,
}

/// Looks after the length of the history while the node runs.
pub(super) async fn watch(node: Weak<Inner>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(node) = Node::upgrade(&node) else { return };
        let Ok(spaces) = node.ask(|core| core.engine.active_spaces()).await else { return };
        for space in spaces {
            let space = Space { node: node.clone(), place: Place::Fixed(space) };
            if let Err(error) = space.tend().await {
                debug!(%error, "the history was not tended");
            }
        }
    }
}

/// Between two looks: a checkpoint is made at most that often.
const LOOK_EVERY: Duration = Duration::from_secs(15 * 60);
