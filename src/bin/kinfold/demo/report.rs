//! What the demo showed.

use std::collections::BTreeMap;
use std::time::Duration;

use kinfold::control::Method;
use kinfold::control::PAGE_ITEMS_MAX;
use kinfold::control::forms::{ListForm, StatusForm};
use kinfold::control::params::{ListParams, ScopeParam};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::DemoFailure;
use super::input::{ExpectedTree, Input};
use super::node::{DemoNode, Homes};
use crate::failure::Failure;
use crate::output::{Output, Tone, count, short_device};

/// One part of the demo.
#[derive(Debug, Serialize)]
pub struct Phase {
    name: &'static str,
    ops: u64,
    seconds: f64,
    ops_per_second: u64,
}

impl Phase {
    pub fn new(name: &'static str, ops: u64, took: Duration) -> Self {
        let seconds = took.as_secs_f64();
        Self { name, ops, seconds, ops_per_second: (ops as f64 / seconds.max(1e-9)) as u64 }
    }
}

/// How the folded rows compare with the repository's own tree.
#[derive(Debug, Serialize)]
pub struct Tree {
    commit: String,
    files: u64,
    differing: u64,
}

impl Tree {
    /// Reads every row of `registry:file` from one node.
    pub async fn compare(expected: &ExpectedTree, node: &DemoNode) -> Result<Self, Failure> {
        let rows = file_rows(node).await?;
        let missing = expected.blobs.iter().filter(|(path, blob)| rows.get(*path) != Some(*blob)).count();
        let surplus = rows.keys().filter(|path| !expected.blobs.contains_key(*path)).count();
        Ok(Self {
            commit: expected.commit.clone(),
            files: expected.blobs.len() as u64,
            differing: (missing + surplus) as u64,
        })
    }
}

async fn file_rows(node: &DemoNode) -> Result<BTreeMap<String, String>, Failure> {
    #[derive(Deserialize)]
    struct FileRow {
        blob: String,
    }
    let mut rows = BTreeMap::new();
    let mut after = None;
    loop {
        let params = ListParams {
            scope: ScopeParam::Personal,
            surface: "registry:file".into(),
            stream: None,
            after,
            limit: Some(PAGE_ITEMS_MAX),
            superseded: false,
        };
        let page: ListForm = node.call(Method::List, &params).await?;
        for row in page.rows.into_iter().filter(|row| !row.deleted) {
            let FileRow { blob } = serde_json::from_str(row.payload.get()).map_err(Failure::Answer)?;
            rows.insert(row.id, blob);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(rows),
        }
    }
}

/// How the two came to know each other.
#[derive(Debug, Serialize)]
pub struct Paired {
    /// What one screen showed and the other was given; it is worth nothing any more.
    pub code: String,
    /// What both screens showed at the end.
    pub phrase: String,
}

/// What came out.
#[derive(Debug)]
pub struct Report {
    pub phases: Vec<Phase>,
    pub paired: Paired,
    pub handovers: u64,
    pub alpha: StatusForm,
    pub beta: StatusForm,
    pub addresses: [String; 2],
    pub tree: Option<Tree>,
}

