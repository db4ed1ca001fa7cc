//! Reads what this device holds, to find what a checkpoint leaves out of it (see [`StraySearch`]).

use bytes::Bytes;

use super::Standing;
use super::bootstrap::parted;
use crate::crypto::{EpochKey, Opener, SealedBatch};
use crate::fold::State;
use crate::model::{DeviceId, Frontier, LogId, Seq, SpaceId};
use crate::node::error::NodeError;
use crate::node::space::Space;
use crate::store::{Store, StoreError};
use crate::sync::{Input, Stray, StraySearch};
use crate::wire::checkpoint::ManifestFields;

/// Ops of another device that a checkpoint leaves out.
pub(super) struct LeftOut {
    /// Whose.
    pub device: DeviceId,
    /// How many of that device.
    pub op_count: u64,
}

impl Space {
    /// Ops of devices that may still write which the state in a checkpoint does not know, and no log above its cut
    /// holds. The engine gives them to whoever has written them.
    pub(super) async fn look_for_strays(
        &self,
        standing: &Standing,
        state: State,
        fields: &ManifestFields,
    ) -> Result<(State, Option<LeftOut>), NodeError> {
        let (space, own) = (self.id(), self.node.device());
        // It may have grown since the chunks began to come.
        let asked = self.node.ask(move |core| Some(core.engine.space(space)?.frontier.clone()));
        let frontier = asked.await?.ok_or(NodeError::Stopped)?;
        let log_count = frontier.log_count();
        let held = Held {
            space,
            store: self.node.store().clone(),
            keys: standing.keys.clone(),
            frontier,
            authors: standing.readers.iter().copied().filter(|device| *device != own).collect(),
        };
        let cut = fields.cut.clone();
        let look = move || held.strays(&state, &cut).map(|found| (state, found));
        let (state, found) = self.node.blocking(look).await?;
        let left_out = found.first().map(|(first, _)| {
            let of_device = found.iter().filter(|(stray, _)| stray.log.device == first.log.device);
            LeftOut { device: first.log.device, op_count: of_device.map(|(_, count)| count).sum() }
        });
        let strays: Vec<Stray> = found.into_iter().map(|(stray, _)| stray).collect();
        let told = self.node.ask(move |core| {
            core.serving.strays.insert(space, log_count);
            if strays.is_empty() {
                core.serving.strays.remove(&space);
            }
            core.tell(Input::Strays { space, strays });
        });
        told.await?;
        Ok((state, left_out))
    }
}

/// What a device holds of a space.
struct Held {
    space: SpaceId,
    store: Store,
    keys: Vec<EpochKey>,
    frontier: Frontier,
    /// Other devices that may write.
    authors: Vec<DeviceId>,
}

impl Held {
    fn strays(&self, state: &State, cut: &Frontier) -> Result<Vec<(Stray, u64)>, StoreError> {
        let mut search = StraySearch::new(state);
        let floor = self.store.base(&self.space).map(|base| base.floor).unwrap_or_default();
        let parted = parted(&self.store, &self.space, cut, &self.frontier)?;
        for (log, _) in self.frontier.iter().filter(|(log, _)| !parted.contains(log)) {
            let after = cut.tip(log).seq.max(floor.tip(log).seq);
            self.each(log, after, Seq::new(u64::MAX), &mut |first, op_count, body| {
                search.above(log, first, op_count, body);
            })?;
        }
        for (log, end) in cut.iter().filter(|(log, _)| self.authors.contains(&log.device)) {
            // What comes after the cut goes with what is before it.
            let end = if parted.contains(log) { Seq::new(u64::MAX) } else { end.seq };
            self.each(log, floor.tip(log).seq, end, &mut |first, op_count, body| {
                search.within(log, first, op_count, body);
            })?;
        }
        Ok(search.finish())
    }

    /// Shows every batch of a log that begins after one position and not after another, as far as it can be read:
    /// what waits for a key is in no state, here or there.
    fn each(
        &self,
        log: &LogId,
        after: Seq,
        end: Seq,
        show: &mut dyn FnMut(Seq, u32, &Bytes),
    ) -> Result<(), StoreError> {
        let (mut opener, mut after) = (Opener::new(), after);
        let tip = self.frontier.tip(log).seq;
        while let Some(run) = self.store.run(&self.space, log, after, tip, RUN_BYTES)? {
            let Ok(batches) = SealedBatch::parse_run(run.bytes) else { return Ok(()) };
            for batch in &batches {
                let header = batch.header();
                if header.first > end {
                    return Ok(());
                }
                let key = self.keys.iter().find(|key| key.id() == header.key_id);
                if let Some(body) = key.and_then(|key| opener.open(key, batch).ok()) {
                    show(header.first, header.op_count, &body.into());
                }
            }
            after = run.last;
        }
        Ok(())
    }
}

/// How much of a log is read at once.
const RUN_BYTES: usize = 1024 * 1024;
