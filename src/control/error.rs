//! Why a request is refused: the typed error here, and the form it takes in an answer.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::bundle::{bundle_hint, bundle_kind};
use super::config::{config_hint, config_kind};
use super::conversation::turn_kind;
use super::dropbox::{dropbox_hint, dropbox_kind};
use super::kinds::is_temporary;
use super::lease::{lease_fields, lease_hint};
use super::method::Method;
use super::pairing::{pair_hint, pair_kind};
use super::roster::{CandidateForm, listed, scope_text, unknown_hint};
use crate::config::ConfigError;
use crate::coordinator::CoordinatorError;
use crate::crypto::pairing::CodeError;
use crate::fold::PolicyError;
use crate::lease::DesignateRefused;
use crate::model::{
    Blame, IdError, LeaseNameError, PayloadError, PositionsError, Scope, ScopeError, Surface, SurfaceError,
    Tier,
};
use crate::net::pairing::LinkProblem;
use crate::node::{BundleFailure, DropboxFailure, NodeError, PairError, WhyNoCheckpoint};
use crate::roster::RosterError;
use crate::store::LockError;
use crate::sync::{BaseRefused, JoinError, RequestError};

/// A refused or failed request.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The line is not one JSON value.
    #[error("the line is not JSON")]
    NotJson(#[source] serde_json::Error),
    /// JSON, but no request.
    #[error("the line is no JSON-RPC request")]
    InvalidRequest(#[source] serde_json::Error),
    /// Several requests in one array.
    #[error("several requests in one array are not taken")]
    BatchRequest,
    /// Another version of JSON-RPC.
    #[error("JSON-RPC {found:?} is not spoken here, only \"2.0\"")]
    WrongJsonRpc {
        /// The version asked for.
        found: String,
    },
    /// Longer than [`REQUEST_BYTES_MAX`](super::REQUEST_BYTES_MAX).
    #[error("a request of {found} bytes exceeds the limit of {limit}")]
    RequestTooLong {
        /// Its length.
        found: u64,
        /// The limit.
        limit: usize,
    },
    /// The lease is not given or kept, or whoever gives leases does not answer.
    #[error(transparent)]
    Lease(Box<CoordinatorError>),
    /// No method has this name.
    #[error("no method {found:?}")]
    UnknownMethod {
        /// The name.
        found: String,
        /// What may have been meant.
        nearest: Option<Method>,
    },
    /// The parameters do not fit the method.
    #[error("the parameters do not fit {}", method.name())]
    InvalidParams {
        /// The method.
        method: Method,
        /// What does not fit.
        #[source]
        source: serde_json::Error,
    },
    /// More ops than [`APPEND_OPS_MAX`](super::APPEND_OPS_MAX) at once.
    #[error("{found} ops at once exceed the limit of {limit}")]
    TooManyOps {
        /// How many.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// One of many ops is refused, so all are.
    #[error("op {index} is refused, so none was appended")]
    OpRefused {
        /// Its position, from 0.
        index: usize,
        /// Why.
        #[source]
        source: Box<ControlError>,
    },
    /// No such surface.
    #[error(transparent)]
    Surface(#[from] SurfaceError),
    /// The value is no payload.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// Text that names no device or op.
    #[error("{what} is not readable")]
    Id {
        /// Which parameter.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: IdError,
    },
    /// A name, token or status that no run has.
    #[error(transparent)]
    LeaseName(#[from] LeaseNameError),
    /// Text that names no scope.
    #[error(transparent)]
    BadScope(#[from] ScopeError),
    /// The surface belongs to the lease ledger, which is not written like this.
    #[error("{surface} is the ledger of runs, which is not written or listed like rows")]
    LedgerSurface {
        /// The surface.
        surface: Surface,
    },
    /// A `key` for an event or a `stream` for something else.
    #[error("{surface} takes no {member:?}")]
    MisplacedMember {
        /// The surface.
        surface: Surface,
        /// The member.
        member: &'static str,
    },
    /// An `after` that no page gave.
    #[error("{found:?} is no place in a list of events; use the \"next\" of the page before")]
    BadCursor {
        /// The text.
        found: String,
    },
    /// A `limit` outside its range.
    #[error("a page has 1 to {limit} items, not {found}")]
    PageLimit {
        /// What was asked for.
        found: usize,
        /// The most.
        limit: usize,
    },
    /// A conflict is settled in one way.
    #[error("{found} choices for one conflict; name one of take, payload, delete and acknowledge")]
    Choices {
        /// How many were named.
        found: usize,
    },
    /// Text that names no moment.
    #[error(transparent)]
    Positions(#[from] PositionsError),
    /// A moment is named in one way.
    #[error("a moment is named by \"frontier\" or by \"time_ms\", one of them")]
    MomentNotNamed,
    /// A member that says something only beside another.
    #[error("{member:?} says nothing without \"surface\"")]
    SurfaceMissing {
        /// The member.
        member: &'static str,
    },
    /// A row has a surface and an id.
    #[error("a row is named by \"surface\" and \"id\", both of them")]
    HalfARow,
    /// Text that names no place in a log.
    #[error("{found:?} is no place in a log: DEVICE/INCARNATION:SEQ")]
    BadPlace {
        /// The text.
        found: String,
    },
    /// An op is named by its id or by its place.
    #[error("an op is named by \"op_id\" or by \"place\", one of them")]
    OpNotNamed,
    /// More subscriptions than one connection may have.
    #[error("a connection has at most {limit} subscriptions")]
    TooManySubscriptions {
        /// The most.
        limit: usize,
    },
    /// No device of the space is called that.
    #[error("no device {found:?} in this space")]
    UnknownDevice {
        /// The text.
        found: String,
        /// The devices there are.
        candidates: Vec<CandidateForm>,
    },
    /// More devices are named than a space may have.
    #[error("{found} devices are named, and a round has at most {limit}")]
    TooManyPeers {
        /// Devices named.
        found: usize,
        /// The most.
        limit: usize,
    },
    /// A round is to be made with the device that makes it.
    #[error("this device is one end of every round, and not the other one")]
    OwnPeer,
    /// Several devices of the space are called that.
    #[error("{found:?} names {} devices", candidates.len())]
    AmbiguousDevice {
        /// The text.
        found: String,
        /// Those devices.
        candidates: Vec<CandidateForm>,
    },
    /// Text that is no pairing code.
    #[error(transparent)]
    BadCode(#[from] CodeError),
    /// Text that is no invite's link.
    #[error(transparent)]
    BadLink(#[from] LinkProblem),
    /// A pairing was refused or failed.
    #[error(transparent)]
    Pair(Box<PairError>),
    /// The settings cannot be read or changed.
    #[error(transparent)]
    Config(Box<ConfigError>),
    /// A bundle was not exported or imported.
    #[error(transparent)]
    Bundle(Box<BundleFailure>),
    /// A drop box is not added or removed.
    #[error(transparent)]
    Dropbox(Box<DropboxFailure>),
    /// A file is named in a way that depends on a working directory.
    #[error("{path:?} is no absolute name, and the node has another working directory than its caller")]
    RelativePath {
        /// The name.
        path: PathBuf,
    },
    /// The node refused.
    #[error(transparent)]
    Node(Box<NodeError>),
    /// The request ended without an answer.
    #[error("the request ended without an answer")]
    Lost,
}

impl ControlError {
    /// The name of what went wrong, stable for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotJson(_) => "NotJson",
            Self::InvalidRequest(_) => "InvalidRequest",
            Self::BatchRequest => "BatchRequest",
            Self::WrongJsonRpc { .. } => "WrongJsonRpc",
            Self::RequestTooLong { .. } => "RequestTooLong",
            Self::UnknownMethod { .. } => "UnknownMethod",
            Self::InvalidParams { .. } => "InvalidParams",
            Self::TooManyOps { .. } => "TooManyOps",
            Self::OpRefused { source, .. } => source.kind(),
            Self::Surface(error) => surface_kind(error),
            Self::Payload(error) => payload_kind(error),
            Self::Id { .. } => "BadId",
            Self::Lease(error) => error.kind(),
            Self::BadScope(_) => "BadScope",
            Self::LeaseName(error) => lease_name_kind(error),
            Self::LedgerSurface { .. } => "LedgerSurface",
            Self::MisplacedMember { .. } => "MisplacedMember",
            Self::BadCursor { .. } => "BadCursor",
            Self::PageLimit { .. } => "PageLimit",
            Self::Choices { .. } => "Choices",
            Self::Positions(_) => "BadFrontier",
            Self::MomentNotNamed => "MomentNotNamed",
            Self::SurfaceMissing { .. } => "SurfaceMissing",
            Self::HalfARow => "HalfARow",
            Self::BadPlace { .. } => "BadPlace",
            Self::OpNotNamed => "OpNotNamed",
            Self::TooManyPeers { .. } => "TooManyPeers",
            Self::OwnPeer => "OwnPeer",
            Self::TooManySubscriptions { .. } => "TooManySubscriptions",
            Self::UnknownDevice { .. } => "UnknownDevice",
            Self::AmbiguousDevice { .. } => "AmbiguousDevice",
            Self::BadCode(_) => "BadCode",
            Self::BadLink(_) => "BadLink",
            Self::Pair(error) => pair_kind(error),
            Self::Config(error) => config_kind(error),
            Self::Bundle(error) => bundle_kind(error),
            Self::Dropbox(error) => dropbox_kind(error),
            Self::RelativePath { .. } => "RelativePath",
            Self::Node(error) => node_kind(error),
            Self::Lost => "Lost",
        }
    }

    /// Who is to change something.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Pair(error) => error.blame(),
            Self::Bundle(error) => error.blame(),
            Self::Dropbox(error) => error.blame(),
            Self::Lease(error) => error.blame(),
            Self::Node(error) => error.blame(),
            _ => Blame::Local,
        }
    }

    /// What to do, where the message does not say it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::RequestTooLong { .. } => Some("send the ops in several requests".into()),
            Self::BatchRequest => {
                Some("send each as a message of its own, without waiting: they run side by side".into())
            }
            Self::UnknownMethod { nearest: Some(method), .. } => {
                Some(format!("did you mean {}?", method.name()))
            }
            Self::UnknownMethod { nearest: None, .. } => {
                Some("rpc.discover describes the methods this version answers".into())
            }
            Self::TooManyOps { .. } => Some("send them in several requests".into()),
            Self::Lease(error) => lease_hint(error).map(str::to_owned),
            Self::OpRefused { source, .. } => source.hint(),
            Self::Payload(PayloadError::DuplicateKey { .. }) => {
                Some("keep one of the two members, readers would disagree about the value".into())
            }
            Self::UnknownDevice { found, candidates } => Some(unknown_hint(found, candidates)),
            Self::OwnPeer => Some("name another device: `kinfold devices` lists them".into()),
            Self::AmbiguousDevice { candidates, .. } => {
                Some(format!("say which by the id in brackets: {}", listed(candidates)))
            }
            Self::LedgerSurface { .. } => Some(
                "sync.record_intent and sync.intents do, or `kinfold intent record` and `kinfold intent show`".into(),
            ),
            Self::BadCode(_) => Some("the other device shows it as XXX-XXX-XXX".into()),
            Self::Pair(error) => pair_hint(error),
            Self::Config(error) => config_hint(error),
            Self::Bundle(error) => bundle_hint(error),
            Self::Dropbox(error) => dropbox_hint(error),
            Self::Node(error) => node_hint(error),
            _ => None,
        }
    }

    fn code(&self) -> i64 {
        match self {
            Self::NotJson(_) => CODE_PARSE,
            Self::InvalidRequest(_)
            | Self::BatchRequest
            | Self::WrongJsonRpc { .. }
            | Self::RequestTooLong { .. } => CODE_REQUEST,
            Self::UnknownMethod { .. } => CODE_METHOD,
            Self::Choices { .. }
            | Self::Positions(_)
            | Self::MomentNotNamed
            | Self::SurfaceMissing { .. }
            | Self::HalfARow
            | Self::BadPlace { .. }
            | Self::OpNotNamed => CODE_PARAMS,
            Self::InvalidParams { .. } | Self::PageLimit { .. } | Self::BadCursor { .. } => CODE_PARAMS,
            Self::Lost => CODE_INTERNAL,
            _ => CODE_REFUSED,
        }
    }

    fn fields(&self) -> BTreeMap<String, Value> {
        let mut fields = BTreeMap::new();
        let mut field = |name: &str, value: Value| {
            fields.insert(name.to_owned(), value);
        };
        match self {
            Self::Lease(error) => lease_fields(error, &mut fields),
            Self::OpRefused { index, source } => {
                fields.extend(source.fields());
                fields.insert("index".into(), (*index).into());
            }
            Self::RequestTooLong { found, limit } => {
                field("found", (*found).into());
                field("limit", (*limit).into());
            }
            Self::TooManyOps { found, limit }
            | Self::TooManyPeers { found, limit }
            | Self::PageLimit { found, limit }
            | Self::Payload(PayloadError::TooLong { found, limit }) => {
                field("found", (*found).into());
                field("limit", (*limit).into());
            }
            Self::TooManySubscriptions { limit } | Self::Payload(PayloadError::TooDeep { limit }) => {
                field("limit", (*limit).into());
            }
            Self::Payload(PayloadError::DuplicateKey { key }) => field("key", key.as_str().into()),
            Self::UnknownDevice { found, candidates } | Self::AmbiguousDevice { found, candidates } => {
                field("found", found.as_str().into());
                field("candidates", candidates.iter().map(CandidateForm::to_value).collect());
            }
            Self::Config(error) => {
                if let ConfigError::GenerationConflict { expected, current } = **error {
                    field("expected", expected.into());
                    field("current", current.into());
                }
            }
            Self::Node(error) => match &**error {
                NodeError::KeyLength { found, limit } => {
                    field("found", (*found).into());
                    field("limit", (*limit).into());
                }
                NodeError::Lock { source: LockError::Held { pid }, .. } => field("pid", (*pid).into()),
                _ => {}
            },
            _ => {}
        }
        fields
    }
}

fn policy_kind(error: &PolicyError) -> &'static str {
    match error {
        PolicyError::Surface { .. } => "PolicySurface",
        PolicyError::KeptWhole { .. } => "KeptWhole",
        PolicyError::Form => "PolicyForm",
        PolicyError::Limit { .. } => "PolicyLimit",
        PolicyError::NoAgents { .. } => "NoAgents",
    }
}

const fn lease_name_kind(error: &LeaseNameError) -> &'static str {
    match error {
        LeaseNameError::Length { .. } => "LeaseNameLength",
        LeaseNameError::Character { .. } => "LeaseNameCharacter",
        LeaseNameError::Status { .. } => "UnknownStatus",
        LeaseNameError::Epoch { .. } => "EpochOutOfRange",
    }
}

