//! The past of a space: parameters, answers and method.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PAGE_ITEMS_MAX;
use super::convert::EventCursor;
use super::dispatch::{blocking, list_events, list_rows, page_limit, space};
use super::error::ControlError;
use super::forms::{ListForm, RowForm, SurfaceForm};
use super::params::ScopeParam;
use crate::model::{Dot, Hlc, LogId, Positions, PositionsError, Seq, Surface, Tier};
use crate::node::{Node, NodeError, Row, Space, StateAt, StreamEvent};

/// A moment, and what to show of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StateAtParams {
    /// Which space.
    #[serde(default)]
    pub scope: ScopeParam,
    /// How far each log counts: the `frontier` or the `journal_frontier` of a status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontier: Option<FrontierParam>,
    /// Instead: of each log, up to its last op stamped at or before this Unix millisecond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
    /// A page of this surface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surface: Option<String>,
    /// Only this row of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Only this stream of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// As in `sync.list`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// As in `sync.list`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub superseded: bool,
    /// 1 to [`PAGE_ITEMS_MAX`]; 100 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = PAGE_ITEMS_MAX))]
    pub limit: Option<usize>,
}

/// `LOG:SEQ,LOG:SEQ`, `none`, or an object from log to position.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum FrontierParam {
    /// As text.
    Text(String),
    /// As an object.
    Logs(BTreeMap<String, u64>),
}

/// A state of the past.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StateAtForm {
    /// How far each log counts.
    pub frontier: String,
    /// The hash of the state.
    pub state_hash: String,
    /// Ops folded.
    pub ops: u64,
    /// Live rows.
    pub rows: u64,
    /// Events.
    pub events: u64,
    /// Open conflicts.
    pub conflicts: u64,
    /// The surfaces that held something, where none was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surfaces: Option<Vec<SurfaceForm>>,
    /// The row asked for; absent where it showed nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<RowForm>,
    /// The page asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<ListForm>,
}

/// What pages of rows and events are read from.
pub(super) trait Shown {
    fn rows(
        &self,
        surface: &Surface,
        after: Option<&str>,
        limit: usize,
        has_superseded: bool,
    ) -> Result<Vec<Row>, NodeError>;
    fn all_streams(&self, surface: &Surface) -> Result<Vec<String>, NodeError>;
    fn stream_events(
        &self,
        surface: &Surface,
        stream: &str,
        after: Option<(Hlc, Dot)>,
        limit: usize,
    ) -> Result<Vec<StreamEvent>, NodeError>;
}

macro_rules! shown {
    ($($source:ty),*) => {$(
        impl Shown for $source {
            fn rows(
                &self,
                surface: &Surface,
                after: Option<&str>,
                limit: usize,
                has_superseded: bool,
            ) -> Result<Vec<Row>, NodeError> {
                if has_superseded {
                    self.list_all(surface, after, limit)
                } else {
                    self.list(surface, after, limit)
                }
            }
            fn all_streams(&self, surface: &Surface) -> Result<Vec<String>, NodeError> {
                self.streams(surface)
            }
            fn stream_events(
                &self,
                surface: &Surface,
                stream: &str,
                after: Option<(Hlc, Dot)>,
                limit: usize,
            ) -> Result<Vec<StreamEvent>, NodeError> {
                self.events(surface, stream, after, limit)
            }
        }
    )*};
}

shown! { Space, StateAt }

pub(super) async fn state_at(node: &Node, params: StateAtParams) -> Result<StateAtForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let limit = page_limit(params.limit, PAGE_ITEMS_MAX)?;
    let surface = params.surface.as_deref().map(str::parse::<Surface>).transpose()?;
    let beside =
        [("id", params.id.is_some()), ("stream", params.stream.is_some()), ("after", params.after.is_some())];
    if surface.is_none()
        && let Some((member, _)) = beside.into_iter().find(|(_, is_named)| *is_named)
    {
        return Err(ControlError::SurfaceMissing { member });
    }
    let is_events = surface.as_ref().is_some_and(|surface| surface.tier() == Tier::Events);
    if let Some(surface) = &surface {
        let misplaced = |member| ControlError::MisplacedMember { surface: surface.clone(), member };
        match (is_events, params.id.is_some(), params.stream.is_some()) {
            (true, true, _) => return Err(misplaced("id")),
            (false, _, true) => return Err(misplaced("stream")),
            _ => {}
        }
    }
    let cursor = params.after.as_deref().filter(|_| is_events).map(EventCursor::parse).transpose()?;
    let positions = match (params.frontier, params.time_ms) {
        (Some(frontier), None) => frontier.to_positions()?,
        (None, Some(time_ms)) => space.positions_at(time_ms).await?,
        (Some(_), Some(_)) | (None, None) => return Err(ControlError::MomentNotNamed),
    };
    let state = space.state_at(positions).await?;
    blocking(move || {
        let mut form = StateAtForm::from(&state);
        match (surface, params.id) {
            (None, _) => form.surfaces = Some(surfaces(&state)?),
            (Some(surface), Some(id)) => form.row = state.get(&surface, &id)?.map(RowForm::from),
            (Some(surface), None) if is_events => {
                form.page = Some(list_events(&state, &surface, params.stream.as_deref(), cursor, limit)?);
            }
            (Some(surface), None) => {
                form.page = Some(list_rows(&state, &surface, (params.after, limit, params.superseded))?)
            }
        }
        Ok(form)
    })
    .await
}

fn surfaces(state: &StateAt) -> Result<Vec<SurfaceForm>, NodeError> {
    let form = |(surface, count): (Surface, u64)| {
        let holds = match surface.tier() {
            Tier::Registry | Tier::Facts => "rows",
            Tier::Events => "events",
            Tier::Ledger => "runs",
        };
        SurfaceForm { surface: surface.to_string(), holds: holds.to_owned(), count }
    };
    Ok(state.surfaces()?.into_iter().map(form).collect())
}

impl From<&StateAt> for StateAtForm {
    fn from(state: &StateAt) -> Self {
        let counts = state.counts();
        Self {
            frontier: state.positions().to_string(),
            state_hash: state.root().to_string(),
            ops: counts.ops,
            rows: counts.live_rows,
            events: counts.events,
            conflicts: state.conflict_count(),
            surfaces: None,
            row: None,
            page: None,
        }
    }
}

impl FrontierParam {
    fn to_positions(&self) -> Result<Positions, PositionsError> {
        match self {
            Self::Text(text) => text.parse(),
            Self::Logs(logs) => {
                let entry = |(log, seq): (&String, &u64)| {
                    let found = || PositionsError::Entry {
                        found: format!("{log}:{seq}").chars().take(120).collect(),
                    };
                    Ok((log.parse::<LogId>().map_err(|_| found())?, Seq::new(*seq)))
                };
                logs.iter().map(entry).collect()
            }
        }
    }
}
