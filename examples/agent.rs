//! An agent whose conversation, knowledge and runs are kept in kinfold: `cargo run --example agent`.
//!
//! Stopped anywhere and started again, here or on another device of the same person, it goes on from what
//! it finds; what it has done once it does not do again.

use std::error::Error;

use kinfold::model::Surface;
use kinfold::node::{NewTurn, Node, Space};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// What came of a run: stated once, and from then on a fact.
#[derive(Serialize, Deserialize)]
struct Run {
    result: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let home = directory.path().join("home");
    Node::init(&home, "laptop")?;
    let node = Node::builder(&home).open().await?;
    let space = node.personal();
    let mut changes = space.follow(None).await?;

    space.record_turn(NewTurn::user(TRIP, "What is the weather in Oslo?")?).await?;
    while let Some(city) = wanted(&space)? {
        let call = json!([{ "id": "c1", "name": "weather", "arguments": { "city": city } }]);
        space.record_turn(NewTurn::assistant(TRIP, "I look it up.")?.calling(&call)?).await?;
        let weather = once(&space, "trip/c1", || format!("4 °C and rain in {city}")).await?;
        space.record_turn(NewTurn::tool(TRIP, "c1", &weather)?).await?;
        space.put("knowledge", "oslo/weather", json!({ "id": "oslo/weather", "is": weather })).await?;
    }
    space.record_turn(NewTurn::assistant(TRIP, "Take a coat.")?).await?;

    for message in space.resume(TRIP, 100)?.resume.messages {
        println!("{}", message.to_json());
    }
    let turns = space.replay(&Surface::Conversation, TRIP, 0, |count, _| count + 1)?;
    println!("{turns} turns; the first change was in {}", changes.next().await?.surface);
    assert_eq!(once(&space, "trip/c1", || unreachable!("it was done")).await?, "4 °C and rain in Oslo");
    node.stop().await?;
    Ok(())
}

/// What a model would be asked: here, the city to look up, until a tool has answered.
fn wanted(space: &Space) -> Result<Option<&'static str>, Box<dyn Error>> {
    let messages = space.resume(TRIP, 100)?.resume.messages;
    Ok(messages.last().filter(|message| message.answers.is_none()).map(|_| "Oslo"))
}

/// Does something, unless a run of that name has been recorded on any device this one has heard of.
///
/// Two devices that are apart may both do it: where that matters, it is done under a lease.
async fn once(space: &Space, run: &str, act: impl FnOnce() -> String) -> Result<String, Box<dyn Error>> {
    let runs = space.typed::<Run>("run")?;
    if let Some(done) = runs.get(run)? {
        return Ok(done.result);
    }
    let done = Run { result: act() };
    runs.put(run, &done).await?;
    Ok(done.result)
}

const TRIP: &str = "trip";
