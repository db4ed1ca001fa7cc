//! The demonstration: three devices with the same cron line, on a network of their own, while their
//! nodes are killed, frozen and cut off, and the register of leases moves between them.
//!
//! Every second each device tries to run the same job under the same lease. The job writes to one file,
//! through a gate that refuses a token lower than one it has seen, as any resource behind a lease should.
//! Twenty seconds here; with `KINFOLD_LONG=1` two minutes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kinfold::sim::rng::Rng;

use crate::kin::{self, Home};
use crate::lan::{Lan, Running, converge, is_available, say};

#[test]
fn of_three_devices_one_runs_each_job_whatever_dies() {
    let Some(lan) = Lan::of(3) else { return };
    let homes = ["one", "two", "three"].map(Home::init);
    kin::pair(&homes[0], &homes[1]);
    kin::pair(&homes[0], &homes[2]);
    let nodes: Vec<Running> = (0..3).map(|index| Running::up(&lan, index, &homes[index], &[])).collect();
    converge(&homes.each_ref());
    let directory = tempfile::tempdir().expect("the temporary directory is writable");
    let journal = Journal::new(directory.path());
    let is_long = std::env::var_os("KINFOLD_LONG").is_some();
    let seed = std::env::var("KINFOLD_SEED").map_or(7, |seed| seed.parse().expect("a number"));
    say(format_args!("fleet: seed {seed}"));

    let is_over = AtomicBool::new(false);
    let done = std::thread::scope(|scope| {
        let began = Instant::now();
        let jobs: Vec<_> = (0..3)
            .map(|index| {
                let (lan, home, journal, is_over) = (&lan, &homes[index], &journal, &is_over);
                scope.spawn(move || cron(lan, index, home, journal, began, is_over))
            })
            .collect();
        let mut trouble = Trouble { lan: &lan, homes: &homes, nodes: nodes.into_iter().map(Some).collect() };
        trouble.make(
            &mut Rng::new(seed),
            if is_long { Duration::from_secs(110) } else { Duration::from_secs(10) },
        );
        // Trouble is over: what is left of it passes, and jobs are run as before.
        let settled = began.elapsed().as_secs();
        std::thread::sleep(Duration::from_secs(8));
        is_over.store(true, Ordering::Relaxed);
        let done: Vec<Job> = jobs.into_iter().flat_map(|job| job.join().expect("it runs jobs")).collect();
        assert!(done.iter().any(|job| job.slot > settled && job.has_run), "nothing runs any more: {done:#?}");
        done
    });

    journal.check(&done);
}

/// What one attempt came to.
#[derive(Debug)]
struct Job {
    slot: u64,
    has_run: bool,
    code: i32,
    stderr: String,
}

/// Every second the same line on every device, as cron would.
fn cron(
    lan: &Lan,
    index: usize,
    home: &Home,
    journal: &Journal,
    began: Instant,
    is_over: &AtomicBool,
) -> Vec<Job> {
    let mut jobs = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let elapsed = began.elapsed();
        let slot = elapsed.as_secs() + 1;
        std::thread::sleep(Duration::from_secs(slot) - elapsed);
        let run = format!("slot-{slot}");
        let script = journal.script();
        let line = ["lease", "run", "job", "--run", &run, "--ttl", "2s", "--", "sh", &script];
        let ended = lan.run(index, home, &line);
        let has_run = ended.code == 0 && ended.stdout.contains("done");
        jobs.push(Job { slot, has_run, code: ended.code, stderr: ended.stderr });
    }
    jobs
}

/// What befalls the fleet.
struct Trouble<'a> {
    lan: &'a Lan,
    homes: &'a [Home; 3],
    nodes: Vec<Option<Running>>,
}

