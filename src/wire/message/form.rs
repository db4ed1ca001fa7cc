//! The bincode shapes of the messages, apart from the types the engine works with.

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;
use zeroize::Zeroizing;

use super::super::checkpoint::CheckpointHash;
use super::super::codec;
use super::{AckFrame, Hello, HostMessage, Message, MessageError, SpaceHello};
use crate::crypto::{EpochKey, ForkWitness};
use crate::model::{KeyId, LogId, RecordHash, ScopeTag, Seq, SpaceId, Tip, TipHash, Wall};

#[derive(Encode, BorrowDecode)]
struct HelloForm {
    version: u16,
    features: u64,
    store_instance: [u8; 16],
    wall_ms: u64,
    spaces: Vec<SpaceForm>,
}

#[derive(Encode, BorrowDecode)]
struct SpaceForm {
    scope: [u8; 16],
    space: [u8; 32],
    roster_digest: [u8; 32],
    frontier_digest: [u8; 32],
    echo: Vec<TipForm>,
    max_epoch: u64,
}

#[derive(Encode, BorrowDecode)]
struct TipForm {
    log: [u8; 40],
    seq: u64,
    link: [u8; 32],
}

#[derive(Encode, BorrowDecode)]
struct RosterHaveForm {
    scope: [u8; 16],
    hashes: Vec<[u8; 32]>,
}

#[derive(Encode, BorrowDecode)]
struct RecordsForm<'a> {
    scope: [u8; 16],
    records: Vec<&'a [u8]>,
}

#[derive(Encode, BorrowDecode)]
struct FrontierForm {
    scope: [u8; 16],
    entries: Vec<TipForm>,
    is_full: bool,
}

#[derive(Encode, BorrowDecode)]
struct AckForm<'a> {
    scope: [u8; 16],
    bytes: &'a [u8],
    entries: Vec<TipForm>,
    is_full: bool,
}

/// `KeyRequest` and `KeyRefused`.
#[derive(Encode, BorrowDecode)]
struct KeyForm {
    scope: [u8; 16],
    key_id: [u8; 16],
}

#[derive(Encode, BorrowDecode)]
struct ForkForm {
    scope: [u8; 16],
    log: [u8; 40],
    witness: [u8; ForkWitness::BYTES],
}

#[derive(Encode, BorrowDecode)]
struct ForkProofForm {
    scope: [u8; 16],
    log: [u8; 40],
    witnesses: [[u8; ForkWitness::BYTES]; 2],
}

#[derive(Encode, BorrowDecode)]
struct LocateForm {
    scope: [u8; 16],
    log: [u8; 40],
    points: Vec<(u64, [u8; 32])>,
}

#[derive(Encode, BorrowDecode)]
struct PartingForm {
    scope: [u8; 16],
    log: [u8; 40],
    common: (u64, [u8; 32]),
    ends: Vec<[u8; ForkWitness::BYTES]>,
}

