//! Retention policies over the control API: rows of `registry:policy`, keyed by surface.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::dispatch::{blocking, space};
use super::error::ControlError;
use super::forms::AppendedForm;
use super::params::{ScopeParam, ScopeParams};
use crate::model::{Payload, Surface};
use crate::node::{Node, PolicyRow};

/// What is to be kept of a surface.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPolicyParams {
    /// Which space; the personal one where absent.
    #[serde(default, skip_serializing_if = "ScopeParam::is_personal")]
    pub scope: ScopeParam,
    /// The surface's text form.
    pub surface: String,
    /// The policy; null keeps everything.
    pub policy: Box<RawValue>,
}

/// Every policy there is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PoliciesForm {
    /// In the order of the surfaces' names; of a surface without one everything is kept.
    pub policies: Vec<PolicyForm>,
}

/// One policy.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PolicyForm {
    /// The surface it is for.
    pub surface: String,
    /// The policy as it was written.
    pub policy: Box<RawValue>,
    /// How many entities or events it drops now.
    pub dropped: u64,
    /// Why it is ignored; absent where it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignored: Option<String>,
}

pub(super) async fn list(node: &Node, params: ScopeParams) -> Result<PoliciesForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let policies = blocking(move || space.policies()).await?;
    Ok(PoliciesForm { policies: policies.into_iter().map(PolicyForm::from).collect() })
}

pub(super) async fn set(node: &Node, params: SetPolicyParams) -> Result<AppendedForm, ControlError> {
    let surface: Surface = params.surface.parse()?;
    let policy = Some(params.policy.get()).filter(|text| *text != "null").map(Payload::parse).transpose()?;
    let space = space(node, &params.scope).await?;
    Ok(space.set_policy(&surface, policy).await?.into())
}

impl From<PolicyRow> for PolicyForm {
    fn from(row: PolicyRow) -> Self {
        let text = row.payload.as_ref().map_or("null", Payload::as_str);
        Self {
            surface: row.surface,
            policy: RawValue::from_string(text.to_owned()).expect("a payload is JSON"),
            dropped: row.dropped_count,
            ignored: row.policy.err().map(|why| why.to_string()),
        }
    }
}
