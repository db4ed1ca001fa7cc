//! Reading rows and events: a state says where, the blocks hold what.

use std::sync::Arc;

use super::error::NodeError;
use super::index::Index;
use super::ledger::{Chain, RecordedIntent, Run};
use super::types::{Row, RowValue, StreamEvent};
use crate::fold::{Conflict, Event, Head, IntentView, ListedRow, RowFilter, RowView, RunView, State};
use crate::model::{AgentId, CertHash, Dot, Hlc, OpId, Payload, RunId, SpaceId, Surface, Tier};
use crate::store::{Blocks, OpAt};
use crate::wire::OpView;

/// One state of a space with what it points into.
pub(super) struct Reader {
    source: Source,
    blocks: Arc<Blocks>,
}

enum Source {
    /// The state that follows the logs.
    Present(Arc<Index>),
    /// One that does not change any more.
    Past { state: Box<State>, chain: Arc<Chain> },
}

impl Reader {
    /// Reads the state that follows the logs.
    pub fn of(index: Arc<Index>, blocks: Arc<Blocks>) -> Self {
        Self { source: Source::Present(index), blocks }
    }

    /// Reads a state that does not change any more.
    pub fn of_past(state: State, chain: Arc<Chain>, blocks: Arc<Blocks>) -> Self {
        Self { source: Source::Past { state: Box::new(state), chain }, blocks }
    }

    /// The certificates of hosts that count, also for what is past.
    pub(super) fn chain(&self) -> Arc<Chain> {
        match &self.source {
            Source::Present(index) => index.chain(),
            Source::Past { chain, .. } => Arc::clone(chain),
        }
    }

    /// The index over the present; a state of the past has none.
    pub(super) fn index(&self) -> Option<&Index> {
        match &self.source {
            Source::Present(index) => Some(index),
            Source::Past { .. } => None,
        }
    }

    /// The space.
    pub fn space(&self) -> SpaceId {
        match &self.source {
            Source::Present(index) => index.space,
            Source::Past { state, .. } => *state.space(),
        }
    }

