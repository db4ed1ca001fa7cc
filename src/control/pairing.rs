//! Pairing over the control API: what is asked and told, and why it is refused.
//!
//! `pair.invite` answers with the code and then tells `pair.event` notices until the invite is over;
//! it is withdrawn when the connection that asked for it ends. `pair.join` tells `pair.progress`
//! while it runs and answers at the end.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::convert::scope_param;
use super::dispatch::to_raw;
use super::error::{ControlError, RpcError, node_hint, node_kind};
use super::params::{NoParams, RoleParam, ScopeParam};
use super::session::Notice;
use crate::crypto::pairing::Refusal;
use crate::model::Scope;
use crate::net::pairing::{
    Delivery, InviteError, InviteEvent, JoinError, JoinStep, OpenInvite, Target, TurnedAway,
};
use crate::node::{Membership, Node, NodeError, PairError};
use crate::roster::Role;

/// An invite to open.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InviteParams {
    /// Into which space.
    #[serde(default, skip_serializing_if = "ScopeParam::is_personal")]
    pub scope: ScopeParam,
    /// What the device may do; admin in the personal space and member elsewhere where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<RoleParam>,
    /// How long it runs; ten minutes where absent, which is also the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<NonZeroU64>,
}

/// An open invite.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct InviteForm {
    /// What a person types on the other device.
    pub code: String,
    /// What the other device scans or pastes.
    pub uri: String,
    /// How long it runs.
    pub expires_in_ms: u64,
    /// Where this device listens for it.
    pub addresses: Vec<String>,
    /// What the device may do.
    pub role: RoleParam,
    /// Into which space.
    pub scope: ScopeParam,
}

/// What happens to an open invite: the parameters of `pair.event`. `paired` and `ended` are last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum PairEventForm {
    /// Somebody did not prove the code.
    AttemptFailed {
        /// How many attempts are left.
        attempts_left: u8,
    },
    /// A device proved the code and is recorded.
    Enrolled {
        /// Which one.
        device: String,
        /// What it calls itself.
        name: String,
    },
    /// A device proved the code and could not be recorded.
    EnrolFailed {
        /// Which one.
        device: String,
        /// Why, outermost first.
        causes: Vec<String>,
    },
    /// Done.
    Paired {
        /// The device that joined.
        device: String,
        /// What it calls itself.
        name: String,
        /// What its screen shows too.
        phrase: String,
        /// Whether it said that it has everything.
        receipted: bool,
    },
    /// Over, and nobody joined.
    Ended {
        /// `Expired`, `Burnt`, `Locked` or `Withdrawn`.
        reason: String,
        /// The same for people.
        message: String,
    },
}

/// Whether an invite was withdrawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CancelledForm {
    /// Whether there was one.
    pub cancelled: bool,
}

/// A space to join.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinParams {
    /// What the other device shows.
    pub code_or_uri: String,
    /// What the other device is to call this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where to look beside the local network, as `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
}

/// How far a pairing has come: the parameters of `pair.progress`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum PairProgressForm {
    /// Looking for the inviter.
    Looking,
    /// Somebody answers.
    Found {
        /// Where.
        address: String,
    },
    /// Both sides prove the code.
    Checking,
    /// The code held; the welcome arrives.
    Receiving {
        /// Bytes of it.
        bytes: u32,
    },
    /// The connection was lost, once more.
    Retrying,
}

/// A space joined.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct JoinedForm {
    /// The device that invited.
    pub device: String,
    /// What it calls itself.
    pub name: String,
    /// The space.
    pub space: String,
    /// Its scope.
    pub scope: ScopeParam,
    /// What this device may do there.
    pub role: RoleParam,
    /// What the inviter's screen shows too.
    pub phrase: String,
}

impl JoinParams {
    /// What was typed, and the addresses behind `peer`.
    pub(super) async fn read(&self) -> Result<(Target, Vec<std::net::SocketAddr>), ControlError> {
        let target = parse_target(&self.code_or_uri)?;
        let Some(peer) = &self.peer else { return Ok((target, Vec::new())) };
        let found = tokio::net::lookup_host(peer).await;
        let refused = |source| NodeError::PeerAddress { address: peer.clone(), source };
        Ok((target, found.map_err(refused)?.collect()))
    }
}

impl From<Membership> for JoinedForm {
    fn from(membership: Membership) -> Self {
        Self {
            device: membership.inviter.to_string(),
            name: membership.inviter_name.into_string(),
            space: membership.space.to_string(),
            scope: scope_param(&membership.scope),
            role: membership.role.into(),
            phrase: membership.phrase.to_string(),
        }
    }
}

impl From<JoinStep> for PairProgressForm {
    fn from(step: JoinStep) -> Self {
        match step {
            JoinStep::Looking => Self::Looking,
            JoinStep::Found { address } => Self::Found { address: address.to_string() },
            JoinStep::Checking => Self::Checking,
            JoinStep::Receiving { bytes } => Self::Receiving { bytes },
            JoinStep::Retrying => Self::Retrying,
        }
    }
}

