//! The welcome: what a device is given when it joins a space, sealed under the key of its pairing.
//!
//! | bytes | field |
//! |---|---|
//! | 1 | version, 1 |
//! | 32 | space |
//! | 4 | number of records |
//! | 4 + n each | a roster record as received, behind its length; parents before children |
//! | 4 | number of keys: none for a blind device |
//! | 32 each | an epoch key |
//!
//! Integers are big-endian. The records are proven by what reads them ([`crate::roster`]), the keys
//! by the key ids the records name; nothing here is believed for having arrived.

use bytes::{Buf, Bytes};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::crypto::{EpochKey, vault};
use crate::model::limits::{RECORD_BYTES_MAX, RECORDS_MAX};
use crate::model::{Blame, SpaceId};

/// Most epoch keys in a welcome: quarterly rotation and a removal a week, for a lifetime.
pub const WELCOME_KEYS_MAX: usize = 4_096;

/// Greatest welcome; a roster of a thousand devices with a history takes a few megabytes.
pub const WELCOME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Greatest welcome as it travels.
pub const WELCOME_SEALED_BYTES_MAX: usize = WELCOME_BYTES_MAX + vault::OVERHEAD_BYTES;

/// Bytes that are no welcome, or a welcome that may not travel.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WelcomeError {
    /// Written by a later version.
    #[error("welcome version {found} is not known here; update this device")]
    Version {
        /// The version found.
        found: u8,
    },
    /// It ends early.
    #[error("the welcome is cut off")]
    Truncated,
    /// It goes on after its end.
    #[error("{extra} bytes follow the welcome")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// More records than [`RECORDS_MAX`].
    #[error("a welcome of {found} records exceeds the limit of {limit}")]
    Records {
        /// Records found.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A record without bytes, or longer than [`RECORD_BYTES_MAX`].
    #[error("a record in a welcome has 1 to {limit} bytes, this one has {found}")]
    RecordLength {
        /// Bytes found.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// More keys than [`WELCOME_KEYS_MAX`].
    #[error("a welcome of {found} keys exceeds the limit of {limit}")]
    Keys {
        /// Keys found.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// More bytes than [`WELCOME_BYTES_MAX`].
    #[error("a welcome of {found} bytes exceeds the limit of {limit}")]
    Length {
        /// Bytes found.
        found: usize,
        /// The limit.
        limit: usize,
    },
}

impl WelcomeError {
    /// Who is at fault where a welcome was received.
    pub const fn blame(&self) -> Blame {
        Blame::Peer
    }
}

/// Everything a device needs to be a member of a space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// The space.
    pub space: SpaceId,
    /// Its roster, parents before children.
    pub records: Vec<Bytes>,
    /// Its epoch keys; none for a blind device.
    pub keys: Vec<EpochKey>,
}

impl Welcome {
    /// The byte form, wiped when dropped.
    ///
    /// # Errors
    /// [`WelcomeError::Records`], [`WelcomeError::RecordLength`], [`WelcomeError::Keys`],
    /// [`WelcomeError::Length`]: it is refused here before a peer refuses it.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, WelcomeError> {
        check_counts(self.records.len(), self.keys.len())?;
        self.records.iter().try_for_each(|record| check_record(record.len()))?;
        let record_bytes: usize = self.records.iter().map(|record| LENGTH_BYTES + record.len()).sum();
        let length = FIXED_BYTES + record_bytes + self.keys.len() * KEY_BYTES;
        check_length(length)?;
        // Reserved in full: growing would leave copies of the keys behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(length));
        bytes.push(VERSION);
        bytes.extend_from_slice(self.space.as_bytes());
        push_length(&mut bytes, self.records.len());
        for record in &self.records {
            push_length(&mut bytes, record.len());
            bytes.extend_from_slice(record);
        }
        push_length(&mut bytes, self.keys.len());
        for key in &self.keys {
            bytes.extend_from_slice(key.expose());
        }
        Ok(bytes)
    }

    /// Reads a welcome; its records share the memory of `bytes`.
    ///
    /// # Errors
    /// Every variant of [`WelcomeError`].
    pub fn decode(mut bytes: Bytes) -> Result<Self, WelcomeError> {
        check_length(bytes.len())?;
        let version = bytes.try_get_u8().map_err(|_| WelcomeError::Truncated)?;
        if version != VERSION {
            return Err(WelcomeError::Version { found: version });
        }
        let space = SpaceId::from_bytes(take_32(&mut bytes)?);
        let record_count = take_length(&mut bytes)?;
        check_counts(record_count, 0)?;
        let mut records = Vec::new();
        for _ in 0..record_count {
            let length = take_length(&mut bytes)?;
            check_record(length)?;
            if bytes.len() < length {
                return Err(WelcomeError::Truncated);
            }
            records.push(bytes.split_to(length));
        }
        let key_count = take_length(&mut bytes)?;
        check_counts(0, key_count)?;
        let keys = (0..key_count).map(|_| take_32(&mut bytes).map(EpochKey::from_bytes));
        let keys = keys.collect::<Result<_, _>>()?;
        if bytes.is_empty() {
            Ok(Self { space, records, keys })
        } else {
            Err(WelcomeError::Trailing { extra: bytes.len() })
        }
    }
}

