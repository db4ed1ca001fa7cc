//! Peer-to-peer sync: the devices of one person or organisation arrive at one state, without a server.
//!
//! A [`Node`] is one device: a home directory with its identity, its durable log and the state folded
//! from it. It works offline; once started it finds the devices it has been told of, and each pair
//! exchanges what the other lacks, sealed. [`Node::wait`] answers when another device holds an op.
//!
//! ```
//! use kinfold::Node;
//! use serde_json::json;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let home = std::env::temp_dir().join(format!("kinfold-doc-{}", std::process::id()));
//! Node::init(&home, "laptop")?;
//! let node = Node::builder(&home).open().await?; // no network yet
//! let space = node.personal();
//! let mut changes = space.changes();
//!
//! let op = space.put("registry:note", "today", json!({"text": "bread"})).await?; // durable
//! assert_eq!(changes.recv().await?.dot, op.dot);
//! let row = space.get(&"registry:note".parse()?, "today")?.expect("it was just written");
//! assert_eq!(row.shown.payload.expect("not a removal").as_str(), r#"{"text":"bread"}"#);
//! node.stop().await?;
//! # std::fs::remove_dir_all(&home)?;
//! # Ok(())
//! # }
//! ```
//!
//! With a second device (`examples/notes.rs` runs both ends):
//!
//! ```no_run
//! # async fn two(node: kinfold::Node) -> Result<(), Box<dyn std::error::Error>> {
//! # use kinfold::{Custody, roster::Role};
//! # let op = node.personal().put("registry:note", "today", 1).await?;
//! node.start().await?; // QUIC, multicast DNS
//! let invite = node.personal().invite(Role::Admin).await?;
//! println!("On the other device: kinfold join {}", *invite.code().to_text());
//! let holders = node.wait(op.id, Custody::on(1)).await?; // another device holds it durably
//! # drop(holders);
//! # Ok(())
//! # }
//! ```
//!
//! The core ([`model`], [`crypto`], [`wire`], [`oplog`], [`fold`], [`roster`], [`lease`], [`sync`]) is pure: no
//! clock, no entropy, no file, no socket. It builds alone with `--no-default-features`. The shells
//! behind the feature `node` do all input and output. Read [`manual::architecture`] next.

pub mod crypto;
#[cfg(feature = "node")]
pub mod dropbox;
pub mod fold;
pub mod lease;
pub mod manual;
pub mod model;
pub mod oplog;
pub mod roster;
#[cfg(any(feature = "sim", test))]
pub mod sim;
pub mod sync;
pub mod wire;

#[cfg(feature = "node")]
pub mod clock;
#[cfg(feature = "node")]
pub mod config;
#[cfg(feature = "node")]
pub mod control;
#[cfg(feature = "node")]
pub mod coordinator;
#[cfg(feature = "node")]
pub mod net;
#[cfg(feature = "node")]
pub mod node;
#[cfg(feature = "node")]
pub mod store;

#[cfg(feature = "node")]
pub use node::{Custody, Node};
