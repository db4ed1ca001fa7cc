//! The workload of the benchmarks: 16-byte ids and about 150 bytes of JSON, words and numbers.

use kinfold::model::{Payload, Surface};
use kinfold::node::NewOp;

/// The surface written to.
pub fn note() -> Surface {
    "registry:bench".parse().expect("a surface")
}

/// The 16-byte id of a row.
pub fn key(index: u64) -> String {
    blake3::hash(&index.to_be_bytes()).to_hex()[..16].to_owned()
}

/// A write of a row.
pub fn put(index: u64) -> NewOp {
    NewOp::Put { surface: note(), key: key(index), payload: payload(index) }
}

/// About 150 bytes of JSON that does not compress to nothing.
pub fn payload(seed: u64) -> Payload {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5555_aaaa;
    let mut draw = |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % bound
    };
    let words: Vec<&str> = (0..9).map(|_| WORDS[draw(WORDS.len() as u64) as usize]).collect();
    let text = format!(
        "{{\"title\":\"{}\",\"text\":\"{}\",\"count\":{},\"price\":{}.{:02},\"done\":{}}}",
        words[..3].join(" "),
        words[3..].join(" "),
        draw(1_000_000),
        draw(10_000),
        draw(100),
        draw(2) == 0
    );
    Payload::parse(&text).expect("written above")
}

const WORDS: &[&str] = &[
    "amber", "basket", "candle", "distant", "early", "fabric", "garden", "harbor", "island", "jacket",
    "kettle", "ladder", "marble", "needle", "orange", "pencil", "quiet", "ribbon", "silver", "timber",
    "umbrella", "velvet", "window", "yellow", "zephyr", "anchor", "bridge", "copper", "dragon", "engine",
    "forest", "glacier", "hollow", "ivory", "jungle", "kernel", "lantern", "meadow", "nectar", "oyster",
    "pebble", "quarry", "rocket", "saddle", "temple", "urchin", "violet", "walnut", "yonder", "zigzag",
];
