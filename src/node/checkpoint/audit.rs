//! Folding again what a checkpoint of others stands for, from devices that still hold every op of it: what was
//! adopted is computed then.

use std::collections::BTreeSet;

use bytes::Bytes;
use thiserror::Error;
use tracing::{error, info};

use super::WhyNoCheckpoint;
use super::exchange::ask;
use crate::crypto::{Opener, SealedBatch};
use crate::fold::{FOLD_VERSION, State};
use crate::model::{DeviceId, Dot, LogId, Root, SpaceId, Tip};
use crate::net::Link;
use crate::node::based::state_of;
use crate::node::error::NodeError;
use crate::node::space::Space;
use crate::store::{Block, Blocks, KeyRing, ReadError};
use crate::wire::body::BodyReader;
use crate::wire::checkpoint::{Basis, CheckpointAnswer, CheckpointHash, CheckpointQuestion, Manifest};

/// What came of folding again what the history here begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BaseAudit {
    /// Nothing here was adopted: this device has folded every op that it shows.
    Nothing,
    /// Every op was folded, and came to what was adopted: this device attests it from now on.
    Computed {
        /// The checkpoint.
        checkpoint: CheckpointHash,
        /// Ops that were folded.
        op_count: u64,
        /// The devices they came from.
        from: Vec<DeviceId>,
    },
    /// It is still adopted.
    NotComputed {
        /// The checkpoint.
        checkpoint: CheckpointHash,
        /// What was in the way.
        why: WhyNotComputed,
    },
}

/// Why what was adopted is not computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum WhyNotComputed {
    /// There is no connection to any device of the space.
    #[error("no device of the space is connected")]
    NotConnected,
    /// Nobody who is connected holds some of its ops any more.
    #[error("no connected device holds the ops of {} behind {} any more", .log.device.short(), .after.seq)]
    Gone {
        /// The log.
        log: LogId,
        /// How far it was to be had.
        after: Tip,
    },
    /// Some of it is sealed under a key that this device does not hold.
    #[error("ops of {} are sealed under a key that is not here", .log.device.short())]
    KeyMissing {
        /// The log.
        log: LogId,
    },
    /// It was folded by other rules than this version has.
    #[error("it was folded by version {found} of the rules, and this program has {known}")]
    Version {
        /// Its version.
        found: u32,
        /// The one of this program.
        known: u32,
    },
    /// The ops come to something else, but it was folded onto an earlier checkpoint, which may have left out what
    /// its policies hid.
    #[error("its ops come to something else, which may be for what an earlier checkpoint left out")]
    FoldedOnto {
        /// The earlier one.
        parent: CheckpointHash,
    },
    /// The ops come to something else: it is false.
    #[error("it is not what its ops come to: root {folded} instead of {adopted}, or other values")]
    Differs {
        /// The root of what its ops come to.
        folded: Root,
        /// The root that was adopted.
        adopted: Root,
    },
}

impl WhyNotComputed {
    /// Whether trying again may help.
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::NotConnected | Self::Gone { .. } | Self::KeyMissing { .. })
    }
}

/// Why it goes no further.
enum Stop {
    Why(WhyNotComputed),
    Node(NodeError),
}

impl<E: Into<NodeError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Node(error.into())
    }
}

impl Space {
    /// Folds every op again that the checkpoint stands for which the history here begins with, where that was
    /// adopted: from connected devices that still hold them. What they send is held against its authors'
    /// signatures and the cut, and what it comes to against every row and value that was adopted. A million ops
    /// take some seconds, and as much memory as the state; nothing of them is kept.
    ///
    /// # Errors
    /// [`NodeError::Store`], [`NodeError::Stopped`], [`NodeError::Read`]. What is in the way is told as
    /// [`BaseAudit::NotComputed`].
    pub async fn audit_base(&self) -> Result<BaseAudit, NodeError> {
        let _turn = self.node.checkpoints().turn().await;
        let manifest = match self.adopted()? {
            Some(_) => self.node.store().base_manifest(&self.id()),
            None => None,
        };
        let Some(manifest) = manifest else { return Ok(BaseAudit::Nothing) };
        let checkpoint = manifest.hash();
        match self.recompute(&manifest).await {
            Ok(from) => {
                self.attest_as(&manifest, Basis::Log)?;
                let op_count = manifest.fields().cut.op_count();
                info!(%checkpoint, ops = op_count, "what was adopted is what its ops come to");
                Ok(BaseAudit::Computed { checkpoint, op_count, from: from.into_iter().collect() })
            }
            Err(Stop::Why(why)) => {
                if let WhyNotComputed::Differs { folded, adopted } = why {
                    error!(%checkpoint, %folded, %adopted, "what was adopted is not what its ops come to");
                }
                Ok(BaseAudit::NotComputed { checkpoint, why })
            }
            Err(Stop::Node(error)) => Err(error),
        }
    }

