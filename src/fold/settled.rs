//! Which losing ops somebody has dealt with: the rows that say so, and their names.
//!
//! What is decided about a conflict is a row of the surface [`RESOLUTIONS`], so it reaches every
//! device and stays. A row's key names what was decided about:
//! `HASH/LOG:SEQ@HLC/DEVICE`, where `HASH` are the first 16 bytes of the conflict's row hash in
//! hexadecimal, `LOG:SEQ@HLC` is a losing op ([`OpName`]), and `DEVICE` decided. With the device in
//! it, two devices that decide at once make two rows and no conflict; with the rest in front, the
//! index answers whether an op is dealt with, without opening any payload.

use std::fmt;

use super::key::Key;
use super::logs::{Entry, LocalDot, Mark};
use super::query::{Head, ListedRow, RowView};
use super::root::row_bytes;
use super::rows::Registers;
use super::runs::Lineage;
use super::state::State;
use super::tables::{Rows, Table};
use crate::model::{DeviceId, Dot, Hlc, Seq, Surface, Tier};

/// The surface that keeps what was decided about conflicts.
pub const RESOLUTIONS: &str = "registry:resolution";

/// [`RESOLUTIONS`] as a surface.
pub fn resolutions() -> Surface {
    RESOLUTIONS.parse().expect("it is a registry kind")
}

/// An op by its first place and its stamp: `LOG:SEQ@HLC`. Two lives of a device may give one place
/// to two ops; with the stamp it is one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OpName {
    /// Its first place.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: Hlc,
}

impl OpName {
    /// Reads the text form; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (log, rest) = text.split_once(':')?;
        let (seq, hlc) = rest.split_once('@')?;
        let dot = Dot { log: log.parse().ok()?, seq: Seq::new(seq.parse().ok()?) };
        Some(Self { dot, hlc: Hlc::new(hlc.parse().ok()?) })
    }
}

impl fmt::Display for OpName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}@{}", self.dot.log, self.dot.seq.get(), self.hlc.get())
    }
}

impl From<&Head> for OpName {
    fn from(head: &Head) -> Self {
        Self { dot: head.dot, hlc: head.hlc }
    }
}

/// The key under which a device keeps what it decided about a conflict with this losing op.
pub fn resolution_key(surface: &Surface, key: &str, loser: &OpName, by: &DeviceId) -> String {
    format!("{}{loser}/{by}", row_prefix(surface, key))
}

/// What the keys of everything decided about one row begin with.
fn row_prefix(surface: &Surface, key: &str) -> String {
    let hash = blake3::hash(&row_bytes(&surface.to_string(), key)).to_hex();
    format!("{}/", &hash[..HASH_CHARACTERS])
}

impl State {
    /// Whether somebody has decided about this losing op of the row.
    pub fn is_settled(&self, surface: &Surface, key: &str, loser: &OpName) -> bool {
        let Some((_, registers)) = self.resolution_table() else { return false };
        let prefix = format!("{}{loser}/", row_prefix(surface, key));
        let decided = registers.rows().range(Key::new(&prefix)..);
        let mut decided = decided.take_while(|(key, _)| key.as_str().starts_with(&prefix));
        decided.any(|(_, row)| row.heads().last().is_some_and(|head| head.mark == Mark::Live))
    }

    /// Whether the values of a row still stand against each other. A row of the registry tier is
    /// settled by a write; of everything else the losers can only be looked at.
    pub fn is_open(&self, surface: &Surface, key: &str, row: &RowView) -> bool {
        let is_settled = |head: &Head| self.is_settled(surface, key, &OpName::from(head));
        row.is_conflict() && (surface.tier() == Tier::Registry || !row.others().iter().all(is_settled))
    }

    /// Rows, entities and runs whose conflict is open: nobody has settled it.
    pub fn open_conflict_count(&self, lineage: &dyn Lineage) -> u64 {
        let count = |table: &Table| match &table.rows {
            Rows::Registers(registers) => registers.conflicts().len(),
            Rows::Facts(facts) if self.resolution_table().is_none() => facts.conflicts().len(),
            Rows::Facts(facts) => {
                let is_open = |key: &&Key| self.is_open_entity(&table.surface, key.as_str());
                facts.conflicts().iter().filter(is_open).count()
            }
            Rows::Streams(_) | Rows::Ledger(_) => 0,
        };
        let held: u64 = self.tables.by_name().map(|table| count(table) as u64).sum();
        held + self.intent_conflict_count(lineage)
    }

    /// The open conflict of a row, entity or run.
    pub fn conflict(&self, surface: &Surface, key: &str, lineage: &dyn Lineage) -> Option<RowView> {
        if surface.tier() == Tier::Ledger {
            return self.intent_conflicts(None, lineage).find(|run| run.key == key).map(|run| run.row);
        }
        self.row(surface, key).filter(|row| self.is_open(surface, key, row))
    }

    fn is_open_entity(&self, surface: &Surface, key: &str) -> bool {
        self.row(surface, key).is_some_and(|row| self.is_open(surface, key, &row))
    }

