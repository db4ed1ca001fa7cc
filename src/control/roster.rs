//! Spaces and their devices over the control API: what is asked and told.
//!
//! A device is named by its id, by at least four characters that it begins with, or by its exact name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::convert::scope_param;
use super::dispatch::space;
use super::error::ControlError;
use super::forms::DeviceForm;
use super::params::{NoParams, RoleParam, ScopeParam, ScopeParams};
use crate::model::limits::PEERS_MAX;
use crate::model::nearest::nearest;
use crate::model::{DeviceId, Scope};
use crate::node::{Activity, Node, RemovedDevice, Revoked, Space, SpaceInfo};

/// A space to begin.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSpaceParams {
    /// The organisation's name.
    pub name: String,
    /// What this device is called there; as in its personal space where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
}

/// A device of a space.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceParams {
    /// Which space; the personal one where absent.
    #[serde(default, skip_serializing_if = "ScopeParam::is_personal")]
    pub scope: ScopeParam,
    /// Its id, the id's short form, or its exact name.
    pub device: String,
}

/// A new name for a device.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameParams {
    /// Which space; the personal one where absent.
    #[serde(default, skip_serializing_if = "ScopeParam::is_personal")]
    pub scope: ScopeParam,
    /// Its id, the id's short form, or its exact name.
    pub device: String,
    /// What it is called from now on.
    pub name: String,
}

/// The spaces this device takes part in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SpacesForm {
    /// The personal one first.
    pub spaces: Vec<SpaceForm>,
}

/// A space this device takes part in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SpaceForm {
    /// The space.
    pub space: String,
    /// Its scope.
    pub scope: ScopeParam,
    /// What this device may do there; null once it was removed or is about to leave.
    pub role: Option<RoleParam>,
    /// How many devices it has.
    pub devices: usize,
    /// Ops held.
    pub ops: u64,
    /// Whether this device has left and no other device has heard of it yet.
    pub leaving: bool,
}

/// A space that was left.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LeftForm {
    /// Which.
    pub scope: ScopeParam,
    /// Whether the others have been told; if not, they are when one of them is there.
    pub told: bool,
}

/// The devices of a space.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RosterForm {
    /// Which space.
    pub scope: ScopeParam,
    /// This one first.
    pub devices: Vec<DeviceForm>,
    /// Those that were removed, the last one first.
    pub removed: Vec<RemovedForm>,
}

/// A device that was removed, which is for ever.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RemovedForm {
    /// The device.
    pub device_id: String,
    /// What it was called, where this device can read it.
    pub name: Option<String>,
    /// What it was allowed to do.
    pub role: RoleParam,
    /// Who removed it; itself, where it left.
    pub by: String,
    /// When, by the clock of whoever removed it.
    pub at_ms: u64,
    /// How many of its ops stand.
    pub ops_kept: u64,
    /// Devices that have not said yet that they know, and may still accept it.
    pub accepted_by: Vec<String>,
}

/// What a removal came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RevokedForm {
    /// The device.
    pub device_id: String,
    /// What it was called, where this device can read it.
    pub name: Option<String>,
    /// From which space.
    pub scope: ScopeParam,
    /// Live connections of it that were closed.
    pub connections_closed: usize,
    /// How many of its ops stand.
    pub ops_kept: u64,
    /// Whether the space is written under a new key already.
    pub new_key: bool,
    /// Devices that have not said yet that they know, and may still accept it.
    pub accepted_by: Vec<String>,
    /// Other spaces of this device that it still belongs to.
    pub remains_in: Vec<ScopeParam>,
}

/// A device that was renamed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RenamedForm {
    /// The device.
    pub device_id: String,
    /// What it is called now.
    pub name: String,
}

/// Whether a device is waited for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ActivityForm {
    /// The device.
    pub device_id: String,
    /// Its name, where this device can read it.
    pub name: Option<String>,
    /// Whether nothing waits for it from now on.
    pub dormant: bool,
    /// Whether that was otherwise before.
    pub changed: bool,
}

