//! The lease ledger over the control API: what runs say of themselves.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::PAGE_ITEMS_MAX;
use super::dispatch::{blocking, page_limit, space};
use super::error::ControlError;
use super::params::ScopeParam;
use crate::fold::{RunStatus, Standing};
use crate::model::{AgentId, CertHash, IntentStatus, LeaseEpoch, Payload, RunId};
use crate::node::{Intent, IntentRecorded, Node, RecordedIntent, Run};

/// What a run is about to do, or has done.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecordIntentParams {
    /// Which space; the personal one where absent.
    #[serde(default, skip_serializing_if = "ScopeParam::is_personal")]
    pub scope: ScopeParam,
    /// The agent, 1 to 128 bytes.
    pub agent_id: String,
    /// The run, 1 to 128 bytes.
    pub run_id: String,
    /// The token its holder has, 1 to 2^53 - 1.
    pub epoch: u64,
    /// `pending`, `committed` or `failed`.
    pub status: String,
    /// Any JSON value; null where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Box<RawValue>>,
    /// The certificate of the host that gave the token; that of the first host where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<String>,
}

/// What became of an intent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct IntentRecordedForm {
    /// Whether it was written; it is durable then.
    pub recorded: bool,
    /// The op: of this intent, or the one by which the run has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<String>,
    /// Why nothing was written: `AlreadyCommitted`, `AlreadyFailed`, `Fenced` or `ForkedLineage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The greatest token of the agent, where it fences the one given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<u64>,
}

/// Runs of an agent.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IntentsParams {
    /// Which space; the personal one where absent.
    #[serde(default, skip_serializing_if = "ScopeParam::is_personal")]
    pub scope: ScopeParam,
    /// The agent.
    pub agent_id: String,
    /// Only this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// 1 to [`PAGE_ITEMS_MAX`]; 100 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = PAGE_ITEMS_MAX))]
    pub limit: Option<usize>,
}

/// A page of runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct IntentsForm {
    /// In the order of their names.
    pub runs: Vec<RunForm>,
    /// Where the next page begins; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One run of an agent.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RunForm {
    /// The agent.
    pub agent_id: String,
    /// The run.
    pub run_id: String,
    /// `committed`, `failed`, `pending` (whoever holds the first token below runs it) or `fenced`
    /// (begun under tokens that are void by now, and nobody said how it ended).
    pub status: String,
    /// Whether an intent of it lost.
    pub conflict: bool,
    /// What was said of it: what counts first, then the rest in total order.
    pub intents: Vec<IntentForm>,
}

/// One intent.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct IntentForm {
    /// `pending`, `committed` or `failed`.
    pub status: String,
    /// The token.
    pub epoch: u64,
    /// The certificate of the host that gave it; absent for the first host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<String>,
    /// What it is worth: `shown`, `past`, or why it lost: `fenced`, `forked_lineage`, `rival`,
    /// `disagrees`.
    pub standing: String,
    /// What else its author noted.
    pub payload: Box<RawValue>,
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

pub(super) async fn record(
    node: &Node,
    params: RecordIntentParams,
) -> Result<IntentRecordedForm, ControlError> {
    let intent = intent(&params)?;
    let space = space(node, &params.scope).await?;
    Ok(space.record_intent(intent).await?.into())
}

pub(super) async fn list(node: &Node, params: IntentsParams) -> Result<IntentsForm, ControlError> {
    let agent: AgentId = params.agent_id.parse()?;
    let run = params.run_id.as_deref().map(str::parse::<RunId>).transpose()?;
    let limit = page_limit(params.limit, PAGE_ITEMS_MAX)?;
    let space = space(node, &params.scope).await?;
    let runs = blocking(move || match run {
        Some(run) => Ok(space.run(&agent, &run)?.into_iter().collect()),
        None => space.runs(&agent, params.after.as_deref(), limit),
    })
    .await?;
    let next = runs.last().filter(|_| runs.len() == limit).map(|run| run.run.clone());
    Ok(IntentsForm { runs: runs.into_iter().map(RunForm::from).collect(), next })
}

fn intent(params: &RecordIntentParams) -> Result<Intent, ControlError> {
    let cert = match &params.cert {
        Some(text) => text.parse().map_err(|source| ControlError::Id { what: "cert", source })?,
        None => CertHash::NONE,
    };
    Ok(Intent {
        agent: params.agent_id.parse()?,
        run: params.run_id.parse()?,
        epoch: LeaseEpoch::new(params.epoch)?,
        cert,
        status: params.status.parse::<IntentStatus>()?,
        payload: Payload::parse(params.payload.as_ref().map_or("null", |payload| payload.get()))?,
    })
}

impl From<IntentRecorded> for IntentRecordedForm {
    fn from(answer: IntentRecorded) -> Self {
        let nothing = Self { recorded: false, op_id: None, reason: None, current: None };
        let because = |reason: &str| Self { reason: Some(reason.to_owned()), ..nothing.clone() };
        match answer {
            IntentRecorded::Recorded(appended) => {
                Self { recorded: true, op_id: Some(appended.id.to_string()), ..nothing }
            }
            IntentRecorded::AlreadyCommitted { by } => {
                Self { op_id: Some(by.to_string()), ..because("AlreadyCommitted") }
            }
            IntentRecorded::AlreadyFailed { by } => {
                Self { op_id: Some(by.to_string()), ..because("AlreadyFailed") }
            }
            IntentRecorded::Fenced { claimed: _, current } => {
                Self { current: Some(current.get()), ..because("Fenced") }
            }
            IntentRecorded::ForkedLineage => because("ForkedLineage"),
        }
    }
}

impl From<Run> for RunForm {
    fn from(run: Run) -> Self {
        let status = match run.status {
            RunStatus::Committed => "committed",
            RunStatus::Failed => "failed",
            RunStatus::Pending => "pending",
            RunStatus::Fenced => "fenced",
        };
        Self {
            status: status.to_owned(),
            conflict: run.is_conflict(),
            agent_id: run.agent,
            run_id: run.run,
            intents: run.intents.into_iter().map(IntentForm::from).collect(),
        }
    }
}

impl From<RecordedIntent> for IntentForm {
    fn from(intent: RecordedIntent) -> Self {
        let standing = match intent.standing {
            Standing::Shown => "shown",
            Standing::Past => "past",
            Standing::Fenced => "fenced",
            Standing::ForkedLineage => "forked_lineage",
            Standing::Rival => "rival",
            Standing::Disagrees => "disagrees",
        };
        let noted = intent.payload.as_ref().map_or("null", Payload::as_str);
        Self {
            status: intent.status.to_string(),
            epoch: intent.epoch.get(),
            cert: (intent.cert != CertHash::NONE).then(|| intent.cert.to_string()),
            standing: standing.to_owned(),
            payload: RawValue::from_string(noted.to_owned()).expect("a payload is JSON"),
            device_id: intent.dot.log.device.to_string(),
            incarnation: format!("{:016x}", intent.dot.log.incarnation.get()),
            seq: intent.dot.seq.get(),
            hlc: intent.hlc.get(),
            time_ms: intent.hlc.millis(),
        }
    }
}
