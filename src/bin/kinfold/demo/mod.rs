//! `demo`: two fresh nodes on this machine, in two processes, converge over QUIC.
//!
//! What it shows is what two machines do: each side writes while they are apart, they meet, they
//! write together, and both end with the same root. Static addresses on loopback stand in for
//! discovery, so it works where multicast does not.

mod git;
mod input;
mod node;
mod report;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use kinfold::control::Method;
use kinfold::control::forms::{AddedForm, StatusForm, WaitForm};
use kinfold::control::pairing::{InviteForm, InviteParams, JoinParams, JoinedForm};
use kinfold::control::params::{AddPeerParams, AppendParams, NoParams, ScopeParam, WaitParams};
use thiserror::Error;

use crate::args::Demo;
use crate::failure::Failure;
use crate::output::{Output, Unit};
use crate::target::Interrupt;
use input::{Input, Side};
use node::{DemoNode, Homes};
use report::{Paired, Phase, Report, Tree};

/// Why a demo did not show what it should.
#[derive(Debug, Error)]
pub enum DemoFailure {
    #[error("the two homes cannot be made")]
    Homes(#[source] io::Error),
    #[error("the node {name} did not start: {said}")]
    NodeSilent { name: &'static str, said: String },
    #[error("git did not tell the history of {repository:?}: {said}")]
    Git { repository: PathBuf, said: String },
    #[error("git cannot be run")]
    GitMissing(#[source] io::Error),
    #[error("the history of {repository:?} holds nothing to write")]
    HistoryEmpty { repository: PathBuf },
    #[error(
        "nothing moved for {seconds} s: {ours} ops on one side, {theirs} on the other, {expected} expected"
    )]
    Stalled { seconds: u64, ours: u64, theirs: u64, expected: u64 },
    #[error("the roots differ: {ours} and {theirs}")]
    RootsDiffer { ours: String, theirs: String },
    #[error("stopped on request")]
    Interrupted,
    #[error("{differing} rows differ from the repository's own tree")]
    TreeDiffers { differing: u64 },
}

impl DemoFailure {
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::GitMissing(_) => "install git, or leave --git out".into(),
            Self::Git { .. } => "name a directory that is a git repository".into(),
            Self::Stalled { .. } | Self::RootsDiffer { .. } | Self::TreeDiffers { .. } => {
                "run it again with --keep and KINFOLD_LOG=debug, and look into both homes".into()
            }
            Self::Homes(_) | Self::NodeSilent { .. } | Self::HistoryEmpty { .. } | Self::Interrupted => {
                return None;
            }
        })
    }
}

pub async fn run(args: Demo, output: &Output) -> Result<(), Failure> {
    let input = input::read(args.git.as_deref(), args.ops)?;
    let homes = Homes::make(args.keep)?;
    let bar = output.progress(input.op_count(), Unit::Ops);
    bar.enable_steady_tick(Duration::from_millis(100));
    let mut interrupt = Interrupt::listen();
    let outcome = tokio::select! {
        // Dropping the other branch kills both nodes; their homes go next.
        () = interrupt.told() => Err(DemoFailure::Interrupted.into()),
        outcome = show(&homes, &input, &bar) => outcome,
    };
    bar.finish_and_clear();
    let report = outcome?;
    report.tell(&input, &homes, output)?;
    report.verdict()
}

async fn show(homes: &Homes, input: &Input, bar: &ProgressBar) -> Result<Report, Failure> {
    bar.set_message("starting");
    let alpha = DemoNode::start(homes, "alpha", None).await?;
    let beta = DemoNode::start(homes, "beta", Some(&alpha.listening)).await?;
    let demo = Running { nodes: [&alpha, &beta], bar };
    let outcome = demo.run(input).await;
    // Both are told to end, whatever came out; the first failure is the one that counts.
    let stopped = (beta.stop().await, alpha.stop().await);
    let report = outcome?;
    stopped.0?;
    stopped.1?;
    Ok(report)
}

struct Running<'a> {
    nodes: [&'a DemoNode; 2],
    bar: &'a ProgressBar,
}

