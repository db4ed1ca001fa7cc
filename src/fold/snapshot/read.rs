//! Chunks → state: every rule of the format is checked, and memory follows the bytes given.

use super::super::events::{Stream, Streams};
use super::super::facts::{Content, Entity, Facts, SUPERSEDES_MAX, Statement};
use super::super::key::Key;
use super::super::ledger::{Intent, Ledger};
use super::super::logs::{Entry, LocalDot, LogIndex, Logs, Mark};
use super::super::root::{BUCKET_COUNT, FOLD_VERSION, RowHash, RowTag};
use super::super::rows::{Registers, Row};
use super::super::state::State;
use super::super::tables::{Rows, Table};
use super::{
    BUCKETS, BUCKETS_PER_RECORD, CHUNK_BYTES_MAX, COVERED, COVERED_PER_RECORD, END, HEAD, INTENT, LOG, MAGIC,
    OPEN, RELOCATED, ROW, START, STATEMENT, SUPERSEDES, SURFACE, SnapshotError,
};
use crate::model::limits::{KEY_BYTES_MAX, SURFACE_BYTES_MAX};
use crate::model::{
    CertHash, Hlc, IntentStatus, LeaseEpoch, LogId, Seq, SpaceId, Surface, Tier, split_intent_key,
};

/// Builds a state from the chunks of [`State::encode`].
pub struct StateBuilder {
    chunk: u32,
    hasher: blake3::Hasher,
    state: Option<State>,
    buckets_next: u16,
    covered_last: Option<(LocalDot, RowTag)>,
    relocated_last: Option<(LocalDot, Entry, RowTag)>,
    open: Option<OpenTable>,
    step: Step,
}

/// How far a builder has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Reading,
    Done,
    Failed,
}

impl StateBuilder {
    /// A builder that waits for the first chunk.
    pub fn new() -> Self {
        Self {
            chunk: 0,
            hasher: blake3::Hasher::new(),
            state: None,
            buckets_next: 0,
            covered_last: None,
            relocated_last: None,
            open: None,
            step: Step::Reading,
        }
    }

