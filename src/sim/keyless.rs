//! Readers that lack the current key and cannot hand each other theirs: a key travels over a connection between
//! two readers, and these meet through a device that reads nothing.

use std::time::Duration;

use super::based::{Fleet, peer};
use crate::fold::RowFilter;
use crate::model::{KeyId, Seq};
use crate::roster::Role;
use crate::sync::{Input, Token, Txn, TxnId, Write};
use crate::wire::Message;

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

/// A home renews its key and writes, and its disk is lost with the record: device 1 has a batch under that key, and
/// device 2 the key. No record names it.
fn key_without_a_record() -> (Fleet, KeyId) {
    let mut fleet = Fleet::new(3);
    let (space, log) = (fleet.space, fleet.devices[0].engine.space(fleet.space).unwrap().own_log);
    let lost = fleet.copy(0);
    fleet.connect(0, 1);
    fleet.rotate(lost);
    fleet.write(lost, 1);
    let batch = fleet.devices[lost].disk.batch_at(&space, &log, Seq::new(1)).unwrap();
    fleet.tell(1, Input::Batches { peer: peer(0), batches: vec![batch.bytes().clone()] });
    let key_id = batch.header().key_id;
    let key = fleet.devices[lost].disk.key(&key_id).unwrap().clone();
    let writes = vec![Write::Key { space, key }];
    fleet.devices[2].disk.commit(&[Txn { id: TxnId::new(0), writes }]).unwrap();
    fleet.devices[2].restart(space);
    fleet.disconnect(0, 1);
    assert!(fleet.has_key(2, &key_id) && !fleet.has_key(1, &key_id));
    let view = fleet.devices[1].engine.space(space).unwrap();
    assert!(!view.roster.knows_key(&key_id) && view.frontier.tip(&log).seq == Seq::new(1));
    (fleet, key_id)
}

impl Fleet {
    fn has_key(&self, device: usize, key_id: &KeyId) -> bool {
        self.devices[device].engine.keys().iter().any(|(_, key)| key.id() == *key_id)
    }
}

#[test]
fn a_key_that_a_batch_waits_for_is_had_from_whoever_holds_it_though_its_record_is_lost() {
    let (mut fleet, key_id) = key_without_a_record();
    let rows = |fleet: &Fleet| {
        fleet.devices[1].state.rows(&"registry:note".parse().unwrap(), None, 9, RowFilter::Live).len()
    };
    assert!(!fleet.has_key(1, &key_id));
    assert_eq!(rows(&fleet), 0);

    fleet.connect(1, 2);

    assert!(fleet.has_key(1, &key_id));
    assert_eq!(rows(&fleet), 1);
}

#[test]
fn a_key_that_a_checkpoint_waits_for_is_had_though_its_record_is_lost_and_no_other_is_taken() {
    let (mut fleet, key_id) = key_without_a_record();
    let space = fleet.space;
    fleet.connect(0, 2);
    let key = fleet.devices[2].disk.key(&key_id).unwrap().clone();
    let frame = Message::KeyGrant { scope: space.tag(), key }.encode().unwrap();
    fleet.tell(0, Input::Frame { peer: peer(2), bytes: frame });
    assert!(!fleet.has_key(0, &key_id), "nobody has asked for it");

    fleet.tell(0, Input::WantKey { space, key_id });

    assert!(fleet.has_key(0, &key_id));
}