    /// What was decided, about one row or about all.
    pub fn decisions(&self, of: Option<(&Surface, &str)>) -> Vec<ListedRow> {
        let Some((table, registers)) = self.resolution_table() else { return Vec::new() };
        let prefix = of.map_or(String::new(), |(surface, key)| row_prefix(surface, key));
        let rows = registers.rows().range(Key::new(&prefix)..);
        let rows = rows.take_while(|(key, _)| key.as_str().starts_with(&prefix));
        let listed = rows.map(|(key, row)| ListedRow {
            key: key.as_str().to_owned(),
            row: self.view(table, key.as_str()).row(row),
        });
        listed.filter(|listed| listed.row.is_live()).collect()
    }

    /// Where an op of a row can be read: its first place, or where it was written again.
    pub fn place_of(&self, surface: &Surface, key: &str, op: &OpName) -> Dot {
        let found = self.tables.find(surface).zip(self.logs.find(&op.dot.log));
        let Some((table, log)) = found else { return op.dot };
        let view = self.view(table, key);
        let places = [Mark::Live, Mark::Tombstone]
            .map(|mark| view.place(&Entry::new(LocalDot { log, seq: op.dot.seq }, op.hlc, mark)));
        places.into_iter().find(|place| *place != op.dot).unwrap_or(op.dot)
    }

    fn resolution_table(&self) -> Option<(&Table, &Registers)> {
        let table = self.tables.find(&resolutions())?;
        match &table.rows {
            Rows::Registers(registers) => Some((table, registers)),
            Rows::Facts(_) | Rows::Streams(_) | Rows::Ledger(_) => None,
        }
    }
}

/// 16 bytes tell rows apart for good.
const HASH_CHARACTERS: usize = 32;

#[cfg(test)]
mod tests {
    use super::super::reference::{SPACE, log, written};
    use super::super::{NoChain, RowFilter};
    use super::*;
    use crate::model::{Op, Payload};

    fn put(state: &mut State, log_index: usize, seq: u64, op: Op) {
        let dot = Dot { log: log(log_index), seq: Seq::new(seq) };
        state.apply(&dot.log, &written(dot, 10 * seq + log_index as u64, op).frame());
    }

    fn fact(value: &str) -> Op {
        let payload = Payload::parse(value).unwrap();
        Op::Fact { surface: Surface::Skill, key: "k".into(), payload }
    }

    fn decided(loser: &OpName, by: usize) -> Op {
        let key = resolution_key(&Surface::Skill, "k", loser, &log(by).device);
        let payload = Payload::parse("{}").unwrap();
        Op::Put { surface: resolutions(), key: key.into(), preds: Vec::new(), payload }
    }

    #[test]
    fn a_fact_is_open_until_every_loser_was_looked_at_and_again_when_another_comes() {
        let mut state = State::new(SPACE);
        (0..3).for_each(|index| put(&mut state, index, 1, fact(&index.to_string())));
        let losers: Vec<OpName> =
            state.row(&Surface::Skill, "k").unwrap().others().iter().map(OpName::from).collect();

        assert_eq!((state.open_conflict_count(&NoChain), state.conflicts(None, 9, &NoChain).len()), (1, 1));
        put(&mut state, 0, 2, decided(&losers[0], 0));
        assert_eq!(state.open_conflict_count(&NoChain), 1, "one of two");
        put(&mut state, 0, 3, decided(&losers[1], 0));
        put(&mut state, 1, 2, decided(&losers[1], 1));
        assert_eq!((state.open_conflict_count(&NoChain), state.conflicts(None, 9, &NoChain).len()), (0, 0));
        assert_eq!(state.row(&Surface::Skill, "k").unwrap().others().len(), 2, "they stay");
        assert_eq!(state.counts().conflicts, 1, "two that decide at once make no conflict of it");
        assert_eq!(state.decisions(Some((&Surface::Skill, "k"))).len(), 3);
        assert_eq!(
            (state.decisions(None).len(), state.decisions(Some((&Surface::Skill, "l"))).len()),
            (3, 0)
        );
        put(&mut state, 3, 1, fact("3"));
        assert_eq!(state.open_conflict_count(&NoChain), 1);
    }

    #[test]
    fn a_decision_that_is_removed_counts_no_more() {
        let mut state = State::new(SPACE);
        (0..2).for_each(|index| put(&mut state, index, 1, fact(&index.to_string())));
        let loser = OpName::from(&state.row(&Surface::Skill, "k").unwrap().others()[0]);
        put(&mut state, 0, 2, decided(&loser, 0));
        let row = state.rows(&resolutions(), None, 1, RowFilter::Live).remove(0);

        let preds = vec![row.row.shown().dot];
        put(&mut state, 0, 3, Op::Delete { surface: resolutions(), key: row.key.into(), preds });

        assert_eq!((state.open_conflict_count(&NoChain), state.decisions(None).len()), (1, 0));
    }

    #[test]
    fn the_name_of_an_op_reads_back_and_nothing_else_does() {
        let name = OpName { dot: Dot { log: log(1), seq: Seq::new(7) }, hlc: Hlc::new(u64::MAX) };

        assert_eq!(OpName::parse(&name.to_string()), Some(name));
        for text in ["", "a:1@2", &format!("{}:1", log(1)), &format!("{}:x@1", log(1))] {
            assert_eq!(OpName::parse(text), None, "{text}");
        }
    }
}
