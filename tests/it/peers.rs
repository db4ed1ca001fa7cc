//! A member that breaks the rules: what it sends is refused by name or kept unseen, and the others go on.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use kinfold::crypto::{EpochKey, Identity, SealInput, SealedBatch, Sealer};
use kinfold::model::{Blame, DeviceId, Hlc, Incarnation, LogId, ScopeTag, Seq, SpaceId, Tip, TipHash, Wall};
use kinfold::net::{BatchSource, Link, LinkError, Mdns, Net, NetConfig, NetEvent, Pins, Run, SourceError};
use kinfold::node::{Custody, HealthReason, Node, Status};
use kinfold::roster::{Role, Roster};
use kinfold::wire::{BodyWriter, Hello, Message, SpaceHello};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::pair::{Device, PATIENCE, device, introduce, note, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_breaks_the_protocol_is_cut_off_by_name_and_the_others_go_on() {
    let world = World::new().await;

    // Before its greeting.
    world.refused("a message before the greeting", |raw| raw.say(&Message::Ping { nonce: 1 })).await;
    world.refused("speaks protocol version 9", |raw| raw.say(&hello(9, Vec::new()))).await;
    world.refused("does not decode", |raw| raw.frame(&[0, 1, 0xff, 0xff, 0xff])).await;
    world.refused("too short", |raw| raw.frame(&[7])).await;
    // As a member like any other, until then.
    world.cut_off("does not decode", |rogue| rogue.raw.frame(&[0, 4, 1, 2, 3])).await;
    world
        .cut_off("not shared with this peer", |rogue| {
            rogue.raw.say(&Message::Frontier {
                scope: ScopeTag::from_bytes([9; 16]),
                entries: Vec::new(),
                is_full: true,
            });
        })
        .await;
    world.cut_off("begins no batch", |rogue| rogue.raw.batch(b"HTTP/1.1 200 OK".as_slice())).await;
    world
        .cut_off("4294967573 bytes exceeds the limit of 262144", |rogue| {
            let batch = rogue.forge(|bytes| bytes[130..134].copy_from_slice(&u32::MAX.to_be_bytes()));
            rogue.raw.batch(batch);
        })
        .await;
    world.cut_off("cipher suite 9", |rogue| rogue.raw.batch(rogue.forge(|bytes| bytes[4] = 9))).await;
    world
        .cut_off("not signed by it", |rogue| {
            rogue.raw.batch(rogue.forge(|bytes| *bytes.last_mut().expect("not empty") ^= 1));
        })
        .await;
    world
        .cut_off("not shared with this peer", |rogue| rogue.raw.batch(rogue.forge(|bytes| bytes[6] ^= 1)))
        .await;
    world
        .cut_off("not signed by it", |rogue| {
            // In the name of the device it is sent to: that one must not doubt its own past for it.
            let log = rogue.victim_log;
            let mut forged =
                rogue.seal(log, Seq::new(1_000), TipHash::NONE, &one_op(2, b""), 1).bytes().to_vec();
            forged[200] ^= 1;
            rogue.raw.batch(forged);
        })
        .await;

    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_writes_wrongly_is_contained_in_its_own_log() {
    let world = World::new().await;
    let mut rogue = world.join().await;

    // Kept, counted, and shown nowhere.
    let too_long = format!("\"{}\"", "x".repeat(64 * 1024 - 1));
    let body = bincode::encode_to_vec(("skill", "long", &*too_long), bincode::config::standard()).unwrap();
    rogue.write(1, &one_op(3, &body), 1);
    until_status(&world.victim, |status| status.malformed_count == 1).await;
    rogue.write(2, &one_op(999, b"from the future"), 1);
    let unknown = |status: &Status| status.health.contains(&HealthReason::UnknownOps { count: 1 });
    until_status(&world.victim, unknown).await;
    until_status(&world.honest, |status| status.malformed_count == 1 && unknown(status)).await;
    assert!(world.victim.personal().get(&"skill".parse().unwrap(), "long").unwrap().is_none());

    // Not taken: each ends its own log where it stands.
    let blocked = |count: usize| {
        move |status: &Status| {
            let is_blocked = |reason: &&HealthReason| matches!(reason, HealthReason::LogBlocked { .. });
            status.health.iter().filter(is_blocked).count() == count
        }
    };
    rogue.write(3, b"no body at all", 1);
    until_status(&world.victim, blocked(1)).await;
    rogue.write(4, &vec![0; 64 * 1024 * 1024], 1);
    until_status(&world.victim, blocked(2)).await;
    let uncommitted = rogue.resigned(rogue.log(5), |bytes| bytes[170] ^= 1);
    rogue.raw.batch(uncommitted);
    until_status(&world.victim, blocked(3)).await;

    // Not even looked at.
    let beyond = rogue.seal(rogue.log(7), Seq::new(9), TipHash::NONE, &one_op(2, b""), 1);
    rogue.raw.batch(beyond.bytes().repeat(100));
    rogue.raw.batch(beyond.bytes().clone());
    rogue.raw.frame(&[0xff, 0xff, 1, 2, 3]);
    rogue.raw.batch(rogue.stranger().bytes().clone());
    rogue.raw.batch(rogue.seal(rogue.log(6), Seq::new(1), LINK, &one_op(2, b""), 1).bytes().clone());
    rogue.is_answered().await;
    let held: BTreeSet<LogId> =
        world.victim.status().await.unwrap().frontier.iter().map(|(l, _)| *l).collect();
    let of_rogue = held.iter().filter(|log| log.device == rogue.identity.device());
    assert_eq!(of_rogue.map(|log| log.incarnation.get()).collect::<Vec<_>>(), [1, 2]);
    assert!(held.iter().all(|log| log.device != Identity::from_secret(&STRANGER).device()));

    rogue.raw.stop().await;
    world.goes_on().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_writes_two_histories_is_proved_to_everybody() {
    let world = World::new().await;
    let mut rogue = world.join().await;
    let log = rogue.log(1);
    let forked = |status: &Status, device| status.health.contains(&HealthReason::Fork { device });
    let device = rogue.identity.device();

    let first = rogue.seal(log, Seq::new(1), TipHash::NONE, &one_op(2, b"one"), 1);
    let other = rogue.seal(log, Seq::new(1), TipHash::NONE, &one_op(2, b"other"), 1);
    rogue.raw.batch([&first.bytes()[..], &other.bytes()[..]].concat());

    until_status(&world.victim, |status| forked(status, device)).await;
    until_status(&world.honest, |status| forked(status, device)).await;
    rogue.is_answered().await;
    rogue.raw.stop().await;
    world.goes_on().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_claims_this_device_wrote_more_without_showing_it_changes_nothing() {
    let world = World::new().await;
    let mut rogue = world.join().await;

    let echo = vec![(rogue.victim_log, Tip { seq: Seq::new(1 << 40), hash: LINK })];
    rogue.raw.say(&hello(1, vec![SpaceHello { echo, ..rogue.space_hello.clone() }]));
    rogue.is_answered().await;

    world.goes_on().await;
    let status = world.victim.status().await.unwrap();
    assert_eq!(status.frontier.iter().filter(|(log, _)| log.device == status.device).count(), 1);
    rogue.raw.stop().await;
    world.stop().await;
}

/// Two honest nodes in one space, with a third member that is not.
pub struct World {
    pub victim: Node,
    pub honest: Node,
    pub secret: [u8; 32],
    _homes: [Device; 2],
}

impl World {
    pub async fn new() -> Self {
        let (a, b) = (device("a").await, device("b").await);
        introduce(&a.node, &b.node).await;
        let (victim, honest) = (a.node.clone(), b.node.clone());
        timeout(PATIENCE, victim.wait_all(Custody::on(1))).await.unwrap().unwrap();
        let secret = [7; 32];
        let rogue = Identity::from_secret(&secret).device();
        victim.personal().enrol(rogue, "rogue", Role::Member).await.unwrap();
        let world = Self { victim, honest, secret, _homes: [a, b] };
        world.goes_on().await;
        until_status(&world.honest, |status| status.devices.len() == 3).await;
        world
    }

    /// Connects as the bad member without greeting.
    pub async fn connect(&self) -> Raw {
        let identity = Arc::new(Identity::from_secret(&self.secret));
        Raw::connect(identity, self.victim.device(), self.victim.local_addr().unwrap()).await
    }

    /// Connects as the bad member and behaves, until the space's key has been granted.
    pub async fn join(&self) -> Rogue {
        let own_log = |status: Status| {
            status.frontier.iter().map(|(log, _)| *log).find(|log| log.device == status.device)
        };
        let victim_log = own_log(self.victim.status().await.unwrap()).expect("it has written");
        Rogue::join(self.connect().await, Identity::from_secret(&self.secret), victim_log).await
    }

    /// Does something before the greeting and expects to be cut off for it.
    pub async fn refused(&self, why: &str, act: impl FnOnce(&Raw)) {
        let mut raw = self.connect().await;
        act(&raw);
        raw.closed().await;
        self.blames(why).await;
        raw.stop().await;
    }

    /// Does something as a member in good standing and expects to be cut off for it.
    pub async fn cut_off(&self, why: &str, act: impl FnOnce(&Rogue)) {
        let mut rogue = self.join().await;
        act(&rogue);
        rogue.raw.closed().await;
        self.blames(why).await;
        rogue.raw.stop().await;
    }

    pub async fn blames(&self, why: &str) {
        let rogue = Identity::from_secret(&self.secret).device();
        let is_blamed = |status: &Status| {
            let found = status.devices.iter().find(|device| device.device == rogue);
            let refusal = found.and_then(|device| device.last_refusal.clone());
            refusal.is_some_and(|refusal| refusal.blame == Blame::Peer && refusal.why.contains(why))
        };
        let status = timeout(PATIENCE, until_status(&self.victim, is_blamed)).await;
        if status.is_err() {
            panic!("{why:?}: {:#?}", self.victim.status().await.unwrap().devices);
        }
        self.goes_on().await;
    }

    /// What one honest node writes is on the other, and both show the same.
    pub async fn goes_on(&self) {
        for (from, to) in [(&self.victim, &self.honest), (&self.honest, &self.victim)] {
            let op = from.personal().put("registry:note", "still here", json!(1)).await.unwrap();
            let at = to.personal();
            until(to, || at.get(&note(), "still here").unwrap().filter(|row| row.shown.dot == op.dot)).await;
        }
    }

    pub async fn stop(self) {
        assert_eq!(self.victim.personal().root(), self.honest.personal().root());
        self.victim.stop().await.unwrap();
        self.honest.stop().await.unwrap();
    }
}

/// A connection that says whatever it is told to.
pub struct Raw {
    pub net: Net,
    pub link: Link,
    pub events: mpsc::Receiver<NetEvent>,
}

impl Raw {
    pub async fn connect(identity: Arc<Identity>, victim: DeviceId, address: SocketAddr) -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = NetConfig { listen, mdns: Mdns::Off, ..NetConfig::default() };
        let (sender, mut events) = mpsc::channel(1_024);
        let pins = Pins::new([victim].into());
        let net = Net::start(identity, config, pins, Arc::new(NoBatches), sender).await.unwrap();
        net.dial(vec![address], Some(victim));
        let link = timeout(PATIENCE, async {
            loop {
                if let NetEvent::Opened { link, .. } = events.recv().await.expect("the net runs") {
                    return link;
                }
            }
        });
        let link = link.await.expect("the victim listens");
        Self { net, link, events }
    }

    pub fn say(&self, message: &Message) {
        self.frame(&message.encode().unwrap());
    }

    pub fn frame(&self, bytes: &[u8]) {
        self.link.send(Bytes::copy_from_slice(bytes)).unwrap();
    }

    /// Sends bytes on the batch stream; what finds the queue full or closed is not sent.
    pub fn batch(&self, bytes: impl Into<Bytes>) {
        match self.link.send_live(bytes.into()) {
            Ok(()) | Err(LinkError::Full | LinkError::Ended) => {}
            Err(error) => panic!("{error}"),
        }
    }

    pub async fn next(&mut self) -> NetEvent {
        timeout(PATIENCE, self.events.recv()).await.expect("in time").expect("the net runs")
    }

    /// The next message of this kind.
    pub async fn heard<T>(&mut self, pick: impl Fn(Message) -> Option<T>) -> T {
        loop {
            match self.next().await {
                NetEvent::Frame { frame, .. } => {
                    if let Some(found) = Message::decode(&frame).ok().and_then(&pick) {
                        return found;
                    }
                }
                NetEvent::Closed { reason, .. } => panic!("closed: {reason}"),
                _ => {}
            }
        }
    }

    pub async fn closed(&mut self) {
        while !matches!(self.next().await, NetEvent::Closed { .. }) {}
    }

    pub async fn stop(self) {
        drop((self.link, self.events));
        self.net.stop().await;
    }
}

/// A member that has everything it needs to write.
pub struct Rogue {
    pub raw: Raw,
    pub identity: Identity,
    pub victim_log: LogId,
    pub space_hello: SpaceHello,
    pub key: EpochKey,
}

impl Rogue {
    pub async fn join(mut raw: Raw, identity: Identity, victim_log: LogId) -> Self {
        raw.say(&hello(1, Vec::new()));
        let theirs = raw
            .heard(|message| match message {
                Message::Hello(hello) => hello.spaces.into_iter().next(),
                _ => None,
            })
            .await;
        let space_hello = SpaceHello { echo: Vec::new(), ..theirs };
        let (scope, space) = (space_hello.scope, space_hello.space);
        raw.say(&hello(1, vec![space_hello.clone()]));
        raw.say(&Message::RosterHave { scope, hashes: Vec::new() });
        let key_id = raw
            .heard(|message| match message {
                Message::Records { records, .. } => Some(Roster::load(space, records).ok()?.genesis_key_id()),
                _ => None,
            })
            .await;
        raw.say(&Message::KeyRequest { scope, key_id });
        let key = raw
            .heard(|message| match message {
                Message::KeyGrant { key, .. } => Some(key),
                _ => None,
            })
            .await;
        Self { raw, identity, victim_log, space_hello, key }
    }

    /// One of its own logs.
    pub fn log(&self, number: u64) -> LogId {
        LogId { device: self.identity.device(), incarnation: Incarnation::new(number) }
    }

    pub fn seal(&self, log: LogId, first: Seq, prev: TipHash, body: &[u8], op_count: u32) -> SealedBatch {
        sealed(&self.identity, &self.key, &self.space_hello.space, log, first, prev, body, op_count)
    }

    /// Sends a log of one batch.
    pub fn write(&mut self, log: u64, body: &[u8], op_count: u32) {
        let batch = self.seal(self.log(log), Seq::new(1), TipHash::NONE, body, op_count);
        self.raw.batch(batch.bytes().clone());
    }

    /// A batch that was whole until `spoil`.
    pub fn forge(&self, spoil: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let log = self.log(30);
        let mut bytes = self.seal(log, Seq::new(1), TipHash::NONE, &one_op(2, b""), 1).bytes().to_vec();
        spoil(&mut bytes);
        bytes
    }

    /// A batch that was whole until `spoil`, signed after it.
    pub fn resigned(&self, log: LogId, spoil: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut bytes = self.seal(log, Seq::new(1), TipHash::NONE, &one_op(2, b""), 1).bytes().to_vec();
        spoil(&mut bytes);
        let signature_at = bytes.len() - 64;
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"kinfold sig v1").update(&bytes[..198]);
        hasher.update(blake3::hash(&bytes[198..signature_at]).as_bytes());
        let signature = self.identity.sign(hasher.finalize().as_bytes());
        bytes[signature_at..].copy_from_slice(&signature);
        bytes
    }

    /// A batch of a device that nobody has added.
    pub fn stranger(&self) -> SealedBatch {
        let identity = Identity::from_secret(&STRANGER);
        let log = LogId { device: identity.device(), incarnation: Incarnation::new(1) };
        let space = &self.space_hello.space;
        sealed(&identity, &self.key, space, log, Seq::new(1), TipHash::NONE, &one_op(2, b""), 1)
    }

    /// Whether the connection is still served.
    pub async fn is_answered(&mut self) {
        self.raw.say(&Message::Ping { nonce: 77 });
        self.raw.heard(|message| matches!(message, Message::Pong { nonce: 77 }).then_some(())).await;
    }
}

#[expect(clippy::too_many_arguments, reason = "the parts of a batch")]
pub fn sealed(
    identity: &Identity,
    key: &EpochKey,
    space: &SpaceId,
    log: LogId,
    first: Seq,
    prev: TipHash,
    body: &[u8],
    op_count: u32,
) -> SealedBatch {
    let entropy = [3; 32];
    let input = SealInput { scope: space.tag(), log, first, op_count, roster_gen: 1, prev, body, entropy };
    Sealer::new(identity).seal(identity, key, &input)
}

/// The body of a batch with one op of this kind.
pub fn one_op(kind: u16, bytes: &[u8]) -> Vec<u8> {
    let mut writer = BodyWriter::new();
    writer.push(Hlc::at(Wall::from_millis(1_600_000_000_000)), kind, 0, bytes);
    writer.finish().0
}

pub fn hello(version: u16, spaces: Vec<SpaceHello>) -> Message {
    let store_instance = [5; 16];
    Message::Hello(Hello { version, features: 0, store_instance, wall: Wall::from_millis(0), spaces })
}

pub struct NoBatches;

impl BatchSource for NoBatches {
    fn run(&self, _: &SpaceId, _: &LogId, _: Seq, _: Seq, _: usize) -> Result<Option<Run>, SourceError> {
        Ok(None)
    }
}

pub async fn until_status(node: &Node, check: impl Fn(&Status) -> bool) -> Status {
    let mut version = node.version();
    let wait = async {
        loop {
            version.mark_unchanged();
            let status = node.status().await.unwrap();
            if check(&status) {
                return status;
            }
            version.changed().await.unwrap();
        }
    };
    timeout(PATIENCE, wait).await.expect("in time")
}

pub const LINK: TipHash = TipHash::from_bytes([1; 32]);

pub const STRANGER: [u8; 32] = [99; 32];
