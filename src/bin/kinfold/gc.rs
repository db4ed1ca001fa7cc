//! `gc`: what holds history back, and dropping it.

use indicatif::HumanBytes;
use kinfold::control::Method;
use kinfold::control::forms::DeviceForm;
use kinfold::control::gc::{GcHoldForm, GcRunForm, GcRunParams, GcWhyForm};
use kinfold::control::roster::RosterForm;

use crate::args::{Gc, GcRun};
use crate::confirm::confirm;
use crate::devices::{called, dormancy};
use crate::failure::Failure;
use crate::output::{Output, Tone, ago, count, short_hash, time};
use crate::target::{Site, Target};

pub async fn run(site: &Site, command: Gc, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let outcome = match command {
        Gc::Why => why(&target, site, output).await,
        Gc::Run(args) => drop_history(&target, site, args, output).await,
    };
    target.close().await?;
    outcome
}

async fn why(target: &Target, site: &Site, output: &Output) -> Result<(), Failure> {
    let why: GcWhyForm = target.call(Method::GcWhy, &site.params()).await?;
    if output.is_json() {
        return output.json(&why);
    }
    match &why.base_checkpoint {
        Some(base) => output.line(format!("the history here begins with checkpoint {}", short_hash(base)))?,
        None => output.line("the history here begins with the first op")?,
    }
    if let Some(checkpoint) = why.checkpoint.as_ref().filter(|_| why.ops > 0) {
        output.line(format!(
            "checkpoint {} would take the place of {} ops, about {}",
            short_hash(&checkpoint.hash),
            count(why.ops),
            HumanBytes(why.bytes)
        ))?;
    }
    if why.ready {
        return output.line(format!("{}  `kinfold gc run` drops them", output.paint(Tone::Good, "ready")));
    }
    if let [only] = &why.holds[..]
        && only.reason == "NothingNew"
    {
        return output.line(format!("nothing to drop: {}", reason(only)));
    }
    let roster: RosterForm = target.call(Method::Roster, &site.params()).await?;
    let cells = |hold: &GcHoldForm| {
        let device = hold.device.as_deref().map_or_else(|| "-".to_owned(), |device| called(&roster, device));
        [device, reason(hold), hold.since_ms.map_or_else(|| "-".to_owned(), since)]
    };
    // None can be made, so that there is none, or no newer one, is not the reason.
    let is_unmet = why.holds.iter().any(|hold| hold.reason == "Unmet");
    let is_reason =
        |hold: &&GcHoldForm| !is_unmet || !matches!(hold.reason.as_str(), "NothingNew" | "NoCheckpoint");
    output.table(
        ["held back by", "because", "since"],
        why.holds.iter().filter(is_reason).map(cells).collect(),
    )?;
    let is_held_for =
        |device: &DeviceForm| why.holds.iter().any(|hold| hold.device.as_ref() == Some(&device.device_id));
    for device in roster.devices.iter().filter(|device| !is_held_for(device)) {
        if let Some(state) = dormancy(device) {
            let name = called(&roster, &device.device_id);
            output.note(output.paint(Tone::Quiet, format!("{name} is {state}: nothing waits for it")));
        }
    }
    Ok(())
}

async fn drop_history(target: &Target, site: &Site, args: GcRun, output: &Output) -> Result<(), Failure> {
    if args.now {
        let why: GcWhyForm = target.call(Method::GcWhy, &site.params()).await?;
        // Only what the days would still have held back is asked about.
        if let Some(checkpoint) = &why.checkpoint_if_now
            && !why.ready
        {
            let name = short_hash(&checkpoint.hash);
            let act = format!("dropping the history before checkpoint {name}");
            confirm(&act, name, args.yes, output).await?;
        }
    }
    let params = GcRunParams { scope: site.scope.clone(), now: args.now };
    let dropped: GcRunForm = target.call(Method::GcRun, &params).await?;
    if output.is_json() {
        return output.json(&dropped);
    }
    output.line(format!(
        "{}  {} ops; the history begins with checkpoint {}; the store has {} instead of {}",
        output.paint(Tone::Good, "dropped"),
        count(dropped.ops),
        short_hash(&dropped.base_checkpoint),
        HumanBytes(dropped.bytes_after),
        HumanBytes(dropped.bytes_before)
    ))
}

fn reason(hold: &GcHoldForm) -> String {
    let ops = count(hold.ops.unwrap_or_default());
    match hold.reason.as_str() {
        "NoCheckpoint" => "no checkpoint is whole here; `kinfold checkpoint` makes one".to_owned(),
        "NothingNew" => "that is the newest checkpoint".to_owned(),
        "Diverged" => "it has another state for the same ops; `kinfold verify` finds the row".to_owned(),
        "Disputed" => "two histories of its log exist; connect it".to_owned(),
        "Rewriting" => "its ops are being written again".to_owned(),
        "Forgotten" => {
            "it has forgotten ops that this device keeps for it; connect it (`kinfold revoke` gives them up)"
                .to_owned()
        }
        "Unmet" => {
            "not met since this home came from a backup or a copy; connect it, or `kinfold devices dormant` \
                    excuses it"
                .to_owned()
        }
        "Unattested" => {
            "it has not attested the checkpoint; connect it, and see `kinfold gc why` there".to_owned()
        }
        "OtherRules" => format!(
            "it folds by version {} of the rules and this program by another; update the older one",
            hold.version.unwrap_or_default()
        ),
        "NotHeld" => format!("it lacks {ops} ops; connect it"),
        "InDoubt" => {
            "it came back from a backup or is a copy, and has not met every device since; connect them"
                .to_owned()
        }
        "Unknown" => format!("it cannot fold {ops} ops: of a later version, or of a key that it lacks"),
        "Grace" => format!("all have attested it; it goes on {}", time(hold.until_ms.unwrap_or_default())),
        other => other.to_owned(),
    }
}

fn since(unix_millis: u64) -> String {
    let now = kinfold::clock::wall().as_millis();
    ago(Some(now.saturating_sub(unix_millis)))
}
