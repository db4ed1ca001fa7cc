//! `config`: the settings of a device, whether its node runs or not.

use std::io::Read as _;
use std::path::Path;

use kinfold::config::{ConfigError, ConfigFile, KEYS, Key, Setting};
use kinfold::control::config::{
    ConfigChangedForm, ConfigForm, ConfigGetParams, ConfigPatchParams, ConfigSetParams, Envelope, config_form,
};
use kinfold::control::{Client, ControlError, Method};
use kinfold::node::{Node, Reloaded};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::to_raw_value;

use crate::args::{ConfigCommand, ConfigGet, ConfigPatch, ConfigSet, ConfigUnset};
use crate::failure::Failure;
use crate::output::{Output, Tone};

pub async fn run(home: &Path, command: ConfigCommand, output: &Output) -> Result<(), Failure> {
    // A home that is none must stay empty, or `init` would refuse it.
    Node::device_in(home)?;
    match command {
        ConfigCommand::Get(get) => show(home, get, output).await,
        ConfigCommand::Set(set) => change_one(home, set, output).await,
        ConfigCommand::Unset(ConfigUnset { key, expect }) => {
            let params = ConfigSetParams { key, value: Value::Null, expected_generation: expect };
            tell(&set(home, params).await?, output)
        }
        ConfigCommand::Patch(patch) => change_many(home, patch, output).await,
        ConfigCommand::Path => output.line(ConfigFile::of(home).path().display().to_string()),
    }
}

async fn show(home: &Path, get: ConfigGet, output: &Output) -> Result<(), Failure> {
    let envelope = if get.diagnostic { Envelope::Diagnostic } else { Envelope::Public };
    let params = ConfigGetParams { key: get.key, envelope };
    let form: ConfigForm = match ask(home, Method::GetConfig, &params).await? {
        Some(form) => form,
        None => {
            let file = ConfigFile::of(home);
            config_form(&file, &file.read().map_err(ControlError::from)?, &params, &[])?
        }
    };
    if output.is_json() {
        return output.json(&form);
    }
    if params.key.is_some() {
        return output.line(text(&form.settings));
    }
    let row = |key: &Key| {
        let value = match key.name.split_once('.') {
            Some((section, name)) => &form.settings[section][name],
            None => &form.settings[key.name],
        };
        let is_stated = form.stated.iter().any(|name| name == key.name);
        let waits = form.needs_restart.iter().any(|name| name == key.name);
        let from = match (is_stated, waits) {
            (_, true) => output.paint(Tone::Warn, "at the next start"),
            (true, false) => "set".to_owned(),
            (false, false) => output.paint(Tone::Quiet, "default"),
        };
        [key.name.to_owned(), text(value), from, key.about.to_owned()]
    };
    output.table(["setting", "value", "from", "what it does"], KEYS.iter().map(row).collect())?;
    if let Some(path) = form.path {
        output.line(format!("\n{path}, generation {}", form.generation))?;
    }
    Ok(())
}

async fn change_one(home: &Path, change: ConfigSet, output: &Output) -> Result<(), Failure> {
    // An unknown key is refused by whoever keeps the settings, with the one that was meant.
    let value = match Key::named(&change.key) {
        Some(key) => Setting::typed(key, &change.value),
        None => Value::String(change.value),
    };
    let params = ConfigSetParams { key: change.key, value, expected_generation: change.expect };
    tell(&set(home, params).await?, output)
}

async fn set(home: &Path, params: ConfigSetParams) -> Result<ConfigChangedForm, Failure> {
    match ask(home, Method::SetConfig, &params).await? {
        Some(form) => Ok(form),
        None => {
            let file = ConfigFile::of(home);
            let set = file.set(&params.key, params.value, params.expected_generation);
            Ok(changed(set.map_err(ControlError::from)?.generation()))
        }
    }
}

/// Every object of the input is a patch of its own, applied in order.
async fn change_many(home: &Path, change: ConfigPatch, output: &Output) -> Result<(), Failure> {
    let text = match change.patch.as_str() {
        "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(Failure::StandardInput)?;
            text
        }
        text => text.to_owned(),
    };
    let patches = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let patches = patches.collect::<Result<Vec<_>, _>>().map_err(ControlError::NotJson)?;
    if patches.is_empty() {
        return Err(ControlError::from(ConfigError::PatchForm).into());
    }
    let file = ConfigFile::of(home);
    let mut last = None;
    let mut expected_generation = change.expect;
    for patch in patches {
        let params = ConfigPatchParams { patch, expected_generation };
        let form = match ask(home, Method::PatchConfig, &params).await? {
            Some(form) => form,
            None => {
                let settings = file.patch(&params.patch, expected_generation).map_err(ControlError::from)?;
                changed(settings.generation())
            }
        };
        // Nobody comes in between unseen, from the first to the last.
        expected_generation = expected_generation.map(|_| form.generation);
        last = Some(form);
    }
    last.map_or(Ok(()), |form| tell(&form, output))
}

/// What a change comes to where no node runs.
fn changed(generation: u64) -> ConfigChangedForm {
    ConfigChangedForm { generation, changed: Vec::new(), needs_restart: Vec::new() }
}

fn tell(form: &ConfigChangedForm, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(form);
    }
    output.line(format!("{}, generation {}", output.paint(Tone::Good, "changed"), form.generation))?;
    if !form.changed.is_empty() {
        output.note(format!("in effect now: {}", form.changed.join(", ")));
    }
    if !form.needs_restart.is_empty() {
        output.note(format!("at the next start of `kinfold up`: {}", form.needs_restart.join(", ")));
    }
    Ok(())
}

/// Asks the node that runs; `None` where none does.
async fn ask<R: DeserializeOwned>(
    home: &Path,
    method: Method,
    params: &impl Serialize,
) -> Result<Option<R>, Failure> {
    let Some((client, _notices)) = Client::connect(home).await? else { return Ok(None) };
    let params = to_raw_value(params).map_err(Failure::Answer)?;
    let answer = client.call(method.name(), &params).await?;
    serde_json::from_str(answer.get()).map(Some).map_err(Failure::Answer)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// What `up` says after it has read the settings again.
pub fn reloaded_text(reloaded: &Reloaded) -> String {
    let mut text = format!("settings of generation {} read", reloaded.generation);
    if !reloaded.changed.is_empty() {
        text.push_str(&format!("; in effect now: {}", reloaded.changed.join(", ")));
    }
    if !reloaded.needs_restart.is_empty() {
        text.push_str(&format!("; at the next start: {}", reloaded.needs_restart.join(", ")));
    }
    text
}
