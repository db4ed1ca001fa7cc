//! The program on a terminal, as a person sees it.
//!
//! The terminal is a pair of pseudo devices, and what is written to it is read by a thread and drawn on
//! a screen in memory. A test waits until the screen shows something; nothing here waits for the end of
//! a stream that may not come.

use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nix::sys::termios::{LocalFlags, tcgetattr};
use pty_process::Size;
use pty_process::blocking::{Pty, open};
use serde_json::json;

use crate::kin::{Caller, Home, PATIENCE, command, lines, pair, signal};

#[test]
fn a_status_that_is_watched_fits_the_window_and_leaves_it_as_it_was() {
    let (desk, laptop) = (Home::init("desk"), Home::init("laptop"));
    pair(&desk, &laptop);
    let at_desk = desk.up(&[]);
    let _laptop = laptop.up(&["--peer", &at_desk.listening]);
    let screen = Terminal::start(&desk, &["status", "--watch"], WIDE);

    screen.shows("q leaves");
    screen.shows("laptop");
    assert!(screen.is_watched() && !screen.echoes());
    assert!(screen.text().contains("arriving  0 ops/s"), "{}", screen.text());

    screen.resize(Window { rows: 12, columns: 40 });
    screen.until(|text| text.contains("more lines in a taller window") && text.lines().count() == 12);
    screen.resize(Window { rows: 40, columns: 120 });
    screen.until(|text| text.contains("q leaves") && !text.contains("taller window"));

    // What happens meanwhile is shown.
    desk.run(&["put", "registry:note", "a", "1"]).expect_code(0);
    screen.shows("1 op, 1 row,");
    screen.types(b"xq");
    let (code, shown) = screen.ends();
    assert_eq!((code, shown.as_str()), (0, ""), "nothing of it is left");
}

#[test]
fn whatever_ends_a_status_that_is_watched_gives_the_terminal_back() {
    let home = Home::init("desk");
    let at_home = home.up(&[]);
    let watching = || {
        let screen = Terminal::start(&home, &["status", "--watch"], WIDE);
        screen.shows("q leaves");
        screen
    };

    let screen = watching();
    screen.types(b"\x03");
    assert_eq!(screen.ends(), (0, String::new()));

    let screen = watching();
    signal(screen.process.id(), "TERM");
    assert_eq!(screen.ends(), (0, String::new()));

    let screen = watching();
    assert_eq!(at_home.terminate(), 0);
    let (code, shown) = screen.ends();
    assert_eq!(code, 75, "{shown}");
    assert!(
        shown.starts_with("kinfold: ") && shown.contains("hint: is `kinfold up` still running?"),
        "{shown}"
    );
}

#[test]
fn a_status_that_is_watched_by_a_program_is_told_once_for_each_change() {
    let home = Home::init("desk");
    let _up = home.up(&[]);
    let mut watching = command(&home.path());
    watching.args(["status", "--watch"]).stdout(std::process::Stdio::piped());
    let mut process = watching.spawn().expect("the program can be started");
    let told = lines(process.stdout.take().expect("a pipe was asked for"));
    let next = |words: &str| {
        let said: Vec<String> = std::iter::from_fn(|| told.recv_timeout(PATIENCE).ok())
            .take_while(|line| !line.contains(words))
            .collect();
        assert!(said.iter().all(|line| !line.contains('\x1b')), "{said:?}");
        said
    };

    next("0 ops, 0 rows");
    home.run(&["put", "registry:note", "a", "1"]).expect_code(0);
    let between = next("1 op, 1 row,");
    let is_time = |line: &String| line.starts_with("20") && line.ends_with('Z');
    assert!(between.iter().any(is_time), "a page begins with its time: {between:?}");

    signal(process.id(), "INT");
    assert_eq!(process.wait().expect("it is our child").code(), Some(0));
}

#[test]
fn a_node_on_a_terminal_has_one_line_that_is_kept_up_to_date() {
    let home = Home::init("desk");
    let screen = Terminal::start(&home, &["up", "--listen", "127.0.0.1:0", "--no-mdns"], WIDE);

    screen.shows("listening on 127.0.0.1:");
    screen.shows("no other device yet · 0 ops");
    home.run(&["put", "registry:note", "a", "1"]).expect_code(0);
    screen.shows("no other device yet · 1 op ");
    screen.types(b"\x03");

    let (code, shown) = screen.ends();
    assert_eq!(code, 0, "{shown}");
    assert!(shown.trim_end().ends_with("stopped") && !shown.contains("other device"), "{shown}");
}

#[test]
fn whoever_joins_is_asked_whether_the_word_of_the_inviter_will_do_for_what_was_dropped() {
    let (one, two) = (Home::init("one"), Home::init("two"));
    let first = one.up(&[]);
    for row in 0..5 {
        one.run(&["put", "registry:note", &format!("n {row}"), "1"]).expect_code(0);
    }
    let made = until_made(&one);
    one.run(&["gc", "run", "--now", "--yes", &made[..12]]).expect_code(0);
    let second = two.up(&["--peer", &first.listening]);
    // The invite lasts as long as whoever asked for it.
    let mut caller = Caller::connect(&one);
    let invite = caller.call("pair.invite", json!({ "role": "admin" }))["result"].clone();
    let (code, at) = (invite["code"].as_str().unwrap(), invite["addresses"][0].as_str().unwrap());

    let screen = Terminal::start(&two, &["join", code, "--peer", at], WIDE);
    screen.shows("attested by one; 2 devices are asked for");
    screen.shows("Begin with it although no second device attests it? [y/N]");
    screen.types(b"y\r");
    let (code, shown) = screen.ends();

    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("the history here begins with checkpoint"), "{shown}");
    assert_eq!(two.json(&["status"])["rows"], 5);
    assert_eq!((first.terminate(), second.terminate()), (0, 0));
}

