//! The book-keeping of one invite, and the lock that many failures set.
//!
//! Time is the uptime clock that counts sleep ([`Now::uptime`](crate::model::Now)), so a lid that
//! was shut in between neither prolongs an invite nor shortens a lock.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use thiserror::Error;
use zeroize::Zeroizing;

use super::code::{Code, InviteId, Secret, SecretKind};
use crate::model::{Blame, DeviceId};

/// How often a code may be tried. At 35 bits a guesser wins one invite of ten thousand million.
pub const ATTEMPTS: u8 = 3;

/// How long an invite runs unless its maker says otherwise.
pub const TTL: Duration = Duration::from_secs(600);

/// Failures within [`FAILURES_WITHIN`] that lock pairing.
pub const FAILURES_MAX: usize = 10;

/// The time in which failures are counted together.
pub const FAILURES_WITHIN: Duration = Duration::from_secs(3_600);

/// How long pairing stays locked.
pub const LOCKED_FOR: Duration = Duration::from_secs(3_600);

/// How often the device that was enrolled may ask for its welcome again.
pub const REPEATS_MAX: u8 = 16;

/// An attempt that is not let begin, or an invite that is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The hello means another invite.
    #[error("no invite {found} is open")]
    Unknown {
        /// The invite it means.
        found: InviteId,
    },
    /// Its time is over.
    #[error("the invite has expired; make a new one")]
    Expired,
    /// Its attempts are used up.
    #[error("the invite's {ATTEMPTS} attempts are used up; make a new one")]
    Burnt,
    /// Another device has joined with it.
    #[error("another device has joined with this invite; make a new one for this device")]
    Taken,
    /// Too many attempts failed on this device lately.
    #[error(
        "pairing is locked after {FAILURES_MAX} failed attempts; try again in {} minutes",
        .remaining.as_secs().div_ceil(60)
    )]
    Locked {
        /// For how much longer.
        remaining: Duration,
    },
}

impl Refusal {
    /// Who is at fault.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Unknown { .. } => Blame::Peer,
            Self::Expired | Self::Burnt | Self::Taken | Self::Locked { .. } => Blame::Local,
        }
    }
}

/// Where an invite stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Attempts may begin.
    Open {
        /// How many.
        attempts_left: u8,
    },
    /// A device has joined; only it may ask again.
    Taken(DeviceId),
    /// No attempt is left or under way.
    Burnt,
    /// Its time is over.
    Expired,
}

/// One invite, from its opening to its end.
pub struct Invite {
    code: Code,
    link: Zeroizing<[u8; 16]>,
    expires_at: Duration,
    attempts_left: u8,
    under_way: u8,
    taken: Option<DeviceId>,
    repeats_left: u8,
}

impl Invite {
    /// Opens an invite for `ttl` from `now`. `entropy` becomes its secrets.
    ///
    /// # Errors
    /// [`Refusal::Locked`].
    pub fn open(
        lock: &mut FailureLock,
        now: Duration,
        ttl: Duration,
        entropy: &[u8; 32],
    ) -> Result<Self, Refusal> {
        lock.check(now)?;
        let (code, rest) = entropy.split_first_chunk().expect("32 bytes hold 8");
        Ok(Self {
            code: Code::from_entropy(*code),
            link: Zeroizing::new(*rest.first_chunk().expect("24 bytes hold 16")),
            expires_at: now.saturating_add(ttl),
            attempts_left: ATTEMPTS,
            under_way: 0,
            taken: None,
            repeats_left: REPEATS_MAX,
        })
    }

    /// Its public name.
    pub fn id(&self) -> InviteId {
        self.code.invite()
    }

    /// What the inviter's screen shows.
    pub const fn code(&self) -> &Code {
        &self.code
    }

    /// The secret of its link.
    pub fn link_secret(&self) -> &[u8; 16] {
        &self.link
    }

    /// The secret of this kind.
    pub fn secret(&self, kind: SecretKind) -> Secret {
        match kind {
            SecretKind::Code => self.code.secret(),
            SecretKind::Link => Secret::from_link(*self.link),
        }
    }

    /// How long it still runs.
    pub fn remaining(&self, now: Duration) -> Duration {
        self.expires_at.saturating_sub(now)
    }

