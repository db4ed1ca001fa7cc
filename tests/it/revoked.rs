//! A device that was removed, and a member that would like to be more than it is.
//!
//! The attackers are real: they hold an identity and a key, speak the protocol over their own
//! connections, and send what no honest node would.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kinfold::crypto::beacon::Quarter;
use kinfold::crypto::{EpochKey, Identity, SealedBatch};
use kinfold::model::limits::CUT_LOGS_MAX;
use kinfold::model::{DeviceId, Incarnation, KeyId, LogId, RecordHash, Seq, SpaceId, Tip, TipHash};
use kinfold::net::{DialError, Mdns, Net, NetConfig, NetEvent, Pins};
use kinfold::node::{Node, Status};
use kinfold::roster::{Role, Roster};
use kinfold::wire::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::clones::{Home, close, meet, until_all};
use crate::pair::{PATIENCE, invite, until};
use crate::peers::{LINK, NoBatches, Raw, Rogue, World, hello, one_op, until_status};

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_device_is_cut_off_at_once_and_refused_ever_after() {
    let world = World::new().await;
    let mut rogue = world.join().await;
    let removed = rogue.identity.device();
    rogue.write(1, &knowledge("before"), 1);
    until_known(&world.honest, "before").await;

    let victim = world.victim.clone();
    let revoking = tokio::spawn(async move { victim.personal().revoke(removed).await });
    timeout(CLOSED_WITHIN, rogue.raw.closed()).await.expect("it is cut off within a second");

    let revoked = revoking.await.unwrap().unwrap();
    assert_eq!((revoked.closed_count, revoked.op_count, revoked.is_rekeyed), (1, 1, true));
    until_status(&world.honest, |status| is_gone(status, removed)).await;
    for node in [&world.victim, &world.honest] {
        assert!(is_refused(&world.secret, node).await);
        assert!(is_known(node, "before"));
    }
    rogue.raw.stop().await;
    world.goes_on().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_removed_device_tells_those_who_have_not_heard_is_dropped_when_they_do() {
    let (a, b) = (Home::init("a"), Home::init("b"));
    let (at_a, at_b) = (a.open().await, b.open().await);
    invite(&at_a, &at_b, "b", Role::Admin).await;
    let (secret, removed) = ([7; 32], Identity::from_secret(&[7; 32]).device());
    at_a.personal().enrol(removed, "rogue", Role::Member).await.unwrap();
    at_a.personal().put("registry:note", "n", 1).await.unwrap();
    meet(&at_b, &at_a).await;
    let mut rogue = join(&at_a, &secret).await;
    let kept = rogue.seal(rogue.log(1), Seq::new(1), TipHash::NONE, &knowledge("kept"), 1);
    rogue.raw.batch(kept.bytes().clone());
    until_known(&at_a, "kept").await;
    until_known(&at_b, "kept").await;

    // One of the two is away while it is removed.
    close(at_b).await;
    at_a.personal().revoke(removed).await.unwrap();
    rogue.raw.closed().await;
    rogue.raw.stop().await;
    close(at_a).await;

    // There it goes on: in its log, in a new one, and with stamps of years ago.
    let at_b = b.open().await;
    let mut rogue = join(&at_b, &secret).await;
    let late = rogue.seal(rogue.log(1), Seq::new(2), kept.link(), &knowledge("late"), 1);
    rogue.raw.batch(late.bytes().clone());
    rogue.write(2, &knowledge("late, in another log"), 1);
    until_known(&at_b, "late").await;
    until_known(&at_b, "late, in another log").await;

    let at_a = a.open().await;
    at_b.add_peer(at_a.local_addr().unwrap().to_string()).await.unwrap();
    rogue.raw.closed().await;
    let nodes = [&at_a, &at_b];
    let are_equal = async || {
        let stands = |status: &Status| {
            let of_rogue =
                |(log, seq): &(LogId, u64)| (log.device == removed).then_some((log.incarnation.get(), *seq));
            status.frontier.iter().filter_map(of_rogue).collect::<Vec<_>>() == [(1, 1)]
        };
        let is_clean = |node: &Node| {
            is_known(node, "kept") && !is_known(node, "late") && !is_known(node, "late, in another log")
        };
        nodes.iter().all(|node| is_clean(node))
            && stands(&at_a.status().await.unwrap())
            && stands(&at_b.status().await.unwrap())
            && at_a.personal().root() == at_b.personal().root()
    };
    timeout(PATIENCE, until_all(&nodes, are_equal)).await.expect("what came late is dropped everywhere");

    for node in nodes {
        assert!(is_refused(&secret, node).await);
    }
    rogue.raw.stop().await;
    close(at_a).await;
    close(at_b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accomplice_cannot_bring_a_removed_device_back_nor_pass_on_what_it_wrote() {
    let world = World::new().await;
    let rogue = world.join().await;
    let removed = rogue.identity.device();
    let kept = rogue.seal(rogue.log(1), Seq::new(1), TipHash::NONE, &knowledge("kept"), 1);
    rogue.raw.batch(kept.bytes().clone());
    until_known(&world.honest, "kept").await;
    let old_records = records(&world.victim).await;
    let accomplice = [8; 32];
    let device = Identity::from_secret(&accomplice).device();
    world.victim.personal().enrol(device, "accomplice", Role::Member).await.unwrap();
    world.victim.personal().revoke(removed).await.unwrap();

    let mut other = join(&world.victim, &accomplice).await;
    let scope = other.space_hello.scope;
    other.raw.say(&Message::Records { scope, records: old_records.clone() });
    let space = other.space_hello.space;
    let parents = heads(space, &old_records);
    // Signed by the removed device as if it had not heard, and as the admin it would like to be.
    let back = record(&rogue.identity, space, &parents, ACTIVE, removed.as_bytes());
    other.raw.say(&Message::Records { scope, records: vec![back] });
    let next = rogue.seal(rogue.log(1), Seq::new(2), kept.link(), &knowledge("late"), 1);
    let fresh = rogue.seal(rogue.log(2), Seq::new(1), TipHash::NONE, &knowledge("late"), 1);
    let instead = rogue.seal(rogue.log(1), Seq::new(1), TipHash::NONE, &knowledge("late"), 1);
    for batch in [&next, &fresh, &instead] {
        other.raw.batch(batch.bytes().clone());
    }
    other.is_answered().await;

    world.goes_on().await;
    for node in [&world.victim, &world.honest] {
        assert!(is_gone(&node.status().await.unwrap(), removed));
        assert!(is_known(node, "kept") && !is_known(node, "late"));
        assert!(is_refused(&world.secret, node).await);
    }
    rogue.raw.stop().await;
    other.raw.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_device_holds_no_key_that_tells_the_beacons_of_the_next_epoch() {
    let world = World::new().await;
    let rogue = world.join().await;
    let removed = rogue.identity.device();
    let held = keys(&world.victim).await;
    assert_eq!(held, std::slice::from_ref(&rogue.key), "until then there is one epoch");

    world.victim.personal().revoke(removed).await.unwrap();

    let next: Vec<EpochKey> = keys(&world.victim).await.into_iter().filter(|key| *key != rogue.key).collect();
    let [next] = &next[..] else { panic!("one new epoch: {next:?}") };
    let quarter = Quarter::of_unix_seconds(1_800_000_000);
    for member in [world.victim.device(), world.honest.device(), removed] {
        let announced = next.beacon().tag(&member, quarter);
        // Whatever it can compute, for any quarter a receiver would accept.
        assert!(
            quarter.around().iter().all(|quarter| rogue.key.beacon().tag(&member, *quarter) != announced)
        );
    }
    rogue.raw.stop().await;
    world.goes_on().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_no_admin_changes_nothing_of_the_roster_whatever_it_signs() {
    let world = World::new().await;
    let mut rogue = world.join().await;
    let (scope, space) = (rogue.space_hello.scope, rogue.space_hello.space);
    let before = members(&world.victim.status().await.unwrap());
    let parents = heads(space, &records(&world.victim).await);
    let stranger = Identity::from_secret(&[99; 32]).device();
    let signed = |kind: u16, body: &[u8]| record(&rogue.identity, space, &parents, kind, body);
    let name = [rogue.key.id().as_bytes().as_slice(), &40u16.to_be_bytes(), &[1; 40]].concat();
    let add = |device: &DeviceId, role: u8| [device.as_bytes().as_slice(), &[role], &name].concat();
    let remove = |device: DeviceId| [device.as_bytes().as_slice(), &0u16.to_be_bytes()].concat();
    let rotate = [1u64.to_be_bytes().as_slice(), &[9; 16], &0u16.to_be_bytes()].concat();

    let records = vec![
        signed(REMOVE_DEVICE, &remove(world.victim.device())),
        signed(REMOVE_DEVICE, &remove(world.honest.device())),
        signed(ADD_DEVICE, &add(&stranger, 1)),
        signed(ADD_DEVICE, &add(&rogue.identity.device(), 1)),
        signed(RENAME, &[world.victim.device().as_bytes().as_slice(), &name].concat()),
        signed(DORMANT, world.victim.device().as_bytes()),
        signed(ROTATE_KEY, &rotate),
    ];
    rogue.raw.say(&Message::Records { scope, records });
    rogue.is_answered().await;

    world.goes_on().await;
    for node in [&world.victim, &world.honest] {
        assert_eq!(members(&node.status().await.unwrap()), before);
    }
    assert_eq!(keys(&world.victim).await, [rogue.key.clone()]);
    rogue.raw.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_rotations_are_taken_from_whom_they_may_come() {
    let world = World::new().await;
    let mut rogue = world.join().await;
    let (scope, space) = (rogue.space_hello.scope, rogue.space_hello.space);
    let parents = heads(space, &records(&world.victim).await);
    let own = EpochKey::from_bytes([66; 32]);

    rogue.raw.say(&Message::KeyGrant { scope, key: own.clone() });
    rogue.raw.say(&Message::RotatePropose { scope, n: 1, key: own.clone(), parents });
    rogue.raw.say(&Message::RotateConfirm { scope, key_id: own.id(), signature: Box::new([1; 64]) });
    rogue.raw.say(&Message::Delegate { scope, digest: rogue.space_hello.roster_digest });
    let unknown = KeyId::from_bytes([5; 16]);
    rogue.raw.say(&Message::KeyRequest { scope, key_id: unknown });
    let refused = rogue
        .raw
        .heard(|message| match message {
            Message::KeyRefused { key_id, .. } => Some(key_id),
            Message::RotateConfirm { .. } | Message::KeyGrant { .. } => panic!("{message:?}"),
            _ => None,
        })
        .await;
    assert_eq!(refused, unknown);
    rogue.is_answered().await;

    world.goes_on().await;
    for node in [&world.victim, &world.honest] {
        assert_eq!(keys(node).await, [rogue.key.clone()], "no key but the first, in nobody's hands");
    }
    rogue.raw.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_leaves_hands_the_rotation_over_and_gets_a_receipt() {
    let world = World::new().await;
    let mut rogue = world.join().await;
    let (scope, space, leaver) = (rogue.space_hello.scope, rogue.space_hello.space, rogue.identity.device());
    let before = records(&world.victim).await;
    let body = [&leaver.as_bytes()[..], &0u16.to_be_bytes()].concat();
    let removal = record(&rogue.identity, space, &heads(space, &before), REMOVE_DEVICE, &body);
    let digest = Roster::load(space, before.into_iter().chain([removal.clone()])).unwrap().digest();

    rogue.raw.say(&Message::Records { scope, records: vec![removal] });
    rogue.raw.say(&Message::Delegate { scope, digest });
    let signature = rogue
        .raw
        .heard(|message| match message {
            Message::Receipt { digest: of, signature, .. } if of == digest => Some(signature),
            _ => None,
        })
        .await;

    let mut hasher = blake3::Hasher::new();
    hasher.update(b"kinfold rotation receipt v1").update(space.as_bytes());
    hasher.update(&digest).update(leaver.as_bytes());
    let signed = *hasher.finalize().as_bytes();
    assert_eq!(kinfold::crypto::verify(&world.victim.device(), &signed, &signature), Ok(()));
    until_status(&world.victim, |status| is_gone(status, leaver)).await;
    until_keys(&world.victim, 2).await;
    rogue.raw.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_made_up_history_of_this_device_does_nothing() {
    let world = World::new().await;
    let mut rogue = world.join().await;
    let (scope, log) = (rogue.space_hello.scope, rogue.victim_log);
    // Signed, but not by the device whose log it is said to be.
    let forged = rogue.seal(log, Seq::new(1), TipHash::NONE, &one_op(2, b"x"), 1);
    let ends = Some(Box::new([forged.witness().to_bytes(), forged.witness().to_bytes()]));

    // Nobody has asked.
    rogue.raw.say(&Message::Parting { scope, log, common: Tip::NONE, ends: ends.clone() });
    rogue.is_answered().await;
    // Asked, because the greeting claims more than there is.
    let claim = kinfold::wire::SpaceHello {
        echo: vec![(log, Tip { seq: Seq::new(1 << 40), hash: LINK })],
        ..rogue.space_hello.clone()
    };
    rogue.raw.say(&hello(1, vec![claim]));
    let is_located = |message| matches!(message, Message::Locate { .. }).then_some(());
    rogue.raw.heard(is_located).await;
    rogue.raw.say(&Message::Parting { scope, log, common: Tip::NONE, ends });
    rogue.raw.say(&Message::Locate { scope, log, points: vec![Tip { seq: Seq::new(9), hash: LINK }] });
    rogue.is_answered().await;

    world.goes_on().await;
    let status = world.victim.status().await.unwrap();
    // It goes on in the log it has always written.
    let own = status.frontier.iter().filter(|(log, _)| log.device == status.device);
    assert_eq!(own.map(|(log, _)| *log).collect::<Vec<_>>(), [log]);
    assert_eq!(status.forks_healed, []);
    assert_eq!(status.health, []);
    rogue.raw.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_in_another_members_name_ends_the_connection_and_nothing_else() {
    let world = World::new().await;
    let log =
        |status: Status| status.frontier.iter().map(|(log, _)| *log).find(|log| log.device == status.device);
    let of_honest = log(world.honest.status().await.unwrap()).unwrap();

    world
        .cut_off("not signed by it", |rogue| {
            let next = rogue.seal(of_honest, Seq::new(10_000), LINK, &knowledge("forged"), 1);
            rogue.raw.batch(next.bytes().clone());
            let log = LogId { incarnation: Incarnation::new(77), ..of_honest };
            let forged = rogue.seal(log, Seq::new(1), TipHash::NONE, &knowledge("forged"), 1);
            rogue.raw.batch(forged.bytes().clone());
        })
        .await;

    assert!(!is_known(&world.victim, "forged") && !is_known(&world.honest, "forged"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_more_logs_than_a_removal_names_is_removed_all_the_same() {
    let world = World::new().await;
    let mut rogue = world.join().await;
    let removed = rogue.identity.device();
    let count = CUT_LOGS_MAX + 40;
    // The longest is kept, wherever it stands among them.
    let first = rogue.seal(rogue.log(700), Seq::new(1), TipHash::NONE, &knowledge("long"), 1);
    let second = rogue.seal(rogue.log(700), Seq::new(2), first.link(), &knowledge("longer"), 1);
    let short =
        (1..count).map(|n| rogue.seal(rogue.log(n as u64), Seq::new(1), TipHash::NONE, &knowledge("x"), 1));
    let batches: Vec<SealedBatch> = [first, second].into_iter().chain(short).collect();
    for some in batches.chunks(16) {
        let bytes: Vec<u8> = some.iter().flat_map(|batch| batch.bytes().to_vec()).collect();
        rogue.raw.batch(bytes);
        rogue.is_answered().await;
    }
    let held = |status: &Status| status.frontier.iter().filter(|(log, _)| log.device == removed).count();
    until_status(&world.victim, |status| held(status) == count).await;

    world.victim.personal().revoke(removed).await.unwrap();

    for node in [&world.victim, &world.honest] {
        until_status(node, |status| is_gone(status, removed) && held(status) == CUT_LOGS_MAX).await;
        assert!(is_known(node, "longer"));
    }
    rogue.raw.stop().await;
    world.goes_on().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_floods_the_roster_is_removed_like_any_other() {
    let world = World::new().await;
    let mut rogue = world.join().await;
    let (scope, space, device) = (rogue.space_hello.scope, rogue.space_hello.space, rogue.identity.device());
    let parents = heads(space, &records(&world.victim).await);
    let name = |n: u16| {
        [rogue.key.id().as_bytes().as_slice(), &40u16.to_be_bytes(), &n.to_be_bytes(), &[1; 38]].concat()
    };
    let renames = (0..1_500).map(|n| {
        record(&rogue.identity, space, &parents, RENAME, &[device.as_bytes().as_slice(), &name(n)].concat())
    });
    for message in Message::records(scope, renames) {
        rogue.raw.say(&message);
    }
    rogue.is_answered().await;
    world.goes_on().await;

    world.victim.personal().revoke(device).await.unwrap();

    for node in [&world.victim, &world.honest] {
        until_status(node, |status| is_gone(status, device)).await;
    }
    rogue.raw.stop().await;
    world.goes_on().await;
    world.stop().await;
}

/// Joins as a member in good standing.
async fn join(node: &Node, secret: &[u8; 32]) -> Rogue {
    let raw =
        Raw::connect(Arc::new(Identity::from_secret(secret)), node.device(), node.local_addr().unwrap())
            .await;
    let log = LogId { device: node.device(), incarnation: Incarnation::new(1) };
    Rogue::join(raw, Identity::from_secret(secret), log).await
}

/// Whether a node refuses this identity when it dials again.
async fn is_refused(secret: &[u8; 32], node: &Node) -> bool {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = NetConfig { listen, mdns: Mdns::Off, ..NetConfig::default() };
    let (sender, mut events) = mpsc::channel(16);
    let identity = Arc::new(Identity::from_secret(secret));
    let pins = Pins::new([node.device()].into());
    let net = Net::start(identity, config, pins, Arc::new(NoBatches), sender).await.unwrap();
    net.dial(vec![node.local_addr().unwrap()], Some(node.device()));
    let outcome = timeout(PATIENCE, async {
        loop {
            match events.recv().await.expect("the net runs") {
                NetEvent::DialFailed { error, .. } => return matches!(error, DialError::RefusedByPeer(_)),
                // What it says next would be read.
                NetEvent::Connected { .. } | NetEvent::Frame { .. } => return false,
                _ => {}
            }
        }
    });
    let is_refused = outcome.await.expect("one or the other");
    drop(events);
    net.stop().await;
    is_refused
}

fn is_gone(status: &Status, device: DeviceId) -> bool {
    status.devices.iter().all(|found| found.device != device)
}

fn members(status: &Status) -> Vec<(DeviceId, Option<String>, Role, bool)> {
    let mut members: Vec<_> = status
        .devices
        .iter()
        .map(|device| (device.device, device.name.clone(), device.role, device.is_dormant))
        .collect();
    members.sort_by_key(|member| member.0);
    members
}

/// The body of a batch with one fact.
fn knowledge(key: &str) -> Vec<u8> {
    let body = bincode::encode_to_vec(("knowledge", key, "1"), bincode::config::standard()).unwrap();
    one_op(3, &body)
}

fn is_known(node: &Node, key: &str) -> bool {
    node.personal().get(&"knowledge".parse().unwrap(), key).unwrap().is_some()
}

async fn until_known(node: &Node, key: &str) {
    until(node, || is_known(node, key).then_some(())).await;
}

/// The records of the personal space: what an admin gives a device that is there already.
async fn records(node: &Node) -> Vec<Bytes> {
    welcome(node).await.records
}

/// The keys of every epoch.
async fn keys(node: &Node) -> Vec<EpochKey> {
    welcome(node).await.keys
}

async fn until_keys(node: &Node, count: usize) {
    let mut version = node.version();
    let wait = async {
        loop {
            version.mark_unchanged();
            if keys(node).await.len() == count {
                return;
            }
            version.changed().await.unwrap();
        }
    };
    timeout(PATIENCE, wait).await.expect("in time");
}

async fn welcome(node: &Node) -> kinfold::wire::Welcome {
    node.personal().enrol(node.device(), "itself", Role::Admin).await.unwrap()
}

/// What a record that has seen all of these names as its parents.
fn heads(space: SpaceId, records: &[Bytes]) -> Vec<RecordHash> {
    let roster = Roster::load(space, records.to_vec()).unwrap();
    let admin = roster.members().find(|member| member.role == Role::Admin).expect("there is one").device;
    roster.propose(&admin, KeyId::from_bytes([1; 16])).unwrap().parents
}

/// A signed record, of whatever it says. See `manual/formats.md`.
fn record(by: &Identity, space: SpaceId, parents: &[RecordHash], kind: u16, body: &[u8]) -> Bytes {
    let mut bytes = b"KFR1".to_vec();
    bytes.extend_from_slice(space.as_bytes());
    bytes.extend_from_slice(by.device().as_bytes());
    bytes.extend_from_slice(&(1_600_000_000_000u64 << 16).to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.push(u8::try_from(parents.len()).unwrap());
    parents.iter().for_each(|parent| bytes.extend_from_slice(parent.as_bytes()));
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"kinfold record v1").update(&bytes);
    let signature = by.sign(hasher.finalize().as_bytes());
    bytes.extend_from_slice(&signature);
    bytes.into()
}

const ADD_DEVICE: u16 = 2;
const REMOVE_DEVICE: u16 = 3;
const RENAME: u16 = 4;
const DORMANT: u16 = 5;
const ACTIVE: u16 = 6;
const ROTATE_KEY: u16 = 7;

/// What is promised for the live connections of a removed device.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);