/// A key that was renewed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RotatedForm {
    /// The number of the epoch; 0 is the first.
    pub epoch: u64,
    /// The devices that had the key before it counted; others get it when they connect.
    pub confirmed_by: Vec<String>,
}

/// A device that may have been meant.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CandidateForm {
    /// The device.
    pub device_id: String,
    /// Its name, where this device can read it.
    pub name: Option<String>,
}

impl RosterForm {
    /// The device that a person or program named. The beginning of an id counts where nothing fits better,
    /// and those that were removed are looked at last.
    ///
    /// # Errors
    /// [`ControlError::UnknownDevice`], [`ControlError::AmbiguousDevice`]; both list what there is.
    pub fn find(&self, named: &str) -> Result<CandidateForm, ControlError> {
        let present = self.devices.iter().map(|device| candidate(&device.device_id, device.name.as_ref()));
        let present: Vec<CandidateForm> = present.collect();
        let gone = self.removed.iter().map(|removed| candidate(&removed.device_id, removed.name.as_ref()));
        let gone: Vec<CandidateForm> = gone.collect();
        let found = || named.chars().take(FOUND_CHARACTERS).collect();
        let looks = [(&present, false), (&present, true), (&gone, false), (&gone, true)];
        for (devices, is_rough) in looks {
            let is_meant = |device: &&CandidateForm| match is_rough {
                true => device.begins_with(named),
                false => device.is_meant_by(named),
            };
            let mut matching: Vec<CandidateForm> = devices.iter().filter(is_meant).cloned().collect();
            match matching.len() {
                0 => {}
                1 => return Ok(matching.remove(0)),
                _ => return Err(ControlError::AmbiguousDevice { found: found(), candidates: matching }),
            }
        }
        Err(ControlError::UnknownDevice { found: found(), candidates: present })
    }
}

impl RosterForm {
    /// The devices that were named for a round, each once.
    ///
    /// # Errors
    /// As [`RosterForm::find`], and [`ControlError::OwnPeer`] for the first one, which is this.
    pub fn find_peers(&self, names: &[String]) -> Result<Vec<String>, ControlError> {
        let mut devices = Vec::with_capacity(names.len().min(PEERS_MAX));
        for name in names {
            let device = self.find(name)?.device_id;
            if self.devices.first().is_some_and(|own| own.device_id == device) {
                return Err(ControlError::OwnPeer);
            }
            if !devices.contains(&device) {
                devices.push(device);
            }
        }
        Ok(devices)
    }
}

impl CandidateForm {
    pub(super) fn to_value(&self) -> serde_json::Value {
        serde_json::json!({ "device_id": self.device_id, "name": self.name })
    }

    /// Whether these are the first characters of the id; too few would be a guess.
    fn begins_with(&self, start: &str) -> bool {
        let shown = |text: &str| text.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect();
        let (id, start): (String, String) = (shown(&self.device_id), shown(start));
        start.len() >= ID_START_CHARACTERS && id.starts_with(&start)
    }

    fn is_meant_by(&self, named: &str) -> bool {
        let Ok(device) = self.device_id.parse::<DeviceId>() else { return false };
        match named.parse::<DeviceId>() {
            Ok(id) => id == device,
            Err(_) => device.short().eq_ignore_ascii_case(named) || self.name.as_deref() == Some(named),
        }
    }
}

/// What to say of a name that is nobody's: who was meant, where it is a typing error, and who there is.
pub(super) fn unknown_hint(found: &str, candidates: &[CandidateForm]) -> String {
    let names = candidates.iter().filter_map(|candidate| candidate.name.as_deref());
    match nearest(found, names) {
        Some(name) => format!("did you mean {name}? there are: {}", listed(candidates)),
        None => format!("there are: {}", listed(candidates)),
    }
}

