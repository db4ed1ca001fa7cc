//! Proof that one device signed two histories of one log.

use thiserror::Error;

use crate::crypto::{BatchError, BatchHeader, ForkWitness, SignatureError};
use crate::model::{LogId, Seq};

/// Two witnesses that prove nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ForkError {
    /// The bytes are not two witnesses.
    #[error("{found} bytes are no fork proof")]
    Length {
        /// Bytes found.
        found: usize,
    },
    /// A witness has no readable header.
    #[error("a witness of the fork has no readable header")]
    Header(#[from] BatchError),
    /// A witness is not signed by the log's device.
    #[error("a witness of the fork is not signed by the log's device")]
    Signature(#[from] SignatureError),
    /// The witnesses are of different logs, of places that do not overlap, or equal.
    #[error("the two witnesses do not contradict each other")]
    NoContradiction,
}

/// Two signed headers that claim one place of one log with different content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForkProof {
    log: LogId,
    place: Seq,
    witnesses: [ForkWitness; 2],
}

impl ForkProof {
    /// Puts two witnesses together and checks that they contradict each other.
    ///
    /// # Errors
    /// Every variant of [`ForkError`] but [`ForkError::Length`].
    pub fn new(one: &ForkWitness, other: &ForkWitness) -> Result<Self, ForkError> {
        let (_, a) = ForkWitness::parse(&one.to_bytes())?;
        let (_, b) = ForkWitness::parse(&other.to_bytes())?;
        if a.log != b.log || a.scope != b.scope || !overlap(&a, &b) || one.link() == other.link() {
            return Err(ForkError::NoContradiction);
        }
        one.verify()?;
        other.verify()?;
        // Ordered by link, so that every device that proves the same fork holds the same bytes.
        let mut witnesses = [one.clone(), other.clone()];
        witnesses.sort_by_key(ForkWitness::link);
        Ok(Self { log: a.log, place: a.first.max(b.first), witnesses })
    }

    /// Reads and checks the byte form.
    ///
    /// # Errors
    /// Every variant of [`ForkError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ForkError> {
        let Some((one, other)) = bytes.split_first_chunk::<{ ForkWitness::BYTES }>() else {
            return Err(ForkError::Length { found: bytes.len() });
        };
        let other: &[u8; ForkWitness::BYTES] =
            other.try_into().map_err(|_| ForkError::Length { found: bytes.len() })?;
        Self::new(&ForkWitness::parse(one)?.0, &ForkWitness::parse(other)?.0)
    }

    /// The two witnesses one after the other.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.witnesses.iter().flat_map(ForkWitness::to_bytes).collect()
    }

    /// A place that both claim, the first one; the histories part there or before.
    pub const fn place(&self) -> Seq {
        self.place
    }

    /// The log that forked.
    pub const fn log(&self) -> LogId {
        self.log
    }
}

fn overlap(a: &BatchHeader, b: &BatchHeader) -> bool {
    a.first <= b.last() && b.first <= a.last()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{EpochKey, Identity, SealInput, SealedBatch, Sealer};
    use crate::model::{Incarnation, ScopeTag, Seq, TipHash};

    fn batch(secret: u8, first: u64, body: &[u8]) -> SealedBatch {
        let identity = Identity::from_secret(&[secret; 32]);
        Sealer::new(&identity).seal(
            &identity,
            &EpochKey::from_bytes([5; 32]),
            &SealInput {
                scope: ScopeTag::from_bytes([1; 16]),
                log: LogId { device: identity.device(), incarnation: Incarnation::new(1) },
                first: Seq::new(first),
                op_count: 2,
                roster_gen: 1,
                prev: TipHash::NONE,
                body,
                entropy: [1; 32],
            },
        )
    }

    #[test]
    fn two_contents_of_one_place_prove_a_fork_whoever_looks() {
        let (a, b) = (batch(1, 5, b"one").witness(), batch(1, 6, b"two").witness());

        let proof = ForkProof::new(&a, &b).unwrap();

        assert_eq!(ForkProof::new(&b, &a).unwrap(), proof);
        assert_eq!(ForkProof::parse(&proof.to_bytes()), Ok(proof));
    }

    #[test]
    fn what_does_not_contradict_proves_nothing() {
        let a = batch(1, 5, b"one").witness();
        let refuse = |b: &ForkWitness| ForkProof::new(&a, b).unwrap_err();

        assert_eq!(refuse(&a), ForkError::NoContradiction);
        assert_eq!(refuse(&batch(1, 7, b"two").witness()), ForkError::NoContradiction);
        assert_eq!(refuse(&batch(2, 5, b"two").witness()), ForkError::NoContradiction);
        assert_eq!(ForkProof::parse(&[0; 7]), Err(ForkError::Length { found: 7 }));
        assert_eq!(ForkProof::parse(&[0; 700]), Err(ForkError::Length { found: 700 }));
        assert!(matches!(ForkProof::parse(&[0; 588]), Err(ForkError::Header(_))));
        let mut spoiled = batch(1, 5, b"two").witness().to_bytes();
        *spoiled.last_mut().unwrap() ^= 1;
        let spoiled = ForkWitness::parse(&spoiled).unwrap().0;
        assert!(matches!(refuse(&spoiled), ForkError::Signature(_)));
    }
}
