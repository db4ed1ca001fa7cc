//! The same writes give the same on both sides; where they do not, a test says how.

use std::collections::BTreeSet;

use kinfold::fold::conversation::{Repair, resume};
use kinfold_interop::{Fleet, Step, Write};
use proptest::prelude::*;
use serde_json::{Value, json};

const DEVICES: usize = 3;

fn any_turn() -> impl Strategy<Value = Value> {
    let id = prop::sample::select(vec!["a", "b", "c"]);
    let calls = prop::collection::vec(id.clone(), 0..3);
    prop_oneof![
        3 => Just(json!({"role": "user", "content": "TEXT"})),
        3 => (calls, any::<bool>()).prop_map(|(ids, speaks)| json!({
            "role": "assistant",
            "content": if speaks { "TEXT" } else { "" },
            "tool_calls": ids.iter().map(|id| json!({"id": id, "name": "n", "arguments": {"x": 1}})).collect::<Vec<_>>(),
        })),
        3 => id.prop_map(|id| json!({"role": "tool", "tool_use_id": id, "content": "TEXT"})),
    ]
}

fn any_write() -> impl Strategy<Value = Write> {
    let key = prop::sample::select(vec!["k", "l", "m"]).prop_map(str::to_owned);
    prop_oneof![
        3 => (key.clone(), 0u64..9).prop_map(|(key, value)| Write::Put { key, value }),
        1 => key.clone().prop_map(|key| Write::Delete { key }),
        2 => (key, 0u64..9).prop_map(|(key, value)| Write::Fact { key, value }),
        4 => any_turn().prop_map(Write::Turn),
        2 => any_intent(),
    ]
}

fn any_intent() -> impl Strategy<Value = Write> {
    let name = |names: &'static [&'static str]| prop::sample::select(names).prop_map(str::to_owned);
    let status = prop::sample::select(&["pending", "committed", "failed"]);
    (name(&["a", "b"]), name(&RUNS), 1u64..4, status).prop_map(|(agent, run, epoch, status)| Write::Intent {
        agent,
        run,
        epoch,
        status,
    })
}

const RUNS: [&str; 3] = ["r", "s", "t"];

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..DEVICES, any_write()).prop_map(|(device, write)| Step::Write(device, write)),
        1 => (0..DEVICES).prop_map(Step::Meet),
    ];
    prop::collection::vec(step, 0..50).prop_map(|mut steps| {
        for (number, step) in steps.iter_mut().enumerate() {
            if let Step::Write(_, Write::Turn(turn)) = step {
                turn["timestamp"] = json!(number);
                turn["conversation_id"] = json!("c");
                if turn["content"] == "TEXT" {
                    turn["content"] = json!(format!("t{number}"));
                }
            }
        }
        steps
    })
}

/// A message of either side in one form.
fn plain(message: &Value) -> Value {
    let role = match message["role"].as_str() {
        Some("tool_result") => "tool",
        Some(role) => role,
        None => "?",
    };
    json!({
        "role": role,
        "content": message["content"],
        "tool_calls": message.get("tool_calls").cloned().unwrap_or_else(|| json!([])),
        "tool_use_id": message["tool_use_id"],
    })
}

fn ours(fleet: &Fleet) -> (Vec<Value>, Vec<Repair>) {
    let resumed = resume(&fleet.transcript(0));
    let value = |json: String| plain(&serde_json::from_str(&json).expect("a message is JSON"));
    (resumed.messages.iter().map(|message| value(message.to_json())).collect(), resumed.repairs)
}

