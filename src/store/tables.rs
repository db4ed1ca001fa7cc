//! The tables of the store file and the byte layouts of their rows.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | name | see the constants below |
//! | `spaces` | space index u32 | space 32 ‖ flags u8 ‖ own log 40 ‖ carried over through u64 BE ‖ (bit 1: dropped ops u64 BE ‖ truncations u64 BE) ‖ scope text |
//! | `logs` | space index u32, log index u32 | log 40 |
//! | `tips` | space index, log index | seq u64 BE ‖ link 32 |
//! | `batches` | space index, log index, seq u64 | one or more consecutive sealed batches; the key is the first op's position |
//! | `drafts` | space index, log index, seq u64 | vault(op count u32 BE ‖ body) |
//! | `records` | space index, record hash 32 | as received |
//! | `acks` | space index, device 32 | as received |
//! | `keys` | space index, key id 16 | vault(key 32) |
//! | `forks` | space index, log index | two witnesses |
//! | `checkpoints` | space index, manifest hash 32 | is whole u8 ‖ manifest, `KFM2` |
//! | `chunks` | space index, BLAKE3 of the value 32 | a sealed chunk of a checkpoint |
//! | `attestations` | space index, device 32, content hash 32 | as received, `KFT1` |
//! | `moments` | space index, content hash 32 | since when that checkpoint is whole here, Unix ms u64 BE ‖ since when all vouch for it, u64 BE; zero for not yet |
//! | `bases` | space index | manifest hash 32 of the checkpoint that the history begins with ‖ that of the base before, zero for none |
//! | `silences` | space index | when a day was counted last, Unix ms u64 BE ‖ (device 32 ‖ days unheard u16 BE ‖ days behind u16 BE)\*, devices strictly rising |
//! | `met` | space index | device 32\*, strictly rising: those that were met since the past of this home was in doubt; absent where it never was |
//! | `consents` | space index | content hash 32 of the checkpoint that one attestation is enough for; made with the first |
//! | `lease homes` | space index | instance u64 BE; absent in the first life of a home |
//! | `lease votes` | space index | promise and greatest token seen, `KFLD` |
//! | `lease hosts` | space index | head of the register this device hosts, `KFLH` |
//! | `lease keys` | space index, key | entry of that register, `KFLE` |
//!
//! The tables of leases, of checkpoints and of what was met are made where a store that was written before is opened.
//!
//! The flags of a space: bit 0 = active, bit 1 = ops of it have been dropped, and two numbers follow.
//!
//! Spaces and logs have small numbers of this store's own, given in order of appearance and never
//! reused, so that a key of the large table is 16 bytes instead of 80. The vault's context is the
//! table's name and the full ids, never these numbers.

use std::collections::{BTreeMap, BTreeSet};

use redb::TableDefinition;

use super::error::{Part, StoreError};
use crate::model::{DeviceId, LogId, Scope, Seq, SpaceId, Tip, TipHash, Wall};
use crate::sync::{Silence, SilentDays};

/// A space within its store.
pub(super) type SpaceIx = u32;
/// A log within its store.
pub(super) type LogIx = (SpaceIx, u32);
/// A place in a log within its store.
pub(super) type PlaceIx = (SpaceIx, u32, u64);
/// What is named by its hash, within its store.
pub(super) type HashIx = (SpaceIx, [u8; 32]);
/// What a device has said of a content, within its store.
pub(super) type WordIx = (SpaceIx, [u8; 32], [u8; 32]);

pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const SPACES: TableDefinition<'_, SpaceIx, &[u8]> = TableDefinition::new("spaces");
pub(super) const LOGS: TableDefinition<'_, LogIx, [u8; 40]> = TableDefinition::new("logs");
pub(super) const TIPS: TableDefinition<'_, LogIx, [u8; 40]> = TableDefinition::new("tips");
pub(super) const BATCHES: TableDefinition<'_, PlaceIx, &[u8]> = TableDefinition::new("batches");
pub(super) const DRAFTS: TableDefinition<'_, PlaceIx, &[u8]> = TableDefinition::new("drafts");
pub(super) const CHECKPOINTS: TableDefinition<'_, HashIx, &[u8]> = TableDefinition::new("checkpoints");
pub(super) const CHUNKS: TableDefinition<'_, HashIx, &[u8]> = TableDefinition::new("chunks");
pub(super) const ATTESTATIONS: TableDefinition<'_, WordIx, &[u8]> = TableDefinition::new("attestations");
pub(super) const MOMENTS: TableDefinition<'_, HashIx, [u8; 16]> = TableDefinition::new("moments");
pub(super) const BASES: TableDefinition<'_, SpaceIx, [u8; 64]> = TableDefinition::new("bases");
pub(super) const SILENCES: TableDefinition<'_, SpaceIx, &[u8]> = TableDefinition::new("silences");
pub(super) const MET: TableDefinition<'_, SpaceIx, &[u8]> = TableDefinition::new("met");
pub(super) const CONSENTS: TableDefinition<'_, SpaceIx, [u8; 32]> = TableDefinition::new("consents");
pub(super) const RECORDS: TableDefinition<'_, (SpaceIx, [u8; 32]), &[u8]> = TableDefinition::new("records");
pub(super) const ACKS: TableDefinition<'_, (SpaceIx, [u8; 32]), &[u8]> = TableDefinition::new("acks");
pub(super) const KEYS: TableDefinition<'_, (SpaceIx, [u8; 16]), &[u8]> = TableDefinition::new("keys");
pub(super) const FORKS: TableDefinition<'_, LogIx, &[u8]> = TableDefinition::new("forks");
pub(super) const LEASE_HOMES: TableDefinition<'_, SpaceIx, u64> = TableDefinition::new("lease homes");
pub(super) const LEASE_VOTES: TableDefinition<'_, SpaceIx, &[u8]> = TableDefinition::new("lease votes");
pub(super) const LEASE_HOSTS: TableDefinition<'_, SpaceIx, &[u8]> = TableDefinition::new("lease hosts");
pub(super) const LEASE_KEYS: TableDefinition<'_, (SpaceIx, &str), &[u8]> = TableDefinition::new("lease keys");

/// The format version, u32 BE.
pub(super) const META_FORMAT: &str = "format";
/// 16 random bytes that tell this store from every other.
pub(super) const META_STORE_ID: &str = "store id";
/// vault(nothing): opens under the key this store was made with.
pub(super) const META_KEY_CHECK: &str = "key check";
/// How many transactions were committed, u64 BE: settles whether one in doubt was.
pub(super) const META_COMMITS: &str = "commits";

/// 16 random bytes: which life of the store this is. Absent in stores from before there were marks.
pub(super) const META_INSTANCE: &str = "instance";
/// How often it was opened in this life, u64 BE.
pub(super) const META_OPENS: &str = "opens";

/// The format written here.
pub(super) const FORMAT: u32 = 1;

/// The row of a space.
#[derive(Clone, Debug)]
pub(super) struct SpaceRow {
    pub(super) space: SpaceId,
    pub(super) is_active: bool,
    pub(super) own_log: LogId,
    pub(super) carried: Seq,
    pub(super) dropped: u64,
    /// How often logs of it were truncated.
    pub(super) truncations: u64,
    pub(super) scope: Scope,
}

