//! Retention as a node applies it: what a policy drops is not shown.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::NodeError;
use super::read::Reader;
use super::space::Space;
use super::types::{Appended, NewOp};
use crate::fold::retention::{POLICY_SURFACE, is_policy_surface, kept_of, plan};
use crate::fold::{Event, Head, Policy, PolicyError, RowFilter};
use crate::model::{Payload, Surface, Tier};

/// A row that says what is kept of a surface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyRow {
    /// The key of the row: the surface it is for, where it is one.
    pub surface: String,
    /// What it says, as it was written.
    pub payload: Option<Payload>,
    /// What that means; where it means nothing, the row is ignored, and everything is kept.
    pub policy: Result<Policy, PolicyError>,
    /// How many entities or events it drops now.
    pub dropped_count: u64,
}

impl Space {
    /// Says what is kept of a surface from now on, on every device; `None` for everything.
    ///
    /// # Errors
    /// [`NodeError::Policy`] for a policy that the surface cannot have, and as [`Space::append`].
    pub async fn set_policy(
        &self,
        surface: &Surface,
        policy: Option<Payload>,
    ) -> Result<Appended, NodeError> {
        let (rows, key) = (policy_surface(), surface.to_string());
        let op = match policy {
            Some(payload) => NewOp::Put { surface: rows, key, payload },
            None => NewOp::Delete { surface: rows, key },
        };
        let placed = self.append(vec![op]).await?;
        Ok(*placed.first().expect("one op was given, one was placed"))
    }

    /// What was said of what is kept, row by row, also where it is ignored.
    ///
    /// # Errors
    /// As [`Space::get`].
    pub fn policies(&self) -> Result<Vec<PolicyRow>, NodeError> {
        self.reader().policies()
    }

    /// What is kept of a surface: everything, where no row says otherwise.
    ///
    /// # Errors
    /// As [`Space::get`].
    pub fn policy(&self, surface: &Surface) -> Result<Policy, NodeError> {
        self.reader().policy(surface)
    }

    /// How many of a stream's first events are dropped by the policy of its surface, and the last of
    /// them: the events after it are retained.
    ///
    /// # Errors
    /// As [`Space::get`].
    pub fn trimmed(&self, surface: &Surface, stream: &str) -> Result<Option<(usize, Event)>, NodeError> {
        self.reader().trimmed(surface, stream)
    }
}

/// Refuses a row that is no policy, or that is for a surface kept whole.
pub(super) fn check_policy(op: &NewOp) -> Result<(), NodeError> {
    match op {
        NewOp::Put { surface, key, payload } if is_policy_surface(surface) => {
            Policy::of_row(key, payload).map(drop).map_err(NodeError::Policy)
        }
        NewOp::Resolve { surface, key, payload: Some(payload), .. } if is_policy_surface(surface) => {
            Policy::of_row(key, payload).map(drop).map_err(NodeError::Policy)
        }
        NewOp::Put { .. }
        | NewOp::Delete { .. }
        | NewOp::Resolve { .. }
        | NewOp::Fact { .. }
        | NewOp::Event { .. }
        | NewOp::Intent(_) => Ok(()),
    }
}

impl Reader {
    pub(super) fn policy(&self, surface: &Surface) -> Result<Policy, NodeError> {
        if is_policy_surface(surface) {
            return Ok(Policy::KEEP_ALL);
        }
        let row = self.row(&policy_surface(), &surface.to_string())?;
        let payload = row.and_then(|row| row.shown.payload);
        let policy = payload.and_then(|payload| Policy::parse(surface, &payload).ok());
        Ok(policy.unwrap_or_default())
    }

    pub(super) fn trimmed(
        &self,
        surface: &Surface,
        stream: &str,
    ) -> Result<Option<(usize, Event)>, NodeError> {
        let policy = self.policy(surface)?;
        self.look(|state| state.stream_cut(surface, stream, &policy))
    }

    /// The entities of a fact surface that its policy drops; read anew only where the state has
    /// changed.
    pub(super) fn dropped(&self, surface: &Surface) -> Result<Arc<BTreeSet<String>>, NodeError> {
        if surface.tier() != Tier::Facts {
            return Ok(Arc::default());
        }
        let policy = self.policy(surface)?;
        if policy.is_keep_all() {
            return Ok(Arc::default());
        }
        let plan = || self.plan(surface, &policy);
        match self.index() {
            Some(index) => index.dropped(surface, &policy, plan),
            None => plan().map(Arc::new),
        }
    }

    fn plan(&self, surface: &Surface, policy: &Policy) -> Result<BTreeSet<String>, NodeError> {
        let entities = self.look(|state| state.entities(surface))?;
        let agents = match policy.per_agent {
            Some(_) => entities.iter().map(|(_, head)| self.agent(head)).collect::<Result<_, _>>()?,
            None => vec![None; entities.len()],
        };
        Ok(plan(&kept_of(&entities, &agents), policy).into_iter().map(str::to_owned).collect())
    }

    fn agent(&self, head: &Head) -> Result<Option<String>, NodeError> {
        let payload = self.payload(&head.place)?;
        Ok(payload
            .and_then(|payload| payload.string_member("agent_id").or_else(|| payload.string_member("agent"))))
    }

    fn policies(&self) -> Result<Vec<PolicyRow>, NodeError> {
        let rows = self.rows(&policy_surface(), None, usize::MAX, RowFilter::Live)?;
        let mut policies = Vec::with_capacity(rows.len());
        for row in rows {
            let payload = row.shown.payload;
            let read = payload.as_ref().ok_or(PolicyError::Form);
            let read = read.and_then(|payload| Policy::of_row(&row.key, payload));
            let dropped_count = match &read {
                Ok((surface, policy)) => self.dropped_count(surface, policy)?,
                Err(_) => 0,
            };
            let policy = read.map(|(_, policy)| policy);
            policies.push(PolicyRow { surface: row.key, payload, policy, dropped_count });
        }
        Ok(policies)
    }

    fn dropped_count(&self, surface: &Surface, policy: &Policy) -> Result<u64, NodeError> {
        if surface.tier() == Tier::Facts {
            return Ok(self.dropped(surface)?.len() as u64);
        }
        self.look(|state| {
            let streams = state.streams(surface, None, usize::MAX);
            let cuts = streams.iter().filter_map(|(stream, _)| state.stream_cut(surface, stream, policy));
            cuts.map(|(count, _)| count as u64).sum()
        })
    }
}

fn policy_surface() -> Surface {
    POLICY_SURFACE.parse().expect("it is the name of a surface")
}
