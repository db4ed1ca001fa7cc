//! The register of a space as a [`LeaseCoordinator`]: the default one, which needs no server.

use std::sync::Arc;

use super::hosted::LeaseDesk;
use super::space::Space;
use crate::coordinator::{Grant, LeaseCoordinator, LeaseFuture};
use crate::lease::{self, Holder, Local, Standing, Ttl};
use crate::model::{AgentId, LeaseEpoch, SpaceId};

/// Asks the device that hosts the register of one space.
#[derive(Debug)]
struct HostCoordinator {
    desk: Arc<LeaseDesk>,
    space: SpaceId,
}

impl Space {
    /// Whoever gives the leases of this space: the device that hosts their register.
    ///
    /// It is of this space as it is now: a device that joins another personal space asks for it again.
    pub fn lease_register(&self) -> Arc<dyn LeaseCoordinator> {
        Arc::new(HostCoordinator { desk: Arc::clone(self.node.desk()), space: self.id() })
    }
}

impl LeaseCoordinator for HostCoordinator {
    fn holder(&self) -> Holder {
        self.desk.holder()
    }

    fn acquire<'a>(&'a self, agent: &'a AgentId, ttl: Ttl) -> LeaseFuture<'a, Grant> {
        Box::pin(async move { Ok(granted(&self.desk.acquire(self.space, agent, ttl).await?, ttl)) })
    }

    fn renew<'a>(&'a self, agent: &'a AgentId, epoch: LeaseEpoch, ttl: Ttl) -> LeaseFuture<'a, Grant> {
        Box::pin(async move { Ok(granted(&self.desk.renew(self.space, agent, epoch, ttl).await?, ttl)) })
    }

    fn release<'a>(&'a self, agent: &'a AgentId, epoch: LeaseEpoch) -> LeaseFuture<'a, ()> {
        Box::pin(async move { Ok(self.desk.release(self.space, agent, epoch).await?) })
    }

    fn current<'a>(&'a self, agent: &'a AgentId) -> LeaseFuture<'a, Option<Standing>> {
        Box::pin(async move { Ok(self.desk.current(self.space, agent).await?) })
    }

    fn local(&self, agent: &AgentId) -> Local {
        self.desk.local(self.space, agent)
    }
}

fn granted(grant: &lease::Grant, ttl: Ttl) -> Grant {
    Grant {
        agent: grant.key().clone(),
        epoch: grant.epoch(),
        cert: grant.token().cert,
        ttl,
        valid_until: grant.valid_until(),
    }
}
