//! Who is in a space, and how it changes: founding, inviting, joining.

use super::error::NodeError;
use super::handle::Node;
use super::space::{Place, Space};
use crate::model::{DeviceId, Scope, SpaceId};
use crate::roster::{Epoch, Member, Role};
use crate::sync::{Input, RosterChange};
use crate::wire::Welcome;

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

/// Whether a device is waited for before history is thrown away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activity {
    /// It has been away for long, or will be.
    Dormant,
    /// It is in use.
    Active,
}

/// A key that was renewed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rotated {
    /// The number of the epoch; 0 is the first.
    pub epoch: u64,
    /// The devices that had the key before it counted; others get it when they connect.
    pub confirmed_by: Vec<DeviceId>,
}

impl Space {
    /// Calls a device something else.
    ///
    /// # Errors
    /// [`NodeError::Refused`] for a name that is empty or too long, or where neither the device
    /// itself nor an admin asks.
    pub async fn rename(&self, device: DeviceId, name: &str) -> Result<(), NodeError> {
        self.change(RosterChange::Rename { device, name: name.into() }).await
    }

    /// Waits for a device no more (it is in a drawer), or waits for it again. Whether that is a change.
    ///
    /// What a dormant device has written stays, and it comes back with whatever it writes meanwhile. That one which is
    /// dormant by itself is called so by a person is a change: the person takes it on themselves.
    ///
    /// # Errors
    /// [`NodeError::Refused`] where neither the device itself nor an admin asks, or it is none of the
    /// space; [`NodeError::Stopped`].
    pub async fn set_activity(&self, device: DeviceId, activity: Activity) -> Result<bool, NodeError> {
        let space = self.id();
        let member = self.node.ask(move |core| {
            let mut members = core.engine.space(space)?.roster.members();
            members.find(|member| member.device == device).cloned()
        });
        let change = match activity {
            Activity::Dormant => RosterChange::Dormant { device },
            Activity::Active => RosterChange::Active { device },
        };
        let is_said = |member: Member| match activity {
            Activity::Dormant => member.dormancy.is_some_and(|dormancy| dormancy.is_of_person()),
            Activity::Active => member.dormancy.is_none(),
        };
        if member.await?.is_some_and(is_said) {
            return Ok(false);
        }
        self.change(change).await.map(|()| true)
    }

    /// Writes under a new key from now on; whoever is away gets it later.
    ///
    /// # Errors
    /// [`NodeError::Refused`] where this device is no admin.
    pub async fn rotate(&self) -> Result<Rotated, NodeError> {
        let space = self.id();
        self.node.request(move |token| Input::Rotate { space, token }).await?;
        let rotated = self.node.ask(move |core| {
            let roster = core.engine.space(space)?.roster;
            let (epoch, confirmed_by) = match roster.epoch() {
                Epoch::Current { n, key_id } => (n, roster.confirmations_of(&key_id)),
                Epoch::Contested { n } => (n, Vec::new()),
            };
            Some(Rotated { epoch, confirmed_by })
        });
        rotated.await?.ok_or(NodeError::Stopped)
    }

    pub(super) async fn change(&self, change: RosterChange) -> Result<(), NodeError> {
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
