//! What every active device holds: the stable frontier, and whose state is another one.

use std::collections::BTreeMap;

use super::effect::Notice;
use super::engine::Engine;
use super::space::SpaceState;
use crate::model::{DeviceId, Frontier, LogId, Root, SpaceId, Tip};
use crate::oplog::ForkProof;
use crate::wire::AckFields;

/// The roots that two devices signed for one and the same history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Divergence {
    /// The other device.
    pub device: DeviceId,
    /// The root here.
    pub ours: Root,
    /// The root there.
    pub theirs: Root,
}

impl Engine {
    /// How far every active device of a space holds each log durably, and those that read have folded
    /// it: the pointwise minimum of their newest acks. A log whose history is in dispute is left out.
    ///
    /// Dormant devices are not waited for; blind ones are, they hold what readers may ask them for.
    /// `None` where an active device has never said what it holds, or where none is active.
    pub fn stable_frontier(&self, space: SpaceId) -> Option<Frontier> {
        self.spaces.get(&space)?.stable_frontier()
    }

    /// Active devices that have never said what they hold of a space: nothing is stable before.
    pub fn silent(&self, space: SpaceId) -> Vec<DeviceId> {
        let Some(state) = self.spaces.get(&space) else { return Vec::new() };
        state.active().filter(|device| !state.acks.contains_key(device)).collect()
    }

    /// Devices that have signed another root than this one for the same history: the fold went wrong
    /// somewhere, and nothing may be thrown away until it is known where.
    ///
    /// It stays until both have signed equal roots for one history, however far they go on meanwhile.
    pub fn diverged(&self, space: SpaceId) -> Vec<Divergence> {
        let Some(state) = self.spaces.get(&space) else { return Vec::new() };
        let parted = state.parted.iter();
        parted
            .map(|(device, (ours, theirs))| Divergence { device: *device, ours: *ours, theirs: *theirs })
            .collect()
    }

    /// Compares what this device signed last with what the others did, after either has changed.
    pub(super) fn compare_roots(&mut self, space: SpaceId) {
        let own = self.identity.device();
        let Some(state) = self.spaces.get_mut(&space) else { return };
        for device in state.compare_roots(&own) {
            self.notice(Notice::Diverged { space, device });
        }
    }
}

impl SpaceState {
    fn stable_frontier(&self) -> Option<Frontier> {
        let acks: Vec<&Frontier> =
            self.active().map(|device| self.ack_frontier(&device)).collect::<Option<_>>()?;
        let (first, others) = acks.split_first()?;
        let stable = |(log, tip): (&LogId, &Tip)| {
            let least = others.iter().try_fold(*tip, |least, ack| lesser(least, ack.tip(log)))?;
            (!self.is_disputed(log)).then_some((*log, least))
        };
        Some(first.iter().filter_map(stable).collect())
    }

    /// Whether two histories of a log are proved and no word has been given which one stands. Where they part below
    /// the base, that is settled: what comes after it continues the history that it is of.
    pub fn is_disputed(&self, log: &LogId) -> bool {
        let is_open = |proof: &ForkProof| proof.place() > self.floor(log).seq;
        self.proofs.get(log).is_some_and(is_open) && self.roster.branches_of(log).next().is_none()
    }

    /// Notes whose root for the same history is another one; those found just now.
    pub fn compare_roots(&mut self, own: &DeviceId) -> Vec<DeviceId> {
        let Some(ours) = self.acks.get(own).map(|held| *held.ack.fields()) else { return Vec::new() };
        let mut found = Vec::new();
        let others = self.acks.iter().filter(|(device, _)| *device != own);
        for (device, theirs) in others.map(|(device, held)| (*device, held.ack.fields())) {
            if !is_comparable(&ours, theirs) {
                continue;
            }
            if ours.root == theirs.root {
                self.parted.remove(&device);
            } else if self.parted.insert(device, (ours.root, theirs.root)).is_none() {
                found.push(device);
            }
        }
        let roster = &self.roster;
        self.parted.retain(|device, _| roster.role_of(device).is_some());
        found
    }

    /// The devices that are waited for.
    pub fn active(&self) -> impl Iterator<Item = DeviceId> {
        self.roster.members().filter(|member| !member.is_dormant()).map(|member| member.device)
    }

    fn ack_frontier(&self, device: &DeviceId) -> Option<&Frontier> {
        self.acks.get(device).map(|held| &held.frontier)
    }
}

/// Devices whose roots part, with the root here and there.
pub(super) type Parted = BTreeMap<DeviceId, (Root, Root)>;

