//! Whether everything has settled, and the last checks then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Summary;
use super::check::Violation;
use super::host::Host;
use super::shell::state_of;
use super::world::World;
use crate::fold::{Head, ListedRow, RowFilter, RowView, State};
use crate::model::{DeviceId, Dot, SpaceId};
use crate::roster::{Epoch, Role};
use crate::wire::checkpoint::CheckpointHash;

impl World {
    /// What is still missing.
    pub(super) fn unsettled(&mut self) -> Option<String> {
        let mut first = None;
        let mut blind = Vec::new();
        let mut all: BTreeSet<DeviceId> =
            self.hosts.iter().filter(|host| host.is_member()).map(Host::device).collect();
        let gone = self.gone();
        // A removal that a crash took away has kept its device from being paired all the same.
        let common = self.common();
        let is_outside = |device: &DeviceId| {
            let of_device = self.hosts.iter().filter(|host| host.device() == *device);
            self.removed.contains(device) && of_device.clone().all(|host| host.personal_on_disk() != common)
        };
        let outside: Vec<DeviceId> = all.iter().copied().filter(is_outside).collect();
        all.retain(|device| !gone.contains(device) && !outside.contains(device));
        if all.is_empty() {
            return Some("no device is left".to_owned());
        }
        for index in 0..self.hosts.len() {
            let host = &mut self.hosts[index];
            let Some(life) = &host.life else { return Some(format!("device {index} is down")) };
            if !life.is_idle() || life.waiting_count() > 0 {
                return Some(format!("device {index} is busy"));
            }
            if !all.contains(&host.device()) {
                // Removed, whether it knows or not.
                continue;
            }
            let engine = &life.engine;
            if !engine.to_carry_over().is_empty() {
                return Some(format!("device {index} has not carried over what it wrote"));
            }
            let Some(space) = engine.personal() else { return Some(format!("device {index} has no space")) };
            let Some(view) = engine.space(space) else { return Some(format!("device {index} has no space")) };
            if view.draft_count > 0 {
                return Some(format!("device {index} has drafts"));
            }
            if !engine.to_reissue(space).is_empty() {
                return Some(format!("device {index} has not written again what is dropped"));
            }
            let members: BTreeSet<DeviceId> = view.roster.members().map(|member| member.device).collect();
            let is_blind = view.roster.role_of(&host.identity.device()) == Some(Role::Blind);
            let epoch = view.roster.epoch();
            if matches!(epoch, Epoch::Contested { .. }) {
                return Some(format!("device {index} has a contested epoch"));
            }
            let members: BTreeSet<DeviceId> =
                members.into_iter().filter(|device| !outside.contains(device)).collect();
            let known = members.intersection(&all).count();
            let holders = engine.holders_of_all(space);
            let others = members.iter().filter(|device| **device != host.identity.device());
            let unheld = others.filter(|device| !holders.contains(device)).count();
            let standing = (space, view.frontier.digest(), view.roster.digest());
            let said = view.roster.members().filter(|member| !outside.contains(&member.device));
            let said = said.filter_map(|member| member.dormancy);
            let is_one_away = said.filter(|dormancy| dormancy.after_days.is_some()).count() > 0;
            if is_blind {
                blind.push((index, standing));
                continue;
            }
            let Some(root) = host.state(&space).map(|state| state.root()) else {
                return Some(format!("device {index} is loading"));
            };
            let own = (standing, root);
            let expected = *first.get_or_insert(own);
            if expected.0.0 != own.0.0 {
                return Some(format!("device {index} is in another space than the first one"));
            }
            if known != all.len() || members.len() != all.len() {
                return Some(format!("device {index} knows {known} of {} devices", all.len()));
            }
            if expected != own {
                return Some(format!("device {index} holds something else than the first one"));
            }
            if is_one_away {
                return Some(format!("device {index} knows of one that is dormant by itself and not back"));
            }
            if unheld > 0 {
                return Some(format!("device {index} misses receipts of {unheld} others"));
            }
        }
        let (expected, _) = first?;
        let other = blind.into_iter().find(|(_, standing)| *standing != expected);
        other.map(|(index, _)| format!("device {index} stores something else than those that read"))
    }

    /// The space that those who are left have in common.
    fn common(&self) -> Option<SpaceId> {
        let is_gone = |host: &&Host| self.removed.contains(&host.device()) && self.is_removed(&host.device());
        let left = self.hosts.iter().find(|host| !is_gone(host));
        left.unwrap_or(&self.hosts[0]).personal_on_disk()
    }

    /// Devices that the others have removed, and those whose enrolment went with whoever had enrolled them: nobody
    /// takes their word, also where they know nothing of it.
    fn gone(&self) -> Vec<DeviceId> {
        let devices: BTreeSet<DeviceId> = self.hosts.iter().map(Host::device).collect();
        let is_gone = |device: &DeviceId| {
            let is_removed = || self.is_removed(device) || self.is_forgotten(device);
            self.removed.contains(device) && is_removed() || self.is_struck(device)
        };
        devices.into_iter().filter(is_gone).collect()
    }

