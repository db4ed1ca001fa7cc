//! What a device lacks, carried in a file.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use kinfold::crypto::{BatchHeader, Identity};
use kinfold::model::{Scope, ScopeTag, Seq, Tip, TipHash, Wall};
use kinfold::roster::Role;
use kinfold::wire::BundleHead;
use kinfold::wire::bundle::{self, Chunk, ChunkEntry, ChunkKind};
use serde_json::{Value, json};

use crate::kin::{Caller, Ended, Home};
use crate::members::enrol;

/// A file beside a home.
fn beside(home: &Home, name: &str) -> PathBuf {
    home.path().with_file_name(name)
}

fn export(home: &Home, name: &str, more: &[&str]) -> PathBuf {
    let file = beside(home, name);
    let mut arguments = vec!["bundle", "export", file.to_str().unwrap()];
    arguments.extend(more);
    home.run(&arguments).expect_code(0);
    file
}

fn import(home: &Home, file: &std::path::Path) -> Ended {
    home.run(&["bundle", "import", file.to_str().unwrap()])
}

/// Two devices of one person that have met once and never since.
fn two() -> (Home, Home) {
    let (a, b) = (Home::init("a"), Home::init("b"));
    enrol(&a, &b, &Scope::Personal, "b", Role::Admin);
    (a, b)
}

fn root(home: &Home) -> Value {
    home.json(&["status"])["state_hash"].clone()
}

/// Rows that do not compress, a mebibyte and a half sealed.
fn fill(home: &Home) {
    let lines: String = (0..50u32)
        .map(|n| {
            let value: String = (0..1_000u32)
                .map(|m| blake3::hash(&[n.to_be_bytes(), m.to_be_bytes()].concat()).to_hex()[..63].to_owned())
                .collect();
            format!(
                "{}\n",
                json!({"surface": "registry:file", "payload": {"id": n.to_string(), "value": value}})
            )
        })
        .collect();
    home.run_with(&["import", "-"], lines.as_bytes()).expect_code(0);
}

#[test]
fn two_devices_that_never_meet_again_exchange_ops_conflicts_and_receipts_in_files() {
    let (a, b) = two();
    a.run(&["put", "registry:note", "x", "1"]).expect_code(0);
    a.run(&["put", "registry:note", "y", "1"]).expect_code(0);
    b.run(&["put", "registry:note", "x", "2"]).expect_code(0);
    a.run(&["safe-to-sleep"]).expect_code(75);

    let first = import(&b, &export(&a, "one", &[])).expect_code(0);
    let back = import(&a, &export(&b, "two", &["--for", "a"])).expect_code(0);

    assert!(first.stdout.starts_with("imported 2 ops, "), "{first:?}");
    assert!(back.stdout.starts_with("imported 1 op, "), "{back:?}");
    assert_eq!(root(&a), root(&b));
    assert_eq!(a.json(&["conflicts"])["conflicts"].as_array().unwrap().len(), 1);
    let held = a.json(&["safe-to-sleep"]);
    assert_eq!(held["holders"], json!([b.json(&["devices", "id"])["device_id"]]));
    // Now it is known what the other has.
    let rest = a.json(&["bundle", "export", beside(&a, "three").to_str().unwrap(), "--for", "b"]);
    assert_eq!((&rest["ops"], rest["beyond_ack_of_ms"].is_u64()), (&json!(0), true), "{rest}");
}

#[test]
fn a_bundle_that_is_imported_twice_adds_nothing_and_says_so() {
    let (a, b) = two();
    a.run(&["put", "registry:note", "x", "1"]).expect_code(0);
    let file = export(&a, "one", &[]);
    import(&b, &file).expect_code(0);

    let again = import(&b, &file).expect_code(0);
    let own = import(&a, &file).expect_code(0);

    assert!(again.stdout.starts_with("nothing new; here already: 1 op "), "{again:?}");
    assert!(own.stdout.starts_with("nothing new"), "{own:?}");
    assert_eq!(root(&a), root(&b));
}

#[test]
fn a_file_that_was_cut_off_gives_what_is_whole_and_the_rest_later() {
    let (a, b) = two();
    fill(&a);
    let whole = fs::read(export(&a, "one", &[])).unwrap();
    let head = BundleHead::bytes_of(&whole).unwrap();
    let cut = beside(&b, "cut");

    fs::write(&cut, &whole[..head - 1]).unwrap();
    import(&b, &cut).expect_code(1).says("the head of the bundle has");
    fs::write(&cut, &whole[..whole.len() - 400 * 1024]).unwrap();
    let partly = import(&b, &cut).expect_code(1).says("get the file again");

    assert!(partly.stdout.contains("missing: ops ") && partly.stdout.contains("missing: acks"), "{partly:?}");
    let held = b.json(&["status"])["ops"].as_u64().unwrap();
    assert!(0 < held && held < 50, "{held}");
    fs::write(&cut, &whole).unwrap();
    let rest = b.json(&["bundle", "import", cut.to_str().unwrap()]);
    assert_eq!(
        (&rest["ops"], &rest["held_ops"], &rest["whole"]),
        (&json!(50 - held), &json!(held), &json!(true))
    );
    assert_eq!(root(&a), root(&b));
}

