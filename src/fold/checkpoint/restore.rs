//! A state again, from its pieces.

use std::collections::{BTreeMap, BTreeSet};

use super::super::facts::{Content, SUPERSEDES_MAX, Statement, supersedes};
use super::super::key::Key;
use super::super::ledger::Intent;
use super::super::logs::{Entry, LocalDot, LogIndex, Logs, Mark};
use super::super::root::{FOLD_VERSION, RowHash, RowTag};
use super::super::rows::{Registers, Row};
use super::super::state::{Applied, State};
use super::super::tables::{Rows, Table};
use super::numbers::Cursor;
use super::{MAGIC, OpPiece, OpRecord, PieceError};
use crate::model::limits::{KEY_BYTES_MAX, SURFACE_BYTES_MAX};
use crate::model::{
    CertHash, Dot, Hlc, IntentStatus, LeaseEpoch, LogId, OpKind, Seq, SpaceId, Surface, Tier, intent_key,
    split_intent_key,
};
use crate::wire::OpView;

/// Reads a state back: first the pieces of itself, then its ops.
#[derive(Default)]
pub struct StatePieces(Vec<u8>);

impl StatePieces {
    /// Takes the next piece of the state itself.
    pub fn push(&mut self, piece: &[u8]) {
        self.0.extend_from_slice(piece);
    }

    /// Goes on to the ops.
    ///
    /// # Errors
    /// [`PieceError::Magic`], [`PieceError::FoldVersion`], [`PieceError::Form`].
    pub fn ops(self) -> Result<StateOps, PieceError> {
        let mut cursor = Cursor::of(&self.0);
        let found = cursor.array().ok_or(PieceError::Form)?;
        if found != *MAGIC {
            return Err(PieceError::Magic { found });
        }
        let found = u32::from_be_bytes(cursor.array().ok_or(PieceError::Form)?);
        if found != FOLD_VERSION {
            return Err(PieceError::FoldVersion { expected: FOLD_VERSION, found });
        }
        let ops = read_head(&mut cursor).filter(|_| cursor.left() == 0);
        ops.ok_or(PieceError::Form)
    }
}

/// Heads of the rows of one surface, by their keys.
type Heads = Vec<(Key, Entry)>;

/// Takes the ops that a state points at.
pub struct StateOps {
    state: State,
    /// Ops that are to come.
    missing: u64,
    last: Option<Dot>,
    registers: BTreeMap<Box<str>, (Surface, Heads)>,
    /// The heads of registry rows in the order of their places.
    heads: Vec<(RowTag, LocalDot)>,
    /// Where facts and intents stand that the state tells itself, and no op has come for yet.
    told: BTreeSet<LocalDot>,
    /// What they name.
    named: Vec<(LocalDot, RowTag)>,
    covered: Covered,
}

/// What is covered, as it is written.
#[derive(Default)]
struct Covered {
    places: Vec<LocalDot>,
    /// How far it is to the next one of the same row.
    steps: Vec<u32>,
    /// The rows of those that nothing follows.
    last: Vec<RowTag>,
}

impl StateOps {
    /// Takes the ops of the next piece.
    ///
    /// # Errors
    /// [`PieceError::Op`].
    pub fn push(&mut self, piece: &OpPiece) -> Result<(), PieceError> {
        for op in piece.records() {
            self.op(&op).ok_or(PieceError::Op { place: op.place })?;
        }
        Ok(())
    }

    /// The state, as it was laid down.
    ///
    /// # Errors
    /// [`PieceError::OpsMissing`], [`PieceError::Covered`].
    pub fn finish(mut self) -> Result<State, PieceError> {
        self.missing += self.told.len() as u64;
        if self.missing > 0 {
            return Err(PieceError::OpsMissing { missing: self.missing });
        }
        let rows: Vec<RowTag> = self.heads.iter().map(|(row, _)| *row).collect();
        let rows = self.covered.rows(&rows).ok_or(PieceError::Covered)?;
        let covered: Vec<(LocalDot, RowTag)> = self.covered.places.drain(..).zip(rows).collect();
        if !covered.is_sorted_by(|a, b| a < b) {
            return Err(PieceError::Covered);
        }
        self.state.covered.extend(covered.into_iter(), &self.state.logs);
        let is_covered = |place: &LocalDot, row: &RowTag| self.state.covered.contains(*place, *row);
        let heads_stand = self.heads.iter().all(|(row, place)| !is_covered(place, row));
        if !heads_stand || !self.named.iter().all(|(place, row)| is_covered(place, row)) {
            return Err(PieceError::Covered);
        }
        for (name, (surface, heads)) in std::mem::take(&mut self.registers) {
            let rows = Rows::Registers(registers_of(heads, &self.state.logs));
            self.state.tables.insert(Table { surface, name, rows });
        }
        self.state.logs.lay_down();
        Ok(self.state)
    }

