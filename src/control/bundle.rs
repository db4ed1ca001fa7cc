//! Bundles over the control API: `bundle.export` and `bundle.import`.
//!
//! Files are on the machine of the node, and their names are absolute. Both tell `bundle.progress`
//! while they run, and answer at the end.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::convert::scope_param;
use super::dispatch::{space, to_raw};
use super::error::{ControlError, node_hint, node_kind};
use super::params::ScopeParam;
use super::rebase::WaitingForm;
use super::roster::{self, DeviceParams};
use super::session::Notice;
use crate::node::{
    BundleExported, BundleFailure, BundleImported, BundleProgress, Consent, Missing, Node, Waiting,
    WhyWaiting,
};
use crate::sync::{NotTaken, WhyNotTaken};
use crate::wire::BundleError;

/// What is to go into a bundle.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BundleExportParams {
    /// Which space.
    #[serde(default, skip_serializing_if = "ScopeParam::is_personal")]
    pub scope: ScopeParam,
    /// The file to write, an absolute name; it must not be there.
    pub path: PathBuf,
    /// The device that lacks what is to go in, by id, short id or name; everything where absent.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub receiver: Option<String>,
}

/// The bundle to take in; it says itself which space it is of.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BundleImportParams {
    /// The file to read, an absolute name.
    pub path: PathBuf,
    /// Takes the attestation of one device for enough, where the bundle brings a checkpoint to begin with.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accept: bool,
}

/// How far it has come: the parameters of `bundle.progress`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BundleProgressForm {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// What a bundle holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BundleExportedForm {
    /// The file.
    pub path: PathBuf,
    /// The device it is for; null where it is for anybody.
    #[serde(rename = "for")]
    pub receiver: Option<String>,
    /// When that device has last said what it holds, by its own clock; null where it never did.
    pub beyond_ack_of_ms: Option<u64>,
    /// Ops.
    pub ops: u64,
    /// Logs they are in.
    pub logs: u64,
    /// Roster records.
    pub records: u64,
    /// Acks.
    pub acks: u64,
    /// The checkpoint that is in it in place of what was dropped here; null where every op is.
    pub checkpoint: Option<String>,
    /// Ops that the checkpoint holds the state of.
    pub checkpoint_ops: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// What became of a bundle.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BundleImportedForm {
    /// The space it is of.
    pub scope: ScopeParam,
    /// Who exported it.
    pub exported_by: String,
    /// When, by the exporter's clock.
    pub exported_ms: u64,
    /// Roster records that are new here.
    pub records: u64,
    /// Ops that are new here.
    pub ops: u64,
    /// Ops that were held already.
    pub held_ops: u64,
    /// Acks that say more than what was known.
    pub acks: u64,
    /// Whether everything it was exported with is here.
    pub whole: bool,
    /// What the file lacks, or holds damaged.
    pub missing: Vec<MissingForm>,
    /// What it holds and was not taken.
    pub not_taken: Vec<NotTakenForm>,
    /// The checkpoint that the history here begins with now, where this bundle has brought it.
    pub base_checkpoint: Option<String>,
    /// The checkpoint that it brings and the history here cannot begin with yet.
    pub waiting: Option<WaitingForm>,
    /// Parts of a later version, which were left out.
    pub unknown_parts: u64,
}

/// What a file lacks of its bundle.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MissingForm {
    /// `records`, `checkpoint`, `ops`, `acks` or `unknown`.
    pub what: String,
    /// Whose ops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// The first position in its log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// The last position in its log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
}

/// Ops that were not taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NotTakenForm {
    /// Whose.
    pub device_id: String,
    /// The first position in its log.
    pub first: u64,
    /// The last position in its log.
    pub last: u64,
    /// The name of the reason.
    pub kind: String,
    /// The reason, for people.
    pub why: String,
}

