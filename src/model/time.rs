//! Time as data: the hybrid logical clock and the two readings a step is given.

use std::fmt;
use std::time::Duration;

/// Wall-clock time in Unix milliseconds, as the machine believes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Wall(u64);

impl Wall {
    /// Takes Unix milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }
    /// Unix milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }
    /// This time moved on by `by`, saturating.
    pub const fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by.as_millis() as u64))
    }
}

/// What a pure step is told about the moment it runs in.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Time since an arbitrary start, counting sleep, never going back.
    pub uptime: Duration,
    /// The wall clock, which may be wrong and may jump.
    pub wall: Wall,
    /// 32 fresh bytes from the operating system (or the simulator's seed).
    pub entropy: [u8; 32],
}

/// A hybrid logical clock reading: 48 bits Unix milliseconds, 16 bits counter.
///
/// Source: Kulkarni et al., "Logical Physical Clocks", 2014. Ordering is by number. A stamp only
/// breaks ties between ops that do not know each other; it never decides what is accepted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Hlc(u64);

impl Hlc {
    /// The least reading.
    pub const ZERO: Self = Self(0);

    /// Takes the raw number.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }
    /// The raw number.
    pub const fn get(self) -> u64 {
        self.0
    }
    /// The reading at the start of a wall-clock millisecond, capped at 48 bits.
    pub const fn at(wall: Wall) -> Self {
        let millis = if wall.0 > MILLIS_MAX { MILLIS_MAX } else { wall.0 };
        Self(millis << 16)
    }
    /// The wall-clock part in Unix milliseconds.
    pub const fn millis(self) -> u64 {
        self.0 >> 16
    }
    /// The next reading; a full counter adds one millisecond. Saturates at the greatest reading.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.millis(), self.0 & 0xffff)
    }
}

/// The greatest wall time a stamp can carry: the year 10889.
const MILLIS_MAX: u64 = (1 << 48) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_counter_adds_one_millisecond() {
        let full = Hlc::new((5 << 16) | 0xffff);

        assert_eq!(full.next(), Hlc::at(Wall::from_millis(6)));
    }

    #[test]
    fn wall_time_beyond_48_bits_is_capped() {
        assert_eq!(Hlc::at(Wall::from_millis(u64::MAX)).millis(), MILLIS_MAX);
        assert_eq!(Hlc::new(u64::MAX).next(), Hlc::new(u64::MAX));
    }
}
