//! Two or three devices of one space, step by step: what becomes of a space that begins at a checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::disk::{Disk, Kept};
use super::host::to_write_again;
use super::shell::{continues, elsewhere, first_state, fold_disk, fold_run, lost_count, seen, state_of};
use crate::crypto::{EpochKey, Identity};
use crate::fold::State;
use crate::model::{
    DeviceId, Frontier, Hlc, Incarnation, LogId, Now, Op, Payload, RecordHash, Scope, Seq, SpaceId, Wall,
};
use crate::roster::{Admit, Author, NewDevice, Role, Roster};
use crate::sync::{
    Authored, BaseRefused, Effect, Engine, Input, Notice, PeerId, RequestError, RosterChange, Stored, Stray,
    Token, Txn, TxnId, Write,
};
use crate::wire::checkpoint::CheckpointHash;

/// A device with everything it holds.
pub(super) struct Device {
    pub identity: Arc<Identity>,
    pub disk: Disk,
    pub engine: Engine,
    pub state: State,
    /// What its bases fold on from.
    chunks: Chunks,
    outbox: Vec<(PeerId, Parcel)>,
    pub notices: Vec<Notice>,
    done: Vec<Token>,
    failed: Vec<RequestError>,
    lookup_count: usize,
    /// Nothing can be stored.
    pub is_ill: bool,
    /// No history that has fallen can be searched for.
    pub cannot_search: bool,
    /// What such searches come to waits here, where it does.
    pub answers: Option<Vec<Input>>,
    /// How often one was made.
    pub search_count: usize,
    /// Another one for each copy.
    twin: u8,
    pub uptime: Duration,
    pub wall: Wall,
}

type Chunks = BTreeMap<CheckpointHash, Vec<Vec<u8>>>;

enum Parcel {
    Frame(Bytes),
    Batches(Vec<Bytes>),
}

/// Devices of one space; each names a connection by the number of the device at its other end.
pub(super) struct Fleet {
    pub space: SpaceId,
    pub devices: Vec<Device>,
    /// No key arrives.
    pub withholds_keys: bool,
}

impl Fleet {
    pub fn new(count: u8) -> Self {
        Self::with_roles(&vec![Role::Admin; usize::from(count)])
    }

    /// The first of them has founded the space.
    pub fn with_roles(roles: &[Role]) -> Self {
        let identities: Vec<Arc<Identity>> =
            (1..).zip(roles).map(|(n, _)| Arc::new(Identity::from_secret(&[n; 32]))).collect();
        let key = EpochKey::from_bytes([7; 32]);
        let author = Author { identity: &identities[0], key: &key, hlc: Hlc::new(1), entropy: [5; 32] };
        let (mut roster, genesis) = Roster::found(&author, &Scope::Personal, "one").unwrap();
        let space = roster.space();
        let mut records = vec![(RecordHash::from_bytes(*space.as_bytes()), genesis)];
        for (identity, role) in identities.iter().zip(roles).skip(1) {
            let new = NewDevice { device: identity.device(), role: *role, name: "another" };
            let record = roster.add_device(&author, &new).unwrap();
            let before: Vec<RecordHash> = roster.record_hashes().collect();
            assert!(matches!(roster.admit(record.clone()), Ok(Admit::New { .. })));
            let hash = roster.record_hashes().find(|hash| !before.contains(hash)).unwrap();
            records.push((hash, record));
        }
        let device = |(index, identity): (usize, Arc<Identity>)| {
            let own_log =
                LogId { device: identity.device(), incarnation: Incarnation::new(index as u64 + 1) };
            let mut disk = Disk::default();
            let (scope, carried) = (Scope::Personal, Seq::ZERO);
            let space_write = Write::Space { space, scope, own_log, is_active: true, carried, dropped: 0 };
            let record = |(hash, bytes): &(RecordHash, Bytes)| Write::Record {
                space,
                hash: *hash,
                bytes: bytes.clone(),
            };
            let mut writes = vec![space_write];
            writes.extend(roles[index].holds_keys().then(|| Write::Key { space, key: key.clone() }));
            writes.extend(records.iter().map(record));
            disk.commit(&[Txn { id: TxnId::new(0), writes }]).unwrap();
            Device::open(identity, disk, space, Chunks::new())
        };
        let devices = identities.into_iter().enumerate().map(device).collect();
        Self { space, devices, withholds_keys: false }
    }

