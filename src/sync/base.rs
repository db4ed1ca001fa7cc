//! Where the history of a space begins on this device, and what is said to whoever lacks what is gone.
//!
//! A base is taken up whole: the checkpoint is in the store before the engine is asked, one write drops what
//! its cut covers, and only once that is durable does an ack name it. Nothing below it is compared, sent,
//! selected or cut off any more. Who may drop what, and when, is decided elsewhere (`gc`).

use thiserror::Error;

use super::effect::{Effect, Notice, PeerId, RequestError, Token};
use super::engine::Engine;
use super::space::{LogState, Raised, SpaceState, Then};
use super::txn::{Base, BaseKind, Write};
use crate::crypto::SealedBatch;
use crate::model::{DeviceId, Frontier, LogId, Now, ScopeTag, Seq, SpaceId, Tip};
use crate::wire::Message;
use crate::wire::checkpoint::CheckpointHash;

/// Why the history of a space does not begin with a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BaseRefused {
    /// A device has another state for the same ops: what is wrong is found in the history.
    #[error("the state of {} differs from the one here for the same ops; run `kinfold verify`", .device.short())]
    Diverged {
        /// Which.
        device: DeviceId,
    },
    /// Two histories of a log are proved, and its device has not said which one stands.
    #[error("two histories of a log of {} exist; connect that device, it decides which one stands", .log.device.short())]
    Disputed {
        /// The log.
        log: LogId,
    },
    /// The checkpoint is of another history of a log than the one here.
    #[error("the checkpoint holds another history of a log of {} than this device", .log.device.short())]
    OtherHistory {
        /// The log.
        log: LogId,
    },
    /// The history begins with a later checkpoint already.
    #[error("the history here begins with a later checkpoint already")]
    Behind,
    /// Ops of this device are being written again, and lie where the checkpoint reaches.
    #[error("ops of this device are being written again; try again in a moment")]
    Rewriting {
        /// Their log.
        log: LogId,
    },
    /// Another one is on its way to the store.
    #[error("another checkpoint is being taken up; try again in a moment")]
    Underway,
}

impl Engine {
    /// Begins the history of a space with a checkpoint.
    pub(super) fn begin_at(
        &mut self,
        space: SpaceId,
        checkpoint: CheckpointHash,
        cut: Frontier,
        token: Token,
    ) {
        let Some(state) = self.spaces.get(&space).filter(|state| state.is_active) else {
            return self.emit(Effect::Failed { token, why: RequestError::NoSuchSpace });
        };
        if let Err(why) = state.check_base(checkpoint, &cut) {
            return self.emit(Effect::Failed { token, why: RequestError::Base(why) });
        }
        if state.base.as_ref().is_some_and(|base| base.checkpoint == checkpoint) {
            return self.emit(Effect::Done { token });
        }
        let own = state.author.log();
        if state.author.tip().seq < cut.tip(&own).seq {
            // Others hold more of it than this disk remembers: never write there again.
            self.begin_new_log(space);
        }
        let Some(state) = self.spaces.get_mut(&space) else { return };
        let raised = state.raise_to(&cut);
        let kind = if raised.is_empty() { BaseKind::Trim } else { BaseKind::Rebase };
        state.is_base_arriving = true;
        self.write(Write::Base { space, checkpoint, cut: cut.clone(), kind });
        let base = Base { checkpoint, floor: cut };
        self.then(Then::Based { space, base, raised, token });
    }

