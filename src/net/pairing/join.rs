//! The side that types the code.
//!
//! Looks for the inviter, talks to whoever answers first, and goes on where a connection is lost:
//! the same device may run the exchange again and gets the same welcome. Whoever answers under the
//! right id without knowing the secret costs one of [`RIVALS_MAX`] runs and learns nothing.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use quinn::{Connection, ConnectionError, Endpoint};
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::TaskTracker;
use tracing::{debug, info};
use zeroize::Zeroizing;

use super::super::NetError;
use super::super::tls::Credentials;
use super::close::{DONE, TurnedAway};
use super::discovery::Browser;
use super::endpoint;
use super::frames::{Broken, Frames};
use super::link::Link;
use super::{PairConfig, PairLimits, entropy};
use crate::crypto::identity::Identity;
use crate::crypto::pairing::{
    Code, InviteId, Joiner, PairingError, PairingName, Parties, Phrase, Secret, Session, Terms,
};
use crate::crypto::vault::VaultError;
use crate::model::{Blame, DeviceId, Scope};
use crate::roster::Role;
use crate::wire::{PairFrame, PairFrameError};

/// A pairing that did not come about.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Nobody with this invite was found.
    #[error("no device with this invite answered within {} seconds", .within.as_secs())]
    NotFound {
        /// How long was looked.
        within: Duration,
    },
    /// The link is this very device's own.
    #[error("this invite is this device's own; join with it on the other device")]
    Itself,
    /// The link's time is over and nobody answered.
    #[error("the invite has expired; make a new one on the other device")]
    Expired,
    /// The other device ended it.
    #[error(transparent)]
    TurnedAway(#[from] TurnedAway),
    /// The other device did not prove the secret.
    #[error(transparent)]
    Unproven(#[from] PairingError),
    /// The other device sent what this version cannot read.
    #[error("the other device sent a frame that is refused")]
    Frame(#[from] PairFrameError),
    /// The other device sent frames out of turn.
    #[error("the other device broke the order of the exchange; update the older one")]
    OutOfTurn,
    /// The other device grants what this version does not know.
    #[error("the other device grants role {role} in {scope:?}, which this version does not know")]
    Terms {
        /// The role's byte.
        role: u8,
        /// The space's text.
        scope: String,
    },
    /// The welcome does not open.
    #[error("the welcome of the other device does not open")]
    Welcome(#[source] VaultError),
    /// The connection was lost again and again.
    #[error("the connection to the other device was lost; try again, closer to it or on another network")]
    Lost(#[source] ConnectionError),
    /// The other device did not go on.
    #[error("the other device did not answer in time; try again")]
    TimedOut,
    /// The network cannot be used.
    #[error("the network cannot be used for pairing")]
    Net(#[from] NetError),
}

impl JoinError {
    /// Who is at fault.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::NotFound { .. } | Self::Lost(_) | Self::TimedOut => Blame::Environment,
            Self::Itself | Self::Expired => Blame::Local,
            Self::TurnedAway(reason) => reason.blame(),
            Self::Unproven(error) => error.blame(),
            Self::Frame(_) | Self::OutOfTurn | Self::Terms { .. } | Self::Welcome(_) => Blame::Peer,
            Self::Net(error) => error.blame(),
        }
    }
}

impl From<Broken> for JoinError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::TurnedAway(reason) => Self::TurnedAway(reason),
            Broken::Frame(error) => Self::Frame(error),
            Broken::OutOfTurn => Self::OutOfTurn,
            Broken::Lost(error) => Self::Lost(error),
        }
    }
}

/// What the person has in hand.
#[derive(Clone, Debug)]
pub enum Target {
    /// A typed code.
    Code(Code),
    /// A scanned or pasted link.
    Link(Link),
}

impl Target {
    fn owner(&self) -> (InviteId, Option<DeviceId>) {
        match self {
            Self::Code(code) => (code.invite(), None),
            Self::Link(link) => (link.invite, Some(link.inviter)),
        }
    }
}

/// Whom to join, and as what.
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// What the inviter's screen calls this device.
    pub name: PairingName,
    /// The code or the link.
    pub target: Target,
    /// Where to look beside discovery and the link.
    pub addresses: Vec<SocketAddr>,
}

