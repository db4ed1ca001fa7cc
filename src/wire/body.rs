//! The plaintext of a batch: consecutive ops of one log.
//!
//! `version u8 = 1 ‖ base hlc u64 BE ‖ frames`. A frame is bincode: signed hlc delta against the
//! base, kind, flags, body bytes. How many frames there are stands in the batch header.

use thiserror::Error;

use super::codec::{self, DecodeError};
use crate::model::limits::{BATCH_BODY_BYTES_MAX, BATCH_OPS_MAX};
use crate::model::{Hlc, Seq};

/// A plaintext that is no body: the author encoded it wrongly, or with a later version.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BodyError {
    /// Shorter than its fixed part.
    #[error("{found} bytes are too few for a batch body")]
    TooShort {
        /// Bytes found.
        found: usize,
    },
    /// A body version this kinfold does not read.
    #[error("body version {found} is not known here; a newer kinfold wrote this batch")]
    Version {
        /// The version found.
        found: u8,
    },
    /// A frame that does not decode.
    #[error("op {index} of the batch has no readable frame")]
    Frame {
        /// Which op, from 0.
        index: u32,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
    /// Fewer or more bytes than the announced ops take.
    #[error("{extra} bytes follow the last op")]
    Trailing {
        /// How many.
        extra: usize,
    },
}

/// One framed op, read in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameView<'a> {
    /// Its position.
    pub seq: Seq,
    /// Its stamp.
    pub hlc: Hlc,
    /// Its kind number, known here or not.
    pub kind: u16,
    /// Its flags.
    pub flags: u8,
    /// Its bytes, as its author wrote them.
    pub body: &'a [u8],
}

/// Collects ops into a body, within the limits of one batch.
#[derive(Clone, Debug)]
pub struct BodyWriter {
    bytes: Vec<u8>,
    base: Option<Hlc>,
    op_count: u32,
}

impl BodyWriter {
    /// An empty body.
    pub fn new() -> Self {
        Self { bytes: Vec::new(), base: None, op_count: 0 }
    }

    /// How many ops it holds.
    pub const fn op_count(&self) -> u32 {
        self.op_count
    }

    /// How many bytes it takes so far.
    pub fn byte_count(&self) -> usize {
        self.bytes.len()
    }

    /// Whether an op with a body of `body_bytes` still fits. A single op always fits an empty body.
    pub fn has_room(&self, body_bytes: usize) -> bool {
        self.op_count == 0
            || ((self.op_count as usize) < BATCH_OPS_MAX
                && self.bytes.len() + body_bytes + FRAME_OVERHEAD_MAX <= BATCH_BODY_BYTES_MAX)
    }

    /// Appends an op.
    ///
    /// # Panics
    /// If it has no room: ask [`BodyWriter::has_room`] first.
    pub fn push(&mut self, hlc: Hlc, kind: u16, flags: u8, body: &[u8]) {
        assert!(self.has_room(body.len()), "the caller asks for room first");
        let base = *self.base.get_or_insert_with(|| {
            self.bytes.push(VERSION);
            self.bytes.extend_from_slice(&hlc.get().to_be_bytes());
            hlc
        });
        // Two's complement on both sides: any pair of stamps has a delta.
        let delta = hlc.get().wrapping_sub(base.get()).cast_signed();
        codec::encode_into((delta, kind, flags, body), &mut self.bytes);
        self.op_count += 1;
    }

    /// The body and its op count.
    pub fn finish(self) -> (Vec<u8>, u32) {
        (self.bytes, self.op_count)
    }
}

impl Default for BodyWriter {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads the ops of a body one by one.
#[derive(Clone, Debug)]
pub struct BodyReader<'a> {
    rest: &'a [u8],
    base: Hlc,
    first: Seq,
    index: u32,
    op_count: u32,
    is_broken: bool,
}

impl<'a> BodyReader<'a> {
    /// Starts reading a body of `op_count` ops from position `first`.
    ///
    /// # Errors
    /// [`BodyError::TooShort`], [`BodyError::Version`].
    pub fn new(body: &'a [u8], first: Seq, op_count: u32) -> Result<Self, BodyError> {
        let Some((fixed, rest)) = body.split_first_chunk::<9>() else {
            return Err(BodyError::TooShort { found: body.len() });
        };
        if fixed[0] != VERSION {
            return Err(BodyError::Version { found: fixed[0] });
        }
        let base = Hlc::new(u64::from_be_bytes(fixed[1..].try_into().expect("nine less one is eight")));
        Ok(Self { rest, base, first, index: 0, op_count, is_broken: false })
    }