impl SpaceRow {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let scope = self.scope.to_string();
        let mut bytes = Vec::with_capacity(SPACE_FIXED_BYTES + scope.len());
        bytes.extend_from_slice(self.space.as_bytes());
        let has_dropped = self.dropped > 0 || self.truncations > 0;
        bytes.push(u8::from(self.is_active) * ACTIVE + u8::from(has_dropped) * DROPPED);
        bytes.extend_from_slice(&self.own_log.to_bytes());
        bytes.extend_from_slice(&self.carried.get().to_be_bytes());
        if has_dropped {
            bytes.extend_from_slice(&self.dropped.to_be_bytes());
            bytes.extend_from_slice(&self.truncations.to_be_bytes());
        }
        bytes.extend_from_slice(scope.as_bytes());
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::damaged(Part::Row { table: "spaces" });
        let (fixed, rest) = bytes.split_first_chunk::<SPACE_FIXED_BYTES>().ok_or_else(damaged)?;
        let (space, fixed) = fixed.split_first_chunk::<32>().expect("32 < 81");
        let ([flags], fixed) = fixed.split_first_chunk::<1>().expect("1 < 49");
        let (own_log, carried) = fixed.split_first_chunk::<40>().expect("40 < 48");
        let number = |bytes: &[u8; 8]| u64::from_be_bytes(*bytes);
        let (dropped, truncations, scope) = match flags & !ACTIVE {
            0 => (0, 0, rest),
            DROPPED => {
                let (dropped, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
                let (truncations, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
                (number(dropped), number(truncations), rest)
            }
            _ => return Err(damaged()),
        };
        let scope = std::str::from_utf8(scope).ok().and_then(|text| text.parse().ok()).ok_or_else(damaged)?;
        Ok(Self {
            space: SpaceId::from_bytes(*space),
            is_active: flags & ACTIVE != 0,
            own_log: LogId::from_bytes(own_log),
            carried: Seq::new(number(carried.try_into().expect("48 - 40 is 8"))),
            dropped,
            truncations,
            scope,
        })
    }
}

pub(super) fn tip_bytes(tip: Tip) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[..8].copy_from_slice(&tip.seq.get().to_be_bytes());
    bytes[8..].copy_from_slice(tip.hash.as_bytes());
    bytes
}

pub(super) fn parse_tip(bytes: &[u8; 40]) -> Tip {
    let (seq, hash) = bytes.split_at(8);
    Tip {
        seq: Seq::new(u64::from_be_bytes(seq.try_into().expect("split at 8"))),
        hash: TipHash::from_bytes(hash.try_into().expect("40 - 8 is 32")),
    }
}

/// What was counted of the silence of devices; there is none before a day was counted.
pub(super) fn silence_bytes(silence: &Silence) -> Option<Vec<u8>> {
    let mut bytes = silence.counted?.as_millis().to_be_bytes().to_vec();
    for (device, days) in &silence.devices {
        bytes.extend_from_slice(device.as_bytes());
        bytes.extend_from_slice(&days.unheard.to_be_bytes());
        bytes.extend_from_slice(&days.behind.to_be_bytes());
    }
    Some(bytes)
}

pub(super) fn parse_silence(bytes: &[u8]) -> Result<Silence, StoreError> {
    let damaged = || StoreError::damaged(Part::Row { table: "silences" });
    let (counted, rows) = bytes.split_first_chunk().ok_or_else(damaged)?;
    let (rows, rest) = rows.as_chunks::<36>();
    let mut devices = BTreeMap::new();
    for row in rows {
        let (device, days) = row.split_first_chunk::<32>().expect("36 - 4 is 32");
        let device = DeviceId::from_bytes(*device);
        let unheard = u16::from_be_bytes([days[0], days[1]]);
        let behind = u16::from_be_bytes([days[2], days[3]]);
        if devices.last_key_value().is_some_and(|(last, _)| *last >= device) {
            return Err(damaged());
        }
        devices.insert(device, SilentDays { unheard, behind });
    }
    let counted = Some(Wall::from_millis(u64::from_be_bytes(*counted)));
    if rest.is_empty() { Ok(Silence { counted, devices }) } else { Err(damaged()) }
}

/// Devices that were met since the past was in doubt.
pub(super) fn met_bytes(met: &BTreeSet<DeviceId>) -> Vec<u8> {
    met.iter().flat_map(|device| *device.as_bytes()).collect()
}

