//! What the two sides write: generated rows, or the history of a git repository.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kinfold::control::params::{AppendParams, ScopeParam};
use serde::Serialize;
use serde_json::value::to_raw_value;

use super::DemoFailure;
use super::git::{self, Commit};

/// Which of the two writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Alpha,
    Beta,
}

/// Ops of one side that follow all those before.
#[derive(Debug)]
pub struct Turn {
    pub side: Side,
    pub ops: Vec<AppendParams>,
}

/// What is written, and when.
#[derive(Debug, Default)]
pub struct Input {
    /// What it is, for people.
    pub title: String,
    /// Before the sides meet: alpha's and beta's.
    pub apart: [Vec<AppendParams>; 2],
    /// While connected, one after the other.
    pub turns: Vec<Turn>,
    /// While connected, both at once.
    pub at_once: [Vec<AppendParams>; 2],
    /// What `registry:file` has to hold at the end.
    pub tree: Option<ExpectedTree>,
}

/// The files of a commit, as git itself lists them.
#[derive(Debug)]
pub struct ExpectedTree {
    pub commit: String,
    pub blobs: BTreeMap<String, String>,
}

impl Input {
    pub fn op_count(&self) -> u64 {
        let apart: usize = self.apart.iter().map(Vec::len).sum();
        apart as u64 + self.together_count()
    }

    pub fn together_count(&self) -> u64 {
        let turns: usize = self.turns.iter().map(|turn| turn.ops.len()).sum();
        let at_once: usize = self.at_once.iter().map(Vec::len).sum();
        (turns + at_once) as u64
    }
}

/// The input asked for.
pub fn read(repository: Option<&Path>, ops_max: Option<u64>) -> Result<Input, DemoFailure> {
    match repository {
        None => Ok(generated(ops_max.unwrap_or(GENERATED_OPS))),
        Some(repository) => from_git(repository, ops_max.unwrap_or(GIT_OPS_MAX)),
    }
}

/// Half is written apart, half together; each side writes every other row.
fn generated(ops: u64) -> Input {
    let mut input = Input { title: "generated rows".into(), ..Input::default() };
    for number in 0..ops {
        let op = generated_op(number);
        let side = usize::from(number % 2 == 1);
        if number < ops / 2 {
            input.apart[side].push(op);
        } else {
            input.at_once[side].push(op);
        }
    }
    input
}

/// A row with an id of 16 bytes and about 150 bytes of JSON: words and numbers that do not repeat.
fn generated_op(number: u64) -> AppendParams {
    #[derive(Serialize)]
    struct Note {
        id: String,
        title: String,
        text: String,
        rank: u64,
        weight: u64,
    }
    let mut random = Random(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let words = |random: &mut Random, count: usize| {
        let word = |_| WORDS[random.below(WORDS.len() as u64) as usize];
        (0..count).map(word).collect::<Vec<_>>().join(" ")
    };
    let note = Note {
        id: format!("{number:016x}"),
        title: words(&mut random, 3),
        text: words(&mut random, 9),
        rank: random.below(1_000_000),
        weight: random.below(1_000_000_000),
    };
    op("registry:note", &note)
}

fn from_git(repository: &Path, ops_max: u64) -> Result<Input, DemoFailure> {
    let history = git::history(repository, ops_max)?;
    let Some(last) = history.commits.last() else {
        return Err(DemoFailure::HistoryEmpty { repository: PathBuf::from(repository) });
    };
    let commits = history.commits.len();
    let authors: std::collections::BTreeSet<&str> =
        history.commits.iter().map(|commit| commit.author.as_str()).collect();
    let shape = if history.is_linear { "a linear history" } else { "a history with merges" };
    let title =
        format!("{commits} commits of {} authors from {} ({shape})", authors.len(), repository.display());
    let mut input = Input { title, ..Input::default() };
    if history.is_linear {
        input.turns = turns(&history.commits);
        let blobs = git::tree(repository, &last.id)?;
        input.tree = Some(ExpectedTree { commit: last.id.clone(), blobs });
    } else {
        // Branches are written at the same time by their authors, as they were.
        for (index, commit) in history.commits.iter().enumerate() {
            let side = usize::from(side_of(&commit.author) == Side::Beta);
            let half = if index < commits / 2 { &mut input.apart } else { &mut input.at_once };
            half[side].extend(commit_ops(commit));
        }
    }
    Ok(input)
}

/// In a linear history every author had seen what came before: the pen goes from side to side.
fn turns(commits: &[Commit]) -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::new();
    for commit in commits {
        let side = side_of(&commit.author);
        match turns.last_mut() {
            Some(turn) if turn.side == side => turn.ops.extend(commit_ops(commit)),
            _ => turns.push(Turn { side, ops: commit_ops(commit).collect() }),
        }
    }
    turns
}

