//! `lease run`: a command that runs on one device at a time.
//!
//! The running node acquires the lease; this process renews it, and is the only one that believes in
//! it. It stops the command before its own clock, which counts sleep, says that the lease has ended,
//! whether or not anybody can still be asked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use kinfold::clock;
use kinfold::control::fence::{FenceForm, FenceParams};
use kinfold::control::lease::{AcquireParams, LeaseForm, ReleaseParams, ReleasedForm, RenewParams};
use kinfold::control::params::ScopeParam;
use kinfold::control::{Client, ClientError, Method, RpcError};
use kinfold::lease::Ttl;
use kinfold::model::{AgentId, LeaseEpoch, RunId};
use nix::sys::signal::Signal;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use tokio::task::JoinSet;

use crate::args::LeaseRun;
use crate::failure::Failure;
use crate::lease_child::{Child, ChildEvent, Signals};
use crate::output::Output;
use crate::target::Site;

/// Runs a command under a lease; the command's end is this one's.
pub async fn run(site: &Site, args: LeaseRun, output: &Output) -> Result<(), Failure> {
    let mut signals = Signals::listen().map_err(|source| Failure::Runtime { source })?;
    let run = match &args.run {
        Some(run) => run.clone(),
        None => own_run(),
    };
    let node = Node::connect(site).await?;
    let job = Job { args: &args, run, output };
    let mut held = job.acquire(&node, &mut signals).await?;
    match job.begin(&node, &mut held).await {
        Ok(Begun::Go) => job.under(&node, held, &mut signals).await,
        Ok(Begun::Done) => {
            node.release(&held).await;
            output.note(format!("run {} of {} is committed already; nothing was run", job.run, args.agent));
            Ok(())
        }
        Err(failure) => {
            node.release(&held).await;
            Err(if failure.is_lease_run_out() { Failure::LeaseTooLate } else { failure })
        }
    }
}

/// What is to be run, and for whom.
struct Job<'a> {
    args: &'a LeaseRun,
    run: RunId,
    output: &'a Output,
}

/// A lease as this process counts it.
#[derive(Clone, Debug)]
struct Held {
    agent: AgentId,
    epoch: LeaseEpoch,
    ttl: Ttl,
    renew_at: Duration,
    valid_until: Duration,
}

/// Whether there is something to run.
enum Begun {
    Go,
    Done,
}

/// Why the command is being stopped, and when it is killed.
struct Stopping {
    why: String,
    kill_at: Duration,
    is_killed: bool,
}

impl Held {
    /// Counts from before the node was asked: whatever it did took place after that.
    fn since(asked: Duration, agent: &AgentId, ttl: Ttl, form: &LeaseForm) -> Result<Self, Failure> {
        let said = Duration::from_millis(form.expires_in_ms);
        let epoch = LeaseEpoch::new(form.epoch).map_err(|source| Failure::LeaseUsage(source.into()))?;
        Ok(Self {
            agent: agent.clone(),
            epoch,
            ttl,
            renew_at: asked + ttl.renew_after(),
            valid_until: asked + said.min(ttl.valid_for()),
        })
    }

    /// How long a command may take to end once it is told to.
    fn grace(&self) -> Duration {
        (self.ttl.duration() / 6).min(GRACE_MAX)
    }

    /// When the command is told to end, so that it has ended before the lease has.
    fn stop_at(&self) -> Duration {
        self.valid_until.saturating_sub(self.grace())
    }
}

