//! What must hold, whatever happens: the checkers, and what they remember of a whole run.

use std::collections::{BTreeMap, BTreeSet};

use super::disk::{self, Disk, DiskError};
use super::gc::Made;
use crate::crypto::SealedBatch;
use crate::fold::State;
use crate::model::{DeviceId, Dot, Frontier, Hlc, LogId, OpId, Root, Seq, SpaceId, TipHash};
use crate::sync::{Placed, Txn, Write};
use crate::wire::OpView;
use crate::wire::checkpoint::CheckpointHash;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// Two states of the same ops have different roots.
    #[error("device {device} folds the same ops of {space:?} to {found:?}, another to {expected:?}")]
    RootsDiffer {
        /// Where.
        device: usize,
        /// The space.
        space: SpaceId,
        /// The first root seen for these ops.
        expected: Root,
        /// This device's.
        found: Root,
    },
    /// The incremental root is not the root of the rows.
    #[error("device {device}: the incremental root of {space:?} is not that of its rows")]
    RootDrifted {
        /// Where.
        device: usize,
        /// The space.
        space: SpaceId,
    },
    /// The engine sees a peer's ack with another root for the same ops.
    #[error("device {device} raises the divergence alarm for {space:?}")]
    Diverged {
        /// Where.
        device: usize,
        /// The space.
        space: SpaceId,
    },
    /// An op that was answered for is gone.
    #[error("device {device} answered for op {dot:?} and has lost it")]
    AnsweredOpLost {
        /// Where.
        device: usize,
        /// The op.
        dot: Dot,
    },
    /// Content that was answered for is not there in the end, or more than once.
    #[error("content {marker}, answered for on device {device}, is there {found} times in the end")]
    ContentCount {
        /// Where it was written.
        device: usize,
        /// The content.
        marker: u64,
        /// How often it is there.
        found: usize,
    },
    /// An op whose write was refused is there in the end.
    #[error("content {marker} was refused with nothing recorded, and is there in the end")]
    RefusedContent {
        /// The content.
        marker: u64,
    },
    /// A device folds its own log to something else than the checkpoint that another has made of it.
    #[error("device {device} folds its log of {space:?} to another checkpoint than the one that was made")]
    CheckpointsDiffer {
        /// Where.
        device: usize,
        /// The space.
        space: SpaceId,
    },
    /// A row shows a value that came after its removal was laid down, from a device that had not seen that.
    #[error("device {device} shows a value in row {row:?} of {space:?} that its removal should hide")]
    Resurrected {
        /// Where.
        device: usize,
        /// The space.
        space: SpaceId,
        /// The row's key.
        row: String,
    },
    /// Devices whose histories begin with the same checkpoint show different values of a row.
    #[error(
        "device {device} shows another value in row {row:?} of {space:?} than another with the same base"
    )]
    ShownDiffers {
        /// Where.
        device: usize,
        /// The space.
        space: SpaceId,
        /// The row's key.
        row: String,
    },
    /// An ack claims what its signer's disk does not hold.
    #[error("device {device} has acknowledged more of {space:?} than its disk holds")]
    AckOverDisk {
        /// The signer.
        device: DeviceId,
        /// The space.
        space: SpaceId,
    },
    /// What counts as held by every device is not on the disk of one of them.
    #[error("device {device} counts more as stable in {space:?} than the disk of device {holder} holds")]
    StableOverDisk {
        /// Who counts.
        device: usize,
        /// The space.
        space: SpaceId,
        /// Who lacks it.
        holder: usize,
    },
    /// A frontier went back.
    #[error("the frontier of {space:?} on device {device} went back")]
    FrontierRetreated {
        /// Where.
        device: usize,
        /// The space.
        space: SpaceId,
    },
    /// One place of a log holds two contents.
    #[error("position {dot:?} was written with two contents, the second on device {device}")]
    SeqReused {
        /// Where the second was met.
        device: usize,
        /// The place.
        dot: Dot,
    },
    /// Plaintext left a device.
    #[error("plaintext of device {device} is in bytes it sent or stored")]
    Plaintext {
        /// Where.
        device: usize,
    },
    /// The engine asked the store for something that does not fit.
    #[error("device {device} asks its store for the impossible")]
    Disk {
        /// Where.
        device: usize,
        /// What.
        #[source]
        source: DiskError,
    },
    /// A device could not start from its own disk.
    #[error("device {device} cannot start from its disk: {why}")]
    Start {
        /// Where.
        device: usize,
        /// What its engine says.
        why: String,
    },
    /// An honest device was blamed by another.
    #[error("device {device} closes the connection to an honest peer: {why}")]
    HonestPeerBlamed {
        /// Who blames.
        device: usize,
        /// For what.
        why: String,
    },
    /// An honest device doubts its own past, or that of another.
    #[error("device {device} sees a fork that no device has made")]
    ForkSeen {
        /// Where.
        device: usize,
    },
    /// A device's own roster refused a record that the device had to write.
    #[error("device {device} cannot write a record that it has to: {why}")]
    RecordRefused {
        /// Where.
        device: usize,
        /// Why.
        why: String,
    },
    /// A log of an honest device counts as wrongly made.
    #[error("device {device} blocks the log of an honest device")]
    LogBlocked {
        /// Where.
        device: usize,
    },
    /// After everything healed, the devices did not arrive at one state in time.
    #[error("not settled {seconds} s after everything healed: {why}")]
    NotSettled {
        /// The bound.
        seconds: u64,
        /// What is missing.
        why: String,
    },
    /// Another order of arrival gives another root.
    #[error("another order of arrival gives root {found:?} instead of {expected:?}")]
    OrderMatters {
        /// The root all devices have.
        expected: Root,
        /// The other.
        found: Root,
    },
    /// The code under test panicked.
    #[error("panic: {message}")]
    Panic {
        /// What it said.
        message: String,
    },
}

