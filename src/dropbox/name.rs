//! Names of objects: what is inside, how long it is, and its hash.
//!
//! `KIND.WRITER.….BYTES.HASH.kfx`, all numbers in lower-case hexadecimal:
//!
//! | kind | between writer and bytes |
//! |---|---|
//! | `b` batches of one log | log tag 16 digits, first position, last position, first 16 digits of the link at its end |
//! | `r` a roster | first 16 digits of its digest |
//! | `a` acks | nothing |
//! | `c` part of a checkpoint | first 16 digits of its name, number of the part; 0 is its manifest with attestations |
//!
//! Writer and log are tags, so that a list of names tells no device: the first 8 bytes of
//! `BLAKE3("kinfold drop box writer v1" ‖ space 32 ‖ device 32)` and of
//! `BLAKE3("kinfold drop box log v1" ‖ space 32 ‖ log 40)`. The hash is the first 16 bytes of the
//! BLAKE3 of all bytes. Other kinds are left alone: a later version may have put them there.

use std::fmt;

use crate::model::{DeviceId, LogId, Seq, SpaceId};

/// Who has put an object there, in a form that names no device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct WriterTag([u8; 8]);

impl WriterTag {
    /// The tag of a device.
    pub fn of(space: &SpaceId, device: &DeviceId) -> Self {
        Self(tag(b"kinfold drop box writer v1", space, device.as_bytes()))
    }
}

/// Which log an object is of, in a form that names no device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LogTag([u8; 8]);

impl LogTag {
    /// The tag of a log.
    pub fn of(space: &SpaceId, log: &LogId) -> Self {
        Self(tag(b"kinfold drop box log v1", space, &log.to_bytes()))
    }
}

/// What an object holds, as far as its name tells.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Consecutive batches of one log.
    Batches {
        /// Which.
        log: LogTag,
        /// The position of the first op.
        first: Seq,
        /// The position of the last op.
        last: Seq,
        /// The beginning of the link of the last batch.
        link: [u8; 8],
    },
    /// A whole roster.
    Roster {
        /// The beginning of its digest.
        digest: [u8; 8],
    },
    /// Acks.
    Acks,
    /// Part of a checkpoint.
    Checkpoint {
        /// The beginning of its name.
        checkpoint: [u8; 8],
        /// Which part; 0 is its manifest with attestations.
        part: u32,
    },
}

/// The name of an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ObjectName {
    /// What it holds.
    pub kind: Kind,
    /// Who has put it there.
    pub writer: WriterTag,
    /// Its length.
    pub bytes: u64,
    /// The beginning of the hash of its bytes.
    pub hash: [u8; 16],
}

impl ObjectName {
    /// Names bytes.
    pub fn new(kind: Kind, writer: WriterTag, bytes: &[u8]) -> Self {
        Self { kind, writer, bytes: bytes.len() as u64, hash: hash_of(bytes) }
    }

    /// Whether these are the bytes that are named.
    pub fn names(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == self.bytes && hash_of(bytes) == self.hash
    }

    /// Reads the name of a file: an object's own, or what a synced folder makes of it for a second
    /// copy, with something before (after a blank) or behind. `None` for any other file.
    pub fn parse(file: &str) -> Option<Self> {
        if file.len() > NAME_BYTES_MAX {
            return None;
        }
        let behind_blanks = file.match_indices(' ').filter_map(|(at, _)| file.get(at + 1..));
        std::iter::once(file).chain(behind_blanks).find_map(Self::parse_front)
    }

    fn parse_front(text: &str) -> Option<Self> {
        let mut fields = text.split('.');
        let kind = fields.next()?;
        let writer = WriterTag(digits(fields.next()?)?);
        let kind = match kind {
            "b" => Kind::Batches {
                log: LogTag(digits(fields.next()?)?),
                first: Seq::new(number(fields.next()?).filter(|first| *first > 0)?),
                last: Seq::new(number(fields.next()?)?),
                link: digits(fields.next()?)?,
            },
            "r" => Kind::Roster { digest: digits(fields.next()?)? },
            "a" => Kind::Acks,
            "c" => Kind::Checkpoint {
                checkpoint: digits(fields.next()?)?,
                part: number(fields.next()?).and_then(|part| u32::try_from(part).ok())?,
            },
            _ => return None,
        };
        if let Kind::Batches { first, last, .. } = kind
            && (last < first || last.get() == u64::MAX)
        {
            return None;
        }
        let bytes = number(fields.next()?)?;
        let hash = digits(fields.next()?.get(..32)?)?;
        Some(Self { kind, writer, bytes, hash })
    }

