//! What a state knows beside the ops it points at, written.

use super::super::facts::Statement;
use super::super::ledger::Intent;
use super::super::logs::{Entry, LocalDot, Mark};
use super::super::root::{FOLD_VERSION, RowHash, RowTag, row_bytes};
use super::super::state::State;
use super::super::tables::{Rows, Table};
use super::numbers::write;
use super::{MAGIC, Pointed};
use crate::model::{Dot, OpKind, Seq};
use crate::wire::checkpoint::CHUNK_BYTES;

impl State {
    /// The pieces of a state that was laid down ([`State::lay_down`]), but for its ops, in order.
    pub fn pieces(&self, sink: &mut dyn FnMut(&[u8])) {
        let mut out = Cutter { piece: Vec::with_capacity(CHUNK_BYTES + RECORD_BYTES_MAX), sink };
        let heads = self.heads();
        self.write_logs(&mut out);
        out.put(|out| write(heads.len() as u64, out));
        self.write_relocated(&mut out);
        self.write_told(&mut out);
        self.write_covered(&heads, &mut out);
        out.finish();
    }

    /// The ops that the state points at, in rising order of the places where they stand.
    pub fn pointed(&self) -> Vec<Pointed> {
        let ids: Vec<_> = self.logs.by_id().map(|(id, _)| *id).collect();
        let pointed = |head: &Head| Pointed {
            place: Dot { log: ids[head.log as usize], seq: Seq::new(head.seq) },
            is_late: head.is_late,
            is_told: head.is_told,
        };
        self.heads().iter().map(pointed).collect()
    }

    /// The number of each log by its number inside: its rank among all ids.
    fn ranks(&self) -> Vec<u32> {
        let mut ranks = vec![0; self.logs.log_count()];
        for (rank, (_, log)) in (0..).zip(self.logs.by_id()) {
            ranks[log.get() as usize] = rank;
        }
        ranks
    }

    /// Every entry, by the place where its op stands.
    fn heads(&self) -> Vec<Head> {
        let ranks = self.ranks();
        let mut heads = Vec::new();
        for table in self.tables.by_name() {
            let is_registry = matches!(table.rows, Rows::Registers(_));
            let has_content = matches!(table.rows, Rows::Facts(_) | Rows::Ledger(_));
            self.each_entry(table, None, &mut |key, entry| {
                let hash = || RowHash::of(&row_bytes(&table.name, key)).tag();
                let tag = (is_registry || !self.relocated.is_empty()).then(hash);
                let again = tag.and_then(|tag| self.relocated.place(entry, tag));
                let place = again.unwrap_or(entry.dot());
                heads.push(Head {
                    log: ranks[place.log.get() as usize],
                    seq: place.seq.get(),
                    is_late: entry.is_late,
                    is_told: has_content && again.is_some(),
                    row: tag.filter(|_| is_registry),
                });
            });
        }
        heads.sort_unstable_by_key(|head| (head.log, head.seq));
        heads.dedup_by_key(|head| (head.log, head.seq));
        heads
    }

    fn write_logs(&self, out: &mut Cutter<'_>) {
        out.put(|out| {
            out.extend_from_slice(MAGIC);
            out.extend_from_slice(&FOLD_VERSION.to_be_bytes());
            out.extend_from_slice(self.space.as_bytes());
            write(self.unknown_count, out);
            write(self.malformed_count, out);
            write(self.logs.log_count() as u64, out);
        });
        for (id, _) in self.logs.by_id() {
            out.put(|out| out.extend_from_slice(&id.to_bytes()));
        }
        for (_, log) in self.logs.by_id() {
            out.put(|out| write(self.logs.applied(log).get(), out));
        }
    }

    fn write_relocated(&self, out: &mut Cutter<'_>) {
        let ranks = self.ranks();
        let rank = |dot: LocalDot| u64::from(ranks[dot.log.get() as usize]);
        out.put(|out| write(self.relocated.len() as u64, out));
        for (_, log) in self.logs.by_id() {
            for (op, row, place) in self.relocated.of_log(log) {
                let Entry { seq, hlc, mark, .. } = op;
                out.put(|out| {
                    write(rank(op.dot()) * 2 + u64::from(mark == Mark::Tombstone), out);
                    write(seq.get(), out);
                    out.extend_from_slice(&hlc.get().to_be_bytes());
                    out.extend_from_slice(&row.get().to_be_bytes());
                    write(rank(place), out);
                    write(place.seq.get(), out);
                });
            }
        }
    }