fn theirs(fleet: &Fleet) -> Vec<Value> {
    let messages = fleet.session(0).state().resume_messages("c");
    messages.iter().map(|message| plain(&serde_json::to_value(message).expect("a message is JSON"))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_same_writes_show_the_same(steps in any_steps()) {
        let fleet = Fleet::run(&[0, 40, 7_000], &steps);

        for device in 0..DEVICES {
            prop_assert_eq!(fleet.rows(device), fleet.car_rows(device), "registry winners");
            prop_assert_eq!(fleet.facts(device), fleet.car_facts(device), "first facts");
            for agent in ["a", "b"] {
                let committed = fleet.committed(device, agent, &RUNS);
                prop_assert_eq!(committed, fleet.car_committed(device, agent), "committed runs");
            }
            let car: Vec<Value> = fleet.session(device).state().transcript("c").iter()
                .map(|turn| json!(turn.timestamp)).collect();
            let own: Vec<Value> =
                fleet.transcript_values(device).iter().map(|turn| turn["timestamp"].clone()).collect();
            prop_assert_eq!(own, car, "the order of the transcript");
        }
    }

    #[test]
    fn a_sequence_differs_only_where_more_than_joining_had_to_be_done(steps in any_steps()) {
        let fleet = Fleet::run(&[0, 40, 7_000], &steps);

        let (own, repairs) = ours(&fleet);
        let car = theirs(&fleet);

        if repairs.iter().all(|repair| matches!(repair, Repair::Joined { .. })) {
            prop_assert_eq!(&own, &car);
        }
        // What car-sync keeps of users and assistants is kept here, too.
        let texts = |messages: &[Value]| -> BTreeSet<String> {
            let speaking = messages.iter().filter(|message| message["role"] != "tool");
            let texts = speaking.filter_map(|message| message["content"].as_str());
            texts.flat_map(|text| text.split("\n\n")).filter(|text| !text.is_empty()).map(str::to_owned).collect()
        };
        prop_assert_eq!(texts(&own), texts(&car));
    }
}

/// One device, these turns.
fn alone(turns: Vec<Value>) -> Fleet {
    let write = |(number, mut turn): (usize, Value)| {
        turn["conversation_id"] = json!("c");
        turn["timestamp"] = json!(number);
        Step::Write(0, Write::Turn(turn))
    };
    let steps: Vec<Step> = turns.into_iter().enumerate().map(write).collect();
    Fleet::run(&[0], &steps)
}

fn calling(ids: &[&str]) -> Value {
    let call = |id: &&str| json!({"id": id, "name": "n", "arguments": {}});
    json!({"role": "assistant", "content": "", "tool_calls": ids.iter().map(call).collect::<Vec<_>>()})
}

fn answering(id: &str, text: &str) -> Value {
    json!({"role": "tool", "tool_use_id": id, "content": text})
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

/// How many messages of each role, ours and theirs.
fn counts(fleet: &Fleet, role: &str) -> (usize, usize) {
    let count = |messages: &[Value]| messages.iter().filter(|message| message["role"] == role).count();
    (count(&ours(fleet).0), count(&theirs(fleet)))
}

#[test]
fn a_partly_answered_turn_keeps_its_unanswered_calls_there_and_not_here() {
    let fleet = alone(vec![user("q"), calling(&["a", "b"]), answering("a", "1")]);

    assert_eq!(ours(&fleet).0[1]["tool_calls"].as_array().unwrap().len(), 1);
    assert_eq!(theirs(&fleet)[1]["tool_calls"].as_array().unwrap().len(), 2);
}

#[test]
fn a_late_answer_is_dropped_there_and_moved_here() {
    let fleet = alone(vec![user("q"), calling(&["a"]), user("hurry"), answering("a", "1")]);

    assert_eq!(counts(&fleet, "tool"), (1, 0));
}

#[test]
fn an_answer_to_nothing_passes_there_behind_any_call_and_not_here() {
    let fleet = alone(vec![
        user("q"),
        calling(&["a"]),
        answering("x", "0"),
        answering("a", "1"),
        answering("a", "2"),
    ]);

    assert_eq!(counts(&fleet, "tool"), (1, 3));
}

#[test]
fn an_assistant_that_says_nothing_any_more_stays_there_and_goes_here() {
    let fleet = alone(vec![user("q"), calling(&["a"]), user("r")]);

    assert_eq!(counts(&fleet, "assistant"), (0, 1));
}

#[test]
fn an_id_that_comes_twice_stays_there_and_is_told_apart_here() {
    let fleet =
        alone(vec![user("q"), calling(&["a"]), answering("a", "1"), calling(&["a"]), answering("a", "2")]);

    let ids = |messages: Vec<Value>| -> Vec<Value> {
        messages
            .iter()
            .filter(|message| message["role"] == "tool")
            .map(|message| message["tool_use_id"].clone())
            .collect()
    };
    assert_eq!(ids(ours(&fleet).0), ["a", "a-2"]);
    assert_eq!(ids(theirs(&fleet)), ["a", "a"]);
}

#[test]
fn a_clock_far_ahead_drags_all_later_stamps_along_there_and_by_a_minute_here() {
    let year = 365 * 24 * 3_600_000;
    let put = |device, key: &str, value| Step::Write(device, Write::Put { key: key.into(), value });
    // Device 0 hears of a write stamped a year ahead, and then writes a row that device 2 writes two
    // minutes later.
    let steps = [put(1, "k", 1), Step::Meet(1), Step::Meet(0), put(0, "l", 2), put(2, "l", 3)];

    let fleet = Fleet::run(&[0, year, 120_000], &steps);

    assert_eq!(fleet.rows(0)["l"].as_deref(), Some("3"), "the later write shows");
    assert_eq!(fleet.car_rows(0)["l"].as_deref(), Some("2"), "the dragged clock wins");
    assert_eq!(fleet.rows(0)["k"], fleet.car_rows(0)["k"]);
}

#[test]
fn what_lost_is_listed_here_and_gone_there() {
    let put = |device, value| Step::Write(device, Write::Put { key: "k".into(), value });
    let fleet = Fleet::run(&[0, 0], &[put(0, 1), put(1, 2)]);

    assert_eq!(fleet.rows(0), fleet.car_rows(0));
    assert_eq!(fleet.conflict_count(0), 1);
}

#[test]
fn a_turn_without_a_role_is_guessed_there_and_kept_apart_here() {
    let fleet = alone(vec![user("q"), json!({"speaker": "assistant", "text": "a"})]);

    assert_eq!(counts(&fleet, "assistant"), (0, 1));
    assert_eq!(fleet.transcript(0).len(), 2);
}
