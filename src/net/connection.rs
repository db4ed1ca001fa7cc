//! One connection's tasks: from the finished handshake to the last event.
//!
//! Order of events per connection: `Opened`, then `Connected` and the first `Frame` together, then
//! anything, then `Closed` exactly once. Nothing is read before the first control frame: a server
//! that refuses this device is heard only there.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use tokio::io::AsyncReadExt;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, trace};

use super::ask;
use super::close::{CloseCode, CloseReason};
use super::frame::{Cutter, ReadEnd, Violation, frame_header, read_frame};
use super::link::{ConnId, Link, Outgoing, PushOrder, QueueReader};
use super::{BatchSource, Credit, NetEvent, PushError};

/// What a connection needs of its surroundings.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) source: Arc<dyn BatchSource>,
    pub(super) events: mpsc::Sender<NetEvent>,
    /// Ends waiting for a node that stops.
    pub(super) cancel: CancellationToken,
    /// How long the other side may take to its first frame.
    pub(super) first_frame: Duration,
}

impl Surroundings {
    /// Hands an event up. Waits where the node is behind: its own network then waits with it.
    pub(super) async fn emit(&self, event: NetEvent) {
        let permit = tokio::select! {
            biased;
            // Losing the race loses nothing: no event is in the permit yet.
            permit = self.events.reserve() => permit.ok(),
            // A node that stops may no longer listen; what finds room is still told.
            () = self.cancel.cancelled() => None,
        };
        if let Some(permit) = permit {
            permit.send(event);
        }
    }
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Surroundings")
    }
}

/// How far a connection came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It ended before the other side's first frame.
    NeverConnected(CloseReason),
    /// It served, and ended.
    Served(CloseReason),
}

/// Runs a connection to its end. `connected` is called once, at the first frame.
pub(super) async fn run(
    link: Link,
    outgoing: Outgoing,
    around: Surroundings,
    connected: impl Future<Output = ()> + Send,
) -> Outcome {
    let mut tasks = JoinSet::new();
    around.emit(NetEvent::Opened { link: link.clone(), device: link.device() }).await;
    let served = serve(&link, outgoing, &around, &mut tasks, connected).await;
    let error = link.connection().closed().await;
    // Whatever still runs only waits for the node or for a stream that is gone.
    tasks.shutdown().await;
    let reason = link.reason(&error);
    debug!(conn = %link.conn(), peer = ?link.device(), %reason, "connection closed");
    let closed = NetEvent::Closed { conn: link.conn(), device: link.device(), reason: reason.clone() };
    around.emit(closed).await;
    if served { Outcome::Served(reason) } else { Outcome::NeverConnected(reason) }
}

/// Waits for the first frame and starts the tasks; returns when the connection has ended.
async fn serve(
    link: &Link,
    outgoing: Outgoing,
    around: &Surroundings,
    tasks: &mut JoinSet<ReadEnd>,
    connected: impl Future<Output = ()> + Send,
) -> bool {
    let budget = Arc::new(Semaphore::new(FRAMES_BYTES_MAX));
    let first = tokio::select! {
        // Losing the race loses a half-read frame of a connection that ends here.
        first = first_frame(link, outgoing.control, &budget, tasks) => first,
        () = tokio::time::sleep(around.first_frame) => {
            Err(Violation::Silent { waited_ms: around.first_frame.as_millis() }.into())
        }
    };
    let (frame, control) = match first {
        Ok(first) => first,
        Err(end) => {
            finish(link, end);
            return false;
        }
    };
    connected.await;
    let (conn, device, remote) = (link.conn(), link.device(), link.remote());
    around.emit(NetEvent::Connected { link: link.clone(), device, remote }).await;
    around.emit(NetEvent::Frame { conn, frame }).await;

    tasks.spawn(read_control(conn, control, budget, around.clone()));
    tasks.spawn(write_live(link.clone(), outgoing.live));
    tasks.spawn(write_backlog(link.clone(), outgoing.orders, around.clone()));
    tasks.spawn(accept_batches(link.clone(), around.clone()));
    tasks.spawn(ask::accept(link.clone(), around.clone()));
    tokio::select! {
        // Losing the race loses nothing: `closed` is asked again, ended tasks stay in the set.
        _ = link.connection().closed() => {}
        Some(ended) = tasks.join_next() => finish(link, ended.unwrap_or(ReadEnd::Lost)),
    }
    true
}

