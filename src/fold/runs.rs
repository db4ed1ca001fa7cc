//! Reading the ledger: what of the intents of a run counts, given the chain of certificates.
//!
//! - **Ended.** The least committed intent of a run, by total order, says that it happened; there is
//!   no way back, and no token matters. Where there is none, the least failed one ends it.
//! - **Held.** Of the pending intents of a run that has not ended, the one with the greatest token
//!   counts; of several with that token the least.
//! - **Token.** Tokens compare by (position of the certificate on the chain, epoch). A token without a
//!   certificate stands at the position of its term. A certificate that is not on the chain is of a
//!   forked lineage and compares with nothing.
//! - **Fenced.** A pending intent below the greatest token of its *agent*, in whichever run, or of a
//!   forked lineage, holds nothing.
//!
//! What does not count and has not been overtaken by its own author is a conflict: see [`Standing`].

use super::key::Key;
use super::ledger::{Intent, Ledger, Run};
use super::query::{Conflict, Head, RowView};
use super::state::State;
use super::tables::{Rows, Table};
use crate::model::{CertHash, DeviceId, IntentStatus, LeaseEpoch, Surface, intent_key, split_intent_key};

/// The adopted chain of certificates of the hosts that give out tokens.
pub trait Lineage {
    /// How far from its beginning a certificate stands on the chain; `None` where it is not on it.
    /// [`CertHash::NONE`] is never asked for.
    fn position(&self, cert: &CertHash) -> Option<u64>;
}

impl<F: Fn(&CertHash) -> Option<u64>> Lineage for F {
    fn position(&self, cert: &CertHash) -> Option<u64> {
        self(cert)
    }
}

/// No certificate has been adopted: only tokens without one compare.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoChain;

impl Lineage for NoChain {
    fn position(&self, _: &CertHash) -> Option<u64> {
        None
    }
}

/// A token where it stands on the chain; their order is the order of tokens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PlacedToken {
    /// The position of its certificate.
    pub position: u64,
    /// The token.
    pub epoch: LeaseEpoch,
}

impl PlacedToken {
    /// Places a token; `None` for one of a forked lineage.
    pub fn place(epoch: LeaseEpoch, cert: &CertHash, lineage: &dyn Lineage) -> Option<Self> {
        let position =
            if *cert == CertHash::NONE { u64::from(epoch.term()) } else { lineage.position(cert)? };
        Some(Self { position, epoch })
    }
}

/// What became of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunStatus {
    /// It happened.
    Committed,
    /// It ended without its effect.
    Failed,
    /// Whoever holds the shown token is about to run it, or runs it.
    Pending,
    /// It was begun under tokens that are void by now, and nobody said how it ended.
    Fenced,
}

/// How one intent stands beside what its run shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It is what the run shows.
    Shown,
    /// It contradicts nothing: said again, or overtaken by what its own author or holder said later.
    Past,
    /// A pending one below the greatest token of its agent: a conflict.
    Fenced,
    /// A pending one under a certificate that is not on the chain: a conflict.
    ForkedLineage,
    /// A pending one of another device with the token that holds the run: a conflict.
    Rival,
    /// The run ended otherwise, or under another token: a conflict.
    Disagrees,
}

impl Standing {
    /// Whether it is a losing value to be listed.
    pub const fn is_conflict(self) -> bool {
        match self {
            Self::Shown | Self::Past => false,
            Self::Fenced | Self::ForkedLineage | Self::Rival | Self::Disagrees => true,
        }
    }
}

/// One intent of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IntentView {
    /// Its op.
    pub head: Head,
    /// The token it names.
    pub epoch: LeaseEpoch,
    /// The certificate of the host that gave the token.
    pub cert: CertHash,
    /// What it says.
    pub status: IntentStatus,
    /// What that is worth; the shown one of a run that is fenced is not [`Standing::Shown`].
    pub standing: Standing,
}

/// One run of an agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunView {
    /// The agent.
    pub agent: String,
    /// The run.
    pub run: String,
    /// What became of it.
    pub status: RunStatus,
    intents: Vec<IntentView>,
}

impl RunView {
    /// The intent that says so.
    pub fn shown(&self) -> &IntentView {
        &self.intents[0]
    }

    /// Every intent: the shown one, then the others in total order.
    pub fn intents(&self) -> &[IntentView] {
        &self.intents
    }