const fn check_counts(records: usize, keys: usize) -> Result<(), WelcomeError> {
    if records > RECORDS_MAX {
        return Err(WelcomeError::Records { found: records, limit: RECORDS_MAX });
    }
    if keys > WELCOME_KEYS_MAX {
        return Err(WelcomeError::Keys { found: keys, limit: WELCOME_KEYS_MAX });
    }
    Ok(())
}

const fn check_record(found: usize) -> Result<(), WelcomeError> {
    if found == 0 || found > RECORD_BYTES_MAX {
        return Err(WelcomeError::RecordLength { found, limit: RECORD_BYTES_MAX });
    }
    Ok(())
}

const fn check_length(found: usize) -> Result<(), WelcomeError> {
    if found > WELCOME_BYTES_MAX {
        return Err(WelcomeError::Length { found, limit: WELCOME_BYTES_MAX });
    }
    Ok(())
}

fn push_length(bytes: &mut Vec<u8>, length: usize) {
    bytes.extend_from_slice(&u32::try_from(length).expect("every limit is below 2^32").to_be_bytes());
}

fn take_length(bytes: &mut Bytes) -> Result<usize, WelcomeError> {
    let length = bytes.try_get_u32().map_err(|_| WelcomeError::Truncated)?;
    // A length that does not fit is beyond every limit all the same.
    Ok(usize::try_from(length).unwrap_or(usize::MAX))
}

fn take_32(bytes: &mut Bytes) -> Result<[u8; 32], WelcomeError> {
    let mut taken = [0; 32];
    bytes.try_copy_to_slice(&mut taken).map_err(|_| WelcomeError::Truncated)?;
    Ok(taken)
}

