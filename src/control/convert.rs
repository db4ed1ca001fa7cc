//! Between what a request says and what a node takes and tells.

use std::num::NonZeroU16;
use std::time::Duration;

use serde_json::value::RawValue;

use super::dropbox::DropboxForm;
use super::error::{ControlError, blame_text};
use super::forms::*;
use super::lease::phase_text;
use super::params::{AppendParams, BookmarkForm, RoleParam, ScopeParam};
use super::rebase::{AdoptedForm, WaitingForm};
use crate::model::{DeviceId, Dot, Hlc, Incarnation, LogId, Payload, Scope, Seq, Surface, Tier};
use crate::node::{
    Appended, Bookmark, Change, DeviceStatus, Figure, HealthReason, LeaseHostStatus, Lifecycle, Metric,
    NewOp, NodeError, Round, Row, RowValue, SafeToSleep, Sample, Status, StreamEvent,
};
use crate::roster::Role;

/// What a request to append means: the tier of its surface decides.
///
/// # Errors
/// Whatever is wrong with surface, payload, key or stream; nothing is looked up.
pub fn new_op(params: &AppendParams) -> Result<NewOp, ControlError> {
    let surface: Surface = params.surface.parse()?;
    let payload = Payload::parse(params.payload.get())?;
    let (key, stream) = (params.key.clone(), params.stream.clone());
    let misplaced = |member: &'static str| ControlError::MisplacedMember { surface: surface.clone(), member };
    match surface.tier() {
        Tier::Registry | Tier::Facts if stream.is_some() => Err(misplaced("stream")),
        Tier::Events if key.is_some() => Err(misplaced("key")),
        Tier::Registry => registry_op(surface, key, payload),
        Tier::Facts => {
            let key = key
                .or_else(|| payload.string_member("id"))
                .unwrap_or_else(|| blake3::hash(payload.as_str().as_bytes()).to_hex().to_string());
            Ok(NewOp::Fact { surface, key, payload })
        }
        Tier::Events => {
            let stream = stream
                .or_else(|| payload.string_member("stream"))
                .or_else(|| payload.string_member("conversation_id"))
                .unwrap_or_else(|| DEFAULT_STREAM.to_owned());
            Ok(NewOp::Event { surface, stream, payload })
        }
        Tier::Ledger => Err(ControlError::LedgerSurface { surface }),
    }
}

fn registry_op(surface: Surface, key: Option<String>, payload: Payload) -> Result<NewOp, ControlError> {
    if let Some(key) = key {
        return Ok(NewOp::Put { surface, key, payload });
    }
    let Some(key) = payload.string_member("id") else {
        return Err(NodeError::IdMissing { surface }.into());
    };
    Ok(if payload.is_flagged("deleted") {
        NewOp::Delete { surface, key }
    } else {
        NewOp::Put { surface, key, payload }
    })
}

impl From<Vec<Metric>> for MetricsForm {
    fn from(metrics: Vec<Metric>) -> Self {
        let form = |metric: Metric| MetricForm {
            name: metric.name.to_owned(),
            help: metric.help.to_owned(),
            kind: metric.kind.name().to_owned(),
            samples: metric.samples.into_iter().map(SampleForm::from).collect(),
        };
        Self { metrics: metrics.into_iter().map(form).collect() }
    }
}

impl From<Sample> for SampleForm {
    fn from(sample: Sample) -> Self {
        let value = match sample.value {
            Figure::Count(count) => count.into(),
            Figure::Span(span) => {
                serde_json::Number::from_f64(span.as_secs_f64()).expect("a span is a finite number")
            }
        };
        let labels = sample.labels.into_iter().map(|(name, value)| (name.to_owned(), value));
        Self { labels: labels.collect(), value }
    }
}

impl From<Appended> for AppendedForm {
    fn from(appended: Appended) -> Self {
        Self { op_id: appended.id.to_string(), seq: appended.dot.seq.get(), hlc: appended.hlc.get() }
    }
}

