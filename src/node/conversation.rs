//! Conversations of a space: recording turns, reading them back, going on from them.

use super::error::NodeError;
use super::read::Reader;
use super::space::Space;
use super::types::{Appended, NewOp, StreamEvent};
use crate::clock;
use crate::fold::conversation::{Recorded, Resume, Role, Turn, TurnProblem, resume};
use crate::fold::{Event, State};
use crate::model::limits::{RESUME_BYTES_MAX, RESUME_TURNS_MAX};
use crate::model::{Dot, Hlc, Payload, Surface};

/// A turn to record.
///
/// ```
/// use kinfold::node::NewTurn;
/// use serde_json::json;
///
/// let asked = NewTurn::user("trip", "What is the weather in Oslo?")?;
/// let called = NewTurn::assistant("trip", "")?
///     .calling(&json!([{"id": "c1", "name": "weather", "arguments": {"city": "Oslo"}}]))?;
/// let answered = NewTurn::tool("trip", "c1", "4 °C, rain")?;
/// # Ok::<(), kinfold::model::PayloadError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewTurn {
    /// The conversation, 1 to 1,024 bytes.
    pub conversation: String,
    /// Who speaks.
    pub role: Role,
    /// A text, or an array of parts.
    pub content: Payload,
    /// The tools an assistant calls: an array of objects, each with a text `id`.
    pub tool_calls: Option<Payload>,
    /// The call a tool answers.
    pub tool_use_id: Option<String>,
    /// When it was said, in Unix milliseconds; now where absent.
    pub timestamp: Option<u64>,
}

impl NewTurn {
    /// What a person says: anything that serialises as a text or an array of objects.
    ///
    /// # Errors
    /// [`PayloadError`](crate::model::PayloadError) for content no payload can hold.
    pub fn user(
        conversation: &str,
        content: impl serde::Serialize,
    ) -> Result<Self, crate::model::PayloadError> {
        Self::of(Role::User, conversation, &content)
    }

    /// What a model says.
    ///
    /// # Errors
    /// As [`NewTurn::user`].
    pub fn assistant(
        conversation: &str,
        content: impl serde::Serialize,
    ) -> Result<Self, crate::model::PayloadError> {
        Self::of(Role::Assistant, conversation, &content)
    }

    /// What a tool answers to the call with this id.
    ///
    /// # Errors
    /// As [`NewTurn::user`].
    pub fn tool(
        conversation: &str,
        tool_use_id: &str,
        content: impl serde::Serialize,
    ) -> Result<Self, crate::model::PayloadError> {
        let turn = Self::of(Role::Tool, conversation, &content)?;
        Ok(Self { tool_use_id: Some(tool_use_id.to_owned()), ..turn })
    }

    /// The same with these calls: an array of objects, each with a text `id`.
    ///
    /// # Errors
    /// As [`NewTurn::user`].
    pub fn calling(self, tool_calls: &impl serde::Serialize) -> Result<Self, crate::model::PayloadError> {
        Ok(Self { tool_calls: Some(Payload::from_value(tool_calls)?), ..self })
    }

    fn of(
        role: Role,
        conversation: &str,
        content: &impl serde::Serialize,
    ) -> Result<Self, crate::model::PayloadError> {
        Ok(Self {
            conversation: conversation.to_owned(),
            role,
            content: Payload::from_value(content)?,
            tool_calls: None,
            tool_use_id: None,
            timestamp: None,
        })
    }

