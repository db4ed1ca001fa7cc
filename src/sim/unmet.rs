//! A home that comes back from a backup, and the devices that it has yet to meet before it vouches for anything.

use std::num::NonZeroU16;
use std::time::Duration;

use super::based::{Fleet, peer};
use crate::model::{DeviceId, Frontier};
use crate::roster::Role;
use crate::sync::gc::Proposal;
use crate::sync::{GcHold, Input, RosterChange, Token};
use crate::wire::checkpoint::CheckpointHash;

const DAY: Duration = Duration::from_secs(24 * 3_600);

impl Fleet {
    pub(super) fn device(&self, of: usize) -> DeviceId {
        self.devices[of].identity.device()
    }

    fn unmet(&self, at: usize) -> Vec<DeviceId> {
        self.devices[at].engine.unmet(self.space)
    }

    /// Devices because of whose past, or that of the home itself, it does not drop what is within a cut.
    fn holding(&self, at: usize, cut: &Frontier) -> Vec<DeviceId> {
        let attested_by = self.devices.iter().map(|device| device.identity.device()).collect();
        let checkpoint = CheckpointHash::from_bytes([7; 32]);
        let proposal =
            Proposal { checkpoint, cut, attested_by: &attested_by, whole_since: None, vouched_since: None };
        let device = &self.devices[at];
        let standing = device.engine.gc_standing(self.space, Some(&proposal), device.wall, Duration::ZERO);
        let of = |hold: &GcHold| match hold {
            GcHold::Unmet { device } | GcHold::InDoubt { device } => Some(*device),
            _ => None,
        };
        standing.unwrap().holds.iter().filter_map(of).collect()
    }

    fn says(&mut self, at: usize, change: RosterChange) {
        let space = self.space;
        self.tell(at, Input::Change { space, change, token: Token(3) });
    }
}

/// Three devices, with some history that all of them have; and the first one as it comes back from a backup of
/// that, whose number is 3 and which is connected to none.
fn put_back() -> Fleet {
    let mut fleet = Fleet::new(3);
    for other in 1..3 {
        fleet.connect(0, other);
    }
    fleet.write(0, 2);
    let home = fleet.copy(0);
    for other in 1..3 {
        fleet.disconnect(0, other);
    }
    fleet.tell(home, Input::Doubt);
    fleet
}

#[test]
fn a_home_that_comes_back_from_a_backup_vouches_for_nothing_before_it_has_met_every_other_device() {
    let mut fleet = put_back();
    let (space, near, drawer) = (fleet.space, fleet.device(1), fleet.device(2));
    let mut both = vec![near, drawer];
    both.sort_unstable();
    assert_eq!(fleet.unmet(3), both);
    assert!((0..3).all(|other| fleet.unmet(other).is_empty()), "of the others every life is known");

    fleet.connect(3, 1);
    assert_eq!(fleet.unmet(3), [drawer]);
    fleet.disconnect(3, 1);
    fleet.devices[3].restart(space);
    assert_eq!(fleet.unmet(3), [drawer], "it is in the store");
    let cut = fleet.devices[3].engine.space(space).unwrap().frontier.clone();
    assert_eq!(fleet.holding(3, &cut), [drawer]);

    // A person may say that nothing waits for it, and take that back.
    fleet.says(3, RosterChange::Dormant { device: drawer });
    assert_eq!((fleet.unmet(3), fleet.holding(3, &cut)), (vec![], vec![]));
    fleet.says(3, RosterChange::Active { device: drawer });
    assert_eq!(fleet.unmet(3), [drawer]);

    fleet.connect(3, 2);
    assert_eq!(fleet.unmet(3), []);
    fleet.disconnect(3, 2);
    fleet.devices[3].restart(space);
    assert_eq!(fleet.unmet(3), []);
}

#[test]
fn a_device_that_is_dormant_by_itself_is_to_be_met_too_unless_a_person_says_so() {
    let mut fleet = put_back();
    let (space, drawer) = (fleet.space, fleet.device(2));
    fleet.connect(3, 1);
    fleet.devices[1].engine.call_dormant_after(NonZeroU16::new(30));
    fleet.write(1, 1);
    fleet.pass(1, DAY * 40);
    let dormancy = fleet.devices[3].engine.space(space).unwrap().roster.dormancy_of(&drawer);
    assert!(dormancy.is_some_and(|said| said.after_days.is_some()));
    assert_eq!(fleet.unmet(3), [drawer]);

    fleet.says(3, RosterChange::Dormant { device: drawer });

    assert_eq!(fleet.unmet(3), []);
}

#[test]
fn a_device_that_is_enrolled_later_is_to_be_met_too() {
    let mut fleet = put_back();
    fleet.connect(3, 1);
    fleet.connect(3, 2);
    assert_eq!(fleet.unmet(3), []);

    let other = DeviceId::from_bytes([9; 32]);
    let (space, role, token) = (fleet.space, Role::Member, Token(4));
    fleet.tell(1, Input::Enrol { space, device: other, role, name: "other".into(), token });

    assert_eq!(fleet.unmet(3), [other]);
}

