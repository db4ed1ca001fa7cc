//! What a running node costs while nothing happens, and how soon it is of use after its start. The
//! program itself, two processes on loopback, without multicast.
//!
//! `cargo bench --bench idle -- [SECONDS [ROWS]]` (60 and 1,000,000 by default). Linux only: the figures
//! are those of `/proc`.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<u64>().ok());
    let (seconds, rows) = (numbers.next().unwrap_or(60), numbers.next().unwrap_or(1_000_000));
    let directory = tempfile::tempdir().expect("a directory");
    let homes = ["one", "two"].map(|name| directory.path().join(name));
    for home in &homes {
        let name = home.file_name().expect("it was joined").to_str().expect("it is ASCII");
        run(home, &["init", "--name", name], b"");
    }
    let (one, two) = (Running::up(&homes[0], &[]), Running::up(&homes[1], &[]));
    pair(&homes[0], &homes[1]);
    connected(&homes[1]);

    println!("an idle node with one connected peer");
    measure("no rows", &one, seconds);
    import(&homes[0], rows);
    run(&homes[0], &["wait", "--on", "1"], b"");
    // What a transfer leaves to do is no part of being idle.
    run(&homes[1], &["wait", "--on", "1"], b"");
    measure(&format!("{rows} rows"), &one, seconds);

    println!("from the start of the process, with {rows} rows");
    let address = two.listening.clone();
    one.stop();
    for start in ["after a clean stop", "once more"] {
        let begun = Instant::now();
        let again = Running::up(&homes[0], &["--peer", &address]);
        let listening = begun.elapsed();
        connected(&homes[0]);
        println!(
            "  {start:<26}{:>9.0} ms to listening, {:.0} ms to a frontier exchanged",
            millis(listening),
            millis(begun.elapsed())
        );
        again.stop();
    }
    two.stop();
}

/// CPU, wake-ups and memory of a process over some seconds.
fn measure(label: &str, node: &Running, seconds: u64) {
    let before = Usage::of(node.process.id());
    // The bench is of the time that passes.
    std::thread::sleep(Duration::from_secs(seconds));
    let after = Usage::of(node.process.id());
    let percent = (after.cpu_ticks - before.cpu_ticks) as f64 * 100.0 / TICKS_A_SECOND / seconds as f64;
    println!(
        "  {label:<26}{percent:>9.3} % of a core over {seconds} s, {:.1} wake-ups a second, {:.1} MB",
        after.wakeups.saturating_sub(before.wakeups) as f64 / seconds as f64,
        after.resident_kib as f64 / 1_024.0
    );
}

/// What the kernel has counted for a process.
struct Usage {
    cpu_ticks: u64,
    wakeups: u64,
    resident_kib: u64,
}

impl Usage {
    fn of(pid: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        // Behind the name, which may hold anything: user and system time are the 12th and 13th.
        let (_, fields) = stat.rsplit_once(')').expect("the name is in parentheses");
        let cpu_ticks =
            fields.split_whitespace().skip(11).take(2).map(|word| word.parse::<u64>().unwrap()).sum();
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
        // Each time a thread had waited and was woken; a thread that ends in between takes its count along.
        let wakeups = tasks
            .flatten()
            .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
            .map(|status| field(&status, "voluntary_ctxt_switches:"))
            .sum();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        Self { cpu_ticks, wakeups, resident_kib: field(&status, "VmRSS:") }
    }
}

fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(name)).expect(name);
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
}

/// `kinfold up`; dropping it kills the process.
struct Running {
    process: Child,
    listening: String,
    output: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn up(home: &Path, arguments: &[&str]) -> Self {
        let mut command = kinfold(home, &["--json", "up", "--listen", "127.0.0.1:0", "--no-mdns"]);
        let mut process = command.args(arguments).stdout(Stdio::piped()).spawn().expect("it is built");
        let mut output = BufReader::new(process.stdout.take().expect("a pipe was asked for"));
        let mut line = String::new();
        output.read_line(&mut line).expect("it says where it listens");
        let said: Value = serde_json::from_str(&line).expect("JSON");
        let listening = said["listening"].as_str().expect("an address").to_owned();
        Self { process, listening, output }
    }

    fn stop(mut self) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill can be run").success());
        while self.output.read_line(&mut String::new()).is_ok_and(|count| count > 0) {}
        self.process.wait().expect("it is our child");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that was stopped already is no error.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn pair(inviter: &Path, joiner: &Path) {
    // The invite lasts as long as the connection that asked for it.
    let mut stream = connect(inviter);
    let invite = ask(&mut stream, "pair.invite", &json!({ "role": "admin" }));
    let text = |value: &Value| value.as_str().expect("an invite").to_owned();
    run(joiner, &["join", &text(&invite["code"]), "--peer", &text(&invite["addresses"][0])], b"");
}

/// Asks until a peer has said hello, which is where frontiers are exchanged.
fn connected(home: &Path) {
    while call(home, "sync.status", &json!({}))["peers"][0]["connected"] != true {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn call(home: &Path, method: &str, params: &Value) -> Value {
    ask(&mut connect(home), method, params)
}

fn connect(home: &Path) -> BufReader<UnixStream> {
    BufReader::new(UnixStream::connect(home.join("control.sock")).expect("the node listens"))
}

fn ask(stream: &mut BufReader<UnixStream>, method: &str, params: &Value) -> Value {
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    writeln!(stream.get_mut(), "{request}").expect("the node reads");
    let mut line = String::new();
    stream.read_line(&mut line).expect("the node answers");
    let mut answer: Value = serde_json::from_str(&line).expect("JSON");
    assert!(answer["error"].is_null(), "{method}: {answer}");
    answer["result"].take()
}

fn import(home: &Path, rows: u64) {
    let mut lines = String::new();
    for index in 0..rows {
        let row =
            json!({ "surface": "registry:note", "payload": { "id": format!("k{index}"), "value": index } });
        lines.push_str(&format!("{row}\n"));
    }
    run(home, &["import", "-"], lines.as_bytes());
}

fn run(home: &Path, arguments: &[&str], input: &[u8]) {
    let mut command = kinfold(home, arguments);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it is built");
    process.stdin.take().expect("a pipe was asked for").write_all(input).expect("it reads");
    assert!(process.wait().expect("it is our child").success(), "kinfold {arguments:?}");
}

fn kinfold(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kinfold"));
    command.arg("--home").arg(home).args(arguments).env("NO_COLOR", "1").env_remove("KINFOLD_LOG");
    command
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// What `/proc` counts time in, on every Linux there is.
const TICKS_A_SECOND: f64 = 100.0;
