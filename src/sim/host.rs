//! One device: a real engine, real folds, and a shell that performs the effects as `node` does,
//! on a disk in memory and with a clock that may lie.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::check::{Answer, CANARY, Checks, Violation};
use super::disk::Disk;
use super::leap::Sleep;
use super::rng::Rng;
use super::shell::{brief, continues, elsewhere, first_state, fold_disk, fold_run, lost_count, seen, strays};
use crate::crypto::{EpochKey, Identity};
use crate::fold::State;
use crate::model::{
    Blame, DeviceId, Frontier, Hlc, Incarnation, LogId, Now, Op, RecordHash, Scope, Seq, SpaceId, Tip, Wall,
};
use crate::roster::{Author, Role, Roster};
use crate::sync::{
    Authored, Effect, Engine, GivenBack, Input, Notice, PeerId, Refusal, RequestError, RosterChange, Stored,
    Token, Txn, TxnId, Write,
};
use crate::wire::checkpoint::CheckpointHash;
use crate::wire::{OpView, Welcome};

/// What a device asks of the world.
#[derive(Debug)]
pub(super) enum Out {
    /// Send on the control lane.
    Frame(PeerId, Bytes),
    /// Send on the live lane.
    Live(PeerId, Bytes),
    /// Read from the disk and send on the backlog lane.
    Push(PeerId, Order),
    /// End a connection.
    Close(PeerId),
    /// A commit is under way: say when it is done.
    Commit,
    /// Who may connect has changed.
    Repin,
    /// A device was enrolled: this is for it.
    Welcome(DeviceId, Welcome),
    /// A device has signed that it holds this much of a space.
    Acked(SpaceId, DeviceId, Frontier),
}

/// Batches of one log to be read and sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub space: SpaceId,
    pub log: LogId,
    pub after: Seq,
    pub through: Seq,
}

/// What a person or an application asks of a device.
#[derive(Clone, Debug)]
pub(super) enum Request {
    /// Write ops, each with its content's number.
    Append(Vec<(Op, Option<u64>)>),
    /// Invite another device.
    Invite(DeviceId),
    /// Take up an invitation.
    Join(Welcome),
    /// Remove another device.
    Remove(DeviceId),
    /// Another change of the roster.
    Change(RosterChange),
    /// A new key.
    Rotate,
    /// One round with every peer.
    Round,
    /// The history of a space is to begin with a checkpoint.
    BeginAt(SpaceId, CheckpointHash),
}

/// What a step may touch.
pub(super) struct Env<'a> {
    pub now: Duration,
    pub rng: &'a mut Rng,
    pub out: &'a mut Vec<Out>,
    pub checks: &'a mut Checks,
    pub trace: &'a mut dyn FnMut(String),
    pub is_traced: bool,
    /// Whether somebody in this world lies, so that closing a connection may be right.
    pub is_hostile: bool,
}

/// One device.
pub(super) struct Host {
    pub index: usize,
    pub identity: Arc<Identity>,
    pub disk: Disk,
    pub life: Option<Life>,
    /// How far its wall clock is off, in milliseconds.
    pub skew_ms: i64,
    /// Commits that fail, of a thousand.
    pub commit_fails: u64,
    /// What a backup holds.
    pub backup: Option<Disk>,
    /// Whether it sees at its next start that its disk is an older one or a copy.
    pub is_doubtful: bool,
    /// Whether the whole machine went back in time, and it has met nobody since who could show it that. Alone for a
    /// month it would drop history that the others have dropped otherwise, as the README says; so it calls nobody
    /// dormant by itself in this world meanwhile.
    pub is_unaware: bool,
    /// Whether it is to hold no keys.
    pub is_blind: bool,
    /// How it sleeps, while it does.
    pub sleep: Option<Sleep>,
    /// After how many silent days it calls others dormant.
    pub dormant_after: Option<NonZeroU16>,
}

/// What a crash takes away.
pub(super) struct Life {
    pub number: u64,
    pub engine: Engine,
    pub links: BTreeMap<PeerId, DeviceId>,
    pub inbox: VecDeque<Input>,
    pub committing: Option<Vec<Txn>>,
    pub is_turn_due: bool,
    pub tick_at: Option<Duration>,
    booted: Duration,
    indexes: BTreeMap<SpaceId, Option<State>>,
    inputs: VecDeque<Input>,
    requests: VecDeque<Request>,
    is_asking: bool,
    /// Devices that are to be invited as blind ones.
    pub blind_ones: BTreeSet<DeviceId>,
    txns: Vec<Txn>,
    folded: BTreeSet<SpaceId>,
    carries: VecDeque<(SpaceId, SpaceId)>,
    lookups: Vec<(SpaceId, LogId, Vec<Seq>, Token)>,
    reissues: VecDeque<Order>,
    recalls: VecDeque<(SpaceId, Option<GivenBack>, Vec<Stored>)>,
    /// Histories that have fallen: space, log, the last place that stands, how far it is held.
    searches: VecDeque<(SpaceId, LogId, Seq, Seq)>,
    waiting: BTreeMap<Token, Waiting>,
    token_last: u64,
    acks_stored: Duration,
    /// Since when some device is connected without a break, by the wall clock.
    connected_since: Wall,
    /// Who does not hold any more what is missing here.
    below: BTreeSet<DeviceId>,
    /// The request by which it says that it is back.
    coming_back: Option<Token>,
}

