//! Leases through the program: one device at a time, whatever dies.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::kin::{self, Caller, Daemon, Ended, Home, PATIENCE, command, signal};

/// Devices that keep their leases in one directory.
struct Fleet {
    place: tempfile::TempDir,
}

impl Fleet {
    fn new() -> Self {
        Self { place: tempfile::tempdir().expect("the temporary directory is writable") }
    }

    fn place(&self) -> &str {
        self.place.path().to_str().expect("a plain path")
    }

    /// A new device whose node runs.
    fn device(&self, name: &str) -> (Home, Daemon) {
        let home = Home::init(name);
        let daemon = home.up(&["--leases", self.place()]);
        (home, daemon)
    }
}

/// `lease run` under way, whose command reads what the test writes.
struct Running {
    process: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Running {
    fn begin(home: &Home, arguments: &[&str], script: &str) -> Self {
        let mut command = command(&home.path());
        command.args(["lease", "run"]).args(arguments).args(["--", "sh", "-c", script]);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let stdin = process.stdin.take();
        let lines = kin::lines(process.stdout.take().expect("a pipe was asked for"));
        Self { process, stdin, lines }
    }

    /// The next line of the command.
    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("the command says something")
    }

    /// Lets the command read the end of its input, and waits for the end of it all.
    fn end(mut self) -> Ended {
        drop(self.stdin.take());
        self.ended()
    }

