//! Leases and drop boxes in buckets, at real servers: `moto_server` speaks S3 (`pip install 'moto[server]'`), `azurite-blob`
//! speaks Azure Blob Storage (`npm install -g azurite`).
//!
//! They are found by `KINFOLD_MOTO` and `KINFOLD_AZURITE`, or on the path. Where one is absent, or the program was built
//! without its feature, that is said on standard error, and nothing is tested.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use crate::drawer::{Missed, through};
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

#[test]
fn a_bucket_carries_a_whole_life_between_devices_that_are_never_awake_together() {
    if cfg!(not(feature = "s3")) {
        return say("skipped: built without the feature s3");
    }
    let Some(server) = Moto::start() else { return };
    server.make_bucket("box");
    let homes = ["a", "b", "c"].map(|name| Home::init(name).with_environment(&server.environment()));

    through("s3://box/kin", homes, &Missed { ops: 1_000, rows: 100 });
}

#[test]
fn a_container_carries_a_whole_life_between_devices_that_are_never_awake_together() {
    if cfg!(not(feature = "azure")) {
        return say("skipped: built without the feature azure");
    }
    let Some(server) = Azurite::start() else { return };
    let homes = ["a", "b", "c"].map(|name| Home::init(name).with_environment(&server.environment()));
    server.make_container("box");

    through("az://box/kin", homes, &Missed { ops: 1_000, rows: 100 });
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
        let said = said_by(process.stderr.take().expect("a pipe was asked for"));
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

    /// How it is reached. The keys are made up: this server asks for any.
    fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ]
    }

    /// A node that keeps its leases there.
    fn up(&self, home: &Home, place: &str) -> Daemon {
        let mut command = command(&home.path());
        command.args(["--json", "up", "--listen", "127.0.0.1:0", "--no-mdns", "--leases", place]);
        command.envs(self.environment());
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

/// A server that speaks Azure Blob Storage on loopback. Dropping it kills the process.
struct Azurite {
    address: String,
    process: Child,
    _data: tempfile::TempDir,
}

impl Azurite {
    /// `None` where there is none, which is said.
    fn start() -> Option<Self> {
        let program = std::env::var("KINFOLD_AZURITE").unwrap_or_else(|_| "azurite-blob".to_owned());
        let data = tempfile::TempDir::new().expect("the temporary directory is writable");
        let started = Command::new(&program)
            .args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--skipApiVersionCheck"])
            .args(["--disableTelemetry", "--location"])
            .arg(data.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut process = match started {
            Ok(process) => process,
            Err(error) => {
                say(&format!("skipped: `{program}` cannot be run: {error}; `npm install -g azurite`"));
                return None;
            }
        };
        let said = said_by(process.stdout.take().expect("a pipe was asked for"));
        let mut server = Self { address: String::new(), process, _data: data };
        while server.address.is_empty() {
            let line = said.recv_timeout(PATIENCE).expect("the server says where it listens");
            if let Some((_, address)) = line.split_once("listens on http://") {
                server.address = address.trim().to_owned();
            }
        }
        Some(server)
    }

    /// How it is reached: its one account is the same everywhere.
    fn environment(&self) -> [(&'static str, String); 2] {
        [
            ("AZURE_STORAGE_USE_EMULATOR", "true".to_owned()),
            ("AZURITE_BLOB_STORAGE_URL", format!("http://{}", self.address)),
        ]
    }

    /// A request of its own with a signature, which takes a few lines where the server can run.
    fn make_container(&self, name: &str) {
        let made = Command::new("node").args(["-e", MAKE_CONTAINER, &self.address, name]).output();
        let made = made.expect("the server needs node as well");
        assert!(made.status.success(), "{made:?}");
    }
}

const MAKE_CONTAINER: &str = r#"
const [address, name] = process.argv.slice(1);
const key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const headers = { "x-ms-date": new Date().toUTCString(), "x-ms-version": "2021-08-06" };
const lines = ["PUT", ..."0".repeat(11).split("").map(() => ""),
  ...Object.entries(headers).map(([header, value]) => `${header}:${value}`),
  `/devstoreaccount1/devstoreaccount1/${name}`, "restype:container"];
const hash = require("crypto").createHmac("sha256", Buffer.from(key, "base64")).update(lines.join("\n"));
headers["authorization"] = `SharedKey devstoreaccount1:${hash.digest("base64")}`;
fetch(`http://${address}/devstoreaccount1/${name}?restype=container`, { method: "PUT", headers })
  .then(async (answer) => {
    if (answer.status !== 201) { console.error(answer.status, await answer.text()); process.exit(1); }
  });
"#;

impl Drop for Azurite {
    fn drop(&mut self) {
        // One that has ended is no error.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The lines of a server, read to their end, so that it never waits for a reader of its log.
fn said_by(from: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, said) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { return };
            let _: Result<_, _> = sender.send(line);
        }
    });
    said
}

/// Says something that the test harness does not swallow.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "buckets: {what}");
}
