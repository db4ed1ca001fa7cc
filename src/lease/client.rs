//! A daemon's side of one lease, as a state machine: ask, believe, renew, stop, give back.
//!
//! One [`Client`] keeps one key. It believes in a lease from the first send of the request that
//! was answered, by a clock that counts sleep, and in nothing else: no resend, no copy of a reply
//! and no reply under another certificate moves what it believes. See `manual/lease.md`.

use std::time::Duration;

use super::cert::{CertKind, Head};
use super::refused::LeaseRefused;
use super::request::{Answer, Holder, Reply, ReqNo, Request, Standing, Token, Verb};
use super::rules::{Rule, Rules};
use super::time::Ttl;
use crate::model::{AgentId, DeviceId, LeaseEpoch, Now};

/// Evidence that this daemon was granted a lease. Only the client builds it.
///
/// It says nothing about this moment: ask [`Client::local`] right before acting on it, and the
/// fence before acting on anything outside.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Grant {
    key: AgentId,
    token: Token,
    valid_until: Duration,
}

impl Grant {
    /// What it is for.
    pub const fn key(&self) -> &AgentId {
        &self.key
    }

    /// Its epoch.
    pub const fn epoch(&self) -> LeaseEpoch {
        self.token.epoch
    }

    /// The token with the certificate it was given under.
    pub const fn token(&self) -> Token {
        self.token
    }

    /// Until when its holder believes in it, on the uptime clock.
    pub const fn valid_until(&self) -> Duration {
        self.valid_until
    }
}

/// What the local clock says of a lease.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Local {
    /// Held, for this much longer.
    Valid {
        /// Its token.
        epoch: LeaseEpoch,
        /// Until when, counted from now.
        remaining: Duration,
    },
    /// Held, but this machine slept or the host did not answer: renew before acting.
    RenewFirst {
        /// The token.
        epoch: LeaseEpoch,
    },
    /// Not held, or run out.
    NotHeld,
}

/// What a client is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientInput {
    /// Acquire the key.
    Acquire {
        /// For how long.
        ttl: Ttl,
        /// What to do when another holds it.
        patience: Patience,
    },
    /// Renew now, whether it is time or not.
    Renew {
        /// For how long from now on; `None`: as before.
        ttl: Option<Ttl>,
    },
    /// Give the lease back. The caller has stopped what runs under it, or stops it now.
    Release,
    /// Read who holds the key.
    Read,
    /// A reply arrived.
    Reply {
        /// From whom, as the connection proves.
        from: DeviceId,
        /// What.
        reply: Reply,
    },
    /// A certificate was adopted.
    Head(Head),
    /// The machine slept, as the shell noticed.
    Woke,
    /// A deadline passed.
    Tick,
}

/// What to do when another holds the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Patience {
    /// Say so.
    Refuse,
    /// Ask again, until it is free.
    Wait,
}

/// What a client wants done, or has to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientEffect {
    /// Send this to the host. It may get lost: the client sends it again.
    Send {
        /// The host.
        to: DeviceId,
        /// What.
        request: Request,
    },
    /// The key is held.
    Granted(Grant),
    /// The key is held longer.
    Renewed(Grant),
    /// The key is not held any more: stop what runs under it, now.
    Lost {
        /// The token that ended.
        epoch: LeaseEpoch,
        /// Why.
        why: LeaseRefused,
    },
    /// Stop what runs under it before the next effect: it is given back.
    Stop {
        /// The token that ends.
        epoch: LeaseEpoch,
    },
    /// It was given back, or ran out while giving it back.
    Released {
        /// The token.
        epoch: LeaseEpoch,
    },
    /// What was asked for was refused. Nothing is held.
    Refused(LeaseRefused),
    /// What the host says who holds the key.
    Read(Result<Option<Standing>, LeaseRefused>),
    /// Say [`ClientInput::Tick`] at this uptime; replaces the one before.
    Deadline(Option<Duration>),
}

