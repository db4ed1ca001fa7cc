//! Seeds that run with every test, and seeds that once broke a promise.

use super::*;

fn check(seeds: impl Iterator<Item = u64>, knobs: &Knobs) {
    for seed in seeds {
        if let Err(failure) = run(seed, knobs) {
            let trace = run_traced(seed, knobs).err().map(|failure| failure.trace).unwrap_or_default();
            let last = trace.len().saturating_sub(60);
            panic!("{failure}\n{}", trace[last..].join("\n"));
        }
    }
}

#[test]
fn two_hundred_worlds_settle() {
    check(0..200, &Knobs::default());
}