impl Report {
    pub fn tell(&self, input: &Input, homes: &Homes, output: &Output) -> Result<(), Failure> {
        if output.is_json() {
            return output.json(&json!({
                "input": input.title,
                "ops": self.alpha.ops,
                "roots": [self.alpha.state_hash, self.beta.state_hash],
                "equal": self.alpha.state_hash == self.beta.state_hash,
                "conflicts": self.alpha.conflicts,
                "phases": self.phases,
                "paired": self.paired,
                "wire_bytes": self.wire_bytes(),
                "wire_bytes_per_op": self.wire_bytes_per_op(),
                "handovers": self.handovers,
                "tree": self.tree,
                "homes": homes.kept(),
            }));
        }
        output.line(format!("{}, two nodes on this machine", input.title))?;
        for (status, address) in [&self.alpha, &self.beta].into_iter().zip(&self.addresses) {
            output.line(format!("  {:<6} {}  {address}", status.name, short_device(&status.device_id)))?;
        }
        output.line("")?;
        let cells = |phase: &Phase| {
            let rate = format!("{} ops/s", count(phase.ops_per_second));
            [phase.name.to_owned(), count(phase.ops), format!("{:.2} s", phase.seconds), rate]
        };
        output.table(["", "ops", "took", "rate"], self.phases.iter().map(cells).collect())?;
        output.line("")?;
        self.tell_outcome(output)?;
        if let Some(root) = homes.kept() {
            output.line(format!("homes      {}", root.display()))?;
        }
        output.line("")?;
        output.line(output.paint(Tone::Quiet, TWO_MACHINES))
    }

    fn tell_outcome(&self, output: &Output) -> Result<(), Failure> {
        let (ours, theirs) = (&self.alpha.state_hash, &self.beta.state_hash);
        let roots = if ours == theirs {
            format!("{} {ours}", output.paint(Tone::Good, "equal"))
        } else {
            format!("{} {ours} {theirs}", output.paint(Tone::Bad, "different"))
        };
        let Paired { code, phrase } = &self.paired;
        output.line(format!("paired     by the code {code}, both show: {phrase}"))?;
        output.line(format!("roots      {roots}"))?;
        let rows = format!("{} rows, {} events", count(self.alpha.rows), count(self.alpha.events));
        output.line(format!("ops        {} on both: {rows}", count(self.alpha.ops)))?;
        if let Some(per_op) = self.wire_bytes_per_op() {
            let total = count(self.wire_bytes());
            output
                .line(format!("on wire    {per_op} bytes per op, both ways, everything counted ({total})"))?;
        }
        output.line(format!("conflicts  {}", count(self.alpha.conflicts)))?;
        if self.handovers > 0 {
            let together: f64 = self.phases.iter().map(|phase| phase.seconds).sum();
            let each = together * 1_000.0 / self.handovers as f64;
            let handovers = count(self.handovers);
            output
                .line(format!("handovers  {handovers}, each acknowledged by the other side: {each:.1} ms"))?;
        }
        match &self.tree {
            Some(Tree { commit, files, differing: 0 }) => {
                let commit = commit.get(..12).unwrap_or(commit);
                output.line(format!(
                    "tree       all {} files as `git ls-tree -r {commit}` has them",
                    count(*files)
                ))
            }
            Some(tree) => {
                let text = format!("{} rows differ from `git ls-tree`", count(tree.differing));
                output.line(format!("tree       {}", output.paint(Tone::Bad, text)))
            }
            None => Ok(()),
        }
    }

    /// Bytes of the connection as one side counts them, both ways.
    fn wire_bytes(&self) -> u64 {
        self.alpha.sent_bytes.saturating_add(self.alpha.received_bytes)
    }

    /// `None` where the connection was not up when it was asked.
    fn wire_bytes_per_op(&self) -> Option<u64> {
        let bytes = self.wire_bytes();
        (bytes > 0).then(|| bytes.checked_div(self.alpha.ops)).flatten()
    }

    /// Whether the demo showed what it promises.
    pub fn verdict(&self) -> Result<(), Failure> {
        if self.alpha.state_hash != self.beta.state_hash {
            let (ours, theirs) = (self.alpha.state_hash.clone(), self.beta.state_hash.clone());
            return Err(DemoFailure::RootsDiffer { ours, theirs }.into());
        }
        match &self.tree {
            Some(tree) if tree.differing > 0 => {
                Err(DemoFailure::TreeDiffers { differing: tree.differing }.into())
            }
            _ => Ok(()),
        }
    }
}

const TWO_MACHINES: &str = "\
on two machines: `kinfold init` and `kinfold invite` on one, `kinfold join CODE` on the other,
`kinfold up` on both";
