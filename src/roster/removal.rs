//! Which removals stand, and which records they make void.
//!
//! A removal strikes what its author could not have seen: the records of the device it removes that
//! are not in its past, and those of its *accomplices*, devices that only the removed device and
//! other accomplices added outside that past. Whatever the removed device signs later, however far
//! back it dates it, is struck, since nothing it signs can be in the past of a record that exists.
//!
//! Removals strike each other too. Two that would strike one another both stand, so neither of two
//! admins who remove each other gains by being the quicker forger. For the rest, a removal stands
//! once every one that strikes it has fallen, and falls once one that strikes it stands or nothing
//! entitles its author; a ring of removals is broken at the author who was enrolled earliest. Of
//! the removals that would take a space's last admin, those of the one enrolled earliest fall.
//!
//! All of this is a function of the set of records. See `manual/formats.md` §5.

use std::collections::{BTreeMap, BTreeSet};

use super::content::Content;
use super::dag::{Dag, grant};
use super::grants::Grants;
use super::nodes::NodeSet;
use super::role::Role;
use crate::model::DeviceId;

/// What the removals among a set of records come to.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdict {
    /// The removals that stand, in the order records count.
    pub effective: Vec<usize>,
    /// The records they make void.
    pub void: NodeSet,
    /// The grants that are left.
    pub grants: Grants,
    /// Every grant that was admitted, void or not.
    pub admitted: Grants,
}

impl Verdict {
    /// Weighs the removals of `dag`.
    pub fn of(dag: &Dag) -> Self {
        let mut court = Court::summon(dag);
        loop {
            court.weigh();
            let verdict = court.verdict();
            match court.indispensable(&verdict) {
                // Its removals fall from the start: what they had struck counts again.
                Some(device) => court.spare(device),
                None => return verdict,
            }
        }
    }
}

/// A removal by a device that may have been entitled to write it.
struct Case {
    at: usize,
    author: DeviceId,
    target: DeviceId,
    strikes: NodeSet,
    /// Removals that would strike this one as it would strike them.
    opponents: BTreeSet<usize>,
    standing: Standing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Open,
    Stands,
    Falls,
}

struct Court<'a> {
    dag: &'a Dag,
    /// In the order records count.
    cases: Vec<Case>,
    /// The place of each node in that order.
    rank: Vec<usize>,
    admitted: Grants,
    spared: BTreeSet<DeviceId>,
}

impl<'a> Court<'a> {
    fn summon(dag: &'a Dag) -> Self {
        let mut rank = vec![0; dag.len()];
        dag.ranked().enumerate().for_each(|(place, at)| rank[at] = place);
        let admitted = Grants::valid(dag, &NodeSet::default());
        let mut cases: Vec<Case> = dag
            .ranked()
            .filter_map(|at| {
                let Content::RemoveDevice(removed) = dag.node(at).record.content() else { return None };
                let author = dag.node(at).record.author();
                let case = Case {
                    at,
                    author,
                    target: removed.device,
                    strikes: NodeSet::default(),
                    opponents: BTreeSet::new(),
                    standing: Standing::Open,
                };
                case.is_entitled(dag, &admitted).then_some(case)
            })
            .collect();
        if !cases.is_empty() {
            let deeds = Deeds::of(dag);
            cases.iter_mut().for_each(|case| case.strikes = deeds.struck_by(dag, case));
            reconcile(&mut cases);
        }
        Self { dag, cases, rank, admitted, spared: BTreeSet::new() }
    }

    /// Decides every case.
    fn weigh(&mut self) {
        for case in &mut self.cases {
            case.standing = Standing::Open;
            if self.spared.contains(&case.target) {
                case.standing = Standing::Falls;
            }
        }
        while self.cases.iter().any(|case| case.standing == Standing::Open) {
            let shared = Bounds::of(self, &BTreeSet::new());
            let decided = self.judge_open(&shared);
            let is_ring = decided.iter().all(|(_, standing)| *standing == Standing::Open);
            for (index, standing) in decided {
                self.cases[index].standing = standing;
            }
            if is_ring {
                self.break_ring(&shared);
            }
        }
    }

