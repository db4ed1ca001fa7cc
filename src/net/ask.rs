//! Questions that get one answer each: one bidirectional stream per question.
//!
//! | direction | bytes | field |
//! |---|---|---|
//! | asking side | 1 | topic: 1 = lease, 2 = verify, 3 = checkpoint |
//! | | 4 | length n, big-endian, at most [`ASK_BYTES_MAX`] |
//! | | n | the question; the stream ends with it |
//! | answering side | 4 | length m, big-endian, at most [`ASK_BYTES_MAX`] |
//! | | m | the answer; the stream ends with it; about a checkpoint at most [`CHUNK_ANSWER_BYTES_MAX`] |
//!
//! A stream that keeps to nothing of this is reset and the connection goes on: a later version may
//! ask what this one does not know. Who asks is the device the connection authenticated, never
//! anything in the bytes.

use std::time::Duration;

use bytes::Bytes;
use quinn::{RecvStream, SendStream, VarInt};
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::trace;

use super::NetEvent;
use super::connection::Surroundings;
use super::frame::ReadEnd;
use super::link::Link;
use crate::model::Blame;

/// What a question is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Topic {
    /// A request to the register of leases.
    Lease,
    /// A comparison of two states.
    Verify,
    /// Checkpoints, their chunks, and who attests them.
    Checkpoint,
}

impl Topic {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Lease => 1,
            Self::Verify => 2,
            Self::Checkpoint => 3,
        }
    }

    /// Bytes of the greatest answer.
    const fn answer_bytes_max(self) -> usize {
        match self {
            Self::Lease | Self::Verify => ASK_BYTES_MAX,
            Self::Checkpoint => CHUNK_ANSWER_BYTES_MAX,
        }
    }

    /// Leases are as urgent as control frames; chunks come after everything that is new.
    const fn priority(self) -> i32 {
        match self {
            Self::Lease | Self::Verify => PRIORITY_ASK,
            Self::Checkpoint => PRIORITY_CHUNK,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Lease),
            2 => Some(Self::Verify),
            3 => Some(Self::Checkpoint),
            _ => None,
        }
    }
}

/// A question without an answer. Whether the other side has acted on it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AskError {
    /// The caller made something longer than the other side would accept.
    #[error("a question of {found} bytes exceeds the limit of {limit}")]
    TooLong {
        /// Bytes offered.
        found: usize,
        /// [`ASK_BYTES_MAX`].
        limit: usize,
    },
    /// No answer in time.
    #[error("no answer within {waited_ms} ms")]
    Unanswered {
        /// How long was waited.
        waited_ms: u128,
    },
    /// The connection ended first.
    #[error("the connection ended before an answer came")]
    Ended,
    /// The other side does not answer such questions, or answered what is no answer.
    #[error("the other device does not answer such a question; it may run an older kinfold")]
    Refused,
}

impl AskError {
    /// Who is at fault.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::TooLong { .. } => Blame::Local,
            Self::Unanswered { .. } | Self::Ended => Blame::Environment,
            Self::Refused => Blame::Peer,
        }
    }
}

/// Where the answer to a question goes. Dropping it leaves the question unanswered at once.
#[derive(Debug)]
pub struct Answer(oneshot::Sender<Bytes>);

impl Answer {
    /// Answers; whoever asked may have gone.
    pub fn send(self, answer: Bytes) {
        let _ = self.0.send(answer);
    }
}

impl Link {
    /// Asks the other side and waits for its answer. Dropping the future takes the question back where
    /// it has not arrived yet.
    ///
    /// # Errors
    /// Every variant of [`AskError`].
    pub async fn ask(&self, topic: Topic, question: Bytes, within: Duration) -> Result<Bytes, AskError> {
        let found = question.len();
        if found > ASK_BYTES_MAX {
            return Err(AskError::TooLong { found, limit: ASK_BYTES_MAX });
        }
        let asked = async {
            // Waits where as many questions as the other side allows are open.
            let (send, receive) = self.connection().open_bi().await.map_err(|_| AskError::Ended)?;
            exchange(topic, question, send, receive).await
        };
        let waited_ms = within.as_millis();
        tokio::time::timeout(within, asked).await.unwrap_or(Err(AskError::Unanswered { waited_ms }))
    }
}

async fn exchange(
    topic: Topic,
    question: Bytes,
    mut send: SendStream,
    mut receive: RecvStream,
) -> Result<Bytes, AskError> {
    let _ = send.set_priority(topic.priority());
    let mut header = vec![topic.to_byte()];
    header.extend_from_slice(&length_of(&question));
    let mut chunks = [Bytes::from(header), question];
    send.write_all_chunks(&mut chunks).await.map_err(|error| match error {
        quinn::WriteError::ConnectionLost(_) => AskError::Ended,
        _ => AskError::Refused,
    })?;
    let _ = send.finish();
    read(&mut receive, topic.answer_bytes_max()).await
}

