//! Networks as people have them: packets are lost, a tunnel makes them small, addresses change, one
//! direction fails, and a machine has a dozen interfaces that lead nowhere.
//!
//! Needs what `lan` needs, and `nft`. Nothing here is held against a clock: a test waits for what has
//! to happen, and fails where it does not.

use std::time::Instant;

use crate::kin::Home;
use crate::lan::{Lan, Running, converge, converge_within, ip, is_available, pair, say, value};

#[test]
fn where_one_packet_in_twenty_is_lost_everything_arrives() {
    everything_arrives_where_packets_are_lost(5);
}

#[test]
fn where_one_packet_in_five_is_lost_everything_arrives() {
    everything_arrives_where_packets_are_lost(20);
}

fn everything_arrives_where_packets_are_lost(percent: u32) {
    let Some(lan) = filtered(2) else { return };
    let (a, b) = pair();
    lan.filter(&format!("meta l4proto udp numgen random mod 100 < {percent} counter drop"));
    import(&a, "a");
    import(&b, "b");

    let _a = Running::up(&lan, 0, &a, &[]);
    let _b = Running::up(&lan, 1, &b, &[]);
    let begun = Instant::now();
    converge_within(&[&a, &b], "100s");

    say(format_args!("{percent} % lost: {ROWS} ops each way in {:.1?}", begun.elapsed()));
    assert_eq!((rows(&a), rows(&b)), (2 * ROWS, 2 * ROWS));
    for index in 0..2 {
        assert_ne!(counted(&lan.rules(index)), [0], "nothing was lost");
    }
}

#[test]
fn packets_of_1280_bytes_are_enough() {
    let Some(lan) = Lan::of(2) else { return };
    for index in 0..2 {
        ip(&format!("-n {} link set eth0 mtu 1280", lan.device(index)));
    }
    everything_arrives(&lan);
}

#[test]
fn a_path_that_swallows_packets_above_1280_bytes_and_says_nothing_is_found_out() {
    let Some(lan) = Lan::of(2) else { return };
    // The devices think that they may send 1500.
    for index in 0..2 {
        ip(&format!("-n {} link set port{index} mtu 1280", lan.switch()));
    }
    everything_arrives(&lan);
}

fn everything_arrives(lan: &Lan) {
    let (a, b) = pair();
    import(&a, "a");
    import(&b, "b");

    let _a = Running::up(lan, 0, &a, &[]);
    let _b = Running::up(lan, 1, &b, &[]);
    converge(&[&a, &b]);

    assert_eq!((rows(&a), rows(&b)), (2 * ROWS, 2 * ROWS));
}

#[test]
fn a_transfer_goes_on_after_the_address_of_a_device_has_changed() {
    for moving in 0..2 {
        let Some(lan) = filtered(2) else { return };
        let (a, b) = pair();
        import(&a, "a");
        // Slow enough that it is under way for many seconds.
        lan.filter("meta l4proto udp limit rate over 40 kbytes/second burst 16 kbytes drop");
        let _a = Running::up(&lan, 0, &a, &[]);
        let _b = Running::up(&lan, 1, &b, &[]);
        let arrived = under_way(&b);

        let device = lan.device(moving);
        ip(&format!("-n {device} addr flush dev eth0 scope global"));
        ip(&format!("-n {device} addr add 192.168.77.{}/24 dev eth0", 51 + moving));
        let moved = Instant::now();
        lan.filter("accept");
        converge_within(&[&a, &b], "100s");

        let who = ["sender", "receiver"][moving];
        say(format_args!(
            "address of the {who} changed after {arrived} ops: all there {:.1?} later",
            moved.elapsed()
        ));
        assert_eq!(rows(&b), ROWS);
    }
}

#[test]
fn a_direction_that_fails_ends_the_connection_on_both_sides_and_its_return_mends_it() {
    let Some(lan) = filtered(2) else { return };
    let (a, b) = pair();
    let at_a = Running::up(&lan, 0, &a, &[]);
    let at_b = Running::up(&lan, 1, &b, &[]);
    at_a.says("connected");
    at_b.says("connected");
    converge(&[&a, &b]);

    // Of what A says B hears nothing; A hears B all the while.
    lan.filter_at(1, "meta l4proto udp drop");
    a.run(&["put", "registry:note", "a", "1"]).expect_code(0);
    b.run(&["put", "registry:note", "b", "2"]).expect_code(0);
    at_b.says("disconnected");
    at_a.says("disconnected");
    assert_eq!(a.json(&["status"])["peers"][0]["connected"], false);
    lan.filter_at(1, "accept");
    let mended = Instant::now();
    converge(&[&a, &b]);

    say(format_args!("one direction failed: equal {:.1?} after its return", mended.elapsed()));
    assert_eq!((value(&a, "b"), value(&b, "a")), (2.into(), 1.into()));
}

