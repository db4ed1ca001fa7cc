//! Comparing the state of this device with that of another, row by row, and folding it anew.
//!
//! The questions are those of [`fold::verify`](crate::fold::verify), one stream each. Rows are compared
//! only where both states are a function of the same: the same frontier, roster and rules of folding.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tracing::{debug, info, warn};

use super::core::Core;
use super::error::NodeError;
use super::index::Index;
use super::space::Space;
use crate::fold::verify::{DifferingRow, Step, Verdict, Walk, basis_of};
use crate::model::{DeviceId, Frontier, Root, ScopeTag, SpaceId};
use crate::net::{self, AskError, Link, Topic};
use crate::wire::{RowHead, VerifyAnswer, VerifyQuestion, VerifySaid, VerifyUnable};

/// What came of comparing two states.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Comparison {
    /// The other device.
    pub device: DeviceId,
    /// How many questions it took, the last attempt counted.
    pub questions: u32,
    /// The first row that differs; `None` where every row is the same.
    pub difference: Option<Difference>,
}

/// A row that two devices show differently although they have the same ops.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Difference {
    /// The row, with what it consists of here and there.
    pub row: DifferingRow,
    /// Which of the two is what the log of this device folds to.
    pub right: Right,
}

/// Whose row is what the log folds to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Right {
    /// This device's: the state of the other is wrong, or its log.
    Here,
    /// The other device's: the state of this one is wrong, and folding it anew mends it.
    There,
    /// Neither: the rules of folding differ.
    Neither,
}

/// What a state is held against: its own rows, and its log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Audit {
    /// The hash that the state has kept up.
    pub root: Root,
    /// Its hash, counted anew from the rows.
    pub counted: Root,
    /// The hash of the state that the log folds to, where that was asked for.
    pub from_log: Option<Root>,
}

impl Audit {
    /// Whether all of them are equal.
    pub fn is_sound(&self) -> bool {
        self.root == self.counted && self.from_log.is_none_or(|root| root == self.root)
    }
}

/// Why two states were not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WhyNotCompared {
    /// There is no connection to it.
    #[error("it is not connected")]
    NotConnected,
    /// It stores and does not read.
    #[error("it is blind and has no state")]
    Blind,
    /// This device stores and does not read.
    #[error("this device is blind and has no state")]
    BlindHere,
    /// One of the two was written to all the time, or waits for a key.
    #[error("the two do not come to rest at the same ops")]
    Unsettled,
    /// It still reads its state, or answers others.
    #[error("it is busy")]
    Busy,
    /// What it says contradicts itself.
    #[error("what it says of its state contradicts itself")]
    Inconsistent,
    /// It does not answer.
    #[error(transparent)]
    Unanswered(AskError),
}

impl WhyNotCompared {
    /// Whether trying again may help.
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::NotConnected | Self::Unsettled | Self::Busy => true,
            Self::Unanswered(error) => !matches!(error, AskError::Refused),
            Self::Blind | Self::BlindHere | Self::Inconsistent => false,
        }
    }
}

/// This device's side of an attempt.
struct Side {
    link: Link,
    basis: [u8; 32],
    frontier: Frontier,
}