    /// Whether an intent of it lost.
    pub fn is_conflict(&self) -> bool {
        self.intents.iter().any(|intent| intent.standing.is_conflict())
    }

    /// What the run shows and, behind it, every losing intent: the shown one once more where it is
    /// itself void. `None` where nothing lost.
    fn row(&self) -> Option<RowView> {
        let losers = self.intents.iter().filter(|intent| intent.standing.is_conflict());
        let heads: Vec<Head> =
            std::iter::once(self.shown()).chain(losers).map(|intent| intent.head).collect();
        (heads.len() > 1).then(|| RowView::contested(heads))
    }
}

/// What stands against an intent that is about to be recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Objection {
    /// The run has happened.
    AlreadyCommitted {
        /// The op that says so.
        by: Head,
    },
    /// The run ended without its effect; another attempt is another run.
    AlreadyFailed {
        /// The op that says so.
        by: Head,
    },
    /// The agent has been seen with a greater token.
    Fenced {
        /// The token given.
        claimed: LeaseEpoch,
        /// The greatest one.
        current: LeaseEpoch,
    },
    /// The certificate is not on the adopted chain.
    ForkedLineage,
}

impl State {
    /// What became of a run; `None` where no intent names it.
    pub fn run_state(&self, agent: &str, run: &str, lineage: &dyn Lineage) -> Option<RunView> {
        let (table, ledger) = self.ledger_table()?;
        let key = Key::new(&intent_key(agent, run));
        let (key, run) = ledger.runs().get_key_value(&key)?;
        let greatest = greatest(ledger, agent, lineage);
        Some(self.run_view(table, ledger, key, run, greatest, lineage))
    }

    /// Up to `limit` runs of an agent whose names follow `after`, in the order of their names.
    pub fn ledger(
        &self,
        agent: &str,
        lineage: &dyn Lineage,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<RunView> {
        let Some((table, ledger)) = self.ledger_table() else { return Vec::new() };
        let greatest = greatest(ledger, agent, lineage);
        let page = ledger.runs_of(agent, after).take(limit);
        page.map(|(key, run)| self.run_view(table, ledger, key, run, greatest, lineage)).collect()
    }

    /// Up to `limit` agents that intents name and whose names follow `after`, in their order.
    pub fn agents(&self, after: Option<&str>, limit: usize) -> Vec<String> {
        let Some((_, ledger)) = self.ledger_table() else { return Vec::new() };
        ledger.agents(after).take(limit).map(str::to_owned).collect()
    }

    /// The op that says a run has happened: kept for ever, whatever tokens and chain.
    pub fn committed(&self, agent: &str, run: &str) -> Option<Head> {
        self.ended(agent, run, IntentStatus::Committed)
    }

    /// The greatest token an agent was seen with on the chain; `None` where it was with none.
    pub fn greatest_token(&self, agent: &str, lineage: &dyn Lineage) -> Option<PlacedToken> {
        greatest(self.ledger_table()?.1, agent, lineage)
    }

    /// What stands against recording an intent, by all that is folded.
    pub fn objection(
        &self,
        (agent, run): (&str, &str),
        (epoch, cert): (LeaseEpoch, &CertHash),
        lineage: &dyn Lineage,
    ) -> Option<Objection> {
        if let Some(by) = self.committed(agent, run) {
            return Some(Objection::AlreadyCommitted { by });
        }
        if let Some(by) = self.ended(agent, run, IntentStatus::Failed) {
            return Some(Objection::AlreadyFailed { by });
        }
        let Some(claimed) = PlacedToken::place(epoch, cert, lineage) else {
            return Some(Objection::ForkedLineage);
        };
        let current = self.greatest_token(agent, lineage).filter(|current| claimed < *current)?;
        Some(Objection::Fenced { claimed: epoch, current: current.epoch })
    }

    /// How many runs hold an intent that lost. Costs a look at every run that has not ended plainly.
    pub fn intent_conflict_count(&self, lineage: &dyn Lineage) -> u64 {
        self.intent_conflicts(None, lineage).count() as u64
    }

    /// The runs that hold an intent that lost, in the order of their keys.
    pub(super) fn intent_conflicts<'a>(
        &'a self,
        after: Option<&str>,
        lineage: &'a dyn Lineage,
    ) -> impl Iterator<Item = Conflict> {
        let open = self.ledger_table().map(|(table, ledger)| {
            let from = super::query::beyond(after);
            ledger.open().range(from).filter_map(move |key| {
                let run = ledger.runs().get(key).expect("an open run is there");
                let agent = names(key).0;
                let view = self.run_view(table, ledger, key, run, greatest(ledger, agent, lineage), lineage);
                let key = key.as_str().to_owned();
                let row = view.row()?;
                let is_open = self.is_open(&Surface::Intent, &key, &row);
                is_open.then_some(Conflict { surface: Surface::Intent, key, row })
            })
        });
        open.into_iter().flatten()
    }

