//! The outside of a running node: JSON-RPC 2.0 over the Unix socket `HOME/control.sock` and a
//! WebSocket on loopback.
//!
//! Owns the methods, their data forms, the limits of a connection and the client. Must never keep
//! state of its own about ops: every answer comes from a [`Node`](crate::node::Node). Payloads pass
//! through as text ([`serde_json::value::RawValue`]), so numbers and duplicate keys are judged as
//! they were written. Read [`method`] for the list of methods and [`forms`] for what they answer.

pub mod bundle;
pub mod checkpoint;
#[cfg(unix)]
pub mod client;
pub mod config;
pub mod conflicts;
mod connection;
pub mod conversation;
pub mod convert;
pub mod dispatch;
pub mod dropbox;
pub mod envelope;
pub mod error;
pub mod exporter;
pub mod fence;
pub mod forms;
pub mod gc;
pub mod kinds;
pub mod lease;
pub mod ledger;
pub mod line;
pub mod method;
pub mod openrpc;
pub mod pairing;
pub mod params;
pub mod past;
pub mod policy;
pub mod rebase;
pub mod roster;
#[cfg(unix)]
pub mod server;
pub mod session;
pub mod verify;
pub mod websocket;

#[cfg(unix)]
pub use client::{Client, ClientError};
pub use error::{ControlError, RpcError};
pub use exporter::{Exporter, ExporterError};
pub use line::{Line, LineCutter};
pub use method::Method;
#[cfg(unix)]
pub use server::{Server, SocketError};
pub use session::{Notice, Session};
pub use websocket::{WebSocketError, WebSocketOptions, WebSocketServer};

/// Longest request line in bytes: a thousand ordinary ops, or fifteen of the greatest.
pub const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// Longest answer a client reads: a page of rows is cut at [`PAGE_BYTES`], and one row may be in
/// conflict with hundreds of values of 64 KiB.
pub const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Payload bytes after which a page of rows ends early.
pub const PAGE_BYTES: usize = 512 * 1024;

/// Most rows or events in one page.
pub const PAGE_ITEMS_MAX: usize = 1_000;

/// Most turns in one page of a transcript.
pub const TRANSCRIPT_TURNS_MAX: usize = 10_000;

/// Payload bytes after which a page of a transcript ends early.
pub const TRANSCRIPT_BYTES: usize = 16 * 1024 * 1024;

/// Most ops in one `sync.append_many`.
pub const APPEND_OPS_MAX: usize = 10_000;

/// Requests one connection may have under way; the next one waits in the socket.
pub const CONCURRENT_REQUESTS_MAX: usize = 64;

/// Most connections to one listening socket: programs of one person on one machine.
pub const CONNECTIONS_MAX: usize = 256;

/// Most subscriptions of one connection.
pub const SUBSCRIPTIONS_MAX: usize = 64;

/// Notices that wait for a slow reader. Behind them waits what the node keeps of its last changes; a
/// subscription that falls behind that too ends with `sync.lagged`.
pub const NOTICES_MAX: usize = 256;
