//! Names and tokens of leases: who may run an agent, and as what run.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::limits::LEASE_NAME_BYTES_MAX;

/// Text or a number that is no name or token of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LeaseNameError {
    /// Empty, or longer than [`LEASE_NAME_BYTES_MAX`].
    #[error("a name of an agent or a run has 1 to {limit} bytes, this one has {found}")]
    Length {
        /// Bytes found.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A control character, which would not be seen where the name is shown.
    #[error("a name of an agent or a run has no control characters, this one has {found:?}")]
    Character {
        /// The character.
        found: char,
    },
    /// A number that is no token: 1 to 2^53 - 1.
    #[error("an epoch is a number from 1 to {}, not {found}", LeaseEpoch::MAX.get())]
    Epoch {
        /// The number.
        found: u64,
    },
}

macro_rules! lease_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = LeaseNameError;

            fn from_str(text: &str) -> Result<Self, LeaseNameError> {
                check_name(text)?;
                Ok(Self(text.into()))
            }
        }
    };
}

lease_name!(
    /// What a lease is held for: 1 to 128 bytes without control characters.
    AgentId
);
lease_name!(
    /// One run of an agent, named by whoever starts it: 1 to 128 bytes without control characters.
    RunId
);

/// A lease's fencing token: `term << 32 | n`, from 1, below 2^53 so that JSON keeps it exact.
///
/// The term rises with every host of the register, `n` with every grant of one host. Tokens compare
/// on one chain of certificates only. Source: Kleppmann, "How to do distributed locking", 2016.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LeaseEpoch(u64);

impl LeaseEpoch {
    /// The first token of the first host.
    pub const MIN: Self = Self(1);
    /// The greatest token.
    pub const MAX: Self = Self((1 << 53) - 1);

    /// The token with this number.
    ///
    /// # Errors
    /// [`LeaseNameError::Epoch`].
    pub const fn new(raw: u64) -> Result<Self, LeaseNameError> {
        if Self::MIN.0 <= raw && raw <= Self::MAX.0 {
            Ok(Self(raw))
        } else {
            Err(LeaseNameError::Epoch { found: raw })
        }
    }

    /// The `n`th token of a term; `None` past the greatest, and for 0 of term 0.
    pub const fn of(term: u32, n: u32) -> Option<Self> {
        let raw = (term as u64) << 32 | n as u64;
        if Self::MIN.0 <= raw && raw <= Self::MAX.0 { Some(Self(raw)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Which host of the register gave it, counted from 0.
    pub const fn term(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Which grant of that host.
    pub const fn n(self) -> u32 {
        (self.0 & 0xffff_ffff) as u32
    }
}

impl fmt::Display for LeaseEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

fn check_name(text: &str) -> Result<(), LeaseNameError> {
    if !(1..=LEASE_NAME_BYTES_MAX).contains(&text.len()) {
        return Err(LeaseNameError::Length { found: text.len(), limit: LEASE_NAME_BYTES_MAX });
    }
    match text.chars().find(|found| found.is_control()) {
        Some(found) => Err(LeaseNameError::Character { found }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_its_term_and_its_number() {
        let token = LeaseEpoch::of(3, 7).unwrap();

        assert_eq!((token.term(), token.n(), token.get()), (3, 7, 3 << 32 | 7));
        assert_eq!(LeaseEpoch::new(token.get()), Ok(token));
        assert!(
            LeaseEpoch::of(0, 1) < LeaseEpoch::of(0, 2) && LeaseEpoch::of(0, u32::MAX) < LeaseEpoch::of(1, 0)
        );
        assert_eq!(LeaseEpoch::of(0, 1), Some(LeaseEpoch::MIN));
    }

    #[test]
    fn a_number_json_would_not_keep_is_no_token() {
        assert_eq!(LeaseEpoch::new(0), Err(LeaseNameError::Epoch { found: 0 }));
        assert_eq!(LeaseEpoch::new(1 << 53), Err(LeaseNameError::Epoch { found: 1 << 53 }));
        assert_eq!((LeaseEpoch::of(0, 0), LeaseEpoch::of(1 << 21, 0)), (None, None));
        assert_eq!(LeaseEpoch::of((1 << 21) - 1, u32::MAX), Some(LeaseEpoch::MAX));
    }

    #[test]
    fn a_name_is_short_and_can_be_seen() {
        assert_eq!("backup é".parse::<AgentId>().unwrap().as_str(), "backup é");
        assert_eq!(
            "".parse::<RunId>(),
            Err(LeaseNameError::Length { found: 0, limit: LEASE_NAME_BYTES_MAX })
        );
        assert!(matches!("x".repeat(129).parse::<AgentId>(), Err(LeaseNameError::Length { found: 129, .. })));
        assert_eq!("a\nb".parse::<AgentId>(), Err(LeaseNameError::Character { found: '\n' }));
    }
}
