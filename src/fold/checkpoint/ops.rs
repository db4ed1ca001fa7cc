//! Op records in columns: what many ops say alike lies side by side, and compresses to little.
//!
//! A piece is the columns below, one behind the other, and nothing else. Numbers are LEB128 in their shortest
//! form; a *step* from one number to the next is their difference modulo 2^64, as a zigzag number.
//!
//! | column | of | holds |
//! |---|---|---|
//! | counts | the piece | ops, at least one; logs, of 40 bytes each, strictly rising, none unused; surfaces, each its length and text, strictly rising, none unused |
//! | place | each op | how many logs further on than the op before it; its seq, less that of the op before where that is of the same log, less 1 |
//! | shape | each op | u8: 0–2 the kind where the body lies in parts, 0 where it is whole; 3 is late; 4 has a name of its own; 5 is told by the state; 6 and 7 zero |
//! | name | ops with one | log number, seq: another place than the one where it stands |
//! | stamp | each op | step from the stamp before, at first from 0 |
//! | whole | ops with a whole body | kind, flags u8, length of the body |
//! | surface | ops in parts | its number |
//! | key | ops in parts | its length |
//! | predecessors | puts and deletes in parts | how many; for each of them 0 (of the log of the op's name) or 1 + log number, and the step from the seq of the op's name to its seq |
//! | payload | puts, facts and events in parts | its length |
//! | texts | | the keys; then the payloads; then the whole bodies |
//!
//! A body lies in parts where its op is a put, delete, fact or event that was written as this version writes
//! it, byte by byte; any other is whole.

use std::collections::BTreeSet;
use std::ops::Range;

use super::numbers::{Cursor, write, write_step};
use crate::model::limits::{PREDS_MAX, SURFACE_BYTES_MAX};
use crate::model::{Dot, Hlc, LogId, OpKind, Seq};
use crate::wire::OpView;
use crate::wire::checkpoint::CHUNK_BYTES;
use crate::wire::op::{BodyParts, Pred};

/// An op as a checkpoint keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpRecord<'a> {
    /// Where it stands.
    pub place: Dot,
    /// The place that is its name.
    pub name: Dot,
    /// Its stamp.
    pub hlc: Hlc,
    /// Its kind number.
    pub kind: u16,
    /// Its flags.
    pub flags: u8,
    /// Whether it came to a row whose removal was laid down before.
    pub is_late: bool,
    /// Whether the state itself tells what it says, see [`Pointed`](super::Pointed).
    pub is_told: bool,
    /// Its bytes.
    pub body: &'a [u8],
}

/// The ops of one piece, in rising order of their places.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OpPiece {
    /// The bodies, one behind the other.
    pub bodies: Vec<u8>,
    /// The ops, whose bodies follow each other.
    pub ops: Vec<HeldOp>,
}

/// An op of a piece.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldOp {
    /// Where it stands.
    pub place: Dot,
    /// The place that is its name.
    pub name: Dot,
    /// Its stamp.
    pub hlc: Hlc,
    /// Its kind number.
    pub kind: u16,
    /// Its flags.
    pub flags: u8,
    /// As in [`OpRecord`].
    pub is_late: bool,
    /// As in [`OpRecord`].
    pub is_told: bool,
    /// Where its body lies in those of the piece.
    pub body: Range<usize>,
}

