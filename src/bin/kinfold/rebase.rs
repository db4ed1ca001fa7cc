//! `rebase`: begins with a checkpoint of other devices where the history before it is not to be had.

use std::io::Write;
use std::time::Duration;

use kinfold::control::Method;
use kinfold::control::forms::StatusForm;
use kinfold::control::rebase::{RebaseForm, RebaseParams, WaitingForm};
use kinfold::control::roster::RosterForm;

use crate::args::Rebase;
use crate::confirm::is_attended;
use crate::devices::called;
use crate::failure::Failure;
use crate::output::{Output, Tone, count, short_hash};
use crate::state::look_for;
use crate::target::{Site, Target};

pub async fn run(site: &Site, args: Rebase, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let outcome = rebase(&target, site, &args).await;
    let roster = target.call::<RosterForm>(Method::Roster, &site.params()).await;
    target.close().await?;
    let ((form, is_reached), roster) = (outcome?, roster?);
    if output.is_json() {
        output.json(&form)?;
    } else {
        show(&form, &roster, output)?;
    }
    match &form.waiting {
        Some(waiting) => Err(Failure::BaseWaits {
            why: waiting.message.clone(),
            hint: waiting.hint.clone(),
            is_passing: waiting.passing,
        }),
        None if !form.rebased && !is_reached => {
            Err(Failure::NobodyReached { seconds: args.timeout.as_secs() })
        }
        None => Ok(()),
    }
}

/// What it came to, and whether another device was there to be asked.
async fn rebase(target: &Target, site: &Site, args: &Rebase) -> Result<(RebaseForm, bool), Failure> {
    let status: StatusForm = target.call(Method::Status, &site.params()).await?;
    if target.is_own() {
        target.start_network().await?;
    }
    let is_alone = status.roster.len() <= 1;
    if !is_alone && !status.peers.iter().any(|peer| peer.connected) {
        look_for(target, site, args.timeout, |peer| peer.connected).await?;
    }
    let params = RebaseParams { scope: site.scope.clone(), accept: args.yes };
    let form = target.call(Method::Rebase, &params).await?;
    let status: StatusForm = target.call(Method::Status, &site.params()).await?;
    Ok((form, is_alone || status.peers.iter().any(|peer| peer.connected)))
}

fn show(form: &RebaseForm, roster: &RosterForm, output: &Output) -> Result<(), Failure> {
    if let Some(waiting) = &form.waiting {
        return show_waiting(waiting, roster, output);
    }
    let text = match (&form.base_checkpoint, form.rebased) {
        (Some(base), true) => {
            let done = output.paint(Tone::Good, "rebased");
            format!("{done}  the history here begins with checkpoint {} now", short_hash(base))
        }
        (Some(base), false) => {
            format!("nothing to do: the history here begins with checkpoint {} and goes on", short_hash(base))
        }
        (None, _) => "nothing to do: the history here begins with the first op".to_owned(),
    };
    output.line(text)
}

/// After a join: where the history of the space is only to be had as a checkpoint that one device alone
/// attests, asks whether that one will do. The person has just held the two screens side by side.
pub async fn offer(target: &Target, site: &Site, yes: bool, output: &Output) -> Result<(), Failure> {
    if target.is_own() {
        if !yes {
            return Ok(());
        }
        target.start_network().await?;
    }
    let Some(waiting) = awaited(target, site).await? else { return Ok(()) };
    let roster: RosterForm = target.call(Method::Roster, &site.params()).await?;
    if !yes && !output.is_json() {
        show_waiting(&waiting, &roster, output)?;
    }
    if !yes && (output.is_json() || !is_attended() || !agrees().await?) {
        output.note(
            "nothing of the space is shown until a second device attests it, or `kinfold rebase --yes`",
        );
        return Ok(());
    }
    let params = RebaseParams { scope: site.scope.clone(), accept: true };
    let form: RebaseForm = target.call(Method::Rebase, &params).await?;
    if output.is_json() { Ok(()) } else { show(&form, &roster, output) }
}

/// What waits for a word, once a device of the space is connected; `None` where the history comes by itself.
async fn awaited(target: &Target, site: &Site) -> Result<Option<WaitingForm>, Failure> {
    let until = tokio::time::Instant::now() + OFFERED_WITHIN;
    while tokio::time::Instant::now() < until {
        let status: StatusForm = target.call(Method::Status, &site.params()).await?;
        let waits = status.waiting.filter(|waiting| waiting.kind == "Unattested");
        if waits.is_some() {
            return Ok(waits);
        }
        let is_here = |peer: &kinfold::control::forms::PeerForm| peer.connected && peer.ahead_by == 0;
        if status.base_checkpoint.is_some() || status.peers.iter().any(is_here) {
            return Ok(None);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(None)
}

async fn agrees() -> Result<bool, Failure> {
    eprint!("Begin with it although no second device attests it? [y/N] ");
    // A question that cannot be shown is answered by nobody, and then nothing is done.
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    let read = move || std::io::stdin().read_line(&mut line).map(|_| line);
    let read = tokio::task::spawn_blocking(read).await.expect("a read does not panic and is not aborted");
    let line = read.map_err(Failure::StandardInput)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// Shows a checkpoint that this device is to begin with, and what is missing.
pub fn show_waiting(waiting: &WaitingForm, roster: &RosterForm, output: &Output) -> Result<(), Failure> {
    let names = |devices: &[String]| -> String {
        let names: Vec<String> = devices.iter().map(|device| called(roster, device)).collect();
        names.join(", ")
    };
    output.line(format!(
        "{}  checkpoint {} of {} ops, {} chunks, made by {}",
        output.paint(Tone::Warn, "waiting"),
        short_hash(&waiting.checkpoint),
        count(waiting.ops),
        count(waiting.chunks),
        called(roster, &waiting.author)
    ))?;
    let attested =
        if waiting.attested_by.is_empty() { "nobody".to_owned() } else { names(&waiting.attested_by) };
    output.line(format!("  attested by {attested}; {} devices are asked for", waiting.needed))?;
    if !waiting.repeated_by.is_empty() {
        output.line(format!(
            "  {} began with a checkpoint too, and vouches only for what came after",
            names(&waiting.repeated_by)
        ))?;
    }
    Ok(())
}

/// How long a join looks for what it begins with: the inviter is right there.
const OFFERED_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);