    /// Copies the home of a device, and the copy runs as another one; which.
    pub fn copy(&mut self, of: usize) -> usize {
        let original = &self.devices[of];
        let (identity, disk) = (Arc::clone(&original.identity), original.disk.clone());
        let mut copy = Device::open(identity, disk, self.space, original.chunks.clone());
        (copy.uptime, copy.wall, copy.twin) = (original.uptime, original.wall, original.twin + 1);
        self.devices.push(copy);
        self.devices.len() - 1
    }

    /// Has a home write in a log of its own that nobody knows, as one does that has joined anew.
    pub fn with_another_log(&mut self, device: usize) {
        let space = self.space;
        let home = &mut self.devices[device];
        let own_log = LogId { device: home.identity.device(), incarnation: Incarnation::new(77) };
        let (scope, carried) = (Scope::Personal, Seq::ZERO);
        let write = Write::Space { space, scope, own_log, is_active: true, carried, dropped: 0 };
        home.disk.commit(&[Txn { id: TxnId::new(0), writes: vec![write] }]).unwrap();
        home.restart(space);
    }

    pub fn tell(&mut self, device: usize, input: Input) {
        let space = self.space;
        self.devices[device].step(space, input);
        self.run();
    }

    pub fn connect(&mut self, one: usize, other: usize) {
        for (at, with) in [(one, other), (other, one)] {
            let (peer, device) = (peer(with), self.devices[with].identity.device());
            let space = self.space;
            self.devices[at].step(space, Input::Connected { peer, device });
        }
        self.run();
    }

    /// Carries parcels until nothing is under way.
    pub fn run(&mut self) {
        for _ in 0..10_000 {
            let Some(from) = self.devices.iter().position(|device| !device.outbox.is_empty()) else { return };
            let (to, parcel) = self.devices[from].outbox.remove(0);
            let is_key = |frame: &Bytes| {
                matches!(crate::wire::Message::decode(frame), Ok(crate::wire::Message::KeyGrant { .. }))
            };
            if matches!(&parcel, Parcel::Frame(frame) if self.withholds_keys && is_key(frame)) {
                continue;
            }
            let to = usize::try_from(to.get()).unwrap();
            let input = match parcel {
                Parcel::Frame(bytes) => Input::Frame { peer: peer(from), bytes },
                Parcel::Batches(batches) => Input::Batches { peer: peer(from), batches },
            };
            let space = self.space;
            self.devices[to].step(space, input);
        }
        panic!("parcels go round for ever");
    }

    pub fn write(&mut self, device: usize, count: u64) {
        for _ in 0..count {
            let space = self.space;
            let surface = "registry:note".parse().unwrap();
            let key = format!("row {}", self.devices[device].held(space).op_count() % 5);
            let payload = Payload::parse("{}").unwrap();
            let op = Op::Put { surface, key: key.into(), preds: Vec::new(), payload };
            let seen = seen(&self.devices[device].state, &op);
            let ops = vec![Authored { op, seen }];
            self.tell(device, Input::Append { space, ops, token: Token(1) });
            self.tell(device, Input::Seal { space });
        }
    }

    /// A checkpoint of what a device holds now, as the others have it too.
    pub fn checkpoint(&mut self, of: usize, n: u8) -> (CheckpointHash, Frontier) {
        let (hash, cut) = (CheckpointHash::from_bytes([n; 32]), self.devices[of].held(self.space));
        let mut chunks = Vec::new();
        self.devices[of].state.encode(&mut |chunk| chunks.push(chunk.to_vec()));
        let kept = Kept { cut: cut.clone(), chunks: chunks.clone(), ..Kept::default() };
        let kept = Arc::new(kept);
        for device in &mut self.devices {
            device.chunks.insert(hash, chunks.clone());
            device.disk.keep(hash, Arc::clone(&kept));
        }
        (hash, cut)
    }

    pub fn begin_at(&mut self, device: usize, (checkpoint, cut): &(CheckpointHash, Frontier)) {
        let (space, checkpoint, cut, token) = (self.space, *checkpoint, cut.clone(), Token(9));
        self.tell(device, Input::Base { space, checkpoint, cut, token });
    }

    pub fn roots(&mut self) -> Vec<crate::model::Root> {
        self.devices.iter_mut().map(|device| device.state.root()).collect()
    }