async fn first_frame(
    link: &Link,
    queue: QueueReader,
    budget: &Arc<Semaphore>,
    tasks: &mut JoinSet<ReadEnd>,
) -> Result<(Bytes, RecvStream), ReadEnd> {
    let streams = if link.is_dialled_here() {
        link.connection().open_bi().await
    } else {
        link.connection().accept_bi().await
    };
    let (send, mut receive) = streams.map_err(|_| ReadEnd::Lost)?;
    tasks.spawn(write_control(send, queue));
    let frame = read_frame(&mut receive, budget).await?;
    Ok((frame, receive))
}

/// Closes for what ended a task.
fn finish(link: &Link, end: ReadEnd) {
    match end {
        ReadEnd::Violation(violation) => {
            link.end(CloseReason::Violation(violation), CloseCode::Violation, &violation.to_string());
        }
        // Without effect where the connection is gone already, and that is the common case.
        ReadEnd::Lost => link.end(CloseReason::ByUs(CloseCode::Fault), CloseCode::Fault, ""),
    }
}

async fn read_control(
    conn: ConnId,
    mut stream: RecvStream,
    budget: Arc<Semaphore>,
    around: Surroundings,
) -> ReadEnd {
    loop {
        let frame = match read_frame(&mut stream, &budget).await {
            Ok(frame) => frame,
            Err(end) => return end,
        };
        trace!(%conn, bytes = frame.len(), "frame received");
        around.emit(NetEvent::Frame { conn, frame }).await;
    }
}

async fn write_control(mut stream: SendStream, mut queue: QueueReader) -> ReadEnd {
    let _ = stream.set_priority(PRIORITY_CONTROL);
    let mut frames = Vec::new();
    loop {
        queue.take(&mut frames).await;
        if frames.is_empty() {
            return ReadEnd::Lost;
        }
        let bytes = frames.iter().map(Bytes::len).sum();
        let mut chunks: Vec<Bytes> =
            frames.drain(..).flat_map(|frame| [frame_header(&frame), frame]).collect();
        if stream.write_all_chunks(&mut chunks).await.is_err() {
            return ReadEnd::Lost;
        }
        queue.written(bytes);
    }
}

async fn write_live(link: Link, mut queue: QueueReader) -> ReadEnd {
    let mut stream = None;
    let mut batches = Vec::new();
    loop {
        queue.take(&mut batches).await;
        if batches.is_empty() {
            return ReadEnd::Lost;
        }
        let bytes = batches.iter().map(Bytes::len).sum();
        let Ok(stream) = batch_stream(&link, &mut stream, PRIORITY_LIVE).await else { return ReadEnd::Lost };
        if stream.write_all_chunks(&mut batches).await.is_err() {
            return ReadEnd::Lost;
        }
        batches.clear();
        queue.written(bytes);
    }
}

