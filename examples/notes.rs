//! Two devices of one person in one program: `cargo run --example notes`.
//!
//! Each has a home of its own; one joins the space of the other, they meet over QUIC on loopback and end with one
//! state. An application on two machines does the same with one device each.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use kinfold::model::Surface;
use kinfold::roster::Role;
use kinfold::{Custody, Node};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let homes = tempfile::tempdir()?;
    let desk = open(&homes.path().join("desk"), "desk").await?;
    let laptop = open(&homes.path().join("laptop"), "laptop").await?;

    // No network yet: an op is durable when `put` returns.
    desk.personal().put("registry:note", "today", json!({"text": "bread"})).await?;

    // The laptop joins the desk's space, once. Between two machines the welcome travels over a
    // pairing; here both are in one program.
    let welcome = desk.personal().enrol(laptop.device(), "laptop", Role::Admin).await?;
    laptop.adopt(welcome).await?;
    let mut changes = laptop.personal().changes();
    desk.start().await?;
    laptop.start().await?;
    if let Some(address) = desk.local_addr() {
        // On a real network, multicast DNS finds the address.
        laptop.add_peer(address.to_string()).await?;
    }

    // What was written apart arrives; so does what is written from here on.
    desk.wait_all(Custody::on(1)).await?;
    let op = desk.personal().put("registry:note", "today", json!({"text": "bread and milk"})).await?;
    let holders = desk.wait(op.id, Custody::on(1)).await?;
    println!("{} is held by {}", op.id, holders[0].short());

    loop {
        let change = changes.recv().await?;
        let value = change.payload.map_or_else(|| "removed".to_owned(), |payload| payload.to_string());
        println!("{} {}: {value}", change.surface, change.key);
        if change.dot == op.dot {
            break;
        }
    }
    let note: Surface = "registry:note".parse()?;
    let row = laptop.personal().get(&note, "today")?;
    assert!(row.is_some_and(|row| row.shown.dot == op.dot && row.others.is_empty()));
    assert_eq!(desk.personal().root(), laptop.personal().root());

    laptop.stop().await?;
    desk.stop().await?;
    Ok(())
}

async fn open(home: &Path, name: &str) -> Result<Node, Box<dyn Error>> {
    Node::init(home, name)?;
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Ok(Node::builder(home).listen(loopback).without_mdns().open().await?)
}