/// What a client stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Own {
    /// This device, in this life of its daemon.
    pub holder: Holder,
    /// What the lease is for.
    pub key: AgentId,
    /// Where request numbers start. They count within one life of a daemon; a register that remembers a
    /// greater one of an earlier life says so.
    pub req_no: ReqNo,
    /// Which rules are kept: [`Rules::ALL`].
    pub rules: Rules,
}

/// One key of one daemon.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Client {
    holder: Holder,
    key: AgentId,
    rules: Rules,
    head: Head,
    req_no: ReqNo,
    seen: Option<LeaseEpoch>,
    ttl: Ttl,
    patience: Patience,
    grant: Option<Held>,
    flight: Option<Flight>,
    read: Option<Flight>,
    /// When to ask again for what another holds.
    retry_at: Option<Duration>,
    /// What is being given back is an earlier lease of this daemon that nobody here believes in any
    /// more: once it is back, its key is asked for, under a token of its own.
    is_anew: bool,
    uptime: Duration,
}

/// A lease, and when it is to be renewed.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Held {
    grant: Grant,
    renew_at: Duration,
    /// Nothing may be done under it before it is renewed.
    must_renew: bool,
}

/// A request that was not answered yet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Flight {
    request: Request,
    first_sent: Duration,
    resend_at: Duration,
    resend_count: u32,
}

impl Client {
    /// A client that holds nothing. `head` is the newest certificate of the adopted chain.
    pub fn new(now: &Now, own: Own, head: Head) -> Self {
        Self {
            holder: own.holder,
            key: own.key,
            rules: own.rules,
            head,
            req_no: own.req_no,
            seen: None,
            ttl: Ttl::DEFAULT,
            patience: Patience::Refuse,
            grant: None,
            flight: None,
            read: None,
            retry_at: None,
            is_anew: false,
            uptime: now.uptime,
        }
    }

    /// Takes one input and says what is to be done, in order.
    pub fn step(&mut self, now: &Now, input: ClientInput) -> Vec<ClientEffect> {
        let mut effects = Vec::new();
        self.look_at_the_clock(now, &mut effects);
        match input {
            ClientInput::Acquire { ttl, patience } => self.acquire(now, ttl, patience, &mut effects),
            ClientInput::Renew { ttl } => {
                self.ttl = ttl.unwrap_or(self.ttl);
                self.renew(now, &mut effects);
            }
            ClientInput::Release => self.release(now, &mut effects),
            ClientInput::Read => {
                let flight = self.launch(now, Verb::Current, &mut effects);
                self.read = Some(flight);
            }
            ClientInput::Reply { from, reply } => self.take(now, from, reply, &mut effects),
            ClientInput::Head(head) => self.adopt(now, head, &mut effects),
            ClientInput::Woke => self.doubt(now, &mut effects),
            ClientInput::Tick => {}
        }
        self.act_on_time(now, &mut effects);
        effects.push(ClientEffect::Deadline(self.next_deadline()));
        effects
    }

    /// What the clock says of the lease at this moment. Ask right before every dispatch.
    pub fn local(&self, now: &Now) -> Local {
        let Some(held) = &self.grant else { return Local::NotHeld };
        let is_over = held.grant.valid_until <= now.uptime || now.uptime < self.uptime;
        if is_over && self.rules.keeps(Rule::AskTheClock) {
            return Local::NotHeld;
        }
        let has_overslept = held.renew_at + SLEEP_MIN < now.uptime;
        if (held.must_renew || has_overslept) && self.rules.keeps(Rule::RenewAfterSleep) {
            return Local::RenewFirst { epoch: held.grant.epoch() };
        }
        let remaining = held.grant.valid_until.saturating_sub(now.uptime);
        Local::Valid { epoch: held.grant.epoch(), remaining }
    }

    /// The lease, believed in or not.
    pub fn grant(&self) -> Option<&Grant> {
        self.grant.as_ref().map(|held| &held.grant)
    }

