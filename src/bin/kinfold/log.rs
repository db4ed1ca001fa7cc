//! Where log lines go: to standard error, and while `up` runs to rotating files in `HOME/log`.
//!
//! What is logged is decided by the library: never a value, a name, a key or a code. Here it is only
//! filtered, formed and kept within bounds.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kinfold::config::Settings;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt, reload};

use crate::line::StatusLine;

/// Sends what the library logs to standard error: warnings, or what `--log` asks for.
pub fn to_stderr(asked: Option<&str>) {
    let shown = fmt::layer().with_ansi(false).with_target(false).with_writer(Stderr::new(None));
    let shown = shown.with_filter(EnvFilter::new(asked.unwrap_or("warn")));
    // Set once per process; a second call finds it in place.
    let _ = tracing_subscriber::registry().with(shown).try_init();
}

/// The log of a node that runs.
pub struct Log {
    files: Files,
    level: reload::Handle<LevelFilter, Registry>,
}

impl Log {
    /// Begins to log: to standard error, above the status line, and to the files.
    pub fn begin(home: &Path, settings: &Settings, asked: Option<&str>, line: Option<StatusLine>) -> Self {
        let files = Files::of(home, settings);
        let (level, handle) = reload::Layer::new(level_of(settings));
        let kept = fmt::layer().with_ansi(false).with_writer(files.clone()).with_filter(level);
        let writer = Stderr::new(line);
        let filter = EnvFilter::new(asked.unwrap_or("warn"));
        let shown = fmt::layer().with_ansi(false).with_target(false);
        // The journal has a clock of its own.
        let shown = if writer.is_journal {
            shown.without_time().with_writer(writer).with_filter(filter).boxed()
        } else {
            shown.with_writer(writer).with_filter(filter).boxed()
        };
        let _ = tracing_subscriber::registry().with(kept).with(shown).try_init();
        Self { files, level: handle }
    }

    /// Takes up settings that have changed.
    pub fn follow(&self, settings: &Settings) {
        self.files.follow(settings);
        // It fails only where no subscriber is left.
        let _ = self.level.reload(level_of(settings));
    }
}

fn level_of(settings: &Settings) -> LevelFilter {
    settings.log_level().parse().expect("the settings allow levels only")
}

/// Standard error, with lines above the status line of a terminal and with priorities for the journal.
#[derive(Clone)]
struct Stderr {
    line: Option<StatusLine>,
    is_journal: bool,
}

impl Stderr {
    fn new(line: Option<StatusLine>) -> Self {
        Self { line, is_journal: std::env::var_os("JOURNAL_STREAM").is_some() }
    }
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { line: self.line.clone(), priority: None }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
        let priority = self.is_journal.then(|| priority(*meta.level()));
        Line { line: self.line.clone(), priority }
    }
}

/// One line on its way to standard error.
struct Line {
    line: Option<StatusLine>,
    priority: Option<&'static str>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.priority.unwrap_or_default().as_bytes().to_vec();
        all.extend_from_slice(bytes);
        match &self.line {
            Some(line) => line.above(|| io::stderr().write_all(&all))?,
            None => io::stderr().write_all(&all)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// How the journal reads a priority from a line (sd-daemon(3)).
const fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

/// The files in `HOME/log`, shared by all threads that log.
#[derive(Clone)]
struct Files(Arc<Mutex<Rotation>>);

impl Files {
    fn of(home: &Path, settings: &Settings) -> Self {
        Self(Arc::new(Mutex::new(Rotation {
            dir: home.join("log"),
            file: None,
            bytes: 0,
            limits: Limits::of(settings),
        })))
    }

    fn follow(&self, settings: &Settings) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).limits = Limits::of(settings);
    }
}

