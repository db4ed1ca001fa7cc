//! The WebSocket on loopback: one JSON-RPC 2.0 message per text message, for programs that cannot open
//! a Unix socket.
//!
//! Every process and every page of a browser on this machine can connect to loopback, so a connection
//! is heard only if it names this very address (a foreign name that resolves to it is refused), comes
//! from no web page, or from one that was allowed, and knows the token in `HOME/control.token`, which is
//! made anew each time. Where the port is stands in `HOME/control.port`. Sessions, methods and limits
//! are those of the Unix socket.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use subtle::ConstantTimeEq;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, SEC_WEBSOCKET_PROTOCOL, WWW_AUTHENTICATE,
};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::connection::{Outgoing, Requests, connect};
use super::line::Line;
use super::session::Session;
use super::{CONNECTIONS_MAX, REQUEST_BYTES_MAX};
use crate::clock;
use crate::node::Node;

/// Why there is no WebSocket.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WebSocketError {
    /// The port cannot be listened on.
    #[error("no WebSocket can listen on {address}; choose another port, or 0 for any")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The token or the port cannot be written down.
    #[error("{path:?} cannot be written")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where a WebSocket listens, and which web pages may use it.
#[derive(Clone, Debug, Default)]
pub struct WebSocketOptions {
    /// The port on 127.0.0.1 and, where it is to be had, on ::1; 0 takes a free one.
    port: u16,
    /// Origins whose pages may connect, as `scheme://host:port`; they need the token as well.
    origins: Vec<String>,
}

impl WebSocketOptions {
    /// Listens on this port; 0 takes a free one.
    pub fn on_port(port: u16) -> Self {
        Self { port, origins: Vec::new() }
    }

    /// Lets pages of this origin (`scheme://host:port`) connect, if they know the token.
    #[must_use]
    pub fn allow_origin(mut self, origin: impl Into<String>) -> Self {
        self.origins.push(origin.into());
        self
    }
}

/// A listening WebSocket. Dropping it stops answering; [`WebSocketServer::stop`] also ends its
/// connections in good order and removes the token.
pub struct WebSocketServer {
    home: PathBuf,
    address: SocketAddr,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
}

impl WebSocketServer {
    /// The file of a home that holds the token of the running node.
    pub fn token_path(home: &Path) -> PathBuf {
        home.join("control.token")
    }

    /// The file of a home that holds the port of the running node.
    pub fn port_path(home: &Path) -> PathBuf {
        home.join("control.port")
    }

    /// Listens on loopback, and writes token and port into the node's home, readable by its owner.
    ///
    /// # Errors
    /// [`WebSocketError::Listen`], [`WebSocketError::File`].
    pub async fn start(node: Node, options: WebSocketOptions) -> Result<Self, WebSocketError> {
        let asked = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
        let refused = |source| WebSocketError::Listen { address: asked, source };
        let listener = TcpListener::bind(asked).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let mut listeners = vec![listener];
        match TcpListener::bind((Ipv6Addr::LOCALHOST, address.port())).await {
            Ok(listener) => listeners.push(listener),
            Err(error) => debug!(%error, "no WebSocket on ::1"),
        }
        let token = Token::random();
        let home = node.home().to_owned();
        write_private(&Self::token_path(&home), &token.0)?;
        // The port comes last: who reads it finds its token.
        write_private(&Self::port_path(&home), &address.port().to_string())?;
        let gate = Arc::new(Gate { token, port: address.port(), origins: options.origins });
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn(accept(listener, Arc::clone(&gate), node.clone(), cancel.clone()));
        }
        Ok(Self { home, address, cancel, tasks })
    }

    /// Where it listens; ::1 has the same port.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Ends the connections with close code 1001 and removes the token; returns within a few seconds.
    pub async fn stop(mut self) {
        for path in [Self::port_path(&self.home), Self::token_path(&self.home)] {
            if let Err(error) = fs::remove_file(&path) {
                debug!(%error, ?path, "the file was gone already");
            }
        }
        self.cancel.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_WITHIN * 3, all).await.is_err() {
            self.tasks.abort_all();
        }
    }
}

/// What a caller must know: 32 random bytes in hexadecimal.
struct Token(Zeroizing<String>);

