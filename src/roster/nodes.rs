//! Sets of admitted records, as bits.

/// A set of node indices, one bit each: at
/// [`RECORDS_MAX`](crate::model::limits::RECORDS_MAX) records the pasts of all of them take 6 MiB,
/// and whether one record had seen another is one look.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeSet(Vec<u64>);

impl NodeSet {
    pub fn contains(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word & (1 << (at % 64)) != 0)
    }

    pub fn insert(&mut self, at: usize) {
        self.reserve(at / 64 + 1);
        self.0[at / 64] |= 1 << (at % 64);
    }

    pub fn remove(&mut self, at: usize) {
        if let Some(word) = self.0.get_mut(at / 64) {
            *word &= !(1 << (at % 64));
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.reserve(other.0.len());
        for (word, others) in self.0.iter_mut().zip(&other.0) {
            *word |= others;
        }
    }

    /// Takes out what `other` holds.
    pub fn subtract(&mut self, other: &Self) {
        for (word, others) in self.0.iter_mut().zip(&other.0) {
            *word &= !others;
        }
    }

    /// What both hold, rising.
    pub fn common<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = usize> + 'a {
        self.0.iter().zip(&other.0).enumerate().flat_map(|(index, (word, others))| {
            let mut left = word & others;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.wrapping_sub(1);
                (bit < u64::BITS).then_some(index * 64 + bit as usize)
            })
        })
    }

    fn reserve(&mut self, words: usize) {
        if self.0.len() < words {
            self.0.resize(words, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn of(members: &BTreeSet<usize>) -> NodeSet {
        let mut set = NodeSet::default();
        members.iter().for_each(|at| set.insert(*at));
        set
    }

    proptest! {
        #[test]
        fn bits_do_what_sets_do(
            a in proptest::collection::btree_set(0usize..300, 0..40),
            b in proptest::collection::btree_set(0usize..300, 0..40),
        ) {
            let (mut merged, mut rest, mut one_less) = (of(&a), of(&a), of(&a));

            merged.merge(&of(&b));
            rest.subtract(&of(&b));
            a.first().into_iter().for_each(|at| one_less.remove(*at));

            let listed = |set: &NodeSet| (0..400).filter(|at| set.contains(*at)).collect::<BTreeSet<_>>();
            prop_assert_eq!(listed(&merged), &a | &b);
            prop_assert_eq!(listed(&rest), &a - &b);
            prop_assert_eq!(listed(&one_less), a.iter().skip(1).copied().collect());
            prop_assert!(of(&a).common(&of(&b)).eq((&a & &b).iter().copied()));
        }
    }
}
