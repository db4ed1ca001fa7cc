//! Hearing of checkpoints of other devices, attesting them, and fetching what is missing.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{debug, error, info};

use super::{Standing, complete, rank, to_keep, whole};
use crate::fold::FOLD_VERSION;
use crate::model::{Frontier, LogId, SpaceId, Tip};
use crate::net::{Link, Topic};
use crate::node::error::NodeError;
use crate::node::handle::{Inner, Node};
use crate::node::space::{Place, Space};
use crate::store::{HeldCheckpoint, Store, StoreError, Wholeness};
use crate::sync::Input;
use crate::wire::checkpoint::{
    Attestation, CheckpointAnswer, CheckpointHash, CheckpointQuestion, MANIFEST_BYTES_MAX, Manifest,
};

/// What became of a checkpoint that another device has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    /// It is whole here now.
    Whole,
    /// Not yet: this device has not come so far, or the other one does not give the rest.
    Later,
    /// It is not to be kept: older than what is here, not of this space, or not what the log folds to.
    Refused,
}

/// What came of asking every connected device once.
#[derive(Clone, Copy, Default)]
struct Heard {
    /// Whether there was one to ask.
    is_any: bool,
    /// Checkpoints that became whole here.
    taken: u64,
    /// Whether the history is only to be had with a checkpoint that is waited for: until then nothing is asked
    /// for, because what came would be a state without its beginning.
    waits_for_base: bool,
}

/// What a device has said of its checkpoints.
struct News {
    held: Option<CheckpointHash>,
    base: Option<CheckpointHash>,
    words: Vec<Attestation>,
}