    fn ended(&self, agent: &str, run: &str, status: IntentStatus) -> Option<Head> {
        let (table, ledger) = self.ledger_table()?;
        let key = intent_key(agent, run);
        let run = ledger.runs().get(&Key::new(&key))?;
        let by = run.intents().iter().find(|intent| intent.status == status)?;
        Some(self.view(table, &key).head(&by.entry))
    }

    fn ledger_table(&self) -> Option<(&Table, &Ledger)> {
        let table = self.tables.find(&Surface::Intent)?;
        match &table.rows {
            Rows::Ledger(ledger) => Some((table, ledger)),
            Rows::Registers(_) | Rows::Facts(_) | Rows::Streams(_) => None,
        }
    }

    fn run_view(
        &self,
        table: &Table,
        ledger: &Ledger,
        key: &Key,
        run: &Run,
        greatest: Option<PlacedToken>,
        lineage: &dyn Lineage,
    ) -> RunView {
        let place =
            |intent: &Intent| PlacedToken::place(intent.epoch, ledger.cert_hash(intent.cert), lineage);
        let tokens: Vec<_> = run.intents().iter().map(place).collect();
        let judge = Judge { intents: run.intents(), tokens: &tokens, greatest, state: self };
        let (status, shown) = judge.status();
        let view = self.view(table, key.as_str());
        let mut intents: Vec<IntentView> = (0..run.intents().len())
            .map(|at| {
                let intent = &run.intents()[at];
                IntentView {
                    head: view.head(&intent.entry),
                    epoch: intent.epoch,
                    cert: *ledger.cert_hash(intent.cert),
                    status: intent.status,
                    standing: judge.standing(at, status, shown),
                }
            })
            .collect();
        let first = intents.remove(shown);
        intents.insert(0, first);
        let (agent, run) = names(key);
        RunView { agent: agent.to_owned(), run: run.to_owned(), status, intents }
    }
}

/// Decides over the intents of one run, which stand in total order.
struct Judge<'a> {
    intents: &'a [Intent],
    tokens: &'a [Option<PlacedToken>],
    /// The greatest token of the agent.
    greatest: Option<PlacedToken>,
    state: &'a State,
}

impl Judge<'_> {
    /// What became of the run, and which intent says so.
    fn status(&self) -> (RunStatus, usize) {
        let first = |status| self.intents.iter().position(|intent| intent.status == status);
        if let Some(at) = first(IntentStatus::Committed) {
            return (RunStatus::Committed, at);
        }
        if let Some(at) = first(IntentStatus::Failed) {
            return (RunStatus::Failed, at);
        }
        // Of several with the greatest token the first by total order; the last where none compares.
        let holder = (0..self.tokens.len()).rev().max_by_key(|at| self.tokens[*at]);
        let at = holder.expect("a run has an intent");
        match self.tokens[at] {
            Some(token) if Some(token) == self.greatest => (RunStatus::Pending, at),
            Some(_) => (RunStatus::Fenced, at),
            None => (RunStatus::Fenced, self.tokens.len() - 1),
        }
    }

    fn standing(&self, at: usize, status: RunStatus, shown: usize) -> Standing {
        let intent = &self.intents[at];
        if at == shown && status != RunStatus::Fenced {
            return Standing::Shown;
        }
        match (intent.status, status) {
            (IntentStatus::Committed, _) if self.is_same_token(at, shown) => Standing::Past,
            (IntentStatus::Failed, RunStatus::Failed) => Standing::Past,
            (IntentStatus::Committed | IntentStatus::Failed, _) => Standing::Disagrees,
            (IntentStatus::Pending, _) if self.is_overtaken(at) => Standing::Past,
            (IntentStatus::Pending, _) => match self.tokens[at] {
                None => Standing::ForkedLineage,
                Some(token) if self.greatest.is_some_and(|greatest| token < greatest) => Standing::Fenced,
                Some(_) if status != RunStatus::Pending => Standing::Disagrees,
                Some(_) if self.device(at) == self.device(shown) => Standing::Past,
                Some(_) => Standing::Rival,
            },
        }
    }

    /// Whether the run ended under the token of a pending intent, or its device said something later
    /// of the run under no lesser token: a device has seen what it wrote itself.
    fn is_overtaken(&self, at: usize) -> bool {
        let ended = |other: usize| self.intents[other].status.is_terminal() && self.is_same_token(at, other);
        let later = |other: usize| {
            at < other && self.device(at) == self.device(other) && self.tokens[at] <= self.tokens[other]
        };
        (0..self.intents.len()).any(|other| ended(other) || later(other))
    }

    fn device(&self, at: usize) -> DeviceId {
        self.state.logs.id(self.intents[at].entry.log).device
    }

    fn is_same_token(&self, at: usize, other: usize) -> bool {
        let token = |at: usize| (self.intents[at].epoch, self.intents[at].cert);
        token(at) == token(other)
    }
}

