//! An agent whose conversation, knowledge and runs are kept in kinfold: `cargo run --example agent`.
//!
//! Stopped anywhere and started again, here or on another device of the same person, it goes on from what
//! it finds; what it has done once it does not do again.

use std::error::Error;
use std::time::Duration;

use kinfold::model::{AgentId, CertHash, IntentStatus, Payload, RunId, Surface};
use kinfold::node::{Intent, IntentRecorded, NewTurn, Node, Space};
use serde::Deserialize;
use serde_json::{Value, json};

/// What came of a run.
#[derive(Deserialize)]
struct Done {
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
        let weather = once(&node, "trip/c1", || format!("4 °C and rain in {city}")).await?;
        space.record_turn(NewTurn::tool(TRIP, "c1", &weather)?).await?;
        space.put("knowledge", "oslo/weather", json!({ "id": "oslo/weather", "is": weather })).await?;
    }
    space.record_turn(NewTurn::assistant(TRIP, "Take a coat.")?).await?;

    for message in space.resume(TRIP, 100)?.resume.messages {
        println!("{}", message.to_json());
    }
    let turns = space.replay(&Surface::Conversation, TRIP, 0, |count, _| count + 1)?;
    println!("{turns} turns; the first change was in {}", changes.next().await?.surface);
    assert_eq!(once(&node, "trip/c1", || unreachable!("it was done")).await?, "4 °C and rain in Oslo");
    node.stop().await?;
    Ok(())
}

/// What a model would be asked: here, the city to look up, until a tool has answered.
fn wanted(space: &Space) -> Result<Option<&'static str>, Box<dyn Error>> {
    let messages = space.resume(TRIP, 100)?.resume.messages;
    Ok(messages.last().filter(|message| message.answers.is_none()).map(|_| "Oslo"))
}

/// Does something under the lease of this agent, unless the ledger says that it has happened.
///
/// No two devices do it at the same time, and one that lost the lease meanwhile is stopped by the fence.
/// What was begun and not said to have ended is done again.
async fn once(node: &Node, run: &str, act: impl FnOnce() -> String) -> Result<String, Box<dyn Error>> {
    let (space, agent, run): (Space, AgentId, RunId) = (node.personal(), AGENT.parse()?, run.parse()?);
    let lease = node.lease(AGENT, LEASE).acquire().await?;
    let intent = |status, payload: Value| -> Result<Intent, Box<dyn Error>> {
        let (agent, run, epoch) = (agent.clone(), run.clone(), lease.epoch());
        let payload = Payload::from_value(&payload)?;
        Ok(Intent { agent, run, epoch, cert: CertHash::NONE, status, payload })
    };

    let result = match space.record_intent(intent(IntentStatus::Pending, json!({}))?).await? {
        IntentRecorded::Recorded(_) => {
            lease.fence(run.as_str()).await?;
            let result = act();
            let done = intent(IntentStatus::Committed, json!({ "result": result }))?;
            space.record_intent(done).await?;
            result
        }
        IntentRecorded::AlreadyCommitted { .. } => {
            let done = space.run(&agent, &run)?.and_then(|run| run.shown().payload.clone());
            serde_json::from_str::<Done>(done.ok_or("it says nothing of its result")?.as_str())?.result
        }
        refused => return Err(format!("it may not run: {refused:?}").into()),
    };
    lease.release().await?;
    Ok(result)
}

const AGENT: &str = "travel";
const LEASE: Duration = Duration::from_secs(30);
const TRIP: &str = "trip";