impl Token {
    fn random() -> Self {
        let bytes = clock::entropy();
        Self(Zeroizing::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    fn is(&self, text: &str) -> bool {
        self.0.as_bytes().ct_eq(text.as_bytes()).into()
    }
}

/// Who may come in.
struct Gate {
    token: Token,
    port: u16,
    origins: Vec<String>,
}

/// Why somebody may not, in the order it is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Refusal {
    /// The name it was reached by is not this address.
    Host,
    /// A web page that was not allowed.
    Origin,
    /// No token, or a wrong one.
    Token,
}

impl Gate {
    /// Judges a handshake; the answer is the protocol to confirm, if one was offered.
    fn judge(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, Refusal> {
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().trim().to_owned();
        let hosts: Vec<String> = headers.get_all(HOST).iter().map(text).collect();
        if !matches!(hosts.as_slice(), [host] if self.is_own(host)) {
            return Err(Refusal::Host);
        }
        if !headers.get_all(ORIGIN).iter().map(text).all(|origin| self.origins.contains(&origin)) {
            return Err(Refusal::Origin);
        }
        let bearer = headers.get_all(AUTHORIZATION).iter().map(text).any(|value| {
            let (scheme, token) = value.split_once(' ').unwrap_or_default();
            scheme.eq_ignore_ascii_case("bearer") && self.token.is(token.trim())
        });
        let offered: Vec<String> = headers
            .get_all(SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .flat_map(|value| text(value).split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>())
            .collect();
        // A page cannot set headers, only name protocols.
        let named =
            offered.iter().filter_map(|part| part.strip_prefix("token.")).any(|part| self.token.is(part));
        if !bearer && !named {
            return Err(Refusal::Token);
        }
        Ok(offered.iter().any(|part| part == PROTOCOL).then(|| HeaderValue::from_static(PROTOCOL)))
    }

    fn is_own(&self, host: &str) -> bool {
        let Some((name, port)) = host.rsplit_once(':') else { return false };
        port.parse() == Ok(self.port)
            && (name == "127.0.0.1" || name == "[::1]" || name.eq_ignore_ascii_case("localhost"))
    }
}

/// A gate as the library asks it.
struct Admission(Arc<Gate>);

impl Callback for Admission {
    fn on_request(self, request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
        match self.0.judge(request.headers()) {
            Ok(Some(protocol)) => {
                response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
                Ok(response)
            }
            Ok(None) => Ok(response),
            Err(refusal) => {
                warn!(?refusal, "a WebSocket was refused");
                Err(refusal.to_response())
            }
        }
    }
}

impl Refusal {
    fn to_response(self) -> ErrorResponse {
        let (status, text) = match self {
            Self::Host => (StatusCode::FORBIDDEN, "connect to 127.0.0.1, [::1] or localhost by that name\n"),
            Self::Origin => (StatusCode::FORBIDDEN, "pages of this origin may not use this node\n"),
            Self::Token => (
                StatusCode::UNAUTHORIZED,
                "send the token in control.token of the node's home: Authorization: Bearer TOKEN, or \
                 Sec-WebSocket-Protocol: kinfold, token.TOKEN\n",
            ),
        };
        let mut response = ErrorResponse::new(Some(text.to_owned()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
        if self == Self::Token {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

async fn accept(listener: TcpListener, gate: Arc<Gate>, node: Node, cancel: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            // Losing the race leaves the connection in the listener's queue.
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, from)) if from.ip().to_canonical().is_loopback() => {
                    connections.spawn(connection(stream, Arc::clone(&gate), node.clone(), cancel.clone()));
                }
                Ok((_, from)) => warn!(%from, "a WebSocket from elsewhere was refused"),
                Err(error) => {
                    warn!(%error, "a WebSocket could not be accepted");
                    // Out of descriptors: accepting again at once would spin.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            // Only counts down; nothing to lose.
            Some(_) = connections.join_next() => {}
        }
    }
    while connections.join_next().await.is_some() {}
}

type Socket = WebSocketStream<TcpStream>;

async fn connection(stream: TcpStream, gate: Arc<Gate>, node: Node, cancel: CancellationToken) {
    // Answers are small and wait for nothing.
    let _ = stream.set_nodelay(true);
    let shaking = accept_hdr_async_with_config(stream, Admission(gate), Some(limits()));
    let socket = tokio::select! {
        () = cancel.cancelled() => return,
        shaken = tokio::time::timeout(HANDSHAKE_WITHIN, shaking) => match shaken {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => return debug!(%error, "a WebSocket did not begin"),
            Err(_) => return debug!("a WebSocket did not begin in time"),
        },
    };
    let (write, mut read) = socket.split();
    let (session, notices) = Session::new(node);
    let (mut requests, outgoing) = connect(session, notices);
    let mut writing = JoinSet::new();
    writing.spawn(write_messages(write, outgoing));
    let ended = tokio::select! {
        () = cancel.cancelled() => Some(close(CloseCode::Away, "the node stops")),
        // A request cut off here is one whose connection is closing anyway.
        ended = read_messages(&mut read, &mut requests) => ended,
    };
    match &ended {
        Some(frame) if frame.code != CloseCode::Away => requests.finish().await,
        // Nobody is there any more, or nothing is to be waited for.
        Some(_) | None => drop(requests),
    }
    let Ok(Some(Ok(write))) = tokio::time::timeout(STOP_WITHIN, writing.join_next()).await else { return };
    if let Some(frame) = ended {
        let _ = tokio::time::timeout(STOP_WITHIN, part(write, read, frame)).await;
    }
}

/// Reads until the connection is to end: with a reason to tell, or without where nobody is there.
async fn read_messages(read: &mut SplitStream<Socket>, requests: &mut Requests) -> Option<CloseFrame> {
    loop {
        let message = match read.next().await? {
            Ok(Message::Text(text)) if text.len() > REQUEST_BYTES_MAX => {
                Line::TooLong { bytes: text.len() as u64 }
            }
            Ok(Message::Text(text)) => Line::Whole(text.as_bytes().to_vec()),
            Ok(Message::Binary(_)) => {
                return Some(close(CloseCode::Unsupported, "messages are text"));
            }
            // Answered by the library, as it reads on.
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_) | Message::Close(_)) => continue,
            Err(Error::Capacity(CapacityError::MessageTooLong { size, .. })) => {
                requests.take(Line::TooLong { bytes: size as u64 }).await;
                return Some(close(CloseCode::Size, "the message is too long"));
            }
            Err(Error::Utf8(_)) => return Some(close(CloseCode::Invalid, "the text is not UTF-8")),
            Err(Error::Protocol(_)) => return Some(close(CloseCode::Protocol, "that is no WebSocket frame")),
            Err(error) => {
                debug!(%error, "a WebSocket ended");
                return None;
            }
        };
        requests.take(message).await;
    }
}

async fn write_messages(
    mut write: SplitSink<Socket, Message>,
    mut outgoing: Outgoing,
) -> SplitSink<Socket, Message> {
    while let Some(lines) = outgoing.next().await {
        for line in lines.lines() {
            if write.feed(Message::text(line)).await.is_err() {
                return write;
            }
        }
        if write.flush().await.is_err() {
            return write;
        }
    }
    write
}

/// Says why, and reads past what the other side still sends: the system would otherwise throw away
/// what was said.
async fn part(mut write: SplitSink<Socket, Message>, read: SplitStream<Socket>, frame: CloseFrame) {
    if write.send(Message::Close(Some(frame))).await.is_err() {
        return;
    }
    let Ok(socket) = read.reunite(write) else { return };
    let mut stream = socket.into_inner();
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut past = vec![0; READ_BYTES];
    while stream.read(&mut past).await.is_ok_and(|bytes| bytes > 0) {}
}

fn close(code: CloseCode, reason: &'static str) -> CloseFrame {
    CloseFrame { code, reason: reason.into() }
}

fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(READ_BYTES)
}

/// Writes a file that only its owner may read, in place of what was left behind.
fn write_private(path: &Path, text: &str) -> Result<(), WebSocketError> {
    let refused = |source| WebSocketError::File { path: path.to_owned(), source };
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(refused(error)),
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(refused)?;
    file.write_all(text.as_bytes()).map_err(refused)
}

/// The subprotocol that may be named beside the token.
const PROTOCOL: &str = "kinfold";

/// A longer message ends the connection; one of more than [`REQUEST_BYTES_MAX`] is refused and the
/// connection kept.
const MESSAGE_BYTES_MAX: usize = 2 * REQUEST_BYTES_MAX;

/// How long a connection may take to become a WebSocket.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// How long each step of parting may take.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// Between two attempts to accept when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How much is read at once.
const READ_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        let origins = vec!["http://localhost:3000".to_owned()];
        Gate { token: Token(Zeroizing::new("secret".to_owned())), port: 4000, origins }
    }

