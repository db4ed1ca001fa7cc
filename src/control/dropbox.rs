//! Drop boxes over the control API: `dropbox.add`, `dropbox.list`, `dropbox.remove`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::convert::{millis, scope_param};
use super::error::{ControlError, node_hint, node_kind};
use super::params::{NoParams, ScopeParam};
use crate::dropbox::{DropboxError, PlaceError};
use crate::node::{DropboxFailure, DropboxStatus, Node};

/// A drop box, by its place.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DropboxParams {
    /// Of which space.
    #[serde(default, skip_serializing_if = "ScopeParam::is_personal")]
    pub scope: ScopeParam,
    /// A folder by its absolute name on the machine of the node, or the URL of a bucket.
    pub place: String,
}

/// How a drop box is doing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DropboxForm {
    /// Where it is.
    pub place: String,
    /// Of which space.
    pub scope: ScopeParam,
    /// How long ago everything this device has was there; null if not in this run.
    pub last_push_ms: Option<u64>,
    /// How long ago everything there was taken; null if not in this run.
    pub last_pull_ms: Option<u64>,
    /// Ops that are not there yet, as far as the last look tells.
    pub pending_ops: u64,
    /// Objects there.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that are not whole yet, or are damaged.
    pub partial: u64,
    /// Ops there that were not taken.
    pub not_taken_ops: u64,
    /// Files that are none of kinfold's.
    pub foreign: u64,
    /// Why it cannot be used now; null where it can.
    pub trouble: Option<String>,
}

/// The drop boxes of a device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DropboxesForm {
    /// In the order they were added.
    pub dropboxes: Vec<DropboxForm>,
}

impl From<&DropboxStatus> for DropboxForm {
    fn from(status: &DropboxStatus) -> Self {
        Self {
            place: status.place.to_string(),
            scope: scope_param(&status.scope),
            last_push_ms: status.last_push.map(millis),
            last_pull_ms: status.last_pull.map(millis),
            pending_ops: status.pending_ops,
            objects: status.objects,
            bytes: status.bytes,
            partial: status.partial,
            not_taken_ops: status.not_taken_ops,
            foreign: status.foreign,
            trouble: status.trouble.as_ref().map(|(why, _)| why.clone()),
        }
    }
}

pub(super) async fn add(node: &Node, params: DropboxParams) -> Result<DropboxForm, ControlError> {
    let added = node.add_dropbox(&params.place, params.scope.to_scope()?).await?;
    Ok(DropboxForm::from(&added))
}

pub(super) async fn remove(node: &Node, params: DropboxParams) -> Result<DropboxForm, ControlError> {
    let removed = node.remove_dropbox(&params.place, params.scope.to_scope()?).await?;
    Ok(DropboxForm::from(&removed))
}

pub(super) async fn list(node: &Node, _: NoParams) -> Result<DropboxesForm, ControlError> {
    Ok(DropboxesForm { dropboxes: node.dropboxes().iter().map(DropboxForm::from).collect() })
}

pub(super) fn dropbox_kind(error: &DropboxFailure) -> &'static str {
    match error {
        DropboxFailure::Place(error)
        | DropboxFailure::Unusable { source: DropboxError::Place(error), .. } => match error {
            PlaceError::Relative { .. } => "RelativePath",
            PlaceError::Scheme { .. } => "UnknownScheme",
            PlaceError::Feature { .. } => "NotBuiltIn",
            PlaceError::Bucket(_) => "Bucket",
        },
        DropboxFailure::Unusable { source, .. } => match source {
            DropboxError::Gone => "FolderGone",
            DropboxError::ReadOnly(_) => "ReadOnly",
            DropboxError::Full(_) => "DiskFull",
            DropboxError::TooManyObjects { .. } => "TooManyObjects",
            DropboxError::Place(_) | DropboxError::Store(_) => "DropboxFailed",
        },
        DropboxFailure::Exists { .. } => "DropboxExists",
        DropboxFailure::Unknown { .. } => "UnknownDropbox",
        DropboxFailure::TooMany { .. } => "TooManyDropboxes",
        DropboxFailure::List(_) => "HomeFile",
        DropboxFailure::Node(error) => node_kind(error),
    }
}

pub(super) fn dropbox_hint(error: &DropboxFailure) -> Option<String> {
    match error {
        DropboxFailure::Unusable { source: DropboxError::Gone, .. } => {
            Some("make the folder, plug it in or mount it, then add it".into())
        }
        DropboxFailure::Unusable { source: DropboxError::ReadOnly(_), .. } => {
            Some("make it writable for this user, or choose another folder".into())
        }
        DropboxFailure::Unusable { source, .. } => Some(source.hint().into()),
        DropboxFailure::Unknown { .. } | DropboxFailure::TooMany { .. } => {
            Some("`kinfold dropbox list` shows those there are".into())
        }
        DropboxFailure::Node(error) => node_hint(error),
        _ => None,
    }
}