impl From<BundleFailure> for ControlError {
    fn from(error: BundleFailure) -> Self {
        Self::Bundle(Box::new(error))
    }
}

impl From<DropboxFailure> for ControlError {
    fn from(error: DropboxFailure) -> Self {
        Self::Dropbox(Box::new(error))
    }
}

impl From<CoordinatorError> for ControlError {
    fn from(error: CoordinatorError) -> Self {
        Self::Lease(Box::new(error))
    }
}

impl From<NodeError> for ControlError {
    fn from(error: NodeError) -> Self {
        Self::Node(Box::new(error))
    }
}

/// An error as it stands in an answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, Error, JsonSchema)]
#[error("{message}")]
pub struct RpcError {
    /// The JSON-RPC code; -32000 for whatever is no fault of the protocol.
    pub code: i64,
    /// What happened.
    pub message: String,
    /// The rest.
    pub data: Box<RpcErrorData>,
}

/// What an error says beside its message.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RpcErrorData {
    /// The name of what went wrong, stable for programs: one of [`ERROR_KINDS`](super::kinds::ERROR_KINDS).
    pub kind: String,
    /// `local`, `peer` or `environment`: who is to change something.
    pub blame: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The chain of causes, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What was expected and found, by name.
    #[serde(flatten)]
    pub fields: BTreeMap<String, Value>,
}