/// How far a pairing has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum JoinStep {
    /// Looking for the inviter.
    Looking,
    /// Somebody answers; whether it is the inviter shows in the next step.
    Found {
        /// Where.
        address: SocketAddr,
    },
    /// Both sides prove the code.
    Checking,
    /// The code held; the welcome arrives.
    Receiving {
        /// Bytes of it.
        bytes: u32,
    },
    /// The connection was lost, once more.
    Retrying,
}

/// A welcome, and from whom.
#[derive(Debug)]
pub struct Joined {
    /// The device that invited.
    pub inviter: DeviceId,
    /// What it calls itself.
    pub inviter_name: PairingName,
    /// What this device may do.
    pub role: Role,
    /// In which space.
    pub scope: Scope,
    /// Where the inviter listens for members, if it does.
    pub address: Option<SocketAddr>,
    /// What the inviter's screen shows too.
    pub phrase: Phrase,
    /// The welcome ([`crate::wire::Welcome`]); wiped when its last clone is dropped.
    pub welcome: Bytes,
    /// To be sent once the welcome is stored.
    pub receipt: Receipt,
}

/// The last frame of a pairing, still to be sent.
///
/// Dropping it leaves the invite open for this device until its time is over, so that a device that
/// could not store its welcome can ask again.
#[derive(Debug)]
pub struct Receipt {
    frames: Frames,
    connection: Connection,
    endpoint: Endpoint,
    drivers: TaskTracker,
}

impl Receipt {
    /// Tells the inviter that the welcome is stored, and closes; takes at most about two seconds.
    pub async fn send(mut self) {
        if self.frames.write(&PairFrame::Done).await.is_ok() {
            // The inviter closes as soon as it has read this.
            let _ = timeout(GOODBYE_WITHIN, self.connection.closed()).await;
        }
        self.connection.close(DONE, b"");
        drop((self.frames, self.connection));
        close(self.endpoint, self.drivers).await;
    }
}

/// Joins.
///
/// # Errors
/// Every variant of [`JoinError`].
pub async fn join(
    identity: &Identity,
    config: PairConfig,
    options: JoinOptions,
    progress: impl Fn(JoinStep) + Send + Sync,
) -> Result<Joined, JoinError> {
    let (invite, inviter) = options.target.owner();
    if inviter == Some(identity.device()) {
        return Err(JoinError::Itself);
    }
    let drivers = TaskTracker::new();
    let endpoint = endpoint::dialer(&config, drivers.clone())?;
    let browser = Browser::begin(&config, invite).unwrap_or_else(|error| {
        info!(%error, "nobody is looked for on the local network");
        None
    });
    let mut search = Search {
        credentials: Credentials::new(identity).map_err(NetError::Certificate)?,
        endpoint,
        inviter,
        limits: config.limits,
        known: Vec::new(),
        turned_away: BTreeSet::new(),
        browser,
    };
    search.learn(&options.addresses);
    if let Target::Link(link) = &options.target {
        search.learn(&link.addresses);
    }
    let outcome = run(&mut search, &config, &options, &progress).await;
    let Search { endpoint, browser, .. } = search;
    if let Some(browser) = browser {
        browser.end().await;
    }
    match outcome {
        Ok(Arrived { granted, welcome, frames, connection }) => {
            let Granted { inviter, inviter_name, role, scope, address, phrase } = granted;
            let receipt = Receipt { frames, connection, endpoint, drivers };
            Ok(Joined { inviter, inviter_name, role, scope, address, phrase, welcome, receipt })
        }
        Err(error) => {
            close(endpoint, drivers).await;
            Err(error)
        }
    }
}

