//! A device that stores and passes on what it cannot read.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::sync::Arc;

use kinfold::crypto::{EpochKey, Identity};
use kinfold::model::{Incarnation, LogId, Scope, Seq, TipHash};
use kinfold::roster::{Role, Roster};
use kinfold::wire::Message;
use serde_json::json;

use crate::crash::bytes_below;
use crate::kin::Home;
use crate::members::enrol;
use crate::pair::{device, introduce};
use crate::peers::{Raw, hello, one_op, sealed};

#[test]
fn two_devices_that_are_never_up_together_meet_through_one_that_reads_nothing() {
    let here = Home::empty();
    // Not in the program, and another one each time.
    let canary = blake3::hash(here.path().as_os_str().as_encoded_bytes()).to_hex()[..20].to_owned();
    let word = |what: &str| format!("{what}-{canary}-{what}");
    here.run(&["init", "--name", &word("laptop")]).expect_code(0);
    let (between, there) = (Home::init("vps"), Home::init("desk"));
    enrol(&here, &between, &Scope::Personal, &word("vps"), Role::Blind);
    enrol(&here, &there, &Scope::Personal, &word("desk"), Role::Member);
    let server = between.up(&[]);

    let first = here.up(&["--peer", &server.listening]);
    let lines: String = (0..2_000)
        .map(|n| {
            let line = json!({"surface": "registry:file", "payload": {"id": word(&format!("id{n}")), "value": word("value")}});
            format!("{line}\n")
        })
        .collect();
    here.run_with(&["import", "-"], lines.as_bytes()).expect_code(0);
    here.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    here.run(&["safe-to-sleep"]).expect_code(0);
    // That the search finds what is there.
    let is_searched = match memory_holds(first.pid(), canary.as_bytes()) {
        Ok(is_found) => {
            assert!(is_found, "whoever reads and writes the word has it in memory");
            true
        }
        Err(why) => {
            let _ = writeln!(io::stderr(), "blind: skipped: the memory of a process cannot be read: {why}");
            false
        }
    };
    assert_eq!(first.terminate(), 0);

    let second = there.up(&["--peer", &server.listening]);
    there.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    until_row(&there, "registry:file", &word("id1999"));
    there.run(&["put", "registry:note", &word("answer"), &format!("{:?}", word("later"))]).expect_code(0);
    there.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    there.run(&["safe-to-sleep"]).expect_code(0);
    let at_there = there.json(&["status"])["state_hash"].clone();
    assert_eq!(second.terminate(), 0);

    let first = here.up(&["--peer", &server.listening]);
    until_row(&here, "registry:note", &word("answer"));
    here.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    assert_eq!(here.json(&["status"])["state_hash"], at_there);
    assert_eq!(here.run(&["export"]).expect_code(0).stdout.lines().count(), 2_001);

    // In between nothing was readable, and nothing can be written.
    if is_searched {
        assert!(memory_holds(server.pid(), b"kinfold").unwrap(), "the search sees its memory");
        assert!(!memory_holds(server.pid(), canary.as_bytes()).unwrap());
    }
    between.run(&["put", "registry:note", "n", "1"]).expect_code(1).says("may not write in the space");
    let status = between.json(&["status"]);
    assert!(status["ops"].as_u64().unwrap() >= 2_001, "{status}");
    assert_eq!((&status["rows"], &status["health"]["reasons"]), (&json!(0), &json!([])), "{status}");
    assert!(!status.to_string().contains(&canary), "{status}");
    assert_eq!((first.terminate(), server.terminate()), (0, 0));
    for (path, bytes) in bytes_below(&between.path()) {
        let found = bytes.windows(canary.len()).position(|window| window == canary.as_bytes());
        assert_eq!(found, None, "{path}");
    }
    assert_eq!(between.run(&["export"]).expect_code(0).stdout, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blind_device_that_asks_for_keys_or_writes_is_given_and_believed_nothing() {
    let (a, b) = (device("a").await, device("b").await);
    introduce(&a.node, &b.node).await;
    let identity = Identity::from_secret(&[7; 32]);
    let blind = identity.device();
    let welcome = a.node.personal().enrol(blind, "vps", Role::Blind).await.unwrap();
    assert_eq!(welcome.keys, []);
    let roster = Roster::load(welcome.space, welcome.records).unwrap();

    let own = Arc::new(Identity::from_secret(&[7; 32]));
    let mut raw = Raw::connect(own, a.node.device(), a.node.local_addr().unwrap()).await;
    raw.say(&hello(1, Vec::new()));
    let theirs = raw
        .heard(|message| match message {
            Message::Hello(hello) => hello.spaces.into_iter().next(),
            _ => None,
        })
        .await;
    let scope = theirs.scope;
    raw.say(&hello(1, vec![theirs]));
    for key_id in roster.key_ids() {
        raw.say(&Message::KeyRequest { scope, key_id });
        let refused = raw.heard(|message| match message {
            Message::KeyRefused { key_id, .. } => Some(key_id),
            Message::KeyGrant { .. } => panic!("it is given a key"),
            _ => None,
        });
        assert_eq!(refused.await, key_id);
    }
    let log = LogId { device: blind, incarnation: Incarnation::new(1) };
    let key = EpochKey::from_bytes([9; 32]);
    let batch = sealed(&identity, &key, &welcome.space, log, Seq::new(1), TipHash::NONE, &one_op(2, b""), 1);
    raw.batch(batch.bytes().clone());
    raw.say(&Message::Ping { nonce: 1 });
    raw.heard(|message| matches!(message, Message::Pong { nonce: 1 }).then_some(())).await;

    let status = a.node.status().await.unwrap();
    assert!(status.frontier.iter().all(|(log, _)| log.device != blind), "{:?}", status.frontier);
    raw.stop().await;
    a.node.stop().await.unwrap();
    b.node.stop().await.unwrap();
}

/// Waits until a row is there: asks after each round of sync.
fn until_row(home: &Home, surface: &str, key: &str) {
    let mut caller = crate::kin::Caller::connect(home);
    let begun = std::time::Instant::now();
    while caller.call("sync.get", json!({"surface": surface, "id": key}))["result"].is_null() {
        assert!(begun.elapsed() < crate::kin::PATIENCE, "{key}");
        caller.call("sync.pump", json!({}));
    }
}

/// Whether the memory of a process holds these bytes anywhere.
///
/// # Errors
/// Where this process may not look.
fn memory_holds(pid: u32, wanted: &[u8]) -> io::Result<bool> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut searched = 0;
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (Some(range), Some(rights)) = (fields.next(), fields.next()) else { continue };
        if !rights.starts_with('r') || line.ends_with("[vvar]") || line.ends_with("[vsyscall]") {
            continue;
        }
        let ends = range.split_once('-').and_then(|(from, to)| {
            Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?))
        });
        let Some((from, to)) = ends else { continue };
        let mut bytes = vec![0; usize::try_from(to - from).expect("it fits into an address space")];
        memory.seek(SeekFrom::Start(from))?;
        // A region may have gone meanwhile, or be none that can be read.
        if memory.read_exact(&mut bytes).is_err() {
            continue;
        }
        searched += bytes.len();
        if bytes.windows(wanted.len()).any(|window| window == wanted) {
            return Ok(true);
        }
    }
    // Whoever may not look sees nothing, and would find nothing.
    if searched == 0 { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(false) }
}
