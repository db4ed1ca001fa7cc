//! Agents of other languages, and one conversation on two devices: a program on one, a person at the
//! command line on the other.

use serde_json::{Value, json};

use crate::clients::interpreter;
use crate::kin::{Caller, Daemon, Home, pair, run};

/// Both devices hold everything of each other.
fn settle(one: &Home, other: &Home) {
    for home in [one, other] {
        home.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    }
}

fn up(one: &Home, other: &Home) -> (Daemon, Daemon) {
    let first = one.up(&[]);
    let second = other.up(&["--peer", &first.listening]);
    (first, second)
}

/// What is equal on both devices, whoever asks.
#[track_caller]
fn agree(one: &Home, other: &Home, conversation: &str) -> Value {
    settle(one, other);
    let transcript = one.json(&["transcript", conversation]);
    assert_eq!(transcript, other.json(&["transcript", conversation]));
    let resumed = one.json(&["resume", conversation]);
    assert_eq!(resumed, other.json(&["resume", conversation]));
    let asked = Caller::connect(one).call("sync.resume", json!({ "conversation_id": conversation }));
    assert_eq!(asked["result"], resumed);
    transcript
}

/// A turn of the conversation by the Python client: a user's, the call of a tool, its answer.
const TURNS: &str = r#"
import sys
from kinfold_client import Client

home, conversation, number = sys.argv[1:]
call = f"call-{number}"
with Client(home) as node:
    def say(role, content, **more):
        node.call("sync.record_turn", conversation_id=conversation, role=role, content=content, **more)
    say("user", f"question {number}")
    say("assistant", "I look it up.", tool_calls=[{"id": call, "name": "look", "arguments": {"n": number}}])
    say("tool", f"found {number}", tool_use_id=call)
    say("assistant", f"It is {number}.")
print("done")
"#;

#[test]
fn a_program_and_a_person_carry_one_conversation_on_two_devices() {
    let Some(mut python) = interpreter("python3") else { return };
    let (desk, laptop) = (Home::init("desk"), Home::init("laptop"));
    pair(&desk, &laptop);
    let daemons = up(&desk, &laptop);

    let said = run(python.arg("-c").arg(TURNS).arg(desk.path()).args(["trip", "1"]), b"");
    assert_eq!(said.expect_code(0).stdout, "done\n");
    assert_eq!(agree(&desk, &laptop, "trip")["turns"].as_array().unwrap().len(), 4);
    laptop.run(&["turn", "trip", "user", "question 2"]).expect_code(0);
    let calls = r#"[{"id": "call-2", "name": "look", "arguments": {"n": 2}}]"#;
    laptop.run(&["turn", "trip", "assistant", "And again.", "--tool-calls", calls]).expect_code(0);
    laptop.run(&["turn", "trip", "tool", "found 2", "--tool-use-id", "call-2"]).expect_code(0);
    laptop.run(&["turn", "trip", "assistant", "It is 2."]).expect_code(0);
    let turns = agree(&desk, &laptop, "trip")["turns"].as_array().unwrap().clone();
    let roles: Vec<&str> = turns.iter().map(|turn| turn["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "assistant", "user", "assistant", "tool", "assistant"]);
    assert_eq!(
        (&turns[5]["tool_calls"][0]["id"], &turns[6]["tool_use_id"]),
        (&json!("call-2"), &json!("call-2"))
    );

    // Apart, both change one row, and both go on with the conversation.
    for daemon in <[Daemon; 2]>::from(daemons) {
        assert_eq!(daemon.terminate(), 0);
    }
    for (home, value) in [(&desk, "\"by train\""), (&laptop, "\"by boat\"")] {
        home.run(&["put", "registry:plan", "trip", value]).expect_code(0);
        home.run(&["turn", "trip", "user", value]).expect_code(0);
    }
    let _daemons = up(&desk, &laptop);
    assert_eq!(agree(&desk, &laptop, "trip")["turns"].as_array().unwrap().len(), 10);
    let listed = desk.json(&["conflicts"]);
    assert_eq!(listed, laptop.json(&["conflicts"]));
    assert_eq!(listed["conflicts"][0]["others"].as_array().unwrap().len(), 1);

    let row = json!({ "surface": "registry:plan", "id": "trip", "payload": "by train and boat" });
    let settled = Caller::connect(&laptop).call("conflicts.resolve", row);
    assert_eq!(settled["result"]["resolved"], 2);
    settle(&desk, &laptop);
    assert_eq!(desk.json(&["conflicts", "log"]), laptop.json(&["conflicts", "log"]));
    for home in [&desk, &laptop] {
        assert_eq!(home.json(&["conflicts"])["conflicts"], json!([]));
        assert_eq!(home.run(&["get", "registry:plan", "trip"]).stdout, "\"by train and boat\"\n");
    }
}

#[test]
fn an_agent_goes_on_in_another_language_and_does_not_repeat_what_was_done() {
    let (Some(mut python), Some(mut node)) = (interpreter("python3"), interpreter("node")) else { return };
    let home = Home::init("desk");
    let _daemon = home.up(&[]);

    let said = run(python.arg("agent.py").arg(home.path()).args(["words", "how many words are these"]), b"");
    assert_eq!(said.expect_code(0).stdout, "That is 5 words.\n");
    let said = run(node.arg("agent.mjs").arg(home.path()).args(["words", "and these"]), b"");
    assert_eq!(said.expect_code(0).stdout, "That is 2 words.\n");

    let turns = home.json(&["transcript", "words"])["turns"].as_array().unwrap().len();
    assert_eq!(turns, 8);
    let runs = home.json(&["intent", "show", "word-counter"])["runs"].as_array().unwrap().clone();
    assert!(runs.iter().all(|run| run["status"] == "committed" && run["conflict"] == false), "{runs:?}");
    let ids: Vec<&str> = runs.iter().map(|run| run["run_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["words/call-1", "words/call-5"]);
}