    /// Reads the next chunk. Takes memory in proportion to the bytes given, whatever they claim.
    ///
    /// # Errors
    /// Every variant of [`SnapshotError`] but [`SnapshotError::Unfinished`]. After an error the
    /// builder is of no further use.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), SnapshotError> {
        let read = self.read_chunk(chunk);
        if read.is_err() {
            self.step = Step::Failed;
        }
        read
    }

    /// The state, once the last chunk has been read.
    ///
    /// # Errors
    /// [`SnapshotError::Unfinished`].
    pub fn finish(self) -> Result<State, SnapshotError> {
        let unfinished = SnapshotError::Unfinished { chunks: self.chunk };
        self.state.filter(|_| self.step == Step::Done).ok_or(unfinished)
    }

    fn read_chunk(&mut self, chunk: &[u8]) -> Result<(), SnapshotError> {
        if chunk.len() > CHUNK_BYTES_MAX {
            return Err(SnapshotError::ChunkTooLong { found: chunk.len(), limit: CHUNK_BYTES_MAX });
        }
        let head = [&MAGIC[..], &self.chunk.to_be_bytes()].concat();
        if self.step != Step::Reading || !chunk.starts_with(&head) {
            return Err(SnapshotError::ChunkHead { expected: self.chunk });
        }
        let mut reader = Reader { rest: &chunk[head.len()..] };
        while let Some((kind, rest)) = reader.rest.split_first() {
            let before = chunk.len() - reader.rest.len();
            reader.rest = rest;
            if *kind == END {
                self.hasher.update(&chunk[..before]);
                self.end(&mut reader).map_err(|fault| fault.at(self.chunk, *kind))?;
                return self.check_end(&reader);
            }
            self.record(*kind, &mut reader).map_err(|fault| fault.at(self.chunk, *kind))?;
        }
        self.hasher.update(chunk);
        self.chunk = self.chunk.checked_add(1).ok_or(SnapshotError::ChunkHead { expected: u32::MAX })?;
        Ok(())
    }

    fn record(&mut self, kind: u8, reader: &mut Reader<'_>) -> Result<(), Fault> {
        match kind {
            START => self.start(reader),
            LOG => self.log(reader),
            BUCKETS => self.buckets(reader),
            COVERED => self.covered(reader),
            RELOCATED => self.relocated(reader),
            SURFACE => self.surface(reader),
            ROW | OPEN | HEAD | STATEMENT | INTENT | SUPERSEDES => {
                let (Some(state), Some(open)) = (&mut self.state, &mut self.open) else {
                    return Err(Fault::Misplaced);
                };
                open.record(kind, reader, state)
            }
            _ => Err(Fault::Kind),
        }
    }

    fn start(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        if self.state.is_some() {
            return Err(Fault::Misplaced);
        }
        let version = u32::from_be_bytes(*reader.take()?);
        if version != FOLD_VERSION {
            return Err(Fault::FoldVersion(version));
        }
        let mut state = State::new(SpaceId::from_bytes(*reader.take()?));
        state.unknown_count = reader.number()?;
        state.malformed_count = reader.number()?;
        self.state = Some(state);
        Ok(())
    }

    fn log(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let Some(state) = self.state.as_mut().filter(|_| self.buckets_next == 0) else {
            return Err(Fault::Misplaced);
        };
        let id = LogId::from_bytes(reader.take()?);
        let seq = Seq::new(reader.number()?);
        if state.logs.by_id().next_back().is_some_and(|(last, _)| *last >= id) {
            return Err(Fault::Misplaced);
        }
        let log = state.logs.find_or_add(&id);
        if seq > Seq::ZERO {
            state.logs.set_applied(log, seq);
        }
        let floor = Seq::new(reader.number()?);
        if floor > seq {
            return Err(Fault::Value);
        }
        state.logs.set_floor(log, floor);
        Ok(())
    }

    fn buckets(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let first = u16::from_be_bytes(*reader.take()?);
        let Some(state) = self.state.as_mut().filter(|_| first == self.buckets_next && first < BUCKET_COUNT)
        else {
            return Err(Fault::Misplaced);
        };
        for index in first..first + BUCKETS_PER_RECORD {
            state.tree.set_bucket(index, reader.take()?);
        }
        self.buckets_next += BUCKETS_PER_RECORD;
        Ok(())
    }

    fn covered(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let is_in_place =
            self.buckets_next == BUCKET_COUNT && self.relocated_last.is_none() && self.open.is_none();
        let Some(state) = self.state.as_mut().filter(|_| is_in_place) else {
            return Err(Fault::Misplaced);
        };
        let log = reader.number()?;
        let count = usize::try_from(reader.number()?).unwrap_or(usize::MAX);
        if !(1..=COVERED_PER_RECORD).contains(&count) {
            return Err(Fault::Value);
        }
        let mut seq = 0u64;
        for _ in 0..count {
            seq = seq.checked_add(reader.number()?).ok_or(Fault::Value)?;
            let dot = local_dot(log, seq, &state.logs)?;
            let covered = (dot, reader.row_tag()?);
            if self.covered_last.is_some_and(|last| last >= covered) {
                return Err(Fault::Misplaced);
            }
            self.covered_last = Some(covered);
            state.covered.insert(covered.0, covered.1, &state.logs);
        }
        Ok(())
    }

    fn relocated(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let is_in_place = self.buckets_next == BUCKET_COUNT && self.open.is_none();
        let Some(state) = self.state.as_mut().filter(|_| is_in_place) else {
            return Err(Fault::Misplaced);
        };
        let op = reader.entry(&state.logs)?;
        if op != op.written() {
            return Err(Fault::Value);
        }
        let row = reader.row_tag()?;
        let (log, seq) = (reader.number()?, reader.number()?);
        let place = local_dot(log, seq, &state.logs)?;
        if !state.logs.has(place) {
            return Err(Fault::Value);
        }
        let relocated = (op.dot(), op, row);
        if self.relocated_last.is_some_and(|last| last >= relocated) {
            return Err(Fault::Misplaced);
        }
        self.relocated_last = Some(relocated);
        state.relocated.insert(op, row, place, &state.logs);
        Ok(())
    }

    fn surface(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let name = reader.text(SURFACE_BYTES_MAX)?;
        let surface: Surface = name.parse().map_err(|_| Fault::Value)?;
        let is_rising = self.open.as_ref().is_none_or(|open| *open.name < *name);
        if self.buckets_next != BUCKET_COUNT || !is_rising {
            return Err(Fault::Misplaced);
        }
        let items = match surface.tier() {
            Tier::Registry => Items::Registers(Vec::new()),
            Tier::Facts => Items::Facts(Vec::new()),
            Tier::Events => Items::Streams(Vec::new()),
            Tier::Ledger => Items::Ledger { ledger: Ledger::default(), last: None },
        };
        self.close_table()?;
        self.open = Some(OpenTable { surface, name: name.into(), items, open: None, supersedes: Vec::new() });
        Ok(())
    }

    fn end(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        if self.buckets_next != BUCKET_COUNT {
            return Err(Fault::Misplaced);
        }
        self.close_table()?;
        if reader.take::<32>()? != self.hasher.finalize().as_bytes() {
            return Err(Fault::Damaged);
        }
        Ok(())
    }

    fn check_end(&mut self, reader: &Reader<'_>) -> Result<(), SnapshotError> {
        if let Some(kind) = reader.rest.first() {
            return Err(SnapshotError::Misplaced { chunk: self.chunk, kind: *kind });
        }
        self.step = Step::Done;
        Ok(())
    }

    fn close_table(&mut self) -> Result<(), Fault> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let state = self.state.as_mut().expect("a surface is opened after the start");
        open.close(state)?;
        let rows = match open.items {
            Items::Registers(rows) => Rows::Registers(Registers::from_sorted(rows)),
            Items::Facts(entities) => {
                let mut facts = Facts::from_sorted(entities);
                for (key, content, names) in open.supersedes {
                    facts.supersede(&key, content, names);
                }
                Rows::Facts(facts)
            }
            Items::Streams(streams) => Rows::Streams(Streams::from_sorted(streams)),
            Items::Ledger { ledger, .. } => Rows::Ledger(ledger),
        };
        state.tables.insert(Table { surface: open.surface, name: open.name, rows });
        Ok(())
    }
}

