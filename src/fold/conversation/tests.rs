//! Each rule by its smallest case. That they hold together is tested in `tests/it/conversation.rs`.

use super::*;
use crate::model::limits::{TOOL_ID_BYTES_MAX, TURN_CALLS_MAX};
use crate::model::{DeviceId, Dot, Hlc, Incarnation, LogId, Payload, Seq};

fn parse(text: &str) -> Result<Turn, TurnProblem> {
    Turn::parse(&Payload::parse(text).unwrap())
}

/// Turns in the total order, each by the device of that number.
fn transcript(turns: &[(u8, &str)]) -> Vec<Recorded> {
    let recorded = |(at, (device, text)): (u64, &(u8, &str))| {
        let log = LogId { device: DeviceId::from_bytes([*device; 32]), incarnation: Incarnation::new(1) };
        Recorded { dot: Dot { log, seq: Seq::new(at) }, hlc: Hlc::new(at), turn: parse(text) }
    };
    (1..).zip(turns).map(recorded).collect()
}

fn user(text: &str) -> String {
    format!(r#"{{"role":"user","content":"{text}"}}"#)
}

fn assistant(text: &str, calls: &[&str]) -> String {
    let calls: Vec<String> = calls.iter().map(|id| format!(r#"{{"id":"{id}","name":"n"}}"#)).collect();
    format!(r#"{{"role":"assistant","content":"{text}","tool_calls":[{}]}}"#, calls.join(","))
}

fn tool(id: &str, text: &str) -> String {
    format!(r#"{{"role":"tool","tool_use_id":"{id}","content":"{text}"}}"#)
}

/// The sequence in short, `role text [calls] <answered`, and the repairs.
#[track_caller]
fn check(turns: &[(u8, String)], expected: &[&str], repairs: &[Repair]) {
    let turns: Vec<(u8, &str)> = turns.iter().map(|(device, text)| (*device, text.as_str())).collect();
    let resume = resume(&transcript(&turns));
    let short = |message: &Message| {
        let Content::Text(text) = &message.content else { panic!("texts only") };
        let mut short = format!("{} {text}", message.role);
        for call in &message.calls {
            short.push_str(&format!(" [{}]", call.id.as_deref().unwrap()));
            assert!(call.json.contains(&format!(r#""id":"{}""#, call.id.as_deref().unwrap())));
        }
        if let Some(id) = &message.answers {
            short.push_str(&format!(" <{id}"));
        }
        short
    };
    assert_eq!(resume.messages.iter().map(short).collect::<Vec<_>>(), expected);
    assert_eq!(resume.repairs, repairs);
}

#[test]
fn a_sound_conversation_stays_as_it_is() {
    check(
        &[
            (1, user("q")),
            (1, assistant("", &["a", "b"])),
            (1, tool("b", "2")),
            (1, tool("a", "1")),
            (1, assistant("so", &[])),
        ],
        &["user q", "assistant  [a] [b]", "tool 2 <b", "tool 1 <a", "assistant so"],
        &[],
    );
    check(&[], &[], &[]);
}

#[test]
fn neighbours_of_one_role_are_joined_and_answers_stay_apart() {
    check(
        &[
            (1, user("a")),
            (2, user("b")),
            (1, assistant("c", &["x"])),
            (2, assistant("d", &["y"])),
            (1, tool("x", "1")),
            (2, tool("y", "2")),
        ],
        &["user a\n\nb", "assistant c\n\nd [x] [y]", "tool 1 <x", "tool 2 <y"],
        &[Repair::Joined { turn: 1, to: 0 }, Repair::Joined { turn: 3, to: 2 }],
    );
}

#[test]
fn calls_without_an_answer_go_and_the_answered_ones_stay() {
    check(
        &[
            (1, user("q")),
            (1, assistant("t", &["a", "b"])),
            (1, tool("b", "2")),
            (1, user("r")),
            (1, assistant("u", &["c"])),
        ],
        &["user q", "assistant t [b]", "tool 2 <b", "user r", "assistant u"],
        &[
            Repair::CallUnanswered { turn: 1, call: 0, id: Some("a".into()) },
            Repair::CallUnanswered { turn: 4, call: 0, id: Some("c".into()) },
        ],
    );
}

#[test]
fn an_assistant_that_says_nothing_any_more_goes_and_its_neighbours_meet() {
    check(
        &[(1, user("a")), (1, assistant("", &["x"])), (1, user("b"))],
        &["user a\n\nb"],
        &[
            Repair::Empty { turn: 1 },
            Repair::CallUnanswered { turn: 1, call: 0, id: Some("x".into()) },
            Repair::Joined { turn: 2, to: 0 },
        ],
    );
    check(&[(1, user("")), (1, assistant("hello", &[]))], &["assistant hello"], &[Repair::Empty { turn: 0 }]);
}

#[test]
fn a_late_answer_moves_up_to_its_call() {
    check(
        &[
            (1, user("q")),
            (1, assistant("", &["a"])),
            (2, user("hurry")),
            (1, tool("a", "1")),
            (2, user("so?")),
        ],
        &["user q", "assistant  [a]", "tool 1 <a", "user hurry\n\nso?"],
        &[Repair::AnswerMoved { turn: 3, to: 1 }, Repair::Joined { turn: 4, to: 2 }],
    );
}

#[test]
fn answers_that_answer_nothing_go_with_the_reason() {
    check(
        &[
            (1, tool("later", "0")),
            (1, assistant("", &["a", "later"])),
            (1, tool("a", "1")),
            (2, tool("a", "2")),
            (1, tool("never", "3")),
        ],
        &["assistant  [a]", "tool 1 <a"],
        &[
            Repair::AnswerEarly { turn: 0, id: "later".into() },
            Repair::CallUnanswered { turn: 1, call: 1, id: Some("later".into()) },
            Repair::AnswerAgain { turn: 3, id: "a".into() },
            Repair::AnswerUnknown { turn: 4, id: "never".into() },
        ],
    );
}

#[test]
fn one_id_for_several_calls_is_told_apart() {
    check(
        &[
            (1, assistant("", &["a"])),
            (1, tool("a", "1")),
            (1, assistant("", &["a", "a-2"])),
            (1, tool("a", "2")),
            (1, tool("a-2", "3")),
        ],
        &["assistant  [a]", "tool 1 <a", "assistant  [a-3] [a-2]", "tool 2 <a-3", "tool 3 <a-2"],
        &[Repair::CallRenamed { turn: 2, call: 0, from: "a".into(), to: "a-3".into() }],
    );
}

#[test]
fn each_device_answers_its_own_call_of_an_id() {
    check(
        &[
            (1, assistant("one", &["a"])),
            (2, user("-")),
            (2, assistant("two", &["a"])),
            (1, tool("a", "of one")),
            (2, tool("a", "of two")),
        ],
        &["assistant one [a]", "tool of one <a", "user -", "assistant two [a-2]", "tool of two <a-2"],
        &[
            Repair::CallRenamed { turn: 2, call: 0, from: "a".into(), to: "a-2".into() },
            Repair::AnswerMoved { turn: 3, to: 0 },
        ],
    );
}

#[test]
fn what_is_no_turn_is_left_out_and_named() {
    check(
        &[(1, user("a")), (2, "[]".into()), (1, r#"{"role":"system"}"#.into()), (1, user("b"))],
        &["user a\n\nb"],
        &[
            Repair::Malformed { turn: 1, problem: TurnProblem::NotAnObject },
            Repair::Malformed { turn: 2, problem: TurnProblem::Role { found: "\"system\"".into() } },
            Repair::Joined { turn: 3, to: 0 },
        ],
    );
}

#[test]
fn parts_stay_as_they_were_written_and_texts_become_parts_beside_them() {
    let part = r#"{"type":"image","url":"u","width":1.0}"#;
    let turns = [user("look"), format!(r#"{{"role":"user","content":[{part},{part}]}}"#)];
    let turns: Vec<(u8, &str)> = turns.iter().map(|text| (1, text.as_str())).collect();

    let resume = resume(&transcript(&turns));

    let expected = format!(r#"{{"role":"user","content":[{{"text":"look","type":"text"}},{part},{part}]}}"#);
    assert_eq!(resume.messages[0].to_json(), expected);
    assert_eq!(resume.messages[0].turns, [0, 1]);
}

#[test]
fn a_message_is_json_with_its_calls_as_written() {
    let turns = [(1, assistant("\\u0041\\\"", &["a"])), (1, tool("a", "ü"))];
    let turns: Vec<(u8, &str)> = turns.iter().map(|(device, text)| (*device, text.as_str())).collect();

    let json: Vec<String> = resume(&transcript(&turns)).messages.iter().map(Message::to_json).collect();

    assert_eq!(
        json,
        [
            r#"{"role":"assistant","content":"A\"","tool_calls":[{"id":"a","name":"n"}]}"#,
            r#"{"role":"tool","content":"ü","tool_use_id":"a"}"#
        ]
    );
}

#[test]
fn a_turn_is_read_with_patience() {
    let turn = parse(
        r#"{"role":"assistant","content":null,"tool_use_id":null,"timestamp":"noon","mood":3,
            "tool_calls":[{"name":"no id"},{"id":""},{"id":7},{"id":"ok"}]}"#,
    )
    .unwrap();

    assert_eq!((turn.content, turn.answers, turn.timestamp), (Content::Text(String::new()), None, None));
    let ids: Vec<Option<&str>> = turn.calls.iter().map(|call| call.id.as_deref()).collect();
    assert_eq!(ids, [None, None, None, Some("ok")]);
    assert_eq!(parse(r#"{"role":"user","timestamp":12,"tool_calls":[]}"#).unwrap().timestamp, Some(12));
    assert!(parse(r#"{"role":"user","timestamp":1.5}"#).unwrap().timestamp.is_none());
}

#[test]
fn every_problem_of_a_turn_has_its_name() {
    let problem = |text: &str| parse(text).unwrap_err();
    let many = vec!["{}"; TURN_CALLS_MAX + 1].join(",");

    assert_eq!(problem("[]"), TurnProblem::NotAnObject);
    assert_eq!(problem("{}"), TurnProblem::Role { found: "nothing".into() });
    assert_eq!(problem(r#"{"role":7}"#), TurnProblem::Role { found: "7".into() });
    assert_eq!(problem(r#"{"role":"user","content":7}"#), TurnProblem::ContentKind);
    assert_eq!(problem(r#"{"role":"user","content":{}}"#), TurnProblem::ContentKind);
    assert_eq!(problem(r#"{"role":"user","content":[{},"b"]}"#), TurnProblem::PartKind { index: 1 });
    assert_eq!(
        problem(r#"{"role":"user","tool_calls":[{}]}"#),
        TurnProblem::CallsMisplaced { role: Role::User }
    );
    assert_eq!(problem(r#"{"role":"assistant","tool_calls":{}}"#), TurnProblem::CallsKind);
    assert_eq!(problem(r#"{"role":"assistant","tool_calls":[{},1]}"#), TurnProblem::CallKind { index: 1 });
    assert_eq!(
        problem(&format!(r#"{{"role":"assistant","tool_calls":[{many}]}}"#)),
        TurnProblem::TooManyCalls { found: TURN_CALLS_MAX + 1, limit: TURN_CALLS_MAX }
    );
    for text in
        [r#"{"role":"tool"}"#, r#"{"role":"tool","tool_use_id":""}"#, r#"{"role":"tool","tool_use_id":1}"#]
    {
        assert_eq!(problem(text), TurnProblem::AnswerIdMissing);
    }
    assert_eq!(
        problem(r#"{"role":"user","tool_use_id":"a"}"#),
        TurnProblem::AnswerIdMisplaced { role: Role::User }
    );
}

#[test]
fn what_is_read_with_patience_is_not_recorded() {
    let problem = |text: &str| parse(text).unwrap().check_new().unwrap_err();
    let long = "x".repeat(TOOL_ID_BYTES_MAX + 1);

    assert_eq!(
        problem(r#"{"role":"assistant","tool_calls":[{"id":"a"},{"id":1}]}"#),
        TurnProblem::CallIdMissing { index: 1 }
    );
    assert_eq!(problem(&assistant("", &["a", "b", "a"])), TurnProblem::CallIdTwice { id: "a".into() });
    assert_eq!(
        problem(&tool(&long, "1")),
        TurnProblem::ToolIdLength { found: TOOL_ID_BYTES_MAX + 1, limit: TOOL_ID_BYTES_MAX }
    );
    assert_eq!(problem(&user("")), TurnProblem::Empty { role: Role::User });
    assert_eq!(problem(&assistant("", &[])), TurnProblem::Empty { role: Role::Assistant });
    assert_eq!(parse(&tool(&long[1..], "")).unwrap().check_new(), Ok(()));
    assert_eq!(parse(&assistant("", &["a"])).unwrap().check_new(), Ok(()));
}