#[test]
fn a_damaged_part_is_named_and_what_follows_it_waits() {
    let (a, b) = two();
    fill(&a);
    let whole = fs::read(export(&a, "one", &[])).unwrap();
    let head = BundleHead::parse(&whole).unwrap();
    let damaged = beside(&b, "damaged");
    let mut bytes = whole.clone();
    let first_batches = BundleHead::bytes_of(&whole).unwrap() + head.chunks[0].byte_count();
    bytes[first_batches + 5_000] ^= 1;
    fs::write(&damaged, &bytes).unwrap();

    let partly = import(&b, &damaged).expect_code(1);

    assert!(partly.stdout.contains("missing: ops 1 to "), "{partly:?}");
    assert!(partly.stdout.contains("what comes before is missing, from 1 on"), "{partly:?}");
    bytes = whole.clone();
    bytes[60] ^= 1;
    fs::write(&damaged, &bytes).unwrap();
    import(&b, &damaged).expect_code(1);
    bytes = whole.clone();
    bytes[25] ^= 1;
    fs::write(&damaged, &bytes).unwrap();
    import(&b, &damaged).expect_code(1).says("not what its device signed");
    assert_eq!(b.json(&["status"])["ops"], 0);
    fs::write(&damaged, &whole).unwrap();
    import(&b, &damaged).expect_code(0);
    assert_eq!(root(&a), root(&b));
}

#[test]
fn what_is_no_bundle_for_this_device_is_refused_by_name() {
    let (a, b) = two();
    let stranger = Home::init("stranger");
    let good = export(&a, "one", &[]);
    let file = beside(&b, "file");
    let refused = |bytes: &[u8], words: &str| {
        fs::write(&file, bytes).unwrap();
        import(&b, &file).expect_code(1).says(words);
    };
    let whole = fs::read(&good).unwrap();
    let mut newer = whole.clone();
    newer[3] = b'2';

    refused(b"", "the head of the bundle has 72 bytes, 0 are there");
    refused(b"%PDF-1.7 and so on", "not a bundle");
    refused(&newer, "update this program");
    refused(&[&whole[..60], &[0xff; 12][..]].concat(), "exceed the limit");
    import(&stranger, &good)
        .expect_code(1)
        .says("of a space this device is not in")
        .says("pairing needs a meeting");
    import(&b, &beside(&b, "nowhere")).expect_code(1).says("cannot be used");
    import(&b, &b.path()).expect_code(1).says("cannot be used");
    let there = good.to_str().unwrap();
    a.run(&["bundle", "export", there]).expect_code(1).says("exists already and is left as it is");
    assert_eq!(fs::read(&good).unwrap(), whole);
    a.run(&["bundle", "export", "/no/such/folder/file"]).expect_code(1).says("cannot be used");
    a.run(&["bundle", "export", beside(&a, "two").to_str().unwrap(), "--for", "nobody"])
        .expect_code(1)
        .says("no device \"nobody\" in this space");
    // Whoever was never let in has signed this one.
    let head = BundleHead::parse(&whole).unwrap();
    let forged = BundleHead { chunks: Vec::new(), wall: Wall::from_millis(1), ..head };
    refused(&forged.sign(&Identity::from_secret(&[9; 32])).unwrap(), "which is no device of this space");
}

#[test]
fn a_removed_device_exports_in_vain() {
    let (a, b) = two();
    let c = Home::init("c");
    enrol(&a, &c, &Scope::Personal, "c", Role::Member);
    c.run(&["put", "registry:note", "x", "1"]).expect_code(0);
    let late = export(&c, "late", &[]);
    a.run(&["revoke", "c", "--yes", "c"]).expect_code(0);
    import(&b, &export(&a, "one", &[])).expect_code(0);

    for home in [&a, &b] {
        import(home, &late).expect_code(1).says("which was removed from this space");
        assert_eq!(home.json(&["status"])["ops"], 0);
    }
}

#[test]
fn a_device_that_is_enrolled_by_what_it_brings_is_taken_at_its_word() {
    let (a, b) = two();
    let c = Home::init("c");
    enrol(&a, &c, &Scope::Personal, "c", Role::Member);
    c.run(&["put", "registry:note", "x", "1"]).expect_code(0);

    let taken = import(&b, &export(&c, "one", &[])).expect_code(0);

    assert!(taken.stdout.starts_with("imported 1 op, 1 record"), "{taken:?}");
}

