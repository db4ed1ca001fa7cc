//! `frontier`, and `get` and `list` as of a moment.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kinfold::control::Method;
use kinfold::control::forms::{StatusForm, SurfacesForm};
use kinfold::control::past::{FrontierParam, StateAtForm, StateAtParams};

use crate::args::{List, RowName};
use crate::failure::Failure;
use crate::output::{Output, counted, short_hash};
use crate::rows::{others, show_page, show_surfaces};
use crate::target::{Site, Target};

pub async fn frontier(site: &Site, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    // What is read from the status while the index is being read has no frontier; a row waits for it.
    let read = async {
        let _: SurfacesForm = target.call(Method::Surfaces, &site.params()).await?;
        target.call::<StatusForm>(Method::Status, &site.params()).await
    };
    let status = read.await;
    target.close().await?;
    let status = status?;
    let frontier = status.frontier.unwrap_or_else(|| "none".to_owned());
    if output.is_json() {
        let state_hash = status.state_hash;
        return output.json(&serde_json::json!({ "frontier": frontier, "state_hash": state_hash }));
    }
    output.line(frontier)
}

pub async fn get(site: &Site, row: RowName, at: &str, output: &Output) -> Result<(), Failure> {
    let params =
        StateAtParams { surface: Some(row.surface.clone()), id: Some(row.id.clone()), ..moment(site, at)? };
    let state = state_at(site, &params).await?;
    if output.is_json() {
        return output.json(&state);
    }
    let found = state.row.ok_or(Failure::NoRow { surface: row.surface, id: row.id })?;
    if found.dropped {
        return Err(Failure::Dropped { surface: found.surface, id: found.id });
    }
    output.line(found.payload.get())?;
    if !found.superseded_by.is_empty() {
        output.note(format!("it was superseded by {}", found.superseded_by.join(", ")));
    }
    if found.open {
        output.note(format!("it was in conflict with {}", others(found.others.len())));
    }
    Ok(())
}

pub async fn list(site: &Site, list: &List, at: &str, output: &Output) -> Result<(), Failure> {
    let limit = usize::try_from(list.limit).unwrap_or(usize::MAX).min(kinfold::control::PAGE_ITEMS_MAX);
    let params = StateAtParams {
        surface: list.surface.clone(),
        stream: list.stream.clone(),
        after: list.after.clone(),
        limit: Some(limit),
        superseded: list.superseded,
        ..moment(site, at)?
    };
    let state = state_at(site, &params).await?;
    if output.is_json() {
        return output.json(&state);
    }
    output.note(format!("{}, root {}", counted(state.ops, "op"), short_hash(&state.state_hash)));
    match (&state.page, &list.surface, state.surfaces) {
        (Some(page), Some(surface), _) => show_page(page, site, surface, output),
        (_, _, surfaces) => show_surfaces(&SurfacesForm { surfaces: surfaces.unwrap_or_default() }, output),
    }
}

async fn state_at(site: &Site, params: &StateAtParams) -> Result<StateAtForm, Failure> {
    let target = Target::open(&site.home).await?;
    let state = target.call(Method::StateAt, params).await;
    target.close().await?;
    state
}

fn moment(site: &Site, at: &str) -> Result<StateAtParams, Failure> {
    let params = StateAtParams { scope: site.scope.clone(), ..StateAtParams::default() };
    if at.contains('/') || at == "none" {
        return Ok(StateAtParams { frontier: Some(FrontierParam::Text(at.to_owned())), ..params });
    }
    let now = SystemTime::now();
    let moment = humantime::parse_rfc3339_weak(at)
        .ok()
        .or_else(|| now.checked_sub(humantime::parse_duration(at).ok()?))
        .ok_or_else(|| Failure::Moment { found: at.to_owned() })?;
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Ok(StateAtParams { time_ms: Some(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)), ..params })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_frontier_a_time_or_a_while_ago() {
        let site = Site { home: "h".into(), scope: Default::default() };
        let read = |at: &str| moment(&site, at);

        assert!(read("none").unwrap().frontier.is_some());
        assert!(read("a/b:1").unwrap().frontier.is_some());
        assert_eq!(read("1970-01-01T00:00:01Z").unwrap().time_ms, Some(1_000));
        assert_eq!(read("1970-01-01 00:00:01").unwrap().time_ms, Some(1_000));
        assert!(read("90m").unwrap().time_ms.is_some());
        assert!(matches!(read("noon"), Err(Failure::Moment { .. })));
    }
}
