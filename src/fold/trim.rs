//! What a checkpoint keeps of a state: without what policies drop, and with what is late marked for good.
//!
//! What is dropped here is gone with the history below the checkpoint, so it is never more than what the
//! policy hides, and less in three cases. Ages count from the greatest stamp of the surface that *two*
//! devices have reached, where two write to it: one device with a clock in the years to come takes nothing
//! from the others. A fact that supersedes one that is kept is kept, and what supersedes that: a listing
//! goes on passing over what it has passed over. And a fact whose conflict is open is somebody's to settle.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::Facts;
use super::key::Key;
use super::retention::{POLICY_SURFACE, Policy, kept_of, plan_against};
use super::runs::NoChain;
use super::state::State;
use super::tables::Rows;
use crate::model::{DeviceId, Dot, Payload, Surface};

/// What a checkpoint leaves out of a state, and what it marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LaidDown {
    /// Entities that a policy drops.
    pub entities: u64,
    /// Events that a policy drops.
    pub events: u64,
    /// Heads that came to a removal which the checkpoint before holds.
    pub late: u64,
}

/// Gives the payload of the op at a place.
pub type PayloadAt<'a, E> = dyn FnMut(&Dot) -> Result<Option<Payload>, E> + 'a;

impl State {
    /// Makes of a state what a checkpoint keeps of it: a function of the state and of the checkpoint that
    /// it was folded onto. From then on everything in it counts as laid down.
    ///
    /// # Errors
    /// Those of reading a payload; the state is of no further use then.
    pub fn lay_down<E>(&mut self, payload: &mut PayloadAt<'_, E>) -> Result<LaidDown, E> {
        let mut laid = LaidDown::default();
        let surfaces: Vec<Surface> = self.tables.by_name().map(|table| table.surface.clone()).collect();
        for surface in &surfaces {
            let policy = self.policy(surface, payload)?;
            if policy.is_keep_all() {
                continue;
            }
            laid.entities += self.drop_entities(surface, &policy, payload)?;
            laid.events += self.drop_events(surface, &policy);
        }
        for surface in &surfaces {
            if let Some(Rows::Registers(registers)) =
                self.tables.find_mut(surface).map(|table| &mut table.rows)
            {
                laid.late += registers.lay_down();
            }
        }
        self.logs.lay_down();
        Ok(laid)
    }

    fn policy<E>(&self, surface: &Surface, payload: &mut PayloadAt<'_, E>) -> Result<Policy, E> {
        let rows: Surface = POLICY_SURFACE.parse().expect("it is the name of a surface");
        let row = self.row(&rows, &surface.to_string()).filter(|row| row.is_live());
        let Some(row) = row else { return Ok(Policy::KEEP_ALL) };
        let said = payload(&row.shown().place)?;
        Ok(said.and_then(|said| Policy::parse(surface, &said).ok()).unwrap_or_default())
    }

    fn drop_entities<E>(
        &mut self,
        surface: &Surface,
        policy: &Policy,
        payload: &mut PayloadAt<'_, E>,
    ) -> Result<u64, E> {
        let entities = self.entities(surface);
        let mut agents = vec![None; entities.len()];
        if policy.per_agent.is_some() {
            for (agent, (_, head)) in agents.iter_mut().zip(&entities) {
                *agent = payload(&head.place)?
                    .and_then(|said| said.string_member("agent_id").or_else(|| said.string_member("agent")));
            }
        }
        let all = kept_of(&entities, &agents);
        let greatest_ms = greatest_of_two(all.iter().map(|kept| (kept.dot.log.device, kept.timestamp_ms)));
        let mut dropped = plan_against(&all, policy, greatest_ms);
        dropped.retain(|key| self.conflict(surface, key, &NoChain).is_none());
        let Some(table) = self.tables.find_mut(surface) else { return Ok(0) };
        let Rows::Facts(facts) = &mut table.rows else { return Ok(0) };
        let dropped = without_superseding(facts, dropped.into_iter().map(Key::new).collect());
        for key in &dropped {
            let row = self.tree.row(&table.name, key.as_str());
            facts.drop_entity(key, &mut self.tree.leaves(row, &self.logs));
        }
        Ok(dropped.len() as u64)
    }