    fn op(&mut self, op: &OpRecord<'_>) -> Option<()> {
        if self.last.is_some_and(|last| last >= op.place) {
            return None;
        }
        (self.last, self.missing) = (Some(op.place), self.missing.checked_sub(1)?);
        let place = self.known(&op.place).filter(|place| self.state.logs.has(*place))?;
        let name = if op.name == op.place { place } else { self.known(&op.name)? };
        if op.is_told {
            return (self.told.remove(&place) && !op.is_late).then_some(());
        }
        let view = OpView::decode(op.kind, op.flags, op.body).ok()?;
        let kind = OpKind::from_number(op.kind)?;
        let mark = if kind == OpKind::Delete { Mark::Tombstone } else { Mark::Live };
        let entry = Entry { is_late: op.is_late, ..Entry::new(name, op.hlc, mark) };
        let (surface, key) = (view.surface()?, view.key()?);
        if op.is_late && kind != OpKind::Put {
            return None;
        }
        match &view {
            OpView::Put { preds, .. } | OpView::Delete { preds, .. } => {
                let row = self.state.tree.row(surface, key);
                for pred in preds {
                    let dot = match pred.log() {
                        None => LocalDot { seq: Seq::new(pred.seq()), ..name },
                        Some(_) => self.known(&pred.dot(&op.name.log))?,
                    };
                    if dot != name {
                        self.named.push((dot, row.tag()));
                    }
                }
                self.state.tree.leaves(row, &self.state.logs).add(&entry);
                self.heads.push((row.tag(), name));
                self.registers(surface)?.push((Key::new(key), entry));
                self.stands(&entry, row, place)
            }
            OpView::Intent { agent, run, .. } => {
                self.fold(&view, kind, &intent_key(agent, run), entry, place)
            }
            OpView::Fact { .. } | OpView::Event { .. } => self.fold(&view, kind, key, entry, place),
            OpView::Reissue(_) => None,
        }
    }

    /// Folds what is no row: it is there then, and nothing is left out for it.
    fn fold(
        &mut self,
        view: &OpView<'_>,
        kind: OpKind,
        key: &str,
        entry: Entry,
        place: LocalDot,
    ) -> Option<()> {
        let State { tables, tree, logs, .. } = &mut self.state;
        let name = view.surface()?;
        let row = tree.row(name, key);
        let table = tables.find_or_create(name, kind).ok()?;
        let applied = match (view, &mut table.rows) {
            (OpView::Fact { payload, .. }, Rows::Facts(facts)) => {
                let statement = Statement { entry, content: Content::of(payload) };
                let is_new = facts.entities().get(&Key::new(key)).is_none_or(|entity| {
                    entity.statements().iter().all(|held| held.content != statement.content)
                });
                if !is_new {
                    return None;
                }
                let names = supersedes(payload);
                if !names.is_empty() {
                    facts.supersede(&Key::new(key), statement.content, names);
                }
                facts.fold(key, statement, logs, &mut tree.leaves(row, logs))
            }
            (OpView::Event { .. }, Rows::Streams(streams)) => {
                streams.fold((name, key), entry, true, logs, tree)
            }
            (OpView::Intent { epoch, cert, status, .. }, Rows::Ledger(ledger)) => {
                let cert = ledger.cert(*cert);
                let intent = Intent { entry, epoch: *epoch, cert, status: *status };
                ledger.fold(key, intent, logs, &mut tree.leaves(row, logs))
            }
            _ => return None,
        };
        let has_content = matches!(view, OpView::Fact { .. } | OpView::Intent { .. });
        match applied {
            Applied::Shown | Applied::Listed if has_content => {
                (place == entry.dot() && self.again(&entry, row).is_none()).then_some(())
            }
            Applied::Shown | Applied::Listed => self.stands(&entry, row, place),
            Applied::Covered | Applied::Again | Applied::Kept(_) => None,
        }
    }

    /// Whether an op is where the state looks for it.
    fn stands(&self, entry: &Entry, row: RowHash, place: LocalDot) -> Option<()> {
        (self.again(entry, row).unwrap_or(entry.dot()) == place).then_some(())
    }

    /// Where an op was written again.
    fn again(&self, entry: &Entry, row: RowHash) -> Option<LocalDot> {
        match self.state.relocated.is_empty() {
            true => None,
            false => self.state.relocated.place(entry, row.tag()),
        }
    }

