//! When history may be dropped: a pure question about what devices have said.
//!
//! Batches within the cut of a checkpoint that is whole here may go once every device that is waited for has
//! vouched for what they came to, and some time has passed in which a person could have noticed that
//! something is wrong. Everything that stands against it is named, so that `gc why` can tell a person whom to
//! switch on, or what to put right.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::engine::Engine;
use super::space::SpaceState;
use crate::fold::FOLD_VERSION;
use crate::model::{DeviceId, Frontier, LogId, SpaceId, Tip, Wall};
use crate::wire::checkpoint::CheckpointHash;

/// A checkpoint that is whole here, and what is known of it.
#[derive(Clone, Debug)]
pub struct Proposal<'a> {
    /// The checkpoint.
    pub checkpoint: CheckpointHash,
    /// Its cut.
    pub cut: &'a Frontier,
    /// The devices that have folded their own logs to the same.
    pub attested_by: &'a BTreeSet<DeviceId>,
    /// Since when it is whole here, where that was noted.
    pub whole_since: Option<Wall>,
    /// Since when every device that is waited for has vouched for it, where that was noted.
    pub vouched_since: Option<Wall>,
}

/// What holds history back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum GcHold {
    /// No checkpoint is whole here.
    NoCheckpoint,
    /// The newest one is what the history here begins with already.
    NothingNew,
    /// A device has another state for the same ops.
    Diverged {
        /// Which.
        device: DeviceId,
    },
    /// Two histories of a log are proved, and its device has not said which one stands.
    Disputed {
        /// The log.
        log: LogId,
    },
    /// Ops of this device are being written again.
    Rewriting {
        /// Their log.
        log: LogId,
    },
    /// A device has forgotten ops of a log within the cut, and they are kept here until it has had them back.
    Forgotten {
        /// The log.
        log: LogId,
    },
    /// This home came back from a backup or is a copy, and has not met this device since: what it has forgotten of
    /// what it vouched for may have been dropped there.
    Unmet {
        /// Which.
        device: DeviceId,
    },
    /// A device that reads has not folded its own log to the same.
    Unattested {
        /// Which.
        device: DeviceId,
        /// Since when it could have.
        since: Option<Wall>,
    },
    /// A device that reads has not attested it and folds by other rules than this program: it never will, until
    /// both have the same version.
    OtherRules {
        /// Which.
        device: DeviceId,
        /// The version of its rules.
        version: u32,
    },
    /// A device that stores without reading has not said that it holds everything within the cut.
    NotHeld {
        /// Which.
        device: DeviceId,
        /// How many ops it lacks, as far as it has said.
        ops: u64,
        /// When it last said what it holds, by its own clock.
        since: Option<Wall>,
    },
    /// The home of a device that stores without reading came back from a backup or is a copy, and has not met every
    /// other device since.
    InDoubt {
        /// Which.
        device: DeviceId,
    },
    /// A device holds ops that it cannot fold: of a later version, or under a key that it lacks.
    Unknown {
        /// Which.
        device: DeviceId,
        /// How many.
        count: u64,
    },
    /// Everybody has vouched for it, and the time in which a mistake can be noticed has not passed.
    Grace {
        /// When it has.
        until: Wall,
    },
}

impl fmt::Display for GcHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCheckpoint => f.write_str("no checkpoint is whole here"),
            Self::NothingNew => f.write_str("it begins with the newest checkpoint already"),
            Self::Diverged { device } => {
                write!(f, "{} has another state for the same ops", device.short())
            }
            Self::Disputed { log } => write!(f, "two histories of a log of {} exist", log.device.short()),
            Self::Rewriting { .. } => f.write_str("ops of this device are being written again"),
            Self::Forgotten { log } => {
                write!(
                    f,
                    "ops that {} has forgotten are kept here until it meets this device",
                    log.device.short()
                )
            }
            Self::Unmet { device } => {
                let short = device.short();
                write!(f, "this home came back from a backup or is a copy and has not met {short} since")
            }
            Self::Unattested { device, .. } => {
                write!(f, "{} has not attested the checkpoint", device.short())
            }
            Self::OtherRules { device, version } => {
                let short = device.short();
                write!(
                    f,
                    "{short} folds by version {version} of the rules, and this program by {FOLD_VERSION}"
                )
            }
            Self::NotHeld { device, ops, .. } => write!(f, "{} lacks {ops} ops of it", device.short()),
            Self::InDoubt { device } => {
                let short = device.short();
                write!(f, "{short} came back from a backup or is a copy and has not met every device since")
            }
            Self::Unknown { device, count } => write!(f, "{} cannot fold {count} ops", device.short()),
            Self::Grace { .. } => f.write_str("the days in which a mistake can be noticed have not passed"),
        }
    }
}

