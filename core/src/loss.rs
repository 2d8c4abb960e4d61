//! Reasons for which a lease ends other than by release (clause L3).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The reason for which a grant is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LossReason {
    /// The client was shut down.
    Closed,
    /// Another client holds the lock, although this grant should still be valid.
    Displaced,
    /// An operator, or another program with write access to the store, removed the grant.
    Evicted,
    /// The deadline passed without a proof, or the grant expired in the store.
    Expired,
    /// The session or pooled lease of the grant is gone.
    SessionLost,
}

impl LossReason {
    /// Returns the reason as one word, identical in messages, metrics and JSON.
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
            Self::Displaced => "another client holds the lock",
            Self::Evicted => {
                "the grant was evicted, or the store has lost it (deleted, or restarted without it)"
            }
            Self::Expired => "the lease expired without a renewal",
            Self::SessionLost => "the session with the store is gone",
        })
    }
}
