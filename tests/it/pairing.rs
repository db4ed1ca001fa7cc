//! Pairing as people and programs use it.

use std::process::{Child, Stdio};
use std::sync::mpsc::Receiver;

use serde_json::{Value, json};

use crate::kin::{Caller, Home, PATIENCE, command, lines, pair, pair_as, signal};

#[test]
fn a_typed_code_makes_two_devices_one_and_both_screens_show_the_same() {
    let (laptop, desk) = (Home::init("laptop"), Home::empty());
    let _laptop = laptop.up(&[]);
    laptop.run(&["put", "registry:note", "n", "1"]).expect_code(0);
    let inviting = Inviting::begin(&laptop);

    // Made by the join itself.
    let joined = desk
        .run(&["join", &inviting.code.to_lowercase(), "--name", "desk", "--peer", &inviting.address])
        .expect_code(0)
        .says("made desk in");

    let events = inviting.events(0);
    assert_eq!(events[0]["event"], "enrolled");
    assert_eq!(events[0]["name"], "desk");
    assert_eq!(events[1]["event"], "paired");
    assert_eq!(events[1]["receipted"], true);
    let phrase = events[1]["phrase"].as_str().unwrap();
    assert!(joined.stdout.contains("joined the personal space of laptop"), "{joined:?}");
    assert!(joined.stdout.ends_with(&format!("both screens show: {phrase}\n")), "{joined:?}");
    let roles = laptop.json(&["devices"])["devices"].clone();
    assert_eq!((&roles[1]["name"], &roles[1]["role"]), (&json!("desk"), &json!("admin")));

    let _desk = desk.up(&[]);
    let address = desk.json(&["status"])["listening"].clone();
    assert!(Caller::connect(&laptop).call("peers.add", json!({"address": address}))["result"].is_object());
    desk.run(&["put", "registry:note", "back", "2"]).expect_code(0);
    desk.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    laptop.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    assert_eq!(desk.run(&["get", "registry:note", "n"]).stdout, "1\n");
    assert_eq!(laptop.run(&["get", "registry:note", "back"]).stdout, "2\n");
}

#[test]
fn running_nodes_connect_as_soon_as_they_are_paired() {
    let (one, two) = (Home::init("one"), Home::init("two"));
    let (_one, _two) = (one.up(&[]), two.up(&[]));

    // Neither knows where the other listens but through the pairing.
    pair(&one, &two);
    two.run(&["put", "registry:note", "n", "1"]).expect_code(0);
    two.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);

    assert_eq!(one.run(&["get", "registry:note", "n"]).stdout, "1\n");
}

#[test]
fn a_link_is_as_good_as_a_code() {
    let (one, two) = (Home::init("one"), Home::init("two"));
    let (_one, _two) = (one.up(&[]), two.up(&[]));
    let inviting = Inviting::begin(&one);

    let joined = two.json(&["join", &inviting.uri]);

    assert_eq!(joined["name"], "one");
    assert_eq!(joined["role"], "admin");
    assert_eq!(joined["scope"], "personal");
    let last = inviting.events(0).pop().unwrap();
    assert_eq!((&last["event"], &last["phrase"]), (&json!("paired"), &joined["phrase"]));
    assert_eq!(one.json(&["status"])["space"], joined["space"]);
}

#[test]
fn a_wrong_code_is_refused_in_plain_words_on_both_screens() {
    let (one, two) = (Home::init("one"), Home::init("two"));
    let (_one, _two) = (one.up(&[]), two.up(&[]));
    let inviting = Inviting::begin(&one);
    let last = if inviting.code.ends_with('0') { "1" } else { "0" };
    let wrong = format!("{}{last}", &inviting.code[..10]);
    let join = |code: &str| two.run(&["join", code, "--peer", &inviting.address]);

    for left in [2, 1] {
        join(&wrong).expect_code(1).says("does not accept the code").says("hint: compare the code");
        assert_eq!(inviting.next(), json!({"event": "attempt_failed", "attempts_left": left}));
    }
    join(&wrong).expect_code(1);

    let events = inviting.events(1);
    assert_eq!(events[0]["attempts_left"], 0);
    assert_eq!((&events[1]["event"], &events[1]["reason"]), (&json!("ended"), &json!("Burnt")));
    assert_eq!(one.json(&["devices"])["devices"].as_array().unwrap().len(), 1);
}

