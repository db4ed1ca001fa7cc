//! Leases in memory: the real register and the real clients, without a disk or a network between.
//!
//! For tests of programs, and for telling what every coordinator has in common. Must never be what a
//! fleet relies on: it forgets with its process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{CoordinatorError, Grant, LeaseCoordinator, LeaseFuture, Uptime};
use crate::clock;
use crate::lease::{
    self, Client, ClientEffect, ClientInput, Head, Holder, Home, HostInstance, LeaseRefused, Local, Own,
    Patience, Register, RegisterEffect, RegisterInput, Reply, ReqNo, Request, Rules, Standing, Ttl,
};
use crate::model::{AgentId, DeviceId, LeaseEpoch, Now, SpaceId};

/// A register in memory, which any number of holders of one process ask.
#[derive(Debug)]
pub struct MemoryRegister {
    uptime: Uptime,
    head: Head,
    inner: Mutex<(Register, BTreeSet<DeviceId>)>,
}

/// One holder at a [`MemoryRegister`].
#[derive(Debug)]
pub struct MemoryCoordinator {
    register: Arc<MemoryRegister>,
    holder: Holder,
    clients: Mutex<BTreeMap<AgentId, Client>>,
}

/// What a request came to.
enum Outcome {
    Granted(lease::Grant),
    Released,
    Standing(Option<Standing>),
}

impl MemoryRegister {
    /// A register that has given no lease yet.
    pub fn new(uptime: Uptime) -> Arc<Self> {
        let host = DeviceId::from_bytes([0; 32]);
        let head = Head::first(SpaceId::from_bytes([0; 32]), host);
        let home =
            Home { device: host, instance: HostInstance::FIRST, members: BTreeSet::new(), rules: Rules::ALL };
        let register = Register::open(&now(&uptime), home, head, None);
        let memory = Self { uptime, head, inner: Mutex::new((register, BTreeSet::new())) };
        let installed = memory.step(&mut memory.inner().0, RegisterInput::Install { head, table: None });
        debug_assert!(installed.is_none(), "nobody has asked yet");
        Arc::new(memory)
    }

    /// Lets a holder ask it.
    pub fn coordinator(self: &Arc<Self>, holder: Holder) -> MemoryCoordinator {
        let mut inner = self.inner();
        inner.1.insert(holder.device);
        let members = inner.1.clone();
        self.step(&mut inner.0, RegisterInput::Members(members));
        drop(inner);
        MemoryCoordinator { register: Arc::clone(self), holder, clients: Mutex::default() }
    }

    fn ask(&self, from: DeviceId, request: Request) -> Option<Reply> {
        self.step(&mut self.inner().0, RegisterInput::Request { from, request })
    }

    /// What is written is durable at once, as far as memory can be.
    fn step(&self, register: &mut Register, input: RegisterInput) -> Option<Reply> {
        let now = now(&self.uptime);
        let mut inputs = vec![input];
        let mut answer = None;
        while let Some(input) = inputs.pop() {
            for effect in register.step(&now, input) {
                match effect {
                    RegisterEffect::Persist { id, .. } => inputs.push(RegisterInput::Persisted(id)),
                    RegisterEffect::Reply { reply, .. } => answer = Some(reply),
                    RegisterEffect::Sealed { .. } | RegisterEffect::Deadline(_) => {}
                }
            }
        }
        answer
    }

    fn inner(&self) -> MutexGuard<'_, (Register, BTreeSet<DeviceId>)> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryCoordinator {
    /// Steps the client until what is wanted has come about or was refused.
    fn drive(
        &self,
        agent: &AgentId,
        first: ClientInput,
        claimed: Option<LeaseEpoch>,
    ) -> Result<Outcome, LeaseRefused> {
        let now = now(&self.register.uptime);
        let head = self.register.head;
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = clients.entry(agent.clone()).or_insert_with(|| {
            let (holder, key) = (self.holder, agent.clone());
            Client::new(&now, Own { holder, key, req_no: ReqNo::new(0), rules: Rules::ALL }, head)
        });
        if let Some(claimed) = claimed {
            match client.grant().map(lease::Grant::epoch) {
                Some(current) if current == claimed => {}
                Some(current) => return Err(LeaseRefused::Stale { claimed, current }),
                None => return Err(LeaseRefused::NotHolder),
            }
        }
        let mut inputs = vec![first];
        let mut refused = LeaseRefused::HostUnreachable { host: head.host };
        while let Some(input) = inputs.pop() {
            if let ClientInput::Reply { reply: Reply { answer: Err(why), .. }, .. } = &input {
                refused = why.clone();
            }
            for effect in client.step(&now, input) {
                match effect {
                    ClientEffect::Send { request, .. } => {
                        let reply = self.register.ask(self.holder.device, request);
                        inputs.extend(reply.map(|reply| ClientInput::Reply { from: head.host, reply }));
                    }
                    ClientEffect::Granted(grant) | ClientEffect::Renewed(grant) => {
                        return Ok(Outcome::Granted(grant));
                    }
                    ClientEffect::Released { .. } => return Ok(Outcome::Released),
                    ClientEffect::Read(standing) => return standing.map(Outcome::Standing),
                    ClientEffect::Refused(why) => return Err(why),
                    ClientEffect::Lost { why, .. } if claimed.is_some() => return Err(why),
                    // One that ran out before it is asked for anew.
                    ClientEffect::Lost { .. } | ClientEffect::Stop { .. } | ClientEffect::Deadline(_) => {}
                }
            }
        }
        Err(refused)
    }