/// Runs the exchange with whoever is found, until one of them proves itself or nobody is left.
async fn run(
    search: &mut Search,
    config: &PairConfig,
    options: &JoinOptions,
    progress: &(impl Fn(JoinStep) + Send + Sync),
) -> Result<Arrived, JoinError> {
    let mut retries = Retries::default();
    let mut last: Option<JoinError> = None;
    progress(JoinStep::Looking);
    loop {
        // Whoever turned this device away may not have been the inviter, so others are listened for.
        let within = if last.is_some() { config.limits.rivals } else { config.limits.search };
        let found = match search.next(within).await {
            Some(found) => found,
            None => return Err(last.unwrap_or_else(|| not_found(options, within))),
        };
        progress(JoinStep::Found { address: found.address });
        let mut stage = Stage::Begun;
        match attempt(&found, config, options, search.credentials.device, &mut stage, progress).await {
            Ok(arrived) => return Ok(arrived),
            Err(error) => {
                debug!(peer = ?found.device, %error, "pairing attempt ended");
                found.connection.close(code(&error), b"");
                if is_worth_a_retry(&error) && retries.may(stage) {
                    progress(JoinStep::Retrying);
                    sleep(RETRY_AFTER).await;
                    continue;
                }
                search.turned_away.insert(found.device);
                search.known.retain(|address| *address != found.address);
                if search.inviter.is_some() || search.turned_away.len() >= RIVALS_MAX {
                    return Err(error);
                }
                last = Some(error);
            }
        }
    }
}

/// How far one run of the exchange came before it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// It cost no attempt yet.
    Begun,
    /// It cost an attempt.
    Shared,
    /// The inviter may have recorded this device.
    Confirmed,
}

/// One run of the exchange over one connection.
async fn attempt(
    found: &Found,
    config: &PairConfig,
    options: &JoinOptions,
    own: DeviceId,
    stage: &mut Stage,
    progress: &(impl Fn(JoinStep) + Send + Sync),
) -> Result<Arrived, JoinError> {
    let limits = config.limits;
    let proven = prove(found, config, options, own, stage, progress);
    let proven = timeout(limits.attempt, proven).await.map_err(|_| JoinError::TimedOut)??;
    let Proven { mut frames, granted, paired, sealed_bytes } = proven;
    progress(JoinStep::Receiving { bytes: sealed_bytes });
    let length = usize::try_from(sealed_bytes).map_err(|_| JoinError::OutOfTurn)?;
    let sealed = timeout(limits.delivery, frames.read_welcome(length)).await;
    let sealed = sealed.map_err(|_| JoinError::TimedOut)??;
    let welcome = Zeroizing::new(paired.open(&sealed).map_err(JoinError::Welcome)?);
    Ok(Arrived { granted, welcome: Bytes::from_owner(welcome), frames, connection: found.connection.clone() })
}

/// Runs the exchange up to the inviter's proof.
async fn prove(
    found: &Found,
    config: &PairConfig,
    options: &JoinOptions,
    own: DeviceId,
    stage: &mut Stage,
    progress: &(impl Fn(JoinStep) + Send + Sync),
) -> Result<Proven, JoinError> {
    progress(JoinStep::Checking);
    let (invite, secret) = secret(&options.target);
    let parties = Parties { inviter: found.device, joiner: own };
    let session = Session { parties, exported: endpoint::exported(&found.connection, invite) };
    #[cfg(test)]
    let session = config.binding.apply(session);
    #[cfg(not(test))]
    let _ = config;
    let (send, receive) = found.connection.open_bi().await.map_err(super::frames::ended)?;
    let mut frames = Frames { send, receive };

    let (joiner, hello) = Joiner::start(session, invite, &secret, options.name.clone(), &entropy()?);
    frames.write(&PairFrame::Hello(hello)).await?;
    *stage = Stage::Shared;
    let PairFrame::Answer(answer) = frames.read().await? else { return Err(JoinError::OutOfTurn) };
    let (role, scope) = terms(&answer.terms)?;
    let (waiting, confirm) = joiner.answered(&answer)?;
    frames.write(&PairFrame::Confirm(confirm)).await?;
    *stage = Stage::Confirmed;
    let PairFrame::Grant { confirm, port, sealed_bytes } = frames.read().await? else {
        return Err(JoinError::OutOfTurn);
    };
    let paired = waiting.check(&confirm)?;
    let granted = Granted {
        inviter: found.device,
        inviter_name: answer.name,
        role,
        scope,
        address: listening(found.address, port),
        phrase: paired.phrase(),
    };
    Ok(Proven { frames, granted, paired, sealed_bytes })
}

