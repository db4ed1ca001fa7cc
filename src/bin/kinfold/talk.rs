//! `turn`, `transcript` and `resume`: conversations.

use kinfold::control::Method;
use kinfold::control::conversation::{
    ConversationsForm, ConversationsParams, RecordTurnParams, RepairForm, ResumeForm, ResumeParams,
    TranscriptForm, TranscriptParams, TurnForm,
};
use kinfold::control::forms::AppendedForm;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::args::{ResumeArgs, Transcript, Turn};
use crate::failure::Failure;
use crate::output::{Output, Tone, count, short_device, time};
use crate::rows::{excerpt, tell, text, value};
use crate::target::{Site, Target};

pub async fn turn(site: &Site, turn: Turn, output: &Output) -> Result<(), Failure> {
    let said = text(&turn.text)?;
    // Files and pipes end with a line break that nobody has said.
    let said = if said == turn.text { &said } else { said.strip_suffix('\n').unwrap_or(&said) };
    let params = RecordTurnParams {
        scope: site.scope.clone(),
        conversation_id: turn.conversation,
        role: turn.role,
        content: serde_json::value::to_raw_value(said).map_err(Failure::Answer)?,
        tool_calls: turn.tool_calls.as_deref().map(value).transpose()?,
        tool_use_id: turn.tool_use_id,
        timestamp: None,
    };
    let target = Target::open(&site.home).await?;
    let appended: Result<AppendedForm, Failure> = target.call(Method::RecordTurn, &params).await;
    target.close().await?;
    tell(&appended?, output)
}

pub async fn transcript(site: &Site, asked: Transcript, output: &Output) -> Result<(), Failure> {
    let target = Target::open(&site.home).await?;
    let Some(conversation) = asked.conversation else {
        let held = conversations(&target, site).await;
        target.close().await?;
        return show_conversations(&held?, output);
    };
    let read = turns(&target, site, conversation).await;
    target.close().await?;
    show_transcript(&read?, output)
}

async fn conversations(target: &Target, site: &Site) -> Result<ConversationsForm, Failure> {
    let mut all = ConversationsForm { conversations: Vec::new(), next: None };
    let mut params = ConversationsParams {
        scope: site.scope.clone(),
        limit: Some(kinfold::control::PAGE_ITEMS_MAX),
        ..ConversationsParams::default()
    };
    loop {
        let page: ConversationsForm = target.call(Method::Conversations, &params).await?;
        all.conversations.extend(page.conversations);
        match page.next {
            Some(next) => params.after = Some(next),
            None => return Ok(all),
        }
    }
}

async fn turns(target: &Target, site: &Site, conversation_id: String) -> Result<TranscriptForm, Failure> {
    let mut params =
        TranscriptParams { scope: site.scope.clone(), conversation_id, after: None, limit: None };
    let mut all: Vec<TurnForm> = Vec::new();
    loop {
        let page: TranscriptForm = target.call(Method::Transcript, &params).await?;
        all.extend(page.turns);
        match page.next {
            Some(next) => params.after = Some(next),
            None if all.is_empty() => return Err(Failure::NoConversation { id: params.conversation_id }),
            None => {
                return Ok(TranscriptForm { conversation_id: page.conversation_id, turns: all, next: None });
            }
        }
    }
}

fn show_conversations(held: &ConversationsForm, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(held);
    }
    if held.conversations.is_empty() {
        return output.line("no conversations");
    }
    let rows = held.conversations.iter().map(|one| [plain(&one.conversation_id), count(one.turns)]);
    output.table(["conversation", "turns"], rows.collect())
}

fn show_transcript(read: &TranscriptForm, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(read);
    }
    for turn in &read.turns {
        let role = turn.role.as_deref().unwrap_or("(no turn)");
        let by = format!("{}  {}", short_device(&turn.device_id), time(turn.time_ms));
        let answers =
            turn.tool_use_id.as_deref().map_or(String::new(), |id| format!(" answers {}", plain(id)));
        let head = output.paint(Tone::Strong, format!("{role}{answers}"));
        output.line(format!("{head}  {}", output.paint(Tone::Quiet, by)))?;
        if let Some(problem) = &turn.malformed {
            output.line(output.paint(Tone::Warn, format!("  {}", plain(problem))))?;
        }
        show_said(turn.payload.as_ref().unwrap_or(&turn.content), &turn.tool_calls, output)?;
    }
    Ok(())
}

