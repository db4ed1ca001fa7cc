//! The program on networks of its own: every device in a network namespace, a bridge between them.
//!
//! Needs Linux, root, and `ip`; the test that drops multicast needs `nft`. What is missing is said
//! once on standard error, and nothing is tested then. Nothing here reaches the network of the
//! machine, and nothing is left behind.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use serde_json::Value;

use crate::kin::{self, Daemon, Ended, Home, PATIENCE, command};

#[test]
fn two_devices_of_one_person_meet_by_multicast_alone() {
    let Some(lan) = Lan::of(2) else { return };
    let (a, b) = pair();
    a.run(&["put", "registry:note", "a", "1"]).expect_code(0);
    b.run(&["put", "registry:note", "b", "2"]).expect_code(0);

    let _a = Running::up(&lan, 0, &a, &[]);
    let _b = Running::up(&lan, 1, &b, &[]);
    converge(&[&a, &b]);

    assert_eq!(value(&a, "b"), 2);
    assert_eq!(value(&b, "a"), 1);
    a.run(&["put", "registry:note", "live", "3"]).expect_code(0);
    a.run(&["wait", "--on", "1", "--timeout", "20s"]).expect_code(0);
    assert_eq!(value(&b, "live"), 3);
}

#[test]
fn where_multicast_is_dropped_an_address_is_enough() {
    if !is_available("nft") {
        return;
    }
    let Some(lan) = Lan::of(2) else { return };
    lan.drop_multicast();
    let (a, b) = pair();
    a.run(&["put", "registry:note", "a", "1"]).expect_code(0);

    let at_a = Running::up(&lan, 0, &a, &[]);
    let port = at_a.daemon.listening.rsplit_once(':').expect("an address has a port").1;
    let _b = Running::up(&lan, 1, &b, &["--peer", &format!("{}:{port}", Lan::address(0))]);
    converge(&[&a, &b]);

    assert_eq!(value(&b, "a"), 1);
    assert!(lan.is_multicast_dropped(), "something was announced, and dropped");
}

#[test]
fn a_code_typed_on_another_machine_is_enough() {
    let Some(lan) = Lan::of(2) else { return };
    let (a, b) = (Home::init("laptop"), Home::empty());
    let inviting = Inviting::begin(&lan, 0, &a);

    let joined = lan.run(1, &b, &["join", &inviting.code, "--name", "desk"]).expect_code(0);

    assert!(joined.stdout.contains("the personal space of laptop"), "{joined:?}");
    let phrase = inviting.phrase();
    assert!(joined.stdout.contains(&phrase), "{phrase:?}: {joined:?}");
    let _a = Running::up(&lan, 0, &a, &[]);
    let _b = Running::up(&lan, 1, &b, &[]);
    a.run(&["put", "registry:note", "a", "1"]).expect_code(0);
    converge(&[&a, &b]);
    assert_eq!(value(&b, "a"), 1);
}

#[test]
fn where_multicast_is_dropped_the_link_is_enough() {
    if !is_available("nft") {
        return;
    }
    let Some(lan) = Lan::of(2) else { return };
    lan.drop_multicast();
    let (a, b) = (Home::init("laptop"), Home::init("desk"));
    let inviting = Inviting::begin(&lan, 0, &a);

    let joined = lan.run(1, &b, &["join", &inviting.uri]).expect_code(0);

    assert!(joined.stdout.contains(&inviting.phrase()), "{joined:?}");
}

#[test]
fn after_the_link_was_down_what_both_wrote_meanwhile_arrives_at_once() {
    let Some(lan) = Lan::of(2) else { return };
    let (a, b) = pair();
    let at_a = Running::up(&lan, 0, &a, &[]);
    let _b = Running::up(&lan, 1, &b, &[]);
    converge(&[&a, &b]);

    // Down for a moment: the connection is still there. Down until the side that can see it has given
    // the connection up; the other side cannot, and believes in it still.
    for (span, is_long) in [("moment", false), ("while", true)] {
        lan.link(0, "down");
        a.run(&["put", "registry:note", &format!("a {span}"), "1"]).expect_code(0);
        b.run(&["put", "registry:note", &format!("b {span}"), "2"]).expect_code(0);
        if is_long {
            at_a.says("disconnected");
        }
        lan.link(0, "up");
        let returned = Instant::now();
        converge(&[&a, &b]);
        say(format_args!("link down for a {span}: equal {:.1?} after its return", returned.elapsed()));

        assert_eq!(value(&a, &format!("b {span}")), 2);
        assert_eq!(value(&b, &format!("a {span}")), 1);
    }
}

