//! Checkpoints over the control API.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dispatch::{blocking, space};
use super::error::ControlError;
use super::params::ScopeParams;
use crate::model::DeviceId;
use crate::node::{CheckpointInfo, Node};

/// What making a checkpoint came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PublishedForm {
    /// Whether it was made just now; there is none to make where nothing became stable since the last one.
    pub published: bool,
    /// The newest checkpoint.
    pub checkpoint_hash: String,
    /// What it is.
    pub checkpoint: CheckpointForm,
}

/// The checkpoints that this device keeps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CheckpointsForm {
    /// Whole ones first, the newest first.
    pub checkpoints: Vec<CheckpointForm>,
}

/// A checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CheckpointForm {
    /// Its name.
    pub hash: String,
    /// Who made it.
    pub author: String,
    /// Ops within it.
    pub ops: u64,
    /// The hash of the state there.
    pub state_hash: String,
    /// Its chunks.
    pub chunks: u64,
    /// Whether every chunk is here.
    pub whole: bool,
    /// The devices that have folded their own logs to the same.
    pub attested_by: Vec<String>,
}

pub(super) async fn publish(node: &Node, params: ScopeParams) -> Result<PublishedForm, ControlError> {
    let published = space(node, &params.scope).await?.checkpoint().await?;
    let checkpoint = CheckpointForm::from(&published.checkpoint);
    Ok(PublishedForm { published: published.is_new, checkpoint_hash: checkpoint.hash.clone(), checkpoint })
}

pub(super) async fn list(node: &Node, params: ScopeParams) -> Result<CheckpointsForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let checkpoints = blocking(move || space.checkpoints()).await?;
    Ok(CheckpointsForm { checkpoints: checkpoints.iter().map(CheckpointForm::from).collect() })
}

impl From<&CheckpointInfo> for CheckpointForm {
    fn from(info: &CheckpointInfo) -> Self {
        Self {
            hash: info.hash.to_string(),
            author: info.author.to_string(),
            ops: info.op_count,
            state_hash: info.root.to_string(),
            chunks: info.chunk_count,
            whole: info.is_whole,
            attested_by: info.attested_by.iter().map(DeviceId::to_string).collect(),
        }
    }
}
