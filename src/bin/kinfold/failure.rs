//! Why a command did not do what it was asked, and the exit code that says so.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use kinfold::control::{ClientError, ControlError, RpcError, SocketError, WebSocketError};
use kinfold::node::NodeError;
use serde_json::{Value, json};
use thiserror::Error;

use crate::output::Output;

/// Usage: what clap says too.
pub const EXIT_USAGE: u8 = 2;

/// Refused or failed.
const EXIT_FAILED: u8 = 1;

/// Try again later (EX_TEMPFAIL of sysexits.h).
const EXIT_LATER: u8 = 75;

#[derive(Debug, Error)]
pub enum Failure {
    /// A node refused, this one or the running one.
    #[error("{}", .0.message)]
    Refused(RpcError),
    /// The running node cannot be asked.
    #[error("the running node cannot be asked")]
    Client(#[source] ClientError),
    /// There is no control socket.
    #[error("other commands could not reach this node")]
    Socket(#[from] SocketError),
    /// There is no WebSocket.
    #[error("programs could not reach this node")]
    WebSocket(#[from] WebSocketError),
    /// The answer has another form than this version knows.
    #[error("the running node answers in another form")]
    Answer(#[source] serde_json::Error),
    #[error("no home: neither --home, KINFOLD_HOME nor HOME is set")]
    NoHome,
    #[error("no row {id:?} in {surface}")]
    NoRow { surface: String, id: String },
    #[error("{found:?} is no moment: neither a frontier, nor a time, nor how long ago")]
    Moment { found: String },
    #[error("no conflict in {surface} {id}")]
    NoConflict { surface: String, id: String },
    #[error("{wanted:?} names none of the values in this conflict, or several")]
    NoSuchValue { wanted: String },
    #[error("no conversation {id:?}")]
    NoConversation { id: String },
    #[error("{surface} has no policy: everything of it is kept already")]
    NoPolicy { surface: String },
    #[error("{id:?} in {surface} was dropped by the surface's retention policy")]
    Dropped { surface: String, id: String },
    #[error("{path:?} cannot be read")]
    Input {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path:?} is no text, so it cannot be kept in the list of drop boxes")]
    PathText { path: PathBuf },
    #[error("standard input cannot be read")]
    StandardInput(#[source] io::Error),
    #[error("the value is longer than {limit} bytes")]
    ValueTooLong { limit: usize },
    #[error("{refused} of {total} lines were refused")]
    LinesRefused { refused: u64, total: u64 },
    #[error("the bundle was taken in as far as it is whole")]
    BundleIncomplete,
    #[error("stopped on request after line {line}; the good lines up to it are recorded")]
    Interrupted { line: u64 },
    #[error("the node did not stop in time and was ended; what was acknowledged is on disk")]
    StopCutShort,
    #[error("no node runs here, and a lease is held by a running one")]
    NotRunning,
    #[error("no other device was reached within {seconds} s")]
    NobodyReached { seconds: u64 },
    #[error("not reached: {devices}")]
    NotReached { devices: String },
    #[error("{} could not be used", crate::dropbox::boxes(*failed))]
    DropboxesFailed { failed: u32 },
    #[error("{devices} {} another state for the same ops", if *devices == 1 { "device has" } else { "devices have" })]
    StatesDiffer { devices: usize },
    #[error("the state here is not what its rows add up to")]
    StateUnsound { space: String },
    #[error("the state here was not compared with that of {device}: {why}")]
    NotCompared { device: String, why: String, is_passing: bool },
    #[error("what was adopted is not computed here: {why}")]
    BaseNotComputed { kind: String, why: String, is_passing: bool },
    #[error("this device does not begin with the checkpoint yet: {why}")]
    BaseWaits { why: String, hint: String, is_passing: bool },
    #[error("not safe{}", unsafe_because(*unheld, *is_alone))]
    NotSafe { unheld: u64, is_alone: bool },
    #[error("{act} cannot be undone, and {typed:?} is not {name:?}; nothing was changed")]
    NameMistyped { act: String, name: String, typed: String },
    #[error("{act} cannot be undone, so it takes the name once more")]
    NameNotTyped { act: String, name: String },
    #[error("{message}")]
    InviteEnded { message: String },
    #[error("{file:?} is not there, so no service is installed")]
    NotInstalled { file: PathBuf },
    #[error("{file:?} cannot be written")]
    ServiceFile {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{command}` was refused")]
    Manager {
        command: String,
        #[source]
        source: Option<io::Error>,
    },
    #[error("{failed} {} failed", if *failed == 1 { "check" } else { "checks" })]
    Unwell { failed: usize },
    #[error("the invite was withdrawn, nobody joined")]
    InviteWithdrawn,
    #[error("{agent} {run} was not recorded: {}", intent_refusal(.reason, *.epoch, *.current))]
    IntentRefused { agent: String, run: String, epoch: u64, reason: String, current: Option<u64> },
    #[error("the terminal or file cannot be written")]
    Output(#[source] io::Error),
    /// The reader of the output has gone.
    #[error("nobody reads the output")]
    Pipe,
    #[error("the program cannot be started")]
    Runtime {
        #[source]
        source: io::Error,
    },
    #[error("leases cannot be kept there")]
    Leases(#[source] kinfold::coordinator::store::OpenCellsError),
    #[error("the command cannot be run under a lease")]
    LeaseUsage(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{message}")]
    Fenced { decision: String, message: String },
    #[error("run {run} is not begun: {reason}")]
    RunRefused { run: kinfold::model::RunId, reason: String },
    #[error("the lease ran out before the command could begin; nothing was run")]
    LeaseTooLate,
    #[error("the lease was lost, and the command stopped: {why}")]
    LeaseLost { why: String },
    #[error("{program:?} cannot be started")]
    NotStarted {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The command that was run under a lease has said what there is to say.
    #[error("the command ended with {code}")]
    ChildEnded { code: u8 },
    #[error(transparent)]
    Demo(#[from] crate::demo::DemoFailure),
}

impl Failure {
    /// Tells the person, or the program that asked for JSON, and gives the exit code.
    pub fn report(&self, output: &Output) -> ExitCode {
        match self {
            Self::Pipe | Self::ChildEnded { .. } => {}
            _ if output.is_json() => eprintln!("{}", self.form()),
            _ => eprintln!("{}", self.text()),
        }
        ExitCode::from(self.exit_code())
    }

    /// The error object of an answer; what only this program refuses has no kind of its own.
    fn form(&self) -> Value {
        match self {
            Self::Refused(error) => json!({ "error": error }),
            _ => json!({ "error": {
                "message": self.to_string(),
                "data": { "causes": self.causes(), "hint": self.hint() },
            }}),
        }
    }

    /// What happened, why, and what to do.
    fn text(&self) -> String {
        let mut text = format!("kinfold: {self}");
        for cause in self.causes() {
            text.push_str(": ");
            text.push_str(&cause);
        }
        if let Some(hint) = self.hint() {
            text.push_str("\nhint: ");
            text.push_str(&hint);
        }
        text
    }

    /// What happened and why, for a log.
    pub fn one_line(&self) -> String {
        std::iter::once(self.to_string()).chain(self.causes()).collect::<Vec<_>>().join(": ")
    }

    fn causes(&self) -> Vec<String> {
        if let Self::Refused(error) = self {
            return error.data.causes.clone();
        }
        let mut causes = Vec::new();
        let mut cause = self.source();
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        causes
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Refused(error) => return error.data.hint.clone(),
            Self::Demo(failure) => return failure.hint(),
            Self::Client(_) => "is `kinfold up` still running?".into(),
            Self::Answer(_) => "stop the running node and start it again in this version".into(),
            Self::NoHome => "name a directory with --home".into(),
            Self::NoRow { surface, .. } if surface == "intent" => {
                "`kinfold intent show AGENT` shows what was recorded, as AGENT/RUN here".into()
            }
            Self::NoRow { surface, .. } => format!("`kinfold list {surface}` shows what is there"),
            Self::Moment { .. } => {
                "`kinfold frontier` prints one; a time is 2026-01-31T12:00:00Z, how long ago is 90m".into()
            }
            Self::NoConflict { .. } => "`kinfold conflicts` lists the open ones".into(),
            Self::NoSuchValue { .. } => "`kinfold conflicts show` numbers the values".into(),
            Self::NoConversation { .. } => "`kinfold transcript` lists the conversations".into(),
            Self::NoPolicy { .. } => "`kinfold policy list` shows those there are".into(),
            Self::Dropped { surface, .. } => {
                format!("`kinfold policy list` shows it; `kinfold policy clear {surface}` keeps everything")
            }
            Self::LinesRefused { .. } => {
                "the good lines are recorded; mend the others and import them".into()
            }
            Self::BundleIncomplete => {
                "get the file again, whole, and import it: what is here already counts once".into()
            }
            Self::DropboxesFailed { .. } => "`kinfold status` says why; nothing is lost meanwhile".into(),
            Self::RunRefused { .. } => "name another run with --run".into(),
            Self::LeaseLost { .. } => {
                "the run stays begun in the ledger; whoever holds the lease next may run it again".into()
            }
            Self::NotRunning => "start it with `kinfold up`, in another terminal or as a service".into(),
            Self::NotReached { .. } => {
                "`kinfold status` shows when each was last heard of, and `kinfold doctor` why it is not"
                    .into()
            }
            Self::NobodyReached { .. } => {
                "start the other device, or name its address with `kinfold up --peer`".into()
            }
            Self::StatesDiffer { .. } => {
                "nothing is thrown away meanwhile; keep both homes until the row is the same again".into()
            }
            Self::StateUnsound { space } => {
                format!("`kinfold{space} verify --refold` folds the log again; nothing is lost")
            }
            Self::NotCompared { is_passing: true, .. } => {
                "try again once `kinfold status` shows it connected and nothing behind".into()
            }
            Self::NotCompared { .. } => return None,
            Self::BaseNotComputed { kind, .. } => match kind.as_str() {
                "NotConnected" => {
                    "connect a device that still holds every op: one that joined before it was made".into()
                }
                "Gone" => {
                    "connect a device that has not dropped them yet; `kinfold gc why` tells on each".into()
                }
                "KeyMissing" => "connect to a device that has the key".into(),
                "Version" => "update this program".into(),
                "Differs" => {
                    "keep this home; the devices that attest it, and their programs, are to be looked into"
                        .into()
                }
                _ => return None,
            },
            Self::BaseWaits { hint, .. } => hint.clone(),
            Self::NotSafe { is_alone: true, .. } => {
                "`kinfold invite` here and `kinfold join` on another device add one".into()
            }
            Self::NotSafe { .. } => "`kinfold wait --on 1` returns when another device has them".into(),
            Self::NameMistyped { name, .. } | Self::NameNotTyped { name, .. } => {
                format!("add --yes {}", shell_word(name))
            }
            Self::IntentRefused { reason, .. } => match reason.as_str() {
                "AlreadyFailed" => "another attempt is another run: give it a name of its own".into(),
                "Fenced" => "whoever holds the lease now may go on; do not repeat the effect".into(),
                _ => return None,
            },
            Self::NotInstalled { .. } => "`kinfold service install` installs it".into(),
            Self::Manager { command, .. } => format!("the file is in place; run `{command}` yourself"),
            Self::ValueTooLong { .. } => "keep large content in a file and store its name".into(),
            Self::Socket(_)
            | Self::WebSocket(_)
            | Self::PathText { .. }
            | Self::Input { .. }
            | Self::StandardInput(_)
            | Self::Output(_)
            | Self::Pipe
            | Self::Interrupted { .. }
            | Self::InviteEnded { .. }
            | Self::InviteWithdrawn
            | Self::Unwell { .. }
            | Self::ServiceFile { .. }
            | Self::StopCutShort
            | Self::Leases(_)
            | Self::LeaseTooLate
            | Self::LeaseUsage(_)
            | Self::Fenced { .. }
            | Self::NotStarted { .. }
            | Self::ChildEnded { .. }
            | Self::Runtime { .. } => return None,
        })
    }

    /// Whether the same command may succeed later.
    pub fn is_temporary(&self) -> bool {
        self.exit_code() == EXIT_LATER
    }

    /// Whether a renewal that failed like this means that the lease is another's, or nobody's.
    pub fn is_lease_lost(&self) -> bool {
        let Self::Refused(error) = self else { return false };
        matches!(error.data.kind.as_str(), "NotHolder" | "Expired" | "Stale" | "Held" | "NotAuthorized")
    }

    /// Whether a lease ran out before anything was done under it.
    pub fn is_lease_run_out(&self) -> bool {
        matches!(self, Self::Refused(error) if error.data.kind == "Expired")
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::NotRunning | Self::LeaseTooLate | Self::LeaseLost { .. } => EXIT_LATER,
            Self::Fenced { decision, .. } if decision != "AlreadyCommitted" => EXIT_LATER,
            Self::ChildEnded { code } => *code,
            // As a shell says it.
            Self::NotStarted { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::NotStarted { .. } => 126,
            Self::LeaseUsage(_) => EXIT_USAGE,
            Self::Refused(error) if error.is_temporary() => EXIT_LATER,
            Self::Client(_)
            | Self::NobodyReached { .. }
            | Self::NotReached { .. }
            | Self::NotSafe { .. }
            | Self::NotCompared { is_passing: true, .. }
            | Self::BaseNotComputed { is_passing: true, .. }
            | Self::BaseWaits { is_passing: true, .. }
            | Self::DropboxesFailed { .. } => EXIT_LATER,
            Self::Pipe => 0,
            Self::NoHome => EXIT_USAGE,
            _ => EXIT_FAILED,
        }
    }
}

/// Why an intent was not recorded, in words.
fn intent_refusal(reason: &str, epoch: u64, current: Option<u64>) -> String {
    match (reason, current) {
        ("AlreadyCommitted", _) => "the run has happened".to_owned(),
        ("AlreadyFailed", _) => "the run has failed".to_owned(),
        ("Fenced", Some(current)) => format!("token {current} was given after token {epoch}"),
        ("ForkedLineage", _) => "the certificate is of no host that this device knows".to_owned(),
        _ => reason.to_owned(),
    }
}

/// Why the lid should stay open, in words.
fn unsafe_because(unheld: u64, is_alone: bool) -> String {
    match (is_alone, unheld) {
        (true, _) => ": this is the only device of the space".to_owned(),
        (false, 0) => " yet: no other device has confirmed that it holds everything".to_owned(),
        (false, 1) => " yet: 1 op is on no other device".to_owned(),
        (false, more) => format!(" yet: {} ops are on no other device", crate::output::count(more)),
    }
}

/// A word as a shell takes it.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Self {
        Self::Refused(error)
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(error) => Self::Refused(error),
            error => Self::Client(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use kinfold::store::LockError;

    use super::*;

    #[test]
    fn an_error_says_what_why_and_what_to_do() {
        let failure =
            Failure::Input { path: "notes.jsonl".into(), source: io::Error::from(io::ErrorKind::NotFound) };
        assert_eq!(failure.text(), "kinfold: \"notes.jsonl\" cannot be read: entity not found");
        assert_eq!(failure.exit_code(), 1);

        assert_eq!(failure.form()["error"]["data"]["causes"][0], "entity not found");

        let failure = Failure::NoRow { surface: "skill".into(), id: "x".into() };
        assert!(failure.text().ends_with("\nhint: `kinfold list skill` shows what is there"));
        let failure = Failure::NoRow { surface: "intent".into(), id: "backup/monday".into() };
        assert!(failure.text().contains("`kinfold intent show AGENT`"), "rows of it cannot be listed");
    }

    #[test]
    fn why_a_lid_should_stay_open_is_said_as_it_is() {
        let check = |unheld, is_alone, words: &str| {
            assert_eq!(Failure::NotSafe { unheld, is_alone }.to_string(), words);
        };

        check(0, true, "not safe: this is the only device of the space");
        check(0, false, "not safe yet: no other device has confirmed that it holds everything");
        check(1, false, "not safe yet: 1 op is on no other device");
        check(1_200, false, "not safe yet: 1,200 ops are on no other device");
    }

    #[test]
    fn what_passes_by_itself_exits_with_75() {
        let locked = NodeError::Lock { home: "/h".into(), source: LockError::Held { pid: Some(7) } };

        assert_eq!(Failure::from(locked).exit_code(), 75);
        assert_eq!(Failure::from(NodeError::TimedOut).exit_code(), 75);
        assert_eq!(Failure::NotSafe { unheld: 1, is_alone: false }.exit_code(), 75);
        assert_eq!(Failure::from(NodeError::UnknownOp).exit_code(), 1);
        assert_eq!(Failure::NoHome.exit_code(), 2);
    }
}
