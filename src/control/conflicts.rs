//! Settling conflicts, what was decided, and single ops: parameters, answers and methods.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::PAGE_ITEMS_MAX;
use super::convert::{EventCursor, hex, raw};
use super::dispatch::{blocking, page_limit, space};
use super::error::ControlError;
use super::forms::AppendedForm;
use super::params::ScopeParam;
use crate::fold::OpName;
use crate::model::{Dot, OpId, OpKind, Payload, Seq, Surface};
use crate::node::{Choice, Decision, Node, NodeError, Space, StoredOp};

/// A conflict to settle, and how: just one of `take`, `payload`, `delete` and `acknowledge`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResolveConflictParams {
    /// Which space.
    #[serde(default)]
    pub scope: ScopeParam,
    /// The surface's text form.
    pub surface: String,
    /// The row, or the entity.
    pub id: String,
    /// Take what the op with this id wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub take: Option<String>,
    /// Set a new value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Box<RawValue>>,
    /// Remove the row.
    #[serde(default)]
    pub delete: bool,
    /// Leave what shows, the others have been looked at: facts and fenced intents.
    #[serde(default)]
    pub acknowledge: bool,
    /// The ids of the ops that the choice was made among; all there are where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Vec<String>>,
}

/// A page of decisions.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecisionsParams {
    /// Which space.
    #[serde(default)]
    pub scope: ScopeParam,
    /// With `id`: only of this row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surface: Option<String>,
    /// With `surface`: only of this row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Reads the values of the ops that were decided about, too.
    #[serde(default)]
    pub values: bool,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// 1 to [`PAGE_ITEMS_MAX`]; 100 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = PAGE_ITEMS_MAX))]
    pub limit: Option<usize>,
}

/// An op: by its id, or by its place.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpParams {
    /// Which space.
    #[serde(default)]
    pub scope: ScopeParam,
    /// Its public name; searched for through the logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<String>,
    /// `DEVICE/INCARNATION:SEQ`, found at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

/// What settled a conflict.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ResolvedForm {
    /// How many values it is about.
    pub resolved: usize,
    /// What was recorded, in order.
    pub recorded: Vec<AppendedForm>,
}

/// Decisions, newest first.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DecisionsForm {
    /// In falling total order.
    pub decisions: Vec<DecisionForm>,
    /// Where to go on; null at the end.
    pub next: Option<String>,
}

/// One decision.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DecisionForm {
    /// The surface of the conflict.
    pub surface: String,
    /// Its row or entity.
    pub id: String,
    /// `taken`, `value`, `deleted` or `acknowledged`.
    pub choice: String,
    /// The op whose value was taken: `LOG:SEQ@HLC`.
    pub taken: Option<String>,
    /// What was chosen, where it is short; else null.
    pub value: Box<RawValue>,
    /// Who decided.
    pub device_id: String,
    /// When: the wall-clock part of the decision's stamp.
    pub time_ms: u64,
    /// The key of the row of `registry:resolution` that says so.
    pub key: String,
    /// What was decided about.
    pub ops: Vec<DecidedForm>,
}

/// An op that was decided about.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DecidedForm {
    /// `LOG:SEQ@HLC`; without the stamp it is the `place` that `sync.op` takes.
    pub op: String,
    /// Who wrote it.
    pub device_id: String,
    /// The wall-clock part of its stamp.
    pub time_ms: u64,
    /// The op itself, where values were asked for and it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<OpForm>,
}

/// An op.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OpForm {
    /// Its public name.
    pub op_id: String,
    /// `put`, `delete`, `fact`, `event`, `intent`, or `unknown` to this version.
    pub kind: String,
    /// Its surface; null where this version cannot read it.
    pub surface: Option<String>,
    /// Its row, entity or stream.
    pub id: Option<String>,
    /// Its payload; null where it has none.
    pub payload: Box<RawValue>,
    /// Who wrote it.
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

pub(super) async fn resolve(
    node: &Node,
    params: ResolveConflictParams,
) -> Result<ResolvedForm, ControlError> {
    let choice = choice(&params)?;
    let space = space(node, &params.scope).await?;
    let surface: Surface = params.surface.parse()?;
    let seen = params.seen.map(|ids| ids.iter().map(|id| op_id(id, "seen")).collect()).transpose()?;
    let seen: Option<Vec<OpId>> = seen;
    let resolution = space.resolve(&surface, &params.id, choice, seen.as_deref()).await?;
    Ok(ResolvedForm {
        resolved: resolution.values.len(),
        recorded: resolution.recorded.into_iter().map(AppendedForm::from).collect(),
    })
}

