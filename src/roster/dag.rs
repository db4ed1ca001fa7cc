//! The records of one space as a DAG: who is admitted, in which order they count, what waits.
//!
//! **Admission is final and the same everywhere.** It depends on a record's form, signature and
//! space, and on the records it names, directly or through others: its *past*. An `AddDevice`
//! needs an author whom its past makes an admin; any other kind needs an author whom its past
//! makes a device of the space. Only kinds 1 and 2 grant anything, in this version and in every
//! later one: all others, removals too, take effect in the fold by making records void or by adding
//! facts, never by refusing records. So versions and arrival orders hold equal sets, and equal sets
//! have equal digests.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::content::Content;
use super::nodes::NodeSet;
use super::record::{Record, RecordError, record_hash};
use super::role::Role;
use crate::model::limits::{RECORD_BYTES_MAX, RECORD_PARENTS_MAX, RECORDS_MAX};
use crate::model::{DeviceId, Hlc, RecordHash, SpaceId};

/// The admitted records, and those that wait for a record they name.
#[derive(Clone, Debug)]
pub(super) struct Dag {
    space: SpaceId,
    /// In order of admission: parents before children.
    nodes: Vec<Node>,
    index: BTreeMap<RecordHash, usize>,
    /// Node indices in the order that records count.
    order: BTreeMap<OrderKey, usize>,
    /// Records no other names.
    heads: BTreeSet<RecordHash>,
    /// Which records give a device a role.
    grants: BTreeMap<DeviceId, Vec<(usize, Role)>>,
    parked: BTreeMap<RecordHash, Record>,
    /// Missing record → the parked ones that wait for it. Each waits for one at a time.
    waiting: BTreeMap<RecordHash, Vec<RecordHash>>,
}

/// Causal depth, then hlc, then hash: a record always counts after everything its author had seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct OrderKey(u32, Hlc, RecordHash);

/// An admitted record with all that it had seen, itself included.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub record: Record,
    pub past: NodeSet,
    depth: u32,
}

/// What became of a record given to [`Dag::offer`].
pub(super) enum Offer {
    /// Admitted, with those that had waited for it, parents first.
    Admitted(Vec<RecordHash>),
    Duplicate,
    Parked,
}

impl Dag {
    pub const fn new(space: SpaceId) -> Self {
        Self {
            space,
            nodes: Vec::new(),
            index: BTreeMap::new(),
            order: BTreeMap::new(),
            heads: BTreeSet::new(),
            grants: BTreeMap::new(),
            parked: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// Admits a record, or keeps it until the records it names are there.
    ///
    /// A parked record whose right turns out missing is dropped: its sender is no longer known,
    /// and whoever else holds it refuses it too.
    ///
    /// # Errors
    /// Every variant of [`RecordError`]; nothing has changed then.
    pub fn offer(&mut self, bytes: Bytes, parked_max: usize) -> Result<Offer, RecordError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(RecordError::TooLong { found: bytes.len(), limit: RECORD_BYTES_MAX });
        }
        // Before the signature is checked: duplicates are the common case and cost a hash only.
        let hash = record_hash(&bytes);
        if self.index.contains_key(&hash) {
            return Ok(Offer::Duplicate);
        }
        if self.parked.contains_key(&hash) {
            return Ok(Offer::Parked);
        }
        let record = Record::read(bytes)?;
        if record.space() != self.space {
            return Err(RecordError::OtherSpace { expected: self.space, found: record.space() });
        }
        if let Some(missing) = self.missing_parent(&record) {
            if self.parked.len() >= parked_max {
                return Err(RecordError::TooManyParked { limit: parked_max });
            }
            self.park(record, missing);
            return Ok(Offer::Parked);
        }
        self.insert(record)?;
        let mut admitted = vec![hash];
        let mut next = 0;
        while let Some(hash) = admitted.get(next).copied() {
            self.unpark(&hash, &mut admitted);
            next += 1;
        }
        Ok(Offer::Admitted(admitted))
    }

    pub const fn space(&self) -> SpaceId {
        self.space
    }

    pub const fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn parked_count(&self) -> usize {
        self.parked.len()
    }

    pub fn record(&self, hash: &RecordHash) -> Option<&Record> {
        self.index.get(hash).map(|at| &self.nodes[*at].record)
    }

    /// The records in the order they count; a parent always comes before its children.
    pub fn in_order(&self) -> impl Iterator<Item = &Record> {
        self.order.values().map(|at| &self.nodes[*at].record)
    }

