//! The stored form of a state: a run of chunks, so that opening a home need not replay every op.
//!
//! Equal sets of ops give equal bytes. Chunks are sealed by whoever stores them; still, nothing in
//! one is trusted to be well-formed. A chunk is `KFI1` ‖ its number from 0, u32 BE ‖ records, and is
//! at most [`CHUNK_BYTES_MAX`] long. No record crosses a chunk.
//!
//! | record | fields |
//! |---|---|
//! | 1 start | fold version u32 BE ‖ space 32 ‖ unknown count ‖ malformed count |
//! | 2 log | id 40 ‖ applied position; numbered from 0 in rising order of ids |
//! | 3 buckets | number of the first u16 BE ‖ 512 sums of 32 bytes |
//! | 4 surface | name |
//! | 5 row | key ‖ head: a registry row that consists of one head |
//! | 6 open | key: a row, entity or stream whose heads follow |
//! | 7 head | head; of a stream: an event |
//! | 8 covered | log number ‖ seq: a predecessor that has not arrived |
//! | 9 statement | head ‖ content hash 16 |
//! | 10 end | BLAKE3 of everything before this record's first byte, from the first chunk on |
//!
//! Counts, positions and log numbers are LEB128. Texts are their length (LEB128) and UTF-8. A head is
//! `log number · 2 + is tombstone` (LEB128) ‖ seq (LEB128) ‖ hlc u64 BE. Records come in the order of
//! their numbers, rows with what they consist of; surfaces, keys and heads rise strictly.

use thiserror::Error;

use super::events::{Stream, Streams};
use super::facts::{Content, Entity, Facts, Statement};
use super::key::Key;
use super::logs::{Entry, LocalDot, LogIndex, Logs, Mark};
use super::root::{BUCKET_COUNT, FOLD_VERSION};
use super::rows::{Registers, Row};
use super::state::{Rows, State, Table};
use crate::model::limits::{KEY_BYTES_MAX, SURFACE_BYTES_MAX};
use crate::model::{Hlc, LogId, Seq, SpaceId, Surface, Tier};

/// Greatest chunk of a snapshot: a few hundred records' worth of buckets, far below any store's limit.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// Chunks that are no snapshot: drop them and fold the logs again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// A chunk longer than [`CHUNK_BYTES_MAX`].
    #[error("an index chunk of {found} bytes exceeds the limit of {limit}")]
    ChunkTooLong {
        /// Bytes found.
        found: usize,
        /// [`CHUNK_BYTES_MAX`].
        limit: usize,
    },
    /// A chunk that is none, or not the next one.
    #[error("index chunk {expected} is missing or does not begin like one")]
    ChunkHead {
        /// The number it should have.
        expected: u32,
    },
    /// Written under other rules: the state means something else.
    #[error("the index is of fold version {found}, this kinfold folds version {expected}")]
    FoldVersion {
        /// [`FOLD_VERSION`].
        expected: u32,
        /// The version found.
        found: u32,
    },
    /// A chunk that ends within a record.
    #[error("index chunk {chunk} ends within a record")]
    Truncated {
        /// Its number.
        chunk: u32,
    },
    /// A record of a kind that is not known.
    #[error("index chunk {chunk} holds a record of unknown kind {found}")]
    Kind {
        /// The chunk's number.
        chunk: u32,
        /// The kind.
        found: u8,
    },
    /// A record where it must not stand: out of order, twice, or in a surface of another tier.
    #[error("index chunk {chunk} holds a record of kind {kind} out of place")]
    Misplaced {
        /// The chunk's number.
        chunk: u32,
        /// The kind.
        kind: u8,
    },
    /// A record with a value that no state has.
    #[error("index chunk {chunk} holds a record of kind {kind} with an impossible value")]
    Value {
        /// The chunk's number.
        chunk: u32,
        /// The kind.
        kind: u8,
    },
    /// The hash at the end is not that of the chunks.
    #[error("the index does not match its hash: it is damaged")]
    Damaged,
    /// The chunks end before the end record, or an error came before it.
    #[error("the index ends early, after {chunks} chunks")]
    Unfinished {
        /// Whole chunks read.
        chunks: u32,
    },
}

