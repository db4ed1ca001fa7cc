//! Byte forms of the register, of requests and of replies. Integers are big-endian.
//!
//! Host head (`KFLH`): magic 4 ‖ cert 32 ‖ term u32 ‖ instance u64 ‖ next n u32, 0 once all are given ‖
//! mode u8 (1 serving, 2 settling, 3 sealed, 4 quarantined) ‖ where sealed: proposal 32 ‖ device 32.
//!
//! Entry (`KFLE`): magic 4 ‖ key length u8 ‖ key ‖ epoch u64 ‖ hold u8 (1 held, 2 released, 3 expired) ‖
//! where held: device 32 ‖ instance u64 ‖ ttl_max u32 ‖ count u16 ‖ (device 32 ‖ instance u64 ‖ req_no u64 ‖ answer)\*,
//! devices strictly rising.
//!
//! Table (`KFLT`): magic 4 ‖ head length u16 ‖ head ‖ count u16 ‖ (entry length u16 ‖ entry)\*, keys strictly rising.
//!
//! Request (`KFLQ`): magic 4 ‖ instance u64 ‖ key length u8 ‖ key ‖ req_no u64 ‖ cert 32 ‖ seen u64, 0 for none ‖
//! verb u8 ‖ (1 acquire: ttl u32 | 2 renew: epoch u64, ttl u32 | 3 release: epoch u64 | 4 current |
//! 5 reclaim: epoch u64, cert 32, ttl u32).
//!
//! Reply (`KFLA`): magic 4 ‖ instance u64 ‖ key length u8 ‖ key ‖ req_no u64 ‖ cert 32 ‖ answer, or u8 128 ‖ refusal.
//!
//! Answer: u8 ‖ (1 granted, 2 renewed, 3 released: epoch u64 | 4 nobody | 5 somebody: epoch u64, device 32,
//! instance u64, remaining u64). A refusal is its number u8 and its fields in order; a device that may be
//! missing is u8 0, or u8 1 ‖ device.

use std::collections::BTreeMap;

use thiserror::Error;

use super::bytes::Reader;
use super::cert::ProposalHash;
use super::refused::LeaseRefused;
use super::request::{
    Answer, DaemonInstance, Holder, HostInstance, Reply, ReqNo, Request, Standing, Token, Verb,
};
use super::table::{Entry, Hold, HostHead, HostState, KEYS_MAX, LAST_MAX, Last, Mode};
use super::time::Ttl;
use crate::model::{AgentId, Blame, CertHash, DeviceId, LeaseEpoch};

/// Bytes that are no form of the lease core.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormError {
    /// The bytes end before the fields do.
    #[error("the bytes end before their fields do")]
    TooShort,
    /// More bytes than the fields take.
    #[error("{extra} bytes follow the last field")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// Another magic: another form, or a version this kinfold does not read.
    #[error("expected {expected:02x?} in front, found {found:02x?}: written by another version?")]
    Magic {
        /// The form that was to be read.
        expected: [u8; 4],
        /// What is there.
        found: [u8; 4],
    },
    /// A list longer than its limit.
    #[error("{found} elements, the limit is {limit}")]
    TooMany {
        /// How many it announces.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A list that is not strictly rising.
    #[error("a list is not in strictly rising order")]
    Order,
    /// A number that stands for nothing.
    #[error("{found} is no {field}")]
    Number {
        /// What it should have been.
        field: &'static str,
        /// The number.
        found: u64,
    },
    /// A key that is no name of an agent.
    #[error("a key of a lease is 1 to 128 bytes of text without control characters")]
    Key,
}

impl FormError {
    /// Whose fault it is: whoever wrote the bytes.
    pub const fn blame(&self) -> Blame {
        Blame::Peer
    }
}

/// Greatest table in bytes: every key as long as it may be, with every device remembered.
pub const TABLE_BYTES_MAX: usize = 8 + 128 + KEYS_MAX * (2 + ENTRY_BYTES_MAX);

/// Greatest request or reply in bytes.
pub const REQUEST_BYTES_MAX: usize = 320;