impl Space {
    /// Compares the state here with that of a connected device, and finds the first row that differs.
    /// Both are brought to the same ops before.
    ///
    /// # Errors
    /// [`NodeError::NotCompared`], [`NodeError::Index`], [`NodeError::Stopped`]; where a row differs also
    /// those of [`Space::state_at`].
    pub async fn verify(&self, device: DeviceId) -> Result<Comparison, NodeError> {
        let mut last = WhyNotCompared::Unsettled;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            self.node.sync().await?;
            match self.compare(device).await? {
                Ok(comparison) => return Ok(comparison),
                Err(why) if why.is_passing() && why != WhyNotCompared::NotConnected => last = why,
                Err(why) => return Err(NodeError::NotCompared { device, why }),
            }
        }
        Err(NodeError::NotCompared { device, why: last })
    }

    /// Holds the state against its own rows, and against its log where that is wanted too: a log of a
    /// million ops takes about a second.
    ///
    /// # Errors
    /// [`NodeError::Index`]; for the log those of [`Space::state_at`].
    pub async fn audit(&self, against: Against) -> Result<Audit, NodeError> {
        let space = self.clone();
        let (positions, mut audit) = blocking(move || {
            let index = space.index();
            let _ = index.read()?;
            let (applied, root, _) = index.report();
            let counted = index.peek().recomputed_root();
            Ok((applied.into_iter().collect(), Audit { root, counted, from_log: None }))
        })
        .await?;
        if against == Against::Log {
            audit.from_log = Some(self.fold_anew(positions).await?.root());
        }
        Ok(audit)
    }

    /// Throws the folded state away and folds the log again; readers keep the old one until the new one
    /// is whole. Returns once it is.
    ///
    /// # Errors
    /// [`NodeError::Index`], [`NodeError::Stopped`].
    pub async fn refold(&self) -> Result<Root, NodeError> {
        let space = self.id();
        let mut version = self.node.version();
        let before = self.node.ask(move |core| core.refold_anew(space)).await?;
        loop {
            version.mark_unchanged();
            let done = self.node.ask(move |core| core.refold_count(space) > before || core.has_failed(space));
            if done.await? {
                break;
            }
            version.changed().await.map_err(|_| NodeError::Stopped)?;
        }
        let space = self.clone();
        blocking(move || {
            let index = space.index();
            let _ = index.read()?;
            Ok(index.report().1)
        })
        .await
    }

    async fn compare(&self, device: DeviceId) -> Result<Result<Comparison, WhyNotCompared>, NodeError> {
        let space = self.id();
        let side = match self.node.ask(move |core| core.side_of(space, &device)).await? {
            Ok(side) => side,
            Err(why) => return Ok(Err(why)),
        };
        let (mut walk, mut question) = Walk::begin(side.basis);
        loop {
            let asked = Bytes::from([&space.tag().as_bytes()[..], &question.to_bytes()].concat());
            let answer = match side.link.ask(Topic::Verify, asked, ANSWER_WITHIN).await {
                Ok(answer) => answer,
                Err(error) => return Ok(Err(WhyNotCompared::Unanswered(error))),
            };
            let Ok(answer) = VerifyAnswer::from_bytes(&answer) else {
                return Ok(Err(WhyNotCompared::Inconsistent));
            };
            if answer.basis != side.basis && !matches!(answer.said, VerifySaid::Unable(_)) {
                return Ok(Err(WhyNotCompared::Unsettled));
            }
            let (index, frontier) = (self.index(), side.frontier.clone());
            let (walked, step) = blocking(move || {
                let state = index.read()?;
                let is_same = state.is_at(frontier.iter().map(|(log, tip)| (log, tip.seq)));
                let step = is_same.then(|| walk.answered(&state, &answer.said));
                Ok((walk, step))
            })
            .await?;
            walk = walked;
            let verdict = match step {
                None => return Ok(Err(WhyNotCompared::Unsettled)),
                Some(Step::Ask(next)) => {
                    question = next;
                    continue;
                }
                Some(Step::Done(verdict)) => verdict,
            };
            let questions = walk.asked();
            return Ok(match verdict {
                Verdict::Equal => Ok(Comparison { device, questions, difference: None }),
                Verdict::Differs(row) => {
                    let right = self.right(&row, &side.frontier).await?;
                    Ok(Comparison { device, questions, difference: Some(Difference { row, right }) })
                }
                Verdict::Unable(VerifyUnable::Blind) => Err(WhyNotCompared::Blind),
                Verdict::Unable(VerifyUnable::OtherBasis) => Err(WhyNotCompared::Unsettled),
                Verdict::Unable(_) => Err(WhyNotCompared::Busy),
                Verdict::Inconsistent => Err(WhyNotCompared::Inconsistent),
            });
        }
    }

    /// Which of two rows is what the log here folds to.
    async fn right(&self, row: &DifferingRow, frontier: &Frontier) -> Result<Right, NodeError> {
        let positions = frontier.iter().map(|(log, tip)| (*log, tip.seq)).collect();
        let state = self.fold_anew(positions).await?;
        let folded: Vec<RowHead> = state.heads_of(&row.name);
        Ok(match (folded == row.ours, folded == row.theirs) {
            (true, _) => Right::Here,
            (false, true) => Right::There,
            (false, false) => Right::Neither,
        })
    }
}

/// What a state is held against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Against {
    /// Its own rows.
    Rows,
    /// Its own rows, and its log.
    Log,
}

impl Core {
    /// How this device takes part in comparing a space with another one.
    fn side_of(&self, space: SpaceId, device: &DeviceId) -> Result<Side, WhyNotCompared> {
        let view = self.engine.space(space).ok_or(WhyNotCompared::NotConnected)?;
        if !self.reads(&view.roster.role_of(&self.engine.device())) {
            return Err(WhyNotCompared::BlindHere);
        }
        if view.roster.role_of(device).is_some_and(|role| !role.holds_keys()) {
            return Err(WhyNotCompared::Blind);
        }
        let link = self.route_to(device).ok_or(WhyNotCompared::NotConnected)?;
        let basis = basis_of(&view.frontier.digest(), &view.roster.digest());
        Ok(Side { link, basis, frontier: view.frontier.clone() })
    }

