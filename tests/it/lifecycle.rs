//! Starting and stopping a node, by several at once.

use kinfold::node::{Node, NodeError};

use crate::clones::Home;

#[tokio::test(flavor = "multi_thread")]
async fn starts_and_stops_that_race_end_in_a_node_that_is_stopped_and_a_home_that_is_free() {
    for round in 0..20 {
        let home = Home::init("a");
        let node = Node::builder(home.path()).listen(loopback()).without_mdns().open().await.unwrap();

        let racing: Vec<_> = (0..16)
            .map(|index| {
                let node = node.clone();
                tokio::spawn(async move {
                    if index % 4 == round % 4 { node.stop().await } else { node.start().await }
                })
            })
            .collect();
        for ended in racing {
            let ended = ended.await.expect("neither panics");
            assert!(matches!(ended, Ok(()) | Err(NodeError::Stopped)), "round {round}: {ended:?}");
        }

        assert_eq!(node.local_addr(), None, "round {round}: no start comes after a stop");
        assert!(matches!(node.start().await, Err(NodeError::Stopped)), "round {round}");
        node.stop().await.expect("stopping twice does nothing");
        // The store is closed with the last handle.
        drop(node);
        let again = Node::builder(home.path()).listen(loopback()).without_mdns().open().await;
        again.expect("the home was given back").stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_race_open_one_port() {
    let home = Home::init("a");
    let node = Node::builder(home.path()).listen(loopback()).without_mdns().open().await.unwrap();

    let racing: Vec<_> = (0..16)
        .map(|_| {
            let node = node.clone();
            tokio::spawn(async move { node.start().await.map(|()| node.local_addr()) })
        })
        .collect();
    let mut addresses = Vec::new();
    for started in racing {
        addresses.push(started.await.expect("none panics").expect("it starts"));
    }

    assert!(
        addresses[0].is_some() && addresses.iter().all(|address| *address == addresses[0]),
        "{addresses:?}"
    );
    node.stop().await.unwrap();
}

fn loopback() -> std::net::SocketAddr {
    ([127, 0, 0, 1], 0).into()
}
