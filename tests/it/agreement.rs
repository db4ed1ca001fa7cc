//! The bytes of a pairing, pinned: frames, keys, welcome and link of one exchange with fixed inputs.

use bytes::Bytes;
use kinfold::crypto::pairing::{Code, Inviter, Joiner, Parties, Session, Terms};
use kinfold::crypto::{EpochKey, Identity};
use kinfold::model::SpaceId;
use kinfold::net::pairing::Link;
use kinfold::wire::{PairFrame, Welcome};
use serde_json::{Value, json};

#[test]
fn an_exchange_is_what_it_was() {
    let golden: Value = serde_json::from_str(include_str!("../data/pairing-v1.json")).expect("it is JSON");

    assert_eq!(exchange(), golden);
}

/// Everything that travels, and what both sides show.
fn exchange() -> Value {
    let code: Code = "7QK-014-XYZ".parse().expect("written here");
    let [inviter, joiner] = [1, 2].map(|seed| Identity::from_secret(&[seed; 32]).device());
    let session = Session { parties: Parties { inviter, joiner }, exported: [3; 32] };
    let terms = Terms { role: 1, scope: "personal".to_owned() };
    let name = |text: &str| text.parse().expect("written here");

    let (at_joiner, hello) = Joiner::start(session, code.invite(), &code.secret(), name("desk"), &[4; 32]);
    let (at_inviter, answer) =
        Inviter::answer(session, &code.secret(), name("laptop"), terms, &hello, &[5; 32]).expect("a share");
    let (waiting, confirm) = at_joiner.answered(&answer).expect("a share");
    let (paired, reply) = at_inviter.check(&confirm).expect("the same code");
    let welcome = welcome().encode().expect("within the limits");
    let sealed = paired.seal(&welcome, &[6; 32]);
    let sealed_bytes = u32::try_from(sealed.len()).expect("short");
    let opened = waiting.check(&reply).expect("the same code").open(&sealed).expect("the same key");
    assert_eq!(Welcome::decode(Bytes::from(opened)), Ok(self::welcome()));

    let link = Link::new(code.invite(), inviter, &[7; 16], vec!["192.168.1.4:5000".parse().unwrap()], 1);
    let frames = [
        PairFrame::Hello(hello),
        PairFrame::Answer(answer),
        PairFrame::Confirm(confirm),
        PairFrame::Grant { confirm: reply, port: 47_650, sealed_bytes },
        PairFrame::Done,
    ];
    json!({
        "frames": frames.map(|frame| hex(&frame.encode())),
        "welcome": hex(&welcome),
        "sealed": hex(&sealed),
        "phrase": paired.phrase().to_string(),
        "link": *link.to_text(),
    })
}

fn welcome() -> Welcome {
    Welcome {
        space: SpaceId::from_bytes([8; 32]),
        records: vec![Bytes::from_static(b"one"), Bytes::from_static(b"three")],
        keys: vec![EpochKey::from_bytes([9; 32])],
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
