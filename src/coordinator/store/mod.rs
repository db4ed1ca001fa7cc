//! Leases in a bucket or a shared directory, for fleets that outgrow one network.
//!
//! One [`Record`] per agent, replaced by conditional writes alone. No clock but the own one, which
//! counts sleep, is believed: whoever wants a lease that somebody holds watches its record, and takes
//! the lease once the record has not changed for its lifetime, 1 % and 2 s. A holder changes it with
//! every renewal, and has stopped before that by its own clock.
//!
//! Must never remove a record (its token would be given again), or hand out a token that it has not
//! read back or been answered for. Read [`Record`] for what is stored, [`Cells`] for what a store
//! must be able to do.

mod cells;
mod decide;
mod directory;
mod object;
mod open;
mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

pub use cells::{CELL_BYTES_MAX, Cell, CellAnswer, CellError, Cells, Version};
pub use directory::DirectoryCells;
pub use object::ObjectCells;
pub use open::{OpenCellsError, open_cells};
pub use record::{Held, Nonce, Record, RecordError};

use self::decide::{Known, Next};
use super::{CoordinatorError, Grant, LeaseCoordinator, LeaseFuture, Uptime};
use crate::clock;
use crate::lease::{Holder, LeaseRefused, Local, Standing, Ttl};
use crate::model::{AgentId, CertHash, LeaseEpoch};

/// Leases kept in cells that several devices share.
#[derive(Debug)]
pub struct StoreCoordinator {
    cells: Arc<dyn Cells>,
    holder: Holder,
    uptime: Uptime,
    agents: Mutex<BTreeMap<AgentId, Arc<Agent>>>,
    #[cfg(test)]
    mutant: Option<tests::Mutant>,
}

/// What this holder knows of one agent's lease.
#[derive(Debug, Default)]
struct Agent {
    /// Whoever writes holds it to the end: two requests of one holder would each take the other's
    /// record for an attempt of its own that nobody was told of.
    turn: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
}

/// Others were faster, again and again.
#[derive(Debug, Error)]
#[error("the lease was changed by others {ATTEMPTS_MAX} times while it was asked for")]
struct Contended;

/// Nothing came in time.
#[derive(Debug, Error)]
#[error("no answer within {} s", ANSWER_WITHIN.as_secs())]
struct TooSlow;

/// A record as it was read.
struct Found {
    record: Record,
    version: Version,
}

/// What became of a conditional write.
enum Settled {
    /// It stands.
    Written,
    /// Somebody else's stands.
    Lost,
}

impl StoreCoordinator {
    /// Speaks for `holder`, which no other process may be.
    pub fn new(cells: Arc<dyn Cells>, holder: Holder) -> Self {
        Self::with_clock(cells, holder, Uptime::system())
    }

    /// The same by another clock, which counts sleep and never goes back.
    pub fn with_clock(cells: Arc<dyn Cells>, holder: Holder, uptime: Uptime) -> Self {
        Self {
            cells,
            holder,
            uptime,
            agents: Mutex::default(),
            #[cfg(test)]
            mutant: None,
        }
    }

    async fn take(&self, agent: &AgentId, ttl: Ttl) -> Result<Grant, CoordinatorError> {
        let own = self.agent(agent)?;
        let _turn = own.turn.lock().await;
        for _ in 0..ATTEMPTS_MAX {
            let found = self.read(agent).await?;
            let now = self.uptime.now();
            let next = own.known().judge(found.as_ref(), &self.holder, now);
            #[cfg(test)]
            let next = self.mutated(next, found.as_ref());
            let epoch = match next {
                Next::Take(epoch) => epoch,
                Next::Refuse(refused) => return Err(refused.into()),
            };
            self.check_count(agent)?;
            let held = Held { holder: self.holder, ttl_max: ttl };
            let sent = self.uptime.now();
            match self.replace(agent, epoch, Some(held), found.as_ref()).await? {
                Settled::Written => return self.granted(&own, agent, epoch, ttl, sent),
                Settled::Lost => {}
            }
        }
        Err(unreachable(Contended))
    }

