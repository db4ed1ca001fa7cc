//! Numbers of variable length, LEB128 without a byte too many, and reading them with what is between them.

use crate::model::LogId;

/// Appends a number.
pub(super) fn write(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends how far a number is from the one before, either way round.
pub(super) fn write_step(from: u64, to: u64, out: &mut Vec<u8>) {
    let step = to.wrapping_sub(from).cast_signed();
    write(((step << 1) ^ (step >> 63)).cast_unsigned(), out);
}

/// Reads from the front of some bytes; `None` where they do not hold what is asked for.
#[derive(Clone)]
pub(super) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) const fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn left(&self) -> usize {
        self.0.len()
    }

    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..u64::BITS).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                // The last byte of several is not zero: there is one form of each number.
                return (byte != 0 || shift == 0).then_some(number);
            }
        }
        None
    }

    pub(super) fn step(&mut self, from: u64) -> Option<u64> {
        let step = self.number()?;
        Some(from.wrapping_add((step >> 1) ^ (step & 1).wrapping_neg()))
    }

    /// A number of things of which each takes so many bytes or more of what is left.
    pub(super) fn count(&mut self, bytes_each: usize) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count <= self.left() / bytes_each).then_some(count)
    }

    pub(super) fn index(&mut self, count: usize) -> Option<usize> {
        usize::try_from(self.number()?).ok().filter(|index| *index < count)
    }

    /// A text behind its length.
    pub(super) fn text(&mut self, bytes_max: usize) -> Option<&'a str> {
        let len = self.count(1).filter(|len| *len <= bytes_max)?;
        str::from_utf8(self.take(len)?).ok()
    }

    /// What another one that has read on from here has read.
    pub(super) fn until(&self, later: &Self) -> &'a [u8] {
        &self.0[..self.0.len() - later.0.len()]
    }

    /// Strictly rising logs.
    pub(super) fn logs(&mut self) -> Option<Vec<LogId>> {
        let count = self.count(40)?;
        let logs: Vec<LogId> =
            (0..count).map(|_| self.array().map(|id| LogId::from_bytes(&id))).collect::<Option<_>>()?;
        logs.is_sorted_by(|a, b| a < b).then_some(logs)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_has_one_form() {
        for bytes in [&[][..], &[0x80], &[0x80, 0], &[0xff, 0], &[0xff; 11]] {
            assert_eq!(Cursor::of(bytes).number(), None, "{bytes:?}");
        }
        let beyond = [&[0xff; 9][..], &[2]].concat();
        assert_eq!(Cursor::of(&beyond).number(), None);
        assert_eq!(Cursor::of(&[3, 0, 0]).count(1), None, "more than is left");
        assert_eq!(Cursor::of(&[3]).index(3), None);
    }

    proptest! {
        #[test]
        fn numbers_and_steps_read_back(from in any::<u64>(), to in any::<u64>(), bits in 0u32..64) {
            let (mut bytes, to) = (Vec::new(), to >> bits);
            write(to, &mut bytes);
            write_step(from, to, &mut bytes);

            let mut cursor = Cursor::of(&bytes);
            prop_assert_eq!((cursor.number(), cursor.step(from), cursor.left()), (Some(to), Some(to), 0));
        }
    }
}
