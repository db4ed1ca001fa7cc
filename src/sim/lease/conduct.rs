//! What a history shows of single rules: what was durable when it was said, who voted, what a
//! register holds and takes.
//!
//! [`super::order`] sees only what rules are for. A breach of one of these does harm in the rarest
//! of worlds, so each is looked for by itself.

use std::collections::{BTreeMap, VecDeque};

use thiserror::Error;

use super::history::{History, HostReply};
use super::{Kind, Violation};
use crate::lease::register::REQUESTS_PER_SECOND;
use crate::lease::table::{HELD_MAX, KEYS_MAX};
use crate::lease::{Answer, Holder, Ttl, Verb};
use crate::model::{CertHash, DeviceId, LeaseEpoch};

/// A rule that was broken, whether harm came of it or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Breach {
    /// A host said what a loss of power would have undone.
    #[error("an answer left before what it says was durable")]
    SaidTooEarly,
    /// A vote left before its promise was durable.
    #[error("a vote left before its promise was durable")]
    VotedTooEarly,
    /// A restored home voted, though it may have forgotten a promise.
    #[error("a restored home voted before a certificate named it")]
    VotedInDoubt,
    /// Somebody acted after a sleep, without asking the host first.
    #[error("somebody acted after a sleep before renewing")]
    ActedAfterSleep,
    /// A daemon was given another token for what it held.
    #[error("a daemon that held a key was given another token for it")]
    GrantedAgain,
    /// A time to live that is none was granted.
    #[error("a time to live outside of its bounds was granted")]
    TtlBounds,
    /// A register held too many keys.
    #[error("a register held more than {KEYS_MAX} keys")]
    TooManyKeys,
    /// One device held too many.
    #[error("a device held more than {HELD_MAX} leases")]
    TooManyHeld,
    /// One device asked too much.
    #[error("a device was answered more than {REQUESTS_PER_SECOND} requests a second")]
    TooManyRequests,
}

/// Checks a history.
///
/// # Errors
/// The first breach found.
pub fn check(history: &History) -> Result<(), Violation> {
    let breached = |breach, at| Err(Violation::Conduct { breach, at });
    for reply in &history.replies {
        if !reply.is_durable {
            return breached(Breach::SaidTooEarly, reply.at);
        }
    }
    for vote in &history.votes {
        if !vote.is_durable {
            return breached(Breach::VotedTooEarly, vote.at);
        }
        if vote.is_in_doubt {
            return breached(Breach::VotedInDoubt, vote.at);
        }
    }
    if let Some(act) = history.acts.iter().find(|act| act.is_unrenewed) {
        return breached(Breach::ActedAfterSleep, act.at);
    }
    // A machine that was set back knows nothing of what it gave.
    if history.kind != Kind::RestoredUnseen
        && let Some(at) = granted_again(&history.replies)
    {
        return breached(Breach::GrantedAgain, at);
    }
    for table in &history.tables {
        for (is_broken, breach) in [
            (table.key_count > KEYS_MAX, Breach::TooManyKeys),
            (table.held_max > HELD_MAX, Breach::TooManyHeld),
            (!table.is_ttl_sound, Breach::TtlBounds),
        ] {
            if is_broken {
                return breached(breach, table.at);
            }
        }
    }
    match too_many(&history.taken) {
        Some(at) => breached(Breach::TooManyRequests, at),
        None => Ok(()),
    }
}

/// When a daemon was given a second token while the first still ran.
fn granted_again(replies: &[HostReply]) -> Option<u64> {
    // By the life of the host too: one that dies may have let the key go and told nobody.
    let mut given: BTreeMap<((DeviceId, u64), CertHash, usize), Given> = BTreeMap::new();
    for reply in replies {
        let at = (reply.host, reply.cert, reply.key);
        match (&reply.answer, reply.asked) {
            (Answer::Granted { epoch }, Verb::Acquire { ttl } | Verb::Reclaim { ttl, .. }) => {
                let now = Given { by: reply.by, epoch: *epoch, until: reply.sent + micros(ttl) };
                if let Some(before) = given.get(&at) {
                    if before.epoch == *epoch {
                        continue;
                    }
                    if before.by == reply.by && reply.at < before.until {
                        return Some(reply.at);
                    }
                }
                given.insert(at, now);
            }
            (Answer::Released { .. }, _) => {
                given.remove(&at);
            }
            (Answer::Granted { .. } | Answer::Renewed { .. } | Answer::Current { .. }, _) => {}
        }
    }
    None
}

struct Given {
    by: Holder,
    epoch: LeaseEpoch,
    /// The host holds it longer than this, however fast its clock runs.
    until: u64,
}

fn micros(ttl: Ttl) -> u64 {
    u64::from(ttl.as_millis()) * 1_000
}

/// When a device was answered more within a second than a full bucket and what fills it meanwhile.
fn too_many(taken: &[(u64, DeviceId)]) -> Option<u64> {
    let mut last: BTreeMap<DeviceId, VecDeque<u64>> = BTreeMap::new();
    for (at, device) in taken {
        let times = last.entry(*device).or_default();
        times.push_back(*at);
        while times.front().is_some_and(|first| first + 1_000_000 <= *at) {
            times.pop_front();
        }
        if times.len() > 2 * REQUESTS_PER_SECOND as usize + 1 {
            return Some(*at);
        }
    }
    None
}
