//! The WebSocket on loopback, as programs, pages and strangers find it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::kin::{Home, PATIENCE};

/// A WebSocket of which every byte can be chosen.
struct Web {
    write: TcpStream,
    read: BufReader<TcpStream>,
}

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// The bit of a message's last frame.
const LAST: u8 = 0x80;

fn port(home: &Home) -> u16 {
    std::fs::read_to_string(home.path().join("control.port")).unwrap().parse().unwrap()
}

fn token(home: &Home) -> String {
    std::fs::read_to_string(home.path().join("control.token")).unwrap()
}

impl Web {
    /// Asks for a WebSocket with these headers; the status of the answer, its headers and body.
    fn ask(port: u16, headers: &[(&str, &str)]) -> (u16, String, Self) {
        let mut write = TcpStream::connect(("127.0.0.1", port)).expect("the node listens");
        write.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request = "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            .to_owned();
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        write.write_all(format!("{request}\r\n").as_bytes()).unwrap();
        let mut read = BufReader::new(write.try_clone().unwrap());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(read.read_line(&mut head).unwrap(), 0, "an answer was expected after {head:?}");
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, Self { write, read })
    }

    fn open(home: &Home) -> Self {
        let (host, bearer) = (format!("127.0.0.1:{}", port(home)), format!("Bearer {}", token(home)));
        let (status, head, web) = Self::ask(port(home), &[("Host", &host), ("Authorization", &bearer)]);
        assert_eq!(status, 101, "{head}");
        web
    }

    fn frame(&mut self, first: u8, payload: &[u8]) {
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..126 => bytes.push(0x80 | u8::try_from(length).unwrap()),
            length @ 126..65_536 => {
                bytes.push(0x80 | 126);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            length => {
                bytes.push(0x80 | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        // Masked with zeros: the payload as it is.
        bytes.extend([0; 4]);
        bytes.extend(payload);
        // A node that closes does not read everything.
        let _ = self.write.write_all(&bytes);
    }

    fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.read.read_exact(&mut head).ok()?;
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                self.read.read_exact(&mut length).ok()?;
                u64::from(u16::from_be_bytes(length))
            }
            127 => {
                let mut length = [0; 8];
                self.read.read_exact(&mut length).ok()?;
                u64::from_be_bytes(length)
            }
            length => u64::from(length),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.read.read_exact(&mut payload).ok()?;
        assert_eq!(head[0] & LAST, LAST, "the node sends whole messages");
        Some((head[0] & 0x0f, payload))
    }

    fn answer(&mut self) -> Value {
        let (kind, payload) = self.next().expect("an answer was expected");
        assert_eq!(kind, TEXT, "{}", String::from_utf8_lossy(&payload));
        serde_json::from_slice(&payload).unwrap()
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        self.frame(LAST | TEXT, request.to_string().as_bytes());
        self.answer()
    }

    /// The code it is closed with.
    #[track_caller]
    fn closed(&mut self) -> u16 {
        let (kind, payload) = self.next().expect("a close was expected");
        assert_eq!(kind, CLOSE, "{}", String::from_utf8_lossy(&payload));
        assert_eq!(self.next(), None);
        u16::from_be_bytes([payload[0], payload[1]])
    }
}

#[test]
fn token_and_port_are_their_owners_and_last_as_long_as_the_node() {
    let home = Home::init("a");
    let mode = |name: &str| std::fs::metadata(home.path().join(name)).unwrap().permissions().mode() & 0o777;
    let daemon = home.up(&[]);
    let first = token(&home);
    assert_eq!((mode("control.token"), mode("control.port")), (0o600, 0o600));
    daemon.kill();
    let daemon = home.up(&[]);
    assert_ne!(token(&home), first, "a token is for one run");
    assert_eq!(mode("control.token"), 0o600);
    assert_eq!(daemon.terminate(), 0);
    assert!(!home.path().join("control.token").exists() && !home.path().join("control.port").exists());

    let _daemon = home.up(&["--no-websocket"]);
    assert!(!home.path().join("control.port").exists());
}