/// Kind and body.
pub(super) fn write(message: &Message) -> Vec<u8> {
    let mut out = message.kind().to_be_bytes().to_vec();
    match message {
        Message::Hello(hello) => codec::encode_into(HelloForm::from(hello), &mut out),
        Message::RosterHave { scope, hashes } => {
            let hashes = hashes.iter().map(|hash| *hash.as_bytes()).collect();
            codec::encode_into(RosterHaveForm { scope: *scope.as_bytes(), hashes }, &mut out);
        }
        Message::Records { scope, records } => {
            let records = records.iter().map(|record| &record[..]).collect();
            codec::encode_into(RecordsForm { scope: *scope.as_bytes(), records }, &mut out);
        }
        Message::Frontier { scope, entries, is_full } => {
            let (scope, entries, is_full) = (*scope.as_bytes(), tip_forms(entries), *is_full);
            codec::encode_into(FrontierForm { scope, entries, is_full }, &mut out);
        }
        Message::Ack(ack) => codec::encode_into(AckForm::from(ack), &mut out),
        Message::KeyRequest { scope, key_id } | Message::KeyRefused { scope, key_id } => {
            let (scope, key_id) = (*scope.as_bytes(), *key_id.as_bytes());
            codec::encode_into(KeyForm { scope, key_id }, &mut out);
        }
        Message::KeyGrant { scope, key } => {
            // Exactly sized: growing would leave copies of the key behind.
            out.reserve_exact(48);
            out.extend_from_slice(scope.as_bytes());
            out.extend_from_slice(key.expose());
        }
        Message::Fork { scope, log, witness } => {
            let (scope, log, witness) = (*scope.as_bytes(), log.to_bytes(), **witness);
            codec::encode_into(ForkForm { scope, log, witness }, &mut out);
        }
        Message::ForkProof { scope, log, bytes } => {
            // The two witnesses are one field of fixed length, which `check` has held them to.
            codec::encode_into((*scope.as_bytes(), log.to_bytes()), &mut out);
            out.extend_from_slice(bytes);
        }
        Message::Locate { scope, log, points } => {
            let points = points.iter().map(|tip| (tip.seq.get(), *tip.hash.as_bytes())).collect();
            codec::encode_into(
                LocateForm { scope: *scope.as_bytes(), log: log.to_bytes(), points },
                &mut out,
            );
        }
        Message::Parting { scope, log, common, ends } => {
            let form = PartingForm {
                scope: *scope.as_bytes(),
                log: log.to_bytes(),
                common: (common.seq.get(), *common.hash.as_bytes()),
                ends: ends.iter().flat_map(|ends| ends.iter().copied()).collect(),
            };
            codec::encode_into(form, &mut out);
        }
        Message::RotatePropose { scope, n, key, parents } => {
            // Exactly sized: growing would leave copies of the key behind.
            out.reserve_exact(16 + 9 + 32 + 9 + 32 * parents.len());
            codec::encode_into((*scope.as_bytes(), *n), &mut out);
            out.extend_from_slice(key.expose());
            let parents: Vec<[u8; 32]> = parents.iter().map(|hash| *hash.as_bytes()).collect();
            codec::encode_into(parents, &mut out);
        }
        Message::RotateConfirm { scope, key_id, signature } => {
            codec::encode_into((*scope.as_bytes(), *key_id.as_bytes(), **signature), &mut out);
        }
        Message::Delegate { scope, digest } => {
            codec::encode_into((*scope.as_bytes(), *digest), &mut out);
        }
        Message::Receipt { scope, digest, signature } => {
            codec::encode_into((*scope.as_bytes(), *digest, **signature), &mut out);
        }
        Message::Ping { nonce } | Message::Pong { nonce } => codec::encode_into(*nonce, &mut out),
        Message::Host { scope, message } => message.write(*scope, &mut out),
        Message::Floor { scope, base } => {
            codec::encode_into((*scope.as_bytes(), *base.as_bytes()), &mut out);
        }
        Message::Unknown(_) => {}
    }
    out
}

