//! The exchange itself, both sides as values: bytes in, bytes out. See the module above for what is
//! hashed.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use spake2::rand_core::{TryCryptoRng, TryRng};
use spake2::{Ed25519Group, Identity as SpakeIdentity, Password, Spake2};
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use super::code::{InviteId, Secret, SecretKind};
use super::phrase::Phrase;
use crate::crypto::vault;
use crate::model::limits::NAME_BYTES_MAX;
use crate::model::{Blame, DeviceId};

/// The version of the exchange that this module speaks.
pub const VERSION: u8 = 1;

/// An exchange that ended without a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PairingError {
    /// What was sent as a SPAKE2 share is none.
    #[error("the other side's key share is malformed")]
    Share,
    /// The other side does not know the secret, or is not the one at the end of this connection.
    #[error("the other side did not prove the code: it was mistyped, or somebody is in between")]
    Unproven,
}

impl PairingError {
    /// Who is at fault.
    pub const fn blame(&self) -> Blame {
        Blame::Peer
    }
}

/// Text that is no name to show on another device's screen.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// Empty, or longer than [`NAME_BYTES_MAX`].
    #[error("a device name has 1 to {limit} bytes, this one has {found}")]
    Length {
        /// Bytes found.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A control character, or one that changes the direction of what follows it.
    #[error("a device name has no control character such as {found:?}")]
    Control {
        /// The character.
        found: char,
    },
}

/// A device's name as its pairing partner shows it: nothing in it can move a cursor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PairingName(String);

impl PairingName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl FromStr for PairingName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > NAME_BYTES_MAX {
            return Err(NameError::Length { found: text.len(), limit: NAME_BYTES_MAX });
        }
        match text.chars().find(|character| is_misleading(*character)) {
            Some(found) => Err(NameError::Control { found }),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for PairingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Control characters, line and paragraph separators, bidirectional overrides and invisible ones.
fn is_misleading(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The two devices, each by the key that its TLS certificate proved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parties {
    /// The one with the code on its screen.
    pub inviter: DeviceId,
    /// The one that types it.
    pub joiner: DeviceId,
}

/// The connection that an exchange runs over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Who is at its ends.
    pub parties: Parties,
    /// What TLS exports for it: equal at both ends of one connection, and nowhere else.
    pub exported: [u8; 32],
}

/// What the inviter grants: part of the transcript, so nobody in between can change it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The role, as its byte in roster records.
    pub role: u8,
    /// The space, as its scope's text.
    pub scope: String,
}

/// The joiner's first frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Which invite it means.
    pub invite: InviteId,
    /// Which of its secrets it knows.
    pub kind: SecretKind,
    /// Fresh bytes.
    pub nonce: [u8; 32],
    /// What it calls itself.
    pub name: PairingName,
    /// `pA`.
    pub share: [u8; SHARE_BYTES],
}

/// The inviter's first frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Fresh bytes.
    pub nonce: [u8; 32],
    /// What it calls itself.
    pub name: PairingName,
    /// What it grants.
    pub terms: Terms,
    /// `pB`.
    pub share: [u8; SHARE_BYTES],
}

/// One side's proof that it has the key.
#[derive(Clone, Copy)]
pub struct Confirm([u8; Self::BYTES]);

impl Confirm {
    /// Bytes of a proof.
    pub const BYTES: usize = 32;

    /// Takes the bytes that arrived.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes to send.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    fn check(&self, expected: &Self) -> Result<(), PairingError> {
        if bool::from(self.0.ct_eq(&expected.0)) { Ok(()) } else { Err(PairingError::Unproven) }
    }
}

impl fmt::Debug for Confirm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Confirm(..)")
    }
}

/// The joiner that said hello.
pub struct Joiner {
    spake: Spake2<Ed25519Group>,
    session: Session,
    hello: Hello,
}

impl Joiner {
    /// Begins: the hello goes to the other side, once.
    pub fn start(
        session: Session,
        invite: InviteId,
        secret: &Secret,
        name: PairingName,
        entropy: &[u8; 32],
    ) -> (Self, Hello) {
        let mut random = Expanded::new(entropy);
        let nonce = random.array();
        let (ours, theirs) = identities(&session.parties);
        let password = Password::new(secret.password(invite).as_slice());
        let (spake, share) = Spake2::start_a_with_rng(&password, &ours, &theirs, random);
        let hello = Hello { invite, kind: secret.kind(), nonce, name, share: share_bytes(share) };
        (Self { spake, session, hello: hello.clone() }, hello)
    }

