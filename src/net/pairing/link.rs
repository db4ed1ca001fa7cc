//! The link of an invite: what the QR code holds.
//!
//! `kinfold:1?i=<invite>&k=<inviter's device id>&s=<32 hexadecimal digits>&a=<addresses>&e=<expiry>`
//!
//! `a` holds addresses as `ip:port`, joined by commas, and may be left out; `e` is Unix seconds.
//! Parameters of other names are ignored, so a later version can add some; a known one must be
//! there once and be well-formed. Nothing is percent-encoded: every value consists of characters
//! that may stand in a query (RFC 3986 section 3.4) except for the brackets of IPv6 addresses,
//! which scanners hand over unchanged.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use thiserror::Error;
use zeroize::Zeroizing;

use crate::crypto::pairing::{CodeError, InviteId, Secret};
use crate::model::{DeviceId, IdError};

/// Text that is no link of an invite.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LinkProblem {
    /// Does not begin with `kinfold:1?`.
    #[error("an invite's link begins with {PREFIX:?}; copy the whole link")]
    Prefix,
    /// Longer than any link.
    #[error("a link of {found} bytes exceeds the limit of {limit}")]
    Length {
        /// Bytes found.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A parameter is not there.
    #[error("the link has no {name:?}; copy the whole link")]
    Missing {
        /// The parameter.
        name: char,
    },
    /// A parameter is there twice.
    #[error("the link has {name:?} twice")]
    Twice {
        /// The parameter.
        name: char,
    },
    /// `i` is no invite id.
    #[error("the link's invite is not readable")]
    Invite(#[source] CodeError),
    /// `k` is no device id.
    #[error("the link's device is not readable")]
    Device(#[source] IdError),
    /// `s` is not 32 hexadecimal digits.
    #[error("the link's secret is not 32 hexadecimal digits")]
    Secret,
    /// `a` holds something that is no `ip:port`.
    #[error("the link's address {found:?} is not of the form ip:port")]
    Address {
        /// The text.
        found: String,
    },
    /// `a` holds more than eight addresses.
    #[error("the link has more than {limit} addresses")]
    Addresses {
        /// The limit.
        limit: usize,
    },
    /// `e` is no number of seconds.
    #[error("the link's expiry is no number of seconds")]
    Expiry,
}

/// An invite as a link.
#[derive(Clone, PartialEq, Eq)]
pub struct Link {
    /// The invite.
    pub invite: InviteId,
    /// Whose invite it is: a joiner talks to nobody else.
    pub inviter: DeviceId,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// When it ends, in Unix seconds of the inviter's clock. A hint: clocks differ.
    pub expires_at: u64,
    secret: Zeroizing<[u8; 16]>,
}

impl Link {
    /// Puts a link together.
    pub fn new(
        invite: InviteId,
        inviter: DeviceId,
        secret: &[u8; 16],
        addresses: Vec<SocketAddr>,
        expires_at: u64,
    ) -> Self {
        Self { invite, inviter, addresses, expires_at, secret: Zeroizing::new(*secret) }
    }

    /// What both sides must know.
    pub fn secret(&self) -> Secret {
        Secret::from_link(*self.secret)
    }

    /// The link as it is shown to a person and to nobody else.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(format!("{PREFIX}i={}&k={}&s=", self.invite, self.inviter));
        for byte in self.secret.iter() {
            text.push_str(&format!("{byte:02x}"));
        }
        for (index, address) in self.addresses.iter().enumerate() {
            text.push_str(if index == 0 { "&a=" } else { "," });
            text.push_str(&address.to_string());
        }
        text.push_str(&format!("&e={}", self.expires_at));
        text
    }
}

impl FromStr for Link {
    type Err = LinkProblem;

    fn from_str(text: &str) -> Result<Self, LinkProblem> {
        let text = text.trim();
        if text.len() > LINK_BYTES_MAX {
            return Err(LinkProblem::Length { found: text.len(), limit: LINK_BYTES_MAX });
        }
        let query = text.strip_prefix(PREFIX).ok_or(LinkProblem::Prefix)?;
        let value = |name: char| {
            let mut values = query.split('&').filter_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            let first = values.next();
            if values.next().is_some() { Err(LinkProblem::Twice { name }) } else { Ok(first) }
        };
        let needed = |name| value(name)?.ok_or(LinkProblem::Missing { name });
        Ok(Self {
            invite: InviteId::parse(needed('i')?).map_err(LinkProblem::Invite)?,
            inviter: needed('k')?.parse().map_err(LinkProblem::Device)?,
            secret: secret(needed('s')?)?,
            addresses: addresses(value('a')?.unwrap_or_default())?,
            expires_at: needed('e')?.parse().map_err(|_| LinkProblem::Expiry)?,
        })
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({} of {:?} at {:?})", self.invite, self.inviter, self.addresses)
    }
}

fn secret(text: &str) -> Result<Zeroizing<[u8; 16]>, LinkProblem> {
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(LinkProblem::Secret);
    }
    let number = u128::from_str_radix(text, 16).map_err(|_| LinkProblem::Secret)?;
    Ok(Zeroizing::new(number.to_be_bytes()))
}