    /// Whose lease it keeps.
    pub const fn holder(&self) -> Holder {
        self.holder
    }

    /// The greatest token seen.
    pub const fn seen(&self) -> Option<LeaseEpoch> {
        self.seen
    }

    /// Whether nothing is under way and nothing is held.
    pub const fn is_idle(&self) -> bool {
        self.grant.is_none() && self.flight.is_none() && self.retry_at.is_none()
    }

    /// When the request that is under way was sent first.
    pub fn first_sent(&self) -> Option<Duration> {
        self.flight.as_ref().map(|flight| flight.first_sent)
    }

    /// Whether this reply would be taken: it answers what is under way, from the host that is adopted.
    pub fn awaits(&self, from: DeviceId, reply: &Reply) -> bool {
        let mut open = self.flight.iter().chain(&self.read);
        let is_open = open.any(|flight| flight.request.req_no == reply.req_no);
        is_open && self.is_of_host(from, reply) && (reply.cert == self.head.cert || reply.answer.is_err())
    }

    fn is_of_host(&self, from: DeviceId, reply: &Reply) -> bool {
        from == self.head.host && reply.key == self.key && reply.instance == self.holder.instance
    }

    /// Where the numbers of requests are: a client that takes over for this one starts above.
    pub const fn req_no(&self) -> ReqNo {
        self.req_no
    }

    /// A lease that ran out is lost; a clock that went back ends everything.
    fn look_at_the_clock(&mut self, now: &Now, effects: &mut Vec<ClientEffect>) {
        if now.uptime < self.uptime {
            self.lose(LeaseRefused::ClockUnsafe, effects);
            return;
        }
        self.uptime = now.uptime;
        if !self.rules.keeps(Rule::AskTheClock) {
            return;
        }
        if let Some(held) = &self.grant
            && held.grant.valid_until <= now.uptime
        {
            let epoch = held.grant.epoch();
            self.lose(LeaseRefused::Expired { epoch }, effects);
        } else if let Some(held) = &mut self.grant
            && held.renew_at + SLEEP_MIN < now.uptime
            && self.flight.is_none()
        {
            // The renewal is late, so nobody looked at the clock: this machine slept.
            held.must_renew = true;
        }
    }

    fn acquire(&mut self, now: &Now, ttl: Ttl, patience: Patience, effects: &mut Vec<ClientEffect>) {
        if let Some(held) = &self.grant {
            let epoch = held.grant.epoch();
            effects.push(ClientEffect::Refused(LeaseRefused::AlreadyHeld { epoch }));
            return;
        }
        (self.ttl, self.patience, self.retry_at) = (ttl, patience, None);
        self.ask(now, effects);
    }

    fn ask(&mut self, now: &Now, effects: &mut Vec<ClientEffect>) {
        self.is_anew = false;
        self.flight = Some(self.launch(now, Verb::Acquire { ttl: self.ttl }, effects));
    }

    fn renew(&mut self, now: &Now, effects: &mut Vec<ClientEffect>) {
        let Some(held) = &self.grant else {
            effects.push(ClientEffect::Refused(LeaseRefused::NotHolder));
            return;
        };
        let token = held.grant.token();
        let verb = if self.is_off_the_host(token) {
            Verb::Reclaim { token, ttl: self.ttl }
        } else {
            Verb::Renew { epoch: token.epoch, ttl: self.ttl }
        };
        self.flight = Some(self.launch(now, verb, effects));
    }

    /// Whether the lease is of a host that was lost, so that the new one does not know it.
    fn is_off_the_host(&self, token: Token) -> bool {
        self.head.kind == CertKind::Lost && token.epoch.term() < self.head.term
    }

