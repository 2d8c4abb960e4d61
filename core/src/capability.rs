//! What a backend declares about itself (clause C1), and what a configuration may require (C3).
//!
//! Only real differences between sound backends are here. Exclusion, rising tokens, FIFO order
//! and notice of loss are no capabilities: without them it is not a backend.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// What an acknowledged grant survives. Ordered: a later one survives all that an earlier one
/// does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Durability {
    /// Nothing: the end of the store's process loses it.
    Volatile,
    /// A restart of the store on the same machine.
    Local,
    /// The loss of one server, but a failover can lose what was acknowledged last.
    Replicated,
    /// The loss of a minority of servers, at any moment.
    Consensus,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Volatile => "volatile",
            Self::Local => "local",
            Self::Replicated => "replicated",
            Self::Consensus => "consensus",
        })
    }
}

/// How a waiter learns that its turn has come (clause W2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitMode {
    /// The store sends a message; reports only guard against a lost one.
    Push,
    /// The store cannot send; the core reports this often.
    Poll {
        /// Time between two reports of a waiter.
        every: Duration,
    },
}

/// How evidence of a loss arrives (clause L2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Evidence {
    /// About one round trip after the fact.
    Push,
    /// With the answer to the next renewal.
    NextRenewal,
}

/// How each cause of a loss becomes known (clause L2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct LossEvidence {
    /// Eviction through this framework.
    pub evicted: Evidence,
    /// Deletion of the lock's state with the store's own tools.
    pub deleted: Evidence,
}

impl LossEvidence {
    /// Declares both causes.
    #[must_use]
    pub const fn new(evicted: Evidence, deleted: Evidence) -> Self {
        Self { evicted, deleted }
    }
}

/// Whether a lock has a TTL of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TtlScope {
    /// Each lock has its own.
    Lock,
    /// Locks of one client and TTL share a session; losing it loses all of them.
    Pooled,
}

/// The TTLs that a backend can give (clause C2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct TtlRange {
    /// The shortest.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
    /// Every TTL is a multiple of this.
    pub granularity: Duration,
    /// Whether a lock has its own.
    pub scope: TtlScope,
}

impl TtlRange {
    /// A range of TTLs of locks that each have their own.
    #[must_use]
    pub const fn new(min: Duration, max: Duration, granularity: Duration, scope: TtlScope) -> Self {
        Self {
            min,
            max,
            granularity,
            scope,
        }
    }

    /// The TTL that the backend can give for the one that is wanted: the same, or with `clamp`
    /// the next one up inside of the range.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the range, if the wanted one cannot be given as it is.
    pub fn resolve(&self, wanted: Duration, clamp: bool) -> Result<Duration, Error> {
        let step = self.granularity.as_nanos().max(1);
        let steps = wanted.as_nanos().div_ceil(step);
        let rounded = u64::try_from(steps.saturating_mul(step))
            .map_or(self.max, Duration::from_nanos)
            .clamp(self.min, self.max);
        if rounded == wanted || clamp {
            return Ok(rounded);
        }
        Err(
            Error::new(ErrorKind::Config, "choosing a TTL").with_detail(format!(
                "a TTL of {} is not possible here: it must be from {} to {} in steps of {}",
                humantime::format_duration(wanted),
                humantime::format_duration(self.min),
                humantime::format_duration(self.max),
                humantime::format_duration(self.granularity),
            )),
        )
    }
}

/// The takeover bound (clause X3): after its holder has fallen silent, the lock is granted to a
/// waiting client within `holder_percent` of the holder's TTL, plus `waiter_percent` of the
/// waiter's, plus `constant`, counted from the holder's last proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct TakeoverBound {
    /// Share of the holder's TTL, in percent; at least 100.
    pub holder_percent: u32,
    /// Share of the waiter's TTL, in percent.
    pub waiter_percent: u32,
    /// What is added whatever the TTLs.
    pub constant: Duration,
}

impl TakeoverBound {
    /// Declares the bound.
    #[must_use]
    pub const fn new(holder_percent: u32, waiter_percent: u32, constant: Duration) -> Self {
        Self {
            holder_percent,
            waiter_percent,
            constant,
        }
    }

    /// The bound for these TTLs.
    #[must_use]
    pub fn of(&self, holder_ttl: Duration, waiter_ttl: Duration) -> Duration {
        holder_ttl.saturating_mul(self.holder_percent) / 100
            + waiter_ttl.saturating_mul(self.waiter_percent) / 100
            + self.constant
    }
}