    /// Writes the facts and intents that were written again, as the state has them.
    fn write_told(&self, out: &mut Cutter<'_>) {
        let (ranks, mut told) = (self.ranks(), Vec::new());
        let mut tell =
            |kind: OpKind, table: &Table, key: &str, entry: &Entry, rest: &dyn Fn(&mut Vec<u8>)| {
                let row = RowHash::of(&row_bytes(&table.name, key)).tag();
                if self.relocated.place(entry, row).is_some() {
                    let mut bytes = vec![kind.number() as u8];
                    write_text(&table.name, &mut bytes);
                    write_text(key, &mut bytes);
                    write(ranks[entry.log.get() as usize].into(), &mut bytes);
                    write(entry.seq.get(), &mut bytes);
                    bytes.extend_from_slice(&entry.hlc.get().to_be_bytes());
                    rest(&mut bytes);
                    told.push(bytes);
                }
            };
        for table in self.tables.by_name().filter(|_| !self.relocated.is_empty()) {
            match &table.rows {
                Rows::Facts(facts) => {
                    for (key, entity) in facts.entities() {
                        for Statement { entry, content } in entity.statements() {
                            let names = facts.superseded(key, *content);
                            tell(OpKind::Fact, table, key.as_str(), entry, &|out| {
                                out.extend_from_slice(content.as_bytes());
                                write(names.len() as u64, out);
                                names.iter().for_each(|name| write_text(name.as_str(), out));
                            });
                        }
                    }
                }
                Rows::Ledger(ledger) => {
                    for (key, run) in ledger.runs() {
                        for Intent { entry, epoch, cert, status } in run.intents() {
                            tell(OpKind::Intent, table, key.as_str(), entry, &|out| {
                                out.push(status.number());
                                out.extend_from_slice(&epoch.get().to_be_bytes());
                                out.extend_from_slice(ledger.cert_hash(*cert).as_bytes());
                            });
                        }
                    }
                }
                Rows::Registers(_) | Rows::Streams(_) => {}
            }
        }
        told.sort_unstable();
        out.put(|out| write(told.len() as u64, out));
        told.iter().for_each(|told| out.put(|out| out.extend_from_slice(told)));
    }

    /// Writes which places are covered: where they are, then on which rows. The row of one is told by how far
    /// it is to the next one of the same row, in the order of all that is covered and the heads of registry
    /// rows behind; of a row that has no such, by its tag.
    fn write_covered(&self, heads: &[Head], out: &mut Cutter<'_>) {
        let mut rows: Vec<(RowTag, u32)> = Vec::new();
        let mut push = |row| {
            let index = u32::try_from(rows.len()).expect("memory ends before 2^32 covered places");
            rows.push((row, index));
        };
        for (_, log) in self.logs.by_id() {
            let places = self.covered.of_log(log);
            out.put(|out| write(places.len() as u64, out));
            let mut before = 0;
            for (seq, row) in places {
                out.put(|out| write(seq.get() - before, out));
                before = seq.get();
                push(row);
            }
        }
        heads.iter().filter_map(|head| head.row).for_each(&mut push);
        let count = rows.len() - heads.iter().filter(|head| head.row.is_some()).count();
        rows.sort_unstable();
        let mut steps = vec![0u32; count];
        for pair in rows.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            if let Some(step) = steps.get_mut(pair[0].1 as usize) {
                *step = pair[1].1 - pair[0].1;
            }
        }
        steps.iter().for_each(|step| out.put(|out| write((*step).into(), out)));
        let mut last: Vec<(u32, RowTag)> = rows
            .iter()
            .filter(|(_, index)| steps.get(*index as usize) == Some(&0))
            .map(|(row, index)| (*index, *row))
            .collect();
        last.sort_unstable();
        last.iter().for_each(|(_, row)| out.put(|out| out.extend_from_slice(&row.get().to_be_bytes())));
    }
}

/// An op that is pointed at.
struct Head {
    /// The rank of the log where it stands.
    log: u32,
    seq: u64,
    is_late: bool,
    is_told: bool,
    /// The registry row that it is a head of.
    row: Option<RowTag>,
}

/// Cuts what is written into pieces.
struct Cutter<'a> {
    piece: Vec<u8>,
    sink: &'a mut dyn FnMut(&[u8]),
}

impl Cutter<'_> {
    fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.piece);
        while self.piece.len() >= CHUNK_BYTES {
            (self.sink)(&self.piece[..CHUNK_BYTES]);
            self.piece.drain(..CHUNK_BYTES);
        }
    }

    fn finish(self) {
        if !self.piece.is_empty() {
            (self.sink)(&self.piece);
        }
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    write(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

/// More than is put at once of nearly everything.
const RECORD_BYTES_MAX: usize = 128;
