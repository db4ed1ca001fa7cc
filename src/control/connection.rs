//! What a connection does with the messages it carries, whatever carries them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::envelope::{Answer, Request, notice_line};
use super::error::{ControlError, RpcError};
use super::line::Line;
use super::session::{Notice, Session};
use super::{CONCURRENT_REQUESTS_MAX, REQUEST_BYTES_MAX};

/// The requests of one connection: they run side by side, so answers may come in another order.
pub(super) struct Requests {
    session: Arc<Session>,
    answers: mpsc::Sender<String>,
    slots: Arc<Semaphore>,
    running: JoinSet<()>,
}

/// What is to be written to a connection.
pub(super) struct Outgoing {
    answers: mpsc::Receiver<String>,
    notices: mpsc::Receiver<Notice>,
}

/// The two ends of a connection's work. Dropping the first ends the second once it is empty.
pub(super) fn connect(session: Session, notices: mpsc::Receiver<Notice>) -> (Requests, Outgoing) {
    let (sender, answers) = mpsc::channel(CONCURRENT_REQUESTS_MAX);
    let requests = Requests {
        session: Arc::new(session),
        answers: sender,
        slots: Arc::new(Semaphore::new(CONCURRENT_REQUESTS_MAX)),
        running: JoinSet::new(),
    };
    (requests, Outgoing { answers, notices })
}

impl Requests {
    /// Begins to answer a message; waits while [`CONCURRENT_REQUESTS_MAX`] are under way.
    pub async fn take(&mut self, message: Line) {
        let slot = Arc::clone(&self.slots).acquire_owned().await.expect("the semaphore is never closed");
        while self.running.try_join_next().is_some() {}
        let (session, answers) = (Arc::clone(&self.session), self.answers.clone());
        self.running.spawn(async move {
            if let Some(answer) = answer_line(&session, message).await {
                // A writer that is gone has its own reason; there is nobody left to tell.
                let _ = answers.send(answer).await;
            }
            drop(slot);
        });
    }

    /// Answers what is under way, for as long as [`LAST_ANSWERS_WITHIN`].
    pub async fn finish(mut self) {
        // A caller that half-closes still gets the answers to what it asked; one that died looks the
        // same from here, and its `sync.wait` must not stay for ever.
        let rest = async { while self.running.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_ANSWERS_WITHIN, rest).await;
    }
}

impl Outgoing {
    /// The next lines to write, as many as wait up to [`WRITE_BYTES`]; `None` once all is written
    /// and no request is left.
    pub async fn next(&mut self) -> Option<String> {
        let mut lines = tokio::select! {
            biased;
            // Both receivers keep what they hold when they lose the race.
            answer = self.answers.recv() => answer?,
            Some(notice) = self.notices.recv() => notice_line(&notice.method, &notice.params),
        };
        while lines.len() < WRITE_BYTES {
            if let Ok(answer) = self.answers.try_recv() {
                lines.push_str(&answer);
            } else if let Ok(notice) = self.notices.try_recv() {
                lines.push_str(&notice_line(&notice.method, &notice.params));
            } else {
                break;
            }
        }
        Some(lines)
    }
}

/// The answer to one message; `None` for a blank one and a notification.
async fn answer_line(session: &Session, message: Line) -> Option<String> {
    let bytes = match message {
        Line::Whole(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => return None,
        Line::Whole(bytes) => bytes,
        Line::TooLong { bytes } => {
            let error = ControlError::RequestTooLong { found: bytes, limit: REQUEST_BYTES_MAX };
            return Some(Answer::new(None, &Err(RpcError::from(error))).to_line());
        }
    };
    match Request::parse(&bytes) {
        Ok(request) => {
            let outcome = session.call(&request.method, request.params.as_deref()).await;
            request.id.map(|id| Answer::new(Some(&id), &outcome).to_line())
        }
        Err((id, error)) => Some(Answer::new(id.as_deref(), &Err(error.into())).to_line()),
    }
}

/// How long requests go on whose caller sends no more.
pub(super) const LAST_ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Written at once: fewer calls of the system where answers come thick.
const WRITE_BYTES: usize = 64 * 1024;