    fn said_base(&self, of: usize, at: usize) -> Option<[u8; 32]> {
        let frames = self.devices[at].engine.ack_frames(self.space);
        let device = self.devices[of].identity.device();
        let frame = frames.into_iter().find(|(by, _, _)| *by == device)?.2;
        let Ok(crate::wire::Message::Ack(frame)) = crate::wire::Message::decode(&frame) else { return None };
        crate::wire::Ack::parse(&frame.bytes).unwrap().fields().checkpoint
    }
}

impl Device {
    fn open(identity: Arc<Identity>, disk: Disk, space: SpaceId, chunks: Chunks) -> Self {
        let engine = Engine::new(identity.clone(), *b"sixteen bytes ok", disk.load()).unwrap();
        let mut device = Self {
            identity,
            disk,
            engine,
            state: State::new(space),
            chunks,
            outbox: Vec::new(),
            notices: Vec::new(),
            done: Vec::new(),
            failed: Vec::new(),
            lookup_count: 0,
            is_ill: false,
            cannot_search: false,
            answers: None,
            search_count: 0,
            twin: 0,
            uptime: Duration::from_secs(5),
            wall: Wall::from_millis(1_700_000_000_000),
        };
        device.refold(space);
        device
    }

    /// Starts again from its disk.
    pub fn restart(&mut self, space: SpaceId) {
        self.start(space);
        let folded = self.folded(space);
        self.step(space, folded);
    }

    /// One input, and nothing that follows from it.
    pub fn just(&mut self, input: Input) -> Vec<Effect> {
        let now = Now { uptime: self.uptime, wall: self.wall, entropy: [self.twin; 32] };
        self.engine.step(&now, input)
    }

    /// Starts anew, and the state is still to be built.
    fn start(&mut self, space: SpaceId) {
        let (chunks, wall) = (std::mem::take(&mut self.chunks), self.wall);
        let cannot_search = self.cannot_search;
        *self = Self::open(Arc::clone(&self.identity), self.disk.clone(), space, chunks);
        (self.wall, self.cannot_search) = (wall, cannot_search);
    }

    pub fn held(&self, space: SpaceId) -> Frontier {
        self.engine.space(space).unwrap().frontier.clone()
    }

    fn refold(&mut self, space: SpaceId) {
        let base = self.disk.base(&space).and_then(|base| self.chunks.get(&base.checkpoint));
        let based = base.map(|chunks| state_of(chunks));
        self.state = based.unwrap_or_else(|| State::new(space));
        let held = self.held(space);
        fold_disk(&mut self.state, &space, &self.disk, &held);
    }

    fn folded(&mut self, space: SpaceId) -> Input {
        let applied = self.state.applied_all().into_iter().collect();
        Input::Folded { space, applied, root: self.state.root(), unknown_count: 0 }
    }

