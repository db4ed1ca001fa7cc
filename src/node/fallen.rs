//! Histories of logs that have fallen: what no other log of the same device holds.
//!
//! The logs of a device may be long, so they are searched on a thread of its own, one question after the other.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{error, warn};

use super::based::first_state;
use super::checkpoint::strays::Readable;
use super::core::{Core, Job, chain_of};
use crate::model::{Frontier, LogId, Seq, SpaceId};
use crate::store::{KeyRing, Store, StoreError};
use crate::sync::{FoldRun, GivenBack, Input, Stored, StraySearch};

/// What is asked, in turn.
#[derive(Default)]
pub(super) struct Questions {
    waiting: VecDeque<Question>,
    is_asked: bool,
    /// How many ops of a log the last warning spoke of.
    warned: BTreeMap<(SpaceId, LogId), u64>,
}

struct Question {
    space: SpaceId,
    /// The log of which a history has fallen.
    log: LogId,
    about: About,
}

enum About {
    /// What is held here of it: how much of that is nowhere else?
    Held { after: Seq, through: Seq },
    /// Ops of it, of this device, that have come back: which of them are nowhere else?
    Back(Vec<(GivenBack, Vec<Stored>)>),
}

/// What a search looks at.
struct Held {
    store: Store,
    keys: KeyRing,
    frontier: Frontier,
    drafts: Vec<FoldRun>,
    is_over: Arc<AtomicBool>,
}

impl Core {
    /// Searches the other logs of its device for what is held of a history that has fallen.
    pub(super) fn search_elsewhere(&mut self, space: SpaceId, log: LogId, after: Seq, through: Seq) {
        self.ask_fallen(Question { space, log, about: About::Held { after, through } });
    }

    /// Has those of ops that have come back written again that no other own log holds.
    pub(super) fn sift(&mut self, space: SpaceId, given_back: GivenBack, ops: Vec<Stored>) {
        let log = given_back.log;
        let more = self.fallen.waiting.iter_mut().find_map(|question| match &mut question.about {
            About::Back(pieces) if (question.space, question.log) == (space, log) => Some(pieces),
            _ => None,
        });
        // One search will do for all that came while another went on.
        match more {
            Some(pieces) => pieces.push((given_back, ops)),
            None => self.ask_fallen(Question { space, log, about: About::Back(vec![(given_back, ops)]) }),
        }
    }

    fn ask_fallen(&mut self, question: Question) {
        self.fallen.waiting.push_back(question);
        self.answer_fallen();
    }

    fn answer_fallen(&mut self) {
        if self.fallen.is_asked {
            return;
        }
        let Some(question) = self.fallen.waiting.pop_front() else { return };
        let Some(frontier) = self.engine.space(question.space).map(|view| view.frontier.clone()) else {
            return self.answer_fallen();
        };
        let Some(jobs) = self.loopback.upgrade() else { return };
        let (store, keys, is_over) = (self.store.clone(), self.keys.clone(), Arc::clone(&self.is_over));
        let drafts = self.engine.draft_runs(question.space);
        let held = Held { store, keys, frontier, drafts, is_over };
        let failed = question.failed();
        let if_not_begun = failed.clone();
        let search = move || {
            // A panic, which its hook has reported, is no reason to wait for ever.
            let answer = std::panic::catch_unwind(AssertUnwindSafe(|| held.answer(question)));
            let answer = answer.ok().and_then(|answer| {
                let report = |error: &StoreError| {
                    error!(
                        error = %chain_of(error),
                        "a history that has fallen cannot be searched for, so it stays"
                    );
                };
                answer.inspect_err(report).ok()
            });
            let tell = move |core: &mut Core| {
                core.take_fallen(answer.unwrap_or(failed));
                // The next search sees what comes of this one.
                core.settle();
                core.fallen.is_asked = false;
                core.answer_fallen();
            };
            drop(jobs.blocking_send(Job::Ask(Box::new(tell))));
        };
        match std::thread::Builder::new().name("kinfold-fallen".into()).spawn(search) {
            Ok(searcher) => {
                self.fallen.is_asked = true;
                self.loaders.retain(|loader| !loader.is_finished());
                self.loaders.push(searcher);
            }
            Err(error) => {
                error!(%error, "no history that has fallen can be searched for, so it stays");
                self.take_fallen(if_not_begun);
            }
        }
    }

    fn take_fallen(&mut self, inputs: Vec<Input>) {
        for input in inputs {
            if let Input::SearchedElsewhere { space, log, lost_count: Some(ops), .. } = input {
                let before = self.fallen.warned.insert((space, log), ops);
                if ops > 0 && before != Some(ops) {
                    warn!(
                        device = %log.device.short(), ops,
                        "ops that their device has forgotten are kept here until it has had them back"
                    );
                }
            }
            self.tell(input);
        }
    }
}

impl Question {
    /// What the engine is told where nobody can look.
    fn failed(&self) -> Vec<Input> {
        let (space, log) = (self.space, self.log);
        match &self.about {
            &About::Held { after, through } => {
                vec![Input::SearchedElsewhere { space, log, after, through, lost_count: None }]
            }
            About::Back(pieces) => {
                let pieces = pieces.iter().map(|(piece, _)| Some(*piece));
                pieces.map(|fallen| Input::Recalled { space, fallen, ops: None }).collect()
            }
        }
    }
}

impl Held {
    fn answer(&self, Question { space, log, about }: Question) -> Result<Vec<Input>, StoreError> {
        let based = first_state(&space, &self.store, &self.keys)?;
        let floor = || self.store.base(&space).map(|base| base.floor).unwrap_or_default();
        let floor_before = floor();
        let key = |id: &_| self.keys.key(id);
        let logs = Readable { store: &self.store, space, frontier: &self.frontier, key: &key };
        let mut search = StraySearch::new(&based);
        let others = self.frontier.iter().map(|(other, _)| other);
        for other in others.filter(|other| other.device == log.device && **other != log) {
            if self.is_over.load(Ordering::Acquire) {
                return Ok(Vec::new());
            }
            let after = floor_before.tip(other).seq;
            logs.each(other, after, Seq::new(u64::MAX), &mut |first, op_count, body| {
                body.inspect(|body| search.above(other, first, op_count, body));
            })?;
        }
        for run in self.drafts.iter().filter(|run| run.log.device == log.device && run.log != log) {
            search.above(&run.log, run.first, run.op_count, &run.body);
        }
        match about {
            About::Held { after, through } => {
                let mut unread = 0;
                logs.each(&log, after, through, &mut |first, op_count, body| match body {
                    Some(body) => search.within(&log, first, op_count, body),
                    None => unread += u64::from(op_count),
                })?;
                let lost_count = unread + search.finish().iter().map(|(_, count)| count).sum::<u64>();
                // A checkpoint that came meanwhile may have taken away what was to be looked at.
                let lost_count = (floor().tip(&log).seq <= after).then_some(lost_count);
                Ok(vec![Input::SearchedElsewhere { space, log, after, through, lost_count }])
            }
            About::Back(pieces) => {
                let recalled = |(piece, mut ops): (GivenBack, Vec<Stored>)| {
                    ops.retain(|op| search.take_stray(op));
                    Input::Recalled { space, fallen: Some(piece), ops: Some(ops) }
                };
                Ok(pieces.into_iter().map(recalled).collect())
            }
        }
    }
}
