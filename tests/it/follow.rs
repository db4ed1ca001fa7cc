//! Changes followed without a gap: over a restart, behind a slow reader, and not into another history.

use std::path::Path;

use kinfold::model::{Payload, Seq};
use kinfold::node::{Bookmark, FollowError, Follower, NewOp, Node, NodeError, Space};
use kinfold::roster::Role;

async fn open(home: &Path) -> Node {
    Node::builder(home).without_mdns().open().await.unwrap()
}

fn ops(count: usize) -> Vec<NewOp> {
    let op = |n: usize| NewOp::Put {
        surface: "registry:note".parse().unwrap(),
        key: format!("k{}", n % 100),
        payload: Payload::parse(&n.to_string()).unwrap(),
    };
    (0..count).map(op).collect()
}

/// The positions in this device's log of everything that is told until `last`.
async fn told(follower: &mut Follower, last: u64) -> Vec<u64> {
    let mut seqs = Vec::new();
    while seqs.last() != Some(&last) {
        match follower.next().await {
            Ok(change) => seqs.push(change.dot.seq.get()),
            Err(FollowError::Lagged { missed }) => assert!(missed > 0),
            Err(error) => panic!("{error}"),
        }
    }
    seqs
}

#[tokio::test]
async fn a_follower_goes_on_where_it_was_in_an_earlier_run() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().join("home");
    Node::init(&home, "a").unwrap();
    let node = open(&home).await;
    let mut follower = node.personal().follow(None).await.unwrap();
    node.personal().append(ops(3)).await.unwrap();
    assert_eq!(told(&mut follower, 2).await, [1, 2]);
    let bookmark = follower.bookmark().clone();
    node.stop().await.unwrap();
    drop((node, follower));

    let node = open(&home).await;
    node.personal().append(ops(2)).await.unwrap();
    let mut follower = node.personal().follow(Some(bookmark)).await.unwrap();
    node.personal().append(ops(2)).await.unwrap();

    assert_eq!(told(&mut follower, 7).await, [3, 4, 5, 6, 7]);
    assert!(follower.bookmark().frontier.values().eq(&[Seq::new(7)]));
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_follower_that_does_not_ask_is_told_so_and_loses_nothing() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().join("home");
    Node::init(&home, "a").unwrap();
    let node = open(&home).await;
    let mut follower = node.personal().follow(None).await.unwrap();
    for _ in 0..6 {
        node.personal().append(ops(1_000)).await.unwrap();
    }

    let lagged = follower.next().await;

    assert!(matches!(lagged, Err(FollowError::Lagged { missed }) if missed >= 1_000), "{lagged:?}");
    node.personal().append(ops(6_000)).await.unwrap();
    assert_eq!(told(&mut follower, 12_000).await, (1..=12_000).collect::<Vec<_>>());
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_bookmark_of_another_history_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().join("home");
    Node::init(&home, "a").unwrap();
    let node = open(&home).await;
    let space = node.personal();
    space.append(ops(2)).await.unwrap();
    let bookmark = space.follow(None).await.unwrap().bookmark().clone();
    let refused = async |space: &Space, bookmark: Bookmark| {
        matches!(space.follow(Some(bookmark)).await, Err(NodeError::BookmarkStale))
    };

    assert!(!refused(&space, bookmark.clone()).await);
    assert!(refused(&space, Bookmark { truncations: 1, ..bookmark.clone() }).await);
    let ahead = bookmark.frontier.iter().map(|(log, seq)| (*log, seq.next())).collect();
    assert!(refused(&space, Bookmark { frontier: ahead, ..bookmark.clone() }).await);
    let other = node.found("shared:acme".parse().unwrap(), "a").await.unwrap();
    assert!(refused(&other, bookmark).await);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_follower_that_is_behind_when_its_space_gives_way_is_told_to_begin_again() {
    let homes = tempfile::tempdir().unwrap();
    let (desk, laptop) = (homes.path().join("desk"), homes.path().join("laptop"));
    Node::init(&desk, "desk").unwrap();
    Node::init(&laptop, "laptop").unwrap();
    let (desk, laptop) = (open(&desk).await, open(&laptop).await);
    let mut follower = laptop.personal().follow(None).await.unwrap();
    let welcome = desk.personal().enrol(laptop.device(), "laptop", Role::Admin).await.unwrap();
    laptop.adopt(welcome).await.unwrap();
    laptop.personal().append(ops(10_000)).await.unwrap();

    let ended = follower.next().await;

    assert!(matches!(ended, Err(FollowError::Node(NodeError::BookmarkStale))), "{ended:?}");
    laptop.stop().await.unwrap();
    desk.stop().await.unwrap();
}