    pub fn step(&mut self, space: SpaceId, input: Input) {
        let mut inputs = vec![input];
        let mut txns: Vec<Txn> = Vec::new();
        let mut n = 0;
        while let Some(input) = (!inputs.is_empty()).then(|| inputs.remove(0)) {
            n += 1;
            let mut entropy = blake3::Hasher::new();
            entropy.update(self.identity.device().as_bytes()).update(&self.uptime.as_millis().to_le_bytes());
            entropy.update(&[self.twin, self.done.len() as u8, n, self.lookup_count as u8]);
            let entropy = *entropy.finalize().as_bytes();
            let now = Now { uptime: self.uptime, wall: self.wall, entropy };
            for effect in self.engine.step(&now, input) {
                match effect {
                    Effect::Persist(txn) => txns.push(txn),
                    Effect::Fold { runs, .. } => {
                        runs.iter().for_each(|run| fold_run(&mut self.state, run));
                        inputs.push(self.folded(space));
                    }
                    Effect::CatchUp { .. } | Effect::Refold { .. } => {
                        self.refold(space);
                        inputs.push(self.folded(space));
                    }
                    Effect::Send { peer, frame } => self.outbox.push((peer, Parcel::Frame(frame))),
                    Effect::SendLive { peer, batch } => {
                        self.outbox.push((peer, Parcel::Batches(vec![batch])))
                    }
                    Effect::Push { peer, space, log, after, after_link, through } => {
                        if !continues(&self.disk, &space, &log, after, after_link) {
                            inputs.push(Input::PushForked { peer, space, log, at: after });
                            continue;
                        }
                        let run = self.disk.run(&space, &log, after, through, usize::MAX);
                        let batches = run.iter().map(|batch| batch.bytes().clone()).collect();
                        self.outbox.push((peer, Parcel::Batches(batches)));
                        inputs.push(Input::PushDone { peer, space, log, through });
                    }
                    Effect::LookUp { space, log, seqs, token } => {
                        self.lookup_count += 1;
                        let batches = seqs.iter().map(|seq| self.disk.batch_at(&space, &log, *seq)).collect();
                        inputs.push(Input::LookedUp { token, batches });
                    }
                    Effect::Done { token } => self.done.push(token),
                    Effect::Failed { why, .. } => self.failed.push(why),
                    Effect::Notice(notice) => self.notices.push(notice),
                    Effect::Close { .. } if self.is_ill => {}
                    Effect::Close { why, .. } => panic!("closes: {why}"),
                    Effect::Appended { .. }
                    | Effect::Leased { .. }
                    | Effect::Delivered { .. }
                    | Effect::CarryOver { .. } => {}
                    Effect::Reissue { space, log, after, through } => {
                        let ops =
                            to_write_again(&self.disk, &self.state, &space, &log, after.next(), through);
                        inputs.push(Input::Reissue { space, log, ops, through });
                    }
                    Effect::SearchElsewhere { space, log, after, through } => {
                        self.search_count += 1;
                        let lost_count = lost_count(&self.disk, space, log, after, through);
                        let lost_count = (!self.cannot_search).then_some(lost_count);
                        let answer = Input::SearchedElsewhere { space, log, after, through, lost_count };
                        self.answers.as_mut().unwrap_or(&mut inputs).push(answer);
                    }
                    Effect::Recall { fallen: None, ops, .. } => {
                        let is_new =
                            |op: &&Stored| !self.state.knows(&op.dot, op.hlc, op.kind, op.flags, &op.body);
                        let ops = Some(ops.iter().filter(is_new).cloned().collect());
                        inputs.push(Input::Recalled { space, fallen: None, ops });
                    }
                    Effect::Recall { fallen: Some(fallen), .. } if self.cannot_search => {
                        inputs.push(Input::Recalled { space, fallen: Some(fallen), ops: None });
                    }
                    Effect::Recall { fallen: Some(fallen), mut ops, .. } => {
                        let based = first_state(&self.disk, &space);
                        let mut search = elsewhere(&self.disk, &based, space, &fallen.log);
                        for run in self.engine.draft_runs(space) {
                            search.above(&run.log, run.first, run.op_count, &run.body);
                        }
                        ops.retain(|op| search.take_stray(op));
                        inputs.push(Input::Recalled { space, fallen: Some(fallen), ops: Some(ops) });
                    }
                }
            }
            if inputs.is_empty() && !txns.is_empty() {
                let done = std::mem::take(&mut txns);
                if self.is_ill {
                    inputs.extend(done.iter().rev().map(|txn| Input::PersistFailed(txn.id)));
                } else {
                    self.disk.commit(&done).unwrap();
                    inputs.extend(done.iter().map(|txn| Input::Persisted(txn.id)));
                }
            }
        }
    }

    fn told_floor(&self) -> Vec<(DeviceId, CheckpointHash)> {
        let of = |notice: &Notice| match notice {
            Notice::BelowFloor { device, checkpoint, .. } => Some((*device, *checkpoint)),
            _ => None,
        };
        self.notices.iter().filter_map(of).collect()
    }
}

pub(super) fn peer(device: usize) -> PeerId {
    PeerId::new(device as u64)
}

#[test]
fn a_base_is_named_by_acks_once_durable_and_everything_after_it_goes_on() {
    let mut fleet = Fleet::new(2);
    fleet.connect(0, 1);
    fleet.write(0, 6);
    fleet.write(1, 4);
    let checkpoint = fleet.checkpoint(0, 0xc1);
    assert_eq!(fleet.said_base(0, 1), None);

    fleet.begin_at(0, &checkpoint);
    fleet.begin_at(1, &checkpoint);
    fleet.write(1, 3);
    fleet.write(0, 3);

    for (of, at) in [(0, 1), (1, 0), (0, 0)] {
        assert_eq!(fleet.said_base(of, at), Some([0xc1; 32]), "{of} at {at}");
    }
    let roots = fleet.roots();
    assert_eq!(roots[0], roots[1]);
    for device in [0, 1] {
        let space = fleet.space;
        assert_eq!(fleet.devices[device].held(space).op_count(), 16);
        fleet.devices[device].restart(space);
        assert_eq!(fleet.devices[device].state.root(), roots[0], "after a restart of {device}");
        assert_eq!(fleet.devices[device].engine.space(space).unwrap().base.unwrap().floor, checkpoint.1);
    }
    assert!(fleet.devices.iter().all(|device| device.told_floor().is_empty() && device.failed.is_empty()));
}