fn greatest(ledger: &Ledger, agent: &str, lineage: &dyn Lineage) -> Option<PlacedToken> {
    ledger.greatest(agent).filter_map(|(cert, epoch)| PlacedToken::place(epoch, cert, lineage)).max()
}

fn names(key: &Key) -> (&str, &str) {
    split_intent_key(key.as_str()).expect("the ledger holds keys of runs only")
}

#[cfg(test)]
mod tests {
    use super::super::reference::{OFF_CHAIN, ON_CHAIN, SPACE, Written, chain, log, written};
    use super::*;
    use crate::model::{Dot, Hlc, Op, Payload, Seq};

    use IntentStatus::{Committed, Failed, Pending};

    fn token(term: u32, n: u32) -> LeaseEpoch {
        LeaseEpoch::of(term, n).unwrap()
    }

    /// The ops of one test: each under the next number of its device's log.
    #[derive(Default)]
    struct Told(Vec<Written>);

    impl Told {
        fn under(
            &mut self,
            cert: CertHash,
            device: usize,
            run: &str,
            epoch: LeaseEpoch,
            status: IntentStatus,
        ) -> Dot {
            let seq = 1 + self.0.iter().filter(|op| op.dot.log == log(device)).count() as u64;
            let dot = Dot { log: log(device), seq: Seq::new(seq) };
            let op = Op::Intent {
                agent: "backup".parse().unwrap(),
                run: run.parse().unwrap(),
                epoch,
                cert,
                status,
                payload: Payload::parse("null").unwrap(),
            };
            self.0.push(written(dot, 10 + self.0.len() as u64, op));
            dot
        }

        fn say(&mut self, device: usize, run: &str, epoch: LeaseEpoch, status: IntentStatus) -> Dot {
            self.under(CertHash::NONE, device, run, epoch, status)
        }

        /// The state after the ops, device by device in either order.
        fn states(&self) -> [State; 2] {
            let fold = |order: [usize; 2]| {
                let mut state = State::new(SPACE);
                for device in order {
                    let own = self.0.iter().filter(|op| op.dot.log == log(device));
                    for op in own {
                        state.apply(&op.dot.log, &op.frame());
                    }
                }
                state
            };
            [fold([0, 1]), fold([1, 0])]
        }
    }

    fn standings(view: &RunView) -> Vec<(Dot, Standing)> {
        view.intents().iter().map(|intent| (intent.head.dot, intent.standing)).collect()
    }

    #[test]
    fn a_lower_token_is_a_listed_fenced_conflict_whatever_the_order_of_arrival() {
        let mut told = Told::default();
        let stale = told.say(0, "monday", token(0, 1), Pending);
        let holder = told.say(1, "monday", token(0, 2), Pending);

        for state in told.states() {
            let run = state.run_state("backup", "monday", &NoChain).unwrap();
            assert_eq!(run.status, RunStatus::Pending);
            assert_eq!(standings(&run), [(holder, Standing::Shown), (stale, Standing::Fenced)]);
            let [conflict] = &state.conflicts(None, 9, &NoChain)[..] else { panic!("one run") };
            assert_eq!((&conflict.surface, &*conflict.key), (&Surface::Intent, "backup\u{1f}monday"));
            assert_eq!((conflict.row.shown().dot, conflict.row.others()[0].dot), (holder, stale));
            assert!(conflict.row.is_conflict());
        }
    }

