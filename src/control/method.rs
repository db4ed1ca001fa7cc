//! The methods of the control API: one table, from which names, dispatch and schemas come.
//!
//! To add a method, add its line to `methods!` below: what it does, its name, what it takes, what it
//! answers, and the function that answers it. That function gets the [`Node`](crate::node::Node) (`node`)
//! or, to send notices later, the [`Session`] (`session`), and the parameters as their type; it returns
//! the form itself. Both types derive [`JsonSchema`](schemars::JsonSchema): `rpc.discover` publishes them.

use serde_json::value::RawValue;

use super::bundle::{BundleExportParams, BundleExportedForm, BundleImportParams, BundleImportedForm};
use super::checkpoint::{self, CheckpointsForm, PublishedForm};
use super::config::{
    self, ConfigChangedForm, ConfigForm, ConfigGetParams, ConfigPatchParams, ConfigSetParams,
};
use super::conflicts::{
    self, DecisionsForm, DecisionsParams, OpForm, OpParams, ResolveConflictParams, ResolvedForm,
};
use super::conversation::{
    self, ConversationsForm, ConversationsParams, RecordTurnParams, ResumeForm, ResumeParams, TranscriptForm,
    TranscriptParams,
};
use super::dispatch;
use super::dispatch::{read_params, to_raw};
use super::dropbox::{self, DropboxForm, DropboxParams, DropboxesForm};
use super::error::ControlError;
use super::fence::{self, FenceForm, FenceParams};
use super::forms::*;
use super::gc::{self, GcRunForm, GcRunParams, GcWhyForm};
use super::lease::{
    self, AcquireParams, LeaseForm, LeaseHostForm, LeaseStatusForm, LeaseStatusParams, MoveHostParams,
    ReleaseParams, ReleasedForm, RenewParams,
};
use super::ledger::{self, IntentRecordedForm, IntentsForm, IntentsParams, RecordIntentParams};
use super::openrpc::{self, OpenRpcForm, Signature};
use super::pairing::{self, CancelledForm, InviteForm, InviteParams, JoinParams, JoinedForm};
use super::params::*;
use super::past::{self, StateAtForm, StateAtParams};
use super::policy::{self, PoliciesForm, SetPolicyParams};
use super::rebase::{self, RebaseForm, RebaseParams};
use super::roster::{
    self, ActivityForm, CreateSpaceParams, DeviceParams, LeftForm, RenameParams, RenamedForm, RevokedForm,
    RosterForm, RotatedForm, SpaceForm, SpacesForm,
};
use super::session::Session;
use super::verify::{self, VerifyForm, VerifyParams};
use crate::model::nearest::nearest;

macro_rules! methods {
    ($($(#[doc = $doc:literal])+ $method:ident = $name:literal ($params:ty) -> $result:ty, $takes:ident $answer:path;)+) => {
        /// A method of the control API.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub enum Method {
            $(
                #[doc = concat!("`", $name, "`:")]
                $(#[doc = $doc])+
                #[doc = ""]
                #[doc = concat!("Takes `", stringify!($params), "`, answers `", stringify!($result), "`.")]
                $method,
            )+
        }

        impl Method {
            /// Every method.
            pub const ALL: &'static [Self] = &[$(Self::$method),+];

            /// The name in a request.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$method => $name,)+
                }
            }

            /// What it does, for people: the first line is one sentence.
            pub const fn summary(self) -> &'static str {
                match self {
                    $(Self::$method => concat!($($doc, "\n"),+),)+
                }
            }

            /// The schemas of what it takes and answers.
            pub(super) fn signature(self) -> Signature {
                match self {
                    $(Self::$method => Signature::of::<$params, $result>(),)+
                }
            }

            /// Answers a request of `session`.
            pub(super) async fn answer(
                self,
                session: &Session,
                params: Option<&RawValue>,
            ) -> Result<Box<RawValue>, ControlError> {
                match self {
                    $(Self::$method => {
                        let params: $params = read_params(self, params)?;
                        // On the heap: one request would otherwise be as large as the largest of all.
                        let answer: $result = Box::pin($answer(methods!(@$takes session), params)).await?;
                        Ok(to_raw(&answer))
                    })+
                }
            }
        }
    };
    (@node $session:ident) => { $session.node() };
    (@session $session:ident) => { $session };
}