#[test]
fn whoever_lacks_what_is_gone_is_told_once_and_goes_on_from_the_checkpoint() {
    let mut fleet = Fleet::new(3);
    fleet.connect(0, 1);
    fleet.write(0, 6);
    fleet.write(1, 4);
    fleet.write(2, 2);
    let checkpoint = fleet.checkpoint(0, 0xc1);
    fleet.begin_at(0, &checkpoint);
    fleet.write(0, 2);

    fleet.connect(0, 2);
    let space = fleet.space;
    fleet.tell(0, Input::Round { with: Vec::new(), token: Token(77) });
    assert!(fleet.devices[0].done.contains(&Token(77)), "a round does not wait for what cannot be sent");
    let by = fleet.devices[0].identity.device();
    assert_eq!(fleet.devices[2].told_floor(), [(by, checkpoint.0)]);
    assert_eq!(fleet.devices[2].held(space).op_count(), 2);

    fleet.begin_at(2, &checkpoint);
    let roots = fleet.roots();
    assert_eq!(roots[0], roots[2]);
    assert_eq!(fleet.devices[2].held(space).op_count(), 14, "its own two are there too");
    assert_eq!(fleet.devices[0].held(space).op_count(), 14);
    assert_eq!(fleet.said_base(2, 0), Some([0xc1; 32]));
    assert_eq!(fleet.devices[2].told_floor().len(), 1);
    fleet.devices[2].restart(space);
    assert_eq!(fleet.devices[2].state.root(), roots[0]);
    assert!(fleet.devices.iter().all(|device| device.engine.diverged(space).is_empty()));
}

#[test]
fn batches_from_below_the_base_count_as_held_and_prove_nothing() {
    let mut fleet = Fleet::new(2);
    fleet.connect(0, 1);
    fleet.write(1, 40);
    let space = fleet.space;
    let log = fleet.devices[1].engine.space(space).unwrap().own_log;
    let all = fleet.devices[1].disk.run(&space, &log, Seq::ZERO, Seq::new(99), usize::MAX);
    let checkpoint = fleet.checkpoint(0, 0xc1);
    fleet.begin_at(0, &checkpoint);
    fleet.write(1, 1);
    let before = (fleet.devices[0].engine.counters().duplicate_ops, fleet.devices[0].lookup_count);

    let batches = all.iter().map(|batch| batch.bytes().clone()).collect();
    fleet.tell(0, Input::Batches { peer: peer(1), batches });

    let after = (fleet.devices[0].engine.counters().duplicate_ops, fleet.devices[0].lookup_count);
    assert_eq!((after.0 - before.0, after.1 - before.1), (40, 0));
    assert!(!fleet.devices[0].notices.iter().any(|notice| matches!(notice, Notice::Fork { .. })));
    assert!(fleet.devices[0].disk.batch_at(&space, &log, Seq::new(40)).is_none());
    fleet.write(1, 1);
    assert_eq!(fleet.devices[0].held(space).op_count(), 42);
}

#[test]
fn a_base_that_is_not_durable_changes_nothing_and_can_be_taken_up_again() {
    let mut fleet = Fleet::new(2);
    fleet.write(0, 5);
    let checkpoint = fleet.checkpoint(0, 0xc1);
    let space = fleet.space;

    fleet.devices[1].is_ill = true;
    fleet.begin_at(1, &checkpoint);
    assert_eq!(fleet.devices[1].failed, [RequestError::Storage]);
    assert_eq!(fleet.devices[1].held(space).op_count(), 0);
    assert!(fleet.devices[1].engine.space(space).unwrap().base.is_none());
    fleet.devices[1].is_ill = false;
    fleet.begin_at(1, &checkpoint);

    let roots = fleet.roots();
    assert_eq!(roots[0], roots[1]);
    assert_eq!(fleet.devices[1].done, [Token(9)]);
}