    fn drop_events(&mut self, surface: &Surface, policy: &Policy) -> u64 {
        let Some(table) = self.tables.find_mut(surface) else { return 0 };
        let Rows::Streams(streams) = &mut table.rows else { return 0 };
        let logs = &self.logs;
        let all = streams.streams().values().flat_map(|stream| stream.iter(None, logs));
        let greatest_ms = greatest_of_two(all.map(|event| (logs.id(event.log).device, event.hlc.millis())));
        let oldest_ms = policy.oldest_kept_ms(greatest_ms);
        let mut counts = Vec::new();
        for (key, stream) in streams.streams() {
            let beyond =
                policy.last_n.map_or(0, |limit| stream.event_count().saturating_sub(u64::from(limit)));
            // In total order, stamps rise: what is dropped is the beginning.
            let is_old = stream.iter(None, logs).take_while(|event| event.hlc.millis() < oldest_ms).count();
            let count = is_old.max(usize::try_from(beyond).unwrap_or(usize::MAX));
            if count > 0 {
                counts.push((key.clone(), count));
            }
        }
        let before = streams.event_count();
        for (key, count) in counts {
            streams.drop_first(&key, count, logs, &mut self.tree);
        }
        before - streams.event_count()
    }
}

/// The greatest timestamp that two devices have reached, or the one there is has.
fn greatest_of_two(all: impl Iterator<Item = (DeviceId, u64)>) -> u64 {
    let mut greatest: BTreeMap<DeviceId, u64> = BTreeMap::new();
    for (device, timestamp_ms) in all {
        let of_device = greatest.entry(device).or_default();
        *of_device = timestamp_ms.max(*of_device);
    }
    let mut greatest: Vec<u64> = greatest.into_values().collect();
    greatest.sort_unstable_by(|a, b| b.cmp(a));
    greatest.get(1).or_else(|| greatest.first()).copied().unwrap_or(0)
}

