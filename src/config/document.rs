//! The text of the file: reading it whole, and changing it so that comments and order stay.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};
use toml_edit::{Array, Document, DocumentMut, InlineTable, Item, Table, TableLike, TomlError, Value};

use super::error::{ConfigError, SettingProblem};
use super::keys::{KEYS, Key};
use super::settings::{Misfit, Setting, Settings};

/// Reads the text of a file.
///
/// # Errors
/// [`ConfigError::NotToml`] and [`ConfigError::Setting`], with the line.
pub(super) fn read(text: &str) -> Result<Settings, ConfigError> {
    let document = Document::parse(text).map_err(|error| not_toml(text, &error))?;
    let mut generation = 0;
    let mut stated = BTreeMap::new();
    for (name, item) in document.as_table().iter() {
        let at = |problem| ConfigError::Setting { line: line_of(text, item), problem };
        if name == GENERATION {
            generation = generation_in(item).map_err(at)?;
        } else if let Some(key) = Key::named(name) {
            stated.insert(key.name, setting(key, item).map_err(at)?);
        } else {
            section(text, name, item, &mut stated)?;
        }
    }
    Ok(Settings::new(generation, stated))
}

/// Applies a merge patch (RFC 7396) and counts it: the text that follows, and its settings.
///
/// # Errors
/// [`ConfigError::GenerationConflict`] where another generation was expected, [`ConfigError::NotToml`],
/// and [`ConfigError::Setting`] for a file that would not be right afterwards; what is wrong in it now
/// may be what the patch mends.
pub(super) fn patched(
    text: &str,
    patch: &Map<String, Json>,
    expected: Option<u64>,
) -> Result<(String, Settings), ConfigError> {
    let mut document = text.parse::<DocumentMut>().map_err(|error| not_toml(text, &error))?;
    let current = document.get(GENERATION).map_or(Ok(0), generation_in)?;
    if let Some(expected) = expected.filter(|expected| *expected != current) {
        return Err(ConfigError::GenerationConflict { expected, current });
    }
    if patch.contains_key(GENERATION) {
        return Err(SettingProblem::Generation { found: None }.into());
    }
    for (name, change) in patch {
        match change {
            Json::Object(inner) if Key::named(name).is_none() => {
                change_section(document.as_table_mut(), name, inner)?;
            }
            change => apply(document.as_table_mut(), name, name, change)?,
        }
    }
    let next = i64::try_from(current.saturating_add(1)).unwrap_or(i64::MAX);
    put(document.as_table_mut(), GENERATION, next.into());
    let text = document.to_string();
    let settings = read(&text).map_err(ConfigError::without_line)?;
    Ok((text, settings))
}

fn section(
    text: &str,
    section: &str,
    item: &Item,
    stated: &mut BTreeMap<&'static str, Setting>,
) -> Result<(), ConfigError> {
    let at = |item: &Item, problem| ConfigError::Setting { line: line_of(text, item), problem };
    let is_known = is_section(section);
    let Some(table) = item.as_table_like() else {
        let problem = match is_known {
            true => SettingProblem::NotASection { section: section.to_owned(), found: shown(item) },
            false => unknown(section),
        };
        return Err(at(item, problem));
    };
    if !is_known && table.is_empty() {
        return Err(at(item, unknown(section)));
    }
    for (name, item) in table.iter() {
        let full = format!("{section}.{name}");
        let key = Key::named(&full).ok_or_else(|| at(item, unknown(&full)))?;
        stated.insert(key.name, setting(key, item).map_err(|problem| at(item, problem))?);
    }
    Ok(())
}

