//! The side with the code on its screen.
//!
//! One task owns the endpoint and its end; each connection has a task of its own that runs one
//! attempt. What they share is the book-keeping of the invite, under a lock that is never held
//! across an await.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{Notify, OnceCell, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use super::super::tls::Credentials;
use super::super::{InterfaceRules, Loopback, NetError};
use super::close::{DONE, TurnedAway};
use super::discovery::Announcement;
use super::endpoint;
use super::frames::{Broken, Frames, ended};
use super::link::{ADDRESSES_MAX, Link};
use super::{EnrolError, PairConfig, PairHost, PairingLock, entropy};
use crate::crypto::identity::Identity;
use crate::crypto::pairing::{
    Code, Hello, Invite, Inviter, Paired, Parties, Phrase, Refusal, Session, Standing, Terms,
};
use crate::crypto::pairing::{Confirm, PairingName};
use crate::model::{Blame, DeviceId, Scope};
use crate::roster::Role;
use crate::wire::PairFrame;

/// An invite that cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InviteError {
    /// Pairing is locked.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The endpoint cannot be had.
    #[error("the network cannot be used for pairing")]
    Net(#[from] NetError),
}

impl InviteError {
    /// Who is at fault.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Refused(refusal) => refusal.blame(),
            Self::Net(error) => error.blame(),
        }
    }
}

/// What an invite grants and says of this device.
#[derive(Clone, Debug)]
pub struct InviteOptions {
    /// What the joiner may do.
    pub role: Role,
    /// The space it joins.
    pub scope: Scope,
    /// What the joiner's screen calls this device.
    pub name: PairingName,
    /// How long the invite runs.
    pub ttl: Duration,
}

/// What happens to an open invite, in order. `Paired` and `Ended` are the last.
#[derive(Debug)]
#[non_exhaustive]
pub enum InviteEvent {
    /// Somebody tried and did not prove the code.
    AttemptFailed {
        /// How many attempts are left.
        attempts_left: u8,
    },
    /// A device proved the code and is recorded; its welcome is on the way.
    Enrolled {
        /// Which one.
        device: DeviceId,
        /// What it calls itself.
        name: PairingName,
    },
    /// A device proved the code but could not be recorded. It may try again.
    EnrolFailed {
        /// Which one.
        device: DeviceId,
        /// Why.
        error: EnrolError,
    },
    /// Done.
    Paired {
        /// The device that joined.
        device: DeviceId,
        /// What it calls itself.
        name: PairingName,
        /// What its screen shows too.
        phrase: Phrase,
        /// Whether it said that it has everything.
        delivery: Delivery,
    },
    /// Over, and nobody joined.
    Ended {
        /// Why.
        reason: Refusal,
    },
}

/// Whether the joiner said that it has stored its welcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// It said so.
    Receipted,
    /// The invite's time ran out before it did. It is recorded; if it shows an error, invite it anew.
    Unconfirmed,
}

/// An open invite. Dropping it withdraws it; [`OpenInvite::end`] also waits.
#[derive(Debug)]
pub struct OpenInvite {
    code: Code,
    link: Link,
    ttl: Duration,
    events: mpsc::Receiver<InviteEvent>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    _withdraw_on_drop: DropGuard,
}

impl OpenInvite {
    /// What a person types on the other device.
    pub const fn code(&self) -> &Code {
        &self.code
    }

    /// What the other device scans or pastes.
    pub const fn link(&self) -> &Link {
        &self.link
    }

    /// How long it ran when it was opened.
    pub const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<InviteEvent> {
        self.events.recv().await
    }

    /// Withdraws the invite where it still runs and waits until its port is closed.
    pub async fn end(self) {
        self.withdrawal().now().await;
    }

    /// A way to withdraw it from elsewhere.
    pub fn withdrawal(&self) -> Withdrawal {
        Withdrawal { cancel: self.cancel.clone(), tasks: self.tasks.clone() }
    }
}

