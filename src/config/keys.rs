//! The keys there are, with what each may be and when it takes effect.

use super::settings::Setting;
use crate::model::nearest::nearest;

/// A key of the file.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `section.name`, or `name` at the top.
    pub name: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// When a change takes effect in a node that runs.
    pub takes_effect: TakesEffect,
    /// What it does, for people.
    pub about: &'static str,
}

/// What a value may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// A whole number within bounds, both included.
    Integer {
        /// The least.
        min: u64,
        /// The greatest.
        max: u64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `ADDRESS:PORT`, or a port for all addresses.
    Address,
    /// `off`, or an `ADDRESS:PORT` that only this machine reaches; a port alone is one of 127.0.0.1.
    Loopback,
    /// A list of `HOST:PORT`.
    Peers,
    /// A list of interface names; a `*` at the end stands for any ending.
    Interfaces,
}

/// When a change takes effect in a node that runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TakesEffect {
    /// As soon as the node has read it: after `config set` and `config patch`, or on SIGHUP.
    AtOnce,
    /// When the node starts the next time.
    AtStart,
}

impl Kind {
    /// What a value should be, in a message.
    pub fn expected(self) -> String {
        match self {
            Self::Flag => "true or false".to_owned(),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Address => "ADDRESS:PORT, or a port for all addresses".to_owned(),
            Self::Loopback => "off, or ADDRESS:PORT within this machine".to_owned(),
            Self::Peers => "a list of HOST:PORT".to_owned(),
            Self::Interfaces => "a list of interface names, where a * may end a name".to_owned(),
        }
    }
}

impl Key {
    /// The key of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The key that may have been meant by a name there is not: the same name in another section, or
    /// one a typing error away.
    pub fn nearest(name: &str) -> Option<&'static str> {
        let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
        let names = || KEYS.iter().map(|key| key.name);
        names().find(|known| last(known) == last(name)).or_else(|| nearest(name, names())).or_else(|| {
            // In the section that was meant, or in none: the name alone may be near.
            let meant = last(name)?;
            let bare = names().map(|known| known.rsplit('.').next().unwrap_or(known));
            let found = nearest(&meant, bare)?;
            names().find(|known| last(known).as_deref() == Some(found))
        })
    }

    /// What holds where the file says nothing.
    pub fn default(&self, profile: &str) -> Setting {
        let in_test = profile == "test";
        let is_manual = profile == "manual";
        match self.name {
            "profile" => Setting::Text("default".to_owned()),
            "network.listen" => Setting::Text(if in_test { "127.0.0.1:0" } else { "[::]:0" }.to_owned()),
            "network.mdns" => Setting::Flag(!in_test && !is_manual),
            "network.remember" => Setting::Flag(!is_manual),
            "network.gso" | "control.websocket" => Setting::Flag(true),
            "network.max_mtu" => Setting::Integer(1_452),
            "network.congestion" => Setting::Text("cubic".to_owned()),
            "log.level" => Setting::Text("info".to_owned()),
            "log.file_bytes_max" => Setting::Integer(4 * 1024 * 1024),
            "log.files_max" => Setting::Integer(5),
            "gc.grace_days" => Setting::Integer(7),
            "gc.dormant_days" => Setting::Integer(30),
            "sync.anti_entropy_seconds" => Setting::Integer(match profile {
                "test" => 5,
                "manual" => 0,
                _ => 60,
            }),
            _ => match self.kind {
                Kind::Flag => Setting::Flag(false),
                Kind::Integer { min, .. } => Setting::Integer(min),
                Kind::Choice(words) => Setting::Text(words[0].to_owned()),
                Kind::Loopback => Setting::Text("off".to_owned()),
                Kind::Address => Setting::Text("[::]:0".to_owned()),
                Kind::Peers | Kind::Interfaces => Setting::Texts(Vec::new()),
            },
        }
    }
}

const fn key(name: &'static str, kind: Kind, takes_effect: TakesEffect, about: &'static str) -> Key {
    Key { name, kind, takes_effect, about }
}

