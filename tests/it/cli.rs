//! The command line, as a person or a script uses it.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use serde_json::{Value, json};

use crate::kin::{Caller, Home, PATIENCE, command, lines, pair, run, signal};

#[test]
fn a_device_is_made_once() {
    let home = Home::empty();

    let made = home.json(&["init", "--name", "laptop"]);
    let again = home.run(&["init"]).expect_code(1).says("already holds");

    assert_eq!(made["name"], "laptop");
    assert_eq!(home.json(&["devices", "id"])["device_id"], made["device_id"]);
    assert!(again.stdout.is_empty());
}

#[test]
fn a_home_without_a_device_says_how_to_make_one() {
    let home = Home::empty();

    home.run(&["status"]).expect_code(1).says("kinfold init");
}

#[test]
fn what_cannot_be_understood_is_a_usage_error() {
    let home = Home::empty();

    home.run(&["no-such-command"]).expect_code(2);
    home.run(&["put", "registry:note"]).expect_code(2);
    home.run(&["wait"]).expect_code(2);
    home.run(&["up", "--listen", "somewhere"]).expect_code(2);
}

#[test]
fn rows_are_set_shown_listed_and_removed_without_a_running_node() {
    let home = Home::init("a");

    home.run(&["put", "registry:note", "one", r#"{ "text": "ü", "n": 1.0 }"#]).expect_code(0);
    home.run_with(&["put", "registry:note", "two", "-"], b"[1e3]").expect_code(0);
    let one = home.run(&["get", "registry:note", "one"]).expect_code(0);
    let page = home.json(&["list", "registry:note", "--limit", "1"]);
    let rest = home.json(&["list", "registry:note", "--after", "one"]);
    home.run(&["rm", "registry:note", "one"]).expect_code(0);

    assert_eq!(one.stdout, "{\"n\":1.0,\"text\":\"ü\"}\n");
    assert_eq!((&page["rows"][0]["id"], &page["next"]), (&"one".into(), &"one".into()));
    assert_eq!((&rest["rows"][0]["id"], &rest["next"]), (&"two".into(), &Value::Null));
    home.run(&["get", "registry:note", "one"]).expect_code(1).says("no row \"one\"");
    home.run(&["rm", "registry:note", "one"]).expect_code(1).says("no row \"one\"");
    assert_eq!(home.json(&["status"])["rows"], 1);
}

#[test]
fn facts_keep_their_first_value_and_events_keep_all() {
    let home = Home::init("a");

    home.run(&["put", "knowledge", "k", "1"]).expect_code(0);
    home.run(&["put", "knowledge", "k", "2"]).expect_code(0);
    home.run(&["event", "routing", "s", "1"]).expect_code(0);
    home.run(&["event", "routing", "s", "1"]).expect_code(0);
    home.run(&["event", "routing", "t", "2"]).expect_code(0);

    assert_eq!(home.run(&["get", "knowledge", "k"]).stdout, "1\n");
    let events = home.json(&["list", "routing"]);
    let streams: Vec<&Value> = events["events"].as_array().unwrap().iter().map(|e| &e["stream"]).collect();
    assert_eq!(streams, ["s", "s", "t"]);
    let first = home.json(&["list", "routing", "--limit", "1"]);
    let rest = home.json(&["list", "routing", "--after", first["next"].as_str().unwrap()]);
    assert_eq!(rest["events"].as_array().unwrap().len(), 2);
    assert_eq!(home.json(&["list", "routing", "--stream", "t"])["events"].as_array().unwrap().len(), 1);
    home.run(&["put", "routing", "s", "1"]).expect_code(1).says("takes no");
}

#[test]
fn bad_values_are_refused_with_the_reason_and_nothing_is_recorded() {
    let home = Home::init("a");
    let long = format!("\"{}\"", "x".repeat(64 * 1024 - 1));
    let file = home.path().with_file_name("long.json");
    std::fs::write(&file, &long).unwrap();

    home.run(&["put", "registry:note", "a", "nonsense"]).expect_code(1).says("not JSON");
    home.run(&["put", "registry:note", "a", r#"{"a":1,"a":2}"#]).expect_code(1).says("\"a\" occurs twice");
    home.run(&["put", "registry:note", "a", &format!("@{}", file.display())])
        .expect_code(1)
        .says("65537 bytes exceeds the limit of 65536");
    home.run(&["put", "notes", "a", "1"]).expect_code(1).says("unknown surface \"notes\"");
    home.run(&["put", "registry:note", &"k".repeat(1025), "1"]).expect_code(1).says("1 to 1024 bytes");
    home.run(&["put", "registry:note", "", "1"]).expect_code(1).says("1 to 1024 bytes");
    home.run(&["put", "registry:note", "a", "@/no/such/file"]).expect_code(1).says("cannot be read");
    home.run(&["event", "registry:note", "s", "1"]).expect_code(1).says("takes no");

    assert_eq!(home.json(&["status"])["ops"], 0);
}

#[test]
fn an_import_names_bad_lines_and_keeps_good_ones() {
    let home = Home::init("a");
    let mut input = Vec::new();
    let mut line = |text: &[u8]| {
        input.extend_from_slice(text);
        input.push(b'\n');
    };
    line(
        br#"{"t":1,"device":"x","surface":"registry:file","payload":{"id":"a","blob":"1","deleted":false}}"#,
    );
    line(b"nonsense");
    line(b"");
    line(b"\x00\xff\xfe binary \x80");
    line(br#"{"surface":"registry:file","payload":{"id":"b","id":"c"}}"#);
    line(br#"{"surface":"nowhere","payload":{}}"#);
    line(format!(r#"{{"surface":"skill","payload":"{}"}}"#, "x".repeat(64 * 1024 - 1)).as_bytes());
    line(&vec![b'y'; 2 * 1024 * 1024]);
    line(br#"{"surface":"registry:file","payload":{"blob":"1"}}"#);
    line(br#"{"scope":{"org":"acme"},"surface":"skill","payload":1}"#);
    line(b"{\"surface\":\"registry:file\",\"payload\":{\"id\":\"a\",\"deleted\":true}}\r");
    line(br#"{"surface":"knowledge","payload":{"body":"last"}}"#);
    input.pop();

    let ended = home.run_with(&["import", "-"], &input).expect_code(1);

    assert_eq!(ended.stdout, "imported 3, refused 8\n");
    let ended = ended.says("line 2: ").says("line 4: ").says("line 5: ").says("line 6: unknown surface");
    let ended = ended.says("line 7: a payload of 65537 bytes").says("line 8: a line of 2097152 bytes");
    ended.says("line 9: ").says("line 10: ").says("8 of 11 lines were refused");
    assert_eq!(home.json(&["status"])["ops"], 3);
    home.run(&["get", "registry:file", "a"]).expect_code(1);
}

#[test]
fn programs_read_refusals_as_json() {
    let home = Home::init("a");

    let import = home.run_with(&["--json", "import", "-"], b"1\n{}\n").expect_code(1);
    let put = home.run(&["--json", "put", "notes", "a", "1"]).expect_code(1);
    let get = home.run(&["--json", "get", "skill", "a"]).expect_code(1);

    let lines: Vec<Value> =
        import.stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!((&lines[0]["line"], &lines[1]["line"]), (&1.into(), &2.into()));
    assert_eq!(lines[2]["error"]["message"], "2 of 2 lines were refused");
    assert_eq!(serde_json::from_str::<Value>(&import.stdout).unwrap()["refused"], 2);
    let put: Value = serde_json::from_str(&put.stderr).unwrap();
    assert_eq!(put["error"]["data"]["kind"], "UnknownSurface");
    assert!(get.stdout.is_empty());
}

#[test]
fn an_import_from_a_pipe_ends_when_it_is_told_to() {
    let home = Home::init("a");
    let mut import = command(&home.path());
    let mut import = import
        .args(["import", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be started");
    let notes = lines(import.stderr.take().expect("a pipe was asked for"));
    let mut input = import.stdin.take().expect("a pipe was asked for");
    // One request's worth, with a bad line to tell when it is done.
    let line = "{\"surface\":\"skill\",\"payload\":1}\n";
    input.write_all(format!("bad\n{}", line.repeat(1_024)).as_bytes()).unwrap();
    assert!(notes.recv_timeout(PATIENCE).unwrap().starts_with("line 1: "));

    signal(import.id(), "INT");
    let said = notes.recv_timeout(PATIENCE).unwrap();

    drop(input);
    assert_eq!(said, "kinfold: stopped on request after line 1025; the good lines up to it are recorded");
    assert_eq!(import.wait().unwrap().code(), Some(1));
    assert_eq!(home.json(&["status"])["ops"], 1_024);
}

#[test]
fn looking_for_nobody_ends_in_time() {
    let home = Home::init("a");

    home.run(&["sync", "--timeout", "0"]).expect_code(75).says("no other device was reached");
}

#[test]
fn an_export_is_an_import_elsewhere() {
    let (one, two) = (Home::init("one"), Home::init("two"));
    one.run(&["put", "registry:note", "explicit", "1.0"]).expect_code(0);
    one.run(&["put", "registry:note", "flagged", r#"{"id":"flagged","deleted":true}"#]).expect_code(0);
    one.run(&["put", "registry:note", "gone", "1"]).expect_code(0);
    one.run(&["rm", "registry:note", "gone"]).expect_code(0);
    one.run(&["put", "skill", "s", r#"{"id":"s"}"#]).expect_code(0);
    one.run(&["event", "conversation", "c", r#"{"conversation_id":"c"}"#]).expect_code(0);
    one.run(&["event", "conversation", "d", "[]"]).expect_code(0);

    let exported = one.run(&["export"]).expect_code(0);
    two.run_with(&["import", "-"], exported.stdout.as_bytes()).expect_code(0);

    assert_eq!(two.run(&["export"]).expect_code(0).stdout, exported.stdout);
    assert_eq!(exported.stdout.lines().count(), 5);
    assert_eq!(one.run(&["export", "skill"]).stdout.lines().count(), 1);
}

#[test]
fn a_second_node_on_one_home_is_told_who_has_it() {
    let home = Home::init("a");
    let daemon = home.up(&[]);

    let second = home.run(&["up", "--no-mdns"]).expect_code(75);

    second.says(&format!("another kinfold works on this home (process {})", daemon.pid()));
}

#[test]
fn commands_reach_the_running_node_and_a_clean_stop_leaves_no_socket() {
    let home = Home::init("a");
    let daemon = home.up(&[]);

    home.run(&["put", "registry:note", "n", "7"]).expect_code(0);
    let status = home.json(&["status"]);

    assert_eq!(status["pid"], daemon.pid());
    assert_eq!(status["listening"].as_str(), Some(daemon.listening.as_str()));
    assert_eq!(status["rows"], 1);
    assert_eq!(daemon.terminate(), 0);
    assert!(!home.path().join("control.sock").exists());
    assert_eq!(home.run(&["get", "registry:note", "n"]).expect_code(0).stdout, "7\n");
}

#[test]
fn a_killed_node_leaves_nothing_in_the_way() {
    let home = Home::init("a");
    let daemon = home.up(&[]);
    home.run(&["put", "registry:note", "n", "7"]).expect_code(0);
    daemon.kill();
    assert!(home.path().join("control.sock").exists());

    assert_eq!(home.run(&["get", "registry:note", "n"]).expect_code(0).stdout, "7\n");
    let daemon = home.up(&[]);

    assert_eq!(home.json(&["status"])["pid"], daemon.pid());
}

#[test]
fn a_home_that_cannot_be_written_is_a_clear_error() {
    let id = Command::new("id").arg("-u").output().expect("id can be run");
    if String::from_utf8_lossy(&id.stdout).trim() == "0" {
        println!("skipped: root writes everywhere");
        return;
    }
    let home = Home::init("a");
    let set = |mode: &str| Command::new("chmod").args(["-R", mode]).arg(home.path()).status().unwrap();
    set("a-w");

    let ended = home.run(&["put", "registry:note", "a", "1"]);

    set("u+w");
    ended.expect_code(1).says("hint: make the directory writable");
}

#[test]
fn two_nodes_end_with_one_state() {
    let (one, two) = (Home::init("one"), Home::init("two"));
    one.run(&["put", "registry:note", "before", "1"]).expect_code(0);
    let first = one.up(&[]);
    let second = two.up(&["--peer", &first.listening]);
    pair(&one, &two);

    two.run(&["put", "registry:note", "after", "2"]).expect_code(0);
    let held = one.json(&["wait", "--on", "1", "--timeout", "100s"]);
    two.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);

    assert_eq!(held["holders"][0], second.device);
    assert_eq!(two.run(&["get", "registry:note", "before"]).expect_code(0).stdout, "1\n");
    assert_eq!(one.run(&["get", "registry:note", "after"]).expect_code(0).stdout, "2\n");
    let (here, there) = (one.json(&["status"]), two.json(&["status"]));
    assert_eq!(here["state_hash"], there["state_hash"]);
    assert_eq!(here["peers"][0]["connected"], true);
    assert_eq!(here["peers"][0]["behind_by"], 0);
    one.run(&["safe-to-sleep"]).expect_code(0);
    let round = one.json(&["sync"]);
    assert_eq!(round["state_hash"], here["state_hash"]);
}

#[test]
fn writes_at_the_same_time_are_a_conflict_that_both_list_and_a_write_settles() {
    let (one, two) = (Home::init("one"), Home::init("two"));
    pair(&one, &two);
    one.run(&["put", "registry:note", "n", "\"one\""]).expect_code(0);
    two.run(&["put", "registry:note", "n", "\"two\""]).expect_code(0);

    let first = one.up(&[]);
    let _second = two.up(&["--peer", &first.listening]);
    one.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    two.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);

    let listed = one.json(&["conflicts"]);
    assert_eq!(listed["conflicts"][0]["others"].as_array().unwrap().len(), 1);
    assert_eq!(listed, two.json(&["conflicts"]));
    one.run(&["conflicts", "show", "registry:note", "n"]).expect_code(0).says("settles it");
    one.run(&["put", "registry:note", "n", "\"both\""]).expect_code(0);
    one.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    assert_eq!(two.json(&["conflicts"])["conflicts"].as_array().unwrap().len(), 0);
    assert_eq!(two.run(&["get", "registry:note", "n"]).stdout, "\"both\"\n");
}

#[test]
fn waiting_in_vain_says_to_try_again_later() {
    let home = Home::init("a");
    home.run(&["put", "registry:note", "n", "1"]).expect_code(0);
    let _daemon = home.up(&[]);

    home.run(&["wait", "--on", "1", "--timeout", "10ms"])
        .expect_code(75)
        .says("no other device belongs to the personal space so far")
        .says("not within the time");
    home.run(&["wait", "--on", "0"]).expect_code(2);
    home.run(&["safe-to-sleep"]).expect_code(75).says("not safe: this is the only device");
    home.run(&["wait", "--on", "1", "--op", "abc"]).expect_code(1).says("op_id is not readable");
    home.run(&["wait", "--on", "1", "--op", &"0".repeat(64)]).expect_code(1).says("no op with this id");
}

#[test]
fn a_watcher_hears_of_changes() {
    let home = Home::init("a");
    let _daemon = home.up(&[]);
    let (mut watch, changes) = watch(&home);

    home.run(&["put", "registry:other", "x", "1"]).expect_code(0);
    home.run(&["put", "registry:note", "n", "1.0"]).expect_code(0);
    let change = changes.recv_timeout(PATIENCE).unwrap();
    signal(watch.id(), "INT");

    assert!(change.ends_with("registry:note n 1.0"), "{change}");
    assert_eq!(watch.wait().unwrap().code(), Some(0));
}

#[test]
fn a_watcher_goes_on_when_its_device_joins_the_space_of_another() {
    let (one, two) = (Home::init("one"), Home::init("two"));
    let (_first, second) = (one.up(&[]), two.up(&[]));
    let (mut watch_one, changes_one) = watch(&one);
    let (mut watch_two, changes_two) = watch(&two);
    pair(&one, &two);
    let address = json!({ "address": second.listening });
    assert!(Caller::connect(&one).call("peers.add", address)["result"].is_object());
    one.run(&["put", "registry:note", "n", "1"]).expect_code(0);
    one.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    two.run(&["put", "registry:note", "n", "2"]).expect_code(0);
    two.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);

    for changes in [changes_one, changes_two] {
        let values: Vec<char> =
            (0..2).filter_map(|_| changes.recv_timeout(PATIENCE).unwrap().chars().last()).collect();
        assert_eq!(values, ['1', '2']);
    }
    for watch in [&mut watch_one, &mut watch_two] {
        signal(watch.id(), "TERM");
        assert_eq!(watch.wait().unwrap().code(), Some(0));
    }
}

/// Starts `kinfold watch` and returns once it listens.
fn watch(home: &Home) -> (Child, mpsc::Receiver<String>) {
    let mut watch = command(&home.path())
        .args(["watch", "registry:note"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be started");
    let notes = lines(watch.stderr.take().expect("a pipe was asked for"));
    let changes = lines(watch.stdout.take().expect("a pipe was asked for"));
    assert!(notes.recv_timeout(PATIENCE).expect("it says that it watches").starts_with("watching"));
    (watch, changes)
}

#[test]
fn output_nobody_reads_is_no_error() {
    let home = Home::init("a");
    let rows: String = (0..5_000)
        .map(|n| {
            format!(
                "{{\"surface\":\"registry:note\",\"payload\":{{\"id\":\"{n:05}\",\"x\":\"{n:0100}\"}}}}\n"
            )
        })
        .collect();
    home.run_with(&["import", "-"], rows.as_bytes()).expect_code(0);
    let mut export = command(&home.path());
    let mut export = export
        .arg("export")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be started");

    drop(export.stdout.take());
    let ended = export.wait_with_output().unwrap();

    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    assert_eq!(ended.status.code(), Some(0));
}

#[test]
fn a_demo_of_generated_rows_ends_with_equal_roots() {
    let home = Home::empty();

    let shown = home.json(&["demo", "--ops", "2000"]);

    assert_eq!(shown["equal"], true);
    assert_eq!(shown["ops"], 2000);
    assert_eq!(shown["conflicts"], 0);
}

#[test]
fn a_demo_of_a_linear_history_ends_with_the_tree_of_its_last_commit() {
    let repository = tempfile::tempdir().unwrap();
    let git = |author: &str, arguments: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(repository.path()).args(arguments);
        for (name, value) in [("NAME", author), ("EMAIL", "a@example.org")] {
            command.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
        }
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if !git("a", &["init"]) {
        println!("skipped: git is not installed");
        return;
    }
    for number in 0..12 {
        let file = repository.path().join(format!("file {}", number % 4));
        if number % 5 == 4 && file.exists() {
            std::fs::remove_file(&file).unwrap();
        } else {
            std::fs::write(&file, number.to_string()).unwrap();
        }
        assert!(git("a", &["add", "--all"]));
        assert!(git(&format!("author {}", number % 3), &["commit", "--message", "change ü"]));
    }
    let home = Home::empty();

    let shown = home.json(&["demo", "--git", repository.path().to_str().unwrap()]);

    assert_eq!(shown["equal"], true);
    assert_eq!(shown["tree"]["differing"], 0, "{shown}");
    assert_eq!(shown["conflicts"], 0);
    assert!(shown["tree"]["files"].as_u64().unwrap() > 0);
}

#[test]
fn a_demo_without_a_repository_says_so() {
    let home = Home::empty();
    let nowhere = tempfile::tempdir().unwrap();

    let mut demo = command(&home.path());
    demo.args(["demo", "--git"]).arg(nowhere.path()).env("GIT_CEILING_DIRECTORIES", "/");

    run(&mut demo, b"").expect_code(1).says("hint: ");
}
