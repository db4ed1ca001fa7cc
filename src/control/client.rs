//! A caller of a running node through its control socket.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::value::RawValue;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::envelope::{Incoming, request_line};
use super::error::RpcError;
use super::line::{Line, LineCutter};
use super::server::Server;
use super::session::Notice;
use super::{ANSWER_BYTES_MAX, CONCURRENT_REQUESTS_MAX, NOTICES_MAX};

/// Why a call got no result.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The node refused.
    #[error(transparent)]
    Refused(#[from] RpcError),
    /// The connection ended before the answer came.
    #[error("the running node closed the connection before it answered; it may have stopped")]
    Closed,
    /// There is a socket, but it cannot be used.
    #[error("the control socket cannot be used")]
    Socket(#[source] io::Error),
}

/// A connection to a running node; calls may be made by many tasks at once.
pub struct Client {
    requests: mpsc::Sender<String>,
    pending: Pending,
    last: AtomicU64,
    _tasks: JoinSet<()>,
}

type Outcome = Result<Box<RawValue>, RpcError>;

/// Calls that wait for their answer; `None` once the connection has ended.
type Pending = Arc<Mutex<Option<BTreeMap<u64, oneshot::Sender<Outcome>>>>>;

impl Client {
    /// Connects to the node that has this home open; `None` where none answers.
    ///
    /// The receiver gets the notices of subscriptions; a caller without any may drop it.
    ///
    /// # Errors
    /// [`ClientError::Socket`] where a socket is there but may not be used.
    pub async fn connect(home: &Path) -> Result<Option<(Self, mpsc::Receiver<Notice>)>, ClientError> {
        match UnixStream::connect(Server::path(home)).await {
            Ok(stream) => Ok(Some(Self::over(stream))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(ClientError::Socket(error)),
        }
    }

    fn over(stream: UnixStream) -> (Self, mpsc::Receiver<Notice>) {
        let (read, write) = stream.into_split();
        let (requests, outgoing) = mpsc::channel(CONCURRENT_REQUESTS_MAX);
        let (notices, arriving) = mpsc::channel(NOTICES_MAX);
        let pending = Pending::new(Mutex::new(Some(BTreeMap::new())));
        let mut tasks = JoinSet::new();
        tasks.spawn(write_requests(write, outgoing));
        tasks.spawn(read_answers(read, Arc::clone(&pending), notices));
        (Self { requests, pending, last: AtomicU64::new(0), _tasks: tasks }, arriving)
    }

    /// Calls a method and waits for its result.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the node's reason, [`ClientError::Closed`] where none came.
    pub async fn call(&self, method: &str, params: &RawValue) -> Result<Box<RawValue>, ClientError> {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (answer, answered) = oneshot::channel();
        match &mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(pending) => pending.insert(id, answer),
            None => return Err(ClientError::Closed),
        };
        let sent = self.requests.send(request_line(id, method, params)).await;
        sent.map_err(|_| ClientError::Closed)?;
        Ok(answered.await.map_err(|_| ClientError::Closed)??)
    }
}

async fn write_requests(mut write: OwnedWriteHalf, mut outgoing: mpsc::Receiver<String>) {
    while let Some(line) = outgoing.recv().await {
        if write.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read_answers(read: OwnedReadHalf, pending: Pending, notices: mpsc::Sender<Notice>) {
    let mut reader = BufReader::with_capacity(READ_BYTES, read);
    let mut cutter = LineCutter::new(ANSWER_BYTES_MAX);
    while let Ok(chunk) = reader.fill_buf().await {
        if chunk.is_empty() {
            break;
        }
        let (used, line) = cutter.cut(chunk);
        reader.consume(used);
        let Some(line) = line else { continue };
        let Line::Whole(line) = line else { break };
        let Ok(incoming) = serde_json::from_slice::<Incoming>(&line) else { break };
        if let (Some(method), Some(params)) = (incoming.method, incoming.params) {
            // Nobody listens: the notice has no one to go to.
            let _ = notices.send(Notice { method, params }).await;
            continue;
        }
        let outcome = match (incoming.result, incoming.error) {
            (_, Some(error)) => Err(error),
            (Some(result), None) => Ok(result),
            (None, None) => break,
        };
        let Some(id) = incoming.id else { continue };
        let waiting =
            pending.lock().unwrap_or_else(PoisonError::into_inner).as_mut().and_then(|p| p.remove(&id));
        if let Some(waiting) = waiting {
            // A caller that gave up dropped its end.
            let _ = waiting.send(outcome);
        }
    }
    // Dropping the senders tells every waiting call that no answer will come.
    pending.lock().unwrap_or_else(PoisonError::into_inner).take();
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::InvalidInput
    )
}

/// How much is read at once.
const READ_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_find_their_calls_in_any_order_and_notices_go_aside() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (client, mut notices) = Client::over(ours);
        let server = tokio::spawn(async move {
            let (read, mut write) = theirs.into_split();
            let mut lines = BufReader::new(read).lines();
            let first = lines.next_line().await.unwrap().unwrap();
            let second = lines.next_line().await.unwrap().unwrap();
            assert!(first.contains("\"id\":1") || second.contains("\"id\":1"));
            let answers = concat!(
                r#"{"jsonrpc":"2.0","method":"sync.changed","params":{"n":1}}"#,
                "\n",
                r#"{"jsonrpc":"2.0","id":2,"result":null}"#,
                "\n",
                r#"{"jsonrpc":"2.0","id":1,"result":1.0}"#,
                "\n",
            );
            write.write_all(answers.as_bytes()).await.unwrap();
        });
        let none = RawValue::from_string("{}".into()).unwrap();

        let (one, two) = tokio::join!(client.call("a", &none), client.call("b", &none));

        server.await.unwrap();
        assert_eq!((one.unwrap().get(), two.unwrap().get()), ("1.0", "null"));
        assert_eq!(notices.recv().await.unwrap().params.get(), r#"{"n":1}"#);
        assert!(matches!(client.call("c", &none).await, Err(ClientError::Closed)));
    }

    #[tokio::test]
    async fn a_home_without_a_socket_has_no_running_node() {
        let home = tempfile::tempdir().unwrap();

        assert!(matches!(Client::connect(home.path()).await, Ok(None)));
    }

    #[tokio::test]
    async fn a_socket_that_may_not_be_used_is_an_error_and_not_an_absent_node() {
        let home = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("control.sock", Server::path(home.path())).unwrap();

        assert!(matches!(Client::connect(home.path()).await, Err(ClientError::Socket(_))));
    }

    #[tokio::test]
    async fn a_refusal_reaches_its_caller_as_it_was_said() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (client, _) = Client::over(ours);
        let refusal = RpcError::from(crate::control::ControlError::Lost);
        let answer = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "error": refusal });
        let (_, mut write) = theirs.into_split();
        write.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
        let none = RawValue::from_string("{}".into()).unwrap();

        let refused = client.call("a", &none).await;

        assert!(matches!(refused, Err(ClientError::Refused(error)) if error == refusal));
    }
}