impl State {
    /// Writes the state as chunks of at most [`CHUNK_BYTES_MAX`] bytes, in order.
    pub fn encode(&self, sink: &mut dyn FnMut(&[u8])) {
        let mut out = ChunkWriter::new(sink);
        let ranks = self.encode_head(&mut out);
        for table in self.tables.by_name() {
            out.record(SURFACE, |out| write_text(&table.name, out));
            match &table.rows {
                Rows::Registers(registers) => {
                    for (key, row) in registers.rows() {
                        write_row(key.as_str(), row, &self.logs, &ranks, &mut out);
                    }
                }
                Rows::Facts(facts) => {
                    for (key, entity) in facts.entities() {
                        out.record(OPEN, |out| write_text(key.as_str(), out));
                        for Statement { entry, content } in entity.statements() {
                            out.record(STATEMENT, |out| {
                                write_head(entry, &ranks, out);
                                out.extend_from_slice(content.as_bytes());
                            });
                        }
                    }
                }
                Rows::Streams(streams) => {
                    for (key, stream) in streams.streams() {
                        out.record(OPEN, |out| write_text(key.as_str(), out));
                        for event in stream.iter(None, &self.logs) {
                            out.record(HEAD, |out| write_head(event, &ranks, out));
                        }
                    }
                }
            }
        }
        out.finish();
    }

    /// Writes what comes before the surfaces; answers the number each log has in the snapshot.
    fn encode_head(&self, out: &mut ChunkWriter<'_>) -> Vec<u64> {
        out.record(START, |out| {
            out.extend_from_slice(&FOLD_VERSION.to_be_bytes());
            out.extend_from_slice(self.space.as_bytes());
            write_number(self.unknown_count, out);
            write_number(self.malformed_count, out);
        });
        let mut ranks = vec![0; self.logs.log_count()];
        for (rank, (id, log)) in (0u64..).zip(self.logs.by_id()) {
            ranks[log.get() as usize] = rank;
            out.record(LOG, |out| {
                out.extend_from_slice(&id.to_bytes());
                write_number(self.logs.applied(log).get(), out);
            });
        }
        for first in (0..BUCKET_COUNT).step_by(usize::from(BUCKETS_PER_RECORD)) {
            out.record(BUCKETS, |out| {
                out.extend_from_slice(&first.to_be_bytes());
                for index in first..first + BUCKETS_PER_RECORD {
                    out.extend_from_slice(&self.tree.bucket(index).expect("the index is below the count"));
                }
            });
        }
        ranks
    }
}

fn write_row(key: &str, row: &Row, logs: &Logs, ranks: &[u64], out: &mut ChunkWriter<'_>) {
    let pending = row.covered().iter().filter(|dot| !logs.has(**dot));
    let mut covered: Vec<(u64, Seq)> = pending.map(|dot| (ranks[dot.log.get() as usize], dot.seq)).collect();
    covered.sort_unstable();
    match (row.heads(), &covered[..]) {
        ([], []) => {}
        ([head], []) => out.record(ROW, |out| {
            write_text(key, out);
            write_head(head, ranks, out);
        }),
        (heads, covered) => {
            out.record(OPEN, |out| write_text(key, out));
            for head in heads {
                out.record(HEAD, |out| write_head(head, ranks, out));
            }
            for (log, seq) in covered {
                out.record(COVERED, |out| {
                    write_number(*log, out);
                    write_number(seq.get(), out);
                });
            }
        }
    }
}

