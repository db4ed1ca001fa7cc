//! What each method refuses of a request that has the right kinds: names that are none, too much, too
//! little, what is not there. The wrong kinds are tried in `rpc`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::kin::{Caller, Home};

/// A request and the kind of its refusal.
type Case = (&'static str, Value, &'static str);

/// One byte more than a key may have.
fn long_key() -> String {
    "k".repeat(1_025)
}

/// More than a payload may have.
fn long_text() -> String {
    "x".repeat(70_000)
}

fn rows() -> Vec<Case> {
    let note = "registry:note";
    let op = |key: &str, payload: Value| json!({"surface": note, "key": key, "payload": payload});
    let many: Vec<Value> = (0..10_001).map(|_| op("k", json!(1))).collect();
    let nothing = "0".repeat(64);
    vec![
        ("sync.append", json!({"surface": "nowhere", "payload": 1}), "UnknownSurface"),
        ("sync.append", json!({"surface": "registry:!", "key": "k", "payload": 1}), "RegistryKind"),
        ("sync.append", json!({"surface": note, "payload": 1}), "IdMissing"),
        ("sync.append", op("", json!(1)), "KeyLength"),
        ("sync.append", op(&long_key(), json!(1)), "KeyLength"),
        ("sync.append", op("k", json!(long_text())), "TooLong"),
        ("sync.append", json!({"surface": note, "key": "k", "stream": "s", "payload": 1}), "MisplacedMember"),
        ("sync.append", json!({"surface": "routing", "stream": long_key(), "payload": 1}), "KeyLength"),
        ("sync.append_many", json!({ "ops": many }), "TooManyOps"),
        ("sync.append_many", json!({"ops": [op("k", json!(1)), op(&long_key(), json!(1))]}), "KeyLength"),
        ("sync.delete", json!({"surface": note, "id": long_key()}), "KeyLength"),
        ("sync.delete", json!({"surface": "skill", "id": "k"}), "WrongTier"),
        ("sync.get", json!({"surface": "", "id": "k"}), "UnknownSurface"),
        ("sync.list", json!({"surface": "intent"}), "LedgerSurface"),
        ("sync.list", json!({"surface": note, "stream": "s"}), "MisplacedMember"),
        ("sync.list", json!({"surface": "routing", "after": "x"}), "BadCursor"),
        ("sync.list", json!({"surface": note, "limit": 1_001}), "PageLimit"),
        ("sync.subscribe", json!({"surface": long_text()}), "UnknownSurface"),
        ("sync.pump", json!({"peers": ["nobody"]}), "UnknownDevice"),
        ("sync.pump", json!({"peers": vec!["a"; 1_000]}), "TooManyPeers"),
        ("sync.wait", json!({"on": 1, "op_id": "x"}), "BadId"),
        ("sync.wait", json!({"on": 1, "op_id": nothing}), "UnknownOp"),
        ("sync.wait", json!({"on": u32::MAX, "timeout_ms": 0}), "TimedOut"),
        ("sync.op", json!({}), "OpNotNamed"),
        ("sync.op", json!({"op_id": nothing, "place": "x"}), "OpNotNamed"),
        ("sync.op", json!({"op_id": nothing}), "UnknownOp"),
        ("sync.op", json!({"place": "x"}), "BadPlace"),
        ("gc.run", json!({"now": true}), "GcHeld"),
        ("sync.state_at", json!({"frontier": long_text()}), "BadFrontier"),
        ("sync.state_at", json!({"frontier": "none", "time_ms": 1}), "MomentNotNamed"),
        ("conflicts.list", json!({"of": {"surface": "nowhere", "id": "k"}}), "UnknownSurface"),
        ("conflicts.list", json!({"limit": 0}), "PageLimit"),
        ("conflicts.log", json!({"surface": note}), "HalfARow"),
        ("conflicts.log", json!({"after": "x"}), "BadCursor"),
        ("conflicts.resolve", json!({"surface": note, "id": "k"}), "Choices"),
        ("conflicts.resolve", json!({"surface": note, "id": "k", "payload": long_text()}), "TooLong"),
        ("conflicts.resolve", json!({"surface": note, "id": "k", "take": "x"}), "BadId"),
        ("conflicts.resolve", json!({"surface": note, "id": long_key(), "delete": true}), "NoConflict"),
        ("conflicts.resolve", json!({"surface": "skill", "id": "k", "delete": true}), "ChoiceMisfit"),
    ]
}