impl OpPiece {
    /// The ops with their bodies.
    pub fn records(&self) -> impl Iterator<Item = OpRecord<'_>> {
        self.ops.iter().map(|op| OpRecord {
            place: op.place,
            name: op.name,
            hlc: op.hlc,
            kind: op.kind,
            flags: op.flags,
            is_late: op.is_late,
            is_told: op.is_told,
            body: &self.bodies[op.body.clone()],
        })
    }

    pub(super) fn push(&mut self, op: &OpRecord<'_>) {
        let start = self.bodies.len();
        self.bodies.extend_from_slice(op.body);
        let (OpRecord { place, name, hlc, kind, flags, is_late, is_told, .. }, end) =
            (*op, self.bodies.len());
        self.ops.push(HeldOp { place, name, hlc, kind, flags, is_late, is_told, body: start..end });
    }

    /// The byte form: the columns of the module.
    pub fn to_bytes(&self) -> Vec<u8> {
        let parts: Vec<Option<BodyParts<'_>>> =
            self.records().map(|op| BodyParts::of(op.kind, op.flags, op.body)).collect();
        let mut out = Vec::with_capacity(self.bodies.len());
        let tables = Tables::of(&self.ops, &parts);
        write(self.ops.len() as u64, &mut out);
        tables.write(&mut out);
        self.write_places(&tables, &parts, &mut out);
        let in_parts = || self.ops.iter().zip(&parts).filter_map(|(op, parts)| Some((op, parts.as_ref()?)));
        let whole = || self.ops.iter().zip(&parts).filter(|(_, parts)| parts.is_none()).map(|(op, _)| op);
        for op in whole() {
            write(op.kind.into(), &mut out);
            out.push(op.flags);
            write(op.body.len() as u64, &mut out);
        }
        in_parts().for_each(|(_, parts)| write(tables.surface(parts.surface), &mut out));
        in_parts().for_each(|(_, parts)| write(parts.key.len() as u64, &mut out));
        for (op, parts) in in_parts().filter(|(op, _)| has_preds(op.kind)) {
            write(parts.preds.len() as u64, &mut out);
            for pred in &parts.preds {
                write(pred.log().map_or(0, |log| 1 + tables.log(&log)), &mut out);
                write_step(op.name.seq.get(), pred.seq(), &mut out);
            }
        }
        let payloads = || in_parts().filter_map(|(_, parts)| parts.payload);
        payloads().for_each(|payload| write(payload.len() as u64, &mut out));
        in_parts().for_each(|(_, parts)| out.extend_from_slice(parts.key.as_bytes()));
        payloads().for_each(|payload| out.extend_from_slice(payload.as_bytes()));
        whole().for_each(|op| out.extend_from_slice(&self.bodies[op.body.clone()]));
        out
    }

    fn write_places(&self, tables: &Tables<'_>, parts: &[Option<BodyParts<'_>>], out: &mut Vec<u8>) {
        let (mut log, mut seq) = (0, 0);
        for op in &self.ops {
            let next = tables.log(&op.place.log);
            if next != log {
                seq = 0;
            }
            write(next - log, out);
            write(op.place.seq.get() - seq - 1, out);
            (log, seq) = (next, op.place.seq.get());
        }
        for (op, parts) in self.ops.iter().zip(parts) {
            let kind = if parts.is_some() { op.kind as u8 } else { WHOLE };
            let named = if op.name == op.place { 0 } else { NAMED };
            let (late, told) = (if op.is_late { LATE } else { 0 }, if op.is_told { TOLD } else { 0 });
            out.push(kind | late | named | told);
        }
        for op in self.ops.iter().filter(|op| op.name != op.place) {
            write(tables.log(&op.name.log), out);
            write(op.name.seq.get(), out);
        }
        let mut before = 0;
        for op in &self.ops {
            write_step(before, op.hlc.get(), out);
            before = op.hlc.get();
        }
    }

    /// Reads the byte form; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::of(bytes);
        let count = cursor.count(BYTES_MIN)?;
        if count == 0 {
            return None;
        }
        let mut read = Columns::read(count, &mut cursor)?;
        let piece = read.bodies(&mut cursor)?;
        (cursor.left() == 0 && read.is_all_used()).then_some(piece)
    }
}

/// Collects op records into pieces.
#[derive(Default)]
pub struct OpPieces {
    piece: OpPiece,
    logs: BTreeSet<LogId>,
    /// At least as many as the piece will have.
    bytes: usize,
}

impl OpPieces {
    /// Takes the next op, in rising order of their places; passes a piece on where the op does not fit into it
    /// any more.
    pub fn push(&mut self, op: &OpRecord<'_>, sink: &mut dyn FnMut(&[u8])) {
        let bytes = op.body.len() + OP_BYTES + 2 * LOG_BYTES;
        if !self.piece.ops.is_empty() && self.bytes + bytes > CHUNK_BYTES {
            self.finish(sink);
        }
        self.bytes += op.body.len() + OP_BYTES;
        for log in [op.place.log, op.name.log] {
            self.bytes += if self.logs.insert(log) { LOG_BYTES } else { 0 };
        }
        self.piece.push(op);
    }

    /// Passes the last piece on.
    pub fn finish(&mut self, sink: &mut dyn FnMut(&[u8])) {
        let Self { piece, .. } = std::mem::take(self);
        if !piece.ops.is_empty() {
            sink(&piece.to_bytes());
        }
    }
}

/// The ops of a piece; `None` where it is none.
pub fn ops_of(piece: &[u8]) -> Option<OpPiece> {
    OpPiece::from_bytes(piece)
}

/// What the columns name by numbers.
struct Tables<'a> {
    logs: Vec<LogId>,
    surfaces: Vec<&'a str>,
}

