//! How bytes on streams become control frames and sealed batches.
//!
//! | stream | bytes |
//! |---|---|
//! | control, bidirectional, opened by the dialling side | repeated: length 4 big-endian, then that many bytes |
//! | questions, bidirectional, opened by whoever asks | see `ask` |
//! | batches, unidirectional, at most two per direction | sealed batches, one after another, each as long as its header says |
//!
//! Lengths are compared with their limits before anything is allocated. What a frame or a batch
//! means is none of this module's business.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quinn::{ReadExactError, RecvStream};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::limits::{BATCH_SEALED_BYTES_MAX, FRAME_BYTES_MAX};

/// A rule of the streams that the other side broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// A control frame was announced longer than [`FRAME_BYTES_MAX`].
    #[error("a control frame of {announced} bytes exceeds the limit of {limit}")]
    FrameTooLong {
        /// Bytes announced.
        announced: u32,
        /// [`FRAME_BYTES_MAX`].
        limit: usize,
    },
    /// A control frame without a byte.
    #[error("an empty control frame")]
    FrameEmpty,
    /// The control stream ended inside a frame, or ended at all: it lasts as long as the connection.
    #[error("the control stream ended before the connection did")]
    ControlEnded,
    /// No control frame arrived in time after the handshake.
    #[error("no control frame arrived within {waited_ms} ms of the handshake")]
    Silent {
        /// How long was waited.
        waited_ms: u128,
    },
    /// Bytes on a batch stream that begin no batch.
    #[error("{found:02x?} begins no batch")]
    BatchMagic {
        /// The four bytes found.
        found: [u8; 4],
    },
    /// A batch was announced longer than [`BATCH_SEALED_BYTES_MAX`].
    #[error("a batch of {announced} bytes exceeds the limit of {limit}")]
    BatchTooLong {
        /// Bytes announced, envelope included.
        announced: u64,
        /// [`BATCH_SEALED_BYTES_MAX`].
        limit: usize,
    },
    /// A batch stream ended inside a batch or was reset.
    #[error("a batch stream ended inside a batch, {held} bytes into it")]
    BatchCutShort {
        /// Bytes of the last batch that had arrived.
        held: usize,
    },
}

/// Why a reader stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadEnd {
    /// The other side broke a rule.
    Violation(Violation),
    /// The connection is gone; it knows why.
    Lost,
}

impl From<Violation> for ReadEnd {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// Reads the next control frame. Its memory counts against `budget` until the last clone is dropped.
pub(super) async fn read_frame(stream: &mut RecvStream, budget: &Arc<Semaphore>) -> Result<Bytes, ReadEnd> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).await.map_err(control_ended)?;
    let length = frame_length(header)?;
    let permit = Arc::clone(budget).acquire_many_owned(length).await.map_err(|_| ReadEnd::Lost)?;
    let mut bytes = vec![0; usize::try_from(length).expect("at most a mebibyte")];
    stream.read_exact(&mut bytes).await.map_err(control_ended)?;
    Ok(Bytes::from_owner(Budgeted { bytes, _permit: permit }))
}

/// The four bytes in front of a control frame; the caller has compared its length with the limit.
pub(super) fn frame_header(frame: &Bytes) -> Bytes {
    let length = u32::try_from(frame.len()).expect("frames are at most a mebibyte");
    Bytes::copy_from_slice(&length.to_be_bytes())
}

/// Cuts a batch stream into batches.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    buffer: BytesMut,
    room: usize,
}

impl Cutter {
    /// Where the next bytes of the stream go. Grows while reads fill it and shrinks when they do not,
    /// so a quiet stream holds little.
    pub(super) fn room(&mut self) -> &mut BytesMut {
        self.room = self.room.clamp(ROOM_BYTES_MIN, CHUNK_BYTES_MAX);
        self.buffer.reserve(self.room);
        &mut self.buffer
    }

    /// Tells how much the last read brought.
    pub(super) fn filled(&mut self, bytes: usize) {
        if bytes >= self.room {
            self.room = self.room.saturating_mul(4);
        } else if bytes < self.room / 8 {
            self.room /= 2;
        }
    }

    /// The whole batches that have arrived, up to about [`CHUNK_BYTES_MAX`]; empty when none is whole.
    pub(super) fn cut(&mut self) -> Result<Vec<Bytes>, Violation> {
        let mut batches = Vec::new();
        let mut chunk_bytes = 0;
        while chunk_bytes < CHUNK_BYTES_MAX {
            let Some(length) = batch_length(&self.buffer)? else { break };
            if self.buffer.len() < length {
                break;
            }
            chunk_bytes += length;
            batches.push(self.buffer.split_to(length).freeze());
        }
        Ok(batches)
    }

    /// Bytes of a batch that has not arrived whole.
    pub(super) fn held(&self) -> usize {
        self.buffer.len()
    }
}

