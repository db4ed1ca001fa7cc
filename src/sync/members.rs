//! Changes of a roster that this device writes: devices enrolled, renamed, removed.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::effect::{Effect, RequestError, RosterChange, Token};
use super::engine::Engine;
use super::space::{SpaceState, Then};
use super::txn::Write;
use crate::crypto::EpochKey;
use crate::model::limits::CUT_LOGS_MAX;
use crate::model::{DeviceId, Hlc, LogId, Now, RecordHash, Scope, SpaceId, Tip};
use crate::roster::{Admit, Author as RosterAuthor, Change, NewDevice, Role, RosterError};

impl Engine {
    pub(super) fn enrol(
        &mut self,
        now: &Now,
        space: SpaceId,
        device: DeviceId,
        role: Role,
        name: &str,
        token: Token,
    ) {
        let entropy = self.entropy();
        let Some(state) = self.spaces.get(&space).filter(|state| state.is_active) else {
            return self.emit(Effect::Failed { token, why: RequestError::NoSuchSpace });
        };
        if state.roster.role_of(&device).is_some_and(|held| held >= role) {
            // Enrolled before, and the answer got lost.
            return self.emit(Effect::Done { token });
        }
        let Some(key) = state.any_key().cloned() else {
            return self.emit(Effect::Failed { token, why: RequestError::NotAuthor });
        };
        let author = RosterAuthor { identity: &self.identity, key: &key, hlc: Hlc::at(now.wall), entropy };
        match state.roster.add_device(&author, &NewDevice { device, role, name }) {
            Ok(bytes) => self.admit_own(space, bytes, vec![token]),
            Err(why) => self.emit(Effect::Failed { token, why: RequestError::Roster(Arc::new(why)) }),
        }
    }

    pub(super) fn change(&mut self, now: &Now, space: SpaceId, change: &RosterChange, token: Token) {
        let Some(state) = self.spaces.get(&space).filter(|state| state.is_active) else {
            return self.emit(Effect::Failed { token, why: RequestError::NoSuchSpace });
        };
        let own = self.identity.device();
        if matches!(change, RosterChange::Remove { device } if *device == own) && concerns_nobody(state, &own)
        {
            return self.leave(space, Some(token));
        }
        let cut;
        let change = match change {
            RosterChange::Remove { device } => {
                // Everything of it that this device holds stands, and nothing else ever will.
                cut = held_of(state, device);
                Change::Remove { device: *device, cut: &cut }
            }
            RosterChange::Rename { device, name } => Change::Rename { device: *device, name },
            RosterChange::Dormant { device } => Change::Dormant { device: *device },
            RosterChange::Active { device } => Change::Active { device: *device },
        };
        let is_removal = matches!(change, Change::Remove { .. });
        let written = self.record(now, space, &change);
        match written {
            Ok(bytes) => {
                self.admit_own(space, bytes, vec![token]);
                let is_admin =
                    self.spaces.get(&space).is_some_and(|state| state.roster.admin_rank(&own).is_some());
                if is_removal && is_admin {
                    self.rotate_soon(now, space);
                }
            }
            Err(why) => self.emit(Effect::Failed { token, why: RequestError::Roster(Arc::new(why)) }),
        }
    }

    /// Writes and takes in a record nobody waits for.
    pub(super) fn write_record(
        &mut self,
        now: &Now,
        space: SpaceId,
        change: &Change<'_>,
    ) -> Result<(), RosterError> {
        let bytes = self.record(now, space, change)?;
        self.admit_own(space, bytes, Vec::new());
        Ok(())
    }

    fn record(&mut self, now: &Now, space: SpaceId, change: &Change<'_>) -> Result<Bytes, RosterError> {
        let entropy = self.entropy();
        let Some(state) = self.spaces.get(&space) else {
            return Err(RosterError::GenesisMissing { space });
        };
        // Only names are sealed; where none is in the record, any key will do.
        let none = EpochKey::from_bytes([0; 32]);
        let key = state.any_key().unwrap_or(&none);
        let author = RosterAuthor { identity: &self.identity, key, hlc: Hlc::at(now.wall), entropy };
        state.roster.write(&author, change)
    }

    /// Takes in a record this device has just written.
    pub(super) fn admit_own(&mut self, space: SpaceId, bytes: Bytes, tokens: Vec<Token>) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        match state.roster.admit(bytes.clone()) {
            Ok(Admit::New { admitted }) => {
                for hash in &admitted {
                    self.write(Write::Record { space, hash: *hash, bytes: bytes.clone() });
                }
                self.then(Then::Records { space, records: admitted, tokens });
            }
            Ok(Admit::Duplicate | Admit::Parked) => {
                tokens.into_iter().for_each(|token| self.emit(Effect::Done { token }));
            }
            Err(source) => {
                let hash = RecordHash::from_bytes(*blake3::hash(&bytes).as_bytes());
                let why = RequestError::Roster(Arc::new(RosterError::Record { hash, source }));
                self.fail(&tokens, &why);
            }
        }
    }

    /// Rotates at the next tick, once the removal is durable and its device cut off.
    fn rotate_soon(&mut self, now: &Now, space: SpaceId) {
        if let Some(state) = self.spaces.get_mut(&space) {
            state.rotate_at = Some(now.uptime);
        }
    }

    /// Stops taking part in a space, once the others know.
    pub(super) fn leave(&mut self, space: SpaceId, token: Option<Token>) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        state.is_active = false;
        let write = super::join::space_write(state);
        self.write(write);
        self.then(Then::Left { space, token });
    }
}

/// Whether nobody has to hear that this device leaves: it is alone, or was removed by another. Its
/// personal space is never left like this, something has to take its place.
fn concerns_nobody(state: &SpaceState, own: &DeviceId) -> bool {
    let is_alone = state.roster.member_count() == 1 && state.roster.role_of(own).is_some();
    let is_removed = state.roster.removal_of(own).is_some_and(|removed| removed.by != *own);
    state.scope != Scope::Personal && (is_alone || is_removed)
}

/// What this device holds of a device's logs: all of it, or the longest where a record cannot name
/// them all. A device that has begun more logs than that is removed like any other.
fn held_of(state: &SpaceState, device: &DeviceId) -> BTreeMap<LogId, Tip> {
    let of_device = |(log, tip): (&LogId, &Tip)| (log.device == *device).then_some((*log, *tip));
    let mut held: Vec<(LogId, Tip)> = state.durable.iter().filter_map(of_device).collect();
    held.sort_by_key(|(log, tip)| (Reverse(tip.seq), *log));
    held.truncate(CUT_LOGS_MAX);
    held.into_iter().collect()
}

impl SpaceState {
    /// A key to seal names under: that of the current epoch where there is one.
    pub fn any_key(&self) -> Option<&EpochKey> {
        self.sealing_key().or_else(|| self.keys.get(&self.roster.genesis_key_id()))
    }
}
