//! Leases from the register of the space: this device asks its host, itself where it hosts.
//!
//! Each agent has a [`Client`] of the lease core, driven while somebody waits for an answer; what it
//! sends goes to the host over a stream of its own, or into this device's own loop by the same path.
//! A request that is lost is sent again under its number, so nothing is granted twice; a host that does
//! not answer is told as [`LeaseRefused::HostUnreachable`] after a bound.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::core::{Core, Job};
use super::error::NodeError;
use super::space::Space;
use crate::clock;
use crate::lease::{
    CertKind, Client, ClientEffect, ClientInput, DaemonInstance, Grant, Head, Holder, LeaseRefused, Local,
    Own, Patience, Phase, Reply, ReqNo, Request, Rules, Standing, Ttl,
};
use crate::model::{AgentId, DeviceId, LeaseEpoch, SpaceId};
use crate::net::{Link, Topic};
use crate::sync::{Driving, Input, LeaseView};

/// The leases of this daemon, whoever hosts them.
pub(super) struct LeaseDesk {
    holder: Holder,
    /// Not a handle of its own: the loop ends when the node's last handle does.
    jobs: mpsc::WeakSender<Job>,
    agents: Mutex<BTreeMap<(SpaceId, AgentId), Arc<Agent>>>,
}

/// One agent's side of its lease.
struct Agent {
    /// One request at a time.
    turn: tokio::sync::Mutex<()>,
    client: Mutex<Client>,
}

/// Where a request goes.
enum Route {
    /// This device hosts.
    Here,
    /// The host is connected.
    Link(Link),
    /// It is not; it may be soon, if the network runs.
    Nowhere { is_started: bool },
}

/// What somebody waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Grant,
    Renewal,
    Release,
    Read,
}

/// What it came to.
enum Outcome {
    Granted(Grant),
    Released,
    Standing(Option<Standing>),
}

/// The host of the register of leases, and what this device knows of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseHost {
    /// The device that hosts.
    pub host: DeviceId,
    /// Whether it is still a device of the space; another has to be designated where it is not.
    pub is_member: bool,
    /// Whether it can be asked now.
    pub is_reachable: bool,
    /// The certificate in force.
    pub head: Head,
    /// What the register of this device is doing.
    pub phase: Phase,
    /// Whether this home may neither host nor vote, because it was restored or copied.
    pub is_in_doubt: bool,
    /// Every lease that is held, where this device hosts.
    pub leases: Vec<(AgentId, Standing)>,
    /// The move that this device drives.
    pub driving: Option<Driving>,
}

impl LeaseDesk {
    pub fn new(device: DeviceId, instance: DaemonInstance, jobs: mpsc::WeakSender<Job>) -> Self {
        Self { holder: Holder { device, instance }, jobs, agents: Mutex::default() }
    }

    pub const fn holder(&self) -> Holder {
        self.holder
    }

    pub async fn acquire(&self, space: SpaceId, agent: &AgentId, ttl: Ttl) -> Result<Grant, LeaseRefused> {
        let input = ClientInput::Acquire { ttl, patience: Patience::Refuse };
        match self.drive(space, agent, Wanted::Grant, input, None).await? {
            Outcome::Granted(grant) => Ok(grant),
            Outcome::Released | Outcome::Standing(_) => Err(LeaseRefused::NotHolder),
        }
    }

    pub async fn renew(
        &self,
        space: SpaceId,
        agent: &AgentId,
        epoch: LeaseEpoch,
        ttl: Ttl,
    ) -> Result<Grant, LeaseRefused> {
        match self
            .drive(space, agent, Wanted::Renewal, ClientInput::Renew { ttl: Some(ttl) }, Some(epoch))
            .await?
        {
            Outcome::Granted(grant) => Ok(grant),
            Outcome::Released | Outcome::Standing(_) => Err(LeaseRefused::NotHolder),
        }
    }

    pub async fn release(
        &self,
        space: SpaceId,
        agent: &AgentId,
        epoch: LeaseEpoch,
    ) -> Result<(), LeaseRefused> {
        self.drive(space, agent, Wanted::Release, ClientInput::Release, Some(epoch)).await.map(drop)
    }

    pub async fn current(&self, space: SpaceId, agent: &AgentId) -> Result<Option<Standing>, LeaseRefused> {
        match self.drive(space, agent, Wanted::Read, ClientInput::Read, None).await? {
            Outcome::Standing(standing) => Ok(standing),
            Outcome::Granted(_) | Outcome::Released => Ok(None),
        }
    }

