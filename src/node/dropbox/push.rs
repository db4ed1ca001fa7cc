//! Leaving what others may lack, and tidying up what this device has left.

use bytes::Bytes;

use super::round::{Memory, Round, RoundError, Tried};
use crate::clock;
use crate::dropbox::{Kind, LogTag, ObjectName, object};
use crate::model::{LogId, Seq, Tip};
use crate::node::core::Holdings;
use crate::node::error::NodeError;
use crate::store::StoreError;
use crate::wire::bundle::{self, CHUNK_BYTES_WANTED, ChunkEntry};

/// Batches that go into one object.
struct Load {
    chunks: Vec<(ChunkEntry, Bytes)>,
    end: Tip,
}

impl Round<'_> {
    pub async fn push(&mut self, memory: &mut Memory) -> Result<(), RoundError> {
        // What was found damaged does not count as being there.
        let damaged = memory.tried.iter().filter(|(_, tried)| matches!(tried, Tried::Damaged(_)));
        let damaged: Vec<ObjectName> = damaged.map(|(name, _)| *name).collect();
        damaged.iter().for_each(|name| self.inventory.remove(name));
        let space = self.space;
        let holdings = self.node.ask(move |core| core.holdings(space)).await?.ok_or(NodeError::Stopped)?;
        let logs: Vec<(LogId, Tip)> = holdings.frontier.iter().map(|(log, tip)| (*log, *tip)).collect();
        let left = self.left_cut(&self.node.store().checkpoints(&space)?);
        let mut starts = Vec::new();
        for (log, tip) in logs {
            let start = self.covered(log, tip, left.tip(&log).seq)?;
            starts.push((log, tip, start));
        }
        let mut pending: u64 =
            starts.iter().map(|(_, tip, start)| tip.seq.get().saturating_sub(start.get())).sum();
        self.dropbox.show(|shown| shown.pending_ops = pending);
        self.push_roster(&holdings).await?;
        for (log, tip, start) in starts {
            let mut after = start;
            while after < tip.seq {
                let before = after;
                after = self.push_log(log, after, tip).await?;
                pending = pending.saturating_sub(after.get() - before.get());
                self.dropbox.show(|shown| shown.pending_ops = pending);
            }
            self.tidy(memory, log, tip).await?;
        }
        self.push_acks(memory, &holdings).await?;
        self.push_checkpoints(memory).await?;
        // What is there by half of this device's own is there whole by now, under another name.
        let partial = std::mem::take(&mut self.inventory.partial);
        for name in partial.into_iter().chain(damaged) {
            if name.writer == self.writer && self.inventory.files(&name).is_empty() {
                self.shelf.delete(&name).await?;
            } else {
                self.inventory.partial.push(name);
            }
        }
        self.inventory.partial.retain(|name| !memory.tried.contains_key(name));
        Ok(())
    }

    /// How far the history held here lies there already.
    fn covered(&self, log: LogId, tip: Tip, left: Seq) -> Result<Seq, StoreError> {
        let mut failure = None;
        let tag = LogTag::of(&self.space, &log);
        // What lies below the base is here in a checkpoint only, and cannot be left as batches.
        let base = self.node.store().base(&self.space);
        let floor = base.map_or(Seq::ZERO, |base| base.floor.tip(&log).seq).max(left);
        let end = self.inventory.covered(tag, floor, |last, link| {
            self.is_ours(log, tip, last, link).unwrap_or_else(|error| {
                failure = Some(error);
                false
            })
        });
        failure.map_or(Ok(end), Err)
    }

    /// Whether a batch that is held here ends there, with this link.
    fn is_ours(&self, log: LogId, tip: Tip, last: Seq, link: [u8; 8]) -> Result<bool, StoreError> {
        if last >= tip.seq {
            return Ok(last == tip.seq && tip.hash.as_bytes()[..8] == link);
        }
        let batch = self.node.store().batch_at(&self.space, &log, last)?;
        Ok(batch.is_some_and(|batch| batch.header().last() == last && batch.link().as_bytes()[..8] == link))
    }

    /// Puts one object of a log there; how far it reaches.
    async fn push_log(&mut self, log: LogId, after: Seq, tip: Tip) -> Result<Seq, RoundError> {
        let Some(load) = self.load(log, after, tip.seq)? else { return Ok(tip.seq) };
        let ops = load.end.seq.get() - after.get();
        let end = load.end.seq;
        self.put_batches(log, after, load).await?;
        self.moved.pushed_ops += ops;
        Ok(end)
    }

    async fn put_batches(&mut self, log: LogId, after: Seq, load: Load) -> Result<ObjectName, RoundError> {
        let kind = Kind::Batches {
            log: LogTag::of(&self.space, &log),
            first: after.next(),
            last: load.end.seq,
            link: *load.end.hash.as_bytes().first_chunk().expect("32 bytes hold 8"),
        };
        self.put(kind, &load.chunks).await
    }

    /// Reads batches of a log from the store, as many as an object holds; `None` where its end was
    /// dropped meanwhile: the next round sees what stands.
    fn load(&self, log: LogId, after: Seq, through: Seq) -> Result<Option<Load>, RoundError> {
        let mut load = Load { chunks: Vec::new(), end: Tip { seq: after, hash: Tip::NONE.hash } };
        let mut bytes = 0;
        while load.end.seq < through && bytes < OBJECT_BYTES_WANTED {
            let run = self.node.store().run(&self.space, &log, load.end.seq, through, CHUNK_BYTES_WANTED)?;
            let Some(run) = run else { break };
            let Some(entry) = bundle::batches(&run.bytes) else { break };
            bytes += run.bytes.len();
            load.end.seq = run.last;
            load.chunks.push((entry, run.bytes));
        }
        let last = self.node.store().batch_at(&self.space, &log, load.end.seq)?;
        let Some(last) = last.filter(|_| !load.chunks.is_empty()) else { return Ok(None) };
        load.end.hash = last.link();
        Ok(Some(load))
    }

    pub(super) async fn put(
        &mut self,
        kind: Kind,
        chunks: &[(ChunkEntry, Bytes)],
    ) -> Result<ObjectName, RoundError> {
        let bytes = object(self.node.identity(), self.space.tag(), clock::wall(), chunks)
            .expect("an object has few chunks and names no logs");
        let name = ObjectName::new(kind, self.writer, &bytes);
        self.shelf.put(&name, bytes).await?;
        self.inventory.add(name);
        Ok(name)
    }

    /// A roster that nobody has left yet is left; an own earlier one goes once this one is seen there.
    async fn push_roster(&mut self, holdings: &Holdings) -> Result<(), RoundError> {
        let digest = *holdings.roster_digest.first_chunk().expect("32 bytes hold 8");
        let rosters: Vec<ObjectName> = self
            .inventory
            .objects()
            .map(|(name, _)| *name)
            .filter(|name| matches!(name.kind, Kind::Roster { .. }))
            .collect();
        let is_current = |name: &ObjectName| name.kind == Kind::Roster { digest };
        if !rosters.iter().any(is_current) {
            let chunks = bundle::records(holdings.records.iter().cloned());
            self.put(Kind::Roster { digest }, &chunks).await?;
            return Ok(());
        }
        for name in rosters {
            if name.writer == self.writer && !is_current(&name) {
                self.shelf.delete(&name).await?;
                self.inventory.remove(&name);
            }
        }
        Ok(())
    }

    /// Acks that are newer than those that lie there, in one object with all that this device is the one
    /// to have left; an own earlier one goes once this one is seen there.
    async fn push_acks(&mut self, memory: &mut Memory, holdings: &Holdings) -> Result<(), RoundError> {
        let is_there = |device, number| {
            memory.acks.get(device).filter(|(known, _)| *known >= number).map(|(_, name)| name.writer)
        };
        let is_complete = holdings.acks.iter().all(|(device, number, _)| is_there(device, *number).is_some());
        let mine = holdings.acks.iter().filter(|(device, number, _)| {
            is_there(device, *number).is_none_or(|writer| writer == self.writer)
        });
        let mine: Vec<_> = mine.cloned().collect();
        let stale: Vec<ObjectName> = self
            .inventory
            .objects()
            .map(|(name, _)| *name)
            .filter(|name| name.kind == Kind::Acks && name.writer == self.writer)
            .filter(|name| memory.acks.values().all(|(_, held_in)| held_in != name))
            .collect();
        for name in stale {
            self.shelf.delete(&name).await?;
            self.inventory.remove(&name);
        }
        if !is_complete {
            let chunks = bundle::acks(mine.iter().map(|(_, _, frame)| frame.clone()));
            let name = self.put(Kind::Acks, &chunks).await?;
            memory.note(name, Tried::ForGood);
            memory.acks.extend(mine.into_iter().map(|(device, number, _)| (device, (number, name))));
        }
        Ok(())
    }

    /// Makes many small objects of this device one. The small ones go in a later round, once the one
    /// is seen there whole: whoever reads meanwhile finds either.
    async fn tidy(&mut self, _memory: &mut Memory, log: LogId, tip: Tip) -> Result<(), RoundError> {
        let tag = LogTag::of(&self.space, &log);
        let covered = self.inventory.covered_by_others(tag, self.writer, |last, link| {
            self.is_ours(log, tip, last, link).unwrap_or(false)
        });
        for name in covered {
            self.shelf.delete(&name).await?;
            self.inventory.remove(&name);
        }
        let Some(small) = self.inventory.to_merge(tag, self.writer) else { return Ok(()) };
        let ends = small.first().zip(small.last()).map(|(first, last)| (first.kind, last.kind));
        if let Some((Kind::Batches { first, .. }, Kind::Batches { last, link, .. })) = ends
            && self.is_ours(log, tip, last, link)?
        {
            let after = Seq::new(first.get() - 1);
            if let Some(load) = self.load(log, after, last)? {
                self.put_batches(log, after, load).await?;
            }
        }
        Ok(())
    }
}

/// What an object of batches is filled up to.
const OBJECT_BYTES_WANTED: usize = 4 * 1024 * 1024;