/// Where the inviter listens for members: where it was reached for the pairing, zone included, at another
/// port.
const fn listening(mut reached: SocketAddr, port: u16) -> Option<SocketAddr> {
    reached.set_port(port);
    if port == 0 { None } else { Some(reached) }
}

fn secret(target: &Target) -> (InviteId, Secret) {
    match target {
        Target::Code(code) => (code.invite(), code.secret()),
        Target::Link(link) => (link.invite, link.secret()),
    }
}

fn terms(terms: &Terms) -> Result<(Role, Scope), JoinError> {
    match (Role::from_byte(terms.role), terms.scope.parse()) {
        (Some(role), Ok(scope)) => Ok((role, scope)),
        _ => Err(JoinError::Terms { role: terms.role, scope: terms.scope.chars().take(80).collect() }),
    }
}

fn not_found(options: &JoinOptions, within: Duration) -> JoinError {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    match &options.target {
        Target::Link(link) if link.expires_at < now => JoinError::Expired,
        Target::Link(_) | Target::Code(_) => JoinError::NotFound { within },
    }
}

/// What the inviter is told where this side ends it.
fn code(error: &JoinError) -> quinn::VarInt {
    match error {
        JoinError::Frame(error) => TurnedAway::from(error).code(),
        JoinError::OutOfTurn | JoinError::Terms { .. } | JoinError::Welcome(_) => {
            TurnedAway::Violation.code()
        }
        JoinError::TimedOut => TurnedAway::TooSlow.code(),
        JoinError::Unproven(_) => TurnedAway::Unproven.code(),
        JoinError::NotFound { .. }
        | JoinError::Itself
        | JoinError::Expired
        | JoinError::TurnedAway(_)
        | JoinError::Lost(_)
        | JoinError::Net(_) => TurnedAway::Withdrawn.code(),
    }
}

/// Whether the same device may answer differently a moment later.
const fn is_worth_a_retry(error: &JoinError) -> bool {
    matches!(
        error,
        JoinError::Lost(_)
            | JoinError::TimedOut
            | JoinError::TurnedAway(TurnedAway::Busy | TurnedAway::TooSlow)
    )
}

/// How often a lost exchange is begun again, by what that costs.
#[derive(Default)]
struct Retries {
    free: u8,
    costly: u8,
}

impl Retries {
    /// Counts a retry after a run that ended at `stage`.
    const fn may(&mut self, stage: Stage) -> bool {
        match stage {
            // The invite has three attempts, and the person may yet mistype.
            Stage::Shared => {
                self.costly += 1;
                self.costly <= 1
            }
            Stage::Begun | Stage::Confirmed => {
                self.free += 1;
                self.free <= RETRIES_MAX
            }
        }
    }
}

struct Granted {
    inviter: DeviceId,
    inviter_name: PairingName,
    role: Role,
    scope: Scope,
    address: Option<SocketAddr>,
    phrase: Phrase,
}

struct Proven {
    frames: Frames,
    granted: Granted,
    paired: crate::crypto::pairing::Paired,
    sealed_bytes: u32,
}

struct Arrived {
    granted: Granted,
    welcome: Bytes,
    frames: Frames,
    connection: Connection,
}

/// Somebody who answered.
struct Found {
    connection: Connection,
    device: DeviceId,
    address: SocketAddr,
}

/// Where the inviter may be, and who has turned out not to be it.
struct Search {
    credentials: Credentials,
    endpoint: Endpoint,
    inviter: Option<DeviceId>,
    limits: PairLimits,
    known: Vec<SocketAddr>,
    turned_away: BTreeSet<DeviceId>,
    browser: Option<Browser>,
}

impl Search {
    /// Keeps new addresses; answers with them.
    fn learn(&mut self, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut new = Vec::new();
        for address in addresses {
            if self.known.len() < ADDRESSES_MAX && !self.known.contains(address) {
                self.known.push(*address);
                new.push(*address);
            }
        }
        new
    }