fn write_head(entry: &Entry, ranks: &[u64], out: &mut Vec<u8>) {
    write_number(ranks[entry.log.get() as usize] * 2 + u64::from(entry.mark == Mark::Tombstone), out);
    write_number(entry.seq.get(), out);
    out.extend_from_slice(&entry.hlc.get().to_be_bytes());
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    write_number(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

fn write_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

struct ChunkWriter<'a> {
    sink: &'a mut dyn FnMut(&[u8]),
    chunk: Vec<u8>,
    index: u32,
    hasher: blake3::Hasher,
}

impl<'a> ChunkWriter<'a> {
    fn new(sink: &'a mut dyn FnMut(&[u8])) -> Self {
        let chunk = Vec::with_capacity(CHUNK_BYTES_MAX);
        let mut writer = Self { sink, chunk, index: 0, hasher: blake3::Hasher::new() };
        writer.begin();
        writer
    }

    fn begin(&mut self) {
        self.chunk.clear();
        self.chunk.extend_from_slice(MAGIC);
        self.chunk.extend_from_slice(&self.index.to_be_bytes());
    }

    fn record(&mut self, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
        if self.chunk.len() + RECORD_BYTES_MAX > CHUNK_BYTES_MAX {
            self.flush();
        }
        self.chunk.push(kind);
        write(&mut self.chunk);
        debug_assert!(self.chunk.len() <= CHUNK_BYTES_MAX, "no record is longer than the greatest");
    }

    fn flush(&mut self) {
        self.hasher.update(&self.chunk);
        (self.sink)(&self.chunk);
        self.index += 1;
        self.begin();
    }

    fn finish(mut self) {
        if self.chunk.len() + RECORD_BYTES_MAX > CHUNK_BYTES_MAX {
            self.flush();
        }
        self.hasher.update(&self.chunk);
        self.chunk.push(END);
        self.chunk.extend_from_slice(self.hasher.finalize().as_bytes());
        (self.sink)(&self.chunk);
    }
}

/// Builds a state from the chunks of [`State::encode`].
pub struct StateBuilder {
    chunk: u32,
    hasher: blake3::Hasher,
    state: Option<State>,
    buckets_next: u16,
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
            SURFACE => self.surface(reader),
            ROW | OPEN | HEAD | COVERED | STATEMENT => {
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
            Tier::Ledger => return Err(Fault::Value),
        };
        self.close_table()?;
        self.open = Some(OpenTable { surface, name: name.into(), items, open: None });
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
            Items::Facts(entities) => Rows::Facts(Facts::from_sorted(entities)),
            Items::Streams(streams) => Rows::Streams(Streams::from_sorted(streams)),
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
}

enum Items {
    Registers(Vec<(Key, Row)>),
    Facts(Vec<(Key, Entity)>),
    Streams(Vec<(Key, Stream)>),
}

/// The row, entity or stream being read.
struct OpenItem {
    key: Key,
    heads: Vec<Entry>,
    covered: Vec<LocalDot>,
    contents: Vec<Content>,
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
            return self.open(kind, key, reader, &state.logs);
        }
        let Some(item) = &mut self.open else { return Err(Fault::Misplaced) };
        match (kind, &self.items) {
            (HEAD, Items::Registers(_)) if item.covered.is_empty() => {
                item.push_head(reader.head(&state.logs)?, &state.logs)
            }
            (HEAD, Items::Streams(_)) => item.push_head(reader.live_head(&state.logs)?, &state.logs),
            (COVERED, Items::Registers(_)) => item.push_covered(reader.pending(&state.logs)?),
            (STATEMENT, Items::Facts(_)) => {
                item.push_head(reader.live_head(&state.logs)?, &state.logs)?;
                item.contents.push(Content::from_bytes(*reader.take()?));
                Ok(())
            }
            _ => Err(Fault::Misplaced),
        }
    }

    fn open(&mut self, kind: u8, key: Key, reader: &mut Reader<'_>, logs: &Logs) -> Result<(), Fault> {
        if kind == OPEN {
            self.open = Some(OpenItem { key, heads: Vec::new(), covered: Vec::new(), contents: Vec::new() });
            return Ok(());
        }
        let Items::Registers(rows) = &mut self.items else { return Err(Fault::Misplaced) };
        rows.push((key, Row::One(reader.head(logs)?)));
        Ok(())
    }

    fn close(&mut self, state: &mut State) -> Result<(), Fault> {
        let Some(item) = self.open.take() else { return Ok(()) };
        match &mut self.items {
            Items::Registers(rows) => {
                rows.push((item.key, Row::of(item.heads, item.covered).ok_or(Fault::Value)?));
            }
            Items::Facts(entities) => {
                let mut contents = item.contents.clone();
                contents.sort_unstable();
                if contents.windows(2).any(|pair| pair[0] == pair[1]) {
                    return Err(Fault::Value);
                }
                let pairs = item.heads.into_iter().zip(item.contents);
                let statements = pairs.map(|(entry, content)| Statement { entry, content }).collect();
                entities.push((item.key, Entity::of(statements).ok_or(Fault::Value)?));
            }
            Items::Streams(streams) => {
                if item.heads.is_empty() {
                    return Err(Fault::Value);
                }
                let row = state.tree.row(&self.name, item.key.as_str());
                streams.push((item.key, Stream::from_sorted(item.heads, row)));
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
        }
    }
}

impl OpenItem {
    fn push_head(&mut self, head: Entry, logs: &Logs) -> Result<(), Fault> {
        if self.heads.last().is_some_and(|last| logs.order(last, &head).is_ge()) {
            return Err(Fault::Misplaced);
        }
        self.heads.push(head);
        Ok(())
    }

