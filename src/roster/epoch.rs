//! Key epochs: which key counts now, who confirmed it, and how the next one is proposed.
//!
//! A rotation supersedes those in its past. Where two were written without knowledge of each other
//! the epoch is contested: nobody seals under either, and a third, which has seen both, ends it.

use std::collections::{BTreeMap, BTreeSet};

use super::content::{Confirmation, Content, RotateKey};
use super::dag::Dag;
use super::nodes::NodeSet;
use super::removal::{Verdict, target};
use super::role::Role;
use crate::crypto::{Identity, verify};
use crate::model::{DeviceId, Hlc, KeyId, RecordHash, SpaceId};

/// Which key batches and names are sealed under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Epoch {
    /// One key is the newest.
    Current {
        /// Its number; 0 is the genesis.
        n: u64,
        /// Its name.
        key_id: KeyId,
    },
    /// Several are, and nobody seals until another rotation has seen them all.
    Contested {
        /// The greatest of their numbers.
        n: u64,
    },
}

/// A key that a coordinator proposes for the next epoch.
///
/// The coordinator gives the key to every member it reaches, collects their confirmations and
/// writes the record; it fixes the record's parents now, so that all confirm the same thing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    /// The number of the epoch.
    pub n: u64,
    /// The name of its key.
    pub key_id: KeyId,
    /// The admin that will write the record.
    pub coordinator: DeviceId,
    /// What the record will name as its parents, strictly rising.
    pub parents: Vec<RecordHash>,
}

