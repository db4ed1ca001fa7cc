//! How many calls a second a node answers: `cargo run --release --example calls`.
//!
//! Over the Unix socket and over the WebSocket, one caller that waits for each answer and one that
//! keeps 64 requests under way.

use std::error::Error;
use std::time::Instant;

use futures_util::{SinkExt, StreamExt};
use kinfold::Node;
use kinfold::control::{CONCURRENT_REQUESTS_MAX, Server, WebSocketOptions, WebSocketServer};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let home = directory.path().join("home");
    Node::init(&home, "bench")?;
    let node = Node::builder(&home).open().await?;
    let server = Server::start(node.clone())?;
    let web = WebSocketServer::start(node.clone(), WebSocketOptions::default()).await?;
    node.personal().put("registry:note", "a", "a short value").await?;
    println!(
        "{:<14}{:>16}{:>16}{:>16}{:>16}",
        "calls/s", "socket, 1", "socket, 64", "websocket, 1", "websocket, 64"
    );
    for (name, request, count) in REQUESTS {
        let mut cells = Vec::new();
        for window in [1, CONCURRENT_REQUESTS_MAX] {
            cells.push(over_socket(&home, request, count, window).await?);
        }
        for window in [1, CONCURRENT_REQUESTS_MAX] {
            cells.push(over_websocket(&home, web.local_addr().port(), request, count, window).await?);
        }
        println!("{name:<14}{}", cells.iter().map(|cell| format!("{cell:>16.0}")).collect::<String>());
    }
    web.stop().await;
    server.stop().await;
    node.stop().await?;
    Ok(())
}

async fn over_socket(
    home: &std::path::Path,
    request: &str,
    count: usize,
    window: usize,
) -> Result<f64, Box<dyn Error>> {
    let (read, mut write) = UnixStream::connect(Server::path(home)).await?.into_split();
    let mut answers = BufReader::new(read).lines();
    let line = format!("{request}\n");
    let began = Instant::now();
    let mut sent = 0;
    for done in 0..count {
        let free = (done + window).min(count) - sent;
        // A window is filled again at once, as a caller does that has a list of things to ask.
        if free > window / 2 || sent == done {
            write.write_all(line.repeat(free).as_bytes()).await?;
            sent += free;
        }
        answers.next_line().await?.ok_or("the node closed the connection")?;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

async fn over_websocket(
    home: &std::path::Path,
    port: u16,
    request: &str,
    count: usize,
    window: usize,
) -> Result<f64, Box<dyn Error>> {
    let token = std::fs::read_to_string(WebSocketServer::token_path(home))?;
    let mut asking = format!("ws://127.0.0.1:{port}").into_client_request()?;
    asking.headers_mut().insert("authorization", format!("Bearer {token}").parse()?);
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (mut socket, _) = tokio_tungstenite::client_async(asking, stream).await?;
    let began = Instant::now();
    let mut sent = 0;
    for done in 0..count {
        let free = (done + window).min(count) - sent;
        if free > window / 2 || sent == done {
            for _ in 0..free {
                socket.feed(Message::text(request)).await?;
            }
            socket.flush().await?;
            sent += free;
        }
        socket.next().await.ok_or("the node closed the connection")??;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

const REQUESTS: [(&str, &str, usize); 3] = [
    ("node.version", r#"{"jsonrpc":"2.0","id":1,"method":"node.version"}"#, 50_000),
    (
        "sync.get",
        r#"{"jsonrpc":"2.0","id":1,"method":"sync.get","params":{"surface":"registry:note","id":"a"}}"#,
        50_000,
    ),
    (
        "sync.append",
        r#"{"jsonrpc":"2.0","id":1,"method":"sync.append","params":{"surface":"registry:note","key":"b","payload":1}}"#,
        5_000,
    ),
];
