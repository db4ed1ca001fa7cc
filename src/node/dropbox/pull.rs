//! Taking what others have left.

use bytes::Bytes;

use super::round::{Memory, Round, RoundError, Tried};
use crate::dropbox::{Kind, LogTag, ObjectName};
use crate::model::{Frontier, LogId, Seq};
use crate::node::error::NodeError;
use crate::sync::{Delivered, Delivery};
use crate::wire::bundle::Chunk;
use crate::wire::{Ack, BundleHead, Message};

/// What is held here while objects are chosen.
struct Held {
    frontier: Frontier,
    roster: [u8; 32],
}

impl Round<'_> {
    /// Takes rosters, then batches for as long as there are any that continue a log, then acks.
    pub async fn pull(&mut self, memory: &mut Memory) -> Result<(), RoundError> {
        self.pull_rosters(memory).await?;
        let mut not_taken_ops = 0;
        loop {
            let held = self.held().await?;
            let Some((log, tip, names)) = self.next_batches(memory, &held) else { break };
            let taken = self.take(memory, &names).await?;
            self.moved.pulled_ops += taken.ops;
            let after = self.held().await?;
            let is_further = self.tip_of(&after.frontier, log) > tip;
            if !is_further {
                not_taken_ops += taken.not_taken.iter().map(crate::sync::NotTaken::op_count).sum::<u64>();
            }
            for name in names {
                // Those that were taken are known by the frontier; the others wait until it moves.
                if !is_further && !memory.tried.contains_key(&name) {
                    memory.note(name, Tried::At { tip, roster: after.roster });
                }
            }
        }
        self.dropbox.show(|shown| {
            if self.moved.pulled_ops > 0 || not_taken_ops > 0 {
                shown.not_taken_ops = not_taken_ops;
            }
        });
        self.pull_acks(memory).await?;
        self.pull_checkpoints(memory).await
    }

    async fn held(&self) -> Result<Held, NodeError> {
        let space = self.space;
        let asked = self.node.ask(move |core| {
            let view = core.engine.space(space)?;
            Some(Held { frontier: view.frontier.clone(), roster: view.roster.digest() })
        });
        asked.await?.ok_or(NodeError::Stopped)
    }

    fn tip_of(&self, frontier: &Frontier, log: LogTag) -> Seq {
        let held: Option<LogId> = self.tags(frontier).get(&log).copied();
        held.map_or(Seq::ZERO, |held| frontier.tip(&held).seq)
    }

    async fn pull_rosters(&mut self, memory: &mut Memory) -> Result<(), RoundError> {
        let own = self.held().await?.roster;
        let is_new = |name: &ObjectName| {
            matches!(name.kind, Kind::Roster { digest } if digest[..] != own[..8])
                && !self.is_spent(memory, name)
        };
        let names: Vec<ObjectName> = self.inventory.objects().map(|(name, _)| *name).filter(is_new).collect();
        for name in names {
            self.take(memory, &[name]).await?;
            self.spend(memory, name);
        }
        Ok(())
    }

    /// Objects that continue a log, as many as are taken at once, with where the log ends now.
    fn next_batches(&self, memory: &Memory, held: &Held) -> Option<(LogTag, Seq, Vec<ObjectName>)> {
        self.inventory.logs().into_iter().find_map(|log| {
            let tip = self.tip_of(&held.frontier, log);
            let is_useful = |name: &ObjectName| match memory.tried.get(name) {
                Some(Tried::At { tip: then, roster }) => (*then, *roster) != (tip, held.roster),
                Some(Tried::ForGood | Tried::Damaged(_)) => !self.is_spent(memory, name),
                None => true,
            };
            let mut bytes = 0;
            let chain = self.inventory.chain(log, tip, is_useful).into_iter();
            let names: Vec<ObjectName> = chain
                .take_while(|name| {
                    let is_first = bytes == 0;
                    bytes += name.bytes;
                    is_first || bytes <= TAKEN_BYTES
                })
                .collect();
            (!names.is_empty()).then_some((log, tip, names))
        })
    }

    async fn pull_acks(&mut self, memory: &mut Memory) -> Result<(), RoundError> {
        let is_new = |name: &ObjectName| matches!(name.kind, Kind::Acks) && !self.is_spent(memory, name);
        let names: Vec<ObjectName> = self.inventory.objects().map(|(name, _)| *name).filter(is_new).collect();
        for name in names {
            self.take(memory, &[name]).await?;
            self.spend(memory, name);
        }
        Ok(())
    }

    /// Whether reading it again can bring nothing.
    fn is_spent(&self, memory: &Memory, name: &ObjectName) -> bool {
        match memory.tried.get(name) {
            Some(Tried::ForGood) => true,
            Some(Tried::Damaged(stamps)) => *stamps == self.stamps(name),
            Some(Tried::At { .. }) | None => false,
        }
    }

    fn spend(&self, memory: &mut Memory, name: ObjectName) {
        if !matches!(memory.tried.get(&name), Some(Tried::Damaged(_))) {
            memory.note(name, Tried::ForGood);
        }
    }

    fn stamps(&self, name: &ObjectName) -> Vec<String> {
        self.inventory.files(name).iter().map(|file| file.stamp.clone()).collect()
    }

    /// Reads objects and gives what they hold to the engine, all at once.
    async fn take(&mut self, memory: &mut Memory, names: &[ObjectName]) -> Result<Delivered, RoundError> {
        let mut delivery = Delivery::default();
        for name in names {
            match self.shelf.get(name, self.inventory.files(name)).await? {
                Some(bytes) => {
                    memory.tried.remove(name);
                    if !self.unpack(memory, name, &bytes, &mut delivery) {
                        memory.note(*name, Tried::ForGood);
                    }
                }
                None => {
                    // Partial, damaged, or gone since: whoever holds it puts it there again.
                    memory.note(*name, Tried::Damaged(self.stamps(name)));
                    break;
                }
            }
        }
        Ok(self.node.deliver(self.space, delivery).await?)
    }

    /// Adds what an object holds; false where that is nothing of this space.
    fn unpack(&self, memory: &mut Memory, name: &ObjectName, bytes: &Bytes, delivery: &mut Delivery) -> bool {
        let (Ok(head), Ok(mut at)) = (BundleHead::parse(bytes), BundleHead::bytes_of(bytes)) else {
            return false;
        };
        if head.scope != self.space.tag() {
            return false;
        }
        for entry in &head.chunks {
            let end = at.saturating_add(entry.byte_count());
            if bytes.len() < end {
                return false;
            }
            match entry.open(&bytes.slice(at..end)) {
                Ok(Chunk::Records(records)) => delivery.records.extend(records),
                Ok(Chunk::Batches(batches)) => delivery.batches.extend(batches),
                Ok(Chunk::Acks(acks)) => {
                    acks.iter().for_each(|ack| remember_ack(memory, name, ack));
                    delivery.acks.extend(acks);
                }
                // Checkpoints are taken by themselves; what is of a later version is not this one's to judge.
                Ok(Chunk::Manifests(_) | Chunk::Attestations(_) | Chunk::Chunks(_) | Chunk::Unknown(_)) => {}
                Err(_) => return false,
            }
            at = end;
        }
        true
    }
}

/// Whoever has left the newest ack of a device need not be followed by another.
fn remember_ack(memory: &mut Memory, name: &ObjectName, frame: &[u8]) {
    let Ok(Message::Ack(frame)) = Message::decode(frame) else { return };
    let Ok(ack) = Ack::parse(&frame.bytes) else { return };
    let (device, number) = (ack.fields().device, ack.fields().number);
    if ack.verify().is_ok() && memory.acks.get(&device).is_none_or(|(known, _)| *known < number) {
        memory.acks.insert(device, (number, *name));
    }
}

/// What is read before it is given to the engine: one transaction, and the memory of a round.
const TAKEN_BYTES: u64 = 8 * 1024 * 1024;