enum Waiting {
    Append(SpaceId, Vec<Option<u64>>),
    Invite(DeviceId),
    Join,
    Unit,
    Round,
    Carry(SpaceId, SpaceId),
    Begin(SpaceId, CheckpointHash),
}

impl Host {
    /// A fresh device with a personal space of its own.
    pub fn new(index: usize, rng: &mut Rng) -> Self {
        let identity = Arc::new(Identity::from_secret(&rng.bytes()));
        let mut host = Self {
            index,
            identity,
            disk: Disk::default(),
            life: None,
            skew_ms: 0,
            commit_fails: 0,
            backup: None,
            is_doubtful: false,
            is_unaware: false,
            is_blind: false,
            sleep: None,
            dormant_after: None,
        };
        if rng.happens(400) {
            host.jump(rng);
        }
        let key = EpochKey::from_bytes(rng.bytes());
        let wall = host.wall(Duration::ZERO);
        let author = Author { identity: &host.identity, key: &key, hlc: Hlc::at(wall), entropy: rng.bytes() };
        let (roster, genesis) = Roster::found(&author, &Scope::Personal, &format!("{CANARY} device {index}"))
            .expect("the name is good");
        let space = roster.space();
        let own_log = LogId { device: host.device(), incarnation: Incarnation::new(rng.next()) };
        let writes = vec![
            Write::Space {
                space,
                scope: Scope::Personal,
                own_log,
                is_active: true,
                carried: Seq::ZERO,
                dropped: 0,
            },
            Write::Record { space, hash: RecordHash::from_bytes(*space.as_bytes()), bytes: genesis },
            Write::Key { space, key },
        ];
        host.disk.commit(&[Txn { id: TxnId::new(0), writes }]).expect("the disk is empty");
        host
    }

    /// A copy of its home on another machine.
    pub fn copy(&self, index: usize) -> Self {
        Self {
            index,
            identity: Arc::clone(&self.identity),
            disk: self.disk.clone(),
            life: None,
            skew_ms: self.skew_ms,
            commit_fails: 0,
            backup: None,
            is_doubtful: false,
            is_unaware: false,
            is_blind: self.is_blind,
            sleep: None,
            dormant_after: self.dormant_after,
        }
    }

    pub fn device(&self) -> DeviceId {
        self.identity.device()
    }

    /// Whether it is up and belongs to its personal space, as far as it knows.
    pub fn is_member(&self) -> bool {
        let engine = self.life.as_ref().map(|life| &life.engine);
        let space = engine.and_then(|engine| engine.space(engine.personal()?));
        space.is_some_and(|view| view.roster.role_of(&self.device()).is_some())
    }

    /// Whether a device is in its roster, or was.
    pub fn knows(&self, device: &DeviceId) -> bool {
        let engine = self.life.as_ref().map(|life| &life.engine);
        let space = engine.and_then(|engine| engine.space(engine.personal()?));
        space.is_some_and(|view| {
            view.roster.role_of(device).is_some() || view.roster.removal_of(device).is_some()
        })
    }

    /// Whether it knows that a device was removed.
    pub fn has_removed(&self, device: &DeviceId) -> bool {
        let engine = self.life.as_ref().map(|life| &life.engine);
        let space = engine.and_then(|engine| engine.space(engine.personal()?));
        space.is_some_and(|view| view.roster.removal_of(device).is_some())
    }

    /// Who enrolled it, and who enrolled that one, and so on, as it knows.
    pub fn enrollers(&self) -> Vec<DeviceId> {
        let engine = self.life.as_ref().map(|life| &life.engine);
        let Some(view) = engine.and_then(|engine| engine.space(engine.personal()?)) else {
            return Vec::new();
        };
        let mut found = vec![self.device()];
        while let Some(member) = view.roster.members().find(|member| Some(&member.device) == found.last())
            && !found.contains(&member.added_by)
        {
            found.push(member.added_by);
        }
        found.split_off(1)
    }

    /// The personal space that its disk holds.
    pub fn personal_on_disk(&self) -> Option<SpaceId> {
        self.disk.active(&Scope::Personal)
    }

