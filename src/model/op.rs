//! The op: one recorded change, as its author means it.
//!
//! The byte form is `wire::op`; an op's bytes are what its author signed and are never re-encoded.

use std::sync::Arc;

use super::id::{CertHash, Dot, OpId, SpaceId};
use super::json::Payload;
use super::lease::{AgentId, IntentStatus, LeaseEpoch, RunId, intent_key};
use super::surface::Surface;
use super::time::Hlc;

/// The kind number of an op in its frame. Numbers are for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum OpKind {
    /// [`Op::Put`], 1.
    Put,
    /// [`Op::Delete`], 2.
    Delete,
    /// [`Op::Fact`], 3.
    Fact,
    /// [`Op::Event`], 4.
    Event,
    /// [`Op::Intent`], 5.
    Intent,
}

impl OpKind {
    /// The number in the frame.
    pub const fn number(self) -> u16 {
        match self {
            Self::Put => 1,
            Self::Delete => 2,
            Self::Fact => 3,
            Self::Event => 4,
            Self::Intent => 5,
        }
    }

    /// The kind with this number; `None` for one that a later version defines (6 is an op of another
    /// log, which `wire::op` reads).
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Put),
            2 => Some(Self::Delete),
            3 => Some(Self::Fact),
            4 => Some(Self::Event),
            5 => Some(Self::Intent),
            _ => None,
        }
    }
}

/// One recorded change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Sets a row of a registry surface, replacing the heads its author saw.
    Put {
        /// A surface of the registry tier.
        surface: Surface,
        /// The row.
        key: Arc<str>,
        /// The heads the author saw on that row.
        preds: Vec<Dot>,
        /// The value.
        payload: Payload,
    },
    /// Removes a row of a registry surface, replacing the heads its author saw.
    Delete {
        /// A surface of the registry tier.
        surface: Surface,
        /// The row.
        key: Arc<str>,
        /// The heads the author saw on that row.
        preds: Vec<Dot>,
    },
    /// States a fact; the first writer by total order wins.
    Fact {
        /// A surface of the fact tier.
        surface: Surface,
        /// The entity.
        key: Arc<str>,
        /// The value.
        payload: Payload,
    },
    /// Adds an event to a stream.
    Event {
        /// A surface of the event tier.
        surface: Surface,
        /// The stream.
        stream: Arc<str>,
        /// The event.
        payload: Payload,
    },
    /// Says what a run of an agent is about to do, or has done.
    Intent {
        /// The agent.
        agent: AgentId,
        /// The run.
        run: RunId,
        /// The token its author holds, or held.
        epoch: LeaseEpoch,
        /// The certificate of the host that gave the token; [`CertHash::NONE`] for the first host.
        cert: CertHash,
        /// What is said.
        status: IntentStatus,
        /// What else its author notes.
        payload: Payload,
    },
}

impl Op {
    /// The kind of this op.
    pub const fn kind(&self) -> OpKind {
        match self {
            Self::Put { .. } => OpKind::Put,
            Self::Delete { .. } => OpKind::Delete,
            Self::Fact { .. } => OpKind::Fact,
            Self::Event { .. } => OpKind::Event,
            Self::Intent { .. } => OpKind::Intent,
        }
    }

    /// The surface it touches.
    pub const fn surface(&self) -> &Surface {
        match self {
            Self::Put { surface, .. }
            | Self::Delete { surface, .. }
            | Self::Fact { surface, .. }
            | Self::Event { surface, .. } => surface,
            Self::Intent { .. } => &Surface::Intent,
        }
    }

    /// The row, entity, stream or run ([`intent_key`]) it touches.
    pub fn key(&self) -> Arc<str> {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Fact { key, .. } => Arc::clone(key),
            Self::Event { stream, .. } => Arc::clone(stream),
            Self::Intent { agent, run, .. } => intent_key(agent.as_str(), run.as_str()).into(),
        }
    }
}

impl OpId {
    /// `BLAKE3("kinfold op v1" ‖ space 32 ‖ log 40 ‖ seq 8 BE ‖ hlc 8 BE ‖ op bytes)`, where the op
    /// bytes are the frame's kind 2 BE ‖ flags 1 ‖ body as its author wrote them.
    pub fn of(space: &SpaceId, dot: Dot, hlc: Hlc, kind: u16, flags: u8, body: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"kinfold op v1");
        hasher.update(space.as_bytes());
        hasher.update(&dot.log.to_bytes());
        hasher.update(&dot.seq.get().to_be_bytes());
        hasher.update(&hlc.get().to_be_bytes());
        hasher.update(&kind.to_be_bytes());
        hasher.update(&[flags]);
        hasher.update(body);
        Self::from_bytes(*hasher.finalize().as_bytes())
    }
}