impl Default for StateBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// The surface being read.
struct OpenTable {
    surface: Surface,
    name: Box<str>,
    items: Items,
    open: Option<OpenItem>,
    supersedes: Vec<(Key, Content, Vec<Key>)>,
}

enum Items {
    Registers(Vec<(Key, Row)>),
    Facts(Vec<(Key, Entity)>),
    Streams(Vec<(Key, Stream)>),
    Ledger { ledger: Ledger, last: Option<Key> },
}

/// The row, entity, stream or run being read.
struct OpenItem {
    key: Key,
    row: RowHash,
    heads: Vec<Entry>,
    contents: Vec<Content>,
    /// What each content supersedes.
    names: Vec<Vec<Key>>,
    intents: Vec<Intent>,
}

impl OpenTable {
    fn record(&mut self, kind: u8, reader: &mut Reader<'_>, state: &mut State) -> Result<(), Fault> {
        if kind == ROW || kind == OPEN {
            self.close(state)?;
            let key = Key::new(reader.text(KEY_BYTES_MAX)?);
            if key.as_str().is_empty() {
                return Err(Fault::Value);
            }
            if self.items.last_key().is_some_and(|last| *last >= key) {
                return Err(Fault::Misplaced);
            }
            return self.open(kind, key, reader, state);
        }
        let Some(item) = &mut self.open else { return Err(Fault::Misplaced) };
        match (kind, &mut self.items) {
            (HEAD, Items::Registers(_)) => item.push_head(reader.head(item.row.tag(), state)?, &state.logs),
            (HEAD, Items::Streams(_)) => {
                item.push_head(reader.live_head(item.row.tag(), state)?, &state.logs)
            }
            (STATEMENT, Items::Facts(_)) => {
                let entry = reader.live_head(item.row.tag(), state)?;
                item.push_statement(entry, Content::from_bytes(*reader.take()?), &state.logs)
            }
            (SUPERSEDES, Items::Facts(_)) => item.push_name(Key::new(reader.text(KEY_BYTES_MAX)?)),
            (INTENT, Items::Ledger { ledger, .. }) => {
                let intent = reader.intent(item.row.tag(), ledger, state)?;
                item.push_intent(intent, ledger, &state.logs)
            }
            _ => Err(Fault::Misplaced),
        }
    }

