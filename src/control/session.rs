//! One caller of a node: its requests and its subscriptions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::value::RawValue;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use super::convert::change_form;
use super::dispatch::{space, to_raw, unknown_method};
use super::error::{ControlError, RpcError};
use super::forms::{LaggedForm, SubscribedForm, UnsubscribedForm};
use super::method::Method;
use super::pairing::{self, InviteForm, InviteParams, JoinParams, JoinedForm};
use super::params::{SubscribeParams, UnsubscribeParams};
use super::{NOTICES_MAX, SUBSCRIPTIONS_MAX};
use crate::model::Surface;
use crate::node::{Change, Node};

/// Something a caller asked to be told of.
#[derive(Clone, Debug)]
pub struct Notice {
    /// `sync.changed`, `sync.lagged`, `pair.event` or `pair.progress`.
    pub method: String,
    /// What happened.
    pub params: Box<RawValue>,
}

/// One caller: a connection to the socket, or the command line itself.
///
/// Dropping it ends its subscriptions and withdraws its invite.
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
        let space = space(&self.node, &params.scope).await?;
        let surface: Option<Surface> = params.surface.as_deref().map(str::parse).transpose()?;
        let mut subscriptions = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        if subscriptions.len() >= SUBSCRIPTIONS_MAX {
            return Err(ControlError::TooManySubscriptions { limit: SUBSCRIPTIONS_MAX });
        }
        let subscription = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let task = tokio::spawn(forward(subscription, space.changes(), surface, self.notices.clone()));
        subscriptions.push((subscription, task.abort_handle()));
        Ok(SubscribedForm { subscription })
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

/// Waits for a slow reader; what the node's own queue drops meanwhile is told as a count.
async fn forward(
    subscription: u64,
    mut changes: broadcast::Receiver<Change>,
    only: Option<Surface>,
    notices: mpsc::Sender<Notice>,
) {
    loop {
        let (method, params) = match changes.recv().await {
            Ok(change) if only.as_ref().is_some_and(|only| *only != change.surface) => continue,
            Ok(change) => ("sync.changed", to_raw(&change_form(subscription, change))),
            Err(RecvError::Lagged(missed)) => ("sync.lagged", to_raw(&LaggedForm { subscription, missed })),
            Err(RecvError::Closed) => return,
        };
        if notices.send(Notice { method: method.to_owned(), params }).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeviceId, Dot, Hlc, Incarnation, LogId, Payload, Seq};

    fn change(seq: u64, surface: &str) -> Change {
        let log = LogId { device: DeviceId::from_bytes([1; 32]), incarnation: Incarnation::new(1) };
        Change {
            surface: surface.parse().unwrap(),
            key: "k".into(),
            dot: Dot { log, seq: Seq::new(seq) },
            hlc: Hlc::new(seq),
            payload: Some(Payload::parse("1.0").unwrap()),
        }
    }

    #[tokio::test]
    async fn a_subscriber_hears_of_its_surface_and_of_what_it_missed() {
        let (changed, changes) = broadcast::channel(2);
        let (notices, mut arriving) = mpsc::channel(8);
        changed.send(change(1, "skill")).unwrap();
        changed.send(change(2, "routing")).unwrap();
        changed.send(change(3, "skill")).unwrap();
        drop(changed);

        forward(5, changes, Some("skill".parse().unwrap()), notices).await;

        let lagged = arriving.recv().await.unwrap();
        assert_eq!(lagged.method, "sync.lagged");
        assert_eq!(
            serde_json::from_str::<LaggedForm>(lagged.params.get()).unwrap(),
            LaggedForm { subscription: 5, missed: 1 }
        );
        let told = arriving.recv().await.unwrap();
        assert_eq!(told.method, "sync.changed");
        assert!(told.params.get().contains(r#""payload":1.0"#));
        assert!(told.params.get().contains(r#""seq":3"#));
        assert!(arriving.recv().await.is_none());
    }
}
