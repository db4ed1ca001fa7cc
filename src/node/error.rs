//! What a caller of a node may be told.

use std::path::PathBuf;

use thiserror::Error;

use crate::model::{Blame, PayloadError, Surface, Tier};

/// A refused or failed request to a node.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NodeError {
    /// No device lives in this directory.
    #[error("no kinfold device in {home:?}; make one with `kinfold init`")]
    NotInitialised {
        /// The directory.
        home: PathBuf,
    },
    /// The store of a device holds no space: it was lost, and what was found is a new one.
    #[error("the store of {home:?} is missing or empty")]
    StoreEmpty {
        /// The directory.
        home: PathBuf,
    },
    /// `init` in a directory that is in use.
    #[error("{home:?} already holds a kinfold device (or other files); choose an empty directory")]
    HomeInUse {
        /// The directory.
        home: PathBuf,
    },
    /// The home cannot be locked.
    #[error("{home:?} cannot be locked")]
    Lock {
        /// The directory.
        home: PathBuf,
        /// Why.
        #[source]
        source: crate::store::LockError,
    },
    /// A file of the home cannot be read or written.
    #[error("{path:?} cannot be used")]
    HomeFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// `identity.key` holds no key.
    #[error(
        "{path:?} holds no Ed25519 key; restore it from where it was moved, or start afresh in another directory"
    )]
    IdentityDamaged {
        /// The file.
        path: PathBuf,
    },
    /// The store refused.
    #[error("the store refused")]
    Store(#[from] crate::store::StoreError),
    /// The store does not give the state back; nothing can be read or written in this run.
    #[error("the state cannot be read from the store")]
    Index {
        /// Why.
        #[source]
        source: std::sync::Arc<crate::store::StoreError>,
    },
    /// A stored op cannot be read back.
    #[error("a stored op cannot be read")]
    Read(#[source] Box<crate::store::ReadError>),
    /// The state shows an op that the store does not hold.
    #[error("op {} of the log of {} is shown but not in the store; run a refold, or fetch it from a peer", .dot.seq, .dot.log.device.short())]
    OpMissing {
        /// Where it should be.
        dot: crate::model::Dot,
    },
    /// The network cannot be used.
    #[error("the network cannot be used")]
    Net(#[from] crate::net::NetError),
    /// The settings cannot be read.
    #[error(transparent)]
    Config(Box<crate::config::ConfigError>),
    /// The value is no payload.
    #[error("the value is refused")]
    Payload(#[from] PayloadError),
    /// The turn breaks the rules of conversations.
    #[error(transparent)]
    Turn(#[from] crate::fold::conversation::TurnProblem),
    /// A key or stream name outside 1 to 1,024 bytes.
    #[error("a key has 1 to {limit} bytes, this one has {found}")]
    KeyLength {
        /// Bytes found.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A row of `registry:policy` that is no policy, or one for a surface that is kept whole.
    #[error(transparent)]
    Policy(crate::fold::PolicyError),
    /// The text names no surface.
    #[error(transparent)]
    Surface(#[from] crate::model::SurfaceError),
    /// The text names no address.
    #[error("{address:?} names no address of the form host:port")]
    PeerAddress {
        /// The text.
        address: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// An op that does not fit the tier of its surface.
    #[error("{surface} takes {tier:?} ops, not this kind")]
    WrongTier {
        /// The surface.
        surface: Surface,
        /// What it takes.
        tier: Tier,
    },
    /// A registry payload without a string `id`.
    #[error("a {surface} payload is an object with a string \"id\"")]
    IdMissing {
        /// The surface.
        surface: Surface,
    },
    /// Too few devices confirm another host of leases.
    #[error(
        "{confirmed} of {needed} devices have confirmed {} as the host of leases so far; {}",
        to.short(), waits_for(missing)
    )]
    HostUnconfirmed {
        /// The host to be.
        to: crate::model::DeviceId,
        /// How many have.
        confirmed: usize,
        /// How many have to.
        needed: usize,
        /// Those that have not.
        missing: Vec<crate::model::DeviceId>,
    },
    /// The engine refused the request.
    #[error(transparent)]
    Refused(#[from] crate::sync::RequestError),
    /// What the store holds contradicts itself.
    #[error(
        "the store's content contradicts itself; restore this home from a peer: init another directory and add it"
    )]
    Engine(#[source] Box<crate::sync::EngineError>),
    /// The new space cannot be founded.
    #[error("the space cannot be founded")]
    Roster(#[source] Box<crate::roster::RosterError>),
    /// This device takes part in no space of this scope.
    #[error("this device takes part in no space called {scope}; `kinfold space list` shows those it does")]
    NoSuchSpace {
        /// The scope.
        scope: crate::model::Scope,
    },
    /// A device cannot revoke or retire itself.
    #[error("this device does not remove itself from {scope}")]
    OwnDevice {
        /// From which space.
        scope: crate::model::Scope,
    },
    /// The personal space holds what belongs to the device itself.
    #[error("a device does not leave its personal space")]
    PersonalSpace,
    /// A device that is to be retired is not connected.
    #[error("{} is not connected, so what it has written last is not here", .device.short())]
    NotReachable {
        /// The device.
        device: crate::model::DeviceId,
    },
    /// No checkpoint can be made.
    #[error("no checkpoint was made: {why}")]
    NoCheckpoint {
        /// Why.
        why: super::checkpoint::WhyNoCheckpoint,
    },
    /// History stays as it is.
    #[error("no history is dropped: {}", crate::sync::gc::told(.holds))]
    GcHeld {
        /// What holds it back; at least one thing.
        holds: Vec<crate::sync::GcHold>,
    },
    /// The states of two devices were not compared.
    #[error("the state here was not compared with that of {}: {why}", .device.short())]
    NotCompared {
        /// The other device.
        device: crate::model::DeviceId,
        /// Why.
        why: super::verify::WhyNotCompared,
    },
    /// A device that is to be retired has ops that have not arrived.
    #[error("{ops} ops of {} are still on their way", .device.short())]
    StillBehind {
        /// The device.
        device: crate::model::DeviceId,
        /// How many.
        ops: u64,
    },
    /// A position in a log of which nothing is held.
    #[error("nothing of log {log} is held here")]
    UnknownLog {
        /// The log.
        log: crate::model::LogId,
    },
    /// A position beyond what a log has here.
    #[error("log {log} has {held} ops here, not {asked}")]
    BeyondLog {
        /// The log.
        log: crate::model::LogId,
        /// The position asked for.
        asked: crate::model::Seq,
        /// How far it is held.
        held: crate::model::Seq,
    },
    /// What lies before the checkpoint that the history here begins with is not kept.
    #[error(
        "the history before checkpoint {checkpoint} is gone: every active device has attested what it came to"
    )]
    BeforeBase {
        /// The checkpoint.
        checkpoint: crate::wire::checkpoint::CheckpointHash,
    },
    /// The past of a log is sealed under a key that is not here.
    #[error("log {log} is sealed from op {seq} on under a key that is not here")]
    PastKeyMissing {
        /// The log.
        log: crate::model::LogId,
        /// The first op that cannot be read.
        seq: crate::model::Seq,
    },
    /// Nothing stands against each other there.
    #[error("{surface} {key} has no open conflict")]
    NoConflict {
        /// The surface.
        surface: Surface,
        /// The row or entity.
        key: String,
    },
    /// A choice that this kind of conflict does not take.
    #[error("a conflict in {surface} is not settled like this")]
    ChoiceMisfit {
        /// The surface.
        surface: Surface,
    },
    /// The op is none of those that stand against each other.
    #[error("op {id} is none of the values in this conflict")]
    NotAHead {
        /// The op.
        id: crate::model::OpId,
    },
    /// The lease is not given or kept, or whoever gives leases does not answer.
    #[error(transparent)]
    Lease(Box<crate::coordinator::CoordinatorError>),
    /// No name of an agent or a run, or no token.
    #[error(transparent)]
    LeaseName(#[from] crate::model::LeaseNameError),
    /// The fence does not let the run act.
    #[error("the run may not act: {decision}")]
    Fenced {
        /// What it decided.
        decision: Box<crate::lease::FenceDecision>,
    },
    /// An op id that names no op held here.
    #[error("no op with this id is held here")]
    UnknownOp,
    /// A value that has not the type it was asked for as.
    #[error("{key:?} in {surface} is not of the type it is read as")]
    NotOfType {
        /// The surface.
        surface: Surface,
        /// The row.
        key: String,
        /// What does not fit.
        #[source]
        source: serde_json::Error,
    },
    /// The history is not the one a bookmark was taken in: another space, or the end of a log was dropped.
    #[error("the history is not the one this bookmark was taken in")]
    BookmarkStale,
    /// The time given has passed.
    #[error("not within the time given")]
    TimedOut,
    /// The node is not connected to a network.
    #[error("the network is not running; start the node first")]
    NotStarted,
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Whom a decision waits for, in a sentence.
fn waits_for(missing: &[crate::model::DeviceId]) -> String {
    let names: Vec<String> = missing.iter().map(crate::model::DeviceId::short).collect();
    format!("have these online, it goes on by itself: {}", names.join(", "))
}

impl NodeError {
    /// Who is to change something.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Net(_)
            | Self::TimedOut
            | Self::HostUnconfirmed { .. }
            | Self::NotReachable { .. }
            | Self::StillBehind { .. } => Blame::Environment,
            Self::Lease(error) => error.blame(),
            Self::NotCompared { why, .. } if why.is_passing() => Blame::Environment,
            Self::NotCompared { .. } => Blame::Peer,
            _ => Blame::Local,
        }
    }
}

macro_rules! boxed_from {
    ($($source:ty => $variant:ident),*) => {$(
        impl From<$source> for NodeError {
            fn from(source: $source) -> Self {
                Self::$variant(Box::new(source))
            }
        }
    )*};
}

// Boxed, because every answer of a node carries the size of its largest error.
boxed_from! {
    crate::config::ConfigError => Config,
    crate::store::ReadError => Read,
    crate::sync::EngineError => Engine,
    crate::roster::RosterError => Roster,
    crate::coordinator::CoordinatorError => Lease
}
