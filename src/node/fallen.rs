//! Histories of logs that have fallen: what no other log of the same device holds.
//!
//! The logs of a device may be long, so they are searched on a thread of its own, one question after the other.

use std::collections::VecDeque;

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
    Back(GivenBack, Vec<Stored>),
}

/// What a search looks at.
struct Held {
    store: Store,
    keys: KeyRing,
    frontier: Frontier,
    drafts: Vec<FoldRun>,
}

impl Core {
    /// Searches the other logs of its device for what is held of a history that has fallen.
    pub(super) fn search_elsewhere(&mut self, space: SpaceId, log: LogId, after: Seq, through: Seq) {
        self.ask_fallen(Question { space, log, about: About::Held { after, through } });
    }

    /// Has those of ops that have come back written again that no other own log holds.
    pub(super) fn sift(&mut self, space: SpaceId, given_back: GivenBack, ops: Vec<Stored>) {
        self.ask_fallen(Question { space, log: given_back.log, about: About::Back(given_back, ops) });
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
        let drafts = self.engine.draft_runs(question.space);
        let held = Held { store: self.store.clone(), keys: self.keys.clone(), frontier, drafts };
        let search = move || {
            let answer = held.answer(question);
            let tell = move |core: &mut Core| {
                core.fallen.is_asked = false;
                match answer {
                    Ok(input) => {
                        core.tell(input);
                        // The next search sees what comes of this one.
                        core.settle();
                    }
                    Err(error) => error!(
                        error = %chain_of(&error),
                        "a history that has fallen cannot be searched for, so it stays"
                    ),
                }
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
            Err(error) => error!(%error, "no history that has fallen can be searched for"),
        }
    }
}

impl Held {
    fn answer(&self, Question { space, log, about }: Question) -> Result<Input, StoreError> {
        let based = first_state(&space, &self.store, &self.keys)?;
        let floor = self.store.base(&space).map(|base| base.floor).unwrap_or_default();
        let key = |id: &_| self.keys.key(id);
        let logs = Readable { store: &self.store, space, frontier: &self.frontier, key: &key };
        let mut search = StraySearch::new(&based);
        let others = self.frontier.iter().map(|(other, _)| other);
        for other in others.filter(|other| other.device == log.device && **other != log) {
            let after = floor.tip(other).seq;
            logs.each(other, after, Seq::new(u64::MAX), &mut |first, op_count, body| {
                search.above(other, first, op_count, body);
            })?;
        }
        for run in self.drafts.iter().filter(|run| run.log.device == log.device && run.log != log) {
            search.above(&run.log, run.first, run.op_count, &run.body);
        }
        match about {
            About::Held { after, through } => {
                logs.each(&log, after, through, &mut |first, op_count, body| {
                    search.within(&log, first, op_count, body);
                })?;
                let lost_count = search.finish().iter().map(|(_, count)| count).sum();
                if lost_count > 0 {
                    warn!(
                        device = %log.device.short(), ops = lost_count,
                        "ops that their device has forgotten are kept here until it has had them back"
                    );
                }
                Ok(Input::SearchedElsewhere { space, log, after, through, lost_count })
            }
            About::Back(given_back, mut ops) => {
                ops.retain(|op| search.is_stray(op));
                Ok(Input::Recalled { space, fallen: Some(given_back), ops })
            }
        }
    }
}
