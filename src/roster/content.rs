//! The bodies of roster records, one form per kind; integers are big-endian.
//!
//! | kind | body |
//! |---|---|
//! | 1 `Genesis` | scope length u8 ‖ scope text ‖ key id of epoch 0, 16 ‖ nonce 32 ‖ name length u16 ‖ sealed name |
//! | 2 `AddDevice` | device 32 ‖ role u8 (1 admin, 2 member, 3 blind) ‖ key id 16 ‖ name length u16 ‖ sealed name |
//! | 3 `RemoveDevice` | device 32 ‖ cut count u16 ‖ (log 40 ‖ seq u64 ‖ link 32)\*, logs of that device strictly rising, seq from 1 |
//! | 4 `Rename` | device 32 ‖ key id 16 ‖ name length u16 ‖ sealed name |
//! | 5 `Dormant`, 6 `Active` | device 32 |
//! | 7 `RotateKey` | n u64, from 1 ‖ key id 16 ‖ confirmation count u16 ‖ (device 32 ‖ signature 64)\*, devices strictly rising |
//! | 8 `DesignateHost` | a certificate, `KFLC`: see [`Certificate::to_bytes`] |
//! | 9 `SelectBranch` | log 40 ‖ base seq u64 ‖ base link 32 ‖ link of the first batch after it 32 ‖ seq u64 ‖ link 32; seq past the base; base link zero exactly where base seq is |
//! | 10 | reserved: `ClockFault` |
//! | 11 `Silent` | device 32 ‖ days u16, from 1: as `Dormant`, and no person said it |
//!
//! A log is device 32 ‖ incarnation u64. A sealed name is a [`vault`] blob under the epoch key its
//! key id names, with the context `"kinfold name v1" ‖ device`: a blind device carries it and
//! cannot read it. At most [`CUT_LOGS_MAX`] logs and [`CONFIRMATIONS_MAX`] confirmations.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;

use bytes::Bytes;

use super::record::RecordError;
use super::role::Role;
use crate::crypto::vault;
use crate::lease::{CertError, Certificate};
use crate::model::limits::{CONFIRMATIONS_MAX, CUT_LOGS_MAX, NAME_BYTES_MAX};
use crate::model::{DeviceId, Incarnation, KeyId, LogId, Scope, Seq, Tip, TipHash};

/// The body by kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Content {
    Genesis(Genesis),
    AddDevice(AddDevice),
    RemoveDevice(RemoveDevice),
    Rename(Rename),
    Dormant(Dormant),
    Active(DeviceId),
    RotateKey(RotateKey),
    DesignateHost(Box<DesignateHost>),
    SelectBranch(Branch),
    /// A kind whose meaning this version does not know: kept and passed on as it is.
    Unknown {
        kind: u16,
        body: Bytes,
    },
}

/// Nothing waits for a device any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Dormant {
    pub device: DeviceId,
    /// The days after which an admin's device said so by itself; a person did where there are none.
    pub after_days: Option<NonZeroU16>,
}

/// The first record of a space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Genesis {
    pub scope: Scope,
    /// Makes two spaces of one creator and instant differ.
    pub nonce: [u8; 32],
    pub name: SealedName,
}

/// Makes a device part of the space, or gives one a greater role.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct AddDevice {
    pub device: DeviceId,
    pub role: Role,
    pub name: SealedName,
}

/// Ends a device's part in the space, for ever.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RemoveDevice {
    pub device: DeviceId,
    /// How much of its logs still counts.
    pub cut: BTreeMap<LogId, Tip>,
}

/// Gives a device another name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Rename {
    pub device: DeviceId,
    pub name: SealedName,
}

/// Begins a key epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RotateKey {
    pub n: u64,
    pub key_id: KeyId,
    /// Strictly rising by device; whether a signature holds is asked where they are counted.
    pub confirmations: Vec<Confirmation>,
}

