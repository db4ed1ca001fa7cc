//! Leases of a node: taking one, working under it, and the fence before every effect.

use std::sync::Arc;
use std::time::Duration;

use super::error::NodeError;
use super::handle::Node;
use super::space::Space;
use crate::coordinator::{
    CoordinatorError, Grant, HeldLease, LeaseCoordinator, LeaseFuture, LeaseLost, Uptime,
};
use crate::fold::{NoChain, RunStatus};
use crate::lease::{self, FenceDecision, Holder, LeaseRefused, Local, Standing, Ttl, fence};
use crate::model::{AgentId, LeaseEpoch, OpId, RunId};

/// The register of a space, asked through this device.
#[derive(Debug)]
struct Hosted {
    space: Space,
}

impl LeaseCoordinator for Hosted {
    fn holder(&self) -> Holder {
        self.space.node.desk().holder()
    }

    fn acquire<'a>(&'a self, agent: &'a AgentId, ttl: Ttl) -> LeaseFuture<'a, Grant> {
        Box::pin(async move { Ok(granted(self.space.acquire_lease(agent, ttl).await?, ttl)) })
    }

    fn renew<'a>(&'a self, agent: &'a AgentId, epoch: LeaseEpoch, ttl: Ttl) -> LeaseFuture<'a, Grant> {
        Box::pin(async move { Ok(granted(self.space.renew_lease(agent, epoch, ttl).await?, ttl)) })
    }

    fn release<'a>(&'a self, agent: &'a AgentId, epoch: LeaseEpoch) -> LeaseFuture<'a, ()> {
        Box::pin(async move { Ok(self.space.release_lease(agent, epoch).await?) })
    }

    fn current<'a>(&'a self, agent: &'a AgentId) -> LeaseFuture<'a, Option<Standing>> {
        Box::pin(async move { Ok(self.space.current_lease(agent).await?) })
    }

    fn local(&self, agent: &AgentId) -> Local {
        self.space.node.desk().local(self.space.id(), agent)
    }
}

fn granted(grant: lease::Grant, ttl: Ttl) -> Grant {
    let lease::Token { epoch, cert } = grant.token();
    Grant { agent: grant.key().clone(), epoch, cert, ttl, valid_until: grant.valid_until() }
}

impl Node {
    /// Asks for the lease of an agent: whoever holds it may run the agent, and nobody else.
    ///
    /// `ttl` is how long the lease outlives a holder that has gone, from 1 s to 1 h; it is renewed at
    /// every third of that.
    ///
    /// ```no_run
    /// # async fn work(node: kinfold::Node) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// let guard = node.lease("backup", Duration::from_secs(30)).acquire().await?;
    /// guard.fence("2026-11-27").await?; // right before the effect
    /// // … the effect, which stops when `guard.lost()` completes …
    /// guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn lease(&self, agent: impl Into<String>, ttl: Duration) -> LeaseRequest {
        LeaseRequest { space: self.personal(), agent: agent.into(), ttl }
    }

    /// Decides whether a run of the personal space that claims `epoch` may act now; see
    /// [`Space::fence_check`].
    ///
    /// # Errors
    /// As [`Space::fence_check`].
    pub async fn fence_check(
        &self,
        agent: &AgentId,
        run: &RunId,
        epoch: LeaseEpoch,
    ) -> Result<FenceDecision, NodeError> {
        self.personal().fence_check(agent, run, epoch).await
    }
}

impl Space {
    /// Who gives leases: the bucket or directory that this node was opened with, or else the device
    /// that hosts the register of the space.
    pub fn lease_coordinator(&self) -> Arc<dyn LeaseCoordinator> {
        match self.node.store_leases() {
            Some(store) => Arc::clone(store),
            None => Arc::new(Hosted { space: self.clone() }),
        }
    }

    /// Decides whether a run that claims `epoch` may act, right before it does.
    ///
    /// Asks in this order: the folded ledger, which knows whether the run has happened, whatever the
    /// token; the coordinator, by a linearizable read made for this question; and last the own clock,
    /// which counts sleep.
    ///
    /// # Errors
    /// [`NodeError::Lease`] where the leases cannot be read, and what reading the ledger may come to.
    /// None of them is leave to act.
    pub async fn fence_check(
        &self,
        agent: &AgentId,
        run: &RunId,
        epoch: LeaseEpoch,
    ) -> Result<FenceDecision, NodeError> {
        if let Some(op_id) = self.committed(agent, run)? {
            return Ok(FenceDecision::AlreadyCommitted { op_id });
        }
        let coordinator = self.lease_coordinator();
        let read = match coordinator.current(agent).await {
            Ok(standing) => Ok(standing),
            Err(CoordinatorError::Refused(refused)) => Err(refused),
            Err(error) => return Err(error.into()),
        };
        // The fold may have learned of it while the leases were read.
        let committed = self.committed(agent, run)?;
        Ok(fence(epoch, coordinator.holder(), committed, &read, &coordinator.local(agent)))
    }
}