    /// Whether a device was enrolled by one that is gone, which it does not know, and none of the others knows it.
    fn is_struck(&self, device: &DeviceId) -> bool {
        let common = self.common();
        let in_common =
            self.hosts.iter().filter(|host| host.is_member() && host.personal_on_disk() == common);
        let is_gone = |other: &DeviceId| self.removed.contains(other) && self.is_removed(other);
        let is_other = |host: &&Host| host.device() != *device && !is_gone(&host.device());
        let others: Vec<&Host> = in_common.clone().filter(is_other).collect();
        let is_unknown = !others.is_empty() && others.iter().all(|host| !host.knows(device));
        let mut own = in_common.filter(|host| host.device() == *device);
        is_unknown && own.any(|host| host.enrollers().iter().any(|by| is_gone(by) && !host.has_removed(by)))
    }

    /// Whether all that is left has forgotten a device: the disks of those who knew of it, and of its removal, were put
    /// back. Nobody pairs one that was removed again.
    fn is_forgotten(&self, device: &DeviceId) -> bool {
        let common = self.common();
        let left = self.hosts.iter().filter(|host| !self.removed.contains(&host.device()));
        let mut left = left.filter(|host| host.is_member() && host.personal_on_disk() == common).peekable();
        left.peek().is_some() && left.all(|host| !host.knows(device))
    }

    /// Whether a device was removed, as others know.
    fn is_removed(&self, device: &DeviceId) -> bool {
        // One that was removed itself may believe anything.
        let mut others = self.hosts.iter().filter(|host| !self.removed.contains(&host.device()));
        others.any(|host| host.has_removed(device))
    }

    /// Says where every device stands, for whoever reads the trace.
    pub(super) fn tell_standings(&mut self) {
        for host in &self.hosts {
            let Some(engine) = host.life.as_ref().map(|life| &life.engine) else { continue };
            for space in engine.active_spaces() {
                let Some(view) = engine.space(space) else { continue };
                let tips = |frontier: &crate::model::Frontier| -> Vec<String> {
                    let tips = frontier.iter();
                    tips.map(|(log, tip)| format!("{}:{}", log.device.short(), tip.seq)).collect()
                };
                let members: Vec<String> =
                    view.roster.members().map(|member| member.device.short()).collect();
                self.trace.push_back(format!(
                    "{} {} in {space:?}: holds {} members {} of {} records, {} keys",
                    host.index,
                    host.device().short(),
                    tips(view.frontier).join(" "),
                    members.join(" "),
                    view.roster.generation(),
                    engine.keys().iter().filter(|(of, _)| *of == space).count()
                ));
                for device in view.roster.members().map(|member| member.device) {
                    if let Some(ack) = engine.ack_of(space, &device) {
                        let line = format!("    ack of {}: {}", device.short(), tips(ack.frontier).join(" "));
                        self.trace.push_back(line);
                    }
                }
                for peer in engine.peers() {
                    let line = format!(
                        "    {} is {}, greeted {}, settled {}, has said {}",
                        peer.peer.get(),
                        peer.device.short(),
                        peer.is_greeted,
                        peer.is_settled,
                        engine.announced(space, &peer.device).map(tips).unwrap_or_default().join(" ")
                    );
                    self.trace.push_back(line);
                }
            }
        }
    }

    /// The last checks, once everything has settled.
    pub(super) fn end(&mut self) -> Result<Summary, Violation> {
        let settled_after = self.now - self.healed_at;
        let gone = self.gone();
        let common = self.common();
        // What a removed device wrote after it was removed is nobody's loss but its own.
        let late: Vec<u64> = self
            .checks
            .answers
            .iter()
            .filter(|answer| {
                let author = answer.placed.dot.log.device;
                let of_author = self.hosts.iter().filter(|host| host.device() == author);
                let is_outside = of_author.clone().all(|host| host.personal_on_disk() != common);
                gone.contains(&author) || self.removed.contains(&author) && is_outside
            })
            .filter_map(|answer| answer.marker)
            .collect();
        self.checks.may_be_gone.extend(late);
        // Nor is what only a removed device had of others, whose disks were lost.
        for host in self.hosts.iter().filter(|host| gone.contains(&host.device())) {
            self.checks.may_be_gone.extend(super::check::markers(&host.disk));
        }
        for index in 0..self.hosts.len() {
            let host = &mut self.hosts[index];
            self.checks.answered(index, &host.disk)?;
            let is_outside = host.personal_on_disk() != common;
            if !host.is_member() || host.is_blind || is_outside || gone.contains(&host.device()) {
                continue;
            }
            let space = host.life.as_ref().and_then(|life| life.engine.personal());
            let space = space.expect("what settled has a space");
            self.checks.end(&host.disk, &space)?;
            let held = host.disk.frontier(&space);
            if let Some(state) = host.state(&space) {
                self.checks.root(index, state, &held, true)?;
            }
        }
        let members: Vec<usize> = (0..self.hosts.len())
            .filter(|host| self.hosts[*host].is_member() && !self.hosts[*host].is_blind)
            .filter(|host| !gone.contains(&self.hosts[*host].device()))
            .filter(|host| self.hosts[*host].personal_on_disk() == common)
            .collect();
        self.stable(&members, &gone)?;
        self.removed_rows(&members)?;
        let host = members[self.rng.index(members.len())];
        let (op_count, conflict_count) = self.shuffled(host)?;
        Ok(Summary {
            device_count: self.hosts.len(),
            op_count,
            conflict_count,
            answered_count: self.checks.answers.len() as u64,
            root_count: self.checks.compared_count,
            event_count: self.event_count,
            byte_count: self.byte_count,
            base_count: self.checks.base_count,
            dormant_count: self.checks.dormant_count,
            life_count: self.lives,
            virtual_time: self.time(),
            settled_after,
        })
    }

