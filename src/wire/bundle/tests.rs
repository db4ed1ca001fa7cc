use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::crypto::{EpochKey, SealInput, SealedBatch, Sealer};
use crate::model::Incarnation;

fn identity() -> Identity {
    Identity::from_secret(&[1; 32])
}

fn log() -> LogId {
    LogId { device: identity().device(), incarnation: Incarnation::new(7) }
}

fn sealed(count: u64) -> Vec<SealedBatch> {
    let mut sealer = Sealer::new(&identity());
    let mut prev = TipHash::NONE;
    (0..count)
        .map(|index| {
            let input = SealInput {
                scope: ScopeTag::from_bytes([2; 16]),
                log: log(),
                first: Seq::new(1 + 2 * index),
                op_count: 2,
                roster_gen: 1,
                prev,
                body: b"opened elsewhere",
                entropy: [u8::try_from(index).expect("few"); 32],
            };
            let batch = sealer.seal(&identity(), &EpochKey::from_bytes([3; 32]), &input);
            prev = batch.link();
            batch
        })
        .collect()
}

fn run(batches: &[SealedBatch]) -> Bytes {
    let mut bytes = BytesMut::new();
    batches.iter().for_each(|batch| bytes.extend_from_slice(batch.bytes()));
    bytes.freeze()
}

fn head(chunks: Vec<ChunkEntry>) -> BundleHead {
    let tip = |seq, fill| (log(), Tip { seq: Seq::new(seq), hash: TipHash::from_bytes([fill; 32]) });
    BundleHead {
        scope: ScopeTag::from_bytes([2; 16]),
        exporter: identity().device(),
        wall: Wall::from_millis(5),
        from: vec![tip(3, 1)],
        to: vec![tip(9, 2)],
        chunks,
    }
}

#[test]
fn a_head_reads_back_with_every_kind_of_chunk() {
    let body = run(&sealed(3));
    let mut chunks: Vec<ChunkEntry> = records([Bytes::from_static(b"r")]).iter().map(|(e, _)| *e).collect();
    chunks.push(batches(&body).expect("batches"));
    chunks.extend(acks([Bytes::from_static(b"a"), Bytes::from_static(b"")]).iter().map(|(e, _)| *e));
    for of in [manifests, attestations, super::chunks] {
        chunks.extend(of(vec![Bytes::from_static(b"item")]).iter().map(|(e, _)| *e));
    }
    chunks.push(ChunkEntry { kind: ChunkKind::Unknown(9), items: 4, bytes: 1, hash: [9; 32] });
    let head = head(chunks);

    let bytes = head.sign(&identity()).unwrap();

    assert_eq!(BundleHead::bytes_of(&bytes[..BundleHead::FIXED_BYTES]), Ok(bytes.len()));
    assert_eq!(BundleHead::parse(&bytes).as_ref(), Ok(&head));
    assert_eq!(BundleHead::parse(&[&bytes[..], b"chunks"].concat()), Ok(head));
}

#[test]
fn the_signature_covers_every_byte_of_the_head() {
    let bytes = head(vec![batches(&run(&sealed(1))).expect("batches")]).sign(&identity()).unwrap();

    for at in 0..bytes.len() {
        let mut spoiled = bytes.clone();
        spoiled[at] ^= 1;
        assert!(BundleHead::parse(&spoiled).is_err(), "byte {at}");
    }
}

#[test]
fn what_is_no_head_is_refused_by_name() {
    let bytes = head(Vec::new()).sign(&identity()).unwrap();
    let spoiled = |at: usize, with: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        BundleHead::parse(&bytes).unwrap_err()
    };

    assert_eq!(BundleHead::parse(b"KF"), Err(BundleError::TooShort { needed: 72, found: 2 }));
    assert_eq!(BundleHead::parse(&bytes[..50]), Err(BundleError::TooShort { needed: 72, found: 50 }));
    let (needed, found) = (bytes.len(), bytes.len() - 1);
    assert_eq!(BundleHead::parse(&bytes[..found]), Err(BundleError::TooShort { needed, found }));
    assert_eq!(spoiled(0, b"PK\x03\x04"), BundleError::Magic { found: *b"PK\x03\x04" });
    assert_eq!(spoiled(3, b"2"), BundleError::Newer { found: b'2' });
    let too_many = BundleError::TooMany { what: "logs", found: u32::MAX, limit: 10_000 };
    assert_eq!(spoiled(60, &[0xff; 4]), too_many);
    assert!(matches!(spoiled(68, &[0xff; 4]), BundleError::TooMany { what: "parts", .. }));
    assert!(matches!(spoiled(55, b"x"), BundleError::Signature(_)));
}

