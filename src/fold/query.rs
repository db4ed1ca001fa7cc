//! Reading the state: where the ops behind a row, an entity or a stream are.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::events::Stream;
use super::facts::Entity;
use super::key::Key;
use super::logs::{Entry, Logs, Mark};
use super::relocated::Relocated;
use super::retention::Policy;
use super::root::{RowHash, RowTag, row_bytes};
use super::rows::Row;
use super::runs::Lineage;
use super::state::State;
use super::tables::{Rows, Table};
use crate::model::limits::PREDS_MAX;
use crate::model::{Dot, Hlc, Surface};

/// One op that a row or entity consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The op; of one that was written again, its first place.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: Hlc,
    /// Where it can be read: another place than `dot` for an op that was written again.
    pub place: Dot,
    /// Whether it removes the row.
    pub is_tombstone: bool,
    /// Whether it came to a row whose removal a checkpoint had laid down: it was written by a device that
    /// was away then, and does not show beside the removal.
    pub is_late: bool,
}

/// A row or an entity: at least one head, the shown one first.
///
/// A registry row shows its greatest head that is not late and lists the others in falling total order. An entity
/// shows the least op and lists one op per other content in rising order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowView {
    heads: Vec<Head>,
    is_conflict: bool,
}

impl RowView {
    /// What the row shows; a tombstone where it is removed.
    pub fn shown(&self) -> &Head {
        &self.heads[0]
    }

    /// What it holds beside that.
    pub fn others(&self) -> &[Head] {
        &self.heads[1..]
    }

    /// All heads, the shown one first.
    pub fn heads(&self) -> &[Head] {
        &self.heads
    }

    /// Whether the row shows a value.
    pub fn is_live(&self) -> bool {
        !self.shown().is_tombstone
    }

    /// What is shown first, and what lost behind it.
    pub(super) const fn contested(heads: Vec<Head>) -> Self {
        Self { heads, is_conflict: true }
    }

    /// Whether values compete: several heads that are not all tombstones.
    pub const fn is_conflict(&self) -> bool {
        self.is_conflict
    }
}

/// A row in a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedRow {
    /// Its key.
    pub key: String,
    /// The row.
    pub row: RowView,
}

/// A row, entity or run whose values compete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// Its surface.
    pub surface: Surface,
    /// Its key.
    pub key: String,
    /// The row.
    pub row: RowView,
}

/// One event of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// The op; of one that was written again, its first place.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: Hlc,
    /// Where it can be read: another place than `dot` for an op that was written again.
    pub place: Dot,
}

/// Which rows a listing holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowFilter {
    /// Rows that show a value, without facts that another one supersedes.
    Live,
    /// Superseded facts as well.
    WithSuperseded,
    /// Removed rows as well as superseded facts.
    WithTombstones,
}

/// What an author must know of a row or stream before writing to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The heads to name as predecessors, least first; empty for facts and events. At most
    /// [`PREDS_MAX`]: a row with more heads is merged by further writes.
    pub heads: Vec<Dot>,
    /// The greatest stamp there: the new op's stamp must exceed it.
    pub greatest: Hlc,
}

/// What a state holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Ops applied, merely kept ones included.
    pub ops: u64,
    /// Rows and entities that show a value, and runs of agents.
    pub live_rows: u64,
    /// Rows that show a tombstone.
    pub tombstones: u64,
    /// Events in all streams.
    pub events: u64,
    /// Rows and entities in conflict, also those that somebody has settled; runs are counted by [`State::intent_conflict_count`].
    pub conflicts: u64,
    /// Ops kept for a later version that knows their kind or surface.
    pub unknown: u64,
    /// Ops kept although they break the rules of their kind.
    pub malformed: u64,
}

/// What one surface holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SurfaceCounts {
    /// The surface.
    pub surface: Surface,
    /// Rows or entities that show a value, or runs of agents.
    pub live_rows: u64,
    /// Rows that show a tombstone.
    pub tombstones: u64,
    /// Streams.
    pub streams: u64,
    /// Events in its streams.
    pub events: u64,
    /// Rows or entities in conflict, also those that somebody has settled; none is counted for the ledger.
    pub conflicts: u64,
}

