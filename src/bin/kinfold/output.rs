//! What is printed: plain text and tables for people, JSON for programs.

use std::fmt;
use std::io::{self, IsTerminal, Write as _};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use kinfold::model::DeviceId;
use serde::Serialize;

use crate::failure::Failure;

/// Where a command writes.
pub struct Output {
    is_json: bool,
    has_colour: bool,
    is_live: bool,
}

impl Output {
    /// Colours only on a terminal, and never where `NO_COLOR` is set.
    pub fn new(is_json: bool) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let is_live = !is_json && !is_dumb && io::stdout().is_terminal();
        Self { is_json, has_colour: is_live && !refused, is_live }
    }

    /// Whether programs read it.
    pub const fn is_json(&self) -> bool {
        self.is_json
    }

    /// Whether standard output is a terminal that may be redrawn.
    pub const fn is_live(&self) -> bool {
        self.is_live
    }

    /// Writes a line to standard output.
    pub fn line(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        write_lines(&[text.as_ref()])
    }

    /// Writes a value as one line of JSON.
    pub fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.line(serde_json::to_string(value).map_err(Failure::Answer)?)
    }

    /// Writes a note to standard error, unless programs read.
    pub fn note(&self, text: impl AsRef<str>) {
        if !self.is_json {
            // A note that cannot be written has no reader.
            let _ = writeln!(io::stderr(), "{}", text.as_ref());
        }
    }

    /// Writes some lines to standard output.
    pub fn lines(&self, lines: &[String]) -> Result<(), Failure> {
        write_lines(lines)
    }

    /// Writes a table; nothing but its heading where it has no rows.
    pub fn table<const N: usize>(&self, heading: [&str; N], rows: Vec<[String; N]>) -> Result<(), Failure> {
        write_lines(&Self::table_lines(heading, rows))
    }

    /// A table, line by line.
    pub fn table_lines<const N: usize>(heading: [&str; N], rows: Vec<[String; N]>) -> Vec<String> {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(heading.map(str::to_uppercase)).add_rows(rows);
        // Never wrapped into columns: a wrapped id cannot be copied.
        table.set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table.to_string().lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Text in a colour, where there are colours.
    pub fn paint(&self, tone: Tone, text: impl AsRef<str>) -> String {
        let text = text.as_ref();
        if !self.has_colour {
            return text.to_owned();
        }
        let style = match tone {
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Warn => AnsiColor::Yellow.on_default(),
            Tone::Bad => AnsiColor::Red.on_default(),
            Tone::Quiet => Style::new().dimmed(),
            Tone::Strong => Style::new().bold(),
        };
        format!("{style}{text}{style:#}")
    }

    /// A progress bar on standard error that appears where people watch.
    pub fn progress(&self, total: u64, unit: Unit) -> ProgressBar {
        if self.is_json {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(total);
        let style = ProgressStyle::with_template("{msg:14} {wide_bar} {done} {rate:>16} {left:>10}");
        let style = style.expect("the template is well formed");
        // What cannot be written here cannot be written on the screen either.
        let done = move |state: &ProgressState, text: &mut dyn fmt::Write| {
            let _ = write!(text, "{}", unit.done(state.pos(), state.len().unwrap_or(0)));
        };
        let rate = move |state: &ProgressState, text: &mut dyn fmt::Write| {
            let _ = write!(text, "{}", unit.rate(state.per_sec()));
        };
        let left = |state: &ProgressState, text: &mut dyn fmt::Write| {
            let _ = write!(text, "{}", left(state.per_sec(), state.eta()));
        };
        bar.set_style(style.with_key("done", done).with_key("rate", rate).with_key("left", left));
        bar
    }
}

/// What a progress bar counts.
#[derive(Clone, Copy)]
pub enum Unit {
    Ops,
    Bytes,
}

impl Unit {
    fn done(self, done: u64, all: u64) -> String {
        match self {
            Self::Ops => format!("{} of {} ops", count(done), count(all)),
            Self::Bytes => format!("{} of {}", HumanBytes(done), HumanBytes(all)),
        }
    }

    fn rate(self, per_second: f64) -> String {
        // Nobody reads fractions, and a figure beyond all measure is cut to the greatest.
        let per_second = per_second.round() as u64;
        match self {
            _ if per_second == 0 => String::new(),
            Self::Ops => format!("{} ops/s", count(per_second)),
            Self::Bytes => format!("{}/s", HumanBytes(per_second)),
        }
    }
}

/// How long it still takes; nothing while that is anybody's guess.
fn left(per_second: f64, eta: Duration) -> String {
    if per_second < 1.0 {
        return String::new();
    }
    format!("{:#} left", HumanDuration(eta))
}

/// What a colour says.
#[derive(Clone, Copy)]
pub enum Tone {
    Good,
    Warn,
    Bad,
    Quiet,
    Strong,
}

/// The first characters of a device's text form.
pub fn short_device(text: &str) -> String {
    text.parse::<DeviceId>().map_or_else(|_| text.to_owned(), |device| device.short())
}

/// The first characters of a hash.
pub fn short_hash(text: &str) -> &str {
    text.get(..12).unwrap_or(text)
}

/// A count with separated thousands.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many of something that is regular in the plural.
pub fn counted(number: u64, one: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {one}{ending}", count(number))
}

/// Unix milliseconds as date and time in UTC.
pub fn time(unix_millis: u64) -> String {
    // The year 9999 is the last that the text form has.
    let known = unix_millis.min(253_402_300_799_000);
    let moment = std::time::UNIX_EPOCH + Duration::from_millis(known);
    humantime::format_rfc3339_seconds(moment).to_string().replace('T', " ")
}

/// How long ago something was.
pub fn ago(millis: Option<u64>) -> String {
    match millis {
        None => "never".into(),
        Some(0..1_000) => "now".into(),
        Some(millis) => {
            let seconds = millis / 1_000;
            match seconds {
                0..60 => format!("{seconds} s ago"),
                60..3_600 => format!("{} min ago", seconds / 60),
                3_600..86_400 => format!("{} h ago", seconds / 3_600),
                _ => format!("{} d ago", seconds / 86_400),
            }
        }
    }
}

fn write_lines(lines: &[impl AsRef<str>]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written =
        lines.iter().try_for_each(|line| writeln!(stdout, "{}", line.as_ref())).and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Pipe,
        _ => Failure::Output(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_as_people_write_them() {
        assert_eq!(
            [count(0), count(999), count(1_000), count(12_345_678)],
            ["0", "999", "1,000", "12,345,678"]
        );
        assert_eq!(
            [counted(0, "op"), counted(1, "op"), counted(1_000, "op")],
            ["0 ops", "1 op", "1,000 ops"]
        );
        assert_eq!(ago(None), "never");
        assert_eq!(ago(Some(999)), "now");
        assert_eq!(ago(Some(59_999)), "59 s ago");
        assert_eq!(ago(Some(7_200_000)), "2 h ago");
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time(u64::MAX), "9999-12-31 23:59:59Z");
    }

    #[test]
    fn progress_is_told_in_whole_figures_and_without_guesses() {
        assert_eq!(Unit::Ops.done(1_000, 20_000), "1,000 of 20,000 ops");
        assert_eq!(Unit::Bytes.done(512, 2_048), "512 B of 2.00 KiB");
        assert_eq!(Unit::Ops.rate(291_765.185_188), "291,765 ops/s");
        assert_eq!((Unit::Bytes.rate(2_048.4), Unit::Ops.rate(0.0)), ("2.00 KiB/s".into(), String::new()));
        assert_eq!(left(10.0, Duration::from_secs(300)), "5m left");
        assert_eq!(left(0.0, Duration::ZERO), "");
    }

    #[test]
    fn ids_are_shown_short() {
        let device = DeviceId::from_bytes([5; 32]);

        assert_eq!(short_device(&device.to_string()), device.short());
        assert_eq!(short_device("?"), "?");
        assert_eq!(short_hash("0123456789abcdef"), "0123456789ab");
        assert_eq!(short_hash("01"), "01");
    }
}
