//! `status`: how this device stands, once or watched.

use std::time::Duration;

use indicatif::HumanBytes;
use kinfold::control::Method;
use kinfold::control::forms::{DeviceForm, LeaseHostStatusForm, PeerForm, StatusForm};
use kinfold::control::params::ScopeParam;

use crate::args::StatusArgs;
use crate::failure::Failure;
use crate::history::{History, Sample, bars};
use crate::output::{Output, Tone, ago, count, counted, short_device, short_hash, time};
use crate::screen::{Deed, Screen};
use crate::target::{Interrupt, Site, Target};

pub async fn run(site: &Site, args: StatusArgs, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let outcome = match (args.watch, output.is_live()) {
        (false, _) => once(&target, site, output).await,
        (true, true) => watch(&target, site, output).await,
        (true, false) => follow(&target, site, output).await,
    };
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

/// A page on a screen of its own, drawn anew each second and whenever the window has another size.
async fn watch(target: &Target, site: &Site, output: &Output) -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen();
    target.start_network().await?;
    let mut history = History::default();
    let mut status: StatusForm = target.call(Method::Status, &site.params()).await?;
    let mut screen = Screen::begin().map_err(Failure::Output)?;
    loop {
        if history.is_due(kinfold::clock::uptime()) {
            history.push(sample(&status));
        }
        let mut lines = page(&status, false, output);
        lines.extend(history_lines(&history, &status, screen.columns(), output));
        lines.extend([String::new(), output.paint(Tone::Quiet, "q leaves")]);
        screen.draw(&lines).map_err(Failure::Output)?;
        tokio::select! {
            // Nothing is under way while it waits.
            () = interrupt.told() => return Ok(()),
            deed = screen.wait(REDRAW) => if deed == Deed::Leave { return Ok(()) },
        }
        status = target.call(Method::Status, &site.params()).await?;
    }
}