impl From<Row> for RowForm {
    fn from(row: Row) -> Self {
        let shown = ValueForm::from(row.shown);
        Self {
            surface: row.surface.to_string(),
            id: row.key,
            deleted: shown.deleted && !row.is_dropped,
            payload: shown.payload,
            device_id: shown.device_id,
            incarnation: shown.incarnation,
            seq: shown.seq,
            hlc: shown.hlc,
            time_ms: shown.time_ms,
            op_id: shown.op_id,
            others: row.others.into_iter().map(ValueForm::from).collect(),
            open: row.is_open,
            superseded_by: row.superseded_by,
            dropped: row.is_dropped,
        }
    }
}

impl From<RowValue> for ValueForm {
    fn from(value: RowValue) -> Self {
        Self {
            op_id: value.id.to_string(),
            deleted: value.payload.is_none(),
            payload: raw(value.payload.as_ref()),
            device_id: value.dot.log.device.to_string(),
            incarnation: hex(value.dot.log.incarnation),
            seq: value.dot.seq.get(),
            hlc: value.hlc.get(),
            time_ms: value.hlc.millis(),
            late: value.is_late,
        }
    }
}

/// An event in its form.
pub fn event_form(surface: &Surface, event: StreamEvent) -> EventForm {
    EventForm {
        surface: surface.to_string(),
        stream: event.stream,
        payload: raw(Some(&event.payload)),
        device_id: event.dot.log.device.to_string(),
        incarnation: hex(event.dot.log.incarnation),
        seq: event.dot.seq.get(),
        hlc: event.hlc.get(),
        time_ms: event.hlc.millis(),
    }
}

/// A change in its form.
pub fn change_form(subscription: u64, change: Change) -> ChangeForm {
    ChangeForm {
        subscription,
        surface: change.surface.to_string(),
        id: change.key,
        deleted: change.payload.is_none(),
        payload: raw(change.payload.as_ref()),
        device_id: change.dot.log.device.to_string(),
        incarnation: hex(change.dot.log.incarnation),
        seq: change.dot.seq.get(),
        hlc: change.hlc.get(),
        time_ms: change.hlc.millis(),
    }
}

impl From<&Bookmark> for BookmarkForm {
    fn from(bookmark: &Bookmark) -> Self {
        Self {
            space: bookmark.space.to_string(),
            truncations: bookmark.truncations,
            frontier: bookmark.frontier.iter().map(|(log, seq)| (log.to_string(), seq.get())).collect(),
        }
    }
}

/// The bookmark in a request.
///
/// # Errors
/// [`ControlError::Id`] for a space or log that is not readable.
pub fn bookmark(form: &BookmarkForm) -> Result<Bookmark, ControlError> {
    let unreadable = |source| ControlError::Id { what: "after", source };
    let log = |(log, seq): (&String, &u64)| Ok((log.parse::<LogId>().map_err(unreadable)?, Seq::new(*seq)));
    Ok(Bookmark {
        space: form.space.parse().map_err(unreadable)?,
        truncations: form.truncations,
        frontier: form.frontier.iter().map(log).collect::<Result<_, ControlError>>()?,
    })
}

impl From<Round> for RoundForm {
    fn from(round: Round) -> Self {
        Self {
            pushed: round.pushed,
            push_deduped: round.push_deduped,
            folded: round.folded,
            acked: round.acked,
            peers: round.peers,
            absent: round.absent.iter().map(DeviceId::to_string).collect(),
            dropboxes: round.dropboxes,
            dropboxes_failed: round.dropboxes_failed,
            dropbox_pushed: round.dropbox_pushed,
            dropbox_pulled: round.dropbox_pulled,
            state_hash: round.state_hash.map(|root| root.to_string()),
        }
    }
}

