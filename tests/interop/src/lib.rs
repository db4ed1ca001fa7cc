//! Two fleets that do the same: one of kinfold's core, one of `car-sync` sessions.
//!
//! Devices write at given times of one clock each and meet at a relay. Device ids are chosen so that
//! both order them alike, so the two total orders are one as long as no clock is far ahead.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use car_sync::lease::{Intent as CarIntent, IntentStatus as CarStatus};
use car_sync::oplog::{Scope, Surface as CarSurface};
use car_sync::relay::{InMemoryRelay, RelayConfig};
use car_sync::session::SyncSession;
use kinfold::fold::State;
use kinfold::fold::conversation::{Recorded, Turn};
use kinfold::model::{
    CertHash, DeviceId, Dot, Incarnation, LeaseEpoch, LogId, Now, Op, Payload, SpaceId, Surface, Tip, Wall,
};
use kinfold::oplog::{Author, DraftOp, Seen};
use kinfold::wire::FrameView;
use serde_json::Value;

/// One device on both sides.
struct Device {
    author: Author,
    state: State,
    held: BTreeMap<LogId, Vec<DraftOp>>,
    session: SyncSession,
    /// What the session's clock reads.
    wall: Arc<AtomicU64>,
    /// How far this device's clock is ahead, in milliseconds.
    ahead: u64,
}

/// Some devices, on both sides.
pub struct Fleet {
    devices: Vec<Device>,
    payloads: BTreeMap<Dot, Payload>,
    relay: BTreeMap<LogId, Vec<DraftOp>>,
    car_relay: InMemoryRelay,
    clock: u64,
    _journals: tempfile::TempDir,
}

/// What an op does.
#[derive(Clone, Debug)]
pub enum Write {
    /// A row of `registry:note`.
    Put {
        /// The row.
        key: String,
        /// Its value.
        value: u64,
    },
    /// The row is removed.
    Delete {
        /// The row.
        key: String,
    },
    /// A fact of `knowledge`.
    Fact {
        /// The entity.
        key: String,
        /// Its value.
        value: u64,
    },
    /// A turn of the conversation `c`.
    Turn(Value),
    /// What a run says of itself.
    Intent {
        /// The agent.
        agent: String,
        /// The run.
        run: String,
        /// The token.
        epoch: u64,
        /// `pending`, `committed` or `failed`.
        status: &'static str,
    },
}

/// What a device does next.
#[derive(Clone, Debug)]
pub enum Step {
    /// It writes.
    Write(usize, Write),
    /// It gives and takes at the relay.
    Meet(usize),
}

impl Fleet {
    /// Devices whose clocks are ahead by these milliseconds.
    pub fn new(ahead: &[u64]) -> Self {
        let journals = tempfile::tempdir().expect("the temporary directory is writable");
        let device = |(index, ahead): (usize, &u64)| {
            let id = u8::try_from(index + 1).expect("a few devices");
            let log = LogId { device: DeviceId::from_bytes([id; 32]), incarnation: Incarnation::new(1) };
            let wall = Arc::new(AtomicU64::new(START + ahead));
            let reading = Arc::clone(&wall);
            let home = journals.path().join(index.to_string());
            std::fs::create_dir_all(&home).expect("it is ours");
            let session = SyncSession::open(
                format!("device-{index}"),
                &home.join("journal.jsonl"),
                &home,
                Arc::new(move || reading.load(Ordering::Relaxed)),
            );
            Device {
                author: Author::new(log, Tip::NONE),
                state: State::new(SPACE),
                held: BTreeMap::new(),
                session: session.expect("an empty journal opens"),
                wall,
                ahead: *ahead,
            }
        };
        Self {
            devices: ahead.iter().enumerate().map(device).collect(),
            payloads: BTreeMap::new(),
            relay: BTreeMap::new(),
            car_relay: InMemoryRelay::new(RelayConfig::default(), Arc::new(|| START)),
            clock: 0,
            _journals: journals,
        }
    }

    /// Does the steps, and then lets everybody have everything.
    pub fn run(ahead: &[u64], steps: &[Step]) -> Self {
        let mut fleet = Self::new(ahead);
        for step in steps {
            match step {
                Step::Write(device, write) => fleet.write(*device, write),
                Step::Meet(device) => fleet.meet(*device),
            }
        }
        for _ in 0..2 {
            (0..fleet.devices.len()).for_each(|device| fleet.meet(device));
        }
        fleet
    }

