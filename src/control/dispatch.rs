//! What the methods that read and write do: from their parameters to their answers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};

use super::convert::{EventCursor, event_form, health_form, new_op, peer_forms};
use super::error::ControlError;
use super::forms::*;
use super::method::Method;
use super::params::*;
use super::past::Shown;
use super::{APPEND_OPS_MAX, PAGE_BYTES, PAGE_ITEMS_MAX};
use crate::model::{DeviceId, Dot, Hlc, OpId, Surface, Tier};
use crate::node::{Custody, NewOp, Node, NodeError, Row, Space};

/// The error for a name that is no method.
pub(crate) fn unknown_method(name: &str) -> ControlError {
    ControlError::UnknownMethod { found: name.chars().take(80).collect(), nearest: Method::nearest(name) }
}

/// Reads the parameters of a method; absent is as good as `{}`.
pub(crate) fn read_params<P: DeserializeOwned>(
    method: Method,
    params: Option<&RawValue>,
) -> Result<P, ControlError> {
    let text = params.map_or("{}", RawValue::get);
    let read = if text.starts_with('{') {
        serde_json::from_str(text)
    } else {
        // Read by position they would change their meaning with the next parameter that is added.
        Err(serde::de::Error::custom("parameters are an object with a member for each"))
    };
    read.map_err(|source| ControlError::InvalidParams { method, source })
}

/// An answer as text.
pub(crate) fn to_raw(form: &impl Serialize) -> Box<RawValue> {
    to_raw_value(form).expect("forms have string keys and no failing parts")
}

/// The space a scope names.
pub(crate) async fn space(node: &Node, scope: &ScopeParam) -> Result<Space, ControlError> {
    Ok(node.space(&scope.to_scope()?).await?)
}

pub(super) async fn status(node: &Node, params: ScopeParams) -> Result<StatusForm, ControlError> {
    Ok(space(node, &params.scope).await?.status().await?.into())
}

pub(super) async fn pump(node: &Node, params: PumpParams) -> Result<RoundForm, ControlError> {
    // One that is not there is refused, whoever is named.
    space(node, &params.scope).await?;
    if params.peers.is_empty() {
        return Ok(node.sync().await?.into());
    }
    let devices = super::roster::named(node, &params.scope, &params.peers).await?;
    Ok(node.sync_with(&devices).await?.into())
}

pub(super) async fn safe_to_sleep(node: &Node, params: ScopeParams) -> Result<SafeToSleepForm, ControlError> {
    Ok(space(node, &params.scope).await?.safe_to_sleep().await?.into())
}

pub(super) async fn peers(node: &Node, params: ScopeParams) -> Result<PeersForm, ControlError> {
    let devices = space(node, &params.scope).await?.status().await?.devices;
    Ok(PeersForm { peers: peer_forms(&devices) })
}

pub(super) async fn add_peer(node: &Node, params: AddPeerParams) -> Result<AddedForm, ControlError> {
    node.add_peer(params.address.clone()).await?;
    Ok(AddedForm { added: params.address })
}

pub(super) async fn metrics(node: &Node, NoParams {}: NoParams) -> Result<MetricsForm, ControlError> {
    Ok(node.metrics().await?.into())
}

pub(super) async fn health(node: &Node, params: ScopeParams) -> Result<HealthForm, ControlError> {
    Ok(health_form(&space(node, &params.scope).await?.status().await?.health))
}

pub(super) async fn append(node: &Node, params: AppendParams) -> Result<AppendedForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let appended = space.append(vec![new_op(&params)?]).await?;
    Ok(one(appended)?.into())
}

pub(super) async fn delete(node: &Node, params: RowParams) -> Result<AppendedForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let surface: Surface = params.surface.parse()?;
    let appended = space.append(vec![NewOp::Delete { surface, key: params.id }]).await?;
    Ok(one(appended)?.into())
}

fn one<T>(answers: Vec<T>) -> Result<T, ControlError> {
    answers.into_iter().next().ok_or(ControlError::Lost)
}