    fn open(&mut self, kind: u8, key: Key, reader: &mut Reader<'_>, state: &mut State) -> Result<(), Fault> {
        if kind == OPEN {
            if matches!(self.items, Items::Ledger { .. }) && split_intent_key(key.as_str()).is_none() {
                return Err(Fault::Value);
            }
            let row = state.tree.row(&self.name, key.as_str());
            self.open = Some(OpenItem::new(key, row));
            return Ok(());
        }
        let Items::Registers(rows) = &mut self.items else { return Err(Fault::Misplaced) };
        let head = reader.entry(&state.logs)?;
        // Nearly every row passes without its hash.
        let is_plain = state.logs.has(head.dot()) && !state.covered.contains_any(head.dot());
        if !is_plain {
            let row = state.tree.row(&self.name, key.as_str()).tag();
            check_applied(&head, row, state)?;
            if state.covered.contains(head.dot(), row) {
                return Err(Fault::Value);
            }
        }
        rows.push((key, Row::One(head)));
        Ok(())
    }

    fn close(&mut self, state: &State) -> Result<(), Fault> {
        let Some(item) = self.open.take() else { return Ok(()) };
        match &mut self.items {
            Items::Registers(rows) => {
                let row = item.row.tag();
                if item.heads.iter().any(|head| state.covered.contains(head.dot(), row)) {
                    return Err(Fault::Value);
                }
                rows.push((item.key, Row::of(item.heads).ok_or(Fault::Value)?));
            }
            Items::Facts(entities) => {
                let mut contents = item.contents.clone();
                contents.sort_unstable();
                if contents.windows(2).any(|pair| pair[0] == pair[1]) {
                    return Err(Fault::Value);
                }
                for (content, names) in item.contents.iter().zip(item.names) {
                    self.supersedes.push((item.key.clone(), *content, names));
                }
                let pairs = item.heads.into_iter().zip(item.contents);
                let statements = pairs.map(|(entry, content)| Statement { entry, content }).collect();
                entities.push((item.key, Entity::of(statements).ok_or(Fault::Value)?));
            }
            Items::Streams(streams) => {
                if item.heads.is_empty() {
                    return Err(Fault::Value);
                }
                streams.push((item.key, Stream::from_sorted(item.heads, item.row)));
            }
            Items::Ledger { ledger, last } => {
                if item.intents.is_empty() {
                    return Err(Fault::Value);
                }
                *last = Some(item.key.clone());
                ledger.push_run(item.key, item.intents);
            }
        }
        Ok(())
    }
}

impl Items {
    fn last_key(&self) -> Option<&Key> {
        match self {
            Self::Registers(rows) => rows.last().map(|(key, _)| key),
            Self::Facts(entities) => entities.last().map(|(key, _)| key),
            Self::Streams(streams) => streams.last().map(|(key, _)| key),
            Self::Ledger { last, .. } => last.as_ref(),
        }
    }
}

impl OpenItem {
    fn new(key: Key, row: RowHash) -> Self {
        let (heads, contents, names, intents) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { key, row, heads, contents, names, intents }
    }

    fn push_name(&mut self, name: Key) -> Result<(), Fault> {
        let names = self.names.last_mut().ok_or(Fault::Misplaced)?;
        if names.last().is_some_and(|last| *last >= name) {
            return Err(Fault::Misplaced);
        }
        if name.as_str().is_empty() || names.len() >= SUPERSEDES_MAX {
            return Err(Fault::Value);
        }
        names.push(name);
        Ok(())
    }

    fn push_head(&mut self, head: Entry, logs: &Logs) -> Result<(), Fault> {
        if self.heads.last().is_some_and(|last| logs.order(last, &head).is_ge()) {
            return Err(Fault::Misplaced);
        }
        self.heads.push(head);
        Ok(())
    }

    fn push_intent(&mut self, intent: Intent, ledger: &Ledger, logs: &Logs) -> Result<(), Fault> {
        if self.intents.last().is_some_and(|last| ledger.order(last, &intent, logs).is_ge()) {
            return Err(Fault::Misplaced);
        }
        self.intents.push(intent);
        Ok(())
    }

    fn push_statement(&mut self, entry: Entry, content: Content, logs: &Logs) -> Result<(), Fault> {
        let new = Statement { entry, content };
        let last = self.heads.last().zip(self.contents.last());
        let last = last.map(|(entry, content)| Statement { entry: *entry, content: *content });
        if last.is_some_and(|last| last.order(&new, logs).is_ge()) {
            return Err(Fault::Misplaced);
        }
        self.heads.push(entry);
        self.contents.push(content);
        self.names.push(Vec::new());
        Ok(())
    }
}

