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

fn mesh() -> Knobs {
    Knobs { naming: Naming::Mesh, ..Knobs::default() }
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

#[test]
fn acks_after_a_crash_are_newer_than_those_before_it() {
    check([27, 36, 72], &mesh());
}

#[test]
fn an_ack_that_overtakes_the_record_of_its_signer_counts_once_that_is_here() {
    check([68, 112], &mesh());
}

#[test]
fn ops_that_were_being_carried_over_when_the_store_refused_are_carried_later() {
    check([28], &mesh());
    check([1_031], &Knobs::default());
}

#[test]
fn a_draft_is_sealed_when_its_first_reader_comes() {
    check([31], &mesh());
}

#[test]
fn batches_that_overtake_the_record_of_their_author_do_not_end_the_connection() {
    check([20, 52, 150], &mesh());
}

#[test]
fn two_devices_that_adopt_each_others_space_at_once_end_in_one() {
    check([88, 107, 165], &mesh());
}

#[test]
fn a_standing_that_grows_later_is_said_again() {
    check([12], &mesh());
}

#[test]
fn devices_that_hang_together_only_through_others_end_in_one_space() {
    check([26, 63, 140], &Knobs { naming: Naming::Tree, ..Knobs::default() });
}

#[test]
fn messages_that_cross_with_leaving_a_space_are_ignored() {
    check([1, 67], &mesh());
    check([21_248], &Knobs::default());
}

#[test]
fn a_device_that_has_just_joined_does_not_understate_its_space() {
    check([2_675], &Knobs::default());
}

#[test]
fn drafts_that_are_sealed_while_the_fold_begins_anew_are_folded() {
    check([4_465], &Knobs::default());
}

#[test]
fn an_unsigned_batch_of_the_own_log_raises_no_doubt() {
    check([254, 263, 282], &Knobs { hostile_permille: 20, ..Knobs::default() });
}
