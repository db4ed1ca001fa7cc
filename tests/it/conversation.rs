//! Conversations: whatever devices record at once, each of them can go on, and nothing is lost.
//!
//! The validator reads the JSON of the messages and knows nothing of how they were made.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kinfold::fold::State;
use kinfold::fold::conversation::{Recorded, Repair, Turn, resume};
use kinfold::model::{DeviceId, Dot, Incarnation, LogId, Now, Op, Payload, Seq, SpaceId, Surface, Tip, Wall};
use kinfold::oplog::{Author, DraftOp, Seen};
use kinfold::wire::FrameView;
use proptest::prelude::*;
use serde_json::Value;

/// A message, as far as its order matters.
#[derive(Debug)]
struct Said {
    role: String,
    calls: Vec<String>,
    answers: Option<String>,
    text: String,
}

fn said(json: &str) -> Said {
    let value: Value = serde_json::from_str(json).expect("a message is JSON");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let calls = value.get("tool_calls").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    Said {
        role: text(&value["role"]),
        calls: calls.iter().map(|call| text(&call["id"])).collect(),
        answers: value.get("tool_use_id").map(text),
        text: text(&value["content"]),
    }
}

/// The order that the strictest chat-completion API asks for.
fn validate(messages: &[Said]) -> Result<(), String> {
    let mut waiting: BTreeSet<&str> = BTreeSet::new();
    let mut called: BTreeSet<&str> = BTreeSet::new();
    let mut before: Option<&str> = None;
    for (at, message) in messages.iter().enumerate() {
        let refuse = |why: &str| Err(format!("message {at}: {why}"));
        match message.role.as_str() {
            "tool" => {
                let Some(id) = message.answers.as_deref() else { return refuse("an answer to nothing") };
                if !message.calls.is_empty() {
                    return refuse("a tool calls");
                }
                if !waiting.remove(id) {
                    return refuse("an answer that no open call before it waits for");
                }
            }
            "user" | "assistant" => {
                if !waiting.is_empty() {
                    return refuse("calls before it have no answer");
                }
                if before == Some(message.role.as_str()) {
                    return refuse("the role of the message before");
                }
                if message.answers.is_some() {
                    return refuse("only tools answer");
                }
                if message.text.is_empty() && message.calls.is_empty() {
                    return refuse("it says nothing");
                }
                if message.role == "user" && !message.calls.is_empty() {
                    return refuse("a user calls");
                }
                for id in &message.calls {
                    if !called.insert(id) {
                        return refuse("an id that was used before");
                    }
                    waiting.insert(id);
                }
            }
            _ => return refuse("an unknown role"),
        }
        before = Some(&message.role);
    }
    if waiting.is_empty() { Ok(()) } else { Err("the last calls have no answer".to_owned()) }
}