    fn grant(&self, driven: Result<Outcome, LeaseRefused>, ttl: Ttl) -> Result<Grant, CoordinatorError> {
        match driven? {
            Outcome::Granted(grant) => {
                let lease::Token { epoch, cert } = grant.token();
                let (agent, valid_until) = (grant.key().clone(), grant.valid_until());
                Ok(Grant { agent, epoch, cert, ttl, valid_until })
            }
            Outcome::Released | Outcome::Standing(_) => Err(LeaseRefused::NotHolder.into()),
        }
    }
}

impl LeaseCoordinator for MemoryCoordinator {
    fn holder(&self) -> Holder {
        self.holder
    }

    fn acquire<'a>(&'a self, agent: &'a AgentId, ttl: Ttl) -> LeaseFuture<'a, Grant> {
        let input = ClientInput::Acquire { ttl, patience: Patience::Refuse };
        Box::pin(async move { self.grant(self.drive(agent, input, None), ttl) })
    }

    fn renew<'a>(&'a self, agent: &'a AgentId, epoch: LeaseEpoch, ttl: Ttl) -> LeaseFuture<'a, Grant> {
        let input = ClientInput::Renew { ttl: Some(ttl) };
        Box::pin(async move { self.grant(self.drive(agent, input, Some(epoch)), ttl) })
    }

    fn release<'a>(&'a self, agent: &'a AgentId, epoch: LeaseEpoch) -> LeaseFuture<'a, ()> {
        Box::pin(async move { Ok(self.drive(agent, ClientInput::Release, Some(epoch)).map(drop)?) })
    }

    fn current<'a>(&'a self, agent: &'a AgentId) -> LeaseFuture<'a, Option<Standing>> {
        Box::pin(async move {
            match self.drive(agent, ClientInput::Read, None)? {
                Outcome::Standing(standing) => Ok(standing),
                Outcome::Granted(_) | Outcome::Released => Ok(None),
            }
        })
    }

    fn local(&self, agent: &AgentId) -> Local {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.get(agent).map_or(Local::NotHeld, |client| client.local(&now(&self.register.uptime)))
    }
}

fn now(uptime: &Uptime) -> Now {
    Now { uptime: uptime.now(), ..clock::now() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use object_store::memory::InMemory;
    use object_store::path::Path;
    use tokio::sync::watch;

    use super::*;
    use crate::coordinator::StoreCoordinator;
    use crate::coordinator::store::{Cells, ObjectCells};
    use crate::lease::DaemonInstance;

    fn holder(device: u8) -> Holder {
        Holder { device: DeviceId::from_bytes([device; 32]), instance: DaemonInstance::new(1) }
    }

    /// What every coordinator has in common.
    async fn check(one: &dyn LeaseCoordinator, two: &dyn LeaseCoordinator, time: &watch::Sender<Duration>) {
        let (agent, ttl): (AgentId, _) = ("backup".parse().unwrap(), Ttl::DEFAULT);
        let pass = |by: Duration| time.send_modify(|now| *now += by);
        let kind = |answer: Result<Grant, CoordinatorError>| answer.unwrap_err().kind();
        assert_eq!(one.current(&agent).await.unwrap(), None);
        assert_eq!(one.local(&agent), Local::NotHeld);

        let first = one.acquire(&agent, ttl).await.unwrap();
        assert!(matches!(one.local(&agent), Local::Valid { epoch, .. } if epoch == first.epoch));
        assert_eq!(kind(two.acquire(&agent, ttl).await), "Held");
        assert_eq!(kind(one.acquire(&agent, ttl).await), "AlreadyHeld");
        assert_eq!(two.current(&agent).await.unwrap().unwrap().holder, one.holder());

        pass(ttl.renew_after());
        let renewed = one.renew(&agent, first.epoch, ttl).await.unwrap();
        assert_eq!(renewed.epoch, first.epoch);
        assert_eq!(renewed.valid_until, first.valid_until + ttl.renew_after());
        one.release(&agent, first.epoch).await.unwrap();
        assert_eq!(one.local(&agent), Local::NotHeld);

        let second = two.acquire(&agent, ttl).await.unwrap();
        assert!(first.epoch < second.epoch);
        assert!(one.renew(&agent, first.epoch, ttl).await.unwrap_err().is_loss());
        assert_eq!(kind(one.acquire(&agent, ttl).await), "Held");
        pass(ttl.held_for());
        assert_eq!(two.local(&agent), Local::NotHeld);
        let third = one.acquire(&agent, ttl).await.unwrap();
        assert!(second.epoch < third.epoch);
    }

    fn clock() -> (watch::Sender<Duration>, Uptime) {
        let time = watch::Sender::new(Duration::from_secs(100));
        let reader = time.subscribe();
        (time, Uptime::of(move || *reader.borrow()))
    }

    #[tokio::test]
    async fn the_register_in_memory_does_what_every_coordinator_does() {
        let (time, uptime) = clock();
        let register = MemoryRegister::new(uptime);

        check(&register.coordinator(holder(1)), &register.coordinator(holder(2)), &time).await;
    }

    #[tokio::test]
    async fn a_bucket_does_what_every_coordinator_does() {
        let (time, uptime) = clock();
        let cells: Arc<dyn Cells> =
            Arc::new(ObjectCells::new(Arc::new(InMemory::new()), Path::from("fleet")));
        let of = |device| StoreCoordinator::with_clock(Arc::clone(&cells), holder(device), uptime.clone());

        check(&of(1), &of(2), &time).await;
    }

    #[tokio::test]
    async fn a_device_that_may_not_ask_is_refused() {
        let (_, uptime) = clock();
        let register = MemoryRegister::new(uptime);
        let stranger = MemoryCoordinator {
            register: Arc::clone(&register),
            holder: holder(9),
            clients: Mutex::default(),
        };

        let refused = stranger.acquire(&"backup".parse().unwrap(), Ttl::DEFAULT).await;

        assert_eq!(refused.unwrap_err().kind(), "NotAuthorized");
    }
}