fn setting(key: &'static Key, item: &Item) -> Result<Setting, SettingProblem> {
    let value = item.as_value();
    let misfit = |found: String| Misfit::Kind(found).of(key);
    let found = match value {
        Some(Value::Boolean(flag)) => Setting::Flag(*flag.value()),
        Some(Value::Integer(number)) => match u64::try_from(*number.value()) {
            Ok(number) => Setting::Integer(number),
            Err(_) => {
                let (key, expected, found) = (key.name, key.kind.expected(), *number.value());
                return Err(SettingProblem::OutOfRange { key, expected, found });
            }
        },
        Some(Value::String(text)) => Setting::Text(text.value().clone()),
        Some(Value::Array(array)) => {
            let texts = array.iter().map(|item| item.as_str().map(str::to_owned)).collect();
            let texts: Option<Vec<String>> = texts;
            Setting::Texts(texts.ok_or_else(|| misfit(shown(item)))?)
        }
        Some(Value::Float(_) | Value::Datetime(_) | Value::InlineTable(_)) | None => {
            return Err(misfit(shown(item)));
        }
    };
    found.checked(key.kind).map_err(|found| found.of(key))
}

fn change_section(root: &mut Table, section: &str, changes: &Map<String, Json>) -> Result<(), ConfigError> {
    if !root.get(section).is_some_and(Item::is_table_like) {
        if changes.values().all(Json::is_null) {
            // Nothing to take away; a name that never was is a typing error all the same.
            let names = changes.keys().map(|name| format!("{section}.{name}"));
            let wrong = names.into_iter().find(|name| Key::named(name).is_none());
            return wrong.map_or(Ok(()), |name| Err(unknown(&name).into()));
        }
        root.insert(section, Item::Table(Table::new()));
    }
    let table = root.get_mut(section).and_then(Item::as_table_like_mut);
    let table = table.expect("it is one, or has just been made one");
    changes.iter().try_for_each(|(name, change)| apply(table, name, &format!("{section}.{name}"), change))
}

fn apply(table: &mut dyn TableLike, name: &str, full: &str, change: &Json) -> Result<(), ConfigError> {
    if !change.is_null() {
        put(table, name, to_toml(change));
    } else if table.remove(name).is_none() && Key::named(full).is_none() && !is_section(full) {
        return Err(unknown(full).into());
    }
    Ok(())
}

/// Sets a value; the comment beside the one that was there stays.
fn put(table: &mut dyn TableLike, name: &str, mut value: Value) {
    if let Some(Item::Value(old)) = table.get_mut(name) {
        *value.decor_mut() = old.decor().clone();
        *old = value;
    } else {
        table.insert(name, Item::Value(value));
    }
}

/// What no key can be becomes a table, which the check then refuses by its key.
fn to_toml(json: &Json) -> Value {
    match json {
        Json::Null | Json::Object(_) => Value::InlineTable(InlineTable::new()),
        Json::Bool(flag) => (*flag).into(),
        Json::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64().unwrap_or(f64::MAX).into(),
        },
        Json::String(text) => text.into(),
        Json::Array(items) => {
            let items: Array = items.iter().map(to_toml).collect();
            items.into()
        }
    }
}

fn generation_in(item: &Item) -> Result<u64, SettingProblem> {
    let number = item.as_integer().and_then(|number| u64::try_from(number).ok());
    number.ok_or_else(|| SettingProblem::Generation { found: Some(shown(item)) })
}

fn unknown(name: &str) -> SettingProblem {
    let nearest = Key::nearest(name);
    SettingProblem::UnknownKey { key: name.chars().take(SHOWN_CHARS_MAX).collect(), nearest }
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.split_once('.').is_some_and(|(section, _)| section == name))
}

/// A value that does not fit, as it is told.
fn shown(item: &Item) -> String {
    match item.type_name() {
        "integer" | "float" | "boolean" | "string" => item.to_string().trim().to_owned(),
        "none" => "nothing".to_owned(),
        "array" => "a list with something else".to_owned(),
        "array of tables" => "a list of sections".to_owned(),
        "datetime" => "a date".to_owned(),
        _ => "a section".to_owned(),
    }
}

fn not_toml(text: &str, error: &TomlError) -> ConfigError {
    let line = error.span().map(|span| line_at(text, span.start));
    ConfigError::NotToml { line, problem: error.message().trim().replace('\n', ", ") }
}

fn line_of(text: &str, item: &Item) -> Option<usize> {
    item.span().map(|span| line_at(text, span.start))
}

