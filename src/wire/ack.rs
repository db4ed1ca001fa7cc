//! The ack: a device's signed word that it holds everything up to a frontier durably and folded.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `KFA1` |
//! | 4 | 16 | scope tag |
//! | 20 | 32 | device |
//! | 52 | 8 | number, rising per device and space |
//! | 60 | 8 | wall clock of the device, Unix milliseconds |
//! | 68 | 32 | frontier digest |
//! | 100 | 8 | ops within the frontier |
//! | 108 | 32 | roster digest |
//! | 140 | 32 | root |
//! | 172 | 8 | unknown count: ops kept but not folded |
//! | 180 | 4 | fold version |
//! | 184 | 32 | base checkpoint, zero for none |
//! | 216 | 64 | signature |
//!
//! Integers are big-endian. The device signs `BLAKE3("kinfold ack v1" ‖ bytes before the
//! signature)`. The frontier itself travels beside it ([`super::message::AckFrame`]) and is
//! believed only where its digest is the signed one.

use std::fmt;

use thiserror::Error;

use crate::crypto::{Identity, SignatureError, verify};
use crate::model::{Blame, DeviceId, Root, ScopeTag, Wall};

/// Bytes that are no ack.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AckError {
    /// Fewer or more bytes than an ack has.
    #[error("an ack has {expected} bytes, {found} are there")]
    Length {
        /// [`Ack::BYTES`].
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// Does not begin with `KFA1`.
    #[error("not an ack this kinfold reads: the first four bytes are {found:02x?}")]
    Magic {
        /// The bytes found.
        found: [u8; 4],
    },
}

impl AckError {
    /// Whose fault it is: the sender's, always.
    pub const fn blame(&self) -> Blame {
        Blame::Peer
    }
}

/// What an ack says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AckFields {
    /// The space.
    pub scope: ScopeTag,
    /// Who acknowledges.
    pub device: DeviceId,
    /// Rises with every ack of this device in this space: of two, the greater counts.
    pub number: u64,
    /// The device's wall clock.
    pub wall: Wall,
    /// [`Frontier::digest`](crate::model::Frontier::digest) of what it holds durably.
    pub frontier_digest: [u8; 32],
    /// How many ops lie within that frontier.
    pub op_count: u64,
    /// Digest of the roster it folded under.
    pub roster_digest: [u8; 32],
    /// The root of its state at that frontier.
    pub root: Root,
    /// How many of the ops it keeps without folding them; roots compare only where this is 0.
    pub unknown_count: u64,
    /// The version of the fold that made the root.
    pub fold_version: u32,
    /// The checkpoint its state begins at.
    pub checkpoint: Option<[u8; 32]>,
}

/// A well-formed ack, as received: not yet believed, see [`Ack::verify`].
#[derive(Clone, PartialEq, Eq)]
pub struct Ack {
    bytes: [u8; Self::BYTES],
    fields: AckFields,
}

impl Ack {
    /// Bytes of the byte form.
    pub const BYTES: usize = SIGNATURE_AT + 64;

    /// Signs an ack; its device is the identity's, whatever `fields` says.
    pub fn sign(identity: &Identity, fields: AckFields) -> Self {
        let fields = AckFields { device: identity.device(), ..fields };
        let mut bytes = [0; Self::BYTES];
        bytes[0..4].copy_from_slice(MAGIC);
        bytes[4..20].copy_from_slice(fields.scope.as_bytes());
        bytes[20..52].copy_from_slice(fields.device.as_bytes());
        bytes[52..60].copy_from_slice(&fields.number.to_be_bytes());
        bytes[60..68].copy_from_slice(&fields.wall.as_millis().to_be_bytes());
        bytes[68..100].copy_from_slice(&fields.frontier_digest);
        bytes[100..108].copy_from_slice(&fields.op_count.to_be_bytes());
        bytes[108..140].copy_from_slice(&fields.roster_digest);
        bytes[140..172].copy_from_slice(fields.root.as_bytes());
        bytes[172..180].copy_from_slice(&fields.unknown_count.to_be_bytes());
        bytes[180..184].copy_from_slice(&fields.fold_version.to_be_bytes());
        bytes[184..216].copy_from_slice(&fields.checkpoint.unwrap_or(NO_CHECKPOINT));
        let signature = identity.sign(&signed_hash(&bytes));
        bytes[SIGNATURE_AT..].copy_from_slice(&signature);
        Self { bytes, fields }
    }

