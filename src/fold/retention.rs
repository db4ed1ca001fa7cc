//! Retention: which entities and events of a surface its policy drops.
//!
//! A policy is a row of [`POLICY_SURFACE`], keyed by the surface it is for, so every device has the
//! same one where it has the same state. What it drops is a function of that state alone: ages count
//! from the greatest stamp on the surface, never from a clock. Today it decides what is shown; what
//! removes dropped content from the disk, at a checkpoint, asks these same functions at its cut.
//!
//! | policy | keeps |
//! |---|---|
//! | `{"keep":"all"}`, or no row | everything |
//! | `{"keep":"default"}` | what [`Policy::suggested`] says |
//! | `{"last_n":N}` | the last N entities of the surface, or events of each stream |
//! | `{"per_agent":N}` | the last N entities of each agent (member `agent_id`, or `agent`) |
//! | `{"max_age_days":D}` | what is at most D days older than the last of the surface |
//!
//! Limits named together all hold. Rows of the registry stay until somebody removes them; what is
//! [`Tier::Ledger`] and the surface `routing` is replayed or asked for ever: a policy for one of
//! those is refused where it is set, and ignored where it arrives.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use super::query::Head;
use crate::model::{Dot, Hlc, Payload, Surface, Tier};

/// The surface that policies are rows of.
pub const POLICY_SURFACE: &str = "registry:policy";

/// Whether this is the surface that policies are rows of.
pub fn is_policy_surface(surface: &Surface) -> bool {
    matches!(surface, Surface::Registry(kind) if **kind == *"policy")
}

/// A row that is no policy, or one for a surface that is not trimmed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The key of the row names no surface.
    #[error("{found:?} is no surface a policy can be for")]
    Surface {
        /// The key.
        found: String,
    },
    /// A surface that is kept whole.
    #[error("{surface} is kept whole: {}", why_whole(.surface))]
    KeptWhole {
        /// The surface.
        surface: Surface,
    },
    /// Not an object of the known members.
    #[error(
        "a policy is {{\"keep\":\"all\"}}, {{\"keep\":\"default\"}}, or an object of last_n, per_agent and max_age_days"
    )]
    Form,
    /// A limit outside 1 to [`LIMIT_MAX`].
    #[error("{name} is a number from 1 to {LIMIT_MAX}")]
    Limit {
        /// The member.
        name: &'static str,
    },
    /// A limit that does not fit what the surface holds.
    #[error("{surface} holds events, which have no agent: use last_n or max_age_days")]
    NoAgents {
        /// The surface.
        surface: Surface,
    },
}

/// What is kept of a surface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    /// At most so many: entities of the surface, or events of each stream.
    pub last_n: Option<u32>,
    /// At most so many entities of each agent.
    pub per_agent: Option<u32>,
    /// At most so many days older than the last one of the surface.
    pub max_age_days: Option<u32>,
}

impl Policy {
    /// Everything.
    pub const KEEP_ALL: Self = Self { last_n: None, per_agent: None, max_age_days: None };

    /// What `{"keep":"default"}` means on a surface; without a row everything is kept.
    pub const fn suggested(surface: &Surface) -> Self {
        match surface {
            Surface::Conversation => Self { last_n: Some(500), ..Self::KEEP_ALL },
            Surface::Run => Self { per_agent: Some(50), max_age_days: Some(30), ..Self::KEEP_ALL },
            Surface::Trajectory => Self { max_age_days: Some(90), ..Self::KEEP_ALL },
            Surface::Routing
            | Surface::Declagent
            | Surface::Registry(_)
            | Surface::Knowledge
            | Surface::Skill
            | Surface::Intent => Self::KEEP_ALL,
        }
    }

    /// Reads a row of [`POLICY_SURFACE`]: the surface it is for, and what it says.
    ///
    /// # Errors
    /// Every variant of [`PolicyError`].
    pub fn of_row(key: &str, payload: &Payload) -> Result<(Surface, Self), PolicyError> {
        let surface: Surface = key.parse().map_err(|_| PolicyError::Surface { found: key.to_owned() })?;
        let policy = Self::parse(&surface, payload)?;
        Ok((surface, policy))
    }

    /// Reads a policy for a surface.
    ///
    /// # Errors
    /// Every variant of [`PolicyError`] but [`PolicyError::Surface`].
    pub fn parse(surface: &Surface, payload: &Payload) -> Result<Self, PolicyError> {
        if is_kept_whole(surface) {
            return Err(PolicyError::KeptWhole { surface: surface.clone() });
        }
        let members: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(payload.as_str()).map_err(|_| PolicyError::Form)?;
        let mut policy = Self::KEEP_ALL;
        // The row may name itself, as rows of the registry do that are imported.
        let mut says = members.iter().filter(|(name, _)| *name != "id").peekable();
        if says.peek().is_none() {
            return Err(PolicyError::Form);
        }
        for (name, value) in says {
            match (name.as_str(), value.as_str()) {
                ("keep", Some("all")) if members.len() <= 1 + usize::from(members.contains_key("id")) => {}
                ("keep", Some("default")) if members.len() <= 1 + usize::from(members.contains_key("id")) => {
                    policy = Self::suggested(surface);
                }
                ("last_n", _) => policy.last_n = Some(limit("last_n", value)?),
                ("per_agent", _) => policy.per_agent = Some(limit("per_agent", value)?),
                ("max_age_days", _) => policy.max_age_days = Some(limit("max_age_days", value)?),
                _ => return Err(PolicyError::Form),
            }
        }
        if policy.per_agent.is_some() && surface.tier() == Tier::Events {
            return Err(PolicyError::NoAgents { surface: surface.clone() });
        }
        Ok(policy)
    }