impl State {
    /// A row of a registry surface or an entity of a fact surface; `None` where nothing was written.
    pub fn row(&self, surface: &Surface, key: &str) -> Option<RowView> {
        let table = self.tables.find(surface)?;
        let view = self.view(table, key);
        let key = Key::new(key);
        match &table.rows {
            Rows::Registers(registers) => Some(view.row(registers.rows().get(&key)?)),
            Rows::Facts(facts) => Some(view.entity(facts.entities().get(&key)?)),
            Rows::Streams(_) | Rows::Ledger(_) => None,
        }
    }

    /// Up to `limit` rows or entities whose keys follow `after`, in the order of their keys' bytes.
    pub fn rows(
        &self,
        surface: &Surface,
        after: Option<&str>,
        limit: usize,
        filter: RowFilter,
    ) -> Vec<ListedRow> {
        let Some(table) = self.tables.find(surface) else { return Vec::new() };
        let keep = |row: &RowView| row.is_live() || filter == RowFilter::WithTombstones;
        let listed = |(key, row): (&Key, RowView)| ListedRow { key: key.as_str().to_owned(), row };
        match &table.rows {
            Rows::Registers(registers) => registers
                .rows()
                .range(beyond(after))
                .map(|(key, row)| (key, self.view(table, key.as_str()).row(row)))
                .filter(|(_, row)| keep(row))
                .take(limit)
                .map(listed)
                .collect(),
            Rows::Facts(facts) => facts
                .entities()
                .range(beyond(after))
                .filter(|(key, _)| filter != RowFilter::Live || !facts.is_superseded(key))
                .map(|(key, entity)| (key, self.view(table, key.as_str()).entity(entity)))
                .take(limit)
                .map(listed)
                .collect(),
            Rows::Streams(_) | Rows::Ledger(_) => Vec::new(),
        }
    }

    /// The facts that supersede this one, in the order of their names.
    pub fn superseded_by(&self, surface: &Surface, key: &str) -> Vec<String> {
        let Some(Table { rows: Rows::Facts(facts), .. }) = self.tables.find(surface) else {
            return Vec::new();
        };
        facts.superseding(&Key::new(key)).map(|by| by.as_str().to_owned()).collect()
    }

    /// How many of a stream's first events its policy drops, and the last of them.
    pub fn stream_cut(&self, surface: &Surface, stream: &str, policy: &Policy) -> Option<(usize, Event)> {
        let Table { rows: Rows::Streams(streams), .. } = self.tables.find(surface)? else { return None };
        if policy.is_keep_all() {
            return None;
        }
        let held = streams.streams().get(&Key::new(stream))?;
        let greatest = streams.streams().values().map(|stream| stream.greatest().millis()).max()?;
        let oldest_ms = policy.oldest_kept_ms(greatest);
        let beyond = policy.last_n.map_or(0, |limit| held.event_count().saturating_sub(u64::from(limit)));
        // In total order, stamps rise: what is dropped is the beginning.
        let dropped = |(index, event): &(u64, &Entry)| *index < beyond || event.hlc.millis() < oldest_ms;
        let (index, last) = (0u64..).zip(held.iter(None, &self.logs)).take_while(dropped).last()?;
        let view = self.view(self.tables.find(surface)?, stream);
        let last = Event { dot: self.logs.dot(last), hlc: last.hlc, place: view.place(last) };
        Some((usize::try_from(index).unwrap_or(usize::MAX).saturating_add(1), last))
    }

    /// Every entity of a fact surface with what it shows, in the order of their keys.
    pub fn entities(&self, surface: &Surface) -> Vec<(String, Head)> {
        let Some(table) = self.tables.find(surface) else { return Vec::new() };
        let Rows::Facts(facts) = &table.rows else { return Vec::new() };
        let shown = |(key, entity): (&Key, &Entity)| {
            let head = self.view(table, key.as_str()).head(&entity.statements()[0].entry);
            (key.as_str().to_owned(), head)
        };
        facts.entities().iter().map(shown).collect()
    }

    /// What every surface that holds something holds, in the order of their names.
    pub fn surfaces(&self) -> Vec<SurfaceCounts> {
        self.tables.by_name().map(count_table).filter(|counts| !counts.is_empty()).collect()
    }