/// Withdraws one invite; clones mean the same one.
#[derive(Clone, Debug)]
pub struct Withdrawal {
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Withdrawal {
    /// Whether the invite is over and its port closed.
    pub fn is_over(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Waits until the invite is over, for a moment at most: one that has just been used still hears the
    /// other device out. Answers whether it is over.
    pub async fn over_soon(&self) -> bool {
        self.is_over() || tokio::time::timeout(SPENT_WITHIN, self.tasks.wait()).await.is_ok()
    }

    /// Withdraws it where it still runs and waits until its port is closed, at most two seconds.
    /// Answers whether there was anything to withdraw.
    pub async fn now(self) -> bool {
        let is_running = !self.cancel.is_cancelled();
        self.cancel.cancel();
        if tokio::time::timeout(STOP_WITHIN, self.tasks.wait()).await.is_err() {
            debug!("pairing tasks outlived the invite");
        }
        is_running
    }
}

/// Opens an invite: from now on whoever knows its secret can be enrolled by `host`.
///
/// # Errors
/// Every variant of [`InviteError`].
pub async fn open_invite(
    identity: &Identity,
    config: PairConfig,
    lock: PairingLock,
    options: InviteOptions,
    host: Arc<dyn PairHost>,
) -> Result<OpenInvite, InviteError> {
    let now = (config.uptime)();
    let invite = lock.with(|lock| Ok(Invite::open(lock, now, options.ttl, &entropy()?)?));
    let invite: Invite = invite.map_err(|error: InviteError| error)?;
    let credentials = Credentials::new(identity).map_err(NetError::Certificate)?;
    let drivers = TaskTracker::new();
    let endpoint = endpoint::listen(&credentials, &config, drivers.clone())?;
    let local = endpoint::local_addr(&endpoint, &config)?;
    let announcement = Announcement::begin(&config, invite.id(), local).unwrap_or_else(|error| {
        info!(%error, "the invite is not announced; its link and address work");
        None
    });

    let addresses = reachable(local, &config.interfaces, config.loopback());
    let code = invite.code().clone();
    let link =
        Link::new(invite.id(), identity.device(), invite.link_secret(), addresses, expires_at(options.ttl));
    let ttl = options.ttl;
    let (sender, events) = mpsc::channel(EVENTS_QUEUED);
    let cancel = CancellationToken::new();
    let shared = Arc::new(Shared {
        own: identity.device(),
        invite: Mutex::new(invite),
        lock,
        config,
        options,
        host,
        welcome: OnceCell::new(),
        enrolled: Mutex::new(None),
        events: sender,
        changed: Notify::new(),
        cancel: cancel.clone(),
    });
    let tasks = TaskTracker::new();
    tasks.spawn(run(shared, endpoint, announcement, drivers));
    tasks.close();
    let withdraw_on_drop = cancel.clone().drop_guard();
    Ok(OpenInvite { code, link, ttl, events, tasks, cancel, _withdraw_on_drop: withdraw_on_drop })
}

/// What the tasks of one invite share.
struct Shared {
    own: DeviceId,
    invite: Mutex<Invite>,
    lock: PairingLock,
    config: PairConfig,
    options: InviteOptions,
    host: Arc<dyn PairHost>,
    /// Made once: a joiner that lost it gets the same again.
    welcome: OnceCell<Bytes>,
    enrolled: Mutex<Option<Enrolled>>,
    events: mpsc::Sender<InviteEvent>,
    changed: Notify,
    cancel: CancellationToken,
}

struct Enrolled {
    device: DeviceId,
    name: PairingName,
    phrase: Phrase,
    delivery: Delivery,
}

/// Accepts joiners until the invite is at its end.
async fn run(
    shared: Arc<Shared>,
    endpoint: quinn::Endpoint,
    announcement: Option<Announcement>,
    drivers: TaskTracker,
) {
    let attempts = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let end = loop {
        if let Some(end) = shared.end() {
            break end;
        }
        tokio::select! {
            // Losing the race loses nothing: packets and permits to look again are kept.
            incoming = endpoint.accept() => {
                let Some(incoming) = incoming else { break End::Withdrawn };
                admit(&shared, incoming, &slots, &attempts);
            }
            () = shared.changed.notified() => {}
            () = tokio::time::sleep(shared.look_again()) => {}
            () = shared.cancel.cancelled() => break End::Withdrawn,
        }
    };
    debug!(?end, "the invite is over");
    if let Some(event) = shared.last_event(&end) {
        let _ = shared.events.try_send(event);
    }
    endpoint.close(end.code(), b"");
    shared.cancel.cancel();
    attempts.close();
    attempts.wait().await;
    if let Some(announcement) = announcement {
        announcement.end().await;
    }
    // Sends the last close, and again to whoever missed it.
    let _ = tokio::time::timeout(LINGER, endpoint.wait_idle()).await;
    drop(endpoint);
    drivers.close();
    let _ = tokio::time::timeout(LINGER, drivers.wait()).await;
}

/// Lets a first packet begin a handshake, where its address is proven and a slot is free.
fn admit(shared: &Arc<Shared>, incoming: quinn::Incoming, slots: &Arc<Semaphore>, attempts: &TaskTracker) {
    if !incoming.remote_address_validated() {
        // It has just shown no proof, so it may be asked for one.
        let _ = incoming.retry();
        return;
    }
    match Arc::clone(slots).try_acquire_owned() {
        Ok(slot) => {
            attempts.spawn(receive(Arc::clone(shared), incoming, slot));
        }
        Err(_) => incoming.refuse(),
    }
}

/// One connection, from its handshake to its end.
async fn receive(shared: Arc<Shared>, incoming: quinn::Incoming, _slot: OwnedSemaphorePermit) {
    let limits = shared.config.limits;
    let connecting = match incoming.accept() {
        Ok(connecting) => connecting,
        Err(error) => return debug!(%error, "pairing handshake refused"),
    };
    let connection = tokio::select! {
        // Losing the race drops a half-made connection of an invite that is over.
        connection = tokio::time::timeout(limits.handshake, connecting) => match connection {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return debug!(%error, "pairing handshake refused"),
            Err(_) => return debug!("pairing handshake timed out"),
        },
        () = shared.cancel.cancelled() => return,
    };
    let Some(device) = endpoint::authenticated(&connection) else {
        return connection.close(TurnedAway::Violation.code(), b"");
    };
    let proven = tokio::select! {
        // An attempt that is cut off counts as failed by its drop.
        proven = tokio::time::timeout(limits.attempt, prove(&shared, &connection, device)) => {
            proven.unwrap_or(Err(TurnedAway::TooSlow))
        }
        () = shared.cancel.cancelled() => Err(TurnedAway::Withdrawn),
    };
    let outcome = match proven {
        // What is being recorded is not cut off: a device must not be enrolled behind an invite that
        // says otherwise.
        Ok(proof) => deliver(&shared, &connection, device, proof).await,
        Err(reason) => Err(reason),
    };
    match outcome {
        Ok(()) => connection.close(DONE, b""),
        Err(reason) => {
            debug!(peer = ?device, %reason, "pairing attempt ended");
            connection.close(reason.code(), b"");
        }
    }
}

/// A joiner that proved the secret.
struct Proof {
    frames: Frames,
    name: PairingName,
    paired: Paired,
    confirm: Confirm,
}

/// Runs the exchange up to the joiner's proof.
async fn prove(
    shared: &Shared,
    connection: &quinn::Connection,
    device: DeviceId,
) -> Result<Proof, TurnedAway> {
    let begin = async {
        let (send, receive) = connection.accept_bi().await.map_err(ended)?;
        let mut frames = Frames { send, receive };
        match frames.read().await? {
            PairFrame::Hello(hello) => Ok((frames, hello)),
            _ => Err(Broken::OutOfTurn),
        }
    };
    let begun = tokio::time::timeout(shared.config.limits.hello, begin).await;
    let (mut frames, hello) = begun.map_err(|_| TurnedAway::TooSlow)?.map_err(turned_away)?;

    let attempt = shared.begin(device, &hello)?;
    let (inviter, answer) = shared.answer(connection, device, &hello)?;
    frames.write(&PairFrame::Answer(answer)).await.map_err(turned_away)?;
    let PairFrame::Confirm(theirs) = frames.read().await.map_err(turned_away)? else {
        return Err(TurnedAway::Violation);
    };
    // A wrong proof is answered by the close that every end of an attempt has, and by nothing else.
    let (paired, confirm) = inviter.check(&theirs).map_err(|_| TurnedAway::Unproven)?;
    attempt.proven()?;
    Ok(Proof { frames, name: hello.name, paired, confirm })
}

/// Records the joiner and hands it its welcome.
async fn deliver(
    shared: &Arc<Shared>,
    connection: &quinn::Connection,
    device: DeviceId,
    proof: Proof,
) -> Result<(), TurnedAway> {
    let Proof { mut frames, name, paired, confirm } = proof;
    let welcome = shared.enrol(device, &name, paired.phrase()).await?;
    let salt = entropy().map_err(|_| TurnedAway::NotRecorded)?;
    let sealed = paired.seal(&welcome, &salt);
    let Ok(sealed_bytes) = u32::try_from(sealed.len()) else { return Err(TurnedAway::NotRecorded) };

    let hand_over = async {
        let port = shared.host.port().unwrap_or(0);
        frames.write(&PairFrame::Grant { confirm, port, sealed_bytes }).await?;
        frames.write_welcome(&sealed).await?;
        match frames.read().await? {
            PairFrame::Done => Ok(()),
            _ => Err(Broken::OutOfTurn),
        }
    };
    tokio::select! {
        // Losing the race leaves the joiner without its welcome; it asks again while time is left.
        handed = tokio::time::timeout(shared.config.limits.delivery, hand_over) => {
            handed.map_err(|_| TurnedAway::TooSlow)?.map_err(turned_away)?;
        }
        () = shared.cancel.cancelled() => return Err(TurnedAway::Withdrawn),
    }
    shared.receipted(paired.phrase());
    // The joiner's own close tells that this one arrived; it need not be waited for.
    connection.close(DONE, b"");
    Ok(())
}

fn turned_away(broken: Broken) -> TurnedAway {
    match broken {
        Broken::TurnedAway(reason) => reason,
        Broken::Frame(error) => TurnedAway::from(&error),
        Broken::OutOfTurn => TurnedAway::Violation,
        Broken::Lost(_) => TurnedAway::TooSlow,
    }
}

/// Why an invite is over.
#[derive(Debug)]
enum End {
    Refused(Refusal),
    Done,
    Withdrawn,
}

impl End {
    fn code(&self) -> quinn::VarInt {
        match self {
            Self::Refused(refusal) => TurnedAway::from(*refusal).code(),
            Self::Done => DONE,
            Self::Withdrawn => TurnedAway::Withdrawn.code(),
        }
    }
}

impl Shared {
    /// Looks at the book-keeping; the lock of failures is always taken inside the invite's.
    fn with<T>(&self, look: impl FnOnce(&mut Invite, &PairingLock, Duration) -> T) -> T {
        let now = (self.config.uptime)();
        look(&mut self.invite.lock().unwrap_or_else(PoisonError::into_inner), &self.lock, now)
    }

    fn begin(self: &Shared, joiner: DeviceId, hello: &Hello) -> Result<Attempt<'_>, TurnedAway> {
        self.with(|invite, lock, now| lock.with(|lock| invite.begin(lock, now, joiner, hello.invite)))?;
        Ok(Attempt { shared: self, joiner, is_proven: false })
    }

    fn answer(
        &self,
        connection: &quinn::Connection,
        joiner: DeviceId,
        hello: &Hello,
    ) -> Result<(Inviter, crate::crypto::pairing::Answer), TurnedAway> {
        let parties = Parties { inviter: self.own, joiner };
        let session = Session { parties, exported: endpoint::exported(connection, hello.invite) };
        #[cfg(test)]
        let session = self.config.binding.apply(session);
        let secret = self.with(|invite, _, _| invite.secret(hello.kind));
        let terms = Terms { role: self.options.role.to_byte(), scope: self.options.scope.to_string() };
        // Without entropy there is nothing to say that would be safe.
        let entropy = entropy().map_err(|_| TurnedAway::NotRecorded)?;
        Inviter::answer(session, &secret, self.options.name.clone(), terms, hello, &entropy)
            .map_err(|_| TurnedAway::Unproven)
    }

    /// Has the device recorded, once, and keeps its welcome.
    async fn enrol(
        self: &Arc<Self>,
        device: DeviceId,
        name: &PairingName,
        phrase: Phrase,
    ) -> Result<Bytes, TurnedAway> {
        let made = self.welcome.get_or_try_init(|| self.host.enrol(device, name.as_str().to_owned())).await;
        match made {
            Ok(welcome) => {
                let mut enrolled = self.enrolled.lock().unwrap_or_else(PoisonError::into_inner);
                if enrolled.is_none() {
                    let name = name.clone();
                    self.tell(InviteEvent::Enrolled { device, name: name.clone() });
                    *enrolled = Some(Enrolled { device, name, phrase, delivery: Delivery::Unconfirmed });
                }
                Ok(welcome.clone())
            }
            Err(error) => {
                self.tell(InviteEvent::EnrolFailed { device, error });
                Err(TurnedAway::NotRecorded)
            }
        }
    }

    fn receipted(&self, phrase: Phrase) {
        let mut enrolled = self.enrolled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(enrolled) = &mut *enrolled {
            enrolled.delivery = Delivery::Receipted;
            enrolled.phrase = phrase;
        }
        self.changed.notify_one();
    }

    /// Whether it is over.
    fn end(&self) -> Option<End> {
        let is_receipted = {
            let enrolled = self.enrolled.lock().unwrap_or_else(PoisonError::into_inner);
            enrolled.as_ref().is_some_and(|enrolled| enrolled.delivery == Delivery::Receipted)
        };
        if is_receipted {
            return Some(End::Done);
        }
        let (standing, locked) =
            self.with(|invite, lock, now| (invite.standing(now), lock.with(|lock| lock.check(now).err())));
        match (standing, locked) {
            (Standing::Expired, _) => Some(End::Refused(Refusal::Expired)),
            (Standing::Taken(_), _) => None,
            (Standing::Open { .. } | Standing::Burnt, Some(locked)) => Some(End::Refused(locked)),
            (Standing::Burnt, None) => Some(End::Refused(Refusal::Burnt)),
            (Standing::Open { .. }, None) => None,
        }
    }

    fn last_event(&self, end: &End) -> Option<InviteEvent> {
        let enrolled = self.enrolled.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (enrolled, end) {
            (Some(Enrolled { device, name, phrase, delivery }), _) => {
                Some(InviteEvent::Paired { device, name, phrase, delivery })
            }
            (None, End::Refused(reason)) => Some(InviteEvent::Ended { reason: *reason }),
            (None, End::Done | End::Withdrawn) => None,
        }
    }

    /// How long until the clock is looked at: it may have run on while the machine slept.
    fn look_again(&self) -> Duration {
        self.with(|invite, _, now| invite.remaining(now)).min(LOOK_AT_CLOCK)
    }

    fn tell(&self, event: InviteEvent) {
        // The queue holds more than the attempts of an invite can give rise to.
        let _ = self.events.try_send(event);
    }
}

/// A counted attempt: failed unless it says otherwise before it is dropped.
struct Attempt<'a> {
    shared: &'a Shared,
    joiner: DeviceId,
    is_proven: bool,
}

