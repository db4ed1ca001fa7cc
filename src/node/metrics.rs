//! Figures of a running node: what it has done, and what waits.
//!
//! Counting is adding to a number on the thread that does the work anyway; everything else is looked
//! up when it is asked for. Devices appear by their short id; nothing here tells a name, a key or a
//! value.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use super::core::Core;
use super::error::NodeError;
use super::handle::Node;
use crate::fold::Counts;
use crate::model::{Blame, DeviceId, Scope};
use crate::sync::Refusal;

/// One figure, with a sample for each of its labels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metric {
    /// Its name, by the customs of Prometheus: a unit at the end, `_total` for what only grows.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub help: &'static str,
    /// Whether it only grows.
    pub kind: MetricKind,
    /// At least one, unless there is nothing to label.
    pub samples: Vec<Sample>,
}

/// How a figure moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricKind {
    /// Grows from zero at each start.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A value and what it is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Names and values.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: Figure,
}

/// A whole number, or a span that is shown in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Figure {
    /// A count or a number of bytes.
    Count(u64),
    /// A span.
    Span(Duration),
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Span(span) => write!(f, "{}.{:06}", span.as_secs(), span.subsec_micros()),
        }
    }
}

/// What the loop counts in this run.
#[derive(Default)]
pub(super) struct Tally {
    pub batches: u64,
    pub frames: u64,
    pub folded_ops: u64,
    pub rounds: u64,
    pub commits: u64,
    pub commit_failures: u64,
    pub commit_time: Duration,
    pub commit_longest: Duration,
    pub connections: u64,
    pub dial_failures: BTreeMap<&'static str, u64>,
    pub refused: BTreeMap<&'static str, u64>,
    /// UDP bytes sent and received over connections that have ended.
    pub ended: BTreeMap<DeviceId, (u64, u64)>,
}

impl Tally {
    pub fn committed(&mut self, took: Duration, is_done: bool) {
        self.commits += 1;
        self.commit_failures += u64::from(!is_done);
        self.commit_time += took;
        self.commit_longest = self.commit_longest.max(took);
    }

    pub fn dial_failed(&mut self, blame: Blame) {
        *self.dial_failures.entry(blame_name(blame)).or_default() += 1;
    }

    pub fn refuse(&mut self, why: &Refusal) {
        *self.refused.entry(refusal_name(why)).or_default() += 1;
    }

    /// At most as many devices as a roster may name, so it needs no limit of its own.
    pub fn ended(&mut self, device: DeviceId, sent: u64, received: u64) {
        let bytes = self.ended.entry(device).or_default();
        *bytes = (bytes.0 + sent, bytes.1 + received);
    }
}

impl Node {
    /// Figures of this run and of what is held, of all spaces.
    ///
    /// # Errors
    /// [`NodeError::Stopped`].
    pub async fn metrics(&self) -> Result<Vec<Metric>, NodeError> {
        self.ask(Core::metrics).await
    }
}

impl Core {
    /// Everything there is to tell.
    pub(super) fn metrics(&mut self) -> Vec<Metric> {
        let mut all = self.work();
        all.extend(self.peers());
        all.extend(self.state());
        all
    }

    fn work(&self) -> Vec<Metric> {
        let (tally, engine) = (&self.tally, self.engine.counters());
        let (jobs, events) = self.queued();
        let counted = |name, help, value| one(name, help, MetricKind::Counter, Figure::Count(value));
        let now = |name, help, value| one(name, help, MetricKind::Gauge, Figure::Count(value));
        vec![
            counted("kinfold_ops_pushed_total", "Ops handed to the network.", engine.pushed_ops),
            counted("kinfold_ops_received_total", "Ops received and taken.", engine.received_ops),
            counted(
                "kinfold_ops_duplicate_total",
                "Ops that arrived again, or were not sent because the peer had them.",
                engine.duplicate_ops,
            ),
            counted("kinfold_ops_folded_total", "Ops folded into the state.", tally.folded_ops),
            counted("kinfold_acks_received_total", "Acks received.", engine.ack_count),
            counted("kinfold_batches_received_total", "Sealed batches received.", tally.batches),
            counted("kinfold_frames_received_total", "Control frames received.", tally.frames),
            counted("kinfold_rounds_total", "Comparisons with every connected device.", tally.rounds),
            counted(
                "kinfold_connections_total",
                "Connections that were accepted by both sides.",
                tally.connections,
            ),
            labelled(
                "kinfold_dial_failures_total",
                "Dials that brought no connection, by blame.",
                "blame",
                &tally.dial_failures,
            ),
            labelled(
                "kinfold_refused_total",
                "Connections closed for what the peer sent, by reason.",
                "reason",
                &tally.refused,
            ),
            counted("kinfold_commits_total", "Transactions of the store.", tally.commits),
            counted(
                "kinfold_commit_failures_total",
                "Transactions the store refused.",
                tally.commit_failures,
            ),
            one(
                "kinfold_commit_seconds_total",
                "Time spent in transactions, the sync of the disk included.",
                MetricKind::Counter,
                Figure::Span(tally.commit_time),
            ),
            one(
                "kinfold_commit_longest_seconds",
                "The longest transaction.",
                MetricKind::Gauge,
                Figure::Span(tally.commit_longest),
            ),
            now("kinfold_jobs_queued", "Requests that wait for the loop.", jobs),
            now("kinfold_events_queued", "Network events that wait for the loop.", events),
        ]
    }