    async fn recompute(&self, manifest: &Manifest) -> Result<BTreeSet<DeviceId>, Stop> {
        let (space, fields) = (self.id(), manifest.fields());
        if fields.fold_version != FOLD_VERSION {
            let why = WhyNotComputed::Version { found: fields.fold_version, known: FOLD_VERSION };
            return Err(Stop::Why(why));
        }
        let asked = self.node.ask(move |core| {
            let members = core.engine.space(space)?.roster.members().map(|member| member.device);
            Some(members.filter_map(|device| core.route_to(&device)).collect())
        });
        let links: Vec<Link> = asked.await?.unwrap_or_default();
        if links.is_empty() {
            return Err(Stop::Why(WhyNotComputed::NotConnected));
        }
        let (node, of) = (self.node.clone(), manifest.clone());
        let begin = move || Folding::begin(node.store().clone(), node.keys().clone(), &of);
        let mut folding = self.node.blocking(begin).await?;
        let mut from = BTreeSet::new();
        for (log, end) in fields.cut.iter() {
            let mut place = Tip::NONE;
            while place != *end {
                let gone = Stop::Why(WhyNotComputed::Gone { log: *log, after: place });
                let (device, batches) = run_of(&links, &space, log, place, *end).await.ok_or(gone)?;
                from.insert(device);
                let last = batches.last().expect("a run is not empty");
                place = Tip { seq: last.header().last(), hash: last.link() };
                let blocks = std::sync::Arc::clone(self.node.blocks());
                let work = move || {
                    let taken = folding.take(&blocks, &batches);
                    (folding, taken)
                };
                let (back, taken) = self.node.blocking(work).await;
                taken?;
                folding = back;
            }
        }
        let Folding { mut state, is_equal, .. } = folding;
        let mut folded = state.root();
        match self.made_of(state, None, None, None).await {
            Ok(built) if is_equal && (built.root, built.content) == (fields.root, fields.content) => {
                return Ok(from);
            }
            Ok(built) => folded = built.root,
            // It shows an op that the adopted one has passed over.
            Err(NodeError::NoCheckpoint { why: WhyNoCheckpoint::OpMissing }) => {}
            Err(error) => return Err(error.into()),
        }
        Err(Stop::Why(match fields.parent {
            Some(parent) => WhyNotComputed::FoldedOnto { parent },
            None => WhyNotComputed::Differs { folded, adopted: fields.root },
        }))
    }
}

/// Ops as they are folded again.
struct Folding {
    space: SpaceId,
    keys: KeyRing,
    opener: Opener,
    state: State,
    /// Where the ops stand that the adopted state shows.
    shown: BTreeSet<Dot>,
    /// Whether those that came so far are what was adopted.
    is_equal: bool,
}

impl Folding {
    fn begin(store: crate::store::Store, keys: KeyRing, of: &Manifest) -> Result<Self, NodeError> {
        let space = of.fields().space;
        let shown = state_of(of, &store, &keys)?.pointed().into_iter().map(|op| op.place).collect();
        let state = State::new(space);
        Ok(Self { space, keys, opener: Opener::new(), state, shown, is_equal: true })
    }

    /// Folds batches, and holds the ops that the adopted state shows against what it shows of them.
    fn take(&mut self, blocks: &Blocks, batches: &[SealedBatch]) -> Result<(), Stop> {
        for batch in batches {
            let header = batch.header();
            let log = header.log;
            let missing = Stop::Why(WhyNotComputed::KeyMissing { log });
            let key = self.keys.key(&header.key_id).ok_or(missing)?;
            // Sealed wrongly by its author: it folds to nothing anywhere.
            let Ok(body) = self.opener.open(&key, batch) else { continue };
            let Ok(reader) = BodyReader::new(&body, header.first, header.op_count) else { continue };
            for frame in reader.flatten() {
                self.state.apply(&log, &frame);
            }
            let (first, last) = (Dot { log, seq: header.first }, Dot { log, seq: header.last() });
            let shown: Vec<Dot> = self.shown.range(first..=last).copied().collect();
            if shown.is_empty() {
                continue;
            }
            let block = Block::of_batch(body, header, &first).map_err(NodeError::from)?;
            for dot in shown {
                let (theirs, ours) = (block.op(&dot), blocks.op(&self.space, &dot));
                self.is_equal &= match ours {
                    Ok(ours) => ours == theirs,
                    Err(ReadError::Piece { .. }) => false,
                    Err(error) => return Err(NodeError::from(error).into()),
                };
            }
        }
        Ok(())
    }
}