    /// Where it stands.
    pub fn standing(&self, now: Duration) -> Standing {
        if self.remaining(now).is_zero() {
            return Standing::Expired;
        }
        match self.taken {
            Some(device) => Standing::Taken(device),
            None if self.attempts_left == 0 && self.under_way == 0 => Standing::Burnt,
            None => Standing::Open { attempts_left: self.attempts_left },
        }
    }

    /// Counts an attempt of `joiner`, which must be done before it is answered. Every attempt that
    /// began ends with [`Invite::failed`] or [`Invite::proven`].
    ///
    /// # Errors
    /// Every variant of [`Refusal`].
    pub fn begin(
        &mut self,
        lock: &mut FailureLock,
        now: Duration,
        joiner: DeviceId,
        invite: InviteId,
    ) -> Result<(), Refusal> {
        if invite != self.id() {
            return Err(Refusal::Unknown { found: invite });
        }
        if self.remaining(now).is_zero() {
            return Err(Refusal::Expired);
        }
        lock.check(now)?;
        let left = match self.taken {
            Some(device) if device == joiner => &mut self.repeats_left,
            Some(_) => return Err(Refusal::Taken),
            None => &mut self.attempts_left,
        };
        *left = left.checked_sub(1).ok_or(Refusal::Burnt)?;
        self.under_way = self.under_way.saturating_add(1);
        Ok(())
    }

    /// An attempt ended without proof, for whatever reason.
    pub fn failed(&mut self, lock: &mut FailureLock, now: Duration) {
        self.under_way = self.under_way.saturating_sub(1);
        lock.failed(now);
    }

