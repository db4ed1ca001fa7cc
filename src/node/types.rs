//! What a node tells: plain values, no handles.

use std::net::SocketAddr;
use std::time::Duration;

use super::checkpoint::{Adopted, Waiting};
use super::dropbox::DropboxStatus;
use super::lifecycle::Lifecycle;
use crate::lease::Phase;
use crate::model::{
    AgentId, Blame, CertHash, DeviceId, Dot, Hlc, IntentStatus, LeaseEpoch, OpId, Payload, Positions, Root,
    RunId, Scope, SpaceId, Surface,
};
use crate::roster::{Dormancy, Role};
use crate::wire::checkpoint::CheckpointHash;

/// A change to record, before it has a place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NewOp {
    /// Sets a row of a registry surface.
    Put {
        /// A surface of the registry tier.
        surface: Surface,
        /// The row, 1 to 1,024 bytes.
        key: String,
        /// The value.
        payload: Payload,
    },
    /// Removes a row of a registry surface.
    Delete {
        /// A surface of the registry tier.
        surface: Surface,
        /// The row.
        key: String,
    },
    /// Sets or removes a row of a registry surface in the place of just these heads.
    Resolve {
        /// A surface of the registry tier.
        surface: Surface,
        /// The row, 1 to 1,024 bytes.
        key: String,
        /// The heads it takes the place of, at most [`PREDS_MAX`](crate::model::limits::PREDS_MAX).
        heads: Vec<Dot>,
        /// The value; `None` removes the row.
        payload: Option<Payload>,
    },
    /// States a fact.
    Fact {
        /// A surface of the fact tier.
        surface: Surface,
        /// The entity.
        key: String,
        /// The value.
        payload: Payload,
    },
    /// Adds an event to a stream.
    Event {
        /// A surface of the event tier.
        surface: Surface,
        /// The stream.
        stream: String,
        /// The event.
        payload: Payload,
    },
    /// Says what a run is about to do or has done, whatever stands against it:
    /// [`Space::record_intent`](super::Space::record_intent) looks first.
    Intent(Intent),
}

/// What a run of an agent says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Intent {
    /// The agent.
    pub agent: AgentId,
    /// The run.
    pub run: RunId,
    /// The token its holder has.
    pub epoch: LeaseEpoch,
    /// The certificate of the host that gave the token; [`CertHash::NONE`] for the first host.
    pub cert: CertHash,
    /// What is said.
    pub status: IntentStatus,
    /// What else is to be noted.
    pub payload: Payload,
}

/// Where a durable op ended up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Appended {
    /// Its public name.
    pub id: OpId,
    /// Its place.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: Hlc,
}

/// One value of a row: the shown one, or one that lost.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RowValue {
    /// The public name of the op that wrote it.
    pub id: OpId,
    /// The place of that op.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: Hlc,
    /// The value; `None` where the op deleted the row.
    pub payload: Option<Payload>,
    /// Whether it came to a row whose removal a checkpoint had laid down: see
    /// [`Head::is_late`](crate::fold::Head::is_late).
    pub is_late: bool,
}

/// A row with everything that is said of it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Row {
    /// Its surface.
    pub surface: Surface,
    /// Its key.
    pub key: String,
    /// The shown value.
    pub shown: RowValue,
    /// Concurrent values that are not shown, newest first; not empty means a conflict.
    pub others: Vec<RowValue>,
    /// Whether that conflict is open: nobody has settled it.
    pub is_open: bool,
    /// The facts of its surface that supersede it.
    pub superseded_by: Vec<String>,
    /// Whether the retention policy of its surface drops it: then nothing of its value is shown.
    pub is_dropped: bool,
}

/// One event of a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct StreamEvent {
    /// The stream.
    pub stream: String,
    /// The op that recorded it.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: Hlc,
    /// What happened.
    pub payload: Payload,
}

/// What the fold changed, own and remote, in the order it was folded here.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Change {
    /// The surface.
    pub surface: Surface,
    /// The row, entity or stream.
    pub key: String,
    /// The op.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: Hlc,
    /// Its value; `None` for a delete.
    pub payload: Option<Payload>,
}

/// How many other devices must hold something durably.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Custody {
    /// At least this many devices other than this one.
    pub devices: u32,
}

