//! Two devices of one person, one of them in another process.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use kinfold::net::{Mdns, NetConfig};
use kinfold::node::{Custody, NewOp, Node};
use kinfold::roster::Role;

use crate::work::{note, payload, put};

/// Makes two homes whose devices share a space.
pub async fn acquaint(home_a: &Path, home_b: &Path) {
    Node::init(home_a, "a").expect("an empty directory");
    Node::init(home_b, "b").expect("an empty directory");
    let (a, b) = (open(home_a, loopback()).await, open(home_b, loopback()).await);
    let welcome = a.personal().enrol(b.device(), "b", Role::Admin).await.expect("added");
    b.adopt(welcome).await.expect("joined");
    a.start().await.expect("starts");
    b.start().await.expect("starts");
    b.add_peer(a.local_addr().expect("started").to_string()).await.expect("an address");
    fill(&a, 90_000_000, 1).await;
    a.wait_all(Custody::on(1)).await.expect("acknowledged");
    a.stop().await.expect("stops");
    b.stop().await.expect("stops");
}

/// A port of its own on loopback, found by nobody.
pub fn loopback() -> NetConfig {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    NetConfig { listen, mdns: Mdns::Off, ..NetConfig::default() }
}

/// Opens a home.
pub async fn open(home: &Path, config: NetConfig) -> Node {
    Node::builder(home).net_config(config).open().await.expect("opens")
}

/// Writes `count` rows.
pub async fn fill(node: &Node, from: u64, count: u64) {
    let mut next = from;
    while next < from + count {
        let end = (next + 2_048).min(from + count);
        node.personal().append((next..end).map(put).collect()).await.expect("durable");
        next = end;
    }
}

/// Waits until something holds of a node.
pub async fn until(node: &Node, mut check: impl FnMut() -> bool) {
    let mut version = node.version();
    loop {
        version.mark_unchanged();
        if check() {
            return;
        }
        version.changed().await.expect("running");
    }
}

/// The other process: serves a home and answers questions on standard input.
pub async fn serve(home: &Path, config: NetConfig) {
    let node = open(home, config).await;
    node.personal().root();
    node.start().await.expect("starts");
    let held = node.status().await.expect("a status").op_count;
    println!("{} {held}", node.local_addr().expect("started"));
    let surface = note();
    loop {
        let line = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).map(|_| line)
        });
        let line = line.await.expect("a task").expect("a line");
        let answer = match line.trim() {
            "" | "stop" => break,
            "root" => node.personal().root().to_string(),
            "rss" => rss(),
            "sent" => node.status().await.expect("a status").sent_bytes.to_string(),
            "frontier" => node.personal().frontier().op_count().to_string(),
            other => {
                let key = other.strip_prefix("put ").expect("a known question");
                let op = NewOp::Put { surface: surface.clone(), key: key.to_owned(), payload: payload(7) };
                node.personal().append(vec![op]).await.expect("durable");
                "ok".to_owned()
            }
        };
        println!("{answer}");
    }
    node.stop().await.expect("stops");
}

/// The other process, seen from this one.
pub struct Server {
    child: Child,
    lines: BufReader<ChildStdout>,
    /// Where it listens.
    pub address: String,
    /// How many ops it held when it started.
    pub op_count: u64,
}

impl Server {
    /// Runs this program with `serve` and what its `main` makes of the rest.
    pub fn start(home: &Path, arguments: &[impl AsRef<OsStr>]) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .arg("serve")
            .arg(home)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("an address");
        let (address, op_count) = line.trim().split_once(' ').expect("two words");
        Self { address: address.to_owned(), op_count: op_count.parse().expect("a number"), child, lines }
    }

    /// Its answer to a question.
    pub fn ask(&mut self, question: &str) -> String {
        writeln!(self.child.stdin.as_mut().expect("piped"), "{question}").expect("asked");
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("an answer");
        line.trim().to_owned()
    }

    /// Ends it.
    pub fn stop(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().expect("ends");
    }
}

/// Peak resident memory in megabytes, where the system tells.
pub fn rss() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM: 0 kB");
    let kilobytes: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    (kilobytes / 1_024).to_string()
}
