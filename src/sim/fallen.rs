//! A home that is put back twice writes the same places of its log three times, and no device has seen all three.

use std::time::Duration;

use bytes::Bytes;

use super::based::{Fleet, peer};
use super::disk::StoredOp;
use crate::model::{LogId, Op, Payload, Seq};
use crate::sync::{Authored, Input, Notice, RosterChange, Token};

/// The home in its second life, put back from a backup, and in its third. The first is device 0.
const SECOND: usize = 3;
const THIRD: usize = 4;

impl Fleet {
    /// A fact that is like no other.
    fn state_fact(&mut self, device: usize, name: &str) {
        let (space, surface) = (self.space, "skill".parse().unwrap());
        let payload = Payload::parse(&format!("\"{name}\"")).unwrap();
        let op = Op::Fact { surface, key: name.to_owned().into(), payload };
        // Two lives do not write in the same instant.
        let wall = self.devices[device].wall;
        self.devices[device].wall = wall.plus(Duration::from_secs(1 + device as u64));
        let ops = vec![Authored { seen: super::shell::seen(&self.devices[device].state, &op), op }];
        self.tell(device, Input::Append { space, ops, token: Token(1) });
        self.tell(device, Input::Seal { space });
    }

    fn facts(&self, at: usize) -> Vec<String> {
        let surface = "skill".parse().unwrap();
        let rows = self.devices[at].state.rows(&surface, None, 99, crate::fold::RowFilter::Live);
        rows.into_iter().map(|row| row.key).collect()
    }

    /// The two meet for as long as there is something to say.
    fn meet(&mut self, one: usize, other: usize) {
        self.connect(one, other);
        for device in [one, other] {
            let space = self.space;
            self.tell(device, Input::Seal { space });
        }
        self.disconnect(one, other);
    }

    fn is_dropped(&self, at: usize) -> bool {
        let mut notices = self.devices[at].notices.iter();
        notices.any(|notice| matches!(notice, Notice::Truncated { .. }))
    }

    /// What is stored of the log that was written three times.
    fn batches(&self, at: usize) -> Vec<Bytes> {
        let run = self.devices[at].disk.run(&self.space, &self.log(), Seq::new(1), Seq::new(99), usize::MAX);
        run.iter().map(|batch| batch.bytes().clone()).collect()
    }

    /// What stands of it.
    fn log(&self) -> LogId {
        let logs = self.devices[0].disk.logs(&self.space);
        *logs.iter().find(|log| log.device == self.device(0)).unwrap()
    }

    fn ops(&self, at: usize) -> Vec<StoredOp> {
        self.devices[at].disk.ops_from(&self.space, &self.log(), Seq::new(1)).collect()
    }
}

/// Of the first life device 1 has everything, of the second device 2, and of the third, which is now, nobody. The
/// first history stands, and device 2 knows that from device 1.
fn three_lives() -> Fleet {
    let mut fleet = Fleet::new(3);
    fleet.state_fact(0, "shared");
    fleet.meet(0, 1);
    fleet.meet(0, 2);
    assert_eq!([fleet.copy(0), fleet.copy(0)], [SECOND, THIRD]);
    fleet.state_fact(0, "first");
    fleet.meet(0, 1);
    for fact in ["second", "second too"] {
        fleet.state_fact(SECOND, fact);
    }
    fleet.meet(SECOND, 2);
    fleet.state_fact(THIRD, "third");
    fleet.meet(THIRD, 1);
    assert_eq!(fleet.facts(1), ["first", "shared", "third"]);
    assert_eq!(fleet.facts(THIRD), fleet.facts(1));
    fleet.meet(1, 2);
    fleet
}

const ALL: [&str; 5] = ["first", "second", "second too", "shared", "third"];

#[test]
fn a_life_that_one_device_alone_has_seen_stays_there_until_its_author_has_it_again() {
    let mut fleet = three_lives();
    let space = fleet.space;
    assert!(!fleet.is_dropped(2));
    assert_eq!(fleet.facts(2), ["second", "second too", "shared", "third"], "the first stands in its way");
    fleet.devices[2].restart(space);
    fleet.meet(1, 2);
    assert_eq!(fleet.ops(2), fleet.ops(SECOND), "also after a restart");

    fleet.meet(2, THIRD);
    fleet.meet(2, THIRD);
    assert!(fleet.is_dropped(2));
    fleet.meet(1, 2);

    for at in [1, 2, THIRD] {
        assert_eq!(fleet.facts(at), ALL, "at {at}");
    }
    assert_eq!(fleet.ops(2), fleet.ops(1));
    let roots = fleet.roots();
    assert_eq!([roots[1], roots[2]], [roots[THIRD]; 2]);
}

#[test]
fn what_has_been_written_again_is_dropped_without_meeting_its_author() {
    let mut fleet = Fleet::new(3);
    fleet.state_fact(0, "shared");
    fleet.meet(0, 1);
    fleet.meet(0, 2);
    let back = fleet.copy(0);
    fleet.state_fact(0, "first");
    fleet.meet(0, 1);
    fleet.state_fact(back, "second");
    fleet.meet(back, 2);
    fleet.meet(back, 1);

    fleet.meet(1, 2);
    fleet.meet(1, 2);

    assert!(fleet.is_dropped(2));
    assert_eq!(fleet.facts(2), ["first", "second", "shared"]);
}

#[test]
fn who_cannot_read_what_was_written_again_believes_its_author() {
    let mut fleet = three_lives();
    // The author renews its key, and this device never gets the new one.
    fleet.rotate(THIRD);
    fleet.withholds_keys = true;
    fleet.meet(2, THIRD);
    assert!(fleet.facts(THIRD).contains(&"second too".to_owned()));

    fleet.meet(2, THIRD);

    assert!(fleet.is_dropped(2));
    fleet.withholds_keys = false;
    fleet.meet(1, 2);
    fleet.meet(2, THIRD);
    assert_eq!(fleet.facts(2), ALL);
}

#[test]
fn what_has_fallen_of_a_device_that_is_removed_goes() {
    let mut fleet = three_lives();
    let (space, device) = (fleet.space, fleet.device(0));
    assert!(!fleet.is_dropped(2));

    fleet.tell(2, Input::Change { space, change: RosterChange::Remove { device }, token: Token(3) });

    assert!(fleet.is_dropped(2));
}

#[test]
fn a_history_comes_back_piece_by_piece_and_once() {
    let mut fleet = three_lives();
    let pieces = fleet.batches(2);
    assert_eq!(pieces.len(), 2);
    // No key and no frontier says what device 2 holds: it only hands over what it is told to.
    fleet.connect(1, THIRD);
    let give = |fleet: &mut Fleet, piece: &Bytes| {
        fleet.tell(THIRD, Input::Batches { peer: peer(1), batches: vec![piece.clone()] });
        fleet.facts(THIRD).len()
    };

    assert_eq!(give(&mut fleet, &pieces[1]), 3, "nothing says yet of which history that is");
    assert_eq!(give(&mut fleet, &pieces[0]), 4);
    assert_eq!(give(&mut fleet, &pieces[1]), 5);
    let held = fleet.devices[THIRD].held(fleet.space).op_count();
    for piece in &pieces {
        give(&mut fleet, piece);
    }

    assert_eq!(fleet.devices[THIRD].held(fleet.space).op_count(), held);
}
