//! The ledger of runs: in one process, between two devices, over the socket and on the command line.

use kinfold::fold::{RunStatus, Standing};
use kinfold::model::{CertHash, IntentStatus, LeaseEpoch, Payload, Surface};
use kinfold::node::{Intent, IntentRecorded, NewOp, Space};
use serde_json::{Value, json};

use crate::kin::{Caller, Home};
use crate::pair::{device, introduce, until};

use IntentStatus::{Committed, Failed, Pending};

fn intent(run: &str, epoch: u64, status: IntentStatus) -> Intent {
    Intent {
        agent: "backup".parse().unwrap(),
        run: run.parse().unwrap(),
        epoch: LeaseEpoch::new(epoch).unwrap(),
        cert: CertHash::NONE,
        status,
        payload: Payload::from_value(&json!({"by": "test"})).unwrap(),
    }
}

async fn record(space: &Space, run: &str, epoch: u64, status: IntentStatus) -> IntentRecorded {
    space.record_intent(intent(run, epoch, status)).await.unwrap()
}

fn run(space: &Space, name: &str) -> Option<kinfold::node::Run> {
    space.run(&"backup".parse().unwrap(), &name.parse().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_is_not_recorded_again_and_a_stale_token_is_told_so() {
    let a = device("a").await;
    let space = a.node.personal();

    let IntentRecorded::Recorded(_) = record(&space, "monday", 1, Pending).await else { panic!("first") };
    let IntentRecorded::Recorded(commit) = record(&space, "monday", 1, Committed).await else {
        panic!("it holds the token")
    };
    for (epoch, status) in [(1, Pending), (9, Committed), (1, Failed)] {
        let answer = record(&space, "monday", epoch, status).await;
        assert_eq!(answer, IntentRecorded::AlreadyCommitted { by: commit.id });
    }
    let IntentRecorded::Recorded(failed) = record(&space, "tuesday", 7, Failed).await else { panic!("new") };
    let answer = record(&space, "tuesday", 7, Committed).await;
    assert_eq!(answer, IntentRecorded::AlreadyFailed { by: failed.id });
    let (claimed, current) = (LeaseEpoch::new(6).unwrap(), LeaseEpoch::new(7).unwrap());
    let answer = record(&space, "wednesday", 6, Pending).await;
    assert_eq!(answer, IntentRecorded::Fenced { claimed, current });
    let forked = Intent { cert: CertHash::from_bytes([9; 32]), ..intent("wednesday", 9, Pending) };
    assert_eq!(space.record_intent(forked).await.unwrap(), IntentRecorded::ForkedLineage);

    assert_eq!(run(&space, "wednesday"), None, "nothing was written");
    let runs = space.runs(&"backup".parse().unwrap(), None, 9).unwrap();
    let found: Vec<_> = runs.iter().map(|run| (&*run.run, run.status, run.is_conflict())).collect();
    assert_eq!(found, [("monday", RunStatus::Committed, false), ("tuesday", RunStatus::Failed, false)]);
    assert_eq!(runs[0].shown().dot, commit.dot);
    assert_eq!(runs[0].shown().payload.as_ref().unwrap().as_str(), r#"{"by":"test"}"#);
    assert_eq!(a.node.status().await.unwrap().conflict_count, 0);
    a.node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_commit_one_run_at_once_one_is_told_that_it_did() {
    let a = device("a").await;
    let calls: Vec<_> = (0..40)
        .map(|n| {
            let space = a.node.personal();
            tokio::spawn(async move { record(&space, "monday", 1 + n % 3, Committed).await })
        })
        .collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }

    let recorded: Vec<_> = answers.iter().filter_map(IntentRecorded::recorded).collect();
    let [only] = recorded[..] else { panic!("{answers:?}") };
    let others = answers.iter().filter(|answer| answer.recorded().is_none());
    assert!(others.clone().all(|other| *other == IntentRecorded::AlreadyCommitted { by: only.id }));
    assert_eq!(run(&a.node.personal(), "monday").unwrap().intents.len(), 1);
    a.node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_token_of_another_device_is_a_listed_conflict_on_both() {
    let (a, b) = (device("a").await, device("b").await);
    introduce(&a.node, &b.node).await;
    let (space_a, space_b) = (a.node.personal(), b.node.personal());
    record(&space_a, "monday", 1, Pending).await;
    until(&b.node, || run(&space_b, "monday")).await;
    b.node.stop().await.unwrap();
    drop(space_b);
    // The other device is away, so neither sees what the other says.
    record(&space_a, "monday", 2, Pending).await;
    record(&space_a, "tuesday", 3, Committed).await;
    let b = b.again().await;
    let space_b = b.node.personal();
    record(&space_b, "monday", 1, Pending).await;
    record(&space_b, "tuesday", 1, Failed).await;

    b.node.start().await.unwrap();
    b.node.add_peer(a.node.local_addr().unwrap().to_string()).await.unwrap();
    for (space, node) in [(&space_a, &a.node), (&space_b, &b.node)] {
        until(node, || run(space, "tuesday").filter(|run| run.intents.len() == 2)).await;
        until(node, || run(space, "monday").filter(|run| run.intents.len() == 3)).await;

        let tuesday = run(space, "tuesday").unwrap();
        assert_eq!(
            (tuesday.status, tuesday.intents[1].standing),
            (RunStatus::Committed, Standing::Disagrees)
        );
        let monday = run(space, "monday").unwrap();
        assert_eq!(monday.status, RunStatus::Fenced, "token 3 was seen in another run");
        let conflicts = space.conflicts(None, 9).unwrap();
        let keys: Vec<_> = conflicts.iter().map(|row| (&row.surface, &*row.key)).collect();
        let expected = ["backup\u{1f}monday", "backup\u{1f}tuesday"].map(|key| (&Surface::Intent, key));
        assert_eq!(keys, expected);
        let lost = &conflicts[1].others[0];
        assert_eq!(lost.dot.log.device, b.node.device());
        let said: Value = serde_json::from_str(lost.payload.as_ref().unwrap().as_str()).unwrap();
        assert_eq!(
            (&said["status"], &said["epoch"], &said["run_id"]),
            (&json!("failed"), &json!(1), &json!("tuesday"))
        );
        let status = node.status().await.unwrap();
        assert_eq!((status.conflict_count, status.malformed_count), (2, 0));
    }
    until(&a.node, || (space_a.root() == space_b.root()).then_some(())).await;
    a.node.stop().await.unwrap();
    b.node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_that_is_taken_over_unasked_is_judged_like_any_other() {
    let a = device("a").await;
    let space = a.node.personal();
    record(&space, "monday", 5, Committed).await;

    space.append(vec![NewOp::Intent(intent("monday", 1, Failed))]).await.unwrap();

    let monday = run(&space, "monday").unwrap();
    assert_eq!((monday.status, monday.intents.len()), (RunStatus::Committed, 2));
    assert!(monday.is_conflict());
    a.node.stop().await.unwrap();
}

#[test]
fn programs_record_and_read_runs_over_the_socket() {
    let home = Home::init("a");
    let _daemon = home.up(&[]);
    let mut caller = Caller::connect(&home);
    let said = |run: &str, epoch: u64, status: &str| json!({"agent_id": "backup", "run_id": run, "epoch": epoch, "status": status, "payload": {"n": 1.0}});

    let recorded = caller.call("sync.record_intent", said("monday", 4, "committed"))["result"].clone();
    assert_eq!(recorded["recorded"], true);
    let again = caller.call("sync.record_intent", said("monday", 4, "pending"))["result"].clone();
    assert_eq!((&again["recorded"], &again["reason"]), (&json!(false), &json!("AlreadyCommitted")));
    assert_eq!(again["op_id"], recorded["op_id"]);
    let stale = caller.call("sync.record_intent", said("tuesday", 3, "pending"))["result"].clone();
    assert_eq!((&stale["reason"], &stale["current"]), (&json!("Fenced"), &json!(4)));
    assert_eq!(stale.get("op_id"), None);

    let page = caller.call("sync.intents", json!({"agent_id": "backup"}))["result"].clone();
    assert_eq!(
        (&page["runs"][0]["run_id"], &page["runs"][0]["status"]),
        (&json!("monday"), &json!("committed"))
    );
    assert_eq!(page["runs"][0]["intents"][0]["payload"], json!({"n": 1.0}));
    assert_eq!(page.get("next"), None);
    let none = caller.call("sync.intents", json!({"agent_id": "backup", "run_id": "sunday"}));
    assert_eq!(none["result"]["runs"], json!([]));
    for (params, kind) in [
        (said("", 1, "pending"), "LeaseNameLength"),
        (said("a\nb", 1, "pending"), "LeaseNameCharacter"),
        (said("r", 0, "pending"), "EpochOutOfRange"),
        (said("r", 1, "done"), "UnknownStatus"),
    ] {
        let refused = caller.call("sync.record_intent", params);
        assert_eq!(refused["error"]["data"]["kind"], kind, "{refused}");
    }
    let mut bad_cert = said("r", 1, "pending");
    bad_cert["cert"] = json!("xyz");
    assert_eq!(caller.call("sync.record_intent", bad_cert)["error"]["data"]["kind"], "BadId");
    let append = json!({"surface": "intent", "payload": {}});
    let refused = caller.call("sync.append", append);
    assert_eq!(refused["error"]["data"]["kind"], "LedgerSurface");
    assert!(refused["error"]["data"]["hint"].as_str().unwrap().contains("sync.record_intent"));
}

#[test]
fn a_person_records_a_run_and_sees_how_it_stands() {
    let home = Home::init("a");
    let record =
        |run: &str, epoch: &str, status: &str| home.run(&["intent", "record", "backup", run, epoch, status]);

    let said =
        home.run(&["intent", "record", "backup", "monday", "2", "pending", "--payload", r#"{"files":12}"#]);
    assert!(said.expect_code(0).stdout.starts_with("recorded backup monday as pending  "));
    record("monday", "2", "committed").expect_code(0);
    record("monday", "2", "committed").expect_code(0).says("backup monday is committed already");
    record("monday", "2", "pending").expect_code(1).says("has happened");
    record("tuesday", "1", "pending").expect_code(1).says("token 2");
    record("tuesday", "2", "done").expect_code(2);
    record("tuesday", "3", "pending").expect_code(0);

    let runs = home.run(&["intent", "show", "backup"]).expect_code(0).stdout;
    let lines: Vec<Vec<&str>> = runs.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    assert_eq!(
        lines,
        [["RUN", "STATUS", "EPOCH"], ["monday", "committed", "2"], ["tuesday", "pending", "3"]]
    );
    let monday = home.run(&["intent", "show", "backup", "monday"]).expect_code(0).stdout;
    assert!(monday.contains(r#"{"files":12}"#) && monday.contains("counts"), "{monday}");
    let nothing = home.run(&["intent", "show", "nobody"]).expect_code(0).stdout;
    assert_eq!(nothing, "nothing was recorded of nobody\n");
    let json = home.json(&["intent", "show", "backup", "tuesday"]);
    assert_eq!(json["runs"][0]["intents"][0]["epoch"], 3);
    // What is there is listed, and not taken for rows of the person's own.
    let list = home.run(&["list"]).expect_code(0).stdout;
    assert!(list.contains("intent"), "{list}");
    assert_eq!(home.run(&["export"]).expect_code(0).stdout, "");
    home.run(&["list", "intent"]).expect_code(1).says("kinfold intent show");
}
