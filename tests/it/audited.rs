//! What was adopted, folded again from devices that still hold every op of it.

use kinfold::node::{BaseAudit, Consent, Node, WhyNotComputed};
use kinfold::roster::Role;

use crate::drawer::{self, attested, checkpoint};
use crate::kin::{Home, pair};
use crate::pair::{device, introduce, invite, note};
use crate::rebase::{connect, publish, settle, until, until_equal, write};

/// Whether nothing is shown as adopted.
async fn is_computed(node: &Node) -> bool {
    node.status().await.unwrap().adopted.is_none()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_adopted_counts_as_computed_once_every_op_was_folded_again() {
    let (a, b, c) = (device("a").await, device("b").await, device("c").await);
    introduce(&a.node, &b.node).await;
    write(&a.node, "a", 0..300).await;
    write(&b.node, "b", 0..300).await;
    a.node.personal().remove(&note(), "b 7").await.unwrap();
    settle(&a.node, 1).await;
    settle(&b.node, 1).await;
    let made = publish(&a.node, 601, 2).await;
    a.node.personal().trim().await.unwrap();
    assert_eq!(a.node.personal().audit_base().await.unwrap(), BaseAudit::Nothing, "folded there");

    invite(&a.node, &c.node, "c", Role::Member).await;
    connect(&c.node, &[&a.node]).await;
    until_equal(&c.node, &a.node).await;
    assert!(!is_computed(&c.node).await);
    let gone = c.node.personal().audit_base().await.unwrap();
    assert!(
        matches!(gone, BaseAudit::NotComputed { why: WhyNotComputed::Gone { .. }, .. }),
        "a has dropped them: {gone:?}"
    );
    connect(&c.node, &[&b.node]).await;
    let computed = until(&c.node, async || match c.node.personal().audit_base().await.unwrap() {
        BaseAudit::Computed { checkpoint, op_count, from } => Some((checkpoint, op_count, from)),
        _ => None,
    })
    .await;

    assert_eq!(computed, (made.hash, 601, vec![b.node.device()]));
    assert!(is_computed(&c.node).await);
    // What it says of the checkpoint is of its own folding now, also after a restart, and is passed on.
    c.node.stop().await.unwrap();
    let c = c.again().await;
    assert!(is_computed(&c.node).await);
    assert_eq!(c.node.personal().audit_base().await.unwrap(), BaseAudit::Nothing);
    connect(&c.node, &[&b.node]).await;
    until(&b.node, async || {
        b.node.personal().exchange_checkpoints().await.unwrap();
        let newest = b.node.personal().checkpoints().unwrap().swap_remove(0);
        newest.attested_by.contains(&c.node.device()).then_some(())
    })
    .await;
    for device in [a, b, c] {
        device.node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_was_folded_wrongly_is_found_by_whoever_folds_it_again() {
    let (a, b, c) = (device("a").await, device("b").await, device("c").await);
    introduce(&a.node, &b.node).await;
    write(&a.node, "a", 0..100).await;
    settle(&a.node, 1).await;
    let made = a.node.personal().checkpoint_wrongly().await.unwrap();
    a.node.personal().trim().await.unwrap();
    invite(&a.node, &c.node, "c", Role::Member).await;
    connect(&c.node, &[&a.node]).await;
    let rebased = until(&c.node, async || {
        let rebased = c.node.personal().rebase(Consent::Given).await.unwrap();
        rebased.base.map(|_| rebased)
    })
    .await;
    assert_eq!(rebased.base, Some(made));

    connect(&c.node, &[&b.node]).await;
    let (checkpoint, folded, adopted) = until(&c.node, async || {
        let audit = c.node.personal().audit_base().await.unwrap();
        let BaseAudit::NotComputed { checkpoint, why } = audit else { panic!("{audit:?}") };
        match why {
            WhyNotComputed::Differs { folded, adopted } => Some((checkpoint, folded, adopted)),
            _ => None,
        }
    })
    .await;

    assert_eq!((checkpoint, folded), (made, b.node.personal().root()));
    assert_ne!(folded, adopted);
    assert!(!is_computed(&c.node).await);
    for device in [a, b, c] {
        device.node.stop().await.unwrap();
    }
}

#[test]
fn a_person_has_it_computed_while_a_device_still_holds_the_ops() {
    let (one, two, three) = (Home::init("one"), Home::init("two"), Home::init("three"));
    pair(&one, &two);
    let first = one.up(&[]);
    let second = two.up(&["--peer", &first.listening]);
    for row in 0..5 {
        one.run(&["put", "registry:note", &format!("n {row}"), "1"]).expect_code(0);
    }
    one.run(&["wait", "--on", "1"]).expect_code(0);
    let made = checkpoint(&one, 5);
    drawer::until(|| attested(&one, &made, 2));
    one.run(&["gc", "run", "--now", "--yes", &made[..12]]).expect_code(0);
    pair(&one, &three);
    let third = three.up(&["--peer", &first.listening]);
    drawer::until(|| (three.json(&["status"])["base_checkpoint"] == made.as_str()).then_some(()));

    let gone = three.run(&["verify", "--base"]).expect_code(75);
    assert!(gone.stdout.contains("is still not computed here"), "{gone:?}");
    gone.says("no connected device holds the ops of").says("connect a device that has not dropped them yet");
    assert_eq!(third.terminate(), 0);
    let third = three.up(&["--peer", &first.listening, "--peer", &second.listening]);
    let computed = drawer::until(|| Some(three.run(&["verify", "--base"])).filter(|ended| ended.code == 0));

    assert!(computed.stdout.contains("5 ops folded again come to what was adopted"), "{computed:?}");
    let status = three.run(&["status"]).expect_code(0).stdout;
    assert!(!status.contains("adopted"), "{status}");
    assert_eq!([first, second, third].map(|daemon| daemon.terminate()), [0; 3]);
}

#[test]
fn a_person_may_have_it_computed_and_is_told_what_is_in_the_way() {
    let one = Home::init("one");
    one.run(&["put", "registry:note", "x", "1"]).expect_code(0);

    let nothing = one.run(&["verify", "--base"]).expect_code(0).stdout;

    assert!(nothing.contains("every op was folded here; nothing was adopted"), "{nothing}");
    assert_eq!(one.json(&["verify", "--base"])["base"]["outcome"], "nothing");
    assert!(one.json(&["verify"])["base"].is_null());
}