impl From<InviteEvent> for PairEventForm {
    fn from(event: InviteEvent) -> Self {
        match event {
            InviteEvent::AttemptFailed { attempts_left } => Self::AttemptFailed { attempts_left },
            InviteEvent::Enrolled { device, name } => {
                Self::Enrolled { device: device.to_string(), name: name.into_string() }
            }
            InviteEvent::EnrolFailed { device, error } => {
                Self::EnrolFailed { device: device.to_string(), causes: chain(&error) }
            }
            InviteEvent::Paired { device, name, phrase, delivery } => Self::Paired {
                device: device.to_string(),
                name: name.into_string(),
                phrase: phrase.to_string(),
                receipted: delivery == Delivery::Receipted,
            },
            InviteEvent::Ended { reason } => {
                Self::Ended { reason: refusal_kind(&reason).to_owned(), message: reason.to_string() }
            }
        }
    }
}

impl PairEventForm {
    /// Whether no other event follows.
    pub const fn is_last(&self) -> bool {
        match self {
            Self::Paired { .. } | Self::Ended { .. } => true,
            Self::AttemptFailed { .. } | Self::Enrolled { .. } | Self::EnrolFailed { .. } => false,
        }
    }

    fn withdrawn() -> Self {
        Self::Ended { reason: "Withdrawn".to_owned(), message: "the invite was withdrawn".to_owned() }
    }
}

/// Opens an invite; what happens to it is to be told by [`tell_events`].
pub(super) async fn invite(
    node: &Node,
    params: InviteParams,
) -> Result<(OpenInvite, InviteForm), ControlError> {
    let scope = params.scope.to_scope()?;
    let role = params.role.map_or_else(|| default_role(&scope), Role::from);
    let most = crate::crypto::pairing::TTL;
    let ttl = params.ttl_ms.map_or(most, |ttl| Duration::from_millis(ttl.get())).min(most);
    let invite = node.space(&scope).await?.invite_for(role, ttl).await?;
    let form = InviteForm {
        code: invite.code().to_text().to_string(),
        uri: invite.link().to_text().to_string(),
        expires_in_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
        addresses: invite.link().addresses.iter().map(ToString::to_string).collect(),
        role: role.into(),
        scope: scope_param(&scope),
    };
    Ok((invite, form))
}

/// Withdraws the open invite.
pub(super) async fn cancel(node: &Node, NoParams {}: NoParams) -> Result<CancelledForm, ControlError> {
    Ok(CancelledForm { cancelled: node.withdraw_invite().await })
}

/// Tells what happens to an invite until it is over. Cut off, it withdraws the invite.
pub(super) async fn tell_events(mut invite: OpenInvite, notices: mpsc::Sender<Notice>) {
    loop {
        let form = invite.next().await.map_or_else(PairEventForm::withdrawn, PairEventForm::from);
        let is_last = form.is_last();
        let notice = Notice { method: "pair.event".to_owned(), params: to_raw(&form) };
        if notices.send(notice).await.is_err() || is_last {
            return invite.end().await;
        }
    }
}

/// Joins; progress that finds no room among the notices is left out.
pub(super) async fn join(
    node: &Node,
    params: JoinParams,
    notices: mpsc::Sender<Notice>,
) -> Result<JoinedForm, ControlError> {
    let (target, addresses) = params.read().await?;
    let notices = Arc::new(notices);
    let progress = move |step: JoinStep| {
        let params = to_raw(&PairProgressForm::from(step));
        let _ = notices.try_send(Notice { method: "pair.progress".to_owned(), params });
    };
    Ok(node.join(target, params.name.as_deref(), addresses, progress).await?.into())
}

/// Reads what a person typed, scanned or pasted.
///
/// # Errors
/// [`ControlError::BadLink`] for what begins like a link, [`ControlError::BadCode`] for the rest.
pub fn parse_target(text: &str) -> Result<Target, ControlError> {
    let text = text.trim();
    if text.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("kinfold:")) {
        Ok(Target::Link(text.parse()?))
    } else {
        Ok(Target::Code(text.parse()?))
    }
}

const fn default_role(scope: &Scope) -> Role {
    match scope {
        Scope::Personal => Role::Admin,
        Scope::Shared(_) => Role::Member,
    }
}

pub(super) fn pair_kind(error: &PairError) -> &'static str {
    match error {
        PairError::NotAdmin { .. } => "NotAdmin",
        PairError::InviteOpen => "InviteOpen",
        PairError::Invite(InviteError::Refused(refusal)) => refusal_kind(refusal),
        PairError::Invite(InviteError::Net(_)) | PairError::Join(JoinError::Net(_)) => "Net",
        PairError::Name(_) => "BadName",
        PairError::Join(error) => join_kind(error),
        PairError::Welcome(_) => "Welcome",
        PairError::Node(error) => node_kind(error),
    }
}

