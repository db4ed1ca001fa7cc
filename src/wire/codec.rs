//! bincode 2 with one fixed configuration, bounded, and with full consumption demanded.
//!
//! bincode reads a length and allocates before it looks for the bytes, so the limit below is a
//! bound on what a hostile length can make it reserve; frames are bounded before they get here.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use thiserror::Error;

use crate::model::limits::{BODY_BYTES_MAX, FRAME_BYTES_MAX};

/// Bytes that do not decode.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Truncated, out of range, or not of the expected shape.
    #[error("the bytes do not have the expected shape")]
    Shape(#[source] bincode::error::DecodeError),
    /// A value, and then more.
    #[error("{extra} bytes follow the value")]
    Trailing {
        /// How many.
        extra: usize,
    },
}

/// Decodes one value that fills `bytes`.
///
/// # Errors
/// Every variant of [`DecodeError`].
pub(crate) fn decode<'a, T: bincode::BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<T, DecodeError> {
    let (value, used) = decode_front(bytes)?;
    if used != bytes.len() {
        return Err(DecodeError::Trailing { extra: bytes.len() - used });
    }
    Ok(value)
}

/// Decodes one value from the front of `bytes` and says how many bytes it took.
pub(crate) fn decode_front<'a, T: bincode::BorrowDecode<'a, ()>>(
    bytes: &'a [u8],
) -> Result<(T, usize), DecodeError> {
    bincode::borrow_decode_from_slice(bytes, CONFIG).map_err(DecodeError::Shape)
}

/// Appends the encoding of `value`.
pub(crate) fn encode_into(value: impl bincode::Encode, out: &mut Vec<u8>) {
    bincode::encode_into_std_write(value, out, CONFIG)
        .expect("writing into memory fails only beyond the limit");
}

/// The encoding of `value`.
pub(crate) fn encode(value: impl bincode::Encode) -> Vec<u8> {
    let mut out = Vec::new();
    encode_into(value, &mut out);
    out
}

const CONFIG: Configuration<LittleEndian, Varint, Limit<DECODED_BYTES_MAX>> =
    bincode::config::standard().with_limit::<DECODED_BYTES_MAX>();

/// bincode counts decoded sizes: four times the largest input leaves room for every honest value.
const DECODED_BYTES_MAX: usize = 4 * BODY_BYTES_MAX;
const _: () = assert!(DECODED_BYTES_MAX >= 4 * FRAME_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_length_is_refused_without_allocating_it() {
        let huge = [253, 0xff, 0xff, 0xff, 0xff, 0x03, 0, 0, 0];

        assert!(matches!(decode::<Vec<u8>>(&huge), Err(DecodeError::Shape(_))));
        assert!(matches!(decode::<Vec<u64>>(&huge), Err(DecodeError::Shape(_))));
    }

    #[test]
    fn trailing_bytes_are_refused() {
        assert!(matches!(decode::<u8>(&[1, 2]), Err(DecodeError::Trailing { extra: 1 })));
    }
}
