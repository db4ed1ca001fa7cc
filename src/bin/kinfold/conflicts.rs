//! `conflicts`: every value that lost, with its device and time.

use kinfold::control::Method;
use kinfold::control::forms::{ConflictsForm, RowForm};
use kinfold::control::params::ConflictsParams;

use crate::args::{Conflicts, RowName};
use crate::failure::Failure;
use crate::output::{Output, short_device, time};
use crate::rows::{excerpt, find};
use crate::target::{Site, Target};

pub async fn run(site: &Site, command: Option<Conflicts>, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    match command.unwrap_or(Conflicts::List) {
        Conflicts::List => {
            let rows = all(&target, site).await;
            target.close().await?;
            list(&rows?, output)
        }
        Conflicts::Show(row) => {
            let found = find(&target, site, &row).await;
            target.close().await?;
            show(found?, site, row, output)
        }
    }
}

async fn all(target: &Target, site: &Site) -> Result<Vec<RowForm>, Failure> {
    let mut rows = Vec::new();
    let mut params = ConflictsParams { scope: site.scope.clone(), ..ConflictsParams::default() };
    loop {
        let page: ConflictsForm = target.call(Method::Conflicts, &params).await?;
        rows.extend(page.conflicts);
        match page.next {
            Some(next) => params.after = Some(next),
            None => return Ok(rows),
        }
    }
}

fn list(rows: &[RowForm], output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(&ConflictsForm { conflicts: rows.to_vec(), next: None });
    }
    if rows.is_empty() {
        return output.line("no conflicts");
    }
    let cells = |row: &RowForm| {
        let shown = if row.deleted { "(removed)".to_owned() } else { excerpt(row.payload.get()) };
        let values = (row.others.len() + 1).to_string();
        [row.surface.clone(), row.id.clone(), values, short_device(&row.device_id), shown]
    };
    output.table(["surface", "id", "values", "shown by", "shown"], rows.iter().map(cells).collect())
}

fn show(found: Option<RowForm>, site: &Site, row: RowName, output: &Output) -> Result<(), Failure> {
    let Some(found) = found else {
        return Err(Failure::NoRow { surface: row.surface, id: row.id });
    };
    if output.is_json() {
        return output.json(&found);
    }
    let value = |deleted: bool, text: &str| if deleted { "(removed)".to_owned() } else { excerpt(text) };
    let mut cells = vec![[
        "shown".to_owned(),
        short_device(&found.device_id),
        time(found.time_ms),
        value(found.deleted, found.payload.get()),
    ]];
    cells.extend(found.others.iter().map(|other| {
        [
            "lost".into(),
            short_device(&other.device_id),
            time(other.time_ms),
            value(other.deleted, other.payload.get()),
        ]
    }));
    output.table(["", "device", "time", "value"], cells)?;
    if !found.others.is_empty() {
        output.note(format!(
            "a new `kinfold put{} {} {} JSON` settles it",
            site.flag(),
            found.surface,
            found.id
        ));
    }
    Ok(())
}
