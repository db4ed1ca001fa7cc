//! `import` and `export`: everything as JSON lines.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::ProgressBar;
use kinfold::control::convert::new_op;
use kinfold::control::forms::{AppendManyForm, EventForm, ListForm, RowForm, SurfacesForm};
use kinfold::control::params::{AppendManyParams, AppendParams, ListParams, ScopeParam, ScopeParams};
use kinfold::control::{ControlError, Line, LineCutter, Method, PAGE_ITEMS_MAX, REQUEST_BYTES_MAX, RpcError};
use kinfold::model::Payload;
use kinfold::node::NewOp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::task::JoinHandle;

use crate::args::{Export, Import};
use crate::failure::Failure;
use crate::output::{Output, Tone, count};
use crate::target::{Interrupt, Target};

/// One line of an import; members with other names belong to somebody else.
#[derive(Deserialize)]
struct ImportLine {
    #[serde(default)]
    scope: ScopeParam,
    surface: String,
    payload: Box<RawValue>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    stream: Option<String>,
}

/// What became of an import.
#[derive(Debug, Default, Serialize)]
struct Summary {
    imported: u64,
    refused: u64,
}

pub async fn import(home: &Path, args: Import, output: &Output) -> Result<(), Failure> {
    let source = open_source(&args.file)?;
    let target = Arc::new(Target::open(home).await?);
    let bar = output.progress(source.bytes.unwrap_or(0), "bytes");
    let mut importing =
        Importing { target: Arc::clone(&target), bar: &bar, told: 0, summary: Summary::default() };
    let outcome = importing.run(source).await;
    let summary = importing.summary;
    bar.finish_and_clear();
    if let Some(target) = Arc::into_inner(target) {
        target.close().await?;
    }
    if output.is_json() {
        output.json(&summary)?;
    } else {
        let done = output.paint(Tone::Good, "imported");
        output.line(format!("{done} {}, refused {}", count(summary.imported), count(summary.refused)))?;
    }
    outcome?;
    match summary.refused {
        0 => Ok(()),
        refused => Err(Failure::LinesRefused { refused, total: refused + summary.imported }),
    }
}

/// Where lines come from.
struct Source {
    reader: Box<dyn BufRead + Send>,
    path: PathBuf,
    bytes: Option<u64>,
}

fn open_source(path: &Path) -> Result<Source, Failure> {
    if path == Path::new("-") {
        let reader = Box::new(BufReader::with_capacity(READ_BYTES, io::stdin()));
        return Ok(Source { reader, path: path.to_owned(), bytes: None });
    }
    let unreadable = |source| Failure::Input { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let bytes = file.metadata().map_err(unreadable)?.len();
    let reader = Box::new(BufReader::with_capacity(READ_BYTES, file));
    Ok(Source { reader, path: path.to_owned(), bytes: Some(bytes) })
}

/// Good lines of one request, with their line numbers.
#[derive(Default)]
struct Group {
    ops: Vec<AppendParams>,
    lines: Vec<u64>,
    bytes: usize,
}

struct Importing<'a> {
    target: Arc<Target>,
    bar: &'a ProgressBar,
    told: u64,
    summary: Summary,
}

type Sent = (Vec<u64>, JoinHandle<Result<AppendManyForm, Failure>>);