    fn known(&self, dot: &Dot) -> Option<LocalDot> {
        Some(LocalDot { log: self.state.logs.find(&dot.log)?, seq: dot.seq })
    }

    /// The heads of a registry surface, as they come.
    fn registers(&mut self, name: &str) -> Option<&mut Heads> {
        if !self.registers.contains_key(name) {
            let surface: Surface = name.parse().ok()?;
            if surface.tier() != Tier::Registry {
                return None;
            }
            self.registers.insert(name.into(), (surface, Vec::new()));
        }
        self.registers.get_mut(name).map(|(_, heads)| heads)
    }
}

impl Covered {
    /// The rows of what is covered, from the rows of the heads behind; `None` where they are told in another
    /// way than they are written.
    fn rows(&self, heads: &[RowTag]) -> Option<Vec<RowTag>> {
        let count = self.steps.len();
        let mut rows = vec![RowTag::MIN; count];
        // The first of each row from where we are on, by the row's number.
        let (mut known, mut nearest): (Vec<RowTag>, Vec<usize>) = (Vec::new(), Vec::new());
        let mut by_tag: Vec<(RowTag, usize)> = heads.iter().copied().zip(count..).collect();
        by_tag.sort_unstable();
        let mut numbers = vec![0u32; count + heads.len()];
        for (row, index) in by_tag {
            if known.last() != Some(&row) {
                known.push(row);
                nearest.push(index);
            }
            numbers[index] = u32::try_from(known.len() - 1).ok()?;
        }
        let of_heads = known.len();
        let mut last = self.last.iter().rev();
        for index in (0..count).rev() {
            let number = match usize::try_from(self.steps[index]).ok()? {
                0 => {
                    let row = *last.next()?;
                    if known[..of_heads].binary_search(&row).is_ok() {
                        return None;
                    }
                    known.push(row);
                    nearest.push(index);
                    known.len() - 1
                }
                step => {
                    let next = index.checked_add(step)?;
                    let number = *numbers.get(next)? as usize;
                    if nearest[number] != next {
                        return None;
                    }
                    number
                }
            };
            (numbers[index], nearest[number]) = (u32::try_from(number).ok()?, index);
            rows[index] = known[number];
        }
        let mut alone = known.split_off(of_heads);
        alone.sort_unstable();
        (last.next().is_none() && alone.is_sorted_by(|a, b| a < b)).then_some(rows)
    }
}

fn read_head(cursor: &mut Cursor<'_>) -> Option<StateOps> {
    let mut state = State::new(SpaceId::from_bytes(cursor.array()?));
    state.unknown_count = cursor.number()?;
    state.malformed_count = cursor.number()?;
    let logs: Vec<LogId> = cursor.logs()?;
    for id in &logs {
        let (log, applied) = (state.logs.find_or_add(id), Seq::new(cursor.number()?));
        if applied > Seq::ZERO {
            state.logs.set_applied(log, applied);
        }
    }
    let missing = cursor.number()?;
    read_relocated(cursor, &mut state)?;
    let told = read_told(cursor, &mut state)?;
    let covered = read_covered(cursor, logs.len())?;
    let (registers, heads, named) = Default::default();
    Some(StateOps { state, missing, last: None, registers, heads, told, named, covered })
}

/// Reads the facts and intents that were written again; answers where they stand.
fn read_told(cursor: &mut Cursor<'_>, state: &mut State) -> Option<BTreeSet<LocalDot>> {
    let (mut places, mut before): (_, &[u8]) = (BTreeSet::new(), &[]);
    for _ in 0..cursor.count(TOLD_BYTES_MIN)? {
        let from = cursor.clone();
        places.insert(read_one_told(cursor, state)?);
        let bytes = from.until(cursor);
        if bytes <= before {
            return None;
        }
        before = bytes;
    }
    Some(places)
}

