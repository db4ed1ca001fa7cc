//! `conflicts`: every value that lost, with its device and time; settling it, and what was settled.

use kinfold::control::Method;
use kinfold::control::conflicts::{
    DecidedForm, DecisionForm, DecisionsForm, DecisionsParams, ResolveConflictParams, ResolvedForm,
};
use kinfold::control::forms::{ConflictsForm, RowForm, ValueForm};
use kinfold::control::ledger::{IntentsForm, IntentsParams};
use kinfold::control::params::{ConflictsParams, RowPlace};
use kinfold::model::{intent_key, split_intent_key};

use crate::args::{Choice, ConflictLog, Conflicts, ResolveConflict, RowName, ShowConflict};
use crate::failure::Failure;
use crate::output::{Output, Tone, short_device, short_hash, time};
use crate::rows::{excerpt, find, value};
use crate::target::{Site, Target};

pub async fn run(site: &Site, command: Option<Conflicts>, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    match command.unwrap_or(Conflicts::List) {
        Conflicts::List => {
            let rows = all(&target, site).await;
            target.close().await?;
            list(&rows?, output)
        }
        Conflicts::Show(ShowConflict { row, resolved: true }) => {
            let limit = kinfold::control::PAGE_ITEMS_MAX;
            let found = decisions(&target, site, Some(row), true, limit).await;
            target.close().await?;
            show_decisions(&found?, output)
        }
        Conflicts::Show(ShowConflict { row, resolved: false }) => {
            let found = contested(&target, site, row).await;
            target.close().await?;
            show(&found?, site, output)
        }
        Conflicts::Resolve(resolve) => {
            let settled = settle(&target, site, resolve).await;
            target.close().await?;
            tell(&settled?, output)
        }
        Conflicts::Log(ConflictLog { surface, id, limit }) => {
            let row = surface.zip(id).map(|(surface, id)| RowName { surface, id });
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let found = decisions(&target, site, row, false, limit).await;
            target.close().await?;
            log(&found?, output)
        }
    }
}

/// A row as it was typed, with the key it has: a run is typed as `AGENT/RUN`. Either may have slashes of
/// its own, so the ledger says where the one ends.
async fn with_key(target: &Target, site: &Site, row: RowName) -> Result<RowName, Failure> {
    if row.surface != "intent" {
        return Ok(row);
    }
    let mut key = None;
    for (at, _) in row.id.match_indices('/') {
        let (agent, run) = (&row.id[..at], &row.id[at + 1..]);
        let possible = intent_key(agent, run);
        if split_intent_key(&possible).is_none() {
            continue;
        }
        let (agent_id, run_id) = (agent.to_owned(), Some(run.to_owned()));
        let params =
            IntentsParams { scope: site.scope.clone(), agent_id, run_id, after: None, limit: Some(1) };
        let found: IntentsForm = target.call(Method::Intents, &params).await?;
        if !found.runs.is_empty() {
            return Ok(RowName { id: possible, ..row });
        }
        key.get_or_insert(possible);
    }
    Ok(RowName { id: key.unwrap_or(row.id), surface: row.surface })
}

/// A key as it is typed.
fn typed(id: &str) -> String {
    split_intent_key(id).map_or_else(|| id.to_owned(), |(agent, run)| format!("{agent}/{run}"))
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

/// A row with an open conflict.
async fn open(target: &Target, site: &Site, row: &RowName) -> Result<Option<RowForm>, Failure> {
    let of = Some(RowPlace { surface: row.surface.clone(), id: row.id.clone() });
    let params = ConflictsParams { scope: site.scope.clone(), of, ..ConflictsParams::default() };
    let found: ConflictsForm = target.call(Method::Conflicts, &params).await?;
    Ok(found.conflicts.into_iter().next())
}

/// A row with an open conflict, or as it is.
async fn contested(target: &Target, site: &Site, row: RowName) -> Result<RowForm, Failure> {
    let row = with_key(target, site, row).await?;
    let found = match open(target, site, &row).await? {
        Some(found) => Some(found),
        None => find(target, site, &row).await?,
    };
    found.ok_or_else(|| Failure::NoRow { id: typed(&row.id), surface: row.surface })
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
        [row.surface.clone(), typed(&row.id), values, short_device(&row.device_id), shown]
    };
    output.table(["surface", "id", "values", "shown by", "shown"], rows.iter().map(cells).collect())
}

fn show(found: &RowForm, site: &Site, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(found);
    }
    if found.dropped {
        return Err(Failure::Dropped { surface: found.surface.clone(), id: found.id.clone() });
    }
    let word = |other: &ValueForm| if other.late { "late" } else { "lost" };
    let others = found.others.iter().map(|other| (word(other), other.clone()));
    let values = std::iter::once(("shown", shown(found))).chain(others);
    let cells = |(index, (word, form)): (usize, (&str, ValueForm))| {
        let text = if form.deleted { "(removed)".to_owned() } else { excerpt(form.payload.get()) };
        let (device, op) = (short_device(&form.device_id), short_hash(&form.op_id).to_owned());
        [(index + 1).to_string(), word.to_owned(), device, time(form.time_ms), op, text]
    };
    output.table(["#", "", "device", "time", "op", "value"], values.enumerate().map(cells).collect())?;
    if found.others.iter().any(|other| other.late) {
        output
            .note("late: written by a device that was away when the row was removed; the row stays removed");
    }
    if found.open {
        let is_row = found.surface.starts_with("registry:") || found.surface == "declagent";
        let how = if is_row { "--take N" } else { "--acknowledge" };
        output.note(format!(
            "`kinfold conflicts{} resolve {} {} {how}` settles it",
            site.flag(),
            found.surface,
            typed(&found.id)
        ));
    }
    Ok(())
}