    fn push_covered(&mut self, dot: LocalDot) -> Result<(), Fault> {
        if self.covered.last().is_some_and(|last| *last >= dot) {
            return Err(Fault::Misplaced);
        }
        self.covered.push(dot);
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

    /// An op that has been applied.
    fn head(&mut self, logs: &Logs) -> Result<Entry, Fault> {
        let packed = self.number()?;
        let mark = if packed % 2 == 1 { Mark::Tombstone } else { Mark::Live };
        let dot = self.dot(packed / 2, logs)?;
        let hlc = Hlc::new(u64::from_be_bytes(*self.take()?));
        if !logs.has(dot) {
            return Err(Fault::Value);
        }
        Ok(Entry { hlc, seq: dot.seq, log: dot.log, mark })
    }

    fn live_head(&mut self, logs: &Logs) -> Result<Entry, Fault> {
        self.head(logs).and_then(|head| if head.mark == Mark::Live { Ok(head) } else { Err(Fault::Value) })
    }

    /// An op that has not been applied.
    fn pending(&mut self, logs: &Logs) -> Result<LocalDot, Fault> {
        let log = self.number()?;
        let dot = self.dot(log, logs)?;
        if logs.has(dot) { Err(Fault::Value) } else { Ok(dot) }
    }

    fn dot(&mut self, log: u64, logs: &Logs) -> Result<LocalDot, Fault> {
        let seq = Seq::new(self.number()?);
        let log = u32::try_from(log).ok().filter(|log| (*log as usize) < logs.log_count());
        match log {
            Some(log) if seq > Seq::ZERO => Ok(LocalDot { log: LogIndex::new(log), seq }),
            Some(_) | None => Err(Fault::Value),
        }
    }
}

const MAGIC: &[u8; 4] = b"KFI1";

const START: u8 = 1;
const LOG: u8 = 2;
const BUCKETS: u8 = 3;
const SURFACE: u8 = 4;
const ROW: u8 = 5;
const OPEN: u8 = 6;
const HEAD: u8 = 7;
const COVERED: u8 = 8;
const STATEMENT: u8 = 9;
const END: u8 = 10;

/// Eight records hold all buckets, so that they pack well into chunks.
const BUCKETS_PER_RECORD: u16 = 512;
const _: () = assert!(BUCKET_COUNT.is_multiple_of(BUCKETS_PER_RECORD));

/// The longest record: buckets.
const RECORD_BYTES_MAX: usize = 1 + 2 + 32 * BUCKETS_PER_RECORD as usize;
const _: () = assert!(RECORD_BYTES_MAX > 64 + KEY_BYTES_MAX && 8 + RECORD_BYTES_MAX < CHUNK_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::super::reference::{SPACE, any_ops, apply_interleaved};
    use super::*;
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    fn chunks(state: &State) -> Vec<Vec<u8>> {
        let mut chunks = Vec::new();
        state.encode(&mut |chunk| chunks.push(chunk.to_vec()));
        chunks
    }

    fn build(chunks: &[Vec<u8>]) -> Result<State, SnapshotError> {
        let mut builder = StateBuilder::new();
        chunks.iter().try_for_each(|chunk| builder.push(chunk))?;
        builder.finish()
    }

    fn sample() -> State {
        let mut state = State::new(SPACE);
        let ops = prop::collection::vec(any_ops(), 3..4)
            .prop_map(|sets| sets.into_iter().max_by_key(Vec::len).unwrap())
            .new_tree(&mut TestRunner::deterministic())
            .unwrap()
            .current();
        apply_interleaved(&mut state, &ops, &[3, 1, 4, 1, 5]);
        state
    }

    /// A snapshot whose records after the buckets are these.
    fn crafted(records: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut sink = |chunk: &[u8]| out = chunk.to_vec();
        let mut writer = ChunkWriter::new(&mut sink);
        let mut state = State::new(SPACE);
        let log = state.logs.intern(&super::super::reference::log(0));
        state.logs.set_applied(log, Seq::new(3));
        state.encode_head(&mut writer);
        writer.chunk.extend_from_slice(records);
        writer.finish();
        out
    }

    fn registry(records: &[&[u8]]) -> Result<State, SnapshotError> {
        surface(b"\x04\x0aregistry:a", records)
    }

    fn surface(surface: &[u8], records: &[&[u8]]) -> Result<State, SnapshotError> {
        build(&[crafted(&[surface, &records.concat()].concat())])
    }

    #[test]
    fn a_snapshot_of_many_rows_takes_several_bounded_chunks() {
        let mut state = State::new(SPACE);
        let log = super::super::reference::log(0);
        for seq in 1..=20_000u64 {
            let op = crate::model::Op::Put {
                surface: "registry:a".parse().unwrap(),
                key: format!("{:016x}", seq.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into(),
                preds: Vec::new(),
                payload: crate::model::Payload::parse("1").unwrap(),
            };
            let dot = crate::model::Dot { log, seq: Seq::new(seq) };
            state.apply(&log, &super::super::reference::written(dot, seq, op).frame());
        }

        let chunks = chunks(&state);
        assert!(chunks.len() > 2 && chunks.iter().all(|chunk| chunk.len() <= CHUNK_BYTES_MAX));
        let mut read = build(&chunks).unwrap();
        assert_eq!(read.root(), state.root());
        assert_eq!(read.recomputed_root(), state.root());
        assert_eq!(read.counts(), state.counts());
        assert!(matches!(
            build(&chunks[..chunks.len() - 1]),
            Err(SnapshotError::Unfinished { chunks: found }) if found as usize == chunks.len() - 1
        ));
        assert!(matches!(build(&chunks[1..]), Err(SnapshotError::ChunkHead { expected: 0 })));
        let swapped = [chunks[0].clone(), chunks[2].clone()];
        assert!(matches!(build(&swapped), Err(SnapshotError::ChunkHead { expected: 1 })));
    }

    #[test]
    fn every_spoiled_byte_and_every_truncation_is_refused() {
        let [chunk] = &chunks(&sample())[..] else { panic!("a small state is one chunk") };
        assert!(build(std::slice::from_ref(chunk)).is_ok());
        // The sums take most of the bytes and are covered by the hash like all others.
        let interesting = |at: &usize| *at < 600 || chunk.len() - 600 < *at || at.is_multiple_of(997);

        for at in (0..chunk.len()).filter(interesting) {
            let mut spoiled = chunk.clone();
            spoiled[at] ^= 1;
            assert!(build(&[spoiled]).is_err(), "byte {at}");
            assert!(build(&[chunk[..at].to_vec()]).is_err(), "length {at}");
        }
    }

    #[test]
    fn every_broken_rule_is_refused_by_name() {
        use SnapshotError::{Damaged, FoldVersion, Kind, Misplaced, Truncated, Value};
        let row = |kind: u8, key: &str| [&[kind, key.len() as u8], key.as_bytes()].concat();
        let head = |log: u8, seq: u8, hlc: u8| vec![log * 2, seq, 0, 0, 0, 0, 0, 0, 0, hlc];
        let one = |key: &str| [row(ROW, key), head(0, 1, 1)].concat();
        let part = |kind: u8, head: Vec<u8>| [&[kind], &head[..]].concat();
        let found = |result: Result<State, SnapshotError>| result.err();
        let misplaced = |kind| Some(Misplaced { chunk: 0, kind });
        let value = |kind| Some(Value { chunk: 0, kind });

        assert_eq!(found(registry(&[&one("a"), &one("b")])), None);
        assert_eq!(found(registry(&[&one("b"), &one("a")])), misplaced(ROW));
        assert_eq!(found(registry(&[&one("")])), value(ROW));
        assert_eq!(found(registry(&[&row(ROW, "a"), &head(1, 1, 1)])), value(ROW));
        assert_eq!(found(registry(&[&row(ROW, "a"), &head(0, 4, 1)])), value(ROW));
        assert_eq!(found(registry(&[&row(ROW, "a"), &head(0, 0, 1)])), value(ROW));
        assert_eq!(found(registry(&[&[ROW, 1, 0xff]])), value(ROW));
        assert_eq!(found(registry(&[&[ROW], &[0xff; 10]])), value(ROW));
        assert_eq!(found(registry(&[&row(OPEN, "a")])), value(END));
        assert_eq!(found(registry(&[&part(HEAD, head(0, 1, 1))])), misplaced(HEAD));
        let twice = part(HEAD, head(0, 1, 1));
        assert_eq!(found(registry(&[&row(OPEN, "a"), &twice, &twice])), misplaced(HEAD));
        assert_eq!(found(registry(&[&row(OPEN, "a"), &twice, &[COVERED, 0, 4]])), None);
        assert_eq!(found(registry(&[&row(OPEN, "a"), &[COVERED, 0, 3]])), value(COVERED));
        assert_eq!(found(registry(&[&row(OPEN, "a"), &[COVERED, 0, 4, COVERED, 0, 4]])), misplaced(COVERED));
        assert_eq!(found(registry(&[&part(STATEMENT, head(0, 1, 1))])), misplaced(STATEMENT));
        assert_eq!(found(registry(&[&[99]])), Some(Kind { chunk: 0, found: 99 }));
        assert_eq!(found(registry(&[&[END, 0]])), Some(Damaged));
        assert_eq!(found(registry(&[&[START]])), misplaced(START));
        assert_eq!(
            found(registry(b"\x04\x0aregistry:a".chunks(20).collect::<Vec<_>>().as_slice())),
            misplaced(SURFACE)
        );
        assert_eq!(found(surface(b"\x04\x06intent", &[])), value(SURFACE));
        assert_eq!(found(surface(b"\x04\x06dreams", &[])), value(SURFACE));
        assert_eq!(found(surface(b"\x04\x07routing", &[&row(OPEN, "a")])), value(END));
        let tombstone = [vec![HEAD, 1, 1], vec![0; 8]].concat();
        assert_eq!(found(surface(b"\x04\x07routing", &[&row(OPEN, "a"), &tombstone])), value(HEAD));
        assert_eq!(found(surface(b"\x04\x07routing", &[&one("a")])), misplaced(ROW));
        let says = |seq| [part(STATEMENT, head(0, seq, seq)), vec![7; 16]].concat();
        assert_eq!(found(surface(b"\x04\x05skill", &[&row(OPEN, "a"), &says(1)])), None);
        assert_eq!(found(surface(b"\x04\x05skill", &[&row(OPEN, "a"), &says(1), &says(2)])), value(END));
        let good = crafted(&[]);
        assert_eq!(found(build(&[good[..100].to_vec()])), Some(Truncated { chunk: 0 }));
        let mut version = good.clone();
        version[12] = 9;
        assert_eq!(found(build(&[version])), Some(FoldVersion { expected: FOLD_VERSION, found: 9 }));
        let mut sum = good.clone();
        sum[5_000] ^= 1;
        assert_eq!(found(build(&[sum])), Some(Damaged));
        assert_eq!(found(build(&[[&good[..], &[1]].concat()])), misplaced(1));
        let limit = CHUNK_BYTES_MAX;
        assert_eq!(
            found(build(&[vec![0; limit + 1]])),
            Some(SnapshotError::ChunkTooLong { found: limit + 1, limit })
        );
        assert_eq!(found(build(&[good.clone(), good])), Some(SnapshotError::ChunkHead { expected: 0 }));
        assert_eq!(found(build(&[])), Some(SnapshotError::Unfinished { chunks: 0 }));
    }

    proptest! {
        #[test]
        fn a_state_split_by_a_snapshot_ends_the_same_and_equal_ops_give_equal_bytes(
            ops in any_ops(),
            picks in prop::collection::vec(any::<u8>(), 1..40),
            cut in 0usize..40,
        ) {
            let mut whole = State::new(SPACE);
            apply_interleaved(&mut whole, &ops, &picks);
            let cut = cut.min(ops.len());
            let mut first = State::new(SPACE);
            apply_interleaved(&mut first, &ops[..cut], &picks);

            let mut resumed = build(&chunks(&first)).unwrap();
            prop_assert_eq!(chunks(&resumed), chunks(&first));
            prop_assert_eq!(resumed.counts(), first.counts());
            apply_interleaved(&mut resumed, &ops[cut..], &picks);

            prop_assert_eq!(chunks(&resumed), chunks(&whole));
            prop_assert_eq!(resumed.root(), whole.root());
            prop_assert_eq!(resumed.recomputed_root(), whole.root());
            prop_assert_eq!(resumed.conflicts(None, 99), whole.conflicts(None, 99));
            prop_assert_eq!(resumed.surfaces(), whole.surfaces());
        }

        #[test]
        fn any_records_are_read_or_refused(
            records in prop::collection::vec((0u8..12, prop::collection::vec(0u8..8, 0..20)), 0..20),
        ) {
            let records: Vec<u8> =
                records.into_iter().flat_map(|(kind, rest)| std::iter::once(kind).chain(rest)).collect();

            let _ = build(&[crafted(&records)]);
            let _ = registry(&[&records]);
        }
    }
}
