//! State → chunks.

use super::super::facts::Statement;
use super::super::ledger::Intent;
use super::super::logs::{Entry, Mark};
use super::super::root::{BUCKET_COUNT, FOLD_VERSION};
use super::super::rows::Row;
use super::super::state::State;
use super::super::tables::Rows;
use super::{
    BUCKETS, BUCKETS_PER_RECORD, CHUNK_BYTES_MAX, COVERED, COVERED_PER_RECORD, END, HEAD, INTENT, LOG, MAGIC,
    OPEN, RECORD_BYTES_MAX, RELOCATED, ROW, START, STATEMENT, SUPERSEDES, SURFACE,
};

impl State {
    /// Writes the state as chunks of at most [`CHUNK_BYTES_MAX`] bytes, in order.
    pub fn encode(&self, sink: &mut dyn FnMut(&[u8])) {
        let mut out = ChunkWriter::new(sink);
        let ranks = self.encode_head(&mut out);
        self.encode_places(&ranks, &mut out);
        for table in self.tables.by_name().filter(|table| !table.rows.is_empty()) {
            out.record(SURFACE, |out| write_text(&table.name, out));
            match &table.rows {
                Rows::Registers(registers) => {
                    for (key, row) in registers.rows() {
                        write_row(key.as_str(), row, &ranks, &mut out);
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
                            for name in facts.superseded(key, *content) {
                                out.record(SUPERSEDES, |out| write_text(name.as_str(), out));
                            }
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
                Rows::Ledger(ledger) => {
                    for (key, run) in ledger.runs() {
                        out.record(OPEN, |out| write_text(key.as_str(), out));
                        for Intent { entry, epoch, cert, status } in run.intents() {
                            out.record(INTENT, |out| {
                                write_head(entry, &ranks, out);
                                out.push(status.number());
                                out.extend_from_slice(&epoch.get().to_be_bytes());
                                out.extend_from_slice(ledger.cert_hash(*cert).as_bytes());
                            });
                        }
                    }
                }
            }
        }
        out.finish();
    }

    /// Writes what comes before the surfaces; answers the number each log has in the snapshot.
    pub(super) fn encode_head(&self, out: &mut ChunkWriter<'_>) -> Vec<u64> {
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
                write_number(self.logs.floor(log).get(), out);
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

    fn encode_places(&self, ranks: &[u64], out: &mut ChunkWriter<'_>) {
        for (_, log) in self.logs.by_id() {
            for places in self.covered.of_log(log).chunks(COVERED_PER_RECORD) {
                out.record(COVERED, |out| {
                    write_number(ranks[log.get() as usize], out);
                    write_number(places.len() as u64, out);
                    let mut before = 0;
                    for (seq, row) in places {
                        write_number(seq.get() - before, out);
                        out.extend_from_slice(&row.get().to_be_bytes());
                        before = seq.get();
                    }
                });
            }
        }
        for (_, log) in self.logs.by_id() {
            for (op, row, place) in self.relocated.of_log(log) {
                out.record(RELOCATED, |out| {
                    write_head(&op, ranks, out);
                    out.extend_from_slice(&row.get().to_be_bytes());
                    write_number(ranks[place.log.get() as usize], out);
                    write_number(place.seq.get(), out);
                });
            }
        }
    }
}

fn write_row(key: &str, row: &Row, ranks: &[u64], out: &mut ChunkWriter<'_>) {
    if let Row::One(head) = row {
        return out.record(ROW, |out| {
            write_text(key, out);
            write_head(head, ranks, out);
        });
    }
    out.record(OPEN, |out| write_text(key, out));
    for head in row.heads() {
        out.record(HEAD, |out| write_head(head, ranks, out));
    }
}

fn write_head(entry: &Entry, ranks: &[u64], out: &mut Vec<u8>) {
    let flags = [entry.mark == Mark::Tombstone, entry.is_late, entry.is_laid_down];
    let flags: u64 = flags.iter().zip([1, 2, 4]).map(|(flag, bit)| u64::from(*flag) * bit).sum();
    write_number(ranks[entry.log.get() as usize] * 8 + flags, out);
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

/// Fills chunks with records and hashes them.
pub(super) struct ChunkWriter<'a> {
    sink: &'a mut dyn FnMut(&[u8]),
    pub(super) chunk: Vec<u8>,
    index: u32,
    hasher: blake3::Hasher,
}

impl<'a> ChunkWriter<'a> {
    pub(super) fn new(sink: &'a mut dyn FnMut(&[u8])) -> Self {
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

    pub(super) fn finish(mut self) {
        if self.chunk.len() + RECORD_BYTES_MAX > CHUNK_BYTES_MAX {
            self.flush();
        }
        self.hasher.update(&self.chunk);
        self.chunk.push(END);
        self.chunk.extend_from_slice(self.hasher.finalize().as_bytes());
        (self.sink)(&self.chunk);
    }
}
