//! Conflicts, settled by people and by programs.

use kinfold::model::{OpId, Payload, Surface};
use kinfold::node::{Choice, Custody, NewOp, NodeError};
use serde_json::{Value, json};

use crate::kin::{Caller, Home, pair};
use crate::pair::{PATIENCE, device, introduce, note, until};
use crate::talk::meet;

/// Two homes that have met, with a row and a fact that each has set without knowing of the other.
fn contested() -> (Home, Home) {
    let (one, two) = (Home::init("one"), Home::init("two"));
    pair(&one, &two);
    for (home, value) in [(&one, "1"), (&two, "2")] {
        home.run(&["put", "registry:note", "n", value]).expect_code(0);
        home.run(&["put", "skill", "s", value]).expect_code(0);
    }
    meet(&one, &two);
    (one, two)
}

#[test]
fn a_conflict_settled_on_one_device_is_settled_on_all_and_stays_told() {
    let (one, two) = contested();
    assert_eq!(
        (one.json(&["status"])["conflicts"].clone(), two.json(&["status"])["conflicts"].clone()),
        (json!(2), json!(2))
    );
    let row = one.json(&["conflicts", "show", "registry:note", "n"]);
    let lost = row["others"][0].clone();

    one.run(&["conflicts", "resolve", "registry:note", "n", "--take", "2"]).expect_code(0);
    two.run(&["conflicts", "resolve", "skill", "s", "--acknowledge"]).expect_code(0);
    meet(&one, &two);

    for home in [&one, &two] {
        assert_eq!(home.json(&["conflicts"])["conflicts"], json!([]));
        assert_eq!(home.json(&["status"])["conflicts"], 0);
        assert_eq!(home.json(&["get", "registry:note", "n"])["payload"], lost["payload"]);
        let fact = home.json(&["get", "skill", "s"]);
        assert_eq!(
            (&fact["open"], fact["others"].as_array().unwrap().len()),
            (&json!(false), 1),
            "it stays listed"
        );
        let log = home.json(&["conflicts", "log"]);
        let choices: Vec<&Value> =
            log["decisions"].as_array().unwrap().iter().map(|one| &one["choice"]).collect();
        assert_eq!(choices.len(), 2);
        assert!(choices.contains(&&json!("taken")) && choices.contains(&&json!("acknowledged")));
        let told = home.json(&["conflicts", "show", "--resolved", "registry:note", "n"]);
        let stored: Vec<&Value> = told["decisions"][0]["ops"]
            .as_array()
            .unwrap()
            .iter()
            .map(|op| &op["stored"]["payload"])
            .collect();
        assert_eq!(stored, [&row["payload"], &lost["payload"]], "what lost can be read");
        assert_eq!(told["decisions"][0]["value"], lost["payload"]);
        assert_eq!(told["decisions"][0]["ops"][0]["stored"]["device_id"], row["device_id"]);
    }
    assert_eq!(one.json(&["conflicts", "log"]), two.json(&["conflicts", "log"]));
    let shown = one.run(&["conflicts", "show", "registry:note", "n", "--resolved"]).expect_code(0).stdout;
    assert!(shown.starts_with("taken") && shown.contains("DEVICE"), "{shown}");
    one.run(&["conflicts", "log", "registry:note", "n", "--limit", "1"]).expect_code(0);
}