    fn release(&mut self, now: &Now, effects: &mut Vec<ClientEffect>) {
        (self.retry_at, self.is_anew) = (None, false);
        let Some(held) = self.grant.take() else {
            self.flight = None;
            effects.push(ClientEffect::Refused(LeaseRefused::NotHolder));
            return;
        };
        let epoch = held.grant.epoch();
        if self.rules.keeps(Rule::StopBeforeRelease) {
            effects.push(ClientEffect::Stop { epoch });
            self.flight = Some(self.launch(now, Verb::Release { epoch }, effects));
        } else {
            self.flight = Some(self.launch(now, Verb::Release { epoch }, effects));
            self.grant = Some(held);
        }
    }

    fn launch(&mut self, now: &Now, verb: Verb, effects: &mut Vec<ClientEffect>) -> Flight {
        self.req_no = self.req_no.next();
        let request = Request {
            instance: self.holder.instance,
            key: self.key.clone(),
            req_no: self.req_no,
            cert: self.head.cert,
            seen: self.seen,
            verb,
        };
        effects.push(ClientEffect::Send { to: self.head.host, request: request.clone() });
        Flight {
            request,
            first_sent: now.uptime,
            resend_at: now.uptime + resend_after(0, &now.entropy),
            resend_count: 0,
        }
    }

    fn take(&mut self, now: &Now, from: DeviceId, reply: Reply, effects: &mut Vec<ClientEffect>) {
        let is_of_host = self.is_of_host(from, &reply);
        let is_adopted = reply.cert == self.head.cert || !self.rules.keeps(Rule::OlderCertRefused);
        if !is_of_host && self.rules.keeps(Rule::OlderCertRefused) {
            return;
        }
        let is_flight = self.flight.as_ref().is_some_and(|flight| flight.request.req_no == reply.req_no);
        if self.read.as_ref().is_some_and(|flight| flight.request.req_no == reply.req_no) {
            self.take_read(now, reply, is_adopted, effects);
        } else if is_flight {
            // What a host says without a certificate of its own can only be a refusal.
            if is_adopted || reply.answer.is_err() {
                let flight = self.flight.take().expect("it was just found to be there");
                self.take_answer(now, flight, reply, effects);
            }
        } else if !self.rules.keeps(Rule::ReplayMovesNothing)
            && let (Some(held), Ok(Answer::Renewed { .. } | Answer::Granted { .. })) =
                (&mut self.grant, &reply.answer)
        {
            held.grant.valid_until = now.uptime + self.ttl.valid_for();
        }
    }

    fn take_read(&mut self, now: &Now, reply: Reply, is_adopted: bool, effects: &mut Vec<ClientEffect>) {
        match reply.answer {
            Ok(Answer::Current { standing }) if is_adopted => {
                self.read = None;
                self.note(standing.map(|standing| standing.epoch));
                effects.push(ClientEffect::Read(Ok(standing)));
            }
            Err(refused) if refused.is_passing() && !matches!(refused, LeaseRefused::Settling { .. }) => {
                let at = now.uptime + pause(&refused, &now.entropy);
                if let Some(flight) = &mut self.read {
                    flight.resend_at = at;
                }
            }
            Err(refused) => {
                self.read = None;
                effects.push(ClientEffect::Read(Err(refused)));
            }
            Ok(_) => {}
        }
    }