impl Attempt<'_> {
    fn proven(mut self) -> Result<(), TurnedAway> {
        self.is_proven = true;
        self.shared.with(|invite, _, now| invite.proven(now, self.joiner)).map_err(TurnedAway::from)
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.is_proven {
            return;
        }
        let standing = self.shared.with(|invite, lock, now| {
            lock.with(|lock| invite.failed(lock, now));
            invite.standing(now)
        });
        match standing {
            Standing::Open { attempts_left } => {
                self.shared.tell(InviteEvent::AttemptFailed { attempts_left })
            }
            Standing::Burnt => self.shared.tell(InviteEvent::AttemptFailed { attempts_left: 0 }),
            Standing::Taken(_) | Standing::Expired => {}
        }
        self.shared.changed.notify_one();
    }
}

/// The addresses at which a joiner may reach `local`, for the link.
fn reachable(local: SocketAddr, rules: &InterfaceRules, loopback: Loopback) -> Vec<SocketAddr> {
    if !local.ip().is_unspecified() {
        return vec![local];
    }
    let Ok(interfaces) = if_addrs::get_if_addrs() else { return Vec::new() };
    let is_useful = |ip: &IpAddr| match ip {
        IpAddr::V4(_) => true,
        // A link-local address means nothing without the joiner's own name of the link.
        IpAddr::V6(v6) => local.is_ipv6() && !v6.is_unicast_link_local(),
    };
    let mut addresses: Vec<_> = interfaces
        .iter()
        .filter(|interface| rules.permit(&interface.name))
        .filter(|interface| !interface.is_loopback() || loopback == Loopback::Use)
        .map(if_addrs::Interface::ip)
        .filter(is_useful)
        .map(|ip| SocketAddr::new(ip, local.port()))
        .collect();
    addresses.sort();
    addresses.truncate(ADDRESSES_MAX);
    addresses
}

/// The wall clock at the end of an invite, in Unix seconds.
fn expires_at(ttl: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_add(ttl).as_secs()
}

/// Connections at once: one person with one device, and somebody in the way.
pub(super) const CONNECTIONS_MAX: usize = 4;

/// More than the attempts and repeats of an invite.
const EVENTS_QUEUED: usize = 64;

/// How often the clock that counts sleep is looked at.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(1);

/// How long closes are repeated to whoever missed them.
const LINGER: Duration = Duration::from_millis(500);

/// How long an invite that was just used may take to end.
const SPENT_WITHIN: Duration = Duration::from_secs(1);

/// How long [`OpenInvite::end`] waits.
const STOP_WITHIN: Duration = Duration::from_secs(2);
