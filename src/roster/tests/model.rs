//! The rules said again, slowly, over plain sets; random histories in random order must agree.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::content::{Dormant, RemoveDevice, Rename, RotateKey};
use super::super::dag::grant;
use super::*;

type Set = BTreeSet<RecordHash>;

/// What must be equal whatever the order of arrival.
#[derive(Debug, PartialEq)]
struct Outcome {
    members: Vec<Member>,
    removed: Vec<Removed>,
    admins: Vec<DeviceId>,
    epoch: Epoch,
    rotated_at: Hlc,
    is_rotation_due: bool,
    key_ids: BTreeSet<KeyId>,
    branches: Vec<(LogId, Tip)>,
}

impl Outcome {
    fn of(roster: &Roster) -> Self {
        Self {
            members: roster.members().cloned().collect(),
            removed: roster.removed().cloned().collect(),
            admins: roster.facts.admins.clone(),
            epoch: roster.epoch(),
            rotated_at: roster.rotated_at(),
            is_rotation_due: roster.is_rotation_due(),
            key_ids: roster.key_ids().collect(),
            branches: roster.branches().map(|branch| (branch.log, branch.tip)).collect(),
        }
    }
}

/// The records of a roster in order, each with what it had seen.
struct Model {
    records: Vec<Record>,
    past: BTreeMap<RecordHash, Set>,
}

impl Model {
    fn of(roster: &Roster) -> Self {
        let records: Vec<Record> = roster.dag.in_order().cloned().collect();
        let mut past: BTreeMap<RecordHash, Set> = BTreeMap::new();
        for record in &records {
            let mut seen: Set = record.parents().iter().copied().collect();
            for parent in record.parents() {
                seen.extend(&past[parent]);
            }
            past.insert(record.hash(), seen);
        }
        Self { records, past }
    }

    fn has_seen(&self, record: &Record, other: &Record) -> bool {
        self.past[&record.hash()].contains(&other.hash())
    }

    fn place(&self, record: &Record) -> usize {
        self.records.iter().position(|other| other.hash() == record.hash()).unwrap()
    }

    /// The records that give a device a role, with it.
    fn grants(&self, device: DeviceId) -> impl Iterator<Item = (&Record, Role)> {
        self.records.iter().filter_map(move |record| {
            grant(record).filter(|(granted, _)| *granted == device).map(|(_, role)| (record, role))
        })
    }

    /// Every device any record adds.
    fn devices(&self) -> BTreeSet<DeviceId> {
        self.records.iter().filter_map(grant).map(|(device, _)| device).collect()
    }

    fn is_valid(&self, granting: &Record, void: &Set) -> bool {
        granting.parents().is_empty()
            || !void.contains(&granting.hash())
                && self.role_seen(granting, granting.author(), void) == Some(Role::Admin)
    }

    /// The greatest role by valid grants that `record` had seen.
    fn role_seen(&self, record: &Record, device: DeviceId, void: &Set) -> Option<Role> {
        let seen = self.grants(device).filter(|(granting, _)| self.has_seen(record, granting));
        seen.filter(|(granting, _)| self.is_valid(granting, void)).map(|(_, role)| role).max()
    }

    fn is_entitled(&self, removal: &Record, void: &Set) -> bool {
        let role = self.role_seen(removal, removal.author(), void);
        role == Some(Role::Admin) || removal.author() == target_of(removal) && role.is_some()
    }

    /// The removed device and those whom, outside the removal's past, nobody else has added.
    fn party(&self, removal: &Record) -> BTreeSet<DeviceId> {
        let device = target_of(removal);
        let mut party: BTreeSet<DeviceId> = self
            .devices()
            .into_iter()
            .filter(|other| self.grants(*other).all(|(granting, _)| !self.has_seen(removal, granting)))
            .chain([device])
            .collect();
        loop {
            let outsider = party
                .iter()
                .find(|other| {
                    let mut grants = self.grants(**other);
                    **other != device && grants.any(|(granting, _)| !party.contains(&granting.author()))
                })
                .copied();
            match outsider {
                Some(outsider) => party.remove(&outsider),
                None => return party,
            };
        }
    }

