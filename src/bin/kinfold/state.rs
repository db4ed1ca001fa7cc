//! `sync`, `wait` and `safe-to-sleep`.

use std::time::Duration;

use kinfold::control::dropbox::DropboxesForm;
use kinfold::control::forms::{PeerForm, RoundForm, SafeToSleepForm, StatusForm, WaitForm};
use kinfold::control::params::{NoParams, PumpParams, WaitParams};
use kinfold::control::roster::RosterForm;
use kinfold::control::{Method, RpcError};
use serde_json::json;
use tokio::time::Instant;

use crate::args::{SyncArgs, Wait};
use crate::devices::called;
use crate::failure::Failure;
use crate::output::{Output, Tone, count, counted, short_device, short_hash};
use crate::progress::until_answered;
use crate::target::{Site, Target};

pub async fn sync(site: &Site, args: SyncArgs, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let round = one_round(&target, site, args, output).await;
    target.close().await?;
    let round: RoundForm = round?;
    if output.is_json() {
        output.json(&round)?;
    } else {
        show_round(&round, output)?;
    }
    if !round.absent.is_empty() {
        let devices: Vec<String> = round.absent.iter().map(|device| short_device(device)).collect();
        return Err(Failure::NotReached { devices: devices.join(", ") });
    }
    if round.dropboxes_failed > 0 && !output.is_json() {
        return Err(Failure::DropboxesFailed { failed: round.dropboxes_failed });
    }
    Ok(())
}

fn show_round(round: &RoundForm, output: &Output) -> Result<(), Failure> {
    if round.peers == 0 && round.dropboxes == 0 && round.absent.is_empty() {
        output.line("no other device is connected; nothing moved")?;
        output.note("hint: `kinfold status` shows when each was last heard of");
        return Ok(());
    }
    let root = round.state_hash.as_deref().map_or("unknown", short_hash);
    let (devices, pushed) = (counted(u64::from(round.peers), "device"), counted(round.pushed, "op"));
    output.line(format!("{devices}, {pushed} sent, {} received, root {root}", count(round.folded)))?;
    if round.dropboxes > 0 {
        let (places, left) = (crate::dropbox::boxes(round.dropboxes), counted(round.dropbox_pushed, "op"));
        output.line(format!("{places}, {left} left there, {} taken", count(round.dropbox_pulled)))?;
    }
    Ok(())
}

/// A node opened for this round first has to find somebody.
async fn one_round(
    target: &Target,
    site: &Site,
    args: SyncArgs,
    output: &Output,
) -> Result<RoundForm, Failure> {
    let named = if args.devices.is_empty() {
        Vec::new()
    } else {
        let roster: RosterForm = target.call(Method::Roster, &site.params()).await?;
        roster.find_peers(&args.devices).map_err(RpcError::from)?
    };
    target.start_network().await?;
    let params = PumpParams { scope: site.scope.clone(), peers: named.clone() };
    if target.is_own() && !look_for_all(target, site, &named, args.timeout).await? {
        return Err(Failure::NobodyReached { seconds: args.timeout.as_secs() });
    }
    until_answered(target, site, &params, target.call(Method::Pump, &params), output).await
}

/// Whether there is somebody to make a round with: those that are named, or else anybody, where a drop
/// box counts too.
async fn look_for_all(
    target: &Target,
    site: &Site,
    named: &[String],
    patience: Duration,
) -> Result<bool, Failure> {
    if named.is_empty() {
        let form: DropboxesForm = target.call(Method::Dropboxes, &NoParams {}).await?;
        let has_place = !form.dropboxes.is_empty();
        // Whoever has left something in a drop box is seldom awake too.
        let patience = if has_place { patience.min(LOOK_BESIDE) } else { patience };
        return Ok(look_for(target, site, patience, |peer| peer.connected).await? || has_place);
    }
    let until = Instant::now() + patience;
    let mut is_any = false;
    for device in named {
        let rest = until.saturating_duration_since(Instant::now());
        let is_it = |peer: &PeerForm| peer.connected && peer.device_id == *device;
        is_any |= look_for(target, site, rest, is_it).await?;
    }
    Ok(is_any)
}

/// Waits for a device of the space such as is looked for; false where none came in time.
pub async fn look_for(
    target: &Target,
    site: &Site,
    patience: Duration,
    is_it: impl Fn(&PeerForm) -> bool,
) -> Result<bool, Failure> {
    let until = Instant::now() + patience;
    loop {
        let status: StatusForm = target.call(Method::Status, &site.params()).await?;
        if status.peers.iter().any(&is_it) {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

pub async fn wait(site: &Site, args: Wait, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let held = held(&target, site, args, output).await;
    let names = match &held {
        Ok(held) => names(&target, site, &held.holders).await,
        Err(_) => String::new(),
    };
    target.close().await?;
    let held = held?;
    if output.is_json() {
        return output.json(&held);
    }
    output.line(format!("{} by {names}", output.paint(Tone::Good, "held")))
}

/// What these devices are called; ids where that cannot be asked.
async fn names(target: &Target, site: &Site, devices: &[String]) -> String {
    let roster: Result<RosterForm, Failure> = target.call(Method::Roster, &site.params()).await;
    let name = |device: &String| match &roster {
        Ok(roster) => called(roster, device),
        Err(_) => short_device(device),
    };
    devices.iter().map(name).collect::<Vec<_>>().join(", ")
}

async fn held(target: &Target, site: &Site, args: Wait, output: &Output) -> Result<WaitForm, Failure> {
    target.start_network().await?;
    let status: StatusForm = target.call(Method::Status, &site.params()).await?;
    if status.peers.len() < args.on as usize {
        let others = match status.peers.len() {
            0 => "no other device belongs".to_owned(),
            1 => "only 1 other device belongs".to_owned(),
            more => format!("only {more} other devices belong"),
        };
        output.note(format!("{others} to {} so far", site.space_text()));
    }
    let timeout_ms = args.timeout.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    let params = WaitParams { scope: site.scope.clone(), op_id: args.op, on: args.on, timeout_ms };
    target.call(Method::Wait, &params).await
}

pub async fn safe_to_sleep(site: &Site, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let answer: Result<SafeToSleepForm, Failure> = target.call(Method::SafeToSleep, &site.params()).await;
    let names = match &answer {
        Ok(answer) => names(&target, site, &answer.holders).await,
        Err(_) => String::new(),
    };
    let status: Result<StatusForm, Failure> = target.call(Method::Status, &site.params()).await;
    let is_alone = status.is_ok_and(|status| status.peers.is_empty());
    target.close().await?;
    let answer = answer?;
    if output.is_json() {
        output.json(
            &json!({ "safe": answer.safe, "holders": answer.holders, "unheld_ops": answer.unheld_ops }),
        )?;
    } else if answer.safe {
        let holds = if answer.holders.len() == 1 { "holds" } else { "hold" };
        output.line(format!("{}: {names} {holds} everything", output.paint(Tone::Good, "safe")))?;
    }
    if answer.safe { Ok(()) } else { Err(Failure::NotSafe { unheld: answer.unheld_ops, is_alone }) }
}

/// How long to look for a device where there is a drop box to look into.
const LOOK_BESIDE: Duration = Duration::from_secs(2);

/// Between two looks for a first connection.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
