//! Which records give which device a role, once void ones are left out.

use std::collections::BTreeMap;

use super::dag::{Dag, grant};
use super::nodes::NodeSet;
use super::role::Role;
use crate::model::DeviceId;

/// The valid grants per device, in the order records count.
///
/// A grant is valid if no removal makes it void and its author had seen a valid grant that makes it
/// an admin. The genesis is always valid.
#[derive(Clone, Debug, Default)]
pub(super) struct Grants(BTreeMap<DeviceId, Vec<(usize, Role)>>);

impl Grants {
    /// The grants of `dag` that are valid when the records of `void` are not.
    pub fn valid(dag: &Dag, void: &NodeSet) -> Self {
        let mut grants = Self::default();
        for at in dag.ranked() {
            let node = dag.node(at);
            let Some((device, role)) = grant(&node.record) else { continue };
            let is_genesis = node.record.parents().is_empty();
            // Its own past holds the record itself, which is not among the valid ones yet.
            if is_genesis
                || !void.contains(at) && grants.admin_in(&node.record.author(), &node.past).is_some()
            {
                grants.0.entry(device).or_default().push((at, role));
            }
        }
        grants
    }

    /// The greatest role that `past` gives a device.
    pub fn role_in(&self, device: &DeviceId, past: &NodeSet) -> Option<Role> {
        self.of(device).iter().filter(|(at, _)| past.contains(*at)).map(|(_, role)| *role).max()
    }

    /// The first record within `past` that makes the device an admin.
    pub fn admin_in(&self, device: &DeviceId, past: &NodeSet) -> Option<usize> {
        self.of(device)
            .iter()
            .find(|(at, role)| *role == Role::Admin && past.contains(*at))
            .map(|(at, _)| *at)
    }

    /// The record that makes the device what it is: of those with the greatest role the first.
    pub fn best(&self, device: &DeviceId) -> Option<(usize, Role)> {
        let grants = self.of(device);
        let role = grants.iter().map(|(_, role)| *role).max()?;
        grants.iter().find(|(_, other)| *other == role).copied()
    }

    /// The devices that have a grant.
    pub fn devices(&self) -> impl Iterator<Item = &DeviceId> {
        self.0.keys()
    }

    fn of(&self, device: &DeviceId) -> &[(usize, Role)] {
        self.0.get(device).map_or(&[], Vec::as_slice)
    }
}
