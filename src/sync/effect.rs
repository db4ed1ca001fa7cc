//! What goes into the engine and what comes out.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use super::base::BaseRefused;
use super::ingest::WhyNotAdmitted;
use super::txn::{Txn, TxnId};
use crate::crypto::{BatchError, EpochKey, SealedBatch, SignatureError};
use crate::lease;
use crate::model::{
    Blame, DeviceId, Dot, Frontier, Hlc, KeyId, LeaseEpoch, LogId, Op, OpId, Root, Scope, Seq, SpaceId, Tip,
    TipHash,
};
use crate::oplog::Seen;
use crate::roster::{NotAuthor, Role, RosterError};
use crate::wire::MessageError;
use crate::wire::checkpoint::CheckpointHash;

/// Names one connection of one run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerId(u64);

impl PeerId {
    /// Takes the raw number.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }
    /// The raw number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Names one caller that waits for an answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Token(pub u64);

/// An op to be written, with what its author saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authored {
    /// The op; its predecessors are filled in by the engine.
    pub op: Op,
    /// What the fold shows on the row or stream.
    pub seen: Seen,
}

/// Where an op ended up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// Its public name.
    pub id: OpId,
    /// Its place.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: Hlc,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A peer is authenticated and can be sent to.
    Connected {
        /// The connection.
        peer: PeerId,
        /// Who is at its other end.
        device: DeviceId,
    },
    /// A control frame arrived.
    Frame {
        /// The connection.
        peer: PeerId,
        /// The frame's content.
        bytes: Bytes,
    },
    /// Sealed batches arrived, in order.
    Batches {
        /// The connection.
        peer: PeerId,
        /// One whole batch each.
        batches: Vec<Bytes>,
    },
    /// A push order has been handed to the network as far as `through`.
    PushDone {
        /// The connection.
        peer: PeerId,
        /// The space.
        space: SpaceId,
        /// The log.
        log: LogId,
        /// The last position handed over.
        through: Seq,
    },
    /// A push order found that the peer's end of the log is not on this device's history.
    PushForked {
        /// The connection.
        peer: PeerId,
        /// The space.
        space: SpaceId,
        /// The log.
        log: LogId,
        /// The peer's end of it.
        at: Seq,
    },
    /// A connection ended.
    Closed {
        /// The connection.
        peer: PeerId,
    },
    /// Ops to write.
    Append {
        /// The space.
        space: SpaceId,
        /// At least one op.
        ops: Vec<Authored>,
        /// Who waits.
        token: Token,
    },
    /// Ops of a space that was left, to be written into the one that took its place under their
    /// original identities; asked for by [`Effect::CarryOver`].
    Carry {
        /// The space that was left.
        from: SpaceId,
        /// The space that took its place.
        to: SpaceId,
        /// Those that are not there yet, in order.
        ops: Vec<Stored>,
        /// How many ops of this device in the space that was left are dealt with then.
        through: Seq,
        /// Who waits.
        token: Token,
    },
    /// A space to found, with this device as its first admin.
    Found {
        /// What it is for; this device takes part in no other of this scope.
        scope: Scope,
        /// What this device is called in it.
        name: Arc<str>,
        /// Who waits.
        token: Token,
    },
    /// A space this device was invited into.
    Join {
        /// The space.
        space: SpaceId,
        /// Its roster.
        records: Vec<Bytes>,
        /// Its keys; none for a blind device.
        keys: Vec<EpochKey>,
        /// Who waits.
        token: Token,
    },
    /// A roster to change.
    Change {
        /// The space.
        space: SpaceId,
        /// What is to change.
        change: RosterChange,
        /// Who waits.
        token: Token,
    },
    /// A new key for a space, handed to everybody who is connected.
    Rotate {
        /// The space.
        space: SpaceId,
        /// Who waits.
        token: Token,
    },
    /// Ops of a history that is dropped, to be written again; asked for by [`Effect::Reissue`].
    Reissue {
        /// The space.
        space: SpaceId,
        /// The log they are in.
        log: LogId,
        /// Those that are not written again yet, in order.
        ops: Vec<Stored>,
        /// How far the log is dealt with then.
        through: Seq,
    },
    /// A device to add to a roster. Where it is there already, there is nothing to do.
    Enrol {
        /// The space.
        space: SpaceId,
        /// The device.
        device: DeviceId,
        /// Its role.
        role: Role,
        /// Its name.
        name: Arc<str>,
        /// Who waits.
        token: Token,
    },
    /// A transaction is durable.
    Persisted(TxnId),
    /// A transaction failed; nothing of it is durable. Of several that failed together the last
    /// one comes first: each is taken back to what the one before it left.
    PersistFailed(TxnId),
    /// Everything emitted as [`Effect::Fold`] so far is folded.
    Folded {
        /// The space.
        space: SpaceId,
        /// How far, per log, the fold has come.
        applied: Vec<(LogId, Seq)>,
        /// The hash of the state there.
        root: Root,
        /// Ops kept but not folded.
        unknown_count: u64,
    },
    /// The answer to [`Effect::LookUp`].
    LookedUp {
        /// The look-up.
        token: Token,
        /// For each position asked for the batch that holds it, where there is one.
        batches: Vec<Option<SealedBatch>>,
    },
    /// What a carrier brought: a bundle, an object of a drop box. Nobody is believed for having
    /// brought it. Answered by [`Effect::Delivered`] once what was taken is durable.
    Deliver {
        /// The space.
        space: SpaceId,
        /// What was brought.
        delivery: Delivery,
        /// Who waits.
        token: Token,
    },
    /// A device asks the register of leases that this device may host.
    Lease {
        /// The space.
        space: SpaceId,
        /// Who asks: proven by its connection, or this device.
        from: DeviceId,
        /// What.
        request: lease::Request,
        /// Who waits.
        token: Token,
    },
    /// A lease token was given to this device by the host.
    LeaseSeen {
        /// The space.
        space: SpaceId,
        /// The token.
        epoch: LeaseEpoch,
    },
    /// The register of leases is to have another host.
    MoveLeaseHost {
        /// The space.
        space: SpaceId,
        /// The device.
        to: DeviceId,
        /// With the host, or without it because it is lost.
        kind: lease::CertKind,
        /// Who waits.
        token: Token,
    },
    /// One round: each of these devices says what it has, and every connected one where none is named.
    Round {
        /// Whom with.
        with: Vec<DeviceId>,
        /// Who waits.
        token: Token,
    },
    /// Drafts are to be sealed although nobody waits for them.
    Seal {
        /// The space.
        space: SpaceId,
    },
    /// A checkpoint that is whole here, to begin the history of a space with: what its cut covers is
    /// dropped, and logs that end before the cut end there. Whoever gives it has made sure that logs
    /// which go on beyond the cut have a batch that ends there.
    Base {
        /// The space.
        space: SpaceId,
        /// The checkpoint.
        checkpoint: CheckpointHash,
        /// Its cut.
        cut: Frontier,
        /// Who waits.
        token: Token,
    },
    /// Ops of an own log after a place that no other device is known to hold are written again, and then dropped
    /// from it: a checkpoint is about to take the place of that log, and may be of another history of it.
    WriteAgain {
        /// The space.
        space: SpaceId,
        /// The log.
        log: LogId,
        /// The last place that another device holds.
        to: Tip,
    },
    /// What this device holds of logs of others, and the checkpoint that it wants to begin with leaves out: given to
    /// their authors when they are connected, until it begins with one.
    Strays {
        /// The space.
        space: SpaceId,
        /// All of it.
        strays: Vec<Stray>,
    },
    /// A log of another device has another history here than the checkpoint is of that this device wants to begin
    /// with, and nothing in it is a stray: it is dropped.
    GiveWay {
        /// The space.
        space: SpaceId,
        /// The log.
        log: LogId,
    },
    /// A checkpoint that this device wants to begin with is sealed under a key that it lacks: it is asked for, also
    /// where no record here names it.
    WantKey {
        /// The space.
        space: SpaceId,
        /// The key.
        key_id: KeyId,
    },
    /// How many ops of the history of [`Effect::SearchElsewhere`] no other log of its device holds.
    SearchedElsewhere {
        /// The space.
        space: SpaceId,
        /// The log.
        log: LogId,
        /// From where on was searched for.
        after: Seq,
        /// How far was searched for.
        through: Seq,
        /// How many ops, with those that cannot be read; `None`: nobody knows, because the search failed. It is asked
        /// for again.
        lost_count: Option<u64>,
    },
    /// What is not known of the ops of [`Effect::Recall`].
    Recalled {
        /// The space.
        space: SpaceId,
        /// As asked.
        fallen: Option<GivenBack>,
        /// The ops, in order, none is fine; `None`: nobody knows, because the search failed. They are asked for again.
        ops: Option<Vec<Stored>>,
    },
    /// No checkpoint is looked for any more: what is held of a space is told, see [`Engine::hold_back`].
    ///
    /// [`Engine::hold_back`]: super::Engine::hold_back
    Release {
        /// The space.
        space: SpaceId,
    },
    /// The disk of this device is a restored backup or a copy: given before anything is written.
    Doubt,
    /// A deadline passed.
    Tick,
}