/// The message of a kind and body, its rules not yet checked.
pub(super) fn read(kind: u16, body: &[u8]) -> Result<Message, MessageError> {
    Ok(match kind {
        HELLO => Message::Hello(decode::<HelloForm>(kind, body)?.into()),
        ROSTER_HAVE => {
            let form: RosterHaveForm = decode(kind, body)?;
            let hashes = form.hashes.into_iter().map(RecordHash::from_bytes).collect();
            Message::RosterHave { scope: ScopeTag::from_bytes(form.scope), hashes }
        }
        RECORDS => {
            let form: RecordsForm<'_> = decode(kind, body)?;
            // Copied: a record outlives its frame by years.
            let records = form.records.into_iter().map(Bytes::copy_from_slice).collect();
            Message::Records { scope: ScopeTag::from_bytes(form.scope), records }
        }
        FRONTIER => {
            let FrontierForm { scope, entries, is_full } = decode(kind, body)?;
            Message::Frontier { scope: ScopeTag::from_bytes(scope), entries: tips(entries), is_full }
        }
        ACK => Message::Ack(decode::<AckForm<'_>>(kind, body)?.into()),
        KEY_REQUEST | KEY_REFUSED => {
            let form: KeyForm = decode(kind, body)?;
            let (scope, key_id) = (ScopeTag::from_bytes(form.scope), KeyId::from_bytes(form.key_id));
            if kind == KEY_REQUEST {
                Message::KeyRequest { scope, key_id }
            } else {
                Message::KeyRefused { scope, key_id }
            }
        }
        KEY_GRANT => {
            let (scope, key): ([u8; 16], [u8; 32]) = decode(kind, body)?;
            let key = Zeroizing::new(key);
            Message::KeyGrant { scope: ScopeTag::from_bytes(scope), key: EpochKey::from_bytes(*key) }
        }
        FORK => {
            let ForkForm { scope, log, witness } = decode(kind, body)?;
            let (scope, log) = (ScopeTag::from_bytes(scope), LogId::from_bytes(&log));
            Message::Fork { scope, log, witness: Box::new(witness) }
        }
        FORK_PROOF => {
            let ForkProofForm { scope, log, witnesses } = decode(kind, body)?;
            let (scope, log) = (ScopeTag::from_bytes(scope), LogId::from_bytes(&log));
            Message::ForkProof { scope, log, bytes: witnesses.concat().into() }
        }
        LOCATE => {
            let LocateForm { scope, log, points } = decode(kind, body)?;
            let (scope, log) = (ScopeTag::from_bytes(scope), LogId::from_bytes(&log));
            Message::Locate { scope, log, points: points.into_iter().map(point).collect() }
        }
        PARTING => {
            let PartingForm { scope, log, common, ends } = decode(kind, body)?;
            let (scope, log) = (ScopeTag::from_bytes(scope), LogId::from_bytes(&log));
            let ends = match <[_; 2]>::try_from(ends) {
                Ok(ends) => Some(Box::new(ends)),
                Err(ends) if ends.is_empty() => None,
                Err(ends) => return Err(MessageError::TooMany { found: ends.len(), limit: 2 }),
            };
            Message::Parting { scope, log, common: point(common), ends }
        }
        ROTATE_PROPOSE => {
            let (scope, n, key, parents): ([u8; 16], u64, [u8; 32], Vec<[u8; 32]>) = decode(kind, body)?;
            let key = Zeroizing::new(key);
            let parents = parents.into_iter().map(RecordHash::from_bytes).collect();
            let scope = ScopeTag::from_bytes(scope);
            Message::RotatePropose { scope, n, key: EpochKey::from_bytes(*key), parents }
        }
        ROTATE_CONFIRM => {
            let (scope, key_id, signature): ([u8; 16], [u8; 16], [u8; 64]) = decode(kind, body)?;
            let (scope, key_id) = (ScopeTag::from_bytes(scope), KeyId::from_bytes(key_id));
            Message::RotateConfirm { scope, key_id, signature: Box::new(signature) }
        }
        DELEGATE => {
            let (scope, digest): ([u8; 16], [u8; 32]) = decode(kind, body)?;
            Message::Delegate { scope: ScopeTag::from_bytes(scope), digest }
        }
        RECEIPT => {
            let (scope, digest, signature): ([u8; 16], [u8; 32], [u8; 64]) = decode(kind, body)?;
            Message::Receipt { scope: ScopeTag::from_bytes(scope), digest, signature: Box::new(signature) }
        }
        FLOOR => {
            let (scope, base): ([u8; 16], [u8; 32]) = decode(kind, body)?;
            Message::Floor { scope: ScopeTag::from_bytes(scope), base: CheckpointHash::from_bytes(base) }
        }
        PING => Message::Ping { nonce: decode(kind, body)? },
        PONG => Message::Pong { nonce: decode(kind, body)? },
        _ => match HostMessage::read(kind, body)? {
            Some((scope, message)) => Message::Host { scope, message },
            None => Message::Unknown(kind),
        },
    })
}

pub(super) fn decode<'a, T: BorrowDecode<'a, ()>>(kind: u16, body: &'a [u8]) -> Result<T, MessageError> {
    codec::decode(body).map_err(|source| MessageError::Body { kind, source })
}

impl From<&Hello> for HelloForm {
    fn from(hello: &Hello) -> Self {
        Self {
            version: hello.version,
            features: hello.features,
            store_instance: hello.store_instance,
            wall_ms: hello.wall.as_millis(),
            spaces: hello.spaces.iter().map(SpaceForm::from).collect(),
        }
    }
}

impl From<HelloForm> for Hello {
    fn from(form: HelloForm) -> Self {
        Self {
            version: form.version,
            features: form.features,
            store_instance: form.store_instance,
            wall: Wall::from_millis(form.wall_ms),
            spaces: form.spaces.into_iter().map(SpaceHello::from).collect(),
        }
    }
}

impl From<&SpaceHello> for SpaceForm {
    fn from(space: &SpaceHello) -> Self {
        Self {
            scope: *space.scope.as_bytes(),
            space: *space.space.as_bytes(),
            roster_digest: space.roster_digest,
            frontier_digest: space.frontier_digest,
            echo: tip_forms(&space.echo),
            max_epoch: space.max_epoch,
        }
    }
}

impl From<SpaceForm> for SpaceHello {
    fn from(form: SpaceForm) -> Self {
        Self {
            scope: ScopeTag::from_bytes(form.scope),
            space: SpaceId::from_bytes(form.space),
            roster_digest: form.roster_digest,
            frontier_digest: form.frontier_digest,
            echo: tips(form.echo),
            max_epoch: form.max_epoch,
        }
    }
}

impl<'a> From<&'a AckFrame> for AckForm<'a> {
    fn from(ack: &'a AckFrame) -> Self {
        let (scope, entries) = (*ack.scope.as_bytes(), tip_forms(&ack.entries));
        Self { scope, bytes: &ack.bytes, entries, is_full: ack.is_full }
    }
}