fn join_kind(error: &JoinError) -> &'static str {
    match error {
        JoinError::NotFound { .. } => "InviteNotFound",
        JoinError::Itself => "OwnInvite",
        JoinError::Expired => "Expired",
        JoinError::TurnedAway(reason) => match reason {
            TurnedAway::Unproven => "Unproven",
            TurnedAway::Unknown => "UnknownInvite",
            TurnedAway::Expired => "Expired",
            TurnedAway::Burnt => "Burnt",
            TurnedAway::Taken => "Taken",
            TurnedAway::Locked => "Locked",
            TurnedAway::Busy => "Busy",
            TurnedAway::Violation => "Violation",
            TurnedAway::Version => "Version",
            TurnedAway::NotRecorded => "NotRecorded",
            TurnedAway::Withdrawn => "Withdrawn",
            TurnedAway::TooSlow => "TooSlow",
            TurnedAway::Other { .. } => "TurnedAway",
        },
        JoinError::Unproven(_) => "Unproven",
        JoinError::Frame(_) => "Frame",
        JoinError::OutOfTurn => "OutOfTurn",
        JoinError::Terms { .. } => "Terms",
        JoinError::Welcome(_) => "Welcome",
        JoinError::Lost(_) => "ConnectionLost",
        JoinError::TimedOut => "TimedOut",
        JoinError::Net(_) => "Net",
    }
}

fn refusal_kind(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Unknown { .. } => "UnknownInvite",
        Refusal::Expired => "Expired",
        Refusal::Burnt => "Burnt",
        Refusal::Taken => "Taken",
        Refusal::Locked { .. } => "Locked",
    }
}

pub(super) fn pair_hint(error: &PairError) -> Option<String> {
    let hint = match error {
        PairError::NotAdmin { .. } => {
            "make the invite on a device that is an admin there (`kinfold devices`)"
        }
        PairError::InviteOpen => "end the other `kinfold invite` with Ctrl-C; `pair.cancel` does the same",
        PairError::Join(JoinError::NotFound { .. }) => {
            "is the code still on the other screen, and are both devices on one network? Where a firewall \
             or guest network is in between, paste the link, or name the address with --peer HOST:PORT"
        }
        PairError::Join(JoinError::TurnedAway(TurnedAway::Unproven) | JoinError::Unproven(_)) => {
            "compare the code with the other screen, which says how many attempts are left; if it was \
             right, pair on another network"
        }
        PairError::Node(error) => return node_hint(error),
        PairError::Invite(_) | PairError::Name(_) | PairError::Join(_) | PairError::Welcome(_) => {
            return None;
        }
    };
    Some(hint.to_owned())
}

/// An error and its causes, outermost first.
fn chain(error: &dyn std::error::Error) -> Vec<String> {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    texts
}

impl From<PairError> for ControlError {
    fn from(error: PairError) -> Self {
        Self::Pair(Box::new(error))
    }
}

impl From<PairError> for RpcError {
    fn from(error: PairError) -> Self {
        ControlError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::pairing::CodeError;
    use crate::net::pairing::LinkProblem;

    #[test]
    fn a_code_and_a_link_are_told_apart() {
        assert!(matches!(parse_target(" 7qk 014 xyz "), Ok(Target::Code(_))));
        let code = parse_target("7QK-014").unwrap_err();
        assert!(matches!(code, ControlError::BadCode(CodeError::Length { .. })), "{code:?}");
        let link = parse_target("kinfold:1?i=7Q").unwrap_err();
        assert!(matches!(link, ControlError::BadLink(LinkProblem::Missing { name: 'k' })), "{link:?}");
        let shouted = parse_target("KINFOLD:1?").unwrap_err();
        assert!(matches!(shouted, ControlError::BadLink(LinkProblem::Prefix)), "{shouted:?}");
    }

    #[test]
    fn an_error_says_what_to_do() {
        let within = Duration::from_secs(30);
        let error = RpcError::from(PairError::Join(JoinError::NotFound { within }));

        assert_eq!(error.data.kind, "InviteNotFound");
        assert_eq!(error.data.blame, "environment");
        assert!(error.is_temporary());
        assert!(error.data.hint.unwrap().contains("--peer"));
        let error = RpcError::from(PairError::NotAdmin { role: Role::Member });
        assert_eq!(error.message, "only an admin of the space adds devices, this device is a member there");
    }

    #[test]
    fn events_read_as_programs_read_them() {
        let event = InviteEvent::Ended { reason: Refusal::Burnt };

        let form = serde_json::to_value(PairEventForm::from(event)).unwrap();

        assert_eq!((&form["event"], &form["reason"]), (&"ended".into(), &"Burnt".into()));
        let progress = PairProgressForm::from(JoinStep::Receiving { bytes: 5 });
        assert_eq!(serde_json::to_string(&progress).unwrap(), r#"{"step":"receiving","bytes":5}"#);
    }
}
