//! Who is in a space, and how it changes: founding, inviting, joining.

use bytes::Bytes;

use super::error::NodeError;
use super::handle::Node;
use super::space::{Place, Space};
use crate::crypto::EpochKey;
use crate::model::{DeviceId, Scope, SpaceId};
use crate::roster::Role;
use crate::sync::{Input, RosterChange};

/// What an invited device gets: the space's roster and, unless it is to be blind, its keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// The space.
    pub space: SpaceId,
    /// The roster, as signed records.
    pub records: Vec<Bytes>,
    /// The keys of every epoch; they print as their ids.
    pub keys: Vec<EpochKey>,
}

impl Node {
    /// Begins a space with this device as its first admin, called `name` there.
    ///
    /// # Errors
    /// [`NodeError::Refused`] where this device takes part in one of that scope already,
    /// [`NodeError::Stopped`].
    pub async fn found(&self, scope: Scope, name: &str) -> Result<Space, NodeError> {
        let (wanted, name) = (scope.clone(), name.into());
        self.request(move |token| Input::Found { scope: wanted, name, token }).await?;
        self.space(&scope).await
    }

    /// Takes part in a space this device was invited into.
    ///
    /// The personal space of a device gives way to that of the device that invites it, and what was
    /// written in it is carried over.
    ///
    /// # Errors
    /// [`NodeError::Refused`], [`NodeError::Stopped`].
    pub async fn adopt(&self, welcome: Welcome) -> Result<Space, NodeError> {
        let Welcome { space, records, keys } = welcome;
        self.request(move |token| Input::Join { space, records, keys, token }).await?;
        Ok(match self.personal_id() == space {
            true => self.personal(),
            false => Space { node: self.clone(), place: Place::Fixed(space) },
        })
    }
}

impl Node {
    /// The spaces this device takes part in, the personal one first.
    ///
    /// # Errors
    /// [`NodeError::Stopped`].
    pub async fn spaces(&self) -> Result<Vec<SpaceInfo>, NodeError> {
        self.ask(|core| {
            let own = core.engine.device();
            let mut spaces: Vec<SpaceInfo> = core
                .engine
                .active_spaces()
                .into_iter()
                .filter_map(|space| core.engine.space(space))
                .map(|view| SpaceInfo {
                    space: view.space,
                    scope: view.scope.clone(),
                    role: view.roster.role_of(&own),
                    device_count: view.roster.member_count(),
                    op_count: view.frontier.op_count() + view.draft_count,
                    is_leaving: view.roster.removal_of(&own).is_some_and(|removed| removed.by == own),
                })
                .collect();
            spaces.sort_by(|a, b| {
                (a.scope != Scope::Personal, &a.scope).cmp(&(b.scope != Scope::Personal, &b.scope))
            });
            spaces
        })
        .await
    }
}

/// A space this device takes part in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpaceInfo {
    /// The space.
    pub space: SpaceId,
    /// What it is for.
    pub scope: Scope,
    /// What this device may do there; `None` once it was removed or is about to leave.
    pub role: Option<Role>,
    /// How many devices it has.
    pub device_count: usize,
    /// Ops held.
    pub op_count: u64,
    /// Whether this device has left and no other device has heard of it yet.
    pub is_leaving: bool,
}

/// A device that was removed from a space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemovedDevice {
    /// The device.
    pub device: DeviceId,
    /// What it was called, where this device can read it.
    pub name: Option<String>,
    /// What it was allowed to do.
    pub role: Role,
    /// Who removed it.
    pub by: DeviceId,
    /// When, by the clock of whoever removed it, in Unix milliseconds.
    pub at_millis: u64,
    /// How many of its ops stand.
    pub op_count: u64,
    /// Devices that have not said yet that they know: they may still accept it.
    pub accepted_by: Vec<DeviceId>,
}

impl Space {
    /// Removes a device for good: what this device holds of it stays, whatever else it writes is
    /// refused everywhere, its live connections end, and the space gets a new key.
    ///
    /// # Errors
    /// [`NodeError::Refused`] where this device is no admin, or the last one would go.
    pub async fn revoke(&self, device: DeviceId) -> Result<(), NodeError> {
        self.change(RosterChange::Remove { device }).await
    }