impl Job<'_> {
    /// Takes the lease, or waits for it as long as was asked for.
    async fn acquire(&self, node: &Node, signals: &mut Signals) -> Result<Held, Failure> {
        let ttl = Ttl::from_millis(u64::try_from(self.args.ttl.as_millis()).unwrap_or(u64::MAX))
            .map_err(|source| Failure::LeaseUsage(source.into()))?;
        let began = clock::uptime();
        let mut told = false;
        loop {
            let asked = clock::uptime();
            let failure = match node.acquire(&self.args.agent, ttl).await {
                Ok(form) => return Held::since(asked, &self.args.agent, ttl, &form),
                // Answered too late to be of use: it was busy there, and may not be next time.
                Err(failure) if failure.is_lease_run_out() => Failure::LeaseTooLate,
                Err(failure) => failure,
            };
            let waited = clock::uptime() - began;
            let is_patient = match self.args.wait {
                None => false,
                Some(None) => true,
                Some(Some(limit)) => waited < limit,
            };
            if !is_patient || !failure.is_temporary() {
                return Err(failure);
            }
            if !told {
                told = true;
                self.output.note(format!("waiting: {failure}"));
            }
            let left = self.args.wait.flatten().map_or(Duration::MAX, |limit| limit.saturating_sub(waited));
            tokio::select! {
                signal = signals.told_to_end() => return Err(Failure::ChildEnded { code: code_of(signal) }),
                // Losing the race ends the wait early, which is what was asked for.
                () = tokio::time::sleep(pause(&failure).min(left)) => {}
            }
        }
    }

    /// Asks the fence, and says in the ledger that the run is about to happen.
    async fn begin(&self, node: &Node, held: &mut Held) -> Result<Begun, Failure> {
        let mut fence = node.fence(held, &self.run).await?;
        if fence.decision == "RenewFirst" {
            *held = node.renew(held).await?;
            fence = node.fence(held, &self.run).await?;
        }
        if fence.decision == "AlreadyCommitted" {
            return Ok(Begun::Done);
        }
        if !fence.may_dispatch {
            return Err(Failure::Fenced { decision: fence.decision, message: fence.message });
        }
        let outcome = self.record(node, held, "pending").await?;
        let reason = match outcome.reason.as_deref() {
            _ if outcome.recorded => return Ok(Begun::Go),
            Some("AlreadyCommitted") => return Ok(Begun::Done),
            Some("AlreadyFailed") => "it has failed already",
            Some("Fenced") => "a greater token of its agent has been seen",
            reason => reason.unwrap_or("nothing was recorded"),
        };
        Err(Failure::RunRefused { run: self.run.clone(), reason: reason.to_owned() })
    }

    /// Runs the command until it ends or the lease does.
    async fn under(&self, node: &Node, held: Held, signals: &mut Signals) -> Result<(), Failure> {
        if held.stop_at() <= clock::uptime() {
            // What came before took so long that nothing may begin any more.
            node.release(&held).await;
            return Err(Failure::LeaseTooLate);
        }
        let mut command = self.command(node, &held);
        let child = match Child::start(&mut command) {
            Ok(child) => child,
            Err(source) => {
                let _: Result<_, _> = self.record(node, &held, "failed").await;
                node.release(&held).await;
                let program = self.args.command.first().cloned().unwrap_or_default();
                return Err(Failure::NotStarted { program: program.into(), source });
            }
        };
        let mut watch = Watch {
            node,
            output: self.output,
            held,
            child,
            renewals: JoinSet::new(),
            stopping: None,
            is_to_stop: false,
        };
        let code = watch.until_the_end(signals).await;
        let Watch { held, child, stopping, .. } = watch;
        if let Some(Stopping { why, .. }) = stopping {
            // Whatever it left running in its group goes with it.
            child.send(Signal::SIGKILL);
            // Nobody knows what the command has done, so the ledger keeps it as begun: whoever holds
            // the lease next may run it again.
            node.release(&held).await;
            return Err(Failure::LeaseLost { why });
        }
        drop(child);
        self.end(node, &held, code).await;
        if code == 0 { Ok(()) } else { Err(Failure::ChildEnded { code }) }
    }

    fn command(&self, node: &Node, held: &Held) -> Command {
        let mut words = self.args.command.iter();
        let mut command = Command::new(words.next().map_or("", String::as_str));
        command.args(words);
        command.env("KINFOLD_HOME", &node.home);
        command.env("KINFOLD_AGENT", held.agent.as_str());
        command.env("KINFOLD_RUN", self.run.as_str());
        command.env("KINFOLD_EPOCH", held.epoch.to_string());
        command
    }

    /// Records how the run ended, and gives the lease back. The node may be starting again just then.
    async fn end(&self, node: &Node, held: &Held, code: u8) {
        let status = if code == 0 { "committed" } else { "failed" };
        let give_up_at = clock::uptime() + RECORD_WITHIN;
        loop {
            match self.record(node, held, status).await {
                Ok(outcome) if outcome.recorded => break,
                Ok(outcome) => {
                    let reason = outcome.reason.unwrap_or_default();
                    eprintln!("kinfold: the end of run {} is not recorded: {reason}", self.run);
                    break;
                }
                Err(failure) if failure.is_temporary() && clock::uptime() < give_up_at => {}
                Err(failure) => {
                    eprintln!(
                        "kinfold: run {} ended with {code}, but that could not be recorded: {failure}\n\
                         hint: `kinfold intent record {} {} {} {status}` records it",
                        self.run, held.agent, self.run, held.epoch
                    );
                    break;
                }
            }
            tokio::time::sleep(RECORD_PAUSE).await;
        }
        // Whoever takes the lease next is to know that this run has happened.
        node.tell_others(held).await;
        node.release(held).await;
    }

    async fn record(&self, node: &Node, held: &Held, status: &str) -> Result<IntentRecorded, Failure> {
        let params = IntentParams {
            scope: &node.scope,
            agent_id: held.agent.as_str(),
            run_id: self.run.as_str(),
            epoch: held.epoch.get(),
            status,
        };
        node.call("sync.record_intent", &params).await
    }
}

