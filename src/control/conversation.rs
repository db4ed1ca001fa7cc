//! Conversations: parameters, answers and methods.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::convert::{EventCursor, hex, raw};
use super::dispatch::{blocking, page_limit, space};
use super::error::ControlError;
use super::forms::AppendedForm;
use super::params::ScopeParam;
use super::{PAGE_ITEMS_MAX, TRANSCRIPT_BYTES, TRANSCRIPT_TURNS_MAX};
use crate::fold::conversation::{Message, Repair, Role, TurnProblem};
use crate::model::Payload;
use crate::model::limits::RESUME_TURNS_MAX;
use crate::node::{NewTurn, Node, NodeError, Space, TranscriptTurn};

/// A turn to record.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecordTurnParams {
    /// Which space.
    #[serde(default)]
    pub scope: ScopeParam,
    /// The conversation, 1 to 1,024 bytes.
    pub conversation_id: String,
    /// `user`, `assistant` or `tool`.
    pub role: String,
    /// A text, or an array of objects.
    pub content: Box<RawValue>,
    /// The tools an assistant calls: objects with a text `id` each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Box<RawValue>>,
    /// The call a tool answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_use_id: Option<String>,
    /// When it was said, in Unix milliseconds; now where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
}

/// A page of a transcript.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TranscriptParams {
    /// Which space.
    #[serde(default)]
    pub scope: ScopeParam,
    /// The conversation.
    pub conversation_id: String,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// 1 to [`TRANSCRIPT_TURNS_MAX`], which is also what an absent one means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = TRANSCRIPT_TURNS_MAX))]
    pub limit: Option<usize>,
}

/// A conversation to go on from.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeParams {
    /// Which space.
    #[serde(default)]
    pub scope: ScopeParam,
    /// The conversation.
    pub conversation_id: String,
    /// Only its last turns: 1 to [`RESUME_TURNS_MAX`], which is also what an absent one means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = RESUME_TURNS_MAX))]
    pub last: Option<usize>,
}

/// A page of conversations.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConversationsParams {
    /// Which space.
    #[serde(default)]
    pub scope: ScopeParam,
    /// The name to start after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// 1 to [`PAGE_ITEMS_MAX`]; 100 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = PAGE_ITEMS_MAX))]
    pub limit: Option<usize>,
}

/// Turns as they were recorded.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TranscriptForm {
    /// The conversation.
    pub conversation_id: String,
    /// In the total order.
    pub turns: Vec<TurnForm>,
    /// Where to go on; null at the end.
    pub next: Option<String>,
}

/// One turn.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TurnForm {
    /// `user`, `assistant` or `tool`; null where the payload is no turn.
    pub role: Option<String>,
    /// A text or an array of parts.
    #[serde(default = "null")]
    pub content: Box<RawValue>,
    /// The calls of an assistant, as written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Box<RawValue>>,
    /// The call a tool answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_use_id: Option<String>,
    /// When it was said, as whoever recorded it says.
    pub timestamp: Option<u64>,
    /// Why the payload is no turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub malformed: Option<String>,
    /// What was recorded, where it is no turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Box<RawValue>>,
    /// Who recorded it.
    pub device_id: String,
    /// In which life of that device's log, hexadecimal.
    pub incarnation: String,
    /// At which position of that log.
    pub seq: u64,
    /// Its stamp.
    pub hlc: u64,
    /// The wall-clock part of the stamp.
    pub time_ms: u64,
}

/// A sequence to go on from.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ResumeForm {
    /// The conversation.
    pub conversation_id: String,
    /// `{role, content, tool_calls?, tool_use_id?}` each, as chat-completion APIs accept them.
    pub messages: Vec<Box<RawValue>>,
    /// What was changed to make them of the transcript.
    pub repairs: Vec<RepairForm>,
    /// Earlier turns that were not looked at.
    pub omitted: usize,
}

/// One change on the way from a transcript to a sequence.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RepairForm {
    /// What was done, stable for programs.
    pub kind: String,
    /// The turn, by its place in the whole transcript, from 0.
    pub turn: usize,
    /// The turn it went to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<usize>,
    /// The place of a call in its turn, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<usize>,
    /// The id of the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its id in the sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_id: Option<String>,
    /// What was done and why, for people.
    pub message: String,
}

/// Conversations by name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConversationsForm {
    /// In the order of their names.
    pub conversations: Vec<ConversationForm>,
    /// Where to go on; null at the end.
    pub next: Option<String>,
}

