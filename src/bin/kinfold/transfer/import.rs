//! `import`: good lines are recorded, bad ones are named with their number and the reason.

use indicatif::ProgressBar;
use kinfold::control::Method;
use kinfold::control::forms::AppendManyForm;
use kinfold::control::params::AppendManyParams;
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;

use super::reader::{Parcel, Refused, Source, reason};
use crate::args::Import;
use crate::failure::Failure;
use crate::output::{Output, Tone, Unit, count};
use crate::target::{Interrupt, Site, Target};

/// What became of an import.
#[derive(Debug, Default, Serialize)]
struct Summary {
    imported: u64,
    refused: u64,
}

pub async fn run(site: &Site, args: Import, output: &Output) -> Result<(), Failure> {
    let source = Source::open(&args.file, site.scope.clone())?;
    let target = Target::open(&site.home).await?;
    let bar = output.progress(source.bytes().unwrap_or(0), Unit::Bytes);
    bar.set_message("importing");
    let mut importing = Importing { target: &target, bar: &bar, output, summary: Summary::default() };
    let outcome = importing.run(source).await;
    let summary = importing.summary;
    bar.finish_and_clear();
    target.close().await?;
    if output.is_json() {
        output.json(&summary)?;
    } else {
        let done = output.paint(Tone::Good, "imported");
        output.line(format!("{done} {}, refused {}", count(summary.imported), count(summary.refused)))?;
    }
    outcome?;
    match summary.refused {
        0 => Ok(()),
        refused => Err(Failure::LinesRefused { refused, total: refused + summary.imported }),
    }
}

struct Importing<'a> {
    target: &'a Target,
    bar: &'a ProgressBar,
    output: &'a Output,
    summary: Summary,
}

impl Importing<'_> {
    /// The next parcels are read while one becomes durable; never two at once, so that lines keep
    /// their order.
    async fn run(&mut self, source: Source) -> Result<(), Failure> {
        let mut interrupt = Interrupt::listen();
        let (sender, mut parcels) = mpsc::channel(PARCELS_AHEAD);
        // A thread, because a read from a terminal cannot be given up; it ends with its channel.
        tokio::task::spawn_blocking(move || source.read(&sender));
        let mut line = 0;
        loop {
            let parcel = tokio::select! {
                // What was read and not recorded yet is dropped: the person wants to stop.
                () = interrupt.told() => return Err(Failure::Interrupted { line }),
                parcel = parcels.recv() => parcel,
            };
            let Some(parcel) = parcel else { return Ok(()) };
            let parcel = parcel?;
            line = parcel.last_line;
            self.record(parcel).await?;
        }
    }

    async fn record(&mut self, parcel: Parcel) -> Result<(), Failure> {
        let mut refused = parcel.refused;
        if !parcel.ops.is_empty() {
            let params = AppendManyParams { ops: parcel.ops, keep_good: true };
            let form: AppendManyForm = self.target.call(Method::AppendMany, &params).await?;
            self.summary.imported += form.appended.len() as u64;
            refused.extend(form.refused.iter().map(|refused| Refused {
                line: parcel.lines.get(refused.index).copied().unwrap_or(0),
                why: reason(&refused.error),
            }));
        }
        refused.sort_by_key(|refused| refused.line);
        for refused in refused {
            self.tell(&refused);
        }
        self.bar.inc(parcel.bytes);
        Ok(())
    }

    fn tell(&mut self, refused: &Refused) {
        self.summary.refused += 1;
        let text = match self.summary.refused {
            told if told > REFUSALS_TOLD + 1 => return,
            told if told > REFUSALS_TOLD => "further refused lines are counted only".to_owned(),
            _ if self.output.is_json() => json!({ "line": refused.line, "why": refused.why }).to_string(),
            _ => format!("line {}: {}", refused.line, refused.why),
        };
        self.bar.suspend(|| eprintln!("{text}"));
    }
}

/// Refused lines that are named one by one.
const REFUSALS_TOLD: u64 = 20;

/// Parcels read ahead: while one becomes durable the next is ready.
const PARCELS_AHEAD: usize = 2;