    fn take_answer(&mut self, now: &Now, flight: Flight, reply: Reply, effects: &mut Vec<ClientEffect>) {
        match (flight.request.verb, reply.answer) {
            (Verb::Acquire { .. } | Verb::Reclaim { .. }, Ok(Answer::Granted { epoch })) => {
                self.granted(now, &flight, Token { epoch, cert: reply.cert }, effects);
            }
            (Verb::Renew { epoch, .. }, Ok(Answer::Renewed { epoch: same })) if epoch == same => {
                let held = self.grant.as_ref().map(|held| held.grant.token);
                let token = held.filter(|held| held.epoch == epoch);
                self.granted(now, &flight, token.unwrap_or(Token { epoch, cert: reply.cert }), effects);
            }
            (Verb::Release { .. }, Ok(_)) if self.is_anew => self.ask(now, effects),
            (Verb::Release { epoch }, Ok(_)) => {
                self.grant = None;
                effects.push(ClientEffect::Released { epoch });
            }
            (Verb::Acquire { .. }, Err(LeaseRefused::AlreadyHeld { epoch })) => {
                // Given up here, not there yet: whoever had its token may still be running, and must be
                // told from who gets it now.
                self.note(Some(epoch));
                self.is_anew = true;
                self.flight = Some(self.launch(now, Verb::Release { epoch }, effects));
            }
            (Verb::Reclaim { .. }, Err(LeaseRefused::AlreadyHeld { epoch })) => {
                // An answer that got lost, or a late copy: a renewal tells since when.
                self.note(Some(epoch));
                self.flight = Some(self.launch(now, Verb::Renew { epoch, ttl: self.ttl }, effects));
            }
            (verb, Err(LeaseRefused::RequestTooOld { last, .. })) => {
                self.req_no = self.req_no.max(last);
                self.flight = Some(self.launch(now, verb, effects));
            }
            (verb, Err(refused)) => self.refused(now, verb, flight, refused, effects),
            // A reply that answers another question: the host is confused, and the request stays open.
            (_, Ok(_)) => self.flight = Some(flight),
        }
    }

    fn granted(&mut self, now: &Now, flight: &Flight, token: Token, effects: &mut Vec<ClientEffect>) {
        self.note(Some(token.epoch));
        let ttl = match flight.request.verb {
            Verb::Acquire { ttl } | Verb::Renew { ttl, .. } | Verb::Reclaim { ttl, .. } => ttl,
            Verb::Release { .. } | Verb::Current => return,
        };
        let start = if self.rules.keeps(Rule::FromFirstSend) { flight.first_sent } else { now.uptime };
        let before = self.grant.take().filter(|held| held.grant.token.epoch == token.epoch);
        let valid_until = start + ttl.valid_for();
        let valid_until = before.as_ref().map_or(valid_until, |held| held.grant.valid_until.max(valid_until));
        if valid_until <= now.uptime && self.rules.keeps(Rule::AskTheClock) {
            // Answered too late to be of use; the host will let it run out.
            let epoch = token.epoch;
            effects.push(match before {
                Some(_) => ClientEffect::Lost { epoch, why: LeaseRefused::Expired { epoch } },
                None => ClientEffect::Refused(LeaseRefused::Expired { epoch }),
            });
            return;
        }
        let grant = Grant { key: self.key.clone(), token, valid_until };
        self.grant = Some(Held {
            grant: grant.clone(),
            renew_at: flight.first_sent + ttl.renew_after(),
            must_renew: false,
        });
        effects.push(match before {
            Some(_) => ClientEffect::Renewed(grant),
            None => ClientEffect::Granted(grant),
        });
    }

    /// Whether a request is a step towards a lease that is not held yet.
    const fn is_asking(&self, verb: Verb) -> bool {
        match verb {
            Verb::Acquire { .. } => true,
            Verb::Release { .. } => self.is_anew,
            Verb::Renew { .. } | Verb::Reclaim { .. } | Verb::Current => false,
        }
    }