fn kept() -> Vec<Case> {
    let policy = |surface: &str, policy: Value| json!({"surface": surface, "policy": policy});
    let written =
        |key: &str, payload: Value| json!({"surface": "registry:policy", "key": key, "payload": payload});
    vec![
        ("policy.set", json!({"surface": "run"}), "InvalidParams"),
        ("policy.set", policy("nowhere", Value::Null), "UnknownSurface"),
        ("policy.set", policy("routing", json!({"last_n": 1})), "KeptWhole"),
        ("policy.set", policy("intent", json!({"last_n": 1})), "KeptWhole"),
        ("policy.set", policy("run", json!(7)), "PolicyForm"),
        ("policy.set", policy("run", json!({})), "PolicyForm"),
        ("policy.set", policy("run", json!({"last_n": 0})), "PolicyLimit"),
        ("policy.set", policy("run", json!({"last_n": "3"})), "PolicyLimit"),
        ("policy.set", policy("run", json!({"max_age_days": 1_000_000_001})), "PolicyLimit"),
        ("policy.set", policy("conversation", json!({"per_agent": 1})), "NoAgents"),
        ("policy.set", policy("run", json!({ "last_n": long_text() })), "TooLong"),
        ("sync.append", written("run", json!({"last_n": 0})), "PolicyLimit"),
        ("sync.append", written("routing", json!({"last_n": 1})), "KeptWhole"),
        ("sync.append", written("nowhere", json!({"last_n": 1})), "PolicySurface"),
    ]
}

fn agents() -> Vec<Case> {
    let turn = |conversation: &str, role: &str, content: Value| json!({"conversation_id": conversation, "role": role, "content": content});
    let intent = |agent: &str, run: &str, epoch: u64, status: &str| json!({"agent_id": agent, "run_id": run, "epoch": epoch, "status": status});
    let long_name = "n".repeat(129);
    vec![
        ("sync.record_turn", turn("", "user", json!("x")), "KeyLength"),
        ("sync.record_turn", turn(&long_key(), "user", json!("x")), "KeyLength"),
        ("sync.record_turn", turn("c", "robot", json!("x")), "Role"),
        ("sync.record_turn", turn("c", "user", json!(7)), "ContentKind"),
        ("sync.record_turn", turn("c", "user", json!(long_text())), "TooLong"),
        ("sync.record_turn", turn("c", "tool", json!("x")), "AnswerIdMissing"),
        ("sync.transcript", json!({"conversation_id": "c", "after": "x"}), "BadCursor"),
        ("sync.transcript", json!({"conversation_id": "c", "limit": 10_001}), "PageLimit"),
        ("sync.resume", json!({"conversation_id": "c", "last": 0}), "PageLimit"),
        ("sync.conversations", json!({"limit": 1_001}), "PageLimit"),
        ("sync.record_intent", intent(&long_name, "r", 1, "pending"), "LeaseNameLength"),
        ("sync.record_intent", intent("a", "r\n", 1, "pending"), "LeaseNameCharacter"),
        ("sync.record_intent", intent("a", "r", 0, "pending"), "EpochOutOfRange"),
        ("sync.record_intent", intent("a", "r", u64::MAX, "pending"), "EpochOutOfRange"),
        ("sync.record_intent", intent("a", "r", 1, "done"), "UnknownStatus"),
        ("sync.intents", json!({"agent_id": ""}), "LeaseNameLength"),
        ("sync.intents", json!({"agent_id": "a", "run_id": long_name}), "LeaseNameLength"),
        ("sync.fence_check", json!({"agent_id": "", "run_id": "r", "epoch": 1}), "LeaseNameLength"),
        ("sync.fence_check", json!({"agent_id": "a", "run_id": "r", "epoch": 0}), "EpochOutOfRange"),
        ("lease.acquire", json!({"agent_id": long_name}), "LeaseNameLength"),
        ("lease.acquire", json!({"agent_id": "a", "ttl_ms": 999}), "TtlOutOfRange"),
        ("lease.acquire", json!({"agent_id": "a", "ttl_ms": u64::MAX}), "TtlOutOfRange"),
        ("lease.renew", json!({"agent_id": "a", "epoch": 0}), "EpochOutOfRange"),
        ("lease.renew", json!({"agent_id": "a", "epoch": 1, "ttl_ms": 3_600_001}), "TtlOutOfRange"),
        ("lease.renew", json!({"agent_id": "a", "epoch": 1}), "NotHolder"),
        ("lease.release", json!({"agent_id": "\n", "epoch": 1}), "LeaseNameCharacter"),
        ("lease.release", json!({"agent_id": "a", "epoch": u64::MAX}), "EpochOutOfRange"),
        ("lease.status", json!({"agent_id": ""}), "LeaseNameLength"),
        ("lease.move_host", json!({"device": ""}), "UnknownDevice"),
        ("lease.move_host", json!({"device": long_text()}), "UnknownDevice"),
    ]
}

