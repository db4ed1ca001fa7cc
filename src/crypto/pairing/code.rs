//! What a person carries from one screen to the other: the code, and the secrets of an invite.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Text that is no pairing code.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CodeError {
    /// Too few or too many characters, dashes and spaces not counted.
    #[error("a code has {expected} letters and digits, this one has {found}")]
    Length {
        /// Characters a code has.
        expected: usize,
        /// Characters found.
        found: usize,
    },
    /// A character that no code has.
    #[error("{found:?} does not occur in a code: digits, and letters but U")]
    Character {
        /// The character.
        found: char,
    },
}

/// Which of the running invites is meant: 10 bits, announced in clear.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct InviteId([u8; Self::CHARACTERS]);

impl InviteId {
    /// Characters of the text form.
    pub const CHARACTERS: usize = 2;

    /// Reads two characters of the code's alphabet, forgiving as [`Code`] is.
    ///
    /// # Errors
    /// Every variant of [`CodeError`].
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        characters::<{ Self::CHARACTERS }>(text).map(|characters| Self(*characters))
    }

    /// Takes the two characters as they travel; `None` where one is not of the alphabet.
    pub fn from_bytes(bytes: [u8; Self::CHARACTERS]) -> Option<Self> {
        bytes.iter().all(|byte| ALPHABET.contains(byte)).then_some(Self(bytes))
    }

    /// The two characters, ASCII.
    pub const fn as_bytes(&self) -> &[u8; Self::CHARACTERS] {
        &self.0
    }
}

impl fmt::Display for InviteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).expect("the alphabet is ASCII"))
    }
}

impl fmt::Debug for InviteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Nine characters: two that find the invite, and seven (35 bits) that are its secret.
///
/// Shown as `XXX-XXX-XXX` in Crockford's base32, without I, L, O and U. Read in any case, with
/// dashes and spaces anywhere, I and L as 1, O as 0.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Code([u8; Self::CHARACTERS]);

impl Code {
    /// Characters of a code, dashes not counted.
    pub const CHARACTERS: usize = 9;

    /// Makes a code of 45 of the 64 random bits given.
    pub fn from_entropy(entropy: [u8; 8]) -> Self {
        let bits = Zeroizing::new(u64::from_be_bytes(entropy));
        Self(std::array::from_fn(|index| ALPHABET[(*bits >> (5 * index) & 31) as usize]))
    }

    /// Which invite it is for.
    pub fn invite(&self) -> InviteId {
        InviteId(*self.0.first_chunk().expect("a code is longer than an invite id"))
    }

    /// What both sides must know.
    pub fn secret(&self) -> Secret {
        Secret { kind: SecretKind::Code, bytes: self.0[InviteId::CHARACTERS..].to_vec() }
    }

    /// The code as it is shown to a person and to nobody else.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(Self::CHARACTERS + 2));
        for (index, character) in self.0.iter().enumerate() {
            if index > 0 && index % 3 == 0 {
                text.push('-');
            }
            text.push(char::from(*character));
        }
        text
    }
}

impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        characters::<{ Self::CHARACTERS }>(text).map(|characters| Self(*characters))
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({}..)", self.invite())
    }
}

/// Which secret of an invite a joiner knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SecretKind {
    /// The seven characters of the code: 35 bits.
    Code,
    /// The `s` of the link: 128 bits.
    Link,
}

impl SecretKind {
    /// The byte that travels.
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Code => 1,
            Self::Link => 2,
        }
    }

    /// The kind of a byte that travelled.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Code),
            2 => Some(Self::Link),
            _ => None,
        }
    }
}

/// What both sides of one invite know.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret {
    #[zeroize(skip)]
    kind: SecretKind,
    bytes: Vec<u8>,
}

impl Secret {
    /// The 16 bytes of a link.
    pub fn from_link(bytes: [u8; 16]) -> Self {
        Self { kind: SecretKind::Link, bytes: bytes.to_vec() }
    }

    /// Which secret it is.
    pub const fn kind(&self) -> SecretKind {
        self.kind
    }