/// Ops of different spaces become durable space by space, each space's in the order given.
pub(super) async fn append_many(
    node: &Node,
    params: AppendManyParams,
) -> Result<AppendManyForm, ControlError> {
    if params.ops.len() > APPEND_OPS_MAX {
        return Err(ControlError::TooManyOps { found: params.ops.len(), limit: APPEND_OPS_MAX });
    }
    let mut form = AppendManyForm { appended: Vec::with_capacity(params.ops.len()), refused: Vec::new() };
    let mut spaces: Vec<(&ScopeParam, Space)> = Vec::new();
    let mut wanted = Vec::with_capacity(params.ops.len());
    for (index, op) in params.ops.iter().enumerate() {
        let at = match spaces.iter().position(|(scope, _)| **scope == op.scope) {
            Some(at) => Ok(at),
            None => space(node, &op.scope).await.map(|space| {
                spaces.push((&op.scope, space));
                spaces.len() - 1
            }),
        };
        match at.and_then(|at| Ok((at, checked(new_op(op)?)?))) {
            Ok(op) => wanted.push(op),
            Err(error) if params.keep_good => {
                form.refused.push(RefusedForm { index, error: error.into() });
            }
            Err(source) => return Err(ControlError::OpRefused { index, source: Box::new(source) }),
        }
    }
    let mut placed: Vec<Option<AppendedForm>> = vec![None; wanted.len()];
    for (at, (_, space)) in spaces.iter().enumerate() {
        let own = wanted.iter().enumerate().filter(|(_, (of, _))| *of == at);
        let (places, ops): (Vec<usize>, Vec<NewOp>) = own.map(|(place, (_, op))| (place, op.clone())).unzip();
        for (place, appended) in places.into_iter().zip(space.append(ops).await?) {
            placed[place] = Some(AppendedForm::from(appended));
        }
    }
    form.appended.extend(placed.into_iter().flatten());
    Ok(form)
}

/// The node checks this too, but refuses the whole group.
fn checked(op: NewOp) -> Result<NewOp, ControlError> {
    let key = match &op {
        NewOp::Put { key, .. }
        | NewOp::Delete { key, .. }
        | NewOp::Resolve { key, .. }
        | NewOp::Fact { key, .. } => key,
        NewOp::Event { stream, .. } => stream,
        NewOp::Intent(_) => return Ok(op),
    };
    let limit = crate::model::limits::KEY_BYTES_MAX;
    if (1..=limit).contains(&key.len()) {
        Ok(op)
    } else {
        Err(NodeError::KeyLength { found: key.len(), limit }.into())
    }
}

pub(super) async fn get(node: &Node, params: RowParams) -> Result<Option<RowForm>, ControlError> {
    let space = space(node, &params.scope).await?;
    let surface: Surface = params.surface.parse()?;
    let row = blocking(move || space.get(&surface, &params.id)).await?;
    Ok(row.map(RowForm::from))
}

pub(super) async fn list(node: &Node, params: ListParams) -> Result<ListForm, ControlError> {
    let limit = page_limit(params.limit, PAGE_ITEMS_MAX)?;
    let space = space(node, &params.scope).await?;
    let surface: Surface = params.surface.parse()?;
    match surface.tier() {
        Tier::Registry | Tier::Facts if params.stream.is_some() => {
            Err(ControlError::MisplacedMember { surface, member: "stream" })
        }
        Tier::Registry | Tier::Facts => {
            blocking(move || list_rows(&space, &surface, (params.after, limit, params.superseded))).await
        }
        Tier::Events => {
            let after = params.after.as_deref().map(EventCursor::parse).transpose()?;
            blocking(move || list_events(&space, &surface, params.stream.as_deref(), after, limit)).await
        }
        Tier::Ledger => Err(ControlError::LedgerSurface { surface }),
    }
}

pub(super) fn list_rows(
    space: &dyn Shown,
    surface: &Surface,
    (mut after, limit, has_superseded): (Option<String>, usize, bool),
) -> Result<ListForm, NodeError> {
    let mut form = ListForm::default();
    let mut bytes = 0;
    loop {
        let wanted = (limit - form.rows.len()).min(READ_AT_ONCE);
        let rows = space.rows(surface, after.as_deref(), wanted, has_superseded)?;
        let is_last = rows.len() < wanted;
        after = rows.last().map(|row| row.key.clone()).or(after);
        bytes += rows.iter().map(row_bytes).sum::<usize>();
        form.rows.extend(rows.into_iter().map(RowForm::from));
        if is_last {
            return Ok(form);
        }
        if form.rows.len() >= limit || bytes >= PAGE_BYTES {
            form.next = after;
            return Ok(form);
        }
    }
}

pub(super) fn list_events(
    space: &dyn Shown,
    surface: &Surface,
    only: Option<&str>,
    after: Option<EventCursor>,
    limit: usize,
) -> Result<ListForm, NodeError> {
    let mut streams = match only {
        Some(stream) => vec![stream.to_owned()],
        None => space.all_streams(surface)?,
    };
    streams.sort();
    let mut form = ListForm::default();
    let (start, mut place) = match after {
        Some(cursor) => (Some(cursor.stream), Some(cursor.after)),
        None => (None, None),
    };
    let mut bytes = 0;
    for stream in streams {
        if start.as_ref().is_some_and(|start| stream < *start) {
            continue;
        }
        let mut after = place.take().filter(|_| start.as_ref() == Some(&stream));
        loop {
            let wanted = (limit - form.events.len()).min(READ_AT_ONCE);
            let events = space.stream_events(surface, &stream, after, wanted)?;
            let is_last = events.len() < wanted;
            after = events.last().map(|event| (event.hlc, event.dot)).or(after);
            bytes += events.iter().map(|event| event.payload.as_str().len()).sum::<usize>();
            form.events.extend(events.into_iter().map(|event| event_form(surface, event)));
            if form.events.len() >= limit || bytes >= PAGE_BYTES {
                form.next = next_event(&stream, after);
                return Ok(form);
            }
            if is_last {
                break;
            }
        }
    }
    Ok(form)
}