/// `place` is a directory of the test's own.
fn devices_and_files(place: &str) -> Vec<Case> {
    let long_name = "n".repeat(129);
    let absent = format!("{place}/absent/file");
    vec![
        ("peers.add", json!({"address": ""}), "PeerAddress"),
        ("peers.add", json!({"address": "host:99999"}), "PeerAddress"),
        ("space.create", json!({"name": ""}), "BadScope"),
        ("space.create", json!({"name": "n".repeat(58)}), "BadScope"),
        ("space.create", json!({"name": "acme", "device_name": long_name}), "BadName"),
        ("space.leave", json!({}), "PersonalSpace"),
        ("roster.revoke", json!({"device": "nobody"}), "UnknownDevice"),
        ("roster.retire", json!({"device": long_text()}), "UnknownDevice"),
        ("roster.dormant", json!({"device": "nobody"}), "UnknownDevice"),
        ("roster.active", json!({"device": "nobody"}), "UnknownDevice"),
        ("sync.verify", json!({"device": "nobody"}), "UnknownDevice"),
        ("sync.rebase", json!({"accept": "everything"}), "InvalidParams"),
        ("roster.rename", json!({"device": "nobody", "name": "x"}), "UnknownDevice"),
        ("roster.rename", json!({"device": "a", "name": ""}), "BadName"),
        ("roster.rename", json!({"device": "a", "name": long_name}), "BadName"),
        ("pair.invite", json!({"role": "king"}), "InvalidParams"),
        ("pair.invite", json!({"ttl_ms": 0}), "InvalidParams"),
        ("pair.join", json!({"code_or_uri": long_text()}), "BadCode"),
        ("pair.join", json!({"code_or_uri": "ABC-DEF-GHJ", "peer": "x"}), "PeerAddress"),
        ("pair.join", json!({"code_or_uri": "ABC-DEF-GHJ", "name": long_name}), "BadName"),
        ("bundle.export", json!({"path": "file"}), "RelativePath"),
        ("bundle.export", json!({"path": place}), "FileExists"),
        ("bundle.export", json!({"path": absent}), "File"),
        ("bundle.export", json!({"path": format!("{place}/a\0b")}), "File"),
        ("bundle.export", json!({"path": format!("{place}/bundle"), "for": "nobody"}), "UnknownDevice"),
        ("bundle.import", json!({"path": ""}), "RelativePath"),
        ("bundle.import", json!({"path": absent}), "File"),
        ("bundle.import", json!({"path": format!("{place}/identity.key")}), "NoBundle"),
        ("dropbox.add", json!({"place": "folder"}), "RelativePath"),
        ("dropbox.add", json!({"place": absent}), "FolderGone"),
        ("dropbox.add", json!({"place": "nowhere://x"}), "UnknownScheme"),
        ("dropbox.remove", json!({"place": absent}), "UnknownDropbox"),
        ("config.get", json!({"key": "nowhere"}), "UnknownKey"),
        ("config.get", json!({"key": long_text()}), "UnknownKey"),
        ("config.set", json!({"key": "", "value": 1}), "UnknownKey"),
        ("config.set", json!({"key": "network.mdns", "value": 7}), "WrongKind"),
        (
            "config.set",
            json!({"key": "network.mdns", "value": true, "expected_generation": u64::MAX}),
            "GenerationConflict",
        ),
        ("config.set", json!({"key": "network.max_mtu", "value": 1}), "OutOfRange"),
        ("config.patch", json!({"patch": 7}), "PatchForm"),
        ("config.patch", json!({"patch": {"nowhere": 1}}), "UnknownKey"),
        ("config.patch", json!({"patch": {}, "expected_generation": 999}), "GenerationConflict"),
    ]
}