    /// The node indices in the order their records count. An index is this device's own: it follows
    /// from the order of arrival, so nothing that must be equal everywhere may depend on it.
    pub fn ranked(&self) -> impl Iterator<Item = usize> {
        self.order.values().copied()
    }

    /// The node at an index that [`Dag::ranked`] or [`Dag::index_of`] gave.
    pub fn node(&self, at: usize) -> &Node {
        &self.nodes[at]
    }

    pub fn index_of(&self, hash: &RecordHash) -> Option<usize> {
        self.index.get(hash).copied()
    }

    /// The past of any of these nodes, each without itself.
    pub fn seen_among(&self, nodes: impl Iterator<Item = usize>) -> NodeSet {
        let mut seen = NodeSet::default();
        for at in nodes {
            let is_seen = seen.contains(at);
            seen.merge(&self.nodes[at].past);
            if !is_seen {
                seen.remove(at);
            }
        }
        seen
    }

    /// All that a record with these parents would have seen; `None` where one of them is not here.
    pub fn seen_by(&self, parents: &[RecordHash]) -> Option<NodeSet> {
        let mut past = NodeSet::default();
        for parent in parents {
            past.merge(&self.nodes[self.index_of(parent)?].past);
        }
        Some(past)
    }

    /// The hashes of the admitted records, rising.
    pub fn hashes(&self) -> impl Iterator<Item = RecordHash> {
        self.index.keys().copied()
    }

    /// What a new record names as its parents, strictly rising.
    ///
    /// All heads where they fit. Where they do not, one that had seen `right`, the record its author
    /// is entitled by, comes first: without it in its past the new record would count for nothing.
    pub fn parents_for(&self, right: Option<usize>) -> Vec<RecordHash> {
        let mut heads: Vec<(bool, OrderKey)> = self
            .heads
            .iter()
            .map(|hash| {
                let node = &self.nodes[self.index[hash]];
                (right.is_some_and(|at| node.past.contains(at)), Self::order_key(node))
            })
            .collect();
        heads.sort_unstable_by(|a, b| b.cmp(a));
        heads.truncate(RECORD_PARENTS_MAX);
        let mut parents: Vec<RecordHash> = heads.into_iter().map(|(_, key)| key.2).collect();
        parents.sort_unstable();
        parents
    }

    fn missing_parent(&self, record: &Record) -> Option<RecordHash> {
        record.parents().iter().find(|parent| !self.index.contains_key(parent)).copied()
    }

    fn park(&mut self, record: Record, missing: RecordHash) {
        self.waiting.entry(missing).or_default().push(record.hash());
        self.parked.insert(record.hash(), record);
    }

    /// Looks again at what waited for `arrived`, and names what that admits.
    fn unpark(&mut self, arrived: &RecordHash, admitted: &mut Vec<RecordHash>) {
        for hash in self.waiting.remove(arrived).unwrap_or_default() {
            let record = self.parked.remove(&hash).expect("whatever waits is parked");
            if let Some(missing) = self.missing_parent(&record) {
                self.park(record, missing);
            } else if self.insert(record).is_ok() {
                admitted.push(hash);
            }
        }
    }

    /// Admits a record whose parents are all here.
    fn insert(&mut self, record: Record) -> Result<(), RecordError> {
        if self.nodes.len() >= RECORDS_MAX {
            return Err(RecordError::TooManyRecords { limit: RECORDS_MAX });
        }
        let mut past = NodeSet::default();
        let mut depth = 0;
        for parent in record.parents() {
            let parent = &self.nodes[self.index[parent]];
            past.merge(&parent.past);
            depth = depth.max(parent.depth + 1);
        }
        self.check_right(&record, &past)?;

        let at = self.nodes.len();
        past.insert(at);
        if let Some((device, role)) = grant(&record) {
            self.grants.entry(device).or_default().push((at, role));
        }
        for parent in record.parents() {
            self.heads.remove(parent);
        }
        // Children arrive after their parents, so nothing here names the new record yet.
        self.heads.insert(record.hash());
        self.index.insert(record.hash(), at);
        let node = Node { record, depth, past };
        self.order.insert(Self::order_key(&node), at);
        self.nodes.push(node);
        Ok(())
    }

