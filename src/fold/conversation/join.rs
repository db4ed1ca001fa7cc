//! Putting contents together, and giving a call another id.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use super::turn::{Call, Content, json_string};

/// What several turns of one role say, as one: texts with an empty line between them; once there are
/// parts, the parts in order, a text as a part of its own.
pub(super) fn contents<'a>(contents: impl Iterator<Item = &'a Content> + Clone) -> Content {
    let contents = contents.filter(|content| !content.is_empty());
    let texts: Option<Vec<&str>> = contents
        .clone()
        .map(|content| match content {
            Content::Text(text) => Some(text.as_str()),
            Content::Parts(_) => None,
        })
        .collect();
    match texts {
        Some(texts) => Content::Text(texts.join("\n\n")),
        None => Content::Parts(contents.flat_map(parts).collect()),
    }
}

fn parts(content: &Content) -> Vec<String> {
    match content {
        Content::Text(text) => vec![format!(r#"{{"text":{},"type":"text"}}"#, json_string(text))],
        Content::Parts(parts) => parts.clone(),
    }
}

/// Hands out ids of calls, each once.
pub(super) struct Ids<'a> {
    /// Every id that some call of the conversation has.
    written: BTreeSet<&'a str>,
    given: BTreeSet<String>,
    /// By id: how often another one had to be found for it.
    repeats: BTreeMap<&'a str, u64>,
}

impl<'a> Ids<'a> {
    pub(super) fn new(written: impl Iterator<Item = &'a str>) -> Self {
        Self { written: written.collect(), given: BTreeSet::new(), repeats: BTreeMap::new() }
    }

    /// The id itself the first time; after that `ID-2`, `ID-3` …, past those that some call has.
    pub(super) fn give(&mut self, id: &'a str) -> String {
        if self.given.insert(id.to_owned()) {
            return id.to_owned();
        }
        let repeat = self.repeats.entry(id).or_insert(1);
        loop {
            *repeat += 1;
            let other = format!("{id}-{repeat}");
            if !self.written.contains(other.as_str()) && self.given.insert(other.clone()) {
                return other;
            }
        }
    }
}

/// The call under another id.
pub(super) fn renamed(call: &Call, id: &str) -> Call {
    let members: BTreeMap<String, &RawValue> =
        serde_json::from_str(&call.json).expect("a call is an object: Turn::parse has read it");
    let id_json = json_string(id);
    let member = |(name, value): (&String, &&RawValue)| {
        let value = if name == "id" { id_json.as_str() } else { value.get() };
        format!("{}:{value}", json_string(name))
    };
    let members: Vec<String> = members.iter().map(member).collect();
    Call { id: Some(id.to_owned()), json: format!("{{{}}}", members.join(",")) }
}