/// An op some device has answered for.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The device.
    pub device: usize,
    /// The space at that time.
    pub space: SpaceId,
    /// Where it was put.
    pub placed: Placed,
    /// Its content, for ops that have one.
    pub marker: Option<u64>,
}

/// What the checkers remember.
#[derive(Debug, Default)]
pub struct Checks {
    roots: BTreeMap<[u8; 32], Root>,
    contents: BTreeMap<(SpaceId, Dot), OpId>,
    links: BTreeMap<(SpaceId, LogId, Seq), TipHash>,
    frontiers: BTreeMap<(usize, SpaceId), Frontier>,
    /// Devices that may have written places twice: restored from a backup, or running twice.
    pub forkable: BTreeSet<DeviceId>,
    /// Content that may be gone: its disk was lost, or its device removed, before anybody had it.
    pub may_be_gone: BTreeSet<u64>,
    /// Logs whose end was dropped on a device, because another history of them stands.
    truncated: BTreeSet<(usize, SpaceId, LogId)>,
    /// The most each device has ever held durably.
    ever: BTreeMap<(DeviceId, SpaceId), Frontier>,
    /// Everything answered for.
    pub answers: Vec<Answer>,
    /// Content whose write was refused.
    pub refused: BTreeSet<u64>,
    /// Roots compared so far.
    pub compared_count: u64,
    /// Checkpoints that were made, and who attests them.
    pub(super) checkpoints: Vec<Made>,
    /// How often history was dropped.
    pub base_count: u64,
    /// How often a device was called dormant by itself.
    pub dormant_count: u64,
}

