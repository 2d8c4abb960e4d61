//! The resource's side of fencing: refuse whoever comes with a lower token than was seen.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use crate::token::FencingToken;

/// A gate before a resource: it lets through tokens that are at least as high as the highest one
/// that it has seen.
///
/// This is what makes a lock safe against a holder that was paused past its deadline and goes on
/// writing. A resource that outlives its process must keep the highest token beside its data,
/// and write both in one step; start the gate from there with [`TokenGate::starting_at`].
///
/// Where a holder reads first, and writes what follows from that, the reading must pass the gate too:
/// otherwise a holder that was overtaken can still write between its successor's look and write.
#[derive(Debug)]
pub struct TokenGate {
    highest: Mutex<FencingToken>,
}

/// The token was lower than one that the resource has seen: its holder is no longer the holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StaleToken {
    /// The token that was refused.
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
    /// A gate that has seen no token.
    #[must_use]
    pub const fn new() -> Self {
        Self::starting_at(FencingToken::new(0))
    }

    /// A gate that has seen `highest`, as read from beside the data.
    #[must_use]
    pub const fn starting_at(highest: FencingToken) -> Self {
        Self {
            highest: Mutex::new(highest),
        }
    }

    /// Runs `write` if the token is not stale. Writes pass one at a time, so that none slips
    /// between another's check and its effect. The token counts as seen before `write` runs.
    ///
    /// # Errors
    ///
    /// [`StaleToken`]; then `write` did not run.
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
    fn a_late_writer_is_refused() {
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
