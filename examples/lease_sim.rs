//! Runs many histories of leases: `cargo run --release --example lease_sim -- --histories 5000`.
//!
//! `--model STATES` walks the states of small worlds instead; `--mutants SEEDS` leaves out one rule
//! after another and says which check notices.
//!
//! `--show SEED` prints every request of one history, and what was answered.
//!
//! Options: `--histories N` (all through the order check), `--linear N` (how many of them also
//! through the search for one order, by default two in five), `--from SEED`, `--keep-going`.

use std::process::ExitCode;
use std::time::Instant;

use kinfold::lease::{Rule, Rules};
use kinfold::sim::lease::model::{self, Scope};
use kinfold::sim::lease::{self, Depth, Kind, Summary};

fn main() -> ExitCode {
    let (mut histories, mut linear, mut from, mut is_stubborn) = (5_000, None, 0, false);
    let (mut model, mut mutants, mut shown) = (None, None, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|text| text.parse::<u64>().ok());
        let is_good = match word.as_str() {
            "--histories" => number().map(|value| histories = value).is_some(),
            "--linear" => number().map(|value| linear = Some(value)).is_some(),
            "--from" => number().map(|value| from = value).is_some(),
            "--model" => number().map(|value| model = Some(value)).is_some(),
            "--show" => number().map(|value| shown = Some(value)).is_some(),
            "--mutants" => number().map(|value| mutants = Some(value)).is_some(),
            "--keep-going" => {
                is_stubborn = true;
                true
            }
            _ => false,
        };
        if !is_good {
            eprintln!("{word}: not understood; see the head of examples/lease_sim.rs");
            return ExitCode::from(2);
        }
    }
    if let Some(seed) = shown {
        show(seed);
        return ExitCode::SUCCESS;
    }
    if let Some(states) = model {
        return walk(usize::try_from(states).unwrap_or(usize::MAX));
    }
    if let Some(seeds) = mutants {
        return if leave_out(seeds) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if search(from, histories, linear.unwrap_or(histories * 2 / 5), is_stubborn) == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn search(from: u64, histories: u64, linear: u64, is_stubborn: bool) -> u64 {
    let begun = Instant::now();
    let (mut failed, mut total, mut searched) = (0, Summary::default(), 0);
    for seed in from..from.saturating_add(histories) {
        let depth = if searched < linear { Depth::Linear } else { Depth::Order };
        searched += u64::from(depth == Depth::Linear && Kind::of(seed).is_linear());
        match lease::run(seed, Kind::of(seed), Rules::ALL, depth) {
            Ok(summary) => total.add(&summary),
            Err(failure) => {
                failed += 1;
                println!("{failure} ({:?})", Kind::of(seed));
                if !is_stubborn {
                    break;
                }
            }
        }
    }
    println!(
        "{} histories through the order check, {searched} through the search for one order, {failed} failed, \
         in {:.1?}",
        total.histories + failed,
        begun.elapsed()
    );
    println!(
        "{} requests, {} leases, {} acts ({} through the fence), {} certificates, {} starts, at most {} states",
        total.ops,
        total.beliefs,
        total.acts,
        total.fenced_acts,
        total.certificates,
        total.lives,
        total.states_max
    );
    failed
}

/// In the order in which they were sent; times in true microseconds.
fn show(seed: u64) {
    let mut ops = lease::history(seed, Kind::of(seed), Rules::ALL).ops;
    ops.sort_by_key(|op| op.sent);
    for op in ops {
        println!("{op:?}");
    }
}

/// Half of the states in the small world of leases, the rest in that of moves.
fn walk(states: usize) -> ExitCode {
    let (mut total, mut is_good) = (0, true);
    for name in ["lease", "moves"] {
        let scope = if name == "lease" { Scope::lease(states / 2) } else { Scope::moves(states - total) };
        let begun = Instant::now();
        let walk = model::walk(&scope);
        println!(
            "{name}: {} distinct states, {} steps, depth {}, {}, in {:.1?}",
            walk.states,
            walk.steps,
            walk.depth,
            if walk.is_complete { "all there are" } else { "as many as were asked for" },
            begun.elapsed()
        );
        if let Some(broken) = walk.broken {
            println!("  broken: {broken}");
            is_good = false;
        }
        total += walk.states;
    }
    println!("{total} distinct states in all");
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether each rule that is left out is noticed.
fn leave_out(seeds: u64) -> bool {
    let mut are_noticed = true;
    for rule in Rule::EVERY {
        let rules = Rules::without(*rule);
        let found = (0..seeds).find_map(|seed| {
            lease::run(seed, Kind::of(seed), rules, Depth::Linear).err().map(|failure| (seed, failure))
        });
        if let Some((seed, failure)) = found {
            println!("{rule:?}: {failure} ({:?})", Kind::of(seed));
        } else if let Some(broken) = walk_without(rules) {
            println!("{rule:?}: not by {seeds} histories; by the small model: {broken}");
        } else {
            are_noticed = false;
            println!("{rule:?}: neither by {seeds} histories nor by the small model");
        }
    }
    are_noticed
}

/// What the states of the small worlds say of it.
fn walk_without(rules: Rules) -> Option<String> {
    let scopes = [Scope::lease(MUTANT_STATES), Scope::moves(MUTANT_STATES)];
    scopes.into_iter().find_map(|scope| model::walk(&Scope { rules, ..scope }).broken)
}

const MUTANT_STATES: usize = 200_000;