#[test]
fn a_third_device_that_comes_late_is_one_of_three() {
    let Some(lan) = Lan::of(3) else { return };
    let homes = [Home::init("one"), Home::init("two"), Home::init("three")];
    let [a, b, c] = &homes;
    kin::pair(a, b);
    kin::pair(a, c);
    for (home, name) in homes.iter().zip(["a", "b", "c"]) {
        home.run(&["put", "registry:note", name, "1"]).expect_code(0);
    }

    let _a = Running::up(&lan, 0, a, &[]);
    let _b = Running::up(&lan, 1, b, &[]);
    converge(&[a, b]);
    let _c = Running::up(&lan, 2, c, &[]);
    converge(&[a, b, c]);

    for home in &homes {
        for name in ["a", "b", "c"] {
            assert_eq!(value(home, name), 1, "{name}");
        }
        let status = home.json(&["status"]);
        let peers = status["peers"].as_array().expect("a list");
        assert_eq!(peers.len(), 2, "{status}");
        assert!(peers.iter().all(|peer| peer["root"] == status["state_hash"]), "{status}");
    }
}

#[test]
fn a_doctor_tells_blocked_multicast_from_blocked_unicast() {
    if !is_available("nft") {
        return;
    }
    let Some(lan) = Lan::of(2) else { return };
    // One family, so that what a filter answers is known.
    for index in 0..2 {
        ip(&format!("-n {} -6 addr flush dev eth0", lan.device(index)));
    }
    let (a, b) = pair();
    // They paired on loopback, which is no place of this network.
    for home in [&a, &b] {
        std::fs::remove_file(home.path().join("addresses")).ok();
    }
    let _a = Running::up(&lan, 0, &a, &[]);
    let at_b = Running::up(&lan, 1, &b, &[]);
    converge(&[&a, &b]);
    let (code, well) = doctor(&lan, 1, &b);
    assert_eq!((code, &well["ok"]), (0, &true.into()), "{well}");

    lan.drop_multicast();
    let (code, told) = doctor(&lan, 1, &b);
    assert_eq!(code, 0, "it works, though not by itself: {told}");
    assert_says(&told, "multicast", "warn", "it is blocked");

    lan.filter("udp dport != 5353 drop");
    at_b.says("disconnected");
    let (code, told) = doctor(&lan, 1, &b);
    assert_eq!(code, 1);
    assert_says(&told, "isolation", "fail", "none answers when it is called");

    lan.filter("udp dport != 5353 reject with icmpx admin-prohibited");
    let (code, told) = doctor(&lan, 1, &b);
    assert_eq!(code, 1);
    assert_says(&told, "device", "warn", "there is no way to one");
}

#[test]
fn a_doctor_tells_why_a_device_that_was_met_is_not_reached() {
    let Some(lan) = Lan::of(2) else { return };
    let (a, b) = pair();
    let at_a = Running::up(&lan, 0, &a, &["--no-mdns"]);
    let port = at_a.daemon.listening.rsplit_once(':').expect("an address has a port").1;
    let address = format!("{}:{port}", Lan::address(0));
    let at_b = Running::up(&lan, 1, &b, &["--no-mdns", "--peer", &address]);
    converge(&[&a, &b]);

    assert_eq!(at_a.daemon.terminate(), 0);
    at_b.says("disconnected");
    assert_says(&doctor(&lan, 1, &b).1, "device", "fail", "no kinfold listens there");

    lan.link(0, "down");
    assert_says(&doctor(&lan, 1, &b).1, "device", "warn", "it sleeps, is off");

    let tunnel = lan.device(1);
    ip(&format!("-n {tunnel} link add wg0 type veth peer name wg1"));
    ip(&format!("-n {tunnel} link set wg1 up"));
    ip(&format!("-n {tunnel} addr add 10.8.0.2/24 dev wg0"));
    ip(&format!("-n {tunnel} link set wg0 up"));
    ip(&format!("-n {tunnel} route add {}/32 dev wg0", Lan::address(0)));
    assert_says(&doctor(&lan, 1, &b).1, "device", "fail", "leave by wg0, a tunnel");

    ip(&format!("-n {tunnel} link set eth0 mtu 1000"));
    assert_says(&doctor(&lan, 1, &b).1, "mtu", "fail", "eth0 carries packets of 1000 bytes at most");

    lan.link(1, "down");
    let (code, told) = doctor(&lan, 1, &b);
    assert_eq!(code, 1);
    assert_says(&told, "interfaces", "fail", "is up, which is taken for a tunnel");
    ip(&format!("-n {tunnel} link set wg0 down"));
    assert_says(&doctor(&lan, 1, &b).1, "interfaces", "fail", "no network is up");
}