    /// Takes the answer; the confirm goes to the other side, whose own is then awaited.
    ///
    /// # Errors
    /// [`PairingError::Share`].
    pub fn answered(self, answer: &Answer) -> Result<(Waiting, Confirm), PairingError> {
        let shared = finish(self.spake, &answer.share)?;
        let keys = Keys::derive(&shared, &transcript(&self.session, &self.hello, answer));
        let ours = keys.confirm(JOINER_CONFIRMS);
        Ok((Waiting(keys), ours))
    }
}

impl fmt::Debug for Joiner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Joiner({:?})", self.session.parties)
    }
}

/// The joiner that has confirmed and awaits the inviter's confirm.
pub struct Waiting(Keys);

impl Waiting {
    /// Checks the inviter's confirm.
    ///
    /// # Errors
    /// [`PairingError::Unproven`].
    pub fn check(self, theirs: &Confirm) -> Result<Paired, PairingError> {
        theirs.check(&self.0.confirm(INVITER_CONFIRMS))?;
        Ok(Paired(self.0))
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiting(..)")
    }
}

/// The inviter that answered and awaits the joiner's confirm.
pub struct Inviter(Keys);

impl Inviter {
    /// Answers a hello, of which the attempt must have been counted already.
    ///
    /// # Errors
    /// [`PairingError::Share`].
    pub fn answer(
        session: Session,
        secret: &Secret,
        name: PairingName,
        terms: Terms,
        hello: &Hello,
        entropy: &[u8; 32],
    ) -> Result<(Self, Answer), PairingError> {
        let mut random = Expanded::new(entropy);
        let nonce = random.array();
        let (theirs, ours) = identities(&session.parties);
        let password = Password::new(secret.password(hello.invite).as_slice());
        let (spake, share) = Spake2::start_b_with_rng(&password, &theirs, &ours, random);
        let answer = Answer { nonce, name, terms, share: share_bytes(share) };
        let shared = finish(spake, &hello.share)?;
        Ok((Self(Keys::derive(&shared, &transcript(&session, hello, &answer))), answer))
    }

    /// Checks the joiner's confirm; the one returned goes to it once it is enrolled.
    ///
    /// # Errors
    /// [`PairingError::Unproven`]. Nothing may be sent then.
    pub fn check(self, theirs: &Confirm) -> Result<(Paired, Confirm), PairingError> {
        theirs.check(&self.0.confirm(JOINER_CONFIRMS))?;
        let ours = self.0.confirm(INVITER_CONFIRMS);
        Ok((Paired(self.0), ours))
    }
}

impl fmt::Debug for Inviter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inviter(..)")
    }
}

/// Evidence that the device at the other end of the connection knows the secret.
pub struct Paired(Keys);

impl Paired {
    /// What both screens show.
    pub fn phrase(&self) -> Phrase {
        let hash = self.0.keyed(b"phrase");
        Phrase::new(*hash.first_chunk().expect("a hash is longer"))
    }

    /// Seals the welcome for the other side. `salt` must be fresh.
    pub fn seal(&self, welcome: &[u8], salt: &[u8; 32]) -> Vec<u8> {
        vault::seal(&self.0.keyed(WELCOME_KEY), WELCOME_CONTEXT, salt, welcome)
    }

    /// Opens the welcome that the other side sealed.
    ///
    /// # Errors
    /// Every variant of [`vault::VaultError`].
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, vault::VaultError> {
        vault::open(&self.0.keyed(WELCOME_KEY), WELCOME_CONTEXT, sealed)
    }
}

impl fmt::Debug for Paired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Paired(..)")
    }
}

/// `K`, and what is derived from it.
struct Keys(Zeroizing<[u8; 32]>);

impl Keys {
    fn derive(shared: &[u8], transcript: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("kinfold pair v1");
        hasher.update(shared);
        hasher.update(transcript);
        Self(Zeroizing::new(*hasher.finalize().as_bytes()))
    }

    fn keyed(&self, label: &[u8]) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(*blake3::keyed_hash(&self.0, label).as_bytes())
    }

    fn confirm(&self, label: &[u8]) -> Confirm {
        Confirm(*self.keyed(label))
    }
}

fn transcript(session: &Session, hello: &Hello, answer: &Answer) -> Vec<u8> {
    let Session { parties, exported } = session;
    let parts: [&[u8]; 14] = [
        &[VERSION],
        hello.invite.as_bytes(),
        &[hello.kind.to_byte()],
        parties.inviter.as_bytes(),
        parties.joiner.as_bytes(),
        exported,
        &hello.nonce,
        &answer.nonce,
        hello.name.as_str().as_bytes(),
        answer.name.as_str().as_bytes(),
        &hello.share,
        &answer.share,
        &[answer.terms.role],
        answer.terms.scope.as_bytes(),
    ];
    let mut transcript = Vec::new();
    for part in parts {
        let length = u32::try_from(part.len()).expect("parts come from frames of a few kilobytes");
        transcript.extend_from_slice(&length.to_be_bytes());
        transcript.extend_from_slice(part);
    }
    transcript
}

