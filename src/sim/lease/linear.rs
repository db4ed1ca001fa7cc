//! Is there one order of all requests, each between its sending and its reply, that explains every
//! answer?
//!
//! After Wing and Gong, "Testing and verifying concurrent objects", 1993, with Lowe's memory of
//! what was tried ("Testing for linearizability", 2017). A lease may run out at any moment (that it
//! does not run out too early is [`order`](super::order)'s to check), but for good. A request
//! whose reply is not known may have taken effect at any time since, or never.

use std::collections::{BTreeMap, HashSet};

use super::Violation;
use super::history::{History, Op};
use crate::lease::{Answer, Holder, LeaseRefused, Verb};
use crate::model::LeaseEpoch;

/// Most states one key's search looks at; one that needs more fails.
pub const STATES_MAX: usize = 2_000_000;

/// Checks every key of a history, and says how many states that took.
///
/// # Errors
/// [`Violation::NotLinearizable`], [`Violation::Inconclusive`].
pub fn check(history: &History, states_max: usize) -> Result<usize, Violation> {
    let mut by_key: BTreeMap<usize, Vec<&Op>> = BTreeMap::new();
    for op in &history.ops {
        if !is_silent(op) {
            by_key.entry(op.key).or_default().push(op);
        }
    }
    let mut states = 0;
    for (key, mut ops) in by_key {
        ops.sort_by_key(|op| op.sent);
        let mut search = Search::new(&ops);
        match search.run(states_max) {
            Some(true) => states += search.tried.len(),
            Some(false) => {
                let near = Box::new(unexplained(&ops, states_max));
                return Err(Violation::NotLinearizable { key, ops: ops.len(), near });
            }
            None => return Err(Violation::Inconclusive { key, states: search.tried.len() }),
        }
    }
    Ok(states)
}

/// The request whose reply is the first that no order explains.
fn unexplained(ops: &[&Op], states_max: usize) -> Op {
    let mut replied: Vec<u64> = ops.iter().filter_map(|op| op.said.as_ref().map(|(at, _)| *at)).collect();
    replied.sort_unstable();
    let is_explained = |until: u64| {
        let known = ops.iter().filter(|op| op.sent <= until).map(|op| {
            let said = op.said.clone().filter(|(at, _)| *at <= until);
            Op { said, ..(*op).clone() }
        });
        let known: Vec<Op> = known.filter(|op| !is_silent(op)).collect();
        let known: Vec<&Op> = known.iter().collect();
        let mut search = Search::new(&known);
        search.run(states_max) != Some(false)
    };
    let at = replied[replied.partition_point(|at| is_explained(*at)).min(replied.len() - 1)];
    let near = ops.iter().find(|op| op.said.as_ref().is_some_and(|(when, _)| *when == at));
    (*near.expect("a time of a reply has its request")).clone()
}

/// Whether a request certainly did nothing and saw nothing.
fn is_silent(op: &Op) -> bool {
    let is_harmless = matches!(op.asked, Verb::Renew { .. } | Verb::Current);
    let is_refused = matches!(op.said, Some((_, Err(LeaseRefused::RequestTooOld { .. }))));
    is_refused || is_open(op) && is_harmless
}

/// Whether what became of a request is not known: no reply was taken, or it says nothing of the key.
///
/// A refusal for the register's sake is not remembered, so a late copy of the request may be decided.
fn is_open(op: &Op) -> bool {
    match &op.said {
        None => true,
        Some((_, Ok(_))) => false,
        Some((_, Err(refused))) => !matches!(
            refused,
            LeaseRefused::Held { .. }
                | LeaseRefused::AlreadyHeld { .. }
                | LeaseRefused::NotHolder
                | LeaseRefused::Expired { .. }
                | LeaseRefused::Stale { .. }
                | LeaseRefused::RequestTooOld { .. }
        ),
    }
}

/// The register of one key, as the order so far makes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct State {
    /// The last token given.
    last: Option<LeaseEpoch>,
    /// Who holds it, until it is given back or runs out.
    holder: Option<Holder>,
}

struct Search<'a> {
    ops: &'a [&'a Op],
    /// Who was seen to hold which token, if that was seen, for requests whose reply is not known.
    seen: BTreeMap<LeaseEpoch, Option<Holder>>,
    /// Tokens that a known reply gave.
    given: BTreeMap<LeaseEpoch, usize>,
    tried: HashSet<(usize, Vec<usize>, State)>,
}

/// Which requests are in the order: all before `first`, and these.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Done {
    first: usize,
    beyond: Vec<usize>,
}

impl Done {
    fn has(&self, at: usize) -> bool {
        at < self.first || self.beyond.binary_search(&at).is_ok()
    }

    fn with(&self, at: usize) -> Self {
        let mut done = self.clone();
        if let Err(place) = done.beyond.binary_search(&at) {
            done.beyond.insert(place, at);
        }
        while done.beyond.first() == Some(&done.first) {
            done.beyond.remove(0);
            done.first += 1;
        }
        done
    }
}