impl From<BundleImported> for BundleImportedForm {
    fn from(imported: BundleImported) -> Self {
        Self {
            whole: imported.is_whole(),
            scope: scope_param(&imported.scope),
            exported_by: imported.exporter.to_string(),
            exported_ms: imported.exported.as_millis(),
            records: imported.records,
            ops: imported.ops,
            held_ops: imported.held_ops,
            acks: imported.acks,
            missing: imported.missing.iter().map(MissingForm::from).collect(),
            not_taken: imported.not_taken.iter().map(NotTakenForm::from).collect(),
            base_checkpoint: imported.began_with.map(|base| base.to_string()),
            waiting: imported.waiting.as_ref().map(waiting_form),
            unknown_parts: imported.unknown_parts,
        }
    }
}

impl From<&Missing> for MissingForm {
    fn from(missing: &Missing) -> Self {
        let plain = |what: &str| Self { what: what.to_owned(), device_id: None, first: None, last: None };
        match missing {
            Missing::Records => plain("records"),
            Missing::Checkpoint => plain("checkpoint"),
            Missing::Acks => plain("acks"),
            Missing::Unknown => plain("unknown"),
            Missing::Ops(range) => Self {
                device_id: Some(range.log.device.to_string()),
                first: Some(range.first.get()),
                last: Some(range.last.get()),
                ..plain("ops")
            },
        }
    }
}

impl From<&NotTaken> for NotTakenForm {
    fn from(not_taken: &NotTaken) -> Self {
        let (kind, why) = why_text(not_taken.why);
        Self {
            device_id: not_taken.log.device.to_string(),
            first: not_taken.first.get(),
            last: not_taken.last.get(),
            kind: kind.to_owned(),
            why,
        }
    }
}

fn waiting_form(waiting: &Waiting) -> WaitingForm {
    let form = WaitingForm::from(waiting);
    let hint = match waiting.why {
        WhyWaiting::Unattested { .. } => {
            "import a bundle of another device too, or this one with `--yes` if the one will do"
        }
        WhyWaiting::Fetching { .. } => "import it again, or a bundle of another device",
        WhyWaiting::Refused(_) => "import it again",
        _ => return form,
    };
    WaitingForm { hint: hint.to_owned(), ..form }
}

fn why_text(why: WhyNotTaken) -> (&'static str, String) {
    match why {
        WhyNotTaken::Gap { expected } => ("Gap", format!("what comes before is missing, from {expected} on")),
        WhyNotTaken::AuthorUnknown => {
            ("AuthorUnknown", "no record here makes its device one of the space".into())
        }
        WhyNotTaken::AuthorRemoved => {
            ("AuthorRemoved", "its device was removed, and its removal does not keep them".into())
        }
        WhyNotTaken::AuthorBlind => ("AuthorBlind", "its device is blind, and those write nothing".into()),
        WhyNotTaken::OtherHistory => {
            ("OtherHistory", "another history of the log stands here; the devices have to meet".into())
        }
        WhyNotTaken::Signature => ("Signature", "not signed by its device".into()),
        WhyNotTaken::LogBlocked => ("LogBlocked", "its device has made a batch of this log wrongly".into()),
    }
}

pub(super) async fn export(
    node: &Node,
    params: BundleExportParams,
    notices: mpsc::Sender<Notice>,
) -> Result<BundleExportedForm, ControlError> {
    absolute(&params.path)?;
    let (space, receiver) = match params.receiver {
        None => (space(node, &params.scope).await?, None),
        Some(device) => {
            let (space, found) = roster::find(node, &DeviceParams { scope: params.scope, device }).await?;
            (space, Some(roster::device_id(&found)?))
        }
    };
    let told = space.export_bundle(&params.path, receiver, tell(notices)).await;
    let BundleExported { ops, logs, records, acks, checkpoint, checkpoint_ops, bytes, beyond_ack_of } = told?;
    Ok(BundleExportedForm {
        path: params.path,
        receiver: receiver.map(|device| device.to_string()),
        beyond_ack_of_ms: beyond_ack_of,
        ops,
        logs,
        records,
        acks,
        checkpoint: checkpoint.map(|checkpoint| checkpoint.to_string()),
        checkpoint_ops,
        bytes,
    })
}