impl From<SafeToSleep> for SafeToSleepForm {
    fn from(answer: SafeToSleep) -> Self {
        Self {
            safe: answer.is_safe(),
            holders: answer.holders.iter().map(DeviceId::to_string).collect(),
            unheld_ops: answer.unheld_ops,
        }
    }
}

impl From<Status> for StatusForm {
    fn from(status: Status) -> Self {
        Self {
            device_id: status.device.to_string(),
            name: status.name,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            space: status.space.to_string(),
            scope: scope_param(&status.scope),
            listening: status.listening.map(|address| address.to_string()),
            lifecycle: lifecycle_form(&status.lifecycle),
            state_hash: status.state_hash.to_string(),
            journal_frontier: status.frontier.iter().map(|(log, seq)| (log.to_string(), *seq)).collect(),
            frontier: status.positions.map(|positions| positions.to_string()),
            stable_frontier: status
                .stable
                .map(|stable| stable.iter().map(|(log, seq)| (log.to_string(), *seq)).collect()),
            base_checkpoint: status.base.map(|base| base.to_string()),
            adopted: status.adopted.as_ref().map(AdoptedForm::from),
            waiting: status.waiting.as_ref().map(WaitingForm::from),
            logged_ops: status.logged_count,
            store_bytes: status.store_bytes,
            ops: status.op_count,
            rows: status.row_count,
            events: status.event_count,
            conflicts: status.conflict_count,
            skewed: status.skewed_count,
            malformed: status.malformed_count,
            sent_bytes: status.sent_bytes,
            received_bytes: status.received_bytes,
            loading: status.is_loading,
            roster: status.devices.iter().map(DeviceForm::from).collect(),
            peers: peer_forms(&status.devices),
            forks_healed: status.forks_healed.iter().map(DeviceId::to_string).collect(),
            dropboxes: status.dropboxes.iter().map(DropboxForm::from).collect(),
            lease_host: status.lease_host.as_ref().map(lease_host_form),
            health: health_form(&status.health),
        }
    }
}

impl From<&DeviceStatus> for DeviceForm {
    fn from(status: &DeviceStatus) -> Self {
        Self {
            device_id: status.device.to_string(),
            name: status.name.clone(),
            role: status.role.into(),
            is_self: status.is_self,
            dormant: status.is_dormant,
            dormant_since_ms: status.dormancy.map(|dormancy| dormancy.since.millis()),
            dormant_after_days: status.dormancy.and_then(|dormancy| dormancy.after_days).map(NonZeroU16::get),
            connected: status.connected.is_some(),
            last_contact_ms: status.last_contact.map(millis),
        }
    }
}

/// The devices other than this one, as peers.
pub fn peer_forms(devices: &[DeviceStatus]) -> Vec<PeerForm> {
    let others = devices.iter().filter(|status| !status.is_self);
    let form = |status: &DeviceStatus| PeerForm {
        device_id: status.device.to_string(),
        name: status.name.clone(),
        connected: status.connected.is_some(),
        address: status.connected.map(|address| address.to_string()),
        last_contact_ms: status.last_contact.map(millis),
        behind_by: status.behind_by,
        ahead_by: status.ahead_by,
        root: status.root.map(|root| root.to_string()),
        last_refusal: status.last_refusal.as_ref().map(|refusal| RefusalForm {
            why: refusal.why.clone(),
            blame: blame_text(refusal.blame).to_owned(),
            since_ms: millis(refusal.since),
        }),
    };
    others.map(form).collect()
}

fn lifecycle_form(lifecycle: &Lifecycle) -> LifecycleForm {
    let state = lifecycle.name().to_owned();
    match lifecycle {
        Lifecycle::Failed { why, failures, again_at } => LifecycleForm {
            state,
            why: Some(why.clone()),
            failures: *failures,
            again_in_ms: again_at.map(|at| millis(at.saturating_sub(crate::clock::uptime()))),
        },
        Lifecycle::Stopped | Lifecycle::Starting | Lifecycle::Running | Lifecycle::Stopping => {
            LifecycleForm { state, ..LifecycleForm::default() }
        }
    }
}