impl Trouble<'_> {
    fn make(&mut self, rng: &mut Rng, length: Duration) {
        let began = Instant::now();
        let mut kind = 0;
        while began.elapsed() < length {
            let index = rng.index(3);
            self.befall(kind % 5, index);
            kind += 1;
            std::thread::sleep(Duration::from_millis(rng.between(500, 1_500)));
        }
    }

    fn befall(&mut self, kind: usize, index: usize) {
        match kind {
            0 => {
                say(format_args!("fleet: the node of {index} is killed, and started again"));
                self.nodes[index].take().expect("it runs").daemon.kill();
                self.nodes[index] = Some(Running::up(self.lan, index, &self.homes[index], &[]));
            }
            1 => {
                say(format_args!("fleet: the node of {index} is frozen for 3 s"));
                let pid = self.nodes[index].as_ref().expect("it runs").daemon.pid();
                kin::signal(pid, "STOP");
                std::thread::sleep(Duration::from_secs(3));
                kin::signal(pid, "CONT");
            }
            4 if is_available("nft") => {
                say(format_args!("fleet: packets of {index} are dropped for 3 s"));
                self.lan.cut_off(index, true);
                std::thread::sleep(Duration::from_secs(3));
                self.lan.cut_off(index, false);
            }
            2 | 4 => {
                say(format_args!("fleet: {index} is cut off for 3 s"));
                self.lan.link(index, "down");
                std::thread::sleep(Duration::from_secs(3));
                self.lan.link(index, "up");
            }
            _ => {
                let name = ["one", "two", "three"][index];
                let moved = self.lan.run(index, &self.homes[index], &["lease", "move-host", name]);
                say(format_args!(
                    "fleet: the leases move to {index}: {} {}",
                    moved.code,
                    moved.stderr.trim()
                ));
            }
        }
    }
}

/// The file all jobs write to.
struct Journal {
    path: PathBuf,
}

impl Journal {
    fn new(directory: &Path) -> Self {
        let journal = Self { path: directory.join("journal") };
        let path = journal.path.display();
        // The gate keeps the greatest token it has seen, and lets no lower one through.
        let script = format!(
            "gate() {{ flock {path}.lock sh -c '\n\
               seen=$(cat {path}.seen 2>/dev/null || echo 0)\n\
               [ \"$KINFOLD_EPOCH\" -ge \"$seen\" ] || {{ echo \"$KINFOLD_EPOCH\" >> {path}.refused; exit 1; }}\n\
               echo \"$KINFOLD_EPOCH\" > {path}.seen\n\
               echo \"$KINFOLD_EPOCH $KINFOLD_RUN $0\" >> {path}' \"$1\"; }}\n\
             gate begin || exit 3\n\
             sleep 0.2\n\
             gate end || exit 3\n\
             echo done\n"
        );
        std::fs::write(journal.script(), script).expect("the directory is writable");
        journal
    }

    fn script(&self) -> String {
        self.path.with_extension("sh").display().to_string()
    }

    /// Tokens only rise, runs do not overlap, and no run that was committed was run again.
    fn check(&self, jobs: &[Job]) {
        let text = std::fs::read_to_string(&self.path).expect("something was run");
        let mut last = 0;
        let mut runs: BTreeMap<u64, Vec<(&str, &str)>> = BTreeMap::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [epoch, run, what] = words[..] else { panic!("{line:?} in\n{text}") };
            let epoch: u64 = epoch.parse().expect("a number");
            assert!(last <= epoch, "{line:?} after epoch {last} in\n{text}");
            last = epoch;
            runs.entry(epoch).or_default().push((run, what));
        }
        for (epoch, lines) in &runs {
            let is_one_run = lines.iter().all(|(run, _)| *run == lines[0].0);
            let order: Vec<&str> = lines.iter().map(|(_, what)| *what).collect();
            assert!(is_one_run && (order == ["begin"] || order == ["begin", "end"]), "{epoch}: {lines:?}");
        }
        let mut committed = BTreeSet::new();
        for job in jobs.iter().filter(|job| job.has_run) {
            assert!(committed.insert(job.slot), "slot {} was run twice: {jobs:#?}\n{text}", job.slot);
        }
        let mut codes: BTreeMap<i32, usize> = BTreeMap::new();
        for job in jobs {
            assert!([0, 75].contains(&job.code) && !job.stderr.contains("panicked"), "{job:?}");
            *codes.entry(job.code).or_default() += 1;
        }
        let refused = std::fs::read_to_string(self.path.with_extension("refused")).unwrap_or_default();
        assert_eq!(refused, "", "the lease alone kept two from writing at once");
        let cut_short = runs.values().filter(|lines| lines.len() == 1).count();
        say(format_args!(
            "fleet: {} runs, {} committed, {cut_short} cut short, tokens up to {last}, exit codes {codes:?}",
            runs.len(),
            committed.len(),
        ));
    }
}
