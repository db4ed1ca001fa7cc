//! `policy`: what is kept of a surface.

use kinfold::control::Method;
use kinfold::control::forms::AppendedForm;
use kinfold::control::policy::{PoliciesForm, PolicyForm, SetPolicyParams};
use kinfold::model::Surface;
use serde_json::value::RawValue;

use crate::args::Policies;
use crate::failure::Failure;
use crate::output::Output;
use crate::rows::{tell, value};
use crate::target::{Site, Target};

pub async fn run(site: &Site, command: Option<Policies>, output: &Output) -> Result<(), Failure> {
    match command.unwrap_or(Policies::List) {
        Policies::List => list(site, output).await,
        Policies::Set(set) => change(site, set.surface, value(&set.policy)?, output).await,
        Policies::Clear(cleared) => clear(site, cleared.surface, output).await,
    }
}

async fn list(site: &Site, output: &Output) -> Result<(), Failure> {
    let held = held(site).await?;
    if output.is_json() {
        return output.json(&held);
    }
    if held.policies.is_empty() {
        return output.line("no policies: everything is kept");
    }
    let cells = |form: &PolicyForm| {
        let note = form.ignored.as_ref().map_or(String::new(), |why| format!("ignored: {why}"));
        [form.surface.clone(), form.policy.get().to_owned(), form.dropped.to_string(), note]
    };
    output.table(["surface", "policy", "dropped", ""], held.policies.iter().map(cells).collect())
}

async fn held(site: &Site) -> Result<PoliciesForm, Failure> {
    let target = Target::open(&site.home).await?;
    let held = target.call(Method::Policies, &site.params()).await;
    target.close().await?;
    held
}

async fn clear(site: &Site, surface: String, output: &Output) -> Result<(), Failure> {
    let is_set = held(site).await?.policies.iter().any(|form| form.surface == surface);
    // Text that names no surface is refused by its own name.
    if !is_set && surface.parse::<Surface>().is_ok() {
        return Err(Failure::NoPolicy { surface });
    }
    change(site, surface, RawValue::NULL.to_owned(), output).await
}

async fn change(site: &Site, surface: String, policy: Box<RawValue>, output: &Output) -> Result<(), Failure> {
    let params = SetPolicyParams { scope: site.scope.clone(), surface, policy };
    let target = Target::open(&site.home).await?;
    let appended: Result<AppendedForm, Failure> = target.call(Method::SetPolicy, &params).await;
    target.close().await?;
    tell(&appended?, output)
}
