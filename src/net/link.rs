//! What the node holds of a connection: queues to write to, never anything to wait for.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use quinn::VarInt;
use thiserror::Error;
use tokio::sync::mpsc;

use super::close::{CloseCode, CloseReason};
use crate::model::limits::{BATCH_SEALED_BYTES_MAX, FRAME_BYTES_MAX};
use crate::model::{Blame, DeviceId, LogId, Seq, SpaceId};

/// A connection's number, unique within one [`Net`](super::Net).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(u64);

impl ConnId {
    pub(super) const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Nothing was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The peer does not keep up. Close the link; it resumes from its frontier.
    #[error("the queue to this peer is full, it does not keep up")]
    Full,
    /// The connection has ended; [`NetEvent::Closed`](super::NetEvent::Closed) tells why.
    #[error("the connection has ended")]
    Ended,
    /// The caller made something longer than the other side would accept.
    #[error("{found} bytes exceed the limit of {limit} for one message")]
    TooLong {
        /// Bytes offered.
        found: usize,
        /// The limit of its kind.
        limit: usize,
    },
}

impl LinkError {
    /// Who is at fault.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Full => Blame::Peer,
            Self::Ended => Blame::Environment,
            Self::TooLong { .. } => Blame::Local,
        }
    }
}

/// Batches of one log to be read from the [`BatchSource`](super::BatchSource) and sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PushOrder {
    /// The space.
    pub space: SpaceId,
    /// The log.
    pub log: LogId,
    /// The other side has it up to here.
    pub after: Seq,
    /// The last position to send.
    pub through: Seq,
}

/// What a connection has measured so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkStats {
    /// The current estimate of the round trip.
    pub round_trip: Duration,
    /// UDP payload bytes sent.
    pub sent_bytes: u64,
    /// UDP payload bytes received.
    pub received_bytes: u64,
    /// Packets given up as lost.
    pub lost_packet_count: u64,
    /// UDP payload the path carries, in bytes.
    pub mtu: u16,
}

/// A connection to a device. Clones speak over the same connection. No method waits but
/// [`Link::ask`].
#[derive(Clone)]
pub struct Link(Arc<Inner>);

struct Inner {
    id: ConnId,
    device: DeviceId,
    side: quinn::Side,
    connection: quinn::Connection,
    control: Queue,
    live: Queue,
    orders: mpsc::Sender<PushOrder>,
    // Why this side closed.
    ended: OnceLock<CloseReason>,
}

/// The reading ends of a link's queues, for the tasks that write to the network.
pub(super) struct Outgoing {
    pub(super) control: QueueReader,
    pub(super) live: QueueReader,
    pub(super) orders: mpsc::Receiver<PushOrder>,
}

impl Link {
    pub(super) fn new(id: ConnId, device: DeviceId, connection: quinn::Connection) -> (Self, Outgoing) {
        let (control, control_reader) = queue();
        let (live, live_reader) = queue();
        let (orders, orders_reader) = mpsc::channel(ORDERS_MAX);
        let outgoing = Outgoing { control: control_reader, live: live_reader, orders: orders_reader };
        let side = connection.side();
        let inner = Inner { id, device, side, connection, control, live, orders, ended: OnceLock::new() };
        (Self(Arc::new(inner)), outgoing)
    }

    /// The connection's number.
    pub fn conn(&self) -> ConnId {
        self.0.id
    }

    /// The authenticated device on the other side.
    pub fn device(&self) -> DeviceId {
        self.0.device
    }

    /// Where the other side is now; it may move.
    pub fn remote(&self) -> SocketAddr {
        canonical(self.0.connection.remote_address())
    }

    /// What has been measured.
    pub fn stats(&self) -> LinkStats {
        let stats = self.0.connection.stats();
        LinkStats {
            round_trip: stats.path.rtt,
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            lost_packet_count: stats.path.lost_packets,
            mtu: stats.path.current_mtu,
        }
    }

    /// Queues a control frame. Frames arrive in the order they were queued.
    ///
    /// # Errors
    /// Every variant of [`LinkError`]; the queue holds 1,024 frames and 8 MiB.
    pub fn send(&self, frame: Bytes) -> Result<(), LinkError> {
        self.0.control.push(frame, FRAME_BYTES_MAX)
    }

    /// Queues a freshly sealed batch: it overtakes everything ordered with [`Link::push`].
    ///
    /// # Errors
    /// Every variant of [`LinkError`]; the queue holds 1,024 batches and 8 MiB. A caller may answer
    /// [`LinkError::Full`] with a [`Link::push`] of the same batch instead of closing.
    pub fn send_live(&self, batch: Bytes) -> Result<(), LinkError> {
        self.0.live.push(batch, BATCH_SEALED_BYTES_MAX)
    }

