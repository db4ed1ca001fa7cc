//! Row keys that are compared without leaving the map's node.

use std::cmp::Ordering;

/// A row, entity or stream name: up to [`INLINE_BYTES`] bytes in place, longer ones on the heap.
///
/// Ordered by bytes, like `str`. In place, unused bytes are zero: comparing the padded bytes and
/// then the lengths is comparing the text.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// Up to [`INLINE_BYTES`] bytes.
    Inline { len: u8, bytes: [u8; INLINE_BYTES] },
    /// Longer than that.
    Heap(Box<str>),
}

impl Key {
    pub(super) fn new(text: &str) -> Self {
        let Some(len) = u8::try_from(text.len()).ok().filter(|len| usize::from(*len) <= INLINE_BYTES) else {
            return Self::Heap(text.into());
        };
        let mut bytes = [0; INLINE_BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Self::Inline { len, bytes }
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Inline { len, bytes } => {
                str::from_utf8(&bytes[..usize::from(*len)]).expect("the bytes were copied from a str")
            }
            Self::Heap(text) => text,
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Self::Heap(text) => text.as_bytes(),
        }
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        let (Self::Inline { len, bytes }, Self::Inline { len: other_len, bytes: other_bytes }) =
            (self, other)
        else {
            return self.as_bytes().cmp(other.as_bytes());
        };
        // Two overlapping words settle nearly every comparison without a call to memcmp.
        word(bytes, 0)
            .cmp(&word(other_bytes, 0))
            .then_with(|| word(bytes, 8).cmp(&word(other_bytes, 8)))
            .then_with(|| word(bytes, INLINE_BYTES - 8).cmp(&word(other_bytes, INLINE_BYTES - 8)))
            .then_with(|| len.cmp(other_len))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn word(bytes: &[u8; INLINE_BYTES], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("the range has 8 bytes"))
}

/// What fits beside tag and length in three machine words; the usual 16-byte id does.
const INLINE_BYTES: usize = 22;
const _: () = assert!(size_of::<Key>() == 24);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn padding_does_not_blur_keys_that_end_in_zero_bytes() {
        let keys = ["a", "a\0", "a\0\0", "a\0b", "b"];

        assert!(keys.windows(2).all(|pair| Key::new(pair[0]) < Key::new(pair[1])));
    }

    proptest! {
        #[test]
        fn keys_order_and_read_like_their_text(a in "[a-c\0é]{0,30}", b in "[a-c\0é]{0,30}") {
            prop_assert_eq!(Key::new(&a).cmp(&Key::new(&b)), a.cmp(&b));
            prop_assert_eq!(Key::new(&a) == Key::new(&b), a == b);
            let key = Key::new(&a);
            prop_assert_eq!(key.as_str(), a.as_str());
        }
    }
}