    /// Whether it drops nothing, whatever there is.
    pub fn is_keep_all(&self) -> bool {
        *self == Self::KEEP_ALL
    }

    /// Stamps before this are too old, given the greatest timestamp of the surface in Unix
    /// milliseconds; 0 where age does not matter.
    pub fn oldest_kept_ms(&self, greatest_ms: u64) -> u64 {
        let age = |days: u32| greatest_ms.saturating_sub(u64::from(days) * DAY_MS);
        self.max_age_days.map_or(0, age)
    }
}

/// An entity of a surface, or an event of a stream, as a policy sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept<'a, K> {
    /// What it is called: no two are called the same.
    pub name: K,
    /// Whose it is; entities without one are those of one agent.
    pub agent: Option<&'a str>,
    /// When it was recorded, in Unix milliseconds.
    pub timestamp_ms: u64,
    /// Its stamp.
    pub hlc: Hlc,
    /// Its op.
    pub dot: Dot,
}

/// Entities of a surface as a policy sees them: each with its head, and the agent it is of.
pub fn kept_of<'a>(entities: &'a [(String, Head)], agents: &'a [Option<String>]) -> Vec<Kept<'a, &'a str>> {
    let kept = |((name, head), agent): (&'a (String, Head), &'a Option<String>)| Kept {
        name: name.as_str(),
        agent: agent.as_deref(),
        timestamp_ms: head.hlc.millis(),
        hlc: head.hlc,
        dot: head.dot,
    };
    entities.iter().zip(agents).map(kept).collect()
}

