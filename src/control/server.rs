//! The Unix socket `HOME/control.sock`: one JSON-RPC 2.0 message per line.
//!
//! Only processes of the same user are heard (mode 0600, and the peer's uid is asked for). A line
//! that is too long, no JSON or no request is answered with an error; the connection is kept.
//! Requests of one connection run concurrently, so answers may come in another order: they carry
//! the id. A reader that does not read its answers stops being read from.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::connection::{Outgoing, Requests, connect};
use super::line::LineCutter;
use super::session::Session;
use super::{CONNECTIONS_MAX, REQUEST_BYTES_MAX};
use crate::node::Node;

/// Why there is no control socket.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The system allows shorter paths only.
    #[error(
        "the path {path:?} is too long for a socket ({found} bytes, at most {limit}); choose a shorter home"
    )]
    PathTooLong {
        /// Where it would be.
        path: PathBuf,
        /// Its length.
        found: usize,
        /// The most that works everywhere.
        limit: usize,
    },
    /// Something else is there.
    #[error("{path:?} is not a socket; move it away")]
    Occupied {
        /// Where.
        path: PathBuf,
    },
    /// The system refused.
    #[error("the socket {path:?} cannot be made")]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A listening control socket. Dropping it stops answering; [`Server::stop`] also removes the file.
pub struct Server {
    path: PathBuf,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
}

impl Server {
    /// Where the socket of a home is.
    pub fn path(home: &Path) -> PathBuf {
        home.join("control.sock")
    }

    /// Listens in the node's home. A socket file left behind is replaced: the home's lock says that
    /// no other process serves it. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`SocketError::PathTooLong`], [`SocketError::Occupied`], [`SocketError::Bind`].
    pub fn start(node: Node) -> Result<Self, SocketError> {
        let path = Self::path(node.home());
        let listener = bind(&path)?;
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, node, cancel.clone()));
        Ok(Self { path, cancel, tasks })
    }

    /// Stops answering and removes the socket; returns within a second.
    pub async fn stop(mut self) {
        self.cancel.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_WITHIN, all).await.is_err() {
            self.tasks.abort_all();
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            debug!(%error, "the control socket was gone already");
        }
    }
}

fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let refused = |source| SocketError::Bind { path: path.to_owned(), source };
    let found = path.as_os_str().len();
    if found > SOCKET_PATH_BYTES_MAX {
        return Err(SocketError::PathTooLong { path: path.to_owned(), found, limit: SOCKET_PATH_BYTES_MAX });
    }
    match std::fs::symlink_metadata(path) {
        Ok(left) if left.file_type().is_socket() => std::fs::remove_file(path).map_err(refused)?,
        Ok(_) => return Err(SocketError::Occupied { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(refused(error)),
    }
    let listener = UnixListener::bind(path).map_err(refused)?;
    // Between bind and this a connection could slip in; its uid is checked all the same.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(refused)?;
    Ok(listener)
}

async fn accept(listener: UnixListener, node: Node, cancel: CancellationToken) {
    let own = nix::unistd::geteuid().as_raw();
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = cancel.cancelled() => break,
            // Losing the race leaves the connection in the listener's queue.
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "a control connection could not be accepted");
                    // Out of descriptors: accepting again at once would spin.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            // Only counts down; nothing to lose.
            Some(_) = connections.join_next() => continue,
        };
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == own => {
                connections.spawn(connection(stream, node.clone(), cancel.clone()));
            }
            Ok(peer) => warn!(uid = peer.uid(), "a control connection of another user was refused"),
            Err(error) => warn!(%error, "a control connection without credentials was refused"),
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: UnixStream, node: Node, cancel: CancellationToken) {
    let (read, write) = stream.into_split();
    let (session, notices) = Session::new(node);
    let (mut requests, outgoing) = connect(session, notices);
    let mut tasks = JoinSet::new();
    tasks.spawn(write_lines(write, outgoing));
    tokio::select! {
        () = cancel.cancelled() => {}
        // A request cut off here is one whose connection is closing anyway.
        ended = read_requests(read, &mut requests) => {
            if let Err(error) = ended {
                debug!(%error, "a control connection ended");
            }
            requests.finish().await;
            // The requests are gone, so the writer ends once their answers are written.
            let _ = tokio::time::timeout(STOP_WITHIN, tasks.join_next()).await;
        }
    }
}

async fn read_requests(read: OwnedReadHalf, requests: &mut Requests) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(READ_BYTES, read);
    let mut cutter = LineCutter::new(REQUEST_BYTES_MAX);
    loop {
        let chunk = reader.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(());
        }
        let (used, line) = cutter.cut(chunk);
        reader.consume(used);
        if let Some(line) = line {
            requests.take(line).await;
        }
    }
}

async fn write_lines(mut write: OwnedWriteHalf, mut outgoing: Outgoing) {
    while let Some(lines) = outgoing.next().await {
        if write.write_all(lines.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The shortest limit of the platforms (macOS: 104 with its end mark).
const SOCKET_PATH_BYTES_MAX: usize = 103;

/// How long answers under way may take when the node stops.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// Between two attempts to accept when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How much is read at once.
const READ_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_path_that_cannot_be_a_socket_is_refused_by_name() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("control.sock");
        std::fs::write(&file, b"").unwrap();
        let long = home.path().join("x".repeat(SOCKET_PATH_BYTES_MAX));

        assert!(matches!(bind(&file), Err(SocketError::Occupied { .. })));
        assert!(matches!(bind(&long), Err(SocketError::PathTooLong { .. })));
        assert!(matches!(bind(&home.path().join("none/control.sock")), Err(SocketError::Bind { .. })));
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("control.sock");
        drop(bind(&path).unwrap());

        let again = bind(&path).unwrap();

        assert!(UnixStream::connect(&path).await.is_ok());
        drop(again);
    }
}
