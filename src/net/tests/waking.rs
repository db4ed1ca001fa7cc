//! What a node does that slept, or whose network changed.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::UdpSocket;

use super::*;

#[tokio::test]
async fn waking_replaces_what_has_gone_silent_and_leaves_what_answers() {
    let mut a = Node::start(1, &[2, 3]).await;
    let (mut silent, mut alive) = (Node::start(2, &[1]).await, Node::start(3, &[1]).await);
    let cable = Cable::to(silent.address()).await;
    a.net.dial(vec![cable.address], Some(silent.device));
    let (lost, _) = tokio::join!(a.connected(), silent.connected());
    a.dial(&alive);
    let (kept, _) = tokio::join!(a.connected(), alive.connected());

    cable.cut();
    a.net.wake();
    a.until(|event| matches!(event, NetEvent::Woke).then_some(())).await;
    let (conn, reason) = a
        .until(|event| match event {
            NetEvent::Closed { conn, reason, .. } => Some((conn, reason)),
            _ => None,
        })
        .await;

    assert_eq!((conn, reason), (lost.conn(), CloseReason::TimedOut));
    kept.send(Bytes::from_static(b"still here")).expect("the connection is there");
    alive
        .until(|event| {
            matches!(event, NetEvent::Frame { frame, .. } if *frame == *b"still here").then_some(())
        })
        .await;
    cable.mend();
    let (again, _) = tokio::join!(a.connected(), silent.connected());
    assert_eq!(again.device(), silent.device);
}

/// What carries packets between two sockets, until it is cut.
struct Cable {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
}

impl Cable {
    async fn to(server: SocketAddr) -> Self {
        let bind = async || UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
        let (front, back) = (bind().await, bind().await);
        back.connect(server).await.expect("loopback");
        let address = front.local_addr().expect("bound");
        let is_cut = Arc::new(AtomicBool::new(false));
        let carries = {
            let is_cut = Arc::clone(&is_cut);
            move || !is_cut.load(Ordering::Relaxed)
        };
        tokio::spawn(async move {
            let (mut there, mut here) = (vec![0; 65_536], vec![0; 65_536]);
            let mut client = None;
            loop {
                // Losing the race loses nothing: a packet stays in its socket.
                tokio::select! {
                    Ok((length, from)) = front.recv_from(&mut there) => {
                        client = Some(from);
                        if carries() {
                            let _ = back.send(&there[..length]).await;
                        }
                    }
                    Ok(length) = back.recv(&mut here) => if let Some(client) = client && carries() {
                        let _ = front.send_to(&here[..length], client).await;
                    },
                    else => return,
                }
            }
        });
        Self { address, is_cut }
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    fn mend(&self) {
        self.is_cut.store(false, Ordering::Relaxed);
    }
}
