//! How consecutive batches are put together into values of the large table.
//!
//! The engine gives a value of more than about 4 KiB a run of pages of its own, whose length is a
//! power of two: a batch of 8.2 KiB alone would take 16 KiB. So neighbours share a value, chosen
//! such that the pages are filled; a short value at the end of a log is continued by the next
//! commit, which rewrites its page anyway.

use bytes::Bytes;

use super::error::{Part, StoreError};
use crate::crypto::{BatchHeader, SealedBatch};
use crate::model::{LogId, Tip};

/// Splits consecutive batches of these lengths into groups that waste the least page space.
///
/// Returns the group lengths in order; each group is one value of at most [`VALUE_BYTES_MAX`]
/// unless it is a single larger batch.
pub(super) fn groups(lengths: &[usize]) -> Vec<usize> {
    // cost[n] is the least cost of the first n batches, first[n] where their last group begins.
    let mut cost = vec![0u64; lengths.len() + 1];
    let mut first = vec![0usize; lengths.len() + 1];
    for end in 1..=lengths.len() {
        let mut sum = 0;
        cost[end] = u64::MAX;
        for start in (0..end).rev() {
            sum += lengths[start];
            if sum > VALUE_BYTES_MAX && start + 1 < end {
                break;
            }
            let total = cost[start] + value_cost(sum);
            if total < cost[end] {
                (cost[end], first[end]) = (total, start);
            }
        }
    }
    let mut groups = Vec::new();
    let mut end = lengths.len();
    while end > 0 {
        groups.push(end - first[end]);
        end = first[end];
    }
    groups.reverse();
    groups
}

/// Whether a value of this length at the end of a log is worth rewriting to continue it.
pub(super) const fn is_short(value_bytes: usize) -> bool {
    value_bytes + VALUE_OVERHEAD_BYTES < PAGE_BYTES
}

/// The file bytes a value takes: its share of a page, or pages of its own.
const fn value_cost(value_bytes: usize) -> u64 {
    let bytes = value_bytes + VALUE_OVERHEAD_BYTES;
    if bytes <= PAGE_BYTES / 2 {
        return bytes as u64;
    }
    (bytes.div_ceil(PAGE_BYTES).next_power_of_two() * PAGE_BYTES) as u64
}

/// The engine's page.
const PAGE_BYTES: usize = 4096;

/// What a leaf with one pair holds beside the value: page header 4, end of the value 4, key 16.
const VALUE_OVERHEAD_BYTES: usize = 4 + 4 + 16;

/// Greatest value of more than one batch: a read of one batch reads its whole value.
const VALUE_BYTES_MAX: usize = 64 * 1024 - VALUE_OVERHEAD_BYTES;

/// How many bytes of a value are batches up to the one that ends at `to`; `None` where none does.
pub(super) fn bytes_through(value: &[u8], log: &LogId, to: Tip) -> Result<Option<usize>, StoreError> {
    let damaged = || StoreError::damaged(Part::Batch { log: *log, seq: to.seq });
    let mut at = 0;
    while at < value.len() {
        let header = BatchHeader::parse(&value[at..]).map_err(|_| damaged())?;
        let end = at + header.sealed_bytes();
        let bytes = value.get(at..end).ok_or_else(damaged)?;
        if header.last() == to.seq {
            let batch = SealedBatch::parse(Bytes::copy_from_slice(bytes)).map_err(|_| damaged())?;
            return Ok((batch.link() == to.hash).then_some(end));
        }
        at = end;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(lengths: &[usize]) -> u64 {
        let mut rest = lengths;
        let mut total = 0;
        for count in groups(lengths) {
            let (group, after) = rest.split_at(count);
            total += value_cost(group.iter().sum());
            rest = after;
        }
        assert!(rest.is_empty());
        total
    }

    #[test]
    fn batches_just_over_a_page_size_share_values() {
        let lengths = [8_400; 100];

        assert!(spent(&lengths) < 100 * 8_400 * 115 / 100);
    }

    #[test]
    fn values_stay_within_their_limit_or_hold_one_batch() {
        for lengths in [vec![430; 500], vec![70_000, 10, 70_000], vec![], vec![262_144]] {
            let mut rest = &lengths[..];
            for count in groups(&lengths) {
                let (group, after) = rest.split_at(count);
                assert!(count == 1 || group.iter().sum::<usize>() <= VALUE_BYTES_MAX);
                rest = after;
            }
            assert!(rest.is_empty());
        }
    }
}
