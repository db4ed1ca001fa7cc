//! A home that is put back twice writes the same places of its log three times, and no device has seen all three.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::based::{Fleet, peer};
use super::disk::StoredOp;
use crate::crypto::EpochKey;
use crate::model::{Frontier, Hlc, LogId, Op, Payload, Seq, Tip, TipHash};
use crate::roster::{Author, Branch, Change};
use crate::sync::gc::Proposal;
use crate::sync::{
    Authored, Delivery, Effect, GcHold, GivenBack, Input, Notice, RosterChange, Stored, Stray, Token, Txn,
    TxnId, Write,
};
use crate::wire::Message;
use crate::wire::checkpoint::CheckpointHash;

/// The home in its second life, put back from a backup, and in its third. The first is device 0.
const SECOND: usize = 3;
const THIRD: usize = 4;

impl Fleet {
    /// A fact that is like no other.
    fn state_fact(&mut self, device: usize, name: &str) {
        let space = self.space;
        self.draft_fact(device, name);
        self.tell(device, Input::Seal { space });
    }

    fn draft_fact(&mut self, device: usize, name: &str) {
        let (space, surface) = (self.space, "skill".parse().unwrap());
        let payload = Payload::parse(&format!("\"{name}\"")).unwrap();
        let op = Op::Fact { surface, key: name.to_owned().into(), payload };
        // Two lives do not write in the same instant.
        let wall = self.devices[device].wall;
        self.devices[device].wall = wall.plus(Duration::from_secs(1 + device as u64));
        let ops = vec![Authored { seen: super::shell::seen(&self.devices[device].state, &op), op }];
        self.tell(device, Input::Append { space, ops, token: Token(1) });
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

    /// How many ops are kept for the device that wrote three times.
    fn forgotten(&self, at: usize) -> Option<u64> {
        self.devices[at].engine.forgotten(self.space).first().map(|(log, ops)| {
            assert_eq!(*log, self.log());
            *ops
        })
    }

    /// A checkpoint of what a device holds, with another end of that log.
    fn checkpoint_with(&mut self, of: usize, n: u8, end: Tip) -> (CheckpointHash, Frontier) {
        let (hash, cut) = self.checkpoint(of, n);
        let others = cut.iter().filter(|(log, _)| **log != self.log());
        let cut = others.map(|(log, tip)| (*log, *tip)).chain([(self.log(), end)]).collect();
        (hash, cut)
    }

    /// Where a batch of that log ends which a device holds.
    fn end_at(&self, at: usize, seq: u64) -> Tip {
        let batch = self.devices[at].disk.batch_at(&self.space, &self.log(), Seq::new(seq)).unwrap();
        Tip { seq: batch.header().last(), hash: batch.link() }
    }

    fn ops(&self, at: usize) -> Vec<StoredOp> {
        self.devices[at].disk.ops_from(&self.space, &self.log(), Seq::new(1)).collect()
    }
}

/// A home that will be put back twice, and its first life, of which device 1 has everything.
fn first_life() -> Fleet {
    let mut fleet = Fleet::new(3);
    fleet.state_fact(0, "shared");
    fleet.meet(0, 1);
    fleet.meet(0, 2);
    assert_eq!([fleet.copy(0), fleet.copy(0)], [SECOND, THIRD]);
    fleet.state_fact(0, "first");
    fleet.meet(0, 1);
    fleet
}

/// Of the first life device 1 has everything, of the second device 2, and of the third, which is now, nobody. The
/// first history stands, and device 2 knows that from device 1.
fn three_lives() -> Fleet {
    let mut fleet = first_life();
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

/// What device 2 holds of the second life, piece by piece, comes to the device by way of another one.
fn hand_over(fleet: &mut Fleet) {
    let pieces = fleet.batches(2);
    fleet.connect(1, THIRD);
    for piece in pieces {
        fleet.tell(THIRD, Input::Batches { peer: peer(1), batches: vec![piece] });
    }
    fleet.disconnect(1, THIRD);
}

#[test]
fn a_base_that_ends_in_a_history_that_has_fallen_lets_it_stand() {
    let mut fleet = three_lives();
    let end = fleet.end_at(2, 2);
    let checkpoint = fleet.checkpoint_with(2, 0xc1, end);

    fleet.begin_at(2, &checkpoint);

    assert_eq!(fleet.forgotten(2), None);
    assert!(!fleet.is_dropped(2), "nothing can be found below the floor, so nothing would be lost");
    assert_eq!(fleet.facts(2), ["second", "second too", "shared", "third"]);
}

#[test]
fn what_a_base_knows_of_a_history_that_has_fallen_is_not_kept() {
    let mut fleet = three_lives();
    hand_over(&mut fleet);
    let end = fleet.end_at(1, 1);
    let checkpoint = fleet.checkpoint_with(1, 0xc1, end);
    assert_eq!(fleet.forgotten(2), Some(2));

    fleet.begin_at(2, &checkpoint);

    assert!(fleet.is_dropped(2));
    assert_eq!(fleet.facts(2), ALL);
}

#[test]
fn history_is_held_back_for_what_its_device_has_forgotten() {
    let fleet = three_lives();
    let proposal = |end: u64| {
        let cut: Frontier = [(fleet.log(), fleet.end_at(2, end))].into_iter().collect();
        let (checkpoint, nobody) = (CheckpointHash::from_bytes([0xc1; 32]), Default::default());
        let proposal =
            Proposal { checkpoint, cut: &cut, attested_by: &nobody, whole_since: None, vouched_since: None };
        let now = fleet.devices[2].wall;
        let standing = fleet.devices[2].engine.gc_standing(fleet.space, Some(&proposal), now, Duration::ZERO);
        standing.unwrap().holds
    };
    let forgotten = GcHold::Forgotten { log: fleet.log() };

    assert!(!proposal(1).contains(&forgotten));
    assert!(proposal(2).contains(&forgotten));
    assert!(forgotten.to_string().contains("has forgotten"), "{forgotten}");
}

#[test]
fn a_base_that_cannot_be_stored_forgets_nothing_of_a_history_that_has_fallen() {
    let mut fleet = three_lives();
    let beyond = Tip { seq: Seq::new(9), hash: TipHash::from_bytes([9; 32]) };
    let checkpoint = fleet.checkpoint_with(1, 0xc1, beyond);
    assert_eq!(fleet.forgotten(2), Some(2));

    fleet.devices[2].is_ill = true;
    fleet.begin_at(2, &checkpoint);
    fleet.devices[2].is_ill = false;

    assert_eq!(fleet.forgotten(2), Some(2));
    fleet.meet(2, THIRD);
    assert_eq!(fleet.facts(THIRD), ALL);
}

#[test]
fn a_search_that_fails_is_made_again() {
    let mut fleet = three_lives();
    let space = fleet.space;
    fleet.devices[2].cannot_search = true;
    fleet.devices[2].restart(space);
    fleet.pass(2, Duration::from_secs(60));
    assert_eq!((fleet.forgotten(2), fleet.is_dropped(2)), (None, false));

    fleet.devices[2].cannot_search = false;
    fleet.pass(2, Duration::from_secs(90));

    assert_eq!(fleet.forgotten(2), Some(2));
}

#[test]
fn what_a_search_comes_to_counts_though_more_has_arrived_meanwhile() {
    let mut fleet = three_lives();
    let space = fleet.space;
    fleet.devices[2].restart(space);
    fleet.devices[2].answers = Some(Vec::new());
    fleet.state_fact(THIRD, "more");
    fleet.meet(THIRD, 1);
    fleet.meet(1, 2);
    fleet.pass(2, Duration::from_secs(20));
    fleet.state_fact(THIRD, "and more");
    fleet.meet(THIRD, 1);
    fleet.meet(1, 2);
    let before = fleet.devices[2].search_count;
    let answers = fleet.devices[2].answers.take().unwrap();
    assert_eq!(answers.len(), 1, "one at a time");

    fleet.tell(2, answers[0].clone());

    assert_eq!(fleet.forgotten(2), Some(2));
    assert_eq!(fleet.devices[2].search_count, before, "the next one takes its time");
    fleet.pass(2, Duration::from_secs(20));
    assert_eq!(fleet.devices[2].search_count, before + 1);
}

#[test]
fn a_search_whose_end_fell_into_a_base_that_failed_is_made_again() {
    let mut fleet = three_lives();
    let space = fleet.space;
    let beyond = Tip { seq: Seq::new(9), hash: TipHash::from_bytes([9; 32]) };
    let (checkpoint, cut) = fleet.checkpoint_with(1, 0xc1, beyond);
    fleet.devices[2].answers = Some(Vec::new());
    fleet.state_fact(THIRD, "more");
    fleet.meet(THIRD, 1);
    fleet.meet(1, 2);
    fleet.pass(2, Duration::from_secs(20));
    let answer = fleet.devices[2].answers.take().unwrap().remove(0);

    let device = &mut fleet.devices[2];
    let effects = device.just(Input::Base { space, checkpoint, cut, token: Token(9) });
    device.just(answer);
    let txn = effects.into_iter().find_map(|effect| match effect {
        Effect::Persist(txn) => Some(txn.id),
        _ => None,
    });
    device.just(Input::PersistFailed(txn.unwrap()));
    let before = device.search_count;
    fleet.pass(2, Duration::from_secs(20));

    assert_eq!(fleet.devices[2].search_count, before + 1);
}

#[test]
fn what_was_not_dealt_with_is_asked_for_again_without_another_connection() {
    let mut fleet = three_lives();
    fleet.devices[THIRD].cannot_search = true;
    fleet.connect(2, THIRD);
    fleet.devices[THIRD].cannot_search = false;
    assert!(!fleet.facts(THIRD).contains(&"second".to_owned()));

    fleet.pass(THIRD, Duration::from_secs(90));

    assert_eq!(fleet.facts(THIRD), ALL);
    assert!(fleet.is_dropped(2));
}

/// What is told to the one who gave back two pieces, of which the first is written again and the second is known, once
/// the disk has taken both, the second, or none.
fn told_after(is_first_stored: bool, is_second_stored: bool) -> usize {
    let mut fleet = three_lives();
    let (space, log) = (fleet.space, fleet.log());
    let ends = [fleet.end_at(2, 2), fleet.end_at(2, 3)];
    let lost = fleet.ops(2).into_iter().find(|op| op.dot.seq == Seq::new(2)).unwrap();
    let StoredOp { dot, hlc, kind, flags, body } = lost;
    let ops = [vec![Stored { dot, hlc, kind, flags, body: body.into() }], Vec::new()];
    fleet.connect(1, THIRD);
    let device = &mut fleet.devices[THIRD];
    let partings = |effects: Vec<Effect>| {
        let is_parting = |effect: &&Effect| match effect {
            Effect::Send { frame, .. } => matches!(Message::decode(frame), Ok(Message::Parting { .. })),
            _ => false,
        };
        effects.iter().filter(is_parting).count()
    };
    let mut txns = Vec::new();
    for (end, ops) in ends.into_iter().zip(ops) {
        let fallen = Some(GivenBack { log, end, by: Some(peer(1)), is_whole: true });
        let effects = device.just(Input::Recalled { space, fallen, ops: Some(ops) });
        txns.extend(effects.iter().filter_map(|effect| match effect {
            Effect::Persist(txn) => Some(txn.id),
            _ => None,
        }));
        assert_eq!(partings(effects), 0, "nothing is durable yet");
    }
    assert_eq!(txns.len(), 2);
    let mut told = 0;
    for (txn, is_stored) in txns.into_iter().zip([is_first_stored, is_second_stored]) {
        let input = if is_stored { Input::Persisted(txn) } else { Input::PersistFailed(txn) };
        told = partings(device.just(input));
    }
    told
}

#[test]
fn that_nothing_is_lost_is_said_once_every_piece_before_is_durable() {
    assert_eq!(told_after(true, true), 1);
    assert_eq!(told_after(true, false), 0);
    assert_eq!(told_after(false, true), 0);
}

#[test]
fn other_ops_of_a_device_have_its_logs_searched_after_a_while() {
    let mut fleet = three_lives();
    fleet.state_fact(THIRD, "more");
    fleet.meet(THIRD, 1);
    let before = fleet.devices[2].search_count;

    fleet.meet(1, 2);
    assert_eq!(fleet.devices[2].search_count, before, "nothing of it is written again");
    fleet.pass(2, Duration::from_secs(20));
    assert_eq!(fleet.devices[2].search_count, before + 1);
    hand_over(&mut fleet);
    fleet.meet(1, 2);

    assert!(fleet.is_dropped(2));
}

#[test]
fn nobody_is_told_that_nothing_is_lost_of_what_was_not_dealt_with() {
    type Ill = fn(&mut Fleet, bool);
    let cannot_search: Ill = |fleet, is_ill| fleet.devices[THIRD].cannot_search = is_ill;
    let cannot_store: Ill = |fleet, is_ill| fleet.devices[THIRD].is_ill = is_ill;
    for set_ill in [cannot_search, cannot_store] {
        let mut fleet = three_lives();
        // It never gets the key that its author writes under from here on.
        fleet.rotate(THIRD);
        fleet.withholds_keys = true;
        set_ill(&mut fleet, true);
        fleet.meet(2, THIRD);
        set_ill(&mut fleet, false);
        fleet.meet(1, 2);
        assert!(!fleet.is_dropped(2));
        assert!(!fleet.facts(THIRD).contains(&"second".to_owned()));

        fleet.pass(THIRD, Duration::from_secs(90));
        for _ in 0..2 {
            fleet.meet(2, THIRD);
        }

        assert!(fleet.is_dropped(2));
        assert_eq!(fleet.facts(THIRD), ALL);
        fleet.withholds_keys = false;
        fleet.state_fact(THIRD, "and goes on");
        fleet.meet(THIRD, 1);
        assert!(fleet.facts(1).contains(&"and goes on".to_owned()));
    }
}

/// Of the second life device 2 has an op under a key that nobody else got before the disk was put back.
fn second_life_unread() -> Fleet {
    let mut fleet = first_life();
    // Nobody gets the key of the second life before its disk is put back.
    fleet.rotate(SECOND);
    fleet.withholds_keys = true;
    fleet.state_fact(SECOND, "second");
    fleet.meet(SECOND, 2);
    assert_eq!(fleet.facts(2), ["shared"]);
    fleet.state_fact(THIRD, "third");
    fleet.meet(THIRD, 1);
    fleet.meet(1, 2);
    assert_eq!((fleet.forgotten(2), fleet.is_dropped(2)), (Some(1), false));
    fleet
}

#[test]
fn what_cannot_be_read_of_a_history_that_has_fallen_is_kept_too() {
    let mut fleet = second_life_unread();
    let space = fleet.space;
    fleet.meet(2, THIRD);
    assert!(!fleet.is_dropped(2), "its author cannot read it either");
    let (hash, _) = fleet.checkpoint(1, 0xc1);
    let reader = &fleet.devices[2];
    let kept = reader.disk.checkpoint(&hash).unwrap();
    let (strays, _) = super::shell::strays(&reader.disk, &reader.engine, space, kept, fleet.device(2));
    assert_eq!(strays.len(), 1, "nor is it given up for a checkpoint");

    let keys = fleet.devices[SECOND].engine.keys().into_iter();
    let writes = keys.map(|(space, key)| Write::Key { space, key }).collect();
    fleet.devices[THIRD].disk.commit(&[Txn { id: TxnId::new(0), writes }]).unwrap();
    fleet.devices[THIRD].restart(space);
    fleet.meet(2, THIRD);
    fleet.meet(2, THIRD);

    assert!(fleet.is_dropped(2));
    assert_eq!(fleet.facts(THIRD), ["first", "second", "shared", "third"]);
}

#[test]
fn what_a_checkpoint_leaves_out_is_not_in_the_way_of_a_history_that_has_fallen() {
    let mut fleet = three_lives();
    let (space, log) = (fleet.space, fleet.log());
    let strays = vec![Stray { log, after: Seq::new(2), through: Seq::new(3) }];
    fleet.tell(2, Input::Strays { space, strays });

    fleet.meet(2, THIRD);

    assert_eq!(fleet.facts(THIRD), ALL);
}

#[test]
fn nobody_is_told_that_nothing_is_lost_where_an_earlier_piece_was_not_dealt_with() {
    let mut fleet = three_lives();
    let pieces = fleet.batches(2);
    fleet.rotate(THIRD);
    fleet.withholds_keys = true;
    fleet.devices[THIRD].cannot_search = true;
    fleet.connect(2, THIRD);
    let give = |fleet: &mut Fleet, piece: &Bytes| {
        fleet.tell(THIRD, Input::Batches { peer: peer(2), batches: vec![piece.clone()] });
    };

    give(&mut fleet, &pieces[0]);
    fleet.devices[THIRD].cannot_search = false;
    give(&mut fleet, &pieces[1]);

    assert!(fleet.facts(THIRD).contains(&"second too".to_owned()));
    assert!(!fleet.is_dropped(2));
}

#[test]
fn what_is_drafted_outlives_a_store_that_refuses_what_came_back() {
    let mut fleet = three_lives();
    fleet.draft_fact(THIRD, "drafted");
    let (space, delivery) = (fleet.space, Delivery { batches: fleet.batches(2), ..Delivery::default() });

    fleet.devices[THIRD].is_ill = true;
    fleet.tell(THIRD, Input::Deliver { space, delivery, token: Token(7) });
    fleet.devices[THIRD].is_ill = false;
    fleet.state_fact(THIRD, "after");
    fleet.meet(THIRD, 1);

    assert_eq!(fleet.facts(1), ["after", "drafted", "first", "shared", "third"]);
}

#[test]
fn a_later_selection_lets_what_has_fallen_stand() {
    let mut fleet = three_lives();
    let (space, log, base) = (fleet.space, fleet.log(), fleet.end_at(2, 1));
    let (first, tip) = (fleet.end_at(2, 2).hash, fleet.end_at(2, 3));
    let (identity, key) = (Arc::clone(&fleet.devices[0].identity), EpochKey::from_bytes([7; 32]));
    let hlc = Hlc::at(fleet.devices[2].wall.plus(Duration::from_secs(60)));
    let author = Author { identity: &identity, key: &key, hlc, entropy: [6; 32] };
    let roster = fleet.devices[2].engine.space(space).unwrap().roster;
    let record = roster.write(&author, &Change::SelectBranch(Branch { log, base, first, tip })).unwrap();
    let delivery = Delivery { records: vec![record], ..Delivery::default() };

    fleet.tell(2, Input::Deliver { space, delivery, token: Token(7) });

    assert_eq!((fleet.forgotten(2), fleet.is_dropped(2)), (None, false));
    fleet.pass(2, Duration::from_secs(60));
    hand_over(&mut fleet);
    fleet.meet(1, 2);
    assert!(!fleet.is_dropped(2), "also where all of it is held elsewhere");
}

#[test]
fn a_history_that_is_given_back_from_its_middle_on_is_not_whole() {
    let mut fleet = three_lives();
    let pieces = fleet.batches(2);
    let beyond = Tip { seq: Seq::new(9), hash: TipHash::from_bytes([9; 32]) };
    let checkpoint = fleet.checkpoint_with(1, 0xc1, beyond);
    fleet.connect(1, THIRD);
    fleet.begin_at(THIRD, &checkpoint);
    let is_whole = |fleet: &mut Fleet, piece: &Bytes| {
        let batches = vec![piece.clone()];
        let effects = fleet.devices[THIRD].just(Input::Batches { peer: peer(1), batches });
        effects.into_iter().find_map(|effect| match effect {
            Effect::Recall { fallen: Some(piece), .. } => Some((piece, piece.is_whole)),
            _ => None,
        })
    };

    let (first, begun) = is_whole(&mut fleet, &pieces[0]).unwrap();
    assert!(begun);
    let space = fleet.space;
    fleet.tell(THIRD, Input::Recalled { space, fallen: Some(first), ops: None });
    // What was missed is asked for again, and the rest of the first time is still on its way.
    fleet.pass(THIRD, Duration::from_secs(90));
    assert!(!is_whole(&mut fleet, &pieces[1]).unwrap().1);
    assert!(is_whole(&mut fleet, &pieces[0]).unwrap().1);
    assert!(is_whole(&mut fleet, &pieces[1]).unwrap().1);
}

#[test]
fn what_could_not_be_read_when_it_came_back_is_asked_for_again_with_its_key() {
    let mut fleet = second_life_unread();
    let scope = fleet.space.tag();
    fleet.connect(2, THIRD);
    assert!(!fleet.facts(THIRD).contains(&"second".to_owned()));

    for (_, key) in fleet.devices[SECOND].engine.keys() {
        let bytes = Message::KeyGrant { scope, key }.encode().unwrap();
        fleet.tell(THIRD, Input::Frame { peer: peer(2), bytes });
    }
    fleet.pass(THIRD, Duration::from_secs(90));

    assert!(fleet.facts(THIRD).contains(&"second".to_owned()));
    assert!(fleet.is_dropped(2));
}