    fn refused(
        &mut self,
        now: &Now,
        verb: Verb,
        flight: Flight,
        refused: LeaseRefused,
        effects: &mut Vec<ClientEffect>,
    ) {
        let ends_hold = matches!(
            refused,
            LeaseRefused::NotHolder
                | LeaseRefused::Expired { .. }
                | LeaseRefused::Stale { .. }
                | LeaseRefused::Held { .. }
                | LeaseRefused::NotAuthorized { .. }
        );
        let is_asking = self.is_asking(verb);
        match verb {
            Verb::Release { .. } if is_asking && ends_hold => self.ask(now, effects),
            Verb::Acquire { .. } | Verb::Release { .. } if is_asking => {
                if self.patience == Patience::Wait && refused.is_passing() {
                    self.retry_at = Some(now.uptime + pause(&refused, &now.entropy));
                } else {
                    effects.push(ClientEffect::Refused(refused));
                }
            }
            Verb::Renew { .. } | Verb::Reclaim { .. } if ends_hold => self.lose(refused, effects),
            Verb::Renew { .. } | Verb::Reclaim { .. } if self.grant.is_none() => {
                effects.push(ClientEffect::Refused(refused));
            }
            Verb::Renew { .. } | Verb::Reclaim { .. } => {
                // It is still held until its time is over; a later request may be answered better.
                self.retry_at = Some(now.uptime + pause(&refused, &now.entropy));
            }
            Verb::Release { epoch } if ends_hold => {
                self.grant = None;
                effects.push(ClientEffect::Released { epoch });
            }
            Verb::Release { .. } => {
                let resend_at = now.uptime + pause(&refused, &now.entropy);
                self.flight = Some(Flight { resend_at, ..flight });
            }
            Verb::Acquire { .. } | Verb::Current => {}
        }
    }

    fn lose(&mut self, why: LeaseRefused, effects: &mut Vec<ClientEffect>) {
        self.retry_at = None;
        if let Some(held) = self.grant.take() {
            self.flight = None;
            effects.push(ClientEffect::Lost { epoch: held.grant.epoch(), why });
        } else if self.flight.take().is_some() {
            effects.push(ClientEffect::Refused(why));
        }
    }

    /// Whatever was asked of the old host is asked of the new one, as a new request.
    fn adopt(&mut self, now: &Now, head: Head, effects: &mut Vec<ClientEffect>) {
        if head.cert == self.head.cert {
            return;
        }
        self.head = head;
        if !self.rules.keeps(Rule::OlderCertRefused) {
            return;
        }
        if let Some(read) = self.read.take() {
            self.read = Some(self.launch(now, read.request.verb, effects));
        }
        let Some(flight) = self.flight.take() else {
            return self.hurry(now);
        };
        match flight.request.verb {
            Verb::Renew { .. } | Verb::Reclaim { .. } if self.grant.is_some() => self.renew(now, effects),
            Verb::Renew { .. } | Verb::Reclaim { .. } => self.ask(now, effects),
            verb @ (Verb::Acquire { .. } | Verb::Release { .. } | Verb::Current) => {
                self.flight = Some(self.launch(now, verb, effects));
            }
        }
    }

    /// A holder shows itself to a new host at once.
    const fn hurry(&mut self, now: &Now) {
        if let Some(held) = &mut self.grant {
            held.renew_at = now.uptime;
        }
        if self.retry_at.is_some() {
            self.retry_at = Some(now.uptime);
        }
    }

    fn doubt(&mut self, now: &Now, effects: &mut Vec<ClientEffect>) {
        if let Some(held) = &mut self.grant {
            held.must_renew = true;
            self.renew(now, effects);
        }
    }

    /// Renews, retries and resends what is due.
    fn act_on_time(&mut self, now: &Now, effects: &mut Vec<ClientEffect>) {
        let is_due = |at: Option<Duration>| at.is_some_and(|at| at <= now.uptime);
        if is_due(self.retry_at) && self.flight.is_none() {
            self.retry_at = None;
            if self.grant.is_some() {
                self.renew(now, effects);
            } else {
                self.ask(now, effects);
            }
        }
        let renew_at = self.grant.as_ref().map(|held| held.renew_at);
        if is_due(renew_at) && self.flight.is_none() && self.retry_at.is_none() {
            self.renew(now, effects);
        }
        let is_fresh = self.rules.keeps(Rule::ReplayMovesNothing);
        let host = self.head.host;
        for flight in [&mut self.flight, &mut self.read].into_iter().flatten() {
            if flight.resend_at <= now.uptime {
                flight.resend_count += 1;
                flight.resend_at = now.uptime + resend_after(flight.resend_count, &now.entropy);
                if !is_fresh {
                    flight.first_sent = now.uptime;
                }
                effects.push(ClientEffect::Send { to: host, request: flight.request.clone() });
            }
        }
        self.give_up(now, effects);
    }