/// One conversation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConversationForm {
    /// Its name.
    pub conversation_id: String,
    /// How many turns it has.
    pub turns: u64,
}

pub(super) async fn record(node: &Node, params: RecordTurnParams) -> Result<AppendedForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let role: Role = params.role.parse().map_err(NodeError::from)?;
    let turn = NewTurn {
        conversation: params.conversation_id,
        role,
        content: Payload::parse(params.content.get())?,
        tool_calls: params.tool_calls.map(|calls| Payload::parse(calls.get())).transpose()?,
        tool_use_id: params.tool_use_id,
        timestamp: params.timestamp,
    };
    Ok(space.record_turn(turn).await?.into())
}

pub(super) async fn transcript(
    node: &Node,
    params: TranscriptParams,
) -> Result<TranscriptForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let limit = page_limit(params.limit.or(Some(TRANSCRIPT_TURNS_MAX)), TRANSCRIPT_TURNS_MAX)?;
    let after = params.after.as_deref().map(EventCursor::parse).transpose()?;
    let conversation = params.conversation_id;
    blocking(move || page(&space, conversation, after.map(|cursor| cursor.after), limit)).await
}

/// Turns until the page is full; a page is cut by its bytes as well.
fn page(
    space: &Space,
    conversation_id: String,
    mut after: Option<(crate::model::Hlc, crate::model::Dot)>,
    limit: usize,
) -> Result<TranscriptForm, NodeError> {
    let mut turns: Vec<TurnForm> = Vec::new();
    let mut bytes = 0;
    loop {
        let wanted = (limit - turns.len()).min(TURNS_READ_AT_ONCE);
        let read = space.transcript(&conversation_id, after, wanted)?;
        let is_last = read.len() < wanted;
        after = read.last().map(|turn| (turn.hlc, turn.dot)).or(after);
        bytes += read.iter().map(|turn| turn.payload.as_str().len()).sum::<usize>();
        turns.extend(read.into_iter().map(TurnForm::from));
        let is_full = turns.len() >= limit || bytes >= TRANSCRIPT_BYTES;
        if is_last || is_full {
            let cursor = after.filter(|_| !is_last);
            let next = cursor.map(|after| EventCursor { stream: conversation_id.clone(), after }.to_text());
            return Ok(TranscriptForm { conversation_id, turns, next });
        }
    }
}

pub(super) async fn resume(node: &Node, params: ResumeParams) -> Result<ResumeForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let last = page_limit(params.last.or(Some(RESUME_TURNS_MAX)), RESUME_TURNS_MAX)?;
    let conversation_id = params.conversation_id;
    let read = move || Ok((space.resume(&conversation_id, last)?, conversation_id));
    let (resumed, conversation_id) = blocking(read).await?;
    let omitted = resumed.omitted_count;
    Ok(ResumeForm {
        conversation_id,
        messages: resumed.resume.messages.iter().map(message_form).collect(),
        repairs: resumed.resume.repairs.iter().map(|repair| repair_form(repair, omitted)).collect(),
        omitted,
    })
}

pub(super) async fn conversations(
    node: &Node,
    params: ConversationsParams,
) -> Result<ConversationsForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let limit = page_limit(params.limit, PAGE_ITEMS_MAX)?;
    let held = blocking(move || space.conversations(params.after.as_deref(), limit)).await?;
    let next = held.last().filter(|_| held.len() == limit).map(|(name, _)| name.clone());
    let form = |(conversation_id, turns)| ConversationForm { conversation_id, turns };
    Ok(ConversationsForm { conversations: held.into_iter().map(form).collect(), next })
}

impl From<TranscriptTurn> for TurnForm {
    fn from(turn: TranscriptTurn) -> Self {
        let TranscriptTurn { dot, hlc, payload, turn } = turn;
        let form = Self {
            role: None,
            content: null(),
            tool_calls: Vec::new(),
            tool_use_id: None,
            timestamp: None,
            malformed: None,
            payload: None,
            device_id: dot.log.device.to_string(),
            incarnation: hex(dot.log.incarnation),
            seq: dot.seq.get(),
            hlc: hlc.get(),
            time_ms: hlc.millis(),
        };
        match turn {
            Ok(turn) => Self {
                role: Some(turn.role.name().to_owned()),
                content: json(turn.content.to_json()),
                tool_calls: turn.calls.into_iter().map(|call| json(call.json)).collect(),
                tool_use_id: turn.answers,
                timestamp: turn.timestamp,
                ..form
            },
            Err(problem) => {
                Self { malformed: Some(problem.to_string()), payload: Some(raw(Some(&payload))), ..form }
            }
        }
    }
}