impl Space {
    /// The op that says that a run has happened, as this device knows it.
    fn committed(&self, agent: &AgentId, run: &RunId) -> Result<Option<OpId>, NodeError> {
        let index = self.index();
        index.steadily(|| {
            // Whether it happened does not depend on who may give tokens.
            let Some(view) = index.read()?.run_state(agent.as_str(), run.as_str(), &NoChain) else {
                return Ok(None);
            };
            if view.status != RunStatus::Committed {
                return Ok(None);
            }
            let head = view.shown().head;
            let Some(at) = self.node.blocks().op(&index.space, &head.place)? else {
                return Err(NodeError::OpMissing { dot: head.place });
            };
            Ok(Some(OpId::of(&index.space, at.dot, at.hlc, at.kind, at.flags, &at.body)))
        })
    }
}

/// A lease that is to be acquired.
#[derive(Clone, Debug)]
#[must_use = "nothing is asked until it is acquired"]
pub struct LeaseRequest {
    space: Space,
    agent: String,
    ttl: Duration,
}

impl LeaseRequest {
    /// Acquires the lease, where nobody holds it.
    ///
    /// # Errors
    /// [`NodeError::Lease`] where somebody does, or the coordinator cannot be asked;
    /// [`NodeError::LeaseName`] for a name that is none.
    pub async fn acquire(self) -> Result<LeaseGuard, NodeError> {
        let agent: AgentId = self.agent.parse()?;
        let millis = u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX);
        let ttl = Ttl::from_millis(millis).map_err(CoordinatorError::Refused)?;
        let coordinator = self.space.lease_coordinator();
        let held = HeldLease::acquire(coordinator, Uptime::system(), agent, ttl).await?;
        Ok(LeaseGuard { space: self.space, held })
    }
}

/// A lease that renews itself; dropping it gives it back as well as that can be done then.
#[derive(Debug)]
#[must_use = "a lease that is dropped is given back"]
pub struct LeaseGuard {
    space: Space,
    held: HeldLease,
}

impl LeaseGuard {
    /// Whose lease.
    pub fn agent(&self) -> &AgentId {
        self.held.agent()
    }

    /// The fencing token: what an effect outside should carry, so that a lower one can be refused.
    pub fn epoch(&self) -> LeaseEpoch {
        self.held.epoch()
    }

    /// Whether it holds, by the clock that counts sleep.
    pub fn is_valid(&self) -> bool {
        self.held.is_valid()
    }

    /// Completes when the lease is lost; what runs under it must stop then.
    pub async fn lost(&self) -> LeaseLost {
        self.held.lost().await
    }

    /// Returns where this run may act now: call it right before every effect.
    ///
    /// After a sleep the lease is renewed first.
    ///
    /// # Errors
    /// [`NodeError::Fenced`] with the decision: the run has happened, or the lease is not held any
    /// more. As [`Space::fence_check`] else.
    pub async fn fence(&self, run: impl AsRef<str>) -> Result<(), NodeError> {
        let run: RunId = run.as_ref().parse()?;
        self.held.renew_if_late().await?;
        let mut decision = self.space.fence_check(self.agent(), &run, self.epoch()).await?;
        if matches!(decision, FenceDecision::RenewFirst { .. }) {
            self.held.renew().await?;
            decision = self.space.fence_check(self.agent(), &run, self.epoch()).await?;
        }
        if !decision.may_dispatch() {
            return Err(NodeError::Fenced { decision: Box::new(decision) });
        }
        // Last of all the own clock: what came before may have taken longer than the lease lasts.
        if self.is_valid() {
            return Ok(());
        }
        Err(CoordinatorError::Refused(LeaseRefused::Expired { epoch: self.epoch() }).into())
    }

    /// Gives the lease back, once what ran under it has stopped.
    ///
    /// # Errors
    /// [`NodeError::Lease`]: it ends by itself then.
    pub async fn release(self) -> Result<(), NodeError> {
        Ok(self.held.release().await?)
    }
}
