//! Leases over the control API: who runs an agent now, and who keeps the register.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::dispatch::space;
use super::error::ControlError;
use super::params::{ScopeParam, ScopeParams};
use super::roster::{DeviceParams, device_id, find};
use crate::clock;
use crate::coordinator::{CoordinatorError, Grant};
use crate::lease::{LeaseRefused, Phase, Standing, Ttl};
use crate::model::{AgentId, DeviceId, LeaseEpoch};
use crate::node::{LeaseHost, Node, Space};

/// A lease to be taken.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcquireParams {
    /// Which space; the personal one where absent.
    #[serde(default, skip_serializing_if = "ScopeParam::is_personal")]
    pub scope: ScopeParam,
    /// For which agent.
    pub agent_id: String,
    /// How long it outlives a holder that is gone, 1,000 to 3,600,000; 30,000 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

/// A lease to be kept.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewParams {
    /// Which space; the personal one where absent.
    #[serde(default, skip_serializing_if = "ScopeParam::is_personal")]
    pub scope: ScopeParam,
    /// For which agent.
    pub agent_id: String,
    /// The token held.
    pub epoch: u64,
    /// For how long from now; 30,000 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

/// A lease to be given back.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseParams {
    /// Which space; the personal one where absent.
    #[serde(default, skip_serializing_if = "ScopeParam::is_personal")]
    pub scope: ScopeParam,
    /// For which agent.
    pub agent_id: String,
    /// The token held.
    pub epoch: u64,
}

/// An agent to be asked about.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaseStatusParams {
    /// Which space; the personal one where absent.
    #[serde(default, skip_serializing_if = "ScopeParam::is_personal")]
    pub scope: ScopeParam,
    /// Which agent.
    pub agent_id: String,
}

/// Another host for the register.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveHostParams {
    /// Which space; the personal one where absent.
    #[serde(default, skip_serializing_if = "ScopeParam::is_personal")]
    pub scope: ScopeParam,
    /// The device: its id, the id's short form, or its exact name.
    pub device: String,
    /// Whether the host of now is lost for good, which is the caller's word.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

/// A lease.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LeaseForm {
    /// For which agent.
    pub agent_id: String,
    /// The device that holds it.
    pub holder: String,
    /// Its fencing token.
    pub epoch: u64,
    /// For how long: as its holder may believe where this device holds it, else as the host keeps it.
    pub expires_in_ms: u64,
}

/// A lease that was given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ReleasedForm {
    /// Whether it was.
    pub released: bool,
}

/// Who holds a lease.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LeaseStatusForm {
    /// The lease; null where nobody holds it.
    pub lease: Option<LeaseForm>,
}

/// Who hosts the register.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LeaseHostForm {
    /// Which space.
    pub scope: ScopeParam,
    /// The device.
    pub host: String,
    /// Whether it is this one.
    pub is_self: bool,
    /// Whether it is still a device of the space.
    pub is_member: bool,
    /// Whether it can be asked now.
    pub reachable: bool,
    /// How many hosts there were before.
    pub term: u32,
    /// The hash of the certificate that names it.
    pub certificate: String,
    /// What the register of this device is doing: absent, installing, recovering, serving, settling,
    /// sealing, sealed, deposed, quarantined or storage-failed.
    pub phase: String,
    /// Whether this device may neither host nor vote, because its home was restored or copied.
    pub in_doubt: bool,
    /// Every lease that is held, where this device hosts.
    pub leases: Vec<LeaseForm>,
}

pub(super) async fn acquire(node: &Node, params: AcquireParams) -> Result<LeaseForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let (agent, ttl) = (agent(&params.agent_id)?, ttl(params.ttl_ms)?);
    let grant = space.lease_coordinator().acquire(&agent, ttl).await?;
    Ok(granted(node, &grant))
}

pub(super) async fn renew(node: &Node, params: RenewParams) -> Result<LeaseForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let (agent, ttl, epoch) = (agent(&params.agent_id)?, ttl(params.ttl_ms)?, epoch(params.epoch)?);
    let grant = space.lease_coordinator().renew(&agent, epoch, ttl).await?;
    Ok(granted(node, &grant))
}

pub(super) async fn release(node: &Node, params: ReleaseParams) -> Result<ReleasedForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let (agent, epoch) = (agent(&params.agent_id)?, epoch(params.epoch)?);
    space.lease_coordinator().release(&agent, epoch).await?;
    Ok(ReleasedForm { released: true })
}

pub(super) async fn status(node: &Node, params: LeaseStatusParams) -> Result<LeaseStatusForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let agent = agent(&params.agent_id)?;
    let standing = space.lease_coordinator().current(&agent).await?;
    Ok(LeaseStatusForm { lease: standing.map(|standing| standing_form(&agent, &standing)) })
}

pub(super) async fn host(node: &Node, params: ScopeParams) -> Result<LeaseHostForm, ControlError> {
    let space = space(node, &params.scope).await?;
    let host = space.lease_host().await?;
    Ok(host_form(node, params.scope, &host))
}

pub(super) async fn move_host(node: &Node, params: MoveHostParams) -> Result<LeaseHostForm, ControlError> {
    let MoveHostParams { scope, device, lost } = params;
    let (space, found) = find(node, &DeviceParams { scope: scope.clone(), device }).await?;
    let host = moved(&space, device_id(&found)?, lost).await?;
    Ok(host_form(node, scope, &host))
}