fn message_form(message: &Message) -> Box<RawValue> {
    json(message.to_json())
}

fn repair_form(repair: &Repair, omitted: usize) -> RepairForm {
    let form = |kind: &str, message: String| RepairForm {
        kind: kind.to_owned(),
        turn: repair.turn() + omitted,
        to: None,
        call: None,
        id: None,
        new_id: None,
        message,
    };
    let (id, to) = (|id: &String| Some(id.clone()), |to: &usize| Some(to + omitted));
    match repair {
        Repair::Malformed { problem, .. } => form("Malformed", format!("left out: {problem}")),
        Repair::Empty { .. } => form("Empty", "left out: it says nothing".to_owned()),
        Repair::Joined { to: first, .. } => RepairForm {
            to: to(first),
            ..form("Joined", "joined with the turn of the same role before it".to_owned())
        },
        Repair::CallUnanswered { call, id, .. } => RepairForm {
            call: Some(*call),
            id: id.clone(),
            ..form("CallUnanswered", "a tool call was left out: nothing answers it".to_owned())
        },
        Repair::CallRenamed { call, from, to, .. } => RepairForm {
            call: Some(*call),
            id: id(from),
            new_id: id(to),
            ..form("CallRenamed", format!("call {from:?} is {to:?} here: an earlier one has its id"))
        },
        Repair::AnswerUnknown { id: of, .. } => {
            RepairForm { id: id(of), ..form("AnswerUnknown", format!("left out: no call has the id {of:?}")) }
        }
        Repair::AnswerEarly { id: of, .. } => RepairForm {
            id: id(of),
            ..form("AnswerEarly", format!("left out: call {of:?} comes later, so this has not seen it"))
        },
        Repair::AnswerAgain { id: of, .. } => RepairForm {
            id: id(of),
            ..form("AnswerAgain", format!("left out: call {of:?} has an answer already"))
        },
        Repair::AnswerMoved { to: call, .. } => RepairForm {
            to: to(call),
            ..form("AnswerMoved", "moved up, directly after the call it answers".to_owned())
        },
    }
}

/// The name of a problem, stable for programs.
pub(super) const fn turn_kind(problem: &TurnProblem) -> &'static str {
    match problem {
        TurnProblem::NotAnObject => "NotAnObject",
        TurnProblem::Role { .. } => "Role",
        TurnProblem::ContentKind => "ContentKind",
        TurnProblem::PartKind { .. } => "PartKind",
        TurnProblem::CallsMisplaced { .. } => "CallsMisplaced",
        TurnProblem::CallsKind => "CallsKind",
        TurnProblem::CallKind { .. } => "CallKind",
        TurnProblem::TooManyCalls { .. } => "TooManyCalls",
        TurnProblem::AnswerIdMissing => "AnswerIdMissing",
        TurnProblem::AnswerIdMisplaced { .. } => "AnswerIdMisplaced",
        TurnProblem::CallIdMissing { .. } => "CallIdMissing",
        TurnProblem::CallIdTwice { .. } => "CallIdTwice",
        TurnProblem::ToolIdLength { .. } => "ToolIdLength",
        TurnProblem::Empty { .. } => "Empty",
    }
}

fn json(text: String) -> Box<RawValue> {
    RawValue::from_string(text).expect("it was cut out of, or made of, a payload")
}

fn null() -> Box<RawValue> {
    json("null".to_owned())
}

/// Turns read from the store in one go: at most 16 MiB before the page's bytes are counted.
const TURNS_READ_AT_ONCE: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_repair_names_itself_and_counts_from_the_first_turn() {
        let repair = Repair::CallRenamed { turn: 2, call: 1, from: "a".into(), to: "a-2".into() };

        let form = serde_json::to_value(repair_form(&repair, 10)).unwrap();

        assert_eq!(
            form,
            serde_json::json!({
                "kind": "CallRenamed", "turn": 12, "call": 1, "id": "a", "new_id": "a-2",
                "message": "call \"a\" is \"a-2\" here: an earlier one has its id",
            })
        );
        let moved = repair_form(&Repair::AnswerMoved { turn: 5, to: 3 }, 1);
        assert_eq!((moved.turn, moved.to), (6, Some(4)));
    }
}
