//! Reading lines into parcels of a request's size.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use kinfold::control::params::{AppendParams, ScopeParam};
use kinfold::control::{ControlError, Line, LineCutter, Method, REQUEST_BYTES_MAX, RpcError};
use kinfold::model::limits::KEY_BYTES_MAX;
use kinfold::model::{Payload, Surface};
use kinfold::node::NodeError;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::failure::Failure;

/// Lines that go into one request, and those that do not.
#[derive(Debug, Default)]
pub struct Parcel {
    /// Good lines, as far as can be told without the node.
    pub ops: Vec<AppendParams>,
    /// The line number of each op.
    pub lines: Vec<u64>,
    /// Bad lines.
    pub refused: Vec<Refused>,
    /// Bytes read for it.
    pub bytes: u64,
    /// The number of the last line in it.
    pub last_line: u64,
    request_bytes: usize,
}

/// A line that is not recorded.
#[derive(Debug)]
pub struct Refused {
    pub line: u64,
    pub why: String,
}

/// Where lines come from.
pub struct Source {
    reader: Box<dyn BufRead + Send>,
    path: PathBuf,
    bytes: Option<u64>,
    /// The space of a line that names none.
    scope: ScopeParam,
}

/// One line of an import; members with other names belong to somebody else.
#[derive(Deserialize)]
struct ImportLine {
    #[serde(default)]
    scope: Option<ScopeParam>,
    surface: String,
    payload: Box<RawValue>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    stream: Option<String>,
}

impl Source {
    /// A file, or standard input for `-`.
    pub fn open(path: &Path, scope: ScopeParam) -> Result<Self, Failure> {
        if path == Path::new(STANDARD_INPUT) {
            let reader = Box::new(BufReader::with_capacity(READ_BYTES, io::stdin()));
            return Ok(Self { reader, path: path.to_owned(), bytes: None, scope });
        }
        let unreadable = |source| Failure::Input { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let bytes = file.metadata().map_err(unreadable)?.len();
        let reader = Box::new(BufReader::with_capacity(READ_BYTES, file));
        Ok(Self { reader, path: path.to_owned(), bytes: Some(bytes), scope })
    }

    /// How much there is to read, where that is known.
    pub const fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// Reads to the end, or until nobody takes parcels any more.
    pub fn read(mut self, parcels: &mpsc::Sender<Result<Parcel, Failure>>) {
        let mut cutter = LineCutter::new(LINE_BYTES_MAX);
        let mut parcel = Parcel::default();
        loop {
            let line = match self.next_line(&mut cutter, &mut parcel.bytes) {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(failure) => {
                    // What was read before the failure is good.
                    let _ = parcels.blocking_send(Ok(parcel));
                    let _ = parcels.blocking_send(Err(failure));
                    return;
                }
            };
            parcel.take(line, &self.scope);
            if parcel.is_full() {
                let next = Parcel { last_line: parcel.last_line, ..Parcel::default() };
                if parcels.blocking_send(Ok(std::mem::replace(&mut parcel, next))).is_err() {
                    return;
                }
            }
        }
        // Whoever gave up taking parcels does not miss the last one.
        let _ = parcels.blocking_send(Ok(parcel));
    }

    fn next_line(&mut self, cutter: &mut LineCutter, read: &mut u64) -> Result<Option<Line>, Failure> {
        loop {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if self.path == Path::new(STANDARD_INPUT) => {
                    return Err(Failure::StandardInput(error));
                }
                Err(source) => return Err(Failure::Input { path: self.path.clone(), source }),
            };
            if chunk.is_empty() {
                return Ok(cutter.finish());
            }
            let (used, line) = cutter.cut(chunk);
            self.reader.consume(used);
            *read += used as u64;
            if line.is_some() {
                return Ok(line);
            }
        }
    }
}

