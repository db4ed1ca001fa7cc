//! A machine that sleeps: the clock that counts it, in a time namespace of its own.
//!
//! Needs Linux and a kernel and user that may make time namespaces (`unshare -T`). Where not, that is
//! said on standard error, and nothing is tested.

use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use kinfold::clock;
use kinfold::coordinator::store::DirectoryCells;
use kinfold::coordinator::{LeaseCoordinator as _, StoreCoordinator, Uptime};
use kinfold::lease::{DaemonInstance, Holder, Ttl};
use kinfold::model::{AgentId, DeviceId};

/// What the test inside is told.
const TOLD: &str = "KINFOLD_TEST_VALID_UNTIL_MS";

#[test]
fn a_holder_whose_machine_slept_past_its_lease_does_not_act() {
    let directory = tempfile::tempdir().expect("the temporary directory is writable");
    let cells = DirectoryCells::open(directory.path()).expect("it can be made");
    let holder = Holder { device: DeviceId::from_bytes([1; 32]), instance: DaemonInstance::new(1) };
    let coordinator = StoreCoordinator::with_clock(std::sync::Arc::new(cells), holder, Uptime::system());
    let agent: AgentId = "backup".parse().expect("a name");
    let runtime = tokio_runtime();
    let grant = runtime.block_on(coordinator.acquire(&agent, Ttl::DEFAULT)).expect("nobody holds it");
    let told = grant.valid_until.as_millis().to_string();

    let Some(awake) = inside(Duration::ZERO, &told) else { return };
    let slept = inside(Ttl::DEFAULT.duration(), &told).expect("it could be made before");

    assert!(grant.is_valid_at(clock::uptime()), "no time has passed here");
    assert!(awake.contains("may act: true"), "{awake}");
    assert!(slept.contains("may act: false"), "{slept}");
}

/// Runs in a time namespace, where the test beside starts it; says nothing elsewhere.
#[test]
fn a_holder_looks_at_the_clock_that_counts_sleep() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let valid_until = Duration::from_millis(told.parse().expect("a number of milliseconds"));

    let may_act = clock::uptime() < valid_until;

    println!("may act: {may_act}");
}

fn tokio_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// The test above as it runs on a machine that has slept that long: time of the kind that stands still
/// with the lid shut has not moved, time that counts sleep has.
fn inside(slept: Duration, told: &str) -> Option<String> {
    let this = std::env::current_exe().expect("this program has a path");
    let output = Command::new("unshare")
        .args(["-T", "--boottime", &slept.as_secs().to_string()])
        .arg(this)
        .args(["--exact", "asleep::a_holder_looks_at_the_clock_that_counts_sleep", "--nocapture"])
        .env(TOLD, told)
        .output();
    let output = match output {
        Ok(output) if output.status.success() => output,
        Ok(output) => {
            return say(&format!(
                "skipped: no time namespaces here: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ));
        }
        Err(error) => return say(&format!("skipped: `unshare` cannot be run: {error}")),
    };
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn say(what: &str) -> Option<String> {
    let _ = writeln!(std::io::stderr(), "asleep: {what}");
    None
}
