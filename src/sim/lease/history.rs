//! What happened in a world, as somebody with the only right clock saw it.

use std::collections::BTreeMap;

use super::{Kind, Summary};
use crate::lease::{Answer, Holder, LeaseRefused, Verb};
use crate::model::{CertHash, LeaseEpoch};

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