    async fn hold_on(&self, agent: &AgentId, epoch: LeaseEpoch, ttl: Ttl) -> Result<Grant, CoordinatorError> {
        let own = self.agent(agent)?;
        let _turn = own.turn.lock().await;
        let found = self.read(agent).await?;
        let held = decide::own(found.as_ref(), &self.holder, epoch)?;
        if !own.known().has(epoch) {
            return Err(LeaseRefused::NotHolder.into());
        }
        // Never less than what an earlier grant may still be valid for.
        let held = Held { ttl_max: held.ttl_max.max(ttl), ..held };
        let sent = self.uptime.now();
        match self.replace(agent, epoch, Some(held), found.as_ref()).await? {
            Settled::Written => self.granted(&own, agent, epoch, ttl, sent),
            Settled::Lost => {
                // Only a takeover changes the record of somebody who holds the turn.
                let found = self.read(agent).await?;
                decide::own(found.as_ref(), &self.holder, epoch)?;
                Err(unreachable(Contended))
            }
        }
    }

    async fn give_back(&self, agent: &AgentId, epoch: LeaseEpoch) -> Result<(), CoordinatorError> {
        let own = self.agent(agent)?;
        let _turn = own.turn.lock().await;
        own.known().forget(epoch);
        let found = self.read(agent).await?;
        if found.as_ref().is_some_and(|found| found.record.epoch == epoch && found.record.held.is_none()) {
            return Ok(());
        }
        decide::own(found.as_ref(), &self.holder, epoch)?;
        // Where somebody else's record stands by now, the lease is given back as well.
        self.replace(agent, epoch, None, found.as_ref()).await.map(|_| ())
    }

    async fn look(&self, agent: &AgentId) -> Result<Option<Standing>, CoordinatorError> {
        let own = self.agent(agent)?;
        let found = self.read(agent).await?;
        let now = self.uptime.now();
        let Some((found, held)) = found.as_ref().and_then(|found| Some((found, found.record.held?))) else {
            return Ok(None);
        };
        let remaining_ms = decide::millis(own.known().watch(found, held.ttl_max, now));
        Ok(Some(Standing { epoch: found.record.epoch, holder: held.holder, remaining_ms }))
    }

    /// Writes the next record in the place of the one found, and finds out whether it stands.
    async fn replace(
        &self,
        agent: &AgentId,
        epoch: LeaseEpoch,
        held: Option<Held>,
        found: Option<&Found>,
    ) -> Result<Settled, CoordinatorError> {
        let nonce: Nonce = *clock::entropy().first_chunk().expect("32 bytes hold 16");
        let bytes = Record { agent: agent.clone(), epoch, held, nonce }.to_bytes();
        let expected = found.map(|found| &found.version);
        for _ in 0..ATTEMPTS_MAX {
            let why = match self.write(agent, bytes.clone(), expected).await {
                Ok(()) => return Ok(Settled::Written),
                Err(CellError::Changed) => None,
                #[cfg(test)]
                Err(CellError::Unanswered(_)) if self.is_mutant(tests::Mutant::BelievesSilence) => {
                    return Ok(Settled::Written);
                }
                Err(CellError::Unanswered(source)) => Some(source),
                Err(error) => return Err(storage(error)),
            };
            // A lost answer and a conflict look alike to a client that tried twice: only the record
            // itself tells whether this write stands.
            let standing = self.read(agent).await?;
            if standing.as_ref().is_some_and(|standing| standing.record.nonce == nonce) {
                return Ok(Settled::Written);
            }
            if standing.as_ref().map(|standing| &standing.version) != expected {
                return Ok(Settled::Lost);
            }
            // Nothing has changed yet: the same write once more does no harm if the first one is
            // still on its way, because only one of them finds what both expect.
            if let Some(source) = why {
                tracing::debug!(%agent, %source, "a lease is written once more");
            }
        }
        Err(unreachable(TooSlow))
    }

    async fn read(&self, agent: &AgentId) -> Result<Option<Found>, CoordinatorError> {
        let name = record::cell_name(agent);
        let cell = match tokio::time::timeout(ANSWER_WITHIN, self.cells.read(&name)).await {
            Ok(Ok(cell)) => cell,
            Ok(Err(CellError::Unanswered(source))) => {
                return Err(CoordinatorError::StoreUnreachable(source));
            }
            Ok(Err(error)) => return Err(storage(error)),
            Err(_) => return Err(unreachable(TooSlow)),
        };
        let Some(cell) = cell else { return Ok(None) };
        let record = Record::from_bytes(agent, &cell.bytes).map_err(storage)?;
        Ok(Some(Found { record, version: cell.version }))
    }

