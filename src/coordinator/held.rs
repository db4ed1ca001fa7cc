//! A lease that renews itself for as long as somebody works under it.

use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{debug, info};

use super::{CoordinatorError, Grant, LeaseCoordinator, Uptime};
use crate::lease::{LeaseRefused, Token, Ttl};
use crate::model::{AgentId, LeaseEpoch};

/// A lease that is held, and renewed at every third of its lifetime.
///
/// Dropping it gives the lease back as well as that can be done then: whatever works under it has
/// stopped before. [`release`](Self::release) says whether it worked.
#[derive(Debug)]
#[must_use = "a lease that is dropped is given back"]
pub struct HeldLease {
    shared: Arc<Shared>,
    renewing: JoinHandle<()>,
    is_given_back: bool,
}

#[derive(Debug)]
struct Shared {
    coordinator: Arc<dyn LeaseCoordinator>,
    uptime: Uptime,
    agent: AgentId,
    epoch: LeaseEpoch,
    ttl: Ttl,
    grant: Mutex<Held>,
    lost: watch::Sender<Option<LeaseLost>>,
}

#[derive(Clone, Debug)]
struct Held {
    grant: Grant,
    renew_at: Duration,
}

/// A lease that ended without being given back.
#[derive(Clone, Debug, Error)]
#[error("the lease of {agent} with epoch {epoch} is lost; stop what runs under it")]
pub struct LeaseLost {
    /// Whose lease.
    pub agent: AgentId,
    /// Its token.
    pub epoch: LeaseEpoch,
    /// What ended it.
    #[source]
    pub why: Arc<CoordinatorError>,
}

impl HeldLease {
    /// Takes a lease, where nobody holds it, and renews it from then on.
    ///
    /// # Errors
    /// As [`LeaseCoordinator::acquire`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn acquire(
        coordinator: Arc<dyn LeaseCoordinator>,
        uptime: Uptime,
        agent: AgentId,
        ttl: Ttl,
    ) -> Result<Self, CoordinatorError> {
        let asked = uptime.now();
        let grant = coordinator.acquire(&agent, ttl).await?;
        let held = Held { renew_at: asked + ttl.renew_after(), grant };
        let shared = Arc::new(Shared {
            coordinator,
            uptime,
            agent,
            epoch: held.grant.epoch,
            ttl,
            grant: Mutex::new(held),
            lost: watch::Sender::new(None),
        });
        let renewing = tokio::spawn(keep(Arc::clone(&shared)));
        Ok(Self { shared, renewing, is_given_back: false })
    }

    /// The fencing token.
    pub fn epoch(&self) -> LeaseEpoch {
        self.shared.epoch
    }

    /// The fencing token with its certificate.
    pub fn token(&self) -> Token {
        self.shared.held().grant.token()
    }

    /// Whose lease.
    pub fn agent(&self) -> &AgentId {
        &self.shared.agent
    }

    /// Whether it holds, by the clock that counts sleep. Ask right before acting.
    pub fn is_valid(&self) -> bool {
        self.shared.lost.borrow().is_none() && self.shared.remaining() > Duration::ZERO
    }

    /// How long it holds without another renewal.
    pub fn remaining(&self) -> Duration {
        self.shared.remaining()
    }

    /// Renews now where the last renewal is late: after a sleep, before anything is done.
    ///
    /// # Errors
    /// As [`LeaseCoordinator::renew`].
    pub async fn renew_if_late(&self) -> Result<(), CoordinatorError> {
        let shared = &self.shared;
        if shared.uptime.now() < shared.held().renew_at + shared.ttl.renew_after() {
            return Ok(());
        }
        shared.renew().await
    }

    /// Renews now.
    ///
    /// # Errors
    /// As [`LeaseCoordinator::renew`].
    pub async fn renew(&self) -> Result<(), CoordinatorError> {
        self.shared.renew().await
    }

    /// Completes when the lease is lost; what runs under it must stop then.
    pub async fn lost(&self) -> LeaseLost {
        let mut lost = self.shared.lost.subscribe();
        // The sender lives in what this borrows, so it is there until the answer.
        let found = lost.wait_for(Option::is_some).await.expect("the lease outlives the question");
        found.clone().expect("it was waited for")
    }

    /// Gives the lease back, once what ran under it has stopped.
    ///
    /// # Errors
    /// As [`LeaseCoordinator::release`]; the lease ends by itself then.
    pub async fn release(mut self) -> Result<(), CoordinatorError> {
        self.is_given_back = true;
        self.renewing.abort();
        self.shared.coordinator.release(&self.shared.agent, self.shared.epoch).await
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.renewing.abort();
        if self.is_given_back || self.shared.lost.borrow().is_some() {
            return;
        }
        // Without a runtime there is nobody to send it, and the lease ends by itself.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let shared = Arc::clone(&self.shared);
            runtime.spawn(async move {
                if let Err(error) = shared.coordinator.release(&shared.agent, shared.epoch).await {
                    debug!(agent = %shared.agent, %error, "a lease that was dropped was not given back");
                }
            });
        }
    }
}