/// A number that no subscription has is answered, not refused.
const NEVER_REFUSED: [&str; 1] = ["sync.unsubscribe"];

#[test]
fn every_method_refuses_by_name_what_is_too_much_too_little_or_not_there() {
    let home = Home::init("a");
    let _daemon = home.up(&[]);
    let mut caller = Caller::connect(&home);
    let path = home.path().to_str().unwrap().to_owned();
    let cases: Vec<Case> =
        [rows(), kept(), agents(), devices_and_files(&path)].into_iter().flatten().collect();

    for (method, params, kind) in &cases {
        let answer = caller.call(method, params.clone());
        let excerpt: String = params.to_string().chars().take(200).collect();
        assert_eq!(answer["error"]["data"]["kind"], *kind, "{method} {excerpt}: {answer}");
        assert!(!answer["error"]["message"].as_str().unwrap().is_empty());
    }

    let document = caller.call("rpc.discover", json!({}))["result"].clone();
    let tried: BTreeSet<&str> = cases.iter().map(|(method, ..)| *method).chain(NEVER_REFUSED).collect();
    for method in document["methods"].as_array().unwrap() {
        let name = method["name"].as_str().unwrap();
        let own = method["params"].as_array().unwrap().iter().filter(|param| param["name"] != "scope");
        assert!(own.count() == 0 || tried.contains(name), "{name} has parameters that nobody gives wrongly");
    }
    let status = caller.call("sync.status", json!({}))["result"].clone();
    assert_eq!((&status["ops"], &status["conflicts"]), (&json!(0), &json!(0)), "nothing was written");
}

#[test]
fn every_method_of_a_space_refuses_a_space_that_is_not_there() {
    let home = Home::init("a");
    let _daemon = home.up(&[]);
    let mut caller = Caller::connect(&home);
    let document = caller.call("rpc.discover", json!({}))["result"].clone();
    let mut tried = 0;

    for method in document["methods"].as_array().unwrap() {
        let name = method["name"].as_str().unwrap();
        if !method["params"].as_array().unwrap().iter().any(|param| param["name"] == "scope") {
            continue;
        }
        for (org, kinds) in [("", ["BadScope", "BadScope"]), ("nobody", ["NoSuchSpace", "UnknownDropbox"])] {
            let mut params = sound(name, home.path().join("bundle").to_str().unwrap());
            params["scope"] = json!({ "org": org });
            let answer = caller.call(name, params);
            let kind = answer["error"]["data"]["kind"].as_str().unwrap_or_default();
            assert!(kinds.contains(&kind), "{name} {org:?}: {answer}");
            tried += 1;
        }
    }
    assert!(tried > 60, "{tried}");
}

/// A request that nothing is wrong with but its scope.
fn sound(method: &str, file: &str) -> Value {
    match method {
        "sync.append" => json!({"surface": "registry:note", "key": "k", "payload": 1}),
        "sync.delete" | "sync.get" => json!({"surface": "registry:note", "id": "k"}),
        "sync.list" => json!({"surface": "registry:note"}),
        "sync.wait" => json!({"on": 1}),
        "sync.record_turn" => json!({"conversation_id": "c", "role": "user", "content": "x"}),
        "sync.transcript" | "sync.resume" => json!({"conversation_id": "c"}),
        "sync.record_intent" => json!({"agent_id": "a", "run_id": "r", "epoch": 1, "status": "pending"}),
        "sync.fence_check" => json!({"agent_id": "a", "run_id": "r", "epoch": 1}),
        "sync.state_at" => json!({"frontier": "none"}),
        "sync.op" => json!({"op_id": "0".repeat(64)}),
        "conflicts.resolve" => json!({"surface": "registry:note", "id": "k", "delete": true}),
        "policy.set" => json!({"surface": "run", "policy": null}),
        "roster.revoke" | "roster.retire" | "roster.dormant" | "roster.active" | "lease.move_host" => {
            json!({"device": "a"})
        }
        "roster.rename" => json!({"device": "a", "name": "b"}),
        "sync.intents" | "lease.acquire" | "lease.status" => json!({"agent_id": "a"}),
        "lease.renew" | "lease.release" => json!({"agent_id": "a", "epoch": 1}),
        "bundle.export" => json!({ "path": file }),
        "dropbox.add" | "dropbox.remove" => json!({"place": std::env::temp_dir()}),
        _ => json!({}),
    }
}