impl HostHead {
    /// The row of the head.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(HEAD);
        out.extend_from_slice(self.cert.as_bytes());
        out.extend_from_slice(&self.term.to_be_bytes());
        out.extend_from_slice(&self.instance.get().to_be_bytes());
        out.extend_from_slice(&self.next_n.unwrap_or(0).to_be_bytes());
        match &self.mode {
            Mode::Serving => out.push(1),
            Mode::Settling => out.push(2),
            Mode::Sealed { proposal, to } => {
                out.push(3);
                out.extend_from_slice(proposal.as_bytes());
                out.extend_from_slice(to.as_bytes());
            }
            Mode::Quarantined => out.push(4),
        }
        out
    }

    /// Reads the row of a head.
    ///
    /// # Errors
    /// Every variant of [`FormError`] but `Key`, `Order` and `TooMany`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormError> {
        let mut from = Reader::new(bytes);
        magic(&mut from, HEAD)?;
        let cert = CertHash::from_bytes(from.array()?);
        let term = from.u32()?;
        let instance = HostInstance::new(from.u64()?);
        let next_n = Some(from.u32()?).filter(|n| *n != 0);
        let mode = match from.u8()? {
            1 => Mode::Serving,
            2 => Mode::Settling,
            3 => Mode::Sealed {
                proposal: ProposalHash::from_bytes(from.array()?),
                to: DeviceId::from_bytes(from.array()?),
            },
            4 => Mode::Quarantined,
            found => return Err(FormError::Number { field: "mode of a register", found: found.into() }),
        };
        from.end()?;
        Ok(Self { cert, term, instance, next_n, mode })
    }
}

impl Entry {
    /// The row of an entry; the key is in it.
    pub fn to_bytes(&self, key: &AgentId) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(ENTRY);
        put_key(&mut out, key);
        out.extend_from_slice(&self.epoch.get().to_be_bytes());
        match &self.hold {
            Hold::Held { holder, ttl_max } => {
                out.push(1);
                put_holder(&mut out, holder);
                out.extend_from_slice(&ttl_max.as_millis().to_be_bytes());
            }
            Hold::Released => out.push(2),
            Hold::Expired => out.push(3),
        }
        out.extend_from_slice(&count(self.last.len()));
        for (device, last) in &self.last {
            out.extend_from_slice(device.as_bytes());
            out.extend_from_slice(&last.instance.get().to_be_bytes());
            out.extend_from_slice(&last.req_no.get().to_be_bytes());
            put_answer(&mut out, &last.answer);
        }
        out
    }

    /// Reads the row of an entry.
    ///
    /// # Errors
    /// Every variant of [`FormError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<(AgentId, Self), FormError> {
        let mut from = Reader::new(bytes);
        magic(&mut from, ENTRY)?;
        let key = take_key(&mut from)?;
        let epoch = take_epoch(&mut from)?;
        let hold = match from.u8()? {
            1 => Hold::Held { holder: take_holder(&mut from)?, ttl_max: take_sound_ttl(&mut from)? },
            2 => Hold::Released,
            3 => Hold::Expired,
            found => return Err(FormError::Number { field: "kind of hold", found: found.into() }),
        };
        let mut last = BTreeMap::new();
        for _ in 0..from.count(LAST_MAX)? {
            let device = DeviceId::from_bytes(from.array()?);
            if last.last_key_value().is_some_and(|(before, _)| *before >= device) {
                return Err(FormError::Order);
            }
            let instance = DaemonInstance::new(from.u64()?);
            let req_no = ReqNo::new(from.u64()?);
            let kind = from.u8()?;
            if !(1..=3).contains(&kind) {
                return Err(FormError::Number { field: "answer to remember", found: kind.into() });
            }
            last.insert(device, Last { instance, req_no, answer: take_answer(&mut from, kind)? });
        }
        from.end()?;
        Ok((key, Self { epoch, hold, last }))
    }
}

impl HostState {
    /// The whole register: what a sealed host hands over.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + 128 * self.entries.len());
        out.extend_from_slice(TABLE);
        let head = self.head.to_bytes();
        out.extend_from_slice(&count(head.len()));
        out.extend_from_slice(&head);
        out.extend_from_slice(&count(self.entries.len()));
        for (key, entry) in &self.entries {
            let row = entry.to_bytes(key);
            out.extend_from_slice(&count(row.len()));
            out.extend_from_slice(&row);
        }
        out
    }

    /// Reads a whole register.
    ///
    /// # Errors
    /// Every variant of [`FormError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormError> {
        let mut from = Reader::new(bytes);
        magic(&mut from, TABLE)?;
        let head_bytes = usize::from(from.u16()?);
        let head = HostHead::from_bytes(from.slice(head_bytes)?)?;
        let mut state = Self::empty(head);
        for _ in 0..from.count(KEYS_MAX)? {
            let row_bytes = usize::from(from.u16()?);
            let (key, entry) = Entry::from_bytes(from.slice(row_bytes)?)?;
            if state.entries.last_key_value().is_some_and(|(before, _)| *before >= key) {
                return Err(FormError::Order);
            }
            state.entries.insert(key, entry);
        }
        from.end()?;
        Ok(state)
    }
}

