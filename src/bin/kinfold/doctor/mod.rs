//! `doctor`: what keeps devices apart, in plain sentences.

mod checks;
mod observe;

use std::path::Path;

use serde_json::json;

use crate::failure::Failure;
use crate::output::{Output, Tone};
use checks::{Check, State, checks};

pub async fn run(home: &Path, output: &Output) -> Result<(), Failure> {
    output.note("looking around; this takes a few seconds");
    let all = checks(&observe::observe(home).await);
    let failed = all.iter().filter(|check| check.state == State::Fail).count();
    if output.is_json() {
        output.json(&json!({ "ok": failed == 0, "checks": all }))?;
    } else {
        all.iter().try_for_each(|check| show(check, output))?;
    }
    if failed == 0 { Ok(()) } else { Err(Failure::Unwell { failed }) }
}

fn show(check: &Check, output: &Output) -> Result<(), Failure> {
    let (mark, tone) = match check.state {
        State::Ok => ("ok  ", Tone::Good),
        State::Warn => ("warn", Tone::Warn),
        State::Fail => ("FAIL", Tone::Bad),
    };
    let name = output.paint(Tone::Quiet, format!("{:<14}", check.name));
    output.line(format!("{} {name}{}", output.paint(tone, mark), check.says))?;
    match &check.hint {
        Some(hint) => output.line(format!("{:19}→ {hint}", "")),
        None => Ok(()),
    }
}