/// Names the host of the register of leases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct DesignateHost {
    /// As received: what follows from it is read again where the host before is known.
    pub bytes: Bytes,
    /// What is proposed; its votes are not looked at yet.
    pub cert: Certificate,
}

/// A device's word that it holds a proposed key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Confirmation {
    /// The device.
    pub device: DeviceId,
    /// Made by [`Proposal::confirm`](super::Proposal::confirm).
    pub signature: [u8; 64],
}

/// Which of a forked log's histories its device stands by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Branch {
    /// The log.
    pub log: LogId,
    /// The last place the histories share; [`Tip::NONE`] where they share nothing.
    pub base: Tip,
    /// The link of the chosen history's first batch after the base: what tells it from every other.
    pub first: TipHash,
    /// A place of the history chosen, past the base.
    pub tip: Tip,
}

impl Branch {
    /// Whether the places are such as two histories can have.
    pub(super) fn is_sound(&self) -> bool {
        self.base.seq < self.tip.seq && (self.base.seq == Seq::ZERO) == (self.base.hash == TipHash::NONE)
    }
}

/// A device's name as it lies in a record.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedName {
    pub(super) key_id: KeyId,
    pub(super) blob: Bytes,
}

impl SealedName {
    /// The epoch key that opens it.
    pub const fn key_id(&self) -> KeyId {
        self.key_id
    }
}

impl fmt::Debug for SealedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedName({:?}, {} bytes)", self.key_id, self.blob.len())
    }
}

impl Content {
    pub const fn kind(&self) -> u16 {
        match self {
            Self::Genesis(_) => GENESIS,
            Self::AddDevice(_) => ADD_DEVICE,
            Self::RemoveDevice(_) => REMOVE_DEVICE,
            Self::Rename(_) => RENAME,
            Self::Dormant(Dormant { after_days: None, .. }) => DORMANT,
            Self::Dormant(Dormant { after_days: Some(_), .. }) => SILENT,
            Self::Active(_) => ACTIVE,
            Self::RotateKey(_) => ROTATE_KEY,
            Self::DesignateHost(_) => DESIGNATE_HOST,
            Self::SelectBranch(_) => SELECT_BRANCH,
            Self::Unknown { kind, .. } => *kind,
        }
    }