/// The shown value like the others.
fn shown(row: &RowForm) -> ValueForm {
    ValueForm {
        op_id: row.op_id.clone(),
        late: false,
        deleted: row.deleted,
        payload: row.payload.clone(),
        device_id: row.device_id.clone(),
        incarnation: row.incarnation.clone(),
        seq: row.seq,
        hlc: row.hlc,
        time_ms: row.time_ms,
    }
}

async fn settle(target: &Target, site: &Site, resolve: ResolveConflict) -> Result<ResolvedForm, Failure> {
    let ResolveConflict { row, choice } = resolve;
    let row = with_key(target, site, row).await?;
    let Some(found) = open(target, site, &row).await? else {
        return Err(Failure::NoConflict { id: typed(&row.id), surface: row.surface });
    };
    let ids: Vec<String> =
        std::iter::once(&found.op_id).chain(found.others.iter().map(|other| &other.op_id)).cloned().collect();
    let Choice { take, value: set, delete, acknowledge } = choice;
    let params = ResolveConflictParams {
        scope: site.scope.clone(),
        surface: row.surface,
        id: row.id,
        take: take.map(|wanted| chosen(&ids, &wanted)).transpose()?,
        payload: set.as_deref().map(value).transpose()?,
        delete,
        acknowledge,
        // What comes meanwhile was not among what the person has seen.
        seen: Some(ids),
    };
    target.call(Method::ResolveConflict, &params).await
}

/// The op that a number, or the beginning of an id, names.
fn chosen(ids: &[String], wanted: &str) -> Result<String, Failure> {
    let no_such = || Failure::NoSuchValue { wanted: wanted.to_owned() };
    let by_number = wanted.parse::<usize>().ok().and_then(|number| ids.get(number.checked_sub(1)?));
    if let Some(id) = by_number {
        return Ok(id.clone());
    }
    let mut named = ids.iter().filter(|id| wanted.len() >= ID_CHARACTERS_MIN && id.starts_with(wanted));
    match (named.next(), named.next()) {
        (Some(id), None) => Ok(id.clone()),
        _ => Err(no_such()),
    }
}

fn tell(settled: &ResolvedForm, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(settled);
    }
    let done = output.paint(Tone::Good, "settled");
    let values = match settled.resolved {
        1 => "1 value".to_owned(),
        count => format!("{count} values"),
    };
    output.line(format!("{done} {values}; `kinfold conflicts log` keeps what was decided"))
}

async fn decisions(
    target: &Target,
    site: &Site,
    row: Option<RowName>,
    values: bool,
    limit: usize,
) -> Result<DecisionsForm, Failure> {
    let row = match row {
        Some(row) => Some(with_key(target, site, row).await?),
        None => None,
    };
    let (surface, id) = row.map(|row| (row.surface, row.id)).unzip();
    let scope = site.scope.clone();
    let params = DecisionsParams { scope, surface, id, values, after: None, limit: Some(limit) };
    target.call(Method::Decisions, &params).await
}

fn log(found: &DecisionsForm, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(found);
    }
    if found.decisions.is_empty() {
        return output.line("nothing was settled");
    }
    let cells = |decision: &DecisionForm| {
        let (by, when) = (short_device(&decision.device_id), time(decision.time_ms));
        let (row, ops) =
            (format!("{} {}", decision.surface, typed(&decision.id)), decision.ops.len().to_string());
        [when, by, decision.choice.clone(), row, ops, chosen_text(decision)]
    };
    let cells = found.decisions.iter().map(cells).collect();
    output.table(["time", "by", "choice", "conflict", "values", "chosen"], cells)?;
    if found.next.is_some() {
        output.note("older ones are there: --limit shows more");
    }
    Ok(())
}

fn show_decisions(found: &DecisionsForm, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(found);
    }
    if found.decisions.is_empty() {
        return output.line("nothing was settled there");
    }
    for decision in &found.decisions {
        let head = format!("{} {}", decision.choice, chosen_text(decision));
        let by = format!("by {}  {}", short_device(&decision.device_id), time(decision.time_ms));
        output.line(format!(
            "{}  {}",
            output.paint(Tone::Strong, head.trim_end()),
            output.paint(Tone::Quiet, by)
        ))?;
        let cells = |decided: &DecidedForm| {
            let stored = decided.stored.as_ref();
            let text = match stored {
                Some(op) if op.kind == "delete" => "(removed)".to_owned(),
                Some(op) => excerpt(op.payload.get()),
                None => "(not held)".to_owned(),
            };
            let id = stored.map_or(String::new(), |op| short_hash(&op.op_id).to_owned());
            [short_device(&decided.device_id), time(decided.time_ms), id, text]
        };
        output.table(["device", "time", "op", "value"], decision.ops.iter().map(cells).collect())?;
    }
    Ok(())
}

fn chosen_text(decision: &DecisionForm) -> String {
    match decision.value.get() {
        "null" => String::new(),
        value => excerpt(value),
    }
}

/// Fewer could as well be a number.
const ID_CHARACTERS_MIN: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_chosen_by_its_number_or_the_beginning_of_its_id() {
        let ids = ["aaaaaaaa1", "aaaaaaaa2", "777777777"].map(str::to_owned);
        let chosen = |wanted: &str| chosen(&ids, wanted).ok();

        assert_eq!(chosen("1").as_deref(), Some("aaaaaaaa1"));
        assert_eq!(chosen("777777").as_deref(), Some("777777777"));
        assert_eq!(chosen("aaaaaaaa2").as_deref(), Some("aaaaaaaa2"));
        for wrong in ["0", "4", "aaaaaa", "aaa", "", "b"] {
            assert_eq!(chosen(wrong), None, "{wrong}");
        }
    }
}
