//! The bytes of sealed batches, bodies, ops, vaults and ids, pinned: changing one is a format version.
//!
//! `tests/data/batches-v1.json` was written once from fixed inputs. Batches whose body does not
//! compress are sealed again and compared byte for byte; compressed ones are only opened, because
//! a zstd release may compress differently and all of them must open.

use bytes::Bytes;
use kinfold::crypto::{BatchHeader, EpochKey, Identity, Opener, SealInput, SealedBatch, Sealer, vault};
use kinfold::fold::{Applied, State};
use kinfold::model::{Dot, Hlc, Incarnation, LogId, Op, OpId, Payload, Seq, SpaceId, TipHash};
use kinfold::wire::op::{encode_op, encode_reissue};
use kinfold::wire::{BodyReader, BodyWriter, FrameView, OpView, Original, REISSUE};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    secret: String,
    epoch_key: String,
    space: String,
    device: String,
    key_id: String,
    beacon_tag_of_quarter_7: String,
    batches: Vec<GoldenBatch>,
    vault: GoldenVault,
}

#[derive(Deserialize)]
struct GoldenBatch {
    name: String,
    first: u64,
    ops: Vec<GoldenOp>,
    entropy: String,
    prev: String,
    is_compressed: bool,
    body: String,
    sealed: String,
    link: String,
}

#[derive(Deserialize)]
struct GoldenOp {
    hlc: u64,
    kind: u16,
    body: String,
    id: String,
}

#[derive(Deserialize)]
struct GoldenVault {
    key: String,
    context: String,
    salt: String,
    plaintext: String,
    blob: String,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../data/batches-v1.json")).expect("the file is part of the source")
}

fn unhex<const N: usize>(text: &str) -> [u8; N] {
    unhex_all(text).try_into().expect("the right length")
}