    fn judge_open(&self, shared: &Bounds) -> Vec<(usize, Standing)> {
        // Whoever floods a roster with removals has the same opponents in all of them.
        let mut of_opponents: BTreeMap<&BTreeSet<usize>, Bounds> = BTreeMap::new();
        let mut decided = Vec::new();
        for (index, case) in self.cases.iter().enumerate() {
            if case.standing != Standing::Open {
                continue;
            }
            let standing = if case.opponents.is_empty() || case.is_entitled(self.dag, &shared.certain) {
                shared.judge(self.dag, case)
            } else {
                let own =
                    of_opponents.entry(&case.opponents).or_insert_with(|| Bounds::of(self, &case.opponents));
                own.judge(self.dag, case)
            };
            decided.push((index, standing));
        }
        decided
    }

    /// Lets the open case stand whose author was enrolled earliest.
    fn break_ring(&mut self, bounds: &Bounds) {
        let seniority = |case: &Case| {
            let past = &self.dag.node(case.at).past;
            let enrolled = bounds.hopeful.admin_in(&case.author, past).map_or(usize::MAX, |at| self.rank[at]);
            (enrolled, self.rank[case.at])
        };
        let open = self.cases.iter().enumerate().filter(|(_, case)| case.standing == Standing::Open);
        if let Some((index, _)) = open.min_by_key(|(_, case)| seniority(case)) {
            self.cases[index].standing = Standing::Stands;
        }
    }

    fn verdict(&self) -> Verdict {
        let standing = || self.cases.iter().filter(|case| case.standing == Standing::Stands);
        let mut void = NodeSet::default();
        standing().for_each(|case| void.merge(&case.strikes));
        let admitted = self.admitted.clone();
        if self.cases.is_empty() {
            return Verdict { effective: Vec::new(), void, grants: admitted.clone(), admitted };
        }
        // What broke a ring stands although another that stands strikes it.
        standing().for_each(|case| void.remove(case.at));
        let effective = standing().map(|case| case.at).collect();
        Verdict { effective, grants: Grants::valid(self.dag, &void), void, admitted }
    }

    /// The admin that has to stay because otherwise none would.
    ///
    /// Of the admins whose removals no other removal of an admin had seen, the one enrolled
    /// earliest: who was gone before the others fell out does not come back.
    fn indispensable(&self, verdict: &Verdict) -> Option<DeviceId> {
        let grant = |device: &DeviceId| verdict.grants.best(device);
        let gone: BTreeSet<DeviceId> = verdict.effective.iter().map(|at| target(self.dag, *at)).collect();
        let is_admin = |device: &DeviceId| grant(device).is_some_and(|(_, role)| role == Role::Admin);
        if verdict.grants.devices().any(|device| !gone.contains(device) && is_admin(device)) {
            return None;
        }
        let of_admins: Vec<usize> =
            verdict.effective.iter().copied().filter(|at| is_admin(&target(self.dag, *at))).collect();
        let seen = |at: usize, by: usize| at != by && self.dag.node(by).past.contains(at);
        let repeats = |at: usize| {
            let device = target(self.dag, at);
            of_admins.iter().any(|other| target(self.dag, *other) == device && seen(*other, at))
        };
        let first: Vec<usize> = of_admins.iter().copied().filter(|at| !repeats(*at)).collect();
        first
            .iter()
            .filter(|at| !first.iter().any(|other| seen(**at, *other)))
            .map(|at| target(self.dag, *at))
            .min_by_key(|device| grant(device).map(|(at, _)| self.rank[at]))
    }

    fn spare(&mut self, device: DeviceId) {
        self.spared.insert(device);
    }
}

impl Case {
    /// Whether these grants entitle the author: to remove others as an admin, itself as any device.
    fn is_entitled(&self, dag: &Dag, grants: &Grants) -> bool {
        let past = &dag.node(self.at).past;
        let is_own = self.author == self.target && grants.role_in(&self.author, past).is_some();
        is_own || grants.admin_in(&self.author, past).is_some()
    }
}

/// What is void and granted at least and at most, while cases are open.
struct Bounds {
    void_least: NodeSet,
    void_most: NodeSet,
    /// Grants that hold if all open cases fall.
    hopeful: Grants,
    /// Grants that hold even if all open cases stand.
    certain: Grants,
}

