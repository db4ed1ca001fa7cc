//! `lease acquire|renew|release|status|host|move-host`.

use std::time::Duration;

use kinfold::control::Method;
use kinfold::control::fence::{FenceForm, FenceParams};
use kinfold::control::lease::{
    AcquireParams, LeaseForm, LeaseHostForm, LeaseStatusForm, LeaseStatusParams, MoveHostParams,
    ReleaseParams, ReleasedForm, RenewParams,
};
use kinfold::control::roster::RosterForm;

use crate::args::{Fence, Lease, LeaseHeld, LeaseKept, LeaseTaken, MoveHost};
use crate::confirm::confirm;
use crate::devices::called;
use crate::failure::Failure;
use crate::output::{Output, Tone, short_device, short_hash};
use crate::target::{Site, Target};

pub async fn run(site: &Site, command: Lease, output: &Output) -> Result<(), Failure> {
    match command {
        Lease::Acquire(taken) => acquire(site, taken, output).await,
        Lease::Renew(kept) => renew(site, kept, output).await,
        Lease::Release(held) => release(site, held, output).await,
        Lease::Status { agent: Some(agent) } => status(site, agent, output).await,
        Lease::Status { agent: None } | Lease::Host => host(site, output).await,
        Lease::MoveHost(to) => move_host(site, to, output).await,
        #[cfg(unix)]
        Lease::Run(run) => crate::lease_run::run(site, run, output).await,
        // Process groups and the control socket are of Unix.
        #[cfg(not(unix))]
        Lease::Run(_) => Err(Failure::NotRunning),
    }
}

async fn acquire(site: &Site, taken: LeaseTaken, output: &Output) -> Result<(), Failure> {
    let target = running(site).await?;
    let (scope, ttl_ms) = (site.scope.clone(), millis(taken.ttl));
    let params = AcquireParams { scope, agent_id: taken.agent, ttl_ms };
    tell_held("acquired", &target.call(Method::AcquireLease, &params).await?, output)
}

async fn renew(site: &Site, kept: LeaseKept, output: &Output) -> Result<(), Failure> {
    let target = running(site).await?;
    let (scope, ttl_ms) = (site.scope.clone(), millis(kept.ttl));
    let LeaseHeld { agent: agent_id, epoch } = kept.held;
    let params = RenewParams { scope, agent_id, epoch, ttl_ms };
    tell_held("renewed", &target.call(Method::RenewLease, &params).await?, output)
}

async fn release(site: &Site, held: LeaseHeld, output: &Output) -> Result<(), Failure> {
    let target = running(site).await?;
    let LeaseHeld { agent: agent_id, epoch } = held;
    let params = ReleaseParams { scope: site.scope.clone(), agent_id: agent_id.clone(), epoch };
    let released: ReleasedForm = target.call(Method::ReleaseLease, &params).await?;
    if output.is_json() {
        return output.json(&released);
    }
    output.line(format!("{} {agent_id}, epoch {epoch}", output.paint(Tone::Good, "released")))
}

async fn status(site: &Site, agent_id: String, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let params = LeaseStatusParams { scope: site.scope.clone(), agent_id: agent_id.clone() };
    let outcome = async {
        let status: LeaseStatusForm = target.call(Method::LeaseStatus, &params).await?;
        Ok::<_, Failure>((status, target.call::<RosterForm>(Method::Roster, &site.params()).await?))
    };
    let outcome = outcome.await;
    target.close().await?;
    let (status, roster) = outcome?;
    if output.is_json() {
        return output.json(&status);
    }
    match status.lease {
        None => output.line(format!("nobody holds {agent_id}")),
        Some(lease) => list(&[lease], &roster, output),
    }
}

async fn host(site: &Site, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let outcome = async {
        let host: LeaseHostForm = target.call(Method::LeaseHost, &site.params()).await?;
        Ok::<_, Failure>((host, target.call::<RosterForm>(Method::Roster, &site.params()).await?))
    };
    let outcome = outcome.await;
    target.close().await?;
    let (host, roster) = outcome?;
    tell_host(&host, &roster, site, output)
}

async fn move_host(site: &Site, to: MoveHost, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let outcome = moved(&target, site, to, output).await;
    target.close().await?;
    let (host, roster) = outcome?;
    if output.is_json() {
        return output.json(&host);
    }
    let name = called(&roster, &host.host);
    output.line(format!("{} the leases are hosted by {name} now", output.paint(Tone::Good, "moved")))
}

