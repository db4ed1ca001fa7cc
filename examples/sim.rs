//! Runs many seeded worlds: `cargo run --release --example sim -- --seeds 10000`.
//!
//! Options: `--seeds N`, `--from S`, `--devices D`, `--hostile PERMILLE`, `--trust PERMILLE`,
//! `--gc PERMILLE`, `--months MONTHS`, `--no-copies`, `--trace LINES`, `--keep-going`.

use std::process::ExitCode;
use std::time::Instant;

use kinfold::sim::{Failure, Knobs, run, run_traced};

fn main() -> ExitCode {
    let mut knobs = Knobs::default();
    let (mut seeds, mut from, mut lines, mut is_stubborn) = (1_000u64, 0u64, 80usize, false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|text| text.parse::<u64>().ok());
        let is_good = match word.as_str() {
            "--seeds" => number().map(|value| seeds = value).is_some(),
            "--from" => number().map(|value| from = value).is_some(),
            "--devices" => number().map(|value| knobs.devices = usize::try_from(value).ok()).is_some(),
            "--hostile" => number().map(|value| knobs.hostile_permille = value).is_some(),
            "--trust" => number().map(|value| knobs.trust_permille = value).is_some(),
            "--gc" => number().map(|value| knobs.gc_permille = value).is_some(),
            "--trace" => number().map(|value| lines = value as usize).is_some(),
            "--months" => number().map(|value| knobs.months = u32::try_from(value).unwrap_or(120)).is_some(),
            "--no-copies" => {
                knobs.copies = false;
                true
            }
            "--keep-going" => {
                is_stubborn = true;
                true
            }
            _ => false,
        };
        if !is_good {
            eprintln!("{word}: not understood; see the head of examples/sim.rs");
            return ExitCode::from(2);
        }
    }
    let failed = search(from, seeds, &knobs, lines, is_stubborn);
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn search(from: u64, seeds: u64, knobs: &Knobs, lines: usize, is_stubborn: bool) -> u64 {
    let begun = Instant::now();
    let (mut failed, mut ops, mut events, mut slowest) = (0, 0, 0, std::time::Duration::ZERO);
    let (mut bases, mut dormant, mut days) = (0, 0, 0);
    for seed in from..from.saturating_add(seeds) {
        match run(seed, knobs) {
            Ok(summary) => {
                ops += summary.op_count;
                events += summary.event_count;
                bases += summary.base_count;
                dormant += summary.dormant_count;
                days += summary.virtual_time.as_secs() / 86_400;
                slowest = slowest.max(summary.settled_after);
            }
            Err(failure) => {
                failed += 1;
                tell(&failure, knobs, if is_stubborn { 0 } else { lines });
                if !is_stubborn {
                    break;
                }
            }
        }
        let done = seed - from + 1;
        if done.is_multiple_of(100) || done == seeds {
            let rate = done as f64 / begun.elapsed().as_secs_f64();
            println!(
                "{done} worlds, {rate:.0}/s, {ops} ops, {events} events, slowest to settle {slowest:.1?}"
            );
            if knobs.months > 0 {
                println!(
                    "  {days} days, history dropped {bases} times, {dormant} devices dormant by themselves"
                );
            }
        }
    }
    failed
}

fn tell(failure: &Failure, knobs: &Knobs, lines: usize) {
    println!("{failure}");
    let mut source = std::error::Error::source(&failure.violation);
    while let Some(cause) = source {
        println!("  {cause}");
        source = cause.source();
    }
    if lines > 0
        && let Err(traced) = run_traced(failure.seed, knobs)
    {
        let first = traced.trace.len().saturating_sub(lines);
        traced.trace[first..].iter().for_each(|line| println!("  {line}"));
    }
}
