//! `export`: what is shown, as lines that `import` takes, in a stable order.

use kinfold::control::convert::new_op;
use kinfold::control::forms::{EventForm, ListForm, RowForm, SurfacesForm};
use kinfold::control::params::{AppendParams, ListParams, ScopeParam};
use kinfold::control::{Method, PAGE_ITEMS_MAX};
use kinfold::node::NewOp;
use serde_json::value::RawValue;

use crate::args::Export;
use crate::failure::Failure;
use crate::output::Output;
use crate::target::{Site, Target};

pub async fn run(site: &Site, args: Export, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let outcome = export_all(&target, site, args.surface.as_deref(), output).await;
    target.close().await?;
    outcome
}

async fn export_all(
    target: &Target,
    site: &Site,
    only: Option<&str>,
    output: &Output,
) -> Result<(), Failure> {
    let held: SurfacesForm = target.call(Method::Surfaces, &site.params()).await?;
    let mut conflicts = 0;
    // What runs said of themselves holds for this ledger only: it is no data to be written elsewhere.
    let wanted = held
        .surfaces
        .iter()
        .filter(|form| only.map_or(form.surface != "intent", |only| only == form.surface));
    for form in wanted {
        let mut after = None;
        loop {
            let page = page(target, site, &form.surface, after.take()).await?;
            conflicts += page.rows.iter().filter(|row| !row.others.is_empty()).count();
            for row in page.rows.into_iter().filter(|row| !row.deleted) {
                output.json(&row_line(row, &site.scope))?;
            }
            for event in page.events {
                output.json(&event_line(event, &site.scope))?;
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
    }
    if conflicts > 0 {
        output.note(format!("{conflicts} rows are in conflict: only their shown values were written"));
    }
    Ok(())
}

async fn page(
    target: &Target,
    site: &Site,
    surface: &str,
    after: Option<String>,
) -> Result<ListForm, Failure> {
    let params = ListParams {
        scope: site.scope.clone(),
        surface: surface.to_owned(),
        stream: None,
        after,
        limit: Some(PAGE_ITEMS_MAX),
        superseded: true,
    };
    target.call(Method::List, &params).await
}

/// A row as a line; its key only where the payload does not say it.
fn row_line(row: RowForm, scope: &ScopeParam) -> AppendParams {
    let mut line = bare_line(row.surface, row.payload, scope);
    let says_it = match new_op(&line) {
        Ok(NewOp::Put { key, .. } | NewOp::Fact { key, .. }) => key == row.id,
        Ok(NewOp::Delete { .. } | NewOp::Resolve { .. } | NewOp::Event { .. } | NewOp::Intent(_))
        | Err(_) => false,
    };
    line.key = (!says_it).then_some(row.id);
    line
}

/// An event as a line; its stream only where the payload does not say it.
fn event_line(event: EventForm, scope: &ScopeParam) -> AppendParams {
    let mut line = bare_line(event.surface, event.payload, scope);
    let says_it = matches!(new_op(&line), Ok(NewOp::Event { stream, .. }) if stream == event.stream);
    line.stream = (!says_it).then_some(event.stream);
    line
}

fn bare_line(surface: String, payload: Box<RawValue>, scope: &ScopeParam) -> AppendParams {
    AppendParams { scope: scope.clone(), surface, payload, key: None, stream: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exported_line_names_what_its_payload_does_not() {
        let row = |id: &str, payload: &str| {
            let row = RowForm {
                surface: "registry:note".into(),
                id: id.into(),
                deleted: false,
                payload: RawValue::from_string(payload.into()).unwrap(),
                device_id: String::new(),
                incarnation: String::new(),
                seq: 1,
                hlc: 1,
                time_ms: 1,
                op_id: String::new(),
                open: false,
                others: Vec::new(),
                superseded_by: Vec::new(),
                dropped: false,
            };
            serde_json::to_string(&row_line(row, &ScopeParam::Personal)).unwrap()
        };

        assert_eq!(row("a", r#"{"id":"a"}"#), r#"{"surface":"registry:note","payload":{"id":"a"}}"#);
        assert_eq!(row("a", "1.0"), r#"{"surface":"registry:note","payload":1.0,"key":"a"}"#);
        let flagged = r#"{"deleted":true,"id":"a"}"#;
        assert!(row("a", flagged).ends_with(r#","key":"a"}"#));
    }
}
