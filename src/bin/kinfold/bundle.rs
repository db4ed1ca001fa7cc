//! `bundle`: what a device lacks, in a file that is carried by hand.

use std::path::PathBuf;

use indicatif::{HumanBytes, ProgressBar};
use kinfold::control::bundle::{
    BundleExportParams, BundleExportedForm, BundleImportParams, BundleImportedForm, BundleProgressForm,
    MissingForm, NotTakenForm,
};
use kinfold::control::params::{ScopeParam, ScopeParams};
use kinfold::control::roster::RosterForm;
use kinfold::control::{Method, Notice};

use crate::args::{Bundle, BundleExport, BundleImport};
use crate::failure::Failure;
use crate::output::{Output, Tone, Unit, count, counted, short_device, short_hash, time};
use crate::rebase::show_waiting;
use crate::target::{Site, Target};

pub async fn run(site: &Site, command: Bundle, output: &Output) -> Result<(), Failure> {
    match command {
        Bundle::Export(export) => write(site, export, output).await,
        Bundle::Import(import) => read(site, import, output).await,
    }
}

async fn write(site: &Site, export: BundleExport, output: &Output) -> Result<(), Failure> {
    let path = absolute(export.file)?;
    let mut target = Target::open(&site.home).await?;
    let params = BundleExportParams { scope: site.scope.clone(), path, receiver: export.receiver };
    let bar = output.progress(0, Unit::Bytes);
    bar.set_message("exporting");
    let form = target.call_heard(Method::ExportBundle, &params, |notice| advance(&bar, &notice)).await;
    bar.finish_and_clear();
    target.close().await?;
    let form: BundleExportedForm = form?;
    if output.is_json() {
        return output.json(&form);
    }
    let (done, ops, logs) =
        (output.paint(Tone::Good, "exported"), counted(form.ops, "op"), counted(form.logs, "log"));
    let (records, acks) = (counted(form.records, "record"), counted(form.acks, "ack"));
    let size = HumanBytes(form.bytes);
    output.line(format!("{done} {ops} of {logs}, {records}, {acks}: {size} in {}", form.path.display()))?;
    if let Some(checkpoint) = &form.checkpoint {
        output.note(format!(
            "of {} before, which were dropped here, it holds checkpoint {}",
            counted(form.checkpoint_ops, "op"),
            short_hash(checkpoint)
        ));
    }
    match (form.receiver, form.beyond_ack_of_ms) {
        (Some(device), Some(at)) => output.note(format!(
            "it holds what {} lacked when it last said what it has, on {}",
            short_device(&device),
            time(at)
        )),
        (Some(device), None) => {
            output.note(format!("{} has never said what it has, so everything is in", short_device(&device)))
        }
        (None, _) => {}
    }
    output.note("it is sealed and holds no keys; devices of the space take it with `kinfold bundle import`");
    Ok(())
}

async fn read(site: &Site, import: BundleImport, output: &Output) -> Result<(), Failure> {
    let path = absolute(import.file)?;
    let mut target = Target::open(&site.home).await?;
    let bar = output.progress(0, Unit::Bytes);
    bar.set_message("importing");
    let params = BundleImportParams { path, accept: import.yes };
    let form = target.call_heard(Method::ImportBundle, &params, |notice| advance(&bar, &notice)).await;
    bar.finish_and_clear();
    let roster = match &form {
        Ok(BundleImportedForm { scope, waiting: Some(_), .. }) => {
            let params = ScopeParams { scope: scope.clone() };
            Some(target.call::<RosterForm>(Method::Roster, &params).await)
        }
        _ => None,
    };
    target.close().await?;
    let (form, roster) = (form?, roster.transpose()?);
    if output.is_json() {
        output.json(&form)?;
    } else {
        tell(&form, output)?;
        if let (Some(waiting), Some(roster)) = (&form.waiting, &roster) {
            show_waiting(waiting, roster, output)?;
        }
    }
    match &form.waiting {
        Some(waiting) => Err(Failure::BaseWaits {
            why: waiting.message.clone(),
            hint: waiting.hint.clone(),
            is_passing: waiting.passing,
        }),
        None if form.missing.len() + form.not_taken.len() > 0 => Err(Failure::BundleIncomplete),
        None => Ok(()),
    }
}

fn tell(form: &BundleImportedForm, output: &Output) -> Result<(), Failure> {
    let is_new = form.ops + form.records + form.acks > 0 || form.base_checkpoint.is_some();
    let space = match &form.scope {
        ScopeParam::Personal => String::new(),
        ScopeParam::Org(name) => format!(" into the space of {name}"),
    };
    let whose = format!("exported by {} on {}", short_device(&form.exported_by), time(form.exported_ms));
    if is_new {
        output.line(format!(
            "{} {}, {}, {}{space}; here already: {} ({whose})",
            output.paint(Tone::Good, "imported"),
            counted(form.ops, "op"),
            counted(form.records, "record"),
            counted(form.acks, "ack"),
            counted(form.held_ops, "op")
        ))?;
    } else if form.missing.is_empty() && form.not_taken.is_empty() && form.waiting.is_none() {
        output.line(format!("nothing new; here already: {} ({whose})", counted(form.held_ops, "op")))?;
    } else {
        output.line(format!("nothing was imported ({whose})"))?;
    }
    if let Some(base) = &form.base_checkpoint {
        output.line(format!("the history here begins with checkpoint {} now", short_hash(base)))?;
    }
    if form.unknown_parts > 0 {
        output.note(format!(
            "left out: {} of a later version; update this program",
            counted(form.unknown_parts, "part")
        ));
    }
    form.missing.iter().try_for_each(|missing| output.line(missing_text(missing)))?;
    form.not_taken.iter().try_for_each(|not_taken| output.line(not_taken_text(not_taken)))
}

fn missing_text(missing: &MissingForm) -> String {
    match (missing.what.as_str(), &missing.device_id, missing.first, missing.last) {
        ("ops", Some(device), Some(first), Some(last)) => {
            format!("missing: ops {} to {} of {}", count(first), count(last), short_device(device))
        }
        ("checkpoint", ..) => "missing: parts of the checkpoint".into(),
        ("unknown", ..) => "missing: a part of a later version".into(),
        (what, ..) => format!("missing: {what}"),
    }
}

fn not_taken_text(not_taken: &NotTakenForm) -> String {
    let (first, last) = (count(not_taken.first), count(not_taken.last));
    format!("not taken: ops {first} to {last} of {}: {}", short_device(&not_taken.device_id), not_taken.why)
}

/// The running node has another working directory.
fn absolute(file: PathBuf) -> Result<PathBuf, Failure> {
    std::path::absolute(&file).map_err(|source| Failure::Input { path: file, source })
}

fn advance(bar: &ProgressBar, notice: &Notice) {
    if let Ok(progress) = serde_json::from_str::<BundleProgressForm>(notice.params.get()) {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    }
}
