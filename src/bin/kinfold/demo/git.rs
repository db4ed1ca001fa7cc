//! The history of a git repository, as git itself tells it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kinfold::model::limits::KEY_BYTES_MAX;

use super::DemoFailure;

/// Commits, oldest first.
#[derive(Debug)]
pub struct History {
    pub commits: Vec<Commit>,
    /// Whether every commit follows the one before.
    pub is_linear: bool,
}

/// One commit against its first parent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Commit {
    pub id: String,
    pub author: String,
    pub subject: String,
    pub changes: Vec<FileChange>,
}

/// One file that a commit changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileChange {
    pub path: String,
    /// The hash of its content; `None` where it was removed.
    pub blob: Option<String>,
}

/// The history up to HEAD, cut after the commit that reaches `ops_max` ops (one for the commit, one for each file).
pub fn history(repository: &Path, ops_max: u64) -> Result<History, DemoFailure> {
    let mut git = run(repository, &LOG_ARGUMENTS)?;
    let stdout = git.stdout.take().expect("standard output was asked for as a pipe");
    let mut reader = LogReader::default();
    let mut ops = 0;
    let mut is_cut = false;
    for token in BufReader::new(stdout).split(0) {
        let token = token.map_err(DemoFailure::GitMissing)?;
        reader.take(&String::from_utf8_lossy(&token));
        ops += 1;
        // A commit has four tokens before its files and each file two, so this is past the mark.
        if ops / 2 > ops_max && reader.op_count() > ops_max {
            is_cut = true;
            break;
        }
    }
    if is_cut {
        // It has more to say than is wanted.
        let _ = git.kill();
        let _ = git.wait();
    } else {
        finish(git, repository)?;
    }
    Ok(reader.finish(ops_max))
}

/// The files of a commit with the hashes of their contents.
pub fn tree(repository: &Path, commit: &str) -> Result<BTreeMap<String, String>, DemoFailure> {
    let mut git = run(repository, &["ls-tree", "-r", "-z", "--full-tree", commit])?;
    let stdout = git.stdout.take().expect("standard output was asked for as a pipe");
    let mut blobs = BTreeMap::new();
    for entry in BufReader::new(stdout).split(0) {
        let entry = entry.map_err(DemoFailure::GitMissing)?;
        let entry = String::from_utf8_lossy(&entry);
        if let Some((path, blob)) = tree_entry(&entry) {
            blobs.insert(path, blob);
        }
    }
    finish(git, repository)?;
    Ok(blobs)
}

fn run(repository: &Path, arguments: &[&str]) -> Result<Child, DemoFailure> {
    let mut command = Command::new("git");
    command.arg("-C").arg(repository).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(DemoFailure::GitMissing)
}

fn finish(mut git: Child, repository: &Path) -> Result<(), DemoFailure> {
    let mut said = String::new();
    if let Some(stderr) = git.stderr.take() {
        // What it says goes into an error message only; an unreadable one is an empty one.
        let _ = stderr.take(STDERR_BYTES_MAX).read_to_string(&mut said);
    }
    match git.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(DemoFailure::Git { repository: repository.to_owned(), said: said.trim().to_owned() }),
        Err(error) => Err(DemoFailure::GitMissing(error)),
    }
}

/// `<mode> <type> <hash>\t<path>`.
fn tree_entry(entry: &str) -> Option<(String, String)> {
    let (about, path) = entry.split_once('\t')?;
    let blob = about.split(' ').nth(2)?;
    (path.len() <= KEY_BYTES_MAX).then(|| (path.to_owned(), blob.to_owned()))
}

/// Reads the NUL-separated tokens of `git log` in [`LOG_ARGUMENTS`]' form.
///
/// A commit is `\x01<id>`, parents, author, subject; each of its files is
/// `:<mode> <mode> <hash> <hash> <status>` and then the path. Between them stand empty tokens and
/// line feeds.
#[derive(Debug)]
struct LogReader {
    commits: Vec<Commit>,
    is_linear: bool,
    ops: u64,
    expects: Expects,
}

impl Default for LogReader {
    fn default() -> Self {
        Self { commits: Vec::new(), is_linear: true, ops: 0, expects: Expects::Any }
    }
}

#[derive(Debug)]
enum Expects {
    Any,
    Parents,
    Author,
    Subject,
    Path { blob: Option<String> },
}

impl LogReader {
    fn op_count(&self) -> u64 {
        self.ops
    }