impl Custody {
    /// On at least `devices` other devices.
    pub const fn on(devices: u32) -> Self {
        Self { devices }
    }
}

/// One round with every reachable peer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Round {
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
    pub absent: Vec<DeviceId>,
    /// Drop boxes that were looked at.
    pub dropboxes: u32,
    /// Those of them that could not be used.
    pub dropboxes_failed: u32,
    /// Ops left in drop boxes.
    pub dropbox_pushed: u64,
    /// Ops taken from drop boxes.
    pub dropbox_pulled: u64,
    /// The state hash afterwards.
    pub state_hash: Option<Root>,
}

/// A device of the roster as this one sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DeviceStatus {
    /// The device.
    pub device: DeviceId,
    /// Its name, where this device can read it.
    pub name: Option<String>,
    /// Its role.
    pub role: Role,
    /// Whether it is this device.
    pub is_self: bool,
    /// Whether it has been away for so long that nothing waits for it.
    pub is_dormant: bool,
    /// Since when, and whose word that is.
    pub dormancy: Option<Dormancy>,
    /// The address of a live connection.
    pub connected: Option<SocketAddr>,
    /// When it was last heard of in this run; `None` if never.
    pub last_contact: Option<Duration>,
    /// Ops this device holds that it has not acknowledged; `None` before its first ack.
    pub behind_by: Option<u64>,
    /// Ops it has acknowledged or announced that this device does not hold.
    pub ahead_by: u64,
    /// The root it last signed, with whether it was comparable and equal to this device's root then.
    pub root: Option<Root>,
    /// The last connection of this run that one side ended for what the other did.
    pub last_refusal: Option<ConnectionRefusal>,
}

/// A connection that one side ended for what the other did.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ConnectionRefusal {
    /// Why, for people.
    pub why: String,
    /// Who is to change something: the peer, or this device where the peer refused it.
    pub blame: Blame,
    /// How long ago.
    pub since: Duration,
}

/// Why a node is not simply healthy.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum HealthReason {
    /// Two histories of one log exist; the proof is kept.
    Fork {
        /// Whose log.
        device: DeviceId,
    },
    /// A log cannot be continued because of a batch its author made wrongly.
    LogBlocked {
        /// Whose log.
        device: DeviceId,
        /// What is wrong, for people.
        why: String,
    },
    /// Equal frontier, different root: the folds disagree.
    Diverged {
        /// With whom.
        device: DeviceId,
        /// The root here.
        ours: Root,
        /// The root there.
        theirs: Root,
    },
    /// A device has forgotten ops that only this device still has; they are kept until the two meet.
    Forgotten {
        /// Which.
        device: DeviceId,
        /// How many ops.
        ops: u64,
    },
    /// Batches wait for an epoch key.
    KeyMissing {
        /// How many batches.
        batches: u64,
    },
    /// This device's clock is more than five minutes from a peer's.
    ClockSkew {
        /// The peer.
        device: DeviceId,
        /// Seconds this clock is ahead; negative: behind.
        ahead_seconds: i64,
    },
    /// Ops of a later version are kept but not folded.
    UnknownOps {
        /// How many.
        count: u64,
    },
    /// What is missing here is gone elsewhere, and the checkpoint in its place is not to be begun with yet.
    BaseWaiting {
        /// Which, and why.
        waiting: Waiting,
    },
    /// mDNS is not to be had, so only known addresses are dialled.
    DiscoveryDown {
        /// Why, for people.
        why: String,
    },
    /// The network was lost or cannot be had: nothing is exchanged until it is back.
    NetworkFailed {
        /// Why, for people.
        why: String,
        /// How often in a row.
        failures: u32,
    },
    /// The store refused a write.
    StorageFailed {
        /// Why, for people.
        why: String,
    },
    /// Another device removed this one from the space; what is here stays readable.
    RemovedHere {
        /// From which.
        scope: Scope,
        /// By which device.
        by: DeviceId,
        /// What that one is called, where this device can read it.
        by_name: Option<String>,
        /// When, by the clock of that device, in Unix milliseconds.
        at_millis: u64,
    },
    /// Two running copies of one home were connected in this run.
    RunsTwice {
        /// Which device.
        device: DeviceId,
    },
    /// A drop box cannot be used now; it is tried again.
    DropboxFailed {
        /// Where it is.
        place: String,
        /// Why, for people.
        why: String,
        /// What to do.
        hint: &'static str,
    },
    /// Two admins renewed the key of the space at once; nothing is sealed until one renews it again.
    EpochContested,
    /// The device that hosts the leases was removed from the space: nobody gets a lease.
    LeaseHostRemoved {
        /// Which device that was.
        host: DeviceId,
    },
    /// This device hosts the leases and may not, because its home was restored or copied.
    LeasesQuarantined,
    /// This device hosts the leases, and a write of theirs failed: nothing is granted until it is
    /// opened again.
    LeaseStorageFailed,
}

