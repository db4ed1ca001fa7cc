//! What a checkpoint leaves out of what this device holds (see [`StraySearch`]), and which histories give way to it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tracing::warn;

use super::Standing;
use crate::crypto::{BatchError, EpochKey, Opener, SealedBatch};
use crate::fold::State;
use crate::model::{DeviceId, Frontier, KeyId, LogId, Seq, SpaceId};
use crate::node::error::NodeError;
use crate::node::space::Space;
use crate::store::{Part, Store, StoreError};
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
        let asked = self
            .node
            .ask(move |core| Some((core.engine.space(space)?.frontier.clone(), core.engine.fallen(space))));
        let (frontier, fallen) = asked.await?.ok_or(NodeError::Stopped)?;
        let log_count = frontier.log_count();
        let held = Held {
            space,
            store: self.node.store().clone(),
            keys: standing.keys.clone(),
            frontier,
            fallen,
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

    /// Logs of which another history is held here than the checkpoint is of.
    pub(super) async fn parted(&self, fields: &ManifestFields) -> Result<Vec<LogId>, NodeError> {
        let (space, store, fields) = (self.id(), self.node.store().clone(), fields.clone());
        let asked = self.node.ask(move |core| Some(core.engine.space(space)?.frontier.clone()));
        let frontier = asked.await?.ok_or(NodeError::Stopped)?;
        Ok(self.node.blocking(move || parted(&store, &fields.space, &fields.cut, &frontier)).await?)
    }

    /// Drops histories of logs of others that are not those which the checkpoint is of, where nothing in them would
    /// be lost.
    pub(super) async fn give_way(&self, fields: &ManifestFields) -> Result<(), NodeError> {
        let (space, own) = (self.id(), self.node.device());
        let mut version = self.node.version();
        version.mark_unchanged();
        let mut parted = self.parted(fields).await?;
        parted.retain(|log| log.device != own);
        for log in parted.iter().copied() {
            warn!(device = %log.device.short(), "another history of a log stands; nothing of the one here is lost");
            self.node.ask(move |core| core.tell(Input::GiveWay { space, log })).await?;
        }
        let dropped = async {
            while self.parted(fields).await?.iter().any(|log| log.device != own) {
                version.changed().await.map_err(|_| NodeError::Stopped)?;
                version.mark_unchanged();
            }
            Ok(())
        };
        // A disk that refuses it is asked again the next time.
        tokio::time::timeout(GIVE_WAY_MAX, dropped).await.unwrap_or(Ok(()))
    }
}

/// What a device holds of a space.
struct Held {
    space: SpaceId,
    store: Store,
    keys: Vec<EpochKey>,
    frontier: Frontier,
    /// Histories that have fallen, by log, from where on.
    fallen: BTreeMap<LogId, Seq>,
    /// Other devices that may write.
    authors: Vec<DeviceId>,
}

impl Held {
    fn strays(&self, state: &State, cut: &Frontier) -> Result<Vec<(Stray, u64)>, StoreError> {
        let mut search = StraySearch::new(state);
        let floor = self.store.base(&self.space).map(|base| base.floor).unwrap_or_default();
        let parted = parted(&self.store, &self.space, cut, &self.frontier)?;
        let key = |id: &KeyId| self.keys.iter().find(|key| key.id() == *id).cloned();
        let of = Readable { store: &self.store, space: self.space, frontier: &self.frontier, key: &key };
        for (log, _) in self.frontier.iter().filter(|(log, _)| !parted.contains(log)) {
            let after = cut.tip(log).seq.max(floor.tip(log).seq);
            of.each(log, after, Seq::new(u64::MAX), &mut |first, op_count, body| {
                body.inspect(|body| search.above(log, first, op_count, body));
            })?;
        }
        for (log, end) in cut.iter().filter(|(log, _)| self.authors.contains(&log.device)) {
            // What comes after the cut goes with what is before it.
            let end = if parted.contains(log) { Seq::new(u64::MAX) } else { end.seq };
            let fallen = self.fallen.get(log);
            of.each(log, floor.tip(log).seq, end, &mut |first, op_count, body| match body {
                Some(body) => search.within(log, first, op_count, body),
                // Its author says when it has it again.
                None if fallen.is_some_and(|to| first > *to) => search.unreadable(log, first, op_count),
                // What waits for a key is in no state, here or there.
                None => {}
            })?;
        }
        Ok(search.finish())
    }
}

