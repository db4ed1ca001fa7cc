//! A device that is silent for long, between real devices.

use kinfold::node::{Activity, Node};
use kinfold::roster::{Dormancy, Role};
use kinfold::sync::GcHold;
use serde_json::json;

use crate::pair::{PATIENCE, device, introduce, invite, until};

async fn dormancy(of: kinfold::model::DeviceId, at: &Node) -> Option<Dormancy> {
    let devices = at.status().await.unwrap().devices;
    devices.iter().find(|device| device.device == of).expect("it is a device of the space").dormancy
}

async fn until_dormancy(of: kinfold::model::DeviceId, at: &Node, is_dormant: bool) -> Option<Dormancy> {
    let wait = async {
        let mut version = at.version();
        loop {
            version.mark_unchanged();
            let said = dormancy(of, at).await;
            if said.is_some() == is_dormant {
                return said;
            }
            version.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("in time")
}

/// Days pass on which a device is awake.
async fn pass(node: &Node, days: u32) {
    for _ in 0..days {
        node.personal().pass_day().await.unwrap();
    }
}

async fn holds(node: &Node, device: kinfold::model::DeviceId) -> bool {
    let is_it = |hold: &GcHold| matches!(hold, GcHold::Unattested { device: of, .. } if *of == device);
    node.personal().gc_why().await.unwrap().holds.iter().any(is_it)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_in_a_drawer_is_waited_for_no_more_after_thirty_days_and_again_once_it_is_back() {
    let (a, b, c) = (device("a").await, device("b").await, device("c").await);
    introduce(&a.node, &b.node).await;
    invite(&a.node, &c.node, "c", Role::Member).await;
    c.node.start().await.unwrap();
    c.node.add_peer(a.node.local_addr().unwrap().to_string()).await.unwrap();
    a.node.personal().put("registry:note", "one", json!(1)).await.unwrap();
    tokio::time::timeout(PATIENCE, a.node.wait_all(kinfold::node::Custody::on(2))).await.unwrap().unwrap();
    let drawer = c.node.device();
    c.node.stop().await.unwrap();
    // Too late for it to attest that.
    a.node.personal().checkpoint().await.unwrap();
    let c = c.again().await;
    c.node.personal().put("registry:note", "from the drawer", json!(3)).await.unwrap();
    a.node.personal().put("registry:note", "two", json!(2)).await.unwrap();
    tokio::time::timeout(PATIENCE, a.node.wait_all(kinfold::node::Custody::on(1))).await.unwrap().unwrap();

    // The day on which it was heard of last is none; a restart in between changes nothing.
    pass(&a.node, 16).await;
    assert!(holds(&a.node, drawer).await);
    a.node.stop().await.unwrap();
    let a = a.again().await;
    a.node.start().await.unwrap();
    b.node.add_peer(a.node.local_addr().unwrap().to_string()).await.unwrap();
    until(&a.node, || (a.node.personal().root() == b.node.personal().root()).then_some(())).await;
    pass(&a.node, 14).await;
    assert_eq!(dormancy(drawer, &a.node).await, None, "not a day early");
    pass(&a.node, 2).await;

    let said = until_dormancy(drawer, &b.node, true).await.unwrap();
    assert_eq!((said.by, said.after_days.map(std::num::NonZeroU16::get)), (a.node.device(), Some(30)));
    assert_eq!(dormancy(b.node.device(), &a.node).await, None, "whoever is connected is not silent");
    assert!(!holds(&a.node, drawer).await, "nothing waits for it");

    c.node.start().await.unwrap();
    c.node.add_peer(a.node.local_addr().unwrap().to_string()).await.unwrap();
    for node in [&a.node, &b.node, &c.node] {
        until_dormancy(drawer, node, false).await;
    }
    until(&a.node, || (a.node.personal().root() == c.node.personal().root()).then_some(())).await;
    for device in [a, b, c] {
        device.node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_may_say_of_a_device_what_its_silence_has_said_already() {
    let (a, b) = (device("a").await, device("b").await);
    introduce(&a.node, &b.node).await;
    tokio::time::timeout(PATIENCE, a.node.wait_all(kinfold::node::Custody::on(1))).await.unwrap().unwrap();
    let (away, space) = (b.node.device(), a.node.personal());
    b.node.stop().await.unwrap();
    // It lacks the record of that.
    space.rename(a.node.device(), "another name").await.unwrap();
    let said = async || dormancy(away, &a.node).await.and_then(|said| said.after_days);
    let by_itself = async {
        while said().await.is_none() {
            pass(&a.node, 1).await;
        }
    };
    tokio::time::timeout(PATIENCE, by_itself).await.expect("it is dormant by itself");

    assert!(space.set_activity(away, Activity::Dormant).await.unwrap());
    assert_eq!((dormancy(away, &a.node).await.is_some(), said().await), (true, None));
    assert!(!space.set_activity(away, Activity::Dormant).await.unwrap(), "that is no change");
    assert!(space.set_activity(away, Activity::Active).await.unwrap());
    assert!(!space.set_activity(away, Activity::Active).await.unwrap(), "nor is that");
    assert_eq!(dormancy(away, &a.node).await, None);
    a.node.stop().await.unwrap();
}