    /// Orders a stretch of a log to be sent behind everything else, orders one after the other.
    ///
    /// Answered by [`NetEvent::PushDone`](super::NetEvent::PushDone) when the last byte is handed to
    /// the transport, or by [`NetEvent::PushFailed`](super::NetEvent::PushFailed).
    ///
    /// # Errors
    /// [`LinkError::Full`] at [`ORDERS_MAX`] waiting orders, [`LinkError::Ended`].
    pub fn push(&self, order: PushOrder) -> Result<(), LinkError> {
        self.0.orders.try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LinkError::Full,
            mpsc::error::TrySendError::Closed(_) => LinkError::Ended,
        })
    }

    /// Ends the connection now. What is queued is lost. `why` reaches the other side's log, cut at
    /// 100 bytes: no secrets.
    pub fn close(&self, code: CloseCode, why: &str) {
        self.end(CloseReason::ByUs(code), code, why);
    }

    /// Ends the connection in a moment: what was queued last says why, and should arrive. Nothing that
    /// comes in meanwhile is for anybody.
    pub fn part(&self, code: CloseCode, why: &str) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return self.close(code, why) };
        let (link, why) = (self.clone(), why.to_owned());
        runtime.spawn(async move {
            tokio::time::sleep(PART_AFTER).await;
            link.close(code, &why);
        });
    }

    /// Ends the connection for `reason`, telling the other side `code`.
    pub(super) fn end(&self, reason: CloseReason, code: CloseCode, why: &str) {
        // What ended the connection first stays its reason, and closing again would overwrite it: tasks
        // that fail because it ended arrive here too.
        if self.0.connection.close_reason().is_some() {
            return;
        }
        let _ = self.0.ended.set(reason);
        let why = why.as_bytes();
        self.0.connection.close(code.into(), &why[..why.len().min(WHY_BYTES_MAX)]);
    }

    /// Why the connection ended. Only meaningful once it has.
    pub(super) fn reason(&self, error: &quinn::ConnectionError) -> CloseReason {
        self.0.ended.get().cloned().unwrap_or_else(|| CloseReason::of(error))
    }

    /// Sends something that the other side acknowledges at once.
    ///
    /// quinn sends no ping on demand; the smallest of what it does send is the receive window. It
    /// ends as it was.
    pub(super) fn nudge(&self, receive_window_bytes: u32) {
        self.connection().set_receive_window(VarInt::from_u32(receive_window_bytes.saturating_sub(1)));
        self.connection().set_receive_window(VarInt::from_u32(receive_window_bytes));
    }

    pub(super) fn connection(&self) -> &quinn::Connection {
        &self.0.connection
    }

    pub(super) fn is_dialled_here(&self) -> bool {
        self.0.side.is_client()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({}, {:?})", self.0.id, self.0.device)
    }
}

/// A queue bounded in messages and in bytes.
struct Queue {
    sender: mpsc::Sender<Bytes>,
    bytes: Arc<AtomicUsize>,
}

pub(super) struct QueueReader {
    receiver: mpsc::Receiver<Bytes>,
    bytes: Arc<AtomicUsize>,
}

impl Queue {
    fn push(&self, message: Bytes, limit: usize) -> Result<(), LinkError> {
        let found = message.len();
        if found > limit {
            return Err(LinkError::TooLong { found, limit });
        }
        let queued = self.bytes.fetch_add(found, Ordering::Relaxed);
        let pushed = if queued + found > QUEUE_BYTES_MAX {
            Err(LinkError::Full)
        } else {
            self.sender.try_send(message).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => LinkError::Full,
                mpsc::error::TrySendError::Closed(_) => LinkError::Ended,
            })
        };
        if pushed.is_err() {
            self.bytes.fetch_sub(found, Ordering::Relaxed);
        }
        pushed
    }
}

impl QueueReader {
    /// Waits for messages and takes up to 64; empty when no link is left. The caller reports with
    /// [`QueueReader::written`] what has left for the network.
    pub(super) async fn take(&mut self, messages: &mut Vec<Bytes>) {
        self.receiver.recv_many(messages, 64).await;
    }

    pub(super) fn written(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

fn queue() -> (Queue, QueueReader) {
    let (sender, receiver) = mpsc::channel(QUEUE_MESSAGES_MAX);
    let bytes = Arc::new(AtomicUsize::new(0));
    (Queue { sender, bytes: Arc::clone(&bytes) }, QueueReader { receiver, bytes })
}

/// An address as people write it: IPv4 that arrived at an IPv6 socket is IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// A peer that is this far behind is dropped.
const QUEUE_MESSAGES_MAX: usize = 1024;

/// Eight of the greatest control frames.
const QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Most push orders that wait on one connection: one per log a space may have, and some more.
pub const ORDERS_MAX: usize = 16 * 1024;

/// What still fits into one packet beside everything else.
const WHY_BYTES_MAX: usize = 100;

/// How long what was queued last has to leave before a connection is ended.
const PART_AFTER: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_full_at_its_bytes_and_at_its_messages() {
        let (queue, _reader) = queue();
        let frame = Bytes::from(vec![0; FRAME_BYTES_MAX]);

        for _ in 0..8 {
            assert_eq!(queue.push(frame.clone(), FRAME_BYTES_MAX), Ok(()));
        }

        assert_eq!(queue.push(frame.clone(), FRAME_BYTES_MAX), Err(LinkError::Full));
        for _ in 8..QUEUE_MESSAGES_MAX {
            assert_eq!(queue.push(Bytes::new(), FRAME_BYTES_MAX), Ok(()));
        }
        assert_eq!(queue.push(Bytes::new(), FRAME_BYTES_MAX), Err(LinkError::Full));
    }

    #[tokio::test]
    async fn what_is_written_makes_room() {
        let (queue, mut reader) = queue();
        let frame = Bytes::from(vec![0; FRAME_BYTES_MAX]);
        for _ in 0..8 {
            queue.push(frame.clone(), FRAME_BYTES_MAX).expect("room for eight");
        }

        let mut taken = Vec::new();
        reader.take(&mut taken).await;
        reader.written(taken.iter().map(Bytes::len).sum());

        assert_eq!(queue.push(frame, FRAME_BYTES_MAX), Ok(()));
    }

    #[test]
    fn what_the_other_side_would_refuse_is_not_queued() {
        let (queue, reader) = queue();

        assert_eq!(queue.push(Bytes::from_static(b"abc"), 2), Err(LinkError::TooLong { found: 3, limit: 2 }));
        drop(reader);
        assert_eq!(queue.push(Bytes::from_static(b"ab"), 2), Err(LinkError::Ended));
    }
}