fn line_at(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

const GENERATION: &str = "generation";

/// What an error shows of a name.
const SHOWN_CHARS_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::config::keys::Kind;

    const FILE: &str = "\
# My laptop.
generation = 7

[network]
listen = \"[::]:4433\" # the router forwards it
peers = [\"nas:4433\"]
max_mtu = 1280

[sync]
anti_entropy_seconds = 30
";

    #[test]
    fn a_file_is_read_with_its_generation() {
        let settings = read(FILE).expect("a good file");

        assert_eq!(settings.generation(), 7);
        assert_eq!(settings.listen(), "[::]:4433".parse().expect("literal"));
        assert_eq!(settings.peers(), ["nas:4433"]);
        assert!(settings.has_mdns(), "a default");
        assert_eq!(read("").expect("an empty file"), Settings::default());
    }

    #[test]
    fn a_profile_changes_what_is_not_said() {
        let settings = read("profile = \"manual\"\n[network]\nmdns = true").expect("a good file");

        assert!(settings.has_mdns(), "said");
        assert!(!settings.remembers_addresses());
        assert_eq!(settings.anti_entropy(), None);
        let test = read("profile = \"test\"").expect("a good file");
        assert!(test.listen().ip().is_loopback() && !test.has_mdns());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_the_nearest_key() {
        for (text, expect) in [
            (
                "[network]\n\nlistne = 1",
                "config.toml, line 3: no setting \"network.listne\"; did you mean network.listen?",
            ),
            ("mdns = false", "config.toml, line 1: no setting \"mdns\"; did you mean network.mdns?"),
            (
                "[netwrok]\nmdns = false",
                "config.toml, line 2: no setting \"netwrok.mdns\"; did you mean network.mdns?",
            ),
            ("[nothing]", "config.toml, line 1: no setting \"nothing\""),
            ("network = 3", "config.toml, line 1: network is a section with keys of its own, not 3"),
            ("[network]\nmdns = \"yes\"", "config.toml, line 2: network.mdns is true or false, not yes"),
            ("[network]\nmdns = 1.5", "config.toml, line 2: network.mdns is true or false, not 1.5"),
            (
                "[network]\nmax_mtu = 9000",
                "config.toml, line 2: network.max_mtu is a whole number from 1200 to 6500, not 9000",
            ),
            (
                "[network]\nmax_mtu = -1",
                "config.toml, line 2: network.max_mtu is a whole number from 1200 to 6500, not -1",
            ),
            (
                "[network]\npeers = [1]",
                "config.toml, line 2: network.peers is a list of HOST:PORT, not a list with something else",
            ),
            (
                "[network]\npeers = [\"nas\"]",
                "config.toml, line 2: network.peers is a list of HOST:PORT, not \"nas\"",
            ),
            (
                "[network.listen]\na = 1",
                "config.toml, line 1: network.listen is ADDRESS:PORT, or a port for all addresses, not a section",
            ),
            (
                "[[network]]\nmdns = true",
                "config.toml, line 1: network is a section with keys of its own, not a list of sections",
            ),
            (
                "profile = \"fast\"",
                "config.toml, line 1: profile is one of default, test, manual, not \"fast\"",
            ),
            (
                "generation = \"x\"",
                "config.toml, line 1: generation counts the changes and cannot be set to \"x\"",
            ),
        ] {
            let error = read(text).expect_err(text);
            assert_eq!(error.to_string(), expect, "{text}");
        }
        let many = format!("[network]\npeers = [{}]", "\"a:1\",".repeat(200));
        let problem = SettingProblem::TooMuch { key: "network.peers", found: 200 };
        assert!(
            matches!(read(&many), Err(ConfigError::Setting { line: Some(2), problem: found }) if found == problem)
        );
        assert!(matches!(read("\n[network\n"), Err(ConfigError::NotToml { line: Some(2), .. })));
    }

    #[test]
    fn a_patch_changes_what_it_names_and_leaves_comments_where_they_are() {
        let patch =
            json!({"network": {"listen": "127.0.0.1:1", "peers": null, "mdns": false}, "profile": "test"});

        let (text, settings) = patched(FILE, patch.as_object().expect("an object"), Some(7)).expect("fits");

        assert_eq!(settings.generation(), 8);
        assert!(settings.peers().is_empty() && !settings.has_mdns());
        assert_eq!(
            text,
            "\
# My laptop.
generation = 8
profile = \"test\"

[network]
listen = \"127.0.0.1:1\" # the router forwards it
max_mtu = 1280
mdns = false

[sync]
anti_entropy_seconds = 30
"
        );
        assert_eq!(read(&text).expect("what was written"), settings);
    }

    #[test]
    fn a_patch_that_does_not_fit_changes_nothing_and_says_why() {
        let refused = |patch: Json, expected| {
            let patch = patch.as_object().expect("an object").clone();
            patched(FILE, &patch, expected).expect_err("refused").to_string()
        };

        assert_eq!(refused(json!({}), Some(6)), "the settings are at generation 7, not 6; read them again");
        assert!(refused(json!({"generation": 9}), None).starts_with("generation counts"));
        assert!(refused(json!({"network": {"mdsn": null}}), None).contains("did you mean network.mdns?"));
        assert!(refused(json!({"metrics_of": {"mdns": null}}), None).contains("did you mean network.mdns?"));
        assert!(refused(json!({"netw": null}), None).starts_with("no setting"));
        assert!(refused(json!({"network": 1}), None).starts_with("network is a section"));
        assert!(refused(json!({"network": {"listen": {"a": 1}}}), None).ends_with("not a section"));
        assert!(refused(json!({"profile": {"a": 1}}), None).starts_with("profile is one of"));
        assert!(
            refused(json!({"network": {"max_mtu": u64::MAX}}), None)
                .starts_with("network.max_mtu is a whole")
        );
        assert!(refused(json!({"network": {"peers": [null]}}), None).starts_with("network.peers is a list"));
    }

    #[test]
    fn a_patch_mends_a_file_that_is_wrong() {
        let text = "[network]\nlistne = \"x\"\n";

        let patch = json!({"network": {"listne": null, "listen": 4433}});
        let (text, settings) = patched(text, patch.as_object().expect("an object"), None).expect("mended");

        assert_eq!(text, "generation = 1\n[network]\nlisten = 4433\n");
        assert_eq!(settings.listen().port(), 4433);
    }

    #[test]
    fn every_key_is_set_and_read_back() {
        for key in KEYS {
            let value = match key.kind {
                Kind::Flag => json!(true),
                Kind::Integer { max, .. } => json!(max),
                Kind::Choice(words) => json!(words[words.len() - 1]),
                Kind::Address => json!("127.0.0.1:7"),
                Kind::Loopback => json!("[::1]:7"),
                Kind::Peers => json!(["a:1", "[::1]:2"]),
                Kind::Interfaces => json!(["en0", "wg*"]),
            };
            let patch = match key.name.split_once('.') {
                Some((section, name)) => json!({section: {name: value.clone()}}),
                None => json!({key.name: value.clone()}),
            };
            let (_, settings) = patched("", patch.as_object().expect("an object"), Some(0)).expect(key.name);
            assert_eq!(settings.value(key).to_json(), value, "{}", key.name);
            assert!(settings.is_stated(key));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_settings_or_an_error(text in "[\\[\\]a-z=\"0-9#.\n ]{0,200}") {
            let _ = read(&text);
            let _ = patched(&text, &Map::new(), None);
        }

        #[test]
        fn a_patch_of_anything_is_settings_or_an_error(
            name in "(network|sync|profile|[a-z]{1,5})",
            inner in "(mdns|listen|peers|max_mtu|[a-z.\"]{1,6})",
            value in prop_oneof![
                Just(Json::Null), any::<bool>().prop_map(Json::from), any::<i64>().prop_map(Json::from),
                any::<f64>().prop_map(Json::from), ".{0,12}".prop_map(Json::from),
                Just(json!([1, null])), Just(json!({"a": [{}]})),
            ],
        ) {
            for patch in [json!({name.clone(): {inner: value.clone()}}), json!({name: value})] {
                if let Ok((text, settings)) = patched(FILE, patch.as_object().expect("an object"), None) {
                    prop_assert_eq!(settings.generation(), 8);
                    prop_assert_eq!(read(&text).expect("what was written"), settings);
                }
            }
        }
    }
}