/// Devices as they are listed in a sentence: each with the text that names it and no other.
pub(super) fn listed(candidates: &[CandidateForm]) -> String {
    let text = |candidate: &CandidateForm| {
        let short = candidate.device_id.parse::<DeviceId>().map(|device| device.short());
        let short = short.unwrap_or_else(|_| candidate.device_id.clone());
        match &candidate.name {
            Some(name) => format!("{name} ({short})"),
            None => short,
        }
    };
    let mut all: Vec<String> = candidates.iter().take(CANDIDATES_LISTED).map(text).collect();
    if candidates.len() > CANDIDATES_LISTED {
        all.push(format!("{} more", candidates.len() - CANDIDATES_LISTED));
    }
    all.join(", ")
}

fn candidate(device_id: &str, name: Option<&String>) -> CandidateForm {
    CandidateForm { device_id: device_id.to_owned(), name: name.cloned() }
}

/// The devices of a space that are called that; this one is none of them.
pub(super) async fn named(
    node: &Node,
    scope: &ScopeParam,
    names: &[String],
) -> Result<Vec<DeviceId>, ControlError> {
    if names.len() > PEERS_MAX {
        return Err(ControlError::TooManyPeers { found: names.len(), limit: PEERS_MAX });
    }
    let roster = roster(&space(node, scope).await?, scope.clone()).await?;
    let devices = roster.find_peers(names)?;
    let id = |text: &String| text.parse().map_err(|source| ControlError::Id { what: "device", source });
    devices.iter().map(id).collect()
}

pub(super) async fn list_spaces(node: &Node, NoParams {}: NoParams) -> Result<SpacesForm, ControlError> {
    let spaces = node.spaces().await?;
    Ok(SpacesForm { spaces: spaces.iter().map(SpaceForm::from).collect() })
}

pub(super) async fn create_space(node: &Node, params: CreateSpaceParams) -> Result<SpaceForm, ControlError> {
    let scope = ScopeParam::Org(params.name).to_scope()?;
    let name = match params.device_name {
        Some(name) => name,
        None => node.status().await?.name,
    };
    let space = node.found(scope, &name).await?.id();
    let spaces = node.spaces().await?;
    let form = spaces.iter().find(|found| found.space == space).map(SpaceForm::from);
    form.ok_or(ControlError::Lost)
}

pub(super) async fn leave_space(node: &Node, params: ScopeParams) -> Result<LeftForm, ControlError> {
    let told = space(node, &params.scope).await?.leave().await?;
    Ok(LeftForm { scope: params.scope, told })
}

pub(super) async fn list(node: &Node, params: ScopeParams) -> Result<RosterForm, ControlError> {
    let space = space(node, &params.scope).await?;
    roster(&space, params.scope).await
}

pub(super) async fn revoke(node: &Node, params: DeviceParams) -> Result<RevokedForm, ControlError> {
    let (space, found) = find(node, &params).await?;
    let revoked = space.revoke(device_id(&found)?).await?;
    Ok(revoked_form(revoked, found.name, params.scope))
}

pub(super) async fn retire(node: &Node, params: DeviceParams) -> Result<RevokedForm, ControlError> {
    let (space, found) = find(node, &params).await?;
    let retired = space.retire(device_id(&found)?).await?;
    Ok(revoked_form(retired, found.name, params.scope))
}

pub(super) async fn rename(node: &Node, params: RenameParams) -> Result<RenamedForm, ControlError> {
    let RenameParams { scope, device, name } = params;
    let (space, found) = find(node, &DeviceParams { scope, device }).await?;
    space.rename(device_id(&found)?, &name).await?;
    Ok(RenamedForm { device_id: found.device_id, name })
}

pub(super) async fn dormant(node: &Node, params: DeviceParams) -> Result<ActivityForm, ControlError> {
    set_activity(node, &params, Activity::Dormant).await
}

pub(super) async fn active(node: &Node, params: DeviceParams) -> Result<ActivityForm, ControlError> {
    set_activity(node, &params, Activity::Active).await
}