impl Running<'_> {
    async fn run(&self, input: &Input) -> Result<Report, Failure> {
        let mut phases = Vec::new();
        let mut written = 0;
        let [apart_alpha, apart_beta] = &input.apart;
        let apart = (apart_alpha.len() + apart_beta.len()) as u64;
        if apart > 0 {
            self.bar.set_message("writing apart");
            let started = Instant::now();
            let writing = (self.write(Side::Alpha, apart_alpha), self.write(Side::Beta, apart_beta));
            tokio::try_join!(writing.0, writing.1)?;
            written += apart;
            phases.push(Phase::new("written apart", apart, started.elapsed()));
        }

        self.bar.set_message("pairing");
        let started = Instant::now();
        let paired = self.introduce().await?;
        self.bar.set_message("meeting");
        self.converged(written).await?;
        if apart > 0 {
            phases.push(Phase::new("paired and exchanged", apart, started.elapsed()));
        }

        self.bar.set_message("writing together");
        let together = input.together_count();
        let started = Instant::now();
        let handovers = self.write_together(input).await?;
        written += together;
        self.bar.set_message("converging");
        let (alpha, beta) = self.converged(written).await?;
        if together > 0 {
            phases.push(Phase::new("written together", together, started.elapsed()));
        }

        let tree = match &input.tree {
            Some(tree) => Some(Tree::compare(tree, self.nodes[1]).await?),
            None => None,
        };
        let addresses = self.nodes.map(|node| node.listening.clone());
        Ok(Report { phases, paired, handovers, alpha, beta, addresses, tree })
    }

    /// Pairs the two as people do: one shows a code, the other types it. Discovery is the only thing
    /// left out, so beta is told where the invite listens; it already dials alpha.
    async fn introduce(&self) -> Result<Paired, Failure> {
        let [alpha, beta] = self.nodes;
        let invite: InviteForm = alpha.call(Method::Invite, &InviteParams::default()).await?;
        let peer = invite.addresses.into_iter().next();
        let params = JoinParams { code_or_uri: invite.code.clone(), name: None, peer };
        let joined: JoinedForm = beta.call(Method::Join, &params).await?;
        let address = AddPeerParams { address: self.nodes[1].listening.clone() };
        let _: AddedForm = self.nodes[0].call(Method::AddPeer, &address).await?;
        Ok(Paired { code: invite.code, phrase: joined.phrase })
    }

    async fn write(&self, side: Side, ops: &[AppendParams]) -> Result<(), Failure> {
        for group in ops.chunks(GROUP_OPS) {
            self.node(side).append(group).await?;
            self.bar.inc(group.len() as u64);
        }
        Ok(())
    }

    /// Writes the rest while connected: in turns where the input says who came after whom, else both
    /// at once. Returns how often the pen was handed over.
    async fn write_together(&self, input: &Input) -> Result<u64, Failure> {
        let mut handovers = 0;
        for turn in &input.turns {
            let mut last = None;
            for group in turn.ops.chunks(GROUP_OPS) {
                last = self.node(turn.side).append(group).await?.or(last);
                self.bar.inc(group.len() as u64);
            }
            if let Some(op_id) = last {
                let timeout_ms = u64::try_from(STALL.as_millis()).ok();
                let params =
                    WaitParams { scope: ScopeParam::Personal, op_id: Some(op_id), on: 1, timeout_ms };
                let _: WaitForm = self.node(turn.side).call(Method::Wait, &params).await?;
                handovers += 1;
            }
        }
        let [alpha, beta] = &input.at_once;
        tokio::try_join!(self.write(Side::Alpha, alpha), self.write(Side::Beta, beta))?;
        Ok(handovers)
    }

    /// Waits until both sides hold that many ops under one root.
    async fn converged(&self, expected: u64) -> Result<(StatusForm, StatusForm), Failure> {
        let mut moved = (Instant::now(), 0);
        loop {
            let (alpha, beta): (StatusForm, StatusForm) = tokio::try_join!(
                self.nodes[0].call(Method::Status, &NoParams {}),
                self.nodes[1].call(Method::Status, &NoParams {})
            )?;
            let is_level = alpha.ops >= expected && beta.ops >= expected;
            if is_level && alpha.state_hash == beta.state_hash {
                return Ok((alpha, beta));
            }
            if alpha.ops + beta.ops != moved.1 {
                moved = (Instant::now(), alpha.ops + beta.ops);
            }
            if moved.0.elapsed() >= STALL {
                return Err(stalled(&alpha, &beta, expected, is_level).into());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn node(&self, side: Side) -> &DemoNode {
        match side {
            Side::Alpha => self.nodes[0],
            Side::Beta => self.nodes[1],
        }
    }
}

fn stalled(alpha: &StatusForm, beta: &StatusForm, expected: u64, is_level: bool) -> DemoFailure {
    if is_level {
        return DemoFailure::RootsDiffer { ours: alpha.state_hash.clone(), theirs: beta.state_hash.clone() };
    }
    DemoFailure::Stalled { seconds: STALL.as_secs(), ours: alpha.ops, theirs: beta.ops, expected }
}

/// Ops in one request: about 200 KB of generated ones.
const GROUP_OPS: usize = 1_024;

/// Without any progress for this long, something is wrong.
const STALL: Duration = Duration::from_secs(30);

/// Between two looks at both sides.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
