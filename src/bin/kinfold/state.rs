//! `status`, `sync`, `wait` and `safe-to-sleep`.

use std::time::Duration;

use kinfold::control::dropbox::DropboxesForm;
use kinfold::control::forms::{
    LeaseHostStatusForm, PeerForm, RoundForm, SafeToSleepForm, StatusForm, WaitForm,
};
use kinfold::control::params::{NoParams, PumpParams, ScopeParam, WaitParams};
use kinfold::control::roster::RosterForm;
use kinfold::control::{Method, RpcError};
use serde_json::json;
use tokio::time::Instant;

use crate::args::{StatusArgs, SyncArgs, Wait};
use crate::failure::Failure;
use crate::history::{History, Sample, bars};
use crate::output::{Output, Tone, ago, count, short_device, short_hash, time};
use crate::progress::until_answered;
use crate::target::{Interrupt, Site, Target};

pub async fn status(site: &Site, args: StatusArgs, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let outcome =
        if args.watch { watch(&target, site, output).await } else { once(&target, site, output).await };
    target.close().await?;
    outcome
}

async fn once(target: &Target, site: &Site, output: &Output) -> Result<(), Failure> {
    if target.is_own() {
        // Answered once the index has been read; a running node says instead that it is reading.
        target.call_raw(Method::Surfaces, &site.params()).await?;
    }
    let status = target.call(Method::Status, &site.params()).await?;
    show(&status, target.is_own(), output)
}

async fn watch(target: &Target, site: &Site, output: &Output) -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen();
    target.start_network().await?;
    let mut shown = String::new();
    let mut history = History::default();
    loop {
        let status: StatusForm = target.call(Method::Status, &site.params()).await?;
        // Everything but the clocks that always run.
        let now = format!("{}{}{:?}", status.state_hash, status.ops, progress(&status));
        history.push(sample(&status));
        if output.is_live() {
            // Drawn at once where the terminal knows how, which keeps it from flickering; other
            // terminals pass over it. Drawn anew each time, it fits whatever size there is.
            output.line("\x1b[?2026h\x1b[2J\x1b[H")?;
            show(&status, false, output)?;
            show_history(&history, &status, output)?;
            output.line("\x1b[?2026l")?;
        } else if now != shown {
            show(&status, false, output)?;
            shown = now;
        }
        tokio::select! {
            // Nothing is under way while it waits.
            () = interrupt.told() => return Ok(()),
            () = tokio::time::sleep(REDRAW) => {}
        }
    }
}

fn sample(status: &StatusForm) -> Sample {
    let peers = || status.peers.iter();
    Sample {
        at: kinfold::clock::uptime(),
        ops: status.ops,
        to_come: peers().map(|peer| peer.ahead_by).max().unwrap_or(0),
        // What sleeps lacks more and more; that is no lag.
        to_go: peers().filter(|peer| peer.connected).filter_map(|peer| peer.behind_by).max().unwrap_or(0),
    }
}

/// Rate and lag over the last minute, one below the other.
fn show_history(history: &History, status: &StatusForm, output: &Output) -> Result<(), Failure> {
    let now = sample(status);
    let line = |name: &str, figures: &[u64], text: String| {
        output.line(format!("{}{} {text}", output.paint(Tone::Quiet, format!("{name:<10}")), bars(figures)))
    };
    output.line("")?;
    line("arriving", &history.rates(), format!("{} ops/s", count(history.rate())))?;
    let left = history.left(now.to_come).filter(|_| now.to_come > 0);
    let left = left.map(|left| format!(", about {}", humantime::format_duration(left))).unwrap_or_default();
    line("to come", &history.to_come(), format!("{} ops{left}", count(now.to_come)))?;
    line("to go", &history.to_go(), format!("{} ops", count(now.to_go)))
}

fn progress(status: &StatusForm) -> Vec<(bool, Option<u64>, u64)> {
    status.peers.iter().map(|peer| (peer.connected, peer.behind_by, peer.ahead_by)).collect()
}