    /// What the own clock says, which counts sleep.
    pub fn local(&self, space: SpaceId, agent: &AgentId) -> Local {
        let found = lock(&self.agents).get(&(space, agent.clone())).cloned();
        found.map_or(Local::NotHeld, |agent| lock(&agent.client).local(&clock::now()))
    }

    /// Steps the client until what is wanted has come about or was refused.
    async fn drive(
        &self,
        space: SpaceId,
        key: &AgentId,
        wanted: Wanted,
        first: ClientInput,
        claimed: Option<LeaseEpoch>,
    ) -> Result<Outcome, LeaseRefused> {
        let (head, _) = self.route(space).await?;
        let agent = self.agent(space, key, head);
        let _turn = agent.turn.lock().await;
        agent.client().step(&clock::now(), ClientInput::Head(head));
        if let Some(claimed) = claimed {
            check_claim(&agent.client(), claimed)?;
        }
        let begun = clock::uptime();
        let mut asking: JoinSet<Option<(DeviceId, Reply)>> = JoinSet::new();
        let mut input = first;
        let mut head = head;
        loop {
            let refusal = refusal_of(&input);
            let effects = agent.client().step(&clock::now(), input);
            let mut deadline = None;
            let mut is_sent = false;
            for effect in effects {
                match effect {
                    ClientEffect::Send { request, .. } => {
                        is_sent = true;
                        let (now, route) = self.route(space).await?;
                        head = now;
                        if let Route::Nowhere { is_started: false } = route {
                            return Err(LeaseRefused::HostUnreachable { host: head.host });
                        }
                        asking.spawn(self.exchange(space, route, request));
                    }
                    ClientEffect::Deadline(at) => deadline = at,
                    ClientEffect::Granted(grant) | ClientEffect::Renewed(grant) => {
                        self.seen(space, head, grant.epoch()).await;
                        return Ok(Outcome::Granted(grant));
                    }
                    ClientEffect::Released { .. } => return Ok(Outcome::Released),
                    ClientEffect::Refused(why) => return Err(why),
                    ClientEffect::Read(standing) => return standing.map(Outcome::Standing),
                    ClientEffect::Lost { why, .. } if wanted == Wanted::Renewal => return Err(why),
                    // A lease that ran out before it was asked for anew.
                    ClientEffect::Lost { .. } | ClientEffect::Stop { .. } => {}
                }
            }
            // Whoever renews or gives back decides itself whether to ask again.
            if let (Some(refusal), false, Wanted::Renewal | Wanted::Release) = (refusal, is_sent, wanted) {
                return Err(refusal);
            }
            // A client renews and gives back until the lease is over; whoever called has a bound.
            if matches!(wanted, Wanted::Renewal | Wanted::Release)
                && begun + ANSWERED_WITHIN <= clock::uptime()
            {
                return Err(LeaseRefused::HostUnreachable { host: head.host });
            }
            input = self.next_input(space, head, deadline, &mut asking).await?;
        }
    }