    /// Whether one record lies in what a removal strikes.
    fn strikes(&self, removal: &Record, record: &Record) -> bool {
        removal.hash() != record.hash()
            && !self.has_seen(removal, record)
            && self.party(removal).contains(&record.author())
    }

    fn void_by(&self, removals: &[&Record]) -> Set {
        let strike = |removal: &Record, record: &Record| {
            self.strikes(removal, record) && !(is_removal(record) && self.strikes(record, removal))
        };
        self.records
            .iter()
            .filter(|record| removals.iter().any(|removal| strike(removal, record)))
            .map(Record::hash)
            .collect()
    }

    /// What of `others` weighs against a removal: not those it strikes as they strike it.
    fn against<'a>(&self, removal: &Record, others: &[&'a Record]) -> Vec<&'a Record> {
        let is_mutual = |other: &Record| self.strikes(removal, other) && self.strikes(other, removal);
        others.iter().filter(|other| !is_mutual(other)).copied().collect()
    }

    /// The removals that stand.
    fn effective(&self) -> Vec<&Record> {
        let mut spared: BTreeSet<DeviceId> = BTreeSet::new();
        loop {
            let standing = self.weighed(&spared);
            match self.indispensable(&standing) {
                Some(device) => spared.insert(device),
                None => return standing,
            };
        }
    }

    fn weighed(&self, spared: &BTreeSet<DeviceId>) -> Vec<&Record> {
        let mut open: Vec<&Record> = self
            .records
            .iter()
            .filter(|record| is_removal(record) && self.is_entitled(record, &Set::new()))
            .filter(|record| !spared.contains(&target_of(record)))
            .collect();
        let mut standing: Vec<&Record> = Vec::new();
        while !open.is_empty() {
            let all: Vec<&Record> = standing.iter().chain(&open).copied().collect();
            let (mut stand, mut fall) = (Set::new(), Set::new());
            for case in &open {
                let least = self.void_by(&self.against(case, &standing));
                let most = self.void_by(&self.against(case, &all));
                if least.contains(&case.hash()) || !self.is_entitled(case, &least) {
                    fall.insert(case.hash());
                } else if !most.contains(&case.hash()) && self.is_entitled(case, &most) {
                    stand.insert(case.hash());
                }
            }
            if stand.is_empty() && fall.is_empty() {
                let least = self.void_by(&standing);
                let senior = open.iter().min_by_key(|case| {
                    let mut grants = self.grants(case.author());
                    let enrolled = grants.find(|(granting, role)| {
                        *role == Role::Admin
                            && self.has_seen(case, granting)
                            && self.is_valid(granting, &least)
                    });
                    (enrolled.map_or(usize::MAX, |(granting, _)| self.place(granting)), self.place(case))
                });
                stand.insert(senior.unwrap().hash());
            }
            standing.extend(open.iter().filter(|case| stand.contains(&case.hash())));
            open.retain(|case| !stand.contains(&case.hash()) && !fall.contains(&case.hash()));
        }
        standing.sort_by_key(|removal| self.place(removal));
        standing
    }

    fn void(&self, standing: &[&Record]) -> Set {
        let mut void = self.void_by(standing);
        void.retain(|hash| !standing.iter().any(|removal| removal.hash() == *hash));
        void
    }

    /// The first grant of the greatest valid role.
    fn best(&self, device: DeviceId, void: &Set) -> Option<(&Record, Role)> {
        let valid = || self.grants(device).filter(|(granting, _)| self.is_valid(granting, void));
        let role = valid().map(|(_, role)| role).max()?;
        valid().find(|(_, other)| *other == role)
    }

    fn is_admin(&self, device: DeviceId, void: &Set) -> bool {
        self.best(device, void).is_some_and(|(_, role)| role == Role::Admin)
    }

    fn indispensable(&self, standing: &[&Record]) -> Option<DeviceId> {
        let void = self.void(standing);
        let gone: BTreeSet<DeviceId> = standing.iter().map(|removal| target_of(removal)).collect();
        if self.devices().iter().any(|device| !gone.contains(device) && self.is_admin(*device, &void)) {
            return None;
        }
        let of_admins = || standing.iter().filter(|removal| self.is_admin(target_of(removal), &void));
        let first: Vec<&&Record> = of_admins()
            .filter(|removal| {
                !of_admins()
                    .any(|other| target_of(other) == target_of(removal) && self.has_seen(removal, other))
            })
            .collect();
        first
            .iter()
            .filter(|removal| !first.iter().any(|other| self.has_seen(other, removal)))
            .map(|removal| target_of(removal))
            .min_by_key(|device| self.place(self.best(*device, &void).unwrap().0))
    }

    fn speaks_for(&self, record: &Record, device: DeviceId, void: &Set) -> bool {
        let role = self.role_seen(record, record.author(), void);
        !void.contains(&record.hash())
            && (role == Some(Role::Admin) || record.author() == device && role.is_some())
    }

    fn name(&self, device: DeviceId, granting: &Record, void: &Set) -> SealedName {
        let renames = self.records[self.place(granting)..].iter().filter_map(|record| {
            let Content::Rename(rename) = record.content() else { return None };
            (rename.device == device && self.speaks_for(record, device, void)).then_some(&rename.name)
        });
        let granted = match granting.content() {
            Content::Genesis(genesis) => &genesis.name,
            Content::AddDevice(added) => &added.name,
            other => unreachable!("{other:?} grants nothing"),
        };
        renames.last().unwrap_or(granted).clone()
    }

    fn outcome(&self) -> Outcome {
        let standing = self.effective();
        let void = self.void(&standing);
        let gone: BTreeSet<DeviceId> = standing.iter().map(|removal| target_of(removal)).collect();
        let (mut members, mut removed) = (Vec::new(), Vec::new());
        for device in self.devices() {
            let best = self.best(device, &void);
            if gone.contains(&device) {
                let (granting, role) = best.or_else(|| self.best(device, &Set::new())).unwrap();
                let name_sealed = self.name(device, granting, &void);
                removed.push(self.removal(device, role, name_sealed, &standing));
            } else if let Some((granting, role)) = best {
                let dormancy = self.records.iter().filter_map(|record| match record.content() {
                    Content::Dormant(said) if said.device == device => {
                        let (since, by) = (record.hlc(), record.author());
                        Some((record, Some(Dormancy { since, by, after_days: said.after_days })))
                    }
                    Content::Active(of) if *of == device => Some((record, None)),
                    _ => None,
                });
                let said = dormancy.filter(|(record, _)| self.speaks_for(record, device, &void)).last();
                members.push(Member {
                    device,
                    role,
                    name_sealed: self.name(device, granting, &void),
                    added_by: granting.author(),
                    hlc: granting.hlc(),
                    dormancy: said.and_then(|(_, dormancy)| dormancy),
                });
            }
        }
        let mut admins: Vec<DeviceId> =
            members.iter().filter(|member| member.role == Role::Admin).map(|member| member.device).collect();
        admins.sort_by_key(|device| self.place(self.best(*device, &void).unwrap().0));
        let (epoch, rotated_at, is_rotation_due, key_ids) = self.epoch(&standing, &void);
        let branches = self.branches(&void);
        Outcome { members, removed, admins, epoch, rotated_at, is_rotation_due, key_ids, branches }
    }

    fn removal(
        &self,
        device: DeviceId,
        role: Role,
        name_sealed: SealedName,
        standing: &[&Record],
    ) -> Removed {
        let mut cut: BTreeMap<LogId, Tip> = BTreeMap::new();
        let own: Vec<&&Record> = standing.iter().filter(|removal| target_of(removal) == device).collect();
        for removal in &own {
            let Content::RemoveDevice(content) = removal.content() else { unreachable!("it is a removal") };
            for (log, tip) in &content.cut {
                let better = cut
                    .get(log)
                    .is_none_or(|kept| kept.seq < tip.seq || kept.seq == tip.seq && tip.hash < kept.hash);
                if better {
                    cut.insert(*log, *tip);
                }
            }
        }
        Removed { device, by: own[0].author(), hlc: own[0].hlc(), role, name_sealed, cut }
    }

    fn epoch(&self, standing: &[&Record], void: &Set) -> (Epoch, Hlc, bool, BTreeSet<KeyId>) {
        let Content::Genesis(genesis) = self.records[0].content() else { unreachable!("it comes first") };
        let (mut keys, mut counting) = (BTreeSet::from([genesis.name.key_id()]), Vec::new());
        for record in &self.records {
            let Content::RotateKey(rotated) = record.content() else { continue };
            if self.role_seen(record, record.author(), &Set::new()) == Some(Role::Admin) {
                keys.insert(rotated.key_id);
            }
            let is_admin = self.role_seen(record, record.author(), void) == Some(Role::Admin);
            if is_admin && !void.contains(&record.hash()) {
                counting.push((record, rotated));
            }
        }
        let is_head = |record: &Record| !counting.iter().any(|(other, _)| self.has_seen(other, record));
        let heads: Vec<_> = counting.iter().filter(|(record, _)| is_head(record)).collect();
        let newest = heads.last().map_or(&self.records[0], |(record, _)| *record);
        let was_told = |device: DeviceId| self.grants(device).any(|(_, role)| role.holds_keys());
        let is_excluded = |device: DeviceId| {
            standing.iter().any(|other| target_of(other) == device && self.has_seen(newest, other))
        };
        let holds = |removal: &&Record| was_told(target_of(removal)) && !is_excluded(target_of(removal));
        let is_due = heads.len() > 1 || standing.iter().any(holds);
        let epoch = match heads.as_slice() {
            [] => Epoch::Current { n: 0, key_id: genesis.name.key_id() },
            [(_, only)] => Epoch::Current { n: only.n, key_id: only.key_id },
            _ => Epoch::Contested { n: counting.iter().map(|(_, rotated)| rotated.n).max().unwrap() },
        };
        (epoch, newest.hlc(), is_due, keys)
    }

    fn branches(&self, void: &Set) -> Vec<(LogId, Tip)> {
        let valid: Vec<(&Record, &Branch)> = self
            .records
            .iter()
            .filter_map(|record| match record.content() {
                Content::SelectBranch(branch) => Some((record, branch)),
                _ => None,
            })
            .filter(|(record, branch)| record.author() == branch.log.device)
            .filter(|(record, branch)| self.speaks_for(record, branch.log.device, void))
            .collect();
        let place = |branch: &Branch| (branch.log, branch.base.seq, branch.base.hash);
        let is_superseded = |record: &Record, at| {
            valid.iter().any(|(other, branch)| place(branch) == at && self.has_seen(other, record))
        };
        let places: BTreeSet<_> = valid.iter().map(|(_, branch)| place(branch)).collect();
        places
            .into_iter()
            .map(|at| {
                let of_place =
                    valid.iter().filter(|(record, branch)| place(branch) == at && !is_superseded(record, at));
                (at.0, of_place.min_by_key(|(record, _)| record.hash()).unwrap().1.tip)
            })
            .collect()
    }
}

