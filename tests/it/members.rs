//! Who is in a space: programs of several people and devices, each in a process of its own.

use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kinfold::model::Scope;
use kinfold::node::Node;
use kinfold::roster::Role;
use serde_json::{Value, json};

use crate::kin::{Caller, Daemon, Home, PATIENCE, command};

#[test]
fn a_revoked_device_is_cut_off_at_once_and_for_good() {
    let (one, two) = (Home::init("one"), Home::init("two"));
    enrol(&one, &two, &Scope::Personal, "two", Role::Admin);
    two.run(&["put", "registry:note", "before", "1"]).expect_code(0);
    let first = one.up(&[]);
    let (second, log) = logged(&two, &first);
    two.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    one.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);

    let mut caller = Caller::connect(&one);
    let begun = Instant::now();
    caller.send(br#"{"id":1,"method":"roster.revoke","params":{"device":"two"}}"#);
    until_line(&log, "disconnected");
    let closed_after = begun.elapsed();
    let revoked = caller.next()["result"].clone();

    assert!(closed_after < CLOSED_WITHIN, "{closed_after:?}");
    assert_eq!(revoked["connections_closed"], 1, "{revoked}");
    assert_eq!((&revoked["ops_kept"], &revoked["new_key"]), (&json!(1), &json!(true)), "{revoked}");
    assert_eq!((&revoked["accepted_by"], &revoked["remains_in"]), (&json!([]), &json!([])), "{revoked}");
    assert_eq!(one.run(&["get", "registry:note", "before"]).expect_code(0).stdout, "1\n");
    let removed = one.json(&["devices"])["removed"][0].clone();
    assert_eq!((&removed["device_id"], &removed["by"]), (&json!(second.device), &json!(first.device)));

    // It knows, says so, and writes no more.
    two.run(&["put", "registry:note", "after", "2"]).expect_code(1).says("may not write in the space");
    let status = two.run(&["status"]).expect_code(0);
    let sentence =
        format!("this device was removed from the personal space by one ({})", short(&first.device));
    assert!(status.stdout.contains(&sentence), "{status:?}");
    assert_eq!(two.json(&["status"])["health"]["reasons"][0]["kind"], "RemovedHere");

    // A new process of it gets no further than the handshake.
    assert_eq!(second.terminate(), 0);
    let (_second, log) = logged(&two, &first);
    until_line(&log, "no connection");
    assert_eq!(two.json(&["status"])["peers"][0]["connected"], false);
    assert_eq!(one.json(&["status"])["peers"], json!([]));
}

