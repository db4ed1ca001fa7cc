//! `devices`: who belongs to the personal space.

use std::path::Path;

use kinfold::control::Method;
use kinfold::control::forms::{DeviceForm, RosterForm};
use kinfold::control::params::{NoParams, RoleParam};
use kinfold::node::Node;
use serde_json::json;

use crate::args::Devices;
use crate::failure::Failure;
use crate::output::{Output, short_device};
use crate::target::Target;

pub async fn run(home: &Path, command: Option<Devices>, output: &Output) -> Result<(), Failure> {
    match command.unwrap_or(Devices::List) {
        Devices::Id => tell_id(&Node::device_in(home)?.to_string(), output),
        Devices::List => {
            let target = Target::open(home).await?;
            let roster = target.call(Method::Roster, &NoParams {}).await;
            target.close().await?;
            list(&roster?, output)
        }
    }
}

/// Works beside a running node too: the identity is a file.
fn tell_id(device_id: &str, output: &Output) -> Result<(), Failure> {
    if output.is_json() { output.json(&json!({ "device_id": device_id })) } else { output.line(device_id) }
}

fn list(roster: &RosterForm, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(roster);
    }
    let cells = |device: &DeviceForm| {
        let role = match device.role {
            RoleParam::Admin => "admin",
            RoleParam::Member => "member",
            RoleParam::Blind => "blind",
        };
        let this = if device.is_self { "this device" } else { "" };
        let name = device.name.clone().unwrap_or_default();
        [short_device(&device.device_id), name, role.into(), this.into(), device.device_id.clone()]
    };
    output.table(["device", "name", "role", "", "id"], roster.devices.iter().map(cells).collect())
}
