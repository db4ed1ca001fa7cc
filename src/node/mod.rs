//! The running node: one thread owns the engine, everything else talks to it.
//!
//! Owns the lifecycle, the home directory and the wiring of engine, store, fold state and network.
//! Must never decide anything about replication itself. [`Node`] is where an application begins;
//! `core` is the loop that performs the engine's effects.

mod addresses;
mod based;
mod bundle;
mod checkpoint;
mod conflicts;
mod conversation;
mod coordinator;
mod core;
mod dropbox;
mod error;
mod fallen;
mod follow;
mod gc;
mod handle;
mod home;
mod hosted;
mod index;
mod lease;
mod ledger;
mod lifecycle;
mod marker;
mod members;
mod metrics;
mod pairing;
mod past;
mod policy;
mod read;
mod removal;
mod settings;
mod space;
mod status;
mod typed;
mod types;
mod upkeep;
mod verify;

pub use addresses::remembered_addresses;
pub use bundle::{BundleExported, BundleFailure, BundleImported, BundleProgress, Missing};
pub use checkpoint::{
    ATTESTATIONS_NEEDED, Adopted, BaseAudit, CheckpointInfo, Consent, Published, Rebased, Waiting,
    WhyNoCheckpoint, WhyNotComputed, WhyWaiting,
};
pub use conflicts::{Choice, Decision, Resolution, StoredOp};
pub use conversation::{NewTurn, Resumed, TranscriptTurn};
pub use dropbox::{DropboxFailure, DropboxStatus};
pub use error::NodeError;
pub use follow::{Bookmark, FollowError, Follower};
pub use gc::{Dropped, GcReport, Grace};
pub use handle::{Node, NodeBuilder};
pub use hosted::LeaseHost;
pub use lease::{LeaseGuard, LeaseRequest};
pub use ledger::{IntentRecorded, RecordedIntent, Run};
pub use lifecycle::{Lifecycle, Stopped};
pub use members::{Activity, Rotated, SpaceInfo};
pub use metrics::{Figure, Metric, MetricKind, Sample, prometheus};
pub use pairing::{Membership, PairError};
pub use past::StateAt;
pub use policy::PolicyRow;
pub use removal::{RemovedDevice, Revoked};
pub use settings::Reloaded;
pub use space::Space;
pub use typed::{Typed, TypedChange, TypedFollower};
pub use types::{
    Appended, Change, ConnectionRefusal, Custody, DeviceStatus, HealthReason, Intent, LeaseHostStatus, NewOp,
    Round, Row, RowValue, SafeToSleep, Status, StreamEvent,
};
pub use verify::{Against, Audit, Comparison, Difference, Right, WhyNotCompared};