    /// The wall clock jumps by up to forty days, or comes right.
    pub fn jump(&mut self, rng: &mut Rng) {
        const DAY_MS: i64 = 86_400_000;
        let reach = [1_000, 90_000, DAY_MS, 40 * DAY_MS][rng.index(4)];
        self.skew_ms = match rng.below(3) {
            0 => 0,
            _ => rng.below(2 * reach.unsigned_abs()).cast_signed() - reach,
        };
    }

    pub(super) fn wall(&self, now: Duration) -> Wall {
        let true_ms = 1_700_000_000_000 + u64::try_from(now.as_millis()).expect("runs are short");
        Wall::from_millis(true_ms.saturating_add_signed(self.skew_ms))
    }

    /// Starts from what is on the disk.
    pub fn boot(&mut self, number: u64, env: &mut Env<'_>) -> Result<(), Violation> {
        env.checks.answered(self.index, &self.disk)?;
        for (space, _) in self.disk.spaces().collect::<Vec<_>>() {
            env.checks.frontier(self.index, space, &self.disk.frontier(&space))?;
        }
        let mut engine = Engine::new(self.identity.clone(), *b"sixteen bytes ok", self.disk.load())
            .map_err(|error| Violation::Start { device: self.index, why: error.to_string() })?;
        engine.call_dormant_after(self.dormant_after.filter(|_| !self.is_unaware));
        let indexes = self.disk.spaces().map(|(space, _)| (space, None)).collect();
        self.life = Some(Life {
            number,
            engine,
            links: BTreeMap::new(),
            inbox: VecDeque::new(),
            committing: None,
            is_turn_due: false,
            tick_at: None,
            booted: env.now,
            indexes,
            inputs: VecDeque::new(),
            requests: VecDeque::new(),
            is_asking: false,
            blind_ones: BTreeSet::new(),
            txns: Vec::new(),
            folded: BTreeSet::new(),
            carries: VecDeque::new(),
            lookups: Vec::new(),
            reissues: VecDeque::new(),
            recalls: VecDeque::new(),
            searches: VecDeque::new(),
            waiting: BTreeMap::new(),
            token_last: 0,
            acks_stored: env.now,
            connected_since: Wall::from_millis(0),
            below: BTreeSet::new(),
            coming_back: None,
        });
        if std::mem::take(&mut self.is_doubtful)
            && let Some(life) = &mut self.life
        {
            life.inbox.push_back(Input::Doubt);
        }
        Ok(())
    }

    /// The power goes. A commit under way is on the disk or it is not.
    pub fn crash(&mut self, env: &mut Env<'_>) -> Result<(), Violation> {
        let Some(life) = self.life.take() else { return Ok(()) };
        if let Some(txns) = life.committing
            && env.rng.happens(500)
        {
            self.store(&txns, env)?;
        }
        Ok(())
    }

    fn store(&mut self, txns: &[Txn], env: &mut Env<'_>) -> Result<(), Violation> {
        env.checks.commit(self.index, self.device(), &self.disk, txns)?;
        self.disk.commit(txns).map_err(|source| Violation::Disk { device: self.index, source })
    }

    /// The devices this one lets in.
    pub fn pins(&self) -> BTreeSet<DeviceId> {
        let Some(life) = &self.life else { return BTreeSet::new() };
        let spaces = life.engine.active_spaces();
        spaces
            .iter()
            .filter_map(|space| life.engine.space(*space))
            .filter(|view| view.roster.role_of(&self.device()).is_some())
            .flat_map(|view| view.roster.members().map(|member| member.device).collect::<Vec<_>>())
            .filter(|device| *device != self.device())
            .collect()
    }

    /// Takes what has arrived and works it off, as far as the next commit.
    pub fn turn(&mut self, env: &mut Env<'_>) -> Result<(), Violation> {
        let Some(life) = &mut self.life else { return Ok(()) };
        life.is_turn_due = false;
        if life.committing.is_some() {
            return Ok(());
        }
        for input in life.inbox.drain(..) {
            match (life.inputs.back_mut(), input) {
                (Some(Input::Batches { peer: last, batches: queued }), Input::Batches { peer, batches })
                    if *last == peer =>
                {
                    queued.extend(batches);
                }
                (_, input) => life.inputs.push_back(input),
            }
        }
        life.is_asking = true;
        self.settle(env)
    }

    pub fn request(&mut self, request: Request) {
        if let Some(life) = &mut self.life {
            life.requests.push_back(request);
        }
    }

    /// The commit under way has come to its end.
    pub fn committed(&mut self, env: &mut Env<'_>) -> Result<(), Violation> {
        let Some(txns) = self.life.as_mut().and_then(|life| life.committing.take()) else { return Ok(()) };
        let is_failed = env.rng.happens(self.commit_fails);
        if !is_failed {
            self.store(&txns, env)?;
        }
        if is_failed {
            txns.iter().rev().try_for_each(|txn| self.step(Input::PersistFailed(txn.id), env))?;
        } else {
            txns.iter().try_for_each(|txn| self.step(Input::Persisted(txn.id), env))?;
        }
        self.settle(env)
    }

