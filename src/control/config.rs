//! `config.get`, `config.set` and `config.patch`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::ControlError;
use crate::config::{ConfigError, ConfigFile, KEYS, Key, SettingProblem, Settings};
use crate::node::{Node, Reloaded};

/// How much an answer tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Envelope {
    /// Fit to be shown to others: no path of this machine.
    #[default]
    Public,
    /// With where the file is, for whoever looks for a fault.
    Diagnostic,
}

/// What to show.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigGetParams {
    /// Only this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `public` where absent.
    #[serde(default)]
    pub envelope: Envelope,
}

/// A key to set.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigSetParams {
    /// `section.name`.
    pub key: String,
    /// Its value; null takes it away, so that the default holds.
    pub value: Value,
    /// Only if the settings are at this generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_generation: Option<u64>,
}

/// Keys to change together.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigPatchParams {
    /// A JSON merge patch (RFC 7396) of the settings by section.
    pub patch: Value,
    /// Only if the settings are at this generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_generation: Option<u64>,
}

/// The settings.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConfigForm {
    /// How often they were changed by kinfold.
    pub generation: u64,
    /// What holds, by section: all keys, or the one that was asked for.
    pub settings: Value,
    /// The keys the file says; the others are defaults.
    pub stated: Vec<String>,
    /// Keys whose value here is not the one the running node was started with.
    pub needs_restart: Vec<String>,
    /// Where the file is; only in a diagnostic envelope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Settings that were changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConfigChangedForm {
    /// The generation that is there now.
    pub generation: u64,
    /// Keys whose new value has taken effect in the node that answers.
    pub changed: Vec<String>,
    /// Keys that wait for its next start.
    pub needs_restart: Vec<String>,
}

/// Answers `config.get`.
pub(super) async fn get(node: &Node, params: ConfigGetParams) -> Result<ConfigForm, ControlError> {
    let file = ConfigFile::of(node.home());
    let read = file.clone();
    let settings = blocking(move || read.read()).await?;
    config_form(&file, &settings, &params, &node.waiting_for_restart(&settings))
}

/// Answers `config.set`.
pub(super) async fn set(node: &Node, params: ConfigSetParams) -> Result<ConfigChangedForm, ControlError> {
    let file = ConfigFile::of(node.home());
    blocking(move || file.set(&params.key, params.value, params.expected_generation)).await?;
    Ok(node.reload().await?.into())
}

/// Answers `config.patch`.
pub(super) async fn patch(node: &Node, params: ConfigPatchParams) -> Result<ConfigChangedForm, ControlError> {
    let file = ConfigFile::of(node.home());
    blocking(move || file.patch(&params.patch, params.expected_generation)).await?;
    Ok(node.reload().await?.into())
}