impl RpcError {
    /// Whether the same request may succeed later without anything being changed by the caller.
    pub fn is_temporary(&self) -> bool {
        is_temporary(&self.data.kind)
    }
}

/// A blame as programs read it.
pub(super) const fn blame_text(blame: Blame) -> &'static str {
    match blame {
        Blame::Local => "local",
        Blame::Peer => "peer",
        Blame::Environment => "environment",
    }
}

impl From<ControlError> for RpcError {
    fn from(error: ControlError) -> Self {
        let mut causes = Vec::new();
        let mut cause = error.source();
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        Self {
            code: error.code(),
            message: error.to_string(),
            data: Box::new(RpcErrorData {
                kind: error.kind().to_owned(),
                blame: blame_text(error.blame()).to_owned(),
                hint: error.hint(),
                causes,
                fields: error.fields(),
            }),
        }
    }
}

impl From<NodeError> for RpcError {
    fn from(error: NodeError) -> Self {
        ControlError::from(error).into()
    }
}

fn payload_kind(error: &PayloadError) -> &'static str {
    match error {
        PayloadError::NotJson(_) => "NotJson",
        PayloadError::DuplicateKey { .. } => "DuplicateKey",
        PayloadError::TooLong { .. } => "TooLong",
        PayloadError::TooDeep { .. } => "TooDeep",
    }
}

