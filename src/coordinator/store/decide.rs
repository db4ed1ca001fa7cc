//! What follows from a record: pure, so that every case is a test.

use std::time::Duration;

use super::record::Held;
use super::{Found, Version};
use crate::lease::{Holder, LeaseRefused, Local, Ttl};
use crate::model::LeaseEpoch;

/// What a holder remembers of an agent's lease.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The token that was handed out and not given back, and until when it is valid.
    handed: Option<(LeaseEpoch, Duration)>,
    /// The record of somebody else, and since when it has been seen unchanged.
    seen: Option<(Version, Duration)>,
}

/// What is to be done about a request for a lease.
#[derive(Debug)]
pub(super) enum Next {
    /// Write a record with this token.
    Take(LeaseEpoch),
    /// Tell the caller.
    Refuse(LeaseRefused),
}

impl Known {
    /// Whether a lease can be taken, given the record read just before `now`.
    pub(super) fn judge(&mut self, found: Option<&Found>, me: &Holder, now: Duration) -> Next {
        let Some(found) = found else { return Next::Take(LeaseEpoch::MIN) };
        let epoch = found.record.epoch;
        let Some(held) = found.record.held else { return next(epoch) };
        if held.holder == *me {
            // A record of this very process: its own clock says exactly whether its holder has
            // stopped, and a token that was never handed out has no holder at all.
            return match self.handed {
                Some((handed, valid_until)) if handed == epoch && now < valid_until => {
                    Next::Refuse(LeaseRefused::AlreadyHeld { epoch })
                }
                _ => next(epoch),
            };
        }
        let remaining = self.watch(found, held.ttl_max, now);
        if remaining.is_zero() {
            return next(epoch);
        }
        Next::Refuse(LeaseRefused::Held { holder: held.holder, epoch, remaining_ms: millis(remaining) })
    }

    /// Notes that a record stands, and says how long its holder may still act.
    pub(super) fn watch(&mut self, found: &Found, ttl_max: Ttl, now: Duration) -> Duration {
        let since = match &self.seen {
            Some((version, since)) if *version == found.version => *since,
            _ => {
                self.seen = Some((found.version.clone(), now));
                now
            }
        };
        (since + ttl_max.held_for()).saturating_sub(now)
    }

    pub(super) fn hand_out(&mut self, epoch: LeaseEpoch, valid_until: Duration) {
        self.handed = Some((epoch, valid_until));
    }

    pub(super) fn forget(&mut self, epoch: LeaseEpoch) {
        self.handed = self.handed.filter(|(handed, _)| *handed != epoch);
    }

    pub(super) fn has(&self, epoch: LeaseEpoch) -> bool {
        self.handed.is_some_and(|(handed, _)| handed == epoch)
    }

    /// What the clock says of the token that was handed out.
    pub(super) fn local(&self, now: Duration) -> Local {
        match self.handed {
            Some((epoch, valid_until)) if now < valid_until => {
                Local::Valid { epoch, remaining: valid_until - now }
            }
            _ => Local::NotHeld,
        }
    }

    pub(super) const fn is_held(&self) -> bool {
        self.handed.is_some()
    }
}

/// The lease under this token, where it is this holder's.
pub(super) fn own(found: Option<&Found>, me: &Holder, epoch: LeaseEpoch) -> Result<Held, LeaseRefused> {
    let Some(record) = found.map(|found| &found.record) else {
        return Err(LeaseRefused::NotHolder);
    };
    match record.held {
        Some(held) if held.holder != *me => Err(LeaseRefused::NotHolder),
        _ if record.epoch != epoch => Err(LeaseRefused::Stale { claimed: epoch, current: record.epoch }),
        Some(held) => Ok(held),
        None => Err(LeaseRefused::Expired { epoch }),
    }
}

/// Rounded up: whoever asks again after that long is not early.
pub(super) fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
}

fn next(epoch: LeaseEpoch) -> Next {
    match LeaseEpoch::new(epoch.get() + 1) {
        Ok(epoch) => Next::Take(epoch),
        Err(_) => Next::Refuse(LeaseRefused::EpochExhausted),
    }
}
