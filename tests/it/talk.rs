//! Conversations by command line and socket.

use serde_json::{Value, json};

use crate::kin::{Caller, Home, pair};

#[test]
fn two_devices_that_talk_at_once_end_with_one_transcript_and_one_sequence() {
    let (one, two) = (Home::init("one"), Home::init("two"));
    pair(&one, &two);
    one.run(&["turn", "trip", "user", "Oslo or Rome?"]).expect_code(0);
    meet(&one, &two);
    let calls = |id: &str| format!(r#"[{{"id":"{id}","name":"weather","arguments":{{"x":1.0}}}}]"#);

    // Both go on without knowing of each other, with tool calls under one id.
    for (home, city, more) in [(&one, "Oslo", "1"), (&two, "Rome", "2")] {
        home.run(&["turn", "trip", "assistant", city, "--tool-calls", &calls("call_0")]).expect_code(0);
        home.run(&["turn", "trip", "tool", &format!("rain in {city}"), "--tool-use-id", "call_0"])
            .expect_code(0);
        home.run(&["turn", "trip", "assistant", "", "--tool-calls", &calls(more)]).expect_code(0);
    }
    meet(&one, &two);

    let transcript = one.json(&["transcript", "trip"]);
    let resumed = one.json(&["resume", "trip"]);
    assert_eq!(two.json(&["transcript", "trip"]), transcript);
    assert_eq!(two.json(&["resume", "trip"]), resumed);
    assert_eq!(transcript["turns"].as_array().unwrap().len(), 7);
    let roles: Vec<&str> =
        resumed["messages"].as_array().unwrap().iter().map(|said| said["role"].as_str().unwrap()).collect();
    assert_eq!(roles.iter().filter(|role| **role == "tool").count(), 2, "both answers are kept");
    let text = resumed["messages"].to_string();
    for kept in ["Oslo or Rome?", "rain in Oslo", "rain in Rome", "call_0-2", "\"x\":1.0"] {
        assert!(text.contains(kept), "{kept}: {text}");
    }
    let kinds: Vec<&str> = resumed["repairs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|repair| repair["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "CallUnanswered").count(), 2, "{kinds:?}");
    assert!(kinds.contains(&"CallRenamed"), "{kinds:?}");
}