const VERSION: u8 = 1;
const LENGTH_BYTES: usize = 4;
const KEY_BYTES: usize = 32;
const FIXED_BYTES: usize = 1 + 32 + 2 * LENGTH_BYTES;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_welcome_reads_back() {
        for welcome in [sample(), Welcome { keys: Vec::new(), ..sample() }] {
            let bytes = Bytes::from_owner(welcome.encode().unwrap());

            assert_eq!(Welcome::decode(bytes), Ok(welcome));
        }
    }

    #[test]
    fn a_welcome_is_pinned_to_its_bytes() {
        let expected = [
            &[1][..],
            &[7; 32],
            &[0, 0, 0, 2, 0, 0, 0, 3],
            b"one",
            &[0, 0, 0, 5],
            b"three",
            &[0, 0, 0, 2],
            &[8; 32],
            &[9; 32],
        ];

        assert_eq!(*sample().encode().unwrap(), expected.concat());
    }

    #[test]
    fn every_cut_and_every_surplus_is_refused() {
        let bytes = Bytes::from_owner(sample().encode().unwrap());

        for cut in 0..bytes.len() {
            assert_eq!(Welcome::decode(bytes.slice(..cut)), Err(WelcomeError::Truncated), "cut to {cut}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Welcome::decode(longer.into()), Err(WelcomeError::Trailing { extra: 1 }));
    }

    #[test]
    fn what_exceeds_a_limit_is_refused_on_both_sides() {
        let record = |length| Welcome { records: vec![vec![0; length].into()], ..sample() };
        let length = |found| WelcomeError::RecordLength { found, limit: RECORD_BYTES_MAX };
        assert_eq!(record(0).encode(), Err(length(0)));
        assert_eq!(record(RECORD_BYTES_MAX + 1).encode(), Err(length(RECORD_BYTES_MAX + 1)));
        let many = Welcome { records: vec![Bytes::from_static(b"x"); RECORDS_MAX + 1], ..sample() };
        let records = WelcomeError::Records { found: RECORDS_MAX + 1, limit: RECORDS_MAX };
        assert_eq!(many.encode(), Err(records));
        let many = Welcome { keys: vec![EpochKey::from_bytes([1; 32]); WELCOME_KEYS_MAX + 1], ..sample() };
        let keys = WelcomeError::Keys { found: WELCOME_KEYS_MAX + 1, limit: WELCOME_KEYS_MAX };
        assert_eq!(many.encode(), Err(keys));
        let large = Welcome { records: vec![vec![0; RECORD_BYTES_MAX].into(); 256], ..sample() };
        assert!(matches!(large.encode(), Err(WelcomeError::Length { .. })));

        let prefix = |count: u32| [&[1][..], &[7; 32], &count.to_be_bytes()].concat();
        let found = usize::try_from(u32::MAX).unwrap();
        let records = WelcomeError::Records { found, limit: RECORDS_MAX };
        assert_eq!(Welcome::decode(prefix(u32::MAX).into()), Err(records));
        let bytes = [prefix(1), vec![0; 4]].concat();
        assert_eq!(Welcome::decode(bytes.into()), Err(length(0)));
        let bytes = [prefix(0), u32::MAX.to_be_bytes().to_vec()].concat();
        assert_eq!(Welcome::decode(bytes.into()), Err(WelcomeError::Keys { found, limit: WELCOME_KEYS_MAX }));
        let large = Bytes::from(vec![1; WELCOME_BYTES_MAX + 1]);
        assert!(matches!(Welcome::decode(large), Err(WelcomeError::Length { .. })));
        assert_eq!(Welcome::decode(Bytes::from_static(&[2])), Err(WelcomeError::Version { found: 2 }));
    }

    proptest! {
        #[test]
        fn any_welcome_reads_back(
            records in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..8),
            keys in proptest::collection::vec(any::<[u8; 32]>(), 0..8),
        ) {
            let welcome = Welcome {
                space: SpaceId::from_bytes([1; 32]),
                records: records.into_iter().map(Bytes::from).collect(),
                keys: keys.into_iter().map(EpochKey::from_bytes).collect(),
            };

            let bytes = Bytes::from_owner(welcome.encode().unwrap());

            prop_assert_eq!(Welcome::decode(bytes), Ok(welcome));
        }

        #[test]
        fn any_bytes_are_read_back_or_refused(rest in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from([&[1][..], &rest].concat());
            if let Ok(welcome) = Welcome::decode(bytes.clone()) {
                prop_assert_eq!(&welcome.encode().unwrap()[..], &bytes[..]);
            }
        }
    }

    fn sample() -> Welcome {
        Welcome {
            space: SpaceId::from_bytes([7; 32]),
            records: vec![Bytes::from_static(b"one"), Bytes::from_static(b"three")],
            keys: vec![EpochKey::from_bytes([8; 32]), EpochKey::from_bytes([9; 32])],
        }
    }
}
