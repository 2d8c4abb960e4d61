//! The environment of a run in a report: the backend's capabilities and the machine.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tenure_core::capability::{Capabilities, Evidence, TtlScope, WaitMode};

/// The capabilities that a backend declares, as text and in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeclaredCapabilities {
    /// The failures that an acknowledged grant survives.
    pub durability: String,
    /// How waiters are woken.
    pub wait: String,
    /// How losses become known.
    pub loss: Evidences,
    /// The supported TTLs.
    pub ttl: Ttls,
    /// The time until the lock of a silent holder is granted again: a percentage of the holder's TTL, a
    /// percentage of the waiter's TTL, and a constant in milliseconds.
    pub takeover: (u32, u32, u64),
    /// How long the store keeps the fencing state of a free lock, in milliseconds; null is forever.
    pub residue_ms: Option<u64>,
}

/// How losses become known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Evidences {
    /// When the grant was evicted.
    pub evicted: String,
    /// When the lock's state was deleted.
    pub deleted: String,
}

/// The supported TTLs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Ttls {
    /// The shortest, in milliseconds.
    pub min_ms: u64,
    /// The longest, in milliseconds.
    pub max_ms: u64,
    /// The granularity, in milliseconds.
    pub granularity_ms: u64,
    /// Whether each lock has its own.
    pub scope: String,
}

pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn evidence(evidence: Evidence) -> String {
    match evidence {
        Evidence::Push => "by message",
        _ => "with the next renewal",
    }
    .to_owned()
}

impl DeclaredCapabilities {
    /// Describes the given capabilities.
    #[must_use]
    pub fn of(capabilities: &Capabilities) -> Self {
        let Capabilities { ttl, takeover, .. } = capabilities;
        Self {
            durability: capabilities.durability.to_string(),
            wait: match capabilities.wait {
                WaitMode::Poll { every } => {
                    format!("polling every {}", format_millis(millis(every)))
                }
                _ => "by message".to_owned(),
            },
            loss: Evidences {
                evicted: evidence(capabilities.loss.evicted),
                deleted: evidence(capabilities.loss.deleted),
            },
            ttl: Ttls {
                min_ms: millis(ttl.min),
                max_ms: millis(ttl.max),
                granularity_ms: millis(ttl.granularity),
                scope: match ttl.scope {
                    TtlScope::Lock => "each lock its own",
                    _ => "shared by the locks of a client",
                }
                .to_owned(),
            },
            takeover: (
                takeover.holder_percent,
                takeover.waiter_percent,
                millis(takeover.constant),
            ),
            residue_ms: capabilities.residue.map(millis),
        }
    }

    /// Returns the capabilities as pairs of a label and a value.
    #[must_use]
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let (holder, waiter, constant) = self.takeover;
        vec![
            ("durability", self.durability.clone()),
            ("waiters are woken", self.wait.clone()),
            ("a holder learns of its eviction", self.loss.evicted.clone()),
            ("a holder learns of a deletion", self.loss.deleted.clone()),
            (
                "TTL",
                format!(
                    "{} to {}, {}",
                    format_millis(self.ttl.min_ms),
                    format_millis(self.ttl.max_ms),
                    self.ttl.scope
                ),
            ),
            (
                "takeover from a silent holder",
                format!(
                    "within {holder} % of its TTL + {waiter} % of the waiter's + {}",
                    format_millis(constant)
                ),
            ),
            (
                "fencing state of a free lock is kept",
                self.residue_ms.map_or_else(
                    || "forever".to_owned(),
                    |kept| {
                        if kept == 0 {
                            "not at all".to_owned()
                        } else {
                            format!("for {}", format_millis(kept))
                        }
                    },
                ),
            ),
        ]
    }
}

/// Formats a duration in a suitable unit.
pub(crate) fn format_millis(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..120_000 if millis.is_multiple_of(1_000) => format!("{} s", millis / 1_000),
        1_000..120_000 => format!("{}.{} s", millis / 1_000, millis % 1_000 / 100),
        120_000..7_200_000 => format!("{} min", millis / 60_000),
        7_200_000..172_800_000 => format!("{} h", millis / 3_600_000),
        _ => format!("{} days", millis / 86_400_000),
    }
}

/// The machine of a run. It contains nothing that identifies the owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Machine {
    /// Its operating system.
    pub os: String,
    /// Its architecture.
    pub arch: String,
    /// The number of threads that run in parallel.
    pub cpus: usize,
}

impl Machine {
    /// Describes this machine.
    #[must_use]
    pub fn this() -> Self {
        Self {
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        }
    }
}