impl Importing<'_> {
    /// Reads the next group while the one before becomes durable; never two at once, so that lines
    /// keep their order.
    async fn run(&mut self, mut source: Source) -> Result<(), Failure> {
        let mut interrupt = Interrupt::listen();
        let mut cutter = LineCutter::new(LINE_BYTES_MAX);
        let (mut group, mut sent, mut number) = (Group::default(), None::<Sent>, 0);
        while let Some(line) = self.next_line(&mut source, &mut cutter)? {
            number += 1;
            self.take_line(number, line, &mut group);
            if group.ops.len() >= GROUP_OPS || group.bytes >= GROUP_BYTES {
                self.settle(sent.take()).await?;
                sent = Some(self.send(std::mem::take(&mut group)));
                if is_ready(interrupt.told()).await {
                    self.settle(sent.take()).await?;
                    return Err(Failure::Interrupted { line: number });
                }
            }
        }
        self.settle(sent.take()).await?;
        if !group.ops.is_empty() {
            let last = self.send(group);
            self.settle(Some(last)).await?;
        }
        Ok(())
    }

    fn next_line(&self, source: &mut Source, cutter: &mut LineCutter) -> Result<Option<Line>, Failure> {
        loop {
            let chunk = match source.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if source.path == Path::new("-") => return Err(Failure::StandardInput(error)),
                Err(error) => return Err(Failure::Input { path: source.path.clone(), source: error }),
            };
            if chunk.is_empty() {
                return Ok(cutter.finish());
            }
            let (used, line) = cutter.cut(chunk);
            source.reader.consume(used);
            self.bar.inc(used as u64);
            if line.is_some() {
                return Ok(line);
            }
        }
    }

    fn take_line(&mut self, number: u64, line: Line, group: &mut Group) {
        let bytes = match line {
            Line::Whole(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => return,
            Line::Whole(bytes) => bytes,
            Line::TooLong { bytes } => {
                self.refuse(
                    number,
                    &format!("a line of {bytes} bytes exceeds the limit of {LINE_BYTES_MAX}"),
                );
                return;
            }
        };
        match read_line(&bytes) {
            Ok(op) => {
                group.bytes += op.surface.len() + op.payload.get().len() + LINE_BYTES_AROUND;
                group.bytes += op.key.as_ref().or(op.stream.as_ref()).map_or(0, String::len);
                group.ops.push(op);
                group.lines.push(number);
            }
            Err(error) => self.refuse(number, &reason(&error)),
        }
    }

    fn send(&self, group: Group) -> Sent {
        let target = Arc::clone(&self.target);
        let params = AppendManyParams { ops: group.ops, keep_good: true };
        let call = async move { target.call(Method::AppendMany, &params).await };
        (group.lines, tokio::spawn(call))
    }

    async fn settle(&mut self, sent: Option<Sent>) -> Result<(), Failure> {
        let Some((lines, call)) = sent else { return Ok(()) };
        let form = call.await.map_err(|_| ControlError::Lost)??;
        self.summary.imported += form.appended.len() as u64;
        for refused in form.refused {
            let number = lines.get(refused.index).copied().unwrap_or(0);
            self.refuse(number, &reason(&refused.error));
        }
        Ok(())
    }

    fn refuse(&mut self, number: u64, why: &str) {
        self.summary.refused += 1;
        self.told += 1;
        let text = match self.told {
            1..=REFUSALS_TOLD => format!("line {number}: {why}"),
            told if told == REFUSALS_TOLD + 1 => "further refused lines are counted only".to_owned(),
            _ => return,
        };
        self.bar.suspend(|| eprintln!("{text}"));
    }
}

fn read_line(bytes: &[u8]) -> Result<AppendParams, RpcError> {
    let line: ImportLine = match serde_json::from_slice(bytes) {
        Ok(line) => line,
        // A line that is JSON of another shape is told apart from one that is not JSON at all.
        Err(source) if serde_json::from_slice::<&RawValue>(bytes).is_err() => {
            return Err(ControlError::NotJson(source).into());
        }
        Err(source) => return Err(ControlError::InvalidParams { method: Method::Append, source }.into()),
    };
    // Canonical here, so that white space cannot make a request too long.
    let payload = Payload::parse(line.payload.get()).map_err(ControlError::from)?;
    let payload =
        RawValue::from_string(payload.to_string()).expect("a payload is JSON: Payload::parse made it");
    Ok(AppendParams { scope: line.scope, surface: line.surface, payload, key: line.key, stream: line.stream })
}

fn reason(error: &RpcError) -> String {
    let mut text = error.message.clone();
    for cause in &error.data.causes {
        text.push_str(": ");
        text.push_str(cause);
    }
    text
}

/// Whether a future is done already.
async fn is_ready(future: impl Future<Output = ()>) -> bool {
    tokio::select! {
        biased;
        // Asked once and dropped: a signal that has come is seen by the first look.
        () = future => true,
        () = std::future::ready(()) => false,
    }
}

pub async fn export(home: &Path, args: Export, output: &Output) -> Result<(), Failure> {
    let target = Target::open(home).await?;
    let outcome = export_all(&target, args.surface.as_deref(), output).await;
    target.close().await?;
    outcome
}