    /// Writes the same on both sides, a millisecond after what was written last.
    pub fn write(&mut self, device: usize, write: &Write) {
        self.clock += 1;
        let own = &mut self.devices[device];
        let wall = own.ahead + START + self.clock;
        own.wall.store(wall, Ordering::Relaxed);
        let (surface, payload, op) = forms(write);
        own.session.append(Scope::Personal, surface, payload).expect("the journal is writable");

        let now = Now { uptime: Duration::ZERO, wall: Wall::from_millis(wall), entropy: [0; 32] };
        let seen = own.state.seen(op.surface(), &op.key());
        let payload = match &op {
            Op::Put { payload, .. } | Op::Fact { payload, .. } | Op::Event { payload, .. } => {
                Some(payload.clone())
            }
            Op::Delete { .. } | Op::Intent { .. } => None,
        };
        let draft = own.author.draft(op, Seen { heads: seen.heads, greatest: seen.greatest }, &now);
        own.author.folded();
        let log = own.author.log();
        self.payloads.extend(payload.map(|payload| (Dot { log, seq: draft.seq }, payload)));
        own.take(log, draft, wall);
    }

    /// Gives and takes at the relay, on both sides.
    pub fn meet(&mut self, device: usize) {
        let own = &mut self.devices[device];
        own.session.pump(&mut self.car_relay).expect("the relay answers");
        let log = own.author.log();
        self.relay.insert(log, own.held.get(&log).cloned().unwrap_or_default());
        let wall = own.ahead + START + self.clock;
        for (log, ops) in &self.relay {
            let had = own.held.get(log).map_or(0, Vec::len);
            for op in ops.iter().skip(had) {
                own.take(*log, op.clone(), wall);
            }
        }
    }

    /// What kinfold shows of `registry:note`: key → value, `None` where it was removed.
    pub fn rows(&self, device: usize) -> BTreeMap<String, Option<String>> {
        let rows = self.devices[device].state.rows(
            &note(),
            None,
            usize::MAX,
            kinfold::fold::RowFilter::WithTombstones,
        );
        let value = |head: &kinfold::fold::Head| {
            let payload = self.payloads.get(&head.dot).filter(|_| !head.is_tombstone)?;
            let value: Value = serde_json::from_str(payload.as_str()).expect("a payload is JSON");
            Some(value["value"].to_string())
        };
        rows.iter().map(|listed| (listed.key.clone(), value(listed.row.shown()))).collect()
    }

    /// What `car-sync` shows of it.
    pub fn car_rows(&self, device: usize) -> BTreeMap<String, Option<String>> {
        let state = self.devices[device].session.state();
        let rows = state.registries.get("registry:note").cloned().unwrap_or_default();
        let value = |payload: &Value| {
            let is_removed = payload["deleted"] == true;
            (!is_removed).then(|| payload["value"].to_string())
        };
        let text = |key: &String| key.strip_prefix("id:").unwrap_or(key).to_owned();
        rows.iter().map(|(key, record)| (text(key), value(&record.payload))).collect()
    }

    /// The facts that kinfold shows: the first of each entity.
    pub fn facts(&self, device: usize) -> BTreeMap<String, String> {
        let rows = self.devices[device].state.rows(
            &Surface::Knowledge,
            None,
            usize::MAX,
            kinfold::fold::RowFilter::Live,
        );
        let value = |dot: &Dot| {
            let value: Value = serde_json::from_str(self.payloads[dot].as_str()).expect("a payload is JSON");
            value["value"].to_string()
        };
        rows.iter().map(|listed| (listed.key.clone(), value(&listed.row.shown().dot))).collect()
    }

    /// The facts that `car-sync` shows.
    pub fn car_facts(&self, device: usize) -> BTreeMap<String, String> {
        let state = self.devices[device].session.state();
        let records = state.log_entries("knowledge");
        let text = |value: &Value| value.as_str().expect("a fact has an id").to_owned();
        let fact = |payload: &Value| (text(&payload["id"]), payload["value"].to_string());
        records.iter().map(|record| fact(&record.payload)).collect()
    }