async fn moved(
    target: &Target,
    site: &Site,
    to: MoveHost,
    output: &Output,
) -> Result<(LeaseHostForm, RosterForm), Failure> {
    let roster: RosterForm = target.call(Method::Roster, &site.params()).await?;
    let host: LeaseHostForm = target.call(Method::LeaseHost, &site.params()).await?;
    if to.lost && host.is_member {
        let name = called(&roster, &host.host);
        let is_copy = host.in_doubt && (to.device == host.host || to.device == name);
        let (doubt, lost) = if is_copy {
            let doubt =
                format!("this home of {name} was restored or copied. If another copy of it still runs");
            (doubt, format!("every other copy of {name}"))
        } else {
            (format!("{name} hosts the leases. If it is not lost but only away"), name.clone())
        };
        output
            .note(format!("{doubt}, two holders of one lease are kept apart by their fencing tokens alone."));
        confirm(&format!("calling {lost} lost"), &name, to.yes, output).await?;
    }
    if target.is_own() {
        target.start_network().await?;
    }
    let params = MoveHostParams { scope: site.scope.clone(), device: to.device, lost: to.lost };
    Ok((target.call(Method::MoveLeaseHost, &params).await?, roster))
}

/// A lease is held by a running node: one that ends with this command would hold it for nobody.
async fn running(site: &Site) -> Result<Target, Failure> {
    let target = Target::open(&site.home).await?;
    if target.is_own() {
        target.close().await?;
        return Err(Failure::NotRunning);
    }
    Ok(target)
}

fn tell_held(done: &str, lease: &LeaseForm, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(lease);
    }
    output.line(format!(
        "{} {}, epoch {}, for {}",
        output.paint(Tone::Good, done),
        lease.agent_id,
        lease.epoch,
        left(lease.expires_in_ms)
    ))
}

fn tell_host(host: &LeaseHostForm, roster: &RosterForm, site: &Site, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(host);
    }
    let name = called(roster, &host.host);
    let what = match (host.is_self, host.is_member, host.reachable) {
        (_, false, _) => output.paint(Tone::Bad, "removed from the space"),
        (true, ..) => format!("this device, {}", host.phase),
        (false, true, true) => output.paint(Tone::Good, "connected"),
        (false, true, false) => output.paint(Tone::Warn, "not reachable"),
    };
    output.line(format!("{name} ({}) hosts the leases: {what}", short_device(&host.host)))?;
    output.line(format!("  term {}, certificate {}", host.term, short_hash(&host.certificate)))?;
    if host.in_doubt {
        let text = "this device was restored or copied: it neither hosts nor votes until a host is \
                    designated without it";
        output.line(format!("  {}", output.paint(Tone::Warn, text)))?;
    }
    if !host.is_member {
        output.note(format!("`kinfold{} lease move-host DEVICE` names another", site.flag()));
    }
    if !host.is_self {
        output.note("the host lists every lease; `kinfold lease status AGENT` asks it for one");
        return Ok(());
    }
    if host.leases.is_empty() {
        return output.line("no lease is held");
    }
    output.line("")?;
    list(&host.leases, roster, output)
}

fn list(leases: &[LeaseForm], roster: &RosterForm, output: &Output) -> Result<(), Failure> {
    let cells = |lease: &LeaseForm| {
        let holder = called(roster, &lease.holder);
        [lease.agent_id.clone(), holder, lease.epoch.to_string(), left(lease.expires_in_ms)]
    };
    output.table(["agent", "holder", "epoch", "expires in"], leases.iter().map(cells).collect())
}

fn left(millis: u64) -> String {
    match millis {
        0..1_000 => "less than 1 s".to_owned(),
        1_000..120_000 => format!("{} s", millis / 1_000),
        _ => format!("{} min", millis / 60_000),
    }
}

fn millis(ttl: Option<Duration>) -> Option<u64> {
    ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
}

/// Exit 0 where the run may act, and only then.
pub async fn fence(site: &Site, fence: Fence, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let params = FenceParams {
        scope: site.scope.clone(),
        agent_id: fence.agent.to_string(),
        run_id: fence.run.to_string(),
        epoch: fence.epoch,
    };
    let form: Result<FenceForm, _> = target.call(Method::FenceCheck, &params).await;
    target.close().await?;
    let form = form?;
    if output.is_json() {
        output.json(&form)?;
    }
    if !form.may_dispatch {
        return Err(Failure::Fenced { decision: form.decision, message: form.message });
    }
    if output.is_json() { Ok(()) } else { output.line(output.paint(Tone::Good, "proceed")) }
}