    /// The base is durable: acks name it, and logs that ended before it end there.
    pub(super) fn based(&mut self, now: &Now, space: SpaceId, base: Base, raised: &[Raised], token: Token) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        state.is_base_arriving = false;
        state.strays.clear();
        for Raised { log, .. } in raised {
            let tip = base.floor.tip(log);
            if state.durable.tip(log).seq < tip.seq {
                state.durable.set(*log, tip);
            }
        }
        let checkpoint = base.checkpoint;
        state.base = Some(base);
        state.forgive_below_base();
        state.given_up.clear();
        // What policies drop is not in it, so the state is another one also where no log was raised.
        state.folded = None;
        self.emit(Effect::Refold { space });
        if !raised.is_empty() {
            for peer in self.peers.keys().copied().collect::<Vec<_>>() {
                let Some(session) = self.session(peer, space) else { continue };
                raised.iter().for_each(|raised| session.forget_log(&raised.log));
                self.tell_frontier(peer, space);
            }
        }
        self.notice(Notice::Based { space, checkpoint });
        self.emit(Effect::Done { token });
        self.locate_anew(space);
        // What was held back below the base by the roster may be in order now.
        self.enforce(space);
        // It may know what is kept for its author.
        self.search_fallen(space, |_| true);
        self.acknowledge(now, space);
        self.check_rounds();
    }

    /// The base did not become durable: everything is as before.
    pub(super) fn unbased(&mut self, now: &Now, space: SpaceId, raised: Vec<Raised>, token: Token) {
        if let Some(state) = self.spaces.get_mut(&space) {
            state.is_base_arriving = false;
            for Raised { log, before } in raised {
                match before {
                    Some(before) => drop(state.logs.insert(log, before)),
                    None => drop(state.logs.remove(&log)),
                }
                // What was on its way to the store is lost as well.
                state.rewind(log);
                state.search_anew(now, log);
            }
            state.recount_parked();
        }
        self.emit(Effect::Failed { token, why: RequestError::Storage });
    }

    /// Says to a peer that what it lacks of some log is in no batch here any more: once in a session, and
    /// again where it tells everything anew.
    pub(super) fn tell_floor(&mut self, peer: PeerId, space: SpaceId) {
        let Some(state) = self.spaces.get(&space) else { return };
        let Some(base) = state.base.as_ref().map(|base| base.checkpoint) else { return };
        let scope = state.tag;
        let Some(session) = self.session(peer, space) else { return };
        if session.floor_told.replace(base) != Some(base) {
            self.send(peer, &Message::Floor { scope, base });
        }
    }

    /// A peer does not hold any more what this device lacks.
    pub(super) fn floor_told(&mut self, peer: PeerId, scope: ScopeTag, checkpoint: CheckpointHash) {
        let Some(space) = self.shared_space(peer, &scope) else {
            return self.not_shared(peer, &scope);
        };
        let is_here = self.spaces.get(&space).and_then(|state| state.base.as_ref());
        if is_here.is_some_and(|base| base.checkpoint == checkpoint) {
            return;
        }
        let Some(device) = self.peers.get(&peer).map(|peer| peer.device) else { return };
        self.notice(Notice::BelowFloor { space, peer, device, checkpoint });
    }
}

impl SpaceState {
    /// The last place of a log that is in the base and in no batch.
    pub fn floor(&self, log: &LogId) -> Tip {
        self.base.as_ref().map_or(Tip::NONE, |base| base.floor.tip(log))
    }

    fn check_base(&self, checkpoint: CheckpointHash, cut: &Frontier) -> Result<(), BaseRefused> {
        if self.is_base_arriving {
            return Err(BaseRefused::Underway);
        }
        if let Some(base) = self.base.as_ref().filter(|base| base.checkpoint != checkpoint) {
            let is_within = |(log, floor): (&LogId, &Tip)| {
                let tip = cut.tip(log);
                tip.seq > floor.seq || tip == *floor
            };
            if !base.floor.iter().all(is_within) {
                return Err(BaseRefused::Behind);
            }
        }
        if let Some(device) = self.parted.keys().next() {
            return Err(BaseRefused::Diverged { device: *device });
        }
        for (log, tip) in cut.iter() {
            let held = self.held(log);
            // What is raised to the cut is given up for it, and so is what this device has of its own: others begin
            // behind the place at which the two part, so nobody can select any more.
            let is_given_up = held.seq < tip.seq || log.device == self.author.log().device;
            if self.is_disputed(log) && !is_given_up {
                return Err(BaseRefused::Disputed { log: *log });
            }
            if self.reissues.contains_key(log) {
                return Err(BaseRefused::Rewriting { log: *log });
            }
            if held.seq == tip.seq && held != *tip {
                return Err(BaseRefused::OtherHistory { log: *log });
            }
        }
        Ok(())
    }

