//! What is kept of facts, runs and conversations, and what is passed over.

use kinfold::model::{Payload, Surface};
use kinfold::node::{Choice, NewOp, NewTurn, NodeError, Space, StateAt};
use serde_json::{Value, json};

use crate::kin::{Caller, Home};
use crate::pair::{device, introduce, until};

fn keys(space: &Space, surface: &Surface) -> Vec<String> {
    space.list(surface, None, 99).unwrap().into_iter().map(|row| row.key).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superseded_fact_is_passed_over_and_says_by_what() {
    let a = device("a").await;
    let space = a.node.personal();
    space.put("knowledge", "old", json!({"text": 1})).await.unwrap();
    space.put("knowledge", "new", json!({"text": 2, "supersedes": ["old", "lost"]})).await.unwrap();
    space.put("knowledge", "own", json!({"supersedes": "own"})).await.unwrap();

    assert_eq!(keys(&space, &Surface::Knowledge), ["new", "own"]);
    let all = space.list_all(&Surface::Knowledge, None, 99).unwrap();
    assert_eq!(all.iter().map(|row| &*row.key).collect::<Vec<_>>(), ["new", "old", "own"]);
    let old = space.get(&Surface::Knowledge, "old").unwrap().unwrap();
    assert_eq!((old.superseded_by, old.is_dropped), (vec!["new".to_owned()], false));
    assert!(old.shown.payload.is_some());

    // What a snapshot keeps of it is the same.
    let root = space.root();
    drop(space);
    a.node.stop().await.unwrap();
    let a = a.again().await;
    assert_eq!(keys(&a.node.personal(), &Surface::Knowledge), ["new", "own"]);
    assert_eq!(a.node.personal().root(), root);
    a.node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_drops_the_same_on_every_device_and_leaves_stubs() {
    let (a, b) = (device("a").await, device("b").await);
    introduce(&a.node, &b.node).await;
    let (space_a, space_b) = (a.node.personal(), b.node.personal());
    for (key, agent) in [("1", "x"), ("2", "x"), ("3", "y"), ("4", "x")] {
        let run = json!({"agent_id": agent, "supersedes": if key == "4" { "1" } else { "none" }});
        space_a.put("run", key, run).await.unwrap();
    }
    let turn = |n: u32| NewOp::Event {
        surface: Surface::Conversation,
        stream: "talk".into(),
        payload: Payload::from_value(&json!({"role": "user", "content": n.to_string()})).unwrap(),
    };
    space_a.append((0..5).map(turn).collect()).await.unwrap();
    until(&b.node, || {
        (space_b.events(&Surface::Conversation, "talk", None, 9).unwrap().len() == 5).then_some(())
    })
    .await;

    let policy = |value: Value| Some(Payload::from_value(&value).unwrap());
    space_a.set_policy(&Surface::Run, policy(json!({"per_agent": 1}))).await.unwrap();
    space_b.set_policy(&Surface::Conversation, policy(json!({"last_n": 2}))).await.unwrap();

    for (node, space) in [(&a.node, &space_a), (&b.node, &space_b)] {
        until(node, || (space.policies().unwrap().len() == 2).then_some(())).await;
        assert_eq!(keys(space, &Surface::Run), ["3", "4"]);
        let stub = space.get(&Surface::Run, "1").unwrap().unwrap();
        assert!(stub.is_dropped && stub.shown.payload.is_none() && stub.others.is_empty());
        assert_eq!(stub.superseded_by, ["4"], "what supersedes it still resolves");
        let events = space.events(&Surface::Conversation, "talk", None, 9).unwrap();
        let said: Vec<_> =
            events.iter().map(|event| event.payload.string_member("content").unwrap()).collect();
        assert_eq!(said, ["3", "4"]);
        assert_eq!(space.transcript("talk", None, 9).unwrap().len(), 2);
        let resumed = space.resume("talk", 9).unwrap();
        assert_eq!((resumed.turns.len(), resumed.omitted_count), (2, 3));
        assert_eq!(space.trimmed(&Surface::Conversation, "talk").unwrap().unwrap().0, 3);
        let dropped: Vec<_> =
            space.policies().unwrap().into_iter().map(|row| (row.surface, row.dropped_count)).collect();
        assert_eq!(dropped, [("conversation".to_owned(), 3), ("run".to_owned(), 2)]);
    }
    // A new run of an agent moves the one before out of sight.
    space_b.put("run", "5", json!({"agent_id": "y"})).await.unwrap();
    assert_eq!(keys(&space_b, &Surface::Run), ["4", "5"]);
    space_b.set_policy(&Surface::Run, None).await.unwrap();
    assert_eq!(keys(&space_b, &Surface::Run), ["2", "3", "4", "5"], "nothing was lost");
    a.node.stop().await.unwrap();
    b.node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_whole_takes_no_policy() {
    let a = device("a").await;
    let space = a.node.personal();
    let policy = || Some(Payload::from_value(&json!({"last_n": 2})).unwrap());

    for surface in [Surface::Routing, Surface::Intent, "registry:note".parse().unwrap()] {
        let refused = space.set_policy(&surface, policy()).await;
        assert!(matches!(refused, Err(NodeError::Policy(_))), "{surface}");
        let written = space.put("registry:policy", &surface.to_string(), json!({"last_n": 2})).await;
        assert!(matches!(written, Err(NodeError::Policy(_))), "also as a plain row");
    }
    assert!(space.policies().unwrap().is_empty());
    a.node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_shows_what_its_policy_showed() {
    let a = device("a").await;
    let space = a.node.personal();
    for key in ["1", "2", "3"] {
        space.put("skill", key, json!({"supersedes": if key == "3" { "1" } else { "none" }})).await.unwrap();
    }
    for said in ["a", "b", "c"] {
        space.record_turn(NewTurn::user("talk", said).unwrap()).await.unwrap();
    }
    let before = space.positions().unwrap();
    let last = Payload::from_value(&json!({"last_n": 1})).unwrap();
    space.set_policy(&Surface::Skill, Some(last.clone())).await.unwrap();
    space.set_policy(&Surface::Conversation, Some(last)).await.unwrap();
    let trimmed = space.positions().unwrap();
    space.set_policy(&Surface::Skill, None).await.unwrap();
    space.set_policy(&Surface::Conversation, None).await.unwrap();

    let keys_at = |state: &StateAt| {
        let rows = state.list_all(&Surface::Skill, None, 9).unwrap();
        rows.into_iter().map(|row| row.key).collect::<Vec<_>>()
    };
    let state = space.state_at(before).await.unwrap();
    assert_eq!(keys_at(&state), ["1", "2", "3"]);
    assert!(!state.get(&Surface::Skill, "1").unwrap().unwrap().is_dropped);
    assert_eq!(state.resume("talk", 9).unwrap().omitted_count, 0);
    let state = space.state_at(trimmed).await.unwrap();
    assert_eq!(keys_at(&state), ["3"]);
    let stub = state.get(&Surface::Skill, "1").unwrap().unwrap();
    assert_eq!((stub.is_dropped, stub.superseded_by), (true, vec!["3".to_owned()]));
    assert_eq!(state.transcript("talk", None, 9).unwrap().len(), 1);
    assert_eq!(state.resume("talk", 9).unwrap().omitted_count, 2);
    assert_eq!(space.transcript("talk", None, 9).unwrap().len(), 3);
    assert_eq!(keys(&space, &Surface::Skill), ["2", "3"], "the present is not touched by it");
    a.node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_set_apart_are_a_conflict_that_one_device_settles_for_all() {
    let (a, b) = (device("a").await, device("b").await);
    let policy = |n: u32| Payload::from_value(&json!({"last_n": n})).unwrap();
    // Facts of `b` are put before and after its policy, so `a` takes them in another order.
    b.node.personal().put("run", "1", json!({})).await.unwrap();
    a.node.personal().set_policy(&Surface::Run, Some(policy(1))).await.unwrap();
    a.node.personal().put("run", "2", json!({})).await.unwrap();
    b.node.personal().set_policy(&Surface::Run, Some(policy(2))).await.unwrap();
    b.node.personal().put("run", "3", json!({})).await.unwrap();
    introduce(&a.node, &b.node).await;
    let (space_a, space_b) = (a.node.personal(), b.node.personal());
    let in_conflict = |space: &Space| {
        let rows = space.conflicts(None, 9).unwrap();
        rows.into_iter().map(|row| (row.surface.to_string(), row.key)).collect::<Vec<_>>()
    };
    let rows: Surface = "registry:policy".parse().unwrap();

    // Which of the two is the later one hangs on clocks; it is the same one on both.
    let mut seen = Vec::new();
    for (node, space) in [(&a.node, &space_a), (&b.node, &space_b)] {
        until(node, || (space.get(&rows, "run").unwrap()?.others.len() == 1).then_some(())).await;
        for run in ["1", "2", "3"] {
            until(node, || space.get(&Surface::Run, run).unwrap()).await;
        }
        assert_eq!(in_conflict(space), [("registry:policy".to_owned(), "run".to_owned())]);
        let shown = space.policy(&Surface::Run).unwrap().last_n.unwrap();
        assert_eq!(keys(space, &Surface::Run).len(), usize::try_from(shown).unwrap(), "the shown one counts");
        seen.push((shown, keys(space, &Surface::Run)));
    }
    assert_eq!(seen[0], seen[1]);
    let left = 3 - usize::try_from(seen[0].0).unwrap();
    let no_policy = Choice::Value(Payload::from_value(&json!({"last_n": 0})).unwrap());
    let refused = space_b.resolve(&rows, "run", no_policy, None).await;
    assert!(matches!(refused, Err(NodeError::Policy(_))), "{refused:?}");
    let lost = space_b.get(&rows, "run").unwrap().unwrap().others[0].id;
    space_b.resolve(&rows, "run", Choice::Take(lost), None).await.unwrap();

    for (node, space) in [(&a.node, &space_a), (&b.node, &space_b)] {
        until(node, || in_conflict(space).is_empty().then_some(())).await;
        assert_eq!(keys(space, &Surface::Run).len(), left);
    }
    until(&a.node, || (space_a.root() == space_b.root()).then_some(())).await;
    let (root, kept) = (space_a.root(), keys(&space_a, &Surface::Run));
    assert_eq!(keys(&space_b, &Surface::Run), kept);
    drop((space_a, space_b));
    a.node.stop().await.unwrap();
    let a = a.again().await;
    assert_eq!(keys(&a.node.personal(), &Surface::Run), kept, "and so after a restart");
    assert_eq!(a.node.personal().root(), root);
    a.node.stop().await.unwrap();
    b.node.stop().await.unwrap();
}

#[test]
fn a_fact_without_an_id_is_called_by_the_hash_of_its_payload() {
    let home = Home::init("a");
    let hash = blake3::hash(br#"{"a":1,"b":2}"#).to_hex().to_string();
    {
        let _daemon = home.up(&[]);
        let mut caller = Caller::connect(&home);
        caller.call("sync.append", json!({"surface": "knowledge", "payload": {"b": 2, "a": 1}}));
    }

    let line = br#"{"surface":"skill","payload":{ "b": 2, "a": 1 }}"#;
    home.run_with(&["import", "-"], line).expect_code(0);

    for surface in ["knowledge", "skill"] {
        assert_eq!(home.json(&["list", surface])["rows"][0]["id"], hash.as_str());
    }
}

#[test]
fn a_person_sets_a_policy_and_sees_what_it_drops() {
    let home = Home::init("a");
    assert_eq!(home.run(&["policy"]).expect_code(0).stdout, "no policies: everything is kept\n");
    home.run(&["put", "skill", "old", r#"{"v":1}"#]).expect_code(0);
    home.run(&["put", "skill", "new", r#"{"v":2,"supersedes":"old"}"#]).expect_code(0);
    for key in ["1", "2", "3"] {
        home.run(&["put", "trajectory", key, "1"]).expect_code(0);
    }

    home.run(&["policy", "set", "trajectory", r#"{"last_n":2}"#]).expect_code(0);
    home.run(&["policy", "set", "routing", r#"{"last_n":2}"#]).expect_code(1).says("routing is kept whole");
    home.run(&["policy", "set", "run", r#"{"lastn":2}"#]).expect_code(1).says("max_age_days");
    home.run(&["policy", "set", "nowhere", "{}"]).expect_code(1).says("unknown surface");

    let list = home.run(&["policy", "list"]).expect_code(0).stdout;
    assert!(list.contains(r#"trajectory  {"last_n":2}  1"#), "{list}");
    home.run(&["get", "trajectory", "1"])
        .expect_code(1)
        .says("was dropped by the surface's retention policy");
    home.run(&["conflicts", "show", "trajectory", "1"]).expect_code(1).says("was dropped by");
    let stub = home.json(&["get", "trajectory", "1"]);
    assert_eq!((&stub["dropped"], &stub["deleted"]), (&json!(true), &json!(false)), "nobody removed it");
    assert_eq!(home.json(&["list", "trajectory"])["rows"].as_array().unwrap().len(), 2);
    assert_eq!(home.json(&["list", "skill"])["rows"].as_array().unwrap().len(), 1);
    assert_eq!(home.json(&["list", "skill", "--superseded"])["rows"][1]["superseded_by"], json!(["new"]));
    home.run(&["get", "skill", "old"]).expect_code(0).says("superseded by new");
    assert!(home.run(&["export", "skill"]).stdout.contains(r#""key":"old""#));
    let trimmed = home.run(&["frontier"]).expect_code(0).stdout;
    home.run(&["policy", "clear", "trajectory"]).expect_code(0);
    home.run(&["policy", "clear", "trajectory"]).expect_code(1).says("everything of it is kept already");
    home.run(&["policy", "clear", "nowhere"]).expect_code(1).says("unknown surface");
    let all = home.run(&["list", "skill", "--superseded"]).expect_code(0).stdout;
    assert!(all.contains("superseded by new"), "{all}");
    home.run(&["get", "trajectory", "1", "--at", trimmed.trim()]).expect_code(1).says("was dropped");
    let then = home.json(&["list", "skill", "--superseded", "--at", trimmed.trim()]);
    assert_eq!(then["page"]["rows"].as_array().unwrap().len(), 2);
    home.run(&["get", "trajectory", "1"]).expect_code(0);
}