    fn ended(mut self) -> Ended {
        let mut stdout = String::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            stdout.push_str(&line);
            stdout.push('\n');
        }
        let code = self.process.wait().expect("it is our child").code().unwrap_or(-1);
        let mut stderr = String::new();
        let mut pipe = self.process.stderr.take().expect("a pipe was asked for");
        pipe.read_to_string(&mut stderr).expect("it is text");
        Ended { code, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended is no error.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a script under a lease, to its end.
pub fn under_a_lease(home: &Home, arguments: &[&str], script: &str) -> Ended {
    let mut all = vec!["lease", "run"];
    all.extend(arguments);
    all.extend(["--", "sh", "-c", script]);
    home.run(&all)
}

fn is_alive(pid: &str) -> bool {
    let state = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    // A process that nobody has waited for is dead all the same.
    state.is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or("Z").starts_with('Z'))
}

#[test]
fn a_command_runs_once_and_knows_its_run_and_token() {
    let fleet = Fleet::new();
    let (home, _daemon) = fleet.device("laptop");
    let script = "echo $KINFOLD_AGENT $KINFOLD_RUN $KINFOLD_EPOCH";

    let first = under_a_lease(&home, &["backup", "--run", "today"], script).expect_code(0);
    let again = under_a_lease(&home, &["backup", "--run", "today"], script).expect_code(0);
    let next = under_a_lease(&home, &["backup", "--run", "tomorrow"], script).expect_code(0);

    assert_eq!(first.stdout, "backup today 1\n");
    assert_eq!(again.stdout, "", "{again:?}");
    again.says("run today of backup is committed already; nothing was run");
    assert_eq!(next.stdout, "backup tomorrow 3\n");
    let unnamed = under_a_lease(&home, &["backup"], script).expect_code(0);
    assert!(
        unnamed.stdout.ends_with(" 4\n") && unnamed.stdout.len() > "backup  4\n".len() + 9,
        "{unnamed:?}"
    );
}

#[test]
fn the_exit_code_is_that_of_the_command() {
    let fleet = Fleet::new();
    let (home, _daemon) = fleet.device("laptop");

    under_a_lease(&home, &["backup", "--run", "a"], "exit 7").expect_code(7);
    under_a_lease(&home, &["backup", "--run", "b"], "kill -9 $$").expect_code(137);
    let absent =
        home.run(&["lease", "run", "backup", "--run", "c", "--", "no-such-program"]).expect_code(127);
    absent.says("\"no-such-program\" cannot be started");
    // A run that failed has ended; another attempt is another run.
    let again = under_a_lease(&home, &["backup", "--run", "a"], "echo again").expect_code(1);
    assert_eq!(again.stdout, "");
    again.says("run a is not begun: it has failed already");
    under_a_lease(&home, &["backup", "--ttl", "100ms"], "echo never")
        .expect_code(2)
        .says("1000 to 3600000 ms");
}

#[test]
fn without_a_running_node_nothing_is_run() {
    let home = Home::init("laptop");

    let ended = under_a_lease(&home, &["backup"], "echo never").expect_code(75);

    assert_eq!(ended.stdout, "");
    ended.says("no node runs here");
}

#[test]
fn what_another_device_holds_is_not_run_here_and_whoever_waits_is_next() {
    let fleet = Fleet::new();
    let (a, _a) = fleet.device("a");
    let (b, _b) = fleet.device("b");
    let holding = Running::begin(&a, &["backup"], "echo begun; cat");
    assert_eq!(holding.line(), "begun");

    let began = Instant::now();
    let refused = under_a_lease(&b, &["backup"], "echo never").expect_code(75);
    assert_eq!(refused.stdout, "", "after {:?}", began.elapsed());
    refused.says("holds it with epoch 1");
    under_a_lease(&a, &["backup"], "echo never").expect_code(75).says("holds it already, with epoch 1");
    under_a_lease(&b, &["backup", "--wait=1s"], "echo never").expect_code(75);
    let waiting = Running::begin(&b, &["backup", "--wait"], "echo $KINFOLD_EPOCH");
    holding.end().expect_code(0);

    assert_eq!(waiting.end().expect_code(0).stdout, "2\n");
}

#[test]
fn a_run_that_another_device_committed_is_not_run_here() {
    let fleet = Fleet::new();
    let (a, b) = (Home::init("a"), Home::init("b"));
    kin::pair(&a, &b);
    let at_a = a.up(&["--leases", fleet.place()]);
    let _at_b = b.up(&["--leases", fleet.place(), "--peer", &at_a.listening]);

    under_a_lease(&a, &["backup", "--run", "today"], "exit 0").expect_code(0);
    a.run(&["wait", "--on", "1", "--timeout", "60s"]).expect_code(0);
    let second = under_a_lease(&b, &["backup", "--run", "today"], "echo twice").expect_code(0);

    assert_eq!(second.stdout, "");
    second.says("is committed already");
}

#[test]
fn signals_reach_the_command_and_its_group() {
    let fleet = Fleet::new();
    let (home, _daemon) = fleet.device("laptop");
    for (name, code) in [("TERM", 41), ("INT", 42), ("HUP", 43), ("USR1", 44)] {
        let script = "trap 'exit 41' TERM; trap 'exit 42' INT; trap 'exit 43' HUP; trap 'exit 44' USR1; \
                      echo ready; while :; do read line || exit 9; done";
        let running = Running::begin(&home, &["backup"], script);
        assert_eq!(running.line(), "ready");

        signal(running.process.id(), name);
        // The shell looks at its traps once it has read a line.
        let mut running = running;
        let _ = running.stdin.as_mut().expect("it is there").write_all(b"\n");

        assert_eq!(running.ended().code, code, "{name}");
    }
}

#[test]
fn a_command_that_is_stopped_goes_on_where_its_lease_still_holds() {
    let fleet = Fleet::new();
    let (home, _daemon) = fleet.device("laptop");
    let running = Running::begin(&home, &["backup"], "echo $$; read line; echo $line");
    let pid = running.line();

    signal(running.process.id(), "TSTP");
    wait_for_state(&pid, 'T');
    wait_for_state(&running.process.id().to_string(), 'T');
    signal(running.process.id(), "CONT");
    let mut running = running;
    running.stdin.as_mut().expect("it is there").write_all(b"on\n").expect("it reads");

    assert_eq!(running.ended().expect_code(0).stdout, "on\n");
}

#[test]
fn where_the_node_dies_the_command_ends_before_its_lease_does() {
    let fleet = Fleet::new();
    let (a, at_a) = fleet.device("a");
    let (b, _b) = fleet.device("b");
    // Deaf to what asks it to end, and so is what it has started.
    let script = "trap '' TERM; tail -f /dev/null & echo $!; echo $$; wait; tail -f /dev/null";
    let holding = Running::begin(&a, &["backup", "--ttl", "3s"], script);
    let pids = [holding.line(), holding.line()];
    let check = format!("kill -0 {} 2>/dev/null && echo both; echo $KINFOLD_EPOCH", pids[1]);
    let waiting = Running::begin(&b, &["backup", "--ttl", "3s", "--wait"], &check);

    at_a.kill();
    let lost = holding.ended().expect_code(75);

    lost.says("the lease was lost, and the command stopped");
    assert_eq!(waiting.end().expect_code(0).stdout, "2\n", "the other began when the first had ended");
    assert!(!pids.iter().any(|pid| is_alive(pid)), "{pids:?}");
}

#[test]
fn a_node_that_is_started_again_records_the_end_of_a_run() {
    let fleet = Fleet::new();
    let (home, daemon) = fleet.device("laptop");
    let holding = Running::begin(&home, &["backup", "--run", "today"], "echo begun; cat");
    assert_eq!(holding.line(), "begun");

    daemon.kill();
    let _again = home.up(&["--leases", fleet.place()]);
    holding.end().expect_code(0);

    let form = home.run(&["--json", "fence", "backup", "today", "1"]).expect_code(1).stdout;
    assert!(form.contains("\"AlreadyCommitted\""), "{form}");
}

#[test]
fn the_fence_lets_the_holder_act_and_nobody_else() {
    let fleet = Fleet::new();
    let (a, _a) = fleet.device("a");
    let (b, _b) = fleet.device("b");
    let holding = Running::begin(&a, &["backup", "--run", "today"], "echo $KINFOLD_EPOCH; cat");
    assert_eq!(holding.line(), "1");

    assert_eq!(a.run(&["fence", "backup", "today", "1"]).expect_code(0).stdout, "proceed\n");
    a.run(&["fence", "backup", "today", "2"]).expect_code(75).says("epoch 2 is not the one that holds");
    b.run(&["fence", "backup", "today", "1"]).expect_code(75).says("does not hold the lease");
    a.run(&["fence", "other", "today", "1"]).expect_code(75).says("does not hold the lease");
    let mut caller = Caller::connect(&a);
    let params = json!({ "agent_id": "backup", "run_id": "today", "epoch": 1 });
    let answer = caller.call("sync.fence_check", params.clone())["result"].clone();
    assert_eq!((&answer["decision"], &answer["may_dispatch"]), (&"Proceed".into(), &true.into()));
    holding.end().expect_code(0);

    // What has happened is not run again, whatever the token.
    let fenced = a.run(&["--json", "fence", "backup", "today", "1"]).expect_code(1);
    let form: Value = serde_json::from_str(&fenced.stdout).expect("it is JSON");
    assert_eq!((&form["decision"], &form["may_dispatch"]), (&"AlreadyCommitted".into(), &false.into()));
}

#[test]
fn nobody_s_requests_win_a_race_together() {
    let fleet = Fleet::new();
    let homes: Vec<_> = ["a", "b", "c"].map(|name| fleet.device(name)).into();

    race(&homes.iter().map(|(home, _)| home).collect::<Vec<_>>(), 30);
}

/// Several processes ask for one lease at once, again and again; one gets it, with a greater token.
pub fn race(homes: &[&Home], rounds: u32) {
    let mut last = 0;
    let start = Arc::new(Barrier::new(homes.len()));
    let mut callers: Vec<Caller> = homes.iter().map(|home| Caller::connect(home)).collect();
    for round in 0..rounds {
        let answers: Vec<Value> = std::thread::scope(|scope| {
            let asking: Vec<_> = callers
                .iter_mut()
                .map(|caller| {
                    let start = Arc::clone(&start);
                    scope.spawn(move || {
                        start.wait();
                        caller.call("lease.acquire", json!({ "agent_id": "race", "ttl_ms": 30_000 }))
                    })
                })
                .collect();
            asking.into_iter().map(|asked| asked.join().expect("it asks")).collect()
        });
        let won: Vec<usize> =
            (0..answers.len()).filter(|index| answers[*index]["result"].is_object()).collect();
        assert_eq!(won.len(), 1, "round {round}: {answers:#?}");
        let epoch = answers[won[0]]["result"]["epoch"].as_u64().expect("a number");
        assert!(last < epoch, "round {round}: {epoch} after {last}");
        last = epoch;
        for (index, answer) in answers.iter().enumerate().filter(|(index, _)| *index != won[0]) {
            assert_eq!(answer["error"]["data"]["kind"], "Held", "round {round}, {index}: {answer}");
        }
        let params = json!({ "agent_id": "race", "epoch": epoch });
        let released = callers[won[0]].call("lease.release", params);
        assert_eq!(released["result"]["released"], true, "{released}");
    }
}

/// Waits until a process is in a state, as the kernel says it.
fn wait_for_state(pid: &str, state: char) {
    let stat = PathBuf::from("/proc").join(pid).join("stat");
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let text = std::fs::read_to_string(&stat).expect("the process is there");
        if text.rsplit(") ").next().is_some_and(|rest| rest.starts_with(state)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{pid} is not in state {state}");
}