fn surface_kind(error: &SurfaceError) -> &'static str {
    match error {
        SurfaceError::Unknown { .. } => "UnknownSurface",
        SurfaceError::RegistryKind { .. } => "RegistryKind",
    }
}

fn roster_kind(error: &RosterError) -> &'static str {
    match error {
        RosterError::NotAdmin { .. } => "NotAdmin",
        RosterError::Removed { .. } => "Removed",
        RosterError::AlreadyRemoved { .. } => "AlreadyRemoved",
        RosterError::NotADevice { .. } => "NotADevice",
        RosterError::LastAdmin { .. } => "LastAdmin",
        RosterError::NameLength { .. } | RosterError::NameCharacter { .. } => "BadName",
        _ => "Roster",
    }
}

const fn host_kind(error: &DesignateRefused) -> &'static str {
    match error {
        DesignateRefused::InDoubt => "Quarantined",
        DesignateRefused::NoVoter { .. } => "NotADevice",
        DesignateRefused::TooManyVoters { .. } => "TooManyVoters",
        DesignateRefused::Moving { .. } => "Moving",
        DesignateRefused::Superseded { .. } => "Superseded",
        DesignateRefused::NotLost => "NotLost",
        DesignateRefused::NoTerm => "EpochExhausted",
        DesignateRefused::StorageFailed => "StorageFailed",
    }
}