    /// Says so when the host has not answered for long; a release ends when the lease would have.
    fn give_up(&mut self, now: &Now, effects: &mut Vec<ClientEffect>) {
        let host = self.head.host;
        let is_late = |flight: &Flight, limit: Duration| flight.first_sent + limit <= now.uptime;
        if self.read.take_if(|flight| is_late(flight, READ_TIMEOUT)).is_some() {
            effects.push(ClientEffect::Read(Err(LeaseRefused::HostUnreachable { host })));
        }
        let Some(flight) = &self.flight else { return };
        let is_asking = self.is_asking(flight.request.verb);
        match flight.request.verb {
            _ if is_asking && self.patience == Patience::Refuse && is_late(flight, ACQUIRE_TIMEOUT) => {
                self.flight = None;
                effects.push(ClientEffect::Refused(LeaseRefused::HostUnreachable { host }));
            }
            Verb::Release { .. } if self.is_anew && is_late(flight, self.ttl.held_for()) => {
                self.ask(now, effects)
            }
            Verb::Release { epoch } if is_late(flight, self.ttl.held_for()) => {
                self.flight = None;
                effects.push(ClientEffect::Released { epoch });
            }
            Verb::Renew { .. } if self.grant.is_none() && is_late(flight, ACQUIRE_TIMEOUT) => {
                self.flight = None;
                effects.push(ClientEffect::Refused(LeaseRefused::HostUnreachable { host }));
            }
            Verb::Acquire { .. }
            | Verb::Release { .. }
            | Verb::Renew { .. }
            | Verb::Reclaim { .. }
            | Verb::Current => {}
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        let held = self.grant.as_ref().map(|held| held.grant.valid_until);
        let renew = self.grant.as_ref().map(|held| held.renew_at).filter(|_| self.flight.is_none());
        let renew = renew.filter(|_| self.retry_at.is_none());
        let retry = self.retry_at.filter(|_| self.flight.is_none());
        let resend = self.flight.iter().chain(&self.read).map(|flight| flight.resend_at);
        let read_ends = self.read.as_ref().map(|flight| flight.first_sent + READ_TIMEOUT);
        resend.chain(held).chain(renew).chain(retry).chain(read_ends).min()
    }

    fn note(&mut self, epoch: Option<LeaseEpoch>) {
        self.seen = self.seen.max(epoch);
    }
}

/// When a request is sent again: half a second, doubling up to four, each with up to as much again.
fn resend_after(resend_count: u32, entropy: &[u8; 32]) -> Duration {
    let base = RESEND_FIRST_MS << resend_count.min(3);
    Duration::from_millis(base + jitter(entropy, base))
}

/// When to ask again after a refusal: when it says, or after a second, and up to a second more.
fn pause(refused: &LeaseRefused, entropy: &[u8; 32]) -> Duration {
    let base = refused.retry_ms().unwrap_or(1_000).clamp(100, RETRY_MS_MAX);
    Duration::from_millis(base + jitter(entropy, 1_000))
}

/// A number below `end` of this step's entropy.
fn jitter(entropy: &[u8; 32], end: u64) -> u64 {
    let [a, b, c, d, ..] = *entropy;
    u64::from(u32::from_be_bytes([a, b, c, d])) % end
}

/// A renewal this late means that the machine slept.
const SLEEP_MIN: Duration = Duration::from_secs(5);

const RESEND_FIRST_MS: u64 = 500;

/// A waiter looks again at least this often: the holder may have given it back.
const RETRY_MS_MAX: u64 = 5_000;

/// How long a read waits: a dispatch does not hang on a host that is asleep.
pub const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an impatient acquire waits for an answer.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(15);