/// All that a backend declares. Some of it can be known only once connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// What an acknowledged grant survives.
    pub durability: Durability,
    /// How waiters are woken.
    pub wait: WaitMode,
    /// How losses become known.
    pub loss: LossEvidence,
    /// The TTLs that can be given.
    pub ttl: TtlRange,
    /// How soon a silent holder's lock is granted again, at the latest.
    pub takeover: TakeoverBound,
    /// For how long the store keeps a free lock's fencing state (clause R4); `None` is for ever.
    pub residue: Option<Duration>,
}

impl Capabilities {
    /// What is known of a backend before it is connected: nothing that could be used.
    pub(crate) const UNKNOWN: Self = Self::new(
        Durability::Volatile,
        WaitMode::Push,
        LossEvidence::new(Evidence::NextRenewal, Evidence::NextRenewal),
        TtlRange::new(
            Duration::ZERO,
            Duration::ZERO,
            Duration::ZERO,
            TtlScope::Lock,
        ),
        TakeoverBound::new(100, 100, Duration::ZERO),
    );

    /// Declares everything that has no sensible default. `residue` starts as "for ever".
    #[must_use]
    pub const fn new(
        durability: Durability,
        wait: WaitMode,
        loss: LossEvidence,
        ttl: TtlRange,
        takeover: TakeoverBound,
    ) -> Self {
        Self {
            durability,
            wait,
            loss,
            ttl,
            takeover,
            residue: None,
        }
    }

    /// Says for how long a free lock's fencing state is kept.
    #[must_use]
    pub const fn with_residue(mut self, residue: Option<Duration>) -> Self {
        self.residue = residue;
        self
    }
}

/// What a configuration demands of the backend (clause C3). Nothing, by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Requirements {
    /// At least this durability.
    pub durability: Option<Durability>,
    /// Waiters must be woken by the store, not by polling.
    #[serde(default)]
    pub push: bool,
    /// Eviction must become known by push.
    #[serde(default)]
    pub push_evidence: bool,
}

impl Requirements {
    /// The fields that a configuration may set.
    pub const KEYS: &'static [&'static str] = &["durability", "push", "push_evidence"];

    /// Demands at least this durability.
    #[must_use]
    pub const fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// Holds the demands against what a backend declares.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] that names what is required and what the backend offers.
    pub fn check(&self, backend: &'static str, offered: &Capabilities) -> Result<(), Error> {
        let mut lacking = Vec::new();
        if let Some(required) = self
            .durability
            .filter(|required| offered.durability < *required)
        {
            lacking.push(format!(
                "durability `{required}` is required, this backend offers `{}`",
                offered.durability
            ));
        }
        if self.push && !matches!(offered.wait, WaitMode::Push) {
            lacking.push("waiting by push is required, this backend polls".to_owned());
        }
        if self.push_evidence && offered.loss.evicted != Evidence::Push {
            lacking.push(
                "notice of eviction by push is required, this backend gives it with the next \
                 renewal"
                    .to_owned(),
            );
        }
        if lacking.is_empty() {
            return Ok(());
        }
        Err(
            Error::new(ErrorKind::Config, "checking required capabilities")
                .with_backend(backend)
                .with_detail(lacking.join("; ")),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn c2_nothing_is_rounded_silently() {
        let range = TtlRange::new(2 * SECOND, 60 * SECOND, SECOND, TtlScope::Pooled);
        assert_eq!(range.resolve(5 * SECOND, false).unwrap(), 5 * SECOND);
        for wanted in [SECOND, 61 * SECOND, Duration::from_millis(2500)] {
            let error = range.resolve(wanted, false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(
                error.to_string().contains("from 2s to 1m in steps of 1s"),
                "{error}"
            );
        }
        assert_eq!(
            range.resolve(Duration::from_millis(2500), true).unwrap(),
            3 * SECOND
        );
        assert_eq!(range.resolve(SECOND, true).unwrap(), 2 * SECOND);
        assert_eq!(range.resolve(Duration::MAX, true).unwrap(), 60 * SECOND);
    }

    #[test]
    fn c3_names_both_sides() {
        let offered = Capabilities::new(
            Durability::Local,
            WaitMode::Push,
            LossEvidence::new(Evidence::Push, Evidence::NextRenewal),
            TtlRange::new(SECOND, SECOND, SECOND, TtlScope::Lock),
            TakeoverBound::new(100, 50, SECOND),
        );
        let required = Requirements::default().with_durability(Durability::Consensus);
        let text = required.check("file", &offered).unwrap_err().to_string();
        assert!(
            text.contains("`consensus`") && text.contains("`local`"),
            "{text}"
        );
        assert!(Requirements::default().check("file", &offered).is_ok());
    }
}