#[test]
fn the_others_wait_for_a_home_that_stores_without_reading_until_it_has_met_every_device() {
    let mut fleet = Fleet::with_roles(&[Role::Admin, Role::Admin, Role::Blind]);
    let (space, blind) = (fleet.space, fleet.device(2));
    fleet.connect(0, 1);
    fleet.connect(0, 2);
    fleet.write(0, 2);
    let home = fleet.copy(2);
    fleet.disconnect(0, 2);
    let cut = fleet.devices[0].engine.space(space).unwrap().frontier.clone();
    assert_eq!(fleet.holding(0, &cut), []);

    fleet.tell(home, Input::Doubt);
    fleet.connect(home, 0);
    assert_eq!(fleet.unmet(home), [fleet.device(1)]);
    assert_eq!(fleet.holding(0, &cut), [blind], "its ack would vouch");

    fleet.connect(home, 1);
    assert_eq!((fleet.unmet(home), fleet.holding(0, &cut)), (vec![], vec![]));
}

/// A home as it was before the other device and another life of it dropped history; what it is told of that life
/// is all that it can notice.
fn forgotten(with_another_log: bool) {
    let mut fleet = Fleet::new(2);
    fleet.connect(0, 1);
    let home = fleet.copy(0);
    if with_another_log {
        fleet.with_another_log(home);
        fleet.write(0, 3);
    } else {
        fleet.write(1, 3);
    }
    let checkpoint = fleet.checkpoint(0, 1);
    if !with_another_log {
        fleet.begin_at(0, &checkpoint);
    }
    fleet.begin_at(1, &checkpoint);
    fleet.disconnect(0, 1);
    assert_eq!(fleet.unmet(home), [], "there is no doubt");

    fleet.connect(home, 1);
    assert_eq!(fleet.unmet(home), [fleet.device(1)]);
    fleet.begin_at(home, &checkpoint);
    assert_eq!(fleet.unmet(home), []);
}

#[test]
fn a_log_of_its_own_that_a_home_knows_nothing_of_is_a_life_that_it_has_forgotten() {
    forgotten(true);
}

#[test]
fn a_checkpoint_that_a_home_has_begun_with_and_knows_nothing_of_is_one_too() {
    forgotten(false);
}

#[test]
fn a_removed_device_need_not_be_met() {
    let mut fleet = put_back();
    fleet.connect(3, 1);

    fleet.says(3, RosterChange::Remove { device: fleet.device(2) });

    assert_eq!(fleet.unmet(3), []);
}

#[test]
fn whoever_has_acknowledged_the_new_log_was_met_though_never_connected() {
    let mut fleet = put_back();
    fleet.connect(1, 2);
    fleet.connect(3, 1);
    // What the two have said so far may be from before.
    assert_eq!(fleet.unmet(3), [fleet.device(2)]);

    fleet.write(3, 1);
    fleet.pass(2, DAY);
    fleet.pass(1, DAY);

    assert_eq!(fleet.unmet(3), []);
}

#[test]
fn a_device_that_holds_more_was_not_met_before_that_is_here() {
    let mut fleet = Fleet::new(2);
    fleet.connect(0, 1);
    let home = fleet.copy(0);
    fleet.write(0, 3);
    fleet.write(1, 2);
    let checkpoint = fleet.checkpoint(0, 1);
    fleet.begin_at(0, &checkpoint);
    fleet.begin_at(1, &checkpoint);
    fleet.disconnect(0, 1);
    fleet.tell(home, Input::Doubt);

    // What the home lacks, the other has dropped.
    fleet.connect(home, 1);
    assert_eq!(fleet.unmet(home), [fleet.device(1)]);

    fleet.begin_at(home, &checkpoint);
    assert_eq!(fleet.unmet(home), []);
}

#[test]
fn a_home_put_back_to_when_it_was_alone_meets_whoever_it_hears_of() {
    let mut fleet = Fleet::new(1);
    fleet.tell(0, Input::Doubt);
    assert_eq!(fleet.unmet(0), [], "it knows of nobody");

    let other = DeviceId::from_bytes([9; 32]);
    let (space, role, token) = (fleet.space, Role::Member, Token(4));
    fleet.tell(0, Input::Enrol { space, device: other, role, name: "other".into(), token });

    assert_eq!(fleet.unmet(0), [other]);
}

#[test]
fn a_home_that_comes_back_from_a_backup_calls_nobody_dormant_before_it_has_met_them() {
    let mut fleet = put_back();
    let (space, drawer) = (fleet.space, fleet.device(2));
    fleet.devices[3].engine.call_dormant_after(NonZeroU16::new(30));
    fleet.connect(3, 1);
    fleet.write(3, 1);

    fleet.pass(3, DAY * 90);
    let dormancy = |fleet: &Fleet| {
        let roster = fleet.devices[3].engine.space(space).unwrap().roster;
        roster.dormancy_of(&drawer)
    };
    assert!(fleet.devices[3].engine.silent_days(space, &drawer) >= 30);
    assert_eq!((dormancy(&fleet), fleet.unmet(3)), (None, vec![drawer]));

    fleet.connect(3, 2);
    fleet.tell(3, Input::Closed { peer: peer(2) });
    fleet.write(3, 1);
    fleet.pass(3, DAY * 40);
    assert!(dormancy(&fleet).is_some_and(|said| said.after_days.is_some()));
}