#[test]
fn a_running_node_writes_and_reads_bundles_and_takes_absolute_names_only() {
    let (a, b) = two();
    a.run(&["put", "registry:note", "x", "1"]).expect_code(0);
    let (up, down) = (a.up(&[]), b.up(&[]));
    let file = beside(&a, "one");

    let mut caller = Caller::connect(&a);
    let request =
        json!({"jsonrpc": "2.0", "id": 1, "method": "bundle.export", "params": {"path": file, "for": "b"}});
    caller.send(request.to_string().as_bytes());
    let mut said = vec![caller.next()];
    while !(said.iter().any(|line| line["result"].is_object()) && said.len() > 1) {
        said.push(caller.next());
    }
    let refused = Caller::connect(&a).call("bundle.export", json!({"path": "one"}));
    let read = b.json(&["bundle", "import", file.to_str().unwrap()]);

    let is_progress = |line: &Value| line["method"] == "bundle.progress" && line["params"]["total"].is_u64();
    assert!(said.iter().any(is_progress), "{said:?}");
    assert_eq!(refused["error"]["data"]["kind"], "RelativePath");
    assert_eq!((&read["ops"], &read["whole"]), (&json!(1), &json!(true)));
    assert_eq!((up.terminate(), down.terminate()), (0, 0));
}

#[test]
fn a_bundle_holds_no_plaintext_and_no_key() {
    let (a, b) = two();
    a.run(&["put", "registry:note", "canary-key", "\"canary-value\""]).expect_code(0);

    let file = export(&a, "one", &[]);

    let bytes = fs::read(&file).unwrap();
    for word in ["canary-key", "canary-value", "registry:note"] {
        assert!(!bytes.windows(word.len()).any(|window| window == word.as_bytes()), "{word}");
    }
    // A device without the key holds it, and says what it waits for.
    a.run(&["rotate"]).expect_code(0);
    a.run(&["put", "registry:note", "later", "1"]).expect_code(0);
    import(&b, &export(&a, "two", &[])).expect_code(0);
    let status = b.json(&["status"]);
    assert_eq!((&status["ops"], &status["rows"]), (&json!(2), &json!(1)), "{status}");
    assert_eq!(status["health"]["reasons"][0]["kind"], "KeyMissing", "{status}");
}

/// A bundle of one chunk of every kind, from fixed inputs: `tests/data/bundles-v1.json`.
fn golden() -> Vec<u8> {
    let batches: Value = serde_json::from_str(include_str!("../data/batches-v1.json")).unwrap();
    let batch = Bytes::from(unhex(batches["batches"][0]["sealed"].as_str().unwrap()));
    let header = BatchHeader::parse(&batch).unwrap();
    let mut parts = bundle::records([Bytes::from_static(b"a record"), Bytes::from_static(b"another")]);
    parts.push((bundle::batches(&batch).unwrap(), batch));
    parts.extend(bundle::acks([Bytes::from_static(b"an ack")]));
    let later = Bytes::from_static(b"of a later version");
    let hash = *blake3::hash(&later).as_bytes();
    parts.push((ChunkEntry { kind: ChunkKind::Unknown(4), items: 1, bytes: 18, hash }, later));
    let tip = |seq, fill| Tip { seq: Seq::new(seq), hash: TipHash::from_bytes([fill; 32]) };
    let identity = Identity::from_secret(&[1; 32]);
    let head = BundleHead {
        scope: ScopeTag::from_bytes([2; 16]),
        exporter: identity.device(),
        wall: Wall::from_millis(1_700_000_000_000),
        from: vec![(header.log, tip(1, 3))],
        to: vec![(header.log, tip(4, 5))],
        chunks: parts.iter().map(|(entry, _)| *entry).collect(),
    };
    let mut bytes = head.sign(&identity).unwrap();
    parts.iter().for_each(|(_, part)| bytes.extend_from_slice(part));
    bytes
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

#[test]
fn the_bytes_of_a_bundle_are_what_they_were() {
    let pinned: Value = serde_json::from_str(include_str!("../data/bundles-v1.json")).unwrap();
    let hex: String = golden().iter().map(|byte| format!("{byte:02x}")).collect();

    assert_eq!(hex, pinned["bundle"].as_str().unwrap());
    read(&golden()).unwrap();
}

/// Reads a whole bundle, as an import does.
pub fn read(bytes: &[u8]) -> Result<Vec<Chunk>, String> {
    let head = BundleHead::parse(bytes).map_err(|error| error.to_string())?;
    let mut at = BundleHead::bytes_of(bytes).map_err(|error| error.to_string())?;
    let open = |entry: &ChunkEntry| {
        let part = bytes.get(at..at + entry.byte_count()).ok_or("a part is missing")?;
        at += entry.byte_count();
        entry.open(&Bytes::copy_from_slice(part)).map_err(|error| error.to_string())
    };
    head.chunks.iter().map(open).collect()
}