impl Request {
    /// The bytes a daemon sends.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(REQUEST);
        out.extend_from_slice(&self.instance.get().to_be_bytes());
        put_key(&mut out, &self.key);
        out.extend_from_slice(&self.req_no.get().to_be_bytes());
        out.extend_from_slice(self.cert.as_bytes());
        out.extend_from_slice(&self.seen.map_or(0, LeaseEpoch::get).to_be_bytes());
        match &self.verb {
            Verb::Acquire { ttl } => {
                out.push(1);
                out.extend_from_slice(&ttl.as_millis().to_be_bytes());
            }
            Verb::Renew { epoch, ttl } => {
                out.push(2);
                out.extend_from_slice(&epoch.get().to_be_bytes());
                out.extend_from_slice(&ttl.as_millis().to_be_bytes());
            }
            Verb::Release { epoch } => {
                out.push(3);
                out.extend_from_slice(&epoch.get().to_be_bytes());
            }
            Verb::Current => out.push(4),
            Verb::Reclaim { token, ttl } => {
                out.push(5);
                out.extend_from_slice(&token.epoch.get().to_be_bytes());
                out.extend_from_slice(token.cert.as_bytes());
                out.extend_from_slice(&ttl.as_millis().to_be_bytes());
            }
        }
        out
    }

    /// Reads what a daemon sent. A time to live out of bounds is read: the register refuses it.
    ///
    /// # Errors
    /// Every variant of [`FormError`] but `Order` and `TooMany`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormError> {
        let mut from = Reader::new(bytes);
        magic(&mut from, REQUEST)?;
        let instance = DaemonInstance::new(from.u64()?);
        let key = take_key(&mut from)?;
        let req_no = ReqNo::new(from.u64()?);
        let cert = CertHash::from_bytes(from.array()?);
        let seen = match from.u64()? {
            0 => None,
            raw => Some(epoch(raw)?),
        };
        let verb = match from.u8()? {
            1 => Verb::Acquire { ttl: Ttl::from_raw(from.u32()?) },
            2 => Verb::Renew { epoch: take_epoch(&mut from)?, ttl: Ttl::from_raw(from.u32()?) },
            3 => Verb::Release { epoch: take_epoch(&mut from)? },
            4 => Verb::Current,
            5 => Verb::Reclaim {
                token: Token { epoch: take_epoch(&mut from)?, cert: CertHash::from_bytes(from.array()?) },
                ttl: Ttl::from_raw(from.u32()?),
            },
            found => return Err(FormError::Number { field: "verb", found: found.into() }),
        };
        from.end()?;
        Ok(Self { instance, key, req_no, cert, seen, verb })
    }
}

impl Reply {
    /// The bytes a host sends.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(REPLY);
        out.extend_from_slice(&self.instance.get().to_be_bytes());
        put_key(&mut out, &self.key);
        out.extend_from_slice(&self.req_no.get().to_be_bytes());
        out.extend_from_slice(self.cert.as_bytes());
        match &self.answer {
            Ok(answer) => put_answer(&mut out, answer),
            Err(refused) => {
                out.push(REFUSED);
                put_refused(&mut out, refused);
            }
        }
        out
    }

    /// Reads what a host sent.
    ///
    /// # Errors
    /// Every variant of [`FormError`] but `Order` and `TooMany`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormError> {
        let mut from = Reader::new(bytes);
        magic(&mut from, REPLY)?;
        let instance = DaemonInstance::new(from.u64()?);
        let key = take_key(&mut from)?;
        let req_no = ReqNo::new(from.u64()?);
        let cert = CertHash::from_bytes(from.array()?);
        let answer = match from.u8()? {
            REFUSED => Err(take_refused(&mut from)?),
            kind => Ok(take_answer(&mut from, kind)?),
        };
        from.end()?;
        Ok(Self { instance, key, req_no, cert, answer })
    }
}

