//! The state and how an op changes it.

use std::collections::BTreeMap;

use super::covered::Covered;
use super::facts::{Content, Statement, supersedes};
use super::key::Key;
use super::ledger::Intent;
use super::logs::{Entry, LocalDot, Logs, Mark};
use super::relocated::Relocated;
use super::root::Tree;
use super::rows::Write;
use super::tables::{Rows, Tables};
use crate::model::{Dot, Hlc, LogId, OpKind, Root, Seq, SpaceId, Surface, intent_key};
use crate::wire::{BodyError, BodyReader, FrameView, OpProblem, OpView, Original, Pred};

/// The folded state of one space: pure data, a function of the set of ops applied to it.
pub struct State {
    pub(super) space: SpaceId,
    pub(super) logs: Logs,
    pub(super) tables: Tables,
    pub(super) tree: Tree,
    pub(super) covered: Covered,
    pub(super) relocated: Relocated,
    pub(super) unknown_count: u64,
    pub(super) malformed_count: u64,
    /// The places the op at hand replaces, kept to save their allocation.
    replaces: Vec<LocalDot>,
}

/// What applying an op did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applied {
    /// Its row or entity now shows it, or it is an event or an intent.
    Shown,
    /// It is kept beside what its row or entity shows: a conflict, unless both are tombstones.
    Listed,
    /// It changed nothing to see: named by an op that arrived before it, or a fact already stated.
    Covered,
    /// It is here already: it was written again, or this is the original of what was.
    Again,
    /// It is kept and counted, and means nothing to this version.
    Kept(OpProblem),
}

/// One folded op, as [`State::apply_body`] reports it.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// The surface it touched.
    pub surface: &'a Surface,
    /// The row, entity, stream or run ([`intent_key`]).
    pub key: &'a str,
    /// The op; of one that was written again, its first place.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: Hlc,
    /// Its payload; `None` for a delete.
    pub payload: Option<&'a str>,
    /// Its kind.
    pub kind: OpKind,
    /// What it did; never [`Applied::Kept`] or [`Applied::Again`].
    pub applied: Applied,
}

impl State {
    /// The state of a space without ops.
    pub fn new(space: SpaceId) -> Self {
        Self {
            space,
            logs: Logs::default(),
            tables: Tables::default(),
            tree: Tree::new(),
            covered: Covered::default(),
            relocated: Relocated::default(),
            unknown_count: 0,
            malformed_count: 0,
            replaces: Vec::new(),
        }
    }

    /// The space this is the state of.
    pub const fn space(&self) -> &SpaceId {
        &self.space
    }

    /// Folds one op. Ops of one log come in order and without gaps; logs interleave as they like.
    ///
    /// # Panics
    /// If the op is not the next of its log: the caller applies what the log holds, in order.
    pub fn apply(&mut self, log: &LogId, frame: &FrameView<'_>) -> Applied {
        self.apply_reporting(log, frame, &mut |_| {})
    }

