//! Answering what other devices ask about checkpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use tracing::{debug, warn};

use super::whole;
use crate::model::limits::DEVICES_MAX;
use crate::model::{DeviceId, ScopeTag, SpaceId};
use crate::net;
use crate::node::core::Core;
use crate::roster::Role;
use crate::store::{Store, StoreError};
use crate::wire::checkpoint::{
    Attestation, CheckpointAnswer, CheckpointHash, CheckpointQuestion, Manifest, PIECE_BYTES_MAX,
    RUN_BYTES_MAX,
};

impl Core {
    /// A question about checkpoints, `scope tag 16 ‖ question`, of a device of the space, blind or not. It is
    /// answered beside the loop: chunks are read from the disk.
    pub(in crate::node) fn checkpoint_asked(&mut self, from: DeviceId, question: &[u8], answer: net::Answer) {
        let read = question.split_first_chunk::<16>().and_then(|(tag, question)| {
            let space = self.engine.space_of(&ScopeTag::from_bytes(*tag))?;
            Some((space, CheckpointQuestion::from_bytes(question).ok()?))
        });
        let Some((space, question)) = read else {
            return debug!(device = %from.short(), "a question about checkpoints that does not read");
        };
        let Some(role) = self.engine.space(space).and_then(|view| view.roster.role_of(&from)) else {
            return debug!(device = %from.short(), "a question about checkpoints of a stranger");
        };
        let Some(turn) = Turn::take(&self.serving.answering) else {
            // Dropped: whoever asked comes again.
            return debug!(device = %from.short(), "too many questions about checkpoints at once");
        };
        let Ok(busy) = Arc::clone(&self.serving.busy).try_read_owned() else {
            return debug!(device = %from.short(), "a question about checkpoints while the node stops");
        };
        let (store, news) = (self.store.clone(), Arc::clone(&self.serving.news));
        #[cfg(feature = "sim")]
        let spoils = self.serving.spoils.load(Ordering::Acquire);
        let work = move || {
            let asker = Asker { device: from, role };
            match answer_to(&store, &space, &asker, question) {
                Ok((said, is_news)) => {
                    #[cfg(feature = "sim")]
                    let said = if spoils { spoiled(said) } else { said };
                    answer.send(said.to_bytes());
                    if is_news {
                        news.notify_one();
                    }
                }
                Err(error) => warn!(%error, "a question about checkpoints cannot be answered"),
            }
            // Before the store counts as closed.
            drop(store);
            drop((turn, busy));
        };
        if let Err(error) = std::thread::Builder::new().name("kinfold-chunks".into()).spawn(work) {
            warn!(%error, "a question about checkpoints cannot be answered");
        }
    }
}

#[cfg(feature = "sim")]
fn spoiled(said: CheckpointAnswer) -> CheckpointAnswer {
    let CheckpointAnswer::Chunk { bytes } = said else { return said };
    let mut bytes = bytes.to_vec();
    bytes[0] ^= 1;
    CheckpointAnswer::Chunk { bytes: bytes.into() }
}

struct Asker {
    device: DeviceId,
    role: Role,
}

/// The answer, and whether the question told something that is new here.
fn answer_to(
    store: &Store,
    space: &SpaceId,
    asker: &Asker,
    question: CheckpointQuestion,
) -> Result<(CheckpointAnswer, bool), StoreError> {
    let answer = match question {
        CheckpointQuestion::Newest { held: theirs, attestation } => {
            let held = store.checkpoints(space)?;
            let word = attestation.map(|word| *word).filter(|word| is_word_of(word, asker));
            let is_kept = |word: &Attestation| held.iter().any(|held| word.is_of(held.manifest.fields()));
            if let Some(word) = word.filter(is_kept) {
                store.put_attestation(space, &word)?;
            }
            let is_held = |hash: &CheckpointHash| held.iter().any(|held| held.manifest.hash() == *hash);
            let is_news = theirs.is_some_and(|theirs| !is_held(&theirs));
            let newest = whole(&held).first().copied();
            let words = store.attestations(space)?;
            let base = store.base(space).map(|base| base.checkpoint);
            let based = held.iter().map(|held| &held.manifest).find(|found| Some(found.hash()) == base);
            // Of the newest first, then of the one that the history begins with.
            let of = |manifest: Option<&Manifest>| -> Vec<Attestation> {
                let is_of = |word: &&Attestation| manifest.is_some_and(|of| word.is_of(of.fields()));
                words.iter().filter(is_of).cloned().collect()
            };
            let mut attestations = of(newest);
            attestations.extend(of(based.filter(|based| Some(*based) != newest)));
            attestations.truncate(DEVICES_MAX);
            let held = newest.map(Manifest::hash);
            return Ok((CheckpointAnswer::Newest { held, base, attestations }, is_news));
        }
        CheckpointQuestion::Manifest { hash, offset } => {
            let held = store.checkpoints(space)?;
            let found = held.iter().map(|held| &held.manifest).find(|manifest| manifest.hash() == hash);
            found.and_then(|manifest| piece(manifest.bytes(), offset))
        }
        CheckpointQuestion::Chunk { hash } => match store.chunk(space, &hash) {
            Ok(chunk) => chunk.map(|bytes| CheckpointAnswer::Chunk { bytes }),
            // It is fetched again the next time somebody looks for what is missing.
            Err(StoreError::Damaged { .. }) => None,
            Err(error) => return Err(error),
        },
        CheckpointQuestion::Run { log, after, through } => {
            match store.run(space, &log, after, through, RUN_BYTES_MAX) {
                Ok(run) => run.map(|run| CheckpointAnswer::Run { bytes: run.bytes }),
                // Another device may have it.
                Err(StoreError::Damaged { .. }) => None,
                Err(error) => return Err(error),
            }
        }
    };
    Ok((answer.unwrap_or(CheckpointAnswer::Nothing), false))
}

/// Nobody is believed about what another device has computed, nor a device that cannot read.
fn is_word_of(word: &Attestation, asker: &Asker) -> bool {
    word.fields().device == asker.device && asker.role.holds_keys() && word.verify().is_ok()
}

fn piece(whole: &Bytes, offset: u32) -> Option<CheckpointAnswer> {
    let (total, from) = (u32::try_from(whole.len()).ok()?, usize::try_from(offset).ok()?);
    let end = from.saturating_add(PIECE_BYTES_MAX).min(whole.len());
    (from < end).then(|| CheckpointAnswer::Piece { total, offset, bytes: whole.slice(from..end) })
}

/// One of the few questions that are answered at once.
struct Turn(Arc<AtomicU32>);

impl Turn {
    fn take(answering: &Arc<AtomicU32>) -> Option<Self> {
        if answering.fetch_add(1, Ordering::AcqRel) < ANSWERED_AT_ONCE {
            return Some(Self(Arc::clone(answering)));
        }
        answering.fetch_sub(1, Ordering::AcqRel);
        None
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Each reads a chunk, and each device asks one question at a time.
const ANSWERED_AT_ONCE: u32 = 16;