/// A page for each change, for files and programs.
async fn follow(target: &Target, site: &Site, output: &Output) -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen();
    target.start_network().await?;
    let mut shown = None;
    loop {
        let status: StatusForm = target.call(Method::Status, &site.params()).await?;
        let now = Some(standing(&status));
        if now != shown {
            if !output.is_json() {
                let gap = if shown.is_some() { "\n" } else { "" };
                output.line(format!("{gap}{}", time(kinfold::clock::wall().as_millis())))?;
            }
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

/// Everything but the clocks that always run.
fn standing(status: &StatusForm) -> impl PartialEq + use<> {
    let peer = |peer: &PeerForm| (peer.connected, peer.behind_by, peer.ahead_by, peer.name.clone());
    let peers: Vec<_> = status.peers.iter().map(peer).collect();
    let reasons: Vec<String> = status.health.reasons.iter().map(|reason| reason.message.clone()).collect();
    let here = (status.state_hash.clone(), status.ops, status.conflicts, status.loading);
    (here, peers, reasons, status.lifecycle.state.clone())
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

/// Rate and lag over the last minute, or what of it there is room for, one below the other.
fn history_lines(history: &History, status: &StatusForm, columns: usize, output: &Output) -> Vec<String> {
    let now = sample(status);
    let room = columns.saturating_sub(BARS_BEGIN);
    let line = |name: &str, text: String, figures: &[u64]| {
        let newest = &figures[figures.len().saturating_sub(room)..];
        labelled(name, format!("{text:<FIGURE_WIDTH$}{}", bars(newest)), output)
    };
    let left = history.left(now.to_come).filter(|_| now.to_come > 0);
    let left = left.map(|left| format!(", {}", humantime::format_duration(left))).unwrap_or_default();
    vec![
        String::new(),
        line("arriving", format!("{} ops/s", count(history.rate())), &history.rates()),
        line("to come", format!("{}{left}", counted(now.to_come, "op")), &history.to_come()),
        line("to go", counted(now.to_go, "op"), &history.to_go()),
    ]
}

fn show(status: &StatusForm, is_offline: bool, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(status);
    }
    output.lines(&page(status, is_offline, output))
}

/// All there is to say, line by line.
fn page(status: &StatusForm, is_offline: bool, output: &Output) -> Vec<String> {
    let mut lines = this_device(status, is_offline, output);
    lines.extend(health(status, output));
    if !status.forks_healed.is_empty() {
        let devices: Vec<String> = status.forks_healed.iter().map(|device| short_device(device)).collect();
        let text = "wrote two histories (a restored backup or a copy), and both are in";
        lines.push(labelled("healed", format!("{} {text}", devices.join(", ")), output));
    }
    lines.push(String::new());
    lines.extend(peers(&status.peers, &status.state_hash, output));
    lines.extend(dormant(&status.roster));
    if !status.dropboxes.is_empty() {
        lines.push(String::new());
        lines.extend(crate::dropbox::lines(&status.dropboxes, output));
    }
    lines
}

/// Devices that nothing waits for.
fn dormant(roster: &[DeviceForm]) -> impl Iterator<Item = String> {
    roster.iter().filter_map(|device| {
        let short = short_device(&device.device_id);
        let name = device.name.clone().unwrap_or_default();
        Some(format!("{short} {name} is {}", crate::devices::dormancy(device)?))
    })
}

fn labelled(name: &str, text: impl std::fmt::Display, output: &Output) -> String {
    format!("{}{text}", output.paint(Tone::Quiet, format!("{name:<LABEL_WIDTH$}")))
}

fn this_device(status: &StatusForm, is_offline: bool, output: &Output) -> Vec<String> {
    let name = output.paint(Tone::Strong, &status.name);
    let mut lines = vec![
        labelled("device", format!("{name}  {}", status.device_id), output),
        labelled("network", network(status, is_offline), output),
    ];
    if let ScopeParam::Org(name) = &status.scope {
        lines.push(labelled("space", name, output));
    }
    let held = [(status.ops, "op"), (status.rows, "row"), (status.events, "event")];
    let held = held.map(|(number, one)| counted(number, one)).join(", ");
    lines.push(labelled("holds", held, output));
    if let Some(base) = &status.base_checkpoint {
        let (logged, bytes) = (counted(status.logged_ops, "op"), HumanBytes(status.store_bytes));
        let text = format!("begins with checkpoint {}, {logged} since; {bytes} stored", short_hash(base));
        lines.push(labelled("history", text, output));
    }
    lines.push(labelled("root", &status.state_hash, output));
    let conflicts = match status.conflicts {
        0 => "none".to_owned(),
        some => output.paint(Tone::Warn, format!("{}; `kinfold conflicts`", count(some))),
    };
    lines.push(labelled("conflicts", conflicts, output));
    if status.loading {
        lines.push(labelled("loading", "the index is still being read; figures will grow", output));
    }
    lines.extend(beginning(status, output));
    if let Some(host) = &status.lease_host {
        lines.push(labelled("leases", lease_host(host, &status.device_id, output), output));
    }
    lines
}

/// What the history begins with where that is somebody's word, and what it is to begin with.
fn beginning(status: &StatusForm, output: &Output) -> Vec<String> {
    let name = |device: &String| {
        let member = status.roster.iter().find(|member| member.device_id == *device);
        member.and_then(|member| member.name.clone()).unwrap_or_else(|| short_device(device))
    };
    let adopted = status.adopted.as_ref().map(|adopted| {
        let by: Vec<String> = adopted.attested_by.iter().map(name).collect();
        let by = if by.is_empty() { "nobody who is here now".to_owned() } else { by.join(", ") };
        let ops = counted(adopted.ops, "op");
        labelled("base", format!("the first {ops} adopted, not computed here; computed by {by}"), output)
    });
    let waiting = status.waiting.as_ref().map(|waiting| {
        let (checkpoint, ops) = (short_hash(&waiting.checkpoint), counted(waiting.ops, "op"));
        let text = format!("checkpoint {checkpoint} of {ops}: {}", waiting.message);
        labelled("waiting", output.paint(Tone::Warn, text), output)
    });
    adopted.into_iter().chain(waiting).collect()
}

fn network(status: &StatusForm, is_offline: bool) -> String {
    match (&status.listening, is_offline) {
        (Some(address), _) => address.clone(),
        (None, true) => "no node runs here; `kinfold up` starts one".to_owned(),
        (None, false) => match (status.lifecycle.state.as_str(), status.lifecycle.again_in_ms) {
            ("failed", Some(pause)) => {
                let pause = Duration::from_secs(pause.div_ceil(1_000));
                format!("down; tried again in {}", humantime::format_duration(pause))
            }
            (state, _) => state.to_owned(),
        },
    }
}

fn health(status: &StatusForm, output: &Output) -> Vec<String> {
    let tone = match status.health.state.as_str() {
        "healthy" => Tone::Good,
        "degraded" => Tone::Warn,
        _ => Tone::Bad,
    };
    let mut lines = vec![labelled("health", output.paint(tone, &status.health.state), output)];
    for reason in &status.health.reasons {
        let when = reason.at_ms.map(|at| format!(" on {}", time(at))).unwrap_or_default();
        lines.push(labelled("", format!("{}{when}", reason.message), output));
        lines.push(labelled("", format!("hint: {}", reason.hint), output));
    }
    lines
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

fn peers(peers: &[PeerForm], own_root: &str, output: &Output) -> Vec<String> {
    if peers.is_empty() {
        return vec![
            "no other device yet; `kinfold invite` here and `kinfold join` there add one".to_owned(),
        ];
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
    let mut lines = Output::table_lines(heading, peers.iter().map(cells).collect());
    for peer in peers {
        let Some(refusal) = &peer.last_refusal else { continue };
        let (device, when) = (short_device(&peer.device_id), ago(Some(refusal.since_ms)));
        let text = format!("{device} was cut off {when} (blame: {}): {}", refusal.blame, refusal.why);
        lines.push(output.paint(Tone::Warn, text));
    }
    lines
}

/// Between two looks at a status that is watched.
const REDRAW: Duration = Duration::from_secs(1);

const LABEL_WIDTH: usize = 10;

/// Room for a figure and how long it still takes.
const FIGURE_WIDTH: usize = 24;

/// Where the bars begin, one column spared.
const BARS_BEGIN: usize = LABEL_WIDTH + FIGURE_WIDTH + 1;