/// The logs of a space, as far as they are stored and keys are held.
pub(in crate::node) struct Readable<'a> {
    pub store: &'a Store,
    pub space: SpaceId,
    pub frontier: &'a Frontier,
    pub key: &'a dyn Fn(&KeyId) -> Option<EpochKey>,
}

impl Readable<'_> {
    /// Shows every batch of a log that begins after one position and not after another: where it begins, how many
    /// ops are in it, and its body if that can be read.
    pub fn each(
        &self,
        log: &LogId,
        after: Seq,
        end: Seq,
        show: &mut dyn FnMut(Seq, u32, Option<&Bytes>),
    ) -> Result<(), StoreError> {
        let (mut opener, mut after) = (Opener::new(), after);
        let tip = self.frontier.tip(log).seq;
        while let Some(run) = self.store.run(&self.space, log, after, tip, RUN_BYTES)? {
            let damaged = |error: BatchError| StoreError::Damaged {
                what: Part::Batch { log: *log, seq: after.next() },
                source: Some(error.into()),
            };
            let batches = SealedBatch::parse_run(run.bytes).map_err(damaged)?;
            for batch in &batches {
                let header = batch.header();
                if header.first > end {
                    return Ok(());
                }
                let key = (self.key)(&header.key_id);
                let body = key.and_then(|key| opener.open(&key, batch).ok()).map(Bytes::from);
                show(header.first, header.op_count, body.as_ref());
            }
            after = run.last;
        }
        Ok(())
    }
}

/// How much of a log is read at once.
const RUN_BYTES: usize = 1024 * 1024;

/// How long a commit that drops a history is waited for.
const GIVE_WAY_MAX: Duration = Duration::from_secs(30);

/// Logs of which another history is held here than a cut is of.
fn parted(
    store: &Store,
    space: &SpaceId,
    cut: &Frontier,
    frontier: &Frontier,
) -> Result<Vec<LogId>, StoreError> {
    let floor = store.base(space).map(|base| base.floor).unwrap_or_default();
    let mut parted = Vec::new();
    for (log, tip) in cut.iter() {
        let held = frontier.tip(log);
        // Of an end below the floor nothing is here to be held against it; whether it may be begun with says the engine.
        let is_out_of_reach = held.seq < tip.seq || tip.seq < floor.tip(log).seq;
        if is_out_of_reach || held == *tip || floor.tip(log) == *tip {
            continue;
        }
        let at = if held.seq == tip.seq { None } else { store.batch_at(space, log, tip.seq)? };
        if !at.is_some_and(|batch| batch.header().last() == tip.seq && batch.link() == tip.hash) {
            parted.push(*log);
        }
    }
    Ok(parted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Tip, TipHash};
    use crate::store::testing::{Author, store};

    #[test]
    fn a_cut_is_held_against_every_log_that_is_here() {
        let mut author = Author::new(1);
        let (store, _) = store(&mut author);
        let batches = author.batches(3, 2);
        let all = author.write(batches.clone());
        author.commit(&store, vec![all]);
        let held: Frontier = [(author.log, author.tip())].into_iter().collect();
        let strange = LogId::from_bytes(&[7; 40]);
        let tip = |seq, hash| Tip { seq: Seq::new(seq), hash };
        let end = |index: usize| tip(2 * index as u64 + 2, batches[index].link());
        let other = TipHash::from_bytes([5; 32]);
        let check = |log, tip| {
            let cut: Frontier = [(log, tip)].into_iter().collect();
            let parted = parted(&store, &author.space, &cut, &held).unwrap();
            parted.first().map(|log| log.device)
        };

        for fits in [end(0), end(1), end(2), tip(99, other)] {
            assert_eq!(check(author.log, fits), None, "{fits:?}");
        }
        assert_eq!(check(strange, tip(4, other)), None, "nothing of it is here");
        for parts in [tip(2, other), tip(6, other), tip(3, batches[1].link())] {
            assert_eq!(check(author.log, parts), Some(author.log.device), "{parts:?}");
        }
    }
}
