//! How far a round has come, while it is waited for.

use std::time::Duration;

use indicatif::ProgressBar;
use kinfold::control::Method;
use kinfold::control::forms::StatusForm;
use kinfold::control::params::PumpParams;

use crate::failure::Failure;
use crate::output::{Output, Unit};
use crate::target::{Site, Target};

/// Waits for the answer to a round, and shows on a terminal what is still to come where that takes long.
pub async fn until_answered<T>(
    target: &Target,
    site: &Site,
    round: &PumpParams,
    answer: impl Future<Output = Result<T, Failure>>,
    output: &Output,
) -> Result<T, Failure> {
    let bar = output.progress(0, Unit::Ops);
    bar.set_message("syncing");
    let shown = async {
        if bar.is_hidden() {
            return std::future::pending().await;
        }
        let mut way = Way::default();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // What cannot be asked now is asked again; the round itself tells what is wrong.
            if let Ok(status) = target.call::<StatusForm>(Method::Status, &site.params()).await {
                advance(&bar, way.at(left(&status, &round.peers)));
            }
        }
    };
    let answer = tokio::select! {
        answer = answer => answer,
        // It shows for ever, and holds nothing that is lost.
        never = shown => never,
    };
    bar.finish_and_clear();
    answer
}

fn advance(bar: &ProgressBar, (done, total): (u64, u64)) {
    bar.set_length(total);
    bar.set_position(done);
}

/// Ops that are still to be sent to devices of the round, and to be received from them.
fn left(status: &StatusForm, named: &[String]) -> u64 {
    let takes_part = |device: &String| named.is_empty() || named.contains(device);
    let peers = status.peers.iter().filter(|peer| peer.connected && takes_part(&peer.device_id));
    // To each they go by themselves; from all together they come once.
    let (to, from): (Vec<u64>, Vec<u64>) =
        peers.map(|peer| (peer.behind_by.unwrap_or(0), peer.ahead_by)).unzip();
    to.iter().sum::<u64>() + from.iter().max().copied().unwrap_or(0)
}

/// A way of which only the rest is known, and may grow. Pure.
#[derive(Default)]
struct Way {
    total: u64,
    left: u64,
}

impl Way {
    /// How much is done and how much there is in all, now that so much is left.
    fn at(&mut self, left: u64) -> (u64, u64) {
        // What is new makes the way longer, and takes away nothing of what is done.
        self.total += left.saturating_sub(self.left);
        self.left = left;
        (self.total - left, self.total)
    }
}

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_grows_with_what_is_new_and_never_goes_back() {
        let mut way = Way::default();

        let seen: Vec<(u64, u64)> = [0, 100, 60, 60, 80, 0, 10, 0].map(|left| way.at(left)).to_vec();

        assert_eq!(
            seen,
            [(0, 0), (0, 100), (40, 100), (40, 100), (40, 120), (120, 120), (120, 130), (130, 130)]
        );
    }
}
