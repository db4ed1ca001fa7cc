//! The lease ledger as a node keeps it: intents are looked at and recorded in one step.
//!
//! The loop alone decides what is recorded: it looks at all that is folded, and of two intents of one
//! agent that are asked for at once the second waits until the first is folded. So no two calls are
//! both told that they committed one run.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::core::{Core, Job, Reply};
use super::error::NodeError;
use super::space::Space;
use super::types::{Appended, Intent, NewOp};
use crate::fold::{Lineage, Objection, RunStatus, Standing, State};
use crate::lease;
use crate::model::{AgentId, CertHash, Dot, Hlc, IntentStatus, LeaseEpoch, OpId, Payload, RunId, SpaceId};

/// What became of an intent that was to be recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IntentRecorded {
    /// It is durable.
    Recorded(Appended),
    /// The run has happened; nothing was written.
    AlreadyCommitted {
        /// The op that says so.
        by: OpId,
    },
    /// The run ended without its effect; nothing was written. Another attempt is another run.
    AlreadyFailed {
        /// The op that says so.
        by: OpId,
    },
    /// The agent was seen with a greater token; nothing was written.
    Fenced {
        /// The token given.
        claimed: LeaseEpoch,
        /// The greatest one.
        current: LeaseEpoch,
    },
    /// The token's certificate is not on the chain of hosts that this device knows; nothing was
    /// written.
    ForkedLineage,
}

impl IntentRecorded {
    /// Where it ended up; `None` where nothing was written.
    pub const fn recorded(&self) -> Option<&Appended> {
        match self {
            Self::Recorded(appended) => Some(appended),
            Self::AlreadyCommitted { .. }
            | Self::AlreadyFailed { .. }
            | Self::Fenced { .. }
            | Self::ForkedLineage => None,
        }
    }
}

/// One run of an agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// The agent.
    pub agent: String,
    /// The run.
    pub run: String,
    /// What became of it.
    pub status: RunStatus,
    /// What was said of it: what it shows first, then the rest in total order.
    pub intents: Vec<RecordedIntent>,
}

impl Run {
    /// The intent that says what became of it.
    pub fn shown(&self) -> &RecordedIntent {
        &self.intents[0]
    }

    /// Whether an intent of it lost.
    pub fn is_conflict(&self) -> bool {
        self.intents.iter().any(|intent| intent.standing.is_conflict())
    }
}

/// One intent of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordedIntent {
    /// The op.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: Hlc,
    /// The token.
    pub epoch: LeaseEpoch,
    /// The certificate of the host that gave it.
    pub cert: CertHash,
    /// What it says.
    pub status: IntentStatus,
    /// What that is worth.
    pub standing: Standing,
    /// What else its author noted; `None` where that is no payload.
    pub payload: Option<Payload>,
}

impl Space {
    /// Records what a run is about to do or has done, unless something stands against it: the run has
    /// ended, or the token is stale. Looking and recording are one step.
    ///
    /// # Errors
    /// [`NodeError::Refused`], [`NodeError::Index`], [`NodeError::Read`], [`NodeError::Stopped`].
    pub async fn record_intent(&self, intent: Intent) -> Result<IntentRecorded, NodeError> {
        let (reply, answer) = oneshot::channel();
        let (space, ops) = (self.id(), vec![NewOp::Intent(intent)]);
        let job = Job::Append { space, ops, reply: Reply::Intent(reply) };
        self.node.jobs().send(job).await.map_err(|_| NodeError::Stopped)?;
        let answer = answer.await.map_err(|_| NodeError::Stopped)??;
        self.remember(answer.recorded().as_slice().iter().copied());
        Ok(answer)
    }

    /// What became of a run; `None` where nothing was said of it.
    ///
    /// # Errors
    /// As [`Space::get`].
    pub fn run(&self, agent: &AgentId, run: &RunId) -> Result<Option<Run>, NodeError> {
        self.reader().run(agent, run)
    }

    /// Runs of an agent in the order of their names, beginning after `after`, at most `limit`.
    ///
    /// # Errors
    /// As [`Space::get`].
    pub fn runs(&self, agent: &AgentId, after: Option<&str>, limit: usize) -> Result<Vec<Run>, NodeError> {
        self.reader().runs(agent, after, limit)
    }
}

/// Where the certificates of a space's hosts stand: at their terms.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Chain(BTreeMap<CertHash, u64>);

impl Chain {
    pub fn of(chain: &lease::Chain) -> Self {
        let placed = |term: u32| Some((chain.at(term)?, u64::from(term)));
        Self((0..=chain.head().term).filter_map(placed).collect())
    }
}

impl Lineage for Chain {
    fn position(&self, cert: &CertHash) -> Option<u64> {
        self.0.get(cert).copied()
    }
}

/// Whether an intent can be recorded in this turn.
pub(super) enum Guard {
    /// Nothing stands against it.
    Clear,
    /// Another one of its agent is on its way: look again when it is folded.
    Wait,
    /// This stands against it.
    Objection(Objection),
}

/// Looks at one intent, given those that are on their way into the same fold.
pub(super) fn guard(state: &State, chain: &Chain, on_their_way: &[Intent], intent: &Intent) -> Guard {
    let is_in_the_way = |other: &Intent| {
        other.agent == intent.agent
            && (other.run == intent.run || (other.epoch, other.cert) != (intent.epoch, intent.cert))
    };
    if on_their_way.iter().any(is_in_the_way) {
        return Guard::Wait;
    }
    let run = (intent.agent.as_str(), intent.run.as_str());
    match state.objection(run, (intent.epoch, &intent.cert), chain) {
        Some(objection) => Guard::Objection(objection),
        None => Guard::Clear,
    }
}

impl Core {
    /// The chain of certificates of a space as its roster has it now.
    pub(super) fn chain(&self, space: SpaceId) -> Chain {
        self.engine.space(space).map_or_else(Chain::default, |view| Chain::of(view.roster.lease_chain()))
    }

    /// What is told of an intent that is not recorded.
    pub(super) fn objected(&self, space: SpaceId, objection: Objection) -> Result<IntentRecorded, NodeError> {
        let name = |place: Dot| -> Result<OpId, NodeError> {
            let op = self.blocks.op(&space, &place)?.ok_or(NodeError::OpMissing { dot: place })?;
            Ok(OpId::of(&space, op.dot, op.hlc, op.kind, op.flags, &op.body))
        };
        Ok(match objection {
            Objection::AlreadyCommitted { by } => IntentRecorded::AlreadyCommitted { by: name(by.place)? },
            Objection::AlreadyFailed { by } => IntentRecorded::AlreadyFailed { by: name(by.place)? },
            Objection::Fenced { claimed, current } => IntentRecorded::Fenced { claimed, current },
            Objection::ForkedLineage => IntentRecorded::ForkedLineage,
        })
    }
}
