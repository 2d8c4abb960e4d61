//! The resource's side of fencing: rejecting a token that is lower than the highest one seen.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use crate::token::FencingToken;

/// Guards a resource: it admits a token that is at least as high as the highest one seen.
///
/// This makes a lock safe against a holder that was paused past its deadline and then continues to
/// write. A resource that outlives its process must store the highest token beside its data, and
/// write both in one step. Create the gate from the stored token with [`TokenGate::starting_at`].
///
/// For read-modify-write, present the token with the read as well. Otherwise a holder that has lost
/// the lock can still write between the read and the write of its successor.
#[derive(Debug)]
pub struct TokenGate {
    highest: Mutex<FencingToken>,
}

/// The token is lower than the highest one that the resource has seen: the lock has a newer holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StaleToken {
    /// The rejected token.
    pub presented: FencingToken,
    /// The highest token seen.
    pub highest: FencingToken,
}

impl fmt::Display for StaleToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "fencing token {} is stale: the resource has seen {}",
            self.presented, self.highest
        )
    }
}

impl std::error::Error for StaleToken {}

impl TokenGate {
    /// Creates a gate that has seen no token.
    #[must_use]
    pub const fn new() -> Self {
        Self::starting_at(FencingToken::new(0))
    }

    /// Creates a gate that has seen `highest`, the token stored beside the data.
    #[must_use]
    pub const fn starting_at(highest: FencingToken) -> Self {
        Self {
            highest: Mutex::new(highest),
        }
    }

    /// Runs `write` if the token is not stale. Writes run one at a time, so that no write runs
    /// between the check and the effect of another one. The token counts as seen before `write`
    /// runs.
    ///
    /// # Errors
    ///
    /// [`StaleToken`] if the token is stale; `write` did not run.
    pub fn pass<T>(&self, token: FencingToken, write: impl FnOnce() -> T) -> Result<T, StaleToken> {
        let mut highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        if token < *highest {
            return Err(StaleToken {
                presented: token,
                highest: *highest,
            });
        }
        *highest = token;
        Ok(write())
    }

    /// The highest token seen.
    #[must_use]
    pub fn highest(&self) -> FencingToken {
        *self.highest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for TokenGate {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_writer_is_rejected() {
        let gate = TokenGate::new();
        let mut value = 0;
        let token = FencingToken::new;
        assert_eq!(gate.pass(token(5), || value = 1), Ok(()));
        assert_eq!(gate.pass(token(5), || value = 2), Ok(()));
        assert_eq!(gate.pass(token(9), || value = 3), Ok(()));
        let refused = gate.pass(token(5), || value = 4).unwrap_err();
        assert_eq!((refused.presented, refused.highest), (token(5), token(9)));
        assert_eq!(value, 3);
    }
}
