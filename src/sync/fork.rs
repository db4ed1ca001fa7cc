//! Two histories of one log: noticed, proved, kept, told on. And what a device does about its own.

use super::append::fold_runs;
use super::effect::{Effect, Notice, PeerId, Refusal, Token};
use super::engine::Engine;
use super::heal::end_of;
use super::join::space_write;
use super::space::{LogState, Then};
use super::txn::{DraftGroup, Write};
use crate::crypto::{ForkWitness, SealedBatch};
use crate::model::{Dot, LogId, Now, ScopeTag, Seq, SpaceId, Tip, TipHash};
use crate::oplog::{Author, ForkProof, LogChain};
use crate::roster::{Allowance, Branch};
use crate::wire::Message;

/// A question to the store, and what its answer is for.
pub(super) struct LookUp {
    pub space: SpaceId,
    pub log: LogId,
    pub why: LookUpReason,
}

pub(super) enum LookUpReason {
    /// A batch at or below the tip: is it the one that is held?
    Compare { from: Option<PeerId>, batch: Box<SealedBatch> },
    /// The peer's history differs: it is to be shown this device's.
    Show { peer: PeerId },
    /// The peer showed its history: does it contradict this device's?
    Confront { peer: PeerId, witness: Box<ForkWitness> },
    /// The peer holds less of an own log: is that on this device's history?
    Echo { peer: PeerId, theirs: Tip },
    /// Ends of batches of an own log, to ask the peer about.
    Points { peer: PeerId, low: Seq },
    /// Which of these ends of the peer's log are on the history here?
    Common { peer: PeerId, points: Vec<Tip> },
    /// Where the history here goes on after what is common, and where it ends.
    Ends { peer: PeerId, common: Tip },
    /// Where the peer's history goes on: what is here at that place?
    Judge { peer: PeerId, common: Tip, first: TipHash, their_end: Tip, high: Option<Seq> },
    /// What comes after the floor of an own log, of which a peer has another history from below it?
    Keep { floor: Tip },
    /// Is the end of a removed device's log here?
    Cut { cut: Tip },
    /// Why has the fold stopped here?
    Parked,
    /// Is the history that stands the one that is here?
    OnBranch { branch: Branch },
}

impl Engine {
    pub(super) fn look_up(&mut self, space: SpaceId, log: LogId, seqs: Vec<Seq>, why: LookUpReason) {
        let token = Token(self.number());
        self.lookups.insert(token, LookUp { space, log, why });
        self.emit(Effect::LookUp { space, log, seqs, token });
    }

    pub(super) fn looked_up(&mut self, now: &Now, token: Token, batches: &[Option<SealedBatch>]) {
        let Some(LookUp { space, log, why }) = self.lookups.remove(&token) else { return };
        let held = batches.first().and_then(Option::as_ref);
        match why {
            LookUpReason::Compare { from, batch } => {
                let Some(held) = held else { return };
                if batch.link() == held.link() {
                    self.duplicate_ops += u64::from(batch.header().op_count);
                } else {
                    self.confront(from, space, &batch.witness(), &held.witness());
                    if let Some(peer) = from {
                        self.locate(peer, space, log);
                    }
                }
            }
            LookUpReason::Show { peer } => {
                let Some(held) = held else { return };
                let scope = held.header().scope;
                let witness = Box::new(held.witness().to_bytes());
                self.send(peer, &Message::Fork { scope, log, witness });
            }
            LookUpReason::Confront { peer, witness } => {
                // Below the floor nothing is here to be held against it.
                let Some(held) = held else { return self.locate(peer, space, log) };
                self.confront(Some(peer), space, &witness, &held.witness());
                self.locate(peer, space, log);
            }
            LookUpReason::Echo { peer, theirs } => {
                if held.is_none_or(|held| end_of(held) != theirs) {
                    self.locate(peer, space, log);
                }
            }
            LookUpReason::Points { peer, low } => self.points_found(peer, space, log, low, batches),
            LookUpReason::Common { peer, points } => self.common_found(peer, space, log, &points, batches),
            LookUpReason::Ends { peer, common } => self.ends_found(peer, space, log, common, batches),
            LookUpReason::Judge { peer, common, first, their_end, high } => {
                self.judge(now, peer, space, log, common, first, their_end, high, held);
            }
            LookUpReason::Keep { floor } => {
                let Some(held) = held else { return };
                self.keep_found(now, space, log, floor, held);
            }
            LookUpReason::Cut { cut } => self.cut_found(space, log, cut, held),
            LookUpReason::Parked => {
                let Some(held) = held else { return };
                self.parked_found(now, space, log, held);
            }
            LookUpReason::OnBranch { branch } => self.on_branch_found(space, branch, batches),
        }
    }