/// Who hosts the leases of a space, as this device has it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LeaseHostStatus {
    /// The device that hosts.
    pub host: DeviceId,
    /// What it is called, where this device can read it.
    pub name: Option<String>,
    /// Whether it is still a device of the space.
    pub is_member: bool,
    /// Whether it can be asked now.
    pub is_reachable: bool,
    /// What the register of this device is doing.
    pub phase: Phase,
    /// Whether this home may neither host nor vote, because it was restored or copied.
    pub is_in_doubt: bool,
    /// Whether this device ever had to do with leases of the space. Where it had not, a register in
    /// quarantine keeps nobody from anything, and is no reason of health.
    pub is_used: bool,
}

/// What a node is and has.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Status {
    /// This device.
    pub device: DeviceId,
    /// Its name.
    pub name: String,
    /// The space shown.
    pub space: SpaceId,
    /// Its scope.
    pub scope: Scope,
    /// Where it listens, while the network is up.
    pub listening: Option<SocketAddr>,
    /// What the node is doing with its network.
    pub lifecycle: Lifecycle,
    /// The hash of the folded state.
    pub state_hash: Root,
    /// Per log: what is held (sealed and drafts).
    pub frontier: Vec<(crate::model::LogId, u64)>,
    /// How far each log is folded, with which `state_hash` belongs; `None` while loading.
    pub positions: Option<Positions>,
    /// Per log: how far every active device holds it; `None` before each has said so.
    pub stable: Option<Vec<(crate::model::LogId, u64)>>,
    /// Ops that are in the log here, after what the base holds.
    pub logged_count: u64,
    /// The length of the store file.
    pub store_bytes: u64,
    /// Ops held.
    pub op_count: u64,
    /// Live rows.
    pub row_count: u64,
    /// Events.
    pub event_count: u64,
    /// Rows in conflict.
    pub conflict_count: u64,
    /// Ops stamped more than a minute ahead of this clock when they arrived.
    pub skewed_count: u64,
    /// Ops that break the rules of their kind: kept and passed on, shown nowhere.
    pub malformed_count: u64,
    /// UDP bytes sent over the connections that are up.
    pub sent_bytes: u64,
    /// UDP bytes received over the connections that are up.
    pub received_bytes: u64,
    /// The devices of the roster, this one first.
    pub devices: Vec<DeviceStatus>,
    /// Devices of whose logs two histories existed, and that have said which one stands.
    pub forks_healed: Vec<DeviceId>,
    /// The drop boxes of the space. What lies in one is on no device yet.
    pub dropboxes: Vec<DropboxStatus>,
    /// The checkpoint that the history begins with, if not with the first op of every log.
    pub base: Option<CheckpointHash>,
    /// What it begins with, where this device did not fold that itself.
    pub adopted: Option<Adopted>,
    /// What it is to begin with, and does not yet.
    pub waiting: Option<Waiting>,
    /// Who hosts the leases; `None` where this device is no longer one of the space.
    pub lease_host: Option<LeaseHostStatus>,
    /// Empty means healthy.
    pub health: Vec<HealthReason>,
    /// Whether the index over the logs is still being read.
    pub is_loading: bool,
}

/// Whether the lid may be closed: who holds everything this device has.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SafeToSleep {
    /// Devices that hold every op of this device durably.
    pub holders: Vec<DeviceId>,
    /// Ops nobody else holds, as far as this device knows.
    pub unheld_ops: u64,
}

impl SafeToSleep {
    /// Whether another device holds everything durably.
    pub fn is_safe(&self) -> bool {
        !self.holders.is_empty()
    }
}