/// What is to be said of dropping history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GcStanding {
    /// What holds it back; nothing does where this is empty.
    pub holds: Vec<GcHold>,
    /// Ops within the cut that are in batches here: so many would go from the log.
    pub ops: u64,
    /// Whether every device that is waited for has vouched for the checkpoint.
    pub is_vouched: bool,
    /// Since when, which is to be noted durably where it was not: the clock may have been put back since.
    pub vouched_since: Option<Wall>,
}

impl GcStanding {
    /// Whether history may be dropped, at once or without the time in which a mistake can be noticed.
    pub fn is_free(&self, is_grace_waived: bool) -> bool {
        self.holds.iter().all(|hold| is_grace_waived && matches!(hold, GcHold::Grace { .. }))
    }
}

/// Which of several checkpoints history is to begin with, the newest first: the newest that nothing holds back. Where
/// there is none, the one whose turn is next: the oldest that waits for nothing but time, or else the newest. Were
/// the newest alone looked at, each would be replaced before its time had passed.
pub fn choose(standings: &[GcStanding], is_grace_waived: bool) -> Option<usize> {
    let free = standings.iter().position(|standing| standing.is_free(is_grace_waived));
    let waits = || standings.iter().rposition(|standing| standing.is_free(true));
    free.or_else(waits).or((!standings.is_empty()).then_some(0))
}

impl Engine {
    /// What holds back the history that a checkpoint could take the place of, at this time of the wall clock.
    ///
    /// `None` for a space that this device does not take part in.
    pub fn gc_standing(
        &self,
        space: SpaceId,
        proposal: Option<&Proposal<'_>>,
        now: Wall,
        grace: Duration,
    ) -> Option<GcStanding> {
        let state = self.spaces.get(&space).filter(|state| state.is_active)?;
        Some(state.gc_standing(proposal, now, grace))
    }
}

impl SpaceState {
    fn gc_standing(&self, proposal: Option<&Proposal<'_>>, now: Wall, grace: Duration) -> GcStanding {
        let unmet = || self.unmet().map(|device| GcHold::Unmet { device });
        let nothing = |hold| {
            let holds = std::iter::once(hold).chain(unmet()).collect();
            GcStanding { holds, ops: 0, is_vouched: false, vouched_since: None }
        };
        let Some(proposal) = proposal else { return nothing(GcHold::NoCheckpoint) };
        if self.base.as_ref().is_some_and(|base| base.checkpoint == proposal.checkpoint) {
            return nothing(GcHold::NothingNew);
        }
        let unvouched = self.unvouched(proposal);
        let is_vouched = unvouched.is_empty();
        let mut holds = self.in_doubt(proposal.cut);
        holds.extend(unmet());
        holds.extend(unvouched);
        holds.extend(self.unknowing());
        // A clock that was ahead when it was noted must not hold it back for years.
        let vouched_since = is_vouched.then(|| proposal.vouched_since.map_or(now, |since| since.min(now)));
        let until = vouched_since.map(|since| since.plus(grace));
        holds.extend(until.filter(|until| now < *until).map(|until| GcHold::Grace { until }));
        let floor = self.base.as_ref().map(|base| base.floor.clone()).unwrap_or_default();
        GcStanding { holds, ops: proposal.cut.ops_beyond(&floor), is_vouched, vouched_since }
    }

    /// What is wrong with the history itself.
    fn in_doubt(&self, cut: &Frontier) -> Vec<GcHold> {
        let diverged = self.parted.keys().map(|device| GcHold::Diverged { device: *device });
        let logs = || cut.iter().map(|(log, _)| *log);
        let disputed = logs().filter(|log| self.is_disputed(log)).map(|log| GcHold::Disputed { log });
        let rewriting =
            logs().filter(|log| self.reissues.contains_key(log)).map(|log| GcHold::Rewriting { log });
        let into = |(log, tip): &(&LogId, &Tip)| self.is_forgotten(log, **tip);
        let forgotten = cut.iter().filter(into).map(|(log, _)| GcHold::Forgotten { log: *log });
        diverged.chain(disputed).chain(rewriting).chain(forgotten).collect()
    }

