//! `up`: the node in the foreground.

use std::error::Error as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use kinfold::config::ConfigFile;
use kinfold::control::{ControlError, Exporter, Server, WebSocketOptions, WebSocketServer};
use kinfold::coordinator::store::open_cells;
use kinfold::node::{Node, Status};
use serde_json::json;
use tracing::{info, warn};

use crate::args::Up;
use crate::config::reloaded_text;
use crate::failure::Failure;
use crate::line::StatusLine;
use crate::log::Log;
use crate::notify;
use crate::output::{Output, count, counted, short_hash};
use crate::target::{Hangup, Interrupt};

pub async fn run(home: &Path, up: Up, log: Option<&str>, output: &Output) -> Result<(), Failure> {
    let line = StatusLine::begin(output);
    // Listens for signals before there is anything to stop.
    let mut interrupt = Interrupt::listen();
    let mut hangup = Hangup::listen();
    Node::device_in(home)?;
    let settings = ConfigFile::of(home).read().map_err(ControlError::from)?;
    let log = Log::begin(home, &settings, log, line.clone());
    // A port that is asked for is a wish to have one.
    let has_web = !up.no_websocket && (settings.has_websocket() || up.ws_port.is_some());
    let web_port = up.ws_port.unwrap_or(settings.websocket_port());
    let web = has_web.then(|| WebSocketOptions::on_port(web_port));
    let mut builder = Node::builder(home).settings(settings);
    if let Some(address) = up.listen {
        builder = builder.listen(address);
    }
    if up.no_mdns {
        builder = builder.without_mdns();
    }
    for peer in up.peer {
        builder = builder.peer(peer);
    }
    if let Some(place) = &up.leases {
        builder = builder.leases_in(open_cells(place).map_err(Failure::Leases)?);
    }
    let node = builder.open().await?;
    let followed = follow(&node, &log);
    let served = serve(&node, web, line.as_ref(), &mut interrupt, &mut hangup, output);
    let outcome = tokio::select! {
        // Following never ends by itself, and holds nothing that is lost.
        outcome = served => outcome,
        never = followed => match never {},
    };
    notify::tell("STOPPING=1");
    if let Some(line) = &line {
        line.show("stopping");
    }
    let stopped = tokio::select! {
        stopped = node.stop() => stopped.map_err(Failure::from),
        // Asked twice, or not done in time: what was acknowledged is on disk already.
        () = interrupt.told() => Err(Failure::StopCutShort),
        () = tokio::time::sleep(STOP_WITHIN) => Err(Failure::StopCutShort),
    };
    if let Some(line) = line {
        line.end();
    }
    outcome?;
    let left = stopped?.left();
    if output.is_json() {
        return output.json(&json!({ "stopped": true, "not_waited_for": left }));
    }
    if left > 0 {
        output.note(format!("not waited for, because not ended in time: {left} of its tasks"));
    }
    output.line("stopped")
}

async fn serve(
    node: &Node,
    web: Option<WebSocketOptions>,
    line: Option<&StatusLine>,
    interrupt: &mut Interrupt,
    hangup: &mut Hangup,
    output: &Output,
) -> Result<(), Failure> {
    let server = Server::start(node.clone())?;
    let web = match web {
        Some(options) => match WebSocketServer::start(node.clone(), options).await {
            Ok(web) => Some(web),
            Err(error) => {
                server.stop().await;
                return Err(error.into());
            }
        },
        None => None,
    };
    let web_address = web.as_ref().map(WebSocketServer::local_addr);
    let running = async {
        node.start().await?;
        announce(node, web_address, output)?;
        notify::tell("READY=1");
        let mut told = String::new();
        let mut version = node.version();
        loop {
            tokio::time::sleep(REDRAW).await;
            version.mark_unchanged();
            tell(&node.status().await?, line, &mut told, output);
            // A node that is at rest is not asked. One that has stopped answers so above.
            let _ = tokio::time::timeout(LOOK_AT_REST, version.changed()).await;
        }
    };
    let outcome = tokio::select! {
        // The caller stops the node, with everything it has under way; a look at it may be cut off.
        () = interrupt.told() => Ok(()),
        outcome = running => outcome,
        // Waits for signals for ever; one that is being read again is read once more at the next start.
        () = read_again(node, line, hangup, output) => Ok(()),
    };
    let stop_web = async {
        if let Some(web) = web {
            web.stop().await;
        }
    };
    tokio::join!(server.stop(), stop_web);
    outcome
}