pub async fn resume(site: &Site, asked: ResumeArgs, output: &Output) -> Result<(), Failure> {
    let params =
        ResumeParams { scope: site.scope.clone(), conversation_id: asked.conversation, last: asked.last };
    let target = Target::open(&site.home).await?;
    let read: Result<ResumeForm, Failure> = target.call(Method::Resume, &params).await;
    target.close().await?;
    let read = read?;
    if read.messages.is_empty() && read.repairs.is_empty() {
        return Err(Failure::NoConversation { id: params.conversation_id });
    }
    show_resume(&read, output)
}

fn show_resume(read: &ResumeForm, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(read);
    }
    if read.omitted > 0 {
        output.note(format!("{} earlier turns are left out", count(read.omitted as u64)));
    }
    for message in &read.messages {
        let message: Message<'_> = serde_json::from_str(message.get()).map_err(Failure::Answer)?;
        let answers = message.tool_use_id.map_or(String::new(), |id| format!(" answers {}", plain(&id)));
        output.line(output.paint(Tone::Strong, format!("{}{answers}", message.role)))?;
        let calls: Vec<Box<RawValue>> = message.tool_calls.into_iter().map(ToOwned::to_owned).collect();
        show_said(message.content, &calls, output)?;
    }
    let told = |repair: &RepairForm| format!("turn {}: {}", repair.turn + 1, plain(&repair.message));
    read.repairs.iter().for_each(|repair| output.note(told(repair)));
    Ok(())
}

#[derive(serde::Deserialize)]
struct Message<'a> {
    role: String,
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(borrow, default)]
    tool_calls: Vec<&'a RawValue>,
    #[serde(default)]
    tool_use_id: Option<String>,
}

/// What was said, wrapped, and the calls, each on its line.
fn show_said(content: &RawValue, calls: &[Box<RawValue>], output: &Output) -> Result<(), Failure> {
    let said = serde_json::from_str::<String>(content.get()).unwrap_or_else(|_| content.get().to_owned());
    for line in said.lines().flat_map(|line| wrapped(&plain(line))) {
        output.line(format!("  {line}").trim_end())?;
    }
    for call in calls {
        output.line(format!("  calls {}", call_text(call)))?;
    }
    Ok(())
}

/// A call as a line: its name wherever the API at hand puts it, its id, and its JSON.
fn call_text(call: &RawValue) -> String {
    let value: Value = serde_json::from_str(call.get()).unwrap_or_default();
    let name = value["name"].as_str().or_else(|| value["function"]["name"].as_str()).unwrap_or("?");
    let id = value["id"].as_str().unwrap_or("no id");
    format!("{} ({}) {}", plain(name), plain(id), excerpt(call.get()))
}

/// Text that other devices have written, without what would steer the terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// A line in pieces of at most [`WIDTH`] characters, broken at spaces where there are any.
fn wrapped(line: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut width = 0;
    for word in line.split_inclusive(' ') {
        let length = word.trim_end().chars().count();
        if width > 0 && width + length > WIDTH {
            pieces.push(String::new());
            width = 0;
        }
        for character in word.chars() {
            if width >= WIDTH && character != ' ' {
                pieces.push(String::new());
                width = 0;
            }
            pieces.last_mut().expect("there is always one").push(character);
            width += 1;
        }
    }
    pieces
}

/// Reads well, and fits beside the indentation in the narrowest usual terminal.
const WIDTH: usize = 76;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_at_spaces_and_long_words_are_cut() {
        let words = "word ".repeat(40);
        let long = "ü".repeat(WIDTH + 5);

        assert!(wrapped(&words).iter().all(|piece| piece.trim_end().chars().count() <= WIDTH));
        assert_eq!(wrapped(&words).concat(), words);
        assert_eq!(wrapped(&long).iter().map(|piece| piece.chars().count()).collect::<Vec<_>>(), [WIDTH, 5]);
        assert_eq!(wrapped(""), [""]);
    }

    #[test]
    fn what_would_steer_the_terminal_is_not_printed() {
        assert_eq!(plain("a\x1b[2Jb\tc\u{9b}d"), "a\u{fffd}[2Jb\tc\u{fffd}d");
    }

    #[test]
    fn a_call_is_named_in_the_forms_that_are_used() {
        let call = |text: &str| call_text(&RawValue::from_string(text.to_owned()).unwrap());

        assert!(call(r#"{"id":"c","name":"find"}"#).starts_with("find (c) "));
        assert!(call(r#"{"function":{"name":"find"},"id":"c"}"#).starts_with("find (c) "));
        assert!(call("{}").starts_with("? (no id) "));
    }
}