    /// What a member counts as stable lies on the disk of every member; that it is nothing is no harm.
    fn stable(&self, members: &[usize], gone: &[DeviceId]) -> Result<(), Violation> {
        for device in members.iter().copied() {
            let Some(engine) = self.hosts[device].life.as_ref().map(|life| &life.engine) else { continue };
            let space = engine.personal().expect("what settled has a space");
            let Some(stable) = engine.stable_frontier(space) else { continue };
            let holders = self.hosts.iter().filter(|host| {
                host.personal_on_disk() == Some(space) && !gone.contains(&host.device()) && host.is_member()
            });
            for holder in holders {
                if !holder.disk.frontier(&space).covers_all(&stable) {
                    return Err(Violation::StableOverDisk { device, space, holder: holder.index });
                }
            }
        }
        Ok(())
    }

    /// What was removed, with the removal laid down by a checkpoint, shows no value that came after that from
    /// whoever had not seen it; and devices that begin with the same checkpoint show the same.
    fn removed_rows(&mut self, members: &[usize]) -> Result<(), Violation> {
        let surface = "registry:note".parse().expect("a known surface");
        let all = |state: &State| state.rows(&surface, None, usize::MAX, RowFilter::WithTombstones);
        let mut shown: BTreeMap<CheckpointHash, Vec<(String, Dot)>> = BTreeMap::new();
        for device in members.iter().copied() {
            let space = self.hosts[device].personal_on_disk().expect("what settled has a space");
            let Some(base) = self.hosts[device].disk.base(&space).map(|base| base.checkpoint) else {
                continue;
            };
            let state = self.hosts[device].state(&space).expect("what settled is folded");
            let rows = all(state);
            let now = rows.iter().map(|row| (row.key.clone(), row.row.shown().dot)).collect();
            let before = shown.entry(base).or_insert_with(|| Vec::clone(&now));
            if let Some(((row, _), _)) = before.iter().zip(&now).find(|(before, now)| before != now) {
                return Err(Violation::ShownDiffers { device, space, row: row.clone() });
            }
            let rows: BTreeMap<String, RowView> = rows.into_iter().map(|row| (row.key, row.row)).collect();
            let mut next = Some(base);
            while let Some(made) = next.and_then(|hash| self.checks.made(&hash)) {
                let laid = state_of(&made.kept.chunks);
                let is_alive = |laid: &ListedRow| {
                    let row = &rows[&laid.key];
                    let was = |head: &Head| laid.row.heads().iter().any(|before| before.dot == head.dot);
                    let stands = row.heads().iter().any(|head| head.is_tombstone && was(head));
                    stands && row.is_live() && !was(row.shown())
                };
                if let Some(row) = all(&laid).iter().find(|row| is_alive(row)) {
                    return Err(Violation::Resurrected { device, space, row: row.key.clone() });
                }
                next = made.parent;
            }
        }
        Ok(())
    }

    /// Folds what one device holds in other orders of arrival.
    fn shuffled(&mut self, host: usize) -> Result<(u64, u64), Violation> {
        let space = self.hosts[host].life.as_ref().and_then(|life| life.engine.personal());
        let space = space.expect("what settled has a space");
        let state = self.hosts[host].state(&space).expect("what settled is folded");
        let (expected, counts) = (state.root(), state.counts());
        let disk = &self.hosts[host].disk;
        for _ in 0..2 {
            let mut state = State::new(space);
            let mut logs: Vec<VecDeque<_>> =
                disk.logs(&space).iter().map(|log| disk.every_op(&space, log).collect()).collect();
            logs.retain(|log| !log.is_empty());
            while !logs.is_empty() {
                let log = self.rng.index(logs.len());
                for _ in 0..self.rng.between(1, 30) {
                    let Some(op) = logs[log].pop_front() else { break };
                    let frame = crate::wire::FrameView {
                        seq: op.dot.seq,
                        hlc: op.hlc,
                        kind: op.kind,
                        flags: op.flags,
                        body: &op.body,
                    };
                    state.apply(&op.dot.log, &frame);
                }
                logs.retain(|log| !log.is_empty());
            }
            let found = state.root();
            if found != expected {
                return Err(Violation::OrderMatters { expected, found });
            }
        }
        Ok((counts.ops, counts.conflicts))
    }
}