fn read_one_told(cursor: &mut Cursor<'_>, state: &mut State) -> Option<LocalDot> {
    let [kind] = cursor.array()?;
    let kind = OpKind::from_number(kind.into())?;
    let (name, key) = (cursor.text(SURFACE_BYTES_MAX)?, cursor.text(KEY_BYTES_MAX)?);
    let log = u32::try_from(cursor.index(state.logs.log_count())?).ok()?;
    let dot = LocalDot { log: LogIndex::new(log), seq: Seq::new(cursor.number()?) };
    let entry = Entry::new(dot, Hlc::new(u64::from_be_bytes(cursor.array()?)), Mark::Live);
    let State { tables, tree, logs, relocated, .. } = state;
    let row = tree.row(name, key);
    let mut leaves = tree.leaves(row, logs);
    let applied = match (kind, &mut tables.find_or_create(name, kind).ok()?.rows) {
        (OpKind::Fact, Rows::Facts(facts)) => {
            let statement = Statement { entry, content: Content::from_bytes(cursor.array()?) };
            let count = cursor.count(1).filter(|count| *count <= SUPERSEDES_MAX)?;
            let names = (0..count).map(|_| cursor.text(KEY_BYTES_MAX).map(Key::new));
            let names: Vec<Key> = names.collect::<Option<_>>()?;
            if !names.is_sorted_by(|a, b| a < b) || names.iter().any(|name| name.as_str().is_empty()) {
                return None;
            }
            facts.supersede(&Key::new(key), statement.content, names);
            facts.fold(key, statement, logs, &mut leaves)
        }
        (OpKind::Intent, Rows::Ledger(ledger)) => {
            split_intent_key(key)?;
            let [status] = cursor.array()?;
            let status = IntentStatus::from_number(status)?;
            let epoch = LeaseEpoch::new(u64::from_be_bytes(cursor.array()?)).ok()?;
            let cert = ledger.cert(CertHash::from_bytes(cursor.array()?));
            ledger.fold(key, Intent { entry, epoch, cert, status }, logs, &mut leaves)
        }
        _ => return None,
    };
    matches!(applied, Applied::Shown | Applied::Listed).then_some(())?;
    relocated.place(&entry, row.tag())
}

fn read_relocated(cursor: &mut Cursor<'_>, state: &mut State) -> Option<()> {
    let log_count = state.logs.log_count() as u64;
    let dot = |log: u64, seq: u64| -> Option<LocalDot> {
        let log = u32::try_from(log).ok().filter(|log| u64::from(*log) < log_count && seq > 0)?;
        Some(LocalDot { log: LogIndex::new(log), seq: Seq::new(seq) })
    };
    let mut last = None;
    for _ in 0..cursor.count(20)? {
        let (packed, seq) = (cursor.number()?, cursor.number()?);
        let mark = if packed % 2 == 1 { Mark::Tombstone } else { Mark::Live };
        let op = Entry::new(dot(packed / 2, seq)?, Hlc::new(u64::from_be_bytes(cursor.array()?)), mark);
        let row = row_tag(cursor)?;
        let place = dot(cursor.number()?, cursor.number()?).filter(|place| state.logs.has(*place))?;
        let key = (op.log, op.seq, op.hlc, op.mark, row);
        if last.is_some_and(|last| last >= key) {
            return None;
        }
        last = Some(key);
        state.relocated.insert(op, row, place, &state.logs);
    }
    Some(())
}

fn read_covered(cursor: &mut Cursor<'_>, log_count: usize) -> Option<Covered> {
    let mut covered = Covered::default();
    for log in 0..u32::try_from(log_count).ok()? {
        // A step comes for each of them, too.
        let (count, mut seq) = (cursor.count(2)?, 0u64);
        for _ in 0..count {
            seq = seq.checked_add(cursor.number()?).filter(|seq| *seq > 0)?;
            covered.places.push(LocalDot { log: LogIndex::new(log), seq: Seq::new(seq) });
        }
    }
    for _ in 0..covered.places.len() {
        covered.steps.push(u32::try_from(cursor.number()?).ok()?);
    }
    for _ in 0..covered.steps.iter().filter(|step| **step == 0).count() {
        covered.last.push(row_tag(cursor)?);
    }
    Some(covered)
}

/// Kind, surface, key, place, stamp and content of a fact.
const TOLD_BYTES_MIN: usize = 1 + 2 + 2 + 2 + 8 + 16;

fn row_tag(cursor: &mut Cursor<'_>) -> Option<RowTag> {
    let raw = u64::from_be_bytes(cursor.array()?);
    RowTag::from_raw(raw).filter(|_| raw % 2 == 1)
}

/// Rows of their heads, which come in any order, laid down.
fn registers_of(mut heads: Heads, logs: &Logs) -> Registers {
    heads.sort_unstable_by(|(a, one), (b, other)| a.cmp(b).then_with(|| logs.order(one, other)));
    let row = |heads: &[(Key, Entry)]| {
        let entries = heads.iter().map(|(_, entry)| *entry).collect();
        (heads[0].0.clone(), Row::of(entries).expect("heads of one row are never none"))
    };
    let mut registers = Registers::from_sorted(heads.chunk_by(|(a, _), (b, _)| a == b).map(row).collect());
    registers.lay_down();
    registers
}
