//! Who is in a space, and how it changes: founding, inviting, joining.

use bytes::Bytes;

use super::error::NodeError;
use super::handle::Node;
use super::space::{Place, Space};
use crate::crypto::EpochKey;
use crate::model::{DeviceId, Scope, SpaceId};
use crate::roster::Role;
use crate::sync::Input;

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

impl Space {
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
