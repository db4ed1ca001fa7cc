//! Who goes from a space for good: revoked, retired, or by leaving it.

use std::time::Duration;

use super::core::Core;
use super::error::NodeError;
use super::space::Space;
use crate::model::{DeviceId, Scope, SpaceId};
use crate::roster::{Epoch, Removed, Role};
use crate::sync::RosterChange;

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

/// What a removal came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revoked {
    /// The device.
    pub device: DeviceId,
    /// Live connections of it that this device had and has ended.
    pub closed_count: usize,
    /// How many of its ops stand.
    pub op_count: u64,
    /// Whether the space is written under a new key; if not, it will be once a device that is
    /// slow to confirm it has done so.
    pub is_rekeyed: bool,
    /// Devices that have not said yet that they know: they may still accept it.
    pub accepted_by: Vec<DeviceId>,
    /// Other spaces of this device that it still belongs to.
    pub remains_in: Vec<Scope>,
}

impl Space {
    /// Removes a device for good: what this device holds of it stays, whatever else it writes is
    /// refused everywhere, its live connections end, and the space gets a new key.
    ///
    /// Returns once the devices that are connected know and the key is new, or after five seconds.
    ///
    /// # Errors
    /// [`NodeError::Refused`] where this device is no admin, or the last one would go;
    /// [`NodeError::OwnDevice`], [`NodeError::Stopped`].
    pub async fn revoke(&self, device: DeviceId) -> Result<Revoked, NodeError> {
        let space = self.id();
        if device == self.node.device() {
            let scope = self.node.ask(move |core| scope_of(core, space)).await?;
            return Err(NodeError::OwnDevice { scope: scope.ok_or(NodeError::Stopped)? });
        }
        let before = self.node.ask(move |core| (core.link_count(&device), epoch_of(core, space)));
        let (link_count, epoch) = before.await?;
        self.change(RosterChange::Remove { device }).await?;
        self.until_heard(space, epoch).await?;
        let report = self.node.ask(move |core| {
            let remains_in = core.scopes_of(&device);
            Some(Revoked {
                device,
                closed_count: if remains_in.is_empty() { link_count } else { 0 },
                op_count: op_count(core.engine.space(space)?.roster.removal_of(&device)?),
                is_rekeyed: is_rekeyed(core, space, epoch),
                accepted_by: core.engine.unaware(space),
                remains_in,
            })
        });
        report.await?.ok_or(NodeError::Stopped)
    }

    /// Removes a device that is at hand: syncs first, so that nothing it has written is left behind.
    ///
    /// # Errors
    /// As [`Space::revoke`], and [`NodeError::NotStarted`]; [`NodeError::NotReachable`] and
    /// [`NodeError::StillBehind`], and then nothing has changed.
    pub async fn retire(&self, device: DeviceId) -> Result<Revoked, NodeError> {
        let (space, own) = (self.id(), self.node.device());
        // Whether it may be removed at all is said first; only then is it worth a connection.
        let is_due = self.node.ask(move |core| {
            let Some(view) = core.engine.space(space) else { return false };
            view.roster.role_of(&own) == Some(Role::Admin) && view.roster.role_of(&device).is_some()
        });
        if device != own && is_due.await? {
            self.node.sync().await?;
            let missing = self.node.ask(move |core| {
                let theirs = core.engine.announced(space, &device)?;
                Some(theirs.ops_beyond(core.engine.space(space)?.frontier))
            });
            match missing.await? {
                None => return Err(NodeError::NotReachable { device }),
                Some(0) => {}
                Some(ops) => return Err(NodeError::StillBehind { device, ops }),
            }
        }
        self.revoke(device).await
    }

    /// Takes part no more: says so to the others, the next time one is there, and stops. Says
    /// whether that has happened already. What is here stays readable to nobody but this device.
    ///
    /// # Errors
    /// [`NodeError::Refused`] for the last admin, [`NodeError::PersonalSpace`],
    /// [`NodeError::Stopped`].
    pub async fn leave(&self) -> Result<bool, NodeError> {
        let (space, own) = (self.id(), self.node.device());
        let before = self.node.ask(move |core| {
            let view = core.engine.space(space)?;
            let is_leaving = view.roster.removal_of(&own).is_some_and(|removed| removed.by == own);
            Some((view.scope.clone(), is_leaving))
        });
        let (scope, is_leaving) = before.await?.ok_or(NodeError::Stopped)?;
        if scope == Scope::Personal {
            return Err(NodeError::PersonalSpace);
        }
        if !is_leaving {
            self.change(RosterChange::Remove { device: own }).await?;
        }
        self.node.ask(move |core| core.engine.space(space).is_none_or(|view| !view.is_active)).await
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
                        op_count: op_count(removed),
                        accepted_by: unaware.clone(),
                    })
                    .collect();
                removed.sort_by_key(|removed| std::cmp::Reverse(removed.at_millis));
                removed
            })
            .await
    }

    /// Waits until the key is new and whoever is connected has said that it knows the roster.
    async fn until_heard(&self, space: SpaceId, epoch: Option<Epoch>) -> Result<(), NodeError> {
        let mut version = self.node.version();
        let heard = async {
            loop {
                version.mark_unchanged();
                let is_over = self.node.ask(move |core| {
                    let unaware = core.engine.unaware(space);
                    is_rekeyed(core, space, epoch)
                        && unaware.iter().all(|device| core.link_count(device) == 0)
                });
                if is_over.await? {
                    return Ok(());
                }
                version.changed().await.map_err(|_| NodeError::Stopped)?;
            }
        };
        // The removal stands all the same; the report says who has not heard.
        tokio::time::timeout(HEARD_WITHIN, heard).await.unwrap_or(Ok(()))
    }
}

impl Core {
    fn link_count(&self, device: &DeviceId) -> usize {
        self.links.values().filter(|link| link.device() == *device).count()
    }

    /// The spaces that this device and another one are both in.
    fn scopes_of(&self, device: &DeviceId) -> Vec<Scope> {
        let spaces = self.engine.active_spaces();
        let views = spaces.into_iter().filter_map(|space| self.engine.space(space));
        views.filter(|view| view.roster.role_of(device).is_some()).map(|view| view.scope.clone()).collect()
    }
}

fn scope_of(core: &mut Core, space: SpaceId) -> Option<Scope> {
    Some(core.engine.space(space)?.scope.clone())
}

fn epoch_of(core: &Core, space: SpaceId) -> Option<Epoch> {
    Some(core.engine.space(space)?.roster.epoch())
}

fn is_rekeyed(core: &Core, space: SpaceId, before: Option<Epoch>) -> bool {
    let epoch = epoch_of(core, space);
    epoch != before && matches!(epoch, Some(Epoch::Current { .. }))
}

fn op_count(removed: &Removed) -> u64 {
    removed.cut.values().map(|tip| tip.seq.get()).sum()
}

/// Long enough for a connected device to make the new key durable and answer.
const HEARD_WITHIN: Duration = Duration::from_secs(5);