impl Checks {
    /// Same ops, same root.
    ///
    /// `held` is what the device holds: where a log may have two histories, only its end tells which
    /// one was folded, so nothing is compared before that is reached.
    pub fn root(
        &mut self,
        device: usize,
        state: &mut State,
        held: &Frontier,
        is_thorough: bool,
    ) -> Result<(), Violation> {
        let space = *state.space();
        let is_open = |log: &LogId, seq: Seq| self.forkable.contains(&log.device) && held.tip(log).seq != seq;
        if state.applied_all().into_iter().any(|(log, seq)| is_open(&log, seq)) {
            return Ok(());
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(space.as_bytes());
        for (log, seq) in state.applied_all() {
            hasher.update(&log.to_bytes());
            hasher.update(&seq.get().to_be_bytes());
            if self.forkable.contains(&log.device) {
                hasher.update(held.tip(&log).hash.as_bytes());
            }
        }
        let found = state.root();
        let expected = *self.roots.entry(*hasher.finalize().as_bytes()).or_insert(found);
        self.compared_count += 1;
        if expected != found {
            return Err(Violation::RootsDiffer { device, space, expected, found });
        }
        if is_thorough && state.recomputed_root() != found {
            return Err(Violation::RootDrifted { device, space });
        }
        Ok(())
    }

    /// What is about to be durable: one content per place, and nothing to read.
    pub fn commit(
        &mut self,
        device: usize,
        own: DeviceId,
        disk: &Disk,
        txns: &[Txn],
    ) -> Result<(), Violation> {
        for write in txns.iter().flat_map(|txn| &txn.writes) {
            match write {
                Write::Batches { space, log, batches } => {
                    for batch in batches {
                        hide(device, batch.bytes())?;
                        self.batch(device, own, disk, *space, log, batch)?;
                    }
                }
                // The store seals drafts and keys under a key of the device.
                Write::Drafts { space, group } => {
                    self.contents(
                        device,
                        *space,
                        disk::ops(group.log, group.first, group.op_count, &group.body),
                    )?;
                }
                Write::Record { bytes, .. } | Write::Ack { bytes, .. } | Write::ForkProof { bytes, .. } => {
                    hide(device, bytes)?;
                }
                Write::Base { space, cut, .. } => {
                    self.base_count += 1;
                    let ever = self.ever.entry((own, *space)).or_default();
                    for (log, tip) in cut.iter() {
                        if !ever.covers(log, tip.seq) {
                            ever.set(*log, *tip);
                        }
                    }
                }
                Write::Truncate { space, log, .. } => {
                    self.truncated.insert((device, *space, *log));
                }
                Write::Key { .. }
                | Write::Space { .. }
                | Write::DraftsSealed { .. }
                | Write::Silence { .. }
                | Write::Met { .. }
                | Write::LeaseHome { .. }
                | Write::LeaseVote { .. }
                | Write::LeaseHost { .. } => {}
            }
        }
        Ok(())
    }

    fn batch(
        &mut self,
        device: usize,
        own: DeviceId,
        disk: &Disk,
        space: SpaceId,
        log: &LogId,
        batch: &SealedBatch,
    ) -> Result<(), Violation> {
        let header = batch.header();
        let link = *self.links.entry((space, *log, header.first)).or_insert(batch.link());
        let ever = self.ever.entry((own, space)).or_default();
        if ever.tip(log).seq < header.last() {
            ever.set(*log, crate::model::Tip { seq: header.last(), hash: batch.link() });
        }
        if link != batch.link() && !self.forkable.contains(&log.device) {
            return Err(Violation::SeqReused { device, dot: Dot { log: *log, seq: header.first } });
        }
        if log.device == own
            && let Some(key) = disk.key(&header.key_id)
            && let Ok(body) = crate::crypto::Opener::new().open(key, batch)
        {
            self.contents(device, space, disk::ops(*log, header.first, header.op_count, &body))?;
        }
        Ok(())
    }

    fn contents(&mut self, device: usize, space: SpaceId, ops: Vec<disk::StoredOp>) -> Result<(), Violation> {
        for op in ops {
            let id = OpId::of(&space, op.dot, op.hlc, op.kind, op.flags, &op.body);
            let is_forkable = self.forkable.contains(&op.dot.log.device);
            if *self.contents.entry((space, op.dot)).or_insert(id) != id && !is_forkable {
                return Err(Violation::SeqReused { device, dot: op.dot });
            }
        }
        Ok(())
    }

    /// A checkpoint that was made.
    pub(super) fn made(&self, hash: &CheckpointHash) -> Option<&Made> {
        self.checkpoints.iter().find(|made| made.hash == *hash)
    }

    /// A frontier only grows, also over a crash.
    pub fn frontier(&mut self, device: usize, space: SpaceId, now: &Frontier) -> Result<(), Violation> {
        let last = self.frontiers.entry((device, space)).or_default();
        if last == now {
            return Ok(());
        }
        let is_dropped = |log: &LogId| self.truncated.contains(&(device, space, *log));
        if last.iter().any(|(log, tip)| !now.covers(log, tip.seq) && !is_dropped(log)) {
            return Err(Violation::FrontierRetreated { device, space });
        }
        last.clone_from(now);
        Ok(())
    }

    /// The disk of a device is not what it was: an older one, or a copy.
    pub fn restored(&mut self, device: usize) {
        self.frontiers.retain(|(of, _), _| *of != device);
    }

    /// Whether a device has ever held as much.
    pub fn has_held(&self, device: DeviceId, space: SpaceId, frontier: &Frontier) -> bool {
        let nothing = Frontier::new();
        self.ever.get(&(device, space)).unwrap_or(&nothing).covers_all(frontier)
    }

    /// Everything a device has answered for is on its disk.
    pub fn answered(&self, device: usize, disk: &Disk) -> Result<(), Violation> {
        let mut held: BTreeMap<SpaceId, BTreeSet<(Dot, Hlc)>> = BTreeMap::new();
        let mut is_held = |answer: &Answer| {
            let held = held.entry(answer.space).or_insert_with(|| identities(disk, &answer.space));
            held.contains(&(answer.placed.dot, answer.placed.hlc))
        };
        let is_due = |answer: &&Answer| {
            let may_be_gone = answer.marker.is_none_or(|marker| self.may_be_gone.contains(&marker));
            answer.device == device && (!may_be_gone || self.forkable.is_empty())
        };
        let lost = self.answers.iter().filter(is_due).find(|answer| !is_held(answer));
        match lost {
            Some(answer) => Err(Violation::AnsweredOpLost { device, dot: answer.placed.dot }),
            None => Ok(()),
        }
    }

    /// In the end: all content answered for is there once, and none that was refused.
    pub fn end(&self, disk: &Disk, space: &SpaceId) -> Result<(), Violation> {
        let mut found: BTreeMap<u64, BTreeSet<(Dot, Hlc)>> = BTreeMap::new();
        for log in disk.logs(space) {
            for op in disk.every_op(space, &log) {
                if let Some(marker) = marker_of(&op.body) {
                    found.entry(marker).or_default().insert(identity(&op));
                }
            }
        }
        for answer in &self.answers {
            let Some(marker) = answer.marker else { continue };
            let count = found.get(&marker).map_or(0, BTreeSet::len);
            if count != 1 && !(count == 0 && self.may_be_gone.contains(&marker)) {
                return Err(Violation::ContentCount { device: answer.device, marker, found: count });
            }
        }
        if let Some(marker) = self.refused.iter().find(|marker| found.contains_key(marker)) {
            return Err(Violation::RefusedContent { marker: *marker });
        }
        Ok(())
    }
}

/// No plaintext in bytes that leave the memory of a device.
pub fn hide(device: usize, bytes: &[u8]) -> Result<(), Violation> {
    match bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()) {
        true => Err(Violation::Plaintext { device }),
        false => Ok(()),
    }
}

