//! The resource's side of fencing: rejecting the tokens of grants that have ended.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use crate::token::FencingToken;

/// Guards a resource: it keeps the highest floor that it has seen, and refuses lower tokens (clause M3).
///
/// The floor of a grant is the lowest token among the grants that are alive with it. For an exclusive
/// grant it is the token itself, so each new holder shuts out all earlier ones. Shared holders have a
/// common floor and do not shut out each other.
///
/// This makes a lock safe against a holder that was paused past its deadline and then continues to
/// write. A resource that outlives its process must store the highest floor beside its data, and
/// write both in one step. Create the gate from the stored floor with [`TokenGate::starting_at`].
///
/// For read-modify-write, present the token with the read as well. Otherwise a holder that has lost
/// the lock can still write between the read and the write of its successor.
#[derive(Debug)]
pub struct TokenGate {
    floor: Mutex<FencingToken>,
}

/// The token is lower than the highest floor that the resource has seen: its grant has ended, and the
/// lock has a newer holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StaleToken {
    /// The rejected token.
    pub presented: FencingToken,
    /// The highest floor seen.
    pub floor: FencingToken,
}

impl fmt::Display for StaleToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "fencing token {} is stale: the resource has seen {}",
            self.presented, self.floor
        )
    }
}

impl std::error::Error for StaleToken {}

impl TokenGate {
    /// Creates a gate that has seen no grant.
    #[must_use]
    pub const fn new() -> Self {
        Self::starting_at(FencingToken::new(0))
    }

    /// Creates a gate that has seen `floor`, which was stored beside the data.
    #[must_use]
    pub const fn starting_at(floor: FencingToken) -> Self {
        Self {
            floor: Mutex::new(floor),
        }
    }

    /// Runs `write` if the token is not stale. Both numbers are those of the guard, as
    /// [`Guard::token`](crate::Guard::token) and [`Guard::floor`](crate::Guard::floor) return them. Writes
    /// run one at a time, so that no write runs between the check and the effect of another one. The
    /// floor counts as seen before `write` runs.
    ///
    /// # Errors
    ///
    /// [`StaleToken`] if the token is stale; `write` did not run.
    pub fn pass<T>(
        &self,
        token: FencingToken,
        floor: FencingToken,
        write: impl FnOnce() -> T,
    ) -> Result<T, StaleToken> {
        let mut highest = self.floor.lock().unwrap_or_else(PoisonError::into_inner);
        if token < *highest {
            return Err(StaleToken {
                presented: token,
                floor: *highest,
            });
        }
        // A floor above the token is an error of the caller, and must not shut out the caller itself.
        *highest = floor.min(token).max(*highest);
        Ok(write())
    }

    /// Returns the highest floor seen.
    #[must_use]
    pub fn floor(&self) -> FencingToken {
        *self.floor.lock().unwrap_or_else(PoisonError::into_inner)
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
        assert_eq!(gate.pass(token(5), token(5), || value = 1), Ok(()));
        assert_eq!(gate.pass(token(5), token(5), || value = 2), Ok(()));
        assert_eq!(gate.pass(token(9), token(9), || value = 3), Ok(()));
        let refused = gate.pass(token(5), token(5), || value = 4).unwrap_err();
        assert_eq!((refused.presented, refused.floor), (token(5), token(9)));
        assert_eq!(value, 3);
    }

    #[test]
    fn m3_shared_holders_do_not_shut_out_each_other() {
        let gate = TokenGate::new();
        let token = FencingToken::new;
        for (grant, floor, admitted) in [
            (6, 5, true),
            (5, 5, true),
            // The first one has ended, and the next grant says so.
            (7, 6, true),
            (5, 5, false),
            // The floor that was seen does not fall.
            (6, 5, true),
            (5, 5, false),
        ] {
            let passed = gate.pass(token(grant), token(floor), || {});
            assert_eq!(passed.is_ok(), admitted, "{grant}, {floor}");
        }
        assert_eq!(gate.floor(), token(6));
    }
}
