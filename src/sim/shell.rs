//! The pure parts of what a shell does with effects, as `node` does them.

use super::disk::Disk;
use crate::fold::{State, StateBuilder};
use crate::model::{Frontier, LogId, Op, Seq, SpaceId, TipHash};
use crate::oplog::Seen;
use crate::sync::{FoldRun, Input};
use crate::wire::BodyReader;

/// What an author sees.
pub(super) fn seen(state: &State, op: &Op) -> Seen {
    let seen = state.seen(op.surface(), &op.key());
    Seen { heads: seen.heads, greatest: seen.greatest }
}

/// What the log of a space is folded onto.
pub(super) fn first_state(disk: &Disk, space: &SpaceId) -> State {
    let Some(kept) = disk.base(space).and_then(|base| disk.checkpoint(&base.checkpoint)) else {
        return State::new(*space);
    };
    state_of(&kept.chunks)
}

/// The state in index chunks.
pub(super) fn state_of(chunks: &[Vec<u8>]) -> State {
    let mut builder = StateBuilder::new();
    let read = chunks.iter().try_for_each(|chunk| builder.push(chunk));
    read.and_then(|()| builder.finish()).expect("they were made of a state")
}

/// Whether what follows `after` on the disk names `link` as its predecessor.
pub(super) fn continues(disk: &Disk, space: &SpaceId, log: &LogId, after: Seq, link: TipHash) -> bool {
    if after == Seq::ZERO || link == TipHash::NONE {
        return true;
    }
    let next = disk.batch_at(space, log, after.next());
    next.is_some_and(|batch| batch.header().first == after.next() && batch.header().prev == link)
}

/// Folds every log from where the state has it to where the disk has it, as far as keys are held.
pub(super) fn fold_disk(state: &mut State, space: &SpaceId, disk: &Disk, through: &Frontier) {
    for (log, tip) in through.iter() {
        let from = state.applied(log).next();
        for op in disk.ops_from(space, log, from).take_while(|op| op.dot.seq <= tip.seq) {
            let frame = crate::wire::FrameView {
                seq: op.dot.seq,
                hlc: op.hlc,
                kind: op.kind,
                flags: op.flags,
                body: &op.body,
            };
            state.apply(log, &frame);
        }
    }
}

/// Folds the part of a run that follows what is folded.
pub(super) fn fold_run(state: &mut State, run: &FoldRun) {
    let applied = state.applied(&run.log);
    if run.first > applied.next() {
        return;
    }
    let Ok(reader) = BodyReader::new(&run.body, run.first, run.op_count) else { return };
    for frame in reader.flatten().filter(|frame| frame.seq > applied) {
        state.apply(&run.log, &frame);
    }
}

/// An input in few words.
pub(super) fn brief(input: &Input) -> String {
    match input {
        Input::Frame { peer, bytes } => {
            let name = crate::wire::Message::decode(bytes).map_or("garbage", |message| message.name());
            format!("{name} on {}", peer.get())
        }
        Input::Batches { peer, batches } => {
            let headers = batches.iter().filter_map(|bytes| crate::crypto::BatchHeader::parse(bytes).ok());
            let runs: Vec<String> = headers
                .map(|header| format!("{}:{}..={}", header.log.device.short(), header.first, header.last()))
                .collect();
            format!("batches {} on {}", runs.join(" "), peer.get())
        }
        Input::Append { ops, .. } => format!("append of {}", ops.len()),
        Input::LookedUp { batches, .. } => {
            format!("found {} of {}", batches.iter().flatten().count(), batches.len())
        }
        other => format!("{other:?}"),
    }
}