impl Shared {
    fn held(&self) -> Held {
        self.grant.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remaining(&self) -> Duration {
        self.held().grant.valid_until.saturating_sub(self.uptime.now())
    }

    async fn renew(&self) -> Result<(), CoordinatorError> {
        let asked = self.uptime.now();
        let grant = self.coordinator.renew(&self.agent, self.epoch, self.ttl).await?;
        let mut held = self.grant.lock().unwrap_or_else(PoisonError::into_inner);
        // Two renewals may be under way, and be answered in the other order.
        if held.grant.valid_until < grant.valid_until {
            *held = Held { grant, renew_at: asked + self.ttl.renew_after() };
        }
        Ok(())
    }

    fn lose(&self, why: CoordinatorError) {
        let lost = LeaseLost { agent: self.agent.clone(), epoch: self.epoch, why: Arc::new(why) };
        let source = lost.source().map(ToString::to_string).unwrap_or_default();
        info!(agent = %lost.agent, epoch = %lost.epoch, why = %source, "a lease is lost");
        self.lost.send_replace(Some(lost));
    }

    /// Completes when the lease has run out. The clock is asked again and again: a timer of the
    /// runtime stands still with the lid shut.
    async fn run_out(&self) {
        loop {
            let remaining = self.remaining();
            if remaining.is_zero() {
                return;
            }
            tokio::time::sleep(remaining.min(LOOK_AGAIN)).await;
        }
    }

    /// Completes when it is time to renew.
    async fn due(&self, at: Duration) {
        loop {
            let left = at.saturating_sub(self.uptime.now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK_AGAIN)).await;
        }
    }
}

/// Renews until the lease is lost.
async fn keep(shared: Arc<Shared>) {
    let mut renew_at = shared.held().renew_at;
    loop {
        let renewed = tokio::select! {
            biased;
            // A renewal that is cut off here may still arrive; nobody counts on it any more.
            () = shared.run_out() => {
                return shared.lose(LeaseRefused::Expired { epoch: shared.epoch }.into());
            }
            renewed = async { shared.due(renew_at).await; shared.renew().await } => renewed,
        };
        match renewed {
            Ok(()) => renew_at = shared.held().renew_at,
            Err(error) if error.is_loss() => return shared.lose(error),
            Err(error) => {
                debug!(agent = %shared.agent, %error, "a lease is not renewed yet");
                renew_at = shared.uptime.now() + pause(shared.ttl);
            }
        }
    }
}

/// Between two attempts to renew: several fit into what is left of the lease.
fn pause(ttl: Ttl) -> Duration {
    (ttl.duration() / 10).min(Duration::from_secs(1))
}

