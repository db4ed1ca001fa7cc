//! Questions and answers of two devices that look for the first row in which their states differ.
//!
//! Both sides speak of the leaves of the state ([`fold::root`](crate::fold::root)): a *path* of up to
//! [`PATH_NIBBLES_MAX`] nibbles names those whose hash begins with it. The first three nibbles are the
//! levels of the tree under the root, so a path of three is a bucket.
//!
//! | question | bytes |
//! |---|---|
//! | version | 1, is 1 |
//! | basis 32 | what the asking state is a function of; only states of one basis are compared |
//! | kind | 1 |
//! | 1 `Under` | nibble count u8, one byte for each nibble |
//! | 2 `Leaf` | leaf 32 |
//! | 3 `Row` | surface length u8, surface, key length u16, key |
//!
//! | answer | bytes |
//! |---|---|
//! | basis 32 | of the answering state |
//! | kind | 1 |
//! | 1 `Sums` | 16 sums of 32: of the leaves under each longer path |
//! | 2 `Leaves` | count u8, leaves of 32, rising |
//! | 3 `Row` | surface and key as above, count u8, heads of 57: flags, hlc, log 40, seq |
//! | 4 `Nothing` | no such leaf, or no such row |
//! | 5 `Unable` | why u8 |
//!
//! Integers are big-endian.

use thiserror::Error;

use crate::model::limits::KEY_BYTES_MAX;
use crate::model::{Dot, Hlc, LogId, Seq};

/// Bytes that are no question or no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Fewer bytes than the form needs.
    #[error("a message about states ends early")]
    TooShort,
    /// More bytes than the form has.
    #[error("a message about states has {extra} bytes too many")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// A version, kind or reason this kinfold does not know.
    #[error("a message about states holds {found} where this kinfold knows no such number")]
    Unknown {
        /// The number.
        found: u8,
    },
    /// A count or length beyond its limit.
    #[error("a message about states counts {found} where at most {limit} are allowed")]
    TooMany {
        /// What it says.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// Leaves that fall. Two lives of a device may have said two things at one place, which is one leaf twice.
    #[error("the leaves in a message about states are not in order")]
    Order,
    /// A surface or key that is no text.
    #[error("a row in a message about states has a name that is no text")]
    Text,
}

/// A prefix of leaf hashes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct LeafPath(Vec<u8>);

impl LeafPath {
    /// Every leaf.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// The path longer by a nibble; `None` beyond [`PATH_NIBBLES_MAX`].
    pub fn child(&self, nibble: u8) -> Option<Self> {
        if self.0.len() >= PATH_NIBBLES_MAX || nibble > 0xf {
            return None;
        }
        Some(Self(self.0.iter().copied().chain([nibble]).collect()))
    }

    /// How many nibbles it has.
    pub fn depth(&self) -> usize {
        self.0.len()
    }

    /// The nibble of a leaf that follows this path; `None` for a leaf that is not under it.
    pub fn next_nibble(&self, leaf: &[u8; 32]) -> Option<u8> {
        let nibble = |at: usize| (leaf[at / 2] >> (4 - 4 * (at % 2))) & 0xf;
        let is_under = self.0.iter().enumerate().all(|(at, own)| nibble(at) == *own);
        is_under.then(|| nibble(self.0.len()))
    }
}

/// A surface and a key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RowName {
    /// The surface, as text.
    pub surface: String,
    /// The row, entity, stream or run.
    pub key: String,
}

/// One op that a row consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowHead {
    /// The op.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: Hlc,
    /// Whether it removes the row.
    pub is_tombstone: bool,
}

/// What one device asks another about its state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifyQuestion {
    /// What the asking state is a function of.
    pub basis: [u8; 32],
    /// What is asked.
    pub about: VerifyAbout,
}

/// See [`VerifyQuestion`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VerifyAbout {
    /// The leaves under a path: themselves where they are few, their sums where they are many.
    Under(LeafPath),
    /// The row that a leaf is of.
    Leaf([u8; 32]),
    /// A row by its name.
    Row(RowName),
}