/// A run of ops to fold, in the order of their log.
#[derive(Clone, Debug)]
pub struct FoldRun {
    /// The log.
    pub log: LogId,
    /// The position of the first op.
    pub first: Seq,
    /// How many.
    pub op_count: u32,
    /// The ops as a batch body.
    pub body: Bytes,
}

/// What a shell is to do.
#[derive(Debug)]
pub enum Effect {
    /// Make this durable, then report it.
    Persist(Txn),
    /// Fold these, then report the root.
    Fold {
        /// The space.
        space: SpaceId,
        /// The ops.
        runs: Vec<FoldRun>,
    },
    /// Fold what lies in the store beyond what is folded: a key has arrived for it.
    CatchUp {
        /// The space.
        space: SpaceId,
    },
    /// Throw the folded state away and fold again from the store.
    Refold {
        /// The space.
        space: SpaceId,
    },
    /// Send a control frame.
    Send {
        /// The connection.
        peer: PeerId,
        /// The frame's content.
        frame: Bytes,
    },
    /// Send a fresh batch ahead of any backlog.
    SendLive {
        /// The connection.
        peer: PeerId,
        /// The batch.
        batch: Bytes,
    },
    /// Stream batches from the store.
    Push {
        /// The connection.
        peer: PeerId,
        /// The space.
        space: SpaceId,
        /// The log.
        log: LogId,
        /// The peer's end of the log.
        after: Seq,
        /// The link the peer has there; the first batch sent must name it.
        after_link: TipHash,
        /// The last position to send.
        through: Seq,
    },
    /// Find the batches that hold these positions.
    LookUp {
        /// The space.
        space: SpaceId,
        /// The log.
        log: LogId,
        /// The positions.
        seqs: Vec<Seq>,
        /// To be returned with the answer.
        token: Token,
    },
    /// End a connection.
    Close {
        /// The connection.
        peer: PeerId,
        /// Why.
        why: Refusal,
    },
    /// Ops are durable.
    Appended {
        /// Who waits.
        token: Token,
        /// Where they ended up, in the order given.
        placed: Vec<Placed>,
    },
    /// The register has answered.
    Leased {
        /// Who waits.
        token: Token,
        /// What.
        reply: lease::Reply,
    },
    /// A request was refused or could not be made durable.
    Failed {
        /// Who waits.
        token: Token,
        /// Why.
        why: RequestError,
    },
    /// A request without a result is done.
    Done {
        /// Who waits.
        token: Token,
    },
    /// What a carrier brought is durable, as far as it was taken.
    Delivered {
        /// Who waits.
        token: Token,
        /// What became of it.
        outcome: Delivered,
    },
    /// Carry the own ops of a space this device has left into the one that took its place, a piece at
    /// a time as [`Input::Carry`]; where one fails, stop: this comes again.
    CarryOver {
        /// The space that was left.
        from: SpaceId,
        /// The space that took its place.
        to: SpaceId,
    },
    /// Read ops of an own log whose history is dropped, and give those that are not written again
    /// yet to [`Input::Reissue`], a piece at a time.
    Reissue {
        /// The space.
        space: SpaceId,
        /// The log.
        log: LogId,
        /// The last position that is dealt with.
        after: Seq,
        /// The last position there is.
        through: Seq,
    },
    /// Another history of a log of another device stands after a place than the one here: search the other logs of
    /// that device, and the base, for the ops after it ([`StraySearch`](super::StraySearch)), and give how many are
    /// nowhere to [`Input::SearchedElsewhere`].
    SearchElsewhere {
        /// The space.
        space: SpaceId,
        /// The log.
        log: LogId,
        /// The place.
        after: Seq,
        /// How far it is held.
        through: Seq,
    },
    /// Ops of this device have come back from below its floor, or of a history that has fallen: give those that are
    /// not known to [`Input::Recalled`].
    Recall {
        /// The space.
        space: SpaceId,
        /// Of which history they are, where it has fallen: known is what the base and the own logs besides that one
        /// hold, drafts too ([`StraySearch`](super::StraySearch)). Otherwise it is what the state of the space knows
        /// ([`State::knows`](crate::fold::State::knows)).
        fallen: Option<GivenBack>,
        /// The ops, under the identity they were first written with.
        ops: Vec<Stored>,
    },
    /// Something an application or a person may want to know.
    Notice(Notice),
}