    /// The index of a space has been built beside.
    pub fn loaded(&mut self, space: SpaceId, env: &mut Env<'_>) -> Result<(), Violation> {
        let Some(life) = &mut self.life else { return Ok(()) };
        life.indexes.insert(space, Some(first_state(&self.disk, &space)));
        self.catch_up(space);
        if let Some(life) = &mut self.life {
            life.carries.extend(life.engine.to_carry_over());
            for (log, after, through) in life.engine.to_reissue(space) {
                life.reissues.push_back(Order { space, log, after, through });
            }
            // What was asked for in the meantime has waited for this.
            life.is_asking = true;
        }
        self.settle(env)
    }

    pub fn is_committing(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.committing.is_some())
    }

    pub fn spaces_to_load(&self) -> Vec<SpaceId> {
        let indexes = self.life.as_ref().map(|life| &life.indexes);
        indexes.into_iter().flatten().filter(|(_, state)| state.is_none()).map(|(space, _)| *space).collect()
    }

    fn settle(&mut self, env: &mut Env<'_>) -> Result<(), Violation> {
        loop {
            while let Some(input) = self.life.as_mut().and_then(|life| life.inputs.pop_front()) {
                self.step(input, env)?;
            }
            let Some(life) = &mut self.life else { return Ok(()) };
            if !life.txns.is_empty() {
                let mut txns = std::mem::take(&mut life.txns);
                if env.now - life.acks_stored > ACKS_STORED_EVERY {
                    life.acks_stored = env.now;
                    txns.push(Txn { id: TxnId::new(0), writes: life.engine.unstored_acks() });
                }
                life.committing = Some(txns);
                env.out.push(Out::Commit);
                return Ok(());
            } else if let Some(space) = life.folded.pop_first() {
                self.report(space, env)?;
            } else if let Some((from, to)) = life.carries.pop_front() {
                self.carry_over(from, to);
            } else if let Some((space, log, seqs, token)) = life.lookups.pop() {
                let batches = seqs.iter().map(|seq| self.disk.batch_at(&space, &log, *seq)).collect();
                life.inputs.push_back(Input::LookedUp { token, batches });
            } else if let Some(order) = life.reissues.pop_front() {
                self.reissue(&order);
            } else if let Some((space, fallen, ops)) = life.next_recall(&self.disk) {
                life.inputs.push_back(Input::Recalled { space, fallen, ops: Some(ops) });
            } else if let Some((space, log, after, through)) = life.searches.pop_front() {
                let lost_count = Some(lost_count(&self.disk, space, log, after, through));
                life.inputs.push_back(Input::SearchedElsewhere { space, log, after, through, lost_count });
            } else if life.is_asking {
                life.is_asking = false;
                self.ask(env);
            } else {
                return Ok(());
            }
        }
    }

    fn step(&mut self, input: Input, env: &mut Env<'_>) -> Result<(), Violation> {
        let wall = self.wall(env.now);
        let Some(life) = &mut self.life else { return Ok(()) };
        match &input {
            Input::Connected { peer, device } => drop(life.links.insert(*peer, *device)),
            Input::Closed { peer } => drop(life.links.remove(peer)),
            _ => {}
        }
        if env.is_traced && !matches!(input, Input::Strays { .. }) {
            (env.trace)(format!("{} < {}", self.index, brief(&input)));
        }
        let now = Now { uptime: env.now - life.booted, wall, entropy: env.rng.bytes() };
        let effects = life.engine.step(&now, input);
        for effect in effects {
            self.perform(effect, env)?;
        }
        let Some(life) = &self.life else { return Ok(()) };
        for (space, _) in self.disk.spaces() {
            if let Some(view) = life.engine.space(space) {
                env.checks.frontier(self.index, space, view.frontier)?;
            }
        }
        Ok(())
    }

    fn perform(&mut self, effect: Effect, env: &mut Env<'_>) -> Result<(), Violation> {
        let index = self.index;
        let Some(life) = &mut self.life else { return Ok(()) };
        match effect {
            Effect::Persist(txn) => life.txns.push(txn),
            Effect::Fold { space, runs } => {
                if let Some(Some(state)) = life.indexes.get_mut(&space) {
                    runs.iter().for_each(|run| fold_run(state, run));
                    life.folded.insert(space);
                }
            }
            Effect::CatchUp { space } => self.catch_up(space),
            Effect::Refold { space } => {
                life.indexes.insert(space, Some(first_state(&self.disk, &space)));
                self.catch_up(space);
            }
            Effect::Send { peer, frame } => {
                super::check::hide(index, &frame)?;
                env.out.push(Out::Frame(peer, frame));
            }
            Effect::SendLive { peer, batch } => {
                super::check::hide(index, &batch)?;
                env.out.push(Out::Live(peer, batch));
            }
            Effect::Push { peer, space, log, after, after_link, through } => {
                if continues(&self.disk, &space, &log, after, after_link) {
                    env.out.push(Out::Push(peer, Order { space, log, after, through }));
                } else {
                    life.inputs.push_back(Input::PushForked { peer, space, log, at: after });
                }
            }
            Effect::LookUp { space, log, seqs, token } => life.lookups.push((space, log, seqs, token)),
            Effect::Reissue { space, log, after, through } => {
                life.reissues.push_back(Order { space, log, after, through });
            }
            Effect::Close { peer, why } => {
                (env.trace)(format!("{index} > closes {}: {why}", peer.get()));
                // A device that was removed is honest and has to go all the same.
                let is_removed = matches!(why, Refusal::NotInRoster);
                if why.blame() == Blame::Peer && !env.is_hostile && !is_removed {
                    return Err(Violation::HonestPeerBlamed { device: index, why: format!("{why}") });
                }
                env.out.push(Out::Close(peer));
            }
            Effect::Appended { token, placed } => match life.waiting.remove(&token) {
                Some(Waiting::Append(space, markers)) => {
                    let answers = markers.into_iter().zip(placed);
                    env.checks.answers.extend(answers.map(|(marker, placed)| Answer {
                        device: index,
                        space,
                        placed,
                        marker,
                    }));
                }
                Some(Waiting::Carry(from, to)) => life.carries.push_back((from, to)),
                Some(
                    Waiting::Invite(_) | Waiting::Join | Waiting::Unit | Waiting::Round | Waiting::Begin(..),
                )
                | None => {}
            },
            Effect::Failed { token, why } => {
                let cause = std::error::Error::source(&why).map(ToString::to_string).unwrap_or_default();
                (env.trace)(format!("{index} > refuses a request: {why}: {cause}"));
                match life.waiting.remove(&token) {
                    Some(Waiting::Append(_, markers)) => {
                        env.checks.refused.extend(markers.into_iter().flatten());
                    }
                    // A disk is asked again, as whoever looks for checkpoints does.
                    Some(Waiting::Begin(space, checkpoint)) if why == RequestError::Storage => {
                        life.requests.push_back(Request::BeginAt(space, checkpoint));
                    }
                    // Pairing is tried again until it has come to its end.
                    Some(
                        Waiting::Invite(_)
                        | Waiting::Join
                        | Waiting::Unit
                        | Waiting::Round
                        | Waiting::Carry(..)
                        | Waiting::Begin(..),
                    )
                    | None => {}
                }
            }
            Effect::Done { token } => {
                if let Some(Waiting::Invite(device)) = life.waiting.remove(&token) {
                    env.out.extend(life.welcome(device).map(|welcome| Out::Welcome(device, welcome)));
                }
            }
            // No carrier goes between devices of this world.
            Effect::Delivered { .. } => {}
            Effect::Recall { space, fallen, ops } => life.recalls.push_back((space, fallen, ops)),
            Effect::SearchElsewhere { space, log, after, through } => {
                life.searches.push_back((space, log, after, through));
            }
            Effect::CarryOver { from, to } => life.carries.push_back((from, to)),
            // Nobody asks for leases in this world.
            Effect::Leased { .. } => {}
            Effect::Notice(notice) => self.notice(notice, env)?,
        }
        Ok(())
    }

    fn notice(&mut self, notice: Notice, env: &mut Env<'_>) -> Result<(), Violation> {
        let device = self.index;
        if env.is_traced && !matches!(notice, Notice::Ack { .. } | Notice::Key { .. }) {
            (env.trace)(format!("{device} > {notice:?}"));
        }
        let wall = self.wall(env.now);
        let Some(life) = &mut self.life else { return Ok(()) };
        match notice {
            Notice::Roster { .. } | Notice::Key { .. } => env.out.push(Out::Repin),
            Notice::Begun { space, .. } => {
                life.indexes.insert(space, Some(State::new(space)));
                life.folded.insert(space);
            }
            Notice::Fork { log, .. } | Notice::NewIncarnation { log, .. }
                if !env.is_hostile && !env.checks.forkable.contains(&log.device) =>
            {
                return Err(Violation::ForkSeen { device });
            }
            Notice::Diverged { space, .. } => return Err(Violation::Diverged { device, space }),
            Notice::LogBlocked { .. } if !env.is_hostile => return Err(Violation::LogBlocked { device }),
            Notice::Ack { space, device } => {
                let ack = life.engine.ack_of(space, &device);
                env.out.extend(ack.map(|ack| Out::Acked(space, device, ack.frontier.clone())));
            }
            Notice::PeerUp { .. } => {
                if std::mem::take(&mut self.is_unaware) {
                    life.engine.call_dormant_after(self.dormant_after);
                }
                if life.engine.peers().iter().filter(|peer| peer.is_greeted).count() == 1 {
                    life.connected_since = wall;
                }
            }
            Notice::CalledDormant { .. } => env.checks.dormant_count += 1,
            Notice::Based { .. } => life.below.clear(),
            Notice::BelowFloor { space, device, checkpoint, .. } => {
                life.below.insert(device);
                life.requests.push_back(Request::BeginAt(space, checkpoint));
            }
            Notice::RecordRefused { why, .. } => {
                return Err(Violation::RecordRefused { device, why: why.to_string() });
            }
            Notice::PeerDown { .. }
            | Notice::LogBlocked { .. }
            | Notice::Fork { .. }
            | Notice::Truncated { .. }
            | Notice::Removed { .. }
            | Notice::Rotated { .. }
            | Notice::RotationTaken { .. }
            | Notice::CloneSeen { .. }
            | Notice::LeaseHost { .. }
            | Notice::Recalled { .. }
            | Notice::NewIncarnation { .. } => {}
        }
        Ok(())
    }

    fn report(&mut self, space: SpaceId, env: &mut Env<'_>) -> Result<(), Violation> {
        let Some(life) = &mut self.life else { return Ok(()) };
        let Some(Some(state)) = life.indexes.get_mut(&space) else { return Ok(()) };
        let is_thorough = env.rng.happens(60);
        let held = life.engine.space(space).map(|view| view.frontier.clone()).unwrap_or_default();
        env.checks.root(self.index, state, &held, is_thorough)?;
        let root = state.root();
        let applied = state.applied_all().into_iter().collect();
        let unknown_count = state.counts().unknown;
        life.inputs.push_back(Input::Folded { space, applied, root, unknown_count });
        if !life.engine.diverged(space).is_empty() {
            return Err(Violation::Diverged { device: self.index, space });
        }
        Ok(())
    }

    /// What the people at the device have asked for, once the network has been heard.
    fn ask(&mut self, env: &Env<'_>) {
        let Some(life) = &mut self.life else { return };
        let Some(space) = life.engine.personal() else { return };
        if !life.engine.to_carry_over().is_empty() {
            // What was written before comes first.
            return;
        }
        let Some(Some(state)) = life.indexes.get(&space) else { return };
        let mut all = (Vec::new(), Vec::new());
        for request in std::mem::take(&mut life.requests) {
            life.token_last += 1;
            let token = Token(life.token_last);
            match request {
                Request::Append(ops) => {
                    for (op, marker) in ops {
                        let seen = seen(state, &op);
                        all.0.push(Authored { op, seen });
                        all.1.push(marker);
                    }
                }
                Request::Invite(device) => {
                    life.waiting.insert(token, Waiting::Invite(device));
                    let name = format!("{CANARY} other").into();
                    let role = if life.blind_ones.contains(&device) { Role::Blind } else { Role::Admin };
                    life.inputs.push_back(Input::Enrol { space, device, role, name, token });
                }
                Request::Remove(device) => {
                    life.waiting.insert(token, Waiting::Unit);
                    let change = RosterChange::Remove { device };
                    life.inputs.push_back(Input::Change { space, change, token });
                }
                Request::Change(change) => {
                    life.waiting.insert(token, Waiting::Unit);
                    life.inputs.push_back(Input::Change { space, change, token });
                }
                Request::Rotate => {
                    life.waiting.insert(token, Waiting::Unit);
                    life.inputs.push_back(Input::Rotate { space, token });
                }
                Request::Join(Welcome { space, records, keys }) => {
                    life.waiting.insert(token, Waiting::Join);
                    life.inputs.push_back(Input::Join { space, records, keys, token });
                }
                Request::BeginAt(space, checkpoint) => {
                    let made = env.checks.checkpoints.iter().find(|made| made.hash == checkpoint);
                    let Some(kept) = made.map(|made| Arc::clone(&made.kept)) else { continue };
                    let own = life.engine.device();
                    let parted = parted(&self.disk, &life.engine, space, &kept.cut, own);
                    let is_writing = !life.engine.to_reissue(space).is_empty();
                    if is_writing || !parted.is_empty() {
                        // What nobody else is known to hold is written again first.
                        let again = |(log, to)| Input::WriteAgain { space, log, to };
                        life.inputs.extend(parted.into_iter().filter(|_| !is_writing).map(again));
                        life.requests.push_back(Request::BeginAt(space, checkpoint));
                        continue;
                    }
                    let (strays, parted) = strays(&self.disk, &life.engine, space, &kept, own);
                    let is_waiting = !strays.is_empty() || !parted.is_empty();
                    if strays.is_empty() {
                        let give_way = |log| Input::GiveWay { space, log };
                        life.inputs.extend(parted.into_iter().map(give_way));
                    }
                    life.inputs.push_back(Input::Strays { space, strays });
                    if is_waiting {
                        // Whoever has written them has them first.
                        life.requests.push_back(Request::BeginAt(space, checkpoint));
                        continue;
                    }
                    let cut = kept.cut.clone();
                    self.disk.keep(checkpoint, kept);
                    life.waiting.insert(token, Waiting::Begin(space, checkpoint));
                    life.inputs.push_back(Input::Base { space, checkpoint, cut, token });
                }
                Request::Round => {
                    life.waiting.insert(token, Waiting::Round);
                    life.inputs.push_back(Input::Round { with: Vec::new(), token });
                }
            }
        }
        life.come_back(space);
        if !all.0.is_empty() {
            life.token_last += 1;
            let token = Token(life.token_last);
            life.waiting.insert(token, Waiting::Append(space, all.1));
            life.inputs.push_back(Input::Append { space, ops: all.0, token });
        }
    }

    fn catch_up(&mut self, space: SpaceId) {
        let Some(life) = &mut self.life else { return };
        let Some(Some(state)) = life.indexes.get_mut(&space) else { return };
        let Some(frontier) = life.engine.space(space).map(|view| view.frontier.clone()) else { return };
        fold_disk(state, &space, &self.disk, &frontier);
        life.engine.draft_runs(space).iter().for_each(|run| fold_run(state, run));
        life.folded.insert(space);
    }

    fn carry_over(&mut self, from: SpaceId, to: SpaceId) {
        let Some(life) = &mut self.life else { return };
        let (Some(Some(state)), Some(left)) = (life.indexes.get(&to), life.engine.carry(from)) else {
            return;
        };
        if life.engine.personal() != Some(to) {
            return;
        }
        let end = left.last.min(left.next.plus(CARRIED_PER_STEP));
        let ops = to_write_again(&self.disk, state, &from, &left.log, left.next, end);
        life.token_last += 1;
        let token = Token(life.token_last);
        life.waiting.insert(token, Waiting::Carry(from, to));
        let through = Seq::new(left.before + end.get());
        life.inputs.push_back(Input::Carry { from, to, ops, through, token });
    }

    /// Ops of a history that is dropped, to be written again.
    fn reissue(&mut self, order: &Order) {
        let Order { space, log, after, through } = *order;
        let Some(life) = &mut self.life else { return };
        let Some(Some(state)) = life.indexes.get(&space) else { return };
        let end = through.min(after.plus(CARRIED_PER_STEP));
        let ops = to_write_again(&self.disk, state, &space, &log, after.next(), end);
        life.inputs.push_back(Input::Reissue { space, log, ops, through: end });
    }

    /// The fold of a space, once it is there.
    pub fn state(&mut self, space: &SpaceId) -> Option<&mut State> {
        self.life.as_mut()?.indexes.get_mut(space)?.as_mut()
    }
}

