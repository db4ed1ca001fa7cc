//! What a host keeps of its register, durably.

use std::collections::BTreeMap;

use super::cert::{ProposalHash, TableDigest};
use super::request::{Answer, DaemonInstance, Holder, HostInstance, ReqNo};
use super::time::Ttl;
use crate::model::{AgentId, CertHash, DeviceId, LeaseEpoch};

/// The register of one host: one head, and one entry for each key.
///
/// A store keeps the head and the entries as rows of their own ([`HostHead::to_bytes`],
/// [`Entry::to_bytes`]) and changes them together, as [`HostState::apply`] does.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostState {
    /// What is said of the register as a whole.
    pub head: HostHead,
    /// What is said of each key; at most [`KEYS_MAX`].
    pub entries: BTreeMap<AgentId, Entry>,
}

/// What is said of a register as a whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostHead {
    /// The certificate the register serves under.
    pub cert: CertHash,
    /// Its term.
    pub term: u32,
    /// The home that was designated.
    pub instance: HostInstance,
    /// The number of the next token, from 1; `None` once all are given.
    pub next_n: Option<u32>,
    /// Whether it serves.
    pub mode: Mode,
}

/// Whether a register serves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mode {
    /// It does.
    Serving,
    /// It will, once the leases of a lost host have run out.
    Settling,
    /// Never again under this certificate: it was given away.
    Sealed {
        /// The proposal it was given away for.
        proposal: ProposalHash,
        /// The host of that proposal.
        to: DeviceId,
    },
    /// Never again under this certificate: others saw greater tokens than it gave.
    Quarantined,
}

/// What a register says of one key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Entry {
    /// The last token given.
    pub epoch: LeaseEpoch,
    /// What became of it.
    pub hold: Hold,
    /// The last request of each device that changed the key; at most [`LAST_MAX`].
    pub last: BTreeMap<DeviceId, Last>,
}

/// What became of the last token of a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Hold {
    /// It is held.
    Held {
        /// By whom.
        holder: Holder,
        /// The longest time to live it was promised.
        ttl_max: Ttl,
    },
    /// Its holder gave it back.
    Released,
    /// It ran out.
    Expired,
}

/// The last request of one device that changed a key, and what it was answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Last {
    /// Which life of the daemon asked: another one's request of the same number is another request.
    pub instance: DaemonInstance,
    /// Its number.
    pub req_no: ReqNo,
    /// The answer; never [`Answer::Current`].
    pub answer: Answer,
}

/// One change of a register, to be made durable as a whole.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostWrite {
    /// The head from now on.
    pub head: HostHead,
    /// Whether everything that was there before goes first: a new host installs.
    pub is_whole: bool,
    /// The entries that change; `None` drops one.
    pub entries: BTreeMap<AgentId, Option<Entry>>,
}

impl HostState {
    /// A register that has given nothing yet.
    pub const fn empty(head: HostHead) -> Self {
        Self { head, entries: BTreeMap::new() }
    }

    /// The state after a write. `before` is `None` where there was no register.
    pub fn apply(before: Option<Self>, write: &HostWrite) -> Self {
        let mut state = match before {
            Some(state) if !write.is_whole => state,
            Some(_) | None => Self::empty(write.head),
        };
        state.head = write.head;
        for (key, entry) in &write.entries {
            match entry {
                Some(entry) => state.entries.insert(key.clone(), entry.clone()),
                None => state.entries.remove(key),
            };
        }
        state
    }

    /// What a new host is given: the hash of [`HostState::to_bytes`].
    pub fn digest(&self) -> TableDigest {
        TableDigest::of(&self.to_bytes())
    }
}

impl Entry {
    /// Who holds the key, and for how long at most.
    pub const fn held(&self) -> Option<(Holder, Ttl)> {
        match self.hold {
            Hold::Held { holder, ttl_max } => Some((holder, ttl_max)),
            Hold::Released | Hold::Expired => None,
        }
    }

    /// Remembers an answer; where there is no room, forgets another device's.
    ///
    /// What is forgotten costs at most one lease that nobody uses until it runs out: a late copy of
    /// that device's last request would count as a new one.
    pub(super) fn remember(&mut self, device: DeviceId, last: Last) {
        self.last.insert(device, last);
        while self.last.len() > LAST_MAX {
            let holder = self.held().map(|(holder, _)| holder.device);
            let oldest = self
                .last
                .iter()
                .filter(|(other, _)| **other != device && Some(**other) != holder)
                .min_by_key(|(other, last)| (last.epoch(), **other))
                .map(|(other, _)| *other)
                .expect("more are remembered than the two that are kept");
            self.last.remove(&oldest);
        }
    }
}

impl Last {
    const fn epoch(&self) -> Option<LeaseEpoch> {
        match self.answer {
            Answer::Granted { epoch } | Answer::Renewed { epoch } | Answer::Released { epoch } => Some(epoch),
            Answer::Current { .. } => None,
        }
    }
}

/// Most keys of one register: the agents of an organisation, and a table that is sent in one piece.
pub const KEYS_MAX: usize = 1_024;

/// Most leases one device holds at once.
pub const HELD_MAX: usize = 64;

/// Most devices whose last request is remembered for one key.
pub const LAST_MAX: usize = 64;