    /// Folds the ops of a body and reports each one that is neither merely kept nor here already, in order.
    ///
    /// # Errors
    /// Every variant of [`BodyError`] that reading frames has; nothing is applied then.
    ///
    /// # Panics
    /// If the first op is not the next of its log.
    pub fn apply_body(
        &mut self,
        log: &LogId,
        body: BodyReader<'_>,
        on_change: &mut dyn FnMut(Change<'_>),
    ) -> Result<(), BodyError> {
        // A first pass over the frames, so that an unreadable one leaves nothing half done.
        for frame in body.clone() {
            frame?;
        }
        for frame in body {
            self.apply_reporting(log, &frame?, on_change);
        }
        Ok(())
    }

    /// The position up to which a log is applied.
    pub fn applied(&self, log: &LogId) -> Seq {
        self.logs.find(log).map_or(Seq::ZERO, |log| self.logs.applied(log))
    }

    /// The position up to which a log is held by the checkpoint that the state was folded onto.
    pub fn laid_down(&self, log: &LogId) -> Seq {
        self.logs.find(log).map_or(Seq::ZERO, |log| self.logs.floor(log))
    }

    /// The position of every log with at least one op applied.
    pub fn applied_all(&self) -> BTreeMap<LogId, Seq> {
        self.logs
            .by_id()
            .map(|(id, log)| (*id, self.logs.applied(log)))
            .filter(|(_, seq)| *seq > Seq::ZERO)
            .collect()
    }

    /// The hash of the state; costs what has changed since it was last asked for. See [`super::root`].
    pub fn root(&mut self) -> Root {
        self.tree.root(&self.space)
    }

    /// The sum of the leaves in one of [`super::root::BUCKET_COUNT`] buckets; `None` beyond them.
    pub fn bucket(&self, index: u16) -> Option<[u8; 32]> {
        self.tree.bucket(index)
    }

    /// A node of the tree under the root: level 0 has one, 1 has 16, 2 has 256, level 3 are the buckets.
    pub fn tree_node(&mut self, level: u8, index: u16) -> Option<[u8; 32]> {
        self.tree.node(level, index)
    }

    /// The root computed anew from every row, to be compared with [`State::root`].
    ///
    /// They differ only if memory, a snapshot or the incremental fold went wrong. Costs about 0.3 µs a row.
    pub fn recomputed_root(&self) -> Root {
        let mut tree = Tree::new();
        for table in self.tables.by_name() {
            let name = &table.name;
            match &table.rows {
                Rows::Registers(registers) => {
                    for (key, row) in registers.rows() {
                        let hash = tree.row(name, key.as_str());
                        let mut leaves = tree.leaves(hash, &self.logs);
                        row.heads().iter().for_each(|head| leaves.add(head));
                    }
                }
                Rows::Facts(facts) => {
                    for (key, entity) in facts.entities() {
                        let hash = tree.row(name, key.as_str());
                        let mut leaves = tree.leaves(hash, &self.logs);
                        entity.statements().iter().for_each(|statement| leaves.add(&statement.entry));
                    }
                }
                Rows::Streams(streams) => {
                    for (key, stream) in streams.streams() {
                        let hash = tree.row(name, key.as_str());
                        let mut leaves = tree.leaves(hash, &self.logs);
                        stream.iter(None, &self.logs).for_each(|event| leaves.add(event));
                    }
                }
                Rows::Ledger(ledger) => {
                    for (key, run) in ledger.runs() {
                        let hash = tree.row(name, key.as_str());
                        let mut leaves = tree.leaves(hash, &self.logs);
                        run.intents().iter().for_each(|intent| leaves.add(&intent.entry));
                    }
                }
            }
        }
        tree.root(&self.space)
    }

    /// [`State::apply`], and reports the op where it is neither merely kept nor here already.
    pub(crate) fn apply_reporting(
        &mut self,
        log: &LogId,
        frame: &FrameView<'_>,
        on_change: &mut dyn FnMut(Change<'_>),
    ) -> Applied {
        let index = self.logs.intern(log);
        assert!(
            frame.seq > Seq::ZERO && frame.seq == self.logs.applied(index).next(),
            "ops of one log are applied in order and without gaps"
        );
        let carrier = LocalDot { log: index, seq: frame.seq };
        let applied = match OpView::decode(frame.kind, frame.flags, frame.body) {
            Ok(OpView::Reissue(original)) => self.fold_reissue(log, carrier, &original, on_change),
            Ok(op) => {
                let id = Identity { log, dot: carrier, hlc: frame.hlc, written_again: None };
                self.fold(&id, &op, on_change)
            }
            Err(problem) => Applied::Kept(problem),
        };
        match applied {
            Applied::Kept(OpProblem::Unknown) => self.unknown_count += 1,
            Applied::Kept(OpProblem::Malformed) => self.malformed_count += 1,
            Applied::Shown | Applied::Listed | Applied::Covered | Applied::Again => {}
        }
        self.logs.set_applied(index, frame.seq);
        applied
    }

    /// Folds the op within as if it stood at its first place.
    fn fold_reissue(
        &mut self,
        log: &LogId,
        carrier: LocalDot,
        original: &Original<'_>,
        on_change: &mut dyn FnMut(Change<'_>),
    ) -> Applied {
        // A device may write its own ops again; nobody puts words into the mouth of another.
        if original.log.device != log.device {
            return Applied::Kept(OpProblem::Malformed);
        }
        let op = match original.op() {
            Ok(op) => op,
            Err(problem) => return Applied::Kept(problem),
        };
        let dot = LocalDot { log: self.logs.find_or_add(&original.log), seq: original.seq };
        let id = Identity { log: &original.log, dot, hlc: original.hlc, written_again: Some(carrier) };
        self.fold(&id, &op, on_change)
    }

    fn fold(&mut self, id: &Identity<'_>, op: &OpView<'_>, on_change: &mut dyn FnMut(Change<'_>)) -> Applied {
        let (Some(kind), Some(name), Some(key)) = (kind_of(op), op.surface(), op.key()) else {
            return Applied::Kept(OpProblem::Malformed);
        };
        let run_key;
        let key = match op {
            OpView::Intent { agent, run, .. } => {
                run_key = intent_key(agent, run);
                &*run_key
            }
            OpView::Put { .. }
            | OpView::Delete { .. }
            | OpView::Fact { .. }
            | OpView::Event { .. }
            | OpView::Reissue(_) => key,
        };
        let table = match self.tables.find_or_create(name, kind) {
            Ok(table) => table,
            Err(problem) => return Applied::Kept(problem),
        };
        let mark = if kind == OpKind::Delete { Mark::Tombstone } else { Mark::Live };
        let entry = Entry::new(id.dot, id.hlc, mark);
        let applied = match (op, &mut table.rows) {
            (OpView::Put { preds, .. } | OpView::Delete { preds, .. }, Rows::Registers(registers)) => {
                let row = self.tree.row(name, key);
                self.replaces.clear();
                for pred in preds {
                    let dot = resolve(pred, id, &mut self.logs);
                    if dot != id.dot && self.covered.insert(dot, row.tag(), &self.logs) {
                        self.replaces.push(dot);
                    }
                }
                let is_covered = match id.written_again {
                    None => self.covered.arrive(id.dot, row.tag()),
                    Some(_) => self.covered.contains(id.dot, row.tag()),
                };
                let write = Write { entry, replaces: &self.replaces, is_covered };
                registers.fold(key, &write, &self.logs, &mut self.tree.leaves(row, &self.logs))
            }
            (OpView::Fact { payload, .. }, Rows::Facts(facts)) => {
                let row = self.tree.row(name, key);
                let statement = Statement { entry, content: Content::of(payload) };
                let names = supersedes(payload);
                if !names.is_empty() {
                    facts.supersede(&Key::new(key), statement.content, names);
                }
                facts.fold(key, statement, &self.logs, &mut self.tree.leaves(row, &self.logs))
            }
            (OpView::Event { .. }, Rows::Streams(streams)) => {
                let is_maybe_known = id.written_again.is_some() || !self.relocated.is_empty();
                streams.fold((name, key), entry, is_maybe_known, &self.logs, &mut self.tree)
            }
            (OpView::Intent { epoch, cert, status, .. }, Rows::Ledger(ledger)) => {
                let row = self.tree.row(name, key);
                let cert = ledger.cert(*cert);
                let intent = Intent { entry, epoch: *epoch, cert, status: *status };
                ledger.fold(key, intent, &self.logs, &mut self.tree.leaves(row, &self.logs))
            }
            (
                OpView::Put { .. }
                | OpView::Delete { .. }
                | OpView::Fact { .. }
                | OpView::Event { .. }
                | OpView::Intent { .. }
                | OpView::Reissue(_),
                Rows::Registers(_) | Rows::Facts(_) | Rows::Streams(_) | Rows::Ledger(_),
            ) => return Applied::Kept(OpProblem::Malformed),
        };
        let is_known = match id.written_again {
            Some(place) => {
                let row = self.tree.row(name, key).tag();
                !self.relocated.insert(entry, row, place, &self.logs)
            }
            None => {
                !self.relocated.is_empty()
                    && self.relocated.place(&entry, self.tree.row(name, key).tag()).is_some()
            }
        };
        if applied == Applied::Again || (applied == Applied::Covered && is_known) {
            return Applied::Again;
        }
        on_change(Change {
            surface: &table.surface,
            key,
            dot: Dot { log: *id.log, seq: id.dot.seq },
            hlc: id.hlc,
            payload: op.payload(),
            kind,
            applied,
        });
        applied
    }
}

/// What an op is known by.
struct Identity<'a> {
    log: &'a LogId,
    /// Its first place, in `log`.
    dot: LocalDot,
    hlc: Hlc,
    /// Where it stands, if that is not its first place.
    written_again: Option<LocalDot>,
}

fn resolve(pred: &Pred, id: &Identity<'_>, logs: &mut Logs) -> LocalDot {
    let dot = pred.dot(id.log);
    // Asking for another log would make the table forget whose ops are being applied.
    let log = if dot.log == *id.log { id.dot.log } else { logs.find_or_add(&dot.log) };
    LocalDot { log, seq: dot.seq }
}

const fn kind_of(op: &OpView<'_>) -> Option<OpKind> {
    match op {
        OpView::Put { .. } => Some(OpKind::Put),
        OpView::Delete { .. } => Some(OpKind::Delete),
        OpView::Fact { .. } => Some(OpKind::Fact),
        OpView::Event { .. } => Some(OpKind::Event),
        OpView::Intent { .. } => Some(OpKind::Intent),
        OpView::Reissue(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{self, SPACE, Written, any_ops, apply_interleaved, log, reissued, written};
    use super::super::retention::{Kept, plan_against};
    use super::super::{Head, NoChain, Policy, RowFilter};
    use super::*;
    use crate::model::{Op, Payload, Tier, split_intent_key};
    use crate::wire::BodyWriter;
    use proptest::prelude::*;

    fn dot(log_index: usize, seq: u64) -> Dot {
        Dot { log: log(log_index), seq: Seq::new(seq) }
    }

    fn put(at: Dot, hlc: u64, preds: &[Dot]) -> Written {
        let payload = Payload::parse("1").unwrap();
        written(at, hlc, Op::Put { surface: registry(), key: "row".into(), preds: preds.to_vec(), payload })
    }

    fn delete(at: Dot, hlc: u64, preds: &[Dot]) -> Written {
        written(at, hlc, Op::Delete { surface: registry(), key: "row".into(), preds: preds.to_vec() })
    }

    fn fact(at: Dot, hlc: u64, payload: &str) -> Written {
        let payload = Payload::parse(payload).unwrap();
        written(at, hlc, Op::Fact { surface: Surface::Skill, key: "row".into(), payload })
    }

    fn event(at: Dot, hlc: u64) -> Written {
        let payload = Payload::parse("1").unwrap();
        written(at, hlc, Op::Event { surface: Surface::Routing, stream: "row".into(), payload })
    }

    fn registry() -> Surface {
        "registry:note".parse().unwrap()
    }

    fn apply(state: &mut State, op: &Written) -> Applied {
        state.apply(&op.dot.log, &op.frame())
    }

    fn fresh(ops: &[Written]) -> State {
        let mut state = State::new(SPACE);
        for op in ops {
            apply(&mut state, op);
        }
        state
    }

    fn heads(state: &State, surface: &Surface) -> Vec<Dot> {
        let row = state.row(surface, "row");
        row.map(|row| row.heads().iter().map(|head| head.dot).collect()).unwrap_or_default()
    }

    #[test]
    fn a_write_that_saw_a_future_dated_one_replaces_it() {
        let mut state = State::new(SPACE);

        assert_eq!(apply(&mut state, &put(dot(0, 1), u64::MAX, &[])), Applied::Shown);
        assert_eq!(apply(&mut state, &put(dot(1, 1), 5, &[dot(0, 1)])), Applied::Shown);

        assert_eq!(heads(&state, &registry()), [dot(1, 1)]);
        assert_eq!(state.counts().conflicts, 0);
    }

    #[test]
    fn concurrent_writes_conflict_until_a_write_names_them_all() {
        let mut state = fresh(&[put(dot(0, 1), 7, &[])]);

        assert_eq!(apply(&mut state, &put(dot(1, 1), 6, &[])), Applied::Listed);
        assert_eq!(heads(&state, &registry()), [dot(0, 1), dot(1, 1)], "the shown one first");
        assert_eq!(state.counts().conflicts, 1);
        assert_eq!(state.conflicts(None, 9, &NoChain)[0].key, "row");
        let seen = state.seen(&registry(), "row");
        assert_eq!((&seen.heads[..], seen.greatest), (&[dot(1, 1), dot(0, 1)][..], Hlc::new(7)));

        apply(&mut state, &put(dot(1, 2), 8, &seen.heads));
        assert_eq!(heads(&state, &registry()), [dot(1, 2)]);
        assert_eq!(state.conflicts(None, 9, &NoChain), []);
    }

    #[test]
    fn a_predecessor_that_arrives_late_is_no_head() {
        let mut state = fresh(&[put(dot(1, 1), 8, &[dot(0, 1)])]);

        assert_eq!(apply(&mut state, &put(dot(0, 1), 9, &[])), Applied::Covered);

        assert_eq!(heads(&state, &registry()), [dot(1, 1)]);
    }

    #[test]
    fn ops_that_name_each_other_leave_no_row() {
        let mut state = fresh(&[put(dot(0, 1), 8, &[dot(1, 1)]), put(dot(1, 1), 8, &[dot(0, 1), dot(1, 1)])]);

        assert_eq!(state.row(&registry(), "row"), None);
        assert_eq!(state.counts().live_rows, 0);
        assert_eq!(state.surfaces(), []);
        assert_eq!(state.root(), State::new(SPACE).root());
    }

    #[test]
    fn two_deletes_agree_and_a_delete_against_a_put_is_a_conflict() {
        let mut state = fresh(&[delete(dot(0, 1), 7, &[]), delete(dot(1, 1), 6, &[])]);
        assert_eq!((state.counts().conflicts, state.counts().tombstones), (0, 1));

        apply(&mut state, &put(dot(2, 1), 5, &[]));

        let counts = state.counts();
        assert_eq!((counts.conflicts, counts.tombstones, counts.live_rows), (1, 1, 0));
        assert_eq!(state.rows(&registry(), None, 9, RowFilter::Live), []);
        assert_eq!(state.rows(&registry(), None, 9, RowFilter::WithTombstones).len(), 1);
    }

    #[test]
    fn the_first_writer_of_a_fact_wins_and_another_content_is_listed() {
        let mut state = fresh(&[fact(dot(0, 1), 7, "1")]);

        assert_eq!(apply(&mut state, &fact(dot(1, 1), 8, "1")), Applied::Covered);
        assert_eq!(apply(&mut state, &fact(dot(1, 2), 6, "1")), Applied::Shown);
        assert_eq!(state.counts().conflicts, 0, "the same content again is no conflict");
        assert_eq!(apply(&mut state, &fact(dot(1, 3), 9, "2")), Applied::Listed);

        assert_eq!(heads(&state, &Surface::Skill), [dot(1, 2), dot(1, 3)]);
        assert_eq!(state.counts().conflicts, 1);
        assert_eq!(state.seen(&Surface::Skill, "row").greatest, Hlc::new(9));
    }

    #[test]
    fn of_two_contents_said_at_one_place_the_smaller_hash_wins_in_any_order() {
        let (plain, superseding) = (fact(dot(0, 2), 3, "1"), fact(dot(0, 2), 3, r#"{"supersedes":"other"}"#));
        let early = fresh(&[reissued(dot(0, 1), &plain), superseding.clone()]);
        let late = fresh(&[reissued(dot(0, 1), &superseding), plain]);

        for mut state in [early, late] {
            assert_eq!(state.counts().conflicts, 1);
            assert_eq!(state.superseded_by(&Surface::Skill, "other"), ["row"], "its content is the smaller");
            assert_eq!(state.root(), state.recomputed_root());
        }
    }

    #[test]
    fn a_superseded_fact_is_passed_over_and_of_a_circle_every_fact_stays() {
        let says = |key: &str, at, hlc, payload: &str| {
            let payload = Payload::parse(payload).unwrap();
            written(at, hlc, Op::Fact { surface: Surface::Skill, key: key.into(), payload })
        };
        let newer = says("b", dot(1, 1), 1, r#"{"supersedes":["a","b",1,""]}"#);
        let mut state = fresh(&[newer]);
        let listed = |state: &State| -> Vec<String> {
            let rows = state.rows(&Surface::Skill, None, 9, RowFilter::Live);
            rows.into_iter().map(|listed| listed.key).collect()
        };
        assert_eq!(state.superseded_by(&Surface::Skill, "a"), ["b"], "before it comes");
        assert_eq!(listed(&state), ["b"], "naming itself hides nothing");

        apply(&mut state, &says("a", dot(0, 1), 9, "1"));
        assert_eq!(listed(&state), ["b"], "whichever came first");

        apply(&mut state, &says("c", dot(0, 2), 9, r#"{"supersedes":"b"}"#));
        assert_eq!(listed(&state), ["c"]);
        apply(&mut state, &says("a", dot(1, 2), 3, r#"{"supersedes":"c"}"#));
        assert_eq!(listed(&state), ["a", "b", "c"], "each supersedes the next");
        assert_eq!(state.superseded_by(&Surface::Skill, "a"), ["b"]);
        assert_eq!(state.superseded_by(&registry(), "a"), [""; 0]);

        apply(&mut state, &says("a", dot(1, 3), 2, "2"));
        assert_eq!(listed(&state), ["c"], "what the winner says counts");
    }

    #[test]
    fn a_stream_is_cut_where_a_plan_for_its_events_cuts_it() {
        const DAY_MS: u64 = 86_400_000;
        let at = |days: u64| (days * DAY_MS) << 16;
        let mut ops: Vec<Written> = (1..=6).map(|n| event(dot(0, n), at(n))).collect();
        let payload = Payload::parse("1").unwrap();
        let other = Op::Event { surface: Surface::Routing, stream: "newer".into(), payload };
        ops.push(written(dot(1, 1), at(7), other));
        let state = fresh(&ops);
        let all = state.events(&Surface::Routing, "row", None, 9);
        let kept: Vec<_> = all
            .iter()
            .map(|event| Kept {
                name: event.dot.seq,
                agent: None,
                timestamp_ms: event.hlc.millis(),
                hlc: event.hlc,
                dot: event.dot,
            })
            .collect();

        for (last_n, max_age_days) in
            [(None, None), (Some(2), None), (None, Some(3)), (Some(5), Some(2)), (Some(9), Some(9))]
        {
            let policy = Policy { last_n, max_age_days, per_agent: None };
            let dropped = plan_against(&kept, &policy, 7 * DAY_MS);
            let cut = state.stream_cut(&Surface::Routing, "row", &policy);
            assert_eq!(cut.map_or(0, |(count, _)| count), dropped.len(), "{policy:?}");
            assert_eq!(cut.map(|(_, last)| last.dot.seq), dropped.last().copied());
        }
        let cut =
            state.stream_cut(&Surface::Routing, "nowhere", &Policy { last_n: Some(1), ..Policy::KEEP_ALL });
        assert_eq!(cut, None);
    }

    #[test]
    fn events_read_in_total_order_page_by_page() {
        let state =
            fresh(&[event(dot(0, 1), 7), event(dot(0, 2), 9), event(dot(1, 1), 7), event(dot(1, 2), 1)]);

        let all = state.events(&Surface::Routing, "row", None, 9);
        let order: Vec<Dot> = all.iter().map(|event| event.dot).collect();
        assert_eq!(order, [dot(1, 2), dot(1, 1), dot(0, 1), dot(0, 2)]);
        let mut paged = Vec::new();
        while let [event] = state.events(&Surface::Routing, "row", paged.last().copied(), 1)[..] {
            paged.push((event.hlc, event.dot));
        }
        assert_eq!(paged.len(), 4);
        assert_eq!(state.streams(&Surface::Routing, None, 9), [("row".to_owned(), 4)]);
        assert_eq!(state.seen(&Surface::Routing, "row").greatest, Hlc::new(9));
    }

    #[test]
    fn what_this_version_cannot_fold_is_kept_and_counted() {
        let mut state = State::new(SPACE);
        let at = |seq, kind, flags, body: &[u8]| {
            let mut op = put(dot(0, seq), 1, &[]);
            (op.kind, op.flags) = (kind, flags);
            op.body = body.to_vec();
            op
        };
        let good = put(dot(0, 1), 1, &[]).body;
        let surfaceless = |surface: &str| {
            let mut body = vec![surface.len() as u8];
            body.extend_from_slice(surface.as_bytes());
            body.extend_from_slice(b"\x01k\x00\x011");
            body
        };

        let unknown = Applied::Kept(OpProblem::Unknown);
        let malformed = Applied::Kept(OpProblem::Malformed);
        assert_eq!(apply(&mut state, &at(1, 7, 0, &good)), unknown);
        assert_eq!(apply(&mut state, &at(2, 1, 1, &good)), unknown);
        assert_eq!(apply(&mut state, &at(3, 1, 0, &surfaceless("dreams"))), unknown);
        assert_eq!(apply(&mut state, &at(4, 1, 0, &surfaceless("registry:A b"))), unknown);
        assert_eq!(apply(&mut state, &at(5, 1, 0, &surfaceless("skill"))), malformed);
        assert_eq!(apply(&mut state, &at(6, 1, 0, &surfaceless("intent"))), malformed);
        assert_eq!(apply(&mut state, &at(7, 1, 0, b"")), malformed);
        assert_eq!(apply(&mut state, &at(8, 3, 0, &good)), malformed);
        assert_eq!(apply(&mut state, &at(9, 1, 0, &good)), Applied::Shown);

        let counts = state.counts();
        assert_eq!((counts.ops, counts.unknown, counts.malformed, counts.live_rows), (9, 4, 4, 1));
        assert_eq!(state.surfaces().len(), 1);
    }

    #[test]
    #[should_panic(expected = "in order and without gaps")]
    fn a_gap_in_a_log_is_our_own_bug() {
        apply(&mut State::new(SPACE), &put(dot(0, 2), 1, &[]));
    }

    #[test]
    fn a_body_is_applied_whole_or_not_at_all_and_reports_every_folded_op() {
        let mut writer = BodyWriter::new();
        for op in [put(dot(0, 1), 3, &[]), delete(dot(0, 2), 4, &[dot(0, 1)])] {
            writer.push(op.hlc, op.kind, 0, &op.body);
        }
        writer.push(Hlc::new(5), 99, 0, b"");
        let (body, count) = writer.finish();
        let reader = |body, count| BodyReader::new(body, Seq::new(1), count).unwrap();
        let mut state = State::new(SPACE);
        let mut seen = Vec::new();

        let truncated = state.apply_body(&log(0), reader(&body[..body.len() - 1], count), &mut |_| {});
        assert!(matches!(truncated, Err(BodyError::Frame { index: 2, .. })));
        assert_eq!(state.applied(&log(0)), Seq::ZERO);

        state
            .apply_body(&log(0), reader(&body, count), &mut |change| {
                assert_eq!((change.surface, change.key), (&registry(), "row"));
                seen.push((change.dot, change.hlc, change.payload.map(str::to_owned), change.kind));
            })
            .unwrap();
        assert_eq!(
            seen,
            [
                (dot(0, 1), Hlc::new(3), Some("1".to_owned()), OpKind::Put),
                (dot(0, 2), Hlc::new(4), None, OpKind::Delete)
            ]
        );
        assert_eq!(state.applied_all(), [(log(0), Seq::new(3))].into());
    }

    #[test]
    fn an_op_written_again_counts_once_whichever_comes_first() {
        let ops = [put(dot(3, 1), 5, &[]), fact(dot(3, 2), 5, "1"), event(dot(3, 3), 5)];
        let copies: Vec<Written> = (1..).zip(&ops).map(|(seq, op)| reissued(dot(2, seq), op)).collect();
        let mut once = fresh(&ops);
        for orders in [[&ops[..], &copies[..]], [&copies[..], &ops[..]]] {
            let mut state = fresh(orders[0]);
            let shown = heads(&state, &registry());

            assert!(orders[1].iter().all(|op| apply(&mut state, op) == Applied::Again));

            assert_eq!(shown, [dot(3, 1)], "known by its first place");
            assert_eq!((state.root(), heads(&state, &registry())), (once.root(), shown));
            let counts = state.counts();
            assert_eq!((counts.ops, counts.live_rows, counts.events), (6, 2, 1));
            assert_eq!(state.row(&registry(), "row").unwrap().shown().place, dot(2, 1));
            assert_eq!(state.events(&Surface::Routing, "row", None, 9)[0].place, dot(2, 3));
            assert_eq!(state.relocated_count(), 3);
        }
    }

    #[test]
    fn what_was_replaced_does_not_come_back_when_it_is_written_again() {
        let first = put(dot(3, 1), 5, &[]);
        let mut state = fresh(&[first.clone(), put(dot(0, 1), 6, &[dot(3, 1)])]);

        assert_eq!(apply(&mut state, &reissued(dot(2, 1), &first)), Applied::Covered);

        assert_eq!(heads(&state, &registry()), [dot(0, 1)]);
    }

    #[test]
    fn two_ops_of_one_place_stand_side_by_side_and_are_named_together() {
        let (kept, given_up) = (put(dot(3, 1), 5, &[]), put(dot(3, 1), 6, &[]));
        let mut state = fresh(&[kept, reissued(dot(2, 1), &given_up)]);

        let row = state.row(&registry(), "row").unwrap();
        let places: Vec<_> = row.heads().iter().map(|head| (head.dot, head.hlc.get(), head.place)).collect();
        assert_eq!(places, [(dot(3, 1), 6, dot(2, 1)), (dot(3, 1), 5, dot(3, 1))]);
        assert!(row.is_conflict());
        let seen = state.seen(&registry(), "row");
        assert_eq!(
            (&seen.heads[..], seen.greatest),
            (&[dot(3, 1)][..], Hlc::new(6)),
            "one place, named once"
        );

        apply(&mut state, &put(dot(0, 1), 7, &seen.heads));
        assert_eq!(heads(&state, &registry()), [dot(0, 1)]);
    }

    #[test]
    fn nobody_writes_the_op_of_another_device_again() {
        let foreign = reissued(dot(0, 1), &put(dot(3, 1), 5, &[]));
        let mut state = State::new(SPACE);

        assert_eq!(apply(&mut state, &foreign), Applied::Kept(OpProblem::Malformed));

        assert_eq!(heads(&state, &registry()), []);
        let mut of_later = put(dot(3, 1), 5, &[]);
        of_later.kind = 999;
        let unknown = Applied::Kept(OpProblem::Unknown);
        assert_eq!(apply(&mut state, &reissued(dot(2, 1), &of_later)), unknown);
    }

    #[test]
    fn only_what_is_new_is_reported_and_under_its_first_place() {
        let op = put(dot(3, 1), 5, &[]);
        let (first, again) = (reissued(dot(2, 1), &op), reissued(dot(2, 2), &op));
        let mut writer = BodyWriter::new();
        for op in [first, again] {
            writer.push(op.hlc, op.kind, 0, &op.body);
        }
        let (body, count) = writer.finish();
        let mut seen = Vec::new();

        State::new(SPACE)
            .apply_body(&log(2), BodyReader::new(&body, Seq::new(1), count).unwrap(), &mut |change| {
                seen.push((change.dot, change.hlc, change.payload.map(str::to_owned), change.kind));
            })
            .unwrap();

        assert_eq!(seen, [(dot(3, 1), Hlc::new(5), Some("1".to_owned()), OpKind::Put)]);
    }

    fn check_against_definition(state: &mut State, ops: &[Written]) -> Result<(), TestCaseError> {
        let folded = reference::fold(ops);
        let mut conflicts = Vec::new();
        let (mut live, mut tombstones, mut events) = (0, 0, 0);
        for ((name, key), heads) in &folded {
            let surface: Surface = name.parse().unwrap();
            let mut expected: Vec<Head> = heads
                .iter()
                .map(|op| Head {
                    dot: op.id.0,
                    hlc: op.id.1,
                    place: reference::place(ops, op),
                    is_tombstone: reference::is_tombstone(op),
                    is_late: false,
                })
                .collect();
            if surface.tier() == Tier::Events {
                let found = state.events(&surface, key, None, usize::MAX);
                let found: Vec<_> = found.iter().map(|event| (event.hlc, event.dot, event.place)).collect();
                let expected: Vec<_> = expected.iter().map(|head| (head.hlc, head.dot, head.place)).collect();
                prop_assert_eq!(&found, &expected);
                for (index, (hlc, dot, _)) in expected.iter().enumerate() {
                    let rest = state.events(&surface, key, Some((*hlc, *dot)), usize::MAX);
                    prop_assert_eq!(rest.len(), expected.len() - index - 1);
                }
                events += expected.len() as u64;
                continue;
            }
            if surface.tier() == Tier::Ledger {
                let (agent, run) = split_intent_key(key).unwrap();
                let of_agent = folded.iter().filter(|((name, key), _)| {
                    *name == surface.to_string() && split_intent_key(key).unwrap().0 == agent
                });
                let of_agent: Vec<_> = of_agent.flat_map(|(_, intents)| intents).copied().collect();
                let (status, shown, losers) = reference::judge(heads, &of_agent);
                let view = state.run_state(agent, run, &reference::chain).unwrap();
                prop_assert_eq!((&*view.agent, &*view.run, view.status), (agent, run, status));
                prop_assert_eq!((view.shown().head.dot, view.shown().head.hlc), shown.id);
                let mut found: Vec<Head> = view.intents().iter().map(|intent| intent.head).collect();
                found.sort_by_key(|head| (head.hlc, head.dot.log, head.dot.seq));
                prop_assert_eq!(found, expected);
                let lost = view.intents().iter().filter(|intent| intent.standing.is_conflict());
                let mut lost: Vec<_> = lost.map(|intent| (intent.head.dot, intent.head.hlc)).collect();
                lost.sort_by_key(|(dot, hlc)| (*hlc, dot.log, dot.seq));
                prop_assert_eq!(&lost, &losers.iter().map(|loser| loser.id).collect::<Vec<_>>());
                if !lost.is_empty() {
                    conflicts.push((name.clone(), key.clone()));
                }
                live += 1;
                continue;
            }
            if surface.tier() == Tier::Registry {
                expected.reverse();
            }
            let row = state.row(&surface, key).unwrap();
            prop_assert_eq!(row.heads(), &expected[..]);
            let is_conflict = expected.len() > 1 && expected.iter().any(|head| !head.is_tombstone);
            prop_assert_eq!(row.is_conflict(), is_conflict);
            if is_conflict {
                conflicts.push((name.clone(), key.clone()));
            }
            live += u64::from(row.is_live());
            tombstones += u64::from(!row.is_live());
        }
        let found: Vec<_> = state
            .conflicts(None, 99, &reference::chain)
            .into_iter()
            .map(|found| (found.surface.to_string(), found.key))
            .collect();
        let is_intent = |(name, _): &&(String, String)| name == "intent";
        let intent_conflicts = conflicts.iter().filter(is_intent).count() as u64;
        prop_assert_eq!(found, conflicts);
        prop_assert_eq!(state.intent_conflict_count(&reference::chain), intent_conflicts);
        let counts = state.counts();
        prop_assert_eq!(counts.ops, ops.len() as u64);
        prop_assert_eq!((counts.live_rows, counts.tombstones, counts.events), (live, tombstones, events));
        prop_assert_eq!(
            counts.unknown + counts.malformed,
            ops.iter().filter(|op| op.op.is_none()).count() as u64
        );
        let superseded = reference::superseded(&folded);
        for (key, (by, _)) in &superseded {
            prop_assert_eq!(&state.superseded_by(&Surface::Skill, key), by);
        }
        let listed =
            |filter| state.rows(&Surface::Skill, None, 99, filter).into_iter().map(|listed| listed.key);
        let current = superseded.iter().filter(|(_, (_, is_hidden))| !is_hidden).map(|(key, _)| key);
        prop_assert_eq!(listed(RowFilter::Live).collect::<Vec<_>>(), current.cloned().collect::<Vec<_>>());
        let all = superseded.keys().cloned();
        prop_assert_eq!(listed(RowFilter::WithSuperseded).collect::<Vec<_>>(), all.collect::<Vec<_>>());
        prop_assert_eq!(state.root(), reference::root(&folded));
        prop_assert_eq!(state.root(), state.recomputed_root());
        Ok(())
    }

    proptest! {
        #[test]
        fn any_arrival_order_gives_the_state_the_definition_gives(
            ops in any_ops(),
            picks in prop::collection::vec(any::<u8>(), 1..40),
        ) {
            let mut state = State::new(SPACE);

            apply_interleaved(&mut state, &ops, &picks);

            check_against_definition(&mut state, &ops)?;
        }

        #[test]
        fn the_root_is_the_same_however_often_it_is_asked_for(ops in any_ops()) {
            let mut state = State::new(SPACE);

            for (index, op) in ops.iter().enumerate() {
                apply(&mut state, op);
                prop_assert_eq!(state.root(), reference::root(&reference::fold(&ops[..=index])));
            }
        }
    }
}
