//! `checkpoint`: the state at what every active device holds, sealed and attested.

use kinfold::control::Method;
use kinfold::control::checkpoint::{CheckpointForm, CheckpointsForm, PublishedForm};
use kinfold::control::roster::RosterForm;

use crate::args::Checkpoint;
use crate::devices::called;
use crate::failure::Failure;
use crate::output::{Output, Tone, count, short_hash};
use crate::target::{Site, Target};

pub async fn run(site: &Site, args: Checkpoint, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let outcome =
        if args.list { list(&target, site, output).await } else { publish(&target, site, output).await };
    target.close().await?;
    outcome
}

async fn publish(target: &Target, site: &Site, output: &Output) -> Result<(), Failure> {
    let published: PublishedForm = target.call(Method::Checkpoint, &site.params()).await?;
    if output.is_json() {
        return output.json(&published);
    }
    let form = &published.checkpoint;
    let done = match published.published {
        true => output.paint(Tone::Good, "made"),
        false => output.paint(Tone::Quiet, "nothing new"),
    };
    let roster: RosterForm = target.call(Method::Roster, &site.params()).await?;
    output.line(format!(
        "{done}  checkpoint {} of {} ops, root {}, {} chunks",
        short_hash(&form.hash),
        count(form.ops),
        short_hash(&form.state_hash),
        count(form.chunks)
    ))?;
    output.line(format!("  attested by {}", attested(form, &roster)))?;
    if form.attested_by.len() < 2 {
        output.note("other devices attest it when they are connected; `kinfold checkpoint --list` shows it");
    }
    Ok(())
}

async fn list(target: &Target, site: &Site, output: &Output) -> Result<(), Failure> {
    let held: CheckpointsForm = target.call(Method::Checkpoints, &site.params()).await?;
    if output.is_json() {
        return output.json(&held);
    }
    if held.checkpoints.is_empty() {
        return output.line("no checkpoint yet; `kinfold checkpoint` makes one");
    }
    let roster: RosterForm = target.call(Method::Roster, &site.params()).await?;
    let cells = |form: &CheckpointForm| {
        let state = if form.whole { "whole" } else { "being fetched" };
        [
            short_hash(&form.hash).to_owned(),
            count(form.ops),
            short_hash(&form.state_hash).to_owned(),
            called(&roster, &form.author),
            attested(form, &roster),
            state.to_owned(),
        ]
    };
    output.table(
        ["checkpoint", "ops", "root", "by", "attested by", ""],
        held.checkpoints.iter().map(cells).collect(),
    )
}

fn attested(form: &CheckpointForm, roster: &RosterForm) -> String {
    let names: Vec<String> = form.attested_by.iter().map(|device| called(roster, device)).collect();
    if names.is_empty() { "nobody yet".to_owned() } else { names.join(", ") }
}