impl<'a> MakeWriter<'a> for Files {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Files {
    /// A line that cannot be written is lost: a full disk must not stop what is logged about.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if files.write(bytes).is_err() {
            // Opened anew at the next line, when there may be room.
            files.file = None;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Limits {
    file_bytes_max: u64,
    files_max: u64,
}

impl Limits {
    fn of(settings: &Settings) -> Self {
        Self { file_bytes_max: settings.log_file_bytes_max(), files_max: settings.log_files_max() }
    }
}

/// `kinfold.log`, and before it `kinfold.log.1`, `.2` and so on, the oldest last.
struct Rotation {
    dir: PathBuf,
    file: Option<File>,
    bytes: u64,
    limits: Limits,
}

impl Rotation {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self.file.is_none() {
            self.open()?;
        }
        if self.bytes > 0 && self.bytes + length > self.limits.file_bytes_max {
            self.rotate()?;
        }
        if let Some(file) = &mut self.file {
            file.write_all(line)?;
            self.bytes += length;
        }
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&self.dir)?;
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(self.path(0))?;
        self.bytes = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        let kept = self.limits.files_max.saturating_sub(1);
        // Also those that a smaller number leaves over.
        let mut n = kept.max(1);
        while fs::remove_file(self.path(n)).is_ok() {
            n += 1;
        }
        for n in (0..kept).rev() {
            match fs::rename(self.path(n), self.path(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if kept == 0 {
            fs::remove_file(self.path(0))?;
        }
        self.open()
    }

    fn path(&self, n: u64) -> PathBuf {
        match n {
            0 => self.dir.join("kinfold.log"),
            n => self.dir.join(format!("kinfold.log.{n}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_rotate_and_their_total_is_bounded() {
        let home = tempfile::tempdir().expect("writable");
        let mut rotation = rotation(home.path(), 100, 3);

        for n in 0..60 {
            rotation.write(format!("line {n:04} of a log\n").as_bytes()).expect("writable");
        }

        let names = names(&rotation.dir);
        assert_eq!(names, ["kinfold.log", "kinfold.log.1", "kinfold.log.2"]);
        let total: u64 = names.iter().map(|name| fs::metadata(rotation.dir.join(name)).unwrap().len()).sum();
        assert!(total <= 300, "{total}");
        let text = |n| fs::read_to_string(rotation.path(n)).unwrap();
        assert!(text(0).ends_with("line 0059 of a log\n"), "the newest is at hand");
        assert!(text(1) < text(0) && text(2) < text(1), "in order");
    }

    #[test]
    fn a_start_goes_on_where_the_last_one_ended_and_fewer_files_remove_the_rest() {
        let home = tempfile::tempdir().expect("writable");
        for n in 0..10 {
            // Each time another process.
            rotation(home.path(), 40, 5).write(format!("{n}: something was logged\n").as_bytes()).unwrap();
        }
        let before = names(&home.path().join("log"));

        let mut rotation = rotation(home.path(), 40, 1);
        for _ in 0..3 {
            rotation.write(b"another line of the log\n").unwrap();
        }

        assert_eq!(before.len(), 5);
        assert_eq!(names(&rotation.dir), ["kinfold.log"]);
    }

    #[test]
    fn a_log_that_cannot_be_written_is_no_error() {
        let home = tempfile::tempdir().expect("writable");
        fs::write(home.path().join("log"), "in the way").unwrap();
        let mut files = Files::of(home.path(), &Settings::default());

        assert_eq!(files.write(b"lost\n").unwrap(), 5);
        fs::remove_file(home.path().join("log")).unwrap();
        files.write_all(b"kept\n").unwrap();

        assert_eq!(fs::read(home.path().join("log/kinfold.log")).unwrap(), b"kept\n");
    }

    #[test]
    fn the_journal_reads_a_priority() {
        assert_eq!(
            [Level::ERROR, Level::WARN, Level::INFO, Level::TRACE].map(priority),
            ["<3>", "<4>", "<6>", "<7>"]
        );
    }

    fn rotation(home: &Path, file_bytes_max: u64, files_max: u64) -> Rotation {
        Rotation { dir: home.join("log"), file: None, bytes: 0, limits: Limits { file_bytes_max, files_max } }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("it is there");
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}