/// What is wrong with a record.
#[derive(Debug)]
enum Fault {
    Truncated,
    Kind,
    Misplaced,
    Value,
    FoldVersion(u32),
    Damaged,
}

impl Fault {
    const fn at(self, chunk: u32, kind: u8) -> SnapshotError {
        match self {
            Self::Truncated => SnapshotError::Truncated { chunk },
            Self::Kind => SnapshotError::Kind { chunk, found: kind },
            Self::Misplaced => SnapshotError::Misplaced { chunk, kind },
            Self::Value => SnapshotError::Value { chunk, kind },
            Self::FoldVersion(found) => SnapshotError::FoldVersion { expected: FOLD_VERSION, found },
            Self::Damaged => SnapshotError::Damaged,
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], Fault> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Fault::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64, Fault> {
        let mut number = 0u64;
        for shift in (0..u64::BITS).step_by(7) {
            let [byte] = *self.take()?;
            let bits = u64::from(byte & 0x7f);
            if bits != 0 && bits << shift >> shift != bits {
                return Err(Fault::Value);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Fault::Value)
    }

    fn text(&mut self, bytes_max: usize) -> Result<&'a str, Fault> {
        let len = usize::try_from(self.number()?).ok().filter(|len| *len <= bytes_max).ok_or(Fault::Value)?;
        let (text, rest) = self.rest.split_at_checked(len).ok_or(Fault::Truncated)?;
        self.rest = rest;
        str::from_utf8(text).map_err(|_| Fault::Value)
    }

    /// An op of the row with this tag that has been applied, at its first place or at another.
    fn head(&mut self, row: RowTag, state: &State) -> Result<Entry, Fault> {
        let entry = self.entry(&state.logs)?;
        check_applied(&entry, row, state)?;
        Ok(entry)
    }

    fn live_head(&mut self, row: RowTag, state: &State) -> Result<Entry, Fault> {
        let head = self.head(row, state)?;
        if head == head.written() && head.mark == Mark::Live { Ok(head) } else { Err(Fault::Value) }
    }

    fn intent(&mut self, row: RowTag, ledger: &mut Ledger, state: &State) -> Result<Intent, Fault> {
        let entry = self.live_head(row, state)?;
        let [status] = *self.take()?;
        let status = IntentStatus::from_number(status).ok_or(Fault::Value)?;
        let epoch = LeaseEpoch::new(u64::from_be_bytes(*self.take()?)).map_err(|_| Fault::Value)?;
        let cert = ledger.cert(CertHash::from_bytes(*self.take()?));
        Ok(Intent { entry, epoch, cert, status })
    }

    fn entry(&mut self, logs: &Logs) -> Result<Entry, Fault> {
        let packed = self.number()?;
        let mark = if packed % 2 == 1 { Mark::Tombstone } else { Mark::Live };
        let is_late = packed / 2 % 2 == 1;
        if is_late && mark == Mark::Tombstone {
            return Err(Fault::Value);
        }
        let dot = local_dot(packed / 8, self.number()?, logs)?;
        let hlc = Hlc::new(u64::from_be_bytes(*self.take()?));
        let is_laid_down = packed / 4 % 2 == 1;
        Ok(Entry { is_late, is_laid_down, ..Entry::new(dot, hlc, mark) })
    }

    fn row_tag(&mut self) -> Result<RowTag, Fault> {
        let raw = u64::from_be_bytes(*self.take()?);
        RowTag::from_raw(raw).filter(|_| raw % 2 == 1).ok_or(Fault::Value)
    }
}

fn check_applied(op: &Entry, row: RowTag, state: &State) -> Result<(), Fault> {
    let is_applied = state.logs.has(op.dot()) || state.relocated.place(op, row).is_some();
    if is_applied { Ok(()) } else { Err(Fault::Value) }
}

fn local_dot(log: u64, seq: u64, logs: &Logs) -> Result<LocalDot, Fault> {
    let log = u32::try_from(log).ok().filter(|log| (*log as usize) < logs.log_count());
    match log {
        Some(log) if seq > 0 => Ok(LocalDot { log: LogIndex::new(log), seq: Seq::new(seq) }),
        Some(_) | None => Err(Fault::Value),
    }
}