/// Roots say something of each other only where everything is equal that a state is a function of.
fn is_comparable(ours: &AckFields, theirs: &AckFields) -> bool {
    theirs.frontier_digest == ours.frontier_digest
        && theirs.roster_digest == ours.roster_digest
        && theirs.fold_version == ours.fold_version
        && theirs.checkpoint == ours.checkpoint
        && (theirs.unknown_count, ours.unknown_count) == (0, 0)
}

/// What two devices both hold of a log; `None` where they hold different histories up to one place.
fn lesser(a: Tip, b: Tip) -> Option<Tip> {
    match a.seq.cmp(&b.seq) {
        std::cmp::Ordering::Less => Some(a),
        std::cmp::Ordering::Greater => Some(b),
        std::cmp::Ordering::Equal => (a.hash == b.hash).then_some(a),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::crypto::{EpochKey, Identity, SealInput, Sealer};
    use crate::model::{Hlc, Incarnation, Scope, Seq, TipHash, Wall};
    use crate::roster::{Admit, Author, Change, NewDevice, Role, Roster};
    use crate::sync::space::HeldAck;
    use crate::wire::Ack;

    fn identity(n: u8) -> Identity {
        Identity::from_secret(&[n; 32])
    }

    pub(in crate::sync) fn device(n: u8) -> DeviceId {
        identity(n).device()
    }

    pub(in crate::sync) fn log(n: u8) -> LogId {
        LogId { device: device(n), incarnation: Incarnation::new(1) }
    }

    /// A space with devices 1 and 2, and 3, which is blind; this one is 1.
    pub(in crate::sync) fn space() -> SpaceState {
        let (first, key) = (identity(1), EpochKey::from_bytes([7; 32]));
        let author = Author { identity: &first, key: &key, hlc: Hlc::new(1), entropy: [5; 32] };
        let (mut roster, _) = Roster::found(&author, &Scope::Personal, "one").unwrap();
        for (n, role) in [(2, Role::Member), (3, Role::Blind)] {
            let new = NewDevice { device: device(n), role, name: "another" };
            let record = roster.add_device(&author, &new).unwrap();
            assert!(matches!(roster.admit(record), Ok(Admit::New { .. })));
        }
        SpaceState::new(Scope::Personal, roster, log(1))
    }

    pub(in crate::sync) fn set(space: &mut SpaceState, change: &Change<'_>) {
        let (first, key) = (identity(1), EpochKey::from_bytes([7; 32]));
        let hlc = Hlc::new(space.roster.generation() + 10);
        let author = Author { identity: &first, key: &key, hlc, entropy: [6; 32] };
        let record = space.roster.write(&author, change).unwrap();
        assert!(matches!(space.roster.admit(record), Ok(Admit::New { .. })));
    }

    fn fields(space: &SpaceState, tips: &[(u8, u64, u8)], root: u8) -> (AckFields, Frontier) {
        let tip = |seq, hash| Tip { seq: Seq::new(seq), hash: TipHash::from_bytes([hash; 32]) };
        let frontier: Frontier = tips.iter().map(|(n, seq, hash)| (log(*n), tip(*seq, *hash))).collect();
        let fields = AckFields {
            scope: space.tag,
            device: device(1),
            number: 1,
            wall: Wall::from_millis(0),
            frontier_digest: frontier.digest(),
            op_count: frontier.op_count(),
            roster_digest: space.roster.digest(),
            root: Root::from_bytes([root; 32]),
            unknown_count: 0,
            fold_version: 1,
            checkpoint: None,
        };
        (fields, frontier)
    }

    /// A device says that it holds these logs up to these places, with a root.
    pub(in crate::sync) fn ack(space: &mut SpaceState, by: u8, tips: &[(u8, u64, u8)], root: u8) {
        let (fields, frontier) = fields(space, tips, root);
        keep(space, by, fields, frontier);
    }

    /// As [`ack`], with ops that the device cannot fold.
    pub(in crate::sync) fn ack_unknown(space: &mut SpaceState, by: u8, tips: &[(u8, u64, u8)], count: u64) {
        let (fields, frontier) = fields(space, tips, 1);
        keep(space, by, AckFields { unknown_count: count, ..fields }, frontier);
    }

    /// As [`ack`], by a program that folds by other rules.
    pub(in crate::sync) fn ack_version(space: &mut SpaceState, by: u8, tips: &[(u8, u64, u8)], version: u32) {
        let (fields, frontier) = fields(space, tips, 1);
        keep(space, by, AckFields { fold_version: version, ..fields }, frontier);
    }

    /// Two histories of the log of device 1.
    pub(in crate::sync) fn fork(space: &SpaceState) -> ForkProof {
        let witness = |entropy| {
            let (identity, key) = (identity(1), EpochKey::from_bytes([7; 32]));
            let input = SealInput {
                scope: space.tag,
                log: log(1),
                first: Seq::new(1),
                op_count: 2,
                roster_gen: 1,
                prev: TipHash::NONE,
                body: b"two ops",
                entropy: [entropy; 32],
            };
            Sealer::new(&identity).seal(&identity, &key, &input).witness()
        };
        ForkProof::new(&witness(1), &witness(2)).unwrap()
    }

    fn keep(space: &mut SpaceState, by: u8, fields: AckFields, frontier: Frontier) {
        let ack = Ack::sign(&identity(by), fields);
        space.acks.insert(device(by), HeldAck { ack, frontier, is_stored: false });
    }

    fn stable(space: &SpaceState) -> Option<Vec<(u8, u64)>> {
        let number = |log: &LogId| (1..=3).find(|n| device(*n) == log.device).unwrap();
        let stable = space.stable_frontier()?;
        let mut seqs: Vec<(u8, u64)> = stable.iter().map(|(log, tip)| (number(log), tip.seq.get())).collect();
        seqs.sort_unstable();
        Some(seqs)
    }

    #[test]
    fn stable_is_what_every_active_device_has_acknowledged() {
        let mut space = space();
        ack(&mut space, 1, &[(1, 10, 1), (2, 5, 2)], 1);
        ack(&mut space, 2, &[(1, 7, 3), (2, 6, 4)], 1);
        assert_eq!(stable(&space), None, "the blind one has said nothing yet");

        ack(&mut space, 3, &[(1, 10, 1)], 0);
        assert_eq!(stable(&space), Some(vec![(1, 7)]), "of the other log the blind one has nothing");
        ack(&mut space, 3, &[(1, 10, 1), (2, 6, 4)], 0);
        assert_eq!(stable(&space), Some(vec![(1, 7), (2, 5)]));

        set(&mut space, &Change::Dormant { device: device(2) });
        assert_eq!(stable(&space), Some(vec![(1, 10), (2, 5)]), "whoever is dormant is not waited for");
        set(&mut space, &Change::Active { device: device(2) });
        assert_eq!(stable(&space), Some(vec![(1, 7), (2, 5)]));
        for n in 1..=3 {
            set(&mut space, &Change::Dormant { device: device(n) });
        }
        assert_eq!(stable(&space), None, "nobody is active");
    }

    #[test]
    fn a_log_with_two_histories_is_not_stable() {
        let mut space = space();
        for (by, hash) in [(1, 1), (2, 9), (3, 1)] {
            ack(&mut space, by, &[(1, 4, hash), (2, 4, 2)], 1);
        }

        assert_eq!(stable(&space), Some(vec![(2, 4)]));
    }

    #[test]
    fn the_alarm_is_raised_by_another_root_for_the_same_and_stays_until_the_roots_are_equal() {
        let mut space = space();
        let own = device(1);
        let tips = [(1, 4, 1)];
        ack(&mut space, 1, &tips, 1);
        ack(&mut space, 2, &tips, 1);
        assert_eq!(space.compare_roots(&own), []);

        ack(&mut space, 2, &tips, 2);
        assert_eq!(space.compare_roots(&own), [device(2)]);
        assert_eq!(space.compare_roots(&own), [], "it is told once");
        let roots = |n| Root::from_bytes([n; 32]);
        assert_eq!(space.parted, Parted::from([(device(2), (roots(1), roots(2)))]));

        ack(&mut space, 1, &[(1, 5, 1)], 3);
        space.compare_roots(&own);
        assert_eq!(space.parted.len(), 1, "that one is ahead says nothing");
        ack(&mut space, 2, &[(1, 5, 1)], 3);
        space.compare_roots(&own);
        assert!(space.parted.is_empty());
    }

    #[test]
    fn roots_of_different_things_are_not_compared() {
        let mut space = space();
        let tips = [(1, 4, 1)];
        ack(&mut space, 1, &tips, 1);
        let (good, frontier) = fields(&space, &tips, 2);
        let others = [
            AckFields { fold_version: 2, ..good },
            AckFields { unknown_count: 1, ..good },
            AckFields { roster_digest: [9; 32], ..good },
            AckFields { frontier_digest: [9; 32], ..good },
            AckFields { checkpoint: Some([9; 32]), ..good },
        ];
        for other in others {
            keep(&mut space, 2, other, frontier.clone());
            assert_eq!(space.compare_roots(&device(1)), [], "{other:?}");
        }

        keep(&mut space, 2, good, frontier);
        assert_eq!(space.compare_roots(&device(1)), [device(2)]);
        let removed = Change::Remove { device: device(2), cut: &BTreeMap::new() };
        set(&mut space, &removed);
        space.compare_roots(&device(1));
        assert!(space.parted.is_empty(), "a device that is removed has no say");
    }
}