    /// The body's bytes.
    ///
    /// # Panics
    /// If the content breaks the limits: whoever writes records checks them first.
    pub fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        match self {
            Self::Genesis(genesis) => {
                let scope = genesis.scope.to_string();
                body.push(u8::try_from(scope.len()).expect("a scope has at most 64 characters"));
                body.extend_from_slice(scope.as_bytes());
                body.extend_from_slice(genesis.name.key_id.as_bytes());
                body.extend_from_slice(&genesis.nonce);
                push_blob(&mut body, &genesis.name.blob);
            }
            Self::AddDevice(added) => {
                body.extend_from_slice(added.device.as_bytes());
                body.push(added.role.to_byte());
                push_name(&mut body, &added.name);
            }
            Self::RemoveDevice(removed) => {
                body.extend_from_slice(removed.device.as_bytes());
                push_count(&mut body, removed.cut.len());
                for (log, tip) in &removed.cut {
                    body.extend_from_slice(&log.to_bytes());
                    push_tip(&mut body, tip);
                }
            }
            Self::Rename(renamed) => {
                body.extend_from_slice(renamed.device.as_bytes());
                push_name(&mut body, &renamed.name);
            }
            Self::Dormant(Dormant { device, after_days }) => {
                body.extend_from_slice(device.as_bytes());
                body.extend(after_days.iter().flat_map(|days| days.get().to_be_bytes()));
            }
            Self::Active(device) => body.extend_from_slice(device.as_bytes()),
            Self::RotateKey(rotated) => {
                body.extend_from_slice(&rotated.n.to_be_bytes());
                body.extend_from_slice(rotated.key_id.as_bytes());
                push_confirmations(&mut body, &rotated.confirmations);
            }
            Self::DesignateHost(designated) => body.extend_from_slice(&designated.bytes),
            Self::SelectBranch(branch) => {
                body.extend_from_slice(&branch.log.to_bytes());
                push_tip(&mut body, &branch.base);
                body.extend_from_slice(branch.first.as_bytes());
                push_tip(&mut body, &branch.tip);
            }
            Self::Unknown { body: bytes, .. } => body.extend_from_slice(bytes),
        }
        body
    }

    /// Reads the body of a record of this kind.
    ///
    /// # Errors
    /// [`RecordError::Malformed`] where a known kind does not keep its form to the byte.
    pub fn read(kind: u16, body: Bytes) -> Result<Self, RecordError> {
        let mut cursor = Cursor(&body);
        let content = match kind {
            GENESIS => cursor.genesis().map(Self::Genesis),
            ADD_DEVICE => cursor.add_device().map(Self::AddDevice),
            REMOVE_DEVICE => cursor.remove_device().map(Self::RemoveDevice),
            RENAME => cursor.rename().map(Self::Rename),
            DORMANT => cursor.device().map(|device| Self::Dormant(Dormant { device, after_days: None })),
            SILENT => cursor.silent().map(Self::Dormant),
            ACTIVE => cursor.device().map(Self::Active),
            ROTATE_KEY => cursor.rotate_key().map(Self::RotateKey),
            DESIGNATE_HOST => {
                let cert = DesignateHost::read(&body).map_err(|_| RecordError::Malformed { kind })?;
                return Ok(Self::DesignateHost(Box::new(cert)));
            }
            SELECT_BRANCH => cursor.select_branch().map(Self::SelectBranch),
            _ => return Ok(Self::Unknown { kind, body }),
        };
        content.filter(|_| cursor.0.is_empty()).ok_or(RecordError::Malformed { kind })
    }
}

impl DesignateHost {
    /// Reads a certificate for its form alone.
    pub fn read(bytes: &Bytes) -> Result<Self, CertError> {
        // Which of the votes bears the table is told by the certificate before.
        let cert = Certificate::from_bytes(bytes, &|_| Some(NOBODY))?;
        Ok(Self { bytes: bytes.clone(), cert })
    }

    /// What a certificate that holds is written as.
    pub fn of(cert: &Certificate) -> Self {
        Self { bytes: cert.to_bytes().into(), cert: cert.clone() }
    }
}

/// No device: no key has these bytes.
const NOBODY: DeviceId = DeviceId::from_bytes([0; 32]);

fn push_name(body: &mut Vec<u8>, name: &SealedName) {
    body.extend_from_slice(name.key_id.as_bytes());
    push_blob(body, &name.blob);
}

fn push_blob(body: &mut Vec<u8>, blob: &[u8]) {
    body.extend_from_slice(&u16::try_from(blob.len()).expect("names are short").to_be_bytes());
    body.extend_from_slice(blob);
}

fn push_count(body: &mut Vec<u8>, count: usize) {
    body.extend_from_slice(&u16::try_from(count).expect("a writer keeps the limits").to_be_bytes());
}

fn push_confirmations(body: &mut Vec<u8>, confirmations: &[Confirmation]) {
    push_count(body, confirmations.len());
    for confirmation in confirmations {
        body.extend_from_slice(confirmation.device.as_bytes());
        body.extend_from_slice(&confirmation.signature);
    }
}

fn push_tip(body: &mut Vec<u8>, tip: &Tip) {
    body.extend_from_slice(&tip.seq.get().to_be_bytes());
    body.extend_from_slice(tip.hash.as_bytes());
}