/// A piece of a history of an own log that has fallen, which somebody has given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GivenBack {
    /// The log.
    pub log: LogId,
    /// Where the piece ends.
    pub end: Tip,
    /// Who; `None`: a carrier.
    pub by: Option<PeerId>,
    /// Whether everything as far as this came from there and could be read: then nothing of it is lost once this is
    /// dealt with.
    pub is_whole: bool,
}

/// What a carrier brings of one space, as it was received.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    /// Roster records, parents first; taken before the rest.
    pub records: Vec<Bytes>,
    /// One whole batch each, those of one log in order.
    pub batches: Vec<Bytes>,
    /// Ack frames with their full frontier.
    pub acks: Vec<Bytes>,
}

/// What became of a [`Delivery`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Delivered {
    /// Records that are new here.
    pub records: u64,
    /// Ops that are new here.
    pub ops: u64,
    /// Ops that were held already.
    pub held_ops: u64,
    /// Acks that say more than what was known.
    pub acks: u64,
    /// Batches that are none, or of another space.
    pub malformed: u64,
    /// Batches that were not taken, and why.
    pub not_taken: Vec<NotTaken>,
}

/// Batches of one log that were not taken from a carrier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotTaken {
    /// The log.
    pub log: LogId,
    /// The first position.
    pub first: Seq,
    /// The last position.
    pub last: Seq,
    /// Why.
    pub why: WhyNotTaken,
}

