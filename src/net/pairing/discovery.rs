//! Finding the other device on the local network: `_kinfold-pair._udp.local.`
//!
//! The announcement says which invite is open and nothing of whose it is; the instance is random
//! and lives as long as the invite. TXT: `v=1`, `i=<invite id>`. Whatever is heard is a hint.

use std::net::SocketAddr;

use mdns_sd::{Receiver, ServiceDaemon, ServiceEvent};

use super::super::mdns::{self, DiscoveryError};
use super::super::{Loopback, Mdns};
use super::PairConfig;
use crate::crypto::pairing::InviteId;

/// An announced invite. [`Announcement::end`] says goodbye.
pub(super) struct Announcement(ServiceDaemon);

impl Announcement {
    /// Announces `invite` at `local`; `None` where discovery is off.
    pub(super) fn begin(
        config: &PairConfig,
        invite: InviteId,
        local: SocketAddr,
    ) -> Result<Option<Self>, DiscoveryError> {
        let Mdns::On { loopback } = config.mdns else { return Ok(None) };
        let daemon = mdns::responder(config.mdns_port, config.interfaces.clone(), loopback)?;
        let properties = [("v".to_owned(), VERSION.to_owned()), ("i".to_owned(), invite.to_string())];
        mdns::announce(&daemon, SERVICE, &mdns::instance_name(), local, &properties)?;
        Ok(Some(Self(daemon)))
    }

    pub(super) async fn end(self) {
        mdns::goodbye(self.0).await;
    }
}

/// Hears of open invites.
pub(super) struct Browser {
    daemon: ServiceDaemon,
    events: Receiver<ServiceEvent>,
    invite: InviteId,
    loopback: Loopback,
}

impl Browser {
    /// Looks for `invite`; `None` where discovery is off.
    pub(super) fn begin(config: &PairConfig, invite: InviteId) -> Result<Option<Self>, DiscoveryError> {
        let Mdns::On { loopback } = config.mdns else { return Ok(None) };
        let daemon = mdns::responder(config.mdns_port, config.interfaces.clone(), loopback)?;
        let events = daemon.browse(SERVICE).map_err(DiscoveryError::Responder)?;
        Ok(Some(Self { daemon, events, invite, loopback }))
    }

    /// The addresses of the next announcement of the invite; `None` once nothing is heard any more.
    pub(super) async fn next(&mut self) -> Option<Vec<SocketAddr>> {
        loop {
            let ServiceEvent::ServiceResolved(service) = self.events.recv_async().await.ok()? else {
                continue;
            };
            let id = self.invite.to_string();
            let is_meant = service.get_property_val_str("v") == Some(VERSION)
                && service.get_property_val_str("i") == Some(&id);
            let addresses = mdns::dialable(&service, self.loopback);
            if is_meant && !addresses.is_empty() {
                return Some(addresses);
            }
        }
    }

    pub(super) async fn end(self) {
        mdns::goodbye(self.daemon).await;
    }
}

const SERVICE: &str = "_kinfold-pair._udp.local.";

const VERSION: &str = "1";