    /// Looks at the state; blocks are opened after that, so nobody waits for a disk with it.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> Result<T, NodeError> {
        match &self.source {
            Source::Present(index) => Ok(look(&*index.read()?)),
            Source::Past { state, .. } => Ok(look(state)),
        }
    }

    /// Looks at the state and opens blocks, both at one history: see [`Index::steadily`].
    pub(super) fn steadily<T>(&self, read: impl Fn() -> Result<T, NodeError>) -> Result<T, NodeError> {
        match &self.source {
            Source::Present(index) => index.steadily(read),
            Source::Past { .. } => read(),
        }
    }

    /// One row; `None` where nothing is shown.
    pub fn row(&self, surface: &Surface, key: &str) -> Result<Option<Row>, NodeError> {
        self.steadily(|| self.row_now(surface, key))
    }

    fn row_now(&self, surface: &Surface, key: &str) -> Result<Option<Row>, NodeError> {
        let found = self.look(|state| {
            let row = state.row(surface, key).filter(RowView::is_live)?;
            let is_open = state.is_open(surface, key, &row);
            Some((row, is_open))
        })?;
        match found {
            Some((view, _)) if self.dropped(surface)?.contains(key) => {
                self.stub_of(surface, key, &view).map(Some)
            }
            Some((view, is_open)) => self.row_of(surface, key, &view, is_open).map(Some),
            None => Ok(None),
        }
    }

    /// Live rows in key order, without those that a policy drops.
    pub fn rows(
        &self,
        surface: &Surface,
        after: Option<&str>,
        limit: usize,
        filter: RowFilter,
    ) -> Result<Vec<Row>, NodeError> {
        self.steadily(|| self.rows_now(surface, after, limit, filter))
    }

    fn rows_now(
        &self,
        surface: &Surface,
        after: Option<&str>,
        limit: usize,
        filter: RowFilter,
    ) -> Result<Vec<Row>, NodeError> {
        let dropped = self.dropped(surface)?;
        let mut rows = Vec::new();
        let mut after = after.map(str::to_owned);
        while rows.len() < limit {
            let wanted = limit - rows.len();
            let listed = self.look(|state| listed(state, surface, (after.as_deref(), wanted), filter))?;
            let Some((last, _)) = listed.last() else { break };
            let is_last = listed.len() < wanted;
            after = Some(last.key.clone());
            for (listed, is_open) in listed.iter().filter(|(listed, _)| !dropped.contains(&listed.key)) {
                rows.push(self.row_of(surface, &listed.key, &listed.row, *is_open)?);
            }
            if is_last {
                break;
            }
        }
        Ok(rows)
    }

    /// Rows that hold more than one value, and nobody has settled it.
    pub fn conflicts(&self, after: Option<(&Surface, &str)>, limit: usize) -> Result<Vec<Row>, NodeError> {
        let chain = self.chain();
        let row = |conflict: &Conflict| self.row_of(&conflict.surface, &conflict.key, &conflict.row, true);
        self.steadily(|| {
            let listed = self.look(|state| state.conflicts(after, limit, &*chain))?;
            listed.iter().map(row).collect()
        })
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
        self.steadily(|| self.events_now(surface, stream, after, limit))
    }

    fn events_now(
        &self,
        surface: &Surface,
        stream: &str,
        after: Option<(Hlc, Dot)>,
        limit: usize,
    ) -> Result<Vec<StreamEvent>, NodeError> {
        let cut = self.trimmed(surface, stream)?.map(|(_, last)| (last.hlc, last.dot));
        let place = |(hlc, dot): &(Hlc, Dot)| (*hlc, dot.log, dot.seq);
        let after = after.into_iter().chain(cut).max_by_key(place);
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
        let chain = self.chain();
        self.steadily(|| {
            let view = self.look(|state| state.run_state(agent.as_str(), run.as_str(), &*chain))?;
            view.map(|view| self.run_of(view)).transpose()
        })
    }

    /// Runs of an agent in the order of their names.
    pub fn runs(&self, agent: &AgentId, after: Option<&str>, limit: usize) -> Result<Vec<Run>, NodeError> {
        let chain = self.chain();
        self.steadily(|| {
            let views = self.look(|state| state.ledger(agent.as_str(), &*chain, after, limit))?;
            views.into_iter().map(|view| self.run_of(view)).collect()
        })
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

    pub(super) fn row_of(
        &self,
        surface: &Surface,
        key: &str,
        view: &RowView,
        is_open: bool,
    ) -> Result<Row, NodeError> {
        let shown = self.value_of(view.shown())?;
        let others = if view.is_conflict() {
            view.others().iter().map(|head| self.value_of(head)).collect::<Result<_, _>>()?
        } else {
            Vec::new()
        };
        let superseded_by = match surface.tier() {
            Tier::Facts => self.look(|state| state.superseded_by(surface, key))?,
            Tier::Registry | Tier::Events | Tier::Ledger => Vec::new(),
        };
        let (surface, key) = (surface.clone(), key.to_owned());
        Ok(Row { surface, key, shown, others, is_open, superseded_by, is_dropped: false })
    }

    /// What is left of a fact that a policy drops: its key and stamp, and what supersedes it.
    fn stub_of(&self, surface: &Surface, key: &str, view: &RowView) -> Result<Row, NodeError> {
        let superseded_by = self.look(|state| state.superseded_by(surface, key))?;
        let shown = RowValue { payload: None, ..self.value_of(view.shown())? };
        let (surface, key) = (surface.clone(), key.to_owned());
        let others = Vec::new();
        Ok(Row { surface, key, shown, others, is_open: false, superseded_by, is_dropped: true })
    }

    pub(super) fn value_of(&self, head: &Head) -> Result<RowValue, NodeError> {
        let op = self.op_at(&head.place)?.ok_or(NodeError::OpMissing { dot: head.place })?;
        let payload = if head.is_tombstone { None } else { payload_of(&op) };
        Ok(RowValue { id: self.id_of(&op), dot: head.dot, hlc: head.hlc, payload, is_late: head.is_late })
    }

    pub(super) fn op_at(&self, place: &Dot) -> Result<Option<OpAt>, NodeError> {
        Ok(self.blocks.op(&self.space(), place)?)
    }

    pub(super) fn id_of(&self, op: &OpAt) -> OpId {
        OpId::of(&self.space(), op.dot, op.hlc, op.kind, op.flags, &op.body)
    }

    /// The payload of the op that stands there; `None` where its author wrote none that is one.
    pub(super) fn payload(&self, dot: &Dot) -> Result<Option<Payload>, NodeError> {
        let op = self.op_at(dot)?.ok_or(NodeError::OpMissing { dot: *dot })?;
        let view = OpView::decode(op.kind, op.flags, &op.body).ok();
        Ok(view.and_then(|view| view.payload().and_then(|text| Payload::parse(text).ok())))
    }
}

/// A page of rows, each with whether its conflict is open.
fn listed(
    state: &State,
    surface: &Surface,
    (after, limit): (Option<&str>, usize),
    filter: RowFilter,
) -> Vec<(ListedRow, bool)> {
    let with_open = |listed: ListedRow| {
        let is_open = state.is_open(surface, &listed.key, &listed.row);
        (listed, is_open)
    };
    state.rows(surface, after, limit, filter).into_iter().map(with_open).collect()
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

/// What an op sets, of an intent what it says of its run; `None` where its author wrote nothing that
/// is a value.
pub(super) fn payload_of(op: &OpAt) -> Option<Payload> {
    value_in(&OpView::decode(op.kind, op.flags, &op.body).ok()?)
}

/// As [`payload_of`].
pub(super) fn value_in(op: &OpView<'_>) -> Option<Payload> {
    let OpView::Intent { agent, run, epoch, cert, status, payload } = op else {
        return Payload::parse(op.payload()?).ok();
    };
    let said = IntentValue {
        agent_id: agent,
        cert: (*cert != CertHash::NONE).then(|| cert.to_string()),
        epoch: epoch.get(),
        payload: serde_json::from_str(payload).ok(),
        run_id: run,
        status: status.to_string(),
    };
    // What was noted may fill an op alone; then it is left out.
    let whole = Payload::from_value(&said);
    whole.or_else(|_| Payload::from_value(&IntentValue { payload: None, ..said })).ok()
}
