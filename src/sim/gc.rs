//! History that is dropped in a world: who makes a checkpoint, who attests it, who drops what it holds.
//!
//! Chunks travel by magic here, between real shells they are asked for. What matters is what the engines make
//! of it: that nothing which was answered for is lost, that whoever comes late or from a backup begins where
//! the others do, and that every device ends with one root, whatever was dropped where and when. The disks of
//! this world keep what was dropped in an archive that only the checkers see.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use super::check::Violation;
use super::disk::{Disk, Kept};
use super::host::Request;
use super::shell::{first_state, fold_disk, state_of};
use super::world::World;
use crate::fold::State;
use crate::fold::checkpoint::ContentHasher;
use crate::model::{DeviceId, Frontier, SpaceId, Wall};
use crate::sync::gc::Proposal;
use crate::wire::checkpoint::CheckpointHash;

/// A checkpoint that somebody has made.
#[derive(Debug)]
pub(super) struct Made {
    pub space: SpaceId,
    pub hash: CheckpointHash,
    /// The checkpoint that it was folded onto.
    pub parent: Option<CheckpointHash>,
    pub kept: Arc<Kept>,
    /// The devices that have folded their own logs to the same.
    pub attested_by: BTreeSet<DeviceId>,
    /// Since when a device knows that all vouch for it, by its clock.
    pub vouched_since: BTreeMap<usize, Wall>,
}

impl World {
    /// Somebody makes a checkpoint, attests one, or drops what one holds.
    pub(super) fn tend_history(&mut self, host: usize) -> Result<(), Violation> {
        let engine = self.hosts[host].life.as_ref().map(|life| &life.engine);
        let space = engine.and_then(|engine| engine.space(engine.personal()?));
        // What a device wrote before it joined is carried over op by op, from its log.
        let Some(space) = space.filter(|view| view.roster.member_count() > 1).map(|view| view.space) else {
            return Ok(());
        };
        if self.rng.happens(500) {
            self.make_checkpoint(host, space);
        }
        // As a shell does whenever it is connected; here for everybody at once, most of the time.
        for other in 0..self.hosts.len() {
            if self.rng.happens(700) {
                self.attest(other, space)?;
            }
        }
        self.drop_history(host, space);
        Ok(())
    }

    fn make_checkpoint(&mut self, host: usize, space: SpaceId) {
        let device = self.hosts[host].device();
        let Some(life) = &self.hosts[host].life else { return };
        let cut = life.engine.stable_frontier(space).filter(|cut| cut.log_count() > 0);
        let is_in_order = life.engine.diverged(space).is_empty() && life.engine.unmet(space).is_empty();
        let (Some(cut), true) = (cut, is_in_order) else { return };
        let disk = &self.hosts[host].disk;
        // What was acknowledged may be of a history that has fallen since.
        if !disk.holds_cut(&space, &cut) {
            return;
        }
        let parent = disk.base(&space).map(|base| base.checkpoint);
        let Some((hash, chunks)) = fold_to(disk, first_state(disk, &space), &cut, parent) else { return };
        if self.hosts[host].is_blind || self.checks.checkpoints.iter().any(|made| made.hash == hash) {
            return;
        }
        let (archive, archive_keys) = (disk.archive_to(&space, &cut), disk.archive_keys(&space));
        let kept = Arc::new(Kept { cut, chunks, archive, archive_keys });
        let attested_by = BTreeSet::from([device]);
        let vouched_since = BTreeMap::new();
        self.checks.checkpoints.push(Made { space, hash, parent, kept, attested_by, vouched_since });
    }

