//! What the methods take, as it is written in a request.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::model::{Scope, ScopeError};

/// `"personal"` or `{"org": NAME}`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub enum ScopeParam {
    /// The personal space.
    #[default]
    #[serde(rename = "personal")]
    Personal,
    /// An organisation's.
    #[serde(rename = "org")]
    Org(String),
}

impl ScopeParam {
    /// Whether it is the scope that is meant where none is named.
    pub fn is_personal(&self) -> bool {
        *self == Self::Personal
    }

    /// The scope it names.
    ///
    /// # Errors
    /// [`ScopeError::Organisation`] for a name no organisation can have.
    pub fn to_scope(&self) -> Result<Scope, ScopeError> {
        match self {
            Self::Personal => Ok(Scope::Personal),
            Self::Org(name) => format!("shared:{name}").parse(),
        }
    }
}

/// No parameters.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// One op to append.
///
/// Without `key` the payload of a registry surface describes itself: its string member `id` is the
/// row, and `"deleted": true` removes it. With `key` the payload is the row's value whatever it holds.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppendParams {
    /// Which space; the personal one where absent.
    #[serde(default, skip_serializing_if = "ScopeParam::is_personal")]
    pub scope: ScopeParam,
    /// The surface's text form.
    pub surface: String,
    /// Any JSON value.
    pub payload: Box<RawValue>,
    /// The row or entity, where the payload does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The stream of an event, where the payload does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
}

/// Ops to append in order.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppendManyParams {
    /// At most [`APPEND_OPS_MAX`](super::APPEND_OPS_MAX).
    #[schemars(length(max = super::APPEND_OPS_MAX))]
    pub ops: Vec<AppendParams>,
    /// Appends the good ones and names the others, instead of refusing all.
    #[serde(default)]
    pub keep_good: bool,
}

/// One row.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RowParams {
    /// Which space.
    #[serde(default)]
    pub scope: ScopeParam,
    /// The surface's text form.
    pub surface: String,
    /// The row's key.
    pub id: String,
}

/// A page of a surface.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListParams {
    /// Which space.
    #[serde(default)]
    pub scope: ScopeParam,
    /// The surface's text form.
    pub surface: String,
    /// Only this stream of an event surface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// For rows the key to start after; for events the `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// 1 to [`PAGE_ITEMS_MAX`](super::PAGE_ITEMS_MAX); 100 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = super::PAGE_ITEMS_MAX))]
    pub limit: Option<usize>,
    /// Also facts that another one supersedes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub superseded: bool,
}

/// One space.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScopeParams {
    /// Which space.
    #[serde(default)]
    pub scope: ScopeParam,
}

/// Whom to make a round with.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PumpParams {
    /// Which space the names are of.
    #[serde(default, skip_serializing_if = "ScopeParam::is_personal")]
    pub scope: ScopeParam,
    /// Devices, each by its id, at least four characters of that, or its exact name. Where it is absent or
    /// empty, every connected device and every drop box takes part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = crate::model::limits::PEERS_MAX))]
    pub peers: Vec<String>,
}

/// What to be told of.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SubscribeParams {
    /// Which space.
    #[serde(default)]
    pub scope: ScopeParam,
    /// Only this surface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surface: Option<String>,
    /// Also what happened after this place, before what happens from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<BookmarkForm>,
}

/// How far a subscriber has come. `sync.subscribe` gives the first one; each `sync.changed` raises the
/// number of its log, `device_id/incarnation`, in `frontier` to its `seq`, where that is higher.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BookmarkForm {
    /// The space.
    pub space: String,
    /// How often the end of a log had been dropped on this device.
    pub truncations: u64,
    /// Per log the position of the last op that was told.
    pub frontier: BTreeMap<String, u64>,
}

/// A subscription to end.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnsubscribeParams {
    /// What `sync.subscribe` answered.
    pub subscription: u64,
}

/// Custody to wait for.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaitParams {
    /// Which space, where no op is named.
    #[serde(default, skip_serializing_if = "ScopeParam::is_personal")]
    pub scope: ScopeParam,
    /// One op; everything held now where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<String>,
    /// On how many other devices.
    pub on: u32,
    /// How long; without end where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// A page of conflicts.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConflictsParams {
    /// Which space.
    #[serde(default)]
    pub scope: ScopeParam,
    /// Only this row or entity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<RowPlace>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<RowPlace>,
    /// 1 to [`PAGE_ITEMS_MAX`](super::PAGE_ITEMS_MAX); 100 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = super::PAGE_ITEMS_MAX))]
    pub limit: Option<usize>,
}

/// A row's place in (surface, key) order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RowPlace {
    /// The surface's text form.
    pub surface: String,
    /// The row's key.
    pub id: String,
}

/// An address to dial from now on.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddPeerParams {
    /// `host:port`.
    pub address: String,
}

/// A role.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RoleParam {
    /// Adds and removes devices, reads and writes.
    Admin,
    /// Reads and writes.
    #[default]
    Member,
    /// Stores and forwards ciphertext.
    Blind,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_personal_or_an_organisation() {
        let scope = |text: &str| serde_json::from_str::<ScopeParam>(text).ok();

        assert_eq!(scope("\"personal\""), Some(ScopeParam::Personal));
        assert_eq!(scope(r#"{"org":"acme"}"#), Some(ScopeParam::Org("acme".into())));
        assert_eq!(scope("\"acme\""), None);
        assert_eq!(ScopeParam::Org("acme".into()).to_scope(), Ok(Scope::Shared("acme".into())));
        assert!(ScopeParam::Org("Not A Name".into()).to_scope().is_err());
    }

    #[test]
    fn unknown_fields_are_refused() {
        assert!(serde_json::from_str::<RowParams>(r#"{"surface":"knowledge","id":"a","x":1}"#).is_err());
        assert!(serde_json::from_str::<NoParams>(r#"{"x":1}"#).is_err());
    }
}
