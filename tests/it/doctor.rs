//! What keeps devices apart, or one from working, is provoked for real, and `kinfold doctor` names it.
//!
//! What needs a network of its own is in `lan`. Disks are mounted in namespaces of their own, which go
//! with the command; where that is not permitted a test says so and ends.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::Arc;

use kinfold::crypto::Identity;
use kinfold::model::DeviceId;
use serde_json::Value;

use crate::kin::{self, Home, pair};
use crate::lan::{Lan, Running, assert_says, converge, doctor, ip, is_available, say};
use crate::peers::{Raw, hello};

#[test]
fn a_full_disk_a_nearly_full_one_and_a_read_only_one_are_told_apart() {
    let home = quiet("a");
    if !may_mount() {
        return;
    }

    let full = mounted(
        &home,
        "mount -t tmpfs -o size=32m none $D && cp -a $H/. $D && { cat /dev/zero > $D/fill; true; }",
    );
    let narrow = mounted(&home, "mount -t tmpfs -o size=32m none $D && cp -a $H/. $D");
    let fixed = mounted(&home, "mount --bind $H $D && mount -o remount,bind,ro $D");
    let well = mounted(&home, "mount --bind $H $D");

    assert_says(&full, "disk", "fail", "the disk is full");
    assert_says(&narrow, "disk", "warn", " MB are free on the disk of the home");
    assert_says(&fixed, "disk", "fail", "read-only");
    assert_says(&well, "disk", "ok", "the home can be written");
}

