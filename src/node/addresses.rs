//! Where other devices were last, kept in `HOME/addresses` so that a start dials them at once.
//!
//! A memory, not a record: a lost or damaged file costs the time until discovery finds the devices
//! again, so nothing here is an error, nothing is synced, and a line that cannot be read is left out.
//! The file names device ids and addresses in the clear, as the roster in the store does; it has mode
//! 0600 and lies beside the key that is this device.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};

use tracing::debug;

use crate::model::limits::PEERS_MAX;
use crate::model::{DeviceId, Wall};

/// The memory of a home, with its file.
pub(super) struct Addresses {
    /// `None`: nothing is kept.
    path: Option<PathBuf>,
    book: AddressBook,
}

impl Addresses {
    /// Reads what a home remembers; nothing where there is nothing to read.
    pub fn of(home: &Path, now: Wall) -> Self {
        let path = home.join(FILE);
        let book = match read(&path) {
            Ok(text) => AddressBook::parse(&text, now),
            Err(error) if error.kind() == io::ErrorKind::NotFound => AddressBook::default(),
            Err(error) => {
                debug!(%error, "the remembered addresses cannot be read");
                AddressBook::default()
            }
        };
        Self { path: Some(path), book }
    }

    /// A memory that keeps nothing; what the home remembers stays as it is.
    pub fn none() -> Self {
        Self { path: None, book: AddressBook::default() }
    }

    /// Notes that a device was reached there, and writes that down where it is news.
    pub fn learn(&mut self, device: DeviceId, at: SocketAddr, now: Wall) {
        if self.book.learn(device, Place::of(at, zone_name), now) {
            self.save();
        }
    }

    /// Forgets devices that may not connect any more.
    pub fn retain(&mut self, may_connect: impl Fn(&DeviceId) -> bool) {
        if self.book.retain(may_connect) {
            self.save();
        }
    }

    /// Forgets places where nobody was met for a month.
    pub fn forget_old(&mut self, now: Wall) {
        if self.book.forget_old(now) {
            self.save();
        }
    }

    /// Every device with where to dial it, the last place first.
    pub fn all(&self) -> Vec<(DeviceId, Vec<SocketAddr>)> {
        let place = |kept: &Kept| kept.place.address(zone_index);
        let known = self.book.0.iter();
        known.map(|(device, kept)| (*device, kept.iter().filter_map(place).collect())).collect()
    }

    fn save(&self) {
        let Some(path) = &self.path else { return };
        if let Err(error) = write(path, &self.book.to_text()) {
            debug!(%error, "the addresses of other devices cannot be remembered");
        }
    }
}

/// Where other devices of a home were last, the newest place first, without opening the home.
pub fn remembered_addresses(home: &Path) -> Vec<(DeviceId, Vec<SocketAddr>)> {
    Addresses::of(home, crate::clock::wall()).all()
}

/// Addresses by device, the newest first. Pure: the time is passed in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct AddressBook(BTreeMap<DeviceId, Vec<Kept>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    place: Place,
    seen: Wall,
}

impl AddressBook {
    /// Reads the text form. What cannot be read, is too old or too much is left out.
    fn parse(text: &str, now: Wall) -> Self {
        let mut book = Self::default();
        let mut lines = text.lines();
        if lines.next() != Some(HEADING) {
            return book;
        }
        for line in lines.take(PEERS_MAX * PLACES_MAX) {
            let Some((device, kept)) = parse_line(line) else { continue };
            if !is_old(kept.seen, now) && (book.0.len() < PEERS_MAX || book.0.contains_key(&device)) {
                let known = book.0.entry(device).or_default();
                if known.len() < PLACES_MAX && known.iter().all(|other| other.place != kept.place) {
                    known.push(kept);
                }
            }
        }
        book
    }

    fn to_text(&self) -> String {
        let mut text = format!("{HEADING}\n");
        for (device, known) in &self.0 {
            for kept in known {
                text.push_str(&format!("{device} {} {}\n", kept.place.to_text(), kept.seen.as_millis()));
            }
        }
        text
    }

    /// Whether that is worth writing down: another place than the last, or the last long ago.
    fn learn(&mut self, device: DeviceId, place: Place, now: Wall) -> bool {
        if self.0.len() >= PEERS_MAX && !self.0.contains_key(&device) {
            let oldest = self.0.iter().min_by_key(|(_, known)| known.first().map(|kept| kept.seen));
            if let Some(oldest) = oldest.map(|(device, _)| *device) {
                self.0.remove(&oldest);
            }
        }
        let known = self.0.entry(device).or_default();
        let is_news = known.first().is_none_or(|last| {
            last.place != place || now.as_millis().abs_diff(last.seen.as_millis()) >= NOTED_EVERY_MS
        });
        if is_news {
            known.retain(|kept| kept.place != place && !is_old(kept.seen, now));
            known.insert(0, Kept { place, seen: now });
            known.truncate(PLACES_MAX);
        }
        is_news
    }

