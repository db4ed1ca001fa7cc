//! A laptop that lay in a drawer while the others wrote on and dropped history: real homes and processes.
//!
//! Ten thousand ops here; with `KINFOLD_LONG=1` a million.

use std::cell::Cell;
use std::time::Instant;

use kinfold::model::Scope;
use kinfold::roster::Role;
use serde_json::{Value, json};

use crate::kin::{Home, pair, pair_as};
use crate::members::enrol;
use crate::rebase::LONG;

/// Ops that are missed, and the rows they are on.
pub struct Missed {
    pub ops: u64,
    pub rows: u64,
}

/// Ops that the laptop holds and nobody else.
const OWN: u64 = 500;

fn missed() -> Missed {
    match std::env::var_os("KINFOLD_LONG") {
        Some(_) => Missed { ops: 1_000_000, rows: 100_000 },
        None => Missed { ops: 10_000, rows: 1_000 },
    }
}

/// Writes rows, one op each.
fn write(home: &Home, name: &str, ops: std::ops::Range<u64>, rows: u64) {
    let ops: Vec<u64> = ops.collect();
    for some in ops.chunks(100_000) {
        let line = |op: &u64| {
            let text = blake3::hash(&op.to_be_bytes()).to_hex();
            let value = json!({ "op": op, "text": &text.as_str()[..24] });
            let payload = json!({ "id": format!("{name} {}", op % rows), "value": value });
            format!("{}\n", json!({ "surface": "registry:note", "payload": payload }))
        };
        let lines: String = some.iter().map(line).collect();
        home.run_with(&["import", "-"], lines.as_bytes()).expect_code(0);
    }
}

/// Tries until something is so; each try takes a process.
pub fn until<T>(check: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(begun.elapsed() < LONG, "not in time");
    }
}

/// The state, how many ops it is of, and what the history begins with.
fn state(home: &Home) -> (Value, Value, Value) {
    let status = home.json(&["status"]);
    (status["state_hash"].clone(), status["ops"].clone(), status["base_checkpoint"].clone())
}

/// The newest checkpoint, once it is whole here and so many attest it.
pub fn attested(home: &Home, made: &str, count: usize) -> Option<()> {
    let list = home.json(&["checkpoint", "--list"]);
    let newest = &list["checkpoints"][0];
    let is_it = newest["hash"] == made && newest["whole"] == true;
    (is_it && newest["attested_by"].as_array().is_some_and(|by| by.len() >= count)).then_some(())
}

/// A checkpoint of so many ops.
pub fn checkpoint(home: &Home, op_count: u64) -> String {
    until(|| {
        let made = home.run(&["--json", "checkpoint"]);
        let made: Value = serde_json::from_str(&made.stdout).ok()?;
        (made["checkpoint"]["ops"] == op_count).then(|| made["checkpoint_hash"].as_str().unwrap().to_owned())
    })
}

