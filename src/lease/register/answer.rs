//! What the register answers one request, rule by rule.

use std::time::Duration;

use super::stage::Stage;
use super::{Phase, REQUESTS_QUEUED_MAX, Register};
use crate::lease::refused::LeaseRefused;
use crate::lease::request::{Answer, Holder, Request, Standing, Token, Verb};
use crate::lease::rules::Rule;
use crate::lease::table::{Entry, HELD_MAX, Hold, HostState, KEYS_MAX, Last, Mode};
use crate::lease::time::Ttl;
use crate::model::{AgentId, DeviceId, LeaseEpoch};

/// How much one device may still ask: fills at a steady rate, up to one second's worth.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Bucket {
    /// In thousandths of a request.
    level: u64,
    at: Duration,
}

impl Bucket {
    const FULL: u64 = REQUESTS_PER_SECOND as u64 * 1_000;

    const fn full(at: Duration) -> Self {
        Self { level: Self::FULL, at }
    }

    /// Takes one request out, or says in how many milliseconds there will be one.
    fn take(&mut self, now: Duration) -> Result<(), u64> {
        let since = u64::try_from(now.saturating_sub(self.at).as_millis()).unwrap_or(u64::MAX);
        let filled = since.saturating_mul(u64::from(REQUESTS_PER_SECOND));
        self.level = self.level.saturating_add(filled).min(Self::FULL);
        // What is left of a millisecond counts on.
        self.at += Duration::from_millis(since);
        match self.level.checked_sub(1_000) {
            Some(rest) => {
                self.level = rest;
                Ok(())
            }
            None => Err((1_000 - self.level).div_ceil(u64::from(REQUESTS_PER_SECOND))),
        }
    }
}

impl Register {
    /// What is asked of every request before it may wait for its turn.
    pub(super) fn admit(&mut self, from: DeviceId, request: &Request) -> Result<(), LeaseRefused> {
        if let Some(refused) = self.phase_refusal() {
            return Err(refused);
        }
        if !self.members.contains(&from) {
            return Err(LeaseRefused::NotAuthorized { device: from });
        }
        let now = self.uptime;
        let bucket = self.buckets.entry(from).or_insert(Bucket::full(now));
        if let Err(retry_ms) = bucket.take(now)
            && self.rules.keeps(Rule::RateBound)
        {
            return Err(LeaseRefused::TooManyRequests { limit: REQUESTS_PER_SECOND, retry_ms });
        }
        if self.buckets.len() > self.members.len() {
            self.buckets.retain(|device, _| self.members.contains(device));
        }
        if self.queue.len() >= REQUESTS_QUEUED_MAX {
            return Err(LeaseRefused::TooManyRequests { limit: REQUESTS_PER_SECOND, retry_ms: 1_000 });
        }
        if request.cert != self.cert() && self.rules.keeps(Rule::OlderCertRefused) {
            return Err(LeaseRefused::ForkedLineage { found: request.cert, adopted: self.cert() });
        }
        Ok(())
    }

    /// Answers one request into the stage.
    pub(super) fn answer_one(&mut self, stage: &mut Stage, from: DeviceId, request: Request) {
        if let Some(refused) = self.phase_refusal() {
            stage.replies.push((from, self.reply(&request, Err(refused))));
            return;
        }
        let state = self.state.as_ref().expect("a register that serves has a state");
        if request.verb == Verb::Current {
            let answer = self.current(stage, state, &request.key);
            stage.replies.push((from, self.reply(&request, answer)));
            return;
        }
        let answer = match self.remembered(stage, state, from, &request) {
            Some(answer) => answer,
            None => {
                let answer = self.decide(stage, state, from, &request);
                if let (Err(LeaseRefused::Held { .. }), false) =
                    (&answer, self.rules.keeps(Rule::HeldRefused))
                {
                    self.waiting.push((from, request));
                    return;
                }
                self.remember(stage, state, from, &request, &answer);
                answer
            }
        };
        stage.replies.push((from, self.reply(&request, answer)));
    }