    fn check_right(&self, record: &Record, past: &NodeSet) -> Result<(), RecordError> {
        let author = record.author();
        match (record.content(), self.greatest_role(&author, past)) {
            // Its hash is the space id: whoever trusts the space trusts its founder.
            (Content::Genesis(_), _) => Ok(()),
            (Content::AddDevice(_), Some(Role::Admin)) => Ok(()),
            (Content::AddDevice(_), Some(Role::Member | Role::Blind) | None) => {
                Err(RecordError::NotAdmin { author })
            }
            // Whether these take effect is for the fold to say, so that it can be said again.
            (
                Content::RemoveDevice(_)
                | Content::Rename(_)
                | Content::Dormant(_)
                | Content::Active(_)
                | Content::RotateKey(_)
                | Content::DesignateHost(_)
                | Content::SelectBranch(_)
                | Content::Unknown { .. },
                role,
            ) => role.map(drop).ok_or(RecordError::NotMember { author }),
        }
    }

    fn greatest_role(&self, device: &DeviceId, past: &NodeSet) -> Option<Role> {
        let grants = self.grants.get(device)?;
        grants.iter().filter(|(at, _)| past.contains(*at)).map(|(_, role)| *role).max()
    }

    const fn order_key(node: &Node) -> OrderKey {
        OrderKey(node.depth, node.record.hlc(), node.record.hash())
    }

    /// Makes the roster full with copies of one record: only their number matters to a test.
    #[cfg(test)]
    pub fn fill(&mut self) {
        let node = self.nodes[0].clone();
        self.nodes.resize(RECORDS_MAX, node);
    }
}

