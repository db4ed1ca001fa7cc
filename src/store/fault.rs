//! A disk in memory that fails on demand: for tests of whatever stands on a [`Store`](super::Store).
//!
//! It keeps what was synced apart from what was only written, like a drive with a cache. A power
//! cut ([`FaultDisk::cut_power_at_sync`]) ends all I/O; [`FaultDisk::after_power_cut`] gives the
//! disk as it may be found afterwards: everything synced, and of the rest nothing, an arbitrary
//! part, or arbitrary sectors of an arbitrary part. The same seed gives the same disk.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

/// The disk; clones share it.
#[derive(Clone, Debug, Default)]
pub struct FaultDisk(Arc<Mutex<State>>);

/// What a power cut leaves of the writes since the last sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing.
    All,
    /// An arbitrary subset of them, each whole.
    Subset,
    /// An arbitrary subset of their 512-byte sectors.
    Torn,
}

#[derive(Debug, Default)]
struct State {
    /// What programs read back.
    current: Vec<u8>,
    /// What a power cut cannot take.
    synced: Vec<u8>,
    pending: Vec<Pending>,
    /// Blocks that take space: files have holes.
    allocated: BTreeSet<u64>,
    capacity_blocks: Option<u64>,
    write_error: Option<io::ErrorKind>,
    sync_failures: u32,
    sync_count: u64,
    cut_at_sync: Option<u64>,
    is_cut: bool,
}

#[derive(Clone, Debug)]
enum Pending {
    Length(u64),
    Write { offset: u64, data: Vec<u8> },
}

impl FaultDisk {
    /// An empty disk without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk that holds these bytes, synced.
    pub fn with_bytes(bytes: Vec<u8>) -> Self {
        let allocated = (0..(bytes.len() as u64).div_ceil(BLOCK_BYTES)).collect();
        let state = State { synced: bytes.clone(), current: bytes, allocated, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// What programs read back.
    pub fn bytes(&self) -> Vec<u8> {
        self.state().current.clone()
    }

    /// Bytes that take space, holes not counted.
    pub fn allocated_bytes(&self) -> u64 {
        self.state().allocated.len() as u64 * BLOCK_BYTES
    }

    /// Lets writes fail with "no space left" once this many bytes more are allocated.
    pub fn limit_free_bytes(&self, free: u64) {
        let mut state = self.state();
        state.capacity_blocks = Some(state.allocated.len() as u64 + free / BLOCK_BYTES);
    }

    /// Takes the limit away.
    pub fn unlimit(&self) {
        self.state().capacity_blocks = None;
    }

    /// Lets every write fail with this error, or none.
    pub fn fail_writes(&self, error: Option<io::ErrorKind>) {
        self.state().write_error = error;
    }

    /// Lets this many syncs fail; what they should have synced stays pending.
    pub fn fail_syncs(&self, count: u32) {
        self.state().sync_failures = count;
    }

    /// How many syncs were asked for so far.
    pub fn sync_count(&self) -> u64 {
        self.state().sync_count
    }

    /// Cuts the power during the sync of this number, counted from 0: it and all I/O after it fail.
    pub fn cut_power_at_sync(&self, number: u64) {
        self.state().cut_at_sync = Some(number);
    }

    /// The disk as found when the power is back.
    pub fn after_power_cut(&self, loss: Loss, seed: u64) -> Self {
        let state = self.state();
        let mut chance = Chance(seed);
        let mut bytes = state.synced.clone();
        for pending in &state.pending {
            match (loss, pending) {
                (Loss::All, _) => break,
                (_, Pending::Length(len)) => {
                    if chance.coin() {
                        resize(&mut bytes, *len);
                    }
                }
                (Loss::Subset, Pending::Write { offset, data }) => {
                    if chance.coin() {
                        put(&mut bytes, *offset, data);
                    }
                }
                (Loss::Torn, Pending::Write { offset, data }) => {
                    for (index, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                        if chance.coin() {
                            put(&mut bytes, offset + (index * SECTOR_BYTES) as u64, sector);
                        }
                    }
                }
            }
        }
        Self::with_bytes(bytes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn powered(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.is_cut { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(state) }
    }
}

impl StorageBackend for FaultDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.powered()?.current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.powered()?;
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(state.current.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.powered()?;
        if len > LENGTH_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        resize(&mut state.current, len);
        state.allocated.split_off(&len.div_ceil(BLOCK_BYTES));
        state.pending.push(Pending::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.powered()?;
        let number = state.sync_count;
        state.sync_count += 1;
        if state.cut_at_sync == Some(number) {
            state.is_cut = true;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if state.sync_failures > 0 {
            state.sync_failures -= 1;
            return Err(io::Error::other("the drive did not answer"));
        }
        let State { synced, pending, .. } = &mut *state;
        for pending in pending.drain(..) {
            match pending {
                Pending::Length(len) => resize(synced, len),
                Pending::Write { offset, data } => put(synced, offset, &data),
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.powered()?;
        if let Some(error) = state.write_error {
            return Err(error.into());
        }
        let end = offset + data.len() as u64;
        let blocks: Vec<u64> = (offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES))
            .filter(|block| !state.allocated.contains(block))
            .collect();
        if state.capacity_blocks.is_some_and(|most| (state.allocated.len() + blocks.len()) as u64 > most) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.allocated.extend(blocks);
        put(&mut state.current, offset, data);
        state.pending.push(Pending::Write { offset, data: data.to_vec() });
        Ok(())
    }
}

fn resize(bytes: &mut Vec<u8>, len: u64) {
    bytes.resize(usize::try_from(len).expect("lengths are bounded when they are set"), 0);
}

fn put(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let start = usize::try_from(offset).expect("the store file fits memory");
    let end = start + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[start..end].copy_from_slice(data);
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough to choose sectors.
struct Chance(u64);

impl Chance {
    fn coin(&mut self) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) & 1 == 1
    }
}

/// What a drive writes at once.
const SECTOR_BYTES: usize = 512;

/// What a file system allocates at once.
const BLOCK_BYTES: u64 = 4096;

/// Longer files than this a test does not mean.
const LENGTH_MAX: u64 = 1 << 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_cut_takes_only_what_was_not_synced() {
        let disk = FaultDisk::new();
        disk.set_len(2048).unwrap();
        disk.write(0, &[1; 1024]).unwrap();
        disk.sync_data().unwrap();
        disk.write(0, &[2; 2048]).unwrap();
        disk.cut_power_at_sync(1);

        assert!(disk.sync_data().is_err());
        assert!(disk.read(0, &mut [0]).is_err());
        let kept = [&[1; 1024][..], &[0; 1024]].concat();
        assert_eq!(disk.after_power_cut(Loss::All, 0).bytes(), kept);
        let mut torn_count = 0;
        for seed in 0..32 {
            let whole = disk.after_power_cut(Loss::Subset, seed).bytes();
            assert!(whole == kept || whole == [2; 2048]);
            let torn = disk.after_power_cut(Loss::Torn, seed).bytes();
            assert!(torn.chunks(SECTOR_BYTES).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
            torn_count += u32::from(torn != kept && torn != [2; 2048]);
        }
        assert!(torn_count > 16);
    }

    #[test]
    fn a_full_disk_still_takes_writes_to_what_it_has() {
        let disk = FaultDisk::new();
        disk.write(0, &[1; 8192]).unwrap();
        disk.limit_free_bytes(4096);

        disk.write(4096, &[2; 4096]).unwrap();
        disk.write(8192, &[3; 4096]).unwrap();
        assert_eq!(disk.write(12_288, &[4]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.allocated_bytes(), 12_288);
    }
}