/// A host that was removed is lost: nobody has to say so twice.
async fn moved(space: &Space, to: DeviceId, is_lost: bool) -> Result<LeaseHost, ControlError> {
    let is_lost = is_lost || !space.lease_host().await?.is_member;
    Ok(if is_lost { space.replace_lease_host(to).await? } else { space.move_lease_host(to).await? })
}

fn agent(text: &str) -> Result<AgentId, ControlError> {
    text.parse().map_err(ControlError::LeaseName)
}

fn epoch(raw: u64) -> Result<LeaseEpoch, ControlError> {
    LeaseEpoch::new(raw).map_err(ControlError::LeaseName)
}

fn ttl(millis: Option<u64>) -> Result<Ttl, ControlError> {
    millis
        .map_or(Ok(Ttl::DEFAULT), Ttl::from_millis)
        .map_err(|refused| CoordinatorError::Refused(refused).into())
}

fn granted(node: &Node, grant: &Grant) -> LeaseForm {
    let left = grant.valid_until.saturating_sub(clock::uptime());
    LeaseForm {
        agent_id: grant.agent.to_string(),
        holder: node.device().to_string(),
        epoch: grant.epoch.get(),
        expires_in_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
    }
}

fn standing_form(agent: &AgentId, standing: &Standing) -> LeaseForm {
    LeaseForm {
        agent_id: agent.to_string(),
        holder: standing.holder.device.to_string(),
        epoch: standing.epoch.get(),
        expires_in_ms: standing.remaining_ms,
    }
}

fn host_form(node: &Node, scope: ScopeParam, host: &LeaseHost) -> LeaseHostForm {
    LeaseHostForm {
        scope,
        host: host.host.to_string(),
        is_self: host.host == node.device(),
        is_member: host.is_member,
        reachable: host.is_reachable,
        term: host.head.term,
        certificate: host.head.cert.to_string(),
        phase: phase_text(host.phase).to_owned(),
        in_doubt: host.is_in_doubt,
        leases: host.leases.iter().map(|(agent, standing)| standing_form(agent, standing)).collect(),
    }
}

pub(super) const fn phase_text(phase: Phase) -> &'static str {
    match phase {
        Phase::Absent => "absent",
        Phase::Installing => "installing",
        Phase::Recovering => "recovering",
        Phase::Serving => "serving",
        Phase::Settling => "settling",
        Phase::Sealing => "sealing",
        Phase::Sealed => "sealed",
        Phase::Deposed => "deposed",
        Phase::Quarantined => "quarantined",
        Phase::StorageFailed => "storage-failed",
    }
}

/// Kinds after which the same request may succeed later.
pub(super) const PASSING: [&str; 11] = [
    "Held",
    "AlreadyHeld",
    "StoreUnreachable",
    "HostUnreachable",
    "Moving",
    "Settling",
    "Deposed",
    "NotHost",
    "ForkedLineage",
    "TooManyRequests",
    "HostUnconfirmed",
];

/// What to do, as a command.
pub(super) const fn lease_hint(error: &CoordinatorError) -> Option<&'static str> {
    let CoordinatorError::Refused(refused) = error else { return None };
    match refused {
        LeaseRefused::HostUnreachable { .. } => Some(
            "start it; where it is away for long but not lost, wait; where it is lost for good, \
             `kinfold lease move-host DEVICE --lost` names another, and with only two devices \
             `kinfold revoke` it first",
        ),
        LeaseRefused::Quarantined => Some(
            "`kinfold lease move-host DEVICE --lost` on another device names a host that is not in doubt; \
             where this is the only device, the same line here, with its own name, says that no other copy \
             of it runs",
        ),
        LeaseRefused::NotHolder => Some("a lease is held by a running daemon: a restarted one acquires anew"),
        _ => None,
    }
}

/// The figures of a refusal.
pub(super) fn lease_fields(error: &CoordinatorError, fields: &mut BTreeMap<String, Value>) {
    let CoordinatorError::Refused(refused) = error else { return };
    let mut field = |name: &str, value: Value| {
        fields.insert(name.to_owned(), value);
    };
    match refused {
        LeaseRefused::Held { holder, epoch, remaining_ms } => {
            field("holder", holder.device.to_string().into());
            field("epoch", epoch.get().into());
            field("remaining_ms", (*remaining_ms).into());
        }
        LeaseRefused::AlreadyHeld { epoch } | LeaseRefused::Expired { epoch } => {
            field("epoch", epoch.get().into());
        }
        LeaseRefused::Stale { claimed, current } => {
            field("claimed", claimed.get().into());
            field("current", current.get().into());
        }
        LeaseRefused::HostUnreachable { host } | LeaseRefused::NotHost { host: Some(host) } => {
            field("host", host.to_string().into());
        }
        LeaseRefused::Settling { remaining_ms } => field("remaining_ms", (*remaining_ms).into()),
        LeaseRefused::TooManyRequests { retry_ms, .. } => field("retry_ms", (*retry_ms).into()),
        LeaseRefused::TtlOutOfRange { found_ms, min_ms, max_ms } => {
            field("found_ms", (*found_ms).into());
            field("min_ms", (*min_ms).into());
            field("max_ms", (*max_ms).into());
        }
        _ => {}
    }
}