fn lease_host_form(host: &LeaseHostStatus) -> LeaseHostStatusForm {
    LeaseHostStatusForm {
        device_id: host.host.to_string(),
        name: host.name.clone(),
        is_member: host.is_member,
        reachable: host.is_reachable,
        phase: phase_text(host.phase).to_owned(),
        in_doubt: host.is_in_doubt,
        used: host.is_used,
    }
}

/// Health in its form: what threatens data is unhealthy, the rest is degraded.
pub fn health_form(reasons: &[HealthReason]) -> HealthForm {
    let grave = |reason: &HealthReason| {
        matches!(
            reason,
            HealthReason::StorageFailed { .. }
                | HealthReason::Diverged { .. }
                | HealthReason::RemovedHere { .. }
                | HealthReason::RunsTwice { .. }
        )
    };
    let state = match reasons {
        [] => "healthy",
        some if some.iter().any(grave) => "unhealthy",
        _ => "degraded",
    };
    HealthForm { state: state.to_owned(), reasons: reasons.iter().map(reason_form).collect() }
}

fn times(count: u32) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}

fn reason_form(reason: &HealthReason) -> ReasonForm {
    let form = |kind: &str, message: String, hint: &str, device: Option<&DeviceId>| ReasonForm {
        kind: kind.to_owned(),
        message,
        hint: hint.to_owned(),
        device_id: device.map(DeviceId::to_string),
        at_ms: None,
    };
    match reason {
        HealthReason::Fork { device } => form(
            "Fork",
            format!("two histories of one log of {} exist", device.short()),
            "was a backup restored or a disk cloned? sync goes on; it heals once that device is connected",
            Some(device),
        ),
        HealthReason::LogBlocked { device, why } => form(
            "LogBlocked",
            format!("a log of {} cannot be continued: {why}", device.short()),
            "update the program on that device; other logs are not affected",
            Some(device),
        ),
        HealthReason::Diverged { device, ours, theirs } => form(
            "Diverged",
            format!("same ops, another state on {}: {ours} here, {theirs} there", device.short()),
            "`kinfold verify` finds the first row that differs; nothing is thrown away meanwhile, so keep both homes",
            Some(device),
        ),
        HealthReason::Forgotten { device, ops } => form(
            "Forgotten",
            match ops {
                1 => format!("an op that {} has forgotten is kept here", device.short()),
                _ => format!("{ops} ops that {} has forgotten are kept here", device.short()),
            },
            "was its disk put back more than once? connect it to this device, which gives them back; where it is lost, \
             `kinfold revoke` gives them up",
            Some(device),
        ),
        HealthReason::KeyMissing { batches } => form(
            "KeyMissing",
            format!("{batches} batches wait for their key"),
            "connect to a device that has it",
            None,
        ),
        HealthReason::ClockSkew { device, ahead_seconds } => form(
            "ClockSkew",
            match ahead_seconds {
                0.. => format!("this clock is {ahead_seconds} s ahead of {}", device.short()),
                ..0 => format!("this clock is {} s behind {}", ahead_seconds.unsigned_abs(), device.short()),
            },
            "set the clock of the device that is wrong; nothing is lost meanwhile",
            Some(device),
        ),
        HealthReason::UnknownOps { count } => form(
            "UnknownOps",
            format!("{count} ops of a later version are kept but not shown"),
            "update this program",
            None,
        ),
        HealthReason::BaseWaiting { waiting } => form(
            "BaseWaiting",
            format!(
                "what is missing here is gone elsewhere, and the checkpoint in its place waits: {}",
                waiting.why
            ),
            super::rebase::hint_of(&waiting.why),
            Some(&waiting.author),
        ),
        HealthReason::DiscoveryDown { why } => form(
            "DiscoveryDown",
            format!("devices are not found by themselves: {why}"),
            "name an address with `kinfold up --peer ADDR`",
            None,
        ),
        HealthReason::NetworkFailed { why, failures } => form(
            "NetworkFailed",
            format!("no network: {why} (failed {})", times(*failures)),
            "it is tried again by itself; what is written meanwhile goes out once it is back",
            None,
        ),
        HealthReason::StorageFailed { why } => form(
            "StorageFailed",
            format!("the store refused a write: {why}"),
            "make room or repair the disk, then start again; what was acknowledged is safe",
            None,
        ),
        HealthReason::RemovedHere { scope, by, by_name, at_millis } => {
            let by_text =
                by_name.as_ref().map_or_else(|| by.short(), |name| format!("{name} ({})", by.short()));
            let space = match scope {
                Scope::Personal => "the personal space".to_owned(),
                Scope::Shared(org) => format!("the space of {org}"),
            };
            let message = format!("this device was removed from {space} by {by_text}");
            let hint = "what is here stays readable and goes nowhere; to take part again, pair a fresh home";
            ReasonForm { at_ms: Some(*at_millis), ..form("RemovedHere", message, hint, Some(by)) }
        }
        HealthReason::RunsTwice { device } => form(
            "RunsTwice",
            format!("{} runs twice: its home was copied, and both copies are in use", device.short()),
            "stop one of the two and pair a fresh home there; nothing is lost meanwhile",
            Some(device),
        ),
        HealthReason::DropboxFailed { place, why, hint } => {
            form("DropboxFailed", format!("the drop box {place} cannot be used: {why}"), hint, None)
        }
        HealthReason::EpochContested => form(
            "EpochContested",
            "the key was renewed twice at once; waiting for an admin to renew the key".to_owned(),
            "connect to an admin of the space, or run `kinfold rotate` on one; writing goes on",
            None,
        ),
        HealthReason::LeaseHostRemoved { host } => form(
            "LeaseHostRemoved",
            format!("{} hosts the leases and was removed, so nobody gets one", host.short()),
            "name another host with `kinfold lease move-host DEVICE`; everything but leases goes on",
            Some(host),
        ),
        HealthReason::LeasesQuarantined => form(
            "LeasesQuarantined",
            "this device hosts the leases, but was restored or copied, so nobody gets one".to_owned(),
            "name a host with `kinfold lease move-host DEVICE --lost`; everything but leases goes on",
            None,
        ),
        HealthReason::LeaseStorageFailed => form(
            "LeaseStorageFailed",
            "this device hosts the leases, and a write of theirs failed, so nobody gets one".to_owned(),
            "make room or repair the disk, then start the node again",
            None,
        ),
    }
}

