//! Living with it: what a device keeps over restarts, and how it is configured and looked after.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::Instant;

use serde_json::json;

use crate::kin::{Caller, Daemon, Home, PATIENCE, command, pair, run, signal};

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
fn a_device_that_joined_finds_who_invited_it_at_its_first_start() {
    let (a, b) = (Home::init("a"), Home::empty());
    let _a = a.up(&[]);
    a.run(&["put", "registry:note", "before", "1"]).expect_code(0);

    // The node of the join ends with it, and had no time to meet anybody.
    let mut inviting = Caller::connect(&a);
    let invite = inviting.call("pair.invite", json!({}))["result"].clone();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    b.run(&["join", &text(&invite["code"]), "--peer", &text(&invite["addresses"][0])]).expect_code(0);
    let _b = b.up(&[]);
    a.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);

    assert_eq!(b.run(&["get", "registry:note", "before"]).expect_code(0).stdout, "1\n");
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

    let ended = home.run(&["doctor"]).expect_code(1).says("checks failed");
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

#[test]
fn figures_are_told_and_served_on_loopback_once_that_is_switched_on() {
    let (a, b) = (Home::init("a"), Home::init("b"));
    pair(&a, &b);
    let at_a = a.up(&[]);
    let _b = b.up(&["--peer", &at_a.listening]);
    a.run(&["put", "registry:note", "x", "1"]).expect_code(0);
    a.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);

    let form = a.json(&["metrics"]);
    let figure = |name: &str| {
        let metric = form["metrics"].as_array().unwrap().iter().find(|metric| metric["name"] == name);
        metric.unwrap_or_else(|| panic!("{name}: {form:#}"))["samples"].clone()
    };
    assert_eq!(figure("kinfold_peers_connected")[0]["value"], 1);
    assert!(figure("kinfold_ops_pushed_total")[0]["value"].as_u64() >= Some(1));
    assert!(figure("kinfold_commit_seconds_total")[0]["value"].as_f64() > Some(0.0));
    let sent = &figure("kinfold_sent_bytes_total")[0];
    assert!(sent["value"].as_u64() > Some(1_000), "{sent}");
    assert!(sent["labels"]["device"].is_string());
    assert_eq!(figure("kinfold_rows")[0], json!({"labels": {"space": "personal"}, "value": 1}));

    a.run(&["config", "set", "metrics.listen", "0.0.0.0:9464"]).expect_code(1).says("within this machine");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    a.run(&["config", "set", "metrics.listen", &port.to_string()]).expect_code(0);
    let scraped = until(|| scrape(port, "/metrics"));
    assert!(scraped.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{scraped}");
    assert!(
        scraped.contains("\n# TYPE kinfold_peers_connected gauge\nkinfold_peers_connected 1\n"),
        "{scraped}"
    );
    assert!(scrape(port, "/").unwrap().starts_with("HTTP/1.1 404"));
    a.run(&["config", "set", "metrics.listen", "off"]).expect_code(0);
    until(|| scrape(port, "/metrics").is_none().then_some(()));
}

/// One request to the figures; `None` where nobody listens.
fn scrape(port: u16, target: &str) -> Option<String> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok().filter(|length| *length > 0)?;
    Some(answer)
}

/// Asks again until there is an answer; the other process does not tell when it has come so far.
fn until<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "it never came");
        std::thread::yield_now();
    }
}

#[test]
fn nothing_that_is_secret_is_in_the_log_at_any_level() {
    let (a, b) = (Home::empty(), Home::empty());
    let canary = blake3::hash(a.path().as_os_str().as_encoded_bytes()).to_hex()[..16].to_owned();
    let word = |what: &str| format!("{what}{canary}");
    for (home, name) in [(&a, "laptop"), (&b, "desktop")] {
        home.run(&["init", "--name", &word(name)]).expect_code(0);
        home.run(&["config", "set", "log.level", "trace"]).expect_code(0);
    }
    let mut logs = Vec::new();
    let mut start = |home: &Home, arguments: &[&str]| {
        let mut starting = command(&home.path());
        starting
            .args(["--json", "--log", "trace", "up", "--listen", "127.0.0.1:0", "--no-mdns"])
            .args(arguments);
        let mut daemon = Daemon::start(starting.stderr(Stdio::piped()));
        logs.push(daemon.log());
        daemon
    };
    let at_a = start(&a, &[]);
    let at_b = start(&b, &["--peer", &at_a.listening]);

    // An invite ends with the connection that asked for it.
    let mut inviting = Caller::connect(&a);
    let invite = inviting.call("pair.invite", json!({ "role": "admin" }))["result"].clone();
    let (code, uri) =
        (invite["code"].as_str().unwrap().to_owned(), invite["uri"].as_str().unwrap().to_owned());
    let address = invite["addresses"][0].as_str().unwrap();
    let joined = b.run(&["--log", "trace", "join", &code, "--peer", address]).expect_code(0);
    let put =
        a.run(&["--log", "trace", "put", "registry:note", &word("key"), &format!("{:?}", word("value"))]);
    b.run(&["event", "conversation", &word("stream"), &format!("{:?}", word("turn"))]).expect_code(0);
    a.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    b.run(&["wait", "--on", "1", "--timeout", "100s"]).expect_code(0);
    assert!(b.run(&["export"]).expect_code(0).stdout.contains(&word("value")));
    let key = fs::read(a.path().join("identity.key")).unwrap();
    assert_eq!((at_a.terminate(), at_b.terminate()), (0, 0));

    let secret =
        uri.split('&').find_map(|part| part.strip_prefix("s=")).expect("a link has a secret").to_owned();
    let bare = code.replace('-', "");
    let hex: String = key[16..48].iter().map(|byte| format!("{byte:02x}")).collect();
    let mut texts: Vec<String> = logs.iter().map(|log| log.iter().collect::<Vec<_>>().join("\n")).collect();
    for home in [&a, &b] {
        let files = fs::read_dir(home.path().join("log")).unwrap();
        texts.push(files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect());
    }
    assert!(texts.iter().all(|text| text.contains("TRACE")), "everything is logged");
    texts.extend([joined.stderr, put.stderr]);
    for text in texts {
        for secret in [&canary, &code, &bare, &secret, &hex] {
            let line = text.lines().find(|line| line.to_lowercase().contains(&secret.to_lowercase()));
            assert_eq!(line, None, "{secret}");
        }
    }
}