    fn forget_old(&mut self, now: Wall) -> bool {
        let places = |book: &Self| book.0.values().map(Vec::len).sum::<usize>();
        let before = places(self);
        for known in self.0.values_mut() {
            known.retain(|kept| !is_old(kept.seen, now));
        }
        self.0.retain(|_, known| !known.is_empty());
        places(self) != before
    }

    fn retain(&mut self, may_connect: impl Fn(&DeviceId) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|device, _| may_connect(device));
        self.0.len() != before
    }
}

/// An address that holds after a restart of the machine: the zone of a link-local one is kept by the
/// interface's name, because its number may be another one then.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    ip: IpAddr,
    port: u16,
    zone: Option<String>,
}

impl Place {
    fn of(address: SocketAddr, zone_name: impl Fn(u32) -> Option<String>) -> Self {
        let zone = match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => zone_name(v6.scope_id()),
            _ => None,
        };
        Self { ip: address.ip(), port: address.port(), zone }
    }

    /// `None` where its interface is not there.
    fn address(&self, zone_index: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
        Some(match (self.ip, &self.zone) {
            (IpAddr::V6(ip), Some(zone)) => SocketAddrV6::new(ip, self.port, 0, zone_index(zone)?).into(),
            (ip, _) => SocketAddr::new(ip, self.port),
        })
    }

    fn to_text(&self) -> String {
        match (self.ip, &self.zone) {
            (IpAddr::V6(ip), Some(zone)) => format!("[{ip}%{zone}]:{}", self.port),
            (ip, _) => SocketAddr::new(ip, self.port).to_string(),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let zoned = text.strip_prefix('[').and_then(|rest| rest.split_once('%'));
        let Some((ip, rest)) = zoned else {
            let address: SocketAddr = text.parse().ok()?;
            return Some(Self { ip: address.ip(), port: address.port(), zone: None });
        };
        let (zone, port) = rest.split_once("]:")?;
        if zone.is_empty() || zone.len() > ZONE_BYTES_MAX {
            return None;
        }
        let ip = IpAddr::V6(ip.parse().ok()?);
        Some(Self { ip, port: port.parse().ok()?, zone: Some(zone.to_owned()) })
    }
}

fn parse_line(line: &str) -> Option<(DeviceId, Kept)> {
    let mut words = line.split(' ');
    let (device, place, seen) = (words.next()?, words.next()?, words.next()?);
    let kept = Kept { place: Place::parse(place)?, seen: Wall::from_millis(seen.parse().ok()?) };
    words.next().is_none().then_some((device.parse().ok()?, kept))
}

fn is_old(seen: Wall, now: Wall) -> bool {
    now.as_millis().saturating_sub(seen.as_millis()) > KEPT_MS
}

fn zone_name(index: u32) -> Option<String> {
    let interfaces = if_addrs::get_if_addrs().ok()?;
    interfaces.into_iter().find(|interface| interface.index == Some(index)).map(|interface| interface.name)
}

fn zone_index(name: &str) -> Option<u32> {
    let interfaces = if_addrs::get_if_addrs().ok()?;
    interfaces.into_iter().find(|interface| interface.name == name).and_then(|interface| interface.index)
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(&unfinished)?.write_all(text.as_bytes())?;
    fs::rename(&unfinished, path)
}

const FILE: &str = "addresses";

/// The first line; another one is another format, and nothing is read.
const HEADING: &str = "kinfold addresses 1";

/// Two families on two networks.
const PLACES_MAX: usize = 4;

/// A month: a lease of an address at home or at work is renewed within it.
const KEPT_MS: u64 = 30 * 24 * 3_600 * 1_000;

/// A device that stays where it is costs one write a day.
const NOTED_EVERY_MS: u64 = 24 * 3_600 * 1_000;

/// The longest name of an interface is 15 bytes on Linux and macOS.
const ZONE_BYTES_MAX: usize = 64;

