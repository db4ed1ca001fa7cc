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

/// Checkpoints made, attested and begun with all the time.
fn forgetful() -> Knobs {
    Knobs { gc_permille: 500, ..Knobs::default() }
}

#[test]
fn a_hundred_worlds_that_drop_history_settle() {
    check(0..100, &forgetful());
    let based = (0..20).map(|seed| run(seed, &forgetful()).expect("settles").base_count).sum::<u64>();

    assert!(based >= 25, "{based}");
}

#[test]
fn a_hundred_worlds_that_drop_history_while_trust_is_shaken_settle() {
    check(0..100, &Knobs { trust_permille: 60, ..forgetful() });
}

/// Backups put back, homes copied, devices removed, keys renewed, some devices blind.
fn shaken() -> Knobs {
    Knobs { trust_permille: 60, ..Knobs::default() }
}

#[test]
fn a_hundred_and_twenty_worlds_whose_trust_is_shaken_settle() {
    check(0..120, &shaken());
}

#[test]
fn a_history_that_parts_before_an_earlier_selection_is_selected_against_too() {
    check([472], &shaken());
}

#[test]
fn a_parting_is_found_by_asking_more_than_once() {
    check([437, 927], &shaken());
}

#[test]
fn a_key_that_nobody_has_any_more_is_replaced() {
    check([365], &shaken());
}

#[test]
fn a_copy_hears_what_the_other_copy_writes() {
    check([13, 19], &shaken());
}

#[test]
fn what_can_be_read_before_a_missing_key_is_read() {
    check([2_670], &Knobs { trust_permille: 150, ..Knobs::default() });
}

#[test]
fn a_removal_decides_between_histories_that_its_device_left_open() {
    check([2_063], &Knobs { trust_permille: 150, ..Knobs::default() });
}

#[test]
fn the_same_seed_is_the_same_world() {
    let one = run(7, &Knobs::default()).expect("settles");
    let other = run(7, &Knobs::default()).expect("settles");

    assert_eq!(format!("{one:?}"), format!("{other:?}"));
}

/// The same over a year: devices sleep for months, are called dormant, and come back.
fn years() -> Knobs {
    Knobs { trust_permille: 60, months: 12, ..forgetful() }
}

#[test]
fn ten_years_of_sleep_and_dropped_history_settle() {
    check(0..10, &years());
    let days = (0..3).map(|seed| run(seed, &years()).expect("settles").virtual_time.as_secs() / 86_400);

    assert!(days.min() >= Some(360));
}

#[test]
fn a_checkpoint_is_of_the_history_that_its_maker_holds() {
    check([55, 302], &years());
}

#[test]
fn a_backup_from_before_the_first_write_does_not_go_on_with_its_log() {
    check([106], &years());
}

#[test]
fn nothing_is_written_again_for_a_checkpoint_behind_the_base() {
    check([137, 2_528], &years());
}

#[test]
fn a_removed_row_stays_removed_where_a_device_begins_behind_what_it_wrote() {
    check([5_007], &Knobs { trust_permille: 60, ..forgetful() });
}

#[test]
fn a_life_that_was_selected_behind_a_base_of_others_gives_way_to_it() {
    check([2_175], &Knobs { copies: false, ..years() });
}
