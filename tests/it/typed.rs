//! The library for applications: values of a type, and streams that are replayed.

use std::path::Path;

use kinfold::model::Surface;
use kinfold::node::{Node, NodeError};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, PartialEq, Clone, Debug)]
struct Note {
    text: String,
    stars: u8,
}

fn note(text: &str) -> Note {
    Note { text: text.into(), stars: 3 }
}

async fn open(home: &Path) -> Node {
    Node::init(home, "a").unwrap();
    Node::builder(home).without_mdns().open().await.unwrap()
}

#[tokio::test]
async fn rows_are_values_of_their_type_and_others_are_named() {
    let home = tempfile::tempdir().unwrap();
    let node = open(&home.path().join("home")).await;
    let space = node.personal();
    let notes = space.typed::<Note>("registry:note").unwrap();
    let mut changes = notes.follow(None).await.unwrap();

    notes.put("b", &note("milk")).await.unwrap();
    space.put("registry:other", "x", 1).await.unwrap();
    notes.put("a", &note("bread")).await.unwrap();
    notes.remove("b").await.unwrap();
    space.put("registry:note", "c", "no note").await.unwrap();
    notes.put("d", &note("salt")).await.unwrap();

    assert_eq!(notes.get("a").unwrap(), Some(note("bread")));
    assert_eq!(notes.get("b").unwrap(), None);
    assert!(matches!(notes.get("c"), Err(NodeError::NotOfType { key, .. }) if key == "c"));
    assert_eq!(notes.list(None, 1).unwrap(), [("a".to_owned(), note("bread"))]);
    assert!(matches!(notes.list(None, 9), Err(NodeError::NotOfType { .. })));
    assert_eq!(notes.list(Some("c"), 9).unwrap(), [("d".to_owned(), note("salt"))]);
    let mut told = Vec::new();
    for _ in 0..5 {
        told.push(changes.next().await.map(|change| (change.key, change.value.map(|note| note.text))));
    }
    let ok = |at: usize| told[at].as_ref().ok().map(|(key, text)| (key.as_str(), text.as_deref()));
    assert_eq!(ok(0), Some(("b", Some("milk"))));
    assert_eq!(ok(1), Some(("a", Some("bread"))));
    assert_eq!(ok(2), Some(("b", None)));
    assert!(matches!(told[3], Err(NodeError::NotOfType { .. })));
    assert_eq!(ok(4), Some(("d", Some("salt"))), "it goes on after a value of another type");
    assert!(matches!(space.typed::<Note>("nowhere"), Err(NodeError::Surface(_))));
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_replay_sees_every_event_of_its_stream_once_and_in_order() {
    let home = tempfile::tempdir().unwrap();
    let node = open(&home.path().join("home")).await;
    let space = node.personal();
    for n in 0..700 {
        space.record("routing", if n % 7 == 0 { "other" } else { "mail" }, n).await.unwrap();
    }
    let routing: Surface = "routing".parse().unwrap();
    let count = |state: Vec<u32>, event: &kinfold::node::StreamEvent| {
        let mut state = state;
        state.push(event.payload.as_str().parse().unwrap());
        state
    };

    let seen = space.replay(&routing, "mail", Vec::new(), count).unwrap();

    assert!(seen.into_iter().eq((0..700).filter(|n| n % 7 != 0)));
    assert_eq!(space.replay(&routing, "none", 5, |_, _| 6).unwrap(), 5);
    node.stop().await.unwrap();
}