    /// Where a log ends, with what is on its way to the store.
    fn held(&self, log: &LogId) -> Tip {
        if *log == self.author.log() {
            return self.author.tip();
        }
        self.logs.get(log).map_or_else(|| self.durable.tip(log), |log| log.chain.tip())
    }

    /// Ends logs that end before the cut at the cut; which.
    fn raise_to(&mut self, cut: &Frontier) -> Vec<Raised> {
        let is_before = |(log, tip): &(&LogId, &Tip)| self.held(log).seq < tip.seq;
        let raised: Vec<(LogId, Tip)> = cut.iter().filter(is_before).map(|(log, tip)| (*log, *tip)).collect();
        // What waited for a key, or was made wrongly, lies before the cut.
        let raise = |(log, tip)| Raised { log, before: self.logs.insert(log, LogState::at(tip)) };
        let raised = raised.into_iter().map(raise).collect();
        self.recount_parked();
        raised
    }

    /// What of a run is in the base: how many batches at its front are, and whether all of them are known
    /// to be those that were held. Of most nothing is known any more.
    pub fn below_base(&self, log: &LogId, run: &[SealedBatch]) -> BelowBase {
        let floor = self.floor(log);
        let count = run.iter().take_while(|batch| batch.header().first <= floor.seq).count();
        let is_other = |batch: &SealedBatch| match batch.header().last().cmp(&floor.seq) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => batch.link() != floor.hash,
            // Batches never change, so one that goes on beyond the cut is of another history.
            std::cmp::Ordering::Greater => true,
        };
        let other = run[..count].iter().find(|batch| is_other(batch)).map(|batch| batch.header().first);
        BelowBase { count, other }
    }
}

/// See [`SpaceState::below_base`].
pub(super) struct BelowBase {
    /// How many batches begin within the base.
    pub count: usize,
    /// The first position of one that is certainly of another history.
    pub other: Option<Seq>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{EpochKey, Identity, SealInput, Sealer};
    use crate::model::{Hlc, Incarnation, Root, Scope, TipHash};
    use crate::oplog::ForkProof;
    use crate::roster::{Author, Roster};

    fn identity() -> Identity {
        Identity::from_secret(&[1; 32])
    }

    fn log() -> LogId {
        LogId { device: identity().device(), incarnation: Incarnation::new(1) }
    }

    fn space() -> SpaceState {
        let (first, key) = (identity(), EpochKey::from_bytes([7; 32]));
        let author = Author { identity: &first, key: &key, hlc: Hlc::new(1), entropy: [5; 32] };
        let (roster, _) = Roster::found(&author, &Scope::Personal, "one").unwrap();
        let own =
            LogId { device: Identity::from_secret(&[2; 32]).device(), incarnation: Incarnation::new(2) };
        SpaceState::new(Scope::Personal, roster, own)
    }

    fn batch(space: &SpaceState, entropy: u8) -> SealedBatch {
        let (identity, key) = (identity(), EpochKey::from_bytes([7; 32]));
        let input = SealInput {
            scope: space.tag,
            log: log(),
            first: Seq::new(1),
            op_count: 2,
            roster_gen: 1,
            prev: TipHash::NONE,
            body: b"two ops",
            entropy: [entropy; 32],
        };
        Sealer::new(&identity).seal(&identity, &key, &input)
    }

    fn end(batch: &SealedBatch) -> Tip {
        Tip { seq: batch.header().last(), hash: batch.link() }
    }

    const CHECKPOINT: CheckpointHash = CheckpointHash::from_bytes([0xc1; 32]);

