//! Noticing that a network has ended without having been stopped.

use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::model::Blame;

/// Why a network has ended by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum NetFailure {
    /// The system has taken the socket away, as after a long sleep, or gives nothing from it any more.
    #[error("the system has taken the socket away")]
    SocketLost,
    /// A part of the network ended by a mistake of the program.
    #[error("its {part} ended by a mistake of the program; the log says more")]
    PartEnded {
        /// Which.
        part: &'static str,
    },
}

impl NetFailure {
    /// Who is at fault.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::SocketLost => Blame::Environment,
            Self::PartEnded { .. } => Blame::Local,
        }
    }
}

/// Who is told when a task ends that was to live as long as the network. Clones tell the same.
#[derive(Clone, Debug)]
pub(super) struct Endings {
    cancel: CancellationToken,
    first: watch::Sender<Option<NetFailure>>,
}

impl Endings {
    /// Endings after `cancel` are as they should be.
    pub(super) fn new(cancel: CancellationToken) -> Self {
        Self { cancel, first: watch::Sender::new(None) }
    }

    pub(super) fn told(&self) -> watch::Receiver<Option<NetFailure>> {
        self.first.subscribe()
    }

    /// Tells of what was found amiss.
    pub(super) fn tell(&self, failure: NetFailure) {
        self.first.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(failure);
            is_first
        });
    }

    /// Runs `task` and tells of its end, by a panic too.
    pub(super) fn watch(
        &self,
        part: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let ended = Ended { endings: self.clone(), part };
        async move {
            // Dropped last, and on the way of a panic.
            let _ended = ended;
            task.await;
        }
    }
}

struct Ended {
    endings: Endings,
    part: &'static str,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if self.endings.cancel.is_cancelled() {
            return;
        }
        let failure = match self.part {
            ENDPOINT if !std::thread::panicking() => NetFailure::SocketLost,
            part => NetFailure::PartEnded { part },
        };
        self.endings.tell(failure);
    }
}

/// The part that ends with the socket.
pub(super) const ENDPOINT: &str = "endpoint";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_part_that_ends_is_told_and_none_that_ends_when_it_should() {
        let endings = Endings::new(CancellationToken::new());
        let mut told = endings.told();

        let panicked = tokio::spawn(endings.watch("dialling", async { panic!("for the test") })).await;
        endings.watch(ENDPOINT, async {}).await;
        let told = *told.wait_for(Option::is_some).await.expect("somebody tells");

        assert!(panicked.is_err());
        assert_eq!(told, Some(NetFailure::PartEnded { part: "dialling" }));
        assert_eq!(told.map(|failure| failure.blame()), Some(Blame::Local));
        let stopped = Endings::new(CancellationToken::new());
        stopped.cancel.cancel();
        stopped.watch(ENDPOINT, async {}).await;
        assert_eq!(*stopped.told().borrow(), None);
    }

    #[tokio::test]
    async fn an_endpoint_ends_with_its_socket() {
        let endings = Endings::new(CancellationToken::new());

        endings.watch(ENDPOINT, async {}).await;

        assert_eq!(*endings.told().borrow(), Some(NetFailure::SocketLost));
        assert_eq!(NetFailure::SocketLost.blame(), Blame::Environment);
    }
}