/// The settings as they are told; `waiting` are keys that wait for a restart of a running node.
///
/// # Errors
/// [`ControlError::Config`] for a key there is not.
pub fn config_form(
    file: &ConfigFile,
    settings: &Settings,
    params: &ConfigGetParams,
    waiting: &[&'static str],
) -> Result<ConfigForm, ControlError> {
    let only = match &params.key {
        None => None,
        Some(name) => Some(Key::named(name).ok_or_else(|| {
            let nearest = Key::nearest(name);
            ConfigError::from(SettingProblem::UnknownKey { key: name.clone(), nearest })
        })?),
    };
    let is_asked = |name: &str| only.is_none_or(|key| key.name == name);
    let stated = KEYS.iter().filter(|key| settings.is_stated(key)).map(|key| key.name);
    let path = match params.envelope {
        Envelope::Public => None,
        Envelope::Diagnostic => Some(file.path().display().to_string()),
    };
    Ok(ConfigForm {
        generation: settings.generation(),
        settings: only.map_or_else(|| settings.to_json(), |key| settings.value(key).to_json()),
        stated: stated.filter(|name| is_asked(name)).map(str::to_owned).collect(),
        needs_restart: waiting.iter().filter(|name| is_asked(name)).map(|name| (*name).to_owned()).collect(),
        path,
    })
}

impl From<Reloaded> for ConfigChangedForm {
    fn from(reloaded: Reloaded) -> Self {
        let owned = |names: Vec<&'static str>| names.into_iter().map(str::to_owned).collect();
        Self {
            generation: reloaded.generation,
            changed: owned(reloaded.changed),
            needs_restart: owned(reloaded.needs_restart),
        }
    }
}

impl From<ConfigError> for ControlError {
    fn from(error: ConfigError) -> Self {
        Self::Config(Box::new(error))
    }
}

/// The name of an error, stable for programs.
pub(super) fn config_kind(error: &ConfigError) -> &'static str {
    match error {
        ConfigError::NotToml { .. } => "NotToml",
        ConfigError::Setting { problem, .. } => match problem {
            SettingProblem::UnknownKey { .. } => "UnknownKey",
            SettingProblem::WrongKind { .. } => "WrongKind",
            SettingProblem::OutOfRange { .. } => "OutOfRange",
            SettingProblem::NotAllowed { .. } => "NotAllowed",
            SettingProblem::TooMuch { .. } => "TooMuch",
            SettingProblem::NotASection { .. } => "NotASection",
            SettingProblem::Generation { .. } => "Generation",
        },
        ConfigError::GenerationConflict { .. } => "GenerationConflict",
        ConfigError::PatchForm => "PatchForm",
        ConfigError::TooLong { .. } => "ConfigTooLong",
        ConfigError::File { .. } => "ConfigFile",
    }
}

/// What to do, where the message does not say it.
pub(super) fn config_hint(error: &ConfigError) -> Option<String> {
    match error {
        ConfigError::NotToml { .. } => Some("mend config.toml in an editor, or move it aside".into()),
        ConfigError::Setting { problem: SettingProblem::UnknownKey { nearest: None, .. }, .. } => {
            Some("`kinfold config get` lists what there is to set".into())
        }
        ConfigError::Setting { line: Some(_), .. } => {
            Some("mend config.toml in an editor, or set the key with `kinfold config set`".into())
        }
        _ => None,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ConfigError> + Send + 'static,
) -> Result<T, ControlError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(ControlError::Lost),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::RpcError;

    #[test]
    fn only_a_diagnostic_envelope_has_a_path() {
        let file = ConfigFile::of(std::path::Path::new("/home/of/me"));
        let form = |key: Option<&str>, envelope| {
            let params = ConfigGetParams { key: key.map(str::to_owned), envelope };
            config_form(&file, &Settings::default(), &params, &["network.mdns"])
        };

        let public = form(None, Envelope::Public).expect("known keys only");
        let diagnostic = form(Some("network.mdns"), Envelope::Diagnostic).expect("a known key");

        assert!(!serde_json::to_string(&public).expect("plain").contains("/home/of/me"));
        assert_eq!(public.settings["network"]["max_mtu"], 1_452);
        assert_eq!(diagnostic.path.as_deref(), Some("/home/of/me/config.toml"));
        assert_eq!(diagnostic.settings, json!(true));
        assert_eq!(diagnostic.needs_restart, ["network.mdns"]);
        assert!(
            form(Some("network.listen"), Envelope::Public).is_ok_and(|form| form.needs_restart.is_empty())
        );
        assert!(form(Some("network.nothing"), Envelope::Public).is_err());
    }

    #[test]
    fn a_conflict_tells_both_generations() {
        let error = ConfigError::GenerationConflict { expected: 3, current: 4 };

        let form = serde_json::to_value(RpcError::from(ControlError::from(error))).expect("plain");

        assert_eq!(form["data"]["kind"], "GenerationConflict");
        assert_eq!((&form["data"]["expected"], &form["data"]["current"]), (&json!(3), &json!(4)));
    }
}
