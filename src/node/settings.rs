//! What a node takes from its settings: at the start, and while it runs.

use std::time::Duration;

use tokio::sync::watch;
use tracing::info;

use super::error::NodeError;
use super::handle::Node;
use crate::config::{ConfigFile, Settings, TakesEffect};
use crate::net::{Congestion, InterfaceRules, Loopback, Mdns, NetConfig};

/// What became of settings that were read anew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reloaded {
    /// Their generation.
    pub generation: u64,
    /// Keys whose new value has taken effect.
    pub changed: Vec<&'static str>,
    /// Keys whose value differs from the one this node was started with, and that are read at a start
    /// only.
    pub needs_restart: Vec<&'static str>,
}

/// The settings a node is given, and those in force.
pub(super) struct InForce {
    /// What it was opened with.
    pub opened_with: Settings,
    /// What was read last.
    pub current: watch::Sender<Settings>,
}

impl InForce {
    pub fn new(settings: Settings) -> Self {
        Self { current: watch::Sender::new(settings.clone()), opened_with: settings }
    }

    /// Takes `settings` in place of those that were read before.
    fn replace(&self, settings: Settings) -> (Settings, Reloaded) {
        let before = self.current.send_replace(settings.clone());
        let reloaded = Reloaded {
            generation: settings.generation(),
            changed: differing(&settings, &before, TakesEffect::AtOnce),
            needs_restart: self.waiting(&settings),
        };
        (before, reloaded)
    }

    fn waiting(&self, settings: &Settings) -> Vec<&'static str> {
        differing(settings, &self.opened_with, TakesEffect::AtStart)
    }
}

impl Node {
    /// The settings that were read last. What is changed by [`Node::reload`] is told here.
    pub fn settings(&self) -> watch::Receiver<Settings> {
        self.in_force().current.subscribe()
    }

    /// Keys that these settings hold otherwise than those this node was opened with, and that are read
    /// at a start only.
    pub fn waiting_for_restart(&self, settings: &Settings) -> Vec<&'static str> {
        self.in_force().waiting(settings)
    }

    /// Reads `config.toml` again and takes from it what can change in a node that runs. Peers that are
    /// no longer listed are dialled no longer; what an application or a flag added stays.
    ///
    /// # Errors
    /// [`NodeError::Config`], and everything stays as it was; [`NodeError::Stopped`].
    pub async fn reload(&self) -> Result<Reloaded, NodeError> {
        let file = ConfigFile::of(self.home());
        let read = tokio::task::spawn_blocking(move || file.read()).await;
        let settings = read.expect("reading does not panic and is not aborted")?;
        let (rounds_every, gc_grace) = (settings.anti_entropy(), settings.gc_grace());
        let (before, reloaded) = self.in_force().replace(settings.clone());
        for peer in settings.peers().iter().filter(|peer| !before.peers().contains(peer)) {
            self.add_peer(peer.clone()).await?;
        }
        for peer in before.peers().iter().filter(|peer| !settings.peers().contains(peer)) {
            self.remove_peer(peer);
        }
        let dormant_after = settings.dormant_after();
        let take = move |core: &mut super::core::Core| {
            (core.rounds_every, core.gc_grace) = (rounds_every, gc_grace);
            core.engine.call_dormant_after(dormant_after);
        };
        self.ask(take).await?;
        info!(
            generation = reloaded.generation,
            changed = ?reloaded.changed,
            needs_restart = ?reloaded.needs_restart,
            "settings read"
        );
        Ok(reloaded)
    }
}

fn differing(now: &Settings, then: &Settings, takes_effect: TakesEffect) -> Vec<&'static str> {
    now.differing(then).filter(|key| key.takes_effect == takes_effect).map(|key| key.name).collect()
}