impl<'a> Tables<'a> {
    fn of(ops: &[HeldOp], parts: &[Option<BodyParts<'a>>]) -> Self {
        let mut logs: BTreeSet<LogId> = ops.iter().flat_map(|op| [op.place.log, op.name.log]).collect();
        let in_parts = || parts.iter().flatten();
        logs.extend(in_parts().flat_map(|parts| parts.preds.iter().filter_map(Pred::log)));
        let surfaces: BTreeSet<&str> = in_parts().map(|parts| parts.surface).collect();
        Self { logs: logs.into_iter().collect(), surfaces: surfaces.into_iter().collect() }
    }

    fn write(&self, out: &mut Vec<u8>) {
        write(self.logs.len() as u64, out);
        self.logs.iter().for_each(|log| out.extend_from_slice(&log.to_bytes()));
        write(self.surfaces.len() as u64, out);
        for surface in &self.surfaces {
            write(surface.len() as u64, out);
            out.extend_from_slice(surface.as_bytes());
        }
    }

    fn log(&self, log: &LogId) -> u64 {
        self.logs.binary_search(log).expect("every log of the piece is in its table") as u64
    }

    fn surface(&self, surface: &str) -> u64 {
        self.surfaces.binary_search(&surface).expect("every surface of the piece is in its table") as u64
    }
}

/// The columns before the texts.
struct Columns<'a> {
    logs: Vec<LogId>,
    surfaces: Vec<&'a str>,
    used_logs: Vec<bool>,
    used_surfaces: Vec<bool>,
    ops: Vec<HeldOp>,
    shapes: Vec<u8>,
    /// Of ops with a whole body, its length.
    whole: Vec<usize>,
    parts: Vec<Parts>,
}

/// Lengths and numbers of a body in parts.
struct Parts {
    surface: usize,
    key: usize,
    preds: Vec<Pred>,
    payload: Option<usize>,
}

impl<'a> Columns<'a> {
    fn read(count: usize, cursor: &mut Cursor<'a>) -> Option<Self> {
        let logs = cursor.logs()?;
        let surfaces = read_surfaces(cursor)?;
        let (used_logs, used_surfaces) = (vec![false; logs.len()], vec![false; surfaces.len()]);
        let (whole, parts) = (Vec::new(), Vec::new());
        let mut read = Self {
            logs,
            surfaces,
            used_logs,
            used_surfaces,
            ops: Vec::with_capacity(count),
            shapes: Vec::new(),
            whole,
            parts,
        };
        read.places(count, cursor)?;
        read.shapes = cursor.take(count)?.to_vec();
        read.names(cursor)?;
        read.stamps(cursor)?;
        read.kinds(cursor)?;
        read.numbers(cursor)?;
        Some(read)
    }

    fn log(&mut self, number: usize) -> Option<LogId> {
        *self.used_logs.get_mut(number)? = true;
        Some(self.logs[number])
    }

    fn places(&mut self, count: usize, cursor: &mut Cursor<'a>) -> Option<()> {
        let (mut log, mut seq) = (0usize, 0u64);
        for _ in 0..count {
            let further = usize::try_from(cursor.number()?).ok()?;
            if further > 0 {
                (log, seq) = (log.checked_add(further)?, 0);
            }
            seq = seq.checked_add(cursor.number()?)?.checked_add(1)?;
            let place = Dot { log: self.log(log)?, seq: Seq::new(seq) };
            let (name, hlc, body) = (place, Hlc::ZERO, 0..0);
            let (kind, flags, is_late, is_told) = (0, 0, false, false);
            self.ops.push(HeldOp { place, name, hlc, kind, flags, is_late, is_told, body });
        }
        Some(())
    }

    fn names(&mut self, cursor: &mut Cursor<'a>) -> Option<()> {
        for index in 0..self.ops.len() {
            let shape = self.shapes[index];
            if shape & !(KINDS | LATE | NAMED | TOLD) != 0 || shape & KINDS > OpKind::Event.number() as u8 {
                return None;
            }
            self.ops[index].is_late = shape & LATE != 0;
            self.ops[index].is_told = shape & TOLD != 0;
            if shape & NAMED != 0 {
                let number = cursor.index(self.logs.len())?;
                let name = Dot { log: self.log(number)?, seq: Seq::new(cursor.number()?) };
                if name == self.ops[index].place {
                    return None;
                }
                self.ops[index].name = name;
            }
        }
        Some(())
    }

    fn stamps(&mut self, cursor: &mut Cursor<'a>) -> Option<()> {
        let mut before = 0;
        for op in &mut self.ops {
            before = cursor.step(before)?;
            op.hlc = Hlc::new(before);
        }
        Some(())
    }

    fn kinds(&mut self, cursor: &mut Cursor<'a>) -> Option<()> {
        for (op, shape) in self.ops.iter_mut().zip(&self.shapes) {
            op.kind = (shape & KINDS).into();
            if shape & KINDS == WHOLE {
                op.kind = u16::try_from(cursor.number()?).ok()?;
                [op.flags] = cursor.array()?;
                self.whole.push(cursor.count(1)?);
            }
        }
        Some(())
    }