#[test]
fn a_device_whose_own_log_ends_before_the_cut_writes_in_a_new_one() {
    let mut fleet = Fleet::new(2);
    let space = fleet.space;
    fleet.connect(0, 1);
    let backup = fleet.devices[1].disk.clone();
    fleet.write(1, 4);
    let checkpoint = fleet.checkpoint(0, 0xc1);
    let log = fleet.devices[1].engine.space(space).unwrap().own_log;
    let identity = Arc::clone(&fleet.devices[1].identity);
    let chunks = fleet.devices[1].chunks.clone();
    fleet.devices[1] = Device::open(identity, backup, space, chunks);
    let payload = Payload::parse("{}").unwrap();
    let surface = "registry:note".parse().unwrap();
    let op = Op::Put { surface, key: "a draft".into(), preds: Vec::new(), payload };
    let ops = vec![Authored { op, seen: Default::default() }];
    fleet.devices[1].step(space, Input::Append { space, ops, token: Token(1) });

    fleet.devices[1].outbox.clear();
    let (hash, cut) = checkpoint;
    fleet.devices[1].step(space, Input::Base { space, checkpoint: hash, cut, token: Token(9) });

    let device = &fleet.devices[1];
    let view = device.engine.space(space).unwrap();
    assert_ne!(view.own_log, log);
    assert_eq!((view.frontier.tip(&log).seq, view.draft_count), (Seq::new(4), 1));
    assert_eq!(device.done, [Token(9)]);
}

#[test]
fn a_base_does_not_go_back_nor_over_another_history_and_unknown_spaces_have_none() {
    let mut fleet = Fleet::new(2);
    fleet.write(0, 4);
    let early = fleet.checkpoint(0, 0xc1);
    fleet.write(0, 1);
    let late = fleet.checkpoint(0, 0xc2);
    fleet.begin_at(0, &late);
    fleet.begin_at(0, &late);
    assert_eq!(fleet.devices[0].done, [Token(9), Token(9)], "the same again is no news");

    fleet.begin_at(0, &early);
    let (log, tip) = late.1.iter().next().map(|(log, tip)| (*log, *tip)).unwrap();
    let other = crate::model::Tip { hash: crate::model::TipHash::from_bytes([1; 32]), ..tip };
    let (space, token, checkpoint) = (fleet.space, Token(9), CheckpointHash::from_bytes([0xc3; 32]));
    let cut: Frontier = [(log, other)].into_iter().collect();
    fleet.tell(1, Input::Base { space, checkpoint, cut: late.1.clone(), token });
    fleet.write(0, 1);
    let elsewhere = SpaceId::from_bytes([3; 32]);
    fleet.tell(0, Input::Base { space: elsewhere, checkpoint, cut: cut.clone(), token });
    let mut second = Fleet::new(1);
    second.write(0, 5);
    let cut: Frontier = [(log, other)].into_iter().collect();
    second.tell(0, Input::Base { space: second.space, checkpoint, cut, token });

    let behind = RequestError::Base(BaseRefused::Behind);
    assert_eq!(fleet.devices[0].failed, [behind, RequestError::NoSuchSpace]);
    let other_history = RequestError::Base(BaseRefused::OtherHistory { log });
    assert_eq!(second.devices[0].failed, [other_history]);
}

#[test]
fn a_device_in_doubt_begins_a_log_though_it_knows_of_nothing_that_it_wrote() {
    let mut fleet = Fleet::new(2);
    let space = fleet.space;
    let backup = fleet.copy(0);
    fleet.connect(0, 1);
    fleet.write(0, 1);
    fleet.disconnect(0, 1);

    fleet.tell(backup, Input::Doubt);
    fleet.write(backup, 1);
    fleet.connect(backup, 1);

    assert_eq!([1, backup].map(|device| fleet.devices[device].held(space).op_count()), [2, 2]);
    let is_fork = |notice: &Notice| matches!(notice, Notice::Fork { .. });
    assert!(!fleet.devices.iter().any(|device| device.notices.iter().any(is_fork)));
}