    /// Removes a device that is at hand: syncs first, so that nothing it has written is left behind.
    /// Says whether the device was connected and everything it holds has arrived.
    ///
    /// # Errors
    /// As [`Space::revoke`], and [`NodeError::NotStarted`].
    pub async fn retire(&self, device: DeviceId) -> Result<bool, NodeError> {
        self.node.sync().await?;
        let space = self.id();
        let is_complete = self.node.ask(move |core| {
            let (Some(view), Some(theirs)) =
                (core.engine.space(space), core.engine.announced(space, &device))
            else {
                return false;
            };
            view.frontier.covers_all(theirs)
        });
        let is_complete = is_complete.await?;
        self.revoke(device).await?;
        Ok(is_complete)
    }

    /// Calls a device something else.
    ///
    /// # Errors
    /// [`NodeError::Refused`] for a name that is empty or too long, or where neither the device
    /// itself nor an admin asks.
    pub async fn rename(&self, device: DeviceId, name: &str) -> Result<(), NodeError> {
        self.change(RosterChange::Rename { device, name: name.into() }).await
    }

    /// Writes under a new key from now on; whoever is away gets it later.
    ///
    /// # Errors
    /// [`NodeError::Refused`] where this device is no admin.
    pub async fn rotate(&self) -> Result<(), NodeError> {
        let space = self.id();
        self.node.request(move |token| Input::Rotate { space, token }).await
    }

    /// Takes part no more: says so to the others, the next time one is there, and stops. What is
    /// here stays readable to nobody but this device.
    ///
    /// # Errors
    /// [`NodeError::Refused`] where others remain and none of them is an admin.
    pub async fn leave(&self) -> Result<(), NodeError> {
        self.change(RosterChange::Remove { device: self.node.device() }).await
    }

    /// The devices that were removed, the last one first, with who may still accept each.
    ///
    /// # Errors
    /// [`NodeError::Stopped`].
    pub async fn removed(&self) -> Result<Vec<RemovedDevice>, NodeError> {
        let space = self.id();
        self.node
            .ask(move |core| {
                let Some(view) = core.engine.space(space) else { return Vec::new() };
                let unaware = core.engine.unaware(space);
                let mut removed: Vec<RemovedDevice> = view
                    .roster
                    .removed()
                    .map(|removed| RemovedDevice {
                        device: removed.device,
                        name: view.roster.name_of(&removed.device, |key_id| core.keys.key(key_id)),
                        role: removed.role,
                        by: removed.by,
                        at_millis: removed.hlc.millis(),
                        op_count: removed.cut.values().map(|tip| tip.seq.get()).sum(),
                        accepted_by: unaware.clone(),
                    })
                    .collect();
                removed.sort_by_key(|removed| std::cmp::Reverse(removed.at_millis));
                removed
            })
            .await
    }

    async fn change(&self, change: RosterChange) -> Result<(), NodeError> {
        let space = self.id();
        self.node.request(move |token| Input::Change { space, change, token }).await
    }

    /// Adds a device and says what to give it, over a channel that only it can read. A device that
    /// is there already gets the same again.
    ///
    /// # Errors
    /// [`NodeError::Refused`], [`NodeError::Stopped`].
    pub async fn enrol(&self, device: DeviceId, name: &str, role: Role) -> Result<Welcome, NodeError> {
        let (space, name) = (self.id(), name.into());
        self.node.request(move |token| Input::Enrol { space, device, role, name, token }).await?;
        let welcome = self.node.ask(move |core| {
            let view = core.engine.space(space)?;
            let holds_keys = view.roster.role_of(&device)?.holds_keys();
            let keys = core.engine.keys().into_iter().filter(|(of, _)| *of == space && holds_keys);
            Some(Welcome {
                space,
                records: view.roster.missing_from(&[]),
                keys: keys.map(|(_, key)| key).collect(),
            })
        });
        welcome.await?.ok_or(NodeError::Stopped)
    }
}
