//! What README.md shows of a first day with two devices is what happens: the script is run, and compared.
//!
//! What differs from run to run (ids, codes, hashes, ports, the place of a home) is replaced by examples
//! of the same length, the same each time, so that tables stay in line.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kin;
use crate::terminal::{Terminal, Window};

#[test]
fn the_readme_shows_what_two_macs_show() {
    let shown = render(include_str!("../data/two-macs.script"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).expect("the readme is part of the package");
    let (before, rest) = readme.split_once(BEGIN).expect("the readme has a place for it");
    let (old, after) = rest.split_once(END).expect("the place has an end");
    let new = format!("\n```text\n{shown}```\n");

    if std::env::var_os("KINFOLD_RENDER").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{new}{END}{after}")).expect("writable");
        return;
    }
    let differing = old.lines().zip(new.lines()).find(|(old, new)| old != new);
    assert!(
        old == new,
        "README.md shows something else, first at {differing:?}; `KINFOLD_RENDER=1 cargo test --test it \
         recording` writes it anew. This is what there is now:\n{shown}"
    );
}

#[test]
fn words_are_taken_as_a_shell_takes_them() {
    assert_eq!(words("put  a '{\"b c\":1}' d"), ["put", "a", "{\"b c\":1}", "d"]);
    assert_eq!(words("get 'it'"), ["get", "it"]);
}

#[test]
fn what_differs_is_replaced_alike_wherever_it_stands() {
    let (root, other) = ("0a1b".repeat(16), "1a1b".repeat(16));
    let mut examples = Examples::default();
    examples.put("1234567", "abcdefg");

    let text = examples.apply(&format!("{root} 1234567\n{}, {other} deadbeef", &root[..12]));

    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0].len(), root.len() + 8);
    assert!(lines[0].ends_with(" abcdefg") && !lines[0].contains("0a1b"));
    assert_eq!(lines[1][..12], lines[0][..12], "a short form is the beginning of the long one");
    assert!(lines[1].ends_with(" deadbeef") && !lines[1].contains("1a1b"));
    assert_eq!(text, examples.apply(&text), "an example is one for good");
}

/// Runs a script; what it shows, with examples in place of what differs.
fn render(script: &str) -> String {
    let mut stage = Stage::new();
    let mut shown = String::new();
    for line in script.lines().filter(|line| !line.starts_with("# ") && *line != "#") {
        let text = match line.strip_prefix("## ") {
            Some(words) => format!("# {words}\n"),
            None if line.is_empty() => "\n".to_owned(),
            None => stage.step(line),
        };
        shown.push_str(&text);
    }
    let shown = stage.examples().apply(&shown);
    for place in ["127.0.0.1", &stage.root.path().display().to_string()] {
        assert!(!shown.contains(place), "{place} is a thing of this run:\n{shown}");
    }
    let wide = shown.lines().find(|line| line.chars().count() > COLUMNS_SHOWN);
    assert_eq!(wide, None, "too wide for a page");
    shown.trim_start().to_owned()
}

/// The devices of a script, and the windows on them.
struct Stage {
    root: tempfile::TempDir,
    /// By device, the newest last, with how much of each was shown.
    windows: BTreeMap<String, Vec<(Terminal, usize)>>,
    code: String,
    link: String,
    phrase: String,
    /// Where each listens, while it does.
    listening: BTreeMap<String, String>,
}

