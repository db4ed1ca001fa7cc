//! Devices that fall silent, day by day: of whom nothing waits any more, and who may say so.

use std::num::NonZeroU16;
use std::time::Duration;

use super::based::{Fleet, peer};
use crate::model::Wall;
use crate::roster::Dormancy;
use crate::sync::{Input, Notice, RosterChange, Token};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Devices that say after thirty days that nothing waits for who is silent; some history, which the last one lacks.
fn fleet(count: u8) -> Fleet {
    let mut fleet = Fleet::new(count);
    fleet.devices.iter_mut().for_each(|device| device.engine.call_dormant_after(NonZeroU16::new(30)));
    (1..usize::from(count) - 1).for_each(|other| fleet.connect(0, other));
    fleet.write(0, 3);
    fleet.write(usize::from(count) - 1, 1);
    fleet
}

impl Fleet {
    /// Time passes for a device that is awake.
    pub(super) fn pass(&mut self, device: usize, time: Duration) {
        let end = self.devices[device].uptime + time;
        loop {
            let at = self.devices[device].engine.deadline().map(|deadline| deadline.at.max(HOUR / 3_600));
            let at = at.filter(|at| *at <= end);
            let now = at.unwrap_or(end);
            self.move_clocks(device, now.saturating_sub(self.devices[device].uptime));
            if at.is_none() {
                return;
            }
            self.tell(device, Input::Tick);
        }
    }

    /// Time passes for a device that sleeps.
    fn sleep(&mut self, device: usize, time: Duration) {
        self.move_clocks(device, time);
        self.tell(device, Input::Tick);
    }

    fn move_clocks(&mut self, device: usize, by: Duration) {
        let device = &mut self.devices[device];
        device.uptime += by;
        device.wall = device.wall.plus(by);
    }

    fn dormancy(&self, of: usize, at: usize) -> Option<Dormancy> {
        let device = self.devices[of].identity.device();
        self.devices[at].engine.space(self.space).unwrap().roster.dormancy_of(&device)
    }

    fn silent_days(&self, of: usize, at: usize) -> u16 {
        self.devices[at].engine.silent_days(self.space, &self.devices[of].identity.device())
    }

    pub(super) fn disconnect(&mut self, one: usize, other: usize) {
        self.tell(one, Input::Closed { peer: peer(other) });
        self.tell(other, Input::Closed { peer: peer(one) });
    }
}

#[test]
fn a_device_that_is_silent_for_thirty_days_is_dormant_by_nobodys_word_until_it_comes_back() {
    let mut fleet = fleet(3);
    let (space, silent) = (fleet.space, fleet.devices[2].identity.device());

    fleet.pass(0, DAY * 29 + HOUR * 2);
    assert_eq!((fleet.dormancy(2, 0), fleet.silent_days(2, 0)), (None, 29));
    fleet.pass(0, DAY);

    let said = fleet.dormancy(2, 0).expect("it is dormant");
    assert_eq!((said.by, said.after_days), (fleet.devices[0].identity.device(), NonZeroU16::new(30)));
    let days = NonZeroU16::new(30).unwrap();
    assert!(fleet.devices[0].notices.contains(&Notice::CalledDormant { space, device: silent, days }));
    assert_eq!(fleet.dormancy(2, 1), Some(said), "whoever is connected hears of it");
    assert_eq!(fleet.dormancy(1, 0), None, "who is connected is not silent");

    fleet.connect(0, 2);
    let change = RosterChange::Active { device: silent };
    fleet.tell(2, Input::Change { space, change, token: Token(3) });
    assert!((0..3).all(|at| fleet.dormancy(2, at).is_none()));
    fleet.disconnect(0, 2);
    fleet.write(0, 1);
    fleet.pass(0, DAY * 29);
    assert_eq!((fleet.dormancy(2, 0), fleet.silent_days(2, 0)), (None, 28), "it begins anew");
}

#[test]
fn whoever_is_heard_of_is_not_silent() {
    let mut fleet = fleet(3);
    fleet.pass(0, DAY * 29);
    fleet.connect(0, 2);
    assert_eq!(fleet.silent_days(2, 0), 0, "from itself");
    fleet.disconnect(0, 2);
    fleet.write(0, 1);
    fleet.pass(0, DAY * 29);
    assert!(fleet.silent_days(2, 0) >= 28 && fleet.dormancy(2, 0).is_none());

    fleet.connect(1, 2);
    fleet.pass(1, HOUR);
    assert_eq!(fleet.silent_days(2, 0), 0, "through another");
    fleet.disconnect(1, 2);
    fleet.pass(0, DAY * 90);
    assert_eq!((fleet.dormancy(2, 0), fleet.silent_days(2, 0)), (None, 0), "it lacks nothing");
}

