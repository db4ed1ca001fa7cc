//! `space`: the organisations this device takes part in.

use std::path::Path;

use kinfold::control::Method;
use kinfold::control::params::{NoParams, ScopeParams};
use kinfold::control::roster::{CreateSpaceParams, LeftForm, SpaceForm, SpacesForm};

use crate::args::{CreateSpace, LeaveSpace, Spaces};
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::invite::role_text;
use crate::output::{Output, Tone, count};
use crate::roster::scope_name;
use crate::target::{Site, Target};

pub async fn run(home: &Path, command: Option<Spaces>, output: &Output) -> Result<(), Failure> {
    match command.unwrap_or(Spaces::List) {
        Spaces::List => list(home, output).await,
        Spaces::Create(create) => begin(home, create, output).await,
        Spaces::Leave(leave) => go(home, leave, output).await,
    }
}

async fn list(home: &Path, output: &Output) -> Result<(), Failure> {
    let target = Target::open(home).await?;
    let spaces = target.call(Method::Spaces, &NoParams {}).await;
    target.close().await?;
    let spaces: SpacesForm = spaces?;
    if output.is_json() {
        return output.json(&spaces);
    }
    let cells = |space: &SpaceForm| {
        let role = match (space.role, space.leaving) {
            (Some(role), _) => role_text(role),
            (None, true) => "leaving",
            (None, false) => "removed",
        };
        let devices = count(u64::try_from(space.devices).unwrap_or(u64::MAX));
        [scope_name(&space.scope), role.to_owned(), devices, count(space.ops)]
    };
    output.table(["space", "this device is", "devices", "ops"], spaces.spaces.iter().map(cells).collect())
}

async fn begin(home: &Path, create: CreateSpace, output: &Output) -> Result<(), Failure> {
    let target = Target::open(home).await?;
    let params = CreateSpaceParams { name: create.name, device_name: create.device_name };
    let made = target.call(Method::CreateSpace, &params).await;
    target.close().await?;
    let made: SpaceForm = made?;
    if output.is_json() {
        return output.json(&made);
    }
    let name = scope_name(&made.scope);
    output.line(format!(
        "{} the space {name}, with this device as its admin",
        output.paint(Tone::Good, "made")
    ))?;
    output.note(format!("hint: `kinfold --space {name} invite` lets another device in"));
    Ok(())
}

async fn go(home: &Path, leave: LeaveSpace, output: &Output) -> Result<(), Failure> {
    let site = Site { home: home.to_owned(), scope: leave.name };
    let target = Target::open(home).await?;
    let outcome = left(&target, &site, leave.yes, output).await;
    target.close().await?;
    let left = outcome?;
    if output.is_json() {
        return output.json(&left);
    }
    output.line(format!("{} {}", output.paint(Tone::Good, "left"), site.space_text()))?;
    if !left.told {
        output
            .note("the others hear of it the next time one of them is connected; keep `kinfold up` running");
    }
    Ok(())
}

async fn left(
    target: &Target,
    site: &Site,
    yes: Option<String>,
    output: &Output,
) -> Result<LeftForm, Failure> {
    // A space that is not there, or cannot be left, is told before a name is asked for.
    let spaces: SpacesForm = target.call(Method::Spaces, &NoParams {}).await?;
    let is_there = spaces.spaces.iter().any(|space| space.scope == site.scope);
    if is_there && !site.scope.is_personal() {
        let act = format!("leaving {}", site.space_text());
        confirm(&act, &scope_name(&site.scope), yes, output).await?;
    }
    target.call(Method::LeaveSpace, &ScopeParams { scope: site.scope.clone() }).await
}
