//! Replays the corpus of every decoder that reads what a peer sends.
//!
//! Each file under `tests/fuzz/corpus/<decoder>/` is one input, and its name begins with what must
//! become of it: `read-` or `refused-`. An input that a fuzzer finds is added here under its name.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use kinfold::fold::conversation::Turn;
use kinfold::model::{Payload, SpaceId};
use kinfold::roster::Roster;
use kinfold::wire::{Ack, Message, OpView, PairFrame, Welcome};

fn replay(decoder: &str, reads: impl Fn(&[u8]) -> Result<(), String>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(decoder);
    let mut input_count = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is part of the source") {
        let path = entry.expect("the corpus is readable").path();
        let name = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
        let outcome = reads(&fs::read(&path).expect("the corpus is readable"));
        match name.split_once('-').expect("names say what becomes of the input").0 {
            "read" => assert_eq!(outcome, Ok(()), "{name}"),
            "refused" => assert!(outcome.is_err(), "{name} was read"),
            other => panic!("{name}: {other} is no outcome"),
        }
        input_count += 1;
    }
    assert!(input_count > 0, "{} is empty", folder.display());
}

#[test]
fn every_message_of_the_corpus_is_read_or_refused_as_its_name_says() {
    replay("message", |bytes| Message::decode(bytes).map(drop).map_err(|error| error.to_string()));
}

#[test]
fn every_ack_of_the_corpus_is_read_or_refused_as_its_name_says() {
    replay("ack", |bytes| {
        let ack = Ack::parse(bytes).map_err(|error| error.to_string())?;
        ack.verify().map_err(|error| error.to_string())
    });
}

#[test]
fn every_record_of_the_corpus_is_read_or_refused_as_its_name_says() {
    let genesis = Bytes::from_static(include_bytes!("../fuzz/corpus/record/read-genesis"));
    let space: SpaceId = GOLDEN_SPACE.parse().expect("it is 64 hexadecimal digits");
    let roster = Roster::load(space, [genesis]).expect("the golden genesis holds");

    replay("record", |bytes| {
        let admitted = roster.clone().admit(Bytes::copy_from_slice(bytes));
        admitted.map(drop).map_err(|error| error.to_string())
    });
}

#[test]
fn every_pairing_frame_of_the_corpus_is_read_or_refused_as_its_name_says() {
    replay("pairing", |bytes| PairFrame::decode(bytes).map(drop).map_err(|error| error.to_string()));
}

#[test]
fn every_welcome_of_the_corpus_is_read_or_refused_as_its_name_says() {
    replay("welcome", |bytes| {
        Welcome::decode(Bytes::copy_from_slice(bytes)).map(drop).map_err(|error| error.to_string())
    });
}

/// An input is kind u16 BE ‖ flags u8 ‖ body.
#[test]
fn every_op_of_the_corpus_is_read_or_refused_as_its_name_says() {
    replay("op", |bytes| {
        let (head, body) = bytes.split_first_chunk::<3>().expect("an input has a kind and flags");
        let kind = u16::from_be_bytes([head[0], head[1]]);
        OpView::decode(kind, head[2], body).map(drop).map_err(|problem| format!("{problem:?}"))
    });
}

#[test]
fn every_turn_of_the_corpus_is_read_or_refused_as_its_name_says() {
    replay("turn", |bytes| {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let payload = Payload::parse(text).map_err(|error| error.to_string())?;
        Turn::parse(&payload).map(drop).map_err(|error| error.to_string())
    });
}

#[test]
fn every_bundle_of_the_corpus_is_read_or_refused_as_its_name_says() {
    replay("bundle", |bytes| crate::bundles::read(bytes).map(drop));
}

/// The space of `tests/data/records-v1.json`.
const GOLDEN_SPACE: &str = "ec6e44ed2714d25c8c74d34ed352f2af72b5ef397d08828f5ca18318f5ac84c1";
