//! The lease ledger: what the runs of agents said of themselves.
//!
//! Every intent is kept, under the key of its run ([`intent_key`]), as the place of its op, its token
//! and its status; never its payload. What of that counts is decided when it is asked for
//! ([`super::runs`]), because it hangs on the chain of certificates, which is not part of the fold:
//! neither the root nor the order of arrival depends on it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::key::Key;
use super::logs::{Entry, Logs};
use super::root::Leaves;
use super::state::Applied;
use crate::model::{CertHash, IntentStatus, LeaseEpoch, intent_key, split_intent_key};

/// The runs of all agents of a space.
#[derive(Default)]
pub(super) struct Ledger {
    runs: BTreeMap<Key, Run>,
    /// Per agent and certificate the greatest token it was seen with.
    greatest: BTreeMap<Key, BTreeMap<CertIndex, LeaseEpoch>>,
    /// Runs that may hold a losing intent under some chain; all others hold none under any.
    open: BTreeSet<Key>,
    certs: Certs,
}

/// One run: its intents in total order, never none.
pub(super) struct Run(Vec<Intent>);

/// One intent of a run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Intent {
    pub(super) entry: Entry,
    pub(super) epoch: LeaseEpoch,
    pub(super) cert: CertIndex,
    pub(super) status: IntentStatus,
}

/// A certificate's number inside one ledger. Numbers follow arrival, so no order and no hash may use
/// them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CertIndex(u32);

/// The certificates that tokens were given under, each once: there are few.
#[derive(Default)]
struct Certs {
    slots: Vec<CertHash>,
    index: BTreeMap<CertHash, CertIndex>,
}

impl Certs {
    fn intern(&mut self, cert: CertHash) -> CertIndex {
        let slots = &mut self.slots;
        *self.index.entry(cert).or_insert_with(|| {
            slots.push(cert);
            CertIndex(u32::try_from(slots.len() - 1).expect("memory ends before 2^32 certificates"))
        })
    }

    fn hash(&self, cert: CertIndex) -> &CertHash {
        &self.slots[cert.0 as usize]
    }
}

impl Ledger {
    /// The number of a certificate, given to it now if it has none.
    pub(super) fn cert(&mut self, cert: CertHash) -> CertIndex {
        self.certs.intern(cert)
    }

    pub(super) fn cert_hash(&self, cert: CertIndex) -> &CertHash {
        self.certs.hash(cert)
    }

    /// Adds an intent to the run with this key; one that is here already changes nothing.
    pub(super) fn fold(
        &mut self,
        key: &str,
        intent: Intent,
        logs: &Logs,
        leaves: &mut Leaves<'_>,
    ) -> Applied {
        let name = Key::new(key);
        let run = self.runs.entry(name.clone()).or_insert_with(|| Run(Vec::new()));
        let Err(at) = run.0.binary_search_by(|held| order(held, &intent, logs, &self.certs)) else {
            return Applied::Again;
        };
        run.0.insert(at, intent);
        let is_settled = run.is_settled();
        leaves.add(&intent.entry);
        self.count(name, intent, is_settled);
        Applied::Shown
    }

    fn count(&mut self, name: Key, intent: Intent, is_settled: bool) {
        let agent = Key::new(agent_of(name.as_str()));
        let greatest = self.greatest.entry(agent).or_default().entry(intent.cert).or_insert(intent.epoch);
        *greatest = intent.epoch.max(*greatest);
        if is_settled {
            self.open.remove(&name);
        } else {
            self.open.insert(name);
        }
    }

    pub(super) const fn runs(&self) -> &BTreeMap<Key, Run> {
        &self.runs
    }
    pub(super) const fn open(&self) -> &BTreeSet<Key> {
        &self.open
    }

    /// The runs of one agent whose names follow `after`, in the order of their names.
    pub(super) fn runs_of(&self, agent: &str, after: Option<&str>) -> impl Iterator<Item = (&Key, &Run)> {
        let from = Bound::Excluded(Key::new(&intent_key(agent, after.unwrap_or(""))));
        let agent = agent.to_owned();
        self.runs.range((from, Bound::Unbounded)).take_while(move |(key, _)| agent_of(key.as_str()) == agent)
    }

    /// The agents whose names follow `after`, in the order of their names.
    pub(super) fn agents(&self, after: Option<&str>) -> impl Iterator<Item = &str> {
        let from = after.map_or(Bound::Unbounded, |agent| Bound::Excluded(Key::new(agent)));
        self.greatest.range((from, Bound::Unbounded)).map(|(agent, _)| agent.as_str())
    }

    /// Per certificate the greatest token an agent was seen with.
    pub(super) fn greatest(&self, agent: &str) -> impl Iterator<Item = (&CertHash, LeaseEpoch)> {
        let tokens = self.greatest.get(&Key::new(agent));
        tokens.into_iter().flatten().map(|(cert, epoch)| (self.certs.hash(*cert), *epoch))
    }

    /// Takes over a run that was read from a snapshot; runs come in strictly rising key order.
    pub(super) fn push_run(&mut self, key: Key, intents: Vec<Intent>) {
        let run = Run(intents);
        let is_settled = run.is_settled();
        for intent in &run.0 {
            self.count(key.clone(), *intent, is_settled);
        }
        self.runs.insert(key, run);
    }

    /// The total order of ops. Two lives of a device may say two things at one place with one stamp;
    /// those stand side by side, in the order of what they say.
    pub(super) fn order(&self, a: &Intent, b: &Intent, logs: &Logs) -> Ordering {
        order(a, b, logs, &self.certs)
    }
}

fn order(a: &Intent, b: &Intent, logs: &Logs, certs: &Certs) -> Ordering {
    logs.order(&a.entry, &b.entry)
        .then_with(|| a.status.cmp(&b.status))
        .then_with(|| a.epoch.cmp(&b.epoch))
        .then_with(|| certs.hash(a.cert).cmp(certs.hash(b.cert)))
}

impl Run {
    /// In total order.
    pub(super) fn intents(&self) -> &[Intent] {
        &self.0
    }

    /// Whether it ended, all of it under one token and in one way: whatever the chain, nothing lost.
    fn is_settled(&self) -> bool {
        let first = &self.0[0];
        let mut ended = None;
        for intent in &self.0 {
            if (intent.epoch, intent.cert) != (first.epoch, first.cert) {
                return false;
            }
            if intent.status.is_terminal() && *ended.get_or_insert(intent.status) != intent.status {
                return false;
            }
        }
        ended.is_some()
    }
}

/// The agent of a run's key.
fn agent_of(key: &str) -> &str {
    split_intent_key(key).expect("the ledger holds keys of runs only").0
}
