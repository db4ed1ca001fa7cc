//! One line at the end of a terminal that is kept up to date.
//!
//! Quieter than a progress bar: it is written when its text changes, and does not turn. The cursor stays
//! right behind the text, where the terminal shows a Ctrl-C, so that both can be taken away together.

use std::io::{self, IsTerminal, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use console::{Term, truncate_str};

use crate::output::Output;

/// The line; its clones are the same one.
#[derive(Clone)]
pub struct StatusLine(Arc<Mutex<String>>);

impl StatusLine {
    /// A line without text; `None` where nobody watches.
    pub fn begin(output: &Output) -> Option<Self> {
        (!output.is_json() && io::stderr().is_terminal()).then(|| Self(Arc::default()))
    }

    /// Shows this in place of what was there.
    pub fn show(&self, text: &str) {
        let columns = Term::stderr().size_checked().map_or(80, |(_, columns)| usize::from(columns));
        let text = truncate_str(text, columns.saturating_sub(COLUMNS_SPARED), "…");
        let mut shown = self.shown();
        if *shown != text {
            write(&format!("{FROM_THE_LEFT}{text}"));
            *shown = text.into_owned();
        }
    }

    /// Has something written above it.
    pub fn above<T>(&self, write_above: impl FnOnce() -> T) -> T {
        let shown = self.shown();
        write(FROM_THE_LEFT);
        let written = write_above();
        write(&shown);
        written
    }

    /// Takes it away.
    pub fn end(&self) {
        self.shown().clear();
        write(FROM_THE_LEFT);
    }

    fn shown(&self) -> MutexGuard<'_, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A terminal that has gone shows nothing more.
fn write(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// Back to the first column, and the line is empty.
const FROM_THE_LEFT: &str = "\r\x1b[K";

/// Room for two keys.
const COLUMNS_SPARED: usize = 5;