    fn peers(&self) -> Vec<Metric> {
        let mut bytes = self.tally.ended.clone();
        for link in self.links.values() {
            let (stats, entry) = (link.stats(), bytes.entry(link.device()).or_default());
            *entry = (entry.0 + stats.sent_bytes, entry.1 + stats.received_bytes);
        }
        let by_device = |figure: fn(&(u64, u64)) -> u64| {
            let sample = |(device, bytes): (&DeviceId, &(u64, u64))| Sample {
                labels: vec![("device", device.short())],
                value: Figure::Count(figure(bytes)),
            };
            bytes.iter().map(sample).collect::<Vec<_>>()
        };
        let metric = |name, help, samples| Metric { name, help, kind: MetricKind::Counter, samples };
        let connected = self.engine.peers().iter().filter(|peer| peer.is_greeted).count() as u64;
        vec![
            one(
                "kinfold_peers_connected",
                "Devices that are connected.",
                MetricKind::Gauge,
                Figure::Count(connected),
            ),
            metric("kinfold_sent_bytes_total", "UDP bytes sent, by device.", by_device(|bytes| bytes.0)),
            metric(
                "kinfold_received_bytes_total",
                "UDP bytes received, by device.",
                by_device(|bytes| bytes.1),
            ),
        ]
    }

    fn state(&mut self) -> Vec<Metric> {
        let mut seen: Vec<(String, Held)> = Vec::new();
        for space in self.engine.active_spaces() {
            let Some(view) = self.engine.space(space) else { continue };
            let scope = match view.scope {
                Scope::Personal => "personal".to_owned(),
                // The organisation's name is not for everybody who reads figures.
                Scope::Shared(_) => space.to_string().chars().take(SPACE_CHARS).collect(),
            };
            let index = self.index(&space).filter(|index| index.is_ready());
            let counts = index.map_or_else(Counts::default, |index| index.peek().counts());
            let held = Held {
                ops: view.frontier.op_count() + view.draft_count,
                parked: view.parked_count,
                skewed: view.skewed_count,
                diverged: self.engine.diverged(space).len() as u64,
                counts,
            };
            seen.push((scope, held));
        }
        let gauge = |name, help, figure: fn(&Held) -> u64| {
            let sample = |(scope, held): &(String, Held)| Sample {
                labels: vec![("space", scope.clone())],
                value: Figure::Count(figure(held)),
            };
            Metric { name, help, kind: MetricKind::Gauge, samples: seen.iter().map(sample).collect() }
        };
        vec![
            gauge("kinfold_ops", "Ops held.", |held| held.ops),
            gauge("kinfold_rows", "Live rows.", |held| held.counts.live_rows),
            gauge("kinfold_events", "Events held.", |held| held.counts.events),
            gauge("kinfold_conflicts", "Rows in conflict.", |held| held.counts.conflicts),
            gauge("kinfold_unknown_ops", "Ops of a later version, kept and not folded.", |held| {
                held.counts.unknown
            }),
            gauge("kinfold_malformed_ops", "Ops that break the rules of their kind.", |held| {
                held.counts.malformed
            }),
            gauge("kinfold_skewed_ops", "Ops that arrived stamped more than a minute ahead.", |held| {
                held.skewed
            }),
            gauge("kinfold_parked_batches", "Batches that wait for their key.", |held| held.parked),
            gauge("kinfold_diverged_devices", "Devices with the same ops and another state.", |held| {
                held.diverged
            }),
        ]
    }
}

