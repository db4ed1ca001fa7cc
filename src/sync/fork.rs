//! Two histories of one log: noticed, proved, kept, told on. And doubt about the own past.

use super::adopt::space_write;
use super::append::fold_runs;
use super::effect::{Effect, Notice, PeerId, Refusal, Token};
use super::engine::Engine;
use super::space::{LogState, Then};
use super::txn::{DraftGroup, Write};
use crate::crypto::{ForkWitness, SealedBatch};
use crate::model::{LogId, ScopeTag, Seq, SpaceId, Tip};
use crate::oplog::{Author, ForkProof, LogChain};
use crate::wire::{Message, SpaceHello};

/// A question to the store, and what its answer is for.
pub(super) struct LookUp {
    pub space: SpaceId,
    pub log: LogId,
    pub why: LookUpReason,
}

pub(super) enum LookUpReason {
    /// A batch at or below the tip: is it the one that is held?
    Compare { peer: PeerId, batch: Box<SealedBatch> },
    /// The peer's history differs: it is to be shown this device's.
    Show { peer: PeerId },
    /// The peer showed its history: does it contradict this device's?
    Confront { peer: PeerId, witness: Box<ForkWitness> },
}

impl Engine {
    pub(super) fn look_up(&mut self, space: SpaceId, log: LogId, seq: Seq, why: LookUpReason) {
        let token = Token(self.number());
        self.lookups.insert(token, LookUp { space, log, why });
        self.emit(Effect::LookUp { space, log, seq, token });
    }

    pub(super) fn found(&mut self, token: Token, batch: Option<SealedBatch>) {
        let Some(LookUp { space, log, why }) = self.lookups.remove(&token) else { return };
        let Some(held) = batch else { return };
        match why {
            LookUpReason::Compare { peer, batch } => {
                if batch.link() == held.link() {
                    self.duplicate_ops += u64::from(batch.header().op_count);
                } else {
                    self.confront(peer, space, &batch.witness(), &held.witness());
                }
            }
            LookUpReason::Show { peer } => {
                let scope = held.header().scope;
                let witness = Box::new(held.witness().to_bytes());
                self.send(peer, &Message::Fork { scope, log, witness });
            }
            LookUpReason::Confront { peer, witness } => {
                self.confront(peer, space, &witness, &held.witness());
            }
        }
    }

    /// Shows the peer this device's history at `at`, where the two seem to differ.
    pub(super) fn ask_fork(&mut self, peer: PeerId, space: SpaceId, log: LogId, at: Seq) {
        self.look_up(space, log, at, LookUpReason::Show { peer });
    }

    pub(super) fn fork_asked(
        &mut self,
        peer: PeerId,
        scope: ScopeTag,
        log: LogId,
        witness: &[u8; ForkWitness::BYTES],
    ) {
        let Some(space) = self.shared_space(peer, &scope) else {
            return self.not_shared(peer, &scope);
        };
        let (witness, header) = match ForkWitness::parse(witness) {
            Ok(parsed) => parsed,
            Err(source) => return self.close(peer, Refusal::Batch(source)),
        };
        if header.log == log && header.scope == scope {
            let why = LookUpReason::Confront { peer, witness: Box::new(witness) };
            self.look_up(space, log, header.first, why);
        }
    }

    fn confront(&mut self, peer: PeerId, space: SpaceId, theirs: &ForkWitness, ours: &ForkWitness) {
        match ForkProof::new(theirs, ours) {
            Ok(proof) => self.keep_proof(space, proof, None),
            // Not signed by the log's device: the peer made it up.
            Err(crate::oplog::ForkError::Signature(source)) => {
                let Ok((_, header)) = ForkWitness::parse(&theirs.to_bytes()) else { return };
                let author = header.log.device;
                self.close(peer, Refusal::Signature { author, first: header.first, source });
            }
            Err(_) => {}
        }
    }

    pub(super) fn fork_proof(&mut self, peer: PeerId, scope: ScopeTag, bytes: &[u8]) {
        let Some(space) = self.shared_space(peer, &scope) else {
            return self.not_shared(peer, &scope);
        };
        if let Ok(proof) = ForkProof::parse(bytes) {
            self.keep_proof(space, proof, Some(peer));
        }
    }

    fn keep_proof(&mut self, space: SpaceId, proof: ForkProof, from: Option<PeerId>) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let log = proof.log();
        if state.proofs.contains_key(&log) || state.roster.role_of(&log.device).is_none() {
            return;
        }
        let scope = state.tag;
        let bytes: bytes::Bytes = proof.to_bytes().into();
        state.proofs.insert(log, proof);
        self.write(Write::ForkProof { space, log, bytes: bytes.clone() });
        self.notice(Notice::Fork { space, log });
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            if Some(peer) != from && self.sessions_of(peer).contains(&space) {
                self.send(peer, &Message::ForkProof { scope, log, bytes: bytes.clone() });
            }
        }
        if self.spaces.get(&space).is_some_and(|state| state.author.log() == log) {
            self.begin_new_log(space);
        }
    }

    pub(super) fn tell_proofs(&mut self, peer: PeerId, space: SpaceId) {
        let Some(state) = self.spaces.get(&space) else { return };
        let messages: Vec<Message> = state
            .proofs
            .iter()
            .map(|(log, proof)| Message::ForkProof {
                scope: state.tag,
                log: *log,
                bytes: proof.to_bytes().into(),
            })
            .collect();
        for message in messages {
            self.send(peer, &message);
        }
    }

    /// A peer that holds more of this device's log than this device does, or another end of it, has
    /// met a later life of it: this disk is a restored backup or a clone.
    pub(super) fn doubt_own_logs(&mut self, hello: &SpaceHello) {
        let Some(state) = self.spaces.get(&hello.space) else { return };
        let own = state.author.log();
        let ours = state.author.tip();
        let is_doubtful = hello.echo.iter().any(|(log, tip)| {
            *log == own && (tip.seq > ours.seq || (tip.seq == ours.seq && tip.hash != ours.hash))
        });
        if is_doubtful {
            self.begin_new_log(hello.space);
        }
    }

    /// Writes in a new log from here on; the old one becomes a log like any other. Drafts are written
    /// again there, under their original identity.
    pub(super) fn begin_new_log(&mut self, space: SpaceId) {
        let log = self.fresh_log();
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let mut author = Author::new(log, Tip::NONE);
        author.take_drafts_of(&state.author);
        let groups = fold_runs(log, author.drafts());
        let old = std::mem::replace(&mut state.author, author);
        let chain = LogChain::at(state.durable.tip(&old.log()));
        state.logs.insert(old.log(), LogState { chain, blocked: None, is_parked: false });
        let space_write = space_write(state);
        self.write(space_write);
        // The drafts under their old numbers stay where they are: drafts of a log that this device
        // no longer writes mean nothing.
        for run in groups {
            let group = DraftGroup { log, first: run.first, op_count: run.op_count, body: run.body.to_vec() };
            self.write(Write::Drafts { space, group });
        }
        self.then(Then::NewLog { space, log, old });
    }

    /// The new log is durable. The fold still shows moved drafts under their old places.
    pub(super) fn new_log_begun(&mut self, space: SpaceId, log: LogId) {
        if let Some(state) = self.spaces.get_mut(&space) {
            state.folded = None;
        }
        self.notice(Notice::NewIncarnation { space, log });
        self.emit(Effect::Refold { space });
        if self.is_awaited(space) {
            self.seal_drafts(space);
        }
    }
}