#[test]
fn a_signed_head_that_makes_no_sense_is_refused_by_name() {
    let signed = |head: &BundleHead| BundleHead::parse(&head.sign(&identity()).unwrap());
    let good = head(Vec::new());
    let twice = BundleHead { to: vec![good.to[0], good.to[0]], ..good.clone() };
    let nowhere = BundleHead { from: vec![(log(), Tip::NONE)], ..good.clone() };
    let entry = |kind, bytes| ChunkEntry { kind, items: 1, bytes, hash: [0; 32] };
    let range = |first, last| {
        ChunkKind::Batches(LogRange { log: log(), first: Seq::new(first), last: Seq::new(last) })
    };

    assert_eq!(signed(&twice), Err(BundleError::Frontier));
    assert_eq!(signed(&nowhere), Err(BundleError::Frontier));
    for wrong in [
        entry(range(0, 2), 1),
        entry(range(3, 2), 1),
        entry(ChunkKind::Unknown(0), 1),
        entry(ChunkKind::Acks, u32::MAX),
    ] {
        let chunks = vec![entry(ChunkKind::Records, 0), wrong];
        assert_eq!(signed(&head(chunks)), Err(BundleError::Entry { index: 1 }), "{wrong:?}");
    }
}

#[test]
fn a_chunk_is_what_was_signed_or_is_refused() {
    let batches_of = sealed(3);
    let body = run(&batches_of);
    let entry = batches(&body).expect("batches");
    let with_hash = |bytes: &Bytes, items| ChunkEntry {
        bytes: u32::try_from(bytes.len()).expect("short"),
        hash: *blake3::hash(bytes).as_bytes(),
        items,
        ..entry
    };
    let gap = run(&[batches_of[0].clone(), batches_of[2].clone()]);
    let short = run(&batches_of[..2]);
    let cut = body.slice(..body.len() - 1);

    let whole = entry.open(&body).unwrap();
    assert_eq!(whole, Chunk::Batches(batches_of.iter().map(|batch| batch.bytes().clone()).collect()));
    assert_eq!(entry.open(&cut), Err(BundleError::ChunkHash));
    assert_eq!(entry.open(&Bytes::from(vec![0; body.len()])), Err(BundleError::ChunkHash));
    for (bytes, items) in [(&gap, 2), (&short, 2), (&cut, 3), (&body, 2)] {
        assert_eq!(with_hash(bytes, items).open(bytes), Err(BundleError::ChunkForm));
    }
    let (entry, bytes) = records([Bytes::from_static(b"one"), Bytes::from_static(b"")]).remove(0);
    let held = [Bytes::from_static(b"one"), Bytes::new()];
    assert_eq!(entry.open(&bytes), Ok(Chunk::Records(held.to_vec())));
    let odd = Bytes::from_static(&[0, 0, 0, 9, 1]);
    let odd_entry = ChunkEntry { bytes: 5, hash: *blake3::hash(&odd).as_bytes(), items: 1, ..entry };
    assert_eq!(odd_entry.open(&odd), Err(BundleError::ChunkForm));
}

#[test]
fn records_and_acks_are_spread_over_chunks_within_their_limit() {
    let item = Bytes::from(vec![5; 400 * 1024]);

    let chunks = acks(vec![item.clone(); 5]);

    assert_eq!(chunks.len(), 3);
    let opened: usize = chunks
        .iter()
        .map(|(entry, bytes)| match entry.open(bytes) {
            Ok(Chunk::Acks(acks)) => acks.len(),
            other => panic!("{other:?}"),
        })
        .sum();
    assert_eq!(opened, 5);
    assert!(records([]).is_empty());
    assert_eq!(batches(&Bytes::new()), None);
    assert_eq!(batches(&Bytes::from_static(b"no batch")), None);
}

proptest! {
    #[test]
    fn any_bytes_read_or_are_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), small in 0u8..3) {
        let _ = BundleHead::parse(&bytes);
        if bytes.len() >= 72 {
            bytes[..4].copy_from_slice(MAGIC);
            bytes[60..72].copy_from_slice(&[0, 0, 0, small, 0, 0, 0, small, 0, 0, 0, small]);
            prop_assert!(BundleHead::parse(&bytes).is_err());
        }
    }

    #[test]
    fn any_chunk_opens_or_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0u8..7, items in 0u32..4) {
        let range = LogRange { log: log(), first: Seq::new(1), last: Seq::new(2) };
        let kind = match kind {
            0 => ChunkKind::Records,
            1 => ChunkKind::Batches(range),
            2 => ChunkKind::Acks,
            3 => ChunkKind::Manifests,
            4 => ChunkKind::Attestations,
            5 => ChunkKind::Chunks,
            other => ChunkKind::Unknown(u16::from(other)),
        };
        let bytes = Bytes::from(bytes);
        let hash = *blake3::hash(&bytes).as_bytes();
        let entry = ChunkEntry { kind, items, bytes: u32::try_from(bytes.len()).expect("short"), hash };
        let _ = entry.open(&bytes);
    }
}