/// Bytes not read yet. Every reader answers `None` where they end or break a rule.
pub(super) struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*front)
    }

    pub fn slice(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A count of things that follow, refused beyond `limit` before anything is made of it.
    fn count(&mut self, limit: usize) -> Option<usize> {
        self.array().map(u16::from_be_bytes).map(usize::from).filter(|count| *count <= limit)
    }

    fn device(&mut self) -> Option<DeviceId> {
        self.array().map(DeviceId::from_bytes)
    }

    fn log(&mut self) -> Option<LogId> {
        Some(LogId { device: self.device()?, incarnation: Incarnation::new(self.number()?) })
    }

    fn tip(&mut self) -> Option<Tip> {
        Some(Tip { seq: Seq::new(self.number()?), hash: TipHash::from_bytes(self.array()?) })
    }

    fn genesis(&mut self) -> Option<Genesis> {
        let scope_bytes = usize::from(self.array::<1>()?[0]);
        let scope = std::str::from_utf8(self.slice(scope_bytes)?).ok()?.parse().ok()?;
        let key_id = KeyId::from_bytes(self.array()?);
        let nonce = self.array()?;
        Some(Genesis { scope, nonce, name: SealedName { key_id, blob: self.name_blob()? } })
    }

    fn add_device(&mut self) -> Option<AddDevice> {
        let device = self.device()?;
        let role = Role::from_byte(self.array::<1>()?[0])?;
        Some(AddDevice { device, role, name: self.name()? })
    }

    fn remove_device(&mut self) -> Option<RemoveDevice> {
        let device = self.device()?;
        let mut cut = BTreeMap::new();
        for _ in 0..self.count(CUT_LOGS_MAX)? {
            let (log, tip) = (self.log()?, self.tip()?);
            let is_rising = cut.last_key_value().is_none_or(|(last, _)| *last < log);
            if log.device != device || tip.seq == Seq::ZERO || !is_rising {
                return None;
            }
            cut.insert(log, tip);
        }
        Some(RemoveDevice { device, cut })
    }

    fn rename(&mut self) -> Option<Rename> {
        Some(Rename { device: self.device()?, name: self.name()? })
    }

    fn rotate_key(&mut self) -> Option<RotateKey> {
        // Epoch 0 is the genesis.
        let n = self.number().filter(|n| *n > 0)?;
        let key_id = KeyId::from_bytes(self.array()?);
        Some(RotateKey { n, key_id, confirmations: self.confirmations()? })
    }

    fn confirmations(&mut self) -> Option<Vec<Confirmation>> {
        let mut confirmations: Vec<Confirmation> = Vec::new();
        for _ in 0..self.count(CONFIRMATIONS_MAX)? {
            let confirmation = Confirmation { device: self.device()?, signature: self.array()? };
            if confirmations.last().is_some_and(|last| last.device >= confirmation.device) {
                return None;
            }
            confirmations.push(confirmation);
        }
        Some(confirmations)
    }

    fn select_branch(&mut self) -> Option<Branch> {
        let (log, base) = (self.log()?, self.tip()?);
        let branch = Branch { log, base, first: TipHash::from_bytes(self.array()?), tip: self.tip()? };
        branch.is_sound().then_some(branch)
    }

    fn name(&mut self) -> Option<SealedName> {
        Some(SealedName { key_id: KeyId::from_bytes(self.array()?), blob: self.name_blob()? })
    }

    fn silent(&mut self) -> Option<Dormant> {
        let device = self.device()?;
        let days = u16::from_be_bytes(self.array()?);
        Some(Dormant { device, after_days: Some(NonZeroU16::new(days)?) })
    }

    fn name_blob(&mut self) -> Option<Bytes> {
        let count = self.count(NAME_BYTES_MAX + vault::OVERHEAD_BYTES)?;
        self.slice(count).map(Bytes::copy_from_slice)
    }
}