/// Ops of a log that are not written again elsewhere.
pub(super) fn to_write_again(
    disk: &Disk,
    state: &State,
    space: &SpaceId,
    log: &LogId,
    next: Seq,
    end: Seq,
) -> Vec<Stored> {
    let ops = disk.ops_from(space, log, next).take_while(|op| op.dot.seq <= end);
    let stored = ops.filter_map(|op| {
        let (dot, hlc) = super::check::identity(&op);
        if let Ok(OpView::Reissue(original)) = OpView::decode(op.kind, op.flags, &op.body) {
            let (kind, flags) = (original.kind, original.flags);
            return Some(Stored { dot, hlc, kind, flags, body: Bytes::copy_from_slice(original.body) });
        }
        let stored = Stored { dot, hlc, kind: op.kind, flags: op.flags, body: op.body.into() };
        (!state.is_relocated(&dot, hlc)).then_some(stored)
    });
    stored.collect()
}

impl Life {
    /// Ops that have come back, without those that are known, where the state is there to tell.
    fn next_recall(&mut self, disk: &Disk) -> Option<(SpaceId, Option<GivenBack>, Vec<Stored>)> {
        let is_ready = |(space, _, _): &(SpaceId, Option<GivenBack>, Vec<Stored>)| {
            self.indexes.get(space).is_some_and(Option::is_some)
        };
        let next = self.recalls.iter().position(is_ready)?;
        let (space, fallen, mut ops) = self.recalls.remove(next)?;
        if let Some(GivenBack { log, .. }) = fallen {
            let based = first_state(disk, &space);
            let mut search = elsewhere(disk, &based, space, &log);
            for run in self.engine.draft_runs(space) {
                search.above(&run.log, run.first, run.op_count, &run.body);
            }
            ops.retain(|op| search.take_stray(op));
        } else {
            let state = self.indexes.get(&space)?.as_ref()?;
            ops.retain(|op| !state.knows(&op.dot, op.hlc, op.kind, op.flags, &op.body));
        }
        Some((space, fallen, ops))
    }

