//! The control socket, as a program uses it.

use std::io::{BufRead, Write};
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::kin::{Caller, Home};

#[test]
fn a_bad_request_is_answered_and_the_connection_is_kept() {
    let home = Home::init("a");
    let _daemon = home.up(&[]);
    let mut caller = Caller::connect(&home);
    let mut check = |line: &[u8], code: i64, kind: &str, id: Value| {
        caller.send(line);
        let answer = caller.next();
        assert_eq!(answer["error"]["code"], code, "{answer}");
        assert_eq!(answer["error"]["data"]["kind"], kind, "{answer}");
        assert_eq!(answer["error"]["data"]["blame"], "local", "{answer}");
        assert_eq!(answer["id"], id, "{answer}");
    };

    check(b"nonsense", -32700, "NotJson", Value::Null);
    check(b"\xff\xfe\x00", -32700, "NotJson", Value::Null);
    check(b"[]", -32600, "BatchRequest", Value::Null);
    check(br#"[{"id":1,"method":"node.version"}]"#, -32600, "BatchRequest", Value::Null);
    check(br#"{"id":4,"method":"node.version","params":[]}"#, -32602, "InvalidParams", 4.into());
    check(br#"{"id":5}"#, -32600, "InvalidRequest", 5.into());
    check(br#"{"id":6,"method":"node.version","colour":1}"#, -32600, "InvalidRequest", 6.into());
    check(br#"{"id":"x","method":"no.such_method"}"#, -32601, "UnknownMethod", "x".into());
    check(
        br#"{"id":7,"method":"sync.get","params":{"surface":"skill","id":"a","x":1}}"#,
        -32602,
        "InvalidParams",
        7.into(),
    );
    check(
        br#"{"id":8,"method":"sync.get","params":{"surface":"nowhere","id":"a"}}"#,
        -32000,
        "UnknownSurface",
        8.into(),
    );
    check(
        br#"{"id":9,"method":"sync.append","params":{"scope":{"org":"acme"},"surface":"skill","payload":1}}"#,
        -32000,
        "NoSuchSpace",
        9.into(),
    );
    check(
        br#"{"id":10,"method":"sync.list","params":{"surface":"skill","limit":0}}"#,
        -32602,
        "PageLimit",
        10.into(),
    );
    let scope = br#"{"id":11,"method":"sync.append","params":{"scope":{"org":"Not A"},"surface":"skill","payload":1}}"#;
    check(scope, -32000, "BadScope", 11.into());
    let op = json!({"surface": "skill", "payload": 1});
    let many = json!({"id": 12, "method": "sync.append_many", "params": {"ops": vec![op; 10_001]}});
    check(many.to_string().as_bytes(), -32000, "TooManyOps", 12.into());
    let events = br#"{"id":13,"method":"sync.list","params":{"surface":"routing","after":"nowhere"}}"#;
    check(events, -32602, "BadCursor", 13.into());
    check(
        br#"{"id":14,"method":"sync.list","params":{"surface":"intent"}}"#,
        -32000,
        "LedgerSurface",
        14.into(),
    );
    let address = br#"{"id":15,"method":"peers.add","params":{"address":"nowhere"}}"#;
    check(address, -32000, "PeerAddress", 15.into());
    let code = br#"{"id":16,"method":"pair.join","params":{"code_or_uri":"7QK-014"}}"#;
    check(code, -32000, "BadCode", 16.into());
    let link = br#"{"id":17,"method":"pair.join","params":{"code_or_uri":"kinfold:1?i=7Q"}}"#;
    check(link, -32000, "BadLink", 17.into());
    check(&vec![b' '; 1024 * 1024 + 1], -32600, "RequestTooLong", Value::Null);
    let answer = caller.call("node.version", json!({}));

    assert_eq!(answer["result"]["name"], "kinfold");
    assert_eq!(answer["id"], 1);
}

#[test]
fn every_method_for_programs_answers_in_its_form() {
    let home = Home::init("a");
    let daemon = home.up(&[]);
    let mut caller = Caller::connect(&home);

    let appended =
        caller.call("sync.append", json!({"surface": "registry:note", "payload": {"id": "n", "v": 1}}));
    assert_eq!(appended["result"]["seq"], 1);
    assert_eq!(appended["result"]["op_id"].as_str().unwrap().len(), 64);
    assert!(appended["result"]["hlc"].is_u64());
    let many = caller.call(
        "sync.append_many",
        json!({"ops": [
            {"surface": "skill", "payload": {"id": "s"}},
            {"surface": "routing", "payload": {"stream": "r"}},
        ]}),
    );
    assert_eq!(many["result"]["appended"][1]["seq"], 3);
    let refused = caller.call(
        "sync.append_many",
        json!({"ops": [
            {"surface": "skill", "payload": 1},
            {"surface": "registry:note", "payload": 1},
        ]}),
    );
    assert_eq!(refused["error"]["data"]["kind"], "IdMissing");
    assert_eq!(refused["error"]["data"]["index"], 1);
    let status = caller.call("sync.status", json!({}))["result"].clone();
    for member in
        ["state_hash", "journal_frontier", "stable_frontier", "base_checkpoint", "roster", "peers", "health"]
    {
        assert!(status.get(member).is_some(), "{member} is missing: {status}");
    }
    assert_eq!(status["device_id"], daemon.device);
    assert_eq!(status["ops"], 3);
    assert_eq!(
        caller.call("sync.get", json!({"surface": "registry:note", "id": "n"}))["result"]["payload"]["v"],
        1
    );
    assert_eq!(
        caller.call("sync.get", json!({"surface": "registry:note", "id": "m"}))["result"],
        Value::Null
    );
    assert_eq!(caller.call("sync.surfaces", json!({}))["result"]["surfaces"].as_array().unwrap().len(), 3);
    assert_eq!(caller.call("conflicts.list", json!({}))["result"]["conflicts"], json!([]));
    assert_eq!(caller.call("peers.list", json!({}))["result"]["peers"], json!([]));
    assert_eq!(caller.call("roster.list", json!({}))["result"]["devices"][0]["self"], true);
    assert_eq!(caller.call("health.get", json!({}))["result"]["reasons"], json!([]));
    assert_eq!(caller.call("sync.safe_to_sleep", json!({}))["result"]["unheld_ops"], 3);
    assert_eq!(caller.call("sync.pump", json!({}))["result"]["peers"], 0);
    let waited = caller.call("sync.wait", json!({"on": 1, "timeout_ms": 1}));
    assert_eq!(waited["error"]["data"]["kind"], "TimedOut");
    assert_eq!(waited["error"]["data"]["blame"], "environment");
}

#[test]
fn spaces_and_rosters_are_kept_by_programs_too() {
    let home = Home::init("a");
    let daemon = home.up(&[]);
    let mut caller = Caller::connect(&home);
    let acme = json!({"org": "acme"});

    let made = caller.call("space.create", json!({"name": "acme", "device_name": "desk"}))["result"].clone();
    assert_eq!((&made["scope"], &made["role"], &made["devices"]), (&acme, &json!("admin"), &json!(1)));
    assert_eq!(caller.call("space.list", json!({}))["result"]["spaces"].as_array().unwrap().len(), 2);
    let roster = caller.call("roster.list", json!({"scope": acme}))["result"].clone();
    assert_eq!((&roster["devices"][0]["name"], &roster["removed"]), (&json!("desk"), &json!([])));
    assert_eq!((&roster["scope"], &roster["devices"][0]["dormant"]), (&acme, &json!(false)));
    let renamed = caller.call("roster.rename", json!({"scope": acme, "device": "desk", "name": "den"}));
    assert_eq!(renamed["result"]["device_id"], daemon.device);
    assert_eq!(caller.call("roster.rotate", json!({"scope": acme}))["result"]["epoch"], 1);

    let mut refused = |method: &str, params: Value, kind: &str| {
        let answer = caller.call(method, params);
        assert_eq!(answer["error"]["data"]["kind"], kind, "{answer}");
        assert_eq!(answer["error"]["code"], -32000, "{answer}");
        answer["error"]["data"].clone()
    };
    let unknown = refused("roster.revoke", json!({"scope": acme, "device": "desk"}), "UnknownDevice");
    assert_eq!((&unknown["found"], &unknown["candidates"][0]["name"]), (&json!("desk"), &json!("den")));
    refused("roster.retire", json!({"device": "b"}), "UnknownDevice");
    refused("roster.revoke", json!({"device": "a"}), "OwnDevice");
    refused("roster.retire", json!({"scope": acme, "device": "den"}), "OwnDevice");
    refused("roster.rename", json!({"device": "a", "name": ""}), "BadName");
    refused("space.create", json!({"name": "acme"}), "ScopeTaken");
    refused("space.create", json!({"name": "Not A"}), "BadScope");
    refused("space.leave", json!({}), "PersonalSpace");
    refused("roster.list", json!({"scope": {"org": "other"}}), "NoSuchSpace");

    assert_eq!(caller.call("space.leave", json!({"scope": acme}))["result"]["told"], true);
    assert_eq!(caller.call("space.list", json!({}))["result"]["spaces"].as_array().unwrap().len(), 1);
}

#[test]
fn requests_of_one_connection_do_not_wait_for_each_other() {
    let home = Home::init("a");
    let _daemon = home.up(&[]);
    let mut caller = Caller::connect(&home);

    caller.call("sync.append", json!({"surface": "skill", "payload": 1}));
    caller.send(br#"{"id":"slow","method":"sync.wait","params":{"on":1}}"#);
    caller.send(br#"{"id":"quick","method":"node.version"}"#);

    assert_eq!(caller.next()["id"], "quick");
}

#[test]
fn a_subscriber_is_told_of_its_surface_until_it_has_enough() {
    let home = Home::init("a");
    let _daemon = home.up(&[]);
    let mut caller = Caller::connect(&home);

    let subscription =
        caller.call("sync.subscribe", json!({"surface": "skill"}))["result"]["subscription"].clone();
    caller.send(br#"{"method":"sync.append","params":{"surface":"run","payload":{"id":"r"}}}"#);
    caller.send(br#"{"method":"sync.append","params":{"surface":"skill","payload":{"id":"s","n":1.50}}}"#);
    let mut told = String::new();
    caller.read.read_line(&mut told).unwrap();
    let ended = caller.call("sync.unsubscribe", json!({"subscription": subscription}));

    assert!(told.contains(r#""method":"sync.changed""#) && told.contains(r#""n":1.50"#), "{told}");
    assert_eq!(ended["result"]["cancelled"], true);
    for _ in 0..64 {
        assert!(caller.call("sync.subscribe", json!({"surface": "trajectory"}))["result"].is_object());
    }
    let refused = caller.call("sync.subscribe", json!({}));
    assert_eq!(refused["error"]["data"]["kind"], "TooManySubscriptions");
}

#[test]
fn the_socket_is_for_its_owner_only() {
    let home = Home::init("a");
    let _daemon = home.up(&[]);

    let mode = std::fs::metadata(home.path().join("control.sock")).unwrap().permissions().mode();

    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn ten_thousand_requests_at_once_are_all_answered_once() {
    let home = Home::init("a");
    let _daemon = home.up(&[]);
    let mut caller = Caller::connect(&home);
    let mut write = caller.writer();

    let writing = std::thread::spawn(move || {
        for id in 0..10_000 {
            writeln!(write, r#"{{"id":{id},"method":"node.version"}}"#).unwrap();
        }
    });
    let mut ids: Vec<u64> = (0..10_000).map(|_| caller.next()["id"].as_u64().unwrap()).collect();
    writing.join().unwrap();
    ids.sort_unstable();

    assert!(ids.into_iter().eq(0..10_000));
}

#[test]
fn requests_with_one_id_get_an_answer_each_and_deep_json_is_no_request() {
    let home = Home::init("a");
    let _daemon = home.up(&[]);
    let mut caller = Caller::connect(&home);

    caller.send(br#"{"id":"same","method":"node.version"}"#);
    caller.send(br#"{"id":"same","method":"space.list"}"#);
    let answers = [caller.next(), caller.next()];
    assert!(answers.iter().all(|answer| answer["id"] == "same" && answer["result"].is_object()));
    for depth in [200, 500_000] {
        let deep = format!(
            r#"{{"id":1,"method":"sync.append","params":{{"surface":"skill","payload":{}1{}}}}}"#,
            "[".repeat(depth),
            "]".repeat(depth),
        );
        caller.send(deep.as_bytes());
        let answer = caller.next();
        assert_eq!(answer["error"]["data"]["blame"], "local", "{answer}");
    }
    caller.send(b"{\"id\":2,\"method\":\"\xc3\x28\"}");
    assert_eq!(caller.next()["error"]["data"]["kind"], "NotJson");

    assert_eq!(caller.call("node.version", json!({}))["result"]["name"], "kinfold");
}

#[test]
fn a_caller_that_sends_no_more_still_gets_its_answers() {
    let home = Home::init("a");
    let _daemon = home.up(&[]);
    let mut caller = Caller::connect(&home);

    for id in 0..100 {
        caller.send(json!({"id": id, "method": "sync.status"}).to_string().as_bytes());
    }
    caller.writer().shutdown(std::net::Shutdown::Write).unwrap();
    let mut ids: Vec<u64> = (0..100).map(|_| caller.next()["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();

    assert!(ids.into_iter().eq(0..100));
    assert_eq!(caller.read.read_line(&mut String::new()).unwrap(), 0, "nothing follows");
}

#[test]
fn a_subscriber_that_stops_reading_is_told_last_of_all_and_resumes_without_loss() {
    let home = Home::init("a");
    let _daemon = home.up(&[]);
    let mut writer = Caller::connect(&home);
    let mut reader = Caller::connect(&home);
    let subscribed = reader.call("sync.subscribe", json!({"surface": "registry:note"}))["result"].clone();
    assert!(subscribed["bookmark"]["frontier"].is_object());

    for round in 0..5 {
        let op = |n: u64| json!({"surface": "registry:note", "key": format!("k{n}"), "payload": round});
        let ops: Vec<Value> = (0..10_000).map(op).collect();
        writer.call("sync.append_many", json!({ "ops": ops }));
    }
    let mut seqs = Vec::new();
    let lagged = loop {
        let notice = reader.next();
        match notice["method"].as_str() {
            Some("sync.changed") => seqs.push(notice["params"]["seq"].as_u64().unwrap()),
            _ => break notice,
        }
    };
    assert_eq!(lagged["method"], "sync.lagged", "{lagged}");
    assert!(lagged["params"]["missed"].as_u64().unwrap() > 0);
    assert!(seqs.len() < 50_000);

    let params = json!({"surface": "registry:note", "after": lagged["params"]["resume_after"]});
    reader.send(json!({"id": 2, "method": "sync.subscribe", "params": params}).to_string().as_bytes());
    while seqs.len() < 50_000 {
        let line = reader.next();
        if line["method"] == "sync.changed" {
            assert_ne!(line["params"]["subscription"], subscribed["subscription"]);
            seqs.push(line["params"]["seq"].as_u64().unwrap());
        }
    }
    assert!(seqs.into_iter().eq(1..=50_000));
    let stale = json!({"after": {"space": "00".repeat(32), "truncations": 0, "frontier": {}}});
    let refused = writer.call("sync.subscribe", stale);
    assert_eq!(refused["error"]["data"]["kind"], "BookmarkStale");
    assert!(refused["error"]["data"]["hint"].as_str().unwrap().contains("sync.list"));
    let unreadable = json!({"after": {"space": "0", "truncations": 0, "frontier": {}}});
    assert_eq!(writer.call("sync.subscribe", unreadable)["error"]["data"]["kind"], "BadId");
}