#[test]
fn two_devices_that_settle_differently_at_once_are_a_conflict_again() {
    let (one, two) = contested();

    one.run(&["conflicts", "resolve", "registry:note", "n", "--value", r#""of one""#]).expect_code(0);
    two.run(&["conflicts", "resolve", "registry:note", "n", "--delete"]).expect_code(0);
    one.run(&["conflicts", "resolve", "skill", "s", "--acknowledge"]).expect_code(0);
    two.run(&["conflicts", "resolve", "skill", "s", "--acknowledge"]).expect_code(0);
    meet(&one, &two);

    for home in [&one, &two] {
        let open = home.json(&["conflicts"]);
        assert_eq!(open["conflicts"].as_array().unwrap().len(), 1, "acknowledging twice is none: {open}");
        let row = home.json(&["conflicts", "show", "registry:note", "n"]);
        assert_eq!(row["others"].as_array().unwrap().len(), 1);
        assert_eq!(
            [&row["deleted"], &row["others"][0]["deleted"]]
                .iter()
                .filter(|deleted| ***deleted == json!(true))
                .count(),
            1
        );
    }
    two.run(&["conflicts", "resolve", "registry:note", "n", "--value", "3"]).expect_code(0);
    meet(&one, &two);
    assert_eq!(one.json(&["conflicts"])["conflicts"], json!([]));
    assert_eq!(one.run(&["get", "registry:note", "n"]).expect_code(0).stdout, "3\n");
    assert_eq!(
        one.json(&["conflicts", "log", "registry:note", "n"])["decisions"].as_array().unwrap().len(),
        3
    );
}

/// A run in the ledger as `conflicts` shows it on one device: what is shown, and what lost.
fn run_shown(home: &Home, run: &str) -> (Value, Vec<Value>) {
    let row = home.json(&["conflicts", "show", "intent", &format!("backup/{run}")]);
    let what = |value: &Value| json!([value["payload"]["epoch"], value["payload"]["status"]]);
    assert_eq!(row["payload"]["run_id"], run);
    (what(&row), row["others"].as_array().unwrap().iter().map(what).collect())
}

#[test]
fn a_fenced_intent_is_listed_shown_and_settled_by_people_and_by_programs() {
    let (one, two) = (Home::init("one"), Home::init("two"));
    pair(&one, &two);
    let record = |home: &Home, run: &str, epoch: &str, status: &str| {
        home.run(&["intent", "record", "backup", run, epoch, status]).expect_code(0);
    };
    // The lease has passed on from the second device to the first, which that one does not know.
    record(&two, "monday", "1", "pending");
    record(&two, "tuesday", "1", "committed");
    record(&one, "monday", "2", "pending");
    record(&one, "tuesday", "2", "failed");
    meet(&one, &two);

    let intents = json!(["backup\u{1f}monday", "backup\u{1f}tuesday"]);
    let ids = |conflicts: &Value| -> Value {
        conflicts["conflicts"].as_array().unwrap().iter().map(|row| row["id"].clone()).collect()
    };
    for home in [&one, &two] {
        let listed = home.run(&["conflicts"]).expect_code(0).stdout;
        assert!(listed.contains("backup/monday") && listed.contains("backup/tuesday"), "{listed}");
        assert_eq!(ids(&home.json(&["conflicts"])), intents);
        assert_eq!(home.json(&["status"])["conflicts"], 2);
        assert_eq!(run_shown(home, "monday"), (json!([2, "pending"]), vec![json!([1, "pending"])]));
        assert_eq!(run_shown(home, "tuesday"), (json!([1, "committed"]), vec![json!([2, "failed"])]));
        home.run(&["conflicts", "show", "intent", "backup/monday"])
            .expect_code(0)
            .says("resolve intent backup/monday --acknowledge");
    }
    // Either name may have a slash.
    for (home, epoch) in [(&one, "2"), (&two, "1")] {
        home.run(&["intent", "record", "backup/nas", "mon/1", epoch, "pending"]).expect_code(0);
    }
    meet(&one, &two);
    let resolve = ["conflicts", "resolve", "intent", "backup/nas/mon/1", "--acknowledge"];
    two.run(&resolve).expect_code(0);
    two.run(&resolve).expect_code(1).says("no conflict in intent backup/nas/mon/1");
    two.run(&["conflicts", "show", "intent", "backup/no/such"]).expect_code(1).says("backup/no/such");
    let runs = one.json(&["intent", "show", "backup"]);
    assert_eq!(runs, two.json(&["intent", "show", "backup"]));
    one.run(&["conflicts", "resolve", "intent", "backup/monday", "--take", "2"])
        .expect_code(1)
        .says("acknowledge");

    one.run(&["conflicts", "resolve", "intent", "backup/monday", "--acknowledge"]).expect_code(0);
    {
        let _node = two.up(&[]);
        let mut caller = Caller::connect(&two);
        assert_eq!(ids(&caller.call("conflicts.list", json!({}))["result"]), intents);
        let tuesday = json!({"surface": "intent", "id": intents[1], "acknowledge": true});
        assert_eq!(caller.call("conflicts.resolve", tuesday.clone())["result"]["resolved"], 1);
        let again = caller.call("conflicts.resolve", tuesday);
        assert_eq!(again["error"]["data"]["kind"], "NoConflict");
    }
    meet(&one, &two);

    for home in [&one, &two] {
        assert_eq!(home.json(&["conflicts"])["conflicts"], json!([]));
        assert_eq!(home.json(&["status"])["conflicts"], 0);
        // What was said stays in the ledger, and so does how the runs stand.
        assert_eq!(home.json(&["intent", "show", "backup"]), runs);
        let log = home.json(&["conflicts", "log"]);
        let decided: Vec<&Value> =
            log["decisions"].as_array().unwrap().iter().map(|one| &one["id"]).collect();
        assert_eq!(decided[..2], [&intents[1], &intents[0]], "newest first");
        assert_eq!(decided[2..], ["backup/nas\u{1f}mon/1"]);
        let told = home.run(&["conflicts", "log", "intent", "backup/monday"]).expect_code(0).stdout;
        assert!(told.contains("backup/monday") && !told.contains("tuesday"), "{told}");
    }
    assert_eq!(one.json(&["conflicts", "log"]), two.json(&["conflicts", "log"]));
}

#[test]
fn what_cannot_be_settled_like_that_is_refused_by_name() {
    let (one, _two) = contested();
    one.run(&["put", "registry:note", "calm", "1"]).expect_code(0);

    one.run(&["conflicts", "resolve", "registry:note", "n"]).expect_code(2);
    one.run(&["conflicts", "resolve", "registry:note", "n", "--take", "1", "--delete"]).expect_code(2);
    one.run(&["conflicts", "resolve", "registry:note", "n", "--take", "3"])
        .expect_code(1)
        .says("numbers the values");
    one.run(&["conflicts", "resolve", "registry:note", "n", "--take", "0"])
        .expect_code(1)
        .says("none of the values");
    one.run(&["conflicts", "resolve", "registry:note", "n", "--acknowledge"])
        .expect_code(1)
        .says("take one of the values");
    one.run(&["conflicts", "resolve", "registry:note", "n", "--value", "{"]).expect_code(1).says("not JSON");
    one.run(&["conflicts", "resolve", "skill", "s", "--value", "1"]).expect_code(1).says("acknowledge");
    one.run(&["conflicts", "resolve", "registry:note", "calm", "--delete"])
        .expect_code(1)
        .says("no conflict");
    one.run(&["conflicts", "resolve", "notes", "n", "--delete"]).expect_code(1).says("unknown surface");
    one.run(&["conflicts", "log", "registry:note"]).expect_code(2);
    let _node = one.up(&[]);
    let mut caller = Caller::connect(&one);
    let row = json!({"surface": "registry:note", "id": "n"});
    for (method, change, kind) in [
        ("conflicts.resolve", json!({}), "Choices"),
        ("conflicts.resolve", json!({"delete": true, "payload": 1}), "Choices"),
        ("conflicts.resolve", json!({"take": "nonsense"}), "BadId"),
        ("conflicts.resolve", json!({"take": "0".repeat(64)}), "NotAHead"),
        ("conflicts.resolve", json!({"delete": true, "seen": ["x"]}), "BadId"),
        ("conflicts.resolve", json!({"delete": true, "seen": []}), "NoConflict"),
        ("conflicts.resolve", json!({"delete": 1}), "InvalidParams"),
        ("conflicts.resolve", json!({"id": "calm", "delete": true}), "NoConflict"),
        ("conflicts.resolve", json!({"acknowledge": true}), "ChoiceMisfit"),
        ("conflicts.log", json!({"id": null}), "HalfARow"),
        ("conflicts.log", json!({"limit": 0}), "PageLimit"),
        ("conflicts.log", json!({"after": "x"}), "BadCursor"),
        ("sync.op", json!({"surface": null, "id": null}), "OpNotNamed"),
        ("sync.op", json!({"surface": null, "id": null, "op_id": "x"}), "BadId"),
        ("sync.op", json!({"surface": null, "id": null, "op_id": "0".repeat(64)}), "UnknownOp"),
        ("sync.op", json!({"surface": null, "id": null, "place": "x"}), "BadPlace"),
    ] {
        let mut params = row.clone();
        for (name, value) in change.as_object().unwrap() {
            match value {
                Value::Null => drop(params.as_object_mut().unwrap().remove(name)),
                value => params[name] = value.clone(),
            }
        }
        let answer = caller.call(method, params.clone());
        assert_eq!(answer["error"]["data"]["kind"], kind, "{method} {params}: {answer}");
    }
    let shown = caller.call("conflicts.list", json!({"of": row}))["result"]["conflicts"][0].clone();
    let by_id = caller.call("sync.op", json!({"op_id": shown["op_id"]}))["result"].clone();
    let place = format!(
        "{}/{}:{}",
        shown["device_id"].as_str().unwrap(),
        shown["incarnation"].as_str().unwrap(),
        shown["seq"]
    );
    let by_place = caller.call("sync.op", json!({"place": place}))["result"].clone();
    assert_eq!((&by_id, &by_id["payload"], &by_id["kind"]), (&by_place, &shown["payload"], &json!("put")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_comes_meanwhile_is_not_overruled_unseen() {
    let (a, b) = (device("a").await, device("b").await);
    for (node, value) in [(&a.node, 1), (&b.node, 2)] {
        node.personal().put("registry:note", "n", json!(value)).await.unwrap();
    }
    introduce(&a.node, &b.node).await;
    let space = a.node.personal();
    let row = until(&a.node, || space.conflict(&note(), "n").unwrap()).await;

    let seen: Vec<OpId> = vec![row.shown.id];
    let settled = space.resolve(&note(), "n", Choice::Take(row.shown.id), Some(&seen)).await.unwrap();

    assert_eq!(settled.values.len(), 1);
    let row = space.conflict(&note(), "n").unwrap().expect("the unseen value stands against the choice");
    assert_eq!((row.shown.payload.clone(), row.others.len()), (settled.values[0].payload.clone(), 1));
    let refused = space.resolve(&note(), "n", Choice::Take(seen[0]), None).await;
    assert!(matches!(refused, Err(NodeError::NotAHead { .. })), "it was settled");
    a.node.stop().await.unwrap();
    b.node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_with_more_heads_than_one_write_names_is_settled_by_several() {
    let (a, b) = (device("a").await, device("b").await);
    // Each write names one head that is not there, so that all of them stay heads.
    let space = a.node.personal();
    let stray = space.put("registry:other", "x", json!(0)).await.unwrap().dot;
    for chunk in 0..5 {
        let resolve = |number: i32| NewOp::Resolve {
            surface: note(),
            key: "n".to_owned(),
            heads: vec![stray],
            payload: Some(Payload::from_value(&json!(chunk * 90 + number)).unwrap()),
        };
        // One at a time: ops of one transaction replace each other.
        for number in 0..90 {
            space.append(vec![resolve(number)]).await.unwrap();
        }
    }
    let head_count = space.conflict(&note(), "n").unwrap().unwrap().others.len() + 1;

    let settled = space
        .resolve(&note(), "n", Choice::Value(Payload::from_value(&json!("all")).unwrap()), None)
        .await
        .unwrap();

    assert_eq!((head_count, settled.values.len()), (450, 450));
    assert!(settled.recorded.len() == 4, "two writes with their decisions");
    assert!(space.conflict(&note(), "n").unwrap().is_none());
    let row = space.get(&note(), "n").unwrap().unwrap();
    assert_eq!((row.shown.payload.unwrap().as_str(), row.others.len()), ("\"all\"", 0));
    let surface: Surface = note();
    let told: usize =
        space.decisions(Some((&surface, "n")), None, 99).unwrap().iter().map(|one| one.ops.len()).sum();
    assert_eq!(told, 450);
    introduce(&a.node, &b.node).await;
    tokio::time::timeout(PATIENCE, a.node.wait_all(Custody::on(1))).await.unwrap().unwrap();
    assert_eq!(a.node.personal().root(), b.node.personal().root());
    a.node.stop().await.unwrap();
    b.node.stop().await.unwrap();
}
