//! Identifiers, each its own type, with one text form each.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Text that names no identifier.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IdError {
    /// The text has another length than the identifier's form.
    #[error("an identifier of this kind has {expected} characters, this text has {found}")]
    Length {
        /// Characters expected, separators not counted.
        expected: usize,
        /// Characters found.
        found: usize,
    },
    /// A character outside the alphabet.
    #[error("{found:?} does not occur in an identifier (letters a-z and digits 2-7)")]
    Character {
        /// The character.
        found: char,
    },
    /// The check character does not fit: something was mistyped.
    #[error("the check character does not fit: one of the characters is mistyped")]
    Check,
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Takes the raw bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            /// Lower-case hexadecimal.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0[..4])
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hex::<$len>(text).map(Self)
            }
        }
    };
}

bytes_id!(
    /// A space: BLAKE3 of its genesis record.
    SpaceId, 32
);
bytes_id!(
    /// The part of a space's identity that travels in clear in a batch header.
    ScopeTag, 16
);
bytes_id!(
    /// An epoch key's public name.
    KeyId, 16
);
bytes_id!(
    /// An op's public name: BLAKE3 over its identity and its bytes.
    OpId, 32
);
bytes_id!(
    /// The hash of a space's folded state.
    Root, 32
);
bytes_id!(
    /// The link hash of a log's last batch: what the next batch names as `prev`.
    TipHash, 32
);
bytes_id!(
    /// The hash of one roster record's received bytes.
    RecordHash, 32
);

bytes_id!(
    /// The hash of a certificate that names a host of the lease register.
    CertHash, 32
);

impl CertHash {
    /// What stands where a token was given without naming its certificate.
    pub const NONE: Self = Self([0; 32]);
}

impl TipHash {
    /// What the first batch of a log names as its predecessor.
    pub const NONE: Self = Self([0; 32]);
}

impl SpaceId {
    /// The tag that names this space in batch headers: `BLAKE3("kinfold scope v1" ‖ id)[..16]`.
    pub fn tag(&self) -> ScopeTag {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"kinfold scope v1");
        hasher.update(&self.0);
        let mut tag = [0; 16];
        tag.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        ScopeTag(tag)
    }
}

/// A device: its 32-byte Ed25519 public key.
///
/// Text form: lower-case base32 (RFC 4648 alphabet, no padding) in groups of 7 joined by `-`, with
/// a check character at the end. [`DeviceId::short`] is the first 7 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId([u8; 32]);

impl DeviceId {
    /// Takes the raw public key. Whether it is a point of the curve is checked where a signature is.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 7 characters of the text form: for people and logs, never for programs.
    pub fn short(&self) -> String {
        base32(&self.0[..5])[..7].to_owned()
    }

    fn check_character(&self) -> char {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"kinfold device check v1");
        hasher.update(&self.0);
        char::from(ALPHABET[usize::from(hasher.finalize().as_bytes()[0] & 31)])
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = base32(&self.0);
        text.push(self.check_character());
        for (index, character) in text.chars().enumerate() {
            if index > 0 && index % 7 == 0 {
                f.write_str("-")?;
            }
            write!(f, "{character}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for DeviceId {
    type Err = IdError;

    /// Accepts any case and any placing of `-` and spaces.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut values = Vec::with_capacity(DEVICE_CHARACTERS);
        for character in text.chars().filter(|c| *c != '-' && *c != ' ') {
            let lower = character.to_ascii_lowercase();
            let Some(value) = ALPHABET.iter().position(|a| char::from(*a) == lower) else {
                return Err(IdError::Character { found: character });
            };
            values.push(u8::try_from(value).expect("the alphabet has 32 characters"));
        }
        if values.len() != DEVICE_CHARACTERS {
            return Err(IdError::Length { expected: DEVICE_CHARACTERS, found: values.len() });
        }
        let check = values.pop().expect("the length was just checked");
        let mut bytes = [0; 32];
        let (mut accumulator, mut bits, mut at) = (0u32, 0u32, 0usize);
        for value in values {
            accumulator = (accumulator << 5) | u32::from(value);
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                bytes[at] = (accumulator >> bits) as u8;
                at += 1;
                accumulator &= (1 << bits) - 1;
            }
        }
        let id = Self(bytes);
        // 52 characters carry 260 bits; the 4 that are left over must be zero, or two texts name one device.
        if accumulator != 0 || id.check_character() != char::from(ALPHABET[usize::from(check)]) {
            return Err(IdError::Check);
        }
        Ok(id)
    }
}

/// A random number that tells one life of a device's log from another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Incarnation(u64);