    /// The attempt of `joiner` proved the secret: the invite is its own from now on.
    ///
    /// # Errors
    /// [`Refusal::Taken`] where another was faster, [`Refusal::Expired`].
    pub fn proven(&mut self, now: Duration, joiner: DeviceId) -> Result<(), Refusal> {
        self.under_way = self.under_way.saturating_sub(1);
        if self.remaining(now).is_zero() {
            return Err(Refusal::Expired);
        }
        match self.taken {
            Some(device) if device != joiner => Err(Refusal::Taken),
            Some(_) | None => {
                self.taken = Some(joiner);
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invite({}, {} attempts left)", self.id(), self.attempts_left)
    }
}

/// Counts failed attempts over all invites of a node's life, and locks pairing after many.
#[derive(Clone, Debug, Default)]
pub struct FailureLock {
    /// When the latest attempts failed, oldest first. At most [`FAILURES_MAX`].
    failures: VecDeque<Duration>,
    locked_until: Option<Duration>,
}

impl FailureLock {
    /// Whether pairing is possible.
    ///
    /// # Errors
    /// [`Refusal::Locked`].
    pub fn check(&mut self, now: Duration) -> Result<(), Refusal> {
        match self.locked_until {
            Some(until) if now < until => Err(Refusal::Locked { remaining: until.saturating_sub(now) }),
            Some(_) => {
                *self = Self::default();
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn failed(&mut self, now: Duration) {
        while self.failures.front().is_some_and(|at| now.saturating_sub(*at) >= FAILURES_WITHIN) {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        if self.failures.len() >= FAILURES_MAX {
            self.failures.clear();
            self.locked_until = Some(now.saturating_add(LOCKED_FOR));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: DeviceId = DeviceId::from_bytes([1; 32]);
    const B: DeviceId = DeviceId::from_bytes([2; 32]);

    #[test]
    fn the_fourth_attempt_is_refused_and_the_invite_burns() {
        let (mut invite, mut lock) = opened();

        for left in (0..ATTEMPTS).rev() {
            begin(&mut invite, &mut lock, A).unwrap();
            assert_eq!(invite.standing(at(1)), Standing::Open { attempts_left: left });
            invite.failed(&mut lock, at(1));
        }

        assert_eq!(invite.standing(at(1)), Standing::Burnt);
        assert_eq!(begin(&mut invite, &mut lock, B), Err(Refusal::Burnt));
    }

    #[test]
    fn attempts_count_before_they_end() {
        let (mut invite, mut lock) = opened();
        for _ in 0..ATTEMPTS {
            begin(&mut invite, &mut lock, A).unwrap();
        }

        assert_eq!(begin(&mut invite, &mut lock, B), Err(Refusal::Burnt), "three are under way");
        invite.failed(&mut lock, at(1));
        invite.failed(&mut lock, at(1));
        assert_eq!(invite.standing(at(1)), Standing::Open { attempts_left: 0 }, "one still is");
        assert_eq!(invite.proven(at(1), A), Ok(()));
        assert_eq!(invite.standing(at(1)), Standing::Taken(A));
    }

    #[test]
    fn the_first_to_prove_has_it_and_may_ask_again() {
        let (mut invite, mut lock) = opened();
        begin(&mut invite, &mut lock, A).unwrap();
        begin(&mut invite, &mut lock, B).unwrap();

        assert_eq!(invite.proven(at(1), A), Ok(()));
        assert_eq!(invite.proven(at(1), B), Err(Refusal::Taken));
        assert_eq!(begin(&mut invite, &mut lock, B), Err(Refusal::Taken));
        for _ in 0..REPEATS_MAX {
            begin(&mut invite, &mut lock, A).unwrap();
            assert_eq!(invite.proven(at(1), A), Ok(()));
        }
        assert_eq!(begin(&mut invite, &mut lock, A), Err(Refusal::Burnt));
    }

    #[test]
    fn an_invite_expires_whatever_is_under_way() {
        let (mut invite, mut lock) = opened();
        begin(&mut invite, &mut lock, A).unwrap();
        let after = TTL;

        assert_eq!(invite.remaining(at(599)), at(1));
        assert_eq!(invite.standing(after), Standing::Expired);
        assert_eq!(invite.proven(after, A), Err(Refusal::Expired));
        assert_eq!(invite.begin(&mut lock, after, A, invite.id()), Err(Refusal::Expired));
    }

    #[test]
    fn another_invite_is_not_meant() {
        let (mut invite, mut lock) = opened();
        let found = InviteId::parse("ZZ").unwrap();

        assert_eq!(invite.begin(&mut lock, at(1), A, found), Err(Refusal::Unknown { found }));
        assert_eq!(invite.standing(at(1)), Standing::Open { attempts_left: ATTEMPTS });
    }

    #[test]
    fn ten_failures_within_an_hour_lock_pairing_for_one() {
        let mut lock = FailureLock::default();
        for minute in 0..10 {
            assert_eq!(lock.check(at(minute * 60)), Ok(()));
            lock.failed(at(minute * 60));
        }

        let locked = Refusal::Locked { remaining: LOCKED_FOR };
        assert_eq!(lock.check(at(540)), Err(locked));
        assert_eq!(Invite::open(&mut lock, at(540), TTL, &[0; 32]).err(), Some(locked));
        assert_eq!(lock.check(at(540 + 3_599)), Err(Refusal::Locked { remaining: at(1) }));
        assert_eq!(lock.check(at(540 + 3_600)), Ok(()));
        assert!(locked.to_string().ends_with("in 60 minutes"));
    }

    #[test]
    fn failures_that_are_far_apart_lock_nothing() {
        let mut lock = FailureLock::default();
        for count in 0..50 {
            lock.failed(at(count * 401));
            assert_eq!(lock.check(at(count * 401)), Ok(()));
        }
    }

    #[test]
    fn a_lock_stops_the_open_invite_too() {
        let (mut invite, mut lock) = opened();
        for _ in 0..FAILURES_MAX {
            lock.failed(at(1));
        }

        assert!(matches!(begin(&mut invite, &mut lock, A), Err(Refusal::Locked { .. })));
    }

    #[test]
    fn an_invite_prints_no_secret() {
        let (invite, _) = opened();

        assert_eq!(format!("{invite:?}"), format!("Invite({}, 3 attempts left)", invite.id()));
        assert_eq!(invite.secret(SecretKind::Link).kind(), SecretKind::Link);
        assert_ne!(invite.link_secret(), &[0; 16]);
    }

    fn opened() -> (Invite, FailureLock) {
        let mut lock = FailureLock::default();
        let entropy = std::array::from_fn(|index| u8::try_from(index).unwrap() + 1);
        let invite = Invite::open(&mut lock, Duration::ZERO, TTL, &entropy).unwrap();
        (invite, lock)
    }

    fn begin(invite: &mut Invite, lock: &mut FailureLock, joiner: DeviceId) -> Result<(), Refusal> {
        invite.begin(lock, at(1), joiner, invite.id())
    }

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }
}