impl Parcel {
    fn take(&mut self, line: Line, scope: &ScopeParam) {
        self.last_line += 1;
        let why = match line {
            Line::Whole(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => return,
            Line::Whole(bytes) => match read_line(&bytes, scope) {
                Ok(op) => {
                    let name = op.key.as_ref().or(op.stream.as_ref()).map_or(0, String::len);
                    self.request_bytes += op.surface.len() + op.payload.get().len() + name + AROUND_OP_BYTES;
                    self.ops.push(op);
                    self.lines.push(self.last_line);
                    return;
                }
                Err(error) => reason(&error),
            },
            Line::TooLong { bytes } => {
                format!("a line of {bytes} bytes exceeds the limit of {LINE_BYTES_MAX}")
            }
        };
        self.refused.push(Refused { line: self.last_line, why });
    }

    fn is_full(&self) -> bool {
        self.ops.len() >= PARCEL_OPS
            || self.refused.len() >= PARCEL_OPS
            || self.request_bytes >= PARCEL_REQUEST_BYTES
    }
}

/// An error in one line of text.
pub fn reason(error: &RpcError) -> String {
    std::iter::once(&error.message)
        .chain(&error.data.causes)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(": ")
}

fn read_line(bytes: &[u8], scope: &ScopeParam) -> Result<AppendParams, RpcError> {
    let line: ImportLine = match serde_json::from_slice(bytes) {
        Ok(line) => line,
        // A line that is JSON of another shape is told apart from one that is not JSON at all.
        Err(source) if serde_json::from_slice::<&RawValue>(bytes).is_err() => {
            return Err(ControlError::NotJson(source).into());
        }
        Err(source) => return Err(ControlError::InvalidParams { method: Method::Append, source }.into()),
    };
    // A name may be nearly as long as a line, and then no request could hold it.
    for name in line.key.iter().chain(&line.stream) {
        if name.len() > KEY_BYTES_MAX {
            let found = name.len();
            return Err(NodeError::KeyLength { found, limit: KEY_BYTES_MAX }.into());
        }
    }
    // Canonical here, so that white space cannot make a request too long.
    let payload = Payload::parse(line.payload.get()).map_err(ControlError::from)?;
    let payload =
        RawValue::from_string(payload.to_string()).expect("a payload is JSON: Payload::parse made it");
    let scope = line.scope.unwrap_or_else(|| scope.clone());
    scope.to_scope().map_err(ControlError::from)?;
    let surface = line.surface.parse::<Surface>().map_err(ControlError::from)?.to_string();
    Ok(AppendParams { scope, surface, payload, key: line.key, stream: line.stream })
}

/// What stands for standard input.
const STANDARD_INPUT: &str = "-";

/// Longest line: a payload of 64 KiB with generous white space.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Ops in one parcel: one durable step each, about 200 KB of ordinary ops.
const PARCEL_OPS: usize = 1_024;

/// Bytes at which a request is full: with one more line of the greatest kind it still fits.
const PARCEL_REQUEST_BYTES: usize = REQUEST_BYTES_MAX / 2;

/// What an op takes in a request beside its parts.
const AROUND_OP_BYTES: usize = 128;

/// How much is read at once.
const READ_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_with_members_of_others_and_without_its_white_space() {
        let line =
            br#"{"t":1,"device":"dev-01","parents":[],"surface":"registry:file","payload": { "id": "a" } }"#;

        let op = read_line(line, &ScopeParam::Org("acme".into())).unwrap();

        assert_eq!(op.surface, "registry:file");
        assert_eq!(op.payload.get(), r#"{"id":"a"}"#);
        assert_eq!(op.scope, ScopeParam::Org("acme".into()));
    }

    #[test]
    fn bad_lines_are_refused_by_name() {
        let kind = |line: &[u8]| read_line(line, &ScopeParam::Personal).unwrap_err().data.kind;

        assert_eq!(kind(b"nonsense"), "NotJson");
        assert_eq!(kind(b"\xff\xfe\0"), "NotJson");
        assert_eq!(kind(b"{\"surface\":\"skill\"}"), "InvalidParams");
        assert_eq!(kind(br#"{"surface":"skill","payload":{"a":1,"a":2}}"#), "DuplicateKey");
        let long = format!(r#"{{"surface":"skill","payload":"{}"}}"#, "x".repeat(64 * 1024 - 1));
        assert_eq!(kind(long.as_bytes()), "TooLong");
    }

    #[test]
    fn parcels_fit_a_request_and_count_every_line() {
        let value = "x".repeat(60 * 1024);
        let text = format!("{{\"surface\":\"skill\",\"payload\":\"{value}\"}}\n\nbad\n").repeat(30);
        let source = Source {
            reader: Box::new(io::Cursor::new(text)),
            path: "-".into(),
            bytes: None,
            scope: ScopeParam::Personal,
        };
        let (sender, mut parcels) = mpsc::channel(64);

        source.read(&sender);
        drop(sender);

        let mut numbers = Vec::new();
        while let Some(parcel) = parcels.blocking_recv() {
            let parcel = parcel.unwrap();
            let bytes: usize = parcel.ops.iter().map(|op| serde_json::to_string(op).unwrap().len() + 1).sum();
            assert!(bytes < REQUEST_BYTES_MAX);
            numbers.extend(parcel.lines);
            numbers.extend(parcel.refused.iter().map(|refused| refused.line));
        }
        numbers.sort_unstable();
        let expected: Vec<u64> = (0..30).flat_map(|n| [3 * n + 1, 3 * n + 3]).collect();
        assert_eq!(numbers, expected);
    }
}
