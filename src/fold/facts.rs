//! Facts: grow-only entities, the first writer by total order wins.
//!
//! Per distinct content (by hash of its payload) an entity keeps the least op that says it; the
//! least of these wins, the others are listed as a conflict. Saying the same again is none.
//!
//! A payload may name facts of its surface that it supersedes (member `supersedes`: a name, or an
//! array of them). The names are kept per content, whether such facts are here or not; those of the
//! winner count. A fact that another one supersedes is passed over by listings, unless it supersedes
//! that one in turn, over however many: of a circle every fact stays.

use std::cmp::Ordering;
use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};

use super::key::Key;
use super::logs::{Entry, Logs};
use super::root::Leaves;
use super::state::Applied;
use crate::model::limits::KEY_BYTES_MAX;

/// The entities of one surface of the fact tier.
#[derive(Default)]
pub(super) struct Facts {
    entities: BTreeMap<Key, Entity>,
    conflicts: BTreeSet<Key>,
    /// The facts that a content of a fact supersedes, in the order of their names.
    supersedes: BTreeMap<(Key, Content), Box<[Key]>>,
    /// The same the other way round.
    superseding: BTreeMap<Key, BTreeSet<(Key, Content)>>,
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

    /// Drops an entity with what it supersedes.
    pub(super) fn drop_entity(&mut self, key: &Key, leaves: &mut Leaves<'_>) {
        let Some(entity) = self.entities.remove(key) else { return };
        self.conflicts.remove(key);
        entity.statements().iter().for_each(|statement| leaves.remove(&statement.entry));
        for statement in entity.statements() {
            let of = (key.clone(), statement.content);
            for name in self.supersedes.remove(&of).unwrap_or_default() {
                let by = self.superseding.get_mut(&name).expect("it is named by this fact");
                by.remove(&of);
                if by.is_empty() {
                    self.superseding.remove(&name);
                }
            }
        }
    }

    /// Remembers what a content of a fact supersedes.
    pub(super) fn supersede(&mut self, key: &Key, content: Content, names: Vec<Key>) {
        if names.is_empty() || self.supersedes.contains_key(&(key.clone(), content)) {
            return;
        }
        for name in &names {
            self.superseding.entry(name.clone()).or_default().insert((key.clone(), content));
        }
        self.supersedes.insert((key.clone(), content), names.into());
    }

    /// What a content of a fact supersedes, in the order of the names.
    pub(super) fn superseded(&self, key: &Key, content: Content) -> &[Key] {
        self.supersedes.get(&(key.clone(), content)).map_or(&[], |names| names)
    }

    /// The facts that supersede this one, in the order of their names.
    pub(super) fn superseding(&self, key: &Key) -> impl Iterator<Item = &Key> {
        let named_by = self.superseding.get(key).into_iter().flatten();
        let counts = move |(by, content): &&(Key, Content)| by != key && self.content(by) == Some(*content);
        named_by.filter(counts).map(|(by, _)| by)
    }

    /// Whether listings pass a fact over.
    pub(super) fn is_superseded(&self, key: &Key) -> bool {
        self.superseding(key).any(|by| !self.reaches(key, by))
    }

    /// Whether a fact supersedes another, over however many facts in between. Gives up after
    /// [`REACH_MAX`] of them.
    fn reaches(&self, from: &Key, to: &Key) -> bool {
        let mut seen = BTreeSet::from([from]);
        let mut left = vec![from];
        while let Some(next) = left.pop() {
            let Some(content) = self.content(next) else { continue };
            for name in self.superseded(next, content) {
                if name == to {
                    return true;
                }
                if seen.len() < REACH_MAX && seen.insert(name) {
                    left.push(name);
                }
            }
        }
        false
    }

    fn content(&self, key: &Key) -> Option<Content> {
        self.entities.get(key).map(|entity| entity.statements()[0].content)
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
            ..Self::default()
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

/// The facts that a payload supersedes, in the order of their names: at most [`SUPERSEDES_MAX`].
pub(super) fn supersedes(payload: &str) -> Vec<Key> {
    if !payload.contains("\"supersedes\"") {
        return Vec::new();
    }
    let Ok(serde_json::Value::Object(members)) = serde_json::from_str(payload) else { return Vec::new() };
    let names = match members.get("supersedes") {
        Some(serde_json::Value::Array(names)) => &names[..],
        Some(name) => std::slice::from_ref(name),
        None => &[],
    };
    let names = names.iter().take(SUPERSEDES_MAX).filter_map(serde_json::Value::as_str);
    let keys = names.filter(|name| (1..=KEY_BYTES_MAX).contains(&name.len())).map(Key::new);
    keys.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Most facts that one payload supersedes; further names are passed over.
pub(super) const SUPERSEDES_MAX: usize = 256;

/// Facts looked at to find out whether some supersede each other in a circle.
const REACH_MAX: usize = 4_096;