impl NotTaken {
    /// How many ops.
    pub const fn op_count(&self) -> u64 {
        (self.last.get() + 1).saturating_sub(self.first.get())
    }
}

/// Why batches were not taken from a carrier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum WhyNotTaken {
    /// Batches from this position on are missing before them.
    Gap {
        /// The next position here.
        expected: Seq,
    },
    /// No record here makes their author a device of the space; one may still arrive.
    AuthorUnknown,
    /// Their author was removed, and its removal does not keep them.
    AuthorRemoved,
    /// Their author is a blind device, and those write nothing.
    AuthorBlind,
    /// They continue another history of the log than the one that stands here.
    OtherHistory,
    /// They are not signed by their author.
    Signature,
    /// Their author has made a batch of this log wrongly.
    LogBlocked,
}

impl From<WhyNotAdmitted> for WhyNotTaken {
    fn from(why: WhyNotAdmitted) -> Self {
        match why {
            WhyNotAdmitted::Gap { expected } => Self::Gap { expected },
            WhyNotAdmitted::Author(NotAuthor::Removed { .. }) | WhyNotAdmitted::BeyondCut => {
                Self::AuthorRemoved
            }
            WhyNotAdmitted::Author(NotAuthor::Blind { .. }) => Self::AuthorBlind,
            WhyNotAdmitted::Author(NotAuthor::Stranger { .. }) => Self::AuthorUnknown,
            WhyNotAdmitted::OtherHistory { .. } => Self::OtherHistory,
            WhyNotAdmitted::Signature(_) => Self::Signature,
            WhyNotAdmitted::Blocked => Self::LogBlocked,
        }
    }
}

/// An op as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The place that is its name: where it was first written.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: Hlc,
    /// Its kind number; never that of an op written again.
    pub kind: u16,
    /// Its flags.
    pub flags: u8,
    /// Its bytes.
    pub body: Bytes,
}

/// A run of batches of one log with ops that a checkpoint leaves out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stray {
    /// The log, of another device.
    pub log: LogId,
    /// The end of the batch before the first one.
    pub after: Seq,
    /// The end of the last one.
    pub through: Seq,
}

/// A change of a roster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RosterChange {
    /// A device goes for good; what this device holds of it stays.
    Remove {
        /// The device.
        device: DeviceId,
    },
    /// A device gets another name.
    Rename {
        /// The device.
        device: DeviceId,
        /// The name.
        name: Arc<str>,
    },
    /// A device has not been heard of for long and holds nothing back any more.
    Dormant {
        /// The device.
        device: DeviceId,
    },
    /// A dormant device is back.
    Active {
        /// The device.
        device: DeviceId,
    },
}

