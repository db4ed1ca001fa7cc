//! Inviting a device into a space, and joining one: pairing with a node at each end.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use super::error::NodeError;
use super::handle::Node;
use super::space::Space;
use crate::clock;
use crate::crypto::pairing::{NameError, PairingName, Phrase, TTL};
use crate::model::{Blame, DeviceId, Scope, SpaceId};
use crate::net::pairing::{
    EnrolError, Enrolling, InviteError, InviteOptions, JoinError, JoinOptions, JoinStep, Joined, OpenInvite,
    PairConfig, PairHost, PairingLock, Target, Withdrawal, join, open_invite,
};
use crate::roster::Role;
use crate::wire::{Welcome, WelcomeError};

/// A pairing that is refused or failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PairError {
    /// This device may not add others.
    #[error("only an admin of the space adds devices, this device is a {role} there")]
    NotAdmin {
        /// What it is.
        role: Role,
    },
    /// One invite at a time.
    #[error("an invite is open already; withdraw it first, or use its code")]
    InviteOpen,
    /// The invite cannot be opened.
    #[error(transparent)]
    Invite(#[from] InviteError),
    /// The name cannot be shown on another screen.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The pairing did not come about.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The other device granted something and sent something else.
    #[error("the welcome of the other device is refused; update the older one")]
    Welcome(#[from] WelcomeError),
    /// The node refused.
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl PairError {
    /// Who is at fault.
    pub fn blame(&self) -> Blame {
        match self {
            Self::NotAdmin { .. } | Self::InviteOpen | Self::Name(_) => Blame::Local,
            Self::Invite(error) => error.blame(),
            Self::Join(error) => error.blame(),
            Self::Welcome(error) => error.blame(),
            Self::Node(error) => error.blame(),
        }
    }
}

/// What joining gave this device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// The device that invited.
    pub inviter: DeviceId,
    /// What it calls itself.
    pub inviter_name: PairingName,
    /// The space.
    pub space: SpaceId,
    /// Its scope.
    pub scope: Scope,
    /// What this device may do there.
    pub role: Role,
    /// What the inviter's screen shows too.
    pub phrase: Phrase,
}

/// What a node keeps of its invites, for as long as it lives.
#[derive(Default)]
pub(super) struct Pairing {
    lock: PairingLock,
    open: Mutex<Option<Withdrawal>>,
}

impl Space {
    /// Opens an invite into this space for ten minutes. One may be open per node.
    ///
    /// The invite is withdrawn when the answer is dropped. Its events are to be read: the last one
    /// says how it ended.
    ///
    /// # Errors
    /// [`PairError::NotAdmin`], [`PairError::InviteOpen`], [`PairError::Invite`], [`PairError::Node`].
    pub async fn invite(&self, role: Role) -> Result<OpenInvite, PairError> {
        self.invite_for(role, TTL).await
    }

    /// Opens an invite as [`Space::invite`] does, for another time.
    ///
    /// # Errors
    /// As [`Space::invite`].
    pub async fn invite_for(&self, role: Role, ttl: Duration) -> Result<OpenInvite, PairError> {
        let status = self.status().await?;
        match status.devices.iter().find(|device| device.is_self).map(|device| device.role) {
            Some(Role::Admin) => {}
            Some(role @ (Role::Member | Role::Blind)) => return Err(PairError::NotAdmin { role }),
            None => return Err(NodeError::Stopped.into()),
        }
        let name = shown_name(&status.name, status.device);
        let options = InviteOptions { role, scope: status.scope, name, ttl };
        let node = &self.node;
        let host = Arc::new(Host { space: self.clone(), role });
        let pairing = node.pairing();
        let open = pairing.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(open) = open
            && !open.over_soon().await
        {
            return Err(PairError::InviteOpen);
        }
        let invite =
            open_invite(node.identity(), pair_config(node), pairing.lock.clone(), options, host).await?;
        pairing.keep(invite.withdrawal())?;
        Ok(invite)
    }
}

impl Node {
    /// Withdraws the open invite, if there is one; returns once its port is closed.
    pub async fn withdraw_invite(&self) -> bool {
        let open = self.pairing().open.lock().unwrap_or_else(PoisonError::into_inner).take();
        match open {
            Some(withdrawal) => withdrawal.now().await,
            None => false,
        }
    }

    /// Joins a space by the code or link of an invite.
    ///
    /// This device calls itself `name`, by default as in its personal space. `addresses` are looked
    /// at beside the local network and the link. Returns once the membership is durable.
    ///
    /// # Errors
    /// [`PairError::Name`], [`PairError::Join`], [`PairError::Welcome`], [`PairError::Node`].
    pub async fn join(
        &self,
        target: Target,
        name: Option<&str>,
        addresses: Vec<SocketAddr>,
        progress: impl Fn(JoinStep) + Send + Sync,
    ) -> Result<Membership, PairError> {
        let name = match name {
            Some(name) => name.parse()?,
            None => shown_name(&self.status().await?.name, self.device()),
        };
        let options = JoinOptions { name, target, addresses };
        let joined = join(self.identity(), pair_config(self), options, progress).await?;
        let Joined { inviter, inviter_name, role, scope, address, phrase, welcome, receipt } = joined;
        let welcome = Welcome::decode(welcome)?;
        let space = welcome.space;
        self.adopt(welcome).await?;
        // Only now may the inviter forget the invite: a welcome that is lost here can be asked for.
        receipt.send().await;
        if let Some(address) = address {
            // A node that is stopped meanwhile has joined all the same.
            let _ = self.ask(move |core| core.meet(inviter, address)).await;
        }
        Ok(Membership { inviter, inviter_name, space, scope, role, phrase })
    }
}

impl Pairing {
    /// Remembers the open invite. Of two that were opened at once, the second gives way.
    fn keep(&self, withdrawal: Withdrawal) -> Result<(), PairError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.as_ref().is_some_and(|open| !open.is_over()) {
            return Err(PairError::InviteOpen);
        }
        *open = Some(withdrawal);
        Ok(())
    }
}

/// Enrols into one space with one role.
struct Host {
    space: Space,
    role: Role,
}

impl PairHost for Host {
    fn enrol(&self, joiner: DeviceId, name: String) -> Enrolling<'_> {
        Box::pin(async move {
            let enrolled = self.space.enrol(joiner, &name, self.role).await;
            let welcome = enrolled.map_err(|error| EnrolError(Box::new(error)))?.encode();
            Ok(Bytes::from_owner(welcome.map_err(|error| EnrolError(Box::new(error)))?))
        })
    }

    fn port(&self) -> Option<u16> {
        self.space.node.local_addr().map(|address| address.port())
    }
}

fn pair_config(node: &Node) -> PairConfig {
    PairConfig::new(&node.net_config(), clock::uptime)
}

/// The device's own name, or its short id where that must not be shown.
fn shown_name(name: &str, device: DeviceId) -> PairingName {
    name.parse().unwrap_or_else(|_| device.short().parse().expect("letters and digits may be shown"))
}
