//! How far each log counts: a moment in a space's history.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::id::{LogId, Seq};
use super::limits::LOGS_MAX;

/// Text that names no positions.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PositionsError {
    /// An entry is not `LOG:SEQ` with a position of at least 1.
    #[error("{found:?} is no position: it is LOG:SEQ, several with commas between, or none")]
    Entry {
        /// The entry.
        found: String,
    },
    /// A log is named twice.
    #[error("log {log} is named twice")]
    Twice {
        /// The log.
        log: LogId,
    },
    /// More logs than a space has.
    #[error("{found} logs exceed the limit of {limit}")]
    TooMany {
        /// How many.
        found: usize,
        /// [`LOGS_MAX`].
        limit: usize,
    },
}

/// For each log, the last op that counts. A log that is absent counts for nothing.
///
/// The text form is `LOG:SEQ` per log, in the order of the logs, with commas between; `none` for the
/// moment before the first op.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Positions(BTreeMap<LogId, Seq>);

impl Positions {
    /// The position in a log; zero where it is absent.
    pub fn get(&self, log: &LogId) -> Seq {
        self.0.get(log).copied().unwrap_or(Seq::ZERO)
    }

    /// Every log that counts, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&LogId, Seq)> {
        self.0.iter().map(|(log, seq)| (log, *seq))
    }

    /// How many ops count.
    pub fn op_count(&self) -> u64 {
        self.0.values().fold(0, |sum, seq| sum.saturating_add(seq.get()))
    }
}

impl FromIterator<(LogId, Seq)> for Positions {
    fn from_iter<I: IntoIterator<Item = (LogId, Seq)>>(entries: I) -> Self {
        Self(entries.into_iter().filter(|(_, seq)| *seq > Seq::ZERO).collect())
    }
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(NONE);
        }
        for (index, (log, seq)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{log}:{}", seq.get())?;
        }
        Ok(())
    }
}

impl FromStr for Positions {
    type Err = PositionsError;

    fn from_str(text: &str) -> Result<Self, PositionsError> {
        let mut positions = BTreeMap::new();
        if text == NONE {
            return Ok(Self(positions));
        }
        let found = text.split(',').count();
        if found > LOGS_MAX {
            return Err(PositionsError::TooMany { found, limit: LOGS_MAX });
        }
        for entry in text.split(',') {
            let read = || {
                let (log, seq) = entry.split_once(':')?;
                let seq = Seq::new(seq.parse().ok()?);
                Some((log.parse::<LogId>().ok()?, seq)).filter(|(_, seq)| *seq > Seq::ZERO)
            };
            let found = || PositionsError::Entry { found: entry.chars().take(120).collect() };
            let (log, seq) = read().ok_or_else(found)?;
            if positions.insert(log, seq).is_some() {
                return Err(PositionsError::Twice { log });
            }
        }
        Ok(Self(positions))
    }
}

/// The text of the moment before the first op.
const NONE: &str = "none";

#[cfg(test)]
mod tests {
    use super::super::id::{DeviceId, Incarnation};
    use super::*;

    fn log(number: u8) -> LogId {
        LogId { device: DeviceId::from_bytes([number; 32]), incarnation: Incarnation::new(number.into()) }
    }

    #[test]
    fn positions_read_back_from_their_text() {
        let some: Positions = [(log(2), Seq::new(7)), (log(1), Seq::new(u64::MAX))].into_iter().collect();
        let none: Positions = [(log(1), Seq::ZERO)].into_iter().collect();

        assert_eq!(some.to_string().parse(), Ok(some.clone()));
        assert_eq!((none.to_string().as_str(), "none".parse()), ("none", Ok(none)));
        assert_eq!(
            (some.get(&log(2)), some.get(&log(3)), some.op_count()),
            (Seq::new(7), Seq::ZERO, u64::MAX)
        );
    }

    #[test]
    fn every_other_text_is_refused_by_name() {
        let one = log(1);
        let check = |text: &str| text.parse::<Positions>().unwrap_err();

        for text in
            ["", "x", &format!("{one}"), &format!("{one}:0"), &format!("{one}:1,"), &format!("{one}:-1")]
        {
            assert!(matches!(check(text), PositionsError::Entry { .. }), "{text}");
        }
        assert_eq!(check(&format!("{one}:1,{one}:1")), PositionsError::Twice { log: one });
        let many = vec!["x"; LOGS_MAX + 1].join(",");
        assert_eq!(check(&many), PositionsError::TooMany { found: LOGS_MAX + 1, limit: LOGS_MAX });
    }
}