fn roster_hint(error: &RosterError) -> Option<&'static str> {
    match error {
        RosterError::NotAdmin { .. } => Some("`kinfold devices` shows who is an admin"),
        RosterError::LastAdmin { .. } => {
            Some("`kinfold invite --role admin` here and `kinfold join` on another device make it one")
        }
        _ => None,
    }
}

pub(super) fn node_kind(error: &NodeError) -> &'static str {
    match error {
        NodeError::NotInitialised { .. } => "NotInitialised",
        NodeError::StoreEmpty { .. } => "StoreEmpty",
        NodeError::Index { .. } => "Index",
        NodeError::HomeInUse { .. } => "HomeInUse",
        NodeError::Lock { source, .. } => match source {
            LockError::Held { .. } => "HomeLocked",
            LockError::ReadOnly(_) => "HomeReadOnly",
            LockError::Io(_) => "HomeLockFailed",
        },
        NodeError::HomeFile { .. } => "HomeFile",
        NodeError::IdentityDamaged { .. } => "IdentityDamaged",
        NodeError::Store(_) => "Store",
        NodeError::Read(_) => "Read",
        NodeError::OpMissing { .. } => "OpMissing",
        NodeError::Net(_) => "Net",
        NodeError::Config(error) => config_kind(error),
        NodeError::Surface(error) => surface_kind(error),
        NodeError::PeerAddress { .. } => "PeerAddress",
        NodeError::Payload(error) => payload_kind(error),
        NodeError::Turn(problem) => turn_kind(problem),
        NodeError::KeyLength { .. } => "KeyLength",
        NodeError::Policy(error) => policy_kind(error),
        NodeError::WrongTier { .. } => "WrongTier",
        NodeError::IdMissing { .. } => "IdMissing",
        NodeError::Roster(error) => roster_kind(error),
        NodeError::Refused(error) => match error {
            RequestError::NoSuchSpace => "NoSuchSpace",
            RequestError::Storage => "Storage",
            RequestError::NotAuthor => "NotAuthor",
            RequestError::Roster(error) => roster_kind(error),
            RequestError::Host(error) => host_kind(error),
            RequestError::Base(error) => base_kind(error),
            RequestError::Join(error) => match error {
                JoinError::Roster(_) => "Roster",
                JoinError::NotInvited => "NotInvited",
                JoinError::KeyMissing => "KeyMissing",
                JoinError::Left => "Left",
                JoinError::ScopeTaken { .. } => "ScopeTaken",
                JoinError::NotAlone { .. } => "NotAlone",
                JoinError::BlindWithOps { .. } => "BlindWithOps",
            },
        },
        NodeError::NoSuchSpace { .. } => "NoSuchSpace",
        NodeError::Engine(_) => "Engine",
        NodeError::HostUnconfirmed { .. } => "HostUnconfirmed",
        NodeError::Lease(error) => error.kind(),
        NodeError::LeaseName(error) => lease_name_kind(error),
        NodeError::Fenced { .. } => "Fenced",
        NodeError::OwnDevice { .. } => "OwnDevice",
        NodeError::PersonalSpace => "PersonalSpace",
        NodeError::NotReachable { .. } => "NotReachable",
        NodeError::StillBehind { .. } => "StillBehind",
        NodeError::NotCompared { .. } => "NotCompared",
        NodeError::NoCheckpoint { .. } => "NoCheckpoint",
        NodeError::GcHeld { .. } => "GcHeld",
        NodeError::UnknownLog { .. } => "UnknownLog",
        NodeError::BeyondLog { .. } => "BeyondLog",
        NodeError::BeforeBase { .. } => "BeforeBase",
        NodeError::PastKeyMissing { .. } => "PastKeyMissing",
        NodeError::NoConflict { .. } => "NoConflict",
        NodeError::ChoiceMisfit { .. } => "ChoiceMisfit",
        NodeError::NotAHead { .. } => "NotAHead",
        NodeError::UnknownOp => "UnknownOp",
        NodeError::NotOfType { .. } => "NotOfType",
        NodeError::BookmarkStale => "BookmarkStale",
        NodeError::TimedOut => "TimedOut",
        NodeError::NotStarted => "NotStarted",
        NodeError::Stopped => "Stopped",
    }
}

