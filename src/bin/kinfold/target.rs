//! Where a command goes: to the node that runs in this home, or to one opened for the moment.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use kinfold::config::{ConfigFile, Settings};
use kinfold::control::params::{ScopeParam, ScopeParams};
use kinfold::control::{Client, ControlError, Method, Notice, RpcError, Session};
use kinfold::node::{Node, NodeError};
use kinfold::store::LockError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::mpsc;

use crate::failure::Failure;

/// Which device and which of its spaces a command is about.
pub struct Site {
    /// The device's directory.
    pub home: PathBuf,
    /// The space.
    pub scope: ScopeParam,
}

impl Site {
    /// The space, as the parameters of a method.
    pub fn params(&self) -> ScopeParams {
        ScopeParams { scope: self.scope.clone() }
    }

    /// The space in a sentence.
    pub fn space_text(&self) -> String {
        match &self.scope {
            ScopeParam::Personal => "the personal space".to_owned(),
            ScopeParam::Org(name) => format!("the space of {name}"),
        }
    }

    /// What a command that is suggested says beside its name, to mean the same space.
    pub fn flag(&self) -> String {
        match &self.scope {
            ScopeParam::Personal => String::new(),
            ScopeParam::Org(name) => format!(" --space {name}"),
        }
    }
}

/// One place to call the methods of the control API.
pub struct Target {
    place: Place,
    notices: mpsc::Receiver<Notice>,
    /// Why the settings cannot be read: what needs no network works all the same.
    misconfigured: Option<RpcError>,
}

enum Place {
    /// The node that runs in another process.
    Running(Client),
    /// A node of this process, whose network is down unless asked for.
    Own(Session),
}

impl Target {
    /// Finds the running node, or opens the store here.
    ///
    /// Another command may have the store open for a moment: that is waited for.
    pub async fn open(home: &Path) -> Result<Self, Failure> {
        let mut patience = LOCK_ATTEMPTS;
        let (settings, misconfigured) = match ConfigFile::of(home).read() {
            Ok(settings) => (settings, None),
            Err(error) => (Settings::default(), Some(RpcError::from(ControlError::from(error)))),
        };
        loop {
            if let Some((client, notices)) = Client::connect(home).await? {
                return Ok(Self { place: Place::Running(client), notices, misconfigured: None });
            }
            match Node::builder(home).settings(settings.clone()).open().await {
                Ok(node) => {
                    let (session, notices) = Session::new(node);
                    return Ok(Self { place: Place::Own(session), notices, misconfigured });
                }
                Err(NodeError::Lock { source: LockError::Held { .. }, .. }) if patience > 0 => patience -= 1,
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
    }

    /// Whether the node lives only as long as this command.
    pub const fn is_own(&self) -> bool {
        matches!(self.place, Place::Own(_))
    }

    /// Starts the network of a node opened here; a running node has its own.
    pub async fn start_network(&self) -> Result<(), Failure> {
        match &self.place {
            Place::Running(_) => Ok(()),
            Place::Own(session) => {
                if let Some(error) = &self.misconfigured {
                    return Err(error.clone().into());
                }
                Ok(session.node().start().await?)
            }
        }
    }

    /// Calls a method and reads its answer.
    pub async fn call<R: DeserializeOwned>(
        &self,
        method: Method,
        params: &impl Serialize,
    ) -> Result<R, Failure> {
        let answer = self.call_raw(method, params).await?;
        serde_json::from_str(answer.get()).map_err(Failure::Answer)
    }

    /// Calls a method and leaves its answer as text.
    pub async fn call_raw(&self, method: Method, params: &impl Serialize) -> Result<Box<RawValue>, Failure> {
        let params = to_raw_value(params).map_err(Failure::Answer)?;
        self.place.call(method, &params).await
    }

    /// Calls a method and passes on the notices that arrive until it answers.
    pub async fn call_heard<R: DeserializeOwned>(
        &mut self,
        method: Method,
        params: &impl Serialize,
        hear: impl Fn(Notice),
    ) -> Result<R, Failure> {
        let params = to_raw_value(params).map_err(Failure::Answer)?;
        let mut call = pin!(self.place.call(method, &params));
        let answer = loop {
            tokio::select! {
                biased;
                // Losing the race leaves the notice in its channel; the call goes on where it was.
                Some(notice) = self.notices.recv() => hear(notice),
                answer = &mut call => break answer?,
            }
        };
        serde_json::from_str(answer.get()).map_err(Failure::Answer)
    }

    /// The next notice of a subscription; `None` once the node has gone.
    pub async fn notice(&mut self) -> Option<Notice> {
        self.notices.recv().await
    }

    /// Closes a node opened here; a running one stays.
    pub async fn close(self) -> Result<(), Failure> {
        match self.place {
            Place::Running(_) => Ok(()),
            Place::Own(session) => Ok(session.node().stop().await.map(drop)?),
        }
    }
}

impl Place {
    async fn call(&self, method: Method, params: &RawValue) -> Result<Box<RawValue>, Failure> {
        match self {
            Self::Running(client) => Ok(client.call(method.name(), params).await?),
            Self::Own(session) => Ok(session.call(method.name(), Some(params)).await?),
        }
    }
}

/// The signals that tell this process to end, listened for from the moment it is made.
pub struct Interrupt {
    #[cfg(unix)]
    signals: Option<(tokio::signal::unix::Signal, tokio::signal::unix::Signal)>,
}

impl Interrupt {
    /// Listens from now on.
    pub fn listen() -> Self {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let pair = signal(SignalKind::terminate()).ok().zip(signal(SignalKind::interrupt()).ok());
            Self { signals: pair }
        }
        #[cfg(not(unix))]
        Self {}
    }

    /// Completes when the process has been told to end; may be dropped and called again.
    pub async fn told(&mut self) {
        #[cfg(unix)]
        match &mut self.signals {
            Some((terminated, interrupted)) => tokio::select! {
                // Both only end the wait; whichever is first, the other does not matter.
                _ = terminated.recv() => {}
                _ = interrupted.recv() => {}
            },
            // Without listeners a signal ends the process the hard way, which the store survives.
            None => std::future::pending().await,
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}

/// The signal that tells this process to read its settings again.
pub struct Hangup(#[cfg(unix)] Option<tokio::signal::unix::Signal>);

impl Hangup {
    /// Listens from now on; without this the signal would end the process.
    pub fn listen() -> Self {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Self(signal(SignalKind::hangup()).ok())
        }
        #[cfg(not(unix))]
        Self()
    }

    /// Completes at each signal.
    pub async fn told(&mut self) {
        #[cfg(unix)]
        if let Some(signal) = &mut self.0
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending().await
    }
}

/// How often a locked home is tried again: other commands hold it for milliseconds.
const LOCK_ATTEMPTS: u32 = 60;

/// Between two attempts.
const LOCK_PAUSE: Duration = Duration::from_millis(50);
