//! Readers that lack the current key and cannot hand each other theirs: a key travels over a connection between
//! two readers, and these meet through a device that reads nothing.

use std::time::Duration;

use super::based::Fleet;
use crate::roster::Role;
use crate::sync::{Input, Token};

const MINUTE: Duration = Duration::from_secs(60);

impl Fleet {
    /// Renews the key, with whoever is connected.
    pub(super) fn rotate(&mut self, device: usize) {
        let (space, token) = (self.space, Token(4));
        self.tell(device, Input::Rotate { space, token });
    }

    /// One after the other is connected to the same device for a while; how many keys they begin.
    fn take_turns(&mut self, rounds: u32, with: usize, devices: [usize; 2], each: Duration) -> u64 {
        let before = self.generation(with);
        for _ in 0..rounds {
            for device in devices {
                self.connect(device, with);
                self.pass(device, each);
                self.disconnect(device, with);
            }
        }
        self.generation(with) - before
    }

    fn generation(&self, device: usize) -> u64 {
        self.devices[device].engine.space(self.space).unwrap().roster.generation()
    }

    fn can_seal(&self, device: usize) -> bool {
        self.devices[device].engine.sealing_key(self.space).is_some()
    }
}

#[test]
fn readers_that_meet_through_a_blind_device_do_not_renew_each_others_keys_all_the_time() {
    let mut fleet = Fleet::with_roles(&[Role::Admin, Role::Blind, Role::Admin]);
    fleet.rotate(0);

    assert_eq!(fleet.take_turns(12, 1, [0, 2], MINUTE * 59), 1, "what the first one has done already");
    assert!(fleet.can_seal(0) && !fleet.can_seal(2), "it waits for the other one");
    fleet.connect(2, 1);
    fleet.pass(2, MINUTE * 60 * 25);
    assert!(fleet.can_seal(2), "but not for ever");
    fleet.connect(0, 1);
    fleet.connect(0, 2);
    assert!(fleet.can_seal(0) && fleet.can_seal(2), "once they meet, both have all keys");
}

#[test]
fn a_reader_that_lacks_the_key_beside_one_that_reads_begins_another_soon() {
    let mut fleet = Fleet::with_roles(&[Role::Admin, Role::Blind, Role::Admin, Role::Admin]);
    fleet.rotate(0);
    fleet.connect(0, 1);
    // The first one is gone with its disk.
    fleet.connect(2, 1);
    fleet.disconnect(2, 1);
    fleet.connect(2, 3);
    assert!(!fleet.can_seal(2) && !fleet.can_seal(3));

    fleet.pass(2, MINUTE);

    assert!(fleet.can_seal(2) && fleet.can_seal(3));
}

#[test]
fn the_only_reader_that_runs_twice_renews_its_own_key_ever_more_seldom() {
    let mut fleet = Fleet::with_roles(&[Role::Admin, Role::Blind]);
    let copy = fleet.copy(0);
    fleet.rotate(0);

    let in_a_day = fleet.take_turns(72, 1, [0, copy], MINUTE * 10);

    assert!((5..40).contains(&in_a_day), "{in_a_day} keys, and each copy was there 72 times");
}
