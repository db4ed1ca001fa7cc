//! Rounds by themselves: when something was written, and at an interval.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::DropBox;
use super::round::round;
use crate::node::handle::{Inner, Node};

/// The tasks that look after the drop boxes of a started node.
#[derive(Default)]
pub(in crate::node) struct Watchers(JoinSet<()>);

impl Watchers {
    /// Looks after these and no others from now on.
    pub fn watch(&mut self, node: &Node, dropboxes: Vec<Arc<DropBox>>, on: &tokio::runtime::Handle) {
        self.0.abort_all();
        self.0 = JoinSet::new();
        for dropbox in dropboxes {
            self.0.spawn_on(watch(node.downgrade(), dropbox), on);
        }
    }

    /// Ends them. A round that is cut off leaves nothing by half: an object is whole or not there, and
    /// what was taken is durable or will be taken again.
    /// How many had not ended within a second.
    pub async fn stop(&mut self) -> usize {
        self.0.abort_all();
        let ended = async { while self.0.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(END_WITHIN, ended).await;
        self.0.len()
    }
}

async fn watch(node: Weak<Inner>, dropbox: Arc<DropBox>) {
    // Whoever has started the node may ask for a round first.
    let mut due = Instant::now() + PUSH_AFTER;
    let mut failures = 0u32;
    loop {
        let Some(mut version) = Node::upgrade(&node).map(|node| node.version()) else { return };
        version.mark_unchanged();
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            // Nothing is under way while it waits; a change that is missed is seen at the interval.
            changed = version.changed(), if failures == 0 => {
                if changed.is_err() {
                    return;
                }
                // Writes seldom come alone.
                tokio::time::sleep(PUSH_AFTER).await;
                let Some(node) = Node::upgrade(&node) else { return };
                if Instant::now() < due && !is_due(&node, &dropbox).await {
                    continue;
                }
            }
        }
        let Some(node) = Node::upgrade(&node) else { return };
        let moved = round(&node, &dropbox).await;
        failures = if moved.is_failed { (failures + 1).min(BACKOFF_DOUBLED_MAX) } else { 0 };
        let pause = if failures > 0 { AGAIN_AFTER * (1 << failures) } else { LOOK_EVERY };
        due = Instant::now() + pause;
    }
}

/// Whether there is something to leave that was not there after the last round.
pub(super) async fn is_due(node: &Node, dropbox: &DropBox) -> bool {
    let settled = dropbox.memory.lock().await.settled;
    let Ok(space) = node.space(&dropbox.scope).await else { return false };
    node.mark_of(space.id()).await.is_ok_and(|mark| mark != settled)
}

/// A round that is cut off ends with its next step, which may be one of a slow folder.
const END_WITHIN: Duration = Duration::from_secs(1);

/// How long writes are collected before they are left in a drop box.
const PUSH_AFTER: Duration = Duration::from_secs(2);

/// Between two looks for what others have left.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Before the second attempt at a place that cannot be used, halved; doubled with each further one.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// After so many it is tried every four minutes.
const BACKOFF_DOUBLED_MAX: u32 = 7;
