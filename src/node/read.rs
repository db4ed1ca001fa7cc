//! Reading rows and events: a state says where, the blocks hold what.

use std::sync::Arc;

use super::error::NodeError;
use super::index::Index;
use super::ledger::{RecordedIntent, Run};
use super::types::{Row, RowValue, StreamEvent};
use crate::fold::{Event, Head, IntentView, RowFilter, RowView, RunView, State};
use crate::model::{AgentId, CertHash, Dot, Hlc, Payload, RunId, SpaceId, Surface};
use crate::store::{Blocks, OpAt};
use crate::wire::OpView;

/// One state of a space with what it points into.
pub(super) struct Reader {
    index: Arc<Index>,
    blocks: Arc<Blocks>,
}

impl Reader {
    /// Reads the state that follows the logs.
    pub fn of(index: Arc<Index>, blocks: Arc<Blocks>) -> Self {
        Self { index, blocks }
    }

    /// The space.
    pub fn space(&self) -> SpaceId {
        self.index.space
    }

    /// Looks at the state; blocks are opened after that, so nobody waits for a disk with it.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> Result<T, NodeError> {
        Ok(look(&*self.index.read()?))
    }

    /// One row; `None` where nothing is shown.
    pub fn row(&self, surface: &Surface, key: &str) -> Result<Option<Row>, NodeError> {
        match self.look(|state| state.row(surface, key))? {
            Some(view) if view.is_live() => self.row_of(surface, key, &view).map(Some),
            _ => Ok(None),
        }
    }

    /// Live rows in key order.
    pub fn rows(&self, surface: &Surface, after: Option<&str>, limit: usize) -> Result<Vec<Row>, NodeError> {
        let listed = self.look(|state| state.rows(surface, after, limit, RowFilter::Live))?;
        listed.iter().map(|listed| self.row_of(surface, &listed.key, &listed.row)).collect()
    }

    /// Rows that hold more than one value.
    pub fn conflicts(&self, after: Option<(&Surface, &str)>, limit: usize) -> Result<Vec<Row>, NodeError> {
        let chain = self.index.chain();
        let listed = self.look(|state| state.conflicts(after, limit, &*chain))?;
        listed.iter().map(|conflict| self.row_of(&conflict.surface, &conflict.key, &conflict.row)).collect()
    }

    /// The streams of an event surface, in order.
    pub fn streams(&self, surface: &Surface) -> Result<Vec<String>, NodeError> {
        let streams = self.look(|state| state.streams(surface, None, usize::MAX))?;
        Ok(streams.into_iter().map(|(stream, _)| stream).collect())
    }

    /// Events of a stream in total order.
    pub fn events(
        &self,
        surface: &Surface,
        stream: &str,
        after: Option<(Hlc, Dot)>,
        limit: usize,
    ) -> Result<Vec<StreamEvent>, NodeError> {
        let listed = self.look(|state| state.events(surface, stream, after, limit))?;
        let mut events = Vec::with_capacity(listed.len());
        for event in listed {
            events.extend(self.event(stream, &event)?);
        }
        Ok(events)
    }

    /// An event with its payload; `None` where its author wrote none that is one.
    pub fn event(&self, stream: &str, event: &Event) -> Result<Option<StreamEvent>, NodeError> {
        let Some(payload) = self.payload(&event.place)? else { return Ok(None) };
        Ok(Some(StreamEvent { stream: stream.to_owned(), dot: event.dot, hlc: event.hlc, payload }))
    }

    /// What became of a run.
    pub fn run(&self, agent: &AgentId, run: &RunId) -> Result<Option<Run>, NodeError> {
        let chain = self.index.chain();
        let view = self.look(|state| state.run_state(agent.as_str(), run.as_str(), &*chain))?;
        view.map(|view| self.run_of(view)).transpose()
    }

    /// Runs of an agent in the order of their names.
    pub fn runs(&self, agent: &AgentId, after: Option<&str>, limit: usize) -> Result<Vec<Run>, NodeError> {
        let chain = self.index.chain();
        let views = self.look(|state| state.ledger(agent.as_str(), &*chain, after, limit))?;
        views.into_iter().map(|view| self.run_of(view)).collect()
    }

    /// The surfaces that hold something, with the number of their live rows or events.
    pub fn surfaces(&self) -> Result<Vec<(Surface, u64)>, NodeError> {
        let surfaces = self.look(State::surfaces)?;
        let counts = surfaces.into_iter().map(|counts| (counts.surface, counts.live_rows + counts.events));
        Ok(counts.filter(|(_, count)| *count > 0).collect())
    }

    fn run_of(&self, view: RunView) -> Result<Run, NodeError> {
        let intent = |intent: &IntentView| {
            Ok(RecordedIntent {
                dot: intent.head.dot,
                hlc: intent.head.hlc,
                epoch: intent.epoch,
                cert: intent.cert,
                status: intent.status,
                standing: intent.standing,
                payload: self.payload(&intent.head.place)?,
            })
        };
        let intents = view.intents().iter().map(intent).collect::<Result<_, NodeError>>()?;
        Ok(Run { agent: view.agent, run: view.run, status: view.status, intents })
    }

    fn row_of(&self, surface: &Surface, key: &str, view: &RowView) -> Result<Row, NodeError> {
        let shown = self.value_of(view.shown())?;
        let others = if view.is_conflict() {
            view.others().iter().map(|head| self.value_of(head)).collect::<Result<_, _>>()?
        } else {
            Vec::new()
        };
        Ok(Row { surface: surface.clone(), key: key.to_owned(), shown, others })
    }

    fn value_of(&self, head: &Head) -> Result<RowValue, NodeError> {
        let payload = if head.is_tombstone { None } else { self.said(&head.place)? };
        Ok(RowValue { dot: head.dot, hlc: head.hlc, payload })
    }

    /// The payload of the op that stands there; `None` where its author wrote none that is one.
    pub(super) fn payload(&self, dot: &Dot) -> Result<Option<Payload>, NodeError> {
        let op = self.op(dot)?;
        let view = OpView::decode(op.kind, op.flags, &op.body).ok();
        Ok(view.and_then(|view| view.payload().and_then(|text| Payload::parse(text).ok())))
    }

    /// What the op that stands there says: its payload; of an intent, what it says of its run.
    fn said(&self, dot: &Dot) -> Result<Option<Payload>, NodeError> {
        let op = self.op(dot)?;
        let view = OpView::decode(op.kind, op.flags, &op.body).ok();
        Ok(view.and_then(|view| match view {
            OpView::Intent { agent, run, epoch, cert, status, payload } => {
                let said = IntentValue {
                    agent_id: agent,
                    cert: (cert != CertHash::NONE).then(|| cert.to_string()),
                    epoch: epoch.get(),
                    payload: serde_json::from_str(payload).ok(),
                    run_id: run,
                    status: status.to_string(),
                };
                // What was noted may fill an op alone; then it is left out.
                let whole = Payload::from_value(&said);
                whole.or_else(|_| Payload::from_value(&IntentValue { payload: None, ..said })).ok()
            }
            view => view.payload().and_then(|text| Payload::parse(text).ok()),
        }))
    }

    fn op(&self, dot: &Dot) -> Result<OpAt, NodeError> {
        self.blocks.op(&self.space(), dot)?.ok_or(NodeError::OpMissing { dot: *dot })
    }
}

/// An intent as the value of a row.
#[derive(serde::Serialize)]
struct IntentValue<'a> {
    agent_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cert: Option<String>,
    epoch: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a serde_json::value::RawValue>,
    run_id: &'a str,
    status: String,
}