/// The device a record makes part of the space, and as what.
pub(super) const fn grant(record: &Record) -> Option<(DeviceId, Role)> {
    match record.content() {
        Content::Genesis(_) => Some((record.author(), Role::Admin)),
        Content::AddDevice(added) => Some((added.device, added.role)),
        Content::RemoveDevice(_)
        | Content::Rename(_)
        | Content::Dormant(_)
        | Content::Active(_)
        | Content::RotateKey(_)
        | Content::DesignateHost(_)
        | Content::SelectBranch(_)
        | Content::Unknown { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::content::{AddDevice, Genesis, SealedName};
    use super::super::record::{Draft, NO_SPACE};
    use super::*;
    use crate::crypto::Identity;
    use crate::model::limits::RECORDS_PARKED_MAX;
    use crate::model::{KeyId, Scope};
    use proptest::prelude::*;

    fn identity(seed: u8) -> Identity {
        Identity::from_secret(&[seed + 1; 32])
    }

    fn name() -> SealedName {
        SealedName { key_id: KeyId::from_bytes([3; 16]), blob: Bytes::from_static(&[4; 90]) }
    }

    /// The genesis of device 0, and its space.
    fn genesis() -> (Bytes, SpaceId) {
        let draft = Draft {
            space: NO_SPACE,
            author: identity(0).device(),
            hlc: Hlc::new(1),
            parents: Vec::new(),
            content: Content::Genesis(Genesis { scope: Scope::Personal, nonce: [0; 32], name: name() }),
        };
        let bytes = Record::sign(&identity(0), &draft);
        let space = SpaceId::from_bytes(*record_hash(&bytes).as_bytes());
        (bytes, space)
    }

    fn record(space: SpaceId, by: u8, hlc: u64, parents: &[RecordHash], content: Content) -> Bytes {
        let mut parents = parents.to_vec();
        parents.sort_unstable();
        parents.dedup();
        let draft = Draft { space, author: identity(by).device(), hlc: Hlc::new(hlc), parents, content };
        Record::sign(&identity(by), &draft)
    }

    fn unknown() -> Content {
        Content::Unknown { kind: 99, body: Bytes::from_static(b"later") }
    }

    fn add(device: u8, role: Role) -> Content {
        Content::AddDevice(AddDevice { device: identity(device).device(), role, name: name() })
    }

    #[test]
    fn what_waits_is_bounded() {
        let (genesis, space) = genesis();
        let mut dag = Dag::new(space);
        let nowhere = [RecordHash::from_bytes([9; 32])];
        for hlc in 0..RECORDS_PARKED_MAX as u64 {
            let bytes = record(space, 0, hlc, &nowhere, unknown());
            assert!(matches!(dag.offer(bytes, RECORDS_PARKED_MAX), Ok(Offer::Parked)));
        }

        let one_more = record(space, 0, u64::MAX, &nowhere, unknown());

        assert_eq!(
            dag.offer(one_more, RECORDS_PARKED_MAX).err(),
            Some(RecordError::TooManyParked { limit: RECORDS_PARKED_MAX })
        );
        assert!(matches!(dag.offer(genesis, RECORDS_PARKED_MAX), Ok(Offer::Admitted(_))));
    }

    #[test]
    fn the_roster_is_bounded() {
        let (bytes, space) = genesis();
        let mut dag = Dag::new(space);
        dag.offer(bytes.clone(), 0).map(drop).unwrap();
        dag.fill();

        let one_more = record(space, 0, 5, &[record_hash(&bytes)], unknown());

        assert_eq!(dag.offer(one_more, 0).err(), Some(RecordError::TooManyRecords { limit: RECORDS_MAX }));
    }

    /// One step of a random history: who writes what, naming which of the records so far.
    #[derive(Clone, Debug)]
    struct Step {
        by: u8,
        hlc: u64,
        parents: Vec<usize>,
        content: Content,
    }

    fn step() -> impl Strategy<Value = Step> {
        let role = prop_oneof![Just(Role::Admin), Just(Role::Admin), Just(Role::Member), Just(Role::Blind)];
        let content = prop_oneof![
            5 => (0u8..5, role).prop_map(|(device, role)| add(device, role)),
            1 => Just(unknown()),
        ];
        (0u8..5, 0u64..6, proptest::collection::vec(any::<usize>(), 1..4), content)
            .prop_map(|(by, hlc, parents, content)| Step { by, hlc, parents, content })
    }

    fn build(steps: &[Step]) -> (SpaceId, Vec<Bytes>) {
        let (genesis, space) = genesis();
        let mut records = vec![genesis];
        for step in steps {
            let parents: Vec<RecordHash> = step
                .parents
                .iter()
                .map(|pick| record_hash(&records[records.len() - 1 - pick % records.len().min(6)]))
                .collect();
            records.push(record(space, step.by, step.hlc, &parents, step.content.clone()));
        }
        (space, records)
    }

    /// The rules said again, slowly: a record counts if its parents do and its author has the right
    /// among all that it names, directly or not.
    fn model(records: &[Bytes]) -> BTreeSet<RecordHash> {
        let mut counted: BTreeMap<RecordHash, (Record, BTreeSet<RecordHash>)> = BTreeMap::new();
        for bytes in records {
            let record = Record::read(bytes.clone()).unwrap();
            if !record.parents().iter().all(|parent| counted.contains_key(parent)) {
                continue;
            }
            let mut past: BTreeSet<RecordHash> = record.parents().iter().copied().collect();
            for parent in record.parents() {
                past.extend(&counted[parent].1);
            }
            let role = past
                .iter()
                .filter_map(|hash| grant(&counted[hash].0))
                .filter(|(device, _)| *device == record.author())
                .map(|(_, role)| role)
                .max();
            let counts = match record.content() {
                Content::Genesis(_) => true,
                Content::AddDevice(_) => role == Some(Role::Admin),
                _ => role.is_some(),
            };
            if counts {
                counted.insert(record.hash(), (record, past));
            }
        }
        counted.into_keys().collect()
    }

    proptest! {
        #[test]
        fn any_arrival_order_gives_the_set_and_order_the_rules_give(
            steps in proptest::collection::vec(step(), 0..40),
            orders in proptest::collection::vec(any::<proptest::sample::Index>(), 160),
        ) {
            let (space, records) = build(&steps);
            let expect = model(&records);

            let mut in_order = Vec::new();
            for order in orders.chunks(80) {
                let mut dag = Dag::new(space);
                let mut left: Vec<Bytes> = records.iter().chain(&records).cloned().collect();
                for pick in order.iter().cycle() {
                    if left.is_empty() {
                        break;
                    }
                    let bytes = left.swap_remove(pick.index(left.len()));
                    let mut spoiled = bytes.to_vec();
                    *spoiled.last_mut().unwrap() ^= 1;
                    prop_assert!(!matches!(dag.offer(spoiled.into(), 99), Ok(Offer::Admitted(_))));
                    let _ = dag.offer(bytes, 99);
                }
                prop_assert_eq!(dag.hashes().collect::<BTreeSet<_>>(), expect.clone());
                in_order.push(dag.in_order().map(Record::hash).collect::<Vec<_>>());
            }
            prop_assert_eq!(&in_order[0], &in_order[1]);
            let place = |hash: &RecordHash| in_order[0].iter().position(|other| other == hash);
            for bytes in &records {
                let record = Record::read(bytes.clone()).unwrap();
                if let Some(at) = place(&record.hash()) {
                    prop_assert!(record.parents().iter().all(|parent| place(parent) < Some(at)));
                }
            }
        }
    }
}