#[test]
fn a_search_that_ended_below_the_base_of_a_peer_is_begun_anew_from_the_base() {
    let mut fleet = Fleet::new(2);
    let space = fleet.space;
    fleet.connect(0, 1);
    fleet.write(0, 41);
    let checkpoint = fleet.checkpoint(1, 0xc1);
    fleet.begin_at(1, &checkpoint);
    let backup = fleet.copy(0);
    fleet.write(0, 9);
    fleet.disconnect(0, 1);
    // So many that the end of the cut is not among the places that are asked about.
    fleet.write(backup, 37);
    let log = fleet.devices[backup].engine.space(space).unwrap().own_log;
    let selected = |fleet: &Fleet| -> Vec<u64> {
        let view = fleet.devices[1].engine.space(space).unwrap();
        view.roster.branches_of(&log).map(|branch| branch.base.seq.get()).collect()
    };

    fleet.connect(backup, 1);
    assert_eq!(fleet.devices[backup].told_floor().len(), 1);
    assert_eq!(selected(&fleet), [0; 0], "there it is below the floor");
    fleet.begin_at(backup, &checkpoint);

    assert_eq!(selected(&fleet), [41]);
}

#[test]
fn an_ack_that_a_crash_took_back_is_not_in_the_way_of_another_of_its_number() {
    let mut fleet = Fleet::new(2);
    fleet.connect(0, 1);
    fleet.write(0, 1);
    let backup = fleet.copy(1);
    let checkpoint = fleet.checkpoint(0, 0xc1);
    fleet.begin_at(1, &checkpoint);
    fleet.disconnect(0, 1);
    let said = |fleet: &Fleet, by: usize| {
        let (device, engine) = (fleet.devices[1].identity.device(), &fleet.devices[by].engine);
        let number = engine.ack_frames(fleet.space).into_iter().find(|(of, _, _)| *of == device).unwrap().1;
        (number, engine.ack_of(fleet.space, &device).unwrap().frontier.op_count())
    };

    fleet.write(backup, 1);
    let (before, now) = (said(&fleet, 0), said(&fleet, backup));
    assert_eq!((before.0, before.1, now.1), (now.0, 1, 2), "of one number, and not the same");
    fleet.connect(backup, 0);

    assert_eq!(said(&fleet, 0).1, 2);
}

/// Two ops that two devices have; so many that the second one has of a life which the first has forgotten; and three
/// of its next life, at which it and a third one begin. Also the place of the life that goes on, the log of both, and
/// the checkpoint.
fn two_lives(forgotten: u64) -> (Fleet, usize, LogId, (CheckpointHash, Frontier)) {
    let mut fleet = Fleet::new(3);
    fleet.connect(0, 1);
    fleet.write(0, 2);
    let backup = fleet.copy(0);
    fleet.write(0, forgotten);
    fleet.disconnect(0, 1);
    let log = fleet.devices[0].engine.space(fleet.space).unwrap().own_log;
    fleet.connect(backup, 2);
    fleet.write(backup, 3);
    let checkpoint = fleet.checkpoint(backup, 0xc1);
    fleet.begin_at(backup, &checkpoint);
    fleet.begin_at(2, &checkpoint);
    (fleet, backup, log, checkpoint)
}

#[test]
fn what_only_a_device_that_was_away_has_of_another_history_comes_back_to_its_author() {
    let (mut fleet, backup, log, checkpoint) = two_lives(2);
    let space = fleet.space;

    fleet.connect(backup, 1);
    assert_eq!(fleet.devices[1].told_floor().len(), 1, "here it would begin with the checkpoint");
    let strays = vec![Stray { log, after: Seq::new(2), through: Seq::new(4) }];
    fleet.tell(1, Input::Strays { space, strays: strays.clone() });

    let recalled = |of: &Device| -> Vec<u64> {
        let count = |notice: &Notice| match notice {
            Notice::Recalled { op_count, .. } => Some(*op_count),
            _ => None,
        };
        of.notices.iter().filter_map(count).collect()
    };
    assert_eq!(recalled(&fleet.devices[backup]), [2]);
    let again = fleet.devices[backup].engine.space(space).unwrap().own_log;
    assert_ne!(again, log);
    assert_eq!(
        fleet.devices[1].held(space).tip(&again).seq,
        Seq::new(2),
        "it follows where it could not before"
    );
    fleet.tell(1, Input::Strays { space, strays });
    assert_eq!(recalled(&fleet.devices[backup]), [2], "said once");
    fleet.begin_at(1, &checkpoint);

    let roots = fleet.roots();
    assert_eq!((roots[1], roots[2]), (roots[backup], roots[backup]));
    let state = &fleet.devices[1].state;
    assert_eq!(state.relocated_count(), 2);
}