    /// Up to `limit` events of a stream that follow `after`, in total order.
    ///
    /// To read on, give the stamp and the dot of the last event read. An event that arrives late may
    /// stand before that place.
    pub fn events(
        &self,
        surface: &Surface,
        stream: &str,
        after: Option<(Hlc, Dot)>,
        limit: usize,
    ) -> Vec<Event> {
        let (Some(table), Some(held)) = (self.tables.find(surface), self.stream(surface, stream)) else {
            return Vec::new();
        };
        let view = self.view(table, stream);
        held.iter(after, &self.logs).take(limit).map(|event| view.event(event)).collect()
    }

    /// How many events a stream has.
    pub fn event_count(&self, surface: &Surface, stream: &str) -> u64 {
        self.stream(surface, stream).map_or(0, Stream::event_count)
    }

    /// The events of a stream in total order, without the first `skipped`.
    pub fn events_from(&self, surface: &Surface, stream: &str, skipped: usize) -> Vec<Event> {
        let (Some(table), Some(held)) = (self.tables.find(surface), self.stream(surface, stream)) else {
            return Vec::new();
        };
        let view = self.view(table, stream);
        held.iter(None, &self.logs).skip(skipped).map(|event| view.event(event)).collect()
    }

    fn stream(&self, surface: &Surface, stream: &str) -> Option<&Stream> {
        match &self.tables.find(surface)?.rows {
            Rows::Streams(streams) => streams.streams().get(&Key::new(stream)),
            Rows::Registers(_) | Rows::Facts(_) | Rows::Ledger(_) => None,
        }
    }

    /// Up to `limit` streams of a surface whose names follow `after`, with the number of their events.
    pub fn streams(&self, surface: &Surface, after: Option<&str>, limit: usize) -> Vec<(String, u64)> {
        let Some(Table { rows: Rows::Streams(streams), .. }) = self.tables.find(surface) else {
            return Vec::new();
        };
        let page = streams.streams().range(beyond(after)).take(limit);
        page.map(|(key, stream)| (key.as_str().to_owned(), stream.event_count())).collect()
    }

    /// Up to `limit` open conflicts that follow `after` by surface name and key. Of a run of the ledger it
    /// holds the losing intents behind the shown one, which is itself among them where it is void.
    pub fn conflicts(
        &self,
        after: Option<(&Surface, &str)>,
        limit: usize,
        lineage: &dyn Lineage,
    ) -> Vec<Conflict> {
        let after = after.map(|(surface, key)| (surface.to_string(), key));
        let mut found = Vec::new();
        for table in self.tables.by_name() {
            let from = match &after {
                Some((name, _)) if *table.name < **name => continue,
                Some((name, key)) if *table.name == **name => Some(*key),
                Some(_) | None => None,
            };
            let conflicts = match &table.rows {
                Rows::Registers(registers) => registers.conflicts(),
                Rows::Facts(facts) => facts.conflicts(),
                Rows::Ledger(_) => {
                    found.extend(self.intent_conflicts(from, lineage).take(limit - found.len()));
                    continue;
                }
                Rows::Streams(_) => continue,
            };
            for key in conflicts.range(beyond(from)) {
                if found.len() >= limit {
                    return found;
                }
                let row = self.row(&table.surface, key.as_str()).expect("a row in conflict has heads");
                if !self.is_open(&table.surface, key.as_str(), &row) {
                    continue;
                }
                found.push(Conflict { surface: table.surface.clone(), key: key.as_str().to_owned(), row });
            }
        }
        found
    }

    /// What an author must know of a row, entity, stream or run before writing to it.
    ///
    /// The stamps of the heads are enough: an honest author's op exceeds those it names.
    pub fn seen(&self, surface: &Surface, key: &str) -> Seen {
        let nothing = Seen { heads: Vec::new(), greatest: Hlc::ZERO };
        let key = Key::new(key);
        let Some(table) = self.tables.find(surface) else { return nothing };
        match &table.rows {
            Rows::Registers(registers) => registers.rows().get(&key).map_or(nothing, |row| Seen {
                heads: places(row.heads(), &self.logs),
                greatest: greatest(row.heads().iter()),
            }),
            Rows::Facts(facts) => facts.entities().get(&key).map_or(nothing, |entity| Seen {
                heads: Vec::new(),
                greatest: greatest(entity.statements().iter().map(|statement| &statement.entry)),
            }),
            Rows::Streams(streams) => streams
                .streams()
                .get(&key)
                .map_or(nothing, |stream| Seen { heads: Vec::new(), greatest: stream.greatest() }),
            Rows::Ledger(ledger) => ledger.runs().get(&key).map_or(nothing, |run| Seen {
                heads: Vec::new(),
                greatest: greatest(run.intents().iter().map(|intent| &intent.entry)),
            }),
        }
    }