fn unhex_all(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn log(golden: &Golden) -> LogId {
    let device = Identity::from_secret(&unhex(&golden.secret)).device();
    LogId { device, incarnation: Incarnation::new(0x0102_0304_0506_0708) }
}

/// The ops of the two batches: what every kind looks like in bytes.
fn ops(log: LogId) -> Vec<Vec<(Hlc, Op)>> {
    let other = LogId { device: log.device, incarnation: Incarnation::new(9) };
    let payload = |text: &str| Payload::parse(text).expect("written here");
    let put = |key: &str, preds: Vec<Dot>, text: &str| Op::Put {
        surface: "registry:note".parse().expect("a surface"),
        key: key.into(),
        preds,
        payload: payload(text),
    };
    let first = vec![
        (Hlc::new(117_000_000_000_000_000), put("today", Vec::new(), r#"{"text":"hello"}"#)),
        (
            Hlc::new(116_999_999_999_999_000),
            Op::Delete {
                surface: "declagent".parse().expect("a surface"),
                key: "gone".into(),
                preds: vec![Dot { log, seq: Seq::new(1) }, Dot { log: other, seq: Seq::new(300) }],
            },
        ),
        (
            Hlc::new(117_000_000_000_000_002),
            Op::Fact {
                surface: "knowledge".parse().expect("a surface"),
                key: "k".into(),
                payload: payload("1.0"),
            },
        ),
        (
            Hlc::new(1),
            Op::Event {
                surface: "conversation".parse().expect("a surface"),
                stream: "c1".into(),
                payload: payload(r#"{"role":"user"}"#),
            },
        ),
    ];
    let many = (0..100)
        .map(|index| {
            (
                Hlc::new(1_000 + index),
                put(&format!("row {index}"), Vec::new(), r#"{"text":"again and again"}"#),
            )
        })
        .collect();
    vec![first, many]
}

fn body_of(ops: &[(Hlc, Op)], log: &LogId) -> (Vec<u8>, u32) {
    let mut writer = BodyWriter::new();
    for (hlc, op) in ops {
        writer.push(*hlc, op.kind().number(), 0, &encode_op(op, log));
    }
    writer.finish()
}

#[test]
fn ids_keys_and_tags_are_what_they_were() {
    let golden = golden();
    let identity = Identity::from_secret(&unhex(&golden.secret));
    let key = EpochKey::from_bytes(unhex(&golden.epoch_key));

    assert_eq!(identity.device().to_string(), golden.device);
    assert_eq!(key.id().to_string(), golden.key_id);
    let tag =
        key.beacon().tag(&identity.device(), kinfold::crypto::beacon::Quarter::of_unix_seconds(7 * 900));
    assert_eq!(hex(tag.as_bytes()), golden.beacon_tag_of_quarter_7);
}

#[test]
fn ops_and_bodies_are_encoded_as_they_were() {
    let golden = golden();
    let (log, space) = (log(&golden), SpaceId::from_bytes(unhex(&golden.space)));
    for (batch, ops) in golden.batches.iter().zip(ops(log)) {
        let (body, op_count) = body_of(&ops, &log);
        assert_eq!(hex(&body), batch.body, "{}", batch.name);
        let frames = BodyReader::new(&body, Seq::new(batch.first), op_count).expect("readable");
        for (frame, expected) in frames.zip(&batch.ops) {
            let frame = frame.expect("readable");
            assert_eq!(
                (frame.hlc.get(), frame.kind, hex(frame.body)),
                (expected.hlc, expected.kind, expected.body.clone())
            );
            assert!(OpView::decode(frame.kind, frame.flags, frame.body).is_ok());
            let id =
                OpId::of(&space, Dot { log, seq: frame.seq }, frame.hlc, frame.kind, frame.flags, frame.body);
            assert_eq!(id.to_string(), expected.id);
        }
    }
}

#[test]
fn batches_open_and_seal_as_they_did() {
    let golden = golden();
    let identity = Identity::from_secret(&unhex(&golden.secret));
    let key = EpochKey::from_bytes(unhex(&golden.epoch_key));
    let space = SpaceId::from_bytes(unhex(&golden.space));
    for batch in &golden.batches {
        let sealed = SealedBatch::parse(Bytes::from(unhex_all(&batch.sealed))).expect("well formed");
        assert_eq!(sealed.verify(), Ok(()), "{}", batch.name);
        assert_eq!(sealed.link().to_string(), batch.link);
        assert_eq!(sealed.header().is_compressed, batch.is_compressed);
        assert_eq!(BatchHeader::parse(&sealed.header().to_bytes()).as_ref(), Ok(sealed.header()));
        assert_eq!(hex(&Opener::new().open(&key, &sealed).expect("opens")), batch.body);
        if !batch.is_compressed {
            let input = SealInput {
                scope: space.tag(),
                log: log(&golden),
                first: Seq::new(batch.first),
                op_count: u32::try_from(batch.ops.len()).expect("few"),
                roster_gen: 5,
                prev: TipHash::from_bytes(unhex(&batch.prev)),
                body: &unhex_all(&batch.body),
                entropy: unhex(&batch.entropy),
            };
            let again = Sealer::new(&identity).seal(&identity, &key, &input);
            assert_eq!(hex(again.bytes()), batch.sealed, "{}", batch.name);
        }
    }
}

#[test]
fn vaults_are_sealed_as_they_were() {
    let vault = golden().vault;
    let (key, salt) = (unhex(&vault.key), unhex(&vault.salt));
    let blob = vault::seal(&key, vault.context.as_bytes(), &salt, vault.plaintext.as_bytes());

    assert_eq!(hex(&blob), vault.blob);
    assert_eq!(vault::open(&key, vault.context.as_bytes(), &blob).as_deref(), Ok(vault.plaintext.as_bytes()));
}

#[derive(Deserialize)]
struct GoldenReissue {
    space: String,
    carrier: String,
    seq: u64,
    original: GoldenOriginal,
    body: String,
    id: String,
    root: String,
    root_of_the_original: String,
}

#[derive(Deserialize)]
struct GoldenOriginal {
    log: String,
    seq: u64,
    hlc: u64,
    kind: u16,
    body: String,
}

#[test]
fn a_reissued_op_is_encoded_as_it_was_and_folds_like_its_original() {
    let golden: GoldenReissue = serde_json::from_str(include_str!("../data/reissue-v1.json"))
        .expect("the file is part of the source");
    let (log, carrier) =
        (LogId::from_bytes(&unhex(&golden.original.log)), LogId::from_bytes(&unhex(&golden.carrier)));
    let GoldenOriginal { seq, hlc, kind, body: inner, .. } = &golden.original;
    let (seq, hlc, inner) = (Seq::new(*seq), Hlc::new(*hlc), unhex_all(inner));
    let original = Original { log, seq, hlc, kind: *kind, flags: 0, body: &inner };
    let space = SpaceId::from_bytes(unhex(&golden.space));

    let body = encode_reissue(&original);

    assert_eq!(hex(&body), golden.body);
    assert_eq!(OpView::decode(REISSUE, 0, &body), Ok(OpView::Reissue(original)));
    assert_eq!(OpId::of(&space, original.dot(), hlc, *kind, 0, &inner).to_string(), golden.id);
    let mut state = State::new(space);
    (1..golden.seq).for_each(|seq| {
        state.apply(&carrier, &FrameView { seq: Seq::new(seq), hlc, kind: 999, flags: 0, body: b"" });
    });
    let frame = FrameView { seq: Seq::new(golden.seq), hlc, kind: REISSUE, flags: 0, body: &body };
    assert_eq!(state.apply(&carrier, &frame), Applied::Shown);
    assert_eq!(state.root().to_string(), golden.root);
    assert_eq!(golden.root, golden.root_of_the_original, "the same op, whichever log carries it");
    let mut first = State::new(space);
    (1..seq.get()).for_each(|seq| {
        first.apply(&log, &FrameView { seq: Seq::new(seq), hlc, kind: 999, flags: 0, body: b"" });
    });
    first.apply(&log, &FrameView { seq, hlc, kind: *kind, flags: 0, body: &inner });
    assert_eq!(first.root().to_string(), golden.root_of_the_original);
}

/// Prints the file anew: for a new format version, never to make a test pass.
///
/// `KINFOLD_PRINT_GOLDEN=1 cargo test --test it print_golden -- --nocapture`
#[test]
fn print_golden() {
    if std::env::var_os("KINFOLD_PRINT_GOLDEN").is_none() {
        return;
    }
    let (secret, epoch, space) = ([0x11; 32], [0x22; 32], SpaceId::from_bytes([0x33; 32]));
    let (identity, key) = (Identity::from_secret(&secret), EpochKey::from_bytes(epoch));
    let log = LogId { device: identity.device(), incarnation: Incarnation::new(0x0102_0304_0506_0708) };
    let mut prev = TipHash::from_bytes([0x44; 32]);
    let mut first = 7;
    let mut batches = Vec::new();
    for (name, ops) in ["every kind, not compressed", "a hundred alike, compressed"].iter().zip(ops(log)) {
        let (body, op_count) = body_of(&ops, &log);
        let entropy = [0x55; 32];
        let input = SealInput {
            scope: space.tag(),
            log,
            first: Seq::new(first),
            op_count,
            roster_gen: 5,
            prev,
            body: &body,
            entropy,
        };
        let sealed = Sealer::new(&identity).seal(&identity, &key, &input);
        let frames = BodyReader::new(&body, Seq::new(first), op_count).expect("readable");
        let ops: Vec<_> = frames
            .map(|frame| {
                let frame = frame.expect("readable");
                let dot = Dot { log, seq: frame.seq };
                let id = OpId::of(&space, dot, frame.hlc, frame.kind, frame.flags, frame.body);
                serde_json::json!({"hlc": frame.hlc.get(), "kind": frame.kind, "body": hex(frame.body), "id": id.to_string()})
            })
            .collect();
        batches.push(serde_json::json!({
            "name": name, "first": first, "ops": ops, "entropy": hex(&entropy), "prev": prev.to_string(),
            "is_compressed": sealed.header().is_compressed, "body": hex(&body), "sealed": hex(sealed.bytes()),
            "link": sealed.link().to_string(),
        }));
        prev = sealed.link();
        first += u64::from(op_count);
    }
    let blob = vault::seal(&[0x66; 32], b"kinfold golden", &[0x77; 32], b"a small secret");
    let tag =
        key.beacon().tag(&identity.device(), kinfold::crypto::beacon::Quarter::of_unix_seconds(7 * 900));
    println!(
        "{}",
        serde_json::to_string_pretty(&serde_json::json!({
            "secret": hex(&secret), "epoch_key": hex(&epoch), "space": space.to_string(),
            "device": identity.device().to_string(), "key_id": key.id().to_string(),
            "beacon_tag_of_quarter_7": hex(tag.as_bytes()), "batches": batches,
            "vault": {"key": hex(&[0x66; 32]), "context": "kinfold golden", "salt": hex(&[0x77; 32]),
                "plaintext": "a small secret", "blob": hex(&blob)},
        }))
        .expect("a value")
    );
}