fn is_removal(record: &Record) -> bool {
    matches!(record.content(), Content::RemoveDevice(_))
}

fn target_of(removal: &Record) -> DeviceId {
    let Content::RemoveDevice(content) = removal.content() else { unreachable!("it is a removal") };
    content.device
}

/// One step of a random history: who signs what, having seen which of the last records.
#[derive(Clone, Debug)]
struct Step {
    by: u8,
    hlc: u64,
    parents: Vec<usize>,
    content: Content,
}

fn name(byte: u8) -> SealedName {
    SealedName { key_id: key().id(), blob: Bytes::from(vec![byte; 90]) }
}

fn content() -> impl Strategy<Value = Content> {
    let role = prop_oneof![3 => Just(Role::Admin), 1 => Just(Role::Member), 1 => Just(Role::Blind)];
    prop_oneof![
        5 => (1u8..8, role, any::<u8>()).prop_map(|(added, role, byte)| {
            Content::AddDevice(AddDevice { device: device(added), role, name: name(byte) })
        }),
        5 => (1u8..8, 1u64..4, 0u8..3).prop_map(|(removed, seq, link)| {
            let cut = BTreeMap::from([(log(removed, seq % 2), tip(seq, link))]);
            Content::RemoveDevice(RemoveDevice { device: device(removed), cut })
        }),
        1 => (1u8..8, any::<u8>()).prop_map(|(of, byte)| {
            Content::Rename(Rename { device: device(of), name: name(byte) })
        }),
        1 => (1u8..8, 0u16..3).prop_map(|(of, days)| match days {
            0 => Content::Active(device(of)),
            days => Content::Dormant(Dormant { device: device(of), after_days: NonZeroU16::new(days - 1) }),
        }),
        2 => (1u64..4, 0u8..9).prop_map(|(n, byte)| {
            Content::RotateKey(RotateKey { n, key_id: KeyId::from_bytes([byte; 16]), confirmations: Vec::new() })
        }),
        1 => (1u8..8, 2u64..5, 0u8..2).prop_map(|(of, seq, parting)| {
            Content::SelectBranch(Branch { log: log(of, 1), base: tip(1, parting + 1), first: tip(1, 7).hash, tip: tip(seq, 2) })
        }),
        1 => Just(Content::Unknown { kind: 8, body: Bytes::from_static(b"later") }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    (1u8..8, 0u64..6, proptest::collection::vec(any::<usize>(), 1..4), content())
        .prop_map(|(by, hlc, parents, content)| Step { by, hlc, parents, content })
}

/// The records of the steps, by devices of a space that has three admins and a member already.
fn build(steps: &[Step]) -> (SpaceId, Vec<Bytes>) {
    let start = space_of(&[(2, Role::Admin), (3, Role::Admin), (4, Role::Member)]);
    let mut records = start.missing_from(&[]);
    for step in steps {
        let parents: BTreeSet<RecordHash> = step
            .parents
            .iter()
            .map(|pick| record_hash(&records[records.len() - 1 - pick % records.len().min(7)]))
            .collect();
        let identity = identity(step.by);
        let draft = Draft {
            space: start.space(),
            author: identity.device(),
            hlc: Hlc::new(step.hlc),
            parents: parents.into_iter().collect(),
            content: step.content.clone(),
        };
        records.push(Record::sign(&identity, &draft));
    }
    (start.space(), records)
}

proptest! {
    #[test]
    fn any_order_of_arrival_comes_to_what_the_rules_say(
        steps in proptest::collection::vec(step(), 0..24),
        picks in proptest::collection::vec(any::<proptest::sample::Index>(), 1..80),
    ) {
        let (space, records) = build(&steps);
        let mut left: Vec<Bytes> = records.iter().chain(&records).cloned().collect();
        let (founder_only, _) = founded();
        let mut one_by_one = founder_only.clone();
        let mut shuffled = Vec::new();
        for pick in picks.iter().cycle() {
            if left.is_empty() {
                break;
            }
            let bytes = left.swap_remove(pick.index(left.len()));
            shuffled.push(bytes.clone());
            let _ = one_by_one.admit(bytes);
        }

        let mut at_once = founder_only;
        at_once.admit_all(shuffled);

        prop_assert_eq!(one_by_one.space(), space);
        let expect = Model::of(&one_by_one).outcome();
        prop_assert_eq!(&Outcome::of(&one_by_one), &expect);
        prop_assert_eq!(&Outcome::of(&at_once), &expect);
        prop_assert!(!expect.admins.is_empty(), "a space keeps an admin");
        prop_assert_eq!(one_by_one.digest(), at_once.digest());
    }
}
