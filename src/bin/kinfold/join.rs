//! `join`: the code on another screen lets this device in.

use std::path::Path;

use kinfold::control::Method;
use kinfold::control::pairing::{JoinParams, JoinedForm, PairProgressForm, parse_target};
use kinfold::control::params::ScopeParam;
use kinfold::node::{Node, NodeError};

use crate::args::Join;
use crate::failure::Failure;
use crate::home;
use crate::invite::role_text;
use crate::line::StatusLine;
use crate::output::{Output, Tone, short_device};
use crate::rebase;
use crate::target::{Site, Target};

pub async fn run(home: &Path, join: Join, output: &Output) -> Result<(), Failure> {
    // A mistyped code makes no home.
    parse_target(&join.code_or_uri)?;
    if let Err(NodeError::NotInitialised { .. }) = Node::device_in(home) {
        let made = home::make(home, join.name.clone())?;
        output.note(format!("made {} in {}", made.name, home.display()));
    }
    let params = JoinParams { code_or_uri: join.code_or_uri, name: join.name, peer: join.peer };
    let mut target = Target::open(home).await?;
    let steps = Steps::begin(output);
    let joined = target
        .call_heard(Method::Join, &params, |notice| {
            if notice.method == "pair.progress"
                && let Ok(step) = serde_json::from_str(notice.params.get())
            {
                steps.tell(&step, output);
            }
        })
        .await;
    steps.end();
    let is_own = target.is_own();
    let offered = match &joined {
        Ok(joined) => {
            tell(joined, output)?;
            let site = Site { home: home.to_owned(), scope: joined.scope.clone() };
            rebase::offer(&target, &site, join.yes, output).await
        }
        Err(_) => Ok(()),
    };
    target.close().await?;
    joined?;
    offered?;
    if is_own {
        output.note("hint: `kinfold up` keeps this device in sync");
    }
    Ok(())
}

fn tell(joined: &JoinedForm, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(joined);
    }
    let space = match &joined.scope {
        ScopeParam::Personal => format!("the personal space of {}", joined.name),
        ScopeParam::Org(org) => format!("the space of {org}, invited by {}", joined.name),
    };
    let done = output.paint(Tone::Good, "joined");
    let inviter = short_device(&joined.device);
    output.line(format!("{done} {space} ({inviter}) as {}", role_text(joined.role)))?;
    output.line(format!("both screens show: {}", output.paint(Tone::Strong, &joined.phrase)))
}

/// The step under way: a line that changes where people watch, else a line for each.
struct Steps(Option<StatusLine>);

impl Steps {
    fn begin(output: &Output) -> Self {
        Self(StatusLine::begin(output))
    }

    fn tell(&self, step: &PairProgressForm, output: &Output) {
        let text = match step {
            PairProgressForm::Looking => "looking for the other device".to_owned(),
            PairProgressForm::Found { address } => format!("found one at {address}"),
            PairProgressForm::Checking => "checking the code".to_owned(),
            PairProgressForm::Receiving { .. } => "the code is right, taking over the space".to_owned(),
            PairProgressForm::Retrying => "the connection was lost, once more".to_owned(),
        };
        match &self.0 {
            Some(line) => line.show(&text),
            None => output.note(text),
        }
    }

    fn end(&self) {
        if let Some(line) = &self.0 {
            line.end();
        }
    }
}