const fn base_kind(error: &BaseRefused) -> &'static str {
    match error {
        BaseRefused::Diverged { .. } => "Diverged",
        BaseRefused::Disputed { .. } => "Disputed",
        BaseRefused::OtherHistory { .. } => "OtherHistory",
        BaseRefused::Behind => "BaseBehind",
        BaseRefused::Rewriting { .. } => "Rewriting",
        BaseRefused::Underway => "Underway",
    }
}

pub(super) fn node_hint(error: &NodeError) -> Option<String> {
    match error {
        NodeError::Config(error) => config_hint(error),
        NodeError::IdMissing { .. } => Some("add the member, or name the row with \"key\"".into()),
        NodeError::StoreEmpty { .. } => Some(
            "put the store folder back; where it is gone, move this home aside, `kinfold init` a new one and add it on another device".into(),
        ),
        NodeError::OwnDevice { scope: Scope::Personal } => {
            Some("run it on another device that is an admin, and delete this home then".into())
        }
        NodeError::OwnDevice { scope } => {
            Some(format!("`kinfold space leave {}` takes this device out of that space", scope_text(scope)))
        }
        NodeError::PersonalSpace => Some(
            "to part with this device, run `kinfold retire` for it on another one, and delete this home then"
                .into(),
        ),
        NodeError::NotReachable { .. } => Some(
            "start it and wait until `kinfold devices` shows it connected; where it is lost for good, \
             `kinfold revoke` keeps what is here"
                .into(),
        ),
        NodeError::NoCheckpoint { why } => checkpoint_hint(why),
        NodeError::GcHeld { .. } => Some("`kinfold gc why` names it".into()),
        NodeError::NotCompared { .. } => Some("try again once `kinfold status` shows it connected and nothing behind".into()),
        NodeError::StillBehind { .. } => Some("try again once `kinfold status` shows nothing ahead".into()),
        NodeError::Refused(RequestError::NotAuthor) => {
            Some("it was removed from the space, or stores without keys; `kinfold status` says which".into())
        }
        NodeError::Refused(RequestError::Roster(error)) => roster_hint(error).map(str::to_owned),
        NodeError::UnknownLog { .. } | NodeError::BeyondLog { .. } => Some(
            "`kinfold frontier` shows how far each log is held; what a log dropped for another branch is gone"
                .into(),
        ),
        NodeError::BeforeBase { .. } => Some(
            "`kinfold checkpoint --list` shows it; a device that lacks what it holds begins there too, when it is connected"
                .into(),
        ),
        NodeError::PastKeyMissing { .. } => Some("connect to a device that has the key".into()),
        NodeError::NoConflict { .. } => Some("`kinfold conflicts` lists the open ones".into()),
        NodeError::ChoiceMisfit { surface } if surface.tier() == Tier::Registry => {
            Some("take one of the values, give a new one, or delete the row".into())
        }
        NodeError::ChoiceMisfit { .. } => {
            Some("what is there stays as it is; acknowledge that you have seen the others".into())
        }
        NodeError::NotAHead { .. } => {
            Some("`kinfold conflicts show` lists the values with their ids; it may have been settled meanwhile".into())
        }
        NodeError::UnknownOp => Some("op ids come from the answer to an append".into()),
        NodeError::BookmarkStale => {
            Some("read the surfaces again with sync.list, and subscribe without \"after\"".into())
        }
        NodeError::TimedOut => Some("`kinfold status` shows which device is not reachable".into()),
        NodeError::HomeFile { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            Some("make the directory writable for this user, or choose another with --home".into())
        }
        _ => None,
    }
}