/// A command that runs under a lease.
struct Watch<'a> {
    node: &'a Node,
    output: &'a Output,
    held: Held,
    child: Child,
    renewals: JoinSet<Result<Held, Failure>>,
    stopping: Option<Stopping>,
    /// Whether this process was asked to stop, and stops once the command has.
    is_to_stop: bool,
}

impl Watch<'_> {
    /// The exit code of the command.
    async fn until_the_end(&mut self, signals: &mut Signals) -> u8 {
        loop {
            self.act_on_time();
            let next_look = self.next_look();
            tokio::select! {
                biased;
                // None of these loses anything by being dropped: each waits in its own queue.
                event = self.child.event() => match event {
                    ChildEvent::Ended(code) => return code,
                    ChildEvent::Stopped if self.is_to_stop || self.child.has_terminal() => self.stopped(),
                    // Somebody stopped the command alone: the lease is still looked after.
                    ChildEvent::Stopped => {}
                },
                signal = signals.next() => {
                    self.is_to_stop |= signal == Signal::SIGTSTP;
                    self.child.send(signal);
                }
                Some(renewed) = self.renewals.join_next() => self.renewed(renewed),
                () = tokio::time::sleep(next_look) => {}
            }
        }
    }

    /// Renews, tells the command to end, or kills it, as the clock says.
    fn act_on_time(&mut self) {
        let now = clock::uptime();
        match &mut self.stopping {
            None if self.held.stop_at() <= now => {
                self.stop("no renewal was answered in time".to_owned());
            }
            None if self.held.renew_at <= now && self.renewals.is_empty() => {
                let (node, held) = (self.node.clone(), self.held.clone());
                self.renewals.spawn(async move { node.renew(&held).await });
            }
            Some(stopping) if stopping.kill_at <= now && !stopping.is_killed => {
                stopping.is_killed = true;
                self.child.send(Signal::SIGKILL);
            }
            None | Some(_) => {}
        }
    }

    fn renewed(&mut self, renewed: Result<Result<Held, Failure>, tokio::task::JoinError>) {
        match renewed {
            Ok(Ok(held)) => self.held = held,
            Ok(Err(failure)) if failure.is_lease_lost() => self.stop(failure.to_string()),
            // The node may be starting again, or its host: there is time until the lease ends.
            Ok(Err(_)) | Err(_) => {
                let pause = (self.held.ttl.duration() / 10).min(RENEW_PAUSE_MAX);
                self.held.renew_at = clock::uptime() + pause;
            }
        }
    }

    fn stop(&mut self, why: String) {
        if self.stopping.is_some() {
            return;
        }
        self.output.note(format!("the lease is lost, the command is stopped: {why}"));
        self.child.send(Signal::SIGTERM);
        // One that was stopped hears nothing else.
        self.child.send(Signal::SIGCONT);
        let kill_at = clock::uptime() + self.held.grace() * 3 / 4;
        self.stopping = Some(Stopping { why, kill_at, is_killed: false });
    }

    /// The command was stopped: so is this process, and goes on with it if the lease has not ended.
    fn stopped(&mut self) {
        self.is_to_stop = false;
        self.child.stop_too();
        if self.held.stop_at() <= clock::uptime() {
            self.stop("it ended while the command was stopped".to_owned());
            return;
        }
        self.held.renew_at = clock::uptime();
        self.child.send(Signal::SIGCONT);
    }

    /// Until the clock is asked again: often, because timers stand still while the machine sleeps.
    fn next_look(&self) -> Duration {
        let now = clock::uptime();
        let next = match &self.stopping {
            Some(stopping) if !stopping.is_killed => stopping.kill_at,
            Some(_) => return LOOK_AGAIN,
            None if self.renewals.is_empty() => self.held.renew_at.min(self.held.stop_at()),
            None => self.held.stop_at(),
        };
        next.saturating_sub(now).clamp(Duration::from_millis(1), LOOK_AGAIN)
    }
}