/// The names of what a policy drops, of all entities of a surface or all events of a stream. Whatever
/// the order they are given in; and of what it keeps it drops nothing.
pub fn plan<K: Ord + Copy>(all: &[Kept<'_, K>], policy: &Policy) -> BTreeSet<K> {
    let greatest_ms = all.iter().map(|kept| kept.timestamp_ms).max().unwrap_or(0);
    plan_against(all, policy, greatest_ms)
}

/// As [`plan`], where ages count from a greater timestamp: that of the surface of a stream.
pub fn plan_against<K: Ord + Copy>(all: &[Kept<'_, K>], policy: &Policy, greatest_ms: u64) -> BTreeSet<K> {
    let mut newest_first: Vec<&Kept<'_, K>> = all.iter().collect();
    newest_first.sort_by(|a, b| {
        let place = |kept: &Kept<'_, K>| (kept.timestamp_ms, kept.hlc, kept.dot.log, kept.dot.seq);
        place(b).cmp(&place(a)).then_with(|| b.name.cmp(&a.name))
    });
    let oldest_ms = policy.oldest_kept_ms(greatest_ms);
    let mut of_agent: BTreeMap<Option<&str>, u32> = BTreeMap::new();
    let mut dropped = BTreeSet::new();
    for (rank, kept) in (0u32..).zip(newest_first) {
        let count = of_agent.entry(kept.agent).or_default();
        let is_dropped = kept.timestamp_ms < oldest_ms
            || policy.last_n.is_some_and(|limit| limit <= rank)
            || policy.per_agent.is_some_and(|limit| limit <= *count);
        *count += 1;
        if is_dropped {
            dropped.insert(kept.name);
        }
    }
    dropped
}

/// Whether no policy may trim a surface.
pub fn is_kept_whole(surface: &Surface) -> bool {
    match surface.tier() {
        Tier::Registry | Tier::Ledger => true,
        Tier::Events | Tier::Facts => *surface == Surface::Routing,
    }
}

fn why_whole(surface: &Surface) -> &'static str {
    match surface.tier() {
        Tier::Registry => "its rows stay until they are removed",
        Tier::Ledger => "it answers for ever whether a run has happened",
        Tier::Events | Tier::Facts => "it is replayed from its beginning",
    }
}

fn limit(name: &'static str, value: &serde_json::Value) -> Result<u32, PolicyError> {
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    number.filter(|number| (1..=LIMIT_MAX).contains(number)).ok_or(PolicyError::Limit { name })
}

/// The greatest limit a policy names: beyond it one keeps all.
pub const LIMIT_MAX: u32 = 1_000_000_000;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

#[cfg(test)]
mod tests {
    use super::super::reference::log;
    use super::*;
    use crate::model::Seq;
    use proptest::prelude::*;

    fn parse(surface: &str, text: &str) -> Result<Policy, PolicyError> {
        Policy::of_row(surface, &Payload::parse(text).unwrap()).map(|(_, policy)| policy)
    }

    #[test]
    fn every_form_of_a_policy_is_read() {
        let last_n = |n| Policy { last_n: Some(n), ..Policy::KEEP_ALL };
        let runs = Policy { per_agent: Some(50), max_age_days: Some(30), last_n: None };

        assert_eq!(parse("run", r#"{"keep":"all"}"#), Ok(Policy::KEEP_ALL));
        assert_eq!(parse("run", r#"{"keep":"default"}"#), Ok(runs));
        assert_eq!(parse("run", r#"{"id":"run","per_agent":50,"max_age_days":30}"#), Ok(runs));
        assert_eq!(parse("conversation", r#"{"last_n":3}"#), Ok(last_n(3)));
        assert_eq!(parse("conversation", r#"{"keep":"default"}"#), Ok(last_n(500)));
        assert_eq!(parse("skill", r#"{"keep":"default"}"#), Ok(Policy::KEEP_ALL));
        let aged = Policy { max_age_days: Some(90), ..Policy::KEEP_ALL };
        assert_eq!(parse("trajectory", r#"{"keep":"default"}"#), Ok(aged));
    }

    #[test]
    fn every_bad_policy_is_refused_by_name() {
        let kept_whole = |text: &str| Err(PolicyError::KeptWhole { surface: text.parse().unwrap() });
        for surface in ["routing", "intent", "declagent", "registry:note", "registry:policy"] {
            assert_eq!(parse(surface, r#"{"last_n":3}"#), kept_whole(surface));
        }
        assert_eq!(parse("nowhere", "{}"), Err(PolicyError::Surface { found: "nowhere".into() }));
        for text in [
            "1",
            "{}",
            r#"{"id":"run"}"#,
            r#"{"keep":"some"}"#,
            r#"{"keep":"all","last_n":1}"#,
            r#"{"lastn":1}"#,
        ] {
            assert_eq!(parse("run", text), Err(PolicyError::Form), "{text}");
        }
        for text in [r#"{"last_n":0}"#, r#"{"last_n":-1}"#, r#"{"last_n":"3"}"#, r#"{"last_n":1000000001}"#] {
            assert_eq!(parse("run", text), Err(PolicyError::Limit { name: "last_n" }), "{text}");
        }
        let no_agents = PolicyError::NoAgents { surface: Surface::Conversation };
        assert_eq!(parse("conversation", r#"{"per_agent":3}"#), Err(no_agents));
    }

    fn kept(name: u64, agent: Option<&str>, days: u64) -> Kept<'_, u64> {
        let dot = Dot { log: log(0), seq: Seq::new(name + 1) };
        Kept { name, agent, timestamp_ms: days * DAY_MS, hlc: Hlc::new((days * DAY_MS) << 16), dot }
    }

    #[test]
    fn each_limit_drops_the_oldest_and_limits_named_together_all_hold() {
        let all = [
            kept(0, Some("a"), 1),
            kept(1, Some("a"), 40),
            kept(2, Some("a"), 41),
            kept(3, Some("b"), 2),
            kept(4, None, 40),
            kept(5, None, 39),
        ];
        let dropped = |policy: Policy| plan(&all, &policy).into_iter().collect::<Vec<_>>();
        let none = Policy::KEEP_ALL;

        assert_eq!(dropped(none), [0u64; 0]);
        assert_eq!(dropped(Policy { last_n: Some(2), ..none }), [0, 1, 3, 5]);
        assert_eq!(dropped(Policy { per_agent: Some(1), ..none }), [0, 1, 5]);
        assert_eq!(dropped(Policy { max_age_days: Some(39), ..none }), [0], "of exactly that age is kept");
        assert_eq!(dropped(Policy { per_agent: Some(1), max_age_days: Some(38), ..none }), [0, 1, 3, 5]);
        assert_eq!(plan::<u64>(&[], &Policy { last_n: Some(1), ..none }), [].into());
    }

    proptest! {
        #[test]
        fn a_plan_hangs_on_no_order_and_drops_nothing_of_what_it_keeps(
            drawn in prop::collection::vec((0usize..3, 0u64..6), 0..30),
            shift in 0usize..30,
            limits in (prop::option::of(1u32..6), prop::option::of(1u32..4), prop::option::of(1u32..5)),
        ) {
            let agents = [None, Some("a"), Some("b")];
            let all: Vec<_> =
                (0u64..).zip(&drawn).map(|(name, (agent, days))| kept(name, agents[*agent], *days)).collect();
            let policy = Policy { last_n: limits.0, per_agent: limits.1, max_age_days: limits.2 };
            let dropped = plan(&all, &policy);

            let mut turned = all.clone();
            turned.rotate_left(shift.min(all.len()));
            turned.reverse();
            prop_assert_eq!(plan(&turned, &policy), dropped.clone());
            let rest: Vec<_> = all.iter().filter(|kept| !dropped.contains(&kept.name)).copied().collect();
            prop_assert!(plan(&rest, &policy).is_empty());
            prop_assert!(rest.len() < all.len() || dropped.is_empty());
            prop_assert!(all.is_empty() || !rest.is_empty(), "the newest stays");
        }
    }
}
