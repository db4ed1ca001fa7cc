//! The state and how an op changes it.

use std::collections::BTreeMap;

use super::facts::{Content, Statement};
use super::logs::{Entry, LocalDot, LogIndex, Logs, Mark};
use super::root::{Leaves, Tree};
use super::rows::Write;
use super::tables::{Rows, Tables};
use crate::model::{Dot, Hlc, LogId, OpKind, Root, Seq, SpaceId, Surface};
use crate::wire::{BodyError, BodyReader, FrameView, OpProblem, OpView, Pred};

/// The folded state of one space: pure data, a function of the set of ops applied to it.
pub struct State {
    pub(super) space: SpaceId,
    pub(super) logs: Logs,
    pub(super) tables: Tables,
    pub(super) tree: Tree,
    pub(super) unknown_count: u64,
    pub(super) malformed_count: u64,
    preds: Preds,
}

/// What applying an op did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applied {
    /// Its row or entity now shows it, or it is an event.
    Shown,
    /// It is kept beside what its row or entity shows: a conflict, unless both are tombstones.
    Listed,
    /// It changed nothing to see: named by an op that arrived before it, or a fact already stated.
    Covered,
    /// It is kept and counted, and means nothing to this version.
    Kept(OpProblem),
}

/// One folded op, as [`State::apply_body`] reports it.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// The surface it touched.
    pub surface: &'a Surface,
    /// The row, entity or stream.
    pub key: &'a str,
    /// The op.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: Hlc,
    /// Its payload; `None` for a delete.
    pub payload: Option<&'a str>,
    /// Its kind.
    pub kind: OpKind,
    /// What it did; never [`Applied::Kept`].
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
            unknown_count: 0,
            malformed_count: 0,
            preds: Preds::default(),
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

    /// Folds the ops of a body and reports each one that is not merely kept, in order.
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
            }
        }
        tree.root(&self.space)
    }

    fn apply_reporting(
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
        let applied = match OpView::decode(frame.kind, frame.flags, frame.body) {
            Ok(op) => self.fold(log, index, frame, &op, on_change),
            Err(problem) => Applied::Kept(problem),
        };
        match applied {
            Applied::Kept(OpProblem::Unknown) => self.unknown_count += 1,
            Applied::Kept(OpProblem::Malformed) => self.malformed_count += 1,
            Applied::Shown | Applied::Listed | Applied::Covered => {}
        }
        self.logs.set_applied(index, frame.seq);
        applied
    }

    /// Whether an op is here from another place than its first one.
    pub fn is_relocated(&self, _dot: &Dot, _hlc: Hlc) -> bool {
        false
    }

    fn fold(
        &mut self,
        log: &LogId,
        index: LogIndex,
        frame: &FrameView<'_>,
        op: &OpView<'_>,
        on_change: &mut dyn FnMut(Change<'_>),
    ) -> Applied {
        let kind = kind_of(op);
        let (Some(name), Some(key)) = (op.surface(), op.key()) else {
            return Applied::Kept(OpProblem::Malformed);
        };
        let table = match self.tables.find_or_create(name, kind) {
            Ok(table) => table,
            Err(problem) => return Applied::Kept(problem),
        };
        let mark = if kind == OpKind::Delete { Mark::Tombstone } else { Mark::Live };
        let entry = Entry { hlc: frame.hlc, seq: frame.seq, log: index, mark };
        let applied = match (op, &mut table.rows) {
            (OpView::Put { preds, .. } | OpView::Delete { preds, .. }, Rows::Registers(registers)) => {
                self.preds.resolve(preds, log, entry.dot(), &mut self.logs);
                let write = Write { entry, arrived: &self.preds.arrived, pending: &self.preds.pending };
                registers.fold(key, &write, &self.logs, &mut leaves(&mut self.tree, &self.logs, name, key))
            }
            (OpView::Fact { payload, .. }, Rows::Facts(facts)) => {
                let statement = Statement { entry, content: Content::of(payload) };
                facts.fold(key, statement, &self.logs, &mut leaves(&mut self.tree, &self.logs, name, key))
            }
            (OpView::Event { .. }, Rows::Streams(streams)) => {
                streams.fold(name, key, entry, &self.logs, &mut self.tree);
                Applied::Shown
            }
            (
                OpView::Put { .. }
                | OpView::Delete { .. }
                | OpView::Fact { .. }
                | OpView::Event { .. }
                | OpView::Reissue(_),
                Rows::Registers(_) | Rows::Facts(_) | Rows::Streams(_),
            ) => return Applied::Kept(OpProblem::Malformed),
        };
        on_change(Change {
            surface: &table.surface,
            key,
            dot: Dot { log: *log, seq: frame.seq },
            hlc: frame.hlc,
            payload: op.payload(),
            kind,
            applied,
        });
        applied
    }
}