    /// What the state holds; costs one look at every surface.
    pub fn counts(&self) -> Counts {
        let ops = self.logs.by_id().map(|(_, log)| self.logs.applied(log).get());
        let mut counts = Counts {
            ops: ops.fold(0, u64::saturating_add),
            unknown: self.unknown_count,
            malformed: self.malformed_count,
            ..Counts::default()
        };
        for table in self.tables.by_name().map(count_table) {
            counts.live_rows += table.live_rows;
            counts.tombstones += table.tombstones;
            counts.events += table.events;
            counts.conflicts += table.conflicts;
        }
        counts
    }

    /// Whether the op of this place and stamp is here from another place as well, where it was
    /// written again.
    pub fn is_relocated(&self, dot: &Dot, hlc: Hlc) -> bool {
        self.logs.find(&dot.log).is_some_and(|log| self.relocated.has(log, dot.seq, hlc))
    }

    /// How many ops are known to have been written again, under their first place.
    pub fn relocated_count(&self) -> usize {
        self.relocated.len()
    }

    pub(super) fn view<'a>(&'a self, table: &Table, key: &str) -> View<'a> {
        let is_relocating = !self.relocated.is_empty();
        let row = is_relocating.then(|| RowHash::of(&row_bytes(&table.name, key)).tag());
        View { logs: &self.logs, relocated: &self.relocated, row }
    }
}

impl SurfaceCounts {
    const fn is_empty(&self) -> bool {
        self.live_rows + self.tombstones + self.events == 0
    }
}

fn count_table(table: &Table) -> SurfaceCounts {
    let mut counts = SurfaceCounts {
        surface: table.surface.clone(),
        live_rows: 0,
        tombstones: 0,
        streams: 0,
        events: 0,
        conflicts: 0,
    };
    match &table.rows {
        Rows::Registers(registers) => {
            counts.live_rows = registers.live_count();
            counts.tombstones = registers.tombstone_count();
            counts.conflicts = registers.conflicts().len() as u64;
        }
        Rows::Facts(facts) => {
            counts.live_rows = facts.entities().len() as u64;
            counts.conflicts = facts.conflicts().len() as u64;
        }
        Rows::Streams(streams) => {
            counts.streams = streams.streams().len() as u64;
            counts.events = streams.event_count();
        }
        // What lost among intents hangs on the chain: `State::intent_conflict_count`.
        Rows::Ledger(ledger) => counts.live_rows = ledger.runs().len() as u64,
    }
    counts
}

/// Shows what one row, entity or stream consists of.
pub(super) struct View<'a> {
    logs: &'a Logs,
    relocated: &'a Relocated,
    /// Its tag, where some op has been written again.
    row: Option<RowTag>,
}

impl View<'_> {
    pub(super) fn row(&self, row: &Row) -> RowView {
        let shown = row.shown();
        let others = (0..row.heads().len()).rev().filter(|at| *at != shown);
        let of = |at: usize| {
            let head = &row.heads()[at];
            Head { is_late: row.is_late(head), ..self.head(head) }
        };
        RowView {
            heads: std::iter::once(shown).chain(others).map(of).collect(),
            is_conflict: row.is_conflict(),
        }
    }

    fn entity(&self, entity: &Entity) -> RowView {
        let heads: Vec<Head> =
            entity.statements().iter().map(|statement| self.head(&statement.entry)).collect();
        RowView { is_conflict: heads.len() > 1, heads }
    }

    pub(super) fn head(&self, entry: &Entry) -> Head {
        let is_tombstone = entry.mark == Mark::Tombstone;
        Head {
            dot: self.logs.dot(entry),
            hlc: entry.hlc,
            place: self.place(entry),
            is_tombstone,
            is_late: false,
        }
    }

    fn event(&self, entry: &Entry) -> Event {
        Event { dot: self.logs.dot(entry), hlc: entry.hlc, place: self.place(entry) }
    }

    pub(super) fn place(&self, entry: &Entry) -> Dot {
        let relocated = self.row.and_then(|row| self.relocated.place(entry, row));
        let place = relocated.unwrap_or(entry.dot());
        Dot { log: *self.logs.id(place.log), seq: place.seq }
    }
}