#[test]
fn an_ack_from_before_the_end_of_a_log_was_dropped_is_taken_back_by_the_next() {
    let mut fleet = Fleet::new(3);
    let space = fleet.space;
    let (log, removed) =
        (fleet.devices[2].engine.space(space).unwrap().own_log, fleet.devices[2].identity.device());
    fleet.connect(0, 2);
    fleet.write(2, 3);
    fleet.disconnect(0, 2);
    fleet.connect(1, 2);
    fleet.write(2, 2);
    fleet.disconnect(1, 2);
    let change = RosterChange::Remove { device: removed };
    fleet.tell(0, Input::Change { space, change, token: Token(2) });
    fleet.connect(0, 1);
    assert_eq!(fleet.devices[1].held(space).tip(&log).seq, Seq::new(3), "the rest is from after its removal");

    // What it has said since does not outlive its process.
    fleet.disconnect(0, 1);
    fleet.devices[1].start(space);
    fleet.connect(0, 1);
    let device = fleet.devices[1].identity.device();
    assert_eq!(fleet.devices[0].engine.announced(space, &device).unwrap().tip(&log).seq, Seq::new(5));
    let folded = fleet.devices[1].folded(space);
    fleet.tell(1, folded);

    assert_eq!(fleet.devices[0].engine.announced(space, &device).unwrap().tip(&log).seq, Seq::new(3));
    assert!(fleet.devices[0].engine.peers().iter().all(|peer| peer.is_settled));
}

#[test]
fn a_life_that_was_forgotten_and_is_longer_than_what_the_others_hold_comes_back_too() {
    for written_since in [0, 1, 2] {
        let (mut fleet, backup, log, checkpoint) = two_lives(6);
        let space = fleet.space;
        fleet.write(backup, written_since);

        fleet.connect(backup, 1);
        assert_eq!(fleet.devices[1].told_floor().len(), 1, "{written_since}");
        let again = fleet.devices[backup].engine.space(space).unwrap().own_log;
        assert_ne!(again, log, "it wrote there what it does not remember");
        let strays = vec![Stray { log, after: Seq::new(2), through: Seq::new(8) }];
        fleet.tell(1, Input::Strays { space, strays });
        let newest = fleet.devices[backup].engine.space(space).unwrap().own_log;
        assert_eq!(fleet.devices[1].held(space).tip(&newest).seq, Seq::new(6));
        fleet.tell(1, Input::GiveWay { space, log });
        fleet.begin_at(1, &checkpoint);

        assert_eq!(fleet.devices[1].failed, []);
        let roots = fleet.roots();
        assert_eq!((roots[1], roots[2]), (roots[backup], roots[backup]), "{written_since}");
        let views = [1, 2, backup].map(|device| fleet.devices[device].held(space));
        assert_eq!((&views[0], &views[1]), (&views[2], &views[2]));
        for engine in [1, 2, backup].map(|device| &fleet.devices[device].engine) {
            assert_eq!(engine.forked_devices(space), engine.healed_forks(space), "{written_since}");
        }
    }
}

#[test]
fn nothing_is_taken_of_a_log_that_is_given_up_for_a_checkpoint_until_that_is_begun_with() {
    let (mut fleet, backup, log, checkpoint) = two_lives(2);
    let space = fleet.space;
    let run = fleet.devices[1].disk.run(&space, &log, Seq::ZERO, Seq::new(9), usize::MAX);
    let given_up: Vec<Bytes> = run.iter().map(|batch| batch.bytes().clone()).collect();
    let tip = |fleet: &Fleet| fleet.devices[1].held(space).tip(&log).seq;
    assert_eq!(tip(&fleet), Seq::new(4));
    fleet.connect(backup, 1);
    fleet.tell(1, Input::GiveWay { space, log });

    let bring = |fleet: &mut Fleet| {
        fleet.tell(1, Input::Batches { peer: peer(backup), batches: given_up.clone() });
    };
    bring(&mut fleet);
    assert_eq!(tip(&fleet), Seq::ZERO);
    fleet.pass(1, Duration::from_secs(61));
    bring(&mut fleet);
    assert_eq!(tip(&fleet), Seq::new(4), "it took too long");

    fleet.tell(1, Input::GiveWay { space, log });
    bring(&mut fleet);
    fleet.begin_at(1, &checkpoint);
    assert_eq!(fleet.devices[1].failed, []);
    assert_eq!(tip(&fleet), Seq::new(5));
}