/// What the laptop does in the drawer, after it has seen `gone` and `seen`.
fn write_in_the_drawer(laptop: &Home) {
    write(laptop, "own", 0..OWN - 2, OWN);
    laptop.run(&["put", "registry:note", "gone", r#""written where it was removed""#]).expect_code(0);
    laptop.run(&["put", "registry:note", "seen", r#""changed while away""#]).expect_code(0);
}

/// Nothing is lost and nothing comes back from the dead.
fn expect_everything(homes: [&Home; 3], missed: &Missed) {
    for home in homes {
        let rows = home.json(&["status"])["rows"].as_u64().unwrap();
        assert_eq!(rows, missed.rows + (OWN - 2) + 1, "all of both sides, and `seen`");
        home.run(&["get", "registry:note", "gone"]).expect_code(1);
        assert!(
            home.run(&["get", "registry:note", "seen"]).expect_code(0).stdout.contains("changed while away")
        );
        home.run(&["get", "registry:note", &format!("own {}", OWN - 3)]).expect_code(0);
        let values = home.run(&["conflicts", "show", "registry:note", "gone"]).expect_code(0).stdout;
        assert!(values.contains("late") && values.contains("written where it was removed"), "{values}");
    }
}

#[test]
fn a_laptop_from_a_drawer_gives_what_it_wrote_and_begins_behind_what_the_others_dropped() {
    let missed = missed();
    let (a, b, c) = (Home::init("a"), Home::init("b"), Home::init("c"));
    pair(&a, &b);
    pair_as(&a, &c, "member");
    let at_a = a.up(&[]);
    let at_b = b.up(&["--peer", &at_a.listening]);
    let at_c = c.up(&["--peer", &at_a.listening]);
    a.run(&["put", "registry:note", "seen", "1"]).expect_code(0);
    a.run(&["put", "registry:note", "gone", "1"]).expect_code(0);
    a.run(&["wait", "--on", "2"]).expect_code(0);
    assert_eq!(at_c.terminate(), 0);

    a.run(&["devices", "dormant", "c"]).expect_code(0);
    a.run(&["rm", "registry:note", "gone"]).expect_code(0);
    write(&a, "a", 0..missed.ops, missed.rows);
    a.run(&["wait", "--on", "1"]).expect_code(0);
    write_in_the_drawer(&c);
    let made = checkpoint(&a, missed.ops + 3);
    for home in [&a, &b] {
        until(|| attested(home, &made, 2));
        home.run(&["gc", "run", "--now", "--yes", &made[..12]]).expect_code(0);
        assert_eq!(state(home).2, made.as_str());
    }
    let begun = Instant::now();
    let at_c = c.up(&["--peer", &at_a.listening, "--peer", &at_b.listening]);
    until(|| {
        let states = [&a, &b, &c].map(state);
        let is_all = states[0].1 == missed.ops + 3 + OWN;
        (is_all && states[0] == states[1] && states[1] == states[2]).then_some(())
    });
    eprintln!("{} missed ops, {OWN} own ones: equal after {:.2?}", missed.ops, begun.elapsed());

    assert_eq!(state(&c).2, made.as_str(), "it was not replayed");
    expect_everything([&a, &b, &c], &missed);
    c.run(&["verify"]).expect_code(0);
    assert_eq!([at_a, at_b, at_c].map(|daemon| daemon.terminate()), [0; 3]);
}

/// Each device in turn wakes for a round with its drop box.
fn rounds_of(homes: &[&Home]) {
    for home in homes {
        home.json(&["sync", "--timeout", "0"]);
    }
}

#[test]
fn the_same_goes_through_a_folder_and_no_two_are_ever_awake_together() {
    let folder = tempfile::TempDir::new().unwrap();
    let place = folder.path().to_str().expect("a temporary directory has a plain name");
    through(place, ["a", "b", "c"].map(Home::init), &missed());
}

/// A whole life through a drop box: `c` is away, comes back, and no two are ever awake together.
pub fn through(place: &str, homes: [Home; 3], missed: &Missed) {
    let [a, b, c] = homes;
    enrol(&a, &b, &Scope::Personal, "b", Role::Admin);
    enrol(&a, &c, &Scope::Personal, "c", Role::Member);
    for home in [&a, &b, &c] {
        home.run(&["dropbox", "add", place]).expect_code(0);
    }
    a.run(&["put", "registry:note", "seen", "1"]).expect_code(0);
    a.run(&["put", "registry:note", "gone", "1"]).expect_code(0);
    rounds_of(&[&a, &b, &c, &a, &b]);

    a.run(&["devices", "dormant", "c"]).expect_code(0);
    a.run(&["rm", "registry:note", "gone"]).expect_code(0);
    write(&a, "a", 0..missed.ops, missed.rows);
    write_in_the_drawer(&c);
    rounds_of(&[&a, &b, &a]);
    let made = checkpoint(&a, missed.ops + 3);
    let rounds = Cell::new(0);
    until(|| {
        rounds.set(rounds.get() + 1);
        rounds_of(&[&a, &b]);
        [&a, &b].iter().all(|home| attested(home, &made, 2).is_some()).then_some(())
    });
    assert!(rounds.get() <= 3, "{rounds:?}: one to leave it, one to hear who attests it");
    for home in [&a, &b] {
        home.run(&["gc", "run", "--now", "--yes", &made[..12]]).expect_code(0);
    }
    // What the checkpoint stands for goes from the folder too, a round after it is seen there whole.
    rounds_of(&[&a, &b, &a, &b]);
    let begun = Instant::now();
    rounds_of(&[&c]);
    let own = begun.elapsed();
    rounds_of(&[&a, &b, &c]);
    eprintln!("{} missed ops, {OWN} own ones: taken in and left in {own:.2?}", missed.ops);

    let states = [&a, &b, &c].map(state);
    assert_eq!(states[0].1, missed.ops + 3 + OWN);
    assert!(states[0] == states[1] && states[1] == states[2], "{states:?}");
    assert_eq!(states[2].2, made.as_str(), "it was not replayed");
    expect_everything([&a, &b, &c], missed);
}
