//! The last minute of a node that is watched: how fast ops arrive, how much is missing here and with
//! others, and when the rest will be here.

use std::collections::VecDeque;
use std::time::Duration;

/// What was held at some moments. Pure: the time is passed in.
#[derive(Default)]
pub struct History(VecDeque<Sample>);

/// What there is at one moment.
#[derive(Clone, Copy)]
pub struct Sample {
    /// When that is, on the uptime clock.
    pub at: Duration,
    /// Ops held.
    pub ops: u64,
    /// Ops that others have and this device has not.
    pub to_come: u64,
    /// Ops that this device has and a connected one has not.
    pub to_go: u64,
}

impl History {
    /// Notes what there is now.
    pub fn push(&mut self, sample: Sample) {
        if self.0.len() > SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// Whether it is time for another sample: looks in between do not count.
    pub fn is_due(&self, now: Duration) -> bool {
        self.0.back().is_none_or(|last| last.at + SAMPLED_EVERY <= now)
    }

    /// Ops a second between each moment and the one before, the newest last.
    pub fn rates(&self) -> Vec<u64> {
        let pairs = self.0.iter().zip(self.0.iter().skip(1));
        pairs.map(|(then, now)| rate(*then, *now)).collect()
    }

    /// What was missing here at each moment, the newest last.
    pub fn to_come(&self) -> Vec<u64> {
        self.0.iter().skip(1).map(|sample| sample.to_come).collect()
    }

    /// What connected devices lacked at each moment, the newest last.
    pub fn to_go(&self) -> Vec<u64> {
        self.0.iter().skip(1).map(|sample| sample.to_go).collect()
    }

    /// Ops a second over the last few moments.
    pub fn rate(&self) -> u64 {
        let now = self.0.back();
        let then = self.0.get(self.0.len().saturating_sub(RATE_SAMPLES));
        then.zip(now).map_or(0, |(then, now)| rate(*then, *now))
    }

    /// When `missing` ops will be here at this rate; `None` while nothing arrives.
    pub fn left(&self, missing: u64) -> Option<Duration> {
        Some(self.rate()).filter(|rate| *rate > 0).map(|rate| Duration::from_secs(missing.div_ceil(rate)))
    }
}

/// Figures as a line of bars, each as high as its share of the greatest.
pub fn bars(figures: &[u64]) -> String {
    let greatest = figures.iter().copied().max().unwrap_or(0).max(1);
    let bar = |figure: &u64| {
        let step = figure.saturating_mul(BARS.len() as u64 - 1).div_ceil(greatest);
        BARS[usize::try_from(step).unwrap_or(0).min(BARS.len() - 1)]
    };
    figures.iter().map(bar).collect()
}

fn rate(then: Sample, now: Sample) -> u64 {
    let millis = u64::try_from(now.at.saturating_sub(then.at).as_millis()).unwrap_or(u64::MAX).max(1);
    // A refold may show fewer for a moment.
    now.ops.saturating_sub(then.ops).saturating_mul(1_000) / millis
}

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A little less than the second between two looks, which are never quite as far apart.
const SAMPLED_EVERY: Duration = Duration::from_millis(900);

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
        assert_eq!((history.rate(), bars(&history.rates()).as_str(), history.left(5)), (0, "", None));

        for (second, ops) in [(0, 100), (1, 100), (2, 800), (4, 1_500), (5, 1_400)] {
            history.push(sample(second, ops));
        }

        assert_eq!(history.rates(), [0, 700, 350, 0]);
        assert_eq!(bars(&history.rates()), "▁█▅▁");
        assert_eq!(history.rate(), 260, "over all five seconds");
        assert_eq!(history.left(1_000), Some(Duration::from_secs(4)));
    }

    #[test]
    fn what_is_missing_here_and_there_is_shown_beside() {
        let mut history = History::default();
        for (second, to_come, to_go) in [(0, 9, 9), (1, 700, 0), (2, 350, 1), (3, 0, 0)] {
            history.push(Sample { to_come, to_go, ..sample(second, 0) });
        }

        assert_eq!((bars(&history.to_come()), bars(&history.to_go())), ("█▅▁".into(), "▁█▁".into()));
        assert_eq!(history.to_come().len(), history.rates().len(), "one below the other");
    }

    #[test]
    fn a_history_keeps_a_minute() {
        let mut history = History::default();
        for second in 0..1_000 {
            history.push(sample(second, second * 10));
        }

        assert_eq!(bars(&history.rates()).chars().count(), SAMPLES_MAX);
        assert_eq!(history.rate(), 10);
        history.push(sample(1_000, 20_000));
        assert!(bars(&history.rates()).ends_with("▂█"));
    }

    #[test]
    fn looks_in_between_are_no_samples() {
        let mut history = History::default();
        assert!(history.is_due(Duration::ZERO));
        history.push(sample(7, 0));

        assert!(!history.is_due(Duration::from_millis(7_500)));
        assert!(history.is_due(Duration::from_millis(7_990)));
    }

    fn sample(second: u64, ops: u64) -> Sample {
        Sample { at: Duration::from_secs(second), ops, to_come: 0, to_go: 0 }
    }
}