/// The predecessors of the op at hand, kept to save their allocation.
#[derive(Default)]
struct Preds {
    arrived: Vec<LocalDot>,
    pending: Vec<LocalDot>,
}

impl Preds {
    fn resolve(&mut self, preds: &[Pred], own: &LogId, of: LocalDot, logs: &mut Logs) {
        self.arrived.clear();
        self.pending.clear();
        for pred in preds {
            let dot = pred.dot(own);
            // Asking for another log would make the table forget whose ops are being applied.
            let log = if dot.log == *own { of.log } else { logs.find_or_add(&dot.log) };
            let local = LocalDot { log, seq: dot.seq };
            if logs.has(local) {
                self.arrived.push(local);
            } else if local != of {
                self.pending.push(local);
            }
        }
    }
}

fn leaves<'a>(tree: &'a mut Tree, logs: &'a Logs, surface: &str, key: &str) -> Leaves<'a> {
    let row = tree.row(surface, key);
    tree.leaves(row, logs)
}

const fn kind_of(op: &OpView<'_>) -> OpKind {
    match op {
        OpView::Put { .. } => OpKind::Put,
        OpView::Delete { .. } => OpKind::Delete,
        OpView::Fact { .. } => OpKind::Fact,
        OpView::Event { .. } | OpView::Reissue(_) => OpKind::Event,
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{self, SPACE, Written, any_ops, apply_interleaved, log, written};
    use super::super::{Head, RowFilter};
    use super::*;
    use crate::model::{Op, Payload, Tier};
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
        assert_eq!(state.conflicts(None, 9)[0].key, "row");
        let seen = state.seen(&registry(), "row");
        assert_eq!((&seen.heads[..], seen.greatest), (&[dot(1, 1), dot(0, 1)][..], Hlc::new(7)));

        apply(&mut state, &put(dot(1, 2), 8, &seen.heads));
        assert_eq!(heads(&state, &registry()), [dot(1, 2)]);
        assert_eq!(state.conflicts(None, 9), []);
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
        assert_eq!(apply(&mut state, &at(1, 5, 0, &good)), unknown);
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

    fn check_against_definition(state: &mut State, ops: &[Written]) -> Result<(), TestCaseError> {
        let folded = reference::fold(ops);
        let mut conflicts = Vec::new();
        let (mut live, mut tombstones, mut events) = (0, 0, 0);
        for ((name, key), heads) in &folded {
            let surface: Surface = name.parse().unwrap();
            let mut expected: Vec<Head> = heads
                .iter()
                .map(|op| Head { dot: op.dot, hlc: op.hlc, is_tombstone: reference::is_tombstone(op) })
                .collect();
            if surface.tier() == Tier::Events {
                let found = state.events(&surface, key, None, usize::MAX);
                let found: Vec<_> = found.iter().map(|event| (event.hlc, event.dot)).collect();
                let expected: Vec<_> = expected.iter().map(|head| (head.hlc, head.dot)).collect();
                prop_assert_eq!(&found, &expected);
                for (index, at) in expected.iter().enumerate() {
                    let rest = state.events(&surface, key, Some(*at), usize::MAX);
                    prop_assert_eq!(rest.len(), expected.len() - index - 1);
                }
                events += expected.len() as u64;
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
            .conflicts(None, 99)
            .into_iter()
            .map(|found| (found.surface.to_string(), found.key))
            .collect();
        prop_assert_eq!(found, conflicts);
        let counts = state.counts();
        prop_assert_eq!(counts.ops, ops.len() as u64);
        prop_assert_eq!((counts.live_rows, counts.tombstones, counts.events), (live, tombstones, events));
        prop_assert_eq!(
            counts.unknown + counts.malformed,
            ops.iter().filter(|op| op.op.is_none()).count() as u64
        );
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