/// Not JSON.
pub(crate) const CODE_PARSE: i64 = -32700;
/// No request.
pub(crate) const CODE_REQUEST: i64 = -32600;
/// No such method.
pub(crate) const CODE_METHOD: i64 = -32601;
/// Parameters that do not fit.
pub(crate) const CODE_PARAMS: i64 = -32602;
/// Our own fault.
pub(crate) const CODE_INTERNAL: i64 = -32603;
/// The protocol was fine, the request was refused.
pub(crate) const CODE_REFUSED: i64 = -32000;

fn checkpoint_hint(why: &WhyNoCheckpoint) -> Option<String> {
    let hint = match why {
        WhyNoCheckpoint::Silent { silent: devices } | WhyNoCheckpoint::Unmet { unmet: devices } => {
            let names: Vec<String> = devices.iter().map(crate::model::DeviceId::short).collect();
            let names = names.join(", ");
            return Some(format!(
                "connect {names}, or `kinfold devices dormant` says that nothing waits for it"
            ));
        }
        WhyNoCheckpoint::NothingStable => "`kinfold sync` with the other devices first",
        WhyNoCheckpoint::Diverged { .. } => "`kinfold verify` finds the row",
        WhyNoCheckpoint::UnknownOps { .. } => "update this program",
        WhyNoCheckpoint::Blind => "run it on a device that reads the space",
        WhyNoCheckpoint::NoKey => "`kinfold rotate` makes one",
        WhyNoCheckpoint::TooLarge { .. } => return None,
        WhyNoCheckpoint::OpMissing => "`kinfold verify --refold` folds the log again",
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_kind_its_cause_and_its_figures() {
        let refused = ControlError::OpRefused {
            index: 3,
            source: Box::new(PayloadError::TooLong { found: 65_537, limit: 65_536 }.into()),
        };

        let form = serde_json::to_value(RpcError::from(refused)).unwrap();

        assert_eq!(form["code"], -32000);
        assert_eq!(form["data"]["kind"], "TooLong");
        assert_eq!(form["data"]["blame"], "local");
        assert_eq!(form["data"]["index"], 3);
        assert_eq!(form["data"]["found"], 65_537);
        assert_eq!(form["data"]["causes"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn an_error_reads_back_from_its_form() {
        let error = RpcError::from(ControlError::UnknownMethod {
            found: "sync.statu".into(),
            nearest: Method::nearest("sync.statu"),
        });

        let text = serde_json::to_string(&error).unwrap();

        assert_eq!(serde_json::from_str::<RpcError>(&text).unwrap(), error);
        assert!(text.contains("did you mean sync.status?"));
    }

    #[test]
    fn a_removal_that_is_refused_says_what_to_do_instead() {
        let device = crate::model::DeviceId::from_bytes([3; 32]);
        let check = |error: NodeError, kind: &str, hint: &str| {
            let error = RpcError::from(error);
            assert_eq!(error.data.kind, kind);
            assert!(error.data.hint.as_ref().is_some_and(|text| text.contains(hint)), "{error:?}");
            error.is_temporary()
        };
        let refused = |error| NodeError::Refused(RequestError::Roster(std::sync::Arc::new(error)));

        assert!(!check(NodeError::OwnDevice { scope: Scope::Personal }, "OwnDevice", "another device"));
        let scope = Scope::Shared("acme".into());
        assert!(!check(NodeError::OwnDevice { scope }, "OwnDevice", "`kinfold space leave acme`"));
        assert!(!check(NodeError::PersonalSpace, "PersonalSpace", "`kinfold retire`"));
        assert!(check(NodeError::NotReachable { device }, "NotReachable", "`kinfold revoke`"));
        assert!(check(NodeError::StillBehind { device, ops: 2 }, "StillBehind", "try again"));
        assert!(!check(refused(RosterError::NotAdmin { device }), "NotAdmin", "`kinfold devices`"));
        assert!(!check(refused(RosterError::LastAdmin { device }), "LastAdmin", "--role admin"));
        assert!(!check(NodeError::Refused(RequestError::NotAuthor), "NotAuthor", "`kinfold status`"));
    }

    #[test]
    fn what_passes_by_itself_is_temporary() {
        assert!(RpcError::from(NodeError::TimedOut).is_temporary());
        assert!(!RpcError::from(NodeError::UnknownOp).is_temporary());
    }
}