/// The length of the batch at the start of `bytes`, as soon as its header tells.
fn batch_length(bytes: &[u8]) -> Result<Option<usize>, Violation> {
    let Some(magic) = bytes.first_chunk::<4>() else { return Ok(None) };
    if *magic != BATCH_MAGIC {
        return Err(Violation::BatchMagic { found: *magic });
    }
    let Some(field) = bytes.get(CT_LEN_OFFSET..).and_then(<[u8]>::first_chunk::<4>) else {
        return Ok(None);
    };
    let announced = u64::from(u32::from_be_bytes(*field)) + BATCH_ENVELOPE_BYTES;
    match usize::try_from(announced) {
        Ok(length) if length <= BATCH_SEALED_BYTES_MAX => Ok(Some(length)),
        Ok(_) | Err(_) => Err(Violation::BatchTooLong { announced, limit: BATCH_SEALED_BYTES_MAX }),
    }
}

fn frame_length(header: [u8; 4]) -> Result<u32, Violation> {
    let announced = u32::from_be_bytes(header);
    if announced == 0 {
        return Err(Violation::FrameEmpty);
    }
    if usize::try_from(announced).is_ok_and(|length| length <= FRAME_BYTES_MAX) {
        return Ok(announced);
    }
    Err(Violation::FrameTooLong { announced, limit: FRAME_BYTES_MAX })
}

fn control_ended(error: ReadExactError) -> ReadEnd {
    match error {
        ReadExactError::ReadError(quinn::ReadError::ConnectionLost(_)) => ReadEnd::Lost,
        ReadExactError::FinishedEarly(_) | ReadExactError::ReadError(_) => {
            ReadEnd::Violation(Violation::ControlEnded)
        }
    }
}

struct Budgeted {
    bytes: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Budgeted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What the header of a sealed batch begins with; `oplog` owns the rest of the layout.
const BATCH_MAGIC: [u8; 4] = *b"KFB1";

/// Where the header holds the ciphertext's length, 4 bytes big-endian.
const CT_LEN_OFFSET: usize = 130;

/// Header 198, authentication tag 16, signature 64.
const BATCH_ENVELOPE_BYTES: u64 = 198 + 16 + 64;

/// About how much is handed up at once: enough to fill one transaction, little beside the budget.
pub(super) const CHUNK_BYTES_MAX: usize = 512 * 1024;

/// What a quiet batch stream holds.
const ROOM_BYTES_MIN: usize = 8 * 1024;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn batches_come_out_as_they_went_in_however_the_stream_is_torn() {
        let sent: Vec<Vec<u8>> = (0..200u8).map(|n| batch(usize::from(n) * 37, n)).collect();
        let stream = sent.concat();

        for step in [1, 7, 133, 134, 1200, 40_000] {
            let mut cutter = Cutter::default();
            let mut received = Vec::new();
            for piece in stream.chunks(step) {
                cutter.room().extend_from_slice(piece);
                cutter.filled(piece.len());
                loop {
                    let batches = cutter.cut().expect("well formed");
                    if batches.is_empty() {
                        break;
                    }
                    received.extend(batches);
                }
            }

            assert_eq!(received, sent);
            assert_eq!(cutter.held(), 0);
        }
    }

    #[test]
    fn a_batch_of_four_gibibytes_is_refused_by_its_header() {
        let mut bytes = batch(10, 0);
        bytes[CT_LEN_OFFSET..CT_LEN_OFFSET + 4].copy_from_slice(&u32::MAX.to_be_bytes());

        let announced = u64::from(u32::MAX) + BATCH_ENVELOPE_BYTES;
        assert_eq!(
            batch_length(&bytes[..CT_LEN_OFFSET + 4]),
            Err(Violation::BatchTooLong { announced, limit: BATCH_SEALED_BYTES_MAX })
        );
    }

    #[test]
    fn the_longest_batch_passes_and_one_byte_more_does_not() {
        let longest = BATCH_SEALED_BYTES_MAX - 278;

        assert_eq!(batch_length(&batch(longest, 0)), Ok(Some(BATCH_SEALED_BYTES_MAX)));
        assert!(matches!(batch_length(&batch(longest + 1, 0)), Err(Violation::BatchTooLong { .. })));
    }

    #[test]
    fn bytes_that_begin_no_batch_are_refused_at_the_fourth() {
        assert_eq!(batch_length(b"KFB"), Ok(None));
        assert_eq!(batch_length(b"KFB2"), Err(Violation::BatchMagic { found: *b"KFB2" }));
    }

    #[test]
    fn frame_lengths_outside_the_limits_are_refused() {
        let limit = u32::try_from(FRAME_BYTES_MAX).expect("a mebibyte");

        assert_eq!(frame_length(limit.to_be_bytes()), Ok(limit));
        assert_eq!(frame_length([0; 4]), Err(Violation::FrameEmpty));
        let announced = limit + 1;
        assert_eq!(
            frame_length(announced.to_be_bytes()),
            Err(Violation::FrameTooLong { announced, limit: FRAME_BYTES_MAX })
        );
    }

    /// Something with the outline of a sealed batch.
    pub(in crate::net) fn batch(ciphertext_bytes: usize, fill: u8) -> Vec<u8> {
        let mut bytes = vec![fill; ciphertext_bytes + 278];
        bytes[..4].copy_from_slice(&BATCH_MAGIC);
        let length = u32::try_from(ciphertext_bytes).expect("small");
        bytes[CT_LEN_OFFSET..CT_LEN_OFFSET + 4].copy_from_slice(&length.to_be_bytes());
        bytes
    }
}