    /// What an enrolled device is given.
    fn welcome(&self, device: DeviceId) -> Option<Welcome> {
        let space = self.engine.personal()?;
        let view = self.engine.space(space)?;
        let holds_keys = view.roster.role_of(&device)?.holds_keys();
        let keys = self.engine.keys().into_iter().filter(|(of, _)| *of == space && holds_keys);
        let keys = keys.map(|(_, key)| key).collect();
        Some(Welcome { space, records: view.roster.missing_from(&[]), keys })
    }

    /// Says that this device is back, where it is called dormant and holds what a connected one does.
    fn come_back(&mut self, space: SpaceId) {
        let (own, is_asked) = (self.engine.device(), |token| self.waiting.contains_key(&token));
        let Some(view) = self.engine.space(space) else { return };
        let Some(dormancy) = view.roster.dormancy_of(&own) else { return };
        let was_away = || {
            let since = view.roster.dormant_since(&own);
            since.is_some_and(|since| since.millis() < self.connected_since.as_millis())
        };
        let holds_all = |device: &DeviceId| {
            let known = self.engine.announced(space, device);
            known.is_some_and(|known| known.ops_beyond(view.frontier) == 0)
        };
        let holds_the_same = |device: &DeviceId| {
            let known = self.engine.announced(space, device);
            known.is_some_and(|known| known.iter().all(|(log, tip)| view.frontier.tip(log) == *tip))
        };
        let is_back = (dormancy.after_days.is_some() || was_away())
            && self.below.iter().all(holds_the_same)
            && self.engine.peers().iter().any(|peer| holds_all(&peer.device));
        if !is_back || self.coming_back.is_some_and(is_asked) {
            return;
        }
        self.token_last += 1;
        let token = Token(self.token_last);
        self.coming_back = Some(token);
        self.waiting.insert(token, Waiting::Unit);
        let change = RosterChange::Active { device: own };
        self.inputs.push_back(Input::Change { space, change, token });
    }

