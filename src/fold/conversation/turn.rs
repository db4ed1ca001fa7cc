//! One turn: what its payload says.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde_json::value::RawValue;
use thiserror::Error;

use crate::model::Payload;
use crate::model::limits::{TOOL_ID_BYTES_MAX, TURN_CALLS_MAX};

/// Who speaks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// A person, or whatever speaks for one.
    User,
    /// The model.
    Assistant,
    /// A tool, answering a call of the model.
    Tool,
}

impl Role {
    /// The role as payloads and answers write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::User, Self::Assistant, Self::Tool].into_iter().find(|role| role.name() == name)
    }
}

impl FromStr for Role {
    type Err = TurnProblem;

    fn from_str(name: &str) -> Result<Self, TurnProblem> {
        let found = || format!("{:?}", name.chars().take(ROLE_CHARACTERS_SHOWN).collect::<String>());
        Self::from_name(name).ok_or_else(|| TurnProblem::Role { found: found() })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Parts, each a JSON object as it was written: what is in one is between application and model.
    Parts(Vec<String>),
}

impl Content {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Parts(parts) => parts.is_empty(),
        }
    }

    /// The content as JSON: a string or an array.
    pub fn to_json(&self) -> String {
        match self {
            Self::Text(text) => json_string(text),
            Self::Parts(parts) => format!("[{}]", parts.join(",")),
        }
    }
}

/// A tool call of the model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// What its answer names; `None` where the call has no `id` that is a text, so that nothing can
    /// answer it.
    pub id: Option<String>,
    /// The call as it was written, its id included: a JSON object.
    pub json: String,
}

/// One turn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Turn {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: Content,
    /// The tools an assistant calls.
    pub calls: Vec<Call>,
    /// The call a tool answers; present in every turn of a tool, and in no other.
    pub answers: Option<String>,
    /// When it was said, in Unix milliseconds, as whoever recorded it says. It orders nothing.
    pub timestamp: Option<u64>,
}

/// Why a payload is no turn, or none that would be recorded.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum TurnProblem {
    /// The payload is no JSON object.
    #[error("a turn is a JSON object")]
    NotAnObject,
    /// The role is missing, no text, or none of the three.
    #[error("the role of a turn is user, assistant or tool, not {found}")]
    Role {
        /// What stands there.
        found: String,
    },
    /// The content is neither a text nor an array.
    #[error("the content of a turn is a text or an array of parts")]
    ContentKind,
    /// A part of the content is no object.
    #[error("part {index} of the content is no object")]
    PartKind {
        /// Its position, from 0.
        index: usize,
    },
    /// Only an assistant calls tools.
    #[error("a turn of {role} takes no \"tool_calls\"")]
    CallsMisplaced {
        /// Who speaks.
        role: Role,
    },
    /// The calls are no array.
    #[error("the \"tool_calls\" of a turn are an array of calls")]
    CallsKind,
    /// A call is no object.
    #[error("call {index} is no object")]
    CallKind {
        /// Its position, from 0.
        index: usize,
    },
    /// More calls than [`TURN_CALLS_MAX`].
    #[error("{found} tool calls in one turn exceed the limit of {limit}")]
    TooManyCalls {
        /// How many.
        found: usize,
        /// [`TURN_CALLS_MAX`].
        limit: usize,
    },
    /// An answer must say what it answers.
    #[error("a turn of tool names the call it answers as \"tool_use_id\"")]
    AnswerIdMissing,
    /// Only a tool answers calls.
    #[error("a turn of {role} takes no \"tool_use_id\"")]
    AnswerIdMisplaced {
        /// Who speaks.
        role: Role,
    },
    /// Nothing could ever answer this call. A turn that says so already is read all the same.
    #[error("call {index} has no \"id\" that its answer could name")]
    CallIdMissing {
        /// Its position, from 0.
        index: usize,
    },
    /// Two calls of one turn have one id. A turn that says so already is read all the same.
    #[error("two calls of one turn have the id {id:?}")]
    CallIdTwice {
        /// The id.
        id: String,
    },
    /// A new id outside 1 to [`TOOL_ID_BYTES_MAX`] bytes.
    #[error("the id of a tool call has 1 to {limit} bytes, this one has {found}")]
    ToolIdLength {
        /// Bytes found.
        found: usize,
        /// [`TOOL_ID_BYTES_MAX`].
        limit: usize,
    },
    /// Nothing is said and nothing is called. A turn that says so already is read all the same.
    #[error("a turn of {role} without content says nothing")]
    Empty {
        /// Who speaks.
        role: Role,
    },
}

