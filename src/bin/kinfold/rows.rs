//! `put`, `get`, `list`, `rm` and `event`.

use std::io::Read;
use std::path::PathBuf;

use kinfold::control::forms::{AppendedForm, ListForm, RowForm, SurfacesForm};
use kinfold::control::params::{AppendParams, ListParams, RowParams};
use kinfold::control::{ControlError, Method, PAGE_ITEMS_MAX};
use kinfold::model::limits::PAYLOAD_BYTES_MAX;
use kinfold::model::{Payload, Surface, Tier};
use serde_json::value::RawValue;

use crate::args::{Event, Get, List, Put, RowName};
use crate::failure::Failure;
use crate::output::{Output, Tone, count, short_device, short_hash, time};
use crate::past;
use crate::target::{Site, Target};

pub async fn put(site: &Site, put: Put, output: &Output) -> Result<(), Failure> {
    let params = AppendParams {
        scope: site.scope.clone(),
        surface: put.row.surface,
        payload: value(&put.value)?,
        key: Some(put.row.id),
        stream: None,
    };
    append(site, &params, output).await
}

pub async fn event(site: &Site, event: Event, output: &Output) -> Result<(), Failure> {
    let params = AppendParams {
        scope: site.scope.clone(),
        surface: event.surface,
        payload: value(&event.value)?,
        key: None,
        stream: Some(event.stream),
    };
    append(site, &params, output).await
}

async fn append(site: &Site, params: &AppendParams, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let appended = target.call(Method::Append, params).await;
    target.close().await?;
    tell(&appended?, output)
}

pub async fn get(site: &Site, get: Get, output: &Output) -> Result<(), Failure> {
    let row = get.row;
    if let Some(at) = &get.at {
        return past::get(site, row, at, output).await;
    }
    let target = Target::open(&site.home).await?;
    let found = find(&target, site, &row).await;
    target.close().await?;
    let found = found?;
    if let Some(dropped) = found.as_ref().filter(|found| found.dropped && !output.is_json()) {
        return Err(Failure::Dropped { surface: dropped.surface.clone(), id: dropped.id.clone() });
    }
    let Some(found) = found.filter(|found| output.is_json() || !found.deleted) else {
        return Err(Failure::NoRow { surface: row.surface, id: row.id });
    };
    if output.is_json() {
        return output.json(&found);
    }
    output.line(found.payload.get())?;
    if !found.superseded_by.is_empty() {
        output.note(format!("superseded by {}", found.superseded_by.join(", ")));
    }
    if found.open {
        output.note(format!(
            "conflict: {}; `kinfold conflicts{} show {} {}`",
            others(found.others.len()),
            site.flag(),
            found.surface,
            found.id
        ));
    }
    Ok(())
}

pub async fn rm(site: &Site, row: RowName, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let removed = remove(&target, site, row).await;
    target.close().await?;
    tell(&removed?, output)
}

async fn remove(target: &Target, site: &Site, row: RowName) -> Result<AppendedForm, Failure> {
    match find(target, site, &row).await? {
        Some(found) if !found.deleted => {
            let params = RowParams { scope: site.scope.clone(), surface: row.surface, id: row.id };
            target.call(Method::Delete, &params).await
        }
        _ => Err(Failure::NoRow { surface: row.surface, id: row.id }),
    }
}

/// One row, removed or not.
pub async fn find(target: &Target, site: &Site, row: &RowName) -> Result<Option<RowForm>, Failure> {
    let params = RowParams { scope: site.scope.clone(), surface: row.surface.clone(), id: row.id.clone() };
    target.call(Method::Get, &params).await
}

pub async fn list(site: &Site, list: List, output: &Output) -> Result<(), Failure> {
    if let Some(at) = &list.at {
        return past::list(site, &list, at, output).await;
    }
    let target = Target::open(&site.home).await?;
    let Some(surface) = list.surface.clone() else {
        let surfaces = target.call(Method::Surfaces, &site.params()).await;
        target.close().await?;
        return show_surfaces(&surfaces?, output);
    };
    let page = pages(&target, site, &list, surface.clone()).await;
    target.close().await?;
    show_page(&page?, site, &surface, output)
}

/// As many pages as the limit takes, as one.
async fn pages(target: &Target, site: &Site, list: &List, surface: String) -> Result<ListForm, Failure> {
    let mut all = ListForm { next: list.after.clone(), ..ListForm::default() };
    let mut left = usize::try_from(list.limit).unwrap_or(usize::MAX);
    loop {
        let params = ListParams {
            scope: site.scope.clone(),
            surface: surface.clone(),
            stream: list.stream.clone(),
            after: all.next.take(),
            limit: Some(left.min(PAGE_ITEMS_MAX)),
            superseded: list.superseded,
        };
        let page: ListForm = target.call(Method::List, &params).await?;
        left = left.saturating_sub(page.rows.len() + page.events.len());
        all.rows.extend(page.rows);
        all.events.extend(page.events);
        all.next = page.next;
        if all.next.is_none() || left == 0 {
            return Ok(all);
        }
    }
}