    /// When the engine wants to be woken.
    pub fn deadline(&self, _now: Duration) -> Option<Duration> {
        self.engine.deadline().map(|deadline| self.booted + deadline.at)
    }

    /// Whether the loop has something to take up.
    pub fn has_work(&self) -> bool {
        !self.inbox.is_empty() || !self.requests.is_empty() && self.is_ready()
    }

    /// Whether what an author sees is known.
    fn is_ready(&self) -> bool {
        let space = self.engine.personal();
        space.is_some_and(|space| self.indexes.get(&space).is_some_and(Option::is_some))
            && self.engine.to_carry_over().is_empty()
    }

    /// Requests that wait for an answer.
    pub fn waiting_count(&self) -> usize {
        self.requests.len()
            + self.waiting.values().filter(|waiting| !matches!(waiting, Waiting::Carry(..))).count()
    }

    /// Whether nothing is left to do before the next thing happens.
    pub fn is_idle(&self) -> bool {
        self.committing.is_none() && self.inbox.is_empty() && self.requests.is_empty()
    }
}

/// How often acks are written, as in the real shell.
const ACKS_STORED_EVERY: Duration = Duration::from_secs(5);

/// Ops carried over in one transaction: few, so that crashes fall between them.
const CARRIED_PER_STEP: u64 = 6;

