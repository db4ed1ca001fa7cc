//! Leases in a bucket, at a real server that speaks S3: `moto_server`, from PyPI's `moto[server]`.
//!
//! The server is found by `KINFOLD_MOTO`, or on the path. Where it is absent, or the program was built
//! without the feature `s3`, that is said on standard error, and nothing is tested.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use crate::kin::{self, Daemon, Home, PATIENCE, command};
use crate::lease_run::{race, under_a_lease};

#[test]
fn a_bucket_gives_a_lease_to_one_device_at_a_time() {
    if cfg!(not(feature = "s3")) {
        return say("skipped: built without the feature s3");
    }
    let Some(server) = Moto::start() else { return };
    server.make_bucket("fleet");
    let homes = ["a", "b", "c"].map(Home::init);
    let _nodes = homes.each_ref().map(|home| server.up(home, "s3://fleet/leases"));

    race(&homes.each_ref(), 15);
    let first = under_a_lease(&homes[0], &["backup", "--run", "one"], "echo $KINFOLD_EPOCH");
    let second = under_a_lease(&homes[1], &["backup", "--run", "two"], "echo $KINFOLD_EPOCH");

    assert_eq!((first.expect_code(0).stdout.as_str(), second.expect_code(0).stdout.as_str()), ("1\n", "2\n"));
}

#[test]
fn where_the_bucket_does_not_answer_nothing_is_run() {
    if cfg!(not(feature = "s3")) {
        return say("skipped: built without the feature s3");
    }
    let Some(server) = Moto::start() else { return };
    server.make_bucket("fleet");
    let home = Home::init("laptop");
    let _node = server.up(&home, "s3://fleet/leases");
    under_a_lease(&home, &["backup"], "exit 0").expect_code(0);

    drop(server);
    let ended = under_a_lease(&home, &["backup"], "echo never").expect_code(75);

    assert_eq!(ended.stdout, "");
    ended.says("the bucket or directory with the leases does not answer");
}

/// A server that speaks S3 on loopback. Dropping it kills the process.
struct Moto {
    address: String,
    process: Child,
}

impl Moto {
    /// `None` where there is none, which is said.
    fn start() -> Option<Self> {
        let program = std::env::var("KINFOLD_MOTO").unwrap_or_else(|_| "moto_server".to_owned());
        let started = Command::new(&program)
            .args(["-H", "127.0.0.1", "-p", "0"])
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut process = match started {
            Ok(process) => process,
            Err(error) => {
                say(&format!("skipped: `{program}` cannot be run: {error}; `pip install 'moto[server]'`"));
                return None;
            }
        };
        let stderr = process.stderr.take().expect("a pipe was asked for");
        let (sender, said) = mpsc::channel();
        // Read to its end, so that the server never waits for a reader of its log.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let Ok(line) = line else { return };
                let _: Result<_, _> = sender.send(line);
            }
        });
        let mut server = Self { address: String::new(), process };
        while server.address.is_empty() {
            let line = said.recv_timeout(PATIENCE).expect("the server says where it listens");
            if let Some((_, address)) = line.split_once("Running on http://") {
                server.address = address.trim().to_owned();
            }
        }
        Some(server)
    }

    fn make_bucket(&self, name: &str) {
        let mut stream = TcpStream::connect(&self.address).expect("the server listens");
        let request = format!(
            "PUT /{name} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).expect("the server reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the server answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// A node that keeps its leases there. The keys are made up: this server asks for any.
    fn up(&self, home: &Home, place: &str) -> Daemon {
        let mut command = command(&home.path());
        command.args(["--json", "up", "--listen", "127.0.0.1:0", "--no-mdns", "--leases", place]);
        command.env("AWS_ENDPOINT", format!("http://{}", self.address)).env("AWS_ALLOW_HTTP", "true");
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        command.env("AWS_REGION", "us-east-1");
        kin::Daemon::start(&mut command)
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // One that has ended is no error.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Says something that the test harness does not swallow.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "buckets: {what}");
}