async fn write_backlog(link: Link, mut orders: mpsc::Receiver<PushOrder>, around: Surroundings) -> ReadEnd {
    let mut stream = None;
    let conn = link.conn();
    while let Some(order) = orders.recv().await {
        let PushOrder { space, log, mut after, through } = order;
        let event = loop {
            if after >= through {
                break NetEvent::PushDone { conn, space, log, through: after };
            }
            match around.source.run(&space, &log, after, through, RUN_BYTES_MAX) {
                Ok(None) => break NetEvent::PushDone { conn, space, log, through: after },
                Ok(Some(run)) if run.last <= after || through < run.last => {
                    break NetEvent::PushFailed {
                        conn,
                        space,
                        log,
                        error: PushError::Astray { after, last: run.last },
                    };
                }
                Ok(Some(run)) => {
                    let Ok(stream) = batch_stream(&link, &mut stream, PRIORITY_BACKLOG).await else {
                        return ReadEnd::Lost;
                    };
                    if stream.write_chunk(run.bytes).await.is_err() {
                        return ReadEnd::Lost;
                    }
                    after = run.last;
                }
                Err(error) => {
                    break NetEvent::PushFailed { conn, space, log, error: PushError::Source(error) };
                }
            }
        };
        around.emit(event).await;
    }
    ReadEnd::Lost
}

/// The stream of a lane, opened at its first use.
async fn batch_stream<'a>(
    link: &Link,
    slot: &'a mut Option<SendStream>,
    priority: i32,
) -> Result<&'a mut SendStream, quinn::ConnectionError> {
    if slot.is_none() {
        let stream = link.connection().open_uni().await?;
        let _ = stream.set_priority(priority);
        *slot = Some(stream);
    }
    Ok(slot.as_mut().expect("filled above"))
}

async fn accept_batches(link: Link, around: Surroundings) -> ReadEnd {
    let budget = Arc::new(Semaphore::new(BATCHES_BYTES_MAX));
    let mut readers = JoinSet::new();
    loop {
        tokio::select! {
            // Losing the race loses nothing: both are asked again.
            accepted = link.connection().accept_uni() => {
                let Ok(stream) = accepted else { return ReadEnd::Lost };
                readers.spawn(read_batches(link.conn(), stream, Arc::clone(&budget), around.clone()));
            }
            Some(ended) = readers.join_next() => match ended {
                // The other side has finished a stream in good order.
                Ok(Ok(())) => {}
                Ok(Err(end)) => return end,
                Err(_) => return ReadEnd::Lost,
            },
        }
    }
}

async fn read_batches(
    conn: ConnId,
    mut stream: RecvStream,
    budget: Arc<Semaphore>,
    around: Surroundings,
) -> Result<(), ReadEnd> {
    let mut cutter = Cutter::default();
    loop {
        let batches = cutter.cut()?;
        if !batches.is_empty() {
            let bytes: usize = batches.iter().map(Bytes::len).sum();
            let permits = u32::try_from(bytes).expect("a chunk is below a mebibyte");
            let permit = Arc::clone(&budget).acquire_many_owned(permits).await.map_err(|_| ReadEnd::Lost)?;
            trace!(%conn, count = batches.len(), bytes, "batches received");
            around.emit(NetEvent::Batches { conn, batches, credit: Credit::new(permit) }).await;
            continue;
        }
        match stream.read_buf(cutter.room()).await {
            Ok(0) if cutter.held() == 0 => return Ok(()),
            Ok(0) => return Err(Violation::BatchCutShort { held: cutter.held() }.into()),
            Ok(bytes) => cutter.filled(bytes),
            Err(error) => return Err(read_failed(&error, cutter.held())),
        }
    }
}

fn read_failed(error: &std::io::Error, held: usize) -> ReadEnd {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<quinn::ReadError>()) {
        Some(quinn::ReadError::Reset(_)) => Violation::BatchCutShort { held }.into(),
        Some(_) | None => ReadEnd::Lost,
    }
}

/// Frames handed up and not yet dropped, per connection.
const FRAMES_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Batches handed up and not yet dropped, per connection: some transactions' worth.
const BATCHES_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How much is read from a log at once: what is written follows the congestion window closely.
const RUN_BYTES_MAX: usize = 256 * 1024;

const PRIORITY_CONTROL: i32 = 2;
const PRIORITY_LIVE: i32 = 1;
const PRIORITY_BACKLOG: i32 = 0;

const _: () = assert!(super::frame::CHUNK_BYTES_MAX < BATCHES_BYTES_MAX / 2);
