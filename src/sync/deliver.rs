//! What comes from a carrier instead of a connection: a bundle, an object of a drop box.
//!
//! A carrier is nobody: it is not asked, not answered and not believed. Records are admitted by their
//! own signatures, batches by their author's signature and the roster, acks by the device that signed
//! them, on the path that a peer's take. What was not taken is told to whoever brought it, with the
//! reason, because there is no peer that would send it again.

use bytes::Bytes;

use super::ack::entries_of;
use super::effect::{Delivered, Delivery, Effect, NotTaken, RequestError, Token, WhyNotTaken};
use super::engine::Engine;
use super::space::{HeldAck, Then};
use crate::crypto::SealedBatch;
use crate::model::{Now, SpaceId};
use crate::wire::{Ack, Message};

impl Engine {
    /// Takes what fits, and says what became of all of it once that is durable.
    pub(super) fn deliver(&mut self, now: &Now, space: SpaceId, delivery: Delivery, token: Token) {
        if !self.spaces.get(&space).is_some_and(|state| state.is_active) {
            return self.emit(Effect::Failed { token, why: RequestError::NoSuchSpace });
        }
        let mut outcome =
            Delivered { records: self.admit_records(space, delivery.records), ..Delivered::default() };
        let before = self.received_ops;
        self.deliver_batches(now, space, delivery.batches, &mut outcome);
        outcome.ops = self.received_ops - before;
        let refused: u64 = outcome.not_taken.iter().map(NotTaken::op_count).sum();
        outcome.held_ops = outcome.held_ops.saturating_sub(outcome.ops + refused);
        outcome.acks =
            delivery.acks.into_iter().filter(|ack| self.deliver_ack(now, space, ack)).count() as u64;
        // Not before everything this may have found to be on its way is durable.
        self.then(Then::Delivered { token, outcome });
    }

    fn deliver_batches(&mut self, now: &Now, space: SpaceId, batches: Vec<Bytes>, outcome: &mut Delivered) {
        let Some(tag) = self.spaces.get(&space).map(|state| state.tag) else { return };
        let mut run: Vec<SealedBatch> = Vec::new();
        for bytes in batches {
            let Ok(batch) = SealedBatch::parse(bytes) else {
                outcome.malformed += 1;
                continue;
            };
            if batch.header().scope != tag {
                outcome.malformed += 1;
                continue;
            }
            outcome.held_ops += u64::from(batch.header().op_count);
            let continues = run.last().is_none_or(|last| {
                let (last, next) = (last.header(), batch.header());
                last.log == next.log && last.last().next() == next.first
            });
            if !continues {
                self.deliver_run(now, space, std::mem::take(&mut run), outcome);
            }
            run.push(batch);
        }
        self.deliver_run(now, space, run, outcome);
    }

    fn deliver_run(&mut self, now: &Now, space: SpaceId, run: Vec<SealedBatch>, outcome: &mut Delivered) {
        let Some((log, last)) = run.last().map(|batch| (batch.header().log, batch.header().last())) else {
            return;
        };
        if let Err(not_admitted) = self.admit_run(now, space, run, None) {
            let why = WhyNotTaken::from(not_admitted.why);
            outcome.not_taken.push(NotTaken { log, first: not_admitted.first, last, why });
        }
    }

    /// Whether the ack says more than what is known of its device.
    fn deliver_ack(&mut self, now: &Now, space: SpaceId, frame: &Bytes) -> bool {
        let Ok(Message::Ack(frame)) = Message::decode(frame) else { return false };
        let Ok(ack) = Ack::parse(&frame.bytes) else { return false };
        let said = *ack.fields();
        let Some(state) = self.spaces.get(&space) else { return false };
        if said.scope != state.tag || !frame.is_full {
            return false;
        }
        if said.device == self.identity.device() {
            self.own_ack_received(now, space, &ack);
            return false;
        }
        let is_newer = state.acks.get(&said.device).is_none_or(|held| held.ack.fields().number < said.number);
        let is_member = state.roster.role_of(&said.device).is_some();
        let frontier = entries_of(&frame.entries);
        // What is signed is the digest: a list that does not add up to it says nothing.
        if !is_newer || !is_member || frontier.digest() != said.frontier_digest || ack.verify().is_err() {
            return false;
        }
        self.ack_count += 1;
        self.keep_ack(now, None, space, HeldAck { ack, frontier, is_stored: false });
        true
    }
}