    fn numbers(&mut self, cursor: &mut Cursor<'a>) -> Option<()> {
        let in_parts = || (0..self.shapes.len()).filter(|index| self.shapes[*index] & KINDS != WHOLE);
        let in_parts: Vec<usize> = in_parts().collect();
        for _ in &in_parts {
            let surface = cursor.index(self.surfaces.len())?;
            self.used_surfaces[surface] = true;
            self.parts.push(Parts { surface, key: 0, preds: Vec::new(), payload: None });
        }
        for parts in &mut self.parts {
            parts.key = cursor.count(1)?;
        }
        for (at, index) in in_parts.iter().enumerate().filter(|(_, index)| has_preds(self.ops[**index].kind))
        {
            let count = cursor.count(2).filter(|count| *count <= PREDS_MAX)?;
            let mut preds = Vec::with_capacity(count);
            for _ in 0..count {
                let log = match cursor.index(self.logs.len() + 1)? {
                    0 => None,
                    number => {
                        Some(*self.logs.get(number - 1)?).inspect(|_| self.used_logs[number - 1] = true)
                    }
                };
                preds.push(Pred::new(log, cursor.step(self.ops[*index].name.seq.get())?));
            }
            self.parts[at].preds = preds;
        }
        for (parts, index) in self.parts.iter_mut().zip(&in_parts) {
            if self.ops[*index].kind != OpKind::Delete.number() {
                parts.payload = Some(cursor.count(1)?);
            }
        }
        Some(())
    }

    /// Puts the bodies together.
    fn bodies(&mut self, cursor: &mut Cursor<'a>) -> Option<OpPiece> {
        let keys = texts(self.parts.iter().map(|parts| parts.key), cursor)?;
        let payloads = texts(self.parts.iter().filter_map(|parts| parts.payload), cursor)?;
        let (mut keys, mut payloads) = (keys.into_iter(), payloads.into_iter());
        let (mut whole, mut parts) = (std::mem::take(&mut self.whole).into_iter(), self.parts.drain(..));
        let mut piece = OpPiece { bodies: Vec::new(), ops: std::mem::take(&mut self.ops) };
        let count = piece.ops.len();
        for (op, shape) in piece.ops.iter_mut().zip(&self.shapes) {
            let start = piece.bodies.len();
            match OpKind::from_number((shape & KINDS).into()) {
                None => {
                    let body = cursor.take(whole.next()?)?;
                    if BodyParts::of(op.kind, op.flags, body).is_some() {
                        return None;
                    }
                    piece.bodies.extend_from_slice(body);
                }
                Some(kind) => {
                    let Parts { surface, preds, payload, .. } = parts.next()?;
                    let (surface, key) = (self.surfaces[surface], keys.next()?);
                    let payload = if payload.is_some() { Some(payloads.next()?) } else { None };
                    BodyParts { surface, key, preds, payload }.write(kind, &mut piece.bodies);
                    OpView::decode(op.kind, op.flags, &piece.bodies[start..]).ok()?;
                }
            }
            op.body = start..piece.bodies.len();
            // Texts that many ops share must not grow to more than was said.
            if count > 1 && piece.bodies.len() > CHUNK_BYTES {
                return None;
            }
        }
        Some(piece)
    }

    fn is_all_used(&self) -> bool {
        self.used_logs.iter().chain(&self.used_surfaces).all(|is_used| *is_used)
    }
}

fn read_surfaces<'a>(cursor: &mut Cursor<'a>) -> Option<Vec<&'a str>> {
    let count = cursor.count(1)?;
    let mut surfaces = Vec::with_capacity(count);
    for _ in 0..count {
        surfaces.push(cursor.text(SURFACE_BYTES_MAX)?);
    }
    surfaces.is_sorted_by(|a, b| a < b).then_some(surfaces)
}

fn texts<'a>(lengths: impl Iterator<Item = usize>, cursor: &mut Cursor<'a>) -> Option<Vec<&'a str>> {
    lengths.map(|len| str::from_utf8(cursor.take(len)?).ok()).collect()
}

const fn has_preds(kind: u16) -> bool {
    kind == OpKind::Put.number() || kind == OpKind::Delete.number()
}

const WHOLE: u8 = 0;
/// The bits of a shape that are the kind.
const KINDS: u8 = 7;
const LATE: u8 = 8;
const NAMED: u8 = 16;
const TOLD: u8 = 32;

/// Place, shape and stamp of one op.
const BYTES_MIN: usize = 4;

/// More than the columns take of an op beside its body and the ids of its logs.
const OP_BYTES: usize = 48;

const LOG_BYTES: usize = 40;