fn choice(params: &ResolveConflictParams) -> Result<Choice, ControlError> {
    let take = params.take.as_deref().map(|id| op_id(id, "take")).transpose()?.map(Choice::Take);
    let payload = params.payload.as_ref().map(|raw| Payload::parse(raw.get())).transpose()?;
    let delete = params.delete.then_some(Choice::Delete);
    let acknowledge = params.acknowledge.then_some(Choice::Acknowledge);
    let named = [take, payload.map(Choice::Value), delete, acknowledge];
    let mut named: Vec<Choice> = named.into_iter().flatten().collect();
    match (named.pop(), named.len()) {
        (Some(choice), 0) => Ok(choice),
        (None, _) => Err(ControlError::Choices { found: 0 }),
        (Some(_), more) => Err(ControlError::Choices { found: more + 1 }),
    }
}

pub(super) async fn log(node: &Node, params: DecisionsParams) -> Result<DecisionsForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let limit = page_limit(params.limit, PAGE_ITEMS_MAX)?;
    let after = params.after.as_deref().map(EventCursor::parse).transpose()?;
    let of = match (params.surface, params.id) {
        (Some(surface), Some(id)) => Some((surface.parse::<Surface>()?, id)),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => return Err(ControlError::HalfARow),
    };
    blocking(move || {
        let of = of.as_ref().map(|(surface, id)| (surface, id.as_str()));
        let decisions = space.decisions(of, after.map(|cursor| cursor.after), limit)?;
        let last = decisions.last().filter(|_| decisions.len() == limit);
        let cursor = last.map(|last| EventCursor { stream: String::new(), after: (last.hlc, last.dot) });
        let forms = decisions.into_iter().map(|decision| decision_form(&space, decision, params.values));
        Ok(DecisionsForm {
            decisions: forms.collect::<Result<_, NodeError>>()?,
            next: cursor.map(|cursor| cursor.to_text()),
        })
    })
    .await
}

fn decision_form(space: &Space, decision: Decision, with_values: bool) -> Result<DecisionForm, NodeError> {
    let decided = |op: &OpName| {
        let stored = match with_values {
            true => space.op_named(&decision.surface, &decision.id, op)?.map(OpForm::from),
            false => None,
        };
        Ok(DecidedForm {
            op: op.to_string(),
            device_id: op.dot.log.device.to_string(),
            time_ms: op.hlc.millis(),
            stored,
        })
    };
    Ok(DecisionForm {
        ops: decision.ops.iter().map(decided).collect::<Result<_, NodeError>>()?,
        surface: decision.surface.to_string(),
        id: decision.id.clone(),
        choice: decision.choice.clone(),
        taken: decision.taken.map(|taken| taken.to_string()),
        value: raw(decision.value.as_ref()),
        device_id: decision.dot.log.device.to_string(),
        time_ms: decision.hlc.millis(),
        key: decision.key.clone(),
    })
}

pub(super) async fn op(node: &Node, params: OpParams) -> Result<OpForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let op = match (params.op_id, params.place) {
        (Some(id), None) => space.op(op_id(&id, "op_id")?).await?,
        (None, Some(text)) => {
            let place = place(&text)?;
            blocking(move || space.op_at(&place)?.ok_or(NodeError::UnknownOp)).await?
        }
        (Some(_), Some(_)) | (None, None) => return Err(ControlError::OpNotNamed),
    };
    Ok(OpForm::from(op))
}

impl From<StoredOp> for OpForm {
    fn from(op: StoredOp) -> Self {
        let (surface, id) = op.touches.unzip();
        Self {
            op_id: op.id.to_string(),
            kind: kind_text(op.kind).to_owned(),
            surface,
            id,
            payload: raw(op.payload.as_ref()),
            device_id: op.dot.log.device.to_string(),
            incarnation: hex(op.dot.log.incarnation),
            seq: op.dot.seq.get(),
            hlc: op.hlc.get(),
            time_ms: op.hlc.millis(),
        }
    }
}

const fn kind_text(kind: Option<OpKind>) -> &'static str {
    match kind {
        Some(OpKind::Put) => "put",
        Some(OpKind::Delete) => "delete",
        Some(OpKind::Fact) => "fact",
        Some(OpKind::Event) => "event",
        Some(OpKind::Intent) => "intent",
        None => "unknown",
    }
}

fn op_id(text: &str, what: &'static str) -> Result<OpId, ControlError> {
    text.parse().map_err(|source| ControlError::Id { what, source })
}

/// `LOG:SEQ`, with or without a stamp behind it.
fn place(text: &str) -> Result<Dot, ControlError> {
    let read = || {
        let (log, seq) = text.split_once(':')?;
        let seq = seq.split_once('@').map_or(seq, |(seq, _)| seq);
        Some(Dot { log: log.parse().ok()?, seq: Seq::new(seq.parse().ok()?) })
    };
    read().ok_or_else(|| ControlError::BadPlace { found: text.chars().take(120).collect() })
}