/// The next batches of a log, from the first device that gives them; none where nobody does.
async fn run_of(
    links: &[Link],
    space: &SpaceId,
    log: &LogId,
    after: Tip,
    end: Tip,
) -> Option<(DeviceId, Vec<SealedBatch>)> {
    let question = CheckpointQuestion::Run { log: *log, after: after.seq, through: end.seq };
    for link in links {
        let Some(CheckpointAnswer::Run { bytes }) = ask(link, space, &question).await else { continue };
        if let Some(batches) = continuing(bytes, log, after, end) {
            return Some((link.device(), batches));
        }
    }
    None
}

/// Batches that continue a log, signed by its device, and reach no further than its end; `None` where they are not
/// that.
fn continuing(bytes: Bytes, log: &LogId, after: Tip, end: Tip) -> Option<Vec<SealedBatch>> {
    let batches = SealedBatch::parse_run(bytes).ok()?;
    let mut place = after;
    for batch in &batches {
        let header = batch.header();
        let is_next = header.log == *log && header.first == place.seq.next() && header.prev == place.hash;
        if !is_next || header.last() > end.seq {
            return None;
        }
        place = Tip { seq: header.last(), hash: batch.link() };
    }
    // The links tie the others to the last one.
    batches.last()?.verify().ok()?;
    let is_history = place.seq < end.seq || place == end;
    is_history.then_some(batches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Incarnation, Seq, TipHash};
    use crate::store::testing::Author;

    #[test]
    fn only_what_continues_a_log_up_to_its_end_is_taken() {
        let mut author = Author::new(1);
        let batches = author.batches(3, 2);
        let run = |batches: &[SealedBatch]| -> Bytes {
            batches.iter().flat_map(|batch| batch.bytes().to_vec()).collect::<Vec<_>>().into()
        };
        let tip = |n: usize| Tip { seq: batches[n].header().last(), hash: batches[n].link() };
        let end = tip(2);
        let taken = |bytes, after, end| continuing(bytes, &author.log, after, end).map(|taken| taken.len());

        assert_eq!(taken(run(&batches), Tip::NONE, end), Some(3));
        assert_eq!(taken(run(&batches[1..2]), tip(0), end), Some(1));
        assert_eq!(taken(run(&batches[1..]), Tip::NONE, end), None, "a gap");
        assert_eq!(taken(run(&batches), Tip::NONE, tip(1)), None, "beyond the end");
        let other = Tip { hash: TipHash::from_bytes([1; 32]), ..end };
        assert_eq!(taken(run(&batches), Tip::NONE, other), None, "another history");
        assert_eq!(taken(run(&batches[1..]), Tip { hash: other.hash, ..tip(0) }, end), None, "other links");
        let mut forged = run(&batches[..1]).to_vec();
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(taken(forged.into(), Tip::NONE, end), None, "not signed by its device");
        assert_eq!(taken(Bytes::new(), Tip::NONE, end), None);
        let stranger = LogId { incarnation: Incarnation::new(99), ..author.log };
        assert!(continuing(run(&batches), &stranger, Tip::NONE, end).is_none());
    }

    #[test]
    fn what_is_in_the_way_says_whether_it_passes() {
        let log = LogId { device: DeviceId::from_bytes([1; 32]), incarnation: Incarnation::new(1) };
        let after = Tip { seq: Seq::new(5), hash: TipHash::from_bytes([0; 32]) };
        let gone = WhyNotComputed::Gone { log, after };
        let (folded, adopted) = (Root::from_bytes([1; 32]), Root::from_bytes([2; 32]));

        assert!(gone.to_string().ends_with("behind 5 any more"), "{gone}");
        for why in [gone, WhyNotComputed::NotConnected, WhyNotComputed::KeyMissing { log }] {
            assert!(why.is_passing());
        }
        for why in [
            WhyNotComputed::Version { found: 9, known: 1 },
            WhyNotComputed::FoldedOnto { parent: CheckpointHash::from_bytes([3; 32]) },
            WhyNotComputed::Differs { folded, adopted },
        ] {
            assert!(!why.is_passing());
        }
    }
}
