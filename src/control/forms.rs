//! What the methods answer, as programs read it.
//!
//! Names and meanings are stable; fields are added, never changed. Times are Unix milliseconds,
//! spans milliseconds, hashes lower-case hexadecimal, devices their full text form.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::dropbox::DropboxForm;
use super::error::RpcError;
use super::params::{BookmarkForm, RoleParam, RowPlace, ScopeParam};
use super::rebase::{AdoptedForm, WaitingForm};

/// An op that is durable.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AppendedForm {
    /// Its public name.
    pub op_id: String,
    /// Its position in this device's log.
    pub seq: u64,
    /// Its stamp: 48 bits Unix milliseconds, 16 bits counter.
    pub hlc: u64,
}

/// What became of many ops.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AppendManyForm {
    /// The durable ones, in order.
    pub appended: Vec<AppendedForm>,
    /// The refused ones; empty unless `keep_good` was asked for.
    pub refused: Vec<RefusedForm>,
}

/// One refused op of many.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RefusedForm {
    /// Its position in the request, from 0.
    pub index: usize,
    /// Why.
    pub error: RpcError,
}

/// A row with its shown value and those that lost.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RowForm {
    /// The surface's text form.
    pub surface: String,
    /// The row's key.
    pub id: String,
    /// Whether the shown value is a removal (then `payload` is null).
    pub deleted: bool,
    /// The shown value.
    pub payload: Box<RawValue>,
    /// Who wrote it.
    pub device_id: String,
    /// In which life of that device's log, hexadecimal.
    pub incarnation: String,
    /// At which position of that log.
    pub seq: u64,
    /// Its stamp.
    pub hlc: u64,
    /// The wall-clock part of the stamp.
    pub time_ms: u64,
    /// The public name of the op that wrote it.
    #[serde(default)]
    pub op_id: String,
    /// Concurrent values that are not shown, newest first; not empty means a conflict.
    pub others: Vec<ValueForm>,
    /// Whether that conflict is open: nobody has settled it.
    #[serde(default)]
    pub open: bool,
    /// The facts of its surface that supersede it; absent where none does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub superseded_by: Vec<String>,
    /// Present and true where the retention policy of its surface drops it (then `payload` is null).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dropped: bool,
}

/// A value that is not shown.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ValueForm {
    /// The public name of the op that wrote it.
    #[serde(default)]
    pub op_id: String,
    /// Whether it is a removal (then `payload` is null).
    pub deleted: bool,
    /// The value.
    pub payload: Box<RawValue>,
    /// Who wrote it.
    pub device_id: String,
    /// In which life of that device's log, hexadecimal.
    pub incarnation: String,
    /// At which position of that log.
    pub seq: u64,
    /// Its stamp.
    pub hlc: u64,
    /// The wall-clock part of the stamp.
    pub time_ms: u64,
    /// Present and true where it came to a row that had been removed while its device was away: it does
    /// not show beside the removal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
}

/// An event.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EventForm {
    /// The surface's text form.
    pub surface: String,
    /// Its stream.
    pub stream: String,
    /// What happened.
    pub payload: Box<RawValue>,
    /// Who recorded it.
    pub device_id: String,
    /// In which life of that device's log, hexadecimal.
    pub incarnation: String,
    /// At which position of that log.
    pub seq: u64,
    /// Its stamp.
    pub hlc: u64,
    /// The wall-clock part of the stamp.
    pub time_ms: u64,
}

/// A page of a surface: rows of registry and fact surfaces, events of event surfaces.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ListForm {
    /// Rows in key order.
    pub rows: Vec<RowForm>,
    /// Events by stream, then in total order.
    pub events: Vec<EventForm>,
    /// Where to go on; null at the end.
    pub next: Option<String>,
}

/// Surfaces that hold something.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SurfacesForm {
    /// In text order.
    pub surfaces: Vec<SurfaceForm>,
}

/// One surface.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SurfaceForm {
    /// Its text form.
    pub surface: String,
    /// `rows` or `events`.
    pub holds: String,
    /// Live rows or events.
    pub count: u64,
}

/// Rows in conflict.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConflictsForm {
    /// In (surface, key) order.
    pub conflicts: Vec<RowForm>,
    /// Where to go on; null at the end.
    pub next: Option<RowPlace>,
}

/// A change, as a `sync.changed` notice tells it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ChangeForm {
    /// Whose notice this is.
    pub subscription: u64,
    /// The surface's text form.
    pub surface: String,
    /// The row, entity or stream.
    pub id: String,
    /// Whether the op removed the row (then `payload` is null).
    pub deleted: bool,
    /// The op's value.
    pub payload: Box<RawValue>,
    /// Who wrote it.
    pub device_id: String,
    /// In which life of that device's log, hexadecimal.
    pub incarnation: String,
    /// At which position of that log.
    pub seq: u64,
    /// Its stamp.
    pub hlc: u64,
    /// The wall-clock part of the stamp.
    pub time_ms: u64,
}