    fn take(&mut self, token: &str) {
        self.expects = match std::mem::replace(&mut self.expects, Expects::Any) {
            Expects::Any => self.begin(token),
            Expects::Parents => {
                // The first commit has none; a second root or a merge makes it a graph.
                let follows = self.commits.len().checked_sub(2).and_then(|at| self.commits.get(at));
                self.is_linear &= follows.map_or("", |commit| commit.id.as_str()) == token;
                Expects::Author
            }
            Expects::Author => {
                self.amend(|commit| token.clone_into(&mut commit.author));
                Expects::Subject
            }
            Expects::Subject => {
                self.amend(|commit| token.clone_into(&mut commit.subject));
                Expects::Any
            }
            Expects::Path { blob } => {
                if !token.is_empty() && token.len() <= KEY_BYTES_MAX {
                    self.ops += 1;
                    self.amend(|commit| commit.changes.push(FileChange { path: token.to_owned(), blob }));
                }
                Expects::Any
            }
        };
    }

    fn begin(&mut self, token: &str) -> Expects {
        let token = token.trim_start_matches('\n');
        if let Some(id) = token.strip_prefix('\x01') {
            self.ops += 1;
            self.commits.push(Commit {
                id: id.to_owned(),
                author: String::new(),
                subject: String::new(),
                changes: Vec::new(),
            });
            return Expects::Parents;
        }
        let mut fields = token.strip_prefix(':').unwrap_or_default().split(' ');
        match fields.nth(3) {
            Some(blob) => {
                let is_removed = blob.bytes().all(|byte| byte == b'0');
                Expects::Path { blob: (!is_removed).then(|| blob.to_owned()) }
            }
            None => Expects::Any,
        }
    }

    fn amend(&mut self, change: impl FnOnce(&mut Commit)) {
        if let Some(commit) = self.commits.last_mut() {
            change(commit);
        }
    }

    /// Whole commits only, at least one.
    fn finish(mut self, ops_max: u64) -> History {
        let mut ops = 0;
        let within = self.commits.iter().take_while(|commit| {
            ops += 1 + commit.changes.len() as u64;
            ops <= ops_max
        });
        let count = within.count().max(1);
        self.commits.truncate(count);
        History { commits: self.commits, is_linear: self.is_linear }
    }
}

/// Merges against their first parent, renames as a removal and an addition, submodules as files.
const LOG_ARGUMENTS: [&str; 11] = [
    "log",
    "--reverse",
    "--topo-order",
    "--root",
    "--raw",
    "--no-abbrev",
    "--no-renames",
    "--diff-merges=first-parent",
    "--no-show-signature",
    "-z",
    "--format=%x01%H%x00%P%x00%an <%ae>%x00%s",
];

/// Enough for git to say what is wrong.
const STDERR_BYTES_MAX: u64 = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(log: &str, ops_max: u64) -> History {
        let mut reader = LogReader::default();
        log.split('\0').for_each(|token| reader.take(token));
        reader.finish(ops_max)
    }

    const TWO: &str = concat!(
        "\x01aa\0\0ann <a@x>\0one\0\n:000000 100644 0000 8b13 A\0f1\0\0",
        "\x01bb\0aa\0bob <b@x>\0two \u{fc}\0\n:000000 100644 0000 0cfb A\0f 2\0:100644 000000 8b13 0000 D\0f1\0\0",
    );

    #[test]
    fn a_history_is_read_as_git_writes_it() {
        let history = read(TWO, 100);

        assert!(history.is_linear);
        assert_eq!(history.commits.len(), 2);
        assert_eq!(history.commits[1].author, "bob <b@x>");
        assert_eq!(history.commits[1].subject, "two ü");
        assert_eq!(
            history.commits[1].changes,
            [
                FileChange { path: "f 2".into(), blob: Some("0cfb".into()) },
                FileChange { path: "f1".into(), blob: None }
            ]
        );
    }

    #[test]
    fn a_commit_without_files_and_one_with_an_empty_subject_are_commits() {
        let history = read("\x01aa\0\0ann\0\0\0\x01bb\0aa\0ann\0empty\0", 100);

        assert_eq!(history.commits.len(), 2);
        assert!(history.is_linear);
    }

    #[test]
    fn merges_and_second_roots_are_no_linear_history() {
        let merge = format!("{TWO}\x01cc\0bb aa\0ann\0merge\0");
        let root = format!("{TWO}\x01cc\0\0ann\0root\0");
        let branch = format!("{TWO}\x01cc\0aa\0ann\0branch\0");

        for log in [merge, root, branch] {
            assert!(!read(&log, 100).is_linear, "{log:?}");
        }
    }

    #[test]
    fn a_history_is_cut_between_commits() {
        assert_eq!(read(TWO, 4).commits.len(), 1);
        assert_eq!(read(TWO, 5).commits.len(), 2);
        assert_eq!(read(TWO, 1).commits.len(), 1);
    }

    #[test]
    fn a_tree_entry_is_a_path_and_a_hash() {
        assert_eq!(tree_entry("100644 blob 0cfb\tf 2"), Some(("f 2".into(), "0cfb".into())));
        assert_eq!(tree_entry("nonsense"), None);
    }
}
