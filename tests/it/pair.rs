//! Two nodes of one person, in one process, over real QUIC on loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use kinfold::model::Surface;
use kinfold::node::{Custody, NewOp, Node};
use kinfold::roster::Role;
use serde_json::json;
use tempfile::TempDir;

/// Longer than anything here takes; only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Device {
    pub node: Node,
    _home: TempDir,
}

impl Device {
    /// Opens its home again, after its node was stopped.
    pub async fn again(self) -> Self {
        let Self { node, _home } = self;
        // Its store is closed with the last handle.
        drop(node);
        Self { node: open(&_home).await, _home }
    }
}

async fn open(home: &TempDir) -> Node {
    Node::builder(home.path().join("home"))
        .listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .without_mdns()
        .open()
        .await
        .unwrap()
}

pub async fn device(name: &str) -> Device {
    let home = TempDir::new().unwrap();
    Node::init(home.path().join("home").as_path(), name).unwrap();
    Device { node: open(&home).await, _home: home }
}

pub async fn introduce(a: &Node, b: &Node) {
    invite(a, b, "b", Role::Admin).await;
    a.start().await.unwrap();
    b.start().await.unwrap();
    b.add_peer(a.local_addr().unwrap().to_string()).await.unwrap();
}

/// Hands an invitation over as a pairing does, without the channel.
pub async fn invite(by: &Node, joiner: &Node, name: &str, role: Role) {
    let welcome = by.personal().enrol(joiner.device(), name, role).await.unwrap();
    joiner.adopt(welcome).await.unwrap();
}

pub async fn until<T>(node: &Node, mut check: impl FnMut() -> Option<T>) -> T {
    let mut version = node.version();
    let wait = async {
        loop {
            version.mark_unchanged();
            if let Some(found) = check() {
                return found;
            }
            version.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("in time")
}

pub fn note() -> Surface {
    "registry:note".parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_wrote_before_they_met_is_on_both_afterwards() {
    let (a, b) = (device("a").await, device("b").await);
    let (space_a, space_b) = (a.node.personal(), b.node.personal());
    space_a.put("registry:note", "from a", json!({"text": 1})).await.unwrap();
    space_b.put("registry:note", "from b", json!({"text": 2})).await.unwrap();

    introduce(&a.node, &b.node).await;
    let (na, nb) = (a.node.clone(), b.node.clone());
    until(&a.node, || na.personal().get(&note(), "from b").unwrap()).await;
    until(&b.node, || nb.personal().get(&note(), "from a").unwrap()).await;

    let op = space_a.put("registry:note", "live", json!({"text": 3})).await.unwrap();
    let holders = tokio::time::timeout(PATIENCE, a.node.wait(op.id, Custody::on(1))).await.unwrap().unwrap();
    assert_eq!(holders, [b.node.device()]);
    until(&a.node, || (na.personal().root() == nb.personal().root()).then_some(())).await;
    let round = tokio::time::timeout(PATIENCE, a.node.sync()).await.unwrap().unwrap();
    assert_eq!(round.peers, 1);
    a.node.stop().await.unwrap();
    b.node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_wrote_nothing_acknowledge_each_other_all_the_same() {
    let (a, b) = (device("a").await, device("b").await);

    introduce(&a.node, &b.node).await;

    for node in [&a.node, &b.node] {
        let holders = tokio::time::timeout(PATIENCE, node.wait_all(Custody::on(1))).await.unwrap().unwrap();
        assert_eq!(holders.len(), 1);
    }
    a.node.stop().await.unwrap();
    b.node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_awaited_before_the_space_gave_way_arrives_after_it() {
    let (a, b) = (device("a").await, device("b").await);
    let op_a = a.node.personal().put("registry:note", "from a", json!(1)).await.unwrap();
    let op_b = b.node.personal().put("registry:note", "from b", json!(2)).await.unwrap();

    introduce(&a.node, &b.node).await;
    let both =
        async { tokio::join!(a.node.wait(op_a.id, Custody::on(1)), b.node.wait(op_b.id, Custody::on(1))) };
    let (on_b, on_a) = tokio::time::timeout(PATIENCE, both).await.expect("in time");

    assert_eq!((on_b.unwrap(), on_a.unwrap()), (vec![b.node.device()], vec![a.node.device()]));
    a.node.stop().await.unwrap();
    b.node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_arrives_whole_and_is_acknowledged() {
    let (a, b) = (device("a").await, device("b").await);
    let ops = (0..20_000)
        .map(|index| NewOp::Put {
            surface: note(),
            key: format!("row {index:05}"),
            payload: kinfold::model::Payload::from_value(&json!({"text": format!("value {index}")})).unwrap(),
        })
        .collect();
    a.node.personal().append(ops).await.unwrap();

    introduce(&a.node, &b.node).await;
    tokio::time::timeout(PATIENCE, a.node.wait_all(Custody::on(1))).await.unwrap().unwrap();

    assert_eq!(a.node.personal().root(), b.node.personal().root());
    assert_eq!(b.node.personal().list(&note(), None, 100_000).unwrap().len(), 20_000);
    assert!(a.node.safe_to_sleep().await.unwrap().is_safe());
    a.node.stop().await.unwrap();
    b.node.stop().await.unwrap();
}
