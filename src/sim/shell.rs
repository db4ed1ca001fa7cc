//! The pure parts of what a shell does with effects, as `node` does them.

use bytes::Bytes;

use super::disk::{Disk, Kept};
use crate::crypto::Opener;
use crate::fold::{State, StateBuilder};
use crate::model::{DeviceId, Frontier, LogId, Op, Seq, SpaceId, Tip, TipHash};
use crate::oplog::Seen;
use crate::sync::{Engine, FoldRun, Input, Stray, StraySearch};
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

/// Shows every batch of a log that begins after one position and not after another, with its body where its key is
/// held.
fn each(
    disk: &Disk,
    space: SpaceId,
    log: &LogId,
    after: Seq,
    end: Seq,
    look: &mut dyn FnMut(Seq, u32, Option<&Bytes>),
) {
    let (mut opener, mut next) = (Opener::new(), after.next());
    while let Some(batch) = disk.batch_at(&space, log, next).filter(|batch| batch.header().first <= end) {
        let header = batch.header();
        next = header.last().next();
        let body = disk.key(&header.key_id).and_then(|key| opener.open(key, &batch).ok()).map(Bytes::from);
        look(header.first, header.op_count, body.as_ref());
    }
}

/// A search that has looked at all logs of a device but one.
pub(super) fn elsewhere<'a>(
    disk: &Disk,
    based: &'a State,
    space: SpaceId,
    besides: &LogId,
) -> StraySearch<'a> {
    let floor = disk.base(&space).map(|base| base.floor.clone()).unwrap_or_default();
    let mut search = StraySearch::new(based);
    for log in disk.logs(&space).iter().filter(|log| log.device == besides.device && *log != besides) {
        each(disk, space, log, floor.tip(log).seq, Seq::new(u64::MAX), &mut |first, count, body| {
            body.inspect(|body| search.above(log, first, count, body));
        });
    }
    search
}

/// How many ops of a history that has fallen no other log of its device holds.
pub(super) fn lost_count(disk: &Disk, space: SpaceId, log: LogId, after: Seq, through: Seq) -> u64 {
    let based = first_state(disk, &space);
    let mut search = elsewhere(disk, &based, space, &log);
    let mut unread = 0;
    each(disk, space, &log, after, through, &mut |first, count, body| match body {
        Some(body) => search.within(&log, first, count, body),
        None => unread += u64::from(count),
    });
    unread + search.finish().iter().map(|(_, count)| count).sum::<u64>()
}

/// What is held of others that a checkpoint leaves out, and that its author has not written again elsewhere; and
/// logs of others of which another history is held than the checkpoint is of.
pub(super) fn strays(
    disk: &Disk,
    engine: &Engine,
    space: SpaceId,
    kept: &Kept,
    own: DeviceId,
) -> (Vec<Stray>, Vec<LogId>) {
    let Some(view) = engine.space(space) else { return Default::default() };
    let floor = disk.base(&space).map(|base| base.floor.clone()).unwrap_or_default();
    let based = state_of(&kept.chunks);
    let mut search = StraySearch::new(&based);
    let fallen = engine.fallen(space);
    let each = |log: &LogId, after: Seq, end: Seq, look: &mut dyn FnMut(Seq, u32, Option<&Bytes>)| {
        each(disk, space, log, after, end, look);
    };
    // Of an end below the floor nothing is here to be held against it.
    let is_parted = |log: &LogId, end: &Tip| {
        let is_within = (floor.tip(log).seq..=view.frontier.tip(log).seq).contains(&end.seq);
        is_within && !disk.is_end(&space, log, end)
    };
    for log in disk.logs(&space) {
        let (end, floor) = (kept.cut.tip(&log), floor.tip(&log).seq);
        if end == Tip::NONE || !is_parted(&log, &end) {
            let after = end.seq.max(floor);
            each(&log, after, Seq::new(u64::MAX), &mut |first, count, body| {
                body.inspect(|body| search.above(&log, first, count, body));
            });
        }
    }
    let mut parted = Vec::new();
    for (log, end) in kept.cut.iter().filter(|(log, _)| log.device != own) {
        let is_parted = is_parted(log, end);
        parted.extend(is_parted.then_some(*log));
        // Nobody could write again what a removed device has written.
        if view.roster.may_author(&log.device).is_ok() {
            let end = if is_parted { Seq::new(u64::MAX) } else { end.seq };
            let after = floor.tip(log).seq;
            let fallen = fallen.get(log);
            each(log, after, end, &mut |first, count, body| match body {
                Some(body) => search.within(log, first, count, body),
                None if fallen.is_some_and(|to| first > *to) => search.unreadable(log, first, count),
                None => {}
            });
        }
    }
    (search.finish().into_iter().map(|(stray, _)| stray).collect(), parted)
}