/// The kind of the first record, which alone has no past.
pub(super) const GENESIS: u16 = 1;
const ADD_DEVICE: u16 = 2;
const REMOVE_DEVICE: u16 = 3;
const RENAME: u16 = 4;
const DORMANT: u16 = 5;
const ACTIVE: u16 = 6;
const ROTATE_KEY: u16 = 7;
const DESIGNATE_HOST: u16 = 8;
const SELECT_BRANCH: u16 = 9;
const SILENT: u16 = 11;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{self, CertKind, HostInstance, TableDigest, Vote, Voter};
    use crate::model::{CertHash, SpaceId};

    fn device(byte: u8) -> DeviceId {
        DeviceId::from_bytes([byte; 32])
    }

    fn log(byte: u8, incarnation: u64) -> LogId {
        LogId { device: device(byte), incarnation: Incarnation::new(incarnation) }
    }

    fn tip(seq: u64) -> Tip {
        Tip { seq: Seq::new(seq), hash: TipHash::from_bytes([0xaa; 32]) }
    }

    fn name() -> SealedName {
        SealedName { key_id: KeyId::from_bytes([3; 16]), blob: Bytes::from_static(&[4; 90]) }
    }

    fn removal() -> Content {
        let cut = BTreeMap::from([(log(9, 1), tip(5)), (log(9, 2), tip(7))]);
        Content::RemoveDevice(RemoveDevice { device: device(9), cut })
    }

    fn rotation() -> Content {
        let confirmations =
            [1, 2].map(|byte| Confirmation { device: device(byte), signature: [byte; 64] }).to_vec();
        Content::RotateKey(RotateKey { n: 2, key_id: KeyId::from_bytes([8; 16]), confirmations })
    }

    fn designation(kind: CertKind) -> Content {
        let voters =
            [1, 2].map(|byte| Voter { device: device(byte), instance: HostInstance::FIRST }).to_vec();
        let proposal = lease::Proposal {
            space: SpaceId::from_bytes([5; 32]),
            term: 3,
            prev: CertHash::from_bytes([0xcc; 32]),
            kind,
            host: device(2),
            driver: device(1),
            voters,
        };
        let table = (kind == CertKind::Planned).then(|| TableDigest::of(b"table"));
        let votes = [1, 2].map(|byte| Vote { device: device(byte), table: None, signature: [byte; 64] });
        Content::DesignateHost(Box::new(DesignateHost::of(&Certificate {
            proposal,
            table,
            votes: votes.into(),
        })))
    }

    fn selection() -> Content {
        Content::SelectBranch(Branch { log: log(9, 1), base: tip(4), first: tip(5).hash, tip: tip(6) })
    }

    fn every_kind() -> [Content; 9] {
        [
            removal(),
            Content::Rename(Rename { device: device(9), name: name() }),
            Content::Dormant(Dormant { device: device(9), after_days: None }),
            Content::Dormant(Dormant { device: device(9), after_days: NonZeroU16::new(30) }),
            Content::Active(device(9)),
            rotation(),
            designation(CertKind::Planned),
            designation(CertKind::Lost),
            selection(),
        ]
    }

    /// Reads `content` with `bytes` in place of what is at `at` of its body.
    fn changed(content: &Content, at: usize, bytes: &[u8]) -> Result<Content, RecordError> {
        let mut body = content.body();
        body[at..at + bytes.len()].copy_from_slice(bytes);
        Content::read(content.kind(), body.into())
    }

    #[test]
    fn every_body_reads_back_and_is_refused_when_it_is_longer_or_cut() {
        for content in every_kind() {
            let (kind, body) = (content.kind(), content.body());

            assert_eq!(Content::read(kind, body.clone().into()), Ok(content));
            for cut in 0..body.len() {
                let refused = Content::read(kind, Bytes::copy_from_slice(&body[..cut]));
                assert_eq!(refused, Err(RecordError::Malformed { kind }), "{kind} cut at {cut}");
            }
            let longer = Content::read(kind, [body, vec![0]].concat().into());
            assert_eq!(longer, Err(RecordError::Malformed { kind }));
        }
    }

    #[test]
    fn a_body_is_as_long_as_its_table_says() {
        let lengths = every_kind().map(|content| content.body().len());

        assert_eq!(
            lengths,
            [
                32 + 2 + 2 * 80,
                32 + 16 + 2 + 90,
                32,
                32 + 2,
                32,
                8 + 16 + 2 + 2 * 96,
                6 + 139 + 2 * 40 + 33 + 2 + 2 * 96,
                6 + 139 + 2 * 40 + 1 + 2 + 2 * 96,
                40 + 40 + 32 + 40
            ]
        );
    }

    #[test]
    fn a_body_that_breaks_a_rule_of_its_kind_is_refused() {
        let (first, second) = (34, 34 + 80);
        let refused = |content: &Content, at, bytes: &[u8]| {
            let kind = content.kind();
            assert_eq!(changed(content, at, bytes), Err(RecordError::Malformed { kind }), "{kind} at {at}");
        };

        // A cut of another device's log, logs that repeat, an empty log, more logs than may be.
        refused(&removal(), 0, &[7]);
        refused(&removal(), first, &[7]);
        refused(&removal(), second + 39, &[1]);
        refused(&removal(), first + 40, &[0; 8]);
        refused(&removal(), 32, &[0xff, 0xff]);
        // Silent for no day.
        let silent = Content::Dormant(Dormant { device: device(9), after_days: NonZeroU16::new(30) });
        refused(&silent, 32, &[0, 0]);
        // Epoch 0, devices that repeat or fall.
        refused(&rotation(), 0, &[0; 8]);
        refused(&rotation(), 26, &[2; 32]);
        refused(&rotation(), 26, &[3; 32]);
        // Another magic, a kind of certificate that there is none of, voters and votes that repeat.
        let planned = designation(CertKind::Planned);
        refused(&planned, 0, b"KFLX");
        refused(&planned, 6 + 72, &[1]);
        refused(&planned, 6 + 139 + 40, &[1; 32]);
        refused(&planned, 6 + 219 + 33 + 2 + 96, &[1; 32]);
        // An end at its base, a base without a link, a link without a base.
        refused(&selection(), 112, &4u64.to_be_bytes());
        refused(&selection(), 48, &[0; 32]);
        refused(&selection(), 40, &[0; 8]);
    }

    #[test]
    fn the_greatest_lists_are_read_and_one_more_is_refused() {
        let cut_of = |count: u64| {
            let cut = (0..count).map(|incarnation| (log(9, incarnation), tip(1))).collect();
            Content::RemoveDevice(RemoveDevice { device: device(9), cut })
        };
        let confirmed_by = |count: u16| {
            let confirmations = (0..count)
                .map(|index| {
                    let mut id = [0; 32];
                    id[..2].copy_from_slice(&index.to_be_bytes());
                    Confirmation { device: DeviceId::from_bytes(id), signature: [1; 64] }
                })
                .collect();
            Content::RotateKey(RotateKey { n: 1, key_id: KeyId::from_bytes([8; 16]), confirmations })
        };

        for content in [cut_of(CUT_LOGS_MAX as u64), confirmed_by(512)] {
            assert_eq!(Content::read(content.kind(), content.body().into()), Ok(content));
        }
        for content in [cut_of(CUT_LOGS_MAX as u64 + 1), confirmed_by(513)] {
            let kind = content.kind();
            assert_eq!(Content::read(kind, content.body().into()), Err(RecordError::Malformed { kind }));
        }
    }

    #[test]
    fn a_branch_of_a_log_that_shares_nothing_has_no_base() {
        let branch = Branch { log: log(9, 1), base: Tip::NONE, first: tip(1).hash, tip: tip(1) };

        let content = Content::SelectBranch(branch);

        assert_eq!(Content::read(content.kind(), content.body().into()), Ok(content));
    }
}