/// The last notice of a subscription whose reader fell behind, `sync.lagged`. Nothing is lost: subscribe
/// again with `after` set to `resume_after`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LaggedForm {
    /// Whose notice this is.
    pub subscription: u64,
    /// How many changes were not told, of any surface.
    pub missed: u64,
    /// After the last change that was told.
    pub resume_after: BookmarkForm,
}

/// The last notice of a subscription that cannot go on, `sync.ended`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EndedForm {
    /// Whose notice this is.
    pub subscription: u64,
    /// Why.
    pub error: RpcError,
}

/// A subscription.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SubscribedForm {
    /// Named in its notices and to `sync.unsubscribe`.
    pub subscription: u64,
    /// The place its notices follow.
    pub bookmark: BookmarkForm,
}

/// An ended subscription.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct UnsubscribedForm {
    /// False where there was none with this number.
    pub cancelled: bool,
}

/// One round with every reachable peer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RoundForm {
    /// Ops sent.
    pub pushed: u64,
    /// Ops not sent because the peer had them by then.
    pub push_deduped: u64,
    /// Ops received and folded.
    pub folded: u64,
    /// Acks that reached this device.
    pub acked: u64,
    /// Peers that took part.
    pub peers: u32,
    /// Devices that were named and could not be reached.
    #[serde(default)]
    pub absent: Vec<String>,
    /// Drop boxes that were looked at.
    pub dropboxes: u32,
    /// Those of them that could not be used.
    pub dropboxes_failed: u32,
    /// Ops left in drop boxes.
    pub dropbox_pushed: u64,
    /// Ops taken from drop boxes.
    pub dropbox_pulled: u64,
    /// The state hash afterwards.
    pub state_hash: Option<String>,
}

/// Who holds it durably.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WaitForm {
    /// Devices other than this one.
    pub holders: Vec<String>,
}

/// Whether the lid may be closed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SafeToSleepForm {
    /// Whether another device holds everything durably.
    pub safe: bool,
    /// The devices that hold everything.
    pub holders: Vec<String>,
    /// Ops nobody else holds, as far as this device knows.
    pub unheld_ops: u64,
}

/// What a node is and has.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StatusForm {
    /// This device.
    pub device_id: String,
    /// Its name.
    pub name: String,
    /// The version of the program that answers.
    pub version: String,
    /// The process that answers.
    pub pid: u32,
    /// The space.
    pub space: String,
    /// Its scope.
    pub scope: ScopeParam,
    /// Where it listens; null while the network is down.
    pub listening: Option<String>,
    /// What the node is doing with its network.
    #[serde(default)]
    pub lifecycle: LifecycleForm,
    /// The hash of the folded state.
    pub state_hash: String,
    /// Per log (`device/incarnation`) how far it is held here.
    pub journal_frontier: BTreeMap<String, u64>,
    /// How far each log is folded, for `sync.state_at`; null while the index is being read.
    #[serde(default)]
    pub frontier: Option<String>,
    /// Per log how far every active device has acknowledged; null until that is known.
    pub stable_frontier: Option<BTreeMap<String, u64>>,
    /// The checkpoint the state starts from; null where it starts from nothing.
    pub base_checkpoint: Option<String>,
    /// Ops that are in the log here, after what the base holds.
    #[serde(default)]
    pub logged_ops: u64,
    /// The length of the store file.
    #[serde(default)]
    pub store_bytes: u64,
    /// Ops held.
    pub ops: u64,
    /// Live rows.
    pub rows: u64,
    /// Events.
    pub events: u64,
    /// Rows in conflict.
    pub conflicts: u64,
    /// Ops that arrived stamped more than a minute ahead of this clock.
    pub skewed: u64,
    /// Ops that break the rules of their kind: kept and passed on, shown nowhere.
    pub malformed: u64,
    /// Bytes sent over the connections that are up, everything included.
    pub sent_bytes: u64,
    /// Bytes received over the connections that are up, everything included.
    pub received_bytes: u64,
    /// Whether the index over the logs is still being read.
    pub loading: bool,
    /// The devices of the space, this one first.
    pub roster: Vec<DeviceForm>,
    /// The other devices, with what is known of them.
    pub peers: Vec<PeerForm>,
    /// Devices of whose logs two histories existed, and that have said which one stands.
    pub forks_healed: Vec<String>,
    /// The drop boxes of the space. What lies in one is on no device yet.
    pub dropboxes: Vec<DropboxForm>,
    /// The checkpoint that the state starts from, where this device did not fold that itself; null otherwise.
    #[serde(default)]
    pub adopted: Option<AdoptedForm>,
    /// The checkpoint that the state is to start from, and does not yet; null otherwise.
    #[serde(default)]
    pub waiting: Option<WaitingForm>,
    /// Who hosts the leases; null where this device is no longer one of the space.
    #[serde(default)]
    pub lease_host: Option<LeaseHostStatusForm>,
    /// How it is.
    pub health: HealthForm,
}