/// What an op is, wherever it is written.
pub fn identity(op: &disk::StoredOp) -> (Dot, Hlc) {
    match OpView::decode(op.kind, op.flags, &op.body) {
        Ok(OpView::Reissue(original)) => (original.dot(), original.hlc),
        _ => (op.dot, op.hlc),
    }
}

/// Every op on a disk.
pub fn identities(disk: &Disk, space: &SpaceId) -> BTreeSet<(Dot, Hlc)> {
    let logs = disk.logs(space);
    let ops = logs.iter().flat_map(|log| disk.every_op(space, log).collect::<Vec<_>>());
    ops.map(|op| identity(&op)).collect()
}

/// Every content on a disk.
pub fn markers(disk: &Disk) -> BTreeSet<u64> {
    let spaces: Vec<SpaceId> = disk.spaces().map(|(space, _)| space).collect();
    let logs = spaces.iter().flat_map(|space| disk.logs(space).into_iter().map(move |log| (space, log)));
    let ops = logs.flat_map(|(space, log)| disk.every_op(space, &log).collect::<Vec<_>>());
    ops.filter_map(|op| marker_of(&op.body)).collect()
}

/// The content a payload carries.
fn marker_of(body: &[u8]) -> Option<u64> {
    let at = body.windows(MARKER.len()).position(|window| window == MARKER.as_bytes())? + MARKER.len();
    let digits = body[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |value, digit| value * 10 + u64::from(digit - b'0')))
}