/// What the other device says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifyAnswer {
    /// What the answering state is a function of.
    pub basis: [u8; 32],
    /// What is said.
    pub said: VerifySaid,
}

/// See [`VerifyAnswer`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VerifySaid {
    /// The sums of the leaves under each longer path, modulo 2^256, big-endian.
    Sums(Box<[[u8; 32]; 16]>),
    /// Every leaf under the path, rising, at most [`LEAVES_MAX`].
    Leaves(Vec<[u8; 32]>),
    /// A row with its heads, at most [`HEADS_MAX`].
    Row(RowName, Vec<RowHead>),
    /// There is no such leaf or row.
    Nothing,
    /// It cannot be said.
    Unable(VerifyUnable),
}

/// Why a device says nothing of its state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum VerifyUnable {
    /// Its state is of another basis, or has ops in it that are not sealed.
    OtherBasis,
    /// It holds no keys, and so no state.
    Blind,
    /// Its state is still being read.
    Loading,
    /// It answers others already.
    Busy,
}

impl VerifyQuestion {
    /// The byte form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.basis);
        match &self.about {
            VerifyAbout::Under(path) => {
                bytes.extend([UNDER, u8::try_from(path.0.len()).expect("a path is bounded")]);
                bytes.extend_from_slice(&path.0);
            }
            VerifyAbout::Leaf(leaf) => {
                bytes.push(LEAF);
                bytes.extend_from_slice(leaf);
            }
            VerifyAbout::Row(name) => {
                bytes.push(ROW);
                name.write(&mut bytes);
            }
        }
        bytes
    }

    /// Reads the byte form.
    ///
    /// # Errors
    /// Every variant of [`VerifyError`] but [`VerifyError::Order`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, VerifyError> {
        let mut reader = Reader(bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(VerifyError::Unknown { found: version });
        }
        let basis = reader.array()?;
        let about = match reader.u8()? {
            UNDER => {
                let count = reader.count(PATH_NIBBLES_MAX)?;
                let nibbles = reader.slice(count)?;
                if let Some(found) = nibbles.iter().copied().find(|nibble| *nibble > 0xf) {
                    return Err(VerifyError::Unknown { found });
                }
                VerifyAbout::Under(LeafPath(nibbles.to_vec()))
            }
            LEAF => VerifyAbout::Leaf(reader.array()?),
            ROW => VerifyAbout::Row(reader.name()?),
            found => return Err(VerifyError::Unknown { found }),
        };
        reader.end()?;
        Ok(Self { basis, about })
    }
}

impl VerifyAnswer {
    /// The byte form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.basis.to_vec();
        match &self.said {
            VerifySaid::Sums(sums) => {
                bytes.push(SUMS);
                sums.iter().for_each(|sum| bytes.extend_from_slice(sum));
            }
            VerifySaid::Leaves(leaves) => {
                bytes.extend([LEAVES, u8::try_from(leaves.len()).expect("leaves are bounded")]);
                leaves.iter().for_each(|leaf| bytes.extend_from_slice(leaf));
            }
            VerifySaid::Row(name, heads) => {
                bytes.push(ROW);
                name.write(&mut bytes);
                bytes.push(u8::try_from(heads.len()).expect("heads are bounded"));
                heads.iter().for_each(|head| head.write(&mut bytes));
            }
            VerifySaid::Nothing => bytes.push(NOTHING),
            VerifySaid::Unable(why) => bytes.extend([UNABLE, why.to_byte()]),
        }
        bytes
    }

    /// Reads the byte form.
    ///
    /// # Errors
    /// Every variant of [`VerifyError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, VerifyError> {
        let mut reader = Reader(bytes);
        let basis = reader.array()?;
        let said = match reader.u8()? {
            SUMS => {
                let mut sums = Box::new([[0; 32]; 16]);
                for sum in sums.iter_mut() {
                    *sum = reader.array()?;
                }
                VerifySaid::Sums(sums)
            }
            LEAVES => {
                let count = reader.count(LEAVES_MAX)?;
                let leaves = (0..count).map(|_| reader.array()).collect::<Result<Vec<[u8; 32]>, _>>()?;
                if !leaves.is_sorted() {
                    return Err(VerifyError::Order);
                }
                VerifySaid::Leaves(leaves)
            }
            ROW => {
                let name = reader.name()?;
                let count = reader.count(HEADS_MAX)?;
                let heads = (0..count).map(|_| reader.head()).collect::<Result<_, _>>()?;
                VerifySaid::Row(name, heads)
            }
            NOTHING => VerifySaid::Nothing,
            UNABLE => VerifySaid::Unable(VerifyUnable::from_byte(reader.u8()?)?),
            found => return Err(VerifyError::Unknown { found }),
        };
        reader.end()?;
        Ok(Self { basis, said })
    }
}

