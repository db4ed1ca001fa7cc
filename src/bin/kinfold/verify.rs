//! `verify`: whether the states of two devices are row by row the same.

use kinfold::control::Method;
use kinfold::control::forms::StatusForm;
use kinfold::control::verify::{
    BaseAuditForm, ComparedForm, DifferingForm, HeadForm, VerifyForm, VerifyParams,
};

use crate::args::Verify;
use crate::failure::Failure;
use crate::output::{Output, Tone, count, counted, short_device, short_hash};
use crate::state::look_for;
use crate::target::{Site, Target};

pub async fn run(site: &Site, args: Verify, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let verified = verify(&target, site, &args).await;
    target.close().await?;
    let (form, is_alone) = verified?;
    if output.is_json() {
        output.json(&form)?;
    } else {
        show(&form, site, output)?;
    }
    if !form.sound {
        return Err(Failure::StateUnsound { space: site.flag() });
    }
    if let Some((base, kind)) = form.base.as_ref().and_then(|base| Some((base, base.kind.clone()?))) {
        let why = base.why.clone().unwrap_or_default();
        return Err(Failure::BaseNotComputed { kind, why, is_passing: base.passing });
    }
    let differing = form.devices.iter().filter(|device| device.outcome == "differs").count();
    match form.devices.iter().find(|device| device.outcome == "not_compared") {
        _ if differing > 0 => Err(Failure::StatesDiffer { devices: differing }),
        Some(device) => Err(Failure::NotCompared {
            device: called(device),
            why: device.why.clone().unwrap_or_default(),
            is_passing: device.passing,
        }),
        None if is_alone => {
            output.note("no other device is in this space yet, so there is none to compare with");
            Ok(())
        }
        None if form.devices.is_empty() => Err(Failure::NobodyReached { seconds: args.timeout.as_secs() }),
        None => Ok(()),
    }
}

/// What it came to, and whether there is no other device that could be compared with.
async fn verify(target: &Target, site: &Site, args: &Verify) -> Result<(VerifyForm, bool), Failure> {
    let status: StatusForm = target.call(Method::Status, &site.params()).await?;
    let is_alone = status.roster.len() <= 1;
    if target.is_own() && !is_alone {
        target.start_network().await?;
        // Where nobody comes, the state here is looked at all the same.
        look_for(target, site, args.timeout, |peer| peer.connected).await?;
    }
    let params = VerifyParams {
        scope: site.scope.clone(),
        device: args.device.clone(),
        refold: args.refold,
        base: args.base,
    };
    Ok((target.call(Method::Verify, &params).await?, is_alone))
}

fn show(form: &VerifyForm, site: &Site, output: &Output) -> Result<(), Failure> {
    let root = short_hash(&form.state_hash);
    let basis = if form.refolded { "its rows and its log" } else { "its rows" };
    output.line(match form.sound {
        true => format!(
            "{}  the state here (root {root}) is what {basis} add up to",
            output.paint(Tone::Good, "sound")
        ),
        false => format!(
            "{}  the state here (root {root}) is not what {basis} add up to",
            output.paint(Tone::Bad, "unsound")
        ),
    })?;
    form.base.iter().try_for_each(|base| show_base(base, output))?;
    for device in &form.devices {
        let name = called(device);
        let questions = count(u64::from(device.questions.unwrap_or(0)));
        match (&device.row, device.outcome.as_str()) {
            (Some(row), _) => {
                let differs = output.paint(Tone::Bad, "differs");
                output.line(format!(
                    "{differs}  {name}: {} {} (found with {questions} questions)",
                    row.surface, row.id
                ))?;
                show_row(row, &name, site, output)?;
            }
            (None, "equal") => {
                let noun = if device.questions == Some(1) { "question" } else { "questions" };
                let equal = output.paint(Tone::Good, "equal");
                output.line(format!("{equal}  {name}: every row is the same ({questions} {noun})"))?;
            }
            (None, _) => {
                let why = device.why.as_deref().unwrap_or_default();
                output
                    .line(format!("{}  {name}: not compared, {why}", output.paint(Tone::Warn, "unknown")))?;
            }
        }
    }
    Ok(())
}

fn show_base(base: &BaseAuditForm, output: &Output) -> Result<(), Failure> {
    let checkpoint = base.checkpoint.as_deref().map(short_hash).unwrap_or_default();
    output.line(match base.outcome.as_str() {
        "nothing" => "computed  every op was folded here; nothing was adopted".to_owned(),
        "computed" => format!(
            "{}  checkpoint {checkpoint}: {} folded again come to what was adopted, and it is attested from here now",
            output.paint(Tone::Good, "computed"),
            counted(base.ops, "op")
        ),
        _ => {
            let tone = if base.passing { Tone::Warn } else { Tone::Bad };
            format!("{}  checkpoint {checkpoint} is still not computed here", output.paint(tone, "adopted"))
        }
    })
}

fn show_row(row: &DifferingForm, name: &str, site: &Site, output: &Output) -> Result<(), Failure> {
    let cells = |place: &str, head: &HeadForm| {
        let (device, _) = head.log.split_once('/').unwrap_or((&head.log, ""));
        let what = if head.deleted { "removed" } else { "set" };
        [place.to_owned(), what.to_owned(), short_device(device), head.seq.to_string(), head.hlc.to_string()]
    };
    let here = row.here.iter().map(|head| cells("here", head));
    let there = row.there.iter().map(|head| cells(name, head));
    output.table(["on", "row", "by", "op", "stamp"], here.chain(there).collect())?;
    let flag = site.flag();
    output.note(match row.right.as_str() {
        "here" => format!("the log here folds to what is here: run `kinfold{flag} verify --refold` on {name}"),
        "there" => format!("the log here folds to what is on {name}: run `kinfold{flag} verify --refold` here"),
        _ => "the log here folds to neither: run the same version on both devices; keep both homes and report it".to_owned(),
    });
    Ok(())
}

fn called(device: &ComparedForm) -> String {
    device.name.clone().unwrap_or_else(|| short_device(&device.device_id))
}
