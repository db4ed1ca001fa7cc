//! Facts: grow-only entities, the first writer by total order wins.
//!
//! Per distinct content (by hash of its payload) an entity keeps the least op that says it; the
//! least of these wins, the others are listed as a conflict. Saying the same again is none.

use std::cmp::Ordering;
use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};

use super::key::Key;
use super::logs::{Entry, Logs};
use super::root::Leaves;
use super::state::Applied;

/// The entities of one surface of the fact tier.
#[derive(Default)]
pub(super) struct Facts {
    entities: BTreeMap<Key, Entity>,
    conflicts: BTreeSet<Key>,
}

/// One entity: its statements in total order, the winner first.
pub(super) enum Entity {
    One(Statement),
    Many(Vec<Statement>),
}

/// The least op that says this content.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) entry: Entry,
    pub(super) content: Content,
}

/// The first 16 bytes of a payload's BLAKE3: enough to tell contents apart, not secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Content([u8; 16]);

impl Content {
    pub(super) fn of(payload: &str) -> Self {
        let hash = blake3::hash(payload.as_bytes());
        Self(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
    }
    pub(super) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
    pub(super) const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl Statement {
    /// The total order of their ops. Two lives of a device may state two contents at one place with
    /// one stamp; those stand side by side, in the order of the contents.
    pub(super) fn order(&self, other: &Self, logs: &Logs) -> Ordering {
        logs.order(&self.entry, &other.entry).then_with(|| self.content.cmp(&other.content))
    }
}

impl Facts {
    pub(super) fn fold(
        &mut self,
        key: &str,
        new: Statement,
        logs: &Logs,
        leaves: &mut Leaves<'_>,
    ) -> Applied {
        let mut slot = match self.entities.entry(Key::new(key)) {
            Slot::Vacant(slot) => {
                leaves.add(&new.entry);
                slot.insert(Entity::One(new));
                return Applied::Shown;
            }
            Slot::Occupied(slot) => slot,
        };
        let statements = slot.get().statements();
        let same = statements.iter().position(|statement| statement.content == new.content);
        match same.map(|at| logs.order(&statements[at].entry, &new.entry)) {
            Some(Ordering::Less) => return Applied::Covered,
            Some(Ordering::Equal) => return Applied::Again,
            Some(Ordering::Greater) | None => {}
        }
        let mut statements = statements.to_vec();
        if let Some(at) = same {
            leaves.remove(&statements.remove(at).entry);
        }
        leaves.add(&new.entry);
        let at = statements.partition_point(|old| old.order(&new, logs).is_lt());
        statements.insert(at, new);
        if statements.len() == 2 && same.is_none() {
            self.conflicts.insert(slot.key().clone());
        }
        *slot.get_mut() = Entity::of(statements).expect("the new statement is there");
        if at == 0 { Applied::Shown } else { Applied::Listed }
    }

    pub(super) const fn entities(&self) -> &BTreeMap<Key, Entity> {
        &self.entities
    }
    pub(super) const fn conflicts(&self) -> &BTreeSet<Key> {
        &self.conflicts
    }

    /// Builds a surface from entities in strictly rising key order.
    pub(super) fn from_sorted(entities: Vec<(Key, Entity)>) -> Self {
        let in_conflict = entities.iter().filter(|(_, entity)| entity.statements().len() > 1);
        Self {
            conflicts: in_conflict.map(|(key, _)| key.clone()).collect(),
            entities: entities.into_iter().collect(),
        }
    }
}

impl Entity {
    /// An entity of these statements, in total order and distinct; `None` if there are none.
    pub(super) fn of(statements: Vec<Statement>) -> Option<Self> {
        match &statements[..] {
            [] => None,
            [one] => Some(Self::One(*one)),
            _ => Some(Self::Many(statements)),
        }
    }

    /// In total order: the winner, then the losers.
    pub(super) fn statements(&self) -> &[Statement] {
        match self {
            Self::One(statement) => std::slice::from_ref(statement),
            Self::Many(statements) => statements,
        }
    }
}
