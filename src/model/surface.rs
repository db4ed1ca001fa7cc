//! Surfaces (kinds of data) and scopes (which space), with their text forms.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::limits::SURFACE_BYTES_MAX;

/// Text that names no surface this version knows.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SurfaceError {
    /// No surface has this name.
    #[error(
        "unknown surface {found:?}: it is one of routing, declagent, registry:<kind>, conversation, \
         knowledge, skill, trajectory, run, intent"
    )]
    Unknown {
        /// The text.
        found: String,
    },
    /// `registry:` wants a kind of 1 to 55 characters from a-z, 0-9, `-`, `_` and `.`.
    #[error("{found:?} is no registry kind: 1 to 55 characters from a-z, 0-9, '-', '_' and '.'")]
    RegistryKind {
        /// The kind as given.
        found: String,
    },
}

/// How the ops of a surface fold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tier {
    /// Multi-value register per key: `Put` and `Delete`.
    Registry,
    /// Grow-only entity per key: `Fact`, the first writer by total order wins.
    Facts,
    /// Streams of `Event`s read in total order.
    Events,
    /// The intent ledger.
    Ledger,
}

/// The kind of data an op touches.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Surface {
    /// Events replayed in order by a function the application injects.
    Routing,
    /// Declared agents, registry tier.
    Declagent,
    /// Rows of an application's kind, registry tier.
    Registry(Arc<str>),
    /// Turns of conversations, events.
    Conversation,
    /// Facts learned.
    Knowledge,
    /// Skills, facts.
    Skill,
    /// Trajectories, facts.
    Trajectory,
    /// Finished runs, facts.
    Run,
    /// The lease ledger.
    Intent,
}

impl Surface {
    /// How ops of this surface fold.
    pub const fn tier(&self) -> Tier {
        match self {
            Self::Declagent | Self::Registry(_) => Tier::Registry,
            Self::Knowledge | Self::Skill | Self::Trajectory | Self::Run => Tier::Facts,
            Self::Routing | Self::Conversation => Tier::Events,
            Self::Intent => Tier::Ledger,
        }
    }
}

impl fmt::Display for Surface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Routing => f.write_str("routing"),
            Self::Declagent => f.write_str("declagent"),
            Self::Registry(kind) => write!(f, "registry:{kind}"),
            Self::Conversation => f.write_str("conversation"),
            Self::Knowledge => f.write_str("knowledge"),
            Self::Skill => f.write_str("skill"),
            Self::Trajectory => f.write_str("trajectory"),
            Self::Run => f.write_str("run"),
            Self::Intent => f.write_str("intent"),
        }
    }
}

impl fmt::Debug for Surface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Surface {
    type Err = SurfaceError;

    fn from_str(text: &str) -> Result<Self, SurfaceError> {
        Ok(match text {
            "routing" => Self::Routing,
            "declagent" => Self::Declagent,
            "conversation" => Self::Conversation,
            "knowledge" => Self::Knowledge,
            "skill" => Self::Skill,
            "trajectory" => Self::Trajectory,
            "run" => Self::Run,
            "intent" => Self::Intent,
            _ => {
                let Some(kind) = text.strip_prefix("registry:") else {
                    return Err(SurfaceError::Unknown { found: text.chars().take(80).collect() });
                };
                if !is_registry_kind(kind) {
                    return Err(SurfaceError::RegistryKind { found: kind.chars().take(80).collect() });
                }
                Self::Registry(kind.into())
            }
        })
    }
}

/// Text that names no scope.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ScopeError {
    /// Neither `personal` nor `shared:<org>`.
    #[error("unknown scope {found:?}: it is personal or shared:<org>")]
    Unknown {
        /// The text.
        found: String,
    },
    /// An organisation's name has 1 to 57 characters from a-z, 0-9, `-`, `_` and `.`.
    #[error("{found:?} is no organisation name: 1 to 57 characters from a-z, 0-9, '-', '_' and '.'")]
    Organisation {
        /// The name as given.
        found: String,
    },
}

/// Which space something belongs to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// The devices of one person.
    Personal,
    /// The devices of an organisation.
    Shared(Arc<str>),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Personal => f.write_str("personal"),
            Self::Shared(org) => write!(f, "shared:{org}"),
        }
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        if text == "personal" {
            return Ok(Self::Personal);
        }
        let Some(org) = text.strip_prefix("shared:") else {
            return Err(ScopeError::Unknown { found: text.chars().take(80).collect() });
        };
        if org.is_empty() || org.len() > SURFACE_BYTES_MAX - "shared:".len() || !org.bytes().all(is_name_byte)
        {
            return Err(ScopeError::Organisation { found: org.chars().take(80).collect() });
        }
        Ok(Self::Shared(org.into()))
    }
}

fn is_registry_kind(kind: &str) -> bool {
    !kind.is_empty() && kind.len() <= SURFACE_BYTES_MAX - "registry:".len() && kind.bytes().all(is_name_byte)
}

fn is_name_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_surface_reads_back_from_its_text() {
        for text in [
            "routing",
            "declagent",
            "registry:note",
            "conversation",
            "knowledge",
            "skill",
            "trajectory",
            "run",
            "intent",
        ] {
            assert_eq!(text.parse::<Surface>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn unknown_surfaces_and_kinds_are_refused() {
        assert!(matches!("notes".parse::<Surface>(), Err(SurfaceError::Unknown { .. })));
        for text in ["registry:", "registry:Größe", "registry:a b", &format!("registry:{}", "a".repeat(56))]
        {
            assert!(matches!(text.parse::<Surface>(), Err(SurfaceError::RegistryKind { .. })), "{text}");
        }
    }

    #[test]
    fn scopes_read_back_and_bad_ones_are_refused() {
        assert_eq!("personal".parse(), Ok(Scope::Personal));
        assert_eq!("shared:acme".parse(), Ok(Scope::Shared("acme".into())));
        assert!(matches!("acme".parse::<Scope>(), Err(ScopeError::Unknown { .. })));
        assert!(matches!("shared:".parse::<Scope>(), Err(ScopeError::Organisation { .. })));
    }
}
