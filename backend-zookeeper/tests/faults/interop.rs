//! Programs in other languages on the same lock.