#[test]
fn an_organisation_shows_nothing_of_the_people_who_share_it() {
    let (ada, bob) = (Home::init("ada"), Home::init("bob"));
    ada.run(&["space", "create", "acme"]).expect_code(0);
    enrol(&ada, &bob, &Scope::Shared("acme".into()), "bob", Role::Member);
    ada.run(&["put", "registry:note", "diary", "\"ada\""]).expect_code(0);
    bob.run(&["put", "registry:note", "diary", "\"bob\""]).expect_code(0);
    bob.run(&["--space", "acme", "put", "registry:note", "plan", "1"]).expect_code(0);
    ada.run(&["put", "knowledge", "k", "2", "--space", "acme"]).expect_code(0);
    let first = ada.up(&[]);
    let second = bob.up(&["--peer", &first.listening]);

    for home in [&ada, &bob] {
        home.run(&["--space", "acme", "wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    }

    assert_eq!(ada.run(&["--space", "acme", "get", "registry:note", "plan"]).expect_code(0).stdout, "1\n");
    assert_eq!(bob.run(&["--space", "acme", "get", "knowledge", "k"]).expect_code(0).stdout, "2\n");
    bob.run(&["--space", "acme", "get", "registry:note", "diary"]).expect_code(1);
    assert_eq!(bob.run(&["get", "registry:note", "diary"]).expect_code(0).stdout, "\"bob\"\n");
    let (here, there) = (ada.json(&["--space", "acme", "status"]), bob.json(&["--space", "acme", "status"]));
    assert_eq!(here["state_hash"], there["state_hash"]);
    assert_eq!(here["scope"], json!({"org": "acme"}));
    assert_ne!(ada.json(&["status"])["state_hash"], bob.json(&["status"])["state_hash"]);
    assert_ne!(ada.json(&["status"])["state_hash"], here["state_hash"]);
    for (home, other) in [(&ada, &second.device), (&bob, &first.device)] {
        let personal = home.json(&["status"]);
        assert_eq!(personal["peers"], json!([]));
        let logs: Vec<&String> = personal["journal_frontier"].as_object().unwrap().keys().collect();
        assert!(logs.iter().all(|log| !log.starts_with(other.as_str())), "{logs:?}");
        home.run(&["--space", "acme", "safe-to-sleep"]).expect_code(0);
        home.run(&["safe-to-sleep"]).expect_code(75);
    }
    let exported = ada.run(&["--space", "acme", "export"]).expect_code(0).stdout;
    assert!(exported.lines().count() == 2 && exported.contains(r#""scope":{"org":"acme"}"#), "{exported}");
    let listed = bob.json(&["space", "list"]);
    let roles: Vec<(&Value, &Value)> =
        listed["spaces"].as_array().unwrap().iter().map(|space| (&space["scope"], &space["role"])).collect();
    assert_eq!(roles, [(&json!("personal"), &json!("admin")), (&json!({"org": "acme"}), &json!("member"))]);
}

#[test]
fn a_device_that_leaves_an_organisation_is_gone_for_the_others_too() {
    let (ada, bob) = (Home::init("ada"), Home::init("bob"));
    ada.run(&["space", "create", "acme", "--device-name", "ada's"]).expect_code(0);
    enrol(&ada, &bob, &Scope::Shared("acme".into()), "bob", Role::Member);
    bob.run(&["--space", "acme", "put", "registry:note", "plan", "1"]).expect_code(0);

    ada.run(&["space", "leave", "acme", "--yes", "acme"]).expect_code(1).says("is the last admin");
    bob.run(&["space", "leave", "acme"]).expect_code(1).says("leaving the space of acme").says("--yes acme");
    bob.run(&["space", "leave", "acme", "--yes", "Acme"]).expect_code(1).says("nothing was changed");
    bob.run(&["space", "leave", "personal", "--yes", "personal"]).expect_code(1).says("does not leave its");
    bob.run(&["space", "leave", "nowhere", "--yes", "nowhere"]).expect_code(1).says("`kinfold space list`");
    bob.run(&["space", "leave", "acme", "--yes", "acme"]).expect_code(0).says("the others hear of it");
    bob.run(&["space", "leave", "acme", "--yes", "acme"]).expect_code(0);
    assert_eq!(bob.json(&["space", "list"])["spaces"][1]["leaving"], true);
    bob.run(&["--space", "acme", "put", "registry:note", "plan", "2"]).expect_code(1);

    let first = ada.up(&[]);
    let mut told = Caller::connect(&ada);
    let _second = bob.up(&["--peer", &first.listening]);
    until(&mut told, "roster.list", json!({"scope": {"org": "acme"}}), |roster| {
        roster["removed"].as_array().unwrap().len() == 1
    });
    let mut gone = Caller::connect(&bob);
    until(&mut gone, "space.list", json!({}), |spaces| spaces["spaces"].as_array().unwrap().len() == 1);

    bob.run(&["--space", "acme", "status"]).expect_code(1).says("`kinfold space list`");
    let roster = ada.json(&["--space", "acme", "devices"]);
    assert_eq!(roster["devices"].as_array().unwrap().len(), 1);
    assert_eq!(roster["removed"][0]["by"], roster["removed"][0]["device_id"]);
    // Alone, the last admin may go, and begin another space of that name.
    assert_eq!(ada.json(&["space", "leave", "acme", "--yes", "acme"])["told"], true);
    assert_eq!(ada.json(&["space", "create", "acme"])["devices"], 1);
}

#[test]
fn a_device_that_was_removed_from_an_organisation_puts_it_away() {
    let (ada, bob) = (Home::init("ada"), Home::init("bob"));
    ada.run(&["space", "create", "acme"]).expect_code(0);
    enrol(&ada, &bob, &Scope::Shared("acme".into()), "bob", Role::Member);
    let first = ada.up(&[]);
    let _second = bob.up(&["--peer", &first.listening]);
    ada.run(&["--space", "acme", "wait", "--on", "1", "--timeout", "100s"]).expect_code(0);

    ada.run(&["--space", "acme", "revoke", "bob", "--yes", "bob"]).expect_code(0);
    let mut caller = Caller::connect(&bob);
    until(&mut caller, "health.get", json!({"scope": {"org": "acme"}}), |health| {
        health["reasons"][0]["kind"] == "RemovedHere"
    });
    let listed = bob.run(&["space"]).expect_code(0).stdout;
    let left = bob.json(&["space", "leave", "acme", "--yes", "acme"]);

    assert!(listed.contains("acme") && listed.contains("removed"), "{listed}");
    assert_eq!(left["told"], true);
    assert_eq!(bob.json(&["space", "list"])["spaces"].as_array().unwrap().len(), 1);
}

#[test]
fn a_new_name_is_seen_on_the_other_device() {
    let (one, two) = (Home::init("one"), Home::init("two"));
    enrol(&one, &two, &Scope::Personal, "two", Role::Member);
    let first = one.up(&[]);
    let _second = two.up(&["--peer", &first.listening]);

    two.run(&["rename", "two", "Zwei ü"]).expect_code(0);
    let mut caller = Caller::connect(&one);
    until(&mut caller, "roster.list", json!({}), |roster| {
        roster["devices"].as_array().unwrap().iter().any(|device| device["name"] == "Zwei ü")
    });

    one.run(&["rename", "Zwei ü", "two"]).expect_code(0);
    one.run(&["rename", "two", ""]).expect_code(1).says("a device name has 1 to");
    one.run(&["rename", "two", "\u{1b}[2J"]).expect_code(1).says("no control characters");
    two.run(&["rename", "one", "x"]).expect_code(1).says("is no admin").says("`kinfold devices` shows who");
}

#[test]
fn what_cannot_be_undone_takes_the_exact_name_of_one_device() {
    let home = Home::init("one");
    let others = [Home::init("x"), Home::init("y"), Home::init("z")];
    for (other, name) in others.iter().zip(["phone", "phone", "old tablet"]) {
        enrol(&home, other, &Scope::Personal, name, Role::Member);
    }
    let id = |home: &Home| home.json(&["devices", "id"])["device_id"].as_str().unwrap().to_owned();
    let (phone, own) = (id(&others[0]), id(&home));
    let kind = |arguments: &[&str]| {
        let all: Vec<&str> = ["--json"].iter().chain(arguments).copied().collect();
        let refused = home.run(&all).expect_code(1);
        serde_json::from_str::<Value>(&refused.stderr).unwrap()["error"]["data"].clone()
    };

    let ambiguous = kind(&["revoke", "phone", "--yes", "phone"]);
    assert_eq!(ambiguous["kind"], "AmbiguousDevice");
    assert_eq!(ambiguous["candidates"].as_array().unwrap().len(), 2);
    assert_eq!(kind(&["revoke", "Phone", "--yes", "Phone"])["kind"], "UnknownDevice");
    home.run(&["revoke", "Phone", "--yes", "Phone"]).expect_code(1).says("there are: ").says("old tablet (");
    home.run(&["revoke", "old tablet"]).expect_code(1).says("hint: add --yes 'old tablet'");
    home.run(&["revoke", &short(&phone), "--yes", "Phone"]).expect_code(1).says("\"Phone\" is not \"phone\"");
    assert_eq!(kind(&["revoke", &phone])["hint"], "add --yes phone");
    assert_eq!(home.json(&["devices"])["removed"], json!([]));

    let done = home.run(&["revoke", &short(&phone), "--yes", "phone"]).expect_code(0);
    assert!(done.stdout.contains("it was not connected to this device"), "{done:?}");
    assert!(done.stdout.contains("kept of it: 0 ops"), "{done:?}");
    assert!(done.stdout.contains("under a new key"), "{done:?}");
    assert!(done.stdout.contains("not heard yet, and may accept it until then: "), "{done:?}");
    // The name is unambiguous now.
    let daemon = home.up(&[]);
    home.run(&["retire", "old tablet", "--yes", "old tablet"]).expect_code(75).says("is not connected");
    assert_eq!(daemon.terminate(), 0);
    home.run(&["revoke", "phone", "--yes", "phone"]).expect_code(0);
    assert_eq!(kind(&["revoke", &phone, "--yes", "phone"])["kind"], "AlreadyRemoved");
    assert_eq!(kind(&["revoke", &own, "--yes", "one"])["kind"], "OwnDevice");
    let listed = home.run(&["devices"]).expect_code(0).says("has not been connected since");
    assert!(listed.stdout.contains("REMOVED") && listed.stdout.contains("old tablet"), "{listed:?}");
    assert_eq!(home.json(&["rotate"])["epoch"], 3);
}

#[test]
fn a_member_cannot_remove_others_nor_renew_the_key() {
    let (one, two) = (Home::init("one"), Home::init("two"));
    enrol(&one, &two, &Scope::Personal, "two", Role::Member);

    two.run(&["revoke", "one", "--yes", "one"]).expect_code(1).says("is no admin of this space; ask one of");
    two.run(&["retire", "one", "--yes", "one"]).expect_code(1).says("is no admin");
    two.run(&["rotate"]).expect_code(1).says("is no admin");

    assert_eq!(two.json(&["devices"])["removed"], json!([]));
}

#[test]
fn a_device_that_is_retired_leaves_nothing_behind() {
    let (one, two) = (Home::init("one"), Home::init("two"));
    enrol(&one, &two, &Scope::Personal, "two", Role::Member);
    let second = two.up(&[]);
    two.run(&["put", "registry:note", "last words", "1"]).expect_code(0);
    let first = one.up(&["--peer", &second.listening]);
    one.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    two.run(&["put", "registry:note", "last words", "2"]).expect_code(0);

    let retired = one.json(&["retire", "two", "--yes", "two"]);

    assert_eq!((&retired["ops_kept"], &retired["new_key"]), (&json!(2), &json!(true)));
    assert_eq!(one.run(&["get", "registry:note", "last words"]).expect_code(0).stdout, "2\n");
    assert_eq!(first.terminate(), 0);
}

/// Hands an invitation over as a pairing does, without the channel. Neither home may be in use.
pub fn enrol(by: &Home, joiner: &Home, scope: &Scope, name: &str, role: Role) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(async {
        let (host, guest) = (open(by).await, open(joiner).await);
        let space = host.space(scope).await.expect("it takes part");
        let welcome = space.enrol(guest.device(), name, role).await.expect("it may enrol");
        guest.adopt(welcome).await.expect("it may join");
        host.stop().await.expect("it stops");
        guest.stop().await.expect("it stops");
    });
}

async fn open(home: &Home) -> Node {
    Node::builder(home.path()).without_mdns().open().await.expect("the home is not in use")
}

/// A node that dials another one and tells what happens to its connections.
fn logged(home: &Home, peer: &Daemon) -> (Daemon, mpsc::Receiver<String>) {
    let mut up = command(&home.path());
    up.args(["--json", "up", "--listen", "127.0.0.1:0", "--no-mdns", "--peer", &peer.listening]);
    up.env("KINFOLD_LOG", "kinfold=debug").stderr(Stdio::piped());
    let mut daemon = Daemon::start(&mut up);
    let log = daemon.log();
    (daemon, log)
}

fn until_line(log: &mpsc::Receiver<String>, words: &str) {
    while !log.recv_timeout(PATIENCE).expect("the node says it").contains(words) {}
}

/// Asks again after each round of sync until the answer is as expected.
fn until(caller: &mut Caller, method: &str, params: Value, is_it: impl Fn(&Value) -> bool) {
    let begun = Instant::now();
    loop {
        let answer = caller.call(method, params.clone());
        if is_it(&answer["result"]) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{answer}");
        caller.call("sync.pump", json!({}));
    }
}

/// The first seven characters of an id.
fn short(device: &str) -> String {
    device[..7].to_owned()
}

/// What is promised for the live connections of a removed device.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);
