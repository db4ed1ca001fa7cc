//! Whether what an op says is in a state: asked of ops that no frontier tells anything about, because they stand in
//! another history of their log than the one that was folded.

use super::facts::Content;
use super::key::Key;
use super::logs::{Entry, LocalDot, Mark};
use super::retention::POLICY_SURFACE;
use super::root::{RowHash, row_bytes};
use super::state::State;
use super::tables::Rows;
use crate::model::{Dot, Hlc, Surface, Tier, intent_key};
use crate::wire::OpView;

impl State {
    /// Whether the op of this place and stamp, the first it was written under, is folded here: it shows or is
    /// listed, another one has named it since, or the fact that it states is stated. So is what means nothing to
    /// this version, and what a policy may have dropped: there is or was one for its surface.
    pub fn knows(&self, dot: &Dot, hlc: Hlc, kind: u16, flags: u8, body: &[u8]) -> bool {
        let Ok(op) = OpView::decode(kind, flags, body) else { return true };
        let (Some(name), Some(key)) = (op.surface(), op.key()) else { return true };
        let Ok(surface) = name.parse::<Surface>() else { return true };
        let is_of_tier = match surface.tier() {
            Tier::Registry => matches!(op, OpView::Put { .. } | OpView::Delete { .. }),
            Tier::Facts => matches!(op, OpView::Fact { .. }),
            Tier::Events => matches!(op, OpView::Event { .. }),
            Tier::Ledger => matches!(op, OpView::Intent { .. }),
        };
        if !is_of_tier {
            return true;
        }
        let mark = if matches!(op, OpView::Delete { .. }) { Mark::Tombstone } else { Mark::Live };
        let entry = |log| Entry::new(LocalDot { log, seq: dot.seq }, hlc, mark);
        let entry = self.logs.find(&dot.log).map(entry);
        if surface.tier() == Tier::Registry
            && let Some(entry) = entry
            && self.covered.contains(entry.dot(), RowHash::of(&row_bytes(name, key)).tag())
        {
            return true;
        }
        // A surface of which no row is left is in no checkpoint.
        let Some(table) = self.tables.find(&surface) else { return self.has_policy(name) };
        match (&op, &table.rows) {
            (OpView::Put { .. } | OpView::Delete { .. }, Rows::Registers(registers)) => {
                let Some(entry) = entry else { return false };
                let is_head = || {
                    let row = registers.rows().get(&Key::new(key));
                    row.is_some_and(|row| row.heads().iter().any(|head| head.written() == entry))
                };
                is_head()
            }
            (OpView::Fact { payload, .. }, Rows::Facts(facts)) => {
                let content = Content::of(payload);
                let entity = facts.entities().get(&Key::new(key));
                let statements = entity.map_or(&[][..], |entity| entity.statements());
                statements.iter().any(|said| said.content == content) || self.has_policy(name)
            }
            (OpView::Event { .. }, Rows::Streams(streams)) => {
                let stream = streams.streams().get(&Key::new(key));
                let is_in = |entry| stream.is_some_and(|stream| stream.contains(&entry, &self.logs));
                entry.is_some_and(is_in) || self.has_policy(name)
            }
            (OpView::Intent { agent, run, .. }, Rows::Ledger(ledger)) => {
                let run = ledger.runs().get(&Key::new(&intent_key(agent, run)));
                let intents = run.map_or(&[][..], |run| run.intents());
                entry.is_some_and(|entry| intents.iter().any(|intent| intent.entry.written() == entry))
            }
            // Kept, and it means nothing.
            (
                OpView::Put { .. }
                | OpView::Delete { .. }
                | OpView::Fact { .. }
                | OpView::Event { .. }
                | OpView::Intent { .. }
                | OpView::Reissue(_),
                Rows::Registers(_) | Rows::Facts(_) | Rows::Streams(_) | Rows::Ledger(_),
            ) => true,
        }
    }