#[test]
fn a_device_that_slept_for_months_has_not_counted_them() {
    let mut fleet = fleet(3);
    fleet.pass(0, DAY * 28);
    let before = fleet.silent_days(2, 0);

    fleet.sleep(0, DAY * 200);
    assert_eq!(fleet.silent_days(2, 0), before, "it has just woken up");
    fleet.pass(0, HOUR * 2);

    assert_eq!(fleet.silent_days(2, 0), before + 1, "all of it is one day");
    for _ in 0..20 {
        fleet.sleep(0, DAY * 7);
    }
    assert_eq!((fleet.silent_days(2, 0), fleet.dormancy(2, 0)), (before + 1, None), "awake for moments only");
}

#[test]
fn a_clock_that_jumps_is_a_day_at_most() {
    let mut fleet = fleet(3);
    fleet.pass(0, DAY * 5);
    let (before, right) = (fleet.silent_days(2, 0), fleet.devices[0].wall);

    fleet.devices[0].wall = right.plus(DAY * 365);
    fleet.pass(0, HOUR * 30);
    let ahead = fleet.silent_days(2, 0);
    fleet.devices[0].wall = right.plus(HOUR * 30);
    fleet.pass(0, HOUR * 20);
    fleet.devices[0].wall = Wall::from_millis(5);
    fleet.pass(0, HOUR);

    assert!(before == 4 && ahead <= 6, "{before} {ahead}");
    assert_eq!(fleet.silent_days(2, 0), ahead, "put back, it begins a day anew");
    for _ in 0..60 {
        // A battery that is empty: another date at every start.
        let space = fleet.space;
        fleet.devices[0].wall = fleet.devices[0].wall.plus(DAY * 20);
        fleet.devices[0].restart(space);
        fleet.devices[0].engine.call_dormant_after(NonZeroU16::new(30));
        fleet.pass(0, HOUR / 2);
    }
    assert!(fleet.silent_days(2, 0) <= ahead, "no start counts by itself");
}

#[test]
fn what_was_counted_outlasts_a_restart() {
    let mut fleet = fleet(3);
    let space = fleet.space;
    fleet.pass(0, DAY * 20 + HOUR * 2);
    let before = fleet.silent_days(2, 0);

    fleet.devices[0].restart(space);
    fleet.devices[0].engine.call_dormant_after(NonZeroU16::new(30));
    assert_eq!((before, fleet.silent_days(2, 0)), (20, 20));
    fleet.connect(0, 1);
    fleet.pass(0, DAY * 9);
    assert_eq!(fleet.dormancy(2, 0), None);
    fleet.pass(0, DAY);

    assert!(fleet.dormancy(2, 0).is_some());
}

#[test]
fn a_device_that_hears_of_few_is_the_one_that_is_away() {
    let mut three = fleet(3);
    three.disconnect(0, 1);
    three.write(0, 1);
    three.pass(0, DAY * 200);
    assert!(three.silent_days(1, 0) > 100 && three.silent_days(2, 0) > 100);
    assert_eq!((three.dormancy(1, 0), three.dormancy(2, 0)), (None, None), "the two may be together");

    // Of two halves, the one with the admin who was first.
    let mut two = fleet(2);
    two.pass(1, DAY * 200);
    assert!(two.silent_days(0, 1) > 100 && two.dormancy(0, 1).is_none());
    two.pass(0, DAY * 31);
    assert!(two.dormancy(1, 0).is_some());
}

#[test]
fn two_admins_who_say_it_at_once_do_no_harm() {
    let mut fleet = fleet(3);
    fleet.pass(0, DAY * 28);
    fleet.pass(1, DAY * 28);
    fleet.disconnect(0, 1);
    fleet.pass(0, DAY * 4);
    fleet.pass(1, DAY * 4);
    let said = [fleet.dormancy(2, 0), fleet.dormancy(2, 1)].map(|said| said.expect("each by itself").by);
    assert_ne!(said[0], said[1]);

    fleet.connect(0, 1);
    fleet.connect(1, 2);
    assert!(fleet.dormancy(2, 0).is_some());
    assert_eq!(fleet.dormancy(2, 0), fleet.dormancy(2, 1));
    let (space, device) = (fleet.space, fleet.devices[2].identity.device());
    fleet.tell(2, Input::Change { space, change: RosterChange::Active { device }, token: Token(3) });

    assert!((0..3).all(|at| fleet.dormancy(2, at).is_none()));
    fleet.pass(0, DAY * 3);
    assert!(fleet.dormancy(2, 0).is_none());
}

#[test]
fn where_it_is_switched_off_nobody_is_called_dormant() {
    let mut fleet = fleet(3);
    fleet.devices[0].engine.call_dormant_after(None);
    fleet.pass(0, DAY * 100);

    assert_eq!((fleet.dormancy(2, 0), fleet.silent_days(2, 0)), (None, 0));
}