    /// Whether it holds batches that continue a log of this tag from `next` on.
    pub fn continues(&self, tag: LogTag, next: Seq) -> Option<(Seq, [u8; 8])> {
        match self.kind {
            Kind::Batches { log, first, last, link } if log == tag && first <= next && next <= last => {
                Some((last, link))
            }
            Kind::Batches { .. } | Kind::Roster { .. } | Kind::Acks | Kind::Checkpoint { .. } => None,
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let writer = hex(&self.writer.0);
        match &self.kind {
            Kind::Batches { log, first, last, link } => {
                let (log, link) = (hex(&log.0), hex(link));
                write!(f, "b.{writer}.{log}.{:x}.{:x}.{link}", first.get(), last.get())?;
            }
            Kind::Roster { digest } => write!(f, "r.{writer}.{}", hex(digest))?,
            Kind::Acks => write!(f, "a.{writer}")?,
            Kind::Checkpoint { checkpoint, part } => write!(f, "c.{writer}.{}.{part:x}", hex(checkpoint))?,
        }
        write!(f, ".{:x}.{}.kfx", self.bytes, hex(&self.hash))
    }
}

fn tag(domain: &[u8], space: &SpaceId, of: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain);
    hasher.update(space.as_bytes());
    hasher.update(of);
    *hasher.finalize().as_bytes().first_chunk().expect("32 bytes hold 8")
}

fn hash_of(bytes: &[u8]) -> [u8; 16] {
    *blake3::hash(bytes).as_bytes().first_chunk().expect("32 bytes hold 16")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digits<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(is_digit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

fn number(text: &str) -> Option<u64> {
    if text.bytes().all(is_digit) { u64::from_str_radix(text, 16).ok() } else { None }
}

const fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a' <= byte && byte <= b'f')
}

/// A longer name is no object's, nor a copy's.
const NAME_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Incarnation;
    use proptest::prelude::*;

    fn sample(kind: Kind) -> ObjectName {
        let space = SpaceId::from_bytes([1; 32]);
        ObjectName::new(kind, WriterTag::of(&space, &DeviceId::from_bytes([2; 32])), b"held")
    }

    fn batches() -> Kind {
        let log = LogId { device: DeviceId::from_bytes([2; 32]), incarnation: Incarnation::new(3) };
        let log = LogTag::of(&SpaceId::from_bytes([1; 32]), &log);
        Kind::Batches { log, first: Seq::new(10), last: Seq::new(300), link: [7; 8] }
    }

    #[test]
    fn names_are_what_they_were() {
        let name = sample(batches()).to_string();
        assert_eq!(
            name,
            "b.0be7dd31500c47f2.6d8746c15f2a93fe.a.12c.0707070707070707.4.e0e806811d05c9e844b01e84082545f7.kfx"
        );
        assert_eq!(
            sample(Kind::Roster { digest: [8; 8] }).to_string(),
            "r.0be7dd31500c47f2.0808080808080808.4.e0e806811d05c9e844b01e84082545f7.kfx"
        );
        assert_eq!(
            sample(Kind::Acks).to_string(),
            "a.0be7dd31500c47f2.4.e0e806811d05c9e844b01e84082545f7.kfx"
        );
        assert_eq!(
            sample(Kind::Checkpoint { checkpoint: [9; 8], part: 18 }).to_string(),
            "c.0be7dd31500c47f2.0909090909090909.12.4.e0e806811d05c9e844b01e84082545f7.kfx"
        );
        // Encrypted folders leave names of 143 bytes.
        let longest = Kind::Batches {
            log: LogTag([0; 8]),
            first: Seq::new(u64::MAX - 1),
            last: Seq::new(u64::MAX - 1),
            link: [0; 8],
        };
        assert!(sample(longest).to_string().len() <= 143);
    }

    #[test]
    fn a_name_reads_back_also_from_what_synced_folders_make_of_it() {
        let part = Kind::Checkpoint { checkpoint: [9; 8], part: u32::MAX };
        for kind in [batches(), Kind::Roster { digest: [8; 8] }, Kind::Acks, part] {
            let name = sample(kind);
            let text = name.to_string();
            let stem = text.strip_suffix(".kfx").unwrap();
            for copy in [
                text.clone(),
                format!("{stem} (1).kfx"),
                format!("{stem} 2.kfx"),
                format!("{stem}.sync-conflict-20260101-120000-ABCDEFG.kfx"),
                format!("Copy of {text}"),
                format!("{stem} (laptop's conflicted copy).kfx"),
            ] {
                assert_eq!(ObjectName::parse(&copy), Some(name), "{copy}");
            }
            assert!(name.names(b"held") && !name.names(b"helt") && !name.names(b"hel"));
        }
    }

    #[test]
    fn other_files_have_no_name() {
        let text = sample(batches()).to_string();
        for other in [
            "",
            "README.txt",
            ".DS_Store",
            "c.0011223344556677.1.00112233445566770011223344556677.kfx",
            &text[..text.len() - 20],
            &text.replace(".a.12c.", ".12c.a."),
            &text.replace(".a.", ".0."),
            &text.to_uppercase(),
            &"a".repeat(300),
        ] {
            assert_eq!(ObjectName::parse(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_read_or_passed_over(text in "\\PC{0,200}", fields in "[brac](\\.[0-9a-f]{0,34}){0,8}") {
            let _ = ObjectName::parse(&text);
            if let Some(name) = ObjectName::parse(&fields) {
                prop_assert_eq!(ObjectName::parse(&name.to_string()), Some(name));
            }
        }
    }
}