/// Something that changed.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// A roster changed: who may connect changes with it.
    Roster {
        /// The space.
        space: SpaceId,
    },
    /// A key became available.
    Key {
        /// The space.
        space: SpaceId,
        /// The key.
        key: EpochKey,
    },
    /// A device said what it holds.
    Ack {
        /// The space.
        space: SpaceId,
        /// The device.
        device: DeviceId,
    },
    /// A device's Hello arrived.
    PeerUp {
        /// The connection.
        peer: PeerId,
        /// The device.
        device: DeviceId,
    },
    /// A device has signed another root than this one for the same history.
    Diverged {
        /// The space.
        space: SpaceId,
        /// The device.
        device: DeviceId,
    },
    /// A connection is gone.
    PeerDown {
        /// The connection.
        peer: PeerId,
        /// The device.
        device: DeviceId,
    },
    /// A fork is proved.
    Fork {
        /// The space.
        space: SpaceId,
        /// The log.
        log: LogId,
    },
    /// A log cannot be continued: its author made a batch wrongly.
    LogBlocked {
        /// The space.
        space: SpaceId,
        /// The log.
        log: LogId,
    },
    /// This device takes part in a space from now on.
    Begun {
        /// The space.
        space: SpaceId,
        /// The space that was left for it.
        left: Option<SpaceId>,
    },
    /// Ops that this device had forgotten, and another one still had, are written again.
    Recalled {
        /// The space.
        space: SpaceId,
        /// How many.
        op_count: u64,
    },
    /// This device's past was in doubt, so it writes a new log from here on.
    NewIncarnation {
        /// The space.
        space: SpaceId,
        /// The new log.
        log: LogId,
        /// Where ops that were not sealed yet have moved.
        moved: Vec<(Dot, Dot)>,
    },
    /// The end of a log was dropped: another history of it stands, or its device was removed.
    Truncated {
        /// The space.
        space: SpaceId,
        /// The log.
        log: LogId,
    },
    /// The history of a space begins with a checkpoint from now on.
    Based {
        /// The space.
        space: SpaceId,
        /// The checkpoint.
        checkpoint: CheckpointHash,
    },
    /// A device does not hold any more what this one lacks: its history begins with a checkpoint, and
    /// this device can only begin there too.
    BelowFloor {
        /// The space.
        space: SpaceId,
        /// The connection.
        peer: PeerId,
        /// The device at its other end.
        device: DeviceId,
        /// The checkpoint.
        checkpoint: CheckpointHash,
    },
    /// This device was removed from a space, or has left it.
    Removed {
        /// The space.
        space: SpaceId,
    },
    /// This device has said that nothing waits for another any more, because it was silent for so many days.
    CalledDormant {
        /// The space.
        space: SpaceId,
        /// The other device.
        device: DeviceId,
        /// The days.
        days: NonZeroU16,
    },
    /// The space is written under a new key.
    Rotated {
        /// The space.
        space: SpaceId,
    },
    /// Another admin has taken over the rotation that this device asked for.
    RotationTaken {
        /// The space.
        space: SpaceId,
        /// The admin.
        by: DeviceId,
    },
    /// Another device hosts the register of leases.
    LeaseHost {
        /// The space.
        space: SpaceId,
        /// The host.
        host: DeviceId,
        /// The term.
        term: u32,
    },
    /// Two running copies of one home are connected: each has the key of the other.
    CloneSeen {
        /// The device that runs twice.
        device: DeviceId,
    },
    /// A record this device had to write was refused by its own roster.
    RecordRefused {
        /// The space.
        space: SpaceId,
        /// Why.
        why: Arc<RosterError>,
    },
}

