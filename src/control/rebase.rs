//! Beginning with a checkpoint of other devices, over the control API.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dispatch::space;
use super::error::ControlError;
use super::params::ScopeParam;
use crate::model::DeviceId;
use crate::node::{ATTESTATIONS_NEEDED, Adopted, Consent, Node, Waiting, WhyWaiting};

/// What to begin with.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RebaseParams {
    /// Which space; the personal one where absent.
    #[serde(default, skip_serializing_if = "ScopeParam::is_personal")]
    pub scope: ScopeParam,
    /// Takes the attestation of one device for enough, for the checkpoint that is waiting now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accept: bool,
}

/// What it came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RebaseForm {
    /// Whether the history begins with another checkpoint than before.
    pub rebased: bool,
    /// The checkpoint that it begins with; null where it begins with the first op of every log.
    pub base_checkpoint: Option<String>,
    /// The one that it is to begin with, and does not yet.
    pub waiting: Option<WaitingForm>,
}

/// A checkpoint of other devices that this one is to begin with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WaitingForm {
    /// Its name.
    pub checkpoint: String,
    /// Who made it.
    pub author: String,
    /// Ops within it.
    pub ops: u64,
    /// Its chunks.
    pub chunks: u64,
    /// The devices that have folded every op of it to the same.
    pub attested_by: Vec<String>,
    /// The devices that attest it and began with a checkpoint of others themselves.
    pub repeated_by: Vec<String>,
    /// How many are asked for.
    pub needed: u32,
    /// What keeps this device from it: `Unattested`, `Fetching`, `KeyMissing`, `Version`, `OtherHistory`,
    /// `LeavesOut`, `Content` or `Refused`.
    pub kind: String,
    /// The same for people.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// Whether it may pass without anybody doing anything.
    pub passing: bool,
}

/// A history that begins with a checkpoint which this device did not fold itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AdoptedForm {
    /// The checkpoint.
    pub checkpoint: String,
    /// Ops within it.
    pub ops: u64,
    /// The devices that have folded every op of it to the same.
    pub attested_by: Vec<String>,
}

pub(super) async fn rebase(node: &Node, params: RebaseParams) -> Result<RebaseForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let consent = if params.accept { Consent::Given } else { Consent::Attested };
    let rebased = space.rebase(consent).await?;
    Ok(RebaseForm {
        rebased: rebased.is_new,
        base_checkpoint: rebased.base.map(|base| base.to_string()),
        waiting: rebased.waiting.as_ref().map(WaitingForm::from),
    })
}

impl From<&Waiting> for WaitingForm {
    fn from(waiting: &Waiting) -> Self {
        Self {
            checkpoint: waiting.checkpoint.to_string(),
            author: waiting.author.to_string(),
            ops: waiting.op_count,
            chunks: waiting.chunk_count,
            attested_by: waiting.attested_by.iter().map(DeviceId::to_string).collect(),
            repeated_by: waiting.repeated_by.iter().map(DeviceId::to_string).collect(),
            needed: u32::try_from(ATTESTATIONS_NEEDED).expect("a handful"),
            kind: kind_of(&waiting.why).to_owned(),
            message: waiting.why.to_string(),
            hint: hint_of(&waiting.why).to_owned(),
            passing: waiting.why.is_passing(),
        }
    }
}

impl From<&Adopted> for AdoptedForm {
    fn from(adopted: &Adopted) -> Self {
        Self {
            checkpoint: adopted.checkpoint.to_string(),
            ops: adopted.op_count,
            attested_by: adopted.attested_by.iter().map(DeviceId::to_string).collect(),
        }
    }
}

const fn kind_of(why: &WhyWaiting) -> &'static str {
    match why {
        WhyWaiting::Unattested { .. } => "Unattested",
        WhyWaiting::Fetching { .. } => "Fetching",
        WhyWaiting::KeyMissing => "KeyMissing",
        WhyWaiting::Version { .. } => "Version",
        WhyWaiting::OtherHistory { .. } => "OtherHistory",
        WhyWaiting::LeavesOut { .. } => "LeavesOut",
        WhyWaiting::Content => "Content",
        WhyWaiting::Refused(_) => "Refused",
    }
}

/// What to do about what keeps a device from a checkpoint.
pub(super) const fn hint_of(why: &WhyWaiting) -> &'static str {
    match why {
        WhyWaiting::Unattested { .. } => {
            "connect another device that reads the space, or `kinfold rebase --yes` if the one will do"
        }
        WhyWaiting::Fetching { .. } => "it goes on by itself while a device that has them is connected",
        WhyWaiting::KeyMissing => "connect to a device that has it",
        WhyWaiting::Version { .. } => "update this program",
        WhyWaiting::OtherHistory { .. } => {
            "was a backup restored or a disk cloned? connect that device; it says which history stands"
        }
        WhyWaiting::LeavesOut { .. } => {
            "it goes on by itself once that device is connected and has them back; if it is gone for good, remove it: `kinfold revoke`"
        }
        WhyWaiting::Content => "`kinfold checkpoint` on another device makes a new one",
        WhyWaiting::Refused(_) => "it is tried again by itself",
    }
}
