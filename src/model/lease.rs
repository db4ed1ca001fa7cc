//! Names and tokens of leases: who may run an agent, as what run, and what became of it.

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
    /// A word that says nothing of a run.
    #[error("{found:?} is no status of a run: it is pending, committed or failed")]
    Status {
        /// The text.
        found: String,
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

/// What an intent says of a run. Numbers are for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum IntentStatus {
    /// 1: its effect is about to happen.
    Pending,
    /// 2: its effect has happened.
    Committed,
    /// 3: it ended without its effect.
    Failed,
}

impl IntentStatus {
    /// The number in an op.
    pub const fn number(self) -> u8 {
        match self {
            Self::Pending => 1,
            Self::Committed => 2,
            Self::Failed => 3,
        }
    }

    /// The status with this number; `None` for one that a later version defines.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Pending),
            2 => Some(Self::Committed),
            3 => Some(Self::Failed),
            _ => None,
        }
    }

    /// Whether the run is over: such a status never reverts.
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Pending => false,
            Self::Committed | Self::Failed => true,
        }
    }
}

impl fmt::Display for IntentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Committed => "committed",
            Self::Failed => "failed",
        })
    }
}

impl FromStr for IntentStatus {
    type Err = LeaseNameError;

    fn from_str(text: &str) -> Result<Self, LeaseNameError> {
        match text {
            "pending" => Ok(Self::Pending),
            "committed" => Ok(Self::Committed),
            "failed" => Ok(Self::Failed),
            _ => Err(LeaseNameError::Status { found: text.chars().take(80).collect() }),
        }
    }
}

/// The key of a run on the `intent` surface: agent, U+001F, run. No name holds that character.
pub fn intent_key(agent: &str, run: &str) -> String {
    let mut key = String::with_capacity(agent.len() + 1 + run.len());
    key.push_str(agent);
    key.push(INTENT_KEY_SEPARATOR);
    key.push_str(run);
    key
}

/// Agent and run of an [`intent_key`]; `None` where the text is none.
pub fn split_intent_key(key: &str) -> Option<(&str, &str)> {
    let (agent, run) = key.split_once(INTENT_KEY_SEPARATOR)?;
    (is_lease_name(agent) && is_lease_name(run)).then_some((agent, run))
}

/// Whether the text can name an agent or a run.
pub(crate) fn is_lease_name(text: &str) -> bool {
    check_name(text).is_ok()
}

/// What stands between agent and run in an [`intent_key`].
const INTENT_KEY_SEPARATOR: char = '\u{1f}';

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
    fn a_status_reads_back_from_its_number_and_its_word() {
        for status in [IntentStatus::Pending, IntentStatus::Committed, IntentStatus::Failed] {
            assert_eq!(IntentStatus::from_number(status.number()), Some(status));
            assert_eq!(status.to_string().parse(), Ok(status));
            assert_eq!(status.is_terminal(), status != IntentStatus::Pending);
        }
        assert_eq!((IntentStatus::from_number(0), IntentStatus::from_number(4)), (None, None));
        let unknown = LeaseNameError::Status { found: "done".to_owned() };
        assert_eq!("done".parse::<IntentStatus>(), Err(unknown));
    }

    #[test]
    fn a_key_gives_its_agent_and_its_run_back() {
        let key = intent_key("backup/nas", "2026 11");

        assert_eq!(split_intent_key(&key), Some(("backup/nas", "2026 11")));
        for none in ["backup", "\u{1f}run", "agent\u{1f}", "agent\u{1f}run\u{1f}"] {
            assert_eq!(split_intent_key(none), None);
        }
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
