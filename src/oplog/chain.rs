//! One log as this device holds it, and what may continue it.

use std::collections::VecDeque;

use thiserror::Error;

use crate::crypto::{SealedBatch, SignatureError};
use crate::model::{Seq, Tip, TipHash};

/// Why batches were not taken. What was good before them was.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AdmitError {
    /// Batches before this one are missing.
    #[error("a batch from position {found} arrived where {expected} is next")]
    Gap {
        /// The next position here.
        expected: Seq,
        /// The first position of the batch.
        found: Seq,
    },
    /// The batch continues another history than the one held here.
    #[error("a batch from position {first} continues another history than the one held here")]
    OtherBranch {
        /// The first position of the batch.
        first: Seq,
        /// The last position both histories have a batch for, at or after which they differ.
        shared: Seq,
    },
    /// The signature is not the author's.
    #[error("the batch from position {first} is not signed by its author")]
    Signature {
        /// The first position of the batch.
        first: Seq,
        /// What is wrong with it.
        #[source]
        source: SignatureError,
    },
}

/// A batch that continues its log and is vouched for by its author's signature, its own or that
/// of a later batch of the same run. Only [`LogChain::admit`] makes one.
#[derive(Clone, Debug)]
pub struct VerifiedBatch(SealedBatch);

impl VerifiedBatch {
    /// The batch.
    pub const fn sealed(&self) -> &SealedBatch {
        &self.0
    }

    /// Vouches for a batch this device has just sealed itself.
    pub(crate) const fn own(batch: SealedBatch) -> Self {
        Self(batch)
    }
}

/// What [`LogChain::admit`] made of a run.
#[derive(Debug, Default)]
pub struct Admitted {
    /// Batches that continue the log, in order.
    pub batches: Vec<VerifiedBatch>,
    /// Batches already held, by the memory of recent ones.
    pub duplicate_count: u64,
    /// Batches at or below the tip that are not known to be duplicates: to be compared with the
    /// store. Those that are known to differ come first.
    pub to_compare: Vec<SealedBatch>,
    /// Why the rest was not taken.
    pub refused: Option<AdmitError>,
}

/// The end of one log, with a short memory of its last batches.
#[derive(Clone, Debug)]
pub struct LogChain {
    tip: Tip,
    recent: VecDeque<(Seq, Seq, TipHash)>,
}

impl LogChain {
    /// A log held up to `tip`.
    pub const fn at(tip: Tip) -> Self {
        Self { tip, recent: VecDeque::new() }
    }

    /// Where it ends.
    pub const fn tip(&self) -> Tip {
        self.tip
    }

    /// Takes what continues the log from a run of its batches, advancing the tip.
    ///
    /// The hash chain authenticates every batch but the last, so one signature is checked for the
    /// whole run: a batch cannot be forged in front of an honest one, because the honest one names
    /// the link of what it follows. If that signature fails, the longest prefix that ends in a
    /// good one is kept, found by bisection.
    pub fn admit(&mut self, run: Vec<SealedBatch>) -> Admitted {
        let mut admitted = Admitted::default();
        let mut chain: Vec<SealedBatch> = Vec::with_capacity(run.len());
        let mut tip = self.tip;
        for batch in run {
            let header = batch.header();
            if header.first == tip.seq.next() && header.prev == tip.hash {
                tip = Tip { seq: header.last(), hash: batch.link() };
                chain.push(batch);
            } else if header.first > tip.seq.next() {
                admitted.refused = Some(AdmitError::Gap { expected: tip.seq.next(), found: header.first });
                break;
            } else if header.first == tip.seq.next() {
                admitted.refused = Some(AdmitError::OtherBranch { first: header.first, shared: tip.seq });
                break;
            } else {
                match self.recall(header.first) {
                    Some((last, link)) if last == header.last() && link == batch.link() => {
                        admitted.duplicate_count += 1;
                    }
                    // Another content of a place that is held: with the one in the store it is a proof.
                    Some(_) => admitted.to_compare.insert(0, batch),
                    None => admitted.to_compare.push(batch),
                }
            }
        }
        let good = match longest_signed_prefix(&chain) {
            Ok(()) => chain.len(),
            Err((good, source)) => {
                admitted.refused = Some(AdmitError::Signature { first: chain[good].header().first, source });
                good
            }
        };
        chain.truncate(good);
        for batch in &chain {
            self.extend(batch);
        }
        admitted.batches = chain.into_iter().map(VerifiedBatch).collect();
        admitted
    }

    /// Moves the tip to the end of a batch that continues the log.
    pub(crate) fn extend(&mut self, batch: &SealedBatch) {
        let header = batch.header();
        assert!(
            header.first == self.tip.seq.next() && header.prev == self.tip.hash,
            "the caller has checked"
        );
        self.tip = Tip { seq: header.last(), hash: batch.link() };
        if self.recent.len() == RECENT_BATCHES {
            self.recent.pop_front();
        }
        self.recent.push_back((header.first, header.last(), batch.link()));
    }

    fn recall(&self, first: Seq) -> Option<(Seq, TipHash)> {
        // A batch that begins inside a remembered one is another history too: batches never change.
        let entry = self.recent.iter().find(|(from, last, _)| (*from..=*last).contains(&first))?;
        if entry.0 == first { Some((entry.1, entry.2)) } else { Some((Seq::ZERO, TipHash::NONE)) }
    }
}