/// Twice what 128 devices with four places each come to.
const FILE_BYTES_MAX: u64 = 128 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_text_form_is_pinned() {
        let mut book = AddressBook::default();
        book.learn(device(1), place("192.168.1.4:4433"), DAY_1);
        book.learn(device(1), place("[fe80::1%en0]:4433"), DAY_1);
        book.learn(device(2), place("[2001:db8::2]:9"), DAY_1);

        let text = book.to_text();

        let (one, two) = (device(1), device(2));
        assert_eq!(
            text,
            format!(
                "kinfold addresses 1\n{one} [fe80::1%en0]:4433 1700000000000\n\
                 {one} 192.168.1.4:4433 1700000000000\n{two} [2001:db8::2]:9 1700000000000\n"
            )
        );
        assert_eq!(AddressBook::parse(&text, DAY_1), book);
    }

    #[test]
    fn places_of_long_ago_are_forgotten_and_devices_with_them() {
        let mut book = AddressBook::default();
        book.learn(device(1), place("10.0.0.1:7"), DAY_1);
        book.learn(device(1), place("10.0.0.2:7"), later(KEPT_MS));
        book.learn(device(2), place("10.0.0.3:7"), DAY_1);

        assert!(!book.forget_old(later(KEPT_MS)));
        assert!(book.forget_old(later(KEPT_MS + 1)));

        assert_eq!(book.0.len(), 1);
        assert_eq!(book.0[&device(1)].len(), 1);
    }

    #[test]
    fn what_is_old_broken_or_of_another_format_is_left_out() {
        let good = format!("{} 10.0.0.1:7 1700000000000", device(1));
        let text = |heading: &str| {
            format!("{heading}\n{good}\nnonsense\n{good} more\n{} 10.0.0.1:x 1\n\n{good}\n", device(2))
        };

        let read = AddressBook::parse(&text(HEADING), DAY_1);

        assert_eq!(read.0.len(), 1);
        assert_eq!(read.0[&device(1)].len(), 1);
        assert!(AddressBook::parse(&text("kinfold addresses 2"), DAY_1).0.is_empty());
        assert!(AddressBook::parse(&text(HEADING), later(KEPT_MS + 1)).0.is_empty());
    }

    #[test]
    fn only_news_is_written_down() {
        let mut book = AddressBook::default();
        let home = || place("10.0.0.1:7");

        assert!(book.learn(device(1), home(), DAY_1), "the first time");
        assert!(!book.learn(device(1), home(), later(1_000)), "the same again");
        assert!(book.learn(device(1), place("10.0.0.2:7"), later(2_000)), "it moved");
        assert!(book.learn(device(1), home(), later(3_000)), "and back");
        assert!(book.learn(device(1), home(), later(3_000 + NOTED_EVERY_MS)), "a day later");
        let known: Vec<String> = book.0[&device(1)].iter().map(|kept| kept.place.to_text()).collect();
        assert_eq!(known, ["10.0.0.1:7", "10.0.0.2:7"]);
    }

    #[test]
    fn devices_and_places_have_a_limit_and_the_oldest_gives_way() {
        let mut book = AddressBook::default();
        for n in 0..=PEERS_MAX {
            book.learn(device(n), place("10.0.0.1:7"), later(n as u64));
        }
        for port in 1..10 {
            book.learn(device(1), place(&format!("10.0.0.1:{port}")), later(1_000));
        }

        assert_eq!(book.0.len(), PEERS_MAX);
        assert!(!book.0.contains_key(&device(0)));
        assert_eq!(book.0[&device(1)].len(), PLACES_MAX);
        assert_eq!(book.0[&device(1)][0].place, place("10.0.0.1:9"));
        assert!(book.retain(|device| *device != self::device(1)));
        assert!(!book.retain(|device| *device != self::device(1)), "it is gone already");
    }

    #[test]
    fn a_zone_is_kept_by_its_name() {
        let address: SocketAddr = "[fe80::1%3]:9".parse().expect("literal");

        let kept = Place::of(address, |index| (index == 3).then(|| "en0".to_owned()));

        assert_eq!(kept.to_text(), "[fe80::1%en0]:9");
        assert_eq!(
            kept.address(|name| (name == "en0").then_some(8)),
            Some("[fe80::1%8]:9".parse().expect("literal"))
        );
        assert_eq!(kept.address(|_| None), None, "no such interface any more");
    }

    #[test]
    fn a_home_remembers_and_forgets() {
        let home = tempfile::tempdir().expect("a writable temporary directory");
        let address: SocketAddr = "10.0.0.1:7".parse().expect("literal");
        let mut addresses = Addresses::of(home.path(), DAY_1);
        addresses.learn(device(1), address, DAY_1);

        assert_eq!(Addresses::of(home.path(), DAY_1).all(), [(device(1), vec![address])]);
        addresses.retain(|_| false);
        assert_eq!(Addresses::of(home.path(), DAY_1).all(), []);
        fs::write(home.path().join(FILE), [0xff; 64]).expect("writable");
        assert_eq!(Addresses::of(home.path(), DAY_1).all(), []);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm_and_reads_back(lines in prop::collection::vec(line(), 0..40)) {
            let book = AddressBook::parse(&format!("{HEADING}\n{}", lines.join("\n")), DAY_1);

            prop_assert_eq!(AddressBook::parse(&book.to_text(), DAY_1), book);
        }
    }

    fn line() -> impl Strategy<Value = String> {
        let places = prop_oneof![
            "10\\.0\\.0\\.[0-9]:[0-9]{1,6}",
            "\\[fe80::[0-9a-f]%[a-z0-9\\]]{0,3}\\]:[0-9]",
            ".{0,20}"
        ];
        let known = (0usize..9, places, any::<u64>())
            .prop_map(|(n, place, seen)| format!("{} {place} {seen}", device(n)));
        prop_oneof![3 => known, 1 => ".{0,40}"]
    }

    const DAY_1: Wall = Wall::from_millis(1_700_000_000_000);

    fn later(millis: u64) -> Wall {
        Wall::from_millis(DAY_1.as_millis() + millis)
    }

    fn device(n: usize) -> DeviceId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&u16::try_from(n).expect("small").to_be_bytes());
        DeviceId::from_bytes(bytes)
    }

    fn place(text: &str) -> Place {
        Place::parse(text).expect("an address")
    }
}
