//! The owner of an attempt, as other clients see it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The owner that is shown to other clients for a holder or waiter. Untrusted text is truncated,
/// and escaped when it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Owner {
    /// The user's label; may be empty.
    pub label: String,
    /// The host's name.
    pub host: String,
    /// The process id on that host. For display only; no decision depends on it.
    pub pid: u32,
}

impl Owner {
    /// Maximum number of bytes of a label or host name.
    pub const MAX_BYTES: usize = 256;

    /// Creates an owner. Truncates texts longer than [`Owner::MAX_BYTES`].
    #[must_use]
    pub fn new(label: impl Into<String>, host: impl Into<String>, pid: u32) -> Self {
        Self {
            label: cut(label.into()),
            host: cut(host.into()),
            pid,
        }
    }
}

/// Labels and hosts are texts of other clients, so they are shown with escapes.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} (pid {} on {:?})", self.label, self.pid, self.host)
    }
}

fn cut(mut text: String) -> String {
    let mut end = text.len().min(Owner::MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