    /// What SPAKE2 takes as its password.
    pub(super) fn password(&self, invite: InviteId) -> Zeroizing<[u8; 32]> {
        let mut hasher = blake3::Hasher::new_derive_key("kinfold pair secret v1");
        hasher.update(&[self.kind.to_byte()]);
        hasher.update(invite.as_bytes());
        hasher.update(&self.bytes);
        Zeroizing::new(*hasher.finalize().as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({:?})", self.kind)
    }
}

/// Brings what a person typed into the one form, where it is one.
fn characters<const N: usize>(text: &str) -> Result<Zeroizing<[u8; N]>, CodeError> {
    let mut characters = Zeroizing::new([0; N]);
    let mut found = 0;
    for character in text.chars().filter(|character| !is_separator(*character)) {
        let canonical = match character.to_ascii_uppercase() {
            'I' | 'L' => '1',
            'O' => '0',
            other => other,
        };
        if !ALPHABET.iter().any(|known| char::from(*known) == canonical) {
            return Err(CodeError::Character { found: character });
        }
        if let Some(place) = characters.get_mut(found) {
            *place = u8::try_from(canonical).expect("the alphabet is ASCII");
        }
        found += 1;
    }
    if found == N { Ok(characters) } else { Err(CodeError::Length { expected: N, found }) }
}

/// What people and their keyboards put between groups.
const fn is_separator(character: char) -> bool {
    matches!(character, '-' | ' ' | '\t' | '\u{2010}'..='\u{2015}' | '\u{a0}')
}

/// Crockford's base32.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_code_is_read_however_it_is_typed() {
        let code: Code = "7QK-014-XYZ".parse().unwrap();

        for text in ["7qk014xyz", " 7QK 0l4 xyz ", "7-q-k-o-i-4-x-y-z", "7QK–O14—XYZ", "7QK\u{a0}014\tXYZ"]
        {
            assert_eq!(text.parse(), Ok(code.clone()), "{text}");
        }
        assert_eq!(*code.to_text(), "7QK-014-XYZ");
        assert_eq!(code.invite(), InviteId::parse("7q").unwrap());
    }

    #[test]
    fn what_is_no_code_is_refused_by_name() {
        let length = |found| Err(CodeError::Length { expected: 9, found });

        assert_eq!("".parse::<Code>(), length(0));
        assert_eq!("7QK-014-XY".parse::<Code>(), length(8));
        assert_eq!("7QK-014-XYZ-7".parse::<Code>(), length(10));
        assert_eq!("7QK-014-XYU".parse::<Code>(), Err(CodeError::Character { found: 'U' }));
        assert_eq!("7QK-014-XYé".parse::<Code>(), Err(CodeError::Character { found: 'é' }));
        assert_eq!(InviteId::parse("7"), Err(CodeError::Length { expected: 2, found: 1 }));
    }

    #[test]
    fn no_secret_prints_itself() {
        let code: Code = "7QK-014-XYZ".parse().unwrap();

        assert_eq!(format!("{code:?}"), "Code(7Q..)");
        assert_eq!(format!("{:?}", code.secret()), "Secret(Code)");
    }

    #[test]
    fn a_password_depends_on_kind_invite_and_secret() {
        let code: Code = "7QK-014-XYZ".parse().unwrap();
        let other: Code = "7QK-014-XYY".parse().unwrap();
        let id = code.invite();
        let same_bytes = Secret { kind: SecretKind::Link, bytes: code.secret().bytes.clone() };

        assert_ne!(code.secret().password(id), other.secret().password(id));
        assert_ne!(code.secret().password(id), same_bytes.password(id));
        assert_ne!(code.secret().password(id), code.secret().password(InviteId::parse("7R").unwrap()));
    }

    proptest! {
        #[test]
        fn every_code_reads_back(entropy in any::<[u8; 8]>()) {
            let code = Code::from_entropy(entropy);

            prop_assert_eq!(code.to_text().parse(), Ok(code.clone()));
            prop_assert_eq!(code.to_text().len(), 11);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,20}") {
            let _ = text.parse::<Code>();
        }
    }
}
