//! A command in a process group of its own: its signals, its terminal, its end.

use std::io::{self, IsTerminal, stdin};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp, getpid, tcgetpgrp, tcsetpgrp};
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};
use tokio::sync::mpsc;

/// What happens to the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChildEvent {
    /// It ended with this exit code, as a shell would say it: 128 and the number for a signal.
    Ended(u8),
    /// It was stopped, from the terminal or otherwise.
    Stopped,
}

/// A command that runs, and whatever it starts in its group.
pub struct Child {
    group: Pid,
    events: mpsc::UnboundedReceiver<ChildEvent>,
    terminal: Terminal,
}

impl Child {
    /// Starts it; its standard streams are those of this process, and the terminal is its own where
    /// this process has it.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let terminal = Terminal::find();
        let started = command.process_group(0).spawn()?;
        let group = Pid::from_raw(i32::try_from(started.id()).map_err(io::Error::other)?);
        // From here on `waitpid` owns the child: the handle would only wait as well.
        drop(started);
        terminal.give_to(group);
        let (sender, events) = mpsc::unbounded_channel();
        std::thread::Builder::new().name("lease-child".into()).spawn(move || watch(group, &sender))?;
        // It may have asked for the terminal before it had it, and been stopped for that.
        let child = Self { group, events, terminal };
        if child.terminal.is_ours {
            child.send(Signal::SIGCONT);
        }
        Ok(child)
    }

    /// The next thing that happens to it; may be dropped and called again.
    pub async fn event(&mut self) -> ChildEvent {
        // The watching thread tells of the end before it goes.
        self.events.recv().await.unwrap_or(ChildEvent::Ended(1))
    }

    /// Sends a signal to the whole group.
    pub fn send(&self, signal: Signal) {
        // A group that has gone needs none.
        let _ = killpg(self.group, signal);
    }

    /// Whether the terminal is its own, and was this process's before.
    pub const fn has_terminal(&self) -> bool {
        self.terminal.is_ours
    }

    /// Stops this process as the command was stopped, and returns once somebody continues it.
    pub fn stop_too(&self) {
        self.terminal.take_back();
        // It cannot fail for the own process.
        let _ = kill(getpid(), Signal::SIGSTOP);
        self.terminal.give_to(self.group);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.terminal.take_back();
    }
}

fn watch(child: Pid, events: &mpsc::UnboundedSender<ChildEvent>) {
    loop {
        let event = match waitpid(child, Some(WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::Exited(_, code)) => ChildEvent::Ended(u8::try_from(code & 0xff).unwrap_or(1)),
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                ChildEvent::Ended(u8::try_from(128 + signal as i32).unwrap_or(u8::MAX))
            }
            Ok(WaitStatus::Stopped(..)) => ChildEvent::Stopped,
            Ok(_) | Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => ChildEvent::Ended(1),
        };
        let is_end = matches!(event, ChildEvent::Ended(_));
        if events.send(event).is_err() || is_end {
            return;
        }
    }
}

/// The terminal, where this process has it.
struct Terminal {
    is_ours: bool,
}

impl Terminal {
    fn find() -> Self {
        let is_ours = stdin().is_terminal() && tcgetpgrp(stdin()).is_ok_and(|group| group == getpgrp());
        Self { is_ours }
    }

    fn give_to(&self, group: Pid) {
        if self.is_ours {
            // A group that has gone has left the terminal to nobody; it is taken back at the end.
            let _ = tcsetpgrp(stdin(), group);
        }
    }

    fn take_back(&self) {
        if !self.is_ours {
            return;
        }
        // Whoever takes the terminal from the background is stopped for it, unless it hears nothing.
        let deaf = SigSet::from(Signal::SIGTTOU);
        let before = deaf.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK);
        let _ = tcsetpgrp(stdin(), getpgrp());
        if let Ok(before) = before {
            let _ = before.thread_set_mask();
        }
    }
}

/// The signals that are passed on to the command.
pub struct Signals {
    listeners: Vec<(Signal, Listener)>,
}

impl Signals {
    /// Listens from now on.
    pub fn listen() -> io::Result<Self> {
        let passed_on = [
            (Signal::SIGINT, SignalKind::interrupt()),
            (Signal::SIGTERM, SignalKind::terminate()),
            (Signal::SIGHUP, SignalKind::hangup()),
            (Signal::SIGQUIT, SignalKind::quit()),
            (Signal::SIGUSR1, SignalKind::user_defined1()),
            (Signal::SIGUSR2, SignalKind::user_defined2()),
            (Signal::SIGTSTP, SignalKind::from_raw(Signal::SIGTSTP as i32)),
        ];
        let listeners = passed_on.into_iter().map(|(name, kind)| Ok((name, signal(kind)?)));
        Ok(Self { listeners: listeners.collect::<io::Result<_>>()? })
    }

    /// The next signal; may be dropped and called again, which loses none.
    pub async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            for (name, listener) in &mut self.listeners {
                if listener.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*name);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// The next one that asks this process to end.
    pub async fn told_to_end(&mut self) -> Signal {
        loop {
            match self.next().await {
                Signal::SIGTSTP => {
                    // Nothing runs yet: this process alone stops.
                    let _ = kill(getpid(), Signal::SIGSTOP);
                }
                Signal::SIGUSR1 | Signal::SIGUSR2 => {}
                signal => return signal,
            }
        }
    }
}