/// Runs the doctor on a device: its exit code, and what it says.
pub fn doctor(lan: &Lan, index: usize, home: &Home) -> (i32, Value) {
    let ended = lan.run(index, home, &["--json", "doctor"]);
    let told = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    (ended.code, told)
}

#[track_caller]
pub fn assert_says(told: &Value, name: &str, state: &str, words: &str) {
    let checks = told["checks"].as_array().expect("a list");
    let is_it = |check: &Value| {
        check["name"] == name
            && check["state"] == state
            && check["says"].as_str().unwrap_or("").contains(words)
    };
    assert!(checks.iter().any(is_it), "{name} {state} {words:?} is missing: {told:#}");
}

/// Two devices of one person.
pub fn pair() -> (Home, Home) {
    let homes = [Home::init("one"), Home::init("two")];
    kin::pair(&homes[0], &homes[1]);
    let [a, b] = homes;
    (a, b)
}

/// Waits until every device holds what every other holds, and compares what that folds to.
pub fn converge(homes: &[&Home]) {
    converge_within(homes, "30s");
}

/// As [`converge`], where the network is slow by intent.
pub fn converge_within(homes: &[&Home], timeout: &str) {
    let others = (homes.len() - 1).to_string();
    for home in homes {
        home.run(&["wait", "--on", &others, "--timeout", timeout]).expect_code(0);
    }
    let roots: Vec<Value> = homes.iter().map(|home| home.json(&["status"])["state_hash"].clone()).collect();
    assert!(roots.windows(2).all(|pair| pair[0] == pair[1]), "{roots:?}");
}

pub fn value(home: &Home, name: &str) -> Value {
    home.json(&["get", "registry:note", name])["payload"].clone()
}

/// A node in its namespace, and its log.
pub struct Running {
    pub daemon: Daemon,
    log: Receiver<String>,
}

impl Running {
    pub fn up(lan: &Lan, index: usize, home: &Home, arguments: &[&str]) -> Self {
        let mut inside = lan.inside(index, home);
        inside.args(["--json", "up"]).args(arguments);
        inside.env("KINFOLD_LOG", "info").stderr(Stdio::piped());
        let mut daemon = Daemon::start(&mut inside);
        let log = daemon.log();
        Self { daemon, log }
    }

    /// Waits until the log holds these words.
    pub fn says(&self, words: &str) {
        while !self.log.recv_timeout(PATIENCE).expect(words).contains(words) {}
    }
}

/// `kinfold invite` in a namespace, without a running node.
struct Inviting {
    code: String,
    uri: String,
    lines: Receiver<String>,
    process: Child,
}

impl Inviting {
    fn begin(lan: &Lan, index: usize, home: &Home) -> Self {
        let mut inside = lan.inside(index, home);
        let mut process =
            inside.args(["--json", "invite"]).stdout(Stdio::piped()).spawn().expect("ip was there");
        let lines = kin::lines(process.stdout.take().expect("a pipe was asked for"));
        let first = lines.recv_timeout(PATIENCE).expect("the invite is shown");
        let form: Value = serde_json::from_str(&first).expect("it is JSON");
        let text = |name: &str| form[name].as_str().expect(name).to_owned();
        Self { code: text("code"), uri: text("uri"), lines, process }
    }

    /// What its screen shows at the end.
    fn phrase(mut self) -> String {
        let mut last = String::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            last = line;
        }
        assert!(self.process.wait().expect("it is our child").success());
        let event: Value = serde_json::from_str(&last).expect("it is JSON");
        assert_eq!((&event["event"], &event["receipted"]), (&"paired".into(), &true.into()), "{event}");
        event["phrase"].as_str().expect("it is paired").to_owned()
    }
}

/// A switch with cables to some devices, each a namespace. Dropping it removes them.
pub struct Lan {
    name: String,
    device_count: usize,
}

impl Lan {
    /// `None` where namespaces cannot be made, which is said once.
    pub fn of(device_count: usize) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !may_make_namespaces() {
            return None;
        }
        let name = format!("kin{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lan = Self { name, device_count };
        let switch = lan.switch();
        ip(&format!("netns add {switch}"));
        ip(&format!("-n {switch} link add switch type bridge"));
        ip(&format!("-n {switch} link set switch up"));
        for index in 0..device_count {
            let (device, address) = (lan.device(index), Self::address(index));
            ip(&format!("netns add {device}"));
            ip(&format!("-n {switch} link add port{index} type veth peer name eth0 netns {device}"));
            ip(&format!("-n {switch} link set port{index} master switch up"));
            ip(&format!("-n {device} addr add {address}/24 dev eth0"));
            ip(&format!("-n {device} link set lo up"));
            ip(&format!("-n {device} link set eth0 up"));
        }
        Some(lan)
    }