/// The node that runs in this home, and which of its spaces is meant.
#[derive(Clone)]
struct Node {
    home: PathBuf,
    scope: ScopeParam,
}

/// What a run says of itself.
#[derive(Serialize)]
struct IntentParams<'a> {
    scope: &'a ScopeParam,
    agent_id: &'a str,
    run_id: &'a str,
    epoch: u64,
    status: &'a str,
}

/// Whether that was written, and why not.
#[derive(Deserialize)]
struct IntentRecorded {
    recorded: bool,
    reason: Option<String>,
}

impl Node {
    async fn connect(site: &Site) -> Result<Self, Failure> {
        match Client::connect(&site.home).await? {
            Some(_) => Ok(Self { home: site.home.clone(), scope: site.scope.clone() }),
            None => Err(Failure::NotRunning),
        }
    }

    /// Calls a method over a connection of its own: the node may have been restarted meanwhile.
    async fn call<R: DeserializeOwned>(&self, method: &str, params: &impl Serialize) -> Result<R, Failure> {
        self.call_within(CALL_WITHIN, method, params).await
    }

    async fn call_within<R: DeserializeOwned>(
        &self,
        limit: Duration,
        method: &str,
        params: &impl Serialize,
    ) -> Result<R, Failure> {
        let params = to_raw_value(params).map_err(Failure::Answer)?;
        let Some((client, _)) = Client::connect(&self.home).await? else { return Err(Failure::NotRunning) };
        let answer = tokio::time::timeout(limit, client.call(method, &params)).await;
        let answer = answer.unwrap_or(Err(ClientError::Closed))?;
        serde_json::from_str(answer.get()).map_err(Failure::Answer)
    }

    async fn acquire(&self, agent: &AgentId, ttl: Ttl) -> Result<LeaseForm, Failure> {
        let (scope, agent_id) = (self.scope.clone(), agent.to_string());
        let params = AcquireParams { scope, agent_id, ttl_ms: Some(ttl.as_millis().into()) };
        self.call(Method::AcquireLease.name(), &params).await
    }

