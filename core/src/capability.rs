//! Capabilities that a backend declares (clause C1), and requirements of a configuration (C3).
//!
//! This module contains only real differences between sound backends. Exclusion, increasing tokens,
//! FIFO order and notice of loss are not capabilities: every backend must provide them.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind},
    mode::Modes,
};

/// The failures that an acknowledged grant survives. Ordered: a later value survives everything that an earlier
/// one survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Durability {
    /// Nothing: the grant is lost when the store's process ends.
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

/// How a waiter learns of its grant (clause W2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitMode {
    /// The store sends a message; reports only protect against a lost message.
    Push,
    /// The store cannot send messages; the core reports the waiter periodically.
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
    /// About one round trip after the loss.
    Push,
    /// With the answer to the next renewal.
    NextRenewal,
}

/// How the evidence for each cause of a loss arrives (clause L2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct LossEvidence {
    /// Eviction through this framework.
    pub evicted: Evidence,
    /// Deletion of the lock's state with the store's own tools.
    pub deleted: Evidence,
}

impl LossEvidence {
    /// Declares the evidence for both causes.
    #[must_use]
    pub const fn new(evicted: Evidence, deleted: Evidence) -> Self {
        Self { evicted, deleted }
    }
}

/// The scope of a TTL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TtlScope {
    /// Each lock has its own TTL.
    Lock,
    /// Locks of one client with the same TTL share a session; the loss of the session loses all of
    /// them.
    Pooled,
}

/// The TTLs that a backend supports (clause C2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct TtlRange {
    /// The shortest TTL.
    pub min: Duration,
    /// The longest TTL.
    pub max: Duration,
    /// Every TTL is a multiple of this.
    pub granularity: Duration,
    /// Whether each lock has its own TTL.
    pub scope: TtlScope,
}

impl TtlRange {
    /// Creates a range of TTLs.
    #[must_use]
    pub const fn new(min: Duration, max: Duration, granularity: Duration, scope: TtlScope) -> Self {
        Self {
            min,
            max,
            granularity,
            scope,
        }
    }

    /// Returns the TTL that the backend supports for the requested one: the same, or with `clamp`
    /// the next longer one, or the longest if the requested one is above the range.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the range, if the backend does not support the requested TTL
    /// exactly.
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
                "the backend does not support a TTL of {}: it must be from {} to {} in steps of {}",
                humantime::format_duration(wanted),
                humantime::format_duration(self.min),
                humantime::format_duration(self.max),
                humantime::format_duration(self.granularity),
            )),
        )
    }
}

/// The takeover bound (clause X3): the lock of a silent holder is granted to a waiting client
/// within `holder_percent` of the holder's TTL, plus `waiter_percent` of the waiter's TTL, plus
/// `constant`, counted from the holder's last proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct TakeoverBound {
    /// The share of the holder's TTL, in percent; at least 100.
    pub holder_percent: u32,
    /// The share of the waiter's TTL, in percent.
    pub waiter_percent: u32,
    /// The part that does not depend on the TTLs.
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

    /// Returns the bound for these TTLs.
    #[must_use]
    pub fn of(&self, holder_ttl: Duration, waiter_ttl: Duration) -> Duration {
        holder_ttl.saturating_mul(self.holder_percent) / 100
            + waiter_ttl.saturating_mul(self.waiter_percent) / 100
            + self.constant
    }
}

/// The capabilities of a backend. Some of them are known only after connecting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// The failures that an acknowledged grant survives.
    pub durability: Durability,
    /// How waiters learn of their grants.
    pub wait: WaitMode,
    /// How the evidence of a loss arrives.
    pub loss: LossEvidence,
    /// The supported TTLs.
    pub ttl: TtlRange,
    /// The time within which a silent holder's lock is granted again.
    pub takeover: TakeoverBound,
    /// How long the store keeps a free lock's fencing state (clause R4); `None` means forever.
    pub residue: Option<Duration>,
    /// The modes of a lock (clause M7).
    pub modes: Modes,
}

impl Capabilities {
    /// The placeholder before a backend is connected; no lock can use it.
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

    /// Declares everything that has no sensible default. `residue` defaults to forever.
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
            modes: Modes::EXCLUSIVE,
        }
    }

    /// Sets how long a free lock's fencing state is kept.
    #[must_use]
    pub const fn with_residue(mut self, residue: Option<Duration>) -> Self {
        self.residue = residue;
        self
    }

    /// Sets the modes. Without it, the backend offers exclusive locks alone.
    #[must_use]
    pub const fn with_modes(mut self, modes: Modes) -> Self {
        self.modes = modes;
        self
    }
}

/// The requirements of a configuration for the backend (clause C3). None by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Requirements {
    /// The minimum durability.
    pub durability: Option<Durability>,
    /// Whether the store must wake waiters by messages instead of polling.
    #[serde(default)]
    pub push: bool,
    /// Whether the store must announce evictions by messages.
    #[serde(default)]
    pub push_evidence: bool,
    /// Whether the backend must offer shared locks.
    #[serde(default)]
    pub shared: bool,
    /// Whether the backend must offer permits.
    #[serde(default)]
    pub permits: bool,
}

impl Requirements {
    /// The names of the fields that a configuration can set.
    pub const KEYS: &'static [&'static str] =
        &["durability", "push", "push_evidence", "shared", "permits"];

    /// Requires at least this durability.
    #[must_use]
    pub const fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// Checks the requirements against a backend's capabilities.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the requirement and what the backend offers.
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
        for (required, offered, mode) in [
            (self.shared, offered.modes.shared, "shared locks"),
            (self.permits, offered.modes.permits, "permits"),
        ] {
            if required && !offered {
                lacking.push(format!(
                    "offering {mode} is required, this backend does not offer them"
                ));
            }
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
    fn c2_ttl_is_not_rounded_silently() {
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
    fn c3_error_names_requirement_and_offer() {
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