    /// A command on a device.
    fn inside(&self, index: usize, home: &Home) -> Command {
        let plain = command(&home.path());
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.device(index)]).arg(plain.get_program()).args(plain.get_args());
        inside.env("NO_COLOR", "1");
        inside
    }

    /// Runs a command on a device.
    pub fn run(&self, index: usize, home: &Home, arguments: &[&str]) -> Ended {
        kin::run(self.inside(index, home).args(arguments), b"")
    }

    pub fn address(index: usize) -> String {
        format!("192.168.77.{}", index + 1)
    }

    pub fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }

    pub fn device(&self, index: usize) -> String {
        format!("{}-{index}", self.name)
    }

    /// Takes a device's interface down or up.
    pub fn link(&self, index: usize, state: &str) {
        ip(&format!("-n {} link set eth0 {state}", self.device(index)));
    }

    /// Lets every device hear unicast only.
    fn drop_multicast(&self) {
        let rules = "table inet test { chain heard { type filter hook input priority 0; \
                     udp dport 5353 counter drop; }; }";
        for index in 0..self.device_count {
            let device = self.device(index);
            let status = Command::new("ip").args(["netns", "exec", &device, "nft", rules]).status();
            assert!(status.expect("nft was there").success());
        }
    }

    /// Filters what every device hears by one rule, in place of those before.
    pub fn filter(&self, rule: &str) {
        (0..self.device_count).for_each(|index| self.filter_at(index, rule));
    }

    /// Filters what one device hears by one rule, in place of those before.
    pub fn filter_at(&self, index: usize, rule: &str) {
        self.nft(
            index,
            &format!("table inet test {{ chain heard {{ type filter hook input priority 0; {rule}; }}; }}"),
        );
    }

    /// Replaces the rules of a device.
    pub fn nft(&self, index: usize, rules: &str) {
        let rules = format!("flush ruleset; {rules}");
        let status = Command::new("ip").args(["netns", "exec", &self.device(index), "nft", &rules]).status();
        assert!(status.expect("nft was there").success());
    }

    /// The rules of a device, with what they counted.
    pub fn rules(&self, index: usize) -> String {
        let list = ["netns", "exec", &self.device(index), "nft", "list", "ruleset"];
        let rules = Command::new("ip").args(list).output().expect("nft was there");
        String::from_utf8_lossy(&rules.stdout).into_owned()
    }

    /// Lets nothing in or out of a device any more, and says so to nobody; or ends that.
    pub fn cut_off(&self, index: usize, is_cut: bool) {
        let rules = if is_cut {
            "table inet cut { chain into { type filter hook input priority 0; policy drop; iif lo accept; }; \
             chain out { type filter hook output priority 0; policy drop; oif lo accept; }; }"
        } else {
            "delete table inet cut"
        };
        let status = Command::new("ip").args(["netns", "exec", &self.device(index), "nft", rules]).status();
        assert!(status.expect("nft was there").success());
    }

    fn is_multicast_dropped(&self) -> bool {
        let rules = self.rules(0);
        rules.contains("udp dport 5353 counter") && !rules.contains("packets 0 ")
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for name in (0..self.device_count).map(|index| self.device(index)).chain([self.switch()]) {
            // One that was never made is no error.
            let _ = Command::new("ip").args(["netns", "del", &name]).stderr(Stdio::null()).status();
        }
    }
}

#[track_caller]
pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip was there");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether this process may make namespaces with a bridge; the reason why not is said once.
fn may_make_namespaces() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    *MAY.get_or_init(|| {
        if !is_available("ip") {
            return false;
        }
        let probe = format!("kin{}-probe", std::process::id());
        let attempt = |arguments: &str| {
            let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip was there");
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if output.status.success() { Ok(()) } else { Err(why) }
        };
        let made = attempt(&format!("netns add {probe}"))
            .and_then(|()| attempt(&format!("-n {probe} link add switch type bridge")));
        let _ = attempt(&format!("netns del {probe}"));
        made.inspect_err(|why| say(format_args!("skipped: no network namespaces here: {why}"))).is_ok()
    })
}

pub fn is_available(program: &str) -> bool {
    let answer = Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let answer = answer.inspect_err(|error| say(format_args!("skipped: `{program}` cannot be run: {error}")));
    answer.is_ok()
}

/// Says something that the test harness does not swallow.
pub fn say(what: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "lan: {what}");
}