fn show(status: &StatusForm, is_offline: bool, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(status);
    }
    let label = |name: &str| output.paint(Tone::Quiet, format!("{name:<10}"));
    let strong = |text: &str| output.paint(Tone::Strong, text);
    output.line(format!("{}{}  {}", label("device"), strong(&status.name), status.device_id))?;
    let network = match (&status.listening, is_offline) {
        (Some(address), _) => address.clone(),
        (None, true) => "no node runs here; `kinfold up` starts one".into(),
        (None, false) => match (status.lifecycle.state.as_str(), status.lifecycle.again_in_ms) {
            ("failed", Some(pause)) => {
                format!(
                    "down; tried again in {}",
                    humantime::format_duration(Duration::from_secs(pause.div_ceil(1_000)))
                )
            }
            (state, _) => state.to_owned(),
        },
    };
    output.line(format!("{}{network}", label("network")))?;
    if let ScopeParam::Org(name) = &status.scope {
        output.line(format!("{}{name}", label("space")))?;
    }
    let held =
        format!("{} ops, {} rows, {} events", count(status.ops), count(status.rows), count(status.events));
    output.line(format!("{}{held}", label("holds")))?;
    output.line(format!("{}{}", label("root"), status.state_hash))?;
    let conflicts = match status.conflicts {
        0 => "none".to_owned(),
        some => output.paint(Tone::Warn, format!("{}; `kinfold conflicts`", count(some))),
    };
    output.line(format!("{}{conflicts}", label("conflicts")))?;
    if status.loading {
        output.line(format!("{}the index is still being read; figures will grow", label("loading")))?;
    }
    if let Some(host) = &status.lease_host {
        output.line(format!("{}{}", label("leases"), lease_host(host, &status.device_id, output)))?;
    }
    let tone = match status.health.state.as_str() {
        "healthy" => Tone::Good,
        "degraded" => Tone::Warn,
        _ => Tone::Bad,
    };
    output.line(format!("{}{}", label("health"), output.paint(tone, &status.health.state)))?;
    for reason in &status.health.reasons {
        let when = reason.at_ms.map(|at| format!(" on {}", time(at))).unwrap_or_default();
        output.line(format!("{}{}{when}\n{}hint: {}", label(""), reason.message, label(""), reason.hint))?;
    }
    if !status.forks_healed.is_empty() {
        let devices: Vec<String> = status.forks_healed.iter().map(|device| short_device(device)).collect();
        let text = "wrote two histories (a restored backup or a copy), and both are in";
        output.line(format!("{}{} {text}", label("healed"), devices.join(", ")))?;
    }
    output.line("")?;
    show_peers(&status.peers, &status.state_hash, output)?;
    if status.dropboxes.is_empty() {
        return Ok(());
    }
    output.line("")?;
    crate::dropbox::show(&status.dropboxes, output)
}

fn lease_host(host: &LeaseHostStatusForm, own: &str, output: &Output) -> String {
    let name = host.name.clone().unwrap_or_else(|| short_device(&host.device_id));
    let mut text = match (host.device_id == own, host.is_member, host.reachable) {
        (_, false, _) => output.paint(Tone::Bad, format!("hosted by {name}, which was removed")),
        // None was ever asked for.
        (true, ..) if host.phase == "absent" => "hosted here".to_owned(),
        (true, ..) => format!("hosted here, {}", host.phase),
        (false, true, true) => format!("hosted by {name}"),
        (false, true, false) => format!("hosted by {name}, not reachable"),
    };
    if host.in_doubt {
        text.push_str(&output.paint(Tone::Warn, "; this home was restored or copied and has no vote"));
    }
    text
}

fn show_peers(peers: &[PeerForm], own_root: &str, output: &Output) -> Result<(), Failure> {
    if peers.is_empty() {
        return output.line("no other device yet; `kinfold invite` here and `kinfold join` there add one");
    }
    let cells = |peer: &PeerForm| {
        let behind = peer.behind_by.map_or_else(|| "?".to_owned(), count);
        let root = match &peer.root {
            Some(root) if root == own_root => "equal".to_owned(),
            Some(root) => short_hash(root).to_owned(),
            None => "?".to_owned(),
        };
        let reachable = peer.address.clone().unwrap_or_else(|| "not connected".into());
        let name = peer.name.clone().unwrap_or_default();
        let contact = if peer.connected { "now".to_owned() } else { ago(peer.last_contact_ms) };
        [short_device(&peer.device_id), name, reachable, contact, behind, count(peer.ahead_by), root]
    };
    let heading = ["device", "name", "reachable", "last contact", "behind by", "ahead by", "root"];
    output.table(heading, peers.iter().map(cells).collect())?;
    for peer in peers {
        let Some(refusal) = &peer.last_refusal else { continue };
        let (device, when) = (short_device(&peer.device_id), ago(Some(refusal.since_ms)));
        output.line(format!("{device} was cut off {when} (blame: {}): {}", refusal.blame, refusal.why))?;
    }
    Ok(())
}

pub async fn sync(site: &Site, args: SyncArgs, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let round = one_round(&target, site, args, output).await;
    target.close().await?;
    let round: RoundForm = round?;
    if output.is_json() {
        output.json(&round)?;
    } else {
        show_round(&round, output)?;
    }
    if !round.absent.is_empty() {
        let devices: Vec<String> = round.absent.iter().map(|device| short_device(device)).collect();
        return Err(Failure::NotReached { devices: devices.join(", ") });
    }
    if round.dropboxes_failed > 0 && !output.is_json() {
        return Err(Failure::DropboxesFailed { failed: round.dropboxes_failed });
    }
    Ok(())
}