fn addresses(text: &str) -> Result<Vec<SocketAddr>, LinkProblem> {
    let parse = |address: &str| {
        address.parse().map_err(|_| LinkProblem::Address { found: address.chars().take(80).collect() })
    };
    let addresses: Vec<_> =
        text.split(',').filter(|address| !address.is_empty()).map(parse).collect::<Result<_, _>>()?;
    if addresses.len() > ADDRESSES_MAX {
        return Err(LinkProblem::Addresses { limit: ADDRESSES_MAX });
    }
    Ok(addresses)
}

/// Version 1 of the link.
pub(super) const PREFIX: &str = "kinfold:1?";

/// Longest link: the longest parameters and room for those of later versions.
pub const LINK_BYTES_MAX: usize = 2_048;

/// Most addresses in a link: a QR code stays readable from a screen.
pub const ADDRESSES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::identity::Identity;

    #[test]
    fn a_link_reads_back() {
        for addresses in [vec![], vec!["192.168.1.4:5000"], vec!["10.0.0.1:1", "[fd00::2]:65535"]] {
            let addresses = addresses.into_iter().map(|address| address.parse().unwrap()).collect();
            let link = Link { addresses, ..sample() };

            assert_eq!(link.to_text().parse(), Ok(link.clone()));
        }
        let text = sample().to_text();
        assert!(text.starts_with("kinfold:1?i=7Q&k=") && text.ends_with("&e=1800000000"), "{}", *text);
        let later = format!(" {}&x=later\n", *text);
        assert_eq!(later.parse(), Ok(sample()), "unknown parameters are ignored");
    }

    #[test]
    fn what_is_no_link_is_refused_by_name() {
        let text = sample().to_text();
        let refused = |from: &str, to: &str| text.replace(from, to).parse::<Link>().unwrap_err();

        assert_eq!(refused("kinfold:1", "kinfold:2"), LinkProblem::Prefix);
        assert_eq!("7QK-014-XYZ".parse::<Link>(), Err(LinkProblem::Prefix));
        assert_eq!(refused("&e=", "&f="), LinkProblem::Missing { name: 'e' });
        assert_eq!(refused("&e=", "&i=7Q&e="), LinkProblem::Twice { name: 'i' });
        assert_eq!(refused("i=7Q", "i=7"), LinkProblem::Invite(CodeError::Length { expected: 2, found: 1 }));
        assert!(matches!(refused("&k=", "&k=a"), LinkProblem::Device(_)));
        assert_eq!(refused("&s=", "&s=0"), LinkProblem::Secret);
        assert_eq!(refused("&s=0", "&s=+"), LinkProblem::Secret);
        assert_eq!(refused("192.168.1.4", "host"), LinkProblem::Address { found: "host:5000".to_owned() });
        let nine = ["10.0.0.1:1"; 9].join(",");
        assert_eq!(refused("192.168.1.4:5000", &nine), LinkProblem::Addresses { limit: 8 });
        assert_eq!(refused("1800000000", "soon"), LinkProblem::Expiry);
        let long = format!("{}&x={}", *text, "x".repeat(3_000));
        assert!(matches!(long.parse::<Link>(), Err(LinkProblem::Length { .. })));
    }

    #[test]
    fn a_link_prints_no_secret() {
        assert!(!format!("{:?}", sample()).contains("0909"));
    }

    fn sample() -> Link {
        let inviter = Identity::from_secret(&[1; 32]).device();
        let addresses = vec!["192.168.1.4:5000".parse().unwrap()];
        Link::new(InviteId::parse("7Q").unwrap(), inviter, &[9; 16], addresses, 1_800_000_000)
    }
}
