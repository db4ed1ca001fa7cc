//! Two devices and some adversaries over the loopback interface.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quinn::{Connection, Endpoint};
use tokio_util::task::TaskTracker;

use super::super::tls::Credentials;
use super::frames::{Broken, Frames, ended};
use super::*;
use crate::crypto::identity::Identity;
use crate::crypto::pairing::{
    Answer, Code, Confirm, Hello, InviteId, Inviter, Joiner, PairingName, Parties, Refusal, Secret, Session,
    TTL, Terms,
};
use crate::model::Scope;
use crate::roster::Role;
use crate::wire::PairFrame;

mod adversaries;
mod healing;
mod strangers;

/// Whether the transcript is bound to keys and connection. Only a test can leave that out, to show
/// what the binding is there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Binding {
    #[default]
    Full,
    Nothing,
}

impl Binding {
    pub(super) fn apply(self, session: Session) -> Session {
        match self {
            Self::Full => session,
            Self::Nothing => {
                let nobody = DeviceId::from_bytes([0; 32]);
                Session { parties: Parties { inviter: nobody, joiner: nobody }, exported: [0; 32] }
            }
        }
    }
}

#[tokio::test]
async fn a_typed_code_pairs_two_devices() {
    let mut inviter = Inviting::open(config()).await;

    let joined = inviter.join(JOINER).await.unwrap();

    assert_eq!(joined.inviter, device(INVITER));
    assert_eq!(joined.inviter_name.as_str(), "laptop");
    assert_eq!((joined.role, &joined.scope), (Role::Admin, &Scope::Personal));
    assert_eq!(joined.address, Some(SocketAddr::new(inviter.address().ip(), MEMBER_PORT)));
    assert_eq!(&joined.welcome[..], WELCOME);
    let phrase = joined.phrase;
    let Some(InviteEvent::Enrolled { device: enrolled, name }) = inviter.open.next().await else { panic!() };
    assert_eq!((enrolled, name.as_str()), (device(JOINER), "desk"));
    assert_eq!(inviter.host.enrolled(), [(device(JOINER), "desk".to_owned())]);
    joined.receipt.send().await;
    let Some(InviteEvent::Paired { device: paired, phrase: shown, delivery, .. }) = inviter.open.next().await
    else {
        panic!()
    };
    assert_eq!((paired, shown, delivery), (device(JOINER), phrase, Delivery::Receipted));
    assert!(inviter.open.next().await.is_none());
    inviter.open.end().await;
}

#[tokio::test]
async fn a_link_pairs_two_devices_and_names_its_owner() {
    let inviter = Inviting::open(config()).await;
    let text = inviter.open.link().to_text();
    let options = JoinOptions { target: Target::Link(text.parse().unwrap()), ..inviter.options() };

    let joined = join_as(JOINER, config(), JoinOptions { addresses: Vec::new(), ..options }).await.unwrap();

    assert_eq!(joined.inviter, device(INVITER));
    joined.receipt.send().await;
}

#[tokio::test]
async fn devices_on_one_network_find_each_other_by_the_code_alone() {
    if !super::super::tests::discovery::multicast_is_available() {
        eprintln!("skipped: this machine has no multicast on loopback");
        return;
    }
    let heard = PairConfig { mdns: Mdns::On { loopback: Loopback::Use }, mdns_port: 45_355, ..config() };
    let inviter = Inviting::open(heard.clone()).await;
    let options = JoinOptions { addresses: Vec::new(), ..inviter.options() };

    let joined = join_as(JOINER, heard, options).await.unwrap();

    assert_eq!(joined.inviter, device(INVITER));
    joined.receipt.send().await;
    inviter.open.end().await;
}

#[tokio::test]
async fn a_welcome_as_long_as_any_arrives() {
    let welcome = vec![7; crate::wire::welcome::WELCOME_BYTES_MAX];
    let host = Arc::new(Recorder { welcome: welcome.clone().into(), ..Recorder::default() });
    let inviter = Inviting::open_with(config(), host, PairingLock::default()).await;

    let joined = inviter.join(JOINER).await.unwrap();

    assert!(joined.welcome[..] == welcome);
    joined.receipt.send().await;
}