    #[test]
    fn a_token_of_another_run_fences_a_run_that_nobody_ended() {
        let mut told = Told::default();
        let stale = told.say(0, "monday", token(0, 1), Pending);
        told.say(1, "tuesday", token(0, 2), Pending);

        for state in told.states() {
            let run = state.run_state("backup", "monday", &NoChain).unwrap();
            assert_eq!((run.status, run.shown().standing), (RunStatus::Fenced, Standing::Fenced));
            let [conflict] = &state.conflicts(None, 9, &NoChain)[..] else { panic!("one run") };
            assert_eq!((conflict.row.shown().dot, conflict.row.others()[0].dot), (stale, stale));
            assert_eq!(state.intent_conflict_count(&NoChain), 1);
        }
        told.say(0, "monday", token(0, 1), Failed);
        for state in told.states() {
            assert_eq!(state.intent_conflict_count(&NoChain), 0, "its holder said how it ended");
        }
    }

    #[test]
    fn what_happened_stays_whatever_tokens_come_later() {
        let mut told = Told::default();
        told.say(0, "monday", token(0, 1), Pending);
        let commit = told.say(0, "monday", token(0, 1), Committed);
        let late = told.say(1, "monday", token(0, 9), Pending);
        let failed = told.say(1, "monday", token(0, 9), Failed);

        for state in told.states() {
            let run = state.run_state("backup", "monday", &NoChain).unwrap();
            assert_eq!((run.status, run.shown().head.dot), (RunStatus::Committed, commit));
            let lost: Vec<_> =
                standings(&run).into_iter().filter(|(_, standing)| standing.is_conflict()).collect();
            assert_eq!(lost, [(failed, Standing::Disagrees)], "not {late:?}, which its holder ended");
            assert_eq!(state.committed("backup", "monday").map(|head| head.dot), Some(commit));
        }
    }

    #[test]
    fn two_commits_under_two_tokens_are_a_conflict_and_one_said_twice_is_none() {
        let mut told = Told::default();
        let first = told.say(0, "monday", token(0, 1), Committed);
        told.say(0, "monday", token(0, 1), Committed);
        assert!(told.states().iter().all(|state| state.intent_conflict_count(&NoChain) == 0));
        let second = told.say(1, "monday", token(0, 2), Committed);

        for state in told.states() {
            let [conflict] = &state.conflicts(None, 9, &NoChain)[..] else { panic!("one run") };
            let heads: Vec<_> = conflict.row.heads().iter().map(|head| head.dot).collect();
            assert_eq!(heads, [first, second]);
        }
    }

    #[test]
    fn two_devices_with_one_token_are_rivals_and_a_retry_of_one_device_is_not() {
        let mut told = Told::default();
        let first = told.say(0, "monday", token(0, 1), Pending);
        told.say(0, "monday", token(0, 1), Pending);
        assert!(told.states().iter().all(|state| state.intent_conflict_count(&NoChain) == 0));
        let rival = told.say(1, "monday", token(0, 1), Pending);

        for state in told.states() {
            let run = state.run_state("backup", "monday", &NoChain).unwrap();
            assert_eq!(run.shown().head.dot, first);
            let lost = standings(&run).into_iter().find(|(_, standing)| standing.is_conflict());
            assert_eq!(lost, Some((rival, Standing::Rival)));
        }
    }

    #[test]
    fn a_certificate_off_the_chain_holds_nothing_and_fences_nobody() {
        let mut told = Told::default();
        let forked = told.under(OFF_CHAIN, 0, "monday", token(9, 9), Pending);
        let holder = told.under(ON_CHAIN, 1, "monday", token(1, 1), Pending);
        let earlier = told.say(1, "tuesday", token(0, 7), Pending);

        for state in told.states() {
            let monday = state.run_state("backup", "monday", &chain).unwrap();
            assert_eq!((monday.status, monday.shown().cert), (RunStatus::Pending, ON_CHAIN));
            assert_eq!(standings(&monday), [(holder, Standing::Shown), (forked, Standing::ForkedLineage)]);
            let tuesday = state.run_state("backup", "tuesday", &chain).unwrap();
            assert_eq!(standings(&tuesday), [(earlier, Standing::Fenced)], "below term 1 of the chain");
            let greatest = PlacedToken { position: 1, epoch: token(1, 1) };
            assert_eq!(state.greatest_token("backup", &chain), Some(greatest));

            let unknown = state.run_state("backup", "monday", &NoChain).unwrap();
            assert_eq!(unknown.status, RunStatus::Fenced, "neither certificate is known");
            assert!(standings(&unknown).iter().all(|(_, standing)| *standing == Standing::ForkedLineage));
        }
        let [mut one, mut other] = told.states();
        assert_eq!(one.root(), other.root(), "no chain is part of the root");
    }

