//! A bad network between two sockets of one machine: delay, a rate, and loss.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the network does to each direction.
#[derive(Clone, Copy)]
pub struct Path {
    /// How long a packet is on its way.
    pub delay: Duration,
    /// Megabits per second.
    pub rate_mbit: u32,
    /// Packets of a million that are lost.
    pub loss_ppm: u32,
}

/// The network. Dropping it ends it.
pub struct Relay {
    address: SocketAddr,
    is_ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Carries what the first who sends here says to `server`, and back.
    pub fn start(server: SocketAddr, path: Path, seed: u64) -> Self {
        let (front, back) = (socket(), socket());
        back.connect(server).expect("loopback");
        let address = front.local_addr().expect("bound");
        let is_ended = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&is_ended);
        let first = std::thread::spawn(move || {
            let client = loop {
                match front.peek_from(&mut [0; 1]) {
                    Ok((_, client)) => break client,
                    Err(_) if ended.load(Ordering::Relaxed) => return,
                    Err(_) => {}
                }
            };
            front.connect(client).expect("loopback");
            let (front_writer, back_writer) =
                (front.try_clone().expect("a handle"), back.try_clone().expect("a handle"));
            let other = Arc::clone(&ended);
            let there = std::thread::spawn(move || carry(&front, back_writer, path, seed, &other));
            carry(&back, front_writer, path, seed ^ 0xffff, &ended);
            there.join().expect("the relay does not panic");
        });
        Self { address, is_ended, threads: vec![first] }
    }

    /// Where to dial.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.is_ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("the relay does not panic");
        }
    }
}

/// One direction: packets queue for the rate, are dropped where the queue is full, and arrive later.
fn carry(from: &UdpSocket, to: UdpSocket, path: Path, seed: u64, is_ended: &AtomicBool) {
    let (queue, due) = mpsc::channel::<(Instant, Vec<u8>)>();
    let deliver = std::thread::spawn(move || {
        for (at, packet) in due {
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            // The other side may have gone.
            let _ = to.send(&packet);
        }
    });
    let mut state = seed | 1;
    let mut free_at = Instant::now();
    let mut buffer = vec![0; 65_536];
    while !is_ended.load(Ordering::Relaxed) {
        let length = match from.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            // A refusal of an earlier packet.
            Err(_) => continue,
        };
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let now = Instant::now();
        let bits = (length + HEADER_BYTES) as u64 * 8;
        let done_at = free_at.max(now) + Duration::from_nanos(bits * 1_000 / u64::from(path.rate_mbit));
        if done_at - now > QUEUE_MAX || state % 1_000_000 < u64::from(path.loss_ppm) {
            continue;
        }
        free_at = done_at;
        if queue.send((done_at + path.delay, buffer[..length].to_vec())).is_err() {
            break;
        }
    }
    drop(queue);
    deliver.join().expect("the relay does not panic");
}

fn socket() -> UdpSocket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).expect("a socket");
    // The relay must lose only what it means to.
    socket.set_recv_buffer_size(8 * 1024 * 1024).expect("a buffer");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("loopback");
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    socket.into()
}

/// Ethernet, IP and UDP.
const HEADER_BYTES: usize = 46;

/// What an access point holds before it drops.
const QUEUE_MAX: Duration = Duration::from_millis(20);