fn put_refused(out: &mut Vec<u8>, refused: &LeaseRefused) {
    let mut numbered = |number: u8, fields: &[u64]| {
        out.push(number);
        fields.iter().for_each(|field| out.extend_from_slice(&field.to_be_bytes()));
    };
    match refused {
        LeaseRefused::Held { holder, epoch, remaining_ms } => {
            numbered(1, &[epoch.get(), *remaining_ms]);
            put_holder(out, holder);
        }
        LeaseRefused::AlreadyHeld { epoch } => numbered(2, &[epoch.get()]),
        LeaseRefused::NotHolder => numbered(3, &[]),
        LeaseRefused::Expired { epoch } => numbered(4, &[epoch.get()]),
        LeaseRefused::Stale { claimed, current } => numbered(5, &[claimed.get(), current.get()]),
        LeaseRefused::RequestTooOld { last, found } => numbered(6, &[last.get(), found.get()]),
        LeaseRefused::NotHost { host } => {
            numbered(7, &[]);
            put_device(out, host.as_ref());
        }
        LeaseRefused::HostUnreachable { host } => {
            numbered(8, &[]);
            out.extend_from_slice(host.as_bytes());
        }
        LeaseRefused::Moving { to } => {
            numbered(9, &[]);
            put_device(out, to.as_ref());
        }
        LeaseRefused::Settling { remaining_ms } => numbered(10, &[*remaining_ms]),
        LeaseRefused::Deposed { by } => {
            numbered(11, &[]);
            out.extend_from_slice(by.as_bytes());
        }
        LeaseRefused::ForkedLineage { found, adopted } => {
            numbered(12, &[]);
            out.extend_from_slice(found.as_bytes());
            out.extend_from_slice(adopted.as_bytes());
        }
        LeaseRefused::Quarantined => numbered(13, &[]),
        LeaseRefused::StorageFailed => numbered(14, &[]),
        LeaseRefused::ClockUnsafe => numbered(15, &[]),
        LeaseRefused::TtlOutOfRange { found_ms, min_ms, max_ms } => {
            numbered(16, &[*found_ms, *min_ms, *max_ms]);
        }
        LeaseRefused::EpochExhausted => numbered(17, &[]),
        LeaseRefused::TooManyLeases { limit } => numbered(18, &[*limit as u64]),
        LeaseRefused::TooManyRequests { limit, retry_ms } => {
            numbered(19, &[u64::from(*limit), *retry_ms]);
        }
        LeaseRefused::KeyInvalid => numbered(20, &[]),
        LeaseRefused::NotAuthorized { device } => {
            numbered(21, &[]);
            out.extend_from_slice(device.as_bytes());
        }
    }
}

fn take_refused(from: &mut Reader<'_>) -> Result<LeaseRefused, FormError> {
    Ok(match from.u8()? {
        1 => {
            let (epoch, remaining_ms) = (take_epoch(from)?, from.u64()?);
            LeaseRefused::Held { holder: take_holder(from)?, epoch, remaining_ms }
        }
        2 => LeaseRefused::AlreadyHeld { epoch: take_epoch(from)? },
        3 => LeaseRefused::NotHolder,
        4 => LeaseRefused::Expired { epoch: take_epoch(from)? },
        5 => LeaseRefused::Stale { claimed: take_epoch(from)?, current: take_epoch(from)? },
        6 => LeaseRefused::RequestTooOld { last: ReqNo::new(from.u64()?), found: ReqNo::new(from.u64()?) },
        7 => LeaseRefused::NotHost { host: take_device(from)? },
        8 => LeaseRefused::HostUnreachable { host: DeviceId::from_bytes(from.array()?) },
        9 => LeaseRefused::Moving { to: take_device(from)? },
        10 => LeaseRefused::Settling { remaining_ms: from.u64()? },
        11 => LeaseRefused::Deposed { by: CertHash::from_bytes(from.array()?) },
        12 => LeaseRefused::ForkedLineage {
            found: CertHash::from_bytes(from.array()?),
            adopted: CertHash::from_bytes(from.array()?),
        },
        13 => LeaseRefused::Quarantined,
        14 => LeaseRefused::StorageFailed,
        15 => LeaseRefused::ClockUnsafe,
        16 => LeaseRefused::TtlOutOfRange { found_ms: from.u64()?, min_ms: from.u64()?, max_ms: from.u64()? },
        17 => LeaseRefused::EpochExhausted,
        18 => LeaseRefused::TooManyLeases { limit: small(from.u64()?, "limit")? as usize },
        19 => LeaseRefused::TooManyRequests { limit: small(from.u64()?, "limit")?, retry_ms: from.u64()? },
        20 => LeaseRefused::KeyInvalid,
        21 => LeaseRefused::NotAuthorized { device: DeviceId::from_bytes(from.array()?) },
        found => return Err(FormError::Number { field: "refusal", found: found.into() }),
    })
}

