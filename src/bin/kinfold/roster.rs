//! `rename`, `retire`, `revoke` and `rotate`.

use std::time::Duration;

use kinfold::control::Method;
use kinfold::control::params::ScopeParam;
use kinfold::control::roster::{
    CandidateForm, DeviceParams, RenameParams, RenamedForm, RevokedForm, RosterForm, RotatedForm,
};

use crate::args::{Removal, Rename};
use crate::confirm::confirm;
use crate::devices::called;
use crate::failure::Failure;
use crate::output::{Output, Tone, counted, short_device};
use crate::state::look_for;
use crate::target::{Site, Target};

pub async fn rename(site: &Site, rename: Rename, output: &Output) -> Result<(), Failure> {
    let Rename { device, name } = rename;
    let target = Target::open(&site.home).await?;
    let params = RenameParams { scope: site.scope.clone(), device, name };
    let renamed = target.call(Method::Rename, &params).await;
    target.close().await?;
    let renamed: RenamedForm = renamed?;
    if output.is_json() {
        return output.json(&renamed);
    }
    let short = short_device(&renamed.device_id);
    output.line(format!("{} {short} is called {}", output.paint(Tone::Good, "renamed"), renamed.name))
}

pub async fn revoke(site: &Site, removal: Removal, output: &Output) -> Result<(), Failure> {
    remove(site, removal, Method::Revoke, output).await
}

pub async fn retire(site: &Site, removal: Removal, output: &Output) -> Result<(), Failure> {
    remove(site, removal, Method::Retire, output).await
}

async fn remove(site: &Site, removal: Removal, method: Method, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let outcome = removed(&target, site, removal, method, output).await;
    target.close().await?;
    let (revoked, roster) = outcome?;
    tell(&revoked, &roster, site, output)
}

async fn removed(
    target: &Target,
    site: &Site,
    removal: Removal,
    method: Method,
    output: &Output,
) -> Result<(RevokedForm, RosterForm), Failure> {
    let roster: RosterForm = target.call(Method::Roster, &site.params()).await?;
    let device = roster.find(&removal.device)?;
    let is_self = roster.devices.iter().any(|found| found.is_self && found.device_id == device.device_id);
    let is_gone = roster.removed.iter().any(|found| found.device_id == device.device_id);
    // What will be refused anyway is refused before a name is asked for.
    if !is_self && !is_gone {
        let name = device.name.clone().unwrap_or_else(|| short_device(&device.device_id));
        let act = format!("removing {name} from {}", site.space_text());
        confirm(&act, &name, removal.yes, output).await?;
        reach(target, site, &device, method).await?;
    }
    let params = DeviceParams { scope: site.scope.clone(), device: device.device_id };
    Ok((target.call(method, &params).await?, roster))
}

/// A device to be retired has to be connected, one that is revoked must not be waited for.
async fn reach(target: &Target, site: &Site, device: &CandidateForm, method: Method) -> Result<(), Failure> {
    if method == Method::Retire && target.is_own() {
        target.start_network().await?;
        // Where it does not come, the node says so in its own words.
        look_for(target, site, LOOK_FOR, |peer| peer.connected && peer.device_id == device.device_id).await?;
    }
    Ok(())
}

fn tell(revoked: &RevokedForm, roster: &RosterForm, site: &Site, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(revoked);
    }
    let name = called(roster, &revoked.device_id);
    let done = output.paint(Tone::Good, "removed");
    output.line(format!(
        "{done} {name} ({}) from {}",
        short_device(&revoked.device_id),
        site.space_text()
    ))?;
    let connections = match revoked.connections_closed {
        0 => "it was not connected to this device".to_owned(),
        1 => "its connection to this device is closed".to_owned(),
        more => format!("its {more} connections to this device are closed"),
    };
    output.line(format!("  {connections}"))?;
    output.line(format!(
        "  kept of it: {}; whatever else it writes is refused",
        counted(revoked.ops_kept, "op")
    ))?;
    output.line(if revoked.new_key {
        "  everything from here on is written under a new key".to_owned()
    } else {
        let text = format!("the key is not renewed yet; `kinfold{} rotate` renews it", site.flag());
        format!("  {}", output.paint(Tone::Warn, text))
    })?;
    let unaware: Vec<String> = revoked.accepted_by.iter().map(|id| called(roster, id)).collect();
    if unaware.is_empty() {
        output.line("  every other device knows")?;
    } else {
        let text = format!("not heard yet, and may accept it until then: {}", unaware.join(", "));
        output.line(format!("  {}", output.paint(Tone::Warn, text)))?;
    }
    if !revoked.remains_in.is_empty() {
        let spaces = revoked.remains_in.iter().map(scope_name).collect::<Vec<_>>().join(", ");
        output.note(format!(
            "it still belongs to: {spaces}; `kinfold --space NAME revoke` removes it there too"
        ));
    }
    Ok(())
}

pub async fn rotate(site: &Site, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let outcome = async {
        let rotated: RotatedForm = target.call(Method::Rotate, &site.params()).await?;
        Ok::<_, Failure>((rotated, target.call::<RosterForm>(Method::Roster, &site.params()).await?))
    };
    let outcome = outcome.await;
    target.close().await?;
    let (rotated, roster) = outcome?;
    if output.is_json() {
        return output.json(&rotated);
    }
    let done = output.paint(Tone::Good, "renewed");
    output.line(format!("{done} the key of {}: epoch {}", site.space_text(), rotated.epoch))?;
    let names: Vec<String> = rotated.confirmed_by.iter().map(|id| called(&roster, id)).collect();
    if !names.is_empty() {
        output.line(format!("  already on: {}", names.join(", ")))?;
    }
    output.note("devices that are away get it when they connect");
    Ok(())
}

/// A space as a person names it.
pub fn scope_name(scope: &ScopeParam) -> String {
    match scope {
        ScopeParam::Personal => "personal".to_owned(),
        ScopeParam::Org(name) => name.clone(),
    }
}

/// How long a node that was started for this looks for the device.
const LOOK_FOR: Duration = Duration::from_secs(10);