impl From<RoleParam> for Role {
    fn from(role: RoleParam) -> Self {
        match role {
            RoleParam::Admin => Self::Admin,
            RoleParam::Member => Self::Member,
            RoleParam::Blind => Self::Blind,
        }
    }
}

impl From<Role> for RoleParam {
    fn from(role: Role) -> Self {
        match role {
            Role::Admin => Self::Admin,
            Role::Member => Self::Member,
            Role::Blind => Self::Blind,
        }
    }
}

/// A place in a list of events: stamp, device, incarnation, position and then the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventCursor {
    /// The stream the last event was in.
    pub stream: String,
    /// The last event.
    pub after: (Hlc, Dot),
}

impl EventCursor {
    /// The text that `next` holds.
    pub fn to_text(&self) -> String {
        let (hlc, dot) = self.after;
        format!("{}.{}.{}.{}", hlc.get(), dot.seq.get(), dot.log, self.stream)
    }

    /// Reads what [`EventCursor::to_text`] wrote.
    ///
    /// # Errors
    /// [`ControlError::BadCursor`] for any other text.
    pub fn parse(text: &str) -> Result<Self, ControlError> {
        let read = || {
            let mut parts = text.splitn(4, '.');
            let hlc = Hlc::new(parts.next()?.parse().ok()?);
            let seq = Seq::new(parts.next()?.parse().ok()?);
            let log: LogId = parts.next()?.parse().ok()?;
            Some(Self { stream: parts.next()?.to_owned(), after: (hlc, Dot { log, seq }) })
        };
        read().ok_or_else(|| ControlError::BadCursor { found: text.chars().take(80).collect() })
    }
}