    /// Devices that are waited for and have not vouched for the checkpoint. A device that reads does that by
    /// its attestation; one that only stores cannot, so it must hold the batches: a newcomer may get from it
    /// what the others have dropped.
    fn unvouched(&self, proposal: &Proposal<'_>) -> Vec<GcHold> {
        let hold = |device: DeviceId| {
            if !self.is_blind(&device) {
                let version = self.acks.get(&device).map(|held| held.ack.fields().fold_version);
                let version = version.filter(|version| *version != FOLD_VERSION);
                let since = proposal.whole_since;
                return match (proposal.attested_by.contains(&device), version) {
                    (true, _) => None,
                    (false, Some(version)) => Some(GcHold::OtherRules { device, version }),
                    (false, None) => Some(GcHold::Unattested { device, since }),
                };
            }
            let held = self.acks.get(&device);
            let frontier = held.map(|held| held.frontier.clone()).unwrap_or_default();
            let ops = proposal.cut.ops_beyond(&frontier);
            let since = held.map(|held| held.ack.fields().wall);
            (ops > 0).then_some(GcHold::NotHeld { device, ops, since })
        };
        self.active().filter_map(hold).collect()
    }

    fn unknowing(&self) -> Vec<GcHold> {
        let count = |device: DeviceId| {
            let count = self.acks.get(&device).map_or(0, |held| held.ack.fields().unknown_count);
            match count {
                0 => None,
                // It folds nothing, so there is nothing that it could fail to fold.
                _ if self.is_blind(&device) => Some(GcHold::InDoubt { device }),
                _ => Some(GcHold::Unknown { device, count }),
            }
        };
        self.active().filter_map(count).collect()
    }
}

/// What holds history back, in a sentence.
#[cfg(any(test, feature = "node"))]
pub(crate) fn told(holds: &[GcHold]) -> String {
    let named: Vec<String> = holds.iter().take(HOLDS_TOLD).map(GcHold::to_string).collect();
    let named = named.join(", ");
    match holds.len().saturating_sub(HOLDS_TOLD) {
        0 => named,
        more => format!("{named}, and {more} more"),
    }
}

/// Things that one message names.
#[cfg(any(test, feature = "node"))]
const HOLDS_TOLD: usize = 3;

/// Whether it is time for another checkpoint: `ops` have become stable since the last one, which was made
/// `age` ago, and `rank` devices are to make one before this one. Without that last every device would make
/// one at the same moment, each of a slightly other cut.
pub fn is_checkpoint_due(ops: u64, age: Duration, rank: u32) -> bool {
    let turns = u64::from(rank) + 1;
    ops >= CHECKPOINT_OPS.saturating_mul(turns) || ops > 0 && age >= CHECKPOINT_AGE + RANK_DELAY * rank
}

/// Ops after which a checkpoint is worth folding the log for: it takes some 10 ms per thousand.
pub const CHECKPOINT_OPS: u64 = 10_000;

/// After this time a checkpoint is made of whatever has become stable.
pub const CHECKPOINT_AGE: Duration = Duration::from_secs(24 * 3_600);

/// How much longer each device waits than the one before it: for the checkpoint of that one to arrive.
const RANK_DELAY: Duration = Duration::from_secs(2 * 3_600);

#[cfg(test)]
mod tests {
    use super::super::stable::tests::{ack, ack_unknown, ack_version, device, log, set, space};
    use super::super::txn::Base;
    use super::*;
    use crate::model::{Root, Seq, Tip, TipHash};
    use crate::oplog::ForkProof;
    use crate::roster::Change;

    const DAY: Duration = Duration::from_secs(24 * 3_600);
    const NOW: Wall = Wall::from_millis(1_800_000_000_000);
    const CHECKPOINT: CheckpointHash = CheckpointHash::from_bytes([0xc1; 32]);

    fn cut(tips: &[(u8, u64, u8)]) -> Frontier {
        let tip = |seq, hash| Tip { seq: Seq::new(seq), hash: TipHash::from_bytes([hash; 32]) };
        tips.iter().map(|(n, seq, hash)| (log(*n), tip(*seq, *hash))).collect()
    }

