//! `intent`: the ledger of what runs did.

use kinfold::control::Method;
use kinfold::control::ledger::{
    IntentForm, IntentRecordedForm, IntentsForm, IntentsParams, RecordIntentParams, RunForm,
};
use serde_json::value::RawValue;

use crate::args::{Intents, RecordIntent, ShowIntent};
use crate::failure::Failure;
use crate::output::{Output, Tone, short_device, short_hash, time};
use crate::rows::{excerpt, value};
use crate::target::{Site, Target};

pub async fn run(site: &Site, command: Intents, output: &Output) -> Result<(), Failure> {
    match command {
        Intents::Record(record) => self::record(site, record, output).await,
        Intents::Show(show) => self::show(site, show, output).await,
    }
}

async fn record(site: &Site, record: RecordIntent, output: &Output) -> Result<(), Failure> {
    let params = RecordIntentParams {
        scope: site.scope.clone(),
        agent_id: record.agent.clone(),
        run_id: record.run.clone(),
        epoch: record.epoch,
        status: record.status.as_str().to_owned(),
        payload: record.payload.as_deref().map(value).transpose()?,
        cert: record.cert,
    };
    let target = Target::open(&site.home).await?;
    let answer = target.call(Method::RecordIntent, &params).await;
    target.close().await?;
    let answer: IntentRecordedForm = answer?;
    if output.is_json() {
        output.json(&answer)?;
    }
    let Some(reason) = answer.reason else {
        if !output.is_json() {
            let op = answer.op_id.as_deref().map(short_hash).unwrap_or_default();
            output
                .line(format!("recorded {} {} as {}  {op}", params.agent_id, params.run_id, params.status))?;
        }
        return Ok(());
    };
    // Saying again how a run ended is no failure: that is what is there.
    let says_the_same = matches!(
        (reason.as_str(), params.status.as_str()),
        ("AlreadyCommitted", "committed") | ("AlreadyFailed", "failed")
    );
    if says_the_same {
        output.note(format!("{} {} is {} already", params.agent_id, params.run_id, params.status));
        return Ok(());
    }
    Err(Failure::IntentRefused {
        run: params.run_id,
        agent: params.agent_id,
        epoch: params.epoch,
        reason,
        current: answer.current,
    })
}

async fn show(site: &Site, show: ShowIntent, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let runs = all(&target, site, &show).await;
    target.close().await?;
    let runs = runs?;
    let is_one = show.run.is_some();
    if output.is_json() {
        return output.json(&IntentsForm { runs, next: None });
    }
    match (&runs[..], is_one) {
        ([], _) => output.line(format!("nothing was recorded of {}", show.what())),
        ([run], true) => show_run(run, output),
        _ => show_runs(&runs, output),
    }
}

async fn all(target: &Target, site: &Site, show: &ShowIntent) -> Result<Vec<RunForm>, Failure> {
    let mut runs = Vec::new();
    let mut params = IntentsParams {
        scope: site.scope.clone(),
        agent_id: show.agent.clone(),
        run_id: show.run.clone(),
        after: None,
        limit: None,
    };
    loop {
        let page: IntentsForm = target.call(Method::Intents, &params).await?;
        runs.extend(page.runs);
        match page.next {
            Some(next) => params.after = Some(next),
            None => return Ok(runs),
        }
    }
}

fn show_runs(runs: &[RunForm], output: &Output) -> Result<(), Failure> {
    let cells = |run: &RunForm| {
        let lost = run.intents.iter().filter(|intent| is_lost(intent)).count();
        let note = if lost == 0 { String::new() } else { format!("{lost} lost") };
        let shown = run.intents.first();
        [
            run.run_id.clone(),
            paint(output, &run.status),
            shown.map(|intent| intent.epoch.to_string()).unwrap_or_default(),
            shown.map(|intent| short_device(&intent.device_id)).unwrap_or_default(),
            shown.map(|intent| time(intent.time_ms)).unwrap_or_default(),
            note,
        ]
    };
    output.table(["run", "status", "epoch", "device", "time", ""], runs.iter().map(cells).collect())
}

fn show_run(run: &RunForm, output: &Output) -> Result<(), Failure> {
    let cells = |intent: &IntentForm| {
        [
            match intent.standing.as_str() {
                "shown" => "counts".to_owned(),
                "past" => String::new(),
                "forked_lineage" => "lost: another lineage".to_owned(),
                why => format!("lost: {why}"),
            },
            paint(output, &intent.status),
            intent.epoch.to_string(),
            short_device(&intent.device_id),
            time(intent.time_ms),
            noted(&intent.payload),
        ]
    };
    output
        .table(["", "status", "epoch", "device", "time", "noted"], run.intents.iter().map(cells).collect())?;
    if run.status == "fenced" {
        output.note(format!(
            "{} was begun under a token that is void by now, and nobody said how it ended",
            run.run_id
        ));
    }
    Ok(())
}

fn is_lost(intent: &IntentForm) -> bool {
    !matches!(intent.standing.as_str(), "shown" | "past")
}

fn noted(payload: &RawValue) -> String {
    if payload.get() == "null" { String::new() } else { excerpt(payload.get()) }
}

fn paint(output: &Output, status: &str) -> String {
    let tone = match status {
        "committed" => Tone::Good,
        "failed" | "fenced" => Tone::Bad,
        _ => Tone::Warn,
    };
    output.paint(tone, status)
}
