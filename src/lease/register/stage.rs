//! What the requests of one turn come to, before it is durable.

use std::collections::BTreeMap;

use crate::lease::cert::ProposalHash;
use crate::lease::refused::LeaseRefused;
use crate::lease::request::{Answer, DaemonInstance, Reply, ReqNo};
use crate::lease::table::{Entry, HostHead, HostState, HostWrite};
use crate::lease::time::Ttl;
use crate::model::{AgentId, DeviceId};

/// A request that was answered, and the answer.
pub(super) type Remembered = (ReqNo, DaemonInstance, Result<Answer, LeaseRefused>);

/// Changes, replies and deadlines that wait for one write.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Stage {
    before: HostHead,
    pub head: HostHead,
    pub is_whole: bool,
    pub entries: BTreeMap<AgentId, Option<Entry>>,
    /// Keys whose time starts when this applies.
    pub holds: Vec<(AgentId, Ttl)>,
    pub recent: BTreeMap<(AgentId, DeviceId), Remembered>,
    pub replies: Vec<(DeviceId, Reply)>,
    pub sealed: Option<ProposalHash>,
}

impl Stage {
    pub const fn of(head: HostHead) -> Self {
        Self {
            before: head,
            head,
            is_whole: false,
            entries: BTreeMap::new(),
            holds: Vec::new(),
            recent: BTreeMap::new(),
            replies: Vec::new(),
            sealed: None,
        }
    }

    /// The entry of a key as it will be.
    pub fn entry<'a>(&'a self, state: &'a HostState, key: &AgentId) -> Option<&'a Entry> {
        match self.entries.get(key) {
            Some(staged) => staged.as_ref(),
            None => state.entries.get(key),
        }
    }

    /// Every entry as it will be.
    pub fn all<'a>(&'a self, state: &'a HostState) -> impl Iterator<Item = (&'a AgentId, &'a Entry)> {
        let kept = state.entries.iter().filter(|(key, _)| !self.entries.contains_key(*key));
        kept.chain(self.entries.iter().filter_map(|(key, entry)| Some((key, entry.as_ref()?))))
    }

    pub fn write(&self) -> HostWrite {
        HostWrite { head: self.head, is_whole: self.is_whole, entries: self.entries.clone() }
    }

    pub fn is_write(&self) -> bool {
        self.is_whole || self.head != self.before || !self.entries.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        !self.is_write() && self.replies.is_empty() && self.holds.is_empty()
    }
}