async fn set_activity(
    node: &Node,
    params: &DeviceParams,
    activity: Activity,
) -> Result<ActivityForm, ControlError> {
    let (space, found) = find(node, params).await?;
    let changed = space.set_activity(device_id(&found)?, activity).await?;
    let dormant = activity == Activity::Dormant;
    Ok(ActivityForm { device_id: found.device_id, name: found.name, dormant, changed })
}

pub(super) async fn rotate(node: &Node, params: ScopeParams) -> Result<RotatedForm, ControlError> {
    let rotated = space(node, &params.scope).await?.rotate().await?;
    Ok(RotatedForm { epoch: rotated.epoch, confirmed_by: texts(&rotated.confirmed_by) })
}

async fn roster(space: &Space, scope: ScopeParam) -> Result<RosterForm, ControlError> {
    let devices = space.status().await?.devices;
    let removed = space.removed().await?;
    Ok(RosterForm {
        scope,
        devices: devices.iter().map(DeviceForm::from).collect(),
        removed: removed.iter().map(RemovedForm::from).collect(),
    })
}

pub(super) async fn find(node: &Node, params: &DeviceParams) -> Result<(Space, CandidateForm), ControlError> {
    let space = space(node, &params.scope).await?;
    let found = roster(&space, params.scope.clone()).await?.find(&params.device)?;
    Ok((space, found))
}

pub(super) fn device_id(found: &CandidateForm) -> Result<DeviceId, ControlError> {
    found.device_id.parse().map_err(|source| ControlError::Id { what: "device", source })
}

fn revoked_form(revoked: Revoked, name: Option<String>, scope: ScopeParam) -> RevokedForm {
    RevokedForm {
        device_id: revoked.device.to_string(),
        name,
        scope,
        connections_closed: revoked.closed_count,
        ops_kept: revoked.op_count,
        new_key: revoked.is_rekeyed,
        accepted_by: texts(&revoked.accepted_by),
        remains_in: revoked.remains_in.iter().map(scope_param).collect(),
    }
}

impl From<&SpaceInfo> for SpaceForm {
    fn from(info: &SpaceInfo) -> Self {
        Self {
            space: info.space.to_string(),
            scope: scope_param(&info.scope),
            role: info.role.map(RoleParam::from),
            devices: info.device_count,
            ops: info.op_count,
            leaving: info.is_leaving,
        }
    }
}

impl From<&RemovedDevice> for RemovedForm {
    fn from(removed: &RemovedDevice) -> Self {
        Self {
            device_id: removed.device.to_string(),
            name: removed.name.clone(),
            role: removed.role.into(),
            by: removed.by.to_string(),
            at_ms: removed.at_millis,
            ops_kept: removed.op_count,
            accepted_by: texts(&removed.accepted_by),
        }
    }
}

fn texts(devices: &[DeviceId]) -> Vec<String> {
    devices.iter().map(DeviceId::to_string).collect()
}

/// A scope as people write it: `personal`, or an organisation's name.
pub(super) fn scope_text(scope: &Scope) -> String {
    match scope {
        Scope::Personal => "personal".to_owned(),
        Scope::Shared(org) => org.to_string(),
    }
}

/// Of a name that is none, as much as is told again.
const FOUND_CHARACTERS: usize = 80;

/// Fewer characters of an id name nobody: with four, two devices of a fleet are mixed up once in a
/// thousand fleets of forty, and then both are listed.
const ID_START_CHARACTERS: usize = 4;

