//! Measures the fold: nanoseconds per op, resident bytes per row, snapshot times.
//!
//! `cargo run --release --no-default-features --example fold_speed -- [rows|late|others] [COUNT]`
//!
//! One measurement per process, since freed memory would be counted for the next. `rows` writes
//! every row, writes it again, and takes it through a snapshot; `late` writes rows whose
//! predecessors arrive afterwards; `others` states facts and adds events.

use std::time::{Duration, Instant};

use kinfold::fold::{State, StateBuilder};
use kinfold::model::{DeviceId, Dot, Hlc, Incarnation, LogId, Op, Payload, Seq, SpaceId, Surface};
use kinfold::wire::op::encode_op;
use kinfold::wire::{BodyReader, BodyWriter};

fn main() {
    let mut args = std::env::args().skip(1);
    let what = args.next().unwrap_or_else(|| "rows".to_owned());
    let count = args.next().and_then(|arg| arg.parse().ok()).unwrap_or(100_000);
    print_limit();
    match what.as_str() {
        "late" => measure_late(count),
        "others" => measure_others(count),
        _ => measure_rows(count),
    }
    print_limit();
}

fn measure_rows(count: u64) {
    let writes = bodies(log(1), 1, count, &|n| put(n, Vec::new()));
    let again = bodies(log(1), count + 1, count, &|n| put(n, vec![dot(1, n + 1)]));
    let keys: Vec<String> = (0..count).map(|n| key(n ^ 1)).collect();
    let surface: Surface = "registry:note".parse().expect("a surface");
    let mut state = State::new(SPACE);

    measure("write new rows", count, || apply(&mut state, log(1), &writes));
    assert_eq!(state.counts().live_rows, count);

    let mut chunks = Vec::new();
    measure("encode", count, || state.encode(&mut |chunk| chunks.push(chunk.to_vec())));
    let mut builder = StateBuilder::new();
    let mut loaded = None;
    measure("load", count, || {
        chunks.iter().for_each(|chunk| builder.push(chunk).expect("a snapshot reads back"));
        loaded = Some(std::mem::take(&mut builder).finish().expect("it is whole"));
    });
    assert_eq!(loaded.expect("it was just built").root(), state.root());

    measure("write them again", count, || apply(&mut state, log(1), &again));
    assert_eq!((state.counts().live_rows, state.counts().conflicts), (count, 0));
    measure("read them", count, || keys.iter().filter(|key| state.row(&surface, key).is_some()).count());
    measure("root from rows", count, || assert_eq!(state.recomputed_root(), state.root()));
}

fn measure_late(count: u64) {
    let early = bodies(log(2), 1, count, &|n| put(n, vec![dot(1, n + 1)]));
    let late = bodies(log(1), 1, count, &|n| put(n, Vec::new()));
    let mut state = State::new(SPACE);

    measure("successors first", count, || apply(&mut state, log(2), &early));
    measure("then predecessors", count, || apply(&mut state, log(1), &late));
    assert_eq!((state.counts().live_rows, state.counts().conflicts), (count, 0));
}

fn measure_others(count: u64) {
    let facts = bodies(log(1), 1, count, &|n| Op::Fact {
        surface: Surface::Skill,
        key: key(n).into(),
        payload: payload(n),
    });
    let event = |n: u64| Op::Event {
        surface: Surface::Conversation,
        stream: key(n % 100).into(),
        payload: payload(n),
    };
    let events = [bodies(log(2), 1, count, &event), bodies(log(3), 1, count, &event)];
    let mut state = State::new(SPACE);

    measure("facts", count, || apply(&mut state, log(1), &facts));
    measure("events", count, || apply(&mut state, log(2), &events[0]));
    measure("events between them", count, || apply(&mut state, log(3), &events[1]));
}

fn measure<T>(what: &str, count: u64, run: impl FnOnce() -> T) {
    let before = resident();
    let time = time(run);
    let bytes = (resident() - before) as f64 / count as f64;
    println!("{what:<20} {:>6} ns, {bytes:>6.1} resident bytes for each of {count}", per(time, count));
}

fn print_limit() {
    let time = time(|| (0..1_000_000u32).map(|n| blake3::hash(&n.to_be_bytes()).as_bytes()[0]).max());
    println!("{:<20} {:>6} ns", "limit: BLAKE3 block", per(time, 1_000_000));
}

fn apply(state: &mut State, log: LogId, bodies: &[(Vec<u8>, Seq, u32)]) {
    for (body, first, count) in bodies {
        let reader = BodyReader::new(body, *first, *count).expect("it was just written");
        state.apply_body(&log, reader, &mut |_| {}).expect("it was just written");
    }
}

fn bodies(log: LogId, first: u64, count: u64, make: &dyn Fn(u64) -> Op) -> Vec<(Vec<u8>, Seq, u32)> {
    let mut bodies = Vec::new();
    let mut writer = BodyWriter::new();
    let mut from = Seq::new(first);
    for n in 0..count {
        let op = make(n);
        let bytes = encode_op(&op, &log);
        if !writer.has_room(bytes.len()) {
            let (body, op_count) = std::mem::take(&mut writer).finish();
            bodies.push((body, from, op_count));
            from = from.plus(u64::from(op_count));
        }
        writer.push(Hlc::new((1 << 40) + first + n), op.kind().number(), 0, &bytes);
    }
    let (body, op_count) = writer.finish();
    bodies.push((body, from, op_count));
    bodies
}

fn put(n: u64, preds: Vec<Dot>) -> Op {
    let surface = "registry:note".parse().expect("a surface");
    Op::Put { surface, key: key(n).into(), preds, payload: payload(n) }
}

/// 16 characters in no order.
fn key(n: u64) -> String {
    let hash = blake3::hash(&n.to_be_bytes());
    hash.as_bytes()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// About 150 bytes of words and numbers.
fn payload(n: u64) -> Payload {
    let words = "the quick brown fox jumps over the lazy dog and then takes a nap in the sun";
    let more = key(n + 1);
    Payload::parse(&format!(r#"{{"n":{n},"text":"{words}","more":"{more}","done":false}}"#)).expect("JSON")
}

fn log(incarnation: u64) -> LogId {
    LogId { device: DeviceId::from_bytes([3; 32]), incarnation: Incarnation::new(incarnation) }
}

fn dot(incarnation: u64, seq: u64) -> Dot {
    Dot { log: log(incarnation), seq: Seq::new(seq) }
}

fn time<T>(run: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    std::hint::black_box(run());
    start.elapsed()
}

fn per(time: Duration, count: u64) -> u128 {
    time.as_nanos() / u128::from(count)
}

/// Resident bytes of this process; 0 where there is no `/proc`.
fn resident() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: i64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}

const SPACE: SpaceId = SpaceId::from_bytes([7; 32]);