#[test]
fn people_read_who_said_what_and_what_a_model_is_given() {
    let home = Home::init("a");
    let long = "word ".repeat(40);
    home.run(&["turn", "c", "user", &long]).expect_code(0);
    home.run_with(&["turn", "c", "user", "-"], b"piped \x1b[2J\n").expect_code(0);
    home.run(&["turn", "c", "assistant", "", "--tool-calls", r#"[{"id":"x","function":{"name":"find"}}]"#])
        .expect_code(0);
    home.run(&["event", "conversation", "c", "[1]"]).expect_code(0);

    let listed = home.run(&["transcript"]).expect_code(0).stdout;
    let transcript = home.run(&["transcript", "c"]).expect_code(0).stdout;
    let resumed = home.run(&["resume", "c"]).expect_code(0).says("turn 2: joined").says("turn 3: left out");

    assert!(listed.contains("c") && listed.contains('4'), "{listed}");
    assert!(
        transcript.contains("calls find (x)") && transcript.contains("a turn is a JSON object"),
        "{transcript}"
    );
    assert!(transcript.contains("piped \u{fffd}[2J\n") && !transcript.contains('\x1b'), "{transcript}");
    assert!(transcript.lines().all(|line| line.trim_end().chars().count() <= 80), "{transcript}");
    assert!(resumed.stdout.starts_with("user\n"), "{resumed:?}");
    assert_eq!(resumed.stdout.matches("user").count(), 1);
    let last = home.json(&["resume", "c", "--last", "3"]);
    assert_eq!((&last["omitted"], &last["repairs"][0]["turn"]), (&1.into(), &2.into()));
    home.run(&["transcript", "nowhere"]).expect_code(1).says("no conversation \"nowhere\"");
    home.run(&["resume", "nowhere"]).expect_code(1).says("`kinfold transcript` lists");
}

#[test]
fn a_turn_that_makes_no_sense_is_refused_by_name_and_not_recorded() {
    let home = Home::init("a");
    let _node = home.up(&[]);
    let mut caller = Caller::connect(&home);
    let mut refused = |change: Value, kind: &str| {
        let mut params = json!({"conversation_id": "c", "role": "user", "content": "hello"});
        for (name, value) in change.as_object().unwrap() {
            match value {
                Value::Null => drop(params.as_object_mut().unwrap().remove(name)),
                value => params[name] = value.clone(),
            }
        }
        let answer = caller.call("sync.record_turn", params.clone());
        assert_eq!(answer["error"]["data"]["kind"], kind, "{params}: {answer}");
    };
    let calls = |calls: Value| json!({"role": "assistant", "tool_calls": calls});

    refused(json!({"conversation_id": null}), "InvalidParams");
    refused(json!({"conversation_id": 7}), "InvalidParams");
    refused(json!({"conversation_id": ""}), "KeyLength");
    refused(json!({"conversation_id": "c".repeat(1025)}), "KeyLength");
    refused(json!({"role": null}), "InvalidParams");
    refused(json!({"role": "system"}), "Role");
    refused(json!({"content": null}), "InvalidParams");
    refused(json!({"content": 7}), "ContentKind");
    refused(json!({"content": ["a"]}), "PartKind");
    refused(json!({"content": ""}), "Empty");
    refused(json!({"content": "x".repeat(64 * 1024)}), "TooLong");
    refused(json!({"tool_calls": [{"id": "x"}]}), "CallsMisplaced");
    refused(calls(json!({})), "CallsKind");
    refused(calls(json!(["x"])), "CallKind");
    refused(calls(json!([{}])), "CallIdMissing");
    refused(calls(json!([{"id": "x"}, {"id": "x"}])), "CallIdTwice");
    refused(calls(json!([{"id": "x".repeat(257)}])), "ToolIdLength");
    refused(calls(json!(vec![json!({"id": "x"}); 129])), "TooManyCalls");
    refused(json!({"role": "tool"}), "AnswerIdMissing");
    refused(json!({"role": "tool", "tool_use_id": 7}), "InvalidParams");
    refused(json!({"role": "tool", "tool_use_id": "x".repeat(257)}), "ToolIdLength");
    refused(json!({"tool_use_id": "x"}), "AnswerIdMisplaced");
    refused(json!({"timestamp": "noon"}), "InvalidParams");
    refused(json!({"timestamp": -1}), "InvalidParams");
    refused(json!({"timestamp": 1.5}), "InvalidParams");
    refused(json!({"scope": {"org": "nobody"}}), "NoSuchSpace");
    refused(json!({"mood": "good"}), "InvalidParams");
    for (method, params, kind) in [
        ("sync.transcript", json!({"conversation_id": "c", "limit": 10_001}), "PageLimit"),
        ("sync.transcript", json!({"conversation_id": "c", "limit": 0}), "PageLimit"),
        ("sync.transcript", json!({"conversation_id": "c", "after": "x"}), "BadCursor"),
        ("sync.resume", json!({"conversation_id": "c", "last": 0}), "PageLimit"),
        ("sync.resume", json!({"conversation_id": "c", "last": 10_001}), "PageLimit"),
        ("sync.resume", json!({}), "InvalidParams"),
        ("sync.conversations", json!({"limit": 1_001}), "PageLimit"),
    ] {
        let answer = caller.call(method, params.clone());
        assert_eq!(answer["error"]["data"]["kind"], kind, "{method} {params}: {answer}");
    }
    assert_eq!(caller.call("sync.status", json!({}))["result"]["ops"], 0);
}

#[test]
fn a_transcript_is_read_page_by_page_and_counts_what_it_leaves_out() {
    let home = Home::init("a");
    let _node = home.up(&[]);
    let mut caller = Caller::connect(&home);
    for number in 0..7 {
        let turn = json!({"conversation_id": "c", "role": "user", "content": format!("t{number}"), "timestamp": number});
        assert!(caller.call("sync.record_turn", turn)["result"]["op_id"].is_string());
    }

    let mut said = Vec::new();
    let mut after = Value::Null;
    loop {
        let page =
            caller.call("sync.transcript", json!({"conversation_id": "c", "after": after, "limit": 3}));
        let turns = page["result"]["turns"].as_array().unwrap().clone();
        assert!(turns.len() <= 3);
        said.extend(turns.iter().map(|turn| (turn["content"].clone(), turn["timestamp"].clone())));
        after = page["result"]["next"].clone();
        if after.is_null() {
            break;
        }
    }
    let resumed = caller.call("sync.resume", json!({"conversation_id": "c", "last": 2}));
    let none = caller.call("sync.transcript", json!({"conversation_id": "d"}));
    let held = caller.call("sync.conversations", json!({}));

    let expected: Vec<(Value, Value)> = (0..7).map(|n| (json!(format!("t{n}")), json!(n))).collect();
    assert_eq!(said, expected);
    assert_eq!(resumed["result"]["messages"], json!([{"role": "user", "content": "t5\n\nt6"}]));
    assert_eq!(resumed["result"]["omitted"], 5);
    assert_eq!(
        (&resumed["result"]["repairs"][0]["turn"], &resumed["result"]["repairs"][0]["to"]),
        (&6.into(), &5.into())
    );
    assert_eq!(none["result"]["turns"], json!([]));
    assert_eq!(held["result"]["conversations"], json!([{"conversation_id": "c", "turns": 7}]));
}

/// Lets two paired devices exchange what they have.
pub fn meet(one: &Home, two: &Home) {
    let running = one.up(&[]);
    let other = two.up(&["--peer", &running.listening]);
    let everything = ["wait", "--on", "1", "--timeout", "60s"];
    one.run(&everything).expect_code(0);
    two.run(&everything).expect_code(0);
    assert_eq!(other.terminate(), 0);
    assert_eq!(running.terminate(), 0);
}