impl VerifyUnable {
    const fn to_byte(self) -> u8 {
        match self {
            Self::OtherBasis => 1,
            Self::Blind => 2,
            Self::Loading => 3,
            Self::Busy => 4,
        }
    }

    const fn from_byte(byte: u8) -> Result<Self, VerifyError> {
        match byte {
            1 => Ok(Self::OtherBasis),
            2 => Ok(Self::Blind),
            3 => Ok(Self::Loading),
            4 => Ok(Self::Busy),
            found => Err(VerifyError::Unknown { found }),
        }
    }
}

impl RowName {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::try_from(self.surface.len()).expect("a surface name is short"));
        bytes.extend_from_slice(self.surface.as_bytes());
        bytes.extend_from_slice(&u16::try_from(self.key.len()).expect("a key is short").to_be_bytes());
        bytes.extend_from_slice(self.key.as_bytes());
    }
}

impl RowHead {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(self.is_tombstone));
        bytes.extend_from_slice(&self.hlc.get().to_be_bytes());
        bytes.extend_from_slice(&self.dot.log.to_bytes());
        bytes.extend_from_slice(&self.dot.seq.get().to_be_bytes());
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn slice(&mut self, len: usize) -> Result<&'a [u8], VerifyError> {
        let (front, rest) = self.0.split_at_checked(len).ok_or(VerifyError::TooShort)?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], VerifyError> {
        let (front, rest) = self.0.split_first_chunk::<N>().ok_or(VerifyError::TooShort)?;
        self.0 = rest;
        Ok(*front)
    }

    fn u8(&mut self) -> Result<u8, VerifyError> {
        Ok(self.array::<1>()?[0])
    }

    fn count(&mut self, limit: usize) -> Result<usize, VerifyError> {
        let found = usize::from(self.u8()?);
        if found <= limit { Ok(found) } else { Err(VerifyError::TooMany { found, limit }) }
    }

    fn name(&mut self) -> Result<RowName, VerifyError> {
        let len = self.count(SURFACE_BYTES_MAX)?;
        let surface = text(self.slice(len)?)?;
        let found = usize::from(u16::from_be_bytes(self.array()?));
        if found > NAME_BYTES_MAX {
            return Err(VerifyError::TooMany { found, limit: NAME_BYTES_MAX });
        }
        Ok(RowName { surface, key: text(self.slice(found)?)? })
    }

    fn head(&mut self) -> Result<RowHead, VerifyError> {
        let is_tombstone = match self.u8()? {
            0 => false,
            1 => true,
            found => return Err(VerifyError::Unknown { found }),
        };
        let hlc = Hlc::new(u64::from_be_bytes(self.array()?));
        let log = LogId::from_bytes(&self.array()?);
        let seq = Seq::new(u64::from_be_bytes(self.array()?));
        Ok(RowHead { dot: Dot { log, seq }, hlc, is_tombstone })
    }

    fn end(self) -> Result<(), VerifyError> {
        if self.0.is_empty() { Ok(()) } else { Err(VerifyError::Trailing { extra: self.0.len() }) }
    }
}