/// The network as the settings want it; what they do not speak of stays at its default.
pub(super) fn net_config(settings: &Settings) -> NetConfig {
    let loopback = if settings.has_mdns_on_loopback() { Loopback::Use } else { Loopback::Skip };
    NetConfig {
        listen: settings.listen(),
        peers: settings.peers().to_vec(),
        mdns: if settings.has_mdns() { Mdns::On { loopback } } else { Mdns::Off },
        interfaces: InterfaceRules {
            allow: settings.interfaces_allowed().to_vec(),
            deny: settings.interfaces_denied().to_vec(),
        },
        congestion: if settings.is_bbr() { Congestion::Bbr } else { Congestion::Cubic },
        max_mtu: settings.max_mtu(),
        segmentation_offload: settings.has_segmentation_offload(),
        ..NetConfig::default()
    }
}

/// Comparisons with everybody that happen although nothing has changed.
#[derive(Default)]
pub(super) struct Rounds {
    last: Duration,
}

impl Rounds {
    /// Whether one is due; it counts as begun then.
    pub fn is_due(&mut self, now: Duration, every: Option<Duration>) -> bool {
        let is_due = self.wait(now, every).is_some_and(|wait| wait.is_zero());
        if is_due {
            self.last = now;
        }
        is_due
    }

    /// How long until the next one.
    pub fn wait(&self, now: Duration, every: Option<Duration>) -> Option<Duration> {
        every.map(|every| (self.last + every).saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn without_settings_the_network_is_as_it_is_without_a_file() {
        assert_eq!(net_config(&Settings::default()), NetConfig::default());
    }

    #[test]
    fn the_network_is_as_the_settings_want_it() {
        let config = net_config(&settings(json!({"network": {
            "listen": "127.0.0.1:7", "peers": ["nas:1"], "mdns_loopback": true, "max_mtu": 1280, "gso": false,
            "congestion": "bbr", "interfaces_allow": ["wg0"], "interfaces_deny": ["eth*"],
        }})));

        assert_eq!(config.listen, "127.0.0.1:7".parse().expect("literal"));
        assert_eq!(config.peers, ["nas:1"]);
        assert_eq!(config.mdns, Mdns::On { loopback: Loopback::Use });
        assert_eq!((config.max_mtu, config.segmentation_offload), (1_280, false));
        assert_eq!(config.congestion, Congestion::Bbr);
        assert!(config.interfaces.permit("wg0") && !config.interfaces.permit("eth0"));
    }

    #[test]
    fn what_takes_effect_and_what_waits_for_a_restart_is_told_apart() {
        let in_force = InForce::new(Settings::default());

        let changes =
            json!({"network": {"mdns": false, "peers": ["nas:1"]}, "sync": {"anti_entropy_seconds": 5}});
        let (_, first) = in_force.replace(settings(changes.clone()));
        let (_, again) = in_force.replace(settings(changes));
        let (_, back) = in_force.replace(Settings::default());

        assert_eq!(first.changed, ["network.peers", "sync.anti_entropy_seconds"]);
        assert_eq!(first.needs_restart, ["network.mdns"]);
        assert_eq!((again.changed.len(), again.needs_restart), (0, vec!["network.mdns"]));
        assert_eq!((back.changed.len(), back.needs_restart.len()), (2, 0));
    }

    #[test]
    fn rounds_come_at_their_interval_or_never() {
        let second = Duration::from_secs;
        let mut rounds = Rounds::default();

        assert!(!rounds.is_due(second(9), Some(second(10))));
        assert!(rounds.is_due(second(10), Some(second(10))));
        assert!(!rounds.is_due(second(19), Some(second(10))));
        assert_eq!(rounds.wait(second(19), Some(second(10))), Some(second(1)));
        assert!(!rounds.is_due(second(1_000), None));
        assert!(rounds.is_due(second(1_000), Some(second(10))));
    }

    fn settings(patch: serde_json::Value) -> Settings {
        let home = tempfile::tempdir().expect("a writable temporary directory");
        ConfigFile::of(home.path()).patch(&patch, None).expect("a good patch")
    }
}