pub(super) fn parse_met(bytes: &[u8]) -> Result<BTreeSet<DeviceId>, StoreError> {
    let (rows, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() || !rows.is_sorted_by(|a, b| a < b) {
        return Err(StoreError::damaged(Part::Row { table: "met" }));
    }
    Ok(rows.iter().map(|row| DeviceId::from_bytes(*row)).collect())
}

/// What a draft group's vault is bound to.
pub(super) fn draft_context(space: &SpaceId, log: &LogId, first: Seq) -> Vec<u8> {
    [&b"drafts"[..], space.as_bytes(), &log.to_bytes(), &first.get().to_be_bytes()].concat()
}

/// What an epoch key's vault is bound to.
pub(super) fn key_context(space: &SpaceId, key_id: &[u8; 16]) -> Vec<u8> {
    [&b"keys"[..], space.as_bytes(), key_id].concat()
}

/// What the key check's vault is bound to.
pub(super) fn key_check_context(store_id: &[u8; 16]) -> Vec<u8> {
    [&b"key check"[..], store_id].concat()
}

const ACTIVE: u8 = 1;
const DROPPED: u8 = 2;

const SPACE_FIXED_BYTES: usize = 32 + 1 + 40 + 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Incarnation;

    fn row(dropped: u64, truncations: u64) -> SpaceRow {
        let device = DeviceId::from_bytes([2; 32]);
        SpaceRow {
            space: SpaceId::from_bytes([1; 32]),
            is_active: true,
            own_log: LogId { device, incarnation: Incarnation::new(3) },
            carried: Seq::new(4),
            dropped,
            truncations,
            scope: Scope::Shared("org".into()),
        }
    }

    #[test]
    fn a_space_of_which_nothing_was_dropped_has_the_row_it_always_had() {
        let mut old = vec![1; 32];
        old.push(1);
        old.extend_from_slice(&[2; 32]);
        old.extend_from_slice(&3u64.to_be_bytes());
        old.extend_from_slice(&4u64.to_be_bytes());
        old.extend_from_slice(b"shared:org");

        assert_eq!(row(0, 0).to_bytes(), old);
        let read = SpaceRow::parse(&old).unwrap();
        assert_eq!((read.carried, read.dropped, read.truncations), (Seq::new(4), 0, 0));
    }

    #[test]
    fn what_was_met_reads_back_and_a_row_of_another_form_is_refused() {
        let met = [1, 7].map(|byte| DeviceId::from_bytes([byte; 32])).into();

        let bytes = met_bytes(&met);

        assert_eq!(bytes, [[1; 32], [7; 32]].concat());
        assert_eq!(parse_met(&bytes).unwrap(), met);
        assert_eq!(parse_met(&[]).unwrap(), BTreeSet::new());
        let (twice, turned) = ([[7; 32], [7; 32]].concat(), [[7; 32], [1; 32]].concat());
        for refused in [&bytes[..63], &twice[..], &turned[..]] {
            assert!(matches!(parse_met(refused), Err(StoreError::Damaged { .. })));
        }
    }

    #[test]
    fn silence_reads_back_and_a_row_of_another_form_is_refused() {
        let days = |unheard, behind| SilentDays { unheard, behind };
        let devices = [(1, days(300, 2)), (2, days(7, 0))];
        let devices = devices.map(|(byte, days)| (DeviceId::from_bytes([byte; 32]), days)).into();
        let silence = Silence { counted: Some(Wall::from_millis(9)), devices };

        let bytes = silence_bytes(&silence).unwrap();

        let mut pinned = 9u64.to_be_bytes().to_vec();
        pinned.extend_from_slice(&[1; 32]);
        pinned.extend_from_slice(&[1, 44, 0, 2]);
        pinned.extend_from_slice(&[2; 32]);
        pinned.extend_from_slice(&[0, 7, 0, 0]);
        assert_eq!((&bytes, parse_silence(&bytes).unwrap()), (&pinned, silence));
        assert_eq!(silence_bytes(&Silence::default()), None);
        let twice = [&bytes[..44], &bytes[8..44]].concat();
        for refused in [&bytes[..7], &bytes[..bytes.len() - 1], &twice[..]] {
            assert!(matches!(parse_silence(refused), Err(StoreError::Damaged { .. })));
        }
    }

    #[test]
    fn what_was_dropped_reads_back_and_a_row_of_another_form_is_refused() {
        let bytes = row(5, 6).to_bytes();

        let read = SpaceRow::parse(&bytes).unwrap();

        assert_eq!((read.dropped, read.truncations, read.scope), (5, 6, Scope::Shared("org".into())));
        let mut later = bytes.clone();
        later[32] = 4;
        for refused in [&later[..], &bytes[..90], &bytes[..80]] {
            assert!(matches!(SpaceRow::parse(refused), Err(StoreError::Damaged { .. })));
        }
    }
}
