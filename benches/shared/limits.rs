//! The limits of the machine, measured with the crates kinfold is built of.

use std::fs::File;
use std::hint::black_box;
use std::io::{Seek as _, Write as _};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Key};
use kinfold::crypto::{EpochKey, Identity, Opener, SealInput, Sealer, verify};
use kinfold::model::{Incarnation, LogId, Scope, ScopeTag, Seq, SpaceId, TipHash};
use kinfold::store::Store;
use kinfold::sync::{Txn, TxnId, Write};

/// Prints every limit, one a line.
pub fn print() {
    println!("limits of this machine");
    println!("  ChaCha20-Poly1305, 64 KiB   {:>9.0} MB/s", mega(64 * 1024, aead()));
    println!("  BLAKE3, 64 KiB              {:>9.0} MB/s", mega(64 * 1024, blake3()));
    println!("  zstd level 1, 20 KB of JSON {:>9.0} MB/s", mega(TEXT_BYTES, zstd()));
    let (sign, check) = ed25519();
    println!("  Ed25519 sign / verify       {:>9.1} / {:.1} µs", micros(sign), micros(check));
    println!("  loopback UDP round trip     {:>9.1} µs", micros(udp()));
    println!("  write 4 KiB + fsync         {:>9.0} µs", micros(fsync()));
    let (one, ten) = (store_commit(430), store_commit(10_000));
    println!(
        "  bare store commit           {:>9.0} µs (one 430 B batch), {:.0} µs (one 10 KB batch)",
        micros(one),
        micros(ten)
    );
}

/// One durable commit of the bare store: one batch of about `bytes`.
pub fn store_commit(bytes: usize) -> Duration {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = Store::open(dir.path(), &[1; 32]).expect("a fresh store");
    let identity = Identity::from_secret(&[7; 32]);
    let key = EpochKey::from_bytes([9; 32]);
    let space = SpaceId::from_bytes([3; 32]);
    let log = LogId { device: identity.device(), incarnation: Incarnation::new(1) };
    let begin = Write::Space {
        space,
        scope: Scope::Personal,
        own_log: log,
        is_active: true,
        carried: Seq::ZERO,
        dropped: 0,
    };
    store.commit(&[Txn { id: TxnId::new(1), writes: vec![begin] }]).expect("durable");
    let mut sealer = Sealer::new(&identity);
    let mut prev = TipHash::NONE;
    let mut times = Vec::new();
    for index in 1..=200u64 {
        let body: Vec<u8> = (0..bytes.saturating_sub(278) as u64)
            .map(|at| blake3::hash(&(index * 1_000_003 + at).to_be_bytes()).as_bytes()[0])
            .collect();
        let input = SealInput {
            scope: space.tag(),
            log,
            first: Seq::new(index),
            op_count: 1,
            roster_gen: 1,
            prev,
            body: &body,
            entropy: *blake3::hash(&index.to_be_bytes()).as_bytes(),
        };
        let batch = sealer.seal(&identity, &key, &input);
        prev = batch.link();
        let txn = Txn {
            id: TxnId::new(index + 1),
            writes: vec![Write::Batches { space, log, batches: vec![batch] }],
        };
        let begun = Instant::now();
        store.commit(std::slice::from_ref(&txn)).expect("durable");
        times.push(begun.elapsed());
    }
    middle(times)
}

fn aead() -> Duration {
    let cipher = ChaCha20Poly1305::new(&Key::from([7; 32]));
    let mut buffer = vec![0u8; 64 * 1024];
    repeat(300, || {
        let buffer = InOutBuf::from(&mut buffer[..]);
        black_box(cipher.encrypt_inout_detached(&[0; 12].into(), b"", buffer).expect("below the limit"));
    })
}

fn blake3() -> Duration {
    let buffer = vec![0u8; 64 * 1024];
    repeat(300, || {
        black_box(blake3::hash(black_box(&buffer)));
    })
}

/// Sealing with and without the rest of a batch differs by less than a tenth, so the whole is timed.
fn zstd() -> Duration {
    let identity = Identity::from_secret(&[7; 32]);
    let key = EpochKey::from_bytes([9; 32]);
    let words = ["amber", "basket", "candle", "distant", "early", "fabric", "garden", "harbor"];
    let mut text = String::new();
    let mut state = 1u64;
    while text.len() < TEXT_BYTES {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.push_str(words[(state >> 61) as usize]);
        text.push_str(&(state >> 44).to_string());
    }
    let mut sealer = Sealer::new(&identity);
    let input = SealInput {
        scope: ScopeTag::from_bytes([1; 16]),
        log: LogId { device: identity.device(), incarnation: Incarnation::new(1) },
        first: Seq::new(1),
        op_count: 1,
        roster_gen: 1,
        prev: TipHash::NONE,
        body: text.as_bytes(),
        entropy: [5; 32],
    };
    let batch = sealer.seal(&identity, &key, &input);
    let mut opener = Opener::new();
    assert!(opener.open(&key, &batch).is_ok());
    repeat(100, || {
        black_box(sealer.seal(&identity, &key, &input));
    })
}

fn ed25519() -> (Duration, Duration) {
    let identity = Identity::from_secret(&[7; 32]);
    let message = [1u8; 32];
    let signature = identity.sign(&message);
    let device = identity.device();
    (
        repeat(500, || {
            black_box(identity.sign(black_box(&message)));
        }),
        repeat(500, || assert!(verify(&device, black_box(&message), &signature).is_ok())),
    )
}

fn udp() -> Duration {
    let (a, b) = (
        UdpSocket::bind("127.0.0.1:0").expect("a socket"),
        UdpSocket::bind("127.0.0.1:0").expect("a socket"),
    );
    a.connect(b.local_addr().expect("bound")).expect("connected");
    b.connect(a.local_addr().expect("bound")).expect("connected");
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while b.recv(&mut buffer).is_ok_and(|bytes| bytes > 1) {
            b.send(&buffer[..32]).expect("sent");
        }
    });
    let mut buffer = [0; 64];
    let took = repeat(2_000, || {
        a.send(&[0; 32]).expect("sent");
        a.recv(&mut buffer).expect("received");
    });
    a.send(&[0]).expect("sent");
    echo.join().expect("ends");
    took
}

fn fsync() -> Duration {
    let dir = tempfile::tempdir().expect("a directory");
    let mut file = File::create(dir.path().join("file")).expect("a file");
    let times = (0..100)
        .map(|_| {
            let begun = Instant::now();
            file.rewind().expect("rewound");
            file.write_all(&[7; 4_096]).expect("written");
            file.sync_all().expect("synced");
            begun.elapsed()
        })
        .collect();
    middle(times)
}

fn repeat(count: u32, mut run: impl FnMut()) -> Duration {
    (0..10).for_each(|_| run());
    let rounds = (0..5)
        .map(|_| {
            let begun = Instant::now();
            (0..count / 5).for_each(|_| run());
            begun.elapsed() / (count / 5)
        })
        .collect();
    middle(rounds)
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn mega(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64() / 1e6
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

const TEXT_BYTES: usize = 20_000;
