//! What happened in a world, as somebody with the only right clock saw it.

use std::collections::BTreeMap;

use super::{Kind, Summary};
use crate::lease::{Answer, Holder, HostState, LeaseRefused, Reply, Verb};
use crate::model::{CertHash, DeviceId, LeaseEpoch};

/// Everything the checkers look at. Times are true microseconds.
#[derive(Clone, Debug)]
pub struct History {
    /// What kind of world it was.
    pub kind: Kind,
    /// Every request.
    pub ops: Vec<Op>,
    /// Every lease a daemon believed in.
    pub beliefs: Vec<Belief>,
    /// Every time a daemon acted under one.
    pub acts: Vec<Act>,
    /// The certificates committed, by term.
    pub certificates: BTreeMap<u32, Vec<CertHash>>,
    /// Starts of devices.
    pub lives: u64,
    /// Every yes of a host, whether it arrived or not.
    pub replies: Vec<HostReply>,
    /// Every vote that was sent.
    pub votes: Vec<CastVote>,
    /// What registers held, after each write.
    pub tables: Vec<Table>,
    /// When a crowded register took a request, and of whom.
    pub taken: Vec<(u64, DeviceId)>,
}

/// A host's yes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostReply {
    /// When the request was sent first.
    pub sent: u64,
    /// When the answer left.
    pub at: u64,
    /// Which device said it, and in which of its lives.
    pub host: (DeviceId, u64),
    /// Under which certificate.
    pub cert: CertHash,
    /// Which key.
    pub key: usize,
    /// Whom to.
    pub by: Holder,
    /// What was asked.
    pub asked: Verb,
    /// What was said.
    pub answer: Answer,
    /// Whether a loss of power at that moment would have left the host with the certificate and the
    /// token it named.
    pub is_durable: bool,
}

impl HostReply {
    /// `disk` is what is durable of the host's register at that moment.
    pub(super) fn of(
        (sent, at): (u64, u64),
        host: (DeviceId, u64),
        (key, by, asked): (usize, Holder, Verb),
        reply: &Reply,
        disk: &Option<HostState>,
    ) -> Self {
        let answer = *reply.answer.as_ref().expect("it is a yes");
        let named = match answer {
            Answer::Granted { epoch } | Answer::Renewed { epoch } | Answer::Released { epoch } => Some(epoch),
            Answer::Current { standing } => standing.map(|standing| standing.epoch),
        };
        let is_durable = disk.as_ref().is_some_and(|state| {
            let head = &state.head;
            let greatest = LeaseEpoch::of(head.term, head.next_n.map_or(u32::MAX, |next| next - 1));
            head.cert == reply.cert
                && (named.is_none_or(|named| named.term() < head.term) || named <= greatest)
        });
        Self { sent, at, host, cert: reply.cert, key, by, asked, answer, is_durable }
    }
}

/// A vote for a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CastVote {
    /// When it was sent.
    pub at: u64,
    /// Whether its promise was durable then.
    pub is_durable: bool,
    /// Whether it came of a restored home that no certificate names.
    pub is_in_doubt: bool,
}

/// What a register holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Table {
    /// Since when.
    pub at: u64,
    /// Keys.
    pub key_count: usize,
    /// The most leases of one device.
    pub held_max: usize,
    /// Whether every time to live is within its bounds.
    pub is_ttl_sound: bool,
}

impl Table {
    pub(super) fn of(at: u64, state: &HostState) -> Self {
        let mut held: BTreeMap<DeviceId, usize> = BTreeMap::new();
        let mut is_ttl_sound = true;
        for (holder, ttl) in state.entries.values().filter_map(crate::lease::Entry::held) {
            *held.entry(holder.device).or_default() += 1;
            is_ttl_sound &= ttl.is_sound();
        }
        let held_max = held.values().copied().max().unwrap_or(0);
        Self { at, key_count: state.entries.len(), held_max, is_ttl_sound }
    }
}

/// One request, from its first send to the reply that its daemon took.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Op {
    /// Which key.
    pub key: usize,
    /// Who asked.
    pub by: Holder,
    /// What.
    pub asked: Asked,
    /// When it was sent first.
    pub sent: u64,
    /// When the reply was taken, and what it said; `None` where that is not known.
    pub said: Option<(u64, Said)>,
}

/// What was asked.
pub type Asked = Verb;

/// What was answered.
pub type Said = Result<Answer, LeaseRefused>;

/// One lease, as its holder believed in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Belief {
    /// Which key.
    pub key: usize,
    /// The token.
    pub epoch: LeaseEpoch,
    /// Who.
    pub by: Holder,
    /// When the request was sent first.
    pub sent: u64,
    /// When the grant was taken.
    pub begin: u64,
    /// When it ended: given back, lost, run out, or the daemon died.
    pub end: u64,
    /// The term of the certificate its holder had adopted then.
    pub adopted_term: u32,
}

/// Something done under a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Act {
    /// Which key.
    pub key: usize,
    /// The token.
    pub epoch: LeaseEpoch,
    /// When.
    pub at: u64,
    /// Whether the fence had let it pass; otherwise the local clock alone had.
    pub is_fenced: bool,
    /// Whether its device had slept since the lease was granted or renewed, and knew that.
    pub is_unrenewed: bool,
}

impl History {
    /// A world where nothing has happened.
    pub const fn new(kind: Kind) -> Self {
        Self {
            kind,
            ops: Vec::new(),
            beliefs: Vec::new(),
            acts: Vec::new(),
            certificates: BTreeMap::new(),
            lives: 0,
            replies: Vec::new(),
            votes: Vec::new(),
            tables: Vec::new(),
            taken: Vec::new(),
        }
    }

    /// What it was like.
    pub fn summary(&self) -> Summary {
        Summary {
            histories: 1,
            ops: self.ops.len() as u64,
            beliefs: self.beliefs.len() as u64,
            acts: self.acts.len() as u64,
            fenced_acts: self.acts.iter().filter(|act| act.is_fenced).count() as u64,
            certificates: self.certificates.values().map(|all| all.len() as u64).sum(),
            lives: self.lives,
            states: 0,
            states_max: 0,
        }
    }
}