/// Takes in what the other side asks, until the connection ends.
pub(super) async fn accept(link: Link, around: Surroundings) -> ReadEnd {
    let mut answering = JoinSet::new();
    loop {
        tokio::select! {
            // Losing the race loses nothing: both are asked again.
            accepted = link.connection().accept_bi() => {
                let Ok((send, receive)) = accepted else { return ReadEnd::Lost };
                answering.spawn(answer(link.clone(), send, receive, around.clone()));
            }
            Some(_) = answering.join_next() => {}
        }
    }
}

/// One question. The transport bounds how many there are at once.
async fn answer(link: Link, mut send: SendStream, mut receive: RecvStream, around: Surroundings) {
    let asked = tokio::time::timeout(QUESTION_WITHIN, async {
        let mut topic = [0; 1];
        receive.read_exact(&mut topic).await.ok()?;
        Some((Topic::from_byte(topic[0])?, read(&mut receive, ASK_BYTES_MAX).await.ok()?))
    });
    let Ok(Some((topic, question))) = asked.await else {
        let _ = send.reset(REFUSED);
        let _ = receive.stop(REFUSED);
        return;
    };
    trace!(conn = %link.conn(), ?topic, bytes = question.len(), "asked");
    let (answer, answered) = oneshot::channel();
    let (conn, device) = (link.conn(), link.device());
    around.emit(NetEvent::Asked { conn, device, topic, question, answer: Answer(answer) }).await;
    let answer = tokio::select! {
        // Losing the race loses an answer that nobody waits for; the register keeps it.
        answer = answered => answer.ok().filter(|answer| answer.len() <= topic.answer_bytes_max()),
        _ = send.stopped() => None,
    };
    let Some(answer) = answer else {
        let _ = send.reset(REFUSED);
        return;
    };
    let _ = send.set_priority(topic.priority());
    let mut chunks = [Bytes::copy_from_slice(&length_of(&answer)), answer];
    if send.write_all_chunks(&mut chunks).await.is_ok() {
        let _ = send.finish();
        // The stream is reset when it is dropped before its last byte has arrived.
        let _ = send.stopped().await;
    }
}

/// Reads a length and as many bytes, and the end of the stream.
async fn read(stream: &mut RecvStream, bytes_max: usize) -> Result<Bytes, AskError> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).await.map_err(cut_short)?;
    let length = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
    if length > bytes_max {
        return Err(AskError::Refused);
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.map_err(cut_short)?;
    match stream.read_chunk(1, true).await {
        Ok(None) => Ok(bytes.into()),
        Ok(Some(_)) => Err(AskError::Refused),
        Err(quinn::ReadError::ConnectionLost(_)) => Err(AskError::Ended),
        Err(_) => Err(AskError::Refused),
    }
}

fn cut_short(error: quinn::ReadExactError) -> AskError {
    match error {
        quinn::ReadExactError::ReadError(quinn::ReadError::ConnectionLost(_)) => AskError::Ended,
        quinn::ReadExactError::FinishedEarly(_) | quinn::ReadExactError::ReadError(_) => AskError::Refused,
    }
}

fn length_of(bytes: &Bytes) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("compared with the limit").to_be_bytes()
}

/// Greatest question and greatest answer: names, tokens and a few ids or hashes.
pub const ASK_BYTES_MAX: usize = 4 * 1024;

/// Greatest answer about a checkpoint: a sealed chunk, the words of every device of a roster, or a batch.
pub const CHUNK_ANSWER_BYTES_MAX: usize = 320 * 1024;

const _: () = assert!(crate::wire::checkpoint::CHUNK_SEALED_BYTES_MAX < CHUNK_ANSWER_BYTES_MAX);
const _: () = assert!(crate::wire::checkpoint::RUN_BYTES_MAX < CHUNK_ANSWER_BYTES_MAX);
const _: () = assert!(
    crate::wire::checkpoint::Attestation::BYTES * crate::model::limits::DEVICES_MAX + 64
        < CHUNK_ANSWER_BYTES_MAX
);

/// How long a question may take to arrive once its stream is open.
const QUESTION_WITHIN: Duration = Duration::from_secs(5);

/// Sent when a stream is given up.
const REFUSED: VarInt = VarInt::from_u32(1);

/// As urgent as control frames: a lease is renewed in time or lost.
const PRIORITY_ASK: i32 = 2;

/// Below batches of the backlog.
const PRIORITY_CHUNK: i32 = -2;