impl Stage {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("the temporary directory is writable");
        let [code, link, phrase] = [const { String::new() }; 3];
        Self { root, windows: BTreeMap::new(), code, link, phrase, listening: BTreeMap::new() }
    }

    fn step(&mut self, line: &str) -> String {
        let end = line.find(['$', '&', '>', '^', '-']).unwrap_or_else(|| panic!("no step: {line:?}"));
        let (device, rest) = line.split_at(end);
        let (kind, rest) = (&rest[..1], rest[1..].trim());
        match kind {
            "$" => format!("{device}$ {}\n{}\n", visible(&self.filled(rest)), self.run(device, rest)),
            "-" => {
                self.run(device, rest);
                String::new()
            }
            "&" => self.begin(device, rest),
            ">" => self.go_on(device, rest),
            _ => self.interrupt(device),
        }
    }

    fn run(&mut self, device: &str, command: &str) -> String {
        let (code, shown) = self.terminal(device, command).ends();
        assert_eq!(code, 0, "{command}\n{shown}");
        let shown = trimmed(&shown);
        if let Some(phrase) = shown.lines().find_map(|line| line.strip_prefix("both screens show: ")) {
            self.phrase = phrase.to_owned();
        }
        shown
    }

    fn begin(&mut self, device: &str, step: &str) -> String {
        let (command, words) = step.split_once(" | ").expect("what it says when it has begun");
        let window = self.terminal(device, command);
        window.shows(words);
        // The line that is kept up to date is about now, and no part of what stays.
        let text = window.text();
        let stays = trimmed(text.rsplit_once('\n').map_or("", |(stays, _)| stays));
        if let Some(address) = text.lines().find_map(|line| line.strip_prefix("listening on ")) {
            self.listening.insert(device.to_owned(), address.trim_end().to_owned());
        }
        if let Some(line) = text.lines().find(|line| line.contains("kinfold:1?")) {
            self.link = line.trim().trim_start_matches("kinfold join '").trim_end_matches('\'').to_owned();
            let code = text.lines().rev().find_map(|line| line.trim().strip_prefix("kinfold join "));
            self.code = code.expect("an invite shows its code").to_owned();
        }
        let shown = format!("{device}$ {}\n{stays}\n", visible(command));
        self.windows.entry(device.to_owned()).or_default().push((window, stays.len()));
        shown
    }

    fn go_on(&mut self, device: &str, words: &str) -> String {
        let (window, seen) = self.newest(device);
        window.shows(words);
        let (code, text) = window.ends();
        assert_eq!(code, 0, "{text}");
        format!("{}\n", trimmed(&text)[seen..].trim_start())
    }

    fn interrupt(&mut self, device: &str) -> String {
        let (window, seen) = self.newest(device);
        window.types(b"\x03");
        let (code, text) = window.ends();
        assert_eq!(code, 0, "{text}");
        format!("{}\n", trimmed(&text)[seen..].trim_start())
    }

    fn newest(&mut self, device: &str) -> (Terminal, usize) {
        self.windows.get_mut(device).and_then(Vec::pop).expect("a command goes on there")
    }

    /// A window on a device whose home is where it is by default.
    fn terminal(&self, device: &str, command: &str) -> Terminal {
        let command = self.filled(command).replace(['«', '»'], "");
        let words = words(command.strip_prefix("kinfold ").expect("it is the program of this package"));
        let mut plain = self.kinfold(device);
        plain.args(words);
        Terminal::run(&plain, Window { rows: 60, columns: 400 })
    }

    fn kinfold(&self, device: &str) -> Command {
        let mut plain = Command::new(env!("CARGO_BIN_EXE_kinfold"));
        plain.env("HOME", self.home(device)).env("NO_COLOR", "1");
        for name in ["KINFOLD_HOME", "KINFOLD_LOG", "XDG_DATA_HOME"] {
            plain.env_remove(name);
        }
        plain
    }

    fn home(&self, device: &str) -> PathBuf {
        self.root.path().join(device)
    }

    fn filled(&self, command: &str) -> String {
        let address = self.link.split_once("&a=").map_or("", |(_, rest)| rest);
        let address = address.split([',', '&']).next().unwrap_or_default();
        command.replace("{code}", &self.code).replace("{address}", address)
    }

    /// What is of this run, and what stands for it.
    fn examples(&self) -> Examples {
        let mut examples = Examples::default();
        examples.put(&self.link, "kinfold:1?i=7Q&k=…&s=…&a=…&e=…");
        examples.put(&self.code, "7QK-014-XYZ");
        examples.put(&spaced(&self.code), &spaced("7QK-014-XYZ"));
        examples.put(&self.phrase, "cobra jungle spider noodle");
        for (device, (id, address)) in ["desk", "laptop"].iter().zip(DEVICES) {
            let status = kin::run(self.kinfold(device).args(["--json", "status"]), b"").expect_code(0);
            let status: serde_json::Value = serde_json::from_str(&status.stdout).expect("it is JSON");
            let own = status["device_id"].as_str().expect("it has one");
            examples.put(own, id);
            examples.put(&own[..7], &id[..7]);
            self.listening.get(*device).into_iter().for_each(|at| examples.put(at, address));
            for data in [".local/share", "Library/Application Support"] {
                let place = self.home(device).join(data).display().to_string();
                examples.put(&place, "~/Library/Application Support");
            }
        }
        examples
    }
}