/// How many other values there are, in words.
pub fn others(count: usize) -> String {
    match count {
        1 => "1 other value".to_owned(),
        count => format!("{count} other values"),
    }
}

pub fn show_surfaces(held: &SurfacesForm, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(held);
    }
    let row = |form: &kinfold::control::forms::SurfaceForm| {
        [form.surface.clone(), count(form.count), form.holds.clone()]
    };
    output.table(["surface", "count", "holds"], held.surfaces.iter().map(row).collect())
}

pub fn show_page(page: &ListForm, site: &Site, surface: &str, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(page);
    }
    // The answer to a page of the other tier is empty on the other side, so the surface decides.
    let has_events = surface.parse::<Surface>().is_ok_and(|surface| surface.tier() == Tier::Events);
    if has_events {
        let event = |form: &kinfold::control::forms::EventForm| {
            let by = short_device(&form.device_id);
            [form.stream.clone(), time(form.time_ms), by, excerpt(form.payload.get())]
        };
        output.table(["stream", "time", "device", "payload"], page.events.iter().map(event).collect())?;
    } else {
        let row = |form: &RowForm| {
            let by = short_device(&form.device_id);
            [form.id.clone(), time(form.time_ms), by, marks(form), excerpt(form.payload.get())]
        };
        output.table(["id", "time", "device", "", "payload"], page.rows.iter().map(row).collect())?;
    }
    if let Some(next) = &page.next {
        output.note(format!("more: `kinfold list {surface}{} --after '{next}'`", site.flag()));
    }
    Ok(())
}

/// What sets a row apart from others of its page.
fn marks(form: &RowForm) -> String {
    let conflict = form.open.then(|| "conflict".to_owned());
    let superseded = form.superseded_by.first().map(|by| match form.superseded_by.len() {
        1 => format!("superseded by {by}"),
        count => format!("superseded by {by} and {} more", count - 1),
    });
    conflict.into_iter().chain(superseded).collect::<Vec<_>>().join(", ")
}

pub fn tell(appended: &AppendedForm, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(appended);
    }
    let done = output.paint(Tone::Good, "recorded");
    output.line(format!("{done} op {} seq {}", short_hash(&appended.op_id), appended.seq))
}

/// JSON from an argument, `@FILE` or `-`, in canonical form.
pub fn value(argument: &str) -> Result<Box<RawValue>, Failure> {
    let payload = Payload::parse(&text(argument)?).map_err(ControlError::from)?;
    Ok(RawValue::from_string(payload.to_string()).expect("a payload is JSON: Payload::parse made it"))
}

/// An argument, or what `@FILE` or `-` stands for.
pub fn text(argument: &str) -> Result<String, Failure> {
    if argument == "-" {
        return read(std::io::stdin().lock(), Failure::StandardInput);
    }
    let Some(path) = argument.strip_prefix('@') else { return Ok(argument.to_owned()) };
    let path = PathBuf::from(path);
    let unreadable = |source| Failure::Input { path: path.clone(), source };
    read(std::fs::File::open(&path).map_err(unreadable)?, unreadable)
}

fn read(source: impl Read, unreadable: impl Fn(std::io::Error) -> Failure) -> Result<String, Failure> {
    let mut text = String::new();
    let limit = VALUE_BYTES_MAX as u64 + 1;
    source.take(limit).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() > VALUE_BYTES_MAX {
        return Err(Failure::ValueTooLong { limit: VALUE_BYTES_MAX });
    }
    Ok(text)
}

/// The beginning of a payload, for a table.
pub fn excerpt(text: &str) -> String {
    if text.chars().count() <= EXCERPT_CHARACTERS {
        return text.to_owned();
    }
    text.chars().take(EXCERPT_CHARACTERS - 1).chain(['…']).collect()
}

/// White space included; the canonical form has a limit of its own.
const VALUE_BYTES_MAX: usize = 16 * PAYLOAD_BYTES_MAX;

/// What fits beside the other columns of a wide terminal.
const EXCERPT_CHARACTERS: usize = 96;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_value_comes_from_an_argument_or_a_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b" {\"b\": 1.0, \"a\": 2}\n").unwrap();

        assert_eq!(value("[1, 2]").unwrap().get(), "[1,2]");
        assert_eq!(value(&format!("@{}", file.path().display())).unwrap().get(), r#"{"a":2,"b":1.0}"#);
        assert!(matches!(value("@/no/such/file"), Err(Failure::Input { .. })));
        assert!(matches!(value("nonsense"), Err(Failure::Refused(error)) if error.data.kind == "NotJson"));
        let spaces = " ".repeat(VALUE_BYTES_MAX + 1);
        assert!(matches!(read(spaces.as_bytes(), Failure::StandardInput), Err(Failure::ValueTooLong { .. })));
    }

    #[test]
    fn an_excerpt_is_cut_between_characters() {
        let long = "ü".repeat(EXCERPT_CHARACTERS + 1);

        assert_eq!(excerpt("short"), "short");
        assert_eq!(excerpt(&long).chars().count(), EXCERPT_CHARACTERS);
    }
}
