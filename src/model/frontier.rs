//! What a device has: per log, the highest contiguous position and the hash there.

use std::collections::BTreeMap;

use super::id::{LogId, Seq, TipHash};

/// The end of a log as someone holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tip {
    /// Highest contiguous position.
    pub seq: Seq,
    /// Link hash of the batch that ends there; heights without hashes would hide forks.
    pub hash: TipHash,
}

impl Tip {
    /// The tip of an empty log.
    pub const NONE: Self = Self { seq: Seq::ZERO, hash: TipHash::NONE };
}

/// For each log, its [`Tip`]. Logs without a batch are absent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Frontier(BTreeMap<LogId, Tip>);

impl Frontier {
    /// The frontier of an empty space.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// The tip of `log`; [`Tip::NONE`] where nothing is held.
    pub fn tip(&self, log: &LogId) -> Tip {
        self.0.get(log).copied().unwrap_or(Tip::NONE)
    }

    /// Sets the tip of `log`; [`Tip::NONE`] removes it.
    pub fn set(&mut self, log: LogId, tip: Tip) {
        if tip.seq == Seq::ZERO {
            self.0.remove(&log);
        } else {
            self.0.insert(log, tip);
        }
    }

    /// Whether everything up to `seq` of `log` is within this frontier.
    pub fn covers(&self, log: &LogId, seq: Seq) -> bool {
        self.tip(log).seq >= seq
    }

    /// Whether every log of `other` is held at least as far here. Hashes are not compared.
    pub fn covers_all(&self, other: &Self) -> bool {
        other.0.iter().all(|(log, tip)| self.covers(log, tip.seq))
    }

    /// The logs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&LogId, &Tip)> {
        self.0.iter()
    }

    /// How many logs have at least one op.
    pub fn log_count(&self) -> usize {
        self.0.len()
    }

    /// How many ops lie within this frontier.
    pub fn op_count(&self) -> u64 {
        self.0.values().fold(0, |sum, tip| sum.saturating_add(tip.seq.get()))
    }

    /// How many ops lie within this frontier and not within `other`.
    pub fn ops_beyond(&self, other: &Self) -> u64 {
        self.0.iter().fold(0, |sum, (log, tip)| {
            sum.saturating_add(tip.seq.get().saturating_sub(other.tip(log).seq.get()))
        })
    }

    /// The entries that differ from `base`, in order: what a delta against it carries.
    pub fn delta(&self, base: &Self) -> Vec<(LogId, Tip)> {
        self.0.iter().filter(|(log, tip)| base.tip(log) != **tip).map(|(log, tip)| (*log, *tip)).collect()
    }

    /// `BLAKE3("kinfold frontier v1" ‖ for each log in order: log 40 ‖ seq 8 BE ‖ hash 32)`.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"kinfold frontier v1");
        for (log, tip) in &self.0 {
            hasher.update(&log.to_bytes());
            hasher.update(&tip.seq.get().to_be_bytes());
            hasher.update(tip.hash.as_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

impl FromIterator<(LogId, Tip)> for Frontier {
    fn from_iter<I: IntoIterator<Item = (LogId, Tip)>>(entries: I) -> Self {
        Self(entries.into_iter().filter(|(_, tip)| tip.seq != Seq::ZERO).collect())
    }
}