    /// Only with [`Rule::HeldRefused`] left out: whoever waits is asked again.
    pub(super) fn retry_waiting(&mut self) {
        let state = self.state.as_ref().expect("a register that serves has a state");
        let is_free =
            |request: &Request| state.entries.get(&request.key).is_none_or(|entry| entry.held().is_none());
        let (free, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, request)| is_free(request));
        self.waiting = waiting;
        self.queue.extend(
            Vec::into_iter(free)
                .map(|(from, request): (DeviceId, Request)| super::Ask::Request(from, request)),
        );
    }

    /// The stored reply of a request that was answered already, or the refusal of one that is older.
    fn remembered(
        &self,
        stage: &Stage,
        state: &HostState,
        from: DeviceId,
        request: &Request,
    ) -> Option<Result<Answer, LeaseRefused>> {
        let at = (request.key.clone(), from);
        let durable = stage.entry(state, &request.key).and_then(|entry| entry.last.get(&from));
        let durable = durable.map(|last| (last.req_no, last.instance, Ok(last.answer)));
        let volatile = stage.recent.get(&at).or_else(|| self.recent.get(&at)).cloned();
        let (last, instance, answer) = match (durable, volatile) {
            (Some(durable), Some(volatile)) if durable.0 > volatile.0 => durable,
            (_, Some(volatile)) => volatile,
            (durable, None) => durable?,
        };
        let is_before = request.req_no < last || request.req_no == last && request.instance != instance;
        if is_before && self.rules.keeps(Rule::OldRequestRefused) {
            return Some(Err(LeaseRefused::RequestTooOld { last, found: request.req_no }));
        }
        (request.req_no == last && request.instance == instance && self.rules.keeps(Rule::StoredReply))
            .then_some(answer)
    }

    fn remember(
        &self,
        stage: &mut Stage,
        state: &HostState,
        from: DeviceId,
        request: &Request,
        answer: &Result<Answer, LeaseRefused>,
    ) {
        // What depends on the register as a whole is decided anew when it is asked again.
        let is_of_key = !matches!(
            answer,
            Err(LeaseRefused::Settling { .. }
                | LeaseRefused::TooManyLeases { .. }
                | LeaseRefused::EpochExhausted
                | LeaseRefused::TtlOutOfRange { .. })
        );
        if is_of_key && stage.entry(state, &request.key).is_some() {
            stage
                .recent
                .insert((request.key.clone(), from), (request.req_no, request.instance, answer.clone()));
        }
    }

    fn decide(
        &self,
        stage: &mut Stage,
        state: &HostState,
        from: DeviceId,
        request: &Request,
    ) -> Result<Answer, LeaseRefused> {
        let holder = Holder { device: from, instance: request.instance };
        match request.verb {
            Verb::Acquire { ttl } => self.acquire(stage, state, holder, request, ttl),
            Verb::Renew { epoch, ttl } => self.renew(stage, state, holder, request, (epoch, ttl)),
            Verb::Release { epoch } => Self::release(stage, state, holder, request, epoch),
            Verb::Reclaim { token, ttl } => self.reclaim(stage, state, holder, request, (token, ttl)),
            Verb::Current => self.current(stage, state, &request.key),
        }
    }

    fn acquire(
        &self,
        stage: &mut Stage,
        state: &HostState,
        holder: Holder,
        request: &Request,
        ttl: Ttl,
    ) -> Result<Answer, LeaseRefused> {
        self.check_ttl(ttl)?;
        if let Some(remaining_ms) = self.settling_ms(stage) {
            return Err(LeaseRefused::Settling { remaining_ms });
        }
        if let Some(entry) = stage.entry(state, &request.key)
            && let Some((other, _)) = entry.held()
        {
            let epoch = entry.epoch;
            if other == holder && self.rules.keeps(Rule::AlreadyHeldTold) {
                return Err(LeaseRefused::AlreadyHeld { epoch });
            }
            if other.device != holder.device {
                return Err(LeaseRefused::Held {
                    holder: other,
                    epoch,
                    remaining_ms: self.remaining_ms(self.deadline(&request.key)),
                });
            }
            if !self.rules.keeps(Rule::NewInstanceNewEpoch) {
                return Ok(Self::grant(stage, state, holder, request, (epoch, ttl)));
            }
        }
        self.grant_next(stage, state, holder, request, ttl)
    }

    fn renew(
        &self,
        stage: &mut Stage,
        state: &HostState,
        holder: Holder,
        request: &Request,
        (epoch, ttl): (LeaseEpoch, Ttl),
    ) -> Result<Answer, LeaseRefused> {
        self.check_ttl(ttl)?;
        let entry = Self::held_by(stage, state, holder, &request.key, epoch)?;
        let (_, ttl_max) = entry.held().expect("it was just found to be held");
        if ttl > ttl_max && self.rules.keeps(Rule::RaiseFirst) {
            let mut raised = entry.clone();
            raised.hold = Hold::Held { holder, ttl_max: ttl };
            raised.remember(
                holder.device,
                Last { instance: holder.instance, req_no: request.req_no, answer: Answer::Renewed { epoch } },
            );
            stage.entries.insert(request.key.clone(), Some(raised));
        }
        stage.holds.push((request.key.clone(), ttl));
        Ok(Answer::Renewed { epoch })
    }

    fn release(
        stage: &mut Stage,
        state: &HostState,
        holder: Holder,
        request: &Request,
        epoch: LeaseEpoch,
    ) -> Result<Answer, LeaseRefused> {
        let mut entry = Self::held_by(stage, state, holder, &request.key, epoch)?.clone();
        entry.hold = Hold::Released;
        let answer = Answer::Released { epoch };
        entry.remember(holder.device, Last { instance: holder.instance, req_no: request.req_no, answer });
        stage.entries.insert(request.key.clone(), Some(entry));
        stage.holds.retain(|(key, _)| *key != request.key);
        Ok(answer)
    }

    /// While the register settles, a holder of the lost host gets a token of this one, first come.
    fn reclaim(
        &self,
        stage: &mut Stage,
        state: &HostState,
        holder: Holder,
        request: &Request,
        (token, ttl): (Token, Ttl),
    ) -> Result<Answer, LeaseRefused> {
        self.check_ttl(ttl)?;
        if token.epoch.term() >= state.head.term {
            let current = stage.entry(state, &request.key).map(|entry| entry.epoch);
            return Err(current.map_or(LeaseRefused::NotHolder, |current| LeaseRefused::Stale {
                claimed: token.epoch,
                current,
            }));
        }
        match stage.entry(state, &request.key) {
            Some(entry) => match entry.held() {
                Some((other, _)) if other == holder => Err(LeaseRefused::AlreadyHeld { epoch: entry.epoch }),
                Some((other, _)) => Err(LeaseRefused::Held {
                    holder: other,
                    epoch: entry.epoch,
                    remaining_ms: self.remaining_ms(self.deadline(&request.key)),
                }),
                None => Err(LeaseRefused::Stale { claimed: token.epoch, current: entry.epoch }),
            },
            None if self.settling_ms(stage).is_none() => Err(LeaseRefused::Expired { epoch: token.epoch }),
            None => self.grant_next(stage, state, holder, request, ttl),
        }
    }

    /// The entry of a key that this daemon holds with this token.
    fn held_by<'a>(
        stage: &'a Stage,
        state: &'a HostState,
        holder: Holder,
        key: &AgentId,
        epoch: LeaseEpoch,
    ) -> Result<&'a Entry, LeaseRefused> {
        let Some(entry) = stage.entry(state, key) else { return Err(LeaseRefused::NotHolder) };
        if epoch < entry.epoch {
            return Err(LeaseRefused::Stale { claimed: epoch, current: entry.epoch });
        }
        match entry.hold {
            Hold::Held { holder: other, .. } if other == holder && entry.epoch == epoch => Ok(entry),
            Hold::Expired if entry.epoch == epoch => Err(LeaseRefused::Expired { epoch }),
            Hold::Held { .. } | Hold::Released | Hold::Expired => Err(LeaseRefused::NotHolder),
        }
    }

    fn grant_next(
        &self,
        stage: &mut Stage,
        state: &HostState,
        holder: Holder,
        request: &Request,
        ttl: Ttl,
    ) -> Result<Answer, LeaseRefused> {
        self.make_room(stage, state, holder.device, &request.key)?;
        let n = stage.head.next_n.ok_or(LeaseRefused::EpochExhausted)?;
        let epoch = LeaseEpoch::of(stage.head.term, n).ok_or(LeaseRefused::EpochExhausted)?;
        if self.rules.keeps(Rule::NextNumber) {
            stage.head.next_n = n.checked_add(1);
        }
        Ok(Self::grant(stage, state, holder, request, (epoch, ttl)))
    }

    fn grant(
        stage: &mut Stage,
        state: &HostState,
        holder: Holder,
        request: &Request,
        (epoch, ttl): (LeaseEpoch, Ttl),
    ) -> Answer {
        let last = stage.entry(state, &request.key).map(|entry| entry.last.clone()).unwrap_or_default();
        let mut entry = Entry { epoch, hold: Hold::Held { holder, ttl_max: ttl }, last };
        let answer = Answer::Granted { epoch };
        entry.remember(holder.device, Last { instance: holder.instance, req_no: request.req_no, answer });
        stage.entries.insert(request.key.clone(), Some(entry));
        stage.holds.push((request.key.clone(), ttl));
        answer
    }

    /// Keeps the bounds; drops the oldest free key where there is no room for another.
    fn make_room(
        &self,
        stage: &mut Stage,
        state: &HostState,
        device: DeviceId,
        key: &AgentId,
    ) -> Result<(), LeaseRefused> {
        let is_of_device = |entry: &Entry| entry.held().is_some_and(|(holder, _)| holder.device == device);
        let held = stage.all(state).filter(|(other, entry)| *other != key && is_of_device(entry)).count();
        if held >= HELD_MAX && self.rules.keeps(Rule::HeldBound) {
            return Err(LeaseRefused::TooManyLeases { limit: HELD_MAX });
        }
        if stage.entry(state, key).is_some()
            || stage.all(state).count() < KEYS_MAX
            || !self.rules.keeps(Rule::KeysBound)
        {
            return Ok(());
        }
        let free = stage.all(state).filter(|(_, entry)| entry.held().is_none());
        let oldest = free.min_by_key(|(_, entry)| entry.epoch).map(|(key, _)| key.clone());
        let oldest = oldest.ok_or(LeaseRefused::TooManyLeases { limit: KEYS_MAX })?;
        stage.entries.insert(oldest, None);
        Ok(())
    }

    fn check_ttl(&self, ttl: Ttl) -> Result<(), LeaseRefused> {
        if ttl.is_sound() || !self.rules.keeps(Rule::TtlBounds) {
            return Ok(());
        }
        Ttl::from_millis(ttl.as_millis().into()).map(drop)
    }

    /// A register that settles knows of a key only once it was reclaimed.
    fn current(&self, stage: &Stage, state: &HostState, key: &AgentId) -> Result<Answer, LeaseRefused> {
        match (self.settling_ms(stage), self.standing(stage, state, key)) {
            (Some(remaining_ms), None) => Err(LeaseRefused::Settling { remaining_ms }),
            (_, standing) => Ok(Answer::Current { standing }),
        }
    }

    fn standing(&self, stage: &Stage, state: &HostState, key: &AgentId) -> Option<Standing> {
        let entry = stage.entry(state, key)?;
        let (holder, ttl_max) = entry.held()?;
        // A lease that is being granted with this very write has its whole time.
        let until = self.until.get(key).copied().unwrap_or(self.uptime + self.held_for(ttl_max));
        if !self.rules.keeps(Rule::ExpiryFirst) && until <= self.uptime {
            return None;
        }
        Some(Standing { epoch: entry.epoch, holder, remaining_ms: self.remaining_ms(until) })
    }

    fn deadline(&self, key: &AgentId) -> Duration {
        self.until.get(key).copied().unwrap_or(self.uptime)
    }

    /// How long the register still settles.
    fn settling_ms(&self, stage: &Stage) -> Option<u64> {
        if stage.head.mode != Mode::Settling {
            return None;
        }
        Some(self.quiet_at.map_or(0, |at| self.remaining_ms(at)))
    }

    /// Ends what has run out, and the settling.
    pub(super) fn expire(&mut self, stage: &mut Stage) {
        let state = self.state.as_ref().expect("a register that serves has a state");
        if stage.head.mode == Mode::Settling && self.quiet_at.is_none_or(|at| at <= self.uptime) {
            stage.head.mode = Mode::Serving;
        }
        let due: Vec<AgentId> = self
            .until
            .iter()
            .filter(|(_, until)| **until <= self.uptime)
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            let Some(entry) = state.entries.get(&key) else { continue };
            let mut ended = entry.clone();
            ended.hold = Hold::Expired;
            if self.rules.keeps(Rule::ExpiryFirst) || self.is_wanted(&key) {
                stage.entries.insert(key, Some(ended));
            }
        }
        if self.phase == Phase::Settling && stage.head.mode == Mode::Serving {
            self.quiet_at = None;
        }
    }

    /// Only with [`Rule::ExpiryFirst`] left out: an expiry is written when somebody acquires.
    fn is_wanted(&self, key: &AgentId) -> bool {
        self.queue.iter().any(|ask| match ask {
            super::Ask::Request(_, request) => request.key == *key && request.verb != Verb::Current,
            super::Ask::Seal(..) => false,
        })
    }
}

/// Most requests of one device in a second, and at once.
pub const REQUESTS_PER_SECOND: u32 = 20;