    /// Shows the peer this device's history at `at`, where the two seem to differ.
    pub(super) fn ask_fork(&mut self, peer: PeerId, space: SpaceId, log: LogId, at: Seq) {
        self.look_up(space, log, vec![at], LookUpReason::Show { peer });
        self.locate(peer, space, log);
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
            self.look_up(space, log, vec![header.first], why);
        }
    }

    fn confront(&mut self, from: Option<PeerId>, space: SpaceId, theirs: &ForkWitness, ours: &ForkWitness) {
        match ForkProof::new(theirs, ours) {
            Ok(proof) => {
                let log = proof.log();
                self.keep_proof(space, proof, None);
                self.yield_to_cut(space, log);
            }
            // Not signed by the log's device: the peer made it up.
            Err(crate::oplog::ForkError::Signature(source)) => {
                let Ok((_, header)) = ForkWitness::parse(&theirs.to_bytes()) else { return };
                let author = header.log.device;
                let Some(peer) = from else { return };
                self.close(peer, Refusal::Signature { author, first: header.first, source });
            }
            Err(_) => {}
        }
    }

    /// Gives up a history of a removed device's log that ends before the cut, once another is proved:
    /// the cut has chosen one of the two, and only whoever reaches it knows which.
    fn yield_to_cut(&mut self, space: SpaceId, log: LogId) {
        let Some(state) = self.spaces.get(&space) else { return };
        if let Allowance::UpTo(cut) = state.roster.allowance(&log)
            && log.device != self.identity.device()
            && state.durable.tip(&log).seq < cut.seq
        {
            self.truncate(space, log, Tip::NONE);
        }
    }

    pub(super) fn fork_proof(&mut self, peer: PeerId, scope: ScopeTag, bytes: &[u8]) {
        let Some(space) = self.shared_space(peer, &scope) else {
            return self.not_shared(peer, &scope);
        };
        if let Ok(proof) = ForkProof::parse(bytes) {
            let log = proof.log();
            self.keep_proof(space, proof, Some(peer));
            // Whoever tells may hold the other history.
            self.locate(peer, space, log);
        }
    }

    fn keep_proof(&mut self, space: SpaceId, proof: ForkProof, from: Option<PeerId>) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let log = proof.log();
        // One is enough, but for one that the base has settled: a later one is news.
        let floor = state.floor(&log).seq;
        let is_news = |held: &ForkProof| held.place() <= floor && proof.place() > floor;
        let is_known = state.proofs.get(&log).is_some_and(|held| !is_news(held));
        if is_known || state.roster.role_of(&log.device).is_none() {
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

    /// The own past is in doubt: nothing is written again where something may have been written before, and that
    /// is so where nothing is known of it, too.
    pub(super) fn doubt(&mut self) {
        for space in self.active_spaces() {
            self.begin_new_log(space);
        }
    }

    /// The own past is in doubt: what this device has granted, promised or vouched for since is as unknown as what
    /// it has written.
    pub(super) fn begin_new_log(&mut self, space: SpaceId) {
        self.forget_met(space);
        self.go_on_in_new_log(space);
    }

    /// Writes in a new log from here on; the old one becomes a log like any other. Drafts move along
    /// as reissued ops: an earlier life may have sealed and sent them, and then they count once.
    pub(super) fn go_on_in_new_log(&mut self, space: SpaceId) {
        self.doubt_lease(space);
        let log = self.fresh_log();
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let mut author = Author::new(log, Tip::NONE);
        let moved = author.take_drafts_of(&state.author);
        let moved = moved.into_iter().map(|(from, draft)| (from, Dot { log, seq: draft.seq })).collect();
        let groups = fold_runs(log, author.drafts());
        let old = std::mem::replace(&mut state.author, author);
        // Batches that are on their way to the store count, as they do for the next one.
        let chain = LogChain::at(old.tip());
        state.logs.insert(old.log(), LogState { chain, ..LogState::at(Tip::NONE) });
        let space_write = space_write(state);
        self.write(space_write);
        // The drafts under their old numbers stay where they are: drafts of a log that this device
        // no longer writes mean nothing.
        for run in groups {
            let group = DraftGroup { log, first: run.first, op_count: run.op_count, body: run.body.to_vec() };
            self.write(Write::Drafts { space, group });
        }
        self.then(Then::NewLog { space, log, old, moved });
    }

    /// The new log is durable. The fold still shows moved drafts under their old places.
    pub(super) fn new_log_begun(&mut self, space: SpaceId, log: LogId, moved: Vec<(Dot, Dot)>) {
        if let Some(state) = self.spaces.get_mut(&space) {
            state.folded = None;
        }
        self.notice(Notice::NewIncarnation { space, log, moved });
        self.emit(Effect::Refold { space });
        if self.is_awaited(space) {
            self.seal_drafts(space);
        }
        // What of the old log cannot stand is written again now that there is a place for it.
        self.enforce(space);
    }
}
