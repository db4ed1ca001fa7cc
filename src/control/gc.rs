//! Dropping history over the control API.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checkpoint::CheckpointForm;
use super::dispatch::space;
use super::error::ControlError;
use super::params::{ScopeParam, ScopeParams};
use crate::model::{DeviceId, LogId, Wall};
use crate::node::{Grace, Node};
use crate::sync::GcHold;

/// Which history to drop.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GcRunParams {
    /// Of which space.
    #[serde(default)]
    pub scope: ScopeParam,
    /// Not to wait for the days in which a mistake can be noticed; everything else still holds it back.
    #[serde(default)]
    pub now: bool,
}

/// What holds history back, and how much would go.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GcWhyForm {
    /// Whether it may go now.
    pub ready: bool,
    /// The checkpoint that this is about: of those that are whole here the newest that nothing holds back, or else the
    /// one that has waited longest for its days to pass, or else the newest; null where there is none.
    pub checkpoint: Option<CheckpointForm>,
    /// The one that would be taken if the days were not waited for; null where there is none.
    #[serde(default)]
    pub checkpoint_if_now: Option<CheckpointForm>,
    /// The checkpoint that the history here begins with; null where it begins with the first op.
    pub base_checkpoint: Option<String>,
    /// Ops that would go from the log.
    pub ops: u64,
    /// About how many bytes that is on this disk.
    pub bytes: u64,
    /// Since when every device that is waited for vouches for the checkpoint, in Unix milliseconds.
    pub vouched_since_ms: Option<u64>,
    /// What holds it back.
    pub holds: Vec<GcHoldForm>,
}

/// One thing that holds history back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GcHoldForm {
    /// Which kind of thing: its name stays the same.
    pub reason: String,
    /// The device it is about, where it is about one.
    pub device: Option<String>,
    /// The log it is about, where it is about one.
    pub log: Option<String>,
    /// How many ops it is about, where they are counted.
    pub ops: Option<u64>,
    /// Since when, in Unix milliseconds, where that is known.
    pub since_ms: Option<u64>,
    /// Until when, in Unix milliseconds, where it ends by itself.
    pub until_ms: Option<u64>,
    /// The version of the rules that the device folds by, where it is another one than that of this program.
    pub version: Option<u32>,
}

/// What dropping history came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GcRunForm {
    /// The checkpoint that the history begins with now.
    pub base_checkpoint: String,
    /// Ops that went from the log.
    pub ops: u64,
    /// The store file before, in bytes.
    pub bytes_before: u64,
    /// And after.
    pub bytes_after: u64,
}

pub(super) async fn why(node: &Node, params: ScopeParams) -> Result<GcWhyForm, ControlError> {
    let report = space(node, &params.scope).await?.gc_why().await?;
    Ok(GcWhyForm {
        ready: report.holds.is_empty(),
        checkpoint: report.checkpoint.as_ref().map(CheckpointForm::from),
        checkpoint_if_now: report.if_waived.as_ref().map(CheckpointForm::from),
        base_checkpoint: report.base.map(|base| base.to_string()),
        ops: report.ops,
        bytes: report.bytes,
        vouched_since_ms: report.vouched_since,
        holds: report.holds.iter().map(GcHoldForm::from).collect(),
    })
}

pub(super) async fn run(node: &Node, params: GcRunParams) -> Result<GcRunForm, ControlError> {
    let grace = if params.now { Grace::Waived } else { Grace::Kept };
    let dropped = space(node, &params.scope).await?.gc_run(grace).await?;
    Ok(GcRunForm {
        base_checkpoint: dropped.base.to_string(),
        ops: dropped.ops,
        bytes_before: dropped.bytes_before,
        bytes_after: dropped.bytes_after,
    })
}

impl From<&GcHold> for GcHoldForm {
    fn from(hold: &GcHold) -> Self {
        let form = |reason: &str| Self {
            reason: reason.to_owned(),
            device: None,
            log: None,
            ops: None,
            since_ms: None,
            until_ms: None,
            version: None,
        };
        let of = |reason, device: &DeviceId| Self { device: Some(device.to_string()), ..form(reason) };
        let of_log = |reason, log: &LogId| Self { log: Some(log.to_string()), ..of(reason, &log.device) };
        let millis = |at: &Option<Wall>| at.map(Wall::as_millis);
        match hold {
            GcHold::NoCheckpoint => form("NoCheckpoint"),
            GcHold::NothingNew => form("NothingNew"),
            GcHold::Diverged { device } => of("Diverged", device),
            GcHold::Disputed { log } => of_log("Disputed", log),
            GcHold::Rewriting { log } => of_log("Rewriting", log),
            GcHold::Forgotten { log } => of_log("Forgotten", log),
            GcHold::Unmet { device } => of("Unmet", device),
            GcHold::Unattested { device, since } => {
                Self { since_ms: millis(since), ..of("Unattested", device) }
            }
            GcHold::OtherRules { device, version } => {
                Self { version: Some(*version), ..of("OtherRules", device) }
            }
            GcHold::NotHeld { device, ops, since } => {
                Self { ops: Some(*ops), since_ms: millis(since), ..of("NotHeld", device) }
            }
            GcHold::InDoubt { device } => of("InDoubt", device),
            GcHold::Unknown { device, count } => Self { ops: Some(*count), ..of("Unknown", device) },
            GcHold::Grace { until } => Self { until_ms: Some(until.as_millis()), ..form("Grace") },
        }
    }
}