/// Looks after checkpoints while the node runs: when there is news, and at an interval.
pub(in crate::node) async fn watch(node: Weak<Inner>, news: Arc<Notify>) {
    loop {
        tokio::select! {
            // Losing the race loses nothing: the notice is kept for the next look.
            () = news.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let Some(node) = Node::upgrade(&node) else { return };
        let Ok(spaces) = node.ask(|core| core.engine.active_spaces()).await else { return };
        for space in spaces {
            let space = Space { node: node.clone(), place: Place::Fixed(space) };
            if let Err(error) = space.exchange_checkpoints().await {
                debug!(%error, "checkpoints were not exchanged");
            }
            if let Err(error) = space.come_back().await {
                debug!(%error, "this device is not waited for yet");
            }
        }
    }
}

impl Space {
    /// Asks the connected devices for their newest checkpoints, says what this one has, attests what its own
    /// log folds to, and fetches what it lacks. How many became whole here.
    ///
    /// # Errors
    /// [`NodeError::Store`], [`NodeError::Stopped`], and those of [`Space::state_at`]. That a device does not
    /// answer is none.
    pub async fn exchange_checkpoints(&self) -> Result<u64, NodeError> {
        let _turn = self.node.checkpoints().turn.lock().await;
        let mut count = 0;
        // Once more where something is new: the others have not been told of it.
        for _ in 0..ROUNDS {
            let taken = self.exchange_once().await;
            if !matches!(taken, Ok(Heard { waits_for_base: true, .. } | Heard { is_any: false, .. })) {
                self.release().await?;
            }
            let taken = taken?.taken;
            count += taken;
            if taken == 0 {
                break;
            }
        }
        self.settle_waiting().await?;
        Ok(count)
    }

    /// Nothing is waited for any more that the ops here lead to meanwhile: a file or a drop box may have brought a
    /// checkpoint whose history came by a connection.
    async fn settle_waiting(&self) -> Result<(), NodeError> {
        let (space, Some(waiting)) = (self.id(), self.waiting()) else { return Ok(()) };
        let held = self.node.store().checkpoints(&space)?;
        let manifest = held.iter().map(|held| &held.manifest).find(|held| held.hash() == waiting.checkpoint);
        let asked = self.node.ask(move |core| Some(core.engine.space(space)?.frontier.clone()));
        if let (Some(manifest), Some(frontier)) = (manifest, asked.await?)
            && self.covers(&frontier, &manifest.fields().cut).await?
        {
            self.node.checkpoints().begun(space);
        }
        Ok(())
    }

    /// Nothing is looked for any more that the history here may begin with.
    async fn release(&self) -> Result<(), NodeError> {
        let space = self.id();
        self.node.ask(move |core| core.tell(Input::Release { space })).await
    }

    async fn exchange_once(&self) -> Result<Heard, NodeError> {
        let space = self.id();
        let asked = self.node.ask(move |core| {
            let members = core.engine.space(space)?.roster.members().map(|member| member.device);
            let links: Vec<Link> = members.filter_map(|device| core.route_to(&device)).collect();
            Some((core.checkpoint_standing(space)?, links))
        });
        let Some((mut standing, links)) = asked.await? else { return Ok(Heard::default()) };
        let mut heard = Heard { is_any: !links.is_empty(), ..Heard::default() };
        standing.begins_anew |= self.node.checkpoints().wishes(space);
        let mut has_whole_history = false;
        for link in links {
            let Some(news) = self.newest_of(&link, &standing).await? else {
                // One that does not answer may give its history all the same.
                has_whole_history = true;
                continue;
            };
            has_whole_history |= news.base.is_none();
            if self.take_of(&link, &standing, &news).await? {
                heard.taken += 1;
                if standing.begins_anew {
                    // What this device is has changed with it.
                    break;
                }
            }
        }
        heard.waits_for_base =
            standing.begins_anew && heard.taken == 0 && !has_whole_history && self.waiting().is_some();
        Ok(heard)
    }

    /// Takes what a device has: its newest, or where this device is to begin with one and that is not to be had
    /// yet, the one that the other's history begins with. Whether one became whole here.
    async fn take_of(&self, link: &Link, standing: &Standing, news: &News) -> Result<bool, NodeError> {
        let (space, store) = (self.id(), self.node.store());
        let is_other = |base: &CheckpointHash| news.held != Some(*base) || !standing.vouches;
        let base = news.base.filter(|base| standing.begins_anew && is_other(base));
        // Nobody has dropped anything for the newest yet, and whoever may not vouch for it must not be the first.
        let newest = news.held.filter(|_| standing.vouches || !standing.begins_anew);
        let offered = newest.into_iter().chain(base);
        for theirs in offered.filter(|theirs| !self.node.checkpoints().is_refused(theirs)) {
            let held = store.checkpoints(&space)?;
            let known = held.into_iter().find(|held| held.manifest.hash() == theirs);
            let manifest = match known {
                Some(held) if held.wholeness == Wholeness::Whole && !standing.begins_anew => continue,
                Some(held) => Some(held.manifest),
                None => fetch_manifest(link, &space, theirs).await,
            };
            let Some(manifest) = manifest else { continue };
            if self.take(Some(link), standing, &manifest, &news.words).await? == Taken::Whole {
                info!(checkpoint = %theirs, "a checkpoint is whole here");
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tells a device of the newest checkpoint here, and hears of its own.
    async fn newest_of(&self, link: &Link, standing: &Standing) -> Result<Option<News>, NodeError> {
        let (space, store) = (self.id(), self.node.store());
        let held = store.checkpoints(&space)?;
        let newest = whole(&held).first().copied().cloned();
        let own = self.node.device();
        let is_own = |word: &Attestation| {
            word.fields().device == own && newest.as_ref().is_some_and(|newest| word.is_of(newest.fields()))
        };
        let attestation = store.attestations(&space)?.into_iter().find(is_own).map(Box::new);
        let question = CheckpointQuestion::Newest { held: newest.as_ref().map(Manifest::hash), attestation };
        let Some(CheckpointAnswer::Newest { held: theirs, base, attestations: words }) =
            ask(link, &space, &question).await
        else {
            return Ok(None);
        };
        keep_words(store, &space, standing, &held, &words)?;
        Ok(Some(News { held: theirs, base, words }))
    }

    pub(super) async fn take(
        &self,
        link: Option<&Link>,
        standing: &Standing,
        manifest: &Manifest,
        words: &[Attestation],
    ) -> Result<Taken, NodeError> {
        let (space, store, fields) = (self.id(), self.node.store(), manifest.fields());
        let is_sound =
            fields.space == space && standing.readers.contains(&fields.author) && manifest.verify().is_ok();
        let held = store.checkpoints(&space)?;
        let newest = whole(&held).first().copied();
        let is_newest = newest.is_some_and(|newest| newest.hash() == manifest.hash());
        if !is_sound || !is_newest && Some(rank(manifest)) <= newest.map(rank) {
            return Ok(Taken::Refused);
        }
        // Whoever cannot read can still tell that the history is one it holds.
        if !self.covers(&standing.frontier, &fields.cut).await? {
            return match standing.begins_anew {
                true => self.begin_with(link, standing, manifest, words).await,
                false => Ok(Taken::Later),
            };
        }
        if standing.begins_anew {
            // What this device was to begin with is no later than what it holds.
            self.node.checkpoints().begun(space);
            self.node.ask(move |core| core.serving.below.remove(&space)).await?;
        }
        if is_newest || standing.reads && fields.fold_version != FOLD_VERSION {
            return Ok(Taken::Refused);
        }
        store
            .put_checkpoint(&HeldCheckpoint { manifest: manifest.clone(), wholeness: Wholeness::Partial })?;
        store.keep_checkpoints(&space, &to_keep(store, &space)?)?;
        if standing.reads && !standing.vouches {
            // It is known, and what is said of it is kept, until this device may say something itself.
            return Ok(Taken::Later);
        }
        if standing.reads {
            let key = standing.keys.iter().find(|key| key.id() == fields.key_id).cloned();
            let wanted: BTreeSet<[u8; 32]> = fields.chunks.iter().copied().collect();
            let built = match self.build(&fields.cut, fields.parent, key, Some(wanted)).await {
                Ok(built) => built,
                // What cannot be folded here is not attested; it may be once a key or another version is here.
                Err(NodeError::NoCheckpoint { .. } | NodeError::PastKeyMissing { .. }) => {
                    return Ok(Taken::Later);
                }
                Err(error) => return Err(error),
            };
            let is_equal = (built.root, built.content) == (fields.root, fields.content);
            if !is_equal && built.parent != fields.parent {
                debug!(checkpoint = %manifest.hash(), "a checkpoint was folded onto another one than this device has");
                return Ok(Taken::Later);
            }
            if !is_equal {
                error!(
                    author = %fields.author.short(), theirs = %fields.root, ours = %built.root,
                    "a checkpoint is not what the log here folds to; it is not attested and not kept"
                );
                let kept = to_keep(store, &space)?;
                let others: Vec<CheckpointHash> =
                    kept.into_iter().filter(|hash| *hash != manifest.hash()).collect();
                store.keep_checkpoints(&space, &others)?;
                return Ok(Taken::Refused);
            }
            self.attest(manifest)?;
        }
        if !self.fetch_chunks(link, manifest).await? {
            return Ok(Taken::Later);
        }
        complete(store, manifest)?;
        Ok(Taken::Whole)
    }

    /// Fetches the chunks that are not here, where there is somebody to ask; what has arrived is kept if the rest does not come. Whether all
    /// are here.
    pub(super) async fn fetch_chunks(
        &self,
        link: Option<&Link>,
        manifest: &Manifest,
    ) -> Result<bool, NodeError> {
        let (space, store) = (manifest.fields().space, self.node.store());
        let missing = store.missing_chunks(&space, &manifest.fields().chunks)?;
        let Some(link) = link else { return Ok(missing.is_empty()) };
        let wanted = missing.iter();
        #[cfg(feature = "sim")]
        let wanted = wanted.take(self.node.checkpoints().may_fetch(missing.len()));
        let mut wanted = wanted.map(|hash| fetch_chunk(link.clone(), space, *hash));
        let mut asked: JoinSet<Option<Bytes>> = wanted.by_ref().take(ASKED_AT_ONCE).collect();
        let (mut arrived, mut count) = (Vec::new(), 0);
        while let Some(chunk) = asked.join_next().await {
            let Some(chunk) = chunk.expect("fetching does not panic and is not aborted") else { continue };
            // One of those on their way is always the next: the link is not idle while a group is written.
            wanted.next().map(|next| asked.spawn(next));
            arrived.push(chunk);
            count += 1;
            self.node.checkpoints().fetched.fetch_add(1, Ordering::Relaxed);
            if arrived.len() >= CHUNKS_PER_WRITE {
                store.put_chunks(&space, &std::mem::take(&mut arrived))?;
            }
        }
        store.put_chunks(&space, &arrived)?;
        Ok(count == missing.len())
    }

    /// Whether this device holds the history that a cut is of.
    pub(super) async fn covers(&self, frontier: &Frontier, cut: &Frontier) -> Result<bool, NodeError> {
        let (space, store) = (self.id(), self.node.store().clone());
        let (frontier, cut) = (frontier.clone(), cut.clone());
        let look = move || {
            let base = store.base(&space);
            let floor = |log: &LogId| base.as_ref().map_or(Tip::NONE, |base| base.floor.tip(log));
            let is_end = |(log, tip): &(&LogId, &Tip)| frontier.tip(log) == **tip || floor(log) == **tip;
            for (log, tip) in cut.iter().filter(|end| !is_end(end)) {
                let Some(batch) = store.batch_at(&space, log, tip.seq)? else { return Ok(false) };
                if batch.header().last() != tip.seq || batch.link() != tip.hash {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let looked: Result<bool, StoreError> = self.node.blocking(look).await;
        Ok(looked?)
    }
}

/// Keeps what devices that read have said of checkpoints that are here.
pub(super) fn keep_words(
    store: &Store,
    space: &SpaceId,
    standing: &Standing,
    held: &[HeldCheckpoint],
    words: &[Attestation],
) -> Result<(), StoreError> {
    let known = store.attestations(space)?;
    for word in words {
        let is_of_one = held.iter().any(|held| word.is_of(held.manifest.fields()));
        let is_believed = standing.readers.contains(&word.fields().device) && word.verify().is_ok();
        if is_of_one && !known.contains(word) && is_believed {
            store.put_attestation(space, word)?;
        }
    }
    Ok(())
}

/// Fetches a manifest piece by piece; `None` where the device does not give it whole.
async fn fetch_manifest(link: &Link, space: &SpaceId, hash: CheckpointHash) -> Option<Manifest> {
    let mut bytes = BytesMut::new();
    loop {
        let offset = u32::try_from(bytes.len()).ok()?;
        let question = CheckpointQuestion::Manifest { hash, offset };
        let CheckpointAnswer::Piece { total, offset: at, bytes: piece } = ask(link, space, &question).await?
        else {
            return None;
        };
        if at != offset || piece.is_empty() || bytes.len() + piece.len() > MANIFEST_BYTES_MAX {
            return None;
        }
        bytes.extend_from_slice(&piece);
        if bytes.len() >= total as usize {
            let manifest = Manifest::parse(bytes.freeze()).ok()?;
            return (manifest.hash() == hash).then_some(manifest);
        }
    }
}

async fn fetch_chunk(link: Link, space: SpaceId, hash: [u8; 32]) -> Option<Bytes> {
    let CheckpointAnswer::Chunk { bytes } = ask(&link, &space, &CheckpointQuestion::Chunk { hash }).await?
    else {
        return None;
    };
    (*blake3::hash(&bytes).as_bytes() == hash).then_some(bytes)
}

pub(super) async fn ask(
    link: &Link,
    space: &SpaceId,
    question: &CheckpointQuestion,
) -> Option<CheckpointAnswer> {
    let question = Bytes::from([&space.tag().as_bytes()[..], &question.to_bytes()].concat());
    match link.ask(Topic::Checkpoint, question, ANSWER_WITHIN).await {
        Ok(answer) => CheckpointAnswer::from_bytes(&answer).ok(),
        Err(error) => {
            debug!(device = %link.device().short(), %error, "a question about checkpoints");
            None
        }
    }
}

/// Between two looks without news.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Rounds in one exchange: one to take, one to tell.
const ROUNDS: u32 = 2;

/// A chunk is there in less on any link that carries batches.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Chunks that are on their way from one device at a time: what a link with a long way holds, and half of what the
/// other one answers at once.
const ASKED_AT_ONCE: usize = 8;

/// Fetched chunks that become durable together.
const CHUNKS_PER_WRITE: usize = 64;