fn put_answer(out: &mut Vec<u8>, answer: &Answer) {
    let mut numbered = |number: u8, epoch: &LeaseEpoch| {
        out.push(number);
        out.extend_from_slice(&epoch.get().to_be_bytes());
    };
    match answer {
        Answer::Granted { epoch } => numbered(1, epoch),
        Answer::Renewed { epoch } => numbered(2, epoch),
        Answer::Released { epoch } => numbered(3, epoch),
        Answer::Current { standing: None } => out.push(4),
        Answer::Current { standing: Some(standing) } => {
            numbered(5, &standing.epoch);
            put_holder(out, &standing.holder);
            out.extend_from_slice(&standing.remaining_ms.to_be_bytes());
        }
    }
}

fn take_answer(from: &mut Reader<'_>, kind: u8) -> Result<Answer, FormError> {
    Ok(match kind {
        1 => Answer::Granted { epoch: take_epoch(from)? },
        2 => Answer::Renewed { epoch: take_epoch(from)? },
        3 => Answer::Released { epoch: take_epoch(from)? },
        4 => Answer::Current { standing: None },
        5 => {
            let (epoch, holder) = (take_epoch(from)?, take_holder(from)?);
            Answer::Current { standing: Some(Standing { epoch, holder, remaining_ms: from.u64()? }) }
        }
        found => return Err(FormError::Number { field: "answer", found: found.into() }),
    })
}

fn put_key(out: &mut Vec<u8>, key: &AgentId) {
    out.push(u8::try_from(key.as_str().len()).expect("a name of an agent has at most 128 bytes"));
    out.extend_from_slice(key.as_str().as_bytes());
}

fn take_key(from: &mut Reader<'_>) -> Result<AgentId, FormError> {
    let len = usize::from(from.u8()?);
    let text = std::str::from_utf8(from.slice(len)?).map_err(|_| FormError::Key)?;
    text.parse().map_err(|_| FormError::Key)
}

fn put_holder(out: &mut Vec<u8>, holder: &Holder) {
    out.extend_from_slice(holder.device.as_bytes());
    out.extend_from_slice(&holder.instance.get().to_be_bytes());
}

fn take_holder(from: &mut Reader<'_>) -> Result<Holder, FormError> {
    let device = DeviceId::from_bytes(from.array()?);
    Ok(Holder { device, instance: DaemonInstance::new(from.u64()?) })
}

fn put_device(out: &mut Vec<u8>, device: Option<&DeviceId>) {
    match device {
        None => out.push(0),
        Some(device) => {
            out.push(1);
            out.extend_from_slice(device.as_bytes());
        }
    }
}

fn take_device(from: &mut Reader<'_>) -> Result<Option<DeviceId>, FormError> {
    match from.u8()? {
        0 => Ok(None),
        1 => Ok(Some(DeviceId::from_bytes(from.array()?))),
        found => Err(FormError::Number { field: "presence of a device", found: found.into() }),
    }
}

fn take_epoch(from: &mut Reader<'_>) -> Result<LeaseEpoch, FormError> {
    epoch(from.u64()?)
}

fn epoch(raw: u64) -> Result<LeaseEpoch, FormError> {
    LeaseEpoch::new(raw).map_err(|_| FormError::Number { field: "epoch", found: raw })
}

fn take_sound_ttl(from: &mut Reader<'_>) -> Result<Ttl, FormError> {
    let raw = from.u32()?;
    Ttl::from_millis(raw.into())
        .map_err(|_| FormError::Number { field: "time to live in milliseconds", found: raw.into() })
}

fn small(raw: u64, field: &'static str) -> Result<u32, FormError> {
    u32::try_from(raw).map_err(|_| FormError::Number { field, found: raw })
}

fn magic(from: &mut Reader<'_>, expected: &[u8; 4]) -> Result<(), FormError> {
    let found = from.array::<4>()?;
    if found == *expected { Ok(()) } else { Err(FormError::Magic { expected: *expected, found }) }
}

fn count(len: usize) -> [u8; 2] {
    u16::try_from(len).expect("what is written keeps its limits").to_be_bytes()
}

const HEAD: &[u8; 4] = b"KFLH";
const ENTRY: &[u8; 4] = b"KFLE";
const TABLE: &[u8; 4] = b"KFLT";
const REQUEST: &[u8; 4] = b"KFLQ";
const REPLY: &[u8; 4] = b"KFLA";
const REFUSED: u8 = 128;

/// A key of 128 bytes, held, with every device remembered.
const ENTRY_BYTES_MAX: usize = 4 + 129 + 8 + 1 + 44 + 2 + LAST_MAX * 57;