#[test]
fn a_home_of_somebody_else_is_told_from_a_broken_disk() {
    if !is_available("setpriv") {
        return;
    }
    let home = quiet("a");
    fs::set_permissions(home.path(), Permissions::from_mode(0o500)).unwrap();

    // Even an administrator may write no longer without these two.
    let mut plain = Command::new("setpriv");
    plain
        .args(["--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]);
    let told = told(plain.arg("--"), &home, &home.path());
    fs::set_permissions(home.path(), Permissions::from_mode(0o700)).unwrap();

    assert_says(&told, "disk", "fail", "this user may not write in the home");
}

#[test]
fn a_key_that_others_may_read_is_named() {
    let home = quiet("a");
    assert_says(&of(&home), "home", "ok", "nobody else may read its key");

    fs::set_permissions(home.path().join("identity.key"), Permissions::from_mode(0o644)).unwrap();

    assert_says(&of(&home), "home", "warn", "other users of this machine may read identity.key");
}

#[test]
fn an_address_of_another_machine_is_told_from_a_port_that_is_taken() {
    let home = quiet("a");
    // From a range that is for books and belongs to nobody.
    home.run(&["config", "set", "network.listen", "192.0.2.7:4433"]).expect_code(0);

    assert_says(&of(&home), "port", "fail", "192.0.2.7 is no address of this machine");
}

#[test]
fn a_name_that_leads_nowhere_is_told_by_the_node_and_by_the_doctor() {
    let home = quiet("a");
    home.run(&["config", "set", "network.peers", "desk.invalid:47650"]).expect_code(0);
    let mut starting = kin::command(&home.path());
    starting.args(["--json", "up", "--listen", "127.0.0.1:0"]).stderr(std::process::Stdio::piped());
    let mut up = kin::Daemon::start(&mut starting);

    let told = up.log().iter().find(|line| line.contains("leads nowhere")).expect("the node says it");
    assert!(told.contains("desk.invalid:47650"), "{told}");
    assert_says(&of(&home), "device", "fail", "the name in desk.invalid:47650 leads to no address");
    assert_eq!(up.terminate(), 0);
}

#[test]
fn a_node_that_does_not_answer_is_told_from_one_that_does_not_run() {
    let home = quiet("a");
    assert_says(&of(&home), "node", "fail", "no node runs here");

    let silent = UnixListener::bind(home.path().join("control.sock")).unwrap();
    let told = of(&home);

    drop(silent);
    assert_says(&told, "node", "fail", "a node runs and does not answer");
}

#[test]
fn a_device_that_was_removed_hears_it_and_so_does_whoever_asks_its_doctor() {
    let (one, two) = (Home::init("one"), Home::init("two"));
    pair(&one, &two);
    let at_one = one.up(&[]);
    let at_two = two.up(&["--peer", &at_one.listening]);
    one.run(&["put", "registry:note", "a", "1"]).expect_code(0);
    one.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);

    one.run(&["revoke", "two", "--yes", "two"]).expect_code(0);
    let told = until_told(&two, "health", "was removed from the personal space by one");

    assert_says(&told, "health", "fail", "was removed from the personal space by one");
    assert_eq!((at_one.terminate(), at_two.terminate()), (0, 0));
}

#[test]
fn a_stranger_where_a_device_is_said_to_be_is_not_taken_for_it() {
    let (home, stranger) = (Home::init("a"), Home::init("stranger"));
    let there = stranger.up(&[]);
    let _up = home.up(&["--peer", &there.listening]);
    home.run(&["config", "set", "network.mdns", "false"]).expect_code(0);
    home.run(&["config", "set", "network.peers", &there.listening]).expect_code(0);

    let told = of(&home);

    assert_says(&told, "device", "warn", "is not connected");
    let checks = told["checks"].as_array().expect("a list");
    let check = checks.iter().find(|check| check["name"] == "device").expect("it was just found");
    assert!(check["hint"].as_str().is_some_and(|hint| hint.contains("another space")), "{check}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_differs_from_everybody_elses_is_named_with_the_figure() {
    let (one, two) = (Home::init("one"), Home::init("two"));
    pair(&one, &two);
    let at_one = one.up(&[]);
    let (device, address): (DeviceId, _) =
        (at_one.device.parse().unwrap(), at_one.listening.parse().unwrap());
    // The other device as one whose clock stands in 1970.
    let key = fs::read(two.path().join("identity.key")).unwrap();
    let identity = Identity::from_secret(key[16..48].try_into().expect("a key has 32 bytes"));
    let raw = Raw::connect(Arc::new(identity), device, address).await;
    raw.say(&hello(1, Vec::new()));

    let told = tokio::task::spawn_blocking(move || until_told(&one, "clock", "s ahead of")).await.unwrap();

    assert_says(&told, "clock", "fail", "this clock is ");
    raw.stop().await;
    assert_eq!(at_one.terminate(), 0);
}

#[test]
fn a_way_for_small_packets_only_and_a_firewall_of_this_machine_are_named() {
    if !is_available("nft") {
        return;
    }
    let Some(lan) = Lan::of(2) else { return };
    for index in 0..2 {
        ip(&format!("-n {} -6 addr flush dev eth0", lan.device(index)));
    }
    let (a, b) = crate::lan::pair();
    for home in [&a, &b] {
        fs::remove_file(home.path().join("addresses")).ok();
    }
    let _a = Running::up(&lan, 0, &a, &[]);
    let at_b = Running::up(&lan, 1, &b, &[]);
    converge(&[&a, &b]);

    // A connection that is up lives on small packets; one that begins needs large ones.
    assert_eq!(at_b.daemon.terminate(), 0);
    lan.filter("meta l4proto udp meta length > 1000 drop");
    let _b = Running::up(&lan, 1, &b, &[]);
    let narrow = doctor(&lan, 1, &b).1;
    lan.nft(
        1,
        "table inet test { chain said { type filter hook output priority 0; udp dport != 5353 drop; }; }",
    );
    let forbidden = doctor(&lan, 1, &b).1;

    assert_says(&narrow, "device", "fail", "those of 1200 bytes do not");
    assert_says(&forbidden, "device", "fail", "this machine may not send to one");
}

#[test]
fn multicast_that_this_machine_may_not_send_is_told_from_an_empty_network() {
    if !is_available("nft") {
        return;
    }
    // Without a gateway, as two machines on one cable are.
    let Some(lan) = Lan::of(1) else { return };
    let home = Home::init("a");
    let alone = doctor(&lan, 0, &home).1;

    lan.nft(
        0,
        "table inet test { chain said { type filter hook output priority 0; udp dport 5353 drop; }; }",
    );
    let forbidden = doctor(&lan, 0, &home).1;

    assert_says(&alone, "multicast", "ok", "works from here");
    assert_says(&forbidden, "multicast", "warn", "nothing can be sent to the local network at large");
}

/// A device that does not look for others.
fn quiet(name: &str) -> Home {
    let home = Home::init(name);
    home.run(&["config", "set", "network.mdns", "false"]).expect_code(0);
    home
}

/// What the doctor says of a home.
fn of(home: &Home) -> Value {
    let ended = home.run(&["--json", "doctor"]);
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

/// Asks until the doctor says these words: another process does not tell when it has come so far.
fn until_told(home: &Home, name: &str, words: &str) -> Value {
    let begun = std::time::Instant::now();
    loop {
        let told = of(home);
        let checks = told["checks"].as_array().expect("a list");
        let is_it =
            |check: &Value| check["name"] == name && check["says"].as_str().unwrap_or("").contains(words);
        if checks.iter().any(is_it) {
            return told;
        }
        assert!(begun.elapsed() < kin::PATIENCE, "{words:?} is never said: {told:#}");
    }
}

/// What the doctor says of a home that lies at $D after these mounts; $H is where it is otherwise.
fn mounted(home: &Home, mounts: &str) -> Value {
    let at = home.path().with_file_name("mounted");
    fs::create_dir_all(&at).unwrap();
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "sh", "-c", &format!("{{ {mounts}; }} >&2 && exec \"$@\""), "sh"]);
    inside.env("D", &at).env("H", home.path());
    told(&mut inside, home, &at)
}

/// What the doctor says of the home at `path`, run by another program.
fn told(by: &mut Command, home: &Home, path: &std::path::Path) -> Value {
    let plain = kin::command(&home.path());
    by.arg(plain.get_program()).arg("--home").arg(path).args(["--json", "doctor"]).env("NO_COLOR", "1");
    let ended = kin::run(by, b"");
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

/// Whether this process may mount in a namespace of its own; the reason why not is said.
fn may_mount() -> bool {
    let tried = Command::new("unshare").args(["--mount", "mount", "-t", "tmpfs", "none", "/mnt"]).output();
    match tried {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            say(format_args!("skipped: no mounts here: {}", String::from_utf8_lossy(&output.stderr).trim()));
            false
        }
        Err(error) => {
            say(format_args!("skipped: `unshare` cannot be run: {error}"));
            false
        }
    }
}
