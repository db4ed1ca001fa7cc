//! From a transcript to a sequence that chat-completion APIs accept.

use std::collections::BTreeMap;

use super::join::{self, Ids};
use super::turn::{Call, Content, Role, Turn, TurnProblem, json_string};
use crate::model::{Dot, Hlc};

/// A turn of a transcript: the op that recorded it and what it says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// The op.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: Hlc,
    /// The turn, or why it is none.
    pub turn: Result<Turn, TurnProblem>,
}

/// A message of the sequence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: Content,
    /// The calls of an assistant; each is answered by one of the messages that follow directly.
    pub calls: Vec<Call>,
    /// The call that a tool answers.
    pub answers: Option<String>,
    /// The turns it was made of, by their places in the transcript, from 0.
    pub turns: Vec<usize>,
}

impl Message {
    /// The message as JSON: `role`, `content`, and `tool_calls` or `tool_use_id` where there are.
    pub fn to_json(&self) -> String {
        let mut json = format!(r#"{{"role":"{}","content":{}"#, self.role, self.content.to_json());
        if !self.calls.is_empty() {
            let calls: Vec<&str> = self.calls.iter().map(|call| call.json.as_str()).collect();
            json.push_str(&format!(r#","tool_calls":[{}]"#, calls.join(",")));
        }
        if let Some(id) = &self.answers {
            json.push_str(&format!(r#","tool_use_id":{}"#, json_string(id)));
        }
        json.push('}');
        json
    }
}

/// What was changed to make a sequence of a transcript. Turns are named by their places in it, from 0.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Repair {
    /// Left out: it is no turn.
    Malformed {
        /// Which.
        turn: usize,
        /// What is wrong with it.
        problem: TurnProblem,
    },
    /// Left out: nothing is said, and nothing called that was answered.
    Empty {
        /// Which.
        turn: usize,
    },
    /// Made one message with an earlier turn of the same role.
    Joined {
        /// Which.
        turn: usize,
        /// The first turn of that message.
        to: usize,
    },
    /// A call was left out: nothing answers it.
    CallUnanswered {
        /// The turn.
        turn: usize,
        /// The place of the call in it, from 0.
        call: usize,
        /// Its id, if it has one.
        id: Option<String>,
    },
    /// A call got another id, in its answer too: an earlier call of the sequence has that id.
    CallRenamed {
        /// The turn.
        turn: usize,
        /// The place of the call in it, from 0.
        call: usize,
        /// The id as recorded.
        from: String,
        /// The id in the sequence.
        to: String,
    },
    /// An answer was left out: no call has this id.
    AnswerUnknown {
        /// Which.
        turn: usize,
        /// The id.
        id: String,
    },
    /// An answer was left out: calls with this id come later only, so it has not seen them.
    AnswerEarly {
        /// Which.
        turn: usize,
        /// The id.
        id: String,
    },
    /// An answer was left out: every call with this id before it has one.
    AnswerAgain {
        /// Which.
        turn: usize,
        /// The id.
        id: String,
    },
    /// An answer was moved up, directly after its call.
    AnswerMoved {
        /// Which.
        turn: usize,
        /// The turn with the call.
        to: usize,
    },
}

impl Repair {
    /// The turn it is about.
    pub const fn turn(&self) -> usize {
        match self {
            Self::Malformed { turn, .. }
            | Self::Empty { turn }
            | Self::Joined { turn, .. }
            | Self::CallUnanswered { turn, .. }
            | Self::CallRenamed { turn, .. }
            | Self::AnswerUnknown { turn, .. }
            | Self::AnswerEarly { turn, .. }
            | Self::AnswerAgain { turn, .. }
            | Self::AnswerMoved { turn, .. } => *turn,
        }
    }
}

/// A sequence to go on from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Resume {
    /// The messages, in order.
    pub messages: Vec<Message>,
    /// What was changed, in the order of the turns.
    pub repairs: Vec<Repair>,
}

/// Makes a sequence of a transcript, given in the total order.
///
/// No two messages of one role follow each other, except answers of tools; every answer stands
/// directly after the message with its call; every call is answered exactly once; no id is used
/// twice. Kept is every text, and as many calls with an answer as can be: an answer belongs to one
/// call with its id that sorts before it, the latest one of its own device if there are several.
pub fn resume(turns: &[Recorded]) -> Resume {
    let mut repairs = Vec::new();
    let answered = match_answers(turns, &mut repairs);
    let groups = group(turns, &answered, &mut repairs);
    let messages = emit(turns, &answered, &groups, &mut repairs);
    repairs.sort_by_key(Repair::turn);
    Resume { messages, repairs }
}

/// The place of a call: its turn, and its place there.
type CallAt = (usize, usize);

/// Which turn answers which call.
#[derive(Default)]
struct Answered {
    by_call: BTreeMap<CallAt, usize>,
    by_answer: BTreeMap<usize, CallAt>,
}

impl Answered {
    fn has_any(&self, turn: usize) -> bool {
        self.by_call.range((turn, 0)..=(turn, usize::MAX)).next().is_some()
    }
}

fn match_answers(turns: &[Recorded], repairs: &mut Vec<Repair>) -> Answered {
    let mut answered = Answered::default();
    let mut open: BTreeMap<&str, Vec<CallAt>> = BTreeMap::new();
    let mut early = Vec::new();
    for (at, recorded) in turns.iter().enumerate() {
        let Ok(turn) = &recorded.turn else { continue };
        for (place, call) in turn.calls.iter().enumerate() {
            if let Some(id) = call.id.as_deref() {
                open.entry(id).or_default().push((at, place));
            }
        }
        let Some(id) = &turn.answers else { continue };
        let Some(calls) = open.get_mut(id.as_str()) else {
            early.push((at, id));
            continue;
        };
        // Two devices may call under one id at once; each answers its own.
        let is_own = |call: &CallAt| turns[call.0].dot.log.device == recorded.dot.log.device;
        match calls.iter().rposition(is_own).or(calls.len().checked_sub(1)) {
            Some(place) => {
                let call = calls.remove(place);
                answered.by_call.insert(call, at);
                answered.by_answer.insert(at, call);
            }
            None => repairs.push(Repair::AnswerAgain { turn: at, id: id.clone() }),
        }
    }
    for (turn, id) in early {
        let id = id.clone();
        let is_called_later = open.contains_key(id.as_str());
        repairs.push(match is_called_later {
            true => Repair::AnswerEarly { turn, id },
            false => Repair::AnswerUnknown { turn, id },
        });
    }
    answered
}

/// Turns that become one message; a closed group has an answer between itself and what follows.
struct Group {
    role: Role,
    turns: Vec<usize>,
    is_closed: bool,
}

fn group(turns: &[Recorded], answered: &Answered, repairs: &mut Vec<Repair>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (at, recorded) in turns.iter().enumerate() {
        let turn = match &recorded.turn {
            Ok(turn) => turn,
            Err(problem) => {
                repairs.push(Repair::Malformed { turn: at, problem: problem.clone() });
                continue;
            }
        };
        let last = groups.last_mut();
        match turn.role {
            Role::Tool => match (answered.by_answer.get(&at), last) {
                (Some(call), Some(last)) if last.turns.binary_search(&call.0).is_ok() => {
                    last.is_closed = true
                }
                (Some(call), _) => repairs.push(Repair::AnswerMoved { turn: at, to: call.0 }),
                (None, _) => {}
            },
            Role::User | Role::Assistant if turn.content.is_empty() && !answered.has_any(at) => {
                repairs.push(Repair::Empty { turn: at });
            }
            Role::User | Role::Assistant => match last {
                Some(last) if last.role == turn.role && !last.is_closed => {
                    repairs.push(Repair::Joined { turn: at, to: last.turns[0] });
                    last.turns.push(at);
                }
                Some(_) | None => groups.push(Group { role: turn.role, turns: vec![at], is_closed: false }),
            },
        }
    }
    groups
}

fn emit(
    turns: &[Recorded],
    answered: &Answered,
    groups: &[Group],
    repairs: &mut Vec<Repair>,
) -> Vec<Message> {
    let said = |at: usize| turns[at].turn.as_ref().expect("only turns are grouped and matched");
    let written = turns.iter().filter_map(|recorded| recorded.turn.as_ref().ok());
    let written = written.flat_map(|turn| turn.calls.iter().filter_map(|call| call.id.as_deref()));
    let mut ids = Ids::new(written);
    for (at, recorded) in turns.iter().enumerate() {
        let calls = recorded.turn.iter().flat_map(|turn| turn.calls.iter().enumerate());
        let unanswered = calls.filter(|(place, _)| !answered.by_call.contains_key(&(at, *place)));
        repairs.extend(unanswered.map(|(call, Call { id, .. })| Repair::CallUnanswered {
            turn: at,
            call,
            id: id.clone(),
        }));
    }
    let mut messages = Vec::with_capacity(turns.len());
    for Group { role, turns: members, .. } in groups {
        let content = join::contents(members.iter().map(|at| &said(*at).content));
        let mut answers = BTreeMap::new();
        let mut calls = Vec::new();
        for at in members {
            for ((_, place), answer) in answered.by_call.range((*at, 0)..=(*at, usize::MAX)) {
                let call = &said(*at).calls[*place];
                let from = call.id.as_deref().expect("only a call with an id is matched");
                let to = ids.give(from);
                answers.insert(*answer, to.clone());
                if to == from {
                    calls.push(call.clone());
                } else {
                    calls.push(join::renamed(call, &to));
                    let from = from.to_owned();
                    repairs.push(Repair::CallRenamed { turn: *at, call: *place, from, to });
                }
            }
        }
        messages.push(Message { role: *role, content, calls, answers: None, turns: members.clone() });
        messages.extend(answers.into_iter().map(|(at, id)| Message {
            role: Role::Tool,
            content: said(at).content.clone(),
            calls: Vec::new(),
            answers: Some(id),
            turns: vec![at],
        }));
    }
    messages
}