    /// The runs of an agent that kinfold says have happened.
    pub fn committed(&self, device: usize, agent: &str, runs: &[&str]) -> Vec<String> {
        let state = &self.devices[device].state;
        let committed = runs.iter().filter(|run| state.committed(agent, run).is_some());
        committed.map(|run| (*run).to_owned()).collect()
    }

    /// Those that `car-sync` says have happened.
    pub fn car_committed(&self, device: usize, agent: &str) -> Vec<String> {
        let state = self.devices[device].session.state();
        state.committed_run_ids(agent).into_iter().map(str::to_owned).collect()
    }

    /// The transcript of kinfold.
    pub fn transcript(&self, device: usize) -> Vec<Recorded> {
        let events = self.devices[device].state.events(&Surface::Conversation, "c", None, usize::MAX);
        let turn = |dot: &Dot| Turn::parse(&self.payloads[dot]);
        events
            .iter()
            .map(|event| Recorded { dot: event.dot, hlc: event.hlc, turn: turn(&event.dot) })
            .collect()
    }

    /// The payloads of the transcript, as JSON.
    pub fn transcript_values(&self, device: usize) -> Vec<Value> {
        let turns = self.transcript(device);
        let value = |dot: &Dot| serde_json::from_str(self.payloads[dot].as_str()).expect("a payload is JSON");
        turns.iter().map(|turn| value(&turn.dot)).collect()
    }

    /// How many rows and facts kinfold lists as conflicts.
    pub fn conflict_count(&self, device: usize) -> u64 {
        self.devices[device].state.counts().conflicts
    }

    /// The session of a device.
    pub fn session(&self, device: usize) -> &SyncSession {
        &self.devices[device].session
    }
}

impl Device {
    fn take(&mut self, log: LogId, op: DraftOp, wall: u64) {
        let DraftOp { seq, hlc, kind, flags, body } = &op;
        self.state.apply(&log, &FrameView { seq: *seq, hlc: *hlc, kind: *kind, flags: *flags, body });
        if log != self.author.log() {
            self.author.observe(*hlc, Wall::from_millis(wall));
        }
        self.held.entry(log).or_default().push(op);
    }
}

/// What a write is on either side.
fn forms(write: &Write) -> (CarSurface, Value, Op) {
    let payload = |value: &Value| Payload::parse(&value.to_string()).expect("small and sound");
    let kind = || CarSurface::Registry { kind: "note".to_owned() };
    match write {
        Write::Put { key, value } => {
            let json = serde_json::json!({"id": key, "value": value});
            let op = Op::Put {
                surface: note(),
                key: key.as_str().into(),
                preds: Vec::new(),
                payload: payload(&json),
            };
            (kind(), json, op)
        }
        Write::Delete { key } => {
            let json = serde_json::json!({"id": key, "deleted": true});
            (kind(), json, Op::Delete { surface: note(), key: key.as_str().into(), preds: Vec::new() })
        }
        Write::Fact { key, value } => {
            let json = serde_json::json!({"id": key, "value": value});
            let op =
                Op::Fact { surface: Surface::Knowledge, key: key.as_str().into(), payload: payload(&json) };
            (CarSurface::Knowledge, json, op)
        }
        Write::Intent { agent, run, epoch, status } => {
            let car = match *status {
                "committed" => CarStatus::Committed,
                "failed" => CarStatus::Failed,
                _ => CarStatus::Pending,
            };
            let op = Op::Intent {
                agent: agent.parse().expect("a short name"),
                run: run.parse().expect("a short name"),
                epoch: LeaseEpoch::new(*epoch).expect("a small token"),
                cert: CertHash::NONE,
                status: status.parse().expect("one of the three"),
                payload: payload(&serde_json::json!({})),
            };
            (CarSurface::Intent, CarIntent::new(agent, run, *epoch, car).payload(), op)
        }
        Write::Turn(json) => {
            let op = Op::Event { surface: Surface::Conversation, stream: "c".into(), payload: payload(json) };
            (CarSurface::Conversation, json.clone(), op)
        }
    }
}

fn note() -> Surface {
    "registry:note".parse().expect("a kind of one word")
}

const SPACE: SpaceId = SpaceId::from_bytes([3; 32]);

/// Some time in 2026.
const START: u64 = 1_780_000_000_000;