    /// The payload that records it.
    fn payload(&self) -> Result<Payload, NodeError> {
        let text = |text: &str| serde_json::to_string(text).expect("a text is JSON");
        let timestamp = self.timestamp.unwrap_or_else(|| clock::wall().as_millis());
        let mut json = format!(
            r#"{{"conversation_id":{},"role":"{}","timestamp":{timestamp},"content":{}"#,
            text(&self.conversation),
            self.role,
            self.content
        );
        if let Some(calls) = &self.tool_calls {
            json.push_str(&format!(r#","tool_calls":{calls}"#));
        }
        if let Some(id) = &self.tool_use_id {
            json.push_str(&format!(r#","tool_use_id":{}"#, text(id)));
        }
        json.push('}');
        let payload = Payload::parse(&json)?;
        Turn::parse(&payload)?.check_new()?;
        Ok(payload)
    }
}

/// A turn of a transcript.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TranscriptTurn {
    /// The op that recorded it.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: Hlc,
    /// What was recorded.
    pub payload: Payload,
    /// What that says, or why it is no turn.
    pub turn: Result<Turn, TurnProblem>,
}

impl From<StreamEvent> for TranscriptTurn {
    fn from(event: StreamEvent) -> Self {
        let StreamEvent { dot, hlc, payload, .. } = event;
        Self { dot, hlc, turn: Turn::parse(&payload), payload }
    }
}

/// A conversation to go on from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resumed {
    /// Earlier turns that were not looked at; places in `resume` count from behind them.
    pub omitted_count: usize,
    /// The turns the sequence was made of.
    pub turns: Vec<Recorded>,
    /// The sequence, and what was changed for it.
    pub resume: Resume,
}

impl Space {
    /// Records a turn of a conversation; returns once it is durable. It sorts after every turn that
    /// this device has.
    ///
    /// # Errors
    /// [`NodeError::Turn`], [`NodeError::Payload`], and as [`Space::append`].
    pub async fn record_turn(&self, turn: NewTurn) -> Result<Appended, NodeError> {
        let payload = turn.payload()?;
        let op = NewOp::Event { surface: Surface::Conversation, stream: turn.conversation, payload };
        let placed = self.append(vec![op]).await?;
        Ok(*placed.first().expect("one op was given, one was placed"))
    }

    /// Turns of a conversation as they were recorded, in total order, beginning after a place, at
    /// most `limit`.
    ///
    /// # Errors
    /// As [`Space::get`].
    pub fn transcript(
        &self,
        conversation: &str,
        after: Option<(Hlc, Dot)>,
        limit: usize,
    ) -> Result<Vec<TranscriptTurn>, NodeError> {
        self.reader().transcript(conversation, after, limit)
    }

    /// The conversation as a sequence that chat-completion APIs accept, made of its last `turns`
    /// turns: at most [`RESUME_TURNS_MAX`] and, for the sake of memory, [`RESUME_BYTES_MAX`].
    ///
    /// # Errors
    /// As [`Space::get`].
    pub fn resume(&self, conversation: &str, turns: usize) -> Result<Resumed, NodeError> {
        self.reader().resume(conversation, turns)
    }

    /// Up to `limit` conversations whose names follow `after`, with the number of their turns.
    ///
    /// # Errors
    /// [`NodeError::Index`].
    pub fn conversations(&self, after: Option<&str>, limit: usize) -> Result<Vec<(String, u64)>, NodeError> {
        self.reader().look(|state| state.streams(&Surface::Conversation, after, limit))
    }
}

impl Reader {
    pub(super) fn transcript(
        &self,
        conversation: &str,
        after: Option<(Hlc, Dot)>,
        limit: usize,
    ) -> Result<Vec<TranscriptTurn>, NodeError> {
        let events = self.events(&Surface::Conversation, conversation, after, limit)?;
        Ok(events.into_iter().map(TranscriptTurn::from).collect())
    }

    pub(super) fn resume(&self, conversation: &str, turns: usize) -> Result<Resumed, NodeError> {
        self.steadily(|| self.resume_now(conversation, turns))
    }

    fn resume_now(&self, conversation: &str, turns: usize) -> Result<Resumed, NodeError> {
        let dropped = self.trimmed(&Surface::Conversation, conversation)?.map_or(0, |(count, _)| count);
        let last = |state: &State| {
            let count = state.event_count(&Surface::Conversation, conversation);
            let skipped = count.saturating_sub(turns.min(RESUME_TURNS_MAX) as u64);
            let skipped = usize::try_from(skipped).unwrap_or(usize::MAX).max(dropped);
            (skipped, state.events_from(&Surface::Conversation, conversation, skipped))
        };
        let (skipped, events) = self.look(last)?;
        let event_count = events.len();
        let mut turns = self.last_turns(conversation, &events)?;
        turns.reverse();
        let omitted_count = skipped + event_count - turns.len();
        let resume = resume(&turns);
        Ok(Resumed { omitted_count, turns, resume })
    }

    /// The turns from the last one back, until they are too many bytes.
    fn last_turns(&self, conversation: &str, events: &[Event]) -> Result<Vec<Recorded>, NodeError> {
        let mut turns = Vec::with_capacity(events.len());
        let mut bytes = 0;
        for event in events.iter().rev() {
            let Some(event) = self.event(conversation, event)? else { continue };
            bytes += event.payload.as_str().len();
            if bytes > RESUME_BYTES_MAX {
                break;
            }
            turns.push(Recorded { dot: event.dot, hlc: event.hlc, turn: Turn::parse(&event.payload) });
        }
        Ok(turns)
    }
}
