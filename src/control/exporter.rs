//! The figures of a node over HTTP, for Prometheus and its like: `GET /metrics` on loopback.
//!
//! Off unless the settings name an address, which has to be one of this machine's own. Speaks as much
//! HTTP as a scraper does: one request, one answer, and the connection ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::node::{Node, prometheus};

/// Why the figures are not served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExporterError {
    /// The address would be reached from other machines.
    #[error("figures are served on loopback only, and {address} is not")]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be had.
    #[error("figures cannot be served at {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A listening exporter. Dropping it stops it.
pub struct Exporter {
    address: SocketAddr,
    _task: JoinSet<()>,
}

impl Exporter {
    /// Listens at a loopback address; port 0 takes a free one. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Every variant of [`ExporterError`].
    pub async fn start(node: Node, address: SocketAddr) -> Result<Self, ExporterError> {
        if !address.ip().is_loopback() {
            return Err(ExporterError::NotLoopback { address });
        }
        let refused = |source| ExporterError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let mut task = JoinSet::new();
        task.spawn(accept(listener, node));
        Ok(Self { address, _task: task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(listener: TcpListener, node: Node) {
    let mut requests = JoinSet::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
        while requests.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let node = node.clone();
                requests.spawn(async move {
                    match tokio::time::timeout(REQUEST_WITHIN, serve(stream, &node)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => debug!(%error, "a scrape ended early"),
                        Err(_) => debug!("a scrape took too long"),
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                warn!(%error, "a scrape could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(mut stream: TcpStream, node: &Node) -> io::Result<()> {
    let head = read_head(&mut stream).await?;
    let (status, body) = match judge(&head) {
        Ok(()) => match node.metrics().await {
            Ok(metrics) => ("200 OK", prometheus(&metrics)),
            Err(error) => ("503 Service Unavailable", format!("{error}\n")),
        },
        Err(status) => (status, format!("{status}\n")),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// Everything up to the empty line, or up to the limit.
async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(512);
    let mut chunk = [0; 512];
    while head.len() < HEAD_BYTES_MAX && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut chunk).await? {
            0 => break,
            count => head.extend_from_slice(&chunk[..count]),
        }
    }
    Ok(head)
}

/// What the request line and the host ask for; the status of a refusal.
fn judge(head: &[u8]) -> Result<(), &'static str> {
    let head = std::str::from_utf8(head).map_err(|_| "400 Bad Request")?;
    let (head, _) = head.split_once("\r\n\r\n").ok_or("400 Bad Request")?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !words.next().is_some_and(|version| version.starts_with("HTTP/1.")) {
        return Err("400 Bad Request");
    }
    // A page in a browser may point a name of its own at this machine; its host is another then.
    let host = lines.find_map(|line| {
        line.split_once(':')
            .filter(|(name, _)| name.eq_ignore_ascii_case("host"))
            .map(|(_, host)| host.trim())
    });
    if !host.is_none_or(is_this_machine) {
        return Err("403 Forbidden");
    }
    match (method, target.split('?').next()) {
        ("GET", Some("/metrics")) => Ok(()),
        ("GET", _) => Err("404 Not Found"),
        _ => Err("405 Method Not Allowed"),
    }
}

fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((literal, _)) => literal,
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A request of a scraper has a few hundred bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Scrapes at once.
const CONNECTIONS_MAX: usize = 8;

/// How long one may take from its first byte to its last.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// Between two attempts to accept when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_scrape_of_this_machine_is_answered() {
        for (request, expect) in [
            ("GET /metrics HTTP/1.1\r\nHost: localhost:9464\r\n\r\n", Ok(())),
            ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", Ok(())),
            ("GET /metrics HTTP/1.1\r\nhost: [::1]:9\r\n\r\n", Ok(())),
            ("GET /metrics HTTP/1.1\r\nAccept: */*\r\nHost: 127.0.0.1:9\r\n\r\n", Ok(())),
            ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", Err("403 Forbidden")),
            ("GET / HTTP/1.1\r\n\r\n", Err("404 Not Found")),
            ("POST /metrics HTTP/1.1\r\n\r\n", Err("405 Method Not Allowed")),
            ("GET /metrics\r\n\r\n", Err("400 Bad Request")),
            ("GET /metrics HTTP/1.1\r\n", Err("400 Bad Request")),
            ("", Err("400 Bad Request")),
        ] {
            assert_eq!(judge(request.as_bytes()), expect, "{request:?}");
        }
        assert_eq!(judge(b"\xff\xff\r\n\r\n"), Err("400 Bad Request"));
    }

    #[tokio::test]
    async fn an_address_that_others_reach_or_that_is_taken_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().join("home");
        Node::init(&home, "a").unwrap();
        let node = Node::builder(&home).open().await.unwrap();
        let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();

        let everywhere = Exporter::start(node.clone(), "0.0.0.0:0".parse().unwrap()).await;
        let first = Exporter::start(node.clone(), loopback).await.unwrap();
        let second = Exporter::start(node.clone(), first.address()).await;

        assert!(matches!(everywhere, Err(ExporterError::NotLoopback { .. })));
        assert!(matches!(second, Err(ExporterError::Bind { .. })));
        node.stop().await.unwrap();
    }
}