    async fn write(
        &self,
        agent: &AgentId,
        bytes: Bytes,
        expected: Option<&Version>,
    ) -> Result<(), CellError> {
        let name = record::cell_name(agent);
        match tokio::time::timeout(ANSWER_WITHIN, self.cells.write(&name, bytes, expected)).await {
            Ok(written) => written,
            Err(_) => Err(CellError::Unanswered(TooSlow.into())),
        }
    }

    /// Notes what is handed out, in the same step as it is.
    fn granted(
        &self,
        own: &Agent,
        agent: &AgentId,
        epoch: LeaseEpoch,
        ttl: Ttl,
        sent: Duration,
    ) -> Result<Grant, CoordinatorError> {
        #[cfg(test)]
        let sent = self.mutated_send(sent);
        let valid_until = sent + ttl.valid_for();
        if valid_until <= self.uptime.now() {
            // The answer took longer than the lease lasts: others may have it already.
            return Err(LeaseRefused::Expired { epoch }.into());
        }
        own.known().hand_out(epoch, valid_until);
        Ok(Grant { agent: agent.clone(), epoch, cert: CertHash::NONE, ttl, valid_until })
    }

    fn agent(&self, agent: &AgentId) -> Result<Arc<Agent>, CoordinatorError> {
        let mut agents = self.agents();
        if !agents.contains_key(agent) && agents.len() >= AGENTS_MAX {
            // What is neither held nor asked for costs another look when it is asked for again.
            agents.retain(|_, own| own.known().is_held() || Arc::strong_count(own) > 1);
        }
        if !agents.contains_key(agent) && agents.len() >= AGENTS_MAX {
            return Err(LeaseRefused::TooManyLeases { limit: AGENTS_MAX }.into());
        }
        Ok(Arc::clone(agents.entry(agent.clone()).or_default()))
    }

    fn check_count(&self, agent: &AgentId) -> Result<(), CoordinatorError> {
        let held =
            self.agents().iter().filter(|(other, own)| *other != agent && own.known().is_held()).count();
        if held < HELD_MAX {
            return Ok(());
        }
        Err(LeaseRefused::TooManyLeases { limit: HELD_MAX }.into())
    }

    fn agents(&self) -> MutexGuard<'_, BTreeMap<AgentId, Arc<Agent>>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Agent {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LeaseCoordinator for StoreCoordinator {
    fn holder(&self) -> Holder {
        self.holder
    }

    fn acquire<'a>(&'a self, agent: &'a AgentId, ttl: Ttl) -> LeaseFuture<'a, Grant> {
        Box::pin(self.take(agent, ttl))
    }

    fn renew<'a>(&'a self, agent: &'a AgentId, epoch: LeaseEpoch, ttl: Ttl) -> LeaseFuture<'a, Grant> {
        Box::pin(self.hold_on(agent, epoch, ttl))
    }

    fn release<'a>(&'a self, agent: &'a AgentId, epoch: LeaseEpoch) -> LeaseFuture<'a, ()> {
        Box::pin(self.give_back(agent, epoch))
    }

    fn current<'a>(&'a self, agent: &'a AgentId) -> LeaseFuture<'a, Option<Standing>> {
        Box::pin(self.look(agent))
    }

    fn local(&self, agent: &AgentId) -> Local {
        let own = self.agents().get(agent).cloned();
        own.map_or(Local::NotHeld, |own| own.known().local(self.uptime.now()))
    }
}

fn unreachable(source: impl std::error::Error + Send + Sync + 'static) -> CoordinatorError {
    CoordinatorError::StoreUnreachable(source.into())
}

fn storage(source: impl std::error::Error + Send + Sync + 'static) -> CoordinatorError {
    CoordinatorError::StoreUnusable(source.into())
}

/// Races lost, or answers lost, before a request is given up.
const ATTEMPTS_MAX: u32 = 4;

/// How long one read or write may take: stores answer within a second, or something is wrong.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Agents that are remembered at once; 64 may be held.
const AGENTS_MAX: usize = 1_024;

/// Leases that one holder may have.
const HELD_MAX: usize = 64;