async fn export_all(target: &Target, only: Option<&str>, output: &Output) -> Result<(), Failure> {
    let held: SurfacesForm = target.call(Method::Surfaces, &ScopeParams::default()).await?;
    let mut conflicts = 0;
    let wanted = held.surfaces.iter().filter(|form| only.is_none_or(|only| only == form.surface));
    for form in wanted {
        let mut after = None;
        loop {
            let page = page(target, &form.surface, after.take()).await?;
            conflicts += page.rows.iter().filter(|row| !row.others.is_empty()).count();
            for row in page.rows.into_iter().filter(|row| !row.deleted) {
                output.json(&row_line(row))?;
            }
            for event in page.events {
                output.json(&event_line(event))?;
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
    }
    if conflicts > 0 {
        output.note(format!("{conflicts} rows are in conflict: only their shown values were written"));
    }
    Ok(())
}

async fn page(target: &Target, surface: &str, after: Option<String>) -> Result<ListForm, Failure> {
    let params = ListParams {
        scope: ScopeParam::Personal,
        surface: surface.to_owned(),
        stream: None,
        after,
        limit: Some(PAGE_ITEMS_MAX),
    };
    target.call(Method::List, &params).await
}

/// A row as a line; its key only where the payload does not say it.
fn row_line(row: RowForm) -> AppendParams {
    let mut line = bare_line(row.surface, row.payload);
    let says_it = match new_op(&line) {
        Ok(NewOp::Put { key, .. } | NewOp::Fact { key, .. }) => key == row.id,
        Ok(NewOp::Delete { .. } | NewOp::Event { .. }) | Err(_) => false,
    };
    line.key = (!says_it).then_some(row.id);
    line
}

/// An event as a line; its stream only where the payload does not say it.
fn event_line(event: EventForm) -> AppendParams {
    let mut line = bare_line(event.surface, event.payload);
    let says_it = matches!(new_op(&line), Ok(NewOp::Event { stream, .. }) if stream == event.stream);
    line.stream = (!says_it).then_some(event.stream);
    line
}

fn bare_line(surface: String, payload: Box<RawValue>) -> AppendParams {
    AppendParams { scope: ScopeParam::Personal, surface, payload, key: None, stream: None }
}

/// Longest line: a payload of 64 KiB with generous white space.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Ops in one request: one durable step each, about 200 KB of ordinary ops.
const GROUP_OPS: usize = 1_024;

/// Bytes at which a request is full: with one more line of the greatest kind it still fits.
const GROUP_BYTES: usize = REQUEST_BYTES_MAX * 3 / 4;

/// What an op's frame in a request takes beside its parts; keys may be escaped.
const LINE_BYTES_AROUND: usize = 128;

/// Refused lines that are named one by one.
const REFUSALS_TOLD: u64 = 20;

/// How much is read at once.
const READ_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_with_members_of_others_and_without_its_white_space() {
        let line =
            br#"{"t":1,"device":"dev-01","parents":[],"surface":"registry:file","payload": { "id": "a" } }"#;

        let op = read_line(line).unwrap();

        assert_eq!(op.surface, "registry:file");
        assert_eq!(op.payload.get(), r#"{"id":"a"}"#);
    }

    #[test]
    fn bad_lines_are_refused_by_name() {
        let kind = |line: &[u8]| read_line(line).unwrap_err().data.kind;

        assert_eq!(kind(b"nonsense"), "NotJson");
        assert_eq!(kind(b"\xff\xfe\0"), "NotJson");
        assert_eq!(kind(b"{\"surface\":\"skill\"}"), "InvalidParams");
        assert_eq!(kind(br#"{"surface":"skill","payload":{"a":1,"a":2}}"#), "DuplicateKey");
        let long = format!(r#"{{"surface":"skill","payload":"{}"}}"#, "x".repeat(64 * 1024 - 1));
        assert_eq!(kind(long.as_bytes()), "TooLong");
    }

    #[test]
    fn an_exported_line_names_what_its_payload_does_not() {
        let row = |id: &str, payload: &str| {
            let row = RowForm {
                surface: "registry:note".into(),
                id: id.into(),
                deleted: false,
                payload: RawValue::from_string(payload.into()).unwrap(),
                device_id: String::new(),
                incarnation: String::new(),
                seq: 1,
                hlc: 1,
                time_ms: 1,
                others: Vec::new(),
            };
            serde_json::to_string(&row_line(row)).unwrap()
        };

        assert_eq!(row("a", r#"{"id":"a"}"#), r#"{"surface":"registry:note","payload":{"id":"a"}}"#);
        assert_eq!(row("a", "1.0"), r#"{"surface":"registry:note","payload":1.0,"key":"a"}"#);
        let flagged = r#"{"deleted":true,"id":"a"}"#;
        assert!(row("a", flagged).ends_with(r#","key":"a"}"#));
    }

    #[tokio::test]
    async fn a_future_is_looked_at_once() {
        assert!(is_ready(async {}).await);
        assert!(!is_ready(std::future::pending()).await);
    }
}
