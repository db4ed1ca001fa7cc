//! How long a lease lasts, as its holder counts and as its host counts.

use std::time::Duration;

use super::refused::LeaseRefused;

/// A lease's time to live in milliseconds: 1 s to 1 h, 30 s where nobody says.
///
/// Clocks may run up to 1 % fast or slow. The holder believes in 99 % of it from the first send of
/// its request; the host holds the key for 101 % and 2 s from when the request took effect. So the
/// holder stops at least 1.9 s of true time before the host gives the key away. Source: Gray and
/// Cheriton, "Leases", 1989.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ttl(u32);

impl Ttl {
    /// One second.
    pub const MIN: Self = Self(1_000);
    /// One hour.
    pub const MAX: Self = Self(3_600_000);
    /// Half a minute.
    pub const DEFAULT: Self = Self(30_000);

    /// A time to live of this many milliseconds.
    ///
    /// # Errors
    /// [`LeaseRefused::TtlOutOfRange`].
    pub fn from_millis(millis: u64) -> Result<Self, LeaseRefused> {
        let out_of_range = LeaseRefused::TtlOutOfRange {
            found_ms: millis,
            min_ms: u64::from(Self::MIN.0),
            max_ms: u64::from(Self::MAX.0),
        };
        let ttl = Self(u32::try_from(millis).map_err(|_| out_of_range.clone())?);
        if Self::MIN <= ttl && ttl <= Self::MAX { Ok(ttl) } else { Err(out_of_range) }
    }

    /// A time to live as a peer or a disk says it, within its bounds or not: the register refuses it.
    pub(crate) const fn from_raw(millis: u32) -> Self {
        Self(millis)
    }

    /// Whether it lies within its bounds.
    pub(crate) fn is_sound(self) -> bool {
        Self::MIN <= self && self <= Self::MAX
    }

    /// In milliseconds.
    pub const fn as_millis(self) -> u32 {
        self.0
    }

    /// The time to live itself.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0 as u64)
    }

    /// How long its holder believes in it, from the first send: 99 %.
    pub const fn valid_for(self) -> Duration {
        Duration::from_micros(self.0 as u64 * 990)
    }

    /// How long its host holds it, from when it took effect: 101 % and [`GRACE`].
    pub const fn held_for(self) -> Duration {
        Duration::from_micros(self.0 as u64 * 1_010 + GRACE.as_micros() as u64)
    }

    /// When its holder renews, from the first send: a third.
    pub const fn renew_after(self) -> Duration {
        Duration::from_micros(self.0 as u64 * 1_000 / 3)
    }
}

impl Default for Ttl {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What the host adds beside the rates of the clocks: scheduling, and a slow disk.
pub const GRACE: Duration = Duration::from_secs(2);

/// How long a host that knows nothing of its predecessor's leases grants none.
pub const SETTLING: Duration = Ttl::MAX.held_for();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_stops_before_its_host_whatever_their_clocks_do_within_a_hundredth() {
        for millis in [1_000, 1_001, 30_000, 3_600_000] {
            let ttl = Ttl::from_millis(millis).unwrap();
            // The slowest holder and the fastest host, in true microseconds.
            let holder = ttl.valid_for().as_micros() * 100 / 99;
            let host = ttl.held_for().as_micros() * 100 / 101;

            assert!(holder + 1_900_000 <= host, "{millis}");
            assert!(ttl.renew_after() * 2 < ttl.valid_for());
        }
    }

    #[test]
    fn a_time_to_live_has_bounds() {
        for millis in [0, 999, 3_600_001, u64::MAX] {
            assert!(
                matches!(Ttl::from_millis(millis), Err(LeaseRefused::TtlOutOfRange { found_ms, .. }) if found_ms == millis)
            );
        }
        assert_eq!(Ttl::from_millis(30_000), Ok(Ttl::default()));
        assert!(Ttl::MIN.is_sound() && !Ttl::from_raw(999).is_sound());
    }
}