fn show_round(round: &RoundForm, output: &Output) -> Result<(), Failure> {
    let root = round.state_hash.as_deref().map_or("unknown", short_hash);
    let (pushed, folded) = (count(round.pushed), count(round.folded));
    output.line(format!("{} devices, {pushed} ops sent, {folded} received, root {root}", round.peers))?;
    if round.dropboxes > 0 {
        let (left, taken) = (count(round.dropbox_pushed), count(round.dropbox_pulled));
        output.line(format!("{} drop boxes, {left} ops left there, {taken} taken", round.dropboxes))?;
    }
    if round.peers == 0 && round.dropboxes == 0 && round.absent.is_empty() {
        output.note("hint: no other device is reachable; `kinfold status` shows when each was last heard of");
    }
    Ok(())
}

/// A node opened for this round first has to find somebody.
async fn one_round(
    target: &Target,
    site: &Site,
    args: SyncArgs,
    output: &Output,
) -> Result<RoundForm, Failure> {
    let named = if args.devices.is_empty() {
        Vec::new()
    } else {
        let roster: RosterForm = target.call(Method::Roster, &site.params()).await?;
        roster.find_peers(&args.devices).map_err(RpcError::from)?
    };
    target.start_network().await?;
    let params = PumpParams { scope: site.scope.clone(), peers: named.clone() };
    if target.is_own() && !look_for_all(target, site, &named, args.timeout).await? {
        return Err(Failure::NobodyReached { seconds: args.timeout.as_secs() });
    }
    until_answered(target, site, &params, target.call(Method::Pump, &params), output).await
}

/// Whether there is somebody to make a round with: those that are named, or else anybody, where a drop
/// box counts too.
async fn look_for_all(
    target: &Target,
    site: &Site,
    named: &[String],
    patience: Duration,
) -> Result<bool, Failure> {
    if named.is_empty() {
        let form: DropboxesForm = target.call(Method::Dropboxes, &NoParams {}).await?;
        let has_place = !form.dropboxes.is_empty();
        // Whoever has left something in a drop box is seldom awake too.
        let patience = if has_place { patience.min(LOOK_BESIDE) } else { patience };
        return Ok(look_for(target, site, patience, |peer| peer.connected).await? || has_place);
    }
    let until = Instant::now() + patience;
    let mut is_any = false;
    for device in named {
        let rest = until.saturating_duration_since(Instant::now());
        let is_it = |peer: &PeerForm| peer.connected && peer.device_id == *device;
        is_any |= look_for(target, site, rest, is_it).await?;
    }
    Ok(is_any)
}

/// Waits for a device of the space such as is looked for; false where none came in time.
pub async fn look_for(
    target: &Target,
    site: &Site,
    patience: Duration,
    is_it: impl Fn(&PeerForm) -> bool,
) -> Result<bool, Failure> {
    let until = Instant::now() + patience;
    loop {
        let status: StatusForm = target.call(Method::Status, &site.params()).await?;
        if status.peers.iter().any(&is_it) {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

pub async fn wait(site: &Site, args: Wait, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let held = held(&target, site, args).await;
    target.close().await?;
    let held: WaitForm = held?;
    if output.is_json() {
        return output.json(&held);
    }
    let names: Vec<String> = held.holders.iter().map(|device| short_device(device)).collect();
    output.line(format!("{} by {}", output.paint(Tone::Good, "held"), names.join(", ")))
}

async fn held(target: &Target, site: &Site, args: Wait) -> Result<WaitForm, Failure> {
    target.start_network().await?;
    let timeout_ms = args.timeout.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    let params = WaitParams { scope: site.scope.clone(), op_id: args.op, on: args.on, timeout_ms };
    target.call(Method::Wait, &params).await
}

pub async fn safe_to_sleep(site: &Site, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let answer = target.call(Method::SafeToSleep, &site.params()).await;
    target.close().await?;
    let answer: SafeToSleepForm = answer?;
    if output.is_json() {
        output.json(
            &json!({ "safe": answer.safe, "holders": answer.holders, "unheld_ops": answer.unheld_ops }),
        )?;
    } else if answer.safe {
        let names: Vec<String> = answer.holders.iter().map(|device| short_device(device)).collect();
        output.line(format!(
            "{}: {} holds everything",
            output.paint(Tone::Good, "safe"),
            names.join(", ")
        ))?;
    }
    if answer.safe { Ok(()) } else { Err(Failure::NotSafe { unheld: answer.unheld_ops }) }
}

/// Between two looks at a status that is watched.
const REDRAW: Duration = Duration::from_secs(1);

/// How long to look for a device where there is a drop box to look into.
const LOOK_BESIDE: Duration = Duration::from_secs(2);

/// Between two looks for a first connection.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
