//! The clocks of the machine: one that counts sleep, and the wall.
//!
//! `std::time::Instant` stands still while a laptop sleeps on Linux and macOS, so nothing that must
//! hold across a closed lid may use it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::model::{Now, Wall};

/// Time since an arbitrary start, sleep included: `CLOCK_BOOTTIME` on Linux, `CLOCK_MONOTONIC_RAW`
/// on macOS (where it counts sleep), `Instant` elsewhere.
pub fn uptime() -> Duration {
    platform::uptime()
}

/// The wall clock in Unix milliseconds; 0 for a clock before 1970.
pub fn wall() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The moment, with fresh entropy from the operating system.
///
/// # Panics
/// If the operating system gives no random bytes: nothing could be sealed safely from then on.
pub fn now() -> Now {
    Now { uptime: uptime(), wall: wall(), entropy: entropy() }
}

/// 32 random bytes from the operating system.
///
/// # Panics
/// As [`now`].
pub fn entropy() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .expect("the operating system's random generator works or nothing may be sealed");
    bytes
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "macos"))]
mod platform {
    use std::time::Duration;

    use nix::time::{ClockId, clock_gettime};

    #[cfg(any(target_os = "linux", target_os = "android"))]
    const COUNTS_SLEEP: ClockId = ClockId::CLOCK_BOOTTIME;
    #[cfg(target_os = "macos")]
    const COUNTS_SLEEP: ClockId = ClockId::CLOCK_MONOTONIC_RAW;

    pub(super) fn uptime() -> Duration {
        let time = clock_gettime(COUNTS_SLEEP).expect("the clock exists on every supported version");
        Duration::from(time)
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "macos")))]
mod platform {
    use std::sync::OnceLock;
    use std::time::{Duration, Instant};

    pub(super) fn uptime() -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_never_goes_back_and_entropy_never_repeats() {
        let (a, b) = (now(), now());

        assert!(a.uptime <= b.uptime);
        assert_ne!(a.entropy, b.entropy);
        assert!(a.wall.as_millis() > 1_700_000_000_000);
    }
}
