//! Everything that follows from the set of records, derived afresh whenever it changes.

use std::collections::{BTreeMap, BTreeSet};

use super::content::{Branch, Content, Dormant, SealedName};
use super::dag::Dag;
use super::epoch::Epochs;
use super::host;
use super::removal::{Verdict, target};
use super::role::Role;
use super::{Dormancy, Member, Removed};
use crate::lease::Chain;
use crate::model::{DeviceId, LogId, Seq, Tip, TipHash};

/// The devices, keys and branches of a space.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub verdict: Verdict,
    pub members: BTreeMap<DeviceId, Member>,
    /// The admins, the earliest enrolled first.
    pub admins: Vec<DeviceId>,
    pub removed: BTreeMap<DeviceId, Removed>,
    /// Every device that a removal in effect names.
    banned: BTreeSet<DeviceId>,
    pub epochs: Epochs,
    pub branches: BTreeMap<Parting, Branch>,
    /// Who hosts the register of leases.
    pub hosts: Chain,
    pub unknown_count: u64,
}

impl Facts {
    pub fn of(dag: &Dag) -> Self {
        let verdict = Verdict::of(dag);
        let names = names(dag, &verdict);
        let removed = removed(dag, &verdict, &names);
        let members = members(dag, &verdict, &names, &removed);
        let unknown = |at: &usize| matches!(dag.node(*at).record.content(), Content::Unknown { .. });
        Self {
            admins: admins(dag, &verdict, &members),
            members,
            removed,
            banned: verdict.effective.iter().map(|at| target(dag, *at)).collect(),
            epochs: Epochs::of(dag, &verdict),
            branches: branches(dag, &verdict),
            hosts: host::chain(dag, &verdict),
            unknown_count: dag.ranked().filter(unknown).count() as u64,
            verdict,
        }
    }

    /// Whether a removal of this device stands, also where nothing ever added it.
    pub fn is_removed(&self, device: &DeviceId) -> bool {
        self.banned.contains(device)
    }

    /// What is kept of a removed device's logs. Nothing where only void records had added it, or as
    /// one that writes nothing.
    pub fn kept_cut(&self, device: &DeviceId) -> Option<&BTreeMap<LogId, Tip>> {
        let (_, role) = self.verdict.grants.best(device)?;
        self.removed.get(device).filter(|_| role.holds_keys()).map(|removed| &removed.cut)
    }

    /// The node that entitles a device to what it may do now.
    pub fn right_of(&self, device: &DeviceId) -> Option<usize> {
        self.verdict.grants.best(device).map(|(at, _)| at)
    }
}

/// The last name of every device that was ever added: that of its grant, or a later one.
fn names(dag: &Dag, verdict: &Verdict) -> BTreeMap<DeviceId, SealedName> {
    let named_at: BTreeMap<DeviceId, usize> = verdict
        .admitted
        .devices()
        .filter_map(|device| {
            let (at, _) = verdict.grants.best(device).or_else(|| verdict.admitted.best(device))?;
            Some((*device, at))
        })
        .collect();
    let mut names: BTreeMap<DeviceId, SealedName> = BTreeMap::new();
    for at in dag.ranked() {
        let (device, name) = match dag.node(at).record.content() {
            Content::Genesis(genesis) => (dag.node(at).record.author(), &genesis.name),
            Content::AddDevice(added) => (added.device, &added.name),
            // What came before the grant that counts is overwritten by it.
            Content::Rename(renamed) if may_speak_for(dag, verdict, at, &renamed.device) => {
                names.insert(renamed.device, renamed.name.clone());
                continue;
            }
            Content::RemoveDevice(_)
            | Content::Rename(_)
            | Content::Dormant(_)
            | Content::Active(_)
            | Content::RotateKey(_)
            | Content::DesignateHost(_)
            | Content::SelectBranch(_)
            | Content::Unknown { .. } => continue,
        };
        if named_at.get(&device) == Some(&at) {
            names.insert(device, name.clone());
        }
    }
    names
}

/// Whether the author of a record may rename a device, or call it dormant: the device itself and
/// every admin may.
pub(super) fn may_speak_for(dag: &Dag, verdict: &Verdict, at: usize, device: &DeviceId) -> bool {
    let node = dag.node(at);
    let (author, grants) = (node.record.author(), &verdict.grants);
    let is_own = author == *device && grants.role_in(&author, &node.past).is_some();
    !verdict.void.contains(at) && (is_own || grants.admin_in(&author, &node.past).is_some())
}