/// A span in whole milliseconds.
pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn scope_param(scope: &Scope) -> ScopeParam {
    match scope {
        Scope::Personal => ScopeParam::Personal,
        Scope::Shared(org) => ScopeParam::Org(org.to_string()),
    }
}

pub(super) fn raw(payload: Option<&Payload>) -> Box<RawValue> {
    let text = payload.map_or("null", Payload::as_str);
    RawValue::from_string(text.to_owned()).expect("a payload is JSON: Payload::parse made it")
}

pub(super) fn hex(incarnation: Incarnation) -> String {
    format!("{:016x}", incarnation.get())
}

/// Where events go that name no stream.
const DEFAULT_STREAM: &str = "default";

#[cfg(test)]
mod tests {
    use super::*;

    fn op(surface: &str, payload: &str) -> Result<NewOp, ControlError> {
        new_op(&params(surface, payload))
    }

    fn params(surface: &str, payload: &str) -> AppendParams {
        AppendParams {
            scope: ScopeParam::Personal,
            surface: surface.into(),
            payload: RawValue::from_string(payload.into()).unwrap(),
            key: None,
            stream: None,
        }
    }

    #[test]
    fn the_tier_of_the_surface_decides_what_an_append_means() {
        assert!(matches!(op("registry:note", r#"{"id":"a","n":1.0}"#), Ok(NewOp::Put { key, payload, .. })
                if key == "a" && payload.as_str() == r#"{"id":"a","n":1.0}"#));
        assert!(
            matches!(op("registry:note", r#"{"id":"a","deleted":true}"#), Ok(NewOp::Delete { key, .. }) if key == "a")
        );
        assert!(matches!(op("knowledge", r#"{"id":"k"}"#), Ok(NewOp::Fact { key, .. }) if key == "k"));
        assert!(
            matches!(op("routing", r#"{"stream":"s"}"#), Ok(NewOp::Event { stream, .. }) if stream == "s")
        );
        assert!(
            matches!(op("conversation", r#"{"conversation_id":"c"}"#), Ok(NewOp::Event { stream, .. }) if stream == "c")
        );
        assert!(matches!(op("routing", "[]"), Ok(NewOp::Event { stream, .. }) if stream == "default"));
    }

    #[test]
    fn a_fact_without_an_id_is_named_by_its_canonical_payload() {
        let (Ok(NewOp::Fact { key: one, .. }), Ok(NewOp::Fact { key: two, .. })) =
            (op("skill", r#"{"b":1,"a":2}"#), op("skill", r#" {"a":2, "b":1}"#))
        else {
            panic!("both are facts");
        };

        assert_eq!(one, two);
        assert_eq!(one, blake3::hash(br#"{"a":2,"b":1}"#).to_hex().to_string());
    }

    #[test]
    fn an_explicit_key_takes_the_payload_as_it_is() {
        let mut explicit = params("registry:note", r#"{"deleted":true}"#);
        explicit.key = Some("k".into());

        assert!(matches!(new_op(&explicit), Ok(NewOp::Put { key, .. }) if key == "k"));
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let kind = |params: &AppendParams| new_op(params).unwrap_err().kind();

        assert_eq!(kind(&params("notes", "{}")), "UnknownSurface");
        assert_eq!(kind(&params("registry:A", "{}")), "RegistryKind");
        assert_eq!(kind(&params("registry:a", "{}")), "IdMissing");
        assert_eq!(kind(&params("registry:a", r#"{"id":7}"#)), "IdMissing");
        assert_eq!(kind(&params("intent", "{}")), "LedgerSurface");
        assert_eq!(kind(&params("registry:a", r#"{"id":"x","id":"y"}"#)), "DuplicateKey");
        let mut misplaced = params("registry:a", "{}");
        misplaced.stream = Some("s".into());
        assert_eq!(kind(&misplaced), "MisplacedMember");
        let mut misplaced = params("routing", "{}");
        misplaced.key = Some("s".into());
        assert_eq!(kind(&misplaced), "MisplacedMember");
    }

    #[test]
    fn a_place_in_a_list_of_events_reads_back() {
        let log = LogId { device: DeviceId::from_bytes([3; 32]), incarnation: Incarnation::new(9) };
        let cursor = EventCursor {
            stream: "a.b/c d".into(),
            after: (Hlc::new(u64::MAX), Dot { log, seq: Seq::new(4) }),
        };

        assert_eq!(EventCursor::parse(&cursor.to_text()).unwrap(), cursor);
        for text in ["", "1", "1.2.x.s", "a.2.x.s"] {
            assert_eq!(EventCursor::parse(text).unwrap_err().kind(), "BadCursor");
        }
    }

    #[test]
    fn health_is_the_worst_of_its_reasons() {
        let down = HealthReason::DiscoveryDown { why: "no interface".into() };
        let failed = HealthReason::StorageFailed { why: "no space left".into() };

        assert_eq!(health_form(&[]).state, "healthy");
        assert_eq!(health_form(std::slice::from_ref(&down)).state, "degraded");
        assert_eq!(health_form(&[down, failed]).state, "unhealthy");
    }

    #[test]
    fn what_befell_the_space_is_said_in_a_sentence() {
        let by = DeviceId::from_bytes([7; 32]);
        let scope = Scope::Shared("acme".into());
        let removed = HealthReason::RemovedHere { scope, by, by_name: Some("laptop".into()), at_millis: 5 };
        let told =
            health_form(&[removed, HealthReason::RunsTwice { device: by }, HealthReason::EpochContested]);

        let expected = format!("this device was removed from the space of acme by laptop ({})", by.short());
        assert_eq!((told.reasons[0].message.as_str(), told.reasons[0].at_ms), (expected.as_str(), Some(5)));
        assert!(told.reasons[1].message.contains("runs twice"));
        assert!(told.reasons[2].message.contains("waiting for an admin to renew the key"));
        assert_eq!(health_form(&[HealthReason::EpochContested]).state, "degraded");
    }

    #[test]
    fn who_has_forgotten_ops_that_are_kept_here_is_named() {
        let device = DeviceId::from_bytes([7; 32]);
        let told = |ops| {
            let told = health_form(&[HealthReason::Forgotten { device, ops }]);
            let reason = told.reasons.into_iter().next().expect("one was given");
            assert_eq!((told.state.as_str(), reason.device_id), ("degraded", Some(device.to_string())));
            assert!(reason.hint.contains("connect it") && reason.hint.contains("revoke"), "{}", reason.hint);
            reason.message
        };

        assert_eq!(told(1), format!("an op that {} has forgotten is kept here", device.short()));
        assert_eq!(told(20), format!("20 ops that {} has forgotten are kept here", device.short()));
    }

    #[test]
    fn what_keeps_everybody_from_a_lease_says_what_to_do() {
        let host = DeviceId::from_bytes([7; 32]);
        for (reason, words) in [
            (HealthReason::LeaseHostRemoved { host }, "move-host DEVICE`"),
            (HealthReason::LeasesQuarantined, "move-host DEVICE --lost`"),
            (HealthReason::LeaseStorageFailed, "start the node again"),
        ] {
            let told = health_form(&[reason]);

            assert_eq!(told.state, "degraded");
            assert!(told.reasons[0].hint.contains(words), "{told:?}");
        }
    }
}
