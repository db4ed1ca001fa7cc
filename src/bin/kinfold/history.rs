//! The last minute of a node that is watched: how fast ops arrive, and when the rest will be here.

use std::collections::VecDeque;
use std::time::Duration;

/// What was held at some moments. Pure: the time is passed in.
#[derive(Default)]
pub struct History(VecDeque<Sample>);

#[derive(Clone, Copy)]
struct Sample {
    at: Duration,
    ops: u64,
}

impl History {
    /// Notes how many ops are held now.
    pub fn push(&mut self, at: Duration, ops: u64) {
        if self.0.len() > SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Sample { at, ops });
    }

    /// Ops a second between each moment and the one before, the newest last.
    fn rates(&self) -> Vec<u64> {
        let pairs = self.0.iter().zip(self.0.iter().skip(1));
        pairs.map(|(then, now)| rate(*then, *now)).collect()
    }

    /// Ops a second over the last few moments.
    pub fn rate(&self) -> u64 {
        let now = self.0.back();
        let then = self.0.get(self.0.len().saturating_sub(RATE_SAMPLES));
        then.zip(now).map_or(0, |(then, now)| rate(*then, *now))
    }

    /// The rates as a line of bars, each as high as its share of the greatest.
    pub fn bars(&self) -> String {
        let rates = self.rates();
        let greatest = rates.iter().copied().max().unwrap_or(0).max(1);
        let bar = |rate: &u64| {
            let step = rate.saturating_mul(BARS.len() as u64 - 1).div_ceil(greatest);
            BARS[usize::try_from(step).unwrap_or(0).min(BARS.len() - 1)]
        };
        rates.iter().map(bar).collect()
    }

    /// When `missing` ops will be here at this rate; `None` while nothing arrives.
    pub fn left(&self, missing: u64) -> Option<Duration> {
        Some(self.rate()).filter(|rate| *rate > 0).map(|rate| Duration::from_secs(missing.div_ceil(rate)))
    }
}

fn rate(then: Sample, now: Sample) -> u64 {
    let millis = u64::try_from(now.at.saturating_sub(then.at).as_millis()).unwrap_or(u64::MAX).max(1);
    // A refold may show fewer for a moment.
    now.ops.saturating_sub(then.ops).saturating_mul(1_000) / millis
}

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// One a second: a minute, as wide as a narrow terminal.
const SAMPLES_MAX: usize = 60;

/// Steady enough to read, quick enough to believe.
const RATE_SAMPLES: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second_and_bars_are_as_high_as_their_share() {
        let mut history = History::default();
        assert_eq!((history.rate(), history.bars().as_str(), history.left(5)), (0, "", None));

        for (second, ops) in [(0, 100), (1, 100), (2, 800), (4, 1_500), (5, 1_400)] {
            history.push(Duration::from_secs(second), ops);
        }

        assert_eq!(history.rates(), [0, 700, 350, 0]);
        assert_eq!(history.bars(), "▁█▅▁");
        assert_eq!(history.rate(), 260, "over all five seconds");
        assert_eq!(history.left(1_000), Some(Duration::from_secs(4)));
    }

    #[test]
    fn a_history_keeps_a_minute() {
        let mut history = History::default();
        for second in 0..1_000 {
            history.push(Duration::from_secs(second), second * 10);
        }

        assert_eq!(history.bars().chars().count(), SAMPLES_MAX);
        assert_eq!(history.rate(), 10);
        history.push(Duration::from_secs(1_000), 20_000);
        assert!(history.bars().ends_with("▂█"));
    }
}
