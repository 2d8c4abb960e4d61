//! The fencing token: the number by which a resource distinguishes a late writer from the current
//! holder.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The fencing token of one grant (clauses T1 to T3).
///
/// It is greater than the token of every earlier grant of the same name. Tokens are comparable only
/// among grants of one name on one store, and successive tokens need not be contiguous. Pass the
/// token to the resource with each write, and let the resource reject a token lower than the
/// highest one seen: [`crate::fence::TokenGate`] does that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FencingToken(u64);

impl FencingToken {
    /// The highest token. It fits into a signed 64-bit number, so that every store and language can
    /// represent it.
    pub const MAX: Self = Self((1 << 62) - 1);

    /// Creates a token with this value.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the number as a signed one, for databases whose numbers are signed. A number that no
    /// store gives, above [`MAX`](Self::MAX), becomes the highest signed number.
    #[must_use]
    pub const fn get_i64(self) -> i64 {
        if self.0 > i64::MAX as u64 {
            return i64::MAX;
        }
        self.0.cast_signed()
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