#[test]
fn the_validator_refuses_what_apis_refuse() {
    let check = |messages: &[&str]| validate(&messages.iter().map(|json| said(json)).collect::<Vec<_>>());
    let user = r#"{"role":"user","content":"a"}"#;
    let calling = r#"{"role":"assistant","content":"","tool_calls":[{"id":"x"}]}"#;
    let answer = r#"{"role":"tool","content":"","tool_use_id":"x"}"#;
    let assistant = r#"{"role":"assistant","content":"b"}"#;

    assert_eq!(check(&[user, calling, answer, assistant, user]), Ok(()));
    assert_eq!(check(&[]), Ok(()));
    for wrong in [
        &[user, user][..],
        &[assistant, assistant],
        &[calling],
        &[calling, user],
        &[calling, answer, answer],
        &[answer],
        &[calling, answer, calling, answer],
        &[r#"{"role":"user","content":""}"#],
        &[r#"{"role":"user","content":"a","tool_calls":[{"id":"x"}]}"#, answer],
        &[r#"{"role":"system","content":"a"}"#],
    ] {
        assert!(check(wrong).is_err(), "{wrong:?}");
    }
}

/// What a device does next.
#[derive(Clone, Debug)]
enum Step {
    /// Records a turn.
    Say { device: usize, payload: String },
    /// Receives everything that another device has.
    Hear { device: usize, from: usize },
}

const DEVICES: usize = 3;

/// Few ids and few texts, so that everything collides.
fn any_payload() -> impl Strategy<Value = String> {
    let id = prop::sample::select(vec!["a", "b", "a-2", "c"]);
    let calls = prop::collection::vec(id.clone(), 0..3);
    prop_oneof![
        3 => Just(r#"{"role":"user","content":"TEXT"}"#.to_owned()),
        1 => Just(r#"{"role":"user","content":""}"#.to_owned()),
        5 => (calls, any::<bool>()).prop_map(|(ids, speaks)| {
            let calls: Vec<String> = ids.iter().map(|id| format!(r#"{{"id":"{id}","name":"n"}}"#)).collect();
            let text = if speaks { "TEXT" } else { "" };
            format!(r#"{{"role":"assistant","content":"{text}","tool_calls":[{}]}}"#, calls.join(","))
        }),
        5 => id.prop_map(|id| format!(r#"{{"role":"tool","tool_use_id":"{id}","content":"TEXT"}}"#)),
        1 => Just(r#"{"role":"system","content":"TEXT"}"#.to_owned()),
        1 => Just("7".to_owned()),
    ]
}

fn any_steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..DEVICES, any_payload()).prop_map(|(device, payload)| Step::Say { device, payload }),
        1 => (0..DEVICES, 0..DEVICES).prop_map(|(device, from)| Step::Hear { device, from }),
    ];
    prop::collection::vec(step, 0..most)
}

/// A device with what it holds, each log in order.
struct Peer {
    author: Author,
    state: State,
    held: BTreeMap<LogId, Vec<DraftOp>>,
}

/// Devices whose clocks disagree by minutes.
struct Fleet {
    peers: Vec<Peer>,
    payloads: BTreeMap<Dot, Payload>,
    clock: u64,
}

impl Fleet {
    fn run(steps: &[Step]) -> Self {
        let peer = |index: usize| {
            let device = DeviceId::from_bytes([10 - index as u8; 32]);
            let log = LogId { device, incarnation: Incarnation::new(1) };
            Peer { author: Author::new(log, Tip::NONE), state: State::new(SPACE), held: BTreeMap::new() }
        };
        let mut fleet = Self { peers: (0..DEVICES).map(peer).collect(), payloads: BTreeMap::new(), clock: 0 };
        for (number, step) in steps.iter().enumerate() {
            match step {
                Step::Say { device, payload } => {
                    fleet.say(*device, &payload.replace("TEXT", &format!("t{number}")))
                }
                Step::Hear { device, from } => fleet.hear(*device, *from),
            }
        }
        fleet
    }

    fn say(&mut self, device: usize, payload: &str) {
        self.clock += 1;
        let wall = Wall::from_millis(1_000_000 + self.clock - 100 * device as u64);
        let now = Now { uptime: Duration::ZERO, wall, entropy: [0; 32] };
        let payload = Payload::parse(payload).unwrap();
        let op = Op::Event { surface: Surface::Conversation, stream: "c".into(), payload: payload.clone() };
        let peer = &mut self.peers[device];
        let seen = peer.state.seen(&Surface::Conversation, "c");
        let draft = peer.author.draft(op, Seen { heads: seen.heads, greatest: seen.greatest }, &now);
        peer.author.folded();
        let log = peer.author.log();
        self.payloads.insert(Dot { log, seq: draft.seq }, payload);
        peer.take(log, draft);
    }

    fn hear(&mut self, device: usize, from: usize) {
        for (log, ops) in self.peers[from].held.clone() {
            let had = self.peers[device].held.get(&log).map_or(0, Vec::len);
            for op in ops.into_iter().skip(had) {
                self.peers[device].take(log, op);
            }
        }
    }

    /// The transcript of a device.
    fn transcript(&self, state: &State) -> Vec<Recorded> {
        let events = state.events(&Surface::Conversation, "c", None, usize::MAX);
        let turn = |dot: &Dot| Turn::parse(&self.payloads[dot]);
        events
            .iter()
            .map(|event| Recorded { dot: event.dot, hlc: event.hlc, turn: turn(&event.dot) })
            .collect()
    }

    /// All logs folded by somebody new, in the order that `picks` says.
    fn folded_anew(&self, picks: &[u8]) -> State {
        let mut logs: Vec<(LogId, std::vec::IntoIter<DraftOp>)> =
            self.peers[0].held.clone().into_iter().map(|(log, ops)| (log, ops.into_iter())).collect();
        let mut state = State::new(SPACE);
        let mut picks = picks.iter().cycle();
        while !logs.is_empty() {
            let pick = usize::from(*picks.next().unwrap_or(&0)) % logs.len();
            match logs[pick].1.next() {
                Some(op) => fold(&mut state, &logs[pick].0, &op),
                None => drop(logs.remove(pick)),
            }
        }
        state
    }
}

impl Peer {
    fn take(&mut self, log: LogId, op: DraftOp) {
        fold(&mut self.state, &log, &op);
        self.author.observe(op.hlc, Wall::from_millis(1_000_000));
        self.held.entry(log).or_default().push(op);
    }
}

fn fold(state: &mut State, log: &LogId, op: &DraftOp) {
    let DraftOp { seq, hlc, kind, flags, body } = op;
    state.apply(log, &FrameView { seq: *seq, hlc: *hlc, kind: *kind, flags: *flags, body });
}

const SPACE: SpaceId = SpaceId::from_bytes([3; 32]);

/// The most that any valid sequence can keep, found by trying: for every turn that speaks its text,
/// and pairs of a call and a later answer with its id.
fn most_pairs(turns: &[Value]) -> usize {
    let mut calls = Vec::new();
    let mut answers = Vec::new();
    for (at, turn) in turns.iter().enumerate() {
        match turn["role"].as_str() {
            Some("assistant") => {
                let ids = turn["tool_calls"].as_array().map_or(&[][..], Vec::as_slice);
                calls.extend(ids.iter().map(|call| (at, call["id"].as_str().unwrap_or_default())));
            }
            Some("tool") => answers.push((at, turn["tool_use_id"].as_str().unwrap_or_default())),
            _ => {}
        }
    }
    fn most(answers: &[(usize, &str)], calls: &mut Vec<(usize, &str)>) -> usize {
        let Some(((at, id), rest)) = answers.split_first() else { return 0 };
        let mut best = most(rest, calls);
        for place in 0..calls.len() {
            if calls[place].1 == *id && calls[place].0 < *at {
                let call = calls.remove(place);
                best = best.max(1 + most(rest, calls));
                calls.insert(place, call);
            }
        }
        best
    }
    most(&answers, &mut calls)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_devices_record_at_once_each_goes_on_from_the_same_valid_sequence(
        steps in any_steps(60),
        picks in prop::collection::vec(any::<u8>(), 1..20),
    ) {
        let mut fleet = Fleet::run(&steps);
        for round in 0..2 {
            for device in 0..DEVICES {
                let others = (0..DEVICES).filter(|other| *other != device || round == 0);
                others.for_each(|from| fleet.hear(device, from));
            }
        }

        let turns = fleet.transcript(&fleet.peers[0].state);
        let resumed = resume(&turns);

        for peer in &fleet.peers[1..] {
            prop_assert_eq!(&fleet.transcript(&peer.state), &turns);
        }
        prop_assert_eq!(&fleet.transcript(&fleet.folded_anew(&picks)), &turns);
        prop_assert_eq!(&resume(&turns), &resumed, "the same again");
        let messages: Vec<Said> = resumed.messages.iter().map(|message| said(&message.to_json())).collect();
        prop_assert_eq!(validate(&messages), Ok(()), "{:#?}", messages);
        for repair in &resumed.repairs {
            prop_assert!(repair.turn() < turns.len());
        }
        // What is said stays in the order it was said; only answers that are named are moved up.
        let moved: BTreeSet<usize> = resumed
            .repairs
            .iter()
            .filter(|repair| matches!(repair, Repair::AnswerMoved { .. }))
            .map(Repair::turn)
            .collect();
        let order: Vec<usize> = resumed
            .messages
            .iter()
            .flat_map(|message| message.turns.iter().copied())
            .filter(|turn| !moved.contains(turn))
            .collect();
        prop_assert!(order.is_sorted_by(|one, next| one < next), "{:?}", order);
    }

    #[test]
    fn nothing_is_dropped_that_could_stay(steps in any_steps(14)) {
        let mut fleet = Fleet::run(&steps);
        (1..DEVICES).for_each(|from| fleet.hear(0, from));
        let turns = fleet.transcript(&fleet.peers[0].state);
        let values: Vec<Value> =
            turns.iter().map(|turn| serde_json::from_str(fleet.payloads[&turn.dot].as_str()).unwrap()).collect();

        let resumed = resume(&turns);

        let messages: Vec<Said> = resumed.messages.iter().map(|message| said(&message.to_json())).collect();
        for role in ["user", "assistant"] {
            // Every text, in order.
            let recorded = values.iter().filter(|value| value["role"] == role);
            let texts: Vec<&str> = recorded.filter_map(|value| value["content"].as_str()).filter(|text| !text.is_empty()).collect();
            let kept: Vec<&str> = messages.iter().filter(|said| said.role == role).flat_map(|said| said.text.split("\n\n")).filter(|text| !text.is_empty()).collect();
            prop_assert_eq!(kept, texts);
        }
        let pairs = messages.iter().filter(|said| said.role == "tool").count();
        prop_assert_eq!(pairs, most_pairs(&values));
        // And every answer that is kept is one that was recorded, once.
        let kept: Vec<&str> = messages.iter().filter(|said| said.role == "tool").map(|said| said.text.as_str()).collect();
        prop_assert_eq!(kept.iter().collect::<BTreeSet<_>>().len(), kept.len());
    }

    #[test]
    fn an_answer_sorts_after_what_its_device_had_seen(steps in any_steps(40)) {
        let fleet = Fleet::run(&steps);
        for peer in &fleet.peers {
            let own = peer.author.log();
            let turns = fleet.transcript(&peer.state);
            // A device that says something now says it last, whatever the clocks are.
            let mut fleet = Fleet::run(&steps);
            let device = fleet.peers.iter().position(|other| other.author.log() == own).unwrap();
            fleet.say(device, r#"{"role":"user","content":"last"}"#);
            let after = fleet.transcript(&fleet.peers[device].state);
            prop_assert_eq!(after.len(), turns.len() + 1);
            prop_assert_eq!(after.last().unwrap().dot, Dot { log: own, seq: Seq::new(fleet.peers[device].held[&own].len() as u64) });
        }
    }

    #[test]
    fn any_text_is_a_turn_or_named_as_none(text in "\\PC{0,80}", role in prop::sample::select(vec!["user", "assistant", "tool", "x"])) {
        let member = serde_json::to_string(&text).unwrap();
        for json in [
            member.clone(),
            format!(r#"{{"role":"{role}","content":{member}}}"#),
            format!(r#"{{"role":"{role}","content":[{member}],"tool_use_id":{member}}}"#),
            format!(r#"{{"role":{member},"tool_calls":[{{"id":{member}}}]}}"#),
            format!(r#"{{"role":"{role}","content":[],"tool_calls":{member},"timestamp":{member}}}"#),
            text,
        ] {
            let Ok(payload) = Payload::parse(&json) else { continue };
            if let Ok(turn) = Turn::parse(&payload) {
                prop_assert_eq!(turn.answers.is_some(), turn.role.name() == "tool");
                let _ = turn.check_new();
            }
        }
    }
}