fn finish(
    spake: Spake2<Ed25519Group>,
    theirs: &[u8; SHARE_BYTES],
) -> Result<Zeroizing<Vec<u8>>, PairingError> {
    spake.finish(theirs).map(Zeroizing::new).map_err(|_| PairingError::Share)
}

/// The joiner as A, the inviter as B.
fn identities(parties: &Parties) -> (SpakeIdentity, SpakeIdentity) {
    (SpakeIdentity::new(parties.joiner.as_bytes()), SpakeIdentity::new(parties.inviter.as_bytes()))
}

fn share_bytes(share: Vec<u8>) -> [u8; SHARE_BYTES] {
    share.try_into().expect("a share of this group is a side and a point")
}

/// As many random bytes as are asked for, out of 32: the output of BLAKE3 in its extendable form.
struct Expanded(blake3::OutputReader);

impl Expanded {
    fn new(entropy: &[u8; 32]) -> Self {
        Self(blake3::Hasher::new_keyed(entropy).update(b"kinfold pair random v1").finalize_xof())
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill(&mut bytes);
        bytes
    }
}

impl TryRng for Expanded {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(self.array()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(self.array()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Expanded {}

/// Bytes of a SPAKE2 share: which side sent it, and a compressed point.
pub const SHARE_BYTES: usize = 33;

const JOINER_CONFIRMS: &[u8] = b"joiner confirms";
const INVITER_CONFIRMS: &[u8] = b"inviter confirms";
const WELCOME_KEY: &[u8] = b"welcome";
const WELCOME_CONTEXT: &[u8] = b"kinfold welcome v1";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::pairing::Code;

    const JOINER: DeviceId = DeviceId::from_bytes([1; 32]);
    const INVITER: DeviceId = DeviceId::from_bytes([2; 32]);
    const RELAY: DeviceId = DeviceId::from_bytes([3; 32]);

    #[test]
    fn two_that_know_the_code_agree() {
        let (joiner, inviter) = run(&Ends::honest()).unwrap();

        assert_eq!(joiner.phrase(), inviter.phrase());
        let sealed = inviter.seal(b"welcome", &[9; 32]);
        assert_eq!(joiner.open(&sealed).as_deref(), Ok(&b"welcome"[..]));
        assert_eq!(format!("{joiner:?}"), "Paired(..)");
    }

    #[test]
    fn another_code_convinces_nobody() {
        let ends = Ends { joiner_code: code("7QK-014-XY0"), ..Ends::honest() };

        assert_eq!(run(&ends).unwrap_err(), Refused { inviter: true, joiner: true });
    }

    #[test]
    fn a_relay_with_the_right_frames_convinces_nobody() {
        // The relay has one connection to each end and forwards everything unchanged.
        let to_inviter = session(Parties { inviter: INVITER, joiner: RELAY }, 11);
        let to_joiner = session(Parties { inviter: RELAY, joiner: JOINER }, 12);

        let ends = Ends { at_joiner: to_joiner, at_inviter: to_inviter, ..Ends::honest() };
        assert_eq!(run(&ends).unwrap_err(), Refused { inviter: true, joiner: true });

        // Were keys and connection left out of the transcript, the same relay would win.
        let unbound = session(Parties { inviter: INVITER, joiner: JOINER }, 0);
        assert!(run(&Ends { at_joiner: unbound, at_inviter: unbound, ..Ends::honest() }).is_ok());
    }

    #[test]
    fn either_binding_alone_stops_a_relay() {
        let honest = Ends::honest().at_joiner;
        let other_connection = Session { exported: [99; 32], ..honest };
        let other_joiner = Session { parties: Parties { joiner: RELAY, ..honest.parties }, ..honest };
        let other_inviter = Session { parties: Parties { inviter: RELAY, ..honest.parties }, ..honest };

        for at_inviter in [other_connection, other_joiner, other_inviter] {
            assert!(run(&Ends { at_inviter, ..Ends::honest() }).is_err());
        }
    }

    #[test]
    fn every_field_that_is_changed_on_the_way_is_noticed() {
        let hellos: [fn(&mut Hello); 3] = [
            |hello| hello.nonce[0] ^= 1,
            |hello| hello.name = "other".parse().unwrap(),
            |hello| hello.kind = SecretKind::Link,
        ];
        for change_hello in hellos {
            let ends = Ends { change_hello, ..Ends::honest() };
            assert_eq!(run(&ends).unwrap_err(), Refused { inviter: true, joiner: true });
        }
        let answers: [fn(&mut Answer); 4] = [
            |answer| answer.nonce[0] ^= 1,
            |answer| answer.name = "other".parse().unwrap(),
            |answer| answer.terms.role = 3,
            |answer| answer.terms.scope = "shared:other".to_owned(),
        ];
        for change_answer in answers {
            let ends = Ends { change_answer, ..Ends::honest() };
            assert_eq!(run(&ends).unwrap_err(), Refused { inviter: true, joiner: true });
        }
    }

    #[test]
    fn a_confirm_reflected_to_its_sender_proves_nothing() {
        let ends = Ends::honest();
        let (joiner, hello) = start(&ends);
        let (_, answer) = answer(&ends, &hello).unwrap();
        let (waiting, confirm) = joiner.answered(&answer).unwrap();

        assert_eq!(waiting.check(&confirm).unwrap_err(), PairingError::Unproven);
    }

    #[test]
    fn a_share_reflected_or_malformed_is_refused() {
        let ends = Ends::honest();
        let (joiner, mut hello) = start(&ends);
        let (_, mut spoiled) = answer(&ends, &hello).unwrap();

        spoiled.share = hello.share;
        assert_eq!(joiner.answered(&spoiled).unwrap_err(), PairingError::Share);
        let no_point = (0..=255u8).find(|byte| {
            hello.share[1..].fill(*byte);
            answer(&ends, &hello).is_err()
        });
        assert!(no_point.is_some());
        assert_eq!(answer(&ends, &hello).unwrap_err(), PairingError::Share);
    }

    #[test]
    fn names_that_could_mislead_are_refused() {
        let length = |found| Err(NameError::Length { found, limit: NAME_BYTES_MAX });
        assert_eq!("".parse::<PairingName>(), length(0));
        assert_eq!("x".repeat(129).parse::<PairingName>(), length(129));
        for found in ['\n', '\u{1b}', '\u{7f}', '\u{9b}', '\u{202e}', '\u{200b}', '\u{2028}'] {
            assert_eq!(format!("a{found}b").parse::<PairingName>(), Err(NameError::Control { found }));
        }
        assert_eq!("Łucja's Mac 🖥".parse::<PairingName>().unwrap().as_str(), "Łucja's Mac 🖥");
    }

    /// Which ends refused.
    #[derive(Debug, PartialEq, Eq)]
    struct Refused {
        inviter: bool,
        joiner: bool,
    }

    /// What each end believes, and what happens to the frames between them.
    struct Ends {
        at_joiner: Session,
        at_inviter: Session,
        joiner_code: Code,
        change_hello: fn(&mut Hello),
        change_answer: fn(&mut Answer),
    }

    impl Ends {
        fn honest() -> Self {
            let session = session(Parties { inviter: INVITER, joiner: JOINER }, 10);
            Self {
                at_joiner: session,
                at_inviter: session,
                joiner_code: code("7QK-014-XYZ"),
                change_hello: |_| {},
                change_answer: |_| {},
            }
        }
    }

    fn run(ends: &Ends) -> Result<(Paired, Paired), Refused> {
        let (joiner, mut hello) = start(ends);
        (ends.change_hello)(&mut hello);
        let (inviter, mut answer) = answer(ends, &hello).unwrap();
        (ends.change_answer)(&mut answer);
        let (waiting, confirm) = joiner.answered(&answer).unwrap();
        let Ok((at_inviter, confirm)) = inviter.check(&confirm) else {
            // An inviter that refuses stays silent, so the best anyone can send is a guess.
            let joiner = waiting.check(&Confirm::from_bytes([0; 32])).is_err();
            return Err(Refused { inviter: true, joiner });
        };
        match waiting.check(&confirm) {
            Ok(at_joiner) => Ok((at_joiner, at_inviter)),
            Err(_) => Err(Refused { inviter: false, joiner: true }),
        }
    }

    fn start(ends: &Ends) -> (Joiner, Hello) {
        let code = &ends.joiner_code;
        Joiner::start(ends.at_joiner, code.invite(), &code.secret(), "desk".parse().unwrap(), &[20; 32])
    }

    fn answer(ends: &Ends, hello: &Hello) -> Result<(Inviter, Answer), PairingError> {
        let terms = Terms { role: 1, scope: "personal".to_owned() };
        let secret = code("7QK-014-XYZ").secret();
        Inviter::answer(ends.at_inviter, &secret, "laptop".parse().unwrap(), terms, hello, &[21; 32])
    }

    fn session(parties: Parties, exported: u8) -> Session {
        Session { parties, exported: [exported; 32] }
    }

    fn code(text: &str) -> Code {
        text.parse().unwrap()
    }
}
