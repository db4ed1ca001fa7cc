//! Frames and the sealed welcome on the one stream of a pairing.

use quinn::{ConnectionError, ReadError, ReadExactError, RecvStream, SendStream, WriteError};
use thiserror::Error;

use super::close::TurnedAway;
use crate::wire::pairing::LENGTH_BYTES;
use crate::wire::{PairFrame, PairFrameError};

/// The exchange did not go on.
#[derive(Debug, Error)]
pub(super) enum Broken {
    /// The other side ended it.
    #[error(transparent)]
    TurnedAway(TurnedAway),
    /// The other side sent what it must not.
    #[error(transparent)]
    Frame(#[from] PairFrameError),
    /// A frame out of turn, or an end in the middle.
    #[error("the other device broke the order of the exchange")]
    OutOfTurn,
    /// The connection was lost.
    #[error("the connection was lost")]
    Lost(#[source] ConnectionError),
}

/// The stream, from either end.
#[derive(Debug)]
pub(super) struct Frames {
    pub(super) send: SendStream,
    pub(super) receive: RecvStream,
}

impl Frames {
    pub(super) async fn write(&mut self, frame: &PairFrame) -> Result<(), Broken> {
        self.send.write_all(&frame.encode()).await.map_err(not_written)
    }

    pub(super) async fn read(&mut self) -> Result<PairFrame, Broken> {
        let mut prefix = [0; LENGTH_BYTES];
        self.receive.read_exact(&mut prefix).await.map_err(not_read)?;
        let mut bytes = vec![0; PairFrame::length(prefix)?];
        self.receive.read_exact(&mut bytes).await.map_err(not_read)?;
        Ok(PairFrame::decode(&bytes)?)
    }

    /// Writes the sealed welcome, chunk by chunk.
    pub(super) async fn write_welcome(&mut self, sealed: &[u8]) -> Result<(), Broken> {
        for chunk in sealed.chunks(CHUNK_BYTES) {
            self.send.write_all(chunk).await.map_err(not_written)?;
        }
        Ok(())
    }

    /// Reads the sealed welcome. Memory grows with what arrives, not with what was announced.
    pub(super) async fn read_welcome(&mut self, sealed_bytes: usize) -> Result<Vec<u8>, Broken> {
        let mut sealed = Vec::new();
        while sealed.len() < sealed_bytes {
            let wanted = (sealed_bytes - sealed.len()).min(CHUNK_BYTES);
            let chunk = self.receive.read_chunk(wanted, true).await.map_err(lost)?;
            sealed.extend_from_slice(&chunk.ok_or(Broken::OutOfTurn)?.bytes);
        }
        Ok(sealed)
    }
}

/// What became of a connection that ended.
pub(super) fn ended(error: ConnectionError) -> Broken {
    match &error {
        ConnectionError::ApplicationClosed(close) => {
            TurnedAway::from_code(close.error_code).map_or(Broken::Lost(error), Broken::TurnedAway)
        }
        _ => Broken::Lost(error),
    }
}

fn not_read(error: ReadExactError) -> Broken {
    match error {
        ReadExactError::FinishedEarly(_) => Broken::OutOfTurn,
        ReadExactError::ReadError(error) => lost(error),
    }
}

fn lost(error: ReadError) -> Broken {
    match error {
        ReadError::ConnectionLost(error) => ended(error),
        ReadError::Reset(_)
        | ReadError::ClosedStream
        | ReadError::IllegalOrderedRead
        | ReadError::ZeroRttRejected => Broken::OutOfTurn,
    }
}

fn not_written(error: WriteError) -> Broken {
    match error {
        WriteError::ConnectionLost(error) => ended(error),
        WriteError::Stopped(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => Broken::OutOfTurn,
    }
}

/// Bytes moved at once.
const CHUNK_BYTES: usize = 64 * 1024;
