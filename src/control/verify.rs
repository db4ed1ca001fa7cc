//! Holding the state of a space against those of other devices, and against its own log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dispatch::space;
use super::error::ControlError;
use super::params::ScopeParam;
use super::roster::{DeviceParams, device_id, find};
use crate::model::DeviceId;
use crate::node::{
    Against, BaseAudit, Comparison, Node, NodeError, Right, Space, WhyNotCompared, WhyNotComputed,
};
use crate::wire::RowHead;
use crate::wire::checkpoint::CheckpointHash;

/// What to compare.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyParams {
    /// Which space; the personal one where absent.
    #[serde(default, skip_serializing_if = "ScopeParam::is_personal")]
    pub scope: ScopeParam,
    /// With which device: its id, the id's short form, or its exact name. With every one that is
    /// connected where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Throws the state here away before, and folds the log again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refold: bool,
    /// Folds every op again that the checkpoint stands for which was adopted from others, from connected devices
    /// that still hold them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub base: bool,
}

/// What it came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct VerifyForm {
    /// The hash of the state here.
    pub state_hash: String,
    /// Whether the rows here add up to it, and the log too where it was folded again.
    pub sound: bool,
    /// Whether the log was folded again.
    pub refolded: bool,
    /// What came of folding again what was adopted, where that was asked for.
    pub base: Option<BaseAuditForm>,
    /// The other devices.
    pub devices: Vec<ComparedForm>,
}

/// What came of folding again what the history here begins with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BaseAuditForm {
    /// `nothing` was adopted, it is `computed` now, or it is `not_computed`.
    pub outcome: String,
    /// The checkpoint; null where nothing was adopted.
    pub checkpoint: Option<String>,
    /// Ops that were folded.
    pub ops: u64,
    /// The devices they came from.
    pub from: Vec<String>,
    /// Why it is not computed: `NotConnected`, `Gone`, `KeyMissing`, `Version`, `FoldedOnto` or `Differs`.
    pub kind: Option<String>,
    /// The same for people.
    pub why: Option<String>,
    /// Whether trying again may help.
    pub passing: bool,
}

/// What came of comparing with one device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ComparedForm {
    /// The device.
    pub device_id: String,
    /// Its name, where this device can read it.
    pub name: Option<String>,
    /// `equal`, `differs` or `not_compared`.
    pub outcome: String,
    /// How many questions it was asked.
    pub questions: Option<u32>,
    /// The first row that differs.
    pub row: Option<DifferingForm>,
    /// Why it was not compared.
    pub why: Option<String>,
    /// Whether trying again may help.
    pub passing: bool,
}

/// A row that two devices show differently although they have the same ops.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DifferingForm {
    /// Its surface.
    pub surface: String,
    /// Its key, stream or run.
    pub id: String,
    /// What it consists of here; empty where there is no such row.
    pub here: Vec<HeadForm>,
    /// What it consists of there.
    pub there: Vec<HeadForm>,
    /// Which of them the log of this device folds to: `here`, `there` or `neither`.
    pub right: String,
}

/// One op that a row consists of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HeadForm {
    /// The log of the op, `device/incarnation`.
    pub log: String,
    /// Its position there.
    pub seq: u64,
    /// Its stamp.
    pub hlc: u64,
    /// Whether it removes the row.
    pub deleted: bool,
}

