//! The fencing token: the number by which a resource tells a late writer from the present holder.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The fencing token of one grant (clauses T1 to T3).
///
/// It is greater than the token of every earlier grant of the same name. It is comparable only
/// among grants of one name on one store, and successive tokens need not be contiguous. Hand it
/// to the resource with each write, and let the resource refuse a lower one than it has seen:
/// [`crate::fence::TokenGate`] does that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FencingToken(u64);

impl FencingToken {
    /// The highest token. Below the range of a signed 64-bit number, so that every store and
    /// language can hold it.
    pub const MAX: Self = Self((1 << 62) - 1);

    /// A token of that value.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