methods! {
    /// Tells what a node is and has in one space.
    Status = "sync.status" (ScopeParams) -> StatusForm, node dispatch::status;
    /// Records one op; it is durable when the answer comes.
    Append = "sync.append" (AppendParams) -> AppendedForm, node dispatch::append;
    /// Records many ops in order, all or none of a space, unless the good ones are to be kept.
    AppendMany = "sync.append_many" (AppendManyParams) -> AppendManyForm, node dispatch::append_many;
    /// Removes a row of a registry surface.
    Delete = "sync.delete" (RowParams) -> AppendedForm, node dispatch::delete;
    /// Makes one round now, with every connected peer or with those that are named.
    Pump = "sync.pump" (PumpParams) -> RoundForm, node dispatch::pump;
    /// Reads one row or fact; null where there is none.
    Get = "sync.get" (RowParams) -> Option<RowForm>, node dispatch::get;
    /// Reads a page of rows or events.
    List = "sync.list" (ListParams) -> ListForm, node dispatch::list;
    /// Lists the surfaces that hold something.
    Surfaces = "sync.surfaces" (ScopeParams) -> SurfacesForm, node dispatch::surfaces;
    /// Tells of changes as notices `sync.changed`: from now on, or from a place on where one is given.
    ///
    /// A subscriber that does not read is told so as its last notice, `sync.lagged`, with the place to
    /// go on from; one that cannot be served any more is told `sync.ended`. Notices may arrive before
    /// the answer does.
    Subscribe = "sync.subscribe" (SubscribeParams) -> SubscribedForm, session Session::subscribe;
    /// Ends a subscription.
    Unsubscribe = "sync.unsubscribe" (UnsubscribeParams) -> UnsubscribedForm, session Session::unsubscribe;
    /// Waits until other devices hold an op, or everything held now, durably.
    Wait = "sync.wait" (WaitParams) -> WaitForm, node dispatch::wait;
    /// Tells whether another device holds everything of a space durably.
    SafeToSleep = "sync.safe_to_sleep" (ScopeParams) -> SafeToSleepForm, node dispatch::safe_to_sleep;
    /// Records a turn of a conversation; it is durable when the answer comes.
    RecordTurn = "sync.record_turn" (RecordTurnParams) -> AppendedForm, node conversation::record;
    /// Reads a page of a conversation as it was recorded.
    Transcript = "sync.transcript" (TranscriptParams) -> TranscriptForm, node conversation::transcript;
    /// Makes of a conversation what a model can be given to go on.
    Resume = "sync.resume" (ResumeParams) -> ResumeForm, node conversation::resume;
    /// Lists the conversations by name.
    Conversations = "sync.conversations" (ConversationsParams) -> ConversationsForm, node conversation::conversations;
    /// Records what a run of an agent is about to do or has done, unless something stands against it.
    RecordIntent = "sync.record_intent" (RecordIntentParams) -> IntentRecordedForm, node ledger::record;
    /// Lists the runs of an agent, with everything that was said of each.
    Intents = "sync.intents" (IntentsParams) -> IntentsForm, node ledger::list;
    /// Folds a state of the past anew, and shows a row, a page or the surfaces of it.
    StateAt = "sync.state_at" (StateAtParams) -> StateAtForm, node past::state_at;
    /// Holds the state against its rows and against the states of other devices; finds the first row that
    /// differs.
    Verify = "sync.verify" (VerifyParams) -> VerifyForm, node verify::verify;
    /// Makes a checkpoint of what every active device holds.
    Checkpoint = "sync.checkpoint" (ScopeParams) -> PublishedForm, node checkpoint::publish;
    /// Lists the checkpoints this device keeps, and who attests them.
    Checkpoints = "sync.checkpoints" (ScopeParams) -> CheckpointsForm, node checkpoint::list;
    /// Begins with a checkpoint of other devices where some of the history is not to be had, or says what it
    /// waits for.
    Rebase = "sync.rebase" (RebaseParams) -> RebaseForm, node rebase::rebase;
    /// Says what holds back the history that the newest checkpoint could take the place of.
    GcWhy = "gc.why" (ScopeParams) -> GcWhyForm, node gc::why;
    /// Drops that history.
    GcRun = "gc.run" (GcRunParams) -> GcRunForm, node gc::run;
    /// Reads one op by its id or its place, also one that lost.
    Op = "sync.op" (OpParams) -> OpForm, node conflicts::op;
    /// Settles a conflict: with one of its values, a new one, a removal, or an acknowledgement.
    ResolveConflict = "conflicts.resolve" (ResolveConflictParams) -> ResolvedForm, node conflicts::resolve;
    /// Lists what was decided about conflicts, newest first.
    Decisions = "conflicts.log" (DecisionsParams) -> DecisionsForm, node conflicts::log;
    /// Lists the retention policies, with how much each one drops.
    Policies = "policy.list" (ScopeParams) -> PoliciesForm, node policy::list;
    /// Says what is kept of a surface from now on, on every device.
    SetPolicy = "policy.set" (SetPolicyParams) -> AppendedForm, node policy::set;
    /// Lists the open conflicts, with every value that lost.
    Conflicts = "conflicts.list" (ConflictsParams) -> ConflictsForm, node dispatch::conflicts;
    /// Lists the other devices of a space, with what is known of them.
    Peers = "peers.list" (ScopeParams) -> PeersForm, node dispatch::peers;
    /// Dials an address from now on.
    AddPeer = "peers.add" (AddPeerParams) -> AddedForm, node dispatch::add_peer;
    /// Lists the spaces this device takes part in.
    Spaces = "space.list" (NoParams) -> SpacesForm, node roster::list_spaces;
    /// Begins the space of an organisation.
    CreateSpace = "space.create" (CreateSpaceParams) -> SpaceForm, node roster::create_space;
    /// Leaves the space of an organisation.
    LeaveSpace = "space.leave" (ScopeParams) -> LeftForm, node roster::leave_space;
    /// Lists the devices of a space and those that were removed.
    Roster = "roster.list" (ScopeParams) -> RosterForm, node roster::list;
    /// Removes a device that is lost or not trusted any more.
    Revoke = "roster.revoke" (DeviceParams) -> RevokedForm, node roster::revoke;
    /// Removes a device in good order: what it wrote is here before it goes.
    Retire = "roster.retire" (DeviceParams) -> RevokedForm, node roster::retire;
    /// Renames a device.
    Rename = "roster.rename" (RenameParams) -> RenamedForm, node roster::rename;
    /// Waits for a device no more: it is away for long. It comes back with whatever it writes meanwhile.
    Dormant = "roster.dormant" (DeviceParams) -> ActivityForm, node roster::dormant;
    /// Waits for a device again.
    Active = "roster.active" (DeviceParams) -> ActivityForm, node roster::active;
    /// Renews the key of a space.
    Rotate = "roster.rotate" (ScopeParams) -> RotatedForm, node roster::rotate;
    /// Takes the lease of an agent for this node, where nobody holds it. It is not renewed by itself.
    AcquireLease = "lease.acquire" (AcquireParams) -> LeaseForm, node lease::acquire;
    /// Holds a lease for longer; its token stays the same.
    RenewLease = "lease.renew" (RenewParams) -> LeaseForm, node lease::renew;
    /// Gives a lease back, once what ran under it has stopped.
    ReleaseLease = "lease.release" (ReleaseParams) -> ReleasedForm, node lease::release;
    /// Tells who holds the lease of an agent: asked of the host, never answered from a copy.
    LeaseStatus = "lease.status" (LeaseStatusParams) -> LeaseStatusForm, node lease::status;
    /// Tells which device hosts the leases; every lease, where it is this one.
    LeaseHost = "lease.host" (ScopeParams) -> LeaseHostForm, node lease::host;
    /// Has another device host the leases, once a majority of the devices has confirmed it.
    MoveLeaseHost = "lease.move_host" (MoveHostParams) -> LeaseHostForm, node lease::move_host;
    /// Opens an invite; what becomes of it is told as notices `pair.event`.
    ///
    /// It is withdrawn when the connection that asked for it ends.
    Invite = "pair.invite" (InviteParams) -> InviteForm, session Session::invite;
    /// Joins the space of another device; how far it has come is told as notices `pair.progress`.
    Join = "pair.join" (JoinParams) -> JoinedForm, session Session::join;
    /// Withdraws the open invite; answers once its port is closed.
    CancelInvite = "pair.cancel" (NoParams) -> CancelledForm, node pairing::cancel;
    /// Writes what a device lacks into a file; how far it has come is told as notices `bundle.progress`.
    ExportBundle = "bundle.export" (BundleExportParams) -> BundleExportedForm, session Session::export_bundle;
    /// Takes in what a file holds; how far it has come is told as notices `bundle.progress`.
    ImportBundle = "bundle.import" (BundleImportParams) -> BundleImportedForm, session Session::import_bundle;
    /// Leaves sealed changes at a place from now on, and takes what others leave there.
    AddDropbox = "dropbox.add" (DropboxParams) -> DropboxForm, node dropbox::add;
    /// Lists the drop boxes of this device and how each is doing.
    Dropboxes = "dropbox.list" (NoParams) -> DropboxesForm, node dropbox::list;
    /// Leaves a drop box alone from now on.
    RemoveDropbox = "dropbox.remove" (DropboxParams) -> DropboxForm, node dropbox::remove;
    /// Decides whether a run may act, right before it does.
    FenceCheck = "sync.fence_check" (FenceParams) -> FenceForm, node fence::check;
    /// Shows the settings, all or one.
    GetConfig = "config.get" (ConfigGetParams) -> ConfigForm, node config::get;
    /// Sets one key of the settings.
    SetConfig = "config.set" (ConfigSetParams) -> ConfigChangedForm, node config::set;
    /// Changes keys of the settings together, by a merge patch.
    PatchConfig = "config.patch" (ConfigPatchParams) -> ConfigChangedForm, node config::patch;
    /// Tells the figures of this run and of what is held, of all spaces.
    Metrics = "metrics.get" (NoParams) -> MetricsForm, node dispatch::metrics;
    /// Tells how a space is.
    Health = "health.get" (ScopeParams) -> HealthForm, node dispatch::health;
    /// Tells what answers, and which methods it has.
    Version = "node.version" (NoParams) -> VersionForm, node dispatch::version;
    /// Describes every method as an OpenRPC 1.3 document.
    Discover = "rpc.discover" (NoParams) -> OpenRpcForm, node openrpc::discover;
}

impl Method {
    /// The method with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|method| method.name() == name)
    }

    /// The method whose name is closest to a mistyped one; `None` where none is near.
    pub fn nearest(name: &str) -> Option<Self> {
        nearest(name, Self::ALL.iter().map(|method| method.name())).and_then(Self::from_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_found_by_its_name_and_only_one_has_it() {
        let mut names = std::collections::BTreeSet::new();
        for method in Method::ALL {
            assert_eq!(Method::from_name(method.name()), Some(*method));
            assert!(names.insert(method.name()), "{} is there twice", method.name());
        }
        assert_eq!(Method::from_name("sync.nothing"), None);
    }

    #[test]
    fn a_typing_error_finds_the_method_that_was_meant() {
        assert_eq!(Method::nearest("sync.statsu"), Some(Method::Status));
        assert_eq!(Method::nearest("sync.apend"), Some(Method::Append));
        assert_eq!(Method::nearest("SYNC.STATUS"), None);
        assert_eq!(Method::nearest("nothing.like.it"), None);
        assert_eq!(Method::nearest(&"x".repeat(100_000)), None);
    }
}