    /// Races all addresses, those heard meanwhile too; the first device that was not turned away
    /// wins. `None` once the time is over, or nothing is left to wait for.
    async fn next(&mut self, within: Duration) -> Option<Found> {
        let deadline = Instant::now() + within;
        let mut dials = JoinSet::new();
        for (index, address) in (0u32..).zip(self.known.clone()) {
            self.dial(&mut dials, address, STAGGER * index);
        }
        while self.browser.is_some() || !dials.is_empty() {
            tokio::select! {
                // Losing the race loses nothing: events, finished dials and time are kept.
                heard = next_heard(&mut self.browser) => match heard {
                    Some(addresses) => {
                        for (index, address) in (0u32..).zip(self.learn(&addresses)) {
                            self.dial(&mut dials, address, STAGGER * index);
                        }
                    }
                    None => self.browser = None,
                },
                Some(found) = dials.join_next() => match found {
                    Ok(Some(found)) if !self.turned_away.contains(&found.device) => return Some(found),
                    Ok(Some(found)) => found.connection.close(TurnedAway::Withdrawn.code(), b""),
                    Ok(None) | Err(_) => {}
                },
                () = sleep_until(deadline) => return None,
            }
        }
        None
    }

    /// Dials one address after `delay`, again and again: the inviter's screen may not be there yet.
    fn dial(&self, dials: &mut JoinSet<Option<Found>>, address: SocketAddr, delay: Duration) {
        // The same parts made the endpoint; a profile that is not available fails there.
        let Ok((config, verdict)) = endpoint::client(&self.credentials, self.inviter) else { return };
        let (endpoint, handshake) = (self.endpoint.clone(), self.limits.handshake);
        dials.spawn(async move {
            sleep(delay).await;
            loop {
                let connecting = endpoint.connect_with(config.clone(), address, SERVER_NAME).ok()?;
                match timeout(handshake, connecting).await {
                    Ok(Ok(connection)) => {
                        let device = endpoint::authenticated(&connection)?;
                        return Some(Found { connection, device, address });
                    }
                    // Another device answers there, or this very one.
                    Ok(Err(_)) if verdict.get().is_some() => return None,
                    Ok(Err(error)) => debug!(%address, %error, "pairing dial failed"),
                    Err(_) => debug!(%address, "pairing dial timed out"),
                }
                sleep(REDIAL_AFTER).await;
            }
        });
    }
}

/// What the browser hears next; waits for ever where there is none.
async fn next_heard(browser: &mut Option<Browser>) -> Option<Vec<SocketAddr>> {
    match browser {
        Some(browser) => browser.next().await,
        None => std::future::pending().await,
    }
}

async fn close(endpoint: Endpoint, drivers: TaskTracker) {
    endpoint.close(DONE, b"");
    let closed = async {
        endpoint.wait_idle().await;
        drop(endpoint);
        drivers.close();
        drivers.wait().await;
    };
    // A dial that nobody answered drains for seconds; nobody waits for its goodbye.
    let _ = timeout(LINGER, closed).await;
}

/// Names mean nothing here; the API wants one.
const SERVER_NAME: &str = "kinfold";

/// Addresses tried; a flood of announcements stops here.
const ADDRESSES_MAX: usize = 32;

/// Devices that may answer under the invite's id without being its owner. Each has one guess.
const RIVALS_MAX: usize = 3;

/// Between the dials of two addresses of one race.
const STAGGER: Duration = Duration::from_millis(100);

/// Between two dials of one address.
const REDIAL_AFTER: Duration = Duration::from_secs(1);

/// Retries that cost no attempt.
const RETRIES_MAX: u8 = 8;

/// Before an exchange is begun again.
const RETRY_AFTER: Duration = Duration::from_millis(300);

/// How long the inviter's close may take to arrive.
const GOODBYE_WITHIN: Duration = Duration::from_secs(2);

/// How long this side's closes are repeated to whoever missed them.
const LINGER: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inviter_of_a_cable_keeps_its_zone() {
        let reached: SocketAddr = "[fe80::1%3]:9".parse().expect("literal");

        assert_eq!(listening(reached, 4_433), Some("[fe80::1%3]:4433".parse().expect("literal")));
        assert_eq!(listening(reached, 0), None, "it does not listen for members");
    }
}