    /// Devices 1 and 2 read, 3 is blind; all hold what is to go.
    fn ready() -> SpaceState {
        let mut space = space();
        for by in 1..=3 {
            ack(&mut space, by, &[(1, 10, 1), (2, 5, 2)], 1);
        }
        space
    }

    fn standing(space: &SpaceState, change: impl Fn(&mut Proposal<'_>)) -> GcStanding {
        let (cut, attested_by) = (cut(&[(1, 10, 1), (2, 5, 2)]), BTreeSet::from([device(1), device(2)]));
        let long_ago = Some(Wall::from_millis(0));
        let mut proposal = Proposal {
            checkpoint: CHECKPOINT,
            cut: &cut,
            attested_by: &attested_by,
            whole_since: long_ago,
            vouched_since: long_ago,
        };
        change(&mut proposal);
        space.gc_standing(Some(&proposal), NOW, 7 * DAY)
    }

    fn holds(space: &SpaceState) -> Vec<GcHold> {
        standing(space, |_| {}).holds
    }

    #[test]
    fn what_everybody_has_vouched_for_long_enough_may_go() {
        let standing = standing(&ready(), |_| {});

        assert_eq!((standing.holds, standing.ops, standing.is_vouched), (vec![], 15, true));
        assert_eq!(standing.vouched_since, Some(Wall::from_millis(0)));
    }

    #[test]
    fn each_thing_that_holds_history_back_is_named() {
        let long_ago = Some(Wall::from_millis(0));
        let none = ready().gc_standing(None, NOW, 7 * DAY);
        assert_eq!(none.holds, [GcHold::NoCheckpoint]);

        let mut space = ready();
        space.base = Some(Base { checkpoint: CHECKPOINT, floor: cut(&[(1, 10, 1)]) });
        assert_eq!(holds(&space), [GcHold::NothingNew]);
        space.base = Some(Base { checkpoint: CheckpointHash::from_bytes([1; 32]), floor: cut(&[(1, 4, 9)]) });
        assert_eq!(standing(&space, |_| {}).ops, 11, "what went before does not go again");

        let mut space = ready();
        space.parted.insert(device(2), (Root::from_bytes([1; 32]), Root::from_bytes([2; 32])));
        assert_eq!(holds(&space), [GcHold::Diverged { device: device(2) }]);

        let mut space = ready();
        space.met = Some(BTreeSet::from([device(2)]));
        let unmet = GcHold::Unmet { device: device(3) };
        assert_eq!(holds(&space), [unmet]);
        assert!(unmet.to_string().contains("came back from a backup"), "{unmet}");
        assert_eq!(space.gc_standing(None, NOW, 7 * DAY).holds, [GcHold::NoCheckpoint, unmet]);

        let mut space = ready();
        space.reissues.insert(log(1), Tip::NONE);
        assert_eq!(holds(&space), [GcHold::Rewriting { log: log(1) }]);

        let mut space = ready();
        let proof: ForkProof = super::super::stable::tests::fork(&space);
        space.proofs.insert(log(1), proof);
        assert_eq!(holds(&space), [GcHold::Disputed { log: log(1) }]);

        let nobody = BTreeSet::new();
        let mut unattested = standing(&ready(), |_| {});
        assert!(unattested.holds.is_empty());
        let attested_by = BTreeSet::from([device(2)]);
        let cut_of_all = cut(&[(1, 10, 1), (2, 5, 2)]);
        let proposal = Proposal {
            checkpoint: CHECKPOINT,
            cut: &cut_of_all,
            attested_by: &attested_by,
            whole_since: long_ago,
            vouched_since: long_ago,
        };
        unattested = ready().gc_standing(Some(&proposal), NOW, 7 * DAY);
        assert_eq!(unattested.holds, [GcHold::Unattested { device: device(1), since: long_ago }]);
        assert_eq!((unattested.is_vouched, unattested.vouched_since), (false, None));
        let proposal = Proposal { attested_by: &nobody, ..proposal };
        assert_eq!(ready().gc_standing(Some(&proposal), NOW, 7 * DAY).holds.len(), 2);

        let mut space = ready();
        ack_version(&mut space, 1, &[(1, 10, 1), (2, 5, 2)], FOLD_VERSION + 1);
        let other = GcHold::OtherRules { device: device(1), version: FOLD_VERSION + 1 };
        assert_eq!(
            space.gc_standing(Some(&Proposal { attested_by: &attested_by, ..proposal }), NOW, 7 * DAY).holds,
            [other]
        );
        assert!(other.to_string().contains("version 2 of the rules, and this program by 1"), "{other}");
        assert_eq!(holds(&space), [], "it has attested it before it was updated");

        let mut space = ready();
        ack(&mut space, 3, &[(1, 7, 1)], 0);
        let since = Some(Wall::from_millis(0));
        assert_eq!(holds(&space), [GcHold::NotHeld { device: device(3), ops: 8, since }]);
        space.acks.remove(&device(3));
        assert_eq!(holds(&space), [GcHold::NotHeld { device: device(3), ops: 15, since: None }]);
        set(&mut space, &Change::Dormant { device: device(3) });
        assert_eq!(holds(&space), [], "whoever is dormant is not waited for");

        let mut space = ready();
        ack_unknown(&mut space, 2, &[(1, 10, 1), (2, 5, 2)], 4);
        assert_eq!(holds(&space), [GcHold::Unknown { device: device(2), count: 4 }]);
    }

    #[test]
    fn the_grace_period_counts_from_when_all_had_vouched_and_a_clock_put_back_begins_it_anew() {
        let at = |since: Option<Wall>| {
            let standing = standing(&ready(), |proposal| proposal.vouched_since = since);
            (standing.holds, standing.vouched_since)
        };
        let grace = |until: Wall| vec![GcHold::Grace { until }];
        let ago = |time: Duration| Wall::from_millis(NOW.as_millis() - time.as_millis() as u64);

        assert_eq!(at(None), (grace(NOW.plus(7 * DAY)), Some(NOW)), "it is noted now");
        assert_eq!(at(Some(ago(6 * DAY))), (grace(NOW.plus(DAY)), Some(ago(6 * DAY))));
        assert_eq!(at(Some(ago(7 * DAY))), (vec![], Some(ago(7 * DAY))));
        assert_eq!(at(Some(NOW.plus(900 * DAY))), (grace(NOW.plus(7 * DAY)), Some(NOW)));
    }

    #[test]
    fn a_checkpoint_waits_for_its_time_beside_those_that_are_newer() {
        let grace = |day| GcHold::Grace { until: Wall::from_millis(day) };
        let unattested = GcHold::Unattested { device: device(1), since: None };
        let standing = |holds: &[GcHold]| GcStanding {
            holds: holds.to_vec(),
            ops: 1,
            is_vouched: true,
            vouched_since: None,
        };
        let of = |all: &[&[GcHold]], waived| {
            choose(&all.iter().map(|holds| standing(holds)).collect::<Vec<_>>(), waived)
        };
        assert_eq!(of(&[], false), None);
        assert_eq!(of(&[&[unattested], &[grace(9)], &[grace(8)]], false), Some(2), "its turn is next");
        assert_eq!(of(&[&[unattested], &[grace(9)], &[grace(8)]], true), Some(1), "the newest that may");
        assert_eq!(of(&[&[grace(9)], &[], &[]], false), Some(1));
        assert_eq!(of(&[&[unattested], &[grace(9), unattested]], true), Some(0));
        assert_eq!(of(&[&[GcHold::NothingNew]], true), Some(0));
    }

    #[test]
    fn a_message_names_the_first_few() {
        let hold = |n: u8| GcHold::Unknown { device: device(n), count: 4 };
        let text = told(&[GcHold::NoCheckpoint, hold(1), hold(2), hold(3), hold(1)]);

        assert!(text.starts_with("no checkpoint is whole here, "), "{text}");
        assert!(text.ends_with("cannot fold 4 ops, and 2 more"), "{text}");
        assert_eq!(told(&[GcHold::NoCheckpoint]), "no checkpoint is whole here");
    }

    #[test]
    fn a_checkpoint_is_due_after_enough_ops_or_a_day_and_later_for_each_device() {
        let hours = |hours: u64| Duration::from_secs(hours * 3_600);
        for (ops, age, rank, is_due) in [
            (10_000, 0, 0, true),
            (9_999, 23, 0, false),
            (1, 24, 0, true),
            (0, 9_999, 0, false),
            (10_000, 0, 1, false),
            (20_000, 0, 1, true),
            (1, 25, 1, false),
            (1, 26, 1, true),
            (u64::MAX, 0, u32::MAX, true),
        ] {
            assert_eq!(is_checkpoint_due(ops, hours(age), rank), is_due, "{ops} {age} {rank}");
        }
    }
}