    /// Reads every frame once and checks that they fill the body.
    ///
    /// # Errors
    /// Every variant of [`BodyError`].
    pub fn check(body: &'a [u8], first: Seq, op_count: u32) -> Result<(), BodyError> {
        let mut reader = Self::new(body, first, op_count)?;
        for frame in reader.by_ref() {
            frame?;
        }
        if !reader.rest.is_empty() {
            return Err(BodyError::Trailing { extra: reader.rest.len() });
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<FrameView<'a>, BodyError> {
        let index = self.index;
        let ((delta, kind, flags, body), used): ((i64, u16, u8, &[u8]), usize) =
            codec::decode_front(self.rest).map_err(|source| BodyError::Frame { index, source })?;
        self.rest = &self.rest[used..];
        self.index += 1;
        let hlc = self.base.get().wrapping_add_signed(delta);
        Ok(FrameView { seq: self.first.plus(u64::from(index)), hlc: Hlc::new(hlc), kind, flags, body })
    }
}

impl<'a> Iterator for BodyReader<'a> {
    type Item = Result<FrameView<'a>, BodyError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_broken || self.index >= self.op_count {
            return None;
        }
        let frame = self.frame();
        self.is_broken = frame.is_err();
        Some(frame)
    }
}

const VERSION: u8 = 1;

/// A frame's delta, kind, flags and length at their longest, and the body's fixed part.
const FRAME_OVERHEAD_MAX: usize = 9 + 3 + 1 + 9 + 9;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body() -> Vec<u8> {
        let mut writer = BodyWriter::new();
        writer.push(Hlc::new(1_000), 1, 0, b"one");
        writer.push(Hlc::new(990), 77, 3, b"");
        writer.finish().0
    }

    #[test]
    fn ops_read_back_in_order_with_their_stamps() {
        let body = body();
        let frames: Vec<_> =
            BodyReader::new(&body, Seq::new(5), 2).unwrap().collect::<Result<_, _>>().unwrap();

        assert_eq!(
            frames[0],
            FrameView { seq: Seq::new(5), hlc: Hlc::new(1_000), kind: 1, flags: 0, body: b"one" }
        );
        assert_eq!(
            frames[1],
            FrameView { seq: Seq::new(6), hlc: Hlc::new(990), kind: 77, flags: 3, body: b"" }
        );
    }

    #[test]
    fn every_broken_body_is_refused_by_name() {
        let good = body();
        let check = |bytes: &[u8], count| BodyReader::check(bytes, Seq::new(1), count);

        assert!(check(&good, 2).is_ok());
        assert!(matches!(check(&good[..8], 2), Err(BodyError::TooShort { found: 8 })));
        assert!(matches!(check(&[&[9], &good[1..]].concat(), 2), Err(BodyError::Version { found: 9 })));
        assert!(matches!(check(&good, 3), Err(BodyError::Frame { index: 2, .. })));
        assert!(matches!(check(&good, 1), Err(BodyError::Trailing { .. })));
    }

    #[test]
    fn a_batch_takes_128_ops_or_64_kib_or_one_large_op() {
        let mut writer = BodyWriter::new();
        while writer.has_room(10) {
            writer.push(Hlc::new(1), 1, 0, &[0; 10]);
        }
        assert_eq!(writer.op_count() as usize, BATCH_OPS_MAX);

        let mut writer = BodyWriter::new();
        assert!(writer.has_room(70_000));
        writer.push(Hlc::new(1), 1, 0, &[0; 70_000]);
        assert!(!writer.has_room(1));
    }

    proptest! {
        #[test]
        fn any_bytes_read_or_are_refused(body in proptest::collection::vec(any::<u8>(), 0..300), count in 0u32..200) {
            let _ = BodyReader::check(&body, Seq::new(1), count);
        }

        #[test]
        fn any_ops_read_back(ops in proptest::collection::vec((any::<u64>(), any::<u16>(), any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40)), 1..50)) {
            let mut writer = BodyWriter::new();
            for (hlc, kind, flags, body) in &ops {
                writer.push(Hlc::new(*hlc), *kind, *flags, body);
            }
            let (bytes, count) = writer.finish();
            prop_assert!(BodyReader::check(&bytes, Seq::new(1), count).is_ok());
            for (frame, (hlc, kind, flags, body)) in BodyReader::new(&bytes, Seq::new(1), count).unwrap().zip(&ops) {
                let frame = frame.unwrap();
                prop_assert_eq!((frame.hlc.get(), frame.kind, frame.flags, frame.body), (*hlc, *kind, *flags, &body[..]));
            }
        }
    }
}
