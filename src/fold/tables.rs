//! The surfaces of a state and what each holds.

use std::collections::BTreeMap;

use super::events::Streams;
use super::facts::Facts;
use super::ledger::Ledger;
use super::rows::Registers;
use crate::model::{OpKind, Surface, Tier};
use crate::wire::OpProblem;

/// The surfaces that hold something, in the order they came.
#[derive(Default)]
pub(super) struct Tables {
    tables: Vec<Table>,
    by_name: BTreeMap<Box<str>, usize>,
    by_surface: BTreeMap<Surface, usize>,
    /// The table asked for last: consecutive ops mostly touch one surface.
    last: usize,
}

/// One surface.
pub(super) struct Table {
    pub(super) surface: Surface,
    pub(super) name: Box<str>,
    pub(super) rows: Rows,
}

/// What a surface holds, by tier.
pub(super) enum Rows {
    Registers(Registers),
    Facts(Facts),
    Streams(Streams),
    Ledger(Ledger),
}

impl Rows {
    /// A surface whose rows name each other, or were all dropped by a policy, holds none.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Registers(registers) => registers.rows().is_empty(),
            Self::Facts(facts) => facts.entities().is_empty(),
            Self::Streams(streams) => streams.streams().is_empty(),
            Self::Ledger(ledger) => ledger.runs().is_empty(),
        }
    }
}

impl Tables {
    pub(super) fn find(&self, surface: &Surface) -> Option<&Table> {
        self.by_surface.get(surface).map(|at| &self.tables[*at])
    }

    pub(super) fn find_mut(&mut self, surface: &Surface) -> Option<&mut Table> {
        self.by_surface.get(surface).map(|at| &mut self.tables[*at])
    }

    /// Every surface, in the order of their names.
    pub(super) fn by_name(&self) -> impl Iterator<Item = &Table> {
        self.by_name.values().map(|at| &self.tables[*at])
    }

    pub(super) fn insert(&mut self, table: Table) {
        self.by_name.insert(table.name.clone(), self.tables.len());
        self.by_surface.insert(table.surface.clone(), self.tables.len());
        self.tables.push(table);
    }

    /// A new table is made only for a kind that folds there, so what is merely kept leaves no trace.
    pub(super) fn find_or_create(&mut self, name: &str, kind: OpKind) -> Result<&mut Table, OpProblem> {
        let is_last = self.tables.get(self.last).is_some_and(|table| *table.name == *name);
        if !is_last {
            self.last = match self.by_name.get(name) {
                Some(at) => *at,
                None => self.create(name, kind)?,
            };
        }
        Ok(&mut self.tables[self.last])
    }

    fn create(&mut self, name: &str, kind: OpKind) -> Result<usize, OpProblem> {
        // A later version may know more surfaces, and other kinds of rows in the registry.
        let surface: Surface = name.parse().map_err(|_| OpProblem::Unknown)?;
        let rows = match (surface.tier(), kind) {
            (Tier::Registry, OpKind::Put | OpKind::Delete) => Rows::Registers(Registers::default()),
            (Tier::Facts, OpKind::Fact) => Rows::Facts(Facts::default()),
            (Tier::Events, OpKind::Event) => Rows::Streams(Streams::default()),
            (Tier::Ledger, OpKind::Intent) => Rows::Ledger(Ledger::default()),
            (
                Tier::Registry | Tier::Facts | Tier::Events | Tier::Ledger,
                OpKind::Put | OpKind::Delete | OpKind::Fact | OpKind::Event | OpKind::Intent,
            ) => return Err(OpProblem::Malformed),
        };
        self.insert(Table { surface, name: name.into(), rows });
        Ok(self.tables.len() - 1)
    }
}