/// What is replaced, the longest first.
#[derive(Default)]
struct Examples(Vec<(String, String)>);

impl Examples {
    fn put(&mut self, found: &str, example: &str) {
        if !found.is_empty() {
            self.0.push((found.to_owned(), example.to_owned()));
            self.0.sort_by_key(|(found, _)| std::cmp::Reverse(found.len()));
        }
    }

    fn apply(&self, text: &str) -> String {
        let text = self.0.iter().fold(text.to_owned(), |text, (found, example)| text.replace(found, example));
        with_example_hashes(&text)
    }
}

/// Replaces hashes, in full or by their beginning, by those of their place among all.
fn with_example_hashes(text: &str) -> String {
    let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let is_hash = |word: &&str| matches!(word.len(), SHORT_HASH | 64) && word.chars().all(is_hex);
    let mut hashes: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).filter(is_hash).collect();
    let mut beginnings: Vec<&str> = Vec::new();
    for beginning in hashes.iter().map(|hash| &hash[..SHORT_HASH]) {
        if !beginnings.contains(&beginning) {
            beginnings.push(beginning);
        }
    }
    // A short form is in the long one, too.
    hashes.sort_by_key(|hash| std::cmp::Reverse(hash.len()));
    hashes.into_iter().fold(text.to_owned(), |shown, hash| {
        let place = beginnings.iter().position(|beginning| hash.starts_with(beginning));
        let example = blake3::hash(format!("example {place:?}").as_bytes()).to_hex();
        shown.replace(hash, &example[..hash.len()])
    })
}

/// A command as it is shown.
fn visible(command: &str) -> String {
    let mut parts = command.split(['«', '»']);
    let shown: String = std::iter::from_fn(|| {
        let shown = parts.next()?;
        parts.next();
        Some(shown)
    })
    .collect();
    shown.trim_end().to_owned()
}

/// The words of a command, where single quotes hold one together.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for c in command.chars() {
        match c {
            '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            c => words.last_mut().expect("it begins with one").push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn spaced(code: &str) -> String {
    code.chars().map(String::from).collect::<Vec<_>>().join(" ")
}

/// Without blanks at the ends of lines and empty lines at the end.
fn trimmed(text: &str) -> String {
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

/// Ids that nobody has, and addresses as long as those on loopback.
const DEVICES: [(&str, &str); 2] = [
    ("ndey6lv-f6bagyy-hroqmu5-hy4hsuf-wzyzg7e-o6ap2tg-q3uv7yy-ssa3", "10.0.1.21:47650"),
    ("tzbixoz-id4hunn-nzho76y-2kexhki-xk4xkpq-tnph644-ymcwxo7-qeqs", "10.0.1.34:52114"),
];

const SHORT_HASH: usize = 12;

/// What a page on the web shows without a bar below.
const COLUMNS_SHOWN: usize = 100;

const BEGIN: &str = "<!-- recording: tests/data/two-macs.script -->";

const END: &str = "<!-- end of recording -->";
