//! A page that is drawn again and again on a screen of its own, and leaves the terminal as it was.
//!
//! Owns what is changed of the terminal: the other screen, the cursor, how keys arrive. All of it is
//! given back when the screen is dropped, whatever ended it but a SIGKILL.

use std::io::{self, IsTerminal, Read as _, Write as _};
use std::time::Duration;

use console::{measure_text_width, truncate_str};
use crossterm::terminal;
use tokio::sync::mpsc::{self, error::TrySendError};

/// The screen; dropping it gives the terminal back.
pub struct Screen {
    /// Whether keys come one by one; not where something else than a person is read.
    has_keys: bool,
    keys: mpsc::Receiver<u8>,
    #[cfg(unix)]
    resizes: Option<tokio::signal::unix::Signal>,
}

/// What a person did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    /// Asked to leave.
    Leave,
    /// Gave the terminal another size, or a key of no meaning.
    Look,
}

impl Screen {
    /// Turns the terminal to another screen.
    pub fn begin() -> io::Result<Self> {
        let (sender, keys) = mpsc::channel(KEYS_QUEUED);
        let mut screen = Self {
            has_keys: false,
            keys,
            #[cfg(unix)]
            resizes: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change()).ok(),
        };
        if io::stdin().is_terminal() {
            terminal::enable_raw_mode()?;
            screen.has_keys = true;
            // It waits in a read until the process ends; there is nothing to be lost.
            std::thread::Builder::new().name("kinfold-keys".into()).spawn(move || listen(&sender))?;
        }
        write(ENTER)?;
        Ok(screen)
    }

    /// How wide a line may be now.
    pub fn columns(&self) -> usize {
        size().0
    }

    /// Draws the page, cut to what there is room for. Nothing flickers: each line is drawn over, and
    /// terminals that know how show the whole page at once.
    pub fn draw(&self, page: &[String]) -> io::Result<()> {
        let (columns, rows) = size();
        let lines = cut(page, columns, rows);
        let mut text = format!("{TOGETHER}{HOME}");
        text.push_str(&lines.join(&format!("{REST_OF_LINE}\r\n")));
        text.push_str(&format!("{REST_OF_SCREEN}{SHOWN}"));
        write(&text)
    }

    /// Waits until a person does something, or for this long; losing a race loses nothing.
    pub async fn wait(&mut self, span: Duration) -> Deed {
        #[cfg(unix)]
        let resized = async {
            match &mut self.resizes {
                Some(resizes) => drop(resizes.recv().await),
                None => std::future::pending().await,
            }
        };
        #[cfg(not(unix))]
        let resized = std::future::pending::<()>();
        tokio::select! {
            Some(key) = self.keys.recv() => if LEAVING.contains(&key) { Deed::Leave } else { Deed::Look },
            () = resized => Deed::Look,
            () = tokio::time::sleep(span) => Deed::Look,
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing back.
        let _ = write(LEAVE);
        if self.has_keys {
            let _ = terminal::disable_raw_mode();
        }
    }
}

fn listen(keys: &mpsc::Sender<u8>) {
    let mut key = [0];
    loop {
        match io::stdin().read(&mut key) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The terminal has gone.
            Ok(0) | Err(_) => return,
        }
        if let Err(TrySendError::Closed(_)) = keys.try_send(key[0]) {
            return;
        }
    }
}

/// As many lines as there are rows, none wider than there are columns; the last says what is missing.
fn cut(page: &[String], columns: usize, rows: usize) -> Vec<String> {
    let rows = rows.max(1);
    let narrow = |line: &String| match measure_text_width(line) <= columns {
        true => line.clone(),
        false => truncate_str(line, columns, "…").into_owned(),
    };
    if page.len() <= rows {
        return page.iter().map(narrow).collect();
    }
    let mut lines: Vec<String> = page.iter().take(rows - 1).map(narrow).collect();
    let more = format!("… {} more lines in a taller window; q leaves", page.len() + 1 - rows);
    lines.push(narrow(&more));
    lines
}

fn size() -> (usize, usize) {
    let (columns, rows) = terminal::size().unwrap_or((80, 24));
    (usize::from(columns), usize::from(rows))
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// The other screen, without a cursor. What was on the first one comes back at the end.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[2J";

const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

const HOME: &str = "\x1b[H";

const REST_OF_LINE: &str = "\x1b[K";

const REST_OF_SCREEN: &str = "\x1b[K\x1b[J";

/// Terminals that do not know these two pass over them.
const TOGETHER: &str = "\x1b[?2026h";

const SHOWN: &str = "\x1b[?2026l";

/// `q`, Ctrl-C and Ctrl-D; a signal it is not, while keys come one by one.
const LEAVING: &[u8] = b"qQ\x03\x04";

/// Whoever leans on a key is not listened to.
const KEYS_QUEUED: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_cut_to_what_there_is_room_for() {
        let page: Vec<String> = ["one", "\x1b[32mgreen is long\x1b[0m", "three"].map(String::from).to_vec();

        assert_eq!(cut(&page, 80, 3), page);
        let narrow = cut(&page, 6, 3);
        assert_eq!((narrow[0].as_str(), measure_text_width(&narrow[1])), ("one", 6));
        assert!(narrow[1].ends_with("\x1b[0m"), "the colour ends with the line: {narrow:?}");
        assert_eq!(cut(&page, 80, 2), ["one", "… 2 more lines in a taller window; q leaves"]);
        assert_eq!(cut(&page, 1, 0), ["…"]);
    }
}