    /// Waits for a reply or for the moment the client named.
    async fn next_input(
        &self,
        space: SpaceId,
        head: Head,
        deadline: Option<Duration>,
        asking: &mut JoinSet<Option<(DeviceId, Reply)>>,
    ) -> Result<ClientInput, LeaseRefused> {
        let until = deadline.map_or(IDLE, |at| at.saturating_sub(clock::uptime()));
        let sleep = tokio::time::sleep(until);
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                // Losing the race loses nothing: an answer that is ready stays in the set.
                Some(answer) = asking.join_next() => {
                    if let Ok(Some((from, reply))) = answer {
                        return Ok(ClientInput::Reply { from, reply });
                    }
                }
                () = &mut sleep => break,
            }
        }
        let (now, _) = self.route(space).await?;
        if now.cert == head.cert {
            return Ok(ClientInput::Tick);
        }
        // Whatever was asked of the old host is asked of the new one.
        Ok(ClientInput::Head(now))
    }

    /// Sends a request and waits for its reply; `None` where none came.
    fn exchange(
        &self,
        space: SpaceId,
        route: Route,
        request: Request,
    ) -> impl Future<Output = Option<(DeviceId, Reply)>> + Send + 'static {
        let (own, jobs) = (self.holder.device, self.jobs.clone());
        async move {
            match route {
                Route::Here => {
                    let (reply, answered) = oneshot::channel();
                    let job = Job::Lease { space, request, reply };
                    jobs.upgrade()?.send(job).await.ok()?;
                    Some((own, answered.await.ok()?))
                }
                Route::Link(link) => {
                    let question = question(space, &request);
                    let answer = link.ask(Topic::Lease, question, ANSWER_WITHIN).await.ok()?;
                    Some((link.device(), Reply::from_bytes(&answer).ok()?))
                }
                Route::Nowhere { .. } => None,
            }
        }
    }

    /// Who hosts, and how it is reached.
    async fn route(&self, space: SpaceId) -> Result<(Head, Route), LeaseRefused> {
        let found = self.ask(move |core| {
            let head = core.engine.lease_head(space)?;
            let route = if head.host == core.engine.device() {
                Route::Here
            } else {
                core.route_to(&head.host)
                    .map_or_else(|| Route::Nowhere { is_started: core.is_started() }, Route::Link)
            };
            Some((head, route))
        });
        found.await.flatten().ok_or(LeaseRefused::NotHost { host: None })
    }

    /// The greatest token seen is remembered, and told to other devices.
    async fn seen(&self, space: SpaceId, head: Head, epoch: LeaseEpoch) {
        if head.host != self.holder.device {
            self.ask(move |core| core.tell(Input::LeaseSeen { space, epoch })).await;
        }
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Core) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Ask(Box::new(move |core| {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(question(core));
        }));
        self.jobs.upgrade()?.send(job).await.ok()?;
        answer.await.ok()
    }

    fn agent(&self, space: SpaceId, key: &AgentId, head: Head) -> Arc<Agent> {
        let mut agents = lock(&self.agents);
        if agents.len() >= AGENTS_MAX {
            // Those that hold nothing and that nobody waits for.
            agents.retain(|_, agent| Arc::strong_count(agent) > 1 || agent.client().grant().is_some());
        }
        let place = (space, key.clone());
        let made = || {
            let own = Own { holder: self.holder, key: key.clone(), req_no: ReqNo::new(0), rules: Rules::ALL };
            let client = Mutex::new(Client::new(&clock::now(), own, head));
            Arc::new(Agent { turn: tokio::sync::Mutex::default(), client })
        };
        Arc::clone(agents.entry(place).or_insert_with(made))
    }
}

impl Agent {
    fn client(&self) -> MutexGuard<'_, Client> {
        lock(&self.client)
    }
}

impl fmt::Debug for LeaseDesk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseDesk({:?})", self.holder)
    }
}

impl crate::node::Node {
    /// This device, in this life of its daemon: what a lease names as its holder.
    pub fn lease_holder(&self) -> Holder {
        self.desk().holder()
    }
}

impl Space {
    /// Takes the lease of an agent, where nobody holds it. It is not renewed by itself.
    ///
    /// # Errors
    /// [`LeaseRefused`]: held by another device, the host cannot be reached, and so on.
    pub async fn acquire_lease(&self, agent: &AgentId, ttl: Ttl) -> Result<Grant, LeaseRefused> {
        self.node.desk().acquire(self.id(), agent, ttl).await
    }

    /// Holds a lease for a further `ttl` from now; the token stays the same.
    ///
    /// # Errors
    /// As [`Space::acquire_lease`]; [`LeaseRefused::NotHolder`] and [`LeaseRefused::Stale`] where this
    /// daemon does not hold it with this token.
    pub async fn renew_lease(
        &self,
        agent: &AgentId,
        epoch: LeaseEpoch,
        ttl: Ttl,
    ) -> Result<Grant, LeaseRefused> {
        self.node.desk().renew(self.id(), agent, epoch, ttl).await
    }

    /// Gives a lease back; what ran under it has stopped before.
    ///
    /// # Errors
    /// As [`Space::renew_lease`].
    pub async fn release_lease(&self, agent: &AgentId, epoch: LeaseEpoch) -> Result<(), LeaseRefused> {
        self.node.desk().release(self.id(), agent, epoch).await
    }

    /// Who holds the lease of an agent: asked of the host for this question.
    ///
    /// # Errors
    /// As [`Space::acquire_lease`].
    pub async fn current_lease(&self, agent: &AgentId) -> Result<Option<Standing>, LeaseRefused> {
        self.node.desk().current(self.id(), agent).await
    }

