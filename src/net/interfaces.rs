//! Which network interfaces and addresses discovery may use.

use std::net::{IpAddr, Ipv6Addr};

/// Names allowed and denied beyond the defaults. A pattern is a name, or a beginning and `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceRules {
    /// Used although [`SKIPPED`] names them.
    pub allow: Vec<String>,
    /// Never used, whatever else says so.
    pub deny: Vec<String>,
}

impl InterfaceRules {
    /// Whether the interface called `name` is used: deny goes before allow, allow before [`SKIPPED`].
    pub fn permit(&self, name: &str) -> bool {
        if self.deny.iter().any(|pattern| matches(pattern, name)) {
            return false;
        }
        if self.allow.iter().any(|pattern| matches(pattern, name)) {
            return true;
        }
        !SKIPPED.iter().any(|pattern| matches(pattern, name))
    }
}

/// Tunnels, virtual machines and containers: their networks lead nowhere a peer is.
pub const SKIPPED: [&str; 17] = [
    "utun*",
    "awdl*",
    "llw*",
    "bridge*",
    "gif*",
    "stf*",
    "anpi*",
    "ap*",
    "vmnet*",
    "docker*",
    "veth*",
    "br-*",
    "virbr*",
    "tailscale*",
    "wg*",
    "tun*",
    "tap*",
];

/// Whether an address heard by multicast may be dialled.
///
/// Only addresses of the local network: an announcement must not be able to point this device at
/// hosts on the internet.
pub fn is_local(address: &IpAddr, loopback: Loopback) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) if v4.is_loopback() => loopback == Loopback::Use,
        IpAddr::V6(v6) if v6.is_loopback() => loopback == Loopback::Use,
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => is_unique_local(&v6) || v6.is_unicast_link_local(),
    }
}

/// Whether discovery speaks over the loopback interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Loopback {
    /// Nobody else is there.
    #[default]
    Skip,
    /// For several nodes on one machine.
    Use,
}

fn is_unique_local(address: &Ipv6Addr) -> bool {
    address.octets()[0] & 0xfe == 0xfc
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deny_goes_before_allow_and_allow_before_the_defaults() {
        let rules = InterfaceRules { allow: vec!["wg0".into()], deny: vec!["eth*".into(), "wg1".into()] };

        for (name, expect) in [
            ("en0", true),
            ("wg0", true),
            ("wg1", false),
            ("wg2", false),
            ("eth0", false),
            ("docker0", false),
        ] {
            assert_eq!(rules.permit(name), expect, "{name}");
        }
    }

    #[test]
    fn only_addresses_of_the_local_network_are_dialled() {
        for (address, expect) in [
            ("192.168.1.4", true),
            ("10.0.0.1", true),
            ("169.254.3.4", true),
            ("fd00::2", true),
            ("fe80::1", true),
            ("8.8.8.8", false),
            ("100.64.0.1", false),
            ("2001:db8::1", false),
            ("::ffff:8.8.8.8", false),
            ("0.0.0.0", false),
            ("224.0.0.251", false),
            ("127.0.0.1", false),
            ("::1", false),
        ] {
            assert_eq!(is_local(&address.parse().expect("literal"), Loopback::Skip), expect, "{address}");
        }
        assert!(is_local(&"127.0.0.1".parse().expect("literal"), Loopback::Use));
    }
}