    #[test]
    fn nothing_is_dropped_while_anything_is_in_doubt() {
        let good = space();
        let batch_here = batch(&good, 1);
        let cut: Frontier = [(log(), end(&batch_here))].into_iter().collect();
        let refused = |change: &dyn Fn(&mut SpaceState)| {
            let mut space = space();
            space.durable = cut.clone();
            assert_eq!(space.check_base(CHECKPOINT, &cut), Ok(()));
            change(&mut space);
            space.check_base(CHECKPOINT, &cut).unwrap_err()
        };
        let roots = [Root::from_bytes([1; 32]), Root::from_bytes([2; 32])];

        assert_eq!(refused(&|space| space.is_base_arriving = true), BaseRefused::Underway);
        let device = identity().device();
        let diverge = |space: &mut SpaceState| {
            space.parted.insert(device, (roots[0], roots[1]));
        };
        assert_eq!(refused(&diverge), BaseRefused::Diverged { device });
        let dispute = |space: &mut SpaceState| {
            let proof = ForkProof::new(&batch_here.witness(), &batch(space, 2).witness()).unwrap();
            space.proofs.insert(log(), proof);
        };
        assert_eq!(refused(&dispute), BaseRefused::Disputed { log: log() });
        let mut behind = space();
        dispute(&mut behind);
        assert_eq!(
            behind.check_base(CHECKPOINT, &cut),
            Ok(()),
            "what it lacks of the log the others begin behind"
        );
        let mut own = space();
        own.author =
            crate::oplog::Author::new(LogId { incarnation: Incarnation::new(3), ..log() }, Tip::NONE);
        own.durable = cut.clone();
        dispute(&mut own);
        assert!(own.is_disputed(&log()));
        assert_eq!(
            own.check_base(CHECKPOINT, &cut),
            Ok(()),
            "its own history gives way to that of the others"
        );
        own.base = Some(Base { checkpoint: CHECKPOINT, floor: cut.clone() });
        assert!(!own.is_disputed(&log()), "it is below the base now");
        let rewrite = |space: &mut SpaceState| {
            space.reissues.insert(log(), Tip::NONE);
        };
        assert_eq!(refused(&rewrite), BaseRefused::Rewriting { log: log() });
        let fork = |space: &mut SpaceState| space.durable.set(log(), end(&batch(space, 2)));
        assert_eq!(refused(&fork), BaseRefused::OtherHistory { log: log() });
        let later = |space: &mut SpaceState| {
            let tip = Tip { seq: Seq::new(9), hash: TipHash::from_bytes([1; 32]) };
            let floor = [(log(), tip)].into_iter().collect();
            space.base = Some(Base { checkpoint: CheckpointHash::from_bytes([0xc2; 32]), floor });
        };
        assert_eq!(refused(&later), BaseRefused::Behind);
    }

    #[test]
    fn a_batch_of_another_history_shows_only_where_the_cut_is() {
        let mut space = space();
        let (ours, theirs) = (batch(&space, 1), batch(&space, 2));
        let begin_at = |space: &mut SpaceState, floor: Tip| {
            let floor = [(log(), floor)].into_iter().collect();
            space.base = Some(Base { checkpoint: CHECKPOINT, floor });
        };
        let below = |space: &SpaceState, batch: &SealedBatch| {
            let below = space.below_base(&log(), std::slice::from_ref(batch));
            (below.count, below.other.map(Seq::get))
        };
        assert_eq!(below(&space, &ours), (0, None), "no base");

        begin_at(&mut space, end(&ours));
        assert_eq!(below(&space, &ours), (1, None));
        assert_eq!(below(&space, &theirs), (1, Some(1)));
        begin_at(&mut space, Tip { seq: Seq::new(9), ..end(&ours) });
        assert_eq!(below(&space, &theirs), (1, None), "whose it was is forgotten");
        begin_at(&mut space, Tip { seq: Seq::new(1), ..end(&ours) });
        assert_eq!(below(&space, &theirs), (1, Some(1)), "no batch goes over a cut");
    }
}
