//! Starting and stopping a node, by several at once, and a network that is lost under it.

use std::process::{Command, Stdio};

use kinfold::node::{Node, NodeError};

use crate::clones::Home;
use crate::kin::{self, Daemon};
use crate::lan::say;

#[tokio::test(flavor = "multi_thread")]
async fn starts_and_stops_that_race_end_in_a_node_that_is_stopped_and_a_home_that_is_free() {
    for round in 0..20 {
        let home = Home::init("a");
        let node = Node::builder(home.path()).listen(loopback()).without_mdns().open().await.unwrap();

        let racing: Vec<_> = (0..16)
            .map(|index| {
                let node = node.clone();
                tokio::spawn(async move {
                    if index % 4 == round % 4 { node.stop().await.map(drop) } else { node.start().await }
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

#[test]
fn a_socket_that_the_system_takes_away_is_replaced_and_the_devices_are_together_again() {
    let (one, two) = (kin::Home::init("one"), kin::Home::init("two"));
    kin::pair(&one, &two);
    let mut starting = kin::command(&one.path());
    starting.args(["--json", "up", "--listen", "127.0.0.1:0", "--no-mdns"]).stderr(Stdio::piped());
    let mut at_one = Daemon::start(&mut starting);
    let log = at_one.log();
    let at_two = two.up(&["--peer", &at_one.listening]);
    one.run(&["put", "registry:note", "before", "1"]).expect_code(0);
    one.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    if !take_socket(&at_one.listening) {
        return say(format_args!("skipped: sockets cannot be taken away here (`ss -K`)"));
    }

    let mut lost = String::new();
    while !lost.contains("the network was lost") {
        lost = log.recv_timeout(kin::PATIENCE).expect("it is noticed");
    }
    one.run(&["put", "registry:note", "after", "1"]).expect_code(0);
    one.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    let status = one.json(&["status"]);

    assert!(lost.contains("the system has taken the socket away"), "{lost}");
    assert_eq!(status["listening"], at_one.listening, "where others look for it: {status}");
    assert_eq!(status["lifecycle"]["state"], "running", "{status}");
    assert_eq!(status["health"]["state"], "healthy", "{status}");
    assert_eq!(two.json(&["status"])["rows"], 2);
    assert_eq!((at_one.terminate(), at_two.terminate()), (0, 0));
}

/// Has the system end a UDP socket of this machine, as it does with those of a machine that slept for
/// long; false where it does not do that on request.
fn take_socket(address: &str) -> bool {
    let mut asking = Command::new("ss");
    asking.args(["--kill", "--udp", "--all", "--no-header", "src", "=", address]);
    let Ok(asked) = asking.output() else { return false };
    asked.status.success() && String::from_utf8_lossy(&asked.stdout).contains(address)
}

fn loopback() -> std::net::SocketAddr {
    ([127, 0, 0, 1], 0).into()
}
