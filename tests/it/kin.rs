//! Homes and processes for tests of the program.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use serde_json::{Value, json};

use crate::schema;

/// A directory for one device.
pub struct Home {
    directory: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

/// What a command came to.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Home {
    /// A directory without a device.
    pub fn empty() -> Self {
        let directory =
            tempfile::Builder::new().prefix("kin").tempdir().expect("the temporary directory is writable");
        Self { directory, environment: Vec::new() }
    }

    /// A directory with a new device.
    pub fn init(name: &str) -> Self {
        let home = Self::empty();
        home.run(&["init", "--name", name]).expect_code(0);
        home
    }

    /// Sets variables for every command that is run in it from now on.
    pub fn with_environment(mut self, variables: &[(&str, String)]) -> Self {
        let owned = variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        self.environment.extend(owned);
        self
    }

    fn command(&self) -> Command {
        let mut command = command(&self.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.run_with(arguments, b"")
    }

    /// Runs a command with bytes on its standard input.
    pub fn run_with(&self, arguments: &[&str], input: &[u8]) -> Ended {
        run(self.command().args(arguments), input)
    }

    /// Runs a command and reads its `--json`.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        let ended = self.run(&all).expect_code(0);
        serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
    }

    /// Whether a node runs in it.
    pub fn is_up(&self) -> bool {
        UnixStream::connect(self.path().join("control.sock")).is_ok()
    }

    /// Starts `kinfold up` on loopback and waits until it says where it listens.
    pub fn up(&self, arguments: &[&str]) -> Daemon {
        let mut command = self.command();
        command.args(["--json", "up", "--listen", "127.0.0.1:0", "--no-mdns"]).args(arguments);
        Daemon::start(&mut command)
    }
}

/// Pairs two devices as their owner does: a code on one screen, typed on the other. A node that does
/// not run is started on loopback for that.
pub fn pair(inviter: &Home, joiner: &Home) {
    pair_as(inviter, joiner, "admin");
}

/// Pairs them with a role.
pub fn pair_as(inviter: &Home, joiner: &Home, role: &str) {
    let started = [inviter, joiner].map(|home| (!home.is_up()).then(|| home.up(&[])));
    let mut caller = Caller::connect(inviter);
    let invite = caller.call("pair.invite", json!({ "role": role }))["result"].clone();
    let code = invite["code"].as_str().expect("an invite has a code");
    let address = invite["addresses"][0].as_str().expect("loopback is reachable");
    joiner.run(&["join", code, "--peer", address]).expect_code(0);
    for daemon in started.into_iter().flatten() {
        assert_eq!(daemon.terminate(), 0);
    }
}

impl Ended {
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// Whether what is said to people holds these words.
    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "{words:?} is missing: {self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        self
    }
}

/// A running node. Dropping it kills the process.
pub struct Daemon {
    pub listening: String,
    pub device: String,
    lines: mpsc::Receiver<String>,
    process: Child,
}

impl Daemon {
    /// Starts a node that tells in JSON where it listens, and waits for that.
    pub fn start(command: &mut Command) -> Self {
        let mut process =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the program can be started");
        let lines = lines(process.stdout.take().expect("a pipe was asked for"));
        let first = lines.recv_timeout(PATIENCE).expect("the node says where it listens");
        let said: Value = serde_json::from_str(&first).expect("the first line is JSON");
        let text = |name: &str| said[name].as_str().expect(name).to_owned();
        Self { listening: text("listening"), device: text("device"), lines, process }
    }

    /// What it says on its standard error, where that is a pipe.
    pub fn log(&mut self) -> mpsc::Receiver<String> {
        lines(self.process.stderr.take().expect("a pipe was asked for, and once"))
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Ends it as a service manager would; its exit code.
    pub fn terminate(mut self) -> i32 {
        signal(self.pid(), "TERM");
        // Its output ends when it has gone.
        while self.lines.recv_timeout(PATIENCE).is_ok() {}
        self.process.wait().expect("it is our child").code().unwrap_or(-1)
    }

    /// Ends it without warning.
    pub fn kill(mut self) {
        self.process.kill().expect("it is our child");
        self.process.wait().expect("it is our child");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that was ended already is no error.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A connection to the control socket of a running node.
pub struct Caller {
    write: UnixStream,
    pub read: BufReader<UnixStream>,
}

impl Caller {
    pub fn connect(home: &Home) -> Self {
        let write = UnixStream::connect(home.path().join("control.sock")).expect("the node listens");
        write.set_read_timeout(Some(PATIENCE)).unwrap();
        let read = BufReader::new(write.try_clone().unwrap());
        Self { write, read }
    }

    /// The sending side, for another thread.
    pub fn writer(&self) -> UnixStream {
        self.write.try_clone().unwrap()
    }

    pub fn send(&mut self, line: &[u8]) {
        self.write.write_all(line).unwrap();
        self.write.write_all(b"\n").unwrap();
    }

    pub fn next(&mut self) -> Value {
        let mut line = String::new();
        self.read.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Sends to a node that may be killed meanwhile.
    pub fn send_or_gone(&mut self, line: &[u8]) {
        // What does not arrive is not answered, and that is seen.
        let _ = self.write.write_all(&[line, b"\n"].concat());
    }

    /// The next answer; `None` where the node is gone.
    pub fn next_or_gone(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.read.read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    /// Calls a method. What is taken and answered is held against the schemas that the node publishes.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        let document =
            DOCUMENT.get_or_init(|| self.call_unchecked("rpc.discover", json!({}))["result"].take());
        let answer = self.call_unchecked(method, params.clone());
        schema::check_call(document, method, &params, &answer);
        answer
    }

    fn call_unchecked(&mut self, method: &str, params: Value) -> Value {
        self.send(
            json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string().as_bytes(),
        );
        self.next()
    }
}

/// Sends a signal to one process.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(status.expect("kill can be run").success());
}

/// The lines of a stream, as they come.
pub fn lines(stream: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A command in a home, untouched by the environment of whoever runs the tests.
pub fn command(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kinfold"));
    command.env_remove("KINFOLD_HOME").env_remove("KINFOLD_LOG").env("NO_COLOR", "1");
    command.arg("--home").arg(home);
    command
}

/// Runs a command to its end.
pub fn run(command: &mut Command, input: &[u8]) -> Ended {
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be started");
    let mut stdin = process.stdin.take().expect("a pipe was asked for");
    let input = input.to_vec();
    // A command that does not read its input closes the pipe, which is its right.
    std::thread::spawn(move || stdin.write_all(&input));
    let (done, waited) = mpsc::channel();
    std::thread::spawn(move || done.send(process.wait_with_output()));
    let output = waited.recv_timeout(PATIENCE).expect("the command ends").expect("it is our child");
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// What a node publishes about its methods: the same for all, they run one program.
static DOCUMENT: OnceLock<Value> = OnceLock::new();

/// Beyond this a test hangs; nothing is ever waited for that long.
pub const PATIENCE: Duration = Duration::from_secs(120);
