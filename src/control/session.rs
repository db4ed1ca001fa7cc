//! One caller of a node: its requests and its subscriptions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::bundle::{self, BundleExportParams, BundleExportedForm, BundleImportParams, BundleImportedForm};
use super::convert::{bookmark, change_form};
use super::dispatch::{space, to_raw, unknown_method};
use super::error::{ControlError, RpcError};
use super::forms::{EndedForm, LaggedForm, SubscribedForm, UnsubscribedForm};
use super::method::Method;
use super::pairing::{self, InviteForm, InviteParams, JoinParams, JoinedForm};
use super::params::{BookmarkForm, SubscribeParams, UnsubscribeParams};
use super::{NOTICES_MAX, SUBSCRIPTIONS_MAX};
use crate::model::Surface;
use crate::node::{FollowError, Follower, Node};

/// Something a caller asked to be told of.
#[derive(Clone, Debug)]
pub struct Notice {
    /// `sync.changed`, `sync.lagged`, `sync.ended`, `pair.event`, `pair.progress` or `bundle.progress`.
    pub method: String,
    /// What happened.
    pub params: Box<RawValue>,
}

/// One caller: a connection to the socket, or the command line itself.
///
/// Dropping it ends its subscriptions and withdraws its invite.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let home = directory.path().join("home");
/// # kinfold::Node::init(&home, "laptop")?;
/// # let node = kinfold::Node::builder(&home).open().await?;
/// use kinfold::control::Session;
///
/// let (session, notices) = Session::new(node.clone());
/// let refused = session.call("sync.statsu", None).await.unwrap_err();
/// assert_eq!(refused.data.kind, "UnknownMethod");
/// assert_eq!(refused.data.hint.as_deref(), Some("did you mean sync.status?"));
/// # drop(notices);
/// # node.stop().await?;
/// # Ok(())
/// # }
/// ```
pub struct Session {
    node: Node,
    notices: mpsc::Sender<Notice>,
    subscriptions: Mutex<Vec<(u64, AbortHandle)>>,
    last: AtomicU64,
    invites: Mutex<JoinSet<()>>,
}

impl Session {
    /// A caller of `node`, and where its notices arrive: at most [`NOTICES_MAX`] wait there.
    pub fn new(node: Node) -> (Self, mpsc::Receiver<Notice>) {
        let (notices, arriving) = mpsc::channel(NOTICES_MAX);
        let session = Self {
            node,
            notices,
            subscriptions: Mutex::new(Vec::new()),
            last: AtomicU64::new(0),
            invites: Mutex::new(JoinSet::new()),
        };
        (session, arriving)
    }

    /// The node that is called.
    pub const fn node(&self) -> &Node {
        &self.node
    }

    /// Answers one request; may be called by many tasks at once.
    ///
    /// # Errors
    /// The refusal in the form a program reads.
    pub async fn call(&self, method: &str, params: Option<&RawValue>) -> Result<Box<RawValue>, RpcError> {
        let answer = match Method::from_name(method) {
            Some(method) => method.answer(self, params).await,
            None => Err(unknown_method(method)),
        };
        answer.map_err(RpcError::from)
    }

    pub(super) async fn subscribe(&self, params: SubscribeParams) -> Result<SubscribedForm, ControlError> {
        let surface: Option<Surface> = params.surface.as_deref().map(str::parse).transpose()?;
        let after = params.after.as_ref().map(bookmark).transpose()?;
        let follower = space(&self.node, &params.scope).await?.follow(after).await?;
        let mut subscriptions = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        subscriptions.retain(|(_, task)| !task.is_finished());
        if subscriptions.len() >= SUBSCRIPTIONS_MAX {
            return Err(ControlError::TooManySubscriptions { limit: SUBSCRIPTIONS_MAX });
        }
        let subscription = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let bookmark = BookmarkForm::from(follower.bookmark());
        let task = tokio::spawn(forward(subscription, follower, surface, self.notices.clone()));
        subscriptions.push((subscription, task.abort_handle()));
        Ok(SubscribedForm { subscription, bookmark })
    }

    pub(super) async fn invite(&self, params: InviteParams) -> Result<InviteForm, ControlError> {
        let (invite, form) = pairing::invite(&self.node, params).await?;
        let mut invites = self.invites.lock().unwrap_or_else(PoisonError::into_inner);
        while invites.try_join_next().is_some() {}
        invites.spawn(pairing::tell_events(invite, self.notices.clone()));
        Ok(form)
    }

    pub(super) async fn join(&self, params: JoinParams) -> Result<JoinedForm, ControlError> {
        pairing::join(&self.node, params, self.notices.clone()).await
    }

    pub(super) async fn export_bundle(
        &self,
        params: BundleExportParams,
    ) -> Result<BundleExportedForm, ControlError> {
        bundle::export(&self.node, params, self.notices.clone()).await
    }

    pub(super) async fn import_bundle(
        &self,
        params: BundleImportParams,
    ) -> Result<BundleImportedForm, ControlError> {
        bundle::import(&self.node, params, self.notices.clone()).await
    }

    pub(super) async fn unsubscribe(
        &self,
        params: UnsubscribeParams,
    ) -> Result<UnsubscribedForm, ControlError> {
        let mut subscriptions = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        let at = subscriptions.iter().position(|(number, _)| *number == params.subscription);
        if let Some(at) = at {
            subscriptions.swap_remove(at).1.abort();
        }
        Ok(UnsubscribedForm { cancelled: at.is_some() })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let subscriptions = self.subscriptions.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (_, task) in subscriptions.drain(..) {
            task.abort();
        }
    }
}

/// Waits for a slow reader, and ends where it falls behind by more than the node keeps: the reader is
/// told so as the last thing it reads, and where to go on.
async fn forward(
    subscription: u64,
    mut follower: Follower,
    only: Option<Surface>,
    notices: mpsc::Sender<Notice>,
) {
    loop {
        let (method, params, is_last) = match follower.next().await {
            Ok(change) if only.as_ref().is_some_and(|only| *only != change.surface) => continue,
            Ok(change) => ("sync.changed", to_raw(&change_form(subscription, change)), false),
            Err(FollowError::Lagged { missed }) => {
                let resume_after = follower.bookmark().into();
                ("sync.lagged", to_raw(&LaggedForm { subscription, missed, resume_after }), true)
            }
            Err(FollowError::Node(error)) => {
                ("sync.ended", to_raw(&EndedForm { subscription, error: error.into() }), true)
            }
        };
        if notices.send(Notice { method: method.to_owned(), params }).await.is_err() || is_last {
            return;
        }
    }
}