/// Why a connection is ended.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A control frame does not decode.
    #[error("a control message does not decode")]
    Message(#[source] MessageError),
    /// Bytes on the batch stream are no batch.
    #[error("a batch is malformed")]
    Batch(#[source] BatchError),
    /// A batch is not signed by its author.
    #[error("a batch from position {first} of the log of {author:?} is not signed by it")]
    Signature {
        /// Whose log.
        author: DeviceId,
        /// The first position.
        first: Seq,
        /// What is wrong.
        #[source]
        source: SignatureError,
    },
    /// What the peer says about the host of leases does not read.
    #[error("a message about the host of leases does not decode")]
    Lease(#[source] lease::FormError),
    /// A batch or message of a space the peer and this device do not share.
    #[error("a message of a space that is not shared with this peer")]
    WrongSpace,
    /// The same gap again after this device has said what it holds.
    #[error("batches from position {found} where {expected} is next, again")]
    GapAgain {
        /// The next position here.
        expected: Seq,
        /// What was sent.
        found: Seq,
    },
    /// The first message was not a Hello, or a Hello of another protocol version.
    #[error("the peer speaks protocol version {found}, this kinfold speaks {known}; update the older one")]
    Version {
        /// The version found.
        found: u16,
        /// The version known.
        known: u16,
    },
    /// A message before the Hello.
    #[error("a message before the greeting")]
    NoHello,
    /// The peer is in no roster of this device any more.
    #[error("the device is not in the roster")]
    NotInRoster,
    /// What the peer sent could not be stored here; it will be sent again.
    #[error("the store of this device refused a write")]
    Storage,
}

impl Refusal {
    /// Who is to change something.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Storage => Blame::Local,
            Self::Message(_)
            | Self::Batch(_)
            | Self::Signature { .. }
            | Self::Lease(_)
            | Self::WrongSpace
            | Self::GapAgain { .. }
            | Self::Version { .. }
            | Self::NoHello
            | Self::NotInRoster => Blame::Peer,
        }
    }
}

/// Why a request of the application was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No such space here, or one this device has left.
    #[error("this device does not take part in the space")]
    NoSuchSpace,
    /// The store refused the write; nothing of the request is recorded.
    #[error("the store refused the write, nothing was recorded; free space and try again")]
    Storage,
    /// This device may not write: the roster gives it no right to.
    #[error("this device may not write in the space")]
    NotAuthor,
    /// The roster refused.
    #[error("the roster refuses")]
    Roster(#[source] Arc<RosterError>),
    /// The register of leases does not get another host.
    #[error("the leases stay where they are")]
    Host(#[source] lease::DesignateRefused),
    /// The history of a space does not begin with a checkpoint.
    #[error("nothing of the history is dropped")]
    Base(#[source] BaseRefused),
    /// A space cannot be founded or joined.
    #[error("the space cannot be joined")]
    Join(#[source] JoinError),
}

/// Why a space is not founded or joined.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The records that came with the invitation do not make a roster.
    #[error("the roster that came with the invitation does not hold")]
    Roster(#[source] Arc<RosterError>),
    /// The roster does not name this device.
    #[error("the invitation does not name this device; ask for a new one")]
    NotInvited,
    /// The key that the space is written under did not come along.
    #[error("the key of the space did not come with the invitation; ask for a new one")]
    KeyMissing,
    /// This device has left that space, or was removed from it.
    #[error(
        "this device was in that space and has left it, which is for good;          run `kinfold init` in a fresh home and pair that one"
    )]
    Left,
    /// This device takes part in another space of this scope.
    #[error("this device already takes part in another space called {scope}; leave that one first")]
    ScopeTaken {
        /// The scope.
        scope: Scope,
    },
    /// This device shares its personal space with others, which would be left behind.
    #[error(
        "this device already shares its personal space with {others} other devices; \
         turn it round: run `kinfold invite` here and `kinfold join` on the other device"
    )]
    NotAlone {
        /// How many others.
        others: usize,
    },
    /// This device is to be blind, and has written ops that a blind device could not carry over.
    #[error(
        "this device holds {op_count} ops of its own, which a blind device cannot write; \
         run `kinfold init` in a fresh home and join from there"
    )]
    BlindWithOps {
        /// How many ops.
        op_count: u64,
    },
}

/// A moment at which the engine wants a [`Input::Tick`], on the uptime clock, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadline {
    /// When.
    pub at: Duration,
    /// Why.
    pub why: DeadlineReason,
}

/// Why the engine wants to be woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeadlineReason {
    /// What has fallen of a log is looked for again in the other logs of its device.
    SearchAgain,
    /// Batches of other devices are due to be passed on.
    Forward,
    /// Acks are due to be passed on.
    AckGossip,
    /// What the store refused is due to be tried again: sealing drafts, carrying ops over.
    StoreAgain,
    /// A rotation is due, or is to be committed with the confirmations there are.
    Rotate,
    /// A lease runs out, or devices are to be asked again about its host.
    Lease,
    /// It is to be seen whether a day has passed on which some device was silent.
    Silence,
}