impl Turn {
    /// Reads a turn from a payload of the surface `conversation`.
    ///
    /// Members this version does not know are left alone; `content`, `tool_calls`, `tool_use_id` and
    /// `timestamp` may be missing or null. The conversation is the stream that the payload stands in.
    ///
    /// # Errors
    /// [`TurnProblem`]: every variant that does not speak of a new turn.
    pub fn parse(payload: &Payload) -> Result<Self, TurnProblem> {
        let members: Members<'_> =
            serde_json::from_str(payload.as_str()).map_err(|_| TurnProblem::NotAnObject)?;
        let role = role(members.get("role"))?;
        let calls = member(&members, "tool_calls").map_or(Ok(Vec::new()), calls)?;
        if !calls.is_empty() && role != Role::Assistant {
            return Err(TurnProblem::CallsMisplaced { role });
        }
        let answers = member(&members, "tool_use_id").map(text);
        let answers = match (role, answers) {
            (Role::Tool, Some(Some(id))) if !id.is_empty() => Some(id),
            (Role::Tool, _) => return Err(TurnProblem::AnswerIdMissing),
            (Role::User | Role::Assistant, Some(_)) => return Err(TurnProblem::AnswerIdMisplaced { role }),
            (Role::User | Role::Assistant, None) => None,
        };
        let content = member(&members, "content").map_or(Ok(Content::Text(String::new())), content)?;
        let timestamp = member(&members, "timestamp").and_then(|raw| raw.get().parse().ok());
        Ok(Self { role, content, calls, answers, timestamp })
    }

    /// Whether a device should record this: what is read with patience is not written.
    ///
    /// # Errors
    /// [`TurnProblem::CallIdMissing`], [`TurnProblem::CallIdTwice`], [`TurnProblem::ToolIdLength`],
    /// [`TurnProblem::Empty`].
    pub fn check_new(&self) -> Result<(), TurnProblem> {
        let mut ids = Vec::with_capacity(self.calls.len());
        for (index, call) in self.calls.iter().enumerate() {
            let id = call.id.as_deref().ok_or(TurnProblem::CallIdMissing { index })?;
            if ids.contains(&id) {
                return Err(TurnProblem::CallIdTwice { id: id.to_owned() });
            }
            ids.push(id);
        }
        for id in ids.into_iter().chain(self.answers.as_deref()) {
            if id.len() > TOOL_ID_BYTES_MAX {
                return Err(TurnProblem::ToolIdLength { found: id.len(), limit: TOOL_ID_BYTES_MAX });
            }
        }
        if self.content.is_empty() && self.calls.is_empty() && self.role != Role::Tool {
            return Err(TurnProblem::Empty { role: self.role });
        }
        Ok(())
    }
}

type Members<'a> = BTreeMap<String, &'a RawValue>;

/// A member that is there and not null.
fn member<'a>(members: &Members<'a>, name: &str) -> Option<&'a RawValue> {
    members.get(name).copied().filter(|raw| raw.get() != "null")
}

fn role(raw: Option<&&RawValue>) -> Result<Role, TurnProblem> {
    let Some(raw) = raw else { return Err(TurnProblem::Role { found: "nothing".to_owned() }) };
    let found = || raw.get().chars().take(ROLE_CHARACTERS_SHOWN).collect();
    text(raw).and_then(|name| Role::from_name(&name)).ok_or_else(|| TurnProblem::Role { found: found() })
}

fn content(raw: &RawValue) -> Result<Content, TurnProblem> {
    if let Some(text) = text(raw) {
        return Ok(Content::Text(text));
    }
    let parts: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(|_| TurnProblem::ContentKind)?;
    let objects = parts.iter().enumerate().map(|(index, part)| match is_object(part) {
        true => Ok(part.get().to_owned()),
        false => Err(TurnProblem::PartKind { index }),
    });
    objects.collect::<Result<_, _>>().map(Content::Parts)
}

fn calls(raw: &RawValue) -> Result<Vec<Call>, TurnProblem> {
    let calls: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(|_| TurnProblem::CallsKind)?;
    if calls.len() > TURN_CALLS_MAX {
        return Err(TurnProblem::TooManyCalls { found: calls.len(), limit: TURN_CALLS_MAX });
    }
    let call = |(index, call): (usize, &&RawValue)| {
        let members: Members<'_> =
            serde_json::from_str(call.get()).map_err(|_| TurnProblem::CallKind { index })?;
        let id = members.get("id").and_then(|id| text(id)).filter(|id| !id.is_empty());
        Ok(Call { id, json: call.get().to_owned() })
    };
    calls.iter().enumerate().map(call).collect()
}

fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

fn is_object(raw: &RawValue) -> bool {
    raw.get().starts_with('{')
}

/// A text as JSON.
pub(super) fn json_string(text: &str) -> String {
    serde_json::to_string(text).expect("a text is JSON")
}

/// Enough of a wrong role to recognise it.
const ROLE_CHARACTERS_SHOWN: usize = 40;
