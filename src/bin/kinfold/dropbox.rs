//! `dropbox`: a folder or bucket that devices leave sealed changes in for each other.

use std::path::Path;

use indicatif::HumanBytes;
use kinfold::control::Method;
use kinfold::control::dropbox::{DropboxForm, DropboxParams, DropboxesForm};
use kinfold::control::params::NoParams;

use crate::args::{Dropbox, DropboxPlace};
use crate::failure::Failure;
use crate::output::{Output, Tone, ago, count};
use crate::roster::scope_name;
use crate::target::{Site, Target};

pub async fn run(site: &Site, command: Option<Dropbox>, output: &Output) -> Result<(), Failure> {
    match command.unwrap_or(Dropbox::List) {
        Dropbox::List => list(&site.home, output).await,
        Dropbox::Add(place) => {
            let added = change(site, Method::AddDropbox, place, output).await?;
            let Some(added) = added else { return Ok(()) };
            let (done, space) = (output.paint(Tone::Good, "added"), scope_name(&added.scope));
            output.line(format!("{done} {} as a drop box of the space {space}", added.place))?;
            output.note(
                "add it on the other devices too; `kinfold sync` looks at it now, a running node by itself",
            );
            output.note("a new device is let in by pairing, which needs a meeting; never through a drop box");
            Ok(())
        }
        Dropbox::Rm(place) => {
            let removed = change(site, Method::RemoveDropbox, place, output).await?;
            let Some(removed) = removed else { return Ok(()) };
            output.line(format!(
                "{} {}; what lies there stays",
                output.paint(Tone::Good, "left"),
                removed.place
            ))
        }
    }
}

async fn change(
    site: &Site,
    method: Method,
    DropboxPlace { place }: DropboxPlace,
    output: &Output,
) -> Result<Option<DropboxForm>, Failure> {
    let target = Target::open(&site.home).await?;
    let params = DropboxParams { scope: site.scope.clone(), place: absolute(place)? };
    let form = target.call(method, &params).await;
    target.close().await?;
    let form: DropboxForm = form?;
    if output.is_json() {
        output.json(&form)?;
        return Ok(None);
    }
    Ok(Some(form))
}

async fn list(home: &Path, output: &Output) -> Result<(), Failure> {
    let target = Target::open(home).await?;
    let form = target.call(Method::Dropboxes, &NoParams {}).await;
    target.close().await?;
    let form: DropboxesForm = form?;
    if output.is_json() {
        return output.json(&form);
    }
    if form.dropboxes.is_empty() {
        return output.line("no drop box; `kinfold dropbox add FOLDER` makes a folder one");
    }
    output.lines(&lines(&form.dropboxes, output))
}

/// A table of drop boxes, and what is wrong with each.
pub fn lines(dropboxes: &[DropboxForm], output: &Output) -> Vec<String> {
    let cells = |dropbox: &DropboxForm| {
        let holds = format!("{} in {}", HumanBytes(dropbox.bytes), count(dropbox.objects));
        [
            dropbox.place.clone(),
            scope_name(&dropbox.scope),
            ago(dropbox.last_push_ms),
            ago(dropbox.last_pull_ms),
            count(dropbox.pending_ops),
            holds,
        ]
    };
    let heading = ["drop box", "space", "last push", "last pull", "pending ops", "holds"];
    let mut lines = Output::table_lines(heading, dropboxes.iter().map(cells).collect());
    for dropbox in dropboxes {
        if let Some(trouble) = &dropbox.trouble {
            let text = format!("{} cannot be used now: {trouble}", dropbox.place);
            lines.push(output.paint(Tone::Warn, text));
        }
        let mut said = Vec::new();
        let mut say = |number: u64, what: &str| {
            if number > 0 {
                said.push(format!("{} {what}", count(number)));
            }
        };
        say(dropbox.partial, "objects that are not whole yet");
        say(dropbox.not_taken_ops, "ops that were not taken");
        say(dropbox.foreign, "files of others");
        if !said.is_empty() {
            lines.push(format!("{} holds {}", dropbox.place, said.join(", ")));
        }
    }
    lines
}

/// So many drop boxes.
pub fn boxes(number: u32) -> String {
    if number == 1 { "1 drop box".to_owned() } else { format!("{number} drop boxes") }
}

/// A URL as it is, a folder from the root.
fn absolute(place: String) -> Result<String, Failure> {
    if place.contains("://") {
        return Ok(place);
    }
    let path = std::path::absolute(&place).map_err(|source| Failure::Input { path: place.into(), source })?;
    path.into_os_string().into_string().map_err(|path| Failure::PathText { path: path.into() })
}