#[tokio::test]
async fn progress_is_told_in_order() {
    let inviter = Inviting::open(config()).await;
    let steps = Mutex::new(Vec::new());
    let identity = identity(JOINER);

    let told = |step| steps.lock().unwrap().push(step);
    let joined = join(&identity, config(), inviter.options(), told).await.unwrap();

    let steps = steps.into_inner().unwrap();
    let [JoinStep::Looking, JoinStep::Found { address }, JoinStep::Checking, JoinStep::Receiving { .. }] =
        steps[..]
    else {
        panic!("{steps:?}")
    };
    assert_eq!(address, inviter.address());
    drop(joined);
}

#[tokio::test]
async fn a_withdrawn_invite_closes_its_port() {
    let inviter = Inviting::open(config()).await;
    let address = inviter.address();

    inviter.open.end().await;

    std::net::UdpSocket::bind(address).expect("the port is free again");
}

const INVITER: u8 = 1;
const JOINER: u8 = 2;
const RELAY: u8 = 3;
const OTHER: u8 = 4;
const WELCOME: &[u8] = b"records and keys";
const MEMBER_PORT: u16 = 4_433;

/// Records who is enrolled, and refuses when told to.
pub(super) struct Recorder {
    enrolled: Mutex<Vec<(DeviceId, String)>>,
    welcome: Bytes,
    refuses: AtomicBool,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            enrolled: Mutex::new(Vec::new()),
            welcome: Bytes::from_static(WELCOME),
            refuses: AtomicBool::new(false),
        }
    }
}

impl Recorder {
    fn enrolled(&self) -> Vec<(DeviceId, String)> {
        self.enrolled.lock().unwrap().clone()
    }
}

impl PairHost for Recorder {
    fn enrol(&self, joiner: DeviceId, name: String) -> Enrolling<'_> {
        Box::pin(async move {
            if self.refuses.load(Ordering::SeqCst) {
                return Err(EnrolError(Box::new(std::io::Error::from(std::io::ErrorKind::StorageFull))));
            }
            self.enrolled.lock().unwrap().push((joiner, name));
            Ok(self.welcome.clone())
        })
    }

    fn port(&self) -> Option<u16> {
        Some(MEMBER_PORT)
    }
}

/// An inviter as a test sees it.
struct Inviting {
    open: OpenInvite,
    host: Arc<Recorder>,
}

impl Inviting {
    async fn open(config: PairConfig) -> Self {
        Self::open_with(config, Arc::new(Recorder::default()), PairingLock::default()).await
    }

    async fn open_with(config: PairConfig, host: Arc<Recorder>, lock: PairingLock) -> Self {
        let options = invite_options();
        let open = open_invite(&identity(INVITER), config, lock, options, host.clone()).await;
        Self { open: open.expect("loopback is there"), host }
    }

    fn address(&self) -> SocketAddr {
        self.open.link().addresses[0]
    }

    fn secret(&self) -> Secret {
        self.open.code().secret()
    }

    fn options(&self) -> JoinOptions {
        JoinOptions {
            name: name("desk"),
            target: Target::Code(self.open.code().clone()),
            addresses: vec![self.address()],
        }
    }

    /// The right invite and a wrong secret.
    fn mistyped(&self) -> JoinOptions {
        JoinOptions { target: Target::Code(mistyped(self.open.code())), ..self.options() }
    }

    async fn join(&self, seed: u8) -> Result<Joined, JoinError> {
        join_as(seed, config(), self.options()).await
    }

    /// The next event, which a failed attempt is.
    async fn attempts_left(&mut self) -> u8 {
        match self.open.next().await {
            Some(InviteEvent::AttemptFailed { attempts_left }) => attempts_left,
            other => panic!("{other:?}"),
        }
    }

    async fn ended(&mut self) -> Refusal {
        match self.open.next().await {
            Some(InviteEvent::Ended { reason }) => reason,
            other => panic!("{other:?}"),
        }
    }
}

fn invite_options() -> InviteOptions {
    InviteOptions { role: Role::Admin, scope: Scope::Personal, name: name("laptop"), ttl: TTL }
}

async fn join_as(seed: u8, config: PairConfig, options: JoinOptions) -> Result<Joined, JoinError> {
    join(&identity(seed), config, options, |_| {}).await
}

/// A joiner's end that does only what the test says.
struct Raw {
    device: DeviceId,
    connection: Connection,
    frames: Frames,
    endpoint: Endpoint,
}