/// Takes up what the settings say of the log and of the figures, now and whenever they change.
async fn follow(node: &Node, log: &Log) -> std::convert::Infallible {
    let mut settings = node.settings();
    let mut served = None;
    let mut exporter = None;
    loop {
        let current = settings.borrow_and_update().clone();
        log.follow(&current);
        if served != current.metrics_listen() {
            served = current.metrics_listen();
            // The old one gives its port back before the new one asks for it.
            drop(exporter.take());
            exporter = match served {
                Some(address) => serve_figures(node, address).await,
                None => None,
            };
        }
        if settings.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Figures that cannot be served keep nobody from syncing.
async fn serve_figures(node: &Node, address: SocketAddr) -> Option<Exporter> {
    match Exporter::start(node.clone(), address).await {
        Ok(exporter) => {
            info!(address = %exporter.address(), "figures are served");
            Some(exporter)
        }
        Err(error) => {
            let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            warn!("{error}{source}");
            None
        }
    }
}

/// Reads the settings again at every SIGHUP. What cannot be read is told, and the node goes on as it was.
async fn read_again(node: &Node, line: Option<&StatusLine>, hangup: &mut Hangup, output: &Output) {
    loop {
        hangup.told().await;
        match node.reload().await {
            Ok(reloaded) => {
                let text = reloaded_text(&reloaded);
                line.map_or_else(|| output.note(&text), |line| line.above(|| output.note(&text)));
            }
            Err(error) => warn!(error = %Failure::from(error).one_line(), "the settings stay as they were"),
        }
    }
}

/// The facts a script waits for, first of all.
fn announce(node: &Node, web: Option<SocketAddr>, output: &Output) -> Result<(), Failure> {
    let listening = node.local_addr().map_or_else(|| "nowhere".to_owned(), |address| address.to_string());
    let device = node.device();
    if output.is_json() {
        let websocket = web.map(|address| format!("ws://{address}"));
        return output.json(&json!({
            "listening": listening, "device": device.to_string(), "websocket": websocket,
        }));
    }
    output.line(format!("listening on {listening}"))?;
    output.line(format!("device {device}"))
}

/// On a terminal one line that is kept up to date; elsewhere a line for each change of company.
fn tell(status: &Status, line: Option<&StatusLine>, told: &mut String, output: &Output) {
    if let Some(line) = line {
        line.show(&summary(status));
        return;
    }
    let company = format!("{} {:?}", connected(status), status.health);
    if company != *told {
        *told = company;
        output.note(summary(status));
    }
}

fn summary(status: &Status) -> String {
    let others = || status.devices.iter().filter(|device| !device.is_self);
    let behind = others().filter_map(|device| device.behind_by).max().unwrap_or(0);
    let ahead = others().map(|device| device.ahead_by).max().unwrap_or(0);
    let listening = status.listening.map_or_else(|| "offline".to_owned(), |address| address.to_string());
    let root = status.state_hash.to_string();
    let company = match others().count() {
        0 => "no other device yet".to_owned(),
        all => format!("{} of {all} connected", connected(status)),
    };
    let mut text = format!(
        "{} · {listening} · {company} · {} · root {}",
        status.name,
        counted(status.op_count, "op"),
        short_hash(&root),
    );
    if ahead > 0 {
        text.push_str(&format!(" · behind by {}", count(ahead)));
    }
    if behind > 0 {
        text.push_str(&format!(" · others behind by {}", count(behind)));
    }
    if status.conflict_count > 0 {
        text.push_str(&format!(" · {}", counted(status.conflict_count, "conflict")));
    }
    if !status.health.is_empty() {
        text.push_str(" · see `kinfold status`");
    }
    text
}

fn connected(status: &Status) -> usize {
    status.devices.iter().filter(|device| !device.is_self && device.connected.is_some()).count()
}

/// Between two looks at a node that changes.
const REDRAW: Duration = Duration::from_millis(500);

/// Between two looks at one that does not: drop boxes and clocks are told of by nobody.
const LOOK_AT_REST: Duration = Duration::from_secs(15);

/// How long stopping may take before the process ends anyway.
const STOP_WITHIN: Duration = Duration::from_secs(10);
