//! The numbered rules as switches, so that the checkers can be shown to catch the lack of each.
//!
//! In an ordinary build [`Rules`] has one value and no size, and every question is answered `true`
//! by the compiler. With the feature `sim` (and in tests) one rule can be left out. See
//! `manual/lease.md` for which check catches which.

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One rule of the lease core that can be left out on trial.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[non_exhaustive]
        pub enum Rule {
            $($(#[$doc])* $name,)*
        }

        impl Rule {
            /// Every rule, in the order of `manual/lease.md`.
            pub const EVERY: &[Self] = &[$(Self::$name,)*];
        }
    };
}

rules! {
    /// 1: what changes is durable before it is applied and answered.
    PersistFirst,
    /// 1: after a failed write the register never writes or answers again.
    FailForGood,
    /// 2: a restart frees nothing; held keys are held a full time longer.
    RestartHolds,
    /// 3: a longer time to live is durable before it is answered.
    RaiseFirst,
    /// 4: a holder's time counts from the first send of the request.
    FromFirstSend,
    /// 4: the host waits longer than the holder believes.
    HostWaitsLonger,
    /// 4: resends and replayed replies move no deadline.
    ReplayMovesNothing,
    /// 5: the last request is answered from its stored reply.
    StoredReply,
    /// 5: requests before the last one are refused.
    OldRequestRefused,
    /// 6: an expiry is durable before a reply shows it.
    ExpiryFirst,
    /// 7: who asks for what another holds is refused, not made to wait.
    HeldRefused,
    /// 8: the same daemon that asks again is told that it holds already.
    AlreadyHeldTold,
    /// 8: a restarted daemon gets a new token.
    NewInstanceNewEpoch,
    /// 9: a holder stops before it sends its release.
    StopBeforeRelease,
    /// 10: what a holder believes is asked of the clock before every dispatch.
    AskTheClock,
    /// 10: after a sleep a holder renews before it acts.
    RenewAfterSleep,
    /// 12: a reply under another certificate than the adopted one is refused.
    OlderCertRefused,
    /// 13: a home with another instance than its certificate names does not host.
    RestoredDoesNotHost,
    /// 13: a home with another instance than the last certificate names does not vote.
    RestoredDoesNotVote,
    /// 13: a host that meets a greater token than its own stops.
    GreaterSeenStops,
    /// 14: a time to live has bounds.
    TtlBounds,
    /// 14: the register holds a bounded number of keys.
    KeysBound,
    /// 14: a device holds a bounded number of leases.
    HeldBound,
    /// 14: a device asks at a bounded rate.
    RateBound,
    /// Handover: one promise per term.
    OnePromise,
    /// Handover: a promise is durable before it is sent.
    PromiseFirst,
    /// Handover: confirmations are counted by distinct device.
    DistinctDevices,
    /// Handover: a certificate needs a majority of the voters.
    Majority,
    /// Handover: a sealed register never grants again.
    SealIsFinal,
    /// Handover: a new host installs what its predecessor held.
    TableCarried,
    /// Handover: after a lost host nothing is granted until its last lease has run out.
    SettleFirst,
    /// Handover: a new host is durable before it serves.
    InstallFirst,
    /// Handover: only who drives a proposal commits it, and only while it stands by it.
    DriverCommits,
    /// Tokens: no number is given twice by one host.
    NextNumber,
}

/// Which rules are kept.
#[cfg(any(test, feature = "sim"))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Rules {
    left_out: Option<Rule>,
}

#[cfg(any(test, feature = "sim"))]
impl Rules {
    /// Every rule is kept.
    pub const ALL: Self = Self { left_out: None };

    /// Every rule but one is kept: a machine that is wrong on purpose.
    pub const fn without(rule: Rule) -> Self {
        Self { left_out: Some(rule) }
    }

    /// Whether a rule is kept.
    pub(crate) fn keeps(self, rule: Rule) -> bool {
        self.left_out != Some(rule)
    }
}

/// Which rules are kept: all of them.
#[cfg(not(any(test, feature = "sim")))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Rules(());

#[cfg(not(any(test, feature = "sim")))]
impl Rules {
    /// Every rule is kept.
    pub const ALL: Self = Self(());

    /// Whether a rule is kept: it is.
    #[inline(always)]
    pub(crate) const fn keeps(self, _rule: Rule) -> bool {
        true
    }
}
