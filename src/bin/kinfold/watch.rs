//! `watch`: changes as they happen.

use kinfold::control::Method;
use kinfold::control::forms::{ChangeForm, EndedForm, LaggedForm, SubscribedForm};
use kinfold::control::params::SubscribeParams;

use crate::args::Watch;
use crate::failure::Failure;
use crate::output::{Output, Tone, short_device, time};
use crate::target::{Interrupt, Site, Target};

pub async fn run(site: &Site, watch: Watch, output: &Output) -> Result<(), Failure> {
    let mut target = Target::open(&site.home).await?;
    let params = SubscribeParams { scope: site.scope.clone(), surface: watch.surface, after: None };
    let outcome = follow(&mut target, params, output).await;
    target.close().await?;
    outcome
}

async fn follow(target: &mut Target, mut params: SubscribeParams, output: &Output) -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen();
    let _: SubscribedForm = target.call(Method::Subscribe, &params).await?;
    // Where no node runs, changes can only come from other devices.
    target.start_network().await?;
    output.note("watching; Ctrl-C ends it");
    loop {
        let notice = tokio::select! {
            // A notice that loses against the signal is not shown: the person wants to stop.
            () = interrupt.told() => return Ok(()),
            notice = target.notice() => notice,
        };
        match notice {
            Some(notice) if notice.method == "sync.changed" => {
                let change = serde_json::from_str(notice.params.get()).map_err(Failure::Answer)?;
                show(&change, output)?;
            }
            Some(notice) if notice.method == "sync.lagged" => {
                // More happened than is kept for a reader as slow as this terminal: it is read from the log.
                let lagged: LaggedForm =
                    serde_json::from_str(notice.params.get()).map_err(Failure::Answer)?;
                params.after = Some(lagged.resume_after);
                let _: SubscribedForm = target.call(Method::Subscribe, &params).await?;
            }
            Some(notice) if notice.method == "sync.ended" => {
                let ended: EndedForm = serde_json::from_str(notice.params.get()).map_err(Failure::Answer)?;
                return Err(Failure::Refused(ended.error));
            }
            Some(_) => {}
            None => return Err(Failure::Client(kinfold::control::ClientError::Closed)),
        }
    }
}

fn show(change: &ChangeForm, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(change);
    }
    let when = output.paint(Tone::Quiet, time(change.time_ms));
    let place = output.paint(Tone::Strong, format!("{} {}", change.surface, change.id));
    let value =
        if change.deleted { output.paint(Tone::Bad, "removed") } else { change.payload.get().to_owned() };
    output.line(format!("{when} {} {place} {value}", short_device(&change.device_id)))
}