/// Every key, in the order it is shown.
pub const KEYS: &[Key] = &[
    key(
        "profile",
        Kind::Choice(&["default", "test", "manual"]),
        TakesEffect::AtStart,
        "what holds where nothing else is set: test stays on this machine, manual looks for nobody by itself",
    ),
    key(
        "network.listen",
        Kind::Address,
        TakesEffect::AtStart,
        "where this device listens; port 0 takes a free one",
    ),
    key("network.peers", Kind::Peers, TakesEffect::AtOnce, "dialled whenever they are not connected"),
    key(
        "network.mdns",
        Kind::Flag,
        TakesEffect::AtStart,
        "whether devices are looked for on the local network",
    ),
    key(
        "network.mdns_loopback",
        Kind::Flag,
        TakesEffect::AtStart,
        "whether within this machine too: for several nodes on one",
    ),
    key(
        "network.remember",
        Kind::Flag,
        TakesEffect::AtStart,
        "whether a start dials devices where they were last",
    ),
    key(
        "network.max_mtu",
        Kind::Integer { min: 1_200, max: 6_500 },
        TakesEffect::AtStart,
        "the greatest packet tried, in bytes of UDP payload",
    ),
    key(
        "network.gso",
        Kind::Flag,
        TakesEffect::AtStart,
        "whether the system may cut large sends; off where a driver gets it wrong",
    ),
    key(
        "network.congestion",
        Kind::Choice(&["cubic", "bbr"]),
        TakesEffect::AtStart,
        "bbr is faster where many packets are lost",
    ),
    key(
        "network.interfaces_allow",
        Kind::Interfaces,
        TakesEffect::AtStart,
        "used although tunnels and the like are skipped",
    ),
    key("network.interfaces_deny", Kind::Interfaces, TakesEffect::AtStart, "never used"),
    key(
        "sync.anti_entropy_seconds",
        Kind::Integer { min: 0, max: 86_400 },
        TakesEffect::AtOnce,
        "between two comparisons with every connected device; 0: only when something changes",
    ),
    key(
        "gc.grace_days",
        Kind::Integer { min: 0, max: 3_650 },
        TakesEffect::AtOnce,
        "how long history stays once every device has attested a checkpoint: the time to notice a mistake",
    ),
    key(
        "gc.dormant_days",
        Kind::Integer { min: 0, max: 3_650 },
        TakesEffect::AtOnce,
        "on how many days a device may be silent before history does not wait for it any more; 0: for ever",
    ),
    key(
        "control.websocket",
        Kind::Flag,
        TakesEffect::AtStart,
        "whether programs of this machine may use a WebSocket, with the token in control.token",
    ),
    key(
        "control.websocket_port",
        Kind::Integer { min: 0, max: 65_535 },
        TakesEffect::AtStart,
        "on which port; 0 takes a free one and writes it to control.port",
    ),
    key(
        "log.level",
        Kind::Choice(&["off", "error", "warn", "info", "debug", "trace"]),
        TakesEffect::AtOnce,
        "what is kept in the files in log/ while `up` runs",
    ),
    key(
        "log.file_bytes_max",
        Kind::Integer { min: 64 * 1024, max: 1024 * 1024 * 1024 },
        TakesEffect::AtOnce,
        "how long one of them grows",
    ),
    key(
        "log.files_max",
        Kind::Integer { min: 1, max: 100 },
        TakesEffect::AtOnce,
        "how many of them are kept",
    ),
    key(
        "metrics.listen",
        Kind::Loopback,
        TakesEffect::AtOnce,
        "where Prometheus may fetch figures: http://ADDRESS:PORT/metrics",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_fits_its_key_in_every_profile() {
        for key in KEYS {
            for profile in ["default", "test", "manual"] {
                let default = key.default(profile);
                assert_eq!(default.clone().checked(key.kind), Ok(default), "{} in {profile}", key.name);
            }
        }
    }

    #[test]
    fn a_name_that_is_not_there_finds_the_one_that_was_meant() {
        for (found, meant) in [
            ("network.listne", Some("network.listen")),
            ("listen", Some("network.listen")),
            ("net.max_mtu", Some("network.max_mtu")),
            ("network.max-mtu", Some("network.max_mtu")),
            ("maxmtu", Some("network.max_mtu")),
            ("profil", Some("profile")),
            ("sync.something", None),
        ] {
            assert_eq!(Key::nearest(found), meant, "{found}");
        }
    }
}