impl Proposal {
    /// `BLAKE3("kinfold rotation v1" ‖ space 32 ‖ n u64 ‖ key id 16 ‖ coordinator 32 ‖ [parent 32])`.
    pub fn hash(&self, space: SpaceId) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"kinfold rotation v1");
        hasher.update(space.as_bytes());
        hasher.update(&self.n.to_be_bytes());
        hasher.update(self.key_id.as_bytes());
        hasher.update(self.coordinator.as_bytes());
        for parent in &self.parents {
            hasher.update(parent.as_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// Signs that this device holds the key:
    /// Ed25519 over `BLAKE3("kinfold rotation confirm v1" ‖ proposal hash)`.
    ///
    /// Ask [`Roster::check_proposal`](super::Roster::check_proposal) first.
    pub fn confirm(&self, space: SpaceId, identity: &Identity) -> [u8; 64] {
        identity.sign(&confirmed_hash(&self.hash(space)))
    }

    /// Whether this device signed this proposal.
    pub(super) fn is_confirmed_by(&self, space: SpaceId, confirmation: &Confirmation) -> bool {
        let signed = confirmed_hash(&self.hash(space));
        verify(&confirmation.device, &signed, &confirmation.signature).is_ok()
    }
}

/// What the rotations among a set of records come to.
#[derive(Clone, Debug)]
pub(super) struct Epochs {
    pub epoch: Epoch,
    /// The greatest number of a rotation that counts.
    pub n: u64,
    /// The stamp of the newest record that begins the epoch.
    pub rotated_at: Hlc,
    pub is_due: bool,
    /// Every key that an admin's record names, with those records. A rotation that a removal made
    /// void stays here: batches may lie sealed under its key, and those must stay readable.
    keys: BTreeMap<KeyId, Vec<usize>>,
    /// Those keys as their records count, the first one first.
    order: Vec<KeyId>,
}

impl Epochs {
    pub fn of(dag: &Dag, verdict: &Verdict) -> Self {
        let mut keys: BTreeMap<KeyId, Vec<usize>> = BTreeMap::new();
        let (mut counting, mut genesis, mut order) = (Vec::new(), None, Vec::new());
        for at in dag.ranked() {
            let node = dag.node(at);
            match node.record.content() {
                Content::Genesis(content) => {
                    keys.entry(content.name.key_id()).or_default();
                    order.push(content.name.key_id());
                    genesis = Some((at, content.name.key_id()));
                }
                Content::RotateKey(rotated) => {
                    let author = node.record.author();
                    let is_void = verdict.void.contains(at);
                    if verdict.admitted.admin_in(&author, &node.past).is_some() {
                        let records = keys.entry(rotated.key_id).or_default();
                        if records.is_empty() && !order.contains(&rotated.key_id) {
                            order.push(rotated.key_id);
                        }
                        records.push(at);
                    }
                    if !is_void && verdict.grants.admin_in(&author, &node.past).is_some() {
                        counting.push((at, rotated));
                    }
                }
                Content::AddDevice(_)
                | Content::RemoveDevice(_)
                | Content::Rename(_)
                | Content::Dormant(_)
                | Content::Active(_)
                | Content::DesignateHost(_)
                | Content::SelectBranch(_)
                | Content::Unknown { .. } => {}
            }
        }
        let (genesis_at, genesis_key) = genesis.expect("a roster is loaded with its genesis");
        let n = counting.iter().map(|(_, rotated)| rotated.n).max().unwrap_or(0);
        let seen = dag.seen_among(counting.iter().map(|(at, _)| *at));
        let heads: Vec<(usize, &RotateKey)> =
            counting.into_iter().filter(|(at, _)| !seen.contains(*at)).collect();
        let newest = heads.last().map_or(genesis_at, |(at, _)| *at);
        let epoch = match heads.as_slice() {
            [] => Epoch::Current { n: 0, key_id: genesis_key },
            [(_, only)] => Epoch::Current { n: only.n, key_id: only.key_id },
            _ => Epoch::Contested { n },
        };
        let is_due = match epoch {
            Epoch::Contested { .. } => true,
            Epoch::Current { .. } => knows_the_key_in_vain(dag, verdict, newest),
        };
        Self { epoch, n, rotated_at: dag.node(newest).record.hlc(), is_due, keys, order }
    }

    pub fn knows(&self, key_id: &KeyId) -> bool {
        self.keys.contains_key(key_id)
    }

    pub fn key_ids(&self) -> impl Iterator<Item = KeyId> {
        self.order.iter().copied()
    }

    /// The devices whose confirmation of this key holds: each signed the proposal and held keys by
    /// what the record had seen.
    pub fn confirmed_by(
        &self,
        dag: &Dag,
        verdict: &Verdict,
        space: SpaceId,
        key_id: &KeyId,
    ) -> BTreeSet<DeviceId> {
        let mut devices = BTreeSet::new();
        for at in self.keys.get(key_id).into_iter().flatten() {
            let node = dag.node(*at);
            let Content::RotateKey(rotated) = node.record.content() else { continue };
            let proposal = Proposal {
                n: rotated.n,
                key_id: rotated.key_id,
                coordinator: node.record.author(),
                parents: node.record.parents().to_vec(),
            };
            let holds = |confirmation: &&Confirmation| {
                holds_keys(dag, verdict, &confirmation.device, &node.past)
                    && proposal.is_confirmed_by(space, confirmation)
            };
            devices.extend(rotated.confirmations.iter().filter(holds).map(|c| c.device));
        }
        devices
    }
}

/// Whether what `past` holds gives a device the keys, and does not take its place away.
pub(super) fn holds_keys(dag: &Dag, verdict: &Verdict, device: &DeviceId, past: &NodeSet) -> bool {
    verdict.grants.role_in(device, past).is_some_and(Role::holds_keys)
        && !verdict.effective.iter().any(|at| past.contains(*at) && target(dag, *at) == *device)
}

/// Whether a device that was removed since this epoch began may hold its key.
fn knows_the_key_in_vain(dag: &Dag, verdict: &Verdict, since: usize) -> bool {
    let past = &dag.node(since).past;
    let excluded: BTreeSet<DeviceId> =
        verdict.effective.iter().filter(|at| past.contains(**at)).map(|at| target(dag, *at)).collect();
    verdict.effective.iter().map(|at| target(dag, *at)).any(|device| {
        !excluded.contains(&device)
            && verdict.admitted.best(&device).is_some_and(|(_, role)| role.holds_keys())
    })
}

fn confirmed_hash(proposal: &[u8; 32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"kinfold rotation confirm v1");
    hasher.update(proposal);
    *hasher.finalize().as_bytes()
}