#[test]
fn of_many_interfaces_those_that_lead_nowhere_hear_nothing() {
    let Some(lan) = filtered(2) else { return };
    let device = lan.device(0);
    for (index, name) in LEAD_NOWHERE.iter().enumerate() {
        ip(&format!("-n {device} link add {name} type veth peer name end{index}"));
        ip(&format!("-n {device} addr add 10.99.{index}.1/24 dev {name}"));
        ip(&format!("-n {device} link set {name} up"));
        ip(&format!("-n {device} link set end{index} up"));
    }
    let names = LEAD_NOWHERE.map(|name| format!("\"{name}\"")).join(", ");
    lan.nft(
        0,
        &format!(
            "table inet test {{ chain said {{ type filter hook output priority 0; \
             oifname {{ {names} }} udp dport 5353 counter; oifname \"eth0\" udp dport 5353 counter; }}; }}"
        ),
    );
    let (a, b) = pair();
    a.run(&["put", "registry:note", "a", "1"]).expect_code(0);

    let _a = Running::up(&lan, 0, &a, &[]);
    let _b = Running::up(&lan, 1, &b, &[]);
    converge(&[&a, &b]);

    assert_eq!(value(&b, "a"), 1);
    let [nowhere, eth0] = counted(&lan.rules(0))[..] else { panic!("two counters: {}", lan.rules(0)) };
    assert_eq!(nowhere, 0, "something was announced where nobody is");
    assert_ne!(eth0, 0);
}

/// A minute, and so with `KINFOLD_LONG=1` only. What is waited for in vain is the clock.
#[test]
fn after_a_minute_without_a_link_devices_are_together_at_once() {
    if std::env::var_os("KINFOLD_LONG").is_none() {
        return say(format_args!("skipped: a minute without a link, without KINFOLD_LONG=1"));
    }
    let Some(lan) = Lan::of(2) else { return };
    let (a, b) = pair();
    let at_a = Running::up(&lan, 0, &a, &[]);
    let _b = Running::up(&lan, 1, &b, &[]);
    at_a.says("connected");
    converge(&[&a, &b]);

    lan.link(0, "down");
    a.run(&["put", "registry:note", "a", "1"]).expect_code(0);
    b.run(&["put", "registry:note", "b", "2"]).expect_code(0);
    assert_ne!(a.run(&["wait", "--on", "1", "--timeout", "60s"]).code, 0);
    lan.link(0, "up");
    let returned = Instant::now();
    converge(&[&a, &b]);

    say(format_args!("link down for 60 s: equal {:.1?} after its return", returned.elapsed()));
    assert_eq!((value(&a, "b"), value(&b, "a")), (2.into(), 1.into()));
}

/// A network whose devices can filter; `None` where it cannot be had, which is said.
fn filtered(device_count: usize) -> Option<Lan> {
    is_available("nft").then(|| Lan::of(device_count)).flatten()
}

/// Writes rows that do not compress, under names of their own.
fn import(home: &Home, name: &str) {
    let line = |index: u64| {
        let text: String = (0..8)
            .map(|part| blake3::hash(format!("{name}{index}{part}").as_bytes()).to_hex().to_string())
            .collect();
        format!(
            "{{\"surface\":\"registry:file\",\"payload\":{{\"id\":\"{name}{index}\",\"value\":\"{text}\"}}}}\n"
        )
    };
    let lines: String = (0..ROWS).map(line).collect();
    home.run_with(&["import", "-"], lines.as_bytes()).expect_code(0);
}

fn rows(home: &Home) -> u64 {
    home.json(&["status"])["rows"].as_u64().expect("a number")
}

/// Waits until some of the rows have arrived, and is sure that not all have.
fn under_way(home: &Home) -> u64 {
    loop {
        let arrived = rows(home);
        if arrived > 0 {
            assert!(arrived < ROWS, "all arrived before anything could be seen of it");
            return arrived;
        }
    }
}

/// What the counters of a rule set have counted, in their order.
fn counted(rules: &str) -> Vec<u64> {
    let words: Vec<&str> = rules.split_whitespace().collect();
    let is_count = |pair: &&[&str]| pair[0] == "packets";
    words.windows(2).filter(is_count).map(|pair| pair[1].parse().expect("a number")).collect()
}

/// Rows of 512 bytes each: about a megabyte once sealed, hundreds of packets.
const ROWS: u64 = 3_000;

/// Names as containers, machines within the machine and tunnels give them.
const LEAD_NOWHERE: [&str; 12] = [
    "docker0",
    "docker1",
    "br-5f3a",
    "veth12ab",
    "veth34cd",
    "virbr0",
    "vmnet1",
    "tun0",
    "tap0",
    "wg0",
    "tailscale0",
    "utun3",
];