/// Devices named in one sentence; `roster.list` has all of them.
const CANDIDATES_LISTED: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> DeviceId {
        DeviceId::from_bytes([byte; 32])
    }

    fn device(byte: u8, name: &str) -> DeviceForm {
        DeviceForm {
            device_id: id(byte).to_string(),
            name: Some(name.into()),
            role: RoleParam::Member,
            is_self: false,
            dormant: false,
            dormant_since_ms: None,
            dormant_after_days: None,
            connected: false,
            last_contact_ms: None,
        }
    }

    fn removed(byte: u8, name: &str) -> RemovedForm {
        RemovedForm {
            device_id: id(byte).to_string(),
            name: Some(name.into()),
            role: RoleParam::Member,
            by: id(9).to_string(),
            at_ms: 0,
            ops_kept: 0,
            accepted_by: Vec::new(),
        }
    }

    fn sample() -> RosterForm {
        RosterForm {
            scope: ScopeParam::Personal,
            devices: vec![device(1, "laptop"), device(2, "phone"), device(3, "phone"), device(4, "tablet")],
            removed: vec![removed(5, "laptop"), removed(6, "old")],
        }
    }

    #[track_caller]
    fn check(named: &str, byte: u8) {
        assert_eq!(sample().find(named).map(|found| found.device_id).ok(), Some(id(byte).to_string()));
    }

    #[test]
    fn a_device_is_named_by_its_id_its_short_form_or_its_name() {
        check(&id(2).to_string(), 2);
        check(&id(2).to_string().to_uppercase(), 2);
        check(&id(3).short(), 3);
        check("tablet", 4);
    }

    #[test]
    fn a_device_that_belongs_to_the_space_is_meant_before_one_that_was_removed() {
        check("laptop", 1);
        check("old", 6);
        check(&id(5).short(), 5);
    }

    #[test]
    fn a_name_of_several_devices_is_refused_with_all_of_them() {
        let error = sample().find("phone").unwrap_err();

        assert!(matches!(&error, ControlError::AmbiguousDevice { candidates, .. } if candidates.len() == 2));
        assert_eq!(error.to_string(), "\"phone\" names 2 devices");
        let hint = error.hint().unwrap();
        assert!(hint.contains(&id(2).short()) && hint.contains(&id(3).short()), "{hint}");
    }

    #[test]
    fn an_unknown_device_is_refused_with_those_there_are() {
        for named in ["Tablet", "tab", "", &id(8).to_string(), &id(8).short()] {
            let error = sample().find(named).unwrap_err();

            assert_eq!(error.kind(), "UnknownDevice");
            assert!(error.hint().unwrap().contains("laptop ("), "{error:?}");
        }
    }

    #[test]
    fn a_device_is_named_by_the_beginning_of_its_id_where_that_is_no_other() {
        let text = id(3).to_string();

        for length in [4, 6, 9, 20] {
            check(&text[..length], 3);
            check(&text[..length].to_uppercase(), 3);
        }
        assert_eq!(sample().find(&text[..3]).unwrap_err().kind(), "UnknownDevice");
        let mut sample = sample();
        sample.devices[0].name = Some(text[..5].to_owned());
        let found = sample.find(&text[..5]).unwrap();
        assert_eq!(found.device_id, id(1).to_string(), "a name goes before the beginning of an id");
    }

    #[test]
    fn devices_are_named_for_a_round_once_each_and_never_this_one() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();

        let found = sample().find_peers(&names(&["tablet", &id(3).short(), "tablet"])).unwrap();
        let own = sample().find_peers(&names(&["tablet", "laptop"])).unwrap_err();

        assert_eq!(found, [id(4).to_string(), id(3).to_string()]);
        assert_eq!(own.kind(), "OwnPeer");
        assert!(own.hint().unwrap().contains("kinfold devices"));
    }

    #[test]
    fn a_typing_error_is_told_who_was_meant() {
        let hint = sample().find("tabelt").unwrap_err().hint().unwrap();

        assert!(hint.starts_with("did you mean tablet? there are: laptop ("), "{hint}");
    }

    #[test]
    fn a_long_list_of_devices_is_cut() {
        let many: Vec<CandidateForm> = (0..20).map(|byte| candidate(&id(byte).to_string(), None)).collect();

        assert!(listed(&many).ends_with(", 4 more"));
    }
}