pub(super) async fn import(
    node: &Node,
    params: BundleImportParams,
    notices: mpsc::Sender<Notice>,
) -> Result<BundleImportedForm, ControlError> {
    absolute(&params.path)?;
    let consent = if params.accept { Consent::Given } else { Consent::Attested };
    Ok(node.import_bundle(&params.path, consent, tell(notices)).await?.into())
}

/// A node has another working directory than its caller.
fn absolute(path: &Path) -> Result<(), ControlError> {
    if path.is_absolute() { Ok(()) } else { Err(ControlError::RelativePath { path: path.to_owned() }) }
}

/// Progress that finds no room among the notices is left out.
fn tell(notices: mpsc::Sender<Notice>) -> impl Fn(BundleProgress) + Send + 'static {
    move |BundleProgress { done, total }| {
        let params = to_raw(&BundleProgressForm { done, total });
        let _ = notices.try_send(Notice { method: "bundle.progress".to_owned(), params });
    }
}

pub(super) fn bundle_kind(error: &BundleFailure) -> &'static str {
    match error {
        BundleFailure::Exists { .. } => "FileExists",
        BundleFailure::File { .. } => "File",
        BundleFailure::Head { source, .. } => match source {
            BundleError::Magic { .. } => "NoBundle",
            BundleError::Newer { .. } => "NewerFormat",
            BundleError::TooShort { .. } => "BundleCutShort",
            _ => "BundleDamaged",
        },
        BundleFailure::ForeignSpace { .. } => "ForeignSpace",
        BundleFailure::ExporterUnknown { .. } => "ExporterUnknown",
        BundleFailure::ExporterRemoved { .. } => "ExporterRemoved",
        BundleFailure::NoSuchDevice { .. } => "UnknownDevice",
        BundleFailure::Changed => "Changed",
        BundleFailure::TooMuch(_) => "TooMuch",
        BundleFailure::Node(error) => node_kind(error),
    }
}

pub(super) fn bundle_hint(error: &BundleFailure) -> Option<String> {
    match error {
        BundleFailure::Head { source: BundleError::Magic { .. }, .. } => {
            Some("`kinfold bundle export FILE` on another device writes one".into())
        }
        BundleFailure::ForeignSpace { .. } => Some(
            "pairing needs a meeting: `kinfold invite` there and `kinfold join` here while both are awake, \
             then import it again"
                .into(),
        ),
        BundleFailure::ExporterUnknown { .. } => {
            Some("if it joined lately, import a bundle of a device that has met it first".into())
        }
        BundleFailure::ExporterRemoved { .. } => {
            Some("what its removal keeps comes from any other device of the space".into())
        }
        BundleFailure::Node(error) => node_hint(error),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeviceId, Incarnation, LogId, ScopeTag, Seq};

    #[test]
    fn what_was_not_taken_is_said_with_its_reason() {
        let log = LogId { device: DeviceId::from_bytes([4; 32]), incarnation: Incarnation::new(1) };
        let form = |why| NotTakenForm::from(&NotTaken { log, first: Seq::new(3), last: Seq::new(4), why });

        let gap = form(WhyNotTaken::Gap { expected: Seq::new(2) });

        assert_eq!((gap.kind.as_str(), gap.first, gap.last), ("Gap", 3, 4));
        assert!(gap.why.contains("from 2 on"));
        for why in [
            WhyNotTaken::AuthorUnknown,
            WhyNotTaken::AuthorRemoved,
            WhyNotTaken::AuthorBlind,
            WhyNotTaken::OtherHistory,
            WhyNotTaken::Signature,
            WhyNotTaken::LogBlocked,
        ] {
            assert_eq!(form(why).kind, format!("{why:?}"));
        }
    }

    #[test]
    fn a_foreign_bundle_says_that_pairing_needs_a_meeting() {
        let error = ControlError::from(BundleFailure::ForeignSpace { scope: ScopeTag::from_bytes([1; 16]) });

        assert_eq!(error.kind(), "ForeignSpace");
        assert!(error.hint().is_some_and(|hint| hint.contains("pairing needs a meeting")));
    }
}