    /// A question about the state, `scope tag 16 ‖ question`, of a device that may read it. It is answered
    /// beside the loop, because leaves are counted from the rows.
    pub(super) fn verify_asked(&mut self, from: DeviceId, question: &[u8], answer: net::Answer) {
        let read = question.split_first_chunk::<16>().and_then(|(tag, question)| {
            let space = self.engine.space_of(&ScopeTag::from_bytes(*tag))?;
            Some((space, VerifyQuestion::from_bytes(question).ok()?))
        });
        let view = read.as_ref().and_then(|(space, _)| self.engine.space(*space));
        let (Some((space, question)), Some(view)) = (read.clone(), view) else {
            return debug!(device = %from.short(), "a question about the state that does not read");
        };
        if !self.reads(&view.roster.role_of(&from)) {
            return debug!(device = %from.short(), "a question about the state of a device that may not read it");
        }
        let basis = basis_of(&view.frontier.digest(), &view.roster.digest());
        let unable = |why| VerifyAnswer { basis, said: VerifySaid::Unable(why) }.to_bytes().into();
        if !self.reads(&view.roster.role_of(&self.engine.device())) {
            return answer.send(unable(VerifyUnable::Blind));
        }
        let Some(index) = self.index(&space).filter(|index| index.is_ready()) else {
            return answer.send(unable(VerifyUnable::Loading));
        };
        if question.basis != basis {
            return answer.send(unable(VerifyUnable::OtherBasis));
        }
        let Some(turn) = Turn::take(&self.answering) else {
            return answer.send(unable(VerifyUnable::Busy));
        };
        let frontier = view.frontier.clone();
        let work = move || {
            answer.send(answer_of(&index, &frontier, &question).to_bytes().into());
            drop(turn);
        };
        if let Err(error) = std::thread::Builder::new().name("kinfold-verify".into()).spawn(work) {
            warn!(%error, "a question about the state cannot be answered");
        }
    }

    /// Begins to fold a space from its log alone; how often that was done before.
    pub(super) fn refold_anew(&mut self, space: SpaceId) -> u64 {
        info!("a state is thrown away and folded again");
        if let Err(error) = self.store.discard_snapshot(&space) {
            warn!(%error, "the index snapshot could not be removed");
        }
        let before = self.refold_count(space);
        self.read_anew(space);
        before
    }

    fn reads(&self, role: &Option<crate::roster::Role>) -> bool {
        role.is_some_and(crate::roster::Role::holds_keys)
    }

    fn has_failed(&self, space: SpaceId) -> bool {
        self.index(&space).is_none_or(|index| index.failure().is_some())
    }
}

fn answer_of(index: &Arc<Index>, frontier: &Frontier, question: &VerifyQuestion) -> VerifyAnswer {
    let state = index.peek();
    let is_at_rest = state.is_at(frontier.iter().map(|(log, tip)| (log, tip.seq)));
    let said = if is_at_rest {
        state.verify_answer(&question.about)
    } else {
        VerifySaid::Unable(VerifyUnable::OtherBasis)
    };
    VerifyAnswer { basis: question.basis, said }
}

/// One of the few questions about states that are answered at once.
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

/// Counts rows away from the tasks that carry messages.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NodeError> + Send + 'static,
) -> Result<T, NodeError> {
    tokio::task::spawn_blocking(work).await.expect("counting does not panic and is not aborted")
}

#[cfg(feature = "sim")]
impl Space {
    /// Spoils a registry row of the folded state, as a fold that goes wrong would; the log stays as it
    /// is. For tests of what finds it; false where there is no such row.
    #[doc(hidden)]
    pub async fn spoil(&self, surface: crate::model::Surface, key: String) -> Result<bool, NodeError> {
        let space = self.id();
        self.node
            .ask(move |core| {
                core.index(&space).is_some_and(|index| index.spoil(&surface, &key))
                    && core.report_again(space)
            })
            .await
    }
}

/// How often two states are brought together before that is given up.
const ATTEMPTS: u32 = 8;

/// Between two attempts.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// A state of ten million rows is counted in that time.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Questions of other devices that are answered at once: each reads all rows.
const ANSWERED_AT_ONCE: u32 = 2;