struct Held {
    ops: u64,
    parked: u64,
    skewed: u64,
    diverged: u64,
    counts: Counts,
}

/// The text format of Prometheus, version 0.0.4.
pub fn prometheus(metrics: &[Metric]) -> String {
    let mut text = String::new();
    for metric in metrics {
        let kind = metric.kind.name();
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {} {}\n# TYPE {} {kind}", metric.name, metric.help, metric.name);
        for sample in &metric.samples {
            let labels: Vec<String> =
                sample.labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(text, "{}{labels} {}", metric.name, sample.value);
        }
    }
    text
}

impl MetricKind {
    /// Its name in the text format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

fn one(name: &'static str, help: &'static str, kind: MetricKind, value: Figure) -> Metric {
    Metric { name, help, kind, samples: vec![Sample { labels: Vec::new(), value }] }
}

fn labelled(
    name: &'static str,
    help: &'static str,
    label: &'static str,
    counts: &BTreeMap<&'static str, u64>,
) -> Metric {
    let sample = |(value, count): (&&'static str, &u64)| Sample {
        labels: vec![(label, (*value).to_owned())],
        value: Figure::Count(*count),
    };
    Metric { name, help, kind: MetricKind::Counter, samples: counts.iter().map(sample).collect() }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

const fn blame_name(blame: Blame) -> &'static str {
    match blame {
        Blame::Local => "local",
        Blame::Peer => "peer",
        Blame::Environment => "environment",
    }
}

const fn refusal_name(why: &Refusal) -> &'static str {
    match why {
        Refusal::Message(_) => "message",
        Refusal::Batch(_) => "batch",
        Refusal::Signature { .. } => "signature",
        Refusal::Lease(_) => "lease",
        Refusal::WrongSpace => "wrong_space",
        Refusal::GapAgain { .. } => "gap_again",
        Refusal::Version { .. } => "version",
        Refusal::NoHello => "no_hello",
        Refusal::NotInRoster => "not_in_roster",
        Refusal::Storage => "storage",
    }
}

/// As much of a space's id as tells it apart.
const SPACE_CHARS: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_is_pinned() {
        let mut tally = Tally::default();
        tally.committed(Duration::from_micros(1_500), true);
        tally.committed(Duration::from_micros(500), false);
        tally.refuse(&Refusal::WrongSpace);
        tally.refuse(&Refusal::WrongSpace);
        tally.dial_failed(Blame::Environment);
        let metrics = [
            labelled("kinfold_refused_total", "By reason.", "reason", &tally.refused),
            one(
                "kinfold_commit_seconds_total",
                "Time.",
                MetricKind::Counter,
                Figure::Span(tally.commit_time),
            ),
            Metric {
                name: "kinfold_odd",
                help: "Odd.",
                kind: MetricKind::Gauge,
                samples: vec![Sample {
                    labels: vec![("a", "x\"y\\z\n".to_owned()), ("b", String::new())],
                    value: Figure::Count(7),
                }],
            },
        ];

        assert_eq!(
            prometheus(&metrics),
            "# HELP kinfold_refused_total By reason.\n# TYPE kinfold_refused_total counter\n\
             kinfold_refused_total{reason=\"wrong_space\"} 2\n\
             # HELP kinfold_commit_seconds_total Time.\n# TYPE kinfold_commit_seconds_total counter\n\
             kinfold_commit_seconds_total 0.002000\n\
             # HELP kinfold_odd Odd.\n# TYPE kinfold_odd gauge\n\
             kinfold_odd{a=\"x\\\"y\\\\z\\n\",b=\"\"} 7\n"
        );
        assert_eq!((tally.commits, tally.commit_failures), (2, 1));
        assert_eq!(tally.commit_longest, Duration::from_micros(1_500));
        assert_eq!(tally.dial_failures["environment"], 1);
    }

    #[test]
    fn bytes_of_ended_connections_add_up() {
        let (mut tally, device) = (Tally::default(), DeviceId::from_bytes([1; 32]));

        tally.ended(device, 3, 4);
        tally.ended(device, 5, 6);

        assert_eq!(tally.ended[&device], (8, 10));
    }
}
