//! Why a lease ended other than by release (clause L3).

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a grant is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LossReason {
    /// The client was shut down.
    Closed,
    /// Somebody else holds the lock, although our grant should still run.
    Displaced,
    /// An operator, or whoever may write to the store, removed the grant.
    Evicted,
    /// The deadline came without a proof, or the store let the grant lapse.
    Expired,
    /// The session or pooled lease under the grant is gone.
    SessionLost,
}

impl LossReason {
    /// The reason as one word, the same in messages, metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Displaced => "displaced",
            Self::Evicted => "evicted",
            Self::Expired => "expired",
            Self::SessionLost => "session_lost",
        }
    }
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the client was closed",
            Self::Displaced => "somebody else holds the lock",
            Self::Evicted => {
                "the grant was evicted, or the store has lost it (deleted, or restarted without it)"
            }
            Self::Expired => "the lease expired without a renewal",
            Self::SessionLost => "the session with the store is gone",
        })
    }
}
