//! Living with it: what a device keeps over restarts, and how it is configured and looked after.

use std::fs;
use std::process::Stdio;

use serde_json::json;

use crate::kin::{Caller, Daemon, Home, command, pair, run, signal};

#[test]
fn a_device_that_starts_again_finds_another_where_it_was_last() {
    let (a, b) = (Home::init("a"), Home::init("b"));
    pair(&a, &b);
    let at_a = a.up(&[]);
    let met = b.up(&["--peer", &at_a.listening]);
    a.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    assert_eq!(met.terminate(), 0);
    a.run(&["put", "registry:note", "meanwhile", "1"]).expect_code(0);

    // Nothing tells it where: no multicast, no peer named. The other side knows a port that is gone.
    let _again = b.up(&[]);
    a.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);

    assert_eq!(b.run(&["get", "registry:note", "meanwhile"]).expect_code(0).stdout, "1\n");
}

#[test]
fn settings_are_shown_set_and_taken_away() {
    let home = Home::init("a");

    home.run(&["config", "set", "network.mdns", "false"]).expect_code(0);
    home.run(&["config", "set", "network.peers", "nas:4433, [fd00::2]:1"]).expect_code(0);
    home.run(&["config", "patch", r#"{"network": {"mdns": null, "max_mtu": 1280}}"#]).expect_code(0);
    let all = home.json(&["config", "get"]);
    let one = home.run(&["config", "get", "network.peers"]).expect_code(0);

    assert_eq!(all["generation"], 3);
    assert_eq!(all["settings"]["network"]["mdns"], true);
    assert_eq!(all["settings"]["network"]["max_mtu"], 1_280);
    assert_eq!(all["stated"], json!(["network.peers", "network.max_mtu"]));
    assert_eq!(all.get("path"), None, "only where it is asked for");
    assert_eq!(one.stdout, "nas:4433, [fd00::2]:1\n");
    let path = home.run(&["config", "path"]).expect_code(0).stdout;
    assert_eq!(home.json(&["config", "get", "--diagnostic"])["path"], path.trim());
    assert!(fs::read_to_string(path.trim()).unwrap().contains("max_mtu = 1280"));
    home.run(&["config", "unset", "network.max_mtu", "--expect", "3"]).expect_code(0);
    assert_eq!(home.json(&["config", "get", "network.max_mtu"])["settings"], 1_452);
}

#[test]
fn settings_that_cannot_be_are_refused_and_nothing_is_changed() {
    let home = Home::init("a");
    home.run(&["config", "set", "network.mdns", "false"]).expect_code(0);
    let before = fs::read(home.path().join("config.toml")).unwrap();

    for (arguments, words) in [
        (&["set", "network.listne", "1"][..], "did you mean network.listen?"),
        (&["set", "network.max_mtu", "9000"], "a whole number from 1200 to 6500, not 9000"),
        (&["set", "network.mdns", "perhaps"], "true or false"),
        (&["set", "network.mdns", "true", "--expect", "7"], "at generation 1, not 7"),
        (&["set", "generation", "7"], "cannot be set"),
        (&["get", "network.mds"], "did you mean network.mdns?"),
        (&["patch", "[]"], "a patch is a JSON object"),
        (&["patch", "{"], "not JSON"),
        (&["patch", ""], "a patch is a JSON object"),
    ] {
        let all = [&["config"], arguments].concat();
        home.run(&all).expect_code(1).says(words);
    }

    assert_eq!(fs::read(home.path().join("config.toml")).unwrap(), before);
    let elsewhere = Home::empty();
    elsewhere.run(&["config", "set", "network.mdns", "false"]).expect_code(1).says("kinfold init");
    elsewhere.run(&["init"]).expect_code(0);
}

#[test]
fn a_broken_file_stops_what_needs_the_network_and_nothing_else() {
    let home = Home::init("a");
    fs::write(home.path().join("config.toml"), "[network]\nlistne = 4433\n").unwrap();

    home.run(&["put", "registry:note", "a", "1"]).expect_code(0);
    home.run(&["status"]).expect_code(0);
    let named = "config.toml, line 2: no setting \"network.listne\"; did you mean network.listen?";
    home.run(&["up"]).expect_code(1).says(named);
    home.run(&["sync"]).expect_code(1).says(named);
    home.run(&["config", "patch", r#"{"network": {"listne": null, "listen": 4433}}"#]).expect_code(0);

    assert_eq!(home.json(&["config", "get", "network.listen"])["settings"], "4433");
}

#[test]
fn two_processes_that_race_a_thousand_patches_lose_none_and_never_tear_the_file() {
    let home = Home::init("a");
    let file = home.path().join("config.toml");
    let patches = |section: &str, key: &str, least: u64| {
        let lines: Vec<String> = (1..=500).map(|n| json!({section: {key: least + n}}).to_string()).collect();
        lines.join("\n")
    };
    let racers =
        [patches("network", "max_mtu", 2_000), patches("sync", "anti_entropy_seconds", 0)].map(|input| {
            let mut command = command(&home.path());
            command.args(["config", "patch", "-"]);
            std::thread::spawn(move || run(&mut command, input.as_bytes()))
        });

    // Whoever reads meanwhile finds a whole file, and never an older one than before.
    let mut last = 0;
    while racers.iter().any(|racer| !racer.is_finished()) {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let generation = text.lines().find_map(|line| line.strip_prefix("generation = "));
        let generation: u64 = generation.expect("a whole file").parse().unwrap();
        assert!(last <= generation && text.ends_with('\n'), "{text}");
        last = generation;
    }
    for racer in racers {
        racer.join().unwrap().expect_code(0);
    }

    let all = home.json(&["config", "get"]);
    assert_eq!(all["generation"], 1_000);
    assert_eq!(all["settings"]["network"]["max_mtu"], 2_500);
    assert_eq!(all["settings"]["sync"]["anti_entropy_seconds"], 500);
}

#[test]
fn a_running_node_takes_what_can_change_and_names_what_waits() {
    let (a, b) = (Home::init("a"), Home::init("b"));
    pair(&a, &b);
    let at_a = a.up(&[]);
    let _b = b.up(&[]);
    let mut caller = Caller::connect(&b);

    let patch = json!({"network": {"peers": [at_a.listening], "mdns": false}});
    let changed = caller.call("config.patch", json!({"patch": patch, "expected_generation": 0}));
    a.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    let again =
        caller.call("config.set", json!({"key": "network.mdns", "value": null, "expected_generation": 0}));
    let shown = caller.call("config.get", json!({"key": "network.mdns", "envelope": "diagnostic"}));

    assert_eq!(changed["result"]["changed"], json!(["network.peers"]));
    assert_eq!(changed["result"]["needs_restart"], json!(["network.mdns"]));
    assert_eq!(again["error"]["data"]["kind"], "GenerationConflict");
    assert_eq!(
        (&again["error"]["data"]["expected"], &again["error"]["data"]["current"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(shown["result"]["needs_restart"], json!(["network.mdns"]));
    assert_eq!(shown["result"]["path"], b.path().join("config.toml").to_str().unwrap());
}

#[test]
fn a_hangup_makes_a_node_read_its_settings_again() {
    let (a, b) = (Home::init("a"), Home::init("b"));
    pair(&a, &b);
    let at_a = a.up(&[]);
    let mut starting = command(&b.path());
    starting.args(["--json", "up", "--listen", "127.0.0.1:0", "--no-mdns"]).stderr(Stdio::piped());
    let mut at_b = Daemon::start(&mut starting);
    let log = at_b.log();

    // What cannot be read is told, and changes nothing.
    fs::write(b.path().join("config.toml"), "[network]\npeers = 3\n").unwrap();
    signal(at_b.pid(), "HUP");
    let told = log.iter().find(|line| line.contains("the settings stay as they were"));
    assert!(told.is_some_and(|line| line.contains("config.toml, line 2: network.peers is a list")));
    fs::write(b.path().join("config.toml"), format!("[network]\npeers = [\"{}\"]\n", at_a.listening))
        .unwrap();
    signal(at_b.pid(), "HUP");
    a.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);

    assert_eq!(at_b.terminate(), 0);
}

#[test]
fn a_doctor_finds_what_is_wrong_on_this_machine() {
    let home = Home::init("a");
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    home.run(&["config", "set", "network.listen", &address]).expect_code(0);
    home.run(&["config", "set", "network.mdns", "false"]).expect_code(0);

    let ended = home.run(&["doctor"]).expect_code(1).says("2 checks failed");
    assert!(ended.stdout.contains("FAIL node          no node runs here"), "{ended:?}");
    assert!(ended.stdout.contains("another program listens at"), "{ended:?}");
    assert!(ended.stdout.contains("→ stop that program, or choose another port"), "{ended:?}");

    drop(taken);
    let _up = home.up(&[]);
    let told: serde_json::Value = serde_json::from_str(&home.run(&["--json", "doctor"]).stdout).unwrap();
    let state = |name: &str| {
        let checks = told["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == name).map(|check| check["state"].clone())
    };
    assert_eq!(state("node"), Some("ok".into()));
    assert_eq!(state("port"), None, "the node has it");
    fs::write(home.path().join("config.toml"), "[network]\nmdns = 1\n").unwrap();
    home.run(&["doctor"]).expect_code(1);
    Home::empty().run(&["doctor"]).expect_code(1).says("1 check failed");
}
