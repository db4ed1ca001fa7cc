//! One of the two nodes: its home, its process and the connection to its control socket.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kinfold::control::forms::AppendManyForm;
use kinfold::control::params::{AppendManyParams, AppendParams};
use kinfold::control::{Client, ClientError, Method};
use kinfold::node::Node;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::DemoFailure;
use crate::failure::Failure;

/// A directory for both homes, removed at the end.
pub struct Homes {
    root: PathBuf,
    is_kept: bool,
}

impl Homes {
    pub fn make(is_kept: bool) -> Result<Self, DemoFailure> {
        // The process id makes it unique among the living; what a dead one left is not touched.
        for attempt in 0..ATTEMPTS {
            let root = std::env::temp_dir().join(format!("kinfold-demo-{}-{attempt}", std::process::id()));
            match std::fs::create_dir(&root) {
                Ok(()) => return Ok(Self { root, is_kept }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(DemoFailure::Homes(error)),
            }
        }
        Err(DemoFailure::Homes(io::Error::from(io::ErrorKind::AlreadyExists)))
    }

    /// Where they are, if they stay.
    pub fn kept(&self) -> Option<&Path> {
        self.is_kept.then_some(self.root.as_path())
    }
}

impl Drop for Homes {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = std::fs::remove_dir_all(&self.root)
        {
            eprintln!("{} could not be removed: {error}", self.root.display());
        }
    }
}

/// A node in a process of its own. Dropping it kills the process.
pub struct DemoNode {
    pub listening: String,
    client: Client,
    process: Child,
    _stdout: Lines<BufReader<ChildStdout>>,
}

/// What `up --json` says first.
#[derive(Deserialize)]
struct Announced {
    listening: String,
}

impl DemoNode {
    pub async fn start(homes: &Homes, name: &'static str, peer: Option<&str>) -> Result<Self, Failure> {
        let home = homes.root.join(name);
        Node::init(&home, name)?;
        let log = homes.root.join(format!("{name}.log"));
        let mut process = spawn(&home, &log, peer).map_err(DemoFailure::Homes)?;
        let stdout = process.stdout.take().expect("standard output was asked for as a pipe");
        let mut lines = BufReader::new(stdout).lines();
        let first = tokio::time::timeout(START_WITHIN, lines.next_line()).await;
        let announced: Option<Announced> = match first {
            Ok(Ok(Some(line))) => serde_json::from_str(&line).ok(),
            _ => None,
        };
        let (Some(announced), Some((client, _))) = (announced, Client::connect(&home).await?) else {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let said = said.trim().to_owned();
            return Err(DemoFailure::NodeSilent { name, said }.into());
        };
        let Announced { listening } = announced;
        Ok(Self { listening, client, process, _stdout: lines })
    }

    pub async fn call<R: DeserializeOwned>(
        &self,
        method: Method,
        params: &impl Serialize,
    ) -> Result<R, Failure> {
        let params = to_raw_value(params).map_err(Failure::Answer)?;
        let answer = self.client.call(method.name(), &params).await?;
        serde_json::from_str(answer.get()).map_err(Failure::Answer)
    }

    /// Appends all of them; the id of the last one.
    pub async fn append(&self, ops: &[AppendParams]) -> Result<Option<String>, Failure> {
        let params = AppendManyParams { ops: ops.to_vec(), keep_good: false };
        let form: AppendManyForm = self.call(Method::AppendMany, &params).await?;
        Ok(form.appended.into_iter().next_back().map(|appended| appended.op_id))
    }

    /// Ends the process as Ctrl-C would, and the hard way where that takes too long.
    pub async fn stop(mut self) -> Result<(), Failure> {
        #[cfg(unix)]
        if let Some(pid) = self.process.id().and_then(|pid| i32::try_from(pid).ok()) {
            use nix::sys::signal::{Signal, kill};
            // A process that has gone already is what is wanted.
            let _ = kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM);
        }
        match tokio::time::timeout(STOP_WITHIN, self.process.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(_) => Err(Failure::Client(ClientError::Closed)),
            Err(_) => self.process.kill().await.map_err(|error| DemoFailure::Homes(error).into()),
        }
    }
}

fn spawn(home: &Path, log: &Path, peer: Option<&str>) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--home").arg(home).args(["--json", "up", "--listen", "127.0.0.1:0", "--no-mdns"]);
    if let Some(peer) = peer {
        command.args(["--peer", peer]);
    }
    command.env_remove("KINFOLD_HOME");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(log)?);
    command.kill_on_drop(true).spawn()
}

/// Directories tried before the temporary directory is called full.
const ATTEMPTS: u32 = 100;

/// How long a node may take to say where it listens.
const START_WITHIN: Duration = Duration::from_secs(20);

/// How long a node may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);