/// Makes a checkpoint, once what is there is stable.
fn until_made(home: &Home) -> String {
    let begun = Instant::now();
    loop {
        let made = home.run(&["--json", "checkpoint"]);
        if made.code == 0 {
            let made: serde_json::Value = serde_json::from_str(&made.stdout).unwrap();
            return made["checkpoint_hash"].as_str().unwrap().to_owned();
        }
        assert!(begun.elapsed() < PATIENCE, "{made:?}");
    }
}

/// How large a terminal is.
#[derive(Clone, Copy)]
pub struct Window {
    pub rows: u16,
    pub columns: u16,
}

impl Window {
    fn size(self) -> Size {
        Size::new(self.rows, self.columns)
    }

    fn cells(self) -> (NonZero<u16>, NonZero<u16>) {
        let cells = |count| NonZero::new(count).expect("a window has cells");
        (cells(self.rows), cells(self.columns))
    }
}

/// As people have it.
pub const WIDE: Window = Window { rows: 30, columns: 100 };

/// A program on a terminal of its own. Dropping it kills the program.
pub struct Terminal {
    pty: Arc<Pty>,
    screen: Arc<Mutex<vt100::Parser>>,
    /// Something was drawn; ends when the program has left the terminal.
    drawn: Receiver<()>,
    process: Child,
}

impl Terminal {
    pub fn start(home: &Home, arguments: &[&str], window: Window) -> Self {
        let mut plain = command(&home.path());
        plain.args(arguments);
        Self::run(&plain, window)
    }

    /// Runs a command that was prepared for pipes on a terminal instead.
    pub fn run(plain: &Command, window: Window) -> Self {
        let (pty, end) = open().expect("a pseudo terminal");
        pty.resize(window.size()).expect("it has a size");
        let mut command = pty_process::blocking::Command::new(plain.get_program()).args(plain.get_args());
        for (name, value) in plain.get_envs() {
            command = match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let process = command.env("TERM", "xterm").spawn(end).expect("the program can be started");
        let pty = Arc::new(pty);
        let (rows, columns) = window.cells();
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let drawn = draw(Arc::clone(&pty), Arc::clone(&screen));
        Self { pty, screen, drawn, process }
    }

    /// What is on the screen.
    pub fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Waits until the screen shows these words.
    pub fn shows(&self, words: &str) {
        self.until(|text| text.contains(words));
    }

    /// Waits until what is on the screen is as it should be.
    pub fn until(&self, is_it: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        while !is_it(&self.text()) {
            let rest = PATIENCE.saturating_sub(begun.elapsed());
            assert!(self.drawn.recv_timeout(rest).is_ok(), "it is never shown:\n{}", self.text());
        }
    }

    pub fn types(&self, keys: &[u8]) {
        (&*self.pty).write_all(keys).expect("the terminal takes keys");
    }

    pub fn resize(&self, window: Window) {
        let (rows, columns) = window.cells();
        self.screen.lock().unwrap().screen_mut().set_size(rows, columns);
        self.pty.resize(window.size()).expect("it has a size");
    }

    /// Waits until the program has ended: its exit code, and what is on the screen then. The terminal has
    /// to be as it was before.
    pub fn ends(mut self) -> (i32, String) {
        let begun = Instant::now();
        while self.drawn.recv_timeout(PATIENCE.saturating_sub(begun.elapsed())).is_ok() {}
        let code = self.process.wait().expect("it is our child").code().unwrap_or(-1);
        assert!(self.echoes() && !self.is_watched(), "the terminal was not given back:\n{}", self.text());
        (code, self.text())
    }

    /// Whether keys are shown as they are typed, and come line by line.
    fn echoes(&self) -> bool {
        let how = tcgetattr(&*self.pty).expect("a terminal").local_flags;
        how.contains(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG)
    }

    /// Whether it is on another screen than the first, without a cursor.
    fn is_watched(&self) -> bool {
        let parser = self.screen.lock().unwrap();
        let is_other = parser.screen().alternate_screen();
        assert_eq!(is_other, parser.screen().hide_cursor(), "both or none");
        is_other
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // One that has ended is no error.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Draws what is written to a terminal until nobody has it open any more.
fn draw(pty: Arc<Pty>, screen: Arc<Mutex<vt100::Parser>>) -> Receiver<()> {
    let (sender, drawn) = channel();
    std::thread::spawn(move || {
        let mut bytes = [0; 4_096];
        // Linux ends it with an error, others with nothing.
        while let Ok(length @ 1..) = (&*pty).read(&mut bytes) {
            screen.lock().unwrap().process(&bytes[..length]);
            if sender.send(()).is_err() {
                return;
            }
        }
    });
    drawn
}
