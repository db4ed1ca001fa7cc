//! Keys of a space that change while somebody is away.

use std::collections::BTreeSet;

use kinfold::crypto::EpochKey;
use kinfold::model::{KeyId, Root};
use kinfold::node::{HealthReason, Node};
use kinfold::roster::Role;
use tokio::time::timeout;

use crate::clones::{Home, close, meet, until_all};
use crate::pair::{PATIENCE, invite, note, until};
use crate::peers::until_status;

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_while_a_device_was_removed_reads_what_was_written_since() {
    let homes = [Home::init("a"), Home::init("b"), Home::init("c"), Home::init("d")];
    let [a, b, c, d] = &homes;
    let (at_a, at_b, at_c, at_d) = (a.open().await, b.open().await, c.open().await, d.open().await);
    for (node, name) in [(&at_b, "b"), (&at_c, "c"), (&at_d, "d")] {
        invite(&at_a, node, name, Role::Member).await;
    }
    put(&at_a, "before").await;
    meet(&at_b, &at_a).await;
    meet(&at_c, &at_a).await;
    close(at_c).await;
    let removed = at_d.device();
    close(at_d).await;

    let revoked = at_a.personal().revoke(removed).await.unwrap();
    assert!(revoked.is_rekeyed);
    put(&at_a, "since").await;
    until(&at_b, || has(&at_b, "since").then_some(())).await;
    // Whoever removed it is not needed for the rest.
    let new_keys = keys(&at_a).await;
    close(at_a).await;
    let at_c = c.open().await;
    assert!(!has(&at_c, "since"));
    meet(&at_c, &at_b).await;
    put(&at_c, "back").await;

    until(&at_c, || has(&at_c, "since").then_some(())).await;
    until(&at_b, || has(&at_b, "back").then_some(())).await;
    until_status(&at_c, |status| status.health.is_empty()).await;
    assert_eq!(new_keys.len(), 2);
    let at_a = a.open().await;
    at_c.add_peer(at_a.local_addr().unwrap().to_string()).await.unwrap();
    agree(&[&at_a, &at_b, &at_c], &["before", "since", "back"]).await;
    for node in [at_a, at_b, at_c] {
        close(node).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_admins_who_renew_the_key_apart_end_with_a_third_and_everybody_reads_everything() {
    let homes = [Home::init("a"), Home::init("b"), Home::init("c")];
    let [a, b, c] = &homes;
    let (at_a, at_b, at_c) = (a.open().await, b.open().await, c.open().await);
    invite(&at_a, &at_b, "b", Role::Admin).await;
    invite(&at_a, &at_c, "c", Role::Member).await;
    put(&at_a, "before").await;
    meet(&at_b, &at_a).await;
    meet(&at_c, &at_a).await;
    // Each must know of the others' roles before it is alone.
    meet(&at_c, &at_b).await;
    close(at_a).await;
    close(at_b).await;
    close(at_c).await;

    let mut apart = BTreeSet::new();
    for (home, what) in [(a, "by a, apart"), (b, "by b, apart")] {
        let node = home.open().await;
        assert_eq!(node.personal().rotate().await.unwrap().epoch, 1);
        put(&node, what).await;
        // Sealed under the key that only this one has.
        put_many(&node, what).await;
        if home.path() == a.path() {
            apart.extend(keys(&node).await.iter().map(EpochKey::id));
        }
        close(node).await;
    }
    let (at_a, at_b) = (a.open().await, b.open().await);
    meet(&at_a, &at_b).await;
    until_all(&[&at_a, &at_b], async || {
        keys(&at_a).await.len() == 4 && is_settled(&at_a).await && is_settled(&at_b).await
    })
    .await;
    put(&at_a, "by a, together").await;
    put(&at_b, "by b, together").await;
    let at_c = c.open().await;
    meet(&at_c, &at_b).await;

    let written = ["before", "by a, apart", "by b, apart", "by a, together", "by b, together"];
    agree(&[&at_a, &at_b, &at_c], &written).await;
    let all: BTreeSet<KeyId> = keys(&at_a).await.iter().map(EpochKey::id).collect();
    assert_eq!((apart.len(), all.len()), (2, 4), "the first, one each, and the one that follows");
    for node in [at_a, at_b, at_c] {
        close(node).await;
    }
}

/// Waits until all hold and show the same, with nothing left that cannot be read.
async fn agree(nodes: &[&Node], written: &[&str]) {
    let are_equal = async || {
        let mut roots: BTreeSet<Root> = BTreeSet::new();
        for node in nodes {
            if !written.iter().all(|key| has(node, key)) || !is_settled(node).await {
                return false;
            }
            roots.insert(node.personal().root());
        }
        roots.len() == 1
    };
    let waiting = timeout(PATIENCE, until_all(nodes, are_equal)).await;
    if waiting.is_err() {
        for node in nodes {
            let status = node.status().await.unwrap();
            eprintln!(
                "{:?} {:?}",
                status.health,
                written.iter().map(|key| has(node, key)).collect::<Vec<_>>()
            );
        }
        panic!("they do not agree");
    }
}

async fn is_settled(node: &Node) -> bool {
    let health = node.status().await.unwrap().health;
    let is_open = |reason: &HealthReason| {
        matches!(reason, HealthReason::EpochContested | HealthReason::KeyMissing { .. })
    };
    !health.iter().any(is_open)
}

async fn put(node: &Node, key: &str) {
    node.personal().put("registry:note", key, key).await.unwrap();
}

async fn put_many(node: &Node, what: &str) {
    for n in 0..200 {
        put(node, &format!("{what} {n}")).await;
    }
}

fn has(node: &Node, key: &str) -> bool {
    node.personal().get(&note(), key).unwrap().is_some()
}

/// The keys of every epoch.
async fn keys(node: &Node) -> Vec<EpochKey> {
    node.personal().enrol(node.device(), "itself", Role::Admin).await.unwrap().keys
}
