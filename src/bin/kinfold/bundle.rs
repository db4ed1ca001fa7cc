//! `bundle`: what a device lacks, in a file that is carried by hand.

use std::path::{Path, PathBuf};

use indicatif::{HumanBytes, ProgressBar};
use kinfold::control::bundle::{
    BundleExportParams, BundleExportedForm, BundleImportParams, BundleImportedForm, BundleProgressForm,
    MissingForm, NotTakenForm,
};
use kinfold::control::params::ScopeParam;
use kinfold::control::{Method, Notice};

use crate::args::{Bundle, BundleExport, BundleImport};
use crate::failure::Failure;
use crate::output::{Output, Tone, Unit, count, counted, short_device, time};
use crate::target::{Site, Target};

pub async fn run(site: &Site, command: Bundle, output: &Output) -> Result<(), Failure> {
    match command {
        Bundle::Export(export) => write(site, export, output).await,
        Bundle::Import(import) => read(&site.home, import, output).await,
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

async fn read(home: &Path, import: BundleImport, output: &Output) -> Result<(), Failure> {
    let path = absolute(import.file)?;
    let mut target = Target::open(home).await?;
    let bar = output.progress(0, Unit::Bytes);
    bar.set_message("importing");
    let params = BundleImportParams { path };
    let form = target.call_heard(Method::ImportBundle, &params, |notice| advance(&bar, &notice)).await;
    bar.finish_and_clear();
    target.close().await?;
    let form: BundleImportedForm = form?;
    if output.is_json() {
        output.json(&form)?;
    } else {
        tell(&form, output)?;
    }
    match form.missing.len() + form.not_taken.len() {
        0 => Ok(()),
        _ => Err(Failure::BundleIncomplete),
    }
}

fn tell(form: &BundleImportedForm, output: &Output) -> Result<(), Failure> {
    let is_new = form.ops + form.records + form.acks > 0;
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
    } else if form.missing.is_empty() && form.not_taken.is_empty() {
        output.line(format!("nothing new; here already: {} ({whose})", counted(form.held_ops, "op")))?;
    } else {
        output.line(format!("nothing was imported ({whose})"))?;
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