/// How many batches a log remembers, so that what two peers send at once costs no look-up.
const RECENT_BATCHES: usize = 32;

/// `Ok` if the last signature holds, otherwise the length of the longest prefix whose last does.
fn longest_signed_prefix(chain: &[SealedBatch]) -> Result<(), (usize, SignatureError)> {
    let Some(last) = chain.last() else { return Ok(()) };
    let Err(source) = last.verify() else { return Ok(()) };
    // Good signatures come first: a forged batch has no honest successor that names it.
    let good = chain.partition_point(|batch| batch.verify().is_ok());
    Err((good, source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{EpochKey, Identity, SealInput, Sealer};
    use crate::model::{Incarnation, LogId, ScopeTag};
    use bytes::Bytes;

    fn run(secret: u8, count: u64, entropy: u8) -> Vec<SealedBatch> {
        let identity = Identity::from_secret(&[secret; 32]);
        let mut sealer = Sealer::new(&identity);
        let mut prev = TipHash::NONE;
        (0..count)
            .map(|index| {
                let batch = sealer.seal(
                    &identity,
                    &EpochKey::from_bytes([5; 32]),
                    &SealInput {
                        scope: ScopeTag::from_bytes([1; 16]),
                        log: LogId { device: identity.device(), incarnation: Incarnation::new(1) },
                        first: Seq::new(index * 2 + 1),
                        op_count: 2,
                        roster_gen: 1,
                        prev,
                        body: b"two ops",
                        entropy: [entropy; 32],
                    },
                );
                prev = batch.link();
                batch
            })
            .collect()
    }

    fn spoil_signature(batch: &SealedBatch) -> SealedBatch {
        let mut bytes = batch.bytes().to_vec();
        *bytes.last_mut().expect("not empty") ^= 1;
        SealedBatch::parse(Bytes::from(bytes)).expect("the shape is unchanged")
    }

    #[test]
    fn a_run_is_taken_whole_and_again_as_duplicates() {
        let mut chain = LogChain::at(Tip::NONE);
        let batches = run(1, 10, 1);

        let first = chain.admit(batches.clone());
        let again = chain.admit(batches.clone());

        assert_eq!((first.batches.len(), first.refused), (10, None));
        assert_eq!((again.batches.len(), again.duplicate_count, again.refused), (0, 10, None));
        assert_eq!(chain.tip(), Tip { seq: Seq::new(20), hash: batches[9].link() });
    }

    #[test]
    fn a_gap_is_named() {
        let mut chain = LogChain::at(Tip::NONE);

        let admitted = chain.admit(run(1, 3, 1).split_off(1));

        assert_eq!(admitted.refused, Some(AdmitError::Gap { expected: Seq::new(1), found: Seq::new(3) }));
        assert_eq!(chain.tip(), Tip::NONE);
    }

    #[test]
    fn another_branch_is_named_at_its_place() {
        let mut chain = LogChain::at(Tip::NONE);
        chain.admit(run(1, 2, 1));

        let mut other = run(1, 3, 2);
        let continued = chain.admit(vec![other[2].clone()]);
        let replaced = chain.admit(vec![other.remove(1)]);

        assert_eq!(
            continued.refused,
            Some(AdmitError::OtherBranch { first: Seq::new(5), shared: Seq::new(4) })
        );
        assert_eq!((replaced.to_compare.len(), replaced.refused), (1, None));
    }

    #[test]
    fn below_the_memory_the_store_decides() {
        let mut chain = LogChain::at(Tip { seq: Seq::new(20), hash: TipHash::from_bytes([1; 32]) });

        let admitted = chain.admit(run(1, 1, 1));

        assert_eq!((admitted.to_compare.len(), admitted.refused), (1, None));
    }

    #[test]
    fn a_bad_last_signature_keeps_the_good_prefix() {
        for spoiled in 0..7 {
            let mut batches = run(1, 7, 1);
            batches[spoiled] = spoil_signature(&batches[spoiled]);
            let mut chain = LogChain::at(Tip::NONE);

            let admitted = chain.admit(batches);

            // The next batch no longer names the spoiled one, or there is none and its own check fails.
            assert_eq!(admitted.batches.len(), spoiled, "spoiled {spoiled}");
            assert!(matches!(admitted.refused, Some(AdmitError::Signature { .. })), "{:?}", admitted.refused);
            assert_eq!(chain.tip().seq, Seq::new(spoiled as u64 * 2));
        }
    }

    #[test]
    fn a_run_of_another_device_under_this_name_is_refused() {
        let mut forged = Vec::new();
        for batch in run(1, 3, 1) {
            let mut bytes = batch.bytes().to_vec();
            bytes[22..54].copy_from_slice(Identity::from_secret(&[9; 32]).device().as_bytes());
            forged.push(SealedBatch::parse(Bytes::from(bytes)).expect("the shape is unchanged"));
        }

        let admitted = LogChain::at(Tip::NONE).admit(forged[..1].to_vec());

        assert!(matches!(admitted.refused, Some(AdmitError::Signature { .. })));
        assert!(admitted.batches.is_empty());
    }
}
