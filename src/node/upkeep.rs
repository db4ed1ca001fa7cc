//! What a node that runs for months forgets, and when.
//!
//! Nothing here is a record: what is forgotten is what a person was told of long ago, and what a crash
//! left half written beside a file that is whole. Logs bound themselves (they rotate), and so do the
//! remembered addresses of a device (four) and the ids of recent ops.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tracing::{debug, info};

use super::core::{Core, Refused};
use crate::clock;
use crate::model::DeviceId;

/// What a node remembers of other devices in this run.
#[derive(Default)]
pub(super) struct PeerMemory {
    /// When each was last heard of, on the uptime clock.
    pub heard: BTreeMap<DeviceId, Duration>,
    /// Connections that one side ended for what the other did.
    pub refusals: BTreeMap<DeviceId, Refused>,
    /// Devices of which two copies were connected at once, and when that was last seen.
    pub twins: BTreeMap<DeviceId, Duration>,
}

/// What of a device still holds.
pub(super) struct Presence {
    /// Whether it belongs to a space of this device.
    pub may_connect: bool,
    /// How many connections lead to it now.
    pub connections: usize,
}

impl PeerMemory {
    /// Forgets devices that are gone and what nobody has seen again for long. How much.
    fn prune(&mut self, now: Duration, presence: impl Fn(&DeviceId) -> Presence) -> usize {
        let count = |memory: &Self| memory.heard.len() + memory.refusals.len() + memory.twins.len();
        let before = count(self);
        let is_old = |at: Duration| now.saturating_sub(at) >= FORGOTTEN_AFTER;
        // When a device of the space was last heard of is worth knowing however long ago that is.
        self.heard.retain(|device, _| presence(device).may_connect);
        self.refusals.retain(|device, refused| presence(device).may_connect && !is_old(refused.at));
        // Two copies that stay connected are seen once, when the second comes.
        self.twins.retain(|device, at| !is_old(*at) || presence(device).connections > 1);
        before - count(self)
    }
}

impl Core {
    /// Tidies up where that is due.
    pub(super) fn tidy_if_due(&mut self) {
        let now = clock::uptime();
        if now.saturating_sub(self.tidied) >= TIDY_EVERY {
            self.tidied = now;
            self.tidy(now);
        }
    }

    fn tidy(&mut self, now: Duration) {
        let (pins, links) = (&self.pins, &self.links);
        let presence = |device: &DeviceId| Presence {
            may_connect: pins.contains(device),
            connections: links.values().filter(|link| link.device() == *device).count(),
        };
        let forgotten = self.memory.prune(now, presence);
        self.addresses.forget_old(clock::wall());
        self.addresses.retain(|device| self.pins.contains(device));
        let removed = remove_unfinished(&self.home, SystemTime::now());
        if forgotten + removed > 0 {
            info!(forgotten, removed, "tidied up");
        }
    }
}

/// Removes what a crash left beside the files of a home: each is written under another name first, and
/// one that is being written now is not old. How many.
fn remove_unfinished(home: &Path, now: SystemTime) -> usize {
    let Ok(entries) = std::fs::read_dir(home) else { return 0 };
    let is_stale = |entry: &std::fs::DirEntry| {
        let is_unfinished = entry.path().extension().is_some_and(|extension| extension == UNFINISHED);
        let Ok(found) = entry.metadata() else { return false };
        let age = found.modified().ok().and_then(|written| now.duration_since(written).ok());
        is_unfinished && found.is_file() && age.is_some_and(|age| age >= STALE_AFTER)
    };
    let stale = entries.flatten().filter(is_stale);
    let removed = stale.filter(|entry| {
        debug!(file = %entry.file_name().display(), "unfinished and old, removed");
        std::fs::remove_file(entry.path()).is_ok()
    });
    removed.count()
}

/// How often a node tidies up.
const TIDY_EVERY: Duration = Duration::from_secs(6 * 3_600);

/// What was seen longer ago than this tells nothing of now.
const FORGOTTEN_AFTER: Duration = TIDY_EVERY;

/// No file of a home takes longer to write.
const STALE_AFTER: Duration = Duration::from_secs(3_600);

/// How the name of a file ends that is not whole yet.
const UNFINISHED: &str = "new";

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::model::Blame;

    #[test]
    fn what_is_old_or_of_devices_that_are_gone_is_forgotten_and_the_rest_kept() {
        let hours = |hours: u64| Duration::from_secs(hours * 3_600);
        let device = |byte: u8| DeviceId::from_bytes([byte; 32]);
        let refused = |at| Refused { why: "no".to_owned(), blame: Blame::Peer, at };
        let mut memory = PeerMemory {
            heard: [(device(1), hours(1)), (device(9), hours(99))].into(),
            refusals: [
                (device(1), refused(hours(94))),
                (device(2), refused(hours(95))),
                (device(9), refused(hours(99))),
            ]
            .into(),
            twins: [(device(1), hours(1)), (device(2), hours(1)), (device(3), hours(99))].into(),
        };
        let presence = |device: &DeviceId| Presence {
            may_connect: *device != DeviceId::from_bytes([9; 32]),
            connections: if *device == DeviceId::from_bytes([2; 32]) { 2 } else { 1 },
        };

        let forgotten = memory.prune(hours(100), presence);

        assert_eq!(forgotten, 4);
        assert_eq!(memory.heard.into_keys().collect::<Vec<_>>(), [device(1)]);
        assert_eq!(memory.refusals.into_keys().collect::<Vec<_>>(), [device(2)], "five hours ago");
        assert_eq!(memory.twins.into_keys().collect::<Vec<_>>(), [device(2), device(3)]);
    }

    #[test]
    fn only_old_unfinished_files_are_removed_from_a_home() {
        let home = tempfile::tempdir().expect("a writable temporary directory");
        for name in ["config.toml", "config.toml.new", "addresses.new", "newer", "identity.key"] {
            fs::write(home.path().join(name), "x").expect("writable");
        }
        fs::create_dir(home.path().join("folder.new")).expect("writable");
        let now = SystemTime::now();

        let early = remove_unfinished(home.path(), now);
        let late = remove_unfinished(home.path(), now + 2 * STALE_AFTER);

        assert_eq!((early, late), (0, 2));
        let mut left: Vec<_> = fs::read_dir(home.path())
            .expect("readable")
            .map(|entry| entry.expect("readable").file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["config.toml", "folder.new", "identity.key", "newer"]);
        assert_eq!(remove_unfinished(&home.path().join("nowhere"), now), 0);
    }
}
