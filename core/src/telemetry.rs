//! The names of all spans, fields and metrics.
//!
//! | metric | kind | labels |
//! |---|---|---|
//! | `tenure_acquire_duration_seconds` | histogram | `backend`, `outcome`: `acquired`, `busy`, `error` |
//! | `tenure_acquired_total` | counter | `backend` |
//! | `tenure_released_total` | counter | `backend`, `outcome`: `released`, `not_held`, `unknown` |
//! | `tenure_lost_total` | counter | `backend`, `reason` |
//! | `tenure_renewed_entries_total` | counter | `backend` |
//! | `tenure_renew_batches_total` | counter | `backend` |
//! | `tenure_renew_failures_total` | counter | `backend`, `kind` |
//! | `tenure_orphaned_total` | counter | `backend` |
//!
//! The metrics are recorded with the feature `metrics`. A lock's name is never a label, because
//! users choose the names and there can be many. Spans are `tenure.acquire` and `tenure.release`,
//! with the fields `lock.name`, `lock.backend`, `lock.attempt`, `lock.token` and `outcome`, whose
//! values are those of the metrics. An acquire without a grant has no attempt and no token.

use std::time::Duration;

use crate::{error::Error, loss::LossReason, name::LockName};

/// Time from the call of an acquire to its completion.
pub const ACQUIRE_DURATION_SECONDS: &str = "tenure_acquire_duration_seconds";
/// Grants handed to callers.
pub const ACQUIRED_TOTAL: &str = "tenure_acquired_total";
/// Completed calls of `release`.
pub const RELEASED_TOTAL: &str = "tenure_released_total";
/// Grants that were lost.
pub const LOST_TOTAL: &str = "tenure_lost_total";
/// Grants and waiters handed to the backend for renewal.
pub const RENEWED_ENTRIES_TOTAL: &str = "tenure_renewed_entries_total";
/// Batches in which they were handed over.
pub const RENEW_BATCHES_TOTAL: &str = "tenure_renew_batches_total";
/// Renewals and reports that failed.
pub const RENEW_FAILURES_TOTAL: &str = "tenure_renew_failures_total";
/// Attempts that could not be removed and remain until their TTL expires.
pub const ORPHANED_TOTAL: &str = "tenure_orphaned_total";

/// Name of the span around an acquire.
pub const SPAN_ACQUIRE: &str = "tenure.acquire";
/// Name of the span around a release.
pub const SPAN_RELEASE: &str = "tenure.release";

#[cfg(feature = "metrics")]
macro_rules! count {
    ($name:expr, $amount:expr $(, $label:literal => $value:expr)*) => {
        metrics::counter!($name $(, $label => $value)*).increment($amount)
    };
}

#[cfg(not(feature = "metrics"))]
macro_rules! count {
    ($name:expr, $amount:expr $(, $label:literal => $value:expr)*) => {{
        let _ = ($name, $amount $(, $value)*);
    }};
}

pub(crate) fn acquired(backend: &'static str, took: Duration, outcome: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::histogram!(ACQUIRE_DURATION_SECONDS, "backend" => backend, "outcome" => outcome)
        .record(took);
    #[cfg(not(feature = "metrics"))]
    let _ = took;
    if outcome == "acquired" {
        count!(ACQUIRED_TOTAL, 1, "backend" => backend);
    }
}

pub(crate) fn released(backend: &'static str, outcome: &'static str) {
    count!(RELEASED_TOTAL, 1, "backend" => backend, "outcome" => outcome);
}

pub(crate) fn lost(backend: &'static str, name: &LockName, reason: LossReason) {
    count!(LOST_TOTAL, 1, "backend" => backend, "reason" => reason.as_str());
    tracing::warn!(
        lock.name = %name.as_str().escape_debug(),
        lock.backend = backend,
        reason = reason.as_str(),
        "the lock is lost: {reason}",
    );
}

pub(crate) fn renewing(backend: &'static str, entries: usize) {
    let entries = u64::try_from(entries).unwrap_or(u64::MAX);
    count!(RENEWED_ENTRIES_TOTAL, entries, "backend" => backend);
    count!(RENEW_BATCHES_TOTAL, 1, "backend" => backend);
    tracing::trace!(lock.backend = backend, entries, "renewing");
}

pub(crate) fn renewal_failed(backend: &'static str, name: &LockName, error: &Error) {
    count!(RENEW_FAILURES_TOTAL, 1, "backend" => backend, "kind" => error.kind().as_str());
    tracing::debug!(
        lock.name = %name.as_str().escape_debug(),
        lock.backend = backend,
        %error,
        "a renewal failed; it is repeated until the deadline",
    );
}

pub(crate) fn orphaned(backend: &'static str) {
    count!(ORPHANED_TOTAL, 1, "backend" => backend);
}