fn side_of(author: &str) -> Side {
    if blake3::hash(author.as_bytes()).as_bytes()[0] & 1 == 0 { Side::Alpha } else { Side::Beta }
}

fn commit_ops(commit: &Commit) -> impl Iterator<Item = AppendParams> {
    #[derive(Serialize)]
    struct Knowledge<'a> {
        id: &'a str,
        body: &'a str,
    }
    #[derive(Serialize)]
    struct FileRow<'a> {
        id: &'a str,
        blob: &'a str,
        deleted: bool,
    }
    let said = op("knowledge", &Knowledge { id: &commit.id, body: &commit.subject });
    let file = |change: &git::FileChange| {
        let row = FileRow {
            id: &change.path,
            blob: change.blob.as_deref().unwrap_or(""),
            deleted: change.blob.is_none(),
        };
        op("registry:file", &row)
    };
    std::iter::once(said).chain(commit.changes.iter().map(file))
}

fn op(surface: &str, payload: &impl Serialize) -> AppendParams {
    let payload = to_raw_value(payload).expect("strings, numbers and flags are JSON");
    AppendParams {
        scope: ScopeParam::Personal,
        surface: surface.to_owned(),
        payload,
        key: None,
        stream: None,
    }
}

/// SplitMix64 (Steele et al., 2014): the same rows in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Enough for the figures to settle, over in seconds.
const GENERATED_OPS: u64 = 20_000;

/// The history is held in memory: about half a kilobyte for each change.
const GIT_OPS_MAX: u64 = 1_000_000;

const WORDS: [&str; 64] = [
    "amber", "anchor", "apple", "arrow", "autumn", "badge", "basil", "beacon", "birch", "bottle", "branch",
    "bridge", "candle", "canyon", "cedar", "cipher", "clover", "copper", "coral", "crystal", "dawn", "delta",
    "desert", "dragon", "ember", "falcon", "feather", "forest", "garden", "glacier", "granite", "harbor",
    "hazel", "island", "ivory", "jasmine", "kernel", "lantern", "lemon", "linen", "maple", "marble",
    "meadow", "mirror", "nectar", "night", "ocean", "olive", "orchid", "pebble", "pepper", "planet",
    "quartz", "raven", "river", "saffron", "shadow", "silver", "spiral", "summit", "thunder", "velvet",
    "willow", "winter",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_rows_are_the_same_in_every_run_and_of_the_size_of_the_targets() {
        let one = generated(1_000);
        let two = generated(1_000);
        let bytes: usize = one.apart[0].iter().map(|op| op.payload.get().len()).sum();

        assert_eq!(one.op_count(), 1_000);
        assert_eq!(one.apart[1][3].payload.get(), two.apart[1][3].payload.get());
        let mean = bytes / one.apart[0].len();
        assert!((120..200).contains(&mean), "{mean} bytes");
    }

    #[test]
    fn neighbours_by_one_side_are_one_turn() {
        let commit = |author: &str| Commit {
            id: author.into(),
            author: author.into(),
            subject: "s".into(),
            changes: vec![git::FileChange { path: "a".into(), blob: None }],
        };
        let other = |side: Side| (0..).map(|n| n.to_string()).find(|a| side_of(a) == side).unwrap();
        let (alpha, beta) = (other(Side::Alpha), other(Side::Beta));

        let turns = turns(&[commit(&alpha), commit(&alpha), commit(&beta)]);

        assert_eq!(
            turns.iter().map(|t| (t.side, t.ops.len())).collect::<Vec<_>>(),
            [(Side::Alpha, 4), (Side::Beta, 2)]
        );
        assert!(turns[0].ops[1].payload.get().contains(r#""deleted":true"#));
    }
}