#[test]
fn only_a_caller_that_knows_the_token_and_no_page_comes_in() {
    let home = Home::init("a");
    let _daemon = home.up(&[]);
    let port = port(&home);
    let (own, secret) = (format!("127.0.0.1:{port}"), token(&home));
    let bearer = format!("Bearer {secret}");
    let check = |headers: &[(&str, &str)], expected: u16, words: &str| {
        let (status, mut answer, mut web) = Web::ask(port, headers);
        assert_eq!(status, expected, "{answer}");
        if status != 101 {
            web.read.read_to_string(&mut answer).unwrap();
        }
        assert!(answer.contains(words), "{answer}");
        assert!(!answer.contains(&secret), "{answer}");
    };

    check(&[("Host", &own)], 401, "control.token");
    check(&[("Host", &own), ("Authorization", "Bearer 0000")], 401, "control.token");
    check(&[("Host", &own), ("Authorization", &bearer), ("Origin", "https://example.org")], 403, "origin");
    check(&[("Host", &format!("evil.example:{port}")), ("Authorization", &bearer)], 403, "127.0.0.1");
    let offered = format!("kinfold, token.{secret}");
    check(&[("Host", &own), ("Sec-WebSocket-Protocol", &offered)], 101, "kinfold");
    check(&[("Host", &format!("localhost:{port}")), ("Authorization", &bearer)], 101, "websocket");
    let page = [("Host", own.as_str()), ("Sec-WebSocket-Protocol", offered.as_str()), ("Origin", "null")];
    check(&page, 403, "origin");
}

#[test]
fn requests_are_answered_as_on_the_socket() {
    let home = Home::init("a");
    let _daemon = home.up(&[]);
    let mut web = Web::open(&home);

    assert_eq!(web.call("node.version", json!({}))["result"]["name"], "kinfold");
    web.frame(LAST | TEXT, b"nonsense");
    assert_eq!(web.answer()["error"]["data"]["kind"], "NotJson");
    web.frame(LAST | TEXT, &vec![b' '; 1024 * 1024 + 1]);
    assert_eq!(web.answer()["error"]["data"]["kind"], "RequestTooLong");
    web.frame(LAST | PING, b"there?");
    assert_eq!(web.next(), Some((PONG, b"there?".to_vec())));
    let subscribed = web.call("sync.subscribe", json!({"surface": "skill"}));
    web.frame(LAST | TEXT, br#"{"method":"sync.append","params":{"surface":"skill","payload":{"id":"s"}}}"#);
    let told = web.answer();
    assert_eq!(told["method"], "sync.changed");
    assert_eq!(told["params"]["subscription"], subscribed["result"]["subscription"]);
    web.frame(TEXT, br#"{"id":2,"#);
    for byte in br#""method":"node.version"}"# {
        web.frame(0, &[*byte]);
    }
    web.frame(LAST, b"");
    assert_eq!(web.answer()["id"], 2);
    web.frame(LAST | CLOSE, &1000u16.to_be_bytes());
    assert_eq!(web.closed(), 1000);
}

#[test]
fn what_is_no_message_ends_the_connection_with_its_reason_and_no_other() {
    let home = Home::init("a");
    let _daemon = home.up(&[]);
    let mut quiet = TcpStream::connect(("127.0.0.1", port(&home))).unwrap();
    quiet.set_read_timeout(Some(PATIENCE)).unwrap();
    quiet.write_all(b"GET / HTTP/1.1\r\nHost: ").unwrap();
    let mut bystander = Web::open(&home);

    let mut web = Web::open(&home);
    web.frame(LAST | BINARY, b"{}");
    assert_eq!(web.closed(), 1003);
    let mut web = Web::open(&home);
    web.frame(LAST | TEXT, b"\xff\xfe");
    assert_eq!(web.closed(), 1007);
    let mut web = Web::open(&home);
    web.frame(LAST | 5, b"");
    assert_eq!(web.closed(), 1002);
    let mut web = Web::open(&home);
    web.write.write_all(&[LAST | TEXT, 2, b'{', b'}']).unwrap();
    assert_eq!(web.closed(), 1002, "a frame without a mask");
    let mut web = Web::open(&home);
    web.frame(LAST | TEXT, &vec![b' '; 2 * 1024 * 1024 + 1]);
    assert_eq!(web.answer()["error"]["data"]["kind"], "RequestTooLong");
    assert_eq!(web.closed(), 1009);
    let mut web = Web::open(&home);
    web.frame(TEXT, b"[");
    for _ in 0..40 {
        web.frame(0, &vec![b' '; 64 * 1024]);
    }
    assert_eq!(web.answer()["error"]["data"]["kind"], "RequestTooLong");
    assert_eq!(web.closed(), 1009, "fragments without end");
    let mut web = Web::open(&home);
    web.write.shutdown(Shutdown::Write).unwrap();
    while web.next().is_some() {}

    // Five seconds after it connected: a WebSocket that does not begin is no connection.
    assert_eq!(quiet.read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(bystander.call("node.version", json!({}))["result"]["name"], "kinfold");
}

#[test]
fn a_node_that_stops_says_so() {
    let home = Home::init("a");
    let daemon = home.up(&[]);
    let mut web = Web::open(&home);
    web.call("node.version", json!({}));

    let ended = std::thread::spawn(move || daemon.terminate());

    assert_eq!(web.closed(), 1001);
    drop(web);
    assert_eq!(ended.join().unwrap(), 0);
}