    #[test]
    fn what_stands_against_an_intent_is_said_in_the_order_that_matters() {
        let mut told = Told::default();
        let committed = told.say(0, "monday", token(0, 1), Committed);
        let failed = told.say(0, "tuesday", token(0, 2), Failed);
        told.say(0, "wednesday", token(0, 3), Pending);
        let [state, _] = told.states();
        let found = |run, epoch, cert: &CertHash| state.objection(("backup", run), (epoch, cert), &chain);

        let Some(Objection::AlreadyCommitted { by }) = found("monday", token(0, 1), &OFF_CHAIN) else {
            panic!("it happened, whatever the token");
        };
        assert_eq!(by.dot, committed);
        let Some(Objection::AlreadyFailed { by }) = found("tuesday", token(0, 9), &CertHash::NONE) else {
            panic!("it ended");
        };
        assert_eq!(by.dot, failed);
        let fenced = Objection::Fenced { claimed: token(0, 2), current: token(0, 3) };
        assert_eq!(found("wednesday", token(0, 2), &CertHash::NONE), Some(fenced));
        assert_eq!(found("wednesday", token(9, 9), &OFF_CHAIN), Some(Objection::ForkedLineage));
        assert_eq!(found("wednesday", token(0, 3), &CertHash::NONE), None);
        assert_eq!(found("thursday", token(1, 0), &ON_CHAIN), None);
        assert_eq!(state.objection(("other", "monday"), (token(0, 1), &CertHash::NONE), &NoChain), None);
    }

    #[test]
    fn the_golden_intents_fold_to_the_golden_root_and_snapshot() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/data/intent-v1.json")).unwrap();
        let mut told = Told::default();
        told.under(ON_CHAIN, 0, "monday", token(1, 7), Pending);
        told.under(ON_CHAIN, 0, "monday", token(1, 7), Committed);
        told.say(1, "tuesday", token(0, 3), Failed);

        let [mut state, _] = told.states();

        assert_eq!(state.root().to_string(), golden["root"].as_str().unwrap());
        let mut chunks = Vec::new();
        state.encode(&mut |chunk| chunks.push(chunk.to_vec()));
        let hex: String = chunks[0].iter().map(|byte| format!("{byte:02x}")).collect();
        let end = "0d".len() + 64;
        assert!(hex[..hex.len() - end].ends_with(golden["snapshot_surface"].as_str().unwrap()), "{hex}");
    }

    #[test]
    fn runs_and_agents_list_page_by_page_and_an_author_exceeds_what_it_saw_of_the_run() {
        let mut told = Told::default();
        for run in ["c", "a", "b"] {
            told.say(0, run, token(0, 1), Pending);
        }
        let [state, _] = told.states();

        let mut runs: Vec<String> = Vec::new();
        while let [view] = &state.ledger("backup", &NoChain, runs.last().map(String::as_str), 1)[..] {
            runs.push(view.run.clone());
        }
        assert_eq!(runs, ["a", "b", "c"]);
        assert_eq!(state.ledger("back", &NoChain, None, 9), []);
        assert_eq!(
            (state.agents(None, 9), state.agents(Some("backup"), 9)),
            (vec!["backup".to_owned()], vec![])
        );
        assert_eq!(state.seen(&Surface::Intent, "backup\u{1f}c").greatest, Hlc::new(10));
        assert_eq!(state.seen(&Surface::Intent, "backup\u{1f}d").greatest, Hlc::ZERO);
        assert_eq!(state.run_state("backup", "d", &NoChain), None);
        assert_eq!((state.counts().live_rows, state.counts().conflicts), (3, 0));
    }
}
