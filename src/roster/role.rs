//! What a device of a space may do.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// What a device of a space may do; ordered by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Stores and forwards ciphertext; holds no key and writes no op.
    Blind,
    /// Holds the keys, reads and writes.
    Member,
    /// A member that also adds and removes devices.
    Admin,
}

/// Text that names no role.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown role {found:?}: it is one of admin, member, blind")]
pub struct RoleError {
    /// The text.
    pub found: String,
}

impl Role {
    /// Whether a device of this role is given the space's keys.
    pub const fn holds_keys(self) -> bool {
        match self {
            Self::Admin | Self::Member => true,
            Self::Blind => false,
        }
    }

    pub(crate) const fn to_byte(self) -> u8 {
        match self {
            Self::Admin => 1,
            Self::Member => 2,
            Self::Blind => 3,
        }
    }

    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Admin),
            2 => Some(Self::Member),
            3 => Some(Self::Blind),
            _ => None,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "admin",
            Self::Member => "member",
            Self::Blind => "blind",
        })
    }
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        match text {
            "admin" => Ok(Self::Admin),
            "member" => Ok(Self::Member),
            "blind" => Ok(Self::Blind),
            _ => Err(RoleError { found: text.chars().take(80).collect() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_read_back_and_others_are_refused() {
        for role in [Role::Admin, Role::Member, Role::Blind] {
            assert_eq!(role.to_string().parse(), Ok(role));
            assert_eq!(Role::from_byte(role.to_byte()), Some(role));
        }
        assert_eq!("root".parse::<Role>(), Err(RoleError { found: "root".to_owned() }));
        assert_eq!(Role::from_byte(0), None);
        assert!(!Role::Blind.holds_keys() && Role::Member.holds_keys());
        assert!(Role::Blind < Role::Member && Role::Member < Role::Admin);
    }
}
