//! `devices`: who belongs to a space, and who was removed from it.

use kinfold::control::Method;
use kinfold::control::forms::DeviceForm;
use kinfold::control::roster::{ActivityForm, DeviceParams, RemovedForm, RosterForm};
use kinfold::node::Node;
use serde_json::json;

use crate::args::{DeviceName, Devices};
use crate::failure::Failure;
use crate::invite::role_text;
use crate::output::{Output, Tone, ago, count, counted, short_device, time};
use crate::target::{Site, Target};

pub async fn run(site: &Site, command: Option<Devices>, output: &Output) -> Result<(), Failure> {
    match command.unwrap_or(Devices::List) {
        Devices::Dormant(name) => set_activity(site, Method::Dormant, name, output).await,
        Devices::Active(name) => set_activity(site, Method::Active, name, output).await,
        Devices::Id => tell_id(&Node::device_in(&site.home)?.to_string(), output),
        Devices::List => {
            let target = Target::open(&site.home).await?;
            let roster = target.call(Method::Roster, &site.params()).await;
            let is_offline = target.is_own();
            target.close().await?;
            list(&roster?, is_offline, output)
        }
    }
}

async fn set_activity(site: &Site, method: Method, name: DeviceName, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let params = DeviceParams { scope: site.scope.clone(), device: name.device };
    let answer = target.call(method, &params).await;
    target.close().await?;
    let answer: ActivityForm = answer?;
    if output.is_json() {
        return output.json(&answer);
    }
    let short = short_device(&answer.device_id);
    let name = answer.name.map_or_else(|| short.clone(), |name| format!("{name} ({short})"));
    let state = if answer.dormant { "dormant: nothing waits for it" } else { "active" };
    let word = if answer.changed { "is now" } else { "was already" };
    output.line(format!("{name} {word} {state}"))
}

/// Works beside a running node too: the identity is a file.
fn tell_id(device_id: &str, output: &Output) -> Result<(), Failure> {
    if output.is_json() { output.json(&json!({ "device_id": device_id })) } else { output.line(device_id) }
}

fn list(roster: &RosterForm, is_offline: bool, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(roster);
    }
    let cells = |device: &DeviceForm| {
        let contact = match (device.is_self, device.connected, is_offline) {
            (true, ..) => "this device".to_owned(),
            (false, true, _) => "connected".to_owned(),
            // What was heard of it is known to a running node only.
            (false, false, true) => "?".to_owned(),
            (false, false, false) => ago(device.last_contact_ms),
        };
        let state = dormancy(device).unwrap_or_default();
        let name = device.name.clone().unwrap_or_default();
        let short = short_device(&device.device_id);
        [name, short, role_text(device.role).into(), contact, state, device.device_id.clone()]
    };
    let heading = ["name", "device", "role", "last contact", "", "id"];
    output.table(heading, roster.devices.iter().map(cells).collect())?;
    if roster.removed.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let cells = |removed: &RemovedForm| {
        let by =
            if removed.by == removed.device_id { "itself".to_owned() } else { called(roster, &removed.by) };
        let unaware = match removed.accepted_by.as_slice() {
            [] => "nobody".to_owned(),
            some => some.iter().map(|id| called(roster, id)).collect::<Vec<_>>().join(", "),
        };
        let name = removed.name.clone().unwrap_or_default();
        let short = short_device(&removed.device_id);
        [name, short, time(removed.at_ms), by, count(removed.ops_kept), unaware]
    };
    let heading = ["removed", "device", "when", "by", "ops kept", "may still be accepted by"];
    output.table(heading, roster.removed.iter().map(cells).collect())?;
    if roster.removed.iter().any(|removed| !removed.accepted_by.is_empty()) {
        let text = "a device that may still accept another has not been connected since; it hears of it then";
        output.note(output.paint(Tone::Quiet, text));
    }
    Ok(())
}

/// That nothing waits for a device, since when, and whose word that is.
pub fn dormancy(device: &DeviceForm) -> Option<String> {
    let since = time(device.dormant_since_ms?);
    let day = since.split(' ').next().unwrap_or_default();
    Some(match device.dormant_after_days {
        Some(days) => format!("dormant since {day}, by itself after {}", counted(days.into(), "silent day")),
        None => format!("dormant since {day}"),
    })
}

/// What people call a device: its name, or the beginning of its id.
pub fn called(roster: &RosterForm, device_id: &str) -> String {
    let present = roster.devices.iter().map(|device| (&device.device_id, &device.name));
    let gone = roster.removed.iter().map(|removed| (&removed.device_id, &removed.name));
    let found = present.chain(gone).find(|(id, _)| *id == device_id);
    found.and_then(|(_, name)| name.clone()).unwrap_or_else(|| short_device(device_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_nothing_waits_for_is_shown_with_whose_word_that_is() {
        let device = |since: Option<u64>, days: Option<u16>| DeviceForm {
            device_id: "x".into(),
            name: None,
            role: kinfold::control::params::RoleParam::Member,
            is_self: false,
            dormant: since.is_some(),
            dormant_since_ms: since,
            dormant_after_days: days,
            connected: false,
            last_contact_ms: None,
        };
        let at = Some(1_700_000_000_000);

        assert_eq!(dormancy(&device(None, None)), None);
        assert_eq!(dormancy(&device(at, None)).unwrap(), "dormant since 2023-11-14");
        let by_itself = dormancy(&device(at, Some(30))).unwrap();
        assert_eq!(by_itself, "dormant since 2023-11-14, by itself after 30 silent days");
    }
}