impl Incarnation {
    /// Takes the raw number.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }
    /// The raw number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The position of an op in its log, from 1; [`Seq::ZERO`] stands before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Seq(u64);

impl Seq {
    /// The place before the first op.
    pub const ZERO: Self = Self(0);

    /// Takes the raw number.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }
    /// The raw number.
    pub const fn get(self) -> u64 {
        self.0
    }
    /// The next position; saturates at `u64::MAX`.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
    /// This position moved on by `count`; saturates at `u64::MAX`.
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One log: a device and an incarnation of its writer. Ordered by device, then incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LogId {
    /// The device that signs the log.
    pub device: DeviceId,
    /// Which life of that device's writer.
    pub incarnation: Incarnation,
}

impl LogId {
    /// The log as its 40-byte canonical form: device, then incarnation big-endian.
    pub fn to_bytes(self) -> [u8; 40] {
        let mut bytes = [0; 40];
        bytes[..32].copy_from_slice(self.device.as_bytes());
        bytes[32..].copy_from_slice(&self.incarnation.0.to_be_bytes());
        bytes
    }

    /// Reads the 40-byte canonical form.
    pub fn from_bytes(bytes: &[u8; 40]) -> Self {
        let (device, incarnation) = bytes.split_at(32);
        Self {
            device: DeviceId(device.try_into().expect("split at 32")),
            incarnation: Incarnation(u64::from_be_bytes(incarnation.try_into().expect("40 - 32 is 8"))),
        }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:016x}", self.device, self.incarnation.0)
    }
}

impl FromStr for LogId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let Some((device, incarnation)) = text.split_once('/') else {
            return Err(IdError::Length { expected: DEVICE_CHARACTERS + 17, found: text.len() });
        };
        let raw = parse_hex::<8>(incarnation)?;
        Ok(Self { device: device.parse()?, incarnation: Incarnation(u64::from_be_bytes(raw)) })
    }
}

/// One op's place: its log and its position there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Dot {
    /// The log.
    pub log: LogId,
    /// The position in it.
    pub seq: Seq,
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], IdError> {
    let found = text.chars().count();
    if found != 2 * N {
        return Err(IdError::Length { expected: 2 * N, found });
    }
    let mut bytes = [0; N];
    for (index, character) in text.chars().enumerate() {
        let Some(digit) = character.to_digit(16) else {
            return Err(IdError::Character { found: character });
        };
        bytes[index / 2] = (bytes[index / 2] << 4) | digit as u8;
    }
    Ok(bytes)
}

fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut accumulator, mut bits) = (0u32, 0u32);
    for byte in bytes {
        accumulator = (accumulator << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[(accumulator >> bits) as usize & 31]));
            accumulator &= (1 << bits) - 1;
        }
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[(accumulator << (5 - bits)) as usize & 31]));
    }
    text
}

/// RFC 4648 base32, lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// 52 characters of key and one check character.
const DEVICE_CHARACTERS: usize = 53;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_text_reads_back_in_any_case_and_spacing() {
        for seed in 0..64u8 {
            let id = DeviceId::from_bytes(*blake3::hash(&[seed]).as_bytes());
            let text = id.to_string();

            assert_eq!(text.parse(), Ok(id));
            assert_eq!(text.to_uppercase().replace('-', " ").parse(), Ok(id));
            assert!(text.starts_with(&id.short()));
        }
    }

    #[test]
    fn a_mistyped_device_is_refused() {
        let text = DeviceId::from_bytes([7; 32]).to_string();

        assert!(matches!("abc".parse::<DeviceId>(), Err(IdError::Length { .. })));
        assert_eq!(text.replace('-', "1").parse::<DeviceId>(), Err(IdError::Character { found: '1' }));
        let mut mistyped: Vec<char> = text.chars().collect();
        mistyped[0] = if mistyped[0] == 'a' { 'b' } else { 'a' };
        let mistyped: String = mistyped.into_iter().collect();
        assert_eq!(mistyped.parse::<DeviceId>(), Err(IdError::Check));
    }

    #[test]
    fn log_text_and_bytes_read_back() {
        let log = LogId { device: DeviceId::from_bytes([9; 32]), incarnation: Incarnation::new(77) };

        assert_eq!(log.to_string().parse(), Ok(log));
        assert_eq!(LogId::from_bytes(&log.to_bytes()), log);
    }

    #[test]
    fn hex_ids_read_back() {
        let id = OpId::from_bytes([0xab; 32]);

        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("zz".repeat(32).parse::<OpId>().is_err());
    }
}