impl<'a> Search<'a> {
    fn new(ops: &'a [&'a Op]) -> Self {
        let (mut seen, mut given) = (BTreeMap::<LeaseEpoch, Option<Holder>>::new(), BTreeMap::new());
        for (at, op) in ops.iter().enumerate() {
            match &op.said {
                Some((_, Ok(Answer::Granted { epoch }))) => {
                    given.insert(*epoch, at);
                    seen.insert(*epoch, Some(op.by));
                }
                Some((_, Ok(Answer::Current { standing: Some(standing) }))) => {
                    seen.insert(standing.epoch, Some(standing.holder));
                }
                Some((_, Err(LeaseRefused::Held { holder, epoch, .. }))) => {
                    seen.insert(*epoch, Some(*holder));
                }
                Some((
                    _,
                    Ok(Answer::Renewed { epoch } | Answer::Released { epoch })
                    | Err(LeaseRefused::AlreadyHeld { epoch }),
                )) => {
                    seen.insert(*epoch, Some(op.by));
                }
                Some((_, Err(LeaseRefused::Stale { current, .. }))) => {
                    seen.entry(*current).or_insert(None);
                }
                Some((_, Ok(Answer::Current { standing: None }) | Err(_))) | None => {}
            }
        }
        Self { ops, seen, given, tried: HashSet::new() }
    }

    /// `None` where it was given up.
    fn run(&mut self, states_max: usize) -> Option<bool> {
        let start = (Done { first: 0, beyond: Vec::new() }, State { last: None, holder: None });
        let mut stack = vec![start];
        while let Some((done, state)) = stack.pop() {
            if !self.tried.insert((done.first, done.beyond.clone(), state)) {
                continue;
            }
            if self.tried.len() > states_max {
                return None;
            }
            let Some(deadline) = self.deadline(&done) else { return Some(true) };
            // Pushed in reverse, so that the earliest request is tried first.
            for at in (done.first..self.ops.len()).rev() {
                if self.ops[at].sent > deadline || done.has(at) {
                    continue;
                }
                for next in self.nexts(at, state) {
                    stack.push((done.with(at), next));
                }
            }
        }
        Some(false)
    }

    /// The earliest reply of a request that is not in the order yet; `None` once all with a reply are.
    fn deadline(&self, done: &Done) -> Option<u64> {
        let open = (done.first..self.ops.len()).filter(|at| !done.has(*at) && !is_open(self.ops[*at]));
        open.filter_map(|at| self.ops[at].said.as_ref().map(|(when, _)| *when)).min()
    }

    /// What the register may be after a request, if it explains the answer.
    fn nexts(&self, at: usize, state: State) -> Vec<State> {
        let op = self.ops[at];
        if is_open(op) {
            return self.nexts_open(op, state);
        }
        let Some((_, said)) = &op.said else { return Vec::new() };
        let is_held =
            |epoch: LeaseEpoch, holder: Holder| state.last == Some(epoch) && state.holder == Some(holder);
        let free = State { holder: None, ..state };
        let explained = match said {
            Ok(Answer::Granted { epoch }) => {
                return if Some(*epoch) > state.last {
                    vec![State { last: Some(*epoch), holder: Some(op.by) }]
                } else {
                    Vec::new()
                };
            }
            Ok(Answer::Renewed { epoch }) => is_held(*epoch, op.by).then_some(state),
            Ok(Answer::Released { epoch }) => is_held(*epoch, op.by).then_some(free),
            Ok(Answer::Current { standing: None }) => Some(free),
            Ok(Answer::Current { standing: Some(standing) }) => {
                is_held(standing.epoch, standing.holder).then_some(state)
            }
            Err(LeaseRefused::Held { holder, epoch, .. }) => is_held(*epoch, *holder).then_some(state),
            Err(LeaseRefused::AlreadyHeld { epoch }) => is_held(*epoch, op.by).then_some(state),
            Err(LeaseRefused::Expired { epoch }) => match op.asked {
                // A reclaim after the settling says nothing of the new host's key.
                Verb::Reclaim { .. } => Some(free),
                Verb::Acquire { .. } | Verb::Renew { .. } | Verb::Release { .. } | Verb::Current => {
                    (state.last == Some(*epoch)).then_some(free)
                }
            },
            Err(LeaseRefused::Stale { current, .. }) => (state.last == Some(*current)).then_some(state),
            // Not held by whoever asked, or run out.
            Err(LeaseRefused::NotHolder) => Some(if state.holder == Some(op.by) { free } else { state }),
            Err(_) => None,
        };
        explained.into_iter().collect()
    }

    /// A request without a known reply may have given any token that was seen and not otherwise given.
    fn nexts_open(&self, op: &Op, state: State) -> Vec<State> {
        match op.asked {
            Verb::Acquire { .. } | Verb::Reclaim { .. } => self
                .seen
                .iter()
                .filter(|(epoch, holder)| {
                    holder.is_none_or(|holder| holder == op.by)
                        && Some(**epoch) > state.last
                        && !self.given.contains_key(*epoch)
                })
                .map(|(epoch, _)| State { last: Some(*epoch), holder: Some(op.by) })
                .collect(),
            Verb::Release { epoch } if state.last == Some(epoch) && state.holder == Some(op.by) => {
                vec![State { holder: None, ..state }]
            }
            Verb::Release { .. } | Verb::Renew { .. } | Verb::Current => Vec::new(),
        }
    }
}
