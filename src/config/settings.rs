//! Settings as they hold: what the file says, and the default where it says nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use serde_json::{Map, Value};

use super::error::SettingProblem;
use super::keys::{KEYS, Key, Kind};
use super::{LIST_ITEMS_MAX, TEXT_BYTES_MAX};

/// A value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Setting {
    /// `true` or `false`.
    Flag(bool),
    /// A number.
    Integer(u64),
    /// A word or an address.
    Text(String),
    /// A list of them.
    Texts(Vec<String>),
}

impl Setting {
    /// The value, if `kind` allows it.
    ///
    /// # Errors
    /// What is wrong with it, for [`SettingProblem::NotAllowed`] and its neighbours.
    pub(super) fn checked(self, kind: Kind) -> Result<Self, Misfit> {
        match (kind, self) {
            (Kind::Flag, Self::Flag(flag)) => Ok(Self::Flag(flag)),
            (Kind::Integer { min, max }, Self::Integer(found)) => {
                if (min..=max).contains(&found) {
                    Ok(Self::Integer(found))
                } else {
                    Err(Misfit::Range(found))
                }
            }
            // A port alone is an address too.
            (Kind::Address, Self::Integer(port)) => Self::Text(port.to_string()).checked(kind),
            (Kind::Loopback, Self::Integer(port)) => Self::Text(format!("127.0.0.1:{port}")).checked(kind),
            (Kind::Choice(_) | Kind::Address | Kind::Loopback, Self::Text(text)) => {
                allowed(kind, text).map(Self::Text)
            }
            (Kind::Peers | Kind::Interfaces, Self::Texts(texts)) => {
                if texts.len() > LIST_ITEMS_MAX {
                    return Err(Misfit::TooMuch(texts.len()));
                }
                texts.into_iter().map(|text| allowed(kind, text)).collect::<Result<_, _>>().map(Self::Texts)
            }
            (_, other) => Err(Misfit::Kind(other.to_string())),
        }
    }

    /// What a person typed for this key: a flag or number by its look, a list by its commas.
    pub fn typed(key: &Key, text: &str) -> Value {
        match key.kind {
            Kind::Peers | Kind::Interfaces if !text.trim_start().starts_with('[') => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                items.map(|item| Value::String(item.to_owned())).collect()
            }
            Kind::Choice(_) => Value::String(text.to_owned()),
            _ => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
        }
    }

    /// As a JSON value.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Flag(flag) => (*flag).into(),
            Self::Integer(number) => (*number).into(),
            Self::Text(text) => text.as_str().into(),
            Self::Texts(texts) => texts.as_slice().into(),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => flag.fmt(f),
            Self::Integer(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
            Self::Texts(texts) => f.write_str(&texts.join(", ")),
        }
    }
}

/// Why a value does not fit its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Misfit {
    Kind(String),
    Range(u64),
    Text(String),
    TooMuch(usize),
}

impl Misfit {
    pub fn of(self, key: &'static Key) -> SettingProblem {
        let (name, expected) = (key.name, key.kind.expected());
        match self {
            Self::Kind(found) => SettingProblem::WrongKind { key: name, expected, found: cut(&found) },
            Self::Range(found) => {
                let found = i64::try_from(found).unwrap_or(i64::MAX);
                SettingProblem::OutOfRange { key: name, expected, found }
            }
            Self::Text(found) => SettingProblem::NotAllowed { key: name, expected, found: cut(&found) },
            Self::TooMuch(found) => SettingProblem::TooMuch { key: name, found },
        }
    }
}

/// The settings of one generation. Only a check of the whole file makes them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    generation: u64,
    values: BTreeMap<&'static str, Setting>,
    stated: BTreeSet<&'static str>,
}

impl Default for Settings {
    fn default() -> Self {
        Self::new(0, BTreeMap::new())
    }
}