pub(super) async fn verify(node: &Node, params: VerifyParams) -> Result<VerifyForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let wanted = match params.device {
        None => None,
        Some(device) => {
            let (_, found) = find(node, &DeviceParams { scope: params.scope, device }).await?;
            Some(device_id(&found)?)
        }
    };
    if params.refold {
        space.refold().await?;
    }
    let against = if params.refold { Against::Log } else { Against::Rows };
    let audit = space.audit(against).await?;
    let base = match params.base {
        true => Some(BaseAuditForm::from(space.audit_base().await?)),
        false => None,
    };
    let mut devices = Vec::new();
    for status in space.status().await?.devices.into_iter().filter(|status| !status.is_self) {
        let is_wanted = match wanted {
            Some(device) => status.device == device,
            None => status.connected.is_some() && status.role.holds_keys(),
        };
        if is_wanted {
            devices.push(compared(&space, status.device, status.name).await?);
        }
    }
    let (state_hash, sound) = (audit.root.to_string(), audit.is_sound());
    Ok(VerifyForm { state_hash, sound, refolded: params.refold, base, devices })
}

async fn compared(
    space: &Space,
    device: DeviceId,
    name: Option<String>,
) -> Result<ComparedForm, ControlError> {
    let form = |outcome: &str| ComparedForm {
        device_id: device.to_string(),
        name: name.clone(),
        outcome: outcome.to_owned(),
        questions: None,
        row: None,
        why: None,
        passing: false,
    };
    match space.verify(device).await {
        Ok(Comparison { questions, difference: None, .. }) => {
            Ok(ComparedForm { questions: Some(questions), ..form("equal") })
        }
        Ok(Comparison { questions, difference: Some(difference), .. }) => {
            let heads = |heads: &[RowHead]| heads.iter().map(HeadForm::from).collect();
            let row = DifferingForm {
                surface: difference.row.name.surface.clone(),
                id: difference.row.name.key.clone(),
                here: heads(&difference.row.ours),
                there: heads(&difference.row.theirs),
                right: right_text(difference.right).to_owned(),
            };
            Ok(ComparedForm { questions: Some(questions), row: Some(row), ..form("differs") })
        }
        Err(NodeError::NotCompared { why, .. }) => Ok(not_compared(form("not_compared"), why)),
        Err(error) => Err(error.into()),
    }
}

fn not_compared(form: ComparedForm, why: WhyNotCompared) -> ComparedForm {
    ComparedForm { why: Some(why.to_string()), passing: why.is_passing(), ..form }
}

const fn right_text(right: Right) -> &'static str {
    match right {
        Right::Here => "here",
        Right::There => "there",
        Right::Neither => "neither",
    }
}

impl From<BaseAudit> for BaseAuditForm {
    fn from(audit: BaseAudit) -> Self {
        let form = |outcome: &str, checkpoint: Option<CheckpointHash>| Self {
            outcome: outcome.to_owned(),
            checkpoint: checkpoint.map(|checkpoint| checkpoint.to_string()),
            ops: 0,
            from: Vec::new(),
            kind: None,
            why: None,
            passing: false,
        };
        match audit {
            BaseAudit::Nothing => form("nothing", None),
            BaseAudit::Computed { checkpoint, op_count, from } => Self {
                ops: op_count,
                from: from.iter().map(DeviceId::to_string).collect(),
                ..form("computed", Some(checkpoint))
            },
            BaseAudit::NotComputed { checkpoint, why } => Self {
                kind: Some(name_of(&why).to_owned()),
                why: Some(why.to_string()),
                passing: why.is_passing(),
                ..form("not_computed", Some(checkpoint))
            },
        }
    }
}

const fn name_of(why: &WhyNotComputed) -> &'static str {
    match why {
        WhyNotComputed::NotConnected => "NotConnected",
        WhyNotComputed::Gone { .. } => "Gone",
        WhyNotComputed::KeyMissing { .. } => "KeyMissing",
        WhyNotComputed::Version { .. } => "Version",
        WhyNotComputed::FoldedOnto { .. } => "FoldedOnto",
        WhyNotComputed::Differs { .. } => "Differs",
    }
}

impl From<&RowHead> for HeadForm {
    fn from(head: &RowHead) -> Self {
        Self {
            log: head.dot.log.to_string(),
            seq: head.dot.seq.get(),
            hlc: head.hlc.get(),
            deleted: head.is_tombstone,
        }
    }
}
