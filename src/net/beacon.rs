//! What an announcement says, and who is behind one.
//!
//! | TXT property | value |
//! |---|---|
//! | `v` | `1` |
//! | `t0`, `t1` | beacon tags, 16 lower-case hexadecimal digits each, at most 11 per property |
//!
//! An announcement is a hint. Whoever is recognised here is dialled and must still prove its key.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::crypto::beacon::{BeaconKey, BeaconTag, Quarter};
use crate::model::{DeviceId, ScopeTag};

/// A space to announce and to recognise members of.
#[derive(Clone, Debug)]
pub struct BeaconSpace {
    /// The space, for logs.
    pub scope: ScopeTag,
    /// The beacon key of the space's current epoch: what is announced.
    pub key: BeaconKey,
    /// Those of earlier epochs: a member that was away since still announces under one of them.
    pub earlier: Vec<BeaconKey>,
    /// Who is to be recognised. This device may be among them.
    pub members: Vec<DeviceId>,
}

/// The tags of this device and of everyone it looks for, around one quarter.
#[derive(Debug, Default)]
pub(super) struct Beacons {
    own: Vec<BeaconTag>,
    known: BTreeMap<BeaconTag, DeviceId>,
}

impl Beacons {
    pub(super) fn new(spaces: &[BeaconSpace], own: DeviceId, quarter: Quarter) -> Self {
        let own_tags = spaces.iter().take(TAGS_MAX).map(|space| space.key.tag(&own, quarter)).collect();
        let mut known = BTreeMap::new();
        for space in spaces {
            let keys = std::iter::once(&space.key).chain(space.earlier.iter().take(EARLIER_MAX));
            for key in keys {
                for member in space.members.iter().filter(|member| **member != own) {
                    known.extend(quarter.around().map(|quarter| (key.tag(member, quarter), *member)));
                }
            }
        }
        Self { own: own_tags, known }
    }

    /// The TXT properties to announce.
    pub(super) fn properties(&self) -> Vec<(String, String)> {
        let tags = self.own.chunks(TAGS_PER_PROPERTY).enumerate().map(|(index, tags)| {
            let mut text = String::with_capacity(tags.len() * TAG_DIGITS);
            for byte in tags.iter().flat_map(BeaconTag::as_bytes) {
                write!(text, "{byte:02x}").expect("strings take everything");
            }
            (format!("t{index}"), text)
        });
        std::iter::once(("v".to_owned(), VERSION.to_owned())).chain(tags).collect()
    }

    /// Who announces these properties, if it is someone to look for.
    pub(super) fn recognise<'a>(&self, property: impl Fn(&str) -> Option<&'a str>) -> Option<DeviceId> {
        if property("v") != Some(VERSION) {
            return None;
        }
        let texts = PROPERTIES.iter().filter_map(|name| property(name));
        texts.flat_map(tags).find_map(|tag| self.known.get(&tag).copied())
    }
}

/// The tags of one property; what is no tag is left out.
fn tags(text: &str) -> impl Iterator<Item = BeaconTag> {
    let digits = text.as_bytes().chunks_exact(TAG_DIGITS).take(TAGS_PER_PROPERTY);
    digits.filter_map(|digits| {
        let number = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
        Some(BeaconTag::from_bytes(u64::from_str_radix(number, 16).ok()?.to_be_bytes()))
    })
}

/// Earlier epochs whose announcements are recognised: two years of them at one every 90 days.
const EARLIER_MAX: usize = 8;

const VERSION: &str = "1";

const PROPERTIES: [&str; 2] = ["t0", "t1"];

const TAG_DIGITS: usize = 16;

/// A property holds 255 bytes; two of these and the rest stay below 400, above which some routers
/// drop announcements.
const TAGS_PER_PROPERTY: usize = 11;

/// Spaces announced. Further ones are found through their other members.
const TAGS_MAX: usize = TAGS_PER_PROPERTY * PROPERTIES.len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_recognised_a_quarter_early_and_late_and_not_two() {
        for (seconds, expect) in [(0, true), (900, true), (1_800, false)] {
            let theirs = beacons(MEMBER, OWN, NOON);
            let (early, late) = (beacons(OWN, MEMBER, NOON - seconds), beacons(OWN, MEMBER, NOON + seconds));

            assert_eq!(heard(&early, &theirs), expect.then_some(MEMBER));
            assert_eq!(heard(&late, &theirs), expect.then_some(MEMBER));
        }
    }

    #[test]
    fn strangers_and_this_device_are_not_recognised() {
        let ours = beacons(OWN, MEMBER, NOON);
        let elsewhere =
            [BeaconSpace { key: BeaconKey::from_bytes([8; 32]), earlier: Vec::new(), ..space(9, &[OWN]) }];
        let stranger = Beacons::new(&elsewhere, MEMBER, Quarter::of_unix_seconds(NOON));

        assert_eq!(heard(&ours, &stranger), None);
        assert_eq!(heard(&ours, &ours), None);
        assert_eq!(ours.recognise(|_| None), None);
        for text in ["", "zz", "+123456789abcdef", "ééééééééé", &"0".repeat(10_000)] {
            assert_eq!(ours.recognise(|name| Some(if name == "v" { "1" } else { text })), None);
        }
    }

    #[test]
    fn another_version_is_not_recognised() {
        let (ours, theirs) = (beacons(OWN, MEMBER, NOON), beacons(MEMBER, OWN, NOON));
        let properties: BTreeMap<_, _> = theirs.properties().into_iter().collect();

        let found =
            ours.recognise(|name| if name == "v" { Some("2") } else { properties.get(name).map(|t| &t[..]) });

        assert_eq!(found, None);
    }

    #[test]
    fn many_spaces_stay_within_one_small_announcement_and_share_it() {
        let spaces: Vec<_> = (0..64).map(|n| space(n, &[OWN, MEMBER])).collect();
        let quarter = Quarter::of_unix_seconds(NOON);

        let theirs = Beacons::new(&spaces, MEMBER, quarter);

        let bytes: usize = theirs.properties().iter().map(|(name, text)| name.len() + text.len() + 2).sum();
        assert!(bytes < 400, "{bytes}");
        assert_eq!(heard(&Beacons::new(&spaces[21..22], OWN, quarter), &theirs), Some(MEMBER));
    }

    const OWN: DeviceId = DeviceId::from_bytes([1; 32]);
    const MEMBER: DeviceId = DeviceId::from_bytes([2; 32]);
    const NOON: u64 = 1_800_000_000;

    fn beacons(own: DeviceId, other: DeviceId, seconds: u64) -> Beacons {
        Beacons::new(&[space(0, &[own, other])], own, Quarter::of_unix_seconds(seconds))
    }

    fn space(n: u8, members: &[DeviceId]) -> BeaconSpace {
        BeaconSpace {
            scope: ScopeTag::from_bytes([n; 16]),
            key: BeaconKey::from_bytes([n; 32]),
            earlier: Vec::new(),
            members: members.to_vec(),
        }
    }

    fn heard(ours: &Beacons, theirs: &Beacons) -> Option<DeviceId> {
        let properties: BTreeMap<_, _> = theirs.properties().into_iter().collect();
        ours.recognise(|name| properties.get(name).map(String::as_str))
    }
}