/// The places of the least heads, each once: of two ops with one place, a pred names both.
fn places(heads: &[Entry], logs: &Logs) -> Vec<Dot> {
    let mut places = Vec::with_capacity(heads.len().min(PREDS_MAX));
    let mut known = BTreeSet::new();
    for head in heads {
        if places.len() < PREDS_MAX && known.insert(head.dot()) {
            places.push(logs.dot(head));
        }
    }
    places
}

fn greatest<'a>(entries: impl Iterator<Item = &'a Entry>) -> Hlc {
    entries.map(|entry| entry.hlc).max().unwrap_or_default()
}

pub(super) fn beyond(after: Option<&str>) -> (Bound<Key>, Bound<Key>) {
    (after.map_or(Bound::Unbounded, |key| Bound::Excluded(Key::new(key))), Bound::Unbounded)
}

#[cfg(test)]
mod tests {
    use super::super::NoChain;
    use super::super::reference::{SPACE, log, written};
    use super::*;
    use crate::model::{Op, Payload, Seq};

    /// A row and a fact for every key, each written by two devices that do not know of each other.
    fn contested(keys: &[&str]) -> State {
        let mut state = State::new(SPACE);
        for device in [0, 1] {
            for (index, key) in (0u64..).zip(keys) {
                let payload = Payload::parse(&device.to_string()).unwrap();
                let dot = |seq| Dot { log: log(device), seq: Seq::new(2 * index + seq) };
                let put = Op::Put {
                    surface: registry(),
                    key: (*key).into(),
                    preds: Vec::new(),
                    payload: payload.clone(),
                };
                let fact = Op::Fact { surface: Surface::Skill, key: (*key).into(), payload };
                state.apply(&log(device), &written(dot(1), 5, put).frame());
                state.apply(&log(device), &written(dot(2), 5, fact).frame());
            }
        }
        state
    }

    fn registry() -> Surface {
        "registry:note".parse().unwrap()
    }

    #[test]
    fn rows_list_page_by_page_in_key_order() {
        let state = contested(&["b", "a", "the third key is longer than the others"]);
        for surface in [registry(), Surface::Skill] {
            let mut keys: Vec<String> = Vec::new();
            loop {
                let page = state.rows(&surface, keys.last().map(String::as_str), 2, RowFilter::Live);
                if page.is_empty() {
                    break;
                }
                keys.extend(page.into_iter().map(|listed| listed.key));
            }

            assert_eq!(keys, ["a", "b", "the third key is longer than the others"]);
        }
        assert_eq!(state.rows(&Surface::Run, None, 9, RowFilter::Live), []);
        assert_eq!(state.rows(&registry(), None, 0, RowFilter::Live), []);
    }

    #[test]
    fn conflicts_list_page_by_page_over_surfaces() {
        let state = contested(&["b", "a"]);
        let mut found: Vec<Conflict> = Vec::new();
        loop {
            let after = found.last().map(|conflict| (&conflict.surface, conflict.key.as_str()));
            let page = state.conflicts(after, 3, &NoChain);
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }

        let places: Vec<_> = found.iter().map(|found| (found.surface.to_string(), &*found.key)).collect();
        let expected = [("registry:note", "a"), ("registry:note", "b"), ("skill", "a"), ("skill", "b")];
        assert_eq!(places, expected.map(|(surface, key)| (surface.to_owned(), key)));
        assert!(found.iter().all(|found| found.row.is_conflict() && found.row.others().len() == 1));
        assert_eq!(state.counts().conflicts, 4);
    }

    #[test]
    fn what_was_never_written_reads_as_nothing() {
        let state = contested(&["a"]);
        let nothing = Seen { heads: Vec::new(), greatest: Hlc::ZERO };

        assert_eq!(state.row(&registry(), "z"), None);
        assert_eq!(state.row(&Surface::Routing, "a"), None);
        assert_eq!(state.seen(&registry(), "z"), nothing);
        assert_eq!(state.seen(&Surface::Routing, "a"), nothing);
        assert_eq!(state.events(&Surface::Routing, "a", None, 9), []);
        assert_eq!(state.streams(&registry(), None, 9), []);
        assert_eq!(state.applied(&log(3)), Seq::ZERO);
    }

    #[test]
    fn a_state_can_be_shared_between_threads() {
        const fn check<T: Send + Sync>() {}

        const { check::<State>() }
    }
}