/// Of the entities to be dropped those that supersede no kept one, over however many.
fn without_superseding(facts: &Facts, mut dropped: BTreeSet<Key>) -> BTreeSet<Key> {
    let mut kept: Vec<Key> = facts.entities().keys().filter(|key| !dropped.contains(*key)).cloned().collect();
    while let Some(key) = kept.pop() {
        for by in facts.superseding(&key) {
            if dropped.remove(by) {
                kept.push(by.clone());
            }
        }
    }
    dropped
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::super::checkpoint::tests::{index, made, restored};
    use super::super::reference::{SPACE, Written, any_ops, apply_interleaved, log, written};
    use super::super::{OpName, RowFilter, resolution_key, resolutions};
    use super::*;
    use crate::model::{Op, Seq};
    use crate::wire::OpView;

    const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

    /// Ops of some logs as they are written, each with the day it says it was written on.
    #[derive(Default)]
    struct Ops(Vec<Written>);

    impl Ops {
        fn add(&mut self, device: usize, day: u64, op: Op) -> Dot {
            let seq = self.0.iter().filter(|op| op.dot.log == log(device)).count() as u64 + 1;
            let dot = Dot { log: log(device), seq: Seq::new(seq) };
            self.0.push(written(dot, (day * DAY_MS) << 16, op));
            dot
        }

        fn event(&mut self, device: usize, day: u64, stream: &str) -> Dot {
            let payload = Payload::parse("1").unwrap();
            self.add(
                device,
                day,
                Op::Event { surface: Surface::Conversation, stream: stream.into(), payload },
            )
        }

        fn fact(&mut self, device: usize, day: u64, key: &str, payload: &str) -> Dot {
            let payload = Payload::parse(payload).unwrap();
            self.add(device, day, Op::Fact { surface: Surface::Run, key: key.into(), payload })
        }

        fn policy(&mut self, surface: &Surface, payload: &str) {
            let (key, payload) = (surface.to_string().into(), Payload::parse(payload).unwrap());
            let put = Op::Put { surface: POLICY_SURFACE.parse().unwrap(), key, preds: Vec::new(), payload };
            self.add(4, 1, put);
        }

        fn put(&mut self, device: usize, day: u64, preds: &[Dot]) -> Dot {
            let payload = Payload::parse(&day.to_string()).unwrap();
            self.add(
                device,
                day,
                Op::Put { surface: note(), key: "row".into(), preds: preds.to_vec(), payload },
            )
        }

        fn delete(&mut self, device: usize, day: u64, preds: &[Dot]) -> Dot {
            self.add(device, day, Op::Delete { surface: note(), key: "row".into(), preds: preds.to_vec() })
        }

        fn apply(&self, state: &mut State) {
            for op in self.0.iter().filter(|op| op.dot.seq > state.applied(&op.dot.log)).collect::<Vec<_>>() {
                state.apply(&op.dot.log, &op.frame());
            }
        }

        fn state(&self) -> State {
            let mut state = State::new(SPACE);
            self.apply(&mut state);
            state
        }

        fn lay_down(&self, state: &mut State) -> LaidDown {
            lay_down(state, &self.0)
        }
    }

    fn lay_down(state: &mut State, ops: &[Written]) -> LaidDown {
        let laid = state.lay_down(&mut |place| {
            let op = ops.iter().find(|op| op.dot == *place).expect("it is an op of the test");
            let view = OpView::decode(op.kind, op.flags, &op.body).ok();
            let payload = view.and_then(|view| view.payload().and_then(|text| Payload::parse(text).ok()));
            Ok::<_, Infallible>(payload)
        });
        let Ok(laid) = laid;
        assert_eq!(state.root(), state.recomputed_root(), "the sums are those of the rows that are left");
        laid
    }

    fn note() -> Surface {
        "registry:note".parse().unwrap()
    }

    fn runs(state: &State) -> Vec<String> {
        let rows = state.rows(&Surface::Run, None, 99, RowFilter::WithSuperseded);
        rows.into_iter().map(|row| row.key).collect()
    }

    /// A state that was laid down, read back from a checkpoint.
    fn read_back(state: &State, ops: &[Written]) -> State {
        let read = restored(&made(state, ops)).unwrap();
        assert_eq!(index(&read), index(state));
        read
    }

    #[test]
    fn events_beyond_the_limit_and_past_their_age_are_dropped_and_no_others() {
        let mut ops = Ops::default();
        for day in 1..=10 {
            ops.event(0, day, "a");
        }
        ops.event(1, 10, "b");
        ops.event(1, 2, "old");
        let everything = ops.state().root();
        ops.policy(&Surface::Conversation, r#"{"last_n":4,"max_age_days":5}"#);
        let mut state = ops.state();
        let laid = ops.lay_down(&mut state);

        assert_eq!(laid, LaidDown { events: 7, ..LaidDown::default() });
        assert_eq!(state.event_count(&Surface::Conversation, "a"), 4);
        assert_eq!(
            state.streams(&Surface::Conversation, None, 9),
            [("a".to_owned(), 4), ("b".to_owned(), 1)]
        );
        let left: Vec<u64> = state
            .events(&Surface::Conversation, "a", None, 9)
            .iter()
            .map(|event| event.dot.seq.get())
            .collect();
        assert_eq!(left, [7, 8, 9, 10]);
        assert_eq!(state.pointed().len(), 6, "the policy and five events");
        assert_ne!(state.root(), everything);
        assert_eq!(ops.lay_down(&mut state), LaidDown::default(), "of what it keeps it drops nothing");
        assert_eq!(read_back(&state, &ops.0).root(), state.root());
    }

    #[test]
    fn a_device_of_the_years_to_come_takes_nothing_from_the_others() {
        let mut ops = Ops::default();
        ops.policy(&Surface::Conversation, r#"{"max_age_days":30}"#);
        ops.event(0, 100, "a");
        ops.event(1, 101, "a");
        ops.event(2, 40_000, "a");
        let mut state = ops.state();

        assert_eq!(ops.lay_down(&mut state).events, 0);
        ops.event(1, 40_001, "a");
        let mut state = ops.state();
        assert_eq!(ops.lay_down(&mut state).events, 2, "two say that it is that late");
        let mut alone = Ops::default();
        alone.policy(&Surface::Conversation, r#"{"max_age_days":30}"#);
        alone.event(0, 1, "a");
        alone.event(0, 99, "a");
        assert_eq!(alone.lay_down(&mut alone.state()).events, 1, "nobody else is there to ask");
    }

    #[test]
    fn entities_are_dropped_by_agent_and_age_with_all_that_is_said_of_them() {
        let mut ops = Ops::default();
        for (day, agent) in [(1, "x"), (2, "y"), (3, "x"), (4, "x")] {
            ops.fact(0, day, &format!("{agent}{day}"), &format!(r#"{{"agent":"{agent}","day":{day}}}"#));
        }
        let loser = ops.fact(1, 2, "x1", r#"{"agent":"x","said":"otherwise"}"#);
        ops.policy(&Surface::Run, r#"{"per_agent":2}"#);
        let mut state = ops.state();
        assert_eq!(
            (state.counts().conflicts, ops.lay_down(&mut state).entities),
            (1, 0),
            "nobody has settled it"
        );
        let hlc = state.row(&Surface::Run, "x1").unwrap().others()[0].hlc;
        let key = resolution_key(&Surface::Run, "x1", &OpName { dot: loser, hlc }, &log(0).device);
        let payload = Payload::parse("{}").unwrap();
        ops.add(0, 5, Op::Put { surface: resolutions(), key: key.into(), preds: Vec::new(), payload });
        ops.apply(&mut state);

        assert_eq!(ops.lay_down(&mut state).entities, 1);
        assert_eq!(runs(&state), ["x3", "x4", "y2"]);
        assert_eq!(state.counts().conflicts, 0);
        ops.fact(1, 9, "x1", r#"{"agent":"x","said":"again"}"#);
        ops.apply(&mut state);
        assert_eq!(runs(&state), ["x1", "x3", "x4", "y2"], "what comes late is there until the next time");
    }

    #[test]
    fn a_fact_that_supersedes_a_kept_one_is_kept_over_however_many() {
        let mut ops = Ops::default();
        ops.fact(0, 1, "third", r#"{"agent":"x","supersedes":"second"}"#);
        ops.fact(0, 2, "second", r#"{"agent":"x","supersedes":["first","nothing"]}"#);
        ops.fact(0, 3, "gone", r#"{"agent":"x","supersedes":"third too"}"#);
        ops.fact(0, 9, "first", r#"{"agent":"x"}"#);
        ops.policy(&Surface::Run, r#"{"last_n":1}"#);
        let mut state = ops.state();

        assert_eq!(ops.lay_down(&mut state).entities, 1);
        assert_eq!(runs(&state), ["first", "second", "third"]);
        assert_eq!(
            state.rows(&Surface::Run, None, 9, RowFilter::Live).len(),
            1,
            "listed are those at the end"
        );
        read_back(&state, &ops.0);
    }

    #[test]
    fn a_policy_that_is_none_or_was_removed_drops_nothing() {
        for policy in [r#"{"keep":"all"}"#, r#"{"last_n":0}"#, "7"] {
            let mut ops = Ops::default();
            ops.event(0, 1, "a");
            ops.event(0, 2_000, "a");
            ops.policy(&Surface::Conversation, policy);
            assert_eq!(ops.lay_down(&mut ops.state()), LaidDown::default(), "{policy}");
        }
    }

    #[test]
    fn a_value_that_comes_to_a_removal_laid_down_is_listed_and_does_not_show() {
        let mut ops = Ops::default();
        let first = ops.put(0, 1, &[]);
        let removal = ops.delete(0, 2, &[first]);
        let mut base = ops.state();
        ops.lay_down(&mut base);
        let late = ops.put(1, 9, &[first]);
        ops.apply(&mut base);
        let mut other = ops.state();

        let shown = |state: &State| state.row(&note(), "row").unwrap().shown().dot;
        assert_eq!(
            (shown(&base), shown(&other)),
            (removal, late),
            "where nothing is laid down the later shows"
        );
        let row = base.row(&note(), "row").unwrap();
        assert!(row.is_conflict() && !row.is_live() && row.others()[0].is_late && !row.shown().is_late);
        assert_eq!((base.counts().live_rows, base.counts().tombstones), (0, 1));
        assert_eq!(base.conflicts(None, 9, &NoChain).len(), 1);
        assert_eq!(base.root(), other.root(), "it is the same row");

        assert_eq!(ops.lay_down(&mut base).late, 1);
        assert_eq!(shown(&base), removal, "it stays so in the checkpoint that holds it");
        let mut base = read_back(&base, &ops.0);
        assert_eq!((shown(&base), base.counts().tombstones), (removal, 1));
        assert!(base.row(&note(), "row").unwrap().others()[0].is_late);
        ops.lay_down(&mut other);
        assert_eq!(shown(&other), late);

        let settled = ops.put(0, 10, &[removal, late]);
        ops.apply(&mut base);
        assert_eq!((shown(&base), base.counts().conflicts, base.counts().live_rows), (settled, 0, 1));
    }

    #[test]
    fn whoever_saw_the_removal_writes_the_row_anew_and_it_shows() {
        let mut ops = Ops::default();
        let first = ops.put(0, 1, &[]);
        let removal = ops.delete(0, 2, &[first]);
        let mut base = ops.state();
        ops.lay_down(&mut base);
        let late = ops.put(1, 9, &[first]);
        let anew = ops.put(0, 3, &[removal]);
        let mut turned = Ops(ops.0.iter().rev().cloned().collect());
        turned.0.sort_by_key(|op| op.dot.seq);
        let mut other = read_back(&base, &ops.0);
        ops.apply(&mut base);
        turned.apply(&mut other);

        for state in [&base, &other] {
            let row = state.row(&note(), "row").unwrap();
            let heads: Vec<Dot> = row.heads().iter().map(|head| head.dot).collect();
            assert_eq!(heads, [late, anew], "two values, of which the greatest shows");
        }
    }

    proptest! {
        #[test]
        fn what_is_laid_down_hangs_on_the_ops_and_the_checkpoint_before_and_not_on_their_order(
            ops in any_ops(),
            cut in 0usize..50,
            picks in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut base = State::new(SPACE);
            let cut = cut.min(ops.len());
            apply_interleaved(&mut base, &ops[..cut], &picks);
            lay_down(&mut base, &ops);
            let read = || read_back(&base, &ops);
            let (mut one, mut other, mut whole) = (read(), read(), State::new(SPACE));
            apply_interleaved(&mut one, &ops[cut..], &picks);
            apply_interleaved(&mut other, &ops[cut..], &[]);
            apply_interleaved(&mut whole, &ops, &picks);

            prop_assert_eq!(one.root(), whole.root(), "without policies, nothing but what shows is another");
            prop_assert_eq!(one.counts(), other.counts());
            lay_down(&mut one, &ops);
            lay_down(&mut other, &ops);
            prop_assert_eq!(made(&one, &ops), made(&other, &ops));
            prop_assert_eq!(one.counts(), read_back(&one, &ops).counts());
        }
    }
}