#[test]
fn a_service_is_shown_installed_and_removed_without_touching_the_machine() {
    let home = Home::init("a");
    let dir = home.path().with_file_name("units");
    let dir = dir.to_str().unwrap();
    let service = |more: &[&str]| {
        let mut all = vec!["service", "--for", "systemd", "--dir", dir];
        all.extend(more);
        home.run(&all)
    };

    let shown = service(&["install", "--print"]).expect_code(0).stdout;
    assert!(!std::path::Path::new(dir).exists(), "only shown");
    service(&["install"]).expect_code(0).says("loginctl enable-linger");
    let file = std::path::Path::new(dir).join("kinfold.service");
    assert_eq!(fs::read_to_string(&file).unwrap(), shown);
    assert!(shown.contains(&format!("--home \"{}\" up", home.path().display())));
    verify(&file);
    let status: serde_json::Value =
        serde_json::from_str(&service(&["status", "--json"]).expect_code(0).stdout).unwrap();
    assert_eq!((&status["installed"], &status["running"]), (&true.into(), &false.into()));
    service(&["remove"]).expect_code(0);
    service(&["remove"]).expect_code(1).says("no service is installed");
    let agent = home.run(&["service", "--for", "launchd-agent", "--dir", dir, "install"]).expect_code(0);
    agent.says("Privacy & Security → Local Network");
}

/// Has systemd judge a unit, where it is there.
fn verify(unit: &std::path::Path) {
    match std::process::Command::new("systemd-analyze")
        .args(["--user", "--man=no", "verify"])
        .arg(unit)
        .env("XDG_RUNTIME_DIR", unit.parent().expect("it has a directory"))
        .output()
    {
        Ok(judged) => assert!(judged.status.success(), "{judged:?}"),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "skipped: no systemd-analyze to judge the unit: {error}");
        }
    }
}

#[test]
fn shells_and_manuals_know_every_command() {
    let home = Home::empty();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = home.run(&["completions", shell]).expect_code(0).stdout;
        assert!(text.contains("safe-to-sleep") && text.contains("config"), "{shell}");
    }
    let dir = home.path().with_file_name("man");
    home.run(&["man", dir.to_str().unwrap()]).expect_code(0);
    for page in ["kinfold.1", "kinfold-put.1", "kinfold-config-set.1", "kinfold-doctor.1"] {
        let text = fs::read_to_string(dir.join(page)).unwrap();
        assert!(text.contains(".TH kinfold"), "{page}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_service_manager_is_told_when_the_node_is_ready_and_when_it_stops() {
    let home = Home::init("a");
    let socket = home.path().with_file_name("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut starting = command(&home.path());
    starting.args(["--json", "up", "--listen", "127.0.0.1:0", "--no-mdns"]).env("NOTIFY_SOCKET", &socket);
    starting.env("JOURNAL_STREAM", "8:1").arg("--log=info").stderr(Stdio::piped());
    let mut daemon = Daemon::start(&mut starting);
    let log = daemon.log();
    let heard = || {
        let mut text = [0; 64];
        let length = manager.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    };

    assert_eq!(heard(), "READY=1");
    signal(daemon.pid(), "HUP");
    let told = log.iter().find(|line| line.contains("settings read")).unwrap();
    assert!(told.starts_with("<6> INFO"), "the journal reads the priority: {told}");
    assert_eq!(daemon.terminate(), 0);
    assert_eq!(heard(), "STOPPING=1");
}