impl Bounds {
    /// With what these opponents of a case strike left out: it does not weigh against the case.
    fn of(court: &Court<'_>, opponents: &BTreeSet<usize>) -> Self {
        let (mut void_least, mut void_most) = (NodeSet::default(), NodeSet::default());
        for (_, case) in court.cases.iter().enumerate().filter(|(index, _)| !opponents.contains(index)) {
            match case.standing {
                Standing::Falls => {}
                Standing::Open => void_most.merge(&case.strikes),
                Standing::Stands => {
                    void_least.merge(&case.strikes);
                    void_most.merge(&case.strikes);
                }
            }
        }
        let hopeful = Grants::valid(court.dag, &void_least);
        let certain = Grants::valid(court.dag, &void_most);
        Self { void_least, void_most, hopeful, certain }
    }

    fn judge(&self, dag: &Dag, case: &Case) -> Standing {
        if self.void_least.contains(case.at) || !case.is_entitled(dag, &self.hopeful) {
            Standing::Falls
        } else if !self.void_most.contains(case.at) && case.is_entitled(dag, &self.certain) {
            Standing::Stands
        } else {
            Standing::Open
        }
    }
}

/// Who wrote what, and who added whom.
struct Deeds {
    written: BTreeMap<DeviceId, NodeSet>,
    /// Author → the devices it added, with the records.
    added: BTreeMap<DeviceId, Vec<(usize, DeviceId)>>,
    /// Device → who added it, with the records.
    added_by: BTreeMap<DeviceId, Vec<(usize, DeviceId)>>,
}

impl Deeds {
    fn of(dag: &Dag) -> Self {
        let (mut written, mut added, mut added_by) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for at in dag.ranked() {
            let record = &dag.node(at).record;
            let author = record.author();
            let set: &mut NodeSet = written.entry(author).or_default();
            set.insert(at);
            if let Some((device, _)) = grant(record) {
                let grants: &mut Vec<_> = added.entry(author).or_default();
                grants.push((at, device));
                let grants: &mut Vec<_> = added_by.entry(device).or_default();
                grants.push((at, author));
            }
        }
        Self { written, added, added_by }
    }

    fn struck_by(&self, dag: &Dag, case: &Case) -> NodeSet {
        let past = &dag.node(case.at).past;
        let mut struck = NodeSet::default();
        for device in self.party(&case.target, past) {
            if let Some(written) = self.written.get(&device) {
                struck.merge(written);
            }
        }
        struck.subtract(past);
        struck
    }

    /// A device and its accomplices: those that, outside `past`, only they have added.
    fn party(&self, device: &DeviceId, past: &NodeSet) -> BTreeSet<DeviceId> {
        let is_new = |device: &DeviceId| {
            self.added_by.get(device).is_none_or(|grants| grants.iter().all(|(at, _)| !past.contains(*at)))
        };
        let mut party = BTreeSet::from([*device]);
        let mut next = vec![*device];
        while let Some(author) = next.pop() {
            for (_, added) in self.added.get(&author).into_iter().flatten() {
                if is_new(added) && party.insert(*added) {
                    next.push(*added);
                }
            }
        }
        // Whom anyone else has added as well is nobody's accomplice, nor is who came by it.
        loop {
            let others: BTreeSet<DeviceId> = party
                .iter()
                .filter(|member| *member != device)
                .filter(|member| self.added_by[*member].iter().any(|(_, author)| !party.contains(author)))
                .copied()
                .collect();
            if others.is_empty() {
                return party;
            }
            party.retain(|member| !others.contains(member));
        }
    }
}

/// Makes opponents of removals that strike each other.
fn reconcile(cases: &mut [Case]) {
    let mut removals = NodeSet::default();
    cases.iter().for_each(|case| removals.insert(case.at));
    let index_of: BTreeMap<usize, usize> =
        cases.iter().enumerate().map(|(index, case)| (case.at, index)).collect();
    let mut pairs = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        for at in case.strikes.common(&removals) {
            let other = index_of[&at];
            if index < other && cases[other].strikes.contains(case.at) {
                pairs.push((index, other));
            }
        }
    }
    for (one, other) in pairs {
        let (one_at, other_at) = (cases[one].at, cases[other].at);
        cases[one].strikes.remove(other_at);
        cases[one].opponents.insert(other);
        cases[other].strikes.remove(one_at);
        cases[other].opponents.insert(one);
    }
}

/// Whom the removal at `at` removes.
pub(super) fn target(dag: &Dag, at: usize) -> DeviceId {
    let Content::RemoveDevice(removed) = dag.node(at).record.content() else {
        unreachable!("only removals are asked for whom they remove")
    };
    removed.device
}