    /// Reads an ack and checks its form, not its signature.
    ///
    /// # Errors
    /// Every variant of [`AckError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, AckError> {
        let bytes: [u8; Self::BYTES] =
            bytes.try_into().map_err(|_| AckError::Length { expected: Self::BYTES, found: bytes.len() })?;
        let magic = take::<4>(&bytes, 0);
        if &magic != MAGIC {
            return Err(AckError::Magic { found: magic });
        }
        let fields = AckFields {
            scope: ScopeTag::from_bytes(take(&bytes, 4)),
            device: DeviceId::from_bytes(take(&bytes, 20)),
            number: u64::from_be_bytes(take(&bytes, 52)),
            wall: Wall::from_millis(u64::from_be_bytes(take(&bytes, 60))),
            frontier_digest: take(&bytes, 68),
            op_count: u64::from_be_bytes(take(&bytes, 100)),
            roster_digest: take(&bytes, 108),
            root: Root::from_bytes(take(&bytes, 140)),
            unknown_count: u64::from_be_bytes(take(&bytes, 172)),
            fold_version: u32::from_be_bytes(take(&bytes, 180)),
            checkpoint: Some(take(&bytes, 184)).filter(|hash| *hash != NO_CHECKPOINT),
        };
        Ok(Self { bytes, fields })
    }

    /// Checks the device's signature.
    ///
    /// # Errors
    /// Every variant of [`SignatureError`].
    pub fn verify(&self) -> Result<(), SignatureError> {
        verify(&self.fields.device, &signed_hash(&self.bytes), &take(&self.bytes, SIGNATURE_AT))
    }

    /// What it says.
    pub const fn fields(&self) -> &AckFields {
        &self.fields
    }

    /// Its bytes, as received or signed.
    pub const fn bytes(&self) -> &[u8; Self::BYTES] {
        &self.bytes
    }
}

impl fmt::Debug for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ack({:?} number {})", self.fields.device, self.fields.number)
    }
}

fn signed_hash(bytes: &[u8; Ack::BYTES]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"kinfold ack v1");
    hasher.update(&bytes[..SIGNATURE_AT]);
    *hasher.finalize().as_bytes()
}

fn take<const N: usize>(bytes: &[u8; Ack::BYTES], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}

const MAGIC: &[u8; 4] = b"KFA1";
const SIGNATURE_AT: usize = 216;
const NO_CHECKPOINT: [u8; 32] = [0; 32];

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity() -> Identity {
        Identity::from_secret(&[1; 32])
    }

    /// An ack with a different value in every field.
    pub(in crate::wire) fn sample() -> Ack {
        let fields = AckFields {
            scope: ScopeTag::from_bytes([1; 16]),
            device: identity().device(),
            number: 2,
            wall: Wall::from_millis(3),
            frontier_digest: [4; 32],
            op_count: 5,
            roster_digest: [6; 32],
            root: Root::from_bytes([7; 32]),
            unknown_count: 8,
            fold_version: 9,
            checkpoint: Some([10; 32]),
        };
        Ack::sign(&identity(), fields)
    }

    #[test]
    fn an_ack_reads_back_and_holds() {
        let without = Ack::sign(&identity(), AckFields { checkpoint: None, ..*sample().fields() });
        for ack in [sample(), without] {
            let read = Ack::parse(ack.bytes()).unwrap();

            assert_eq!(read, ack);
            assert_eq!(read.verify(), Ok(()));
        }
    }

    #[test]
    fn the_signature_covers_every_byte_and_the_device() {
        for at in 4..Ack::BYTES {
            let mut spoiled = *sample().bytes();
            spoiled[at] ^= 1;
            assert!(Ack::parse(&spoiled).unwrap().verify().is_err(), "byte {at}");
        }
        let other = AckFields { device: DeviceId::from_bytes([9; 32]), ..*sample().fields() };
        assert_eq!(Ack::sign(&identity(), other).fields().device, identity().device());
    }

    #[test]
    fn what_is_no_ack_is_refused_by_name() {
        let mut later = *sample().bytes();
        later[3] = b'2';

        assert_eq!(Ack::parse(&later), Err(AckError::Magic { found: *b"KFA2" }));
        assert_eq!(
            Ack::parse(&later[1..]),
            Err(AckError::Length { expected: Ack::BYTES, found: Ack::BYTES - 1 })
        );
    }

    proptest! {
        #[test]
        fn any_bytes_read_or_are_refused(mut bytes in proptest::collection::vec(any::<u8>(), Ack::BYTES - 1..Ack::BYTES + 2)) {
            let _ = Ack::parse(&bytes);
            bytes[..4].copy_from_slice(MAGIC);
            if let Ok(ack) = Ack::parse(&bytes) {
                prop_assert!(ack.verify().is_err());
                prop_assert_eq!(&ack.bytes()[..], &bytes[..]);
            }
        }
    }
}
