//! Four words that both screens show after pairing, for people who like to compare.

use std::fmt;

/// The same at both ends of one exchange; of two exchanges, one in four thousand million agrees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Phrase([u8; 4]);

impl Phrase {
    pub(super) const fn new(bytes: [u8; 4]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Phrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0.map(|byte| WORDS[usize::from(byte)]);
        f.write_str(first)?;
        rest.iter().try_for_each(|word| write!(f, " {word}"))
    }
}

/// Short words that are written and said alike and mean something one can picture.
#[rustfmt::skip]
const WORDS: [&str; 256] = [
    "acid", "acorn", "actor", "adobe", "agent", "alarm", "album", "alley", "amber", "anchor", "angel",
    "ankle", "apple", "april", "apron", "arch", "arena", "arrow", "atlas", "aunt", "autumn", "award",
    "bacon", "badge", "baker", "bamboo", "banjo", "barn", "basil", "basket", "beach", "bean", "bear",
    "berry", "bird", "bishop", "blanket", "board", "boat", "bone", "book", "boot", "bottle", "bread",
    "brick", "bridge", "broom", "brush", "bucket", "bugle", "bus", "butter", "button", "cabin", "cable",
    "cactus", "camel", "camera", "candle", "canoe", "carbon", "card", "carpet", "castle", "cello",
    "chair", "chalk", "cherry", "chess", "church", "circle", "clay", "cliff", "clock", "cloud", "clover",
    "coach", "coast", "cobra", "coffee", "coin", "comet", "copper", "coral", "cotton", "crane", "crown",
    "curtain", "daisy", "dance", "dawn", "deer", "desk", "diamond", "dice", "dinner", "doctor", "dolphin",
    "donkey", "door", "dove", "dragon", "drum", "duck", "eagle", "earth", "echo", "elbow", "ember",
    "engine", "fabric", "falcon", "farm", "feather", "fern", "field", "finger", "fire", "flag", "flute",
    "forest", "fox", "frog", "garden", "ghost", "giant", "ginger", "glass", "globe", "glove", "goat",
    "gold", "grape", "guitar", "hammer", "harbor", "hat", "hawk", "hazel", "helmet", "heron", "hill",
    "honey", "horn", "horse", "hotel", "house", "ice", "igloo", "ink", "iris", "iron", "island", "ivory",
    "jacket", "jade", "jelly", "jewel", "jungle", "kettle", "king", "kite", "kitten", "ladder", "lake",
    "lamp", "laser", "lemon", "lily", "lion", "lizard", "lobster", "magnet", "mango", "maple", "marble",
    "market", "meadow", "melon", "mirror", "monkey", "moon", "mountain", "mouse", "museum", "needle",
    "nest", "noodle", "ocean", "olive", "onion", "opera", "orange", "orbit", "otter", "owl", "oyster",
    "paddle", "palace", "panda", "paper", "parrot", "peach", "pearl", "pencil", "penguin", "pepper",
    "piano", "pilot", "planet", "plum", "pocket", "pond", "potato", "prince", "puzzle", "queen", "rabbit",
    "radio", "raven", "ribbon", "river", "robin", "rocket", "rose", "saddle", "sailor", "salmon", "scarf",
    "shark", "shell", "silver", "snow", "spider", "spoon", "spring", "stone", "storm", "sugar", "summit",
    "swan", "table", "tiger", "timber", "tomato", "torch", "tower", "train", "tulip", "tunnel", "turtle",
    "valley", "velvet", "violin", "walnut", "whale",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_word_of_its_own() {
        assert!(WORDS.is_sorted_by(|a, b| a < b));
        assert!(WORDS.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())));
    }

    #[test]
    fn a_phrase_is_four_words() {
        assert_eq!(
            Phrase::new([0, 1, 254, 255]).to_string(),
            format!("acid acorn {} {}", WORDS[254], WORDS[255])
        );
    }
}