impl Raw {
    async fn connect(seed: u8, address: SocketAddr) -> Result<Self, Broken> {
        let identity = identity(seed);
        let endpoint = endpoint::dialer(&config(), TaskTracker::new()).unwrap();
        let (client, _) = endpoint::client(&Credentials::new(&identity).unwrap(), None).unwrap();
        let connection = endpoint.connect_with(client, address, "kinfold").unwrap().await.map_err(ended)?;
        let (send, receive) = connection.open_bi().await.map_err(ended)?;
        Ok(Self { device: identity.device(), connection, frames: Frames { send, receive }, endpoint })
    }

    fn session(&self, inviter: DeviceId, invite: InviteId) -> Session {
        let parties = Parties { inviter, joiner: self.device };
        Session { parties, exported: endpoint::exported(&self.connection, invite) }
    }

    /// Begins the exchange with the secret of `inviting`.
    fn start(&self, inviting: &Inviting) -> (Joiner, Hello) {
        let code = inviting.open.code();
        let session = self.session(device(INVITER), code.invite());
        Joiner::start(session, code.invite(), &inviting.secret(), name("desk"), &super::entropy().unwrap())
    }

    /// Runs the exchange up to the answer.
    async fn hello(&mut self, inviting: &Inviting) -> Result<(Joiner, Answer), Broken> {
        let (joiner, hello) = self.start(inviting);
        self.frames.write(&PairFrame::Hello(hello)).await?;
        match self.frames.read().await? {
            PairFrame::Answer(answer) => Ok((joiner, answer)),
            other => panic!("{other:?}"),
        }
    }

    /// Why the other side closed.
    async fn closed(&self) -> TurnedAway {
        match ended(self.connection.closed().await) {
            Broken::TurnedAway(reason) => reason,
            other => panic!("{other:?}"),
        }
    }
}

/// An inviter's end that does only what the test says.
struct Fake {
    endpoint: Endpoint,
    code: Code,
    seed: u8,
}

impl Fake {
    fn listen(seed: u8) -> Self {
        let credentials = Credentials::new(&identity(seed)).unwrap();
        let endpoint = endpoint::listen(&credentials, &config(), TaskTracker::new()).unwrap();
        Self { endpoint, code: "7QK-014-XYZ".parse().unwrap(), seed }
    }

    fn options(&self) -> JoinOptions {
        let addresses = vec![self.endpoint.local_addr().unwrap()];
        JoinOptions { name: name("desk"), target: Target::Code(self.code.clone()), addresses }
    }

    /// The next connection that says something: a joiner hangs up at once on whom it turned down.
    async fn accept(&self) -> (Connection, Frames, Hello) {
        let (connection, (send, receive)) = loop {
            let connection = self.endpoint.accept().await.unwrap().await.unwrap();
            if let Ok(stream) = connection.accept_bi().await {
                break (connection, stream);
            }
        };
        let mut frames = Frames { send, receive };
        let PairFrame::Hello(hello) = frames.read().await.unwrap() else { panic!() };
        (connection, frames, hello)
    }

    fn answer(&self, connection: &Connection, hello: &Hello, terms: Terms) -> (Inviter, Answer) {
        let joiner = endpoint::authenticated(connection).unwrap();
        let parties = Parties { inviter: device(self.seed), joiner };
        let session = Session { parties, exported: endpoint::exported(connection, hello.invite) };
        Inviter::answer(session, &self.code.secret(), name("laptop"), terms, hello, &[9; 32]).unwrap()
    }
}

fn terms() -> Terms {
    Terms { role: 1, scope: "personal".to_owned() }
}

fn mistyped(code: &Code) -> Code {
    let text = code.to_text();
    let last = if text.ends_with('Z') { "Y" } else { "Z" };
    format!("{}{last}", &text[..10]).parse().unwrap()
}

fn config() -> PairConfig {
    let net =
        NetConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), mdns: Mdns::Off, ..NetConfig::default() };
    PairConfig::new(&net, || Duration::from_secs(1_000))
}

fn limited(change: impl FnOnce(&mut PairLimits)) -> PairConfig {
    let mut config = config();
    change(&mut config.limits);
    config
}

fn name(text: &str) -> PairingName {
    text.parse().unwrap()
}

fn identity(seed: u8) -> Identity {
    Identity::from_secret(&[seed; 32])
}

fn device(seed: u8) -> DeviceId {
    identity(seed).device()
}

/// Short, for the cases that have to wait it out.
const HASTE: Duration = Duration::from_millis(300);
