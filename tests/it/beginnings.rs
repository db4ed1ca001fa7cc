//! What may go wrong on the way to beginning with a checkpoint, and what is kept of it.

use kinfold::node::{Consent, WhyWaiting};
use kinfold::roster::Role;

use crate::pair::{device, invite};
use crate::rebase::{connect, publish, two_and_a_newcomer, until, until_equal, write};

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_not_what_was_asked_for_are_not_kept_and_come_from_another_device() {
    let (a, b, c, made) = two_and_a_newcomer().await;
    a.node.spoil_chunks(true);

    connect(&c.node, &[&a.node]).await;
    let waiting = until(&c.node, async || {
        let waiting = c.node.status().await.unwrap().waiting?;
        matches!(waiting.why, WhyWaiting::Fetching { .. }).then_some(waiting)
    })
    .await;
    c.node.personal().rebase(Consent::Given).await.unwrap();
    let status = c.node.status().await.unwrap();
    assert_eq!((waiting.checkpoint, status.base, status.row_count), (made.hash, None, 0));
    assert_eq!(c.node.personal().chunks_fetched(), 0, "none is kept");
    until(&b.node, async || {
        b.node.personal().exchange_checkpoints().await.unwrap();
        b.node.personal().checkpoints().unwrap().first()?.is_whole.then_some(())
    })
    .await;
    b.node.personal().trim().await.unwrap();
    connect(&c.node, &[&b.node]).await;
    until_equal(&c.node, &b.node).await;

    assert_eq!(c.node.status().await.unwrap().base, Some(made.hash));
    assert_eq!(c.node.personal().chunks_fetched(), made.chunk_count);
    for device in [a, b, c] {
        device.node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_word_of_a_person_is_kept_over_a_restart_until_it_was_used() {
    let (a, c) = (device("a").await, device("c").await);
    write(&a.node, "a", 0..300).await;
    a.node.start().await.unwrap();
    let made = publish(&a.node, 300, 1).await;
    a.node.personal().trim().await.unwrap();
    a.node.spoil_chunks(true);
    invite(&a.node, &c.node, "c", Role::Member).await;
    connect(&c.node, &[&a.node]).await;
    until(&c.node, async || c.node.status().await.unwrap().waiting).await;

    let rebased = c.node.personal().rebase(Consent::Given).await.unwrap();
    let why = rebased.waiting.expect("nothing comes").why;
    assert!(matches!(why, WhyWaiting::Fetching { .. }), "{why:?}");
    c.node.stop().await.unwrap();
    a.node.spoil_chunks(false);
    let c = c.again().await;
    connect(&c.node, &[&a.node]).await;
    until_equal(&c.node, &a.node).await;

    let status = c.node.status().await.unwrap();
    assert_eq!((status.base, status.waiting), (Some(made.hash), None), "nobody was asked again");
    for device in [a, c] {
        device.node.stop().await.unwrap();
    }
}