fn removed(
    dag: &Dag,
    verdict: &Verdict,
    names: &BTreeMap<DeviceId, SealedName>,
) -> BTreeMap<DeviceId, Removed> {
    let mut removed: BTreeMap<DeviceId, Removed> = BTreeMap::new();
    for at in &verdict.effective {
        let record = &dag.node(*at).record;
        let Content::RemoveDevice(content) = record.content() else { continue };
        let device = content.device;
        let grant = verdict.grants.best(&device).or_else(|| verdict.admitted.best(&device));
        // Whom nothing ever added has neither role nor name, and nothing to be cut.
        let (Some((_, role)), Some(name)) = (grant, names.get(&device)) else { continue };
        let entry = removed.entry(device).or_insert_with(|| Removed {
            device,
            by: record.author(),
            hlc: record.hlc(),
            role,
            name_sealed: name.clone(),
            cut: BTreeMap::new(),
        });
        for (log, tip) in &content.cut {
            let kept = entry.cut.entry(*log).or_insert(*tip);
            if (kept.seq, tip.hash) < (tip.seq, kept.hash) {
                *kept = *tip;
            }
        }
    }
    removed
}

fn members(
    dag: &Dag,
    verdict: &Verdict,
    names: &BTreeMap<DeviceId, SealedName>,
    removed: &BTreeMap<DeviceId, Removed>,
) -> BTreeMap<DeviceId, Member> {
    let mut members: BTreeMap<DeviceId, Member> = BTreeMap::new();
    for device in verdict.grants.devices().filter(|device| !removed.contains_key(device)) {
        let Some((at, role)) = verdict.grants.best(device) else { continue };
        let (record, name) = (&dag.node(at).record, &names[device]);
        let member = Member {
            device: *device,
            role,
            name_sealed: name.clone(),
            added_by: record.author(),
            hlc: record.hlc(),
            dormancy: None,
        };
        members.insert(*device, member);
    }
    for at in dag.ranked() {
        let record = &dag.node(at).record;
        let (device, dormancy) = match record.content() {
            Content::Dormant(Dormant { device, after_days }) => {
                let (since, by) = (record.hlc(), record.author());
                (device, Some(Dormancy { since, by, after_days: *after_days }))
            }
            Content::Active(device) => (device, None),
            Content::Genesis(_)
            | Content::AddDevice(_)
            | Content::RemoveDevice(_)
            | Content::Rename(_)
            | Content::RotateKey(_)
            | Content::DesignateHost(_)
            | Content::SelectBranch(_)
            | Content::Unknown { .. } => continue,
        };
        if may_speak_for(dag, verdict, at, device)
            && let Some(member) = members.get_mut(device)
        {
            member.dormancy = dormancy;
        }
    }
    members
}

fn admins(dag: &Dag, verdict: &Verdict, members: &BTreeMap<DeviceId, Member>) -> Vec<DeviceId> {
    let admins = members.values().filter(|member| member.role == Role::Admin);
    let enrolled: BTreeMap<usize, DeviceId> =
        admins.filter_map(|member| Some((verdict.grants.best(&member.device)?.0, member.device))).collect();
    dag.ranked().filter_map(|at| enrolled.get(&at).copied()).collect()
}

/// A place where histories of a log part. What is selected at one place says nothing of another: a
/// log may fork again and again.
pub(super) type Parting = (LogId, Seq, TipHash);

/// The selections in force: of each parting the one no other has seen, of several the least by hash.
fn branches(dag: &Dag, verdict: &Verdict) -> BTreeMap<Parting, Branch> {
    let mut selections: BTreeMap<Parting, Vec<(usize, Branch)>> = BTreeMap::new();
    for at in dag.ranked() {
        let node = dag.node(at);
        let Content::SelectBranch(branch) = node.record.content() else { continue };
        let author = node.record.author();
        let is_entitled = verdict.grants.role_in(&author, &node.past).is_some();
        if author == branch.log.device && is_entitled && !verdict.void.contains(at) {
            let parting = (branch.log, branch.base.seq, branch.base.hash);
            selections.entry(parting).or_default().push((at, *branch));
        }
    }
    let in_force = |selections: Vec<(usize, Branch)>| {
        let seen = dag.seen_among(selections.iter().map(|(at, _)| *at));
        let unseen = selections.iter().filter(|(at, _)| !seen.contains(*at));
        unseen.min_by_key(|(at, _)| dag.node(*at).record.hash()).map(|(_, branch)| *branch)
    };
    selections.into_iter().filter_map(|(parting, all)| Some((parting, in_force(all)?))).collect()
}