    /// What the clock of this device, which counts sleep, says of its own lease: asked right before
    /// acting under it.
    pub fn local_lease(&self, agent: &AgentId) -> Local {
        self.node.desk().local(self.id(), agent)
    }

    /// Who hosts the register of leases.
    ///
    /// # Errors
    /// [`NodeError::Stopped`].
    pub async fn lease_host(&self) -> Result<LeaseHost, NodeError> {
        let space = self.id();
        let found = self.node.ask(move |core| {
            // What has run out is not shown as held.
            core.tick();
            let view: LeaseView = core.engine.lease_view(space)?;
            let host = view.head.host;
            let is_reachable = host == core.engine.device() || core.route_to(&host).is_some();
            Some(LeaseHost {
                host,
                is_member: view.has_host,
                is_reachable,
                head: view.head,
                phase: view.phase,
                is_in_doubt: view.is_in_doubt,
                leases: view.leases,
                driving: view.driving,
            })
        });
        found.await?.ok_or(NodeError::Stopped)
    }

    /// Moves the register of leases to another device: the host seals what it has, a majority of the
    /// devices confirms, and nobody has to wait. Returns once the new host is in force.
    ///
    /// # Errors
    /// [`NodeError::Refused`] where this device is no admin, or another move is under way;
    /// [`NodeError::HostUnconfirmed`] where too few devices confirm; [`NodeError::Stopped`].
    pub async fn move_lease_host(&self, to: DeviceId) -> Result<LeaseHost, NodeError> {
        self.designate(to, CertKind::Planned).await
    }

    /// Replaces a host that is lost for good by another device, with a majority that does not count
    /// the host. That it is lost is the caller's word: nothing is granted until every lease that it may
    /// have granted has run out, and where the word was wrong only the fence keeps two holders apart.
    ///
    /// # Errors
    /// As [`Space::move_lease_host`].
    pub async fn replace_lease_host(&self, to: DeviceId) -> Result<LeaseHost, NodeError> {
        self.designate(to, CertKind::Lost).await
    }

    async fn designate(&self, to: DeviceId, kind: CertKind) -> Result<LeaseHost, NodeError> {
        let space = self.id();
        let moved = self.node.request(move |token| Input::MoveLeaseHost { space, to, kind, token });
        match tokio::time::timeout(MOVED_WITHIN, moved).await {
            Ok(moved) => moved?,
            Err(_) => return Err(self.unconfirmed(to).await?),
        }
        self.lease_host().await
    }

    /// Why a move takes so long.
    async fn unconfirmed(&self, to: DeviceId) -> Result<NodeError, NodeError> {
        let host = self.lease_host().await?;
        let (confirmed, voters, needed) = host.driving.map_or((Vec::new(), Vec::new(), 0), |driving| {
            (driving.confirmed, driving.voters, driving.needed)
        });
        let missing = voters.into_iter().filter(|device| !confirmed.contains(device)).collect();
        Ok(NodeError::HostUnconfirmed { to, confirmed: confirmed.len(), needed, missing })
    }
}

/// What a device asks over the network: `scope tag 16 ‖ request`.
fn question(space: SpaceId, request: &Request) -> Bytes {
    [&space.tag().as_bytes()[..], &request.to_bytes()].concat().into()
}

/// A token that is not the one held is told at once, whoever the host is.
fn check_claim(client: &Client, claimed: LeaseEpoch) -> Result<(), LeaseRefused> {
    match client.grant().map(Grant::epoch) {
        Some(current) if current == claimed => Ok(()),
        Some(current) => Err(LeaseRefused::Stale { claimed, current }),
        None => Err(LeaseRefused::NotHolder),
    }
}

fn refusal_of(input: &ClientInput) -> Option<LeaseRefused> {
    match input {
        ClientInput::Reply { reply, .. } => reply.answer.as_ref().err().cloned(),
        _ => None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long one send of a request waits for its reply; the client sends it again before that.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long a renewal or a release is asked for in one call; what it asked may have come about.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);

/// How long a client without a deadline waits for what it was sent.
const IDLE: Duration = Duration::from_secs(15);

/// How long devices that are connected have to confirm a host.
const MOVED_WITHIN: Duration = Duration::from_secs(20);

/// Agents that are remembered at once; 64 may be held.
const AGENTS_MAX: usize = 1_024;