impl Settings {
    /// `stated` holds checked values; the profile among them says what the others are.
    pub(super) fn new(generation: u64, mut stated: BTreeMap<&'static str, Setting>) -> Self {
        let names = stated.keys().copied().collect();
        let profile = match stated.get("profile") {
            Some(Setting::Text(profile)) => profile.clone(),
            _ => "default".to_owned(),
        };
        let value = |key: &'static Key| {
            let value = stated.remove(key.name).unwrap_or_else(|| key.default(&profile));
            (key.name, value)
        };
        let values = KEYS.iter().map(value).collect();
        Self { generation, values, stated: names }
    }

    /// How often the settings have been changed by this program.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// What holds for a key.
    pub fn value(&self, key: &Key) -> &Setting {
        &self.values[key.name]
    }

    /// Whether the file says it; otherwise it is a default.
    pub fn is_stated(&self, key: &Key) -> bool {
        self.stated.contains(key.name)
    }

    /// The keys that hold something else here than there.
    pub fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'static Key> + 'a {
        KEYS.iter().filter(|key| self.value(key) != other.value(key))
    }

    /// Everything that holds, by section.
    pub fn to_json(&self) -> Value {
        let mut all = Map::new();
        for key in KEYS {
            let value = self.value(key).to_json();
            match key.name.split_once('.') {
                None => drop(all.insert(key.name.to_owned(), value)),
                Some((section, name)) => {
                    let section = all.entry(section).or_insert_with(|| Value::Object(Map::new()));
                    section[name] = value;
                }
            }
        }
        Value::Object(all)
    }

    /// Where to listen.
    pub fn listen(&self) -> SocketAddr {
        listen_address(self.text("network.listen")).expect("checked when it was read")
    }

    /// Peers to dial always, as `host:port`.
    pub fn peers(&self) -> &[String] {
        self.texts("network.peers")
    }

    /// Whether devices are looked for on the local network.
    pub fn has_mdns(&self) -> bool {
        self.flag("network.mdns")
    }

    /// Whether within this machine too.
    pub fn has_mdns_on_loopback(&self) -> bool {
        self.flag("network.mdns_loopback")
    }

    /// Whether a start dials devices where they were last.
    pub fn remembers_addresses(&self) -> bool {
        self.flag("network.remember")
    }

    /// Greatest UDP payload, in bytes.
    pub fn max_mtu(&self) -> u16 {
        u16::try_from(self.integer("network.max_mtu")).expect("checked when it was read")
    }

    /// Whether the system may cut large sends into packets.
    pub fn has_segmentation_offload(&self) -> bool {
        self.flag("network.gso")
    }

    /// Whether the congestion controller is BBR instead of Cubic.
    pub fn is_bbr(&self) -> bool {
        self.text("network.congestion") == "bbr"
    }

    /// Interfaces used although they would be skipped.
    pub fn interfaces_allowed(&self) -> &[String] {
        self.texts("network.interfaces_allow")
    }

    /// Interfaces never used.
    pub fn interfaces_denied(&self) -> &[String] {
        self.texts("network.interfaces_deny")
    }

    /// Between two comparisons with every connected device; `None`: only when something changes.
    pub fn anti_entropy(&self) -> Option<Duration> {
        Some(self.integer("sync.anti_entropy_seconds")).filter(|span| *span > 0).map(Duration::from_secs)
    }

    /// How long history stays once every device has attested a checkpoint.
    pub fn gc_grace(&self) -> Duration {
        Duration::from_secs(self.integer("gc.grace_days") * 24 * 3_600)
    }

    /// On how many days a device may be silent before nothing waits for it; `None`: for ever.
    pub fn dormant_after(&self) -> Option<NonZeroU16> {
        let days = u16::try_from(self.integer("gc.dormant_days")).expect("checked when it was read");
        NonZeroU16::new(days)
    }

    /// Whether there is a WebSocket beside the Unix socket.
    pub fn has_websocket(&self) -> bool {
        self.flag("control.websocket")
    }

    /// On which port; 0 for a free one.
    pub fn websocket_port(&self) -> u16 {
        u16::try_from(self.integer("control.websocket_port")).expect("checked when it was read")
    }

    /// What is kept in the log files: `off` or a level.
    pub fn log_level(&self) -> &str {
        self.text("log.level")
    }

    /// How long a log file grows, in bytes.
    pub fn log_file_bytes_max(&self) -> u64 {
        self.integer("log.file_bytes_max")
    }

    /// How many log files are kept, the current one included.
    pub fn log_files_max(&self) -> u64 {
        self.integer("log.files_max")
    }

    /// Where figures are served; `None`: nowhere.
    pub fn metrics_listen(&self) -> Option<SocketAddr> {
        loopback_address(self.text("metrics.listen"))
    }

    fn flag(&self, name: &str) -> bool {
        match self.values[name] {
            Setting::Flag(flag) => flag,
            _ => unreachable!("the key is a flag, and its value was checked"),
        }
    }

    fn integer(&self, name: &str) -> u64 {
        match self.values[name] {
            Setting::Integer(number) => number,
            _ => unreachable!("the key is a number, and its value was checked"),
        }
    }

    fn text(&self, name: &str) -> &str {
        match &self.values[name] {
            Setting::Text(text) => text,
            _ => unreachable!("the key is a text, and its value was checked"),
        }
    }

    fn texts(&self, name: &str) -> &[String] {
        match &self.values[name] {
            Setting::Texts(texts) => texts,
            _ => unreachable!("the key is a list, and its value was checked"),
        }
    }
}

/// `ADDRESS:PORT`, or a port for all addresses.
pub(super) fn listen_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
        Ok(port) => Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)),
        Err(_) => text.parse().ok(),
    }
}

fn allowed(kind: Kind, text: String) -> Result<String, Misfit> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Misfit::TooMuch(text.len()));
    }
    let is_allowed = match kind {
        Kind::Choice(words) => words.contains(&text.as_str()),
        Kind::Address => listen_address(&text).is_some(),
        Kind::Loopback => text == "off" || loopback_address(&text).is_some(),
        Kind::Peers => is_host_port(&text),
        Kind::Interfaces => is_pattern(&text),
        Kind::Flag | Kind::Integer { .. } => false,
    };
    if is_allowed { Ok(text) } else { Err(Misfit::Text(text)) }
}

fn loopback_address(text: &str) -> Option<SocketAddr> {
    text.parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback())
}

fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match literal {
        // A zone names the interface of a link-local address.
        Some(v6) => v6.split('%').next().is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()),
        None => {
            let is_name = |c: char| c.is_alphanumeric() || "-_.".contains(c);
            !host.is_empty() && host.chars().all(is_name)
        }
    };
    is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_pattern(text: &str) -> bool {
    let name = text.strip_suffix('*').unwrap_or(text);
    !text.is_empty() && name.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '*' && c != '/')
}

fn cut(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

/// What an error shows of a value.
const SHOWN_CHARS_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_file_the_defaults_hold_and_every_reader_finds_its_kind() {
        let settings = Settings::default();

        assert_eq!(settings.listen(), "[::]:0".parse().expect("literal"));
        assert!(settings.has_mdns() && settings.has_segmentation_offload() && settings.remembers_addresses());
        assert!(!settings.has_mdns_on_loopback() && !settings.is_bbr());
        assert_eq!(settings.max_mtu(), 1_452);
        assert!(settings.peers().is_empty());
        assert!(settings.interfaces_allowed().is_empty() && settings.interfaces_denied().is_empty());
        assert_eq!(settings.anti_entropy(), Some(Duration::from_secs(60)));
        assert_eq!(settings.gc_grace(), Duration::from_secs(7 * 86_400));
        assert_eq!(settings.dormant_after(), NonZeroU16::new(30));
        assert_eq!((settings.log_level(), settings.log_files_max()), ("info", 5));
        assert_eq!(settings.log_file_bytes_max(), 4 * 1024 * 1024);
        assert_eq!(settings.metrics_listen(), None);
        assert_eq!((settings.has_websocket(), settings.websocket_port()), (true, 0));
        assert!(KEYS.iter().all(|key| !settings.is_stated(key)));
    }

    #[test]
    fn a_value_is_of_its_kind_or_refused() {
        let check = |kind: Kind, value: Setting| value.checked(kind);
        let text = |text: &str| Setting::Text(text.to_owned());
        let range = Kind::Integer { min: 2, max: 4 };

        assert!(check(Kind::Flag, Setting::Flag(true)).is_ok());
        assert_eq!(check(Kind::Flag, text("yes")), Err(Misfit::Kind("yes".into())));
        assert!(check(range, Setting::Integer(2)).is_ok() && check(range, Setting::Integer(4)).is_ok());
        assert_eq!(check(range, Setting::Integer(5)), Err(Misfit::Range(5)));
        assert_eq!(check(Kind::Choice(&["a"]), text("b")), Err(Misfit::Text("b".into())));
        assert_eq!(check(Kind::Address, Setting::Integer(4433)), Ok(text("4433")));
        assert!(check(Kind::Address, text("127.0.0.1:0")).is_ok());
        assert!(check(Kind::Address, text("somewhere")).is_err());
        assert_eq!(check(Kind::Loopback, Setting::Integer(9464)), Ok(text("127.0.0.1:9464")));
        assert!(check(Kind::Loopback, text("[::1]:0")).is_ok() && check(Kind::Loopback, text("off")).is_ok());
        assert!(check(Kind::Loopback, text("0.0.0.0:9464")).is_err());
        let many = Setting::Texts(vec!["a:1".into(); LIST_ITEMS_MAX + 1]);
        assert_eq!(check(Kind::Peers, many), Err(Misfit::TooMuch(LIST_ITEMS_MAX + 1)));
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        assert_eq!(check(Kind::Address, text(&long)), Err(Misfit::TooMuch(TEXT_BYTES_MAX + 1)));
    }

    #[test]
    fn peers_and_interfaces_have_their_form() {
        for (peer, expect) in [
            ("host:1", true),
            ("my-nas.local:4433", true),
            ("[::1]:1", true),
            ("[fe80::1%en0]:1", true),
            ("host", false),
            ("host:0", false),
            (":1", false),
            ("::1:1", false),
            ("http://host:1", false),
            ("a b:1", false),
        ] {
            assert_eq!(is_host_port(peer), expect, "{peer}");
        }
        for (pattern, expect) in
            [("en0", true), ("wg*", true), ("*", true), ("", false), ("e*n", false), ("a b", false)]
        {
            assert_eq!(is_pattern(pattern), expect, "{pattern}");
        }
    }

    #[test]
    fn what_is_typed_is_read_by_its_key() {
        let typed = |name: &str, text: &str| Setting::typed(Key::named(name).expect("a key"), text);

        assert_eq!(typed("network.mdns", "false"), Value::Bool(false));
        assert_eq!(typed("network.listen", "4433"), Value::from(4433));
        assert_eq!(typed("network.listen", "[::]:1"), Value::from("[::]:1"));
        assert_eq!(typed("network.peers", "a:1, b:2"), serde_json::json!(["a:1", "b:2"]));
        assert_eq!(typed("network.peers", r#"["a:1"]"#), serde_json::json!(["a:1"]));
        assert_eq!(typed("network.peers", ""), serde_json::json!([]));
        assert_eq!(typed("profile", "test"), Value::from("test"));
    }
}