/// What a node is doing with its network.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct LifecycleForm {
    /// `stopped`, `starting`, `running`, `failed` or `stopping`.
    pub state: String,
    /// Why it failed.
    pub why: Option<String>,
    /// How often in a row it failed.
    pub failures: u32,
    /// When the network is tried again by itself; null where it is not.
    pub again_in_ms: Option<u64>,
}

/// Who hosts the leases of a space.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LeaseHostStatusForm {
    /// The device.
    pub device_id: String,
    /// Its name, where this device can read it.
    pub name: Option<String>,
    /// Whether it is still a device of the space.
    pub is_member: bool,
    /// Whether it can be asked now.
    pub reachable: bool,
    /// What the register of the device that answers is doing, as in `lease.host`.
    pub phase: String,
    /// Whether the device that answers may neither host nor vote, because its home was restored or
    /// copied.
    pub in_doubt: bool,
    /// Whether the device that answers ever had to do with leases.
    pub used: bool,
}

/// A device of the roster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DeviceForm {
    /// The device.
    pub device_id: String,
    /// Its name, where this device can read it.
    pub name: Option<String>,
    /// Its role.
    pub role: RoleParam,
    /// Whether it is this device.
    #[serde(rename = "self")]
    pub is_self: bool,
    /// Whether it has been away for so long that nothing waits for it.
    pub dormant: bool,
    /// Since when, in Unix milliseconds by the clock of whoever said so; null while it is waited for.
    pub dormant_since_ms: Option<u64>,
    /// The days of silence after which an admin's device said so by itself; null where a person did.
    pub dormant_after_days: Option<u16>,
    /// Whether a connection is up.
    pub connected: bool,
    /// How long ago it was heard of in this run; null if never.
    pub last_contact_ms: Option<u64>,
}

/// Another device as this one sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PeerForm {
    /// The device.
    pub device_id: String,
    /// Its name, where this device can read it.
    pub name: Option<String>,
    /// Whether a connection is up.
    pub connected: bool,
    /// Its address while connected.
    pub address: Option<String>,
    /// How long ago it was heard of in this run; null if never.
    pub last_contact_ms: Option<u64>,
    /// Ops this device holds that the peer has not acknowledged; null before its first ack.
    pub behind_by: Option<u64>,
    /// Ops the peer has that this device does not hold.
    pub ahead_by: u64,
    /// The root it last signed.
    pub root: Option<String>,
    /// The last connection of this run that one side ended for what the other did.
    pub last_refusal: Option<RefusalForm>,
}

/// A connection that one side ended for what the other did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RefusalForm {
    /// Why, for people.
    pub why: String,
    /// `peer`, or `local` where the peer refused this device.
    pub blame: String,
    /// How long ago.
    pub since_ms: u64,
}

/// The other devices.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PeersForm {
    /// In roster order.
    pub peers: Vec<PeerForm>,
}

/// Figures of this run and of what is held.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MetricsForm {
    /// In the order they are shown.
    pub metrics: Vec<MetricForm>,
}

/// One figure.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MetricForm {
    /// Its name, as Prometheus has it.
    pub name: String,
    /// What it is.
    pub help: String,
    /// `counter` or `gauge`.
    pub kind: String,
    /// One for each of its labels.
    pub samples: Vec<SampleForm>,
}

/// A value and what it is about.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SampleForm {
    /// Names and values.
    pub labels: BTreeMap<String, String>,
    /// A count, a number of bytes, or a span in seconds.
    pub value: serde_json::Number,
}

/// Something was added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AddedForm {
    /// What: a device or an address.
    pub added: String,
}

/// How a node is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HealthForm {
    /// `healthy`, `degraded` or `unhealthy`.
    pub state: String,
    /// Empty means healthy.
    pub reasons: Vec<ReasonForm>,
}

/// Why a node is not simply healthy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ReasonForm {
    /// The reason's name.
    pub kind: String,
    /// What it is about, for people.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// The device it concerns.
    pub device_id: Option<String>,
    /// When it happened, where that is known.
    pub at_ms: Option<u64>,
}

/// What answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct VersionForm {
    /// `kinfold`.
    pub name: String,
    /// The crate's version.
    pub version: String,
    /// This device.
    pub device_id: String,
    /// The process that answers.
    pub pid: u32,
    /// Methods it answers.
    pub methods: Vec<String>,
}