    fn judge(headers: &[(&str, &str)]) -> Result<Option<HeaderValue>, Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: tokio_tungstenite::tungstenite::http::HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        gate().judge(&map)
    }

    const BEARER: (&str, &str) = ("authorization", "Bearer secret");

    #[test]
    fn a_caller_with_the_token_comes_in_by_every_name_of_loopback() {
        for host in ["127.0.0.1:4000", "[::1]:4000", "localhost:4000", "LocalHost:4000"] {
            assert_eq!(judge(&[("host", host), BEARER]), Ok(None));
        }
        let offered = [("host", "127.0.0.1:4000"), ("sec-websocket-protocol", "kinfold, token.secret")];
        assert_eq!(judge(&offered), Ok(Some(HeaderValue::from_static("kinfold"))));
    }

    #[test]
    fn a_name_that_only_resolves_to_loopback_is_refused() {
        for host in ["evil.example:4000", "127.0.0.1:4001", "127.0.0.1", "localhost.evil.example:4000", ""] {
            assert_eq!(judge(&[("host", host), BEARER]), Err(Refusal::Host), "{host}");
        }
        assert_eq!(judge(&[BEARER]), Err(Refusal::Host));
        let two = [("host", "127.0.0.1:4000"), ("host", "evil.example:4000"), BEARER];
        assert_eq!(judge(&two), Err(Refusal::Host));
    }

    #[test]
    fn a_page_is_refused_even_with_the_token_unless_its_origin_was_allowed() {
        for origin in ["https://evil.example", "null", "http://127.0.0.1:4000", "http://localhost:3001", ""] {
            let page = [("host", "127.0.0.1:4000"), ("origin", origin), BEARER];
            assert_eq!(judge(&page), Err(Refusal::Origin), "{origin}");
        }
        let allowed = ("origin", "http://localhost:3000");
        assert_eq!(judge(&[("host", "127.0.0.1:4000"), allowed, BEARER]), Ok(None));
        assert_eq!(judge(&[("host", "127.0.0.1:4000"), allowed]), Err(Refusal::Token));
    }

    #[test]
    fn a_token_is_right_as_a_whole_or_wrong() {
        for value in ["Bearer", "Bearer ", "Bearer secre", "Bearer secretx", "Basic secret", "secret"] {
            let caller = [("host", "127.0.0.1:4000"), ("authorization", value)];
            assert_eq!(judge(&caller), Err(Refusal::Token), "{value}");
        }
        for value in ["kinfold", "token.", "kinfold, token.secre", "secret", "kinfold.token.secret"] {
            let caller = [("host", "127.0.0.1:4000"), ("sec-websocket-protocol", value)];
            assert_eq!(judge(&caller), Err(Refusal::Token), "{value}");
        }
        assert_ne!(*Token::random().0, *Token::random().0);
        assert_eq!(Token::random().0.len(), 64);
    }

    #[tokio::test]
    async fn a_port_in_use_and_a_home_that_cannot_be_written_are_told() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("home");
        Node::init(&path, "a").unwrap();
        let node = Node::builder(&path).open().await.unwrap();
        let first = WebSocketServer::start(node.clone(), WebSocketOptions::default()).await.unwrap();
        let taken = WebSocketOptions::on_port(first.local_addr().port());

        let refused = WebSocketServer::start(node.clone(), taken).await;
        assert!(matches!(refused, Err(WebSocketError::Listen { .. })));
        first.stop().await;
        fs::create_dir(WebSocketServer::token_path(&path)).unwrap();
        let refused = WebSocketServer::start(node.clone(), WebSocketOptions::default()).await;
        assert!(matches!(refused, Err(WebSocketError::File { .. })));
        node.stop().await.unwrap();
    }
}