fn next_event(stream: &str, after: Option<(Hlc, Dot)>) -> Option<String> {
    after.map(|after| EventCursor { stream: stream.to_owned(), after }.to_text())
}

fn row_bytes(row: &Row) -> usize {
    let values = std::iter::once(&row.shown).chain(&row.others);
    row.key.len()
        + values
            .filter_map(|value| value.payload.as_ref())
            .map(|payload| payload.as_str().len())
            .sum::<usize>()
}

pub(super) async fn surfaces(node: &Node, params: ScopeParams) -> Result<SurfacesForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let held: BTreeMap<String, (Surface, u64)> = blocking(move || space.surfaces())
        .await?
        .into_iter()
        .map(|(surface, count)| (surface.to_string(), (surface, count)))
        .collect();
    let form = |(text, (surface, count)): (String, (Surface, u64))| {
        let holds = match surface.tier() {
            Tier::Registry | Tier::Facts => "rows",
            Tier::Events => "events",
            Tier::Ledger => "runs",
        };
        SurfaceForm { surface: text, holds: holds.to_owned(), count }
    };
    Ok(SurfacesForm { surfaces: held.into_iter().map(form).collect() })
}

pub(super) async fn wait(node: &Node, params: WaitParams) -> Result<WaitForm, ControlError> {
    let custody = Custody::on(params.on);
    let space = space(node, &params.scope).await?;
    let op = match &params.op_id {
        Some(text) => {
            Some(text.parse::<OpId>().map_err(|source| ControlError::Id { what: "op_id", source })?)
        }
        None => None,
    };
    let holders = async {
        match op {
            Some(op) => node.wait(op, custody).await,
            None => space.wait_all(custody).await,
        }
    };
    let holders = match params.timeout_ms {
        Some(millis) => tokio::time::timeout(Duration::from_millis(millis), holders)
            .await
            .map_err(|_| NodeError::TimedOut)??,
        None => holders.await?,
    };
    Ok(WaitForm { holders: holders.iter().map(DeviceId::to_string).collect() })
}

pub(super) async fn conflicts(node: &Node, params: ConflictsParams) -> Result<ConflictsForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let limit = page_limit(params.limit, PAGE_ITEMS_MAX)?;
    if let Some(place) = params.of {
        let surface: Surface = place.surface.parse()?;
        let found = blocking(move || space.conflict(&surface, &place.id)).await?;
        let conflicts = found.into_iter().map(RowForm::from).collect();
        return Ok(ConflictsForm { conflicts, next: None });
    }
    let after = match params.after {
        Some(place) => Some((place.surface.parse::<Surface>()?, place.id)),
        None => None,
    };
    let rows = blocking(move || {
        space.conflicts(after.as_ref().map(|(surface, key)| (surface, key.as_str())), limit)
    })
    .await?;
    let next = rows
        .last()
        .filter(|_| rows.len() == limit)
        .map(|row| RowPlace { surface: row.surface.to_string(), id: row.key.clone() });
    Ok(ConflictsForm { conflicts: rows.into_iter().map(RowForm::from).collect(), next })
}

pub(super) async fn version(node: &Node, NoParams {}: NoParams) -> Result<VersionForm, ControlError> {
    Ok(VersionForm {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        device_id: node.device().to_string(),
        pid: std::process::id(),
        methods: Method::ALL.iter().map(|method| method.name().to_owned()).collect(),
    })
}

pub(super) fn page_limit(asked: Option<usize>, limit: usize) -> Result<usize, ControlError> {
    let found = asked.unwrap_or(PAGE_ITEMS);
    if (1..=limit).contains(&found) { Ok(found) } else { Err(ControlError::PageLimit { found, limit }) }
}

/// Runs what may open blocks of the store away from the tasks that carry messages.
pub(super) async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, NodeError> + Send + 'static,
) -> Result<T, ControlError> {
    match tokio::task::spawn_blocking(read).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(ControlError::Lost),
    }
}

/// Items in a page whose request names no limit.
const PAGE_ITEMS: usize = 100;

/// Rows read from the store in one go: at most 4 MiB of payloads before the page's bytes are counted.
const READ_AT_ONCE: usize = 64;
