//! Homes of earlier versions, as these wrote them, open and go on.
//!
//! `tests/data/home-before-checkpoints` was written by the last commit that knew no checkpoints: two versions
//! of a row, one that was removed, a fact and two events, and an organisation's space with one row.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use kinfold::model::{Scope, Surface};
use kinfold::node::Node;
use serde_json::json;
use tempfile::TempDir;

use crate::pair::note;

/// Copies a home with the permissions that a home has.
fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.as_ref().unwrap().path(), to.join(entry.as_ref().unwrap().file_name()));
        if entry.is_dir() {
            copied(&entry, &to);
        } else {
            fs::copy(&entry, &to).unwrap();
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
}

async fn open(home: &Path) -> Node {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Node::builder(home).listen(listen).without_mdns().open().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_from_before_there_were_checkpoints_opens_with_its_state_and_takes_one() {
    let dir = TempDir::new().unwrap();
    let home = dir.path().join("home");
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/home-before-checkpoints");
    copied(&old, &home);

    let node = open(&home).await;
    let space = node.personal();
    let root = "356dbf2192cb202d3de6dbb215b53bd16138e8fbc791eb32f9e107b977515fcf";
    assert_eq!(space.root().to_string(), root, "as that version showed it");
    let first = space.get(&note(), "first").unwrap().unwrap();
    assert_eq!(first.shown.payload.unwrap().as_str(), r#""two""#);
    assert!(space.get(&note(), "gone").unwrap().is_none());
    assert!(space.get(&Surface::Skill, "fact").unwrap().is_some());
    assert_eq!(space.events(&Surface::Routing, "stream", None, 9).unwrap().len(), 2);
    let team = node.space(&Scope::Shared("team".into())).await.unwrap();
    assert_eq!(team.root().to_string(), "49995d0d510dd4b3044ad948d13bfe30c46bd982ca0204dea295a0c931b42395");

    // It goes on where it was, and can begin with a checkpoint of its own.
    space.put("registry:note", "new", json!(3)).await.unwrap();
    let made = space.checkpoint().await.unwrap();
    assert!(made.is_new && made.checkpoint.root == space.root());
    space.trim().await.unwrap();
    let root = space.root();
    drop((space, team));
    node.stop().await.unwrap();
    drop(node);
    let node = open(&home).await;
    assert_eq!(node.personal().root(), root);
    let first = node.personal().get(&note(), "first").unwrap().unwrap();
    assert_eq!(first.shown.payload.unwrap().as_str(), r#""two""#);
    assert_eq!(node.status().await.unwrap().base, Some(made.checkpoint.hash));
    node.stop().await.unwrap();
}