#[test]
fn what_is_no_code_makes_no_home() {
    let home = Home::empty();

    home.run(&["join", "7QK-014"]).expect_code(1).says("9 letters and digits, this one has 6").says("hint:");
    home.run(&["join", "7QK-014-XYU"]).expect_code(1).says("'U' does not occur in a code");
    home.run(&["join", "kinfold:1?i=7Q"]).expect_code(1).says("copy the whole link");

    assert!(!home.path().exists());
}

#[test]
fn an_invite_is_withdrawn_by_ctrl_c_by_a_program_and_with_its_connection() {
    let home = Home::init("a");
    let _daemon = home.up(&[]);
    let inviting = Inviting::begin(&home);
    home.run(&["invite"]).expect_code(1).says("an invite is open already");
    signal(inviting.process.id(), "INT");
    assert_eq!(inviting.events(1), [] as [Value; 0]);

    let mut caller = Caller::connect(&home);
    assert!(caller.call("pair.invite", json!({}))["result"]["code"].is_string());
    let mut other = Caller::connect(&home);
    assert_eq!(other.call("pair.cancel", json!({}))["result"]["cancelled"], true);
    let told = caller.next();
    assert_eq!((&told["method"], &told["params"]["reason"]), (&json!("pair.event"), &json!("Withdrawn")));
    assert_eq!(other.call("pair.cancel", json!({}))["result"]["cancelled"], false);

    assert!(caller.call("pair.invite", json!({}))["result"]["code"].is_string());
    drop(caller);
    // The node notices the end of a connection by itself; until then the invite is open.
    while other.call("pair.invite", json!({}))["error"]["data"]["kind"] == "InviteOpen" {}
}

#[test]
fn an_invite_expires() {
    let home = Home::init("a");
    let _daemon = home.up(&[]);
    let mut caller = Caller::connect(&home);

    let invite = caller.call("pair.invite", json!({"ttl_ms": 20}));
    let ended = caller.next();

    assert_eq!(invite["result"]["expires_in_ms"], 20);
    assert_eq!(ended["params"]["reason"], "Expired");
    assert_eq!(ended["params"]["message"], "the invite has expired; make a new one");
}

#[test]
fn a_device_does_not_join_itself() {
    let home = Home::init("a");
    let _daemon = home.up(&[]);
    let inviting = Inviting::begin(&home);

    home.run(&["join", &inviting.uri]).expect_code(1).says("this device's own");
}

#[test]
fn only_an_admin_invites_and_roles_are_what_was_granted() {
    let (one, two, three) = (Home::init("one"), Home::init("two"), Home::init("three"));
    let (_one, _two, _three) = (one.up(&[]), two.up(&[]), three.up(&[]));

    pair_as(&one, &two, "member");
    pair_as(&one, &three, "blind");

    for (home, role) in [(&two, "member"), (&three, "blind")] {
        let refused = home.run(&["invite"]).expect_code(1);
        refused.says(&format!("only an admin of the space adds devices, this device is a {role} there"));
    }
    let devices = one.json(&["devices"])["devices"].clone();
    let roles: Vec<&Value> = devices.as_array().unwrap().iter().map(|device| &device["role"]).collect();
    assert_eq!(roles, ["admin", "blind", "member"], "{devices}");
}

/// `kinfold --json invite` beside a running node.
struct Inviting {
    code: String,
    uri: String,
    address: String,
    lines: Receiver<String>,
    process: Child,
}

impl Inviting {
    fn begin(home: &Home) -> Self {
        let mut process = command(&home.path())
            .args(["--json", "invite"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program can be started");
        let lines = lines(process.stdout.take().expect("a pipe was asked for"));
        let form: Value = serde_json::from_str(&lines.recv_timeout(PATIENCE).expect("it is shown")).unwrap();
        let text = |value: &Value| value.as_str().expect("it is text").to_owned();
        let (code, uri) = (text(&form["code"]), text(&form["uri"]));
        Self { code, uri, address: text(&form["addresses"][0]), lines, process }
    }

    fn next(&self) -> Value {
        serde_json::from_str(&self.lines.recv_timeout(PATIENCE).expect("something happens")).unwrap()
    }

    /// What it tells until it ends with this code.
    fn events(mut self, code: i32) -> Vec<Value> {
        let mut events = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            events.push(serde_json::from_str(&line).unwrap());
        }
        assert_eq!(self.process.wait().expect("it is our child").code(), Some(code), "{events:?}");
        events
    }
}

impl Drop for Inviting {
    fn drop(&mut self) {
        // One that has ended is no error.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