fn text(bytes: &[u8]) -> Result<String, VerifyError> {
    str::from_utf8(bytes).map(str::to_owned).map_err(|_| VerifyError::Text)
}

/// Nibbles of the longest path: 16^15 leaves are more than there will ever be.
pub const PATH_NIBBLES_MAX: usize = 15;

/// Leaves told by themselves: 2 KiB, half of what an answer may have.
pub const LEAVES_MAX: usize = 64;

/// Heads told of one row; of one with more, these are the first.
pub const HEADS_MAX: usize = 32;

/// Bytes of the longest name of a surface.
const SURFACE_BYTES_MAX: usize = 64;

/// Bytes of the longest key: a run's key is made of two names.
const NAME_BYTES_MAX: usize = KEY_BYTES_MAX;

const VERSION: u8 = 1;
const UNDER: u8 = 1;
const LEAF: u8 = 2;
const SUMS: u8 = 1;
const LEAVES: u8 = 2;
/// In a question and in an answer.
const ROW: u8 = 3;
const NOTHING: u8 = 4;
const UNABLE: u8 = 5;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn path(nibbles: &[u8]) -> LeafPath {
        nibbles.iter().fold(LeafPath::root(), |path, nibble| path.child(*nibble).expect("short"))
    }

    fn name() -> RowName {
        RowName { surface: "registry:note".into(), key: "a row ü".into() }
    }

    fn head(n: u64) -> RowHead {
        let log = LogId::from_bytes(&[u8::try_from(n).unwrap(); 40]);
        RowHead {
            dot: Dot { log, seq: Seq::new(n) },
            hlc: Hlc::new(n << 20),
            is_tombstone: n.is_multiple_of(2),
        }
    }

    fn questions() -> Vec<VerifyQuestion> {
        let about = [
            VerifyAbout::Under(LeafPath::root()),
            VerifyAbout::Under(path(&[1, 15, 0])),
            VerifyAbout::Leaf([2; 32]),
            VerifyAbout::Row(name()),
        ];
        about.into_iter().map(|about| VerifyQuestion { basis: [1; 32], about }).collect()
    }

    fn answers() -> Vec<VerifyAnswer> {
        let mut said = vec![
            VerifySaid::Sums(Box::new(std::array::from_fn(|n| [u8::try_from(n).unwrap(); 32]))),
            VerifySaid::Leaves(vec![[1; 32], [2; 32]]),
            VerifySaid::Leaves(Vec::new()),
            VerifySaid::Row(name(), vec![head(3), head(4)]),
            VerifySaid::Nothing,
        ];
        let why = [VerifyUnable::OtherBasis, VerifyUnable::Blind, VerifyUnable::Loading, VerifyUnable::Busy];
        said.extend(why.map(VerifySaid::Unable));
        said.into_iter().map(|said| VerifyAnswer { basis: [9; 32], said }).collect()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn questions_and_answers_have_the_golden_bytes_and_read_back() {
        let vectors: Value = serde_json::from_str(include_str!("../../tests/data/verify-v1.json")).unwrap();
        let texts = |name: &str| -> Vec<String> {
            vectors[name].as_array().unwrap().iter().map(|hex| hex.as_str().unwrap().to_owned()).collect()
        };

        let written: Vec<String> = questions().iter().map(|question| hex(&question.to_bytes())).collect();
        assert_eq!(written, texts("questions"));
        let written: Vec<String> = answers().iter().map(|answer| hex(&answer.to_bytes())).collect();
        assert_eq!(written, texts("answers"));
        for question in questions() {
            assert_eq!(VerifyQuestion::from_bytes(&question.to_bytes()), Ok(question));
        }
        for answer in answers() {
            assert_eq!(VerifyAnswer::from_bytes(&answer.to_bytes()), Ok(answer));
        }
    }

    #[test]
    fn what_breaks_the_form_is_refused_by_name() {
        let question = |about: &[u8]| VerifyQuestion::from_bytes(&[&[VERSION][..], &[0; 32], about].concat());
        let answer = |said: &[u8]| VerifyAnswer::from_bytes(&[&[0; 32][..], said].concat());

        assert_eq!(VerifyQuestion::from_bytes(&[2]), Err(VerifyError::Unknown { found: 2 }));
        assert_eq!(question(&[LEAF, 1]), Err(VerifyError::TooShort));
        assert_eq!(question(&[UNDER, 0, 1]), Err(VerifyError::Trailing { extra: 1 }));
        assert_eq!(question(&[UNDER, 1, 16]), Err(VerifyError::Unknown { found: 16 }));
        assert_eq!(question(&[UNDER, 16]), Err(VerifyError::TooMany { found: 16, limit: 15 }));
        assert_eq!(question(&[ROW, 1, 0xff, 0, 0]), Err(VerifyError::Text));
        assert_eq!(
            question(&[ROW, 0, 0xff, 0xff]),
            Err(VerifyError::TooMany { found: 65_535, limit: 1_024 })
        );
        assert_eq!(answer(&[LEAVES, 65]), Err(VerifyError::TooMany { found: 65, limit: LEAVES_MAX }));
        assert_eq!(answer(&[&[LEAVES, 2][..], &[2; 32], &[1; 32]].concat()), Err(VerifyError::Order));
        assert_eq!(answer(&[UNABLE, 0]), Err(VerifyError::Unknown { found: 0 }));
        assert_eq!(answer(&[ROW, 0, 0, 0, 1, 2]), Err(VerifyError::Unknown { found: 2 }));
    }

    #[test]
    fn the_largest_answers_are_small() {
        let row = RowName { surface: "s".repeat(64), key: "k".repeat(NAME_BYTES_MAX) };
        let said = [
            VerifySaid::Leaves((0..64).map(|n| [n; 32]).collect()),
            VerifySaid::Row(row, (0..32).map(head).collect()),
        ];
        for said in said {
            assert!(VerifyAnswer { basis: [0; 32], said }.to_bytes().len() <= 4 * 1024);
        }
    }

    #[test]
    fn a_path_names_the_leaves_that_begin_with_it() {
        let mut leaf = [0; 32];
        (leaf[0], leaf[1]) = (0xab, 0xcd);

        assert_eq!(LeafPath::root().next_nibble(&leaf), Some(0xa));
        assert_eq!(path(&[0xa, 0xb, 0xc]).next_nibble(&leaf), Some(0xd));
        assert_eq!(path(&[0xa, 0xc]).next_nibble(&leaf), None);
        assert_eq!(path(&[0; PATH_NIBBLES_MAX]).child(0), None);
        assert_eq!(LeafPath::root().child(16), None);
    }

    proptest! {
        #[test]
        fn any_bytes_read_or_are_refused(kind in 0u8..7, rest in proptest::collection::vec(any::<u8>(), 0..200)) {
            let question = [&[VERSION][..], &[7; 32], &[kind], &rest].concat();
            if let Ok(read) = VerifyQuestion::from_bytes(&question) {
                prop_assert_eq!(read.to_bytes(), question);
            }
            let answer = [&[7; 32][..], &[kind], &rest].concat();
            if let Ok(read) = VerifyAnswer::from_bytes(&answer) {
                prop_assert_eq!(read.to_bytes(), answer);
            }
        }

        #[test]
        fn a_spoiled_answer_reads_by_the_rules_or_is_refused(
            which in 0usize..9,
            at in any::<proptest::sample::Index>(),
            with in any::<u8>(),
        ) {
            let mut bytes = answers()[which].to_bytes();
            let at = at.index(bytes.len());
            bytes[at] = with;
            if let Ok(read) = VerifyAnswer::from_bytes(&bytes) {
                prop_assert_eq!(read.to_bytes(), bytes);
            }
        }
    }
}
