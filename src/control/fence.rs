//! The fence over the control API: may this run act, right now?

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dispatch::space;
use super::error::ControlError;
use super::params::ScopeParam;
use crate::coordinator::CoordinatorError;
use crate::lease::FenceDecision;
use crate::model::{AgentId, LeaseEpoch, RunId};
use crate::node::{Node, NodeError};

/// A run that is about to act.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FenceParams {
    /// Which space; the personal one where absent.
    #[serde(default, skip_serializing_if = "ScopeParam::is_personal")]
    pub scope: ScopeParam,
    /// Of which agent.
    pub agent_id: String,
    /// Which run.
    pub run_id: String,
    /// The token it claims.
    pub epoch: u64,
}

/// What the fence decided.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FenceForm {
    /// `Proceed`, or why not: `AlreadyCommitted`, `StaleEpoch`, `NotHeld`, `RenewFirst`,
    /// `HostUnreachable`, or the refusal's kind.
    pub decision: String,
    /// Whether the run may act. Whatever else it says, nothing may be done without this.
    pub may_dispatch: bool,
    /// The decision in a sentence.
    pub message: String,
    /// The op that says that the run has happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<String>,
    /// The token that holds now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<u64>,
    /// The device that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
}

impl FenceForm {
    fn new(decision: &str, message: impl Into<String>) -> Self {
        let may_dispatch = false;
        let (decision, message) = (decision.to_owned(), message.into());
        Self { decision, may_dispatch, message, op_id: None, current: None, holder: None }
    }
}

impl From<FenceDecision> for FenceForm {
    fn from(decision: FenceDecision) -> Self {
        let (may_dispatch, message) = (decision.may_dispatch(), decision.to_string());
        let form = match decision {
            FenceDecision::Proceed => Self::new("Proceed", message),
            FenceDecision::AlreadyCommitted { op_id } => {
                Self { op_id: Some(op_id.to_string()), ..Self::new("AlreadyCommitted", message) }
            }
            FenceDecision::StaleEpoch { current, holder, .. } => Self {
                current: Some(current.get()),
                holder: Some(holder.device.to_string()),
                ..Self::new("StaleEpoch", message)
            },
            FenceDecision::NotHeld => Self::new("NotHeld", message),
            FenceDecision::RenewFirst { .. } => Self::new("RenewFirst", message),
            FenceDecision::HostUnreachable { .. } => Self::new("HostUnreachable", message),
            FenceDecision::Refused(refused) => Self::new(CoordinatorError::Refused(refused).kind(), message),
        };
        Self { may_dispatch, ..form }
    }
}

pub(super) async fn check(node: &Node, params: FenceParams) -> Result<FenceForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let agent: AgentId = params.agent_id.parse().map_err(ControlError::LeaseName)?;
    let run: RunId = params.run_id.parse().map_err(ControlError::LeaseName)?;
    let epoch = LeaseEpoch::new(params.epoch).map_err(ControlError::LeaseName)?;
    match space.fence_check(&agent, &run, epoch).await {
        Ok(decision) => Ok(decision.into()),
        // Whatever keeps the leases cannot be asked: that is a decision too.
        Err(NodeError::Lease(error)) => Ok(FenceForm::new("HostUnreachable", error.to_string())),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{DaemonInstance, Holder, LeaseRefused};
    use crate::model::{DeviceId, OpId};

    #[test]
    fn only_one_decision_of_the_fence_lets_a_run_act() {
        let holder = Holder { device: DeviceId::from_bytes([7; 32]), instance: DaemonInstance::new(1) };
        let (claimed, current) = (LeaseEpoch::MIN, LeaseEpoch::new(2).unwrap());
        let check = |decision: FenceDecision, name: &str| {
            let form = FenceForm::from(decision);
            assert_eq!((form.decision.as_str(), form.may_dispatch), (name, name == "Proceed"), "{form:?}");
            form
        };

        check(FenceDecision::Proceed, "Proceed");
        let op_id = OpId::from_bytes([9; 32]);
        let form = check(FenceDecision::AlreadyCommitted { op_id }, "AlreadyCommitted");
        assert_eq!(form.op_id, Some(op_id.to_string()));
        let form = check(FenceDecision::StaleEpoch { claimed, current, holder }, "StaleEpoch");
        assert_eq!((form.current, form.holder), (Some(2), Some(holder.device.to_string())));
        check(FenceDecision::NotHeld, "NotHeld");
        check(FenceDecision::RenewFirst { epoch: claimed }, "RenewFirst");
        check(FenceDecision::HostUnreachable { host: holder.device }, "HostUnreachable");
        check(FenceDecision::Refused(LeaseRefused::Quarantined), "Quarantined");
    }
}
