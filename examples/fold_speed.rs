//! Measures the fold: nanoseconds per op, bytes per row, snapshot and root.
//!
//! `cargo run --release --no-default-features --example fold_speed -- [ROWS]…`

use std::time::{Duration, Instant};

use kinfold::fold::{State, StateBuilder};
use kinfold::model::{DeviceId, Dot, Hlc, Incarnation, LogId, Op, Payload, Seq, SpaceId};
use kinfold::wire::op::encode_op;
use kinfold::wire::{BodyReader, BodyWriter};

fn main() {
    let counts: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    println!(
        "{:>9} {:>9} {:>9} {:>9} {:>9} {:>7} {:>9} {:>9} {:>9} {:>9}",
        "rows",
        "put ns",
        "again ns",
        "fact ns",
        "event ns",
        "B/row",
        "encode ms",
        "load ms",
        "loaded B",
        "row ns"
    );
    for rows in if counts.is_empty() { vec![10_000, 100_000, 1_000_000] } else { counts } {
        measure(rows);
    }
    let compress = time(|| (0..1_000_000u32).map(|n| blake3::hash(&n.to_be_bytes()).as_bytes()[0]).max());
    println!("limit: one BLAKE3 compression takes {} ns", per(compress, 1_000_000));
}

fn measure(rows: u64) {
    let space = SpaceId::from_bytes([7; 32]);
    let bodies = |make: &dyn Fn(u64) -> Op, first: u64| bodies(rows, first, make);
    let puts = bodies(&|n| put(n, Vec::new()), 1);
    let again = bodies(&|n| put(n, vec![Dot { log: log(), seq: Seq::new(n + 1) }]), rows + 1);

    let before = resident();
    let mut state = State::new(space);
    let put_time = time(|| apply(&mut state, &puts));
    let row_bytes = (resident() - before) as f64 / rows as f64;
    assert_eq!(state.counts().live_rows, rows);

    let mut chunks = Vec::new();
    let encode_time = time(|| state.encode(&mut |chunk| chunks.push(chunk.to_vec())));
    let before = resident();
    let mut loaded = None;
    let load_time = time(|| {
        let mut builder = StateBuilder::new();
        chunks.iter().for_each(|chunk| builder.push(chunk).expect("a snapshot reads back"));
        loaded = Some(builder.finish().expect("it is whole"));
    });
    let loaded_bytes = (resident() - before) as f64 / rows as f64;
    assert_eq!(loaded.expect("it was just built").root(), state.root());
    drop(chunks);

    let again_time = time(|| apply(&mut state, &again));
    assert_eq!((state.counts().live_rows, state.counts().conflicts), (rows, 0));
    let surface = "registry:note".parse().expect("a surface");
    let read_time = time(|| (0..rows).filter(|n| state.row(&surface, &key(n ^ 1)).is_some()).count());
    drop(state);

    let facts = bodies(
        &|n| Op::Fact {
            surface: "skill".parse().expect("a surface"),
            key: key(n).into(),
            payload: payload(n),
        },
        1,
    );
    let fact_time = time(|| apply(&mut State::new(space), &facts));
    drop(facts);
    let events = bodies(
        &|n| Op::Event {
            surface: "conversation".parse().expect("a surface"),
            stream: key(n % 100).into(),
            payload: payload(n),
        },
        1,
    );
    let event_time = time(|| apply(&mut State::new(space), &events));
    println!(
        "{rows:>9} {:>9} {:>9} {:>9} {:>9} {row_bytes:>7.1} {:>9} {:>9} {loaded_bytes:>9.1} {:>9}",
        per(put_time, rows),
        per(again_time, rows),
        per(fact_time, rows),
        per(event_time, rows),
        encode_time.as_millis(),
        load_time.as_millis(),
        per(read_time, rows),
    );
}

fn apply(state: &mut State, bodies: &[(Vec<u8>, Seq, u32)]) {
    for (body, first, count) in bodies {
        let reader = BodyReader::new(body, *first, *count).expect("it was just written");
        state.apply_body(&log(), reader, &mut |_| {}).expect("it was just written");
    }
}

fn bodies(ops: u64, first: u64, make: &dyn Fn(u64) -> Op) -> Vec<(Vec<u8>, Seq, u32)> {
    let mut bodies = Vec::new();
    let mut writer = BodyWriter::new();
    let mut from = first;
    for n in 0..ops {
        let op = make(n);
        let bytes = encode_op(&op, &log());
        if !writer.has_room(bytes.len()) {
            let (body, count) = std::mem::take(&mut writer).finish();
            bodies.push((body, Seq::new(from), count));
            from += u64::from(count);
        }
        writer.push(Hlc::new((1 << 40) + first + n), op.kind().number(), 0, &bytes);
    }
    let (body, count) = writer.finish();
    bodies.push((body, Seq::new(from), count));
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

fn payload(n: u64) -> Payload {
    let words = "the quick brown fox jumps over the lazy dog and then takes a nap in the sun";
    Payload::parse(&format!("{{\"n\":{n},\"text\":\"{words}\",\"more\":\"{}\"}}", key(n + 1))).expect("JSON")
}

fn log() -> LogId {
    LogId { device: DeviceId::from_bytes([3; 32]), incarnation: Incarnation::new(1) }
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