    fn attest(&mut self, host: usize, space: SpaceId) -> Result<(), Violation> {
        let device = self.hosts[host].device();
        let Some(index) = self.some_checkpoint(space) else { return Ok(()) };
        let made = &self.checks.checkpoints[index];
        let disk = &self.hosts[host].disk;
        let vouches = self.hosts[host].life.as_ref().is_some_and(|life| life.engine.unmet(space).is_empty());
        if self.hosts[host].is_blind || !vouches || !disk.holds_cut(&space, &made.kept.cut) {
            return Ok(());
        }
        // It is folded onto what the other folded it onto, where that much is still in the log here.
        let parent = made.parent.and_then(|parent| self.checks.made(&parent));
        let reach = parent.map(|parent| parent.kept.cut.clone()).unwrap_or_default();
        let floor = disk.base(&space).map(|base| base.floor.clone()).unwrap_or_default();
        if !floor.iter().all(|(log, tip)| tip.seq <= reach.tip(log).seq) {
            return Ok(());
        }
        let first = parent.map_or_else(|| State::new(space), |parent| state_of(&parent.kept.chunks));
        let Some((found, _)) = fold_to(disk, first, &made.kept.cut, made.parent) else { return Ok(()) };
        if found != made.hash {
            return Err(Violation::CheckpointsDiffer { device: host, space });
        }
        self.checks.checkpoints[index].attested_by.insert(device);
        Ok(())
    }

    fn drop_history(&mut self, host: usize, space: SpaceId) {
        let Some(index) = self.some_checkpoint(space) else { return };
        let made = &self.checks.checkpoints[index];
        let (hash, kept) = (made.hash, Arc::clone(&made.kept));
        let wall = self.hosts[host].wall(self.time());
        let Some(life) = &self.hosts[host].life else { return };
        let proposal = Proposal {
            checkpoint: hash,
            cut: &kept.cut,
            attested_by: &made.attested_by,
            whole_since: None,
            vouched_since: made.vouched_since.get(&host).copied(),
        };
        let grace = if self.knobs.months > 0 { GRACE } else { Duration::ZERO };
        let standing = life.engine.gc_standing(space, Some(&proposal), wall, grace);
        if let Some(since) = standing.as_ref().and_then(|standing| standing.vouched_since) {
            self.checks.checkpoints[index].vouched_since.insert(host, since);
        }
        let is_ready = standing.is_some_and(|standing| standing.holds.is_empty());
        if is_ready && self.hosts[host].disk.holds_cut(&space, &kept.cut) {
            self.hosts[host].request(Request::BeginAt(space, hash));
            self.wake(host);
        }
    }

    /// One of the last few.
    fn some_checkpoint(&mut self, space: SpaceId) -> Option<usize> {
        let of_space = |index: &usize| self.checks.checkpoints[*index].space == space;
        let all: Vec<usize> = (0..self.checks.checkpoints.len()).rev().filter(of_space).take(3).collect();
        (!all.is_empty()).then(|| all[self.rng.index(all.len())])
    }
}

/// What the log on a disk folds to at a cut, named by its content; `None` where it does not reach there, or
/// begins after it.
fn fold_to(
    disk: &Disk,
    mut state: State,
    cut: &Frontier,
    parent: Option<CheckpointHash>,
) -> Option<(CheckpointHash, Vec<Vec<u8>>)> {
    let space = *state.space();
    fold_disk(&mut state, &space, disk, cut);
    let applied = state.applied_all();
    let is_there = applied.len() == cut.log_count()
        && cut.iter().all(|(log, tip)| applied.get(log).copied() == Some(tip.seq));
    if !is_there {
        return None;
    }
    // No policy is in force in this world.
    let laid = state.lay_down::<Infallible>(&mut |_| Ok(None));
    laid.unwrap_or_else(|never| match never {});
    let (mut chunks, mut content) = (Vec::new(), ContentHasher::default());
    state.encode(&mut |chunk| {
        content.piece(chunk);
        chunks.push(chunk.to_vec());
    });
    let mut name = blake3::Hasher::new();
    name.update(&content.finish());
    name.update(&cut.digest());
    name.update(parent.as_ref().map_or(&[0; 32], |parent| parent.as_bytes()));
    Some((CheckpointHash::from_bytes(*name.finalize().as_bytes()), chunks))
}

/// How long history stays once all vouch for a checkpoint, in a world of months.
const GRACE: Duration = Duration::from_secs(7 * 86_400);
