//! Tokens and beliefs, in O(n log n): no token twice, tokens rise, no two believe at once.
//!
//! Where a host was declared lost that was not, the old one goes on behind its partition: there
//! leases of different terms may overlap, and only the fence of the ledger keeps order. That is
//! the documented limit; everything else holds in such worlds too.

use std::collections::BTreeMap;

use super::history::{Belief, History};
use super::{Kind, Violation};
use crate::model::LeaseEpoch;

/// Checks a history.
///
/// # Errors
/// The first broken promise found.
pub fn check(history: &History) -> Result<(), Violation> {
    given_once(history)?;
    for (term, hashes) in &history.certificates {
        if let Some(other) = hashes.iter().find(|hash| **hash != hashes[0]) {
            return Err(Violation::TwoCertificates { term: *term, one: hashes[0], other: *other });
        }
    }
    let mut by_key: BTreeMap<usize, Vec<&Belief>> = BTreeMap::new();
    for belief in &history.beliefs {
        if belief.epoch.term() != belief.adopted_term {
            return Err(Violation::OlderCert { epoch: belief.epoch });
        }
        by_key.entry(belief.key).or_default().push(belief);
    }
    for (key, beliefs) in &mut by_key {
        beliefs.sort_by_key(|belief| (belief.begin, belief.end));
        rises(history, beliefs)?;
        never_both(history, beliefs)?;
        acted_in_time(history, *key, beliefs)?;
    }
    Ok(())
}

/// One token is one lease: one key, one daemon, and nobody believes in it again once it was given up.
fn given_once(history: &History) -> Result<(), Violation> {
    let mut given: BTreeMap<LeaseEpoch, &Belief> = BTreeMap::new();
    for belief in &history.beliefs {
        let Some(first) = given.insert(belief.epoch, belief) else { continue };
        // A whole machine that was set back knows nothing of what it gave itself and told nobody.
        let is_forgotten = history.kind == Kind::RestoredUnseen
            && first.by.device == belief.by.device
            && first.by != belief.by;
        if !is_forgotten {
            let name = |belief: &Belief| format!("{:?} for key {}", belief.by, belief.key);
            return Err(Violation::GivenTwice { epoch: belief.epoch, one: name(first), other: name(belief) });
        }
    }
    Ok(())
}

/// What was asked for after a grant has a greater token than it.
fn rises(history: &History, beliefs: &[&Belief]) -> Result<(), Violation> {
    let mut by_sent: Vec<&Belief> = beliefs.to_vec();
    by_sent.sort_by_key(|belief| belief.sent);
    let (mut granted, mut greatest) = (beliefs.iter().peekable(), None);
    for later in by_sent {
        while let Some(before) = granted.next_if(|before| before.begin <= later.sent) {
            greatest = greatest.max(Some(before.epoch));
        }
        if let Some(before) = greatest
            && later.epoch < before
            && is_strict(history, later.epoch, before)
        {
            return Err(Violation::Fell { before, later: later.epoch });
        }
    }
    Ok(())
}

fn never_both(history: &History, beliefs: &[&Belief]) -> Result<(), Violation> {
    let mut longest: Vec<&Belief> = Vec::new();
    for belief in beliefs {
        // One of each term is enough, and there are few terms.
        for other in &longest {
            let is_both = belief.begin < other.end
                && belief.epoch != other.epoch
                && belief.by.device != other.by.device
                && belief.begin < belief.end;
            if is_both && is_strict(history, belief.epoch, other.epoch) {
                return Err(Violation::BothBelieved {
                    one: other.epoch,
                    other: belief.epoch,
                    at: belief.begin,
                });
            }
        }
        match longest.iter_mut().find(|other| other.epoch.term() == belief.epoch.term()) {
            Some(other) if other.end < belief.end => *other = belief,
            Some(_) => {}
            None => longest.push(belief),
        }
    }
    Ok(())
}

/// Nobody acts under a token once somebody has been granted a greater one.
fn acted_in_time(history: &History, key: usize, beliefs: &[&Belief]) -> Result<(), Violation> {
    let mut acts: Vec<_> = history.acts.iter().filter(|act| act.key == key).collect();
    acts.sort_by_key(|act| act.at);
    let mut granted = beliefs.iter().peekable();
    let mut greatest: BTreeMap<u32, LeaseEpoch> = BTreeMap::new();
    for act in acts {
        while let Some(belief) = granted.next_if(|belief| belief.begin < act.at) {
            let of_term = greatest.entry(belief.epoch.term()).or_insert(belief.epoch);
            *of_term = (*of_term).max(belief.epoch);
        }
        for greater in greatest.values() {
            if act.epoch < *greater && is_strict(history, act.epoch, *greater) {
                return Err(Violation::ActedLate { epoch: act.epoch, greater: *greater, at: act.at });
            }
        }
    }
    Ok(())
}

/// Whether two leases are held to exclusivity in time.
fn is_strict(history: &History, one: LeaseEpoch, other: LeaseEpoch) -> bool {
    history.kind != Kind::WronglyLost || one.term() == other.term()
}