/// How often the clock that counts sleep is asked.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::coordinator::LeaseFuture;
    use crate::lease::{DaemonInstance, Holder, Local, Standing};
    use crate::model::{CertHash, DeviceId};

    /// Answers renewals as it was told to, and notes what it is asked.
    #[derive(Debug)]
    struct Script {
        now: watch::Sender<Duration>,
        renewals: Mutex<VecDeque<CoordinatorError>>,
        asked: watch::Sender<Vec<&'static str>>,
    }

    impl Script {
        fn new(renewals: impl IntoIterator<Item = CoordinatorError>) -> Arc<Self> {
            Arc::new(Self {
                now: watch::Sender::new(Duration::from_secs(100)),
                renewals: Mutex::new(renewals.into_iter().collect()),
                asked: watch::Sender::new(Vec::new()),
            })
        }

        async fn hold(self: &Arc<Self>, ttl: Ttl) -> HeldLease {
            let script = Arc::clone(self);
            let uptime = Uptime::of(move || *script.now.borrow());
            let coordinator: Arc<dyn LeaseCoordinator> = self.clone();
            HeldLease::acquire(coordinator, uptime, "backup".parse().unwrap(), ttl).await.unwrap()
        }

        fn pass(&self, by: Duration) {
            self.now.send_modify(|now| *now += by);
        }

        async fn is_asked(&self, what: &str) {
            self.asked.subscribe().wait_for(|asked| asked.contains(&what)).await.unwrap();
        }

        async fn is_asked_to_renew(&self, times: usize) {
            let count = |asked: &Vec<&str>| asked.iter().filter(|asked| **asked == "renew").count();
            self.asked.subscribe().wait_for(|asked| count(asked) >= times).await.unwrap();
        }

        fn answer(&self, what: &'static str, agent: &AgentId, ttl: Ttl) -> Grant {
            self.asked.send_modify(|asked| asked.push(what));
            let valid_until = *self.now.borrow() + ttl.valid_for();
            Grant { agent: agent.clone(), epoch: LeaseEpoch::MIN, cert: CertHash::NONE, ttl, valid_until }
        }
    }

    impl LeaseCoordinator for Script {
        fn holder(&self) -> Holder {
            Holder { device: DeviceId::from_bytes([1; 32]), instance: DaemonInstance::new(1) }
        }

        fn acquire<'a>(&'a self, agent: &'a AgentId, ttl: Ttl) -> LeaseFuture<'a, Grant> {
            Box::pin(async move { Ok(self.answer("acquire", agent, ttl)) })
        }

        fn renew<'a>(&'a self, agent: &'a AgentId, _: LeaseEpoch, ttl: Ttl) -> LeaseFuture<'a, Grant> {
            Box::pin(async move {
                let grant = self.answer("renew", agent, ttl);
                self.renewals.lock().unwrap().pop_front().map_or(Ok(grant), Err)
            })
        }

        fn release<'a>(&'a self, agent: &'a AgentId, _: LeaseEpoch) -> LeaseFuture<'a, ()> {
            Box::pin(async move {
                self.answer("release", agent, Ttl::MIN);
                Ok(())
            })
        }

        fn current<'a>(&'a self, _: &'a AgentId) -> LeaseFuture<'a, Option<Standing>> {
            Box::pin(async { Ok(None) })
        }

        fn local(&self, _: &AgentId) -> Local {
            Local::NotHeld
        }
    }

    #[tokio::test]
    async fn a_lease_is_renewed_after_a_third_and_outlives_its_lifetime() {
        let script = Script::new([]);
        let held = script.hold(Ttl::MIN).await;
        let first = held.remaining();

        script.pass(Ttl::MIN.renew_after());
        script.is_asked("renew").await;
        while held.remaining() < first {
            tokio::task::yield_now().await;
        }

        assert!(held.is_valid());
    }

    #[tokio::test]
    async fn a_machine_that_slept_past_its_lease_has_lost_it() {
        let script = Script::new([]);
        let held = script.hold(Ttl::MIN).await;

        script.pass(Ttl::MIN.valid_for());

        assert!(!held.is_valid());
        let lost = held.lost().await;
        assert!(matches!(&*lost.why, CoordinatorError::Refused(LeaseRefused::Expired { .. })), "{lost:?}");
        assert!(lost.to_string().contains("backup with epoch 1"), "{lost}");
    }

    #[tokio::test]
    async fn a_renewal_that_says_the_lease_is_another_s_ends_it_at_once() {
        let script = Script::new([LeaseRefused::NotHolder.into()]);
        let held = script.hold(Ttl::DEFAULT).await;

        script.pass(Ttl::DEFAULT.renew_after());
        let lost = held.lost().await;

        assert!(matches!(&*lost.why, CoordinatorError::Refused(LeaseRefused::NotHolder)), "{lost:?}");
        assert!(!held.is_valid() && held.remaining() > Duration::ZERO);
        drop(held);
        tokio::task::yield_now().await;
        assert!(!script.asked.borrow().contains(&"release"), "what is lost is not given back");
    }

    #[tokio::test]
    async fn a_renewal_without_an_answer_is_tried_again_while_the_lease_holds() {
        let silent = || CoordinatorError::StoreUnreachable("silent".into());
        let script = Script::new([silent(), silent()]);
        let held = script.hold(Ttl::MIN).await;
        let first = held.remaining();

        script.pass(Ttl::MIN.renew_after());
        for attempt in 1..=3 {
            script.is_asked_to_renew(attempt).await;
            script.pass(pause(Ttl::MIN));
        }
        while held.remaining() < first * 8 / 10 {
            tokio::task::yield_now().await;
        }

        assert!(held.is_valid());
    }

    #[tokio::test]
    async fn a_lease_that_is_dropped_or_released_is_given_back() {
        let script = Script::new([]);
        drop(script.hold(Ttl::MIN).await);
        script.is_asked("release").await;

        let again = Script::new([]);
        again.hold(Ttl::MIN).await.release().await.unwrap();

        assert_eq!(*again.asked.borrow(), ["acquire", "release"]);
    }

    #[tokio::test]
    async fn a_late_renewal_comes_before_anything_else() {
        let script = Script::new([]);
        let held = script.hold(Ttl::DEFAULT).await;
        held.renewing.abort();
        held.renew_if_late().await.unwrap();
        assert!(!script.asked.borrow().contains(&"renew"));

        script.pass(Ttl::DEFAULT.renew_after() * 2);
        held.renew_if_late().await.unwrap();

        assert_eq!(*script.asked.borrow(), ["acquire", "renew"]);
    }
}