impl From<AckForm<'_>> for AckFrame {
    fn from(form: AckForm<'_>) -> Self {
        let (scope, bytes) = (ScopeTag::from_bytes(form.scope), Bytes::copy_from_slice(form.bytes));
        Self { scope, bytes, entries: tips(form.entries), is_full: form.is_full }
    }
}

fn tip_forms(entries: &[(LogId, Tip)]) -> Vec<TipForm> {
    let form = |(log, tip): &(LogId, Tip)| TipForm {
        log: log.to_bytes(),
        seq: tip.seq.get(),
        link: *tip.hash.as_bytes(),
    };
    entries.iter().map(form).collect()
}

fn tips(forms: Vec<TipForm>) -> Vec<(LogId, Tip)> {
    let tip = |form: TipForm| {
        let tip = Tip { seq: Seq::new(form.seq), hash: TipHash::from_bytes(form.link) };
        (LogId::from_bytes(&form.log), tip)
    };
    forms.into_iter().map(tip).collect()
}

fn point((seq, link): (u64, [u8; 32])) -> Tip {
    Tip { seq: Seq::new(seq), hash: TipHash::from_bytes(link) }
}

pub(super) const HELLO: u16 = 1;
pub(super) const ROSTER_HAVE: u16 = 2;
pub(super) const RECORDS: u16 = 3;
pub(super) const FRONTIER: u16 = 4;
pub(super) const ACK: u16 = 5;
pub(super) const KEY_REQUEST: u16 = 6;
pub(super) const KEY_GRANT: u16 = 7;
pub(super) const KEY_REFUSED: u16 = 8;
pub(super) const FORK: u16 = 9;
pub(super) const FORK_PROOF: u16 = 10;
pub(super) const LOCATE: u16 = 11;
pub(super) const PING: u16 = 12;
pub(super) const PONG: u16 = 13;
pub(super) const PARTING: u16 = 14;
pub(super) const ROTATE_PROPOSE: u16 = 15;
pub(super) const ROTATE_CONFIRM: u16 = 16;
pub(super) const DELEGATE: u16 = 17;
pub(super) const RECEIPT: u16 = 18;
pub(super) const HOST_HOME: u16 = 19;
pub(super) const HOST_PROPOSE: u16 = 20;
pub(super) const HOST_CONFIRM: u16 = 21;
pub(super) const HOST_PROMISED: u16 = 22;
pub(super) const HOST_UNABLE: u16 = 23;
pub(super) const HOST_WITHDRAW: u16 = 24;
pub(super) const HOST_FETCH: u16 = 25;
pub(super) const HOST_TABLE: u16 = 26;
pub(super) const FLOOR: u16 = 27;

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{DeviceId, Incarnation};
    use crate::wire::ack;

    pub(in super::super) fn space() -> SpaceId {
        SpaceId::from_bytes([0x11; 32])
    }

    pub(in super::super) fn scope() -> ScopeTag {
        space().tag()
    }

    pub(in super::super) fn log(byte: u8) -> LogId {
        LogId { device: DeviceId::from_bytes([byte; 32]), incarnation: Incarnation::new(u64::from(byte)) }
    }

    pub(in super::super) fn tip(seq: u64) -> Tip {
        Tip { seq: Seq::new(seq), hash: TipHash::from_bytes([0x77; 32]) }
    }

    pub(in super::super) fn space_hello() -> SpaceHello {
        SpaceHello {
            scope: scope(),
            space: space(),
            roster_digest: [0x22; 32],
            frontier_digest: [0x33; 32],
            echo: vec![(log(1), tip(5))],
            max_epoch: 9,
        }
    }

    pub(in super::super) fn hello() -> Hello {
        Hello {
            version: 1,
            features: 0x8000_0000_0000_0001,
            store_instance: [0x44; 16],
            wall: Wall::from_millis(1_700_000_000_000),
            spaces: vec![space_hello()],
        }
    }

    /// One message of every kind.
    fn host(message: HostMessage) -> Message {
        Message::Host { scope: scope(), message }
    }

    fn samples() -> Vec<Message> {
        let entries = vec![(log(1), tip(5)), (log(2), tip(70_000))];
        let hashes = vec![RecordHash::from_bytes([1; 32]), RecordHash::from_bytes([2; 32])];
        let key = EpochKey::from_bytes([0x5a; 32]);
        let key_id = key.id();
        let ack = Bytes::copy_from_slice(ack::tests::sample().bytes());
        vec![
            Message::Hello(hello()),
            Message::RosterHave { scope: scope(), hashes },
            Message::Records { scope: scope(), records: vec![Bytes::from_static(b"a record"), Bytes::new()] },
            Message::Frontier { scope: scope(), entries: entries.clone(), is_full: true },
            Message::Ack(AckFrame { scope: scope(), bytes: ack, entries, is_full: false }),
            Message::KeyRequest { scope: scope(), key_id },
            Message::KeyGrant { scope: scope(), key },
            Message::KeyRefused { scope: scope(), key_id },
            Message::Fork { scope: scope(), log: log(3), witness: Box::new([0x88; ForkWitness::BYTES]) },
            Message::ForkProof {
                scope: scope(),
                log: log(3),
                bytes: Bytes::from_static(&[0x99; 2 * ForkWitness::BYTES]),
            },
            Message::Locate { scope: scope(), log: log(3), points: vec![tip(4), tip(70_000)] },
            Message::Ping { nonce: 1 },
            Message::Pong { nonce: u64::MAX },
            Message::Parting {
                scope: scope(),
                log: log(3),
                common: tip(4),
                ends: Some(Box::new([[0x88; ForkWitness::BYTES], [0x99; ForkWitness::BYTES]])),
            },
            Message::RotatePropose {
                scope: scope(),
                n: 300,
                key: EpochKey::from_bytes([0x5b; 32]),
                parents: vec![RecordHash::from_bytes([1; 32]), RecordHash::from_bytes([2; 32])],
            },
            Message::RotateConfirm { scope: scope(), key_id, signature: Box::new([0x66; 64]) },
            Message::Delegate { scope: scope(), digest: [0x22; 32] },
            Message::Receipt { scope: scope(), digest: [0x22; 32], signature: Box::new([0x66; 64]) },
            host(HostMessage::Home { instance: 300 }),
            host(HostMessage::Propose { proposal: Bytes::from_static(b"a proposal") }),
            host(HostMessage::Confirm {
                hash: [0x44; 32],
                table: [0x55; 32],
                signature: Box::new([0x66; 64]),
            }),
            host(HostMessage::Promised { proposal: Bytes::from_static(b"another") }),
            host(HostMessage::Unable { hash: [0x44; 32], why: 2, cert: [0x33; 32] }),
            host(HostMessage::Withdraw { hash: [0x44; 32], signature: Box::new([0x66; 64]) }),
            host(HostMessage::Fetch { digest: [0x55; 32] }),
            host(HostMessage::Table { total: 70_000, offset: 5, piece: Bytes::from_static(b"a piece") }),
            Message::Floor { scope: scope(), base: CheckpointHash::from_bytes([0x7b; 32]) },
        ]
    }

    #[test]
    fn every_kind_reads_back_and_has_its_own_number_and_name() {
        let samples = samples();
        for (index, message) in samples.iter().enumerate() {
            let bytes = message.encode().unwrap();

            assert_eq!(Message::decode(&bytes).unwrap(), *message);
            assert_eq!(usize::from(message.kind()), index + 1);
            assert!(samples.iter().filter(|other| other.name() == message.name()).count() == 1);
        }
    }

    #[test]
    fn a_kind_of_a_later_version_is_told_apart_from_a_broken_message() {
        for kind in [0, 28, u16::MAX] {
            let frame = [&kind.to_be_bytes()[..], b"whatever"].concat();
            let message = Message::decode(&frame).unwrap();

            assert_eq!(message, Message::Unknown(kind));
            assert_eq!((message.kind(), message.name()), (kind, "unknown"));
        }
        for message in samples() {
            let bytes = message.encode().unwrap();
            let longer = [&bytes[..], &[0]].concat();
            for broken in [&bytes[..bytes.len() - 1], &longer] {
                assert!(
                    matches!(Message::decode(broken), Err(MessageError::Body { kind, .. }) if kind == message.kind())
                );
            }
        }
    }

    /// Fixed values in, every byte pinned: a change here is a new protocol version.
    #[test]
    fn the_golden_messages_are_written_and_read_as_ever() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/data/messages-v1.json")).unwrap();
        let messages: Vec<serde_json::Value> = samples()
            .iter()
            .map(|message| {
                let bytes = hex(&message.encode().unwrap());
                serde_json::json!({ "kind": message.kind(), "name": message.name(), "bytes": bytes })
            })
            .collect();
        let ack = ack::tests::sample();
        let written = serde_json::json!({
            "ack": { "secret": hex(&[1; 32]), "bytes": hex(ack.bytes()) },
            "messages": messages,
        });
        assert_eq!(vectors, written, "written now:\n{written:#}");

        let read = crate::wire::Ack::parse(&unhex(vectors["ack"]["bytes"].as_str().unwrap())).unwrap();
        assert_eq!((read.verify(), &read), (Ok(()), &ack));
        for (vector, message) in vectors["messages"].as_array().unwrap().iter().zip(samples()) {
            let bytes = unhex(vector["bytes"].as_str().unwrap());
            assert_eq!(Message::decode(&bytes).unwrap(), message);
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16).unwrap()).collect();
        digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
    }

    fn tips_of_any() -> impl Strategy<Value = Vec<(LogId, Tip)>> {
        proptest::collection::btree_map(any::<([u8; 32], u64)>(), 0u64.., 0..6).prop_map(|logs| {
            let entry = |((device, incarnation), seq)| {
                let device = DeviceId::from_bytes(device);
                let log = LogId { device, incarnation: Incarnation::new(incarnation) };
                (log, if seq == 0 { Tip::NONE } else { tip(seq) })
            };
            logs.into_iter().map(entry).collect()
        })
    }

    fn space_of_any() -> impl Strategy<Value = SpaceHello> {
        (any::<[u8; 32]>(), any::<([u8; 32], [u8; 32], u64)>(), tips_of_any()).prop_map(
            |(space, (roster_digest, frontier_digest, max_epoch), echo)| {
                let space = SpaceId::from_bytes(space);
                SpaceHello { scope: space.tag(), space, roster_digest, frontier_digest, echo, max_epoch }
            },
        )
    }

    fn message_of_any() -> impl Strategy<Value = Message> {
        let scope = || any::<[u8; 16]>().prop_map(ScopeTag::from_bytes);
        let blob = |most| proptest::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from);
        let spaces = proptest::collection::vec(space_of_any(), 0..3);
        prop_oneof![
            (any::<(u16, u64, [u8; 16], u64)>(), spaces).prop_map(|(fixed, spaces)| {
                let (version, features, store_instance, wall) = fixed;
                let wall = Wall::from_millis(wall);
                Message::Hello(Hello { version, features, store_instance, wall, spaces })
            }),
            (scope(), proptest::collection::btree_set(any::<[u8; 32]>(), 0..6)).prop_map(
                |(scope, hashes)| {
                    let hashes = hashes.into_iter().map(RecordHash::from_bytes).collect();
                    Message::RosterHave { scope, hashes }
                }
            ),
            (scope(), proptest::collection::vec(blob(300), 0..4))
                .prop_map(|(scope, records)| Message::Records { scope, records }),
            (scope(), tips_of_any(), any::<bool>()).prop_map(|(scope, entries, is_full)| Message::Frontier {
                scope,
                entries,
                is_full
            }),
            (scope(), blob(300), tips_of_any(), any::<bool>()).prop_map(
                |(scope, bytes, entries, is_full)| {
                    Message::Ack(AckFrame { scope, bytes, entries, is_full })
                }
            ),
            (scope(), any::<[u8; 32]>())
                .prop_map(|(scope, key)| Message::KeyGrant { scope, key: EpochKey::from_bytes(key) }),
        ]
    }

    proptest! {
        #[test]
        fn any_message_reads_back(message in message_of_any()) {
            let bytes = message.encode().unwrap();

            prop_assert_eq!(Message::decode(&bytes).unwrap(), message);
        }

        #[test]
        fn any_bytes_read_or_are_refused(kind in 0u16..29, body in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = Message::decode(&[&kind.to_be_bytes()[..], &body].concat());
        }

        /// What is read from a spoiled message keeps the rules, so it can be written again.
        #[test]
        fn a_spoiled_message_reads_by_the_rules_or_is_refused(
            which in 0usize..27,
            spoils in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
            cut in proptest::option::of(any::<proptest::sample::Index>()),
        ) {
            let mut bytes = samples()[which].encode().unwrap().to_vec();
            for (at, with) in spoils {
                let at = at.index(bytes.len());
                bytes[at] = with;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(message) = Message::decode(&bytes) {
                let again = message.encode().unwrap();
                prop_assert_eq!(Message::decode(&again).unwrap(), message);
            }
        }
    }
}