    fn has_policy(&self, surface: &str) -> bool {
        let rows: Surface = POLICY_SURFACE.parse().expect("it is the name of a surface");
        self.row(&rows, surface).is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::reference::{SPACE, Written, any_ops, apply_interleaved, log, reissued, written};
    use super::super::snapshot::StateBuilder;
    use super::*;
    use crate::model::{Op, Payload, Seq};
    use crate::wire::Original;

    fn knows(state: &State, op: &Written) -> bool {
        match OpView::decode(op.kind, op.flags, &op.body) {
            Ok(OpView::Reissue(original)) => {
                let Original { hlc, kind, flags, body, .. } = original;
                original.log.device != op.dot.log.device
                    || state.knows(&original.dot(), hlc, kind, flags, body)
            }
            _ => state.knows(&op.dot, op.hlc, op.kind, op.flags, &op.body),
        }
    }

    fn put(seq: u64, hlc: u64, surface: &str, preds: &[Dot]) -> Written {
        let (surface, payload) = (surface.parse().unwrap(), Payload::parse("1").unwrap());
        let op = Op::Put { surface, key: "k".into(), preds: preds.to_vec(), payload };
        written(Dot { log: log(0), seq: Seq::new(seq) }, hlc, op)
    }

    fn event(seq: u64, hlc: u64) -> Written {
        let (surface, payload) = (Surface::Conversation, Payload::parse("1").unwrap());
        let op = Op::Event { surface, stream: "k".into(), payload };
        written(Dot { log: log(0), seq: Seq::new(seq) }, hlc, op)
    }

    #[test]
    fn another_op_of_the_same_place_is_not_known() {
        let mut state = State::new(SPACE);
        apply_interleaved(&mut state, &[put(1, 5, "registry:a", &[]), event(2, 6)], &[]);

        assert!(knows(&state, &put(1, 5, "registry:a", &[])) && knows(&state, &event(2, 6)));
        assert!(!knows(&state, &put(1, 7, "registry:a", &[])), "another stamp");
        assert!(!knows(&state, &put(1, 5, "registry:b", &[])), "another row");
        assert!(!knows(&state, &event(1, 5)) && !knows(&state, &event(3, 6)));
        let lost = put(9, 9, "registry:a", &[]);
        assert!(!knows(&state, &lost));
        apply_interleaved(
            &mut state,
            &[reissued(Dot { log: log(3), seq: Seq::new(1) }, &put(9, 9, "registry:a", &[]))],
            &[],
        );
        assert!(!knows(&state, &lost), "it was written again by another device");
    }

    #[test]
    fn what_a_policy_may_have_dropped_is_known() {
        let mut state = State::new(SPACE);
        assert!(!knows(&state, &event(1, 5)));
        let (surface, payload) =
            (POLICY_SURFACE.parse().unwrap(), Payload::parse(r#"{"last_n":1}"#).unwrap());
        let op = Op::Put { surface, key: "conversation".into(), preds: Vec::new(), payload };
        let policy = Dot { log: log(1), seq: Seq::new(1) };
        let removal = Op::Delete {
            surface: POLICY_SURFACE.parse().unwrap(),
            key: "conversation".into(),
            preds: vec![policy],
        };
        apply_interleaved(&mut state, &[written(policy, 1, op)], &[]);
        assert!(knows(&state, &event(1, 5)));
        apply_interleaved(&mut state, &[written(Dot { seq: Seq::new(2), ..policy }, 2, removal)], &[]);
        assert!(knows(&state, &event(1, 5)), "there was one");
    }

    proptest! {
        #[test]
        fn every_op_that_is_folded_is_known(ops in any_ops(), picks in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut state = State::new(SPACE);
            apply_interleaved(&mut state, &ops, &picks);

            let mut chunks = StateBuilder::new();
            state.encode(&mut |chunk| chunks.push(chunk).unwrap());
            for state in [chunks.finish().unwrap(), state] {
                for op in &ops {
                    prop_assert!(knows(&state, op), "{:?}", op);
                }
            }
        }
    }
}