/// Own logs that a cut reaches into another history of, or further than they go here, each with where they end
/// of what others are known to hold.
fn parted(disk: &Disk, engine: &Engine, space: SpaceId, cut: &Frontier, own: DeviceId) -> Vec<(LogId, Tip)> {
    let Some(view) = engine.space(space) else { return Vec::new() };
    let floor = disk.base(&space).map(|base| base.floor.clone()).unwrap_or_default();
    let others: Vec<DeviceId> =
        view.roster.members().map(|member| member.device).filter(|device| *device != own).collect();
    let mut parted = Vec::new();
    for (log, end) in cut.iter().filter(|(log, _)| log.device == own) {
        let held = view.frontier.tip(log);
        let is_within = held.seq >= end.seq && disk.is_end(&space, log, end);
        let is_behind = floor.tip(log) == *end || end.seq < floor.tip(log).seq;
        if held == Tip::NONE || is_behind || is_within {
            continue;
        }
        let said = others.iter().filter_map(|device| engine.ack_of(space, device));
        // Where it parts from the cut everybody gives it up for the checkpoint.
        let is_parted = held.seq >= end.seq;
        let said = said.map(|ack| ack.frontier.tip(log)).filter(|tip| !is_parted && tip.seq <= held.seq);
        let said = said.filter(|tip| disk.is_end(&space, log, tip)).max_by_key(|tip| tip.seq);
        let to = said.into_iter().chain([floor.tip(log)]).max_by_key(|tip| tip.seq).unwrap_or(Tip::NONE);
        if to.seq < held.seq {
            parted.push((*log, to));
        }
    }
    parted
}