/// Stands in every payload, key and name that a run writes.
pub const CANARY: &str = "CaNaRy";

/// Stands before the number of a content.
pub const MARKER: &str = "CaNaRy no ";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Incarnation, Op, Payload, Tip};
    use crate::sync::{DraftGroup, TxnId};
    use crate::wire::op::encode_op;
    use crate::wire::{BodyReader, BodyWriter};

    const SPACE: SpaceId = SpaceId::from_bytes([1; 32]);
    const OWN: DeviceId = DeviceId::from_bytes([2; 32]);
    const LOG: LogId = LogId { device: OWN, incarnation: Incarnation::new(1) };

    fn body(marker: u64) -> (Vec<u8>, u32) {
        let payload = Payload::parse(&format!("\"{MARKER}{marker} \"")).unwrap();
        let put =
            Op::Put { surface: "declagent".parse().unwrap(), key: "k".into(), preds: Vec::new(), payload };
        let mut writer = BodyWriter::new();
        writer.push(Hlc::new(1), put.kind().number(), 0, &encode_op(&put, &LOG));
        writer.finish()
    }

    fn drafts(marker: u64) -> Txn {
        let (body, op_count) = body(marker);
        let group = DraftGroup { log: LOG, first: Seq::new(1), op_count, body };
        Txn { id: TxnId::new(1), writes: vec![Write::Drafts { space: SPACE, group }] }
    }

    fn state(marker: u64) -> State {
        let (body, op_count) = body(marker);
        let mut state = State::new(SPACE);
        let reader = BodyReader::new(&body, Seq::new(1), op_count).unwrap();
        for frame in reader.flatten() {
            // Another stamp stands for a fold that went wrong.
            state.apply(&LOG, &crate::wire::FrameView { hlc: Hlc::new(marker), ..frame });
        }
        state
    }

    #[test]
    fn two_roots_of_the_same_ops_are_noticed() {
        let mut checks = Checks::default();

        assert_eq!(checks.root(0, &mut state(1), &Frontier::new(), true), Ok(()));
        assert_eq!(checks.root(1, &mut state(1), &Frontier::new(), true), Ok(()));
        assert!(matches!(
            checks.root(1, &mut state(2), &Frontier::new(), true),
            Err(Violation::RootsDiffer { .. })
        ));
    }

    #[test]
    fn a_place_written_twice_is_noticed() {
        let (mut checks, disk) = (Checks::default(), Disk::default());

        assert_eq!(checks.commit(0, OWN, &disk, &[drafts(1)]), Ok(()));
        assert_eq!(checks.commit(0, OWN, &disk, &[drafts(1)]), Ok(()));
        assert!(matches!(checks.commit(0, OWN, &disk, &[drafts(2)]), Err(Violation::SeqReused { .. })));
    }

    #[test]
    fn a_frontier_that_goes_back_is_noticed() {
        let mut checks = Checks::default();
        let at = |seq| {
            let tip = Tip { seq: Seq::new(seq), hash: TipHash::NONE };
            [(LOG, tip)].into_iter().collect::<Frontier>()
        };

        assert_eq!(checks.frontier(0, SPACE, &at(2)), Ok(()));
        assert!(matches!(checks.frontier(0, SPACE, &at(1)), Err(Violation::FrontierRetreated { .. })));
    }

    #[test]
    fn plaintext_is_noticed() {
        assert_eq!(hide(0, b"nothing to see"), Ok(()));
        assert_eq!(hide(0, &body(1).0), Err(Violation::Plaintext { device: 0 }));
    }

    #[test]
    fn lost_ops_and_content_are_noticed() {
        let placed =
            Placed { id: OpId::from_bytes([0; 32]), dot: Dot { log: LOG, seq: Seq::new(1) }, hlc: Hlc::ZERO };
        let mut checks = Checks::default();
        checks.answers.push(Answer { device: 0, space: SPACE, placed, marker: Some(1) });

        let lost = checks.answered(0, &Disk::default());
        let gone = checks.end(&Disk::default(), &SPACE);

        assert!(matches!(lost, Err(Violation::AnsweredOpLost { .. })));
        assert!(matches!(gone, Err(Violation::ContentCount { found: 0, .. })));
    }
}
