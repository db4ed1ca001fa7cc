//! What devices say to each other about who hosts the register of leases.
//!
//! What is proposed and handed over are byte forms of the lease core, unread here and bounded. The
//! kinds are in the table of [`super`].

use bytes::Bytes;

use super::super::codec;
use super::{MessageError, form};
use crate::model::ScopeTag;
use crate::model::limits::FRAME_BYTES_MAX;

/// One message about the host of the register.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostMessage {
    /// Which life of its home a device is in; said where that is not the first.
    Home {
        /// The life.
        instance: u64,
    },
    /// The driver asks for a vote.
    Propose {
        /// The proposal.
        proposal: Bytes,
    },
    /// A voter confirms what it has durably promised.
    Confirm {
        /// The hash of the proposal.
        hash: [u8; 32],
        /// The digest of the table that the host before hands over; zero from everybody else.
        table: [u8; 32],
        /// Over both.
        signature: Box<[u8; 64]>,
    },
    /// A voter promised another proposal of this term.
    Promised {
        /// That one.
        proposal: Bytes,
    },
    /// A voter cannot vote, or not yet.
    Unable {
        /// The hash of the proposal.
        hash: [u8; 32],
        /// Why: 1 its home was restored, 2 it has another certificate, 3 other devices, 4 it is the host
        /// and not lost.
        why: u8,
        /// The certificate it has, where that is why; zero otherwise.
        cert: [u8; 32],
    },
    /// A driver gives its proposal up.
    Withdraw {
        /// The hash of the proposal.
        hash: [u8; 32],
        /// Over it.
        signature: Box<[u8; 64]>,
    },
    /// The new host asks the one before for the table it sealed.
    Fetch {
        /// Its digest.
        digest: [u8; 32],
    },
    /// A piece of the table; pieces come in order.
    Table {
        /// Bytes of the whole table.
        total: u32,
        /// Where the piece begins.
        offset: u32,
        /// The piece, at most [`TABLE_PIECE_BYTES_MAX`].
        piece: Bytes,
    },
}

impl HostMessage {
    pub(super) const fn kind(&self) -> u16 {
        match self {
            Self::Home { .. } => form::HOST_HOME,
            Self::Propose { .. } => form::HOST_PROPOSE,
            Self::Confirm { .. } => form::HOST_CONFIRM,
            Self::Promised { .. } => form::HOST_PROMISED,
            Self::Unable { .. } => form::HOST_UNABLE,
            Self::Withdraw { .. } => form::HOST_WITHDRAW,
            Self::Fetch { .. } => form::HOST_FETCH,
            Self::Table { .. } => form::HOST_TABLE,
        }
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Home { .. } => "host-home",
            Self::Propose { .. } => "host-propose",
            Self::Confirm { .. } => "host-confirm",
            Self::Promised { .. } => "host-promised",
            Self::Unable { .. } => "host-unable",
            Self::Withdraw { .. } => "host-withdraw",
            Self::Fetch { .. } => "host-fetch",
            Self::Table { .. } => "host-table",
        }
    }

    pub(super) fn check(&self) -> Result<(), MessageError> {
        let kind = self.kind();
        let at_most = |found: usize, expected: usize| {
            if found > expected { Err(MessageError::FieldLength { kind, expected, found }) } else { Ok(()) }
        };
        match self {
            Self::Propose { proposal } | Self::Promised { proposal } => {
                at_most(proposal.len(), PROPOSAL_BYTES_MAX)
            }
            Self::Table { total, offset, piece } => {
                at_most(piece.len(), TABLE_PIECE_BYTES_MAX)?;
                let end = (*offset as usize).saturating_add(piece.len());
                at_most(end, *total as usize)
            }
            Self::Home { .. }
            | Self::Confirm { .. }
            | Self::Unable { .. }
            | Self::Withdraw { .. }
            | Self::Fetch { .. } => Ok(()),
        }
    }

    pub(super) fn write(&self, scope: ScopeTag, out: &mut Vec<u8>) {
        let scope = *scope.as_bytes();
        match self {
            Self::Home { instance } => codec::encode_into((scope, *instance), out),
            Self::Propose { proposal } | Self::Promised { proposal } => {
                codec::encode_into((scope, &proposal[..]), out);
            }
            Self::Confirm { hash, table, signature } => {
                codec::encode_into((scope, *hash, *table, **signature), out);
            }
            Self::Unable { hash, why, cert } => codec::encode_into((scope, *hash, *why, *cert), out),
            Self::Withdraw { hash, signature } => codec::encode_into((scope, *hash, **signature), out),
            Self::Fetch { digest } => codec::encode_into((scope, *digest), out),
            Self::Table { total, offset, piece } => {
                codec::encode_into((scope, *total, *offset, &piece[..]), out);
            }
        }
    }

    /// `None` where the kind is none of these.
    pub(super) fn read(kind: u16, body: &[u8]) -> Result<Option<(ScopeTag, Self)>, MessageError> {
        let (scope, message) = match kind {
            form::HOST_HOME => {
                let (scope, instance) = form::decode(kind, body)?;
                (scope, Self::Home { instance })
            }
            form::HOST_PROPOSE => {
                let (scope, proposal): ([u8; 16], &[u8]) = form::decode(kind, body)?;
                (scope, Self::Propose { proposal: Bytes::copy_from_slice(proposal) })
            }
            form::HOST_CONFIRM => {
                let (scope, hash, table, signature): ([u8; 16], [u8; 32], [u8; 32], [u8; 64]) =
                    form::decode(kind, body)?;
                (scope, Self::Confirm { hash, table, signature: Box::new(signature) })
            }
            form::HOST_PROMISED => {
                let (scope, proposal): ([u8; 16], &[u8]) = form::decode(kind, body)?;
                (scope, Self::Promised { proposal: Bytes::copy_from_slice(proposal) })
            }
            form::HOST_UNABLE => {
                let (scope, hash, why, cert) = form::decode(kind, body)?;
                (scope, Self::Unable { hash, why, cert })
            }
            form::HOST_WITHDRAW => {
                let (scope, hash, signature): ([u8; 16], [u8; 32], [u8; 64]) = form::decode(kind, body)?;
                (scope, Self::Withdraw { hash, signature: Box::new(signature) })
            }
            form::HOST_FETCH => {
                let (scope, digest) = form::decode(kind, body)?;
                (scope, Self::Fetch { digest })
            }
            form::HOST_TABLE => {
                let (scope, total, offset, piece): ([u8; 16], u32, u32, &[u8]) = form::decode(kind, body)?;
                (scope, Self::Table { total, offset, piece: Bytes::copy_from_slice(piece) })
            }
            _ => return Ok(None),
        };
        Ok(Some((ScopeTag::from_bytes(scope), message)))
    }
}

/// Greatest proposal: 512 voters and what is fixed.
pub const PROPOSAL_BYTES_MAX: usize = 24 * 1024;

/// Greatest piece of a table: a frame with some room.
pub const TABLE_PIECE_BYTES_MAX: usize = FRAME_BYTES_MAX - 1024;
