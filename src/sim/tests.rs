//! Seeds that run with every test, and seeds that once broke a promise.

use super::*;

/// Runs seeds and shows what led up to the first broken promise.
fn check(seeds: impl IntoIterator<Item = u64>, knobs: &Knobs) {
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

#[test]
fn forty_worlds_with_a_liar_settle() {
    check(0..40, &Knobs { hostile_permille: 20, ..Knobs::default() });
}

#[test]
fn the_same_seed_is_the_same_world() {
    let one = run(7, &Knobs::default()).expect("settles");
    let other = run(7, &Knobs::default()).expect("settles");

    assert_eq!(format!("{one:?}"), format!("{other:?}"));
}