    async fn fence(&self, held: &Held, run: &RunId) -> Result<FenceForm, Failure> {
        let params = FenceParams {
            scope: self.scope.clone(),
            agent_id: held.agent.to_string(),
            run_id: run.to_string(),
            epoch: held.epoch.get(),
        };
        self.call(Method::FenceCheck.name(), &params).await
    }

    async fn renew(&self, held: &Held) -> Result<Held, Failure> {
        let asked = clock::uptime();
        let params = RenewParams {
            scope: self.scope.clone(),
            agent_id: held.agent.to_string(),
            epoch: held.epoch.get(),
            ttl_ms: Some(held.ttl.as_millis().into()),
        };
        // One that takes longer is tried again: there is time for three.
        let limit = held.ttl.renew_after().clamp(RENEW_PAUSE_MAX, CALL_WITHIN);
        let form: LeaseForm = self.call_within(limit, Method::RenewLease.name(), &params).await?;
        Held::since(asked, &held.agent, held.ttl, &form)
    }

    /// Makes one round with every connected device, as long as the lease surely holds.
    async fn tell_others(&self, held: &Held) {
        let limit = held.stop_at().saturating_sub(clock::uptime()).min(TELL_WITHIN);
        // Without a network there is nobody to tell.
        let _: Result<IgnoredAny, _> =
            self.call_within(limit, Method::Pump.name(), &BTreeMap::<&str, u8>::new()).await;
    }

    /// Gives a lease back. One that cannot be given back ends by itself.
    async fn release(&self, held: &Held) {
        let (scope, agent_id) = (self.scope.clone(), held.agent.to_string());
        let params = ReleaseParams { scope, agent_id, epoch: held.epoch.get() };
        let _: Result<ReleasedForm, _> =
            self.call_within(RELEASE_WITHIN, Method::ReleaseLease.name(), &params).await;
    }
}

/// A name for a run that nobody named: the time, for people, and what makes it the only one.
fn own_run() -> RunId {
    let [a, b, c, d, ..] = clock::entropy();
    let name = format!("{}-{a:02x}{b:02x}{c:02x}{d:02x}", clock::wall().as_millis());
    name.parse().expect("digits and letters are a name")
}

/// Before a lease is asked for again: as long as its holder has it, but not long, and never two
/// waiters at the same time.
fn pause(failure: &Failure) -> Duration {
    let field = |fields: &BTreeMap<String, serde_json::Value>| fields.get("remaining_ms")?.as_u64();
    let remaining = match failure {
        Failure::Refused(RpcError { data, .. }) => field(&data.fields).unwrap_or(WAIT_MS_MAX),
        _ => WAIT_MS_MAX,
    };
    let longest = remaining.clamp(100, WAIT_MS_MAX);
    let [a, b, ..] = clock::entropy();
    Duration::from_millis(longest / 2 + longest / 2 * u64::from(u16::from_be_bytes([a, b])) / 65_536)
}

/// The exit code of whoever was ended by a signal, as a shell says it.
fn code_of(signal: Signal) -> u8 {
    u8::try_from(128 + signal as i32).unwrap_or(u8::MAX)
}

/// How long a command has to end at most.
const GRACE_MAX: Duration = Duration::from_secs(5);

/// How often the clock that counts sleep is asked.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Between two attempts to renew, at most.
const RENEW_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long a waiter sleeps at most: the holder may give the lease back at any time.
const WAIT_MS_MAX: u64 = 2_000;

/// How long the node has for one answer.
const CALL_WITHIN: Duration = Duration::from_secs(20);

/// How long the end of a run is tried to be recorded where no node answers, and how often.
const RECORD_WITHIN: Duration = Duration::from_secs(15);
const RECORD_PAUSE: Duration = Duration::from_millis(250);

/// How long other devices have to take note of the end of a run before the lease is given back.
const TELL_WITHIN: Duration = Duration::from_secs(3);

/// How long giving a lease back may take.
const RELEASE_WITHIN: Duration = Duration::from_secs(3);
